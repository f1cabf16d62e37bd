//! The watchdog: a client that must get its replies within a second, whatever the others do.
//!
//! It has one connection per thread of the server. The second is one on the server's own clock ([`ServerClock`]), because the
//! machine may be busy with other work.

use super::Round;
use super::clock::{Mark, ServerClock};
use crate::connection::{Connection, request};
use crate::server::Server;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// How long a reply may take.
const LIMIT: Duration = Duration::from_secs(1);
/// When a reply takes longer than this, CLIENT PAUSE may be the reason, so the watchdog sends CLIENT UNPAUSE.
const PAUSE_MAX: Duration = Duration::from_millis(300);
/// Time between two rounds of pings.
const INTERVAL: Duration = Duration::from_millis(50);
/// After so long without a reply, the server counts as dead. Until then, the watchdog waits to find out how late the reply is.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// A client that pings each thread of the server.
pub struct Watchdog {
    address: SocketAddr,
    pings: Vec<Connection>,
    clock: Arc<ServerClock>,
    /// The longest time without a reply so far.
    pub slowest: Duration,
}

impl Watchdog {
    /// Connects to the server.
    ///
    /// # Errors
    /// The server does not accept connections, or does not answer.
    pub fn open(server: &Server, threads: usize, clock: Arc<ServerClock>) -> io::Result<Self> {
        Ok(Self {
            address: server.address(),
            pings: (0..threads)
                .map(|_| open(server.address(), &clock))
                .collect::<io::Result<_>>()?,
            clock,
            slowest: Duration::ZERO,
        })
    }

    /// How many connections it has.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.pings.len()
    }

    /// The server's clock.
    #[must_use]
    pub fn clock(&self) -> Arc<ServerClock> {
        Arc::clone(&self.clock)
    }

    /// Pings until all connections of the round are closed.
    ///
    /// # Errors
    /// The server did not answer in time, or closed a connection.
    pub fn watch(&mut self, round: &Round) -> Result<(), String> {
        while round.active.load(Relaxed) > 0 && !round.is_over_for_all() {
            for at in 0..self.pings.len() {
                self.ping(at, round).map_err(|error| error.to_string())?;
            }
            std::thread::sleep(INTERVAL);
        }
        Ok(())
    }

    /// Pings one thread.
    fn ping(&mut self, at: usize, round: &Round) -> io::Result<()> {
        let (start, own_delay) = (self.clock.mark(), own_delay());
        let sent = self.pings[at].send(&request(&["PING"]));
        match sent.and_then(|()| self.receive(at, &start, round)) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::TimedOut => return Err(named(&error)),
            // While one reply is late, the other connections are idle, and `timeout` may close them.
            Err(_) if round.conditions.closes => {
                self.pings[at] = open(self.address, &self.clock)?;
            }
            Err(error) => return Err(named(&error)),
        }
        // The reply may have arrived while this thread waited for a processor.
        let own_delay = self::own_delay().saturating_sub(own_delay);
        let took = self.clock.since(&start).saturating_sub(own_delay);
        self.slowest = self.slowest.max(took);
        match took > LIMIT {
            true => Err(io::Error::other(format!(
                "PING took {took:.2?} in which every thread of the server could run"
            ))),
            false => Ok(()),
        }
    }

    /// Waits for a reply. If it is late, ends a pause.
    fn receive(&mut self, at: usize, start: &Mark, round: &Round) -> io::Result<()> {
        let mut limit = PAUSE_MAX;
        loop {
            match self.clock.receive(&mut self.pings[at], start, limit) {
                Ok(_) => return Ok(()),
                Err(error) if error.kind() != ErrorKind::TimedOut => return Err(error),
                Err(error) if limit >= SILENCE_MAX => return Err(error),
                Err(_) => limit += PAUSE_MAX,
            }
            // The server runs CLIENT UNPAUSE even while it is paused.
            let mut other = Connection::open(self.address)?;
            let outcome = self
                .clock
                .call(&mut other, &["CLIENT", "UNPAUSE"], SILENCE_MAX);
            match outcome {
                // The server may have evicted or killed the new client at once.
                Err(error) if round.conditions.closes && error.kind() != ErrorKind::TimedOut => {}
                outcome => drop(outcome?),
            }
        }
    }
}

fn named(error: &io::Error) -> io::Error {
    io::Error::other(format!("the watchdog: {error}"))
}

/// How long this thread has waited for a processor since it started.
fn own_delay() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let delay = text.split(' ').nth(1).and_then(|word| word.parse().ok());
    Duration::from_nanos(delay.unwrap_or(0))
}

fn open(address: SocketAddr, clock: &ServerClock) -> io::Result<Connection> {
    let mut connection = Connection::open(address)?;
    clock.call(&mut connection, &["CLIENT", "NO-EVICT", "ON"], SILENCE_MAX)?;
    clock.call(
        &mut connection,
        &["CLIENT", "SETNAME", "watchdog"],
        SILENCE_MAX,
    )?;
    Ok(connection)
}
