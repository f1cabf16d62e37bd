//! Writes replies, in RESP2 or RESP3, to the output buffer of a connection.
//!
//! Reply types that RESP2 lacks are written there as Redis writes them:
//!
//! | call      | RESP3          | RESP2                 |
//! |-----------|----------------|-----------------------|
//! | map       | `%pairs`       | `*elements` (2 a pair)|
//! | set, push | `~n`, `>n`     | `*n`                  |
//! | null      | `_`            | `$-1`                 |
//! | null array| `_`            | `*-1`                 |
//! | double    | `,1.5`         | bulk                  |
//! | boolean   | `#t`, `#f`     | `:1`, `:0`            |
//! | big number| `(123`         | bulk                  |
//! | verbatim  | `=7` `txt:abc` | bulk, without `txt:`  |

use std::fmt;
use std::io::Write as _;

use damselfly_base::double::{self, DoubleText};

#[cfg(test)]
mod tests;

/// The version of the protocol that a connection chose by `HELLO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// The protocol of a new connection.
    #[default]
    Resp2,
    /// The protocol after `HELLO 3`.
    Resp3,
}

impl Version {
    /// The version's number, as in `HELLO`.
    pub const fn number(self) -> u8 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }

    /// The version of this number, if it is supported.
    pub const fn from_number(number: i64) -> Option<Self> {
        match number {
            2 => Some(Self::Resp2),
            3 => Some(Self::Resp3),
            _ => None,
        }
    }
}

/// A collection whose length was not known when it began; see [`Reply::finish`].
#[must_use = "a deferred length must be written with `finish`"]
#[derive(Debug)]
pub struct Deferred {
    position: usize,
    kind: u8,
    elements_per_item: usize,
}

/// Appends replies to an output buffer.
#[derive(Debug)]
pub struct Reply<'a> {
    out: &'a mut Vec<u8>,
    version: Version,
}

impl<'a> Reply<'a> {
    /// A writer that appends to `out`.
    #[inline]
    pub fn new(out: &'a mut Vec<u8>, version: Version) -> Reply<'a> {
        Reply { out, version }
    }

    /// The protocol version of the replies.
    #[inline]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Changes the protocol version of all later replies (`HELLO`).
    pub fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    /// The length of the output buffer; see [`Reply::truncate_to`].
    #[inline]
    pub fn position(&self) -> usize {
        self.out.len()
    }

    /// Removes everything written since [`Reply::position`] returned `position`.
    #[inline]
    pub fn truncate_to(&mut self, position: usize) {
        self.out.truncate(position);
    }

    /// The bytes written since [`Reply::position`] returned `position`.
    pub fn written_since(&self, position: usize) -> &[u8] {
        self.out.get(position..).unwrap_or_default()
    }

    /// The output buffer, for replies in other protocols.
    #[inline]
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        self.out
    }

    /// A complete, already encoded reply.
    pub fn raw(&mut self, reply: &[u8]) {
        self.out.extend_from_slice(reply);
    }

    /// A complete, already encoded reply; moved instead of copied if the buffer is empty.
    pub fn raw_all(&mut self, reply: Vec<u8>) {
        if self.out.is_empty() {
            *self.out = reply;
        } else {
            self.raw(&reply);
        }
    }

    /// `+OK`.
    #[inline]
    pub fn ok(&mut self) {
        self.out.extend_from_slice(b"+OK\r\n");
    }

    /// A status: one line of text, without CR or LF.
    #[inline]
    pub fn simple(&mut self, text: &str) {
        debug_assert!(!text.contains(['\r', '\n']));
        self.out.reserve(text.len() + 3);
        self.out.push(b'+');
        self.out.extend_from_slice(text.as_bytes());
        self.out.extend_from_slice(b"\r\n");
    }

    /// An error: code and text without the `-`. CR and LF at the end are dropped; within the text
    /// each becomes a space.
    #[cold]
    pub fn error(&mut self, text: impl AsRef<[u8]>) {
        let mut text = text.as_ref();
        while let [rest @ .., b'\r' | b'\n'] = text {
            text = rest;
        }
        self.out.reserve(text.len() + 3);
        self.out.push(b'-');
        let line = text.iter().map(|&byte| {
            if matches!(byte, b'\r' | b'\n') {
                b' '
            } else {
                byte
            }
        });
        self.out.extend(line);
        self.out.extend_from_slice(b"\r\n");
    }

    /// An integer.
    #[inline]
    pub fn integer(&mut self, value: i64) {
        match u8::try_from(value) {
            Ok(digit @ 0..=9) => self
                .out
                .extend_from_slice(&[b':', b'0' + digit, b'\r', b'\n']),
            Ok(_) | Err(_) => self.line(b':', itoa::Buffer::new().format(value).as_bytes()),
        }
    }

    /// A bulk string of arbitrary bytes.
    #[inline]
    pub fn bulk(&mut self, value: &[u8]) {
        self.out.reserve(value.len() + BULK_OVERHEAD_MAX);
        self.header(b'$', value.len());
        self.out.extend_from_slice(value);
        self.out.extend_from_slice(b"\r\n");
    }

    /// A bulk string of arbitrary bytes; moved instead of copied if the buffer is empty, for very long ones.
    pub fn bulk_all(&mut self, mut value: Vec<u8>) {
        if self.out.is_empty() {
            value.reserve(BULK_OVERHEAD_MAX);
            let len = value.len();
            self.header(b'$', len);
            value.splice(..0, self.out.drain(..));
            value.extend_from_slice(b"\r\n");
            *self.out = value;
        } else {
            self.bulk(&value);
        }
    }

    /// A bulk string of `len` bytes, which `fill` overwrites: it receives exactly `len` zeros.
    #[inline]
    pub fn bulk_with(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) {
        self.out.reserve(len + BULK_OVERHEAD_MAX);
        self.header(b'$', len);
        let start = self.out.len();
        self.out.resize(start + len, 0);
        fill(&mut self.out[start..]);
        self.out.extend_from_slice(b"\r\n");
    }

    /// The decimal text of an integer, as a bulk string.
    #[inline]
    pub fn bulk_integer(&mut self, value: i64) {
        self.bulk(itoa::Buffer::new().format(value).as_bytes());
    }

    /// The `Display` text of `value`, as a bulk string.
    pub fn bulk_display(&mut self, value: impl fmt::Display) {
        let position = self.out.len();
        write!(self.out, "{value}").expect("writing to a vector does not fail");
        self.end_bulk(position);
    }

    /// The absence of a value: `$-1` or `_`.
    #[inline]
    pub fn null(&mut self) {
        self.out.extend_from_slice(match self.version {
            Version::Resp2 => b"$-1\r\n",
            Version::Resp3 => b"_\r\n",
        });
    }

    /// The absence of an array: `*-1` or `_`.
    #[inline]
    pub fn null_array(&mut self) {
        self.out.extend_from_slice(match self.version {
            Version::Resp2 => b"*-1\r\n",
            Version::Resp3 => b"_\r\n",
        });
    }

    /// Begins an array: `len` replies follow.
    #[inline]
    pub fn array(&mut self, len: usize) {
        self.header(b'*', len);
    }

    /// Begins a map: `pairs` pairs of key and value follow.
    #[inline]
    pub fn map(&mut self, pairs: usize) {
        match self.version {
            Version::Resp2 => self.header(b'*', pairs * 2),
            Version::Resp3 => self.header(b'%', pairs),
        }
    }

    /// Begins a set: `len` replies follow.
    #[inline]
    pub fn set(&mut self, len: usize) {
        self.header(self.kind_of(b'~'), len);
    }

    /// Begins a push message, which answers no command: `len` replies follow.
    #[inline]
    pub fn push(&mut self, len: usize) {
        self.header(self.kind_of(b'>'), len);
    }

    /// Begins the attributes of the next reply: `pairs` pairs of key and value follow. RESP2 has
    /// no attributes: there this writes nothing and returns false, and the caller must omit the
    /// pairs.
    #[must_use = "RESP2 has no attributes: omit the pairs if this is false"]
    pub fn attribute(&mut self, pairs: usize) -> bool {
        match self.version {
            Version::Resp2 => false,
            Version::Resp3 => {
                self.header(b'|', pairs);
                true
            }
        }
    }

    /// Begins an array whose length is given to [`Reply::finish`].
    pub fn deferred_array(&mut self) -> Deferred {
        self.defer(b'*', 1)
    }

    /// Begins a map whose number of pairs is given to [`Reply::finish`].
    pub fn deferred_map(&mut self) -> Deferred {
        match self.version {
            Version::Resp2 => self.defer(b'*', 2),
            Version::Resp3 => self.defer(b'%', 1),
        }
    }

    /// Begins a set whose length is given to [`Reply::finish`].
    pub fn deferred_set(&mut self) -> Deferred {
        self.defer(self.kind_of(b'~'), 1)
    }

    /// Ends a deferred collection of `count` items (pairs for a map). Finish the collection begun
    /// last first. With more than nine elements, this moves the bytes of the items.
    pub fn finish(&mut self, deferred: Deferred, count: usize) {
        let Deferred {
            position,
            kind,
            elements_per_item,
        } = deferred;
        let elements = count * elements_per_item;
        debug_assert_eq!(self.out.get(position), Some(&kind));
        match u8::try_from(elements) {
            Ok(digit @ 0..=9) => self.out[position + 1] = b'0' + digit,
            Ok(_) | Err(_) => {
                let mut buffer = itoa::Buffer::new();
                let digits = buffer.format(elements);
                self.out.splice(position + 1..position + 2, digits.bytes());
            }
        }
    }

    /// A floating point number, with 17 significant digits as C's `%.17g` prints it.
    pub fn double(&mut self, value: f64) {
        // As since Redis 7.2, there is one NaN.
        let value = if value.is_nan() { f64::NAN } else { value };
        match self.version {
            Version::Resp2 => self.bulk_double(value),
            Version::Resp3 => self.line(b',', DoubleText::new(value).as_bytes()),
        }
    }

    /// The text of a floating point number, as a bulk string.
    pub fn bulk_double(&mut self, value: f64) {
        match double::as_integer(value) {
            Some(integer) => self.bulk_integer(integer),
            None => self.bulk(DoubleText::new(value).as_bytes()),
        }
    }

    /// A floating point number, with up to 17 digits after the point and never with an exponent, as Redis writes coordinates.
    pub fn fixed_point(&mut self, value: f64) {
        let start = self.out.len();
        write!(self.out, "{value:.17}").expect("writing to a vector does not fail");
        let text = &self.out[start..];
        let zeros = text.iter().rev().take_while(|&&digit| digit == b'0');
        let mut len = text.len() - zeros.count();
        if text[..len].ends_with(b".") {
            len -= 1;
        }
        self.out.truncate(start + len);
        match self.version {
            Version::Resp2 => self.end_bulk(start),
            Version::Resp3 => {
                self.out.insert(start, b',');
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// A boolean.
    pub fn boolean(&mut self, value: bool) {
        self.out.extend_from_slice(match (self.version, value) {
            (Version::Resp2, true) => b":1\r\n",
            (Version::Resp2, false) => b":0\r\n",
            (Version::Resp3, true) => b"#t\r\n",
            (Version::Resp3, false) => b"#f\r\n",
        });
    }

    /// An integer of any size, given as its digits.
    pub fn big_number(&mut self, digits: &str) {
        match self.version {
            Version::Resp2 => self.bulk(digits.as_bytes()),
            Version::Resp3 => self.line(b'(', digits.as_bytes()),
        }
    }

    /// Human-readable text. `format` is `txt` or `mkd`.
    pub fn verbatim(&mut self, format: [u8; 3], text: &[u8]) {
        match self.version {
            Version::Resp2 => self.bulk(text),
            Version::Resp3 => {
                self.out.reserve(text.len() + BULK_OVERHEAD_MAX + 4);
                self.header(b'=', text.len() + 4);
                self.out.extend_from_slice(&format);
                self.out.push(b':');
                self.out.extend_from_slice(text);
                self.out.extend_from_slice(b"\r\n");
            }
        }
    }

    /// The type byte of a collection that is a plain array in RESP2.
    #[inline]
    fn kind_of(&self, resp3: u8) -> u8 {
        match self.version {
            Version::Resp2 => b'*',
            Version::Resp3 => resp3,
        }
    }

    #[inline]
    fn header(&mut self, kind: u8, number: usize) {
        match u8::try_from(number) {
            Ok(digit @ 0..=9) => self
                .out
                .extend_from_slice(&[kind, b'0' + digit, b'\r', b'\n']),
            Ok(number @ 10..=99) => {
                let (tens, ones) = (b'0' + number / 10, b'0' + number % 10);
                self.out
                    .extend_from_slice(&[kind, tens, ones, b'\r', b'\n']);
            }
            Ok(_) | Err(_) => self.line(kind, itoa::Buffer::new().format(number).as_bytes()),
        }
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.reserve(text.len() + 3);
        self.out.push(kind);
        self.out.extend_from_slice(text);
        self.out.extend_from_slice(b"\r\n");
    }

    /// Turns the bytes written since `position` into a bulk string.
    fn end_bulk(&mut self, position: usize) {
        let end = self.out.len();
        self.header(b'$', end - position);
        let header_bytes = self.out.len() - end;
        self.out[position..].rotate_right(header_bytes);
        self.out.extend_from_slice(b"\r\n");
    }

    fn defer(&mut self, kind: u8, elements_per_item: usize) -> Deferred {
        let position = self.out.len();
        self.header(kind, 0);
        Deferred {
            position,
            kind,
            elements_per_item,
        }
    }
}

/// The most bytes that a bulk string adds to its value: `$`, 20 digits, two line ends.
const BULK_OVERHEAD_MAX: usize = 25;
