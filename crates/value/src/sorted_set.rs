//! Sorted sets: choosing between their forms.
//!
//! A small sorted set is a listpack. It becomes large when it gets more members, or a longer member, than the options
//! allow, and stays large.

use std::iter::FusedIterator;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use damselfly_base::number::Decimal;
use damselfly_collections::{
    PackedRanking, PackedScoredMembers, Ranking, RankingMembers, ScoredMember, listpack,
    packed_ranking,
};

use crate::block::Kind;
use crate::collection::{Collection, Thresholds, Type};
use crate::{Entry, EntryRef, Large, PackedValue, Value};

/// The sorted set type; never instantiated.
#[derive(Debug)]
pub enum SortedSet {}

/// A read-only view of a sorted set.
#[derive(Clone, Copy, Debug)]
pub enum SortedSetRef<'a> {
    /// A listpack of members and scores.
    Packed(&'a [u8]),
    /// A large sorted set.
    Large(&'a Ranking),
}

/// A mutable view of a sorted set.
#[derive(Debug)]
pub struct SortedSetMut<'a> {
    entry: &'a mut Entry,
    thresholds: &'a Thresholds,
}

impl Collection for SortedSet {
    const TYPE: Type = Type::SortedSet;
    type Ref<'a> = SortedSetRef<'a>;
    type Mut<'a> = SortedSetMut<'a>;

    #[inline]
    fn view(entry: EntryRef<'_>) -> Option<SortedSetRef<'_>> {
        match entry.value() {
            Value::SortedSet(sorted_set) => Some(sorted_set),
            Value::Text(_) | Value::List(_) | Value::Set(_) | Value::Hash(_) | Value::Stream(_) => {
                None
            }
        }
    }

    fn edit<'a>(entry: &'a mut Entry, thresholds: &'a Thresholds) -> SortedSetMut<'a> {
        assert_eq!(entry.view().type_of(), Self::TYPE);
        SortedSetMut { entry, thresholds }
    }
}

/// The members between two scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoreRange {
    /// The lower bound.
    pub min: f64,
    /// Whether the range excludes the lower bound itself.
    pub min_excluded: bool,
    /// The upper bound.
    pub max: f64,
    /// Whether the range excludes the upper bound itself.
    pub max_excluded: bool,
}

impl ScoreRange {
    fn is_below(self, score: f64) -> bool {
        score < self.min || self.min_excluded && score == self.min
    }

    fn is_above(self, score: f64) -> bool {
        score > self.max || self.max_excluded && score == self.max
    }
}

/// One end of a range of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberEnd<'a> {
    /// Below all members.
    Lowest,
    /// Above all members.
    Highest,
    /// This member, which is part of the range.
    Included(&'a [u8]),
    /// This member, which is not part of the range.
    Excluded(&'a [u8]),
}

/// The members between two members, for a sorted set whose scores are all equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberRange<'a> {
    /// The lower end.
    pub min: MemberEnd<'a>,
    /// The upper end.
    pub max: MemberEnd<'a>,
}

impl MemberRange<'_> {
    fn is_below(self, member: &[u8]) -> bool {
        match self.min {
            MemberEnd::Lowest => false,
            MemberEnd::Highest => true,
            MemberEnd::Included(min) => member < min,
            MemberEnd::Excluded(min) => member <= min,
        }
    }

    fn is_above(self, member: &[u8]) -> bool {
        match self.max {
            MemberEnd::Lowest => true,
            MemberEnd::Highest => false,
            MemberEnd::Included(max) => member > max,
            MemberEnd::Excluded(max) => member >= max,
        }
    }
}

impl<'a> SortedSetRef<'a> {
    /// The number of members.
    #[inline]
    #[expect(
        clippy::len_without_is_empty,
        reason = "no key holds an empty sorted set"
    )]
    pub fn len(self) -> usize {
        match self {
            Self::Packed(bytes) => PackedRanking::new(bytes).len(),
            Self::Large(ranking) => ranking.len(),
        }
    }

    /// The score of a member.
    #[inline]
    pub fn score(self, member: &[u8]) -> Option<f64> {
        match self {
            Self::Packed(bytes) => PackedRanking::new(bytes).score(member),
            Self::Large(ranking) => ranking.score(member),
        }
    }

    /// The rank of a member, counted from 0, and its score.
    pub fn rank(self, member: &[u8]) -> Option<(usize, f64)> {
        match self {
            Self::Packed(bytes) => PackedRanking::new(bytes).rank(member),
            Self::Large(ranking) => ranking.rank(member),
        }
    }

    /// An iterator over the members of these ranks, from either end. Ranks beyond the last member are ignored.
    pub fn range(self, ranks: Range<usize>) -> ScoredMembers<'a> {
        match self {
            Self::Packed(bytes) => ScoredMembers::Packed(PackedRanking::new(bytes).range(ranks)),
            Self::Large(ranking) => ScoredMembers::Large(ranking.range(ranks)),
        }
    }

    /// All members.
    pub fn iter(self) -> ScoredMembers<'a> {
        self.range(0..self.len())
    }

    /// The ranks of the members between two scores.
    pub fn ranks_by_score(self, range: ScoreRange) -> Range<usize> {
        match self {
            Self::Packed(bytes) => PackedRanking::new(bytes).ranks_where(
                |scored| range.is_below(scored.score),
                |scored| range.is_above(scored.score),
            ),
            Self::Large(ranking) => {
                let start = ranking.rank_of_score(range.min, range.min_excluded);
                let end = ranking.rank_of_score(range.max, !range.max_excluded);
                start..end.max(start)
            }
        }
    }

    /// The ranks of the members between two members, if all scores are equal.
    pub fn ranks_by_member(self, range: MemberRange<'_>) -> Range<usize> {
        match self {
            Self::Packed(bytes) => PackedRanking::new(bytes).ranks_where(
                |scored| range.is_below(scored.member.text(&mut Decimal::new())),
                |scored| range.is_above(scored.member.text(&mut Decimal::new())),
            ),
            Self::Large(ranking) => {
                let rank = |end, or_equal: [bool; 2]| match end {
                    MemberEnd::Lowest => 0,
                    MemberEnd::Highest => ranking.len(),
                    MemberEnd::Included(member) => ranking.rank_of_member(member, or_equal[0]),
                    MemberEnd::Excluded(member) => ranking.rank_of_member(member, or_equal[1]),
                };
                let start = rank(range.min, [false, true]);
                let end = rank(range.max, [true, false]);
                start..end.max(start)
            }
        }
    }

    /// The integer that a score is stored as; `None` if it is not an integer, or if this form does not store integers.
    pub fn stored_integer(self, score: f64) -> Option<i64> {
        match self {
            Self::Packed(_) => packed_ranking::stored_integer(score),
            Self::Large(_) => None,
        }
    }

    /// Visits some members from `cursor` on and returns the next cursor, or 0 at the end. Start with 0.
    ///
    /// A member that stays in the sorted set for the whole scan is visited, whatever changes between the calls.
    pub fn scan(self, cursor: u64, mut visit: impl FnMut(ScoredMember<'_>)) -> u64 {
        match self {
            Self::Packed(bytes) => {
                PackedRanking::new(bytes).iter().for_each(visit);
                0
            }
            Self::Large(ranking) => ranking.scan(cursor, |scored| visit(scored.into())),
        }
    }
}

/// An iterator over members in order.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "it borrows the whole set")]
pub enum ScoredMembers<'a> {
    /// The members of a small sorted set.
    Packed(PackedScoredMembers<'a>),
    /// The members of a large sorted set.
    Large(RankingMembers<'a>),
}

impl<'a> Iterator for ScoredMembers<'a> {
    type Item = ScoredMember<'a>;

    #[inline]
    fn next(&mut self) -> Option<ScoredMember<'a>> {
        match self {
            Self::Packed(members) => members.next(),
            Self::Large(members) => members.next().map(ScoredMember::from),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            Self::Packed(members) => members.size_hint(),
            Self::Large(members) => members.size_hint(),
        }
    }
}

impl DoubleEndedIterator for ScoredMembers<'_> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        match self {
            Self::Packed(members) => members.next_back(),
            Self::Large(members) => members.next_back().map(ScoredMember::from),
        }
    }
}

impl ExactSizeIterator for ScoredMembers<'_> {}

impl FusedIterator for ScoredMembers<'_> {}

/// The outcome of [`SortedSetMut::update`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// The old score; `None` if the member did not exist.
    pub old: Option<f64>,
    /// The score that the caller chose; `None` if it chose to change nothing.
    pub new: Option<f64>,
}

impl SortedSetMut<'_> {
    /// A read-only view of the sorted set.
    #[inline]
    pub fn view(&self) -> SortedSetRef<'_> {
        SortedSet::view(self.entry.view()).expect("`edit` checked the type")
    }

    /// Sets a member's score to the result of `rescore`, which receives the current score, or `None` if the member does not
    /// exist. If `rescore` returns `None`, nothing changes.
    pub fn update(
        &mut self,
        member: &[u8],
        rescore: impl FnOnce(Option<f64>) -> Option<f64>,
    ) -> Update {
        let set = match self.view() {
            SortedSetRef::Packed(bytes) => PackedRanking::new(bytes),
            SortedSetRef::Large(_) => {
                let (old, new) = self.large().update(member, rescore);
                return Update { old, new };
            }
        };
        let found = set.find(member).map(|at| (at, set.score_at(at)));
        let old = found.map(|(_, score)| score);
        let new = rescore(old);
        match (found, new) {
            (_, None) => {}
            (Some((at, old)), Some(new)) => {
                if old != new {
                    packed_ranking::rescore(&mut PackedValue(self.entry), at, member, new);
                }
            }
            (None, Some(new)) => {
                if self.fits_listpack(set.len() + 1, member.len(), set.byte_len()) {
                    packed_ranking::insert(&mut PackedValue(self.entry), member, new);
                } else {
                    self.make_large();
                    self.large().insert(member, new);
                }
            }
        }
        Update { old, new }
    }

    /// Removes a member and returns its score.
    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        match self.view() {
            SortedSetRef::Packed(bytes) => {
                let set = PackedRanking::new(bytes);
                let at = set.find(member)?;
                let score = set.score_at(at);
                packed_ranking::remove(&mut PackedValue(self.entry), at);
                Some(score)
            }
            SortedSetRef::Large(_) => self.large().remove(member),
        }
    }

    /// Removes the members of these ranks, which must exist.
    pub fn remove_range(&mut self, ranks: Range<usize>) {
        match self.view() {
            SortedSetRef::Packed(_) => {
                packed_ranking::remove_range(&mut PackedValue(self.entry), ranks);
            }
            SortedSetRef::Large(_) => self.large().remove_range(ranks),
        }
    }

    /// Fills an empty sorted set with distinct members in ascending order. The iterator runs twice.
    pub fn fill<'m>(&mut self, members: impl Iterator<Item = ScoredMember<'m>> + Clone) {
        let (mut count, mut longest, mut bytes) = (0, 0, 0);
        for scored in members.clone() {
            count += 1;
            longest = longest.max(scored.member.len());
            bytes += scored.member.len() + OVERHEAD_BYTES_MAX;
        }
        if self.fits_listpack(count, longest, bytes) {
            let mut packed = Vec::new();
            members.for_each(|scored| packed_ranking::push_back(&mut packed, scored));
            self.entry.set_packed(Kind::SortedSetPacked, &packed);
        } else {
            self.entry
                .set_large(Large::SortedSet(Ranking::of_sorted(members)));
        }
    }

    /// Whether a listpack of `byte_len` bytes may grow to `len` members, the longest of which has `member_len` bytes.
    fn fits_listpack(&self, len: usize, member_len: usize, byte_len: usize) -> bool {
        len <= load(&self.thresholds.zset_max_listpack_entries)
            && member_len <= load(&self.thresholds.zset_max_listpack_value)
            && member_len.saturating_add(byte_len) <= listpack::BYTES_MAX - OVERHEAD_BYTES_MAX
    }

    /// Converts the sorted set to a large one.
    fn make_large(&mut self) {
        let SortedSetRef::Packed(bytes) = self.view() else {
            return;
        };
        let ranking = Ranking::of_sorted(PackedRanking::new(bytes).iter());
        self.entry.set_large(Large::SortedSet(ranking));
    }

    /// The members of a large sorted set.
    fn large(&mut self) -> &mut Ranking {
        match self.entry.large_mut() {
            Large::SortedSet(ranking) => ranking,
            Large::List(_) | Large::Set(_) | Large::Hash(_) | Large::Stream(_) => {
                unreachable!("`edit` checked the type")
            }
        }
    }
}

/// An upper bound on the bytes that a member takes in a listpack in addition to its text: its header and its score.
const OVERHEAD_BYTES_MAX: usize = 64;

fn load(threshold: &AtomicU64) -> usize {
    usize::try_from(threshold.load(Relaxed)).unwrap_or(usize::MAX)
}
