//! The log as sections see it: whether it is on, the next number, and where records go.

#[cfg(loom)]
use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize},
};
use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
#[cfg(not(loom))]
use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize},
};

use crate::batch::Targets;
use crate::record::Record;
use crate::ring::{Head, RING_BYTES, Reader, Writer, ring};

/// The overflow is congested when it has more bytes than this.
pub const OVERFLOW_BYTES_MAX: usize = 16 << 20;

/// The counter of all threads, on a cache line of its own.
#[repr(align(128))]
struct Alone(AtomicU64);

/// The log of one engine.
pub struct Log {
    is_on: AtomicBool,
    /// The bits of the targets that somebody wants.
    wanted: AtomicU8,
    /// The number of the next record.
    next: Alone,
    /// The number after the last record that the merge has taken.
    merged: AtomicU64,
    /// Rings that the merge does not know yet.
    new_readers: Mutex<Vec<Reader>>,
    has_new_readers: AtomicBool,
    /// Rings that exist.
    rings: AtomicUsize,
    overflow: Mutex<BTreeMap<u64, (Head, Vec<u8>)>>,
    overflow_records: AtomicUsize,
    /// Payload bytes in `overflow`, changed under its lock.
    overflow_bytes: AtomicUsize,
    /// Distinguishes logs: a thread may use several.
    pub(crate) id: u64,
}

impl Default for Log {
    fn default() -> Self {
        static IDS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
        Self {
            is_on: AtomicBool::new(false),
            wanted: AtomicU8::new(0),
            next: Alone(AtomicU64::new(0)),
            merged: AtomicU64::new(0),
            new_readers: Mutex::new(Vec::new()),
            has_new_readers: AtomicBool::new(false),
            rings: AtomicUsize::new(0),
            overflow: Mutex::new(BTreeMap::new()),
            overflow_records: AtomicUsize::new(0),
            overflow_bytes: AtomicUsize::new(0),
            id: IDS.fetch_add(1, Relaxed),
        }
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log")
            .field("is_on", &self.is_on())
            .field("appended", &self.appended())
            .finish_non_exhaustive()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    /// True if effects have to be recorded.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.is_on.load(Relaxed)
    }

    /// Turns the log on, for consumers of these targets in all. The caller holds all locks, so no section is in progress.
    pub fn start(&self, wanted: Targets) {
        self.wanted.store(wanted.bits(), Relaxed);
        self.is_on.store(true, Relaxed);
    }

    /// True if the log is on for one of these targets.
    #[inline]
    pub fn wants(&self, targets: Targets) -> bool {
        self.is_on() && Targets::from_bits(self.wanted.load(Relaxed)).meets(targets)
    }

    /// Turns the log off. The caller holds all locks.
    pub fn stop(&self) {
        self.is_on.store(false, Relaxed);
    }

    /// How many records were appended: the number of the next one. While the caller holds the lock of a shard, all changes of the
    /// shard so far are in records below this number; with all locks, exactly the changes so far are.
    #[inline]
    pub fn appended(&self) -> u64 {
        self.next.0.load(Acquire)
    }

    /// True if records were appended that the merge has not taken. Records of the calling thread are certainly counted.
    #[inline]
    pub fn has_unmerged(&self) -> bool {
        self.appended() != self.merged()
    }

    /// How many records the merge has passed on.
    #[inline]
    pub fn merged(&self) -> u64 {
        self.merged.load(Acquire)
    }

    pub(crate) fn note_merged(&self, merged: u64) {
        self.merged.store(merged, Release);
    }

    /// Takes the number of a record now, before the section releases the first of its locks.
    pub fn reserve(&self, record: &mut Record) {
        if record.number.is_none() {
            record.number = Some(self.next.0.fetch_add(1, Release));
        }
    }

    /// Gives a record its number and appends it with `put`, or to the overflow if that returns false.
    #[inline]
    pub(crate) fn append_with(
        &self,
        record: &mut Record,
        time_ms: i64,
        put: impl FnOnce(Head, &[u8]) -> bool,
    ) {
        if record.has_kept() {
            record.join_kept();
        }
        let number = match record.number {
            Some(number) => number,
            None => self.next.0.fetch_add(1, Release),
        };
        let head = record.head(number, time_ms);
        if u32::try_from(head.bytes).is_err() || !put(head, record.payload()) {
            self.append_to_overflow(head, record.take_payload());
        }
    }

    /// A new ring, for one thread.
    #[cold]
    pub(crate) fn add_ring(&self) -> Writer {
        // Counted before it takes memory, which would cost keys otherwise.
        self.rings.fetch_add(1, Relaxed);
        let (writer, reader) = ring();
        locked(&self.new_readers).push(reader);
        self.has_new_readers.store(true, Release);
        writer
    }

    pub(crate) fn take_new_readers(&self, readers: &mut Vec<Reader>) {
        if self.has_new_readers.swap(false, Acquire) {
            readers.append(&mut locked(&self.new_readers));
        }
    }

    #[cold]
    fn append_to_overflow(&self, head: Head, payload: Vec<u8>) {
        let mut overflow = locked(&self.overflow);
        self.overflow_bytes.fetch_add(payload.len(), Relaxed);
        overflow.insert(head.number, (head, payload));
        self.overflow_records.store(overflow.len(), Release);
    }

    /// Takes the record with this number out of the overflow, if it is there.
    pub(crate) fn take_from_overflow(&self, number: u64) -> Option<(Head, Vec<u8>)> {
        if self.overflow_records.load(Acquire) == 0 {
            return None;
        }
        let mut overflow = locked(&self.overflow);
        let taken = match damselfly_base::planted_bug("log") {
            false => overflow.remove(&number)?,
            true => overflow.pop_first()?.1,
        };
        self.overflow_bytes.fetch_sub(taken.1.len(), Relaxed);
        self.overflow_records.store(overflow.len(), Release);
        Some(taken)
    }

    pub(crate) fn note_freed_rings(&self, count: usize) {
        self.rings.fetch_sub(count, Relaxed);
    }

    /// The memory that the rings and the overflow take, in bytes.
    pub fn buffer_bytes(&self) -> usize {
        self.rings.load(Relaxed) * RING_BYTES + self.overflow_bytes.load(Relaxed)
    }

    /// True if too much is in the overflow.
    #[inline]
    pub(crate) fn is_overflowing(&self) -> bool {
        self.overflow_bytes.load(Relaxed) > OVERFLOW_BYTES_MAX
    }
}
