//! Our server as a primary, with a real Redis as its replica.

#[path = "../../tls/tests/common/mod.rs"]
mod certificates;
mod common;
#[path = "common/link_proxy.rs"]
mod link_proxy;
#[path = "common/replication.rs"]
mod replication;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use common::{call, info, say, seeded, set_option, text};
use damselfly_oracle::connection::Connection;
use damselfly_oracle::sequence::{Generator, Step};
use damselfly_oracle::server::{Program, Server};
use damselfly_protocol::client::Value as Reply;
use link_proxy::LinkProxy;
use replication::*;

/// Some data of every type.
fn write_all_types(connection: &mut Connection, name: &str) {
    for command in [
        "SET string-# value",
        "SETEX passing-# 1000 value",
        "APPEND string-# more",
        "RPUSH list-# a b c 1 2 3",
        "LMOVE list-# other-# LEFT RIGHT",
        "SADD set-# a b c",
        "SPOP set-#",
        "SADD numbers-# 1 2 3",
        "HSET hash-# field value other 1",
        "HINCRBYFLOAT hash-# other 0.5",
        "ZADD sorted-# 1 a 2.5 b 3 c",
        "ZPOPMIN sorted-#",
        "XADD stream-# * field value",
        "XADD stream-# * field value",
        "XGROUP CREATE stream-# group 0",
        "XREADGROUP GROUP group consumer COUNT 1 STREAMS stream-# >",
        "PFADD log-# a b c",
        "SETBIT bits-# 7 1",
        "GEOADD places-# 13.361389 38.115556 Palermo",
        "INCRBYFLOAT float-# 10.5",
        "RENAME float-# number-#",
        "COPY list-# copy-#",
    ] {
        say(connection, &command.replace('#', name));
    }
}

#[test]
fn everything_reaches_a_replica() {
    let primary = primary(&[]);
    let mut connection = primary.connect();
    write_all_types(&mut connection, "before");
    let library = "#!lua name=early\nredis.register_function('early', function() return 1 end)";
    call(&mut connection, &["FUNCTION", "LOAD", library]);
    let replica = redis_of(primary.address());
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
    let primary = primary(&[]);
    let replica = redis_of(primary.address());
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
    let primary = primary(&[]);
    let proxy = LinkProxy::start(primary.address());
    let replica = redis_of(proxy.address());
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
    let primary = primary(&["--repl-backlog-size", "16kb"]);
    let proxy = LinkProxy::start(primary.address());
    let replica = redis_of(proxy.address());
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
    let primary = primary(&["--client-output-buffer-limit", "replica 2mb 0 0"]);
    let proxy = LinkProxy::start(primary.address());
    let replica = redis_of(proxy.address());
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
        let primary = primary(&[]);
        let proxy = LinkProxy::start(primary.address());
        let replica = redis_of(proxy.address());
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
                .map(|steps| scope.spawn(|| run(&primary, steps)))
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
fn a_full_synchronisation_under_load_loses_nothing() {
    let primary = primary(&[]);
    let mut connection = primary.connect();
    call(
        &mut connection,
        &["DEBUG", "POPULATE", "50000", "key", "200"],
    );
    let ends = AtomicBool::new(false);
    let replicas = thread::scope(|scope| {
        for writer in 0..2 {
            let (primary, ends) = (&primary, &ends);
            scope.spawn(move || {
                let (mut connection, mut number) = (primary.connect(), 0);
                while !ends.load(Relaxed) {
                    number += 1;
                    say(&mut connection, &format!("INCR counter-{writer}"));
                    say(
                        &mut connection,
                        &format!("SET key:{} {number}", number % 50_000),
                    );
                    say(
                        &mut connection,
                        &format!("SADD set-{} {number}", number % 10),
                    );
                    say(&mut connection, &format!("SPOP set-{}", number % 7));
                }
            });
        }
        let replicas: Vec<Server> = (0..2).map(|_| redis_of(primary.address())).collect();
        wait_online(&primary, 2);
        thread::sleep(Duration::from_millis(300));
        ends.store(true, Relaxed);
        replicas
    });
    replicas
        .iter()
        .for_each(|replica| wait_same(&primary, replica));
}

#[test]
fn replicas_share_a_snapshot_with_and_without_a_file() {
    for is_diskless in ["yes", "no"] {
        let primary = primary(&[
            "--repl-diskless-sync",
            is_diskless,
            "--repl-diskless-sync-delay",
            "100",
            "--repl-diskless-sync-max-replicas",
            "2",
            "--rdb-key-save-delay",
            "1000",
        ]);
        let mut connection = primary.connect();
        call(&mut connection, &["DEBUG", "POPULATE", "300"]);
        let replicas: Vec<Server> = (0..2).map(|_| redis_of(primary.address())).collect();
        wait_online(&primary, 2);
        replicas
            .iter()
            .for_each(|replica| wait_same(&primary, replica));
        assert_eq!(info(&mut connection, "sync_full"), "2");
        let begun = primary.log().matches("Starting BGSAVE for SYNC").count();
        match is_diskless {
            "yes" => assert_eq!(begun, 1),
            _ => assert!((1..=2).contains(&begun)),
        }
    }
}

#[test]
fn a_snapshot_that_breaks_off_is_begun_again() {
    for is_diskless in ["yes", "no"] {
        let primary = primary(&["--repl-diskless-sync", is_diskless]);
        let mut connection = primary.connect();
        call(
            &mut connection,
            &["DEBUG", "POPULATE", "20000", "key", "500"],
        );
        let proxy = LinkProxy::start(primary.address());
        proxy.cut_after(100_000);
        let replica = redis_of(proxy.address());
        wait_until("the link was cut and is used again", || {
            proxy.connections() > 1
        });
        wait_online(&primary, 1);
        wait_same(&primary, &replica);
    }
}

#[test]
fn wait_counts_replicas() {
    let primary = primary(&[]);
    let mut connection = primary.connect();
    assert_eq!(say(&mut connection, "WAIT 0 0"), Reply::Integer(0));
    assert_eq!(say(&mut connection, "WAIT 1 10"), Reply::Integer(0));
    let proxy = LinkProxy::start(primary.address());
    let _near = redis_of(primary.address());
    let _far = redis_of(proxy.address());
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
    let primary = primary(&[]);
    let mut connection = primary.connect();
    let refused = connection
        .call(&["CLIENT", "DURABLE", "OFF", "REPLICAS", "1"])
        .unwrap();
    assert!(
        refused.to_string().contains("needs 1 replicas"),
        "{refused}"
    );
    let proxy = LinkProxy::start(primary.address());
    let replica = redis_of(proxy.address());
    wait_link(&replica);
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

#[test]
fn writes_need_good_replicas_if_that_is_configured() {
    let primary = primary(&[
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
    let _replica = redis_of(proxy.address());
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
fn what_clients_see_of_replicas() {
    let primary = primary(&[]);
    let replica = redis_of(primary.address());
    wait_online(&primary, 1);
    let mut connection = primary.connect();
    say(&mut connection, "SET key value");
    wait_same(&primary, &replica);
    let port = replica.address().port();
    wait_until("the offset is acknowledged", || {
        let offset = info(&mut connection, "master_repl_offset");
        info(&mut connection, "slave0")
            == format!("ip=127.0.0.1,port={port},state=online,offset={offset},lag=0")
    });
    let Reply::Array(role) = say(&mut connection, "ROLE") else {
        panic!("no array");
    };
    assert_eq!(text(&role[0]), "master");
    let Reply::Array(replicas) = &role[2] else {
        panic!("no array");
    };
    let Reply::Array(shown) = &replicas[0] else {
        panic!("no array");
    };
    assert_eq!(
        (text(&shown[0]), text(&shown[1])),
        ("127.0.0.1".into(), port.to_string())
    );
    assert_eq!(info(&mut connection, "connected_clients"), "1");
    for name in ["replica", "slave"] {
        let listed = text(&say(&mut connection, &format!("CLIENT LIST TYPE {name}")));
        assert!(
            listed.contains("flags=S") && listed.contains("cmd=replconf"),
            "{listed}"
        );
    }
    assert_eq!(
        say(&mut connection, "CLIENT KILL TYPE replica"),
        Reply::Integer(1)
    );
    wait_until("the replica is back", || {
        info(&mut connection, "sync_partial_ok") == "1" && online(&mut connection) == 1
    });
    // A replica that has something to say beside acknowledgements is disconnected.
    let mut rogue = primary.connect();
    rogue.send(b"SYNC\r\n").unwrap();
    wait_until("there are two replicas", || {
        info(&mut connection, "connected_slaves") == "2"
    });
    rogue.send(b"PING\r\n").unwrap();
    assert!(rogue.closed_by_server());
}

#[test]
fn redis_cli_fetches_a_snapshot_and_follows() {
    let primary = primary(&[]);
    let mut connection = primary.connect();
    write_all_types(&mut connection, "some");
    let library = "#!lua name=mine\nredis.register_function('mine', function() return 1 end)";
    call(&mut connection, &["FUNCTION", "LOAD", library]);
    let port = primary.address().port().to_string();
    for (is_diskless, option) in [
        ("yes", "--rdb"),
        ("no", "--rdb"),
        ("yes", "--functions-rdb"),
    ] {
        set_option(&mut connection, "repl-diskless-sync", is_diskless);
        let file = primary.folder().join("fetched.rdb");
        let fetched = Command::new("redis-cli")
            .args(["-p", &port, option])
            .arg(&file)
            .output()
            .unwrap();
        assert!(fetched.status.success(), "{fetched:?}");
        let saved = common::Saved::read(&file).unwrap();
        assert_eq!(saved.functions.len(), 1);
        assert_eq!(saved.keys.is_empty(), option == "--functions-rdb");
    }
    set_option(&mut connection, "repl-diskless-sync", "yes");
    let mut follower = Command::new("redis-cli")
        .args(["-p", &port, "--replica"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_online(&primary, 1);
    say(&mut connection, "SET followed 1");
    let lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let found = lines.map_while(Result::ok).any(|line| {
        line.contains("\"set\",\"followed\",\"1\"") || line.contains("\"SET\",\"followed\",\"1\"")
    });
    follower.kill().unwrap();
    follower.wait().unwrap();
    assert!(found);
}

#[test]
fn sync_without_capabilities_sends_a_file_of_known_length() {
    let primary = primary(&[]);
    let mut connection = primary.connect();
    say(&mut connection, "SET key value");
    let mut stream = std::net::TcpStream::connect(primary.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"SYNC\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.starts_with('$') {
        head.clear();
        reader.read_line(&mut head).unwrap();
    }
    let bytes: usize = head[1..].trim().parse().expect("a length");
    let mut snapshot = vec![0; bytes];
    reader.read_exact(&mut snapshot).unwrap();
    assert!(snapshot.starts_with(b"REDIS"));
    say(&mut connection, "SET key other");
    let mut stream = Vec::new();
    while !stream.ends_with(b"$5\r\nother\r\n") {
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        stream.push(byte[0]);
    }
}

#[test]
fn the_role_is_handed_over_to_a_redis() {
    let primary = primary(&[]);
    let replica = redis_of(primary.address());
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
    let primary = primary(&[]);
    let proxy = LinkProxy::start(primary.address());
    let _replica = redis_of(proxy.address());
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

#[test]
fn a_shutdown_waits_for_replicas() {
    let mut primary = primary(&[]);
    let proxy = LinkProxy::start(primary.address());
    let replica = redis_of(proxy.address());
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

#[test]
fn the_backlog_is_dropped_when_nobody_needs_it() {
    let primary = primary(&["--repl-backlog-ttl", "1"]);
    let mut connection = primary.connect();
    assert_eq!(info(&mut connection, "repl_backlog_active"), "0");
    let replica = redis_of(primary.address());
    wait_online(&primary, 1);
    let id = info(&mut connection, "master_replid");
    assert_eq!(info(&mut connection, "repl_backlog_active"), "1");
    drop(replica);
    wait_until("the backlog is dropped", || {
        info(&mut connection, "repl_backlog_active") == "0"
    });
    assert_ne!(info(&mut connection, "master_replid"), id);
    say(&mut connection, "SET key value");
    let replica = redis_of(primary.address());
    wait_online(&primary, 1);
    wait_same(&primary, &replica);
}

#[test]
fn a_replica_needs_rights() {
    let primary = primary(&[]);
    let mut connection = primary.connect();
    say(
        &mut connection,
        "ACL SETUSER copier on >secret +psync +replconf +ping",
    );
    say(&mut connection, "ACL SETUSER reader on >secret +@read");
    let start = |user| {
        replica_of(
            &Program::reference(),
            primary.address(),
            &["--masteruser", user, "--masterauth", "secret"],
        )
    };
    let refused = start("reader");
    wait_until("the reader is refused", || refused.log().contains("NOPERM"));
    assert_eq!(info(&mut connection, "connected_slaves"), "0");
    let replica = start("copier");
    wait_online(&primary, 1);
    wait_same(&primary, &replica);
}

#[test]
fn a_replica_follows_over_tls() {
    let files = certificates::Files::new();
    let (certificate, key) = (files.path("server.crt"), files.path("server.key"));
    let authority = files.path("ca.crt");
    let encryption = [
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &authority,
    ];
    let tls_port = damselfly_oracle::server::free_port().unwrap();
    let port = tls_port.to_string();
    let with_port = [&encryption[..], &["--tls-port", &port]].concat();
    let primary = primary(&with_port);
    let mut connection = primary.connect();
    call(
        &mut connection,
        &["DEBUG", "POPULATE", "20000", "key", "100"],
    );
    let address = std::net::SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, tls_port));
    let proxy = LinkProxy::start(address);
    let with_tls = [&encryption[..], &["--tls-replication", "yes"]].concat();
    let replica = replica_of(&Program::reference(), proxy.address(), &with_tls);
    wait_online(&primary, 1);
    for round in 0..3 {
        write_all_types(&mut connection, &round.to_string());
        proxy.cut();
        for number in 0..100 {
            call(
                &mut connection,
                &["SET", &format!("large-{number}"), &"x".repeat(5000)],
            );
        }
        wait_online(&primary, 1);
    }
    wait_same(&primary, &replica);
    assert_eq!(info(&mut connection, "sync_full"), "1");
    let listed = text(&say(&mut connection, "CLIENT LIST TYPE replica"));
    assert!(listed.contains("tls="), "{listed}");
}

#[test]
fn a_restarted_primary_continues_its_history() {
    let folder = damselfly_oracle::server::ScratchFolder::create().unwrap();
    let path = folder.path().to_str().unwrap();
    let arguments = ["--dir", path, "--save", "3600 1"];
    let mut first = primary(&arguments);
    let proxy = LinkProxy::start(first.address());
    let replica = redis_of(proxy.address());
    wait_online(&first, 1);
    write_all_types(&mut first.connect(), "first");
    wait_same(&first, &replica);
    proxy.refuse(true);
    assert!(first.terminate(PATIENCE).unwrap().is_some());
    let second = primary(&arguments);
    proxy.set_target(second.address());
    let mut connection = second.connect();
    common::wait_until_loaded(&mut connection);
    write_all_types(&mut connection, "second");
    proxy.refuse(false);
    wait_online(&second, 1);
    wait_same(&second, &replica);
    assert_eq!(info(&mut connection, "sync_full"), "0", "{}", second.log());
    assert_eq!(info(&mut connection, "sync_partial_ok"), "1");
}

#[test]
fn client_unblock_ends_a_wait() {
    let primary = primary(&[]);
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

#[test]
fn a_snapshot_only_for_replicas_can_be_removed() {
    let primary = primary(&["--repl-diskless-sync", "no", "--rdb-del-sync-files", "yes"]);
    let mut connection = primary.connect();
    write_all_types(&mut connection, "some");
    let replica = redis_of(primary.address());
    wait_online(&primary, 1);
    wait_same(&primary, &replica);
    assert!(!common::snapshot_path(&mut connection).exists());
}
