//! A large set.

/// A large set.
#[derive(Clone, Debug, Default)]
pub struct Members(());

impl Members {
    /// How many.
    pub fn len(&self) -> usize {
        0
    }

    /// True if none.
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Heap bytes.
    pub fn memory_bytes(&self) -> usize {
        0
    }
}
