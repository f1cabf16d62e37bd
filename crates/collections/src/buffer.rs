//! Bytes that can grow in the middle: the storage of packed forms.

/// A run of bytes that a packed form edits: the value part of an entry, or a `Vec`.
pub trait Buffer {
    /// All bytes.
    fn bytes(&self) -> &[u8];

    /// All bytes, mutable.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// Replaces `removed` bytes at `at` with `inserted` bytes, and returns the latter, which the caller must fill; their
    /// initial contents are unspecified. The bytes after them move.
    ///
    /// # Panics
    /// If the buffer has fewer than `at + removed` bytes.
    fn splice(&mut self, at: usize, removed: usize, inserted: usize) -> &mut [u8];
}

impl Buffer for Vec<u8> {
    fn bytes(&self) -> &[u8] {
        self
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }

    fn splice(&mut self, at: usize, removed: usize, inserted: usize) -> &mut [u8] {
        let (len, tail) = (self.len(), at + removed);
        assert!(tail <= len, "{tail} of {len} bytes");
        if inserted > removed {
            self.reserve_exact(inserted - removed);
            self.resize(len + inserted - removed, 0);
        }
        self.copy_within(tail..len, at + inserted);
        self.truncate(len + inserted - removed);
        &mut self[at..at + inserted]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_splice_moves_the_bytes_after_it() {
        let mut bytes = b"abcdef".to_vec();
        Buffer::splice(&mut bytes, 1, 2, 4).copy_from_slice(b"WXYZ");
        assert_eq!(bytes, b"aWXYZdef");
        Buffer::splice(&mut bytes, 1, 4, 1).copy_from_slice(b"-");
        assert_eq!(bytes, b"a-def");
        Buffer::splice(&mut bytes, 5, 0, 1).copy_from_slice(b"!");
        assert_eq!(bytes, b"a-def!");
    }
}
