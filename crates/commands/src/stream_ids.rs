//! Stream ids as clients write them.

use damselfly_base::CommandError;
use damselfly_base::number::{Decimal, parse_integer};
use damselfly_protocol::Reply;
use damselfly_value::StreamId;

use crate::Result;

/// Asks the server to choose an id or sequence number.
const AUTOMATIC: &[u8] = b"*";
/// The longest text that can be an id.
const TEXT_BYTES_MAX: usize = 127;

fn invalid() -> CommandError {
    CommandError::err("Invalid stream ID specified as stream command argument")
}

/// Parses an unsigned number like C's `strtoull`: blanks and a sign may precede the digits, and a minus counts down from 2^64. But
/// a plain negative integer is refused.
fn parse_unsigned(text: &[u8]) -> Option<u64> {
    if let Some(number) = parse_integer(text) {
        return u64::try_from(number).ok();
    }
    let is_blank = |byte: &u8| matches!(byte, b' ' | 0x09..=0x0d);
    let blanks = text.iter().take_while(|byte| is_blank(byte)).count();
    let (is_negative, digits) = match &text[blanks..] {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let digits = std::str::from_utf8(digits).ok().filter(|_| is_number)?;
    let number: u64 = digits.parse().ok()?;
    Some(if is_negative {
        number.wrapping_neg()
    } else {
        number
    })
}

/// Splits an id into milliseconds and the text after the dash.
fn split(text: &[u8]) -> Option<(u64, Option<&[u8]>)> {
    if text.len() > TEXT_BYTES_MAX {
        return None;
    }
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    let dash = text.iter().position(|&byte| byte == b'-');
    let (ms, seq) = match dash {
        Some(dash) => (&text[..dash], Some(&text[dash + 1..])),
        None => (text, None),
    };
    Some((parse_unsigned(ms)?, seq))
}

/// Parses an id without the special `-` and `+`; `missing_seq` is its sequence number if the text has only milliseconds.
pub(crate) fn parse_exact(text: &[u8], missing_seq: u64) -> Result<StreamId> {
    let (ms, seq) = split(text).ok_or_else(invalid)?;
    let seq = match seq {
        None => missing_seq,
        Some(seq) => parse_unsigned(seq).ok_or_else(invalid)?,
    };
    Ok(StreamId::new(ms, seq))
}

/// Parses an id; `-` is the lowest and `+` the highest.
pub(crate) fn parse(text: &[u8], missing_seq: u64) -> Result<StreamId> {
    match text {
        b"-" => Ok(StreamId::MIN),
        b"+" => Ok(StreamId::MAX),
        text => parse_exact(text, missing_seq),
    }
}

/// The id for a new entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NewId {
    /// The current time and the next sequence number.
    Now,
    /// These milliseconds and the next sequence number.
    At(u64),
    /// This one.
    Exactly(StreamId),
}

impl NewId {
    pub(crate) fn parse(text: &[u8]) -> Result<Self> {
        if text == AUTOMATIC {
            return Ok(Self::Now);
        }
        match split(text) {
            Some((ms, Some(AUTOMATIC))) => Ok(Self::At(ms)),
            Some(_) | None => parse_exact(text, 0).map(Self::Exactly),
        }
    }
}

/// Parses the first id of an interval; a leading `(` excludes it.
pub(crate) fn interval_start(text: &[u8]) -> Result<StreamId> {
    match text {
        [b'(', text @ ..] if !text.is_empty() => {
            let next = parse_exact(text, 0)?.next();
            Ok(next.ok_or_else(|| CommandError::err("invalid start ID for the interval"))?)
        }
        text => parse(text, 0),
    }
}

/// Parses the last id of an interval; a leading `(` excludes it.
pub(crate) fn interval_end(text: &[u8]) -> Result<StreamId> {
    match text {
        [b'(', text @ ..] if !text.is_empty() => {
            let previous = parse_exact(text, u64::MAX)?.previous();
            Ok(previous.ok_or_else(|| CommandError::err("invalid end ID for the interval"))?)
        }
        text => parse(text, u64::MAX),
    }
}

/// The text of an id.
pub(crate) struct IdText {
    bytes: [u8; 41],
    len: usize,
}

impl IdText {
    #[inline]
    pub(crate) fn new(id: StreamId) -> Self {
        let (mut bytes, mut ms, mut seq) = ([b'-'; 41], Decimal::new(), Decimal::new());
        let (ms, seq) = (ms.format_unsigned(id.ms), seq.format_unsigned(id.seq));
        bytes[..ms.len()].copy_from_slice(ms);
        let len = ms.len() + 1 + seq.len();
        bytes[ms.len() + 1..len].copy_from_slice(seq);
        Self { bytes, len }
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Writes an id as a bulk string.
#[inline]
pub(crate) fn reply_id(id: StreamId, reply: &mut Reply<'_>) {
    reply.bulk(IdText::new(id).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All results were observed on redis-server 7.0.15.
    #[test]
    fn numbers_are_parsed_as_by_redis() {
        let id = |text: &str| parse_exact(text.as_bytes(), 7).ok();
        for (text, ms, seq) in [
            ("5", 5, 7),
            ("5-6", 5, 6),
            (" 7-+8", 7, 8),
            ("05-06", 5, 6),
            ("5--05", 5, 5_u64.wrapping_neg()),
            ("5--0", 5, 0),
            ("18446744073709551615-0", u64::MAX, 0),
            ("5\0-x", 5, 7),
        ] {
            assert_eq!(id(text), Some(StreamId::new(ms, seq)), "{text:?}");
        }
        for text in [
            "",
            "-",
            "+",
            "-5",
            "5-",
            "5-6-7",
            "x",
            "5-x",
            "5 ",
            "5--5",
            "18446744073709551616",
        ] {
            assert_eq!(id(text), None, "{text:?}");
        }
        assert_eq!(id(&"0".repeat(128)), None);
        assert_eq!(IdText::new(StreamId::MAX).len, 41);
    }
}
