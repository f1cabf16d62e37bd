//! The server as a running script sees it: `redis.call` and related functions.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use damselfly_base::CommandError;
use damselfly_commands::{Args, Group, OwnedArgs, Run, Stop};
use damselfly_engine::Tx;
use damselfly_log::Targets;
use damselfly_protocol::{Reply, Span, Version};
use damselfly_script::{CallOutcome, Host, LogLevel, Tick};

use super::locks::{LockMode, MissingLock};
use super::run::Job;
use super::slow::{Kind, Listed};
use super::{Scratch, ScriptRunner};
use crate::dispatch::{Dispatcher, touches_keys};
use crate::gate::Reasons;
use crate::observers::monitor;
use crate::registry::{Handler, REGISTRY, Row, SessionFn};
use crate::session::{Context, Session};
use crate::shared::Shared;
use crate::threads::Thread;
use crate::users;

/// Limits on the calls held back, and on the bytes held back for them. At a limit all are released, even if the script can still be
/// rolled back.
const CALLS_HELD_BACK_MAX: usize = 1024;
const BYTES_HELD_BACK_MAX: usize = 1 << 20;

/// The shortest interval between turns of other clients while a script is slow.
const TURN_INTERVAL_IF_SLOW: Duration = Duration::from_millis(1);

/// How often other clients of the thread have a turn before a script is slow, so that clients that need none of its locks do not wait
/// for it.
const TURN_INTERVAL: Duration = Duration::from_millis(10);

/// Effects of a script's calls that become visible only if the script is not rolled back.
#[derive(Default)]
pub(super) struct HeldBack {
    calls: Vec<Call>,
    refused: Vec<Refusal>,
    /// Lines for clients in MONITOR mode.
    lines: Vec<u8>,
    logged: Vec<(log::Level, String)>,
    /// The bytes of log texts and of the arguments of slow calls.
    bytes: usize,
}

/// A command that a script has called.
struct Call {
    row: &'static Row,
    took_ns: u64,
    failed: Option<CommandError>,
    /// The arguments, kept only if the call was slow.
    args: Option<OwnedArgs>,
}

/// The server side of a running script.
pub(super) struct ScriptHost<'h, 't> {
    pub runner: &'h mut dyn ScriptRunner,
    pub shared: &'h Shared,
    pub session: &'h mut Session,
    pub tx: &'h mut Tx<'t>,
    pub scratch: &'h mut Scratch,
    pub lock_mode: LockMode<'h>,
    /// Set if the script must be rolled back: the lock that it failed to get.
    pub missing: Option<MissingLock>,
    /// The database that the script has selected.
    pub db: usize,
    pub is_read_only: bool,
    /// Commands that need memory may run even when memory is short.
    pub allows_oom: bool,
    /// The script has called a command that writes.
    pub has_written: bool,
    /// The keys that the script has read, if the client tracks keys.
    pub read_keys: Option<HashSet<Box<[u8]>>>,
    /// Memory was short when the script began.
    pub memory_is_short: bool,
    pub timing: Timing<'h>,
    pub job: &'h Job<'h>,
}

/// How long a script has run.
pub(super) struct Timing<'t> {
    /// When it began, in ticks of the dispatcher's clock.
    started: u64,
    /// `busy-reply-threshold`; `None` if scripts never count as slow.
    threshold: Option<Duration>,
    /// When other clients had their last turn, or when the script began if they have had none, on the same clock.
    last_turn: u64,
    slow: Option<Listed<'t>>,
}

impl Timing<'_> {
    /// The timing of a script that begins now.
    pub fn begin(dispatcher: &Dispatcher) -> Self {
        let threshold_ms = dispatcher.config.busy_reply_threshold_ms;
        let started = dispatcher.clock.raw();
        Self {
            started,
            threshold: (threshold_ms > 0).then(|| Duration::from_millis(threshold_ms)),
            last_turn: started,
            slow: None,
        }
    }
}

/// A command that may not run, and the error that says why.
struct Refusal {
    row: Option<&'static Row>,
    error: CommandError,
}

impl Host for ScriptHost<'_, '_> {
    fn call(&mut self, arguments: &[&[u8]], version: Version, reply: &mut Vec<u8>) -> CallOutcome {
        let (mut bytes, mut spans) = (
            std::mem::take(&mut self.scratch.bytes),
            std::mem::take(&mut self.scratch.spans),
        );
        for argument in arguments {
            spans.push(Span {
                start: bytes.len(),
                len: argument.len(),
            });
            bytes.extend_from_slice(argument);
        }
        let args = Args::new(&bytes, &spans, None);
        let called = self.call_with(args, &mut Reply::new(reply, version));
        keep(&mut bytes, &mut self.scratch.bytes);
        keep(&mut spans, &mut self.scratch.spans);
        called
    }

    fn tick(&mut self) -> Tick {
        self.look_at_clock();
        self.serve_others_if_due();
        match self.ending() {
            Some(text) => Tick::Kill(text),
            None => Tick::Continue,
        }
    }

    fn log(&mut self, level: LogLevel, text: &[u8]) {
        let level = match level {
            LogLevel::Debug => log::Level::Trace,
            LogLevel::Verbose => log::Level::Debug,
            LogLevel::Notice => log::Level::Info,
            LogLevel::Warning => log::Level::Warn,
        };
        let text = String::from_utf8_lossy(text).into_owned();
        self.scratch.held_back.bytes += text.len();
        self.scratch.held_back.logged.push((level, text));
        self.release_effects_unless_revocable();
    }

    fn is_allowed(&mut self, arguments: &[&[u8]]) -> Option<bool> {
        let mut row = REGISTRY.find(arguments.first()?)?;
        if let Some(name) = arguments.get(1)
            && !row.subcommands.is_empty()
        {
            row = REGISTRY.find_subcommand(row, name)?;
        }
        let args = OwnedArgs::copy(arguments.iter().copied());
        let users = &self.shared.users;
        Some(self.session.login.allows(users, row, args.borrow()))
    }

    fn set_replication(&mut self, targets: u8) {
        self.tx.set_log_targets(Targets::from_bits(targets));
    }
}

/// Puts a buffer back into its place, emptied, unless it is unusually large.
fn keep<T>(buffer: &mut Vec<T>, place: &mut Vec<T>) {
    const KEPT_BYTES_MAX: usize = 64 << 10;
    if buffer.capacity() * size_of::<T>() <= KEPT_BYTES_MAX {
        buffer.clear();
        *place = std::mem::take(buffer);
    }
}

impl ScriptHost<'_, '_> {
    fn call_with(&mut self, args: Args<'_>, reply: &mut Reply<'_>) -> CallOutcome {
        let row = match self.allowed(args) {
            Ok(row) => row,
            Err(refusal) => {
                reply.error(refusal.error.to_bytes());
                self.scratch.held_back.refused.push(refusal);
                self.release_effects_unless_revocable();
                return CallOutcome::Replied;
            }
        };
        if row.writes && !self.has_written {
            self.has_written = true;
            let slow = self.timing.slow.as_ref().map(|listed| &listed.slow);
            if slow.is_some_and(|slow| !slow.begin_writing())
                && let Some(text) = self.ending()
            {
                return CallOutcome::Kill(text);
            }
        }
        if let Some(read_keys) = &mut self.read_keys
            && row.only_reads
        {
            let places = row.command.key_places(args);
            read_keys.extend(places.map(|place| args.at(place).into()));
        }
        let started = self.runner.dispatcher().clock.raw();
        match self.run(row, args, reply) {
            Ok(failed) => self.note_call(row, args, started, failed),
            Err(missing) => {
                self.missing = Some(missing);
                CallOutcome::Abort
            }
        }
    }

    /// Records a call, and serves other clients if the script has run for long.
    fn note_call(
        &mut self,
        row: &'static Row,
        args: Args<'_>,
        started: u64,
        failed: Option<CommandError>,
    ) -> CallOutcome {
        let dispatcher = self.runner.dispatcher();
        let ended = dispatcher.clock.raw();
        let took_ns = dispatcher.clock.delta_as_nanos(started, ended);
        let ran_ns = dispatcher.clock.delta_as_nanos(self.timing.started, ended);
        let is_slow = dispatcher.is_slow(took_ns);
        let is_monitored = dispatcher.shared.monitors.load(Relaxed) > 0;
        let held_back = &mut self.scratch.held_back;
        if is_slow {
            held_back.bytes += args.from(0).map(<[u8]>::len).sum::<usize>();
        }
        held_back.calls.push(Call {
            row,
            took_ns,
            failed,
            args: is_slow.then(|| args.to_owned()),
        });
        if is_monitored {
            monitor::show_called(&mut held_back.lines, self.db, row, args);
        }
        self.release_effects_unless_revocable();
        let threshold = self.timing.threshold.unwrap_or(TURN_INTERVAL);
        if u128::from(ran_ns) > threshold.min(TURN_INTERVAL).as_nanos() {
            self.look_at_clock();
            self.serve_others_if_due();
        }
        // Needed even without a threshold, because the server may be shutting down.
        match self.ending() {
            Some(text) => CallOutcome::Kill(text),
            None => CallOutcome::Replied,
        }
    }

    fn release_effects_unless_revocable(&mut self) {
        let held_back = &self.scratch.held_back;
        let count = held_back.calls.len() + held_back.refused.len() + held_back.logged.len();
        let bytes = held_back.bytes + held_back.lines.len();
        match self.lock_mode {
            LockMode::Revocable if count < CALLS_HELD_BACK_MAX && bytes < BYTES_HELD_BACK_MAX => {}
            LockMode::Revocable | LockMode::Irrevocable { .. } | LockMode::Whole => {
                self.release_effects()
            }
        }
    }

    /// Releases the effects held back: counts them, and passes them on to MONITOR and the log.
    pub fn release_effects(&mut self) {
        let held_back = &mut self.scratch.held_back;
        held_back.bytes = 0;
        let dispatcher = self.runner.dispatcher();
        for call in held_back.calls.drain(..) {
            let args = call.args.as_ref().map(OwnedArgs::borrow);
            let args = args.unwrap_or(Args::new(&[], &[], None));
            dispatcher.account_for(self.session, call.row, args, call.took_ns, call.failed);
        }
        for refusal in held_back.refused.drain(..) {
            let counters = dispatcher.counters();
            if let Some(row) = refusal.row {
                counters.commands[row.index].rejected.add(1);
            }
            counters.count_error(&refusal.error.to_bytes());
        }
        dispatcher.monitored.append(&mut held_back.lines);
        for (level, text) in held_back.logged.drain(..) {
            log::log!(level, "{text}");
        }
    }

    /// Discards the effects held back, because the script is rolled back.
    pub fn forget(&mut self) {
        let held_back = &mut self.scratch.held_back;
        held_back.calls.clear();
        held_back.refused.clear();
        held_back.lines.clear();
        held_back.logged.clear();
        held_back.bytes = 0;
    }

    /// True if the script counts as slow.
    pub fn is_slow(&self) -> bool {
        self.timing.slow.is_some()
    }

    /// Adds the script to the list of slow scripts once it has run for longer than the threshold.
    pub fn look_at_clock(&mut self) {
        let clock = &self.runner.dispatcher().clock;
        let elapsed = Duration::from_nanos(clock.delta_as_nanos(self.timing.started, clock.raw()));
        let is_late = |threshold| elapsed > threshold;
        if self.is_slow() || !self.timing.threshold.is_some_and(is_late) {
            return;
        }
        let now = Instant::now();
        let slow = Arc::new(self.job.slow(now.checked_sub(elapsed).unwrap_or(now)));
        if self.has_written {
            slow.begin_writing();
        }
        slow.set_locks(self.tx.locked_shards());
        log::warn!(
            "Slow script detected: still in execution after {} milliseconds. You can try killing the script using the {} command. Script name is: {}.",
            elapsed.as_millis(),
            match slow.kind {
                Kind::Script => "SCRIPT KILL",
                Kind::Function => "FUNCTION KILL",
            },
            slow.name
        );
        self.timing.slow = Some(Listed::new(&self.shared.scripts, slow));
        self.runner.dispatcher().scripts.is_slow = true;
        // Wakes clients that wait for its locks: they now get the error BUSY.
        self.shared.threads.iter().for_each(Thread::wake);
        self.shared.long.recheck_shards();
    }

    /// Updates the list of locks that a slow script holds, so that clients that need one of them get the error BUSY.
    pub fn note_locks(&self) {
        if let Some(listed) = &self.timing.slow {
            listed.slow.set_locks(self.tx.locked_shards());
        }
    }

    /// Serves other clients for one turn; waits up to `wait` for one of them.
    pub fn serve_others(&mut self, wait: Duration) {
        // Pending lines must be sent first, or they would be attributed to commands of the other clients.
        self.runner
            .dispatcher()
            .send_monitored(self.session.client.id);
        self.runner.serve_others(wait);
    }

    /// Serves other clients if their last turn was long enough ago.
    pub fn serve_others_if_due(&mut self) {
        let interval = match self.is_slow() {
            true => TURN_INTERVAL_IF_SLOW,
            false => TURN_INTERVAL,
        };
        let clock = &self.runner.dispatcher().clock;
        let since_ns = clock.delta_as_nanos(self.timing.last_turn, clock.raw());
        if u128::from(since_ns) > interval.as_nanos() {
            self.serve_others(Duration::ZERO);
            self.timing.last_turn = self.runner.dispatcher().clock.raw();
        }
    }

    /// The error that ends the script, if it was killed or the server stops.
    fn ending(&self) -> Option<&'static str> {
        let ends = self.shared.stopping.load(Relaxed)
            // Once it or its transaction has changed a key, ending it would leave something half done in the final save.
            || self.shared.ending.load(Relaxed) && self.tx.effects().changes == 0;
        if ends {
            return Some("ERR The server is shutting down");
        }
        let slow = &self.timing.slow.as_ref()?.slow;
        slow.is_killed().then_some(match slow.kind {
            Kind::Script => "ERR Script killed by user with SCRIPT KILL...",
            Kind::Function => "ERR Script killed by user with FUNCTION KILL...",
        })
    }

    /// The row of a command, if the script may run it now.
    fn allowed(&mut self, args: Args<'_>) -> Result<&'static Row, Refusal> {
        let unknown = || Refusal {
            row: None,
            error: CommandError::err("Unknown Redis command called from script"),
        };
        let mut row = REGISTRY.find(args.at(0)).ok_or_else(unknown)?;
        if !row.subcommands.is_empty() && args.len() > 1 {
            row = REGISTRY
                .find_subcommand(row, args.at(1))
                .ok_or_else(unknown)?;
        }
        match self.refusal(row, args) {
            None => Ok(row),
            Some(error) => Err(Refusal {
                row: Some(row),
                error,
            }),
        }
    }

    fn refusal(&mut self, row: &'static Row, args: Args<'_>) -> Option<CommandError> {
        let is_container = matches!(row.command.run, Run::Subcommands(_));
        if is_container || !row.command.arity.allows(args.len()) {
            return Some(CommandError::err(
                "Wrong number of args calling Redis command from script",
            ));
        }
        if row.not_in_scripts && !self.allows_denied(row) {
            return Some(CommandError::err(
                "This Redis command is not allowed from script",
            ));
        }
        if self.session.client.is_primary {
            // It repeats what has run before.
            return None;
        }
        if !self.session.login.has_all_rights(&self.shared.users) {
            let refusal = self.refusal_of_user(row, args);
            if refusal.is_some() {
                return refusal;
            }
        }
        if row.writes && self.is_read_only {
            return Some(CommandError::err(
                "Write commands are not allowed from read-only scripts.",
            ));
        }
        if row.changes_data && !self.shared.gate.holding(Reasons::READ_ONLY).is_empty() {
            return Some(crate::dispatch::read_only());
        }
        if !row
            .refused_while
            .in_common(self.shared.gate.holding(Reasons::STALE))
            .is_empty()
        {
            return Some(CommandError::err(
                "Can not execute the command on a stale replica",
            ));
        }
        // A script that has written may go on, so that nothing is left half done.
        if row.changes_data
            && !self.has_written
            && !self.shared.gate.holding(Reasons::SAVING_FAILED).is_empty()
        {
            return Some(CommandError::SavingFailed);
        }
        if row.changes_data
            && !self.has_written
            && !self.shared.gate.holding(Reasons::LOG_FAILED).is_empty()
        {
            return Some(crate::dispatch::log_failed(self.shared));
        }
        if row.changes_data
            && !self.has_written
            && !self
                .shared
                .gate
                .holding(Reasons::TOO_FEW_REPLICAS)
                .is_empty()
        {
            return Some(crate::dispatch::too_few_replicas());
        }
        if row.needs_memory && !self.allows_oom && !self.has_written && self.memory_is_short {
            return Some(CommandError::OutOfMemory);
        }
        None
    }

    /// The error if the user who runs the script may not run the command.
    fn refusal_of_user(&mut self, row: &'static Row, args: Args<'_>) -> Option<CommandError> {
        let Session { login, client, .. } = &mut *self.session;
        match login.check(self.shared, client, (row, args), users::Context::Lua) {
            Err(denied) => Some(users::refusal_in_script(denied)),
            Ok(()) => login.refused_patterns(&self.shared.users, row, args),
        }
    }

    /// True if scripts may call an otherwise denied command, for tests.
    #[cold]
    fn allows_denied(&self, row: &Row) -> bool {
        let group = row.command.group;
        let takes_no_locks = matches!(group, Group::Server | Group::Connection | Group::Cluster);
        takes_no_locks && self.shared.scripts.allows_denied.load(Relaxed)
    }

    /// Runs a command and writes its reply. If the reply is an error, returns that error, too.
    fn run(
        &mut self,
        row: &'static Row,
        args: Args<'_>,
        reply: &mut Reply<'_>,
    ) -> Result<Option<CommandError>, MissingLock> {
        let handler = match row.command.run {
            Run::Run(handler) | Run::Either(handler, _) => handler,
            Run::Subcommands(_) => unreachable!("{} was refused", row.name),
        };
        self.tx.set_db(self.db);
        self.lock_shards(row, handler, args)?;
        let result = match handler {
            Handler::Keyspace(run) => {
                self.tx.set_touches(touches_keys(self.session, row));
                damselfly_commands::run(run, self.tx, args, reply)
            }
            Handler::Session(run) => {
                let result = self.run_session(run, args, reply);
                if row.sends_messages && result.is_ok() {
                    self.tx.log_message(args.from(0));
                }
                result
            }
            Handler::Help => {
                REGISTRY.write_help(row, reply);
                Ok(())
            }
            Handler::Dispatch(_) | Handler::Script(_) | Handler::Memcached(_) => {
                unreachable!("{} is not allowed in scripts", row.name)
            }
        };
        match result {
            Ok(()) => {}
            Err(Stop::SlicedReply(rest)) => rest.write_all(reply),
            Err(Stop::Wait(wait)) => {
                reply.truncate_to(0);
                (wait.nothing)(reply);
            }
            Err(Stop::Error(error)) => {
                reply.truncate_to(0);
                reply.error(error.to_bytes());
                return Ok(Some(error));
            }
            Err(Stop::Busy(busy)) if matches!(self.lock_mode, LockMode::Revocable) => {
                return Err(MissingLock::Shard(busy.shard));
            }
            Err(Stop::Busy(_) | Stop::NeedsAllLocks) => {
                let is_whole = matches!(self.lock_mode, LockMode::Whole);
                assert!(!is_whole, "{} needs more than all locks", row.name);
                self.lock_all_shards()?;
                return self.run(row, args, reply);
            }
            Err(Stop::Long | Stop::LongUnlocked(_) | Stop::LogBehind) => {
                unreachable!("no other client waits for a script's section")
            }
        }
        Ok(None)
    }

    /// Runs a command of the session. A database that it selects stays selected only for the rest of the script.
    fn run_session(
        &mut self,
        run: SessionFn,
        args: Args<'_>,
        reply: &mut Reply<'_>,
    ) -> damselfly_commands::Result {
        let dispatcher = self.runner.dispatcher();
        let own_db = self.session.db;
        self.session.db = self.db;
        match self.lock_mode {
            // Published messages can't be rolled back.
            LockMode::Revocable => {}
            // Pending events come before the messages that the command itself publishes.
            LockMode::Irrevocable { .. } | LockMode::Whole => self.tx.publish_events(),
        }
        let mut context = Context {
            shared: &dispatcher.shared,
            config: &dispatcher.config,
            counters: dispatcher.counters(),
            now: self.tx.now(),
            is_time_frozen: true,
            lent: self.tx.holds_all().then(|| self.tx.lend()),
            session: self.session,
            thread: dispatcher.thread,
        };
        let result = run(&mut context, args, reply);
        drop(context);
        self.db = self.session.db;
        self.session.select(own_db);
        result
    }
}
