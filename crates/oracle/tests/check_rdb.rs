//! `damselfly --check-rdb` on files of a real `redis-server`, intact and damaged, and on paths that are no RDB files.

use std::fs;
use std::path::Path;

use damselfly_oracle::connection::Connection;
use damselfly_oracle::server::{Program, ScratchFolder, Server};
use damselfly_protocol::client::Value;

/// The file of a server with some keys.
fn saved(folder: &Path) -> Vec<u8> {
    let path = folder.to_str().unwrap();
    let server = Server::start(&Program::reference(), &["--dir", path]).unwrap();
    let mut connection = server.connect();
    let say = |connection: &mut Connection, command: &str| {
        let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        let reply = connection.call(&words).unwrap();
        assert!(!matches!(reply, Value::Error(_)), "{command}: {reply:?}");
    };
    for command in [
        "SET text value",
        "SET timed value PX 10000000",
        "RPUSH list a b c",
        "HSET hash field value",
        "SADD small a",
        "SADD larger a b c d e f g h i j k",
        "ZADD sorted 1 a",
        "XADD stream 1-1 field value",
        "SELECT 3",
        "SET other value",
        "SAVE",
    ] {
        say(&mut connection, command);
    }
    fs::read(folder.join("dump.rdb")).unwrap()
}

/// Whether the program is content with a file, and all that it prints.
fn check(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Program::subject().command(folder, arguments);
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(
        output.status.code(),
        Some(i32::from(!output.status.success()))
    );
    (output.status.success(), text)
}

#[test]
fn a_report_counts_keys_and_names_the_first_fault() {
    let scratch = ScratchFolder::create().unwrap();
    let folder = scratch.path();
    let bytes = saved(folder);
    let (is_good, report) = check(folder, &["--check-rdb", "dump.rdb"]);
    assert!(is_good, "{report}");
    for line in [
        "RDB version 10",
        "redis-bits: 64",
        "database 0: 8 keys, 1 with an expiry",
        "database 3: 1 keys, 0 with an expiry",
        "set: 2 keys, ",
        "the largest \"larger\" with ",
        "checksum: correct",
        "in total: 9 keys, 1 with an expiry",
        &format!("{} bytes, no fault found", bytes.len()),
    ] {
        assert!(report.contains(line), "{line:?} is not in {report}");
    }
    let damaged = |bytes: &[u8]| {
        fs::write(folder.join("damaged.rdb"), bytes).unwrap();
        check(folder, &["--check-rdb", "damaged.rdb"])
    };
    for end in (1..bytes.len()).step_by(7) {
        let (is_good, report) = damaged(&bytes[..end]);
        assert!(!is_good && report.contains("truncated"), "{end} {report}");
    }
    for at in (0..bytes.len()).step_by(5) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 0x41;
        let (is_good, report) = damaged(&flipped);
        assert!(
            !is_good && report.contains("fault at offset"),
            "{at} {report}"
        );
    }
    let mut wrong = bytes.clone();
    *wrong.last_mut().unwrap() ^= 1;
    let (is_good, report) = damaged(&wrong);
    assert!(!is_good && report.contains("checksum: wrong"), "{report}");
    let trailing = "bytes after the end of the data, which are not read: 5";
    let (is_good, report) = damaged(&[&bytes[..], b"more\n"].concat());
    assert!(is_good && report.contains(trailing), "{report}");
}

#[test]
fn paths_that_are_no_rdb_files_are_refused() {
    let scratch = ScratchFolder::create().unwrap();
    let folder = scratch.path();
    fs::write(folder.join("empty"), "").unwrap();
    fs::write(folder.join("text"), "text\n").unwrap();
    for (arguments, expected) in [
        (
            &["--check-rdb", "empty"][..],
            "can't read empty: it is empty",
        ),
        (&["--check-rdb", "."], "can't read .: it is a directory"),
        (
            &["--check-rdb", "absent"],
            "can't read absent: No such file",
        ),
        (&["--check-rdb", "text"], "not an RDB file"),
        (&["--check-rdb"], "expected the path of one file"),
        (&["--check-rdb", "a", "b"], "expected the path of one file"),
        (
            &["--port", "1", "--check-rdb", "a"],
            "expected the path of one file",
        ),
    ] {
        let (is_good, text) = check(folder, arguments);
        assert!(!is_good && text.contains(expected), "{arguments:?}: {text}");
    }
}
