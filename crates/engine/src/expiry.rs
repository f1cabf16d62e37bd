//! The background sweep: removes entries whose end has come and that nobody looks at.
//!
//! Each thread sweeps its own share of the shards, slice by slice, and stops when its time is used up. A slice touches
//! only entries with a deadline: the table marks their slots.

use std::sync::atomic::Ordering::Relaxed;

use crate::{Engine, Now};

/// Buckets per slice: some ten microseconds, the longest that a sweep holds a shard's lock.
const BUCKETS_PER_SLICE: usize = 64;

/// What one slice found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swept {
    /// Entries removed.
    pub removed: usize,
    /// Every table of the shard was gone through to its end, or has no deadlines.
    pub finished: bool,
}

impl Engine {
    /// Sweeps one slice of each database of a shard. A busy shard is left for another time.
    pub fn sweep(&self, shard: usize, now: Now) -> Swept {
        let mut swept = Swept {
            removed: 0,
            finished: true,
        };
        if self.settings.sweep_paused.load(Relaxed) {
            return swept;
        }
        let Ok(mut tx) = self.lock_shard(shard, 0, now) else {
            return swept;
        };
        for database in tx.databases(shard) {
            if database.deadlines() > 0 {
                swept.removed += database.sweep(now, BUCKETS_PER_SLICE);
                swept.finished &= database.sweep_position == 0;
            }
        }
        *tx.expired_mut(shard) += swept.removed as u64;
        swept
    }

    /// Entries removed since the start because their end had come. Never falls from one call to the next, although busy
    /// shards are left out.
    pub fn expired(&self, now: Now) -> u64 {
        let seen: u64 = (0..self.shards())
            .filter_map(|shard| {
                self.lock_shard(shard, 0, now)
                    .ok()
                    .map(|mut tx| *tx.expired_mut(shard))
            })
            .sum();
        self.expired_seen.fetch_max(seen, Relaxed).max(seen)
    }

    /// Starts the count of [`Engine::expired`] again at zero; busy shards keep theirs.
    pub fn reset_expired(&self, now: Now) {
        for shard in 0..self.shards() {
            if let Ok(mut tx) = self.lock_shard(shard, 0, now) {
                *tx.expired_mut(shard) = 0;
            }
        }
        self.expired_seen.store(0, Relaxed);
    }
}
