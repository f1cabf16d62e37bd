//! Undo: the section of a script reverts its changes when it finds out late that it needs a lock which another section holds.
//!
//! From [`Tx::begin_undo`] on, every entry is saved before its first change: all changes either save it ([`Tx::place_in`]) or need
//! all locks, and a section with all locks never has to undo anything. Watchers, waiters and trackers are notified when the
//! changes are certain to stay, which is still under the locks.

use damselfly_log::Mark;
use damselfly_value::Entry;

use crate::section::tx::Effects;
use crate::{Key, Place, Tx};

/// The undo log of a section.
#[derive(Debug)]
pub(crate) struct Undo {
    saved: Vec<Saved>,
    /// Bytes of the saved entries.
    bytes: usize,
    /// Changed keys whose observers are not notified yet.
    unannounced: Vec<(usize, Box<[u8]>)>,
    /// The section's statistics when the log began.
    before: Effects,
    /// The end of its record of effects when the log began.
    record: Option<Mark>,
}

/// A key as it was.
#[derive(Debug)]
struct Saved {
    db: usize,
    hash: u64,
    was: Was,
}

#[derive(Debug)]
enum Was {
    Present(Entry),
    Absent(Box<[u8]>),
}

impl Was {
    fn key(&self) -> &[u8] {
        match self {
            Self::Present(entry) => entry.view().key(),
            Self::Absent(key) => key,
        }
    }
}

impl Undo {
    fn has(&self, db: usize, key: Key<'_>) -> bool {
        let is_it = |saved: &Saved| {
            saved.hash == key.hash && saved.db == db && saved.was.key() == key.bytes
        };
        // Few keys are saved, and a key that was just saved is likely to be asked for next.
        self.saved.iter().rev().any(is_it)
    }

    /// Notes a changed key, whose observers are notified later.
    pub(crate) fn note_unannounced(&mut self, db: usize, key: Key<'_>) {
        let is_it =
            |(of, unannounced): &(usize, Box<[u8]>)| *of == db && **unannounced == *key.bytes;
        if !self.unannounced.iter().any(is_it) {
            self.unannounced.push((db, key.bytes.into()));
        }
    }
}

impl Tx<'_> {
    /// Starts the undo log: from now on all changes can be undone.
    ///
    /// # Panics
    /// If all shards are locked.
    pub fn begin_undo(&mut self) {
        assert!(
            !self.holds_all(),
            "a section with all locks does not save keys"
        );
        let before = self.effects();
        let record = self.record.as_ref().map(|record| record.mark());
        self.hold_events();
        self.extras().undo.get_or_insert_with(|| Undo {
            saved: Vec::with_capacity(4),
            bytes: 0,
            unannounced: Vec::new(),
            before,
            record,
        });
    }

    /// True between [`Tx::begin_undo`] and [`Tx::undo`] or [`Tx::commit`].
    pub fn can_undo(&self) -> bool {
        self.extras
            .as_ref()
            .is_some_and(|extras| extras.undo.is_some())
    }

    /// How many keys are saved, and the bytes of their saved entries.
    pub fn saved(&self) -> (usize, usize) {
        let undo = self.extras.as_ref().and_then(|extras| extras.undo.as_ref());
        undo.map_or((0, 0), |undo| (undo.saved.len(), undo.bytes))
    }

    /// Saves the entry of a key of database `db`, unless there is no undo log or the key is saved already.
    pub fn save(&mut self, db: usize, key: Key<'_>) {
        let Some(undo) = self.extras.as_ref().and_then(|extras| extras.undo.as_ref()) else {
            return;
        };
        if undo.has(db, key) {
            return;
        }
        let was = match self.view_in(db, key) {
            Some(entry) => Was::Present(entry.to_entry(key.bytes)),
            None => Was::Absent(key.bytes.into()),
        };
        let bytes = match &was {
            // Large collections are shared, not copied.
            Was::Present(entry) if entry.view().is_large() => 0,
            Was::Present(entry) => entry.view().allocated_bytes(),
            Was::Absent(key) => key.len(),
        };
        let hash = key.hash;
        if let Some(undo) = &mut self.extras().undo {
            undo.saved.push(Saved { db, hash, was });
            undo.bytes += bytes;
        }
    }

    /// Undoes all changes since [`Tx::begin_undo`], and discards the events since [`Tx::hold_events`].
    pub fn undo(&mut self) {
        self.restore();
        self.discard_events();
    }

    fn restore(&mut self) {
        let Some(undo) = self.extras.as_mut().and_then(|extras| extras.undo.take()) else {
            return;
        };
        for Saved { db, hash, was } in undo.saved {
            let place = |tx: &mut Self, bytes: &[u8], entry: Option<Entry>| match (
                tx.place_in(db, Key { bytes, hash }),
                entry,
            ) {
                (Place::Present(mut present), Some(entry)) => {
                    present.update(|changed| *changed = entry);
                }
                (Place::Present(present), None) => drop(present.remove()),
                (Place::Absent(absent), Some(entry)) => absent.insert(entry),
                (Place::Absent(_), None) => {}
            };
            match was {
                Was::Present(entry) => {
                    let key = entry.view().key().to_vec();
                    place(self, &key, Some(entry));
                }
                Was::Absent(key) => place(self, &key, None),
            }
        }
        self.effects = undo.before;
        if let Some(record) = self.record.as_mut() {
            record.cut_back(undo.record.unwrap_or_default());
        }
    }

    /// Makes all changes permanent, later ones included, and notifies the observers of the changed keys.
    pub fn commit(&mut self) {
        let undo = self.extras.as_mut().and_then(|extras| extras.undo.take());
        for (db, key) in undo.into_iter().flat_map(|undo| undo.unannounced) {
            self.notify_observers(db, Key::new(&key));
        }
        self.publish_events();
    }
}
