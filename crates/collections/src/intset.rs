//! Intset: a set of integers in one contiguous run of bytes.
//!
//! ```text
//! | width: u8 | integer | integer | ...
//! ```
//!
//! The integers are in ascending order, little-endian, and all of the same width: 2, 4 or 8 bytes. Adding an integer that does
//! not fit widens all of them; they never narrow again. The empty set is either no bytes at all or a width alone.

use std::ops::Range;

use crate::Buffer;

/// A read-only view of a set of integers.
#[derive(Clone, Copy, Debug)]
pub struct Intset<'a> {
    width: usize,
    integers: &'a [u8],
}

impl<'a> Intset<'a> {
    /// Views `bytes`, which must be a valid set (see [`validate`]).
    #[inline]
    pub fn new(bytes: &'a [u8]) -> Self {
        match bytes.split_first() {
            Some((&width, integers)) => Self {
                width: usize::from(width),
                integers,
            },
            None => Self {
                width: 2,
                integers: &[],
            },
        }
    }

    /// The number of integers.
    #[inline]
    pub fn len(self) -> usize {
        self.integers.len() / self.width
    }

    /// Whether the set is empty.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.integers.is_empty()
    }

    /// The size of each integer in bytes: 2, 4 or 8.
    pub fn width(self) -> usize {
        self.width
    }

    /// The bytes of the integers, little-endian.
    pub fn bytes(self) -> &'a [u8] {
        self.integers
    }

    /// The integer at an index in ascending order.
    #[inline]
    pub fn get(self, index: usize) -> Option<i64> {
        let at = index.checked_mul(self.width)?;
        self.integers
            .get(at..)?
            .get(..self.width)
            .map(|bytes| match self.width {
                2 => integer::<2>(bytes),
                4 => integer::<4>(bytes),
                _ => integer::<8>(bytes),
            })
    }

    /// All integers in ascending order.
    pub fn iter(self) -> impl ExactSizeIterator<Item = i64> + DoubleEndedIterator + 'a {
        self.range(0..self.len())
    }

    /// The integers at these indices, which must exist.
    pub fn range(
        self,
        indices: Range<usize>,
    ) -> impl ExactSizeIterator<Item = i64> + DoubleEndedIterator + 'a {
        indices.map(move |index| self.get(index).expect("the caller's range exists"))
    }

    /// Whether the set contains the integer.
    #[inline]
    pub fn contains(self, number: i64) -> bool {
        self.search(number).is_ok()
    }

    /// The index of the integer, or the index at which to insert it.
    #[inline]
    fn search(self, number: i64) -> Result<usize, usize> {
        match self.width {
            2 => search::<2>(self.integers, number),
            4 => search::<4>(self.integers, number),
            _ => search::<8>(self.integers, number),
        }
    }
}

#[inline]
fn search<const WIDTH: usize>(integers: &[u8], number: i64) -> Result<usize, usize> {
    let (integers, _) = integers.as_chunks::<WIDTH>();
    integers.binary_search_by_key(&number, |bytes| integer::<WIDTH>(bytes))
}

/// Decodes a little-endian integer of `WIDTH` bytes.
#[inline]
fn integer<const WIDTH: usize>(bytes: &[u8]) -> i64 {
    let mut word = [0; 8];
    word[8 - WIDTH..].copy_from_slice(bytes);
    i64::from_le_bytes(word) >> (64 - 8 * WIDTH)
}

/// The narrowest width for an integer.
fn width_of(number: i64) -> usize {
    if i16::try_from(number).is_ok() {
        2
    } else if i32::try_from(number).is_ok() {
        4
    } else {
        8
    }
}

/// Whether untrusted bytes are a valid set: a known width, and whole integers in strictly ascending order.
pub fn validate(bytes: &[u8]) -> bool {
    let Some((width @ (2 | 4 | 8), integers)) = bytes.split_first() else {
        return bytes.is_empty();
    };
    integers.len().is_multiple_of(usize::from(*width)) && is_ascending(*width, integers)
}

/// Whether integers of this width, which is 2, 4 or 8, are each above the one before.
pub fn is_ascending(width: u8, integers: &[u8]) -> bool {
    let width = usize::from(width);
    let set = Intset { width, integers };
    set.iter().is_sorted_by(|low, high| low < high)
}

/// Appends the set of these integers to empty `bytes`; each is above the one before.
pub fn fill(bytes: &mut Vec<u8>, integers: &[i64]) {
    let ends = [integers.first(), integers.last()];
    let width = ends.into_iter().flatten().map(|&end| width_of(end)).max();
    let width = width.unwrap_or(2);
    bytes.reserve(1 + integers.len() * width);
    bytes.push(width as u8);
    for integer in integers {
        bytes.extend_from_slice(&integer.to_le_bytes()[..width]);
    }
}

/// Adds an integer; false if it was already there.
pub fn insert(buffer: &mut impl Buffer, number: i64) -> bool {
    let set = Intset::new(buffer.bytes());
    if set.is_empty() {
        begin(buffer, number);
        return true;
    }
    let width = set.width;
    if width_of(number) > width {
        widen(buffer, width_of(number));
        // It is lower or higher than every integer of a smaller width.
        let at = if number < 0 { 1 } else { buffer.bytes().len() };
        write(buffer, at, width_of(number), number);
        return true;
    }
    let Err(index) = set.search(number) else {
        return false;
    };
    write(buffer, 1 + index * width, width, number);
    true
}

/// Replaces the contents with a set of just this integer.
fn begin(buffer: &mut impl Buffer, number: i64) {
    let (len, width) = (buffer.bytes().len(), width_of(number));
    let bytes = buffer.splice(0, len, 1 + width);
    bytes[0] = width as u8;
    bytes[1..].copy_from_slice(&number.to_le_bytes()[..width]);
}

fn write(buffer: &mut impl Buffer, at: usize, width: usize, number: i64) {
    buffer
        .splice(at, 0, width)
        .copy_from_slice(&number.to_le_bytes()[..width]);
}

/// Widens all integers to `width` bytes.
fn widen(buffer: &mut impl Buffer, width: usize) {
    let old = Intset::new(buffer.bytes());
    let (len, old_width) = (old.len(), old.width);
    let end = buffer.bytes().len();
    buffer.splice(end, 0, len * (width - old_width));
    let bytes = buffer.bytes_mut();
    // From last to first, so that no integer is overwritten before it is read.
    for index in (0..len).rev() {
        let from = 1 + index * old_width;
        let number = match old_width {
            2 => integer::<2>(&bytes[from..from + 2]),
            _ => integer::<4>(&bytes[from..from + 4]),
        };
        let to = 1 + index * width;
        bytes[to..to + width].copy_from_slice(&number.to_le_bytes()[..width]);
    }
    bytes[0] = width as u8;
}

/// Removes an integer; false if there was none. Removing the last integer leaves an empty buffer.
pub fn remove(buffer: &mut impl Buffer, number: i64) -> bool {
    let set = Intset::new(buffer.bytes());
    match set.search(number) {
        Ok(index) => {
            remove_range(buffer, index..index + 1);
            true
        }
        Err(_) => false,
    }
}

/// Removes the integers at these indices, which must exist. Removing the last integer leaves an empty buffer.
pub fn remove_range(buffer: &mut impl Buffer, indices: Range<usize>) {
    let Intset { width, integers } = Intset::new(buffer.bytes());
    if indices.len() * width == integers.len() {
        let len = buffer.bytes().len();
        buffer.splice(0, len, 0);
    } else {
        buffer.splice(1 + indices.start * width, indices.len() * width, 0);
    }
}

#[cfg(test)]
mod tests {
    use damselfly_base::random::Random;
    use std::collections::BTreeSet;

    use super::*;

    /// Integers around the boundaries of the widths.
    const EDGES: [i64; 14] = [
        i64::MIN,
        i64::MIN + 1,
        i32::MIN as i64 - 1,
        i32::MIN as i64,
        i16::MIN as i64 - 1,
        i16::MIN as i64,
        -1,
        0,
        1,
        i16::MAX as i64,
        i16::MAX as i64 + 1,
        i32::MAX as i64,
        i32::MAX as i64 + 1,
        i64::MAX,
    ];

    fn check(bytes: &[u8], model: &BTreeSet<i64>) {
        assert!(validate(bytes));
        let set = Intset::new(bytes);
        assert_eq!(set.len(), model.len());
        assert!(set.iter().eq(model.iter().copied()));
        assert_eq!(bytes.is_empty(), set.is_empty());
        assert_eq!(set.get(set.len()), None);
        assert_eq!(set.get(usize::MAX), None);
    }

    #[test]
    fn random_changes_match_a_plain_set() {
        let mut random = Random::for_test();
        for _ in 0..300 {
            let (mut bytes, mut model) = (Vec::new(), BTreeSet::new());
            let shift = random.below(64);
            for _ in 0..60 {
                let number = match random.below(8) {
                    0 => EDGES[random.below(EDGES.len())],
                    _ => (random.number() as i64 >> shift) % 40,
                };
                assert_eq!(
                    Intset::new(&bytes).contains(number),
                    model.contains(&number)
                );
                if random.below(4) == 0 {
                    assert_eq!(remove(&mut bytes, number), model.remove(&number));
                } else {
                    assert_eq!(insert(&mut bytes, number), model.insert(number));
                }
                check(&bytes, &model);
            }
        }
    }

    #[test]
    fn each_width_widens_to_each_wider_one() {
        for first in EDGES {
            for second in EDGES {
                let mut bytes = Vec::new();
                insert(&mut bytes, first);
                insert(&mut bytes, 7);
                insert(&mut bytes, second);
                check(&bytes, &BTreeSet::from([first, 7, second]));
                assert_eq!(
                    Intset::new(&bytes).width(),
                    width_of(first).max(width_of(second))
                );
            }
        }
    }

    #[test]
    fn a_set_is_made_of_sorted_integers_at_once() {
        for (low, first) in EDGES.iter().enumerate() {
            for last in &EDGES[low..] {
                let model = BTreeSet::from([*first, *last]);
                let integers: Vec<i64> = model.iter().copied().collect();
                let (mut filled, mut inserted) = (Vec::new(), Vec::new());
                fill(&mut filled, &integers);
                integers
                    .iter()
                    .for_each(|&number| assert!(insert(&mut inserted, number)));
                assert_eq!(filled, inserted);
            }
        }
    }

    #[test]
    fn ranges_of_integers_are_removed_at_once() {
        let mut bytes = Vec::new();
        (0..10).for_each(|number| assert!(insert(&mut bytes, number * 1000)));
        remove_range(&mut bytes, 3..9);
        check(&bytes, &BTreeSet::from([0, 1000, 2000, 9000]));
        remove_range(&mut bytes, 0..4);
        assert!(bytes.is_empty());
    }

    #[test]
    fn invalid_bytes_are_refused() {
        for good in [
            &b""[..],
            b"\x02",
            b"\x08",
            b"\x02\x01\x00\x02\x00",
            b"\x02\xff\xff\x00\x00",
            b"\x04\x01\x00\x00\x00",
        ] {
            assert!(validate(good), "{good:?}");
        }
        for bad in [
            &b"\x00"[..],
            b"\x01\x01",
            b"\x03\x01\x00\x00",
            b"\x10",
            b"\x02\x01",
            b"\x02\x01\x00\x01\x00",
            b"\x02\x02\x00\x01\x00",
            b"\x02\x00\x00\xff\xff",
            b"\x08\x01\x00\x00\x00",
        ] {
            assert!(!validate(bad), "{bad:?}");
        }
    }
}
