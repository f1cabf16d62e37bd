//! Listpack: consecutive elements that can be walked in both directions.
//!
//! ```text
//! | count: u32 LE | element | element | ...
//! ```
//!
//! The empty listpack has no bytes at all; a count of zero is invalid. `element` describes the encoding of an element.
//! Redis's listpack differs only in its header and an end mark, which DUMP and RDB files add or remove.
//!
//! All functions but [`Listpack::is_valid`] expect bytes that were written here, or that `is_valid` accepted: they then never
//! panic. Other bytes may cause a panic, but nothing worse.

use crate::element::{Element, Needle, read_back_length, span_at, with_back_length};
use crate::{Buffer, Side};

/// The bytes before the elements.
pub const HEADER_BYTES: usize = 4;
/// The maximum size of a listpack: a collection must switch to its large form before it exceeds this.
pub const BYTES_MAX: usize = 1 << 30;

const VALID: &str = "a listpack was written here or passed `is_valid`";

/// The start of an element, or the end of the last element, counted from the start of the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Offset(usize);

impl Offset {
    /// The start of the first element, which is also the end of an empty listpack.
    pub const FIRST: Self = Self(HEADER_BYTES);
}

/// A read-only view of a listpack.
#[derive(Debug, Clone, Copy)]
pub struct Listpack<'a> {
    bytes: &'a [u8],
}

impl<'a> Listpack<'a> {
    /// Views `bytes` as a listpack.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Whether untrusted bytes are a valid listpack. Takes time in proportion to the number of elements.
    pub fn is_valid(self) -> bool {
        if self.bytes.is_empty() {
            return true;
        }
        if self.bytes.len() < HEADER_BYTES || self.bytes.len() > BYTES_MAX {
            return false;
        }
        let mut count = 0;
        let mut rest = &self.bytes[HEADER_BYTES..];
        while !rest.is_empty() {
            let Some((_, bytes)) = Element::read(rest) else {
                return false;
            };
            rest = &rest[bytes..];
            count += 1;
        }
        count > 0 && count == self.len()
    }

    /// The number of elements.
    #[inline]
    pub fn len(self) -> usize {
        match self.bytes {
            &[a, b, c, d, ..] => u32::from_le_bytes([a, b, c, d]) as usize,
            _ => 0,
        }
    }

    /// Whether the listpack is empty.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.bytes.is_empty()
    }

    /// All bytes of the listpack.
    #[inline]
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// The size in bytes, including the header.
    #[inline]
    pub fn byte_len(self) -> usize {
        self.bytes.len()
    }

    /// The bytes of the elements: what Redis stores between the header and the end mark.
    pub fn element_bytes(self) -> &'a [u8] {
        self.bytes.get(HEADER_BYTES..).unwrap_or_default()
    }

    /// The start of the first element.
    #[inline]
    pub fn first(self) -> Option<Offset> {
        (!self.is_empty()).then_some(Offset::FIRST)
    }

    /// The start of the last element.
    #[inline]
    pub fn last(self) -> Option<Offset> {
        self.previous(self.end())
    }

    /// The end of the last element.
    #[inline]
    pub fn end(self) -> Offset {
        Offset(self.bytes.len().max(HEADER_BYTES))
    }

    /// The start of the element after the one at `offset`.
    #[inline]
    pub fn next(self, offset: Offset) -> Option<Offset> {
        let next = self.after(offset);
        (next.0 < self.bytes.len()).then_some(next)
    }

    /// The start of the element before `offset`.
    #[inline]
    pub fn previous(self, offset: Offset) -> Option<Offset> {
        if offset == Offset::FIRST {
            return None;
        }
        let span = read_back_length(&self.bytes[..offset.0]).expect(VALID);
        Some(Offset(offset.0 - with_back_length(span)))
    }

    /// The element that starts at `offset`.
    #[inline]
    pub fn at(self, offset: Offset) -> Element<'a> {
        self.decode(offset).0
    }

    /// The start of the element at `index`. Walks from the nearer end.
    #[inline]
    pub fn seek(self, index: usize) -> Option<Offset> {
        let len = self.len();
        if index >= len {
            return None;
        }
        if index <= len / 2 {
            let mut offset = Offset::FIRST;
            for _ in 0..index {
                offset = self.after(offset);
            }
            return Some(offset);
        }
        let mut offset = self.end();
        for _ in index..len {
            offset = self.previous(offset)?;
        }
        Some(offset)
    }

    /// The element at `index`. Walks from the nearer end.
    #[inline]
    pub fn get(self, index: usize) -> Option<Element<'a>> {
        self.seek(index).map(|offset| self.at(offset))
    }

    /// An iterator over all elements, from either end.
    #[inline]
    pub fn iter(self) -> Iter<'a> {
        Iter {
            listpack: self,
            front: Offset::FIRST,
            back: self.end(),
        }
    }

    /// An iterator over the elements from `index` on.
    #[inline]
    pub fn iter_from(self, index: usize) -> Iter<'a> {
        Iter {
            front: self.seek(index).unwrap_or(self.end()),
            ..self.iter()
        }
    }

    /// An iterator over the elements from `front` up to, but not including, `back`. `back` must not be before `front`.
    #[inline]
    pub fn range(self, front: Offset, back: Offset) -> Iter<'a> {
        Iter {
            listpack: self,
            front,
            back,
        }
    }

    /// The start of the first element at or after `from` that matches `needle`. After each element compared, `skip` elements
    /// are skipped: in a list of fields and values, 1 compares only the fields.
    #[inline]
    pub fn find(self, from: Offset, skip: usize, needle: &Needle<'_>) -> Option<Offset> {
        let mut offset = from;
        while offset.0 < self.bytes.len() {
            let (element, after) = self.decode(offset);
            if needle.matches(element) {
                return Some(offset);
            }
            offset = after;
            for _ in 0..skip {
                if offset.0 < self.bytes.len() {
                    offset = self.after(offset);
                }
            }
        }
        None
    }

    /// The text at `offset` and the end of its element, if it is a text of less than 64 bytes. These are the most common
    /// elements, and their back-lengths take one byte.
    #[inline(always)]
    fn short_text(self, offset: Offset) -> Option<(&'a [u8], Offset)> {
        let tag = self.bytes[offset.0];
        if tag & 0xc0 != 0x80 {
            return None;
        }
        let start = offset.0 + 1;
        let end = start + usize::from(tag & 0x3f);
        Some((self.bytes.get(start..end)?, Offset(end + 1)))
    }

    /// The end of the element at `offset`.
    #[inline]
    pub fn after(self, offset: Offset) -> Offset {
        let bytes = match self.bytes[offset.0] {
            0..=0x7f => 2,
            // At most 64 bytes, so the back-length takes one byte.
            tag @ 0x80..=0xbf => 2 + usize::from(tag & 0x3f),
            _ => with_back_length(span_at(&self.bytes[offset.0..]).expect(VALID)),
        };
        Offset(offset.0 + bytes)
    }

    /// The element at `offset`, and its end.
    #[inline(always)]
    pub(crate) fn decode(self, offset: Offset) -> (Element<'a>, Offset) {
        match self.short_text(offset) {
            Some((text, after)) => (Element::Bytes(text), after),
            None => self.decode_any(offset),
        }
    }

    #[inline]
    fn decode_any(self, offset: Offset) -> (Element<'a>, Offset) {
        let (element, span) = Element::decode(&self.bytes[offset.0..]).expect(VALID);
        (element, Offset(offset.0 + with_back_length(span)))
    }
}

impl<'a> IntoIterator for Listpack<'a> {
    type Item = Element<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// An iterator over a listpack, or a part of one, from either end.
#[derive(Debug, Clone, Copy)]
pub struct Iter<'a> {
    listpack: Listpack<'a>,
    front: Offset,
    back: Offset,
}

impl Iter<'_> {
    /// The start of the next element, or the end of the range.
    pub fn offset(&self) -> Offset {
        self.front
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = Element<'a>;

    #[inline]
    fn next(&mut self) -> Option<Element<'a>> {
        if self.front >= self.back {
            return None;
        }
        let (element, after) = self.listpack.decode(self.front);
        self.front = after;
        Some(element)
    }
}

impl DoubleEndedIterator for Iter<'_> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.front >= self.back {
            return None;
        }
        self.back = self.listpack.previous(self.back)?;
        Some(self.listpack.at(self.back))
    }
}

/// Appends an element.
#[inline]
pub fn push_back<'e>(buffer: &mut impl Buffer, element: impl Into<Element<'e>>) {
    let end = Listpack::new(buffer.bytes()).end();
    insert(buffer, end, element);
}

/// Prepends an element.
#[inline]
pub fn push_front<'e>(buffer: &mut impl Buffer, element: impl Into<Element<'e>>) {
    insert(buffer, Offset::FIRST, element);
}

/// Inserts an element at `offset`: before the one that starts there, or at the end.
#[inline]
pub fn insert<'e>(buffer: &mut impl Buffer, offset: Offset, element: impl Into<Element<'e>>) {
    let element = element.into();
    let target = open_gap(buffer, offset, 1, element.encoded_bytes());
    element.encode(target);
}

/// Inserts elements, in order, at `offset`: before the element that starts there, or at the end. The bytes after them move
/// only once. The iterator runs twice.
pub fn insert_many<'e>(
    buffer: &mut impl Buffer,
    offset: Offset,
    elements: impl Iterator<Item = Element<'e>> + Clone,
) {
    let (mut count, mut bytes) = (0, 0);
    for element in elements.clone() {
        count += 1;
        bytes += element.encoded_bytes();
    }
    if count == 0 {
        return;
    }
    let mut target = open_gap(buffer, offset, count, bytes);
    for element in elements {
        let len = element.encode(target);
        target = &mut target[len..];
    }
}

/// Appends elements, in order. The iterator runs twice.
pub fn append_many<'e>(
    buffer: &mut impl Buffer,
    elements: impl Iterator<Item = Element<'e>> + Clone,
) {
    let end = Listpack::new(buffer.bytes()).end();
    insert_many(buffer, end, elements);
}

/// Appends the `count` elements between two offsets of another listpack.
pub fn append_range(
    buffer: &mut impl Buffer,
    source: Listpack<'_>,
    from: Offset,
    to: Offset,
    count: usize,
) {
    if count > 0 {
        let end = Listpack::new(buffer.bytes()).end();
        let bytes = &source.bytes[from.0..to.0];
        open_gap(buffer, end, count, bytes.len()).copy_from_slice(bytes);
    }
}

/// Replaces the element at `offset`.
#[inline]
pub fn replace<'e>(buffer: &mut impl Buffer, offset: Offset, element: impl Into<Element<'e>>) {
    let element = element.into();
    let after = Listpack::new(buffer.bytes()).after(offset);
    let (removed, inserted) = (after.0 - offset.0, element.encoded_bytes());
    let target = if removed == inserted {
        &mut buffer.bytes_mut()[offset.0..after.0]
    } else {
        buffer.splice(offset.0, removed, inserted)
    };
    element.encode(target);
}

/// Removes up to `count` elements, starting with the one at `offset`, and returns how many were removed. The bytes after
/// them move only once; the next element then starts at `offset`.
pub fn remove(buffer: &mut impl Buffer, offset: Offset, count: usize) -> usize {
    let listpack = Listpack::new(buffer.bytes());
    let mut iter = listpack.range(offset, listpack.end());
    let removed = iter.by_ref().take(count).count();
    let end = iter.offset();
    remove_range(buffer, offset, end, removed);
    removed
}

/// Removes the `count` elements between two offsets.
pub fn remove_range(buffer: &mut impl Buffer, from: Offset, to: Offset, count: usize) {
    let listpack = Listpack::new(buffer.bytes());
    let (bytes, left) = (listpack.byte_len(), listpack.len() - count);
    if left == 0 {
        buffer.splice(0, bytes, 0);
        return;
    }
    set_count(buffer, left);
    buffer.splice(from.0, to.0 - from.0, 0);
}

/// Removes up to `limit` elements that match `needle`, those nearest to the end `from`, and returns how many were removed.
/// Each element moves only once.
pub fn remove_equal(
    buffer: &mut impl Buffer,
    needle: &Needle<'_>,
    limit: usize,
    from: Side,
) -> usize {
    let listpack = Listpack::new(buffer.bytes());
    let all = listpack.iter().filter(|&other| needle.matches(other));
    let (removed, mut spared) = match from {
        Side::Left => (all.take(limit).count(), 0),
        Side::Right => {
            let all = all.count();
            (all.min(limit), all.saturating_sub(limit))
        }
    };
    let (mut read, mut write, mut left) = (Offset::FIRST, Offset::FIRST, removed);
    while left > 0 {
        let (element, after) = Listpack::new(buffer.bytes()).decode(read);
        if !needle.matches(element) || spared > 0 {
            spared -= usize::from(needle.matches(element));
            buffer.bytes_mut().copy_within(read.0..after.0, write.0);
            write.0 += after.0 - read.0;
        } else {
            left -= 1;
        }
        read = after;
    }
    if removed > 0 {
        remove_range(buffer, write, read, removed);
    }
    removed
}

/// Makes room at `offset` for `count` elements with a total of `bytes` bytes, and adds them to the count.
#[inline]
fn open_gap(buffer: &mut impl Buffer, offset: Offset, count: usize, bytes: usize) -> &mut [u8] {
    let listpack = Listpack::new(buffer.bytes());
    let (is_empty, count) = (listpack.is_empty(), listpack.len() + count);
    if is_empty {
        let target = buffer.splice(0, 0, HEADER_BYTES + bytes);
        target[..HEADER_BYTES].copy_from_slice(&(count as u32).to_le_bytes());
        return &mut target[HEADER_BYTES..];
    }
    set_count(buffer, count);
    buffer.splice(offset.0, 0, bytes)
}

/// Every element takes at least two bytes, so within [`BYTES_MAX`] the count stays far below 2^32.
fn set_count(buffer: &mut impl Buffer, count: usize) {
    buffer.bytes_mut()[..HEADER_BYTES].copy_from_slice(&(count as u32).to_le_bytes());
}
