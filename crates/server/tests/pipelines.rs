//! Pipelines: requests that are sent without waiting for replies.

mod common;

use common::TestServer;
use damselfly_protocol::client::write_command;

/// Bug: requests behind AUTH in one pipeline were refused as too long for an unauthenticated client.
/// Cause: a batch was parsed under the limits that applied before its first request ran. Fix: before
/// authentication, requests are parsed one by one.
#[test]
fn requests_behind_auth_in_a_pipeline_may_be_long() {
    let server = TestServer::with(|config| config.requirepass = String::from("secret"));
    let mut client = server.client();
    let mut requests = Vec::new();
    write_command(&mut requests, &[b"AUTH", b"secret"]);
    let mut mset = vec![&b"MSET"[..]];
    mset.extend([b"a"; 20].map(|word| &word[..]));
    write_command(&mut requests, &mset);
    write_command(&mut requests, &[b"ECHO", &[b'x'; 20_000]]);
    client.send_bytes(&requests);
    assert_eq!(client.receive(), "OK");
    assert_eq!(client.receive(), "OK");
    assert_eq!(client.receive().len(), 20_002);
}

/// Bug: after the password was removed, long requests of clients that had not authenticated were refused. Cause: the
/// limits depended on the client's own state alone. Fix: without a password, no client has to authenticate.
#[test]
fn requests_may_be_long_once_the_password_is_removed() {
    let server = TestServer::with(|config| config.requirepass = String::from("secret"));
    let mut client = server.client();
    assert!(client.run("PING").contains("NOAUTH"));
    server.change(|config| config.requirepass.clear());
    assert_eq!(client.run(&format!("MSET{}", " a".repeat(20))), "OK");
}

/// Bug: requests were lost if the client closed its side while they waited for it to read replies. Cause: a
/// stalled connection was closed as soon as its client closed its side. Fix: it continues as its replies are
/// read, unless it waits for the end of a pause.
#[test]
fn all_requests_run_although_the_client_has_closed_its_side() {
    const REQUESTS: usize = 40;
    let server = TestServer::start();
    let (mut client, mut other) = (server.client(), server.client());
    let mut requests = Vec::new();
    write_command(&mut requests, &[b"SET", b"long", &[b'x'; 1 << 20]]);
    for _ in 0..REQUESTS {
        write_command(&mut requests, &[b"GET", b"long"]);
    }
    write_command(&mut requests, &[b"SET", b"last", b"done"]);
    client.send_bytes(&requests);
    client.end_sending();
    assert_eq!(client.until_closed().len(), 1 + REQUESTS + 1);
    assert_eq!(other.text("GET last"), "done");
}

/// Bug: a long pipeline of requests with long replies took quadratic time. Cause: whenever the connection had
/// to wait for its client, all the remaining input was moved. Fix: input is moved only once half of it has run.
/// This tests that every request still runs once and in order.
#[test]
fn a_long_pipeline_that_stalls_often_is_answered_in_order() {
    const ROUNDS: usize = 300;
    let server = TestServer::start();
    let mut client = server.client();
    let long = vec![0xff; 100_000];
    let mut requests = Vec::new();
    write_command(&mut requests, &[b"SET", b"long", &long]);
    for _ in 0..ROUNDS {
        write_command(&mut requests, &[b"GET", b"long"]);
        write_command(&mut requests, &[b"ECHO", &[b'x'; 3000]]);
        write_command(&mut requests, &[b"INCR", b"count"]);
    }
    client.send_bytes(&requests);
    assert_eq!(client.receive(), "OK");
    for round in 1..=ROUNDS {
        assert!(client.receive().len() > long.len());
        assert_eq!(client.receive().len(), 3002);
        assert_eq!(client.receive(), format!("(integer) {round}"));
    }
}
