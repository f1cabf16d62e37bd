//! The engine: shards that own the data, their locks, and what a command may do with them.
//!
//! ```text
//! hash(key) ─ top bits ─► shard ─► database ─► table ─► entry
//! ```
//!
//! A command takes the locks of exactly the shards its keys live in, in ascending order, as one [`Tx`];
//! what it does through the `Tx` is atomic. Nothing here does I/O or reads a clock: time is an argument.
//!
//! | folder | layer |
//! |---|---|
//! | `shard/` | shards with their locks, databases, access bits, settings; knows neither observers nor sections |
//! | `observers/` | the clients that wait for, watch or track keys, and the events that are wanted: plain data structures, which know neither shards nor sections |
//! | `section/` | the [`Engine`] that joins them, and [`Tx`]: all that a command can do with keys |
//!
//! `cargo xtask tidy` checks that the first two name nothing of the third.

mod key;
mod observers;
mod section;
mod shard;

pub use damselfly_eviction::{ModelView, UsageSeen};
pub use key::{Key, Now};
pub use observers::key_events::{Event, EventMask, EventSink, KeyEvent};
pub use observers::tracked_keys::{Change, InvalidationSink, Tracker};
pub use observers::waiters::Ticket;
pub use observers::watched_keys::{Watched, Watcher};
pub use section::bulk_load::{DuplicateEntry, LoadBatch};
pub use section::engine::Engine;
pub use section::eviction::{Evicted, Eviction, Objective, Order};
pub use section::garbage;
pub use section::held_locks::Patience;
pub use section::keyspace_walks::Cursor;
pub use section::learned_eviction::Learned;
pub use section::log_effects::CommandStart;
pub use section::moving::{Moved, WalkPosition};
pub use section::place::{Absent, Place, Present};
pub use section::serve_waiters::{Served, Unserved, Waiter};
pub use section::snapshot::{Seen, Snapshot, Visited};
pub use section::tx::{Create, Deadline, Effects, Tx};
pub use section::whole_databases::KeyspaceTotals;
pub use shard::access::{AccessPolicy, frequency, idle_seconds, is_used, unused_seconds};
pub use shard::database::Database;
pub use shard::live_settings::Settings;
pub use shard::{Busy, Layout, Wake};
