//! An entry in memory, and all `unsafe` code that reads or writes one.
//!
//! ```text
//! | flags: u8 | access: u24 | key length | value length | deadline: i64 | key ... | value ... |
//!
//! flags   bits 0-3  kind of the value
//!         bits 4-5  width of the two lengths: 1, 2 or 4 bytes
//!         bit  6    a deadline is present
//!         bit  7    already saved by the running snapshot
//! access            age and frequency, as the eviction policy keeps them
//! value length      absent for integers: their kind tells it; of a packed text, before packing
//! deadline          absent unless flagged; milliseconds since the epoch
//! ```
//!
//! All numbers are little-endian and unaligned. The capacity of the block is known to the
//! allocator, so it is not stored: a value that still fits is overwritten in place.

use std::marker::PhantomData;
use std::ptr::NonNull;

use damselfly_base::heap;
use damselfly_base::number::{Decimal, parse_integer};

use crate::packing::{PackedText, Packing};

/// Longest key and longest value, in bytes.
pub const BYTES_MAX: usize = u32::MAX as usize;

const ACCESS_AT: usize = 1;
const LENGTHS_AT: usize = 4;
const DEADLINE_BYTES: usize = 8;

const KIND_MASK: u8 = 0x0f;
const WIDTH_SHIFT: u8 = 4;
const DEADLINE_FLAG: u8 = 1 << 6;

/// Growing values get room for as much again, up to this many bytes more.
const SLACK_BYTES_MAX: usize = 1 << 20;

/// How the value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    /// Bytes as they were set.
    Bytes = 0,
    /// Bytes that were edited in place, which Redis reports as `raw` whatever their length.
    Edited = 1,
    /// An integer of 2, 3, 4 or 8 bytes.
    Int2 = 2,
    Int3 = 3,
    Int4 = 4,
    Int8 = 5,
    /// A text in fewer bits.
    Ascii = 6,
    Hex = 7,
}

impl Kind {
    fn of_flags(flags: u8) -> Self {
        match flags & KIND_MASK {
            0 => Self::Bytes,
            1 => Self::Edited,
            2 => Self::Int2,
            3 => Self::Int3,
            4 => Self::Int4,
            5 => Self::Int8,
            6 => Self::Ascii,
            7 => Self::Hex,
            other => unreachable!("entry of kind {other}"),
        }
    }

    /// The narrowest kind that holds `number`.
    fn of_integer(number: i64) -> Self {
        // Bits without the sign; the sign needs one more.
        match 64 - (number ^ (number >> 63)).leading_zeros() {
            0..=15 => Self::Int2,
            16..=23 => Self::Int3,
            24..=31 => Self::Int4,
            _ => Self::Int8,
        }
    }

    fn of_packing(packing: Packing) -> Self {
        match packing {
            Packing::Ascii => Self::Ascii,
            Packing::Hex => Self::Hex,
        }
    }

    fn packing(self) -> Option<Packing> {
        match self {
            Self::Ascii => Some(Packing::Ascii),
            Self::Hex => Some(Packing::Hex),
            Self::Bytes | Self::Edited | Self::Int2 | Self::Int3 | Self::Int4 | Self::Int8 => None,
        }
    }

    /// The stored size of an integer of this kind; `None` for strings.
    fn integer_bytes(self) -> Option<usize> {
        match self {
            Self::Bytes | Self::Edited | Self::Ascii | Self::Hex => None,
            Self::Int2 => Some(2),
            Self::Int3 => Some(3),
            Self::Int4 => Some(4),
            Self::Int8 => Some(8),
        }
    }
}

/// What an entry holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A string that is no canonical integer, or was edited in place (`edited`).
    Bytes {
        /// The string.
        bytes: &'a [u8],
        /// True after APPEND, SETRANGE and the like.
        edited: bool,
    },
    /// A string that is stored in fewer bits than it has; never an integer.
    Packed(PackedText<'a>),
    /// A string that is the canonical text of an integer.
    Integer(i64),
}

impl Value<'_> {
    /// The length of the value as a string, in bytes.
    #[inline]
    pub fn text_len(self) -> usize {
        match self {
            Self::Bytes { bytes, .. } => bytes.len(),
            Self::Packed(text) => text.len(),
            Self::Integer(number) => Decimal::new().format(number).len(),
        }
    }
}

/// What to store in an entry.
#[derive(Clone, Copy, Debug)]
pub enum NewValue<'a> {
    /// Exactly these bytes; packed if that makes the entry's block smaller.
    Bytes(&'a [u8]),
    /// The canonical text of this integer.
    Integer(i64),
}

impl<'a> NewValue<'a> {
    /// The most compact way to hold `bytes`.
    #[inline]
    pub fn compact(bytes: &'a [u8]) -> Self {
        match parse_integer(bytes) {
            Some(number) => Self::Integer(number),
            None => Self::Bytes(bytes),
        }
    }

    /// The length of the string, or the stored size of the integer.
    #[inline]
    fn len(self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Integer(number) => Kind::of_integer(number).integer_bytes().unwrap_or_default(),
        }
    }
}

/// Everything the header says: enough to find every part of the block.
#[derive(Clone, Copy, Debug)]
struct Shape {
    kind: Kind,
    /// log2 of the bytes of each length field.
    width: u8,
    has_deadline: bool,
    key_len: usize,
    /// The length of the string, or the stored size of the integer.
    value_len: usize,
}

impl Shape {
    /// The most compact shape.
    #[inline]
    fn new(kind: Kind, has_deadline: bool, key_len: usize, value_len: usize) -> Self {
        let width = match key_len.max(value_len) {
            0..=0xff => 0,
            0x100..=0xffff => 1,
            _ => 2,
        };
        Self {
            kind,
            width,
            has_deadline,
            key_len,
            value_len,
        }
    }

    /// The most compact shape for a value: packed where the allocator's block gets smaller by it.
    #[inline]
    fn of_value(key_len: usize, value: NewValue<'_>, has_deadline: bool) -> Self {
        let kind = match value {
            NewValue::Bytes(_) => Kind::Bytes,
            NewValue::Integer(number) => Kind::of_integer(number),
        };
        let plain = Self::new(kind, has_deadline, key_len, value.len());
        if let NewValue::Bytes(bytes) = value
            && let Some(packing) = Packing::of(bytes)
        {
            let packed = Self {
                kind: Kind::of_packing(packing),
                ..plain
            };
            if heap::block_bytes(packed.total()) < heap::block_bytes(plain.total()) {
                return packed;
            }
        }
        plain
    }

    /// True if `len` fits in a length field of this shape.
    fn length_fits(self, len: usize) -> bool {
        len < 1 << (8 << self.width)
    }

    #[inline]
    fn deadline_at(self) -> usize {
        let lengths = if self.kind.integer_bytes().is_some() {
            1
        } else {
            2
        };
        LENGTHS_AT + (lengths << self.width)
    }

    #[inline]
    fn key_at(self) -> usize {
        self.deadline_at() + if self.has_deadline { DEADLINE_BYTES } else { 0 }
    }

    #[inline]
    fn value_at(self) -> usize {
        self.key_at() + self.key_len
    }

    /// The bytes that the value takes in the block.
    #[inline]
    fn value_bytes(self) -> usize {
        match self.kind.packing() {
            None => self.value_len,
            Some(packing) => packing.packed_bytes(self.value_len),
        }
    }

    #[inline]
    fn total(self) -> usize {
        self.value_at() + self.value_bytes()
    }
}

/// A block of memory that holds an entry; the only place that touches raw bytes.
///
/// Invariant: `0` points to a live block from `heap::allocate` whose first bytes are a header, and
/// the block is at least as long as the header's shape says, with all those bytes initialised.
#[derive(Clone, Copy)]
struct Block(NonNull<u8>);

impl Block {
    /// Allocates and writes the header; key and value are zero.
    fn new(shape: Shape, room: usize) -> Self {
        let block = heap::allocate(room.max(shape.total()));
        // SAFETY: at least `shape.total()` bytes were just allocated.
        unsafe { block.write_bytes(0, shape.key_at()) };
        let block = Self(block);
        block.write_shape(shape);
        block
    }

    #[inline]
    fn read<const N: usize>(self, at: usize) -> [u8; N] {
        // SAFETY: callers stay within the header or, for values, within the shape.
        let from = unsafe { self.0.add(at) };
        // SAFETY: initialised bytes of the block; a byte array has no alignment.
        unsafe { from.cast::<[u8; N]>().read() }
    }

    #[inline]
    fn write<const N: usize>(self, at: usize, bytes: [u8; N]) {
        // SAFETY: callers stay within the block.
        let to = unsafe { self.0.add(at) };
        // SAFETY: as above; no reference to these bytes exists while the entry is written.
        unsafe { to.cast::<[u8; N]>().write(bytes) }
    }

    #[inline]
    fn read_length(self, at: usize, width: u8) -> usize {
        match width {
            0 => usize::from(self.read::<1>(at)[0]),
            1 => usize::from(u16::from_le_bytes(self.read(at))),
            _ => u32::from_le_bytes(self.read(at)) as usize,
        }
    }

    fn write_length(self, at: usize, width: u8, len: usize) {
        match width {
            0 => self.write(at, (len as u8).to_le_bytes()),
            1 => self.write(at, (len as u16).to_le_bytes()),
            _ => self.write(at, (len as u32).to_le_bytes()),
        }
    }

    #[inline]
    fn flags(self) -> u8 {
        self.read::<1>(0)[0]
    }

    #[inline]
    fn shape(self) -> Shape {
        let flags = self.flags();
        let kind = Kind::of_flags(flags);
        let width = (flags >> WIDTH_SHIFT) & 3;
        let key_len = self.read_length(LENGTHS_AT, width);
        let value_len = match kind.integer_bytes() {
            Some(bytes) => bytes,
            None => self.read_length(LENGTHS_AT + (1 << width), width),
        };
        Shape {
            kind,
            width,
            has_deadline: flags & DEADLINE_FLAG != 0,
            key_len,
            value_len,
        }
    }

    /// Writes flags and lengths, keeping the other flags and the access bits.
    fn write_shape(self, shape: Shape) {
        let kept = self.flags() & !(KIND_MASK | 3 << WIDTH_SHIFT | DEADLINE_FLAG);
        let deadline = if shape.has_deadline { DEADLINE_FLAG } else { 0 };
        self.write(
            0,
            [kept | shape.kind as u8 | shape.width << WIDTH_SHIFT | deadline],
        );
        self.write_length(LENGTHS_AT, shape.width, shape.key_len);
        if shape.kind.integer_bytes().is_none() {
            self.write_length(
                LENGTHS_AT + (1 << shape.width),
                shape.width,
                shape.value_len,
            );
        }
    }

    /// The bytes of a part of the block.
    ///
    /// # Safety
    /// The part lies in the shape; the block lives, and the part is not written, for `'a`.
    #[inline]
    unsafe fn part<'a>(self, at: usize, len: usize) -> &'a [u8] {
        // SAFETY: within the block.
        let from = unsafe { self.0.add(at) };
        // SAFETY: initialised, and as the caller promises.
        unsafe { std::slice::from_raw_parts(from.as_ptr(), len) }
    }

    /// As [`Block::part`], to write.
    ///
    /// # Safety
    /// The part is initialised, lies in the block, and nothing else uses it for `'a`.
    #[inline]
    unsafe fn part_mut<'a>(self, at: usize, len: usize) -> &'a mut [u8] {
        // SAFETY: within the block.
        let from = unsafe { self.0.add(at) };
        // SAFETY: as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(from.as_ptr(), len) }
    }

    /// Copies `bytes` into the block.
    #[inline]
    fn fill(self, at: usize, bytes: &[u8]) {
        debug_assert!(at + bytes.len() <= self.room());
        // SAFETY: callers checked that the block is long enough.
        let to = unsafe { self.0.add(at) };
        // SAFETY: the source is a live slice; the target is in the block, which may be the
        // source's own (`copy` allows overlap).
        unsafe { to.as_ptr().copy_from(bytes.as_ptr(), bytes.len()) }
    }

    fn zero(self, at: usize, len: usize) {
        debug_assert!(at + len <= self.room());
        // SAFETY: callers checked that the block is long enough.
        let to = unsafe { self.0.add(at) };
        // SAFETY: as above.
        unsafe { to.write_bytes(0, len) }
    }

    #[inline]
    fn room(self) -> usize {
        // SAFETY: the block is live.
        unsafe { heap::usable_bytes(self.0) }
    }

    #[inline]
    fn write_value(self, shape: Shape, value: NewValue<'_>) {
        match value {
            NewValue::Bytes(bytes) => match shape.kind.packing() {
                None => self.fill(shape.value_at(), bytes),
                Some(packing) => {
                    let (at, len) = (shape.value_at(), shape.value_bytes());
                    self.fill(at, &bytes[..len]);
                    // SAFETY: the value's part, just filled; whoever writes an entry has it alone.
                    packing.pack(bytes, unsafe { self.part_mut(at, len) });
                }
            },
            NewValue::Integer(number) => {
                self.fill(shape.value_at(), &number.to_le_bytes()[..shape.value_len]);
            }
        }
    }
}

/// An owned entry.
pub struct Entry(Block);

// SAFETY:
// - an entry owns its block alone, and the allocator frees blocks of any thread.
unsafe impl Send for Entry {}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.view().fmt(f)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // SAFETY: owned, and never used again.
        unsafe { heap::free(self.0.0) }
    }
}

impl Entry {
    /// An entry of this key and value; `deadline_ms` since the epoch, `None` for never.
    ///
    /// # Panics
    /// If key or value exceed 4 GiB, which the protocol's limits forbid.
    #[inline]
    pub fn new(key: &[u8], value: NewValue<'_>, deadline_ms: Option<i64>) -> Self {
        assert!(
            key.len().max(value.len()) <= BYTES_MAX,
            "key or value over 4 GiB"
        );
        let shape = Shape::of_value(key.len(), value, deadline_ms.is_some());
        let block = Block::new(shape, 0);
        block.fill(shape.key_at(), key);
        block.write_value(shape, value);
        if let Some(deadline) = deadline_ms {
            block.write(shape.deadline_at(), deadline.to_le_bytes());
        }
        Self(block)
    }

    /// The entry, to read.
    #[inline]
    pub fn view(&self) -> EntryRef<'_> {
        EntryRef {
            block: self.0,
            lives: PhantomData,
        }
    }

    /// Replaces the value; the deadline and access bits stay. In place if it fits and little is
    /// wasted.
    #[inline]
    pub fn set(&mut self, value: NewValue<'_>) {
        let old = self.0.shape();
        let new = Shape {
            width: old.width,
            ..Shape::of_value(old.key_len, value, old.has_deadline)
        };
        let same_layout = old.kind.integer_bytes().is_some() == new.kind.integer_bytes().is_some();
        if same_layout && new.length_fits(new.value_len) {
            let (total, room) = (new.total(), self.0.room());
            if total <= room && room <= total + total / 4 + 16 {
                self.0.write_shape(new);
                self.0.write_value(new, value);
                return;
            }
        }
        let access = self.view().access();
        let replacement = Self::new(self.view().key(), value, self.view().deadline_ms());
        replacement.view().set_access(access);
        *self = replacement;
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

    /// Makes the value a string of `len` bytes that can be edited: what it was, cut off or filled up
    /// with zero bytes. Room for further growth is set aside if it grew.
    pub fn edit(&mut self, len: usize) -> &mut [u8] {
        assert!(len <= BYTES_MAX, "value over 4 GiB");
        self.make_plain();
        let old = self.0.shape();
        let grown = len.saturating_sub(old.value_len);
        let mut new = Shape::new(Kind::Edited, old.has_deadline, old.key_len, len);
        new.width = new.width.max(old.width);
        if new.width == old.width && new.total() <= self.0.room() {
            self.0.write_shape(new);
        } else {
            self.reshape(
                new,
                new.total()
                    + if grown > 0 {
                        len.min(SLACK_BYTES_MAX)
                    } else {
                        0
                    },
            );
        }
        if grown > 0 {
            self.0.zero(new.value_at() + old.value_len, grown);
        }
        // SAFETY: `len` initialised bytes of the block, borrowed with `self`.
        unsafe { self.0.part_mut(new.value_at(), len) }
    }

    /// Makes the value bytes as they are: no integer, not packed.
    fn make_plain(&mut self) {
        match self.view().value() {
            Value::Bytes { .. } => {}
            Value::Integer(number) => {
                let mut text = Decimal::new();
                self.set(NewValue::Bytes(text.format(number)));
            }
            Value::Packed(text) => {
                let shape = Shape {
                    kind: Kind::Edited,
                    ..self.0.shape()
                };
                let plain = self.without_value(shape, shape.total());
                plain.0.zero(shape.value_at(), text.len());
                // SAFETY: the value's part of a new block, just zeroed.
                text.unpack_into(unsafe { plain.0.part_mut(shape.value_at(), text.len()) });
                *self = plain;
            }
        }
    }

    /// A copy in a block of another shape: key, deadline (if the shape has one) and access bits. The
    /// value is still to be written.
    fn without_value(&self, new: Shape, room: usize) -> Self {
        let view = self.view();
        let block = Block::new(new, room);
        block.fill(new.key_at(), view.key());
        if let Some(deadline) = view.deadline_ms().filter(|_| new.has_deadline) {
            block.write(new.deadline_at(), deadline.to_le_bytes());
        }
        let copy = Self(block);
        copy.view().set_access(view.access());
        copy
    }

    /// Moves into a block of another shape, with the same key and as much of the stored value as fits.
    fn reshape(&mut self, new: Shape, room: usize) {
        let copy = self.without_value(new, room);
        let old = self.0.shape();
        let kept = old.value_bytes().min(new.value_bytes());
        // SAFETY: within the old block, which outlives the copy.
        let value = unsafe { self.0.part(old.value_at(), kept) };
        copy.0.fill(new.value_at(), value);
        *self = copy;
    }

    /// Gives up ownership; the pointer goes back to [`Entry::from_raw`].
    pub(crate) fn into_raw(self) -> NonNull<u8> {
        std::mem::ManuallyDrop::new(self).0.0
    }

    /// Takes ownership back.
    ///
    /// # Safety
    /// `raw` came from [`Entry::into_raw`], and is taken back once.
    #[inline]
    pub(crate) unsafe fn from_raw(raw: NonNull<u8>) -> Self {
        Self(Block(raw))
    }
}

/// A borrowed entry. Reading is safe as long as the borrow lasts; only the access bits can change
/// through it.
#[derive(Clone, Copy)]
pub struct EntryRef<'a> {
    block: Block,
    lives: PhantomData<&'a Entry>,
}

impl<'a> EntryRef<'a> {
    /// Borrows the entry behind a raw pointer.
    ///
    /// # Safety
    /// `raw` came from [`Entry::into_raw`] and the entry lives, unchanged, for `'a`.
    #[inline]
    pub(crate) unsafe fn from_raw(raw: NonNull<u8>) -> Self {
        Self {
            block: Block(raw),
            lives: PhantomData,
        }
    }

    /// The key.
    #[inline]
    pub fn key(self) -> &'a [u8] {
        let shape = self.block.shape();
        // SAFETY: the key's part of the shape, borrowed for `'a`.
        unsafe { self.block.part(shape.key_at(), shape.key_len) }
    }

    /// What the entry holds.
    #[inline]
    pub fn value(self) -> Value<'a> {
        let shape = self.block.shape();
        let at = shape.value_at();
        let block = self.block;
        Value::Integer(match shape.kind {
            Kind::Bytes | Kind::Edited => {
                return Value::Bytes {
                    // SAFETY: the value's part of the shape, borrowed for `'a`.
                    bytes: unsafe { block.part(at, shape.value_len) },
                    edited: shape.kind == Kind::Edited,
                };
            }
            Kind::Ascii => return self.packed(shape, Packing::Ascii),
            Kind::Hex => return self.packed(shape, Packing::Hex),
            Kind::Int2 => i64::from(i16::from_le_bytes(block.read(at))),
            Kind::Int3 => {
                let [low, middle, high] = block.read(at);
                i64::from(i32::from_le_bytes([0, low, middle, high]) >> 8)
            }
            Kind::Int4 => i64::from(i32::from_le_bytes(block.read(at))),
            Kind::Int8 => i64::from_le_bytes(block.read(at)),
        })
    }

    #[inline]
    fn packed(self, shape: Shape, packing: Packing) -> Value<'a> {
        // SAFETY: the value's part of the shape, borrowed for `'a`.
        let packed = unsafe { self.block.part(shape.value_at(), shape.value_bytes()) };
        Value::Packed(PackedText::new(packing, packed, shape.value_len))
    }

    /// True if the entry has a deadline.
    #[inline]
    pub fn has_deadline(self) -> bool {
        self.block.flags() & DEADLINE_FLAG != 0
    }

    /// When the entry ends, in milliseconds since the epoch.
    #[inline]
    pub fn deadline_ms(self) -> Option<i64> {
        self.has_deadline()
            .then(|| i64::from_le_bytes(self.block.read(self.block.shape().deadline_at())))
    }

    /// The 24 access bits.
    #[inline]
    pub fn access(self) -> u32 {
        let [low, middle, high] = self.block.read(ACCESS_AT);
        u32::from_le_bytes([low, middle, high, 0])
    }

    /// Sets the access bits (the low 24 of `access`). Writes only if they differ, so that a key read
    /// often within one tick keeps its cache line clean.
    #[inline]
    pub fn set_access(self, access: u32) {
        let [low, middle, high, _] = access.to_le_bytes();
        if self.block.read(ACCESS_AT) != [low, middle, high] {
            self.block.write(ACCESS_AT, [low, middle, high]);
        }
    }

    /// A copy under another key (or the same): value, deadline and access bits.
    pub fn to_entry(self, key: &[u8]) -> Entry {
        let old = self.block.shape();
        let shape = Shape::new(old.kind, old.has_deadline, key.len(), old.value_len);
        let block = Block::new(shape, 0);
        block.fill(shape.key_at(), key);
        // SAFETY: the value's part of the shape, which outlives the copy.
        block.fill(shape.value_at(), unsafe {
            self.block.part(old.value_at(), old.value_bytes())
        });
        let copy = Entry(block);
        copy.view().set_access(self.access());
        if let Some(deadline) = self.deadline_ms() {
            block.write(shape.deadline_at(), deadline.to_le_bytes());
        }
        copy
    }

    /// The bytes truly set aside for the entry.
    #[inline]
    pub fn allocated_bytes(self) -> usize {
        self.block.room()
    }
}

impl std::fmt::Debug for EntryRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("key", &self.key().escape_ascii().to_string())
            .field("value", &self.value())
            .field("deadline_ms", &self.deadline_ms())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_in_every_shape() {
        let long = vec![0xff; 70_000];
        let keys: [&[u8]; 4] = [b"", b"k", &long[..300], &long];
        let values: [&[u8]; 4] = [b"", b"v\0", &long[..256], &long];
        for key in keys {
            for deadline in [None, Some(i64::MAX), Some(-1)] {
                for value in values {
                    let entry = Entry::new(key, NewValue::Bytes(value), deadline);
                    assert_eq!(entry.view().key(), key);
                    assert_eq!(
                        entry.view().value(),
                        Value::Bytes {
                            bytes: value,
                            edited: false
                        }
                    );
                    assert_eq!(entry.view().deadline_ms(), deadline);
                }
                for bits in 0..63 {
                    for number in [1 << bits, -(1 << bits), (1 << bits) - 1, i64::MIN, i64::MAX] {
                        let entry = Entry::new(key, NewValue::Integer(number), deadline);
                        assert_eq!(entry.view().key(), key);
                        assert_eq!(entry.view().value(), Value::Integer(number));
                        assert_eq!(entry.view().deadline_ms(), deadline);
                    }
                }
            }
        }
    }

    /// Random edits against a plain model.
    #[test]
    fn any_sequence_of_changes_leaves_the_same_as_a_plain_model() {
        let seed = std::env::var("SEED")
            .ok()
            .and_then(|s| s.parse().ok())
            .unwrap_or(0x5eed_u64);
        println!("SEED={seed}");
        let mut state = seed;
        let mut random = move |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((state >> 33) as usize) % below
        };
        for round in 0..200 {
            let key = vec![b'k'; if round % 10 == 0 { 400 } else { random(40) }];
            let mut entry = Entry::new(&key, NewValue::Integer(0), None);
            let (mut bytes, mut deadline) = (b"0".to_vec(), None);
            for _ in 0..100 {
                match random(7) {
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
                    }
                    1 => {
                        let shift = random(34);
                        let number = (random(1 << 30) as i64 - (1 << 29)) << shift;
                        bytes = number.to_string().into_bytes();
                        entry.set(NewValue::Integer(number));
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
                        assert_eq!(copy.view().value(), entry.view().value());
                        entry = copy.view().to_entry(&key);
                    }
                    4 => {
                        let len = bytes.len() + random(100);
                        bytes.resize(len, 0);
                        assert_eq!(entry.edit(len), bytes);
                    }
                    5 => {
                        let len = random(bytes.len() + 1);
                        bytes.truncate(len);
                        assert_eq!(entry.edit(len), bytes);
                    }
                    _ => entry.view().set_access(random(1 << 24) as u32),
                }
                assert_eq!(entry.view().key(), key);
                assert_eq!(entry.view().deadline_ms(), deadline);
                match entry.view().value() {
                    Value::Integer(number) => assert_eq!(number.to_string().as_bytes(), bytes),
                    Value::Bytes { bytes: stored, .. } => assert_eq!(stored, bytes),
                    Value::Packed(text) => assert_eq!(text.to_vec(), bytes),
                }
                assert_eq!(entry.view().value().text_len(), bytes.len());
                assert!(entry.view().allocated_bytes() >= key.len());
            }
        }
    }

    #[test]
    fn text_is_packed_only_where_the_block_gets_smaller() {
        for len in 0..3000 {
            let (text, binary) = (vec![b'x'; len], vec![0xff; len]);
            let plain = Entry::new(b"key", NewValue::Bytes(&binary), None);
            let entry = Entry::new(b"key", NewValue::Bytes(&text), None);
            let (bytes, plain_bytes) = (
                entry.view().allocated_bytes(),
                plain.view().allocated_bytes(),
            );
            match entry.view().value() {
                Value::Packed(_) => assert!(len > 64 && bytes < plain_bytes, "length {len}"),
                Value::Bytes { .. } => assert_eq!(bytes, plain_bytes, "length {len}"),
                Value::Integer(_) => panic!("no integer"),
            }
        }
    }

    #[test]
    fn a_packed_text_is_overwritten_in_place_by_one_of_like_size() {
        let address = |entry: &Entry| entry.0.0;
        for digit in [b'a', b'z'] {
            let mut entry = Entry::new(b"key", NewValue::Bytes(&[digit; 1000]), Some(1));
            let before = address(&entry);
            for len in [1000, 999, 980, 1000] {
                let text = vec![digit; len];
                entry.set(NewValue::Bytes(&text));
                assert_eq!(address(&entry), before);
                assert!(
                    matches!(entry.view().value(), Value::Packed(packed) if packed.to_vec() == text)
                );
            }
            entry.set(NewValue::Bytes(&[digit; 100]));
            assert!(
                entry.view().allocated_bytes() < 200,
                "a much smaller text gives memory back"
            );
        }
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
