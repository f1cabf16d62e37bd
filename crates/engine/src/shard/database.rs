//! One database's share of one shard: a table of entries and what is counted about them.

use damselfly_base::heap;
use damselfly_table::Table;
use damselfly_value::{Entry, EntryRef};

use crate::key::{Key, Now};

/// The entries of one database in one shard.
pub struct Database {
    pub(crate) table: Table<Entry>,
    pub(crate) counts: Counts,
    /// It was flushed: its entries are no data any more and only wait to be freed.
    is_garbage: bool,
    /// Where the background sweep goes on, in hash order.
    pub(crate) sweep_position: u64,
    /// Where the search for keys to evict goes on, in hash order.
    pub(crate) evict_position: u64,
}

/// What is counted about entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Bytes truly set aside.
    pub(crate) bytes: usize,
    /// Hashes without a deadline of their own that have fields with deadlines.
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

    /// Counts an entry that is stored now, for the whole process, too.
    #[inline]
    pub(crate) fn add_data(&mut self, entry: EntryRef<'_>) {
        let before = self.bytes;
        self.add(entry);
        heap::count_data((self.bytes - before) as i64);
    }

    /// Counts an entry that is taken out.
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
            is_garbage: false,
            sweep_position: 0,
            evict_position: 0,
        }
    }

    /// The number of keys, those included whose end has come but that are still in memory.
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

    /// Whether there is anything that a sweep might remove one day: keys or fields with a deadline.
    pub(crate) fn can_expire(&self) -> bool {
        self.table.marked() > 0
    }

    /// Bytes set aside for the entries themselves.
    pub fn entry_bytes(&self) -> usize {
        self.counts.bytes
    }

    /// Bytes of the table around the entries.
    pub fn table_bytes(&self) -> usize {
        self.table.memory_bytes()
    }

    /// Bytes of all of it.
    pub fn bytes(&self) -> usize {
        self.entry_bytes() + self.table_bytes()
    }

    /// Notes that it was flushed.
    pub(crate) fn become_garbage(&mut self) {
        if !std::mem::replace(&mut self.is_garbage, true) {
            heap::count_data(-(self.counts.bytes as i64));
        }
    }

    /// How full the table is.
    pub fn fill(&self) -> damselfly_table::Fill {
        self.table.fill()
    }

    /// Walks through everything and checks it, for tests and fuzzing.
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

/// What the clock says about an entry.
pub(crate) enum Age {
    Live,
    /// It is live, but fields of its hash have ended.
    LosesFields,
    /// Its end has come.
    Dead,
}

#[inline]
pub(crate) fn age(entry: EntryRef<'_>, now: Now) -> Age {
    if entry.can_expire() {
        age_by_clock(entry, now)
    } else {
        Age::Live
    }
}

fn age_by_clock(entry: EntryRef<'_>, now: Now) -> Age {
    let is_past = |moment: i64| moment <= now.0;
    if entry.deadline_ms().is_some_and(is_past) {
        return Age::Dead;
    }
    if !entry.first_field_deadline_ms().is_some_and(is_past) {
        return Age::Live;
    }
    if entry.expires_ms().is_some_and(is_past) {
        return Age::Dead;
    }
    Age::LosesFields
}

/// True if the entry's end has come.
#[inline]
pub(crate) fn is_expired(entry: EntryRef<'_>, now: Now) -> bool {
    matches!(age(entry, now), Age::Dead)
}
