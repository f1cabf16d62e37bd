//! The table rows of FCALL and FUNCTION.

use damselfly_commands::Arity::{AtLeast, Exactly};
use damselfly_commands::{Arity, Command, Group, Keys, Run, Trait};

use super::{BY_NAME, delete, dump, flush, kill, list, load, restore, stats};
use crate::registry::{Handler, SessionFn};
use crate::scripts::eval_commands::{KEYS, READ_KEYS, RUNNING, RUNNING_READ_ONLY};

/// The traits of subcommands that remove libraries.
const CHANGES: &[Trait] = &[
    Trait::Writes,
    Trait::NoScript,
    Trait::Tip("request_policy:all_shards"),
    Trait::Tip("response_policy:all_succeeded"),
];
/// The traits of subcommands that add libraries.
const ADDS: &[Trait] = &[
    Trait::Writes,
    Trait::NoScript,
    Trait::NeedsMemory,
    Trait::Tip("request_policy:all_shards"),
    Trait::Tip("response_policy:all_succeeded"),
];

const fn subcommand(
    name: &'static str,
    arity: Arity,
    traits: &'static [Trait],
    run: SessionFn,
    usage: &'static str,
    summary: &'static str,
    complexity: &'static str,
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
        since: "7.0.0",
        complexity,
    }
}

pub(crate) static COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "FCALL",
        arity: AtLeast(3),
        keys: Keys::Args(KEYS),
        traits: RUNNING,
        run: Run::Run(Handler::Script(&BY_NAME)),
        group: Group::Scripting,
        usage: "FCALL function numkeys [key [key ...]] [arg [arg ...]]",
        summary: "Calls a function of a library.",
        since: "7.0.0",
        complexity: "Depends on the function that is executed.",
    },
    Command {
        name: "FCALL_RO",
        arity: AtLeast(3),
        keys: Keys::Args(READ_KEYS),
        traits: RUNNING_READ_ONLY,
        run: Run::Run(Handler::Script(&BY_NAME)),
        group: Group::Scripting,
        usage: "FCALL_RO function numkeys [key [key ...]] [arg [arg ...]]",
        summary: "Calls a read-only function of a library.",
        since: "7.0.0",
        complexity: "Depends on the function that is executed.",
    },
    Command {
        name: "FUNCTION",
        arity: AtLeast(2),
        keys: Keys::None,
        traits: &[],
        run: Run::Subcommands(&[
            subcommand(
                "DELETE",
                Exactly(3),
                CHANGES,
                delete,
                "FUNCTION DELETE library-name",
                "Deletes a library and its functions.",
                "O(1)",
            ),
            subcommand(
                "DUMP",
                Exactly(2),
                &[Trait::NoScript],
                dump,
                "FUNCTION DUMP",
                "Returns all libraries as a payload for FUNCTION RESTORE.",
                "O(N) where N is the number of functions",
            ),
            subcommand(
                "FLUSH",
                AtLeast(2),
                CHANGES,
                flush,
                "FUNCTION FLUSH [ASYNC | SYNC]",
                "Deletes all libraries.",
                "O(N) where N is the number of functions deleted",
            ),
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
                "FUNCTION KILL",
                "Kills a function that exceeds its time limit, unless it has written.",
                "O(1)",
            ),
            subcommand(
                "LIST",
                AtLeast(2),
                &[Trait::NoScript, Trait::Tip("nondeterministic_output_order")],
                list,
                "FUNCTION LIST [LIBRARYNAME library-name-pattern] [WITHCODE]",
                "Describes all libraries, or those whose names match a pattern.",
                "O(N) where N is the number of functions",
            ),
            subcommand(
                "LOAD",
                AtLeast(3),
                ADDS,
                load,
                "FUNCTION LOAD [REPLACE] function-code",
                "Loads a library; with REPLACE, replaces the library of the same name.",
                "O(1) (considering compilation time is redundant)",
            ),
            subcommand(
                "RESTORE",
                AtLeast(3),
                ADDS,
                restore,
                "FUNCTION RESTORE serialized-value [FLUSH | APPEND | REPLACE]",
                "Restores libraries from a payload of FUNCTION DUMP.",
                "O(N) where N is the number of functions on the payload",
            ),
            subcommand(
                "STATS",
                Exactly(2),
                &[
                    Trait::NoScript,
                    Trait::AllowBusy,
                    Trait::Tip("nondeterministic_output"),
                    Trait::Tip("request_policy:all_shards"),
                    Trait::Tip("response_policy:special"),
                ],
                stats,
                "FUNCTION STATS",
                "Returns the running function and the numbers of libraries and functions.",
                "O(1)",
            ),
        ]),
        group: Group::Scripting,
        usage: "FUNCTION",
        summary: "Commands about function libraries.",
        since: "7.0.0",
        complexity: "Depends on subcommand.",
    },
];
