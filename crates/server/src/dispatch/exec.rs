//! MULTI and EXEC: opening a transaction's queue, and running its commands in one section.
//!
//! The queue and the watched keys themselves are in `session/transaction.rs`.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use damselfly_base::CommandError;
use damselfly_commands::{Args, Result, Run, Stop};
use damselfly_engine::{Now, Tx, Unserved};
use damselfly_protocol::Reply;

use super::account::count_effects;
use super::{Dispatcher, touches_keys};
use crate::observers::client_tracking;
use crate::observers::monitor;
use crate::registry::{Handler, REGISTRY, Row, SessionFn};
use crate::scripts::{self, ScriptRunner};
use crate::session::transaction::Queue;
use crate::session::{Context, Replies, Session};
use crate::users;
use damselfly_config::Config;

/// The most keys that are prefetched: with more, the first ones would leave the cache before they are used.
pub(crate) const PREFETCHED_MAX: usize = 256;

/// MULTI.
pub fn multi(
    dispatcher: &mut Dispatcher,
    session: &mut Session,
    _: Args<'_>,
    _: Now,
    reply: &mut Reply<'_>,
) -> Result {
    if session.transaction.is_open() {
        return Err(CommandError::err("MULTI calls can not be nested").into());
    }
    let queue = dispatcher.spare_queues.take(dispatcher.batch);
    session.transaction.open(queue, &session.client);
    reply.ok();
    Ok(())
}

/// Buffers that EXEC takes out of the dispatcher, because it needs them while commands borrow the dispatcher.
struct Scratch {
    shards: Vec<usize>,
    monitored: Vec<u8>,
    waiters_to_retry: Vec<Unserved>,
}

/// EXEC.
pub fn exec(
    dispatcher: &mut Dispatcher,
    session: &mut Session,
    _: Args<'_>,
    now: Now,
    reply: &mut Reply<'_>,
) -> Result {
    exec_with_scripts(dispatcher, session, now, reply)
}

/// EXEC, on a runner that serves other clients while a script of the transaction is slow.
pub fn exec_with_scripts<A: ScriptRunner>(
    runner: &mut A,
    session: &mut Session,
    now: Now,
    reply: &mut Reply<'_>,
) -> Result {
    let Some(queue) = session.transaction.take_queue() else {
        return Err(CommandError::err("EXEC without MULTI").into());
    };
    let dispatcher = runner.dispatcher();
    let mut scratch = Scratch {
        shards: std::mem::take(&mut dispatcher.shards),
        monitored: std::mem::take(&mut dispatcher.monitored),
        waiters_to_retry: std::mem::take(&mut dispatcher.waiters_to_retry),
    };
    let result = run_queue(runner, session, &queue, now, reply, &mut scratch);
    let dispatcher = runner.dispatcher();
    dispatcher.shards = scratch.shards;
    dispatcher.monitored = scratch.monitored;
    dispatcher.waiters_to_retry = scratch.waiters_to_retry;
    if let Err(Stop::Busy(_)) = result {
        session.transaction.open(queue, &session.client);
        return result;
    }
    dispatcher.spare_queues.put(queue);
    // This may take long, so it happens after the locks are released.
    session
        .transaction
        .end(&dispatcher.local_shared, &session.client);
    dispatcher.refresh_config();
    dispatcher.retry_waiters();
    dispatcher.note_congested(session);
    client_tracking::take_pending_invalidations(&dispatcher.shared, session);
    result
}

/// Runs the queued commands in one section, and writes the reply unless the client has turned replies off.
///
/// # Errors
/// A command could not be queued, or a shard is busy. Then nothing was done.
fn run_queue<A: ScriptRunner>(
    runner: &mut A,
    session: &mut Session,
    queue: &Queue,
    now: Now,
    reply: &mut Reply<'_>,
    scratch: &mut Scratch,
) -> Result {
    if queue.has_failed() {
        let text = "EXECABORT Transaction discarded because of previous errors.";
        return Err(CommandError::Text(text.to_owned()).into());
    }
    let shared = runner.dispatcher().local_shared.clone();
    let engine = &shared.engine;
    let all = queue.hashes();
    // If MULTI is in this batch of requests, the keys were prefetched with the batch.
    let to_fetch = match queue.batch() == runner.dispatcher().batch {
        true => &[],
        false => &all[..all.len().min(PREFETCHED_MAX)],
    };
    for &hash in to_fetch {
        engine.prefetch_shard(hash);
    }
    let mut tx = if queue.needs_all_locks() {
        engine.lock_all(session.db, now)?
    } else {
        let watched = session.transaction.watched_hashes();
        // A deliberate bug that `tests/transactions.rs` of the oracle must detect.
        let watched = watched.filter(|_| !damselfly_base::planted_bug("watches"));
        let hashes = watched.chain(all.iter().copied());
        engine.lock_many(hashes, &mut scratch.shards, session.db, now)?
    };
    let is_hidden = session.replies != Replies::On;
    if session.transaction.is_broken(&session.client, now) {
        if !is_hidden {
            reply.null_array();
        }
        return Ok(());
    }
    if damselfly_base::planted_bug("watches") {
        // Without this, other threads would rarely run at this point.
        std::thread::yield_now();
    }
    session.transaction.ignore_changes(&session.client);
    tx.prefetch(to_fetch.iter().copied());
    let start = reply.position();
    if !is_hidden {
        reply.array(queue.commands().len());
    }
    let mut queue_runner = QueueRunner {
        started: runner.dispatcher().clock.raw(),
        runner,
        config: None,
        skips_next: false,
    };
    run_commands(
        &mut queue_runner,
        &mut tx,
        session,
        queue,
        (reply, start),
        &mut scratch.monitored,
    );
    if queue_runner.skips_next && session.replies == Replies::On {
        session.replies = Replies::SkipNext;
    }
    if tx.has_ready() {
        scratch.waiters_to_retry.extend(tx.serve_waiters());
    }
    count_effects(queue_runner.runner.dispatcher().counters(), tx.effects());
    Ok(())
}

/// Runs the queued commands one by one. Their reply begins at `start`.
fn run_commands<A: ScriptRunner>(
    queue_runner: &mut QueueRunner<'_, A>,
    tx: &mut Tx<'_>,
    session: &mut Session,
    queue: &Queue,
    (reply, start): (&mut Reply<'_>, usize),
    monitored: &mut Vec<u8>,
) {
    let shared = queue_runner.runner.dispatcher().local_shared.clone();
    let limit = session.output_limit(&queue_runner.runner.dispatcher().config);
    let hard_bytes = limit.hard_bytes;
    let mut is_too_long = false;
    // The lines for the client itself, if it uses MONITOR. They are sent after the reply, because they would split it.
    let mut own_lines = Vec::new();
    for (row, args) in queue.commands() {
        let refused = queue_runner.refusal(session, row, args);
        // As in Redis, a refused command is not shown.
        let is_shown = refused.is_none() && shared.monitors.load(Relaxed) > 0;
        if is_shown && row.runs_script {
            // A slow script sends the lines that exist so far.
            let shown = &mut queue_runner.runner.dispatcher().monitored;
            shown.append(monitored);
            monitor::show_script(shown, session, row, args);
        }
        queue_runner.run(tx, session, (row, args), refused, reply);
        monitored.append(&mut queue_runner.runner.dispatcher().monitored);
        if is_shown {
            let mut own = Reply::new(&mut own_lines, session.protocol);
            monitor::show(monitored, session, row, args, &mut own);
        }
        is_too_long |= hard_bytes > 0 && (reply.position() - start) as u64 > hard_bytes;
        if is_too_long {
            // The connection will be closed anyway: the remaining commands still run, but their replies are dropped.
            reply.truncate_to(start);
        }
    }
    reply.raw(&own_lines);
    if is_too_long {
        session.closing = true;
        log::warn!(
            "Client {} closed for overcoming of output buffer limits (by a transaction).",
            session.client.address
        );
        let counters = queue_runner.runner.dispatcher().counters();
        counters.output_limit_disconnections.add(1);
    }
}

/// Runs the queued commands.
struct QueueRunner<'a, A> {
    runner: &'a mut A,
    /// The new configuration, if one of the commands has changed it.
    config: Option<Arc<Config>>,
    /// One of the commands was CLIENT REPLY SKIP, which applies to the command after EXEC.
    skips_next: bool,
    /// When the current command began.
    started: u64,
}

impl<A: ScriptRunner> QueueRunner<'_, A> {
    /// Runs one command, unless it is refused, and writes its reply or error, unless the client has turned replies off.
    fn run(
        &mut self,
        tx: &mut Tx<'_>,
        session: &mut Session,
        (row, args): (&'static Row, Args<'_>),
        refused: Option<CommandError>,
        reply: &mut Reply<'_>,
    ) {
        let (mark, mut failed) = (reply.position(), None);
        // A client that has killed itself gets the reply to CLIENT KILL and no further one.
        let is_killed = session.closing;
        let result = match &refused {
            Some(error) => Err(error.clone().into()),
            None => self.call(tx, session, row, args, reply),
        };
        match result {
            Ok(()) => {}
            Err(Stop::SlicedReply(rest)) => rest.write_all(reply),
            Err(Stop::Wait(wait)) => {
                reply.truncate_to(mark);
                (wait.nothing)(reply);
            }
            Err(Stop::Error(error)) => {
                reply.truncate_to(mark);
                reply.error(error.to_bytes());
                failed = Some(error);
            }
            Err(
                Stop::Busy(_)
                | Stop::NeedsAllLocks
                | Stop::LogBehind
                | Stop::Long
                | Stop::LongUnlocked(_),
            ) => {
                unreachable!("{} has all the locks it needs", row.name)
            }
        }
        match session.replies {
            Replies::On if is_killed => reply.truncate_to(mark),
            Replies::On => {}
            Replies::Off | Replies::SkipThis => reply.truncate_to(mark),
            Replies::SkipNext => {
                reply.truncate_to(mark);
                (self.skips_next, session.replies) = (true, Replies::On);
            }
        }
        let dispatcher = self.runner.dispatcher();
        if let Some(error) = refused {
            let counters = dispatcher.counters();
            counters.commands[row.index].rejected.add(1);
            counters.count_error(&error.to_bytes());
            return;
        }
        dispatcher.account(session, row, args, &mut self.started, failed);
    }

    /// The error if the client's user may not run a command any more.
    #[inline]
    fn refusal(
        &mut self,
        session: &mut Session,
        row: &'static Row,
        args: Args<'_>,
    ) -> Option<CommandError> {
        let shared = &self.runner.dispatcher().shared;
        let Session { login, client, .. } = session;
        if login.has_all_rights(&shared.users) {
            return None;
        }
        let checked = login.check(shared, client, (row, args), users::Context::Multi);
        checked.err().map(users::refusal_in_exec)
    }

    #[inline]
    fn call(
        &mut self,
        tx: &mut Tx<'_>,
        session: &mut Session,
        row: &'static Row,
        args: Args<'_>,
        reply: &mut Reply<'_>,
    ) -> Result {
        let handler = match row.command.run {
            Run::Run(handler) | Run::Either(handler, _) => handler,
            Run::Subcommands(_) => unreachable!("{} alone was refused for its arity", row.name),
        };
        match handler {
            Handler::Keyspace(run) => {
                let users = &self.runner.dispatcher().shared.users;
                if let Some(error) = session.login.refused_patterns(users, row, args) {
                    return Err(error.into());
                }
                tx.set_db(session.db);
                tx.set_touches(touches_keys(session, row));
                let result = damselfly_commands::run(run, tx, args, reply);
                if let Some(tracked) = &session.tracked {
                    tracked.reader(&session.client).note(tx, row, args);
                }
                result
            }
            // As in Redis, which refuses SSUBSCRIBE here but allows SUBSCRIBE and PSUBSCRIBE.
            Handler::Session(_) if row.name == "ssubscribe" => {
                let text = "SSUBSCRIBE isn't allowed for a DENY BLOCKING client";
                Err(CommandError::err(text).into())
            }
            // Its lines would split the replies of the commands after it.
            Handler::Session(_) if row.name == "monitor" => {
                let text = "MONITOR isn't allowed for DENY BLOCKING client";
                Err(CommandError::err(text).into())
            }
            Handler::Session(run) => {
                let result = self.call_session(run, tx, session, args, reply);
                if row.sends_messages && result.is_ok() {
                    tx.log_message(args.from(0));
                }
                result
            }
            Handler::Help => {
                REGISTRY.write_help(row, reply);
                Ok(())
            }
            Handler::Script(_) => scripts::run_within(self.runner, session, tx, row, args, reply),
            Handler::Dispatch(_) | Handler::Memcached(_) => {
                unreachable!("{} is never queued", row.name)
            }
        }
    }

    fn call_session(
        &mut self,
        run: SessionFn,
        tx: &mut Tx<'_>,
        session: &mut Session,
        args: Args<'_>,
        reply: &mut Reply<'_>,
    ) -> Result {
        let dispatcher = self.runner.dispatcher();
        let (shared, thread) = (&dispatcher.shared, dispatcher.thread);
        let config = self.config.as_deref().unwrap_or(&dispatcher.config);
        let generation = shared.config_generation();
        // Publish the events so far, so that they precede the messages of this command.
        tx.publish_events();
        let mut context = Context {
            shared,
            config,
            counters: &shared.threads[thread].counters,
            now: tx.now(),
            is_time_frozen: true,
            lent: tx.holds_all().then(|| tx.lend()),
            session,
            thread,
        };
        let result = run(&mut context, args, reply);
        drop(context);
        if shared.config_generation() != generation {
            self.config = Some(shared.config());
        }
        result
    }
}
