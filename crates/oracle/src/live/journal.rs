//! A record of the bytes that a connection sent, so that a fault can be reproduced.

use crate::text::quote;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A journal that grows beyond this drops its earlier entries; most connections send less.
const BYTES_MAX: usize = 8 << 20;

#[derive(Debug)]
enum Entry {
    Sent(Vec<u8>),
    Pause(u64),
    Note(&'static str),
}

#[derive(Debug, Default)]
struct Entries {
    label: String,
    entries: Vec<Entry>,
    bytes: usize,
    is_cut: bool,
}

/// The record of a slot's current connection.
#[derive(Debug, Default)]
pub struct Journal {
    entries: Mutex<Entries>,
}

impl Journal {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the record of a new connection.
    pub fn begin(&self, label: &str) {
        *self.lock() = Entries {
            label: label.into(),
            ..Entries::default()
        };
    }

    /// Records one write.
    pub fn sends(&self, bytes: &[u8]) {
        let mut entries = self.lock();
        entries.bytes += bytes.len();
        if entries.bytes > BYTES_MAX {
            entries.entries.clear();
            entries.bytes = bytes.len();
            entries.is_cut = true;
        }
        entries.entries.push(Entry::Sent(bytes.to_vec()));
    }

    /// Records a pause after a write.
    pub fn pause(&self, ms: u64) {
        self.lock().entries.push(Entry::Pause(ms));
    }

    /// Records another event, such as a close.
    pub fn note(&self, what: &'static str) {
        self.lock().entries.push(Entry::Note(what));
    }

    /// The record as text: a line per write, quoted as redis-cli does.
    pub fn text(&self) -> String {
        let entries = self.lock();
        let mut text = format!("# connection {}\n", entries.label);
        if entries.is_cut {
            text += "# the beginning is missing\n";
        }
        for entry in &entries.entries {
            text += &match entry {
                Entry::Sent(bytes) => format!("send {}\n", quote(bytes)),
                Entry::Pause(ms) => format!("pause {ms}\n"),
                Entry::Note(what) => format!("{what}\n"),
            };
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_lists_what_was_sent_and_how() {
        let journal = Journal::default();
        journal.begin("1.2.3");
        journal.sends(b"PING\r\n");
        journal.pause(3);
        journal.note("half-close");
        assert_eq!(
            journal.text(),
            "# connection 1.2.3\nsend \"PING\\r\\n\"\npause 3\nhalf-close\n"
        );
    }
}
