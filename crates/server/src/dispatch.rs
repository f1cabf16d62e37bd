//! From requests to replies: the hot path.
//!
//! ```text
//! batch ─► command rows, hashes, prefetched shards ─► prefetched buckets ─► prefetched entries ─► run, one by one
//! ```
//!
//! The memory that a batch will touch is fetched while the batch is still being prepared, so
//! that its cache misses overlap.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use damselfly_base::CommandError;
use damselfly_commands::{Args, Run, Stop};
use damselfly_engine::{Busy, Effects, Engine, Now, Tx, Unserved};
use damselfly_protocol::Reply;

use crate::config::Config;
use crate::connection::{Batch, Connection, OUTPUT_PAUSE_BYTES, Request, Stall};
use crate::long::LongCommand;
use crate::parked::{End, Parking};
use crate::registry::{Handler, Locks, REGISTRY, Registry, Row, WithinMulti};
use crate::session::slowlog::{SlowCommand, shortened};
use crate::session::transaction::SpareQueues;
use crate::session::{self, Context, Replies, Session, monitor, transaction};
use crate::shared::{self, Shared};
use crate::statistics::ThreadCounters;

/// How much of a long reply is written at once, in bytes.
const REST_SLICE_BYTES: usize = 128 << 10;

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
    pub(crate) batch: u64,
    /// For transactions that begin.
    pub(crate) spare_queues: SpareQueues,
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
        }
    }

    /// Runs the requests of `batch` until they are done or the connection stalls. `input` are the
    /// bytes they were parsed from.
    pub fn run(&mut self, connection: &mut Connection, batch: &mut Batch, input: &[u8]) {
        self.run_batch(connection, batch, input);
        if !self.monitored.is_empty() {
            monitor::send(&self.shared, &self.monitored, connection.session.client.id);
            self.monitored.clear();
        }
    }

    fn run_batch(&mut self, connection: &mut Connection, batch: &mut Batch, input: &[u8]) {
        let now = Now(shared::now_ms());
        self.batch += 1;
        self.prepare(batch, input, connection.session.db);
        note_arrival(&connection.session, batch, input, now);
        let mut started = self.clock.raw();
        while let Some(request) = batch.requests.get(batch.next) {
            if connection.unsent() > OUTPUT_PAUSE_BYTES {
                connection.stall = Some(Stall::Output);
                return;
            }
            let spans = &batch.spans[request.first_span..request.first_span + request.spans];
            let (place, hash) = (first_key_place(request), request.hash);
            let args = Args::new(
                &input[request.start..],
                spans,
                place.map(|place| (place, hash)),
            );
            connection.stall = self.run_request(connection, request.row, args, now, &mut started);
            match connection.stall {
                None => batch.next += 1,
                // Its reply is all that is missing.
                Some(Stall::Waiting | Stall::Long | Stall::Rest) => {
                    batch.next += 1;
                    return;
                }
                Some(Stall::Shard(_) | Stall::Paused(_) | Stall::Sleeping(_) | Stall::Output) => {
                    return;
                }
            }
            if connection.session.closing {
                return;
            }
            if let Some(until) = connection.session.sleeps_until {
                connection.stall = Some(Stall::Sleeping(until));
                return;
            }
        }
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
    ) -> Option<Stall> {
        let session = &mut connection.session;
        let mut reply = Reply::new(&mut connection.output, session.protocol);
        let mut mark = reply.position();
        if session.replies == Replies::SkipNext {
            session.replies = Replies::SkipThis;
        }
        let mut failed = None;
        match self.checked(session, row, args) {
            Err(error) => {
                session.transaction.fail();
                reply.error(error.to_bytes());
                self.counters().count_error(&error.to_bytes());
                if self.shared.monitors.load(Relaxed) > 0
                    && let Some(row) = row
                    && row.within_multi == WithinMulti::Executes
                {
                    monitor::show(&mut self.monitored, session, row, args, &mut reply);
                }
            }
            Ok(row) => {
                session.client.last_command.store(row.index + 1, Relaxed);
                let is_exec = row.within_multi == WithinMulti::Executes;
                let writes = row.writes || is_exec && session.transaction.writes();
                if let Some(hold) = self.shared.pause.holds(writes, now.0)
                    && !session::client::runs_while_paused(session, row)
                {
                    return Some(Stall::Paused(hold));
                }
                if session.transaction.is_open() && row.within_multi == WithinMulti::Queued {
                    session.transaction.push(row, args, &session.client);
                    reply.simple("QUEUED");
                    hold_back(session, &mut reply, mark);
                    return None;
                }
                match self.execute(session, row, args, now, &mut reply) {
                    // EXEC holds back itself, since it may run CLIENT REPLY.
                    Ok(()) if is_exec => mark = reply.position(),
                    Ok(()) => {}
                    Err(Stop::NeedsAllLocks) => unreachable!("all locks are enough"),
                    Err(Stop::Busy(busy)) => {
                        reply.truncate_to(mark);
                        return Some(Stall::Shard(busy));
                    }
                    Err(Stop::Error(error)) => {
                        reply.truncate_to(mark);
                        reply.error(error.to_bytes());
                        failed = Some(error);
                    }
                    Err(stop @ (Stop::Wait(_) | Stop::Long)) => {
                        reply.truncate_to(mark);
                        if self.shared.monitors.load(Relaxed) > 0 {
                            monitor::show(&mut self.monitored, session, row, args, &mut reply);
                        }
                        return Some(match stop {
                            Stop::Long => Stall::Long,
                            _ => self.park(session, started),
                        });
                    }
                    Err(Stop::Rest(rest)) => session.rest = Some(rest),
                }
                self.account(session, row, args, started, failed);
                if self.shared.monitors.load(Relaxed) > 0 {
                    monitor::show(&mut self.monitored, session, row, args, &mut reply);
                }
            }
        }
        hold_back(session, &mut reply, mark);
        session.rest.is_some().then_some(Stall::Rest)
    }

    /// Notes how long a command ran that waits now.
    #[cold]
    fn park(&self, session: &mut Session, started: &mut u64) -> Stall {
        let ended = self.clock.raw();
        if let Some(parking) = &mut session.parking {
            parking.took_ns = self.clock.delta_as_nanos(*started, ended);
        }
        *started = ended;
        Stall::Waiting
    }

    /// Writes the reply to a command that waited.
    pub fn unpark(&self, connection: &mut Connection, end: End) {
        connection.stall = None;
        let session = &mut connection.session;
        let Some(parking) = session.parking.take() else {
            return;
        };
        parking.leave();
        let mut reply = Reply::new(&mut connection.output, session.protocol);
        let mark = reply.position();
        let failed = end.write(&mut reply);
        hold_back(session, &mut reply, mark);
        let counters = self.counters();
        let command = &counters.commands[parking.row.index];
        command.record(parking.took_ns, self.config.latency_tracking);
        if let Some(error) = failed {
            command.failed.add(1);
            counters.count_error(&error.to_bytes());
        }
    }

    /// Writes the reply of a command that ran elsewhere, if it has; false if it failed by a bug.
    pub fn end_long(&self, connection: &mut Connection) -> bool {
        let session = &mut connection.session;
        let Some(command) = &session.long else {
            return true;
        };
        let Some(outcome) = command.take_outcome() else {
            return !command.panicked.load(Relaxed);
        };
        let command = command.clone();
        (session.long, session.rest, connection.stall) = (None, outcome.rest, None);
        let mut reply = Reply::new(&mut connection.output, session.protocol);
        let mark = reply.position();
        reply.raw(&outcome.reply);
        count_effects(self.counters(), outcome.effects);
        let args = command.args.borrow();
        self.account_for(session, command.row, args, outcome.took_ns, outcome.failed);
        hold_back(session, &mut reply, mark);
        connection.stall = session.rest.is_some().then_some(Stall::Rest);
        true
    }

    /// Writes a slice of a reply; the connection goes on when that was the last.
    pub fn write_rest(&self, connection: &mut Connection) {
        let session = &mut connection.session;
        let mut reply = Reply::new(&mut connection.output, session.protocol);
        if let Some(rest) = &mut session.rest
            && rest.write(&mut reply, REST_SLICE_BYTES)
        {
            return;
        }
        session.rest = None;
        connection.stall = None;
    }

    /// Serves waiters that could not be served when their keys were changed, if what they need is free now.
    pub fn serve_unserved(&mut self) {
        if !self.unserved.is_empty() {
            self.serve_unserved_now();
        }
    }

    #[cold]
    fn serve_unserved_now(&mut self) {
        let engine = &self.shared.engine;
        let mut left = std::mem::take(&mut self.unserved);
        while let Some(unserved) = left.pop() {
            match engine.serve_waiters(&unserved, Now(shared::now_ms())) {
                Ok(further) => left.extend(further),
                // Became free in between: there may be no release to wait for.
                Err(busy) if engine.wait(busy, self.thread) => left.push(unserved),
                Err(_) => self.unserved.push(unserved),
            }
        }
    }

    /// Counts a call, and notes it where it is to be noted.
    #[inline]
    pub(crate) fn account(
        &self,
        session: &Session,
        row: &'static Row,
        args: Args<'_>,
        started: &mut u64,
        failed: Option<CommandError>,
    ) {
        let ended = self.clock.raw();
        let mut took_ns = self.clock.delta_as_nanos(*started, ended);
        *started = ended;
        if let Some(until) = session.sleeps_until {
            // DEBUG SLEEP stands for a command that takes that long.
            took_ns += until.saturating_duration_since(Instant::now()).as_nanos() as u64;
        }
        self.account_for(session, row, args, took_ns, failed);
    }

    /// As `account`, for a command that took so long.
    #[inline]
    fn account_for(
        &self,
        session: &Session,
        row: &'static Row,
        args: Args<'_>,
        took_ns: u64,
        failed: Option<CommandError>,
    ) {
        let counters = self.counters();
        let command = &counters.commands[row.index];
        command.record(took_ns, self.config.latency_tracking);
        if let Some(error) = failed {
            command.failed.add(1);
            counters.count_error(&error.to_bytes());
        }
        let slower_than_us = self.config.slowlog_log_slower_than_us;
        if slower_than_us >= 0 && took_ns / 1000 >= slower_than_us.unsigned_abs() {
            self.note_slow(session, row, args, took_ns / 1000);
        }
        let threshold_ms = self.config.latency_monitor_threshold_ms;
        if threshold_ms > 0 && took_ns / 1_000_000 >= threshold_ms {
            let event = if row.command.has(damselfly_commands::Trait::Fast) {
                "fast-command"
            } else {
                "command"
            };
            self.shared
                .latency
                .add(event, shared::now_ms() / 1000, took_ns / 1_000_000);
        }
    }

    #[cold]
    fn note_slow(&self, session: &Session, row: &Row, args: Args<'_>, took_us: u64) {
        if row.command.has(damselfly_commands::Trait::SkipSlowlog) {
            return;
        }
        let all = monitor::without_secrets(row, args);
        let command = SlowCommand {
            id: 0,
            at_s: shared::now_ms() / 1000,
            took_us,
            args: shortened(all.into_iter()),
            address: session.client.address.clone(),
            name: session.client.names().name.clone(),
        };
        let len_max = usize::try_from(self.config.slowlog_max_len).unwrap_or(usize::MAX);
        self.shared.slowlog.add(command, len_max);
    }

    /// The row to run, or why the request is refused before it runs.
    #[inline]
    fn checked(
        &self,
        session: &mut Session,
        row: Option<&'static Row>,
        args: Args<'_>,
    ) -> Result<&'static Row, CommandError> {
        let Some(mut row) = row else {
            return Err(unknown_command(session, args));
        };
        if !row.subcommands.is_empty() && args.len() > 1 {
            row = self
                .registry
                .find_subcommand(row, args.at(1))
                .ok_or_else(|| unknown_subcommand(row, args.at(1)))?;
        }
        let refused = self.refusal(session, row, args);
        match refused {
            None => Ok(row),
            Some(error) => {
                self.counters().commands[row.index].rejected.add(1);
                Err(match row.within_multi {
                    WithinMulti::Executes => {
                        transaction::abort(session, &self.shared.engine, &error)
                    }
                    WithinMulti::Queued
                    | WithinMulti::Refused
                    | WithinMulti::Runs
                    | WithinMulti::Leaves => error,
                })
            }
        }
    }

    #[inline]
    fn refusal(&self, session: &Session, row: &Row, args: Args<'_>) -> Option<CommandError> {
        if !row.command.arity.allows(args.len()) {
            return Some(CommandError::Arity(row.name.clone()));
        }
        if row.protected
            && !self
                .config
                .enable_debug_command
                .permits(session.client.origin)
        {
            return Some(CommandError::err(format!(
                "{} command not allowed. If the enable-debug-command option is set to \"local\", you can run it from a local connection, otherwise you need to set this option in the configuration file, and then restart the server.",
                row.name
                    .split('|')
                    .next()
                    .unwrap_or_default()
                    .to_uppercase()
            )));
        }
        if !session.authenticated && !row.no_auth && !self.config.requirepass.is_empty() {
            return Some(CommandError::Text(String::from(
                "NOAUTH Authentication required.",
            )));
        }
        if session.transaction.is_open() {
            let refusal = session.transaction.refusal(row, || self.is_memory_short());
            if refusal.is_some() {
                return refusal;
            }
        }
        if session.client.monitor.load(Relaxed) && monitor::is_refused(row) {
            return Some(CommandError::err(
                "Replica can't interact with the keyspace",
            ));
        }
        if row.needs_memory && self.is_memory_short() {
            return Some(CommandError::OutOfMemory);
        }
        None
    }

    fn is_memory_short(&self) -> bool {
        let limit = self.config.maxmemory_bytes;
        limit > 0 && damselfly_base::heap::used_bytes() as u64 > limit
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
                result
            }
            Handler::Dispatch(run) => run(self, session, args, now, reply),
            Handler::Help => {
                self.registry.write_help(row, reply);
                Ok(())
            }
            Handler::Keyspace(run) => {
                let mut tx = lock(engine, row, args, db, now, &mut self.shards)?;
                tx.let_others_wait();
                tx.set_touches(!leaves_no_trace(session, row));
                let mut result = run(&mut tx, args, reply);
                if let Err(Stop::NeedsAllLocks) = result {
                    drop(tx);
                    tx = engine.lock_all(db, now)?;
                    tx.let_others_wait();
                    result = run(&mut tx, args, reply);
                }
                if let Err(Stop::Long) = result {
                    drop(tx);
                    let command = LongCommand::new(session, row, run, args.to_owned());
                    let command = Arc::new(command);
                    session.long = Some(command.clone());
                    self.shared.long.add(command);
                    return result;
                }
                if let Err(Stop::Wait(wait)) = &result {
                    let parking = Parking::new(&self.shared, session, row, args, wait, &mut tx);
                    session.parking = Some(parking);
                }
                if tx.has_ready() {
                    self.unserved.extend(tx.serve_waiters());
                }
                count_effects(&self.shared.threads[self.thread].counters, tx.effects());
                drop(tx);
                self.serve_unserved();
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

#[inline]
pub(crate) fn count_effects(counters: &ThreadCounters, effects: Effects) {
    if effects.hits > 0 {
        counters.hits.add(effects.hits);
    }
    if effects.misses > 0 {
        counters.misses.add(effects.misses);
    }
    if effects.changes > 0 {
        counters.changes.add(effects.changes);
    }
}

/// The argument that is the only key of a request, if its command has one there.
#[inline]
fn first_key_place(request: &Request) -> Option<usize> {
    match request.row?.locks {
        Locks::One(place) => Some(place).filter(|&place| place < request.spans),
        Locks::None | Locks::Many | Locks::All => None,
    }
}

#[cold]
fn unknown_command(session: &mut Session, args: Args<'_>) -> CommandError {
    /// Redis shows at most this many bytes of the name, and about as many of the arguments.
    const SHOWN_BYTES_MAX: usize = 128;
    let name = args.at(0);
    if [b"post".as_slice(), b"host:"]
        .iter()
        .any(|word| name.eq_ignore_ascii_case(word))
    {
        log::warn!(
            "Possible SECURITY ATTACK detected. It looks like somebody is sending POST or Host: commands to Damselfly. This is likely due to an attacker attempting to use Cross Protocol Scripting to compromise your instance. Connection from {} aborted.",
            session.client.address
        );
        session.closing = true;
    }
    let mut listed = Vec::new();
    for arg in args.from(1) {
        if listed.len() >= SHOWN_BYTES_MAX {
            break;
        }
        let room = SHOWN_BYTES_MAX - listed.len();
        listed.extend_from_slice(b"'");
        listed.extend_from_slice(c_text(arg, room));
        listed.extend_from_slice(b"' ");
    }
    let name = c_text(name, SHOWN_BYTES_MAX);
    CommandError::quoting(
        "unknown command '",
        &[name, b"', with args beginning with: ", &listed].concat(),
        "",
    )
}

/// What C would print of these bytes: up to the first zero byte, and `bytes_max` at most.
fn c_text(bytes: &[u8], bytes_max: usize) -> &[u8] {
    let shown = &bytes[..bytes.len().min(bytes_max)];
    shown.split(|&byte| byte == 0).next().unwrap_or_default()
}

#[cold]
fn unknown_subcommand(container: &Row, name: &[u8]) -> CommandError {
    const SHOWN_BYTES_MAX: usize = 128;
    let container = format!("'. Try {} HELP.", container.command.name);
    CommandError::quoting(
        "unknown subcommand '",
        &[c_text(name, SHOWN_BYTES_MAX), container.as_bytes()].concat(),
        "",
    )
}
