//! Finds where entries end, without decoding them: only lengths are read.
//!
//! An entry that is broken, of an unknown type, or of a rare one is *opaque*: the reader decodes it, and reports its faults.

use crate::decode::{Dialect, is_kind};
use crate::format::{kind, opcode, string};
use crate::item_field;

/// Why an entry could not be skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// More bytes are needed.
    Incomplete,
    /// The bytes are not an entry, or one that only the reader understands.
    Opaque,
}

type Skipped<T = ()> = Result<T, Obstacle>;

/// Bytes of an id of a stream, and of a moment in one.
const ID_BYTES: u64 = 16;
const TIME_BYTES: u64 = 8;

/// Returns how many of `bytes` are whole entries, `entries_max` at most, and what follows them; `None` if `entries_max` ended it.
pub(crate) fn entries(
    bytes: &[u8],
    dialect: Dialect,
    entries_max: usize,
) -> (usize, Option<Obstacle>) {
    let mut cursor = Cursor { bytes, at: 0 };
    for _ in 0..entries_max {
        let start = cursor.at;
        if let Err(obstacle) = cursor.entry(dialect) {
            return (start, Some(obstacle));
        }
    }
    (cursor.at, None)
}

struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl Cursor<'_> {
    fn entry(&mut self, dialect: Dialect) -> Skipped {
        let kind = loop {
            match self.byte()? {
                opcode::EXPIRE_SECONDS => self.skip(4)?,
                opcode::EXPIRE_MS => self.skip(8)?,
                opcode::FREQUENCY => self.skip(1)?,
                opcode::IDLE => {
                    self.length()?;
                }
                opcode::AUX => self.item_field()?,
                kind if is_kind(kind) => break kind,
                _ => return Err(Obstacle::Opaque),
            }
        };
        self.string()?;
        self.value(kind, dialect)
    }

    /// The metadata field that belongs to the entry behind it. Other fields do not.
    fn item_field(&mut self) -> Skipped {
        let expected = std::iter::once(item_field::NAME.len() as u8);
        for byte in expected.chain(item_field::NAME.iter().copied()) {
            if self.byte()? != byte {
                return Err(Obstacle::Opaque);
            }
        }
        self.string()
    }

    #[inline]
    fn value(&mut self, kind: u8, dialect: Dialect) -> Skipped {
        match kind {
            kind::STRING
            | kind::LIST_ZIPLIST
            | kind::SET_INTSET
            | kind::SET_LISTPACK
            | kind::HASH_ZIPMAP
            | kind::HASH_ZIPLIST
            | kind::HASH_LISTPACK
            | kind::SORTED_SET_ZIPLIST
            | kind::SORTED_SET_LISTPACK => self.string(),
            kind::LIST | kind::SET | kind::LIST_QUICKLIST => self.each(Self::string),
            kind::HASH => self.each(Self::pair),
            kind::SORTED_SET => self.each(|member| {
                member.string()?;
                member.text_score()
            }),
            kind::SORTED_SET_BINARY => self.each(|member| {
                member.string()?;
                member.skip(8)
            }),
            kind::LIST_QUICKLIST_2 => self.each(|node| {
                node.length()?;
                node.string()
            }),
            kind::HASH_DEADLINES if dialect == Dialect::Redis => {
                self.skip(TIME_BYTES)?;
                self.each(|field| {
                    field.length()?;
                    field.pair()
                })
            }
            kind::HASH_LISTPACK_DEADLINES if dialect == Dialect::Redis => {
                self.skip(TIME_BYTES)?;
                self.string()
            }
            kind::HASH_VALKEY if dialect == Dialect::Valkey => self.each(|field| {
                field.pair()?;
                field.skip(TIME_BYTES)
            }),
            kind::STREAM | kind::STREAM_2 | kind::STREAM_3 => self.stream(kind),
            _ => Err(Obstacle::Opaque),
        }
    }

    /// A stream, as `decode/stream.rs` draws it.
    fn stream(&mut self, kind: u8) -> Skipped {
        self.each(Self::pair)?;
        let has_history = kind != kind::STREAM;
        self.lengths(if has_history { 8 } else { 3 })?;
        self.each(|group| {
            group.string()?;
            group.lengths(if has_history { 3 } else { 2 })?;
            group.each(|pending| {
                pending.skip(ID_BYTES + TIME_BYTES)?;
                pending.lengths(1)
            })?;
            group.each(|consumer| {
                consumer.string()?;
                let times = if kind == kind::STREAM_3 { 2 } else { 1 };
                consumer.skip(times * TIME_BYTES)?;
                consumer.each(|pending| pending.skip(ID_BYTES))
            })
        })
    }

    /// A count, and as many items. Each has at least one byte, so that a wrong count soon meets the end.
    #[inline]
    fn each(&mut self, mut item: impl FnMut(&mut Self) -> Skipped) -> Skipped {
        for _ in 0..self.length()? {
            item(self)?;
        }
        Ok(())
    }

    fn pair(&mut self) -> Skipped {
        self.string()?;
        self.string()
    }

    fn lengths(&mut self, count: u32) -> Skipped {
        for _ in 0..count {
            self.length()?;
        }
        Ok(())
    }

    fn text_score(&mut self) -> Skipped {
        match self.byte()? {
            253.. => Ok(()),
            len => self.skip(u64::from(len)),
        }
    }

    #[inline]
    fn string(&mut self) -> Skipped {
        match self.length_or_form()? {
            (len, false) => self.skip(len),
            (string::INT_8, true) => self.skip(1),
            (string::INT_16, true) => self.skip(2),
            (string::INT_32, true) => self.skip(4),
            (string::LZF, true) => {
                let compressed = self.length()?;
                self.length()?;
                self.skip(compressed)
            }
            _ => Err(Obstacle::Opaque),
        }
    }

    #[inline]
    fn length(&mut self) -> Skipped<u64> {
        match self.length_or_form()? {
            (length, false) => Ok(length),
            (_, true) => Err(Obstacle::Opaque),
        }
    }

    /// A length, or the form of a special string.
    #[inline]
    fn length_or_form(&mut self) -> Skipped<(u64, bool)> {
        Ok(match self.byte()? {
            first @ 0..=0x3f => (u64::from(first), false),
            first @ 0x40..=0x7f => (
                u64::from(first & 0x3f) << 8 | u64::from(self.byte()?),
                false,
            ),
            0x80 => (u64::from(u32::from_be_bytes(self.array()?)), false),
            0x81 => (u64::from_be_bytes(self.array()?), false),
            0x82..=0xbf => return Err(Obstacle::Opaque),
            first @ 0xc0..=0xff => (u64::from(first & 0x3f), true),
        })
    }

    #[inline]
    fn byte(&mut self) -> Skipped<u8> {
        let byte = self.bytes.get(self.at).copied();
        self.at += 1;
        byte.ok_or(Obstacle::Incomplete)
    }

    fn array<const N: usize>(&mut self) -> Skipped<[u8; N]> {
        let bytes = self.bytes.get(self.at..self.at + N);
        self.at += N;
        let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or(Obstacle::Incomplete)
    }

    #[inline]
    fn skip(&mut self, count: u64) -> Skipped {
        if count > (self.bytes.len() - self.at) as u64 {
            return Err(Obstacle::Incomplete);
        }
        self.at += count as usize;
        Ok(())
    }
}
