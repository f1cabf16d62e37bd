//! Signals: SIGTERM and SIGINT stop the server, SIGHUP and SIGXFSZ do nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

/// The exit code after a second signal.
const EXIT_AT_ONCE: i32 = 1;

/// The signals that have arrived.
#[derive(Default)]
pub struct Signals {
    asked: Arc<AtomicBool>,
    number: Arc<AtomicUsize>,
}

impl Signals {
    /// Installs the signal handlers. [`Signals::ending`] returns the first SIGTERM or SIGINT; a second one ends the process at
    /// once, whatever its threads do. SIGHUP, which arrives when a terminal closes, is ignored, and so is SIGXFSZ: a save that exceeds
    /// the limit on the size of files fails, and must not end the process. Rust itself ignores SIGPIPE.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn handle() -> io::Result<Self> {
        let signals = Self::default();
        for signal in [SIGTERM, SIGINT] {
            // This comes before the handler that sets the flag: handlers run in this order, and the first signal must not exit.
            flag::register_conditional_shutdown(signal, EXIT_AT_ONCE, signals.asked.clone())?;
            flag::register_usize(signal, signals.number.clone(), signal as usize)?;
            flag::register(signal, signals.asked.clone())?;
        }
        for ignored in [SIGHUP, SIGXFSZ] {
            flag::register(ignored, Arc::new(AtomicBool::new(false)))?;
        }
        Ok(signals)
    }

    /// The signal that stops the server, if one has arrived.
    pub fn ending(&self) -> Option<&'static str> {
        if !self.asked.load(Relaxed) {
            return None;
        }
        let is_interrupt = self.number.load(Relaxed) == SIGINT as usize;
        Some(if is_interrupt { "SIGINT" } else { "SIGTERM" })
    }
}
