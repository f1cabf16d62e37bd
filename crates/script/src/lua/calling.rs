//! Functions that call back into Lua and let its errors pass: their frames own nothing.

use mlua_sys as lua;
use mlua_sys::lua_State;

use super::stack::RawFunction;
use super::trampoline::{guarded, raise};
use crate::patterns::substitute;

/// `pcall`, which gives the text of an error table as Redis does.
pub(crate) const PCALL: RawFunction = RawFunction(pcall);
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

unsafe extern "C-unwind" fn gsub(state: *mut lua_State) -> i32 {
    // SAFETY: Lua calls this with a live coroutine. So for all uses of `guarded` here; nothing that this
    // frame owns is skipped when `raise` jumps.
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
