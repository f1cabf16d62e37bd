//! Lists: choosing between their forms.
//!
//! A list begins as a listpack in the entry's own block. If a new element would exceed `list-max-listpack-size`, the list
//! becomes a chain; once it shrinks to half of that limit, it becomes a listpack again.

use std::sync::atomic::Ordering::Relaxed;

use damselfly_collections::chain::{Shape, Walk};
use damselfly_collections::listpack::{self, Listpack, Offset};
use damselfly_collections::{Buffer, Chain, Element, Needle, Side};

use crate::block::Kind;
use crate::collection::{Collection, Thresholds, Type};
use crate::{Entry, EntryRef, Large, PackedValue, Value};

/// How much longer Redis's listpack is than ours: counted so that a list changes its form at the same size as in Redis.
const REDIS_EXTRA_BYTES: usize = 3;

const TYPE_CHECKED: &str = "the caller of `edit` checked the type";

/// The list type; never instantiated.
#[derive(Debug)]
pub enum List {}

/// A read-only view of a list.
#[derive(Clone, Copy, Debug)]
pub enum ListRef<'a> {
    /// A listpack.
    Packed(&'a [u8]),
    /// A large list.
    Large(&'a Chain),
}

/// A mutable view of a list.
#[derive(Debug)]
pub struct ListMut<'a> {
    entry: &'a mut Entry,
    thresholds: &'a Thresholds,
}

/// A mutable view of either form.
enum Form<'a> {
    Packed(PackedValue<'a>),
    Large(&'a mut Chain),
}

impl Collection for List {
    const TYPE: Type = Type::List;
    type Ref<'a> = ListRef<'a>;
    type Mut<'a> = ListMut<'a>;

    #[inline]
    fn view(entry: EntryRef<'_>) -> Option<ListRef<'_>> {
        match entry.value() {
            Value::List(list) => Some(list),
            Value::Text(_)
            | Value::Set(_)
            | Value::Hash(_)
            | Value::SortedSet(_)
            | Value::Stream(_) => None,
        }
    }

    #[inline]
    fn edit<'a>(entry: &'a mut Entry, thresholds: &'a Thresholds) -> ListMut<'a> {
        debug_assert_eq!(entry.view().type_of(), Self::TYPE);
        ListMut { entry, thresholds }
    }
}

impl<'a> ListRef<'a> {
    /// The number of elements.
    #[inline]
    pub fn len(self) -> usize {
        match self {
            Self::Packed(bytes) => Listpack::new(bytes).len(),
            Self::Large(chain) => chain.len(),
        }
    }

    /// Whether the list has no elements, which is true only while it is being built.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Calls `read` with the element at `index`.
    pub fn get<R>(self, index: usize, read: impl FnOnce(Element<'_>) -> R) -> Option<R> {
        match self {
            Self::Packed(bytes) => Listpack::new(bytes).get(index).map(read),
            Self::Large(chain) => chain.get(index, read),
        }
    }

    /// The first or the last element.
    #[inline]
    pub fn end(self, side: Side) -> Option<Element<'a>> {
        match self {
            Self::Packed(bytes) => {
                let listpack = Listpack::new(bytes);
                let offset = match side {
                    Side::Left => listpack.first(),
                    Side::Right => listpack.last(),
                };
                offset.map(|offset| listpack.at(offset))
            }
            Self::Large(chain) => chain.end(side),
        }
    }

    /// A walk over the elements, starting at `index` and moving away from the end `from`.
    #[inline]
    pub fn walk(self, index: usize, from: Side) -> Walk<'a> {
        match self {
            Self::Packed(bytes) => Walk::over_listpack(Listpack::new(bytes), index, from),
            Self::Large(chain) => chain.walk(index, from),
        }
    }

    /// The index of the first element that equals `text`.
    pub fn find(self, text: &[u8]) -> Option<usize> {
        let (needle, mut walk) = (Needle::new(text), self.walk(0, Side::Left));
        let mut next_matches = || walk.step().is_some_and(|element| needle.matches(element));
        (0..self.len()).find(|_| next_matches())
    }
}

impl ListMut<'_> {
    /// A read-only view of the list.
    #[inline]
    pub fn view(&self) -> ListRef<'_> {
        List::view(self.entry.view()).expect(TYPE_CHECKED)
    }

    /// Adds elements at one end, one after the other, and returns the new length.
    pub fn push<'e>(
        &mut self,
        side: Side,
        texts: impl DoubleEndedIterator<Item = &'e [u8]> + Clone,
    ) -> usize {
        self.make_room_for(texts.clone());
        match self.form() {
            Form::Packed(mut packed) => {
                match side {
                    Side::Left => {
                        let elements = texts.rev().map(Element::new);
                        listpack::insert_many(&mut packed, Offset::FIRST, elements);
                    }
                    Side::Right => {
                        listpack::append_many(&mut packed, texts.map(Element::new));
                    }
                }
                Listpack::new(packed.bytes()).len()
            }
            Form::Large(chain) => {
                texts.for_each(|text| chain.push(side, Element::new(text)));
                chain.len()
            }
        }
    }

    /// Passes the first or the last element to `read`, then removes it. `None` if the list is empty.
    pub fn pop<R>(&mut self, side: Side, read: impl FnOnce(Element<'_>) -> R) -> Option<R> {
        match self.form() {
            Form::Packed(mut packed) => {
                let listpack = Listpack::new(packed.bytes());
                let (offset, end) = match side {
                    Side::Left => {
                        let first = listpack.first()?;
                        (first, listpack.after(first))
                    }
                    Side::Right => (listpack.last()?, listpack.end()),
                };
                let result = read(listpack.at(offset));
                listpack::remove_range(&mut packed, offset, end, 1);
                Some(result)
            }
            Form::Large(chain) => {
                let result = read(chain.end(side)?);
                chain.remove_end(side, 1);
                self.pack_if_small();
                Some(result)
            }
        }
    }

    /// Inserts an element before the one at `index`, or at the end if there is none.
    pub fn insert(&mut self, index: usize, text: &[u8]) {
        self.make_room_for(std::iter::once(text));
        match self.form() {
            Form::Packed(mut packed) => {
                let listpack = Listpack::new(packed.bytes());
                let offset = listpack.seek(index).unwrap_or(listpack.end());
                listpack::insert(&mut packed, offset, text);
            }
            Form::Large(chain) => chain.insert(index, Element::new(text)),
        }
    }

    /// Replaces the element at `index`, if there is one.
    pub fn replace(&mut self, index: usize, text: &[u8]) {
        self.make_room_for(std::iter::once(text));
        match self.form() {
            Form::Packed(mut packed) => {
                let listpack = Listpack::new(packed.bytes());
                if let Some(offset) = listpack.seek(index) {
                    listpack::replace(&mut packed, offset, text);
                }
            }
            Form::Large(chain) => {
                chain.replace(index, Element::new(text));
                self.pack_if_small();
            }
        }
    }

    /// Removes up to `count` elements at one end.
    pub fn remove_end(&mut self, side: Side, count: usize) {
        match self.form() {
            Form::Packed(mut packed) => {
                let listpack = Listpack::new(packed.bytes());
                let first = match side {
                    Side::Left => 0,
                    Side::Right => listpack.len().saturating_sub(count),
                };
                if let Some(offset) = listpack.seek(first) {
                    listpack::remove(&mut packed, offset, count);
                }
            }
            Form::Large(chain) => {
                chain.remove_end(side, count);
                self.pack_if_small();
            }
        }
    }

    /// Removes up to `count` elements that equal `text`, those nearest to the end `from`, and returns how many were removed.
    pub fn remove_equal(&mut self, text: &[u8], count: usize, from: Side) -> usize {
        let needle = Needle::new(text);
        match self.form() {
            Form::Packed(mut packed) => listpack::remove_equal(&mut packed, &needle, count, from),
            Form::Large(chain) => {
                let removed = chain.remove_equal(&needle, count, from);
                self.pack_if_small();
                removed
            }
        }
    }

    #[inline]
    fn form(&mut self) -> Form<'_> {
        if self.entry.view().kind() == Kind::ListPacked {
            return Form::Packed(PackedValue(self.entry));
        }
        match self.entry.large_mut() {
            Large::List(chain) => Form::Large(chain),
            Large::Set(_) | Large::Hash(_) | Large::SortedSet(_) | Large::Stream(_) => {
                unreachable!("{TYPE_CHECKED}")
            }
        }
    }

    fn shape(&self) -> Shape {
        let size = self.thresholds.list_max_listpack_size.load(Relaxed);
        let depth = self.thresholds.list_compress_depth.load(Relaxed);
        Shape::new(size.into(), usize::try_from(depth).unwrap_or(usize::MAX))
    }

    /// Converts a listpack to a chain if these elements would make it too large.
    #[inline]
    fn make_room_for<'e>(&mut self, mut texts: impl Iterator<Item = &'e [u8]>) {
        if self.entry.view().kind() != Kind::ListPacked {
            return;
        }
        let (shape, listpack) = (self.shape(), Listpack::new(self.entry.packed()));
        let (mut bytes, mut elements) = (listpack.byte_len() + REDIS_EXTRA_BYTES, listpack.len());
        let is_too_large = |text: &[u8]| {
            bytes = bytes.saturating_add(text.len());
            elements += 1;
            !shape.allows(bytes, elements)
        };
        if texts.any(is_too_large) {
            let chain = Chain::from_listpack(listpack, shape);
            self.entry.set_large(Large::List(chain));
        }
    }

    /// Converts a chain to a listpack if it is small enough.
    fn pack_if_small(&mut self) {
        let shape = self.shape().halved();
        if let Form::Large(chain) = self.form()
            && let Some(bytes) = chain.to_listpack(shape)
        {
            self.entry.set_packed(Kind::ListPacked, &bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(entry: &Entry) -> Vec<Vec<u8>> {
        let list = List::view(entry.view()).unwrap();
        let mut walk = list.walk(0, Side::Left);
        let texts = std::iter::from_fn(|| walk.step().map(Element::to_vec)).collect();
        assert_eq!(list.len(), Vec::len(&texts));
        texts
    }

    fn is_packed(entry: &Entry) -> bool {
        matches!(List::view(entry.view()), Some(ListRef::Packed(_)))
    }

    #[test]
    fn a_list_becomes_a_chain_above_the_limit_and_a_listpack_at_half_of_it() {
        let thresholds = Thresholds::default();
        thresholds.list_max_listpack_size.store(8, Relaxed);
        let mut entry = Entry::new_collection(b"key", Type::List, Some(7));
        for number in 0..20_u8 {
            List::edit(&mut entry, &thresholds).push(Side::Right, [&[number][..]].into_iter());
            assert_eq!(is_packed(&entry), number < 8);
        }
        for left in (1..20).rev() {
            List::edit(&mut entry, &thresholds).remove_end(Side::Left, 1);
            assert_eq!(texts(&entry).len(), left);
            assert_eq!(is_packed(&entry), left <= 4, "{left}");
        }
        assert_eq!(texts(&entry), [[19]]);
        assert_eq!(entry.view().deadline_ms(), Some(7));
        assert_eq!(entry.view().key(), b"key");
    }

    #[test]
    fn both_forms_behave_the_same() {
        let long = vec![b'x'; 9000];
        for size in [-2, 2] {
            let thresholds = Thresholds::default();
            thresholds.list_max_listpack_size.store(size, Relaxed);
            let mut entry = Entry::new_collection(b"key", Type::List, None);
            let mut list = List::edit(&mut entry, &thresholds);
            list.push(Side::Left, [&b"c"[..], b"b", b"a"].into_iter());
            list.push(Side::Right, [&b"10"[..], b"b", b"e"].into_iter());
            assert_eq!(list.view().find(b"10"), Some(3));
            assert_eq!(list.view().find(b"f"), None);
            list.insert(3, b"d");
            list.replace(4, b"11");
            assert_eq!(list.remove_equal(b"b", 1, Side::Right), 1);
            assert_eq!(list.view().end(Side::Right), Some(Element::Bytes(b"e")));
            list.replace(5, &long);
            assert_eq!(list.view().get(5, |element| element.len()), Some(9000));
            list.replace(5, b"e");
            list.remove_end(Side::Left, 1);
            assert_eq!(texts(&entry), [&b"b"[..], b"c", b"d", b"11", b"e"]);
            assert_eq!(is_packed(&entry), size == -2);
            List::edit(&mut entry, &thresholds).remove_end(Side::Right, 100);
            assert!(entry.view().is_empty_collection());
        }
    }
}
