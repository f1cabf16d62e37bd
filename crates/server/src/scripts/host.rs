//! What a running script reaches of the server: `redis.call` and its relatives.

use std::sync::atomic::Ordering::Relaxed;

use damselfly_base::CommandError;
use damselfly_commands::{Args, Run, Stop};
use damselfly_engine::Tx;
use damselfly_protocol::{Reply, Span, Version};
use damselfly_script::{Called, Host, LogLevel, Tick};

use super::{Around, Scratch};
use crate::dispatch::leaves_no_trace;
use crate::registry::{Handler, REGISTRY, Row, SessionFn};
use crate::session::{Context, Session, monitor};

/// A running script's server.
pub(super) struct ScriptHost<'h, 't> {
    pub around: &'h mut dyn Around,
    pub session: &'h mut Session,
    pub tx: &'h mut Tx<'t>,
    pub scratch: &'h mut Scratch,
    /// The database that the script has selected.
    pub db: usize,
    pub is_read_only: bool,
    /// Commands that need memory may run although it is short.
    pub allows_oom: bool,
    /// A command that writes has run.
    pub has_written: bool,
    /// Whether memory was short before the first command that needs some.
    pub memory_is_short: Option<bool>,
}

/// Why a command does not run.
struct Refusal {
    row: Option<&'static Row>,
    error: CommandError,
}

impl Host for ScriptHost<'_, '_> {
    fn call(&mut self, arguments: &[&[u8]], version: Version, reply: &mut Vec<u8>) -> Called {
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
        Tick::Continue
    }

    fn log(&mut self, level: LogLevel, text: &[u8]) {
        let level = match level {
            LogLevel::Debug => log::Level::Trace,
            LogLevel::Verbose => log::Level::Debug,
            LogLevel::Notice => log::Level::Info,
            LogLevel::Warning => log::Level::Warn,
        };
        log::log!(level, "{}", String::from_utf8_lossy(text));
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
    fn call_with(&mut self, args: Args<'_>, reply: &mut Reply<'_>) -> Called {
        let row = match self.allowed(args) {
            Ok(row) => row,
            Err(refusal) => {
                let (counters, text) = (
                    self.around.dispatcher().counters(),
                    refusal.error.to_bytes(),
                );
                if let Some(row) = refusal.row {
                    counters.commands[row.index].rejected.add(1);
                }
                counters.count_error(&text);
                reply.error(text);
                return Called::Replied;
            }
        };
        if row.writes {
            self.has_written = true;
        }
        let mut started = self.around.dispatcher().clock.raw();
        let mut failed = None;
        match self.run(row, args, reply) {
            Ok(()) => {}
            Err(Stop::Rest(rest)) => rest.write_all(reply),
            Err(Stop::Wait(wait)) => {
                reply.truncate_to(0);
                (wait.nothing)(reply);
            }
            Err(Stop::Error(error)) => {
                reply.truncate_to(0);
                reply.error(error.to_bytes());
                failed = Some(error);
            }
            Err(Stop::Busy(_) | Stop::NeedsAllLocks | Stop::Long) => {
                unreachable!("{} has all the locks it needs", row.name)
            }
        }
        let dispatcher = self.around.dispatcher();
        dispatcher.account(self.session, row, args, &mut started, failed);
        if dispatcher.shared.monitors.load(Relaxed) > 0 {
            monitor::show_called(&mut dispatcher.monitored, self.db, row, args);
        }
        Called::Replied
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
        if !row.command.arity.allows(args.len()) {
            return Some(CommandError::err(
                "Wrong number of args calling Redis command from script",
            ));
        }
        if row.not_in_scripts {
            return Some(CommandError::err(
                "This Redis command is not allowed from script",
            ));
        }
        if row.writes && self.is_read_only {
            return Some(CommandError::err(
                "Write commands are not allowed from read-only scripts.",
            ));
        }
        if row.needs_memory && !self.allows_oom && !self.has_written && self.is_memory_short() {
            return Some(CommandError::OutOfMemory);
        }
        None
    }

    fn is_memory_short(&mut self) -> bool {
        *self
            .memory_is_short
            .get_or_insert_with(|| self.around.dispatcher().is_memory_short())
    }

    fn run(
        &mut self,
        row: &'static Row,
        args: Args<'_>,
        reply: &mut Reply<'_>,
    ) -> damselfly_commands::Result {
        let handler = match row.command.run {
            Run::Run(handler) | Run::Either(handler, _) => handler,
            Run::Subcommands(_) => {
                let text = "Wrong number of args calling Redis command from script";
                return Err(CommandError::err(text).into());
            }
        };
        match handler {
            Handler::Keyspace(run) => {
                self.tx.set_db(self.db);
                self.tx.set_touches(!leaves_no_trace(self.session, row));
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
        }
    }

    /// Runs a command about connection or server. What it selects is selected for the rest of the script only.
    fn run_session(
        &mut self,
        run: SessionFn,
        args: Args<'_>,
        reply: &mut Reply<'_>,
    ) -> damselfly_commands::Result {
        let dispatcher = self.around.dispatcher();
        let own_db = self.session.db;
        self.session.db = self.db;
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
