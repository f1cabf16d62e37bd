//! DUMP and RESTORE of very large values: what other clients can do meanwhile, and which state the payload shows.

mod common;

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::{Client, TestServer, until};
use damselfly_config::Allow;
use damselfly_protocol::client::{Value, write_command};

const COUNT: usize = 200_000;

/// A server with one shard, so that a command that holds a lock holds up all others.
fn server() -> TestServer {
    TestServer::with(|config| {
        config.threads = 1;
        config.shards = 1;
        config.enable_debug_command = Allow::Yes;
    })
}

fn member(number: usize) -> String {
    format!("member:{number:0>20}")
}

/// Stores a set of many members.
fn fill(client: &mut Client, key: &str) {
    const AT_ONCE: usize = 1000;
    for start in (0..COUNT).step_by(AT_ONCE) {
        let members: Vec<String> = (start..start + AT_ONCE).map(member).collect();
        client.run(&format!("SADD {key} {}", members.join(" ")));
    }
}

fn bytes(value: Option<Value>) -> Vec<u8> {
    match value {
        Some(Value::Bulk(bytes)) => bytes,
        other => panic!("{other:?} is no string"),
    }
}

fn dump(client: &mut Client, key: &str) -> Vec<u8> {
    client.send(&format!("DUMP {key}"));
    bytes(client.receive_value())
}

fn send_restore(client: &mut Client, key: &str, ttl: &str, payload: &[u8], options: &[&str]) {
    let head: [&[u8]; 4] = [b"RESTORE", key.as_bytes(), ttl.as_bytes(), payload];
    let options = options.iter().map(|option| option.as_bytes());
    let words: Vec<&[u8]> = head.into_iter().chain(options).collect();
    let mut request = Vec::new();
    write_command(&mut request, &words);
    client.send_bytes(&request);
}

fn restore(client: &mut Client, key: &str, ttl: &str, payload: &[u8], options: &[&str]) -> String {
    send_restore(client, key, ttl, payload, options);
    client.receive()
}

fn digest(client: &mut Client, key: &str) -> String {
    client.run(&format!("DEBUG DIGEST-VALUE {key}"))
}

/// How often `ask` completes until `wait` returns.
fn asked_until(wait: impl FnOnce() + Send, mut ask: impl FnMut(usize)) -> usize {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            wait();
            done.store(true, SeqCst);
        });
        let mut asked = 0;
        while !done.load(SeqCst) {
            ask(asked);
            asked += 1;
        }
        asked
    })
}

#[test]
fn clients_of_the_same_shard_are_served_while_a_large_value_is_dumped_or_restored() {
    let server = server();
    let (mut client, mut other) = (server.client(), server.client());
    // A list whose payload is small, so that little time is spent on sending it.
    let elements = vec!["x".repeat(200); 1000].join(" ");
    for _ in 0..40 {
        client.run(&format!("RPUSH list {elements}"));
    }
    let payload = dump(&mut client, "list");
    // It fits into the buffer of a socket.
    assert!(payload.len() < 200_000, "{}", payload.len());
    let is_served = |client: &mut Client, other: &mut Client, send: &dyn Fn(&mut Client)| {
        let tries = (0..20).map(|_| {
            send(other);
            let (started, mut longest) = (Instant::now(), Duration::ZERO);
            let received = || assert!(!matches!(other.receive_value(), Some(Value::Error(_))));
            asked_until(received, |_| {
                let asked = Instant::now();
                assert_eq!(client.run("SET other value"), "OK");
                longest = longest.max(asked.elapsed());
            });
            longest < started.elapsed() / 2
        });
        // If the shard or the thread were not free until the reply is there, one wait would be as long as the command. On a busy
        // machine this may happen by chance, or something else may take longer than the command.
        tries.filter(|served| *served).take(4).count() == 4
    };
    assert!(is_served(&mut client, &mut other, &|other| {
        other.send("DUMP list");
    }));
    assert!(is_served(&mut client, &mut other, &|other| {
        send_restore(other, "copy", "0", &payload, &["REPLACE"]);
    }));
    assert_eq!(digest(&mut client, "list"), digest(&mut client, "copy"));
}

#[test]
fn the_payload_of_a_large_value_shows_one_moment() {
    let server = server();
    let (mut client, mut other) = (server.client(), server.client());
    fill(&mut client, "set");
    let mut payload = Vec::new();
    other.send("DUMP set");
    let received = || payload = bytes(other.receive_value());
    let count = asked_until(received, |n| {
        assert_eq!(client.number(&format!("SREM set {}", member(n))), 1);
    });
    assert_eq!(restore(&mut client, "copy", "0", &payload, &[]), "OK");
    // Members were removed in order, so those that the payload lacks are the first ones.
    let lacks = COUNT - client.number("SCARD copy") as usize;
    assert!(lacks <= count, "{lacks} {count}");
    let has = |client: &mut Client, n| client.number(&format!("SISMEMBER copy {}", member(n))) == 1;
    assert!((0..lacks).all(|n| !has(&mut client, n)));
    assert!(has(&mut client, lacks));
    assert_eq!(client.number("SCARD set") as usize, COUNT - count);
}

#[test]
fn a_large_payload_is_checked_like_a_small_one() {
    let server = server();
    let (mut client, mut other) = (server.client(), server.client());
    let push: Vec<String> = (0..COUNT).map(|n| format!("element:{n}")).collect();
    client.run(&format!("RPUSH list {}", push.join(" ")));
    let payload = dump(&mut client, "list");
    let expected = digest(&mut client, "list");
    let is = |reply: String, text: &str| assert!(reply.contains(text), "{reply}");
    is(restore(&mut client, "list", "0", &payload, &[]), "BUSYKEY");
    let mut damaged = payload.clone();
    damaged[1000] ^= 1;
    let wrong = "DUMP payload version or checksum are wrong";
    is(restore(&mut client, "new", "0", &damaged, &[]), wrong);
    is(
        restore(&mut client, "list", "0", &damaged, &["REPLACE"]),
        wrong,
    );
    is(
        restore(&mut client, "new", "-1", &payload, &[]),
        "Invalid TTL",
    );
    is(restore(&mut client, "new", "0", &payload, &["X"]), "syntax");
    assert_eq!(client.number("EXISTS new"), 0);
    assert_eq!(digest(&mut client, "list"), expected);
    // A deadline in the past removes the key.
    let past = ["ABSTTL", "REPLACE"];
    assert_eq!(restore(&mut client, "list", "1", &payload, &past), "OK");
    assert_eq!(client.number("EXISTS list"), 0);
    // Clients that wait for the key, or watch it.
    other.send("BLPOP list 0");
    until("the client is blocked", || {
        client.text("INFO clients").contains("blocked_clients:1")
    });
    let mut watcher = server.client();
    watcher.run("WATCH list");
    let future = ["ABSTTL"];
    let reply = restore(&mut client, "list", "9999999999999", &payload, &future);
    assert_eq!(reply, "OK");
    assert!(other.receive().contains("element:0"));
    watcher.run("MULTI");
    watcher.run("LLEN list");
    is(watcher.run("EXEC"), "nil");
    assert_eq!(client.number("LLEN list"), COUNT as i64 - 1);
    assert_eq!(client.number("PEXPIRETIME list"), 9_999_999_999_999);
    // In a transaction, all commands run at once.
    client.run("MULTI");
    is(
        restore(&mut client, "list", "0", &payload, &["REPLACE"]),
        "QUEUED",
    );
    client.run("LLEN list");
    client.run("DUMP list");
    client.send("EXEC");
    let Some(Value::Array(replies)) = client.receive_value() else {
        panic!("no replies");
    };
    assert_eq!(replies[1], Value::Integer(COUNT as i64));
    assert_eq!(replies[2], Value::Bulk(payload));
    assert_eq!(digest(&mut client, "list"), expected);
}
