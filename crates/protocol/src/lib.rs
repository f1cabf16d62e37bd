//! RESP without I/O: requests are parsed from, and replies written to, byte buffers of the caller.
//!
//! - [`request`]: what a server does with the bytes of its clients.
//! - [`reply`]: what a server answers, in RESP2 or RESP3.
//! - [`client`]: the other side, for tools and tests.

#![forbid(unsafe_code)]

pub mod client;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
#[cfg(test)]
mod random;
pub mod reply;
pub mod request;

pub use reply::{Reply, Version};
pub use request::{Limits, Progress, ProtocolError, RequestParser, Span};
