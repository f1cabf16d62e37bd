//! Sorted sets.
//!
//! ```text
//! text scores   | count | member | score | ... |
//!               a score is u8 and so many bytes of text; 253 for NaN, 254 and 255 for infinity and minus infinity
//! binary scores | count | member | f64 | ... |
//! ziplist, listpack   | string of that form: members and scores in turn, ascending |
//! ```

use std::io::Read;

use damselfly_base::double;
use damselfly_collections::listpack::HEADER_BYTES;
use damselfly_collections::{Ranking, ScoredMember, packed_ranking};
use damselfly_value::{Element, Elements, Entry, Large, NewPacked};

use super::{
    Decoder, Head, PACKED_BYTES_MAX, Scratch, blob, bytes_of, canonical, check_hashes,
    check_unique, hash_of, load,
};
use crate::error::{Duplicate, Fault, Form};
use crate::format::kind;
use crate::input::{Input, Result, append_text};

/// Members and their scores, in any order.
#[derive(Default)]
pub(super) struct Scored {
    /// The texts of all members, without separators.
    texts: Vec<u8>,
    members: Vec<Place>,
}

/// A member.
#[derive(Clone, Copy)]
struct Place {
    score: f64,
    /// Its position in the texts.
    start: usize,
    len: usize,
}

impl Scored {
    fn clear(&mut self) {
        self.texts.clear();
        self.members.clear();
    }

    pub(super) fn shrink(&mut self) {
        self.clear();
        self.texts.shrink_to(super::SCRATCH_BYTES_MAX);
        self.members
            .shrink_to(super::SCRATCH_BYTES_MAX / size_of::<Place>());
    }

    fn push_score(&mut self, start: usize, score: f64) {
        let len = self.texts.len() - start;
        self.members.push(Place { score, start, len });
    }

    fn text(&self, place: Place) -> &[u8] {
        &self.texts[place.start..place.start + place.len]
    }

    /// Sorts the members. In files they are ascending or descending.
    fn sort(&mut self) {
        let (texts, members) = (&self.texts, &mut self.members);
        let text = |place: &Place| &texts[place.start..place.start + place.len];
        let compare = |a: &Place, b: &Place| {
            let by_score = a.score.partial_cmp(&b.score).expect("no score is NaN");
            by_score.then_with(|| text(a).cmp(text(b)))
        };
        if members.is_sorted_by(|a, b| compare(a, b).is_gt()) {
            members.reverse();
        } else if !members.is_sorted_by(|a, b| compare(a, b).is_lt()) {
            members.sort_unstable_by(compare);
        }
    }

    fn scored_members(&self) -> impl Iterator<Item = ScoredMember<'_>> {
        self.members.iter().map(|&place| ScoredMember {
            member: Element::Bytes(self.text(place)),
            score: place.score,
        })
    }

    /// Checks that no member occurs twice with the same score.
    fn check_order(&self) -> Result<()> {
        let is_same = |pair: &[Place]| {
            pair[0].score == pair[1].score && self.text(pair[0]) == self.text(pair[1])
        };
        let has_same = self.members.windows(2).any(is_same);
        (!has_same)
            .then_some(())
            .ok_or(Fault::Duplicate(Duplicate::Member))
    }

    /// An entry of these members.
    fn finish(
        &mut self,
        is_small: bool,
        packed: &mut Vec<u8>,
        hashes: &mut Vec<u64>,
        head: Head<'_>,
    ) -> Result<Option<Entry>> {
        if self.members.is_empty() {
            return Ok(None);
        }
        self.sort();
        self.check_order()?;
        if !is_small {
            let ranking = Ranking::of_sorted(self.scored_members());
            if ranking.len() < self.members.len() {
                return Err(Fault::Duplicate(Duplicate::Member));
            }
            let large = Large::SortedSet(ranking);
            return Ok(Some(Entry::new_large(head.key, large, head.deadline_ms)));
        }
        packed.clear();
        for scoring in self.scored_members() {
            let member = canonical(scoring.member);
            packed_ranking::push_back(packed, ScoredMember { member, ..scoring });
        }
        let elements = Elements {
            count: self.members.len() as u32 * 2,
            bytes: &packed[HEADER_BYTES..],
        };
        check_unique(elements, 2, hashes, Duplicate::Member)?;
        let set = NewPacked::SortedSet(elements);
        Ok(Some(Entry::new_packed(head.key, set, head.deadline_ms)))
    }
}

impl Decoder<'_> {
    pub(super) fn sorted_set<R: Read>(
        &mut self,
        input: &mut Input<R>,
        of: u8,
        head: Head<'_>,
    ) -> Result<Option<Entry>> {
        if matches!(of, kind::SORTED_SET | kind::SORTED_SET_BINARY) {
            return self.plain_sorted_set(input, of, head);
        }
        let Scratch {
            elements: bytes,
            packed,
            hashes,
            scored,
            ..
        } = &mut self.scratch;
        let blob = bytes_of(input.string()?);
        let mut order = Order::new(hashes);
        let (form, elements) = if of == kind::SORTED_SET_LISTPACK {
            let visit = |index, element| order.see(index, element);
            (Form::Listpack, blob::listpack_with(blob, visit)?)
        } else {
            bytes.clear();
            let count = blob::ziplist(blob, bytes)?;
            let elements = Elements { count, bytes };
            (0..)
                .zip(blob::each(elements))
                .try_for_each(|(index, element)| order.see(index, element))?;
            (Form::Ziplist, elements)
        };
        let is_in_order = order.is_right;
        if !elements.count.is_multiple_of(2) {
            return Err(Fault::Packed {
                form,
                at: 0,
                problem: "a member without score",
            });
        }
        let members_max = load(&self.thresholds.zset_max_listpack_entries);
        let is_small = u64::from(elements.count / 2) <= members_max
            && elements.bytes.len() <= PACKED_BYTES_MAX;
        if is_in_order && is_small {
            check_hashes(elements, 2, hashes, Duplicate::Member)?;
            let set = NewPacked::SortedSet(elements);
            let is_empty = elements.count == 0;
            return Ok((!is_empty).then(|| Entry::new_packed(head.key, set, head.deadline_ms)));
        }
        scored.clear();
        let mut each = blob::each(elements);
        while let (Some(member), Some(score)) = (each.next(), each.next()) {
            let start = scored.texts.len();
            append_text(member, &mut scored.texts);
            scored.push_score(start, score_of(score)?);
        }
        scored.finish(is_small, packed, hashes, head)
    }

    fn plain_sorted_set<R: Read>(
        &mut self,
        input: &mut Input<R>,
        of: u8,
        head: Head<'_>,
    ) -> Result<Option<Entry>> {
        let scored = &mut self.scratch.scored;
        scored.clear();
        let count = input.length()?;
        let mut longest = 0;
        for _ in 0..count {
            let start = scored.texts.len();
            append_text(input.string()?, &mut scored.texts);
            longest = longest.max(scored.texts.len() - start);
            let score = match of {
                kind::SORTED_SET_BINARY => f64::from_bits(input.u64_le()?),
                _ => text_score(input)?,
            };
            if score.is_nan() {
                return Err(Fault::BadScore);
            }
            scored.push_score(start, score);
        }
        let is_small = count <= load(&self.thresholds.zset_max_listpack_entries)
            && longest as u64 <= load(&self.thresholds.zset_max_listpack_value)
            && scored.texts.len() <= PACKED_BYTES_MAX;
        let (packed, hashes) = (&mut self.scratch.packed, &mut self.scratch.hashes);
        scored.finish(is_small, packed, hashes, head)
    }
}

/// Checks whether members arrive in ascending order of score and then of their bytes, and collects their hashes.
struct Order<'e, 'h> {
    hashes: &'h mut Vec<u64>,
    member: Element<'e>,
    last: Option<ScoredMember<'e>>,
    is_right: bool,
}

impl<'e, 'h> Order<'e, 'h> {
    fn new(hashes: &'h mut Vec<u64>) -> Self {
        hashes.clear();
        Self {
            hashes,
            member: Element::Integer(0),
            last: None,
            is_right: true,
        }
    }

    /// Checks a member, or the score of the one before.
    #[inline]
    fn see(&mut self, index: u32, element: Element<'e>) -> Result<()> {
        if index.is_multiple_of(2) {
            self.member = element;
            self.hashes.push(hash_of(element));
            return Ok(());
        }
        let (member, score) = (self.member, score_of(element)?);
        let scoring = ScoredMember { member, score };
        let is_above = |last: ScoredMember<'_>| last.score < score || last.compare(scoring).is_lt();
        self.is_right &= self.last.is_none_or(is_above);
        self.last = Some(scoring);
        Ok(())
    }
}

fn score_of(element: Element<'_>) -> Result<f64> {
    match element {
        Element::Integer(number) => Ok(number as f64),
        Element::Bytes(text) => double::parse(text).ok_or(Fault::BadScore),
    }
}

fn text_score<R: Read>(input: &mut Input<R>) -> Result<f64> {
    Ok(match input.byte()? {
        253 => return Err(Fault::BadScore),
        254 => f64::INFINITY,
        255 => f64::NEG_INFINITY,
        len => {
            let text = input.bytes(len.into())?;
            double::parse(text).ok_or(Fault::BadScore)?
        }
    })
}
