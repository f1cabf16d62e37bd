//! Append-only files as only Redis writes them: before version 7 one file, with scripts instead of their effects.

mod common {
    pub mod replicas;
}

use std::fs;

use common::replicas::{digest, info, wait_until, with_append_only_file};
use damselfly_base::sha1::{hex, sha1};
use damselfly_oracle::connection::request;
use damselfly_oracle::server::{Program, ScratchFolder, Server};

fn start(program: &Program, log: &[u8]) -> (Server, ScratchFolder) {
    let folder = ScratchFolder::create().unwrap();
    fs::write(folder.path().join("appendonly.aof"), log).unwrap();
    (with_append_only_file(program, folder.path()), folder)
}

#[test]
fn scripts_run_again_and_lead_to_the_data_that_redis_has() {
    let (count, pop) = (
        "redis.call('INCR', KEYS[1]); return redis.call('RPUSH', KEYS[2], ARGV[1])",
        "return redis.call('LPOP', 'undeclared')",
    );
    let (count_digest, pop_digest) = (hex(&sha1(count.as_bytes())), hex(&sha1(pop.as_bytes())));
    let commands: &[&[&str]] = &[
        &["SELECT", "3"],
        &["RPUSH", "undeclared", "a", "b", "c"],
        &["EVAL", count, "2", "n", "list", "first"],
        &["EVALSHA", &count_digest, "2", "n", "list", "second"],
        &["SCRIPT", "LOAD", pop],
        &["EVALSHA", &pop_digest, "0"],
        &["MULTI"],
        &["SET", "k", "v", "PX", "1"],
        &["EVAL", count, "2", "n", "list", "third"],
        &["PERSIST", "k"],
        &["EXEC"],
        // A bug: these were refused. Redis writes LIMIT behind `=` if the client gave it behind `~`.
        &[
            "XADD", "stream", "MAXLEN", "=", "2", "LIMIT", "9", "10-1", "field", "value",
        ],
        &["XTRIM", "stream", "MINID", "=", "3-0", "LIMIT", "9"],
        // It fails half-way, as it did before.
        &[
            "EVAL",
            "redis.call('INCR', 'n'); return redis.call('INCR', 'list')",
            "0",
        ],
    ];
    let log: Vec<u8> = commands.iter().flat_map(|words| request(words)).collect();
    let (redis, _one) = start(&Program::reference(), &log);
    let (ours, _other) = start(&Program::subject(), &log);
    assert_eq!(digest(&redis), digest(&ours));
    let mut connection = ours.connect();
    connection.call(&["SELECT", "3"]).unwrap();
    let value = |connection: &mut damselfly_oracle::connection::Connection, words: &[&str]| {
        connection.call(words).unwrap().to_string()
    };
    assert_eq!(value(&mut connection, &["GET", "n"]), "\"4\"");
    assert_eq!(value(&mut connection, &["LLEN", "list"]), "(integer) 3");
    assert_eq!(value(&mut connection, &["GET", "k"]), "\"v\"");
    // DEBUG LOADAOF repeats the rewritten file, which has their effects.
    assert_eq!(value(&mut connection, &["DEBUG", "LOADAOF"]), "OK");
    assert_eq!(digest(&redis), digest(&ours));
}

/// Bug: a server that was started without `appendonly` took an old file for its own when that was turned on, and then deleted it, although its
/// data was in no memory.
#[test]
fn an_old_file_is_not_touched_by_a_server_that_has_not_loaded_it() {
    let folder = ScratchFolder::create().unwrap();
    let (old, log) = (
        folder.path().join("appendonly.aof"),
        request(&["SET", "precious", "x"]),
    );
    fs::write(&old, &log).unwrap();
    let dir = folder.path().display().to_string();
    let options = [
        "--dir",
        &dir,
        "--save",
        "",
        "--enable-protected-configs",
        "yes",
    ];
    let server = Server::start(&Program::subject(), &options).unwrap();
    let mut connection = server.connect();
    let mut say = |words: &[&str]| connection.call(words).unwrap().to_string();
    assert_eq!(say(&["SET", "new", "x"]), "OK");
    assert!(say(&["BGREWRITEAOF"]).contains("Background append only file rewriting"));
    wait_until("the rewrite is over", || {
        info(&server, "aof_rewrite_in_progress") == "0"
    });
    assert_eq!(say(&["CONFIG", "SET", "appendonly", "yes"]), "OK");
    wait_until("the file is complete", || {
        say(&["WAITAOF", "1", "0", "100"]).starts_with("1) (integer) 1")
    });
    assert_eq!(fs::read(&old).unwrap(), log);
    // The folder can't be changed under an append-only file.
    let refused = say(&["CONFIG", "SET", "dir", "/tmp"]);
    assert!(refused.contains("turn it off first"), "{refused}");
    assert_eq!(say(&["CONFIG", "SET", "appendonly", "no"]), "OK");
    assert_eq!(say(&["CONFIG", "SET", "dir", "/tmp"]), "OK");
}

#[test]
fn a_script_that_nobody_knows_is_a_refusal_to_start() {
    let log = request(&["EVALSHA", &"0".repeat(40), "0"]);
    let folder = ScratchFolder::create().unwrap();
    fs::write(folder.path().join("appendonly.aof"), log).unwrap();
    let dir = folder.path().display().to_string();
    let output = Program::subject()
        .command(
            folder.path(),
            &[
                "--port",
                "0",
                "--unixsocket",
                "s",
                "--dir",
                &dir,
                "--appendonly",
                "yes",
            ],
        )
        .output()
        .unwrap();
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("the script of 'evalsha' can't run: NOSCRIPT"),
        "{text}"
    );
}
