//! The shards and their locks: who may touch what, and all `unsafe` code of the engine.

pub(crate) mod access;
pub(crate) mod database;
pub mod garbage;

use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

use damselfly_lock::{Lock, Waiters};
use damselfly_value::Thresholds;

use crate::observers::key_events::AtomicEventMask;
use crate::observers::tracked_keys::{InvalidationSink, TrackedCounts, Tracking};
use crate::observers::{waiters::Waiting, watched_keys::Watching};
use crate::section::tx::HeldLocks;
use crate::{AccessPolicy, Database, EventSink, Now, Patience, Tx};

/// The most shards: their number is part of every SCAN cursor.
pub const SHARDS_MAX: usize = 1 << 12;

/// Room for the shards of a command that is kept for the next one; only commands on very many keys need more.
const SCRATCH_KEPT_MAX: usize = 4096;

/// A shard is locked for longer than a thread should wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    /// Which shard.
    pub shard: usize,
}

/// What is fixed for the life of an engine.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Number of shards: a power of two, at most [`SHARDS_MAX`].
    pub shards: usize,
    /// Number of databases.
    pub databases: usize,
}

/// What may change while the engine runs; read by every thread, written by CONFIG SET.
#[derive(Debug)]
pub struct Settings {
    /// True while the background sweep pauses (DEBUG SET-ACTIVE-EXPIRE 0).
    pub sweep_paused: AtomicBool,
    /// `proto-max-bulk-len`: the longest string that a command may make, in bytes.
    pub bulk_bytes_max: AtomicUsize,
    /// `lazyfree-lazy-user-flush`: what FLUSHALL and FLUSHDB remove is freed later unless they say otherwise.
    pub flushes_later: AtomicBool,
    /// `ttl-rounding`: long deadlines are rounded to seconds, and limited to a year.
    pub ttl_rounding: AtomicBool,
    /// When collections leave their packed forms.
    pub thresholds: Thresholds,
    /// `tracking-table-max-keys`: how many keys are tracked at most; zero for any number.
    pub tracked_keys_max: AtomicUsize,
    /// `notify-keyspace-events`; see [`Engine::set_events`].
    pub(crate) events: AtomicEventMask,
    frequency: AtomicBool,
    log_factor: AtomicU32,
    decay_minutes: AtomicU32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            sweep_paused: AtomicBool::new(false),
            bulk_bytes_max: AtomicUsize::new(512 << 20),
            flushes_later: AtomicBool::new(false),
            ttl_rounding: AtomicBool::new(false),
            thresholds: Thresholds::default(),
            tracked_keys_max: AtomicUsize::new(0),
            events: AtomicEventMask::default(),
            frequency: AtomicBool::new(false),
            log_factor: AtomicU32::new(10),
            decay_minutes: AtomicU32::new(1),
        }
    }
}

impl Settings {
    /// What the access bits record.
    #[inline]
    pub fn access_policy(&self) -> AccessPolicy {
        if !self.frequency.load(Relaxed) {
            return AccessPolicy::Recency;
        }
        AccessPolicy::Frequency {
            log_factor: self.log_factor.load(Relaxed),
            decay_minutes: self.decay_minutes.load(Relaxed),
        }
    }

    /// Changes what the access bits record.
    pub fn set_access_policy(&self, policy: AccessPolicy) {
        match policy {
            AccessPolicy::Recency => self.frequency.store(false, Relaxed),
            AccessPolicy::Frequency {
                log_factor,
                decay_minutes,
            } => {
                self.log_factor.store(log_factor, Relaxed);
                self.decay_minutes.store(decay_minutes, Relaxed);
                self.frequency.store(true, Relaxed);
            }
        }
    }
}

/// What a lock protects.
pub(crate) struct Shard {
    pub(crate) databases: Vec<Database>,
    /// Entries removed since their end had come.
    pub(crate) expired: u64,
}

/// A shard with its lock, and who waits for, watches or tracks its keys. On cache lines of its own, so that threads at neighbouring
/// shards do not slow each other down; pairs of lines, since processors fetch them so. The first line has all that commands
/// look at while nobody does.
#[repr(C, align(128))]
struct ShardCell {
    lock: Lock<Shard>,
    /// How many wait for or watch its keys, where one counts once for each key; one more while any is tracked, one while all
    /// changes are of concern to trackers, and one while events are told. For single keys it grows only under the shard's lock,
    /// so who holds that and reads zero knows that nobody is there.
    observers: AtomicUsize,
    waiting: Waiting,
    watching: Watching,
    tracking: Tracking,
}

/// A function that makes one thread look at its parked connections again.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// All data of the process.
pub struct Engine {
    shards: Box<[ShardCell]>,
    shard_bits: u32,
    databases: usize,
    /// One per thread, set once when the threads start.
    wakes: OnceLock<Vec<Wake>>,
    event_sink: OnceLock<Box<dyn EventSink>>,
    pub(crate) invalidate: OnceLock<Box<dyn InvalidationSink>>,
    pub(crate) tracked: TrackedCounts,
    /// Of the last client that began to wait for keys.
    pub(crate) last_ticket: AtomicU64,
    /// What may change while the engine runs.
    pub settings: Settings,
}

/// Counts over all shards, of one database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyspaceTotals {
    /// Keys.
    pub keys: usize,
    /// Keys with a deadline.
    pub deadlines: usize,
    /// Bytes of the entries.
    pub entry_bytes: usize,
    /// Bytes of the tables.
    pub table_bytes: usize,
}

impl std::ops::AddAssign<&Database> for KeyspaceTotals {
    fn add_assign(&mut self, database: &Database) {
        self.keys += database.len();
        self.deadlines += database.deadlines();
        self.entry_bytes += database.entry_bytes();
        self.table_bytes += database.table_bytes();
    }
}

impl Engine {
    /// An empty engine.
    ///
    /// # Panics
    /// If the number of shards is no power of two up to [`SHARDS_MAX`].
    pub fn new(rule: Layout) -> Self {
        assert!(
            rule.shards.is_power_of_two() && rule.shards <= SHARDS_MAX,
            "{} shards",
            rule.shards
        );
        let shard_bits = rule.shards.trailing_zeros();
        let shards = (0..rule.shards as u32)
            .map(|index| {
                let databases = (0..rule.databases)
                    .map(|_| Database::new(shard_bits, index))
                    .collect();
                let shard = Shard {
                    databases,
                    expired: 0,
                };
                ShardCell {
                    lock: Lock::new(shard),
                    observers: AtomicUsize::new(0),
                    waiting: Waiting::default(),
                    watching: Watching::default(),
                    tracking: Tracking::default(),
                }
            })
            .collect();
        Self {
            shards,
            shard_bits,
            databases: rule.databases,
            wakes: OnceLock::new(),
            event_sink: OnceLock::new(),
            invalidate: OnceLock::new(),
            tracked: TrackedCounts::default(),
            last_ticket: AtomicU64::new(1),
            settings: Settings::default(),
        }
    }

    /// Tells how to wake each thread, by its number. Without it nobody can wait for a shard.
    pub fn set_wakes(&self, wakes: Vec<Wake>) {
        assert!(self.wakes.set(wakes).is_ok(), "threads start once");
    }

    /// Tells who is told of events. Without it nobody is.
    pub fn set_event_sink(&self, event_sink: Box<dyn EventSink>) {
        assert!(
            self.event_sink.set(event_sink).is_ok(),
            "threads start once"
        );
    }

    pub(crate) fn event_sink(&self) -> Option<&dyn EventSink> {
        self.event_sink.get().map(|event_sink| &**event_sink)
    }

    /// The number of shards.
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// log2 of the number of shards.
    pub fn shard_bits(&self) -> u32 {
        self.shard_bits
    }

    /// The number of databases.
    pub fn databases(&self) -> usize {
        self.databases
    }

    /// The shard of a hash: its top bits.
    #[inline]
    pub fn shard_of(&self, hash: u64) -> usize {
        // Two shifts, since one by 64 is no shift at all.
        (hash >> 1 >> (63 - self.shard_bits)) as usize
    }

    /// Who waits for keys of a shard.
    #[inline]
    pub(crate) fn waiting(&self, shard: usize) -> &Waiting {
        &self.shards[shard].waiting
    }

    /// Who watches keys of a shard.
    pub(crate) fn watching(&self, shard: usize) -> &Watching {
        &self.shards[shard].watching
    }

    /// Who tracks keys of a shard.
    pub(crate) fn tracking(&self, shard: usize) -> &Tracking {
        &self.shards[shard].tracking
    }

    /// True if anybody is to hear of changes to keys of this shard, whose lock the caller holds.
    #[inline]
    pub(crate) fn is_observed(&self, shard: usize) -> bool {
        self.shards[shard].observers.load(Acquire) != 0
    }

    /// Counts one more who is to hear of changes to keys of this shard, whose lock the caller holds if it is about one key.
    pub(crate) fn add_observer(&self, shard: usize) {
        self.shards[shard].observers.fetch_add(1, Relaxed);
    }

    /// Counts one less. Who sees that sees all that was done before.
    pub(crate) fn remove_observer(&self, shard: usize) {
        self.shards[shard].observers.fetch_sub(1, Release);
    }

    /// Takes the lock of one shard, for a section that has others already; false if it is busy.
    pub(crate) fn acquire(&self, shard: usize) -> bool {
        self.shards[shard].lock.acquire()
    }

    /// Asks that `thread` be woken when `busy` is released. True if it is free already.
    pub fn wait(&self, busy: Busy, thread: usize) -> bool {
        self.shards[busy.shard].lock.wait(thread)
    }

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

    /// Takes locks in ascending order, which rules out deadlock; all or none.
    fn acquire_ascending(&self, shards: impl Iterator<Item = usize> + Clone) -> Result<(), Busy> {
        for (taken, shard) in shards.clone().enumerate() {
            if !self.shards[shard].lock.acquire() {
                for held in shards.take(taken) {
                    self.release(held);
                }
                return Err(Busy { shard });
            }
        }
        Ok(())
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

    /// Releases a lock that a [`Tx`] (or a failed attempt at one) holds.
    #[inline]
    pub(crate) fn release(&self, shard: usize) {
        // SAFETY: called once per lock taken, by the `Tx` that took it as it ends, so no reference
        // into the shard is left.
        let waiters = unsafe { self.shards[shard].lock.release() };
        if !waiters.is_empty() {
            self.wake(waiters);
        }
    }

    #[cold]
    fn wake(&self, waiters: Waiters) {
        if cfg!(broken = "wakes") {
            // For `tests/waiting.rs`, which must notice.
            return;
        }
        for (thread, wake) in self.wakes.get().into_iter().flatten().enumerate() {
            if waiters.contains(thread) {
                wake();
            }
        }
    }

    /// The data of a shard.
    ///
    /// # Safety
    /// The caller holds the shard's lock, and for as long as the reference lives it is the only
    /// one.
    #[inline]
    #[expect(clippy::mut_from_ref, reason = "the lock makes it exclusive")]
    pub(crate) unsafe fn shard_mut(&self, shard: usize) -> &mut Shard {
        // SAFETY: as the caller promises.
        unsafe { &mut *self.shards[shard].lock.get() }
    }

    /// The data of a shard, to read.
    ///
    /// # Safety
    /// The caller holds the shard's lock, and for as long as the reference lives nobody changes the shard.
    pub(crate) unsafe fn shard_ref(&self, shard: usize) -> &Shard {
        // SAFETY: as the caller promises.
        unsafe { &*self.shards[shard].lock.get() }
    }

    /// Hints that the lock of this hash's shard is about to be taken.
    #[inline]
    pub fn prefetch_shard(&self, hash: u64) {
        damselfly_table::prefetch(self.shards[self.shard_of(hash)].lock.address());
    }

    /// Hints that the bucket of this hash is about to be read. Does nothing if the shard is busy.
    #[inline]
    pub fn prefetch_bucket(&self, hash: u64, db: usize) {
        self.peek(hash, db, |database| database.table.prefetch_bucket(hash));
    }

    /// Hints that the entry of this hash is about to be read. Does nothing if the shard is busy.
    #[inline]
    pub fn prefetch_entry(&self, hash: u64, db: usize) {
        self.peek(hash, db, |database| database.table.prefetch_item(hash));
    }

    #[inline]
    fn peek(&self, hash: u64, db: usize, look: impl FnOnce(&Database)) {
        let shard = self.shard_of(hash);
        if self.shards[shard].lock.try_acquire() {
            // SAFETY: the lock was just taken, and the reference ends before it is released.
            let databases = unsafe { &self.shard_mut(shard).databases };
            // A panic here would leave the lock taken for ever.
            if let Some(database) = databases.get(db) {
                look(database);
            }
            self.release(shard);
        }
    }
}
