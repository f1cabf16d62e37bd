//! Chain: a large list, as a chain of listpacks.
//!
//! ```text
//! nodes   | node 0 | node 1 | node 2 | ... | node n-1 |
//!           plain, with room     compressed   plain, with room
//! ```
//!
//! One array holds all nodes with their element counts, so an index is found by adding up counts from the nearer end. The
//! nodes at the ends keep room for more elements; the inner nodes are trimmed, and compressed if the options ask for it. An
//! element too long for a shared node gets its own node.
//!
//! *Invariants*: no node is empty; `len` and `heap_bytes` are the sums over all nodes; the first and the last node
//! are not compressed.

mod node;
mod walk;

use crate::Side;
use crate::element::{Element, Needle};
use crate::listpack::{self, HEADER_BYTES, Listpack, Offset};
use damselfly_base::heap::block_bytes;
use node::{NODE_BYTES_MAX, Node};
use std::borrow::Cow;
use std::collections::VecDeque;
pub use walk::Walk;

const LOCATED: &str = "`locate` found this index";

/// How large the nodes of a chain may be, and which of them are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    bytes_max: usize,
    elements_max: usize,
    /// The number of nodes at each end that stay uncompressed; zero to compress none.
    plain_ends: usize,
}

impl Shape {
    /// The shape for given values of the options `list-max-listpack-size` and `list-compress-depth`: a size of -1 to -5 means
    /// nodes of up to 4, 8, 16, 32 or 64 KiB; any other size is the maximum number of elements, in nodes of up to 8 KiB.
    pub fn new(size: i64, compress_depth: usize) -> Self {
        let (bytes_max, elements_max) = match size {
            ..=-5 => (NODE_BYTES_MAX, usize::MAX),
            -4 => (32 << 10, usize::MAX),
            -3 => (16 << 10, usize::MAX),
            -2 => (8 << 10, usize::MAX),
            -1 => (4 << 10, usize::MAX),
            // Redis uses a 15-bit count here.
            0.. => (8 << 10, size.clamp(1, 0x7fff) as usize),
        };
        Self {
            bytes_max,
            elements_max,
            plain_ends: compress_depth,
        }
    }

    /// Whether a listpack of this many bytes and elements is within the limits.
    #[inline]
    pub fn allows(self, bytes: usize, elements: usize) -> bool {
        bytes <= self.bytes_max && elements <= self.elements_max
    }

    /// The same shape with half the limits: a list within these becomes one listpack again.
    #[must_use]
    pub fn halved(self) -> Self {
        Self {
            bytes_max: self.bytes_max / 2,
            elements_max: self.elements_max / 2,
            ..self
        }
    }

    fn has_room(self, node: &Node, element_bytes: usize) -> bool {
        self.allows(node.byte_len() + element_bytes, node.count() + 1)
    }

    /// Whether two nodes should be merged: only up to three quarters of the limits, so that the next element does not split
    /// the result again.
    fn should_merge(self, left: &Node, right: &Node) -> bool {
        let bytes = left.byte_len() + right.byte_len() - HEADER_BYTES;
        let elements = left.count() + right.count();
        bytes <= self.bytes_max / 4 * 3 && elements <= (self.elements_max / 4).saturating_mul(3)
    }
}

/// A large list.
#[derive(Debug, Clone)]
pub struct Chain {
    nodes: VecDeque<Node>,
    len: usize,
    heap_bytes: usize,
    shape: Shape,
}

impl Chain {
    /// An empty list.
    pub fn new(shape: Shape) -> Self {
        Self {
            nodes: VecDeque::new(),
            len: 0,
            heap_bytes: 0,
            shape,
        }
    }

    /// Creates a list with the elements of a listpack.
    pub fn from_listpack(listpack: Listpack<'_>, shape: Shape) -> Self {
        let mut chain = Self::new(shape);
        if shape.allows(listpack.byte_len(), listpack.len()) && !listpack.is_empty() {
            let mut node = Node::with_capacity(listpack.byte_len(), Side::Left);
            let end = listpack.end();
            node.edit(|node| {
                listpack::append_range(node, listpack, Offset::FIRST, end, listpack.len());
            });
            chain.add_node(0, node);
        } else {
            for element in listpack {
                chain.push(Side::Right, element);
            }
        }
        chain
    }

    /// Adds all elements of a listpack at the right end: as one node if the shape allows that, one by one otherwise.
    pub fn append_listpack(&mut self, listpack: Listpack<'_>) {
        let allowed = self.shape.allows(listpack.byte_len(), listpack.len());
        let joined = self.nodes.back().is_some_and(|last| {
            let bytes = last.byte_len() + listpack.byte_len();
            let elements = last.count() + listpack.len();
            self.shape.halved().allows(bytes, elements)
        });
        if listpack.is_empty() || !allowed || joined {
            for element in listpack {
                self.push(Side::Right, element);
            }
            return;
        }
        let mut node = Node::with_capacity(listpack.byte_len(), Side::Left);
        let end = listpack.end();
        node.edit(|node| {
            listpack::append_range(node, listpack, Offset::FIRST, end, listpack.len());
        });
        self.add_node(self.nodes.len(), node);
        self.seal_ends();
    }

    /// The listpack of the node at an index, uncompressed.
    pub fn node(&self, index: usize) -> Option<Cow<'_, [u8]>> {
        self.nodes.get(index).map(Node::listpack_bytes)
    }

    /// The whole list as one listpack, if that keeps to the limits of `shape`.
    pub fn to_listpack(&self, shape: Shape) -> Option<Vec<u8>> {
        // More than two nodes exceed the limits, or will soon be merged.
        if self.nodes.len() > 2 || !shape.allows(0, self.len) {
            return None;
        }
        let bytes: usize = self.nodes.iter().map(Node::byte_len).sum();
        if !shape.allows(bytes, self.len) {
            return None;
        }
        let mut joined = Vec::with_capacity(bytes);
        for node in &self.nodes {
            let (listpack, end) = (node.listpack(), node.listpack().end());
            listpack::append_range(&mut joined, listpack, Offset::FIRST, end, listpack.len());
        }
        Some(joined)
    }

    /// The number of elements.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the list is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of nodes.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The number of compressed nodes.
    pub fn compressed_count(&self) -> usize {
        self.nodes
            .iter()
            .filter(|node| node.is_compressed())
            .count()
    }

    /// The bytes of heap that the list uses, without the size of `Chain` itself.
    #[inline]
    pub fn memory_bytes(&self) -> usize {
        let array_bytes = self.nodes.capacity() * size_of::<Node>();
        self.heap_bytes + block_bytes(array_bytes)
    }

    /// Adds an element at one end.
    pub fn push(&mut self, side: Side, element: Element<'_>) {
        let bytes = element.encoded_bytes();
        let end = self.end_index(side);
        let has_room = |node| self.shape.has_room(node, bytes);
        let end = if self.nodes.get(end).is_some_and(has_room) {
            end
        } else {
            self.add_end(side, bytes)
        };
        self.change(end, |node| match side {
            Side::Left => listpack::push_front(node, element),
            Side::Right => listpack::push_back(node, element),
        });
    }

    /// The element at one end.
    pub fn end(&self, side: Side) -> Option<Element<'_>> {
        let listpack = self.nodes.get(self.end_index(side))?.listpack();
        let offset = match side {
            Side::Left => listpack.first()?,
            Side::Right => listpack.last()?,
        };
        Some(listpack.at(offset))
    }

    /// Removes up to `count` elements at one end.
    pub fn remove_end(&mut self, side: Side, count: usize) {
        if count == 1 && !self.is_empty() {
            self.remove_one(side);
            return;
        }
        match side {
            Side::Left => self.remove(0, count),
            Side::Right => self.remove(self.len.saturating_sub(count), count),
        }
    }

    fn remove_one(&mut self, side: Side) {
        let end = self.end_index(side);
        if self.nodes[end].count() == 1 {
            self.remove_nodes(end, 1);
            self.seal_ends();
            return;
        }
        self.change(end, |node| {
            let listpack = node.listpack();
            let offset = match side {
                Side::Left => listpack.first(),
                Side::Right => listpack.last(),
            };
            listpack::remove(node, offset.expect("no node is empty"), 1);
        });
    }

    /// Calls `read` with the element at `index`.
    pub fn get<R>(&self, index: usize, read: impl FnOnce(Element<'_>) -> R) -> Option<R> {
        let (node, inner) = self.locate(index)?;
        let bytes = self.nodes[node].listpack_bytes();
        Listpack::new(&bytes).get(inner).map(read)
    }

    /// Inserts an element before the one at `index`, or at the end if there is none.
    pub fn insert(&mut self, index: usize, element: Element<'_>) {
        let Some((node, inner)) = self.locate(index).filter(|_| index > 0) else {
            let side = if index == 0 { Side::Left } else { Side::Right };
            return self.push(side, element);
        };
        let bytes = element.encoded_bytes();
        if self.shape.has_room(&self.nodes[node], bytes) {
            self.insert_in(node, inner, element);
            self.seal(node);
            return;
        }
        if inner == 0 && self.shape.has_room(&self.nodes[node - 1], bytes) {
            self.change(node - 1, |node| listpack::push_back(node, element));
            self.seal(node - 1);
            return;
        }
        let right = if inner > 0 {
            self.split(node, inner)
        } else {
            node
        };
        let left = right - 1;
        if self.shape.has_room(&self.nodes[left], bytes) {
            self.change(left, |node| listpack::push_back(node, element));
        } else if self.shape.has_room(&self.nodes[right], bytes) {
            self.change(right, |node| listpack::push_front(node, element));
        } else {
            let mut node = Node::default();
            node.edit(|node| listpack::push_back(node, element));
            self.add_node(right, node);
        }
        self.settle(left.saturating_sub(1), right + 2);
    }

    /// Replaces the element at `index`, if there is one.
    pub fn replace(&mut self, index: usize, element: Element<'_>) {
        let Some((node, inner)) = self.locate(index) else {
            return;
        };
        let bytes_max = self.shape.bytes_max;
        let is_replaced = self.change(node, |node| {
            let listpack = node.listpack();
            let offset = listpack.seek(inner).expect(LOCATED);
            let (before, after) = (listpack.at(offset).encoded_bytes(), element.encoded_bytes());
            let fits = after <= before || listpack.byte_len() + after - before <= bytes_max;
            if fits {
                listpack::replace(node, offset, element);
            }
            fits
        });
        self.seal(node);
        if !is_replaced {
            self.insert(index, element);
            self.remove(index + 1, 1);
        }
    }

    /// Removes up to `count` elements, starting at `index`.
    pub fn remove(&mut self, index: usize, count: usize) {
        let Some((first, inner)) = self.locate(index).filter(|_| count > 0) else {
            return;
        };
        let (mut at, mut left) = (first, count);
        if inner > 0 {
            left -= self.remove_in(at, inner, left);
            at += 1;
        }
        let mut whole = 0;
        while let Some(node) = self.nodes.get(at + whole)
            && node.count() <= left
        {
            left -= node.count();
            whole += 1;
        }
        self.remove_nodes(at, whole);
        if left > 0 && at < self.nodes.len() {
            self.remove_in(at, 0, left);
        }
        self.settle(first.saturating_sub(1), at + 1);
    }

    /// Removes up to `count` elements that match `needle`, those nearest to the end `from`, and returns how many were removed.
    pub fn remove_equal(&mut self, needle: &Needle<'_>, count: usize, from: Side) -> usize {
        let mut removed = 0;
        // The first and the last changed node.
        let mut changed: Option<(usize, usize)> = None;
        for step in 0..self.nodes.len() {
            if removed == count {
                break;
            }
            let at = match from {
                Side::Left => step,
                Side::Right => self.nodes.len() - 1 - step,
            };
            let bytes = self.nodes[at].listpack_bytes();
            let found = Listpack::new(&bytes).find(Offset::FIRST, 0, needle);
            if found.is_none() {
                continue;
            }
            removed += self.change(at, |node| {
                listpack::remove_equal(node, needle, count - removed, from)
            });
            let (first, last) = changed.unwrap_or((at, at));
            changed = Some((first.min(at), last.max(at)));
        }
        if let Some((first, last)) = changed {
            let empty = self.remove_empty_nodes();
            self.settle(first.saturating_sub(1), last + 1 - empty.min(last));
        }
        removed
    }

    /// Removes empty nodes, and returns how many.
    fn remove_empty_nodes(&mut self) -> usize {
        let empty = self.nodes.iter().filter(|node| node.count() == 0);
        let empty_bytes: usize = empty.map(Node::heap_bytes).sum();
        let before = self.nodes.len();
        self.heap_bytes -= empty_bytes;
        self.nodes.retain(|node| node.count() > 0);
        before - self.nodes.len()
    }

    /// A walk over the elements, starting at `index` and moving away from the end `from`.
    #[inline]
    pub fn walk(&self, index: usize, from: Side) -> Walk<'_> {
        Walk::over_chain(self, index, from)
    }

    /// The node that holds the element at `index`, and the element's index within the node.
    fn locate(&self, index: usize) -> Option<(usize, usize)> {
        if index >= self.len {
            return None;
        }
        if index < self.len / 2 {
            let mut inner = index;
            for (at, node) in self.nodes.iter().enumerate() {
                if inner < node.count() {
                    return Some((at, inner));
                }
                inner -= node.count();
            }
        } else {
            let mut behind = self.len - index;
            for (at, node) in self.nodes.iter().enumerate().rev() {
                if behind <= node.count() {
                    return Some((at, node.count() - behind));
                }
                behind -= node.count();
            }
        }
        None
    }

    fn end_index(&self, side: Side) -> usize {
        match side {
            Side::Left => 0,
            Side::Right => self.nodes.len().saturating_sub(1),
        }
    }

    /// Changes a node and updates the sums.
    #[inline]
    fn change<R>(&mut self, at: usize, edit: impl FnOnce(&mut Node) -> R) -> R {
        let node = &mut self.nodes[at];
        self.len -= node.count();
        self.heap_bytes -= node.heap_bytes();
        let result = node.edit(edit);
        self.len += node.count();
        self.heap_bytes += node.heap_bytes();
        result
    }

    fn insert_in(&mut self, at: usize, inner: usize, element: Element<'_>) {
        self.change(at, |node| {
            let offset = node.listpack().seek(inner).expect(LOCATED);
            listpack::insert(node, offset, element);
        });
    }

    fn remove_in(&mut self, at: usize, inner: usize, count: usize) -> usize {
        self.change(at, |node| {
            let offset = node.listpack().seek(inner).expect(LOCATED);
            listpack::remove(node, offset, count)
        })
    }

    /// Adds an empty node at one end, with room for an element of `bytes` bytes; returns its index. The caller must add that
    /// element.
    fn add_end(&mut self, side: Side, bytes: usize) -> usize {
        // The new node may become as long as the full one at this end.
        let neighbour = self.nodes.get(self.end_index(side));
        let room = neighbour
            .map_or(0, Node::byte_len)
            .min(self.shape.bytes_max)
            / 4;
        let room = room.max(HEADER_BYTES + bytes);
        let (at, from) = match side {
            Side::Left => (0, Side::Right),
            Side::Right => (self.nodes.len(), Side::Left),
        };
        self.add_node(at, Node::with_capacity(room, from));
        self.seal_ends();
        at
    }

    fn add_node(&mut self, at: usize, node: Node) {
        if self.nodes.len() == self.nodes.capacity() {
            // Grow by an eighth, not by the standard library's factor of two, to waste less.
            self.nodes.reserve_exact(1 + self.nodes.len() / 8);
        }
        self.len += node.count();
        self.heap_bytes += node.heap_bytes();
        self.nodes.insert(at, node);
    }

    fn remove_nodes(&mut self, at: usize, count: usize) {
        for node in self.nodes.drain(at..at + count) {
            self.len -= node.count();
            self.heap_bytes -= node.heap_bytes();
        }
        let len = self.nodes.len();
        if self.nodes.capacity() > 8 + 2 * len {
            self.nodes.shrink_to(len + len / 8);
        }
    }

    /// Splits a node before its element `inner`; returns the index of the right half.
    fn split(&mut self, at: usize, inner: usize) -> usize {
        let right = self.change(at, |node| {
            let offset = node.listpack().seek(inner).expect(LOCATED);
            let count = node.count() - inner;
            node.split_off(offset, count)
        });
        self.add_node(at + 1, right);
        at + 1
    }

    /// Merges small neighbours among the nodes `first` to `last`, and brings these nodes into their final form.
    fn settle(&mut self, first: usize, last: usize) {
        let (mut at, behind) = (first, (last + 1).min(self.nodes.len()));
        for next in first + 1..behind {
            if self.shape.should_merge(&self.nodes[at], &self.nodes[next]) {
                let right = std::mem::take(&mut self.nodes[next]);
                self.change(at, |node| node.append(&right));
                self.len -= right.count();
                self.heap_bytes -= right.heap_bytes();
            } else {
                at += 1;
                self.nodes.swap(at, next);
            }
        }
        // The nodes that were emptied by merging are now behind the last remaining one, so one removal moves no node twice.
        if at + 1 < behind {
            self.remove_nodes(at + 1, behind - at - 1);
        }
        for at in first..=at {
            self.seal(at);
        }
        // Any number of nodes may now be near an end, and a split may have pushed two nodes away from it.
        let reach = self.shape.plain_ends.max(1).min(self.nodes.len()) + 2;
        for depth in 0..reach {
            self.seal_at_depth(depth);
        }
    }

    /// Call this after adding or removing a node at an end: it seals the nodes that have become inner or outer nodes.
    fn seal_ends(&mut self) {
        let ends = self.shape.plain_ends.max(1);
        self.seal_at_depth(ends - 1);
        self.seal_at_depth(ends);
    }

    fn seal_at_depth(&mut self, depth: usize) {
        self.seal(depth);
        if let Some(at) = self.nodes.len().checked_sub(depth + 1) {
            self.seal(at);
        }
    }

    /// Brings a node into its final form: inner nodes are trimmed or compressed, outer nodes are plain and keep some room.
    fn seal(&mut self, at: usize) {
        let ends = self.shape.plain_ends.max(1);
        let Some(node) = self.nodes.get_mut(at) else {
            return;
        };
        self.heap_bytes -= node.heap_bytes();
        let is_inner = at >= ends && at + ends < self.nodes.len();
        let node = &mut self.nodes[at];
        match (is_inner, self.shape.plain_ends) {
            (false, _) => {
                node.decompress();
                // An empty node was made for an element that is about to be added.
                if node.count() > 0 && node.heap_bytes() / 4 > node.byte_len() {
                    node.trim();
                }
            }
            (true, 0) => node.trim(),
            (true, _) => node.compress(),
        }
        self.heap_bytes += node.heap_bytes();
    }

    /// Panics if an invariant does not hold. For tests.
    pub fn check(&self) {
        let nodes = || self.nodes.iter();
        assert!(nodes().all(|node| node.count() > 0), "an empty node");
        assert_eq!(self.len, nodes().map(Node::count).sum::<usize>());
        assert_eq!(
            self.heap_bytes,
            nodes().map(Node::heap_bytes).sum::<usize>()
        );
        for (at, node) in nodes().enumerate() {
            let bytes = node.listpack_bytes();
            let listpack = Listpack::new(&bytes);
            assert!(listpack.is_valid(), "node {at}");
            assert_eq!(listpack.len(), node.count(), "node {at}");
            assert_eq!(bytes.len(), node.byte_len(), "node {at}");
            assert!(
                node.count() == 1 || self.shape.allows(bytes.len(), node.count()),
                "node {at} is too large"
            );
            let ends = self.shape.plain_ends.max(1);
            if at < ends || at + ends >= self.nodes.len() {
                assert!(!node.is_compressed(), "node {at}");
            } else if !node.is_compressed() {
                assert_eq!(node.heap_bytes(), block_bytes(bytes.len()), "node {at}");
            }
        }
    }
}
