//! The background sweep: removes entries, and fields of hashes, whose end has come and that nobody looks at.
//!
//! Each thread sweeps its own share of the shards, slice by slice, and stops when its time is used up. A slice touches
//! only entries with a deadline, or with fields that have one: the table marks their slots.

use std::sync::atomic::Ordering::Relaxed;

use crate::{Engine, Now};

/// Buckets per slice: some ten microseconds, the longest that a sweep holds a shard's lock.
const BUCKETS_PER_SLICE: usize = 64;

impl Engine {
    /// Sweeps one slice of each database of a shard. Returns how many entries and fields it removed. A busy shard is left for
    /// another time.
    pub fn sweep(&self, shard: usize, now: Now) -> usize {
        if self.settings.sweep_paused.load(Relaxed) {
            return 0;
        }
        let Ok(mut tx) = self.lock_shard(shard, 0, now) else {
            return 0;
        };
        let (mut entries, mut fields) = (0, 0);
        for database in tx.databases(shard) {
            if database.may_end() {
                let swept = database.sweep(now, BUCKETS_PER_SLICE);
                entries += swept.entries;
                fields += swept.fields;
            }
        }
        *tx.expired_mut(shard) += entries as u64;
        entries + fields
    }
}
