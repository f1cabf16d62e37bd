//! The watchdog: a client that must get its replies within a second, whatever the others do.
//!
//! It has one connection per thread of the server. The time that threads waited for a processor does not count, because the
//! machine may be busy with other work; the kernel reports that time in `/proc/PID/task/TID/schedstat`.

use super::Round;
use crate::connection::{Connection, request};
use crate::server::Server;
use std::collections::HashMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// How long a reply may take.
const LIMIT: Duration = Duration::from_secs(1);
/// When a reply takes longer than this, CLIENT PAUSE may be the reason, so the watchdog sends CLIENT UNPAUSE.
const PAUSE_MAX: Duration = Duration::from_millis(300);
/// Time between two rounds of pings.
const INTERVAL: Duration = Duration::from_millis(50);
/// After so long without a reply, the server counts as dead.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// A client that pings each thread of the server.
pub struct Watchdog {
    address: SocketAddr,
    pings: Vec<Connection>,
    tasks: PathBuf,
    /// The longest time without a reply so far.
    pub slowest: Duration,
}

impl Watchdog {
    /// Connects to the server.
    ///
    /// # Errors
    /// The server does not accept connections, or does not answer.
    pub fn open(server: &Server, threads: usize) -> io::Result<Self> {
        Ok(Self {
            address: server.address(),
            pings: (0..threads)
                .map(|_| open(server.address()))
                .collect::<io::Result<_>>()?,
            tasks: PathBuf::from(format!("/proc/{}/task", server.id())),
            slowest: Duration::ZERO,
        })
    }

    /// How many connections it has.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.pings.len()
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
            round.answered.fetch_add(1, Relaxed);
            std::thread::sleep(INTERVAL);
        }
        Ok(())
    }

    /// Pings one thread.
    fn ping(&mut self, at: usize, round: &Round) -> io::Result<()> {
        let (start, delays) = (Instant::now(), self.delays());
        let sent = self.pings[at].send(&request(&["PING"]));
        match sent.and_then(|()| self.receive(at, start, round)) {
            Ok(()) => {}
            // While one reply is late, the other connections are idle, and `timeout` may close them.
            Err(_) if round.weather.closes => self.pings[at] = open(self.address)?,
            Err(error) => {
                let text = format!("the watchdog after {:.1?}: {error}", start.elapsed());
                return Err(io::Error::other(text));
            }
        }
        let took = start.elapsed();
        let waited = longest_growth(&delays, &self.delays());
        let own = took.saturating_sub(waited);
        self.slowest = self.slowest.max(own);
        match own > LIMIT {
            true => Err(io::Error::other(format!(
                "PING took {took:.2?}, while no thread waited longer than {waited:.2?} for a processor"
            ))),
            false => Ok(()),
        }
    }

    /// Waits for a reply. If it is late, ends a pause.
    fn receive(&mut self, at: usize, start: Instant, round: &Round) -> io::Result<()> {
        self.pings[at].stream().set_read_timeout(Some(PAUSE_MAX))?;
        while let Err(error) = self.pings[at].receive() {
            let is_late = matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
            if !is_late || start.elapsed() > SILENCE_MAX {
                return Err(error);
            }
            // The server runs CLIENT UNPAUSE even while it is paused.
            let mut other = Connection::open(self.address)?;
            match other.call(&["CLIENT", "UNPAUSE"]) {
                // The server may have evicted or killed the new client at once.
                Err(_) if round.weather.closes => {}
                outcome => drop(outcome?),
            }
        }
        Ok(())
    }

    /// How long each thread of the server, and this thread, has waited for a processor since it started.
    fn delays(&self) -> HashMap<String, Duration> {
        let mut delays = HashMap::new();
        let threads = fs::read_dir(&self.tasks).into_iter().flatten().flatten();
        let paths = threads.map(|thread| thread.path().join("schedstat"));
        for path in paths.chain([PathBuf::from("/proc/thread-self/schedstat")]) {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let delay = text.split(' ').nth(1).and_then(|word| word.parse().ok());
            let name = path.to_string_lossy().into_owned();
            delays.insert(name, Duration::from_nanos(delay.unwrap_or(0)));
        }
        delays
    }
}

fn open(address: SocketAddr) -> io::Result<Connection> {
    let mut connection = Connection::open(address)?;
    connection.call(&["CLIENT", "NO-EVICT", "ON"])?;
    connection.call(&["CLIENT", "SETNAME", "watchdog"])?;
    Ok(connection)
}

fn longest_growth(
    before: &HashMap<String, Duration>,
    after: &HashMap<String, Duration>,
) -> Duration {
    let growth = after.iter().map(|(name, delay)| {
        let old = before.get(name).copied().unwrap_or_default();
        delay.saturating_sub(old)
    });
    growth.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_that_waited_longest_counts() {
        let map = |pairs: &[(&str, u64)]| {
            let pairs = pairs.iter();
            pairs
                .map(|(name, ms)| (String::from(*name), Duration::from_millis(*ms)))
                .collect()
        };
        let (before, after) = (map(&[("a", 10), ("b", 5)]), map(&[("a", 30), ("b", 90)]));
        assert_eq!(longest_growth(&before, &after), Duration::from_millis(85));
    }
}
