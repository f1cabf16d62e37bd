//! A slot: one item and 16 bits of its hash in eight bytes. A bucket: eight slots, one cache line.
//!
//! ```text
//!  63          48 47                            3  2      1       0
//! | tag (16 bits) | pointer, aligned to 8 bytes    | 0 | overflow | mark |
//! ```
//!
//! Zero is the empty slot (no item is at the null pointer). The occupied slots of a bucket come first, so a bucket is
//! full exactly when its last slot is occupied.
//!
//! The overflow bit belongs to the bucket and is used only in its last slot. It means that items went to a later
//! bucket because this one was full. It may stay set after those items are gone; a lookup then reads another bucket
//! for nothing.
//!
//! A non-empty slot owns its item. It is not `Copy`: it moves, and only [`Slot::into_item`] ends the ownership, so
//! the code that moves slots around is safe code. A slot that is dropped leaks its item, which is safe, too.

use std::{
    marker::PhantomData,
    mem::{self, ManuallyDrop},
    ptr::{self, NonNull},
};

use crate::{Item, prefetch::prefetch};

/// Slots in a bucket.
pub(crate) const SLOTS: usize = 8;

/// A cache line. Where lines are longer, a second hint to the same one costs nothing.
const LINE_BYTES: usize = 64;
const TAG_SHIFT: u32 = 48;
const MARK: u64 = 1;
const OVERFLOW: u64 = 2;
const POINTER: u64 = (1 << TAG_SHIFT) - 8;

/// One item and its tag, or nothing.
#[repr(transparent)]
pub(crate) struct Slot<T>(u64, PhantomData<T>);

impl<T: Item> Slot<T> {
    pub(crate) const EMPTY: Self = Self(0, PhantomData);

    /// Wraps an item with a tag; the item itself determines the mark.
    pub(crate) fn new(item: T, tag: u16) -> Self {
        let raw = item.into_raw();
        let address = raw.as_ptr().expose_provenance() as u64;
        debug_assert_eq!(
            address & !POINTER,
            0,
            "an item's address is below 2^48 and a multiple of 8"
        );
        // SAFETY: `into_raw` has just returned `raw`, and ownership cannot be taken back before the slot exists.
        let marked = unsafe { T::marked(raw) };
        Self(
            u64::from(tag) << TAG_SHIFT | address | u64::from(marked),
            PhantomData,
        )
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0 == 0
    }

    pub(crate) fn tag(&self) -> u16 {
        (self.0 >> TAG_SHIFT) as u16
    }

    pub(crate) fn is_marked(&self) -> bool {
        self.0 & MARK != 0
    }

    /// The same item with another tag, for another bucket. The slot must not be empty.
    pub(crate) fn with_tag(self, tag: u16) -> Self {
        debug_assert!(!self.is_empty());
        Self(
            self.0 & (POINTER | MARK) | u64::from(tag) << TAG_SHIFT,
            PhantomData,
        )
    }

    fn raw(&self) -> Option<NonNull<u8>> {
        NonNull::new(ptr::with_exposed_provenance_mut(
            (self.0 & POINTER) as usize,
        ))
    }

    /// The item, if there is one.
    pub(crate) fn reference(&self) -> Option<T::Ref<'_>> {
        let raw = self.raw()?;
        // SAFETY: a non-empty slot owns the item that `into_raw` gave the pointer for, and taking it out needs the
        // slot by value or `&mut`, which the borrow for the reference's lifetime excludes.
        Some(unsafe { T::reference(raw) })
    }

    /// Where the item is, if there is one.
    pub(crate) fn address(&self) -> Option<usize> {
        (!self.is_empty()).then_some((self.0 & POINTER) as usize)
    }

    /// Whether there is an item and it has this key.
    #[inline]
    pub(crate) fn has_key(&self, key: &[u8]) -> bool {
        let Some(raw) = self.raw() else { return false };
        // SAFETY: as in `reference`; the key is used only while `self` is borrowed.
        let own = unsafe { T::key(raw) };
        own == key
    }

    /// The hash of the item, or `None` for an empty slot.
    pub(crate) fn hash(&self) -> Option<u64> {
        let raw = self.raw()?;
        // SAFETY: as in `reference`.
        Some(unsafe { T::hash(raw) })
    }

    /// Whether the item itself says that it is marked; the slot's mark must agree. `None` for an empty slot.
    pub(crate) fn marked(&self) -> Option<bool> {
        let raw = self.raw()?;
        // SAFETY: as in `reference`.
        Some(unsafe { T::marked(raw) })
    }

    /// Starts loading the item's first two cache lines: most items with a short key and value lie in two.
    pub(crate) fn prefetch(&self) {
        let address = (self.0 & POINTER) as usize;
        prefetch(ptr::without_provenance(address));
        prefetch(ptr::without_provenance(address.wrapping_add(LINE_BYTES)));
    }

    /// Takes the item out of the slot.
    pub(crate) fn into_item(self) -> Option<T> {
        let raw = self.raw()?;
        // SAFETY: a non-empty slot owns the item, and the slot is consumed here.
        Some(unsafe { T::from_raw(raw) })
    }

    /// Takes the slot's content and leaves the slot empty.
    pub(crate) fn take(&mut self) -> Self {
        mem::replace(self, Self::EMPTY)
    }

    /// Lets `change` modify the item, which may move it in memory, and stores its new address and mark, even if
    /// `change` panics. `None` for an empty slot.
    pub(crate) fn update<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        /// Puts the item back when dropped.
        struct PutBack<'a, T: Item> {
            slot: &'a mut Slot<T>,
            tag: u16,
            overflow: u64,
            item: ManuallyDrop<T>,
        }
        impl<T: Item> Drop for PutBack<'_, T> {
            fn drop(&mut self) {
                // SAFETY: the item is taken once, here, at the end of the guard's life.
                let item = unsafe { ManuallyDrop::take(&mut self.item) };
                *self.slot = Slot::new(item, self.tag);
                self.slot.0 |= self.overflow;
            }
        }
        let tag = self.tag();
        let overflow = self.0 & OVERFLOW;
        let item = ManuallyDrop::new(self.take().into_item()?);
        let mut guard = PutBack {
            slot: self,
            tag,
            overflow,
            item,
        };
        Some(change(&mut guard.item))
    }
}

/// Indices of slots in a bucket: bit `2 * index + 1` for each.
pub(crate) struct Matches(u32);

impl Iterator for Matches {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let index = (self.0.trailing_zeros() / 2) as usize % SLOTS;
        self.0 &= self.0 - 1;
        Some(index)
    }
}

/// One cache line of slots, the occupied ones first.
#[repr(C, align(64))]
pub(crate) struct Bucket<T> {
    slots: [Slot<T>; SLOTS],
}

impl<T: Item> Bucket<T> {
    pub(crate) const EMPTY: Self = Self {
        slots: [Slot::EMPTY; SLOTS],
    };

    pub(crate) fn slots(&self) -> &[Slot<T>; SLOTS] {
        &self.slots
    }

    pub(crate) fn slots_mut(&mut self) -> &mut [Slot<T>; SLOTS] {
        &mut self.slots
    }

    pub(crate) fn is_full(&self) -> bool {
        !self.slots[SLOTS - 1].is_empty()
    }

    /// Whether items have passed over this bucket, so that a lookup must continue with the next one.
    #[inline]
    pub(crate) fn has_overflowed(&self) -> bool {
        self.slots[SLOTS - 1].0 & OVERFLOW != 0
    }

    /// Records that an item passes over this bucket, which must be full.
    pub(crate) fn note_overflow(&mut self) {
        debug_assert!(self.is_full());
        self.slots[SLOTS - 1].0 |= OVERFLOW;
    }

    /// The number of occupied slots.
    pub(crate) fn count(&self) -> usize {
        self.slots
            .iter()
            .map(|slot| usize::from(!slot.is_empty()))
            .sum()
    }

    /// The indices of the slots whose tag is `tag`; for tag 0 this includes the empty slots.
    #[inline]
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn matches(&self, tag: u16) -> Matches {
        // SAFETY: SSE2 is part of every x86-64.
        unsafe { self.matches_sse2(tag) }
    }

    #[inline]
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "sse2")]
    fn matches_sse2(&self, tag: u16) -> Matches {
        use std::arch::x86_64::{
            _mm_cmpeq_epi16, _mm_movemask_epi8, _mm_packs_epi16, _mm_packs_epi32, _mm_set_epi64x,
            _mm_set1_epi16, _mm_srai_epi32,
        };
        // Each 32-bit half of a slot is shifted down to its upper 16 bits, which is the tag in the upper half; so
        // packing to 16 bits is exact.
        let pair = |index: usize| {
            let (low, high) = (self.slots[index].0, self.slots[index + 1].0);
            _mm_srai_epi32::<16>(_mm_set_epi64x(high as i64, low as i64))
        };
        let tags = _mm_set1_epi16(tag as i16);
        let first = _mm_cmpeq_epi16(_mm_packs_epi32(pair(0), pair(2)), tags);
        let second = _mm_cmpeq_epi16(_mm_packs_epi32(pair(4), pair(6)), tags);
        Matches(_mm_movemask_epi8(_mm_packs_epi16(first, second)) as u32 & 0xaaaa)
    }

    /// The indices of the slots whose tag is `tag`; for tag 0 this includes the empty slots.
    #[inline]
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) fn matches(&self, tag: u16) -> Matches {
        let bit =
            |(index, slot): (usize, &Slot<T>)| u32::from(slot.tag() == tag) << (2 * index + 1);
        Matches(self.slots.iter().enumerate().map(bit).sum())
    }

    /// Adds a slot and returns its index. The bucket must not be full.
    pub(crate) fn push(&mut self, slot: Slot<T>) -> usize {
        let index = self.count();
        self.slots[index] = slot;
        index
    }

    /// Removes the occupied slot at `index`; the last occupied slot takes its place.
    pub(crate) fn remove(&mut self, index: usize) -> Slot<T> {
        let last = self.count() - 1;
        self.slots[last].0 &= !OVERFLOW;
        self.slots.swap(index, last);
        self.slots[last].take()
    }
}
