//! A leaf: addresses of members under tags.

use std::cmp::Ordering;

use damselfly_base::heap;

use crate::scored::{ScoredRef, order_of};

/// Most members in a leaf.
pub(super) const LEAF_MAX: usize = 128;

const TAG_SHIFT: u32 = 48;
const TAG_MAX: u64 = 0xffff;

/// A member's address under a tag.
#[derive(Clone, Copy)]
pub(crate) struct Word(u64);

/// A member and the order of its score.
#[derive(Clone, Copy)]
pub(super) struct Place {
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

    /// The member; it lives for as long as the tree that the word is in.
    #[inline]
    pub(crate) fn member<'a>(self) -> ScoredRef<'a> {
        // SAFETY: words are made from the addresses of members that live while their words are in a tree (the promise
        // of `insert`), and this file and `ranking.rs`, which alone know words, give out no longer lifetime.
        unsafe { ScoredRef::at(self.address()) }
    }

    /// Starts loading the member.
    pub(crate) fn prefetch(&self) {
        damselfly_table::prefetch(std::ptr::without_provenance(self.address()));
    }

    pub(super) fn order(self) -> u64 {
        order_of(self.member().score())
    }

    pub(super) fn place(self) -> Place {
        Place {
            order: self.order(),
            address: self.address(),
        }
    }
}

impl Place {
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

/// The heap bytes of a vector.
pub(super) fn bytes_of<T>(vec: &Vec<T>) -> usize {
    bytes_for::<T>(vec.capacity())
}

/// The heap bytes of a vector of this capacity.
pub(super) fn bytes_for<T>(capacity: usize) -> usize {
    match capacity {
        0 => 0,
        _ => heap::block_bytes(capacity * size_of::<T>()),
    }
}

/// Makes room for one more element: four steps per doubling, as allocators have them.
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

/// Moves what is left to a smaller block if much of the room is unused. (Shrinking in place would leave the allocator's
/// block as it is.)
pub(super) fn tighten<T>(vec: &mut Vec<T>) {
    if vec.is_empty() {
        *vec = Vec::new();
    } else if vec.len() * 8 < vec.capacity() * 5 && vec.capacity() > 8 {
        let wanted = (vec.len() + vec.len() / 8).max(8);
        let mut tight = Vec::with_capacity(bytes_for::<T>(wanted) / size_of::<T>());
        tight.append(vec);
        *vec = tight;
    }
}

impl Leaf {
    /// A leaf of these members, in order.
    pub(super) fn new(places: &[Place]) -> Self {
        let word = |place: &Place| Word(place.address as u64);
        let mut leaf = Self {
            words: places.iter().map(word).collect(),
            ..Self::default()
        };
        leaf.tune();
        leaf
    }

    pub(super) fn bytes(&self) -> usize {
        bytes_of(&self.words)
    }

    #[inline]
    pub(super) fn tag(&self, order: u64) -> u64 {
        (order.saturating_sub(self.base) >> self.shift).min(TAG_MAX)
    }

    fn word(&self, place: Place) -> Word {
        Word(self.tag(place.order) << TAG_SHIFT | place.address as u64)
    }

    /// The orders of the first and the last member, and the shift that suits them: their tags are half of all apart.
    fn ideal_shift(&self) -> Option<(u64, u8)> {
        let (first, last) = (self.words.first()?.order(), self.words.last()?.order());
        let bits = 64 - (last - first).leading_zeros();
        Some((first, bits.saturating_sub(15) as u8))
    }

    /// Gives all members tags that suit them.
    pub(super) fn tune(&mut self) {
        let Some((first, shift)) = self.ideal_shift() else {
            return;
        };
        self.shift = shift;
        // A quarter of all tags is left on either side.
        self.base = first.saturating_sub(1 << (14 + shift));
        for index in 0..self.words.len() {
            self.words[index] = self.word(self.words[index].place());
        }
    }

    /// Tunes if tags are cut off or tell too little.
    fn tune_if_poor(&mut self) {
        let (Some(first), Some(last)) = (self.words.first(), self.words.last()) else {
            return;
        };
        let cut_off = first.tag() == 0 || last.tag() == TAG_MAX;
        if cut_off
            || self
                .ideal_shift()
                .is_some_and(|(_, shift)| self.shift > shift + 3)
        {
            self.tune();
        }
    }

    /// How many members stand before the first that is not `before`; only those that `order` could be among are asked.
    #[inline]
    pub(super) fn rank_where(&self, order: Option<u64>, before: impl Fn(Place) -> bool) -> usize {
        let (mut low, mut high) = (0, self.words.len());
        if let Some(order) = order {
            let tag = self.tag(order);
            low = self.words.partition_point(|word| word.tag() < tag);
            high = low + self.words[low..].partition_point(|word| word.tag() == tag);
        }
        low + self.words[low..high].partition_point(|word| before(word.place()))
    }

    /// The place of a member that is here.
    pub(super) fn index_of(&self, place: Place) -> usize {
        let tag = self.tag(place.order);
        let low = self.words.partition_point(|word| word.tag() < tag);
        let found = self.words[low..]
            .iter()
            .position(|word| word.address() == place.address);
        // Otherwise the tree would keep an address that its caller is about to free.
        low + found.expect("members are found by their score")
    }

    /// Inserts a member; what does not fit comes back as the right sibling.
    pub(super) fn insert(&mut self, place: Place) -> Option<Self> {
        let at = self.rank_where(Some(place.order), |other| other.compare(place).is_lt());
        let len = self.words.len();
        if len < LEAF_MAX {
            if len == self.words.capacity() {
                make_room(&mut self.words);
                self.tune_if_poor();
            }
            self.words.insert(at, self.word(place));
            return None;
        }
        if at == len {
            return Some(Self::beside(self, place));
        }
        if at == 0 {
            let left = Self::beside(self, place);
            return Some(std::mem::replace(self, left));
        }
        let mut right = self.split();
        match at.checked_sub(self.words.len()) {
            None | Some(0) => self.words.insert(at, self.word(place)),
            Some(at) => right.words.insert(at, right.word(place)),
        }
        self.tune_if_poor();
        right.tune_if_poor();
        Some(right)
    }

    /// A leaf of one member, which expects more at the distances that they have in the leaf beside it.
    fn beside(other: &Self, place: Place) -> Self {
        let mut leaf = Self {
            words: Vec::with_capacity(8),
            base: place.order.saturating_sub(1 << (14 + other.shift)),
            shift: other.shift,
        };
        leaf.words.push(leaf.word(place));
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

    /// Keeps the first half and returns the second, both in blocks of their size.
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
