//! BGREWRITEAOF, WAITAOF.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use damselfly_base::CommandError;
use damselfly_commands::Arity::Exactly;
use damselfly_commands::{Args, Command, Group, Keys, Result, Run, Trait};
use damselfly_protocol::Reply;

use super::super::Cause;
use super::Mode;
use crate::registry::Handler;
use crate::session::{Awaited, Context, DiskWait};

pub(crate) static COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "BGREWRITEAOF",
        arity: Exactly(1),
        keys: Keys::None,
        traits: &[Trait::Admin, Trait::NoScript, Trait::NoAsyncLoading],
        run: Run::Run(Handler::Session(bgrewriteaof)),
        group: Group::Server,
        usage: "BGREWRITEAOF",
        summary: "Begins to write the append-only file anew, from all keys as they are now.",
        since: "1.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "WAITAOF",
        arity: Exactly(4),
        keys: Keys::None,
        traits: crate::replication::commands::WAIT_TRAITS,
        run: Run::Run(Handler::Session(waitaof)),
        group: Group::Generic,
        usage: "WAITAOF numlocal numreplicas timeout",
        summary: "Waits until the client's writes are in the append-only files of this server and of a number of replicas, and returns how many these are.",
        since: "7.2.0",
        complexity: "O(1)",
    },
];

fn bgrewriteaof(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let shared = context.shared;
    if let Some(job) = shared.persistence.job() {
        if job.cause() == Cause::Rewrite {
            let text = "Background append only file rewriting already in progress";
            return Err(CommandError::err(text).into());
        }
        shared.aof.schedule();
        reply.simple("Background append only file rewriting scheduled");
        return Ok(());
    }
    if context.lent.is_some() {
        // A cut in the middle of a transaction would show half of it.
        shared.aof.schedule();
        reply.simple("Background append only file rewriting scheduled");
        return Ok(());
    }
    let mut tx = context.lock_all()?;
    match shared.aof.begin_rewrite(shared, &mut tx) {
        Ok(()) => reply.simple("Background append only file rewriting started"),
        Err(_) => {
            shared.aof.schedule();
            reply.simple("Background append only file rewriting scheduled");
        }
    }
    Ok(())
}

/// What WAITAOF waits for is everything that the log has now: the connection's own writes are among it.
fn waitaof(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let local = args.integer(1)?;
    if !(0..=1).contains(&local) {
        let text = "value is out of range, value must between 0 and 1";
        return Err(CommandError::err(text).into());
    }
    let replicas = args.integer(2)?;
    if replicas < 0 {
        return Err(CommandError::err("value is out of range, must be positive").into());
    }
    let timeout_ms = args
        .integer(3)
        .map_err(|_| CommandError::err("timeout is not an integer or out of range"))?;
    let Ok(timeout_ms) = u64::try_from(timeout_ms) else {
        return Err(CommandError::err("timeout is negative").into());
    };
    let shared = context.shared;
    if shared.replication.is_replica() {
        let text = "WAITAOF cannot be used with replica instances. Please also note that writes to replicas are just local and are not propagated.";
        return Err(CommandError::err(text).into());
    }
    if local > 0 && shared.aof.mode() == Mode::Off && !context.config.appendonly {
        return Err(CommandError::err(
            "WAITAOF cannot be used when numlocal is set but appendonly is disabled.",
        )
        .into());
    }
    let record = shared.engine.log.appended();
    shared.aof.add_waiting(&shared.threads[context.thread], 1);
    shared.replication.begin_wait();
    let wait = DiskWait {
        thread: context.thread,
        record,
        awaited: Awaited::Disks { local: local > 0 },
        replicas: usize::try_from(replicas).unwrap_or(usize::MAX),
        until: (timeout_ms > 0).then(|| Instant::now() + Duration::from_millis(timeout_ms)),
    };
    // A transaction or a script can't wait.
    if wait.is_complete(shared) || context.is_time_frozen {
        wait.write_reply(shared, reply);
        wait.end(shared);
        return Ok(());
    }
    shared.log.wake();
    context.session.client.awaits.store(true, Relaxed);
    context.session.disk_wait = Some(wait);
    Ok(())
}
