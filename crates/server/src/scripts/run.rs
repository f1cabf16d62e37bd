//! Runs a script: checks the request, takes locks, retries with more locks, and writes the reply.

use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use damselfly_base::CommandError;
use damselfly_commands::{Args, Result, Run, Stop};
use damselfly_engine::{Busy, Key, Now, Tx};
use damselfly_protocol::Reply;
use damselfly_script::{Flags, ScriptOutcome};

use super::host::{ScriptHost, Timing};
use super::locks::{LockMode, MissingLock, Plan};
use super::slow::{Kind, Slow};
use super::{Finder, Program, ScriptContext, ScriptRunner};
use crate::admin::slowlog::shortened;
use crate::dispatch::count_effects;
use crate::dispatch::exec::PREFETCHED_MAX;
use crate::registry::{Handler, Row};
use crate::session::Session;
use crate::shared::Shared;

/// The index of the first key in the arguments of every command that runs scripts.
const FIRST_KEY: usize = 3;

/// A request to run a script or function.
pub(super) struct Job<'j> {
    program: &'j Program,
    row: &'static Row,
    args: Args<'j>,
    keys: usize,
}

impl Job<'_> {
    /// True if the script may not call commands that write.
    fn is_read_only(&self) -> bool {
        let flags = self.program.flags();
        !self.row.command.keys.writes()
            || flags.is_some_and(|flags| flags.contains(Flags::NO_WRITES))
    }

    /// The entry of the script for the list of slow scripts.
    pub fn slow(&self, started: Instant) -> Slow {
        let kind = match self.program {
            Program::Script(_) => Kind::Script,
            Program::Function(_) => Kind::Function,
        };
        let command = shortened(self.args.from(0).collect::<Vec<_>>().into_iter());
        Slow::new(kind, self.program.name(), command, started)
    }

    fn declared_keys(&self) -> impl Iterator<Item = Key<'_>> + Clone {
        (FIRST_KEY..FIRST_KEY + self.keys).map(|place| self.args.key(place))
    }
}

/// Runs the script or function that a request names, under locks of its own, and writes the reply.
///
/// # Errors
/// The script could not begin, because the request is wrong or a shard is busy.
pub fn run(
    runner: &mut dyn ScriptRunner,
    session: &mut Session,
    row: &'static Row,
    args: Args<'_>,
    now: Now,
    reply: &mut Reply<'_>,
) -> Result {
    let shared = runner.dispatcher().local_shared.clone();
    let mut plan = session.script_plan.take();
    let mut is_shown = plan.as_ref().is_some_and(|plan| plan.is_shown);
    let mut show = |runner: &mut dyn ScriptRunner, session: &Session| {
        if !std::mem::replace(&mut is_shown, true) {
            runner.dispatcher().show_script(session, row, args);
        }
    };
    let result = with_script_context(runner, &shared, |runner, context| {
        let begun = begin(row, args, context, &shared);
        let (program, keys) = begun.inspect_err(|_| show(runner, session))?;
        let job = Job {
            program: &program,
            row,
            args,
            keys,
        };
        let memory = match &program {
            Program::Script(known) => &known.memory,
            Program::Function(known) => &known.memory,
        };
        if plan.is_none() && memory.begins_whole() {
            plan.get_or_insert_default().all = true;
        }
        let mut shards = std::mem::take(&mut runner.dispatcher().shards);
        let result = loop {
            let locked = lock(&job, plan.as_deref(), &shared, session.db, now, &mut shards);
            let mut tx = match locked {
                Ok(tx) => tx,
                Err(busy) => break Err(busy.into()),
            };
            show(runner, session);
            let lock_mode = match tx.holds_all() {
                true => LockMode::Whole,
                false => LockMode::Revocable,
            };
            let Some(missing) = run_once(
                &job, context, runner, &shared, session, &mut tx, lock_mode, reply,
            ) else {
                if plan.as_ref().is_none_or(|plan| !plan.all) {
                    memory.note_done();
                }
                end(runner, tx);
                break Ok(());
            };
            let plan = plan.get_or_insert_default();
            plan.learn(missing, tx.locked_shards());
            plan.is_shown = true;
            memory.note_undone(missing);
            shared.scripts.counts.undone.fetch_add(1, Relaxed);
            // A deliberate bug that `tests/scripts.rs` must detect.
            if !damselfly_base::planted_bug("scripts") {
                tx.undo();
            }
        };
        runner.dispatcher().shards = shards;
        runner.dispatcher().finish_section(session);
        result
    });
    if let Err(Stop::Busy(_)) = result {
        session.script_plan = plan;
    }
    result
}

/// Takes the locks with which a script begins.
fn lock<'a>(
    job: &Job<'_>,
    plan: Option<&Plan>,
    shared: &'a Shared,
    db: usize,
    now: Now,
    shards: &'a mut Vec<usize>,
) -> std::result::Result<Tx<'a>, Busy> {
    let engine = &shared.engine;
    if plan.is_some_and(|plan| plan.all) {
        shared.scripts.counts.whole.fetch_add(1, Relaxed);
        return engine.lock_all(db, now);
    }
    shards.clear();
    let declared = job.declared_keys().map(|key| key.hash);
    shards.extend(declared.clone().map(|hash| engine.shard_of(hash)));
    shards.extend(plan.iter().flat_map(|plan| &plan.shards));
    let mut tx = engine.lock_shards(shards, db, now)?;
    tx.prefetch(declared.take(PREFETCHED_MAX));
    Ok(tx)
}

/// Ends the section of a script that was not rolled back.
fn end(runner: &mut dyn ScriptRunner, mut tx: Tx<'_>) {
    tx.commit();
    let dispatcher = runner.dispatcher();
    if tx.has_ready() {
        dispatcher.waiters_to_retry.extend(tx.serve_waiters());
    }
    count_effects(dispatcher.counters(), tx.effects());
}

/// Runs the script or function that a request names as a part of `tx`, which must hold all locks, and writes the reply.
///
/// # Errors
/// The request is wrong.
pub fn run_within(
    runner: &mut dyn ScriptRunner,
    session: &mut Session,
    tx: &mut Tx<'_>,
    row: &'static Row,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result {
    let shared = runner.dispatcher().local_shared.clone();
    with_script_context(runner, &shared, |runner, context| {
        let (program, keys) = begin(row, args, context, &shared)?;
        let job = Job {
            program: &program,
            row,
            args,
            keys,
        };
        tx.set_db(session.db);
        let lock_mode = LockMode::Whole;
        let missing = run_once(
            &job, context, runner, &shared, session, tx, lock_mode, reply,
        );
        assert!(missing.is_none(), "a script with all locks needs no more");
        tx.set_db(session.db);
        Ok(())
    })
}

/// Calls `body` with the thread's script context.
fn with_script_context(
    runner: &mut dyn ScriptRunner,
    shared: &Shared,
    body: impl FnOnce(&mut dyn ScriptRunner, &mut ScriptContext) -> Result,
) -> Result {
    let mut context = runner.dispatcher().scripts.take(shared)?;
    let result = body(runner, &mut context);
    // Done after `body` has released the locks, unless the script is a part of a transaction.
    context.interpreter.drop_leftovers();
    let dispatcher = runner.dispatcher();
    dispatcher.scripts.put(context);
    dispatcher.note_scripts();
    result
}

fn finder(row: &Row) -> &'static Finder {
    match row.command.run {
        Run::Run(Handler::Script(finder)) => finder,
        Run::Run(_) | Run::Either(..) | Run::Subcommands(_) => {
            unreachable!("{} runs no scripts", row.name)
        }
    }
}

/// Returns the script or function that a request names, if it may begin, and how many keys the request declares.
fn begin(
    row: &'static Row,
    args: Args<'_>,
    context: &mut ScriptContext,
    shared: &Shared,
) -> std::result::Result<(Program, usize), CommandError> {
    let (program, keys) = (finder(row).find)(context, shared, args)?;
    let flags = program.flags();
    if !row.command.keys.writes() && flags.is_some_and(|flags| !flags.contains(Flags::NO_WRITES)) {
        return Err(CommandError::err(
            "Can not execute a script with write flag using *_ro command.",
        ));
    }
    Ok((program, keys))
}

/// Runs the script once and counts an error that it returns. If the script must be rolled back, returns the lock that it failed to get.
#[expect(clippy::too_many_arguments, reason = "a script needs all of them")]
fn run_once<'s>(
    job: &Job<'_>,
    context: &mut ScriptContext,
    runner: &mut dyn ScriptRunner,
    shared: &'s Shared,
    session: &mut Session,
    tx: &mut Tx<'_>,
    lock_mode: LockMode<'s>,
    reply: &mut Reply<'_>,
) -> Option<MissingLock> {
    let mark = reply.position();
    let flags = job.program.flags();
    let allows = |flag| flags.is_some_and(|flags| flags.contains(flag));
    let ScriptContext {
        interpreter,
        scratch,
        ..
    } = context;
    let read_keys = session.tracked.as_ref().map(|_| HashSet::new());
    let mut host = ScriptHost {
        timing: Timing::begin(runner.dispatcher()),
        memory_is_short: runner.dispatcher().is_memory_short(),
        runner,
        shared,
        db: session.db,
        session,
        tx,
        scratch,
        lock_mode,
        missing: None,
        is_read_only: job.is_read_only(),
        allows_oom: allows(Flags::ALLOW_OOM) || allows(Flags::NO_WRITES),
        has_written: false,
        read_keys,
        job,
    };
    host.tx.set_script(true);
    if let LockMode::Revocable = host.lock_mode
        && shared.engine.wants_events()
    {
        host.tx.hold_events();
    }
    let ended = with_slices(job.args, |values| {
        let (keys, arguments) = values.split_at(job.keys.min(values.len()));
        match job.program {
            Program::Script(known) => {
                interpreter.eval(known.script(), keys, arguments, &mut host, reply)
            }
            Program::Function(known) => {
                let (library, index) = (&known.library, known.index);
                interpreter.call_function(library, index, keys, arguments, &mut host, reply)
            }
        }
    });
    host.tx.set_script(false);
    host.runner.dispatcher().scripts.is_slow = false;
    if let Some(missing) = host.missing {
        reply.truncate_to(mark);
        host.forget();
        return Some(missing);
    }
    host.release_effects();
    if let Some(tracked) = &host.session.tracked {
        // The script can no longer be rolled back, so its changes are final.
        host.tx.commit();
        let reader = tracked.reader(&host.session.client);
        let read_keys = host.read_keys.iter().flatten();
        reader.note_script(host.tx, read_keys.map(|key| Key::new(key)));
    }
    let text = reply.written_since(mark).strip_prefix(b"-");
    if let Some(text) = text {
        let counters = host.runner.dispatcher().counters();
        counters.commands[job.row.index].failed.add(1);
        match ended {
            ScriptOutcome::Failed { is_counted: false } => {
                counters.count_error(text.trim_ascii_end())
            }
            ScriptOutcome::Failed { is_counted: true }
            | ScriptOutcome::Replied
            | ScriptOutcome::Aborted => {}
        }
    }
    None
}

/// Calls `body` with the arguments after the number of keys.
fn with_slices<R>(args: Args<'_>, body: impl FnOnce(&[&[u8]]) -> R) -> R {
    /// The most arguments that need no allocation.
    const INLINE: usize = 32;
    let (all, count) = (args.from(FIRST_KEY), args.len() - FIRST_KEY);
    let mut inline = [&[][..]; INLINE];
    if let Some(inline) = inline.get_mut(..count) {
        inline
            .iter_mut()
            .zip(all)
            .for_each(|(place, arg)| *place = arg);
        return body(inline);
    }
    body(&all.collect::<Vec<_>>())
}
