//! A small hash: a listpack of its fields, in insertion order.
//!
//! ```text
//! plain   | field | value | field | value | ...
//! timed   | first deadline | field | value | deadline | field | value | deadline | ...
//!
//! deadline         milliseconds since the epoch; 0 for none
//! first deadline   the earliest deadline in the hash; 0 if there is none
//! ```
//!
//! A hash becomes timed when a field gets a deadline for the first time. Deadlines must be positive.

use crate::listpack::{self, Iter, Listpack, Offset};
use crate::{Buffer, Element, FieldRef, Needle};

/// Whether fields can have deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// No; deadlines are not stored.
    Plain,
    /// Yes; each field stores a deadline or 0.
    Timed,
}

impl Layout {
    /// Elements per field.
    const fn stride(self) -> usize {
        match self {
            Self::Plain => 2,
            Self::Timed => 3,
        }
    }

    /// Elements before the first field.
    const fn head(self) -> usize {
        match self {
            Self::Plain => 0,
            Self::Timed => 1,
        }
    }
}

/// A field and its value, the same for every form of a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair<'a> {
    /// The field's name.
    pub field: Element<'a>,
    /// The field's value.
    pub value: Element<'a>,
    /// When the field expires, in milliseconds since the epoch.
    pub deadline_ms: Option<i64>,
}

impl<'a> From<FieldRef<'a>> for Pair<'a> {
    #[inline]
    fn from(field: FieldRef<'a>) -> Self {
        Self {
            field: Element::Bytes(field.field()),
            value: field.value(),
            deadline_ms: field.deadline_ms(),
        }
    }
}

/// A read-only view of a small hash.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'a> {
    listpack: Listpack<'a>,
    layout: Layout,
}

/// An iterator over the fields of a small hash, in insertion order.
#[derive(Clone, Copy, Debug)]
pub struct PairIter<'a> {
    elements: Iter<'a>,
    layout: Layout,
}

impl<'a> Iterator for PairIter<'a> {
    type Item = Pair<'a>;

    #[inline]
    fn next(&mut self) -> Option<Pair<'a>> {
        let field = self.elements.next()?;
        let value = self.elements.next()?;
        let deadline_ms = match self.layout {
            Layout::Plain => None,
            Layout::Timed => deadline_of(self.elements.next()?),
        };
        Some(Pair {
            field,
            value,
            deadline_ms,
        })
    }
}

fn deadline_of(element: Element<'_>) -> Option<i64> {
    match element {
        Element::Integer(deadline) => (deadline != 0).then_some(deadline),
        Element::Bytes(_) => None,
    }
}

fn deadline_element(deadline_ms: Option<i64>) -> Element<'static> {
    Element::Integer(deadline_ms.unwrap_or(0))
}

impl<'a> Pairs<'a> {
    /// Views `bytes` as a hash in this layout.
    #[inline]
    pub fn new(bytes: &'a [u8], layout: Layout) -> Self {
        Self {
            listpack: Listpack::new(bytes),
            layout,
        }
    }

    /// Whether untrusted bytes are a valid small hash. Does not detect two fields with the same name.
    pub fn is_valid(self) -> bool {
        let count = self.listpack.len();
        self.listpack.is_valid()
            && (count == 0
                || count > self.layout.head()
                    && (count - self.layout.head()).is_multiple_of(self.layout.stride()))
    }

    /// The layout.
    #[inline]
    pub fn layout(self) -> Layout {
        self.layout
    }

    /// The number of fields.
    #[inline]
    pub fn len(self) -> usize {
        self.listpack.len().saturating_sub(self.layout.head()) / self.layout.stride()
    }

    /// Whether there are no fields.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// The offset of the first field, even if there is none.
    #[inline]
    fn first(self) -> Offset {
        match self.layout {
            Layout::Plain => Offset::FIRST,
            Layout::Timed if self.listpack.is_empty() => Offset::FIRST,
            Layout::Timed => self.listpack.after(Offset::FIRST),
        }
    }

    fn find(self, field: &[u8]) -> Option<Offset> {
        let skip = self.layout.stride() - 1;
        self.listpack.find(self.first(), skip, &Needle::new(field))
    }

    fn pair_at(self, field: Offset) -> Option<Pair<'a>> {
        let elements = self.listpack.range(field, self.listpack.end());
        let layout = self.layout;
        PairIter { elements, layout }.next()
    }

    fn deadline_at(self, field: Offset) -> Option<i64> {
        self.pair_at(field).and_then(|pair| pair.deadline_ms)
    }

    /// Looks up a field.
    #[inline]
    pub fn get(self, field: &[u8]) -> Option<Pair<'a>> {
        self.find(field).and_then(|offset| self.pair_at(offset))
    }

    /// An iterator over all fields, in insertion order.
    #[inline]
    pub fn iter(self) -> PairIter<'a> {
        PairIter {
            elements: self.listpack.range(self.first(), self.listpack.end()),
            layout: self.layout,
        }
    }

    /// The field at an index.
    pub fn nth(self, index: usize) -> Option<Pair<'a>> {
        let at = index.checked_mul(self.layout.stride())?;
        let offset = self.listpack.seek(at + self.layout.head())?;
        self.pair_at(offset)
    }

    /// The earliest deadline of any field.
    #[inline]
    pub fn first_deadline_ms(self) -> Option<i64> {
        match self.layout {
            Layout::Plain => None,
            Layout::Timed => self
                .listpack
                .first()
                .and_then(|first| deadline_of(self.listpack.at(first))),
        }
    }

    /// The latest deadline, if all fields have one: the hash is then empty after it.
    pub fn expires_ms(self) -> Option<i64> {
        self.first_deadline_ms()?;
        self.iter()
            .map(|pair| pair.deadline_ms)
            .reduce(|last, next| Some(last?.max(next?)))?
    }

    /// The bytes of a timed hash with the same fields.
    pub fn to_timed(self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if self.is_empty() {
            return bytes;
        }
        let fields = self.iter().flat_map(|pair| {
            let deadline = deadline_element(pair.deadline_ms);
            [pair.field, pair.value, deadline]
        });
        let first_deadline = deadline_element(self.first_deadline_ms());
        listpack::append_many(&mut bytes, std::iter::once(first_deadline).chain(fields));
        bytes
    }
}

impl<'a> IntoIterator for Pairs<'a> {
    type Item = Pair<'a>;
    type IntoIter = PairIter<'a>;

    fn into_iter(self) -> PairIter<'a> {
        self.iter()
    }
}

/// A mutable view of a small hash.
pub struct PairsMut<'b, B> {
    buffer: &'b mut B,
    layout: Layout,
}

impl<'b, B: Buffer> PairsMut<'b, B> {
    /// Views the contents of `buffer` as a hash in this layout.
    #[inline]
    pub fn new(buffer: &'b mut B, layout: Layout) -> Self {
        Self { buffer, layout }
    }

    /// A read-only view of the hash.
    #[inline]
    pub fn view(&self) -> Pairs<'_> {
        Pairs::new(self.buffer.bytes(), self.layout)
    }

    /// Sets a field's value and deadline, and returns whether the field is new.
    ///
    /// # Panics
    /// If a deadline is given to a plain hash.
    pub fn set(&mut self, field: &[u8], value: Element<'_>, deadline_ms: Option<i64>) -> bool {
        assert!(
            self.layout == Layout::Timed || deadline_ms.is_none(),
            "only a timed hash stores deadlines"
        );
        if let Some(at) = self.view().find(field) {
            self.replace(at, 1, value);
            self.write_deadline(at, deadline_ms);
            return false;
        }
        let elements = [Element::new(field), value, deadline_element(deadline_ms)];
        if self.layout == Layout::Timed && self.buffer.bytes().is_empty() {
            listpack::push_back(self.buffer, 0);
        }
        let elements = elements[..self.layout.stride()].iter().copied();
        listpack::append_many(self.buffer, elements);
        self.update_first_deadline(None, deadline_ms);
        true
    }

    /// Sets or removes a field's deadline, and returns whether the field exists.
    ///
    /// # Panics
    /// If a deadline is given to a plain hash.
    pub fn set_deadline_ms(&mut self, field: &[u8], deadline_ms: Option<i64>) -> bool {
        let Some(at) = self.view().find(field) else {
            return false;
        };
        assert!(
            self.layout == Layout::Timed || deadline_ms.is_none(),
            "only a timed hash stores deadlines"
        );
        self.write_deadline(at, deadline_ms);
        true
    }

    /// Removes a field, and returns whether it existed.
    pub fn remove(&mut self, field: &[u8]) -> bool {
        let Some(at) = self.view().find(field) else {
            return false;
        };
        let deadline_ms = self.view().deadline_at(at);
        listpack::remove(self.buffer, at, self.layout.stride());
        if self.view().is_empty() {
            self.clear();
        } else {
            self.update_first_deadline(deadline_ms, None);
        }
        true
    }

    /// Removes all bytes, including the first deadline, which must not remain on its own.
    fn clear(&mut self) {
        let len = self.buffer.bytes().len();
        self.buffer.splice(0, len, 0);
    }

    /// Removes the expired fields, calls `gone` with the name of each, and returns how many.
    pub fn remove_expired(&mut self, now_ms: i64, mut gone: impl FnMut(&[u8])) -> usize {
        if self
            .view()
            .first_deadline_ms()
            .is_none_or(|first| first > now_ms)
        {
            return 0;
        }
        let before = self.view().len();
        let (mut kept, mut first_deadline) = (Vec::new(), None);
        for pair in self.view() {
            let Some(deadline) = pair.deadline_ms else {
                kept.push(pair);
                continue;
            };
            if deadline > now_ms {
                kept.push(pair);
                first_deadline =
                    Some(first_deadline.map_or(deadline, |first: i64| first.min(deadline)));
            } else {
                gone(&pair.field.to_vec());
            }
        }
        let count = before - kept.len();
        if kept.is_empty() {
            self.clear();
            return count;
        }
        let fields = kept.into_iter().flat_map(|pair| {
            let deadline = deadline_element(pair.deadline_ms);
            [pair.field, pair.value, deadline]
        });
        let mut bytes = Vec::new();
        let head = std::iter::once(deadline_element(first_deadline));
        listpack::append_many(&mut bytes, head.chain(fields));
        let len = self.buffer.bytes().len();
        self.buffer
            .splice(0, len, bytes.len())
            .copy_from_slice(&bytes);
        count
    }

    /// Replaces the element that is `distance` elements after the one at `field`.
    fn replace(&mut self, field: Offset, distance: usize, element: Element<'_>) {
        let listpack = self.view().listpack;
        let at = (0..distance).fold(field, |at, _| listpack.after(at));
        listpack::replace(self.buffer, at, element);
    }

    fn write_deadline(&mut self, field: Offset, deadline_ms: Option<i64>) {
        if self.layout == Layout::Timed {
            let old_ms = self.view().deadline_at(field);
            self.replace(field, 2, deadline_element(deadline_ms));
            self.update_first_deadline(old_ms, deadline_ms);
        }
    }

    /// Updates the first deadline after a field's deadline changed from `old_ms` to `new_ms`.
    fn update_first_deadline(&mut self, old_ms: Option<i64>, new_ms: Option<i64>) {
        let before = self.view().first_deadline_ms();
        let first_deadline = match new_ms {
            Some(new) if before.is_none_or(|before| new < before) => new_ms,
            Some(_) | None if old_ms.is_some() && old_ms == before => {
                let deadlines = self.view().iter().filter_map(|pair| pair.deadline_ms);
                deadlines.min()
            }
            Some(_) | None => return,
        };
        listpack::replace(self.buffer, Offset::FIRST, deadline_element(first_deadline));
    }
}

#[cfg(test)]
mod tests {
    use damselfly_base::random::Random;

    use super::*;

    type Model = Vec<(Vec<u8>, Vec<u8>, Option<i64>)>;

    fn assert_equal(bytes: &[u8], layout: Layout, model: &Model) {
        let pairs = Pairs::new(bytes, layout);
        assert!(pairs.is_valid());
        assert_eq!(bytes.is_empty(), model.is_empty());
        let seen: Model = pairs
            .iter()
            .map(|pair| (pair.field.to_vec(), pair.value.to_vec(), pair.deadline_ms))
            .collect();
        assert_eq!(&seen, model);
        assert_eq!(pairs.len(), model.len());
        for (index, (field, value, deadline)) in model.iter().enumerate() {
            let pair = pairs.get(field).unwrap();
            assert_eq!(pairs.nth(index), Some(pair));
            assert_eq!(
                (pair.value.to_vec(), pair.deadline_ms),
                (value.clone(), *deadline)
            );
        }
        assert_eq!(pairs.nth(model.len()), None);
        let deadlines = || model.iter().map(|(_, _, deadline)| *deadline);
        let first_deadline = deadlines().flatten().min();
        assert_eq!(pairs.first_deadline_ms(), first_deadline);
        let all = !model.is_empty() && deadlines().all(|deadline| deadline.is_some());
        assert_eq!(
            pairs.expires_ms(),
            deadlines().flatten().max().filter(|_| all)
        );
    }

    #[test]
    fn random_changes_match_a_plain_model() {
        let mut random = Random::for_test();
        let mut random = |below: usize| random.below(below);
        for round in 0..200 {
            let mut layout = if round % 2 == 0 {
                Layout::Plain
            } else {
                Layout::Timed
            };
            let (mut bytes, mut model) = (Vec::new(), Model::new());
            for _ in 0..200 {
                let mut field = random(12).to_string().into_bytes();
                field.resize(field.len() + [0, 0, 0, 80][random(4)], b'f');
                let known = model.iter().position(|(name, _, _)| *name == field);
                let deadline = (layout == Layout::Timed && random(3) == 0)
                    .then(|| 1 + random(1000) as i64 * 100_000_000);
                let mut pairs = PairsMut::new(&mut bytes, layout);
                match random(8) {
                    0..=3 => {
                        let value = match random(3) {
                            0 => ((random(1 << 30) as i64 - (1 << 29)) << random(34))
                                .to_string()
                                .into_bytes(),
                            1 => vec![b'v'; random(40)],
                            _ => vec![0xff; random(5000)],
                        };
                        let is_new = pairs.set(&field, Element::new(&value), deadline);
                        assert_eq!(is_new, known.is_none());
                        match known {
                            Some(at) => model[at] = (field, value, deadline),
                            None => model.push((field, value, deadline)),
                        }
                    }
                    4 => {
                        assert_eq!(pairs.set_deadline_ms(&field, deadline), known.is_some());
                        if let Some(at) = known {
                            model[at].2 = deadline;
                        }
                    }
                    5 => {
                        assert_eq!(pairs.remove(&field), known.is_some());
                        if let Some(at) = known {
                            model.remove(at);
                        }
                    }
                    6 if random(8) == 0 => {
                        let now = random(1000) as i64 * 100_000_000;
                        let is_expired =
                            |deadline: Option<i64>| deadline.is_some_and(|at| at <= now);
                        let before = model.len();
                        model.retain(|(_, _, deadline)| !is_expired(*deadline));
                        assert_eq!(pairs.remove_expired(now, |_| {}), before - model.len());
                    }
                    7 if random(20) == 0 && layout == Layout::Plain => {
                        bytes = Pairs::new(&bytes, layout).to_timed();
                        layout = Layout::Timed;
                    }
                    _ => assert_eq!(pairs.view().get(&field).is_some(), known.is_some()),
                }
                assert_equal(&bytes, layout, &model);
            }
        }
    }

    #[test]
    fn an_incomplete_field_is_refused() {
        let mut bytes = Vec::new();
        assert!(Pairs::new(&bytes, Layout::Plain).is_valid());
        listpack::append_many(&mut bytes, [1, 2, 3].map(Element::Integer).into_iter());
        assert!(!Pairs::new(&bytes, Layout::Plain).is_valid());
        assert!(!Pairs::new(&bytes, Layout::Timed).is_valid());
        listpack::push_back(&mut bytes, 4);
        assert!(Pairs::new(&bytes, Layout::Plain).is_valid());
        assert!(Pairs::new(&bytes, Layout::Timed).is_valid());
    }
}
