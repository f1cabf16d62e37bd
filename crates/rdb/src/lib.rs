//! Reading and writing RDB files and DUMP payloads, without I/O of its own.
//!
//! `docs/decisions/0020-rdb.md` draws the format and explains the design. The numbers of the format are in `format.rs`.
//!
//! Reading: [`Reader`] takes bytes from anything that implements [`std::io::Read`] and returns one [`Event`] at a time;
//! `input.rs` keeps the buffer, `decode/` builds entries from values. Nothing in a file is trusted: memory grows only with the bytes
//! that arrive, and a fault becomes an [`RdbError`] with offset and key. [`check`] reports on a whole file. [`Splitter`] splits a
//! file into chunks of whole entries, which several threads can decode.
//!
//! Writing: [`Encoder`] appends to a vector; `encode/` has a file per part. A large value is written in slices by
//! [`ValueWriter`]. The end of the file takes a [`Checksum`].
//!
//! [`dump`] and [`restore`] write and read the payloads of the commands of these names.

mod check;
mod checksum;
mod decode;
mod dump;
mod encode;
mod error;
mod format;
mod input;
mod item_field;
mod lzf;
mod reader;
mod skip;
mod split;

pub use check::{ChecksumState, DatabaseReport, Report, TypeReport, check};
pub use checksum::Checksum;
pub use dump::{dump, restore};
pub use encode::{Access, Encoder, NeedsVersion, ValueWriter, WriteOptions, version_needed};
pub use error::{Duplicate, Fault, Form, RdbError};
pub use format::{
    REDIS_VERSION_MAX, VALKEY_VERSION_MAX, VALKEY_VERSION_MIN, VERSION_WITH_FIELD_DEADLINES,
    VERSION_WRITTEN,
};
pub use reader::{Event, LoadedEntry, ReadOptions, Reader};
pub use split::{CHUNK_BYTES, Chunk, Piece, Splitter};
