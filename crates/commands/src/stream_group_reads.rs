//! XREADGROUP: reading the new entries of a consumer group, or again those that a consumer has not acknowledged.

use std::sync::Arc;

use damselfly_base::CommandError;
use damselfly_collections::stream::{ConsumerIndex, Group as ReadingGroup, Pending};
use damselfly_engine::{Create, Event, Key, Tx};
use damselfly_protocol::reply::Deferred;
use damselfly_protocol::{Reply, Version};
use damselfly_value::{Stream, StreamId, StreamMut, Type};

use crate::command::{Access, Arity::AtLeast, At, Command, Group, KeySpec, Keys, Run, Trait};
use crate::stream_groups::{
    count_change, log_deliveries, log_new_consumer, log_position, refusal, see_consumer,
};
use crate::stream_ids::{parse_exact, reply_id};
use crate::stream_ranges::{Part, reply_entry};
use crate::stream_reads::{OPTIONS, Request, part_after, reply_stream};
use crate::{Args, KeyspaceFn, Result, Stop, Wait, long};

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[Command {
    name: "XREADGROUP",
    arity: AtLeast(7),
    keys: Keys::Args(&[KeySpec {
        at: At::HalfBehind {
            word: "STREAMS",
            usually_from: 4,
            skipping: OPTIONS,
        },
        access: Access::ReadNoting,
    }]),
    traits: &[Trait::Blocking],
    run: Run::Run(xreadgroup),
    group: Group::Stream,
    usage: "XREADGROUP GROUP group consumer [COUNT count] [BLOCK milliseconds] [NOACK] STREAMS key [key ...] id [id ...]",
    summary: "Returns entries that a consumer group has not read yet, or that a consumer has not acknowledged; can block until there are some.",
    since: "5.0.0",
    complexity: "O(M*log(N)) for each stream, where N is the number of pending entries and M the number of entries returned",
}];

/// The entries to read from a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// Entries that the group has not read yet.
    New,
    /// Entries after this id that the consumer has not acknowledged.
    Unacknowledged(StreamId),
}

/// The consumer that reads, and its options.
struct Reader<'a> {
    group: &'a [u8],
    consumer: &'a [u8],
    count: Option<usize>,
    is_acknowledged: bool,
    now_ms: i64,
}

impl<'a> Reader<'a> {
    fn new(tx: &Tx<'_>, args: Args<'a>, request: &Request) -> Self {
        let group_at = request.group_at.unwrap_or_default();
        Self {
            group: args.at(group_at),
            consumer: args.at(group_at + 1),
            count: request.count,
            is_acknowledged: request.is_acknowledged,
            now_ms: tx.now().0,
        }
    }

    /// The entries of a stream that the group has not read yet.
    fn unread(&self, stream: &Stream) -> Option<Part> {
        part_after(stream, stream.group(self.group)?.last_id, self.count)
    }

    /// Marks the consumer as seen, or adds it, and then writes the entries of a stream, if there are any, and records their delivery
    /// in the group. Unacknowledged entries are written even if there are none.
    fn read(
        &self,
        stream: &mut StreamMut<'_>,
        key: &[u8],
        source: Source,
        reply: &mut Reply<'_>,
    ) -> Read {
        let see = |group: &mut ReadingGroup| see_consumer(group, self.consumer, self.now_ms);
        let Some((consumer, has_new_consumer)) = stream.change().change_group(self.group, see)
        else {
            return Read::default();
        };
        let delivered = match source {
            Source::New => self
                .unread(stream.view())
                .map(|part| self.read_new(stream, key, part, consumer, reply)),
            Source::Unacknowledged(id) => Some(self.read_again(stream, key, id, consumer, reply)),
        };
        Read {
            has_new_consumer,
            has_replied: delivered.is_some(),
            delivered: delivered.unwrap_or_default(),
        }
    }

    /// Returns the entries that are pending now.
    fn read_new(
        &self,
        stream: &mut StreamMut<'_>,
        key: &[u8],
        part: Part,
        consumer: ConsumerIndex,
        reply: &mut Reply<'_>,
    ) -> Vec<StreamId> {
        let view = stream.view();
        let mut entries_read = view.group(self.group).and_then(|group| group.entries_read);
        let mut ids = Vec::with_capacity(part.count);
        reply_stream(key, part.count, reply);
        for entry in view.walk(part.start, part.end).take(part.count) {
            reply_entry(&entry, reply);
            entries_read = view.entries_read_with(entries_read, entry.id);
            ids.push(entry.id);
        }
        stream.change().change_group(self.group, |group| {
            group.consumer_mut(consumer).active_ms = Some(self.now_ms);
            group.entries_read = entries_read;
            group.last_id = ids.last().copied().unwrap_or(group.last_id);
            let pending = Pending {
                consumer,
                delivered_ms: self.now_ms,
                deliveries: 1,
            };
            if !self.is_acknowledged {
                ids.iter()
                    .for_each(|&id| group.record_delivery(id, pending));
            }
        });
        if self.is_acknowledged {
            ids.clear();
        }
        ids
    }

    /// Returns the entries that are pending again.
    fn read_again(
        &self,
        stream: &mut StreamMut<'_>,
        key: &[u8],
        behind: StreamId,
        consumer: ConsumerIndex,
        reply: &mut Reply<'_>,
    ) -> Vec<StreamId> {
        let view = stream.view();
        let group = view.group(self.group);
        let pending = group.into_iter().flat_map(|group| {
            let start = behind.next();
            start
                .into_iter()
                .flat_map(|start| group.consumer(consumer).pending().range(start..))
        });
        let ids: Vec<StreamId> = pending
            .copied()
            .take(self.count.unwrap_or(usize::MAX))
            .collect();
        reply_stream(key, ids.len(), reply);
        let mut delivered = Vec::with_capacity(ids.len());
        for id in ids {
            match view.get(id) {
                Some(entry) => {
                    reply_entry(&entry, reply);
                    delivered.push(id);
                }
                None => {
                    reply.array(2);
                    reply_id(id, reply);
                    reply.null_array();
                }
            }
        }
        if delivered.is_empty() {
            return delivered;
        }
        stream.change().change_group(self.group, |group| {
            for &id in &delivered {
                let deliveries = group
                    .pending()
                    .get(&id)
                    .map_or(0, |pending| pending.deliveries);
                let pending = Pending {
                    consumer,
                    delivered_ms: self.now_ms,
                    deliveries: deliveries.wrapping_add(1),
                };
                group.record_delivery(id, pending);
            }
        });
        delivered
    }
}

/// What a read of one stream did.
#[derive(Debug, Default)]
struct Read {
    has_new_consumer: bool,
    /// The stream is part of the reply.
    has_replied: bool,
    /// The entries that are pending now, or again.
    delivered: Vec<StreamId>,
}

/// The entries to read from each of these keys' streams.
fn sources(
    tx: &mut Tx<'_>,
    args: Args<'_>,
    request: &Request,
    keys: impl Iterator<Item = usize>,
    group: &[u8],
) -> Result<Vec<Source>> {
    let mut sources = Vec::with_capacity(request.keys.len());
    for key_at in keys {
        let key = args.key(key_at);
        let stream = tx.read_as::<Stream>(key)?;
        if stream.and_then(|stream| stream.group(group)).is_none() {
            let before = b"NOGROUP No such key '";
            let between = b"' or consumer group '";
            let behind = b"' in XREADGROUP with GROUP option";
            return Err(refusal(&[before, key.bytes, between, group, behind]).into());
        }
        sources.push(match args.at(request.id_at(key_at)) {
            b"$" => {
                let text = "The $ ID is meaningless in the context of XREADGROUP: you want to read the history of this consumer by specifying a proper ID, or use the > ID to get new messages. The $ ID would just return an empty result set.";
                return Err(CommandError::err(text).into());
            }
            b"+" => {
                let text = "The + ID is meaningless in the context of XREADGROUP: you want to read the history of this consumer by specifying a proper ID, or use the > ID to get new messages. The + ID would just return an empty result set.";
                return Err(CommandError::err(text).into());
            }
            b">" => Source::New,
            text => match parse_exact(text, 0)? {
                StreamId::MAX => Source::New,
                id => Source::Unacknowledged(id),
            },
        });
    }
    Ok(sources)
}

/// Reads from one stream, for a client that was blocked or not. Returns true if the stream is part of the reply.
fn read_one(
    tx: &mut Tx<'_>,
    key: Key<'_>,
    reader: &Reader<'_>,
    source: Source,
    reply: &mut Reply<'_>,
) -> Result<bool> {
    let read = tx.change::<Stream, _>(key, Create::Never, |stream| {
        reader.read(stream, key.bytes, source, reply)
    })?;
    let read = read.unwrap_or_default();
    if read.has_new_consumer {
        count_change(tx, key, Some(Event::XgroupCreateconsumer));
    }
    if read.has_replied {
        count_change(tx, key, None);
    }
    if tx.is_logged() {
        // A delivery creates the consumer, too.
        if read.has_new_consumer && read.delivered.is_empty() {
            log_new_consumer(tx, key, reader.group, reader.consumer);
        }
        log_deliveries(tx, key, reader.group, &read.delivered);
        if read.has_replied && source == Source::New {
            log_position(tx, key, reader.group);
        }
        tx.log_no_more();
    }
    Ok(read.has_replied)
}

/// How many entries a read of a stream visits.
fn steps(tx: &mut Tx<'_>, key: Key<'_>, reader: &Reader<'_>, source: Source) -> Result<usize> {
    let Some(stream) = tx.peek_as::<Stream>(key)? else {
        return Ok(0);
    };
    Ok(match source {
        Source::New => reader.unread(stream).map_or(0, |part| part.count),
        Source::Unacknowledged(_) => {
            let pending = stream
                .group(reader.group)
                .map_or(0, |group| group.pending().len());
            pending.min(reader.count.unwrap_or(usize::MAX))
        }
    })
}

fn xreadgroup(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let request = Request::parse(args, true)?;
    let reader = Reader::new(tx, args, &request);
    let sources = sources(tx, args, &request, request.keys.clone(), reader.group)?;
    let mut all_steps = 0;
    for (key_at, &source) in request.keys.clone().zip(&sources) {
        all_steps += steps(tx, args.key(key_at), &reader, source)?;
    }
    long::check(tx, all_steps)?;
    let start = reply.position();
    let (deferred, mut served) = (reply_deferred_streams(reply), 0);
    for (key_at, &source) in request.keys.clone().zip(&sources) {
        served += usize::from(read_one(tx, args.key(key_at), &reader, source, reply)?);
    }
    reply.finish(deferred, served);
    if served > 0 {
        return Ok(());
    }
    reply.truncate_to(start);
    let Some(block_ms) = request.block_ms else {
        reply.null_array();
        return Ok(());
    };
    Err(Stop::Wait(Arc::new(Wait {
        timeout_ms: Some(block_ms).filter(|&ms| ms > 0),
        keys: request.keys.clone(),
        target: None,
        of: Type::Stream,
        has,
        serve,
        ends_if_gone: true,
        nothing: |reply| reply.null_array(),
        timed_out: |reply| reply.null_array(),
        args: None,
    })))
}

/// Begins a reply for a number of streams that is not known yet.
fn reply_deferred_streams(reply: &mut Reply<'_>) -> Deferred {
    match reply.version() {
        Version::Resp2 => reply.deferred_array(),
        Version::Resp3 => reply.deferred_map(),
    }
}

/// True if there is a reply for a blocked client: new entries, or the error that its group is gone.
fn has(tx: &mut Tx<'_>, args: Args<'_>, key: Key<'_>) -> bool {
    let Ok(request) = Request::parse(args, true) else {
        return false;
    };
    let reader = Reader::new(tx, args, &request);
    let Ok(Some(stream)) = tx.peek_as::<Stream>(key) else {
        return false;
    };
    stream.group(reader.group).is_none() || reader.unread(stream).is_some()
}

/// Serves a blocked client from all of its keys that the section has locked: others can't have changed.
fn serve(tx: &mut Tx<'_>, args: Args<'_>, _: Key<'_>, reply: &mut Reply<'_>) -> Result {
    let request = Request::parse(args, true)?;
    let reader = Reader::new(tx, args, &request);
    let keys = request.keys.clone();
    let locked: Vec<usize> = keys.filter(|&at| tx.holds_key(args.key(at))).collect();
    let sources = sources(tx, args, &request, locked.iter().copied(), reader.group)?;
    let (deferred, mut served) = (reply_deferred_streams(reply), 0);
    for (&key_at, &source) in locked.iter().zip(&sources) {
        served += usize::from(read_one(tx, args.key(key_at), &reader, source, reply)?);
    }
    reply.finish(deferred, served);
    Ok(())
}
