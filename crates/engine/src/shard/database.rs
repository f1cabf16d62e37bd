//! One database's share of one shard: a table of entries and their totals.
//!
//! Entries are added, changed and removed in `section/place.rs`.

use damselfly_base::heap;
use damselfly_table::Table;
use damselfly_value::{Entry, EntryRef};

use crate::key::{Key, Now};
use crate::shard::capture::Capture;

/// The entries of one database in one shard.
pub struct Database {
    pub(crate) table: Table<Entry>,
    pub(crate) counts: Counts,
    /// The entries that the running snapshot has not visited yet; `None` when it has visited all, or if there is no snapshot.
    pub(crate) capture: Option<Box<Capture>>,
    /// The database was flushed: its entries no longer count as data and only wait to be freed.
    is_garbage: bool,
    /// Where the background sweep continues, in hash order.
    pub(crate) sweep_position: u64,
    /// Where the search for keys to evict continues, in hash order.
    pub(crate) evict_position: u64,
}

/// Totals over entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Bytes that the allocator gave for the entries.
    pub(crate) bytes: usize,
    /// Hashes that have fields with deadlines but no deadline of their own.
    timed_hashes: usize,
}

impl Counts {
    #[inline]
    pub(crate) fn add(&mut self, entry: EntryRef<'_>) {
        self.bytes += entry.allocated_bytes();
        self.timed_hashes += usize::from(is_timed_hash(entry));
    }

    #[inline]
    pub(crate) fn subtract(&mut self, entry: EntryRef<'_>) {
        self.bytes -= entry.allocated_bytes();
        self.timed_hashes -= usize::from(is_timed_hash(entry));
    }

    /// Counts an entry that is stored, here and for the whole process.
    #[inline]
    pub(crate) fn add_data(&mut self, entry: EntryRef<'_>) {
        let before = self.bytes;
        self.add(entry);
        heap::count_data((self.bytes - before) as i64);
    }

    /// Uncounts an entry that is removed, here and for the whole process.
    #[inline]
    pub(crate) fn subtract_data(&mut self, entry: EntryRef<'_>) {
        let before = self.bytes;
        self.subtract(entry);
        heap::count_data(-((before - self.bytes) as i64));
    }
}

#[inline]
fn is_timed_hash(entry: EntryRef<'_>) -> bool {
    entry.can_expire() && !entry.has_deadline() && entry.first_field_deadline_ms().is_some()
}

impl Database {
    pub(crate) fn new(shard_bits: u32, stagger: u32) -> Self {
        Self {
            table: Table::new(shard_bits, stagger),
            counts: Counts::default(),
            capture: None,
            is_garbage: false,
            sweep_position: 0,
            evict_position: 0,
        }
    }

    /// The number of keys, including expired ones that are still in memory.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// True if there are no keys.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The number of keys with a deadline.
    pub fn deadlines(&self) -> usize {
        self.table.marked() - self.counts.timed_hashes
    }

    /// The number of hashes without a deadline that have fields with deadlines.
    pub fn timed_hashes(&self) -> usize {
        self.counts.timed_hashes
    }

    /// True if any key or field has a deadline.
    pub(crate) fn can_expire(&self) -> bool {
        self.table.marked() > 0
    }

    /// Bytes allocated for the entries themselves.
    pub fn entry_bytes(&self) -> usize {
        self.counts.bytes
    }

    /// Bytes of the table that holds the entries.
    pub fn table_bytes(&self) -> usize {
        self.table.memory_bytes()
    }

    /// Bytes of the entries and the table.
    pub fn bytes(&self) -> usize {
        self.entry_bytes() + self.table_bytes()
    }

    /// Marks the database as flushed: its entries no longer count as data of the process.
    pub(crate) fn become_garbage(&mut self) {
        if !std::mem::replace(&mut self.is_garbage, true) {
            heap::count_data(-(self.counts.bytes as i64));
        }
    }

    /// How full the table is.
    pub fn fill(&self) -> damselfly_table::Fill {
        self.table.fill()
    }

    /// Checks the whole database, for tests and fuzzing.
    ///
    /// # Panics
    /// If an invariant is broken.
    pub fn assert_valid(&self) {
        self.table.assert_valid();
        let mut counts = Counts::default();
        self.table.for_each(|entry| counts.add(entry));
        assert_eq!(counts, self.counts);
    }

    /// The live entry of a key.
    #[inline]
    pub(crate) fn view(&self, key: Key<'_>, now: Now) -> Option<EntryRef<'_>> {
        self.table
            .find(key.hash, key.bytes)
            .filter(|entry| !is_expired(*entry, now))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.become_garbage();
    }
}

/// The part of an entry that has expired.
pub(crate) enum Expired {
    Nothing,
    /// Some fields of its hash, but not all.
    Fields,
    Entry,
}

#[inline]
pub(crate) fn check_expiry(entry: EntryRef<'_>, now: Now) -> Expired {
    if entry.can_expire() {
        compare_deadlines(entry, now)
    } else {
        Expired::Nothing
    }
}

fn compare_deadlines(entry: EntryRef<'_>, now: Now) -> Expired {
    let is_past = |moment: i64| moment <= now.0;
    if entry.deadline_ms().is_some_and(is_past) {
        return Expired::Entry;
    }
    if !entry.first_field_deadline_ms().is_some_and(is_past) {
        return Expired::Nothing;
    }
    if entry.expires_ms().is_some_and(is_past) {
        return Expired::Entry;
    }
    Expired::Fields
}

/// True if the entry has expired.
#[inline]
pub(crate) fn is_expired(entry: EntryRef<'_>, now: Now) -> bool {
    matches!(check_expiry(entry, now), Expired::Entry)
}
