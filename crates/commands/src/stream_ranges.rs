//! Ranges of streams by ids: XRANGE and XREVRANGE; also how entries are written.

use damselfly_base::CommandError;
use damselfly_collections::stream::StreamEntry;
use damselfly_engine::Tx;
use damselfly_protocol::Reply;
use damselfly_value::{Collection, SharedLarge, Stream, StreamId, Value};

use crate::command::{Arity::AtLeast, At::One, Command, Group, Keys, Run, reads};
use crate::lists::reply_element;
use crate::long::SLICED_MIN;
use crate::stream_ids::{interval_end, interval_start, reply_id};
use crate::{Args, KeyspaceFn, Result, SlicedReply, Stop};

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "XRANGE",
        arity: AtLeast(4),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[],
        run: Run::Run(|tx, args, reply| range(tx, args, Direction::Up, reply)),
        group: Group::Stream,
        usage: "XRANGE key start end [COUNT count]",
        summary: "Returns the entries between two ids (inclusive).",
        since: "5.0.0",
        complexity: "O(log(N)+M) where N is the number of nodes and M the number of entries returned",
    },
    Command {
        name: "XREVRANGE",
        arity: AtLeast(4),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[],
        run: Run::Run(|tx, args, reply| range(tx, args, Direction::Down, reply)),
        group: Group::Stream,
        usage: "XREVRANGE key end start [COUNT count]",
        summary: "Returns the entries between two ids (inclusive), the last one first.",
        since: "5.0.0",
        complexity: "O(log(N)+M) where N is the number of nodes and M the number of entries returned",
    },
];

/// The order of entries in a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The first one first.
    Up,
    /// The last one first.
    Down,
}

/// A range of entries to write.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) start: StreamId,
    pub(crate) end: StreamId,
    pub(crate) direction: Direction,
    /// The number of entries to write; the range has at least as many.
    pub(crate) count: usize,
}

impl Part {
    /// Writes up to `max` of the entries; `self` keeps the rest.
    pub(crate) fn write(&mut self, stream: &Stream, max: usize, reply: &mut Reply<'_>) {
        let walk = &mut stream.walk(self.start, self.end);
        for _ in 0..self.count.min(max) {
            let entry = match self.direction {
                Direction::Up => walk.next(),
                Direction::Down => walk.next_back(),
            };
            self.count -= 1;
            let Some(entry) = entry else {
                // The count never exceeds the entries; if it ever did, the reply would still have the announced length.
                reply.null();
                continue;
            };
            reply_entry(&entry, reply);
            match self.direction {
                Direction::Up => self.start = entry.id.next().unwrap_or(StreamId::MAX),
                Direction::Down => self.end = entry.id.previous().unwrap_or(StreamId::MIN),
            }
        }
    }

    /// A reply that writes the entries, a slice at a time.
    pub(crate) fn into_sliced_reply(mut self, large: SharedLarge) -> SlicedReply {
        const AT_ONCE: usize = 64;
        SlicedReply::new(move |reply| {
            let Value::Stream(stream) = large.value() else {
                return false;
            };
            self.write(stream, AT_ONCE, reply);
            self.count > 0
        })
    }
}

/// Writes an entry: its id, then its fields and values.
#[inline]
pub(crate) fn reply_entry(entry: &StreamEntry<'_>, reply: &mut Reply<'_>) {
    reply.array(2);
    reply_id(entry.id, reply);
    reply.array(entry.len() * 2);
    for (name, value) in entry.pairs() {
        reply_element(name, reply);
        reply_element(value, reply);
    }
}

fn range(tx: &mut Tx<'_>, args: Args<'_>, direction: Direction, reply: &mut Reply<'_>) -> Result {
    let (start_at, end_at) = match direction {
        Direction::Up => (2, 3),
        Direction::Down => (3, 2),
    };
    let (start, end) = (
        interval_start(args.at(start_at))?,
        interval_end(args.at(end_at))?,
    );
    let (mut max, mut at) = (usize::MAX, 4);
    while at < args.len() {
        if !args.is(at, "COUNT") || at + 1 == args.len() {
            return Err(CommandError::Syntax.into());
        }
        max = usize::try_from(args.integer(at + 1)?).unwrap_or(0);
        at += 2;
    }
    let Some(entry) = tx.read(args.key(1)) else {
        reply.array(0);
        return Ok(());
    };
    let stream = Stream::view(entry).ok_or(CommandError::WrongType)?;
    if max == 0 {
        reply.null_array();
        return Ok(());
    }
    let count = stream.count(start, end, max);
    let mut part = Part {
        start,
        end,
        direction,
        count,
    };
    reply.array(count);
    if count > SLICED_MIN
        && let Some(large) = entry.share_large()
    {
        return Err(Stop::SlicedReply(part.into_sliced_reply(large)));
    }
    part.write(stream, count, reply);
    Ok(())
}
