//! The shard lock: try, spin briefly, then stall the *connection*, never the thread.
//!
//! A thread that finds the lock taken sets its bit in a word beside the lock with [`Lock::wait`]. The thread that unlocks looks
//! at that word afterwards, clears it, and wakes those threads. Threads that share a bit are woken together, which costs a needless retry
//! and nothing else.
//!
//! No wake-up is lost if either side sees what the other one wrote before. That takes a full barrier on both sides, between the write and the look.
//! Releases are frequent and waits are rare, so the waiting thread issues both where the system can do that ([`fence`]); then a release
//! is a plain store.

mod fence;

#[cfg(loom)]
use loom::{
    cell::UnsafeCell,
    sync::atomic::{AtomicBool, AtomicU32},
};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, AtomicU32};

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use fence::Fences;

/// How often [`Lock::acquire`] retries before it gives up: for 5 to 20 microseconds, depending on the processor. That is longer than any
/// command on a few keys; a thread that holds a lock for longer has probably lost its processor, perhaps to this very thread.
const SPINS_MAX: u32 = if cfg!(loom) { 2 } else { 500 };

/// The number of distinct waiter bits.
const WAITER_BITS: u32 = u32::BITS;

/// The threads to wake after an unlock: bit `i` stands for every thread whose number is `i` mod 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "threads that wait for the lock sleep until they are woken"]
pub struct Waiters(u32);

impl Waiters {
    /// True if no thread waits: the common case.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// True if the thread with this number asked to be woken, or shares its bit with one that did.
    pub fn contains(self, thread: usize) -> bool {
        self.0 & waiter_bit(thread) != 0
    }
}

fn waiter_bit(thread: usize) -> u32 {
    1 << (thread % WAITER_BITS as usize)
}

/// A value behind a lock that is taken and released by separate calls, so that one owner can hold
/// any number of them.
#[derive(Debug)]
pub struct Lock<T> {
    locked: AtomicBool,
    fences: Fences,
    waiters: AtomicU32,
    #[cfg(not(loom))]
    value: std::cell::UnsafeCell<T>,
    #[cfg(loom)]
    value: UnsafeCell<T>,
}

// SAFETY:
// - `value` is reached only through `with`, whose caller holds the lock, so at most one thread
//   has a reference at any time; moving that access between threads needs `T: Send`.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    /// An unlocked lock around `value`.
    #[cfg(not(loom))]
    pub fn new(value: T) -> Self {
        Self {
            locked: AtomicBool::new(false),
            fences: Fences::of_process(),
            waiters: AtomicU32::new(0),
            value: std::cell::UnsafeCell::new(value),
        }
    }

    /// An unlocked lock around `value`.
    #[cfg(loom)]
    pub fn new(value: T) -> Self {
        Self {
            locked: AtomicBool::new(false),
            fences: Fences::of_process(),
            waiters: AtomicU32::new(0),
            value: UnsafeCell::new(value),
        }
    }

    /// Takes the lock if it is free; does not spin.
    #[inline]
    pub fn try_acquire(&self) -> bool {
        !self.locked.load(Relaxed)
            && self
                .locked
                .compare_exchange(false, true, Acquire, Relaxed)
                .is_ok()
    }

    /// Takes the lock, spinning for a few microseconds at most; false if it stayed taken.
    #[inline]
    pub fn acquire(&self) -> bool {
        self.try_acquire() || self.spin()
    }

    #[cold]
    fn spin(&self) -> bool {
        for _ in 0..SPINS_MAX {
            #[cfg(loom)]
            loom::thread::yield_now();
            #[cfg(not(loom))]
            std::hint::spin_loop();
            if self.try_acquire() {
                return true;
            }
        }
        false
    }

    /// Registers `thread` to be woken at the next release. Returns true if the lock is free already:
    /// then retry at once, since no release may follow.
    pub fn wait(&self, thread: usize) -> bool {
        self.waiters.fetch_or(waiter_bit(thread), Relaxed);
        self.fences.waiting();
        !self.locked.load(Relaxed)
    }

    /// Releases the lock and returns the threads to wake.
    ///
    /// # Safety
    /// The caller holds the lock, and no reference obtained from [`Lock::get`] is used any more.
    #[inline]
    pub unsafe fn release(&self) -> Waiters {
        self.locked.store(false, Release);
        self.fences.releasing();
        match self.waiters.load(Relaxed) {
            0 => Waiters(0),
            _ => Waiters(self.waiters.swap(0, Relaxed)),
        }
    }

    /// A pointer to the value.
    ///
    /// Reading or writing through it is sound only while the lock is held, and only through one
    /// exclusive reference at a time.
    #[cfg(not(loom))]
    #[inline]
    pub fn get(&self) -> *mut T {
        self.value.get()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_held_lock_cannot_be_taken_and_a_released_one_can() {
        let lock = Lock::new(7);
        assert!(lock.try_acquire());
        assert!(!lock.try_acquire());
        assert!(!lock.acquire());
        // SAFETY: taken two lines above, and no reference exists.
        assert!(unsafe { lock.release() }.is_empty());
        assert!(lock.try_acquire());
    }

    #[test]
    fn release_returns_exactly_the_waiting_threads() {
        let lock = Lock::new(());
        assert!(lock.try_acquire());
        assert!(!lock.wait(3));
        assert!(!lock.wait(33));
        // SAFETY: taken above, and no reference exists.
        let waiters = unsafe { lock.release() };
        assert!(waiters.contains(3) && waiters.contains(1) && waiters.contains(33));
        assert!(!waiters.contains(0) && !waiters.contains(2));
        assert!(lock.wait(5), "`wait` reports that the lock is free");
    }

    /// One thread releases the lock while another one begins to wait for it, again and again at nearly the same moment.
    #[test]
    fn a_wake_up_is_not_lost_by_the_processor() {
        for fences in [Fences::of_process(), Fences::on_both_sides()] {
            assert_eq!(lost_wake_ups(fences), 0, "{fences:?}");
        }
    }

    fn lost_wake_ups(fences: Fences) -> u32 {
        const ROUNDS: u32 = if cfg!(miri) { 50 } else { 200_000 };
        let end = Instant::now() + Duration::from_secs(2);
        let mut lock = Lock::new(());
        lock.fences = fences;
        let turns = Turns::default();
        let (is_woken, is_over) = (AtomicBool::new(false), AtomicBool::new(false));
        let mut lost = 0;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..ROUNDS {
                    assert!(lock.try_acquire());
                    turns.next_after(3 * round);
                    (0..round % 64).for_each(|_| std::hint::spin_loop());
                    // SAFETY: taken above, and no reference exists.
                    let waiters = unsafe { lock.release() };
                    is_woken.store(waiters.contains(0), Relaxed);
                    turns.next_after(3 * round + 1);
                    turns.reach(3 * round + 3);
                    if is_over.load(Relaxed) {
                        break;
                    }
                }
            });
            for round in 0..ROUNDS {
                turns.reach(3 * round + 1);
                let is_free = lock.wait(0);
                turns.reach(3 * round + 2);
                lost += u32::from(!is_free && !is_woken.load(Relaxed));
                lock.waiters.store(0, Relaxed);
                let ends = Instant::now() > end;
                is_over.store(ends, Relaxed);
                turns.next_after(3 * round + 2);
                if ends {
                    break;
                }
            }
        });
        lost
    }

    /// Whose turn it is: a number that only grows.
    #[derive(Default)]
    struct Turns(AtomicU32);

    impl Turns {
        fn reach(&self, turn: u32) {
            while self.0.load(Acquire) < turn {
                std::thread::yield_now();
            }
        }

        fn next_after(&self, turn: u32) {
            self.reach(turn);
            self.0.store(turn + 1, Release);
        }
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    //! Every interleaving of small programs, under the C11 memory model.

    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicBool;
    use loom::thread;

    fn add_one(lock: &Lock<u32>) {
        lock.value.with_mut(|value| {
            // SAFETY: the caller holds the lock; loom reports any overlapping access.
            unsafe { *value += 1 }
        });
    }

    #[test]
    fn increments_under_the_lock_are_never_lost() {
        loom::model(|| {
            let lock = Arc::new(Lock::new(0_u32));
            let done = Arc::new(loom::sync::atomic::AtomicU64::new(0));
            let threads: Vec<_> = (0..2)
                .map(|_| {
                    let (lock, done) = (lock.clone(), done.clone());
                    thread::spawn(move || {
                        if lock.acquire() {
                            add_one(&lock);
                            done.fetch_add(1, Relaxed);
                            // SAFETY: acquired above.
                            let _ = unsafe { lock.release() };
                        }
                    })
                })
                .collect();
            for thread in threads {
                thread.join().expect("no panic");
            }
            let total = lock.value.with(|value| {
                // SAFETY: all threads are joined.
                unsafe { *value }
            });
            assert_eq!(u64::from(total), done.load(Relaxed));
        });
    }

    /// A waiter either finds the lock free when it registers, or the holder that releases it sees
    /// the waiter: if both could miss, the connection would sleep forever.
    #[test]
    fn a_wake_up_is_never_lost() {
        loom::model(|| {
            let lock = Arc::new(Lock::new(0_u32));
            let woken = Arc::new(AtomicBool::new(false));
            assert!(lock.try_acquire());
            let holder = {
                let (lock, woken) = (lock.clone(), woken.clone());
                thread::spawn(move || {
                    add_one(&lock);
                    // SAFETY: the lock was taken for this thread before it started.
                    if unsafe { lock.release() }.contains(0) {
                        woken.store(true, Release);
                    }
                })
            };
            let mut got_it = lock.try_acquire();
            if !got_it && lock.wait(0) {
                got_it = lock.acquire();
            }
            if got_it {
                add_one(&lock);
                // SAFETY: acquired above.
                let _ = unsafe { lock.release() };
            }
            holder.join().expect("no panic");
            assert!(got_it || woken.load(Acquire));
        });
    }
}
