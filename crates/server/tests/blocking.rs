//! Blocked clients over real sockets: what ends their wait, and what other clients see of them.

mod common;

use common::{Client, TestServer, until};

fn flags(observer: &mut Client, id: i64) -> String {
    let line = observer.text(&format!("CLIENT LIST ID {id}"));
    let word = line.split(' ').find_map(|word| word.strip_prefix("flags="));
    word.unwrap_or_default().to_owned()
}

fn field(observer: &mut Client, section: &str, name: &str) -> String {
    let text = observer.text(&format!("INFO {section}"));
    let prefix = format!("{name}:");
    text.lines()
        .find_map(|line| line.strip_prefix(&prefix))
        .unwrap_or_default()
        .to_owned()
}

/// Two clients, and the id of the first one, which waits for `list` with the given timeout.
fn waiting(server: &TestServer, timeout: &str) -> (Client, Client, i64) {
    let (mut waiter, mut other) = (server.client(), server.client());
    let id = waiter.number("CLIENT ID");
    wait(&mut waiter, &mut other, id, timeout);
    (waiter, other, id)
}

fn wait(waiter: &mut Client, other: &mut Client, id: i64, timeout: &str) {
    waiter.send(&format!("BLPOP list {timeout}"));
    until("the client waits", || flags(other, id) == "bU");
}

#[test]
fn client_unblock_ends_a_wait_like_a_timeout_or_with_an_error() {
    let server = TestServer::start();
    let (mut waiter, mut other, id) = waiting(&server, "0");
    for (words, reply) in [
        ("", "(nil)"),
        (" TIMEOUT", "(nil)"),
        (
            " error",
            "(error) UNBLOCKED client unblocked via CLIENT UNBLOCK",
        ),
    ] {
        assert_eq!(other.number(&format!("CLIENT UNBLOCK {id}{words}")), 1);
        assert_eq!(
            other.number(&format!("CLIENT UNBLOCK {id}")),
            0,
            "it is unblocked once"
        );
        assert_eq!(waiter.receive(), reply);
        assert_eq!(flags(&mut other, id), "U");
        wait(&mut waiter, &mut other, id, "100");
    }
    assert_eq!(other.number("RPUSH list a"), 1);
    assert_eq!(waiter.receive(), "1) \"list\"\n2) \"a\"");
}

#[test]
fn blocked_clients_are_counted() {
    let server = TestServer::start();
    let (_waiter, mut other, id) = waiting(&server, "0");
    let (_second, ..) = waiting(&server, "100");
    assert_eq!(field(&mut other, "clients", "blocked_clients"), "2");
    assert_eq!(
        field(&mut other, "clients", "clients_in_timeout_table"),
        "1"
    );
    assert_eq!(other.number("RPUSH list a"), 1);
    // Once it has its element, it does not count as blocked.
    assert_eq!(flags(&mut other, id), "U");
    assert_eq!(field(&mut other, "clients", "blocked_clients"), "1");
}

#[test]
fn elements_stay_when_the_blocked_client_is_gone() {
    let server = TestServer::start();
    let (mut killed, mut other, id) = waiting(&server, "0");
    assert_eq!(other.number(&format!("CLIENT KILL ID {id}")), 1);
    assert_eq!(killed.until_closed(), [""; 0]);
    let (mut gone, ..) = waiting(&server, "0");
    gone.end_sending();
    assert_eq!(gone.until_closed(), [""; 0]);
    let (dropped, ..) = waiting(&server, "0");
    drop(dropped);
    until("no client is blocked", || {
        field(&mut other, "clients", "blocked_clients") == "0"
    });
    assert_eq!(other.number("RPUSH list a b"), 2);
    assert_eq!(other.number("LLEN list"), 2);
    assert_eq!(server.shared().engine.waiting_count(), 0);
}

#[test]
fn a_killed_client_is_not_served() {
    let server = TestServer::start();
    for _ in 0..100 {
        let (mut killed, mut other, id) = waiting(&server, "0");
        // All at once, so that the killed client's thread has no time to close it.
        other.send(&format!("CLIENT KILL ID {id}"));
        other.send("RPUSH list a");
        other.send("LPOP list");
        assert_eq!(other.receive(), "(integer) 1");
        assert_eq!(other.receive(), "(integer) 1");
        assert_eq!(other.receive(), "\"a\"");
        assert_eq!(killed.until_closed(), [""; 0]);
    }
    assert_eq!(server.shared().engine.waiting_count(), 0);
}

/// Bug: requests that had arrived while a client was blocked ran only when more bytes arrived.
#[test]
fn requests_behind_a_blocking_one_run_after_it() {
    let server = TestServer::start();
    let (mut waiter, mut other, id) = waiting(&server, "0");
    waiter.send("RPUSH list b");
    waiter.send_bytes(b"LRANGE list 0 -1\r\nBLPOP list");
    assert_eq!(other.number("RPUSH list a"), 1);
    assert_eq!(waiter.receive(), "1) \"list\"\n2) \"a\"");
    assert_eq!(waiter.receive(), "(integer) 1");
    assert_eq!(waiter.receive(), "1) \"b\"");
    waiter.send_bytes(b" none 0\r\nBLPOP none 0\r\nPING\r\n");
    assert_eq!(waiter.receive(), "1) \"list\"\n2) \"b\"");
    until("it waits again", || flags(&mut other, id) == "bU");
    assert_eq!(other.number("RPUSH none c"), 1);
    assert_eq!(waiter.receive(), "1) \"none\"\n2) \"c\"");
    assert_eq!(waiter.receive(), "PONG");
}

#[test]
fn a_blocked_client_with_replies_off_gets_no_reply_later() {
    let server = TestServer::start();
    let (mut waiter, mut other) = (server.client(), server.client());
    let id = waiter.number("CLIENT ID");
    waiter.send("CLIENT REPLY SKIP");
    wait(&mut waiter, &mut other, id, "0");
    waiter.send("PING");
    assert_eq!(other.number("RPUSH list a"), 1);
    assert_eq!(waiter.receive(), "PONG");
    waiter.send("CLIENT REPLY OFF");
    wait(&mut waiter, &mut other, id, "0.01");
    waiter.send("CLIENT REPLY ON");
    assert_eq!(waiter.receive(), "OK");
}

#[test]
fn a_blocked_client_waits_in_its_own_database() {
    let server = TestServer::start();
    let (mut waiter, mut other) = (server.client(), server.client());
    let id = waiter.number("CLIENT ID");
    assert_eq!(waiter.run("SELECT 3"), "OK");
    wait(&mut waiter, &mut other, id, "0");
    assert_eq!(other.number("RPUSH list a"), 1);
    assert!(waiter.has_nothing());
    assert_eq!(other.number("MOVE list 3"), 1);
    assert_eq!(waiter.receive(), "1) \"list\"\n2) \"a\"");
}

#[test]
fn a_pause_holds_a_command_back_before_it_blocks_but_not_after() {
    let server = TestServer::start();
    let (mut early, mut other, _) = waiting(&server, "0.05");
    let mut late = server.client();
    let id = late.number("CLIENT ID");
    assert_eq!(other.run("CLIENT PAUSE 100000 WRITE"), "OK");
    assert_eq!(
        early.receive(),
        "(nil)",
        "its timeout passes during the pause"
    );
    late.send("BLPOP list 0.001");
    until("it is held back", || flags(&mut other, id) == "bU");
    assert_eq!(other.number(&format!("CLIENT UNBLOCK {id}")), 0);
    assert!(late.has_nothing());
    assert_eq!(other.run("CLIENT UNPAUSE"), "OK");
    assert_eq!(late.receive(), "(nil)");
}

#[test]
fn a_blocked_client_is_not_idle() {
    let server = TestServer::with(|config| config.timeout_s = 1);
    let (mut waiter, mut other, _) = waiting(&server, "30");
    let mut idle = server.client();
    assert_eq!(idle.run("PING"), "PONG");
    assert_eq!(idle.until_closed(), [""; 0]);
    drop(other);
    other = server.client();
    assert_eq!(other.number("RPUSH list a"), 1);
    assert_eq!(waiter.receive(), "1) \"list\"\n2) \"a\"");
}

#[test]
fn statistics_count_a_blocking_command_and_its_error_when_its_wait_ends() {
    let server = TestServer::start();
    let (mut waiter, mut other, id) = waiting(&server, "0");
    // As in Redis since 7.2.
    assert_eq!(field(&mut other, "commandstats", "cmdstat_blpop"), "");
    assert_eq!(other.number(&format!("CLIENT UNBLOCK {id} ERROR")), 1);
    assert!(waiter.receive().starts_with("(error)"));
    let line = field(&mut other, "commandstats", "cmdstat_blpop");
    let is_counted = line.starts_with("calls=1,") && line.ends_with(",failed_calls=1");
    assert!(is_counted, "{line}");
    assert_eq!(
        field(&mut other, "errorstats", "errorstat_UNBLOCKED"),
        "count=1"
    );
}

/// Five hundred clients on four threads wait for the same two keys, and each wait ends as expected.
#[test]
fn each_of_many_waits_ends_in_its_own_way() {
    const CLIENTS: usize = 500;
    let server = TestServer::start();
    let mut other = server.client();
    let mut waiters: Vec<(Client, i64)> = (0..CLIENTS)
        .map(|_| {
            let mut waiter = server.client();
            let id = waiter.number("CLIENT ID");
            (waiter, id)
        })
        .collect();
    for (number, (waiter, _)) in waiters.iter_mut().enumerate() {
        waiter.send(if number % 5 == 0 {
            "BLPOP one two 0.5"
        } else {
            "BRPOP two one 0"
        });
    }
    until("all wait", || {
        field(&mut other, "clients", "blocked_clients") == CLIENTS.to_string()
    });
    for (waiter, id) in waiters.iter_mut().skip(1).step_by(5) {
        assert_eq!(other.number(&format!("CLIENT UNBLOCK {id}")), 1);
        assert_eq!(waiter.receive(), "(nil)");
    }
    for (waiter, _) in waiters.iter_mut().step_by(5) {
        assert_eq!(waiter.receive(), "(nil)");
    }
    assert_eq!(
        field(&mut other, "clients", "blocked_clients"),
        (CLIENTS * 3 / 5).to_string()
    );
    let mut taken = Vec::new();
    for number in 0..CLIENTS * 3 / 5 {
        let key = ["one", "two"][number % 2];
        assert_eq!(other.number(&format!("RPUSH {key} {number}")), 1);
    }
    for (number, (waiter, _)) in waiters.iter_mut().enumerate() {
        if number % 5 >= 2 {
            taken.push(waiter.receive());
        }
    }
    taken.sort_unstable();
    taken.dedup();
    assert_eq!(taken.len(), CLIENTS * 3 / 5);
    assert_eq!(other.number("EXISTS one two"), 0);
    assert_eq!(server.shared().engine.waiting_count(), 0);
}
