//! Streams.
//!
//! ```text
//! stream   | count of nodes | node ... | length | last id | [first id | highest deleted id | added] |
//!          | count of groups | group ... | [idempotent producers] |
//! node     | string: id of 16 bytes, big-endian | string: a listpack |
//! group    | name | last id | [entries read] | count | pending ... | count | consumer ... | [count | released id ...] |
//! pending  | id, 16 bytes | delivered at, ms: u64 | deliveries |
//! consumer | name | seen at, ms: u64 | [active at, ms: u64] | count | id, 16 bytes ... |
//!
//! listpack of a node
//!          | live | deleted | count of names | name ... | 0 | entry ... |
//! entry    | flags | ms | seq | [count of names | name ...] value ... or name, value ... | elements in this entry |
//!          flags: 1 deleted, 2 the names are those of the node; ms and seq count from the node's id
//! ```
//!
//! Other ids are two lengths. Type 1 has none of the parts in brackets. Type 2 adds those about ids and entries, type 3 the
//! time of activity, type 4 the producers, type 5 the ids that XNACK released.

use std::collections::HashMap;
use std::io::Read;

use damselfly_collections::stream::{ENTRY_BYTES_MAX, Group, NodeLimits, Pending};
use damselfly_value::{Element, Entry, Large, Stream, StreamId};

use super::{Decoder, Head, blob, bytes_of};
use crate::error::{Duplicate, Fault, Form};
use crate::format::kind;
use crate::input::{Input, Result, append_text};

const DELETED: i64 = 1;
const SAME_NAMES: i64 = 2;
const ID_BYTES: usize = 16;
/// Marks an unknown number of entries read.
const READ_UNKNOWN: u64 = u64::MAX;
/// A node takes all entries that its listpack has.
const ONE_NODE: NodeLimits = NodeLimits {
    bytes_max: 0,
    entries_max: 0,
};

/// Names and values of a node's entries, as texts.
#[derive(Default)]
pub(super) struct Texts {
    bytes: Vec<u8>,
    /// The names of the node.
    shared: Vec<Span>,
    /// The names of an entry, if it has its own.
    names: Vec<Span>,
    values: Vec<Span>,
}

/// The place of a text.
#[derive(Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
}

impl Texts {
    fn add(bytes: &mut Vec<u8>, element: Element<'_>) -> Span {
        let start = bytes.len();
        append_text(element, bytes);
        let end = bytes.len();
        Span { start, end }
    }

    pub(super) fn shrink(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(super::SCRATCH_BYTES_MAX);
        let spans_max = super::SCRATCH_BYTES_MAX / size_of::<Span>();
        for spans in [&mut self.shared, &mut self.names, &mut self.values] {
            spans.clear();
            spans.shrink_to(spans_max);
        }
    }
}

impl Decoder<'_> {
    pub(super) fn stream<R: Read>(
        &mut self,
        input: &mut Input<R>,
        of: u8,
        head: Head<'_>,
    ) -> Result<Option<Entry>> {
        let mut stream = Stream::default();
        for _ in 0..input.length()? {
            let id: [u8; ID_BYTES] = match input.string()? {
                Element::Bytes(bytes) => bytes.try_into().ok(),
                Element::Integer(_) => None,
            }
            .ok_or(Fault::Stream("the id of a node does not have 16 bytes"))?;
            let id = id_of(id);
            let blob = bytes_of(input.string()?);
            add_node(&mut stream, id, blob, &mut self.scratch.stream)?;
        }
        history(input, of, &mut stream)?;
        for _ in 0..input.length()? {
            group(input, of, &mut stream)?;
        }
        if of >= kind::STREAM_4 {
            skip_producers(input)?;
        }
        let large = Large::Stream(Box::new(stream));
        Ok(Some(Entry::new_large(head.key, large, head.deadline_ms)))
    }
}

fn id_of(bytes: [u8; ID_BYTES]) -> StreamId {
    let id = u128::from_be_bytes(bytes);
    StreamId::new((id >> 64) as u64, id as u64)
}

fn id<R: Read>(input: &mut Input<R>) -> Result<StreamId> {
    Ok(StreamId::new(input.length()?, input.length()?))
}

/// A time in milliseconds since the epoch; an earlier time counts as the epoch.
fn time<R: Read>(input: &mut Input<R>) -> Result<i64> {
    Ok(input.u64_le()?.cast_signed().max(0))
}

fn broken(problem: &'static str) -> Fault {
    Fault::Packed {
        form: Form::StreamNode,
        at: 0,
        problem,
    }
}

/// The elements of a node.
struct Elements<I>(I);

impl<'e, I: Iterator<Item = Element<'e>>> Elements<I> {
    fn element(&mut self) -> Result<Element<'e>> {
        self.0
            .next()
            .ok_or_else(|| broken("it ends within an entry"))
    }

    fn integer(&mut self) -> Result<i64> {
        match self.element()? {
            Element::Integer(number) => Ok(number),
            Element::Bytes(_) => Err(broken("a text where an integer is due")),
        }
    }

    /// A count of elements that follow. A count that is too large is found before memory grows.
    fn count(&mut self) -> Result<u32> {
        u32::try_from(self.integer()?).map_err(|_| broken("a count out of range"))
    }
}

/// Adds the entries of a node that are not deleted.
fn add_node(stream: &mut Stream, node: StreamId, blob: &[u8], texts: &mut Texts) -> Result<()> {
    let mut elements = Elements(blob::each(blob::listpack(blob)?));
    let (live, deleted) = (elements.count()?, elements.count()?);
    texts.bytes.clear();
    texts.shared.clear();
    for _ in 0..elements.count()? {
        let span = Texts::add(&mut texts.bytes, elements.element()?);
        texts.shared.push(span);
    }
    if elements.integer()? != 0 {
        return Err(broken("no zero behind the names"));
    }
    let (names_end, mut live_found, mut deleted_found) = (texts.bytes.len(), 0, 0);
    let mut last = stream.last_id();
    while let Some(flags) = elements.0.next() {
        let Element::Integer(flags @ 0..4) = flags else {
            return Err(broken("unknown flags of an entry"));
        };
        let (ms, seq) = (elements.integer()?, elements.integer()?);
        let ms = node.ms.wrapping_add_signed(ms);
        let id = StreamId::new(ms, node.seq.wrapping_add_signed(seq));
        if id <= last {
            return Err(Fault::Stream("the ids of entries do not ascend"));
        }
        last = id;
        texts.bytes.truncate(names_end);
        let read = read_entry(&mut elements, flags & SAME_NAMES != 0, texts)?;
        if elements.integer()? != i64::from(read) {
            return Err(broken("wrong number of elements in an entry"));
        }
        if flags & DELETED != 0 {
            deleted_found += 1;
            continue;
        }
        push(stream, id, flags & SAME_NAMES != 0, live_found == 0, texts)?;
        live_found += 1;
    }
    if (live, deleted) != (live_found, deleted_found) {
        return Err(broken("wrong number of entries"));
    }
    Ok(())
}

/// Reads names and values of an entry, and returns how many elements the entry has.
fn read_entry<'e>(
    elements: &mut Elements<impl Iterator<Item = Element<'e>>>,
    has_same_names: bool,
    texts: &mut Texts,
) -> Result<u32> {
    const BEFORE: u32 = 3;
    texts.names.clear();
    texts.values.clear();
    if has_same_names {
        for _ in 0..texts.shared.len() {
            let value = Texts::add(&mut texts.bytes, elements.element()?);
            texts.values.push(value);
        }
        return Ok(BEFORE + texts.shared.len() as u32);
    }
    let count = elements.count()?;
    for _ in 0..count {
        let name = Texts::add(&mut texts.bytes, elements.element()?);
        let value = Texts::add(&mut texts.bytes, elements.element()?);
        texts.names.push(name);
        texts.values.push(value);
    }
    // All these elements were read, so there are fewer than 2^31.
    Ok(BEFORE + 1 + 2 * count)
}

fn push(
    stream: &mut Stream,
    id: StreamId,
    has_same_names: bool,
    starts_node: bool,
    texts: &Texts,
) -> Result<()> {
    let names = if has_same_names {
        &texts.shared
    } else {
        &texts.names
    };
    if names.is_empty() {
        return Err(Fault::Stream("an entry without fields"));
    }
    let text = |span: &Span| &texts.bytes[span.start..span.end];
    let pairs = names.iter().zip(&texts.values);
    let pairs = pairs.map(|(name, value)| (text(name), text(value)));
    let bytes = pairs.clone().map(|(name, value)| name.len() + value.len());
    if bytes.sum::<usize>() > ENTRY_BYTES_MAX {
        return Err(Fault::Stream("an entry is too large"));
    }
    if starts_node {
        stream.push_in_new_node(id, pairs);
    } else {
        stream.push(id, pairs, ONE_NODE);
    }
    Ok(())
}

/// Reads a stream's length, last id and counters.
fn history<R: Read>(input: &mut Input<R>, of: u8, stream: &mut Stream) -> Result<()> {
    let len = stream.len() as u64;
    if input.length()? != len {
        return Err(Fault::Stream("its length is not the number of its entries"));
    }
    let last_id = id(input)?;
    if last_id < stream.last_id() {
        return Err(Fault::Stream("its last id is below that of an entry"));
    }
    let (deleted_max, added) = if of == kind::STREAM {
        (StreamId::MIN, len)
    } else {
        // The first id follows from the entries.
        id(input)?;
        (id(input)?, input.length()?)
    };
    if added < len {
        return Err(Fault::Stream("it has more entries than were added"));
    }
    stream.set_history(last_id, deleted_max, added);
    Ok(())
}

fn group<R: Read>(input: &mut Input<R>, of: u8, stream: &mut Stream) -> Result<()> {
    let mut name = Vec::new();
    input.string_to(&mut name)?;
    let last_id = id(input)?;
    let entries_read = match of {
        kind::STREAM => stream.position(last_id),
        _ => Some(input.length()?).filter(|&read| read != READ_UNKNOWN),
    };
    if !stream.add_group(&name, last_id, entries_read) {
        return Err(Fault::Duplicate(Duplicate::Group));
    }
    let mut pending = HashMap::new();
    for _ in 0..input.length()? {
        let id = id_of(input.array()?);
        let delivered_ms = time(input)?;
        let deliveries = input.length()?;
        if pending.insert(id, (delivered_ms, deliveries)).is_some() {
            return Err(Fault::Duplicate(Duplicate::Pending));
        }
    }
    let change = |group: &mut Group| -> Result<()> {
        for _ in 0..input.length()? {
            consumer(input, of, group, &mut pending)?;
        }
        if of >= kind::STREAM_5 && input.length()? > 0 {
            return Err(Fault::Unsupported(
                "a consumer group with entries released by XNACK (Redis 8)",
            ));
        }
        match pending.is_empty() {
            true => Ok(()),
            false => Err(Fault::Stream("a pending entry without consumer")),
        }
    };
    stream.change_group(&name, change).unwrap_or(Ok(()))
}

fn consumer<R: Read>(
    input: &mut Input<R>,
    of: u8,
    group: &mut Group,
    pending: &mut HashMap<StreamId, (i64, u64)>,
) -> Result<()> {
    let mut name = Vec::new();
    input.string_to(&mut name)?;
    let seen_ms = time(input)?;
    // Older payloads do not tell when it was last active.
    let active_ms = match of >= kind::STREAM_3 {
        true => i64::from_le_bytes(input.array()?),
        false => seen_ms,
    };
    let consumer = group.add_consumer(&name, seen_ms);
    let consumer = consumer.ok_or(Fault::Duplicate(Duplicate::Consumer))?;
    group.consumer_mut(consumer).active_ms = Some(active_ms).filter(|&ms| ms >= 0);
    for _ in 0..input.length()? {
        let id = id_of(input.array()?);
        let (delivered_ms, deliveries) = pending.remove(&id).ok_or(Fault::Stream(
            "a consumer's pending entry is not its group's, or another consumer's",
        ))?;
        let pending = Pending {
            consumer,
            delivered_ms,
            deliveries,
        };
        group.record_delivery(id, pending);
    }
    Ok(())
}

/// Skips Redis 8's state of idempotent producers, which only prevents duplicate XADDs.
fn skip_producers<R: Read>(input: &mut Input<R>) -> Result<()> {
    // For how long they are kept, and at most how many.
    input.length()?;
    input.length()?;
    for _ in 0..input.length()? {
        input.string()?;
        for _ in 0..input.length()? {
            input.string()?;
            id(input)?;
        }
    }
    // The number of messages added, and of duplicates.
    input.length()?;
    input.length()?;
    Ok(())
}
