//! The memory of one interpreter: counted here, not with all other memory, and bounded by a limit.
//!
//! Strict, while Lua runs: beyond the limit there is no memory, and Lua raises "not enough memory".
//! Lenient, while Rust runs: there is always memory, because a jump out of Rust would not be sound; the
//! trampoline checks the limit when Rust is done, and functions that build much check it as they go.
//!
//! The heap also says how many *steps* may pass before the host is asked whether the script may go on. A step is an
//! instruction, or one piece of the work of a library function. What a step can take depends on the heap: a comparison
//! reads two texts to their ends, an assignment counts all items of a table, a new string walks through those of the
//! same hash. So the interval shrinks as the heap grows, and all steps of an interval together take at most
//! [`INTERVAL_NS`], even if each of them is the slowest that there can be.

use std::alloc::{GlobalAlloc, Layout, handle_alloc_error};
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::ffi::c_void;
use std::ptr;

use damselfly_base::heap::uncounted;

use super::context::Context;

/// What Lua may assume of every block.
const ALIGNMENT: usize = 16;

/// The highest limit: a table of as many bytes is still smaller than the largest that Lua can make, beyond
/// which it raises an error.
const LIMIT_BYTES_MAX: usize = 2 << 30;

/// What the slowest steps of an interval may take together.
const INTERVAL_NS: usize = 1 << 30;
/// Blocks of so many bytes are large.
const LARGE_BYTES: usize = 64 << 10;
/// A step takes up to a nanosecond for so many bytes of a large block: of a text that is read as a number.
const LARGE_BYTES_PER_NS: usize = 4;
/// And for so many of all others: items of a table that are counted, short texts of the same hash.
const BYTES_PER_NS: usize = 16;

/// Counts the bytes of one interpreter.
#[derive(Debug)]
pub(crate) struct Heap {
    used_bytes: Cell<usize>,
    /// Those in large blocks that may be texts: no text is ever resized.
    large_bytes: Cell<usize>,
    /// The addresses of large blocks that have been resized.
    resized: RefCell<HashSet<usize>>,
    limit_bytes: usize,
    lenient: Cell<bool>,
    interval: Cell<usize>,
    interval_max: usize,
    /// While a step takes no longer, the interval need not shrink.
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

    /// Bytes that Lua has in use, with its garbage.
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

    /// What the slowest step takes.
    fn step_ns(&self) -> usize {
        self.used_bytes.get() / BYTES_PER_NS + self.large_bytes.get() / LARGE_BYTES_PER_NS
    }

    /// Fits the interval to what there is now, with room for the heap to double.
    pub fn adjust_interval(&self) {
        let interval = INTERVAL_NS / (2 * self.step_ns()).max(1);
        let interval = interval.clamp(1, self.interval_max);
        self.interval.set(interval);
        self.step_ns_max.set(INTERVAL_NS / interval);
    }

    /// Counts a block that has changed; true if the interval is too long now.
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

    /// Turns leniency on or off and returns what it was.
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

/// Lua's allocator (`lua_Alloc`): frees for `new_bytes` 0, allocates for a null `block`, else resizes.
///
/// # Safety
/// `context` points to a live [`Context`]; `block` is null or came from here with `old_bytes`.
pub(super) unsafe extern "C" fn allocate(
    context: *mut c_void,
    block: *mut c_void,
    old_bytes: usize,
    new_bytes: usize,
) -> *mut c_void {
    // SAFETY: the caller says that it is a live context.
    let context = unsafe { &*context.cast::<Context>() };
    let heap = &context.heap;
    let block = block.cast::<u8>();
    let old_bytes = if block.is_null() { 0 } else { old_bytes };
    if new_bytes > old_bytes && !heap.allows(new_bytes - old_bytes) {
        return ptr::null_mut();
    }
    let (Some(old), Some(new)) = (layout(old_bytes), layout(new_bytes)) else {
        // Lua itself asks for no more than an address space; but it must not raise below Rust.
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
            // SAFETY: the caller says that `block` came from here with this size.
            unsafe { uncounted().dealloc(block, old) };
            ptr::null_mut()
        }
        // SAFETY: as above, and the new size is not 0 and fits a layout.
        (_, _) => unsafe { uncounted().realloc(block, old, new_bytes) },
    };
    if result.is_null() && new_bytes > 0 && heap.lenient.get() {
        // The system's memory is used up, as it may be anywhere in Rust.
        handle_alloc_error(new);
    }
    if (new_bytes == 0 || !result.is_null()) && heap.count((block, old_bytes), (result, new_bytes))
    {
        context.ask_sooner();
    }
    result.cast()
}
