//! CLIENT PAUSE: commands are held back for a while.

use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Mutex, PoisonError};

/// Whether commands are held back, and until when.
#[derive(Debug, Default)]
pub struct Pause {
    /// Milliseconds since the epoch; in the past if there is no pause.
    until_ms: AtomicI64,
    writes_only: AtomicBool,
    /// The number of pauses that were ended early.
    ended: AtomicU64,
    /// Held while a pause is started, so that two at the same moment do not weaken each other.
    starting: Mutex<()>,
}

/// Why and how long a command is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// When the pause ends, in milliseconds since the epoch.
    pub until_ms: i64,
    /// Only commands that write are held back.
    pub writes_only: bool,
    /// The number of pauses that had been ended early before.
    ended: u64,
}

impl Pause {
    /// Holds commands back until `until_ms`: all, or only those that write. Extends a running pause; never shortens or weakens it.
    pub fn start(&self, now_ms: i64, until_ms: i64, writes_only: bool) {
        let _starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.until_ms.load(Relaxed) <= now_ms {
            self.writes_only.store(writes_only, Relaxed);
        } else if !writes_only {
            self.writes_only.store(false, Relaxed);
        }
        self.until_ms.fetch_max(until_ms, Relaxed);
    }

    /// Ends the pause. The caller must wake the threads afterwards.
    pub fn end(&self) {
        self.until_ms.store(0, Relaxed);
        self.ended.fetch_add(1, Release);
    }

    /// The pause that holds a command back, if there is one. `writes` says whether the command writes.
    #[inline]
    pub fn holds(&self, writes: bool, now_ms: i64) -> Option<Hold> {
        let until_ms = self.until_ms.load(Relaxed);
        if until_ms <= now_ms {
            return None;
        }
        self.holds_slowly(writes, now_ms)
    }

    #[cold]
    fn holds_slowly(&self, writes: bool, now_ms: i64) -> Option<Hold> {
        // Read before the rest, so that `is_over` notices if the pause is ended meanwhile.
        let ended = self.ended.load(Acquire);
        let until_ms = self.until_ms.load(Relaxed);
        let writes_only = self.writes_only.load(Relaxed);
        let holds = until_ms > now_ms && (writes || !writes_only);
        holds.then_some(Hold {
            until_ms,
            writes_only,
            ended,
        })
    }

    /// True if a command that was held back should be tried again.
    pub fn is_over(&self, hold: Hold, now_ms: i64) -> bool {
        hold.until_ms <= now_ms || hold.ended != self.ended.load(Acquire)
    }
}
