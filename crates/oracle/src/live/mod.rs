//! Live fuzzing: many connections at once send random commands to a running server, in random pieces.
//!
//! ```text
//! run ── servers of 1, 2, 4 threads ── rounds ─┬─ slots: one connection after another     driver.rs
//!                                              │    the requests of each                  session.rs, commands.rs
//!                                              ├─ the watchdog                            watchdog.rs
//!                                              └─ check that the server is as before      baseline.rs
//! ```
//!
//! The checks: replies stay in step with requests; every request gets its reply, and the watchdog within a second; the
//! server's log reports no bug; a round leaves no clients, subscriptions or memory behind; SIGTERM stops the server. Only time in
//! which the server could run counts towards the limits (`clock.rs`).
//!
//! The seed determines the bytes that each connection sends, but not when the server processes them. So the same seed may not
//! reproduce a fault.

mod baseline;
mod clock;
mod commands;
mod driver;
mod journal;
mod replies;
mod session;
mod watchdog;

use self::baseline::Baseline;
use self::clock::ServerClock;
use self::commands::Commands;
use self::driver::Driver;
use self::journal::Journal;
use self::session::{Ids, Session};
use self::watchdog::Watchdog;
use crate::connection::Connection;
use crate::random::Random;
use crate::scripts::Scripts;
use crate::server::{Program, Server};
use crate::text::render;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io};

/// Concurrent connections.
const SLOTS: usize = 12;
/// Other connections may kill the connections of one in so many slots.
const VICTIM_DISTANCE: usize = 3;
/// The length of a round, unless the run is too short for [`ROUNDS_MIN`] such rounds.
const ROUND: Duration = Duration::from_secs(20);
/// The minimum number of rounds with one server: the others are compared with the first one.
const ROUNDS_MIN: u32 = 3;
/// How long the server may take to exit, on its own clock.
const END_PATIENCE: Duration = Duration::from_secs(10);
const END_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long the report of a fault waits for CLIENT LIST.
const CLIENT_LINE_PATIENCE: Duration = Duration::from_secs(1);
/// The thread counts of the servers in a run.
const THREADS: [usize; 3] = [1, 2, 4];
/// Texts by which the log reports a bug.
const BUGS: [&str; 2] = ["bug in Damselfly", "panicked"];

/// The options of a run.
#[derive(Debug, Clone)]
pub struct Options {
    /// The seed of the first round; each later round adds one.
    pub seed: u64,
    /// How long to fuzz.
    pub time: Duration,
    /// The server's thread count; `None` runs one server for each of several counts.
    pub threads: Option<usize>,
    /// The folder for the journals of a round that found a fault.
    pub folder: PathBuf,
}

/// A description of a failed check.
#[derive(Debug)]
struct Fault {
    text: String,
}

/// The conditions of a round, which decide how the server may treat connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Conditions {
    /// Another connection, or a limit of the server, may close any connection.
    closes: bool,
    /// Any command may get the error BUSY while a script runs.
    busy: bool,
    /// Connections use CLIENT PAUSE.
    pauses: bool,
}

/// The state that all connections of a round share.
struct Round {
    address: SocketAddr,
    clock: Arc<ServerClock>,
    seed: u64,
    conditions: Conditions,
    journals: Vec<Journal>,
    ids: Vec<AtomicU64>,
    end: Instant,
    stopped: AtomicBool,
    /// Slots in use.
    active: AtomicUsize,
    faults: Mutex<Vec<Fault>>,
    connections: AtomicU64,
    requests: AtomicU64,
    replies: AtomicU64,
}

impl Round {
    fn new(
        address: SocketAddr,
        clock: Arc<ServerClock>,
        seed: u64,
        conditions: Conditions,
        time: Duration,
    ) -> Self {
        Self {
            address,
            clock,
            seed,
            conditions,
            journals: (0..SLOTS).map(|_| Journal::default()).collect(),
            ids: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            end: Instant::now() + time,
            stopped: AtomicBool::new(false),
            active: AtomicUsize::new(SLOTS),
            faults: Mutex::default(),
            connections: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            replies: AtomicU64::new(0),
        }
    }

    fn is_time_over(&self) -> bool {
        self.is_over_for_all() || Instant::now() >= self.end
    }

    /// True if a fault was found already.
    fn is_over_for_all(&self) -> bool {
        self.stopped.load(Relaxed)
    }

    fn may_be_closed(&self, slot: usize) -> bool {
        self.conditions.closes || slot.is_multiple_of(VICTIM_DISTANCE)
    }

    fn enter(&self, slot: usize, id: u64) {
        self.ids[slot].store(id, Relaxed);
    }

    fn leave(&self, slot: usize) {
        self.ids[slot].store(0, Relaxed);
    }

    fn fault(&self, slot: usize, text: String) -> Box<Fault> {
        let seed = self.seed;
        Box::new(Fault {
            text: format!("round {seed}, slot {slot}: {text}"),
        })
    }

    fn note(&self, fault: Fault) {
        self.stopped.store(true, Relaxed);
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.push(fault);
    }

    /// The server's line about a client in CLIENT LIST.
    fn client_line(&self, id: u64) -> String {
        let line = Connection::open(self.address).and_then(|mut connection| {
            let words = ["CLIENT", "LIST", "ID", &id.to_string()];
            self.clock
                .call(&mut connection, &words, CLIENT_LINE_PATIENCE)
        });
        line.map_or_else(|error| error.to_string(), |line| render(&line))
    }

    /// Runs one connection after another until the time is up.
    fn drive(&self, slot: usize, commands: &Commands) {
        let mut random = Random::new(self.seed ^ (slot as u64 + 1) << 32);
        for number in 0.. {
            if self.is_time_over() {
                return;
            }
            let label = format!("{}.{slot}.{number}", self.seed);
            let session = Session::new(commands, self, self.conditions, random.bits(), label);
            match Driver::run(self, slot, session) {
                Ok(counts) => {
                    self.connections.fetch_add(1, Relaxed);
                    self.requests.fetch_add(counts.requests, Relaxed);
                    self.replies.fetch_add(counts.replies, Relaxed);
                }
                Err(fault) => return self.note(*fault),
            }
        }
    }
}

impl Ids for Round {
    fn victim(&self, number: usize) -> Option<u64> {
        let victims = SLOTS.div_ceil(VICTIM_DISTANCE);
        self.any(number % victims * VICTIM_DISTANCE)
    }

    fn any(&self, number: usize) -> Option<u64> {
        let id = self.ids[number % SLOTS].load(Relaxed);
        (id != 0).then_some(id)
    }
}

/// Fuzzes for the time in `options`. Prints any faults, and returns false if there were some.
///
/// # Errors
/// A server can't be started.
pub fn run(options: &Options) -> io::Result<bool> {
    println!("live: seed {}", options.seed);
    let all: Vec<usize> = options.threads.map_or(THREADS.to_vec(), |one| vec![one]);
    let start = Instant::now();
    let mut seed = options.seed;
    for (index, &threads) in all.iter().enumerate() {
        let left = options.time.saturating_sub(start.elapsed());
        let servers_left = u32::try_from(all.len() - index).unwrap_or(1);
        let good = with_server(options, threads, left / servers_left, &mut seed)?;
        if !good {
            println!(
                "live: seed {} FAILED after {:.0?}",
                options.seed,
                start.elapsed()
            );
            return Ok(false);
        }
    }
    println!("live: no faults in {:.0?}", start.elapsed());
    Ok(true)
}

/// Fuzzes one server, round after round; false if a fault was found.
fn with_server(
    options: &Options,
    threads: usize,
    time: Duration,
    seed: &mut u64,
) -> io::Result<bool> {
    let arguments = [
        "--threads",
        &threads.to_string(),
        "--enable-debug-command",
        "yes",
        // The first replica creates the backlog, which stays.
        "--repl-backlog-size",
        "16kb",
    ];
    let mut server = Server::start(&Program::subject(), &arguments)?;
    let commands = Commands::fetch(server.address())?;
    let clock = Arc::new(ServerClock::start(server.id()));
    let mut watchdog = Watchdog::open(&server, threads, Arc::clone(&clock))?;
    let clients = watchdog.connections();
    let mut baseline = Baseline::open(server.address(), threads, clients, Arc::clone(&clock))?;
    println!(
        "live: a server with {threads} threads, {} documented commands",
        commands.documented()
    );
    let start = Instant::now();
    let round_time = ROUND.min(time / ROUNDS_MIN);
    while start.elapsed() + round_time / 2 < time {
        let round = one_round(
            &server,
            &commands,
            &mut watchdog,
            &mut baseline,
            *seed,
            round_time,
        );
        *seed = seed.wrapping_add(1);
        let (round, mut faults) = round?;
        if let Some(line) = bug(&server.log()) {
            faults.push(format!("the log reports a bug: {line}"));
        }
        println!(
            "live: round {} ({:?}): {} connections, {} requests, {} replies, slowest PING {:.0?}, {} bytes in use",
            round.seed,
            round.conditions,
            round.connections.load(Relaxed),
            round.requests.load(Relaxed),
            round.replies.load(Relaxed),
            watchdog.slowest,
            baseline.history.last().unwrap_or(&0)
        );
        if !faults.is_empty() {
            report(options, &server, &round, &faults)?;
            return Ok(false);
        }
    }
    drop((watchdog, baseline));
    match terminate(&mut server, &clock)? {
        Some(status) if status.success() => Ok(true),
        status => {
            println!(
                "live: the server did not exit successfully after SIGTERM: {status:?}\n{}",
                server.log()
            );
            Ok(false)
        }
    }
}

/// Sends SIGTERM and waits until the server exits; `None` if it does not exit in time.
fn terminate(server: &mut Server, clock: &ServerClock) -> io::Result<Option<ExitStatus>> {
    let mark = clock.mark();
    let mut status = server.terminate(END_POLL_INTERVAL)?;
    while status.is_none() && clock.since(&mark) < END_PATIENCE {
        status = server.wait(END_POLL_INTERVAL)?;
    }
    Ok(status)
}

/// Runs one round; returns it and its faults.
fn one_round(
    server: &Server,
    commands: &Commands,
    watchdog: &mut Watchdog,
    baseline: &mut Baseline,
    seed: u64,
    time: Duration,
) -> io::Result<(Round, Vec<String>)> {
    let mut random = Random::new(seed);
    let conditions = Conditions {
        closes: random.one_in(3),
        busy: random.one_in(4),
        pauses: random.one_in(2),
    };
    if conditions.busy {
        baseline.must(&[b"CONFIG", b"SET", b"busy-reply-threshold", b"5"])?;
    }
    for arguments in Scripts::preparation() {
        let words: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
        baseline.must(&words)?;
    }
    let clock = watchdog.clock();
    let round = Round::new(server.address(), clock, seed, conditions, time);
    std::thread::scope(|scope| {
        let round = &round;
        for slot in 0..SLOTS {
            scope.spawn(move || {
                round.drive(slot, commands);
                round.active.fetch_sub(1, Relaxed);
            });
        }
        if let Err(text) = watchdog.watch(round) {
            round.note(Fault { text });
        }
    });
    let mut faults: Vec<String> = {
        let faults = round.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.iter().map(|fault| fault.text.clone()).collect()
    };
    if faults.is_empty() {
        match baseline.check() {
            Ok(Ok(())) => {}
            Ok(Err(text)) => faults.push(text),
            Err(error) => faults.push(format!("the check after the round failed: {error}")),
        }
    }
    Ok((round, faults))
}

/// The first line of a log that reports a bug.
fn bug(log: &str) -> Option<&str> {
    log.lines()
        .find(|line| BUGS.iter().any(|bug| line.contains(bug)))
}

/// Prints the faults, and writes them with the server's log and the journals to the folder.
fn report(options: &Options, server: &Server, round: &Round, faults: &[String]) -> io::Result<()> {
    for fault in faults {
        println!("\nlive: {fault}");
    }
    let folder = options.folder.join(round.seed.to_string());
    fs::create_dir_all(&folder)?;
    write(&folder, "faults", &faults.join("\n\n"))?;
    write(&folder, "server.log", &server.log())?;
    for (slot, journal) in round.journals.iter().enumerate() {
        write(&folder, &format!("slot-{slot}"), &journal.text())?;
    }
    println!(
        "live: the journals of the connections are in {}",
        folder.display()
    );
    Ok(())
}

fn write(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    fs::write(folder.join(name), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bugs_are_found_in_the_log() {
        assert_eq!(bug("fine\nall is well"), None);
        let line = "thread 'worker-1' panicked at src/x.rs:1:1:";
        assert_eq!(bug(&format!("fine\n{line}\n")), Some(line));
    }
}
