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

/// The bytes that an item takes in memcached: a client that stores larger ones than it may is told so.
pub fn item_bytes(key_len: usize, data_len: usize, has_flags: bool) -> usize {
    /// Its header, its CAS number, the zero byte behind the key, the line end behind the data.
    const OVERHEAD_BYTES: usize = 48 + 8 + 1 + 2;
    let flags_bytes = if has_flags { 4 } else { 0 };
    key_len + data_len + flags_bytes + OVERHEAD_BYTES
}
