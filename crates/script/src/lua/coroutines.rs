//! `coroutine.resume` and `coroutine.wrap`. They differ from Lua's own in three ways: the context knows which coroutine
//! runs, since its hook may have to change; resuming counts as work, since every coroutine counts its own instructions;
//! and they re-raise the error that ends a script.

use mlua_sys as lua;
use mlua_sys::lua_State;

use super::calling::reraise_if_stopped;
use super::context::Context;
use super::stack::RawFunction;
use super::state::set_hook;
use super::trampoline::raise_stopped;

/// `coroutine.resume`.
pub(crate) const RESUME: RawFunction = RawFunction(resume);
/// `coroutine.wrap`.
pub(crate) const WRAP: RawFunction = RawFunction(wrap);

unsafe extern "C-unwind" {
    /// Copies the count of nested C calls of `from` to `to`.
    fn lua_setlevel(from: *mut lua_State, to: *mut lua_State);
}

unsafe extern "C-unwind" fn resume(state: *mut lua_State) -> i32 {
    // SAFETY: any argument may be asked for.
    let coroutine = unsafe { lua::lua_tothread(state, 1) };
    if coroutine.is_null() {
        // SAFETY: this frame owns nothing.
        return unsafe { lua::luaL_argerror(state, 1, c"coroutine expected".as_ptr()) };
    }
    // SAFETY: reads a number.
    let arguments = unsafe { lua::lua_gettop(state) } - 1;
    // SAFETY: the arguments are on top; the coroutine is the first, which stays.
    let results = unsafe { run(state, coroutine, arguments) };
    // SAFETY: `run` left room for one more.
    unsafe { lua::lua_pushboolean(state, i32::from(results >= 0)) };
    let results = results.abs();
    // SAFETY: the results are below.
    unsafe { lua::lua_insert(state, -(results + 1)) };
    results + 1
}

unsafe extern "C-unwind" fn wrap(state: *mut lua_State) -> i32 {
    // SAFETY: there is room for 20 values; this frame owns nothing.
    let coroutine = unsafe { lua::lua_newthread(state) };
    // SAFETY: any argument may be asked for.
    let is_function = unsafe { lua::lua_type(state, 1) } == lua::LUA_TFUNCTION;
    // SAFETY: as above.
    if !is_function || unsafe { lua::lua_iscfunction(state, 1) } != 0 {
        // SAFETY: this frame owns nothing.
        return unsafe { lua::luaL_argerror(state, 1, c"Lua function expected".as_ptr()) };
    }
    // SAFETY: the function is the first argument.
    unsafe { lua::lua_pushvalue(state, 1) };
    // SAFETY: a new coroutine has room for it.
    unsafe { lua::lua_xmove(state, coroutine, 1) };
    // SAFETY: the coroutine is on top.
    unsafe { lua::lua_pushcclosure(state, resume_wrapped, 1) };
    1
}

unsafe extern "C-unwind" fn resume_wrapped(state: *mut lua_State) -> i32 {
    // SAFETY: `wrap` made this function with the coroutine as upvalue.
    let coroutine = unsafe { lua::lua_tothread(state, lua::lua_upvalueindex(1)) };
    // SAFETY: reads a number.
    let arguments = unsafe { lua::lua_gettop(state) };
    // SAFETY: the arguments are on top; the upvalue keeps the coroutine alive.
    let results = unsafe { run(state, coroutine, arguments) };
    if results >= 0 {
        return results;
    }
    // SAFETY: the error is on top.
    if unsafe { lua::lua_isstring(state, -1) } != 0 {
        // SAFETY: there is room; this frame owns nothing. The same holds below.
        unsafe { lua::luaL_where(state, 1) };
        // SAFETY: as above.
        unsafe { lua::lua_insert(state, -2) };
        // SAFETY: as above; both are strings.
        unsafe { lua::lua_concat(state, 2) };
    }
    // SAFETY: as above.
    unsafe { lua::lua_error(state) }
}

/// Runs a coroutine with the values on top until it yields, returns or fails. Returns the number of results on top, or
/// -1 if an error is on top.
///
/// # Safety
/// `state` runs a function and has as many values on top; `coroutine` is of the same [`super::State`] and stays alive.
/// No frame between here and Lua owns anything.
unsafe fn run(state: *mut lua_State, coroutine: *mut lua_State, arguments: i32) -> i32 {
    // SAFETY: the caller's promise. The same holds below.
    let context = unsafe { Context::of(state) };
    // A coroutine counts only its own instructions, so each of many coroutines could run for a whole interval.
    if context.is_due(context.interval() / 4 + 1) && !context.ask_without_panic() {
        // SAFETY: as above.
        unsafe { raise_stopped(state) };
    }
    // SAFETY: as above.
    if unsafe { lua::lua_checkstack(coroutine, arguments) } == 0 {
        let text = c"too many arguments to resume";
        // SAFETY: as above.
        return unsafe { lua::luaL_error(state, text.as_ptr()) };
    }
    // SAFETY: as above.
    if let Some(problem) = unsafe { problem(state, coroutine) } {
        // SAFETY: as above; C functions have room for 20 values.
        unsafe { lua::lua_pushstring_(state, problem.as_ptr()) };
        return -1;
    }
    // SAFETY: there is room.
    unsafe { lua::lua_xmove(state, coroutine, arguments) };
    // SAFETY: both are live.
    unsafe { lua_setlevel(state, coroutine) };
    context.running.set(coroutine);
    // SAFETY: it is live.
    unsafe { set_hook(coroutine, context.interval()) };
    // SAFETY: the function and its arguments, or what `yield` returns, are on its stack.
    let status = unsafe { lua::lua_resume_(coroutine, arguments) };
    context.running.set(state);
    // SAFETY: it is live.
    unsafe { set_hook(state, context.interval()) };
    // SAFETY: as above.
    unsafe { reraise_if_stopped(state) };
    if status != lua::LUA_OK && status != lua::LUA_YIELD {
        // SAFETY: the error is on top of its stack.
        unsafe { lua::lua_xmove(coroutine, state, 1) };
        return -1;
    }
    // SAFETY: reads a number.
    let results = unsafe { lua::lua_gettop(coroutine) };
    // SAFETY: as above.
    if unsafe { lua::lua_checkstack(state, results + 1) } == 0 {
        let text = c"too many results to resume";
        // SAFETY: as above.
        return unsafe { lua::luaL_error(state, text.as_ptr()) };
    }
    // SAFETY: there is room.
    unsafe { lua::lua_xmove(coroutine, state, results) };
    results
}

/// Why a coroutine can't be resumed.
///
/// # Safety
/// Both are live coroutines.
unsafe fn problem(
    state: *mut lua_State,
    coroutine: *mut lua_State,
) -> Option<&'static std::ffi::CStr> {
    if state == coroutine {
        return Some(c"cannot resume running coroutine");
    }
    // SAFETY: the caller's promise.
    match unsafe { lua::lua_status(coroutine) } {
        lua::LUA_YIELD => return None,
        lua::LUA_OK => {}
        _ => return Some(c"cannot resume dead coroutine"),
    }
    // SAFETY: all fields are pointers and numbers, for which zeros are valid.
    let mut record: lua::lua_Debug = unsafe { std::mem::zeroed() };
    // SAFETY: fills the record or returns 0.
    if unsafe { lua::lua_getstack(coroutine, 0, &mut record) } != 0 {
        return Some(c"cannot resume normal coroutine");
    }
    // SAFETY: reads a number.
    let is_dead = unsafe { lua::lua_gettop(coroutine) } == 0;
    is_dead.then_some(c"cannot resume dead coroutine")
}
