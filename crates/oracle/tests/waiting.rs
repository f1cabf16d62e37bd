//! A client that has to wait for another's long command goes on when that ends, and not later.

use damselfly_oracle::connection::{Connection, request};
use damselfly_oracle::server::{Program, Server};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// Makes KEYS take several milliseconds, much longer than a thread spins.
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

/// The mean time of `ROUNDS` calls.
fn mean(mut work: impl FnMut()) -> Duration {
    let start = Instant::now();
    for _ in 0..ROUNDS {
        work();
    }
    start.elapsed() / ROUNDS
}

/// The thread asked to be woken only when it looked at the client for the second time, which was at its next tick:
/// the client waited for up to 100 ms. Now it asks when it finds the shard busy.
#[test]
fn a_client_that_finds_a_shard_busy_goes_on_once_it_is_free() {
    const TOO_LATE: Duration = Duration::from_millis(25);
    let server = Server::start(&Program::subject(), &["--threads", "2", "--shards", "1"]).unwrap();
    // On different threads, since each goes where there are fewest.
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
            // The first may come before it; one of the others finds the shard busy.
            while !ended.load(SeqCst) {
                short.call(&["GET", "key:1"]).unwrap();
            }
        });
    });
    println!("alone {alone:?}, with another client {together:?}");
    assert!(together < 2 * alone + TOO_LATE, "{alone:?}, {together:?}");
}
