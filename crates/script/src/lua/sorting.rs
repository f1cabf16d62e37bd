//! Functions of `table` that call back into Lua for many items. They behave like Lua's own, but can be interrupted.
//! Their frames own nothing.

use mlua_sys as lua;
use mlua_sys::lua_State;

use super::context::Context;
use super::guard::push_real;
use super::stack::RawFunction;
use super::trampoline::step;

/// `table.sort`.
pub(crate) const SORT: RawFunction = RawFunction(sort);
/// `table.foreach`.
pub(crate) const FOREACH: RawFunction = RawFunction(foreach);
/// `table.foreachi`.
pub(crate) const FOREACHI: RawFunction = RawFunction(foreachi);

unsafe extern "C-unwind" fn foreach(state: *mut lua_State) -> i32 {
    // SAFETY: Lua calls this with a live coroutine and room for 20 values, and this frame owns nothing. The same holds below.
    let context = unsafe { Context::of(state) };
    // SAFETY: as above.
    unsafe { lua::luaL_checktype(state, 1, lua::LUA_TTABLE) };
    // SAFETY: as above.
    unsafe { lua::luaL_checktype(state, 2, lua::LUA_TFUNCTION) };
    // SAFETY: as above.
    unsafe { lua::lua_settop(state, 2) };
    // SAFETY: as above.
    if unsafe { push_real(state) } {
        // SAFETY: the real table is on top, its proxy's metatable below.
        unsafe { lua::lua_replace(state, 1) };
        // SAFETY: as above.
        unsafe { lua::lua_settop(state, 2) };
    }
    // SAFETY: there is room.
    unsafe { lua::lua_pushnil(state) };
    // SAFETY: the key is on top.
    while unsafe { lua::lua_next(state, 1) } != 0 {
        // SAFETY: as above.
        unsafe { step(state, context) };
        // SAFETY: function, key and value are there.
        unsafe { lua::lua_pushvalue(state, 2) };
        // SAFETY: as above.
        unsafe { lua::lua_pushvalue(state, -3) };
        // SAFETY: as above.
        unsafe { lua::lua_pushvalue(state, -3) };
        // SAFETY: function and arguments are on top.
        unsafe { lua::lua_call(state, 2, 1) };
        // SAFETY: the result is on top.
        if unsafe { lua::lua_type(state, -1) } != lua::LUA_TNIL {
            return 1;
        }
        // SAFETY: value and result are on top.
        unsafe { lua::lua_pop(state, 2) };
    }
    0
}

unsafe extern "C-unwind" fn foreachi(state: *mut lua_State) -> i32 {
    // SAFETY: Lua calls this with a live coroutine and room for 20 values, and this frame owns nothing. The same holds below.
    let context = unsafe { Context::of(state) };
    // SAFETY: as above.
    let len = unsafe { checked_len(state) };
    // SAFETY: as above.
    unsafe { lua::luaL_checktype(state, 2, lua::LUA_TFUNCTION) };
    for index in 1..=len {
        // SAFETY: as above.
        unsafe { step(state, context) };
        // SAFETY: the function is the second argument.
        unsafe { lua::lua_pushvalue(state, 2) };
        // SAFETY: there is room.
        unsafe { lua::lua_pushnumber(state, f64::from(index)) };
        // SAFETY: the table is the first argument.
        unsafe { lua::lua_rawgeti_(state, 1, index) };
        // SAFETY: function and arguments are on top.
        unsafe { lua::lua_call(state, 2, 1) };
        // SAFETY: the result is on top.
        if unsafe { lua::lua_type(state, -1) } != lua::LUA_TNIL {
            return 1;
        }
        // SAFETY: as above.
        unsafe { lua::lua_pop(state, 1) };
    }
    0
}

/// The length of the first argument, which must be a table.
unsafe fn checked_len(state: *mut lua_State) -> i32 {
    // SAFETY: the caller runs a C function and owns nothing.
    unsafe { lua::luaL_checktype(state, 1, lua::LUA_TTABLE) };
    // SAFETY: the first argument is a table.
    i32::try_from(unsafe { lua::lua_objlen(state, 1) }).unwrap_or(i32::MAX)
}

unsafe extern "C-unwind" fn sort(state: *mut lua_State) -> i32 {
    /// Three values for each level of the recursion, which only descends into the smaller half.
    const STACK: i32 = 40;
    // SAFETY: Lua calls this with a live coroutine, and this frame owns nothing. The same holds below.
    let len = unsafe { checked_len(state) };
    // SAFETY: as above.
    unsafe { lua::luaL_checkstack(state, STACK, c"".as_ptr()) };
    // SAFETY: as above.
    let kind = unsafe { lua::lua_type(state, 2) };
    if !matches!(kind, lua::LUA_TNONE | lua::LUA_TNIL) {
        // SAFETY: as above.
        unsafe { lua::luaL_checktype(state, 2, lua::LUA_TFUNCTION) };
    }
    // SAFETY: as above.
    unsafe { lua::lua_settop(state, 2) };
    // SAFETY: as above.
    let context = unsafe { Context::of(state) };
    let sorter = Sorter { state, context };
    // SAFETY: the arguments are in their places.
    unsafe { sorter.sort(1, len) };
    0
}

/// Lua's quicksort: it makes the same comparisons in the same order, so that scripts see no difference. The table is
/// value 1, the comparator or nil is value 2.
#[derive(Clone, Copy)]
struct Sorter<'c> {
    state: *mut lua_State,
    context: &'c Context,
}

impl Sorter<'_> {
    unsafe fn push(self, index: i32) {
        // SAFETY: the table is there, and room for 40 values.
        unsafe { lua::lua_rawgeti_(self.state, 1, index) };
    }

    unsafe fn pop(self, count: i32) {
        // SAFETY: the caller has pushed as many.
        unsafe { lua::lua_pop(self.state, count) };
    }

    /// Pops two values: stores the top one at index `first`, the other at index `second`.
    unsafe fn pop_two_to(self, first: i32, second: i32) {
        // SAFETY: the caller has pushed two values.
        unsafe { lua::lua_rawseti_(self.state, 1, first) };
        // SAFETY: as above.
        unsafe { lua::lua_rawseti_(self.state, 1, second) };
    }

    /// Whether the value at `left` comes before that at `right`. Both are stack indexes relative to the top.
    unsafe fn is_less(self, left: i32, right: i32) -> bool {
        let state = self.state;
        // SAFETY: no frame of this file owns anything. The same holds below.
        unsafe { step(state, self.context) };
        // SAFETY: as above.
        if unsafe { lua::lua_type(state, 2) } == lua::LUA_TNIL {
            // SAFETY: both values are there.
            return unsafe { lua::lua_lessthan(state, left, right) } != 0;
        }
        // SAFETY: there is room.
        unsafe { lua::lua_pushvalue(state, 2) };
        // SAFETY: the value is now one further from the top.
        unsafe { lua::lua_pushvalue(state, left - 1) };
        // SAFETY: the value is now two further from the top.
        unsafe { lua::lua_pushvalue(state, right - 2) };
        // SAFETY: function and arguments are on top.
        unsafe { lua::lua_call(state, 2, 1) };
        // SAFETY: the result is on top.
        let is_less = unsafe { lua::lua_toboolean(state, -1) } != 0;
        // SAFETY: as above.
        unsafe { self.pop(1) };
        is_less
    }

    unsafe fn raise_invalid_order(self) {
        let text = c"invalid order function for sorting";
        // SAFETY: no frame of this file owns anything.
        unsafe { lua::luaL_error(self.state, text.as_ptr()) };
    }

    /// Sorts the items from `low` to `high`.
    unsafe fn sort(self, mut low: i32, mut high: i32) {
        // SAFETY: this pushes no more than three values at a level, and pops what it pushes. The same holds below.
        while low < high {
            // SAFETY: as above.
            let Some(middle) = (unsafe { self.order_three(low, high) }) else {
                return;
            };
            // The pivot, which stays on the stack, moves to the last place but one.
            // SAFETY: as above.
            unsafe { self.push(middle) };
            // SAFETY: as above.
            unsafe { lua::lua_pushvalue(self.state, -1) };
            // SAFETY: as above.
            unsafe { self.push(high - 1) };
            // SAFETY: as above.
            unsafe { self.pop_two_to(middle, high - 1) };
            // SAFETY: as above.
            let border = unsafe { self.partition(low, high) };
            // SAFETY: as above.
            unsafe { self.push(high - 1) };
            // SAFETY: as above.
            unsafe { self.push(border) };
            // SAFETY: as above.
            unsafe { self.pop_two_to(high - 1, border) };
            let (from, to);
            if border - low < high - border {
                (from, to) = (low, border - 1);
                low = border + 1;
            } else {
                (from, to) = (border + 1, high);
                high = border - 1;
            }
            // SAFETY: as above.
            unsafe { self.sort(from, to) };
        }
    }

    /// Orders the first, the middle and the last item. Returns the middle, or `None` if there are no other items.
    unsafe fn order_three(self, low: i32, high: i32) -> Option<i32> {
        // SAFETY: as in `sort`. The same holds below.
        unsafe { self.push(low) };
        // SAFETY: as above.
        unsafe { self.push(high) };
        // SAFETY: as above.
        if unsafe { self.is_less(-1, -2) } {
            // SAFETY: as above.
            unsafe { self.pop_two_to(low, high) };
        } else {
            // SAFETY: as above.
            unsafe { self.pop(2) };
        }
        if high - low == 1 {
            return None;
        }
        let middle = low + (high - low) / 2;
        // SAFETY: as above.
        unsafe { self.push(middle) };
        // SAFETY: as above.
        unsafe { self.push(low) };
        // SAFETY: as above.
        if unsafe { self.is_less(-2, -1) } {
            // SAFETY: as above.
            unsafe { self.pop_two_to(middle, low) };
        } else {
            // SAFETY: as above.
            unsafe { self.pop(1) };
            // SAFETY: as above.
            unsafe { self.push(high) };
            // SAFETY: as above.
            if unsafe { self.is_less(-1, -2) } {
                // SAFETY: as above.
                unsafe { self.pop_two_to(middle, high) };
            } else {
                // SAFETY: as above.
                unsafe { self.pop(2) };
            }
        }
        (high - low > 2).then_some(middle)
    }

    /// With the pivot on top: moves lesser items before greater ones, and pops the pivot. Returns where the greater
    /// ones begin.
    unsafe fn partition(self, low: i32, high: i32) -> i32 {
        let (mut left, mut right) = (low, high - 1);
        loop {
            loop {
                left += 1;
                // SAFETY: as in `sort`. The same holds below.
                unsafe { self.push(left) };
                // SAFETY: as above.
                if !unsafe { self.is_less(-1, -2) } {
                    break;
                }
                if left > high {
                    // SAFETY: as above.
                    unsafe { self.raise_invalid_order() };
                }
                // SAFETY: as above.
                unsafe { self.pop(1) };
            }
            loop {
                right -= 1;
                // SAFETY: as above.
                unsafe { self.push(right) };
                // SAFETY: as above.
                if !unsafe { self.is_less(-3, -1) } {
                    break;
                }
                if right < low {
                    // SAFETY: as above.
                    unsafe { self.raise_invalid_order() };
                }
                // SAFETY: as above.
                unsafe { self.pop(1) };
            }
            if right < left {
                // SAFETY: as above.
                unsafe { self.pop(3) };
                return left;
            }
            // SAFETY: as above.
            unsafe { self.pop_two_to(left, right) };
        }
    }
}
