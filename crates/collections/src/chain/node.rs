//! A node of a chain: a listpack in its own block, either plain with room on both sides, or compressed.
//!
//! ```text
//! | room | count | elements | room |        plain: pushing and popping at either end moves only the count
//! | LZ4 of count and elements |             compressed
//! ```

use crate::listpack::{self, Listpack, Offset};
use crate::{Buffer, Side};
use damselfly_base::heap::block_bytes;
use std::borrow::Cow;

/// Shorter listpacks are not worth compressing.
const COMPRESSED_BYTES_MIN: usize = 48;

/// The largest size limit of a node; only a node with a single element may exceed it.
pub(super) const NODE_BYTES_MAX: usize = 64 << 10;

/// A node.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    block: Box<[u8]>,
    /// The range of the block that holds the bytes.
    start: u32,
    end: u32,
    /// The number of elements.
    count: u32,
    /// The uncompressed size if the bytes are compressed; otherwise zero.
    plain_bytes: u32,
}

impl Node {
    /// An empty node with room for a listpack of `bytes` bytes, which will be filled from the side `from`.
    pub(super) fn with_capacity(bytes: usize, from: Side) -> Self {
        let block = zeros(bytes);
        let start = match from {
            Side::Left => 0,
            Side::Right => block.len() as u32,
        };
        Self {
            block,
            start,
            end: start,
            ..Self::default()
        }
    }

    /// The number of elements.
    #[inline]
    pub(super) fn count(&self) -> usize {
        self.count as usize
    }

    /// The size of the listpack, uncompressed.
    #[inline]
    pub(super) fn byte_len(&self) -> usize {
        match self.plain_bytes {
            0 => (self.end - self.start) as usize,
            bytes => bytes as usize,
        }
    }

    /// The bytes of heap that the node uses.
    #[inline]
    pub(super) fn heap_bytes(&self) -> usize {
        self.block.len()
    }

    /// Whether the node is compressed.
    pub(super) fn is_compressed(&self) -> bool {
        self.plain_bytes > 0
    }

    /// The listpack's bytes, uncompressed.
    #[inline]
    pub(super) fn listpack_bytes(&self) -> Cow<'_, [u8]> {
        if !self.is_compressed() {
            return Cow::Borrowed(self.bytes());
        }
        let mut plain = vec![0; self.byte_len()];
        self.decompress_to(&mut plain);
        Cow::Owned(plain)
    }

    /// The listpack of a node that is not compressed.
    #[inline]
    pub(super) fn listpack(&self) -> Listpack<'_> {
        debug_assert!(!self.is_compressed());
        Listpack::new(self.bytes())
    }

    /// Edits the listpack, which is decompressed first if necessary.
    #[inline]
    pub(super) fn edit<R>(&mut self, edit: impl FnOnce(&mut Self) -> R) -> R {
        self.decompress();
        let result = edit(self);
        self.count = self.listpack().len() as u32;
        result
    }

    /// Moves the elements from `offset` to the end, `count` in number, to a new node.
    pub(super) fn split_off(&mut self, offset: Offset, count: usize) -> Self {
        let (listpack, mut right) = (self.listpack(), Self::default());
        let end = listpack.end();
        right.edit(|right| listpack::append_range(right, listpack, offset, end, count));
        self.edit(|left| listpack::remove_range(left, offset, end, count));
        right
    }

    /// Appends the elements of another node.
    pub(super) fn append(&mut self, other: &Self) {
        let bytes = other.listpack_bytes();
        let other = Listpack::new(&bytes);
        let all = (Offset::FIRST, other.end());
        self.edit(|node| listpack::append_range(node, other, all.0, all.1, other.len()));
    }

    /// Frees unused room.
    pub(super) fn trim(&mut self) {
        if block_bytes(self.bytes().len()) < self.block.len() {
            self.reallocate(self.bytes().len(), 0);
        }
    }

    /// Compresses the node if that saves heap; otherwise trims it.
    pub(super) fn compress(&mut self) {
        if self.is_compressed() {
            return;
        }
        let plain_bytes = self.bytes().len();
        if plain_bytes >= COMPRESSED_BYTES_MIN {
            let compressed = lz4_flex::block::compress(self.bytes());
            if block_bytes(compressed.len()) < block_bytes(plain_bytes) {
                let mut block = zeros(compressed.len());
                block[..compressed.len()].copy_from_slice(&compressed);
                (self.block, self.start) = (block, 0);
                self.end = compressed.len() as u32;
                self.plain_bytes = plain_bytes as u32;
                return;
            }
        }
        self.trim();
    }

    /// Makes the listpack plain again.
    pub(super) fn decompress(&mut self) {
        if !self.is_compressed() {
            return;
        }
        let plain_bytes = self.byte_len();
        let mut block = zeros(plain_bytes);
        self.decompress_to(&mut block[..plain_bytes]);
        (self.block, self.start, self.end) = (block, 0, plain_bytes as u32);
        self.plain_bytes = 0;
    }

    fn decompress_to(&self, plain: &mut [u8]) {
        let len = lz4_flex::block::decompress_into(self.bytes(), plain);
        assert_eq!(
            len.ok(),
            Some(plain.len()),
            "the bytes came from `compress`"
        );
    }

    /// Moves the bytes to a new block of at least `capacity` bytes, `front` bytes after its start.
    fn reallocate(&mut self, capacity: usize, front: usize) {
        let bytes = self.bytes();
        let mut block = zeros(capacity);
        block[front..front + bytes.len()].copy_from_slice(bytes);
        self.end = (front + bytes.len()) as u32;
        (self.block, self.start) = (block, front as u32);
    }

    /// Makes room for `extra` bytes on the given side of the bytes.
    fn make_room(&mut self, side: Side, extra: usize) {
        let len = self.bytes().len();
        let needed = len + extra;
        let front = |capacity: usize| match side {
            Side::Left => capacity - len,
            Side::Right => 0,
        };
        if needed > self.block.len() {
            let capacity = match needed {
                // All size limits are powers of two, so this never exceeds them.
                0..=NODE_BYTES_MAX => block_bytes(needed.next_power_of_two()),
                _ => block_bytes(needed),
            };
            self.reallocate(capacity, front(capacity));
        } else {
            let front = front(self.block.len());
            self.block
                .copy_within(self.start as usize..self.end as usize, front);
            self.start = front as u32;
            self.end = (front + len) as u32;
        }
    }
}

/// A zeroed block of the size that the allocator really uses for this request.
fn zeros(bytes: usize) -> Box<[u8]> {
    match bytes {
        0 => Box::default(),
        _ => {
            let capacity = block_bytes(bytes);
            assert!(capacity <= u32::MAX as usize, "a node of {bytes} bytes");
            vec![0; capacity].into_boxed_slice()
        }
    }
}

impl Buffer for Node {
    #[inline]
    fn bytes(&self) -> &[u8] {
        &self.block[self.start as usize..self.end as usize]
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.block[self.start as usize..self.end as usize]
    }

    /// Moves the bytes on the shorter side, if there is room.
    fn splice(&mut self, at: usize, removed: usize, inserted: usize) -> &mut [u8] {
        let len = self.bytes().len();
        assert!(at + removed <= len, "{} of {len} bytes", at + removed);
        let tail = len - at - removed;
        let right_room = self.block.len() - self.end as usize;
        // If both sides are short, moving either is cheap, so choose the one that has room.
        let is_left = match at.max(tail) {
            0..64 => right_room + removed < inserted,
            _ => at < tail,
        };
        let side = if is_left { Side::Left } else { Side::Right };
        let room = match side {
            Side::Left => self.start as usize,
            Side::Right => right_room,
        };
        if room + removed < inserted {
            self.make_room(side, inserted - removed);
        }
        let (start, end) = (self.start as usize, self.end as usize);
        let at = match side {
            Side::Left => {
                let to = start + removed - inserted;
                self.block.copy_within(start..start + at, to);
                self.start = to as u32;
                to + at
            }
            Side::Right => {
                let to = start + at + inserted;
                self.block.copy_within(end - tail..end, to);
                self.end = (to + tail) as u32;
                start + at
            }
        };
        &mut self.block[at..at + inserted]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Element;

    fn texts(node: &Node) -> Vec<Vec<u8>> {
        let bytes = node.listpack_bytes();
        Listpack::new(&bytes).iter().map(Element::to_vec).collect()
    }

    #[test]
    fn pushing_and_popping_at_the_front_moves_only_the_count() {
        let mut node = Node::with_capacity(1000, Side::Right);
        let end = node.block.len();
        for number in 0..100 {
            node.edit(|node| listpack::push_front(node, number));
            assert_eq!(node.end as usize, end);
        }
        for _ in 0..60 {
            node.edit(|node| listpack::remove(node, Offset::FIRST, 1));
            assert_eq!(node.end as usize, end);
        }
        assert_eq!(texts(&node)[0], b"39");
    }

    #[test]
    fn compressing_saves_heap_and_loses_nothing() {
        let mut node = Node::default();
        for number in 0..300 {
            let text = format!("element {number}");
            node.edit(|node| listpack::push_back(node, text.as_bytes()));
        }
        let (before, heap_bytes) = (texts(&node), node.heap_bytes());
        node.compress();
        assert!(node.is_compressed());
        assert!(node.heap_bytes() < heap_bytes / 2, "{}", node.heap_bytes());
        assert_eq!(texts(&node), before);
        node.edit(|node| listpack::push_back(node, 7));
        assert!(!node.is_compressed());
        assert_eq!(texts(&node).len(), 301);
    }

    #[test]
    fn a_node_that_does_not_shrink_stays_plain() {
        let mut node = Node::default();
        node.edit(|node| listpack::push_back(node, &b"0123456789abcdef"[..]));
        node.compress();
        assert!(!node.is_compressed());
    }
}
