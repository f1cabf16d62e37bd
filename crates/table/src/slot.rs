//! A slot: one item and 16 bits of its hash in eight bytes. A bucket: eight slots, one cache line.
//!
//! ```text
//!  63          48 47                            3  2  1    0
//! | tag (16 bits) | pointer, aligned to 8 bytes    | 0  0 | mark |
//! ```
//!
//! Zero is the empty slot (no item is at the null pointer). The occupied slots of a bucket come first, so a bucket is
//! full exactly when its last slot is occupied.
//!
//! A non-empty slot owns its item. It is not `Copy`: it moves, and only [`Slot::into_item`] ends the ownership, so
//! the code that shuffles slots around is safe code. A slot that is dropped leaks its item, which is safe too.

use std::{
    marker::PhantomData,
    mem::{self, ManuallyDrop},
    ptr::{self, NonNull},
};

use crate::{Item, prefetch::prefetch};

/// Slots in a bucket.
pub(crate) const SLOTS: usize = 8;

const TAG_SHIFT: u32 = 48;
const MARK: u64 = 1;
const POINTER: u64 = (1 << TAG_SHIFT) - 8;

/// One item and its tag, or nothing.
#[repr(transparent)]
pub(crate) struct Slot<T>(u64, PhantomData<T>);

impl<T: Item> Slot<T> {
    pub(crate) const EMPTY: Self = Self(0, PhantomData);

    /// Wraps an item under a tag; the mark is the item's own word.
    pub(crate) fn new(item: T, tag: u16) -> Self {
        let raw = item.into_raw();
        let address = raw.as_ptr().expose_provenance() as u64;
        debug_assert_eq!(
            address & !POINTER,
            0,
            "an item's address is below 2^48 and a multiple of 8"
        );
        // SAFETY: `raw` comes from `into_raw` just now, and nobody can take ownership back before the slot exists.
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

    /// The same item under another tag. The slot must not be empty.
    pub(crate) fn with_tag(self, tag: u16) -> Self {
        debug_assert!(!self.is_empty());
        Self(
            self.0 & !(0xffff << TAG_SHIFT) | u64::from(tag) << TAG_SHIFT,
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

    /// Whether there is an item and it has this key.
    #[inline]
    pub(crate) fn has_key(&self, key: &[u8]) -> bool {
        let Some(raw) = self.raw() else { return false };
        // SAFETY: as in `reference`; the key is used only while `self` is borrowed.
        let own = unsafe { T::key(raw) };
        own == key
    }

    /// The hash of the item, or nothing for an empty slot.
    pub(crate) fn hash(&self) -> Option<u64> {
        let raw = self.raw()?;
        // SAFETY: as in `reference`.
        Some(unsafe { T::hash(raw) })
    }

    /// Starts loading the item's first cache line.
    pub(crate) fn prefetch(&self) {
        prefetch(ptr::without_provenance((self.0 & POINTER) as usize));
    }

    /// Takes the item out of the slot.
    pub(crate) fn into_item(self) -> Option<T> {
        let raw = self.raw()?;
        // SAFETY: a non-empty slot owns the item, and the slot ends here.
        Some(unsafe { T::from_raw(raw) })
    }

    /// Leaves the slot empty.
    pub(crate) fn take(&mut self) -> Self {
        mem::replace(self, Self::EMPTY)
    }

    /// Lets `change` alter the item, even move it elsewhere in memory, and takes note of its new address and mark,
    /// also when `change` panics. Nothing for an empty slot.
    pub(crate) fn update<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        /// Puts the item back when it goes out of scope.
        struct PutBack<'a, T: Item> {
            slot: &'a mut Slot<T>,
            tag: u16,
            item: ManuallyDrop<T>,
        }
        impl<T: Item> Drop for PutBack<'_, T> {
            fn drop(&mut self) {
                // SAFETY: the item is taken once, here, at the end of the guard's life.
                let item = unsafe { ManuallyDrop::take(&mut self.item) };
                *self.slot = Slot::new(item, self.tag);
            }
        }
        let tag = self.tag();
        let item = ManuallyDrop::new(self.take().into_item()?);
        let mut guard = PutBack {
            slot: self,
            tag,
            item,
        };
        Some(change(&mut guard.item))
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

    /// The number of occupied slots.
    pub(crate) fn count(&self) -> usize {
        self.slots
            .iter()
            .map(|slot| usize::from(!slot.is_empty()))
            .sum()
    }

    /// A bit per slot whose tag is `tag`; for tag 0 the empty slots are among them.
    #[inline]
    pub(crate) fn matches(&self, tag: u16) -> u32 {
        let mut mask = 0;
        for (index, slot) in self.slots.iter().enumerate() {
            mask |= u32::from(slot.tag() == tag) << index;
        }
        mask
    }

    /// Adds a slot and returns its index. The bucket must not be full.
    pub(crate) fn push(&mut self, slot: Slot<T>) -> usize {
        let index = self.count();
        self.slots[index] = slot;
        index
    }

    /// Takes out the occupied slot at `index`; the last occupied slot fills its place.
    pub(crate) fn remove(&mut self, index: usize) -> Slot<T> {
        let last = self.count() - 1;
        self.slots.swap(index, last);
        self.slots[last].take()
    }
}
