//! Members: a large set, as a table with one block of memory per member.
//!
//! ```text
//! block  | length, 7 bits per byte, lowest first; the high bit means that more bytes follow | bytes ... |
//! ```

use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::slice;

use damselfly_base::heap;
use damselfly_table::{Entry, Item, Table};

/// An owned member.
struct Member(NonNull<u8>);

// SAFETY:
// - a member is the only owner of its block, and any thread may free a block;
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

/// The number of bytes that the length takes.
fn header_bytes(len: usize) -> usize {
    (usize::BITS - (len | 1).leading_zeros()).div_ceil(7) as usize
}

/// The memory that a member of `len` bytes takes.
fn block_bytes(len: usize) -> usize {
    heap::block_bytes(header_bytes(len) + len)
}

/// The bytes of a member.
///
/// # Safety
/// `raw` is the block of a member that stays alive for `'a`.
#[inline]
unsafe fn bytes<'a>(raw: NonNull<u8>) -> &'a [u8] {
    let (mut len, mut header) = (0, 0);
    loop {
        // SAFETY: the header continues, so this is one of its bytes.
        let from = unsafe { raw.add(header) };
        // SAFETY: as above.
        let byte = unsafe { from.read() };
        len |= usize::from(byte & 0x7f) << (7 * header);
        header += 1;
        if byte < 0x80 {
            break;
        }
    }
    // SAFETY: `len` bytes follow the header.
    let from = unsafe { raw.add(header) };
    // SAFETY: as above; they are initialised, and nothing writes to them while the member is alive.
    unsafe { slice::from_raw_parts(from.as_ptr(), len) }
}

// SAFETY:
// - blocks come from `heap::allocate`: aligned to 8, in user space, which ends below 2^48;
// - a member is the only owner of its block, and nothing changes a block after its creation.
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
    /// The total size of all members' blocks.
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
    pub fn with_capacity(len: usize) -> Self {
        Self {
            table: Table::dense_for(len),
            block_bytes: 0,
        }
    }

    /// The number of members.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether the set is empty.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The bytes of heap that the whole set uses, in the allocator's block sizes.
    pub fn memory_bytes(&self) -> usize {
        self.table.memory_bytes() + self.block_bytes
    }

    /// Whether the set contains `member`.
    pub fn contains(&self, member: &[u8]) -> bool {
        self.table
            .find(damselfly_base::hash(member), member)
            .is_some()
    }

    /// Adds a member; false if it was already there.
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

    /// Removes a member; false if there was none.
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

    /// The member that a random number selects; all are about equally likely. `None` if the set is empty.
    pub fn random(&self, random: u64) -> Option<&[u8]> {
        self.table.random(random)
    }

    /// Passes the member that [`random`](Self::random) would select to `taken`, then removes it.
    pub fn take_random<R>(&mut self, random: u64, taken: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let entry = self.table.random_entry(random)?;
        let member = entry.get();
        self.block_bytes -= block_bytes(member.len());
        let result = taken(member);
        drop(entry.remove());
        Some(result)
    }

    /// Visits some members from `cursor` on and returns the next cursor, or 0 at the end. Start with 0.
    ///
    /// If the set does not change during the scan, each member is visited once. If it changes, each member that stays is
    /// visited at least once.
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
        let mut copy = Self::with_capacity(self.len());
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
        // Lengths around every change of the header's size.
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
    fn random_changes_match_a_plain_set() {
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
            // Chi squared: the mean is the degrees of freedom, the variance twice that. Chance practically never exceeds
            // six standard deviations.
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
