//! Primaries and replicas, and waiting until they agree.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use damselfly_oracle::connection::Connection;
use damselfly_oracle::rows::{self, Family};
use damselfly_oracle::sequence::Step;
use damselfly_oracle::server::{Program, Server};
use damselfly_protocol::client::Value;

/// How long a state may take to come about on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A `redis-server` without delays.
pub fn redis(arguments: &[&str]) -> Server {
    let all = [
        &[
            "--repl-diskless-sync-delay",
            "0",
            "--enable-debug-command",
            "yes",
        ],
        arguments,
    ]
    .concat();
    Server::start(&Program::reference(), &all).unwrap_or_else(|error| panic!("{error}"))
}

/// Our server.
pub fn ours(arguments: &[&str]) -> Server {
    let all = [
        &[
            "--repl-diskless-sync-delay",
            "0",
            "--enable-debug-command",
            "yes",
            "--save",
            "",
        ],
        arguments,
    ]
    .concat();
    Server::start(&Program::subject(), &all).unwrap_or_else(|error| panic!("{error}"))
}

/// Runs a command and returns its reply as text.
pub fn call(server: &Server, arguments: &[&str]) -> String {
    server.connect().call(arguments).unwrap().to_string()
}

/// Makes a server follow another one.
pub fn follow(replica: &Server, primary: SocketAddr) {
    let (host, port) = (primary.ip().to_string(), primary.port().to_string());
    // It may still be loading its own data.
    wait_until("REPLICAOF is accepted", || {
        call(replica, &["REPLICAOF", &host, &port]).contains("OK")
    });
}

/// Waits until `holds`.
///
/// # Panics
/// If that takes too long.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "waited in vain: {what}");
        thread::sleep(POLL_INTERVAL);
    }
}

/// A field of INFO, or an empty text.
pub fn info(server: &Server, field: &str) -> String {
    let mut connection = server.connect();
    let text = connection
        .call(&["INFO", "everything"])
        .unwrap()
        .to_string();
    let text = text.replace("\\r\\n", "\n").replace("\r\n", "\n");
    let line = text.lines().find_map(|line| {
        line.trim_start_matches('"')
            .strip_prefix(&format!("{field}:"))
    });
    line.unwrap_or_default().to_owned()
}

/// Waits until the replica's link is up.
pub fn wait_for_link(replica: &Server) {
    wait_until("the link is up", || {
        info(replica, "master_link_status") == "up"
    });
}

/// The digest of all data.
pub fn digest(server: &Server) -> String {
    call(server, &["DEBUG", "DIGEST"])
}

/// Waits until all servers have the same data as the first.
///
/// # Panics
/// If that takes too long: with their logs.
pub fn wait_for_agreement(what: &str, servers: &[&Server]) {
    let started = Instant::now();
    loop {
        let digests: Vec<String> = servers.iter().map(|server| digest(server)).collect();
        if digests.iter().all(|digest| *digest == digests[0]) {
            return;
        }
        if started.elapsed() > PATIENCE {
            let logs: Vec<String> = servers.iter().map(|server| server.log()).collect();
            panic!(
                "{what}: {digests:?}\n{}\n{}",
                differences(servers),
                logs.join("\n-----\n")
            );
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// The keys whose values differ, each with its dump on every server.
fn differences(servers: &[&Server]) -> String {
    let mut found = String::new();
    for db in 0..16 {
        let db = db.to_string();
        let mut connections: Vec<Connection> =
            servers.iter().map(|server| server.connect()).collect();
        let mut keys = Vec::new();
        for connection in &mut connections {
            connection.call(&["SELECT", &db]).unwrap();
            if let Value::Array(names) = connection.call(&["KEYS", "*"]).unwrap() {
                keys.extend(names.into_iter().filter_map(|name| match name {
                    Value::Bulk(name) => Some(name),
                    _ => None,
                }));
            }
        }
        keys.sort();
        keys.dedup();
        for key in keys {
            let mut ask = |words: &[&[u8]]| -> Vec<String> {
                let replies = connections
                    .iter_mut()
                    .map(|connection| connection.call(words).unwrap().to_string());
                replies.collect()
            };
            let values = ask(&[b"DEBUG", b"DIGEST-VALUE", &key]);
            if values.iter().any(|value| *value != values[0]) {
                let (types, dumps) = (ask(&[b"TYPE", &key]), ask(&[b"DUMP", &key]));
                let key = key.escape_ascii();
                found += &format!("{db} {key}: {types:?} {values:?} {dumps:?}\n");
            }
        }
    }
    found
}

/// Commands that random sequences leave out: about connections and servers.
pub fn left_out() -> Vec<String> {
    let of_servers = rows::all()
        .filter(|row| matches!(row.family, Family::Connection | Family::Server))
        .filter_map(|row| row.grammar.split_whitespace().next());
    let mut names: Vec<String> = of_servers.map(str::to_owned).collect();
    names.retain(|name| !["SELECT", "FLUSHALL", "FLUSHDB", "SWAPDB", "("].contains(&name.as_str()));
    names
}

/// Runs commands and ignores the replies.
pub fn run(address: SocketAddr, steps: &[Step]) {
    let open = || Connection::open(address).unwrap();
    let mut connection = open();
    for step in steps {
        let sent = connection.send(&step.bytes());
        if sent.and_then(|()| connection.receive()).is_err() {
            connection = open();
        }
    }
}
