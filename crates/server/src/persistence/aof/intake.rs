//! The append-only file as a consumer of the log: it queues the changes for the thread that writes.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use damselfly_log::{Batch, Targets};

use super::Aof;
use crate::log_thread::Consumer;

/// The length of a time in the file.
const TIME_BYTES: usize = "#TS:1700000000\r\n".len();

/// The log is held up when so many bytes wait to be written.
const QUEUED_BYTES_MAX: usize = 64 << 20;

/// Takes the log for the thread that writes.
pub(super) struct Intake {
    pub(super) aof: Arc<Aof>,
}

impl Intake {
    /// The bytes of the records from `cut` on, with the time where a new second begins.
    fn bytes(&self, batch: &Batch, cut: u64) -> Vec<u8> {
        let mut times: &[(usize, i64)] = match self.aof.writes_times.load(Relaxed) {
            true => &batch.seconds,
            false => &[],
        };
        let mut bytes = Vec::with_capacity(batch.bytes.len() + times.len() * TIME_BYTES);
        for (mut from, mut piece) in batch.after(cut, Targets::FILE) {
            while let [(at, second), rest @ ..] = times
                && *at < from + piece.len()
            {
                let (before, behind) = piece.split_at(at.saturating_sub(from));
                bytes.extend_from_slice(before);
                bytes.extend_from_slice(format!("#TS:{second}\r\n").as_bytes());
                from += before.len();
                (piece, times) = (behind, rest);
            }
            bytes.extend_from_slice(piece);
        }
        bytes
    }
}

impl Consumer for Intake {
    fn targets(&self) -> Targets {
        Targets::FILE
    }

    fn take(&mut self, batch: &Arc<Batch>, from: u64) -> bool {
        let mut queue = self.aof.queue();
        let mut from = from.max(batch.first);
        if let Some(cut) = queue.cut
            && from < cut
            && cut < batch.end
        {
            let mut before = self.bytes(batch, from);
            before.truncate(before.len() - self.bytes(batch, cut).len());
            queue.add(batch, before, (from, cut));
            from = cut;
        }
        let bytes = self.bytes(batch, from);
        queue.add(batch, bytes, (from, batch.end));
        drop(queue);
        self.aof.changed.notify_one();
        true
    }

    fn is_full(&self) -> bool {
        self.aof.queue().bytes > QUEUED_BYTES_MAX
    }

    fn is_urgent(&self) -> bool {
        self.aof.holds_replies() || self.aof.waiting.load(Relaxed) > 0
    }
}
