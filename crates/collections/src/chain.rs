//! A large list.

/// A large list.
#[derive(Clone, Debug, Default)]
pub struct Chain(());

impl Chain {
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
