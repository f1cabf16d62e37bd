//! What is freed later, by a thread that has nothing else to do: flushed databases and large collections.
//!
//! There is one heap of garbage for the process, since a large collection that is dropped knows no engine.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use damselfly_value::Large;

use crate::shard::database::Database;

/// A part of the garbage.
enum Part {
    Databases(Vec<Database>),
    Collection(Large),
}

impl Part {
    fn bytes(&self) -> usize {
        match self {
            Self::Databases(databases) => databases.iter().map(Database::bytes).sum(),
            Self::Collection(large) => large.memory_bytes(),
        }
    }

    fn free(self) {
        match self {
            // Each part of a database counts until it is gone.
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
        }
    }
}

static PARTS: Mutex<Vec<Part>> = Mutex::new(Vec::new());
static ADDED: Condvar = Condvar::new();
static PENDING: AtomicUsize = AtomicUsize::new(0);
static PENDING_BYTES: AtomicUsize = AtomicUsize::new(0);
static FREED: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// True in the thread that frees: what it drops it frees itself.
    static FREES: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// How many databases and collections wait to be freed.
pub fn pending() -> usize {
    PENDING.load(Relaxed)
}

/// The bytes that those take.
pub fn pending_bytes() -> usize {
    PENDING_BYTES.load(Relaxed)
}

/// How many were freed since the start.
pub fn freed() -> usize {
    FREED.load(Relaxed)
}

/// Starts to count [`freed`] at zero again.
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

fn add_collection(large: Large) {
    if FREES.get() {
        drop(large);
    } else {
        add(Part::Collection(large));
    }
}

/// Frees what is handed over, and waits for more. Never returns; for a thread that has nothing else to do. From the first
/// call on, large collections that are dropped anywhere come here.
pub fn free() -> ! {
    damselfly_value::free_large_with(add_collection);
    FREES.set(true);
    loop {
        free_pending();
        let waiting = ADDED.wait_while(parts(), |parts| parts.is_empty());
        drop(waiting.unwrap_or_else(PoisonError::into_inner));
    }
}

/// Frees all that was handed over so far.
pub fn free_pending() {
    loop {
        // The lock is let go before anything is freed.
        let Some(part) = parts().pop() else {
            return;
        };
        part.free();
        PENDING.fetch_sub(1, Relaxed);
        FREED.fetch_add(1, Relaxed);
    }
}
