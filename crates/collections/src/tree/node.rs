//! Inner nodes, and the code common to all nodes.

use std::ops::Range;

use damselfly_base::heap;

use super::leaf::{Key, LEAF_MAX, Leaf, Word, bytes_for, bytes_of, make_room, tighten};

/// The maximum number of children of an inner node.
pub(super) const CHILDREN_MAX: usize = 64;
/// A node that is less than a quarter full merges with a sibling if the result is at most three quarters full.
const SPARSE_DIVISOR: usize = 4;

pub(super) enum Node {
    Leaf(Leaf),
    Inner(Box<Inner>),
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) firsts: Vec<Key>,
    pub(super) counts: Vec<usize>,
    pub(super) nodes: Vec<Node>,
}

impl Inner {
    pub(super) fn bytes(&self) -> usize {
        heap::block_bytes(size_of::<Self>())
            + bytes_of(&self.firsts)
            + bytes_of(&self.counts)
            + bytes_of(&self.nodes)
    }

    /// Creates a node with these children, which must be in order.
    pub(super) fn new(nodes: Vec<Node>) -> Self {
        Self {
            firsts: nodes.iter().map(Node::first).collect(),
            counts: nodes.iter().map(Node::count).collect(),
            nodes,
        }
    }

    /// The index of the child that contains a member, or in which to insert it.
    #[inline]
    pub(super) fn child_of(&self, key: Key) -> usize {
        self.firsts
            .partition_point(|first| first.compare(key).is_le())
            .saturating_sub(1)
    }

    /// Inserts a member. If the node overflows, returns its new right sibling.
    fn insert(&mut self, key: Key, bytes: &mut usize) -> Option<Self> {
        let index = self.child_of(key);
        let right = self.nodes[index].insert(key, bytes);
        self.counts[index] += 1;
        if index == 0 && key.compare(self.firsts[0]).is_lt() {
            self.firsts[0] = key;
        }
        self.insert_child(index + 1, right?, bytes)
    }

    /// Inserts a node that was split off from the child before it. If this node overflows, returns its new right sibling.
    fn insert_child(&mut self, at: usize, node: Node, bytes: &mut usize) -> Option<Self> {
        self.counts[at - 1] -= node.count();
        let before = self.bytes();
        make_room(&mut self.firsts);
        self.firsts.insert(at, node.first());
        make_room(&mut self.counts);
        self.counts.insert(at, node.count());
        make_room(&mut self.nodes);
        self.nodes.insert(at, node);
        let len = self.nodes.len();
        let right = (len > CHILDREN_MAX).then(|| {
            // Like a leaf, a node that overflows at an end keeps its children together.
            self.split_off(match at {
                1 => 1,
                at if at == len - 1 => at,
                _ => len / 2,
            })
        });
        *bytes += self.bytes() + right.as_ref().map_or(0, Self::bytes);
        *bytes -= before;
        right
    }

    fn split_off(&mut self, at: usize) -> Self {
        let right = Self {
            firsts: self.firsts.split_off(at),
            counts: self.counts.split_off(at),
            nodes: self.nodes.split_off(at),
        };
        self.tighten();
        right
    }

    fn tighten(&mut self) {
        tighten(&mut self.firsts);
        tighten(&mut self.counts);
        tighten(&mut self.nodes);
    }

    fn remove(&mut self, key: Key, bytes: &mut usize) {
        let index = self.child_of(key);
        self.nodes[index].remove(key, bytes);
        self.counts[index] -= 1;
        if self.counts[index] > 0 && self.firsts[index].address == key.address {
            self.firsts[index] = self.nodes[index].first();
        }
        match self.counts[index] {
            0 => drop(self.take_child(index, bytes)),
            _ => self.merge_if_sparse(index, bytes),
        }
    }

    fn remove_range(&mut self, range: Range<usize>, removed: &mut Vec<Word>, bytes: &mut usize) {
        let mut touched = 0..0;
        let mut start = 0;
        for index in 0..self.nodes.len() {
            let end = start + self.counts[index];
            let (from, to) = (range.start.max(start), range.end.min(end));
            if from < to {
                self.nodes[index].remove_range(from - start..to - start, removed, bytes);
                self.counts[index] -= to - from;
                if self.counts[index] > 0 {
                    self.firsts[index] = self.nodes[index].first();
                }
                touched.start = if touched.is_empty() {
                    index
                } else {
                    touched.start
                };
                touched.end = index + 1;
            }
            start = end;
        }
        for index in touched.clone().rev() {
            if self.counts[index] == 0 {
                self.take_child(index, bytes);
            }
        }
        // Only the two outer children can have members left.
        for index in [touched.start + 1, touched.start] {
            if index < self.nodes.len() {
                self.merge_if_sparse(index, bytes);
            }
        }
    }

    /// Merges a sparse child with a sibling, if possible.
    fn merge_if_sparse(&mut self, index: usize, bytes: &mut usize) {
        if !self.nodes[index].is_sparse() {
            return;
        }
        let left = [Some(index), index.checked_sub(1)]
            .into_iter()
            .flatten()
            .find(|&left| left + 1 < self.nodes.len() && self.can_merge(left));
        if let Some(left) = left {
            let count = self.counts[left + 1];
            let right = self.take_child(left + 1, bytes);
            let before = self.nodes[left].bytes();
            self.nodes[left].append(right);
            self.counts[left] += count;
            *bytes += self.nodes[left].bytes();
            *bytes -= before;
        }
    }

    fn can_merge(&self, left: usize) -> bool {
        let (left, right) = (&self.nodes[left], &self.nodes[left + 1]);
        left.len() + right.len() <= left.len_max() - left.len_max() / SPARSE_DIVISOR
    }

    /// Removes and returns a child, and subtracts its own bytes from the count.
    fn take_child(&mut self, index: usize, bytes: &mut usize) -> Node {
        let before = self.bytes();
        self.firsts.remove(index);
        self.counts.remove(index);
        let node = self.nodes.remove(index);
        self.tighten();
        *bytes += self.bytes();
        *bytes -= before + node.bytes();
        node
    }
}

impl Node {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.bytes(),
            Self::Inner(inner) => inner.bytes(),
        }
    }

    /// The number of words or children.
    fn len(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.words.len(),
            Self::Inner(inner) => inner.nodes.len(),
        }
    }

    fn len_max(&self) -> usize {
        match self {
            Self::Leaf(_) => LEAF_MAX,
            Self::Inner(_) => CHILDREN_MAX,
        }
    }

    fn is_sparse(&self) -> bool {
        self.len() < self.len_max() / SPARSE_DIVISOR
    }

    /// The number of members.
    fn count(&self) -> usize {
        match self {
            Self::Leaf(leaf) => leaf.words.len(),
            Self::Inner(inner) => inner.counts.iter().sum(),
        }
    }

    /// The key of the first member. The node must not be empty.
    fn first(&self) -> Key {
        match self {
            Self::Leaf(leaf) => leaf.words[0].key(),
            Self::Inner(inner) => inner.firsts[0],
        }
    }

    pub(super) fn insert(&mut self, key: Key, bytes: &mut usize) -> Option<Self> {
        match self {
            Self::Leaf(leaf) => {
                let capacity = leaf.words.capacity();
                let right = leaf.insert(key);
                if leaf.words.capacity() != capacity || right.is_some() {
                    *bytes += leaf.bytes() + right.as_ref().map_or(0, Leaf::bytes);
                    *bytes -= bytes_for::<Word>(capacity);
                }
                right.map(Self::Leaf)
            }
            Self::Inner(inner) => {
                let right = inner.insert(key, bytes)?;
                Some(Self::Inner(Box::new(right)))
            }
        }
    }

    pub(super) fn remove(&mut self, key: Key, bytes: &mut usize) {
        match self {
            Self::Leaf(leaf) => {
                let index = leaf.index_of(key);
                leaf.words.remove(index);
                leaf.tighten(bytes);
            }
            Self::Inner(inner) => inner.remove(key, bytes),
        }
    }

    /// Moves the words of these ranks to `removed`.
    pub(super) fn remove_range(
        &mut self,
        range: Range<usize>,
        removed: &mut Vec<Word>,
        bytes: &mut usize,
    ) {
        match self {
            Self::Leaf(leaf) => {
                removed.extend(leaf.words.drain(range));
                leaf.tighten(bytes);
            }
            Self::Inner(inner) => inner.remove_range(range, removed, bytes),
        }
    }

    /// Appends the contents of the right sibling.
    fn append(&mut self, right: Self) {
        match (self, right) {
            (Self::Leaf(left), Self::Leaf(mut right)) => {
                left.words.reserve_exact(right.words.len());
                left.words.append(&mut right.words);
                left.retag();
            }
            (Self::Inner(left), Self::Inner(mut right)) => {
                left.firsts.append(&mut right.firsts);
                left.counts.append(&mut right.counts);
                left.nodes.append(&mut right.nodes);
            }
            (Self::Leaf(_), Self::Inner(_)) | (Self::Inner(_), Self::Leaf(_)) => {
                unreachable!("all leaves are at the same depth")
            }
        }
    }
}

/// Checks a node, and returns the number of its members and its bytes, both including its children.
#[cfg(test)]
pub(super) fn assert_valid(
    node: &Node,
    depth: usize,
    leaf_depths: &mut Vec<usize>,
) -> (usize, usize) {
    assert!(node.len() <= node.len_max());
    match node {
        Node::Leaf(leaf) => {
            leaf_depths.push(depth);
            for word in &leaf.words {
                assert_eq!(word.tag(), leaf.tag(word.order()));
            }
            (leaf.words.len(), leaf.bytes())
        }
        Node::Inner(inner) => {
            assert!(depth > 0 || inner.nodes.len() > 1);
            assert_eq!(inner.nodes.len(), inner.firsts.len());
            assert_eq!(inner.nodes.len(), inner.counts.len());
            let (mut sum, mut bytes) = (0, inner.bytes());
            for (index, child) in inner.nodes.iter().enumerate() {
                let (count, child_bytes) = assert_valid(child, depth + 1, leaf_depths);
                assert!(count > 0);
                assert_eq!(count, inner.counts[index]);
                assert_eq!(child.first().address, inner.firsts[index].address);
                assert_eq!(child.first().order, inner.firsts[index].order);
                sum += count;
                bytes += child_bytes;
            }
            (sum, bytes)
        }
    }
}
