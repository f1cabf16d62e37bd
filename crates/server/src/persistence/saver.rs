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

/// A busy thread spends one part in this many of its time on copying.
const SHARE: u32 = 8;

/// The same of a thread that has nothing else to do, or while much is kept of changed entries.
const LARGE_SHARE: u32 = 2;

/// When there is nothing to copy, a thread looks again after this time.
const RECHECK_INTERVAL: Duration = Duration::from_millis(1);

/// Writes wait for so long while too much is kept, and then again if it is still too much.
const HOLD_MS: i64 = 2;

/// A thread's part in a save.
pub struct Saver {
    /// The thread may copy from then on.
    next: Instant,
}

impl Saver {
    /// No save is in progress.
    pub fn new() -> Self {
        Self {
            next: Instant::now(),
        }
    }

    /// While a save is in progress: until when the thread may wait for events.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Copies for a moment, unless the thread has done enough for now. `is_idle`: no event waits for this thread.
    #[cold]
    pub fn copy(&mut self, shared: &Shared, is_idle: bool) {
        let Some(job) = shared.persistence.job() else {
            return;
        };
        let started = Instant::now();
        let backlog = job.backlog();
        if backlog == Backlog::TooMuch {
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
        let share = match backlog {
            Backlog::Small if !is_idle => SHARE,
            Backlog::Small | Backlog::Much | Backlog::TooMuch => LARGE_SHARE,
        };
        let ended = Instant::now();
        self.next = ended + (ended - started) * (share - 1);
    }
}
