//! Wrappers that make Lua's own functions respect read-only tables.
//!
//! Lua 5.1 has no read-only tables. Ours are *proxies*: empty tables whose metatable reads through to the
//! real table and refuses writes. A few functions of Lua's libraries ignore metatables and would see the empty
//! table. Scripts call these through wrappers, which pass the real table or refuse.
//!
//! ```text
//! proxy {} ── metatable { __index = real, __newindex = refuse, __metatable = shown, [MARK] = real }
//! ```

use mlua_sys as lua;
use mlua_sys::lua_State;

use super::context::Context;
use super::stack::{Kind, RawFunction, Stack};
use super::trampoline::{guarded, raise};

/// Its address is the key of the real table in a proxy's metatable. No script can create this key.
pub(crate) static PROXY_MARK: u8 = 0;

/// Refuses a proxy as first argument; otherwise calls its upvalue, a function.
pub(crate) const GUARDED_WRITE: RawFunction = RawFunction(guarded_write);
/// Calls its upvalue, a function, with the real table if the first argument is a proxy.
pub(crate) const GUARDED_READ: RawFunction = RawFunction(guarded_read);
/// Refuses arguments whose texts exceed the memory limit; otherwise calls its upvalue, a function.
pub(crate) const GUARDED_TEXTS: RawFunction = RawFunction(guarded_texts);
/// `pairs`; its upvalues are Lua's `next` and the guarded one.
pub(crate) const PAIRS: RawFunction = RawFunction(pairs);
/// `getmetatable`; its upvalue is Lua's.
pub(crate) const GETMETATABLE: RawFunction = RawFunction(getmetatable);

/// Pushes the metatable and the real table of the proxy that is the first argument. Pushes nothing and returns
/// false if that is not a proxy.
///
/// # Safety
/// `state` runs a C function that has room for 3 values.
pub(super) unsafe fn push_real(state: *mut lua_State) -> bool {
    // SAFETY: any index up to 20 may be asked for.
    if unsafe { lua::lua_type(state, 1) } != lua::LUA_TTABLE {
        return false;
    }
    // SAFETY: the first argument is a table.
    if unsafe { lua::lua_getmetatable(state, 1) } == 0 {
        return false;
    }
    let mark = std::ptr::from_ref(&PROXY_MARK).cast_mut().cast();
    // SAFETY: there is room.
    unsafe { lua::lua_pushlightuserdata(state, mark) };
    // SAFETY: a metatable is a table.
    unsafe { lua::lua_rawget_(state, -2) };
    // SAFETY: a value is on top.
    if unsafe { lua::lua_type(state, -1) } == lua::LUA_TTABLE {
        return true;
    }
    // SAFETY: both were pushed here.
    unsafe { lua::lua_pop(state, 2) };
    false
}

/// Calls the C function in the first upvalue, with the same arguments.
///
/// # Safety
/// The function was made with that upvalue, and the callee uses no upvalues.
unsafe fn call_original(state: *mut lua_State) -> i32 {
    // SAFETY: reads a value.
    match unsafe { lua::lua_tocfunction(state, lua::lua_upvalueindex(1)) } {
        // SAFETY: it is a function of Lua's library, and this frame owns nothing.
        Some(original) => unsafe { original(state) },
        None => 0,
    }
}

unsafe extern "C-unwind" fn guarded_write(state: *mut lua_State) -> i32 {
    // SAFETY: Lua calls this with room for 20 values.
    if unsafe { push_real(state) } {
        // SAFETY: as above.
        unsafe { lua::lua_pushstring_(state, c"Attempt to modify a readonly table".as_ptr()) };
        // SAFETY: this frame owns nothing.
        unsafe { lua::lua_error(state) }
    }
    // SAFETY: made with the upvalue.
    unsafe { call_original(state) }
}

unsafe extern "C-unwind" fn guarded_read(state: *mut lua_State) -> i32 {
    // SAFETY: Lua calls this with room for 20 values.
    if unsafe { push_real(state) } {
        // SAFETY: the real table is on top, the first argument exists.
        unsafe { lua::lua_replace(state, 1) };
        // SAFETY: the metatable is on top.
        unsafe { lua::lua_pop(state, 1) };
    }
    // SAFETY: made with the upvalue.
    unsafe { call_original(state) }
}

unsafe extern "C-unwind" fn guarded_texts(state: *mut lua_State) -> i32 {
    // SAFETY: Lua calls this with a live coroutine.
    if unsafe { Context::of(state) }.heap.has_large_blocks() {
        // SAFETY: as above.
        let code = unsafe { guarded(state, |stack| stack.check_texts().map(|()| 0)) };
        if code < 0 {
            // SAFETY: this frame owns nothing.
            return unsafe { raise(state, code) };
        }
    }
    // SAFETY: made with the upvalue.
    unsafe { call_original(state) }
}

unsafe extern "C-unwind" fn pairs(state: *mut lua_State) -> i32 {
    // SAFETY: this frame owns nothing.
    unsafe { lua::luaL_checktype(state, 1, lua::LUA_TTABLE) };
    // SAFETY: Lua calls this with room for 20 values.
    let is_proxy = unsafe { push_real(state) };
    let next = lua::lua_upvalueindex(1 + i32::from(is_proxy));
    // SAFETY: made with two upvalues.
    unsafe { lua::lua_pushvalue(state, next) };
    // SAFETY: the first argument exists.
    unsafe { lua::lua_pushvalue(state, 1) };
    // SAFETY: there is room.
    unsafe { lua::lua_pushnil(state) };
    3
}

unsafe extern "C-unwind" fn getmetatable(state: *mut lua_State) -> i32 {
    // SAFETY: Lua calls this with room for 20 values.
    if !unsafe { push_real(state) } {
        // SAFETY: made with the upvalue.
        return unsafe { call_original(state) };
    }
    // SAFETY: the metatable is below the real table; a proxy's has no metatable of its own.
    unsafe { lua::lua_getfield_(state, -2, c"__metatable".as_ptr()) };
    // SAFETY: a value is on top.
    if unsafe { lua::lua_toboolean(state, -1) } == 0 {
        // SAFETY: there is room.
        unsafe { lua::lua_pushnil(state) };
    }
    1
}

impl Stack<'_> {
    /// Whether the value at `index` is a proxy.
    pub fn is_proxy(&mut self, index: i32) -> bool {
        if !self.get_metatable(index) {
            return false;
        }
        self.push_mark(&PROXY_MARK);
        self.get(-2);
        let is_proxy = self.kind(-1) == Kind::Table;
        self.pop(2);
        is_proxy
    }
}
