//! A borrowed entry. `block.rs` documents the byte layout.

use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;

use crate::block::{ACCESS_AT, Block, CAN_EXPIRE, DEADLINE_FLAG, KIND_MASK, Kind, Shape};
use crate::large::{Large, SharedLarge};
use crate::packing::{PackedText, Packing};
use crate::value::{Text, Value};
use crate::{Entry, HashRef, ListRef, SetRef, SortedSetRef, Type};

/// A borrowed entry. Only the access bits can change through it.
#[derive(Clone, Copy)]
pub struct EntryRef<'a> {
    pub(crate) block: Block,
    lifetime: PhantomData<&'a Entry>,
}

impl<'a> EntryRef<'a> {
    #[inline]
    pub(crate) fn address(self) -> *const u8 {
        self.block.0.as_ptr()
    }

    /// Borrows the entry whose block this is.
    #[inline]
    pub(crate) fn of(block: &'a Block) -> Self {
        Self {
            block: *block,
            lifetime: PhantomData,
        }
    }

    /// Borrows the entry behind a raw pointer.
    ///
    /// # Safety
    /// `raw` came from [`Entry::into_raw`], and the entry stays alive and unchanged for `'a`.
    #[inline]
    pub(crate) unsafe fn from_raw(raw: NonNull<u8>) -> Self {
        Self {
            block: Block(raw),
            lifetime: PhantomData,
        }
    }

    #[inline]
    pub(crate) fn block(self) -> Block {
        self.block
    }

    /// The key.
    #[inline]
    pub fn key(self) -> &'a [u8] {
        let (at, len) = self.block.key_span();
        // SAFETY: the key part of the shape, borrowed for `'a`.
        unsafe { self.block.part(at, len) }
    }

    /// The entry's value.
    #[inline]
    pub fn value(self) -> Value<'a> {
        if Kind::of_flags(self.block.flags()).is_collection() {
            return self.collection();
        }
        Value::Text(self.text().expect("a value is a collection or a string"))
    }

    /// The string that the entry holds; `None` if it holds a collection.
    #[inline]
    pub fn text(self) -> Option<Text<'a>> {
        let shape = self.block.shape();
        let at = shape.value_at();
        let block = self.block;
        Some(Text::Integer(match shape.kind {
            Kind::Bytes | Kind::Edited => {
                return Some(Text::Bytes {
                    // SAFETY: the value part of the shape, borrowed for `'a`.
                    bytes: unsafe { block.part(at, shape.value_len) },
                    edited: shape.kind == Kind::Edited,
                });
            }
            Kind::Ascii => return Some(self.packed_text(shape, Packing::Ascii)),
            Kind::Hex => return Some(self.packed_text(shape, Packing::Hex)),
            Kind::Int2 => i64::from(i16::from_le_bytes(block.read(at))),
            Kind::Int3 => {
                let [low, middle, high] = block.read(at);
                i64::from(i32::from_le_bytes([0, low, middle, high]) >> 8)
            }
            Kind::Int4 => i64::from(i32::from_le_bytes(block.read(at))),
            Kind::Int8 => i64::from_le_bytes(block.read(at)),
            Kind::ListPacked
            | Kind::SetIntegers
            | Kind::SetPacked
            | Kind::HashPacked
            | Kind::HashPackedTtl
            | Kind::SortedSetPacked
            | Kind::Boxed
            | Kind::HashBoxedTtl => return None,
        }))
    }

    #[inline]
    fn packed_text(self, shape: Shape, packing: Packing) -> Text<'a> {
        // SAFETY: the value part of the shape, borrowed for `'a`.
        let packed = unsafe { self.block.part(shape.value_at(), shape.value_bytes()) };
        Text::Packed(PackedText::new(packing, packed, shape.value_len))
    }

    fn collection(self) -> Value<'a> {
        let packed = self.stored();
        match self.kind() {
            Kind::ListPacked => Value::List(ListRef::Packed(packed)),
            Kind::SetIntegers => Value::Set(SetRef::Integers(packed)),
            Kind::SetPacked => Value::Set(SetRef::Packed(packed)),
            Kind::HashPacked => Value::Hash(HashRef::Packed(packed)),
            Kind::HashPackedTtl => Value::Hash(HashRef::PackedTtl(packed)),
            Kind::SortedSetPacked => Value::SortedSet(SortedSetRef::Packed(packed)),
            Kind::Boxed | Kind::HashBoxedTtl => self.large().value(),
            Kind::Bytes
            | Kind::Edited
            | Kind::Int2
            | Kind::Int3
            | Kind::Int4
            | Kind::Int8
            | Kind::Ascii
            | Kind::Hex => unreachable!("a string is not a collection"),
        }
    }

    /// The type of the value.
    #[inline]
    pub fn type_of(self) -> Type {
        let kind = Kind::of_flags(self.block.flags());
        kind.type_of().unwrap_or_else(|| self.large().type_of())
    }

    /// True for a collection without elements; its key must be removed.
    pub fn is_empty_collection(self) -> bool {
        let shape = self.block.shape();
        if shape.kind.is_boxed() {
            self.large().is_empty()
        } else {
            shape.kind.is_packed_collection() && shape.value_len == 0
        }
    }

    pub(crate) fn large_address(self) -> *const Large {
        let shape = self.block.shape();
        assert!(shape.kind.is_boxed(), "{:?}", shape.kind);
        usize::from_le_bytes(self.block.read(shape.value_at())) as *const Large
    }

    /// How the value is stored.
    #[inline]
    pub(crate) fn kind(self) -> Kind {
        Kind::of_flags(self.block.flags())
    }

    /// The value's bytes as stored in the entry; for a large collection, its address.
    #[inline]
    pub(crate) fn stored(self) -> &'a [u8] {
        let shape = self.block.shape();
        // SAFETY: the value part of the shape, borrowed for `'a`.
        unsafe { self.block.part(shape.value_at(), shape.value_bytes()) }
    }

    /// The entry's large collection.
    ///
    /// # Panics
    /// If the value is not a large collection.
    #[inline]
    pub(crate) fn large(self) -> &'a Large {
        // SAFETY: the entry, which is borrowed for `'a`, keeps the collection alive.
        unsafe { &*self.large_address() }
    }

    /// A snapshot of the entry's large collection: later changes to the entry do not affect it. `None` if the entry does not
    /// hold a large collection.
    pub fn share_large(self) -> Option<SharedLarge> {
        let is_large = self.kind().is_boxed();
        // SAFETY: the address came from `into_raw`, and the entry holds that reference.
        is_large.then(|| unsafe { SharedLarge::clone_raw(self.large_address()) })
    }

    /// True if the entry has a deadline.
    #[inline]
    pub fn has_deadline(self) -> bool {
        self.block.flags() & DEADLINE_FLAG != 0
    }

    /// When the entry expires, in milliseconds since the epoch.
    #[inline]
    pub fn deadline_ms(self) -> Option<i64> {
        self.has_deadline()
            .then(|| i64::from_le_bytes(self.block.read(self.block.shape().deadline_at())))
    }

    /// False if the entry cannot expire and none of its fields can, which is true of most entries. Reads only the flags.
    #[inline]
    pub fn can_expire(self) -> bool {
        self.block.flags() & (DEADLINE_FLAG | KIND_MASK) >= CAN_EXPIRE
    }

    /// A copy under another key (or the same one), with value, attributes, deadline and access bits.
    pub fn to_entry(self, key: &[u8]) -> Entry {
        let block = self.copy_block(key);
        let shape = block.shape();
        if shape.kind.is_boxed() {
            // SAFETY: the address came from `into_raw`, and the entry holds that reference.
            let shared = unsafe { SharedLarge::clone_raw(self.large_address()) };
            block.write_address(shape, shared.into_raw());
        }
        Entry(block)
    }

    /// Copies the block, with another key. For a large collection this copies the address and does not raise its reference
    /// count.
    pub(crate) fn copy_block(self, key: &[u8]) -> Block {
        let old = self.block.shape();
        let shape = Shape {
            attributes: old.attributes,
            ..Shape::new(old.kind, old.has_deadline, key.len(), old.value_len)
        };
        let block = Block::new(shape, 0);
        if old.attributes != 0 {
            block.write_attributes(shape, self.block.read_attributes(old));
        }
        block.fill(shape.key_at(), key);
        // SAFETY: the value part of the old block, which outlives the copy.
        let value = unsafe { self.block.part(old.value_at(), old.value_bytes()) };
        block.fill(shape.value_at(), value);
        block.write(ACCESS_AT, self.block.read::<3>(ACCESS_AT));
        if let Some(deadline) = self.deadline_ms() {
            block.write(shape.deadline_at(), deadline.to_le_bytes());
        }
        block
    }

    /// True if [`Entry::edit`] with this length would not move the string to another block.
    pub fn edits_in_place(self, len: usize) -> bool {
        let old = self.block.shape();
        let is_plain = matches!(old.kind, Kind::Bytes | Kind::Edited);
        let new = old.edited(len);
        is_plain
            && new.width == old.width
            && old.attributes == 0
            && new.total() <= self.block.room()
    }

    /// The bytes that the allocator really uses for the entry and everything it owns.
    #[inline]
    pub fn allocated_bytes(self) -> usize {
        let large_bytes = if self.kind().is_boxed() {
            self.large().memory_bytes()
        } else {
            0
        };
        self.block.room() + large_bytes
    }

    /// The addresses of the entry's block, which has no nodes of a large collection.
    pub fn block_addresses(self) -> Range<usize> {
        let start = self.address().addr();
        start..start + self.block.room()
    }
}
