//! Keyspace notifications of commands that Redis 7.0 does not have, and of keys that expire without an access;
//! `crates/oracle/tests/notifications.rs` compares the rest with a real Redis.

mod common;

use common::{Client, TestServer};

/// A server that publishes events, and a client that has subscribed to all of them.
fn with_subscriber(letters: &str) -> (TestServer, Client) {
    let server = TestServer::start();
    let mut subscriber = server.client();
    subscriber.run(&format!("CONFIG SET notify-keyspace-events {letters}"));
    subscriber.run("PSUBSCRIBE __key*");
    (server, subscriber)
}

/// The next event: its channel and its payload.
fn next_event(subscriber: &mut Client) -> String {
    let text = subscriber.receive();
    let words: Vec<&str> = text.lines().skip(2).collect();
    words
        .iter()
        .map(|word| word[3..].trim().trim_matches('"'))
        .collect::<Vec<_>>()
        .join(" ")
}

#[test]
fn hash_field_commands_raise_events() {
    let (server, mut subscriber) = with_subscriber("EA");
    let mut client = server.client();
    for (command, events) in [
        ("HSET h a 1 b 2 c 3", &["hset"][..]),
        ("HEXPIRE h 100 FIELDS 1 nosuch", &[]),
        ("HEXPIRE h 100 FIELDS 2 a b", &["hexpire"]),
        ("HEXPIRE h 100 NX FIELDS 1 a", &[]),
        ("HPERSIST h FIELDS 2 a c", &["hpersist"]),
        ("HPERSIST h FIELDS 1 a", &[]),
        ("HPEXPIRE h 0 FIELDS 1 a", &["hdel"]),
        ("HGETEX h PERSIST FIELDS 1 b", &["hpersist"]),
        ("HGETEX h EX 100 FIELDS 2 b c", &["hexpire"]),
        ("HGETEX h FIELDS 1 b", &[]),
        ("HGETDEL h FIELDS 2 nosuch b", &["hdel"]),
        ("HGETDEL h FIELDS 1 c", &["hdel", "del"]),
        ("HSETEX h EX 100 FIELDS 1 a 1", &["hset", "hexpire"]),
        ("HSETEX h FNX FIELDS 1 a 1", &[]),
        ("HSETEX h KEEPTTL FIELDS 1 a 2", &["hset"]),
        ("HEXPIREAT h 1 FIELDS 1 a", &["hdel", "del"]),
        ("HSETEX h PXAT 1 FIELDS 1 a 1", &["hset", "hdel", "del"]),
    ] {
        client.run(command);
        // No further event comes before these.
        client.run("SADD end 1");
        client.run("DEL end");
        for event in events {
            let expected = format!("__keyevent@0__:{event} h");
            assert_eq!(next_event(&mut subscriber), expected, "{command}");
        }
        for event in ["sadd", "del"] {
            let expected = format!("__keyevent@0__:{event} end");
            assert_eq!(next_event(&mut subscriber), expected, "{command}");
        }
    }
}

#[test]
fn keys_and_fields_expire_with_events_without_an_access() {
    let (server, mut subscriber) = with_subscriber("Ehxg");
    let mut client = server.client();
    client.run("SELECT 2");
    client.run("SET key value PX 1");
    assert_eq!(next_event(&mut subscriber), "__keyevent@2__:expire key");
    assert_eq!(next_event(&mut subscriber), "__keyevent@2__:expired key");
    client.run("HSETEX hash PX 1 FIELDS 1 ends 1");
    for event in ["hset", "hexpire", "hexpired", "del"] {
        assert_eq!(
            next_event(&mut subscriber),
            format!("__keyevent@2__:{event} hash")
        );
    }
    client.run("HSETEX hash FIELDS 1 stays 1");
    client.run("HSETEX hash PX 1 FIELDS 1 ends 1");
    for event in ["hset", "hset", "hexpire", "hexpired"] {
        assert_eq!(
            next_event(&mut subscriber),
            format!("__keyevent@2__:{event} hash")
        );
    }
    assert!(subscriber.has_nothing());
}

/// The events are far more than may be in transit to a thread: clients that cause events wait until they are delivered.
#[test]
fn no_event_is_lost_if_there_are_many() {
    const ROUNDS: usize = 5;
    const KEYS: usize = 12_000;
    let (server, mut subscriber) = with_subscriber("K$");
    let name = |number: usize| format!("key:{number:060}");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = server.client();
            for round in 0..ROUNDS {
                let set = |number: usize| {
                    let key = name(round * KEYS + number);
                    format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n$1\r\nx\r\n", key.len())
                };
                let requests: String = (0..KEYS).map(set).collect();
                client.send_bytes(requests.as_bytes());
                (0..KEYS).for_each(|_| assert_eq!(client.receive(), "OK"));
            }
        });
        for number in 0..ROUNDS * KEYS {
            let expected = format!("__keyspace@0__:{} set", name(number));
            assert_eq!(next_event(&mut subscriber), expected);
        }
    });
}

/// The bug: messages that a transaction or a script published arrived before the events of its earlier changes.
#[test]
fn messages_published_between_changes_arrive_between_their_events() {
    let server = TestServer::with(|config| config.notify_keyspace_events = "E$".into());
    let (mut client, mut subscriber) = (server.client(), server.client());
    subscriber.run("SUBSCRIBE news");
    subscriber.run("SUBSCRIBE __keyevent@0__:set");
    let script = "for i = 1, 3 do redis.call('SET', 'set' .. i, 1); redis.call('PUBLISH', 'news', 'published' .. i) end";
    for is_script in [false, true] {
        if is_script {
            client.run_words(&["EVAL", script, "0"]);
        } else {
            client.run("MULTI");
            for number in 1..=3 {
                client.run(&format!("SET set{number} 1"));
                client.run(&format!("PUBLISH news published{number}"));
            }
            client.run("EXEC");
        }
        for number in 1..=3 {
            for what in ["set", "published"] {
                let (message, wanted) = (subscriber.receive(), format!("\"{what}{number}\""));
                assert!(message.ends_with(&wanted), "{message} instead of {wanted}");
            }
        }
    }
}
