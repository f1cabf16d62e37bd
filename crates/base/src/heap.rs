//! The heap: mimalloc, with every byte counted.
//!
//! Each thread counts in its own cache line, which no other thread writes, so counting costs a plain addition; [`used_bytes`] sums
//! the lines. When a thread frees a block that another thread allocated, its own line falls and the other line stays: only the sum
//! is meaningful.
//!
//! Very large blocks are few and mostly grow. They come directly from the operating system (`mapped`), which moves them without
//! copying and gets their memory back at once.
//!
//! Under the address sanitizer, the system's allocator replaces mimalloc, so that the sanitizer sees every block.
//!
//! The memory of entries is also counted separately, as data: eviction can free only that. Lua's memory is counted apart
//! ([`uncounted`]), as in Redis: an interpreter has a limit of its own.

mod slices;

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed};

pub use slices::{SHARED_PAGE_BYTES_MAX, SliceCounts, SparseSlices};

/// The number of counter lines: one for each thread, and the last one shared by all later threads.
const LINES: usize = 128;

/// The counters of one thread, in bytes.
#[repr(align(64))]
struct Line {
    used: AtomicI64,
    /// The part of `used` that entries take.
    data: AtomicI64,
    /// What was allocated by [`uncounted`], which is not part of `used`.
    uncounted: AtomicI64,
}

static COUNTS: [Line; LINES] = [const {
    Line {
        used: AtomicI64::new(0),
        data: AtomicI64::new(0),
        uncounted: AtomicI64::new(0),
    }
}; LINES];
static THREADS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The line of this thread; `usize::MAX` until its first allocation.
    static LINE: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Bytes in use by the whole process: the sum of the requested sizes or, for blocks from [`allocate`], of the usable sizes.
pub fn used_bytes() -> usize {
    sum(|line| &line.used)
}

/// Bytes of all entries, by [`count_data`].
pub fn data_bytes() -> usize {
    sum(|line| &line.data)
}

/// Bytes in use that [`used_bytes`] does not count: those from [`uncounted`].
pub fn uncounted_bytes() -> usize {
    sum(|line| &line.uncounted)
}

/// True if [`Heap`] is the global allocator, so that all of the program's memory is counted.
pub fn counts_all() -> bool {
    const PROBE_BYTES: usize = 1 << 16;
    let before = thread_bytes();
    let probe = std::hint::black_box(Vec::<u8>::with_capacity(PROBE_BYTES));
    let after = thread_bytes();
    drop(probe);
    after - before >= PROBE_BYTES as i64
}

fn sum(counter: impl Fn(&Line) -> &AtomicI64) -> usize {
    let (own, shared) = COUNTS.split_at(LINES - 1);
    let started = THREADS.load(Relaxed).min(own.len());
    let lines = own[..started].iter().chain(shared);
    let sum: i64 = lines.map(|line| counter(line).load(Relaxed)).sum();
    usize::try_from(sum).unwrap_or(0)
}

/// Adds to the bytes that entries take of those in use; a negative number subtracts.
#[inline]
pub fn count_data(bytes: i64) {
    add(bytes, |line| &line.data);
}

/// The bytes that this thread has allocated, minus those that it has freed; negative if it frees blocks that others allocated.
/// Threads beyond the first 127 are counted together.
pub fn thread_bytes() -> i64 {
    let line = LINE.try_with(Cell::get).unwrap_or(LINES - 1);
    COUNTS[line.min(LINES - 1)].used.load(Relaxed)
}

/// How often this thread has allocated: by [`allocate`] and, where [`Heap`] is the global allocator, in any other way. For tests
/// that some code does not allocate; counted in debug builds only.
#[cfg(debug_assertions)]
pub fn allocations() -> u64 {
    ALLOCATIONS.with(Cell::get)
}

#[cfg(debug_assertions)]
thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[inline]
fn count_allocation(bytes: i64) {
    #[cfg(debug_assertions)]
    // A thread that is being torn down is not counted.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
    count(bytes);
}

#[inline]
fn count(bytes: i64) {
    add(bytes, |line| &line.used);
}

#[inline]
fn add(bytes: i64, counter: fn(&Line) -> &AtomicI64) {
    // A thread that is being torn down has lost its thread-locals, so it uses the shared line.
    let line = LINE.try_with(Cell::get).unwrap_or(LINES - 1);
    if line < LINES - 1 {
        let counter = counter(&COUNTS[line]);
        counter.store(counter.load(Relaxed) + bytes, Relaxed);
    } else {
        add_slowly(line, bytes, counter);
    }
}

#[cold]
fn add_slowly(line: usize, bytes: i64, counter: fn(&Line) -> &AtomicI64) {
    let line = if line == usize::MAX {
        let fresh = THREADS.fetch_add(1, Relaxed).min(LINES - 1);
        // If the thread-local is already gone, the error does not matter: the next call uses the shared line.
        let _ = LINE.try_with(|cell| cell.set(fresh));
        fresh
    } else {
        line
    };
    counter(&COUNTS[line]).fetch_add(bytes, Relaxed);
}

/// Allocates at least `bytes` bytes, aligned to 8.
///
/// Aborts the process when the system has no memory left, as every Rust allocation does.
#[inline]
pub fn allocate(bytes: usize) -> NonNull<u8> {
    // SAFETY: both allocators accept any size.
    let block = unsafe { raw::malloc(bytes) };
    let Some(block) = NonNull::new(block.cast::<u8>()) else {
        std::alloc::handle_alloc_error(Layout::new::<u8>())
    };
    // SAFETY: just allocated.
    count_allocation(unsafe { usable_bytes(block) } as i64);
    block
}

/// Frees a block, or passes a large one to the function given to [`free_large_with`].
///
/// # Safety
/// `block` came from [`allocate`] and is no longer used.
#[inline]
pub unsafe fn free(block: NonNull<u8>) {
    // SAFETY: as the caller promises.
    let bytes = unsafe { usable_bytes(block) };
    if bytes >= LARGE_BYTES_MIN {
        return free_large(LargeBlock { block, bytes });
    }
    count(-(bytes as i64));
    // SAFETY: as the caller promises.
    unsafe { raw::free(block.as_ptr().cast()) }
}

/// Moves a block: copies it to a new one of the same usable size, and frees the old one. Returns the new one.
///
/// # Safety
/// `block` came from [`allocate`], and its old address is no longer used.
pub unsafe fn relocate(block: NonNull<u8>) -> NonNull<u8> {
    // SAFETY: as the caller promises.
    let bytes = unsafe { usable_bytes(block) };
    let moved = allocate(bytes);
    // SAFETY: both blocks have at least that many bytes, and one of them is new. Copying preserves bytes that were never written.
    unsafe { moved.copy_from_nonoverlapping(block, bytes) };
    // SAFETY: as the caller promises.
    unsafe { free(block) };
    moved
}

/// Blocks of at least this size are large: returning one to the operating system takes half a millisecond or more.
pub const LARGE_BYTES_MIN: usize = 4 << 20;

/// A large block from [`allocate`] that is no longer used. It is freed when this is dropped.
#[derive(Debug)]
pub struct LargeBlock {
    block: NonNull<u8>,
    bytes: usize,
}

// SAFETY:
// - it is the only owner of its block, and any thread may free a block.
unsafe impl Send for LargeBlock {}

impl LargeBlock {
    /// Its size, which counts as used until it is freed.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for LargeBlock {
    fn drop(&mut self) {
        // SAFETY: owned, and never used again.
        unsafe { raw::discard(self.block, self.bytes) };
        count(-(self.bytes as i64));
        // SAFETY: as above.
        unsafe { raw::free(self.block.as_ptr().cast()) }
    }
}

static FREE_LARGE: OnceLock<fn(LargeBlock)> = OnceLock::new();

/// Registers the function that frees large blocks, whichever thread frees them. It should hand them to another thread: 512 MB take
/// 60 milliseconds. Only the first call has an effect.
pub fn free_large_with(free: fn(LargeBlock)) {
    let _ = FREE_LARGE.set(free);
}

#[cold]
fn free_large(block: LargeBlock) {
    match FREE_LARGE.get() {
        Some(free) => free(block),
        None => drop(block),
    }
}

/// The usable size of a block in bytes: at least the requested size.
///
/// # Safety
/// `block` came from [`allocate`] and was not freed.
#[inline]
pub unsafe fn usable_bytes(block: NonNull<u8>) -> usize {
    // SAFETY: as the caller promises.
    unsafe { raw::usable(block.as_ptr().cast()) }
}

/// The usable size of the block that [`allocate`] would return for `bytes` bytes.
#[inline]
pub fn block_bytes(bytes: usize) -> usize {
    // SAFETY: no conditions.
    unsafe { raw::block_bytes(bytes) }
}

#[cfg(not(sanitize_address))]
mod raw {
    pub use libmimalloc_sys::{
        mi_free as free, mi_good_size as block_bytes, mi_malloc as malloc, mi_usable_size,
    };
    use std::ffi::c_void;
    use std::ptr::NonNull;

    /// Returns the pages of a block to the operating system at once. mimalloc would do so later, in whichever thread allocates then.
    ///
    /// # Safety
    /// `block` is a live block of that many bytes, whose contents are no longer used.
    pub unsafe fn discard(block: NonNull<u8>, bytes: usize) {
        #[cfg(target_os = "linux")]
        {
            const PAGE: usize = 4096;
            /// Other threads can map memory between two of these.
            const CHUNK: usize = 1 << 20;
            let start = block.as_ptr().align_offset(PAGE);
            for at in (start..bytes.saturating_sub(PAGE)).step_by(CHUNK) {
                let len = CHUNK.min(bytes - at) / PAGE * PAGE;
                // SAFETY: `at` and `len` are within the block.
                let chunk = unsafe { block.as_ptr().add(at) };
                // SAFETY: whole pages of the block, which nobody uses. If it fails, mimalloc does it later.
                unsafe { libc::madvise(chunk.cast(), len, libc::MADV_DONTNEED) };
            }
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (block, bytes);
    }

    /// # Safety
    /// `block` is a live block.
    #[inline]
    pub unsafe fn usable(block: *mut c_void) -> usize {
        // SAFETY: as the caller promises.
        unsafe { mi_usable_size(block) }
    }
}

#[cfg(sanitize_address)]
mod raw {
    pub use libc::{free, malloc, malloc_usable_size as usable};
    use std::ptr::NonNull;

    /// Does nothing: this allocator returns large blocks when they are freed.
    ///
    /// # Safety
    /// No conditions; unsafe because the function that it replaces is.
    pub unsafe fn discard(_: NonNull<u8>, _: usize) {}

    /// Under the sanitizer, a block has exactly the requested size.
    ///
    /// # Safety
    /// No conditions; unsafe because the function that it replaces is.
    pub unsafe fn block_bytes(bytes: usize) -> usize {
        bytes
    }
}

/// Returns free memory that the allocator still holds to the operating system.
pub fn purge() {
    #[cfg(not(sanitize_address))]
    // SAFETY: no conditions.
    unsafe {
        libmimalloc_sys::mi_collect(true);
    }
}

/// Returns memory that this thread freed, or that others freed for it, to the operating system. Takes a fraction of a millisecond
/// if there is much, and almost no time otherwise. Call it about once a second, because mimalloc returns a thread's freed memory
/// only when that thread allocates.
pub fn collect() {
    #[cfg(not(sanitize_address))]
    // SAFETY: no conditions.
    unsafe {
        libmimalloc_sys::mi_collect(false);
    }
}

/// The same allocator for memory that has its own limit: it is part of [`uncounted_bytes`], not of [`used_bytes`].
pub fn uncounted() -> &'static impl GlobalAlloc {
    &Uncounted
}

/// The name and version of the allocator, for INFO.
pub fn allocator_name() -> String {
    #[cfg(not(sanitize_address))]
    {
        // SAFETY: no conditions.
        let version = unsafe { libmimalloc_sys::mi_version() };
        // The major version, then two digits each for minor and patch.
        format!(
            "mimalloc-{}.{}.{}",
            version / 10_000,
            version / 100 % 100,
            version % 100
        )
    }
    #[cfg(sanitize_address)]
    String::from("libc")
}

/// The program's global allocator: mimalloc, counted.
#[derive(Debug)]
pub struct Heap;

#[cfg(not(sanitize_address))]
static INNER: mi::MiMalloc = mi::MiMalloc;
#[cfg(sanitize_address)]
static INNER: std::alloc::System = std::alloc::System;

#[cfg(not(sanitize_address))]
mod mi {
    pub use mimalloc::MiMalloc;
}

// SAFETY:
// - every call is forwarded unchanged to an allocator that fulfils the contract; all calls for a block go to the same allocator
//   while its layout stays the same; if a new size belongs to the other allocator, the block is copied as the contract says;
// - counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Heap {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count_allocation(layout.size() as i64);
        if mapped::is_for(layout) {
            return mapped::alloc(layout.size());
        }
        // SAFETY: the caller's contract is the same.
        unsafe { INNER.alloc(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        if mapped::is_for(layout) {
            // SAFETY: the block has this layout, so it was mapped, and the caller no longer uses it.
            unsafe { mapped::dealloc(block, layout.size()) };
            return;
        }
        // SAFETY: the caller's contract is the same.
        unsafe { INNER.dealloc(block, layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count_allocation(layout.size() as i64);
        if mapped::is_for(layout) {
            // Fresh pages are zero.
            return mapped::alloc(layout.size());
        }
        // SAFETY: the caller's contract is the same.
        unsafe { INNER.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller promises that the size does not overflow when rounded up to this alignment.
        let new = unsafe { Layout::from_size_align_unchecked(bytes, layout.align()) };
        let (was_mapped, is_mapped) = (mapped::is_for(layout), mapped::is_for(new));
        if was_mapped != is_mapped {
            // SAFETY: the caller's contract is the same.
            return unsafe { self.move_block(block, layout, new) };
        }
        count_allocation(bytes as i64 - layout.size() as i64);
        if was_mapped {
            // SAFETY: the block has this layout, so it was mapped.
            return unsafe { mapped::realloc(block, layout.size(), bytes) };
        }
        // SAFETY: the caller's contract is the same.
        unsafe { INNER.realloc(block, layout, bytes) }
    }
}

/// See [`uncounted`].
struct Uncounted;

fn count_apart(bytes: i64) {
    add(bytes, |line| &line.uncounted);
}

// SAFETY:
// - every call is forwarded unchanged to an allocator that fulfils the contract;
// - counting neither allocates nor unwinds.
unsafe impl GlobalAlloc for Uncounted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        let block = unsafe { INNER.alloc(layout) };
        if !block.is_null() {
            count_apart(layout.size() as i64);
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count_apart(-(layout.size() as i64));
        // SAFETY: the caller's contract is the same.
        unsafe { INNER.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        let moved = unsafe { INNER.realloc(block, layout, bytes) };
        if !moved.is_null() {
            count_apart(bytes as i64 - layout.size() as i64);
        }
        moved
    }
}

impl Heap {
    /// Moves a block from one allocator to the other.
    ///
    /// # Safety
    /// As for [`GlobalAlloc::realloc`].
    #[cold]
    unsafe fn move_block(&self, block: *mut u8, layout: Layout, new: Layout) -> *mut u8 {
        // SAFETY: the caller promises that the new size is not zero.
        let moved = unsafe { self.alloc(new) };
        if !moved.is_null() {
            let bytes = layout.size().min(new.size());
            // SAFETY: both blocks are at least as long, and one of them is new.
            unsafe { std::ptr::copy_nonoverlapping(block, moved, bytes) };
            // SAFETY: the block has this layout, and the caller no longer uses it.
            unsafe { self.dealloc(block, layout) };
        }
        moved
    }
}

/// Very large blocks, each in its own mapping.
///
/// mimalloc copies a block that grows, and keeps the old one for a second: an input buffer that had grown to 100 MB by doubling
/// left 200 MB resident.
#[cfg(all(target_os = "linux", not(sanitize_address)))]
mod mapped {
    use std::alloc::Layout;
    use std::ptr::null_mut;

    /// Below this size, a copy costs less than touching fresh pages.
    const BYTES_MIN: usize = 4 << 20;

    /// Mappings begin at multiples of at least this.
    const ALIGN_MAX: usize = 4096;

    /// True if blocks of this layout are mapped.
    #[inline]
    pub fn is_for(layout: Layout) -> bool {
        layout.size() >= BYTES_MIN && layout.align() <= ALIGN_MAX
    }

    fn or_null(address: *mut libc::c_void) -> *mut u8 {
        if address == libc::MAP_FAILED {
            null_mut()
        } else {
            address.cast()
        }
    }

    /// A new block of zeros; null if there is no memory.
    #[cold]
    pub fn alloc(bytes: usize) -> *mut u8 {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address that the system chooses touches no other memory.
        or_null(unsafe { libc::mmap(null_mut(), bytes, protection, flags, -1, 0) })
    }

    /// # Safety
    /// The block came from this module with that size, and is no longer used.
    #[cold]
    pub unsafe fn dealloc(block: *mut u8, bytes: usize) {
        // SAFETY: as the caller promises. It can't fail for a whole mapping.
        unsafe { libc::munmap(block.cast(), bytes) };
    }

    /// Changes the size of a block, which may move. Returns null if there is no memory; then the block is unchanged.
    ///
    /// # Safety
    /// The block came from this module with that size; if it moves, the old address is no longer used.
    #[cold]
    pub unsafe fn realloc(block: *mut u8, bytes: usize, new_bytes: usize) -> *mut u8 {
        // SAFETY: as the caller promises.
        or_null(unsafe { libc::mremap(block.cast(), bytes, new_bytes, libc::MREMAP_MAYMOVE) })
    }
}

/// On this platform no block is mapped.
#[cfg(not(all(target_os = "linux", not(sanitize_address))))]
mod mapped {
    use std::alloc::Layout;

    pub fn is_for(_: Layout) -> bool {
        false
    }

    pub fn alloc(_: usize) -> *mut u8 {
        unreachable!("no block is mapped on this platform")
    }

    /// # Safety
    /// None: never called.
    pub unsafe fn dealloc(_: *mut u8, _: usize) {
        unreachable!("no block is mapped on this platform")
    }

    /// # Safety
    /// None: never called.
    pub unsafe fn realloc(_: *mut u8, _: usize, _: usize) -> *mut u8 {
        unreachable!("no block is mapped on this platform")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Held by tests that allocate much, and count. Others allocate little meanwhile.
    static COUNTING: Mutex<()> = Mutex::new(());

    #[test]
    fn block_sizes_are_told_before_they_are_allocated() {
        for bytes in (1..4000).chain([65_600, 1 << 20]) {
            let block = allocate(bytes);
            // SAFETY: just allocated.
            let usable = unsafe { usable_bytes(block) };
            assert_eq!(usable, block_bytes(bytes), "{bytes}");
            // SAFETY: used nowhere else.
            unsafe { free(block) }
        }
    }

    #[test]
    fn large_blocks_are_passed_on_and_counted_until_they_are_freed() {
        static PASSED: Mutex<Option<LargeBlock>> = Mutex::new(None);
        free_large_with(|block| {
            let former = PASSED.lock().expect("no panic").replace(block);
            assert!(former.is_none());
        });
        let _counting = COUNTING.lock();
        let bytes = 16 * LARGE_BYTES_MIN;
        let (before, block) = (used_bytes(), allocate(bytes));
        // SAFETY: the block has that many bytes.
        unsafe { block.write_bytes(1, bytes) };
        // SAFETY: used nowhere else.
        unsafe { free(block) }
        assert!(used_bytes() >= before + bytes / 2);
        let passed = PASSED.lock().expect("no panic").take();
        assert!(passed.is_some_and(|block| block.bytes() >= bytes));
        assert!(used_bytes() < before + bytes / 2);
    }

    #[test]
    fn blocks_are_counted_while_they_live_also_across_threads() {
        const BLOCKS: usize = 64;
        let _counting = COUNTING.lock();
        let before = used_bytes();
        let blocks = [(); BLOCKS].map(|()| allocate(1 << 20).as_ptr() as usize);
        assert!(blocks.iter().all(|address| address % 8 == 0));
        assert!(used_bytes() >= before + (BLOCKS << 19));
        std::thread::spawn(move || {
            for address in blocks {
                let block = NonNull::new(address as *mut u8).expect("not null");
                // SAFETY: allocated above, used nowhere else.
                unsafe { free(block) }
            }
        })
        .join()
        .expect("no panic");
        assert!(used_bytes() < before + (BLOCKS << 19));
    }
}
