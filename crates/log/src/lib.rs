//! The log: one total order of everything that changes data, as RESP commands that replay the same everywhere.
//!
//! ```text
//! thread 0 ─► ring 0 ─┐
//! thread 1 ─► ring 1 ─┼─► merge: the record with the next number ─► batches ─► consumers: append-only file, replicas
//! overflow ───────────┘
//! ```
//!
//! An atomic section that changes something makes one [`Record`] of its effects. At its end, while it still holds its locks, it takes
//! the next number from a counter and appends the record to the ring of its thread ([`Log::append`]). [`Merge`] copies the records into
//! [`Batch`]es in the order of their numbers, which are dense. `docs/decisions/0026-log.md` proves that this is an order in which
//! the sections could have run one after the other.
//!
//! # How a consumer attaches
//!
//! A consumer needs a state and all effects after it:
//!
//! 1. Under all locks of the shards, turn the log on if it is off ([`Log::start`]), begin a snapshot, and note the cut: the number
//!    of records so far ([`Log::appended`]). No section is in progress then, so the snapshot holds exactly the effects of the records below the cut.
//! 2. Receive batches from then on. Records below the cut are part of the snapshot: [`Batch::after`] passes over them.
//! 3. [`Log::stop`] when no consumer is left, under all locks, too.
//!
//! A batch is a piece of a Redis replication stream: it selects databases, and wraps records of several effects in MULTI and EXEC. The bytes for
//! one consumer are those of the spans with its [`Targets`]. A consumer that begins in the middle puts [`Batch::beginning_at`] first, which selects the database.
//!
//! # Limits
//!
//! No thread ever waits for the log. A record that does not fit in its ring goes to the overflow, which all threads share. The
//! server asks [`Log::is_congested`] before it runs a command that writes, and makes the connection wait if so. So the memory of the
//! log is bounded by the rings, [`OVERFLOW_BYTES_MAX`] and one record per thread.
//!
//! This crate does no I/O, reads no clock and starts no thread.

mod batch;
mod merge;
mod record;
mod ring;
mod stream;
#[cfg(not(loom))]
mod thread_ring;

#[cfg(all(test, loom))]
mod loom_tests;

pub use batch::{Batch, Span, Targets};
pub use merge::Merge;
pub use record::{Mark, Record};
pub use stream::{Log, OVERFLOW_BYTES_MAX};
