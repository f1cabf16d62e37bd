//! What an entry notes about itself for eviction and for snapshots. It can be written through a shared reference, under the lock that
//! protects the entry, and does not count as a change.

use crate::EntryRef;
use crate::block::{ACCESS_AT, SAVED_FLAG};

impl EntryRef<'_> {
    /// The 24 access bits.
    #[inline]
    pub fn access(self) -> u32 {
        let [low, middle, high] = self.block.read(ACCESS_AT);
        u32::from_le_bytes([low, middle, high, 0])
    }

    /// Sets the access bits (the low 24 of `access`). Writes only if they differ, so that a key read often within one tick
    /// keeps its cache line clean.
    #[inline]
    pub fn set_access(self, access: u32) {
        let [low, middle, high, _] = access.to_le_bytes();
        if self.block.read(ACCESS_AT) != [low, middle, high] {
            self.block.write(ACCESS_AT, [low, middle, high]);
        }
    }

    /// True if the running snapshot has saved the entry already.
    #[inline]
    pub fn is_saved(self) -> bool {
        self.block.flags() & SAVED_FLAG != 0
    }

    /// Notes whether the running snapshot has saved the entry. New entries and copies begin as not saved; a change of the entry
    /// may lose the note.
    pub fn set_saved(self, saved: bool) {
        let flags = self.block.flags() & !SAVED_FLAG;
        let saved = if saved { SAVED_FLAG } else { 0 };
        self.block.write(0, [flags | saved]);
    }
}
