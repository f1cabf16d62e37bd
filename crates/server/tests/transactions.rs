//! MULTI, EXEC and WATCH in the server: statistics, limits, and what other clients see.

mod common;

use common::{TestServer, until};

use damselfly_commands::Run;
use damselfly_config::Allow;
use damselfly_protocol::client::Value;
use damselfly_server::registry::{REGISTRY, WithinMulti};

const QUEUED: &str = "QUEUED";

/// The value of a field in the line of CLIENT LIST about a client.
fn field(list: &str, id: i64, name: &str) -> String {
    let line = list
        .lines()
        .find(|line| line.starts_with(&format!("id={id} ")))
        .unwrap();
    let found = line
        .split(' ')
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    found.unwrap().to_owned()
}

#[test]
fn other_clients_see_the_length_and_the_memory_of_the_queue() {
    let server = TestServer::start();
    let (mut client, mut observer) = (server.client(), server.client());
    let id = client.number("CLIENT ID");
    let mut shown = |name: &str| field(&observer.text("CLIENT LIST"), id, name);
    let before: usize = shown("tot-mem").parse().unwrap();
    assert_eq!((shown("multi"), shown("flags")), ("-1".into(), "U".into()));
    assert_eq!(client.run("MULTI"), "OK");
    assert_eq!((shown("multi"), shown("flags")), ("0".into(), "xU".into()));
    let value = "v".repeat(1000);
    for count in 1..=20 {
        assert_eq!(client.run(&format!("SET key {value}")), QUEUED);
        assert_eq!(shown("multi"), count.to_string());
    }
    let taken: usize = shown("multi-mem").parse().unwrap();
    assert!((20_000..60_000).contains(&taken), "{taken}");
    let with: usize = shown("tot-mem").parse().unwrap();
    assert!(with >= before + taken, "{before} {with} {taken}");
    assert_eq!(client.run("DISCARD"), "OK");
    assert_eq!(
        (shown("multi"), shown("multi-mem")),
        ("-1".into(), "0".into())
    );
    assert_eq!(client.run("WATCH key"), "OK");
    assert_ne!(shown("multi-mem"), "0");
    assert_eq!(client.run("UNWATCH"), "OK");
    assert_eq!(
        (shown("multi-mem"), shown("flags")),
        ("0".into(), "U".into())
    );
}

#[test]
fn a_transaction_that_exceeds_the_query_buffer_limit_closes_the_connection() {
    let server = TestServer::with(|config| config.client_query_buffer_limit_bytes = 1 << 20);
    let mut client = server.client();
    assert_eq!(client.run("MULTI"), "OK");
    let set = format!("SET key {}", "v".repeat(100_000));
    for _ in 0..10 {
        assert_eq!(client.run(&set), QUEUED);
    }
    // The connection may be closed before all of it is sent, and the reply may or may not be sent.
    let _ = client.try_send_bytes((set + "\r\n").as_bytes());
    assert!(client.until_closed().len() <= 1);
    let mut other = server.client();
    let info = other.text("INFO stats");
    assert!(info.contains("client_query_buffer_limit_disconnections:1\r\n"));
    assert_eq!(other.run("GET key"), "(nil)");
}

#[test]
fn a_transaction_that_cannot_run_any_more_takes_no_memory() {
    let server = TestServer::start();
    let (mut client, mut other) = (server.client(), server.client());
    let id = client.number("CLIENT ID");
    let set = format!("SET key {}", "v".repeat(10_000));
    for breaks in ["NOSUCH", "other"] {
        client.run("WATCH key");
        client.run("MULTI");
        client.run("GET key");
        match breaks {
            "other" => other.run("SET key 1"),
            command => client.run(command),
        };
        for _ in 0..10 {
            assert_eq!(client.run(&set), QUEUED);
        }
        let list = other.text("CLIENT LIST");
        assert_eq!(field(&list, id, "multi"), "1");
        assert!(field(&list, id, "multi-mem").parse::<usize>().unwrap() < 10_000);
        let reply = client.run("EXEC");
        assert!(reply == "(nil)" || reply.contains("EXECABORT"), "{reply}");
    }
}

#[test]
fn clients_with_large_transactions_are_evicted() {
    let server = TestServer::start();
    let (mut client, mut other) = (server.client(), server.client());
    assert_eq!(client.run("MULTI"), "OK");
    let set = format!("SET key {}", "v".repeat(100_000));
    for _ in 0..20 {
        assert_eq!(client.run(&set), QUEUED);
    }
    assert_eq!(other.run("CONFIG SET maxmemory-clients 1mb"), "OK");
    assert_eq!(client.until_closed(), [""; 0]);
    assert!(other.text("INFO stats").contains("evicted_clients:1\r\n"));
}

#[test]
fn a_client_that_ends_its_transaction_or_leaves_watches_nothing() {
    let server = TestServer::start();
    let watched = || server.shared().engine.watched_count();
    for end in ["UNWATCH", "EXEC", "DISCARD", "RESET", "QUIT", "", "EXEC 1"] {
        let (mut client, mut other) = (server.client(), server.client());
        assert_eq!(client.run("WATCH a b c a"), "OK");
        assert_eq!(watched(), 3);
        // A changed key stays watched, like the others.
        assert_eq!(other.run("SET b 1"), "OK");
        if matches!(end, "EXEC" | "DISCARD" | "EXEC 1") {
            client.run("MULTI");
        }
        if end.is_empty() {
            drop(client);
        } else {
            client.run(end);
        }
        until("no key is watched", || watched() == 0);
    }
}

#[test]
fn queued_commands_are_counted_when_they_run() {
    let server = TestServer::start();
    let mut client = server.client();
    for command in [
        "CONFIG RESETSTAT",
        "MULTI",
        "SET a b",
        "INCR a",
        "NOSUCH",
        "EXEC",
    ] {
        client.run(command);
    }
    for command in [
        "MULTI", "SET a b", "INCR a", "GET a", "EXEC", "EXEC 1", "DISCARD",
    ] {
        client.run(command);
    }
    let stats = client.text("INFO commandstats");
    let counts = |name: &str| {
        let line = stats
            .lines()
            .find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:")));
        let numbers = line.into_iter().flat_map(|line| line.split(','));
        let wanted = ["calls", "rejected_calls", "failed_calls"];
        let of_name = |word: &str| {
            let (name, number) = word.split_once('=').unwrap();
            wanted.contains(&name).then(|| number.parse().unwrap())
        };
        numbers.filter_map(of_name).collect::<Vec<u64>>()
    };
    assert_eq!(counts("multi"), [2, 0, 0]);
    assert_eq!(counts("set"), [1, 0, 0]);
    assert_eq!(counts("incr"), [1, 0, 1]);
    assert_eq!(counts("get"), [1, 0, 0]);
    assert_eq!(counts("exec"), [2, 1, 1]);
    assert_eq!(counts("discard"), [1, 0, 1]);
    let errors = client.text("INFO errorstats");
    assert!(errors.contains("errorstat_ERR:count=3\r\n"), "{errors}");
    assert!(
        errors.contains("errorstat_EXECABORT:count=2\r\n"),
        "{errors}"
    );
}

#[test]
fn the_slow_log_shows_the_queued_commands_and_not_exec() {
    let server = TestServer::with(|config| config.slowlog_log_slower_than_us = 0);
    let mut client = server.client();
    for command in ["SLOWLOG RESET", "MULTI", "SET a b", "GET a", "EXEC"] {
        client.run(command);
    }
    let shown = client.run("SLOWLOG GET");
    let place = |word: &str| shown.find(&format!("{word}\"")).unwrap();
    assert!(
        place("GET") < place("SET") && place("SET") < place("MULTI"),
        "{shown}"
    );
    assert!(!shown.contains("EXEC"), "{shown}");
}

#[test]
fn a_monitor_sees_commands_in_the_order_in_which_they_run() {
    let server = TestServer::start();
    let (mut client, mut monitor) = (server.client(), server.client());
    assert_eq!(monitor.run("MONITOR"), "OK");
    for command in [
        "MULTI",
        "SET a b",
        "CONFIG GET port",
        "INCR a",
        "EXEC",
        "MULTI",
        "GET",
    ] {
        client.run(command);
    }
    for command in ["EXEC", "EXEC 1", "PING"] {
        client.run(command);
    }
    let mut seen = Vec::new();
    while seen.last().map(String::as_str) != Some("\"PING\"") {
        let line = monitor.receive();
        seen.push(line.split_once("] ").unwrap().1.to_owned());
    }
    let wanted = [
        "\"MULTI\"",
        "\"SET\" \"a\" \"b\"",
        "\"INCR\" \"a\"",
        "\"EXEC\"",
        "\"MULTI\"",
        "\"EXEC\"",
        "\"EXEC\" \"1\"",
        "\"PING\"",
    ];
    assert_eq!(seen, wanted);
}

#[test]
fn a_pause_of_writes_holds_back_an_exec_that_writes() {
    let server = TestServer::start();
    let (mut writer, mut reader, mut other) = (server.client(), server.client(), server.client());
    writer.run("MULTI");
    writer.run("SET a 1");
    reader.run("MULTI");
    reader.run("GET a");
    assert_eq!(other.run("CLIENT PAUSE 100000 WRITE"), "OK");
    writer.send("EXEC");
    assert_eq!(reader.run("EXEC"), "1) (nil)");
    assert_eq!(reader.run("MULTI"), "OK");
    assert_eq!(reader.run("EXEC"), "(empty array)");
    assert!(writer.has_nothing());
    assert_eq!(other.run("CLIENT UNPAUSE"), "OK");
    assert_eq!(writer.receive(), "1) OK");
}

/// Every command is queued or refused. Queued commands run within the transaction, whatever locks they take outside.
#[test]
fn every_command_runs_within_a_transaction() {
    // Commands that would block the test or end the server.
    const LEFT_OUT: &[&str] = &[
        "shutdown",
        "debug|segfault",
        "debug|panic",
        "debug|sleep",
        "client|pause",
    ];
    let server = TestServer::with(|config| {
        config.enable_debug_command = Allow::Yes;
        config.enable_module_command = Allow::Yes;
    });
    let mut observer = server.client();
    for row in REGISTRY.rows() {
        let is_container = matches!(row.command.run, Run::Subcommands(_));
        if is_container || LEFT_OUT.contains(&row.name.as_str()) {
            continue;
        }
        let mut client = server.client();
        let mut words: Vec<String> = row.name.split('|').map(str::to_owned).collect();
        let arity = row.command.arity.signed().unsigned_abs() as usize;
        while words.len() < arity {
            words.push("1".to_owned());
        }
        client.run("MULTI");
        client.run("SET before 1");
        let queued = client.run(&words.join(" "));
        match row.within_multi {
            WithinMulti::Queued => assert_eq!(queued, QUEUED, "{}", row.name),
            WithinMulti::Refused => assert!(queued.contains("not allowed inside"), "{queued}"),
            WithinMulti::Runs | WithinMulti::Leaves | WithinMulti::Executes => continue,
        }
        client.run("SET behind 1");
        client.send("EXEC");
        let reply = client.receive_value();
        match (row.within_multi, reply) {
            (WithinMulti::Queued, Some(Value::Array(replies))) => {
                assert_eq!(replies.len(), 3, "{}", row.name);
            }
            (WithinMulti::Refused, Some(Value::Error(error))) => {
                assert!(error.starts_with(b"EXECABORT"));
            }
            (_, reply) => panic!("{}: {reply:?}", row.name),
        }
        // REPLICAOF may have made it a replica, which refuses writes.
        observer.run("REPLICAOF NO ONE");
        // This needs all locks, so they are free again.
        observer.number("DBSIZE");
        observer.run("FLUSHALL");
    }
}

#[test]
fn a_panic_within_a_transaction_closes_its_connection_and_releases_all_locks() {
    let server = TestServer::with(|config| {
        config.enable_debug_command = Allow::Yes;
    });
    let mut client = server.client();
    for command in ["WATCH a", "MULTI", "SET a 1", "DEBUG PANIC", "SET b 1"] {
        client.run(command);
    }
    client.send("EXEC");
    assert_eq!(client.until_closed(), [""; 0]);
    let mut other = server.client();
    assert_eq!(other.number("DBSIZE"), 1);
    assert_eq!(other.run("FLUSHALL"), "OK");
    assert_eq!(server.shared().engine.watched_count(), 0);
}

#[test]
fn the_reply_of_exec_may_contain_replies_of_any_length() {
    let server = TestServer::start();
    let mut client = server.client();
    for number in 0..100 {
        let members: Vec<String> = (0..100)
            .map(|index| format!("{}", number * 100 + index))
            .collect();
        client.run(&format!("SADD set {}", members.join(" ")));
    }
    client.run("MULTI");
    client.run("SMEMBERS set");
    client.run("SCARD set");
    client.send("EXEC");
    let Some(Value::Array(replies)) = client.receive_value() else {
        panic!("no array");
    };
    let Value::Array(members) = &replies[0] else {
        panic!("no array in the array");
    };
    assert_eq!(
        (members.len(), &replies[1]),
        (10_000, &Value::Integer(10_000))
    );
}

/// Bug: all replies of a transaction were in memory before its client was disconnected for exceeding its output limit. Cause: the
/// limit was checked only when replies were sent. Fix: EXEC checks it after each command and drops replies beyond it.
#[test]
fn replies_of_a_transaction_beyond_the_output_limit_are_dropped() {
    let server = TestServer::with(|config| {
        config.client_output_buffer_limit.normal.hard_bytes = 4 << 20;
    });
    let (mut client, mut other) = (server.client(), server.client());
    other.run(&format!("SET key {}", "x".repeat(1 << 20)));
    client.run("MULTI");
    for _ in 0..64 {
        client.run("GET key");
    }
    client.run("INCR count");
    let sent = || {
        server
            .shared()
            .total(|counters| counters.output_bytes.read())
    };
    let before = sent();
    client.send("EXEC");
    assert_eq!(client.until_closed(), [""; 0]);
    assert!(sent() - before < 4096, "{}", sent() - before);
    assert_eq!(other.run("GET count"), "\"1\"");
    let info = other.text("INFO stats");
    assert!(info.contains("client_output_buffer_limit_disconnections:1"));
    for _ in 0..3 {
        assert_eq!(other.run("MULTI"), "OK");
        other.run("GET key");
        assert_eq!(other.run("EXEC").len(), (1 << 20) + "1) \"\"".len());
    }
}

/// Bug: in a transaction, commands behind a CLIENT KILL of the client itself were answered, too. In Redis they run, but the last reply
/// is that to CLIENT KILL, so the reply to EXEC stays incomplete.
#[test]
fn a_client_that_kills_itself_in_a_transaction_gets_no_further_reply() {
    let server = TestServer::start();
    let (mut client, mut other) = (server.client(), server.client());
    let id = client.number("CLIENT ID");
    let kill = format!("CLIENT KILL ID {id} SKIPME no");
    let commands = [
        "MULTI",
        "ECHO first",
        &kill,
        "SET key value",
        "ECHO last",
        "EXEC",
        "SET other value",
    ];
    // In one go: sending fails once the server has closed the connection.
    client.send_bytes((commands.join("\r\n") + "\r\n").as_bytes());
    let replies = client.until_closed();
    assert_eq!(replies, ["OK", "QUEUED", "QUEUED", "QUEUED", "QUEUED"]);
    let rest = String::from_utf8(client.rest().to_vec()).unwrap();
    assert_eq!(rest, "*4\r\n$5\r\nfirst\r\n:1\r\n");
    assert_eq!(other.run("GET key"), "\"value\"");
    assert_eq!(other.run("GET other"), "(nil)");
}
