//! An entry: a key, its value and its deadline. `block.rs` documents the byte layout.

use std::ptr::NonNull;

use damselfly_base::heap;
use damselfly_base::number::Decimal;

use crate::Type;
use crate::attributes::Attributes;
use crate::block::{BYTES_MAX, Block, Kind, Shape};
use crate::entry_ref::EntryRef;
use crate::large::{Large, SharedLarge};
use crate::value::{NewValue, Text};

/// A value that grows gets room to double in size, but at most this many spare bytes.
const SLACK_BYTES_MAX: usize = 1 << 20;

/// An owned entry.
pub struct Entry(pub(crate) Block);

// SAFETY:
// - an entry is the only owner of its block, and any thread may free a block.
unsafe impl Send for Entry {}

impl Drop for Entry {
    #[inline]
    fn drop(&mut self) {
        if self.kind().is_boxed() {
            drop(self.take_large());
        }
        // SAFETY: owned, and never used again.
        unsafe { heap::free(self.0.0) }
    }
}

impl Entry {
    /// Creates an entry. `deadline_ms` counts from the Unix epoch; with `None` the entry never expires.
    ///
    /// # Panics
    /// If the key or the value exceeds 4 GiB, which the protocol's limits rule out.
    #[inline]
    pub fn new(key: &[u8], value: NewValue<'_>, deadline_ms: Option<i64>) -> Self {
        Self::new_with(key, value, deadline_ms, Attributes::NONE)
    }

    /// As [`Entry::new`], with attributes.
    ///
    /// # Panics
    /// As [`Entry::new`].
    #[inline]
    pub fn new_with(
        key: &[u8],
        value: NewValue<'_>,
        deadline_ms: Option<i64>,
        attributes: Attributes,
    ) -> Self {
        assert!(
            key.len().max(value.len()) <= BYTES_MAX,
            "key or value over 4 GiB"
        );
        let bits = attributes.bits();
        let shape = Shape::of_value(key.len(), value, deadline_ms.is_some(), bits);
        let block = Block::new(shape, 0);
        block.write_attributes(shape, attributes);
        block.fill(shape.key_at(), key);
        block.write_value(shape, value);
        if let Some(deadline) = deadline_ms {
            block.write(shape.deadline_at(), deadline.to_le_bytes());
        }
        Self(block)
    }

    /// Creates an entry that holds an empty collection; `deadline_ms` as for [`Entry::new`].
    ///
    /// # Panics
    /// If the key exceeds 4 GiB.
    pub fn new_collection(key: &[u8], of: Type, deadline_ms: Option<i64>) -> Self {
        assert!(key.len() <= BYTES_MAX, "key over 4 GiB");
        let kind = of.smallest_form();
        let value_bytes = kind.fixed_bytes().unwrap_or(0);
        let shape = Shape::new(kind, deadline_ms.is_some(), key.len(), value_bytes);
        let block = Block::new(shape, 0);
        block.fill(shape.key_at(), key);
        if of == Type::Stream {
            let large = SharedLarge::new(Large::Stream(Box::default()));
            block.write_address(shape, large.into_raw());
        }
        if let Some(deadline) = deadline_ms {
            block.write(shape.deadline_at(), deadline.to_le_bytes());
        }
        Self(block)
    }

    /// A read-only view of the entry.
    #[inline]
    pub fn view(&self) -> EntryRef<'_> {
        EntryRef::of(&self.0)
    }

    /// Replaces the value, drops the attributes, and keeps the deadline and the access bits. A string is written in place if it fits
    /// and wastes little space.
    #[inline]
    pub fn set(&mut self, value: NewValue<'_>) {
        self.set_with(value, Attributes::NONE);
    }

    /// As [`Entry::set`], with new attributes.
    #[inline]
    pub fn set_with(&mut self, value: NewValue<'_>, attributes: Attributes) {
        if self.overwrite(value, attributes) {
            return;
        }
        let access = self.view().access();
        let view = self.view();
        let replacement = Self::new_with(view.key(), value, view.deadline_ms(), attributes);
        replacement.view().set_access(access);
        *self = replacement;
    }

    /// As [`Entry::set_with`], but only if the value is a string and the new one fits in its place: then it takes no more and no less
    /// memory than before. Returns whether it does; otherwise nothing was done.
    #[inline]
    pub fn overwrite(&mut self, value: NewValue<'_>, attributes: Attributes) -> bool {
        let old = self.0.shape();
        let new = Shape {
            width: old.width,
            ..Shape::of_value(old.key_len, value, old.has_deadline, attributes.bits())
        };
        let same_layout = old.kind.fixed_bytes().is_some() == new.kind.fixed_bytes().is_some()
            && old.attributes == new.attributes;
        let fits = same_layout
            && old.kind.is_text()
            && new.length_fits(new.value_len)
            // The usual case, which needs no look at what the allocator knows.
            && (new.kind == old.kind && new.value_len == old.value_len || self.0.suits(new));
        if fits {
            self.0.write_shape(new);
            self.0.write_attributes(new, attributes);
            self.0.write_value(new, value);
        }
        fits
    }

    /// Sets or removes the deadline, in milliseconds since the epoch.
    pub fn set_deadline_ms(&mut self, deadline_ms: Option<i64>) {
        let old = self.0.shape();
        let new = Shape {
            has_deadline: deadline_ms.is_some(),
            ..old
        };
        if new.has_deadline != old.has_deadline {
            self.reshape(new, new.total());
        }
        if let Some(deadline) = deadline_ms {
            self.0.write(new.deadline_at(), deadline.to_le_bytes());
        }
    }

    /// Makes the value an editable string of `len` bytes: the old value, truncated or padded with zero bytes. If a
    /// non-empty value grows, this reserves room for further growth. Drops the attributes.
    ///
    /// # Panics
    /// If the value is a collection, or `len` exceeds 4 GiB.
    pub fn edit(&mut self, len: usize) -> &mut [u8] {
        self.edit_with_room(len, len.min(SLACK_BYTES_MAX))
    }

    /// As [`Entry::edit`], for a value that will not grow any more: reserves no room.
    pub fn edit_exactly(&mut self, len: usize) -> &mut [u8] {
        self.edit_with_room(len, 0)
    }

    fn edit_with_room(&mut self, len: usize, room: usize) -> &mut [u8] {
        assert!(len <= BYTES_MAX, "value over 4 GiB");
        let text = self.view().text().expect("only strings can be edited");
        let old_len = text.len();
        let grown = len.saturating_sub(old_len);
        let new = self.0.shape().edited(len);
        if self.view().edits_in_place(len) {
            self.0.write_shape(new);
        } else {
            // A value that grew once is likely to grow again.
            let slack = match old_len > 0 && grown > 0 {
                true => room,
                false => 0,
            };
            let copy = self.without_value(new, new.total() + slack);
            copy.fill_text(new, text, old_len.min(len));
            self.move_to(copy);
        }
        if grown > 0 {
            self.0.zero(new.value_at() + old_len, grown);
        }
        // SAFETY: `len` initialised bytes of the block, borrowed with `self`.
        unsafe { self.0.part_mut(new.value_at(), len) }
    }

    /// As [`Entry::edit`], with the length that the value has.
    pub fn edit_all(&mut self) -> &mut [u8] {
        let text = self.view().text();
        self.edit(text.map_or(0, Text::len))
    }

    /// Writes the first `len` bytes of a string as the value of a new block, whose shape has room for them.
    fn fill_text(&self, shape: Shape, text: Text<'_>, len: usize) {
        let at = shape.value_at();
        match text {
            Text::Bytes { bytes, .. } => self.0.fill(at, &bytes[..len]),
            Text::Integer(number) => self.0.fill(at, &Decimal::new().format(number)[..len]),
            Text::Packed(text) => {
                self.0.zero(at, len);
                // SAFETY: the value part of a new block, just zeroed, which nothing else uses.
                let plain = unsafe { self.0.part_mut(at, len) };
                if len == text.len() {
                    text.unpack_into(plain);
                } else {
                    text.unpack_range(0..len, plain);
                }
            }
        }
    }

    /// Copies the key, the deadline and the attributes (if the shape has them) and the access bits to a new block of the given shape.
    /// The caller must write the value, and the attributes if they differ.
    pub(crate) fn without_value(&self, new: Shape, room: usize) -> Self {
        let view = self.view();
        let block = Block::new(new, room);
        block.fill(new.key_at(), view.key());
        if let Some(deadline) = view.deadline_ms().filter(|_| new.has_deadline) {
            block.write(new.deadline_at(), deadline.to_le_bytes());
        }
        let old = self.0.shape();
        if new.attributes != 0 && new.attributes == old.attributes {
            block.write_attributes(new, self.0.read_attributes(old));
        }
        let copy = Self(block);
        copy.view().set_access(view.access());
        copy
    }

    /// Moves the entry to a block of another shape. The key stays the same, and as much of the stored value as fits.
    pub(crate) fn reshape(&mut self, new: Shape, room: usize) {
        let copy = self.without_value(new, room);
        let old = self.0.shape();
        let kept = old.value_bytes().min(new.value_bytes());
        // SAFETY: within the old block, which outlives the copy.
        let value = unsafe { self.0.part(old.value_at(), kept) };
        copy.0.fill(new.value_at(), value);
        self.move_to(copy);
    }

    /// The bytes that the allocator really uses for the entry, without the nodes of a large collection.
    pub fn block_bytes(&self) -> usize {
        self.0.room()
    }

    /// Moves the entry to another place in memory. The nodes of a large collection stay where they are.
    pub fn relocate(&mut self) {
        // SAFETY: the entry owns its block, and nothing else has its address.
        self.0 = Block(unsafe { heap::relocate(self.0.0) });
    }

    /// The same entry under another key.
    #[must_use]
    pub fn with_key(self, key: &[u8]) -> Self {
        let mut renamed = self;
        let copy = Self(renamed.view().copy_block(key));
        renamed.move_to(copy);
        renamed
    }

    /// Takes over the block of `copy`, which now owns whatever the value refers to. The old block is freed, the value is not
    /// dropped.
    fn move_to(&mut self, copy: Self) {
        let old = std::mem::replace(&mut self.0, Block(copy.into_raw()));
        // SAFETY: owned until now, and never used again.
        unsafe { heap::free(old.0) }
    }

    fn kind(&self) -> Kind {
        Kind::of_flags(self.0.flags())
    }

    /// The bytes of a packed collection.
    pub(crate) fn packed(&self) -> &[u8] {
        let shape = self.0.shape();
        assert!(shape.kind.is_packed_collection(), "{:?}", shape.kind);
        // SAFETY: the value part of the shape, borrowed with `self`.
        unsafe { self.0.part(shape.value_at(), shape.value_len) }
    }

    /// The bytes of a packed collection, mutable.
    pub(crate) fn packed_mut(&mut self) -> &mut [u8] {
        let shape = self.0.shape();
        assert!(shape.kind.is_packed_collection(), "{:?}", shape.kind);
        // SAFETY: the value part of the shape, fully initialised, borrowed with `self`.
        unsafe { self.0.part_mut(shape.value_at(), shape.value_len) }
    }

    /// Replaces `removed` bytes at `at` of a packed collection with `inserted` bytes, which the caller must fill.
    ///
    /// # Panics
    /// If the value is not a packed collection, is shorter than `at + removed`, or would exceed 4 GiB.
    pub(crate) fn splice(&mut self, at: usize, removed: usize, inserted: usize) -> &mut [u8] {
        let old = self.0.shape();
        assert!(old.kind.is_packed_collection(), "{:?}", old.kind);
        let tail = at + removed;
        assert!(tail <= old.value_len, "{tail} of {} bytes", old.value_len);
        let tail_len = old.value_len - tail;
        let len = at + inserted + tail_len;
        assert!(len <= BYTES_MAX, "value over 4 GiB");
        let mut new = Shape::new(old.kind, old.has_deadline, old.key_len, len);
        new.width = new.width.max(old.width);
        if new.width == old.width && self.0.suits(new) {
            // The bytes up to the old end are initialised already.
            if inserted > removed {
                self.0
                    .zero(old.value_at() + old.value_len, inserted - removed);
            }
            let value_at = old.value_at();
            self.0
                .shift(value_at + tail, value_at + at + inserted, tail_len);
            self.0.write_shape(new);
        } else {
            let copy = self.without_value(new, new.total());
            // SAFETY: within the old block, which outlives the copy.
            let start = unsafe { self.0.part(old.value_at(), at) };
            copy.0.fill(new.value_at(), start);
            copy.0.zero(new.value_at() + at, inserted);
            // SAFETY: likewise.
            let rest = unsafe { self.0.part(old.value_at() + tail, tail_len) };
            copy.0.fill(new.value_at() + at + inserted, rest);
            self.move_to(copy);
        }
        // SAFETY: initialised bytes of the value part, borrowed with `self`.
        unsafe { self.0.part_mut(new.value_at() + at, inserted) }
    }

    /// Replaces the value with a packed collection of this kind and these bytes; drops the old value.
    pub(crate) fn set_packed(&mut self, kind: Kind, bytes: &[u8]) {
        assert!(kind.is_packed_collection(), "{kind:?}");
        assert!(bytes.len() <= BYTES_MAX, "value over 4 GiB");
        let old = self.0.shape();
        if old.kind.is_packed_collection() && old.value_len == 0 && bytes.is_empty() {
            self.0.write_shape(Shape { kind, ..old });
            return;
        }
        let new = Shape::new(kind, old.has_deadline, old.key_len, bytes.len());
        let copy = self.without_value(new, new.total());
        copy.0.fill(new.value_at(), bytes);
        *self = copy;
    }

    /// Changes the kind. The new kind must store its values in the same way.
    pub(crate) fn set_kind(&mut self, kind: Kind) {
        let shape = self.0.shape();
        debug_assert_eq!(shape.kind.fixed_bytes(), kind.fixed_bytes());
        self.0.write_shape(Shape { kind, ..shape });
    }

    /// The entry in a new block, whose parts are all written.
    pub(crate) fn from_block(block: Block) -> Self {
        Self(block)
    }

    /// Gives up ownership; the pointer goes back to [`Entry::from_raw`].
    pub(crate) fn into_raw(self) -> NonNull<u8> {
        std::mem::ManuallyDrop::new(self).0.0
    }

    /// Takes ownership back.
    ///
    /// # Safety
    /// `raw` came from [`Entry::into_raw`], and is passed here only once.
    #[inline]
    pub(crate) unsafe fn from_raw(raw: NonNull<u8>) -> Self {
        Self(Block(raw))
    }
}

#[cfg(test)]
mod tests {
    use damselfly_base::random::Random;

    use super::*;

    #[test]
    fn entries_of_every_shape_round_trip() {
        let long = vec![0xff; 70_000];
        let keys: [&[u8]; 4] = [b"", b"k", &long[..300], &long];
        let values: [&[u8]; 4] = [b"", b"v\0", &long[..256], &long];
        for key in keys {
            for deadline in [None, Some(i64::MAX), Some(-1)] {
                for value in values {
                    let entry = Entry::new(key, NewValue::Bytes(value), deadline);
                    assert_eq!(entry.view().key(), key);
                    assert_eq!(
                        entry.view().text(),
                        Some(Text::Bytes {
                            bytes: value,
                            edited: false
                        })
                    );
                    assert_eq!(entry.view().deadline_ms(), deadline);
                }
                for bits in 0..63 {
                    for number in [1 << bits, -(1 << bits), (1 << bits) - 1, i64::MIN, i64::MAX] {
                        let entry = Entry::new(key, NewValue::Integer(number), deadline);
                        assert_eq!(entry.view().key(), key);
                        assert_eq!(entry.view().text(), Some(Text::Integer(number)));
                        assert_eq!(entry.view().deadline_ms(), deadline);
                    }
                }
            }
        }
    }

    /// Attributes of every combination.
    fn some_attributes(random: &mut impl FnMut(usize) -> usize) -> Attributes {
        Attributes {
            flags: [0, 1, u32::MAX][random(3)],
            cas: [None, Some(0), Some(u64::MAX)][random(3)],
            is_stale: random(2) == 0,
            is_claimed: random(2) == 0,
        }
    }

    #[test]
    fn a_string_without_attributes_stores_none() {
        let bytes = |flags| {
            let attributes = Attributes::of_flags(flags);
            let shape = Shape::of_value(16, NewValue::Bytes(b"abc"), false, attributes.bits());
            shape.total()
        };
        assert_eq!(bytes(0), 4 + 2 + 16 + 3);
        assert_eq!(bytes(7), bytes(0) + 1 + 4);
    }

    #[test]
    fn a_value_with_the_same_flags_is_overwritten_in_place() {
        let flags = Attributes::of_flags(7);
        let mut entry = Entry::new_with(b"key", NewValue::Bytes(b"abcdef"), None, flags);
        let before = entry.0.0;
        entry.set_with(NewValue::Bytes(b"ghijkl"), Attributes::of_flags(8));
        assert_eq!(entry.0.0, before);
        assert_eq!(entry.view().attributes(), Attributes::of_flags(8));
        entry.drop_cas();
        assert_eq!(entry.0.0, before);
    }

    /// Compares random edits with a plain model.
    #[test]
    fn random_changes_match_a_plain_model() {
        let mut random = Random::for_test();
        let mut random = move |below: usize| random.below(below);
        for round in 0..200 {
            let key = vec![b'k'; if round % 10 == 0 { 400 } else { random(40) }];
            let mut entry = Entry::new(&key, NewValue::Integer(0), None);
            let (mut bytes, mut deadline) = (b"0".to_vec(), None);
            let mut attributes = Attributes::NONE;
            for _ in 0..100 {
                match random(9) {
                    0 => {
                        let len_max = 1 << random(18);
                        let alphabet: &[u8] = match random(3) {
                            0 => b"0123456789abcdef",
                            1 => b"The quick brown fox, and a 7.",
                            _ => b"caf\xc3\xa9\0\xff",
                        };
                        bytes = (0..random(len_max))
                            .map(|_| alphabet[random(alphabet.len())])
                            .collect();
                        entry.set(NewValue::compact(&bytes));
                        attributes = Attributes::NONE;
                    }
                    1 => {
                        let shift = random(34);
                        let number = (random(1 << 30) as i64 - (1 << 29)) << shift;
                        bytes = number.to_string().into_bytes();
                        entry.set(NewValue::Integer(number));
                        attributes = Attributes::NONE;
                    }
                    2 => {
                        deadline = (random(3) > 0).then(|| random(1 << 40) as i64);
                        entry.set_deadline_ms(deadline);
                    }
                    3 => {
                        let other = vec![b'o'; random(300)];
                        let copy = entry.view().to_entry(&other);
                        assert_eq!(copy.view().key(), other);
                        assert_eq!(copy.view().deadline_ms(), deadline);
                        assert_eq!(copy.view().text(), entry.view().text());
                        entry = copy.view().to_entry(&key);
                    }
                    4 => {
                        let len = bytes.len() + random(100);
                        bytes.resize(len, 0);
                        assert_eq!(entry.edit(len), bytes);
                        attributes = Attributes::NONE;
                    }
                    5 => {
                        let len = random(bytes.len() + 1);
                        bytes.truncate(len);
                        assert_eq!(entry.edit(len), bytes);
                        attributes = Attributes::NONE;
                    }
                    6 => {
                        attributes = some_attributes(&mut random);
                        entry.set_attributes(attributes);
                    }
                    7 => {
                        attributes = some_attributes(&mut random);
                        let text = vec![b'z'; random(300)];
                        bytes = text.clone();
                        entry.set_with(NewValue::compact(&text), attributes);
                    }
                    _ => entry.view().set_access(random(1 << 24) as u32),
                }
                assert_eq!(entry.view().key(), key);
                assert_eq!(entry.view().deadline_ms(), deadline);
                assert_eq!(entry.view().attributes(), attributes);
                let text = entry.view().text().expect("a string");
                match text {
                    Text::Integer(number) => assert_eq!(number.to_string().as_bytes(), bytes),
                    Text::Bytes { bytes: stored, .. } => assert_eq!(stored, bytes),
                    Text::Packed(text) => assert_eq!(text.to_vec(), bytes),
                }
                assert_eq!(text.len(), bytes.len());
                assert!(entry.view().allocated_bytes() >= key.len());
            }
        }
    }

    #[test]
    fn text_is_packed_only_if_the_block_gets_smaller() {
        for len in 0..3000 {
            let (text, binary) = (vec![b'x'; len], vec![0xff; len]);
            let plain = Entry::new(b"key", NewValue::Bytes(&binary), None);
            let entry = Entry::new(b"key", NewValue::Bytes(&text), None);
            let (bytes, plain_bytes) = (
                entry.view().allocated_bytes(),
                plain.view().allocated_bytes(),
            );
            match entry.view().text().expect("a string") {
                Text::Packed(_) => assert!(len > 64 && bytes < plain_bytes, "length {len}"),
                Text::Bytes { .. } => assert_eq!(bytes, plain_bytes, "length {len}"),
                Text::Integer(_) => panic!("unexpected integer"),
            }
        }
    }

    #[test]
    fn a_packed_text_of_similar_size_is_overwritten_in_place() {
        let address = |entry: &Entry| entry.0.0;
        for digit in [b'a', b'z'] {
            let mut entry = Entry::new(b"key", NewValue::Bytes(&[digit; 1000]), Some(1));
            let before = address(&entry);
            for len in [1000, 999, 980, 1000] {
                let text = vec![digit; len];
                entry.set(NewValue::Bytes(&text));
                assert_eq!(address(&entry), before);
                assert!(
                    matches!(entry.view().text(), Some(Text::Packed(packed)) if packed.to_vec() == text)
                );
            }
            entry.set(NewValue::Bytes(&[digit; 100]));
            assert!(
                entry.view().allocated_bytes() < 200,
                "a much smaller text frees memory"
            );
        }
    }

    #[test]
    fn only_a_non_empty_value_that_grows_gets_room_for_more() {
        let mut entry = Entry::new(b"k", NewValue::Bytes(b""), None);
        entry.edit(100_000);
        assert!(entry.view().allocated_bytes() < 120_000);
        entry.edit(150_000);
        assert!(entry.view().allocated_bytes() >= 300_000);
    }

    #[test]
    fn an_entry_that_is_moved_stays_the_same() {
        for value in [&b"v"[..], &[b'x'; 100], &[0xff; 5000]] {
            let mut entry = Entry::new(b"key", NewValue::Bytes(value), Some(7));
            entry.view().set_access(0xab_cdef);
            let bytes = entry.view().allocated_bytes();
            let copy = entry.view().to_entry(b"key");
            entry.relocate();
            assert_eq!(entry.view().key(), b"key");
            assert_eq!(
                entry.view().text().map(Text::len),
                copy.view().text().map(Text::len)
            );
            assert_eq!(entry.view().deadline_ms(), Some(7));
            assert_eq!(entry.view().access(), 0xab_cdef);
            assert_eq!(entry.view().allocated_bytes(), bytes);
        }
        let mut list = Entry::new_collection(b"stream", Type::Stream, None);
        list.relocate();
        assert_eq!(list.view().key(), b"stream");
    }

    #[test]
    fn access_bits_survive_every_change() {
        let mut entry = Entry::new(b"k", NewValue::Integer(1), None);
        entry.view().set_access(0xab_cdef);
        entry.set(NewValue::Bytes(&[0xff; 1000]));
        entry.set(NewValue::Bytes(&[b'x'; 1000]));
        entry.set_deadline_ms(Some(5));
        entry.edit(5000);
        assert_eq!(entry.view().access(), 0xab_cdef);
    }
}
