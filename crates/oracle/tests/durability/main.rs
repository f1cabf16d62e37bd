//! The append-only file.

mod files;
mod kills;
mod running;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use damselfly_oracle::connection::Connection;
use damselfly_oracle::server::{Program, ScratchFolder, Server};
use damselfly_protocol::client::Value;

/// A server in a folder that outlives it.
fn start(program: &Program, folder: &Path, options: &[&str]) -> Server {
    let folder = folder.display().to_string();
    let base = [
        "--dir",
        &folder,
        "--appendonly",
        "yes",
        "--save",
        "",
        "--enable-debug-command",
        "yes",
    ];
    let server = Server::start(program, &[&base[..], options].concat()).unwrap();
    let (mut connection, started) = (server.connect(), Instant::now());
    while connection
        .call(&["DBSIZE"])
        .unwrap()
        .to_string()
        .contains("LOADING")
    {
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "loading takes too long"
        );
        thread::sleep(Duration::from_millis(2));
    }
    server
}

/// True if a server with these options fails at its start. It may accept connections before that.
fn refuses_to_start(program: &Program, options: &[&str]) -> bool {
    const PATIENCE: Duration = Duration::from_secs(60);
    match Server::start(program, options) {
        Err(_) => true,
        Ok(mut server) => {
            let status = server.wait(PATIENCE).unwrap();
            status.is_some_and(|status| !status.success())
        }
    }
}

fn digest(server: &Server) -> String {
    server
        .connect()
        .call(&["DEBUG", "DIGEST"])
        .unwrap()
        .to_string()
}

fn fill(server: &Server) {
    let mut connection = server.connect();
    let _ = connection.call(&["XGROUP", "CREATE", "x", "g", "0", "MKSTREAM"]);
    for number in 0..200 {
        let number = number.to_string();
        for command in [
            &["SET", &format!("k{number}"), &number][..],
            &["INCR", "n"],
            &["RPUSH", "l", &number],
            &["SADD", "s", &number],
            &["SPOP", "s"],
            &["HSET", "h", &number, "v"],
            &["ZINCRBY", "z", "1.5", &number],
            &["XADD", "x", "*", "f", &number],
            &[
                "XREADGROUP",
                "GROUP",
                "g",
                "c",
                "COUNT",
                "1",
                "STREAMS",
                "x",
                ">",
            ],
            &["XGROUP", "CREATE", "empty", &number, "$", "MKSTREAM"],
            &["HSET", "large", &number, &"v".repeat(100)],
            &["SET", &format!("t{number}"), "v", "EX", "1000"],
            &["SELECT", "3"],
            &["SET", &number, "v"],
            &["SELECT", "0"],
        ] {
            connection.call(command).unwrap();
        }
    }
}

fn rewrite(server: &Server) {
    let mut connection = server.connect();
    connection.call(&["BGREWRITEAOF"]).unwrap();
    let started = Instant::now();
    loop {
        let info = connection
            .call(&["INFO", "persistence"])
            .unwrap()
            .to_string();
        let is_done =
            info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0");
        let text = std::fs::read_to_string(server_manifest(server)).unwrap_or_default();
        if is_done && text.matches("type i").count() == 1 && text.contains("type b") {
            return;
        }
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "{info}\n{text}"
        );
        thread::sleep(Duration::from_millis(5));
    }
}

fn server_manifest(server: &Server) -> std::path::PathBuf {
    let mut connection = server.connect();
    let dir = connection
        .call(&["CONFIG", "GET", "dir"])
        .unwrap()
        .to_string();
    let dir = dir
        .lines()
        .nth(1)
        .unwrap()
        .split('"')
        .nth(1)
        .unwrap()
        .to_owned();
    Path::new(&dir).join("appendonlydir/appendonly.aof.manifest")
}

/// The digest of all data.
/// A server with data and without an append-only file.
fn filled_without_file(program: &Program) -> (ScratchFolder, Server) {
    let folder = ScratchFolder::create().unwrap();
    let dir = folder.path().display().to_string();
    let options = ["--dir", &dir, "--save", "", "--enable-debug-command", "yes"];
    let server = Server::start(program, &options).unwrap();
    fill(&server);
    (folder, server)
}

fn integer(connection: &mut Connection, command: &[&str]) -> i64 {
    match connection.call(command).unwrap() {
        Value::Integer(number) => number,
        Value::Bulk(text) => String::from_utf8_lossy(&text).parse().unwrap(),
        Value::Null(_) => 0,
        other => panic!("{command:?}: {other}"),
    }
}
