//! Random commands run on our server; its log, played on a fresh Redis and on a fresh server of ours, must lead to the same data.

mod effects {
    pub mod subject;
}

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use damselfly_oracle::connection::Connection;
use damselfly_oracle::rows::{self, Family};
use damselfly_oracle::sequence::{Generator, Step};
use damselfly_oracle::server::{Program, Server};

use damselfly_protocol::client::{DecodeLimits, Decoder, Value, write_command};
use effects::subject::Subject;

/// How long a server may take to reply.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many sequences each test plays, and how many commands each has.
fn sequences() -> (u64, usize) {
    let number = std::env::var("DAMSELFLY_SEQUENCES").ok();
    (
        number.and_then(|number| number.parse().ok()).unwrap_or(12),
        400,
    )
}

/// Commands that are not played: about connections and servers, and those that have no effect elsewhere.
fn left_out() -> Vec<String> {
    let of_servers = rows::all()
        .filter(|row| matches!(row.family, Family::Connection | Family::Server))
        .filter_map(|row| row.grammar.split_whitespace().next());
    let mut names: Vec<String> = of_servers.map(str::to_owned).collect();
    names.retain(|name| !["SELECT", "FLUSHALL", "FLUSHDB", "SWAPDB", "("].contains(&name.as_str()));
    names
}

/// Runs commands and ignores the replies.
fn run(subject: &Subject, steps: &[Step]) {
    let mut connection = subject.connect();
    for step in steps {
        let sent = connection
            .send(&step.bytes())
            .and_then(|()| connection.receive());
        if sent.is_err() {
            connection = subject.connect();
        }
    }
}

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
                assert!(!text.contains("(error)"), "an effect was refused: {text}");
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
    let started = Instant::now();
    loop {
        let log = subject.take();
        copies.iter().for_each(|&copy| replay(copy, &log));
        let ours = digest(&mut subject.connect());
        let theirs: Vec<String> = copies
            .iter()
            .map(|&copy| digest(&mut Connection::open(copy).unwrap()))
            .collect();
        if theirs.iter().all(|digest| *digest == ours) {
            return;
        }
        assert!(
            started.elapsed() < PATIENCE,
            "{what}: {ours} became {theirs:?}"
        );
        thread::sleep(Duration::from_millis(50));
    }
}

fn play(family: Option<Family>, threads: usize) {
    let generator = Generator::new(family, &left_out());
    let debug = ["--enable-debug-command", "yes", "--save", ""];
    let (count, length) = sequences();
    for seed in 1..=count {
        let subject = Subject::start(threads);
        let redis = Server::start(&Program::reference(), &debug).unwrap();
        let other = Server::start(&Program::subject(), &["--enable-debug-command", "yes"]).unwrap();
        let halves: Vec<Vec<Step>> = (0..2)
            .map(|half| generator.sequence(seed * 2 + half, length))
            .collect();
        thread::scope(|scope| {
            for steps in &halves {
                scope.spawn(|| run(&subject, steps));
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
