//! XREAD: reading the entries of streams after an id, or blocking until there are some. XREADGROUP, which has a file of its own,
//! shares the parser and the reply.

use std::ops::Range;
use std::sync::Arc;

use damselfly_base::CommandError;
use damselfly_base::number::parse_integer;
use damselfly_engine::{Key, Tx};
use damselfly_protocol::{Reply, Version};
use damselfly_value::{SharedLarge, Stream, StreamId, Type, Value};

use crate::command::{Access, Arity::AtLeast, At, Command, Group, KeySpec, Keys, Run, Trait};
use crate::long::SLICED_MIN;
use crate::stream_ids::{IdText, parse_exact};
use crate::stream_ranges::{Direction, Part};
use crate::{Args, KeyspaceFn, OwnedArgs, Result, SlicedReply, Stop, Wait};

/// Options with the number of arguments after each, which can't be the word STREAMS.
pub(crate) const OPTIONS: &[(&str, usize)] = &[("BLOCK", 1), ("COUNT", 1), ("GROUP", 2)];

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[Command {
    name: "XREAD",
    arity: AtLeast(4),
    keys: Keys::Args(&[KeySpec {
        at: At::HalfBehind {
            word: "STREAMS",
            usually_from: 1,
            skipping: OPTIONS,
        },
        access: Access::Read,
    }]),
    traits: &[Trait::Blocking],
    run: Run::Run(xread),
    group: Group::Stream,
    usage: "XREAD [COUNT count] [BLOCK milliseconds] STREAMS key [key ...] id [id ...]",
    summary: "Returns the entries of streams with ids higher than those given; can block until there are some.",
    since: "5.0.0",
    complexity: "O(log(N)+M) for each stream, where N is its number of nodes and M the number of entries returned",
}];

/// The parsed arguments of XREAD or XREADGROUP.
pub(crate) struct Request {
    /// How long to block; `None` for not at all, 0 for forever.
    pub(crate) block_ms: Option<u64>,
    /// The most entries of each stream.
    pub(crate) count: Option<usize>,
    /// The indexes of the keys. As many ids follow.
    pub(crate) keys: Range<usize>,
    /// The index of the group's name, which the consumer's name follows; `None` for XREAD.
    pub(crate) group_at: Option<usize>,
    /// NOACK: entries count as acknowledged when they are read.
    pub(crate) is_acknowledged: bool,
}

impl Request {
    /// Parses a request; `of_group` is true for XREADGROUP.
    pub(crate) fn parse(args: Args<'_>, of_group: bool) -> Result<Self> {
        let refused = |text: &str| Err(CommandError::err(text).into());
        let (mut block_ms, mut count, mut first, mut at) = (None, None, None, 1);
        let (mut group_at, mut is_acknowledged) = (None, false);
        while at < args.len() && first.is_none() {
            let more = args.len() - at - 1;
            if more > 0 && args.is(at, "BLOCK") {
                block_ms = Some(timeout_ms(args.at(at + 1))?);
                at += 2;
            } else if more > 0 && args.is(at, "COUNT") {
                let number = usize::try_from(args.integer(at + 1)?);
                count = number.ok().filter(|&count| count > 0);
                at += 2;
            } else if more > 0 && args.is(at, "STREAMS") {
                if more % 2 == 1 {
                    return refused(
                        "Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified.",
                    );
                }
                first = Some(at + 1);
            } else if of_group && more > 1 && args.is(at, "GROUP") {
                group_at = Some(at + 1);
                at += 3;
            } else if of_group && args.is(at, "NOACK") {
                is_acknowledged = true;
                at += 1;
            } else if more > 1 && args.is(at, "GROUP") {
                return refused(
                    "The GROUP option is only supported by XREADGROUP. You called XREAD instead.",
                );
            } else if args.is(at, "NOACK") {
                return refused(
                    "The NOACK option is only supported by XREADGROUP. You called XREAD instead.",
                );
            } else {
                return Err(CommandError::Syntax.into());
            }
        }
        let first = first.ok_or(CommandError::Syntax)?;
        if of_group && group_at.is_none() {
            return refused("Missing GROUP option for XREADGROUP");
        }
        Ok(Self {
            block_ms,
            count,
            keys: first..first + (args.len() - first) / 2,
            group_at,
            is_acknowledged,
        })
    }

    /// The index of a key's id.
    pub(crate) fn id_at(&self, key_at: usize) -> usize {
        key_at + self.keys.len()
    }
}

/// Parses a timeout in whole milliseconds.
fn timeout_ms(text: &[u8]) -> Result<u64> {
    let ms = parse_integer(text)
        .ok_or_else(|| CommandError::err("timeout is not an integer or out of range"))?;
    Ok(u64::try_from(ms).map_err(|_| CommandError::err("timeout is negative"))?)
}

/// The id after which only the last entry is.
fn before_last_entry(stream: &Stream) -> StreamId {
    match stream.last_entry_id() {
        Some(last) => last.previous().unwrap_or(StreamId::MIN),
        None => stream.last_id(),
    }
}

/// The ids after which to read, in order of the keys.
fn resolve(tx: &mut Tx<'_>, args: Args<'_>, request: &Request) -> Result<Vec<StreamId>> {
    let mut ids = Vec::with_capacity(request.keys.len());
    for key_at in request.keys.clone() {
        let stream = tx.read_as::<Stream>(args.key(key_at))?;
        let id = match args.at(request.id_at(key_at)) {
            b"$" => stream.map_or(StreamId::MIN, Stream::last_id),
            b"+" => stream.map_or(StreamId::MIN, before_last_entry),
            b">" => {
                let text = "The > ID can be specified only when calling XREADGROUP using the GROUP <group> <consumer> option.";
                return Err(CommandError::err(text).into());
            }
            text => parse_exact(text, 0)?,
        };
        ids.push(id);
    }
    Ok(ids)
}

/// The entries after an id.
pub(crate) fn part_after(stream: &Stream, id: StreamId, count: Option<usize>) -> Option<Part> {
    let (start, end) = (id.next()?, StreamId::MAX);
    let count = stream.count(start, end, count.unwrap_or(usize::MAX));
    (count > 0).then_some(Part {
        start,
        end,
        direction: Direction::Up,
        count,
    })
}

/// Begins a reply for `count` streams.
fn reply_streams(count: usize, reply: &mut Reply<'_>) {
    match reply.version() {
        Version::Resp2 => reply.array(count),
        Version::Resp3 => reply.map(count),
    }
}

/// Begins one stream's part of a reply.
pub(crate) fn reply_stream(key: &[u8], entries: usize, reply: &mut Reply<'_>) {
    if reply.version() == Version::Resp2 {
        reply.array(2);
    }
    reply.bulk(key);
    reply.array(entries);
}

fn xread(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let request = Request::parse(args, false)?;
    let ids = resolve(tx, args, &request)?;
    let mut parts = Vec::new();
    for (key_at, &id) in request.keys.clone().zip(&ids) {
        let stream = tx.read_as::<Stream>(args.key(key_at))?;
        let part = stream.and_then(|stream| part_after(stream, id, request.count));
        parts.extend(part.map(|part| (key_at, part)));
    }
    if !parts.is_empty() {
        reply_streams(parts.len(), reply);
        return reply_parts(tx, args, parts, reply);
    }
    let Some(block_ms) = request.block_ms else {
        reply.null_array();
        return Ok(());
    };
    Err(Stop::Wait(Arc::new(Wait {
        timeout_ms: Some(block_ms).filter(|&ms| ms > 0),
        keys: request.keys.clone(),
        target: None,
        of: Type::Stream,
        has: |tx, args, key| matches!(awaited(tx, args, key), Ok(Some(_))),
        serve: |tx, args, _, reply| {
            let keys = Request::parse(args, false)?.keys;
            let mut parts = Vec::new();
            // Keys that the section has not locked can't have changed.
            for key_at in keys
                .filter(|&at| tx.holds_key(args.key(at)))
                .collect::<Vec<_>>()
            {
                parts.extend(awaited(tx, args, args.key(key_at))?);
            }
            reply_streams(parts.len(), reply);
            reply_parts(tx, args, parts, reply)
        },
        ends_if_gone: false,
        nothing: |reply| reply.null_array(),
        timed_out: |reply| reply.null_array(),
        args: Some(with_ids(args, &request, &ids)),
    })))
}

/// The request with `$` replaced by the id that it means now.
fn with_ids(args: Args<'_>, request: &Request, ids: &[StreamId]) -> OwnedArgs {
    let ids: Vec<_> = ids.iter().map(|&id| IdText::new(id)).collect();
    let (others, sent) = (
        args.from(0).take(request.keys.end),
        args.from(request.keys.end),
    );
    let ids = ids.iter().zip(sent).map(|(id, sent)| match sent {
        b"+" => sent,
        _ => id.as_bytes(),
    });
    OwnedArgs::copy(others.chain(ids))
}

/// The entries at a key for a blocked client, with the key's index in its request.
fn awaited(tx: &mut Tx<'_>, args: Args<'_>, key: Key<'_>) -> Result<Option<(usize, Part)>> {
    let request = Request::parse(args, false)?;
    let Some(stream) = tx.peek_as::<Stream>(key)? else {
        return Ok(None);
    };
    let key_at = request.keys.clone().find(|&at| args.at(at) == key.bytes);
    let Some(key_at) = key_at else {
        return Ok(None);
    };
    let id = match args.at(request.id_at(key_at)) {
        b"+" => before_last_entry(stream),
        id => parse_exact(id, 0)?,
    };
    Ok(part_after(stream, id, request.count).map(|part| (key_at, part)))
}

/// Writes parts of streams, each with the index of its key.
pub(crate) fn reply_parts(
    tx: &mut Tx<'_>,
    args: Args<'_>,
    parts: Vec<(usize, Part)>,
    reply: &mut Reply<'_>,
) -> Result {
    let entries = parts.iter().map(|(_, part)| part.count).sum::<usize>();
    if entries > SLICED_MIN {
        return Err(Stop::SlicedReply(sliced_parts(tx, args, parts)));
    }
    for (key_at, mut part) in parts {
        let key = args.key(key_at);
        reply_stream(key.bytes, part.count, reply);
        if let Some(stream) = tx.peek_as::<Stream>(key)? {
            part.write(stream, part.count, reply);
        }
    }
    Ok(())
}

/// A reply that writes parts of streams, some entries at a time.
fn sliced_parts(tx: &mut Tx<'_>, args: Args<'_>, parts: Vec<(usize, Part)>) -> SlicedReply {
    const AT_ONCE: usize = 64;
    let share = |(key_at, part): (usize, Part)| -> Option<(Vec<u8>, Part, SharedLarge)> {
        let key = args.key(key_at);
        let large = tx.peek(key)?.share_large()?;
        Some((key.bytes.to_vec(), part, large))
    };
    let parts: Vec<_> = parts.into_iter().filter_map(share).collect();
    let (mut parts, mut current) = (parts.into_iter(), None);
    SlicedReply::new(move |reply| {
        if current.is_none() {
            current = parts.next();
            if let Some((key, part, _)) = &current {
                reply_stream(key, part.count, reply);
            }
        }
        let Some((_, part, large)) = &mut current else {
            return false;
        };
        if let Value::Stream(stream) = large.value() {
            part.write(stream, AT_ONCE, reply);
        }
        if part.count == 0 {
            current = None;
        }
        true
    })
}
