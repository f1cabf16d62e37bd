//! Errors that clients see: the texts of all failed commands, equal to Redis's.

use std::fmt;

/// Why a command failed. [`CommandError::to_bytes`] is the reply; `Display` is for logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// The key holds another type.
    WrongType,
    /// An argument is not an integer within 64 bits.
    NotInteger,
    /// An argument is not a float.
    NotFloat,
    /// Options are misplaced, unknown or contradict one another.
    Syntax,
    /// `wrong number of arguments` for the named command, in lower case.
    Arity(String),
    /// The result of an increment exceeds 64 bits.
    Overflow,
    /// The negated decrement exceeds 64 bits.
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
    /// A SCAN cursor is not a number.
    InvalidCursor,
    /// `maxmemory` is reached and nothing may be evicted.
    OutOfMemory,
    /// The last save failed, and `stop-writes-on-bgsave-error` is set.
    SavingFailed,
    /// Any other text, with its error code.
    Text(String),
    /// A text with the code `ERR` that quotes bytes of the client: before, quoted, after.
    Quoting(&'static str, Vec<u8>, &'static str),
    /// Any other text that contains bytes of the client, with its error code.
    Bytes(Vec<u8>),
}

impl CommandError {
    /// An error with the generic code `ERR`.
    pub fn err(text: impl fmt::Display) -> Self {
        Self::Text(format!("ERR {text}"))
    }

    /// An error with the code `ERR` that quotes bytes of the client up to the first zero byte, as
    /// Redis does in C.
    pub fn quoting(before: &'static str, quoted: &[u8], after: &'static str) -> Self {
        let quoted = quoted.split(|&byte| byte == 0).next().unwrap_or_default();
        Self::Quoting(before, quoted.to_vec(), after)
    }

    /// The reply without the leading `-`.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Quoting(before, quoted, after) => {
                [b"ERR ", before.as_bytes(), quoted, after.as_bytes()].concat()
            }
            Self::Bytes(text) => text.clone(),
            other => other.to_string().into_bytes(),
        }
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
            Self::SavingFailed => {
                "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. Commands that may modify the data set are disabled, because this instance is configured to report errors during writes if RDB snapshotting fails (stop-writes-on-bgsave-error option). Please check the Redis logs for details about the RDB error."
            }
            Self::OutOfMemory => "OOM command not allowed when used memory > 'maxmemory'.",
            Self::Text(text) => text,
            Self::Quoting(before, quoted, after) => {
                return write!(f, "ERR {before}{}{after}", quoted.escape_ascii());
            }
            Self::Bytes(text) => return write!(f, "{}", text.escape_ascii()),
        })
    }
}

impl std::error::Error for CommandError {}
