//! A large sorted set: a table finds members by name, and a tree keeps them in order; both point to the same blocks.
//!
//! ```text
//! Table<Scored> ──► block of a member: score, length, bytes ◄── Tree
//! ```
//!
//! The table owns the blocks. A member leaves the tree before its score changes or its block is freed.

use std::iter::FusedIterator;
use std::ops::Range;

use damselfly_base::hash;
use damselfly_base::number::Decimal;
use damselfly_table::{Entry, Table};

use crate::packed_ranking::ScoredMember;
use crate::scored::{Scored, ScoredRef};
use crate::tree::{Tree, Word};

/// An iterator prefetches members this many steps before it reaches them.
const PREFETCH_STEPS: usize = 4;

/// Members ordered by score, and by their bytes if scores are equal.
///
/// No score is NaN. Ranks count from 0.
pub struct Ranking {
    // Dropped before the table, which owns the members that the tree points to.
    tree: Tree,
    table: Table<Scored>,
    block_bytes: usize,
}

impl Default for Ranking {
    fn default() -> Self {
        Self::new()
    }
}

impl Ranking {
    /// Creates an empty sorted set; allocates nothing.
    pub fn new() -> Self {
        Self {
            tree: Tree::new(),
            table: Table::dense(),
            block_bytes: 0,
        }
    }

    /// Creates a sorted set of these members, which must be in ascending order. If a member occurs twice, the first occurrence
    /// is kept.
    ///
    /// # Panics
    /// If the members are not in order.
    pub fn of_sorted<'a>(members: impl Iterator<Item = ScoredMember<'a>>) -> Self {
        let mut ranking = Self::new();
        let mut last: Option<ScoredRef<'_>> = None;
        let mut scratch = Decimal::new();
        let members = members.filter_map(|given| {
            let member = given.member.text(&mut scratch);
            let Entry::Vacant(vacant) = ranking.table.entry(hash(member), member) else {
                return None;
            };
            let scored = Scored::new(member, given.score);
            ranking.block_bytes += scored.memory_bytes();
            let address = vacant.insert(scored).get().address();
            // SAFETY: the table keeps the block alive from here on, and nothing else uses the set in the meantime.
            let reference = unsafe { ScoredRef::at(address) };
            assert!(
                last.is_none_or(|last| last.compare(reference).is_lt()),
                "members are in order"
            );
            last = Some(reference);
            Some(reference)
        });
        // SAFETY: the table owns the members, and every method removes a member from the tree before it changes or is freed.
        ranking.tree = unsafe { Tree::of_sorted(members) };
        ranking
    }

    /// The number of members.
    pub fn len(&self) -> usize {
        self.tree.len()
    }

    /// Whether the sorted set is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of heap used by members, table and tree.
    pub fn memory_bytes(&self) -> usize {
        self.block_bytes + self.table.memory_bytes() + self.tree.memory_bytes()
    }

    /// The score of a member.
    pub fn score(&self, member: &[u8]) -> Option<f64> {
        Some(self.table.find(hash(member), member)?.score())
    }

    /// The rank of a member, and its score.
    pub fn rank(&self, member: &[u8]) -> Option<(usize, f64)> {
        let found = self.table.find(hash(member), member)?;
        Some((self.tree.rank(found), found.score()))
    }

    /// Sets a member's score to the result of `rescore`, which receives the current score, or `None` if the member does not
    /// exist. If `rescore` returns `None`, nothing changes. Returns the old score and the result of `rescore`.
    pub fn update(
        &mut self,
        member: &[u8],
        rescore: impl FnOnce(Option<f64>) -> Option<f64>,
    ) -> (Option<f64>, Option<f64>) {
        match self.table.entry(hash(member), member) {
            Entry::Vacant(vacant) => {
                let new = rescore(None);
                if let Some(score) = new {
                    debug_assert!(!score.is_nan());
                    let scored = Scored::new(member, score);
                    self.block_bytes += scored.memory_bytes();
                    let place = vacant.insert(scored);
                    // SAFETY: the table now owns the member, and every method removes it from the tree before it
                    // changes or is freed.
                    unsafe { self.tree.insert(place.get()) };
                }
                (None, new)
            }
            Entry::Occupied(mut place) => {
                let old = place.get().score();
                let new = rescore(Some(old));
                // Zero and negative zero are the same score, so the existing one stays.
                if let Some(score) = new
                    && score != old
                {
                    debug_assert!(!score.is_nan());
                    self.tree.remove(place.get());
                    place.update(|scored| scored.set_score(score));
                    // SAFETY: as above.
                    unsafe { self.tree.insert(place.get()) };
                }
                (Some(old), new)
            }
        }
    }

    /// Sets a member's score, and returns the old one.
    pub fn insert(&mut self, member: &[u8], score: f64) -> Option<f64> {
        self.update(member, |_| Some(score)).0
    }

    /// Removes a member and returns its score.
    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        match self.table.entry(hash(member), member) {
            Entry::Vacant(_) => None,
            Entry::Occupied(place) => {
                self.tree.remove(place.get());
                let scored = place.remove();
                self.block_bytes -= scored.memory_bytes();
                Some(scored.view().score())
            }
        }
    }

    /// Removes the members of these ranks.
    ///
    /// # Panics
    /// If a rank does not exist.
    pub fn remove_range(&mut self, ranks: Range<usize>) {
        let removed = self.tree.remove_range(ranks);
        for (index, word) in removed.iter().enumerate() {
            if let Some(ahead) = removed.get(index + PREFETCH_STEPS) {
                ahead.prefetch();
            }
            let member = word.member().member();
            if let Entry::Occupied(place) = self.table.entry(hash(member), member) {
                self.block_bytes -= place.remove().memory_bytes();
            }
        }
    }

    /// The number of members with a lower score, or with `or_equal`, a lower or equal score.
    pub fn rank_of_score(&self, score: f64, or_equal: bool) -> usize {
        self.tree.rank_of_score(score, or_equal)
    }

    /// The number of members whose bytes sort before `member`, or with `or_equal`, before or equal to it. Only meaningful if
    /// all scores are equal.
    pub fn rank_of_member(&self, member: &[u8], or_equal: bool) -> usize {
        self.tree.rank_of_member(member, or_equal)
    }

    /// The member with this rank.
    pub fn at(&self, rank: usize) -> Option<ScoredRef<'_>> {
        self.range(rank..rank.saturating_add(1)).next()
    }

    /// An iterator over the members of these ranks, from either end. Ranks beyond the last member are ignored.
    pub fn range(&self, ranks: Range<usize>) -> Members<'_> {
        let end = ranks.end.min(self.len());
        Members {
            tree: &self.tree,
            ranks: ranks.start.min(end)..end,
            front: &[],
            back: &[],
        }
    }

    /// An iterator over all members, in order.
    pub fn iter(&self) -> Members<'_> {
        self.range(0..self.len())
    }

    /// Visits some members from `cursor` on and returns the next cursor, or 0 at the end; see [`Table::scan`].
    pub fn scan(&self, cursor: u64, visit: impl FnMut(ScoredRef<'_>)) -> u64 {
        self.table.scan(cursor, visit)
    }

    /// Checks the invariants, for tests.
    #[cfg(test)]
    fn assert_valid(&self) {
        self.tree.assert_valid();
        assert_eq!(self.table.len(), self.tree.len());
        let mut bytes = 0;
        self.table.for_each(|member| {
            let rank = self.tree.rank(member);
            assert!(std::ptr::eq(
                self.at(rank).expect("a member").member(),
                member.member()
            ));
            bytes += Scored::new(member.member(), 0.0).memory_bytes();
        });
        assert_eq!(bytes, self.block_bytes);
    }
}

impl Clone for Ranking {
    fn clone(&self) -> Self {
        Self::of_sorted(self.iter().map(ScoredMember::from))
    }
}

impl std::fmt::Debug for Ranking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pair =
            |scored: ScoredRef<'_>| (scored.member().escape_ascii().to_string(), scored.score());
        f.debug_map().entries(self.iter().map(pair)).finish()
    }
}

impl<'a> IntoIterator for &'a Ranking {
    type Item = ScoredRef<'a>;
    type IntoIter = Members<'a>;

    fn into_iter(self) -> Members<'a> {
        self.iter()
    }
}

/// An iterator over members in order, see [`Ranking::range`].
#[derive(Clone)]
pub struct Members<'a> {
    tree: &'a Tree,
    ranks: Range<usize>,
    /// The members to return next from the front, within one leaf.
    front: &'a [Word],
    /// The members to return next from the back, within one leaf.
    back: &'a [Word],
}

impl<'a> Iterator for Members<'a> {
    type Item = ScoredRef<'a>;

    fn next(&mut self) -> Option<ScoredRef<'a>> {
        let rank = self.ranks.next()?;
        if self.front.is_empty() {
            let (words, index) = self.tree.leaf_at(rank);
            self.front = &words[index..];
            self.front
                .iter()
                .take(PREFETCH_STEPS)
                .for_each(Word::prefetch);
        }
        let (word, rest) = self.front.split_first()?;
        self.front = rest;
        if let Some(ahead) = rest.get(PREFETCH_STEPS - 1) {
            ahead.prefetch();
        }
        Some(word.member())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.ranks.size_hint()
    }

    fn nth(&mut self, skip: usize) -> Option<ScoredRef<'a>> {
        self.front = self.front.get(skip..).unwrap_or_default();
        self.ranks.start = self.ranks.end.min(self.ranks.start.saturating_add(skip));
        self.next()
    }
}

impl DoubleEndedIterator for Members<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let rank = self.ranks.next_back()?;
        if self.back.is_empty() {
            let (words, index) = self.tree.leaf_at(rank);
            self.back = &words[..=index];
        }
        let (word, rest) = self.back.split_last()?;
        self.back = rest;
        if let Some(index) = rest.len().checked_sub(PREFETCH_STEPS) {
            rest[index].prefetch();
        }
        Some(word.member())
    }
}

impl ExactSizeIterator for Members<'_> {}

impl FusedIterator for Members<'_> {}

#[cfg(test)]
mod tests {
    use damselfly_base::random::Random;
    use std::collections::{BTreeSet, HashMap};

    use super::*;
    use crate::Element;
    use crate::scored::order_of;

    /// A simple reference implementation.
    #[derive(Default)]
    struct Model {
        scores: HashMap<Vec<u8>, f64>,
        order: BTreeSet<(u64, Vec<u8>)>,
    }

    impl Model {
        fn insert(&mut self, member: &[u8], score: f64) -> Option<f64> {
            let old = self.scores.insert(member.to_vec(), score);
            if let Some(old) = old {
                self.order.remove(&(order_of(old), member.to_vec()));
            }
            self.order.insert((order_of(score), member.to_vec()));
            old
        }

        fn remove(&mut self, member: &[u8]) -> Option<f64> {
            let old = self.scores.remove(member)?;
            self.order.remove(&(order_of(old), member.to_vec()));
            Some(old)
        }

        fn members(&self) -> Vec<(Vec<u8>, f64)> {
            let pair = |(_, member): &(u64, Vec<u8>)| (member.clone(), self.scores[member]);
            self.order.iter().map(pair).collect()
        }
    }

    fn assert_equal(ranking: &Ranking, model: &Model) {
        ranking.assert_valid();
        let members = model.members();
        let own = |scored: ScoredRef<'_>| (scored.member().to_vec(), scored.score());
        assert_eq!(ranking.iter().map(own).collect::<Vec<_>>(), members);
        let backward: Vec<_> = ranking.iter().rev().map(own).collect();
        assert!(backward.iter().eq(members.iter().rev()));
    }

    /// Inserts, rescores and removes random members, with scores from `score`.
    fn churn(random: &mut Random, size: usize, score: impl Fn(&mut Random) -> f64) {
        let (mut ranking, mut model) = (Ranking::new(), Model::default());
        for inserts_of_8 in [7, 4, 1, 6, 0] {
            for step in 0..size * 2 {
                let mut member = format!("m{}", random.below(size * 2)).into_bytes();
                if random.below(50) == 0 {
                    member.resize(300, b'x');
                }
                if random.below(8) < inserts_of_8 {
                    let score = score(random);
                    assert_eq!(ranking.insert(&member, score), model.insert(&member, score));
                } else {
                    assert_eq!(ranking.remove(&member), model.remove(&member));
                }
                if step % (size / 3) == 0 {
                    assert_equal(&ranking, &model);
                }
            }
            assert_equal(&ranking, &model);
            assert_equal(&ranking.clone(), &model);
            for _ in 0..20 {
                let score = score(random);
                assert_reads_equal(random, &ranking, &model, score);
            }
            let (from, count) = (random.below(ranking.len() + 1), random.below(size));
            let ranks = from..ranking.len().min(from + count);
            for (member, _) in &model.members()[ranks.clone()] {
                model.remove(member);
            }
            ranking.remove_range(ranks);
            assert_equal(&ranking, &model);
        }
        ranking.remove_range(0..ranking.len());
        assert_eq!(ranking.memory_bytes() - ranking.table.memory_bytes(), 0);
    }

    /// Compares the results of read-only methods.
    fn assert_reads_equal(random: &mut Random, ranking: &Ranking, model: &Model, score: f64) {
        let members = model.members();
        for or_equal in [false, true] {
            let below = |other: f64| other < score || or_equal && other == score;
            assert_eq!(
                ranking.rank_of_score(score, or_equal),
                members.iter().filter(|(_, score)| below(*score)).count()
            );
        }
        let from = random.below(members.len() + 2);
        let to = from + random.below(members.len() + 2);
        let expected = members.get(from..to.min(members.len())).unwrap_or_default();
        let own = |scored: ScoredRef<'_>| (scored.member().to_vec(), scored.score());
        assert!(
            ranking
                .range(from..to)
                .map(own)
                .eq(expected.iter().cloned())
        );
        assert!(
            ranking
                .range(from..to)
                .rev()
                .map(own)
                .eq(expected.iter().rev().cloned())
        );
        let skip = random.below(200);
        assert_eq!(
            ranking.range(from..to).nth(skip).map(own),
            expected.get(skip).cloned()
        );
        let mut ends = ranking.range(from..to);
        let mut left = expected;
        while let [first, rest @ ..] = left {
            assert_eq!(ends.next().map(own).as_ref(), Some(first));
            left = rest;
            if let [rest @ .., last] = left {
                assert_eq!(ends.next_back().map(own).as_ref(), Some(last));
                left = rest;
            }
        }
        assert!(ends.next().is_none() && ends.next_back().is_none());
        if let Some((member, score)) = expected.first() {
            assert_eq!(ranking.rank(member), Some((from, *score)));
            assert_eq!(ranking.score(member), Some(*score));
            assert_eq!(ranking.at(from).map(own), expected.first().cloned());
        }
        assert_eq!(ranking.rank(b"absent"), None);
    }

    #[test]
    fn random_scores_match_the_model() {
        let mut random = Random::for_test();
        churn(&mut random, 20, |random| random.below(10) as f64);
        churn(&mut random, 3000, |random| {
            random.below(1 << 40) as f64 / 1e3 - 1e8
        });
    }

    #[test]
    fn extreme_and_equal_scores_match_the_model() {
        let mut random = Random::for_test();
        churn(&mut random, 2000, |random| {
            [
                f64::INFINITY,
                f64::NEG_INFINITY,
                0.0,
                -0.0,
                f64::MAX,
                f64::MIN,
                5e-324,
            ][random.below(7)]
        });
        churn(&mut random, 2000, |_| 7.0);
    }

    #[test]
    fn large_trees_stay_valid() {
        let mut random = Random::for_test();
        let (mut ranking, mut model) = (Ranking::new(), Model::default());
        for index in 0..60_000_u32 {
            let score = random.below(1 << 30) as f64;
            ranking.insert(&index.to_le_bytes(), score);
            model.insert(&index.to_le_bytes(), score);
        }
        assert_equal(&ranking, &model);
        while !ranking.is_empty() {
            let from = random.below(ranking.len());
            let to = ranking.len().min(from + random.below(20_000));
            for (member, _) in &model.members()[from..to] {
                model.remove(member);
            }
            ranking.remove_range(from..to);
            assert_equal(&ranking, &model);
        }
    }

    #[test]
    fn members_with_equal_scores_are_ranked_by_their_bytes() {
        let mut ranking = Ranking::new();
        for index in 0..1000 {
            ranking.insert(format!("m{index:04}").as_bytes(), 0.0);
        }
        assert_eq!(ranking.rank_of_member(b"m0500", false), 500);
        assert_eq!(ranking.rank_of_member(b"m0500", true), 501);
        assert_eq!(ranking.rank_of_member(b"", false), 0);
        assert_eq!(ranking.rank_of_member(b"z", true), 1000);
    }

    #[test]
    fn ascending_and_descending_insertions_fill_the_leaves() {
        let bytes_per_member = |scores: &mut dyn Iterator<Item = u32>| {
            let mut ranking = Ranking::new();
            for score in scores {
                ranking.insert(&score.to_le_bytes(), f64::from(score));
            }
            ranking.assert_valid();
            ranking.tree.memory_bytes() as f64 / ranking.len() as f64
        };
        let ascending = bytes_per_member(&mut (0..50_000));
        let descending = bytes_per_member(&mut (0..50_000).rev());
        assert!(ascending < 9.0, "{ascending}");
        assert!(descending < 9.0, "{descending}");
    }

    /// Bug: if a member occurred twice, its second block was freed and then still compared with the next member. Cause: `last`
    /// was set before the table refused the duplicate. Fix: `last` is set only after the table has accepted the member.
    #[test]
    fn the_first_occurrence_of_a_duplicate_member_is_kept() {
        let scored = |member, score| ScoredMember {
            member: Element::Bytes(member),
            score,
        };
        let members = [
            scored(b"twice", -3.0),
            scored(b"twice", -2.0),
            scored(b"other", -1.0),
        ];
        let ranking = Ranking::of_sorted(members.into_iter());
        ranking.assert_valid();
        let own = |scored: ScoredRef<'_>| (scored.member().to_vec(), scored.score());
        let expected = [(b"twice".to_vec(), -3.0), (b"other".to_vec(), -1.0)];
        assert!(ranking.iter().map(own).eq(expected));
    }

    #[test]
    fn an_update_can_leave_the_score_unchanged() {
        let mut ranking = Ranking::new();
        assert_eq!(ranking.update(b"a", |_| None), (None, None));
        assert!(ranking.is_empty());
        ranking.insert(b"a", 1.0);
        assert_eq!(ranking.update(b"a", |_| None), (Some(1.0), None));
        assert_eq!(
            ranking.update(b"a", |old| old.map(|old| old + 1.0)),
            (Some(1.0), Some(2.0))
        );
        assert_eq!(ranking.score(b"a"), Some(2.0));
    }
}
