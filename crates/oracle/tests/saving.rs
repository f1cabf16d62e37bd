//! Saving, as a user of Redis expects it: replies, failed saves, save points, and what stops the server.
//!
//! Each test starts its own server. With `DAMSELFLY_BIN=redis-server`, they run against Redis, except those that Redis can't pass.
//! `DAMSELFLY_SEED` repeats the random moments of the last test.

use damselfly_oracle::connection::{Connection, request};
use damselfly_oracle::random;
use damselfly_oracle::server::{Kind, Program, ScratchFolder, Server};
use damselfly_protocol::client::Value;
use damselfly_rdb::{Event, ReadOptions, Reader};
use damselfly_value::{Text, Thresholds, Value as Stored};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The longest that a test waits for any event.
const PATIENCE: Duration = Duration::from_secs(60);

/// With one save point that no test reaches.
fn options<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut all = vec![
        "--save",
        "3600 1000000",
        "--enable-protected-configs",
        "yes",
        "--enable-debug-command",
        "yes",
    ];
    all.extend_from_slice(more);
    all
}

fn start(more: &[&str]) -> Server {
    Server::start(&Program::subject(), &options(more)).unwrap()
}

fn is_redis() -> bool {
    Program::subject().kind() == Kind::Redis
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "timed out waiting until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends a command whose words are separated by spaces, and returns the reply as `redis-cli` shows it.
fn say(connection: &mut Connection, command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    connection.call(&words).unwrap().to_string()
}

/// A field of INFO.
fn field(connection: &mut Connection, name: &str) -> String {
    let reply = connection.call(&["INFO", "everything"]).unwrap();
    let Value::Bulk(bytes) = reply else {
        panic!("INFO: {reply:?}");
    };
    let text = String::from_utf8(bytes).unwrap();
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.unwrap_or_else(|| panic!("no {name}")).to_owned()
}

fn await_save(connection: &mut Connection) {
    until("the save ends", || {
        field(connection, "rdb_bgsave_in_progress") == "0"
    });
}

/// Makes saves fail: a folder that is not empty is in the place of the file.
fn break_saves(server: &Server, connection: &mut Connection) {
    let obstacle = server.folder().join("obstacle");
    fs::create_dir(&obstacle).unwrap();
    fs::write(obstacle.join("file"), "").unwrap();
    assert_eq!(say(connection, "CONFIG SET dbfilename obstacle"), "OK");
}

fn mend_saves(connection: &mut Connection) {
    assert_eq!(say(connection, "CONFIG SET dbfilename dump.rdb"), "OK");
}

fn send_signal(server: &Server, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(server.id()).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

fn await_end(server: &mut Server) -> ExitStatus {
    match server.wait(PATIENCE).unwrap() {
        Some(status) => status,
        None => panic!("the server goes on; its log:\n{}", server.log()),
    }
}

fn await_log(server: &Server, text: &str) {
    until(&format!("the log says '{text}'"), || {
        server.log().contains(text)
    });
}

fn dump(server: &Server) -> PathBuf {
    server.folder().join("dump.rdb")
}

/// The strings and integers of a file, by key, and how many keys it has.
fn strings(path: &PathBuf) -> HashMap<String, String> {
    let bytes = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let thresholds = Thresholds::default();
    let read = ReadOptions {
        thresholds: &thresholds,
        verify_checksum: true,
    };
    let mut reader = Reader::new(&bytes[..], read).unwrap();
    let mut found = HashMap::new();
    loop {
        match reader.next().unwrap() {
            Event::Entry(loaded) => {
                let entry = loaded.entry.view();
                let key = String::from_utf8(entry.key().to_vec()).unwrap();
                let value = match entry.value() {
                    Stored::Text(Text::Integer(number)) => number.to_string(),
                    Stored::Text(Text::Bytes { bytes, .. }) => {
                        String::from_utf8(bytes.to_vec()).unwrap()
                    }
                    Stored::Text(Text::Packed(text)) => String::from_utf8(text.to_vec()).unwrap(),
                    _ => String::from("a collection"),
                };
                assert!(found.insert(key, value).is_none());
            }
            Event::End => return found,
            _ => {}
        }
    }
}

/// Commands whose replies are compared with those of Redis while the last save has failed.
const AFTER_A_FAILED_SAVE: &[&[&str]] = &[
    &["PING"],
    &["PING", "x"],
    &["SET", "a", "1"],
    &["GET", "a"],
    &["ECHO", "x"],
    &["FLUSHALL"],
    &["DEL", "a"],
    &["GETEX", "a"],
    &["SWAPDB", "0", "1"],
    &["SORT", "a", "STORE", "b"],
    &["SET", "a"],
    &["NOSUCHCOMMAND"],
    &["PUBLISH", "a", "b"],
    &["SPUBLISH", "a", "b"],
    &["SCRIPT", "FLUSH"],
    &["MULTI"],
    &["SET", "a", "1"],
    &["EXEC"],
    &["MULTI"],
    &["GET", "a"],
    &["EXEC"],
    &["MULTI"],
    &["PING"],
    &["EXEC"],
    &["EVAL", "return redis.call('set','a','1')", "0"],
    &["EVAL", "return redis.pcall('set','a','1')['err']", "0"],
    &["EVAL", "return redis.call('get','a')", "0"],
    &["EVAL", "return redis.call('ping')", "0"],
    &["EVAL", "return redis.call('publish','a','b')", "0"],
    &["EVAL", "#!lua\nreturn redis.call('get','a')", "0"],
    &[
        "EVAL",
        "#!lua flags=no-writes\nreturn redis.call('get','a')",
        "0",
    ],
    &[
        "EVAL",
        "#!lua flags=no-writes\nreturn redis.call('set','a',1)",
        "0",
    ],
    &["EVAL_RO", "#!lua\nreturn redis.call('get','a')", "0"],
    &["EVAL_RO", "return redis.call('set','a',1)", "0"],
    &["EVAL_RO", "return redis.call('get','a')", "0"],
    &[
        "FUNCTION",
        "LOAD",
        "#!lua name=other\nredis.register_function('o',function() end)",
    ],
    &["FCALL", "writes", "0"],
    &["FCALL", "reads", "0"],
    &["FCALL_RO", "reads", "0"],
    &["FCALL_RO", "writes", "0"],
    &["FCALL", "none", "0"],
    &["MULTI"],
    &["EVAL", "return redis.call('set','a','1')", "0"],
    &["EVAL", "return redis.call('get','a')", "0"],
    &["FCALL", "reads", "0"],
    &["FCALL", "none", "0"],
    &["EXEC"],
    &["MULTI"],
    &["GET", "a"],
    &["FCALL", "writes", "0"],
    &["EXEC"],
    &["BGSAVE", "x"],
    &["BGSAVE", "SCHEDULE", "x"],
    &["SAVE"],
    &["SET", "a", "1"],
    &["SHUTDOWN"],
    &["SHUTDOWN", "ABORT"],
    &["SHUTDOWN", "ABORT", "NOW"],
    &["SHUTDOWN", "SAVE", "NOSAVE"],
    &["SHUTDOWN", "FOO"],
    // With the option off, or without save points, writes are allowed.
    &["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"],
    &["SET", "a", "2"],
    // A transaction that was queued before is refused as a whole, but a queued PING is not.
    &["MULTI"],
    &["SET", "a", "3"],
    &["CONFIG", "SET", "stop-writes-on-bgsave-error", "yes"],
    &["EXEC"],
    &["SET", "a", "4"],
    &["CONFIG", "SET", "save", ""],
    &["SET", "a", "5"],
    &["CONFIG", "SET", "save", "3600 1000000"],
    &["SET", "a", "6"],
    &["GET", "a"],
    &["SUBSCRIBE", "x"],
    &["PING"],
    &["UNSUBSCRIBE", "x"],
    // Any save that succeeds ends it.
    &["CONFIG", "SET", "dbfilename", "dump.rdb"],
    &["SAVE"],
    &["SET", "a", "7"],
    &["PING"],
    // A failed SAVE only replies.
    &["CONFIG", "SET", "dbfilename", "obstacle"],
    &["SAVE"],
    &["SET", "a", "8"],
    &["DEBUG", "RELOAD"],
    &["GET", "a"],
];

#[test]
fn after_a_failed_save_replies_are_those_of_redis() {
    let library = "#!lua name=l\nredis.register_function('writes',function() return redis.call('set','a',1) end)\nredis.register_function{function_name='reads',callback=function() return redis.call('get','a') end,flags={'no-writes'}}";
    let replies = [Program::reference(), Program::subject()].map(|program| {
        let server = Server::start(&program, &options(&[])).unwrap();
        let mut connection = server.connect();
        connection.call(&["FUNCTION", "LOAD", library]).unwrap();
        break_saves(&server, &mut connection);
        say(&mut connection, "BGSAVE");
        await_save(&mut connection);
        let replies: Vec<String> = AFTER_A_FAILED_SAVE
            .iter()
            .map(|command| connection.call(command).unwrap().to_string())
            .collect();
        replies
    });
    for (index, command) in AFTER_A_FAILED_SAVE.iter().enumerate() {
        assert_eq!(replies[0][index], replies[1][index], "{index}: {command:?}");
    }
}

/// EXEC of a transaction that was queued before the save failed.
#[test]
fn a_queued_write_is_refused_by_exec_and_a_queued_ping_is_not() {
    let server = start(&[]);
    let (mut writer, mut pinger) = (server.connect(), server.connect());
    let mut other = server.connect();
    for (connection, command) in [(&mut writer, "SET a 1"), (&mut pinger, "PING")] {
        say(connection, "MULTI");
        assert_eq!(say(connection, command), "QUEUED");
    }
    break_saves(&server, &mut other);
    say(&mut other, "BGSAVE");
    await_save(&mut other);
    let refused = say(&mut writer, "EXEC");
    assert!(
        refused.starts_with("(error) EXECABORT Transaction discarded because of: MISCONF"),
        "{refused}"
    );
    assert_eq!(say(&mut pinger, "EXEC"), "1) PONG");
}

/// Bug: of clients that sent SAVE at the same time, all but one got an error. Cause: the others found a save in progress. Fix: they wait
/// for it, as Redis makes them, and save then.
#[test]
fn saves_of_several_clients_run_one_after_another() {
    let server = start(&[]);
    let replies: Vec<String> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| say(&mut server.connect(), "SAVE")))
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect()
    });
    assert_eq!(replies, ["OK"; 8]);
    assert_eq!(field(&mut server.connect(), "rdb_saves"), "8");
}

/// Bug: during a rewrite, BGSAVE SCHEDULE and SAVE said that a save was in progress.
#[test]
fn a_save_can_be_asked_for_during_a_rewrite() {
    let server = start(&[]);
    let mut connection = server.connect();
    for number in 0..20 {
        say(&mut connection, &format!("SET key:{number} value"));
    }
    say(&mut connection, "CONFIG SET rdb-key-save-delay 100000");
    let saves: u32 = field(&mut connection, "rdb_saves").parse().unwrap();
    assert!(say(&mut connection, "BGREWRITEAOF").contains("started"));
    let refused = say(&mut connection, "BGSAVE");
    assert!(
        refused.starts_with(
            "(error) ERR Another child process is active (AOF?): can't BGSAVE right now"
        ),
        "{refused}"
    );
    say(&mut connection, "CONFIG SET rdb-key-save-delay 0");
    let scheduled = "Background saving scheduled";
    assert_eq!(say(&mut connection, "BGSAVE SCHEDULE"), scheduled);
    say(&mut connection, "MULTI");
    say(&mut connection, "BGSAVE");
    assert_eq!(say(&mut connection, "EXEC"), format!("1) {scheduled}"));
    assert_eq!(say(&mut connection, "SAVE"), "OK");
    until("it has saved", || {
        field(&mut connection, "rdb_saves").parse::<u32>().unwrap() >= saves + 2
    });
    assert_eq!(strings(&dump(&server)).len(), 20);
}

/// Bug: the folder itself was taken for the snapshot.
#[test]
fn a_server_starts_without_a_name_for_snapshots() {
    let server = start(&["--dbfilename", "", "--save", ""]);
    assert_eq!(say(&mut server.connect(), "DBSIZE"), "(integer) 0");
}

#[test]
fn bgsave_says_what_it_does() {
    let server = start(&[]);
    let mut connection = server.connect();
    for number in 0..20 {
        say(&mut connection, &format!("SET key:{number} value"));
    }
    assert_eq!(field(&mut connection, "rdb_changes_since_last_save"), "20");
    say(&mut connection, "CONFIG SET rdb-key-save-delay 10000000");
    assert_eq!(say(&mut connection, "BGSAVE"), "Background saving started");
    let refused = "(error) ERR Background save already in progress";
    for command in ["BGSAVE", "BGSAVE SCHEDULE", "SAVE"] {
        assert_eq!(say(&mut connection, command), refused, "{command}");
    }
    for (name, value) in [
        ("rdb_bgsave_in_progress", "1"),
        ("current_save_keys_total", "20"),
        ("rdb_saves", "1"),
        ("rdb_last_bgsave_status", "ok"),
        ("rdb_last_bgsave_time_sec", "-1"),
    ] {
        assert_eq!(field(&mut connection, name), value, "{name}");
    }
    assert_ne!(field(&mut connection, "rdb_current_bgsave_time_sec"), "-1");
    // FLUSHALL aborts the save, and has saved an empty file when it replies.
    assert_eq!(say(&mut connection, "FLUSHALL"), "OK");
    assert!(strings(&dump(&server)).is_empty());
    assert_eq!(field(&mut connection, "rdb_changes_since_last_save"), "0");
    await_save(&mut connection);
    assert_eq!(field(&mut connection, "rdb_last_bgsave_status"), "ok");

    say(&mut connection, "CONFIG SET rdb-key-save-delay 0");
    say(&mut connection, "SET a 1");
    say(&mut connection, "MULTI");
    say(&mut connection, "BGSAVE");
    say(&mut connection, "INCR a");
    assert_eq!(
        say(&mut connection, "EXEC"),
        "1) Background saving scheduled\n2) (integer) 2"
    );
    until("the scheduled save is written", || {
        strings(&dump(&server)).get("a").map(String::as_str) == Some("2")
    });
    await_save(&mut connection);
    say(&mut connection, "SET b 1");
    assert_eq!(say(&mut connection, "CONFIG RESETSTAT"), "OK");
    assert_eq!(field(&mut connection, "rdb_saves"), "0");
    assert_eq!(field(&mut connection, "rdb_changes_since_last_save"), "1");
    let before = say(&mut connection, "LASTSAVE");
    until("the save is in another second", || {
        say(&mut connection, "SAVE");
        say(&mut connection, "LASTSAVE") != before
    });
}

/// Bug: FLUSHALL without save points left a running save as it was, and its keys in memory until the end of the save. Redis aborts
/// the save.
#[test]
fn flushall_aborts_a_running_save() {
    let server = start(&["--save", "", "--rdb-key-save-delay", "10000000"]);
    let mut connection = server.connect();
    for number in 0..20 {
        say(&mut connection, &format!("SET key:{number} value"));
    }
    assert_eq!(say(&mut connection, "BGSAVE"), "Background saving started");
    assert_eq!(say(&mut connection, "FLUSHALL"), "OK");
    await_save(&mut connection);
    assert!(!dump(&server).exists());
    assert_eq!(field(&mut connection, "rdb_last_bgsave_status"), "ok");
}

#[test]
fn changed_functions_are_saved_by_save_points() {
    let server = start(&["--save", "1 2"]);
    let mut connection = server.connect();
    let code = "#!lua name=l\nredis.register_function('f',function() end)";
    connection.call(&["FUNCTION", "LOAD", code]).unwrap();
    assert_eq!(field(&mut connection, "rdb_changes_since_last_save"), "1");
    assert!(!dump(&server).exists());
    say(&mut connection, "FUNCTION DELETE l");
    until("a save point is due", || dump(&server).exists());
}

#[test]
fn a_save_point_tries_again_after_a_failure() {
    let server = start(&["--save", "1 1"]);
    let mut connection = server.connect();
    break_saves(&server, &mut connection);
    say(&mut connection, "SET a 1");
    until("the save fails", || {
        field(&mut connection, "rdb_last_bgsave_status") == "err"
    });
    assert_eq!(field(&mut connection, "rdb_changes_since_last_save"), "1");
    mend_saves(&mut connection);
    until("the next save succeeds", || {
        field(&mut connection, "rdb_last_bgsave_status") == "ok"
    });
    assert_eq!(strings(&dump(&server))["a"], "1");
    assert_eq!(say(&mut connection, "SET a 2"), "OK");
}

#[test]
fn the_folder_and_the_name_of_the_file_can_change() {
    let server = start(&[]);
    let mut connection = server.connect();
    fs::create_dir(server.folder().join("other")).unwrap();
    assert_eq!(say(&mut connection, "CONFIG SET dir other"), "OK");
    assert_eq!(say(&mut connection, "CONFIG SET dbfilename x.rdb"), "OK");
    say(&mut connection, "SET a 1");
    assert_eq!(say(&mut connection, "SAVE"), "OK");
    assert_eq!(strings(&server.folder().join("other/x.rdb"))["a"], "1");
    let names = fs::read_dir(server.folder().join("other")).unwrap().count();
    assert_eq!(names, 1, "no temporary file is left");
}

/// Bug: nothing removed the temporary files of killed processes.
#[test]
fn the_start_removes_temporary_files_of_killed_processes() {
    if is_redis() {
        return;
    }
    let folder = ScratchFolder::create().unwrap();
    let path = folder.path().to_str().unwrap();
    let leftover = folder.path().join("temp-damselfly-1.rdb");
    fs::write(&leftover, "REDIS").unwrap();
    fs::write(folder.path().join("other.rdb"), "").unwrap();
    let _server = start(&["--dir", path]);
    assert!(!leftover.exists());
    assert!(folder.path().join("other.rdb").exists());
}

#[test]
fn sigterm_saves_if_there_are_save_points() {
    let mut server = start(&[]);
    let mut connection = server.connect();
    say(&mut connection, "SET a 1");
    let mut blocked = server.connect();
    blocked.send(&request(&["BLPOP", "list", "0"])).unwrap();
    until("a client is blocked", || {
        field(&mut connection, "blocked_clients") == "1"
    });
    send_signal(&server, Signal::TERM);
    assert_eq!(await_end(&mut server).code(), Some(0));
    assert_eq!(strings(&dump(&server))["a"], "1");
}

#[test]
fn options_say_whether_a_signal_saves() {
    for (signal, option, value, saves) in [
        (Signal::TERM, "shutdown-on-sigterm", "nosave", false),
        (Signal::INT, "shutdown-on-sigint", "nosave now", false),
        (Signal::INT, "shutdown-on-sigterm", "nosave", true),
        (Signal::TERM, "shutdown-on-sigterm", "default", true),
    ] {
        let mut server = start(&[&format!("--{option}"), value]);
        say(&mut server.connect(), "SET a 1");
        send_signal(&server, signal);
        assert_eq!(await_end(&mut server).code(), Some(0), "{option} {value}");
        assert_eq!(dump(&server).exists(), saves, "{option} {value}");
    }
    let mut server = start(&["--save", "", "--shutdown-on-sigint", "save force"]);
    say(&mut server.connect(), "SET a 1");
    send_signal(&server, Signal::INT);
    assert_eq!(await_end(&mut server).code(), Some(0));
    assert!(dump(&server).exists());
}

/// Bug: after a final save that failed, the server took the first signal for ever: it tried to save again and again, and the next
/// signal killed it. The fix: the signal is forgotten.
#[test]
fn a_server_that_cannot_save_goes_on_and_the_next_signal_tries_again() {
    let mut server = start(&[]);
    let mut connection = server.connect();
    say(&mut connection, "SET a 1");
    break_saves(&server, &mut connection);
    assert_eq!(
        say(&mut connection, "SHUTDOWN"),
        "(error) ERR Errors trying to SHUTDOWN. Check logs."
    );
    for tries in 1..=2 {
        send_signal(&server, Signal::TERM);
        let failed = "can't exit";
        // SHUTDOWN has logged one.
        until("the final save fails", || {
            server.log().matches(failed).count() == 1 + tries
        });
        assert_eq!(
            say(&mut connection, "INCR a"),
            format!("(integer) {}", 1 + tries)
        );
        let script = "return redis.call('GET', 'a')";
        assert!(connection.call(&["EVAL", script, "0"]).is_ok());
    }
    mend_saves(&mut connection);
    send_signal(&server, Signal::TERM);
    assert_eq!(await_end(&mut server).code(), Some(0));
    assert_eq!(strings(&dump(&server))["a"], "3");
}

#[test]
fn force_stops_a_server_that_cannot_save() {
    let mut server = start(&[]);
    let mut connection = server.connect();
    break_saves(&server, &mut connection);
    connection
        .send(&request(&["SHUTDOWN", "SAVE", "FORCE"]))
        .unwrap();
    assert!(connection.closed_by_server());
    assert_eq!(await_end(&mut server).code(), Some(0));
}

/// Bug: SHUTDOWN NOSAVE during a save never ended the process. The cause: the thread that writes the file waited for the threads that
/// encode, which had ended. The fix: the save is given up.
#[test]
fn a_running_save_does_not_delay_the_end() {
    for command in ["SHUTDOWN NOSAVE", "SHUTDOWN SAVE"] {
        let mut server = start(&["--rdb-key-save-delay", "10000000"]);
        let mut connection = server.connect();
        for number in 0..20 {
            say(&mut connection, &format!("SET key:{number} value"));
        }
        assert_eq!(say(&mut connection, "BGSAVE"), "Background saving started");
        say(&mut connection, "CONFIG SET rdb-key-save-delay 0");
        let words: Vec<&str> = command.split(' ').collect();
        connection.send(&request(&words)).unwrap();
        assert!(connection.closed_by_server());
        assert_eq!(await_end(&mut server).code(), Some(0), "{command}");
        let mut names: Vec<String> = fs::read_dir(server.folder())
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        match command {
            "SHUTDOWN SAVE" => {
                assert_eq!(names, ["dump.rdb", "log"]);
                assert_eq!(strings(&dump(&server)).len(), 20);
            }
            _ => assert_eq!(names, ["log"]),
        }
    }
}

#[test]
fn sigterm_awaits_a_script_that_has_written() {
    if is_redis() {
        // Redis looks at signals after the script.
        return;
    }
    let mut server = start(&["--busy-reply-threshold", "10"]);
    let mut script = server.connect();
    let slow = "redis.call('SET', 'a', '1') local start = os.clock() while os.clock() - start < 3 do end redis.call('SET', 'b', '1')";
    script
        .send(&request(&["EVAL", slow, "2", "a", "b"]))
        .unwrap();
    await_log(&server, "Slow script detected");
    send_signal(&server, Signal::TERM);
    assert_eq!(await_end(&mut server).code(), Some(0));
    let saved = strings(&dump(&server));
    assert_eq!((saved["a"].as_str(), saved["b"].as_str()), ("1", "1"));
}

#[test]
fn sigterm_ends_a_script_that_has_written_nothing() {
    if is_redis() {
        return;
    }
    let mut server = start(&["--busy-reply-threshold", "10"]);
    say(&mut server.connect(), "SET c 1");
    let mut script = server.connect();
    let endless = "redis.call('GET', 'a') while true do end";
    script.send(&request(&["EVAL", endless, "1", "a"])).unwrap();
    await_log(&server, "Slow script detected");
    // As in Redis, SHUTDOWN does not end it.
    let busy = say(&mut server.connect(), "SHUTDOWN");
    assert!(busy.starts_with("(error) BUSY"), "{busy}");
    send_signal(&server, Signal::TERM);
    assert_eq!(await_end(&mut server).code(), Some(0));
    assert_eq!(strings(&dump(&server))["c"], "1");
}

/// The same within a transaction, which the final save shows as a whole or not at all.
#[test]
fn sigterm_awaits_a_transaction_that_has_written() {
    if is_redis() {
        return;
    }
    let slow = "local start = os.clock() while os.clock() - start < 3 do end";
    let endless = "while true do end";
    for (write, script) in [("SET a 1", slow), ("GET a", endless)] {
        let mut server = start(&["--busy-reply-threshold", "10"]);
        let mut connection = server.connect();
        say(&mut connection, "MULTI");
        say(&mut connection, write);
        connection.call(&["EVAL", script, "0"]).unwrap();
        say(&mut connection, "SET b 1");
        connection.send(&request(&["EXEC"])).unwrap();
        await_log(&server, "Slow script detected");
        send_signal(&server, Signal::TERM);
        assert_eq!(await_end(&mut server).code(), Some(0));
        let saved = strings(&dump(&server));
        assert_eq!(saved.contains_key("a"), write == "SET a 1");
        assert_eq!(saved["b"], "1");
    }
}

#[test]
fn a_second_signal_does_not_wait_for_a_script() {
    if is_redis() {
        return;
    }
    let mut server = start(&["--busy-reply-threshold", "10"]);
    let mut script = server.connect();
    let endless = "redis.call('SET', 'a', '1') while true do end";
    script.send(&request(&["EVAL", endless, "1", "a"])).unwrap();
    await_log(&server, "Slow script detected");
    send_signal(&server, Signal::TERM);
    await_log(&server, "Waiting for a script");
    send_signal(&server, Signal::TERM);
    assert_eq!(await_end(&mut server).code(), Some(1));
    assert!(!dump(&server).exists());
}

/// Increments counters in pipelines until the server closes the connection; returns the last values that were acknowledged.
fn increment(mut connection: Connection, client: usize) -> (i64, i64) {
    let (single, pair) = (format!("single:{client}"), format!("pair:{client}:a"));
    let other = format!("pair:{client}:b");
    let mut batch = Vec::new();
    for _ in 0..50 {
        batch.extend(request(&["INCR", &single]));
        batch.extend(request(&["MULTI"]));
        batch.extend(request(&["INCR", &pair]));
        batch.extend(request(&["INCR", &other]));
        batch.extend(request(&["EXEC"]));
    }
    let mut last = (0, 0);
    while connection.send(&batch).is_ok() {
        for _ in 0..50 * 5 {
            match connection.receive() {
                Ok(Value::Integer(value)) => last.0 = value,
                Ok(Value::Array(values)) => {
                    if let [Value::Integer(a), Value::Integer(b)] = values[..] {
                        assert_eq!(a, b);
                        last.1 = a;
                    }
                }
                Ok(Value::Simple(_)) => {}
                Ok(other) => panic!("{other:?}"),
                Err(_) => return last,
            }
        }
    }
    last
}

#[test]
fn every_acknowledged_write_is_in_the_final_save() {
    const CLIENTS: usize = 8;
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = random::number_from("DAMSELFLY_SEED").unwrap_or(clock.as_millis() as u64);
    println!("DAMSELFLY_SEED={seed}");
    let moments = (0..4).map(|round| (seed >> round) % 200);
    for wait_ms in moments {
        let more: &[&str] = match is_redis() {
            true => &[],
            false => &["--threads", "4"],
        };
        let mut server = start(more);
        let mut connection = server.connect();
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| {
                let connection = server.connect();
                std::thread::spawn(move || increment(connection, client))
            })
            .collect();
        until("all clients are at work", || {
            (0..CLIENTS).all(|client| {
                say(&mut connection, &format!("EXISTS pair:{client}:b")) == "(integer) 1"
            })
        });
        std::thread::sleep(Duration::from_millis(wait_ms));
        send_signal(&server, Signal::TERM);
        let acknowledged: Vec<_> = clients
            .into_iter()
            .map(|client| client.join().unwrap())
            .collect();
        assert_eq!(await_end(&mut server).code(), Some(0));
        let saved = strings(&dump(&server));
        for (client, (single, pair)) in acknowledged.into_iter().enumerate() {
            let value = |name: &str| -> i64 { saved[&format!("{name}:{client}")].parse().unwrap() };
            let both =
                |name: &str| -> i64 { saved[&format!("pair:{client}:{name}")].parse().unwrap() };
            assert!(value("single") >= single, "{} < {single}", value("single"));
            assert!(both("a") >= pair, "{} < {pair}", both("a"));
            assert_eq!(both("a"), both("b"));
        }
    }
}

/// Save points count elements, so that a few large commands are saved as soon as many small ones. Each pair of numbers is that of Redis.
#[test]
fn save_points_count_elements() {
    let server = start(&[]);
    let mut connection = server.connect();
    let mut before = 0;
    for (command, changes) in [
        ("RPUSH list a b a c d e", 6),
        ("LPUSHX list x y", 2),
        ("LPOP list 2", 2),
        ("LREM list 0 a", 2),
        ("LTRIM list 1 1", 3),
        ("SADD set a b c d e f", 6),
        ("SADD set a g", 1),
        ("SREM set a b", 2),
        ("SPOP set 2", 2),
        ("SPOP set 9", 3),
        ("HSET hash a 1 b 2 c 3", 3),
        ("HDEL hash a b x", 2),
        ("ZADD zset 1 a 2 b 3 c 4 d 5 e 6 f", 6),
        ("ZADD zset 1 a 3 b", 1),
        ("ZREM zset a b", 2),
        ("ZREMRANGEBYRANK zset 0 1", 2),
        ("ZPOPMAX zset 2", 2),
        ("MSET a 1 b 2", 2),
        ("DEL a b c", 2),
        ("SET key x", 1),
    ] {
        say(&mut connection, command);
        let now: i64 = field(&mut connection, "rdb_changes_since_last_save")
            .parse()
            .unwrap();
        assert_eq!(now - before, changes, "{command}");
        before = now;
    }
}
