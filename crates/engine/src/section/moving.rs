//! Moving entries out of nearly empty pages of the allocator, so that these pages become free (`base/heap/pages.rs`).

use damselfly_base::heap::SparsePages;

use crate::{Busy, Engine, Now};

/// The most buckets that are visited at a time.
const BUCKETS_MAX: usize = 256;

/// The most bytes that are moved at a time, except for one entry that is larger: some ten microseconds.
const BYTES_MAX: usize = 32 << 10;

/// Where a walk over a shard continues.
#[derive(Clone, Copy, Debug, Default)]
pub struct MovePosition {
    db: usize,
    position: u64,
}

/// What [`Engine::move_entries`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// How many entries it moved.
    pub entries: usize,
    /// How many bytes they have.
    pub bytes: usize,
    /// The walk has visited the whole shard.
    pub is_finished: bool,
}

impl Engine {
    /// Visits the next entries of a shard, and moves those that are in `pages`. Holds the lock of the shard for some ten microseconds.
    ///
    /// # Errors
    /// If the shard is busy at this moment.
    pub fn move_entries(
        &self,
        shard: usize,
        at: &mut MovePosition,
        pages: &SparsePages,
        now: Now,
    ) -> Result<Moved, Busy> {
        let mut tx = self.try_lock_shard(shard, 0, now)?;
        let mut moved = Moved::default();
        let databases = tx.databases_mut(shard);
        for _ in 0..BUCKETS_MAX {
            let Some(database) = databases.get_mut(at.db) else {
                moved.is_finished = true;
                break;
            };
            at.position = database.table.move_items(
                at.position,
                |address| pages.contains(address),
                |entry| {
                    entry.relocate();
                    moved.entries += 1;
                    moved.bytes += entry.block_bytes();
                },
            );
            if at.position == 0 {
                at.db += 1;
            }
            if moved.bytes >= BYTES_MAX {
                break;
            }
        }
        Ok(moved)
    }
}
