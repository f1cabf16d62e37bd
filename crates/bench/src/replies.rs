//! Reads replies without storing them: counts complete replies, errors and missing values.
//!
//! A parser keeps its state between reads, so one buffer of the caller serves all connections, and only a line that is
//! split between two reads is copied.

use crate::options::Protocol;

/// Counts of replies, errors and misses.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// Complete replies.
    pub replies: u64,
    /// Replies that were errors.
    pub errors: u64,
    /// Requested values that did not exist. Memcached omits them from its reply, so there a request for many values
    /// counts only if it returned none.
    pub misses: u64,
    /// The text of the first error.
    pub first_error: Option<String>,
    /// If asked for by `Some`: the numbers of the replies without a value, from 0 on.
    pub missed: Option<Vec<u64>>,
}

impl Tally {
    fn error(&mut self, line: &[u8]) {
        self.errors += 1;
        self.note_missed();
        self.first_error
            .get_or_insert_with(|| String::from_utf8_lossy(line).into_owned());
    }

    fn miss(&mut self) {
        self.misses += 1;
        self.note_missed();
    }

    fn note_missed(&mut self) {
        if let Some(missed) = &mut self.missed {
            missed.push(self.replies);
        }
    }

    /// Adds what another tally counted.
    pub fn add(&mut self, other: Tally) {
        self.replies += other.replies;
        self.misses += other.misses;
        self.add_errors(other);
    }

    /// Adds the errors that another tally counted.
    pub fn add_errors(&mut self, other: Tally) {
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

/// The server sent something that is not a reply.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed(pub String);

/// A line of a reply is never longer than this.
const LINE_BYTES_MAX: usize = 64 << 10;

/// A parser of one connection's replies.
#[derive(Debug)]
pub struct Replies {
    protocol: Protocol,
    /// Bytes of a value, with its line end, still to skip.
    skip: usize,
    /// RESP: elements still missing from the reply, less one. Memcached: values in the reply so far.
    elements: u64,
    /// The beginning of a line whose end has not arrived.
    line: Vec<u8>,
    /// How many replies count as one.
    each: u64,
    /// How many of those have arrived.
    part: u64,
}

impl Replies {
    /// A parser for a new connection.
    pub fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            skip: 0,
            elements: 0,
            line: Vec::new(),
            each: 1,
            part: 0,
        }
    }

    /// Counts `each` replies as one from now on. Call it only when no reply is outstanding.
    pub fn expect(&mut self, each: u64) {
        self.each = each;
    }

    /// Parses the bytes of one read.
    ///
    /// Fails if the bytes violate the protocol; the connection is unusable then.
    pub fn feed(&mut self, mut bytes: &[u8], tally: &mut Tally) -> Result<(), Malformed> {
        loop {
            if self.skip > 0 {
                let skipped = self.skip.min(bytes.len());
                self.skip -= skipped;
                bytes = &bytes[skipped..];
                if self.skip == 0 && self.protocol == Protocol::Resp {
                    self.element_done(tally);
                }
            }
            let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
                break;
            };
            let (line, rest) = bytes.split_at(end + 1);
            bytes = rest;
            if self.line.is_empty() {
                self.line(line, tally)?;
            } else {
                let mut whole = std::mem::take(&mut self.line);
                whole.extend_from_slice(line);
                self.line(&whole, tally)?;
            }
        }
        self.line.extend_from_slice(bytes);
        if self.line.len() > LINE_BYTES_MAX {
            Err(malformed(&self.line))
        } else {
            Ok(())
        }
    }

    fn line(&mut self, line: &[u8], tally: &mut Tally) -> Result<(), Malformed> {
        let text = line.strip_suffix(b"\r\n").ok_or_else(|| malformed(line))?;
        match self.protocol {
            Protocol::Resp => self.resp_line(text, tally),
            Protocol::Memcached => self.memcached_line(text, tally),
        }
    }

    fn resp_line(&mut self, line: &[u8], tally: &mut Tally) -> Result<(), Malformed> {
        let (kind, rest) = line.split_first().ok_or_else(|| malformed(line))?;
        match kind {
            b'$' if rest != b"-1" => {
                self.skip = length(rest).ok_or_else(|| malformed(line))? + 2;
                return Ok(());
            }
            b'*' if rest != b"-1" && rest != b"0" => {
                // The first element replaces the array in the count.
                let elements = length(rest).ok_or_else(|| malformed(line))? as u64;
                self.elements = self.elements.saturating_add(elements.saturating_sub(1));
                return Ok(());
            }
            b'$' => tally.miss(),
            b'*' => tally.misses += u64::from(rest == b"-1"),
            b'-' => tally.error(rest),
            b'+' | b':' => {}
            _ => return Err(malformed(line)),
        }
        self.element_done(tally);
        Ok(())
    }

    /// Counts an element as complete; if no other is missing, so is the reply.
    fn element_done(&mut self, tally: &mut Tally) {
        if self.elements > 0 {
            self.elements -= 1;
            return;
        }
        self.part += 1;
        if self.part >= self.each {
            self.part = 0;
            tally.replies += 1;
        }
    }

    fn memcached_line(&mut self, line: &[u8], tally: &mut Tally) -> Result<(), Malformed> {
        if line.starts_with(b"VALUE ") {
            let size = line
                .split(|&byte| byte == b' ')
                .nth(3)
                .and_then(length)
                .ok_or_else(|| malformed(line))?;
            self.skip = size + 2;
            self.elements += 1;
            return Ok(());
        }
        if line == b"END" {
            if self.elements == 0 {
                tally.miss();
            }
            self.elements = 0;
        } else if line == b"NOT_FOUND" {
            tally.miss();
        } else if line.starts_with(b"ERROR")
            || line.starts_with(b"CLIENT_ERROR")
            || line.starts_with(b"SERVER_ERROR")
        {
            tally.error(line);
        } else if !is_memcached_answer(line) {
            return Err(malformed(line));
        }
        tally.replies += 1;
        Ok(())
    }
}

fn is_memcached_answer(line: &[u8]) -> bool {
    matches!(
        line,
        b"STORED" | b"NOT_STORED" | b"DELETED" | b"TOUCHED" | b"EXISTS" | b"MN" | b"OK"
    ) || line.first().is_some_and(u8::is_ascii_digit)
}

fn malformed(line: &[u8]) -> Malformed {
    Malformed(String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned())
}

/// A length in decimal of at most ten digits.
fn length(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || digits.len() > 10 {
        return None;
    }
    digits.iter().try_fold(0, |length, digit| {
        digit
            .is_ascii_digit()
            .then(|| length * 10 + usize::from(digit - b'0'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the bytes at once and split at every position, and checks that the counts agree.
    fn tally(protocol: Protocol, bytes: &[u8]) -> (u64, u64, u64) {
        let mut whole = Tally::default();
        Replies::new(protocol).feed(bytes, &mut whole).unwrap();
        for cut in 0..bytes.len() {
            let mut parts = Tally::default();
            let mut replies = Replies::new(protocol);
            replies.feed(&bytes[..cut], &mut parts).unwrap();
            replies.feed(&bytes[cut..], &mut parts).unwrap();
            assert_eq!(
                (parts.replies, parts.errors, parts.misses),
                (whole.replies, whole.errors, whole.misses)
            );
        }
        (whole.replies, whole.errors, whole.misses)
    }

    #[test]
    fn resp_replies_are_counted_wherever_they_are_split() {
        let bytes = b"+OK\r\n$3\r\na\r\n\r\n$-1\r\n:42\r\n-ERR no\r\n$0\r\n\r\n*0\r\n*-1\r\n";
        assert_eq!(tally(Protocol::Resp, bytes), (8, 1, 2));
    }

    #[test]
    fn nested_arrays_are_one_reply() {
        assert_eq!(
            tally(Protocol::Resp, b"*3\r\n$1\r\na\r\n$-1\r\n:1\r\n+OK\r\n"),
            (2, 0, 1)
        );
        assert_eq!(
            tally(
                Protocol::Resp,
                b"*2\r\n*2\r\n:1\r\n:2\r\n*1\r\n:3\r\n:4\r\n"
            ),
            (2, 0, 0)
        );
        assert_eq!(
            tally(Protocol::Resp, b"*1\r\n*1\r\n*0\r\n:4\r\n"),
            (2, 0, 0)
        );
        assert_eq!(
            tally(Protocol::Resp, b"*2\r\n*1\r\n:1\r\n$-1\r\n:9\r\n"),
            (2, 0, 1)
        );
    }

    #[test]
    fn memcached_replies_are_counted_wherever_they_are_split() {
        let bytes =
            b"STORED\r\nVALUE k 0 5\r\nEND\r\n\r\nEND\r\nEND\r\n7\r\nNOT_FOUND\r\nERROR\r\n";
        assert_eq!(tally(Protocol::Memcached, bytes), (6, 1, 2));
    }

    #[test]
    fn the_first_error_is_kept() {
        let mut seen = Tally::default();
        Replies::new(Protocol::Resp)
            .feed(b"-ERR one\r\n-ERR two\r\n", &mut seen)
            .unwrap();
        assert_eq!(
            (seen.errors, seen.first_error.as_deref()),
            (2, Some("ERR one"))
        );
    }

    #[test]
    fn bytes_that_are_not_a_reply_are_rejected() {
        for bytes in [
            b"HTTP/1.1 400\r\n".as_slice(),
            b"$x\r\n",
            b"*\r\n",
            b"\r\n",
            b"+OK\n",
            b"$99999999999\r\n",
        ] {
            assert!(
                Replies::new(Protocol::Resp)
                    .feed(bytes, &mut Tally::default())
                    .is_err()
            );
        }
        assert!(
            Replies::new(Protocol::Memcached)
                .feed(b"-ERR\r\n", &mut Tally::default())
                .is_err()
        );
        let endless = vec![b'+'; LINE_BYTES_MAX + 1];
        assert!(
            Replies::new(Protocol::Resp)
                .feed(&endless, &mut Tally::default())
                .is_err()
        );
    }
}
