//! XDELEX and XACKDEL: removing entries of a stream with regard to the consumer groups that refer to them.
//!
//! Defined by <https://redis.io/docs/latest/commands/xdelex/> and <https://redis.io/docs/latest/commands/xackdel/>.

use std::ops::Range;

use damselfly_base::CommandError;
use damselfly_base::number::parse_integer;
use damselfly_collections::stream::{References, Removals};
use damselfly_engine::{Create, Event, Key, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{Stream, StreamId};

use crate::command::{Access, Arity::AtLeast, At::One, Command, Group, Keys, Run, Trait, writes};
use crate::stream_groups::log_acknowledged;
use crate::stream_ids::parse_exact;
use crate::{Args, KeyspaceFn, Result};

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "XDELEX",
        arity: AtLeast(5),
        keys: Keys::Args(&[writes(One(1), Access::Shrink)]),
        traits: &[Trait::Fast],
        run: Run::Run(xdelex),
        group: Group::Stream,
        usage: "XDELEX key [KEEPREF | DELREF | ACKED] IDS numids id [id ...]",
        summary: "Removes entries from a stream, with the references of consumer groups to them, or only if all groups have acknowledged them.",
        since: "8.2.0",
        complexity: "O(log(N)) for each id, where N is the number of nodes",
    },
    Command {
        name: "XACKDEL",
        arity: AtLeast(6),
        keys: Keys::Args(&[writes(One(1), Access::Shrink)]),
        traits: &[Trait::Fast],
        run: Run::Run(xackdel),
        group: Group::Stream,
        usage: "XACKDEL key group [KEEPREF | DELREF | ACKED] IDS numids id [id ...]",
        summary: "Acknowledges entries of a consumer group and removes them from the stream, as XDELEX does.",
        since: "8.2.0",
        complexity: "O(log(N)) for each id, where N is the number of nodes or of pending entries",
    },
];

/// The reply for an id that is not in the stream, or not pending.
const NO_ENTRY: i64 = -1;
/// The reply for a removed entry.
const REMOVED: i64 = 1;
/// The reply for an entry that stays because a group has yet to acknowledge it.
const REFERENCED: i64 = 2;

/// The treatment of references that an argument names.
pub(crate) fn references_named(args: Args<'_>, at: usize) -> Option<References> {
    [
        ("KEEPREF", References::Keep),
        ("DELREF", References::Remove),
        ("ACKED", References::Respect),
    ]
    .into_iter()
    .find(|(word, _)| args.is(at, word))
    .map(|(_, references)| references)
}

/// The options of both commands.
struct Request {
    references: References,
    ids: Vec<StreamId>,
}

impl Request {
    fn parse(args: Args<'_>, first: usize) -> Result<Self> {
        let (mut references, mut ids, mut at) = (None, None::<Range<usize>>, first);
        while at < args.len() {
            if references.is_none()
                && let Some(named) = references_named(args, at)
            {
                references = Some(named);
                at += 1;
            } else if ids.is_none() && args.is(at, "IDS") && at + 1 < args.len() {
                let count = parse_integer(args.at(at + 1))
                    .and_then(|count| usize::try_from(count).ok())
                    .filter(|&count| count > 0)
                    .ok_or_else(|| CommandError::err("Number of IDs must be a positive integer"))?;
                let start = at + 2;
                if count > args.len() - start {
                    let text = "The `numids` parameter must match the number of arguments";
                    return Err(CommandError::err(text).into());
                }
                at = start + count;
                ids = Some(start..at);
            } else {
                return Err(CommandError::Syntax.into());
            }
        }
        let ids = ids.ok_or(CommandError::Syntax)?;
        let ids = ids.map(|at| parse_exact(args.at(at), 0));
        Ok(Self {
            references: references.unwrap_or_default(),
            ids: ids.collect::<Result<_>>()?,
        })
    }
}

/// What became of the entries of a request.
#[derive(Default)]
struct Outcome {
    replies: Vec<i64>,
    removals: Removals,
}

/// Removes an entry from a stream, unless it has to stay, and returns the reply.
fn remove(stream: &mut Stream, id: StreamId, references: References, done: &mut Outcome) -> i64 {
    match references {
        References::Keep => {}
        References::Remove => stream.remove_references(id, &mut done.removals),
        References::Respect if stream.is_acknowledged(id) => {}
        References::Respect if stream.get(id).is_some() => return REFERENCED,
        References::Respect => return NO_ENTRY,
    }
    if !stream.remove(id) {
        return NO_ENTRY;
    }
    done.removals.removed.push(id);
    REMOVED
}

fn xdelex(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let request = Request::parse(args, 2)?;
    run(tx, args, &request, reply, |stream, id, done| {
        remove(stream, id, request.references, done)
    })
}

fn xackdel(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let request = Request::parse(args, 3)?;
    let group = args.at(2);
    run(tx, args, &request, reply, |stream, id, done| {
        let is_pending = |stream: &Stream| {
            stream
                .group(group)
                .is_some_and(|group| group.pending().contains_key(&id))
        };
        if !is_pending(stream) {
            return NO_ENTRY;
        }
        stream.change_group(group, |group| group.acknowledge(id));
        done.removals.released.push((group.into(), id));
        match remove(stream, id, request.references, done) {
            REFERENCED => REFERENCED,
            // The entry was acknowledged, even if it was not in the stream any more.
            _ => REMOVED,
        }
    })
}

/// Calls `remove_one` for each id, and writes the replies.
fn run(
    tx: &mut Tx<'_>,
    args: Args<'_>,
    request: &Request,
    reply: &mut Reply<'_>,
    mut remove_one: impl FnMut(&mut Stream, StreamId, &mut Outcome) -> i64,
) -> Result {
    let key = args.key(1);
    let done = match tx.access_as::<Stream>(key)? {
        None => None,
        Some(_) => tx.change_used::<Stream, _>(key, Create::Never, |stream| {
            let (stream, mut done) = (stream.change(), Outcome::default());
            for &id in &request.ids {
                let answer = remove_one(stream, id, &mut done);
                done.replies.push(answer);
            }
            done
        })?,
    };
    let done = done.unwrap_or_else(|| Outcome {
        replies: vec![NO_ENTRY; request.ids.len()],
        ..Outcome::default()
    });
    if !done.removals.removed.is_empty() {
        tx.changed(key, Event::Xdel);
    }
    tx.changed_many(done.removals.released.len());
    log_removals(tx, key, &done.removals);
    reply.array(done.replies.len());
    done.replies
        .iter()
        .for_each(|&answer| reply.integer(answer));
    Ok(())
}

/// Logs removals as what other servers know: XACK and XDEL.
pub(crate) fn log_removals(tx: &mut Tx<'_>, key: Key<'_>, removals: &Removals) {
    if !tx.is_logged() {
        return;
    }
    let mut released: Vec<_> = removals.released.iter().collect();
    released.sort_unstable();
    for group in released.chunk_by(|a, b| a.0 == b.0) {
        let ids: Vec<StreamId> = group.iter().map(|(_, id)| *id).collect();
        log_acknowledged(tx, key, &group[0].0, &ids);
    }
    if !removals.removed.is_empty() {
        let ids: Vec<String> = removals.removed.iter().map(StreamId::to_string).collect();
        let mut args = vec![&b"XDEL"[..], key.bytes];
        args.extend(ids.iter().map(String::as_bytes));
        tx.log_effect(&args);
    }
}
