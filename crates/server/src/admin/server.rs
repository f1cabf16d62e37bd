//! The process as a whole: SHUTDOWN, TIME, LOLWUT.

use std::sync::atomic::Ordering::Relaxed;

use damselfly_base::CommandError;
use damselfly_commands::Arity::{AtLeast, Exactly};
use damselfly_commands::{Args, Command, Group, Keys, Result, Run, Trait};
use damselfly_protocol::Reply;

use crate::registry::Handler;
use crate::session::Context;
use crate::shared;

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
        summary: "Stops the server.",
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
        summary: "Returns the server's time as a Unix time in seconds, and microseconds.",
        since: "2.6.0",
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
        summary: "Returns the Unix time of the last successful save, or of the start.",
        since: "1.0.0",
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
        summary: "Draws a damselfly and shows the server's version.",
        since: "5.0.0",
        complexity: "",
    },
];

fn shutdown(context: &mut Context<'_>, args: Args<'_>, _: &mut Reply<'_>) -> Result {
    let (mut nosave, mut save, mut force, mut abort, mut now) = (false, false, false, false, false);
    for at in 1..args.len() {
        let words = [
            ("NOSAVE", &mut nosave),
            ("SAVE", &mut save),
            ("FORCE", &mut force),
            ("ABORT", &mut abort),
            ("NOW", &mut now),
        ];
        let Some((_, given)) = words.into_iter().find(|(word, _)| args.is(at, word)) else {
            return Err(CommandError::Syntax.into());
        };
        *given = true;
    }
    if (nosave && save) || (abort && (nosave || save || force || now)) {
        return Err(CommandError::Syntax.into());
    }
    if abort {
        // There are no replicas to wait for, so it never takes longer than a moment.
        return Err(CommandError::err("No shutdown in progress.").into());
    }
    log::warn!("User requested shutdown...");
    if save {
        log::warn!("The data can't be saved: there are no snapshots yet.");
        if !force {
            log::warn!("Can't shut down with SAVE; use SHUTDOWN NOSAVE to lose the data.");
            return Err(CommandError::err("Errors trying to SHUTDOWN. Check logs.").into());
        }
    }
    // There is no reply: the client sees the connection end.
    context.session.closing = true;
    context.shared.stop();
    Ok(())
}

fn time(_: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let now_us = shared::now_us();
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

fn lastsave(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply.integer(context.shared.last_save_s.load(Relaxed));
    Ok(())
}

fn lolwut(_: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    // There is one picture, but what Redis takes for no version is none here either.
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
