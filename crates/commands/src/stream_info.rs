//! XINFO: information about a stream, its groups and their consumers.

use damselfly_base::CommandError;
use damselfly_collections::stream::{Consumer, Group as ReadingGroup, StreamEntry};
use damselfly_engine::Tx;
use damselfly_protocol::Reply;
use damselfly_value::{Collection, Stream, StreamId};

use crate::command::{
    Arity, Arity::AtLeast, Arity::Exactly, At::One, Command, Group, KeySpec, Keys, Run, Trait,
    reads,
};
use crate::stream_groups::no_group;
use crate::stream_ids::reply_id;
use crate::stream_ranges::reply_entry;
use crate::{Args, KeyspaceFn, Result, long};

const READ: &[KeySpec] = &[reads(One(2))];

const fn about(
    name: &'static str,
    arity: Arity,
    traits: &'static [Trait],
    run: KeyspaceFn,
    usage: &'static str,
    summary: &'static str,
) -> Command<KeyspaceFn> {
    Command {
        name,
        arity,
        keys: Keys::Args(READ),
        traits,
        run: Run::Run(run),
        group: Group::Stream,
        usage,
        summary,
        since: "5.0.0",
        complexity: "O(N) where N is the number of items returned",
    }
}

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[Command {
    name: "XINFO",
    arity: AtLeast(2),
    keys: Keys::None,
    traits: &[],
    run: Run::Subcommands(&[
        about(
            "CONSUMERS",
            Exactly(4),
            &[Trait::Tip("nondeterministic_output")],
            consumers,
            "XINFO CONSUMERS key group",
            "Returns the consumers of a consumer group.",
        ),
        about(
            "GROUPS",
            Exactly(3),
            &[],
            groups,
            "XINFO GROUPS key",
            "Returns the consumer groups of a stream.",
        ),
        about(
            "STREAM",
            AtLeast(3),
            &[],
            stream,
            "XINFO STREAM key [FULL [COUNT count]]",
            "Returns information about a stream; with FULL, also its entries and consumer groups.",
        ),
    ]),
    group: Group::Stream,
    usage: "XINFO",
    summary: "Commands that return information about a stream.",
    since: "5.0.0",
    complexity: "Depends on subcommand.",
}];

/// How many entries FULL shows by default.
const SHOWN_DEFAULT: usize = 10;

fn found<'t>(tx: &'t mut Tx<'_>, args: Args<'_>) -> Result<&'t Stream> {
    let stream = tx.read_as::<Stream>(args.key(2))?;
    Ok(stream.ok_or(CommandError::NoSuchKey)?)
}

fn reply_optional(number: Option<i64>, reply: &mut Reply<'_>) {
    match number {
        Some(number) => reply.integer(number),
        None => reply.null(),
    }
}

fn reply_optional_entry(entry: Option<StreamEntry<'_>>, reply: &mut Reply<'_>) {
    match entry {
        Some(entry) => reply_entry(&entry, reply),
        None => reply.null(),
    }
}

/// The time of a consumer that never got an entry.
const NEVER: i64 = -1;

fn consumers(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let now_ms = tx.now().0;
    let stream = found(tx, args)?;
    let Some(group) = stream.group(args.at(3)) else {
        return Err(no_group(args.key(2), args.at(3)).into());
    };
    let consumers = group.consumers();
    reply.array(consumers.len());
    for (_, consumer) in consumers {
        reply.map(4);
        reply.bulk(b"name");
        reply.bulk(consumer.name());
        reply.bulk(b"pending");
        reply.integer(consumer.pending().len() as i64);
        reply.bulk(b"idle");
        reply.integer((now_ms - consumer.seen_ms).max(0));
        reply.bulk(b"inactive");
        let inactive_ms = consumer.active_ms.map(|ms| (now_ms - ms).max(0));
        reply.integer(inactive_ms.unwrap_or(NEVER));
    }
    Ok(())
}

fn groups(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let stream = found(tx, args)?;
    reply.array(stream.groups().len());
    for (name, group) in stream.groups() {
        reply.map(6);
        reply.bulk(b"name");
        reply.bulk(name);
        reply.bulk(b"consumers");
        reply.integer(group.consumers().len() as i64);
        reply.bulk(b"pending");
        reply.integer(group.pending().len() as i64);
        reply_progress(stream, group, reply);
    }
    Ok(())
}

/// Writes how far a group has read: three pairs of a map.
fn reply_progress(stream: &Stream, group: &ReadingGroup, reply: &mut Reply<'_>) {
    reply.bulk(b"last-delivered-id");
    reply_id(group.last_id, reply);
    reply.bulk(b"entries-read");
    reply_optional(group.entries_read.map(u64::cast_signed), reply);
    reply.bulk(b"lag");
    reply_optional(stream.lag(group), reply);
}

/// Parses the arguments after the key: how many entries FULL shows; `None` without FULL.
fn full_count(args: Args<'_>) -> Result<Option<usize>> {
    let is_full = args.is(3, "FULL");
    if args.len() == 3 {
        return Ok(None);
    }
    let has_count = args.len() == 6 && args.is(4, "COUNT");
    if !is_full || args.len() != 4 && !has_count {
        return Err(CommandError::quoting(
            "unknown subcommand or wrong number of arguments for '",
            args.at(1),
            "'. Try XINFO HELP.",
        )
        .into());
    }
    if !has_count {
        return Ok(Some(SHOWN_DEFAULT));
    }
    Ok(Some(match usize::try_from(args.integer(5)?) {
        Ok(0) => usize::MAX,
        Ok(count) => count,
        Err(_) => SHOWN_DEFAULT,
    }))
}

fn stream(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let stream = tx.peek(args.key(2)).and_then(Stream::view);
    let all = stream.map_or(0, |stream| {
        let pending = stream.groups().map(|(_, group)| 2 * group.pending().len());
        stream.len() + pending.sum::<usize>()
    });
    let is_found = stream.is_some();
    let full_count = match is_found {
        true => full_count(args)?,
        false => None,
    };
    found(tx, args)?;
    let steps = match full_count {
        Some(count) if count > SHOWN_DEFAULT => all,
        Some(_) | None => 0,
    };
    long::reply_from(tx, args, 2..3, steps, reply, move |entries, reply| {
        if let Some(stream) = entries[0].and_then(Stream::view) {
            write(stream, full_count, reply);
        }
        Ok(())
    })
}

/// Writes information about a stream; with `full_count` also its entries and pending entries, up to that many.
fn write(stream: &Stream, full_count: Option<usize>, reply: &mut Reply<'_>) {
    reply.map(if full_count.is_some() { 9 } else { 10 });
    reply.bulk(b"length");
    reply.integer(stream.len() as i64);
    reply.bulk(b"radix-tree-keys");
    reply.integer(stream.node_count() as i64);
    reply.bulk(b"radix-tree-nodes");
    // There is no radix tree here; a flat one would have this many nodes.
    reply.integer(stream.node_count() as i64 + 1);
    reply.bulk(b"last-generated-id");
    reply_id(stream.last_id(), reply);
    reply.bulk(b"max-deleted-entry-id");
    reply_id(stream.deleted_max(), reply);
    reply.bulk(b"entries-added");
    reply.integer(stream.added().cast_signed());
    reply.bulk(b"recorded-first-entry-id");
    reply_id(stream.first_id(), reply);
    let mut walk = stream.walk(StreamId::MIN, StreamId::MAX);
    let Some(count) = full_count else {
        reply.bulk(b"groups");
        reply.integer(stream.groups().len() as i64);
        reply.bulk(b"first-entry");
        reply_optional_entry(walk.next(), reply);
        reply.bulk(b"last-entry");
        reply_optional_entry(walk.next_back(), reply);
        return;
    };
    reply.bulk(b"entries");
    reply.array(stream.len().min(count));
    walk.take(count)
        .for_each(|entry| reply_entry(&entry, reply));
    reply.bulk(b"groups");
    reply.array(stream.groups().len());
    for (name, group) in stream.groups() {
        reply_group(stream, name, group, count, reply);
    }
}

fn reply_group(
    stream: &Stream,
    name: &[u8],
    group: &ReadingGroup,
    count: usize,
    reply: &mut Reply<'_>,
) {
    reply.map(7);
    reply.bulk(b"name");
    reply.bulk(name);
    reply_progress(stream, group, reply);
    reply.bulk(b"pel-count");
    reply.integer(group.pending().len() as i64);
    reply.bulk(b"pending");
    reply.array(group.pending().len().min(count));
    for (&id, pending) in group.pending().iter().take(count) {
        reply.array(4);
        reply_id(id, reply);
        reply.bulk(group.consumer(pending.consumer).name());
        reply.integer(pending.delivered_ms);
        reply.integer(pending.deliveries.cast_signed());
    }
    reply.bulk(b"consumers");
    reply.array(group.consumers().len());
    for (_, consumer) in group.consumers() {
        reply_consumer(group, consumer, count, reply);
    }
}

fn reply_consumer(group: &ReadingGroup, consumer: &Consumer, count: usize, reply: &mut Reply<'_>) {
    reply.map(5);
    reply.bulk(b"name");
    reply.bulk(consumer.name());
    reply.bulk(b"seen-time");
    reply.integer(consumer.seen_ms);
    reply.bulk(b"active-time");
    reply.integer(consumer.active_ms.unwrap_or(NEVER));
    reply.bulk(b"pel-count");
    reply.integer(consumer.pending().len() as i64);
    reply.bulk(b"pending");
    reply.array(consumer.pending().len().min(count));
    for id in consumer.pending().iter().take(count) {
        reply.array(3);
        reply_id(*id, reply);
        let pending = group.pending().get(id);
        reply.integer(pending.map_or(0, |pending| pending.delivered_ms));
        reply.integer(pending.map_or(0, |pending| pending.deliveries.cast_signed()));
    }
}
