//! Protocols without I/O: requests are parsed from, and replies written to, byte buffers of the caller. RESP unless said otherwise.
//!
//! - [`request`]: the server parses requests.
//! - [`reply`]: the server writes replies, in RESP2 or RESP3.
//! - [`memcached`]: the text protocol of memcached.
//! - [`client`]: the client side, for tools and tests.

#![forbid(unsafe_code)]

pub mod client;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod memcached;
#[cfg(test)]
mod random;
pub mod reply;
pub mod request;

pub use reply::{Reply, Version};
pub use request::{Limits, Progress, ProtocolError, RequestParser, Span};
