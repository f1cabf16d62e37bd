//! Bad days: wrong options, hostile or slow clients, exhausted limits, signals.
//!
//! Each test starts its own server. With `DAMSELFLY_BIN=redis-server` the tests run against Redis,
//! which shows that they demand nothing that Redis does not do.

use damselfly_oracle::connection::{Connection, request};
use damselfly_oracle::random::Random;
use damselfly_oracle::server::{Kind, Program, ScratchFolder, Server, wait_for_end};
use damselfly_protocol::client::Value;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

/// How long a server may take to refuse a wrong option, or to exit.
const PROMPTLY: Duration = Duration::from_secs(5);

fn start(arguments: &[&str]) -> Server {
    Server::start(&Program::subject(), arguments).unwrap()
}

fn error(text: &str) -> Value {
    Value::Error(text.as_bytes().to_vec())
}

fn ok() -> Value {
    Value::Simple(b"OK".to_vec())
}

/// Asserts that a new client gets replies.
fn assert_alive(server: &Server) {
    assert_eq!(
        server.connect().call(&["PING"]).unwrap(),
        Value::Simple(b"PONG".to_vec())
    );
}

/// Starts the program with arguments that it must refuse; returns its message.
fn refused(arguments: &[&str]) -> String {
    let program = Program::subject();
    let folder = ScratchFolder::create().unwrap();
    let mut child = program
        .command(folder.path(), arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let status = wait_for_end(&mut child, PROMPTLY).unwrap();
    if status.is_none() {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let (said, log) = (
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout),
    );
    let status = status
        .unwrap_or_else(|| panic!("{arguments:?} was accepted; said {said:?}, logged {log:?}"));
    assert!(
        !status.success(),
        "{arguments:?} exited with success; said {said:?}, logged {log:?}"
    );
    if program.kind() == Kind::Redis {
        return format!("{said}{log}");
    }
    assert_eq!(
        said.lines().count(),
        1,
        "one clear line on standard error, not {said:?}"
    );
    said.into_owned()
}

#[test]
fn a_port_in_use_is_one_clear_line() {
    let server = start(&[]);
    let port = server.address().port().to_string();
    let said = refused(&["--port", &port]);
    assert!(said.contains(&port), "the port is missing: {said}");
}

#[test]
fn a_folder_that_does_not_exist_is_one_clear_line() {
    let said = refused(&["--port", "0", "--dir", "/proc/no-such-folder"]);
    assert!(
        said.contains("/proc/no-such-folder"),
        "names the folder: {said}"
    );
}

#[test]
fn an_unknown_option_is_one_clear_line() {
    let said = refused(&["--no-such-option", "1"]);
    assert!(said.contains("no-such-option"), "names the option: {said}");
}

#[test]
fn a_bad_value_is_one_clear_line() {
    for (option, value) in [
        ("port", "abc"),
        ("port", "99999"),
        ("maxmemory", "much"),
        ("maxclients", "-1"),
    ] {
        let said = refused(&[&format!("--{option}"), value]);
        assert!(said.contains(option), "names the option: {said}");
    }
}

#[test]
fn a_request_may_come_one_byte_at_a_time() {
    let server = start(&[]);
    let mut connection = server.connect();
    for byte in request(&["SET", "key", "some value"])
        .iter()
        .chain(&request(&["GET", "key"]))
    {
        connection.send(&[*byte]).unwrap();
    }
    assert_eq!(connection.receive().unwrap(), ok());
    assert_eq!(
        connection.receive().unwrap(),
        Value::Bulk(b"some value".to_vec())
    );
}

#[test]
fn ten_thousand_connections_are_served() {
    /// The number of files that this test and the server each need besides the connections.
    const SPARE_FILES: u64 = 500;
    let wanted = 10_000;
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let possible = limit.maximum.map_or(wanted, |files| {
        files.saturating_sub(SPARE_FILES).min(wanted)
    });
    if possible < wanted {
        println!(
            "only {possible} connections: the limit on open files is {:?}",
            limit.maximum
        );
    }

    let server = start(&["--maxclients", "11000"]);
    let mut connections: Vec<Connection> = (0..possible).map(|_| server.connect()).collect();
    for connection in &mut connections {
        connection.send(b"PING\r\n").unwrap();
    }
    for connection in &mut connections {
        assert_eq!(
            connection.receive().unwrap(),
            Value::Simple(b"PONG".to_vec())
        );
    }
    assert_alive(&server);
    drop(connections);
    assert_alive(&server);
}

#[test]
fn a_client_that_never_reads_costs_bounded_memory() {
    /// The size of the value, the number of requests, and how much memory the server may grow by. All
    /// replies together would take ten times as much.
    const VALUE_BYTES: usize = 1 << 20;
    const REQUESTS: usize = 2000;
    const GROWTH_BYTES_MAX: u64 = 200 << 20;

    // By default, Redis has no limit for normal clients.
    let server = match Program::subject().kind() {
        Kind::Redis => start(&["--client-output-buffer-limit", "normal 100mb 0 0"]),
        Kind::Damselfly => start(&[]),
    };
    let mut other = server.connect();
    assert_eq!(
        other
            .call(&[b"SET".as_slice(), b"big", &vec![b'x'; VALUE_BYTES]])
            .unwrap(),
        ok()
    );
    let before = server.resident_bytes();

    let greedy = TcpStream::connect(server.address()).unwrap();
    let requests = request(&["GET", "big"]).repeat(REQUESTS);
    let writer = std::thread::spawn(move || {
        let mut greedy = greedy;
        greedy
            .set_write_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        // The server may stop reading, or close the connection: both are fine.
        let _ = greedy.write_all(&requests);
        greedy
    });
    let mut highest = before;
    let start = Instant::now();
    while !writer.is_finished() || start.elapsed() < Duration::from_millis(500) {
        assert_eq!(
            other.call(&["STRLEN", "big"]).unwrap(),
            Value::Integer(VALUE_BYTES as i64)
        );
        highest = highest.max(server.resident_bytes());
    }
    let growth = highest - before;
    assert!(
        growth < GROWTH_BYTES_MAX,
        "the server grew by {} MB",
        growth >> 20
    );
    drop(writer.join().unwrap());
    assert_alive(&server);
}

#[test]
fn random_bytes_do_not_harm_other_clients() {
    let seed = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let server = start(&[]);
    let mut witness = server.connect();
    assert_eq!(witness.call(&["SET", "witness", "value"]).unwrap(), ok());
    for _ in 0..200 {
        let mut bytes: Vec<u8> = (0..random.below(2000))
            .map(|_| random.bits().to_le_bytes()[0])
            .collect();
        if random.one_in(2) {
            // Nearly valid requests get further in the parser than noise.
            bytes = request(&["SET", "noise", "value"]).repeat(3);
            for _ in 0..3 {
                let at = random.below(bytes.len());
                bytes[at] = *random.pick(b"*$\r\n0123456789-x\0\xff");
            }
        }
        let mut hostile = TcpStream::connect(server.address()).unwrap();
        hostile
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        // The server may close the connection before all is sent; anything but silence is fine.
        let _ = hostile.write_all(&bytes);
        let _ = hostile.shutdown(Shutdown::Write);
        let ended = hostile.read_to_end(&mut Vec::new());
        assert!(
            !ended.is_err_and(|error| error.kind() == ErrorKind::WouldBlock),
            "the server keeps a connection whose client is gone"
        );
        assert_eq!(
            witness.call(&["GET", "witness"]).unwrap(),
            Value::Bulk(b"value".to_vec())
        );
    }
}

#[test]
fn an_incomplete_command_waits_and_does_not_harm_other_clients() {
    let server = start(&[]);
    let whole = request(&["SET", "key", "value"]);
    let mut halves: Vec<Connection> = (0..whole.len()).map(|_| server.connect()).collect();
    for (end, connection) in halves.iter_mut().enumerate() {
        connection.send(&whole[..end]).unwrap();
    }
    assert_alive(&server);
    assert_eq!(
        server.connect().call(&["EXISTS", "key"]).unwrap(),
        Value::Integer(0)
    );
    for (end, connection) in halves.iter_mut().enumerate() {
        connection.send(&whole[end..]).unwrap();
        assert_eq!(connection.receive().unwrap(), ok());
    }
}

#[test]
fn one_client_too_many_is_refused_with_an_error() {
    let server = start(&["--maxclients", "3"]);
    let mut first: Vec<Connection> = Vec::new();
    // The connection that probed the start may still count for a moment, so fill the limit with clients that got a reply.
    while first.len() < 3 {
        let mut connection = server.connect();
        if connection
            .call(&["PING"])
            .is_ok_and(|reply| reply == Value::Simple(b"PONG".to_vec()))
        {
            first.push(connection);
        }
    }
    let mut refused = server.connect();
    assert_eq!(
        refused.receive().unwrap(),
        error("ERR max number of clients reached")
    );
    assert!(refused.closed_by_server());
    assert_eq!(
        first[0].call(&["PING"]).unwrap(),
        Value::Simple(b"PONG".to_vec())
    );
    drop(first);
    let start = Instant::now();
    while !server
        .connect()
        .call(&["PING"])
        .is_ok_and(|reply| reply == Value::Simple(b"PONG".to_vec()))
    {
        assert!(
            start.elapsed() < PROMPTLY,
            "the slots of disconnected clients are not freed"
        );
    }
}

#[test]
fn an_idle_client_is_disconnected_after_the_timeout() {
    let server = start(&["--timeout", "1"]);
    let mut idle = server.connect();
    let start = Instant::now();
    assert!(idle.closed_by_server());
    assert!(
        start.elapsed() > Duration::from_millis(500),
        "too early: {:?}",
        start.elapsed()
    );
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "too late: {:?}",
        start.elapsed()
    );
    assert_alive(&server);
}

#[test]
fn sigterm_stops_the_server_with_success() {
    let mut server = start(&[]);
    let mut connection = server.connect();
    connection.call(&["PING"]).unwrap();
    let status = server
        .terminate(PROMPTLY)
        .unwrap()
        .expect("the server exits promptly");
    assert!(status.success(), "{status}; its log:\n{}", server.log());
    assert!(connection.closed_by_server());
}

#[test]
fn shutdown_stops_the_server_with_success() {
    let mut server = start(&[]);
    let mut connection = server.connect();
    connection.send(b"SHUTDOWN NOSAVE\r\n").unwrap();
    assert!(connection.closed_by_server());
    let status = server
        .wait(PROMPTLY)
        .unwrap()
        .expect("the server exits promptly");
    assert!(status.success(), "{status}; its log:\n{}", server.log());
}

#[test]
fn out_of_memory_is_an_error_and_deleting_helps() {
    let server = start(&["--maxmemory", "16mb", "--maxmemory-policy", "noeviction"]);
    let mut connection = server.connect();
    let value = vec![b'x'; 1 << 20];
    let mut stored = 0;
    let refusal = loop {
        let reply = connection
            .call(&[b"SET".as_slice(), format!("key{stored}").as_bytes(), &value])
            .unwrap();
        if reply != ok() {
            break reply;
        }
        stored += 1;
        assert!(stored < 100, "maxmemory does not hold");
    };
    assert_eq!(
        refusal,
        error("OOM command not allowed when used memory > 'maxmemory'.")
    );
    assert!(
        stored >= 5,
        "most of the memory should be for data, but only {stored} MB fit"
    );
    assert_eq!(
        connection
            .call(&[b"MSET".as_slice(), b"other", &value])
            .unwrap(),
        refusal
    );
    assert_eq!(
        connection.call(&["STRLEN", "key0"]).unwrap(),
        Value::Integer(1 << 20)
    );
    for index in 0..stored {
        assert_eq!(
            connection.call(&["DEL", &format!("key{index}")]).unwrap(),
            Value::Integer(1)
        );
    }
    assert_eq!(connection.call(&["SET", "key", "value"]).unwrap(), ok());
}

#[test]
fn clients_that_vanish_leave_nothing_behind() {
    let server = start(&[]);
    let mut witness = server.connect();
    for _ in 0..200 {
        let mut connection = server.connect();
        connection
            .send(&request(&["SET", "key", "value"]).repeat(20))
            .unwrap();
        drop(connection);
    }
    let start = Instant::now();
    loop {
        let Value::Bulk(clients) = witness.call(&["INFO", "clients"]).unwrap() else {
            panic!("INFO did not return text")
        };
        if String::from_utf8(clients)
            .unwrap()
            .contains("connected_clients:1\r\n")
        {
            break;
        }
        assert!(
            start.elapsed() < PROMPTLY,
            "connections of disconnected clients are still counted"
        );
    }
}
