//! Atomic sections: what a command may do with keys under the locks that it holds.

mod changes;
pub(crate) mod engine;
pub(crate) mod eviction;
pub(crate) mod expired_keys;
pub(crate) mod extras;
pub mod garbage;
pub(crate) mod held_locks;
mod key_tracking;
pub(crate) mod keyspace_walks;
mod pending_events;
pub(crate) mod place;
pub(crate) mod serve_waiters;
pub(crate) mod tx;
mod undo;
mod watch_keys;
pub(crate) mod whole_databases;
