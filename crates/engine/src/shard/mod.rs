//! The shards and their locks: the only way to the data of a shard, and the `unsafe` code for it.
//!
//! Nothing here knows sections: it takes and releases single locks, or several in ascending order.

pub(crate) mod access;
pub(crate) mod capture;
pub(crate) mod database;
pub(crate) mod live_settings;
pub(crate) mod local_deadlines;
pub(crate) mod pending_work;

use std::sync::OnceLock;
use std::sync::atomic::{
    AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

use damselfly_eviction::ShardState;
use damselfly_lock::{Lock, Waiters};

use crate::shard::database::Database;
use crate::shard::local_deadlines::LocalDeadlines;

/// The most shards. The limit exists since the shard's number is a part of every SCAN cursor.
pub const SHARDS_MAX: usize = 1 << 12;

/// A shard stays locked for longer than a thread may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    /// Which shard.
    pub shard: usize,
}

/// The sizes that are fixed for the life of an engine.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Number of shards: a power of two, at most [`SHARDS_MAX`].
    pub shards: usize,
    /// Number of databases.
    pub databases: usize,
}

/// The data that one lock protects.
pub(crate) struct Shard {
    pub(crate) databases: Vec<Database>,
    /// How many entries were removed because they had expired.
    pub(crate) expired: u64,
    /// The last CAS number; zero before the first.
    pub(crate) last_cas: u64,
    /// On a writable replica: keys with a deadline that its clients have set.
    pub(crate) local_deadlines: Option<Box<LocalDeadlines>>,
    /// What cache mode keeps, from its first use of a key on.
    pub(crate) learned: Option<Box<ShardState>>,
}

/// A shard with its lock and the observers of its keys. Each cell has cache lines of its own, so that threads at neighbouring
/// shards do not slow each other down; pairs of lines, since processors fetch them so. The first line has everything that
/// commands read while there are no observers.
#[repr(C, align(128))]
struct ShardCell<O> {
    /// How many clients wait for or watch keys of this shard, counted once per key; plus one while any key is tracked, one while
    /// trackers may want changes to any key, and one while events are published. For single keys it grows only under the
    /// shard's lock, so a thread that holds the lock and reads zero knows that there are no observers.
    observer_count: AtomicUsize,
    lock: Lock<Shard>,
    observers: O,
}

/// A function that makes one thread look at its stalled connections again.
pub type Wake = Box<dyn Fn() + Send + Sync>;

/// All shards. `O` holds the observers of one shard's keys.
pub(crate) struct Shards<O> {
    cells: Box<[ShardCell<O>]>,
    bits: u32,
    /// One per thread, set once when the threads start.
    wakes: OnceLock<Vec<Wake>>,
}

impl<O: Default> Shards<O> {
    /// Empty shards.
    ///
    /// # Panics
    /// If the number of shards is not a power of two up to [`SHARDS_MAX`].
    pub(crate) fn new(layout: Layout) -> Self {
        let count = layout.shards;
        assert!(
            count.is_power_of_two() && count <= SHARDS_MAX,
            "{count} shards"
        );
        let bits = count.trailing_zeros();
        let cells = (0..count as u32)
            .map(|index| {
                let databases = (0..layout.databases)
                    .map(|_| Database::new(bits, index))
                    .collect();
                ShardCell {
                    lock: Lock::new(Shard {
                        databases,
                        expired: 0,
                        last_cas: 0,
                        local_deadlines: None,
                        learned: None,
                    }),
                    observer_count: AtomicUsize::new(0),
                    observers: O::default(),
                }
            })
            .collect();
        Self {
            cells,
            bits,
            wakes: OnceLock::new(),
        }
    }
}

impl<O> Shards<O> {
    /// Sets how each thread is woken, by its number.
    pub(crate) fn set_wakes(&self, wakes: Vec<Wake>) {
        assert!(self.wakes.set(wakes).is_ok(), "threads start once");
    }

    /// The number of shards.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.cells.len()
    }

    /// log2 of the number of shards.
    pub(crate) fn bits(&self) -> u32 {
        self.bits
    }

    /// The shard of a hash: its top bits.
    #[inline]
    pub(crate) fn of(&self, hash: u64) -> usize {
        // Two shifts, since a single shift by 64 would not shift at all.
        (hash >> 1 >> (63 - self.bits)) as usize
    }

    /// The observers of a shard's keys.
    #[inline]
    pub(crate) fn observers(&self, shard: usize) -> &O {
        &self.cells[shard].observers
    }

    /// True if anything observes keys of this shard, whose lock the caller holds.
    #[inline]
    pub(crate) fn is_observed(&self, shard: usize) -> bool {
        self.cells[shard].observer_count.load(Acquire) != 0
    }

    /// Counts one more observer of this shard. The caller holds the shard's lock if the observer wants a single key.
    pub(crate) fn add_observer(&self, shard: usize) {
        self.cells[shard].observer_count.fetch_add(1, Relaxed);
    }

    /// Counts one observer less. A thread that sees the new count sees everything that was done before.
    pub(crate) fn remove_observer(&self, shard: usize) {
        self.cells[shard].observer_count.fetch_sub(1, Release);
    }

    /// Takes the lock of one shard, after waiting for a moment at most; false if it is busy.
    #[inline]
    pub(crate) fn acquire(&self, shard: usize) -> bool {
        self.cells[shard].lock.acquire()
    }

    /// Takes the lock of one shard; false if it is busy at this moment.
    #[inline]
    pub(crate) fn try_acquire(&self, shard: usize) -> bool {
        self.cells[shard].lock.try_acquire()
    }

    /// Asks that `thread` be woken when `busy` is released. True if it is free already.
    pub(crate) fn wait(&self, busy: Busy, thread: usize) -> bool {
        self.cells[busy.shard].lock.wait(thread)
    }

    /// Takes locks in ascending order, which rules out deadlock; all or none.
    pub(crate) fn acquire_ascending(
        &self,
        shards: impl Iterator<Item = usize> + Clone,
    ) -> Result<(), Busy> {
        for (taken, shard) in shards.clone().enumerate() {
            if !self.cells[shard].lock.acquire() {
                for held in shards.take(taken) {
                    self.release(held);
                }
                return Err(Busy { shard });
            }
        }
        Ok(())
    }

    /// Releases a lock that the caller has taken.
    #[inline]
    pub(crate) fn release(&self, shard: usize) {
        // SAFETY: called once per lock taken: by the section that took it, when it uses the shard no more, or by a failed
        // attempt to take several. So no reference into the shard is left.
        let waiters = unsafe { self.cells[shard].lock.release() };
        if !waiters.is_empty() {
            self.wake(waiters);
        }
    }

    #[cold]
    fn wake(&self, waiters: Waiters) {
        if damselfly_base::planted_bug("wakes") {
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
    /// The caller holds the shard's lock, and for as long as the reference lives it is the only one.
    #[inline]
    #[expect(clippy::mut_from_ref, reason = "the lock makes it exclusive")]
    pub(crate) unsafe fn shard_mut(&self, shard: usize) -> &mut Shard {
        // SAFETY: as the caller promises.
        unsafe { &mut *self.cells[shard].lock.get() }
    }

    /// The data of a shard, to read.
    ///
    /// # Safety
    /// The caller holds the shard's lock, and for as long as the reference lives nobody changes the shard.
    #[inline]
    pub(crate) unsafe fn shard_ref(&self, shard: usize) -> &Shard {
        // SAFETY: as the caller promises.
        unsafe { &*self.cells[shard].lock.get() }
    }

    /// Hints that the lock of a shard is about to be taken.
    #[inline]
    pub(crate) fn prefetch_lock(&self, shard: usize) {
        damselfly_table::prefetch(std::ptr::from_ref(&self.cells[shard]).cast());
    }

    /// Lets `visit` read a database of a shard, unless the shard is busy or has no such database.
    #[inline]
    pub(crate) fn try_visit(&self, shard: usize, db: usize, visit: impl FnOnce(&Database)) {
        let lock = &self.cells[shard].lock;
        if lock.try_acquire() {
            // SAFETY: the lock was just taken, and the reference ends before it is released.
            let databases = unsafe { &(*lock.get()).databases };
            // A panic here would leave the lock taken for ever.
            if let Some(database) = databases.get(db) {
                visit(database);
            }
            // SAFETY: taken above, and the reference is used no more.
            let waiters = unsafe { lock.release() };
            if !waiters.is_empty() {
                self.wake(waiters);
            }
        }
    }
}
