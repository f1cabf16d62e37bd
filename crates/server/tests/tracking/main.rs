//! Client-side caching over several threads: no cache holds an outdated value after its client could know of the change, memory stays
//! bounded, and nothing is left of clients that are gone.
//!
//! `cargo xtask ci` runs the tests of `coherent` with the planted bug `tracking`, which registers a reader of a key only after it has
//! released the locks under which it read. Then they must fail. They also fail if the invalidations of a client do not wait for a
//! reply that another thread writes (`behind_long`) or that is written in slices.
//!
//! Keys are chosen at random, but no seed could reproduce a failure, since the order in which threads run is random, too.

#[path = "../common/mod.rs"]
mod common;

mod coherent;
mod scripts;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;

use common::{Client, TestServer, until};
use damselfly_config::OutputLimit;
use damselfly_protocol::client::{Value, write_command};

fn text(value: &Value) -> String {
    match value {
        Value::Bulk(bytes) | Value::Simple(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => other.to_string(),
    }
}

/// The words of a message. The keys of an invalidation are separate words; if there are none, it invalidates all keys.
fn words(value: &Value) -> Vec<String> {
    let (Value::Push(items) | Value::Array(items)) = value else {
        return vec![text(value)];
    };
    let words = items.iter().flat_map(|item| match item {
        Value::Array(keys) => keys.iter().map(text).collect(),
        Value::Null(_) => Vec::new(),
        other => vec![text(other)],
    });
    words.collect()
}

fn next(client: &mut Client) -> Vec<String> {
    words(&client.receive_value().expect("a message"))
}

/// A client that uses RESP3 and tracks with these options.
fn tracker(server: &TestServer, options: &str) -> Client {
    let mut client = server.client();
    client.run("HELLO 3");
    assert_eq!(
        client.run(format!("CLIENT TRACKING ON {options}").trim()),
        "OK"
    );
    client
}

fn send(client: &mut Client, words: &[&str]) {
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    let mut request = Vec::new();
    write_command(&mut request, &words);
    client.send_bytes(&request);
}

/// Bug: another client's change was not told to a client with NOLOOP whose own waiting command took some of it at once.
#[test]
fn a_change_by_two_clients_is_told_to_both() {
    let server = TestServer::start();
    let (mut client, mut other) = (tracker(&server, "BCAST NOLOOP"), server.client());
    client.send("BLPOP list 0");
    until("the client waits", || {
        other.text("INFO clients").contains("blocked_clients:1")
    });
    other.run("RPUSH list 1 2 3");
    let both = [client.receive(), client.receive()].concat();
    assert!(both.contains("invalidate") && both.contains('1'), "{both}");
}

/// Waits until the server keeps nothing of former trackers.
fn until_nothing_is_left(server: &TestServer) {
    let shared = server.shared();
    until("nothing is tracked", || {
        let (engine, tracking) = (&shared.engine, &shared.tracking);
        let left = [engine.tracked_keys(), engine.tracked_items()];
        left == [0, 0] && tracking.count() == 0 && tracking.prefix_count() == 0
    });
}

#[test]
fn caches_of_keys_with_a_prefix_are_coherent() {
    let options = ["BCAST", "BCAST NOLOOP PREFIX key:"];
    coherent::check(&options, 0, coherent::increment);
}

#[test]
fn clients_that_track_prefixes_get_every_change() {
    const CHANGES: usize = 2000;
    let server = TestServer::start();
    let mut trackers: Vec<Client> = ["BCAST", "BCAST PREFIX a: PREFIX b:"]
        .map(|options| tracker(&server, options))
        .into();
    thread::scope(|scope| {
        for writer in ["a", "b", "c"] {
            let mut client = server.client();
            scope.spawn(move || {
                for number in 0..CHANGES {
                    client.run(&format!("SET {writer}:{number} x"));
                }
            });
        }
    });
    for (client, expected) in trackers.iter_mut().zip([3 * CHANGES, 2 * CHANGES]) {
        client.send("PING");
        let mut invalidated = std::collections::HashSet::new();
        loop {
            let words = next(client);
            if words == ["PONG"] {
                break;
            }
            assert_eq!(words[0], "invalidate");
            invalidated.extend(words[1..].iter().cloned());
        }
        assert_eq!(invalidated.len(), expected);
    }
    drop(trackers);
    until_nothing_is_left(&server);
}

#[test]
fn the_tracking_table_is_bounded_and_invalidates_keys_that_it_drops() {
    const KEYS: usize = 20_000;
    const KEYS_MAX: usize = 500;
    let server = TestServer::with(|config| config.tracking_table_max_keys = KEYS_MAX as u64);
    let mut client = tracker(&server, "");
    let mut dropped = std::collections::HashSet::new();
    for number in 0..KEYS {
        client.send(&format!("GET {number}"));
        while let message @ Value::Push(_) = client.receive_value().unwrap() {
            dropped.extend(words(&message).split_off(1));
        }
        assert!(server.shared().engine.tracked_keys() <= KEYS_MAX);
    }
    client.send("PING");
    let mut words = next(&mut client);
    while words != ["PONG"] {
        dropped.extend(words.split_off(1));
        words = next(&mut client);
    }
    assert_eq!(dropped.len() + server.shared().engine.tracked_keys(), KEYS);
    // Lowering the limit drops more keys; zero removes the limit.
    server.change(|config| config.tracking_table_max_keys = 100);
    until("keys are dropped", || {
        server.shared().engine.tracked_keys() == 100
    });
    server.change(|config| config.tracking_table_max_keys = 0);
    for number in 0..1000 {
        client.send(&format!("GET more:{number}"));
    }
    until("all are tracked", || {
        server.shared().engine.tracked_keys() == 1100
    });
}

#[test]
fn a_client_that_reads_nothing_costs_bounded_memory() {
    const HARD_BYTES: u64 = 1 << 20;
    let server = TestServer::with(|config| {
        config.client_output_buffer_limit.pubsub = OutputLimit {
            hard_bytes: HARD_BYTES,
            soft_bytes: 0,
            soft_s: 0,
        };
    });
    let mut idle = tracker(&server, "BCAST");
    assert_eq!(idle.run("CLIENT SETNAME idle"), "OK");
    let mut writer = server.client();
    let key = "k".repeat(10_000);
    let disconnected = || {
        server
            .shared()
            .total(|counters| counters.output_limit_disconnections.read())
    };
    let mut rounds = 0;
    while disconnected() == 0 {
        assert_eq!(writer.run(&format!("SET {key} x")), "OK");
        rounds += 1;
        assert!(rounds < 10_000, "the client is not disconnected");
    }
    until_nothing_is_left(&server);
    idle.until_closed();
    // The limit does not apply to replies.
    let mut reader = tracker(&server, "");
    assert_eq!(
        writer.run(&format!("SET big {}", "x".repeat(4 << 20))),
        "OK"
    );
    reader.send("GET big");
    until("the key was read", || {
        server.shared().engine.tracked_keys() == 1
    });
    assert_eq!(writer.run("SET big x"), "OK");
    assert_eq!(text(&reader.receive_value().unwrap()).len(), 4 << 20);
    assert_eq!(next(&mut reader), ["invalidate", "big"]);
}

#[test]
fn a_transaction_that_changes_too_many_bytes_of_keys_invalidates_everything() {
    const KEYS: usize = 300;
    let server = TestServer::start();
    let mut client = tracker(&server, "BCAST");
    let mut writer = server.client();
    writer.run("MULTI");
    for number in 0..KEYS {
        writer.run(&format!("SET {number}{} x", "k".repeat(100_000)));
    }
    writer.send("EXEC");
    assert!(writer.receive_value().is_some());
    assert_eq!(next(&mut client), ["invalidate"]);
    assert_eq!(client.run("PING"), "PONG");
}

#[test]
fn invalidations_are_redirected_across_threads() {
    let server = TestServer::start();
    let mut subscribers: Vec<Client> = (0..4).map(|_| server.client()).collect();
    let mut trackers = Vec::new();
    for (number, subscriber) in subscribers.iter_mut().enumerate() {
        let id = subscriber.number("CLIENT ID");
        if number % 2 == 0 {
            subscriber.run("HELLO 3");
        } else {
            subscriber.run("SUBSCRIBE __redis__:invalidate");
        }
        // With either protocol, and on any thread.
        for protocol in [2, 3] {
            let mut client = server.client();
            client.run(&format!("HELLO {protocol}"));
            let command = format!("CLIENT TRACKING ON REDIRECT {id}");
            assert_eq!(client.run(&command), "OK");
            assert_eq!(client.number("CLIENT GETREDIR"), id);
            trackers.push(client);
        }
    }
    let mut writer = server.client();
    for round in 0..50 {
        for client in &mut trackers {
            client.run("GET key");
        }
        assert_eq!(writer.run(&format!("SET key {round}")), "OK");
        for (number, subscriber) in subscribers.iter_mut().enumerate() {
            for _ in 0..2 {
                let words = next(subscriber);
                if number % 2 == 0 {
                    assert_eq!(words, ["invalidate", "key"]);
                } else {
                    assert_eq!(words, ["message", "__redis__:invalidate", "key"]);
                }
            }
        }
    }
    // Clients that redirect get nothing themselves, except a message that the target is gone.
    drop(subscribers);
    until("they are gone", || {
        writer.text("CLIENT LIST").lines().count() == trackers.len() + 1
    });
    for client in &mut trackers {
        client.run("GET key");
    }
    assert_eq!(writer.run("SET key x"), "OK");
    for (number, client) in trackers.iter_mut().enumerate() {
        if number % 2 == 1 {
            assert_eq!(next(client)[0], "tracking-redir-broken");
        }
        assert_eq!(client.run("PING"), "PONG");
        assert!(client.text("CLIENT INFO").contains(" flags=tRU "));
    }
    drop(trackers);
    until_nothing_is_left(&server);
}

/// Long replies are written by other threads or in slices. A client would ignore an invalidation that arrived before the reply, and
/// then cache an outdated value.
#[test]
fn invalidations_come_after_the_replies_with_the_values() {
    const MEMBERS: usize = 100_000;
    let server = TestServer::start();
    let mut writer = server.client();
    let members: Vec<String> = (0..MEMBERS).map(|number| format!("m{number}")).collect();
    for command in ["RPUSH list", "SADD set", "SADD other"] {
        writer.run(&format!("{command} {}", members.join(" ")));
    }
    let mut reader = tracker(&server, "");
    let writing = AtomicBool::new(true);
    thread::scope(|scope| {
        scope.spawn(|| {
            while writing.load(SeqCst) {
                writer.run("RPUSH list x");
                writer.run("RPOP list");
                writer.run("SADD set x");
                writer.run("SREM set x");
            }
        });
        for round in 0..60 {
            let command = ["LRANGE list 0 -1", "SINTER set other"][round % 2];
            reader.send(command);
            let mut replied = false;
            // After it has read the key, it gets an invalidation for one of the next changes, and not before.
            loop {
                match reader.receive_value().unwrap() {
                    Value::Push(_) => {
                        assert!(replied, "{command}: invalidated before it was read");
                        break;
                    }
                    Value::Array(items) | Value::Set(items) => {
                        assert!(items.len() >= MEMBERS);
                        replied = true;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        writing.store(false, SeqCst);
    });
}

#[test]
fn expired_keys_are_invalidated_without_an_access() {
    let server = TestServer::start();
    let mut writer = server.client();
    let mut reader = tracker(&server, "");
    let mut broadcast = tracker(&server, "BCAST PREFIX h");
    assert_eq!(writer.run("SET k v PX 20"), "OK");
    assert_eq!(writer.number("HSET h f v"), 1);
    assert_eq!(next(&mut broadcast), ["invalidate", "h"]);
    writer.run("HPEXPIRE h 20 FIELDS 1 f");
    assert_eq!(next(&mut broadcast), ["invalidate", "h"]);
    // The key may expire before it is read, which counts as a change before the read.
    reader.run("GET k");
    assert_eq!(next(&mut broadcast), ["invalidate", "h"]);
    until("both have expired", || writer.number("DBSIZE") == 0);
    reader.send("PING");
    let mut words = next(&mut reader);
    if words[0] == "invalidate" {
        assert_eq!(words[1], "k");
        words = next(&mut reader);
    }
    assert_eq!(words, ["PONG"]);
    assert_eq!(server.shared().engine.tracked_keys(), 0);
}

/// Redis invalidates everything only for FLUSHALL and FLUSHDB, so that after SWAPDB its clients keep the values of another database.
#[test]
fn commands_that_change_all_keys_invalidate_everything() {
    let server = TestServer::start();
    let mut trackers: Vec<Client> = ["", "NOLOOP", "BCAST PREFIX other:"]
        .map(|options| tracker(&server, options))
        .into();
    let mut writer = server.client();
    for command in ["FLUSHALL", "FLUSHDB ASYNC", "SWAPDB 0 1"] {
        trackers[0].run("GET key");
        assert_eq!(server.shared().engine.tracked_keys(), 1);
        assert_eq!(writer.run(command), "OK");
        assert_eq!(server.shared().engine.tracked_keys(), 0);
        for client in &mut trackers {
            assert_eq!(next(client), ["invalidate"]);
        }
    }
    // A client's own commands, too.
    for place in 0..trackers.len() {
        assert_eq!(trackers[place].run("FLUSHALL"), "OK");
        for client in &mut trackers {
            assert_eq!(next(client), ["invalidate"]);
        }
    }
}

/// A client gets invalidations for its own changes after the replies of the commands, wherever those are written.
#[test]
fn invalidations_for_own_changes_come_after_the_replies() {
    let server = TestServer::start();
    let mut writer = server.client();
    let mut client = tracker(&server, "");
    let mut requests = Vec::new();
    for command in [
        "GET a", "SET a 1", "GET a", "MULTI", "SET a 2", "GET a", "INCR a", "EXEC", "PING",
    ] {
        let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        write_command(&mut requests, &words);
    }
    client.send_bytes(&requests);
    let mut got = Vec::new();
    while got.last().is_none_or(|last| last != "PONG") {
        got.push(next(&mut client).join(" "));
    }
    let expected = [
        "(nil)",
        "OK",
        "invalidate a",
        "1",
        "OK",
        "QUEUED",
        "QUEUED",
        "QUEUED",
        "OK 2 (integer) 3",
        "invalidate a",
        "invalidate a",
        "PONG",
    ];
    assert_eq!(got, expected);
    // While it is blocked, another thread serves it.
    assert_eq!(client.run("LRANGE to 0 -1"), "(empty array)");
    client.send("BLMOVE from to LEFT LEFT 0");
    until("it is blocked", || {
        writer.text("CLIENT LIST").contains("flags=btU ")
    });
    assert_eq!(writer.number("RPUSH from x"), 1);
    assert_eq!(next(&mut client), ["x"]);
    assert_eq!(next(&mut client), ["invalidate", "to"]);
    assert_eq!(client.run("PING"), "PONG");
}

#[test]
fn nothing_is_left_of_clients_that_stop_tracking() {
    let server = TestServer::start();
    for end in ["CLIENT TRACKING OFF", "RESET", "QUIT"] {
        for options in ["", "OPTOUT NOLOOP", "BCAST PREFIX a PREFIX b"] {
            let mut client = tracker(&server, options);
            client.run("MGET a b c");
            assert_eq!(server.shared().tracking.count(), 1);
            client.run(end);
            until_nothing_is_left(&server);
        }
    }
}

/// The bug: when a transaction read many keys, the keys that it dropped from the tracking table were taken for changes by its client.
/// With NOLOOP the client got no invalidations for them, and kept values that would never be invalidated.
#[test]
fn noloop_clients_get_invalidations_for_keys_that_their_transaction_drops() {
    let server = TestServer::with(|config| config.tracking_table_max_keys = 1);
    let mut client = tracker(&server, "NOLOOP");
    for command in ["MULTI", "GET a", "GET b", "GET c", "EXEC"] {
        client.run(command);
    }
    client.send("PING over");
    let mut invalidated = Vec::new();
    loop {
        let message = next(&mut client);
        match &message[..] {
            [first, key] if first == "invalidate" => invalidated.push(key.clone()),
            [word] if word == "over" => break,
            _ => {}
        }
    }
    // The table may drop any two of the three.
    assert_eq!(invalidated.len(), 2, "{invalidated:?}");
}

/// The bug: while a transaction with a slow script ran, its client got invalidations at once for keys that were dropped from the
/// tracking table. They came before the reply with the values of these keys, so the client cached values that would never be
/// invalidated. The fix: they wait for the reply.
#[test]
fn invalidations_for_keys_dropped_during_a_transaction_come_after_its_reply() {
    let server = TestServer::with(|config| {
        config.threads = 1;
        config.busy_reply_threshold_ms = 1;
    });
    let (mut client, mut other) = (tracker(&server, ""), server.client());
    assert_eq!(other.run("MSET a 1 b 2"), "OK");
    for command in ["MULTI", "GET a", "GET b", "EVAL while_true 0", "EXEC"] {
        let script = "while true do redis.call('ping') end";
        let words: Vec<&str> = command
            .split(' ')
            .map(|word| if word == "while_true" { script } else { word })
            .collect();
        send(&mut client, &words);
    }
    until("it is slow", || !server.shared().scripts.slow().is_empty());
    server.change(|config| config.tracking_table_max_keys = 1);
    // The thread that runs the script handles the messages in its inbox before it replies to this.
    assert_eq!(other.run("PING"), "PONG");
    assert_eq!(other.run("SCRIPT KILL"), "OK");
    let mut got = Vec::new();
    while got.len() < 6 {
        got.push(next(&mut client));
    }
    assert_eq!(got[4][..2], ["1", "2"], "{got:?}");
    assert_eq!(got[5][0], "invalidate", "{got:?}");
}

/// The bug: each prefix was compared with each other one, so one request blocked its thread for minutes.
#[test]
fn a_client_may_track_very_many_prefixes() {
    const COUNT: usize = 200_000;
    let server = TestServer::start();
    let mut client = server.client();
    client.run("HELLO 3");
    let prefixes: Vec<String> = (0..COUNT).map(|number| format!("{number}:")).collect();
    let mut words = vec!["CLIENT", "TRACKING", "ON", "BCAST"];
    words.extend(prefixes.iter().flat_map(|prefix| ["PREFIX", prefix]));
    words.extend(["PREFIX", "199999"]);
    send(&mut client, &words);
    let refusal = "(error) ERR Prefix '199999:' overlaps with another provided prefix '199999'. Prefixes for a single client must not overlap.";
    assert_eq!(client.receive(), refusal);
    words.truncate(words.len() - 2);
    send(&mut client, &words);
    assert_eq!(client.receive(), "OK");
    send(
        &mut client,
        &["CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "4711:x"],
    );
    assert!(client.receive().contains("an existing prefix '4711:'"));
    server.client().run("SET 4711:x 1");
    assert_eq!(next(&mut client), ["invalidate", "4711:x"]);
}

/// The bug: a command on a thread for long commands tracked the keys that it had read although its client was gone, and they stayed
/// in the tracking table.
#[test]
fn nothing_is_left_of_a_client_that_is_killed_during_its_long_command() {
    let server = TestServer::start();
    let mut other = server.client();
    for chunk in 0..60 {
        let numbers: Vec<String> = (0..1000)
            .map(|number| (number * 7919 + chunk).to_string())
            .collect();
        other.run(&format!("RPUSH list {}", numbers.join(" ")));
    }
    for _ in 0..8 {
        let mut client = tracker(&server, "");
        let id = client.number("CLIENT ID");
        client.send("SORT_RO list");
        until("it runs", || {
            let list = other.text(&format!("CLIENT LIST ID {id}"));
            list.contains("cmd=sort_ro")
        });
        assert_eq!(other.number(&format!("CLIENT KILL ID {id}")), 1);
    }
    // These start later, so they end later.
    for _ in 0..4 {
        other.run("SORT_RO list LIMIT 0 1");
    }
    until_nothing_is_left(&server);
}
