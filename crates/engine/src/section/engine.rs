//! The engine: all data of the process, and how sections start.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use damselfly_eviction::Model;
use damselfly_log::Log;

use crate::key::Now;
use crate::observers::ShardObservers;
use crate::observers::key_events::{AtomicEventMask, EventSink};
use crate::observers::tracked_keys::{InvalidationSink, TrackedCounts};
use crate::section::held_locks::{HeldLocks, Patience};
use crate::section::serve_waiters::Waiter;
use crate::section::tx::Tx;
use crate::shard::live_settings::Settings;
use crate::shard::{Busy, Layout, Shards, Wake};

/// How much of a command's list of shards is kept allocated for the next one; only commands on very many keys need more.
const SCRATCH_KEPT_MAX: usize = 4096;

/// All data of the process.
pub struct Engine {
    pub(super) shards: Shards<ShardObservers<dyn Waiter>>,
    databases: usize,
    /// `notify-keyspace-events`; see [`Engine::set_events`].
    pub(super) events: AtomicEventMask,
    pub(super) event_sink: OnceLock<Box<dyn EventSink>>,
    pub(super) invalidate: OnceLock<Box<dyn InvalidationSink>>,
    pub(super) tracked: TrackedCounts,
    /// The ticket of the last client that began to wait for keys.
    pub(super) last_ticket: AtomicU64,
    /// How many expired fields of hashes were removed.
    pub(super) fields_expired: AtomicU64,
    /// How often all databases were emptied at once.
    pub(super) flushes: AtomicU64,
    /// How many keys all shards remember in `local_deadlines`.
    pub(super) local_deadlines: AtomicUsize,
    /// The effects of all sections, if anyone wants them.
    pub log: Arc<Log>,
    /// Settings that may change while the engine runs.
    pub settings: Settings,
    /// What cache mode has learned from all shards.
    pub(super) model: Box<Model>,
    /// The bytes that cache mode keeps in shards.
    pub(super) learned_bytes: AtomicUsize,
}

impl Engine {
    /// An empty engine.
    ///
    /// # Panics
    /// If the number of shards is not a power of two up to 4096.
    pub fn new(layout: Layout) -> Self {
        Self {
            shards: Shards::new(layout),
            databases: layout.databases,
            events: AtomicEventMask::default(),
            event_sink: OnceLock::new(),
            invalidate: OnceLock::new(),
            tracked: TrackedCounts::default(),
            last_ticket: AtomicU64::new(1),
            fields_expired: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            local_deadlines: AtomicUsize::new(0),
            log: Arc::default(),
            settings: Settings::default(),
            model: Box::default(),
            learned_bytes: AtomicUsize::new(0),
        }
    }

    /// Sets how each thread is woken, by its number. Without it no thread can wait for a shard.
    pub fn set_wakes(&self, wakes: Vec<Wake>) {
        self.shards.set_wakes(wakes);
    }

    /// The number of shards.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// log2 of the number of shards.
    pub fn shard_bits(&self) -> u32 {
        self.shards.bits()
    }

    /// The number of databases.
    pub fn databases(&self) -> usize {
        self.databases
    }

    /// Notes that all databases were emptied at once.
    pub fn note_flush(&self) {
        self.flushes.fetch_add(1, Relaxed);
    }

    /// How often all databases were emptied at once, since the start.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Relaxed)
    }

    /// The shard of a hash: its top bits.
    #[inline]
    pub fn shard_of(&self, hash: u64) -> usize {
        self.shards.of(hash)
    }

    /// Asks that `thread` be woken when `busy` is released. True if it is free already.
    pub fn wait(&self, busy: Busy, thread: usize) -> bool {
        self.shards.wait(busy, thread)
    }

    /// Hints that the lock of this hash's shard is about to be taken.
    #[inline]
    pub fn prefetch_shard(&self, hash: u64) {
        self.shards.prefetch_lock(self.shard_of(hash));
    }

    /// Hints that the bucket of this hash is about to be read. Does nothing if the shard is busy.
    #[inline]
    pub fn prefetch_bucket(&self, hash: u64, db: usize) {
        let shard = self.shard_of(hash);
        self.shards
            .try_visit(shard, db, |database| database.table.prefetch_bucket(hash));
    }

    /// Hints that the entry of this hash is about to be read. Does nothing if the shard is busy.
    #[inline]
    pub fn prefetch_entry(&self, hash: u64, db: usize) {
        let shard = self.shard_of(hash);
        self.shards
            .try_visit(shard, db, |database| database.table.prefetch_item(hash));
    }

    /// Starts an atomic section over one shard.
    #[inline]
    pub fn lock_one(&self, hash: u64, db: usize, now: Now) -> Result<Tx<'_>, Busy> {
        self.lock_shard(self.shard_of(hash), db, now)
    }

    /// As [`Engine::lock_one`], by the shard's number.
    #[inline]
    pub fn lock_shard(&self, shard: usize, db: usize, now: Now) -> Result<Tx<'_>, Busy> {
        if self.shards.acquire(shard) {
            Ok(Tx::new(self, HeldLocks::One(shard), db, now))
        } else {
            Err(Busy { shard })
        }
    }

    /// As [`Engine::lock_shard`], but does not wait at all for a busy shard.
    pub(crate) fn try_lock_shard(&self, shard: usize, db: usize, now: Now) -> Result<Tx<'_>, Busy> {
        if self.shards.try_acquire(shard) {
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

    /// Starts an atomic section over these shards, given in any order.
    pub fn lock_shards<'a>(
        &'a self,
        shards: &'a mut Vec<usize>,
        db: usize,
        now: Now,
    ) -> Result<Tx<'a>, Busy> {
        shards.sort_unstable();
        shards.dedup();
        self.shards.acquire_ascending(shards.iter().copied())?;
        Ok(Tx::new(self, HeldLocks::Many(shards), db, now))
    }

    /// Starts an atomic section over all shards.
    pub fn lock_all(&self, db: usize, now: Now) -> Result<Tx<'_>, Busy> {
        self.shards.acquire_ascending(0..self.shards.len())?;
        Ok(Tx::new(self, HeldLocks::All, db, now))
    }

    /// Starts a section that holds no locks, for commands that lock shard by shard.
    pub fn lock_none(&self, db: usize, now: Now) -> Tx<'_> {
        Tx::new(self, HeldLocks::None, db, now)
    }

    /// As [`Engine::lock_none`], but waits for each busy shard.
    pub fn lock_none_patiently<'a>(
        &'a self,
        db: usize,
        now: Now,
        patience: &'a dyn Patience,
    ) -> Tx<'a> {
        Tx::new(self, HeldLocks::Waiting(patience), db, now)
    }

    /// Takes the locks again that a section has released.
    #[cfg(broken)]
    pub(crate) fn reacquire(&self, held: &HeldLocks<'_>) -> bool {
        let taken = match held {
            HeldLocks::None | HeldLocks::Waiting(_) | HeldLocks::Lent(_) => Ok(()),
            HeldLocks::One(shard) => self.shards.acquire_ascending(std::iter::once(*shard)),
            HeldLocks::Many(shards) => self.shards.acquire_ascending(shards.iter().copied()),
            HeldLocks::All => self.shards.acquire_ascending(0..self.shards.len()),
        };
        taken.is_ok()
    }
}
