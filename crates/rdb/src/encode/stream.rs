//! Streams, written as type 2. `decode/stream.rs` draws the format.

use std::ops::Bound;

use damselfly_collections::stream::{Group, NodeRef};
use damselfly_value::{Element, Stream, StreamId};

use super::{Encoder, put_length};

/// The number of pending entries after which the size of the output is checked.
const PENDING_PER_STEP: usize = 64;
/// Marks an unknown number of entries read.
const READ_UNKNOWN: u64 = u64::MAX;
const SAME_NAMES: i64 = 2;

/// Where to resume in a stream.
pub(super) enum StreamWriter {
    Start,
    /// At this node.
    Node(usize),
    /// In the group of this index.
    Group(usize, GroupPart),
}

/// Where to resume in a group.
pub(super) enum GroupPart {
    Start,
    /// After this pending entry.
    Pending(Option<StreamId>),
    /// At the consumer of this index.
    Consumer(usize),
    /// In the consumer of this index, after this pending entry.
    ConsumerPending(usize, StreamId),
}

impl StreamWriter {
    pub(super) fn new() -> Self {
        Self::Start
    }

    /// Writes up to where `out` has about `until` bytes; true when all is written.
    pub(super) fn write(
        &mut self,
        stream: &Stream,
        encoder: &mut Encoder,
        until: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        loop {
            *self = match std::mem::replace(self, Self::Start) {
                Self::Start => {
                    put_length(stream.node_count() as u64, out);
                    Self::Node(0)
                }
                Self::Node(index) => match stream.node(index) {
                    Some(node) => {
                        write_node(node, encoder, out);
                        Self::Node(index + 1)
                    }
                    None => {
                        write_history(stream, out);
                        Self::Group(0, GroupPart::Start)
                    }
                },
                Self::Group(index, part) => {
                    let Some((name, group)) = stream.groups().nth(index) else {
                        return true;
                    };
                    match write_group(name, group, part, encoder, out) {
                        Some(part) => Self::Group(index, part),
                        None => Self::Group(index + 1, GroupPart::Start),
                    }
                }
            };
            if out.len() >= until {
                return false;
            }
        }
    }
}

fn put_id(id: StreamId, out: &mut Vec<u8>) {
    put_length(id.ms, out);
    put_length(id.seq, out);
}

fn raw_id(id: StreamId) -> [u8; 16] {
    (u128::from(id.ms) << 64 | u128::from(id.seq)).to_be_bytes()
}

/// A listpack that grows at its end.
#[derive(Default)]
struct Elements {
    bytes: Vec<u8>,
    count: usize,
}

impl Elements {
    fn push(&mut self, element: Element<'_>) {
        element.append_to(&mut self.bytes);
        self.count += 1;
    }

    fn integer(&mut self, number: i64) {
        self.push(Element::Integer(number));
    }
}

/// A node without its deleted entries.
fn write_node(node: NodeRef<'_>, encoder: &mut Encoder, out: &mut Vec<u8>) {
    let mut elements = Elements::default();
    elements.integer(node.len() as i64);
    elements.integer(0);
    elements.integer(node.names().count() as i64);
    node.names().for_each(|name| elements.push(name));
    elements.integer(0);
    for entry in node.entries() {
        let before = elements.count;
        let has_names = entry.has_names_of_node();
        elements.integer(if has_names { SAME_NAMES } else { 0 });
        elements.integer(entry.id.ms.wrapping_sub(node.id().ms).cast_signed());
        elements.integer(entry.id.seq.wrapping_sub(node.id().seq).cast_signed());
        if !has_names {
            elements.integer(entry.len() as i64);
        }
        for (name, value) in entry.pairs() {
            if !has_names {
                elements.push(name);
            }
            elements.push(value);
        }
        elements.integer((elements.count - before) as i64);
    }
    encoder.bytes(&raw_id(node.id()), out);
    encoder.listpack(elements.count, &elements.bytes, out);
}

fn write_history(stream: &Stream, out: &mut Vec<u8>) {
    put_length(stream.len() as u64, out);
    put_id(stream.last_id(), out);
    put_id(stream.first_id(), out);
    put_id(stream.deleted_max(), out);
    put_length(stream.added(), out);
    put_length(stream.groups().len() as u64, out);
}

/// Writes a part of a group; `None` if that was the last.
fn write_group(
    name: &[u8],
    group: &Group,
    part: GroupPart,
    encoder: &mut Encoder,
    out: &mut Vec<u8>,
) -> Option<GroupPart> {
    match part {
        GroupPart::Start => {
            encoder.string(name, out);
            put_id(group.last_id, out);
            put_length(group.entries_read.unwrap_or(READ_UNKNOWN), out);
            put_length(group.pending().len() as u64, out);
            Some(GroupPart::Pending(None))
        }
        GroupPart::Pending(last) => {
            let rest = (after(last), Bound::Unbounded);
            let mut reached = None;
            for (&id, pending) in group.pending().range(rest).take(PENDING_PER_STEP) {
                out.extend_from_slice(&raw_id(id));
                out.extend_from_slice(&pending.delivered_ms.to_le_bytes());
                put_length(pending.deliveries, out);
                reached = Some(id);
            }
            if reached.is_some() {
                return Some(GroupPart::Pending(reached));
            }
            put_length(group.consumers().len() as u64, out);
            Some(GroupPart::Consumer(0))
        }
        GroupPart::Consumer(index) => {
            let (_, consumer) = group.consumers().nth(index)?;
            encoder.string(consumer.name(), out);
            out.extend_from_slice(&consumer.seen_ms.to_le_bytes());
            put_length(consumer.pending().len() as u64, out);
            Some(consumer_pending(group, index, None, out))
        }
        GroupPart::ConsumerPending(index, last) => {
            Some(consumer_pending(group, index, Some(last), out))
        }
    }
}

/// Writes some ids of a consumer's pending entries.
fn consumer_pending(
    group: &Group,
    index: usize,
    last: Option<StreamId>,
    out: &mut Vec<u8>,
) -> GroupPart {
    let consumer = group.consumers().nth(index);
    let pending = consumer.map(|(_, consumer)| consumer.pending());
    let rest = (after(last), Bound::Unbounded);
    let mut reached = None;
    let ids = pending.into_iter().flat_map(|ids| ids.range(rest));
    for &id in ids.take(PENDING_PER_STEP) {
        out.extend_from_slice(&raw_id(id));
        reached = Some(id);
    }
    match reached {
        Some(id) => GroupPart::ConsumerPending(index, id),
        None => GroupPart::Consumer(index + 1),
    }
}

fn after(last: Option<StreamId>) -> Bound<StreamId> {
    last.map_or(Bound::Unbounded, Bound::Excluded)
}
