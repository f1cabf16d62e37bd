//! The figures that INFO and MEMORY show, gathered once per command.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

use damselfly_commands::Result;
use damselfly_engine::{Cursor, KeyspaceTotals, Now, Tx};
use damselfly_script::Libraries;
use damselfly_tls::Certificates;

use crate::persistence::save_job::SaveJob;
use crate::persistence::{Cause, Status, aof};
use crate::replication::feed::Feed;
use crate::replication::{BacklogFacts, History};
use crate::session::Context;
use crate::shared::{Rates, Shared};
use damselfly_config::Config;

/// The figures at one moment. Memory is in bytes.
pub struct Facts<'a> {
    /// The state that all threads share.
    pub shared: &'a Shared,
    /// The configuration.
    pub config: &'a Config,
    /// The time.
    pub now: Now,
    /// Memory in use.
    pub used: usize,
    /// The most memory that was ever in use.
    pub peak: usize,
    /// Memory in use when the server was ready.
    pub startup: usize,
    /// Resident memory of the process.
    pub resident: usize,
    /// Memory of all threads' Lua interpreters, which is not counted as memory in use.
    pub vm: usize,
    /// The totals of each database.
    pub databases: Vec<KeyspaceTotals>,
    /// The number of expired entries that were removed.
    pub expired: u64,
    /// Figures about connections.
    pub clients: ClientFacts,
    /// Libraries of functions.
    pub libraries: Arc<Libraries>,
    /// Processor time.
    pub cpu: Cpu,
    /// Rates over the last samples.
    pub rates: Rates,
    /// What was saved and is being saved.
    pub save: Status,
    /// The certificates in use.
    pub certificates: Certificates,
    /// The append-only file.
    pub aof: aof::Status,
    /// The history of the replication stream.
    pub history: History,
    /// What is kept of it.
    pub backlog: BacklogFacts,
    /// The replicas.
    pub feeds: Vec<Arc<Feed>>,
}

/// Figures about all connections.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientFacts {
    /// The number of connections, without those of replicas.
    pub count: usize,
    /// The number of them that speak memcached's protocol.
    pub memcached: usize,
    /// The number of them that use TLS.
    pub encrypted: usize,
    /// The number of blocked clients.
    pub blocked: usize,
    /// The number of clients blocked on keys with a timeout.
    pub with_timeout: usize,
    /// The number of clients that have subscriptions.
    pub subscribers: usize,
    /// The number of clients that watch keys.
    pub watching: usize,
    /// The number of keys that clients watch; one that two clients watch counts twice.
    pub watched_keys: usize,
    /// The largest input buffer, in bytes.
    pub input_max: usize,
    /// The largest output buffer, in bytes.
    pub output_max: usize,
    /// The memory of all connections but those of replicas, in bytes.
    pub bytes: usize,
    /// The memory of the connections of replicas, in bytes.
    pub replica_bytes: usize,
}

/// Processor time, in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// System time.
    pub system: f64,
    /// User time.
    pub user: f64,
    /// System time of child processes.
    pub system_children: f64,
    /// User time of child processes.
    pub user_children: f64,
    /// System time of the main thread, which only starts and stops the others.
    pub system_main: f64,
    /// User time of the main thread.
    pub user_main: f64,
}

impl<'a> Facts<'a> {
    /// Gathers the figures. Locks one shard at a time.
    ///
    /// # Errors
    /// If a shard is busy.
    pub fn gather(context: &mut Context<'a>) -> Result<Self> {
        let shared: &'a Shared = context.shared;
        let (databases, expired) = databases(&mut context.section())?;
        let used = shared.note_memory();
        Ok(Self {
            shared,
            config: context.config,
            now: context.now,
            used,
            peak: shared.peak_bytes.load(Relaxed),
            startup: shared.startup_bytes.load(Relaxed),
            resident: resident_bytes(),
            vm: shared.total(|counters| counters.vm_bytes.load(Relaxed) as u64) as usize,
            databases,
            expired,
            clients: client_facts(shared),
            libraries: shared.functions.libraries(),
            cpu: Cpu::read(),
            save: shared.persistence.status(),
            certificates: shared.tls.certificates(),
            aof: shared.aof.status(),
            history: shared.replication.history(),
            backlog: shared.replication.backlog(),
            feeds: shared.replication.feeds(),
            rates: *shared.rates.lock().unwrap_or_else(PoisonError::into_inner),
        })
    }

    /// The save in progress, if it writes a snapshot.
    pub fn bgsave(&self) -> Option<&SaveJob> {
        let job = self.save.job.as_deref();
        job.filter(|job| job.cause() != Cause::Rewrite)
    }

    /// The rewrite of the append-only file in progress.
    pub fn rewrite(&self) -> Option<&SaveJob> {
        let job = self.save.job.as_deref();
        job.filter(|job| job.cause() == Cause::Rewrite)
    }

    /// The size of all entries, in bytes.
    pub fn dataset(&self) -> usize {
        self.databases.iter().map(|totals| totals.entry_bytes).sum()
    }

    /// The memory in use for anything but entries, in bytes.
    pub fn overhead(&self) -> usize {
        self.used.saturating_sub(self.dataset())
    }

    /// The memory in use beyond that at startup, in bytes.
    pub fn since_startup(&self) -> usize {
        self.used.saturating_sub(self.startup)
    }

    /// The number of keys in all databases.
    pub fn keys(&self) -> usize {
        self.databases.iter().map(|totals| totals.keys).sum()
    }

    /// Resident memory without that of the interpreters, which is not counted as in use.
    pub fn resident_counted(&self) -> usize {
        self.resident.saturating_sub(self.vm)
    }

    /// The ratio of resident memory to memory in use; below one when memory is swapped out.
    pub fn fragmentation(&self) -> f64 {
        ratio(self.resident_counted(), self.used)
    }

    /// The mean TTL of the keys of a database that have one, in milliseconds, estimated from a sample.
    ///
    /// # Errors
    /// If a shard is busy.
    pub fn ttl_ms(&self, tx: &mut Tx<'_>, db: usize) -> Result<i64> {
        /// Enough for an error of a few percent, and few enough to take about a millisecond.
        const SAMPLES: usize = 64;
        const VISITS_MAX: usize = 4096;
        const STEP: usize = 256;
        let (mut sum, mut count, mut visits) = (0_i128, 0, 0);
        let mut cursor = Cursor::default();
        while count < SAMPLES && visits < VISITS_MAX {
            visits += STEP;
            let scanned = |entry: damselfly_value::EntryRef<'_>| {
                if let Some(deadline_ms) = entry.deadline_ms() {
                    sum += i128::from(deadline_ms - self.now.0);
                    count += 1;
                }
            };
            cursor = tx.scan(db, cursor, STEP, scanned)?;
            if cursor == Cursor::default() {
                break;
            }
        }
        Ok(i64::try_from(sum / count.max(1) as i128).unwrap_or(i64::MAX))
    }

    /// The number of error replies by their first word.
    pub fn errors(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for thread in &self.shared.threads {
            let errors = &thread.counters.errors;
            let errors = errors.lock().unwrap_or_else(PoisonError::into_inner);
            for (word, count) in &*errors {
                *sums.entry(word.clone()).or_default() += count;
            }
        }
        sums
    }
}

/// The ratio of two numbers; zero if `whole` is zero.
pub fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// The totals of each database over all shards, and the number of expired entries that were removed.
fn databases(tx: &mut Tx<'_>) -> Result<(Vec<KeyspaceTotals>, u64)> {
    let engine = tx.engine();
    let mut databases = vec![KeyspaceTotals::default(); engine.databases()];
    let mut expired = 0;
    for shard in 0..engine.shards() {
        tx.with_shard(shard, |tx| {
            for (totals, database) in databases.iter_mut().zip(tx.databases(shard)) {
                *totals += database;
            }
            expired += *tx.expired_mut(shard);
        })?;
    }
    Ok((databases, expired))
}

fn client_facts(shared: &Shared) -> ClientFacts {
    let mut facts = ClientFacts::default();
    for client in shared.clients.all() {
        let input = client.input_capacity.load(Relaxed);
        let output = client.output_capacity.load(Relaxed);
        if client.is_replica.load(Relaxed) {
            facts.replica_bytes += client.memory();
            continue;
        }
        facts.count += 1;
        facts.memcached += usize::from(client.is_memcached());
        facts.encrypted += usize::from(!client.encryption.is_empty());
        facts.blocked += usize::from(client.is_blocked());
        let blocked_client = client.waiting_command();
        facts.with_timeout +=
            usize::from(blocked_client.is_some_and(|blocked_client| blocked_client.has_timeout()));
        let watched = client.watched.load(Relaxed);
        facts.subscribers += usize::from(client.is_subscriber());
        facts.watching += usize::from(watched > 0);
        facts.watched_keys += watched;
        facts.input_max = facts.input_max.max(input);
        facts.output_max = facts.output_max.max(output);
        facts.bytes += client.memory();
    }
    facts
}

/// The number in a field of a line. Fields are counted from zero.
fn number_at(line: &str, field: usize) -> u64 {
    line.split_ascii_whitespace()
        .nth(field)
        .and_then(|word| word.parse().ok())
        .unwrap_or(0)
}

/// The memory of the process that is in the machine's memory, in bytes. Zero if the system does not say.
pub fn resident_bytes() -> usize {
    bytes_at("/proc/self/status", "VmRSS:") as usize
}

/// As [`resident_bytes`], without the pages of files.
pub fn resident_private_bytes() -> usize {
    bytes_at("/proc/self/status", "RssAnon:") as usize
}

/// The memory of the machine, in bytes.
pub fn system_bytes() -> u64 {
    bytes_at("/proc/meminfo", "MemTotal:")
}

/// The number of kilobytes in the line of a file of Linux that begins with this name, as bytes.
fn bytes_at(path: &str, name: &str) -> u64 {
    let lines = fs::read_to_string(path).unwrap_or_default();
    let line = lines.lines().find(|line| line.starts_with(name));
    line.map_or(0, |line| number_at(line, 1)) * 1024
}

/// The name and version of the operating system, and the processor architecture.
pub fn system_name() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {} {}", release.trim(), std::env::consts::ARCH)
}

impl Cpu {
    fn read() -> Self {
        let process = ticks("/proc/self/stat");
        let main = ticks(&format!("/proc/self/task/{}/stat", std::process::id()));
        Self {
            user: process[0],
            system: process[1],
            user_children: process[2],
            system_children: process[3],
            user_main: main[0],
            system_main: main[1],
        }
    }
}

/// The four times in a `stat` file of Linux, in seconds: user, system, and both for children.
fn ticks(path: &str) -> [f64; 4] {
    let line = fs::read_to_string(path).unwrap_or_default();
    // The name of the program is in parentheses and may have spaces. The other fields follow it.
    let behind_name = line.rsplit_once(')').map_or("", |(_, rest)| rest);
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    std::array::from_fn(|index| number_at(behind_name, 11 + index) as f64 / per_second)
}
