//! Builds entries from collections that exist already, packed or large, with one allocation each: for reading files.

use crate::block::{BYTES_MAX, Block, Kind, Shape};
use crate::large::SharedLarge;
use crate::{Entry, Large};

/// The elements of a listpack, without its header.
#[derive(Clone, Copy, Debug)]
pub struct Elements<'a> {
    /// Their number; not zero.
    pub count: u32,
    /// Their bytes, one element behind the other.
    pub bytes: &'a [u8],
}

/// A small collection to make an entry of. It must be valid and not empty; a wrong one makes later calls panic.
#[derive(Clone, Copy, Debug)]
pub enum NewPacked<'a> {
    /// A list.
    List(Elements<'a>),
    /// A set whose members are all different.
    Set(Elements<'a>),
    /// A set of integers, as `collections/intset.rs` draws them.
    Integers {
        /// Bytes of an integer: 2, 4 or 8.
        width: u8,
        /// The integers, ascending.
        integers: &'a [u8],
    },
    /// A hash without deadlines, as `collections/pairs.rs` draws it; no field twice.
    Hash(Elements<'a>),
    /// A hash with deadlines.
    TimedHash(Elements<'a>),
    /// A sorted set in order; no member twice.
    SortedSet(Elements<'a>),
}

impl Entry {
    /// An entry of this key and a small collection; `deadline_ms` as for [`Entry::new`].
    ///
    /// # Panics
    /// If key or collection exceed 4 GiB.
    pub fn new_packed(key: &[u8], value: NewPacked<'_>, deadline_ms: Option<i64>) -> Self {
        let count;
        let (kind, head, body): (_, &[u8], _) = match &value {
            NewPacked::Integers { width, integers } => {
                (Kind::SetIntegers, std::slice::from_ref(width), *integers)
            }
            NewPacked::List(elements)
            | NewPacked::Set(elements)
            | NewPacked::Hash(elements)
            | NewPacked::TimedHash(elements)
            | NewPacked::SortedSet(elements) => {
                count = elements.count.to_le_bytes();
                (value.kind(), &count, elements.bytes)
            }
        };
        let (block, shape) = block(key, kind, head.len() + body.len(), deadline_ms);
        block.fill(shape.value_at(), head);
        block.fill(shape.value_at() + head.len(), body);
        Self::from_block(block)
    }

    /// An entry of this key and a large collection; `deadline_ms` as for [`Entry::new`].
    ///
    /// # Panics
    /// If the key exceeds 4 GiB.
    pub fn new_large(key: &[u8], large: Large, deadline_ms: Option<i64>) -> Self {
        let kind = match &large {
            Large::Hash(fields) if fields.deadline_count() > 0 => Kind::HashBoxedTtl,
            Large::Hash(_)
            | Large::List(_)
            | Large::Set(_)
            | Large::SortedSet(_)
            | Large::Stream(_) => Kind::Boxed,
        };
        let (block, shape) = block(key, kind, size_of::<usize>(), deadline_ms);
        block.write_address(shape, SharedLarge::new(large).into_raw());
        Self::from_block(block)
    }
}

impl NewPacked<'_> {
    fn kind(&self) -> Kind {
        match self {
            Self::List(_) => Kind::ListPacked,
            Self::Set(_) => Kind::SetPacked,
            Self::Integers { .. } => Kind::SetIntegers,
            Self::Hash(_) => Kind::HashPacked,
            Self::TimedHash(_) => Kind::HashPackedTtl,
            Self::SortedSet(_) => Kind::SortedSetPacked,
        }
    }
}

/// A block with key and deadline; the value is still to be written.
fn block(key: &[u8], kind: Kind, value_len: usize, deadline_ms: Option<i64>) -> (Block, Shape) {
    assert!(
        key.len().max(value_len) <= BYTES_MAX,
        "key or value over 4 GiB"
    );
    let shape = Shape::new(kind, deadline_ms.is_some(), key.len(), value_len);
    let block = Block::new(shape, 0);
    block.fill(shape.key_at(), key);
    if let Some(deadline) = deadline_ms {
        block.write(shape.deadline_at(), deadline.to_le_bytes());
    }
    (block, shape)
}

#[cfg(test)]
mod tests {
    use damselfly_collections::{Element, Fields};

    use super::*;
    use crate::{Collection, Hash, HashRef, List, Set, SortedSet};

    fn elements<'a>(texts: &[&[u8]], bytes: &'a mut Vec<u8>) -> Elements<'a> {
        bytes.clear();
        texts
            .iter()
            .for_each(|text| Element::new(text).append_to(bytes));
        let count = texts.len() as u32;
        Elements { count, bytes }
    }

    #[test]
    fn an_entry_of_packed_bytes_holds_what_they_say() {
        let mut bytes = Vec::new();
        for deadline in [None, Some(12)] {
            let two = elements(&[b"a", b"1"], &mut bytes);
            let list = Entry::new_packed(b"key", NewPacked::List(two), deadline);
            assert_eq!(List::view(list.view()).map(crate::ListRef::len), Some(2));
            let set = Entry::new_packed(b"key", NewPacked::Set(two), deadline);
            assert!(Set::view(set.view()).is_some_and(|set| set.contains(b"1")));
            let hash = Entry::new_packed(b"key", NewPacked::Hash(two), deadline);
            assert_eq!(Hash::view(hash.view()).map(HashRef::len), Some(1));
            let sorted = Entry::new_packed(b"key", NewPacked::SortedSet(two), deadline);
            let sorted = SortedSet::view(sorted.view()).unwrap();
            assert_eq!(sorted.score(b"a"), Some(1.0));
            let timed = elements(&[b"5", b"f", b"v", b"5"], &mut bytes);
            let timed = Entry::new_packed(b"key", NewPacked::TimedHash(timed), deadline);
            assert_eq!(timed.view().first_field_deadline_ms(), Some(5));
            let (width, integers) = (2, &[1, 0, 2, 0][..]);
            let integers = NewPacked::Integers { width, integers };
            let integers = Entry::new_packed(b"key", integers, deadline);
            assert!(Set::view(integers.view()).is_some_and(|set| set.contains(b"2")));
            for entry in [list, set, hash, timed, integers] {
                assert_eq!(entry.view().key(), b"key");
                assert_eq!(entry.view().deadline_ms(), deadline);
            }
        }
    }

    #[test]
    fn a_large_hash_with_a_deadline_is_known_to_expire() {
        for deadline_ms in [None, Some(9)] {
            let mut fields = Fields::new();
            fields.set(b"f", Element::Integer(1), deadline_ms);
            let entry = Entry::new_large(b"key", Large::Hash(fields), None);
            assert_eq!(entry.view().first_field_deadline_ms(), deadline_ms);
            assert_eq!(entry.view().can_expire(), deadline_ms.is_some());
        }
    }
}
