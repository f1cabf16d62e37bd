//! Packed collections in files. Each is one string and is validated byte by byte before use.
//!
//! ```text
//! listpack   | bytes: u32 | count: u16 | element ... | 0xff |
//!            an element is what `collections/element.rs` draws; a count of 65535 means "unknown"
//! ziplist    | bytes: u32 | last: u32 | count: u16 | entry ... | 0xff |
//! entry      | length of the entry before: u8, or 0xfe and u32 | encoding | text, or the integer |
//!            00xxxxxx text; 01xxxxxx xxxxxxxx text; 0x80 and u32 BE text
//!            0xc0 i16, 0xd0 i32, 0xe0 i64, 0xf0 i24, 0xfe i8; 0xf1 to 0xfd the integers 0 to 12
//! zipmap     | count: u8 | field length | field | value length | unused: u8 | value | unused bytes | ... | 0xff |
//!            a length is u8 below 254, or 0xfe and u32; a count of 254 or 255 means "unknown"
//! intset     | width: u32 | count: u32 | integer ... |
//! ```
//!
//! Numbers are little-endian unless marked otherwise.

use damselfly_collections::intset;
use damselfly_collections::listpack::BYTES_MAX;
use damselfly_value::{Element, Elements};

use crate::error::{Fault, Form};
use crate::input::Result;

const LISTPACK_HEADER_BYTES: usize = 6;
const ZIPLIST_HEADER_BYTES: usize = 10;
const INTSET_HEADER_BYTES: usize = 8;
const END: u8 = 0xff;
/// The count of a listpack or ziplist that does not say how many elements it has.
const COUNT_UNKNOWN: u16 = u16::MAX;
/// First byte of a four-byte length in a ziplist or zipmap.
const LONG: u8 = 0xfe;

fn broken(form: Form, at: usize, problem: &'static str) -> Fault {
    Fault::Packed { form, at, problem }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_le_bytes(bytes) as usize)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Checks a listpack and returns its elements.
pub(super) fn listpack(blob: &[u8]) -> Result<Elements<'_>> {
    listpack_with(blob, |_, _| Ok(()))
}

/// As [`listpack`], and calls `visit` with each element and its index; it may refuse the element.
#[inline]
pub(super) fn listpack_with<'b>(
    blob: &'b [u8],
    mut visit: impl FnMut(u32, Element<'b>) -> Result<()>,
) -> Result<Elements<'b>> {
    let fault = |at, problem| broken(Form::Listpack, at, problem);
    let (Some(total), Some(count)) = (u32_at(blob, 0), u16_at(blob, 4)) else {
        return Err(fault(0, "no header"));
    };
    if total != blob.len() || total > BYTES_MAX {
        return Err(fault(0, "wrong size"));
    }
    let Some((&END, body)) = blob[LISTPACK_HEADER_BYTES..].split_last() else {
        return Err(fault(blob.len() - 1, "no end mark"));
    };
    let (mut rest, mut found) = (body, 0);
    while !rest.is_empty() {
        let Some((element, bytes)) = Element::read(rest) else {
            let at = blob.len() - 1 - rest.len();
            return Err(fault(at, "invalid element"));
        };
        visit(found, element)?;
        rest = &rest[bytes..];
        found += 1;
    }
    if count != COUNT_UNKNOWN && found != u32::from(count) {
        return Err(fault(4, "wrong number of elements"));
    }
    Ok(Elements {
        count: found,
        bytes: body,
    })
}

/// The elements of a listpack that was checked or written by this crate.
pub(super) fn each(elements: Elements<'_>) -> impl Iterator<Item = Element<'_>> + Clone {
    let mut rest = elements.bytes;
    std::iter::from_fn(move || {
        let (element, bytes) = Element::read(rest)?;
        rest = &rest[bytes..];
        Some(element)
    })
}

/// A position in bytes that are read from front to back.
struct Cursor<'a> {
    form: Form,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn fault(&self, problem: &'static str) -> Fault {
        broken(self.form, self.at, problem)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(count);
        let bytes = end.and_then(|end| self.bytes.get(self.at..end));
        let bytes = bytes.ok_or_else(|| self.fault("it ends within an element"))?;
        self.at += count;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let bytes = self.take(N)?;
        Ok(bytes.try_into().expect("as many as were asked for"))
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<usize> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }
}

/// Checks a ziplist, appends its elements to `into` as those of a listpack, and returns how many there are.
pub(super) fn ziplist(blob: &[u8], into: &mut Vec<u8>) -> Result<u32> {
    let fault = |at, problem| broken(Form::Ziplist, at, problem);
    let header = (u32_at(blob, 0), u32_at(blob, 4), u16_at(blob, 8));
    let (Some(total), Some(last), Some(count)) = header else {
        return Err(fault(0, "no header"));
    };
    if total != blob.len() || total > BYTES_MAX {
        return Err(fault(0, "wrong size"));
    }
    let Some((&END, _)) = blob[ZIPLIST_HEADER_BYTES..].split_last() else {
        return Err(fault(blob.len() - 1, "no end mark"));
    };
    let mut cursor = Cursor {
        form: Form::Ziplist,
        bytes: &blob[..blob.len() - 1],
        at: ZIPLIST_HEADER_BYTES,
    };
    let (mut found, mut previous) = (0, ZIPLIST_HEADER_BYTES);
    while cursor.at < cursor.bytes.len() {
        let start = cursor.at;
        let before = match cursor.byte()? {
            LONG => cursor.u32()?,
            END => return Err(fault(start, "an end mark before the end")),
            short => usize::from(short),
        };
        if before != start - previous {
            return Err(fault(start, "wrong length of the element before"));
        }
        ziplist_element(&mut cursor)?.append_to(into);
        previous = start;
        found += 1;
    }
    if last != previous {
        return Err(fault(4, "wrong offset of the last element"));
    }
    if count != COUNT_UNKNOWN && found != u32::from(count) {
        return Err(fault(8, "wrong number of elements"));
    }
    Ok(found)
}

fn ziplist_element<'a>(cursor: &mut Cursor<'a>) -> Result<Element<'a>> {
    let at = cursor.at;
    let encoding = cursor.byte()?;
    let len = match encoding {
        0..=0x3f => usize::from(encoding),
        0x40..=0x7f => usize::from(encoding & 0x3f) << 8 | usize::from(cursor.byte()?),
        0x80 => u32::from_be_bytes(cursor.array()?) as usize,
        _ => {
            return Ok(Element::Integer(match encoding {
                0xc0 => i64::from(i16::from_le_bytes(cursor.array()?)),
                0xd0 => i64::from(i32::from_le_bytes(cursor.array()?)),
                0xe0 => i64::from_le_bytes(cursor.array()?),
                0xf0 => {
                    let [a, b, c] = cursor.array()?;
                    i64::from(i32::from_le_bytes([0, a, b, c]) >> 8)
                }
                0xfe => i64::from(i8::from_le_bytes(cursor.array()?)),
                0xf1..=0xfd => i64::from(encoding - 0xf1),
                _ => return Err(broken(Form::Ziplist, at, "unknown encoding")),
            }));
        }
    };
    Ok(Element::new(cursor.take(len)?))
}

/// Checks a zipmap, appends its fields and values to `into` as elements of a listpack, and returns how many elements there are.
pub(super) fn zipmap(blob: &[u8], into: &mut Vec<u8>) -> Result<u32> {
    const COUNT_UNKNOWN: u8 = 254;
    let mut cursor = Cursor {
        form: Form::Zipmap,
        bytes: blob,
        at: 0,
    };
    let count = cursor.byte()?;
    let mut found = 0;
    while let Some(len) = zipmap_length(&mut cursor)? {
        Element::new(cursor.take(len)?).append_to(into);
        let len = zipmap_length(&mut cursor)?;
        let len = len.ok_or_else(|| cursor.fault("a field without value"))?;
        let unused = cursor.byte()?;
        Element::new(cursor.take(len)?).append_to(into);
        cursor.take(unused.into())?;
        found += 2;
        if into.len() > BYTES_MAX {
            return Err(cursor.fault("it is too large"));
        }
    }
    if cursor.at != blob.len() {
        return Err(cursor.fault("bytes behind the end mark"));
    }
    if count < COUNT_UNKNOWN && found != u32::from(count) * 2 {
        return Err(broken(Form::Zipmap, 0, "wrong number of fields"));
    }
    Ok(found)
}

/// A length, or `None` for the end.
fn zipmap_length(cursor: &mut Cursor<'_>) -> Result<Option<usize>> {
    Ok(match cursor.byte()? {
        END => None,
        LONG => Some(cursor.u32()?),
        short => Some(usize::from(short)),
    })
}

/// Checks an intset, and returns the width of its integers and the integers.
pub(super) fn integers(blob: &[u8]) -> Result<(u8, &[u8])> {
    let fault = |at, problem| broken(Form::Intset, at, problem);
    let (Some(width), Some(count)) = (u32_at(blob, 0), u32_at(blob, 4)) else {
        return Err(fault(0, "no header"));
    };
    if !matches!(width, 2 | 4 | 8) {
        return Err(fault(0, "unknown width"));
    }
    if count.checked_mul(width) != Some(blob.len() - INTSET_HEADER_BYTES) {
        return Err(fault(4, "wrong number of integers"));
    }
    let width = width as u8;
    let body = &blob[INTSET_HEADER_BYTES..];
    if !intset::is_ascending(width, body) {
        return Err(fault(INTSET_HEADER_BYTES, "integers out of order"));
    }
    Ok((width, body))
}
