//! A leaf: tagged addresses of members.

use std::cmp::Ordering;

use damselfly_base::heap;

use crate::scored::{ScoredRef, order_of};

/// The maximum number of members in a leaf.
pub(super) const LEAF_MAX: usize = 128;

const TAG_SHIFT: u32 = 48;
const TAG_MAX: u64 = 0xffff;

/// A member's address, with a tag in the upper 16 bits.
#[derive(Clone, Copy)]
pub(crate) struct Word(u64);

/// A member's sort key: compares by the order of the score, then by the member's bytes.
#[derive(Clone, Copy)]
pub(super) struct Key {
    pub(super) order: u64,
    pub(super) address: usize,
}

#[derive(Default)]
pub(super) struct Leaf {
    pub(super) words: Vec<Word>,
    base: u64,
    shift: u8,
}

impl Word {
    pub(super) fn address(self) -> usize {
        (self.0 & ((1 << TAG_SHIFT) - 1)) as usize
    }

    pub(super) fn tag(self) -> u64 {
        self.0 >> TAG_SHIFT
    }

    /// The member, which is alive as long as the word is in a tree.
    #[inline]
    pub(crate) fn member<'a>(self) -> ScoredRef<'a> {
        // SAFETY: words contain the addresses of members that are alive while their words are in a tree (the promise of
        // `insert`), and the only users of words, the tree and `ranking.rs`, do not hand out a longer lifetime.
        unsafe { ScoredRef::at(self.address()) }
    }

    /// Prefetches the member.
    pub(crate) fn prefetch(&self) {
        damselfly_table::prefetch(std::ptr::without_provenance(self.address()));
    }

    pub(super) fn order(self) -> u64 {
        order_of(self.member().score())
    }

    pub(super) fn key(self) -> Key {
        Key {
            order: self.order(),
            address: self.address(),
        }
    }
}

impl Key {
    pub(super) fn of(member: ScoredRef<'_>) -> Self {
        Self {
            order: order_of(member.score()),
            address: member.address(),
        }
    }

    pub(super) fn member<'a>(self) -> ScoredRef<'a> {
        Word(self.address as u64).member()
    }

    #[inline]
    pub(super) fn compare(self, other: Self) -> Ordering {
        let tie = || match self.address == other.address {
            true => Ordering::Equal,
            false => self.member().member().cmp(other.member().member()),
        };
        self.order.cmp(&other.order).then_with(tie)
    }
}

/// The bytes of heap that a vector uses.
pub(super) fn bytes_of<T>(vec: &Vec<T>) -> usize {
    bytes_for::<T>(vec.capacity())
}

/// The bytes of heap that a vector of this capacity uses.
pub(super) fn bytes_for<T>(capacity: usize) -> usize {
    match capacity {
        0 => 0,
        _ => heap::block_bytes(capacity * size_of::<T>()),
    }
}

/// Makes room for one more element. The capacity grows in four steps per doubling, like allocators' size classes.
pub(super) fn make_room<T>(vec: &mut Vec<T>) {
    let len = vec.len();
    if len == vec.capacity() {
        vec.reserve_exact(if len < 8 {
            8 - len
        } else {
            (1 << len.ilog2()) / 4
        });
    }
}

/// Moves the elements to a smaller block if much of the capacity is unused. (Shrinking in place would keep the same
/// allocator block.)
pub(super) fn tighten<T>(vec: &mut Vec<T>) {
    if vec.is_empty() {
        *vec = Vec::new();
    } else if vec.len() * 8 < vec.capacity() * 5 && vec.capacity() > 8 {
        let capacity = (vec.len() + vec.len() / 8).max(8);
        let mut tight = Vec::with_capacity(bytes_for::<T>(capacity) / size_of::<T>());
        tight.append(vec);
        *vec = tight;
    }
}

impl Leaf {
    /// Creates a leaf of these members, which must be in order.
    pub(super) fn new(keys: &[Key]) -> Self {
        let word = |key: &Key| Word(key.address as u64);
        let mut leaf = Self {
            words: keys.iter().map(word).collect(),
            ..Self::default()
        };
        leaf.retag();
        leaf
    }

    pub(super) fn bytes(&self) -> usize {
        bytes_of(&self.words)
    }

    #[inline]
    pub(super) fn tag(&self, order: u64) -> u64 {
        (order.saturating_sub(self.base) >> self.shift).min(TAG_MAX)
    }

    fn word(&self, key: Key) -> Word {
        Word(self.tag(key.order) << TAG_SHIFT | key.address as u64)
    }

    /// The order of the first member, and the ideal shift: with it, the tags of the first and the last member are about half of
    /// the tag range apart.
    fn ideal_shift(&self) -> Option<(u64, u8)> {
        let (first, last) = (self.words.first()?.order(), self.words.last()?.order());
        let bits = 64 - (last - first).leading_zeros();
        Some((first, bits.saturating_sub(15) as u8))
    }

    /// Chooses base and shift for the current members, and recomputes all tags.
    pub(super) fn retag(&mut self) {
        let Some((first, shift)) = self.ideal_shift() else {
            return;
        };
        self.shift = shift;
        // Leaves a quarter of the tag range unused on either side.
        self.base = first.saturating_sub(1 << (14 + shift));
        for index in 0..self.words.len() {
            self.words[index] = self.word(self.words[index].key());
        }
    }

    /// Recomputes the tags if some are clamped or if they are too coarse.
    fn retag_if_poor(&mut self) {
        let (Some(first), Some(last)) = (self.words.first(), self.words.last()) else {
            return;
        };
        let is_clamped = first.tag() == 0 || last.tag() == TAG_MAX;
        if is_clamped
            || self
                .ideal_shift()
                .is_some_and(|(_, shift)| self.shift > shift + 3)
        {
            self.retag();
        }
    }

    /// The index of the first member for which `before` is false. If `order` is given, only members with its tag are checked.
    #[inline]
    pub(super) fn rank_where(&self, order: Option<u64>, before: impl Fn(Key) -> bool) -> usize {
        let (mut low, mut high) = (0, self.words.len());
        if let Some(order) = order {
            let tag = self.tag(order);
            low = self.words.partition_point(|word| word.tag() < tag);
            high = low + self.words[low..].partition_point(|word| word.tag() == tag);
        }
        low + self.words[low..high].partition_point(|word| before(word.key()))
    }

    /// The index of a member, which must be in this leaf.
    pub(super) fn index_of(&self, key: Key) -> usize {
        let tag = self.tag(key.order);
        let low = self.words.partition_point(|word| word.tag() < tag);
        let found = self.words[low..]
            .iter()
            .position(|word| word.address() == key.address);
        // Panics, since the tree would otherwise keep an address that the caller is about to free.
        low + found.expect("a member is found by its score")
    }

    /// Inserts a member. If the leaf overflows, returns its new right sibling.
    pub(super) fn insert(&mut self, key: Key) -> Option<Self> {
        let at = self.rank_where(Some(key.order), |other| other.compare(key).is_lt());
        let len = self.words.len();
        if len < LEAF_MAX {
            if len == self.words.capacity() {
                make_room(&mut self.words);
                self.retag_if_poor();
            }
            self.words.insert(at, self.word(key));
            return None;
        }
        if at == len {
            return Some(Self::sibling_of(self, key));
        }
        if at == 0 {
            let left = Self::sibling_of(self, key);
            return Some(std::mem::replace(self, left));
        }
        let mut right = self.split();
        match at.checked_sub(self.words.len()) {
            None | Some(0) => self.words.insert(at, self.word(key)),
            Some(at) => right.words.insert(at, right.word(key)),
        }
        self.retag_if_poor();
        right.retag_if_poor();
        Some(right)
    }

    /// A new leaf of one member, next to `other`. It uses the same shift, since further members will probably be spaced the same
    /// way.
    fn sibling_of(other: &Self, key: Key) -> Self {
        let mut leaf = Self {
            words: Vec::with_capacity(8),
            base: key.order.saturating_sub(1 << (14 + other.shift)),
            shift: other.shift,
        };
        leaf.words.push(leaf.word(key));
        leaf
    }

    pub(super) fn tighten(&mut self, bytes: &mut usize) {
        let capacity = self.words.capacity();
        tighten(&mut self.words);
        if self.words.capacity() != capacity {
            *bytes += self.bytes();
            *bytes -= bytes_for::<Word>(capacity);
        }
    }

    /// Keeps the first half and returns the second; both get new blocks with little spare room.
    fn split(&mut self) -> Self {
        let half = |words: &[Word]| {
            let mut half = Vec::with_capacity(LEAF_MAX / 2 + LEAF_MAX / 8);
            half.extend_from_slice(words);
            half
        };
        let (left, right) = self.words.split_at(LEAF_MAX / 2);
        let right = Self {
            words: half(right),
            base: self.base,
            shift: self.shift,
        };
        self.words = half(left);
        right
    }
}
