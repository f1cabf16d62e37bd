//! The order of a large sorted set: a B+ tree by score and member that counts the members below each node.
//!
//! ```text
//! inner node | key of the first member of each child: order of its score, address | members in each child | children |
//! leaf       | words, each: tag (16 bits), address of a member (48 bits) |
//! ```
//!
//! An order is a score mapped to a 64-bit number that sorts the same way. A tag is an order reduced to 16 bits:
//! `(order - base) >> shift`, clamped at both ends, with a base and a shift chosen for each leaf. Tags sort like their
//! members, so a search in a leaf follows only the addresses with equal tags, and a search in an inner node only those with
//! equal scores.
//!
//! Leaves grow in the allocator's size classes, so even leaves that were just split have little unused room. A leaf that
//! overflows at either end keeps its members together, so ascending insertions leave full leaves.
//!
//! # Invariants
//!
//! - Every address is that of a live member; callers of [`Tree::insert`] promise this.
//! - All members are in order, all leaves are at the same depth, and no node except the root is empty.
//! - `firsts`, `counts` and `nodes` of an inner node have the same length and describe its children correctly.

mod leaf;
mod node;

use std::ops::Range;

use crate::scored::{ScoredRef, order_of};

pub(crate) use leaf::Word;
use leaf::{Key, LEAF_MAX, Leaf};
use node::{CHILDREN_MAX, Inner, Node};

/// The tree; see the description of this file.
pub(crate) struct Tree {
    root: Node,
    len: usize,
    bytes: usize,
}

impl Tree {
    /// Creates an empty tree; allocates nothing.
    pub(crate) fn new() -> Self {
        Self {
            root: Node::Leaf(Leaf::default()),
            len: 0,
            bytes: 0,
        }
    }

    /// Creates a tree of these members, which must be in order.
    ///
    /// # Safety
    /// As for [`insert`](Self::insert), for each member.
    pub(crate) unsafe fn of_sorted<'a>(members: impl Iterator<Item = ScoredRef<'a>>) -> Self {
        let keys: Vec<Key> = members.map(Key::of).collect();
        let (len, mut bytes) = (keys.len(), 0);
        let leaf = |chunk: &[Key]| Node::Leaf(Leaf::new(chunk));
        let mut level: Vec<Node> = keys.chunks(LEAF_MAX).map(leaf).collect();
        bytes += level.iter().map(Node::bytes).sum::<usize>();
        while level.len() > 1 {
            let mut nodes = level.into_iter();
            level = Vec::new();
            loop {
                let children: Vec<Node> = nodes.by_ref().take(CHILDREN_MAX).collect();
                if children.is_empty() {
                    break;
                }
                level.push(Node::Inner(Box::new(Inner::new(children))));
            }
            bytes += level.iter().map(Node::bytes).sum::<usize>();
        }
        Self {
            root: level.pop().unwrap_or(Node::Leaf(Leaf::default())),
            len,
            bytes,
        }
    }

    /// The number of members.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The bytes of heap that the nodes use.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes
    }

    /// Inserts a member, which must not be in the tree yet.
    ///
    /// # Safety
    /// The member stays alive and unchanged until it is removed or the tree is dropped.
    pub(crate) unsafe fn insert(&mut self, member: ScoredRef<'_>) {
        let right = self.root.insert(Key::of(member), &mut self.bytes);
        self.len += 1;
        if let Some(right) = right {
            let left = std::mem::replace(&mut self.root, Node::Leaf(Leaf::default()));
            let root = Inner::new(vec![left, right]);
            self.bytes += root.bytes();
            self.root = Node::Inner(Box::new(root));
        }
    }

    /// Removes a member.
    ///
    /// # Panics
    /// If the member is not in the tree.
    pub(crate) fn remove(&mut self, member: ScoredRef<'_>) {
        self.root.remove(Key::of(member), &mut self.bytes);
        self.len -= 1;
        self.collapse_root();
    }

    /// Removes the members of these ranks and returns their words.
    ///
    /// # Panics
    /// If a rank does not exist.
    pub(crate) fn remove_range(&mut self, range: Range<usize>) -> Vec<Word> {
        assert!(range.end <= self.len, "{range:?} of {}", self.len);
        let mut removed = Vec::with_capacity(range.len());
        self.root.remove_range(range, &mut removed, &mut self.bytes);
        self.len -= removed.len();
        self.collapse_root();
        removed
    }

    /// Replaces an inner root that has fewer than two children with its only child, repeatedly.
    fn collapse_root(&mut self) {
        while let Node::Inner(root) = &mut self.root
            && root.nodes.len() < 2
        {
            self.bytes -= root.bytes();
            self.root = root.nodes.pop().unwrap_or(Node::Leaf(Leaf::default()));
        }
    }

    /// The number of members before this one, which must be in the tree.
    pub(crate) fn rank(&self, member: ScoredRef<'_>) -> usize {
        let key = Key::of(member);
        let (mut node, mut rank) = (&self.root, 0);
        loop {
            match node {
                Node::Leaf(leaf) => return rank + leaf.index_of(key),
                Node::Inner(inner) => {
                    let index = inner.child_of(key);
                    rank += inner.counts[..index].iter().sum::<usize>();
                    node = &inner.nodes[index];
                }
            }
        }
    }

    /// The number of members with a lower score, or with `or_equal`, a lower or equal score.
    pub(crate) fn rank_of_score(&self, score: f64, or_equal: bool) -> usize {
        let order = order_of(score);
        self.rank_where(Some(order), |key| {
            key.order < order || or_equal && key.order == order
        })
    }

    /// The number of members whose bytes sort before `member`, or with `or_equal`, before or equal to it, if all scores are
    /// equal.
    pub(crate) fn rank_of_member(&self, member: &[u8], or_equal: bool) -> usize {
        self.rank_where(None, |key| {
            let ordering = key.member().member().cmp(member);
            ordering.is_lt() || or_equal && ordering.is_eq()
        })
    }

    /// The rank of the first member for which `before` is false. If `order` is given, members with another order are not
    /// checked in a leaf.
    fn rank_where(&self, order: Option<u64>, before: impl Fn(Key) -> bool) -> usize {
        let (mut node, mut rank) = (&self.root, 0);
        loop {
            match node {
                Node::Leaf(leaf) => return rank + leaf.rank_where(order, &before),
                Node::Inner(inner) => {
                    let next = inner.firsts.partition_point(|&first| before(first));
                    let index = next.saturating_sub(1);
                    rank += inner.counts[..index].iter().sum::<usize>();
                    node = &inner.nodes[index];
                }
            }
        }
    }

    /// The words of the leaf that contains this rank, and the rank's index within the leaf.
    pub(crate) fn leaf_at(&self, mut rank: usize) -> (&[Word], usize) {
        let mut node = &self.root;
        loop {
            match node {
                Node::Leaf(leaf) => return (&leaf.words, rank),
                Node::Inner(inner) => {
                    let mut index = 0;
                    while rank >= inner.counts[index] {
                        rank -= inner.counts[index];
                        index += 1;
                    }
                    node = &inner.nodes[index];
                }
            }
        }
    }
}

#[cfg(test)]
impl Tree {
    /// Checks the invariants.
    pub(crate) fn assert_valid(&self) {
        let mut leaf_depths = Vec::new();
        let (count, bytes) = node::assert_valid(&self.root, 0, &mut leaf_depths);
        assert_eq!(count, self.len);
        assert_eq!(bytes, self.bytes, "bytes are counted as they change");
        leaf_depths.dedup();
        assert_eq!(leaf_depths.len(), 1, "all leaves are at one depth");
        let members: Vec<_> = (0..self.len)
            .map(|rank| {
                let (words, index) = self.leaf_at(rank);
                words[index].member()
            })
            .collect();
        assert!(members.is_sorted_by(|a, b| a.compare(*b).is_lt()));
    }
}
