//! MEMORY: the use of memory.

use std::fmt::Write as _;

use damselfly_base::heap;
use damselfly_commands::Arity::{AtLeast, Exactly};
use damselfly_commands::{Args, At, Command, Group, Keys, Result, Run, Trait, looks, memory_usage};
use damselfly_protocol::Reply;

use crate::admin::facts::{Facts, ratio};
use crate::registry::Handler;
use crate::session::Context;

/// The tips of the subcommands that show figures.
const SHOWS: &[Trait] = &[
    Trait::Tip("nondeterministic_output"),
    Trait::Tip("request_policy:all_shards"),
    Trait::Tip("response_policy:special"),
];

const fn subcommand(
    name: &'static str,
    run: Handler,
    usage: &'static str,
    summary: &'static str,
    complexity: &'static str,
) -> Command<Handler> {
    Command {
        name,
        arity: Exactly(2),
        keys: Keys::None,
        traits: SHOWS,
        run: Run::Run(run),
        group: Group::Server,
        usage,
        summary,
        since: "4.0.0",
        complexity,
    }
}

pub(crate) static COMMANDS: &[Command<Handler>] = &[Command {
    name: "MEMORY",
    arity: AtLeast(2),
    keys: Keys::None,
    traits: &[],
    run: Run::Subcommands(&[
        subcommand(
            "DOCTOR",
            Handler::Session(doctor),
            "MEMORY DOCTOR",
            "Explains what may be wrong with the use of memory.",
            "O(1)",
        ),
        subcommand(
            "MALLOC-STATS",
            Handler::Session(malloc_stats),
            "MEMORY MALLOC-STATS",
            "Returns figures of the memory allocator.",
            "Depends on how much memory is allocated, could be slow",
        ),
        Command {
            traits: &[
                Trait::Tip("request_policy:all_shards"),
                Trait::Tip("response_policy:all_succeeded"),
            ],
            ..subcommand(
                "PURGE",
                Handler::Session(purge),
                "MEMORY PURGE",
                "Returns free memory that the allocator still holds to the operating system.",
                "Depends on how much memory is allocated, could be slow",
            )
        },
        subcommand(
            "STATS",
            Handler::Session(stats),
            "MEMORY STATS",
            "Returns figures on memory use.",
            "O(1)",
        ),
        Command {
            arity: AtLeast(3),
            keys: Keys::Args(&[looks(At::One(2))]),
            traits: &[],
            ..subcommand(
                "USAGE",
                Handler::Keyspace(memory_usage),
                "MEMORY USAGE key [SAMPLES count]",
                "Returns the memory of a key and its value, in bytes.",
                "O(N) where N is the number of samples.",
            )
        },
    ]),
    group: Group::Server,
    usage: "MEMORY",
    summary: "Commands for the use of memory.",
    since: "4.0.0",
    complexity: "Depends on subcommand.",
}];

/// A value of MEMORY STATS.
enum Figure {
    Integer(usize),
    Double(f64),
}

use Figure::{Double, Integer};

impl Figure {
    fn write(&self, reply: &mut Reply<'_>) {
        match *self {
            Integer(number) => reply.integer(number as i64),
            Double(number) => reply.double(number),
        }
    }
}

fn stats(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let facts = Facts::gather(context)?;
    let before = [
        ("peak.allocated", Integer(facts.peak)),
        ("total.allocated", Integer(facts.used)),
        ("startup.allocated", Integer(facts.startup)),
        ("replication.backlog", Integer(facts.backlog.memory)),
        ("clients.slaves", Integer(facts.clients.replica_bytes)),
        ("clients.normal", Integer(facts.clients.bytes)),
        ("cluster.links", Integer(0)),
        ("aof.buffer", Integer(0)),
        ("lua.caches", Integer(context.shared.scripts.bytes())),
        ("functions.caches", Integer(facts.libraries.bytes())),
    ];
    let free = facts.resident_counted().saturating_sub(facts.used);
    let per_key = facts.since_startup().checked_div(facts.keys());
    let tables: usize = facts
        .databases
        .iter()
        .map(|totals| totals.table_bytes)
        .sum();
    let after = [
        ("overhead.db.hashtable.lut", Integer(tables)),
        ("overhead.db.hashtable.rehashing", Integer(0)),
        ("db.dict.rehashing.count", Integer(0)),
        ("overhead.total", Integer(facts.overhead())),
        ("keys.count", Integer(facts.keys())),
        ("keys.bytes-per-key", Integer(per_key.unwrap_or(0))),
        ("dataset.bytes", Integer(facts.dataset())),
        (
            "dataset.percentage",
            Double(100.0 * ratio(facts.dataset(), facts.since_startup())),
        ),
        (
            "peak.percentage",
            Double(100.0 * ratio(facts.used, facts.peak)),
        ),
        ("allocator.allocated", Integer(facts.used)),
        ("allocator.active", Integer(facts.resident)),
        ("allocator.resident", Integer(facts.resident)),
        ("allocator.muzzy", Integer(0)),
        (
            "allocator-fragmentation.ratio",
            Double(facts.fragmentation()),
        ),
        ("allocator-fragmentation.bytes", Integer(free)),
        ("allocator-rss.ratio", Double(1.0)),
        ("allocator-rss.bytes", Integer(0)),
        ("rss-overhead.ratio", Double(1.0)),
        ("rss-overhead.bytes", Integer(0)),
        ("fragmentation", Double(facts.fragmentation())),
        ("fragmentation.bytes", Integer(free)),
    ];
    let databases = || {
        facts
            .databases
            .iter()
            .enumerate()
            .filter(|(_, totals)| totals.keys > 0)
    };
    reply.map(before.len() + databases().count() + after.len());
    for (name, figure) in &before {
        reply.bulk(name.as_bytes());
        figure.write(reply);
    }
    for (db, totals) in databases() {
        reply.bulk_display(format_args!("db.{db}"));
        reply.map(3);
        for (name, bytes) in [
            ("overhead.hashtable.main", totals.table_bytes),
            // Deadlines are part of the entries, and cluster slots follow from the hashes of the keys.
            ("overhead.hashtable.expires", 0),
            ("overhead.hashtable.slot-to-keys", 0),
        ] {
            reply.bulk(name.as_bytes());
            reply.integer(bytes as i64);
        }
    }
    for (name, figure) in &after {
        reply.bulk(name.as_bytes());
        figure.write(reply);
    }
    Ok(())
}

fn doctor(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let facts = Facts::gather(context)?;
    reply.verbatim(*b"txt", diagnosis(&facts).as_bytes());
    Ok(())
}

fn diagnosis(facts: &Facts<'_>) -> String {
    /// Below this, the figures mean nothing: most of the memory belongs to the program itself.
    const JUDGED_BYTES_MIN: usize = 5 << 20;
    const PEAK_RATIO_MAX: f64 = 1.5;
    const FRAGMENTATION_MAX: f64 = 1.4;
    /// So much more than the memory in use is usual: the program itself and the buffers of its threads are part of it.
    const FRAGMENTATION_BYTES_MIN: usize = 24 << 20;
    const CLIENT_BYTES_MAX: usize = 200 << 10;
    if facts.used < JUDGED_BYTES_MIN {
        return String::from("Too little memory is in use for a diagnosis.\n");
    }
    let mut text = String::new();
    if ratio(facts.peak, facts.used) > PEAK_RATIO_MAX {
        let _ = writeln!(
            text,
            "- The peak was much higher: {} bytes, now {}. The operating system may still show the peak as used by the process; MEMORY PURGE returns free memory.",
            facts.peak, facts.used
        );
    }
    let unused = facts.resident_counted().saturating_sub(facts.used);
    if facts.fragmentation() > FRAGMENTATION_MAX && unused > FRAGMENTATION_BYTES_MIN {
        let _ = writeln!(
            text,
            "- The resident memory is {:.2} times the memory in use. That is normal after many removals and ends as new data arrives; MEMORY PURGE returns free memory.",
            facts.fragmentation()
        );
    }
    let bytes_per_client = facts.clients.bytes / facts.clients.count.max(1);
    if bytes_per_client > CLIENT_BYTES_MAX {
        let _ = writeln!(
            text,
            "- Connections use {bytes_per_client} bytes each on average. CLIENT LIST shows the clients with large buffers: they send long requests, or do not read their replies."
        );
    }
    if text.is_empty() {
        text.push_str("There is no problem with the use of memory.\n");
    }
    text
}

fn malloc_stats(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let facts = Facts::gather(context)?;
    let text = format!(
        "allocator: {}\nbytes in use: {}\nbytes in use at the peak: {}\nresident bytes: {}\n",
        heap::allocator_name(),
        facts.used,
        facts.peak,
        facts.resident
    );
    reply.verbatim(*b"txt", text.as_bytes());
    Ok(())
}

fn purge(_: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    heap::purge();
    reply.ok();
    Ok(())
}
