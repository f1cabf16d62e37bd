//! Pages of the allocator with much free memory.
//!
//! A page holds blocks of about one size. Its memory can be returned, or used for another size, only when all of its blocks are free. So
//! when the sizes of values change, many pages keep a few blocks each. Whoever owns such blocks can move them
//! ([`relocate`](super::relocate)): the allocator fills pages that have free blocks before it begins new ones.
//!
//! ```text
//!  size of blocks   page       slices of 64 KiB
//!  up to 10 KiB     64 KiB     1
//!  up to 84 KiB     512 KiB    8
//!  up to 512 KiB    4 MiB      64
//!  larger           one block  as many as it needs
//! ```

use std::collections::HashSet;

/// Pages consist of whole slices, which begin at multiples of their size.
const SLICE_BYTES: usize = 64 << 10;

/// Fuller pages are left alone: moving their blocks would cost more than it gains.
const USED_PERCENT_MAX: usize = 75;

/// A page. The figures may be wrong, because other threads use the allocator while they are read.
#[derive(Clone, Copy, Debug)]
struct Page {
    start: usize,
    /// Its bytes for blocks.
    bytes: usize,
    /// Those that have ever been part of a block.
    begun_bytes: usize,
    used_bytes: usize,
    block_bytes: usize,
}

impl Page {
    fn free_bytes(&self) -> usize {
        self.begun_bytes.saturating_sub(self.used_bytes)
    }

    fn used_percent(&self) -> usize {
        self.used_bytes * 100 / self.begun_bytes.max(1)
    }

    /// True if moving its blocks would free it at little cost.
    fn is_sparse(&self) -> bool {
        let has_several = self.bytes >= 2 * self.block_bytes;
        has_several && self.used_bytes > 0 && self.used_percent() <= USED_PERCENT_MAX
    }

    fn slices(&self) -> impl Iterator<Item = usize> {
        let last = self.start + self.bytes.max(1) - 1;
        self.start / SLICE_BYTES..=last / SLICE_BYTES
    }
}

/// Pages whose blocks should be moved.
#[derive(Debug, Default)]
pub struct SparsePages {
    slices: HashSet<usize, ahash::RandomState>,
    free_bytes: usize,
}

impl SparsePages {
    /// Finds those with the least in use: so many that together they have `wanted_bytes` free, if there are as many.
    ///
    /// Takes some milliseconds per GiB of memory. Other threads may use the allocator meanwhile.
    pub fn find(wanted_bytes: usize) -> Self {
        Self::of(all(), wanted_bytes)
    }

    fn of(mut pages: Vec<Page>, wanted_bytes: usize) -> Self {
        pages.retain(Page::is_sparse);
        pages.sort_unstable_by_key(Page::used_percent);
        let mut found = Self::default();
        for page in &pages {
            if found.free_bytes >= wanted_bytes {
                break;
            }
            found.free_bytes += page.free_bytes();
            found.slices.extend(page.slices());
        }
        found
    }

    /// True if the block at this address is in one of them.
    #[inline]
    pub fn contains(&self, address: usize) -> bool {
        self.slices.contains(&(address / SLICE_BYTES))
    }

    /// How much memory is free in them.
    pub fn free_bytes(&self) -> usize {
        self.free_bytes
    }
}

#[cfg(sanitize_address)]
fn all() -> Vec<Page> {
    Vec::new()
}

/// All pages of the process.
#[cfg(not(sanitize_address))]
fn all() -> Vec<Page> {
    use libmimalloc_sys::{mi_heap_area_t, mi_heap_t, mi_heap_visit_blocks};
    use std::ffi::c_void;
    use std::ptr::null_mut;

    unsafe extern "C" fn add(
        _: *const mi_heap_t,
        area: *const mi_heap_area_t,
        _: *mut c_void,
        _: usize,
        pages: *mut c_void,
    ) -> bool {
        // SAFETY: the caller passes an area that lives during the call.
        let area = unsafe { &*area };
        // SAFETY: the caller passes on the list below, which nothing else uses meanwhile.
        let pages = unsafe { &mut *pages.cast::<Vec<Page>>() };
        pages.push(Page {
            start: area.blocks as usize,
            bytes: area.reserved,
            begun_bytes: area.committed,
            used_bytes: area.used.saturating_mul(area.full_block_size),
            block_bytes: area.full_block_size,
        });
        true
    }

    let mut pages = Vec::<Page>::new();
    // SAFETY:
    // - no heap means the main one, which all threads use;
    // - `add` does not unwind, and the list outlives the call;
    // - without visiting blocks, the call only reads descriptions of pages, which stay mapped. Other threads change them meanwhile, so a
    //   description may be inconsistent: it is used for arithmetic only.
    unsafe { mi_heap_visit_blocks(null_mut(), false, Some(add), (&raw mut pages).cast()) };
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(number: usize, used_bytes: usize) -> Page {
        Page {
            start: (number + 1) * SLICE_BYTES,
            bytes: SLICE_BYTES,
            begun_bytes: SLICE_BYTES,
            used_bytes,
            block_bytes: 64,
        }
    }

    #[test]
    fn the_emptiest_pages_are_found_first() {
        let pages = vec![
            page(0, SLICE_BYTES),
            page(1, 640),
            page(2, 6400),
            page(3, 64),
            page(4, 0),
        ];
        let found = SparsePages::of(pages, SLICE_BYTES);
        let is_found = |number: usize| found.contains((number + 1) * SLICE_BYTES + 100);
        assert_eq!(
            [0, 1, 2, 3, 4].map(is_found),
            [false, true, false, true, false]
        );
        assert_eq!(found.free_bytes(), 2 * SLICE_BYTES - 704);
    }

    #[test]
    fn a_page_of_one_block_is_never_sparse() {
        let large = Page {
            bytes: 600 << 10,
            block_bytes: 600 << 10,
            ..page(0, 64)
        };
        assert_eq!(SparsePages::of(vec![large], usize::MAX).free_bytes(), 0);
    }

    /// Blocks of many pages, of which few are left: moving them frees the pages.
    #[test]
    #[cfg(not(sanitize_address))]
    fn blocks_of_sparse_pages_can_be_moved_together() {
        use crate::heap::{allocate, free, relocate};
        use std::collections::HashSet;
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
        let slices = |blocks: &[(std::ptr::NonNull<u8>, u8)]| {
            let slices = blocks
                .iter()
                .map(|(block, _)| block.addr().get() / SLICE_BYTES);
            slices.collect::<HashSet<_>>().len()
        };
        let before = slices(&kept);
        let sparse = SparsePages::find(usize::MAX);
        assert!(sparse.free_bytes() > 10 << 20, "{}", sparse.free_bytes());
        for (block, _) in &mut kept {
            if sparse.contains(block.addr().get()) {
                // SAFETY: used nowhere else.
                *block = unsafe { relocate(*block) };
            }
        }
        let after = slices(&kept);
        assert!(after * 3 < before, "{before} pages, then {after}");
        for (block, byte) in kept {
            // SAFETY: the block has that many bytes, all written above.
            let bytes = unsafe { std::slice::from_raw_parts(block.as_ptr(), BYTES) };
            assert!(bytes.iter().all(|&found| found == byte));
            // SAFETY: used nowhere else.
            unsafe { free(block) }
        }
    }
}
