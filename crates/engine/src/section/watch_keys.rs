//! Watching keys for changes: WATCH.

use std::sync::Arc;

use crate::observers::watched_keys::{Place, Watch, Watched, Watcher};
use crate::{Engine, Key, Tx};

/// How many watched keys SWAPDB looks up in the other database, under all locks. The watchers of further ones are notified
/// in any case: that is always safe.
const LOOKUPS_MAX: usize = 1 << 16;

impl Tx<'_> {
    /// Has a watcher, whose number is unique, notified of changes to a key of the selected database. `None` if it watches the key
    /// already.
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
        // If the key has expired already, its removal is left to others.
        let exists = self.view(key).is_some();
        let entry = exists.then(|| self.peek(key)).flatten();
        let expires_ms = entry.and_then(|entry| {
            // A field that has expired already is not a future change.
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
            existed: exists,
        };
        let watching = &engine.shards.observers(shard).watching;
        if !watching.lock().add(place, watch) {
            return None;
        }
        engine.shards.add_observer(shard);
        Some(Watched {
            hash: key.hash,
            db,
            expires_ms,
        })
    }

    /// Notifies all clients that watch keys, because all data was replaced.
    ///
    /// # Panics
    /// If not all shards are locked.
    pub fn notify_all_watchers(&mut self) {
        let engine = self.engine();
        for shard in 0..engine.shards() {
            assert!(self.holds(shard), "a database is changed without all locks");
            if !engine.shards.is_observed(shard) {
                continue;
            }
            let watches = engine.shards.observers(shard).watching.lock();
            for db in 0..engine.databases() {
                watches
                    .groups(db)
                    .for_each(|group| group.watcher.key_changed());
            }
        }
    }

    /// Notifies all watchers of keys of database `db` that exist there, or in database `other`, with which `db` is about to be
    /// swapped. Beyond [`LOOKUPS_MAX`] keys that may exist only in `other`, their watchers are notified in any case.
    ///
    /// # Panics
    /// If not all shards are locked.
    pub(crate) fn notify_watchers(&mut self, db: usize, other: Option<usize>) {
        let engine = self.engine();
        let mut lookups_left = LOOKUPS_MAX;
        for shard in 0..engine.shards() {
            assert!(self.holds(shard), "a database is changed without all locks");
            if !engine.shards.is_observed(shard) {
                continue;
            }
            let watches = engine.shards.observers(shard).watching.lock();
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
    /// Stops the watcher of that number from watching a key.
    pub fn unwatch(&self, watched: &Watched, number: u64) {
        let shard = self.shard_of(watched.hash);
        let place = Place {
            hash: watched.hash,
            db: watched.db,
            watcher: number,
        };
        let watching = &self.shards.observers(shard).watching;
        if watching.lock().remove(place) {
            self.shards.remove_observer(shard);
        }
    }

    /// How many keys are watched; a key with several watchers counts once for each.
    pub fn watched_count(&self) -> usize {
        (0..self.shards())
            .map(|shard| self.shards.observers(shard).watching.lock().by_key.len())
            .sum()
    }
}
