//! From requests to replies: the hot path.
//!
//! ```text
//! batch ─► command rows, hashes, prefetched shards ─► prefetched buckets ─► prefetched entries ─► run, one by one
//! ```
//!
//! The memory that a batch will touch is fetched while the batch is still being prepared, so
//! that its cache misses overlap.

mod account;
mod deferred;
pub mod exec;
mod memory_limit;
mod refusal;
mod unknown;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use damselfly_base::CommandError;
use damselfly_commands::{Args, Run, Stop, Trait};
use damselfly_engine::{Busy, Engine, Now, Tx, Unserved};
use damselfly_protocol::Reply;

pub(crate) use self::account::count_effects;
pub use self::deferred::REPLY_SLICE_BYTES;
use self::memory_limit::Memory;
pub use self::memory_limit::{MemoryRoom, excess_bytes, uncounted_bytes};
use crate::blocked::Blocking;
use crate::event_loop::connection::{Connection, OUTPUT_PAUSE_BYTES};
use crate::event_loop::input::{Batch, Request, Stall};
use crate::observers::monitor;
use crate::registry::{Handler, Locks, REGISTRY, Registry, Row, WithinMulti};
use crate::scripts::{self, ThreadScripts};
use crate::session::transaction::{self, SpareQueues};
use crate::session::{self, Context, Replies, Session};
use crate::shared::{self, Shared};
use crate::statistics::ThreadCounters;
use damselfly_config::Config;

/// A command with more arguments than this is a long one, whatever it does with them, if it is about keys and does not wait.
const ARGS_MAX: usize = 1 << 14;

/// How far a batch came.
pub enum BatchEnd {
    /// All its requests ran.
    Done,
    /// The connection can't go on for now.
    Stalled(Stall),
    /// A script is next, or a transaction that has some: the worker runs it itself.
    Script,
    /// The connection is to be closed.
    Closing,
}

/// Why a request was not run to its end.
enum Halt {
    Stall(Stall),
    Script,
}

/// Runs batches, on one thread.
pub struct Dispatcher {
    pub(crate) shared: Arc<Shared>,
    registry: &'static Registry,
    /// The number of this thread.
    pub(crate) thread: usize,
    /// The configuration, as of the start of this turn or the last command that may have changed it.
    pub config: Arc<Config>,
    config_generation: u64,
    pub(crate) clock: quanta::Clock,
    /// Shards of the command that runs.
    pub(crate) shards: Vec<usize>,
    /// What clients that monitor are to be shown of the batch that runs.
    pub(crate) monitored: Vec<u8>,
    /// Changed keys whose waiters could not be served at once.
    pub(crate) unserved: Vec<Unserved>,
    /// The number of the batch that runs.
    batch: u64,
    /// For transactions that begin.
    spare_queues: SpareQueues,
    memory: Memory,
    /// What this thread's scripts use.
    pub scripts: ThreadScripts,
    /// The same as `shared`, but counted by this thread alone: quick to hold on to.
    #[expect(
        clippy::redundant_allocation,
        reason = "its counter is no other thread's"
    )]
    pub(crate) keeper: Arc<Arc<Shared>>,
}

impl Dispatcher {
    /// A dispatcher for the thread of that number.
    pub fn new(shared: Arc<Shared>, thread: usize) -> Self {
        Self {
            registry: &REGISTRY,
            thread,
            config_generation: shared.config_generation(),
            config: shared.config(),
            clock: quanta::Clock::new(),
            shards: Vec::new(),
            monitored: Vec::new(),
            unserved: Vec::new(),
            batch: 0,
            spare_queues: SpareQueues::default(),
            memory: Memory::default(),
            scripts: ThreadScripts::default(),
            keeper: Arc::new(shared.clone()),
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
            self.memory = Memory::default();
        }
    }

    /// Forgets scripts that were flushed.
    pub fn refresh_scripts(&mut self) {
        self.scripts.refresh(&self.shared);
        self.note_scripts();
        if let Some(bytes) = self.scripts.library_bytes() {
            self.counters().vm_functions_bytes.store(bytes, Relaxed);
        }
    }

    /// Lets others know what the interpreter takes.
    pub fn note_scripts(&self) {
        if let Some(bytes) = self.scripts.vm_bytes() {
            self.counters().vm_bytes.store(bytes, Relaxed);
        }
    }

    /// Runs the requests of `batch` until they are done or the connection stalls. `input` are the
    /// bytes they were parsed from.
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

    /// Sends what others have to be shown of the commands of the client `from`.
    #[inline]
    pub fn send_monitored(&mut self, from: u64) {
        if !self.monitored.is_empty() {
            monitor::send(&self.shared, &self.monitored, from);
            self.monitored.clear();
        }
    }

    /// Shows a command that runs a script to clients that monitor, before the commands that the script calls.
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
        let now = Now(shared::now_ms());
        self.batch += 1;
        if !batch.prepared {
            batch.prepared = true;
            self.prepare(batch, input, connection.session.db);
            note_arrival(&connection.session, batch, input, now);
        }
        let mut started = self.clock.raw();
        while let Some(request) = batch.requests.get(batch.next) {
            if connection.unsent() > OUTPUT_PAUSE_BYTES {
                return BatchEnd::Stalled(Stall::Output);
            }
            if let Some(to) = connection.session.congested.take()
                && self.shared.is_congested(self.thread, to)
            {
                connection.session.congested = Some(to);
                return BatchEnd::Stalled(Stall::Congested(to));
            }
            let spans = &batch.spans[request.first_span..request.first_span + request.spans];
            let (place, hash) = (first_key_place(request), request.hash);
            let args = Args::new(
                &input[request.start..],
                spans,
                place.map(|place| (place, hash)),
            );
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
        }
        BatchEnd::Done
    }

    /// Finds commands, hashes keys, and fetches the memory that they will need.
    fn prepare(&self, batch: &mut Batch, input: &[u8], db: usize) {
        for request in &mut batch.requests {
            let spans = &batch.spans[request.first_span..request.first_span + request.spans];
            let input = &input[request.start..];
            request.row = self.registry.find(spans[0].of(input));
            if let Some(place) = first_key_place(request)
                && let Some(span) = spans.get(place)
            {
                request.hash = damselfly_base::hash(span.of(input));
                self.shared.engine.prefetch_shard(request.hash);
            }
        }
        if batch.requests.len() < 2 {
            return;
        }
        let engine = &self.shared.engine;
        for request in &batch.requests {
            if first_key_place(request).is_some() {
                engine.prefetch_bucket(request.hash, db);
            }
        }
        for request in &batch.requests {
            if first_key_place(request).is_some() {
                engine.prefetch_entry(request.hash, db);
            }
        }
    }

    /// Runs one request and writes its reply, unless it can't run now.
    #[inline]
    fn run_request(
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
            Err(_) if row.is_none() && unknown::is_attack(args) => {
                unknown::log_attack(&session.client, now);
                session.closing = true;
                // Nobody should see replies to what else came along.
                connection.output.truncate(connection.sent);
                None
            }
            Err(error) => {
                self.refuse(session, row, args, &error, &mut reply);
                finish(session, row, &mut reply, mark).map(Halt::Stall)
            }
            Ok(row) => {
                session.client.last_command.store(row.index + 1, Relaxed);
                let is_exec = row.within_multi == WithinMulti::Executes;
                let writes = row.writes || is_exec && session.transaction.writes();
                if let Some(hold) = self.shared.pause.holds(writes, now.0)
                    && !crate::admin::client::runs_while_paused(session, row)
                    && !(hold.writes_only && scripts::only_reads(&self.shared, row, args))
                {
                    return Some(Halt::Stall(Stall::Paused(hold)));
                }
                if session.transaction.is_open() && row.within_multi == WithinMulti::Queued {
                    let writes = row.writes
                        && !(row.runs_script && scripts::only_reads(&self.shared, row, args));
                    session.transaction.push(row, args, writes, &session.client);
                    reply.simple("QUEUED");
                    hold_back(session, &mut reply, mark);
                    return None;
                }
                if row.runs_script || is_exec && session.transaction.runs_scripts() {
                    return Some(Halt::Script);
                }
                let result = self.execute(session, row, args, now, &mut reply);
                self.settle(session, (row, args), result, started, &mut reply, mark)
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
        // A script that waited for a lock does not run any more.
        session.script_plan = None;
        reply.error(error.to_bytes());
        self.counters().count_error(&error.to_bytes());
        if self.shared.monitors.load(Relaxed) > 0
            && let Some(row) = row
            && row.within_multi == WithinMulti::Executes
        {
            monitor::show(&mut self.monitored, session, row, args, reply);
        }
    }

    /// What follows from how a request that ran has ended: its reply, which begins at `mark`, is finished, counted and shown.
    #[inline]
    pub fn settle(
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
            // EXEC holds back itself, since it may run CLIENT REPLY.
            Ok(()) if row.within_multi == WithinMulti::Executes => mark = reply.position(),
            Ok(()) => {}
            Err(Stop::NeedsAllLocks) => unreachable!("all locks are enough"),
            Err(Stop::Busy(busy)) => {
                reply.truncate_to(mark);
                let Some(mut error) = self.shared.scripts.busy(busy.shard) else {
                    return Some(Stall::Shard(busy));
                };
                // A slow script has it: nobody should wait for that long.
                if row.within_multi == WithinMulti::Executes {
                    error = transaction::abort(session, &self.shared.engine, &error);
                }
                self.counters().commands[row.index].rejected.add(1);
                self.counters().count_error(&error.to_bytes());
                reply.error(error.to_bytes());
                return finish(session, Some(row), reply, mark);
            }
            Err(Stop::Error(error)) => {
                reply.truncate_to(mark);
                reply.error(error.to_bytes());
                failed = Some(error);
            }
            Err(stop @ (Stop::Wait(_) | Stop::Long)) => {
                reply.truncate_to(mark);
                if self.shared.monitors.load(Relaxed) > 0 {
                    monitor::show(&mut self.monitored, session, row, args, reply);
                }
                let Stop::Wait(_) = stop else {
                    return Some(Stall::Long);
                };
                self.count_waiting(row, started);
                return Some(Stall::Waiting);
            }
            Err(Stop::SlicedReply(rest)) => session.rest = Some(rest),
        }
        self.account(session, row, args, started, failed);
        if self.shared.monitors.load(Relaxed) > 0 {
            monitor::show(&mut self.monitored, session, row, args, reply);
        }
        finish(session, Some(row), reply, mark)
    }

    /// Takes the locks that the row asks for and runs it.
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
            Run::Subcommands(_) => return Err(CommandError::Arity(row.name.clone()).into()),
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
                    lent: None,
                };
                let result = run(&mut context, args, reply);
                drop(context);
                self.refresh_config();
                if let Err(Stop::Long) = result {
                    // The only one that can be long.
                    return self.run_elsewhere(
                        session,
                        row,
                        crate::admin::debug::populate_shards,
                        args,
                    );
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
                if args.len() > ARGS_MAX && !row.command.has(Trait::Blocking) {
                    return self.run_elsewhere(session, row, run, args);
                }
                let mut tx = lock(engine, row, args, db, now, &mut self.shards)?;
                tx.set_others_wait();
                tx.set_touches(!leaves_no_trace(session, row));
                let mut result = run(&mut tx, args, reply);
                if result.is_err() {
                    if let Err(Stop::NeedsAllLocks) = result {
                        drop(tx);
                        tx = engine.lock_all(db, now)?;
                        tx.set_others_wait();
                        tx.set_touches(!leaves_no_trace(session, row));
                        result = run(&mut tx, args, reply);
                    }
                    if let Err(Stop::Long) = result {
                        // It will tell of the keys that are missing; what has ended has ended.
                        tx.discard_events();
                        let has_extras = tx.has_extras();
                        if has_extras {
                            self.unserved.extend(tx.serve_waiters());
                        }
                        drop(tx);
                        if has_extras {
                            self.end_aside(session);
                        }
                        return self.run_elsewhere(session, row, run, args);
                    }
                    if let Err(Stop::Wait(wait)) = &result {
                        let blocking =
                            Blocking::new(&self.shared, session, row, args, wait, &mut tx);
                        session.blocking = Some(blocking);
                    }
                }
                if let Some(tracked) = &session.tracked {
                    tracked.reader(&session.client).note(&mut tx, row, args);
                }
                let has_extras = tx.has_extras();
                if has_extras {
                    self.unserved.extend(tx.serve_waiters());
                }
                count_effects(&self.shared.threads[self.thread].counters, tx.effects());
                drop(tx);
                if has_extras {
                    self.end_aside(session);
                }
                result
            }
        }
    }
}

/// Takes the locks that a row asks for.
#[inline]
pub fn lock<'a>(
    engine: &'a Engine,
    row: &'static Row,
    args: Args<'a>,
    db: usize,
    now: Now,
    shards: &'a mut Vec<usize>,
) -> Result<Tx<'a>, Busy> {
    match row.locks {
        Locks::One(place) => engine.lock_one(args.key(place).hash, db, now),
        Locks::Many => {
            let places = row.command.key_places(args);
            engine.lock_many(places.map(|place| args.key(place).hash), shards, db, now)
        }
        Locks::All => engine.lock_all(db, now),
        Locks::None => Ok(engine.lock_none(db, now)),
    }
}

/// True for a command of a client that wants the age of keys left alone (CLIENT NO-TOUCH).
#[inline]
pub fn leaves_no_trace(session: &Session, row: &Row) -> bool {
    session.client.no_touch.load(Relaxed) && row.name != "touch"
}

/// Ends a reply that begins at `mark`.
#[inline]
fn finish(
    session: &mut Session,
    row: Option<&'static Row>,
    reply: &mut Reply<'_>,
    mark: usize,
) -> Option<Stall> {
    hold_back(session, reply, mark);
    if session.follow_up {
        session::follow_up(session, row, mark, reply);
    }
    session.rest.is_some().then_some(Stall::SlicedReply)
}

/// Removes a reply that the client does not want.
#[inline]
fn hold_back(session: &mut Session, reply: &mut Reply<'_>, mark: usize) {
    match session.replies {
        Replies::On => return,
        Replies::Off | Replies::SkipNext => {}
        Replies::SkipThis => session.replies = Replies::On,
    }
    reply.truncate_to(mark);
    session.rest = None;
}

/// Keeps what other threads see of a client current.
#[inline]
fn note_arrival(session: &Session, batch: &Batch, input: &[u8], now: Now) {
    let client = &session.client;
    let commands = client.commands.load(Relaxed) + batch.requests.len() as u64;
    client.active_ms.store(now.0, Relaxed);
    client.commands.store(commands, Relaxed);
    client
        .input_bytes
        .store(input.len() - batch.consumed(), Relaxed);
}

/// The argument that is the only key of a request, if its command has one there.
#[inline]
fn first_key_place(request: &Request) -> Option<usize> {
    match request.row?.locks {
        Locks::One(place) => Some(place).filter(|&place| place < request.spans),
        Locks::None | Locks::Many | Locks::All => None,
    }
}
