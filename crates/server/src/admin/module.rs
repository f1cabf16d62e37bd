//! MODULE: there are no modules, so the list is empty, and nothing can be loaded.

use damselfly_base::CommandError;
use damselfly_commands::Arity::{self, AtLeast, Exactly};
use damselfly_commands::{Args, Command, Group, Keys, Result, Run, Trait};
use damselfly_protocol::Reply;

use crate::registry::{Handler, SessionFn};
use crate::session::Context;

const CHANGES: &[Trait] = &[
    Trait::Admin,
    Trait::NoScript,
    Trait::NoAsyncLoading,
    Trait::Protected,
];

pub(crate) static COMMANDS: &[Command<Handler>] = &[Command {
    name: "MODULE",
    arity: AtLeast(2),
    keys: Keys::None,
    traits: &[],
    run: Run::Subcommands(&[
        Command {
            name: "LIST",
            arity: Exactly(2),
            keys: Keys::None,
            traits: &[
                Trait::Admin,
                Trait::NoScript,
                Trait::Tip("nondeterministic_output_order"),
            ],
            run: Run::Run(Handler::Session(list)),
            group: Group::Server,
            usage: "MODULE LIST",
            summary: "Returns an empty list: this server has no modules.",
            since: "4.0.0",
            complexity: "O(1)",
        },
        subcommand(
            "LOAD",
            AtLeast(3),
            load,
            "MODULE LOAD path [arg [arg ...]]",
            "4.0.0",
        ),
        subcommand(
            "LOADEX",
            AtLeast(3),
            load,
            "MODULE LOADEX path [CONFIG name value [CONFIG name value ...]] [ARGS arg [arg ...]]",
            "7.0.0",
        ),
        subcommand("UNLOAD", Exactly(3), unload, "MODULE UNLOAD name", "4.0.0"),
    ]),
    group: Group::Server,
    usage: "MODULE",
    summary: "A container for commands on modules.",
    since: "4.0.0",
    complexity: "Depends on subcommand.",
}];

const fn subcommand(
    name: &'static str,
    arity: Arity,
    run: SessionFn,
    usage: &'static str,
    since: &'static str,
) -> Command<Handler> {
    Command {
        name,
        arity,
        keys: Keys::None,
        traits: CHANGES,
        run: Run::Run(Handler::Session(run)),
        group: Group::Server,
        usage,
        summary: "Fails: this server has no modules.",
        since,
        complexity: "O(1)",
    }
}

fn list(_: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply.array(0);
    Ok(())
}

fn load(_: &mut Context<'_>, args: Args<'_>, _: &mut Reply<'_>) -> Result {
    log::warn!(
        "Module {} failed to load: this server can't load modules.",
        args.at(2).escape_ascii()
    );
    Err(CommandError::err("Error loading the extension. Please check the server logs.").into())
}

fn unload(_: &mut Context<'_>, _: Args<'_>, _: &mut Reply<'_>) -> Result {
    Err(CommandError::err("Error unloading module: no such module with that name").into())
}
