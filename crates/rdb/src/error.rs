//! Errors of files and DUMP payloads.

use std::fmt;
use std::io;

/// A file or payload cannot be read.
#[derive(Debug)]
pub struct RdbError {
    /// Byte offset in the file at which the faulty item begins. Within a packed
    /// collection [`Fault::Packed`] says more.
    pub offset: u64,
    /// The key of the faulty entry.
    pub key: Option<Vec<u8>>,
    /// The fault.
    pub fault: Fault,
}

/// A fault of a file or a payload.
#[derive(Debug)]
pub enum Fault {
    /// The bytes could not be read.
    Io(io::Error),
    /// The file ends too early.
    Truncated,
    /// It does not begin like an RDB file.
    NotRdb,
    /// A version that we do not know.
    Version(u32),
    /// A byte that is neither an opcode nor a type of values.
    UnknownType(u8),
    /// A feature of other servers that we do not have.
    Unsupported(&'static str),
    /// A module's value, or data that a module stored outside the keyspace.
    Module {
        /// The name of the module's type.
        name: String,
    },
    /// Functions as a release candidate of Redis 7.0 wrote them, which no release can read.
    FunctionPreRelease,
    /// The first byte of a length is invalid.
    BadLength(u8),
    /// A string in an unknown encoding, as its first byte shows.
    BadString(u64),
    /// The metadata field in front of an item of memcached's clients is broken.
    BadItemField,
    /// The length of a string or collection is impossible.
    TooLong(u64),
    /// A compressed string cannot be expanded.
    BadCompression,
    /// A packed collection is broken.
    Packed {
        /// Which form it has.
        form: Form,
        /// Offset within the collection's own bytes, after decompression.
        at: usize,
        /// A description of the fault.
        problem: &'static str,
    },
    /// Two equal members or fields.
    Duplicate(Duplicate),
    /// A score that is not a number.
    BadScore,
    /// A deadline of a field that is out of range.
    BadDeadline,
    /// A collection without elements, in a DUMP payload.
    Empty,
    /// A stream contradicts itself.
    Stream(&'static str),
    /// The checksum is wrong.
    Checksum {
        /// The stored checksum.
        stored: u64,
        /// The checksum of the bytes.
        computed: u64,
    },
    /// A DUMP payload is too short for its version and checksum.
    NoFooter,
    /// A DUMP payload has bytes after its value.
    Trailing,
}

/// The form of a packed collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A listpack.
    Listpack,
    /// A ziplist: before Redis 7.0.
    Ziplist,
    /// A zipmap: before Redis 2.6.
    Zipmap,
    /// An intset.
    Intset,
    /// A node of a list.
    Quicklist,
    /// A node of a stream.
    StreamNode,
}

/// An item that occurs twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duplicate {
    /// A member of a set or sorted set.
    Member,
    /// A field of a hash.
    Field,
    /// A group of a stream.
    Group,
    /// A consumer of a group.
    Consumer,
    /// A pending entry of a group.
    Pending,
}

impl fmt::Display for RdbError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at offset {}", self.offset)?;
        if let Some(key) = &self.key {
            /// A longer key is cut: it may be hundreds of megabytes.
            const KEY_BYTES_MAX: usize = 200;
            let shown = &key[..key.len().min(KEY_BYTES_MAX)];
            let rest = if shown.len() < key.len() { "..." } else { "" };
            write!(f, ", key \"{}{rest}\"", shown.escape_ascii())?;
        }
        write!(f, ": {}", self.fault)
    }
}

impl std::error::Error for RdbError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.fault {
            Fault::Io(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "cannot read: {error}"),
            Self::Truncated => f.write_str("the data is truncated"),
            Self::NotRdb => f.write_str(
                "not an RDB file: it begins with neither REDIS nor VALKEY and a version",
            ),
            Self::Version(version) => write!(f, "RDB version {version} is not supported"),
            Self::UnknownType(byte) => write!(f, "unknown type or opcode {byte}"),
            Self::Unsupported(what) => write!(f, "{what} cannot be loaded"),
            Self::Module { name } => write!(
                f,
                "data of the module type \"{name}\" cannot be loaded: modules are not supported"
            ),
            Self::FunctionPreRelease => f.write_str(
                "functions in the format of a Redis 7.0 release candidate are not supported",
            ),
            Self::BadLength(byte) => write!(f, "invalid length encoding {byte:#04x}"),
            Self::BadString(encoding) => write!(f, "unknown string encoding {encoding}"),
            Self::BadItemField => f.write_str("invalid attributes of a memcached item"),
            Self::TooLong(length) => write!(f, "a length of {length} is too large"),
            Self::BadCompression => f.write_str("invalid LZF compressed string"),
            Self::Packed { form, at, problem } => {
                write!(f, "invalid {form}: {problem} at its byte {at}")
            }
            Self::Duplicate(what) => write!(f, "duplicate {what}"),
            Self::BadScore => f.write_str("a score is not a number"),
            Self::BadDeadline => f.write_str("the expiration time of a field is out of range"),
            Self::Empty => f.write_str("a collection without elements"),
            Self::Stream(problem) => write!(f, "invalid stream: {problem}"),
            Self::Checksum { stored, computed } => write!(
                f,
                "RDB CRC error: the checksum {stored:016x} is stored, the data has {computed:016x}"
            ),
            Self::NoFooter => f.write_str("too short for a version and a checksum"),
            Self::Trailing => f.write_str("bytes follow the value"),
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listpack => "listpack",
            Self::Ziplist => "ziplist",
            Self::Zipmap => "zipmap",
            Self::Intset => "intset",
            Self::Quicklist => "quicklist",
            Self::StreamNode => "stream node",
        })
    }
}

impl fmt::Display for Duplicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Member => "member",
            Self::Field => "field",
            Self::Group => "consumer group",
            Self::Consumer => "consumer",
            Self::Pending => "pending entry",
        })
    }
}
