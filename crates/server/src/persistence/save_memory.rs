//! The memory that saves take: copies of entries that wait to be encoded, buffers of encoders, bytes that wait for replicas.
//!
//! It does not count towards `maxmemory`, so that a save evicts no keys (`dispatch/memory_limit.rs`). The number is one for the whole
//! process, as that of the memory in use.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

static BYTES: AtomicUsize = AtomicUsize::new(0);

/// How many bytes saves take now.
pub fn bytes() -> usize {
    BYTES.load(Relaxed)
}

/// Some of these bytes, until this is dropped.
#[derive(Debug, Default)]
pub(crate) struct SaveMemory {
    bytes: usize,
}

impl SaveMemory {
    /// Adds bytes. Called before they are allocated, so that they never count for other threads.
    pub(crate) fn add(&mut self, bytes: usize) {
        BYTES.fetch_add(bytes, Relaxed);
        self.bytes += bytes;
    }

    /// Changes how many there are.
    pub(crate) fn set(&mut self, bytes: usize) {
        BYTES.fetch_add(bytes, Relaxed);
        BYTES.fetch_sub(self.bytes, Relaxed);
        self.bytes = bytes;
    }

    /// How many there are.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for SaveMemory {
    fn drop(&mut self) {
        BYTES.fetch_sub(self.bytes, Relaxed);
    }
}
