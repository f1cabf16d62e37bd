//! Very long bitmaps: commands take no more memory than their bytes and the result's, and freeing one holds up no other client.
//! `crates/server/tests/long.rs` tests that other clients are served during these commands.
//!
//! `DAMSELFLY_BITMAP_MB=512` runs the tests with the longest possible ones.

mod memory_common;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use damselfly_oracle::connection::Connection;
use damselfly_oracle::random;
use damselfly_oracle::server::{Program, Server};
use memory_common::{text, until};

const MIB: usize = 1 << 20;
/// What a server may take besides.
const SLACK_BYTES: u64 = 24 << 20;

/// The length of the bitmaps in bytes.
fn bitmap_bytes() -> usize {
    random::number_from("DAMSELFLY_BITMAP_MB").map_or(64, |number| number as usize) * MIB
}

fn start() -> (Server, Connection) {
    let server = Server::start(&Program::subject(), &["--threads", "1"]).unwrap();
    let connection = server.connect();
    (server, connection)
}

fn run(connection: &mut Connection, command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    text(&connection.call(&words).unwrap())
}

fn info(connection: &mut Connection, field: &str) -> usize {
    let info = run(connection, "INFO everything");
    let mut lines = info.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(name, _)| *name == field).unwrap();
    value.parse().unwrap()
}

/// The most resident memory so far.
fn peak_bytes(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let mut lines = status.lines();
    let peak = lines.find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kib = peak.trim().trim_end_matches(" kB");
    kib.parse::<u64>().unwrap() * 1024
}

/// Runs a command, and measures the longest time that another client of the same thread waits meanwhile.
fn run_beside(server: &Server, connection: &mut Connection, command: &str) -> (String, Duration) {
    let mut other = server.connect();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !is_over.load(SeqCst) {
                let started = Instant::now();
                other.call(&["PING"]).unwrap();
                longest = longest.max(started.elapsed());
            }
            longest
        });
        let reply = run(connection, command);
        is_over.store(true, SeqCst);
        (reply, waiter.join().unwrap())
    })
}

#[test]
fn commands_on_very_long_bitmaps_take_bounded_memory() {
    let bytes = bitmap_bytes();
    let last = bytes * 8 - 1;
    let (server, mut connection) = start();
    let start = server.resident_bytes();
    // Each command with its reply, and how many bitmaps there are afterwards.
    let commands = [
        (format!("SETBIT a {last} 1"), String::from("0"), 1),
        (String::from("BITCOUNT a"), String::from("1"), 1),
        (String::from("BITPOS a 1"), last.to_string(), 1),
        (
            format!("BITPOS a 0 {} -1 BIT", last - 7),
            (last - 7).to_string(),
            1,
        ),
        (
            format!("BITFIELD_RO a GET u1 {last}"),
            String::from("1) (integer) 1"),
            1,
        ),
        (String::from("BITOP NOT b a"), bytes.to_string(), 2),
        (String::from("BITCOUNT b"), last.to_string(), 2),
        (String::from("BITPOS b 0"), last.to_string(), 2),
        (String::from("BITOP OR c a b"), bytes.to_string(), 3),
        (String::from("BITCOUNT c"), (last + 1).to_string(), 3),
        // The result replaces the third one when it is complete.
        (String::from("BITOP ONE c a b c"), bytes.to_string(), 4),
        (String::from("BITCOUNT c"), String::from("0"), 4),
    ];
    let mut shown = String::new();
    for (command, expected, bitmaps) in commands {
        let (reply, longest) = run_beside(&server, &mut connection, &command);
        assert_eq!(reply.trim(), expected, "{command}");
        let taken = peak_bytes(&server) - start;
        let limit = bytes as u64 * bitmaps + SLACK_BYTES;
        assert!(taken < limit, "{command}: {taken} bytes");
        shown += &format!("{command}: another client waited for {longest:?}, {taken} bytes\n");
    }
    println!("{shown}");
}

/// The bug: a second after a bitmap of 512 MB was deleted, a thread that served clients returned its memory to the operating system, and
/// they waited for 60 milliseconds, and much longer on a busy machine. The cause: mimalloc does that in whichever thread allocates next.
/// The fix: a background thread frees very long strings, and returns their memory itself.
#[test]
fn very_long_strings_are_freed_in_the_background() {
    let bytes = bitmap_bytes();
    let (server, mut connection) = start();
    for (number, end) in ["DEL a", "UNLINK a", "SET a short", "FLUSHALL"]
        .into_iter()
        .enumerate()
    {
        let set = format!("SETBIT a {} 1", bytes * 8 - 1);
        assert_eq!(run(&mut connection, &set), "0");
        assert_eq!(info(&mut connection, "lazyfreed_objects"), number);
        assert!(server.resident_bytes() > bytes as u64);
        run(&mut connection, end);
        until("it is freed", || {
            info(&mut connection, "lazyfreed_objects") > number
        });
        until("its memory is returned", || {
            server.resident_bytes() < bytes as u64
        });
        run(&mut connection, "DEL a");
    }
}
