//! The locks of a section: which ones it holds, and how it takes more or releases some before it ends.

use damselfly_log::Record;

use crate::section::tx::Tx;
use crate::shard::Busy;

/// Which shards are locked.
pub(crate) enum HeldLocks<'a> {
    None,
    /// None yet; the section waits for each lock that it takes.
    Waiting(&'a dyn Patience),
    One(usize),
    /// Ascending, without repeats.
    Many(&'a [usize]),
    All,
    /// All, lent by the section that holds them, whose record of effects this is.
    Lent(&'a mut Option<Box<Record>>),
}

/// How a section that locks shards one by one waits for a busy one.
pub trait Patience {
    /// Waits until the shard may be free; false if the section should give up.
    fn wait(&self, busy: Busy) -> bool;

    /// True if the section should give up in any case.
    fn is_over(&self) -> bool;
}

impl<'a> Tx<'a> {
    /// Releases the locks of all shards but those of these hashes, if all are locked for a single command: for one that has read
    /// all it needs and takes some time to compute what it writes. It must take no further lock, so that everything it does still
    /// appears to happen at one moment (two-phase locking).
    pub fn release_all_but(&mut self, hashes: &[u64]) {
        let is_possible =
            self.is_single_command && matches!(self.held, HeldLocks::All) && !self.has_ready();
        if !is_possible {
            return;
        }
        self.announce();
        // Sections that lock the released shards come later in the order.
        self.reserve_number();
        let mut kept: Vec<usize> = hashes
            .iter()
            .map(|&hash| self.engine().shard_of(hash))
            .collect();
        kept.sort_unstable();
        kept.dedup();
        (0..self.engine().shards())
            .filter(|shard| !kept.contains(shard))
            .for_each(|shard| self.engine().shards.release(shard));
        self.held = HeldLocks::None;
        let engine = self.engine();
        let extras = self.extras();
        extras.included.extend(kept);
        extras.tracked_changes.wake(engine);
    }

    /// True if every shard is locked.
    pub fn holds_all(&self) -> bool {
        matches!(self.held, HeldLocks::All | HeldLocks::Lent(_))
    }

    /// True if the shard of that number is locked.
    #[inline]
    pub fn holds(&self, index: usize) -> bool {
        let held = match &self.held {
            HeldLocks::None | HeldLocks::Waiting(_) => false,
            HeldLocks::One(shard) => *shard == index,
            HeldLocks::Many(shards) => shards.binary_search(&index).is_ok(),
            HeldLocks::All | HeldLocks::Lent(_) => true,
        };
        held || self.includes(index)
    }

    #[cold]
    fn includes(&self, index: usize) -> bool {
        let extras = self.extras.as_ref();
        extras.is_some_and(|extras| extras.included.contains(&index))
    }

    /// A section over the same locks, for a command that runs as a part of this section and would take locks itself.
    ///
    /// # Panics
    /// If not all shards are locked.
    pub fn lend(&mut self) -> Tx<'_> {
        assert!(self.holds_all(), "locks can be lent only all together");
        // They come before the events of the other section.
        self.publish_events();
        let (engine, db, now) = (self.engine(), self.db(), self.now());
        let record = self.record.take();
        let mut tx = Tx::new(engine, HeldLocks::Lent(&mut self.record), db, now);
        *tx.record = record;
        tx
    }

    /// Runs `visit` with a shard locked: by this section, or else only while `visit` runs.
    ///
    /// # Errors
    /// If the shard is busy and the section does not wait for it.
    pub fn with_shard<R>(
        &mut self,
        shard: usize,
        visit: impl FnOnce(&mut Tx<'_>) -> R,
    ) -> Result<R, Busy> {
        if self.holds(shard) {
            return Ok(visit(self));
        }
        let mut tx = self.take_shard(shard)?;
        let result = visit(&mut tx);
        self.effects.hits += tx.effects.hits;
        self.effects.misses += tx.effects.misses;
        self.effects.changes += tx.effects.changes;
        Ok(result)
    }

    fn take_shard(&self, shard: usize) -> Result<Tx<'a>, Busy> {
        let HeldLocks::Waiting(patience) = self.held else {
            return self.engine().lock_shard(shard, self.db(), self.now());
        };
        loop {
            if patience.is_over() {
                return Err(Busy { shard });
            }
            match self.engine().lock_shard(shard, self.db(), self.now()) {
                Ok(tx) => return Ok(tx),
                Err(busy) if patience.wait(busy) => {}
                Err(busy) => return Err(busy),
            }
        }
    }

    /// Locks the shard of one more key until this section ends; false if it is busy. This breaks the ascending order of locks, but
    /// a thread that waits for only a few microseconds can't be part of a deadlock.
    pub fn include(&mut self, hash: u64) -> bool {
        self.include_shard(self.engine().shard_of(hash))
    }

    /// As [`Tx::include`], by the shard's number.
    pub fn include_shard(&mut self, shard: usize) -> bool {
        if self.holds(shard) {
            return true;
        }
        let taken = self.engine().shards.acquire(shard);
        if taken {
            self.extras().included.push(shard);
        }
        taken
    }

    /// The locked shards; `None` if all are locked.
    pub fn locked_shards(&self) -> Option<Vec<usize>> {
        let mut shards = match &self.held {
            HeldLocks::None | HeldLocks::Waiting(_) => Vec::new(),
            HeldLocks::One(shard) => vec![*shard],
            HeldLocks::Many(shards) => shards.to_vec(),
            HeldLocks::All | HeldLocks::Lent(_) => return None,
        };
        if let Some(extras) = self.extras.as_ref() {
            shards.extend(&extras.included);
        }
        Some(shards)
    }

    /// Turns this into a section over all shards, after it has included their locks one by one.
    ///
    /// # Panics
    /// If a lock is missing.
    pub fn hold_all_locks(&mut self) {
        let mut shards = 0..self.engine().shards();
        assert!(shards.all(|shard| self.holds(shard)), "a lock is missing");
        if let Some(extras) = self.extras.as_mut() {
            extras.included.clear();
        }
        if !self.holds_all() {
            self.held = HeldLocks::All;
        }
    }
}
