//! Servers that are killed while clients write: nothing that was acknowledged may be missing, and transactions and scripts are there
//! whole or not at all. `DAMSELFLY_KILLS` sets how often.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use damselfly_oracle::connection::Connection;
use damselfly_oracle::server::{Program, ScratchFolder, Server};

use crate::{integer, start};

fn kills() -> usize {
    let number = std::env::var("DAMSELFLY_KILLS").ok();
    number.and_then(|number| number.parse().ok()).unwrap_or(12)
}

const TRANSFER: &str =
    "redis.call('DECR', KEYS[1]); redis.call('INCR', KEYS[2]); return redis.call('INCR', KEYS[3])";

/// The kinds of writes of a client: a counter, a list, transfers by MULTI and by scripts.
const KINDS: usize = 4;

/// When each write of each kind was acknowledged.
type Acknowledged = [Vec<Instant>; KINDS];

/// Writes until the server is gone.
fn write(server: &Server, client: usize, stop: &AtomicBool) -> Acknowledged {
    let mut connection = server.connect();
    let mut done = Acknowledged::default();
    let name = |kind: &str| format!("{kind}:{client}");
    let (counter, list, stream) = (name("counter"), name("list"), name("stream"));
    let (moved, scripted) = (name("moved"), name("scripted"));
    while !stop.load(Relaxed) {
        let acknowledged = (|| {
            connection.call(&["INCR", &counter])?;
            done[0].push(Instant::now());
            connection.call(&["RPUSH", &list, "x"])?;
            done[1].push(Instant::now());
            for command in [
                &["MULTI"][..],
                &["DECRBY", "a", "3"],
                &["INCRBY", "b", "3"],
                &["INCR", &moved],
                &["XADD", &stream, "*", "f", "v"],
                &["EXEC"],
            ] {
                connection.call(command)?;
            }
            done[2].push(Instant::now());
            connection.call(&["EVAL", TRANSFER, "3", "a", "b", &scripted])?;
            done[3].push(Instant::now());
            Ok::<_, std::io::Error>(())
        })();
        if acknowledged.is_err() {
            break;
        }
    }
    done
}

/// How many writes of each kind a client has made.
#[derive(Clone, Copy, Default)]
struct Counts {
    /// Those that must be there.
    promised: [i64; KINDS],
    /// All that were acknowledged.
    made: [i64; KINDS],
}

/// Checks the data of all clients, and returns what is there.
fn check(connection: &mut Connection, clients: &[Counts], what: &str) -> Vec<Counts> {
    let (a, b) = (
        integer(connection, &["GET", "a"]),
        integer(connection, &["GET", "b"]),
    );
    assert_eq!(a + b, 0, "{what}: half of a transfer is there");
    let mut found = Vec::new();
    for (client, counts) in clients.iter().enumerate() {
        let name = |kind: &str| format!("{kind}:{client}");
        let now = [
            integer(connection, &["GET", &name("counter")]),
            integer(connection, &["LLEN", &name("list")]),
            integer(connection, &["GET", &name("moved")]),
            integer(connection, &["GET", &name("scripted")]),
        ];
        let entries = integer(connection, &["XLEN", &name("stream")]);
        assert_eq!(entries, now[2], "{what}: half of a transaction is there");
        for ((now, promised), made) in now.iter().zip(counts.promised).zip(counts.made) {
            assert!(
                *now >= promised,
                "{what}: {now} of {promised} writes are left that must be there"
            );
            // At most one more was on its way.
            assert!(
                *now <= made + 1,
                "{what}: {now} writes, but {made} were made"
            );
        }
        found.push(Counts {
            promised: now,
            made: now,
        });
    }
    found
}

/// Kills servers under writes. Acknowledged writes may be missing if they are younger than `window`.
fn kill_again_and_again(options: &[&str], window: Duration) {
    let (program, folder) = (Program::subject(), ScratchFolder::create().unwrap());
    let mut all = vec![Counts::default(); 4];
    for round in 0..kills() {
        let mut server = start(&program, folder.path(), options);
        let stop = AtomicBool::new(false);
        let what = format!("round {round}");
        all = check(&mut server.connect(), &all, &what);
        let (done, killed): (Vec<Acknowledged>, Instant) = thread::scope(|scope| {
            let writers: Vec<_> = (0..all.len())
                .map(|client| {
                    let (server, stop) = (&server, &stop);
                    scope.spawn(move || write(server, client, stop))
                })
                .collect();
            thread::sleep(Duration::from_millis(20 + 37 * (round as u64 % 7)));
            if round % 3 == 1 {
                let _ = server.connect().call(&["BGREWRITEAOF"]);
                thread::sleep(Duration::from_millis(round as u64 % 13));
            }
            let killed = Instant::now();
            let pid = rustix::process::Pid::from_raw(server.id() as i32).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            stop.store(true, Relaxed);
            let done = writers.into_iter().map(|writer| writer.join().unwrap());
            (done.collect(), killed)
        });
        let _ = server.wait(Duration::from_secs(10));
        for (counts, done) in all.iter_mut().zip(done) {
            for (kind, times) in done.iter().enumerate() {
                let is_old = |time: &&Instant| window.is_zero() || **time + window < killed;
                counts.promised[kind] += times.iter().filter(is_old).count() as i64;
                counts.made[kind] += times.len() as i64;
            }
        }
    }
    let server = start(&program, folder.path(), options);
    check(&mut server.connect(), &all, "the end");
}

#[test]
fn with_always_no_acknowledged_write_is_lost() {
    let options = ["--appendfsync", "always", "--threads", "2"];
    kill_again_and_again(&options, Duration::ZERO);
}

/// The operating system has what was written, so a killed process loses only what it had not written: some milliseconds, and time for
/// a busy machine.
#[test]
fn with_everysec_a_killed_process_loses_little_and_nothing_is_torn() {
    let options = ["--appendfsync", "everysec", "--threads", "2"];
    kill_again_and_again(&options, Duration::from_millis(500));
}
