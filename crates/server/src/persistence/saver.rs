//! A thread's part in a save: it encodes slices between its turns.
//!
//! A thread that has nothing else to do encodes without a break. A busy one spends a part of its time on it. If writers change entries
//! faster than they are encoded, what is kept of them would grow; then threads spend more time on encoding, and beyond a limit writes
//! wait, as with CLIENT PAUSE WRITE.

use std::sync::Arc;
use std::time::{Duration, Instant};

use damselfly_engine::Now;

use super::save_job::{Encoded, Encoders, SaveJob};
use crate::clock;
use crate::shared::Shared;

/// The longest time that a thread encodes between two turns: so much later may requests be answered.
const SLICE: Duration = Duration::from_micros(100);

/// A busy thread spends one part in this many of its time on encoding.
const SHARE: u32 = 6;

/// The same while much is kept of changed entries.
const SHARE_OF_BACKLOG: u32 = 2;

/// When there is nothing to encode, a thread looks again after this time.
const RECHECK_INTERVAL: Duration = Duration::from_millis(1);

/// Writes wait for so long while too much is kept, and then again if it is still too much.
const HOLD_MS: i64 = 2;

/// How much is kept at most of entries that were changed before they were encoded: a part of the data, within these limits.
const KEPT_SHARE: usize = 32;
const KEPT_BYTES_MIN: usize = 32 << 20;
const KEPT_BYTES_MAX: usize = 1 << 30;

/// A thread's part in a save.
pub struct Saver {
    /// The save, and its encoders.
    current: Option<(Arc<SaveJob>, Encoders)>,
    /// A busy thread may encode from then on.
    next_share: Instant,
    /// There was nothing to encode: look again then.
    next_look: Instant,
}

impl Saver {
    /// No save is in progress.
    pub fn new() -> Self {
        Self {
            current: None,
            next_share: Instant::now(),
            next_look: Instant::now(),
        }
    }

    /// While a save is in progress: until when the thread may wait for events.
    pub fn next_look(&self) -> Instant {
        self.next_look
    }

    /// Encodes for a moment, unless the thread has done enough for now. `is_idle`: no event waits for this thread.
    #[cold]
    pub fn encode(&mut self, shared: &Shared, is_idle: bool) {
        let Some(job) = shared.persistence.job() else {
            self.current = None;
            return;
        };
        let is_known = matches!(&self.current, Some((current, _)) if Arc::ptr_eq(current, &job));
        if !is_known {
            self.current = Some((job.clone(), Encoders::default()));
        }
        let Some((_, encoders)) = &mut self.current else {
            return;
        };
        let started = Instant::now();
        let backlog = Backlog::of(&job);
        if backlog == Backlog::TooMuch {
            let now_ms = clock::now_ms();
            shared.pause.start(now_ms, now_ms + HOLD_MS, true);
        }
        let is_due = is_idle || backlog == Backlog::TooMuch || started >= self.next_share;
        if !is_due || started < self.next_look {
            return;
        }
        let mut tx = shared.engine.lock_none(0, Now(clock::now_ms()));
        while started.elapsed() < SLICE {
            if job.encode_slice(&mut tx, encoders) == Encoded::NoneNow {
                self.next_look = Instant::now() + RECHECK_INTERVAL;
                break;
            }
        }
        let ended = Instant::now();
        let share = match backlog {
            Backlog::Small => SHARE,
            Backlog::Much | Backlog::TooMuch => SHARE_OF_BACKLOG,
        };
        self.next_share = ended + (ended - started) * (share - 1);
    }
}

/// How much is kept of changed entries.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Backlog {
    Small,
    Much,
    TooMuch,
}

impl Backlog {
    fn of(job: &SaveJob) -> Self {
        let data = damselfly_base::heap::data_bytes();
        let limit = (data / KEPT_SHARE).clamp(KEPT_BYTES_MIN, KEPT_BYTES_MAX);
        match job.kept_bytes() {
            kept if kept > limit => Self::TooMuch,
            kept if kept > limit / 2 => Self::Much,
            _ => Self::Small,
        }
    }
}
