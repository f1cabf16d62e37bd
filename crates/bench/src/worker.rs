//! One load thread: an event loop over its connections.
//!
//! Closed loop: a connection sends again as soon as replies arrive, so that `depth` requests are always in flight.
//! Open loop (`--rate`): requests are due by the clock. A request that finds no free connection is sent late, but its
//! latency counts from when it was due, so that a server's pause is not hidden by the requests it prevented (Tene's
//! "coordinated omission").

use crate::connection::{Broken, Connection};
use crate::operations::Choice;
use crate::options::{Distribution, Options};
use crate::random::{Keys, Random};
use crate::replies::Tally;
use crate::requests::Tape;
use hdrhistogram::Histogram;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::io;
use std::time::{Duration, Instant};

/// Size of the buffer for reads.
const READ_BYTES: usize = 64 << 10;
/// Readiness events taken from the kernel at a time.
const EVENTS_MAX: usize = 1024;
/// Latencies above this are recorded as this.
pub(crate) const LATENCY_NS_MAX: u64 = 100_000_000_000;
/// Requests due within this time are sent together, so that a high rate does not cause as many wake-ups.
const TIMER_NS_MIN: i64 = 20_000;
/// How long a thread waits for any reply before it gives up.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The results of a thread.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub tally: Tally,
    pub latencies: Histogram<u64>,
}

/// When a thread stops.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    Time(Instant),
    /// This many requests have been sent and answered.
    Requests(u64),
}

/// One thread's connections and what it sends on them.
#[derive(Debug)]
pub(crate) struct Worker {
    poll: Poll,
    connections: Vec<Connection>,
    depth: usize,
    buffer: Box<[u8]>,
}

/// The requests that a thread sends, and when it stops.
#[derive(Debug)]
pub(crate) struct Plan {
    pub tape: Tape,
    pub keys: Keys,
    /// How many replies each request gets.
    pub replies: u64,
    pub until: Until,
    /// Requests per second of this thread; as fast as replies arrive if `None`.
    pub rate: Option<f64>,
}

impl Worker {
    /// Opens the thread's connections.
    pub fn connect(options: &Options) -> io::Result<Self> {
        let poll = Poll::new()?;
        let connections = (0..options.connections)
            .map(|index| Connection::open(options, poll.registry(), Token(index)))
            .collect::<io::Result<_>>()?;
        Ok(Self {
            poll,
            connections,
            depth: options.depth,
            buffer: vec![0; READ_BYTES].into(),
        })
    }

    /// Executes a plan.
    pub fn run(&mut self, plan: Plan) -> Result<Outcome, Broken> {
        let latencies =
            Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("the bounds are constants");
        let mut load = Load {
            outcome: Outcome {
                tally: Tally::default(),
                latencies,
            },
            left: match plan.until {
                Until::Time(_) => u64::MAX,
                Until::Requests(count) => count,
            },
            tape: plan.tape,
            keys: plan.keys,
        };
        for connection in &mut self.connections {
            connection.expect(plan.replies);
        }
        match plan.rate {
            None => self.run_closed(&mut load, plan.until)?,
            Some(rate) => self.run_open(&mut load, plan.until, rate)?,
        }
        Ok(load.outcome)
    }

    fn run_closed(&mut self, load: &mut Load, until: Until) -> Result<(), Broken> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        for connection in &mut self.connections {
            load.send(connection, self.depth)?;
        }
        while !load.is_done(until) {
            self.wait(&mut events, until)?;
            for event in &events {
                let connection = &mut self.connections[event.token().0];
                connection.receive(
                    &mut self.buffer,
                    &mut load.outcome.tally,
                    &mut load.outcome.latencies,
                )?;
                connection.flush()?;
                load.send(connection, self.depth)?;
            }
        }
        Ok(())
    }

    fn run_open(&mut self, load: &mut Load, until: Until, rate: f64) -> Result<(), Broken> {
        let timer = Timer::new()?;
        let timer_token = Token(self.connections.len());
        self.poll.registry().register(
            &mut SourceFd(&timer.fd.as_raw_fd()),
            timer_token,
            Interest::READABLE,
        )?;
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut schedule = Schedule {
            start: Instant::now(),
            interval_s: 1.0 / rate,
            issued: 0,
        };
        let mut turn = 0;
        while !load.is_done(until) {
            // Sending stops after a full round without a free connection; due requests wait and their latency grows.
            let mut refused = 0;
            while load.left > 0
                && schedule.due() <= Instant::now()
                && refused < self.connections.len()
            {
                turn = (turn + 1) % self.connections.len();
                let connection = &mut self.connections[turn];
                if connection.in_flight() >= self.depth || connection.is_blocked() {
                    refused += 1;
                } else {
                    load.send_one(connection, schedule.due())?;
                    schedule.issued += 1;
                    refused = 0;
                }
            }
            if refused == 0 && load.left > 0 {
                timer.wake_at(schedule.due())?;
            }
            self.wait(&mut events, until)?;
            for event in events.iter().filter(|event| event.token() != timer_token) {
                let connection = &mut self.connections[event.token().0];
                connection.receive(
                    &mut self.buffer,
                    &mut load.outcome.tally,
                    &mut load.outcome.latencies,
                )?;
                connection.flush()?;
            }
        }
        Ok(())
    }

    fn wait(&mut self, events: &mut Events, until: Until) -> Result<(), Broken> {
        let timeout = match until {
            Until::Time(end) => end
                .saturating_duration_since(Instant::now())
                .min(SILENCE_MAX),
            Until::Requests(_) => SILENCE_MAX,
        };
        match self.poll.poll(events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error.into()),
            Ok(()) if events.is_empty() && timeout == SILENCE_MAX => {
                Err(Broken::Socket(io::ErrorKind::TimedOut.into()))
            }
            Ok(()) => Ok(()),
        }
    }
}

/// The state of a plan in progress.
struct Load {
    outcome: Outcome,
    /// Requests still to be sent.
    left: u64,
    tape: Tape,
    keys: Keys,
}

impl Load {
    fn is_done(&self, until: Until) -> bool {
        match until {
            Until::Time(end) => Instant::now() >= end,
            Until::Requests(count) => self.outcome.tally.replies >= count,
        }
    }

    /// Sends requests until `depth` are in flight, unless earlier bytes still wait.
    fn send(&mut self, connection: &mut Connection, depth: usize) -> Result<(), Broken> {
        let room = (depth - connection.in_flight()) as u64;
        let count = room.min(self.left) as usize;
        if count == 0 || connection.is_blocked() {
            return Ok(());
        }
        self.left -= count as u64;
        let batch = self.tape.batch(count, &mut self.keys);
        connection.note_sent(Instant::now(), count);
        connection.send(batch)
    }

    /// Sends one request that was due at `due`.
    fn send_one(&mut self, connection: &mut Connection, due: Instant) -> Result<(), Broken> {
        self.left -= 1;
        connection.note_sent(due, 1);
        connection.send(self.tape.batch(1, &mut self.keys))
    }
}

/// Requests at equal intervals.
struct Schedule {
    start: Instant,
    interval_s: f64,
    issued: u64,
}

impl Schedule {
    /// When the next request is due.
    fn due(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.issued as f64 * self.interval_s)
    }
}

/// A timer that wakes the event loop: epoll's own timeout of whole milliseconds is too coarse.
struct Timer {
    fd: OwnedFd,
}

impl Timer {
    fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self {
            fd: timerfd_create(TimerfdClockId::Monotonic, flags)?,
        })
    }

    /// Wakes once, at `due` or shortly after. Setting the timer again also clears its readiness.
    fn wake_at(&self, due: Instant) -> io::Result<()> {
        let wait = due.saturating_duration_since(Instant::now());
        let nanoseconds =
            i64::from(wait.subsec_nanos()).max(if wait.as_secs() == 0 { TIMER_NS_MIN } else { 0 });
        let value = Timespec {
            tv_sec: wait.as_secs() as i64,
            tv_nsec: nanoseconds,
        };
        let once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let times = Itimerspec {
            it_interval: once,
            it_value: value,
        };
        timerfd_settime(&self.fd, TimerfdTimerFlags::empty(), &times)?;
        Ok(())
    }
}

/// The keys that a thread requests while measuring.
pub(crate) fn keys(options: &Options, random: Random) -> Keys {
    match options.distribution {
        Distribution::Uniform => Keys::uniform(options.shape.keys, random),
        Distribution::Zipf(theta) => Keys::zipf(options.shape.keys, theta, random),
    }
}

/// A plan that runs `choice` once for each of `count` keys, beginning with `first`.
pub(crate) fn fill_plan(
    options: &Options,
    choice: Choice,
    first: u64,
    count: u64,
    random: &mut Random,
) -> Plan {
    Plan {
        tape: Tape::new(&[(choice, 1)], &options.shape, options.depth, random),
        keys: Keys::rising(options.shape.keys, first),
        replies: choice.replies(),
        until: Until::Requests(count),
        rate: None,
    }
}
