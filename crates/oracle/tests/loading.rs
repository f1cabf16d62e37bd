//! Loading a snapshot at start, with real processes: files of a real `redis-server`, files that must be refused, and what clients see
//! while a file is loaded, compared with Redis.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use damselfly_base::random::Random;
use damselfly_oracle::connection::Connection;
use damselfly_oracle::server::{Kind, Program, ScratchFolder, Server, wait_for_end};
use damselfly_protocol::client::Value as Reply;
use damselfly_rdb::{Access, Checksum, Encoder, WriteOptions};
use damselfly_value::{Entry, NewValue};

/// The longest that a test waits for any event.
const PATIENCE: Duration = Duration::from_secs(60);

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "timed out waiting until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends a command in words that are separated by blanks.
fn say(connection: &mut Connection, command: &str) -> Reply {
    let words: Vec<&str> = command.split(' ').collect();
    connection.call(&words).unwrap()
}

fn info(connection: &mut Connection, field: &str) -> Option<String> {
    let reply = say(connection, "INFO persistence");
    let Reply::Bulk(text) = reply else {
        panic!("{reply:?}");
    };
    let text = String::from_utf8(text).unwrap();
    let prefix = format!("{field}:");
    let line = text.lines().find_map(|line| line.strip_prefix(&prefix));
    line.map(str::to_owned)
}

fn path_of(folder: &ScratchFolder) -> &str {
    folder.path().to_str().unwrap()
}

/// Starts a server in a folder with a snapshot.
fn start_in(program: &Program, folder: &ScratchFolder, more: &[&str]) -> Server {
    let mut arguments = vec!["--dir", path_of(folder), "--enable-debug-command", "yes"];
    arguments.extend_from_slice(&["--save", ""]);
    arguments.extend_from_slice(more);
    Server::start(program, &arguments).unwrap()
}

/// Waits until the server has loaded its snapshot.
fn loaded(server: &Server) -> Connection {
    let mut connection = server.connect();
    until("the snapshot is loaded", || {
        info(&mut connection, "loading").as_deref() == Some("0")
    });
    connection
}

struct File {
    encoder: Encoder,
    bytes: Vec<u8>,
}

impl File {
    fn new() -> Self {
        let mut encoder = Encoder::new(WriteOptions {
            version: 10,
            compress: false,
        });
        let mut bytes = Vec::new();
        encoder.header(&mut bytes);
        encoder.aux(b"redis-ver", b"7.0.15", &mut bytes);
        encoder.aux(b"used-mem", b"1000000", &mut bytes);
        Self { encoder, bytes }
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    fn function(mut self, code: &str) -> Self {
        self.encoder.function(code.as_bytes(), &mut self.bytes);
        self
    }

    fn select(mut self, db: u64) -> Self {
        self.encoder.select_db(db, &mut self.bytes);
        self
    }

    fn set(mut self, key: &str, value: &str, deadline_ms: Option<i64>) -> Self {
        let value = NewValue::compact(value.as_bytes());
        let entry = Entry::new(key.as_bytes(), value, deadline_ms);
        let (encoder, access) = (&mut self.encoder, Access::default());
        encoder
            .entry(entry.view(), access, &mut self.bytes)
            .unwrap();
        self
    }

    fn end(mut self) -> Vec<u8> {
        let mut checksum = Checksum::new();
        checksum.add(&self.bytes);
        let mut end = Vec::new();
        self.encoder.end(Some(checksum), &mut end);
        self.bytes.extend(end);
        self.bytes
    }
}

fn folder_with(bytes: &[u8]) -> (ScratchFolder, PathBuf) {
    let folder = ScratchFolder::create().unwrap();
    let path = folder.path().join("dump.rdb");
    fs::write(&path, bytes).unwrap();
    (folder, path)
}

/// Runs the server until it exits by itself, and returns how, and its output.
fn run(folder: &Path, arguments: &[&str]) -> (ExitStatus, String) {
    let out = folder.join("output");
    let log = fs::File::create(&out).unwrap();
    let mut all = vec!["--port", "0", "--unixsocket", "socket"];
    all.extend_from_slice(arguments);
    let mut command: Command = Program::subject().command(folder, &all);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap();
    let status = wait_for_end(&mut child, PATIENCE).unwrap();
    if status.is_none() {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let log = fs::read_to_string(out).unwrap();
    (
        status.unwrap_or_else(|| panic!("it runs on; its log:\n{log}")),
        log,
    )
}

fn assert_refused(bytes: &[u8], arguments: &[&str], reason: &str) {
    let (folder, path) = folder_with(bytes);
    assert_path_refused(folder.path(), &path, arguments, reason);
    assert_eq!(fs::read(&path).unwrap(), bytes, "the file stays as it is");
}

fn assert_path_refused(folder: &Path, path: &Path, arguments: &[&str], reason: &str) {
    let (status, log) = run(folder, arguments);
    assert_eq!(status.code(), Some(1), "{log}");
    let refusals: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("Can't load"))
        .collect();
    assert_eq!(refusals.len(), 1, "{log}");
    let path = path.display().to_string();
    for part in [&*path, reason, "move it away"] {
        assert!(refusals[0].contains(part), "{part:?} in:\n{log}");
    }
    assert!(!log.contains("Ready to accept connections"), "{log}");
    assert!(!folder.join("socket").exists(), "the socket is removed");
}

#[test]
fn a_file_that_cannot_be_loaded_is_a_refusal_to_start() {
    let good = || File::new().select(0).set("key", "value", None);
    let whole = good().end();
    let middle = whole.len() - 12;
    assert_refused(&whole[..middle], &[], "at offset");
    assert_refused(&whole[..middle], &[], "the data is truncated");
    assert_refused(b"", &[], "at offset 0: the data is truncated");
    assert_refused(b"hello, this is a text", &[], "not an RDB file");
    let newer = [b"REDIS0099", &whole[9..]].concat();
    assert_refused(&newer, &[], "RDB version 99 is not supported");
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert_refused(&flipped, &[], "CRC error");
    let at = good().bytes.len();
    let unknown = good().raw(&[200]).end();
    let reason = format!("at offset {at}: unknown type or opcode 200");
    assert_refused(&unknown, &[], &reason);
    let at = good().select(16).bytes.len();
    let far = good().select(16).set("key", "value", None).end();
    let reason = format!("at offset {at}: keys of database 16");
    assert_refused(&far, &[], &reason);
    let at = good().bytes.len();
    let twice = good().set("key", "other", None).end();
    let reason = format!("at offset {at}: the key \"key\" occurs twice in database 0");
    assert_refused(&twice, &[], &reason);
    // ReJSON-RL, version 3.
    let id = [&[0x81][..], &0x45e2_4e49_0d3e_5303_u64.to_be_bytes()].concat();
    let value = good().raw(&[7, 1, b'm']).raw(&id).raw(&[0]).end();
    assert_refused(&value, &[], "modules are not supported");
    assert_refused(&value, &[], "key \"m\"");
    let aux = good().raw(&[247]).raw(&id).raw(&[2, 2, 0]).end();
    assert_refused(&aux, &[], "data of the module type");
    let library = File::new().function("no library").end();
    assert_refused(&library, &[], "a function library fails to load");
}

#[test]
fn a_path_that_cannot_be_read_is_a_refusal_to_start() {
    let folder = ScratchFolder::create().unwrap();
    let path = folder.path().join("dump.rdb");
    fs::create_dir(&path).unwrap();
    assert_path_refused(folder.path(), &path, &[], "not a regular file");
    fs::remove_dir(&path).unwrap();
    std::os::unix::fs::symlink("dump.rdb", &path).unwrap();
    assert_path_refused(folder.path(), &path, &[], "Too many levels");
    fs::remove_file(&path).unwrap();
    let made = Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    assert_path_refused(folder.path(), &path, &[], "not a regular file");
    fs::remove_file(&path).unwrap();
    fs::write(&path, File::new().end()).unwrap();
    let mut permissions = fs::metadata(&path).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0);
    fs::set_permissions(&path, permissions).unwrap();
    // The superuser reads everything.
    if fs::read(&path).is_err() {
        assert_path_refused(folder.path(), &path, &[], "Permission denied");
    }
}

#[test]
fn a_file_without_checksum_or_with_bytes_behind_its_end_is_loaded() {
    let good = File::new().select(15).set("key", "value", None).end();
    let (body, checksum) = good.split_at(good.len() - 8);
    let without = [body, &[0; 8]].concat();
    let longer = [body, checksum, b"more"].concat();
    let wrong = [body, &[7; 8]].concat();
    for (bytes, arguments, warning) in [
        (&without, &[][..], None),
        (&longer, &[], Some("Bytes follow the end of the snapshot")),
        (&wrong, &["--rdbchecksum", "no"], None),
    ] {
        let (folder, _) = folder_with(bytes);
        let server = start_in(&Program::subject(), &folder, arguments);
        let mut connection = loaded(&server);
        say(&mut connection, "SELECT 15");
        let value = say(&mut connection, "GET key");
        assert_eq!(value, Reply::Bulk(b"value".to_vec()));
        let log = server.log();
        assert_eq!(log.contains("Bytes follow"), warning.is_some(), "{log}");
    }
}

#[test]
fn expired_keys_are_dropped_and_counted_and_functions_are_loaded() {
    let code = "#!lua name=lib\nredis.register_function('f', function() return 7 end)";
    let bytes = File::new()
        .function(code)
        .select(0)
        .set("gone", "1", Some(1))
        .set("gone too", "1", Some(1000))
        .set("stays", "1", Some(9_999_999_999_999))
        .set("plain", "1", None)
        .end();
    for program in [Program::reference(), Program::subject()] {
        let (folder, _) = folder_with(&bytes);
        let server = start_in(&program, &folder, &[]);
        let mut connection = loaded(&server);
        for (field, value) in [
            ("rdb_last_load_keys_loaded", "2"),
            ("rdb_last_load_keys_expired", "2"),
            ("async_loading", "0"),
            ("rdb_changes_since_last_save", "0"),
        ] {
            let shown = info(&mut connection, field);
            assert_eq!(shown.as_deref(), Some(value), "{field}");
        }
        assert_eq!(info(&mut connection, "loading_total_bytes"), None);
        assert_eq!(say(&mut connection, "DBSIZE"), Reply::Integer(2));
        assert_eq!(say(&mut connection, "FCALL f 0"), Reply::Integer(7));
        let deadline = say(&mut connection, "PEXPIRETIME stays");
        assert_eq!(deadline, Reply::Integer(9_999_999_999_999));
        let log = server.log();
        for line in [
            "Loading RDB produced by version 7.0.15",
            "Done loading RDB, keys loaded: 2, keys expired: 2.",
            "DB loaded from disk: ",
        ] {
            assert!(log.contains(line), "{line:?} in:\n{log}");
        }
    }
}

#[test]
fn idle_times_and_frequencies_survive() {
    let marked = |mark: &[u8]| {
        let file = File::new().select(0).raw(mark);
        file.set("key", "value", None).end()
    };
    let idle = [&[248, 0x80][..], &5000_u32.to_be_bytes()].concat();
    for (mark, policy, question, at_least) in [
        (idle, "allkeys-lru", "OBJECT IDLETIME key", 5000),
        (vec![249, 77], "allkeys-lfu", "OBJECT FREQ key", 77),
    ] {
        for program in [Program::reference(), Program::subject()] {
            let (folder, _) = folder_with(&marked(&mark));
            let more = ["--maxmemory-policy", policy, "--lfu-decay-time", "0"];
            let server = start_in(&program, &folder, &more);
            let reply = say(&mut loaded(&server), question);
            let Reply::Integer(number) = reply else {
                panic!("{reply:?}");
            };
            assert!((at_least..at_least + 100).contains(&number), "{number}");
        }
    }
}

/// A file of so many keys with values of 1 KiB.
fn slow_file(keys: usize) -> Vec<u8> {
    let mut file = File::new().select(0);
    for key in 0..keys {
        file = file.set(&format!("key:{key}"), &"x".repeat(1024), None);
    }
    file.end()
}

/// A server that takes minutes to load its file, unless `key-load-delay` is changed.
fn start_slowly(program: &Program, folder: &ScratchFolder) -> Server {
    let more = [
        "--key-load-delay",
        "10000",
        "--loading-process-events-interval-bytes",
        "1024",
    ];
    let server = start_in(program, folder, &more);
    let mut connection = server.connect();
    assert_eq!(info(&mut connection, "loading").as_deref(), Some("1"));
    server
}

/// Conversations while a file is loaded: commands separated by `;`. Every server must say the same.
const WHILE_LOADING: &[&str] = &[
    "PING;ECHO x;GET key:1;SET a b;DBSIZE;KEYS *;RANDOMKEY;EXISTS key:1;TYPE key:1",
    "SELECT 1;SELECT 99;GET a",
    "GET;NOSUCH a;CLIENT NOSUCH;CONFIG NOSUCH",
    "EVAL return 1 0;EVALSHA abc 0;EVAL_RO return 1 0;SCRIPT EXISTS a;FCALL f 0;FUNCTION LIST;FUNCTION FLUSH",
    "MULTI;PING;EXEC",
    "MULTI;GET a;EXEC",
    "MULTI;CLIENT GETNAME;TIME;GET a;EXEC;GET a",
    "MULTI;CLIENT GETNAME;EXEC",
    "MULTI;SUBSCRIBE a;DISCARD",
    "MULTI;MULTI;DISCARD;EXEC;DISCARD",
    "WATCH a b;UNWATCH;WATCH a;MULTI;CLIENT GETNAME;EXEC",
    "CLIENT SETNAME me;CLIENT GETNAME;CLIENT NO-EVICT on;CLIENT REPLY ON",
    "CONFIG GET maxmemory;CONFIG SET maxmemory 1gb;CONFIG GET maxmemory;CONFIG SET maxmemory 0",
    "PUBLISH c m;PUBSUB CHANNELS;PUBSUB NUMSUB a;SPUBLISH c m",
    "SUBSCRIBE a;GET a;PING;UNSUBSCRIBE a;GET a",
    "BLPOP a 1;BRPOPLPUSH a b 1;XREAD BLOCK 1 STREAMS a $",
    "SLOWLOG LEN;LATENCY RESET;MEMORY USAGE key:1;OBJECT ENCODING key:1;DEBUG SLEEP 0",
    "FLUSHALL;FLUSHDB;SWAPDB 0 1;MOVE a 1;RENAME a b;COPY a b;EXPIRE a 1;TTL a",
    "COMMAND COUNT x;COMMAND GETKEYS GET a;LOLWUT x;AUTH x;HELLO 9;RESET;GET a",
    "HELLO 3 SETNAME x y;GET a",
    "OBJECT FREQ key:1;HGET a b;XLEN a",
    "SHUTDOWN NOSUCH;SHUTDOWN SAVE NOSAVE;SHUTDOWN ABORT",
];

#[test]
fn clients_see_the_same_as_in_redis_while_a_file_is_loaded() {
    let (folder, _) = folder_with(&slow_file(20_000));
    let servers =
        [Program::reference(), Program::subject()].map(|program| start_slowly(&program, &folder));
    let mut differences = Vec::new();
    for conversation in WHILE_LOADING {
        let mut connections = [&servers[0], &servers[1]].map(Server::connect);
        for command in conversation.split(';') {
            let [theirs, ours] = connections.each_mut().map(|connection| {
                let words: Vec<&str> = command.split(' ').collect();
                format!("{:?}", connection.call(&words))
            });
            let is_same = theirs == ours || command == "HELLO 3";
            if !is_same {
                differences.push(format!("{conversation}: {command}: {theirs} {ours}"));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    for server in &servers {
        let mut connection = server.connect();
        let field = |connection: &mut Connection, name: &str| -> f64 {
            let text = info(connection, name).unwrap_or_else(|| panic!("no {name}"));
            text.parse().unwrap_or_else(|_| panic!("{name}: {text}"))
        };
        assert!(field(&mut connection, "loading_start_time") > 1e9);
        let total = fs::metadata(folder.path().join("dump.rdb")).unwrap().len();
        assert_eq!(field(&mut connection, "loading_total_bytes"), total as f64);
        assert_eq!(field(&mut connection, "loading_rdb_used_mem"), 1e6);
        let loaded_bytes = field(&mut connection, "loading_loaded_bytes");
        assert!(loaded_bytes > 1000.0 && loaded_bytes < total as f64);
        let percent = field(&mut connection, "loading_loaded_perc");
        assert!(percent > 0.0 && percent < 100.0);
        assert!(field(&mut connection, "loading_eta_seconds") >= 0.0);
        say(&mut connection, "CONFIG SET key-load-delay 0");
    }
    for server in &servers {
        let mut connection = loaded(server);
        assert_eq!(say(&mut connection, "DBSIZE"), Reply::Integer(20_000));
        let shown = say(&mut connection, "CONFIG GET key-load*");
        assert_eq!(shown, Reply::Array(Vec::new()), "it is hidden");
    }
    let [mut theirs, mut ours] = [&servers[0], &servers[1]].map(Server::connect);
    assert_eq!(
        say(&mut theirs, "DEBUG DIGEST"),
        say(&mut ours, "DEBUG DIGEST")
    );
}

#[test]
fn progress_is_logged_about_once_a_second() {
    let (folder, _) = folder_with(&slow_file(20_000));
    let server = start_slowly(&Program::subject(), &folder);
    if Program::subject().kind() == Kind::Redis {
        return;
    }
    until("progress is logged twice", || {
        server.log().matches("* Loading: ").count() >= 2
    });
}

#[test]
fn a_signal_or_shutdown_ends_the_process_while_it_loads() {
    let (folder, _) = folder_with(&slow_file(20_000));
    let mut server = start_slowly(&Program::subject(), &folder);
    let status = server.terminate(PATIENCE).unwrap().expect("it exits");
    let log = server.log();
    assert!(status.success(), "{log}");
    assert!(log.contains("during loading, exiting now"), "{log}");
    assert!(!log.contains("Ready to accept connections"), "{log}");
    for command in ["SHUTDOWN NOSAVE", "SHUTDOWN"] {
        let mut server = start_slowly(&Program::subject(), &folder);
        let _ = server
            .connect()
            .call(&command.split(' ').collect::<Vec<_>>());
        let status = server.wait(PATIENCE).unwrap().expect("it exits");
        assert!(status.success(), "{}", server.log());
    }
}

/// Values of all types, small and large, in several databases.
fn populate(connection: &mut Connection, random: &mut Random) {
    for db in [0, 3, 15] {
        say(connection, &format!("SELECT {db}"));
        say(connection, &format!("DEBUG POPULATE 3000 key:{db} 40"));
        for number in 0..300 {
            let size = [1, 5, 30, 300][random.below(4)];
            let mut commands = vec![
                format!("RPUSH list:{number}"),
                format!("SADD set:{number}"),
                format!("SADD integers:{number}"),
                format!("HSET hash:{number}"),
                format!("ZADD zset:{number}"),
            ];
            for item in 0..size {
                let word = "x".repeat(random.below(90));
                commands[0] += &format!(" {item}{word}");
                commands[1] += &format!(" {word}{item}");
                commands[2] += &format!(" {}", item * item * 1000);
                commands[3] += &format!(" field{item} {item}{word}");
                commands[4] += &format!(" {}.5 {word}{item}", random.below(1000));
            }
            for item in 0..size.min(20) {
                commands.push(format!("XADD stream:{number} {}-1 field {item}", item + 1));
            }
            commands.push(format!("SETEX timed:{number} 100000 value"));
            for command in commands {
                say(connection, &command);
            }
        }
    }
}

#[test]
fn a_file_of_redis_has_the_same_data_here_however_many_threads_load_it() {
    let folder = ScratchFolder::create().unwrap();
    let redis = start_in(&Program::reference(), &folder, &[]);
    let mut connection = redis.connect();
    populate(&mut connection, &mut Random::for_test());
    assert_eq!(say(&mut connection, "SAVE"), Reply::Simple(b"OK".to_vec()));
    let theirs = say(&mut connection, "DEBUG DIGEST");
    for arguments in [
        &["--threads", "1", "--shards", "1"][..],
        &["--threads", "2"],
        &["--threads", "7", "--shards", "4"],
        &["--threads", "4", "--hash-max-listpack-entries", "2"],
    ] {
        let server = start_in(&Program::subject(), &folder, arguments);
        let mut connection = loaded(&server);
        assert_eq!(
            say(&mut connection, "DEBUG DIGEST"),
            theirs,
            "{arguments:?}"
        );
    }
}
