//! Random commands run on our server; its log, played on a fresh Redis and on a fresh server of ours, must lead to the same data.

mod common {
    pub mod replicas;
}
mod effects {
    pub mod subject;
}

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use damselfly_oracle::connection::Connection;
use damselfly_oracle::rows::Family;
use damselfly_oracle::sequence::{Generator, Step};
use damselfly_oracle::server::{Program, Server};

use common::replicas::{differences, left_out, run, seeds};
use damselfly_protocol::client::{DecodeLimits, Decoder, Value, write_command};
use effects::subject::Subject;

/// How long a server may take to reply.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many sequences each test plays if nothing else is wanted, and how many commands each has.
const SEQUENCES: u64 = 12;
const LENGTH: usize = 400;

/// Plays a log. A last command tells where its replies end: after the end of the requests, Redis drops replies that it has not sent yet.
fn replay(address: SocketAddr, log: &[u8]) {
    const END: &[u8] = b"the end of the log";
    let mut requests = log.to_vec();
    write_command(&mut requests, &[b"ECHO", END]);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut sending = stream.try_clone().unwrap();
    thread::scope(|scope| {
        scope.spawn(move || sending.write_all(&requests).unwrap());
        let mut decoder = Decoder::new(DecodeLimits::default());
        let (mut replies, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            while let Some((value, len)) = decoder.decode(&replies).unwrap() {
                replies.drain(..len);
                if value == Value::Bulk(END.to_vec()) {
                    assert!(replies.is_empty(), "the replies go on");
                    return;
                }
                let text = value.to_string();
                // A key that RENAME found may have expired before a copy repeats it. Then the new key has expired, too.
                let is_refused = text.contains("(error)") && !text.ends_with("no such key");
                assert!(!is_refused, "an effect was refused: {text}");
            }
            let bytes = stream.read(&mut buffer).unwrap();
            assert!(bytes > 0, "the replies are incomplete");
            replies.extend_from_slice(&buffer[..bytes]);
        }
    });
}

fn digest(connection: &mut Connection) -> String {
    connection.call(&["DEBUG", "DIGEST"]).unwrap().to_string()
}

/// Brings both copies up to date until all digests agree: keys expire meanwhile.
fn compare(subject: &Subject, copies: &[SocketAddr], what: &str) {
    let (started, mut all) = (Instant::now(), Vec::new());
    loop {
        let log = subject.take();
        copies.iter().for_each(|&copy| replay(copy, &log));
        all.extend_from_slice(&log);
        let ours = digest(&mut subject.connect());
        let theirs: Vec<String> = copies
            .iter()
            .map(|&copy| digest(&mut Connection::open(copy).unwrap()))
            .collect();
        if theirs.iter().all(|digest| *digest == ours) {
            return;
        }
        if started.elapsed() > PATIENCE {
            let servers = [&[subject.address()], copies].concat();
            let name = format!("damselfly-replay-{}.log", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::write(&path, &all).unwrap();
            panic!(
                "{what}: {ours} became {theirs:?}\n{}The log is in {}",
                differences(&servers),
                path.display()
            );
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn play(family: Option<Family>, threads: usize) {
    let generator = Generator::new(family, &left_out());
    let debug = ["--enable-debug-command", "yes", "--save", ""];
    for seed in seeds(SEQUENCES) {
        let subject = Subject::start(threads);
        let redis = Server::start(&Program::reference(), &debug).unwrap();
        let other = Server::start(&Program::subject(), &["--enable-debug-command", "yes"]).unwrap();
        let halves: Vec<Vec<Step>> = (0..2)
            .map(|half| generator.sequence(seed * 2 + half, LENGTH))
            .collect();
        thread::scope(|scope| {
            for steps in &halves {
                scope.spawn(|| run(subject.address(), steps));
            }
        });
        let what = format!("{family:?}, seed {seed}");
        compare(&subject, &[redis.address(), other.address()], &what);
    }
}

#[test]
fn strings() {
    play(Some(Family::String), 2);
}

#[test]
fn lists() {
    play(Some(Family::List), 2);
}

#[test]
fn sets() {
    play(Some(Family::Set), 2);
}

#[test]
fn hashes() {
    play(Some(Family::Hash), 2);
}

#[test]
fn sorted_sets() {
    play(Some(Family::SortedSet), 2);
}

#[test]
fn streams() {
    play(Some(Family::Stream), 2);
}

#[test]
fn bitmaps() {
    play(Some(Family::Bitmap), 2);
}

#[test]
fn hyperloglogs() {
    play(Some(Family::HyperLogLog), 2);
}

#[test]
fn positions() {
    play(Some(Family::Geo), 2);
}

#[test]
fn keys_of_any_type() {
    play(Some(Family::Generic), 2);
}

#[test]
fn everything_in_transactions() {
    play(Some(Family::Transactions), 2);
}

#[test]
fn everything_in_scripts() {
    play(Some(Family::Script), 2);
}

/// Once, ZRANGESTORE kept a negative zero that Redis loses: it adds to a listpack, which has none, until a member does not fit. A replica of the other
/// kind then had another score.
#[test]
fn a_stored_range_loses_negative_zeros_where_redis_does() {
    let long = "x".repeat(100);
    let commands: &[&[&str]] = &[
        &["ZADD", "source", "1", &long, "5", "z"],
        &["ZADD", "source", "-0", "a", "-0", "b"],
        &["ZADD", "source", "7", &format!("{long}y")],
        &["ZRANGESTORE", "up", "source", "0", "-1"],
        &["ZRANGESTORE", "down", "source", "0", "-1", "REV"],
        &["ZRANGESTORE", "short", "source", "0", "1"],
    ];
    let servers = [Program::reference(), Program::subject()]
        .map(|program| Server::start(&program, &["--enable-debug-command", "yes"]).unwrap());
    let digests = servers.each_ref().map(|server| {
        let mut connection = server.connect();
        for command in commands {
            connection.call(command).unwrap();
        }
        digest(&mut connection)
    });
    assert_eq!(digests[0], digests[1]);
}
