//! The background sweep: removes entries whose end has come and that nobody looks at.
//!
//! Each thread sweeps its own share of the shards, in slices, and stops when its time is used up. A slice
//! touches only entries with a deadline (the table marks their slots).

use std::sync::atomic::Ordering::Relaxed;

use crate::{Engine, Now};

/// Buckets per slice: some microseconds, the longest that a sweep holds a shard's lock.
const BUCKETS_PER_SLICE: usize = 64;

/// A share of at least one in this many dead entries, among those that a slice looked at, means that more sweeping pays.
const DEAD_SHARE: usize = 10;

impl Engine {
    /// Sweeps the shards `first`, `first + step`, ... once around, or until `in_time` says stop.
    ///
    /// Returns true if it found so much that it should be called again soon.
    pub fn sweep(
        &self,
        first: usize,
        step: usize,
        now: Now,
        mut in_time: impl FnMut() -> bool,
    ) -> bool {
        if self.settings.sweep_paused.load(Relaxed) {
            return false;
        }
        let mut found_much = false;
        for shard in (first..self.shards()).step_by(step) {
            for db in 0..self.databases() {
                let Ok(mut tx) = self.lock_shard(shard, db, now) else {
                    continue;
                };
                let database = &mut tx.databases(shard)[db];
                let (before, deadlines) = (database.sweep_position, database.deadlines());
                if deadlines == 0 {
                    continue;
                }
                let removed = database.sweep(now, BUCKETS_PER_SLICE);
                let wrapped = database.sweep_position <= before;
                tx.count_expired(shard, removed);
                drop(tx);
                found_much |= !wrapped && removed * DEAD_SHARE >= BUCKETS_PER_SLICE;
                if !in_time() {
                    return found_much;
                }
            }
        }
        found_much
    }
}
