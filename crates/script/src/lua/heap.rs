//! The memory of one interpreter: counted here, not with all other memory, and bounded by a limit.
//!
//! Strict, while Lua runs: beyond the limit there is no memory, and Lua raises "not enough memory".
//! Lenient, while Rust runs: there is always memory, because a jump out of Rust would not be sound; the
//! trampoline checks the limit when Rust is done, and functions that build much check it as they go.

use std::alloc::{GlobalAlloc, Layout, handle_alloc_error};
use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;

use damselfly_base::heap::uncounted;

use super::context::Context;

/// What Lua may assume of every block.
const ALIGNMENT: usize = 16;

/// The highest limit: a table of as many bytes is still smaller than the largest that Lua can make, beyond
/// which it raises an error.
const LIMIT_BYTES_MAX: usize = 2 << 30;

/// Counts the bytes of one interpreter.
#[derive(Debug)]
pub(crate) struct Heap {
    used_bytes: Cell<usize>,
    limit_bytes: usize,
    lenient: Cell<bool>,
}

impl Heap {
    pub fn new(limit_bytes: usize) -> Heap {
        Heap {
            used_bytes: Cell::new(0),
            limit_bytes: limit_bytes.min(LIMIT_BYTES_MAX),
            lenient: Cell::new(true),
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
    let heap = unsafe { &(*context.cast::<Context>()).heap };
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
    if new_bytes == 0 || !result.is_null() {
        heap.used_bytes
            .set(heap.used_bytes.get() - old_bytes + new_bytes);
    }
    result.cast()
}
