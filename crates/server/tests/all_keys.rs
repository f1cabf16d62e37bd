//! Commands over all keys, and what they cost other clients. In a file of its own, since others look at the memory of their process.

mod common;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use common::TestServer;
use damselfly_config::Allow;

/// How often `ask` can ask for something, and get it, until what `wait` waits for has happened.
fn answered_until(wait: impl FnOnce() + Send, mut ask: impl FnMut()) -> usize {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait();
            done.store(true, SeqCst);
        });
        let mut answered = 0;
        while !done.load(SeqCst) {
            ask();
            answered += 1;
        }
        answered
    })
}

/// The bug: KEYS held all locks while it matched, so with a pattern that takes long even against a single key, everybody waited. The
/// cause: it locked all shards, to show one moment. Now it locks shard by shard, and no shard while it matches a key that takes long.
#[test]
fn no_shard_is_locked_while_a_pattern_is_matched_that_takes_long() {
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
        // Some hundred milliseconds, while a request takes about one.
        let answered = answered_until(ended, || assert_eq!(client.run(&get), "\"value\""));
        assert!(answered > 5, "{answered}");
    }
    other.run(&format!("SADD set {key} b"));
    let scan = format!("SSCAN set 0 MATCH {pattern}");
    other.send(&scan);
    let ended = || assert!(other.receive_value().is_some());
    let answered = answered_until(ended, || assert_eq!(client.run("SCARD set"), "(integer) 2"));
    assert!(answered > 5, "{answered}");
}

/// The bugs: whoever shared a thread with a client that flushed millions of keys waited until they were freed, and so it was while DEBUG
/// POPULATE made them. The cause: that thread did the work. Now a thread for long commands does, before the reply.
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
        // With the thread held up, one would be answered before the command and one after it, however often it is tried; a busy machine
        // may run the command to its end before this thread gets its turn.
        let mut tries = (0..20).map(|_| {
            if command == POPULATE {
                client.run("FLUSHALL");
            } else {
                client.run(POPULATE);
            }
            let mut other = server.client();
            other.send(command);
            let ended = || assert!(other.receive_value().is_some());
            let answered = answered_until(ended, || assert_eq!(client.run("PING"), "PONG"));
            assert_eq!(client.number("DBSIZE"), keys, "{command}");
            answered
        });
        assert!(tries.any(|answered| answered > 10), "{command}");
    }
}
