//! Incremental parser of client requests.
//!
//! ```text
//! multibulk:  *<count>\r\n  then <count> times  $<len>\r\n<len bytes>\r\n
//! inline:     word "quoted \x41 word" 'single'\n
//! ```
//!
//! The result is a list of [`Span`]s of the input: nothing is copied. The rules and error texts
//! are those of Redis 7.0:
//!
//! - A count or length is an exact decimal number: no `+`, no leading zero, no space.
//! - A multibulk header ends at its first `\r`; the byte after it, like the two bytes after an
//!   argument, is skipped without a look.
//! - An inline line ends at `\n`; one `\r` before that is dropped.
//! - A NUL byte hides the end of a header or inline line, which then only fails by its length.
//!
//! - A line may be of any length if its end is there; it is too long if it has more bytes than the limit and no end yet. So
//!   whether a line that is a little over the limit passes depends on how it arrives.

use std::borrow::Cow;
use std::fmt;

mod inline;
#[cfg(test)]
mod tests;

/// A slice of the input: one argument of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Index of the first byte.
    pub start: usize,
    /// Length in bytes.
    pub len: usize,
}

impl Span {
    /// The bytes of this span of `input`.
    ///
    /// # Panics
    ///
    /// If `input` is not (as long as) the input that was parsed.
    #[inline]
    pub fn of(self, input: &[u8]) -> &[u8] {
        &input[self.start..self.start + self.len]
    }
}

/// What a client may send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest argument of a multibulk request, in bytes (`proto-max-bulk-len`).
    pub bulk_bytes_max: usize,
    /// The most arguments of a multibulk request.
    pub arguments_max: usize,
    /// The longest inline line or header whose end has not arrived, in bytes.
    pub inline_bytes_max: usize,
    /// Whether the client may send more than [`Limits::UNAUTHENTICATED_ARGUMENTS_MAX`] arguments
    /// and arguments longer than [`Limits::UNAUTHENTICATED_BULK_BYTES_MAX`].
    pub authenticated: bool,
}

impl Limits {
    /// The most arguments before the client has authenticated.
    pub const UNAUTHENTICATED_ARGUMENTS_MAX: usize = 10;
    /// The longest argument before the client has authenticated, in bytes.
    pub const UNAUTHENTICATED_BULK_BYTES_MAX: usize = 16384;

    /// The limits of a client that has not authenticated but has to.
    pub const fn unauthenticated() -> Limits {
        Limits {
            authenticated: false,
            ..Limits::authenticated()
        }
    }

    /// Redis's default limits: 512 MiB an argument, 2^31 - 1 arguments, 64 KiB a line.
    pub const fn authenticated() -> Limits {
        Limits {
            bulk_bytes_max: 512 << 20,
            arguments_max: i32::MAX as usize,
            inline_bytes_max: 64 << 10,
            authenticated: true,
        }
    }

    #[inline]
    fn check_arguments(&self, count: usize) -> Result<(), ProtocolError> {
        if count > self.arguments_max {
            return Err(ProtocolError::InvalidMultibulkLength);
        }
        if !self.authenticated && count > Self::UNAUTHENTICATED_ARGUMENTS_MAX {
            return Err(ProtocolError::UnauthenticatedMultibulkLength);
        }
        Ok(())
    }

    #[inline]
    fn check_bulk(&self, len: usize) -> Result<(), ProtocolError> {
        if len > self.bulk_bytes_max {
            return Err(ProtocolError::InvalidBulkLength);
        }
        if !self.authenticated && len > Self::UNAUTHENTICATED_BULK_BYTES_MAX {
            return Err(ProtocolError::UnauthenticatedBulkLength);
        }
        Ok(())
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits::authenticated()
    }
}

/// How far a call of [`RequestParser::parse`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A request ended, and its spans were appended; none for an empty line, `*0` or `*-1`, which
    /// the server skips silently.
    Complete {
        /// How many bytes of the input the request took.
        consumed: usize,
    },
    /// The request goes on after the end of the input.
    Incomplete {
        /// The length that the input will at least have when the request is complete. It follows
        /// from what the client announced: cap it before reserving memory.
        wanted: usize,
    },
}

/// A request that breaks the protocol. The server answers [`ProtocolError::text`] and closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// The number of arguments is no number or too large.
    InvalidMultibulkLength,
    /// More arguments than allowed before authentication.
    UnauthenticatedMultibulkLength,
    /// The line with the number of arguments does not end.
    TooBigMultibulkCount,
    /// The length of an argument is no number, negative or too large.
    InvalidBulkLength,
    /// A longer argument than allowed before authentication.
    UnauthenticatedBulkLength,
    /// The line with the length of an argument does not end.
    TooBigBulkCount,
    /// This byte stands where the `$` of an argument belongs.
    ExpectedBulk(u8),
    /// The inline line does not end.
    TooBigInline,
    /// A quote in an inline line is not closed, or text follows the closing quote.
    UnbalancedQuotes,
}

impl ProtocolError {
    /// The error reply without its `-`, as Redis words it; give it to [`crate::Reply::error`].
    pub fn text(&self) -> Cow<'static, [u8]> {
        Cow::Borrowed(match self {
            Self::InvalidMultibulkLength => b"ERR Protocol error: invalid multibulk length",
            Self::UnauthenticatedMultibulkLength => {
                b"ERR Protocol error: unauthenticated multibulk length"
            }
            Self::TooBigMultibulkCount => b"ERR Protocol error: too big mbulk count string",
            Self::InvalidBulkLength => b"ERR Protocol error: invalid bulk length",
            Self::UnauthenticatedBulkLength => b"ERR Protocol error: unauthenticated bulk length",
            Self::TooBigBulkCount => b"ERR Protocol error: too big bulk count string",
            Self::ExpectedBulk(byte) => {
                let text = [
                    b"ERR Protocol error: expected '$', got '",
                    &[*byte][..],
                    b"'",
                ];
                return Cow::Owned(text.concat());
            }
            Self::TooBigInline => b"ERR Protocol error: too big inline request",
            Self::UnbalancedQuotes => b"ERR Protocol error: unbalanced quotes in request",
        })
    }
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.text().escape_ascii())
    }
}

impl std::error::Error for ProtocolError {}

/// Parses the requests of one connection, one at a time.
///
/// Between requests it owns no heap memory. Within one it remembers how far it came, so that a
/// request that arrives in many pieces costs time linear in its length.
#[derive(Debug, Default)]
pub struct RequestParser {
    /// Arguments of the current multibulk request that are still to come; 0 if its header is.
    remaining: usize,
    /// Where the element to parse next begins: the header, an argument, or the inline line.
    position: usize,
    /// No end of the line that begins at `position` lies before this index.
    scanned: usize,
    /// The arguments so far, if the request did not fit the first input.
    arguments: Vec<Span>,
}

impl RequestParser {
    /// A parser that expects the first byte of a request.
    pub const fn new() -> RequestParser {
        RequestParser {
            remaining: 0,
            position: 0,
            scanned: 0,
            arguments: Vec::new(),
        }
    }

    /// Whether the parser stands between two requests.
    pub fn is_idle(&self) -> bool {
        self.position == 0 && self.scanned == 0
    }

    /// Bytes of heap memory that the parser owns.
    pub fn heap_bytes(&self) -> usize {
        self.arguments.capacity() * size_of::<Span>()
    }

    /// Parses one request from the beginning of `input`.
    ///
    /// On `Complete` the spans of its arguments were appended to `spans`. On `Incomplete` keep
    /// the bytes and call again with a longer input that begins with them. An inline request is
    /// unescaped in place, which changes bytes of the request only.
    ///
    /// After an error the rest of the input means nothing: close the connection.
    #[inline]
    pub fn parse(
        &mut self,
        input: &mut [u8],
        spans: &mut Vec<Span>,
        limits: &Limits,
    ) -> Result<Progress, ProtocolError> {
        if self.remaining > 0 {
            return self.resume(input, spans, limits);
        }
        match input.first() {
            Some(b'*') => self.begin(input, spans, limits),
            Some(_) => self.parse_inline(input, spans, limits),
            None => Ok(Progress::Incomplete { wanted: 1 }),
        }
    }

    /// Parses a multibulk request from its first byte, in the common case to its last.
    fn begin(
        &mut self,
        input: &[u8],
        spans: &mut Vec<Span>,
        limits: &Limits,
    ) -> Result<Progress, ProtocolError> {
        let header = match short_header(input, b'*') {
            Some(header) => header,
            None => match self.multibulk_header(input, limits)? {
                Some(header) => header,
                None => {
                    return Ok(Progress::Incomplete {
                        wanted: input.len() + 1,
                    });
                }
            },
        };
        limits.check_arguments(header.number)?;
        self.position = header.bytes;
        self.remaining = header.number;
        let first = spans.len();
        let result = self.take_arguments(input, spans, limits);
        match result {
            Ok(Progress::Complete { .. }) => {}
            Ok(Progress::Incomplete { .. }) => self.arguments.extend(spans.drain(first..)),
            Err(_) => spans.truncate(first),
        }
        result
    }

    /// Goes on with a multibulk request of which an earlier input had only the beginning.
    #[cold]
    fn resume(
        &mut self,
        input: &[u8],
        spans: &mut Vec<Span>,
        limits: &Limits,
    ) -> Result<Progress, ProtocolError> {
        let mut arguments = std::mem::take(&mut self.arguments);
        let result = self.take_arguments(input, &mut arguments, limits);
        match result {
            Ok(Progress::Complete { .. }) => spans.append(&mut arguments),
            Ok(Progress::Incomplete { .. }) => self.arguments = arguments,
            Err(_) => {}
        }
        result
    }

    /// Takes as many of the remaining arguments as `input` has, from `self.position`.
    #[inline]
    fn take_arguments(
        &mut self,
        input: &[u8],
        spans: &mut Vec<Span>,
        limits: &Limits,
    ) -> Result<Progress, ProtocolError> {
        let mut position = self.position;
        let mut remaining = self.remaining;
        while remaining > 0 {
            let rest = input.get(position..).unwrap_or_default();
            let header = match short_header(rest, b'$') {
                Some(header) => header,
                None => {
                    self.position = position;
                    self.remaining = remaining;
                    match self.bulk_header(input, limits)? {
                        Some(header) => header,
                        None => {
                            return Ok(Progress::Incomplete {
                                wanted: input.len() + 1,
                            });
                        }
                    }
                }
            };
            limits.check_bulk(header.number)?;
            let start = position + header.bytes;
            let next = start.saturating_add(header.number).saturating_add(2);
            if next > input.len() {
                self.position = position;
                self.remaining = remaining;
                return Ok(Progress::Incomplete { wanted: next });
            }
            spans.push(Span {
                start,
                len: header.number,
            });
            position = next;
            remaining -= 1;
        }
        self.reset();
        Ok(Progress::Complete { consumed: position })
    }

    /// Reads the header of a multibulk request by the letter. A negative count is as good as 0.
    #[cold]
    fn multibulk_header(
        &mut self,
        input: &[u8],
        limits: &Limits,
    ) -> Result<Option<Header>, ProtocolError> {
        let Some(end) = self.line_end(input, b'\r', limits, ProtocolError::TooBigMultibulkCount)?
        else {
            return Ok(None);
        };
        if end + 1 >= input.len() {
            return Ok(None);
        }
        let count = exact_number(&input[1..end]).ok_or(ProtocolError::InvalidMultibulkLength)?;
        Ok(Some(Header {
            number: usize::try_from(count).unwrap_or(0),
            bytes: end + 2,
        }))
    }

    /// Reads the header of the argument at `self.position` by the letter.
    #[cold]
    fn bulk_header(
        &mut self,
        input: &[u8],
        limits: &Limits,
    ) -> Result<Option<Header>, ProtocolError> {
        let Some(end) = self.line_end(input, b'\r', limits, ProtocolError::TooBigBulkCount)? else {
            return Ok(None);
        };
        if end + 1 >= input.len() {
            return Ok(None);
        }
        if input[self.position] != b'$' {
            return Err(ProtocolError::ExpectedBulk(input[self.position]));
        }
        let number = exact_number(&input[self.position + 1..end])
            .and_then(|number| usize::try_from(number).ok())
            .ok_or(ProtocolError::InvalidBulkLength)?;
        Ok(Some(Header {
            number,
            bytes: end + 2 - self.position,
        }))
    }

    #[cold]
    fn parse_inline(
        &mut self,
        input: &mut [u8],
        spans: &mut Vec<Span>,
        limits: &Limits,
    ) -> Result<Progress, ProtocolError> {
        let Some(end) = self.line_end(input, b'\n', limits, ProtocolError::TooBigInline)? else {
            return Ok(Progress::Incomplete {
                wanted: input.len() + 1,
            });
        };
        let line = &mut input[..end];
        let line = match line {
            [line @ .., b'\r'] => line,
            line => line,
        };
        let first = spans.len();
        if let Err(error) = inline::split(line, spans) {
            spans.truncate(first);
            return Err(error);
        }
        self.reset();
        Ok(Progress::Complete { consumed: end + 1 })
    }

    /// Where the line that begins at `self.position` has its first `end`, if it is there yet.
    fn line_end(
        &mut self,
        input: &[u8],
        end: u8,
        limits: &Limits,
        too_long: ProtocolError,
    ) -> Result<Option<usize>, ProtocolError> {
        let bytes_max = self.position.saturating_add(limits.inline_bytes_max);
        let from = self.scanned.max(self.position).min(input.len());
        let found = input[from..]
            .iter()
            .position(|&byte| byte == end || byte == 0);
        self.scanned = found.map_or(input.len(), |index| from + index);
        if input.get(self.scanned) == Some(&end) {
            return Ok(Some(self.scanned));
        }
        if input.len() > bytes_max {
            Err(too_long)
        } else {
            Ok(None)
        }
    }

    fn reset(&mut self) {
        self.remaining = 0;
        self.position = 0;
        self.scanned = 0;
    }
}

/// The letter, nine digits (so that a `u32` would do) and the line end.
const HEADER_BYTES_MAX: usize = 12;

/// The number in a header, and how many bytes the header takes with its end.
struct Header {
    number: usize,
    bytes: usize,
}

/// Reads a header of one to nine digits. `None` sends all else, good or bad, to the slow path.
#[inline]
fn short_header(input: &[u8], kind: u8) -> Option<Header> {
    let digit = |byte: u8| usize::from(byte - b'0');
    match *input {
        [first, a @ b'0'..=b'9', b'\r', _, ..] if first == kind => Some(Header {
            number: digit(a),
            bytes: 4,
        }),
        [first, a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', _, ..] if first == kind => Some(Header {
            number: digit(a) * 10 + digit(b),
            bytes: 5,
        }),
        [first, b'1'..=b'9', ..] if first == kind => {
            let end = input.len().min(HEADER_BYTES_MAX);
            let mut number = 0;
            for (index, &byte) in input[..end].iter().enumerate().skip(1) {
                match byte {
                    b'0'..=b'9' => number = number * 10 + digit(byte),
                    b'\r' if index + 1 < end => {
                        return Some(Header {
                            number,
                            bytes: index + 2,
                        });
                    }
                    _ => return None,
                }
            }
            None
        }
        _ => None,
    }
}

/// The number that `text` spells exactly: `-` or nothing, then digits without a leading zero.
fn exact_number(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    match digits {
        [b'0'] if digits.len() == text.len() => return Some(0),
        [b'1'..=b'9', ..] => {}
        _ => return None,
    }
    str::from_utf8(text).ok()?.parse().ok()
}
