//! Functions on several threads: when one connection loads, replaces or removes a library, all others see the change at once.

mod common;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use common::{Client, TestServer, until};
use damselfly_protocol::client::{Value, write_command};

/// More connections than threads.
const CLIENTS: usize = 9;

/// Runs a command whose arguments may contain spaces.
fn call(client: &mut Client, words: &[&[u8]]) -> Value {
    let mut request = Vec::new();
    write_command(&mut request, words);
    client.send_bytes(&request);
    client.receive_value().expect("the connection is open")
}

fn load(client: &mut Client, code: &str) -> Value {
    call(client, &[b"FUNCTION", b"LOAD", b"REPLACE", code.as_bytes()])
}

/// A library with a function that returns a number.
fn returning(library: &str, number: usize) -> String {
    format!(
        "#!lua name={library}\nredis.register_function('{library}_f', function() return {number} end)"
    )
}

fn clients(server: &TestServer) -> Vec<Client> {
    (0..CLIENTS).map(|_| server.client()).collect()
}

#[test]
fn all_connections_see_a_change_of_a_library_at_once() {
    let server = TestServer::start();
    let mut clients = clients(&server);
    for number in 0..50 {
        let changer = number % CLIENTS;
        let loaded = load(&mut clients[changer], &returning("lib", number));
        assert_eq!(loaded, Value::Bulk(b"lib".to_vec()));
        for client in &mut clients {
            assert_eq!(client.number("FCALL lib_f 0"), number as i64);
        }
        if number % 3 == 0 {
            let removed = clients[changer].run(if number % 2 == 0 {
                "FUNCTION DELETE lib"
            } else {
                "FUNCTION FLUSH"
            });
            assert_eq!(removed, "OK");
            for client in &mut clients {
                assert_eq!(
                    client.run("FCALL lib_f 0"),
                    "(error) ERR Function not found"
                );
            }
        }
    }
}

#[test]
fn payloads_carry_libraries_to_another_server() {
    let (first, second) = (TestServer::start(), TestServer::start());
    let (mut from, mut to) = (first.client(), clients(&second));
    load(&mut from, &returning("one", 1));
    load(&mut from, &returning("two", 2));
    let Value::Bulk(payload) = call(&mut from, &[b"FUNCTION", b"DUMP"]) else {
        panic!("FUNCTION DUMP returned no payload");
    };
    load(&mut to[0], &returning("two", 20));
    load(&mut to[0], &returning("three", 3));
    let restore = |policy: &[u8], to: &mut Vec<Client>| {
        let words: [&[u8]; 4] = [b"FUNCTION", b"RESTORE", &payload, policy];
        let reply = call(&mut to[1], &words).to_string();
        let seen = to.iter_mut().map(|client| {
            ["one", "two", "three"].map(|name| client.run(&format!("FCALL {name}_f 0")))
        });
        let mut seen: Vec<_> = seen.collect();
        seen.dedup();
        assert_eq!(seen.len(), 1, "connections differ: {seen:?}");
        (reply, seen.remove(0).join(", "))
    };
    let missing = "(error) ERR Function not found";
    assert_eq!(
        restore(b"APPEND", &mut to),
        (
            "(error) ERR Library two already exists".into(),
            format!("{missing}, (integer) 20, (integer) 3")
        )
    );
    assert_eq!(
        restore(b"REPLACE", &mut to),
        ("OK".into(), "(integer) 1, (integer) 2, (integer) 3".into())
    );
    assert_eq!(
        restore(b"FLUSH", &mut to),
        ("OK".into(), format!("(integer) 1, (integer) 2, {missing}"))
    );
}

#[test]
fn libraries_can_be_loaded_at_the_same_time() {
    let server = TestServer::start();
    let mut clients = clients(&server);
    std::thread::scope(|scope| {
        for (number, client) in clients.iter_mut().enumerate() {
            scope.spawn(move || {
                for round in 0..20 {
                    let name = format!("lib_{number}_{round}");
                    let loaded = load(client, &returning(&name, round));
                    assert_eq!(loaded, Value::Bulk(name.into_bytes()));
                }
            });
        }
    });
    let stats = clients[0].text("INFO memory");
    let count = format!("number_of_libraries:{}\r\n", 20 * CLIENTS);
    assert!(stats.contains(&count), "{stats}");
    for client in &mut clients {
        assert_eq!(client.number("FCALL lib_8_19_f 0"), 19);
    }
}

#[test]
fn only_one_of_several_clients_can_load_the_same_name() {
    let server = TestServer::start();
    let mut clients = clients(&server);
    for round in 0..20 {
        let code = returning(&format!("lib_{round}"), round);
        let words: [&[u8]; 3] = [b"FUNCTION", b"LOAD", code.as_bytes()];
        let winners: usize = std::thread::scope(|scope| {
            let loads: Vec<_> = clients
                .iter_mut()
                .map(|client| scope.spawn(move || call(client, &words)))
                .collect();
            let replies = loads.into_iter().map(|load| load.join().unwrap());
            replies
                .map(|reply| usize::from(matches!(reply, Value::Bulk(_))))
                .sum()
        });
        assert_eq!(winners, 1);
    }
}

#[test]
fn a_call_never_sees_an_older_library_than_the_previous_call() {
    let server = TestServer::start();
    let mut clients = clients(&server);
    let ended = AtomicBool::new(false);
    load(&mut clients[0], &returning("lib", 0));
    std::thread::scope(|scope| {
        let (changer, callers) = clients.split_first_mut().unwrap();
        let ended = &ended;
        for client in callers {
            scope.spawn(move || {
                let mut last = 0;
                while !ended.load(Relaxed) {
                    let number = client.number("FCALL lib_f 0");
                    assert!(number >= last, "{number} after {last}");
                    last = number;
                }
            });
        }
        for number in 1..300 {
            load(changer, &returning("lib", number));
            assert_eq!(changer.number("FCALL lib_f 0"), number as i64);
        }
        ended.store(true, Relaxed);
    });
}

#[test]
fn functions_survive_the_removal_of_all_keys() {
    let server = TestServer::start();
    let mut client = server.client();
    load(&mut client, &returning("lib", 7));
    for flush in ["FLUSHALL", "FLUSHDB", "FLUSHALL ASYNC", "SCRIPT FLUSH"] {
        assert_eq!(client.run(flush), "OK");
        assert_eq!(client.number("FCALL lib_f 0"), 7);
    }
}

#[test]
fn info_counts_libraries_and_their_bytes() {
    let server = TestServer::start();
    let mut client = server.client();
    let field = |client: &mut Client, name: &str| -> u64 {
        let info = client.text("INFO memory");
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(field, _)| *field == name).unwrap();
        value.parse().unwrap()
    };
    assert_eq!(field(&mut client, "number_of_functions"), 0);
    let empty = field(&mut client, "used_memory_functions");
    let padding = "-".repeat(100_000);
    let code = format!("{}\n--{padding}", returning("lib", 7));
    load(&mut client, &code);
    load(&mut client, &returning("other", 7));
    assert_eq!(field(&mut client, "number_of_functions"), 2);
    assert_eq!(field(&mut client, "number_of_libraries"), 2);
    assert!(field(&mut client, "used_memory_functions") > empty + 100_000);
    assert_eq!(client.run("FUNCTION FLUSH"), "OK");
    assert_eq!(field(&mut client, "number_of_libraries"), 0);
    assert_eq!(field(&mut client, "used_memory_functions"), empty);
}

/// Loads two functions that run for very long: `writes` writes first, and `reads` only reads.
fn load_endless(client: &mut Client) {
    let code = "#!lua name=endless\nredis.register_function('reads', function(keys) redis.call('GET', keys[1]) while true do end end)\nredis.register_function('writes', function(keys, args) redis.call('SET', keys[1], 1) for i = 1, args[1] do end return 'done' end)";
    let loaded = load(client, code);
    assert_eq!(loaded, Value::Bulk(b"endless".to_vec()));
}

#[test]
fn a_function_that_runs_for_too_long_is_shown_and_can_be_killed() {
    let server = TestServer::with(|config| config.busy_reply_threshold_ms = 10);
    let (mut slow, mut other) = (server.client(), server.client());
    load_endless(&mut other);
    slow.send("FCALL reads 1 key");
    until("the function is slow", || {
        other.run("FUNCTION STATS").contains("duration_ms")
    });
    let stats = other.run("FUNCTION STATS");
    for part in ["\"reads\"", "\"FCALL\"", "\"key\""] {
        assert!(stats.contains(part), "{part} in {stats}");
    }
    let busy = "(error) BUSY Redis is busy running a script. You can only call FUNCTION KILL or SHUTDOWN NOSAVE.";
    assert_eq!(other.run("SCRIPT KILL"), busy);
    assert_eq!(other.run("SET key value"), busy);
    assert_eq!(other.run("FUNCTION KILL"), "OK");
    let killed = slow.receive();
    assert!(
        killed.starts_with("(error) ERR Script killed by user with FUNCTION KILL..."),
        "{killed}"
    );
    until("no script runs", || {
        !other.run("FUNCTION STATS").contains("duration_ms")
    });
    assert_eq!(other.run("SET key value"), "OK");
    let nothing = "(error) NOTBUSY No scripts in execution right now.";
    assert_eq!(other.run("FUNCTION KILL"), nothing);
}

/// The bug: an error handler that loops could not be ended, neither by FUNCTION KILL nor by a shutdown. The cause: the interpreter's
/// hook raises the error that ends a script, and Lua called the handler for that error, too, without any more calls of the hook.
/// The fix: the handler is not called for that error.
#[test]
fn a_function_whose_error_handler_loops_can_be_killed() {
    let server = TestServer::with(|config| config.busy_reply_threshold_ms = 10);
    let (mut slow, mut other) = (server.client(), server.client());
    let endless = "function() while true do end end";
    let code = format!(
        "#!lua name=endless\n\
         redis.register_function('in_handler', function() xpcall(function() error('first') end, {endless}) end)\n\
         redis.register_function('before_handler', function() xpcall({endless}, {endless}) end)"
    );
    assert_eq!(load(&mut other, &code), Value::Bulk(b"endless".to_vec()));
    for function in ["in_handler", "before_handler"] {
        slow.send(&format!("FCALL {function} 0"));
        until("the function is slow", || {
            other.run("FUNCTION STATS").contains("duration_ms")
        });
        assert_eq!(other.run("FUNCTION KILL"), "OK");
        let killed = slow.receive();
        assert!(
            killed.starts_with("(error) ERR Script killed by user with FUNCTION KILL..."),
            "{function}: {killed}"
        );
        until("no function runs", || {
            !other.run("FUNCTION STATS").contains("duration_ms")
        });
    }
    slow.send("FCALL in_handler 0");
    until("the function is slow", || {
        other.run("FUNCTION STATS").contains("duration_ms")
    });
    other.send("SHUTDOWN NOSAVE");
    assert_eq!(other.until_closed(), [""; 0]);
    until("the function has ended", || {
        server.shared().scripts.slow().is_empty()
    });
}

#[test]
fn a_function_that_has_written_is_not_killed() {
    let server = TestServer::with(|config| config.busy_reply_threshold_ms = 10);
    let (mut slow, mut other) = (server.client(), server.client());
    load_endless(&mut other);
    slow.send("FCALL writes 1 key 100000000");
    until("the function is slow", || {
        other.run("FUNCTION STATS").contains("duration_ms")
    });
    let reply = other.run("FUNCTION KILL");
    assert!(reply.starts_with("(error) UNKILLABLE"), "{reply}");
    assert_eq!(slow.receive(), "\"done\"");
    assert_eq!(other.text("GET key"), "1");
}
