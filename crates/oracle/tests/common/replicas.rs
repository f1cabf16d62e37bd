//! Primaries and replicas, and waiting until they agree.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use damselfly_oracle::connection::Connection;
use damselfly_oracle::rows::{self, Family};
use damselfly_oracle::sequence::Step;
use damselfly_oracle::server::{Program, Server};
use damselfly_protocol::client::Value;

/// How long a state may take to come about on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether it has come about.
pub const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Options without which synchronisations would wait for further replicas, and data could not be compared.
const USUAL: [&str; 6] = [
    "--repl-diskless-sync-delay",
    "0",
    "--enable-debug-command",
    "yes",
    "--save",
    "",
];

fn start(program: &Program, own: &[&str], arguments: &[&str]) -> Server {
    let all = [&USUAL, own, arguments].concat();
    Server::start(program, &all).unwrap_or_else(|error| panic!("{error}"))
}

/// A `redis-server`.
pub fn redis(arguments: &[&str]) -> Server {
    start(&Program::reference(), &[], arguments)
}

/// Our server, with two threads.
pub fn ours(arguments: &[&str]) -> Server {
    start(&Program::subject(), &["--threads", "2"], arguments)
}

/// A `redis-server` that follows the server at this address from its start on.
pub fn redis_of(primary: SocketAddr, arguments: &[&str]) -> Server {
    let port = primary.port().to_string();
    let follows = ["--replicaof", "127.0.0.1", &port];
    start(&Program::reference(), &follows, arguments)
}

/// Runs a command and returns its reply as text.
pub fn call(server: &Server, arguments: &[&str]) -> String {
    server.connect().call(arguments).unwrap().to_string()
}

/// A server that has loaded the append-only file in a folder.
pub fn with_append_only_file(program: &Program, folder: &Path) -> Server {
    let dir = folder.display().to_string();
    let options = [
        "--dir",
        &dir,
        "--appendonly",
        "yes",
        "--enable-debug-command",
        "yes",
    ];
    let server = Server::start(program, &options).unwrap();
    wait_until("it is loaded", || call(&server, &["PING"]) == "PONG");
    server
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

/// How many replicas of a primary follow the stream.
pub fn online(primary: &Server) -> usize {
    call(primary, &["INFO", "replication"])
        .matches("state=online")
        .count()
}

/// Waits until so many replicas follow the stream.
pub fn wait_online(primary: &Server, count: usize) {
    wait_until("replicas are online", || online(primary) == count);
}

/// Waits until a replica has the whole stream and all data of its primary. Nobody writes meanwhile, but keys may expire.
pub fn wait_same(primary: &Server, replica: &Server) {
    let offset = |server| info(server, "master_repl_offset");
    wait_until("the offsets are the same", || {
        offset(primary) == offset(replica)
    });
    wait_for_agreement("primary and replica", &[primary, replica]);
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
                differences(
                    &servers
                        .iter()
                        .map(|server| server.address())
                        .collect::<Vec<_>>()
                ),
                logs.join("\n-----\n")
            );
        }
        thread::sleep(POLL_INTERVAL);
    }
}

/// The keys whose values differ, each with its dump on every server.
pub fn differences(servers: &[SocketAddr]) -> String {
    let mut found = String::new();
    for (db, key) in differing_keys(servers) {
        let ask = |words: &[&[u8]]| -> Vec<String> {
            let replies = servers.iter().map(|&server| {
                let mut connection = Connection::open(server).unwrap();
                connection.call(&["SELECT", &db.to_string()]).unwrap();
                connection.call(words).unwrap().to_string()
            });
            replies.collect()
        };
        let values = ask(&[b"DEBUG", b"DIGEST-VALUE", &key]);
        let (types, dumps) = (ask(&[b"TYPE", &key]), ask(&[b"DUMP", &key]));
        let key = key.escape_ascii();
        found += &format!("{db} {key}: {types:?} {values:?} {dumps:?}\n");
    }
    found
}

/// The databases and names of the keys whose values differ.
pub fn differing_keys(servers: &[SocketAddr]) -> Vec<(usize, Vec<u8>)> {
    let mut found = Vec::new();
    let mut connections: Vec<Connection> = servers
        .iter()
        .map(|&server| Connection::open(server).unwrap())
        .collect();
    for db in 0..16 {
        let mut keys = Vec::new();
        for connection in &mut connections {
            connection.call(&["SELECT", &db.to_string()]).unwrap();
            if let Value::Array(names) = connection.call(&["KEYS", "*"]).unwrap() {
                keys.extend(names.into_iter().filter_map(|name| match name {
                    Value::Bulk(name) => Some(name),
                    _ => None,
                }));
            }
        }
        keys.sort();
        keys.dedup();
        keys.retain(|key| {
            let words: [&[u8]; 3] = [b"DEBUG", b"DIGEST-VALUE", key];
            let values = connections
                .iter_mut()
                .map(|connection| connection.call(&words).unwrap().to_string());
            let values: Vec<String> = values.collect();
            values.iter().any(|value| *value != values[0])
        });
        found.extend(keys.into_iter().map(|key| (db, key)));
    }
    found
}

/// The seeds to play: from `DAMSELFLY_SEED` on (1 if it is not set), as many as `DAMSELFLY_SEQUENCES` says, or until `DAMSELFLY_SECONDS` have passed
/// since the first, whichever is later.
pub fn seeds(usual: u64) -> impl Iterator<Item = u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first = number("DAMSELFLY_SEED").unwrap_or(1);
    let end = first + number("DAMSELFLY_SEQUENCES").unwrap_or(usual);
    let (time, started) = (number("DAMSELFLY_SECONDS").unwrap_or(0), Instant::now());
    (first..).take_while(move |&seed| seed < end || started.elapsed().as_secs() < time)
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
