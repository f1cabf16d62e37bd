//! One database's share of one shard: a table of entries and what is counted about them.

use damselfly_table::{Entry as Slot, Occupied, Table, Vacant};
use damselfly_value::{Entry, EntryRef};

use crate::{Key, Now};

/// The most fields of one large hash that a slice of the sweep removes: about as much work as a slice is otherwise.
const FIELDS_PER_SWEEP: usize = 100;

/// The entries of one database in one shard.
pub struct Database {
    pub(crate) table: Table<Entry>,
    counts: Counts,
    /// Where the background sweep goes on, in hash order.
    pub(crate) sweep_position: u64,
}

/// What is counted about entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    /// Bytes truly set aside.
    bytes: usize,
    /// Hashes without a deadline of their own that have fields with deadlines.
    timed_hashes: usize,
}

impl Counts {
    #[inline]
    fn add(&mut self, entry: EntryRef<'_>) {
        self.bytes += entry.allocated_bytes();
        self.timed_hashes += usize::from(is_timed_hash(entry));
    }

    #[inline]
    fn subtract(&mut self, entry: EntryRef<'_>) {
        self.bytes -= entry.allocated_bytes();
        self.timed_hashes -= usize::from(is_timed_hash(entry));
    }
}

#[inline]
fn is_timed_hash(entry: EntryRef<'_>) -> bool {
    entry.may_end() && !entry.has_deadline() && entry.fields_soonest_ms().is_some()
}

/// What a sweep removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Swept {
    /// Entries whose end had come.
    pub(crate) entries: usize,
    /// Fields whose end had come, of entries that stay.
    pub(crate) fields: usize,
}

/// Where a key is, or would be.
pub enum Place<'a> {
    /// The key exists.
    Present(Present<'a>),
    /// It does not.
    Absent(Absent<'a>),
}

/// A key's entry, to read, change or remove.
pub struct Present<'a> {
    slot: Occupied<'a, Entry>,
    counts: &'a mut Counts,
}

/// The place for a new entry.
pub struct Absent<'a> {
    slot: Free<'a>,
    now: Now,
    counts: &'a mut Counts,
    expired: &'a mut u64,
}

enum Free<'a> {
    /// No such key.
    Vacant(Vacant<'a, Entry>),
    /// The key's end has come; its entry is still in memory.
    Dead(Occupied<'a, Entry>),
}

impl<'a> Present<'a> {
    /// The entry.
    #[inline]
    pub fn view(&self) -> EntryRef<'_> {
        self.slot.get()
    }

    /// The entry, for as long as the database is borrowed.
    #[inline]
    pub fn into_view(self) -> EntryRef<'a> {
        self.slot.into_ref()
    }

    /// Changes the entry; its key must stay.
    #[inline]
    pub fn update<R>(&mut self, change: impl FnOnce(&mut Entry) -> R) -> R {
        let counts = &mut *self.counts;
        self.slot.update(|entry| {
            counts.subtract(entry.view());
            let result = change(entry);
            counts.add(entry.view());
            result
        })
    }

    /// Removes the fields that have ended, of a hash of which some stay.
    #[cold]
    fn remove_due_fields(&mut self, now: Now) {
        self.update(|entry| entry.remove_due_fields(now.0, usize::MAX));
    }

    /// Takes the entry out.
    pub fn remove(self) -> Entry {
        let entry = self.slot.remove();
        self.counts.subtract(entry.view());
        entry
    }
}

impl Absent<'_> {
    /// Leaves the key absent, and frees what is still in memory of it.
    pub(crate) fn discard(self) {
        if let Free::Dead(slot) = self.slot {
            self.counts.subtract(slot.remove().view());
            *self.expired += 1;
        }
    }

    /// Stores an entry of this place's key. Where that would make the table grow, entries whose end
    /// has come make room first.
    #[inline]
    pub fn insert(self, entry: Entry) {
        let counts = self.counts;
        counts.add(entry.view());
        match self.slot {
            Free::Dead(mut slot) => {
                counts.subtract(slot.replace(entry).view());
                *self.expired += 1;
            }
            Free::Vacant(mut slot) => {
                if slot.would_grow() {
                    let now = self.now;
                    *self.expired += slot.sweep_segment(
                        |entry| is_dead(entry, now),
                        |entry| counts.subtract(entry.view()),
                    ) as u64;
                }
                slot.insert(entry);
            }
        }
    }
}

impl Database {
    pub(crate) fn new(shard_bits: u32, stagger: u32) -> Self {
        Self {
            table: Table::new(shard_bits, stagger),
            counts: Counts::default(),
            sweep_position: 0,
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
    pub(crate) fn may_end(&self) -> bool {
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

    /// The place of a key.
    #[inline]
    pub(crate) fn place<'a>(
        &'a mut self,
        key: Key<'_>,
        now: Now,
        expired: &'a mut u64,
    ) -> Place<'a> {
        let counts = &mut self.counts;
        let slot = match self.table.entry(key.hash, key.bytes) {
            Slot::Vacant(slot) => Free::Vacant(slot),
            Slot::Occupied(slot) => match age(slot.get(), now) {
                Age::Live => return Place::Present(Present { slot, counts }),
                Age::LosesFields => {
                    let mut present = Present { slot, counts };
                    present.remove_due_fields(now);
                    return Place::Present(present);
                }
                Age::Dead => Free::Dead(slot),
            },
        };
        Place::Absent(Absent {
            slot,
            now,
            counts,
            expired,
        })
    }

    /// The live entry of a key.
    #[inline]
    pub(crate) fn view(&self, key: Key<'_>, now: Now) -> Option<EntryRef<'_>> {
        self.table
            .find(key.hash, key.bytes)
            .filter(|entry| !is_dead(*entry, now))
    }

    /// The live entry of a key; a dead one is removed first and counted in `expired`.
    #[inline]
    pub(crate) fn find(
        &mut self,
        key: Key<'_>,
        now: Now,
        expired: &mut u64,
    ) -> Option<EntryRef<'_>> {
        let slot = match self.table.entry(key.hash, key.bytes) {
            Slot::Occupied(slot) => slot,
            Slot::Vacant(_) => return None,
        };
        match age(slot.get(), now) {
            Age::Live => Some(slot.into_ref()),
            Age::LosesFields => {
                let counts = &mut self.counts;
                let mut present = Present { slot, counts };
                present.remove_due_fields(now);
                Some(present.into_view())
            }
            Age::Dead => {
                self.counts.subtract(slot.remove().view());
                *expired += 1;
                None
            }
        }
    }

    /// Sweeps up to `buckets` buckets for what has ended, where the last call stopped.
    pub(crate) fn sweep(&mut self, now: Now, buckets: usize) -> Swept {
        let mut position = self.sweep_position;
        let swept = self.sweep_from(&mut position, now, buckets);
        self.sweep_position = position;
        swept
    }

    /// As [`Database::sweep`], from a position in hash order.
    pub(crate) fn sweep_from(&mut self, position: &mut u64, now: Now, buckets: usize) -> Swept {
        let (counts, mut losing) = (&mut self.counts, Vec::new());
        let entries = self.table.sweep(
            position,
            buckets,
            |entry| match age(entry, now) {
                Age::Live => false,
                Age::Dead => true,
                Age::LosesFields => {
                    losing.push(entry.key().to_vec());
                    false
                }
            },
            |entry| counts.subtract(entry.view()),
        );
        let mut fields = 0;
        for key in &losing {
            let key = Key::new(key);
            if let Slot::Occupied(slot) = self.table.entry(key.hash, key.bytes) {
                let counts = &mut self.counts;
                fields += Present { slot, counts }
                    .update(|entry| entry.remove_due_fields(now.0, FIELDS_PER_SWEEP));
            }
        }
        Swept { entries, fields }
    }
}

/// What the clock says about an entry.
enum Age {
    Live,
    /// It is live, but fields of its hash have ended.
    LosesFields,
    /// Its end has come.
    Dead,
}

#[inline]
fn age(entry: EntryRef<'_>, now: Now) -> Age {
    if entry.may_end() {
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
    if !entry.fields_soonest_ms().is_some_and(is_past) {
        return Age::Live;
    }
    if entry.end_ms().is_some_and(is_past) {
        return Age::Dead;
    }
    Age::LosesFields
}

/// True if the entry's end has come.
#[inline]
pub(crate) fn is_dead(entry: EntryRef<'_>, now: Now) -> bool {
    matches!(age(entry, now), Age::Dead)
}
