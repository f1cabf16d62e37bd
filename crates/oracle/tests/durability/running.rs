//! The append-only file while the server runs: turned on and off, rewritten, on a slow or full disk, and at the end.

use std::thread;
use std::time::{Duration, Instant};

use damselfly_oracle::server::{Program, ScratchFolder, Server};
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use crate::{digest, fill, filled_without_file, integer, start};

#[test]
fn it_can_be_turned_on_and_off_while_the_server_runs() {
    let program = Program::subject();
    let (folder, server) = filled_without_file(&program);
    let mut connection = server.connect();
    for _ in 0..2 {
        connection
            .call(&["CONFIG", "SET", "appendonly", "yes"])
            .unwrap();
        connection.call(&["INCR", "on"]).unwrap();
        let reply = connection.call(&["WAITAOF", "1", "0", "20000"]).unwrap();
        assert_eq!(reply.to_string(), "1) (integer) 1\n2) (integer) 0");
        connection
            .call(&["CONFIG", "SET", "appendonly", "no"])
            .unwrap();
    }
    connection
        .call(&["CONFIG", "SET", "appendonly", "yes"])
        .unwrap();
    fill(&server);
    connection.call(&["WAITAOF", "1", "0", "20000"]).unwrap();
    let before = digest(&server);
    drop(server);
    assert_eq!(digest(&start(&program, folder.path(), &[])), before);
}

/// Bug: while the disk was slow, a second rewrite began before the base of the first one was in place, and both had the same name. The second
/// one deleted it as the base that it replaced, and the server did not start any more.
#[test]
fn a_slow_disk_while_it_is_turned_on_loses_no_base() {
    let program = Program::subject();
    let (folder, server) = filled_without_file(&program);
    let mut connection = server.connect();
    let mut set = |value| {
        connection
            .call(&["CONFIG", "SET", "appendonly", value])
            .unwrap()
    };
    set("yes");
    let mut connection = server.connect();
    connection.call(&["WAITAOF", "1", "0", "20000"]).unwrap();
    // The thread that writes the files is a second behind.
    connection
        .call(&["DEBUG", "AOF-FLUSH-SLEEP", "1000000"])
        .unwrap();
    set("no");
    set("yes");
    for _ in 0..10 {
        connection.call(&["BGREWRITEAOF"]).unwrap();
        thread::sleep(Duration::from_millis(100));
    }
    connection.call(&["INCR", "n"]).unwrap();
    connection.call(&["DEBUG", "AOF-FLUSH-SLEEP", "0"]).unwrap();
    let reply = connection.call(&["WAITAOF", "1", "0", "20000"]).unwrap();
    assert_eq!(reply.to_string(), "1) (integer) 1\n2) (integer) 0");
    let started = Instant::now();
    loop {
        let info = connection.call(&["INFO", "persistence"]).unwrap();
        let info = info.to_string();
        let is_done = |field: &str| info.contains(&format!("{field}:0"));
        if is_done("aof_rewrite_in_progress") && is_done("aof_rewrite_scheduled") {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(60), "{info}");
        thread::sleep(Duration::from_millis(10));
    }
    let before = digest(&server);
    drop(server);
    assert_eq!(digest(&start(&program, folder.path(), &[])), before);
}

/// Bug: CONFIG SET replied OK, and then every write was refused.
#[test]
fn an_append_only_file_that_cannot_be_written_is_not_turned_on() {
    let folder = ScratchFolder::create().unwrap();
    let dir = folder.path().display().to_string();
    // A file where the folder should be.
    std::fs::write(folder.path().join("appendonlydir"), "").unwrap();
    let server = Server::start(&Program::subject(), &["--dir", &dir]).unwrap();
    let mut connection = server.connect();
    let mut say = |words: &[&str]| connection.call(words).unwrap().to_string();
    let refused = say(&["CONFIG", "SET", "appendonly", "yes"]);
    let expected = "ERR CONFIG SET failed (possibly related to argument 'appendonly') - Unable to turn on AOF. Check server logs.";
    assert!(refused.contains(expected), "{refused}");
    assert!(
        server
            .log()
            .contains("Unable to write the append-only file in")
    );
    assert!(say(&["CONFIG", "GET", "appendonly"]).contains("no"));
    assert_eq!(say(&["SET", "key", "value"]), "OK");
    std::fs::remove_file(folder.path().join("appendonlydir")).unwrap();
    assert_eq!(say(&["CONFIG", "SET", "appendonly", "yes"]), "OK");
}

/// Bug: when the new base of a rewrite had been removed, writes were refused for ever.
#[test]
fn a_new_base_that_somebody_removes_is_a_failed_rewrite() {
    let folder = ScratchFolder::create().unwrap();
    let server = start(&Program::subject(), folder.path(), &[]);
    let mut connection = server.connect();
    let mut say = |words: &[&str]| connection.call(words).unwrap().to_string();
    assert_eq!(say(&["SET", "key", "x"]), "OK");
    let base = |number: u32| {
        let name = format!("appendonlydir/appendonly.aof.{number}.base.rdb");
        folder.path().join(name)
    };
    let until = |what: &str, condition: &mut dyn FnMut() -> bool| {
        let started = Instant::now();
        while !condition() {
            assert!(started.elapsed() < Duration::from_secs(60), "{what}");
            thread::sleep(Duration::from_millis(1));
        }
    };
    // The thread that writes comes to the new base late.
    assert_eq!(say(&["DEBUG", "AOF-FLUSH-SLEEP", "1000000"]), "OK");
    say(&["BGREWRITEAOF"]);
    until("there is a base", &mut || {
        std::fs::remove_file(base(2)).is_ok()
    });
    assert_eq!(say(&["DEBUG", "AOF-FLUSH-SLEEP", "0"]), "OK");
    until("the rewrite has failed", &mut || {
        say(&["INFO", "persistence"]).contains("aof_last_bgrewrite_status:err")
    });
    assert_eq!(say(&["SET", "key", "y"]), "OK");
    say(&["BGREWRITEAOF"]);
    until("the next one succeeds", &mut || {
        say(&["INFO", "persistence"]).contains("aof_last_bgrewrite_status:ok") && base(3).exists()
    });
    assert!(say(&["WAITAOF", "1", "0", "10000"]).starts_with("1) (integer) 1"));
}

/// Bug: a server that ended before its append-only file had a base lost everything, although nothing had failed.
#[test]
fn the_end_waits_for_the_base() {
    let program = Program::subject();
    for by_signal in [true, false] {
        let (folder, mut server) = filled_without_file(&program);
        let mut connection = server.connect();
        connection
            .call(&["DEBUG", "AOF-FLUSH-SLEEP", "500000"])
            .unwrap();
        connection
            .call(&["CONFIG", "SET", "appendonly", "yes"])
            .unwrap();
        let before = digest(&server);
        let patience = Duration::from_secs(60);
        let status = match by_signal {
            true => server.terminate(patience).unwrap(),
            false => {
                connection.send(b"SHUTDOWN\r\n").unwrap();
                server.wait(patience).unwrap()
            }
        };
        assert!(status.is_some_and(|status| status.success()));
        let server = start(&program, folder.path(), &[]);
        assert_eq!(digest(&server), before, "by a signal: {by_signal}");
    }
}

/// Bug: its writes were acknowledged at once, though a restart would not have loaded them.
#[test]
fn a_durable_client_is_told_nothing_while_the_file_has_no_base() {
    let program = Program::subject();
    let folder = ScratchFolder::create().unwrap();
    let server = start(&program, folder.path(), &[]);
    let mut admin = server.connect();
    let mut say = |words: &[&str]| admin.call(words).unwrap().to_string();
    let durable = || {
        let mut connection = server.connect();
        connection.call(&["CLIENT", "DURABLE", "ON"]).unwrap();
        assert_eq!(integer(&mut connection, &["INCR", "n"]), 1);
        connection
    };
    // Turned off: closed, since what it has asked for can't be had.
    let mut connection = durable();
    assert_eq!(say(&["CONFIG", "SET", "appendonly", "no"]), "OK");
    assert!(connection.call(&["INCR", "n"]).is_err());
    assert!(server.log().contains("it has asked for CLIENT DURABLE ON"));
    assert_eq!(say(&["DEL", "n"]), "(integer) 1");
    assert_eq!(say(&["CONFIG", "SET", "appendonly", "yes"]), "OK");
    until_on(&mut say);
    // Turned off and on again: its reply waits for the base.
    let mut connection = durable();
    assert_eq!(say(&["DEBUG", "AOF-FLUSH-SLEEP", "700000"]), "OK");
    for value in ["no", "yes"] {
        assert_eq!(say(&["CONFIG", "SET", "appendonly", value]), "OK");
    }
    assert_eq!(integer(&mut connection, &["INCR", "n"]), 2);
    drop(server);
    let server = start(&program, folder.path(), &[]);
    assert_eq!(integer(&mut server.connect(), &["GET", "n"]), 2);
}

fn until_on(say: &mut impl FnMut(&[&str]) -> String) {
    let started = Instant::now();
    while !say(&["CLIENT", "DURABLE", "ON"]).contains("OK") {
        assert!(started.elapsed() < Duration::from_secs(60), "no base");
        thread::sleep(Duration::from_millis(2));
    }
    say(&["CLIENT", "DURABLE", "OFF"]);
}

#[test]
fn a_durable_client_waits_for_the_disk_and_others_do_not() {
    let folder = ScratchFolder::create().unwrap();
    let server = start(&Program::subject(), folder.path(), &["--appendfsync", "no"]);
    let mut connection = server.connect();
    connection.call(&["CLIENT", "DURABLE", "ON"]).unwrap();
    for number in 1..=50 {
        assert_eq!(integer(&mut connection, &["INCR", "n"]), number);
    }
    assert_eq!(
        connection
            .call(&["WAITAOF", "1", "0", "1"])
            .unwrap()
            .to_string(),
        "1) (integer) 1\n2) (integer) 0"
    );
}

/// Bug: with `appendfsync no`, the thread that writes looked again and again whether an fsync was due, and took a whole core.
#[test]
fn an_idle_server_takes_no_processor_time() {
    const IDLE: Duration = Duration::from_secs(2);
    for appendfsync in ["no", "everysec", "always"] {
        let folder = ScratchFolder::create().unwrap();
        let options = ["--appendfsync", appendfsync];
        let server = start(&Program::subject(), folder.path(), &options);
        let (mut writer, mut connection) = (server.connect(), server.connect());
        let mut seconds = || -> f64 {
            let text = connection.call(&["INFO", "cpu"]).unwrap().to_string();
            let used = |name| {
                let (_, rest) = text.split_once(name).expect("INFO has this field");
                let end = rest.find(|sign: char| sign != '.' && !sign.is_ascii_digit());
                rest[..end.unwrap()].parse::<f64>().unwrap()
            };
            used("used_cpu_sys:") + used("used_cpu_user:")
        };
        // Also while the option has just changed.
        for now in [appendfsync, "no"] {
            writer.call(&["CONFIG", "SET", "appendfsync", now]).unwrap();
            writer.call(&["SET", "key", now]).unwrap();
            let before = seconds();
            thread::sleep(IDLE);
            let used = seconds() - before;
            assert!(used < 0.1, "{appendfsync}, then {now}: {used} s");
        }
    }
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_room_and_loses_nothing() {
    let folder = ScratchFolder::create().unwrap();
    let program = Program::subject();
    let server = start(&program, folder.path(), &["--appendfsync", "everysec"]);
    let mut connection = server.connect();
    let limit_files = |bytes: Option<u64>| {
        let id = Pid::from_raw(server.id() as i32);
        let limit = Rlimit {
            current: bytes,
            maximum: None,
        };
        prlimit(id, Resource::Fsize, limit).unwrap();
    };
    connection.call(&["SET", "before", "v"]).unwrap();
    for round in 0..2 {
        let file = folder
            .path()
            .join("appendonlydir/appendonly.aof.1.incr.aof");
        // A file that is longer than the limit would be a signal and not an error.
        let bytes = std::fs::metadata(&file).unwrap().len();
        limit_files(Some(bytes + 300));
        let started = Instant::now();
        let refused = loop {
            let reply = connection.call(&["INCR", "n"]).unwrap().to_string();
            if reply.contains("error") {
                break reply;
            }
            assert!(started.elapsed() < Duration::from_secs(20), "round {round}");
        };
        assert!(
            refused.starts_with("(error) MISCONF Errors writing to the AOF file: "),
            "{refused}"
        );
        let value = connection.call(&["GET", "before"]).unwrap().to_string();
        assert_eq!(value, "\"v\"");
        let info = connection
            .call(&["INFO", "persistence"])
            .unwrap()
            .to_string();
        assert!(info.contains("aof_last_write_status:err"), "{info}");
        limit_files(None);
        while connection
            .call(&["INCR", "n"])
            .unwrap()
            .to_string()
            .contains("error")
        {
            assert!(started.elapsed() < Duration::from_secs(20), "round {round}");
            thread::sleep(Duration::from_millis(5));
        }
    }
    connection.call(&["WAITAOF", "1", "0", "0"]).unwrap();
    let before = digest(&server);
    drop(connection);
    drop(server);
    assert_eq!(digest(&start(&program, folder.path(), &[])), before);
}

/// Bug: bases that were complete when the append-only file was turned off stayed for ever.
#[test]
fn turning_it_on_and_off_leaves_no_files_behind() {
    const ROUNDS: u64 = 40;
    let (folder, server) = crate::filled_without_file(&Program::subject());
    let mut connection = server.connect();
    for round in 0..ROUNDS {
        for (value, wait_ms) in [("yes", round % 20), ("no", 5)] {
            connection
                .call(&["CONFIG", "SET", "appendonly", value])
                .unwrap();
            thread::sleep(Duration::from_millis(wait_ms));
        }
    }
    connection
        .call(&["CONFIG", "SET", "appendonly", "yes"])
        .unwrap();
    crate::rewrite(&server);
    let files = folder.path().join("appendonlydir");
    let started = Instant::now();
    loop {
        let names = std::fs::read_dir(&files).unwrap();
        let bases = names.filter(|name| {
            let name = name.as_ref().unwrap().file_name();
            name.to_string_lossy().contains(".base.")
        });
        match bases.count() {
            1 => return,
            more => assert!(started.elapsed() < Duration::from_secs(20), "{more} bases"),
        }
        thread::sleep(Duration::from_millis(5));
    }
}
