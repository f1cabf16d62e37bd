//! A large sorted set.

/// A large sorted set.
#[derive(Clone, Debug, Default)]
pub struct Ranking(());

impl Ranking {
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
