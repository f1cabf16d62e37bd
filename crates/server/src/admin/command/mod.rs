//! COMMAND: the table of commands, for client libraries and people.

mod docs;
pub mod facts;
pub mod usage;

pub use docs::docs;

use damselfly_base::CommandError;
use damselfly_base::glob::Glob;
use damselfly_commands::Arity::{AtLeast, Exactly};
use damselfly_commands::{
    Access, Args, Arity, At, Command, Group, KeySpec, Keys, Result, Run, Trait,
};
use damselfly_protocol::Reply;

use crate::registry::{Handler, REGISTRY, Row, SessionFn};
use crate::session::Context;

const IN_ANY_ORDER: Trait = Trait::Tip("nondeterministic_output_order");

pub(crate) static COMMANDS: &[Command<Handler>] = &[Command {
    name: "COMMAND",
    arity: AtLeast(1),
    keys: Keys::None,
    traits: &[
        Trait::Loading,
        Trait::Stale,
        Trait::Sentinel,
        Trait::Category("connection"),
        IN_ANY_ORDER,
    ],
    run: Run::Either(Handler::Session(all), SUBCOMMANDS),
    group: Group::Server,
    usage: "COMMAND",
    summary: "Describes all commands, for client libraries.",
    since: "2.8.13",
    complexity: "O(N) where N is the number of commands",
}];

const fn subcommand(
    name: &'static str,
    arity: Arity,
    run: SessionFn,
    usage: &'static str,
    summary: &'static str,
    since: &'static str,
    complexity: &'static str,
) -> Command<Handler> {
    Command {
        name,
        arity,
        keys: Keys::None,
        traits: &[Trait::Loading, Trait::Stale, Trait::Category("connection")],
        run: Run::Run(Handler::Session(run)),
        group: Group::Server,
        usage,
        summary,
        since,
        complexity,
    }
}

const fn in_any_order(command: Command<Handler>) -> Command<Handler> {
    Command {
        traits: &[
            Trait::Loading,
            Trait::Stale,
            Trait::Category("connection"),
            IN_ANY_ORDER,
        ],
        ..command
    }
}

static SUBCOMMANDS: &[Command<Handler>] = &[
    subcommand(
        "COUNT",
        Exactly(2),
        count,
        "COMMAND COUNT",
        "Returns the number of commands.",
        "2.8.13",
        "O(1)",
    ),
    in_any_order(subcommand(
        "LIST",
        AtLeast(2),
        list,
        "COMMAND LIST [FILTERBY <MODULE module-name | ACLCAT category | PATTERN pattern>]",
        "Returns the names of all commands, or of those that match a filter.",
        "7.0.0",
        "O(N) where N is the number of commands",
    )),
    in_any_order(subcommand(
        "INFO",
        AtLeast(2),
        info,
        "COMMAND INFO [command-name ...]",
        "Describes the given commands, or all, for client libraries.",
        "2.8.13",
        "O(N) where N is the number of commands asked for",
    )),
    in_any_order(subcommand(
        "DOCS",
        AtLeast(2),
        docs::reply_docs,
        "COMMAND DOCS [command-name ...]",
        "Returns the documentation of the given commands, or of all.",
        "7.0.0",
        "O(N) where N is the number of commands asked for",
    )),
    subcommand(
        "GETKEYS",
        AtLeast(3),
        getkeys,
        "COMMAND GETKEYS command [arg [arg ...]]",
        "Returns the keys of a complete command.",
        "2.8.13",
        "O(N) where N is the number of arguments of the command",
    ),
    subcommand(
        "GETKEYSANDFLAGS",
        AtLeast(3),
        getkeysandflags,
        "COMMAND GETKEYSANDFLAGS command [arg [arg ...]]",
        "Returns the keys of a complete command, each with flags for how the command uses it.",
        "7.0.0",
        "O(N) where N is the number of arguments of the command",
    ),
];

/// The command of this name, or the subcommand if the name has the form `container|subcommand`.
fn find(name: &[u8]) -> Option<&'static Row> {
    match name.iter().position(|&byte| byte == b'|') {
        None => REGISTRY.find(name),
        Some(bar) => {
            let container = REGISTRY.find(&name[..bar])?;
            REGISTRY.find_subcommand(container, &name[bar + 1..])
        }
    }
}

fn write_set(reply: &mut Reply<'_>, prefix: &str, words: &[&str]) {
    reply.set(words.len());
    for word in words {
        reply.simple(&format!("{prefix}{word}"));
    }
}

fn write_info(row: &Row, reply: &mut Reply<'_>) {
    let command = &row.command;
    reply.array(10);
    reply.bulk(row.name.as_bytes());
    reply.integer(command.arity.signed());
    write_set(reply, "", &facts::flags(command));
    let (first, last, step) = facts::range(command);
    for number in [first, last, step] {
        reply.integer(number);
    }
    write_set(reply, "@", &facts::categories(command));
    let tips = facts::tips(command);
    reply.set(tips.len());
    tips.iter().for_each(|tip| reply.bulk(tip.as_bytes()));
    let specs = facts::key_specs(command);
    reply.set(specs.len());
    for spec in &specs {
        write_spec(spec, reply);
    }
    reply.array(row.subcommands.len());
    for &index in &row.subcommands {
        write_info(&REGISTRY.rows()[index], reply);
    }
}

fn write_spec(spec: &facts::Spec, reply: &mut Reply<'_>) {
    reply.map(3);
    reply.bulk(b"flags");
    write_set(reply, "", spec.access.flags());
    let part = |reply: &mut Reply<'_>, name: &str, kind: &str, fields: &[(&str, i64)]| {
        reply.bulk(name.as_bytes());
        reply.map(2);
        reply.bulk(b"type");
        reply.bulk(kind.as_bytes());
        reply.bulk(b"spec");
        reply.map(fields.len());
        for (field, value) in fields {
            reply.bulk(field.as_bytes());
            reply.integer(*value);
        }
    };
    match spec.place {
        facts::Place::Range { first, last, step } => {
            let range = [("lastkey", last), ("keystep", step as i64), ("limit", 0)];
            part(reply, "begin_search", "index", &[("index", first as i64)]);
            part(reply, "find_keys", "range", &range);
        }
        facts::Place::Counted { count_at, step } => {
            let keys = [("keynumidx", 0), ("firstkey", 1), ("keystep", step as i64)];
            part(
                reply,
                "begin_search",
                "index",
                &[("index", count_at as i64)],
            );
            part(reply, "find_keys", "keynum", &keys);
        }
        facts::Place::AllBehind { word, from } => {
            write_keyword(reply, word, from);
            let range = [("lastkey", -1), ("keystep", 1), ("limit", 0)];
            part(reply, "find_keys", "range", &range);
        }
        facts::Place::HalfBehind { word, from } => {
            write_keyword(reply, word, from as i64);
            let range = [("lastkey", -1), ("keystep", 1), ("limit", 2)];
            part(reply, "find_keys", "range", &range);
        }
        facts::Place::Behind { word, from } => {
            write_keyword(reply, word, from as i64);
            let range = [("lastkey", 0), ("keystep", 1), ("limit", 0)];
            part(reply, "find_keys", "range", &range);
        }
        facts::Place::Unknown => {
            part(reply, "begin_search", "unknown", &[]);
            part(reply, "find_keys", "unknown", &[]);
        }
    }
}

/// Writes how to find a word among the arguments.
fn write_keyword(reply: &mut Reply<'_>, word: &str, from: i64) {
    reply.bulk(b"begin_search");
    reply.map(2);
    reply.bulk(b"type");
    reply.bulk(b"keyword");
    reply.bulk(b"spec");
    reply.map(2);
    reply.bulk(b"keyword");
    reply.bulk(word.as_bytes());
    reply.bulk(b"startfrom");
    reply.integer(from);
}

fn all(_: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply.array(REGISTRY.top_level().count());
    for row in REGISTRY.top_level() {
        write_info(row, reply);
    }
    Ok(())
}

fn count(_: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply.integer(REGISTRY.top_level().count() as i64);
    Ok(())
}

fn info(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    if args.len() == 2 {
        return all(context, args, reply);
    }
    reply.array(args.len() - 2);
    for name in args.from(2) {
        match find(name) {
            Some(row) => write_info(row, reply),
            None => reply.null(),
        }
    }
    Ok(())
}

fn list(_: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    if args.len() == 2 {
        reply.array(REGISTRY.rows().len());
        REGISTRY
            .rows()
            .iter()
            .for_each(|row| reply.bulk(row.name.as_bytes()));
        return Ok(());
    }
    if args.len() != 5 || !args.is(2, "FILTERBY") {
        return Err(CommandError::Syntax.into());
    }
    let wanted = args.at(4);
    let passes: &dyn Fn(&Row) -> bool = if args.is(3, "ACLCAT") {
        &|row| {
            facts::categories(&row.command)
                .iter()
                .any(|category| wanted.eq_ignore_ascii_case(category.as_bytes()))
        }
    } else if args.is(3, "PATTERN") {
        let glob = Glob::ignoring_case(wanted);
        &move |row| glob.matches(row.name.as_bytes())
    } else if args.is(3, "MODULE") {
        &|_| false
    } else {
        return Err(CommandError::Syntax.into());
    };
    let (list, mut found) = (reply.deferred_array(), 0);
    for row in REGISTRY.rows().iter().filter(|row| passes(row)) {
        reply.bulk(row.name.as_bytes());
        found += 1;
    }
    reply.finish(list, found);
    Ok(())
}

/// The keys of the command after `COMMAND GETKEYS`, with how it uses each of them.
fn keys_of<'a>(args: Args<'a>) -> Result<Vec<(&'a [u8], Access)>> {
    let refused = |text: &str| Err(CommandError::err(text).into());
    let request = args.behind(2);
    let row = match REGISTRY.find(args.at(2)) {
        Some(container) if !container.subcommands.is_empty() => match args.get(3) {
            Some(name) => REGISTRY.find_subcommand(container, name),
            None => Some(container),
        },
        found => found,
    };
    let Some(row) = row else {
        return refused("Invalid command specified");
    };
    let Keys::Args(specs) = row.command.keys else {
        return refused("The command has no key arguments");
    };
    if !row.command.arity.allows(request.len()) {
        return refused("Invalid number of arguments specified for command");
    }
    let is_wrong_count = |spec: &KeySpec| match spec.at {
        At::Counted(_) | At::CountedPairs(_) => spec.at.places(request).next().is_none(),
        At::One(_)
        | At::ToEnd { .. }
        | At::ToLastButOne(_)
        | At::HalfBehind { .. }
        | At::OneUnless { .. }
        | At::AllBehind { .. }
        | At::Behind { .. } => false,
    };
    let needs_keys = !row.command.has(Trait::NoMandatoryKeys);
    let keys: Vec<_> = specs
        .iter()
        .flat_map(|spec| spec.at.places(request).map(|place| (place, spec.access)))
        .map(|(place, access)| {
            let access = facts::exactly(&row.command, access, request);
            (args.at(place + 2), access)
        })
        .collect();
    if needs_keys && (keys.is_empty() || specs.iter().any(is_wrong_count)) {
        return refused("Invalid arguments specified for command");
    }
    Ok(keys)
}

fn getkeys(_: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let keys = keys_of(args)?;
    reply.array(keys.len());
    keys.iter().for_each(|(key, _)| reply.bulk(key));
    Ok(())
}

fn getkeysandflags(_: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let keys = keys_of(args)?;
    reply.array(keys.len());
    for (key, access) in keys {
        reply.array(2);
        reply.bulk(key);
        write_set(reply, "", access.flags());
    }
    Ok(())
}
