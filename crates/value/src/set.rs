//! Sets: choosing between their forms.
//!
//! A set begins as an intset. The first member that is not an integer turns it into a listpack. A member that exceeds the
//! limits turns it into a large set. A set never goes back to a smaller form.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use damselfly_base::number::{Decimal, parse_integer};
use damselfly_collections::intset::{self, Intset};
use damselfly_collections::listpack::{self, Listpack, Offset};
use damselfly_collections::{Element, Members, Needle};

use crate::block::Kind;
use crate::collection::{Collection, Thresholds, Type};
use crate::{Entry, EntryRef, Large, PackedValue, Value};

/// The set type; never instantiated.
#[derive(Debug)]
pub enum Set {}

/// A read-only view of a set.
#[derive(Clone, Copy, Debug)]
pub enum SetRef<'a> {
    /// An intset.
    Integers(&'a [u8]),
    /// A listpack.
    Packed(&'a [u8]),
    /// A large set.
    Large(&'a Members),
}

/// Redis's limit on the members of an intset, whatever the option says.
const INTSET_MAX: usize = 1 << 30;

const NOT_EMPTY: &str = "every index below the length has a member";

/// A mutable view of a set.
#[derive(Debug)]
pub struct SetMut<'a> {
    entry: &'a mut Entry,
    thresholds: &'a Thresholds,
}

impl Collection for Set {
    const TYPE: Type = Type::Set;
    type Ref<'a> = SetRef<'a>;
    type Mut<'a> = SetMut<'a>;

    #[inline]
    fn view(entry: EntryRef<'_>) -> Option<SetRef<'_>> {
        match entry.value() {
            Value::Set(set) => Some(set),
            Value::Text(_)
            | Value::List(_)
            | Value::Hash(_)
            | Value::SortedSet(_)
            | Value::Stream(_) => None,
        }
    }

    #[inline]
    fn edit<'a>(entry: &'a mut Entry, thresholds: &'a Thresholds) -> SetMut<'a> {
        assert_eq!(entry.view().type_of(), Self::TYPE);
        SetMut { entry, thresholds }
    }
}

impl<'a> SetRef<'a> {
    /// The number of members.
    pub fn len(self) -> usize {
        match self {
            Self::Integers(bytes) => Intset::new(bytes).len(),
            Self::Packed(bytes) => Listpack::new(bytes).len(),
            Self::Large(members) => members.len(),
        }
    }

    /// Whether the set has no members, which is true only while it is being built.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Whether the set contains `member`.
    pub fn contains(self, member: &[u8]) -> bool {
        match self {
            Self::Integers(bytes) => {
                parse_integer(member).is_some_and(|number| Intset::new(bytes).contains(number))
            }
            Self::Packed(bytes) => find(bytes, &Needle::new(member)).is_some(),
            Self::Large(members) => members.contains(member),
        }
    }

    /// Whether the set contains a member of another set.
    pub fn has(self, member: Element<'_>) -> bool {
        match (self, member) {
            (Self::Integers(bytes), Element::Integer(number)) => {
                Intset::new(bytes).contains(number)
            }
            (Self::Integers(_) | Self::Packed(_) | Self::Large(_), _) => {
                self.contains(member.text(&mut Decimal::new()))
            }
        }
    }

    /// Visits members until `visit` breaks, and returns the break value.
    pub fn try_for_each<B>(
        self,
        visit: impl FnMut(Element<'a>) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        match self {
            Self::Integers(bytes) => Intset::new(bytes)
                .iter()
                .map(Element::Integer)
                .try_for_each(visit),
            Self::Packed(bytes) => Listpack::new(bytes).iter().try_for_each(visit),
            Self::Large(members) => members.iter().map(Element::Bytes).try_for_each(visit),
        }
    }

    /// Visits all members: those of an intset in ascending order, those of a listpack in insertion order.
    pub fn for_each(self, mut visit: impl FnMut(Element<'a>)) {
        let all = self.try_for_each(|member| {
            visit(member);
            ControlFlow::<()>::Continue(())
        });
        debug_assert!(all.is_continue());
    }

    /// Visits some members from `cursor` on and returns the next cursor, or 0 at the end. Start with 0. A small set is
    /// visited completely in one call, whatever the cursor.
    pub fn scan(self, cursor: u64, mut visit: impl FnMut(Element<'_>)) -> u64 {
        match self {
            Self::Integers(_) | Self::Packed(_) => {
                self.for_each(visit);
                0
            }
            Self::Large(members) => members.scan(cursor, |member| visit(Element::Bytes(member))),
        }
    }

    /// The member that a random number selects; all are equally likely.
    ///
    /// # Panics
    /// If the set is empty.
    pub fn random(self, random: u64) -> Element<'a> {
        match self {
            Self::Integers(bytes) => {
                let set = Intset::new(bytes);
                Element::Integer(set.get(below(set.len(), random)).expect(NOT_EMPTY))
            }
            Self::Packed(bytes) => {
                let listpack = Listpack::new(bytes);
                listpack
                    .get(below(listpack.len(), random))
                    .expect(NOT_EMPTY)
            }
            Self::Large(members) => Element::Bytes(members.random(random).expect(NOT_EMPTY)),
        }
    }
}

impl<'a> SetRef<'a> {
    /// Visits `count` distinct members, or all if there are fewer; every subset is equally likely.
    pub fn sample(
        self,
        count: usize,
        mut random: impl FnMut() -> u64,
        mut visit: impl FnMut(Element<'a>),
    ) {
        /// Drawing members one by one is faster while repeats are rare: for up to a third of the members.
        const MEMBERS_PER_DRAW_MIN: usize = 3;
        if let Self::Large(members) = self
            && count.saturating_mul(MEMBERS_PER_DRAW_MIN) <= members.len()
        {
            let mut seen = HashSet::with_capacity(count);
            while seen.len() < count {
                let Some(member) = members.random(random()) else {
                    break;
                };
                // Every member has its own block, so its address identifies it.
                if seen.insert(member.as_ptr()) {
                    visit(Element::Bytes(member));
                }
            }
            return;
        }
        let mut sampler = Sampler::new(self.len(), count);
        self.for_each(|member| {
            if sampler.selects_next(&mut random) {
                visit(member);
            }
        });
    }
}

/// Selects a random sample from a sequence in one pass (Knuth's selection sampling).
struct Sampler {
    remaining: usize,
    needed: usize,
}

impl Sampler {
    /// Selects `needed` of `remaining` items.
    fn new(remaining: usize, needed: usize) -> Self {
        Self { remaining, needed }
    }

    /// Whether the next item is part of the sample.
    fn selects_next(&mut self, mut random: impl FnMut() -> u64) -> bool {
        let selected = self.needed > 0 && below(self.remaining, random()) < self.needed;
        self.remaining -= 1;
        self.needed -= usize::from(selected);
        selected
    }
}

fn find(bytes: &[u8], needle: &Needle<'_>) -> Option<Offset> {
    Listpack::new(bytes).find(Offset::FIRST, 0, needle)
}

/// Maps a random 64-bit number to a number below `len`.
fn below(len: usize, random: u64) -> usize {
    ((u128::from(random) * len as u128) >> 64) as usize
}

impl SetMut<'_> {
    /// A read-only view of the set.
    pub fn view(&self) -> SetRef<'_> {
        Set::view(self.entry.view()).expect("`edit` checked the type")
    }

    /// Adds a member; false if it was already there.
    pub fn insert(&mut self, member: &[u8]) -> bool {
        match self.view() {
            SetRef::Integers(_) => match parse_integer(member) {
                Some(number) => self.insert_integer(number),
                None => {
                    self.convert_from_intset(member);
                    self.insert(member)
                }
            },
            SetRef::Packed(bytes) => {
                let needle = Needle::new(member);
                if find(bytes, &needle).is_some() {
                    return false;
                }
                let (len, byte_len) = (Listpack::new(bytes).len(), bytes.len());
                if self.fits_listpack(len, member.len(), byte_len) {
                    listpack::push_back(&mut PackedValue(self.entry), member);
                    true
                } else {
                    self.make_large().insert(member)
                }
            }
            SetRef::Large(_) => self.large().insert(member),
        }
    }

    /// Fills an empty set with distinct members of other sets.
    pub fn fill(&mut self, members: &[Element<'_>]) {
        let as_integer = |member: &Element<'_>| match *member {
            Element::Integer(number) => Some(number),
            Element::Bytes(text) => parse_integer(text),
        };
        let integers_max = load(&self.thresholds.set_max_intset_entries);
        if members.len() <= integers_max.min(INTSET_MAX)
            && let Some(mut integers) = members.iter().map(as_integer).collect::<Option<Vec<_>>>()
        {
            integers.sort_unstable();
            let mut packed = Vec::new();
            for integer in integers {
                intset::insert(&mut packed, integer);
            }
            self.entry.set_packed(Kind::SetIntegers, &packed);
            return;
        }
        let mut byte_len = 0;
        let fits = members.iter().enumerate().all(|(len, member)| {
            byte_len += member.encoded_bytes();
            self.fits_listpack(len, member.len(), byte_len)
        });
        if fits {
            let mut packed = Vec::with_capacity(byte_len);
            for member in members {
                let number = as_integer(member).map(Element::Integer);
                listpack::push_back(&mut packed, number.unwrap_or(*member));
            }
            self.entry.set_packed(Kind::SetPacked, &packed);
            return;
        }
        let (mut large, mut scratch) = (Members::with_capacity(members.len()), Decimal::new());
        for member in members {
            large.insert(member.text(&mut scratch));
        }
        self.entry.set_large(Large::Set(large));
    }

    /// Removes a member; false if there was none.
    pub fn remove(&mut self, member: &[u8]) -> bool {
        match self.view() {
            SetRef::Integers(_) => parse_integer(member)
                .is_some_and(|number| intset::remove(&mut PackedValue(self.entry), number)),
            SetRef::Packed(bytes) => {
                let Some(offset) = find(bytes, &Needle::new(member)) else {
                    return false;
                };
                listpack::remove(&mut PackedValue(self.entry), offset, 1);
                true
            }
            SetRef::Large(_) => self.large().remove(member),
        }
    }

    /// Passes the member that a random number selects to `taken`, then removes it. The set must not be empty.
    pub fn take_random<R>(&mut self, random: u64, taken: impl FnOnce(Element<'_>) -> R) -> R {
        let index = below(self.view().len(), random);
        match self.view() {
            SetRef::Integers(_) => {
                let result = taken(self.view().random(random));
                intset::remove_range(&mut PackedValue(self.entry), index..index + 1);
                result
            }
            SetRef::Packed(bytes) => {
                let listpack = Listpack::new(bytes);
                let offset = listpack.seek(index).expect(NOT_EMPTY);
                let result = taken(listpack.at(offset));
                listpack::remove(&mut PackedValue(self.entry), offset, 1);
                result
            }
            SetRef::Large(_) => self
                .large()
                .take_random(random, |member| taken(Element::Bytes(member)))
                .expect(NOT_EMPTY),
        }
    }

    /// Removes `count` random members and passes each to `taken`; every subset is equally likely. The set must have more
    /// than `count` members.
    pub fn take_sample(
        &mut self,
        count: usize,
        mut random: impl FnMut() -> u64,
        mut taken: impl FnMut(Element<'_>),
    ) {
        let kind = match self.view() {
            SetRef::Integers(_) => Kind::SetIntegers,
            SetRef::Packed(_) => Kind::SetPacked,
            SetRef::Large(_) => {
                let members = self.large();
                for _ in 0..count {
                    members.take_random(random(), |member| taken(Element::Bytes(member)));
                }
                return;
            }
        };
        let (mut kept, mut sampler) = (Vec::new(), Sampler::new(self.view().len(), count));
        self.view().for_each(|member| match member {
            member if sampler.selects_next(&mut random) => taken(member),
            Element::Integer(number) if kind == Kind::SetIntegers => {
                intset::insert(&mut kept, number);
            }
            member => listpack::push_back(&mut kept, member),
        });
        self.entry.set_packed(kind, &kept);
    }

    fn insert_integer(&mut self, number: i64) -> bool {
        let mut buffer = PackedValue(self.entry);
        if !intset::insert(&mut buffer, number) {
            return false;
        }
        let entries_max = load(&self.thresholds.set_max_intset_entries).min(INTSET_MAX);
        if self.view().len() > entries_max {
            self.make_large();
        }
        true
    }

    /// Converts the intset so that it can take `member`, which is not an integer.
    fn convert_from_intset(&mut self, member: &[u8]) {
        let integers = self.view();
        let mut longest = member.len();
        if let SetRef::Integers(bytes) = integers {
            let set = Intset::new(bytes);
            let ends = [set.get(0), set.get(set.len().wrapping_sub(1))];
            for number in ends.into_iter().flatten() {
                longest = longest.max(Element::Integer(number).len());
            }
        }
        if self.fits_listpack(integers.len(), longest, 0) {
            let mut packed = Vec::new();
            integers.for_each(|member| listpack::push_back(&mut packed, member));
            self.entry.set_packed(Kind::SetPacked, &packed);
        } else {
            self.make_large();
        }
    }

    /// Whether a listpack of `len` members and `byte_len` bytes may take one more member, of `member_len` bytes.
    fn fits_listpack(&self, len: usize, member_len: usize, byte_len: usize) -> bool {
        /// An upper bound on the bytes that an element takes in addition to its text.
        const OVERHEAD: usize = 16;
        len < load(&self.thresholds.set_max_listpack_entries)
            && member_len <= load(&self.thresholds.set_max_listpack_value)
            && member_len.saturating_add(byte_len) <= listpack::BYTES_MAX - OVERHEAD
    }

    /// Converts the set to a large one.
    fn make_large(&mut self) -> &mut Members {
        let mut members = Members::with_capacity(self.view().len() + 1);
        let mut scratch = Decimal::new();
        self.view().for_each(|member| {
            members.insert(member.text(&mut scratch));
        });
        self.entry.set_large(Large::Set(members));
        self.large()
    }

    /// The members of a large set.
    fn large(&mut self) -> &mut Members {
        match self.entry.large_mut() {
            Large::Set(members) => members,
            Large::List(_) | Large::Hash(_) | Large::SortedSet(_) | Large::Stream(_) => {
                unreachable!("`edit` checked the type")
            }
        }
    }
}

fn load(threshold: &AtomicU64) -> usize {
    usize::try_from(threshold.load(Relaxed)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use damselfly_base::random::Random;
    use std::collections::BTreeSet;

    use super::*;

    fn thresholds(integers: u64, entries: u64, value: u64) -> Thresholds {
        let thresholds = Thresholds::default();
        thresholds.set_max_intset_entries.store(integers, Relaxed);
        thresholds.set_max_listpack_entries.store(entries, Relaxed);
        thresholds.set_max_listpack_value.store(value, Relaxed);
        thresholds
    }

    fn form(entry: &Entry) -> &'static str {
        match Set::view(entry.view()).expect("a set") {
            SetRef::Integers(_) => "integers",
            SetRef::Packed(_) => "packed",
            SetRef::Large(_) => "large",
        }
    }

    fn members(entry: &Entry) -> BTreeSet<Vec<u8>> {
        let (set, mut members) = (Set::view(entry.view()).expect("a set"), BTreeSet::new());
        set.for_each(|member| assert!(members.insert(member.to_vec()), "{member:?} twice"));
        assert_eq!(members.len(), set.len());
        members
    }

    #[test]
    fn each_form_is_converted_at_its_threshold() {
        let thresholds = thresholds(3, 4, 5);
        let after = |members: &[&str]| {
            let mut entry = Entry::new_collection(b"key", Type::Set, None);
            for member in members {
                assert!(Set::edit(&mut entry, &thresholds).insert(member.as_bytes()));
            }
            form(&entry)
        };
        assert_eq!(after(&["1", "2", "3"]), "integers");
        assert_eq!(after(&["1", "2", "3", "4"]), "large");
        assert_eq!(after(&["1", "2", "3", "a"]), "packed");
        assert_eq!(after(&["1", "2", "3", "a", "b"]), "large");
        assert_eq!(after(&["a", "b", "c", "d"]), "packed");
        assert_eq!(after(&["12345"]), "integers");
        assert_eq!(after(&["a", "12345"]), "packed");
        assert_eq!(after(&["a", "123456"]), "large");
        // The integer would be too long for a listpack.
        assert_eq!(after(&["123456", "a"]), "large");
        assert_eq!(after(&["-12345", "1", "a"]), "large");
        assert_eq!(after(&["01", "+1", ""]), "packed");
        assert_eq!(after(&["abcdef"]), "large");
    }

    #[test]
    fn random_changes_match_a_plain_set() {
        let mut random = Random::for_test();
        let mut random = move || random.number();
        let mut seen = BTreeSet::new();
        for round in 0..200 {
            let thresholds = thresholds(random() % 40, random() % 40, random() % 12);
            let mut entry = Entry::new_collection(b"key", Type::Set, (round % 2 == 0).then_some(7));
            let mut model = BTreeSet::new();
            let mut integers_only = true;
            for _ in 0..100 {
                let number = (random() % 60) as i64 - 30;
                let member = match random() % 16 {
                    0 if !integers_only => b"a long member, longer than most".to_vec(),
                    0..4 if !integers_only => format!("m{number}").into_bytes(),
                    4 => (number << (random() % 57)).to_string().into_bytes(),
                    _ => number.to_string().into_bytes(),
                };
                integers_only &= random() % 30 > 0;
                let mut set = Set::edit(&mut entry, &thresholds);
                assert_eq!(set.view().contains(&member), model.contains(&member));
                match random() % 16 {
                    0..9 => assert_eq!(set.insert(&member), model.insert(member)),
                    9 => {
                        model.insert(member);
                        entry = Entry::new_collection(b"key", Type::Set, None);
                        let members: Vec<_> = model.iter().map(|m| Element::Bytes(m)).collect();
                        Set::edit(&mut entry, &thresholds).fill(&members);
                    }
                    10..13 => assert_eq!(set.remove(&member), model.remove(&member)),
                    13 if !model.is_empty() => {
                        let taken = set.take_random(random(), |member| member.to_vec());
                        assert!(model.remove(&taken));
                    }
                    14 if model.len() > 2 => {
                        let count = random() as usize % (model.len() - 1) + 1;
                        let mut taken = BTreeSet::new();
                        set.take_sample(count, &mut random, |member| {
                            taken.insert(member.to_vec());
                        });
                        assert_eq!(taken.len(), count);
                        taken
                            .iter()
                            .for_each(|member| assert!(model.remove(member)));
                    }
                    _ => {
                        let count = random() as usize % (model.len() + 1);
                        let mut picked = BTreeSet::new();
                        set.view().sample(count, &mut random, |member| {
                            picked.insert(member.to_vec());
                        });
                        assert_eq!(picked.len(), count);
                        assert!(picked.is_subset(&model));
                    }
                }
                assert_eq!(members(&entry), model);
                assert_eq!(entry.view().is_empty_collection(), model.is_empty());
                let (set, mut cursor, mut scanned) =
                    (Set::view(entry.view()).expect("a set"), 0, BTreeSet::new());
                loop {
                    cursor = set.scan(cursor, |member| {
                        scanned.insert(member.to_vec());
                    });
                    if cursor == 0 {
                        break;
                    }
                }
                assert_eq!(scanned, model);
                if !model.is_empty() {
                    let member = set.random(random());
                    assert!(model.contains(&member.to_vec()) && set.has(member));
                }
                seen.insert(form(&entry));
            }
            let copy = entry.view().to_entry(b"copy");
            assert_eq!(members(&copy), model);
            assert_eq!(form(&copy), form(&entry));
        }
        assert_eq!(seen.len(), 3, "every form occurs");
    }

    #[test]
    fn samples_are_uniform() {
        let mut random = Random::for_test();
        let mut random = move || random.number();
        for (thresholds, count) in [
            (thresholds(512, 128, 64), 3),
            (thresholds(0, 128, 64), 7),
            (thresholds(0, 0, 0), 2),
            (thresholds(0, 0, 0), 9),
        ] {
            let mut entry = Entry::new_collection(b"key", Type::Set, None);
            for number in 0..10 {
                Set::edit(&mut entry, &thresholds).insert(format!("{number}").as_bytes());
            }
            let mut counts = [0_usize; 10];
            for _ in 0..10_000 {
                Set::view(entry.view())
                    .expect("a set")
                    .sample(count, &mut random, |member| {
                        let text = String::from_utf8(member.to_vec()).expect("digits");
                        counts[text.parse::<usize>().expect("a digit")] += 1;
                    });
            }
            // Ten standard deviations.
            for times in counts {
                assert!(times.abs_diff(count * 1000) < 500, "{count}: {counts:?}");
            }
        }
    }
}
