//! Watching keys for changes: WATCH.

use std::sync::Arc;

use crate::observers::watched_keys::{Place, Watch, Watched, Watcher};
use crate::{Engine, Key, Tx};

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
        let mut watches = engine.shards.observers(shard).watching.lock();
        if watches.contains_key(&place) {
            return None;
        }
        let watch = Watch {
            key: key.bytes.into(),
            watcher: watcher.clone(),
        };
        watches.insert(place, watch);
        engine.shards.add_observer(shard);
        Some(Watched {
            hash: key.hash,
            db,
            expires_ms,
        })
    }

    /// Notifies all watchers of keys of database `db` that exist there, or in database `other`, with which `db` is about to be
    /// swapped.
    ///
    /// # Panics
    /// If not all shards are locked.
    pub(crate) fn notify_watchers(&mut self, db: usize, other: Option<usize>) {
        let (engine, own_db) = (self.engine(), self.db());
        for shard in 0..engine.shards() {
            assert!(self.holds(shard), "a database is changed without all locks");
            if !engine.shards.is_observed(shard) {
                continue;
            }
            let watches = engine.shards.observers(shard).watching.lock();
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
    /// Stops the watcher of that number from watching a key.
    pub fn unwatch(&self, watched: &Watched, number: u64) {
        let shard = self.shard_of(watched.hash);
        let place = Place {
            hash: watched.hash,
            db: watched.db,
            watcher: number,
        };
        if self
            .shards
            .observers(shard)
            .watching
            .lock()
            .remove(&place)
            .is_some()
        {
            self.shards.remove_observer(shard);
        }
    }

    /// How many keys are watched; a key with several watchers counts once for each.
    pub fn watched_count(&self) -> usize {
        (0..self.shards())
            .map(|shard| self.shards.observers(shard).watching.lock().len())
            .sum()
    }
}
