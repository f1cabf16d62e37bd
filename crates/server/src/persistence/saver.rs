//! A thread's part in a save: it copies entries between its turns.
//!
//! A thread spends only a part of its time on that. If writers change entries faster than they are copied and encoded, what is kept of
//! them grows. Then threads copy more and strings are not compressed; beyond a limit writes wait, as with CLIENT PAUSE WRITE.

use std::time::{Duration, Instant};

use damselfly_engine::Now;

use super::save_job::{Backlog, Copied};
use crate::clock;
use crate::shared::Shared;

/// The longest time that a thread copies between two turns: so much later may requests be answered.
const SLICE: Duration = Duration::from_micros(100);

/// A save takes one part in this many of the time of a thread that serves clients: for copying, and for encoding what was copied, whose
/// time clients lose where cores are short.
const SHARE: u32 = 10;

/// A thread that has little else to do copies for one part in this many of its time, and so does every thread while much is kept of
/// changed entries.
const LARGE_SHARE: u32 = 2;

/// The most that counts of one slice: if it took longer, the thread was interrupted, and other threads used the processor.
const SLICE_COUNTED_MAX: Duration = Duration::from_millis(1);

/// How often a thread looks how busy it was.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// A thread has little else to do if clients took less than one part in this many of its time: some thousand requests per second.
const BUSY_SHARE: u32 = 16;

/// When there is nothing to copy, a thread looks again after this time.
const RECHECK_INTERVAL: Duration = Duration::from_millis(1);

/// Writes wait for so long while too much is kept, and then again if it is still too much.
const HOLD_MS: i64 = 2;

/// A thread's part in a save.
pub struct Saver {
    /// The thread may copy from then on.
    next: Instant,
    /// When the thread last looked how busy it is, and its time for clients until then.
    looked: Instant,
    served: Duration,
    /// It had little else to do then.
    is_idle: bool,
}

impl Saver {
    /// No save is in progress.
    pub fn new() -> Self {
        Self {
            next: Instant::now(),
            looked: Instant::now(),
            served: Duration::ZERO,
            is_idle: false,
        }
    }

    /// While a save is in progress: until when the thread may wait for events.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Copies for a moment, unless the thread has done enough for now. `served`: its time for clients so far.
    #[cold]
    pub fn copy(&mut self, shared: &Shared, served: Duration) {
        let Some(job) = shared.persistence.job() else {
            return;
        };
        let started = Instant::now();
        let since = started - self.looked;
        if since > LOOK_INTERVAL {
            self.is_idle = is_idle(served.saturating_sub(self.served), since);
            (self.looked, self.served) = (started, served);
        }
        let backlog = job.backlog();
        if backlog == Backlog::TooMuch && !job.close_slowest_replicas() {
            let now_ms = clock::now_ms();
            shared.pause.start(now_ms, now_ms + HOLD_MS, true);
        }
        if started < self.next && backlog != Backlog::TooMuch {
            return;
        }
        let mut tx = shared.engine.lock_none(0, Now(clock::now_ms()));
        while started.elapsed() < SLICE {
            if job.copy_some(&mut tx) == Copied::NoneNow {
                self.next = Instant::now() + RECHECK_INTERVAL;
                return;
            }
        }
        let ended = Instant::now();
        let took = counted(ended - started);
        job.costs.add_copying(took);
        let share = match backlog {
            Backlog::Small if !self.is_idle => SHARE * job.costs.ratio(),
            Backlog::Small | Backlog::Much | Backlog::TooMuch => LARGE_SHARE,
        };
        self.next = ended + pause(took, share);
    }
}

/// Whether a thread has little else to do that served clients for `served` of the last `since`.
fn is_idle(served: Duration, since: Duration) -> bool {
    served * BUSY_SHARE < since
}

/// How much counts of the time that a slice took.
fn counted(took: Duration) -> Duration {
    took.min(SLICE_COUNTED_MAX)
}

/// How long a thread does not copy after a slice that took so long, if it may spend one part in `share` of its time on copying.
fn pause(took: Duration, share: u32) -> Duration {
    took * (share - 1)
}

#[cfg(test)]
mod tests {
    use super::super::save_costs::Costs;
    use super::*;

    #[test]
    fn a_thread_copies_its_share_of_the_time() {
        let (took, turn) = (
            SLICE.as_secs_f64(),
            (SLICE + pause(SLICE, SHARE)).as_secs_f64(),
        );
        assert!((took / turn - 1.0 / f64::from(SHARE)).abs() < 1e-9);
    }

    /// A bug: SAVE took ten times as long on a busy machine.
    #[test]
    fn a_thread_that_was_interrupted_while_it_copied_goes_on_soon() {
        let longest = pause(counted(Duration::from_secs(2)), SHARE * Costs::RATIO_MAX);
        assert!(longest < Duration::from_millis(200), "{longest:?}");
    }

    /// A bug: a client that asked every 5 ms how far the save was made it take ten times as long.
    #[test]
    fn a_few_requests_do_not_make_a_thread_busy() {
        let (turn, second) = (Duration::from_micros(30), Duration::from_secs(1));
        assert!(is_idle(200 * turn, second));
        assert!(!is_idle(10_000 * turn, second));
    }
}
