//! Operations on whole databases: emptying, swapping and counting.

use std::sync::atomic::Ordering::Relaxed;

use crate::section::garbage;
use crate::{Busy, Database, Tx};

/// Totals of one database over all shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyspaceTotals {
    /// Keys.
    pub keys: usize,
    /// Keys with a deadline.
    pub deadlines: usize,
    /// Hashes without a deadline that have fields with deadlines.
    pub timed_hashes: usize,
    /// Bytes of the entries.
    pub entry_bytes: usize,
    /// Bytes of the tables.
    pub table_bytes: usize,
}

impl std::ops::AddAssign<&Database> for KeyspaceTotals {
    fn add_assign(&mut self, database: &Database) {
        self.keys += database.len();
        self.deadlines += database.deadlines();
        self.timed_hashes += database.timed_hashes();
        self.entry_bytes += database.entry_bytes();
        self.table_bytes += database.table_bytes();
    }
}

impl Tx<'_> {
    /// Removes all keys of a database. Their memory is freed by this thread when the section has released its locks, or `later` by
    /// the background thread.
    ///
    /// # Panics
    /// If not all shards are locked.
    pub fn flush(&mut self, db: usize, later: bool) {
        self.notify_watchers(db, None);
        let engine = self.engine();
        let mut taken: Vec<_> = (0..engine.shards())
            .map(|shard| {
                let fresh = Database::new(engine.shard_bits(), shard as u32);
                std::mem::replace(&mut self.databases_mut(shard)[db], fresh)
            })
            .collect();
        taken.iter_mut().for_each(Database::become_garbage);
        self.changed_many(taken.iter().map(Database::len).sum());
        let taken: Vec<_> = taken
            .into_iter()
            .filter_map(Database::detach)
            .filter(|database| !database.is_empty())
            .collect();
        if later {
            garbage::add_databases(taken);
        } else {
            self.free_after_release(taken);
        }
        self.note_all_ready(db);
    }

    /// Swaps the keys of two databases.
    ///
    /// # Panics
    /// If not all shards are locked.
    pub fn swap_databases(&mut self, a: usize, b: usize) {
        if a != b {
            self.notify_watchers(a, Some(b));
            self.notify_watchers(b, Some(a));
            // Redis does not do this, so its clients keep cached values that they have read in the other database.
            self.invalidate_all();
        }
        for shard in 0..self.engine().shards() {
            self.databases_mut(shard).swap(a, b);
        }
        for db in [a, b] {
            self.note_all_ready(db);
        }
        self.changed_many(1);
    }

    /// Exchanges all keys with those of another engine that has as many shards and databases. The other one has no clients. Watched keys
    /// count as changed, but the caller invalidates what clients have cached.
    ///
    /// # Panics
    /// If not all shards of both are locked, or the two differ in shape.
    pub fn swap_contents(&mut self, other: &mut Tx<'_>) {
        let shards = self.engine().shards();
        assert_eq!(shards, other.engine().shards(), "the same shards");
        self.notify_all_watchers();
        let mut keys = 0;
        for shard in 0..shards {
            let (own, new) = (self.databases_mut(shard), other.databases_mut(shard));
            keys += own.iter().map(Database::len).sum::<usize>();
            own.swap_with_slice(new);
        }
        for db in 0..self.engine().databases() {
            self.note_all_ready(db);
        }
        self.changed_many(keys.max(1));
    }

    /// How many keys the selected database has.
    ///
    /// Expired keys are removed first from the first buckets of each shard: all of them in a database of some thousand keys. In a
    /// larger one, those that the background sweep has not found yet are counted.
    ///
    /// # Panics
    /// If not all shards are locked.
    pub fn count(&mut self) -> usize {
        const BUCKETS_PER_SHARD: usize = 8;
        let db = self.db();
        let settings = &self.engine().settings;
        let paused = settings.sweep_paused.load(Relaxed) || settings.leaves_expired(self.now());
        for shard in 0..self.engine().shards() {
            if !paused {
                self.sweep(shard, db, |database, mut expirer| {
                    database.sweep_from(&mut 0, &mut expirer, BUCKETS_PER_SHARD)
                });
            }
        }
        self.totals(db).keys
    }

    /// About how many keys the selected database has, expired ones included, estimated from its first shard.
    ///
    /// # Errors
    /// If that shard is busy.
    pub fn estimated_keys(&mut self) -> Result<usize, Busy> {
        let (shards, db) = (self.engine().shards(), self.db());
        self.with_shard(0, |tx| tx.databases(0)[db].len() * shards)
    }

    /// Totals of one database.
    ///
    /// # Panics
    /// If not all shards are locked.
    pub fn totals(&mut self, db: usize) -> KeyspaceTotals {
        let mut totals = KeyspaceTotals::default();
        for shard in 0..self.engine().shards() {
            totals += &self.databases(shard)[db];
        }
        totals
    }
}
