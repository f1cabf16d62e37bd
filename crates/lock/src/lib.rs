//! The shard lock: try, spin briefly, then stall the *connection*, never the thread.
//!
//! One word holds the lock and the set of threads to wake when it is released:
//!
//! ```text
//! | bit 63: locked | bits 0..=62: one bit per waiting thread (thread number mod 63) |
//! ```
//!
//! A thread that finds the lock taken sets its bit with [`Lock::wait`]. The thread that unlocks
//! clears all bits in the same atomic operation and wakes those threads. Setting a bit also returns
//! whether the lock has become free in between, so no wake-up is lost. Threads that share a bit are
//! woken together, which costs a needless retry and nothing else.

#[cfg(loom)]
use loom::{cell::UnsafeCell, sync::atomic::AtomicU64};
#[cfg(not(loom))]
use std::sync::atomic::AtomicU64;

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

const LOCKED: u64 = 1 << 63;

/// How often [`Lock::acquire`] retries before it gives up: for 5 to 20 microseconds, depending on the processor. That is longer than any
/// command on a few keys; a thread that holds a lock for longer has probably lost its processor, perhaps to this very thread.
const SPINS_MAX: u32 = if cfg!(loom) { 2 } else { 500 };

/// The number of distinct waiter bits.
const WAITER_BITS: u32 = 63;

/// The threads to wake after an unlock: bit `i` stands for every thread whose number is `i` mod 63.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "threads that wait for the lock sleep until they are woken"]
pub struct Waiters(u64);

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

fn waiter_bit(thread: usize) -> u64 {
    1 << (thread % WAITER_BITS as usize)
}

/// A value behind a lock that is taken and released by separate calls, so that one owner can hold
/// any number of them.
#[derive(Debug)]
pub struct Lock<T> {
    word: AtomicU64,
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
    pub const fn new(value: T) -> Self {
        Self {
            word: AtomicU64::new(0),
            value: std::cell::UnsafeCell::new(value),
        }
    }

    /// An unlocked lock around `value`.
    #[cfg(loom)]
    pub fn new(value: T) -> Self {
        Self {
            word: AtomicU64::new(0),
            value: UnsafeCell::new(value),
        }
    }

    /// Takes the lock if it is free; does not spin.
    #[inline]
    pub fn try_acquire(&self) -> bool {
        let word = self.word.load(Relaxed);
        word & LOCKED == 0
            && self
                .word
                .compare_exchange(word, word | LOCKED, Acquire, Relaxed)
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
        self.word.fetch_or(waiter_bit(thread), Relaxed) & LOCKED == 0
    }

    /// Releases the lock and returns the threads to wake.
    ///
    /// # Safety
    /// The caller holds the lock, and no reference obtained from [`Lock::get`] is used any more.
    #[inline]
    pub unsafe fn release(&self) -> Waiters {
        Waiters(self.word.swap(0, Release) & !LOCKED)
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

    /// The address of the lock and its value, for prefetching; never to be read through.
    #[cfg(not(loom))]
    #[inline]
    pub fn address(&self) -> *const u8 {
        std::ptr::from_ref(self).cast()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
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
        assert!(!lock.wait(64));
        // SAFETY: taken above, and no reference exists.
        let waiters = unsafe { lock.release() };
        assert!(waiters.contains(3) && waiters.contains(1) && waiters.contains(64));
        assert!(!waiters.contains(0) && !waiters.contains(2));
        assert!(lock.wait(5), "`wait` reports that the lock is free");
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
