//! Applying the stream of a primary.
//!
//! ```text
//! bytes ──► requests ──► groups ──► locks of a group ─► run its commands ─► feed its bytes to the backlog ─► release
//! ```
//!
//! A group is a transaction, or a few commands that have one key each, or a single other command. Its bytes are passed on while its locks
//! are held: so whoever holds all locks finds data and offset at the same position of the stream.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use damselfly_base::CommandError;
use damselfly_base::number::parse_integer;
use damselfly_commands::{Args, Stop};
use damselfly_config::PropagationErrors;
use damselfly_engine::{Busy, Key, Now, Tx, Unserved};
use damselfly_protocol::{Reply, Version};
use damselfly_pubsub::Scope;

use super::requests::{Action, Chunk, PARSED_MAX, Queue, Request};
use crate::clock;
use crate::dispatch::count_effects;
use crate::gate::Reasons;
use crate::memcached;
use crate::observers::monitor;
use crate::scripts::function_commands;
use crate::shared::Shared;

/// How long the stream waits for subscribers that do not keep up.
const CONGESTION_MAX: Duration = Duration::from_secs(1);

/// No more errors of commands than this are logged per interval.
const ERROR_LOGS_MAX: u32 = 10;
const ERROR_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Why the stream can't go on.
pub(super) enum Fault {
    /// The link was told to end, or the server stops.
    Ended,
    /// What the primary sent can't be understood: one line.
    Stream(String),
}

/// Applies the stream of one connection.
pub(super) struct Applier {
    shared: Arc<Shared>,
    /// Of the link, as of when the connection began.
    generation: u64,
    queue: Queue,
    /// The database that the stream has selected.
    db: usize,
    shards: Vec<usize>,
    reply: Vec<u8>,
    to_retry: Vec<Unserved>,
    /// Lines for MONITOR clients.
    monitored: Vec<u8>,
    address: String,
    /// Since when errors were counted, and how many were logged.
    error_logs_since: Option<Instant>,
    error_logs: u32,
}

impl Applier {
    /// Begins in this database.
    pub(super) fn new(shared: &Arc<Shared>, generation: u64, db: usize, address: String) -> Self {
        Self {
            shared: shared.clone(),
            generation,
            queue: Queue::default(),
            db,
            shards: Vec::new(),
            reply: Vec::new(),
            to_retry: Vec::new(),
            monitored: Vec::new(),
            address,
            error_logs_since: None,
            error_logs: 0,
        }
    }

    /// Applies requests.
    ///
    /// # Errors
    /// The stream can't go on. It was applied up to the offset of the history.
    pub(super) fn apply(&mut self, chunk: Chunk) -> Result<(), Fault> {
        let Chunk { bytes, queue } = chunk;
        self.queue = queue;
        self.prefetch();
        let mut next = 0;
        while let Some(end) = self.queue.group(next) {
            self.run_group(&bytes, next..end)?;
            next = end;
        }
        if self.shared.engine.log.is_on() {
            self.shared.log.wake();
        }
        if !self.monitored.is_empty() {
            monitor::send(&self.shared, &self.monitored, 0);
            self.monitored.clear();
        }
        Ok(())
    }

    /// Prefetches the locks that commands on single keys will take.
    fn prefetch(&self) {
        let engine = &self.shared.engine;
        for request in self.queue.requests.iter().take(PARSED_MAX) {
            if let Action::OneKey(..) = request.action {
                engine.prefetch_shard(request.hash);
            }
        }
    }

    /// Applies the requests of a group in one section, and passes their bytes on.
    fn run_group(&mut self, input: &[u8], group: Range<usize>) -> Result<(), Fault> {
        let shared = self.shared.clone();
        let started = Instant::now();
        let (mut shards, mut needs_all) = (std::mem::take(&mut self.shards), false);
        let db_before = self.db;
        self.check_disk()?;
        let result = loop {
            while shared.engine.log.is_on() && shared.engine.log.is_congested() {
                shared.log.wake();
                std::thread::sleep(Duration::from_millis(1));
                self.check()?;
            }
            match self.try_group(&shared, input, group.clone(), &mut shards, needs_all) {
                Ok(true) => break Ok(()),
                Ok(false) => needs_all = true,
                Err(TryError::Fault(fault)) => break Err(fault),
                Err(TryError::Busy(busy)) => {
                    self.check()?;
                    shared.replication.link.wait_for_shard(&shared, busy);
                }
            }
            self.db = db_before;
        };
        self.shards = shards;
        while let Some(next) = self.to_retry.pop() {
            match shared.engine.serve_waiters(&next, Now(clock::now_ms())) {
                Ok(more) => self.to_retry.extend(more),
                Err(busy) => {
                    self.check()?;
                    self.to_retry.push(next);
                    shared.replication.link.wait_for_shard(&shared, busy);
                }
            }
        }
        let took_ns = started.elapsed().as_nanos() as u64 / group.len() as u64;
        for request in &self.queue.requests[group] {
            if let Action::OneKey(row, _) | Action::Keys(row, _) | Action::AllKeys(row, _) =
                request.action
            {
                let counters = &shared.replication.link.counters;
                counters.commands[row.index].record(took_ns, false);
            }
        }
        result
    }

    /// Ends the stream while changes can't be written to the disk, unless `replica-ignore-disk-write-errors` is set.
    fn check_disk(&self) -> Result<(), Fault> {
        let gate = &self.shared.gate;
        let failed = gate.holding(Reasons::SAVING_FAILED.and(Reasons::LOG_FAILED));
        if failed.is_empty() || self.shared.config().replica_ignore_disk_write_errors {
            return Ok(());
        }
        Err(Fault::Stream(String::from(
            "this replica can't write to its disk, as the log above says, and goes on when it can again; set 'replica-ignore-disk-write-errors' to go on without",
        )))
    }

    /// Ends the stream if the link was told so.
    fn check(&self) -> Result<(), Fault> {
        let link = &self.shared.replication.link;
        match link.is_current(self.generation) && !self.shared.stopping.load(Relaxed) {
            true => Ok(()),
            false => Err(Fault::Ended),
        }
    }

    /// Applies a group. False if it has to be tried again with all locks.
    fn try_group(
        &mut self,
        shared: &Shared,
        input: &[u8],
        group: Range<usize>,
        shards: &mut Vec<usize>,
        needs_all: bool,
    ) -> Result<bool, TryError> {
        let (engine, now) = (&shared.engine, Now(clock::now_ms()));
        let is_whole = needs_all || !self.find_shards(input, group.clone(), shards);
        let mut tx = match is_whole {
            true => engine.lock_all(self.db, now)?,
            false => engine.lock_shards(shards, self.db, now)?,
        };
        self.check()?;
        tx.keep_expired();
        let queue = std::mem::take(&mut self.queue);
        let requests = &queue.requests[group];
        let is_one = |request: &&Request| matches!(request.action, Action::OneKey(..));
        tx.prefetch(requests.iter().filter(is_one).map(|request| request.hash));
        let mut run_all = || {
            for request in requests {
                let args = queue.args(input, request);
                if !self.run_one(shared, &mut tx, request.action, args)? {
                    // The only command of the group: nothing was done.
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let done: Result<bool, Fault> = run_all();
        let (first, last) = (&requests[0], &requests[requests.len() - 1]);
        let (bytes, is_transaction) =
            (first.start..last.end, matches!(first.action, Action::Multi));
        self.queue = queue;
        if !done? {
            return Ok(false);
        }
        if !is_transaction {
            tx.set_effects_loose();
        }
        let link = &shared.replication.link;
        link.stream_db.store(self.db, Relaxed);
        shared.replication.feed(shared, &input[bytes]);
        if tx.has_extras() {
            tx.expire_as_usual();
            self.to_retry.extend(tx.serve_waiters());
        }
        count_effects(&link.counters, tx.effects());
        Ok(true)
    }

    /// Finds the shards of a group; false if it needs all of them.
    fn find_shards(&self, input: &[u8], group: Range<usize>, shards: &mut Vec<usize>) -> bool {
        let engine = &self.shared.engine;
        shards.clear();
        for request in &self.queue.requests[group] {
            match request.action {
                Action::OneKey(..) | Action::Attributes => {
                    shards.push(engine.shard_of(request.hash))
                }
                Action::Keys(row, _) => {
                    let args = self.queue.args(input, request);
                    let places = row.command.key_places(args);
                    let hashes = places.map(|place| damselfly_base::hash(args.at(place)));
                    shards.extend(hashes.map(|hash| engine.shard_of(hash)));
                }
                Action::AllKeys(..) | Action::Functions(_) => return false,
                Action::Select
                | Action::Multi
                | Action::Exec
                | Action::Publish(_)
                | Action::Ack
                | Action::Nothing
                | Action::Unknown => {}
            }
        }
        if shards.is_empty() {
            // The offset changes under at least one lock.
            shards.push(0);
        }
        true
    }

    /// Applies one request. False if it needs all locks.
    fn run_one(
        &mut self,
        shared: &Shared,
        tx: &mut Tx<'_>,
        action: Action,
        args: Args<'_>,
    ) -> Result<bool, Fault> {
        let mut failed = None;
        match action {
            Action::OneKey(row, run) | Action::Keys(row, run) | Action::AllKeys(row, run) => {
                tx.set_db(self.db);
                self.reply.clear();
                let mut reply = Reply::new(&mut self.reply, Version::Resp2);
                match damselfly_commands::run(run, tx, args, &mut reply) {
                    // As in a transaction, a command that would wait finds nothing.
                    Ok(()) | Err(Stop::SlicedReply(_) | Stop::Wait(_)) => {}
                    Err(Stop::NeedsAllLocks) => return Ok(false),
                    Err(Stop::Error(error)) => failed = Some(error),
                    Err(Stop::Busy(_) | Stop::Long | Stop::LongUnlocked(_) | Stop::LogBehind) => {
                        failed = Some(CommandError::err("the command could not run"));
                    }
                }
                if shared.monitors.load(Relaxed) > 0 {
                    let from = (self.db, self.address.as_str());
                    monitor::show_applied(&mut self.monitored, from, row, args);
                }
            }
            Action::Functions(row) => {
                failed = function_commands::repeat(shared, &row.name, args).err();
                if failed.is_none() {
                    tx.log_args(args.from(0));
                }
            }
            Action::Select => self.db = database(shared, args)?,
            Action::Publish(scope) => self.publish(shared, scope, args),
            Action::Attributes => set_attributes(tx, self.db, args),
            // The thread that reads answers it.
            Action::Ack | Action::Multi | Action::Exec | Action::Nothing => {}
            Action::Unknown => failed = Some(CommandError::err("the command can't be applied")),
        }
        if let Some(error) = failed {
            self.note_error(shared, args, &error);
        }
        Ok(true)
    }

    fn publish(&self, shared: &Shared, scope: Scope, args: Args<'_>) {
        let (pubsub, thread) = (&shared.pubsub, shared.threads.len());
        let published = pubsub.publish(thread, scope, args.at(1), args.at(2), 0);
        pubsub.send(thread, &shared.threads);
        let Some(to) = published.congested else {
            return;
        };
        let started = Instant::now();
        while shared.is_congested(thread, to) && started.elapsed() < CONGESTION_MAX {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Counts a command that failed, as it did not on the primary, and logs it.
    #[cold]
    fn note_error(&mut self, shared: &Shared, args: Args<'_>, error: &CommandError) {
        let link = &shared.replication.link;
        link.errors.fetch_add(1, Relaxed);
        link.counters.count_error(&error.to_bytes());
        if self
            .error_logs_since
            .is_none_or(|since| since.elapsed() >= ERROR_LOG_INTERVAL)
        {
            (self.error_logs_since, self.error_logs) = (Some(Instant::now()), 0);
        }
        let config = shared.config();
        // Clients of a writable replica may have caused it.
        let ends = config.replica_read_only
            && config.propagation_error_behavior != PropagationErrors::Ignore;
        self.error_logs += 1;
        if self.error_logs > ERROR_LOGS_MAX && !ends {
            return;
        }
        log::error!(
            "== CRITICAL == This replica is sending an error to its master: '{error}' after processing the command '{}'. Their data may differ from now on.",
            args.at(0).escape_ascii()
        );
        if ends {
            log::error!(
                "The option 'propagation-error-behavior' demands that the process end now."
            );
            std::process::abort();
        }
    }
}

/// Why a group was not applied.
enum TryError {
    Busy(Busy),
    Fault(Fault),
}

impl From<Busy> for TryError {
    fn from(busy: Busy) -> Self {
        Self::Busy(busy)
    }
}

impl From<Fault> for TryError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// The database that SELECT names.
fn database(shared: &Shared, args: Args<'_>) -> Result<usize, Fault> {
    let databases = shared.engine.databases();
    parse_integer(args.at(1))
        .and_then(|db| usize::try_from(db).ok())
        .filter(|&db| db < databases)
        .ok_or_else(|| {
            Fault::Stream(format!(
                "it selects the database {}, but the option 'databases' is {databases}: raise it and restart",
                args.at(1).escape_ascii()
            ))
        })
}

/// Sets the attributes of a memcached item, whose shard is locked, and logs that for the append-only file.
fn set_attributes(tx: &mut Tx<'_>, db: usize, args: Args<'_>) {
    let Some((attributes, key)) = memcached::attributes_and_key(args.at(1)) else {
        return;
    };
    tx.set_db(db);
    if memcached::set_attributes(tx, Key::new(key), attributes) {
        tx.log_args(args.from(0));
    }
}
