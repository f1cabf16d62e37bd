//! Saves that are interrupted or fail: the earlier file stays, the log and INFO say so, and the next save succeeds.
//!
//! The file system is "full" by the limit on the size of files (`RLIMIT_FSIZE`), which needs no rights. `DAMSELFLY_KILLS` is how many
//! servers are killed while they save.

mod common;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{
    Saved, call, elements, info, say, seeded, set_option, snapshot_path, string, wait_for_save,
};
use damselfly_oracle::connection::{Connection, request};
use damselfly_oracle::random;
use damselfly_oracle::server::{Program, ScratchFolder, Server};
use damselfly_protocol::client::Value as Reply;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

const KEYS: usize = 500;
const KILLS: u64 = 8;
const POLL_INTERVAL: Duration = Duration::from_millis(1);

/// A server that saves in `folder`.
fn server_in(folder: &Path) -> Server {
    let folder = folder.to_str().unwrap();
    let arguments = ["--dir", folder, "--save", "", "--threads", "2"];
    let server = Server::start(&Program::subject(), &arguments);
    let server = server.unwrap_or_else(|error| panic!("{error}"));
    common::wait_until_loaded(&mut server.connect());
    server
}

fn names(folder: &Path) -> Vec<String> {
    let files = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn temporary(server: &Server, folder: &Path) -> PathBuf {
    folder.join(format!("temp-damselfly-{}.rdb", server.id()))
}

/// Waits until the save has begun to write its file.
fn wait_for_file(path: &Path) {
    let start = Instant::now();
    while fs::metadata(path).map_or(0, |file| file.len()) == 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "{path:?}");
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// Sets all keys to values with this number, in one transaction.
fn write_generation(connection: &mut Connection, generation: u64) -> std::io::Result<Reply> {
    let mut commands = vec![request(&["MULTI"])];
    for key in 0..KEYS {
        let (key, value) = (
            format!("key:{key}"),
            format!("{generation}:{}", "v".repeat(key)),
        );
        commands.push(request(&["SET", &key, &value]));
    }
    // The thread that writes the file encodes this one.
    let elements = (0..1000).map(|at| format!("{generation}:{at}:{}", "e".repeat(90)));
    let list: Vec<String> = ["RPUSH", "list"]
        .map(String::from)
        .into_iter()
        .chain(elements)
        .collect();
    commands.extend([
        request(&["DEL", "list"]),
        request(&list),
        request(&["EXEC"]),
    ]);
    connection.send(&commands.concat())?;
    let mut last = Ok(Reply::Integer(0));
    for _ in &commands {
        last = Ok(connection.receive()?);
    }
    last
}

/// The number that all values of a file have.
fn generation_of(path: &Path) -> u64 {
    let saved = Saved::read(path).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(saved.keys.len(), KEYS + 1);
    let list = elements(saved.entry(0, "list").unwrap());
    assert_eq!(list.len(), 1000);
    let keys = (0..KEYS).map(|key| string(saved.entry(0, &format!("key:{key}")).unwrap()));
    let mut numbers: Vec<u64> = list
        .into_iter()
        .chain(keys)
        .map(|value| value.split(':').next().unwrap().parse().unwrap())
        .collect();
    numbers.dedup();
    assert_eq!(numbers.len(), 1, "{numbers:?}");
    numbers[0]
}

/// Saves, which must fail and leave the file as it is. The reason is in the log, if that can still be written.
fn assert_save_fails(server: &Server, connection: &mut Connection, reason: Option<&str>) {
    let folder = snapshot_path(connection).parent().unwrap().to_owned();
    let log = server.log().len();
    say(connection, "BGSAVE");
    assert!(!wait_for_save(connection), "{}", server.log());
    let status = info(connection, "rdb_last_bgsave_status");
    assert_eq!(status, "err");
    let reply = connection.call(&["SAVE"]).unwrap();
    assert!(matches!(reply, Reply::Error(_)), "{reply:?}");
    assert!(!temporary(server, &folder).exists());
    assert_eq!(
        say(connection, "SET alive yes"),
        Reply::Simple(b"OK".to_vec())
    );
    if let Some(reason) = reason {
        let log = server.log()[log..].to_owned();
        let failures: Vec<_> = log
            .lines()
            .filter(|line| line.contains("Background saving error"))
            .collect();
        assert_eq!(failures.len(), 2, "{log}");
        assert!(failures.iter().all(|line| line.contains(reason)), "{log}");
    }
    say(connection, "DEL alive");
}

#[test]
fn a_killed_server_leaves_one_complete_earlier_file() {
    let mut random = seeded();
    let folder = ScratchFolder::create().unwrap();
    let kills = random::number_from("DAMSELFLY_KILLS").unwrap_or(KILLS);
    let path = folder.path().join("dump.rdb");
    let (mut generation, mut first_kept, mut leftovers) = (0, 0, 0);
    let mut on_disk = None;
    for _ in 0..kills {
        let had: Vec<String> = names(folder.path());
        let server = server_in(folder.path());
        for name in had.iter().filter(|name| name.starts_with("temp-")) {
            leftovers += 1;
            assert!(!folder.path().join(name).exists(), "{name}");
            assert!(server.log().contains(name), "{}", server.log());
        }
        let (mut writer, mut saver) = (server.connect(), server.connect());
        let delay_us = *random.pick(&["0", "50"]);
        set_option(&mut saver, "rdb-key-save-delay", delay_us);
        if let Some(kept) = on_disk {
            let value = common::text(&say(&mut writer, "GET key:0"));
            assert_eq!(value, format!("{kept}:"), "what was loaded");
        }
        let id = Pid::from_raw(i32::try_from(server.id()).unwrap()).unwrap();
        let mut save = |generation: &mut u64| -> std::io::Result<()> {
            *generation += 1;
            write_generation(&mut writer, *generation)?;
            let reply = saver.call(&["SAVE"])?;
            assert_eq!(reply, Reply::Simple(b"OK".to_vec()));
            first_kept = *generation;
            Ok(())
        };
        // Then it is killed after the time of up to four further saves.
        let start = Instant::now();
        save(&mut generation).unwrap();
        let save_us = start.elapsed().as_micros() as u64;
        let killer = std::thread::spawn({
            let patience = Duration::from_micros(random.bits() % (4 * save_us));
            move || {
                std::thread::sleep(patience);
                rustix::process::kill_process(id, rustix::process::Signal::KILL).unwrap();
            }
        });
        let mut step = || -> std::io::Result<()> {
            loop {
                save(&mut generation)?;
            }
        };
        assert!(step().is_err());
        killer.join().unwrap();
        drop(server);
        let kept = generation_of(&path);
        let expected = first_kept..=generation;
        assert!(expected.contains(&kept), "{kept} {expected:?}");
        on_disk = Some(kept);
    }
    println!("{generation} generations, {leftovers} temporary files were left");
}

/// They stayed for ever, since nothing called the function that removes them. Now the server does at its start.
#[test]
fn a_temporary_file_of_a_killed_server_is_removed_at_the_next_start() {
    let folder = ScratchFolder::create().unwrap();
    let server = server_in(folder.path());
    let mut connection = server.connect();
    write_generation(&mut connection, 1).unwrap();
    set_option(&mut connection, "rdb-key-save-delay", "100000");
    say(&mut connection, "BGSAVE");
    let leftover = temporary(&server, folder.path());
    wait_for_file(&leftover);
    drop(server);
    assert!(leftover.exists());
    // Files of others, and those that a running server still writes.
    let locked = folder.path().join("temp-damselfly-1.rdb");
    let others = ["temp-1234.rdb", "temp-damselfly-2.rdb.copy", "other"];
    others
        .iter()
        .for_each(|name| fs::write(folder.path().join(name), b"x").unwrap());
    let lock = File::create(&locked).unwrap();
    lock.lock().unwrap();
    let server = server_in(folder.path());
    let mut expected = others.map(String::from).to_vec();
    expected.push("temp-damselfly-1.rdb".into());
    expected.sort();
    assert_eq!(names(folder.path()), expected);
    let name = leftover.file_name().unwrap().to_str().unwrap();
    let log = server.log();
    assert!(
        log.contains(&format!("Removed {}", leftover.display())),
        "{name}: {log}"
    );
}

/// A save beyond the limit ended the whole server: the limit sends SIGXFSZ, which ends a process. Now the signal is ignored, so that
/// only the write fails.
#[test]
fn a_full_file_system_leaves_the_earlier_file() {
    let folder = ScratchFolder::create().unwrap();
    let server = server_in(folder.path());
    let mut connection = server.connect();
    write_generation(&mut connection, 1).unwrap();
    let path = snapshot_path(&mut connection);
    for compression in ["yes", "no"] {
        set_option(&mut connection, "rdbcompression", compression);
        say(&mut connection, "SAVE");
        let before = fs::read(&path).unwrap();
        let size = before.len() as u64;
        let mut levels: Vec<u64> = vec![0, 1, 8, 9, 10, 100, 200, size - 9, size - 8, size - 1];
        levels.extend((1..12).map(|part| size * part / 12));
        // The log is a file, too.
        let can_log = |level| level > server.log().len() as u64 + 2000;
        for level in levels {
            let reason = can_log(level).then_some("File too large");
            limit_files(&server, Some(level));
            assert_save_fails(&server, &mut connection, reason);
            limit_files(&server, None);
            assert!(fs::read(&path).unwrap() == before, "{level} of {size}");
            assert_eq!(names(folder.path()), ["dump.rdb"]);
        }
        limit_files(&server, Some(size + 1000));
        say(&mut connection, "BGSAVE");
        assert!(wait_for_save(&mut connection), "{}", server.log());
        assert_eq!(generation_of(&path), 1);
        limit_files(&server, None);
    }
}

fn limit_files(server: &Server, bytes: Option<u64>) {
    let id = Pid::from_raw(i32::try_from(server.id()).unwrap());
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    prlimit(id, Resource::Fsize, limit).unwrap();
}

#[test]
fn a_folder_that_is_gone_or_blocked_fails_the_save_until_it_is_back() {
    let parent = ScratchFolder::create().unwrap();
    let [folder, aside] = ["data", "aside"].map(|name| parent.path().join(name));
    fs::create_dir(&folder).unwrap();
    let server = server_in(&folder);
    let mut connection = server.connect();
    write_generation(&mut connection, 1).unwrap();
    say(&mut connection, "SAVE");
    let path = folder.join("dump.rdb");
    let before = fs::read(&path).unwrap();

    fs::rename(&folder, &aside).unwrap();
    assert_save_fails(&server, &mut connection, Some("No such file or directory"));
    fs::write(&folder, b"a file in its place").unwrap();
    assert_save_fails(&server, &mut connection, Some("Not a directory"));
    fs::remove_file(&folder).unwrap();
    fs::rename(&aside, &folder).unwrap();
    assert!(fs::read(&path).unwrap() == before);
    say(&mut connection, "SAVE");

    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_save_fails(&server, &mut connection, Some("Is a directory"));
    fs::remove_dir(&path).unwrap();
    assert_eq!(names(&folder), [""; 0]);

    // It disappears while the file is written.
    set_option(&mut connection, "rdb-key-save-delay", "1000");
    say(&mut connection, "BGSAVE");
    wait_for_file(&temporary(&server, &folder));
    fs::remove_dir_all(&folder).unwrap();
    set_option(&mut connection, "rdb-key-save-delay", "0");
    assert!(connection.call(&["SAVE"]).is_ok());
    let reason = "No such file or directory";
    assert!(!wait_for_save(&mut connection));
    assert!(server.log().contains(reason), "{}", server.log());
    fs::create_dir(&folder).unwrap();
    say(&mut connection, "SAVE");
    assert_eq!(generation_of(&path), 1);
}

#[test]
fn two_servers_can_save_in_one_folder() {
    let folder = ScratchFolder::create().unwrap();
    let servers = [(); 2].map(|()| server_in(folder.path()));
    let mut connections = [0, 1].map(|at: usize| servers[at].connect());
    for (at, connection) in connections.iter_mut().enumerate() {
        write_generation(connection, 1 + at as u64).unwrap();
        set_option(connection, "rdb-key-save-delay", "200");
    }
    let path = folder.path().join("dump.rdb");
    for _ in 0..3 {
        for connection in &mut connections {
            say(connection, "BGSAVE");
        }
        let files = [0, 1].map(|at: usize| temporary(&servers[at], folder.path()));
        files.iter().for_each(|path| wait_for_file(path));
        // A third server starts meanwhile. It must not take these files for leftovers.
        let third = server_in(folder.path());
        assert!(!third.log().contains("Removed"), "{}", third.log());
        for (at, connection) in connections.iter_mut().enumerate() {
            assert!(wait_for_save(connection), "{}", servers[at].log());
            assert!([1, 2].contains(&generation_of(&path)));
        }
        assert_eq!(names(folder.path()), ["dump.rdb"]);
    }
}

/// Servers in two containers can have the same process id, and so the same temporary file: each truncated the file of the other before
/// it tried to lock it. Now a file is locked first, and another name is used if that fails.
#[test]
fn two_servers_with_the_same_process_id_can_save_in_one_folder() {
    let folder = ScratchFolder::create().unwrap();
    let server = server_in(folder.path());
    let mut connection = server.connect();
    write_generation(&mut connection, 1).unwrap();
    let of_the_other = temporary(&server, folder.path());
    fs::write(&of_the_other, b"a half of a file").unwrap();
    let lock = File::open(&of_the_other).unwrap();
    lock.lock().unwrap();
    say(&mut connection, "SAVE");
    assert_eq!(generation_of(&folder.path().join("dump.rdb")), 1);
    assert_eq!(fs::read(&of_the_other).unwrap(), b"a half of a file");
    lock.unlock().unwrap();
    // Its server has ended, so this is a leftover.
    say(&mut connection, "SAVE");
    assert_eq!(names(folder.path()), ["dump.rdb"]);
    let _ = call(&mut connection, &["PING"]);
}
