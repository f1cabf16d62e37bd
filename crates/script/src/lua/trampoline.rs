//! Calls Rust functions from Lua, and raises their errors when no Rust frame owns anything any more.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mlua_sys::{
    LUA_GCCOLLECT, lua_State, lua_checkstack, lua_concat, lua_error, lua_gc, lua_gettop,
    lua_pushlstring_, lua_settop, lua_tostring, lua_touserdata, lua_upvalueindex, luaL_argerror,
    luaL_where,
};

use super::context::{Context, Stop};
use super::stack::Stack;

/// A function that Lua calls. Its arguments are on the stack; it pushes its results and returns how many.
pub(crate) type Function = fn(&mut Stack<'_>) -> Outcome;

/// The number of results, or the error to raise.
pub(crate) type Outcome = Result<usize, Raise>;

/// An error for Lua.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Raise {
    /// A text, which gets the caller's script and line as a prefix.
    Here(String),
    /// `bad argument` with this number and reason.
    Argument(i32, String),
    /// The value on top of the stack.
    Value,
    /// Not enough memory.
    Memory,
    /// The error that ends the script, as the host has decided.
    Stopped,
}

impl Raise {
    /// An error with a text, which gets the caller's script and line as a prefix.
    pub fn here(text: impl Into<String>) -> Raise {
        Raise::Here(text.into())
    }
}

const RAISE_VALUE: i32 = -1;
/// Stack places that raising needs.
const RAISE_ROOM: i32 = 10;
/// A code of this value or less means `bad argument` number `RAISE_ARGUMENT - code`.
const RAISE_ARGUMENT: i32 = -100;

/// The C function of every [`Function`], which is its first upvalue.
///
/// # Safety
/// Called by Lua, with a closure that [`Stack::push_function`] made.
pub(super) unsafe extern "C-unwind" fn trampoline(state: *mut lua_State) -> i32 {
    // SAFETY: the caller's promise.
    let code = unsafe { run(state) };
    if code >= 0 {
        return code;
    }
    // SAFETY: `run` has returned, so this frame owns nothing that a jump could skip; the value or the
    // text is on top of the stack.
    unsafe { raise(state, code) }
}

/// Raises the error of `code`.
///
/// # Safety
/// No frame between here and Lua owns anything; `code` came from [`guarded`] with this state.
pub(super) unsafe fn raise(state: *mut lua_State, code: i32) -> i32 {
    if code == RAISE_VALUE {
        // SAFETY: the caller's promise.
        unsafe { lua_error(state) }
    }
    // SAFETY: `guarded` left the text on top.
    let text = unsafe { lua_tostring(state, -1) };
    // SAFETY: the text stays alive on the stack; the caller's promise.
    unsafe { luaL_argerror(state, RAISE_ARGUMENT - code, text) }
}

/// Raises the error that ends the script.
///
/// # Safety
/// `state` is a live coroutine of a [`super::State`], and no frame between here and Lua owns anything.
#[cold]
pub(super) unsafe fn raise_stopped(state: *mut lua_State) -> i32 {
    // SAFETY: the caller's promise.
    let code = unsafe { guarded(state, |_| Err(Raise::Stopped)) };
    // SAFETY: as above.
    unsafe { raise(state, code) }
}

/// Counts a step of a function that calls Lua, and raises if the script must end.
///
/// # Safety
/// As for [`raise_stopped`].
pub(super) unsafe fn step(state: *mut lua_State, context: &Context) {
    if context.is_due(1) && !context.ask_without_panic() {
        // SAFETY: the caller's promise.
        unsafe { raise_stopped(state) };
    }
}

unsafe fn run(state: *mut lua_State) -> i32 {
    // SAFETY: the first upvalue is the pointer that `push_function` stored.
    let pointer = unsafe { lua_touserdata(state, lua_upvalueindex(1)) };
    // SAFETY: it was made from a `Function`; both are one pointer.
    let function = unsafe { std::mem::transmute::<*mut std::ffi::c_void, Function>(pointer) };
    // SAFETY: `state` is running and belongs to this crate.
    unsafe { guarded(state, function) }
}

/// Runs a Rust function on behalf of Lua with a lenient heap, and catches panics. Returns the number of results, or a
/// code for [`raise`].
///
/// # Safety
/// `state` is a live coroutine of a [`super::State`].
pub(super) unsafe fn guarded(
    state: *mut lua_State,
    function: impl FnOnce(&mut Stack<'_>) -> Outcome,
) -> i32 {
    // SAFETY: the caller's promise.
    let mut stack = unsafe { Stack::new(state) };
    let heap = &stack.context().heap;
    let was_lenient = heap.set_lenient(true);
    let outcome = catch_unwind(AssertUnwindSafe(|| function(&mut stack)));
    let outcome = outcome.unwrap_or_else(|panic| {
        stack.context().stop.set(Stop::Aborted);
        stack.context().panic.replace(Some(panic));
        Err(Raise::Stopped)
    });
    let outcome = match outcome {
        Ok(_) if !was_lenient && heap.is_over_limit() => {
            // SAFETY: a collection raises nothing: no object has a finalizer in Lua.
            unsafe { lua_gc(state, LUA_GCCOLLECT, 0) };
            if !stack.context().ask_without_panic() {
                Err(Raise::Stopped)
            } else if heap.is_over_limit() {
                Err(Raise::Memory)
            } else {
                outcome
            }
        }
        Ok(_) | Err(_) => outcome,
    };
    if !matches!(outcome, Ok(_) | Err(Raise::Value)) {
        // SAFETY: memory is lenient, so that this returns 0 rather than raising.
        if unsafe { lua_checkstack(state, RAISE_ROOM) } == 0 {
            // SAFETY: the values that the function has pushed are not needed any more.
            unsafe { lua_settop(state, 0) };
        }
    }
    let code = match outcome {
        // SAFETY: reads a number.
        Ok(results) => i32::try_from(results)
            .unwrap_or(0)
            .min(unsafe { lua_gettop(state) }),
        Err(Raise::Value) => RAISE_VALUE,
        Err(Raise::Stopped) => {
            stack.push_stopped();
            RAISE_VALUE
        }
        Err(Raise::Memory) => {
            push(state, b"not enough memory");
            RAISE_VALUE
        }
        Err(Raise::Here(text)) => {
            // SAFETY: memory is lenient, and a C function has room for 20 values.
            unsafe { luaL_where(state, 1) };
            push(state, text.as_bytes());
            // SAFETY: as above; both are strings.
            unsafe { lua_concat(state, 2) };
            RAISE_VALUE
        }
        Err(Raise::Argument(number, text)) => {
            push(state, text.as_bytes());
            RAISE_ARGUMENT - number
        }
    };
    heap.set_lenient(was_lenient);
    code
}

/// Pushes a string where the heap is lenient and the stack has room.
fn push(state: *mut lua_State, text: &[u8]) {
    // SAFETY: C functions have room for 20 values, and functions of this crate reserve what they use
    // beyond that; the heap is lenient.
    unsafe { lua_pushlstring_(state, text.as_ptr().cast(), text.len()) };
}
