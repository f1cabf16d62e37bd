//! Access to the values of a running function that can never raise.

use std::ffi::CStr;

use mlua_sys as lua;
use mlua_sys::lua_State;

use super::context::Context;
use super::state::Failure;
use super::trampoline::{Function, Raise, trampoline};

/// The type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// There is no such argument.
    None,
    Nil,
    Boolean,
    LightUserdata,
    Number,
    String,
    Table,
    Function,
    Userdata,
    Thread,
}

/// The stack of a function: 1 is the first argument, -1 the value on top.
///
/// Every method panics on an invalid index. The trampoline turns the panic into an error that ends the script.
pub(crate) struct Stack<'a> {
    state: *mut lua_State,
    context: &'a Context,
}

impl<'a> Stack<'a> {
    /// # Safety
    /// `state` is a live coroutine of a [`super::State`], and while the `Stack` exists, only functions that it calls
    /// use the same stack.
    pub(super) unsafe fn new(state: *mut lua_State) -> Stack<'a> {
        Stack {
            state,
            // SAFETY: the caller's promise.
            context: unsafe { Context::of(state) },
        }
    }

    pub(super) fn state(&self) -> *mut lua_State {
        self.state
    }

    /// The interpreter's state outside of Lua.
    pub fn context(&self) -> &'a Context {
        self.context
    }

    /// The number of values, which is the index of the top one.
    pub fn top(&self) -> i32 {
        // SAFETY: reads a number.
        unsafe { lua::lua_gettop(self.state) }
    }

    /// The pseudo-index of a function's own `n`th upvalue, counted from 1.
    pub const fn upvalue(n: i32) -> i32 {
        lua::lua_upvalueindex(n + 1)
    }

    /// Pseudo-index of the registry.
    pub const REGISTRY: i32 = lua::LUA_REGISTRYINDEX;
    /// Pseudo-index of the table of globals.
    pub const GLOBALS: i32 = lua::LUA_GLOBALSINDEX;

    /// Converts an index to one that stays valid when values are pushed.
    #[track_caller]
    pub fn absolute(&self, index: i32) -> i32 {
        let top = self.top();
        if index > 0 {
            assert!(index <= top, "no value at {index}");
            return index;
        }
        if index <= Self::REGISTRY {
            return index;
        }
        assert!(-index <= top && index != 0, "no value at {index}");
        top + index + 1
    }

    /// Makes room for one value.
    fn room(&mut self) {
        assert!(self.reserve(1), "Lua's stack is full");
    }

    /// Makes room for `values` more; returns false if Lua's stack can't grow that far.
    #[must_use]
    pub fn reserve(&mut self, values: i32) -> bool {
        // SAFETY: memory is lenient, so that this returns 0 rather than raising.
        unsafe { lua::lua_checkstack(self.state, values) != 0 }
    }

    /// The type of the value at `index`; [`Kind::None`] for an argument that is missing.
    pub fn kind(&self, index: i32) -> Kind {
        if index > self.top() {
            return Kind::None;
        }
        let index = self.absolute(index);
        // SAFETY: the index is valid.
        match unsafe { lua::lua_type(self.state, index) } {
            lua::LUA_TNIL => Kind::Nil,
            lua::LUA_TBOOLEAN => Kind::Boolean,
            lua::LUA_TLIGHTUSERDATA => Kind::LightUserdata,
            lua::LUA_TNUMBER => Kind::Number,
            lua::LUA_TSTRING => Kind::String,
            lua::LUA_TTABLE => Kind::Table,
            lua::LUA_TFUNCTION => Kind::Function,
            lua::LUA_TUSERDATA => Kind::Userdata,
            lua::LUA_TTHREAD => Kind::Thread,
            _ => Kind::None,
        }
    }

    /// The number at `index`, if it is one.
    pub fn number(&self, index: i32) -> Option<f64> {
        (self.kind(index) == Kind::Number).then(|| {
            // SAFETY: the index is valid.
            unsafe { lua::lua_tonumber(self.state, index) }
        })
    }

    /// The number at `index`; a string is converted.
    pub fn to_number(&self, index: i32) -> Option<f64> {
        if !matches!(self.kind(index), Kind::Number | Kind::String) {
            return None;
        }
        // SAFETY: the index is valid.
        let is_number = unsafe { lua::lua_isnumber(self.state, index) } != 0;
        // SAFETY: as above.
        is_number.then(|| unsafe { lua::lua_tonumber(self.state, index) })
    }

    /// Whether the value at `index` is true in a condition.
    pub fn boolean(&self, index: i32) -> bool {
        let index = self.absolute(index);
        // SAFETY: the index is valid.
        unsafe { lua::lua_toboolean(self.state, index) != 0 }
    }

    /// The string at `index`, if it is one.
    pub fn bytes(&self, index: i32) -> Option<&[u8]> {
        if self.kind(index) != Kind::String {
            return None;
        }
        let mut len = 0;
        // SAFETY: the index is valid and a string, which this does not change.
        let start = unsafe { lua::lua_tolstring(self.state, index, &mut len) };
        // SAFETY: a string of Lua has `len` bytes and does not move; it lives as long as it is on the
        // stack or referenced elsewhere, and removing it from there needs `&mut self`.
        Some(unsafe { std::slice::from_raw_parts(start.cast(), len) })
    }

    /// Like [`Stack::bytes`], but converts a number to a string first, in place. Not for keys that are passed to
    /// [`Stack::next`] later.
    pub fn text(&mut self, index: i32) -> Option<&[u8]> {
        if self.kind(index) == Kind::Number {
            // SAFETY: the index is valid; memory is lenient.
            unsafe { lua::lua_tolstring(self.state, index, std::ptr::null_mut()) };
        }
        self.bytes(index)
    }

    /// The raw length of the table or string at `index`.
    pub fn length(&self, index: i32) -> usize {
        match self.kind(index) {
            // SAFETY: the index is valid, and of a kind that has a length without conversion.
            Kind::String | Kind::Table => unsafe { lua::lua_objlen(self.state, index) },
            _ => 0,
        }
    }

    pub fn push_nil(&mut self) {
        self.room();
        // SAFETY: there is room.
        unsafe { lua::lua_pushnil(self.state) };
    }

    pub fn push_boolean(&mut self, value: bool) {
        self.room();
        // SAFETY: there is room.
        unsafe { lua::lua_pushboolean(self.state, i32::from(value)) };
    }

    pub fn push_number(&mut self, value: f64) {
        self.room();
        // SAFETY: there is room.
        unsafe { lua::lua_pushnumber(self.state, value) };
    }

    pub fn push_bytes(&mut self, bytes: &[u8]) {
        self.room();
        // SAFETY: there is room; memory is lenient; the bytes are copied.
        unsafe { lua::lua_pushlstring_(self.state, bytes.as_ptr().cast(), bytes.len()) };
    }

    /// Pushes a pointer that serves only as a unique value.
    pub fn push_mark(&mut self, mark: &'static u8) {
        self.room();
        let pointer = std::ptr::from_ref(mark).cast_mut().cast();
        // SAFETY: there is room; the pointer is never followed.
        unsafe { lua::lua_pushlightuserdata(self.state, pointer) };
    }

    /// Pushes the null pointer, `cjson.null`.
    pub fn push_null_pointer(&mut self) {
        self.room();
        // SAFETY: there is room; the pointer is never followed.
        unsafe { lua::lua_pushlightuserdata(self.state, std::ptr::null_mut()) };
    }

    /// Whether the value at `index` is the null pointer.
    pub fn is_null_pointer(&self, index: i32) -> bool {
        self.kind(index) == Kind::LightUserdata
            // SAFETY: the index is valid.
            && unsafe { lua::lua_touserdata(self.state, index) }.is_null()
    }

    /// Pops `upvalues` values and pushes a function with these upvalues.
    pub fn push_function(&mut self, function: Function, upvalues: i32) {
        assert!((0..=9).contains(&upvalues) && upvalues <= self.top());
        self.room();
        // SAFETY: there is room; `run` converts the pointer back to a function.
        unsafe { lua::lua_pushlightuserdata(self.state, function as *mut std::ffi::c_void) };
        self.insert(-1 - upvalues);
        // SAFETY: as many values are on the stack.
        unsafe { lua::lua_pushcclosure(self.state, trampoline, upvalues + 1) };
    }

    /// Pops `upvalues` values and pushes a C function of this module tree with these upvalues.
    pub fn push_raw_function(&mut self, function: RawFunction, upvalues: i32) {
        assert!((0..=9).contains(&upvalues) && upvalues <= self.top());
        self.room();
        // SAFETY: as many values are on the stack, and there is room.
        unsafe { lua::lua_pushcclosure(self.state, function.0, upvalues) };
    }

    /// Pushes a new table with room for `items` and `fields`.
    pub fn push_table(&mut self, items: usize, fields: usize) {
        self.room();
        let [items, fields] = [items, fields].map(|n| i32::try_from(n).unwrap_or(0));
        // SAFETY: there is room; memory is lenient.
        unsafe { lua::lua_createtable(self.state, items, fields) };
    }

    /// Pushes a block of numbers; see [`Stack::numbers`].
    pub fn push_numbers(&mut self, numbers: [i64; NUMBERS]) {
        self.room();
        // SAFETY: there is room; memory is lenient.
        let block = unsafe { lua::lua_newuserdata(self.state, size_of::<[i64; NUMBERS]>()) };
        // SAFETY: Lua aligns the block for any type, and it has this size.
        unsafe { block.cast::<[i64; NUMBERS]>().write(numbers) };
    }

    fn numbers_at(&self, index: i32) -> *mut [i64; NUMBERS] {
        assert_eq!(
            self.kind(index),
            Kind::Userdata,
            "no block of numbers at {index}"
        );
        // SAFETY: the index is valid; all blocks that this crate creates are of this type.
        unsafe { lua::lua_touserdata(self.state, index).cast() }
    }

    /// The block of numbers at `index`.
    pub fn numbers(&self, index: i32) -> [i64; NUMBERS] {
        let block = self.numbers_at(index);
        // SAFETY: the block is live and was initialized on creation.
        unsafe { block.read() }
    }

    /// Changes the block of numbers at `index`.
    pub fn set_numbers(&mut self, index: i32, numbers: [i64; NUMBERS]) {
        let block = self.numbers_at(index);
        // SAFETY: the block is live.
        unsafe { block.write(numbers) };
    }

    /// Pushes a copy of the value at `index`.
    pub fn copy(&mut self, index: i32) {
        let index = self.absolute(index);
        self.room();
        // SAFETY: the index is valid and there is room.
        unsafe { lua::lua_pushvalue(self.state, index) };
    }

    /// Removes `count` values from the top.
    pub fn pop(&mut self, count: i32) {
        assert!((0..=self.top()).contains(&count));
        // SAFETY: there are as many.
        unsafe { lua::lua_pop(self.state, count) };
    }

    /// Removes or adds nils until there are `count` values.
    pub fn set_top(&mut self, count: i32) {
        let missing = count - self.top();
        assert!(count >= 0 && (missing <= 0 || self.reserve(missing)));
        // SAFETY: there is room.
        unsafe { lua::lua_settop(self.state, count) };
    }

    /// Moves the value on top to `index`.
    pub fn insert(&mut self, index: i32) {
        let index = self.absolute(index);
        assert!(index > 0);
        // SAFETY: the index is valid.
        unsafe { lua::lua_insert(self.state, index) };
    }

    /// Removes the value at `index`.
    pub fn remove(&mut self, index: i32) {
        let index = self.absolute(index);
        assert!(index > 0);
        // SAFETY: the index is valid.
        unsafe { lua::lua_remove(self.state, index) };
    }

    /// Pops a value and stores it at `index`.
    pub fn replace(&mut self, index: i32) {
        let index = self.absolute(index);
        // SAFETY: the index is valid; globals are only ever replaced by tables.
        unsafe { lua::lua_replace(self.state, index) };
    }

    #[track_caller]
    fn table(&self, index: i32) -> i32 {
        let index = self.absolute(index);
        // SAFETY: the index is valid.
        let kind = unsafe { lua::lua_type(self.state, index) };
        assert_eq!(kind, lua::LUA_TTABLE, "no table at {index}");
        index
    }

    /// Pushes item `item` of the table at `index`.
    pub fn get_index(&mut self, index: i32, item: i32) {
        let index = self.table(index);
        self.room();
        // SAFETY: a table is there, and room.
        unsafe { lua::lua_rawgeti_(self.state, index, item) };
    }

    /// Pops a value and stores it as item `item` of the table at `index`.
    pub fn set_index(&mut self, index: i32, item: i32) {
        let index = self.table(index);
        // SAFETY: a table is there; memory is lenient.
        unsafe { lua::lua_rawseti_(self.state, index, item) };
    }

    /// Pushes field `name` of the table at `index`.
    pub fn get_field(&mut self, index: i32, name: &str) {
        let index = self.table(index);
        self.push_bytes(name.as_bytes());
        // SAFETY: a table is there, and a key on top.
        unsafe { lua::lua_rawget_(self.state, index) };
    }

    /// Pops a value and stores it as field `name` of the table at `index`.
    pub fn set_field(&mut self, index: i32, name: &str) {
        let index = self.table(index);
        self.push_bytes(name.as_bytes());
        self.insert(-2);
        // SAFETY: a table is there, below key and value; memory is lenient.
        unsafe { lua::lua_rawset(self.state, index) };
    }

    /// Pops a key and pushes its value in the table at `index`.
    pub fn get(&mut self, index: i32) {
        let index = self.table(index);
        // SAFETY: a table is there, and a key on top.
        unsafe { lua::lua_rawget_(self.state, index) };
    }

    /// Pops a value and, below it, its key, and stores them in the table at `index`. The key must be neither nil nor NaN.
    pub fn set(&mut self, index: i32) {
        let index = self.table(index);
        assert!(!matches!(self.kind(-2), Kind::Nil | Kind::None));
        assert!(self.number(-2).is_none_or(|number| !number.is_nan()));
        // SAFETY: a table is there, below a key that it can hold and a value; memory is lenient.
        unsafe { lua::lua_rawset(self.state, index) };
    }

    /// Pops a key and pushes the next key of the table at `index` and its value. After the last key, pushes nothing and
    /// returns false. Start with nil; any other key must come from the previous call.
    pub fn next(&mut self, index: i32) -> bool {
        let index = self.table(index);
        self.room();
        // SAFETY: a table is there, and room. The key came from the previous call, and nothing has
        // changed the table since, so the key exists.
        unsafe { lua::lua_next(self.state, index) != 0 }
    }

    /// Pushes the metatable of the value at `index`. Pushes nothing and returns false if it has none.
    pub fn get_metatable(&mut self, index: i32) -> bool {
        let index = self.absolute(index);
        self.room();
        // SAFETY: the index is valid and there is room.
        unsafe { lua::lua_getmetatable(self.state, index) != 0 }
    }

    /// Pops a table and makes it the metatable of the value at `index`.
    pub fn set_metatable(&mut self, index: i32) {
        let index = self.absolute(index);
        self.table(-1);
        // SAFETY: the index is valid and a table on top.
        unsafe { lua::lua_setmetatable(self.state, index) };
    }

    /// Kind, source and line of a call level; 0 is the running function. `None` beyond the outermost level.
    pub fn caller(&self, level: i32) -> Option<Caller> {
        // SAFETY: all fields are pointers and numbers, for which zeros are valid.
        let mut record: lua::lua_Debug = unsafe { std::mem::zeroed() };
        // SAFETY: fills the record or returns 0.
        if unsafe { lua::lua_getstack(self.state, level, &mut record) } == 0 {
            return None;
        }
        // SAFETY: `lua_getstack` filled it.
        unsafe { lua::lua_getinfo(self.state, c"Sl".as_ptr(), &mut record) };
        // SAFETY: "S" sets both to strings that end with 0; the second lives as long as the function.
        let [what, source] =
            [record.what, record.source].map(|text| unsafe { CStr::from_ptr(text) });
        Some(Caller {
            is_native: what == c"C",
            source: source.to_bytes().to_vec(),
            line: record.currentline,
        })
    }

    /// Calls the function below the `arguments` values on top, and replaces all of them with `results` values. If it
    /// fails, replaces them with one error. `handler` is the index of an error handler, or 0.
    pub fn call(&mut self, arguments: i32, results: i32, handler: i32) -> Result<(), Failure> {
        assert!(arguments >= 0 && arguments < self.top());
        assert!(self.reserve(results.max(1)));
        let handler = if handler == 0 {
            0
        } else {
            self.absolute(handler)
        };
        let was_lenient = self.context.heap.set_lenient(false);
        // SAFETY: function and arguments are on the stack; the call catches whatever they raise.
        let status = unsafe { lua::lua_pcall(self.state, arguments, results, handler) };
        self.context.heap.set_lenient(was_lenient);
        match status {
            lua::LUA_OK => Ok(()),
            lua::LUA_ERRMEM => Err(Failure::Memory),
            _ => Err(Failure::Raised),
        }
    }

    /// Fails if the interpreter is over its memory limit. For functions that push many values.
    pub fn check_memory(&self) -> Result<(), Raise> {
        if self.context.heap.is_over_limit() {
            return Err(Raise::Memory);
        }
        Ok(())
    }

    /// Collects all garbage.
    pub fn collect_garbage(&mut self) {
        // SAFETY: a collection raises nothing: no object has a finalizer in Lua.
        unsafe { lua::lua_gc(self.state, lua::LUA_GCCOLLECT, 0) };
    }

    /// The name of a value's type in Lua's messages.
    pub fn type_name(&self, index: i32) -> &'static str {
        match self.kind(index) {
            Kind::None => "no value",
            Kind::Nil => "nil",
            Kind::Boolean => "boolean",
            Kind::LightUserdata | Kind::Userdata => "userdata",
            Kind::Number => "number",
            Kind::String => "string",
            Kind::Table => "table",
            Kind::Function => "function",
            Kind::Thread => "thread",
        }
    }

    fn wrong_type(&self, argument: i32, expected: &str) -> Raise {
        let found = self.type_name(argument);
        Raise::Argument(argument, format!("{expected} expected, got {found}"))
    }

    /// Argument `argument`, which must be a string or number. A number is converted to a string.
    pub fn check_text(&mut self, argument: i32) -> Result<&[u8], Raise> {
        if !matches!(self.kind(argument), Kind::String | Kind::Number) {
            return Err(self.wrong_type(argument, "string"));
        }
        Ok(self
            .text(argument)
            .expect("strings and numbers have a text"))
    }

    /// Counts the texts among the arguments as work. Fails if they exceed the memory limit, which is possible if one
    /// occurs many times.
    pub fn check_texts(&self) -> Result<(), Raise> {
        if !self.context.heap.has_large_blocks() {
            return Ok(());
        }
        let is_text = |index: &i32| self.kind(*index) == Kind::String;
        let lengths = (1..=self.top()).filter(is_text).map(|at| self.length(at));
        let total = lengths.sum();
        if total > self.context.heap.limit_bytes() {
            return Err(Raise::Memory);
        }
        self.context.spend_bytes(total)
    }

    /// Argument `argument`, which must be a number or a string that can be converted to one.
    pub fn check_number(&self, argument: i32) -> Result<f64, Raise> {
        if self.context.heap.has_large_blocks() {
            self.context.spend(self.length(argument))?;
        }
        self.to_number(argument)
            .ok_or_else(|| self.wrong_type(argument, "number"))
    }

    /// Argument `argument` without its fraction, converted like C's cast to a 64-bit integer.
    pub fn check_integer(&self, argument: i32) -> Result<i64, Raise> {
        self.check_number(argument).map(truncated)
    }

    /// Like [`Stack::check_integer`], or `default` if the argument is nil or missing.
    pub fn optional_integer(&self, argument: i32, default: i64) -> Result<i64, Raise> {
        match self.kind(argument) {
            Kind::None | Kind::Nil => Ok(default),
            _ => self.check_integer(argument),
        }
    }

    /// Checks that argument `argument` is a table.
    pub fn check_table(&self, argument: i32) -> Result<(), Raise> {
        match self.kind(argument) {
            Kind::Table => Ok(()),
            _ => Err(self.wrong_type(argument, "table")),
        }
    }
}

/// The number of integers in a block.
pub(crate) const NUMBERS: usize = 8;

/// A call level.
#[derive(Debug)]
pub(crate) struct Caller {
    pub is_native: bool,
    pub source: Vec<u8>,
    pub line: i32,
}

/// A C function of this module tree.
#[derive(Clone, Copy)]
pub(crate) struct RawFunction(pub(super) lua::lua_CFunction);

/// A double cast to a 64-bit integer as on x86: values out of range and NaN become the smallest integer.
pub(crate) fn truncated(number: f64) -> i64 {
    if number >= 9_223_372_036_854_775_808.0 || number.is_nan() {
        return i64::MIN;
    }
    number as i64
}
