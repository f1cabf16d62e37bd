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

use crate::{Engine, Key, Now, Tx};

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
    db: usize,
    ends_ms: Option<i64>,
}

impl Watched {
    /// True if the key, or a part of it, has come to its end since it is watched, unless it was changed before.
    pub fn is_over(&self, now: Now) -> bool {
        self.ends_ms.is_some_and(|ends_ms| ends_ms <= now.0)
    }
}

/// In order of hashes, so that all who watch a key stand together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    hash: u64,
    db: usize,
    watcher: u64,
}

struct Watch {
    key: Box<[u8]>,
    watcher: Arc<dyn Watcher>,
}

/// The watchers of one shard.
#[derive(Default)]
pub(crate) struct Watching {
    watches: Mutex<BTreeMap<Place, Watch>>,
}

impl Watching {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Place, Watch>> {
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

impl Tx<'_> {
    /// Lets the watcher of that number, which is nobody else's, hear of changes to a key of the selected database. `None` if
    /// it does already.
    ///
    /// # Panics
    /// If the key's shard is not locked.
    pub fn watch(
        &mut self,
        key: Key<'_>,
        number: u64,
        watcher: &Arc<dyn Watcher>,
    ) -> Option<Watched> {
        let (engine, db, now) = (self.engine(), self.db(), self.now());
        let shard = engine.shard_of(key.hash);
        // An end that has come already is left for others to notice.
        let is_there = self.view(key).is_some();
        let entry = is_there.then(|| self.peek(key)).flatten();
        let ends_ms = entry.and_then(|entry| {
            // A field that has ended already is no change to come.
            let field_ms = entry
                .first_field_deadline_ms()
                .filter(|&moment| moment > now.0);
            entry.expires_ms().into_iter().chain(field_ms).min()
        });
        let place = Place {
            hash: key.hash,
            db,
            watcher: number,
        };
        let mut watches = engine.watching(shard).lock();
        if watches.contains_key(&place) {
            return None;
        }
        let watch = Watch {
            key: key.bytes.into(),
            watcher: watcher.clone(),
        };
        watches.insert(place, watch);
        engine.add_observer(shard);
        Some(Watched {
            hash: key.hash,
            db,
            ends_ms,
        })
    }

    /// Tells all who watch a key of database `db` that is there, or that is in database `other`, with which `db` is about to
    /// be exchanged.
    ///
    /// # Panics
    /// If not all shards are locked.
    pub(crate) fn notify_watchers(&mut self, db: usize, other: Option<usize>) {
        let (engine, own_db) = (self.engine(), self.db());
        for shard in 0..engine.shards() {
            assert!(self.holds(shard), "a database is changed without all locks");
            if !engine.is_observed(shard) {
                continue;
            }
            let watches = engine.watching(shard).lock();
            for (place, watch) in watches.iter().filter(|(place, _)| place.db == db) {
                let key = Key {
                    bytes: &watch.key,
                    hash: place.hash,
                };
                let mut is_in = |db| {
                    self.set_db(db);
                    self.view(key).is_some()
                };
                if is_in(db) || other.is_some_and(is_in) {
                    watch.watcher.key_changed();
                }
            }
        }
        self.set_db(own_db);
    }
}

impl Engine {
    /// Ends the watching of a key by the watcher of that number.
    pub fn unwatch(&self, watched: &Watched, number: u64) {
        let shard = self.shard_of(watched.hash);
        let place = Place {
            hash: watched.hash,
            db: watched.db,
            watcher: number,
        };
        if self.watching(shard).lock().remove(&place).is_some() {
            self.remove_observer(shard);
        }
    }

    /// How many keys are watched; one that several watch counts once for each.
    pub fn watched_count(&self) -> usize {
        (0..self.shards())
            .map(|shard| self.watching(shard).lock().len())
            .sum()
    }
}
