//! FAILOVER, and SHUTDOWN with replicas.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use damselfly_protocol::client::Value as Reply;

use crate::common::{info, say, text};
use crate::link_proxy::LinkProxy;
use crate::replicas::{PATIENCE, ours, redis_of, wait_online, wait_same, wait_until};

#[test]
fn the_role_is_handed_over_to_a_redis() {
    let primary = ours(&[]);
    let replica = redis_of(primary.address(), &[]);
    wait_online(&primary, 1);
    let (mut ours, mut theirs) = (primary.connect(), replica.connect());
    let port = replica.address().port();
    let before: Vec<String> = [
        "failover abort",
        "failover to 127.0.0.1 1",
        "failover force",
    ]
    .iter()
    .map(|command| {
        let words: Vec<&str> = command.split(' ').collect();
        ours.call(&words).unwrap().to_string()
    })
    .collect();
    assert!(before[0].contains("No failover in progress."), "{before:?}");
    assert!(before[1].contains("is not a replica"), "{before:?}");
    assert!(before[2].contains("requires both a timeout"), "{before:?}");
    let (ends, written) = (AtomicBool::new(false), std::sync::atomic::AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut connection = primary.connect();
            while !ends.load(Relaxed) {
                match connection.call(&["INCR", "counter"]).unwrap() {
                    Reply::Integer(_) => written.fetch_add(1, Relaxed),
                    // It is a replica now.
                    _ => return,
                };
            }
        });
        thread::sleep(Duration::from_millis(200));
        say(
            &mut ours,
            &format!("FAILOVER TO 127.0.0.1 {port} TIMEOUT 30000"),
        );
        wait_until("the Redis is the primary", || {
            info(&mut theirs, "role") == "master"
        });
        wait_until("our server follows it", || {
            info(&mut ours, "role") == "slave" && info(&mut ours, "master_link_status") == "up"
        });
        ends.store(true, Relaxed);
    });
    assert_eq!(
        text(&say(&mut theirs, "GET counter")),
        written.load(Relaxed).to_string()
    );
    assert_eq!(info(&mut theirs, "sync_full"), "0");
    assert_eq!(info(&mut theirs, "sync_partial_ok"), "1");
    assert_eq!(info(&mut ours, "master_failover_state"), "no-failover");
    say(&mut theirs, "SET after 1");
    wait_same(&replica, &primary);
}

#[test]
fn a_failover_without_a_replica_in_time_is_given_up() {
    let primary = ours(&[]);
    let proxy = LinkProxy::start(primary.address());
    let _replica = redis_of(proxy.address(), &[]);
    wait_online(&primary, 1);
    let mut connection = primary.connect();
    proxy.stall(true);
    say(&mut connection, "SET key 1");
    say(&mut connection, "FAILOVER TIMEOUT 300");
    assert_eq!(
        info(&mut connection, "master_failover_state"),
        "waiting-for-sync"
    );
    // The write waits until the failover is given up.
    say(&mut connection, "SET key 2");
    assert_eq!(
        info(&mut connection, "master_failover_state"),
        "no-failover"
    );
    say(&mut connection, "FAILOVER");
    say(&mut connection, "FAILOVER ABORT");
    say(&mut connection, "SET key 3");
}

/// Bug: writes were held back for ever if the last replica left during FAILOVER, whatever its TIMEOUT.
#[test]
fn a_failover_is_given_up_in_time_if_all_replicas_have_left() {
    let primary = ours(&["--repl-diskless-sync-delay", "0"]);
    let mut replica = primary.connect();
    replica.send(b"SYNC\r\n").unwrap();
    let mut connection = primary.connect();
    wait_online(&primary, 1);
    say(&mut connection, "FAILOVER TIMEOUT 500");
    drop(replica);
    wait_until("the replica has left", || {
        info(&mut connection, "connected_slaves") == "0"
    });
    assert_eq!(say(&mut connection, "SET key 1").to_string(), "OK");
    assert_eq!(
        info(&mut connection, "master_failover_state"),
        "no-failover"
    );
}

#[test]
fn a_shutdown_waits_for_replicas() {
    let mut primary = ours(&[]);
    let proxy = LinkProxy::start(primary.address());
    let replica = redis_of(proxy.address(), &[]);
    wait_online(&primary, 1);
    let mut connection = primary.connect();
    proxy.stall(true);
    say(&mut connection, "SET key value");
    let mut stopper = primary.connect();
    stopper.send(b"SHUTDOWN\r\n").unwrap();
    wait_until("the shutdown waits", || {
        primary.log().contains("Waiting for replicas")
    });
    say(&mut connection, "SHUTDOWN ABORT");
    assert!(
        stopper
            .receive()
            .unwrap()
            .to_string()
            .contains("Errors trying to SHUTDOWN")
    );
    say(&mut connection, "SET key last");
    stopper.send(b"SHUTDOWN\r\n").unwrap();
    wait_until("the shutdown waits", || {
        primary.log().matches("Waiting for replicas").count() == 2
    });
    proxy.stall(false);
    assert!(primary.wait(PATIENCE).unwrap().is_some());
    let mut copy = replica.connect();
    assert_eq!(text(&say(&mut copy, "GET key")), "last");
}
