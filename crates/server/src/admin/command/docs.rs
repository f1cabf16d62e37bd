//! The documentation of commands: COMMAND DOCS, and `docs/commands.md`.

use std::fmt::Write as _;

use damselfly_commands::{Args, Group, Result, Trait};
use damselfly_protocol::Reply;

use super::usage::{Argument, Kind, arguments};
use super::{facts, find};
use crate::registry::{REGISTRY, Row};
use crate::session::Context;

pub(super) fn reply_docs(_: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let rows: Vec<&Row> = if args.len() == 2 {
        REGISTRY.top_level().collect()
    } else {
        args.from(2).filter_map(find).collect()
    };
    write_rows(&rows, reply);
    Ok(())
}

fn write_rows(rows: &[&Row], reply: &mut Reply<'_>) {
    reply.map(rows.len());
    for row in rows {
        reply.bulk(row.name.as_bytes());
        write_row(row, reply);
    }
}

fn write_row(row: &Row, reply: &mut Reply<'_>) {
    let command = &row.command;
    let map = reply.deferred_map();
    let mut fields = 0;
    let mut field = |reply: &mut Reply<'_>, name: &str, text: &str| {
        if !text.is_empty() {
            reply.bulk(name.as_bytes());
            reply.bulk(text.as_bytes());
            fields += 1;
        }
    };
    field(reply, "summary", command.summary.trim_end_matches('.'));
    field(reply, "since", command.since);
    field(reply, "group", command.group.name());
    field(reply, "complexity", command.complexity);
    let deprecated = command.traits.iter().find_map(|of_row| {
        if let Trait::Deprecated { since, instead } = of_row {
            Some((since, instead))
        } else {
            None
        }
    });
    if let Some((since, instead)) = deprecated {
        field(reply, "deprecated_since", since);
        field(reply, "replaced_by", instead);
    }
    let flag = match deprecated {
        Some(_) => Some("deprecated"),
        None => command.has(Trait::SystemCommand).then_some("syscmd"),
    };
    if let Some(flag) = flag {
        reply.bulk(b"doc_flags");
        reply.set(1);
        reply.simple(flag);
        fields += 1;
    }
    if row.subcommands.is_empty() {
        let arguments = arguments_of(row);
        if !arguments.is_empty() {
            reply.bulk(b"arguments");
            write_arguments(&arguments, reply);
            fields += 1;
        }
    } else {
        let rows: Vec<&Row> = row
            .subcommands
            .iter()
            .map(|&index| &REGISTRY.rows()[index])
            .collect();
        reply.bulk(b"subcommands");
        write_rows(&rows, reply);
        fields += 1;
    }
    reply.finish(map, fields);
}

fn arguments_of(row: &Row) -> Vec<Argument> {
    let name_words = row.name.split('|').count();
    let specs = facts::key_specs(&row.command);
    // The usage of HELP has fewer words than the name of its row.
    let usage = row.command.usage;
    arguments(usage, name_words, &specs)
}

fn write_arguments(arguments: &[Argument], reply: &mut Reply<'_>) {
    reply.array(arguments.len());
    for argument in arguments {
        write_argument(argument, reply);
    }
}

fn write_argument(argument: &Argument, reply: &mut Reply<'_>) {
    let map = reply.deferred_map();
    let mut fields = 2;
    reply.bulk(b"name");
    reply.bulk(argument.name.as_bytes());
    reply.bulk(b"type");
    reply.bulk(argument.kind.name().as_bytes());
    let inner = match &argument.kind {
        Kind::OneOf(inner) | Kind::Block(inner) => Some(inner),
        Kind::Key(_)
        | Kind::String
        | Kind::Integer
        | Kind::Double
        | Kind::Pattern
        | Kind::UnixTime
        | Kind::PureToken => None,
    };
    if inner.is_none() {
        reply.bulk(b"display_text");
        reply.bulk(argument.name.as_bytes());
        fields += 1;
    }
    if let Kind::Key(Some(index)) = argument.kind {
        reply.bulk(b"key_spec_index");
        reply.integer(index as i64);
        fields += 1;
    }
    if let Some(token) = &argument.token {
        reply.bulk(b"token");
        reply.bulk(token.as_bytes());
        fields += 1;
    }
    let flags: Vec<&str> = [
        (argument.optional, "optional"),
        (argument.multiple, "multiple"),
        (argument.multiple_token, "multiple_token"),
    ]
    .iter()
    .filter(|(on, _)| *on)
    .map(|(_, flag)| *flag)
    .collect();
    if !flags.is_empty() {
        reply.bulk(b"flags");
        reply.set(flags.len());
        flags.iter().for_each(|flag| reply.simple(flag));
        fields += 1;
    }
    if let Some(inner) = inner {
        reply.bulk(b"arguments");
        write_arguments(inner, reply);
        fields += 1;
    }
    reply.finish(map, fields);
}

const INTRODUCTION: &str = "\
# Commands

<!-- Printed from the tables of commands in crates/commands and crates/server; a test keeps it current. -->

Each command behaves as in Redis since the version in the last column. `COMMAND DOCS` returns the same to clients, and
`<container> HELP` lists subcommands. Where the version is newer than 7.4, [`redis-7.4.md`](redis-7.4.md) names the definition.
";

const LEFT_OUT: &str = "
## Left out

These commands of Redis 8 and Valkey 9 are not here:

| Commands | Why |
|---|---|
| `JSON.*`, `FT.*`, `TS.*`, `BF.*`, `CF.*`, `CMS.*`, `TOPK.*`, `TDIGEST.*`, `VADD` and the other commands of vector sets | They belong to data types that Redis 8 brings as modules. Snapshots that contain such values are refused, with the name of the module. |
| `CLUSTER SLOT-STATS`, `CLUSTER MIGRATION`, `CLUSTER MIGRATESLOTS`, `CLUSTER GETSLOTMIGRATIONS`, `CLUSTER CANCELSLOTMIGRATIONS`, `CLUSTER FLUSHSLOT`, `SFLUSH` | There are no clusters. |
| `XCFGSET`, and `IDMP` and `IDMPAUTO` of `XADD` (Redis 8.6) | Snapshots of 7.0's format, which every version of Redis can read, have no place for the ids of producers. |
| `XNACK` (Redis 8.8), `CLAIM` of `XREADGROUP` (Redis 8.4) | `XCLAIM` and `XAUTOCLAIM` do the same in two steps. |
| `COMMANDLOG` (Valkey 8.1), `HOTKEYS` (Redis 8.6) | `SLOWLOG`, `MEMORY USAGE`, `OBJECT FREQ` and `redis-cli --hotkeys` answer the same questions. |
| `CLIENT IMPORT-SOURCE` (Valkey 8.1) | It serves tools that copy data between versions of Valkey. |
| `SCRIPT SHOW` (Valkey 8) | `FUNCTION LIST WITHCODE` shows the code that a server keeps; clients have the code of their scripts. |
| `BYPOLYGON` of `GEOSEARCH` (Valkey 9) | Redis does not have it. |

These of memcached reply `ERROR`:

| Commands | Why |
|---|---|
| `lru`, `slabs` | There are no slabs and no lists of items. |
| `cache_memlimit` | `CONFIG SET maxmemory`, over RESP, does it. |
| `watch` | `MONITOR`, over RESP, shows the commands of all clients. |
";

const GROUPS: [(Group, &str); 15] = [
    (Group::String, "Strings"),
    (Group::List, "Lists"),
    (Group::Set, "Sets"),
    (Group::Hash, "Hashes"),
    (Group::SortedSet, "Sorted sets"),
    (Group::Stream, "Streams"),
    (Group::Bitmap, "Bitmaps"),
    (Group::HyperLogLog, "HyperLogLogs"),
    (Group::Geo, "Positions"),
    (Group::Generic, "Keys"),
    (Group::PubSub, "Publish and subscribe"),
    (Group::Scripting, "Scripts and functions"),
    (Group::Connection, "Connections"),
    (Group::Cluster, "Clusters"),
    (Group::Server, "Server"),
];

/// The text of `docs/commands.md`.
pub fn docs() -> String {
    let mut text = String::from(INTRODUCTION);
    for (group, title) in GROUPS {
        let mut rows: Vec<&Row> = REGISTRY
            .rows()
            .iter()
            .filter(|row| row.command.group == group && row.subcommands.is_empty())
            .filter(|row| !row.name.ends_with("|help"))
            .collect();
        rows.sort_by_key(|row| &row.name);
        let _ = write!(
            text,
            "\n## {title}\n\n| Usage | What it does | Since |\n|---|---|---|\n"
        );
        for row in rows {
            let command = &row.command;
            let usage = command.usage.replace('|', "\\|");
            let _ = writeln!(
                text,
                "| `{usage}` | {} | {} |",
                command.summary, command.since
            );
        }
    }
    text.push_str(LEFT_OUT);
    text
}
