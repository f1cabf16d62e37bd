//! A load generator for servers that speak RESP or memcached's text protocol.
//!
//! It compares servers by the CPU time they spend per request, so its own cost is kept small: requests are slices of a
//! prepared [tape](requests::Tape), replies are [skipped](replies::Replies) rather than stored, and each thread drives
//! its connections from one event loop.
//!
//! ```text
//! options ──► run ──► worker, one per thread ──► report
//!                       tape ─► connections ─► replies, latencies
//! ```
//!
//! The [look-aside mode](look_aside) replaces the worker: what a client sends there depends on what the cache has.

mod connection;
mod handshakes;
mod look_aside;
pub mod operations;
pub mod options;
pub mod process;
pub mod random;
pub mod replies;
pub mod report;
pub mod requests;
mod run;
mod subscribers;
mod tls;
pub mod trace;
mod worker;

pub use run::{Error, run};
