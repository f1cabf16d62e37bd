//! The server: options, sessions, connections, and the threads that serve them.
//!
//! ```text
//! Server ── owns ──► Shared: engine, configuration, clients, statistics     (all threads)
//!    └── starts ──► Worker per thread: event loop ──► Connection ──► dispatch ──► command
//! ```

pub mod clients;
pub mod config;
pub mod connection;
pub mod dispatch;
pub mod functions;
pub mod input;
pub mod listener;
mod long;
pub mod open_files;
pub mod parked;
pub mod pubsub;
pub mod registry;
pub mod scripts;
pub mod session;
pub mod shared;
pub mod start;
pub mod statistics;
pub mod tracking;
pub mod worker;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The Redis version whose behaviour clients may expect.
pub const REDIS_VERSION: &str = "7.2.0";
