//! A client that has to wait for another client's long command continues as soon as that finishes.

use damselfly_oracle::connection::{Connection, request};
use damselfly_oracle::server::{Program, Server};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// So many that KEYS takes several milliseconds, much longer than a thread spins.
const KEYS: usize = 100_000;
const LONG: [&str; 2] = ["KEYS", "*n*o*n*e*"];
const ROUNDS: u32 = 20;

fn fill(connection: &mut Connection) {
    for first in (0..KEYS).step_by(1000) {
        let mut words = vec![String::from("MSET")];
        words
            .extend((first..first + 1000).flat_map(|number| [format!("key:{number}"), "v".into()]));
        connection.send(&request(&words)).unwrap();
        connection.receive().unwrap();
    }
}

/// The mean duration of `ROUNDS` calls.
fn mean(mut work: impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..ROUNDS {
        work();
    }
    start.elapsed() / ROUNDS
}

/// Bug: the client waited for up to 100 ms. Cause: the thread asked to be woken only when it tried the client's command for the
/// second time, at its next tick. Fix: it asks when it finds the shard busy.
#[test]
fn a_client_that_finds_a_shard_busy_continues_once_it_is_free() {
    const TOO_LATE: Duration = Duration::from_millis(25);
    let server = Server::start(&Program::subject(), &["--threads", "2", "--shards", "1"]).unwrap();
    // These are on different threads, since each new connection goes to the thread with the fewest.
    let (mut long, mut short) = (server.connect(), server.connect());
    fill(&mut long);
    let alone = mean(|| {
        long.call(&LONG).unwrap();
    });
    let together = mean(|| {
        let ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                long.call(&LONG).unwrap();
                ended.store(true, SeqCst);
            });
            // The first GET may come before KEYS; one of the others finds the shard busy.
            while !ended.load(SeqCst) {
                short.call(&["GET", "key:1"]).unwrap();
            }
        });
    });
    println!("alone {alone:?}, with another client {together:?}");
    assert!(together < 2 * alone + TOO_LATE, "{alone:?}, {together:?}");
}
