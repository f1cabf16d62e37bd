//! EVAL, EVALSHA, their read-only variants, and SCRIPT.

use std::sync::atomic::Ordering::Relaxed;

use damselfly_base::CommandError;
use damselfly_base::number::parse_integer;
use damselfly_base::sha1::{hex, sha1};
use damselfly_commands::Arity::{AtLeast, Exactly};
use damselfly_commands::{
    Access, Args, Arity, At, Command, Group, KeySpec, Keys, Result, Run, Trait, reads,
};
use damselfly_protocol::Reply;
use damselfly_script::{Flags, Script, parse_digest};

use crate::registry::Handler;
use crate::scripts::{Finder, Kind, Program, ScriptContext};
use crate::session::Context;
use crate::shared::Shared;

pub(super) const RUNNING: &[Trait] = &[
    Trait::NoScript,
    Trait::Stale,
    Trait::SkipMonitor,
    Trait::MayReplicate,
    Trait::NoMandatoryKeys,
];

pub(super) const RUNNING_READ_ONLY: &[Trait] = &[
    Trait::NoScript,
    Trait::Stale,
    Trait::SkipMonitor,
    Trait::NoMandatoryKeys,
];

/// Access is read and update, because it is not known what a script does with its keys.
pub(super) const KEYS: &[KeySpec] = &[KeySpec {
    at: At::Counted(2),
    access: Access::ReadUpdate,
}];
pub(super) const READ_KEYS: &[KeySpec] = &[reads(At::Counted(2))];

static BY_TEXT: Finder = Finder {
    find: find_by_text,
    flags: flags_by_text,
};

static BY_DIGEST: Finder = Finder {
    find: find_by_digest,
    flags: flags_by_digest,
};

const fn subcommand(
    name: &'static str,
    arity: Arity,
    traits: &'static [Trait],
    run: crate::registry::SessionFn,
    usage: &'static str,
    summary: &'static str,
) -> Command<Handler> {
    Command {
        name,
        arity,
        keys: Keys::None,
        traits,
        run: Run::Run(Handler::Session(run)),
        group: Group::Scripting,
        usage,
        summary,
        since: "2.6.0",
        complexity: "O(1)",
    }
}

pub(crate) static COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "EVAL",
        arity: AtLeast(3),
        keys: Keys::Args(KEYS),
        traits: RUNNING,
        run: Run::Run(Handler::Script(&BY_TEXT)),
        group: Group::Scripting,
        usage: "EVAL script numkeys [key [key ...]] [arg [arg ...]]",
        summary: "Runs a Lua script.",
        since: "2.6.0",
        complexity: "Depends on the script that is executed.",
    },
    Command {
        name: "EVALSHA",
        arity: AtLeast(3),
        keys: Keys::Args(KEYS),
        traits: RUNNING,
        run: Run::Run(Handler::Script(&BY_DIGEST)),
        group: Group::Scripting,
        usage: "EVALSHA sha1 numkeys [key [key ...]] [arg [arg ...]]",
        summary: "Runs a cached Lua script by its SHA-1 digest.",
        since: "2.6.0",
        complexity: "Depends on the script that is executed.",
    },
    Command {
        name: "EVAL_RO",
        arity: AtLeast(3),
        keys: Keys::Args(READ_KEYS),
        traits: RUNNING_READ_ONLY,
        run: Run::Run(Handler::Script(&BY_TEXT)),
        group: Group::Scripting,
        usage: "EVAL_RO script numkeys [key [key ...]] [arg [arg ...]]",
        summary: "Runs a read-only Lua script.",
        since: "7.0.0",
        complexity: "Depends on the script that is executed.",
    },
    Command {
        name: "EVALSHA_RO",
        arity: AtLeast(3),
        keys: Keys::Args(READ_KEYS),
        traits: RUNNING_READ_ONLY,
        run: Run::Run(Handler::Script(&BY_DIGEST)),
        group: Group::Scripting,
        usage: "EVALSHA_RO sha1 numkeys [key [key ...]] [arg [arg ...]]",
        summary: "Runs a cached read-only Lua script by its SHA-1 digest.",
        since: "7.0.0",
        complexity: "Depends on the script that is executed.",
    },
    Command {
        name: "SCRIPT",
        arity: AtLeast(2),
        keys: Keys::None,
        traits: &[],
        run: Run::Subcommands(&[
            Command {
                since: "3.2.0",
                ..subcommand(
                    "DEBUG",
                    Exactly(3),
                    &[Trait::NoScript],
                    debug,
                    "SCRIPT DEBUG <YES | SYNC | NO>",
                    "Always refused: there is no script debugger.",
                )
            },
            Command {
                complexity: "O(N) with N being the number of scripts to check (so checking a single script is an O(1) operation).",
                ..subcommand(
                    "EXISTS",
                    AtLeast(3),
                    &[
                        Trait::NoScript,
                        Trait::Tip("request_policy:all_shards"),
                        Trait::Tip("response_policy:agg_logical_and"),
                    ],
                    exists,
                    "SCRIPT EXISTS sha1 [sha1 ...]",
                    "Returns, for each SHA-1 digest, whether the script cache has the script.",
                )
            },
            Command {
                complexity: "O(N) with N being the number of scripts in cache",
                ..subcommand(
                    "FLUSH",
                    AtLeast(2),
                    &[
                        Trait::NoScript,
                        Trait::Tip("request_policy:all_nodes"),
                        Trait::Tip("response_policy:all_succeeded"),
                    ],
                    flush,
                    "SCRIPT FLUSH [ASYNC | SYNC]",
                    "Empties the script cache.",
                )
            },
            subcommand(
                "KILL",
                Exactly(2),
                &[
                    Trait::NoScript,
                    Trait::AllowBusy,
                    Trait::Tip("request_policy:all_shards"),
                    Trait::Tip("response_policy:one_succeeded"),
                ],
                kill,
                "SCRIPT KILL",
                "Kills a script that exceeds its time limit, unless it has written.",
            ),
            Command {
                complexity: "O(N) with N being the length in bytes of the script body.",
                ..subcommand(
                    "LOAD",
                    Exactly(3),
                    &[
                        Trait::NoScript,
                        Trait::Stale,
                        Trait::Tip("request_policy:all_nodes"),
                        Trait::Tip("response_policy:all_succeeded"),
                    ],
                    load,
                    "SCRIPT LOAD script",
                    "Adds a script to the script cache and returns its SHA-1 digest.",
                )
            },
        ]),
        group: Group::Scripting,
        usage: "SCRIPT",
        summary: "Commands about the script cache and running scripts.",
        since: "2.6.0",
        complexity: "Depends on subcommand.",
    },
];

/// The number of keys that a request declares.
fn declared_keys(args: Args<'_>) -> std::result::Result<usize, CommandError> {
    let count = parse_integer(args.at(2)).ok_or(CommandError::NotInteger)?;
    let Ok(count) = usize::try_from(count) else {
        return Err(CommandError::err("Number of keys can't be negative"));
    };
    if count > args.len() - 3 {
        return Err(CommandError::err(
            "Number of keys can't be greater than number of args",
        ));
    }
    Ok(count)
}

fn find_by_text(
    context: &mut ScriptContext,
    shared: &Shared,
    args: Args<'_>,
) -> std::result::Result<(Program, usize), CommandError> {
    let keys = declared_keys(args)?;
    let script = context.evaluate(&shared.scripts, args.at(1))?;
    Ok((Program::Script(script), keys))
}

fn find_by_digest(
    context: &mut ScriptContext,
    shared: &Shared,
    args: Args<'_>,
) -> std::result::Result<(Program, usize), CommandError> {
    let found = parse_digest(args.at(1)).map(|digest| {
        let keys = declared_keys(args)?;
        Ok((context.find(&shared.scripts, &digest), keys))
    });
    match found.transpose()? {
        Some((Some(script), keys)) => Ok((Program::Script(script), keys)),
        Some((None, _)) | None => Err(CommandError::Text(String::from(
            "NOSCRIPT No matching script. Please use EVAL.",
        ))),
    }
}

fn flags_by_text(_: &Shared, args: Args<'_>) -> Option<Flags> {
    Script::parse(args.at(1)).ok()?.flags()
}

fn flags_by_digest(shared: &Shared, args: Args<'_>) -> Option<Flags> {
    let digest = parse_digest(args.at(1))?;
    shared.scripts.cache().get(&digest)?.script().flags()
}

fn load(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let text = args.at(2);
    let digest = sha1(text);
    let scripts = &context.shared.scripts;
    if !scripts.cache().mark_loaded(&digest) {
        let script = scripts.checked(text)?;
        scripts.cache().insert_loaded(script);
    }
    reply.bulk(hex(&digest).as_bytes());
    Ok(())
}

fn exists(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let cache = context.shared.scripts.cache();
    reply.array(args.len() - 2);
    for digest in args.from(2) {
        let found = parse_digest(digest).is_some_and(|digest| cache.contains(&digest));
        reply.integer(i64::from(found));
    }
    Ok(())
}

fn flush(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let known = args.len() == 2 || args.is(2, "ASYNC") || args.is(2, "SYNC");
    if !known || args.len() > 3 {
        let text = "SCRIPT FLUSH only support SYNC|ASYNC option";
        return Err(CommandError::err(text).into());
    }
    context.shared.scripts.flush();
    reply.ok();
    Ok(())
}

fn kill(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    context.shared.scripts.kill(Kind::Script)?;
    reply.ok();
    Ok(())
}

/// DEBUG SET-DISABLE-DENY-SCRIPTS: lets scripts call commands that are otherwise denied.
pub(crate) fn set_deny(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let allowed = &context.shared.scripts.allows_denied;
    allowed.store(!args.is(2, "0"), Relaxed);
    reply.ok();
    Ok(())
}

fn debug(_: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    if args.is(2, "NO") {
        reply.ok();
        return Ok(());
    }
    if args.is(2, "YES") || args.is(2, "SYNC") {
        return Err(CommandError::err("There is no debugger for scripts").into());
    }
    Err(CommandError::err("Use SCRIPT DEBUG YES/SYNC/NO").into())
}
