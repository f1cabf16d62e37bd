//! The slow log: the latest commands that took long.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One command that took long.
#[derive(Clone, Debug)]
pub struct SlowCommand {
    /// Counts up from zero.
    pub id: u64,
    /// When it ran, in seconds since the epoch.
    pub at_s: i64,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// Its arguments, shortened.
    pub args: Vec<Vec<u8>>,
    /// The client's address.
    pub address: String,
    /// The client's name.
    pub name: String,
}

/// The most arguments kept of a command, the last of which then says how many more there were.
const ARGS_MAX: usize = 32;
/// The most bytes kept of an argument, which then ends with how many more there were.
const ARG_BYTES_MAX: usize = 128;

/// The latest slow commands, newest first.
#[derive(Debug, Default)]
pub struct Slowlog {
    next_id: AtomicU64,
    entries: Mutex<VecDeque<SlowCommand>>,
}

impl Slowlog {
    /// The entries, newest first.
    pub fn entries(&self) -> MutexGuard<'_, VecDeque<SlowCommand>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a command, and forgets the oldest beyond `len_max`. The id of `command` is set here.
    pub fn add(&self, mut command: SlowCommand, len_max: usize) {
        let mut entries = self.entries();
        command.id = self.next_id.fetch_add(1, Relaxed);
        entries.push_front(command);
        entries.truncate(len_max);
    }
}

/// The arguments as the slow log keeps them.
pub fn shortened<'a>(args: impl ExactSizeIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let len = args.len();
    let kept = if len > ARGS_MAX { ARGS_MAX - 1 } else { len };
    let mut shown: Vec<Vec<u8>> = args
        .take(kept)
        .map(|arg| match arg.len().checked_sub(ARG_BYTES_MAX) {
            None | Some(0) => arg.to_vec(),
            Some(more) => [
                &arg[..ARG_BYTES_MAX],
                format!("... ({more} more bytes)").as_bytes(),
            ]
            .concat(),
        })
        .collect();
    if len > kept {
        shown.push(format!("... ({} more arguments)", len - kept).into_bytes());
    }
    shown
}
