//! A ring of words with one writer and one reader: the records that one thread has appended and the merge has not read.
//!
//! ```text
//!          tail                     head
//!  |  free  | record | record | ... |  free  |        positions count words and never wrap; the place is the position mod the length
//!
//!  record: | number | bytes: 32 bits, first database: 16, last database: 16 | effects > 1: 1 bit, time: 48 bits | payload, padded |
//! ```
//!
//! The writer publishes a record by moving `head`, the reader frees it by moving `tail`. The words are atomic only so that no `unsafe` code is
//! needed: relaxed loads and stores of them are plain instructions.

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, AtomicU64};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, AtomicU64};

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// The length of a ring, in words: 1 MiB.
const WORDS: usize = if cfg!(loom) { 16 } else { 1 << 17 };
/// The memory that a ring takes, in bytes.
pub(crate) const RING_BYTES: usize = WORDS * 8;
const HEAD_WORDS: usize = 3;
const TIME_BITS: u32 = 48;

/// A record that takes more than this part of the ring goes to the overflow.
const SHARE_MAX: usize = if cfg!(loom) { 1 } else { 4 };

/// The position of an atomic that only one thread changes, on a cache line of its own.
#[repr(align(128))]
struct Alone(AtomicU64);

struct Shared {
    words: Box<[AtomicU64]>,
    head: Alone,
    tail: Alone,
    /// The writer is gone.
    closed: AtomicBool,
}

/// What the log knows about a record beside its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Its place in the total order.
    pub number: u64,
    /// The length of the payload.
    pub bytes: usize,
    /// The database of its first effect, and of its last.
    pub databases: (u16, u16),
    /// It has several effects, which belong together.
    pub is_transaction: bool,
    /// When its section ran, in milliseconds since the epoch.
    pub time_ms: i64,
}

impl Head {
    fn to_words(self) -> [u64; HEAD_WORDS] {
        let (first, last) = self.databases;
        let time_mask = (1 << TIME_BITS) - 1;
        [
            self.number,
            self.bytes as u64 | u64::from(first) << 32 | u64::from(last) << 48,
            u64::from(self.is_transaction) << 63 | self.time_ms.unsigned_abs() & time_mask,
        ]
    }

    fn from_words([number, sizes, time]: [u64; HEAD_WORDS]) -> Self {
        Self {
            number,
            bytes: (sizes & u64::from(u32::MAX)) as usize,
            databases: ((sizes >> 32) as u16, (sizes >> 48) as u16),
            is_transaction: time >> 63 == 1,
            time_ms: (time & ((1 << TIME_BITS) - 1)) as i64,
        }
    }
}

/// The end of a ring that appends.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    head: u64,
    /// The reader's position when the writer last looked.
    tail: u64,
}

/// The end of a ring that takes out.
pub(crate) struct Reader {
    shared: Arc<Shared>,
    tail: u64,
    /// The writer's position when the reader last looked.
    head: u64,
}

/// A new ring.
pub(crate) fn ring() -> (Writer, Reader) {
    let shared = Arc::new(Shared {
        words: (0..WORDS).map(|_| AtomicU64::new(0)).collect(),
        head: Alone(AtomicU64::new(0)),
        tail: Alone(AtomicU64::new(0)),
        closed: AtomicBool::new(false),
    });
    let writer = Writer {
        shared: shared.clone(),
        head: 0,
        tail: 0,
    };
    let reader = Reader {
        shared,
        tail: 0,
        head: 0,
    };
    (writer, reader)
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.closed.store(true, Release);
    }
}

impl Writer {
    /// Words that are free, at least `wanted` of them if possible.
    #[inline]
    fn free(&mut self, wanted: usize) -> usize {
        let free = WORDS - (self.head - self.tail) as usize;
        if free >= wanted {
            return free;
        }
        self.tail = self.shared.tail.0.load(Acquire);
        WORDS - (self.head - self.tail) as usize
    }

    /// True if less than half of the ring is free.
    #[inline]
    pub fn is_congested(&mut self) -> bool {
        self.free(WORDS / 2) < WORDS / 2
    }

    /// Appends a record; false if there is no room for it.
    #[inline]
    pub fn append(&mut self, head: Head, payload: &[u8]) -> bool {
        let words = HEAD_WORDS + payload.len().div_ceil(8);
        if words > WORDS / SHARE_MAX || self.free(words) < words {
            return false;
        }
        for word in head.to_words() {
            self.put(word);
        }
        let (whole, rest) = payload.as_chunks::<8>();
        for chunk in whole {
            self.put(u64::from_le_bytes(*chunk));
        }
        if !rest.is_empty() {
            let mut last = [0; 8];
            last[..rest.len()].copy_from_slice(rest);
            self.put(u64::from_le_bytes(last));
        }
        self.shared.head.0.store(self.head, Release);
        true
    }

    #[inline]
    fn put(&mut self, word: u64) {
        self.shared.words[self.head as usize % WORDS].store(word, Relaxed);
        self.head += 1;
    }
}

impl Reader {
    /// The record at the tail, if there is one.
    #[inline]
    pub fn peek(&mut self) -> Option<Head> {
        if self.tail == self.head {
            self.head = self.shared.head.0.load(Acquire);
            if self.tail == self.head {
                return None;
            }
        }
        let word = |at: u64| self.shared.words[(self.tail + at) as usize % WORDS].load(Relaxed);
        Some(Head::from_words([word(0), word(1), word(2)]))
    }

    /// Takes the record at the tail, which `peek` has returned, and appends its payload to `to`.
    #[inline]
    pub fn take(&mut self, head: Head, to: &mut Vec<u8>) {
        let from = self.tail + HEAD_WORDS as u64;
        let words = head.bytes.div_ceil(8);
        let end = to.len() + head.bytes;
        to.reserve(words * 8);
        let start = from as usize % WORDS;
        let before_wrap = words.min(WORDS - start);
        for word in &self.shared.words[start..start + before_wrap] {
            to.extend_from_slice(&word.load(Relaxed).to_le_bytes());
        }
        for word in &self.shared.words[..words - before_wrap] {
            to.extend_from_slice(&word.load(Relaxed).to_le_bytes());
        }
        to.truncate(end);
        self.tail = from + words as u64;
    }

    /// Frees what was taken.
    #[inline]
    pub fn release(&self) {
        self.shared.tail.0.store(self.tail, Release);
    }

    /// True if nothing is left and nothing will follow.
    pub fn is_finished(&mut self) -> bool {
        self.shared.closed.load(Acquire) && self.peek().is_none()
    }
}
