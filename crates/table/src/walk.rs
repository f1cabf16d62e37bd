//! Walks in hash order: scans, sweeps, random picks.
//!
//! ```text
//! position  | directory bits (24) | tag (16) |     the 40 hash bits below the prefix
//! ```
//!
//! Every bucket is home to a range of positions; the ranges of all buckets follow each other without a gap, whatever
//! the depth and size of their segments. So a walk from position to position visits every item that stays in the table.

use crate::{
    Item, Occupied, Table,
    directory::{DEPTH_MAX, Segment, home},
    segment::after,
    slot::{Bucket, SLOTS, Slot},
    table::Place,
};

/// Significant bits of a position in hash order.
pub const POSITION_BITS: u32 = DEPTH_MAX + 16;

/// The end of the range of positions.
const POSITION_END: u64 = 1 << POSITION_BITS;

/// Attempts of [`Table::random`] before it takes the next item it finds.
const RANDOM_TRIES: u32 = 128;

/// [`Table::iter`] prefetches the items of a bucket this many buckets before it visits them.
const PREFETCH_BUCKETS: usize = 2;

/// A home bucket's place in hash order.
struct Range {
    entry: usize,
    bucket: usize,
    /// The lowest tag to visit.
    tag: u16,
    /// Items with the lowest tag may lie before the position.
    is_inside_tag: bool,
    /// Where the next bucket's range begins.
    next: u64,
}

impl Range {
    /// Where a walk continues; 0 at the end.
    fn next_cursor(&self) -> u64 {
        if self.next < POSITION_END {
            self.next
        } else {
            0
        }
    }
}

impl<T: Item> Table<T> {
    /// The position in hash order of an item with this hash, comparable with the cursors of [`scan`](Self::scan): below
    /// `2^POSITION_BITS`.
    pub fn position(&self, hash: u64) -> u64 {
        self.path(hash) >> (64 - POSITION_BITS)
    }

    /// The home bucket of the items at a position; `None` at the end, or if the table has not allocated memory.
    fn range_at(&self, position: u64) -> Option<Range> {
        if position >= POSITION_END {
            return None;
        }
        let path = position << (64 - POSITION_BITS);
        let entry = self.directory.index(path);
        let segment = self.directory.get(entry)?;
        let tag = segment.tag(path);
        let tag_shift = DEPTH_MAX - segment.depth();
        let start = position >> (tag_shift + 16) << (tag_shift + 16);
        let bucket = home(tag, segment.bucket_count());
        let next_tag = match segment.bucket_count() {
            0 => 1 << 16,
            // The lowest tag whose home is the next bucket.
            bucket_count => ((bucket as u64 + 1) << 16).div_ceil(bucket_count as u64),
        };
        Some(Range {
            entry,
            bucket,
            tag,
            is_inside_tag: position & ((1 << tag_shift) - 1) != 0,
            next: start + (next_tag << tag_shift),
        })
    }

    fn segment(&self, entry: usize) -> &Segment<T> {
        self.directory
            .get(entry)
            .expect("the entry comes from the directory")
    }

    /// Visits the items from position `cursor` on that have the same home bucket, and returns the next cursor, or 0 at
    /// the end. Start with 0.
    ///
    /// However the table changes between the calls, an item that is present throughout is visited once, and the walk ends,
    /// since cursors only rise.
    pub fn scan(&self, cursor: u64, mut visit: impl FnMut(T::Ref<'_>)) -> u64 {
        let Some(range) = self.range_at(cursor) else {
            return 0;
        };
        let buckets = self.directory.buckets(self.segment(range.entry));
        // Segments that were merged have coarser tags than those that the cursor comes from.
        let is_before = |slot: &Slot<T>| {
            range.is_inside_tag && slot.hash().is_some_and(|hash| self.position(hash) < cursor)
        };
        let belongs = |slot: &&Slot<T>| {
            !slot.is_empty()
                && slot.tag() >= range.tag
                && home(slot.tag(), buckets.len()) == range.bucket
                && !is_before(slot)
        };
        let mut bucket = range.bucket;
        while let Some(line) = buckets.get(bucket) {
            let slots = || line.slots().iter().filter(belongs);
            slots().for_each(Slot::prefetch);
            slots().filter_map(Slot::reference).for_each(&mut visit);
            if !line.has_overflowed() {
                break;
            }
            bucket = after(bucket, buckets.len());
        }
        range.next_cursor()
    }

    /// Visits all or only the marked items in the bucket at a position in hash order, and returns the position of the
    /// next bucket, or 0 at the end. Displaced items are visited in the bucket that holds them.
    pub fn visit_bucket<'t>(
        &'t self,
        position: u64,
        only_marked: bool,
        visit: impl FnMut(T::Ref<'t>),
    ) -> u64 {
        let Some(range) = self.range_at(position) else {
            return 0;
        };
        let buckets = self.directory.buckets(self.segment(range.entry));
        if let Some(line) = buckets.get(range.bucket) {
            let chosen = || {
                let slots = line.slots().iter();
                slots.filter(|slot| !slot.is_empty() && (!only_marked || slot.is_marked()))
            };
            chosen().for_each(Slot::prefetch);
            chosen().filter_map(Slot::reference).for_each(visit);
        }
        range.next_cursor()
    }

    /// Lets `change` move the items of the bucket at a position in hash order whose address is `wanted`, and returns the position of the next
    /// bucket, or 0 at the end. Items that are not wanted are not read.
    pub fn move_items(
        &mut self,
        position: u64,
        wanted: impl Fn(usize) -> bool,
        mut change: impl FnMut(&mut T),
    ) -> u64 {
        let Some(range) = self.range_at(position) else {
            return 0;
        };
        let line = self
            .directory
            .buckets_mut(range.entry)
            .get_mut(range.bucket);
        for slot in line.into_iter().flat_map(Bucket::slots_mut) {
            if slot.address().is_some_and(&wanted) {
                slot.update(&mut change);
            }
        }
        range.next_cursor()
    }

    /// All items, in no particular order; prefetches items ahead.
    pub fn iter(&self) -> impl Iterator<Item = T::Ref<'_>> {
        self.directory.groups().flat_map(|entry| {
            let buckets = self.directory.buckets(self.segment(entry));
            buckets.iter().enumerate().flat_map(|(index, line)| {
                if let Some(ahead) = buckets.get(index + PREFETCH_BUCKETS) {
                    ahead.slots().iter().for_each(Slot::prefetch);
                }
                line.slots().iter().filter_map(Slot::reference)
            })
        })
    }

    /// Visits all items, in no particular order.
    pub fn for_each(&self, visit: impl FnMut(T::Ref<'_>)) {
        self.iter().for_each(visit);
    }

    /// An item picked by a random number; `None` if the table is empty. Every item has the same chance, except in
    /// tables that are almost empty or whose hashes collide.
    pub fn random(&self, random: u64) -> Option<T::Ref<'_>> {
        self.slot(self.random_place(random)?).reference()
    }

    /// The entry of the item that [`random`](Self::random) returns.
    pub fn random_entry(&mut self, random: u64) -> Option<Occupied<'_, T>> {
        let place = self.random_place(random)?;
        Some(Occupied::new(self, place))
    }

    fn random_place(&self, random: u64) -> Option<Place> {
        if self.is_empty() {
            return None;
        }
        let mut state = random;
        for _ in 0..RANDOM_TRIES {
            // The finaliser of SplitMix64 (Steele, Lea, Flood 2014).
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut bits = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            bits ^= bits >> 31;
            if let Some(place) = self.try_place(bits) {
                return Some(place);
            }
        }
        self.first_from(state >> (64 - POSITION_BITS))
            .or_else(|| self.first_from(0))
    }

    /// The place of an item picked by random bits. `None` if the slot is empty, and sometimes by chance, so that each
    /// slot has the same probability whatever the size and depth of its segment.
    fn try_place(&self, bits: u64) -> Option<Place> {
        let entry = self.directory.index(bits);
        let segment = self.directory.get(entry)?;
        let bucket_count = segment.bucket_count();
        let bits = bits.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (dice, pick) = (bits >> 48, bits & 0xffff_ffff);
        // All entries of the segment's group lead to the same buckets.
        let size_max = self.sizing.split_at() * self.directory.group_len(entry);
        if self.directory.depth() > 0 && dice * size_max as u64 >= (bucket_count as u64) << 16 {
            return None;
        }
        let index = ((pick * (bucket_count * SLOTS) as u64) >> 32) as usize;
        let place = Place {
            entry,
            bucket: index / SLOTS,
            slot: index % SLOTS,
        };
        (bucket_count > 0 && !self.slot(place).is_empty()).then_some(place)
    }

    /// The first item in the first non-empty bucket at or after a position.
    fn first_from(&self, mut position: u64) -> Option<Place> {
        while let Some(range) = self.range_at(position) {
            let buckets = self.directory.buckets(self.segment(range.entry));
            if buckets
                .get(range.bucket)
                .is_some_and(|line| !line.slots()[0].is_empty())
            {
                return Some(Place {
                    entry: range.entry,
                    bucket: range.bucket,
                    slot: 0,
                });
            }
            position = range.next;
        }
        None
    }

    /// Checks the marked items in the next `buckets` buckets from `position` on, and removes those that are `dead`.
    ///
    /// Advances `position`; after the last bucket, it becomes 0 and the call ends. Passes each removed item to
    /// `removed` and returns how many there were.
    pub fn sweep(
        &mut self,
        position: &mut u64,
        buckets: usize,
        mut dead: impl FnMut(T::Ref<'_>) -> bool,
        mut removed: impl FnMut(T),
    ) -> usize {
        let mut count = 0;
        for _ in 0..buckets {
            let Some(range) = self.range_at(*position) else {
                *position = 0;
                break;
            };
            count += self.sweep_bucket(range.entry, range.bucket, &mut dead, &mut removed);
            self.tighten(range.entry);
            *position = range.next_cursor();
            if *position == 0 {
                break;
            }
        }
        count
    }

    /// Like [`sweep`](Self::sweep), for all buckets of the segment of this hash. Call it before the segment grows.
    pub fn sweep_segment_of(
        &mut self,
        hash: u64,
        mut dead: impl FnMut(T::Ref<'_>) -> bool,
        mut removed: impl FnMut(T),
    ) -> usize {
        let entry = self.directory.index(self.path(hash));
        let Some(segment) = self.directory.get(entry) else {
            return 0;
        };
        let bucket_count = segment.bucket_count();
        let count = (0..bucket_count)
            .map(|bucket| self.sweep_bucket(entry, bucket, &mut dead, &mut removed))
            .sum();
        self.tighten(entry);
        count
    }

    fn sweep_bucket(
        &mut self,
        entry: usize,
        bucket: usize,
        dead: &mut impl FnMut(T::Ref<'_>) -> bool,
        removed: &mut impl FnMut(T),
    ) -> usize {
        let Some(line) = self.directory.buckets(self.segment(entry)).get(bucket) else {
            return 0;
        };
        line.slots()
            .iter()
            .filter(|slot| slot.is_marked())
            .for_each(Slot::prefetch);
        let mut count = 0;
        let mut index = 0;
        while index < SLOTS {
            let place = Place {
                entry,
                bucket,
                slot: index,
            };
            let slot = self.slot(place);
            if slot.is_marked() && slot.reference().is_some_and(&mut *dead) {
                // Another item may have moved into this slot: check it again.
                removed(self.remove_at(place));
                count += 1;
            } else {
                index += 1;
            }
        }
        count
    }
}
