//! A disk that is really full: the append-only file on a small file system in memory, which only the server sees.

mod common {
    pub mod replicas;
}

use std::fs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use common::replicas::{call, digest, info, wait_until, with_append_only_file};
use damselfly_oracle::connection::request;
use damselfly_oracle::server::{Program, ScratchFolder, Server};

/// Mounts the file system in a namespace of the server's own, for which nobody has to be root.
const SCRIPT: &str = r#"#!/bin/sh
mkdir disk
exec unshare --map-root-user --mount sh -c 'mount -t tmpfs -o size=28m none disk && exec "$0" --dir disk "$@"' PROGRAM "$@"
"#;

/// A file that takes room until the test removes it. Then there is room for all values, also for those that were accepted before the server
/// saw that the disk was full.
const BALLAST_BYTES: usize = 24 << 20;
const VALUE_BYTES: usize = 16 << 10;
/// So many values do not fit.
const VALUES_MAX: usize = 1000;

/// The same with a folder that can only be read.
const READ_ONLY_SCRIPT: &str = r#"#!/bin/sh
exec unshare --map-root-user --mount sh -c 'mount --bind FOLDER FOLDER && mount -o remount,bind,ro FOLDER && exec "$0" --dir FOLDER "$@"' PROGRAM "$@"
"#;

/// True if this machine lets users mount file systems.
fn can_mount() -> bool {
    let mount = ["mount", "-t", "tmpfs", "none", "/mnt"];
    let status = Command::new("unshare")
        .args(["--map-root-user", "--mount"])
        .args(mount)
        .status();
    let can_mount = status.is_ok_and(|status| status.success());
    if !can_mount {
        eprintln!("not tested: this machine does not let users mount file systems");
    }
    can_mount
}

/// Our server, started by a script.
fn wrapped(folder: &ScratchFolder, script: &str) -> Program {
    let path = folder.path().join("script");
    let program = fs::canonicalize(Program::subject().path()).unwrap();
    let script = script.replace("PROGRAM", &format!("'{}'", program.display()));
    // Another process writes it: a process that another test starts meanwhile would have a file that this one writes open for a moment,
    // and what somebody may write can't be run.
    let written = Command::new("sh")
        .args(["-c", r#"printf %s "$2" > "$1" && chmod 755 "$1""#, "sh"])
        .arg(&path)
        .arg(script)
        .status();
    assert!(written.unwrap().success());
    Program::new(path)
}

struct SmallDisk {
    server: Server,
    /// The file system, as this process sees it.
    path: PathBuf,
    _folder: ScratchFolder,
}

impl SmallDisk {
    /// A server with an append-only file; `None` if this machine does not let users mount file systems.
    fn start(appendfsync: &str) -> Option<Self> {
        if !can_mount() {
            return None;
        }
        let folder = ScratchFolder::create().unwrap();
        let program = wrapped(&folder, SCRIPT);
        let options = [
            "--appendonly",
            "yes",
            "--appendfsync",
            appendfsync,
            "--save",
            "",
            "--threads",
            "2",
            "--enable-debug-command",
            "yes",
        ];
        let server = Server::start(&program, &options).unwrap();
        wait_until("it is loaded", || call(&server, &["PING"]) == "PONG");
        let root = PathBuf::from(format!("/proc/{}/root", server.id()));
        let dir = call(&server, &["CONFIG", "GET", "dir"]);
        let dir = dir
            .rsplit('"')
            .nth(1)
            .unwrap()
            .trim_start_matches('/')
            .to_owned();
        let disk = Self {
            path: root.join(dir),
            server,
            _folder: folder,
        };
        fs::write(disk.ballast(), vec![b'x'; BALLAST_BYTES]).unwrap();
        Some(disk)
    }

    fn ballast(&self) -> PathBuf {
        self.path.join("ballast")
    }

    /// Writes until the server refuses it, or until told to end. Returns how many writes were acknowledged.
    fn fill(&self, ends: &AtomicBool) -> usize {
        let value = "x".repeat(VALUE_BYTES);
        let mut connection = self.server.connect();
        for number in 0..VALUES_MAX {
            let reply = connection.call(&["SET", &format!("key:{number}"), &value]);
            match reply {
                Ok(reply) if reply.to_string() == "OK" => {
                    if ends.load(SeqCst) {
                        return number + 1;
                    }
                }
                Ok(reply) => {
                    let text = reply.to_string();
                    let expected =
                        "MISCONF Errors writing to the AOF file: No space left on device";
                    assert!(text.contains(expected), "{text}");
                    return number;
                }
                Err(error) => panic!("{error}"),
            }
        }
        panic!("{VALUES_MAX} values fit on the disk");
    }

    /// A copy of the append-only file, which leads to the same data.
    fn check_copy(&self) {
        assert_eq!(
            call(&self.server, &["WAITAOF", "1", "0", "0"]),
            "1) (integer) 1\n2) (integer) 0"
        );
        let folder = ScratchFolder::create().unwrap();
        copy(
            &self.path.join("appendonlydir"),
            &folder.path().join("appendonlydir"),
        );
        let other = with_append_only_file(&Program::subject(), folder.path());
        assert_eq!(digest(&other), digest(&self.server));
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_full_disk_refuses_writes_until_there_is_room() {
    let Some(disk) = SmallDisk::start("everysec") else {
        return;
    };
    let server = &disk.server;
    let acknowledged = disk.fill(&AtomicBool::new(false));
    assert!(acknowledged > 10, "{acknowledged}");
    assert_eq!(info(server, "aof_last_write_status"), "err");
    assert!(
        server
            .log()
            .contains("Error writing to the AOF file: No space left on device")
    );
    // Reads go on, and nothing that was acknowledged is gone.
    for number in [0, acknowledged - 1] {
        let length = call(server, &["STRLEN", &format!("key:{number}")]);
        assert_eq!(length, format!("(integer) {VALUE_BYTES}"));
    }
    assert!(call(server, &["SET", "more", "x"]).contains("MISCONF"));
    fs::remove_file(disk.ballast()).unwrap();
    wait_until("writes are accepted", || {
        call(server, &["SET", "more", "x"]) == "OK"
    });
    assert_eq!(info(server, "aof_last_write_status"), "ok");
    disk.check_copy();
}

#[test]
fn with_always_a_write_that_does_not_fit_is_acknowledged_when_there_is_room() {
    let Some(disk) = SmallDisk::start("always") else {
        return;
    };
    let (server, ends) = (&disk.server, AtomicBool::new(false));
    std::thread::scope(|scope| {
        let filling = scope.spawn(|| disk.fill(&ends));
        // The reply to the write that did not fit is held back, and other clients are refused.
        wait_until("the disk is full", || {
            info(server, "aof_last_write_status") == "err"
        });
        wait_until("writes are refused", || {
            let mut connection = server.connect();
            let request = damselfly_oracle::connection::request(&["SET", "more", "x"]);
            connection.send(&request).unwrap();
            let limit = std::time::Duration::from_millis(200);
            connection.stream().set_read_timeout(Some(limit)).unwrap();
            connection
                .receive()
                .is_ok_and(|reply| reply.to_string().contains("MISCONF"))
        });
        assert!(!filling.is_finished());
        ends.store(true, SeqCst);
        fs::remove_file(disk.ballast()).unwrap();
        let acknowledged = filling.join().unwrap();
        wait_until("writes are accepted", || {
            call(server, &["SET", "more", "x"]) == "OK"
        });
        assert_eq!(info(server, "aof_last_write_status"), "ok");
        assert_eq!(
            call(server, &["EXISTS", &format!("key:{}", acknowledged - 1)]),
            "(integer) 1"
        );
    });
}

/// Bug: `CONFIG SET appendonly no` did not end the refusal of writes, so not even keys could be deleted.
#[test]
fn turning_the_file_off_accepts_writes_again() {
    let Some(disk) = SmallDisk::start("everysec") else {
        return;
    };
    let server = &disk.server;
    disk.fill(&AtomicBool::new(false));
    assert_eq!(call(server, &["CONFIG", "SET", "appendonly", "no"]), "OK");
    wait_until("writes are accepted", || {
        call(server, &["SET", "more", "x"]) == "OK"
    });
    assert_eq!(call(server, &["FLUSHALL"]), "OK");
    assert_eq!(call(server, &["SET", "small", "x"]), "OK");
    assert_eq!(call(server, &["CONFIG", "SET", "appendonly", "yes"]), "OK");
    wait_until("the new file is complete", || {
        call(server, &["WAITAOF", "1", "0", "100"]).starts_with("1) (integer) 1")
    });
    disk.check_copy();
}

/// Bug: when the server stopped with a full disk, the file had a hole: the change that did not fit was missing, later ones were there.
#[test]
fn after_a_stop_with_a_full_disk_the_file_has_a_beginning_of_the_history() {
    let Some(mut disk) = SmallDisk::start("everysec") else {
        return;
    };
    let server = &disk.server;
    // Still open when the server's file system is gone.
    let folder = fs::File::open(disk.path.join("appendonlydir")).unwrap();
    let behind = PathBuf::from(format!("/proc/self/fd/{}/.", folder.as_raw_fd()));
    assert_eq!(call(server, &["SET", "before", "x"]), "OK");
    let sleep = |us: &str| call(server, &["DEBUG", "AOF-FLUSH-SLEEP", us]);
    assert_eq!(sleep("1000000"), "OK");
    let mut durable = server.connect();
    let reply = durable.call(&["CLIENT", "DURABLE", "ON"]).unwrap();
    assert_eq!(reply.to_string(), "OK");
    let large = "x".repeat(8 << 20);
    durable.send(&request(&["SET", "large", &large])).unwrap();
    wait_until("the write is visible", || {
        call(server, &["EXISTS", "large"]) == "(integer) 1"
    });
    assert_eq!(call(server, &["SET", "after", "x"]), "OK");
    wait_until("the disk is full", || {
        info(server, "aof_last_write_status") == "err"
    });
    let mut connection = server.connect();
    connection.send(b"SHUTDOWN NOSAVE NOW FORCE\r\n").unwrap();
    let ended = disk.server.wait(std::time::Duration::from_secs(30));
    assert!(ended.unwrap().is_some(), "the server stops");
    assert!(durable.closed_by_server(), "the change is not on disk");
    let restored = ScratchFolder::create().unwrap();
    copy(&behind, &restored.path().join("appendonlydir"));
    let other = with_append_only_file(&Program::subject(), restored.path());
    assert_eq!(call(&other, &["EXISTS", "before"]), "(integer) 1");
    assert_eq!(call(&other, &["EXISTS", "large", "after"]), "(integer) 0");
}

/// Bug: if the disk was full and as much waited to be written as may, the server did not stop. Cause: the thread that takes changes from the log waited
/// for the one that writes them, which tried again and again until it was told to end, after the former had ended.
#[test]
fn a_full_queue_does_not_keep_the_server_from_stopping() {
    let Some(mut disk) = SmallDisk::start("everysec") else {
        return;
    };
    let server = &disk.server;
    assert_eq!(call(server, &["DEBUG", "AOF-FLUSH-SLEEP", "2000000"]), "OK");
    let mut connection = server.connect();
    let large = request(&["SET", "large", &"x".repeat(8 << 20)]);
    for _ in 0..10 {
        connection.send(&large).unwrap();
    }
    wait_until("the queue is full", || {
        info(server, "aof_buffer_length").parse::<usize>().unwrap() > 64 << 20
    });
    let mut other = server.connect();
    other.send(b"SHUTDOWN NOSAVE NOW FORCE\r\n").unwrap();
    let ended = disk.server.wait(std::time::Duration::from_secs(60));
    assert!(ended.unwrap().is_some(), "the server stops");
}

/// Bug: it started, and refused every write.
#[test]
fn a_server_whose_append_only_file_cannot_be_written_does_not_start() {
    if !can_mount() {
        return;
    }
    let (data, folder) = (
        ScratchFolder::create().unwrap(),
        ScratchFolder::create().unwrap(),
    );
    let usual = with_append_only_file(&Program::subject(), data.path());
    assert_eq!(call(&usual, &["SET", "key", "value"]), "OK");
    drop(usual);
    let script = READ_ONLY_SCRIPT.replace("FOLDER", &data.path().display().to_string());
    let log = match Server::start(&wrapped(&folder, &script), &["--appendonly", "yes"]) {
        Err(error) => error.to_string(),
        Ok(mut server) => {
            let ended = server.wait(std::time::Duration::from_secs(60)).unwrap();
            assert!(ended.is_some_and(|status| !status.success()));
            server.log()
        }
    };
    for part in [
        "Can't open the append-only file ",
        ".incr.aof for writing: Read-only file system",
    ] {
        assert!(log.contains(part), "{log}");
    }
}

/// Bug: it ended as if all were well, and what waited to be written was lost.
#[test]
fn a_server_with_unwritten_changes_ends_only_if_it_is_forced() {
    for force in [false, true] {
        let Some(mut disk) = SmallDisk::start("everysec") else {
            return;
        };
        let server = &disk.server;
        disk.fill(&AtomicBool::new(false));
        let refused = call(server, &["SHUTDOWN"]);
        assert!(refused.contains("Errors trying to SHUTDOWN"), "{refused}");
        let why =
            "The last changes can't be written to the append-only file: No space left on device";
        assert!(server.log().contains(why));
        let mut connection = server.connect();
        match force {
            true => connection.send(b"SHUTDOWN FORCE\r\n").unwrap(),
            false => {
                fs::remove_file(disk.ballast()).unwrap();
                wait_until("all is written", || {
                    info(server, "aof_last_write_status") == "ok"
                });
                connection.send(b"SHUTDOWN\r\n").unwrap();
            }
        }
        let ended = disk.server.wait(std::time::Duration::from_secs(60));
        assert!(ended.unwrap().is_some_and(|status| status.success()));
    }
}
