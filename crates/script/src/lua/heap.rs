//! The memory of one interpreter. It has a limit, and is counted here, apart from all other memory.
//!
//! Strict, while Lua runs: allocations beyond the limit fail, and Lua raises "not enough memory".
//! Lenient, while Rust runs: allocations beyond the limit succeed, because a jump out of Rust would be unsound. The
//! trampoline checks the limit when Rust is done, and functions that build large results check it as they work.
//!
//! The heap also determines how many *steps* may pass before the host is asked whether the script may continue. A step
//! is an instruction, or one piece of the work of a library function. The time of a step depends on the heap: a
//! comparison reads two whole texts, an assignment may count all items of a table, a new string is compared with those of
//! the same hash. So the interval shrinks as the heap grows, and all steps of an interval together take at most
//! [`INTERVAL_NS`], even if each of them is as slow as possible.

use std::alloc::{GlobalAlloc, Layout, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::ffi::c_void;
use std::ptr;

use damselfly_base::heap::uncounted;

use super::context::Context;

/// The alignment that Lua may assume for every block.
const ALIGNMENT: usize = 16;

/// The highest limit. A table of this size is still below the maximum of Lua, beyond which Lua raises an
/// error.
const LIMIT_BYTES_MAX: usize = 2 << 30;

/// The maximum time of an interval that consists of the slowest steps.
const INTERVAL_NS: usize = 1 << 30;
/// Blocks of at least this size are large.
const LARGE_BYTES: usize = 64 << 10;
/// For this many bytes of large blocks, a step takes up to a nanosecond: it may read a text as a number.
const LARGE_BYTES_PER_NS: usize = 4;
/// For this many bytes of any blocks, a step takes up to a nanosecond: it may count the items of a table, or compare
/// short texts of the same hash.
const BYTES_PER_NS: usize = 16;

/// Counts the bytes of one interpreter.
#[derive(Debug)]
pub(crate) struct Heap {
    used_bytes: Cell<usize>,
    /// Bytes of large blocks that may be texts: those never resized, as Lua never resizes a text.
    large_bytes: Cell<usize>,
    /// The addresses of large blocks that have been resized.
    resized: RefCell<HashSet<usize>>,
    limit_bytes: usize,
    lenient: Cell<bool>,
    interval: Cell<usize>,
    interval_max: usize,
    /// The interval must shrink when a step may take longer than this.
    step_ns_max: Cell<usize>,
}

impl Heap {
    pub fn new(limit_bytes: usize, interval_max: usize) -> Heap {
        let interval_max = interval_max.max(1);
        Heap {
            used_bytes: Cell::new(0),
            large_bytes: Cell::new(0),
            resized: RefCell::default(),
            limit_bytes: limit_bytes.min(LIMIT_BYTES_MAX),
            lenient: Cell::new(true),
            interval: Cell::new(interval_max),
            interval_max,
            step_ns_max: Cell::new(INTERVAL_NS / interval_max),
        }
    }

    /// Bytes that Lua uses, including garbage.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes.get()
    }

    /// Bytes that Lua may use.
    pub fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    /// Whether more is in use than the limit allows.
    pub fn is_over_limit(&self) -> bool {
        self.used_bytes.get() > self.limit_bytes
    }

    /// Whether there are large blocks that may be texts.
    pub fn has_large_blocks(&self) -> bool {
        self.large_bytes.get() > 0
    }

    /// How many steps may pass before the host is asked.
    pub fn interval(&self) -> usize {
        self.interval.get()
    }

    /// The time of the slowest step.
    fn step_ns(&self) -> usize {
        self.used_bytes.get() / BYTES_PER_NS + self.large_bytes.get() / LARGE_BYTES_PER_NS
    }

    /// Adapts the interval to the current heap, and leaves room for it to double.
    pub fn adjust_interval(&self) {
        let interval = INTERVAL_NS / (2 * self.step_ns()).max(1);
        let interval = interval.clamp(1, self.interval_max);
        self.interval.set(interval);
        self.step_ns_max.set(INTERVAL_NS / interval);
    }

    /// Counts a changed block. Returns true if the interval is too long now.
    fn count(&self, old: (*mut u8, usize), new: (*mut u8, usize)) -> bool {
        self.used_bytes.set(self.used_bytes.get() - old.1 + new.1);
        if old.1.max(new.1) >= LARGE_BYTES {
            self.count_large(old, new);
        }
        new.1 > old.1 && self.step_ns() > self.step_ns_max.get()
    }

    #[cold]
    fn count_large(&self, old: (*mut u8, usize), new: (*mut u8, usize)) {
        let mut resized = self.resized.borrow_mut();
        let mut large_bytes = self.large_bytes.get();
        if old.1 >= LARGE_BYTES && !resized.remove(&old.0.addr()) {
            large_bytes -= old.1;
        }
        if new.1 >= LARGE_BYTES && old.1 == 0 {
            large_bytes += new.1;
        } else if new.1 >= LARGE_BYTES {
            resized.insert(new.0.addr());
        }
        self.large_bytes.set(large_bytes);
    }

    /// Turns leniency on or off and returns the previous value.
    pub fn set_lenient(&self, lenient: bool) -> bool {
        self.lenient.replace(lenient)
    }

    /// Whether `bytes` more may be allocated now.
    fn allows(&self, bytes: usize) -> bool {
        self.lenient.get() || self.used_bytes.get().saturating_add(bytes) <= self.limit_bytes
    }
}

fn layout(bytes: usize) -> Option<Layout> {
    Layout::from_size_align(bytes, ALIGNMENT).ok()
}

/// Lua's allocator (`lua_Alloc`): frees if `new_bytes` is 0, allocates if `block` is null, otherwise resizes.
///
/// # Safety
/// `context` points to a live [`Context`]; `block` is null or was allocated here with `old_bytes`.
pub(super) unsafe extern "C" fn allocate(
    context: *mut c_void,
    block: *mut c_void,
    old_bytes: usize,
    new_bytes: usize,
) -> *mut c_void {
    // SAFETY: the caller guarantees that it is a live context.
    let context = unsafe { &*context.cast::<Context>() };
    let heap = &context.heap;
    let block = block.cast::<u8>();
    let old_bytes = if block.is_null() { 0 } else { old_bytes };
    if new_bytes > old_bytes && !heap.allows(new_bytes - old_bytes) {
        return ptr::null_mut();
    }
    let (Some(old), Some(new)) = (layout(old_bytes), layout(new_bytes)) else {
        // Lua never requests more than the address space. Even if it did, it must not raise below Rust.
        assert!(
            !heap.lenient.get(),
            "a block for Lua has an impossible size"
        );
        return ptr::null_mut();
    };
    let result = match (old_bytes, new_bytes) {
        (0, 0) => return ptr::null_mut(),
        // SAFETY: `new` is not empty.
        (0, _) => unsafe { uncounted().alloc(new) },
        (_, 0) => {
            // SAFETY: the caller guarantees that `block` was allocated here with this size.
            unsafe { uncounted().dealloc(block, old) };
            ptr::null_mut()
        }
        // SAFETY: as above, and the new size is not 0 and fits a layout.
        (_, _) => unsafe { uncounted().realloc(block, old, new_bytes) },
    };
    if result.is_null() && new_bytes > 0 && heap.lenient.get() {
        // The system is out of memory, which aborts anywhere in Rust.
        handle_alloc_error(new);
    }
    if (new_bytes == 0 || !result.is_null()) && heap.count((block, old_bytes), (result, new_bytes))
    {
        context.ask_sooner();
    }
    result.cast()
}
