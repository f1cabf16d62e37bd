//! Full synchronisations, and histories that survive a restart.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use damselfly_oracle::server::Server;

use crate::common::{call, info, say, set_option};
use crate::link_proxy::LinkProxy;
use crate::replicas::{PATIENCE, ours, redis_of, wait_online, wait_same, wait_until};
use crate::write_all_types;

#[test]
fn a_full_synchronisation_under_load_loses_nothing() {
    let primary = ours(&[]);
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
        let replicas: Vec<Server> = (0..2).map(|_| redis_of(primary.address(), &[])).collect();
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
        let primary = ours(&[
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
        let replicas: Vec<Server> = (0..2).map(|_| redis_of(primary.address(), &[])).collect();
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
        let primary = ours(&["--repl-diskless-sync", is_diskless]);
        let mut connection = primary.connect();
        call(
            &mut connection,
            &["DEBUG", "POPULATE", "20000", "key", "500"],
        );
        let proxy = LinkProxy::start(primary.address());
        proxy.cut_after(100_000);
        let replica = redis_of(proxy.address(), &[]);
        wait_until("the link was cut and is used again", || {
            proxy.connections() > 1
        });
        wait_online(&primary, 1);
        wait_same(&primary, &replica);
    }
}

#[test]
fn a_snapshot_only_for_replicas_can_be_removed() {
    let primary = ours(&["--repl-diskless-sync", "no", "--rdb-del-sync-files", "yes"]);
    let mut connection = primary.connect();
    write_all_types(&mut connection, "some");
    let replica = redis_of(primary.address(), &[]);
    wait_online(&primary, 1);
    wait_same(&primary, &replica);
    assert!(!crate::common::snapshot_path(&mut connection).exists());
}

/// Connects a replica that asks for a snapshot without a file, if there can be one, and never acknowledges it.
pub fn ask_for_snapshot(primary: &Server) -> std::net::TcpStream {
    let mut stream = std::net::TcpStream::connect(primary.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // A replica must have read the reply before it asks.
    let (request, mut reply) = (b"REPLCONF listening-port 7 capa eof\r\n", [0; 5]);
    stream.write_all(request).unwrap();
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"+OK\r\n");
    stream.write_all(b"PSYNC ? -1\r\n").unwrap();
    stream
}

#[test]
fn a_snapshot_is_given_up_when_its_last_replica_leaves() {
    // A snapshot in a file went on, and replicas that came later waited for its end.
    for is_diskless in ["yes", "no"] {
        // A save takes an hour.
        let primary = ours(&[
            "--repl-diskless-sync",
            is_diskless,
            "--rdb-key-save-delay",
            "360000000",
        ]);
        let mut connection = primary.connect();
        call(&mut connection, &["DEBUG", "POPULATE", "10"]);
        // Replicas wait while another save is in progress. So both share the next snapshot.
        say(&mut connection, "BGSAVE");
        let replicas = [ask_for_snapshot(&primary), ask_for_snapshot(&primary)];
        wait_until("both wait", || {
            info(&mut connection, "connected_slaves") == "2"
        });
        // That ends the save.
        for command in ["MULTI", "FLUSHALL", "MSET a 1 b 2 c 3 d 4", "EXEC"] {
            say(&mut connection, command);
        }
        wait_until("their snapshot has begun", || {
            primary.log().contains("Starting BGSAVE for SYNC")
        });
        assert_eq!(info(&mut connection, "rdb_bgsave_in_progress"), "1");
        for (replica, left) in replicas.into_iter().zip(["1", "0"]) {
            drop(replica);
            wait_until("it has left", || {
                info(&mut connection, "connected_slaves") == left
            });
        }
        wait_until("the snapshot has ended", || {
            info(&mut connection, "rdb_bgsave_in_progress") == "0"
        });
        let log = primary.log();
        let last_left = log.rfind("Connection with replica").unwrap();
        let given_up = log.find("was given up: all replicas").unwrap();
        assert!(last_left < given_up, "{log}");
        assert_eq!(info(&mut connection, "rdb_last_bgsave_status"), "ok");
        // The next replica does not wait for anything.
        set_option(&mut connection, "rdb-key-save-delay", "0");
        let replica = redis_of(primary.address(), &[]);
        wait_online(&primary, 1);
        wait_same(&primary, &replica);
    }
}

#[test]
fn a_snapshot_that_save_points_want_is_completed_without_replicas() {
    let primary = ours(&[
        "--repl-diskless-sync",
        "no",
        "--rdb-key-save-delay",
        "100000",
        "--save",
        "3600 1000000",
    ]);
    let mut connection = primary.connect();
    call(&mut connection, &["DEBUG", "POPULATE", "10"]);
    let replica = ask_for_snapshot(&primary);
    wait_until("it has begun", || {
        info(&mut connection, "rdb_bgsave_in_progress") == "1"
    });
    drop(replica);
    wait_until("the snapshot has ended", || {
        info(&mut connection, "rdb_bgsave_in_progress") == "0"
    });
    assert!(primary.log().contains("DB saved on disk: 10 keys"));
}

#[test]
fn sync_without_capabilities_sends_a_file_of_known_length() {
    let primary = ours(&[]);
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
fn redis_cli_fetches_a_snapshot_and_follows() {
    let primary = ours(&[]);
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
        let saved = crate::common::Saved::read(&file).unwrap();
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
fn a_restarted_primary_continues_its_history() {
    let folder = damselfly_oracle::server::ScratchFolder::create().unwrap();
    let path = folder.path().to_str().unwrap();
    let arguments = ["--dir", path, "--save", "3600 1"];
    let mut first = ours(&arguments);
    let proxy = LinkProxy::start(first.address());
    let replica = redis_of(proxy.address(), &[]);
    wait_online(&first, 1);
    write_all_types(&mut first.connect(), "first");
    wait_same(&first, &replica);
    proxy.refuse(true);
    assert!(first.terminate(PATIENCE).unwrap().is_some());
    let second = ours(&arguments);
    proxy.set_target(second.address());
    let mut connection = second.connect();
    crate::common::wait_until_loaded(&mut connection);
    write_all_types(&mut connection, "second");
    proxy.refuse(false);
    wait_online(&second, 1);
    wait_same(&second, &replica);
    assert_eq!(info(&mut connection, "sync_full"), "0", "{}", second.log());
    assert_eq!(info(&mut connection, "sync_partial_ok"), "1");
}

#[test]
fn a_replica_that_does_not_read_its_snapshot_is_closed_and_slows_nobody() {
    // Both replicas share a snapshot of far more than sockets and the queue in front of them hold.
    let primary = ours(&[
        "--rdbcompression",
        "no",
        "--repl-timeout",
        "10",
        "--repl-diskless-sync-delay",
        "60",
        "--repl-diskless-sync-max-replicas",
        "2",
    ]);
    let mut connection = primary.connect();
    say(&mut connection, "DEBUG POPULATE 60000 key 1000");
    let mut stuck = primary.connect();
    say(&mut stuck, "REPLCONF capa eof capa psync2");
    let request = damselfly_oracle::connection::request(&["PSYNC", "?", "-1"]);
    stuck.send(&request).unwrap();
    let replica = redis_of(primary.address(), &[]);
    wait_until("the snapshot is being sent", || {
        info(&mut connection, "rdb_bgsave_in_progress") == "1"
    });
    // Writes are answered while it waits for the one that does not read.
    for number in 0..2000 {
        let reply = say(&mut connection, &format!("SET key:{number} changed"));
        assert_eq!(reply.to_string(), "OK");
    }
    assert_eq!(info(&mut connection, "rdb_bgsave_in_progress"), "1");
    wait_until("it is closed", || {
        let log = primary.log();
        log.contains("Disconnecting timedout replica") || log.contains("Closing replica")
    });
    // The other one gets all of it.
    wait_online(&primary, 1);
    wait_same(&primary, &replica);
    assert_eq!(info(&mut connection, "sync_full"), "2");
    drop(stuck);
}
