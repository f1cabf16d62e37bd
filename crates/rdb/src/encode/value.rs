//! Values, written in slices.

use damselfly_collections::intset::Intset;
use damselfly_collections::listpack::{HEADER_BYTES, Listpack};
use damselfly_collections::pairs::{Layout, Pair, Pairs};
use damselfly_collections::{Chain, Element, Fields, Members, Ranking};
use damselfly_value::{HashRef, ListRef, SetRef, SortedSetRef, Text, Value};

use super::stream::StreamWriter;
use super::{
    Encoder, NeedsVersion, SAVED_BYTES_MIN, is_timed, put_compressed_head, put_length, version_of,
};
use crate::format::{VALKEY_VERSION_MIN, VERSION_WITH_SET_LISTPACKS, kind, node};
use crate::lzf::Compressor;

/// A string longer than this is written in slices.
const SLICED_TEXT_BYTES_MIN: usize = 128 << 10;
/// A longer element of a list is not stored in a listpack.
const PLAIN_NODE_BYTES_MIN: usize = 1 << 29;
/// The number of members of a sorted set after which the size of the output is checked.
const MEMBERS_PER_STEP: usize = 32;

/// Writes one value in slices, between which others can work.
#[expect(missing_debug_implementations, reason = "scratch memory")]
pub struct ValueWriter(State);

/// Progress within a value.
enum State {
    /// Nothing is written yet.
    Start,
    /// A long string is being compressed.
    Compressing(Box<Compressor>, usize),
    /// The head of a long string and this many of its bytes.
    Text(usize),
    /// The head of a compressed long string and this many of its compressed bytes.
    Compressed(Box<Compressor>, usize),
    /// This many nodes.
    List(usize),
    /// The members up to this cursor.
    Set(u64),
    /// The fields up to this cursor; with the earliest deadline, if fields have deadlines.
    Hash(u64, Option<i64>),
    /// All except this many members; the highest come first.
    SortedSet(usize),
    /// A part of a stream.
    Stream(StreamWriter),
    /// All is written.
    Done,
}

impl Encoder {
    /// The type of a value in a file of this version.
    pub(super) fn kind_of(&self, value: Value<'_>) -> Result<u8, NeedsVersion> {
        let version = self.options.version;
        if version_of(value) > version {
            return Err(NeedsVersion(version_of(value)));
        }
        let is_valkey = version >= VALKEY_VERSION_MIN;
        Ok(match value {
            Value::Text(_) => kind::STRING,
            Value::List(_) => kind::LIST_QUICKLIST_2,
            Value::Set(SetRef::Integers(_)) => kind::SET_INTSET,
            Value::Set(SetRef::Packed(_)) if version >= VERSION_WITH_SET_LISTPACKS => {
                kind::SET_LISTPACK
            }
            Value::Set(SetRef::Packed(_) | SetRef::Large(_)) => kind::SET,
            Value::Hash(hash) if is_timed(hash) => match hash {
                _ if is_valkey => kind::HASH_VALKEY,
                HashRef::Packed(_) | HashRef::PackedTtl(_) => kind::HASH_LISTPACK_DEADLINES,
                HashRef::Large(_) => kind::HASH_DEADLINES,
            },
            Value::Hash(HashRef::Packed(_) | HashRef::PackedTtl(_)) => kind::HASH_LISTPACK,
            Value::Hash(HashRef::Large(_)) => kind::HASH,
            Value::SortedSet(SortedSetRef::Packed(_)) => kind::SORTED_SET_LISTPACK,
            Value::SortedSet(SortedSetRef::Large(_)) => kind::SORTED_SET_BINARY,
            Value::Stream(_) => kind::STREAM_2,
        })
    }
}

impl ValueWriter {
    pub(super) fn new(value: Value<'_>) -> Self {
        Self(match value {
            Value::Stream(_) => State::Stream(StreamWriter::new()),
            Value::Text(_)
            | Value::List(_)
            | Value::Set(_)
            | Value::Hash(_)
            | Value::SortedSet(_) => State::Start,
        })
    }

    /// Appends about `budget` more bytes of the value, which must be the same and unchanged each time, and the encoder's
    /// options, too. Returns true when all is written.
    ///
    /// The smallest units are a node of a list or stream (8 KiB by default), a member, and a field with its value. While a string
    /// is compressed, one call processes `budget` bytes of it.
    pub fn write(
        &mut self,
        value: Value<'_>,
        encoder: &mut Encoder,
        budget: usize,
        out: &mut Vec<u8>,
    ) -> bool {
        let until = out.len().saturating_add(budget);
        while !matches!(self.0, State::Done) {
            let state = std::mem::replace(&mut self.0, State::Done);
            self.0 = step(state, value, encoder, budget, until, out);
            if out.len() >= until || matches!(self.0, State::Compressing(..)) {
                break;
            }
        }
        matches!(self.0, State::Done)
    }
}

/// Writes part of a value, until `out` has `until` bytes, and returns the progress.
fn step(
    state: State,
    value: Value<'_>,
    encoder: &mut Encoder,
    budget: usize,
    until: usize,
    out: &mut Vec<u8>,
) -> State {
    match value {
        Value::Text(text) => text_step(state, text, encoder, budget, out),
        Value::List(ListRef::Packed(bytes)) => {
            put_length(1, out);
            list_node(bytes, encoder, out);
            State::Done
        }
        Value::List(ListRef::Large(chain)) => list_step(state, chain, encoder, until, out),
        Value::Set(SetRef::Integers(bytes)) => {
            integers(Intset::new(bytes), encoder, out);
            State::Done
        }
        Value::Set(SetRef::Packed(bytes)) => {
            packed_set(Listpack::new(bytes), encoder, out);
            State::Done
        }
        Value::Set(SetRef::Large(members)) => set_step(state, members, encoder, until, out),
        Value::Hash(HashRef::Large(fields)) => hash_step(state, fields, encoder, until, out),
        Value::Hash(HashRef::Packed(bytes)) => {
            let listpack = Listpack::new(bytes);
            encoder.listpack(listpack.len(), listpack.element_bytes(), out);
            State::Done
        }
        Value::Hash(HashRef::PackedTtl(bytes)) => {
            timed_pairs(Pairs::new(bytes, Layout::Timed), encoder, out);
            State::Done
        }
        Value::SortedSet(SortedSetRef::Packed(bytes)) => {
            let listpack = Listpack::new(bytes);
            encoder.listpack(listpack.len(), listpack.element_bytes(), out);
            State::Done
        }
        Value::SortedSet(SortedSetRef::Large(ranking)) => {
            sorted_set_step(state, ranking, encoder, until, out)
        }
        Value::Stream(stream) => match state {
            State::Stream(mut writer) => match writer.write(stream, encoder, until, out) {
                true => State::Done,
                false => State::Stream(writer),
            },
            _ => State::Done,
        },
    }
}

fn text_step(
    state: State,
    text: Text<'_>,
    encoder: &mut Encoder,
    budget: usize,
    out: &mut Vec<u8>,
) -> State {
    let bytes = match text {
        Text::Bytes { bytes, .. } if bytes.len() >= SLICED_TEXT_BYTES_MIN => bytes,
        Text::Bytes { .. } | Text::Packed(_) | Text::Integer(_) => {
            encoder.text(text, out);
            return State::Done;
        }
    };
    let len_max = bytes.len() - SAVED_BYTES_MIN;
    match state {
        State::Start if encoder.options.compress => {
            let mut compressor = Box::new(Compressor::new());
            compressor.begin(bytes.len());
            State::Compressing(compressor, 0)
        }
        State::Compressing(mut compressor, done) => {
            let until = done.saturating_add(budget.max(1));
            if !compressor.advance(bytes, until, len_max) {
                return State::Compressing(compressor, until);
            }
            let compressed = compressor.output().len();
            if compressed >= len_max {
                put_length(bytes.len() as u64, out);
                return State::Text(0);
            }
            put_compressed_head(compressed, bytes.len(), out);
            State::Compressed(compressor, 0)
        }
        State::Compressed(compressor, written) => {
            match put_slice(compressor.output(), written, budget, out) {
                Some(written) => State::Compressed(compressor, written),
                None => State::Done,
            }
        }
        State::Text(written) => {
            put_slice(bytes, written, budget, out).map_or(State::Done, State::Text)
        }
        _ => {
            put_length(bytes.len() as u64, out);
            State::Text(0)
        }
    }
}

/// Writes some bytes from `written` on; `None` if those were the last.
fn put_slice(bytes: &[u8], written: usize, budget: usize, out: &mut Vec<u8>) -> Option<usize> {
    let end = written.saturating_add(budget.max(1)).min(bytes.len());
    out.extend_from_slice(&bytes[written..end]);
    (end < bytes.len()).then_some(end)
}

fn list_step(
    state: State,
    chain: &Chain,
    encoder: &mut Encoder,
    until: usize,
    out: &mut Vec<u8>,
) -> State {
    let mut index = match state {
        State::List(index) => index,
        _ => {
            put_length(chain.node_count() as u64, out);
            0
        }
    };
    while let Some(bytes) = chain.node(index) {
        if out.len() >= until {
            return State::List(index);
        }
        list_node(&bytes, encoder, out);
        index += 1;
    }
    State::Done
}

fn list_node(bytes: &[u8], encoder: &mut Encoder, out: &mut Vec<u8>) {
    let listpack = Listpack::new(bytes);
    if listpack.byte_len() >= PLAIN_NODE_BYTES_MIN
        && let (1, Some(Element::Bytes(text))) = (listpack.len(), listpack.get(0))
    {
        put_length(node::PLAIN, out);
        encoder.bytes(text, out);
        return;
    }
    put_length(node::PACKED, out);
    encoder.listpack(listpack.len(), listpack.element_bytes(), out);
}

fn integers(set: Intset<'_>, encoder: &mut Encoder, out: &mut Vec<u8>) {
    let mut header = [0; 8];
    header[..4].copy_from_slice(&(set.width() as u32).to_le_bytes());
    header[4..].copy_from_slice(&(set.len() as u32).to_le_bytes());
    encoder.blob([&header, set.bytes(), &[]], out);
}

fn packed_set(listpack: Listpack<'_>, encoder: &mut Encoder, out: &mut Vec<u8>) {
    if encoder.options.version >= VERSION_WITH_SET_LISTPACKS {
        encoder.listpack(listpack.len(), listpack.element_bytes(), out);
        return;
    }
    put_length(listpack.len() as u64, out);
    for member in listpack {
        encoder.element(member, out);
    }
}

fn set_step(
    state: State,
    members: &Members,
    encoder: &mut Encoder,
    until: usize,
    out: &mut Vec<u8>,
) -> State {
    let mut cursor = match state {
        State::Set(cursor) => cursor,
        _ => {
            put_length(members.len() as u64, out);
            0
        }
    };
    loop {
        cursor = members.scan(cursor, |member| encoder.string(member, out));
        match cursor {
            0 => return State::Done,
            _ if out.len() >= until => return State::Set(cursor),
            _ => {}
        }
    }
}

/// A small hash with room for deadlines.
fn timed_pairs(pairs: Pairs<'_>, encoder: &mut Encoder, out: &mut Vec<u8>) {
    let soonest_ms = pairs.first_deadline_ms();
    if soonest_ms.is_some() && encoder.options.version >= VALKEY_VERSION_MIN {
        put_length(pairs.len() as u64, out);
        for pair in pairs {
            valkey_field(pair, encoder, out);
        }
        return;
    }
    let mut all: Vec<Pair<'_>> = pairs.iter().collect();
    let mut elements = Vec::with_capacity(HEADER_BYTES + pairs.len() * 16);
    let stride = match soonest_ms {
        None => 2,
        Some(soonest_ms) => {
            // Redis expects ascending deadlines, and fields without one at the end.
            all.sort_by_key(|pair| pair.deadline_ms.unwrap_or(i64::MAX));
            out.extend_from_slice(&soonest_ms.to_le_bytes());
            3
        }
    };
    for pair in &all {
        pair.field.append_to(&mut elements);
        pair.value.append_to(&mut elements);
        if soonest_ms.is_some() {
            Element::Integer(pair.deadline_ms.unwrap_or(0)).append_to(&mut elements);
        }
    }
    encoder.listpack(all.len() * stride, &elements, out);
}

fn valkey_field(pair: Pair<'_>, encoder: &mut Encoder, out: &mut Vec<u8>) {
    encoder.element(pair.field, out);
    encoder.element(pair.value, out);
    out.extend_from_slice(&pair.deadline_ms.unwrap_or(-1).to_le_bytes());
}

fn hash_step(
    state: State,
    fields: &Fields,
    encoder: &mut Encoder,
    until: usize,
    out: &mut Vec<u8>,
) -> State {
    let is_valkey = encoder.options.version >= VALKEY_VERSION_MIN;
    let (mut cursor, soonest_ms) = match state {
        State::Hash(cursor, soonest_ms) => (cursor, soonest_ms),
        _ => {
            let soonest_ms = fields.first_deadline_ms();
            if let Some(soonest_ms) = soonest_ms
                && !is_valkey
            {
                out.extend_from_slice(&soonest_ms.to_le_bytes());
            }
            put_length(fields.len() as u64, out);
            (0, soonest_ms)
        }
    };
    loop {
        cursor = fields.scan(cursor, |field| match soonest_ms {
            Some(_) if is_valkey => valkey_field(field.into(), encoder, out),
            _ => {
                if let Some(soonest_ms) = soonest_ms {
                    let deadline = field.deadline_ms();
                    let from_soonest = deadline.map_or(0, |at| at.abs_diff(soonest_ms) + 1);
                    put_length(from_soonest, out);
                }
                encoder.string(field.field(), out);
                encoder.element(field.value(), out);
            }
        });
        match cursor {
            0 => return State::Done,
            _ if out.len() >= until => return State::Hash(cursor, soonest_ms),
            _ => {}
        }
    }
}

fn sorted_set_step(
    state: State,
    ranking: &Ranking,
    encoder: &mut Encoder,
    until: usize,
    out: &mut Vec<u8>,
) -> State {
    let mut left = match state {
        State::SortedSet(left) => left,
        _ => {
            put_length(ranking.len() as u64, out);
            ranking.len()
        }
    };
    while left > 0 {
        if out.len() >= until {
            return State::SortedSet(left);
        }
        let start = left.saturating_sub(MEMBERS_PER_STEP);
        for member in ranking.range(start..left).rev() {
            encoder.string(member.member(), out);
            out.extend_from_slice(&member.score().to_le_bytes());
        }
        left = start;
    }
    State::Done
}
