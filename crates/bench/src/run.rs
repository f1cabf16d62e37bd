//! A whole run: connect, fill, measure, add up.

use crate::connection::Broken;
use crate::handshakes::Handshakes;
use crate::look_aside::Clients;
use crate::operations::Choice;
use crate::options::{Address, Length, LookAside, Options};
use crate::process::Usage;
use crate::random::Random;
use crate::replies::{Malformed, Tally};
use crate::report::Report;
use crate::requests::Tape;
use crate::subscribers::Subscribers;
use crate::worker::{Outcome, Plan, Until, Worker, fill_plan, keys};
use hdrhistogram::Histogram;
use std::fmt;
use std::io;
use std::thread;
use std::time::Instant;

/// Why a run failed.
#[derive(Debug)]
pub enum Error {
    /// The server could not be reached.
    Connect(Address, io::Error),
    /// A connection failed while in use.
    Socket(io::Error),
    /// A handshake of `--handshakes` failed.
    Handshake(io::Error),
    /// The server closed a connection.
    ClosedByServer,
    /// The server sent these bytes, which are not a reply of the protocol.
    Malformed(String),
    /// The server sent more replies than it received requests.
    UnexpectedReply,
    /// The usage of this process could not be read.
    Process(u32, io::Error),
    /// The trace could not be read.
    Trace(io::Error),
    /// A request of the fill was answered with this error.
    Fill(String),
    /// A script could not be loaded because of this error.
    Load(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(Address::Tcp(host, port), error) => {
                write!(f, "cannot connect to {host}:{port}: {error}")
            }
            Self::Connect(Address::Unix(path), error) => {
                write!(f, "cannot connect to {}: {error}", path.display())
            }
            Self::Socket(error) => write!(f, "a connection failed: {error}"),
            Self::Handshake(error) => write!(f, "a handshake failed: {error}"),
            Self::ClosedByServer => write!(f, "the server closed a connection"),
            Self::Malformed(bytes) => {
                write!(f, "the server sent bytes that are not a reply: {bytes:?}")
            }
            Self::UnexpectedReply => {
                write!(f, "the server sent more replies than it received requests")
            }
            Self::Process(pid, error) => {
                write!(f, "cannot read the usage of process {pid}: {error}")
            }
            Self::Trace(error) => write!(f, "cannot read the trace: {error}"),
            Self::Fill(error) => write!(f, "the fill failed: {error}"),
            Self::Load(error) => write!(f, "a script could not be loaded: {error}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<Broken> for Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Socket(error) => Self::Socket(error),
            Broken::ClosedByServer => Self::ClosedByServer,
            Broken::Malformed(Malformed(bytes)) => Self::Malformed(bytes),
            Broken::UnexpectedReply => Self::UnexpectedReply,
            Broken::Trace(error) => Self::Trace(error),
        }
    }
}

/// Loads the scripts into the server, fills it if requested, and measures.
pub fn run(options: &Options) -> Result<Report, Error> {
    if let Some(mode) = &options.look_aside {
        return run_look_aside(options, mode);
    }
    let mix = options.mix.iter().map(|(choice, _)| *choice);
    for load in mix.chain(options.fill).flat_map(Choice::loads) {
        let mut workers = connect(options)?;
        workers.truncate(1);
        let plan = fill_plan(options, load, 0, 1, &mut Random::new(options.seed));
        if let Some(error) = execute(&mut workers, vec![plan])?.tally.first_error {
            return Err(Error::Load(error));
        }
    }
    if let Some(choice) = options.fill {
        let mut workers = connect(options)?;
        let shares = shares(options.shape.keys, options.threads);
        let mut first = 0;
        let plans = shares.map(|count| {
            let plan = fill_plan(
                options,
                choice,
                first,
                count,
                &mut Random::new(options.seed),
            );
            first += count;
            plan
        });
        let outcome = execute(&mut workers, plans.collect())?;
        if let Some(error) = outcome.tally.first_error {
            return Err(Error::Fill(error));
        }
    }
    // New connections, since those of the fill may still be busy.
    let mut workers = connect(options)?;
    let mut seeds = Random::new(options.seed);
    let tapes: Vec<(Tape, Random)> = workers
        .iter()
        .map(|_| {
            let mut random = Random::new(seeds.bits());
            (
                Tape::new(&options.mix, &options.shape, options.depth, &mut random),
                random,
            )
        })
        .collect();
    let subscribers = Subscribers::start(options)?;
    let handshakes = Handshakes::start(options);
    let client_before = usage(std::process::id())?;
    let server_before = options.server_pid.map(usage).transpose()?;
    let start = Instant::now();
    let plans = tapes
        .into_iter()
        .zip(ends(options, start))
        .map(|((tape, random), until)| Plan {
            replies: options.mix[0].0.replies(),
            tape,
            keys: keys(options, random),
            until,
            rate: options.rate.map(|rate| rate / options.threads as f64),
        });
    let outcome = execute(&mut workers, plans.collect())?;
    let elapsed = start.elapsed();
    let server_after = options.server_pid.map(usage).transpose()?;
    let client_after = usage(std::process::id())?;
    let messages = subscribers.stop()?;
    let handshakes = handshakes.stop().map_err(Error::Handshake)?;
    Ok(Report {
        seconds: elapsed.as_secs_f64(),
        messages,
        handshakes,
        tally: outcome.tally,
        latencies: outcome.latencies,
        client_cpu_s: client_after.cpu_s_since(&client_before),
        hits: None,
        server: server_before.zip(server_after),
    })
}

fn run_look_aside(options: &Options, mode: &LookAside) -> Result<Report, Error> {
    let mut clients = Clients::connect(options, mode)?;
    clients.run(Length::Requests(mode.warmup))?;
    let client_before = usage(std::process::id())?;
    let server_before = options.server_pid.map(usage).transpose()?;
    let start = Instant::now();
    let (outcome, hits) = clients.run(options.length)?;
    let elapsed = start.elapsed();
    let server_after = options.server_pid.map(usage).transpose()?;
    let client_after = usage(std::process::id())?;
    Ok(Report {
        seconds: elapsed.as_secs_f64(),
        messages: 0,
        handshakes: None,
        tally: outcome.tally,
        latencies: outcome.latencies,
        client_cpu_s: client_after.cpu_s_since(&client_before),
        hits: Some(hits),
        server: server_before.zip(server_after),
    })
}

fn usage(pid: u32) -> Result<Usage, Error> {
    Usage::of(pid).map_err(|error| Error::Process(pid, error))
}

fn connect(options: &Options) -> Result<Vec<Worker>, Error> {
    (0..options.threads)
        .map(|_| {
            Worker::connect(options).map_err(|error| Error::Connect(options.address.clone(), error))
        })
        .collect()
}

fn ends(options: &Options, start: Instant) -> Vec<Until> {
    match options.length {
        Length::Time(duration) => vec![Until::Time(start + duration); options.threads],
        Length::Requests(count) => shares(count, options.threads)
            .map(Until::Requests)
            .collect(),
    }
}

/// Divides `total` among `parts` as evenly as whole numbers allow.
fn shares(total: u64, parts: usize) -> impl Iterator<Item = u64> {
    let parts = parts as u64;
    (0..parts).map(move |part| total / parts + u64::from(part < total % parts))
}

fn execute(workers: &mut [Worker], plans: Vec<Plan>) -> Result<Outcome, Error> {
    let outcomes: Vec<Result<Outcome, Broken>> = thread::scope(|scope| {
        let threads: Vec<_> = workers
            .iter_mut()
            .zip(plans)
            .map(|(worker, plan)| scope.spawn(|| worker.run(plan)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a worker does not panic"))
            .collect()
    });
    let mut total = Outcome {
        tally: Tally::default(),
        latencies: Histogram::new(3).expect("three digits are within the histogram's limits"),
    };
    for outcome in outcomes {
        let outcome = outcome?;
        total.tally.add(outcome.tally);
        total.latencies += outcome.latencies;
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_sum_to_the_total() {
        assert_eq!(shares(11, 3).collect::<Vec<_>>(), [4, 4, 3]);
    }
}
