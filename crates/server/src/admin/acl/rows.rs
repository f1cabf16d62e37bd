//! The table of ACL's subcommands.

use damselfly_commands::Arity::{AtLeast, Exactly};
use damselfly_commands::{Arity, Command, Group, Keys, Run, Trait};

use super::{
    cat, del_user, dry_run, gen_pass, get_user, list, load, log, save, set_user, users, who_am_i,
};
use crate::registry::{Handler, SessionFn};

pub(crate) static COMMANDS: &[Command<Handler>] = &[Command {
    name: "ACL",
    arity: AtLeast(2),
    keys: Keys::None,
    traits: &[Trait::Sentinel],
    run: Run::Subcommands(SUBCOMMANDS),
    group: Group::Server,
    usage: "ACL",
    summary: "Commands for users and their rights.",
    since: "6.0.0",
    complexity: "Depends on subcommand.",
}];

/// The traits of subcommands about all users.
const ADMIN: &[Trait] = &[
    Trait::Admin,
    Trait::NoScript,
    Trait::Loading,
    Trait::Stale,
    Trait::Sentinel,
];

/// The traits of subcommands that change users, which clients of a cluster send to all nodes.
const CHANGES: &[Trait] = &[
    Trait::Admin,
    Trait::NoScript,
    Trait::Loading,
    Trait::Stale,
    Trait::Sentinel,
    Trait::Tip("request_policy:all_nodes"),
    Trait::Tip("response_policy:all_succeeded"),
];

/// The traits of the others.
const PLAIN: &[Trait] = ADMIN.split_at(1).1;

const fn subcommand(
    name: &'static str,
    arity: Arity,
    traits: &'static [Trait],
    run: SessionFn,
    (usage, summary): (&'static str, &'static str),
    complexity: &'static str,
) -> Command<Handler> {
    Command {
        name,
        arity,
        keys: Keys::None,
        traits,
        run: Run::Run(Handler::Session(run)),
        group: Group::Server,
        usage,
        summary,
        since: "6.0.0",
        complexity,
    }
}

const FOR_EACH_USER: &str = "O(N). Where N is the number of configured users.";

const SUBCOMMANDS: &[Command<Handler>] = &[
    subcommand(
        "CAT",
        AtLeast(2),
        PLAIN,
        cat,
        (
            "ACL CAT [category]",
            "Lists the categories, or the commands of one.",
        ),
        "O(1) since the categories and commands are a fixed set.",
    ),
    subcommand(
        "DELUSER",
        AtLeast(3),
        CHANGES,
        del_user,
        (
            "ACL DELUSER username [username ...]",
            "Deletes users and closes their connections.",
        ),
        "O(1) amortized time considering the typical user.",
    ),
    Command {
        since: "7.0.0",
        ..subcommand(
            "DRYRUN",
            AtLeast(4),
            ADMIN,
            dry_run,
            (
                "ACL DRYRUN username command [arg [arg ...]]",
                "Tells whether a user may run a command, without running it.",
            ),
            "O(1).",
        )
    },
    subcommand(
        "GENPASS",
        AtLeast(2),
        PLAIN,
        gen_pass,
        (
            "ACL GENPASS [bits]",
            "Returns a random password, of 256 bits unless given, in hexadecimal.",
        ),
        "O(1)",
    ),
    subcommand(
        "GETUSER",
        Exactly(3),
        ADMIN,
        get_user,
        (
            "ACL GETUSER username",
            "Returns the passwords (as digests) and rules of a user.",
        ),
        "O(N). Where N is the number of password, command and pattern rules that the user has.",
    ),
    subcommand(
        "LIST",
        Exactly(2),
        ADMIN,
        list,
        (
            "ACL LIST",
            "Returns all users and their rules, as lines of an ACL file.",
        ),
        FOR_EACH_USER,
    ),
    subcommand(
        "LOAD",
        Exactly(2),
        ADMIN,
        load,
        (
            "ACL LOAD",
            "Replaces all users by those of the ACL file, or changes nothing if the file has a mistake.",
        ),
        FOR_EACH_USER,
    ),
    subcommand(
        "LOG",
        AtLeast(2),
        ADMIN,
        log,
        (
            "ACL LOG [count | RESET]",
            "Returns the latest commands and logins that were refused, or forgets them.",
        ),
        "O(N) with N being the number of entries shown.",
    ),
    subcommand(
        "SAVE",
        Exactly(2),
        CHANGES,
        save,
        ("ACL SAVE", "Writes all users into the ACL file."),
        FOR_EACH_USER,
    ),
    subcommand(
        "SETUSER",
        AtLeast(3),
        CHANGES,
        set_user,
        (
            "ACL SETUSER username [rule [rule ...]]",
            "Changes a user, or creates one, as the rules say: all of them, or none if one is wrong.",
        ),
        "O(N). Where N is the number of rules provided.",
    ),
    subcommand(
        "USERS",
        Exactly(2),
        ADMIN,
        users,
        ("ACL USERS", "Returns the names of all users."),
        FOR_EACH_USER,
    ),
    subcommand(
        "WHOAMI",
        Exactly(2),
        PLAIN,
        who_am_i,
        ("ACL WHOAMI", "Returns the user of the connection."),
        "O(1)",
    ),
];
