//! The shards and their locks: who may touch what, and all `unsafe` code of the engine.

pub(crate) mod access;
pub(crate) mod database;
pub mod garbage;
pub(crate) mod live_settings;

use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

use damselfly_lock::{Lock, Waiters};

use crate::observers::key_events::EventSink;
use crate::observers::tracked_keys::{InvalidationSink, TrackedCounts, Tracking};
use crate::observers::{waiters::Waiting, watched_keys::Watching};
use crate::shard::{database::Database, live_settings::Settings};

/// The most shards: their number is part of every SCAN cursor.
pub const SHARDS_MAX: usize = 1 << 12;

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
pub(crate) struct ShardCell {
    pub(crate) lock: Lock<Shard>,
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
    pub(crate) shards: Box<[ShardCell]>,
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

    /// Takes locks in ascending order, which rules out deadlock; all or none.
    pub(crate) fn acquire_ascending(
        &self,
        shards: impl Iterator<Item = usize> + Clone,
    ) -> Result<(), Busy> {
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
