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
//! This is an estimate. Blocks that are not counted, such as nodes of collections and buffers, make a page look emptier than it is: then
//! its blocks are moved in vain. The same happens if a page of several slices does not begin at a multiple of its size, and its neighbour is
//! emptier.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Pages of mimalloc consist of whole slices, which begin at multiples of their size.
const SLICE_BYTES: usize = 64 << 10;

/// The most slices of a page with several blocks. So many, from a multiple of their size on, are a region.
const REGION_SLICES: usize = 64;
const REGION_BYTES: usize = REGION_SLICES * SLICE_BYTES;

/// Fuller pages are left alone: moving their blocks would cost more than it gains.
const USED_PERCENT_MAX: usize = 75;

/// Several threads count at once; each part of the counts has a lock of its own, and is small enough to grow without a delay.
const PARTS: usize = 64;

/// A larger block has a page of its own. Moving it would gain nothing.
pub const SHARED_PAGE_BYTES_MAX: usize = 512 << 10;

/// How many slices the page of a block has; `None` if it has no other block.
fn page_slices(block_bytes: usize) -> Option<usize> {
    const KIB: usize = 1 << 10;
    let largest = [
        (10 * KIB, 1),
        (84 * KIB, 8),
        (SHARED_PAGE_BYTES_MAX, REGION_SLICES),
    ];
    let page = largest.iter().find(|(bytes, _)| block_bytes <= *bytes);
    page.map(|&(_, slices)| slices)
}

/// What was counted in a slice.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    bytes: u32,
    /// How many slices the page of a block that begins here has; 0 if none begins here, or it is alone in its page.
    page_slices: u32,
}

type Regions = HashMap<usize, [Count; REGION_SLICES], ahash::RandomState>;

/// The bytes of blocks in each slice of memory. Takes about a quarter of a MiB per GiB of blocks.
#[derive(Debug)]
pub struct SliceCounts {
    parts: Box<[Mutex<Regions>]>,
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
        let page_slices = page_slices(addresses.len()).unwrap_or(0);
        let mut start = addresses.start;
        while start < addresses.end {
            let region = start / REGION_BYTES;
            let end = addresses.end.min((region + 1) * REGION_BYTES);
            let mut part = lock(&self.parts[region % PARTS]);
            let counts = part
                .entry(region)
                .or_insert([Count::default(); REGION_SLICES]);
            add_part(counts, start..end);
            if start == addresses.start {
                counts[start / SLICE_BYTES % REGION_SLICES].page_slices = page_slices as u32;
            }
            start = end;
        }
    }
}

/// Adds the part of a block that is in one region.
fn add_part(counts: &mut [Count; REGION_SLICES], addresses: Range<usize>) {
    let mut start = addresses.start;
    while start < addresses.end {
        let slice = start / SLICE_BYTES;
        let end = addresses.end.min((slice + 1) * SLICE_BYTES);
        let count = &mut counts[slice % REGION_SLICES];
        count.bytes = count.bytes.saturating_add((end - start) as u32);
        start = end;
    }
}

fn lock(part: &Mutex<Regions>) -> MutexGuard<'_, Regions> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Slices of what may be a page.
struct Page {
    used_percent: usize,
    region: usize,
    /// A bit for each slice of the region in which blocks of such a page begin.
    slices: u64,
    free_bytes: usize,
}

/// Adds the pages of a region that should be freed.
fn add_sparse(region: usize, counts: &[Count; REGION_SLICES], pages: &mut Vec<Page>) {
    for page_slices in [1, 8, REGION_SLICES] {
        for (index, page) in counts.chunks(page_slices).enumerate() {
            let mut slices = 0;
            for (slice, count) in page.iter().enumerate() {
                let is_one = count.page_slices as usize == page_slices;
                slices |= u64::from(is_one) << (index * page_slices + slice);
            }
            let bytes: usize = page.iter().map(|count| count.bytes as usize).sum();
            let all_bytes = page_slices * SLICE_BYTES;
            let used_percent = bytes * 100 / all_bytes;
            if slices != 0 && used_percent <= USED_PERCENT_MAX {
                pages.push(Page {
                    used_percent,
                    region,
                    slices,
                    free_bytes: all_bytes - bytes,
                });
            }
        }
    }
}

/// Slices whose blocks should be moved.
#[derive(Debug, Default)]
pub struct SparseSlices {
    /// A bit for each slice of a region.
    regions: HashMap<usize, u64, ahash::RandomState>,
    free_bytes: usize,
    all_free_bytes: usize,
}

impl SparseSlices {
    /// Finds those of pages with the least bytes of blocks: so many that together they have `wanted_bytes` besides, if there are as many.
    pub fn find(counts: &SliceCounts, wanted_bytes: usize) -> Self {
        let mut pages = Vec::new();
        for part in &counts.parts {
            for (&region, counts) in lock(part).iter() {
                add_sparse(region, counts, &mut pages);
            }
        }
        pages.sort_unstable_by_key(|page| page.used_percent);
        let mut found = Self {
            all_free_bytes: pages.iter().map(|page| page.free_bytes).sum(),
            ..Self::default()
        };
        for page in pages {
            if found.free_bytes >= wanted_bytes {
                break;
            }
            found.free_bytes += page.free_bytes;
            *found.regions.entry(page.region).or_default() |= page.slices;
        }
        found
    }

    /// True if the block at this address begins in one of them.
    #[inline]
    pub fn contains(&self, address: usize) -> bool {
        let slice = address / SLICE_BYTES;
        let slices = self.regions.get(&(slice / REGION_SLICES));
        slices.is_some_and(|slices| slices >> (slice % REGION_SLICES) & 1 != 0)
    }

    /// How much memory of their pages is not part of blocks that were counted.
    pub fn free_bytes(&self) -> usize {
        self.free_bytes
    }

    /// The same of all pages that are not full.
    pub fn all_free_bytes(&self) -> usize {
        self.all_free_bytes
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
        let full = (0..5).map(|number| (SLICE_BYTES + number * 10_000, 10_000));
        let sparse = [
            (2 * SLICE_BYTES, 600),
            (2 * SLICE_BYTES + 1000, 40),
            (3 * SLICE_BYTES, 6400),
            (4 * SLICE_BYTES + 8, 64),
        ];
        let counts = counts(&full.chain(sparse).collect::<Vec<_>>());
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
        assert_eq!(SparseSlices::find(&counts, 0).all_free_bytes(), three);
    }

    /// Blocks of 100,000 bytes are in pages of 64 slices: one region is nearly empty, the other one nearly full.
    #[test]
    fn a_page_of_several_slices_is_sparse_as_a_whole() {
        let full = (0..40).map(|number| (REGION_BYTES + number * 100_000, 100_000));
        let sparse = [(2 * REGION_BYTES + 300_000, 100_000)];
        let counts = counts(&full.chain(sparse).collect::<Vec<_>>());
        let found = SparseSlices::find(&counts, usize::MAX);
        assert!((0..40).all(|number| !found.contains(REGION_BYTES + number * 100_000)));
        assert!(found.contains(2 * REGION_BYTES + 300_000));
        assert!(!found.contains(2 * REGION_BYTES));
        assert_eq!(found.free_bytes(), REGION_BYTES - 100_000);
    }

    #[test]
    fn a_block_that_is_alone_in_its_page_is_never_moved() {
        let counts = counts(&[(10 * SLICE_BYTES, 600 << 10)]);
        assert_eq!(SparseSlices::find(&counts, usize::MAX).free_bytes(), 0);
    }

    /// Blocks of many pages, of which few are left: moving them frees the pages.
    #[test]
    #[cfg(not(sanitize_address))]
    fn blocks_of_sparse_slices_can_be_moved_together() {
        use crate::heap::{allocate, free, relocate, usable_bytes};
        use std::collections::HashSet;
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
