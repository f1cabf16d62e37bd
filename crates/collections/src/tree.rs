//! The order of a large sorted set: a B+ tree by score and member that counts what is below each node.
//!
//! ```text
//! inner node | first member of each child: order of its score, address | members in each child | children |
//! leaf       | words, each: tag (16 bits), address of a member (48 bits) |
//! ```
//!
//! An order is the score as a 64-bit number that sorts alike. A tag is an order in 16 bits: `(order - base) >> shift`,
//! cut off at both ends, with a base and a shift that suit the leaf. Tags sort as their members do, so a search in a
//! leaf follows only addresses under equal tags; in an inner node only those under equal scores.
//!
//! Leaves grow in the steps of the allocator, so even those just split have hardly any unused room. A leaf that
//! overflows at either end leaves its members together: ascending insertions make full leaves.
//!
//! # Invariants
//!
//! - Every address is that of a live member; whoever calls [`Tree::insert`] promises that.
//! - All members stand in order, all leaves at one depth, and no node but the root is empty.
//! - `firsts`, `counts` and `nodes` of an inner node are of one length and true.

mod leaf;
mod node;

use std::ops::Range;

use crate::scored::{ScoredRef, order_of};

pub(crate) use leaf::Word;
use leaf::{LEAF_MAX, Leaf, Place};
use node::{CHILDREN_MAX, Inner, Node};

/// The tree, see the description of this file.
pub(crate) struct Tree {
    root: Node,
    len: usize,
    bytes: usize,
}

impl Tree {
    /// A tree without members; allocates nothing.
    pub(crate) fn new() -> Self {
        Self {
            root: Node::Leaf(Leaf::default()),
            len: 0,
            bytes: 0,
        }
    }

    /// A tree of these members, which are in order.
    ///
    /// # Safety
    /// As for [`insert`](Self::insert), for all of them.
    pub(crate) unsafe fn of_sorted<'a>(members: impl Iterator<Item = ScoredRef<'a>>) -> Self {
        let places: Vec<Place> = members.map(Place::of).collect();
        let (len, mut bytes) = (places.len(), 0);
        let leaf = |chunk: &[Place]| Node::Leaf(Leaf::new(chunk));
        let mut level: Vec<Node> = places.chunks(LEAF_MAX).map(leaf).collect();
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

    /// Heap bytes of all nodes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.bytes
    }

    /// Inserts a member that is not there.
    ///
    /// # Safety
    /// Until it is removed or the tree is dropped, the member lives and does not change.
    pub(crate) unsafe fn insert(&mut self, member: ScoredRef<'_>) {
        let right = self.root.insert(Place::of(member), &mut self.bytes);
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
    /// If it is not there.
    pub(crate) fn remove(&mut self, member: ScoredRef<'_>) {
        self.root.remove(Place::of(member), &mut self.bytes);
        self.len -= 1;
        self.lower();
    }

    /// Removes the members of these ranks and returns their words.
    ///
    /// # Panics
    /// If there are not so many.
    pub(crate) fn remove_range(&mut self, range: Range<usize>) -> Vec<Word> {
        assert!(range.end <= self.len, "{range:?} of {}", self.len);
        let mut removed = Vec::with_capacity(range.len());
        self.root.remove_range(range, &mut removed, &mut self.bytes);
        self.len -= removed.len();
        self.lower();
        removed
    }

    /// Drops roots of fewer than two children.
    fn lower(&mut self) {
        while let Node::Inner(root) = &mut self.root
            && root.nodes.len() < 2
        {
            self.bytes -= root.bytes();
            self.root = root.nodes.pop().unwrap_or(Node::Leaf(Leaf::default()));
        }
    }

    /// How many members are lower than this one, which is there.
    pub(crate) fn rank(&self, member: ScoredRef<'_>) -> usize {
        let place = Place::of(member);
        let (mut node, mut rank) = (&self.root, 0);
        loop {
            match node {
                Node::Leaf(leaf) => return rank + leaf.index_of(place),
                Node::Inner(inner) => {
                    let index = inner.child_of(place);
                    rank += inner.counts[..index].iter().sum::<usize>();
                    node = &inner.nodes[index];
                }
            }
        }
    }

    /// How many members have a lower score, or with `or_equal` no higher one.
    pub(crate) fn rank_of_score(&self, score: f64, or_equal: bool) -> usize {
        let order = order_of(score);
        self.rank_where(Some(order), |place| {
            place.order < order || or_equal && place.order == order
        })
    }

    /// How many members have lower bytes, or with `or_equal` no higher ones, if all scores are equal.
    pub(crate) fn rank_of_member(&self, member: &[u8], or_equal: bool) -> usize {
        self.rank_where(None, |place| {
            let ordering = place.member().member().cmp(member);
            ordering.is_lt() || or_equal && ordering.is_eq()
        })
    }

    /// How many members come before the first that is not `before`.
    fn rank_where(&self, order: Option<u64>, before: impl Fn(Place) -> bool) -> usize {
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

    /// The words of the leaf that a rank is in, and the index there.
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
