//! **What is asked before a command runs**: whether the command exists, its arity, `enable-debug-command` and the like, authentication, the rights of the user, room in
//! memory, the rules for transactions, subscribers and MONITOR clients, and the gate (`gate.rs`). [`Dispatcher::checked`] asks all of this for every request of
//! a client, also for those that are then queued by MULTI. Commands that a script calls have rules of their own
//! (`scripts/host.rs`, `allowed`).

use std::sync::atomic::Ordering::Relaxed;

use damselfly_base::CommandError;
use damselfly_commands::{Args, Trait};

use super::Dispatcher;
use super::memory_limit::MemoryRoom;
use super::unknown::{is_attack, unknown_command, unknown_subcommand};
use crate::event_loop::parser::Protocol;
use crate::gate::Reasons;
use crate::memcached;
use crate::registry::{Row, WithinMulti};
use crate::scripts;
use crate::session::{Session, transaction};
use crate::shared::Shared;
use crate::users;

/// Why a request does not run.
pub(super) enum Refusal {
    /// It is answered with this error.
    Error(CommandError),
    /// It is a line of an HTTP request: the connection is closed without a reply.
    Attack,
    /// The client's user was deleted: the connection is closed without a reply.
    Deleted,
}

impl Dispatcher {
    /// The row to run, or why the request is refused.
    #[inline]
    pub(super) fn checked(
        &mut self,
        session: &mut Session,
        row: Option<&'static Row>,
        args: Args<'_>,
    ) -> Result<&'static Row, Refusal> {
        let is_restricted = !session.login.has_all_rights(&self.shared.users);
        if is_restricted && !session.login.refresh(&self.shared.users) {
            return Err(Refusal::Deleted);
        }
        let Some(mut row) = row else {
            return Err(match is_attack(args) {
                true => Refusal::Attack,
                false => Refusal::Error(unknown_command(args)),
            });
        };
        if !row.subcommands.is_empty() && args.len() > 1 {
            row = self
                .registry
                .find_subcommand(row, args.at(1))
                .ok_or_else(|| Refusal::Error(unknown_subcommand(row, args.at(1))))?;
        }
        // CLIENT LIST and ACL LOG show it even if it is refused.
        session.client.last_command.store(row.index + 1, Relaxed);
        let refused = self.refusal(session, row, args, is_restricted);
        match refused {
            None => Ok(row),
            Some(CommandError::OutOfMemory) if session.client.speaks == Protocol::Memcached => {
                // It may have to remove a key before it refuses.
                Ok(memcached::TABLE.without_memory(row))
            }
            Some(error) => {
                self.counters().commands[row.index].rejected.add(1);
                Err(Refusal::Error(match row.within_multi {
                    WithinMulti::Executes => transaction::abort(session, &self.shared, &error),
                    WithinMulti::Queued
                    | WithinMulti::Refused
                    | WithinMulti::Runs
                    | WithinMulti::Leaves => error,
                }))
            }
        }
    }

    /// The error if an option forbids the command to this client: DEBUG, or a subcommand of MODULE.
    #[cold]
    fn refusal_of_protected(&self, session: &Session, row: &Row) -> Option<CommandError> {
        let container = row.name.split('|').next().unwrap_or_default();
        let allowed = match container {
            "module" => self.config.enable_module_command,
            _ => self.config.enable_debug_command,
        };
        (!allowed.permits(session.client.origin)).then(|| {
            CommandError::err(format!(
                "{} command not allowed. If the enable-{container}-command option is set to \"local\", you can run it from a local connection, otherwise you need to set this option in the configuration file, and then restart the server.",
                container.to_uppercase()
            ))
        })
    }

    #[inline]
    fn refusal(
        &mut self,
        session: &mut Session,
        row: &'static Row,
        args: Args<'_>,
        is_restricted: bool,
    ) -> Option<CommandError> {
        if !row.command.arity.allows(args.len()) {
            return Some(CommandError::Arity(row.name.clone()));
        }
        if row.protected {
            let refusal = self.refusal_of_protected(session, row);
            if refusal.is_some() {
                return refusal;
            }
        }
        if is_restricted {
            let refusal = self.refusal_of_user(session, row, args);
            if refusal.is_some() {
                return refusal;
            }
        }
        if row.needs_memory || row.runs_script || session.transaction.is_open() {
            self.memory.is_short = self.make_room() == MemoryRoom::None;
            if std::mem::take(&mut self.memory.has_evicted) {
                self.finish_section(session);
            }
        }
        if session.transaction.is_open() {
            let refusal = session.transaction.refusal(row, self.memory.is_short);
            if refusal.is_some() {
                return refusal;
            }
        }
        if session.awaits_messages_only() && !row.for_subscribers {
            return Some(crate::observers::subscriptions::refusal(row));
        }
        if !self.shared.gate.holding(row.refused_while).is_empty() {
            let refusal = self.gate_refusal(session, row, args);
            if refusal.is_some() {
                return refusal;
            }
        }
        if session.client.is_keyless() && uses_keys(row) {
            return Some(CommandError::err(
                "Replica can't interact with the keyspace",
            ));
        }
        if self.memory.is_short
            && (row.needs_memory
                || row.runs_script && scripts::needs_memory(&self.shared, row, args))
        {
            return Some(CommandError::OutOfMemory);
        }
        None
    }

    /// The error if the client has yet to log in, or its user may not run the command.
    fn refusal_of_user(
        &self,
        session: &mut Session,
        row: &'static Row,
        args: Args<'_>,
    ) -> Option<CommandError> {
        if session.login.must_authenticate() {
            let text = "NOAUTH Authentication required.";
            return (!row.no_auth).then(|| CommandError::Text(text.to_owned()));
        }
        let is_open = session.transaction.is_open();
        if is_open && row.within_multi == WithinMulti::Refused {
            // Refused anyway, and with another error.
            return None;
        }
        let context = match is_open {
            true => users::Context::Multi,
            false => users::Context::TopLevel,
        };
        let Session { login, client, .. } = session;
        let checked = login.check_refreshed(&self.shared, client, (row, args), context);
        checked.err().map(|denied| users::refusal(denied, row))
    }

    /// The error for a command that the gate refuses; `None` for a script or an EXEC that may run.
    #[cold]
    fn gate_refusal(&self, session: &Session, row: &Row, args: Args<'_>) -> Option<CommandError> {
        let reasons = match row.within_multi {
            WithinMulti::Executes => {
                let queued = session.transaction.queued();
                queued.fold(Reasons::NONE, |reasons, (row, args)| {
                    // A PING that was queued is allowed to run.
                    let is_exempt = !row.changes_data && !row.runs_script;
                    let own = self.refused_while(row, args);
                    reasons.and(match is_exempt {
                        true => own.without(WRITES_FAIL),
                        false => own,
                    })
                })
            }
            WithinMulti::Queued
            | WithinMulti::Refused
            | WithinMulti::Runs
            | WithinMulti::Leaves => self.refused_while(row, args),
        };
        let holding = self.shared.gate.holding(reasons);
        if !holding.in_common(Reasons::SAVING_FAILED).is_empty() {
            return Some(CommandError::SavingFailed);
        }
        if !holding.in_common(Reasons::LOG_FAILED).is_empty() {
            return Some(log_failed(&self.shared));
        }
        if !holding.in_common(Reasons::TOO_FEW_REPLICAS).is_empty() {
            return Some(too_few_replicas());
        }
        if !holding.in_common(Reasons::READ_ONLY).is_empty() {
            return Some(read_only());
        }
        if !holding.in_common(Reasons::STALE).is_empty() {
            return Some(stale());
        }
        (!holding.is_empty()).then(|| {
            let text = "LOADING Redis is loading the dataset in memory";
            CommandError::Text(text.to_owned())
        })
    }

    /// The reasons to refuse a request. A script that declares no flags may run even if it must not write: its writes are refused.
    fn refused_while(&self, row: &Row, args: Args<'_>) -> Reasons {
        let mut reasons = row.refused_while;
        if row.runs_script {
            if !scripts::declares_writes(&self.shared, row, args) {
                reasons = reasons.without(WRITES_FAIL);
            }
            if scripts::allows_stale(&self.shared, row, args) {
                reasons = reasons.without(Reasons::STALE);
            }
        }
        reasons
    }

    /// True if there was no room in memory for the current command or the script that it belongs to.
    pub(crate) fn is_memory_short(&self) -> bool {
        self.memory.is_short
    }
}

/// Reasons that concern writes.
const WRITES_FAIL: Reasons = Reasons::SAVING_FAILED
    .and(Reasons::LOG_FAILED)
    .and(Reasons::TOO_FEW_REPLICAS)
    .and(Reasons::READ_ONLY);

/// The error while too few replicas keep up.
pub(crate) fn too_few_replicas() -> CommandError {
    CommandError::Text(String::from(
        "NOREPLICAS Not enough good replicas to write.",
    ))
}

/// The error for a write to a read-only replica.
pub(crate) fn read_only() -> CommandError {
    let text = "READONLY You can't write against a read only replica.";
    CommandError::Text(text.to_owned())
}

/// The error while a replica has no link to its primary and must not show old data.
pub(crate) fn stale() -> CommandError {
    let text = "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.";
    CommandError::Text(text.to_owned())
}

/// The error while the append-only file can't be written.
pub(crate) fn log_failed(shared: &Shared) -> CommandError {
    let why = shared.aof.status().write_error.unwrap_or_default();
    CommandError::Text(format!("MISCONF Errors writing to the AOF file: {why}"))
}

/// True if monitors and replicas may not run the command: it reads or changes data, or would have to be replicated.
#[cold]
fn uses_keys(row: &Row) -> bool {
    row.command.keys.any() || row.command.has(Trait::ReadOnly) || row.writes
}
