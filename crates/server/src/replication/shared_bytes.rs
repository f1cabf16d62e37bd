//! Bytes in blocks that several readers read at their own pace, without copies.
//!
//! ```text
//!      start                                             end
//!  | block | block | block | block | the last block grows |      positions count bytes and never wrap
//!              ▲                ▲
//!              reader           reader
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

/// The largest block.
const BLOCK_BYTES: usize = 64 << 10;

#[derive(Debug)]
struct Block {
    start: u64,
    bytes: Arc<Vec<u8>>,
}

impl Block {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// A block, and a place in it.
pub type Place = (Arc<Vec<u8>>, usize);

/// Bytes from one position to another.
#[derive(Debug)]
pub struct SharedBytes {
    blocks: VecDeque<Block>,
    start: u64,
    end: u64,
}

impl SharedBytes {
    /// No bytes, at this position.
    pub fn new(position: u64) -> Self {
        Self {
            blocks: VecDeque::new(),
            start: position,
            end: position,
        }
    }

    /// The position of the first byte.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The position behind the last byte.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// How many bytes there are.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// The memory that they take, in bytes.
    pub fn memory(&self) -> usize {
        let bytes = self.blocks.iter().map(|block| block.bytes.capacity());
        bytes.sum::<usize>() + self.blocks.capacity() * size_of::<Block>()
    }

    /// Adds bytes at the end.
    pub fn append(&mut self, mut bytes: &[u8]) {
        if let Some(last) = self.blocks.back_mut()
            // Unless a reader uses it at this moment.
            && let Some(block) = Arc::get_mut(&mut last.bytes)
        {
            let room = BLOCK_BYTES.saturating_sub(block.len());
            let (first, rest) = bytes.split_at(room.min(bytes.len()));
            block.extend_from_slice(first);
            self.end += first.len() as u64;
            bytes = rest;
        }
        for piece in bytes.chunks(BLOCK_BYTES) {
            self.blocks.push_back(Block {
                start: self.end,
                bytes: Arc::new(piece.to_vec()),
            });
            self.end += piece.len() as u64;
        }
    }

    /// The block with the byte at `position`, and where that is in it; `None` at the end.
    ///
    /// # Panics
    /// If the byte is not there any more.
    pub fn read(&self, position: u64) -> Option<Place> {
        assert!(position >= self.start, "a reader keeps what it reads");
        let behind = self.blocks.partition_point(|block| block.end() <= position);
        let block = self.blocks.get(behind)?;
        Some((block.bytes.clone(), (position - block.start) as usize))
    }

    /// Drops blocks all of whose bytes are before `position`.
    pub fn drop_before(&mut self, position: u64) {
        while let Some(block) = self.blocks.front()
            && block.end() <= position
        {
            self.start = block.end();
            self.blocks.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(bytes: &SharedBytes, mut position: u64) -> Vec<u8> {
        let mut read = Vec::new();
        while let Some((block, at)) = bytes.read(position) {
            read.extend_from_slice(&block[at..]);
            position += (block.len() - at) as u64;
        }
        read
    }

    #[test]
    fn readers_see_all_bytes_from_their_position() {
        let text: Vec<u8> = (0..300_000_u32).map(|number| number as u8).collect();
        let mut bytes = SharedBytes::new(1000);
        let mut held = Vec::new();
        for (number, piece) in text.chunks(7001).enumerate() {
            bytes.append(piece);
            if number % 3 == 0 {
                // A block that is being read does not grow.
                held.extend(bytes.read(bytes.end() - 1));
            }
        }
        assert_eq!(all(&bytes, 1000), text);
        assert_eq!(all(&bytes, 200_123), text[199_123..]);
        assert!(bytes.read(bytes.end()).is_none());
        bytes.drop_before(150_000);
        assert!(bytes.start() > 1000 && bytes.start() <= 150_000);
        assert_eq!(all(&bytes, 150_000), text[149_000..]);
        bytes.drop_before(bytes.end());
        assert_eq!((bytes.len(), bytes.start()), (0, 301_000));
    }
}
