//! Measures the code that every request runs, in nanoseconds: `cargo bench -p damselfly-protocol`.

use std::hint::black_box;
use std::time::Instant;

use damselfly_protocol::client::{skip_reply, write_command};
use damselfly_protocol::{Limits, Progress, Reply, RequestParser, Version};

/// Requests in the input, about as many as one read of a socket returns.
const BATCH: usize = 100;
const ROUNDS: usize = 5_000;
/// The best of this many tries counts, since the machine may be shared.
const TRIES: usize = 7;

/// Prints the nanoseconds per operation; `run` does `BATCH` operations.
fn measure(name: &str, mut run: impl FnMut()) {
    let mut best = f64::INFINITY;
    for _ in 0..TRIES {
        let start = Instant::now();
        for _ in 0..ROUNDS {
            run();
        }
        best = best.min(start.elapsed().as_secs_f64() * 1e9 / (ROUNDS * BATCH) as f64);
    }
    println!("{name:<36} {best:6.2} ns");
}

fn measure_parse(name: &str, request: &[u8]) {
    let mut input = request.repeat(BATCH);
    let mut parser = RequestParser::new();
    let limits = Limits::default();
    let mut spans = Vec::new();
    measure(name, || {
        spans.clear();
        let mut input = black_box(&mut input[..]);
        while let Ok(Progress::Complete { consumed }) = parser.parse(input, &mut spans, &limits) {
            input = &mut input[consumed..];
        }
        black_box(&spans);
    });
}

fn measure_reply(name: &str, write: impl Fn(&mut Reply<'_>)) {
    let mut out = Vec::new();
    measure(name, || {
        out.clear();
        let mut reply = Reply::new(black_box(&mut out), Version::Resp2);
        for _ in 0..BATCH {
            write(&mut reply);
        }
        black_box(&out);
    });
}

fn measure_skip(name: &str, reply: &[u8]) {
    let input = reply.repeat(BATCH);
    measure(name, || {
        let mut rest = black_box(&input[..]);
        while let Some(bytes) = skip_reply(rest) {
            rest = &rest[bytes..];
        }
        black_box(rest);
    });
}

fn command(arguments: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    write_command(&mut out, arguments);
    out
}

fn main() {
    let (key, value) = (b"memtier-12345678", [b'x'; 64]);
    measure_parse("parse GET key16", &command(&[b"GET", key]));
    measure_parse("parse SET key16 value64", &command(&[b"SET", key, &value]));
    measure_parse(
        "parse SET key16 value1024",
        &command(&[b"SET", key, &[b'x'; 1024]]),
    );
    measure_parse("parse MSET of 10 keys", &command(&[&b"key"[..]; 21]));
    measure_parse("parse inline GET key16", b"GET memtier-12345678\r\n");

    measure_reply("reply ok", |reply| reply.ok());
    measure_reply("reply integer 1", |reply| reply.integer(black_box(1)));
    measure_reply("reply integer 123456", |reply| {
        reply.integer(black_box(123_456))
    });
    measure_reply("reply bulk 3", |reply| reply.bulk(black_box(b"abc")));
    measure_reply("reply bulk 64", |reply| reply.bulk(black_box(&value)));
    measure_reply("reply bulk 1024", |reply| {
        reply.bulk(black_box(&[b'x'; 1024]))
    });
    measure_reply("reply null", |reply| reply.null());
    measure_reply("reply bulk_integer 123456", |reply| {
        reply.bulk_integer(black_box(123_456))
    });
    measure_reply("reply double 1.5", |reply| reply.double(black_box(1.5)));
    measure_reply("reply double 10", |reply| reply.double(black_box(10.0)));

    let mut bulk = Vec::new();
    Reply::new(&mut bulk, Version::Resp2).bulk(&value);
    measure_skip("skip +OK", b"+OK\r\n");
    measure_skip("skip bulk 64", &bulk);
    measure_skip("skip array of 2 bulks", b"*2\r\n$3\r\nabc\r\n$3\r\nabc\r\n");
}
