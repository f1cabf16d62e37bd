//! Slices of memory with few blocks.
//!
//! The allocator's pages hold blocks of about one size. The memory of a page can be returned, or used for another size, only when all of
//! its blocks are free. So when the sizes of values change, many pages keep a few blocks each. Whoever owns such blocks can move them
//! ([`relocate`](super::relocate)): the allocator fills pages that have free blocks before it begins new ones.
//!
//! mimalloc can describe its pages only while no other thread uses it. So the owner of blocks counts them itself, by slice of memory:
//!
//! ```text
//!  size of blocks   page       slices of 64 KiB
//!  up to 10 KiB     64 KiB     1
//!  up to 84 KiB     512 KiB    8
//!  up to 512 KiB    4 MiB      64
//!  larger           one block  as many as it needs
//! ```
//!
//! This is an estimate. Blocks that are not counted, such as nodes of collections and buffers, make a slice look emptier than it is: then
//! its blocks are moved in vain. A page of several slices is free only when all of them are empty.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Pages of mimalloc consist of whole slices, which begin at multiples of their size.
const SLICE_BYTES: usize = 64 << 10;

/// Fuller slices are left alone: moving their blocks would cost more than it gains.
const USED_BYTES_MAX: usize = SLICE_BYTES / 4 * 3;

/// Several threads count at once; each part of the counts has a lock of its own, and is small enough to grow without a delay.
const PARTS: usize = 256;

/// What was counted in a slice.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    bytes: u32,
    /// How many blocks begin there.
    blocks: u32,
}

type Counts = HashMap<usize, Count, ahash::RandomState>;

/// The bytes of blocks in each slice of memory. Takes about half a MiB per GiB of blocks.
#[derive(Debug)]
pub struct SliceCounts {
    parts: Box<[Mutex<Counts>]>,
}

impl Default for SliceCounts {
    fn default() -> Self {
        Self {
            parts: (0..PARTS).map(|_| Mutex::default()).collect(),
        }
    }
}

impl SliceCounts {
    /// Adds a block.
    pub fn add(&self, addresses: Range<usize>) {
        let first = addresses.start / SLICE_BYTES;
        let mut start = addresses.start;
        while start < addresses.end {
            let slice = start / SLICE_BYTES;
            let end = addresses.end.min((slice + 1) * SLICE_BYTES);
            let mut part = lock(&self.parts[slice % PARTS]);
            let count = part.entry(slice).or_default();
            count.bytes = count.bytes.saturating_add((end - start) as u32);
            count.blocks += u32::from(slice == first);
            start = end;
        }
    }
}

fn lock(part: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Slices whose blocks should be moved.
#[derive(Debug, Default)]
pub struct SparseSlices {
    slices: HashSet<usize, ahash::RandomState>,
    free_bytes: usize,
}

impl SparseSlices {
    /// Finds those with the least bytes of blocks: so many that together they have `wanted_bytes` besides, if there are as many. A slice in
    /// which no block begins is not one of them.
    pub fn find(counts: &SliceCounts, wanted_bytes: usize) -> Self {
        let mut sparse = Vec::new();
        for part in &counts.parts {
            for (&slice, count) in lock(part).iter() {
                let bytes = count.bytes as usize;
                if count.blocks > 0 && bytes <= USED_BYTES_MAX {
                    sparse.push((bytes, slice));
                }
            }
        }
        sparse.sort_unstable();
        let mut found = Self::default();
        for (bytes, slice) in sparse {
            if found.free_bytes >= wanted_bytes {
                break;
            }
            found.free_bytes += SLICE_BYTES - bytes;
            found.slices.insert(slice);
        }
        found
    }

    /// True if the block at this address begins in one of them.
    #[inline]
    pub fn contains(&self, address: usize) -> bool {
        self.slices.contains(&(address / SLICE_BYTES))
    }

    /// How much memory in them is not part of blocks that were counted.
    pub fn free_bytes(&self) -> usize {
        self.free_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(blocks: &[(usize, usize)]) -> SliceCounts {
        let counts = SliceCounts::default();
        for &(start, bytes) in blocks {
            counts.add(start..start + bytes);
        }
        counts
    }

    #[test]
    fn the_emptiest_slices_are_found_first() {
        let counts = counts(&[
            (SLICE_BYTES, 50_000),
            (2 * SLICE_BYTES, 600),
            (2 * SLICE_BYTES + 1000, 40),
            (3 * SLICE_BYTES, 6400),
            (4 * SLICE_BYTES + 8, 64),
        ]);
        let found = |wanted_bytes| {
            let found = SparseSlices::find(&counts, wanted_bytes);
            let slices = [0, 1, 2, 3, 4].map(|slice| found.contains(slice * SLICE_BYTES + 100));
            (slices, found.free_bytes())
        };
        assert_eq!(found(0), ([false; 5], 0));
        let two = 2 * SLICE_BYTES - 704;
        assert_eq!(found(SLICE_BYTES), ([false, false, true, false, true], two));
        let three = two + SLICE_BYTES - 6400;
        assert_eq!(found(usize::MAX), ([false, false, true, true, true], three));
    }

    /// It has 10,000 bytes in the first slice, fills the second one, and has 100 bytes in the last one.
    #[test]
    fn a_block_of_several_slices_counts_in_each() {
        let start = 2 * SLICE_BYTES - 10_000;
        let counts = counts(&[(start, 10_000 + SLICE_BYTES + 100)]);
        let found = SparseSlices::find(&counts, usize::MAX);
        assert!(found.contains(start));
        assert!(!found.contains(2 * SLICE_BYTES));
        // To move blocks that begin there would not free it.
        assert!(!found.contains(3 * SLICE_BYTES));
        assert_eq!(found.free_bytes(), SLICE_BYTES - 10_000);
    }

    /// Blocks of many pages, of which few are left: moving them frees the pages.
    #[test]
    #[cfg(not(sanitize_address))]
    fn blocks_of_sparse_slices_can_be_moved_together() {
        use crate::heap::{allocate, free, relocate, usable_bytes};
        use std::ptr::NonNull;
        const BYTES: usize = 1000;
        let blocks: Vec<_> = (0..20_000).map(|_| allocate(BYTES)).collect();
        let (mut kept, mut freed) = (Vec::new(), Vec::new());
        for (number, block) in blocks.into_iter().enumerate() {
            if number % 20 == 0 {
                // SAFETY: the block has that many bytes.
                unsafe { block.write_bytes(number as u8, BYTES) };
                kept.push((block, number as u8));
            } else {
                freed.push(block);
            }
        }
        for block in freed {
            // SAFETY: allocated above, and used nowhere else.
            unsafe { free(block) }
        }
        let slices = |blocks: &[(NonNull<u8>, u8)]| {
            let slices = blocks
                .iter()
                .map(|(block, _)| block.addr().get() / SLICE_BYTES);
            slices.collect::<HashSet<_>>().len()
        };
        let before = slices(&kept);
        let counts = SliceCounts::default();
        for &(block, _) in &kept {
            let start = block.addr().get();
            // SAFETY: allocated above.
            counts.add(start..start + unsafe { usable_bytes(block) });
        }
        let sparse = SparseSlices::find(&counts, usize::MAX);
        assert!(sparse.free_bytes() > 10 << 20, "{}", sparse.free_bytes());
        for (block, _) in &mut kept {
            if sparse.contains(block.addr().get()) {
                // SAFETY: used nowhere else.
                *block = unsafe { relocate(*block) };
            }
        }
        let after = slices(&kept);
        assert!(after * 3 < before, "{before} slices, then {after}");
        for (block, byte) in kept {
            // SAFETY: the block has that many bytes, all written above.
            let bytes = unsafe { std::slice::from_raw_parts(block.as_ptr(), BYTES) };
            assert!(bytes.iter().all(|&found| found == byte));
            // SAFETY: used nowhere else.
            unsafe { free(block) }
        }
    }
}
