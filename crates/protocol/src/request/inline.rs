//! Splits an inline request into its arguments, with Redis's quoting rules.
//!
//! ```text
//! "..."   \xHH, \n \r \t \b \a, and \ before any other byte stands for that byte
//! '...'   \' stands for '
//! ```
//!
//! A quote may open within a word (`a"b c"` is `ab c`) but must end it. Unescaping never makes
//! text longer, so it happens in place.

use super::{ProtocolError, Span};

#[derive(Clone, Copy)]
enum Quote {
    None,
    Single,
    Double,
}

/// Appends the spans of the arguments of `line`, after unescaping them in place.
pub(super) fn split(line: &mut [u8], spans: &mut Vec<Span>) -> Result<(), ProtocolError> {
    let mut read = 0;
    loop {
        while line.get(read).is_some_and(|&byte| is_space(byte)) {
            read += 1;
        }
        if read == line.len() {
            return Ok(());
        }
        let (span, next) = word(line, read)?;
        spans.push(span);
        read = next;
    }
}

/// Unescapes the word that begins at `start`; returns it and where it ended in the escaped text.
fn word(line: &mut [u8], start: usize) -> Result<(Span, usize), ProtocolError> {
    let mut read = start;
    let mut write = start;
    let mut quote = Quote::None;
    loop {
        let Some(&byte) = line.get(read) else {
            return match quote {
                Quote::None => Ok((
                    Span {
                        start,
                        len: write - start,
                    },
                    read,
                )),
                Quote::Single | Quote::Double => Err(ProtocolError::UnbalancedQuotes),
            };
        };
        let (text, taken) = match (quote, byte) {
            (Quote::None, b' ' | b'\t' | b'\r' | b'\n') => {
                return Ok((
                    Span {
                        start,
                        len: write - start,
                    },
                    read,
                ));
            }
            (Quote::Single, b'\'') | (Quote::Double, b'"') => {
                let next = read + 1;
                if line.get(next).is_some_and(|&byte| !is_space(byte)) {
                    return Err(ProtocolError::UnbalancedQuotes);
                }
                return Ok((
                    Span {
                        start,
                        len: write - start,
                    },
                    next,
                ));
            }
            (Quote::None, b'\'' | b'"') => {
                quote = if byte == b'"' {
                    Quote::Double
                } else {
                    Quote::Single
                };
                read += 1;
                continue;
            }
            (Quote::Single, b'\\') if line.get(read + 1) == Some(&b'\'') => (b'\'', 2),
            (Quote::Double, b'\\') => escape(&line[read..]),
            (Quote::None | Quote::Single | Quote::Double, _) => (byte, 1),
        };
        line[write] = text;
        write += 1;
        read += taken;
    }
}

/// The byte that the escape sequence at the beginning of `text` stands for, and its length.
fn escape(text: &[u8]) -> (u8, usize) {
    if let [_, b'x', high, low, ..] = *text
        && let (Some(high), Some(low)) = (hex(high), hex(low))
    {
        return (high * 16 + low, 4);
    }
    match text.get(1) {
        Some(b'n') => (b'\n', 2),
        Some(b'r') => (b'\r', 2),
        Some(b't') => (b'\t', 2),
        Some(b'b') => (8, 2),
        Some(b'a') => (7, 2),
        Some(&byte) => (byte, 2),
        None => (b'\\', 1),
    }
}

fn hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// White space as C's `isspace` defines it; `u8::is_ascii_whitespace` lacks 0x0b.
fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ')
}
