//! What a running script reaches of the server: `redis.call` and its relatives.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use damselfly_base::CommandError;
use damselfly_commands::{Args, Group, OwnedArgs, Run, Stop};
use damselfly_engine::Tx;
use damselfly_protocol::{Reply, Span, Version};
use damselfly_script::{CallOutcome, Host, LogLevel, Tick};

use super::locks::{LockMode, MissingLock};
use super::run::Job;
use super::slow::{Kind, Listed};
use super::{Scratch, ScriptRunner};
use crate::dispatch::{Dispatcher, touches_keys};
use crate::observers::monitor;
use crate::registry::{Handler, REGISTRY, Row, SessionFn};
use crate::session::{Context, Session};
use crate::shared::Shared;
use crate::threads::Thread;

/// While more calls than this are held back, or more bytes of what is to be seen of them, further ones are not.
const CALLS_HELD_BACK_MAX: usize = 1024;
const BYTES_HELD_BACK_MAX: usize = 1 << 20;

/// At most so often other clients have a turn while a script is slow.
const BREATH: Duration = Duration::from_millis(1);

/// When a script has run for as long as this, the other clients of its thread have a turn, and so on until it is slow: those that need
/// none of its locks need not wait for it.
const TURN_INTERVAL: Duration = Duration::from_millis(10);

/// What of a script's calls is to be seen only if it is not undone.
#[derive(Default)]
pub(super) struct HeldBack {
    calls: Vec<Call>,
    refused: Vec<Refusal>,
    /// For clients that monitor.
    lines: Vec<u8>,
    logged: Vec<(log::Level, String)>,
    /// Bytes of the arguments of slow calls and of what is logged.
    bytes: usize,
}

/// A command that a script has called.
struct Call {
    row: &'static Row,
    took_ns: u64,
    failed: Option<CommandError>,
    /// If it was slow.
    args: Option<OwnedArgs>,
}

/// A running script's server.
pub(super) struct ScriptHost<'h, 't> {
    pub runner: &'h mut dyn ScriptRunner,
    pub shared: &'h Shared,
    pub session: &'h mut Session,
    pub tx: &'h mut Tx<'t>,
    pub scratch: &'h mut Scratch,
    pub lock_mode: LockMode<'h>,
    /// Why it has to be undone.
    pub missing: Option<MissingLock>,
    /// The database that the script has selected.
    pub db: usize,
    pub is_read_only: bool,
    /// Commands that need memory may run although it is short.
    pub allows_oom: bool,
    /// A command that writes was called.
    pub has_written: bool,
    /// A command that reads keys and changes none was called.
    pub has_read: bool,
    /// Whether there was no room in memory when the script began.
    pub memory_is_short: bool,
    pub timing: Timing<'h>,
    pub job: &'h Job<'h>,
}

/// How long a script has run.
pub(super) struct Timing<'t> {
    /// When it began, as the dispatcher's clock shows it.
    started: u64,
    /// `busy-reply-threshold`, unless that is never.
    threshold: Option<Duration>,
    /// When other clients had their last turn, or else when it began, on the same clock.
    last_turn: u64,
    slow: Option<Listed<'t>>,
}

impl Timing<'_> {
    /// One that begins now.
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

/// A command that does not run, and why.
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
        self.let_go_unless_revocable();
    }

    fn is_allowed(&mut self, arguments: &[&[u8]]) -> Option<bool> {
        let row = REGISTRY.find(arguments.first()?)?;
        if let Some(name) = arguments.get(1)
            && !row.subcommands.is_empty()
        {
            REGISTRY.find_subcommand(row, name)?;
        }
        // There are no users yet but the default one, who may do everything.
        Some(true)
    }

    /// Nothing is replicated yet.
    fn set_replication(&mut self, _: u8) {}
}

/// Gives a buffer back, empty, unless it is unusually large.
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
                self.let_go_unless_revocable();
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
        self.has_read |= row.only_reads;
        let started = self.runner.dispatcher().clock.raw();
        match self.run(row, args, reply) {
            Ok(failed) => self.note_call(row, args, started, failed),
            Err(missing) => {
                self.missing = Some(missing);
                CallOutcome::Abort
            }
        }
    }

    /// Counts a command, and sees to others if the script has run for long.
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
        self.let_go_unless_revocable();
        let threshold = self.timing.threshold.unwrap_or(TURN_INTERVAL);
        if u128::from(ran_ns) > threshold.min(TURN_INTERVAL).as_nanos() {
            self.look_at_clock();
            self.serve_others_if_due();
        }
        // Also without a threshold: the server may be shutting down.
        match self.ending() {
            Some(text) => CallOutcome::Kill(text),
            None => CallOutcome::Replied,
        }
    }

    fn let_go_unless_revocable(&mut self) {
        let held_back = &self.scratch.held_back;
        let count = held_back.calls.len() + held_back.refused.len() + held_back.logged.len();
        let bytes = held_back.bytes + held_back.lines.len();
        match self.lock_mode {
            LockMode::Revocable if count < CALLS_HELD_BACK_MAX && bytes < BYTES_HELD_BACK_MAX => {}
            LockMode::Revocable | LockMode::Irrevocable { .. } | LockMode::Whole => self.let_go(),
        }
    }

    /// Counts and shows what was held back.
    pub fn let_go(&mut self) {
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

    /// Forgets what was held back, since the script is undone.
    pub fn forget(&mut self) {
        let held_back = &mut self.scratch.held_back;
        held_back.calls.clear();
        held_back.refused.clear();
        held_back.lines.clear();
        held_back.logged.clear();
        held_back.bytes = 0;
    }

    /// True if it has run for longer than others are to stand.
    pub fn is_slow(&self) -> bool {
        self.timing.slow.is_some()
    }

    /// Makes the script known as a slow one once it is.
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
        // Those who wait for its locks are told.
        self.shared.threads.iter().for_each(Thread::wake);
        self.shared.long.recheck_shards();
    }

    /// Notes that the script holds more locks, for those who meet them.
    pub fn note_locks(&self) {
        if let Some(listed) = &self.timing.slow {
            listed.slow.set_locks(self.tx.locked_shards());
        }
    }

    /// Lets other clients have a turn; waits that long for one of them.
    pub fn serve_others(&mut self, wait: Duration) {
        // Else they would be taken for lines about commands of those others.
        self.runner
            .dispatcher()
            .send_monitored(self.session.client.id);
        self.runner.serve_others(wait);
    }

    /// Lets other clients have a turn if their last one was some time ago.
    pub fn serve_others_if_due(&mut self) {
        let interval = match self.is_slow() {
            true => BREATH,
            false => TURN_INTERVAL,
        };
        let clock = &self.runner.dispatcher().clock;
        let since_ns = clock.delta_as_nanos(self.timing.last_turn, clock.raw());
        if u128::from(since_ns) > interval.as_nanos() {
            self.serve_others(Duration::ZERO);
            self.timing.last_turn = self.runner.dispatcher().clock.raw();
        }
    }

    /// The error with which the script has to end, if it has to.
    fn ending(&self) -> Option<&'static str> {
        if self.shared.stopping.load(Relaxed) {
            return Some("ERR The server is shutting down");
        }
        let slow = &self.timing.slow.as_ref()?.slow;
        slow.is_killed().then_some(match slow.kind {
            Kind::Script => "ERR Script killed by user with SCRIPT KILL...",
            Kind::Function => "ERR Script killed by user with FUNCTION KILL...",
        })
    }

    /// The row of a command that the script may run now.
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

    fn refusal(&mut self, row: &Row, args: Args<'_>) -> Option<CommandError> {
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
        if row.writes && self.is_read_only {
            return Some(CommandError::err(
                "Write commands are not allowed from read-only scripts.",
            ));
        }
        if row.needs_memory && !self.allows_oom && !self.has_written && self.memory_is_short {
            return Some(CommandError::OutOfMemory);
        }
        None
    }

    /// True if a command is allowed for tests that scripts may not call otherwise.
    #[cold]
    fn allows_denied(&self, row: &Row) -> bool {
        let group = row.command.group;
        let takes_no_locks = matches!(group, Group::Server | Group::Connection);
        takes_no_locks && self.shared.scripts.allows_denied.load(Relaxed)
    }

    /// Runs a command and writes its reply. Returns the error that it is, if it is one.
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
        self.reach(row, handler, args)?;
        let result = match handler {
            Handler::Keyspace(run) => {
                self.tx.set_touches(touches_keys(self.session, row));
                run(self.tx, args, reply)
            }
            Handler::Session(run) => self.run_session(run, args, reply),
            Handler::Help => {
                REGISTRY.write_help(row, reply);
                Ok(())
            }
            Handler::Dispatch(_) | Handler::Script(_) => {
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
                assert!(!is_whole, "{} has all the locks it needs", row.name);
                self.reach_all()?;
                return self.run(row, args, reply);
            }
            Err(Stop::Long) => unreachable!("nobody else waits for a script's section"),
        }
        Ok(None)
    }

    /// Runs a command about connection or server. What it selects is selected for the rest of the script only.
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
            // What is published can't be undone.
            LockMode::Revocable => {}
            // Before what it publishes itself.
            LockMode::Irrevocable { .. } | LockMode::Whole => self.tx.publish_events(),
        }
        let mut context = Context {
            shared: &dispatcher.shared,
            config: &dispatcher.config,
            counters: dispatcher.counters(),
            now: self.tx.now(),
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
