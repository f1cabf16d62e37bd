//! Running a script: the checks before it, its locks, and its reply.

use damselfly_base::CommandError;
use damselfly_commands::{Args, Result, Run};
use damselfly_engine::{Now, Tx};
use damselfly_protocol::Reply;
use damselfly_script::{Ended, Flags};

use super::host::ScriptHost;
use super::{Around, Finder, Program, Room};
use crate::dispatch::count_effects;
use crate::registry::{Handler, Row};
use crate::session::Session;
use crate::shared::Shared;

/// Where the keys begin in the arguments of all commands that run scripts.
const FIRST_KEY: usize = 3;

/// A script that is to run.
struct Job<'j> {
    program: &'j Program,
    row: &'static Row,
    args: Args<'j>,
    keys: usize,
}

impl Job<'_> {
    /// Writes are refused.
    fn is_read_only(&self) -> bool {
        let flags = self.program.flags();
        !self.row.command.keys.writes()
            || flags.is_some_and(|flags| flags.contains(Flags::NO_WRITES))
    }
}

/// Runs the script or function that a request asks for, under locks of its own, and writes the reply.
///
/// # Errors
/// It could not begin: the request is wrong, or a shard busy.
pub fn run(
    around: &mut dyn Around,
    session: &mut Session,
    row: &'static Row,
    args: Args<'_>,
    now: Now,
    reply: &mut Reply<'_>,
) -> Result {
    let shared = around.dispatcher().keeper.clone();
    with_room(around, &shared, |around, room| {
        let (program, keys) = (finder(row).find)(room, &shared, args)?;
        let job = Job {
            program: &program,
            row,
            args,
            keys,
        };
        check(&job)?;
        let mut tx = shared.engine.lock_all(session.db, now)?;
        run_once(&job, room, around, session, &mut tx, reply);
        let unserved = match tx.has_ready() {
            true => tx.serve_waiters(),
            false => Vec::new(),
        };
        let dispatcher = around.dispatcher();
        count_effects(dispatcher.counters(), tx.effects());
        drop(tx);
        dispatcher.unserved.extend(unserved);
        dispatcher.serve_unserved();
        Ok(())
    })
}

/// Runs the script or function that a request asks for as a part of `tx`, which holds all locks, and writes the reply.
///
/// # Errors
/// The request is wrong.
pub fn run_within(
    around: &mut dyn Around,
    session: &mut Session,
    tx: &mut Tx<'_>,
    row: &'static Row,
    args: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result {
    let shared = around.dispatcher().keeper.clone();
    with_room(around, &shared, |around, room| {
        let (program, keys) = (finder(row).find)(room, &shared, args)?;
        let job = Job {
            program: &program,
            row,
            args,
            keys,
        };
        check(&job)?;
        tx.set_db(session.db);
        run_once(&job, room, around, session, tx, reply);
        tx.set_db(session.db);
        Ok(())
    })
}

/// Lets `body` have the thread's interpreter.
fn with_room(
    around: &mut dyn Around,
    shared: &Shared,
    body: impl FnOnce(&mut dyn Around, &mut Room) -> Result,
) -> Result {
    let mut room = around.dispatcher().scripts.take(shared)?;
    let result = body(around, &mut room);
    around.dispatcher().scripts.put(room);
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

/// Whether the script may begin.
fn check(job: &Job<'_>) -> std::result::Result<(), CommandError> {
    let flags = job.program.flags();
    if !job.row.command.keys.writes()
        && flags.is_some_and(|flags| !flags.contains(Flags::NO_WRITES))
    {
        return Err(CommandError::err(
            "Can not execute a script with write flag using *_ro command.",
        ));
    }
    Ok(())
}

/// Runs the script to its end, and counts an error that it returns.
fn run_once(
    job: &Job<'_>,
    room: &mut Room,
    around: &mut dyn Around,
    session: &mut Session,
    tx: &mut Tx<'_>,
    reply: &mut Reply<'_>,
) {
    let mark = reply.position();
    let flags = job.program.flags();
    let Room {
        interpreter,
        scratch,
        ..
    } = room;
    let mut host = ScriptHost {
        db: session.db,
        session,
        tx,
        scratch,
        is_read_only: job.is_read_only(),
        allows_oom: flags.is_some_and(|flags| {
            flags.contains(Flags::ALLOW_OOM) || flags.contains(Flags::NO_WRITES)
        }),
        has_written: false,
        memory_is_short: None,
        around,
    };
    let ended = with_slices(job.args, |values| {
        let (keys, arguments) = values.split_at(job.keys.min(values.len()));
        match job.program {
            Program::Script(script) => interpreter.eval(script, keys, arguments, &mut host, reply),
            Program::Function { library, index } => {
                interpreter.call_function(library, *index, keys, arguments, &mut host, reply)
            }
        }
    });
    match ended {
        Ended::Replied | Ended::Aborted => {}
        Ended::Failed { is_counted } => {
            let counters = host.around.dispatcher().counters();
            counters.commands[job.row.index].failed.add(1);
            let text = reply.written_since(mark).strip_prefix(b"-");
            if let Some(text) = text.filter(|_| !is_counted) {
                counters.count_error(text.trim_ascii_end());
            }
        }
    }
}

/// Calls `body` with the arguments behind the number of keys.
fn with_slices<R>(args: Args<'_>, body: impl FnOnce(&[&[u8]]) -> R) -> R {
    /// So many need no allocation.
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
