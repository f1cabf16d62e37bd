//! Memory that a background thread frees: flushed databases, large collections, very long strings and tables of tracked keys.
//!
//! There is one queue for the whole process, since a large collection that is dropped does not know its engine.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use damselfly_base::heap::{self, LargeBlock};
use damselfly_value::Large;

use crate::observers::tracked_keys::TrackedKeys;
use crate::shard::database::Database;
use crate::shard::pending_work;

/// One item to be freed.
enum Part {
    Databases(Vec<Database>),
    Collection(Large),
    Block(LargeBlock),
    Tracked(Vec<TrackedKeys>),
}

impl Part {
    fn bytes(&self) -> usize {
        match self {
            Self::Databases(databases) => databases.iter().map(Database::bytes).sum(),
            Self::Collection(large) => large.memory_bytes(),
            Self::Block(block) => block.bytes(),
            // They do not count as data.
            Self::Tracked(_) => 0,
        }
    }

    fn free(self) {
        match self {
            // Each shard's part of a database counts until it is freed.
            Self::Databases(databases) => {
                for database in databases {
                    let bytes = database.bytes();
                    drop(database);
                    PENDING_BYTES.fetch_sub(bytes, Relaxed);
                }
            }
            Self::Collection(large) => {
                let bytes = large.memory_bytes();
                drop(large);
                PENDING_BYTES.fetch_sub(bytes, Relaxed);
            }
            Self::Block(block) => {
                let bytes = block.bytes();
                drop(block);
                PENDING_BYTES.fetch_sub(bytes, Relaxed);
            }
            Self::Tracked(tables) => drop(tables),
        }
    }
}

static PARTS: Mutex<Vec<Part>> = Mutex::new(Vec::new());
static ADDED: Condvar = Condvar::new();
static PENDING: AtomicUsize = AtomicUsize::new(0);
static PENDING_BYTES: AtomicUsize = AtomicUsize::new(0);
static FREED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// True in the background thread, which frees at once what it drops.
    static FREES: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// How many databases, collections and tables of tracked keys are waiting to be freed.
pub fn pending() -> usize {
    PENDING.load(Relaxed)
}

/// How many bytes those take.
pub fn waiting_bytes() -> usize {
    PENDING_BYTES.load(Relaxed)
}

/// How many bytes those take, and what a snapshot keeps of changed entries until it has visited them.
pub fn pending_bytes() -> usize {
    waiting_bytes() + pending_work::kept_bytes()
}

/// How many were freed since the start or the last [`reset_freed`].
pub fn freed() -> usize {
    FREED.load(Relaxed)
}

/// Sets [`freed`] back to zero.
pub fn reset_freed() {
    FREED.store(0, Relaxed);
}

fn parts() -> MutexGuard<'static, Vec<Part>> {
    PARTS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add(part: Part) {
    PENDING.fetch_add(1, Relaxed);
    PENDING_BYTES.fetch_add(part.bytes(), Relaxed);
    parts().push(part);
    ADDED.notify_one();
}

pub(crate) fn add_databases(databases: Vec<Database>) {
    add(Part::Databases(databases));
}

pub(crate) fn add_tracked(tables: Vec<TrackedKeys>) {
    add(Part::Tracked(tables));
}

fn add_collection(large: Large) {
    if FREES.get() {
        drop(large);
    } else {
        add(Part::Collection(large));
    }
}

fn add_block(block: LargeBlock) {
    if FREES.get() {
        drop(block);
    } else {
        add(Part::Block(block));
    }
}

/// Runs the background thread: frees what is queued, and waits for more. Never returns. From the first call on, large collections
/// and blocks that are dropped anywhere are queued.
pub fn free() -> ! {
    damselfly_value::free_large_with(add_collection);
    heap::free_large_with(add_block);
    FREES.set(true);
    loop {
        free_pending();
        let waiting = ADDED.wait_while(parts(), |parts| parts.is_empty());
        drop(waiting.unwrap_or_else(PoisonError::into_inner));
    }
}

/// Frees everything that is queued.
pub fn free_pending() {
    loop {
        // The lock is released before anything is freed.
        let Some(part) = parts().pop() else {
            return;
        };
        part.free();
        PENDING.fetch_sub(1, Relaxed);
        FREED.fetch_add(1, Relaxed);
    }
}
