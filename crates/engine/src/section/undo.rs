//! What sections of scripts can do beside: above all, undo what they did when they find out late that they need a lock which
//! somebody else holds.
//!
//! From [`Tx::begin_undo`] on, every entry is saved before it is first changed, whichever way: all changes go through
//! [`Tx::place_in`], or need all locks, with which nothing has to be undone. Who watches or waits for keys is told when it is
//! certain that the changes stay, which is still under the locks.

use damselfly_value::Entry;

use crate::section::tx::Effects;
use crate::{Key, Place, Tx};

/// What a section has to do to undo its changes.
#[derive(Debug)]
pub(crate) struct Undo {
    saved: Vec<Saved>,
    /// Bytes of the saved entries.
    bytes: usize,
    /// Changed keys of which nobody was told yet.
    unannounced: Vec<(usize, Box<[u8]>)>,
    /// What the section had done before.
    before: Effects,
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
        // Few are saved, and what was just saved is asked for next.
        self.saved.iter().rev().any(is_it)
    }

    /// Notes a change, to be told later.
    pub(crate) fn note_unannounced(&mut self, db: usize, key: Key<'_>) {
        let is_it =
            |(of, unannounced): &(usize, Box<[u8]>)| *of == db && **unannounced == *key.bytes;
        if !self.unannounced.iter().any(is_it) {
            self.unannounced.push((db, key.bytes.into()));
        }
    }
}

impl Tx<'_> {
    /// From now on all changes can be undone.
    ///
    /// # Panics
    /// If all shards are locked.
    pub fn begin_undo(&mut self) {
        assert!(!self.holds_all(), "changes to all keys are not saved");
        let before = self.effects();
        self.hold_events();
        self.extras().undo.get_or_insert_with(|| Undo {
            saved: Vec::with_capacity(4),
            bytes: 0,
            unannounced: Vec::new(),
            before,
        });
    }

    /// True between [`Tx::begin_undo`] and [`Tx::undo`] or [`Tx::commit`].
    pub fn can_undo(&self) -> bool {
        self.extras
            .as_ref()
            .is_some_and(|extras| extras.undo.is_some())
    }

    /// How many keys are saved, and the bytes of what they held.
    pub fn saved(&self) -> (usize, usize) {
        let undo = self.extras.as_ref().and_then(|extras| extras.undo.as_ref());
        undo.map_or((0, 0), |undo| (undo.saved.len(), undo.bytes))
    }

    /// Saves what a key of database `db` holds, unless changes can't be undone or it is saved already.
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
            // A large collection is shared, not copied.
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

    /// Undoes all that was done since [`Tx::begin_undo`], and forgets the events since [`Tx::hold_events`].
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
    }

    /// Lets all changes stay, those to come included, and tells who watches or waits for the keys.
    pub fn commit(&mut self) {
        let undo = self.extras.as_mut().and_then(|extras| extras.undo.take());
        for (db, key) in undo.into_iter().flat_map(|undo| undo.unannounced) {
            self.notify_observers(db, Key::new(&key));
        }
        self.publish_events();
    }
}
