//! Primaries and replicas for tests.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use damselfly_oracle::connection::Connection;
use damselfly_oracle::rows::{self, Family};
use damselfly_oracle::sequence::Step;
use damselfly_oracle::server::{Program, Server};

use super::common::{info, say};

/// How long a state may take to come about, on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The interval for polling a state that cannot be awaited.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Starts our server as a primary, whose full synchronisations begin at once.
pub fn primary(arguments: &[&str]) -> Server {
    let usual = [
        "--threads",
        "2",
        "--repl-diskless-sync-delay",
        "0",
        "--enable-debug-command",
        "yes",
        "--save",
        "",
    ];
    let all = [&usual, arguments].concat();
    Server::start(&Program::subject(), &all).unwrap_or_else(|error| panic!("{error}"))
}

/// Starts a replica of the server at this address.
pub fn replica_of(program: &Program, primary: SocketAddr, arguments: &[&str]) -> Server {
    let port = primary.port().to_string();
    let usual = [
        "--replicaof",
        "127.0.0.1",
        &port,
        "--enable-debug-command",
        "yes",
        "--save",
        "",
    ];
    let all = [&usual, arguments].concat();
    Server::start(program, &all).unwrap_or_else(|error| panic!("{error}"))
}

/// A real Redis as a replica.
pub fn redis_of(primary: SocketAddr) -> Server {
    replica_of(&Program::reference(), primary, &[])
}

/// Waits until something holds.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "not in time: {what}");
        thread::sleep(POLL_INTERVAL);
    }
}

/// How many replicas of a primary follow the stream.
pub fn online(primary: &mut Connection) -> usize {
    let text = super::common::text(&say(primary, "INFO replication"));
    text.matches("state=online").count()
}

/// Waits until so many replicas follow the stream.
pub fn wait_online(primary: &Server, count: usize) {
    let mut connection = primary.connect();
    wait_until("replicas are online", || online(&mut connection) == count);
}

/// Waits until the link of a replica is up.
pub fn wait_link(replica: &Server) {
    let mut connection = replica.connect();
    wait_until("the link is up", || {
        info(&mut connection, "master_link_status") == "up"
    });
}

/// The digest of all data.
pub fn digest(connection: &mut Connection) -> String {
    connection.call(&["DEBUG", "DIGEST"]).unwrap().to_string()
}

/// Waits until a replica has all data of its primary. Nobody writes meanwhile, but keys may expire.
pub fn wait_same(primary: &Server, replica: &Server) {
    let (mut ours, mut theirs) = (primary.connect(), replica.connect());
    let mut digests = Default::default();
    let started = Instant::now();
    loop {
        let offsets = (
            info(&mut ours, "master_repl_offset"),
            info(&mut theirs, "master_repl_offset"),
        );
        if offsets.0 == offsets.1 {
            digests = (digest(&mut ours), digest(&mut theirs));
            if digests.0 == digests.1 {
                return;
            }
        }
        assert!(
            started.elapsed() < PATIENCE,
            "offsets {offsets:?}, digests {digests:?}; the log of the replica:\n{}\nof the primary:\n{}",
            replica.log(),
            primary.log()
        );
        thread::sleep(POLL_INTERVAL);
    }
}

/// Runs commands and ignores the replies.
pub fn run(server: &Server, steps: &[Step]) {
    let mut connection = server.connect();
    for step in steps {
        let sent = connection
            .send(&step.bytes())
            .and_then(|()| connection.receive());
        if sent.is_err() {
            connection = server.connect();
        }
    }
}

/// Commands of the grammar that are not played: about connections and servers, and those that have no effect elsewhere.
pub fn left_out() -> Vec<String> {
    let of_servers = rows::all()
        .filter(|row| matches!(row.family, Family::Connection | Family::Server))
        .filter_map(|row| row.grammar.split_whitespace().next());
    let mut names: Vec<String> = of_servers.map(str::to_owned).collect();
    names.retain(|name| !["SELECT", "FLUSHALL", "FLUSHDB", "SWAPDB", "("].contains(&name.as_str()));
    names
}
