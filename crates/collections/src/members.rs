//! Members: a large set, a table with one block of memory per member.
//!
//! ```text
//! block  | length, 7 bits a byte, lowest first; the high bit says that more follow | bytes ... |
//! ```

use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::slice;

use damselfly_base::heap;
use damselfly_table::{Entry, Item, Table};

/// An owned member.
struct Member(NonNull<u8>);

// SAFETY:
// - a member owns its block alone, and the allocator frees blocks of any thread;
// - nothing writes to a block after `Member::new`.
unsafe impl Send for Member {}
// SAFETY: as above.
unsafe impl Sync for Member {}

impl Member {
    fn new(bytes: &[u8]) -> Self {
        let header = header_bytes(bytes.len());
        let block = heap::allocate(header + bytes.len());
        let mut rest = bytes.len();
        for at in 0..header {
            let more = u8::from(at + 1 < header) << 7;
            // SAFETY: `at` lies in the header, which the block has room for.
            let to = unsafe { block.add(at) };
            // SAFETY: as above.
            unsafe { to.write(rest as u8 & 0x7f | more) };
            rest >>= 7;
        }
        // SAFETY: the block has room for the header and the bytes after it.
        let to = unsafe { block.add(header) };
        // SAFETY: as above, and the block is new, so the two do not overlap.
        unsafe { to.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        Self(block)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // SAFETY: owned, and never used again.
        unsafe { heap::free(self.0) }
    }
}

/// How many bytes the length takes.
fn header_bytes(len: usize) -> usize {
    (usize::BITS - (len | 1).leading_zeros()).div_ceil(7) as usize
}

/// The memory that a member of so many bytes takes.
fn block_bytes(len: usize) -> usize {
    heap::block_bytes(header_bytes(len) + len)
}

/// The bytes of a member.
///
/// # Safety
/// `raw` is the block of a member that lives for `'a`.
#[inline]
unsafe fn bytes<'a>(raw: NonNull<u8>) -> &'a [u8] {
    let (mut len, mut header) = (0, 0);
    loop {
        // SAFETY: a byte of the header, whose end is not reached.
        let from = unsafe { raw.add(header) };
        // SAFETY: as above.
        let byte = unsafe { from.read() };
        len |= usize::from(byte & 0x7f) << (7 * header);
        header += 1;
        if byte < 0x80 {
            break;
        }
    }
    // SAFETY: so many bytes follow the header.
    let from = unsafe { raw.add(header) };
    // SAFETY: as above; they are initialised and not written while the member lives.
    unsafe { slice::from_raw_parts(from.as_ptr(), len) }
}

// SAFETY:
// - blocks come from `heap::allocate`: aligned to 8, in user space, which ends below 2^48;
// - a member owns its block alone, and blocks only change when they are made.
unsafe impl Item for Member {
    type Ref<'a> = &'a [u8];

    #[inline]
    fn into_raw(self) -> NonNull<u8> {
        ManuallyDrop::new(self).0
    }

    #[inline]
    unsafe fn from_raw(raw: NonNull<u8>) -> Self {
        Self(raw)
    }

    #[inline]
    unsafe fn reference<'a>(raw: NonNull<u8>) -> &'a [u8] {
        // SAFETY: as the caller promises.
        unsafe { bytes(raw) }
    }

    #[inline]
    unsafe fn key<'a>(raw: NonNull<u8>) -> &'a [u8] {
        // SAFETY: as the caller promises.
        unsafe { bytes(raw) }
    }

    #[inline]
    unsafe fn hash(raw: NonNull<u8>) -> u64 {
        // SAFETY: as the caller promises.
        damselfly_base::hash(unsafe { bytes(raw) })
    }

    #[inline]
    unsafe fn marked(_: NonNull<u8>) -> bool {
        false
    }
}

/// A large set of byte strings.
pub struct Members {
    table: Table<Member>,
    /// Of all members' blocks.
    block_bytes: usize,
}

impl Default for Members {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Members").field("len", &self.len()).finish()
    }
}

impl Members {
    /// An empty set; allocates nothing.
    pub const fn new() -> Self {
        Self {
            table: Table::dense(),
            block_bytes: 0,
        }
    }

    /// An empty set with room for about `len` members.
    pub fn with_room(len: usize) -> Self {
        Self {
            table: Table::dense_for(len),
            block_bytes: 0,
        }
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Heap bytes of the whole set, as the allocator sets them aside.
    pub fn memory_bytes(&self) -> usize {
        self.table.memory_bytes() + self.block_bytes
    }

    /// Whether this is a member.
    pub fn contains(&self, member: &[u8]) -> bool {
        self.table
            .find(damselfly_base::hash(member), member)
            .is_some()
    }

    /// Adds a member; false if it was there.
    pub fn insert(&mut self, member: &[u8]) -> bool {
        match self.table.entry(damselfly_base::hash(member), member) {
            Entry::Occupied(_) => false,
            Entry::Vacant(vacant) => {
                vacant.insert(Member::new(member));
                self.block_bytes += block_bytes(member.len());
                true
            }
        }
    }

    /// Removes a member; false if it was not there.
    pub fn remove(&mut self, member: &[u8]) -> bool {
        match self.table.entry(damselfly_base::hash(member), member) {
            Entry::Occupied(occupied) => {
                self.block_bytes -= block_bytes(member.len());
                drop(occupied.remove());
                true
            }
            Entry::Vacant(_) => false,
        }
    }

    /// A member picked by a random number, each with about the same chance; none if the set is empty.
    pub fn random(&self, random: u64) -> Option<&[u8]> {
        self.table.random(random)
    }

    /// Removes the member that [`random`](Self::random) would pick, after `taken` saw it.
    pub fn take_random<R>(&mut self, random: u64, taken: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let entry = self.table.random_entry(random)?;
        let member = entry.get();
        self.block_bytes -= block_bytes(member.len());
        let result = taken(member);
        drop(entry.remove());
        Some(result)
    }

    /// Visits some members from position `cursor` on and returns the next position, or 0 at the end; start with 0.
    ///
    /// While the set does not change, each member is visited once. If it changes, each that stays is visited at least
    /// once.
    pub fn scan(&self, cursor: u64, visit: impl FnMut(&[u8])) -> u64 {
        self.table.scan(cursor, visit)
    }

    /// All members, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.table.iter()
    }
}

impl Clone for Members {
    fn clone(&self) -> Self {
        let mut copy = Self::with_room(self.len());
        for member in self.iter() {
            copy.insert(member);
        }
        copy
    }
}

#[cfg(test)]
mod tests {
    use damselfly_base::random::Random;
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn key(number: u64) -> Vec<u8> {
        // Lengths around all boundaries of the header.
        let len = [0, 1, 7, 8, 12, 126, 127, 128, 129, 16_383, 16_384][number as usize % 11];
        let mut key = number.to_string().into_bytes();
        key.resize(len.max(key.len()), b'.');
        key
    }

    fn true_bytes(members: &Members) -> usize {
        members.table.memory_bytes()
            + members
                .iter()
                .map(|member| block_bytes(member.len()))
                .sum::<usize>()
    }

    #[test]
    fn members_behave_as_a_plain_set() {
        let mut random = Random::for_test();
        let mut members = Members::new();
        let mut model = BTreeSet::new();
        assert_eq!(members.memory_bytes(), 0);
        for step in 0..20_000 {
            let member = key(random.number() % 1024);
            assert_eq!(members.contains(&member), model.contains(&member));
            // Mostly insertions, then mostly removals.
            if random.below(16) < (if step < 10_000 { 11 } else { 5 }) {
                assert_eq!(members.insert(&member), model.insert(member));
            } else {
                assert_eq!(members.remove(&member), model.remove(&member));
            }
            assert_eq!(members.len(), model.len());
        }
        members.table.assert_valid();
        assert_eq!(members.memory_bytes(), true_bytes(&members));
        let copy = members.clone();
        while let Some(member) = members.random(random.number()).map(<[u8]>::to_vec) {
            assert!(members.remove(&member));
        }
        assert!(members.is_empty());
        assert_eq!(members.block_bytes, 0);
        assert_eq!(
            copy.iter().map(<[u8]>::to_vec).collect::<BTreeSet<_>>(),
            model
        );
    }

    #[test]
    fn a_scan_visits_each_member_once() {
        let mut members = Members::new();
        for number in 0..5000_u32 {
            members.insert(&number.to_le_bytes());
        }
        let (mut cursor, mut seen) = (0, BTreeMap::new());
        loop {
            cursor = members.scan(cursor, |member| {
                *seen.entry(member.to_vec()).or_insert(0) += 1
            });
            if cursor == 0 {
                break;
            }
        }
        assert_eq!(seen.len(), 5000);
        assert!(seen.values().all(|&count| count == 1));
    }

    #[test]
    fn random_members_are_uniform() {
        let mut random = Random::for_test();
        for len in [1, 2, 10, 200, 3000] {
            let mut members = Members::new();
            for number in 0..len as u64 {
                members.insert(&number.to_le_bytes());
            }
            let mut counts = BTreeMap::new();
            for _ in 0..len * 100 {
                let member = members.random(random.number()).expect("not empty");
                *counts.entry(member.to_vec()).or_insert(0_i32) += 1;
            }
            assert_eq!(counts.len(), len);
            // Chi squared: its mean is the degrees of freedom, its variance twice that; six deviations never happen.
            let chi: f64 = counts
                .values()
                .map(|count| f64::from(count - 100).powi(2) / 100.0)
                .sum();
            let freedom = len as f64 - 1.0;
            assert!(
                (chi - freedom).abs() <= 6.0 * (2.0 * freedom).sqrt() + 1e-9,
                "{len}: {chi}"
            );
        }
    }
}
