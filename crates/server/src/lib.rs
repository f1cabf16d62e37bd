//! The server: connections, sessions, and the threads that serve them.
//!
//! ```text
//! Server ── owns ──► Shared: engine, configuration, clients, statistics     (all threads)
//!    └── starts ──► Worker per thread: event loop ──► Connection ──► dispatch ──► command
//! ```

pub mod admin;
pub mod blocked;
pub mod clients;
pub mod clock;
pub mod dispatch;
pub mod event_loop;
pub mod gate;
pub mod log_thread;
mod long_commands;
pub mod memcached;
mod migrate;
pub mod observers;
pub mod persistence;
pub mod registry;
mod replace_file;
pub mod replication;
pub mod resident_memory;
pub mod scripts;
pub mod session;
pub mod shared;
pub mod signals;
pub mod start;
pub mod statistics;
pub mod threads;
pub mod tls;
pub mod users;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub use damselfly_base::REDIS_VERSION;
