//! The place of a key in its database: the only way to add, change or remove a single entry.
//!
//! [`Database::place`] and [`Database::find`] also remove what has expired of the key, so that no command sees it.

use damselfly_base::heap;
use damselfly_table::{Entry as Slot, Occupied, Table, Vacant};
use damselfly_value::{Attributes, Entry, EntryRef, NewValue};

use crate::section::expired_keys::Expirer;
use crate::shard::capture::Capture;
use crate::shard::database::{Counts, Database, Expired, check_expiry, is_expired};
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
    /// Saves the entry before its first change, if the running snapshot has not visited it yet.
    capture: Option<&'a mut Capture>,
}

/// The place where a new entry can be stored.
pub struct Absent<'a> {
    slot: Vacant<'a, Entry>,
    counts: &'a mut Counts,
    /// Present if the running snapshot has not visited this place yet: it must not see the new entry.
    capture: Option<&'a mut Capture>,
    expirer: Expirer<'a>,
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

    /// Changes the entry; its key must stay the same.
    #[inline]
    pub fn update<R>(&mut self, change: impl FnOnce(&mut Entry) -> R) -> R {
        if let Some(capture) = &mut self.capture {
            capture.save(self.slot.get());
        }
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
        if self.capture.is_some() {
            self.slot.get().set_saved(true);
        }
        result
    }

    /// Replaces a string by another if that takes the same memory, so that nothing has to be counted; see [`Entry::overwrite`].
    #[inline]
    pub fn overwrite(&mut self, value: NewValue<'_>, attributes: Attributes) -> bool {
        if let Some(capture) = &mut self.capture {
            capture.save(self.slot.get());
        }
        let is_done = self.slot.update(|entry| entry.overwrite(value, attributes));
        if self.capture.is_some() {
            self.slot.get().set_saved(true);
        }
        is_done
    }

    /// Removes the expired fields of a hash that has others.
    #[cold]
    fn without_expired_fields(mut self, expirer: &mut Expirer<'_>) -> Self {
        expirer.remove_fields(&mut self, usize::MAX);
        self
    }

    /// Removes the entry, which has expired.
    #[cold]
    fn expire<'e>(self, hash: u64, mut expirer: Expirer<'e>) -> Absent<'e>
    where
        'a: 'e,
    {
        let (entry, slot) = self.slot.vacate(hash);
        self.counts.subtract_data(entry.view());
        expirer.entry_expired(entry.view());
        Absent {
            slot,
            counts: self.counts,
            capture: self.capture,
            expirer,
        }
    }

    /// Takes the entry out.
    pub fn remove(self) -> Entry {
        let is_captured = self.capture.is_some();
        if let Some(capture) = self.capture {
            capture.save(self.slot.get());
        }
        let entry = self.slot.remove();
        if is_captured {
            // It may be stored in another place.
            entry.view().set_saved(false);
        }
        self.counts.subtract_data(entry.view());
        entry
    }
}

impl Absent<'_> {
    /// Stores an entry with this place's key, whose access bits are set already. If the table would have to grow, nearby expired
    /// entries are removed first.
    #[inline]
    pub(crate) fn insert(self, entry: Entry) {
        let Self {
            mut slot,
            counts,
            capture,
            mut expirer,
        } = self;
        if capture.is_some() {
            entry.view().set_saved(true);
        }
        counts.add_data(entry.view());
        if slot.would_grow() && expirer.may_sweep() {
            let now = expirer.now;
            slot.sweep_segment(
                |entry| is_expired(entry, now),
                |entry| {
                    counts.subtract_data(entry.view());
                    expirer.entry_expired(entry.view());
                },
            );
        }
        let slot = slot.insert(entry);
        if expirer.is_observed() {
            expirer.key_created(slot.get().key());
        }
    }
}

impl Database {
    /// The place of a key, after what has expired of it is removed. `expirer` is called only for that and for an absent key.
    #[inline]
    pub(crate) fn place<'a>(
        &'a mut self,
        key: Key<'_>,
        now: Now,
        expirer: impl FnOnce() -> Expirer<'a>,
    ) -> Place<'a> {
        let capture = capture_of(&mut self.capture, &self.table, key.hash);
        let counts = &mut self.counts;
        match self.table.entry(key.hash, key.bytes) {
            Slot::Vacant(slot) => Place::Absent(Absent {
                slot,
                counts,
                capture,
                expirer: expirer(),
            }),
            Slot::Occupied(slot) => {
                let expired = check_expiry(slot.get(), now);
                let present = Present {
                    slot,
                    counts,
                    capture,
                };
                match expired {
                    Expired::Nothing => Place::Present(present),
                    Expired::Fields => {
                        Place::Present(present.without_expired_fields(&mut expirer()))
                    }
                    Expired::Entry => Place::Absent(present.expire(key.hash, expirer())),
                }
            }
        }
    }

    /// The live entry of a key, after what has expired of it is removed. `expirer` is called only for that.
    #[inline]
    pub(crate) fn find<'a, 'e>(
        &'a mut self,
        key: Key<'_>,
        now: Now,
        expirer: impl FnOnce() -> Expirer<'e>,
    ) -> Option<EntryRef<'a>>
    where
        'a: 'e,
    {
        let capture = capture_of(&mut self.capture, &self.table, key.hash);
        let slot = match self.table.entry(key.hash, key.bytes) {
            Slot::Occupied(slot) => slot,
            Slot::Vacant(_) => return None,
        };
        let expired = check_expiry(slot.get(), now);
        let present = Present {
            slot,
            counts: &mut self.counts,
            capture,
        };
        match expired {
            Expired::Nothing => Some(present.into_view()),
            Expired::Fields => {
                let mut expirer = expirer();
                match expirer.leaves_expired() {
                    false => Some(present.without_expired_fields(&mut expirer).into_view()),
                    true => Some(expirer.view_without_fields(present.into_view())),
                }
            }
            Expired::Entry => {
                let expirer = expirer();
                if !expirer.leaves_expired() {
                    present.expire(key.hash, expirer);
                }
                None
            }
        }
    }

    /// The entry of a key, even an expired one, as it is.
    pub(super) fn present(&mut self, key: Key<'_>) -> Option<Present<'_>> {
        let capture = capture_of(&mut self.capture, &self.table, key.hash);
        match self.table.entry(key.hash, key.bytes) {
            Slot::Vacant(_) => None,
            Slot::Occupied(slot) => Some(Present {
                slot,
                counts: &mut self.counts,
                capture,
            }),
        }
    }
}

/// The capture of a place, if the running snapshot has not visited it yet.
#[inline]
fn capture_of<'a>(
    capture: &'a mut Option<Box<Capture>>,
    table: &Table<Entry>,
    hash: u64,
) -> Option<&'a mut Capture> {
    match capture {
        None => None,
        Some(capture) => capture.of_position(table.position(hash)),
    }
}
