//! Full memory barriers for a frequent and a rare side.
//!
//! Each side writes, then reads what the other side writes. With a full barrier in between on both sides, at least one of them sees the other's write.
//! Linux's `membarrier` makes every running thread of the process pass a full barrier, so the rare side can issue it for both.

#[cfg(loom)]
use loom::sync::atomic::fence;
#[cfg(not(loom))]
use std::sync::atomic::fence;

use std::sync::atomic::Ordering::SeqCst;

/// Who issues the barriers: the same for all locks of a process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fences {
    /// The waiting side issues the releasing side's, too.
    by_waiting: bool,
}

impl Fences {
    /// What the system can do.
    pub(crate) fn of_process() -> Self {
        Self {
            by_waiting: membarrier::is_ready(),
        }
    }

    /// Each side issues its own.
    #[cfg(test)]
    pub(crate) fn on_both_sides() -> Self {
        Self { by_waiting: false }
    }

    /// The barrier of a thread that releases a lock.
    #[inline]
    pub(crate) fn releasing(self) {
        if self.by_waiting {
            std::sync::atomic::compiler_fence(SeqCst);
        } else {
            fence(SeqCst);
        }
    }

    /// The barrier of a thread that waits for a lock.
    #[cold]
    pub(crate) fn waiting(self) {
        fence(SeqCst);
        if self.by_waiting {
            membarrier::issue();
        }
    }
}

#[cfg(all(target_os = "linux", not(loom), not(miri)))]
mod membarrier {
    use rustix::thread::{MembarrierCommand, membarrier};
    use std::sync::LazyLock;

    /// Registers the process; false if the kernel is too old or forbids it.
    pub(super) fn is_ready() -> bool {
        static READY: LazyLock<bool> = LazyLock::new(|| {
            membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
                && membarrier(MembarrierCommand::PrivateExpedited).is_ok()
        });
        *READY
    }

    pub(super) fn issue() {
        while membarrier(MembarrierCommand::PrivateExpedited).is_err() {
            // The kernel had no memory for it.
            std::thread::yield_now();
        }
    }
}

#[cfg(not(all(target_os = "linux", not(loom), not(miri))))]
mod membarrier {
    pub(super) fn is_ready() -> bool {
        false
    }

    pub(super) fn issue() {}
}
