//! Deadlines that clients of a writable replica have set.
//!
//! A replica leaves expired keys to its primary, but the primary does not know these. So the replica remembers such keys, shard by shard, and its
//! sweep removes them when they expire. A key that the primary changes later is the primary's again.

use std::sync::atomic::Ordering::Relaxed;

use crate::shard::local_deadlines::LocalDeadlines;
use crate::{Engine, Key, Now, Place, Tx};

impl Engine {
    /// From now on remembers, or no longer remembers, keys that get a deadline in sections in which keys expire.
    pub fn set_notes_local_deadlines(&self, notes: bool) {
        if self.settings.notes_local_deadlines.swap(notes, Relaxed) == notes {
            return;
        }
        for shard in 0..self.shards() {
            match notes {
                true => self.shards.add_observer(shard),
                false => self.shards.remove_observer(shard),
            }
        }
    }

    /// How many keys are remembered.
    pub fn local_deadlines(&self) -> usize {
        self.local_deadlines.load(Relaxed)
    }

    /// Removes those of a few remembered keys of a shard that have expired. Returns how many. A busy shard is skipped.
    pub(crate) fn sweep_local(&self, shard: usize, now: Now) -> usize {
        if self.local_deadlines.load(Relaxed) == 0 {
            return 0;
        }
        let Ok(mut tx) = self.lock_shard(shard, 0, now) else {
            return 0;
        };
        let expired_before = *tx.expired_mut(shard);
        for (db, bytes) in tx.local_deadlines(shard).slice() {
            let key = Key::new(&bytes);
            // This removes what has expired of the key.
            let can_expire = matches!(tx.place_in(db, key), Place::Present(present) if present.view().can_expire());
            if !can_expire {
                tx.forget_local_deadline(db, key);
            }
        }
        let removed = *tx.expired_mut(shard) - expired_before;
        tx.set_effects_loose();
        if tx.has_ready() {
            // No waiter needs a further shard to be served from a key that is gone.
            tx.serve_waiters();
        }
        removed as usize
    }
}

impl Tx<'_> {
    fn local_deadlines(&mut self, shard: usize) -> &mut LocalDeadlines {
        self.shard_and_extras(shard)
            .0
            .local_deadlines
            .get_or_insert_default()
    }

    /// Remembers a key that was just changed if it can expire and a client has changed it; forgets it if the primary has.
    pub(crate) fn note_local_deadline(&mut self, db: usize, key: Key<'_>) {
        let is_local = self.expiry_time() == self.now();
        let database = &self.shard_of(key).databases[db];
        let entry = database.table.find(key.hash, key.bytes);
        let can_expire = entry.is_some_and(|entry| entry.can_expire());
        if !is_local || !can_expire {
            self.forget_local_deadline(db, key);
            return;
        }
        let shard = self.engine().shard_of(key.hash);
        if self
            .local_deadlines(shard)
            .keys
            .insert((db, key.bytes.into()))
        {
            self.engine().local_deadlines.fetch_add(1, Relaxed);
        }
    }

    fn forget_local_deadline(&mut self, db: usize, key: Key<'_>) {
        let shard = self.engine().shard_of(key.hash);
        if self.engine().local_deadlines.load(Relaxed) > 0
            && self
                .local_deadlines(shard)
                .keys
                .remove(&(db, key.bytes.into()))
        {
            self.engine().local_deadlines.fetch_sub(1, Relaxed);
        }
    }

    /// Forgets all remembered keys, because all data is replaced, or because this server expires all keys itself from now on.
    ///
    /// # Panics
    /// If not all shards are locked.
    pub fn forget_local_deadlines(&mut self) {
        assert!(self.holds_all(), "keys of all shards are forgotten");
        for shard in 0..self.engine().shards() {
            self.shard_and_extras(shard).0.local_deadlines = None;
        }
        self.engine().local_deadlines.store(0, Relaxed);
    }
}
