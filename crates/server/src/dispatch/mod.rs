//! From requests to replies: the hot path.
//!
//! ```text
//! batch ─► command rows, hashes, prefetched shards ─► prefetched buckets ─► prefetched entries ─► run, one by one
//! ```
//!
//! The memory that a batch will use is prefetched before its first request runs, so that cache
//! misses overlap.

mod account;
mod deferred;
pub mod exec;
mod memory_limit;
mod on_keys;
mod refusal;
mod unknown;
mod usual;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use damselfly_base::CommandError;
use damselfly_commands::{Args, Run, Stop, Trait};
use damselfly_engine::{Now, Unserved};
use damselfly_log::Targets;
use damselfly_protocol::Reply;

pub(crate) use self::account::{count_effects, touches_keys};
pub use self::deferred::REPLY_SLICE_BYTES;
use self::deferred::{drop_unwanted, finish_reply};
use self::memory_limit::Memory;
pub use self::memory_limit::{
    MemoryRoom, background_bytes, counted_bytes, evicts, is_over_limit, uncounted_bytes,
};
pub use self::on_keys::lock;
use self::refusal::Refusal;
pub(crate) use self::refusal::{log_failed, read_only, too_few_replicas};
use crate::clock;
use crate::event_loop::connection::{Connection, OUTPUT_PAUSE_BYTES};
use crate::event_loop::input::{Batch, Stall};
use crate::long_commands::LongRun;
use crate::memcached;
use crate::observers::monitor;
use crate::registry::{Handler, Locks, REGISTRY, Registry, Row, WithinMulti};
use crate::scripts::{self, ThreadScripts};
use crate::session::transaction::{self, SpareQueues};
use crate::session::{Context, Replies, RestOfReply, Session};
use crate::shared::Shared;
use crate::statistics::ThreadCounters;
use damselfly_config::Config;

/// A command on keys with more arguments than this runs as a long command, whatever it does, unless it can block.
const ARGS_MAX: usize = 1 << 14;

/// How a batch ended.
pub enum BatchEnd {
    /// All its requests ran.
    Done,
    /// The connection can't proceed for now.
    Stalled(Stall),
    /// The next request is a script or a transaction with scripts, which the worker itself runs.
    Script,
    /// The connection shall be closed.
    Closing,
}

/// Why a request was not completed.
enum Halt {
    Stall(Stall),
    Script,
}

/// Runs batches, on one thread.
pub struct Dispatcher {
    pub(crate) shared: Arc<Shared>,
    registry: &'static Registry,
    /// The index of this thread.
    pub(crate) thread: usize,
    /// The configuration. Refreshed at the start of each turn and after commands that may change it.
    pub config: Arc<Config>,
    config_generation: u64,
    /// Calls that take at least this long may belong in the slow log or the latency events.
    slow_ns: u64,
    pub(crate) clock: quanta::Clock,
    /// The hashes of the keys of a batch.
    hashes: Vec<u64>,
    /// A buffer for the shards that the current command locks.
    pub(crate) shards: Vec<usize>,
    /// Lines about the current batch for MONITOR clients.
    pub(crate) monitored: Vec<u8>,
    /// Changed keys whose blocked clients could not be served at once.
    pub(crate) waiters_to_retry: Vec<Unserved>,
    /// The number of the current batch.
    batch: u64,
    /// Queues for new transactions.
    spare_queues: SpareQueues,
    memory: Memory,
    /// The interpreter and caches of this thread's scripts.
    pub scripts: ThreadScripts,
    /// The same as `shared`, with a reference count that only this thread changes, so that cloning is cheap.
    #[expect(
        clippy::redundant_allocation,
        reason = "no other thread changes its counter"
    )]
    pub(crate) local_shared: Arc<Arc<Shared>>,
}

impl Dispatcher {
    /// A dispatcher for the thread of this index.
    pub fn new(shared: Arc<Shared>, thread: usize) -> Self {
        let (config_generation, config) = (shared.config_generation(), shared.config());
        Self {
            registry: &REGISTRY,
            thread,
            config_generation,
            slow_ns: account::slow_ns(&config),
            config,
            clock: quanta::Clock::new(),
            hashes: Vec::new(),
            shards: Vec::new(),
            monitored: Vec::new(),
            waiters_to_retry: Vec::new(),
            batch: 0,
            spare_queues: SpareQueues::default(),
            memory: Memory::default(),
            scripts: ThreadScripts::default(),
            local_shared: Arc::new(shared.clone()),
            shared,
        }
    }

    /// The counters of this thread.
    pub fn counters(&self) -> &ThreadCounters {
        &self.shared.threads[self.thread].counters
    }

    /// Takes the current configuration if it was changed.
    #[inline]
    pub fn refresh_config(&mut self) {
        let generation = self.shared.config_generation();
        if generation != self.config_generation {
            self.config_generation = generation;
            self.config = self.shared.config();
            self.slow_ns = account::slow_ns(&self.config);
            self.memory = Memory::default();
        }
    }

    /// Drops scripts that were flushed, and updates the memory figures of scripts.
    pub fn refresh_scripts(&mut self) {
        self.scripts.refresh(&self.shared);
        self.note_scripts();
        if let Some(bytes) = self.scripts.library_bytes() {
            self.counters().vm_functions_bytes.store(bytes, Relaxed);
        }
    }

    /// Updates the memory figure of the interpreter.
    pub fn note_scripts(&self) {
        if let Some(bytes) = self.scripts.vm_bytes() {
            self.counters().vm_bytes.store(bytes, Relaxed);
        }
    }

    /// Runs the requests of `batch` until all have run or the connection stalls. They were parsed from
    /// `input`.
    pub fn run(
        &mut self,
        connection: &mut Connection,
        batch: &mut Batch,
        input: &[u8],
    ) -> BatchEnd {
        let end = self.run_batch(connection, batch, input);
        self.send_monitored(connection.session.client.id);
        end
    }

    /// Sends the lines about commands of the client `from` to MONITOR clients.
    #[inline]
    pub fn send_monitored(&mut self, from: u64) {
        if !self.monitored.is_empty() {
            monitor::send(&self.shared, &self.monitored, from);
            self.monitored.clear();
        }
    }

    /// Shows a command that runs a script to MONITOR clients, before the commands that the script calls.
    pub fn show_script(&mut self, session: &Session, row: &'static Row, args: Args<'_>) {
        if self.shared.monitors.load(Relaxed) > 0 {
            monitor::show_script(&mut self.monitored, session, row, args);
        }
    }

    fn run_batch(
        &mut self,
        connection: &mut Connection,
        batch: &mut Batch,
        input: &[u8],
    ) -> BatchEnd {
        let now = Now(clock::now_ms());
        self.batch += 1;
        if !batch.prepared {
            batch.prepared = true;
            self.prepare(batch, input, connection.session.db);
            note_requests(&connection.session, batch, input, now);
        }
        let mut started = self.clock.raw();
        while let Some(request) = batch.requests.get(batch.next) {
            if connection.queued_output() > OUTPUT_PAUSE_BYTES {
                return BatchEnd::Stalled(Stall::Output);
            }
            if let Some(to) = connection.session.congested.take()
                && self.shared.is_congested(self.thread, to)
            {
                connection.session.congested = Some(to);
                return BatchEnd::Stalled(Stall::Congested(to));
            }
            let spans = &batch.spans[request.first_span..request.first_span + request.spans];
            let args = Args::new(&input[request.start..], spans, request.key);
            match self.run_request(connection, request.row, args, now, &mut started) {
                None => batch.next += 1,
                Some(Halt::Stall(stall)) => {
                    batch.next += usize::from(stall.has_begun());
                    return BatchEnd::Stalled(stall);
                }
                Some(Halt::Script) => return BatchEnd::Script,
            }
            if connection.session.closing {
                return BatchEnd::Closing;
            }
            if let Some(until) = connection.session.sleeps_until.take() {
                return BatchEnd::Stalled(Stall::Sleeping(until));
            }
            if let Some(wait) = connection.session.disk_wait {
                return BatchEnd::Stalled(Stall::Disk(wait));
            }
        }
        BatchEnd::Done
    }

    /// Finds commands, hashes keys, and prefetches the memory that they will use.
    fn prepare(&mut self, batch: &mut Batch, input: &[u8], db: usize) {
        let engine = &self.shared.engine;
        self.hashes.clear();
        let mut last: (&[u8], Option<&'static Row>) = (b"", None);
        for request in &mut batch.requests {
            let spans = &batch.spans[request.first_span..request.first_span + request.spans];
            let input = &input[request.start..];
            if request.row.is_none() {
                let name = spans[0].of(input);
                if last.0 != name {
                    last = (name, self.registry.find(name));
                }
                request.row = last.1;
            }
            if let Some(Locks::One(place)) = request.row.map(|row| row.locks)
                && let Some(span) = spans.get(place)
            {
                let hash = damselfly_base::hash(span.of(input));
                engine.prefetch_shard(hash);
                request.key = Some((place, hash));
                self.hashes.push(hash);
            }
        }
        if batch.requests.len() < 2 {
            return;
        }
        for &hash in &self.hashes {
            engine.prefetch_bucket(hash, db);
        }
        for &hash in &self.hashes {
            engine.prefetch_entry(hash, db);
        }
    }

    /// Runs one request and writes its reply. If it can't run now, returns why.
    #[inline]
    fn run_request(
        &mut self,
        connection: &mut Connection,
        row: Option<&'static Row>,
        args: Args<'_>,
        now: Now,
        started: &mut u64,
    ) -> Option<Halt> {
        let Some(row) = row.filter(|row| self.is_usual(&connection.session, row, args, now)) else {
            return self.run_any_request(connection, row, args, now, started);
        };
        let session = &mut connection.session;
        let mut reply = Reply::new(&mut connection.output, session.protocol);
        let mark = reply.position();
        session.client.last_command.store(row.index + 1, Relaxed);
        session.has_logged |= row.writes;
        let result = match row.command.run {
            Run::Run(Handler::Keyspace(run)) => {
                self.run_on_keys(session, row, run, args, now, &mut reply)
            }
            Run::Run(Handler::Memcached(run)) => {
                self.run_on_items(session, row, run, args, now, &mut reply)
            }
            _ => self.execute(session, row, args, now, &mut reply),
        };
        if result.is_err() || session.follow_up {
            return self
                .complete_request(session, (row, args), result, started, &mut reply, mark)
                .map(Halt::Stall);
        }
        self.account(session, row, args, started, None);
        None
    }

    /// The same for requests that something may hinder, or that are no commands on keys.
    #[inline(never)]
    fn run_any_request(
        &mut self,
        connection: &mut Connection,
        row: Option<&'static Row>,
        args: Args<'_>,
        now: Now,
        started: &mut u64,
    ) -> Option<Halt> {
        let session = &mut connection.session;
        let mut reply = Reply::new(&mut connection.output, session.protocol);
        let mark = reply.position();
        if session.replies == Replies::SkipNext {
            session.replies = Replies::SkipThis;
        }
        match self.checked(session, row, args) {
            Err(Refusal::Attack) => {
                unknown::log_attack(&session.client, now);
                session.closing = true;
                // An attacker must not see replies to other requests.
                connection.output.truncate(connection.sent);
                None
            }
            Err(Refusal::Deleted) => {
                session.closing = true;
                None
            }
            Err(Refusal::Error(error)) => {
                self.refuse(session, row, args, &error, &mut reply);
                finish_reply(session, row, &mut reply, mark).map(Halt::Stall)
            }
            Ok(row) => {
                let is_exec = row.within_multi == WithinMulti::Executes;
                let writes = row.writes || is_exec && session.transaction.writes();
                if let Some(hold) = self.shared.pause.holds(writes, now.0)
                    && !crate::admin::client::runs_while_paused(session, row)
                    && !(hold.writes_only && scripts::only_reads(&self.shared, row, args))
                {
                    return Some(Halt::Stall(Stall::Paused(hold)));
                }
                if writes && self.shared.engine.log.is_on() {
                    if self.shared.engine.log.is_congested() {
                        return Some(Halt::Stall(Stall::Log));
                    }
                    session.has_logged = true;
                }
                if session.transaction.is_open() && row.within_multi == WithinMulti::Queued {
                    let writes = row.writes
                        && !(row.runs_script && scripts::only_reads(&self.shared, row, args));
                    session.transaction.push(row, args, writes, &session.client);
                    reply.simple("QUEUED");
                    drop_unwanted(session, &mut reply, mark);
                    return None;
                }
                if row.runs_script || is_exec && session.transaction.runs_scripts() {
                    return Some(Halt::Script);
                }
                let result = self.execute(session, row, args, now, &mut reply);
                self.complete_request(session, (row, args), result, started, &mut reply, mark)
                    .map(Halt::Stall)
            }
        }
    }

    /// Answers a request that is refused before it runs.
    #[cold]
    fn refuse(
        &mut self,
        session: &mut Session,
        row: Option<&'static Row>,
        args: Args<'_>,
        error: &CommandError,
        reply: &mut Reply<'_>,
    ) {
        session.transaction.fail();
        // If this is a script that waited for a lock, it will not run again.
        session.script_plan = None;
        write_failure(session, row, args, error, reply);
        self.counters().count_error(&error.to_bytes());
        if self.shared.monitors.load(Relaxed) > 0
            && let Some(row) = row
            && row.within_multi == WithinMulti::Executes
        {
            monitor::show(&mut self.monitored, session, row, args, reply);
        }
    }

    /// Completes a request that ran: writes an error reply if it failed, counts it, shows it to MONITOR clients, or stalls the
    /// connection. The reply begins at `mark`.
    #[inline]
    pub fn complete_request(
        &mut self,
        session: &mut Session,
        (row, args): (&'static Row, Args<'_>),
        result: damselfly_commands::Result,
        started: &mut u64,
        reply: &mut Reply<'_>,
        mut mark: usize,
    ) -> Option<Stall> {
        let mut failed = None;
        match result {
            // EXEC itself drops unwanted replies, because it may run CLIENT REPLY.
            Ok(()) if row.within_multi == WithinMulti::Executes => mark = reply.position(),
            Ok(()) => {}
            Err(Stop::NeedsAllLocks) => unreachable!("all locks are enough"),
            Err(Stop::Busy(busy)) => {
                reply.truncate_to(mark);
                let Some(mut error) = self.shared.scripts.busy(busy.shard) else {
                    return Some(Stall::Shard(busy));
                };
                // A slow script has it: nobody should wait for that long.
                session.transaction.give_up_watching();
                if row.within_multi == WithinMulti::Executes {
                    error = transaction::abort(session, &self.shared, &error);
                }
                self.counters().commands[row.index].rejected.add(1);
                self.counters().count_error(&error.to_bytes());
                write_failure(session, Some(row), args, &error, reply);
                return finish_reply(session, Some(row), reply, mark);
            }
            Err(Stop::LogBehind) => return session.stream_wait.map(Stall::Stream),
            Err(Stop::Error(error)) => {
                reply.truncate_to(mark);
                write_failure(session, Some(row), args, &error, reply);
                failed = Some(error);
            }
            Err(stop @ (Stop::Wait(_) | Stop::Long | Stop::LongUnlocked(_))) => {
                reply.truncate_to(mark);
                if self.shared.monitors.load(Relaxed) > 0 {
                    monitor::show(&mut self.monitored, session, row, args, reply);
                }
                let Stop::Wait(_) = stop else {
                    return Some(Stall::Long);
                };
                self.note_blocked(session, started);
                return Some(Stall::Waiting);
            }
            Err(Stop::SlicedReply(rest)) => session.rest = Some(RestOfReply::Slices(rest)),
        }
        self.account(session, row, args, started, failed);
        if self.shared.monitors.load(Relaxed) > 0 {
            monitor::show(&mut self.monitored, session, row, args, reply);
        }
        finish_reply(session, Some(row), reply, mark)
    }

    /// Takes the locks that the row needs, and runs the command.
    #[inline]
    fn execute(
        &mut self,
        session: &mut Session,
        row: &'static Row,
        args: Args<'_>,
        now: Now,
        reply: &mut Reply<'_>,
    ) -> damselfly_commands::Result {
        let handler = match row.command.run {
            Run::Run(handler) | Run::Either(handler, _) => handler,
            Run::Subcommands(_) => unreachable!("{} alone was refused for its arity", row.name),
        };
        let (engine, db) = (&self.shared.engine, session.db);
        match handler {
            Handler::Session(run) => {
                let mut context = Context {
                    shared: &self.shared,
                    config: &self.config,
                    counters: &self.shared.threads[self.thread].counters,
                    session,
                    thread: self.thread,
                    now,
                    is_time_frozen: false,
                    lent: None,
                };
                let result = run(&mut context, args, reply);
                drop(context);
                let log = &engine.log;
                if row.sends_messages && result.is_ok() && log.wants(Targets::REPLICAS) {
                    log.append_one(Targets::REPLICAS, db, args.from(0), now.0);
                }
                self.refresh_config();
                if let Err(Stop::Long) = result {
                    let run = crate::admin::long_part(row, args);
                    return self.run_as_long(session, row, run, None, args);
                }
                result
            }
            Handler::Dispatch(run) => run(self, session, args, now, reply),
            Handler::Script(_) => unreachable!("the worker runs scripts itself"),
            Handler::Help => {
                self.registry.write_help(row, reply);
                Ok(())
            }
            Handler::Keyspace(run) => {
                let users = &self.shared.users;
                if let Some(error) = session.login.refused_patterns(users, row, args) {
                    return Err(error.into());
                }
                if args.len() > ARGS_MAX && !row.command.has(Trait::Blocking) {
                    return self.run_as_long(session, row, LongRun::Keyspace(run), None, args);
                }
                self.run_on_keys(session, row, run, args, now, reply)
            }
            Handler::Memcached(run) => self.run_on_items(session, row, run, args, now, reply),
        }
    }
}

/// Writes the error of a request in the protocol of its connection.
#[cold]
fn write_failure(
    session: &mut Session,
    row: Option<&Row>,
    args: Args<'_>,
    error: &CommandError,
    reply: &mut Reply<'_>,
) {
    let is_memcached = session.client.is_memcached();
    match row.filter(|_| is_memcached) {
        Some(row) => memcached::refuse(session, row, args, error, reply),
        None => session.write_error(reply, error),
    }
}

/// Updates the figures that other threads see, for a new batch.
#[inline]
fn note_requests(session: &Session, batch: &Batch, input: &[u8], now: Now) {
    let client = &session.client;
    let commands = client.commands.load(Relaxed) + batch.requests.len() as u64;
    client.active_ms.store(now.0, Relaxed);
    client.commands.store(commands, Relaxed);
    client
        .input_bytes
        .store(input.len() - batch.consumed(), Relaxed);
}
