//! The environments of scripts and functions: read-only globals, and no access to the machine outside.
//!
//! There are three environments. Each is a proxy (see [`crate::lua`]) for a table of globals:
//!
//! | environment          | content of `redis`                     | other globals                         |
//! |----------------------|----------------------------------------|---------------------------------------|
//! | of scripts           | all                                    | the libraries, `KEYS`, `ARGV`         |
//! | of functions         | all but the functions for old scripts  | the libraries                         |
//! | of a loading library | `register_function`, `log`, constants  | none                                  |
//!
//! A function keeps the environment it was created in. So the last two are one proxy, whose table is switched.
//!
//! # Every function can be interrupted
//!
//! The interpreter regularly asks the host whether the script may continue: after an interval of Lua instructions, and
//! after as many *steps* in the functions below that count their work. The interval depends on the script's memory, so
//! that even the slowest steps take less than a second together ([`crate::lua`]'s `heap`). Nothing that catches errors
//! catches the error that ends a script. `tests/kill.rs` uses every function of this table.
//!
//! | functions                                             | why they end in time                                      |
//! |-------------------------------------------------------|-----------------------------------------------------------|
//! | `pcall` `xpcall` `coroutine.resume` `coroutine.wrap`  | they re-raise the error that ends the script, without     |
//! |                                                       | calling `xpcall`'s handler. Each coroutine counts its own |
//! |                                                       | instructions, so resuming one counts as steps             |
//! | `load` `loadstring`                                   | the parser reads small pieces, each counts as steps       |
//! | `string.gsub` `gmatch` `gfind` `find` `match`         | each tried pattern item is a step ([`crate::patterns`])   |
//! | `table.sort` `foreach` `foreachi`                     | each comparison or call is a step                         |
//! | `table.concat` `insert` `remove` `maxn`               | each item is a step                                       |
//! | `string.format` `char` `lower` `upper` `reverse`      | the texts among the arguments count as steps; their sum   |
//! | `math.max` `min`                                      | is at most the interpreter's memory limit                 |
//! | `bit.*`                                               | a text that is read as a number counts as steps           |
//! | `cjson.encode` `decode` `cmsgpack.*` `struct.*`       | each value and each piece of output counts as steps       |
//! | `redis.sha1hex`                                       | each block counts as steps                                |
//! | `redis.call` `pcall`                                  | the host is asked after each command, and each value of a |
//! |                                                       | reply is a step; a command itself can't be interrupted    |
//! | `collectgarbage`                                      | asks after each collection, which takes less than a second|
//! | `unpack` `select` `string.byte`                       | at most 8000 values, the limit of Lua's stack             |
//! | `string.rep` `string.sub` `redis.log` `error_reply`   | one pass over a text whose size the memory limit bounds   |
//! | `status_reply` `acl_check_cmd` `debug`                |                                                           |
//! | `__redis__err__handler`                               |                                                           |
//! | `tonumber` and the rest of `math`                     | one pass over one or two texts                            |
//! | `next` `pairs` `ipairs` `rawget` `rawset`             | at most one pass over a table, like an instruction        |
//! | `table.getn` `string.len` `string.dump`               |                                                           |
//! | `assert` `error` `gcinfo` `getmetatable` `rawequal`   | take about as long as an instruction; `tostring` may call |
//! | `setmetatable` `tostring` `type` `table.setn`         | a function of Lua                                         |
//! | `coroutine.create` `running` `status` `yield`         |                                                           |
//! | the other functions of `cjson` and `redis`            |                                                           |
//!
//! A new function must count its work if it does more than one pass over its arguments, or calls back into Lua.

use crate::function_registration::register_function;
use crate::lua::{
    FOREACH, FOREACHI, Function, GETMETATABLE, GSUB, GUARDED_READ, GUARDED_TEXTS, GUARDED_WRITE,
    Kind, Outcome, PAIRS, PCALL, PROXY_MARK, RESUME, Raise, RawFunction, SORT, Stack, WRAP, XPCALL,
};
use crate::patterns;
use crate::{basic, bits, cjson, cmsgpack, mathematics, os, redis_library, structs, tables};

/// The interpreter's objects in Lua's registry.
pub(crate) mod slots {
    /// The error handler of every run.
    pub const HANDLER: i32 = 1;
    /// The environment of scripts.
    pub const SCRIPT_ENVIRONMENT: i32 = 2;
    /// The table of globals behind it, which gets `KEYS` and `ARGV`.
    pub const SCRIPT_GLOBALS: i32 = 3;
    /// The environment of functions.
    pub const FUNCTION_ENVIRONMENT: i32 = 4;
    /// Its metatable: field `__index` is the table of globals that functions access.
    pub const FUNCTION_METATABLE: i32 = 5;
    /// The globals of functions when they run.
    pub const FUNCTION_GLOBALS: i32 = 6;
    /// The globals while a library loads.
    pub const LOAD_GLOBALS: i32 = 7;
    /// The first slot for compiled code.
    pub const FIRST_FREE: i32 = 8;
}

/// Lua's own globals that are harmless as they are.
const BUILTINS: &[&str] = &[
    "_VERSION",
    "assert",
    "coroutine",
    "error",
    "gcinfo",
    "ipairs",
    "rawequal",
    "select",
    "tonumber",
    "tostring",
    "type",
    "xpcall",
];

/// Builds all environments. Called once, when the globals of Lua's libraries are set.
pub(crate) fn build(stack: &mut Stack<'_>) {
    replace_functions(stack);
    stack.push_function(handle_error, 0);
    stack.set_index(Stack::REGISTRY, slots::HANDLER);
    for name in ["math", "string", "table", "coroutine"] {
        stack.get_field(Stack::GLOBALS, name);
        push_proxy(stack);
        stack.set_field(Stack::GLOBALS, name);
    }
    protect_string_metatable(stack);
    for (name, push) in [
        ("bit", bits::push as fn(&mut Stack<'_>)),
        ("cjson", cjson::push),
        ("cmsgpack", cmsgpack::push),
        ("os", os::push),
        ("struct", structs::push),
    ] {
        push(stack);
        push_proxy(stack);
        stack.set_field(Stack::GLOBALS, name);
    }
    script_environment(stack);
    function_environment(stack);
}

/// Libraries that are tables.
const LIBRARIES: &[&str] = &[
    "bit", "cjson", "cmsgpack", "math", "os", "string", "struct", "table",
];

/// Replaces Lua functions that could do harm, or that must handle proxies.
fn replace_functions(stack: &mut Stack<'_>) {
    let globals = Stack::GLOBALS;
    for (name, wrapper) in [
        ("rawset", GUARDED_WRITE),
        ("setmetatable", GUARDED_WRITE),
        ("getmetatable", GETMETATABLE),
        ("rawget", GUARDED_READ),
    ] {
        stack.get_field(globals, name);
        stack.push_raw_function(wrapper, 1);
        stack.set_field(globals, name);
    }
    // For tables that are not proxies, `pairs` returns Lua's own `next`.
    stack.get_field(globals, "next");
    stack.copy(-1);
    stack.push_raw_function(GUARDED_READ, 1);
    stack.copy(-1);
    stack.set_field(globals, "next");
    stack.push_raw_function(PAIRS, 2);
    stack.set_field(globals, "pairs");
    set_raw_functions(stack, globals, &[("pcall", PCALL), ("xpcall", XPCALL)]);
    set_functions(stack, globals, basic::FUNCTIONS);
    stack.get_field(globals, "coroutine");
    set_raw_functions(stack, -1, &[("resume", RESUME), ("wrap", WRAP)]);
    stack.pop(1);

    stack.get_field(globals, "table");
    let raw = [("foreach", FOREACH), ("foreachi", FOREACHI), ("sort", SORT)];
    set_raw_functions(stack, -1, &raw);
    set_functions(stack, -1, tables::FUNCTIONS);
    stack.pop(1);
    stack.get_field(globals, "string");
    set_functions(stack, -1, patterns::FUNCTIONS);
    set_raw_functions(stack, -1, &[("gsub", GSUB)]);
    guard_texts(stack, &["char", "format", "lower", "reverse", "upper"]);
    stack.pop(1);
    stack.get_field(globals, "math");
    set_functions(stack, -1, mathematics::FUNCTIONS);
    guard_texts(stack, &["max", "min"]);
    stack.pop(1);
}

/// Guards functions of the table on top that read all of their arguments completely.
fn guard_texts(stack: &mut Stack<'_>, names: &[&str]) {
    for name in names {
        stack.get_field(-1, name);
        stack.push_raw_function(GUARDED_TEXTS, 1);
        stack.set_field(-2, name);
    }
}

/// Like [`set_functions`], for functions that call back into Lua.
fn set_raw_functions(stack: &mut Stack<'_>, index: i32, functions: &[(&str, RawFunction)]) {
    let index = stack.absolute(index);
    for (name, function) in functions {
        stack.push_raw_function(*function, 0);
        stack.set_field(index, name);
    }
}

/// Puts functions into the table at `index`.
pub(crate) fn set_functions(stack: &mut Stack<'_>, index: i32, functions: &[(&str, Function)]) {
    let index = stack.absolute(index);
    for (name, function) in functions {
        stack.push_function(*function, 0);
        stack.set_field(index, name);
    }
}

/// Replaces the table on top with a proxy for it.
fn push_proxy(stack: &mut Stack<'_>) {
    stack.push_boolean(false);
    push_proxy_showing(stack);
}

/// Replaces two values with a proxy: a table and, on top, the value that `getmetatable` returns (false for nil).
fn push_proxy_showing(stack: &mut Stack<'_>) {
    let shown = stack.top();
    let real = shown - 1;
    stack.push_table(0, 0);
    stack.push_table(0, 4);
    stack.copy(real);
    stack.set_field(-2, "__index");
    stack.push_function(refuse_write, 0);
    stack.set_field(-2, "__newindex");
    stack.copy(shown);
    stack.set_field(-2, "__metatable");
    stack.push_mark(&PROXY_MARK);
    stack.copy(real);
    stack.set(-3);
    stack.set_metatable(-2);
    stack.replace(real);
    stack.pop(1);
}

/// Makes strings get their methods from the table `string`. Scripts can read their metatable, but not change it.
fn protect_string_metatable(stack: &mut Stack<'_>) {
    stack.push_bytes(b"");
    if !stack.get_metatable(-1) {
        stack.pop(1);
        return;
    }
    stack.get_field(Stack::GLOBALS, "string");
    stack.set_field(-2, "__index");
    stack.push_table(0, 1);
    stack.get_field(Stack::GLOBALS, "string");
    stack.set_field(-2, "__index");
    push_proxy(stack);
    stack.set_field(-2, "__metatable");
    stack.pop(2);
}

/// Pushes a table of the globals that scripts and functions have in common, with room for more.
fn push_globals(stack: &mut Stack<'_>) {
    stack.push_table(0, 48);
    let functions = [
        "rawset",
        "setmetatable",
        "getmetatable",
        "rawget",
        "next",
        "pairs",
        "pcall",
    ];
    let replaced = basic::FUNCTIONS.iter().map(|(name, _)| *name);
    let names = BUILTINS.iter().chain(LIBRARIES).copied();
    for name in names.chain(functions).chain(replaced) {
        stack.get_field(Stack::GLOBALS, name);
        stack.set_field(-2, name);
    }
}

/// Makes reading a missing field of the table on top an error, and pushes the proxy of its metatable.
fn raise_on_missing_field(stack: &mut Stack<'_>) {
    stack.push_table(0, 1);
    stack.push_function(missing_global, 0);
    stack.set_field(-2, "__index");
    stack.copy(-1);
    stack.set_metatable(-3);
    push_proxy(stack);
}

fn script_environment(stack: &mut Stack<'_>) {
    push_globals(stack);
    stack.push_function(handle_error, 0);
    stack.set_field(-2, "__redis__err__handler");
    redis_library::push(
        stack,
        &[redis_library::FUNCTIONS, redis_library::SCRIPT_FUNCTIONS],
    );
    push_proxy(stack);
    stack.set_field(-2, "redis");
    stack.copy(-1);
    stack.set_index(Stack::REGISTRY, slots::SCRIPT_GLOBALS);
    stack.copy(-1);
    raise_on_missing_field(stack);
    push_proxy_showing(stack);
    stack.copy(-1);
    stack.set_field(-3, "_G");
    stack.set_index(Stack::REGISTRY, slots::SCRIPT_ENVIRONMENT);
    stack.pop(1);
}

fn function_environment(stack: &mut Stack<'_>) {
    push_globals(stack);
    redis_library::push(stack, &[redis_library::FUNCTIONS]);
    push_proxy(stack);
    stack.set_field(-2, "redis");
    stack.copy(-1);
    stack.set_index(Stack::REGISTRY, slots::FUNCTION_GLOBALS);
    stack.copy(-1);
    raise_on_missing_field(stack);
    push_proxy_showing(stack);
    stack.copy(-1);
    stack.set_field(-3, "_G");
    if stack.get_metatable(-1) {
        stack.set_index(Stack::REGISTRY, slots::FUNCTION_METATABLE);
    }
    stack.set_index(Stack::REGISTRY, slots::FUNCTION_ENVIRONMENT);
    stack.pop(1);

    stack.push_table(0, 1);
    redis_library::push(
        stack,
        &[&[
            ("log", redis_library::log),
            ("register_function", register_function),
        ]],
    );
    raise_on_missing_field(stack);
    stack.pop(1);
    push_proxy(stack);
    stack.set_field(-2, "redis");
    raise_on_missing_field(stack);
    stack.pop(1);
    stack.set_index(Stack::REGISTRY, slots::LOAD_GLOBALS);
}

/// `__newindex` of every proxy.
fn refuse_write(_: &mut Stack<'_>) -> Outcome {
    Err(Raise::here("Attempt to modify a readonly table"))
}

/// `__index` of the globals.
fn missing_global(stack: &mut Stack<'_>) -> Outcome {
    let Some(name) = stack.text(2) else {
        return Err(Raise::here(
            "Second argument to luaProtectedTableError must be a string or number",
        ));
    };
    let name = String::from_utf8_lossy(name);
    Err(Raise::here(format!(
        "Script attempted to access nonexistent global variable '{name}'"
    )))
}

/// The error handler: turns an uncaught error into a table, and adds source and line.
fn handle_error(stack: &mut Stack<'_>) -> Outcome {
    stack.set_top(1);
    if stack.kind(1) != Kind::Table {
        let mut text = b"ERR ".to_vec();
        match stack.kind(1) {
            Kind::String | Kind::Number => {
                text.extend_from_slice(stack.text(1).unwrap_or_default());
            }
            Kind::Boolean => {
                let name: &[u8] = if stack.boolean(1) { b"true" } else { b"false" };
                text.extend_from_slice(name);
            }
            _ => text.extend_from_slice(stack.type_name(1).as_bytes()),
        }
        crate::from_reply::push_field(stack, "err", &text);
        stack.replace(1);
    }
    // Level 0 is this function, level 1 the function that raised; a native function has no line.
    let raised_by = stack.caller(1);
    let caller = match raised_by {
        Some(caller) if caller.is_native => stack.caller(2),
        other => other,
    };
    if let Some(caller) = caller {
        stack.push_bytes(&caller.source);
        stack.set_field(1, "source");
        stack.push_number(f64::from(caller.line));
        stack.set_field(1, "line");
    }
    stack.set_top(1);
    Ok(1)
}
