//! The client's errors: every text that a command can be refused with, equal to Redis's.

use std::fmt;

/// Why a command was refused. `Display` gives the reply without the leading `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// The key holds another type.
    WrongType,
    /// An argument is no integer within 64 bits.
    NotInteger,
    /// An argument is no float.
    NotFloat,
    /// Options are misplaced, unknown or contradict one another.
    Syntax,
    /// `wrong number of arguments` for the named command, in lower case.
    Arity(String),
    /// An increment leaves 64 bits.
    Overflow,
    /// A decrement's negation leaves 64 bits.
    DecrementOverflow,
    /// A float result is not finite.
    NotFinite,
    /// The result would exceed `proto-max-bulk-len`.
    StringTooLong,
    /// An offset is out of range.
    OffsetOutOfRange,
    /// A TTL is zero, negative or overflows, for the named command in lower case.
    InvalidExpire(String),
    /// The key must exist.
    NoSuchKey,
    /// A database index beyond `databases`.
    DatabaseOutOfRange,
    /// A number must be positive.
    NotPositive,
    /// Source and destination are the same.
    SameObject,
    /// A SCAN cursor is no number.
    InvalidCursor,
    /// `maxmemory` is reached and nothing may be evicted.
    OutOfMemory,
    /// Any other text, with its leading code word.
    Text(String),
}

impl CommandError {
    /// An error of the general code `ERR`.
    pub fn err(text: impl fmt::Display) -> Self {
        Self::Text(format!("ERR {text}"))
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WrongType => "WRONGTYPE Operation against a key holding the wrong kind of value",
            Self::NotInteger => "ERR value is not an integer or out of range",
            Self::NotFloat => "ERR value is not a valid float",
            Self::Syntax => "ERR syntax error",
            Self::Arity(command) => {
                return write!(f, "ERR wrong number of arguments for '{command}' command");
            }
            Self::Overflow => "ERR increment or decrement would overflow",
            Self::DecrementOverflow => "ERR decrement would overflow",
            Self::NotFinite => "ERR increment would produce NaN or Infinity",
            Self::StringTooLong => "ERR string exceeds maximum allowed size (proto-max-bulk-len)",
            Self::OffsetOutOfRange => "ERR offset is out of range",
            Self::InvalidExpire(command) => {
                return write!(f, "ERR invalid expire time in '{command}' command");
            }
            Self::NoSuchKey => "ERR no such key",
            Self::DatabaseOutOfRange => "ERR DB index is out of range",
            Self::NotPositive => "ERR value is out of range, must be positive",
            Self::SameObject => "ERR source and destination objects are the same",
            Self::InvalidCursor => "ERR invalid cursor",
            Self::OutOfMemory => "OOM command not allowed when used memory > 'maxmemory'.",
            Self::Text(text) => text,
        })
    }
}

impl std::error::Error for CommandError {}
