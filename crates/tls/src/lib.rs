//! TLS for the server's connections, by rustls. Without sockets, threads and a clock of its own.
//!
//! ```text
//!   files ──► Acceptor ──► TlsStream: handshake, then read() and write()
//!             one per set      │
//!             of files         └── any Read + Write, most likely a socket
//! ```
//!
//! This crate alone knows rustls: the rest of the server sees plain bytes.
//!
//! - `acceptor.rs`: the options and files, as what new connections need.
//! - `connector.rs`: connections to other servers.
//! - `ciphers.rs`: the options that choose protocols and ciphers.
//! - `keys.rs`: private keys, also encrypted ones.
//! - `sessions.rs`: the sessions that clients may resume.
//! - `stream.rs`: one connection.
//! - `certificate.rs`: serial numbers and dates, for INFO. `der.rs` reads their encoding.

mod acceptor;
mod certificate;
mod ciphers;
mod connector;
mod der;
mod keys;
mod sessions;
mod stream;

pub use acceptor::{Acceptor, Certificates};
pub use certificate::CertificateFacts;
pub use connector::{ClientStream, Connector};
pub use stream::{BUFFER_BYTES_MIN, ENCRYPTED_BYTES_MAX, ReadEnd, TlsStream, read_once};
