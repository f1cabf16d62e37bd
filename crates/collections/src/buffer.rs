//! Bytes that can grow in the middle: what a packed form is kept in.

/// A run of bytes that a packed form edits. The value part of an entry is one; so is a `Vec`.
pub trait Buffer {
    /// All bytes.
    fn bytes(&self) -> &[u8];

    /// All bytes, to change.
    fn bytes_mut(&mut self) -> &mut [u8];

    /// Replaces `removed` bytes at `at` by `inserted` bytes, and returns those to be filled; what is in them before is
    /// not specified. The rest moves.
    ///
    /// # Panics
    /// If fewer than `at + removed` bytes are there.
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
    fn a_splice_moves_the_rest() {
        let mut bytes = b"abcdef".to_vec();
        Buffer::splice(&mut bytes, 1, 2, 4).copy_from_slice(b"WXYZ");
        assert_eq!(bytes, b"aWXYZdef");
        Buffer::splice(&mut bytes, 1, 4, 1).copy_from_slice(b"-");
        assert_eq!(bytes, b"a-def");
        Buffer::splice(&mut bytes, 5, 0, 1).copy_from_slice(b"!");
        assert_eq!(bytes, b"a-def!");
    }
}
