//! One Lua state: made, hooked and closed here.

use mlua_sys as lua;
use mlua_sys::lua_State;

use super::context::{Context, Stop};
use super::heap::allocate;
use super::stack::Stack;
use super::trampoline::{Raise, guarded, raise};

/// Why a protected call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The interpreter's memory is used up; no handler has seen it.
    Memory,
    /// The function raised an error.
    Raised,
}

/// A Lua state and its [`Context`].
pub(crate) struct State {
    state: *mut lua_State,
    context: Box<Context>,
}

// SAFETY: the state and all that it points to belong to this value alone, and nothing in it is bound to
// a thread; `Context` lends a host only while a call on this value lasts.
unsafe impl Send for State {}

impl State {
    /// A state with Lua's own libraries for strings, tables, mathematics and coroutines; `None` if the
    /// system has no memory for it.
    pub fn new(limit_bytes: usize, instructions_per_tick: i32) -> Option<State> {
        let context = Box::new(Context::new(limit_bytes));
        let pointer = std::ptr::from_ref(&*context).cast_mut().cast();
        // SAFETY: the context lives in its box as long as the state.
        let state = unsafe { lua::lua_newstate(allocate, pointer) };
        if state.is_null() {
            return None;
        }
        context.main.set(state);
        // From here on, dropping this closes the state.
        let this = State { state, context };
        // SAFETY: the state is live, and what `open` raises ends in the call.
        let status = unsafe { lua::lua_cpcall(state, open, std::ptr::null_mut()) };
        // SAFETY: the state is live.
        unsafe { lua::lua_sethook(state, Some(hook), lua::LUA_MASKCOUNT, instructions_per_tick) };
        (status == lua::LUA_OK).then_some(this)
    }

    /// The outermost stack, which belongs to no function.
    pub fn stack(&mut self) -> Stack<'_> {
        // SAFETY: the state is live and borrowed exclusively.
        unsafe { Stack::new(self.state) }
    }

    /// What the interpreter holds beside Lua.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Makes the hook look every `instructions` again, after a script was stopped.
    pub fn reset_hook(&mut self, instructions: i32) {
        // SAFETY: the state is live and runs nothing.
        unsafe { lua::lua_sethook(self.state, Some(hook), lua::LUA_MASKCOUNT, instructions) };
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

/// Runs every so many instructions: asks the host whether the script may go on.
unsafe extern "C-unwind" fn hook(state: *mut lua_State, _: *mut lua::lua_Debug) {
    // SAFETY: Lua calls this with a live coroutine.
    let code = unsafe { guarded(state, |stack| tick(stack).map(|()| 0)) };
    if code < 0 {
        // SAFETY: `guarded` has returned, so this frame owns nothing.
        unsafe { raise(state, code) };
    }
}

/// Asks the host whether the script may go on; raises if not.
fn tick(stack: &Stack<'_>) -> Result<(), Raise> {
    let context = stack.context();
    if context.stop.get() == Stop::No && context.may_go_on() {
        return Ok(());
    }
    Err(Raise::Stopped)
}

impl Stack<'_> {
    /// Pushes what a script raises that must stop. From now on, every instruction raises it again, so that no
    /// `pcall` saves the script.
    pub(super) fn push_stopped(&mut self) {
        for state in [self.state(), self.context().main.get()] {
            // SAFETY: both are live coroutines; a hook may be set at any time.
            unsafe { lua::lua_sethook(state, Some(hook), lua::LUA_MASKCOUNT, 1) };
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
