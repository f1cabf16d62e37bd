//! CLIENT PAUSE: holding back commands for a while.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};

/// Whether commands are held back, and until when.
#[derive(Debug, Default)]
pub struct Pause {
    /// Milliseconds since the epoch; in the past for no pause.
    until_ms: AtomicI64,
    writes_only: AtomicBool,
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

    /// Ends the pause.
    pub fn end(&self) {
        self.until_ms.store(0, Relaxed);
    }

    /// When the pause ends, in milliseconds since the epoch, if it concerns such a command.
    #[inline]
    pub fn holds(&self, writes: bool, now_ms: i64) -> Option<i64> {
        let until_ms = self.until_ms.load(Relaxed);
        (until_ms > now_ms && (writes || !self.writes_only.load(Relaxed))).then_some(until_ms)
    }
}
