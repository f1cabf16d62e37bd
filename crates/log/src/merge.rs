//! The merge: from the rings of the threads to one total order.

use std::sync::Arc;

use crate::batch::{Batch, Targets};
use crate::record::{parts, write_command, write_select};
use crate::ring::{Head, Reader};
use crate::stream::Log;

/// The only reader of a log.
pub struct Merge {
    log: Arc<Log>,
    readers: Vec<Reader>,
    /// The number of the next record.
    next: u64,
    /// The database that is selected in the stream.
    db: Option<u16>,
    second: i64,
    payload: Vec<u8>,
}

impl Merge {
    /// The merge of a log, which must have no other.
    pub fn new(log: Arc<Log>) -> Self {
        Self {
            next: log.merged(),
            log,
            readers: Vec::new(),
            db: None,
            second: 0,
            payload: Vec::new(),
        }
    }

    /// Appends the records that are next to an empty batch, until it has about `bytes_max` bytes. Returns how many there were.
    pub fn fill(&mut self, batch: &mut Batch, bytes_max: usize) -> usize {
        self.log.take_new_readers(&mut self.readers);
        (batch.first, batch.end) = (self.next, self.next);
        while batch.bytes.len() < bytes_max {
            let before = self.next;
            for index in 0..self.readers.len() {
                self.drain(index, batch, bytes_max);
            }
            if self.next == before && !self.take_overflow(batch) {
                break;
            }
        }
        self.readers.iter().for_each(Reader::release);
        let before = self.readers.len();
        self.readers.retain_mut(|reader| !reader.is_finished());
        self.log.note_freed_rings(before - self.readers.len());
        batch.end = self.next;
        self.log.note_merged(self.next);
        (batch.end - batch.first) as usize
    }

    /// Takes records from one ring for as long as it has the next one.
    #[inline]
    fn drain(&mut self, index: usize, batch: &mut Batch, bytes_max: usize) {
        while batch.bytes.len() < bytes_max {
            let reader = &mut self.readers[index];
            let Some(head) = reader.peek() else {
                return;
            };
            // A deliberate bug that `tests/linearization.rs` must detect: the order of the rings instead of the numbers.
            if head.number != self.next && !damselfly_base::planted_bug("log") {
                return;
            }
            let mut payload = std::mem::take(&mut self.payload);
            payload.clear();
            reader.take(head, &mut payload);
            self.add(head, &payload, batch);
            self.payload = payload;
        }
    }

    #[cold]
    fn take_overflow(&mut self, batch: &mut Batch) -> bool {
        let Some((head, payload)) = self.log.take_from_overflow(self.next) else {
            return false;
        };
        self.add(head, &payload, batch);
        true
    }

    fn add(&mut self, head: Head, payload: &[u8], batch: &mut Batch) {
        self.next += 1;
        let selected = self
            .db
            .filter(|&db| db == head.databases.0 || payload.is_empty());
        batch.starts.push((batch.bytes.len() as u32, selected));
        if payload.is_empty() {
            return;
        }
        let second = head.time_ms / 1000;
        if second != self.second {
            self.second = second;
            batch.seconds.push((batch.bytes.len(), second));
        }
        if self.db != Some(head.databases.0) {
            write_select(&mut batch.bytes, head.databases.0);
            batch.add_span(Targets::ALL);
        }
        self.db = Some(head.databases.1);
        if head.is_transaction {
            write_command(&mut batch.bytes, [&b"MULTI"[..]].into_iter());
            batch.add_span(Targets::ALL);
        }
        for (targets, commands) in parts(payload) {
            batch.bytes.extend_from_slice(commands);
            batch.add_span(targets);
        }
        if head.is_transaction {
            write_command(&mut batch.bytes, [&b"EXEC"[..]].into_iter());
            batch.add_span(Targets::ALL);
        }
    }

    /// The number of the next record.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// True if records were appended that were not merged yet.
    pub fn is_behind(&self) -> bool {
        self.next < self.log.appended()
    }
}
