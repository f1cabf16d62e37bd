//! Whether an entry is as it was when it was copied.

use crate::EntryRef;

impl EntryRef<'_> {
    /// True if `other`, which was [copied](Self::to_entry) from the entry of the same key, still has its value and deadline.
    ///
    /// A large collection is compared by its address: while a copy refers to it, every change is made to another collection.
    pub fn is_unchanged(self, other: EntryRef<'_>) -> bool {
        self.kind() == other.kind()
            && self.deadline_ms() == other.deadline_ms()
            && self.stored() == other.stored()
    }
}
