//! Entry points for the fuzzer, and random tests: hostile data for the decoders, hostile scripts for the interpreter.

use damselfly_protocol::client::Decoder;
use damselfly_protocol::{Reply, Version};

use crate::host::{CallOutcome, Host, LogLevel, Tick};
use crate::interpreter::{Interpreter, Limits};
use crate::script::Script;

const MEMORY_BYTES: usize = 8 * 1024 * 1024;
/// After how many ticks a script is killed.
const TICKS_MAX: u32 = 50;

/// Scripts that decode their arguments; some encode the result again.
const DECODERS: &[&str] = &[
    "local ok, v = pcall(cjson.decode, ARGV[1]) if ok then return {cjson.encode(v), v} end return v",
    "local t = {pcall(cmsgpack.unpack, ARGV[1])} if t[1] and t[2] then cmsgpack.pack(unpack(t, 2)) end return t",
    "return {pcall(cmsgpack.unpack_limit, ARGV[1], 3, 1)}",
    "return {pcall(cmsgpack.unpack_one, ARGV[1], 2)}",
    "return {pcall(struct.unpack, ARGV[2], ARGV[1])}",
    "return {pcall(struct.size, ARGV[1]), pcall(struct.pack, ARGV[1], 1, 'abc', 2, 'def', 1.5, -1)}",
    "return {pcall(string.find, ARGV[1], ARGV[2])}",
    "return {pcall(string.gsub, ARGV[1], ARGV[2], '%1-%0')}",
    "return {pcall(string.gsub, ARGV[1], ARGV[2], function(a, b) return b end)}",
    "local t = {} for a, b in string.gmatch(ARGV[1], ARGV[2]) do t[#t + 1] = a end return t",
    "return {pcall(string.format, ARGV[1], 1, 'x', 2.5)}",
    "return {loadstring(ARGV[1], ARGV[2])}",
];

/// Answers each command with its last argument: verbatim if that is a valid reply, else as a bulk string.
struct Echo {
    ticks: u32,
}

impl Host for Echo {
    fn call(&mut self, arguments: &[&[u8]], version: Version, reply: &mut Vec<u8>) -> CallOutcome {
        let last = arguments.last().copied().unwrap_or_default();
        if arguments[0] == b"abort" {
            return CallOutcome::Abort;
        }
        match Decoder::default().decode(last) {
            Ok(Some((_, len))) if len == last.len() => reply.extend_from_slice(last),
            _ => Reply::new(reply, version).bulk(last),
        }
        CallOutcome::Replied
    }

    fn tick(&mut self) -> Tick {
        self.ticks += 1;
        if self.ticks > TICKS_MAX {
            return Tick::Kill("ERR Script killed by user with SCRIPT KILL.");
        }
        Tick::Continue
    }

    fn log(&mut self, _: LogLevel, _: &[u8]) {}

    fn is_allowed(&mut self, _: &[&[u8]]) -> Option<bool> {
        Some(true)
    }

    fn set_replication(&mut self, _: u8) {}
}

/// An interpreter with small limits, for the other functions.
pub fn interpreter() -> Interpreter {
    let limits = Limits {
        memory_bytes: MEMORY_BYTES,
        compiled_scripts: 100,
        instructions_per_tick: 1000,
        ..Limits::default()
    };
    Interpreter::new(limits).expect("there is memory for Lua")
}

/// Passes `data` to a decoder. The first byte selects the decoder, the second is the length of the format or pattern
/// that follows.
pub fn decoders(interpreter: &mut Interpreter, data: &[u8]) {
    let [choice, len, rest @ ..] = data else {
        return;
    };
    let code = DECODERS[usize::from(*choice) % DECODERS.len()];
    let (format, rest) = rest.split_at(usize::from(*len).min(rest.len()));
    run(interpreter, code.as_bytes(), &[rest, format]);
}

/// Runs the bytes as a script.
pub fn scripts(interpreter: &mut Interpreter, data: &[u8]) {
    run(interpreter, data, &[b"1", b"text"]);
}

/// Runs a script and checks that it wrote exactly one reply unless it was aborted, and that memory use is bounded.
fn run(interpreter: &mut Interpreter, code: &[u8], arguments: &[&[u8]]) {
    let Ok(script) = Script::parse(code) else {
        return;
    };
    for version in [Version::Resp2, Version::Resp3] {
        let mut out = Vec::new();
        let mut reply = Reply::new(&mut out, version);
        let mut host = Echo { ticks: 0 };
        let ended = interpreter.eval(&script, &[b"key"], arguments, &mut host, &mut reply);
        if ended == crate::ScriptOutcome::Aborted {
            assert!(out.is_empty());
            continue;
        }
        match Decoder::default().decode(&out) {
            Ok(Some((_, len))) => assert_eq!(len, out.len(), "one reply"),
            other => panic!("{other:?} from {}", out.escape_ascii()),
        }
        assert!(interpreter.used_bytes() <= 2 * MEMORY_BYTES);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lrand48::Lrand48;

    /// Bytes that are likely to mean something to a decoder.
    const LIKELY: &[u8] =
        b"\x00\x01\x7f\x81\x82\x91\x93\xa1\xc0\xca\xcb\xcf\xd3\xdc\xdd\xde\xff{}[]:,\"\\u019nitfe.-+%()*?bcdhilsxT<>!$^";

    #[test]
    fn random_bytes_never_break_a_decoder() {
        let seed = std::process::id();
        println!("seed {seed}");
        let mut random = Lrand48::new(seed);
        let mut interpreter = interpreter();
        for _ in 0..20_000 {
            let len = random.next() % 40;
            let data: Vec<u8> = (0..len)
                .map(|_| match random.next() % 8 {
                    0 => random.next() as u8,
                    _ => LIKELY[random.next() as usize % LIKELY.len()],
                })
                .collect();
            decoders(&mut interpreter, &data);
        }
    }

    #[test]
    fn random_scripts_never_break_the_interpreter() {
        const WORDS: &[&str] = &[
            "local a",
            "a",
            "b",
            "=",
            "=",
            "{",
            "}",
            "(",
            ")",
            "'x'",
            "1",
            "-1",
            "nil",
            "function(...)",
            "end",
            "return",
            "while true do",
            "if a then",
            "..",
            "+",
            ",",
            ",",
            "redis.call",
            "pcall",
            "error",
            "coroutine.wrap",
            "string.gsub",
            "setmetatable",
            "getmetatable",
            "loadstring",
            "unpack",
            "KEYS",
            "ARGV[1]",
            "_G",
            "for k, v in pairs(_G) do",
            "'abort'",
            "cjson.encode",
            "table.insert",
            "table.sort",
            "next",
            "rawset",
            "__index",
            "#",
            "a[1]",
            "\n",
        ];
        let seed = std::process::id();
        println!("seed {seed}");
        let mut random = Lrand48::new(seed);
        let mut interpreter = interpreter();
        for _ in 0..20_000 {
            let len = random.next() % 20;
            let words: Vec<&str> = (0..len)
                .map(|_| WORDS[random.next() as usize % WORDS.len()])
                .collect();
            scripts(&mut interpreter, words.join(" ").as_bytes());
        }
    }
}
