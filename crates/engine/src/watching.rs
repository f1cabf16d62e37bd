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
//! - A watcher that was told of no change so far watches keys that exist, or don't, just as they did when it began. So emptying a
//!   database looks at no keys: it tells every watcher of a key that existed. One client may watch a million.
//!
//! As for waiters, each shard has a mutex of its own for them, the last to be taken. Two keys of one hash are told apart by
//! nothing: the watcher of one would also hear of the other. Hashes have 64 bits and a secret seed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{Engine, Key, Now, Tx};

/// How many watched keys SWAPDB looks up in the other database, under all locks. The watchers of further ones are told of a change
/// whether there is one or not: that is always safe.
const LOOKUPS_MAX: usize = 1 << 16;

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
    /// The key existed when the watch began.
    existed: bool,
}

/// The keys of one shard and one database that one watcher watches.
struct Group {
    watcher: Arc<dyn Watcher>,
    /// How many of them existed when their watch began.
    existing: usize,
    /// How many did not.
    absent: usize,
}

#[derive(Default)]
struct Watches {
    by_key: BTreeMap<Place, Watch>,
    /// By database and the watcher's number.
    groups: BTreeMap<(usize, u64), Group>,
}

impl Watches {
    /// False if the watcher watches the key already.
    fn add(&mut self, place: Place, watch: Watch) -> bool {
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
    fn remove(&mut self, place: Place) -> bool {
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
    fn groups(&self, db: usize) -> impl Iterator<Item = &Group> {
        let groups = self.groups.range((db, 0)..=(db, u64::MAX));
        groups.map(|(_, group)| group)
    }
}

impl Group {
    fn count(&mut self, existed: bool) -> &mut usize {
        match existed {
            true => &mut self.existing,
            false => &mut self.absent,
        }
    }
}

/// The watchers of one shard.
#[derive(Default)]
pub(crate) struct Watching {
    watches: Mutex<Watches>,
}

impl Watching {
    fn lock(&self) -> MutexGuard<'_, Watches> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells all who watch a key.
    pub(crate) fn tell(&self, db: usize, hash: u64) {
        let place = |watcher| Place { hash, db, watcher };
        let watches = self.lock();
        for watch in watches.by_key.range(place(0)..=place(u64::MAX)) {
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
        let watch = Watch {
            key: key.bytes.into(),
            watcher: watcher.clone(),
            existed: is_there,
        };
        if !engine.watching(shard).lock().add(place, watch) {
            return None;
        }
        engine.add_observer(shard);
        Some(Watched {
            hash: key.hash,
            db,
            ends_ms,
        })
    }

    /// Tells all who watch a key of database `db` that exists, or that exists in database `other`, with which `db` is about to be
    /// exchanged. Beyond [`LOOKUPS_MAX`] keys that may exist only there, their watchers are told in any case.
    ///
    /// # Panics
    /// If not all shards are locked.
    pub(crate) fn notify_watchers(&mut self, db: usize, other: Option<usize>) {
        let engine = self.engine();
        let mut lookups_left = LOOKUPS_MAX;
        for shard in 0..engine.shards() {
            assert!(self.holds(shard), "a database is changed without all locks");
            if !engine.is_observed(shard) {
                continue;
            }
            let watches = engine.watching(shard).lock();
            let existing = watches.groups(db).filter(|group| group.existing > 0);
            existing.for_each(|group| group.watcher.key_changed());
            let Some(other) = other else { continue };
            let is_undecided = watches.groups(db).any(|group| group.existing == 0);
            if !is_undecided || self.databases(shard)[other].is_empty() {
                continue;
            }
            if watches.by_key.len() > lookups_left {
                let undecided = watches.groups(db);
                undecided.for_each(|group| group.watcher.key_changed());
                continue;
            }
            lookups_left -= watches.by_key.len();
            for (place, watch) in &watches.by_key {
                let key = Key {
                    bytes: &watch.key,
                    hash: place.hash,
                };
                if place.db == db && !watch.existed && self.view_in(other, key).is_some() {
                    watch.watcher.key_changed();
                }
            }
        }
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
        if self.watching(shard).lock().remove(place) {
            self.remove_observer(shard);
        }
    }

    /// How many keys are watched; one that several watch counts once for each.
    pub fn watched_count(&self) -> usize {
        (0..self.shards())
            .map(|shard| self.watching(shard).lock().by_key.len())
            .sum()
    }
}
