//! Commands over all keys, and how long they delay other clients. In a file of its own, since other tests measure the memory of their
//! process.

mod common;

use common::TestServer;
use damselfly_config::Allow;

/// Runs `request` again and again until `wait` returns or panics; returns the number of runs.
fn requests_until(wait: impl FnOnce() + Send, mut request: impl FnMut()) -> usize {
    std::thread::scope(|scope| {
        let waiting = scope.spawn(wait);
        let mut answered = 0;
        while !waiting.is_finished() {
            request();
            answered += 1;
        }
        answered
    })
}

/// The bug: KEYS held all locks while it matched. With a pattern that takes long even for a single key, all clients waited. The
/// cause: it locked all shards, to return a consistent snapshot. The fix: it locks one shard at a time, and none while a match takes
/// long.
#[test]
fn no_shard_is_locked_while_a_slow_pattern_is_matched() {
    let server = TestServer::with(|config| {
        config.threads = 2;
        config.shards = 64;
    });
    let (mut client, mut other) = (server.client(), server.client());
    let key = "a".repeat(300_000);
    client.run(&format!("SET {key} value"));
    let pattern = format!("*{}b*", "a".repeat(1000));
    for command in [
        format!("KEYS {pattern}"),
        format!("SCAN 0 MATCH {pattern} COUNT 10"),
    ] {
        other.send(&command);
        let ended = || assert!(other.receive_value().is_some());
        let get = format!("GET {key}");
        // It takes some hundred milliseconds, and a request about one.
        let answered = requests_until(ended, || assert_eq!(client.run(&get), "\"value\""));
        assert!(answered > 5, "{answered}");
    }
    other.run(&format!("SADD set {key} b"));
    let scan = format!("SSCAN set 0 MATCH {pattern}");
    other.send(&scan);
    let ended = || assert!(other.receive_value().is_some());
    let answered = requests_until(ended, || assert_eq!(client.run("SCARD set"), "(integer) 2"));
    assert!(answered > 5, "{answered}");
}

/// The bugs: when a client flushed millions of keys, all clients of its thread waited until they were freed; and likewise while DEBUG
/// POPULATE created keys. The cause: that thread did the work. The fix: a thread for long commands does it, before the reply.
#[test]
fn the_thread_of_a_command_over_all_keys_serves_others() {
    const POPULATE: &str = "DEBUG POPULATE 300000";
    let server = TestServer::with(|config| {
        config.threads = 1;
        config.shards = 64;
        config.enable_debug_command = Allow::Yes;
    });
    let mut client = server.client();
    for (command, keys) in [
        (POPULATE, 300_000),
        ("KEYS *0*1*2*3*4*5*6*", 300_000),
        ("FLUSHDB SYNC", 0),
        ("FLUSHALL SYNC", 0),
    ] {
        // If the command blocked the thread, every try would see two replies: one before the command and one after it. On a busy
        // machine, single tries may see as few anyway, if the command finishes before this thread runs.
        let mut tries = (0..20).map(|_| {
            if command == POPULATE {
                client.run("FLUSHALL");
            } else {
                client.run(POPULATE);
            }
            let mut other = server.client();
            other.send(command);
            let ended = || assert!(other.receive_value().is_some());
            let answered = requests_until(ended, || assert_eq!(client.run("PING"), "PONG"));
            assert_eq!(client.number("DBSIZE"), keys, "{command}");
            answered
        });
        assert!(tries.any(|answered| answered > 10), "{command}");
    }
}
