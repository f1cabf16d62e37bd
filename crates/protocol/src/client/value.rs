//! Decodes replies into values.

use std::fmt;

use super::skip::Skipper;

/// Which of the three nulls a reply was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NullKind {
    /// `$-1`.
    Bulk,
    /// `*-1`.
    Array,
    /// `_`.
    Resp3,
}

/// A reply. `Display` formats it as `redis-cli` does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// `+`: a status.
    Simple(Vec<u8>),
    /// `-`: an error, without the `-`.
    Error(Vec<u8>),
    /// `:`: an integer.
    Integer(i64),
    /// `$`: a string.
    Bulk(Vec<u8>),
    /// The absence of a value.
    Null(NullKind),
    /// `*`: an array.
    Array(Vec<Value>),
    /// `%`: a map, in the order received.
    Map(Vec<(Value, Value)>),
    /// `~`: a set, in the order received.
    Set(Vec<Value>),
    /// `>`: a push message, which answers no command.
    Push(Vec<Value>),
    /// `,`: a floating point number, as the server wrote it.
    Double(String),
    /// `#`: a boolean.
    Boolean(bool),
    /// `(`: an integer of any size.
    BigNumber(String),
    /// `=`: human-readable text.
    Verbatim {
        /// `txt` or `mkd`.
        format: [u8; 3],
        /// The text.
        text: Vec<u8>,
    },
    /// `|`: a reply that has attributes.
    Attribute {
        /// The attributes.
        pairs: Vec<(Value, Value)>,
        /// The reply itself.
        reply: Box<Value>,
    },
}

/// Limits on the replies that a [`Decoder`] accepts.
#[derive(Clone, Debug)]
pub struct DecodeLimits {
    /// How deep collections may nest; a reply that is not a collection has depth 0.
    pub depth_max: usize,
    /// The longest reply, in bytes.
    pub bytes_max: usize,
}

impl Default for DecodeLimits {
    fn default() -> DecodeLimits {
        DecodeLimits {
            depth_max: 64,
            bytes_max: 1 << 30,
        }
    }
}

/// Why a reply cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The server sent bytes that are not a valid reply.
    Invalid,
    /// The reply nests deeper than [`DecodeLimits::depth_max`].
    TooDeep,
    /// The reply is longer than [`DecodeLimits::bytes_max`].
    TooLong,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "the server sent bytes that are not a valid reply",
            Self::TooDeep => "the server sent a reply that is nested too deeply",
            Self::TooLong => "the server sent a reply that is too long",
        })
    }
}

impl std::error::Error for DecodeError {}

/// Decodes the replies of one connection, one at a time.
#[derive(Debug)]
pub struct Decoder {
    limits: DecodeLimits,
    skipper: Skipper,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new(DecodeLimits::default())
    }
}

impl Decoder {
    /// A decoder that expects the first byte of a reply.
    pub fn new(limits: DecodeLimits) -> Decoder {
        Decoder {
            limits,
            skipper: Skipper::START,
        }
    }

    /// Decodes one reply from the beginning of `input`; returns it and its length in bytes.
    ///
    /// On `None` the reply is incomplete: keep the bytes and call again with a longer input that
    /// begins with them. After an error the rest of the input is meaningless.
    pub fn decode(&mut self, input: &[u8]) -> Result<Option<(Value, usize)>, DecodeError> {
        let bytes_max = self.limits.bytes_max;
        let window = &input[..input.len().min(bytes_max.saturating_add(1))];
        let complete = self.skipper.advance(window)?;
        if self.skipper.position > bytes_max || (!complete && window.len() > bytes_max) {
            return Err(DecodeError::TooLong);
        }
        if !complete {
            return Ok(None);
        }
        let bytes = self.skipper.position;
        self.skipper = Skipper::START;
        let mut builder = Builder {
            rest: &input[..bytes],
            depth_left: self.limits.depth_max,
        };
        Ok(Some((builder.value()?, bytes)))
    }
}

/// Builds the value of a complete reply.
struct Builder<'a> {
    rest: &'a [u8],
    depth_left: usize,
}

impl<'a> Builder<'a> {
    fn value(&mut self) -> Result<Value, DecodeError> {
        let line = self.line()?;
        let (&kind, text) = line.split_first().ok_or(DecodeError::Invalid)?;
        Ok(match kind {
            b'+' => Value::Simple(text.to_vec()),
            b'-' => Value::Error(text.to_vec()),
            b':' => Value::Integer(number(text)?),
            b'$' if text == b"-1" => Value::Null(NullKind::Bulk),
            b'*' if text == b"-1" => Value::Null(NullKind::Array),
            b'_' if text.is_empty() => Value::Null(NullKind::Resp3),
            b'$' => Value::Bulk(self.bytes(number(text)?)?.to_vec()),
            b'!' => Value::Error(self.bytes(number(text)?)?.to_vec()),
            b'=' => {
                let bytes = self.bytes(number(text)?)?;
                let (&format, text) = bytes.split_first_chunk().ok_or(DecodeError::Invalid)?;
                let text = text.strip_prefix(b":").ok_or(DecodeError::Invalid)?;
                Value::Verbatim {
                    format,
                    text: text.to_vec(),
                }
            }
            b',' => {
                let text = string(text)?;
                text.parse::<f64>().map_err(|_| DecodeError::Invalid)?;
                Value::Double(text)
            }
            b'#' if text == b"t" => Value::Boolean(true),
            b'#' if text == b"f" => Value::Boolean(false),
            b'(' => Value::BigNumber(string(text)?),
            b'*' => Value::Array(self.elements(number(text)?)?),
            b'~' => Value::Set(self.elements(number(text)?)?),
            b'>' => Value::Push(self.elements(number(text)?)?),
            b'%' => Value::Map(self.pairs(number(text)?)?),
            b'|' => {
                let pairs = self.pairs(number(text)?)?;
                let reply = self.deeper(Builder::value)?;
                Value::Attribute {
                    pairs,
                    reply: Box::new(reply),
                }
            }
            _ => return Err(DecodeError::Invalid),
        })
    }

    fn elements(&mut self, count: usize) -> Result<Vec<Value>, DecodeError> {
        self.deeper(|builder| (0..count).map(|_| builder.value()).collect())
    }

    fn pairs(&mut self, count: usize) -> Result<Vec<(Value, Value)>, DecodeError> {
        self.deeper(|builder| {
            (0..count)
                .map(|_| Ok((builder.value()?, builder.value()?)))
                .collect()
        })
    }

    fn deeper<T>(
        &mut self,
        build: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        self.depth_left = self.depth_left.checked_sub(1).ok_or(DecodeError::TooDeep)?;
        let result = build(self);
        self.depth_left += 1;
        result
    }

    /// Takes a line; returns it without its line end.
    fn line(&mut self) -> Result<&'a [u8], DecodeError> {
        let end = self
            .rest
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or(DecodeError::Invalid)?;
        let (line, rest) = self.rest.split_at(end + 1);
        self.rest = rest;
        line.strip_suffix(b"\r\n").ok_or(DecodeError::Invalid)
    }

    /// Takes `len` bytes and the line end after them.
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (bytes, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or(DecodeError::Invalid)?;
        self.rest = rest.strip_prefix(b"\r\n").ok_or(DecodeError::Invalid)?;
        Ok(bytes)
    }
}

fn number<T: std::str::FromStr>(text: &[u8]) -> Result<T, DecodeError> {
    string(text)?.parse().map_err(|_| DecodeError::Invalid)
}

fn string(text: &[u8]) -> Result<String, DecodeError> {
    String::from_utf8(text.to_vec()).map_err(|_| DecodeError::Invalid)
}
