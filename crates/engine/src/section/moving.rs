//! Moving entries out of nearly empty slices of memory, so that pages of the allocator become free (`base/heap/slices.rs`): one walk over
//! all shards finds where entries are, a second one moves some of them.

use std::ops::Range;

use damselfly_base::heap::{SHARED_PAGE_BYTES_MAX, SparseSlices};
use damselfly_value::EntryRef;

use crate::{Busy, Engine, Now};

/// The most buckets whose entries are located at a time: some ten microseconds, since each entry is read.
const LOCATED_BUCKETS_MAX: usize = 64;

/// The most buckets that are visited at a time to move entries. Most are only compared.
const BUCKETS_MAX: usize = 256;

/// No further entry is moved after so many bytes: some ten microseconds. The last one may be larger, up to [`SHARED_PAGE_BYTES_MAX`].
const BYTES_MAX: usize = 32 << 10;

/// An entry counts as this many bytes at least, since moving a smaller one takes as long.
const ENTRY_BYTES_MIN: usize = 256;

/// Where a walk over a shard continues.
#[derive(Clone, Copy, Debug, Default)]
pub struct WalkPosition {
    db: usize,
    position: u64,
}

/// What [`Engine::move_entries`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// How many entries it moved.
    pub entries: usize,
    /// The walk has visited the whole shard.
    pub is_finished: bool,
}

impl Engine {
    /// Visits the next entries of a shard, and adds the addresses of each one's block to `found`; nodes of large collections are left out.
    /// True if the walk has visited the whole shard. Holds the lock of the shard for some ten microseconds.
    ///
    /// # Errors
    /// If the shard is busy at this moment.
    pub fn locate_entries(
        &self,
        shard: usize,
        at: &mut WalkPosition,
        found: &mut Vec<Range<usize>>,
        now: Now,
    ) -> Result<bool, Busy> {
        let mut tx = self.try_lock_shard(shard, 0, now)?;
        let databases = tx.databases(shard);
        for _ in 0..LOCATED_BUCKETS_MAX {
            let Some(database) = databases.get(at.db) else {
                return Ok(true);
            };
            let visit = |entry: EntryRef<'_>| found.push(entry.block_addresses());
            at.position = database.table.visit_bucket(at.position, false, visit);
            at.db += usize::from(at.position == 0);
        }
        Ok(false)
    }

    /// Visits the next entries of a shard, and moves those that are in `slices`. Holds the lock of the shard for some ten microseconds.
    ///
    /// # Errors
    /// If the shard is busy at this moment.
    pub fn move_entries(
        &self,
        shard: usize,
        at: &mut WalkPosition,
        slices: &SparseSlices,
        now: Now,
    ) -> Result<Moved, Busy> {
        let mut tx = self.try_lock_shard(shard, 0, now)?;
        let (mut moved, mut work_bytes) = (Moved::default(), 0);
        let databases = tx.databases_mut(shard);
        for _ in 0..BUCKETS_MAX {
            let Some(database) = databases.get_mut(at.db) else {
                moved.is_finished = true;
                break;
            };
            at.position = database.table.move_items(
                at.position,
                |address| slices.contains(address),
                |entry| {
                    // Meanwhile another block may be there.
                    if entry.block_bytes() <= SHARED_PAGE_BYTES_MAX {
                        entry.relocate();
                        moved.entries += 1;
                        work_bytes += entry.block_bytes().max(ENTRY_BYTES_MIN);
                    }
                },
            );
            at.db += usize::from(at.position == 0);
            if work_bytes >= BYTES_MAX {
                break;
            }
        }
        Ok(moved)
    }
}
