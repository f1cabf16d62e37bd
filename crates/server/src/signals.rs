//! Signals: SIGTERM and SIGINT end the server, SIGHUP does nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// The exit code of a process that a second signal ends.
const EXIT_AT_ONCE: i32 = 1;

/// The signals that have come.
#[derive(Default)]
pub struct Signals {
    asked: Arc<AtomicBool>,
    number: Arc<AtomicUsize>,
}

impl Signals {
    /// Handles signals from now on. The first SIGTERM or SIGINT is to be seen here; a second one ends the process at once,
    /// whatever its threads do. SIGHUP, which comes when a terminal closes, is ignored. So is SIGPIPE, by Rust itself.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn handle() -> io::Result<Self> {
        let signals = Self::default();
        for signal in [SIGTERM, SIGINT] {
            // Before the flag that it looks at is set.
            flag::register_conditional_shutdown(signal, EXIT_AT_ONCE, signals.asked.clone())?;
            flag::register_usize(signal, signals.number.clone(), signal as usize)?;
            flag::register(signal, signals.asked.clone())?;
        }
        flag::register(SIGHUP, Arc::new(AtomicBool::new(false)))?;
        Ok(signals)
    }

    /// The signal that asks the server to end, if one has come.
    pub fn ending(&self) -> Option<&'static str> {
        if !self.asked.load(Relaxed) {
            return None;
        }
        let is_interrupt = self.number.load(Relaxed) == SIGINT as usize;
        Some(if is_interrupt { "SIGINT" } else { "SIGTERM" })
    }
}
