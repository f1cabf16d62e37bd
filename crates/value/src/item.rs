//! Entries as items of a table.

use std::ptr::NonNull;

use damselfly_table::Item;

use crate::{Entry, EntryRef};

impl EntryRef<'_> {
    /// Hints that the entry is about to be read.
    #[inline]
    pub fn prefetch(self) {
        damselfly_table::prefetch(self.address());
    }
}

// SAFETY:
// - blocks come from `heap::allocate`: aligned to 8, in user space, which ends below 2^48;
// - an entry is the only owner of its block, may move between threads, and only changes through `&mut` or under the
//   lock that guards its table.
unsafe impl Item for Entry {
    type Ref<'a> = EntryRef<'a>;

    #[inline]
    fn into_raw(self) -> NonNull<u8> {
        self.into_raw()
    }

    #[inline]
    unsafe fn from_raw(raw: NonNull<u8>) -> Self {
        // SAFETY: as the caller promises.
        unsafe { Self::from_raw(raw) }
    }

    #[inline]
    unsafe fn reference<'a>(raw: NonNull<u8>) -> EntryRef<'a> {
        // SAFETY: as the caller promises.
        unsafe { EntryRef::from_raw(raw) }
    }

    #[inline]
    unsafe fn key<'a>(raw: NonNull<u8>) -> &'a [u8] {
        // SAFETY: as the caller promises.
        unsafe { EntryRef::from_raw(raw) }.key()
    }

    #[inline]
    unsafe fn hash(raw: NonNull<u8>) -> u64 {
        // SAFETY: as the caller promises.
        damselfly_base::hash(unsafe { EntryRef::from_raw(raw) }.key())
    }

    #[inline]
    unsafe fn marked(raw: NonNull<u8>) -> bool {
        // SAFETY: as the caller promises.
        let entry = unsafe { EntryRef::from_raw(raw) };
        entry.can_expire() && (entry.has_deadline() || entry.first_field_deadline_ms().is_some())
    }
}
