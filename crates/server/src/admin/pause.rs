//! CLIENT PAUSE: holding back commands for a while.

use std::sync::atomic::{
    AtomicBool, AtomicI64, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// Whether commands are held back, and until when.
#[derive(Debug, Default)]
pub struct Pause {
    /// Milliseconds since the epoch; in the past for no pause.
    until_ms: AtomicI64,
    writes_only: AtomicBool,
    /// How many pauses were ended early.
    ended: AtomicU64,
}

/// Why and how long a command is held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// When the pause ends, in milliseconds since the epoch.
    pub until_ms: i64,
    /// Commands that write nothing are not held back.
    pub writes_only: bool,
    /// How many pauses had been ended early.
    ended: u64,
}

impl Pause {
    /// Holds commands back until then: all, or only those that write. Extends a running pause, never
    /// shortens or weakens it.
    pub fn start(&self, now_ms: i64, until_ms: i64, writes_only: bool) {
        if self.until_ms.load(Relaxed) <= now_ms {
            self.writes_only.store(writes_only, Relaxed);
        } else if !writes_only {
            self.writes_only.store(false, Relaxed);
        }
        self.until_ms.fetch_max(until_ms, Relaxed);
    }

    /// Ends the pause. The threads have to be woken then.
    pub fn end(&self) {
        self.until_ms.store(0, Relaxed);
        self.ended.fetch_add(1, Release);
    }

    /// What holds such a command back, if anything does.
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
        // Read first, so that an end that comes in between is noticed by `is_over`.
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

    /// True if a command that was held back is worth another try.
    pub fn is_over(&self, hold: Hold, now_ms: i64) -> bool {
        hold.until_ms <= now_ms || hold.ended != self.ended.load(Acquire)
    }
}
