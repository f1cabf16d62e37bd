//! What is in the files: they are loaded, by Redis, too, cut, and restored to a moment.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use damselfly_oracle::connection::request;
use damselfly_oracle::server::{Program, ScratchFolder, Server};
use damselfly_protocol::client::Value;

use crate::{digest, fill, integer, refuses_to_start, rewrite, start};

#[test]
fn a_rewrite_keeps_the_data_and_what_follows() {
    let (program, folder) = (Program::subject(), ScratchFolder::create().unwrap());
    let server = start(&program, folder.path(), &["--appendfsync", "always"]);
    for _ in 0..3 {
        fill(&server);
        rewrite(&server);
    }
    fill(&server);
    let before = digest(&server);
    drop(server);
    let server = start(&program, folder.path(), &[]);
    assert_eq!(digest(&server), before);
}

#[test]
fn redis_loads_our_files_and_we_load_those_of_redis() {
    let (ours, theirs) = (Program::subject(), Program::reference());
    for (first, second) in [(&ours, &theirs), (&theirs, &ours)] {
        for (rewrites, is_rdb) in [(false, "yes"), (true, "yes"), (true, "no")] {
            let folder = ScratchFolder::create().unwrap();
            let options = ["--appendfsync", "always", "--aof-use-rdb-preamble", is_rdb];
            let server = start(first, folder.path(), &options);
            fill(&server);
            if rewrites {
                rewrite(&server);
                fill(&server);
            }
            let before = digest(&server);
            drop(server);
            let checked = std::process::Command::new("redis-check-aof")
                .arg(folder.path().join("appendonlydir/appendonly.aof.manifest"))
                .output()
                .unwrap();
            assert!(
                checked.status.success(),
                "{}",
                String::from_utf8_lossy(&checked.stdout)
            );
            let server = start(second, folder.path(), &[]);
            assert_eq!(digest(&server), before);
        }
    }
}

#[test]
fn an_old_single_file_is_loaded_and_moved() {
    let folder = ScratchFolder::create().unwrap();
    let old = "*2\r\n$6\r\nSELECT\r\n$1\r\n0\r\n*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n";
    std::fs::write(folder.path().join("appendonly.aof"), old).unwrap();
    for _ in 0..2 {
        let server = start(&Program::subject(), folder.path(), &[]);
        assert_eq!(
            server.connect().call(&["GET", "k"]).unwrap().to_string(),
            "\"v\""
        );
    }
    assert!(folder.path().join("appendonlydir/appendonly.aof").exists());
}

#[test]
fn an_incomplete_end_is_cut_or_refused() {
    let folder = ScratchFolder::create().unwrap();
    let program = Program::subject();
    let server = start(&program, folder.path(), &["--appendfsync", "always"]);
    server.connect().call(&["SET", "k", "v"]).unwrap();
    drop(server);
    let file = folder
        .path()
        .join("appendonlydir/appendonly.aof.1.incr.aof");
    let whole = std::fs::read(&file).unwrap();
    for tail in [
        "*3\r\n$3\r\nSET\r\n$1\r\nx",
        "*1\r\n$5\r\nMULTI\r\n*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n",
    ] {
        std::fs::write(&file, [&whole, tail.as_bytes()].concat()).unwrap();
        let base = [
            "--dir",
            &folder.path().display().to_string(),
            "--appendonly",
            "yes",
            "--aof-load-truncated",
            "no",
        ];
        assert!(refuses_to_start(&program, &base));
        let server = start(&program, folder.path(), &[]);
        assert_eq!(
            server.connect().call(&["DBSIZE"]).unwrap().to_string(),
            "(integer) 1"
        );
        drop(server);
        assert_eq!(std::fs::read(&file).unwrap(), whole);
    }
    std::fs::write(&file, [&whole, &b"garbage\r\n"[..]].concat()).unwrap();
    let base = [
        "--dir",
        &folder.path().display().to_string(),
        "--appendonly",
        "yes",
    ];
    assert!(refuses_to_start(&program, &base));
}

#[test]
fn a_key_that_lost_its_deadline_in_time_is_there_after_a_late_restart() {
    // Bug: keys that had expired when the file was loaded were dropped before PERSIST was repeated.
    let folder = ScratchFolder::create().unwrap();
    let program = Program::subject();
    let server = start(&program, folder.path(), &["--appendfsync", "always"]);
    let mut connection = server.connect();
    connection.call(&["SET", "k", "v", "PX", "300"]).unwrap();
    rewrite(&server);
    connection.call(&["PERSIST", "k"]).unwrap();
    connection.call(&["SET", "gone", "v", "PX", "300"]).unwrap();
    drop(server);
    thread::sleep(Duration::from_millis(350));
    let server = start(&program, folder.path(), &[]);
    let mut connection = server.connect();
    assert_eq!(connection.call(&["GET", "k"]).unwrap().to_string(), "\"v\"");
    assert_eq!(
        connection.call(&["GET", "gone"]).unwrap().to_string(),
        "(nil)"
    );
}

/// Once, a base that grew while it was loaded lost keys whose deadlines had passed meanwhile, though later commands had removed these deadlines: a table
/// that grows drops expired entries, and the sections that stored them let keys expire.
#[test]
fn keys_that_lost_their_deadline_in_time_are_loaded_after_it() {
    const KEYS: usize = 5000;
    let folder = ScratchFolder::create().unwrap();
    let dir = folder.path().display().to_string();
    let options = ["--dir", &dir, "--appendonly", "yes", "--threads", "2"];
    let mut server = Server::start(&Program::subject(), &options).unwrap();
    let mut connection = server.connect();
    let mut call = |words: &[&str]| connection.call(words).unwrap().to_string();
    while call(&["PING"]) != "PONG" {}
    let created = Instant::now();
    for number in 0..KEYS {
        call(&["SET", &format!("key:{number}"), "x", "PX", "5000"]);
    }
    call(&["BGREWRITEAOF"]);
    while call(&["INFO", "persistence"]).contains("aof_rewrite_in_progress:1") {
        thread::sleep(Duration::from_millis(5));
    }
    let persist = |number| call(&["PERSIST", &format!("key:{number}")]) == "(integer) 1";
    let kept = (0..KEYS).map(persist).filter(|is_kept| *is_kept).count();
    assert!(server.terminate(Duration::from_secs(20)).unwrap().is_some());
    while created.elapsed() < Duration::from_secs(11) {
        thread::sleep(Duration::from_millis(10));
    }
    let server = Server::start(&Program::subject(), &options).unwrap();
    let mut connection = server.connect();
    let mut call = |words: &[&str]| connection.call(words).unwrap().to_string();
    while call(&["PING"]) != "PONG" {}
    assert_eq!(call(&["DBSIZE"]), format!("(integer) {kept}"));
}

/// Bug: strings that had grown beyond `proto-max-bulk-len` before a restart with a lower one were cut short when they were loaded.
#[test]
fn a_lower_limit_after_a_restart_loses_nothing() {
    let folder = ScratchFolder::create().unwrap();
    let server = start(
        &Program::subject(),
        folder.path(),
        &["--appendfsync", "always"],
    );
    let mut connection = server.connect();
    let part = "x".repeat(600_000);
    for request in [
        &["APPEND", "appended", &part][..],
        &["APPEND", "appended", &part],
        &["SETRANGE", "range", "1200000", "x"],
        &["SETBIT", "bit", "9600000", "1"],
        &["BITFIELD", "field", "SET", "u8", "9600000", "1"],
    ] {
        let reply = connection.call(request).unwrap();
        assert!(!matches!(reply, Value::Error(_)), "{reply}");
    }
    drop(server);
    let lower = ["--proto-max-bulk-len", "1mb"];
    let again = start(&Program::subject(), folder.path(), &lower);
    let mut connection = again.connect();
    for (key, len) in [
        ("appended", 1_200_000),
        ("range", 1_200_001),
        ("bit", 1_200_001),
        ("field", 1_200_001),
    ] {
        let reply = connection.call(&["STRLEN", key]).unwrap();
        assert_eq!(reply, Value::Integer(len), "{key}");
    }
    let refused = connection.call(&["APPEND", "appended", "x"]).unwrap();
    assert!(matches!(refused, Value::Error(_)), "{refused}");
}

#[test]
fn a_snapshot_is_loaded_if_there_is_no_append_only_file_yet() {
    let folder = ScratchFolder::create().unwrap();
    let program = Program::subject();
    let dir = folder.path().display().to_string();
    let server =
        Server::start(&program, &["--dir", &dir, "--enable-debug-command", "yes"]).unwrap();
    fill(&server);
    server.connect().call(&["SAVE"]).unwrap();
    let before = digest(&server);
    drop(server);
    for _ in 0..2 {
        let server = start(&program, folder.path(), &[]);
        assert_eq!(digest(&server), before);
    }
}

/// A bug: SET with options and XADD were logged by their new names, which the load does not know.
#[test]
fn renamed_commands_are_logged_by_their_own_names() {
    let folder = ScratchFolder::create().unwrap();
    let renamed = [
        "--appendfsync",
        "always",
        "--rename-command",
        "SET",
        "put",
        "--rename-command",
        "XADD",
        "add-entry",
    ];
    let server = start(&Program::subject(), folder.path(), &renamed);
    let mut connection = server.connect();
    connection.call(&["put", "key", "12", "GET"]).unwrap();
    let add = [
        "add-entry",
        "stream",
        "MAXLEN",
        "~",
        "10",
        "*",
        "field",
        "value",
    ];
    connection.call(&add).unwrap();
    drop((connection, server));
    let server = start(&Program::subject(), folder.path(), &renamed);
    let mut connection = server.connect();
    assert_eq!(integer(&mut connection, &["GET", "key"]), 12);
    assert_eq!(integer(&mut connection, &["XLEN", "stream"]), 1);
}

#[test]
fn the_state_of_a_second_is_restored() {
    let (folder, into) = (
        ScratchFolder::create().unwrap(),
        ScratchFolder::create().unwrap(),
    );
    let program = Program::subject();
    let server = start(
        &program,
        folder.path(),
        &["--aof-timestamp-enabled", "yes", "--appendfsync", "always"],
    );
    let mut connection = server.connect();
    let mut second = || -> i64 {
        let time = connection.call(&["TIME"]).unwrap().to_string();
        time.split('"').nth(1).unwrap().parse().unwrap()
    };
    let (mut writer, mut seconds) = (server.connect(), Vec::new());
    for number in 1..=3 {
        // All within one second.
        loop {
            let before = second();
            writer.call(&["SET", "k", &number.to_string()]).unwrap();
            if second() == before {
                seconds.push(before);
                break;
            }
        }
        thread::sleep(Duration::from_millis(1100));
    }
    drop(server);
    for (index, second) in seconds.iter().enumerate() {
        let target = into.path().join(second.to_string());
        restore(*second, folder.path(), &target).unwrap();
        let server = start(&program, &target, &[]);
        let value = server.connect().call(&["GET", "k"]).unwrap().to_string();
        assert_eq!(value, format!("\"{}\"", index + 1));
    }
    let text = restore(1, folder.path(), &into.path().join("none")).unwrap_err();
    assert!(text.contains("the earliest is"), "{text}");
}

/// Runs `--restore-to`.
fn restore(second: i64, source: &Path, into: &Path) -> Result<String, String> {
    let mut command = Program::subject().command(Path::new("."), &[]);
    let (second, source, into) = (second.to_string(), source.display(), into.display());
    command.args(["--restore-to", &second]);
    command.args(["--dir", &source.to_string(), "--into", &into.to_string()]);
    let done = command.output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    match done.status.success() {
        true => Ok(text(&done.stdout)),
        false => Err(text(&done.stderr)),
    }
}

/// Bug: changes without a time, before the first one that has a time, counted as the state at the creation of the base.
#[test]
fn changes_without_a_time_are_only_in_moments_after_them() {
    let scratch = ScratchFolder::create().unwrap();
    let set = |key: &str| request(&["SET", key, "x"]);
    let incomplete = request(&["SELECT", "0"]);
    let timed = [&b"#TS:2000000000\r\n"[..], &set("later")].concat();
    for (index, (base, increment, earliest)) in [
        // Commands, as in an old single file.
        (set("base"), timed.clone(), 2_000_000_000),
        // A base that a rewrite made.
        (
            [&b"#TS:1900000000\r\n"[..], &set("base")].concat(),
            timed.clone(),
            1_900_000_000,
        ),
        // A change from before the option was turned on.
        (
            b"#TS:1900000000\r\n".to_vec(),
            [set("early"), timed.clone()].concat(),
            2_000_000_000,
        ),
        (
            b"#TS:1900000000\r\n".to_vec(),
            [incomplete, timed].concat(),
            1_900_000_000,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let source = scratch.path().join(format!("source-{index}"));
        let folder = source.join("somewhere");
        std::fs::create_dir_all(&folder).unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
        write("f.aof.1.base.aof", &base);
        write("f.aof.1.incr.aof", &increment);
        let manifest = "file f.aof.1.base.aof seq 1 type b\nfile f.aof.1.incr.aof seq 1 type i\n";
        write("f.aof.manifest", manifest.as_bytes());
        let target = |name: &str| scratch.path().join(format!("{name}-{index}"));
        let error = restore(earliest - 1, &source, &target("before")).unwrap_err();
        assert!(
            error.contains(&format!(
                "the earliest is {earliest}, the latest is 2000000000"
            )),
            "{error}"
        );
        let text = restore(earliest, &source, &target("at")).unwrap();
        assert!(text.contains("--appendfilename f.aof"), "{text}");
        let options = ["--appendfilename", "f.aof"];
        let server = start(&Program::subject(), &target("at"), &options);
        let later = integer(&mut server.connect(), &["EXISTS", "later"]);
        assert_eq!(later == 1, earliest == 2_000_000_000, "case {index}");
    }
}

/// Bug: it was taken for a file of commands, and cut.
#[test]
fn a_base_that_is_no_rdb_file_is_refused() {
    for content in ["", "RED"] {
        let folder = ScratchFolder::create().unwrap();
        let files = folder.path().join("appendonlydir");
        std::fs::create_dir(&files).unwrap();
        let name = "appendonly.aof.1.base.rdb";
        std::fs::write(files.join(name), content).unwrap();
        let manifest = format!("file {name} seq 1 type b\n");
        std::fs::write(files.join("appendonly.aof.manifest"), manifest).unwrap();
        let dir = folder.path().display().to_string();
        let options = ["--dir", &dir, "--appendonly", "yes"];
        assert!(refuses_to_start(&Program::subject(), &options), "{content}");
    }
}

/// Bug: commands that failed were passed over without a word.
#[test]
fn commands_that_fail_are_logged() {
    let folder = ScratchFolder::create().unwrap();
    let commands: [&[&str]; 4] = [
        &["SET", "key", "x"],
        &["INCR", "key"],
        &["EVAL", "return redis.call('INCR', KEYS[1])", "1", "key"],
        &["SET", "other", "x"],
    ];
    let old: Vec<u8> = commands.iter().flat_map(|words| request(words)).collect();
    std::fs::write(folder.path().join("appendonly.aof"), old).unwrap();
    let server = start(&Program::subject(), folder.path(), &[]);
    let other = server.connect().call(&["GET", "other"]).unwrap();
    assert_eq!(other, Value::Bulk(b"x".to_vec()));
    let log = server.log();
    for command in ["INCR", "EVAL"] {
        let says = |line: &&str| {
            line.contains("This server is sending an error to its AOF-loading-client")
                && line.contains("not an integer")
                && line.contains(&format!("after processing the command '{command}'"))
        };
        assert_eq!(log.lines().filter(says).count(), 1, "{command}: {log}");
    }
}

/// Bug: after a restart, a stream had a highest deleted id, although it was only trimmed.
#[test]
fn a_trimmed_stream_is_the_same_after_a_restart() {
    let (program, folder) = (Program::subject(), ScratchFolder::create().unwrap());
    let server = start(&program, folder.path(), &["--appendfsync", "always"]);
    let mut connection = server.connect();
    for id in ["1-1", "2-1", "3-1"] {
        connection.call(&["XADD", "s", id, "f", "v"]).unwrap();
    }
    let trimmed = connection.call(&["XTRIM", "s", "MAXLEN", "1", "DELREF"]);
    assert_eq!(trimmed.unwrap(), Value::Integer(2));
    let before = connection.call(&["XINFO", "STREAM", "s"]).unwrap();
    drop(server);
    let again = start(&program, folder.path(), &[]);
    let after = again.connect().call(&["XINFO", "STREAM", "s"]).unwrap();
    assert_eq!(after, before);
}

/// Bug: a missing increment was created, so the server started without what it had held.
#[test]
fn a_missing_file_keeps_the_server_from_starting() {
    let program = Program::subject();
    let folder = ScratchFolder::create().unwrap();
    let server = start(&program, folder.path(), &[]);
    fill(&server);
    rewrite(&server);
    let mut connection = server.connect();
    assert_eq!(integer(&mut connection, &["INCR", "last"]), 1);
    let before = digest(&server);
    drop(server);
    let dir = folder.path().display().to_string();
    let options = ["--dir", &dir, "--appendonly", "yes"];
    let aside = folder.path().join("aside");
    for name in ["appendonly.aof.2.base.rdb", "appendonly.aof.2.incr.aof"] {
        let file = folder.path().join("appendonlydir").join(name);
        std::fs::rename(&file, &aside).unwrap();
        assert!(refuses_to_start(&program, &options), "without {name}");
        assert!(!file.exists(), "{name} was created");
        std::fs::rename(&aside, &file).unwrap();
    }
    assert_eq!(digest(&start(&program, folder.path(), &[])), before);
}
