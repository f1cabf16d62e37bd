//! The engine: shards that own the data, their locks, and what a command may do with them.
//!
//! ```text
//! hash(key) ─ top bits ─► shard ─► database ─► table ─► entry
//! ```
//!
//! A command takes the locks of exactly the shards its keys live in, in ascending order, as one [`Tx`];
//! what it does through the `Tx` is atomic. Nothing here does I/O or knows a clock: time is an argument.

mod access;
mod changes;
mod database;
mod events;
mod eviction;
mod expiry;
mod extras;
pub mod garbage;
mod keyspace;
mod shard;
mod tracking;
mod tx;
mod undo;
mod waiting;
mod watching;

pub use access::{AccessPolicy, frequency, idle_seconds};
pub use database::{Absent, Database, Place, Present};
pub use events::{Event, EventMask, EventSink, KeyEvent};
pub use eviction::{Evicted, Eviction, Order};
pub use keyspace::Cursor;
pub use shard::{Busy, Engine, KeyspaceTotals, Layout, Settings, Wake};
pub use tracking::{Change, InvalidationSink, Tracker};
pub use tx::{Create, Deadline, Effects, Key, Now, Patience, Tx};
pub use waiting::{Served, Ticket, Unserved, Waiter};
pub use watching::{Watched, Watcher};
