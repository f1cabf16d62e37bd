//! Watching keys for changes.

use std::sync::Arc;

use crate::observers::watched_keys::{Place, Watch, Watched, Watcher};
use crate::{Engine, Key, Tx};

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
    /// Ends the watching of a key by the watcher of that number.
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

    /// How many keys are watched; one that several watch counts once for each.
    pub fn watched_count(&self) -> usize {
        (0..self.shards())
            .map(|shard| self.shards.observers(shard).watching.lock().len())
            .sum()
    }
}
