//! A key with its hash, and the time of a command: the types that all layers of the engine share.

/// The time of a command: milliseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now(pub i64);

/// A key and its hash, computed once.
#[derive(Clone, Copy, Debug)]
pub struct Key<'a> {
    /// The key.
    pub bytes: &'a [u8],
    /// `damselfly_base::hash(bytes)`.
    pub hash: u64,
}

impl<'a> Key<'a> {
    /// Hashes the key.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            hash: damselfly_base::hash(bytes),
        }
    }
}
