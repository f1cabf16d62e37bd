//! Commands for the process as a whole: SHUTDOWN, TIME, LOLWUT.

use std::sync::Arc;

use damselfly_base::CommandError;
use damselfly_commands::Arity::{AtLeast, Exactly};
use damselfly_commands::{Args, Command, Group, Keys, Result, Run, Stop, Trait};
use damselfly_config::ShutdownFlags;
use damselfly_protocol::Reply;

use crate::clock;
use crate::persistence::shutdown::{NotStopped, Shutdown};
use crate::registry::Handler;
use crate::session::Context;
use crate::shared::Shared;

pub(crate) static COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "SHUTDOWN",
        arity: AtLeast(1),
        keys: Keys::None,
        traits: &[
            Trait::Admin,
            Trait::NoScript,
            Trait::Loading,
            Trait::Stale,
            Trait::NoMulti,
            Trait::Sentinel,
            Trait::AllowBusy,
        ],
        run: Run::Run(Handler::Session(shutdown)),
        group: Group::Server,
        usage: "SHUTDOWN [NOSAVE | SAVE] [NOW] [FORCE] [ABORT]",
        summary: "Saves all keys if there are save points or SAVE is given, and stops the server.",
        since: "1.0.0",
        complexity: "O(N) where N is the number of keys to save, otherwise O(1)",
    },
    Command {
        name: "TIME",
        arity: Exactly(1),
        keys: Keys::None,
        traits: &[
            Trait::Loading,
            Trait::Stale,
            Trait::Fast,
            Trait::Tip("nondeterministic_output"),
        ],
        run: Run::Run(Handler::Session(time)),
        group: Group::Server,
        usage: "TIME",
        summary: "Returns the server's time: Unix time in seconds, and microseconds.",
        since: "2.6.0",
        complexity: "O(1)",
    },
    Command {
        name: "LOLWUT",
        arity: AtLeast(1),
        keys: Keys::None,
        traits: &[Trait::ReadOnly, Trait::Fast],
        run: Run::Run(Handler::Session(lolwut)),
        group: Group::Server,
        usage: "LOLWUT [VERSION version]",
        summary: "Shows a damselfly and the server's version.",
        since: "5.0.0",
        complexity: "",
    },
];

/// The options of SHUTDOWN.
struct ShutdownOptions {
    flags: ShutdownFlags,
    abort: bool,
}

impl ShutdownOptions {
    fn parse(args: Args<'_>) -> Result<Self> {
        let (mut flags, mut abort) = (ShutdownFlags::default(), false);
        for at in 1..args.len() {
            let words = [
                ("NOSAVE", &mut flags.nosave),
                ("SAVE", &mut flags.save),
                ("NOW", &mut flags.now),
                ("FORCE", &mut flags.force),
                ("ABORT", &mut abort),
            ];
            let Some((_, given)) = words.into_iter().find(|(word, _)| args.is(at, word)) else {
                return Err(CommandError::Syntax.into());
            };
            *given = true;
        }
        if (flags.nosave && flags.save) || (abort && flags != ShutdownFlags::default()) {
            return Err(CommandError::Syntax.into());
        }
        Ok(Self { flags, abort })
    }

    fn shutdown(&self) -> Shutdown {
        Shutdown {
            flags: self.flags,
            waits_for_scripts: false,
        }
    }
}

fn shutdown(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let options = ShutdownOptions::parse(args)?;
    if options.abort {
        if context.shared.replication.abort_shutdown() {
            reply.ok();
            return Ok(());
        }
        return Err(CommandError::err("No shutdown in progress.").into());
    }
    log::warn!("User requested shutdown...");
    let replication = &context.shared.replication;
    let waits = !options.flags.now && replication.has_lagging(context.shared, context.config);
    if !waits && !options.shutdown().takes_long(context.shared) {
        // There is no reply: the connection is closed.
        context.session.closing = true;
        context.shared.stop();
        return Ok(());
    }
    if context.lent.is_some() {
        // Of a script, which may call SHUTDOWN only in tests.
        let text = "SHUTDOWN without NOW or ABORT isn't allowed for DENY BLOCKING client";
        return Err(CommandError::err(text).into());
    }
    Err(Stop::Long)
}

/// The part of SHUTDOWN that runs on a thread for long commands: it saves first.
pub fn save_and_shut_down(shared: &Arc<Shared>, args: Args<'_>, _: &mut Reply<'_>) -> Result {
    match ShutdownOptions::parse(args)?.shutdown().run(shared)? {
        Ok(()) => Ok(()),
        Err(NotStopped::Script(error)) => Err(error.into()),
        Err(NotStopped::Aborted) => {
            Err(CommandError::err("Errors trying to SHUTDOWN. Check logs.").into())
        }
        Err(NotStopped::NotSaved) => {
            log::error!(
                "Error trying to save the DB, can't exit. Use SHUTDOWN NOSAVE or FORCE to stop without saving the data."
            );
            Err(CommandError::err("Errors trying to SHUTDOWN. Check logs.").into())
        }
    }
}

fn time(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let now_us = match context.is_time_frozen {
        true => context.now.0 * 1000,
        false => clock::now_us(),
    };
    reply.array(2);
    reply.bulk_integer(now_us / 1_000_000);
    reply.bulk_integer(now_us % 1_000_000);
    Ok(())
}

const DAMSELFLY: &str = r"
        ____________            ____________
   .---'            `--.    .--'            `---.
   `---.____________    `\/`    ____________.---'
              ______`---.||.---'______
       .-----'       __.-||-.__       `-----.
       `------------'    ||    `------------'
                       (o||o)
                         ||
                         ||
                         ||
                         ||
                         `'
";

fn lolwut(_: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    // There is only one picture, but a version that Redis refuses is refused here, too.
    if args.is(1, "VERSION") && args.len() > 2 {
        args.integer(2)?;
    }
    let text = format!(
        "{DAMSELFLY}\nRedis ver. {} (Damselfly {})\n",
        crate::REDIS_VERSION,
        crate::VERSION
    );
    reply.verbatim(*b"txt", text.trim_start_matches('\n').as_bytes());
    Ok(())
}
