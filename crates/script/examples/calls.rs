//! Measures small scripts with a host that does nothing: `cargo run --release -p damselfly-script --example calls`.
//!
//! It shows processor time, so that other programs have little influence (Linux only).

use damselfly_protocol::{Reply, Version};
use damselfly_script::{CallOutcome, Host, Interpreter, Limits, LogLevel, Script, Tick};

struct Nothing;

impl Host for Nothing {
    fn call(&mut self, _: &[&[u8]], _: Version, reply: &mut Vec<u8>) -> CallOutcome {
        reply.extend_from_slice(b"$5\r\nvalue\r\n");
        CallOutcome::Replied
    }

    fn tick(&mut self) -> Tick {
        Tick::Continue
    }

    fn log(&mut self, _: LogLevel, _: &[u8]) {}

    fn is_allowed(&mut self, _: &[&[u8]]) -> Option<bool> {
        Some(true)
    }

    fn set_replication(&mut self, _: u8) {}
}

/// The processor time of this process in nanoseconds.
fn processor_time() -> u64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let first = text.split(' ').next().and_then(|word| word.parse().ok());
    first.expect("Linux reports the processor time of processes")
}

fn main() {
    let mut interpreter = Interpreter::new(Limits::default()).expect("there is memory for Lua");
    println!("an interpreter takes {} bytes", interpreter.used_bytes());
    for (code, times) in [
        ("return 1", 2_000_000_u32),
        ("return redis.call('get', KEYS[1])", 2_000_000),
        (
            "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) else return 0 end",
            2_000_000,
        ),
        ("for i = 1, 1000 do redis.call('get', KEYS[1]) end", 3_000),
        (
            "for i = 1, 1000 do local x = string.sub('hello', 2, 3) end",
            10_000,
        ),
        (
            "return cjson.encode({id = 1, name = 'x', tags = {1, 2, 3}})",
            300_000,
        ),
        (
            "return cjson.decode('{\"id\":1,\"name\":\"x\",\"tags\":[1,2,3]}').name",
            300_000,
        ),
        (
            "return #cmsgpack.pack({id = 1, name = 'x', tags = {1, 2, 3}})",
            300_000,
        ),
        (
            "return string.match('key:12345:field', '%a+:(%d+):%a+')",
            500_000,
        ),
    ] {
        let script = Script::parse(code.as_bytes()).expect("the script has no first line");
        let mut out = Vec::new();
        let started = processor_time();
        for _ in 0..times {
            out.clear();
            let mut reply = Reply::new(&mut out, Version::Resp2);
            interpreter.eval(&script, &[b"key"], &[b"value"], &mut Nothing, &mut reply);
        }
        let nanoseconds = (processor_time() - started) / u64::from(times);
        println!("{nanoseconds:>8} ns  {code}");
        assert!(!out.starts_with(b"-"), "{}", out.escape_ascii());
    }
}
