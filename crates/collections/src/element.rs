//! An element of a listpack, and its encoding.
//!
//! ```text
//! | encoding and length | text, or the integer | back-length |
//!
//! 0xxxxxxx                                    an integer of 7 bits, 0 to 127
//! 10xxxxxx                                    a text of up to 63 bytes
//! 110xxxxx xxxxxxxx                           an integer of 13 bits, two's complement, upper five bits first
//! 1110xxxx xxxxxxxx                           a text of up to 4095 bytes, upper four bits of the length first
//! 11110000 length: u32 LE                     a text
//! 11110001 i16 LE, 11110010 i24 LE, 11110011 i32 LE, 11110100 i64 LE
//! ```
//!
//! The back-length is the length of everything before it in the element, for walking backwards. It is stored in groups of
//! seven bits, most significant first; every byte but the first has its top bit set. Redis uses the same encoding, so DUMP and
//! RDB files can take these bytes unchanged.

use damselfly_base::number::{Decimal, parse_integer};

/// An element: a text, or an integer that represents its decimal text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Element<'a> {
    /// An integer.
    Integer(i64),
    /// Any bytes.
    Bytes(&'a [u8]),
}

impl<'a> Element<'a> {
    /// The most compact element for a text.
    #[inline]
    pub fn new(text: &'a [u8]) -> Self {
        match parse_integer(text) {
            Some(number) => Self::Integer(number),
            None => Self::Bytes(text),
        }
    }

    /// The text; the text of an integer is written to `scratch`.
    #[inline]
    pub fn text<'b>(self, scratch: &'b mut Decimal) -> &'b [u8]
    where
        'a: 'b,
    {
        match self {
            Self::Integer(number) => scratch.format(number),
            Self::Bytes(bytes) => bytes,
        }
    }

    /// A copy of the text.
    pub fn to_vec(self) -> Vec<u8> {
        self.text(&mut Decimal::new()).to_vec()
    }

    /// The length of the text in bytes.
    #[inline]
    pub fn len(self) -> usize {
        match self {
            Self::Integer(number) => {
                let digits = number.unsigned_abs().checked_ilog10().unwrap_or(0) as usize + 1;
                digits + usize::from(number < 0)
            }
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    /// Whether the text is empty.
    #[inline]
    pub fn is_empty(self) -> bool {
        matches!(self, Self::Bytes([]))
    }

    /// The number of bytes that the element takes in a listpack.
    #[inline]
    pub fn encoded_bytes(self) -> usize {
        with_back_length(self.span())
    }

    /// The number of bytes that the element takes without the back-length.
    #[inline]
    pub(crate) fn span(self) -> usize {
        match self {
            Self::Integer(number) => integer_span(number),
            Self::Bytes(bytes) => match bytes.len() {
                len @ 0..64 => 1 + len,
                len @ 64..4096 => 2 + len,
                len => 5 + len,
            },
        }
    }

    /// Writes the element to the front of `target`, and returns the number of bytes written.
    #[inline]
    pub(crate) fn encode(self, target: &mut [u8]) -> usize {
        let span = self.encode_span(target);
        let (back, back_bytes) = back_length(span);
        target[span..span + back_bytes].copy_from_slice(&back[..back_bytes]);
        span + back_bytes
    }

    /// Like [`Element::encode`], without the back-length.
    #[inline]
    pub(crate) fn encode_span(self, target: &mut [u8]) -> usize {
        match self {
            Self::Integer(number) => encode_integer(number, target),
            Self::Bytes(bytes) => encode_bytes(bytes, target),
        }
    }

    /// Reads the element at the front of `bytes`, which may come from outside, and returns how many bytes it takes with its
    /// back-length. `None` if they are not an element, or its back-length is wrong.
    #[inline]
    pub fn read(bytes: &'a [u8]) -> Option<(Self, usize)> {
        match *bytes {
            [number @ 0..=0x7f, 1, ..] => Some((Self::Integer(i64::from(number)), 2)),
            [tag @ 0x80..=0xbf, ref rest @ ..] => {
                // Up to 64 bytes, so that one byte is enough for the back-length.
                let len = usize::from(tag & 0x3f);
                let (text, back) = rest.split_at_checked(len)?;
                (back.first() == Some(&(len as u8 + 1))).then_some((Self::Bytes(text), len + 2))
            }
            [tag @ 0xc0..=0xdf, low, 2, ..] => {
                // Shifting the 13 bits to the top and back extends the sign.
                let bits = u16::from_be_bytes([tag, low]) << 3;
                Some((Self::Integer(i64::from(bits.cast_signed() >> 3)), 3))
            }
            _ => Self::read_any(bytes),
        }
    }

    fn read_any(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let (element, span) = Self::decode(bytes)?;
        let (back, back_bytes) = back_length(span);
        let end = span + back_bytes;
        (bytes.get(span..end)? == &back[..back_bytes]).then_some((element, end))
    }

    /// Adds the bytes that it takes in a listpack to `bytes`.
    #[inline]
    pub fn append_to(self, bytes: &mut Vec<u8>) {
        let at = bytes.len();
        bytes.resize(at + self.encoded_bytes(), 0);
        self.encode(&mut bytes[at..]);
    }

    /// Reads the element at the front of `bytes`, and returns how many bytes it takes without its back-length. `None` if they
    /// are not an element.
    #[inline]
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<(Self, usize)> {
        Some(match *bytes {
            [number @ 0..=0x7f, ..] => (Self::Integer(i64::from(number)), 1),
            [tag @ 0x80..=0xbf, ref rest @ ..] => {
                let len = usize::from(tag & 0x3f);
                (Self::Bytes(rest.get(..len)?), 1 + len)
            }
            [tag @ 0xc0..=0xdf, low, ..] => {
                // Shifting the 13 bits to the top and back extends the sign.
                let bits = u16::from_be_bytes([tag, low]) << 3;
                (Self::Integer(i64::from(bits.cast_signed() >> 3)), 2)
            }
            [tag @ 0xe0..=0xef, low, ref rest @ ..] => {
                let len = usize::from(u16::from_be_bytes([tag & 0x0f, low]));
                (Self::Bytes(rest.get(..len)?), 2 + len)
            }
            [0xf0, a, b, c, d, ref rest @ ..] => {
                let len = u32::from_le_bytes([a, b, c, d]) as usize;
                (Self::Bytes(rest.get(..len)?), 5 + len)
            }
            [0xf1, a, b, ..] => (Self::Integer(i64::from(i16::from_le_bytes([a, b]))), 3),
            [0xf2, a, b, c, ..] => {
                let number = i32::from_le_bytes([0, a, b, c]) >> 8;
                (Self::Integer(i64::from(number)), 4)
            }
            [0xf3, a, b, c, d, ..] => {
                let number = i32::from_le_bytes([a, b, c, d]);
                (Self::Integer(i64::from(number)), 5)
            }
            [0xf4, a, b, c, d, e, f, g, h, ..] => {
                let number = i64::from_le_bytes([a, b, c, d, e, f, g, h]);
                (Self::Integer(number), 9)
            }
            _ => return None,
        })
    }
}

impl<'a> From<&'a [u8]> for Element<'a> {
    fn from(text: &'a [u8]) -> Self {
        Self::new(text)
    }
}

impl From<i64> for Element<'_> {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

/// The size of the element at the front of `bytes`, without its back-length. `None` if no element begins with these bytes.
#[inline]
pub(crate) fn span_at(bytes: &[u8]) -> Option<usize> {
    Some(match *bytes {
        [0..=0x7f, ..] => 1,
        [tag @ 0x80..=0xbf, ..] => 1 + usize::from(tag & 0x3f),
        [0xc0..=0xdf, ..] => 2,
        [tag @ 0xe0..=0xef, low, ..] => 2 + usize::from(u16::from_be_bytes([tag & 0x0f, low])),
        [0xf0, a, b, c, d, ..] => 5 + u32::from_le_bytes([a, b, c, d]) as usize,
        [tag @ 0xf1..=0xf3, ..] => usize::from(tag - 0xf1) + 3,
        [0xf4, ..] => 9,
        _ => return None,
    })
}

/// A text to search for, parsed as an integer once instead of for every element.
#[derive(Debug, Clone, Copy)]
pub struct Needle<'a> {
    text: &'a [u8],
    integer: Option<i64>,
}

impl<'a> Needle<'a> {
    /// Prepares a search for `text`.
    #[inline]
    pub fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            integer: parse_integer(text),
        }
    }

    /// Whether `element` has this text.
    #[inline(always)]
    pub fn matches(&self, element: Element<'_>) -> bool {
        match element {
            Element::Integer(number) => self.integer == Some(number),
            // Even a text of digits is compared: listpacks from other programs may store one as text. The last bytes are compared
            // first, since they differ more often than the first ones.
            Element::Bytes(bytes) => {
                self.text.len() == bytes.len()
                    && self.text.last() == bytes.last()
                    && self.text == bytes
            }
        }
    }
}

fn integer_span(number: i64) -> usize {
    match number {
        0..=127 => 1,
        -4096..=4095 => 2,
        -0x8000..=0x7fff => 3,
        -0x80_0000..=0x7f_ffff => 4,
        -0x8000_0000..=0x7fff_ffff => 5,
        _ => 9,
    }
}

/// Writes an integer without back-length, and returns the number of bytes written.
fn encode_integer(number: i64, target: &mut [u8]) -> usize {
    let span = integer_span(number);
    let little = number.to_le_bytes();
    match span {
        1 => target[0] = little[0],
        2 => {
            target[0] = 0xc0 | little[1] & 0x1f;
            target[1] = little[0];
        }
        _ => {
            target[0] = match span {
                3 => 0xf1,
                4 => 0xf2,
                5 => 0xf3,
                _ => 0xf4,
            };
            target[1..span].copy_from_slice(&little[..span - 1]);
        }
    }
    span
}

/// Writes a text without back-length, and returns the number of bytes written.
fn encode_bytes(bytes: &[u8], target: &mut [u8]) -> usize {
    // All lengths are below 2^32, since requests are limited to far less.
    let len = bytes.len() as u32;
    let head = match len {
        0..64 => {
            target[0] = 0x80 | len as u8;
            1
        }
        64..4096 => {
            target[..2].copy_from_slice(&(0xe000 | len as u16).to_be_bytes());
            2
        }
        _ => {
            target[0] = 0xf0;
            target[1..5].copy_from_slice(&len.to_le_bytes());
            5
        }
    };
    let span = head + bytes.len();
    target[head..span].copy_from_slice(bytes);
    span
}

/// `span` plus the size of its back-length.
#[inline]
pub(crate) fn with_back_length(span: usize) -> usize {
    // As in Redis, the largest number that would fit into two or more bytes takes one byte more.
    span + match span {
        0..=127 => 1,
        128..16_383 => 2,
        16_383..2_097_151 => 3,
        2_097_151..268_435_455 => 4,
        _ => 5,
    }
}

/// The back-length for `span`, and its size in bytes.
#[inline]
pub(crate) fn back_length(span: usize) -> ([u8; 5], usize) {
    let mut bytes = [0; 5];
    let count = with_back_length(span) - span;
    let mut rest = span;
    for (index, byte) in bytes[..count].iter_mut().enumerate().rev() {
        *byte = (rest & 0x7f) as u8 | if index > 0 { 0x80 } else { 0 };
        rest >>= 7;
    }
    (bytes, count)
}

/// Reads the back-length at the end of `bytes`.
#[inline]
pub(crate) fn read_back_length(bytes: &[u8]) -> Option<usize> {
    let mut span = 0;
    for (index, &byte) in bytes.iter().rev().take(5).enumerate() {
        span |= usize::from(byte & 0x7f) << (7 * index);
        if byte < 0x80 {
            return Some(span);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The expected bytes come from DUMP of redis-server 7.0.15.
    #[test]
    fn elements_are_encoded_as_in_redis() {
        let known: &[(&[u8], &[u8])] = &[
            (b"", b"\x80\x01"),
            (b"a", b"\x81a\x02"),
            (b"0", b"\x00\x01"),
            (b"127", b"\x7f\x01"),
            (b"128", b"\xc0\x80\x02"),
            (b"-1", b"\xdf\xff\x02"),
            (b"4095", b"\xcf\xff\x02"),
            (b"-4096", b"\xd0\x00\x02"),
            (b"4096", b"\xf1\x00\x10\x03"),
            (b"-4097", b"\xf1\xff\xef\x03"),
            (b"32768", b"\xf2\x00\x80\x00\x04"),
            (b"-32769", b"\xf2\xff\x7f\xff\x04"),
            (b"8388608", b"\xf3\x00\x00\x80\x00\x05"),
            (b"-8388609", b"\xf3\xff\xff\x7f\xff\x05"),
            (b"2147483648", b"\xf4\x00\x00\x00\x80\x00\x00\x00\x00\x09"),
            (
                b"-9223372036854775808",
                b"\xf4\x00\x00\x00\x00\x00\x00\x00\x80\x09",
            ),
            (b"9223372036854775808", b"\x939223372036854775808\x14"),
            (b"01", b"\x8201\x03"),
        ];
        for (text, bytes) in known {
            let mut target = [0; 32];
            let element = Element::new(text);
            let len = element.encode(&mut target);
            assert_eq!(&target[..len], *bytes, "{text:?}");
            assert_eq!(element.encoded_bytes(), len);
            assert_eq!(Element::decode(bytes), Some((element, element.span())));
            assert_eq!(span_at(bytes), Some(element.span()));
        }
        // At about 16,000 bytes, Redis's back-length grows one byte earlier than necessary.
        for (len, back) in [(16_377, &b"\x7f\xfe"[..]), (16_378, b"\x00\xff\xff")] {
            let mut bytes = vec![0; 5 + len + back.len()];
            assert_eq!(
                Element::Bytes(&vec![b'x'; len]).encode(&mut bytes),
                bytes.len()
            );
            assert_eq!(&bytes[5 + len..], back);
        }
    }

    #[test]
    fn every_width_round_trips_and_truncated_elements_are_refused() {
        let mut numbers = vec![0, 127, 128, 4095, 4096, i64::MAX, i64::MIN];
        for bits in 0..63 {
            numbers.extend([1 << bits, -(1 << bits), (1 << bits) - 1, -(1 << bits) - 1]);
        }
        for number in numbers {
            let text = number.to_string();
            let element = Element::new(text.as_bytes());
            assert_eq!(element, Element::Integer(number));
            assert_eq!(element.to_vec(), text.as_bytes());
            assert_eq!(element.len(), text.len());
            round_trip(element);
        }
        let text = vec![b'x'; 300_000];
        let lengths = [0, 1, 63, 64, 125, 126, 127, 128, 4095, 4096, 16_000];
        // Around the largest length whose back-length takes two bytes.
        for len in lengths.into_iter().chain(16_376..16_382) {
            round_trip(Element::Bytes(&text[..len]));
        }
        round_trip(Element::Bytes(&text));
    }

    fn round_trip(element: Element<'_>) {
        let mut bytes = vec![0; element.encoded_bytes()];
        assert_eq!(element.encode(&mut bytes), bytes.len());
        let span = element.span();
        assert_eq!(Element::decode(&bytes), Some((element, span)));
        assert_eq!(span_at(&bytes), Some(span));
        assert_eq!(read_back_length(&bytes), Some(span));
        assert_eq!(Element::decode(&bytes[..span - 1]), None);
        assert!(Needle::new(&element.to_vec()).matches(element));
    }

    #[test]
    fn back_lengths_cover_every_width() {
        for span in (0..70_000).chain([2_097_150, 2_097_151, 268_435_454, 268_435_455, 1 << 32]) {
            let (bytes, count) = back_length(span);
            assert_eq!(read_back_length(&bytes[..count]), Some(span));
            assert_eq!(with_back_length(span), span + count);
        }
        assert_eq!(read_back_length(&[]), None);
        assert_eq!(read_back_length(&[0xff; 9]), None);
    }

    #[test]
    fn a_text_of_digits_is_also_found_if_it_is_stored_as_text() {
        assert!(Needle::new(b"12").matches(Element::Bytes(b"12")));
        assert!(Needle::new(b"12").matches(Element::Integer(12)));
        assert!(!Needle::new(b"012").matches(Element::Integer(12)));
        assert!(!Needle::new(b"13").matches(Element::Integer(12)));
    }
}
