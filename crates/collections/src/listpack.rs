//! Listpack: elements one behind the other, which can be walked both ways.
//!
//! ```text
//! | count: u32 LE | element | element | ...
//! ```
//!
//! No bytes at all are the empty listpack; a count of zero does not occur. What an element is made of is in `element`.
//! Redis's own listpack is the same with another header and an end mark, so DUMP and RDB files exchange those.
//!
//! All functions but [`Listpack::is_valid`] take bytes that were made here, or that `is_valid` found good: then nothing panics.
//! Bytes from elsewhere may make them panic, not worse.

use crate::element::{Element, Wanted, read_back_length, span_at, with_back_length};
use crate::{Buffer, Side};

/// Bytes in front of the elements.
pub const HEADER_BYTES: usize = 4;
/// A listpack must not grow beyond this: its collection takes the large form before.
pub const BYTES_MAX: usize = 1 << 30;

const BROKEN: &str = "a listpack is made here, or was checked";

/// Where an element starts, or the end of all elements. Counts from the start of the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Offset(usize);

impl Offset {
    /// The first element, and the end of an empty listpack.
    pub const FIRST: Self = Self(HEADER_BYTES);
}

/// A listpack, to read.
#[derive(Debug, Clone, Copy)]
pub struct Listpack<'a> {
    bytes: &'a [u8],
}

impl<'a> Listpack<'a> {
    /// The listpack that `bytes` are.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// Whether the bytes are a listpack; for bytes from outside. Takes time in proportion to the elements.
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

    /// How many elements there are.
    #[inline]
    pub fn len(self) -> usize {
        match self.bytes {
            &[a, b, c, d, ..] => u32::from_le_bytes([a, b, c, d]) as usize,
            _ => 0,
        }
    }

    /// Whether there is none.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.bytes.is_empty()
    }

    /// All its bytes.
    #[inline]
    pub fn bytes(self) -> &'a [u8] {
        self.bytes
    }

    /// How many bytes it takes, all included.
    #[inline]
    pub fn byte_len(self) -> usize {
        self.bytes.len()
    }

    /// The elements' bytes, as Redis has them between header and end mark.
    pub fn element_bytes(self) -> &'a [u8] {
        self.bytes.get(HEADER_BYTES..).unwrap_or_default()
    }

    /// Where the first element starts.
    #[inline]
    pub fn first(self) -> Option<Offset> {
        (!self.is_empty()).then_some(Offset::FIRST)
    }

    /// Where the last element starts.
    #[inline]
    pub fn last(self) -> Option<Offset> {
        self.previous(self.end())
    }

    /// The end of all elements.
    #[inline]
    pub fn end(self) -> Offset {
        Offset(self.bytes.len().max(HEADER_BYTES))
    }

    /// Where the element after the one at `offset` starts.
    #[inline]
    pub fn next(self, offset: Offset) -> Option<Offset> {
        let next = self.after(offset);
        (next.0 < self.bytes.len()).then_some(next)
    }

    /// Where the element before `offset` starts.
    #[inline]
    pub fn previous(self, offset: Offset) -> Option<Offset> {
        if offset == Offset::FIRST {
            return None;
        }
        let span = read_back_length(&self.bytes[..offset.0]).expect(BROKEN);
        Some(Offset(offset.0 - with_back_length(span)))
    }

    /// The element that starts at `offset`.
    #[inline]
    pub fn at(self, offset: Offset) -> Element<'a> {
        self.decode(offset).0
    }

    /// Where the element at `index` starts. Walks from the nearer end.
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

    /// All elements, from both ends.
    #[inline]
    pub fn iter(self) -> Iter<'a> {
        Iter {
            listpack: self,
            front: Offset::FIRST,
            back: self.end(),
        }
    }

    /// The elements from `index` on.
    #[inline]
    pub fn iter_from(self, index: usize) -> Iter<'a> {
        Iter {
            front: self.seek(index).unwrap_or(self.end()),
            ..self.iter()
        }
    }

    /// The elements from `front` up to but without `back`, which is behind it.
    #[inline]
    pub fn range(self, front: Offset, back: Offset) -> Iter<'a> {
        Iter {
            listpack: self,
            front,
            back,
        }
    }

    /// Where the first element from `from` on starts that is `wanted`. After each one compared, `skip` are passed over:
    /// with 1, fields are found and values are not.
    #[inline]
    pub fn find(self, from: Offset, skip: usize, wanted: &Wanted<'_>) -> Option<Offset> {
        let mut offset = from;
        while offset.0 < self.bytes.len() {
            let (element, after) = self.decode(offset);
            if wanted.is(element) {
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

    /// The text at `offset` and where its element ends, if it is one of less than 64 bytes: the most common elements, whose
    /// back-lengths take a byte.
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

    /// Where the element at `offset` ends.
    #[inline]
    pub fn after(self, offset: Offset) -> Offset {
        let bytes = match self.bytes[offset.0] {
            0..=0x7f => 2,
            // Up to 64 bytes, so that one byte is enough for the back-length.
            tag @ 0x80..=0xbf => 2 + usize::from(tag & 0x3f),
            _ => with_back_length(span_at(&self.bytes[offset.0..]).expect(BROKEN)),
        };
        Offset(offset.0 + bytes)
    }

    /// The element at `offset`, and where it ends.
    #[inline(always)]
    pub(crate) fn decode(self, offset: Offset) -> (Element<'a>, Offset) {
        match self.short_text(offset) {
            Some((text, after)) => (Element::Bytes(text), after),
            None => self.decode_any(offset),
        }
    }

    #[inline]
    fn decode_any(self, offset: Offset) -> (Element<'a>, Offset) {
        let (element, span) = Element::decode(&self.bytes[offset.0..]).expect(BROKEN);
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

/// The elements of a listpack, or of a part of it, from both ends.
#[derive(Debug, Clone, Copy)]
pub struct Iter<'a> {
    listpack: Listpack<'a>,
    front: Offset,
    back: Offset,
}

impl Iter<'_> {
    /// Where the next element starts, or the end of the part.
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

/// Adds an element behind all others.
#[inline]
pub fn push_back<'e>(buffer: &mut impl Buffer, element: impl Into<Element<'e>>) {
    let end = Listpack::new(buffer.bytes()).end();
    insert(buffer, end, element);
}

/// Adds an element before all others.
#[inline]
pub fn push_front<'e>(buffer: &mut impl Buffer, element: impl Into<Element<'e>>) {
    insert(buffer, Offset::FIRST, element);
}

/// Adds an element before the one at `offset`, or at the end. It then starts at `offset`.
#[inline]
pub fn insert<'e>(buffer: &mut impl Buffer, offset: Offset, element: impl Into<Element<'e>>) {
    let element = element.into();
    let target = open(buffer, offset, 1, element.encoded_bytes());
    element.encode(target);
}

/// Adds elements, in their order, before the one at `offset`, or at the end; all in one move. The iterator runs twice.
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
    let mut target = open(buffer, offset, count, bytes);
    for element in elements {
        let len = element.encode(target);
        target = &mut target[len..];
    }
}

/// Adds elements, in their order, behind all others. The iterator runs twice.
pub fn append_many<'e>(
    buffer: &mut impl Buffer,
    elements: impl Iterator<Item = Element<'e>> + Clone,
) {
    let end = Listpack::new(buffer.bytes()).end();
    insert_many(buffer, end, elements);
}

/// Adds the `count` elements between two offsets of another listpack behind all others.
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
        open(buffer, end, count, bytes.len()).copy_from_slice(bytes);
    }
}

/// Puts another element in the place of the one at `offset`.
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

/// Removes up to `count` elements from the one at `offset` on, in one move. The one behind them then starts at `offset`.
/// Returns how many there were.
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

/// Removes up to `limit` elements that are `wanted`, those nearest to one end, in one pass. Returns how many there were.
pub fn remove_equal(
    buffer: &mut impl Buffer,
    wanted: &Wanted<'_>,
    limit: usize,
    from: Side,
) -> usize {
    let listpack = Listpack::new(buffer.bytes());
    let all = listpack.iter().filter(|&other| wanted.is(other));
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
        if !wanted.is(element) || spared > 0 {
            spared -= usize::from(wanted.is(element));
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

/// Makes room for `count` elements of together `bytes` bytes at `offset`, and counts them.
#[inline]
fn open(buffer: &mut impl Buffer, offset: Offset, count: usize, bytes: usize) -> &mut [u8] {
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

/// An element takes two bytes or more, so that the count stays far below 2^32 within [`BYTES_MAX`].
fn set_count(buffer: &mut impl Buffer, count: usize) {
    buffer.bytes_mut()[..HEADER_BYTES].copy_from_slice(&(count as u32).to_le_bytes());
}
