//! Hostile scripts: each soon ends with an error, and the interpreter stays usable.

use std::time::Duration;

use damselfly_protocol::{Reply, Version};
use damselfly_script::{
    CallOutcome, Host, Interpreter, Limits, LogLevel, Script, ScriptOutcome, Tick,
};

const MEMORY_BYTES: usize = 16 * 1024 * 1024;
/// The processor time after which endless scripts are killed.
const KILL_AFTER: Duration = Duration::from_millis(100);
const KILLED: &str = "ERR Script killed by user with SCRIPT KILL.";

/// The processor time that this thread has used. Unlike wall-clock time, it does not depend on other programs.
fn processor_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

/// A host that answers every command with `+OK`, and kills the script after a deadline.
struct Simple {
    /// In processor time of this thread.
    deadline: Option<Duration>,
    abort_at: Option<usize>,
    calls: usize,
    panics: bool,
}

impl Simple {
    /// A host for scripts that end by themselves.
    fn new() -> Simple {
        Simple::killing_after(Duration::from_secs(60))
    }

    fn killing_after(time: Duration) -> Simple {
        Simple {
            deadline: Some(processor_time() + time),
            abort_at: None,
            calls: 0,
            panics: false,
        }
    }
}

impl Host for Simple {
    fn call(&mut self, _: &[&[u8]], _: Version, reply: &mut Vec<u8>) -> CallOutcome {
        self.calls += 1;
        assert!(!self.panics, "the host panics on purpose");
        if self.abort_at == Some(self.calls) {
            return CallOutcome::Abort;
        }
        reply.extend_from_slice(b"+OK\r\n");
        CallOutcome::Replied
    }

    fn tick(&mut self) -> Tick {
        match self.deadline {
            Some(deadline) if processor_time() > deadline => Tick::Kill(KILLED),
            Some(_) | None => Tick::Continue,
        }
    }

    fn log(&mut self, _: LogLevel, _: &[u8]) {}

    fn is_allowed(&mut self, _: &[&[u8]]) -> Option<bool> {
        Some(true)
    }

    fn set_replication(&mut self, _: u8) {}
}

fn interpreter() -> Interpreter {
    let limits = Limits {
        memory_bytes: MEMORY_BYTES,
        ..Limits::default()
    };
    Interpreter::new(limits).unwrap()
}

fn eval(interpreter: &mut Interpreter, code: &str, host: &mut dyn Host) -> (ScriptOutcome, String) {
    let mut out = Vec::new();
    let script = Script::parse(code.as_bytes()).unwrap();
    let mut reply = Reply::new(&mut out, Version::Resp2);
    let ended = interpreter.eval(&script, &[], &[], host, &mut reply);
    (ended, String::from_utf8_lossy(&out).into_owned())
}

/// Asserts that the interpreter still works and is within its memory limit.
fn assert_usable(interpreter: &mut Interpreter, after: &str) {
    let (_, reply) = eval(interpreter, "return 'fine'", &mut Simple::new());
    assert_eq!(reply, "$4\r\nfine\r\n", "after {after}");
    assert!(interpreter.used_bytes() < MEMORY_BYTES, "after {after}");
}

#[test]
fn endless_scripts_can_be_killed() {
    let mut interpreter = interpreter();
    for code in [
        "while true do end",
        "local function f() return f() end f()",
        "while true do pcall(function() while true do end end) end",
        "while true do pcall(error) end",
        "while true do xpcall(function() while true do end end, function() return 1 end) end",
        "while true do coroutine.wrap(function() while true do end end)() end",
        "while true do pcall(coroutine.wrap(function() while true do pcall(error, 'x') end end)) end",
        "local t = setmetatable({}, {__index = function() while true do end end}) return t.x",
        "while true do string.gsub('x', 'x', function() while true do end end) end",
        "while true do load(function() while true do end end) end",
        "while true do redis.pcall('get', 'x') end",
        "while true do string.find(('a'):rep(100), ('a-'):rep(50) .. 'b') end",
        "return string.find(('a'):rep(10000), ('.-'):rep(50) .. 'b')",
        "return string.match(('a'):rep(10000), ('a*'):rep(50) .. 'b')",
        "return string.gsub(('a'):rep(10000), ('a-'):rep(50) .. 'b', '')",
        "for w in string.gmatch(('a'):rep(10000), ('a-'):rep(50) .. 'b') do end",
        "return string.find(('x'):rep(1e6), ('%bxy'))",
        "local t = {1} for i = 1, 40 do t = {t, t} end return cjson.encode(t)",
        "local t = {} for i = 1, 14 do t = {t, t, t, t, t, t, t, t} end return cmsgpack.pack(t)",
        "table.sort({3,2,1}, function() while true do end end)",
    ] {
        let started = processor_time();
        let mut host = Simple::killing_after(KILL_AFTER);
        let (ended, reply) = eval(&mut interpreter, code, &mut host);
        assert_eq!(ended, ScriptOutcome::Failed { is_counted: false }, "{code}");
        assert!(reply.starts_with(&format!("-{KILLED}")), "{code}: {reply}");
        assert!(
            processor_time() - started < Duration::from_secs(10),
            "{code}"
        );
        assert_usable(&mut interpreter, code);
    }
}

#[test]
fn memory_is_bounded() {
    let mut interpreter = interpreter();
    for code in [
        "local t = {} while true do t[#t + 1] = {} end",
        "local s = 'x' while true do s = s .. s end",
        "return string.rep('x', 1e9)",
        "return string.rep('x', 2^30)",
        "return string.rep(('x'):rep(1e6), 1e6)",
        "return (('x'):rep(1e5):gsub('x', ('y'):rep(1e5)))",
        "return (('x'):rep(1e5):gsub('x', function() return ('y'):rep(1e5) end))",
        "return table.concat({('x'):rep(2e7), ('x'):rep(1e7)})",
        "local t = {1} for i = 1, 40 do t = {t, t} end return cjson.encode(t)",
        "local t = {1} for i = 1, 15 do t = {t, t, t, t, t, t, t, t} end return cmsgpack.pack(t)",
        "local t = {} for i = 1, 100 do t[i] = ('x'):rep(1e6) .. i end",
        "return cjson.decode('[' .. ('[],'):rep(3e6) .. '1]')",
        "return cmsgpack.unpack('\\220\\255\\255' .. ('\\144'):rep(65535)) and cmsgpack.unpack('\\221\\0\\255\\255\\255' .. ('\\128'):rep(16777215))",
        "local t = {} for i = 1, 1e9 do t[i] = i end",
        "local f = function(...) return select('#', ...) end local t = {} for i = 1, 1e6 do t[i] = coroutine.create(f) end",
        "return loadstring('return \"' .. ('x'):rep(3e7) .. '\"')()",
        "return {pcall(string.rep, 'x', 1e9), ('x'):rep(1e9)}",
        "local s = ('x'):rep(1e6) return struct.pack(('s'):rep(100), unpack({s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s,s}))",
    ] {
        let mut host = Simple::new();
        host.deadline = None;
        let (ended, reply) = eval(&mut interpreter, code, &mut host);
        assert_eq!(ended, ScriptOutcome::Failed { is_counted: false }, "{code}");
        assert!(
            reply.contains("not enough memory"),
            "{code}: {}",
            &reply[..reply.len().min(200)]
        );
        assert_usable(&mut interpreter, code);
    }
}

#[test]
fn recursion_is_bounded() {
    let mut interpreter = interpreter();
    for (code, error) in [
        (
            "local function f() return 1 + f() end f()",
            "stack overflow",
        ),
        (
            "local function f() return coroutine.wrap(f)() end return f()",
            "C stack overflow",
        ),
        (
            "local function f() local ok, e = pcall(f) error(e, 0) end f()",
            "stack overflow",
        ),
        (
            "local function f() return (('x'):gsub('x', f)) end return f()",
            "C stack overflow",
        ),
        (
            "local t = {} setmetatable(t, {__index = function(t, k) return t[k] end}) return t.x",
            "C stack overflow",
        ),
        (
            "local f f = function() return load(f) end return error(select(2, f()) or 'ended', 0)",
            "",
        ),
        (
            "return loadstring('return ' .. ('('):rep(1e5))() ",
            "attempt to call a nil value",
        ),
        (
            "return string.find(('x'):rep(1e5), ('x?'):rep(1e5))",
            "pattern too complex",
        ),
        (
            "return string.find(('('):rep(1e5), ('('):rep(1e5))",
            "too many captures",
        ),
        (
            "return cjson.encode((function() local t = {} t[1] = t return t end)())",
            "excessive nesting",
        ),
        (
            "cjson.decode_max_depth(1e9) return cjson.decode(('['):rep(1e6))",
            "too many nested",
        ),
        (
            "return cmsgpack.unpack(('\\145'):rep(1e6))",
            "stack overflow",
        ),
        ("return unpack({}, 1, 1e7)", "too many results to unpack"),
        ("return ('x'):rep(1e6):byte(1, -1)", "string slice too long"),
        (
            "return redis.call(unpack({}, 1, 1e7))",
            "too many results to unpack",
        ),
    ] {
        let (_, reply) = eval(&mut interpreter, code, &mut Simple::new());
        assert!(reply.contains(error), "{code}: {reply}");
        assert_usable(&mut interpreter, code);
    }
}

#[test]
fn endless_and_deep_replies_are_cut_or_refused() {
    let mut interpreter = interpreter();
    for code in [
        "local t = {} t[1] = t return t",
        "local t = {} t.map = {a = t} return t",
        "local t = {} t.set = {[t] = true} return t",
        "local t = {} t.map = {[t] = t} return t",
        "local t = {1} for i = 1, 100 do t = {t, t} end return t",
    ] {
        let (_, reply) = eval(
            &mut interpreter,
            code,
            &mut Simple::killing_after(KILL_AFTER),
        );
        let is_cut = reply.contains("-ERR reached lua stack limit");
        let is_refused =
            reply.starts_with("-ERR The script's reply is too large") || reply.contains(KILLED);
        assert!(is_cut || is_refused, "{code}");
        assert_usable(&mut interpreter, code);
    }
}

#[test]
fn nothing_survives_a_script() {
    let mut interpreter = interpreter();
    for code in [
        "string.rep = nil",
        "getmetatable('').__index = nil",
        "rawset(redis, 'call', nil)",
        "rawset(_G, 'leak', 1)",
        "getmetatable(_G).__index = nil",
        "setmetatable(_G, nil)",
        "table.insert(_G, 1)",
        "for k, v in pairs(redis) do redis[k] = nil end",
        "KEYS = nil",
        "_G.string = {}",
        "collectgarbage('stop') error('x')",
        "cjson.null = 1",
    ] {
        let (ended, _) = eval(&mut interpreter, code, &mut Simple::new());
        assert!(matches!(ended, ScriptOutcome::Failed { .. }), "{code}");
    }
    let check = "return {#string.rep('x', 3), ('x'):rep(2), type(redis.call), type(rawget(_G, 'leak')), type(_G.string.find), type(KEYS), rawget(_G, 1) == nil}";
    let (_, reply) = eval(&mut interpreter, check, &mut Simple::new());
    assert_eq!(
        reply,
        "*7\r\n:3\r\n$2\r\nxx\r\n$8\r\nfunction\r\n$3\r\nnil\r\n$8\r\nfunction\r\n$5\r\ntable\r\n:1\r\n"
    );
}

#[test]
fn bytecode_is_refused_in_every_way() {
    let mut interpreter = interpreter();
    for code in [
        "return select(2, loadstring(string.dump(function() end)))",
        "local d = string.dump(function() end) return select(2, load(function() local x = d d = nil return x end))",
        "local d = string.dump(function() end) local i = 0 return select(2, load(function() i = i + 1 return d:sub(i, i) end))",
    ] {
        let (_, reply) = eval(&mut interpreter, code, &mut Simple::new());
        assert!(
            reply.contains("unexpected symbol near 'char(27)'"),
            "{code}: {reply}"
        );
    }
}

#[test]
fn an_aborted_script_writes_nothing_and_cannot_continue() {
    let mut interpreter = interpreter();
    let code = "for i = 1, 1e9 do pcall(redis.call, 'get', 'x') end return 1";
    let mut host = Simple::new();
    host.deadline = None;
    host.abort_at = Some(3);
    let (ended, reply) = eval(&mut interpreter, code, &mut host);
    assert_eq!(
        (ended, reply.as_str(), host.calls),
        (ScriptOutcome::Aborted, "", 3)
    );
    for code in [
        "redis.pcall('get', 'x') return 1",
        "return coroutine.wrap(function() redis.call('get', 'x') end)()",
        "return pcall(redis.pcall, 'get', 'x')",
    ] {
        let mut host = Simple::new();
        host.abort_at = Some(1);
        let (ended, reply) = eval(&mut interpreter, code, &mut host);
        assert_eq!(
            (ended, reply.as_str()),
            (ScriptOutcome::Aborted, ""),
            "{code}"
        );
    }
    assert_usable(&mut interpreter, code);
}

#[test]
fn a_panic_of_the_host_passes_through_and_the_interpreter_stays_usable() {
    let mut interpreter = interpreter();
    let mut host = Simple::new();
    host.panics = true;
    let code = "pcall(redis.call, 'get', 'x') return 1";
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eval(&mut interpreter, code, &mut host)
    }));
    let panic = *result.unwrap_err().downcast::<&str>().unwrap();
    assert_eq!(panic, "the host panics on purpose");
    assert_usable(&mut interpreter, code);
}

/// The bug: after a script with arguments larger than the memory limit, no other script compiled. The cause: the
/// arguments of the last run stayed alive, and compiling collects no garbage. The fix: every script first frees the
/// leftovers of earlier ones if they are large.
#[test]
fn leftovers_of_a_script_do_not_keep_others_from_compiling() {
    let mut interpreter = interpreter();
    let usual = interpreter.used_bytes();
    let long = vec![b'x'; MEMORY_BYTES + 1_000_000];
    let mut out = Vec::new();
    let script = Script::parse(b"return #ARGV[1] + #KEYS[1]").unwrap();
    let mut reply = Reply::new(&mut out, Version::Resp2);
    let ended = interpreter.eval(&script, &[&long], &[&long], &mut Simple::new(), &mut reply);
    assert_eq!(ended, ScriptOutcome::Replied);
    let (_, reply) = eval(&mut interpreter, "return 'another'", &mut Simple::new());
    assert_eq!(reply, "$7\r\nanother\r\n");
    for code in [
        "local t = {} for i = 1, 150000 do t[i] = tostring(i) end return #t",
        "local t = {} for i = 1, 100000 do t[i] = {} end error(('x'):rep(1e6))",
        "local t = {} while true do t[#t + 1] = 'x' .. #t end",
        "return loadstring('return {' .. ('1,'):rep(300000) .. '}') and 1",
    ] {
        eval(&mut interpreter, code, &mut Simple::new());
        assert!(interpreter.used_bytes() > 2 * usual, "{code}");
        interpreter.drop_leftovers();
        assert!(interpreter.used_bytes() < 2 * usual, "{code}");
    }
}

/// The bug: a script could run out of memory because of compiled scripts that were not used any more. The cause: only
/// their number was limited. The fix: they are dropped if they take too much memory.
#[test]
fn compiled_scripts_leave_memory_to_others() {
    let mut interpreter = interpreter();
    let needs_much = "return #('x'):rep(2e6)";
    let filler = "if not KEYS then return 'x' .. 1 end ".repeat(2000);
    for number in 0..200 {
        let code = format!("{filler} return {number}");
        let (_, reply) = eval(&mut interpreter, &code, &mut Simple::new());
        assert_eq!(reply, format!(":{number}\r\n"));
        if number % 10 == 0 {
            let (_, reply) = eval(&mut interpreter, needs_much, &mut Simple::new());
            assert_eq!(reply, ":2000000\r\n", "after {number}");
        }
    }
}

#[test]
fn compiled_scripts_are_bounded() {
    let limits = Limits {
        memory_bytes: MEMORY_BYTES,
        compiled_scripts: 10,
        ..Limits::default()
    };
    let mut interpreter = Interpreter::new(limits).unwrap();
    for number in 0..20_000 {
        let code = format!("return '{number}'");
        let (_, reply) = eval(&mut interpreter, &code, &mut Simple::new());
        assert!(reply.contains(&number.to_string()));
    }
    assert!(interpreter.used_bytes() < 2 * 1024 * 1024);
    interpreter.clear_scripts();
    assert_usable(&mut interpreter, "clear_scripts");
}

#[test]
fn a_limit_that_is_too_small_is_an_error() {
    for memory_bytes in [0, 1000, 20_000, 50_000, 100_000] {
        let limits = Limits {
            memory_bytes,
            ..Limits::default()
        };
        if let Ok(mut interpreter) = Interpreter::new(limits) {
            eval(
                &mut interpreter,
                "return ('x'):rep(1e5)",
                &mut Simple::new(),
            );
        }
    }
}

#[test]
fn an_interpreter_can_move_to_another_thread() {
    let mut interpreter = interpreter();
    let thread = std::thread::spawn(move || assert_usable(&mut interpreter, "the move"));
    thread.join().unwrap();
}

#[test]
fn a_library_that_loads_too_long_is_refused() {
    let mut interpreter = interpreter();
    let mut host = Simple::new();
    host.deadline = None;
    let code = b"#!lua name=slow\nwhile true do end";
    let error = interpreter.load_library(code, 1, &mut host).unwrap_err();
    assert_eq!(
        error.to_string(),
        "ERR Error registering functions: ERR FUNCTION LOAD timeout"
    );
    assert_usable(&mut interpreter, "a slow library");
}
