//! The Rust client `redis` works unchanged: strings, expiry, pipelines, SCAN, RESP3, large values.

use damselfly_oracle::server::{Program, Server};
use redis::{Client, Connection, ErrorKind, RedisError, ServerErrorKind};
use std::collections::HashSet;

/// Too large for the buffers of either side.
const BIG_BYTES: usize = 10 << 20;

fn start() -> Server {
    Server::start(&Program::subject(), &[]).unwrap()
}

fn connect(server: &Server, query: &str) -> Connection {
    Client::open(format!("redis://{}/{query}", server.address()))
        .unwrap()
        .get_connection()
        .unwrap()
}

fn text(connection: &mut Connection, words: &[&str]) -> redis::RedisResult<Option<String>> {
    let mut command = redis::cmd(words[0]);
    command.arg(&words[1..]);
    command.query(connection)
}

#[test]
fn strings_and_expiry() {
    let server = start();
    let mut connection = connect(&server, "");
    assert_eq!(
        text(&mut connection, &["SET", "k", "gr\u{fc}n \u{1f41d}"])
            .unwrap()
            .as_deref(),
        Some("OK")
    );
    assert_eq!(
        text(&mut connection, &["GET", "k"]).unwrap().as_deref(),
        Some("gr\u{fc}n \u{1f41d}")
    );
    assert_eq!(text(&mut connection, &["GET", "missing"]).unwrap(), None);
    assert!(
        redis::cmd("EXPIRE")
            .arg("k")
            .arg(100)
            .query::<bool>(&mut connection)
            .unwrap()
    );
    let ttl: i64 = redis::cmd("TTL").arg("k").query(&mut connection).unwrap();
    assert!((99..=100).contains(&ttl));
    let all: Vec<u8> = (0..=255).collect();
    redis::cmd("SET")
        .arg(&all)
        .arg(&all)
        .exec(&mut connection)
        .unwrap();
    assert_eq!(
        redis::cmd("GET")
            .arg(&all)
            .query::<Vec<u8>>(&mut connection)
            .unwrap(),
        all
    );
}

#[test]
fn pipelines_and_scan() {
    let server = start();
    let mut connection = connect(&server, "");
    let mut pipeline = redis::pipe();
    for number in 0..1000 {
        pipeline
            .cmd("SET")
            .arg(format!("key:{number}"))
            .arg(number)
            .ignore();
    }
    pipeline.cmd("DBSIZE");
    assert_eq!(pipeline.query::<(i64,)>(&mut connection).unwrap(), (1000,));
    let scan = redis::cmd("SCAN")
        .cursor_arg(0)
        .arg("MATCH")
        .arg("key:*")
        .arg("COUNT")
        .arg(50)
        .clone();
    let found: HashSet<String> = scan
        .iter::<String>(&mut connection)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert_eq!(found.len(), 1000);
}

#[test]
fn resp3_large_values_and_other_databases() {
    let server = start();
    let mut connection = connect(&server, "3?protocol=resp3");
    let big = vec![b'x'; BIG_BYTES];
    redis::cmd("SET")
        .arg("big")
        .arg(&big)
        .exec(&mut connection)
        .unwrap();
    assert_eq!(
        redis::cmd("GET")
            .arg("big")
            .query::<Vec<u8>>(&mut connection)
            .unwrap(),
        big
    );
    assert_eq!(text(&mut connection, &["GET", "missing"]).unwrap(), None);
    assert_eq!(
        text(&mut connect(&server, ""), &["GET", "big"]).unwrap(),
        None,
        "database 0 is not affected"
    );
}

#[test]
fn errors_do_not_close_the_connection() {
    let server = start();
    let mut connection = connect(&server, "");
    text(&mut connection, &["SET", "k", "text"]).unwrap();
    let error: RedisError = text(&mut connection, &["INCR", "k"]).unwrap_err();
    assert_eq!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ResponseError),
        "{error}"
    );
    assert_eq!(
        error.detail(),
        Some("value is not an integer or out of range")
    );
    assert_eq!(
        text(&mut connection, &["GET", "k"]).unwrap().as_deref(),
        Some("text")
    );
}
