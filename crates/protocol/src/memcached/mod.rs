//! memcached's text and meta protocols without I/O, as `doc/protocol.txt` of memcached 1.6 defines them and memcached 1.6.18 behaves.
//!
//! ```text
//! get <key>*\r\n
//! set <key> <flags> <exptime> <bytes> [noreply]\r\n<data>\r\n
//! mg <key> <flag>*\r\n
//! ms <key> <bytes> <flag>*\r\n<data>\r\n
//! ```
//!
//! - [`parser`] finds requests in a connection's bytes: slices, with nothing copied.
//! - [`number`] and [`meta`] read their arguments.
//! - [`reply`] writes replies.

mod base64;
pub mod meta;
pub mod number;
pub mod parser;
pub mod reply;
mod verb;

pub use base64::encode as encode_base64;
pub use meta::MetaFlags;
pub use parser::{Framed, Limits, Parser, ProtocolError};
pub use verb::Verb;

/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 250;

/// The longest opaque token of a meta request, in bytes.
pub const OPAQUE_BYTES_MAX: usize = 31;
