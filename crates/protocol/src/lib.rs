//! RESP without I/O: requests are parsed from, and replies written to, byte buffers of the caller.
//!
//! - [`request`]: the server parses requests.
//! - [`reply`]: the server writes replies, in RESP2 or RESP3.
//! - [`client`]: the client side, for tools and tests.

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
