//! The block of memory that holds an entry: its layout, and all code that reads or writes raw bytes.
//!
//! ```text
//! | flags: u8 | access: u24 | attributes: u8 | key length | value length | deadline: i64 | client flags: u32 | CAS: u64 | key ... | value ... |
//!
//! flags   bits 0-3  kind of the value
//!         bits 4-5  width of the two lengths: 1, 2 or 4 bytes; 3 if the byte of attributes follows, and has the width
//!         bit  6    a deadline is present
//!         bit  7    already saved by the running snapshot
//! access            age and frequency, as the eviction policy keeps them
//! attributes        of memcached's items, absent unless there are some
//!         bits 0-1  width of the two lengths
//!         bit  2    client flags are present
//!         bit  3    a CAS number is present
//!         bit  4    the value is stale
//!         bit  5    a client was told to replace the value
//! value length      absent for integers and addresses, whose kind implies it; for packed text, the length before packing
//! deadline          absent unless flagged; milliseconds since the epoch
//! ```
//!
//! All numbers are little-endian and unaligned. The allocator knows the block's capacity, so the block does not
//! store it. A new value that fits is written in place.

use std::ptr::NonNull;

use damselfly_base::heap;

use crate::attributes::{CAS_BIT, FLAGS_BIT, WIDTH_BITS};
use crate::collection::Type;
use crate::large::Large;
use crate::packing::Packing;
use crate::value::NewValue;

/// Longest key and longest value, in bytes.
pub const BYTES_MAX: usize = u32::MAX as usize;

pub(crate) const ACCESS_AT: usize = 1;
pub(crate) const LENGTHS_AT: usize = 4;
pub(crate) const DEADLINE_BYTES: usize = 8;

pub(crate) const KIND_MASK: u8 = 0x0f;
pub(crate) const WIDTH_SHIFT: u8 = 4;
/// In place of a width: a byte of attributes follows.
const WITH_ATTRIBUTES: u8 = 3;
pub(crate) const DEADLINE_FLAG: u8 = 1 << 6;
pub(crate) const SAVED_FLAG: u8 = 1 << 7;

/// How the value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Bytes exactly as the client set them.
    Bytes = 0,
    /// Bytes that were edited in place, which Redis reports as `raw` whatever their length.
    Edited = 1,
    /// An integer of 2, 3, 4 or 8 bytes.
    Int2 = 2,
    Int3 = 3,
    Int4 = 4,
    Int8 = 5,
    /// Text packed into fewer bits per character.
    Ascii = 6,
    Hex = 7,
    /// A small collection, packed into consecutive bytes.
    ListPacked = 8,
    SetIntegers = 9,
    SetPacked = 10,
    HashPacked = 11,
    SortedSetPacked = 12,
    /// The address of a large collection, which knows its own type.
    Boxed = 13,
    /// Small and large hashes whose fields may have deadlines.
    HashPackedTtl = 14,
    HashBoxedTtl = 15,
}

/// An entry or one of its fields can expire only if the entry's kind and deadline bits are at least this: it has a deadline,
/// or it is one of the last two kinds, the hashes whose fields may have deadlines.
pub(crate) const CAN_EXPIRE: u8 = Kind::HashPackedTtl as u8;
const _: () = assert!(DEADLINE_FLAG > KIND_MASK && Kind::HashBoxedTtl as u8 == KIND_MASK);

impl Kind {
    pub(crate) fn of_flags(flags: u8) -> Self {
        match flags & KIND_MASK {
            0 => Self::Bytes,
            1 => Self::Edited,
            2 => Self::Int2,
            3 => Self::Int3,
            4 => Self::Int4,
            5 => Self::Int8,
            6 => Self::Ascii,
            7 => Self::Hex,
            8 => Self::ListPacked,
            9 => Self::SetIntegers,
            10 => Self::SetPacked,
            11 => Self::HashPacked,
            12 => Self::SortedSetPacked,
            13 => Self::Boxed,
            14 => Self::HashPackedTtl,
            _ => Self::HashBoxedTtl,
        }
    }

    /// The narrowest kind that holds `number`.
    pub(crate) fn of_integer(number: i64) -> Self {
        // Bits without the sign, which needs one more.
        match 64 - (number ^ (number >> 63)).leading_zeros() {
            0..=15 => Self::Int2,
            16..=23 => Self::Int3,
            24..=31 => Self::Int4,
            _ => Self::Int8,
        }
    }

    pub(crate) fn of_packing(packing: Packing) -> Self {
        match packing {
            Packing::Ascii => Self::Ascii,
            Packing::Hex => Self::Hex,
        }
    }

    pub(crate) fn packing(self) -> Option<Packing> {
        match self {
            Self::Ascii => Some(Packing::Ascii),
            Self::Hex => Some(Packing::Hex),
            Self::Bytes
            | Self::Edited
            | Self::Int2
            | Self::Int3
            | Self::Int4
            | Self::Int8
            | Self::ListPacked
            | Self::SetIntegers
            | Self::SetPacked
            | Self::HashPacked
            | Self::HashPackedTtl
            | Self::SortedSetPacked
            | Self::Boxed
            | Self::HashBoxedTtl => None,
        }
    }

    /// The type of the value; `None` if only the large collection itself knows it.
    #[inline]
    pub(crate) fn type_of(self) -> Option<Type> {
        Some(match self {
            Self::Bytes
            | Self::Edited
            | Self::Int2
            | Self::Int3
            | Self::Int4
            | Self::Int8
            | Self::Ascii
            | Self::Hex => Type::String,
            Self::ListPacked => Type::List,
            Self::SetIntegers | Self::SetPacked => Type::Set,
            Self::HashPacked | Self::HashPackedTtl | Self::HashBoxedTtl => Type::Hash,
            Self::SortedSetPacked => Type::SortedSet,
            Self::Boxed => return None,
        })
    }

    /// True for everything but strings.
    #[inline]
    pub(crate) fn is_collection(self) -> bool {
        self.type_of() != Some(Type::String)
    }

    /// True for a large collection; the entry stores its address.
    #[inline]
    pub(crate) fn is_boxed(self) -> bool {
        matches!(self, Self::Boxed | Self::HashBoxedTtl)
    }

    /// True for a string.
    #[inline]
    pub(crate) fn is_text(self) -> bool {
        !self.is_boxed() && !self.is_packed_collection()
    }

    /// True for a small collection, stored in the value part of the entry.
    pub(crate) fn is_packed_collection(self) -> bool {
        match self {
            Self::ListPacked
            | Self::SetIntegers
            | Self::SetPacked
            | Self::HashPacked
            | Self::HashPackedTtl
            | Self::SortedSetPacked => true,
            Self::Bytes
            | Self::Edited
            | Self::Int2
            | Self::Int3
            | Self::Int4
            | Self::Int8
            | Self::Ascii
            | Self::Hex
            | Self::Boxed
            | Self::HashBoxedTtl => false,
        }
    }

    /// The stored size of an integer or address; `None` if the header stores the length.
    pub(crate) fn fixed_bytes(self) -> Option<usize> {
        match self {
            Self::Bytes
            | Self::Edited
            | Self::Ascii
            | Self::Hex
            | Self::ListPacked
            | Self::SetIntegers
            | Self::SetPacked
            | Self::HashPacked
            | Self::HashPackedTtl
            | Self::SortedSetPacked => None,
            Self::Int2 => Some(2),
            Self::Int3 => Some(3),
            Self::Int4 => Some(4),
            Self::Int8 | Self::Boxed | Self::HashBoxedTtl => Some(8),
        }
    }
}

/// The decoded header: enough to find every part of the block.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) kind: Kind,
    /// log2 of the size of each length field in bytes.
    pub(crate) width: u8,
    pub(crate) has_deadline: bool,
    /// The byte of attributes without the width; zero if it is absent.
    pub(crate) attributes: u8,
    pub(crate) key_len: usize,
    /// The length of the string or packed collection, or the stored size of the integer or address.
    pub(crate) value_len: usize,
}

impl Shape {
    /// The most compact shape.
    #[inline]
    pub(crate) fn new(kind: Kind, has_deadline: bool, key_len: usize, value_len: usize) -> Self {
        let width = match key_len.max(value_len) {
            0..=0xff => 0,
            0x100..=0xffff => 1,
            _ => 2,
        };
        Self {
            kind,
            width,
            has_deadline,
            attributes: 0,
            key_len,
            value_len,
        }
    }

    /// The most compact shape for a value with these bits of attributes. Text is packed only if that takes a smaller block from the
    /// allocator.
    #[inline]
    pub(crate) fn of_value(
        key_len: usize,
        value: NewValue<'_>,
        has_deadline: bool,
        attributes: u8,
    ) -> Self {
        let kind = match value {
            NewValue::Bytes(_) => Kind::Bytes,
            NewValue::Integer(number) => Kind::of_integer(number),
        };
        let plain = Self {
            attributes,
            ..Self::new(kind, has_deadline, key_len, value.len())
        };
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

    /// The shape after the value was edited and has `len` bytes. Its length fields are never narrower than before.
    pub(crate) fn edited(self, len: usize) -> Self {
        let compact = Self::new(Kind::Edited, self.has_deadline, self.key_len, len);
        Self {
            width: compact.width.max(self.width),
            ..compact
        }
    }

    /// True if `len` fits in a length field of this shape.
    pub(crate) fn length_fits(self, len: usize) -> bool {
        len < 1 << (8 << self.width)
    }

    #[inline]
    fn lengths_at(self) -> usize {
        LENGTHS_AT + usize::from(self.attributes != 0)
    }

    #[inline]
    pub(crate) fn deadline_at(self) -> usize {
        let lengths = if self.kind.fixed_bytes().is_some() {
            1
        } else {
            2
        };
        self.lengths_at() + (lengths << self.width)
    }

    /// Where the client flags are, if present, and the CAS number after them.
    #[inline]
    pub(crate) fn attributes_at(self) -> usize {
        self.deadline_at() + if self.has_deadline { DEADLINE_BYTES } else { 0 }
    }

    #[inline]
    pub(crate) fn key_at(self) -> usize {
        // Each of the two bits has the value of its number of bytes.
        self.attributes_at() + usize::from(self.attributes & (FLAGS_BIT | CAS_BIT))
    }

    #[inline]
    pub(crate) fn value_at(self) -> usize {
        self.key_at() + self.key_len
    }

    /// The number of bytes that the value occupies in the block.
    #[inline]
    pub(crate) fn value_bytes(self) -> usize {
        match self.kind.packing() {
            None => self.value_len,
            Some(packing) => packing.packed_bytes(self.value_len),
        }
    }

    #[inline]
    pub(crate) fn total(self) -> usize {
        self.value_at() + self.value_bytes()
    }
}

/// A block of memory that holds an entry. Only this type touches the raw bytes.
///
/// Invariant: `0` points to a live block from `heap::allocate` whose first bytes are a header, and
/// the block is at least as long as the header's shape says, with all those bytes initialised.
#[derive(Clone, Copy)]
pub(crate) struct Block(pub(crate) NonNull<u8>);

impl Block {
    /// Allocates a block and writes its header. The caller must write the deadline, if any, the key and the value.
    pub(crate) fn new(shape: Shape, room: usize) -> Self {
        let block = heap::allocate(room.max(shape.total()));
        // SAFETY: at least `shape.total()` bytes were just allocated.
        unsafe { block.write_bytes(0, shape.key_at()) };
        let block = Self(block);
        block.write_shape(shape);
        block
    }

    #[inline]
    pub(crate) fn read<const N: usize>(self, at: usize) -> [u8; N] {
        // SAFETY: callers stay within the header or, for values, within the shape.
        let from = unsafe { self.0.add(at) };
        // SAFETY: initialised bytes of the block; a byte array has no alignment.
        unsafe { from.cast::<[u8; N]>().read() }
    }

    #[inline]
    pub(crate) fn write<const N: usize>(self, at: usize, bytes: [u8; N]) {
        // SAFETY: callers stay within the block.
        let to = unsafe { self.0.add(at) };
        // SAFETY: as above; nothing else references these bytes while the entry is written.
        unsafe { to.cast::<[u8; N]>().write(bytes) }
    }

    #[inline]
    pub(crate) fn read_length(self, at: usize, width: u8) -> usize {
        match width {
            0 => usize::from(self.read::<1>(at)[0]),
            1 => usize::from(u16::from_le_bytes(self.read(at))),
            _ => u32::from_le_bytes(self.read(at)) as usize,
        }
    }

    pub(crate) fn write_length(self, at: usize, width: u8, len: usize) {
        match width {
            0 => self.write(at, (len as u8).to_le_bytes()),
            1 => self.write(at, (len as u16).to_le_bytes()),
            _ => self.write(at, (len as u32).to_le_bytes()),
        }
    }

    #[inline]
    pub(crate) fn flags(self) -> u8 {
        self.read::<1>(0)[0]
    }

    #[inline]
    pub(crate) fn shape(self) -> Shape {
        let flags = self.flags();
        let kind = Kind::of_flags(flags);
        let mut width = (flags >> WIDTH_SHIFT) & 3;
        let (mut attributes, mut at) = (0, LENGTHS_AT);
        if width == WITH_ATTRIBUTES {
            let [byte] = self.read(LENGTHS_AT);
            (width, attributes) = (byte & WIDTH_BITS, byte & !WIDTH_BITS);
            at += 1;
        }
        let key_len = self.read_length(at, width);
        let value_len = match kind.fixed_bytes() {
            Some(bytes) => bytes,
            None => self.read_length(at + (1 << width), width),
        };
        Shape {
            kind,
            width,
            has_deadline: flags & DEADLINE_FLAG != 0,
            attributes,
            key_len,
            value_len,
        }
    }

    /// Where the key is, and its length. Called for every look-up, so it decodes no more of the header than it must.
    #[inline]
    pub(crate) fn key_span(self) -> (usize, usize) {
        let flags = self.flags();
        if (flags >> WIDTH_SHIFT) & 3 != 0 {
            let shape = self.shape();
            return (shape.key_at(), shape.key_len);
        }
        let has_value_len = Kind::of_flags(flags).fixed_bytes().is_none();
        let at = LENGTHS_AT + 1 + usize::from(has_value_len);
        let deadline_bytes = match flags & DEADLINE_FLAG {
            0 => 0,
            _ => DEADLINE_BYTES,
        };
        (at + deadline_bytes, self.read_length(LENGTHS_AT, 0))
    }

    /// Writes the shape's flags and lengths; keeps the other flags and the access bits.
    pub(crate) fn write_shape(self, shape: Shape) {
        let kept = self.flags() & !(KIND_MASK | 3 << WIDTH_SHIFT | DEADLINE_FLAG);
        let deadline = if shape.has_deadline { DEADLINE_FLAG } else { 0 };
        let mut width = shape.width;
        if shape.attributes != 0 {
            self.write(LENGTHS_AT, [shape.attributes | width]);
            width = WITH_ATTRIBUTES;
        }
        self.write(
            0,
            [kept | shape.kind as u8 | width << WIDTH_SHIFT | deadline],
        );
        let at = shape.lengths_at();
        self.write_length(at, shape.width, shape.key_len);
        if shape.kind.fixed_bytes().is_none() {
            self.write_length(at + (1 << shape.width), shape.width, shape.value_len);
        }
    }

    /// The bytes of a part of the block.
    ///
    /// # Safety
    /// The part lies within the shape. For `'a`, the block is live and nothing writes to the part.
    #[inline]
    pub(crate) unsafe fn part<'a>(self, at: usize, len: usize) -> &'a [u8] {
        // SAFETY: within the block.
        let from = unsafe { self.0.add(at) };
        // SAFETY: initialised, and as the caller promises.
        unsafe { std::slice::from_raw_parts(from.as_ptr(), len) }
    }

    /// Like [`Block::part`], but mutable.
    ///
    /// # Safety
    /// The part is initialised, lies within the block, and nothing else uses it for `'a`.
    #[inline]
    pub(crate) unsafe fn part_mut<'a>(self, at: usize, len: usize) -> &'a mut [u8] {
        // SAFETY: within the block.
        let from = unsafe { self.0.add(at) };
        // SAFETY: as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(from.as_ptr(), len) }
    }

    /// Copies `bytes` into the block.
    #[inline]
    pub(crate) fn fill(self, at: usize, bytes: &[u8]) {
        debug_assert!(at + bytes.len() <= self.room());
        // SAFETY: callers checked that the block is long enough.
        let to = unsafe { self.0.add(at) };
        // SAFETY: the source is a live slice; the target is in the block. The source may lie in the same block, since
        // `copy` allows overlap.
        unsafe { to.as_ptr().copy_from(bytes.as_ptr(), bytes.len()) }
    }

    /// Moves bytes within the block; source and target may overlap.
    pub(crate) fn shift(self, from: usize, to: usize, len: usize) {
        debug_assert!(from.max(to) + len <= self.room());
        // SAFETY: callers checked that the block is long enough.
        let source = unsafe { self.0.add(from) };
        // SAFETY: as above.
        let target = unsafe { self.0.add(to) };
        // SAFETY: both are in the block, and `copy` allows overlap.
        unsafe { target.as_ptr().copy_from(source.as_ptr(), len) }
    }

    pub(crate) fn zero(self, at: usize, len: usize) {
        debug_assert!(at + len <= self.room());
        // SAFETY: callers checked that the block is long enough.
        let to = unsafe { self.0.add(at) };
        // SAFETY: as above.
        unsafe { to.write_bytes(0, len) }
    }

    /// Writes the address of a large collection.
    pub(crate) fn write_address(self, shape: Shape, address: *const Large) {
        self.write(shape.value_at(), (address as usize).to_le_bytes());
    }

    #[inline]
    pub(crate) fn room(self) -> usize {
        // SAFETY: the block is live.
        unsafe { heap::usable_bytes(self.0) }
    }

    /// True if the block is long enough for an entry of this shape, and not much too long.
    #[inline]
    pub(crate) fn suits(self, shape: Shape) -> bool {
        let (total, room) = (shape.total(), self.room());
        total <= room && room <= total + total / 4 + 16
    }

    #[inline]
    pub(crate) fn write_value(self, shape: Shape, value: NewValue<'_>) {
        match value {
            NewValue::Bytes(bytes) => match shape.kind.packing() {
                None => self.fill(shape.value_at(), bytes),
                Some(packing) => {
                    let (at, len) = (shape.value_at(), shape.value_bytes());
                    self.fill(at, &bytes[..len]);
                    // SAFETY: the value part was just filled, and the writer of an entry has exclusive access to it.
                    packing.pack(bytes, unsafe { self.part_mut(at, len) });
                }
            },
            NewValue::Integer(number) => {
                self.fill(shape.value_at(), &number.to_le_bytes()[..shape.value_len]);
            }
        }
    }
}
