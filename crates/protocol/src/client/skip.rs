//! Finds the end of a reply without decoding it.

use super::value::DecodeError;

/// Progress of the search for the end of one reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct Skipper {
    /// Where the next element begins.
    pub position: usize,
    /// Elements of the reply not yet skipped.
    pub pending: u64,
}

impl Skipper {
    pub const START: Skipper = Skipper {
        position: 0,
        pending: 1,
    };

    /// Skips all complete elements; returns whether that reached the end of the reply.
    #[inline]
    pub fn advance(&mut self, input: &[u8]) -> Result<bool, DecodeError> {
        while self.pending > 0 {
            let rest = input.get(self.position..).unwrap_or_default();
            let Some(line) = line(rest)? else {
                return Ok(false);
            };
            let bytes = match line.shape {
                Shape::Line => line.bytes,
                Shape::Bulk => line
                    .bytes
                    .saturating_add(line.number as usize)
                    .saturating_add(2),
                Shape::Elements(per_item) => {
                    let elements = line
                        .number
                        .checked_mul(per_item)
                        .ok_or(DecodeError::Invalid)?;
                    self.pending = self
                        .pending
                        .checked_add(elements)
                        .ok_or(DecodeError::Invalid)?;
                    line.bytes
                }
                Shape::Attribute => {
                    // The pairs and the reply that they describe.
                    let elements = line.number.checked_mul(2).ok_or(DecodeError::Invalid)?;
                    let elements = elements.checked_add(1).ok_or(DecodeError::Invalid)?;
                    self.pending = self
                        .pending
                        .checked_add(elements)
                        .ok_or(DecodeError::Invalid)?;
                    line.bytes
                }
            };
            if bytes > rest.len() {
                return Ok(false);
            }
            self.position += bytes;
            self.pending -= 1;
        }
        Ok(true)
    }
}

/// The kind of an element: the part that follows its first line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// Nothing.
    Line,
    /// As many bytes as the line's number says, and a line end.
    Bulk,
    /// As many elements as the line's number says, times this factor.
    Elements(u64),
    /// As many pairs as the line's number says, and the reply.
    Attribute,
}

/// The first line of an element.
struct Line {
    shape: Shape,
    /// The length of the line, with its line end.
    bytes: usize,
    /// The number in the line; 0 for a null.
    number: u64,
}

#[inline]
fn line(rest: &[u8]) -> Result<Option<Line>, DecodeError> {
    let Some(&kind) = rest.first() else {
        return Ok(None);
    };
    let shape = match kind {
        b'$' | b'=' | b'!' => Shape::Bulk,
        b'*' | b'~' | b'>' => Shape::Elements(1),
        b'%' => Shape::Elements(2),
        b'|' => Shape::Attribute,
        b'+' | b'-' | b':' | b'_' | b',' | b'#' | b'(' => Shape::Line,
        _ => return Err(DecodeError::Invalid),
    };
    if shape == Shape::Line {
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else {
            return Ok(None);
        };
        return Ok(Some(Line {
            shape,
            bytes: end + 1,
            number: 0,
        }));
    }
    let mut number = 0;
    for (index, &byte) in rest.iter().enumerate().skip(1) {
        match byte {
            // 18 digits fit 64 bits.
            b'0'..=b'9' if index <= 18 => number = number * 10 + u64::from(byte - b'0'),
            b'\r' if index > 1 => {
                if index + 1 == rest.len() {
                    return Ok(None);
                }
                return Ok(Some(Line {
                    shape,
                    bytes: index + 2,
                    number,
                }));
            }
            b'-' if index == 1 => return null(rest),
            _ => return Err(DecodeError::Invalid),
        }
    }
    Ok(None)
}

/// RESP2's null: `$-1` or `*-1`.
fn null(rest: &[u8]) -> Result<Option<Line>, DecodeError> {
    const REST: &[u8] = b"-1\r\n";
    if !matches!(rest[0], b'$' | b'*') {
        return Err(DecodeError::Invalid);
    }
    let have = &rest[1..rest.len().min(1 + REST.len())];
    if !REST.starts_with(have) {
        return Err(DecodeError::Invalid);
    }
    let complete = have.len() == REST.len();
    Ok(complete.then_some(Line {
        shape: Shape::Line,
        bytes: 1 + REST.len(),
        number: 0,
    }))
}

/// The length of the first reply in `input`, with its attributes; `None` if the reply is incomplete
/// or invalid. Does not allocate.
#[inline]
pub fn skip_reply(input: &[u8]) -> Option<usize> {
    let mut skipper = Skipper::START;
    match skipper.advance(input) {
        Ok(true) => Some(skipper.position),
        Ok(false) | Err(_) => None,
    }
}
