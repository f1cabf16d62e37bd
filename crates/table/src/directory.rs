//! The directory: maps a hash to its buckets and owns the memory of all buckets.
//!
//! ```text
//! directory of depth 2        segments                         (hash bits are those below the table's prefix)
//! | 00 | ──────────────────►  depth 2, hashes 00...
//! | 01 | ──────────────────►  depth 2, hashes 01...
//! | 10 | ──┐
//! | 11 | ──┴───────────────►  depth 1, hashes 1....
//! ```
//!
//! A segment of depth d has `2^(depth - d)` neighbouring directory entries, its *group*. All of them hold its address,
//! bucket count and depth, so that a lookup reads one entry and then the bucket; only the group's first entry holds
//! the item count.
//!
//! This is the only module that handles raw bucket memory. Its invariant: the entries of a group, and no others, hold
//! the pointer and length of one boxed slice of buckets, which the group owns.

use std::{ptr::NonNull, slice};

use crate::{Item, segment::size_class, slot::Bucket};

/// The greatest depth of a directory: together with the 16 bits of the tag, the 40 bits of a scan position.
pub(crate) const DEPTH_MAX: u32 = 24;

/// A directory entry: where a segment's buckets are, and how many.
pub(crate) struct Segment<T> {
    buckets: NonNull<Bucket<T>>,
    count: u32,
    bucket_count: u16,
    depth: u8,
}

// Written by hand, because derived ones would require `T: Copy`. The type is private to the crate, and only `Directory`
// reads `buckets`.
impl<T> Clone for Segment<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Segment<T> {}

impl<T> Segment<T> {
    const EMPTY: Self = Self {
        buckets: NonNull::dangling(),
        count: 0,
        bucket_count: 0,
        depth: 0,
    };

    pub(crate) fn depth(&self) -> u32 {
        u32::from(self.depth)
    }

    pub(crate) fn bucket_count(&self) -> usize {
        usize::from(self.bucket_count)
    }

    /// The 16 bits of `path` (the hash with its prefix shifted out) that follow the segment's directory bits.
    #[inline]
    pub(crate) fn tag(&self, path: u64) -> u16 {
        (path << self.depth >> 48) as u16
    }

    /// The address of the home bucket of this path; only for prefetching.
    #[inline]
    pub(crate) fn home_address(&self, path: u64) -> *const u8 {
        self.buckets
            .as_ptr()
            .wrapping_add(home(self.tag(path), self.bucket_count()))
            .cast()
    }
}

/// The home bucket of a tag among `bucket_count` buckets; monotone in the tag.
#[inline]
pub(crate) fn home(tag: u16, bucket_count: usize) -> usize {
    (usize::from(tag) * bucket_count) >> 16
}

/// The segments in the order of their hashes.
pub(crate) struct Directory<T> {
    entries: Vec<Segment<T>>,
    depth: u8,
    /// How many segments are as deep as the directory; if none is, the directory can halve.
    deepest: u32,
    /// The size of all blocks that the allocator reserved for the segments, in buckets.
    block_buckets: usize,
}

// SAFETY: the raw pointers are owned boxes of slots, which own items; they are shared or sent exactly as items are.
unsafe impl<T: Send> Send for Directory<T> {}
// SAFETY: as above; `&Directory` gives access only to `&Bucket`.
unsafe impl<T: Sync> Sync for Directory<T> {}

impl<T: Item> Directory<T> {
    pub(crate) const fn new() -> Self {
        Self {
            entries: Vec::new(),
            depth: 0,
            deepest: 0,
            block_buckets: 0,
        }
    }

    /// The number of entries: `2^depth`, or 0 before the first insertion.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The number of hash bits that select the entry.
    pub(crate) fn depth(&self) -> u32 {
        u32::from(self.depth)
    }

    /// Heap bytes of the directory and all buckets.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Segment<T>>()
            + self.block_buckets * size_of::<Bucket<T>>()
    }

    /// The index of the entry for a path (the hash with its prefix shifted out).
    #[inline]
    pub(crate) fn index(&self, path: u64) -> usize {
        // In two steps, since a shift by 64 (for a directory of one entry) would overflow.
        (path >> 1 >> (63 - u32::from(self.depth))) as usize
    }

    /// The entry at an index; `None` only before the first insertion.
    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&Segment<T>> {
        self.entries.get(index)
    }

    /// The first entry of the group of `index`.
    #[inline]
    pub(crate) fn first(&self, index: usize) -> usize {
        index & !(self.group_len(index) - 1)
    }

    /// The number of entries in the group of `index`.
    #[inline]
    pub(crate) fn group_len(&self, index: usize) -> usize {
        1 << (self.depth - self.entries[index].depth)
    }

    /// The first indices of all groups, in order.
    pub(crate) fn groups(&self) -> impl Iterator<Item = usize> + '_ {
        let mut index = 0;
        std::iter::from_fn(move || {
            let group = index;
            (group < self.len()).then(|| index += self.group_len(group))?;
            Some(group)
        })
    }

    /// The number of items in the segment.
    #[inline]
    pub(crate) fn count(&self, index: usize) -> usize {
        self.entries[self.first(index)].count as usize
    }

    #[inline]
    pub(crate) fn count_mut(&mut self, index: usize) -> &mut u32 {
        let first = self.first(index);
        &mut self.entries[first].count
    }

    /// The buckets of a segment.
    #[inline]
    pub(crate) fn buckets<'a>(&'a self, segment: &'a Segment<T>) -> &'a [Bucket<T>] {
        // SAFETY:
        // - `segment` borrows from `self` (segments are copied only inside this module), so by the invariant it holds
        //   pointer and length of a live boxed slice that this directory owns;
        // - changing the slice needs `&mut self`, which the borrow excludes.
        unsafe { slice::from_raw_parts(segment.buckets.as_ptr(), segment.bucket_count()) }
    }

    /// The buckets of the segment at `index`, to change.
    #[inline]
    pub(crate) fn buckets_mut(&mut self, index: usize) -> &mut [Bucket<T>] {
        let segment = self.entries[index];
        // SAFETY: as in `buckets`; `&mut self` is exclusive, and no two groups share a slice.
        unsafe { slice::from_raw_parts_mut(segment.buckets.as_ptr(), segment.bucket_count()) }
    }

    /// Adds the first entry if the directory has none.
    pub(crate) fn ensure_entry(&mut self) {
        if self.entries.is_empty() {
            self.entries = Vec::with_capacity(1);
            self.entries.push(Segment::EMPTY);
            self.deepest = 1;
        }
    }

    /// Turns an empty directory into one of `2^depth` segments without buckets.
    pub(crate) fn deepen(&mut self, depth: u32) {
        self.ensure_entry();
        for level in 0..depth {
            // The first split of a level doubles the directory; each group then has two entries.
            for group in 0..1 << level {
                self.split(2 * group);
            }
        }
    }

    /// Removes the buckets of the segment at `index` and returns them.
    pub(crate) fn take(&mut self, index: usize) -> Box<[Bucket<T>]> {
        self.replace(index, Box::new([]), 0)
    }

    /// Replaces the buckets of the segment at `index` by others that hold `count` items, and returns the old ones.
    pub(crate) fn replace(
        &mut self,
        index: usize,
        buckets: Box<[Bucket<T>]>,
        count: usize,
    ) -> Box<[Bucket<T>]> {
        let first = self.first(index);
        let group = first..first + self.group_len(index);
        let bucket_count =
            u16::try_from(buckets.len()).expect("the table checks BUCKETS_MAX before it allocates");
        let old = self.entries[first];
        self.block_buckets =
            self.block_buckets + size_class(buckets.len()) - size_class(old.bucket_count());
        let pointer = NonNull::from(Box::leak(buckets)).cast();
        for segment in &mut self.entries[group] {
            *segment = Segment {
                buckets: pointer,
                count: count as u32,
                bucket_count,
                depth: old.depth,
            };
        }
        let old = NonNull::slice_from_raw_parts(old.buckets, old.bucket_count());
        // SAFETY: by the invariant this was a leaked box that only the entries of this group held; they hold the
        // new one now.
        unsafe { Box::from_raw(old.as_ptr()) }
    }

    /// Splits the group of a segment without buckets in two, and returns the first indices of both.
    pub(crate) fn split(&mut self, index: usize) -> (usize, usize) {
        assert_eq!(
            self.entries[index].bucket_count, 0,
            "two groups must not share buckets"
        );
        let mut index = index;
        if self.entries[index].depth == self.depth {
            self.double();
            index *= 2;
        }
        let first = self.first(index);
        let group_len = self.group_len(index);
        for segment in &mut self.entries[first..first + group_len] {
            segment.depth += 1;
        }
        if self.entries[first].depth == self.depth {
            self.deepest += 2;
        }
        (first, first + group_len / 2)
    }

    fn double(&mut self) {
        let mut doubled = Vec::with_capacity(self.entries.len() * 2);
        for segment in &self.entries {
            doubled.extend([*segment, *segment]);
        }
        self.entries = doubled;
        self.depth += 1;
        self.deepest = 0;
    }

    /// The first index of the buddy: the segment that differs only in the last directory bit. `None` unless it has the
    /// same depth, so that the two can merge.
    pub(crate) fn buddy(&self, index: usize) -> Option<usize> {
        let depth = self.entries[index].depth;
        if depth == 0 {
            return None;
        }
        let buddy = self.first(index) ^ self.group_len(index);
        (self.entries[buddy].depth == depth).then_some(buddy)
    }

    /// Joins the groups of a segment and its buddy, both without buckets, and returns the first index of the joined
    /// group.
    pub(crate) fn merge(&mut self, index: usize) -> usize {
        let buddy = self.buddy(index).expect("only buddies merge");
        for half in [index, buddy] {
            assert_eq!(
                self.entries[half].bucket_count, 0,
                "two groups must not share buckets"
            );
        }
        if self.entries[index].depth == self.depth {
            self.deepest -= 2;
        }
        let first = self.first(index).min(buddy);
        let group_len = 2 * self.group_len(index);
        let depth = self.entries[index].depth - 1;
        self.entries[first..first + group_len].fill(Segment {
            depth,
            ..Segment::EMPTY
        });
        if self.deepest > 0 {
            first
        } else {
            self.halve(first)
        }
    }

    /// Drops every other entry while no segment is as deep as the directory; returns the new value of `index`.
    fn halve(&mut self, mut index: usize) -> usize {
        while self.depth > 0 && self.deepest == 0 {
            let mut halved = Vec::with_capacity(self.entries.len() / 2);
            halved.extend(self.entries.iter().step_by(2).copied());
            self.entries = halved;
            self.depth -= 1;
            index /= 2;
            self.deepest = self
                .entries
                .iter()
                .filter(|segment| segment.depth == self.depth)
                .count() as u32;
        }
        index
    }

    /// Passes the buckets of all segments to `each`, one segment after another, and leaves the directory empty.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(Box<[Bucket<T>]>)) {
        let mut index = 0;
        while index < self.entries.len() {
            let buckets = self.take(index);
            index += self.group_len(index);
            each(buckets);
        }
        *self = Self::new();
    }
}
