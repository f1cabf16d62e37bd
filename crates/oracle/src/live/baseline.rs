//! The state to which a server must return after each round: no clients, no blocked clients, no subscriptions, and the memory
//! use of before.

use super::clock::ServerClock;
use super::commands::{CLOSING_SETTINGS, SETTINGS};
use crate::connection::Connection;
use damselfly_protocol::client::Value;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// How long the server may take to return to that state, or to reply, on its own clock.
const PATIENCE: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How much more memory may be in use than after the first round, for each thread and once more for the process: threads keep
/// some of the buffers and interpreters that they needed.
const ALLOWANCE_BYTES: u64 = 1 << 20;
/// A slow leak: memory use grows by more than [`LEAK_BYTES`] in each of so many rounds in a row.
const LEAK_ROUNDS: usize = 6;
const LEAK_BYTES: u64 = 16 << 10;
/// Rounds in which a thread fills the buffers that it keeps, and loads what its interpreter needs: their growth is no leak.
const WARM_UP_ROUNDS_PER_THREAD: usize = 4;

/// Fields of INFO that are 0 while the server is idle.
const ZERO: &[&str] = &[
    "blocked_clients",
    "connected_slaves",
    "tracking_clients",
    "clients_in_timeout_table",
    "pubsub_channels",
    "pubsub_patterns",
    "pubsubshard_channels",
    "tracking_total_keys",
    "tracking_total_items",
    "tracking_total_prefixes",
    "lazyfree_pending_objects",
    "number_of_cached_scripts",
    "number_of_functions",
    "number_of_libraries",
];

/// Checks whether a server has returned to its state before the round.
pub struct Baseline {
    address: SocketAddr,
    connection: Connection,
    clock: Arc<ServerClock>,
    allowance_bytes: u64,
    warm_up_rounds: usize,
    /// The values of the options at the start, as CONFIG SET takes them.
    options: Vec<(String, Vec<u8>)>,
    clients: usize,
    /// INFO after the first round.
    first: BTreeMap<String, String>,
    /// Memory in use after each round.
    pub history: Vec<u64>,
}

impl Baseline {
    /// Records the options of the server, which has `threads` threads, and `clients` clients in addition to this one.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn open(
        address: SocketAddr,
        threads: usize,
        clients: usize,
        clock: Arc<ServerClock>,
    ) -> io::Result<Self> {
        let mut connection = Connection::open(address)?;
        let names = SETTINGS.iter().chain(CLOSING_SETTINGS);
        let names = names.map(|(name, _)| *name).chain(["busy-reply-threshold"]);
        let mut options = Vec::new();
        for name in names {
            if let Value::Array(pair) =
                clock.call(&mut connection, &["CONFIG", "GET", name], PATIENCE)?
                && let [_, Value::Bulk(value)] = &pair[..]
            {
                options.push((name.to_owned(), value.clone()));
            }
        }
        Ok(Self {
            address,
            connection,
            clock,
            allowance_bytes: ALLOWANCE_BYTES * (threads as u64 + 1),
            warm_up_rounds: WARM_UP_ROUNDS_PER_THREAD * threads,
            options,
            clients: clients + 1,
            first: BTreeMap::new(),
            history: Vec::new(),
        })
    }

    /// Runs a command that must not fail.
    ///
    /// # Errors
    /// It fails, or the server does not answer.
    pub fn must(&mut self, words: &[&[u8]]) -> io::Result<Value> {
        match self.call(words)? {
            Value::Error(text) => Err(io::Error::other(format!(
                "{}: {}",
                String::from_utf8_lossy(&words.join(&b' ')),
                String::from_utf8_lossy(&text)
            ))),
            reply => Ok(reply),
        }
    }

    fn call(&mut self, words: &[&[u8]]) -> io::Result<Value> {
        self.clock.call(&mut self.connection, words, PATIENCE)
    }

    /// Empties the server and restores its options.
    ///
    /// # Errors
    /// A command fails.
    pub fn restore(&mut self) -> io::Result<()> {
        self.must(&[b"CLIENT", b"UNPAUSE"])?;
        self.wait_for_scripts()?;
        self.call(&[b"FAILOVER", b"ABORT"])?;
        self.must(&[b"REPLICAOF", b"NO", b"ONE"])?;
        for (name, value) in self.options.clone() {
            self.must(&[b"CONFIG", b"SET", name.as_bytes(), &value])?;
        }
        let commands: &[&[&[u8]]] = &[
            &[b"FLUSHALL"],
            &[b"SCRIPT", b"FLUSH"],
            &[b"FUNCTION", b"FLUSH"],
            &[b"CONFIG", b"RESETSTAT"],
            &[b"SLOWLOG", b"RESET"],
            &[b"LATENCY", b"RESET"],
            &[b"DEBUG", b"SET-ACTIVE-EXPIRE", b"1"],
            &[b"MEMORY", b"PURGE"],
        ];
        commands
            .iter()
            .try_for_each(|words| self.must(words).map(drop))
    }

    /// Waits until no script runs: scripts of closed clients may still run, and until they end, the server replies BUSY.
    fn wait_for_scripts(&mut self) -> io::Result<()> {
        let start = self.clock.mark();
        while let Value::Error(text) = self.call(&[b"PING"])? {
            if self.clock.since(&start) > PATIENCE {
                return Err(io::Error::other(String::from_utf8_lossy(&text)));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Ok(())
    }

    /// Waits until the server is in its state of before. Returns a text about the difference if it does not return to it in time.
    ///
    /// # Errors
    /// The server does not answer, or a command fails.
    pub fn check(&mut self) -> io::Result<Result<(), String>> {
        let start = self.clock.mark();
        // The server may have closed the old connection for its memory or its idle time.
        self.connection = Connection::open(self.address)?;
        self.restore()?;
        loop {
            let info = self.info()?;
            let list = self.clients()?;
            let outcome = self.judge(&info, &list);
            let Err(what) = outcome else {
                self.history.push(held_bytes(&info));
                if self.first.is_empty() {
                    self.first = info;
                }
                let warm = self.history.get(self.warm_up_rounds..).unwrap_or_default();
                let is_leak = leaks(warm);
                let text = || format!("memory use grows with every round: {:?}", self.history);
                return Ok(if is_leak { Err(text()) } else { Ok(()) });
            };
            if self.clock.since(&start) > PATIENCE {
                return Ok(Err(what));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn judge(&self, info: &BTreeMap<String, String>, list: &str) -> Result<(), String> {
        let clients = list.lines().count();
        if clients != self.clients {
            return Err(format!(
                "{clients} clients instead of {} after all have disconnected:\n{list}",
                self.clients
            ));
        }
        for field in ZERO {
            match number(info, field) {
                0 => {}
                count => {
                    return Err(format!(
                        "{field} is {count} after all clients have disconnected"
                    ));
                }
            }
        }
        let (bytes, before) = (held_bytes(info), held_bytes(&self.first));
        if bytes > before.saturating_add(self.allowance_bytes) {
            return Err(format!(
                "{bytes} bytes are in use after all keys are deleted; it was {before} after the first round, then {:?}; changed \
                 fields of INFO:\n{}",
                self.history,
                self.differences(info)
            ));
        }
        Ok(())
    }

    /// The fields about memory that differ from those after the first round.
    fn differences(&self, info: &BTreeMap<String, String>) -> String {
        let is_about_memory = |name: &str| name.contains("mem") || name.contains("allocator");
        let changed = info.iter().filter(|(name, value)| {
            is_about_memory(name)
                && !name.ends_with("_human")
                && self.first.get(*name) != Some(value)
        });
        let lines = changed.map(|(name, value)| {
            let before = self.first.get(name).map_or("absent", String::as_str);
            format!("  {name}: {before} -> {value}\n")
        });
        lines.collect()
    }

    fn clients(&mut self) -> io::Result<String> {
        match self.must(&[b"CLIENT", b"LIST"])? {
            Value::Bulk(text) => Ok(String::from_utf8_lossy(&text).trim_end().to_owned()),
            other => Err(io::Error::other(format!("CLIENT LIST: {other}"))),
        }
    }

    fn info(&mut self) -> io::Result<BTreeMap<String, String>> {
        match self.must(&[b"INFO", b"EVERYTHING"])? {
            Value::Bulk(text) => Ok(fields(&String::from_utf8_lossy(&text))),
            other => Err(io::Error::other(format!("INFO: {other}"))),
        }
    }
}

/// True if memory use grew by more than [`LEAK_BYTES`] in each of the last rounds.
fn leaks(history: &[u64]) -> bool {
    let last = &history[history.len().saturating_sub(LEAK_ROUNDS + 1)..];
    let grows = |pair: &[u64]| pair[1] > pair[0].saturating_add(LEAK_BYTES);
    last.len() > LEAK_ROUNDS && last.windows(2).all(grows)
}

fn fields(info: &str) -> BTreeMap<String, String> {
    let pairs = info.lines().filter_map(|line| line.split_once(':'));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The memory in use without the buffers of the log, which grow when the first replica connects and stay.
fn held_bytes(info: &BTreeMap<String, String>) -> u64 {
    match number(info, "mem_not_counted_for_evict") {
        u64::MAX => u64::MAX,
        uncounted => number(info, "used_memory").saturating_sub(uncounted),
    }
}

/// The number in a field; `u64::MAX` for a missing field, so that the check fails.
fn number(info: &BTreeMap<String, String>, name: &str) -> u64 {
    let value = info.get(name).and_then(|value| value.parse().ok());
    value.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steady_growth_is_a_leak() {
        let growing: Vec<u64> = (0..10).map(|round| round << 20).collect();
        assert!(leaks(&growing));
        assert!(
            !leaks(&growing[..LEAK_ROUNDS]),
            "too few rounds to detect a leak"
        );
        assert!(!leaks(&[5; 20]));
    }

    #[test]
    fn fields_of_info_are_read() {
        let info = fields("# Memory\r\nused_memory:17\r\nrole:master\r\n");
        assert_eq!(number(&info, "used_memory"), 17);
        assert_eq!(number(&info, "nosuch"), u64::MAX);
    }
}
