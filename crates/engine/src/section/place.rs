//! The place of a key in its database.

use damselfly_base::heap;
use damselfly_table::{Entry as Slot, Occupied, Vacant};
use damselfly_value::{Entry, EntryRef};

use crate::section::expired_keys::Expirer;
use crate::shard::database::{Age, Counts, Database, age, is_expired};
use crate::{Key, Now};

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
    slot: Vacant<'a, Entry>,
    counts: &'a mut Counts,
    ends: Expirer<'a>,
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
        let before = counts.bytes;
        let result = self.slot.update(|entry| {
            counts.subtract(entry.view());
            let result = change(entry);
            counts.add(entry.view());
            result
        });
        if counts.bytes != before {
            heap::count_data(counts.bytes as i64 - before as i64);
        }
        result
    }

    /// Removes the fields that have ended, of a hash of which some stay.
    #[cold]
    fn without_expired_fields(mut self, ends: &mut Expirer<'_>) -> Self {
        self.update(|entry| entry.remove_expired_fields(ends.now.0, usize::MAX));
        ends.fields_expired(self.view().key());
        self
    }

    /// Removes the entry, whose end has come.
    #[cold]
    fn end<'e>(self, hash: u64, mut ends: Expirer<'e>) -> Absent<'e>
    where
        'a: 'e,
    {
        let (entry, slot) = self.slot.vacate(hash);
        self.counts.subtract_data(entry.view());
        ends.entry_expired(entry.view());
        Absent {
            slot,
            counts: self.counts,
            ends,
        }
    }

    /// Takes the entry out.
    pub fn remove(self) -> Entry {
        let entry = self.slot.remove();
        self.counts.subtract_data(entry.view());
        entry
    }
}

impl Absent<'_> {
    /// Stores an entry of this place's key, whose access bits are set. Where that would make the table grow, entries whose end
    /// has come make room first.
    #[inline]
    pub(crate) fn insert(self, entry: Entry) {
        let Self {
            mut slot,
            counts,
            mut ends,
        } = self;
        counts.add_data(entry.view());
        if slot.would_grow() {
            let now = ends.now;
            slot.sweep_segment(
                |entry| is_expired(entry, now),
                |entry| {
                    counts.subtract_data(entry.view());
                    ends.entry_expired(entry.view());
                },
            );
        }
        let slot = slot.insert(entry);
        if ends.are_observed() {
            ends.key_created(slot.get().key());
        }
    }
}

impl Database {
    /// The place of a key; what has ended of it is removed first. `ends` makes what is needed only for that, and for an absent
    /// key.
    #[inline]
    pub(crate) fn place<'a>(
        &'a mut self,
        key: Key<'_>,
        now: Now,
        ends: impl FnOnce() -> Expirer<'a>,
    ) -> Place<'a> {
        let counts = &mut self.counts;
        match self.table.entry(key.hash, key.bytes) {
            Slot::Vacant(slot) => Place::Absent(Absent {
                slot,
                counts,
                ends: ends(),
            }),
            Slot::Occupied(slot) => match age(slot.get(), now) {
                Age::Live => Place::Present(Present { slot, counts }),
                Age::LosesFields => {
                    let present = Present { slot, counts };
                    Place::Present(present.without_expired_fields(&mut ends()))
                }
                Age::Dead => {
                    let present = Present { slot, counts };
                    Place::Absent(present.end(key.hash, ends()))
                }
            },
        }
    }

    /// The live entry of a key; what has ended of it is removed first. `ends` makes what is needed only for that.
    #[inline]
    pub(crate) fn find<'a, 'e>(
        &'a mut self,
        key: Key<'_>,
        now: Now,
        ends: impl FnOnce() -> Expirer<'e>,
    ) -> Option<EntryRef<'a>>
    where
        'a: 'e,
    {
        let slot = match self.table.entry(key.hash, key.bytes) {
            Slot::Occupied(slot) => slot,
            Slot::Vacant(_) => return None,
        };
        let counts = &mut self.counts;
        match age(slot.get(), now) {
            Age::Live => Some(slot.into_ref()),
            Age::LosesFields => {
                let present = Present { slot, counts };
                Some(present.without_expired_fields(&mut ends()).into_view())
            }
            Age::Dead => {
                Present { slot, counts }.end(key.hash, ends());
                None
            }
        }
    }

    /// The entry of a key, even an expired one. Nothing expires.
    pub(super) fn present(&mut self, key: Key<'_>) -> Option<Present<'_>> {
        match self.table.entry(key.hash, key.bytes) {
            Slot::Vacant(_) => None,
            Slot::Occupied(slot) => Some(Present {
                slot,
                counts: &mut self.counts,
            }),
        }
    }
}
