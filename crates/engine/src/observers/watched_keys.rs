//! Who watches a key: WATCH.
//!
//! ```text
//! shard ─► (hash of the key, database, watcher's number) ─► key, watcher
//! ```
//!
//! - A watcher is told, under the lock of the shard, of every change to a key it watches ([`Tx::changed`]).
//! - The end of a key is no change that anybody makes: it may be noticed late, or never. So [`Watched`] remembers when the
//!   key ends, and [`Watched::is_over`] compares that with the clock.
//! - Who decides by what it was told holds the locks of the watched keys meanwhile. Then nothing is on its way.
//!
//! As for waiters, each shard has a mutex of its own for them, the last to be taken. Two keys of one hash are told apart by
//! nothing: the watcher of one would also hear of the other. Hashes have 64 bits and a secret seed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::key::Now;

/// Somebody who watches keys.
pub trait Watcher: Send + Sync {
    /// A key that it watches was changed. Its shard is locked.
    fn key_changed(&self);
}

/// A key that is watched: to be handed back to [`Engine::unwatch`].
#[derive(Clone, Copy, Debug)]
pub struct Watched {
    /// The hash of the key.
    pub hash: u64,
    pub(crate) db: usize,
    pub(crate) ends_ms: Option<i64>,
}

impl Watched {
    /// True if the key, or a part of it, has come to its end since it is watched, unless it was changed before.
    pub fn is_over(&self, now: Now) -> bool {
        self.ends_ms.is_some_and(|ends_ms| ends_ms <= now.0)
    }
}

/// In order of hashes, so that all who watch a key stand together.
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

    /// Tells all who watch a key.
    pub(crate) fn tell(&self, db: usize, hash: u64) {
        let place = |watcher| Place { hash, db, watcher };
        for watch in self.lock().range(place(0)..=place(u64::MAX)) {
            watch.1.watcher.key_changed();
        }
    }
}
