//! XREADGROUP: reading the new entries of a consumer group, or again those that a consumer has not acknowledged.

use std::sync::Arc;

use damselfly_base::CommandError;
use damselfly_collections::stream::Pending;
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
use crate::stream_reads::{
    By, COUNT_AFTER_WAIT, OPTIONS, Request, part_after, reply_stream, reply_streams,
};
use crate::{Args, KeyspaceFn, Result, Stop, Wait, long};

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[Command {
    name: "XREADGROUP",
    arity: AtLeast(7),
    keys: Keys::Args(&[KeySpec {
        at: At::HalfBehind {
            word: "STREAMS",
            from: 4,
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

/// What a read has changed.
struct Delivered {
    /// The consumer is new.
    is_new: bool,
    /// The entries that are pending now, or again.
    pending: Vec<StreamId>,
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

    /// Writes entries of a stream, and records the delivery in the group.
    fn read(
        &self,
        stream: &mut StreamMut<'_>,
        key: &[u8],
        source: Source,
        reply: &mut Reply<'_>,
    ) -> Delivered {
        match source {
            Source::New => match self.unread(stream.view()) {
                Some(part) => self.read_new(stream, key, part, reply),
                None => Delivered {
                    is_new: false,
                    pending: Vec::new(),
                },
            },
            Source::Unacknowledged(id) => self.read_again(stream, key, id, reply),
        }
    }

    fn read_new(
        &self,
        stream: &mut StreamMut<'_>,
        key: &[u8],
        part: Part,
        reply: &mut Reply<'_>,
    ) -> Delivered {
        let view = stream.view();
        let mut entries_read = view.group(self.group).and_then(|group| group.entries_read);
        let mut ids = Vec::with_capacity(part.count);
        reply_stream(key, part.count, reply);
        for entry in view.walk(part.start, part.end).take(part.count) {
            reply_entry(&entry, reply);
            entries_read = view.entries_read_with(entries_read, entry.id);
            ids.push(entry.id);
        }
        let is_new = stream.change().change_group(self.group, |group| {
            let (consumer, is_new) = see_consumer(group, self.consumer, self.now_ms);
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
            is_new
        });
        if self.is_acknowledged {
            ids.clear();
        }
        Delivered {
            is_new: is_new == Some(true),
            pending: ids,
        }
    }

    fn read_again(
        &self,
        stream: &mut StreamMut<'_>,
        key: &[u8],
        behind: StreamId,
        reply: &mut Reply<'_>,
    ) -> Delivered {
        let view = stream.view();
        let group = view.group(self.group);
        let consumer = group.and_then(|group| {
            let index = group.find_consumer(self.consumer)?;
            Some(group.consumer(index))
        });
        let pending = consumer.into_iter().flat_map(|consumer| {
            let start = behind.next();
            start
                .into_iter()
                .flat_map(|start| consumer.pending().range(start..))
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
        let is_new = stream.change().change_group(self.group, |group| {
            let (consumer, is_new) = see_consumer(group, self.consumer, self.now_ms);
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
            is_new
        });
        Delivered {
            is_new: is_new == Some(true),
            pending: delivered,
        }
    }
}

/// The entries to read from each stream, in order of the keys.
fn sources(
    tx: &mut Tx<'_>,
    args: Args<'_>,
    request: &Request,
    group: &[u8],
) -> Result<Vec<Source>> {
    let mut sources = Vec::with_capacity(request.keys.len());
    for key_at in request.keys.clone() {
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
            b">" => Source::New,
            text => match parse_exact(text, 0)? {
                StreamId::MAX => Source::New,
                id => Source::Unacknowledged(id),
            },
        });
    }
    Ok(sources)
}

/// Reads from one stream, for a client that was blocked or not.
fn read_one(
    tx: &mut Tx<'_>,
    key: Key<'_>,
    reader: &Reader<'_>,
    source: Source,
    reply: &mut Reply<'_>,
) -> Result {
    let delivered = tx.change::<Stream, _>(key, Create::Never, |stream| {
        reader.read(stream, key.bytes, source, reply)
    })?;
    let is_new = delivered.as_ref().is_some_and(|delivered| delivered.is_new);
    count_change(tx, key, is_new.then_some(Event::XgroupCreateconsumer));
    if tx.is_logged() {
        let pending = delivered.map_or_else(Vec::new, |delivered| delivered.pending);
        // A delivery creates the consumer, too.
        if is_new && pending.is_empty() {
            log_new_consumer(tx, key, reader.group, reader.consumer);
        }
        log_deliveries(tx, key, reader.group, &pending);
        if source == Source::New {
            log_position(tx, key, reader.group);
        }
        tx.log_no_more();
    }
    Ok(())
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
    let request = Request::parse(args, true, By::of(tx))?;
    let reader = Reader::new(tx, args, &request);
    let sources = sources(tx, args, &request, reader.group)?;
    let mut all_steps = 0;
    for (key_at, &source) in request.keys.clone().zip(&sources) {
        all_steps += steps(tx, args.key(key_at), &reader, source)?;
    }
    long::check(tx, all_steps)?;
    let start = reply.position();
    let (deferred, mut served) = (reply_deferred_streams(reply), 0);
    for (key_at, &source) in request.keys.clone().zip(&sources) {
        let key = args.key(key_at);
        if source == Source::New && steps(tx, key, &reader, source)? == 0 {
            continue;
        }
        read_one(tx, key, &reader, source, reply)?;
        served += 1;
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
        gone: Some("UNBLOCKED the stream key no longer exists"),
        nothing: |reply| reply.null_array(),
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
    let Ok(request) = Request::parse(args, true, By::Client) else {
        return false;
    };
    let reader = Reader::new(tx, args, &request);
    let Ok(Some(stream)) = tx.peek_as::<Stream>(key) else {
        return false;
    };
    stream.group(reader.group).is_none() || reader.unread(stream).is_some()
}

fn serve(tx: &mut Tx<'_>, args: Args<'_>, key: Key<'_>, reply: &mut Reply<'_>) -> Result {
    let request = Request::parse(args, true, By::Client)?;
    let mut reader = Reader::new(tx, args, &request);
    reader.count = Some(request.count.unwrap_or(COUNT_AFTER_WAIT));
    let stream = tx.peek_as::<Stream>(key)?;
    if stream
        .and_then(|stream| stream.group(reader.group))
        .is_none()
    {
        let text = "NOGROUP the consumer group this client was blocked on no longer exists";
        return Err(CommandError::Text(text.to_owned()).into());
    }
    reply_streams(1, reply);
    read_one(tx, key, &reader, Source::New, reply)
}
