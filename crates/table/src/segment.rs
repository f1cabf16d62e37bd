//! One segment: linear probing by bucket, and the number of buckets for a number of items.

use crate::{
    Item,
    directory::home,
    slot::{Bucket, SLOTS, Slot},
};

/// The most buckets that a segment can have. Only identical hashes, which no split can separate, make it larger than
/// [`Sizing::split_at`].
pub(crate) const BUCKETS_MAX: usize = u16::MAX as usize;

/// How full a segment gets before it grows, in 256ths of its slots.
#[derive(Clone, Copy)]
pub(crate) enum Fullness {
    /// 7/8: lookups of absent keys still read few buckets, see `docs/decisions/0001-table.md`.
    Usual = 224,
    /// 15/16: one slot fewer per sixteen items, and lookups of absent keys read about one bucket more.
    Dense = 240,
}
const _: () = assert!(
    SLOTS * (Fullness::Dense as usize) / 256 < SLOTS,
    "walks end at an empty slot, so every segment needs one"
);

/// At this many buckets a segment splits instead of growing: sizes of [`step_after`], within one doubling.
const SPLITS: [u8; 4] = [55, 64, 79, 95];
/// The same for a standalone table: there, a longer split delays one collection instead of a shard.
const SPLIT_STANDALONE: u8 = 127;

/// When segments grow, split, shrink and merge.
///
/// Sibling tables fill at the same rate and would all split at the same time, so they split at different sizes. Growth
/// in place needs no staggering: the segments of a table differ enough in their item counts.
#[derive(Clone, Copy)]
pub(crate) struct Sizing {
    split_at: u8,
    fullness: Fullness,
}

impl Sizing {
    /// For one of several tables that fill at the same rate.
    pub(crate) const fn of_sibling(stagger: u32) -> Self {
        Self {
            split_at: SPLITS[stagger as usize % SPLITS.len()],
            fullness: Fullness::Usual,
        }
    }

    /// For a standalone table.
    pub(crate) const fn standalone() -> Self {
        Self {
            split_at: SPLIT_STANDALONE,
            fullness: Fullness::Dense,
        }
    }

    /// The most buckets of a segment unless hashes collide.
    pub(crate) fn split_at(self) -> usize {
        usize::from(self.split_at)
    }

    /// The most items in a segment of `bucket_count` buckets.
    #[inline]
    pub(crate) fn items_max(self, bucket_count: usize) -> usize {
        bucket_count * SLOTS * (self.fullness as usize) / 256
    }

    /// The smallest size that holds `count` items and has room for another.
    pub(crate) fn buckets_for(self, count: usize) -> usize {
        let mut bucket_count = 1;
        while self.items_max(bucket_count) <= count {
            bucket_count = step_after(bucket_count);
        }
        bucket_count
    }

    /// The size to grow to in place, or `None` if the segment should split instead.
    pub(crate) fn grown(self, bucket_count: usize) -> Option<usize> {
        (bucket_count < usize::from(self.split_at)).then(|| step_after(bucket_count))
    }

    /// Whether a segment has become so empty that it should merge or shrink.
    #[inline]
    pub(crate) fn is_sparse(self, bucket_count: usize, count: usize) -> bool {
        count * 4 < bucket_count * SLOTS
    }

    /// The new size of a sparse segment: room for half as many items again, so that it neither grows nor shrinks
    /// again soon.
    pub(crate) fn shrunk(self, count: usize) -> usize {
        self.buckets_for(count + count / 2)
    }

    /// The most items that two buddies may have together to be merged: far fewer than at a split.
    pub(crate) fn merge_max(self) -> usize {
        usize::from(self.split_at) * SLOTS / 4
    }
}

/// The allocator by itself aligns a block to a cache line if its bucket count is a power of two up to this.
const ALIGNED_BLOCK_BUCKETS_MAX: usize = 64;

/// The allocator's size class for a block of `bucket_count` buckets, in buckets: one more than requested if the block
/// must be aligned.
pub(crate) fn size_class(bucket_count: usize) -> usize {
    if bucket_count == 0
        || bucket_count.is_power_of_two() && bucket_count <= ALIGNED_BLOCK_BUCKETS_MAX
    {
        bucket_count
    } else {
        bucket_count + 1
    }
}

/// The next size of a segment: four sizes per doubling, like the allocator's size classes, less the bucket that
/// alignment costs.
pub(crate) fn step_after(bucket_count: usize) -> usize {
    let mut class = size_class(bucket_count);
    loop {
        class += ((1 << class.max(1).ilog2()) / 4).max(1);
        let fitting = if size_class(class) == class {
            class
        } else {
            class - 1
        };
        if fitting > bucket_count {
            return fitting;
        }
    }
}

/// Allocates `bucket_count` empty buckets.
pub(crate) fn allocate<T: Item>(bucket_count: usize) -> Box<[Bucket<T>]> {
    assert!(
        bucket_count <= BUCKETS_MAX,
        "hundreds of thousands of items have the same hash"
    );
    (0..bucket_count).map(|_| Bucket::EMPTY).collect()
}

/// The first bucket with room at or after `from`, wrapping around. Sets the overflow bits of the buckets before it.
fn first_with_room<T: Item>(buckets: &mut [Bucket<T>], from: usize) -> usize {
    let mut index = from;
    while buckets[index].is_full() {
        buckets[index].note_overflow();
        index = after(index, buckets.len());
    }
    index
}

/// The next bucket, wrapping around.
#[inline]
pub(crate) fn after(index: usize, bucket_count: usize) -> usize {
    if index + 1 == bucket_count {
        0
    } else {
        index + 1
    }
}

/// The number of steps of [`after`] from one bucket to another.
fn distance(from: usize, to: usize, bucket_count: usize) -> usize {
    if to >= from {
        to - from
    } else {
        to + bucket_count - from
    }
}

/// Places an item by its tag; returns the bucket and the index in it. The segment must have an empty slot.
pub(crate) fn place<T: Item>(buckets: &mut [Bucket<T>], slot: Slot<T>) -> (usize, usize) {
    let bucket = first_with_room(buckets, home(slot.tag(), buckets.len()));
    (bucket, buckets[bucket].push(slot))
}

/// Moves all items of `from` into `to`, and maps their tags with `tag`.
pub(crate) fn place_all<T: Item>(
    from: &mut [Bucket<T>],
    to: &mut [Bucket<T>],
    tag: impl Fn(u16) -> u16,
) {
    for slot in from
        .iter_mut()
        .flat_map(Bucket::slots_mut)
        .filter(|slot| !slot.is_empty())
    {
        let slot = slot.take();
        let tag = tag(slot.tag());
        place(to, slot.with_tag(tag));
    }
}

/// Removes an item and moves others back, so that none is left beyond a bucket with room.
pub(crate) fn remove<T: Item>(buckets: &mut [Bucket<T>], bucket: usize, index: usize) -> Slot<T> {
    let mut fills_gap = buckets[bucket].has_overflowed();
    let removed = buckets[bucket].remove(index);
    let mut hole = bucket;
    while fills_gap && let Some((from, index)) = find_displaced_over(buckets, hole) {
        fills_gap = buckets[from].has_overflowed();
        let moved = buckets[from].remove(index);
        buckets[hole].push(moved);
        // Other items may still have passed over this bucket.
        buckets[hole].note_overflow();
        hole = from;
    }
    removed
}

/// Finds an item that is beyond bucket `hole` and would be in or before `hole` if that had had room.
fn find_displaced_over<T: Item>(buckets: &[Bucket<T>], hole: usize) -> Option<(usize, usize)> {
    let bucket_count = buckets.len();
    let mut bucket = after(hole, bucket_count);
    while bucket != hole {
        let beyond = distance(hole, bucket, bucket_count);
        let displaced = |slot: &Slot<T>| {
            !slot.is_empty()
                && distance(home(slot.tag(), bucket_count), bucket, bucket_count) >= beyond
        };
        if let Some(index) = buckets[bucket].slots().iter().position(displaced) {
            return Some((bucket, index));
        }
        if !buckets[bucket].has_overflowed() {
            return None;
        }
        bucket = after(bucket, bucket_count);
    }
    None
}
