//! SAVE, BGSAVE, LASTSAVE.

use std::sync::Arc;

use damselfly_base::CommandError;
use damselfly_commands::Arity::{AtLeast, Exactly};
use damselfly_commands::{Args, Command, Group, Keys, Result, Run, Stop, Trait};
use damselfly_protocol::Reply;

use super::{AlreadySaving, Cause, SaveError};
use crate::registry::Handler;
use crate::session::Context;
use crate::shared::Shared;

pub(crate) static COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "SAVE",
        arity: Exactly(1),
        keys: Keys::None,
        traits: &[
            Trait::Admin,
            Trait::NoScript,
            Trait::NoAsyncLoading,
            Trait::NoMulti,
        ],
        run: Run::Run(Handler::Session(save)),
        group: Group::Server,
        usage: "SAVE",
        summary: "Saves all keys to the snapshot file. The reply comes when they are on disk; other clients do not wait.",
        since: "1.0.0",
        complexity: "O(N) where N is the total number of keys in all databases",
    },
    Command {
        name: "BGSAVE",
        arity: AtLeast(1),
        keys: Keys::None,
        traits: &[Trait::Admin, Trait::NoScript, Trait::NoAsyncLoading],
        run: Run::Run(Handler::Session(bgsave)),
        group: Group::Server,
        usage: "BGSAVE [SCHEDULE]",
        summary: "Begins to save all keys, as they are now, to the snapshot file.",
        since: "1.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "LASTSAVE",
        arity: Exactly(1),
        keys: Keys::None,
        traits: &[
            Trait::Category("admin"),
            Trait::Dangerous,
            Trait::Loading,
            Trait::Stale,
            Trait::Fast,
            Trait::Tip("nondeterministic_output"),
        ],
        run: Run::Run(Handler::Session(lastsave)),
        group: Group::Server,
        usage: "LASTSAVE",
        summary: "Returns the Unix time of the last successful save, or of the server's start.",
        since: "1.0.0",
        complexity: "O(1)",
    },
];

fn in_progress() -> Stop {
    CommandError::err("Background save already in progress").into()
}

/// SAVE within a script. Alone, it runs on a thread for long commands.
fn save(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let shared = context.shared;
    let job = shared.persistence.job();
    if job.is_some_and(|job| job.cause() == Cause::Background) {
        return Err(in_progress());
    }
    let Some(lent) = &mut context.lent else {
        return Err(Stop::Long);
    };
    // Of a script, which may call SAVE only in tests.
    let is_ok = shared
        .persistence
        .save_within(shared, &mut lent.lend(), Cause::Save);
    write_outcome(is_ok, reply)
}

fn write_outcome(is_ok: bool, reply: &mut Reply<'_>) -> Result {
    if !is_ok {
        // As in Redis, the log says why.
        return Err(CommandError::Text(String::from("ERR")).into());
    }
    reply.ok();
    Ok(())
}

/// The part of SAVE that runs on a thread for long commands.
pub fn save_and_wait(shared: &Arc<Shared>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    match shared.persistence.save_and_wait(shared)? {
        Ok(()) => write_outcome(true, reply),
        Err(SaveError::AlreadySaving) => Err(in_progress()),
        Err(SaveError::Failed) => write_outcome(false, reply),
    }
}

const REWRITES: &str = "Another child process is active (AOF?): can't BGSAVE right now. Use BGSAVE SCHEDULE in order to schedule a BGSAVE whenever possible.";

fn bgsave(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let schedules = args.len() > 1;
    if schedules && !(args.len() == 2 && args.is(1, "SCHEDULE")) {
        return Err(CommandError::Syntax.into());
    }
    let shared = context.shared;
    let job = shared.persistence.job();
    let rewrites = job
        .as_ref()
        .is_some_and(|job| job.cause() == Cause::Rewrite);
    if job.is_some() && !rewrites {
        return Err(in_progress());
    }
    if rewrites && !schedules && context.lent.is_none() {
        return Err(CommandError::err(REWRITES).into());
    }
    // A cut in the middle of a transaction would show half of it.
    if rewrites || context.lent.is_some() {
        shared.persistence.schedule();
        reply.simple("Background saving scheduled");
        return Ok(());
    }
    let mut tx = context.lock_all()?;
    let started = shared.persistence.start(shared, &mut tx, Cause::Background);
    drop(tx);
    if let Err(AlreadySaving) = started {
        return Err(in_progress());
    }
    log::info!("Background saving started");
    reply.simple("Background saving started");
    Ok(())
}

fn lastsave(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply.integer(context.shared.persistence.status().last_success_s);
    Ok(())
}
