//! A large hash.

/// A large hash.
#[derive(Debug, Default)]
pub struct Fields(());

impl Fields {
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

    /// A copy.
    #[must_use]
    pub fn copy(&self) -> Self {
        Self(())
    }
}
