//! Requests behind a request at which the connection stalls. All are answered in order, whatever the connection waits for, however
//! the bytes arrive, and wherever the batches of parsed requests end.
//!
//! Bug: a pipeline could hang forever, or lose its last requests when the client closed its side: 63 times PING, BLPOP, PING.
//! Cause: flags that several places maintained by hand said whether the bytes behind a batch were parsed. They were not updated if
//! the last request of a batch stalled, or if bytes arrived while the connection was stalled. Fix: one type holds the rest of the
//! input, and one function decides what the connection does next (`input.rs`).
//!
//! All of this over a Unix socket and over TLS, where a read gives one record, and the end of the input is a message of its own.

mod common;
#[path = "common/encrypted.rs"]
mod encrypted;

use std::cell::{RefCell, RefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use common::{Socket, TestServer, until};
use damselfly_config::{Allow, Config};
use damselfly_engine::{Now, Tx};
use damselfly_protocol::client::{Value, write_command};
use damselfly_server::clients::Client as Seen;
use damselfly_server::shared::Shared;
use encrypted::Encrypted;

/// Requests at which a connection stalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// It waits for a key until its timeout.
    TimesOut,
    /// The same, for a stream.
    ReadTimesOut,
    /// It waits for a key until it is served.
    Served,
    /// It waits for a key until CLIENT UNBLOCK.
    Unblocked,
    /// Its shard is busy.
    Busy,
    /// Its shard is busy, and then it waits for a key.
    BusyTimesOut,
    /// The shard of a transaction is busy.
    BusyExec,
    /// It runs on a thread for long commands.
    Long,
    /// Its reply is written in slices.
    SlicedReply,
    /// It runs on a thread for long commands, and its reply is written in slices.
    LongRest,
    /// The socket does not take all replies.
    Output,
    /// CLIENT PAUSE.
    Paused,
    /// DEBUG SLEEP.
    Sleeping,
    /// It publishes more than another thread can deliver at once.
    Congested,
    /// A script.
    Script,
    /// A script that runs for so long that its thread serves others meanwhile.
    SlowScript,
    /// A transaction of requests of these kinds.
    Exec,
}

use Kind::{
    Busy, BusyExec, BusyTimesOut, Congested, Exec, Long, LongRest, Output, Paused, ReadTimesOut,
    Script, Served, Sleeping, SlicedReply, SlowScript, TimesOut, Unblocked,
};

const KINDS: [Kind; 17] = [
    TimesOut,
    ReadTimesOut,
    Served,
    Unblocked,
    Busy,
    BusyTimesOut,
    BusyExec,
    Long,
    SlicedReply,
    LongRest,
    Output,
    Paused,
    Sleeping,
    Congested,
    Script,
    SlowScript,
    Exec,
];

/// The key whose shard is kept busy.
const BUSY: &str = "busy";

impl Kind {
    /// Its requests, and how many replies they have.
    fn requests(self) -> (Vec<u8>, usize) {
        const LOOP: &str = "for i = 1, 200000 do end return 1";
        let payload = "x".repeat(1100 << 10);
        let commands: &[&[&str]] = match self {
            TimesOut => &[&["BLPOP", "nothing", "0.001"]],
            ReadTimesOut => &[&["XREAD", "BLOCK", "1", "STREAMS", "nothing", "$"]],
            Served => &[&["BLPOP", "served", "0"]],
            Unblocked => &[&["BLPOP", "nothing", "0"]],
            Busy => &[&["INCR", BUSY]],
            BusyTimesOut => &[&["BZPOPMIN", BUSY, "0.001"]],
            BusyExec => &[&["MULTI"], &["INCR", BUSY], &["EXEC"]],
            Long => &[&["SINTERCARD", "2", "set", "set"]],
            SlicedReply => &[&["LRANGE", "list", "0", "-1"]],
            LongRest => &[&["SRANDMEMBER", "set", "-17000"]],
            Output => &[&["GET", "text"], &["GET", "text"]],
            Paused => &[&["SET", "paused", "1"]],
            Sleeping => &[&["DEBUG", "SLEEP", "0.001"]],
            Congested => &[&["PUBLISH", "news", &payload], &["PUBLISH", "news", "x"]],
            Script => &[&["EVAL", "return redis.call('LLEN', 'list')", "0"]],
            SlowScript => &[&["EVAL", LOOP, "0"]],
            Exec => &[
                &["MULTI"],
                &["BLPOP", "nothing", "0"],
                &["EVAL", LOOP, "0"],
                &["LRANGE", "list", "0", "-1"],
                &["DEBUG", "SLEEP", "0.001"],
                &["EXEC"],
            ],
        };
        let mut bytes = Vec::new();
        for words in commands {
            write_words(&mut bytes, words);
        }
        (bytes, commands.len())
    }

    /// True if the test itself ends the stall.
    fn is_ended_by_test(self) -> bool {
        match self {
            Served | Unblocked | Busy | BusyTimesOut | BusyExec | Paused => true,
            TimesOut | ReadTimesOut | Long | SlicedReply | LongRest | Output | Sleeping
            | Congested | Script | SlowScript | Exec => false,
        }
    }

    /// True if the request and all requests behind it are dropped when the client goes away, as in Redis.
    fn ends_with_client(self) -> bool {
        match self {
            TimesOut | ReadTimesOut | Served | Unblocked | BusyTimesOut | Paused => true,
            Busy | BusyExec | Long | SlicedReply | LongRest | Output | Sleeping | Congested
            | Script | SlowScript | Exec => false,
        }
    }
}

fn write_words(bytes: &mut Vec<u8>, words: &[&str]) {
    let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
    write_command(bytes, &words);
}

/// Appends a request that is answered with its number.
fn write_echo(bytes: &mut Vec<u8>, number: usize) {
    write_words(bytes, &["ECHO", &number.to_string()]);
}

fn is_echo(value: &Value, number: usize) -> bool {
    matches!(value, Value::Bulk(bytes) if *bytes == number.to_string().as_bytes())
}

/// What carries the bytes of the clients that stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    Unix,
    Tls,
}

type Client = common::Client<Box<dyn Socket>>;

/// A server, and how its clients connect.
enum Server {
    Plain(TestServer),
    Encrypted(Box<Encrypted>),
}

impl Server {
    fn with(over: Over, change: impl FnOnce(&mut Config)) -> Self {
        match over {
            Over::Unix => Self::Plain(TestServer::with(change)),
            Over::Tls => Self::Encrypted(Box::new(Encrypted::with(|config, _| {
                config.threads = 4;
                change(config);
            }))),
        }
    }

    fn plain(&self) -> &TestServer {
        match self {
            Self::Plain(server) => server,
            Self::Encrypted(server) => &server.server,
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        self.plain().shared()
    }

    fn client(&self) -> Client {
        match self {
            Self::Plain(server) => server.client().boxed(),
            Self::Encrypted(server) => server.client().boxed(),
        }
    }
}

/// A server prepared for all kinds, and a connection that ends stalls.
struct Fixture {
    server: Server,
    control: RefCell<common::Client>,
}

impl Fixture {
    fn new(over: Over) -> Self {
        let server = Server::with(over, |config| {
            config.enable_debug_command = Allow::Yes;
            config.busy_reply_threshold_ms = 1;
        });
        let mut control = server.plain().client();
        let numbers: Vec<String> = (0..17_000).map(|n| n.to_string()).collect();
        control.run(&format!("SADD set {}", numbers.join(" ")));
        control.run(&format!("RPUSH list {}", numbers[..5000].join(" ")));
        control.run(&format!("SET text {}", "x".repeat(700 << 10)));
        // Subscribers on all threads, because a publisher never waits long for subscribers of its own thread.
        for _ in 0..4 {
            let mut subscriber = server.plain().client();
            subscriber.run("SUBSCRIBE news");
            std::thread::spawn(move || while subscriber.receive_value().is_some() {});
        }
        let control = RefCell::new(control);
        Self { server, control }
    }

    fn control(&self) -> RefMut<'_, common::Client> {
        self.control.borrow_mut()
    }

    /// A new connection, and the server's view of it.
    fn client(&self) -> (Client, Arc<Seen>) {
        let mut client = self.server.client();
        let id = client.number("CLIENT ID") as u64;
        let seen = self.server.shared().clients.find(id).unwrap();
        (client, seen)
    }

    /// How many bytes the server has read from all clients.
    fn bytes_read(&self) -> u64 {
        self.server
            .shared()
            .total(|counters| counters.input_bytes.read())
    }

    /// Sends bytes, and waits until the server has read them.
    fn send(&self, client: &mut Client, bytes: &[u8]) {
        let before = self.bytes_read();
        client.send_bytes(bytes);
        until("the server has read the bytes", || {
            self.bytes_read() - before >= bytes.len() as u64
        });
    }

    /// Locks the shard of [`BUSY`] until the section is dropped.
    fn lock(&self) -> Tx<'_> {
        lock(self.server.plain())
    }

    /// How many connections the server has.
    fn connections(&self) -> usize {
        self.server.shared().clients.count()
    }
}

fn lock(server: &TestServer) -> Tx<'_> {
    let (engine, hash) = (
        &server.shared().engine,
        damselfly_base::hash(BUSY.as_bytes()),
    );
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
    loop {
        match engine.lock_one(hash, 0, Now(now as i64)) {
            Ok(tx) => return tx,
            Err(_) => std::thread::yield_now(),
        }
    }
}

/// Where a pipeline is cut in two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Nowhere,
    WithinBefore,
    BeforeStall,
    WithinStall,
    BehindStall,
    WithinBehind,
}

const CUTS: [Cut; 6] = [
    Cut::Nowhere,
    Cut::WithinBefore,
    Cut::BeforeStall,
    Cut::WithinStall,
    Cut::BehindStall,
    Cut::WithinBehind,
];

/// A pipeline: requests, one that stalls, and requests behind it.
#[derive(Clone, Copy, Debug)]
struct Case {
    kind: Kind,
    before: usize,
    behind: usize,
    cut: Cut,
    /// The client closes its side after the last request.
    ends: bool,
}

impl Case {
    fn run(self, fixture: &Fixture) {
        let (mut client, seen) = fixture.client();
        let (parts, replies) = self.parts();
        let locked = match self.kind {
            Busy | BusyTimesOut | BusyExec => Some(fixture.lock()),
            _ => None,
        };
        if self.kind == Paused {
            assert_eq!(fixture.control().run("CLIENT PAUSE 1000000 WRITE"), "OK");
        }
        for part in &parts {
            fixture.send(&mut client, part);
        }
        if self.ends {
            client.end_sending();
        }
        let mut seen_replies = Vec::new();
        if self.kind.is_ended_by_test() && !(self.ends && self.kind.ends_with_client()) {
            // Once the requests before are answered, the connection stalls.
            let received = (0..self.before).map(|_| client.receive_value().unwrap());
            seen_replies.extend(received);
            match self.kind {
                Served | Unblocked | Paused => until("it waits", || seen.is_blocked()),
                _ => {}
            }
            match self.kind {
                Served => assert_eq!(fixture.control().number("RPUSH served x"), 1),
                Unblocked => {
                    let unblock = format!("CLIENT UNBLOCK {}", seen.id);
                    assert_eq!(fixture.control().number(&unblock), 1);
                }
                Paused => assert_eq!(fixture.control().run("CLIENT UNPAUSE"), "OK"),
                _ => {}
            }
        }
        drop(locked);
        let all = self.before + replies + self.behind;
        if self.ends {
            seen_replies.extend(std::iter::from_fn(|| client.receive_value()));
            let is_dropped = self.kind.ends_with_client() && seen_replies.len() == self.before;
            assert!(is_dropped || seen_replies.len() == all, "{self:?}");
            if self.kind == Paused {
                fixture.control().run("CLIENT UNPAUSE");
            }
        } else {
            while seen_replies.len() < all {
                let reply = client.receive_value();
                seen_replies.push(reply.unwrap_or_else(|| panic!("{self:?}: closed")));
            }
            assert_eq!(client.run("PING"), "PONG", "{self:?}");
        }
        for (place, reply) in seen_replies.iter().enumerate() {
            let is_own = place >= self.before && place < self.before + replies;
            assert!(
                is_own || is_echo(reply, place),
                "{self:?}: {place}, {reply}"
            );
        }
    }

    /// The parts of the pipeline, and how many replies the stalling requests have.
    fn parts(self) -> (Vec<Vec<u8>>, usize) {
        let mut bytes = Vec::new();
        (0..self.before).for_each(|number| write_echo(&mut bytes, number));
        let start = bytes.len();
        let (stalls, replies) = self.kind.requests();
        bytes.extend(&stalls);
        let end = bytes.len();
        let numbers = self.before + replies..self.before + replies + self.behind;
        numbers.for_each(|number| write_echo(&mut bytes, number));
        let at = match self.cut {
            Cut::Nowhere => 0,
            Cut::WithinBefore => start.saturating_sub(5),
            Cut::BeforeStall => start,
            Cut::WithinStall => end - stalls.len() / 2,
            Cut::BehindStall => end,
            Cut::WithinBehind => end + 5,
        };
        let parts = [&bytes[..at], &bytes[at..]];
        let parts = parts.into_iter().filter(|part| !part.is_empty());
        (parts.map(<[u8]>::to_vec).collect(), replies)
    }
}

/// How many requests come before the stall: none, few, and around each size at which a batch ends.
fn places() -> impl Iterator<Item = usize> {
    (0..=2).chain(62..=66).chain(126..=130)
}

fn try_all(kind: Kind, over: Over) {
    let fixture = Fixture::new(over);
    for before in places() {
        for cut in CUTS {
            for ends in [false, true] {
                // Enough for a second batch.
                let behind = if cut == Cut::WithinBehind { 1 } else { 66 };
                let case = Case {
                    kind,
                    before,
                    behind,
                    cut,
                    ends,
                };
                case.run(&fixture);
            }
        }
    }
}

macro_rules! all_requests_run {
    ($($name:ident: $kind:ident,)*) => {
        $(#[test]
        fn $name() {
            try_all($kind, Over::Unix);
        })*

        mod over_tls {
            use super::*;

            $(#[test]
            fn $name() {
                try_all($kind, Over::Tls);
            })*
        }
    };
}

all_requests_run! {
    requests_behind_a_wait_that_times_out_run: TimesOut,
    requests_behind_a_wait_for_a_stream_run: ReadTimesOut,
    requests_behind_a_wait_that_is_served_run: Served,
    requests_behind_a_wait_that_is_unblocked_run: Unblocked,
    requests_behind_a_busy_shard_run: Busy,
    requests_behind_a_busy_shard_and_a_wait_run: BusyTimesOut,
    requests_behind_a_transaction_on_a_busy_shard_run: BusyExec,
    requests_behind_a_long_command_run: Long,
    requests_behind_a_sliced_reply_run: SlicedReply,
    requests_behind_a_long_command_with_a_sliced_reply_run: LongRest,
    requests_behind_unread_replies_run: Output,
    requests_behind_a_pause_run: Paused,
    requests_behind_a_sleep_run: Sleeping,
    requests_behind_congestion_run: Congested,
    requests_behind_a_script_run: Script,
    requests_behind_a_slow_script_run: SlowScript,
    requests_behind_a_transaction_run: Exec,
}

/// Repeatedly ends every stall that does not end by itself.
fn end_stalls(server: &TestServer, control: &mut common::Client, done: &AtomicBool) {
    while !done.load(Relaxed) {
        let locked = lock(server);
        std::thread::sleep(Duration::from_micros(300));
        drop(locked);
        control.run("RPUSH served x");
        for seen in server.shared().clients.all() {
            if seen
                .waiting_command()
                .is_some_and(|blocked_client| !blocked_client.has_timeout())
            {
                control.run(&format!("CLIENT UNBLOCK {}", seen.id));
            }
        }
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        // xorshift64 (Marsaglia 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// A random pipeline in random pieces.
fn try_random(server: &Server, random: &mut Random) {
    const RUNS: [usize; 12] = [0, 0, 1, 2, 61, 62, 63, 64, 65, 66, 127, 128];
    let (mut bytes, mut cuts, mut own, mut drops) = (Vec::new(), vec![0], Vec::new(), Vec::new());
    for _ in 0..1 + random.below(4) {
        for _ in 0..random.choose(&RUNS) {
            write_echo(&mut bytes, own.len());
            own.push(false);
        }
        let kind = random.choose(&KINDS);
        if kind == Paused {
            // A pause would also hold back other clients, whose requests would then be dropped when they go away.
            continue;
        }
        let (requests, replies) = kind.requests();
        if kind.ends_with_client() {
            drops.push(own.len());
        }
        if random.below(2) == 0 {
            cuts.push(bytes.len() + random.below(requests.len() + 12));
        }
        bytes.extend(requests);
        own.extend(vec![true; replies]);
    }
    for _ in 0..1 + random.below(3) {
        write_echo(&mut bytes, own.len());
        own.push(false);
    }
    cuts.extend((0..random.below(3)).map(|_| random.below(bytes.len())));
    cuts.push(bytes.len());
    cuts.iter_mut()
        .for_each(|cut| *cut = (*cut).min(bytes.len()));
    cuts.sort_unstable();
    let (ends, pauses) = (random.below(2) == 0, random.below(1500) as u64);
    let mut client = server.client();
    for pair in cuts.windows(2) {
        client.send_bytes(&bytes[pair[0]..pair[1]]);
        std::thread::sleep(Duration::from_micros(pauses));
    }
    if ends {
        client.end_sending();
    }
    let mut replies = Vec::new();
    while ends || replies.len() < own.len() {
        match client.receive_value() {
            Some(reply) => replies.push(reply),
            None => break,
        }
    }
    let is_whole = replies.len() == own.len();
    assert!(
        is_whole || ends && drops.contains(&replies.len()),
        "{} of {}, dropped at {drops:?}: {ends}",
        replies.len(),
        own.len()
    );
    for (place, reply) in replies.iter().enumerate() {
        assert!(own[place] || is_echo(reply, place), "{place}, {reply}");
    }
}

#[test]
fn random_pipelines_in_random_pieces_are_answered_in_order() {
    try_random_pipelines(Over::Unix);
}

#[test]
fn random_encrypted_pipelines_in_random_pieces_are_answered_in_order() {
    try_random_pipelines(Over::Tls);
}

fn try_random_pipelines(over: Over) {
    const ROUNDS: usize = 60;
    let Fixture { server, control } = Fixture::new(over);
    let mut control = control.into_inner();
    let seed = match std::env::var("DAMSELFLY_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1,
    };
    println!("DAMSELFLY_SEED={seed}");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|number| {
                let server = &server;
                scope.spawn(move || {
                    let mut random = Random(seed.wrapping_add(number * 0x9E37_79B9) | 1);
                    for _ in 0..ROUNDS {
                        try_random(server, &mut random);
                    }
                })
            })
            .collect();
        scope.spawn(|| end_stalls(server.plain(), &mut control, &done));
        let results: Vec<_> = clients.into_iter().map(|client| client.join()).collect();
        done.store(true, Relaxed);
        assert!(results.iter().all(Result::is_ok), "seed {seed}");
    });
}

/// The same bug with only two requests, found by chance: bytes that arrived while the connection was stalled by a busy shard were
/// forgotten if it then waited for a key.
#[test]
fn a_request_that_arrives_while_a_shard_is_busy_is_answered() {
    const CLIENTS: usize = 10;
    const ROUNDS: usize = 300;
    let server = TestServer::start();
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let mut client = server.client();
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    client.send("BZPOPMIN key 0.001");
                    let delay_us = (number * 211 + round * 97) % 2000;
                    std::thread::sleep(Duration::from_micros(delay_us as u64));
                    client.send("PING");
                    assert_eq!(client.receive(), "(nil)");
                    assert_eq!(client.receive(), "PONG");
                }
            });
        }
    });
}

/// Bug: a client that closed its sending side while its BLPOP waited got a null reply to that if it had not read the replies before,
/// and none to what came after. Cause: the wait was ended like one whose time is up. Fix: it is abandoned, without a reply, as in Redis.
#[test]
fn a_wait_whose_client_has_stopped_sending_gets_no_reply() {
    const BYTES: usize = 900_000;
    let server = TestServer::start();
    let (mut client, mut other) = (server.client(), server.client());
    other.run_words(&["SET", "long", &"x".repeat(BYTES)]);
    let id = client.number("CLIENT ID") as u64;
    client.send_bytes(b"GET long\r\nBLPOP absent 0\r\nECHO behind\r\n");
    until("it waits", || {
        let seen = server.shared().clients.find(id);
        seen.is_some_and(|seen| seen.waiting_command().is_some())
    });
    client.end_sending();
    until("it waits no more", || {
        let seen = server.shared().clients.find(id);
        seen.is_none_or(|seen| seen.waiting_command().is_none())
    });
    // Its thread has a turn in which it could write a reply to the wait.
    other.run("PING");
    assert_eq!(client.receive().len(), BYTES + 2);
    assert_eq!(client.receive_value(), None);
}

/// Bug: requests that had arrived were lost if the client closed the connection while an earlier one's reply was written in
/// slices, or while it slept. Cause: a connection was closed with the first reply that could not be sent. Fix: what was read
/// runs; only what waits, for a key or for the end of a pause, ends with its client, and all behind it. Redis does the same.
#[test]
fn requests_that_were_read_run_although_the_client_is_gone() {
    try_clients_that_go(Over::Unix);
}

#[test]
fn encrypted_requests_that_were_read_run_although_the_client_is_gone() {
    try_clients_that_go(Over::Tls);
}

fn try_clients_that_go(over: Over) {
    let fixture = Fixture::new(over);
    // The requests of a congested client are read in several turns, and the server may notice that it is gone before the last one.
    for kind in KINDS.into_iter().filter(|&kind| kind != Congested) {
        for before in places() {
            fixture.control().run("SET done 0");
            let connections = fixture.connections();
            let (mut client, _) = fixture.client();
            let (mut bytes, replies) = (Vec::new(), before);
            (0..before).for_each(|number| write_echo(&mut bytes, number));
            bytes.extend(kind.requests().0);
            write_words(&mut bytes, &["INCR", "done"]);
            write_echo(&mut bytes, replies);
            let locked = match kind {
                Busy | BusyTimesOut | BusyExec => Some(fixture.lock()),
                _ => None,
            };
            if kind == Paused {
                fixture.control().run("CLIENT PAUSE 1000000 WRITE");
            }
            fixture.send(&mut client, &bytes);
            drop(client);
            drop(locked);
            until("it is closed", || fixture.connections() == connections);
            if kind == Paused {
                fixture.control().run("CLIENT UNPAUSE");
            }
            let done = fixture.control().text("GET done");
            match kind {
                Served | Unblocked | Paused => assert_eq!(done, "0", "{kind:?}, {before}"),
                // The wait may time out before the server notices.
                TimesOut | ReadTimesOut | BusyTimesOut => {}
                _ => assert_eq!(done, "1", "{kind:?}, {before}"),
            }
        }
    }
}

#[test]
fn a_killed_client_is_closed_whatever_it_waits_for() {
    try_killed_clients(Over::Unix);
}

#[test]
fn a_killed_client_with_tls_is_closed_whatever_it_waits_for() {
    try_killed_clients(Over::Tls);
}

fn try_killed_clients(over: Over) {
    const SLEEP: &[&str] = &["DEBUG", "SLEEP", "1000"];
    let fixture = Fixture::new(over);
    let locked = fixture.lock();
    let mut sleep = Vec::new();
    write_words(&mut sleep, SLEEP);
    let kinds = [Busy, BusyTimesOut, BusyExec, Served, Output, Paused];
    // More replies than the operating system takes for a client that does not read them.
    let requests = kinds.map(|kind| {
        kind.requests()
            .0
            .repeat(if kind == Output { 12 } else { 1 })
    });
    let requests = requests.into_iter();
    for (number, mut bytes) in std::iter::once(sleep).chain(requests).enumerate() {
        if number == kinds.len() {
            fixture.control().run("CLIENT PAUSE 1000000 WRITE");
        }
        let (mut client, seen) = fixture.client();
        write_echo(&mut bytes, 0);
        fixture.send(&mut client, &bytes);
        let killed = fixture
            .control()
            .number(&format!("CLIENT KILL ID {}", seen.id));
        assert_eq!(killed, 1);
        let replies = client.until_closed();
        assert!(replies.iter().all(|reply| reply != "\"0\""), "{replies:?}");
    }
    drop(locked);
}
