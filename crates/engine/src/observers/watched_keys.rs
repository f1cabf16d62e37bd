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
}

/// The watchers of one shard.
#[derive(Default)]
pub(crate) struct Watching {
    watches: Mutex<BTreeMap<Place, Watch>>,
}

impl Watching {
    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeMap<Place, Watch>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notifies all watchers of a key.
    pub(crate) fn notify(&self, db: usize, hash: u64) {
        let place = |watcher| Place { hash, db, watcher };
        for watch in self.lock().range(place(0)..=place(u64::MAX)) {
            watch.1.watcher.key_changed();
        }
    }
}
