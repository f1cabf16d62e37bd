//! Sorted sets: the choice between their forms.
//!
//! A small one is a listpack. It becomes large when it has more members, or a longer one, than the options say, and stays
//! so.

use std::iter::FusedIterator;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use damselfly_base::number::Decimal;
use damselfly_collections::{
    PackedRanking, PackedScorings, Ranking, ScoredMembers, Scoring, listpack, packed_ranking,
};

use crate::block::Kind;
use crate::collection::{Collection, Thresholds, Type};
use crate::{Entry, EntryRef, Large, PackedValue, Value};

/// The type itself.
#[derive(Debug)]
pub enum SortedSet {}

/// A sorted set, to read.
#[derive(Clone, Copy, Debug)]
pub enum SortedSetRef<'a> {
    /// A listpack of members and scores.
    Packed(&'a [u8]),
    /// A large one.
    Large(&'a Ranking),
}

/// A sorted set, to change.
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
    /// The lowest score.
    pub min: f64,
    /// Whether that score itself is left out.
    pub min_excluded: bool,
    /// The highest score.
    pub max: f64,
    /// Whether that score itself is left out.
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
    /// At this member, which belongs to the range.
    Included(&'a [u8]),
    /// At this member, which does not belong to the range.
    Excluded(&'a [u8]),
}

/// The members between two members, for sorted sets whose scores are all equal.
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
    #[expect(clippy::len_without_is_empty, reason = "no key holds an empty one")]
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

    /// The members of these ranks, as far as there are so many; a walk from either end.
    pub fn range(self, ranks: Range<usize>) -> Scorings<'a> {
        match self {
            Self::Packed(bytes) => Scorings::Packed(PackedRanking::new(bytes).range(ranks)),
            Self::Large(ranking) => Scorings::Large(ranking.range(ranks)),
        }
    }

    /// All members.
    pub fn iter(self) -> Scorings<'a> {
        self.range(0..self.len())
    }

    /// The ranks of the members between two scores.
    pub fn ranks_by_score(self, range: ScoreRange) -> Range<usize> {
        match self {
            Self::Packed(bytes) => PackedRanking::new(bytes).ranks_where(
                |scoring| range.is_below(scoring.score),
                |scoring| range.is_above(scoring.score),
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
                |scoring| range.is_below(scoring.member.text(&mut Decimal::new())),
                |scoring| range.is_above(scoring.member.text(&mut Decimal::new())),
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

    /// The integer that a score is stored as, if this form of sorted set stores integers and it is one.
    pub fn stored_integer(self, score: f64) -> Option<i64> {
        match self {
            Self::Packed(_) => packed_ranking::stored_integer(score),
            Self::Large(_) => None,
        }
    }

    /// Visits some members from position `cursor` on, and returns the next position, or 0 at the end. Start with 0.
    ///
    /// A member that is there all the time is visited, whatever happens between the calls.
    pub fn scan(self, cursor: u64, mut visit: impl FnMut(Scoring<'_>)) -> u64 {
        match self {
            Self::Packed(bytes) => {
                PackedRanking::new(bytes).iter().for_each(visit);
                0
            }
            Self::Large(ranking) => ranking.scan(cursor, |scored| visit(scored.into())),
        }
    }
}

/// A walk over members in order.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "it borrows all of the set")]
pub enum Scorings<'a> {
    /// Of a small sorted set.
    Packed(PackedScorings<'a>),
    /// Of a large one.
    Large(ScoredMembers<'a>),
}

impl<'a> Iterator for Scorings<'a> {
    type Item = Scoring<'a>;

    #[inline]
    fn next(&mut self) -> Option<Scoring<'a>> {
        match self {
            Self::Packed(scorings) => scorings.next(),
            Self::Large(members) => members.next().map(Scoring::from),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            Self::Packed(scorings) => scorings.size_hint(),
            Self::Large(members) => members.size_hint(),
        }
    }
}

impl DoubleEndedIterator for Scorings<'_> {
    #[inline]
    fn next_back(&mut self) -> Option<Self::Item> {
        match self {
            Self::Packed(scorings) => scorings.next_back(),
            Self::Large(members) => members.next_back().map(Scoring::from),
        }
    }
}

impl ExactSizeIterator for Scorings<'_> {}

impl FusedIterator for Scorings<'_> {}

/// What [`SortedSetMut::update`] found and made of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Update {
    /// The score before; `None` if the member was not there.
    pub old: Option<f64>,
    /// The score that was asked for; `None` if it was left as it is.
    pub new: Option<f64>,
}

impl SortedSetMut<'_> {
    /// The sorted set, to read.
    #[inline]
    pub fn view(&self) -> SortedSetRef<'_> {
        SortedSet::view(self.entry.view()).expect("`edit` checked the type")
    }

    /// Gives a member the score that `rescore` makes of the one it has, which is `None` if it is not there. If `rescore`
    /// returns `None`, nothing changes.
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
                if self.packs(set.len() + 1, member.len(), set.byte_len()) {
                    packed_ranking::insert(&mut PackedValue(self.entry), member, new);
                } else {
                    self.enlarge();
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

    /// Removes the members of these ranks, which are there.
    pub fn remove_range(&mut self, ranks: Range<usize>) {
        match self.view() {
            SortedSetRef::Packed(_) => {
                packed_ranking::remove_range(&mut PackedValue(self.entry), ranks);
            }
            SortedSetRef::Large(_) => self.large().remove_range(ranks),
        }
    }

    /// Fills an empty sorted set with members in order, no two alike. The iterator runs twice.
    pub fn fill<'m>(&mut self, members: impl Iterator<Item = Scoring<'m>> + Clone) {
        let (mut count, mut longest, mut bytes) = (0, 0, 0);
        for scoring in members.clone() {
            count += 1;
            longest = longest.max(scoring.member.len());
            bytes += scoring.member.len() + BYTES_BESIDE_MEMBER;
        }
        if self.packs(count, longest, bytes) {
            let mut packed = Vec::new();
            members.for_each(|scoring| packed_ranking::push_back(&mut packed, scoring));
            self.entry.set_packed(Kind::SortedSetPacked, &packed);
        } else {
            self.entry
                .set_large(Large::SortedSet(Ranking::of_sorted(members)));
        }
    }

    /// Whether a listpack of `byte_len` bytes may become one of `len` members, with one of `member_len` bytes.
    fn packs(&self, len: usize, member_len: usize, byte_len: usize) -> bool {
        len <= load(&self.thresholds.zset_max_listpack_entries)
            && member_len <= load(&self.thresholds.zset_max_listpack_value)
            && member_len.saturating_add(byte_len) <= listpack::BYTES_MAX - BYTES_BESIDE_MEMBER
    }

    /// Makes it a large one.
    fn enlarge(&mut self) {
        let SortedSetRef::Packed(bytes) = self.view() else {
            return;
        };
        let ranking = Ranking::of_sorted(PackedRanking::new(bytes).iter());
        self.entry.set_large(Large::SortedSet(ranking));
    }

    /// The large one that it is.
    fn large(&mut self) -> &mut Ranking {
        match self.entry.large_mut() {
            Large::SortedSet(ranking) => ranking,
            Large::List(_) | Large::Set(_) | Large::Hash(_) | Large::Stream(_) => {
                unreachable!("`edit` checked the type")
            }
        }
    }
}

/// The most bytes that a member takes in a listpack beside its own: its header and its score.
const BYTES_BESIDE_MEMBER: usize = 64;

fn load(threshold: &AtomicU64) -> usize {
    usize::try_from(threshold.load(Relaxed)).unwrap_or(usize::MAX)
}
