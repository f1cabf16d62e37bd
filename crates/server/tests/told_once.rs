//! A script that waits for a lock, or is rolled back and runs again, is shown once: to monitors, in events and in statistics.

mod common;

use common::{Client, TestServer, until};

use std::sync::atomic::Ordering::Relaxed;

use damselfly_engine::{Key, Now, Tx};

/// Takes the lock of a key's shard.
fn lock<'s>(server: &'s TestServer, key: &str) -> Tx<'s> {
    let engine = &server.shared().engine;
    let tx = engine.lock_one(Key::new(key.as_bytes()).hash, 0, Now(0));
    tx.expect("no other client uses the shard")
}

/// Two keys in different shards.
fn keys_apart(server: &TestServer) -> (String, String) {
    let engine = &server.shared().engine;
    let shard = |key: &str| engine.shard_of(damselfly_base::hash(key.as_bytes()));
    let mut others = (0..).map(|number| format!("other{number}"));
    let other = others.find(|other| shard(other) != shard("key"));
    (String::from("key"), other.unwrap())
}

/// The lines that a monitor is shown before the command `last`.
fn shown_before(monitor: &mut Client, last: &str) -> Vec<String> {
    let lines = std::iter::from_fn(|| Some(monitor.receive()));
    lines.take_while(|line| !line.contains(last)).collect()
}

/// The bug: monitors were shown a script again with every attempt to take its locks.
#[test]
fn monitors_are_shown_a_script_that_waits_for_a_lock_once() {
    let server = TestServer::start();
    let (mut client, mut monitor) = (server.client(), server.client());
    let id = client.number("CLIENT ID");
    monitor.run("MONITOR");
    let held = lock(&server, "key");
    client.send_words(&["EVAL", "return redis.call('GET', KEYS[1])", "1", "key"]);
    let mut observer = server.client();
    until("it waits", || {
        let list = observer.text(&format!("CLIENT LIST ID {id}"));
        list.contains(" cmd=eval ")
    });
    drop(held);
    assert_eq!(client.receive(), "(nil)");
    client.run("ECHO over");
    let shown = shown_before(&mut monitor, "over");
    let of_script: Vec<_> = shown.iter().filter(|line| line.contains("GET")).collect();
    assert_eq!(of_script.len(), 2, "{shown:?}");
    assert!(of_script[0].contains("EVAL") && of_script[1].contains("lua"));
}

/// The bugs: when a script ran again, the commands that only read, up to its first change, were shown and counted again, and so were
/// refused commands.
#[test]
fn a_script_that_is_rolled_back_is_shown_once() {
    for writes in ["", "redis.call('SET', KEYS[1], 1); "] {
        let server = TestServer::with(|config| config.notify_keyspace_events = "Em".into());
        let (first, other) = keys_apart(&server);
        let (mut client, mut monitor, mut subscriber) =
            (server.client(), server.client(), server.client());
        monitor.run("MONITOR");
        subscriber.run("SUBSCRIBE __keyevent@0__:keymiss");
        let script = format!(
            "redis.call('GET', KEYS[1]); redis.pcall('GET'); {writes}return redis.call('GET', ARGV[1])"
        );
        let held = lock(&server, &other);
        client.send_words(&["EVAL", &script, "1", &first, &other]);
        let undone = &server.shared().scripts.counts.undone;
        until("it is rolled back", || undone.load(Relaxed) == 1);
        drop(held);
        assert_eq!(client.receive(), "(nil)");
        client.run("GET last");
        let messages: Vec<String> = std::iter::from_fn(|| Some(subscriber.receive()))
            .take_while(|message| !message.contains("last"))
            .collect();
        assert_eq!(messages.len(), 2, "{messages:?}");
        let shown = shown_before(&mut monitor, "last");
        let count = |what: &str| shown.iter().filter(|line| line.contains(what)).count();
        assert_eq!((count("EVAL"), count("lua] \"GET\"")), (1, 2), "{shown:?}");
        let info = client.text("INFO all");
        let calls = |row: &str| info.lines().find(|line| line.starts_with(row)).unwrap();
        let get = calls("cmdstat_get:");
        assert!(
            get.contains("calls=3,") && get.contains("rejected_calls=1,"),
            "{get}"
        );
        assert!(calls("errorstat_ERR:").ends_with("count=1"), "{info}");
        assert!(calls("keyspace_misses:").ends_with(":3"), "{info}");
    }
}

/// The bugs: while a script was slow, its lines were sent together with those of the clients that had turns meanwhile, as if they
/// were lines of those clients. So a monitor missed them if it sent a command itself. In a transaction, the script's lines came
/// before those of the transaction's other commands.
#[test]
fn a_monitor_sees_a_slow_script_even_if_it_sends_commands_itself() {
    // Enough calls that they are shown before the script ends.
    const SLOW: &str = "redis.call('GET', 'key'); for i = 1, 1100 do redis.call('ECHO', 'echo') end; while true do end";
    let server = TestServer::with(|config| {
        config.threads = 1;
        config.busy_reply_threshold_ms = 20;
    });
    let (mut client, mut monitor) = (server.client(), server.client());
    for is_transaction in [false, true] {
        monitor.run("MONITOR");
        if is_transaction {
            client.run("MULTI");
            client.run("TYPE before");
        }
        client.send_words(&["EVAL", SLOW, "0"]);
        if is_transaction {
            client.send("EXEC");
        }
        until("it is slow", || server.shared().scripts.slow().len() == 1);
        monitor.send("PING over");
        let shown = shown_before(&mut monitor, "over");
        let place = |what: &str| shown.iter().position(|line| line.contains(what));
        let places = [place("EVAL"), place("lua] \"GET\""), place("lua] \"ECHO\"")];
        assert!(places.iter().all(Option::is_some), "{places:?}");
        assert!(places.is_sorted(), "{places:?}");
        assert!(!is_transaction || place("TYPE") < place("EVAL"));
        assert_eq!(server.client().run("SCRIPT KILL"), "OK");
        monitor = server.client();
        until("it has ended", || server.shared().scripts.slow().is_empty());
        client = server.client();
    }
}

/// The bug: while a script could still be rolled back, its events used unbounded memory.
#[test]
fn a_script_that_causes_many_events_does_not_keep_them_all() {
    let server = TestServer::with(|config| config.notify_keyspace_events = "Em$".into());
    let mut client = server.client();
    for command in ["INCR", "GET"] {
        let script = format!("for i = 1, 20000 do redis.call('{command}', KEYS[1]) end");
        assert_eq!(client.run_words(&["EVAL", &script, "1", "key"]), "(nil)");
        let irrevocable = &server.shared().scripts.counts.irrevocable;
        assert_eq!(irrevocable.swap(0, Relaxed), 1, "{command}");
        client.run("DEL key");
    }
}

/// The bug: until it was certain that a script would not be rolled back, the arguments of up to a thousand calls were kept for the
/// slow log, however long they were.
#[test]
fn calls_of_a_script_with_long_arguments_enter_the_slow_log_before_it_ends() {
    const SLOW: &str = "for i = 1, 4 do redis.call('SET', KEYS[1] .. i, string.rep('x', 1e6)) end; while true do end";
    let server = TestServer::with(|config| {
        config.busy_reply_threshold_ms = 20;
        config.slowlog_log_slower_than_us = 0;
    });
    let (mut client, mut other) = (server.client(), server.client());
    client.send_words(&["EVAL", SLOW, "1", "key"]);
    until("it is slow", || server.shared().scripts.slow().len() == 1);
    // On a busy machine the script counts as slow before it has made these calls.
    until("its calls are logged", || {
        other.run("SLOWLOG GET -1").matches("\"SET\"").count() >= 2
    });
}
