//! Starting atomic sections.

use crate::section::held_locks::{HeldLocks, Patience};
use crate::shard::Busy;
use crate::{Engine, Now, Tx};

/// Room for the shards of a command that is kept for the next one; only commands on very many keys need more.
const SCRATCH_KEPT_MAX: usize = 4096;

impl Engine {
    /// Starts an atomic section over one shard.
    #[inline]
    pub fn lock_one(&self, hash: u64, db: usize, now: Now) -> Result<Tx<'_>, Busy> {
        self.lock_shard(self.shard_of(hash), db, now)
    }

    /// As [`Engine::lock_one`], by the shard's number.
    #[inline]
    pub fn lock_shard(&self, shard: usize, db: usize, now: Now) -> Result<Tx<'_>, Busy> {
        if self.shards[shard].lock.acquire() {
            Ok(Tx::new(self, HeldLocks::One(shard), db, now))
        } else {
            Err(Busy { shard })
        }
    }

    /// As [`Engine::lock_shard`], but does not wait a moment for a shard that is busy.
    pub(crate) fn try_lock_shard(&self, shard: usize, db: usize, now: Now) -> Result<Tx<'_>, Busy> {
        if self.shards[shard].lock.try_acquire() {
            Ok(Tx::new(self, HeldLocks::One(shard), db, now))
        } else {
            Err(Busy { shard })
        }
    }

    /// Starts an atomic section over the shards of all `hashes`. `scratch` holds their numbers while
    /// the section lasts, so that no call allocates.
    pub fn lock_many<'a>(
        &'a self,
        hashes: impl Iterator<Item = u64>,
        scratch: &'a mut Vec<usize>,
        db: usize,
        now: Now,
    ) -> Result<Tx<'a>, Busy> {
        scratch.clear();
        scratch.shrink_to(SCRATCH_KEPT_MAX);
        scratch.extend(hashes.map(|hash| self.shard_of(hash)));
        self.lock_shards(scratch, db, now)
    }

    /// Starts an atomic section over these shards, in whatever order they are.
    pub fn lock_shards<'a>(
        &'a self,
        shards: &'a mut Vec<usize>,
        db: usize,
        now: Now,
    ) -> Result<Tx<'a>, Busy> {
        shards.sort_unstable();
        shards.dedup();
        self.acquire_ascending(shards.iter().copied())?;
        Ok(Tx::new(self, HeldLocks::Many(shards), db, now))
    }

    /// Starts an atomic section over everything.
    pub fn lock_all(&self, db: usize, now: Now) -> Result<Tx<'_>, Busy> {
        self.acquire_ascending(0..self.shards.len())?;
        Ok(Tx::new(self, HeldLocks::All, db, now))
    }

    /// Starts an atomic section over nothing, for commands that lock shard by shard.
    pub fn lock_none(&self, db: usize, now: Now) -> Tx<'_> {
        Tx::new(self, HeldLocks::None, db, now)
    }

    /// As [`Engine::lock_none`], and waits for each shard that is busy.
    pub fn lock_none_patiently<'a>(
        &'a self,
        db: usize,
        now: Now,
        patience: &'a dyn Patience,
    ) -> Tx<'a> {
        Tx::new(self, HeldLocks::Waiting(patience), db, now)
    }

    /// Takes the locks again that a section has let go.
    #[cfg(any(broken = "sections", broken = "tracking"))]
    pub(crate) fn reacquire(&self, held: &HeldLocks<'_>) -> bool {
        let taken = match held {
            HeldLocks::None | HeldLocks::Waiting(_) | HeldLocks::Lent => Ok(()),
            HeldLocks::One(shard) => self.acquire_ascending(std::iter::once(*shard)),
            HeldLocks::Many(shards) => self.acquire_ascending(shards.iter().copied()),
            HeldLocks::All => self.acquire_ascending(0..self.shards.len()),
        };
        taken.is_ok()
    }
}
