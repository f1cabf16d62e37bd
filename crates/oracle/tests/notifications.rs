//! Keyspace notifications: random commands cause the same events as in Redis, and events come in the order of the changes,
//! whichever threads make them.
//!
//! `DAMSELFLY_SEED` repeats the commands of the first test.

use damselfly_oracle::connection::{Connection, request};
use damselfly_oracle::random;
use damselfly_oracle::sequence::{Generator, Pair};
use damselfly_oracle::server::{Kind, Program, Server};
use damselfly_oracle::text::command_line;
use damselfly_protocol::client::Value;
use std::time::{SystemTime, UNIX_EPOCH};

const SEQUENCES: u64 = 25;
const COMMANDS: usize = 200;
const DEBUG: [&str; 2] = ["--enable-debug-command", "yes"];

#[test]
fn random_commands_cause_the_same_events_as_in_redis() {
    let program = Program::subject();
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = random::number_from("DAMSELFLY_SEED").unwrap_or(clock.as_millis() as u64);
    println!("DAMSELFLY_SEED={seed}");
    let reference = Server::start(&Program::reference(), &DEBUG).unwrap();
    // A failed CONFIG SET makes Redis drop the class `n`, and its SCAN removes expired keys.
    let without = ["DEBUG", "CONFIG", "SCAN"].map(String::from);
    let generator = Generator::new(None, &without);
    for threads in ["1", "4"] {
        let mut options = DEBUG.to_vec();
        if program.kind() == Kind::Damselfly {
            options.extend(["--threads", threads]);
        }
        let subject = Server::start(&program, &options).unwrap();
        let pair = Pair::new(reference.address(), subject.address()).unwrap();
        let pair = pair.with_events();
        for seed in seed..seed + SEQUENCES {
            let steps = generator.sequence(seed, COMMANDS);
            if let Some(difference) = pair.run(&steps).unwrap().difference {
                panic!(
                    "seed {seed}, {}\nredis-server:\n{}\nours:\n{}",
                    command_line(&steps[difference.index].arguments),
                    difference.reference,
                    difference.subject
                );
            }
        }
    }
}

/// Clients that increment the same number, by commands with different events.
const WRITERS: [(&str, &str); 4] = [
    ("INCRBY", "incrby"),
    ("INCRBYFLOAT", "incrbyfloat"),
    ("INCRBY", "incrby"),
    ("INCRBYFLOAT", "incrbyfloat"),
];
const ADDITIONS: usize = 5000;

/// Increments the number repeatedly, and returns its values.
fn add(mut connection: Connection, command: &str) -> Vec<usize> {
    const PIPELINE: usize = 50;
    let one = request(&[command, "number", "1"]);
    let mut sums = Vec::new();
    while sums.len() < ADDITIONS {
        connection.send(&one.repeat(PIPELINE)).unwrap();
        for _ in 0..PIPELINE {
            sums.push(match connection.receive().unwrap() {
                Value::Integer(sum) => sum as usize,
                Value::Bulk(sum) => std::str::from_utf8(&sum).unwrap().parse().unwrap(),
                other => panic!("{other:?}"),
            });
        }
    }
    sums
}

#[test]
fn events_come_in_the_order_of_the_changes_of_all_threads() {
    let program = Program::subject();
    let options: &[&str] = match program.kind() {
        Kind::Damselfly => &["--threads", "4"],
        Kind::Redis => &[],
    };
    let server = Server::start(&program, options).unwrap();
    let mut subscriber = server.connect();
    subscriber
        .call(&["CONFIG", "SET", "notify-keyspace-events", "K$"])
        .unwrap();
    subscriber
        .call(&["SUBSCRIBE", "__keyspace@0__:number"])
        .unwrap();
    let mut made = vec![""; WRITERS.len() * ADDITIONS + 1];
    std::thread::scope(|scope| {
        let writers: Vec<_> = WRITERS
            .map(|(command, event)| {
                let connection = server.connect();
                (scope.spawn(move || add(connection, command)), event)
            })
            .into_iter()
            .collect();
        for (writer, event) in writers {
            for sum in writer.join().unwrap() {
                made[sum] = event;
            }
        }
    });
    for (sum, event) in made.iter().enumerate().skip(1) {
        let message = subscriber.receive().unwrap();
        let expected = Value::Bulk(event.as_bytes().to_vec());
        assert!(
            matches!(&message, Value::Array(words) if words.last() == Some(&expected)),
            "{sum} was reached by {event}, but the message is {message:?}"
        );
    }
}
