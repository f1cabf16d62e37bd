//! A buffered source of bytes. The buffer grows only with bytes that have arrived.
//!
//! ```text
//! buffer   | consumed | to be read | room |
//!                     start        end
//! ```

use std::io::{self, Read};
use std::ops::Range;

use damselfly_value::Element;

use crate::checksum::Checksum;
use crate::error::Fault;
use crate::format::string;
use crate::lzf;

/// Bytes requested per read unless the caller wants another number, and the buffer size kept after a large string.
const READ_BYTES: usize = 128 << 10;

/// The longest string: an entry cannot hold a longer one.
pub(crate) const STRING_BYTES_MAX: u64 = u32::MAX as u64;

pub(crate) type Result<T> = std::result::Result<T, Fault>;

pub(crate) struct Input<R> {
    source: R,
    /// Bytes requested per read, and the buffer size kept after a large string.
    read_bytes: usize,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The number of bytes before those in the buffer.
    passed: u64,
    /// Over all consumed bytes before `summed`.
    checksum: Option<Checksum>,
    summed: usize,
    /// Offset at which the last requested item began.
    mark: u64,
    /// The last compressed string, expanded.
    expanded: Vec<u8>,
}

/// The place of a string's bytes.
enum Stored {
    Integer(i64),
    /// In the buffer, before `start`.
    Plain(usize),
    Expanded,
}

impl Input<io::Empty> {
    /// Bytes that were read before, and lie at `offset` in their file.
    pub(crate) fn over(buffer: Vec<u8>, range: Range<usize>, offset: u64) -> Self {
        Self {
            passed: offset - range.start as u64,
            start: range.start,
            end: range.end,
            buffer,
            ..Self::new(io::empty(), false)
        }
    }

    /// The buffer, to be used again.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }
}

impl<'a> Input<&'a [u8]> {
    /// All of a payload, which is mostly short.
    pub(crate) fn of_bytes(bytes: &'a [u8]) -> Self {
        Self {
            read_bytes: bytes.len().clamp(1, READ_BYTES),
            ..Self::new(bytes, false)
        }
    }
}

impl<R: Read> Input<R> {
    pub(crate) fn new(source: R, with_checksum: bool) -> Self {
        Self {
            source,
            read_bytes: READ_BYTES,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            passed: 0,
            checksum: with_checksum.then(Checksum::new),
            summed: 0,
            mark: 0,
            expanded: Vec::new(),
        }
    }

    /// Number of bytes consumed so far.
    pub(crate) fn offset(&self) -> u64 {
        self.passed + self.start as u64
    }

    /// The offset at which the last requested item began.
    pub(crate) fn mark(&self) -> u64 {
        self.mark
    }

    /// The checksum of all consumed bytes, if it is computed.
    pub(crate) fn checksum(&mut self) -> Option<u64> {
        self.sum_up();
        self.checksum.as_ref().map(Checksum::value)
    }

    fn sum_up(&mut self) {
        if let Some(checksum) = &mut self.checksum {
            checksum.add(&self.buffer[self.summed..self.start]);
        }
        self.summed = self.start;
    }

    /// Consumes the bytes in the buffer.
    pub(crate) fn skip_buffered(&mut self) {
        self.start = self.end;
    }

    /// True if all bytes of the source are consumed.
    pub(crate) fn is_at_end(&mut self) -> Result<bool> {
        Ok(!self.fill_if_possible(1)?)
    }

    /// Reads this many bytes at a time.
    pub(crate) fn set_read_bytes(&mut self, read_bytes: usize) {
        self.read_bytes = read_bytes;
    }

    /// The bytes that were read and not consumed.
    pub(crate) fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Reads until `count` bytes are in the buffer; false if the source has fewer.
    pub(crate) fn fill_if_possible(&mut self, count: usize) -> Result<bool> {
        match self.fill(count) {
            Ok(()) => Ok(true),
            Err(Fault::Truncated) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Consumes `count` buffered bytes, and hands them out with the buffer that holds them. `spare` takes its place.
    pub(crate) fn take(&mut self, count: usize, spare: Vec<u8>) -> (Vec<u8>, Range<usize>) {
        let taken = self.start..self.start + count;
        self.start = taken.end;
        self.sum_up();
        let rest = self.end - taken.end;
        let full = std::mem::replace(&mut self.buffer, spare);
        if self.buffer.len() < rest.max(self.read_bytes) {
            self.buffer.resize(rest.max(self.read_bytes), 0);
        }
        self.buffer[..rest].copy_from_slice(&full[taken.end..self.end]);
        self.passed += taken.end as u64;
        (self.start, self.summed, self.end) = (0, 0, rest);
        (full, taken)
    }

    /// Makes sure that `count` bytes are in the buffer.
    #[inline]
    fn fill(&mut self, count: usize) -> Result<()> {
        if self.end - self.start >= count {
            return Ok(());
        }
        self.fill_slowly(count)
    }

    #[cold]
    fn fill_slowly(&mut self, count: usize) -> Result<()> {
        self.sum_up();
        self.buffer.copy_within(self.start..self.end, 0);
        self.passed += self.start as u64;
        self.end -= self.start;
        (self.start, self.summed) = (0, 0);
        let kept = self.read_bytes;
        if self.buffer.len() > kept && count <= kept && self.end <= kept {
            self.buffer.truncate(kept);
            self.buffer.shrink_to_fit();
        }
        while self.end < count {
            if self.end == self.buffer.len() {
                // At most doubles what has arrived.
                let len = (2 * self.end).clamp(kept, count.max(kept));
                self.buffer.resize(len, 0);
            }
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err(Fault::Truncated),
                Ok(bytes) => self.end += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Fault::Io(error)),
            }
        }
        Ok(())
    }

    /// The next `count` bytes.
    #[inline]
    pub(crate) fn bytes(&mut self, count: usize) -> Result<&[u8]> {
        self.mark = self.offset();
        self.fill(count)?;
        self.start += count;
        Ok(&self.buffer[self.start - count..self.start])
    }

    #[inline]
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.bytes(N)?;
        Ok(bytes.try_into().expect("as many as were asked for"))
    }

    #[inline]
    pub(crate) fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub(crate) fn u64_le(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A length, or the form of a special string.
    #[inline]
    fn length_or_form(&mut self) -> Result<(u64, bool)> {
        let first = self.byte()?;
        let mark = self.mark;
        let length = match first {
            0..=0x3f => u64::from(first),
            0x40..=0x7f => u64::from(first & 0x3f) << 8 | u64::from(self.byte()?),
            0x80 => u64::from(u32::from_be_bytes(self.array()?)),
            0x81 => u64::from_be_bytes(self.array()?),
            0x82..=0xbf => return Err(Fault::BadLength(first)),
            0xc0..=0xff => return Ok((u64::from(first & 0x3f), true)),
        };
        self.mark = mark;
        Ok((length, false))
    }

    /// A length, or another number that is stored as one.
    #[inline]
    pub(crate) fn length(&mut self) -> Result<u64> {
        match self.length_or_form()? {
            (length, false) => Ok(length),
            (form, true) => Err(Fault::BadLength(0xc0 | form as u8)),
        }
    }

    /// A string; an integer if it is stored as one.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<Element<'_>> {
        Ok(match self.stored()? {
            Stored::Integer(number) => Element::Integer(number),
            Stored::Plain(len) => Element::Bytes(&self.buffer[self.start - len..self.start]),
            Stored::Expanded => Element::Bytes(&self.expanded),
        })
    }

    #[inline]
    fn stored(&mut self) -> Result<Stored> {
        let (length, is_special) = self.length_or_form()?;
        let mark = self.mark;
        let stored = if is_special {
            match length {
                string::INT_8 => Stored::Integer(i64::from(i8::from_le_bytes(self.array()?))),
                string::INT_16 => Stored::Integer(i64::from(i16::from_le_bytes(self.array()?))),
                string::INT_32 => Stored::Integer(i64::from(i32::from_le_bytes(self.array()?))),
                string::LZF => {
                    self.expand()?;
                    Stored::Expanded
                }
                form => return Err(Fault::BadString(form)),
            }
        } else {
            if length > STRING_BYTES_MAX {
                return Err(Fault::TooLong(length));
            }
            let len = length as usize;
            self.bytes(len)?;
            Stored::Plain(len)
        };
        self.mark = mark;
        Ok(stored)
    }

    /// Reads a compressed string into `expanded`.
    fn expand(&mut self) -> Result<()> {
        let (compressed, len) = (self.length()?, self.length()?);
        for length in [compressed, len] {
            if length > STRING_BYTES_MAX {
                return Err(Fault::TooLong(length));
            }
        }
        let mut expanded = std::mem::take(&mut self.expanded);
        expanded.clear();
        expanded.shrink_to(READ_BYTES);
        let bytes = self.bytes(compressed as usize)?;
        let is_good = lzf::decompress(bytes, len as usize, &mut expanded);
        self.expanded = expanded;
        is_good.then_some(()).ok_or(Fault::BadCompression)
    }

    /// Reads a string into `into`, and replaces its content.
    #[inline]
    pub(crate) fn string_to(&mut self, into: &mut Vec<u8>) -> Result<()> {
        into.clear();
        append_text(self.string()?, into);
        Ok(())
    }
}

/// Adds an element's text to `bytes`.
#[inline]
pub(crate) fn append_text(element: Element<'_>, bytes: &mut Vec<u8>) {
    match element {
        Element::Bytes(text) => bytes.extend_from_slice(text),
        Element::Integer(_) => {
            let mut scratch = damselfly_base::number::Decimal::new();
            bytes.extend_from_slice(element.text(&mut scratch));
        }
    }
}
