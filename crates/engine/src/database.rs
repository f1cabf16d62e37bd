//! One database's share of one shard: a table of entries and what is counted about them.

use damselfly_table::{Entry as Slot, Occupied, Table, Vacant};
use damselfly_value::{Entry, EntryRef};

use crate::{Key, Now};

/// The entries of one database in one shard.
pub struct Database {
    pub(crate) table: Table<Entry>,
    /// Bytes truly set aside for the entries.
    entry_bytes: usize,
    /// Where the background sweep goes on, in hash order.
    pub(crate) sweep_position: u64,
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
    entry_bytes: &'a mut usize,
}

/// The place for a new entry.
pub struct Absent<'a> {
    slot: Free<'a>,
    now: Now,
    entry_bytes: &'a mut usize,
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
        let entry_bytes = &mut *self.entry_bytes;
        self.slot.update(|entry| {
            *entry_bytes -= entry.view().allocated_bytes();
            let result = change(entry);
            *entry_bytes += entry.view().allocated_bytes();
            result
        })
    }

    /// Takes the entry out.
    pub fn remove(self) -> Entry {
        let entry = self.slot.remove();
        *self.entry_bytes -= entry.view().allocated_bytes();
        entry
    }
}

impl Absent<'_> {
    /// Leaves the key absent, and frees what is still in memory of it.
    pub(crate) fn discard(self) {
        if let Free::Dead(slot) = self.slot {
            *self.entry_bytes -= slot.remove().view().allocated_bytes();
            *self.expired += 1;
        }
    }

    /// Stores an entry of this place's key. Where that would make the table grow, entries whose end
    /// has come make room first.
    #[inline]
    pub fn insert(self, entry: Entry) {
        let entry_bytes = self.entry_bytes;
        *entry_bytes += entry.view().allocated_bytes();
        match self.slot {
            Free::Dead(mut slot) => {
                *entry_bytes -= slot.replace(entry).view().allocated_bytes();
                *self.expired += 1;
            }
            Free::Vacant(mut slot) => {
                if slot.would_grow() {
                    let now = self.now;
                    *self.expired += slot.sweep_segment(
                        |entry| is_dead(entry, now),
                        |entry| *entry_bytes -= entry.view().allocated_bytes(),
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
            entry_bytes: 0,
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
        self.table.marked()
    }

    /// Bytes set aside for the entries themselves.
    pub fn entry_bytes(&self) -> usize {
        self.entry_bytes
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
        let mut entry_bytes = 0;
        self.table
            .for_each(|entry| entry_bytes += entry.allocated_bytes());
        assert_eq!(entry_bytes, self.entry_bytes, "bytes of the entries");
    }

    /// The place of a key.
    #[inline]
    pub(crate) fn place<'a>(
        &'a mut self,
        key: Key<'_>,
        now: Now,
        expired: &'a mut u64,
    ) -> Place<'a> {
        let entry_bytes = &mut self.entry_bytes;
        let slot = match self.table.entry(key.hash, key.bytes) {
            Slot::Occupied(slot) if is_dead(slot.get(), now) => Free::Dead(slot),
            Slot::Occupied(slot) => return Place::Present(Present { slot, entry_bytes }),
            Slot::Vacant(slot) => Free::Vacant(slot),
        };
        Place::Absent(Absent {
            slot,
            now,
            entry_bytes,
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
        match self.table.entry(key.hash, key.bytes) {
            Slot::Occupied(slot) if is_dead(slot.get(), now) => {
                self.entry_bytes -= slot.remove().view().allocated_bytes();
                *expired += 1;
                None
            }
            Slot::Occupied(slot) => Some(slot.into_ref()),
            Slot::Vacant(_) => None,
        }
    }

    /// Sweeps up to `buckets` buckets for entries whose end has come, where the last call stopped; returns how many it removed.
    pub(crate) fn sweep(&mut self, now: Now, buckets: usize) -> usize {
        let mut position = self.sweep_position;
        let removed = self.sweep_from(&mut position, now, buckets);
        self.sweep_position = position;
        removed
    }

    /// As [`Database::sweep`], from a position in hash order.
    pub(crate) fn sweep_from(&mut self, position: &mut u64, now: Now, buckets: usize) -> usize {
        let entry_bytes = &mut self.entry_bytes;
        self.table.sweep(
            position,
            buckets,
            |entry| is_dead(entry, now),
            |entry| *entry_bytes -= entry.view().allocated_bytes(),
        )
    }
}

/// True if the entry's end has come.
#[inline]
pub(crate) fn is_dead(entry: EntryRef<'_>, now: Now) -> bool {
    entry.has_deadline()
        && entry
            .deadline_ms()
            .is_some_and(|deadline| deadline <= now.0)
}
