//! Which clients watch a key: WATCH.
//!
//! ```text
//! shard ─► (hash of the key, database, watcher's number) ─► key, watcher
//! ```
//!
//! - A watcher is notified, under the lock of the shard, of every change to a key it watches
//!   ([`Tx::changed`](crate::Tx::changed)).
//! - Expiry is not such a change: it may be noticed late, or never. So [`Watched`] remembers when the key expires, and
//!   [`Watched::has_expired`] compares that with the clock.
//! - EXEC decides by these notifications under the locks of the watched keys. Then none is still on its way.
//! - As long as a watcher has not been notified, each of its keys exists, or does not exist, just as it did when the watch began. So
//!   emptying a database looks at no keys: it notifies every watcher of a key that existed. One client may watch a million.
//!
//! As for waiters, each shard has a mutex for its watchers, the last lock to be taken. Two keys of the same hash are not
//! distinguished: the watcher of one is notified of the other, too. Hashes have 64 bits and a secret seed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::key::Now;

/// A client that watches keys.
pub trait Watcher: Send + Sync {
    /// Called when a key that it watches was changed. The key's shard is locked.
    fn key_changed(&self);
}

/// A watched key, to be passed to [`Engine::unwatch`](crate::Engine::unwatch).
#[derive(Clone, Copy, Debug)]
pub struct Watched {
    /// The hash of the key.
    pub hash: u64,
    pub(crate) db: usize,
    pub(crate) expires_ms: Option<i64>,
}

impl Watched {
    /// True if the deadline has passed that the key, or a field of it, had when the watch began. If the deadline was changed since,
    /// the watcher was notified of that.
    pub fn has_expired(&self, now: Now) -> bool {
        self.expires_ms
            .is_some_and(|expires_ms| expires_ms <= now.0)
    }
}

/// Ordered by hash, so that all watchers of a key are neighbours.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) hash: u64,
    pub(crate) db: usize,
    pub(crate) watcher: u64,
}

pub(crate) struct Watch {
    pub(crate) key: Box<[u8]>,
    pub(crate) watcher: Arc<dyn Watcher>,
    /// The key existed when the watch began.
    pub(crate) existed: bool,
}

/// The keys of one shard and one database that one watcher watches.
pub(crate) struct Group {
    pub(crate) watcher: Arc<dyn Watcher>,
    /// How many of them existed when their watch began.
    pub(crate) existing: usize,
    /// How many did not.
    absent: usize,
}

impl Group {
    fn count(&mut self, existed: bool) -> &mut usize {
        match existed {
            true => &mut self.existing,
            false => &mut self.absent,
        }
    }
}

/// The watches of one shard.
#[derive(Default)]
pub(crate) struct Watches {
    pub(crate) by_key: BTreeMap<Place, Watch>,
    /// By database and the watcher's number.
    groups: BTreeMap<(usize, u64), Group>,
}

impl Watches {
    /// False if the watcher watches the key already.
    pub(crate) fn add(&mut self, place: Place, watch: Watch) -> bool {
        if self.by_key.contains_key(&place) {
            return false;
        }
        let group = self.groups.entry((place.db, place.watcher));
        let group = group.or_insert_with(|| Group {
            watcher: watch.watcher.clone(),
            existing: 0,
            absent: 0,
        });
        *group.count(watch.existed) += 1;
        self.by_key.insert(place, watch);
        true
    }

    /// False if there is no such watch.
    pub(crate) fn remove(&mut self, place: Place) -> bool {
        let Some(watch) = self.by_key.remove(&place) else {
            return false;
        };
        let group = (place.db, place.watcher);
        if let Some(counts) = self.groups.get_mut(&group) {
            *counts.count(watch.existed) -= 1;
            if counts.existing + counts.absent == 0 {
                self.groups.remove(&group);
            }
        }
        true
    }

    /// The groups of a database.
    pub(crate) fn groups(&self, db: usize) -> impl Iterator<Item = &Group> {
        let groups = self.groups.range((db, 0)..=(db, u64::MAX));
        groups.map(|(_, group)| group)
    }
}

/// The watchers of one shard.
#[derive(Default)]
pub(crate) struct Watching {
    watches: Mutex<Watches>,
}

impl Watching {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Watches> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notifies all watchers of a key.
    pub(crate) fn notify(&self, db: usize, hash: u64) {
        let place = |watcher| Place { hash, db, watcher };
        let watches = self.lock();
        for watch in watches.by_key.range(place(0)..=place(u64::MAX)) {
            watch.1.watcher.key_changed();
        }
    }
}
