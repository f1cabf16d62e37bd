//! The value of an entry, and new values to store in one.

use damselfly_base::number::{Decimal, parse_integer};

use damselfly_collections::Stream;

use crate::block::Kind;
use crate::packing::PackedText;
use crate::{HashRef, ListRef, SetRef, SortedSetRef};

/// The value of an entry.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// A string.
    Text(Text<'a>),
    /// A list.
    List(ListRef<'a>),
    /// A set.
    Set(SetRef<'a>),
    /// A hash.
    Hash(HashRef<'a>),
    /// A sorted set.
    SortedSet(SortedSetRef<'a>),
    /// A stream.
    Stream(&'a Stream),
}

/// A string in its stored form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text<'a> {
    /// A string that is not a canonical integer, or that was edited in place (`edited`).
    Bytes {
        /// The string.
        bytes: &'a [u8],
        /// True after APPEND, SETRANGE and the like.
        edited: bool,
    },
    /// A string stored in fewer than eight bits per character; never an integer.
    Packed(PackedText<'a>),
    /// A string that is the canonical text of an integer.
    Integer(i64),
}

impl Text<'_> {
    /// The length of the string, in bytes.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "no caller needs it")]
    pub fn len(self) -> usize {
        match self {
            Self::Bytes { bytes, .. } => bytes.len(),
            Self::Packed(text) => text.len(),
            Self::Integer(number) => Decimal::new().format(number).len(),
        }
    }
}

/// A value to store in an entry.
#[derive(Clone, Copy, Debug)]
pub enum NewValue<'a> {
    /// These bytes, packed if that makes the entry's block smaller.
    Bytes(&'a [u8]),
    /// The canonical text of this integer.
    Integer(i64),
}

impl<'a> NewValue<'a> {
    /// The most compact way to hold `bytes`.
    #[inline]
    pub fn compact(bytes: &'a [u8]) -> Self {
        match parse_integer(bytes) {
            Some(number) => Self::Integer(number),
            None => Self::Bytes(bytes),
        }
    }

    /// The length of the string, or the stored size of the integer.
    #[inline]
    pub(crate) fn len(self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Integer(number) => Kind::of_integer(number).fixed_bytes().unwrap_or_default(),
        }
    }
}
