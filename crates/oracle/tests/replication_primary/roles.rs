//! FAILOVER, and SHUTDOWN with replicas.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use damselfly_protocol::client::Value as Reply;

use crate::common::{info, say, text};
use crate::link_proxy::LinkProxy;
use crate::replicas::{
    PATIENCE, follow, ours, redis_of, wait_for_link, wait_online, wait_same, wait_until,
};

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

/// Bug: a forced failover lost writes that the new primary had received, and all replicas had to synchronise in full. Cause: it changed its role before
/// it had applied them. Fix: PSYNC with FAILOVER waits for the offset that it names, while the link to the old primary is up.
#[test]
fn a_forced_failover_keeps_what_is_on_its_way() {
    let primary = ours(&[]);
    let proxy = LinkProxy::start(primary.address());
    let replica = ours(&[]);
    follow(&replica, proxy.address());
    wait_online(&primary, 1);
    wait_same(&primary, &replica);
    let mut connection = primary.connect();
    proxy.stall(true);
    say(&mut connection, "SET key late");
    let port = replica.address().port();
    say(
        &mut connection,
        &format!("FAILOVER TO 127.0.0.1 {port} TIMEOUT 1 FORCE"),
    );
    wait_until("the new primary is asked", || {
        replica.log().contains("Failover request received")
    });
    proxy.stall(false);
    wait_for_link(&primary);
    let mut new_primary = replica.connect();
    assert_eq!(info(&mut new_primary, "role"), "master");
    assert_eq!(text(&say(&mut new_primary, "GET key")), "late");
    assert_eq!(info(&mut new_primary, "sync_partial_ok"), "1");
    assert_eq!(info(&mut new_primary, "sync_full"), "0");
    wait_same(&replica, &primary);
}

/// Bug: after a failover that was given up, replicas had to synchronise in full. Cause: a replica got the first bytes of the new history through its old
/// connection, which its thread had yet to close. Fix: a connection that shall be closed gets nothing more of the stream.
#[test]
fn replicas_continue_after_a_failover_that_the_target_refuses() {
    const ROUNDS: u64 = 5;
    let primary = ours(&[]);
    let (target, other) = (ours(&[]), ours(&[]));
    for replica in [&target, &other] {
        follow(replica, primary.address());
    }
    wait_online(&primary, 2);
    let (mut connection, mut refusing) = (primary.connect(), target.connect());
    say(&mut refusing, "ACL SETUSER default -psync");
    let before = info(&mut connection, "sync_full");
    let port = target.address().port();
    for round in 1..=ROUNDS {
        say(&mut connection, &format!("FAILOVER TO 127.0.0.1 {port}"));
        // Waits until the failover is given up.
        say(&mut connection, &format!("SET key {round}"));
        wait_until("both replicas have continued", || {
            let continued = info(&mut connection, "sync_partial_ok").parse::<u64>();
            continued.unwrap() == 2 * round || info(&mut connection, "sync_full") != before
        });
        assert_eq!(info(&mut connection, "sync_full"), before, "round {round}");
        wait_online(&primary, 2);
    }
    for replica in [&target, &other] {
        wait_same(&primary, replica);
    }
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

/// Bug: a server that stopped waited, up to `shutdown-timeout`, for replicas that had yet to get their snapshot, even if it had written nothing. Redis compares
/// the offset that the replica has acknowledged, which is zero then.
#[test]
fn a_shutdown_without_any_write_waits_for_no_snapshot() {
    let mut primary = ours(&[
        "--repl-diskless-sync-delay",
        "1000",
        "--repl-ping-replica-period",
        "1000",
    ]);
    let replica = ours(&[]);
    follow(&replica, primary.address());
    let mut connection = primary.connect();
    wait_until("the replica waits for its snapshot", || {
        text(&say(&mut connection, "INFO replication")).contains("state=wait_bgsave")
    });
    connection.send(b"SHUTDOWN NOSAVE\r\n").unwrap();
    assert!(primary.wait(PATIENCE).unwrap().is_some());
    let log = primary.log();
    assert!(!log.contains("Waiting for replicas"), "{log}");
}
