//! Finds requests in the bytes of one connection.
//!
//! The parser knows how long each request is, and what its line asks for ([`Verb`]). It checks only what it needs for that: number of
//! words, length of the key, length of the data. The commands check the rest. So the stream stays in step whatever is wrong with a
//! request: data whose length is known is never read as a line.
//!
//! A request is a list of [`Span`]s: the words of its line, and the data behind them. Data that is too large is skipped as it arrives.
//! The line of a retrieval may have any number of keys; it becomes several requests of at most [`KEYS_PER_REQUEST`] keys.

use std::ops::Range;

use super::{KEY_BYTES_MAX, Verb, base64, item_bytes, number};
use crate::Span;

/// The most keys of one request.
pub const KEYS_PER_REQUEST: usize = 100;

/// The longest line whose end has not arrived, in bytes, except for retrievals.
const LINE_BYTES_MAX: usize = 8192;

/// The most words of a line that arrives in pieces; they take some fifty bytes each until the request has run.
const WORDS_MAX: usize = 1 << 22;

/// The most words of a meta request.
const META_WORDS_MAX: usize = 19;

/// The first byte of every request in the binary protocol.
const BINARY_MAGIC: u8 = 0x80;

/// Limits on what a client may send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most bytes of an item: key, data, and memcached's overhead.
    pub item_bytes_max: usize,
    /// The client has authenticated, or does not have to. Otherwise every request but a `set` is [`Verb::Unauthenticated`].
    pub authenticated: bool,
}

/// The largest request of a client that has not authenticated.
const UNAUTHENTICATED_ITEM_BYTES_MAX: usize = 2048;

/// The outcome of [`Parser::parse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed {
    /// The first `consumed` bytes of the input are done: requests, or skipped data.
    Complete {
        /// How many bytes.
        consumed: usize,
    },
    /// The input ends before the request does.
    Incomplete {
        /// The length of the input once the request is complete, as far as that is known. It derives from a length that the client
        /// announced, but never exceeds the longest line plus the largest item.
        wanted: usize,
    },
}

/// The connection can't be used any more, and is closed without a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// The client speaks the binary protocol.
    Binary,
    /// A line is too long.
    LongLine,
    /// It is a line of an HTTP request.
    Http,
}

impl ProtocolError {
    /// A text for the log.
    pub fn text(self) -> &'static str {
        match self {
            Self::Binary => {
                "the binary protocol is not supported; configure the client for the text (ASCII) or meta protocol"
            }
            Self::LongLine => "line too long",
            Self::Http => "a line of an HTTP request",
        }
    }
}

/// Finds requests in the bytes of one connection. It owns no heap memory.
#[derive(Debug, Default)]
pub struct Parser {
    /// Bytes of data that is too large, still to be skipped.
    skipped: usize,
    /// The line that begins at the start of the input has no end before this index.
    scanned: usize,
}

impl Parser {
    /// A parser that expects the first byte of a request.
    pub const fn new() -> Self {
        Self {
            skipped: 0,
            scanned: 0,
        }
    }

    /// Parses the requests of one line from the beginning of `input`.
    ///
    /// Appends their arguments to `spans`, and passes each request to `emit`, as the range of its spans. There may be none, if there is
    /// nothing to do and nothing to reply. On `Incomplete` keep the bytes and call again with a longer input that begins with them. Keys
    /// in base64 are decoded in place.
    ///
    /// # Errors
    /// The rest of the input is meaningless: close the connection.
    #[inline]
    pub fn parse(
        &mut self,
        input: &mut [u8],
        spans: &mut Vec<Span>,
        limits: &Limits,
        emit: &mut impl FnMut(Verb, Range<usize>),
    ) -> Result<Framed, ProtocolError> {
        if self.skipped > 0 {
            let consumed = self.skipped.min(input.len());
            self.skipped -= consumed;
            return Ok(Framed::Complete { consumed });
        }
        let first = spans.len();
        let Some(end) = self.split_line(input, spans, limits)? else {
            spans.truncate(first);
            let wanted = input.len() + 1;
            return Ok(Framed::Incomplete { wanted });
        };
        if spans.len() == first {
            // Every request has at least a name, if only an empty one.
            spans.push(Span { start: 0, len: 0 });
        }
        let mut request = Line {
            input,
            spans,
            first,
            next: end + 1,
            limits,
        };
        let framed = request.frame(emit)?;
        if let Framing::Incomplete { wanted } = framed {
            spans.truncate(first);
            return Ok(Framed::Incomplete { wanted });
        }
        self.scanned = 0;
        Ok(Framed::Complete {
            consumed: match framed {
                Framing::Data { end } => end,
                Framing::Skip { bytes } => {
                    self.skipped = bytes;
                    end + 1
                }
                Framing::Line | Framing::Incomplete { .. } => end + 1,
            },
        })
    }

    /// Appends the words of the first line, and returns the index of the line feed that ends it; `None` if that has not arrived.
    #[inline]
    fn split_line(
        &mut self,
        input: &[u8],
        spans: &mut Vec<Span>,
        limits: &Limits,
    ) -> Result<Option<usize>, ProtocolError> {
        if input.first() == Some(&BINARY_MAGIC) {
            return Err(ProtocolError::Binary);
        }
        // A long line that arrives in pieces is searched once, and split once its end is there.
        let has_end = self.scanned == 0 || {
            let rest = &input[self.scanned.min(input.len())..];
            rest.contains(&b'\n')
        };
        // A line has fewer words than bytes, so nearly all are spared this.
        if has_end && self.scanned > WORDS_MAX && has_too_many_words(input) {
            return Err(ProtocolError::LongLine);
        }
        if has_end && let Some(end) = split_words(input, spans) {
            return Ok(Some(end));
        }
        self.scanned = input.len();
        let may_be_long = || {
            let words = [&b"get "[..], b"gets ", b"gat ", b"gats "];
            limits.authenticated && words.iter().any(|word| input.starts_with(word))
        };
        match input.len() > LINE_BYTES_MAX && !may_be_long() {
            true => Err(ProtocolError::LongLine),
            false => Ok(None),
        }
    }
}

/// True if the first line has more words than [`WORDS_MAX`], of which those between two spaces are empty.
#[cold]
fn has_too_many_words(input: &[u8]) -> bool {
    let line = input.split(|&byte| byte == b'\n').next();
    let words = line.unwrap_or_default().split(|&byte| byte == b' ');
    words.take(WORDS_MAX + 1).count() > WORDS_MAX
}

/// Appends the words up to the first line feed, and returns its index. Only spaces separate words, and one carriage return in front of
/// the line feed is no part of the line.
#[inline]
fn split_words(input: &[u8], spans: &mut Vec<Span>) -> Option<usize> {
    let mut start = 0;
    let mut at_blank = |at: usize| {
        let end = match input[at] {
            b' ' => at,
            b'\n' if at > start && input[at - 1] == b'\r' => at - 1,
            b'\n' => at,
            _ => return false,
        };
        if end > start {
            let len = end - start;
            spans.push(Span { start, len });
        }
        start = at + 1;
        input[at] == b'\n'
    };
    let (chunks, rest) = input.as_chunks::<CHUNK_BYTES>();
    for (index, chunk) in chunks.iter().enumerate() {
        let mut found = blanks(*chunk);
        while found != 0 {
            let at = index * CHUNK_BYTES + found.trailing_zeros() as usize / 8;
            if at_blank(at) {
                return Some(at);
            }
            found &= found - 1;
        }
    }
    let from = input.len() - rest.len();
    (from..input.len()).find(|&at| input[at] <= b' ' && at_blank(at))
}

/// How many bytes [`blanks`] looks at.
const CHUNK_BYTES: usize = 8;

/// The highest bit of each byte that is a blank or a control character; the first byte is the lowest one.
#[inline]
fn blanks(bytes: [u8; CHUNK_BYTES]) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let word = u64::from_le_bytes(bytes);
    // Without its highest bit, a byte above the blank reaches that bit here, and none reaches the next byte.
    let above = (word & (ONES * 0x7f)) + ONES * (0x7f - b' ' as u64);
    !(above | word) & (ONES * 0x80)
}

/// Where a request ends.
enum Framing {
    /// With its line.
    Line,
    /// With its data.
    Data {
        /// The index behind it.
        end: usize,
    },
    /// With its line, and the data behind it is skipped.
    Skip {
        /// Its length.
        bytes: usize,
    },
    /// It has not arrived.
    Incomplete { wanted: usize },
}

/// A complete line, split into words, and what follows.
struct Line<'a> {
    input: &'a mut [u8],
    spans: &'a mut Vec<Span>,
    /// The first word's index in `spans`.
    first: usize,
    /// Where the data begins, if there is any.
    next: usize,
    limits: &'a Limits,
}

impl Line<'_> {
    #[inline(always)]
    fn word(&self, index: usize) -> &[u8] {
        match self.spans.get(self.first + index) {
            Some(span) => span.of(self.input),
            None => b"",
        }
    }

    fn words(&self) -> usize {
        self.spans.len() - self.first
    }

    fn all(&self) -> Range<usize> {
        self.first..self.spans.len()
    }

    #[inline]
    fn frame(
        &mut self,
        emit: &mut impl FnMut(Verb, Range<usize>),
    ) -> Result<Framing, ProtocolError> {
        if !self.limits.authenticated {
            return Ok(self.frame_unauthenticated(emit));
        }
        let words = self.words();
        let verb = match self.word(0) {
            b"get" | b"bget" if words == 2 => Verb::Get,
            b"get" | b"bget" if words > 2 => Verb::GetMany,
            b"gets" if words == 2 => Verb::Gets,
            b"gets" if words > 2 => Verb::GetsMany,
            b"gat" if words >= 2 => Verb::Gat,
            b"gats" if words >= 2 => Verb::Gats,
            b"set" => return Ok(self.frame_data(Verb::Set, emit)),
            b"add" => return Ok(self.frame_data(Verb::Add, emit)),
            b"replace" => return Ok(self.frame_data(Verb::Replace, emit)),
            b"append" => return Ok(self.frame_data(Verb::Append, emit)),
            b"prepend" => return Ok(self.frame_data(Verb::Prepend, emit)),
            b"cas" => return Ok(self.frame_data(Verb::Cas, emit)),
            b"mg" if words >= 2 => self.meta(Verb::MetaGet),
            b"ms" if words >= 2 => return Ok(self.frame_meta_set(emit)),
            b"md" if words >= 2 => self.meta(Verb::MetaDelete),
            b"ma" if words >= 2 => self.meta(Verb::MetaArithmetic),
            b"me" => self.meta(Verb::MetaDebug),
            b"mn" => Verb::MetaNoop,
            b"incr" if matches!(words, 3 | 4) => Verb::Incr,
            b"decr" if matches!(words, 3 | 4) => Verb::Decr,
            b"touch" if matches!(words, 3 | 4) => Verb::Touch,
            b"delete" if matches!(words, 2..=4) => self.delete(),
            b"flush_all" if words <= 3 => Verb::FlushAll,
            b"verbosity" if matches!(words, 2 | 3) => Verb::Verbosity,
            b"stats" => Verb::Stats,
            b"lru_crawler" if matches!(words, 2 | 3) => Verb::LruCrawler,
            b"version" => Verb::Version,
            b"shutdown" => Verb::Shutdown,
            b"quit" => Verb::Quit,
            _ if words > 0 && self.word(words - 1).starts_with(b"HTTP/") => {
                return Err(ProtocolError::Http);
            }
            _ => Verb::Unknown,
        };
        self.emit(verb, emit);
        Ok(Framing::Line)
    }

    /// Passes on a request that ends with its line, after a check of its keys.
    #[inline]
    fn emit(&mut self, verb: Verb, emit: &mut impl FnMut(Verb, Range<usize>)) {
        let is_long = |index: usize| self.word(index).len() > KEY_BYTES_MAX;
        match verb {
            Verb::Get | Verb::Gets if is_long(1) => emit(Verb::BadFormat, self.all()),
            Verb::GetMany | Verb::GetsMany => self.emit_parts(verb, 1, emit),
            Verb::Gat | Verb::Gats => self.emit_parts(verb, 2, emit),
            Verb::Incr | Verb::Decr | Verb::Touch | Verb::Delete if is_long(1) => {
                self.emit_unless_quiet(Verb::BadFormat, emit);
            }
            Verb::BadDelete => self.emit_unless_quiet(verb, emit),
            _ => emit(verb, self.all()),
        }
    }

    /// Passes on a retrieval whose keys begin with word `from`, in parts.
    fn emit_parts(&mut self, verb: Verb, from: usize, emit: &mut impl FnMut(Verb, Range<usize>)) {
        let keys = self.first + from..self.spans.len();
        if self.spans[keys.clone()]
            .iter()
            .any(|key| key.len > KEY_BYTES_MAX)
        {
            return emit(Verb::BadFormat, self.all());
        }
        if keys.len() <= KEYS_PER_REQUEST {
            return emit(verb, self.all());
        }
        // Every part has the words in front of the keys.
        let head = self.first..keys.start;
        let mut part_start = self.first;
        let mut next = keys.start + KEYS_PER_REQUEST;
        emit(verb.part(), part_start..next);
        while next < keys.end {
            let part_keys = next..keys.end.min(next + KEYS_PER_REQUEST);
            next = part_keys.end;
            part_start = self.spans.len();
            self.spans.extend_from_within(head.clone());
            self.spans.extend_from_within(part_keys);
            let verb = match next < keys.end {
                true => verb.part(),
                false => verb,
            };
            emit(verb, part_start..self.spans.len());
        }
    }

    /// True if the client does not want the reply of a classic request.
    fn is_quiet(&self) -> bool {
        self.words() > 1 && self.word(self.words() - 1) == b"noreply"
    }

    fn emit_unless_quiet(&self, verb: Verb, emit: &mut impl FnMut(Verb, Range<usize>)) {
        if !self.is_quiet() {
            emit(verb, self.all());
        }
    }

    /// Checks the words behind the key of `delete`: the first may be `0`, the last may be `noreply`.
    fn delete(&self) -> Verb {
        let is_zero = self.word(2) == b"0";
        match self.words() {
            2 => Verb::Delete,
            3 if is_zero || self.is_quiet() => Verb::Delete,
            4 if is_zero && self.is_quiet() => Verb::Delete,
            _ => Verb::BadDelete,
        }
    }

    /// Frames `set` and its relatives.
    fn frame_data(&mut self, verb: Verb, emit: &mut impl FnMut(Verb, Range<usize>)) -> Framing {
        let numbers = if verb == Verb::Cas { 4 } else { 3 };
        if !matches!(self.words(), words if words == numbers + 2 || words == numbers + 3) {
            emit(Verb::Unknown, self.all());
            return Framing::Line;
        }
        let Some(len) = self.data_len(4) else {
            self.emit_unless_quiet(Verb::BadFormat, emit);
            return Framing::Line;
        };
        let is_valid = self.word(1).len() <= KEY_BYTES_MAX
            && number::signed(self.word(3)).is_some()
            && (verb != Verb::Cas || number::unsigned(self.word(5)).is_some());
        let Some(flags) = number::unsigned_32(self.word(2)).filter(|_| is_valid) else {
            self.emit_unless_quiet(Verb::BadFormat, emit);
            return Framing::Skip { bytes: len + 2 };
        };
        if self.is_too_large(len, flags != 0) {
            let too_large = match verb {
                Verb::Set => Verb::TooLargeToSet,
                _ => Verb::TooLarge,
            };
            emit(too_large, self.all());
            return Framing::Skip { bytes: len + 2 };
        }
        let is_quiet = self.words() > numbers + 2 && self.is_quiet();
        self.frame_rest(verb, len, is_quiet, emit)
    }

    /// Frames `ms`.
    fn frame_meta_set(&mut self, emit: &mut impl FnMut(Verb, Range<usize>)) -> Framing {
        let Some(len) = self.data_len(2) else {
            emit(Verb::BadFormat, self.all());
            return Framing::Line;
        };
        let bad = match self.words() {
            _ if self.word(1).len() > KEY_BYTES_MAX => Some(Verb::BadFormat),
            words if words > META_WORDS_MAX => Some(Verb::TooManyFlags),
            _ => None,
        };
        if let Some(bad) = bad {
            emit(bad, self.all());
            return Framing::Skip { bytes: len + 2 };
        }
        let has_flags = (3..self.words()).any(|index| self.word(index).starts_with(b"F"));
        if self.is_too_large(len, has_flags) {
            self.decode_key(3..self.words());
            emit(Verb::TooLargeToSet, self.all());
            return Framing::Skip { bytes: len + 2 };
        }
        // Only a complete request is changed in place, and before its data is among its words.
        if self.next + len + 2 <= self.input.len() {
            self.decode_key(3..self.words());
        }
        self.frame_rest(Verb::MetaSet, len, false, emit)
    }

    /// Takes `len` bytes of data and the line end behind them.
    #[inline]
    fn frame_rest(
        &mut self,
        verb: Verb,
        len: usize,
        is_quiet: bool,
        emit: &mut impl FnMut(Verb, Range<usize>),
    ) -> Framing {
        let (start, end) = (self.next, self.next + len + 2);
        if end > self.input.len() {
            return Framing::Incomplete { wanted: end };
        }
        if self.input[end - 2] != b'\r' || self.input[end - 1] != b'\n' {
            if !is_quiet {
                emit(Verb::BadData, self.all());
            }
            return Framing::Data { end };
        }
        self.spans.push(Span { start, len });
        emit(verb, self.all());
        Framing::Data { end }
    }

    /// The length of the data, which is word `index`, if it is a length.
    #[inline]
    fn data_len(&self, index: usize) -> Option<usize> {
        let len = number::signed(self.word(index)).filter(|&len| len <= i64::from(i32::MAX - 2));
        len.and_then(|len| usize::try_from(len).ok())
    }

    /// True if memcached would refuse an item of this size.
    fn is_too_large(&self, len: usize, has_flags: bool) -> bool {
        item_bytes(self.word(1).len(), len, has_flags) > self.limits.item_bytes_max
    }

    /// Checks the number of words and the key of a meta request without data, and decodes the key.
    fn meta(&mut self, verb: Verb) -> Verb {
        match self.words() {
            words if words < 2 || self.word(1).len() > KEY_BYTES_MAX => return Verb::BadFormat,
            words if words > META_WORDS_MAX && verb == Verb::MetaGet => {
                return Verb::TooManyGetFlags;
            }
            words if words > META_WORDS_MAX => return Verb::TooManyFlags,
            _ => {}
        }
        self.decode_key(2..self.words());
        let has = |names: &[u8]| {
            let mut flags = (2..self.words()).map(|index| self.word(index)[0]);
            flags.any(|name| names.contains(&name))
        };
        match verb {
            Verb::MetaGet if has(b"N") => Verb::MetaGetCreate,
            Verb::MetaGet if has(b"TR") => Verb::MetaGetTouch,
            other => other,
        }
    }

    /// Decodes the key if one of these flags says that it is in base64. A key that is not valid becomes empty.
    fn decode_key(&mut self, mut flags: Range<usize>) {
        if !flags.any(|index| self.word(index).starts_with(b"b")) {
            return;
        }
        let span = &mut self.spans[self.first + 1];
        let key = &mut self.input[span.start..span.start + span.len];
        span.len = base64::decode(key).unwrap_or(0);
    }

    /// Frames a request of a client that has not authenticated.
    #[cold]
    fn frame_unauthenticated(&mut self, emit: &mut impl FnMut(Verb, Range<usize>)) -> Framing {
        let len = self
            .data_len(4)
            .filter(|_| self.word(0) == b"set" && self.words() >= 5);
        match len {
            Some(len) if len <= UNAUTHENTICATED_ITEM_BYTES_MAX => {
                self.frame_rest(Verb::Authenticate, len, false, emit)
            }
            Some(len) => {
                emit(Verb::Unauthenticated, self.all());
                Framing::Skip { bytes: len + 2 }
            }
            None => {
                emit(Verb::Unauthenticated, self.all());
                Framing::Line
            }
        }
    }
}

#[cfg(test)]
mod tests;
