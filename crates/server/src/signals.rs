//! Signals: SIGTERM and SIGINT stop the server, SIGHUP makes it read its certificates again, SIGXFSZ does nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::{fmt, io};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::flag;

/// The exit code after a second signal.
const EXIT_AT_ONCE: i32 = 1;

/// A signal that stops the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT
    Interrupt,
    /// SIGTERM
    Terminate,
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
        })
    }
}

/// The signals that have arrived.
#[derive(Default)]
pub struct Signals {
    asked: Arc<AtomicBool>,
    number: Arc<AtomicUsize>,
    hung_up: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the signal handlers. [`Signals::ending`] returns the first SIGTERM or SIGINT; a second one ends the process at
    /// once, whatever its threads do. SIGHUP, which also arrives when a terminal closes, does not end the process, and neither does
    /// SIGXFSZ: a save that exceeds the limit on the size of files only fails. Rust itself ignores SIGPIPE.
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
        flag::register(SIGHUP, signals.hung_up.clone())?;
        flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)))?;
        Ok(signals)
    }

    /// The signal that stops the server, if one has arrived.
    pub fn ending(&self) -> Option<Signal> {
        if !self.asked.load(Relaxed) {
            return None;
        }
        let is_interrupt = self.number.load(Relaxed) == SIGINT as usize;
        Some(match is_interrupt {
            true => Signal::Interrupt,
            false => Signal::Terminate,
        })
    }

    /// True if SIGHUP has arrived since the last call.
    pub fn take_hangup(&self) -> bool {
        self.hung_up.swap(false, Relaxed)
    }

    /// Forgets the signal that has arrived, because the server goes on: the next one is a first one again.
    pub fn forget(&self) {
        self.asked.store(false, Relaxed);
    }
}
