//! Commands on very large collections: how long other clients wait for them, and how much memory their replies take.

mod common;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::{Client, TestServer, until};
use damselfly_config::Allow;
use damselfly_protocol::client::Value;

const COUNT: usize = 200_000;

/// Sends a command with numbered members, many per request.
fn fill(client: &mut Client, command: &str, member: impl Fn(usize) -> String) {
    const AT_ONCE: usize = 1000;
    for start in (0..COUNT).step_by(AT_ONCE) {
        let members: Vec<String> = (start..start + AT_ONCE).map(&member).collect();
        client.run(&format!("{command} {}", members.join(" ")));
    }
}

/// A long member, so that all together are many times the size of a slice of a reply.
fn member(number: usize) -> String {
    format!("member:{number:0>60}")
}

fn texts(value: Value) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::Bulk(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        other => panic!("{other:?} is no text"),
    };
    match value {
        Value::Array(values) | Value::Set(values) => values.iter().map(text).collect(),
        other => panic!("{other:?} is no list"),
    }
}

/// Bytes of replies that the client of this name has not received.
fn waiting_bytes(client: &mut Client, name: &str) -> usize {
    let list = client.text("CLIENT LIST");
    let line = list.lines().find(|line| line.contains(name)).unwrap();
    let field = line.split(' ').find(|field| field.starts_with("omem="));
    field.unwrap()["omem=".len()..].parse().unwrap()
}

#[test]
fn long_replies_take_little_memory_and_are_snapshots() {
    let server = TestServer::with(|config| config.threads = 1);
    let mut client = server.client();
    fill(&mut client, "SADD set", member);
    fill(&mut client, "RPUSH list", member);
    fill(&mut client, "HSET hash", |n| format!("{} {n}", member(n)));
    fill(&mut client, "ZADD sorted", |n| format!("{n} {}", member(n)));
    let all: Vec<String> = (0..COUNT).map(member).collect();
    for (name, command, in_order) in [
        ("reader1", "SMEMBERS set", false),
        ("reader2", "HKEYS hash", false),
        ("reader3", "LRANGE list 0 -1", true),
        ("reader4", "ZRANGE sorted 0 -1", true),
        ("reader5", "SORT list ALPHA", true),
    ] {
        let mut reader = server.client();
        assert_eq!(reader.run(&format!("CLIENT SETNAME {name}")), "OK");
        let before = client.number("MEMORY USAGE set");
        assert!(before > 10_000_000);
        reader.send(command);
        until("the reply has begun", || {
            waiting_bytes(&mut client, name) > 0
        });
        // The whole reply is more than ten million bytes.
        assert!(waiting_bytes(&mut client, name) < 1_000_000, "{command}");
        // None of these changes affects a reply that has begun.
        client.run("SREM set member:0");
        fill(&mut client, "SREM set", member);
        client.run("HDEL hash f");
        client.run(&format!("HDEL hash {}", member(7)));
        client.run("LSET list 1000 other");
        client.run("LPOP list 10");
        client.run(&format!("ZREM sorted {}", member(9)));
        let mut seen = texts(reader.receive_value().unwrap());
        if !in_order {
            seen.sort();
        }
        assert!(seen == all, "{command}");
        assert_eq!(reader.run("PING"), "PONG");
        fill(&mut client, "SADD set", member);
        client.run("DEL list");
        client.run(&format!("HSET hash {} 7", member(7)));
        fill(&mut client, "RPUSH list", member);
        client.run(&format!("ZADD sorted 9 {}", member(9)));
    }
}

#[test]
fn other_clients_of_the_thread_are_served_during_a_long_command() {
    let server = TestServer::with(|config| {
        config.threads = 1;
        config.shards = 64;
    });
    let mut client = server.client();
    fill(&mut client, "SADD {a}set", |n| format!("a{n}"));
    fill(&mut client, "SADD {b}set", |n| format!("b{n}"));
    fill(&mut client, "RPUSH list", |n| format!("element{n}"));
    fill(&mut client, "ZADD sorted", |n| format!("{n} a{n}"));
    fill(&mut client, "GEOADD places", |n| {
        format!("{} 50 a{n}", n % 170)
    });
    // Sixty-four megabytes.
    assert_eq!(client.number("SETBIT bitmap 536870911 1"), 0);
    for command in [
        "BITCOUNT bitmap",
        "BITPOS bitmap 1",
        "BITOP NOT inverse bitmap",
        "GEOSEARCH places FROMLONLAT 0 0 BYRADIUS 30000 km COUNT 1",
        "GEOSEARCHSTORE near places FROMLONLAT 0 0 BYRADIUS 30000 km",
        "SUNION {a}set {b}set",
        "SUNIONSTORE union {a}set {b}set",
        "SINTERCARD 2 {a}set {b}set",
        "ZUNIONSTORE union 2 sorted {a}set",
        "LREM list 0 nothing",
        "LPOS list nothing",
        "SRANDMEMBER {a}set -100000",
        "SORT list BY w_* GET # GET o_* DESC ALPHA",
    ] {
        // If the command blocked its thread, one request would be answered before it and one after it, however often this is
        // tried. On a busy machine, the command may end before this thread gets its turn.
        let mut tries = (0..20).map(|_| answered_during(&server, &mut client, command));
        assert!(tries.any(|answered| answered > 10), "{command}");
    }
}

/// How many requests of one client are answered while the command of another one runs.
fn answered_during(server: &TestServer, client: &mut Client, command: &str) -> usize {
    let mut other = server.client();
    other.send(command);
    let reply = || assert!(other.receive_value().is_some());
    answered_until(reply, || assert_eq!(client.run("PING"), "PONG"))
}

#[test]
fn the_thread_of_a_command_on_many_keys_arguments_or_bytes_serves_others() {
    let server = TestServer::with(|config| {
        config.threads = 1;
        config.shards = 64;
    });
    let mut client = server.client();
    fill(&mut client, "MSET", |n| format!("key{n} {n}"));
    client.run(&format!("SET {{a}}text {}", "ab".repeat(2000)));
    client.run(&format!("SET {{b}}text {}", "ba".repeat(2000)));
    let fields: Vec<String> = (0..COUNT).map(|n| format!("field{n} {n}")).collect();
    for command in [
        "SCAN 0 MATCH *0*1*2*3*4*5*6* COUNT 1000000",
        "KEYS *0*1*2*3*4*5*6*",
        "LCS {a}text {b}text",
        &format!("HSET hash {}", fields.join(" ")),
    ] {
        let name = command.split(' ').next().unwrap();
        assert!(
            answers_while_computing(&server, &mut client, command, "PING"),
            "{name}"
        );
    }
}

/// How often `ask` completes until `wait` returns.
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

/// The weight that [`fill_weighted`] gives to a number. Each weight occurs once, because the factor and the count are coprime.
fn weight(number: usize) -> usize {
    number * 7919 % COUNT
}

/// A list of numbers, and for each of them two keys.
fn fill_weighted(client: &mut Client) {
    fill(client, "RPUSH list", |n| n.to_string());
    fill(client, "MSET", |n| {
        format!("w_{n} {} o_{n} {}", member(weight(n)), member(n))
    });
}

/// The numbers in the order of their weights.
fn weighted() -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..COUNT).collect();
    numbers.sort_by_key(|&n| weight(n));
    numbers
}

#[test]
fn the_reply_of_a_long_sort_is_a_snapshot() {
    let server = TestServer::with(|config| config.threads = 2);
    let (mut client, mut reader) = (server.client(), server.client());
    fill_weighted(&mut client);
    assert_eq!(reader.run("CLIENT SETNAME reader"), "OK");
    reader.send("SORT list BY w_* GET o_* ALPHA");
    until("the reply has begun", || {
        waiting_bytes(&mut client, "reader") > 0
    });
    // The whole reply is more than ten million bytes.
    assert!(waiting_bytes(&mut client, "reader") < 1_000_000);
    // None of these changes affects a reply that has begun.
    fill(&mut client, "MSET", |n| format!("w_{n} 0 o_{n} new"));
    client.run("DEL list");
    let expected: Vec<String> = weighted().into_iter().map(member).collect();
    assert!(texts(reader.receive_value().unwrap()) == expected);
}

#[test]
fn no_other_shard_is_locked_while_a_long_sort_sorts() {
    let server = TestServer::with(|config| {
        config.threads = 2;
        config.shards = 64;
    });
    let shard = |name: &str| damselfly_base::hash(name.as_bytes()) >> (64 - 6);
    let is_apart = |name: &String| {
        ["list", "sorted"]
            .iter()
            .all(|key| shard(key) != shard(name))
    };
    let other = (0..).map(|n| format!("other{n}")).find(is_apart).unwrap();
    let mut client = server.client();
    fill_weighted(&mut client);
    client.run(&format!("SET {other} text"));
    for command in [
        "SORT list BY w_* ALPHA",
        "SORT list BY w_* GET o_* ALPHA STORE sorted",
    ] {
        let question = format!("GET {other}");
        assert!(
            answers_while_computing(&server, &mut client, command, &question),
            "{command}"
        );
    }
    client.send("LRANGE sorted 0 -1");
    let sorted = texts(client.receive_value().unwrap());
    let expected: Vec<String> = weighted().into_iter().map(member).collect();
    assert!(sorted == expected);
}

/// True if `question` is answered again and again while `command`, which should take tens of milliseconds, computes its reply.
fn answers_while_computing(
    server: &TestServer,
    client: &mut Client,
    command: &str,
    question: &str,
) -> bool {
    let answered = (0..20).map(|_| {
        let mut reader = server.client();
        reader.send(command);
        let (started, mut longest) = (Instant::now(), Duration::ZERO);
        let begun = || reader.await_some();
        answered_until(begun, || {
            let asked = Instant::now();
            client.text(question);
            longest = longest.max(asked.elapsed());
        });
        let took = started.elapsed();
        assert!(reader.receive_value().is_some());
        longest < took / 2
    });
    // If the question's shard or thread were not free until the reply is there, one wait would be as long as the command. On a busy
    // machine this may happen by chance, or something else may take longer than the command.
    answered.filter(|answered| *answered).take(4).count() == 4
}

#[test]
fn commands_that_only_read_large_collections_compute_without_their_locks() {
    let server = TestServer::with(|config| config.threads = 2);
    let mut client = server.client();
    fill(&mut client, "SADD set", |n| format!("a{n}"));
    fill(&mut client, "SADD others", |n| {
        format!("a{}", n + COUNT / 2)
    });
    fill(&mut client, "HSET hash", |n| format!("a{n} {n}"));
    fill(&mut client, "ZADD sorted", |n| format!("{n} a{n}"));
    for command in [
        &format!("SINTERCARD 21{}", " set".repeat(21)),
        "ZUNION 2 sorted set",
        "ZINTER 2 sorted set",
        "ZDIFF 2 sorted others",
        &format!("ZINTERCARD 11{}", " sorted".repeat(11)),
        "SRANDMEMBER set -1000000",
        "HRANDFIELD hash 190000",
        "HRANDFIELD hash -500000",
        "ZRANDMEMBER sorted 190000",
        "ZRANDMEMBER sorted -500000",
        "SSCAN set 0 MATCH *0*1*2*3*4*5* COUNT 200000",
        "HSCAN hash 0 COUNT 200000",
        "ZSCAN sorted 0 COUNT 200000",
    ] {
        let key = command
            .split(' ')
            .find(|word| ["set", "hash", "sorted"].contains(word));
        let question = format!("TYPE {}", key.unwrap());
        assert!(
            answers_while_computing(&server, &mut client, command, &question),
            "{command}"
        );
    }
}

#[test]
fn a_change_to_a_collection_that_a_long_command_reads_waits_only_for_its_lock() {
    let server = TestServer::with(|config| config.threads = 2);
    let mut client = server.client();
    fill(&mut client, "SADD a", |n| format!("a{n}"));
    fill(&mut client, "SADD b", |n| format!("b{n}"));
    let mut reader = server.client();
    for round in 0..5 {
        reader.send("SUNION a b");
        client.run(&format!("SADD a more{round}"));
        let seen: BTreeSet<String> = texts(reader.receive_value().unwrap()).into_iter().collect();
        let len = seen.len();
        assert!(
            len == 2 * COUNT + round || len == 2 * COUNT + round + 1,
            "{len} members in round {round}"
        );
    }
}

#[test]
fn events_that_a_long_command_causes_are_published_once() {
    let server = TestServer::with(|config| {
        config.threads = 1;
        config.enable_debug_command = Allow::Yes;
    });
    let (mut client, mut waiter) = (server.client(), server.client());
    fill(&mut client, "SADD set", |n| format!("a{n}"));
    // A stream whose expiry only the command notices.
    client.run("DEBUG SET-ACTIVE-EXPIRE 0");
    client.run("XGROUP CREATE stream group $ MKSTREAM");
    let id = waiter.number("CLIENT ID");
    waiter.send("XREADGROUP GROUP group me BLOCK 0 STREAMS stream >");
    until("it waits", || {
        client
            .text(&format!("CLIENT LIST ID {id}"))
            .contains(" flags=bU ")
    });
    client.run("CONFIG SET notify-keyspace-events Emx");
    let mut subscriber = server.client();
    subscriber.run("PSUBSCRIBE __keyevent@0__:*");
    client.run("PEXPIRE stream 1");
    client.run("SET other x PX 2");
    until("the other key has expired, and so has the stream", || {
        client.number("EXISTS other") == 0
    });
    assert_eq!(client.number("SINTERCARD 3 missing stream set"), 0);
    let gone = waiter.receive();
    assert!(gone.starts_with("(error) NOGROUP"), "{gone}");
    client.run("GET last");
    let mut events = Vec::new();
    while events.last().is_none_or(|event| event != "keymiss last") {
        let message = texts(subscriber.receive_value().unwrap());
        let event = message[2].rsplit(':').next().unwrap();
        events.push(format!("{event} {}", message[3]));
    }
    let count = |event: &str| events.iter().filter(|other| *other == event).count();
    assert_eq!(count("keymiss missing"), 1, "{events:?}");
    assert_eq!(count("expired stream"), 1, "{events:?}");
}

/// The bug: DEBUG DIGEST held all locks, and its thread, while it computed: two microseconds for each key. Now it runs elsewhere and
/// locks one shard at a time.
#[test]
fn a_digest_of_all_keys_keeps_nobody_waiting() {
    let server = TestServer::with(|config| {
        config.threads = 2;
        config.enable_debug_command = Allow::Yes;
    });
    let mut client = server.client();
    fill(&mut client, "MSET", |n| format!("key{n} {n}"));
    fill(&mut client, "SADD set", |n| format!("a{n}"));
    client.run(&format!("SET long {}", "ab".repeat(5000)));
    client.run("SELECT 3");
    client.run("SET other 1");
    assert!(answers_while_computing(
        &server,
        &mut client,
        "DEBUG DIGEST",
        "GET other"
    ));
    let digest = client.text("DEBUG DIGEST");
    // In a transaction it is computed at once, under all locks.
    assert_eq!(client.run("MULTI"), "OK");
    client.run("DEBUG DIGEST");
    assert_eq!(client.run("EXEC"), format!("1) {digest}"));
}

/// The bug: a client that watched very many keys, or stopped watching them, kept its thread and, in EXEC, the locks of all those keys
/// for a microsecond for each. Now WATCH of many keys gives others a turn, and another thread forgets them.
#[test]
fn watching_very_many_keys_keeps_nobody_waiting() {
    let server = TestServer::with(|config| config.threads = 1);
    let mut client = server.client();
    let keys: Vec<String> = (0..COUNT).map(|n| format!("key{n}")).collect();
    let watch = format!("WATCH {}", keys.join(" "));
    let watched = || server.shared().engine.watched_count();
    for end in ["UNWATCH", "EXEC", "DISCARD", "RESET", ""] {
        let mut tries = (0..20).map(|_| {
            let mut watcher = server.client();
            watcher.send(&watch);
            let begun = || assert_eq!(watcher.receive(), "OK");
            let while_watching = answered_until(begun, || assert_eq!(client.run("PING"), "PONG"));
            assert_eq!(watched(), COUNT);
            if matches!(end, "EXEC" | "DISCARD") {
                watcher.run("MULTI");
            }
            match end {
                "" => drop(watcher),
                _ => watcher.send(end),
            }
            let ended = || until("they are forgotten", || watched() == 0);
            let while_forgetting = answered_until(ended, || assert_eq!(client.run("PING"), "PONG"));
            (while_watching, while_forgetting)
        });
        // With the thread held up, one would be answered before and one after it.
        assert!(
            tries.any(|(watching, forgetting)| watching > 5 && forgetting > 5),
            "{end}"
        );
    }
}

#[test]
fn very_many_keys_are_watched_and_forgotten_reliably() {
    let server = TestServer::start();
    let (mut watcher, mut other) = (server.client(), server.client());
    let keys: Vec<String> = (0..COUNT / 4).map(|n| format!("key{n}")).collect();
    let watch = format!("WATCH {}", keys.join(" "));
    for changed in [0, 1023, 1024, 16_383, 16_384, keys.len() - 1, keys.len()] {
        // The second time nothing is changed, and what is forgotten of the first does not count.
        for is_changed in [true, false] {
            assert_eq!(watcher.run(&watch), "OK");
            if is_changed {
                assert_eq!(other.run(&format!("SET key{changed} 1")), "OK");
            }
            watcher.run("MULTI");
            watcher.run("PING");
            let broken = is_changed && changed < keys.len();
            let expected = if broken { "(nil)" } else { "1) PONG" };
            assert_eq!(watcher.run("EXEC"), expected, "{changed}");
        }
    }
}

/// The bug: SRANDMEMBER and ZRANDMEMBER with a hugely negative count built half a gigabyte before they refused, and HRANDFIELD had a
/// limit on the number of fields only, not on their bytes. Now a count that is certainly too large is refused at once, and all three
/// have the same limit.
#[test]
fn random_members_that_repeat_have_a_limit_in_bytes() {
    const MIB: usize = 1 << 20;
    const TOO_LONG: &str = "(error) ERR reply exceeds proto-max-bulk-len";
    let server = TestServer::with(|config| config.threads = 1);
    let mut client = server.client();
    client.run("SADD set a");
    client.run("HSET hash a 1");
    client.run("ZADD sorted 1 a");
    let peak = |client: &mut Client| {
        let info = client.text("INFO memory");
        let line = info
            .lines()
            .find(|line| line.starts_with("used_memory_peak:"));
        let (_, bytes) = line.unwrap().split_once(':').unwrap();
        bytes.parse::<usize>().unwrap()
    };
    let before = peak(&mut client);
    for command in ["SRANDMEMBER set", "HRANDFIELD hash", "ZRANDMEMBER sorted"] {
        for count in [100_000_000, i64::MAX] {
            assert_eq!(client.run(&format!("{command} -{count}")), TOO_LONG);
        }
    }
    assert!(peak(&mut client) < before + 100 * MIB);
    let info = client.text("INFO errorstats");
    assert!(info.contains("errorstat_ERR:count=6\r\n"), "{info}");

    client.run("CONFIG SET proto-max-bulk-len 1mb");
    let long = "x".repeat(100_000);
    client.run(&format!("SADD long-set {long}"));
    client.run(&format!("HSET long-hash {long} 1"));
    client.run(&format!("ZADD long-sorted 1 {long}"));
    for command in [
        "SRANDMEMBER long-set",
        "HRANDFIELD long-hash",
        "ZRANDMEMBER long-sorted",
    ] {
        assert_eq!(client.run(&format!("{command} -11")), TOO_LONG);
        let all = client.run(&format!("{command} -10"));
        assert_eq!(all.matches(&long).count(), 10, "{command}");
    }
    assert_eq!(
        client.run("SRANDMEMBER missing -100000000"),
        "(empty array)"
    );
}

/// The bug: with a high limit for the sparse form, the self-test ran for minutes, and other long commands waited for it.
#[test]
fn the_self_test_of_hyperloglogs_takes_no_longer_with_a_high_limit_for_the_sparse_form() {
    let server = TestServer::start();
    let mut client = server.client();
    client.run("CONFIG SET hll-sparse-max-bytes 1000000000");
    assert_eq!(client.run("PFSELFTEST"), "OK");
}
