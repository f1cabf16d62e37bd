//! Waiting for replicas: WAIT, CLIENT DURABLE, and `min-replicas-to-write`.

use std::time::{Duration, Instant};

use damselfly_protocol::client::Value as Reply;

use crate::common::{call, info, say, set_option, text};
use crate::link_proxy::LinkProxy;
use crate::replicas::{PATIENCE, ours, redis_of, wait_for_link, wait_online, wait_until};
use crate::snapshots::ask_for_snapshot;

#[test]
fn wait_counts_replicas() {
    let primary = ours(&[]);
    let mut connection = primary.connect();
    assert_eq!(say(&mut connection, "WAIT 0 0"), Reply::Integer(0));
    assert_eq!(say(&mut connection, "WAIT 1 10"), Reply::Integer(0));
    let proxy = LinkProxy::start(primary.address());
    let _near = redis_of(primary.address(), &[]);
    let _far = redis_of(proxy.address(), &[]);
    wait_online(&primary, 2);
    for number in 0..20 {
        say(&mut connection, &format!("SET key {number}"));
        assert_eq!(say(&mut connection, "WAIT 2 20000"), Reply::Integer(2));
    }
    // Redis 7.0 says nothing about its disk.
    let reply = say(&mut connection, "WAITAOF 0 1 50");
    assert_eq!(
        reply,
        Reply::Array(vec![Reply::Integer(0), Reply::Integer(0)])
    );
    proxy.stall(true);
    say(&mut connection, "SET key behind");
    let started = Instant::now();
    assert_eq!(say(&mut connection, "WAIT 2 300"), Reply::Integer(1));
    assert!(started.elapsed() >= Duration::from_millis(300));
    // Others are served meanwhile, and CLIENT LIST shows who waits.
    let mut waiting = primary.connect();
    waiting.send(b"WAIT 2 0\r\n").unwrap();
    wait_until("the client waits", || {
        text(&say(&mut connection, "CLIENT LIST")).contains("flags=b")
    });
    proxy.stall(false);
    assert_eq!(waiting.receive().unwrap(), Reply::Integer(2));
    // A transaction does not wait.
    for command in ["MULTI", "SET key 1", "WAIT 3 0", "GET key"] {
        say(&mut connection, command);
    }
    let Reply::Array(replies) = say(&mut connection, "EXEC") else {
        panic!("no array");
    };
    assert_eq!(replies.len(), 3);
}

#[test]
fn a_client_can_have_all_its_writes_on_replicas() {
    let primary = ours(&[]);
    let mut connection = primary.connect();
    let refused = connection
        .call(&["CLIENT", "DURABLE", "OFF", "REPLICAS", "1"])
        .unwrap();
    assert!(
        refused.to_string().contains("needs 1 replicas"),
        "{refused}"
    );
    let proxy = LinkProxy::start(primary.address());
    let replica = redis_of(proxy.address(), &[]);
    wait_for_link(&replica);
    say(&mut connection, "CLIENT DURABLE OFF REPLICAS 1");
    let mut copy = replica.connect();
    for number in 0..50 {
        say(&mut connection, &format!("SET key {number}"));
        assert_eq!(text(&say(&mut copy, "GET key")), number.to_string());
    }
    proxy.stall(true);
    connection.send(b"SET key late\r\n").unwrap();
    let mut other = primary.connect();
    wait_until("the write is visible", || {
        text(&say(&mut other, "GET key")) == "late"
    });
    connection
        .stream()
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    assert!(connection.receive().is_err(), "the reply must wait");
    connection
        .stream()
        .set_read_timeout(Some(PATIENCE))
        .unwrap();
    proxy.stall(false);
    assert_eq!(connection.receive().unwrap(), Reply::Simple(b"OK".to_vec()));
    assert_eq!(text(&say(&mut copy, "GET key")), "late");
    say(&mut connection, "CLIENT DURABLE OFF");
    proxy.stall(true);
    say(&mut connection, "SET key soon");
}

/// Bug: a server that stopped sent replies that waited for replicas, which did not have the changes.
#[test]
fn a_server_that_stops_does_not_send_replies_that_wait_for_replicas() {
    let primary = ours(&[]);
    let proxy = LinkProxy::start(primary.address());
    let replica = redis_of(proxy.address(), &[]);
    wait_for_link(&replica);
    let (mut connection, mut other) = (primary.connect(), primary.connect());
    say(&mut connection, "CLIENT DURABLE OFF REPLICAS 1");
    say(&mut connection, "SET key early");
    proxy.stall(true);
    connection.send(b"SET key late\r\n").unwrap();
    wait_until("the write is visible", || {
        text(&say(&mut other, "GET key")) == "late"
    });
    other.send(b"SHUTDOWN NOSAVE NOW FORCE\r\n").unwrap();
    assert!(connection.closed_by_server());
}

#[test]
fn writes_need_good_replicas_if_that_is_configured() {
    let primary = ours(&[
        "--min-replicas-to-write",
        "1",
        "--min-replicas-max-lag",
        "2",
    ]);
    let mut connection = primary.connect();
    let is_refused = |reply: Reply| reply.to_string().contains("NOREPLICAS");
    let write_in_script = ["EVAL", "return redis.call('SET', 'key', 1)", "0"];
    wait_until("writes are refused", || {
        is_refused(connection.call(&["SET", "key", "1"]).unwrap())
    });
    assert!(is_refused(connection.call(&write_in_script).unwrap()));
    say(&mut connection, "PING");
    assert!(matches!(say(&mut connection, "GET key"), Reply::Null(_)));
    assert_eq!(info(&mut connection, "min_slaves_good_slaves"), "0");
    let proxy = LinkProxy::start(primary.address());
    let _replica = redis_of(proxy.address(), &[]);
    wait_until("writes are allowed", || {
        !is_refused(connection.call(&["SET", "key", "1"]).unwrap())
    });
    call(&mut connection, &write_in_script);
    assert_eq!(info(&mut connection, "min_slaves_good_slaves"), "1");
    proxy.stall(true);
    wait_until("writes are refused again", || {
        is_refused(connection.call(&["SET", "key", "1"]).unwrap())
    });
    set_option(&mut connection, "min-replicas-to-write", "0");
    say(&mut connection, "SET key 1");
}

#[test]
fn a_replica_counts_as_soon_as_it_is_shown_as_online() {
    // One that had not acknowledged its snapshot was shown as online but did not count. So a write got NOREPLICAS although its client had
    // waited until the replica was online.
    let primary = ours(&["--min-replicas-max-lag", "600"]);
    let mut connection = primary.connect();
    let mut replica = ask_for_snapshot(&primary);
    // It reads its snapshot and never acknowledges it.
    std::thread::spawn(move || std::io::copy(&mut replica, &mut std::io::sink()));
    wait_online(&primary, 1);
    set_option(&mut connection, "min-replicas-to-write", "1");
    say(&mut connection, "SET key 1");
    let role = say(&mut connection, "ROLE").to_string();
    assert!(role.contains("\"7\""), "{role}");
}

#[test]
fn client_unblock_ends_a_wait() {
    let primary = ours(&[]);
    let mut connection = primary.connect();
    for (how, expected) in [("TIMEOUT", "(integer) 0"), ("ERROR", "UNBLOCKED")] {
        let mut waiting = primary.connect();
        let id = text(&say(&mut waiting, "CLIENT ID"));
        waiting.send(b"WAIT 1 0\r\n").unwrap();
        wait_until("the client waits", || {
            info(&mut connection, "blocked_clients") == "1"
        });
        let ended = say(&mut connection, &format!("CLIENT UNBLOCK {id} {how}"));
        assert_eq!(ended, Reply::Integer(1));
        let reply = waiting.receive().unwrap().to_string();
        assert!(reply.contains(expected), "{reply}");
        say(&mut waiting, "PING");
    }
}
