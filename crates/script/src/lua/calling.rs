//! Functions that call back into Lua and let its errors pass through: their frames own nothing.
//!
//! Those that catch errors re-raise the error that ends a script, so that no script can catch it.

use mlua_sys as lua;
use mlua_sys::lua_State;

use super::context::Context;
use super::stack::RawFunction;
use super::trampoline::{guarded, raise, raise_stopped};
use crate::patterns::substitute;

/// `pcall`, which returns the text of an error table, as in Redis.
pub(crate) const PCALL: RawFunction = RawFunction(pcall);
/// `xpcall`.
pub(crate) const XPCALL: RawFunction = RawFunction(xpcall);
/// `string.gsub`.
pub(crate) const GSUB: RawFunction = RawFunction(gsub);

unsafe extern "C-unwind" fn pcall(state: *mut lua_State) -> i32 {
    // SAFETY: this frame owns nothing.
    unsafe { lua::luaL_checkany(state, 1) };
    // SAFETY: reads a number.
    let arguments = unsafe { lua::lua_gettop(state) } - 1;
    // SAFETY: Lua calls this with room for 20 values.
    unsafe { lua::lua_pushboolean(state, 1) };
    // SAFETY: the first argument exists.
    unsafe { lua::lua_insert(state, 1) };
    // SAFETY: the function and its arguments are on top.
    if unsafe { lua::lua_pcall(state, arguments, lua::LUA_MULTRET, 0) } != lua::LUA_OK {
        // SAFETY: Lua calls this with a live coroutine; this frame owns nothing.
        unsafe { reraise_if_stopped(state) };
        // SAFETY: the stack holds `true` and the error, so there is room for two more.
        unsafe { lua::lua_pushboolean(state, 0) };
        // SAFETY: as above.
        unsafe { lua::lua_replace(state, 1) };
        // SAFETY: the error is on top.
        if unsafe { lua::lua_type(state, -1) } == lua::LUA_TTABLE {
            // SAFETY: as above; this frame owns nothing that a metamethod's error could skip.
            unsafe { lua::lua_getfield_(state, -1, c"err".as_ptr()) };
            // SAFETY: a value is on top.
            if unsafe { lua::lua_isstring(state, -1) } != 0 {
                // SAFETY: the error is below it.
                unsafe { lua::lua_replace(state, -2) };
            }
        }
    }
    // SAFETY: reads a number.
    unsafe { lua::lua_gettop(state) }
}

/// Re-raises the caught error if it ends the script.
///
/// # Safety
/// `state` is a live coroutine of a [`super::State`], and no frame between here and Lua owns anything.
pub(super) unsafe fn reraise_if_stopped(state: *mut lua_State) {
    // SAFETY: the caller's promise.
    if unsafe { Context::of(state) }.is_stopped() {
        // SAFETY: as above.
        unsafe { raise_stopped(state) };
    }
}

unsafe extern "C-unwind" fn xpcall(state: *mut lua_State) -> i32 {
    // SAFETY: this frame owns nothing.
    unsafe { lua::luaL_checkany(state, 2) };
    // SAFETY: there are at least two arguments.
    unsafe { lua::lua_settop(state, 2) };
    // SAFETY: reads a value.
    if unsafe { lua::lua_type(state, 2) } == lua::LUA_TFUNCTION {
        // SAFETY: the handler is on top.
        unsafe { lua::lua_pushcclosure(state, handler, 1) };
    }
    // SAFETY: both values are there.
    unsafe { lua::lua_insert(state, 1) };
    // SAFETY: the function is on top, its handler below it.
    let status = unsafe { lua::lua_pcall(state, 0, lua::LUA_MULTRET, 1) };
    if status != lua::LUA_OK {
        // SAFETY: Lua calls this with a live coroutine; this frame owns nothing.
        unsafe { reraise_if_stopped(state) };
    }
    // SAFETY: the handler's place is free.
    unsafe { lua::lua_pushboolean(state, i32::from(status == lua::LUA_OK)) };
    // SAFETY: as above.
    unsafe { lua::lua_replace(state, 1) };
    // SAFETY: reads a number.
    unsafe { lua::lua_gettop(state) }
}

/// Calls the script's handler, which is the upvalue; but not for the error that ends the script. The hook raises that
/// one, and while a handler runs inside the hook, Lua calls no hook, so the handler could not be interrupted.
unsafe extern "C-unwind" fn handler(state: *mut lua_State) -> i32 {
    // SAFETY: Lua calls this with a live coroutine.
    if unsafe { Context::of(state) }.is_stopped() {
        return 1;
    }
    // SAFETY: Lua calls this with room for 20 values.
    unsafe { lua::lua_pushvalue(state, lua::lua_upvalueindex(1)) };
    // SAFETY: the error is the only argument.
    unsafe { lua::lua_insert(state, 1) };
    // SAFETY: the handler and the error are on the stack.
    unsafe { lua::lua_call(state, 1, 1) };
    1
}

unsafe extern "C-unwind" fn gsub(state: *mut lua_State) -> i32 {
    // SAFETY: Lua calls this with a live coroutine. The same holds for all uses of `guarded` here. This
    // frame owns nothing that a jump of `raise` could skip.
    let results = unsafe { guarded(state, substitute::begin) };
    if results != 0 {
        if results > 0 {
            return results;
        }
        // SAFETY: as above.
        return unsafe { raise(state, results) };
    }
    loop {
        // SAFETY: as above.
        let pushed = unsafe { guarded(state, substitute::next_match) };
        match pushed {
            0 => break,
            // SAFETY: as above.
            code if code < 0 => return unsafe { raise(state, code) },
            // SAFETY: a key is on top, the table is the third argument.
            1 => unsafe { lua::lua_gettable_(state, 3) },
            // SAFETY: the function and its arguments are on top.
            pushed => unsafe { lua::lua_call(state, pushed - 1, 1) },
        }
        // SAFETY: as above.
        let code = unsafe { guarded(state, substitute::add_value) };
        if code < 0 {
            // SAFETY: as above.
            return unsafe { raise(state, code) };
        }
    }
    // SAFETY: as above.
    let results = unsafe { guarded(state, substitute::finish) };
    if results < 0 {
        // SAFETY: as above.
        return unsafe { raise(state, results) };
    }
    results
}
