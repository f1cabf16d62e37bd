//! The stream: what it has, and links that break.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use damselfly_oracle::sequence::{Generator, Step};
use damselfly_protocol::client::Value as Reply;

use crate::common::{call, info, say, seeded, text};
use crate::link_proxy::LinkProxy;
use crate::replicas::{left_out, ours, redis_of, run, wait_online, wait_same, wait_until};
use crate::write_all_types;

#[test]
fn everything_reaches_a_replica() {
    let primary = ours(&[]);
    let mut connection = primary.connect();
    write_all_types(&mut connection, "before");
    let library = "#!lua name=early\nredis.register_function('early', function() return 1 end)";
    call(&mut connection, &["FUNCTION", "LOAD", library]);
    let replica = redis_of(primary.address(), &[]);
    wait_online(&primary, 1);
    write_all_types(&mut connection, "after");
    let library = "#!lua name=late\nredis.register_function('late', function(keys, args) return redis.call('SET', 'by-function', args[1]) end)";
    call(&mut connection, &["FUNCTION", "LOAD", library]);
    say(&mut connection, "FCALL late 0 value");
    let script = "redis.call('INCR', 'by-script') return redis.call('SPOP', 'set-before')";
    call(&mut connection, &["EVAL", script, "0"]);
    for command in [
        "MULTI",
        "SET in-transaction 1",
        "INCR in-transaction",
        "LPUSH in-transaction x",
        "EXEC",
        "SELECT 3",
        "SET elsewhere 1",
        "SWAPDB 3 4",
        "SET again 1",
        "FLUSHDB",
        "SELECT 0",
        "SET short 1 PX 30",
    ] {
        say(&mut connection, command);
    }
    wait_same(&primary, &replica);
    let mut copy = replica.connect();
    wait_until("the key expires", || {
        say(&mut copy, "EXISTS short") == Reply::Integer(0)
    });
    wait_until("and is deleted", || {
        let keys = info(&mut copy, "db0");
        keys.split(',').next() == info(&mut connection, "db0").split(',').next()
    });
    wait_same(&primary, &replica);
    assert_eq!(text(&say(&mut copy, "GET by-function")), "value");
    let libraries = say(&mut copy, "FUNCTION LIST").to_string();
    assert!(libraries.contains("early") && libraries.contains("late"));
    say(&mut connection, "FUNCTION DELETE early");
    say(&mut connection, "FLUSHALL");
    wait_same(&primary, &replica);
    assert_eq!(say(&mut copy, "DBSIZE"), Reply::Integer(0));
    assert!(
        !say(&mut copy, "FUNCTION LIST")
            .to_string()
            .contains("early")
    );
}

#[test]
fn messages_reach_subscribers_of_a_replica() {
    let primary = ours(&[]);
    let replica = redis_of(primary.address(), &[]);
    wait_online(&primary, 1);
    let mut subscriber = replica.connect();
    say(&mut subscriber, "SUBSCRIBE channel");
    say(&mut subscriber, "SSUBSCRIBE shard");
    let mut connection = primary.connect();
    say(&mut connection, "PUBLISH channel first");
    say(&mut connection, "SPUBLISH shard second");
    call(
        &mut connection,
        &["EVAL", "redis.call('PUBLISH', 'channel', 'third')", "0"],
    );
    say(&mut connection, "MULTI");
    say(&mut connection, "PUBLISH channel fourth");
    say(&mut connection, "EXEC");
    for expected in ["first", "second", "third", "fourth"] {
        let message = subscriber.receive().unwrap().to_string();
        assert!(
            message.contains(expected),
            "{message} instead of {expected}"
        );
    }
}

#[test]
fn a_replica_continues_after_a_cut() {
    let primary = ours(&[]);
    let proxy = LinkProxy::start(primary.address());
    let replica = redis_of(proxy.address(), &[]);
    wait_online(&primary, 1);
    let mut connection = primary.connect();
    for round in 0..5 {
        write_all_types(&mut connection, &format!("{round}"));
        proxy.cut();
        write_all_types(&mut connection, &format!("{round}-cut"));
        wait_online(&primary, 1);
    }
    wait_same(&primary, &replica);
    assert_eq!(info(&mut connection, "sync_full"), "1");
    assert_eq!(info(&mut connection, "sync_partial_ok"), "5");
    assert_eq!(info(&mut connection, "sync_partial_err"), "0");
}

#[test]
fn a_replica_that_has_missed_too_much_begins_again() {
    let primary = ours(&["--repl-backlog-size", "16kb"]);
    let proxy = LinkProxy::start(primary.address());
    let replica = redis_of(proxy.address(), &[]);
    wait_online(&primary, 1);
    let mut connection = primary.connect();
    proxy.refuse(true);
    proxy.cut();
    wait_until("the replica is gone", || {
        info(&mut connection, "connected_slaves") == "0"
    });
    for number in 0..100 {
        call(
            &mut connection,
            &["SET", &format!("key-{number}"), &"x".repeat(10_000)],
        );
    }
    let kept: u64 = info(&mut connection, "repl_backlog_histlen")
        .parse()
        .unwrap();
    assert!((16 << 10..100_000).contains(&kept), "{kept} bytes are kept");
    proxy.refuse(false);
    wait_online(&primary, 1);
    wait_same(&primary, &replica);
    assert_eq!(info(&mut connection, "sync_full"), "2");
    assert_eq!(info(&mut connection, "sync_partial_err"), "1");
}

#[test]
fn a_slow_replica_is_cut() {
    let primary = ours(&["--client-output-buffer-limit", "replica 2mb 0 0"]);
    let proxy = LinkProxy::start(primary.address());
    let replica = redis_of(proxy.address(), &[]);
    wait_online(&primary, 1);
    let mut connection = primary.connect();
    proxy.stall(true);
    let value = "x".repeat(100_000);
    let mut written = 0;
    while info(&mut connection, "connected_slaves") != "0" {
        call(&mut connection, &["SET", "key", &value]);
        written += 1;
        assert!(written < 1000, "the replica is still connected");
    }
    assert!(
        primary
            .log()
            .contains("closed for overcoming of output buffer limits")
    );
    assert_eq!(
        info(&mut connection, "client_output_buffer_limit_disconnections"),
        "1"
    );
    let kept: u64 = info(&mut connection, "mem_total_replication_buffers")
        .parse()
        .unwrap();
    assert!(kept < 2 << 20, "{kept} bytes are kept for nobody");
    proxy.stall(false);
    wait_online(&primary, 1);
    wait_same(&primary, &replica);
}

#[test]
fn random_commands_reach_a_replica_while_the_link_breaks() {
    let count = std::env::var("DAMSELFLY_SEQUENCES").ok();
    let count: u64 = count.and_then(|count| count.parse().ok()).unwrap_or(6);
    let generator = Generator::new(None, &left_out());
    let mut random = seeded();
    for _ in 0..count {
        let seed = random.bits() >> 2;
        println!("sequences of seed {seed}");
        let primary = ours(&[]);
        let proxy = LinkProxy::start(primary.address());
        let replica = redis_of(proxy.address(), &[]);
        wait_online(&primary, 1);
        let halves: Vec<Vec<Step>> = (0..2)
            .map(|half| generator.sequence(seed * 2 + half, 1000))
            .collect();
        let ends = AtomicBool::new(false);
        thread::scope(|scope| {
            let cutter = scope.spawn(|| {
                let mut random = damselfly_oracle::random::Random::new(seed);
                while !ends.load(Relaxed) {
                    match random.below(3) {
                        0 => proxy.cut(),
                        1 => proxy.cut_after(random.below(3000) as u64 + 1),
                        _ => proxy.throttle(random.below(100_000) as u64 + 1000),
                    }
                    thread::sleep(Duration::from_millis(random.below(300) as u64));
                }
                proxy.throttle(0);
            });
            let clients: Vec<_> = halves
                .iter()
                .map(|steps| scope.spawn(|| run(primary.address(), steps)))
                .collect();
            clients
                .into_iter()
                .for_each(|client| client.join().unwrap());
            ends.store(true, Relaxed);
            cutter.join().unwrap();
        });
        wait_online(&primary, 1);
        wait_same(&primary, &replica);
    }
}

#[test]
fn the_backlog_is_dropped_when_nobody_needs_it() {
    let primary = ours(&["--repl-backlog-ttl", "1"]);
    let mut connection = primary.connect();
    assert_eq!(info(&mut connection, "repl_backlog_active"), "0");
    let replica = redis_of(primary.address(), &[]);
    wait_online(&primary, 1);
    let id = info(&mut connection, "master_replid");
    assert_eq!(info(&mut connection, "repl_backlog_active"), "1");
    drop(replica);
    wait_until("the backlog is dropped", || {
        info(&mut connection, "repl_backlog_active") == "0"
    });
    assert_ne!(info(&mut connection, "master_replid"), id);
    say(&mut connection, "SET key value");
    let replica = redis_of(primary.address(), &[]);
    wait_online(&primary, 1);
    wait_same(&primary, &replica);
}
