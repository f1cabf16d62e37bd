//! The table: look up, grow, shrink.

use std::ptr;

use crate::{
    Item,
    directory::{DEPTH_MAX, Directory, Segment, home},
    prefetch::prefetch,
    segment::{self, Sizing, after},
    slot::{Bucket, SLOTS, Slot},
};

/// The fewest items per directory entry after a split has doubled the directory. Without this limit, identical hashes
/// would double it again and again.
const ITEMS_PER_ENTRY_MIN: usize = 64;

/// A split prefetches the items of a bucket this many buckets before it reads them.
const SPLIT_PREFETCH_BUCKETS: usize = 2;

/// A hash table of items, see the crate's description.
///
/// The hashes that callers pass must equal [`Item::hash`]. Their `prefix_bits` highest bits are ignored: they selected
/// this table among its siblings.
pub struct Table<T: Item> {
    pub(crate) directory: Directory<T>,
    len: usize,
    marked: usize,
    prefix_bits: u8,
    pub(crate) sizing: Sizing,
}

/// Where an item is. Valid until the table changes.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// Index in the directory.
    pub(crate) entry: usize,
    /// Index in the segment.
    pub(crate) bucket: usize,
    /// Index in the bucket.
    pub(crate) slot: usize,
}

/// How full a table is, see [`Table::fill`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Entries of the directory.
    pub directory: usize,
    /// Segments, including those without buckets.
    pub segments: usize,
    /// Buckets of 64 bytes.
    pub buckets: usize,
    /// Slots of 8 bytes.
    pub slots: usize,
    /// Items.
    pub items: usize,
    /// Items that are not in their home bucket.
    pub displaced: usize,
    /// Buckets that lookups of absent keys read: the sum over one such lookup per bucket.
    pub miss_buckets: usize,
}

impl<T: Item> Table<T> {
    /// An empty table; allocates nothing.
    ///
    /// The highest `prefix_bits` (at most 24) of each hash are ignored. Tables with different `stagger` split at
    /// different times: number the siblings from 0.
    pub const fn new(prefix_bits: u32, stagger: u32) -> Self {
        Self::with_sizing(prefix_bits, Sizing::of_sibling(stagger))
    }

    /// An empty standalone table that saves memory at the cost of slower lookups of absent keys; allocates nothing.
    pub const fn dense() -> Self {
        Self::with_sizing(0, Sizing::standalone())
    }

    /// Like [`dense`](Self::dense), with room for about `len` items, so that inserting them rarely grows the table.
    pub fn dense_for(len: usize) -> Self {
        let mut table = Self::dense();
        table.make_room(len);
        table
    }

    /// Makes room for about `len` items if the table is new, so that inserting them rarely grows it.
    pub fn make_room(&mut self, len: usize) {
        if len == 0 || self.directory.len() > 0 {
            return;
        }
        let mut depth = 0;
        while depth < DEPTH_MAX && self.sizing.buckets_for(len >> depth) > self.sizing.split_at() {
            depth += 1;
        }
        let bucket_count = self.sizing.buckets_for(len >> depth);
        self.directory.deepen(depth);
        for entry in 0..self.directory.len() {
            self.directory
                .replace(entry, segment::allocate(bucket_count), 0);
        }
    }

    const fn with_sizing(prefix_bits: u32, sizing: Sizing) -> Self {
        assert!(
            prefix_bits <= 64 - DEPTH_MAX - 16,
            "the hash must have enough bits for the tag of the deepest segment"
        );
        Self {
            directory: Directory::new(),
            len: 0,
            marked: 0,
            prefix_bits: prefix_bits as u8,
            sizing,
        }
    }

    /// The number of items.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no items.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of items that are [`marked`](Item::marked).
    pub fn marked(&self) -> usize {
        self.marked
    }

    /// Heap bytes of the table, excluding the items.
    pub fn memory_bytes(&self) -> usize {
        self.directory.memory_bytes()
    }

    /// The hash with its prefix shifted out.
    #[inline]
    pub(crate) fn path(&self, hash: u64) -> u64 {
        hash << self.prefix_bits
    }

    /// The item with this key.
    #[inline]
    pub fn find(&self, hash: u64, key: &[u8]) -> Option<T::Ref<'_>> {
        let (slot, _) = self.search(hash, key)?;
        slot.reference()
    }

    /// The slot and the place of the item with this key.
    #[inline(always)]
    pub(crate) fn search(&self, hash: u64, key: &[u8]) -> Option<(&Slot<T>, Place)> {
        let path = self.path(hash);
        let entry = self.directory.index(path);
        let segment = self.directory.get(entry)?;
        let tag = segment.tag(path);
        let buckets = self.directory.buckets(segment);
        let mut bucket = home(tag, buckets.len());
        loop {
            let line = buckets.get(bucket)?;
            for index in line.matches(tag) {
                let slot = &line.slots()[index];
                if slot.has_key(key) {
                    let place = Place {
                        entry,
                        bucket,
                        slot: index,
                    };
                    return Some((slot, place));
                }
            }
            if !line.has_overflowed() {
                return None;
            }
            bucket = after(bucket, buckets.len());
        }
    }

    /// Prefetches the home bucket of this hash.
    #[inline]
    pub fn prefetch_bucket(&self, hash: u64) {
        let path = self.path(hash);
        if let Some(segment) = self.directory.get(self.directory.index(path)) {
            prefetch(segment.home_address(path));
        }
    }

    /// Prefetches the items that may have this hash, or the next bucket if the item may be there. Reads the home
    /// bucket, so call [`prefetch_bucket`](Self::prefetch_bucket) well before.
    #[inline]
    pub fn prefetch_item(&self, hash: u64) {
        let path = self.path(hash);
        let Some(segment) = self.directory.get(self.directory.index(path)) else {
            return;
        };
        let tag = segment.tag(path);
        let buckets = self.directory.buckets(segment);
        let home = home(tag, buckets.len());
        let Some(line) = buckets.get(home) else {
            return;
        };
        let mut is_here = false;
        for index in line.matches(tag) {
            line.slots()[index].prefetch();
            is_here = true;
        }
        if !is_here && line.has_overflowed() {
            prefetch(ptr::from_ref(&buckets[after(home, buckets.len())]).cast());
        }
    }

    pub(crate) fn slot(&self, place: Place) -> &Slot<T> {
        let segment = self
            .directory
            .get(place.entry)
            .expect("a place is in the directory");
        &self.directory.buckets(segment)[place.bucket].slots()[place.slot]
    }

    pub(crate) fn slot_mut(&mut self, place: Place) -> &mut Slot<T> {
        &mut self.directory.buckets_mut(place.entry)[place.bucket].slots_mut()[place.slot]
    }

    /// Updates the count of marked items after a slot changed.
    pub(crate) fn adjust_marked(&mut self, before: bool, after: bool) {
        self.marked = self.marked + usize::from(after) - usize::from(before);
    }

    /// Whether inserting an item of this hash would first grow its segment.
    #[inline]
    pub(crate) fn would_grow(&self, hash: u64) -> bool {
        let entry = self.directory.index(self.path(hash));
        let Some(segment) = self.directory.get(entry) else {
            return true;
        };
        self.directory.count(entry) >= self.sizing.items_max(segment.bucket_count())
    }

    /// Inserts an item whose key is absent, growing as needed.
    #[inline]
    pub(crate) fn insert_absent(&mut self, hash: u64, item: T) -> Place {
        while self.would_grow(hash) {
            self.grow(hash);
        }
        let path = self.path(hash);
        let entry = self.directory.index(path);
        let tag = self
            .directory
            .get(entry)
            .expect("growing makes an entry")
            .tag(path);
        let slot = Slot::new(item, tag);
        self.marked += usize::from(slot.is_marked());
        self.len += 1;
        *self.directory.count_mut(entry) += 1;
        let (bucket, slot) = segment::place(self.directory.buckets_mut(entry), slot);
        Place {
            entry,
            bucket,
            slot,
        }
    }

    /// Removes the item at a place. Does not shrink the segment; see [`tighten`](Self::tighten).
    pub(crate) fn remove_at(&mut self, place: Place) -> T {
        let slot = segment::remove(
            self.directory.buckets_mut(place.entry),
            place.bucket,
            place.slot,
        );
        self.len -= 1;
        self.marked -= usize::from(slot.is_marked());
        *self.directory.count_mut(place.entry) -= 1;
        slot.into_item().expect("a place is an occupied slot")
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self, hash: u64) {
        self.directory.ensure_entry();
        let entry = self.directory.index(self.path(hash));
        let segment = self
            .directory
            .get(entry)
            .expect("there is an entry for every hash");
        let bucket_count = segment.bucket_count();
        match self.sizing.grown(bucket_count) {
            Some(grown) => self.resize(entry, grown),
            None if self.may_split(segment) => self.split(entry),
            None => self.resize(
                entry,
                segment::step_after(bucket_count).min(segment::BUCKETS_MAX),
            ),
        }
    }

    fn may_split(&self, segment: &Segment<T>) -> bool {
        segment.depth() < self.directory.depth()
            || segment.depth() < DEPTH_MAX
                && self.directory.len() * 2 * ITEMS_PER_ENTRY_MIN <= self.len
    }

    /// Gives a segment more or fewer buckets. Reads no item.
    fn resize(&mut self, entry: usize, bucket_count: usize) {
        let count = self.directory.count(entry);
        let mut from = self.directory.take(entry);
        let mut to = segment::allocate(bucket_count);
        segment::place_all(&mut from, &mut to, |tag| tag);
        self.directory.replace(entry, to, count);
    }

    /// Splits a segment in two. Reads every item, since each tag advances by one bit of the hash.
    fn split(&mut self, entry: usize) {
        let mut from = self.directory.take(entry);
        let (low, high) = self.directory.split(entry);
        // The tag's highest bit distinguishes the halves.
        let is_high = |slot: &Slot<T>| slot.tag() >= 0x8000;
        let slots = || {
            from.iter()
                .flat_map(Bucket::slots)
                .filter(|slot| !slot.is_empty())
        };
        let high_count = slots().filter(|slot| is_high(slot)).count();
        let low_count = slots().count() - high_count;
        let mut halves = [low_count, high_count].map(|count| match count {
            0 => Box::default(),
            _ => segment::allocate(self.sizing.buckets_for(count)),
        });
        let half = *self.directory.get(low).expect("the split made it");
        for index in 0..from.len() {
            if let Some(ahead) = from.get(index + SPLIT_PREFETCH_BUCKETS) {
                ahead.slots().iter().for_each(Slot::prefetch);
            }
            for slot in from[index].slots_mut() {
                let Some(hash) = slot.hash() else { break };
                let tag = half.tag(self.path(hash));
                segment::place(
                    &mut halves[usize::from(is_high(slot))],
                    slot.take().with_tag(tag),
                );
            }
        }
        let [low_half, high_half] = halves;
        self.directory.replace(low, low_half, low_count);
        self.directory.replace(high, high_half, high_count);
    }

    /// Merges a segment with its buddy or gives it fewer buckets if it has become sparse. Call it after removals.
    #[inline]
    pub(crate) fn tighten(&mut self, entry: usize) {
        let bucket_count = self.directory.get(entry).map_or(0, Segment::bucket_count);
        if self
            .sizing
            .is_sparse(bucket_count, self.directory.count(entry))
        {
            self.shrink(entry);
        }
    }

    #[cold]
    #[inline(never)]
    fn shrink(&mut self, mut entry: usize) {
        while let Some(buddy) = self.directory.buddy(entry)
            && self.directory.count(entry) + self.directory.count(buddy) <= self.sizing.merge_max()
        {
            entry = self.merge(entry, buddy);
        }
        let bucket_count = self.directory.get(entry).map_or(0, Segment::bucket_count);
        let shrunk = self.sizing.shrunk(self.directory.count(entry));
        if shrunk < bucket_count {
            self.resize(entry, shrunk);
        }
    }

    /// Merges two buddies and returns the merged segment's entry. Reads no item: the bit that distinguished the
    /// segments moves into the tags.
    fn merge(&mut self, entry: usize, buddy: usize) -> usize {
        let (low, high) = (entry.min(buddy), entry.max(buddy));
        let count = self.directory.count(low) + self.directory.count(high);
        let mut to = segment::allocate(self.sizing.shrunk(count));
        segment::place_all(&mut self.directory.take(low), &mut to, |tag| tag >> 1);
        segment::place_all(&mut self.directory.take(high), &mut to, |tag| {
            tag >> 1 | 0x8000
        });
        let entry = self.directory.merge(low);
        self.directory.replace(entry, to, count);
        entry
    }

    /// Drops up to `limit` items and returns how many are left. Frees a huge table in slices.
    pub fn free_some(&mut self, limit: usize) -> usize {
        let goal = self.len.saturating_sub(limit);
        while self.len > goal {
            let entry = self.last_entry_with_items();
            let bucket = self
                .directory
                .buckets_mut(entry)
                .iter()
                .rposition(|line| !line.slots()[0].is_empty());
            let Some(bucket) = bucket else { break };
            while self.len > goal
                && !self
                    .slot(Place {
                        entry,
                        bucket,
                        slot: 0,
                    })
                    .is_empty()
            {
                drop(self.remove_at(Place {
                    entry,
                    bucket,
                    slot: 0,
                }));
            }
            self.tighten(entry);
        }
        self.len
    }

    /// The last entry whose segment has items; 0 if none has. Empty segments merge, so the search is short.
    fn last_entry_with_items(&self) -> usize {
        let mut entry = self.directory.len() - 1;
        while entry > 0 && self.directory.count(entry) == 0 {
            entry = self.directory.first(entry).saturating_sub(1);
        }
        entry
    }

    /// How full the table is. Walks all of it.
    pub fn fill(&self) -> Fill {
        let mut fill = Fill {
            directory: self.directory.len(),
            items: self.len,
            ..Fill::default()
        };
        for entry in self.directory.groups() {
            let buckets = self
                .directory
                .get(entry)
                .map_or(&[][..], |segment| self.directory.buckets(segment));
            fill.segments += 1;
            fill.buckets += buckets.len();
            fill.slots += buckets.len() * SLOTS;
            for (index, line) in buckets.iter().enumerate() {
                let displaced =
                    |slot: &&Slot<T>| !slot.is_empty() && home(slot.tag(), buckets.len()) != index;
                let full = (0..buckets.len())
                    .take_while(|step| buckets[(index + step) % buckets.len()].has_overflowed());
                fill.miss_buckets += full.count() + 1;
                fill.displaced += line.slots().iter().filter(displaced).count();
            }
        }
        fill
    }
}

impl<T: Item> Drop for Table<T> {
    fn drop(&mut self) {
        self.directory.drain(|mut buckets| {
            for slot in buckets.iter_mut().flat_map(Bucket::slots_mut) {
                drop(slot.take().into_item());
            }
        });
    }
}
