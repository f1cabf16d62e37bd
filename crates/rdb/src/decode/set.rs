//! Sets.
//!
//! ```text
//! plain      | count | string ... |
//! intset     | string: an intset |
//! listpack   | string: a listpack of members |
//! ```

use std::io::Read;

use damselfly_base::number::Decimal;
use damselfly_collections::intset::Intset;
use damselfly_collections::{Members, intset};
use damselfly_value::{Element, Elements, Entry, Large, NewPacked};

use super::{
    Decoder, Head, PACKED_BYTES_MAX, blob, bytes_of, canonical, check_hashes, check_unique,
    hash_of, load,
};
use crate::error::{Duplicate, Fault};
use crate::format::kind;
use crate::input::{Input, Result};

/// The most members for which a large set reserves memory before they arrive.
const ROOM_MAX: u64 = 1 << 12;

impl Decoder<'_> {
    pub(super) fn set<R: Read>(
        &mut self,
        input: &mut Input<R>,
        of: u8,
        head: Head<'_>,
    ) -> Result<Option<Entry>> {
        let packed_max = load(&self.thresholds.set_max_listpack_entries);
        match of {
            kind::SET_INTSET => self.integers(bytes_of(input.string()?), head),
            kind::SET_LISTPACK => {
                let hashes = &mut self.scratch.hashes;
                hashes.clear();
                let elements = blob::listpack_with(bytes_of(input.string()?), |_, member| {
                    hashes.push(hash_of(member));
                    Ok(())
                })?;
                if u64::from(elements.count) > packed_max || elements.bytes.len() > PACKED_BYTES_MAX
                {
                    return large(blob::each(elements), head).map(Some);
                }
                check_hashes(elements, 1, hashes, Duplicate::Member)?;
                Ok(packed(elements, head))
            }
            _ => self.plain_set(input, head),
        }
    }

    fn integers(&mut self, bytes: &[u8], head: Head<'_>) -> Result<Option<Entry>> {
        let (width, integers) = blob::integers(bytes)?;
        let count = integers.len() as u64 / u64::from(width);
        if count > load(&self.thresholds.set_max_intset_entries) {
            let bytes = &mut self.scratch.packed;
            bytes.clear();
            bytes.push(width);
            bytes.extend_from_slice(integers);
            let set = Intset::new(bytes);
            return large(set.iter().map(Element::Integer), head).map(Some);
        }
        let set = NewPacked::Integers { width, integers };
        Ok((count > 0).then(|| Entry::new_packed(head.key, set, head.deadline_ms)))
    }

    fn plain_set<R: Read>(
        &mut self,
        input: &mut Input<R>,
        head: Head<'_>,
    ) -> Result<Option<Entry>> {
        let count = input.length()?;
        let integers_max = load(&self.thresholds.set_max_intset_entries);
        let packed_max = load(&self.thresholds.set_max_listpack_entries);
        let longest_max = load(&self.thresholds.set_max_listpack_value);
        let (mut are_integers, mut fits) = (count <= integers_max, count <= packed_max);
        let (mut left, mut collected) = (count, 0);
        let bytes = &mut self.scratch.elements;
        bytes.clear();
        while left > 0 && (are_integers || fits) {
            let member = canonical(input.string()?);
            are_integers &= matches!(member, Element::Integer(_));
            fits &= member.len() as u64 <= longest_max;
            member.append_to(bytes);
            fits &= bytes.len() <= PACKED_BYTES_MAX;
            are_integers &= bytes.len() <= PACKED_BYTES_MAX;
            left -= 1;
            collected += 1;
        }
        let elements = Elements {
            count: collected,
            bytes: &self.scratch.elements,
        };
        if count == 0 {
            return Ok(None);
        }
        if are_integers {
            return sorted_integers(elements, &mut self.scratch.packed, head).map(Some);
        }
        if fits {
            let hashes = &mut self.scratch.hashes;
            check_unique(elements, 1, hashes, Duplicate::Member)?;
            return Ok(packed(elements, head));
        }
        let mut members = Members::with_capacity(count.min(ROOM_MAX) as usize);
        let mut scratch = Decimal::new();
        for member in blob::each(elements) {
            insert(&mut members, member, &mut scratch)?;
        }
        for _ in 0..left {
            insert(&mut members, input.string()?, &mut scratch)?;
        }
        let large = Large::Set(members);
        Ok(Some(Entry::new_large(head.key, large, head.deadline_ms)))
    }
}

fn packed(elements: Elements<'_>, head: Head<'_>) -> Option<Entry> {
    let set = NewPacked::Set(elements);
    (elements.count > 0).then(|| Entry::new_packed(head.key, set, head.deadline_ms))
}

/// An entry of a set of integers, which may be in any order.
fn sorted_integers(elements: Elements<'_>, bytes: &mut Vec<u8>, head: Head<'_>) -> Result<Entry> {
    let integers = blob::each(elements).filter_map(|element| match element {
        Element::Integer(number) => Some(number),
        Element::Bytes(_) => None,
    });
    let mut integers: Vec<i64> = integers.collect();
    integers.sort_unstable();
    if integers.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(Fault::Duplicate(Duplicate::Member));
    }
    bytes.clear();
    intset::fill(bytes, &integers);
    let set = NewPacked::Integers {
        width: bytes[0],
        integers: &bytes[1..],
    };
    Ok(Entry::new_packed(head.key, set, head.deadline_ms))
}

fn large<'e>(elements: impl Iterator<Item = Element<'e>>, head: Head<'_>) -> Result<Entry> {
    let mut members = Members::new();
    let mut scratch = Decimal::new();
    for element in elements {
        insert(&mut members, element, &mut scratch)?;
    }
    let large = Large::Set(members);
    Ok(Entry::new_large(head.key, large, head.deadline_ms))
}

fn insert(members: &mut Members, member: Element<'_>, scratch: &mut Decimal) -> Result<()> {
    let is_new = members.insert(member.text(scratch));
    is_new
        .then_some(())
        .ok_or(Fault::Duplicate(Duplicate::Member))
}
