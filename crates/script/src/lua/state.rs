//! A Lua state: creation, hook and destruction.

use mlua_sys as lua;
use mlua_sys::lua_State;

use super::context::{Context, Stop};
use super::heap::allocate;
use super::stack::Stack;
use super::trampoline::raise_stopped;

/// Why a protected call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The interpreter is out of memory. No error handler was called.
    Memory,
    /// The function raised an error.
    Raised,
}

/// A Lua state and its [`Context`].
pub(crate) struct State {
    state: *mut lua_State,
    context: Box<Context>,
}

// SAFETY: the state and everything that it points to belong to this value alone, and nothing in it is bound to
// a thread; `Context` lends a host only during a call on this value.
unsafe impl Send for State {}

impl State {
    /// A state with Lua's own libraries for strings, tables, mathematics and coroutines; `None` if the
    /// system is out of memory.
    pub fn new(limit_bytes: usize, steps_per_tick: usize) -> Option<State> {
        let context = Box::new(Context::new(limit_bytes, steps_per_tick));
        let pointer = std::ptr::from_ref(&*context).cast_mut().cast();
        // SAFETY: the context lives in its box as long as the state.
        let state = unsafe { lua::lua_newstate(allocate, pointer) };
        if state.is_null() {
            return None;
        }
        context.main.set(state);
        context.running.set(state);
        // From here on, dropping this closes the state.
        let this = State { state, context };
        // SAFETY: the state is live, and the call catches what `open` raises.
        let status = unsafe { lua::lua_cpcall(state, open, std::ptr::null_mut()) };
        // SAFETY: the state is live.
        unsafe { set_hook(state, this.context.interval()) };
        (status == lua::LUA_OK).then_some(this)
    }

    /// The outermost stack, outside of any function.
    pub fn stack(&mut self) -> Stack<'_> {
        // SAFETY: the state is live and borrowed exclusively.
        unsafe { Stack::new(self.state) }
    }

    /// The interpreter's state outside of Lua.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Restores the normal interval of the hook after a script was stopped.
    pub fn reset_hook(&mut self) {
        self.context.heap.adjust_interval();
        // SAFETY: the state is live and runs nothing.
        unsafe { set_hook(self.state, self.context.interval()) };
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // SAFETY: the state is live, and nothing uses it after this.
        unsafe { lua::lua_close(self.state) };
    }
}

unsafe extern "C-unwind" fn open(state: *mut lua_State) -> i32 {
    let libraries: [(&std::ffi::CStr, lua::lua_CFunction); 4] = [
        (c"", lua::luaopen_base),
        (c"table", lua::luaopen_table),
        (c"string", lua::luaopen_string),
        (c"math", lua::luaopen_math),
    ];
    for (name, library) in libraries {
        // SAFETY: a C function has room for 20 values; this frame owns nothing.
        unsafe { lua::lua_pushcclosure(state, library, 0) };
        // SAFETY: as above.
        unsafe { lua::lua_pushstring_(state, name.as_ptr()) };
        // SAFETY: function and argument are on the stack.
        unsafe { lua::lua_call(state, 1, 0) };
    }
    0
}

/// Makes a coroutine call the [`hook`] every `interval` instructions, unless it already does.
///
/// # Safety
/// `state` is a live coroutine of a [`State`].
pub(super) unsafe fn set_hook(state: *mut lua_State, interval: usize) {
    let interval = i32::try_from(interval).unwrap_or(i32::MAX);
    // SAFETY: reads a number of a live coroutine.
    if unsafe { lua::lua_gethookcount(state) } != interval {
        // SAFETY: a hook may be set at any time.
        unsafe { lua::lua_sethook(state, Some(hook), lua::LUA_MASKCOUNT, interval) };
    }
}

/// Lua calls this at intervals. It asks the host whether the script may continue.
///
/// It raises only to end the script: while it raises, Lua calls no hook, so a handler of `xpcall` that ran then could
/// not be interrupted.
unsafe extern "C-unwind" fn hook(state: *mut lua_State, _: *mut lua::lua_Debug) {
    // SAFETY: Lua calls this with a live coroutine.
    let context = unsafe { Context::of(state) };
    if !context.ask_without_panic() {
        // SAFETY: as above, and this frame owns nothing.
        unsafe { raise_stopped(state) };
    }
    // SAFETY: as above.
    unsafe { set_hook(state, context.interval()) };
}

impl Stack<'_> {
    /// Pushes the error that ends the script. From now on, every instruction raises it again, so that no `pcall` saves
    /// the script.
    pub(super) fn push_stopped(&mut self) {
        for state in [self.state(), self.context().main.get()] {
            // SAFETY: both are live coroutines.
            unsafe { set_hook(state, 1) };
        }
        let text = match self.context().stop.get() {
            Stop::Killed(text) => text,
            Stop::Aborted | Stop::No => "ERR The script was aborted",
        };
        self.push_table(0, 1);
        self.push_bytes(text.as_bytes());
        self.set_field(-2, "err");
    }
}
