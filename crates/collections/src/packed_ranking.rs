//! A small sorted set: a listpack of members and scores, in order.
//!
//! ```text
//! | member | score | member | score | ...       ascending by score, then by the bytes of the member
//! ```
//!
//! A whole score is stored as an integer, any other score as text with 17 significant digits, as in Redis.

use std::cmp::Ordering;
use std::iter::FusedIterator;
use std::ops::Range;

use damselfly_base::double::{self, DoubleText};
use damselfly_base::number::Decimal;

use crate::listpack::{self, Listpack, Offset};
use crate::{Buffer, Element, Needle, ScoredRef};

const PAIRED: &str = "a sorted set's listpack has a score for each member";

/// A member of a sorted set, and its score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoredMember<'a> {
    /// The member.
    pub member: Element<'a>,
    /// The score; never NaN.
    pub score: f64,
}

impl ScoredMember<'_> {
    /// The order of sorted sets: by score, then by the bytes of the member.
    pub fn compare(self, other: ScoredMember<'_>) -> Ordering {
        self.compare_to(other.score, other.member.text(&mut Decimal::new()))
    }

    fn compare_to(self, score: f64, member: &[u8]) -> Ordering {
        let by_score = self.score.partial_cmp(&score).unwrap_or(Ordering::Equal);
        by_score.then_with(|| self.member.text(&mut Decimal::new()).cmp(member))
    }
}

impl<'a> From<ScoredRef<'a>> for ScoredMember<'a> {
    fn from(scored: ScoredRef<'a>) -> Self {
        Self {
            member: Element::Bytes(scored.member()),
            score: scored.score(),
        }
    }
}

/// A read-only view of a small sorted set.
#[derive(Clone, Copy, Debug)]
pub struct PackedRanking<'a>(Listpack<'a>);

/// The integer that a score is stored as: for whole scores up to an absolute value of 2^62. Negative zero loses its sign.
pub fn stored_integer(score: f64) -> Option<i64> {
    const WHOLE_MAX: f64 = (1_u64 << 62) as f64;
    (score.abs() <= WHOLE_MAX && score.trunc() == score).then_some(score as i64)
}

/// Calls `with` with the element that represents a score.
fn with_element<R>(score: f64, with: impl FnOnce(Element<'_>) -> R) -> R {
    match stored_integer(score) {
        Some(integer) => with(Element::Integer(integer)),
        None => with(Element::new(DoubleText::new(score).as_bytes())),
    }
}

/// The score that an element represents.
fn score_of(element: Element<'_>) -> Option<f64> {
    match element {
        Element::Integer(number) => Some(number as f64),
        Element::Bytes(text) => double::parse(text),
    }
}

impl<'a> PackedRanking<'a> {
    /// Views `bytes` as a small sorted set.
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(Listpack::new(bytes))
    }

    /// Whether untrusted bytes are a valid sorted set: members and scores, in order, without duplicate members.
    pub fn is_valid(bytes: &[u8]) -> bool {
        let listpack = Listpack::new(bytes);
        if !listpack.is_valid() || !listpack.len().is_multiple_of(2) {
            return false;
        }
        let scores = listpack.iter().skip(1).step_by(2);
        if !scores.clone().all(|score| score_of(score).is_some()) {
            return false;
        }
        let set = PackedRanking(listpack);
        let mut members: Vec<_> = set.iter().map(|scored| scored.member.to_vec()).collect();
        members.sort_unstable();
        let before = set.iter();
        let mut after = set.iter();
        after.next();
        before.zip(after).all(|(a, b)| a.compare(b).is_lt())
            && members.windows(2).all(|pair| pair[0] != pair[1])
    }

    /// The number of members.
    #[inline]
    pub fn len(self) -> usize {
        self.0.len() / 2
    }

    /// Whether the sorted set is empty.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The size in bytes.
    pub fn byte_len(self) -> usize {
        self.0.byte_len()
    }

    /// The offset of a member.
    #[inline]
    pub fn find(self, member: &[u8]) -> Option<Offset> {
        self.0.find(Offset::FIRST, 1, &Needle::new(member))
    }

    /// The score of the member at `offset`.
    pub fn score_at(self, offset: Offset) -> f64 {
        score_of(self.0.at(self.0.after(offset))).expect(PAIRED)
    }

    /// The score of a member.
    pub fn score(self, member: &[u8]) -> Option<f64> {
        Some(self.score_at(self.find(member)?))
    }

    /// The rank of a member, and its score.
    pub fn rank(self, member: &[u8]) -> Option<(usize, f64)> {
        let found = self.find(member)?;
        let before = self.0.range(Offset::FIRST, found).count() / 2;
        Some((before, self.score_at(found)))
    }

    /// An iterator over the members of these ranks, from either end. Ranks beyond the last member are ignored.
    pub fn range(self, ranks: Range<usize>) -> PackedScoredMembers<'a> {
        let end = ranks.end.min(self.len());
        let start = ranks.start.min(end);
        let offset = |rank: usize| self.0.seek(rank * 2).unwrap_or(self.0.end());
        PackedScoredMembers {
            elements: self.0.range(offset(start), offset(end)),
            len: end - start,
        }
    }

    /// All members.
    #[inline]
    pub fn iter(self) -> PackedScoredMembers<'a> {
        PackedScoredMembers {
            elements: self.0.iter(),
            len: self.len(),
        }
    }

    /// The ranks of the members that are neither `below` nor `above` a range. `below` must be true for a prefix of the members
    /// only, and `above` for a suffix only.
    pub fn ranks_where(
        self,
        below: impl Fn(ScoredMember<'a>) -> bool,
        above: impl Fn(ScoredMember<'a>) -> bool,
    ) -> Range<usize> {
        let mut rank = 0;
        let mut start = None;
        for scored in self.iter() {
            if start.is_none() && !below(scored) {
                start = Some(rank);
            }
            if start.is_some() && above(scored) {
                break;
            }
            rank += 1;
        }
        start.unwrap_or(rank)..rank
    }

    /// The offset at which to insert a member with this score.
    fn insertion_offset(self, score: f64, member: &[u8]) -> Offset {
        let Some(last) = self.iter().next_back() else {
            return Offset::FIRST;
        };
        // Ascending insertions are common.
        if last.compare_to(score, member).is_lt() {
            return self.0.end();
        }
        let mut walk = self.iter();
        loop {
            let offset = walk.elements.offset();
            match walk.next() {
                Some(scored) if scored.compare_to(score, member).is_lt() => {}
                Some(_) | None => return offset,
            }
        }
    }

    /// Whether the member at `offset` would keep its position with another score.
    fn keeps_position(self, offset: Offset, score: f64, member: &[u8]) -> bool {
        let pair_before = || {
            let score = self.0.previous(offset)?;
            self.0.previous(score)
        };
        let scored_at = |offset: Offset| ScoredMember {
            member: self.0.at(offset),
            score: self.score_at(offset),
        };
        let pair_after = || self.0.next(self.0.next(offset)?);
        pair_before().is_none_or(|before| scored_at(before).compare_to(score, member).is_lt())
            && pair_after().is_none_or(|after| scored_at(after).compare_to(score, member).is_gt())
    }
}

/// Inserts a new member, which must not exist yet.
pub fn insert(buffer: &mut impl Buffer, member: &[u8], score: f64) {
    let offset = PackedRanking::new(buffer.bytes()).insertion_offset(score, member);
    with_element(score, |score| {
        let pair = [Element::new(member), score];
        listpack::insert_many(buffer, offset, pair.into_iter());
    });
}

/// Appends a member, which must be above all others.
pub fn push_back(buffer: &mut impl Buffer, scored: ScoredMember<'_>) {
    with_element(scored.score, |score| {
        listpack::append_many(buffer, [scored.member, score].into_iter());
    });
}

/// Changes the score of `member`, which is stored at `offset`.
pub fn rescore(buffer: &mut impl Buffer, offset: Offset, member: &[u8], score: f64) {
    let set = PackedRanking::new(buffer.bytes());
    if set.keeps_position(offset, score, member) {
        let at = set.0.after(offset);
        with_element(score, |score| listpack::replace(buffer, at, score));
    } else {
        remove(buffer, offset);
        insert(buffer, member, score);
    }
}

/// Removes the member at `offset`.
pub fn remove(buffer: &mut impl Buffer, offset: Offset) {
    listpack::remove(buffer, offset, 2);
}

/// Removes the members of these ranks, which must exist.
pub fn remove_range(buffer: &mut impl Buffer, ranks: Range<usize>) {
    let set = PackedRanking::new(buffer.bytes());
    if let Some(offset) = set.0.seek(ranks.start * 2) {
        listpack::remove(buffer, offset, ranks.len() * 2);
    }
}

/// An iterator over members in order, see [`PackedRanking::range`].
#[derive(Clone, Debug)]
pub struct PackedScoredMembers<'a> {
    elements: listpack::Iter<'a>,
    len: usize,
}

impl<'a> Iterator for PackedScoredMembers<'a> {
    type Item = ScoredMember<'a>;

    #[inline]
    fn next(&mut self) -> Option<ScoredMember<'a>> {
        let member = self.elements.next()?;
        let score = self.elements.next().and_then(score_of).expect(PAIRED);
        self.len -= 1;
        Some(ScoredMember { member, score })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len, Some(self.len))
    }
}

impl DoubleEndedIterator for PackedScoredMembers<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let score = self.elements.next_back().map(score_of)?.expect(PAIRED);
        let member = self.elements.next_back().expect(PAIRED);
        self.len -= 1;
        Some(ScoredMember { member, score })
    }
}

impl ExactSizeIterator for PackedScoredMembers<'_> {}

impl FusedIterator for PackedScoredMembers<'_> {}

#[cfg(test)]
mod tests {
    use damselfly_base::random::Random;

    use super::*;
    use crate::Ranking;

    #[test]
    fn random_changes_match_a_large_sorted_set() {
        const SCORES: [f64; 8] = [
            0.0,
            1.0,
            1.0,
            -3.5,
            0.1,
            1e20,
            f64::INFINITY,
            f64::NEG_INFINITY,
        ];
        let mut random = Random::for_test();
        let mut next = move |below: usize| random.below(below);
        let (mut bytes, mut model) = (Vec::new(), Ranking::new());
        for _ in 0..5000 {
            let member = match next(3) {
                0 => next(60).to_string().into_bytes(),
                _ => vec![b'a' + next(26) as u8; next(70)],
            };
            let set = PackedRanking::new(&bytes);
            match (next(5), set.find(&member)) {
                (0, _) => {
                    let start = next(set.len() + 1);
                    let ranks = start..set.len().min(start + next(4));
                    model.remove_range(ranks.clone());
                    remove_range(&mut bytes, ranks);
                }
                (1, Some(found)) => {
                    assert_eq!(Some(set.score_at(found)), model.remove(&member));
                    remove(&mut bytes, found);
                }
                (1, None) => assert_eq!(model.remove(&member), None),
                (_, found) => {
                    let score = SCORES[next(SCORES.len())];
                    assert_eq!(model.insert(&member, score), set.score(&member));
                    match found {
                        Some(found) => rescore(&mut bytes, found, &member, score),
                        None => insert(&mut bytes, &member, score),
                    }
                }
            }
            let set = PackedRanking::new(&bytes);
            assert_eq!(set.len(), model.len());
            let own = |scored: ScoredMember<'_>| (scored.member.to_vec(), scored.score);
            let theirs = |scored: ScoredRef<'_>| (scored.member().to_vec(), scored.score());
            assert!(set.iter().map(own).eq(model.iter().map(theirs)));
            let start = next(set.len() + 2);
            let ranks = start..start + next(9);
            assert!(
                set.range(ranks.clone())
                    .rev()
                    .map(own)
                    .eq(model.range(ranks.clone()).rev().map(theirs))
            );
            assert_eq!(set.rank(&member), model.rank(&member));
            let score = SCORES[next(SCORES.len())];
            let ranks = set.ranks_where(|other| other.score < score, |other| other.score > score);
            assert_eq!(
                ranks,
                model.rank_of_score(score, false)..model.rank_of_score(score, true)
            );
            assert!(PackedRanking::is_valid(&bytes));
        }
    }

    #[test]
    fn invalid_sorted_sets_are_refused() {
        let bytes = |elements: &[&[u8]]| {
            let mut bytes = Vec::new();
            listpack::append_many(&mut bytes, elements.iter().map(|text| Element::new(text)));
            bytes
        };
        assert!(PackedRanking::is_valid(&bytes(&[b"a", b"1", b"b", b"1.5"])));
        assert!(PackedRanking::is_valid(&bytes(&[
            b"a", b"-inf", b"b", b"-inf"
        ])));
        for broken in [
            &[&b"a"[..]][..],
            &[b"a", b"1", b"b"],
            &[b"a", b"nan"],
            &[b"a", b""],
            &[b"a", b"2", b"b", b"1"],
            &[b"b", b"1", b"a", b"1"],
            &[b"a", b"1", b"a", b"2"],
            &[b"a", b"1", b"a", b"1"],
        ] {
            assert!(!PackedRanking::is_valid(&bytes(broken)), "{broken:?}");
        }
    }
}
