//! A node of a stream: consecutive entries in packed form.
//!
//! ```text
//! | number of names | name ... | entry | entry | ...
//!
//! entry   | tag: u8 | ms | seq | [number of pairs] | [name] value ... | back-length |
//! tag     bit 0  the entry is deleted, and readers skip it
//!         bit 1  the entry has the names at the front of the node, and stores only values
//!         bit 2  the entry has the milliseconds of the node's id, and omits `ms`
//! ms      milliseconds after the node's id
//! seq     the sequence number; with bit 2, the difference from the node's sequence number
//! ```
//!
//! Numbers are little-endian groups of seven bits; names and values are listpack elements without back-length. The
//! back-length covers the whole entry, so a backward walk skips entries without reading their values.
//!
//! Nodes begin and end at the same entries as in Redis, because clients can see this: `MAXLEN ~` removes whole nodes. To this
//! end, each node counts the bytes that Redis's listpack of the same entries would have.

use std::sync::Arc;

use damselfly_base::heap::block_bytes;

use super::StreamId;
use crate::element::{Element, back_length, read_back_length, span_at, with_back_length};

const DELETED: u8 = 1;
const SAME_NAMES: u8 = 1 << 1;
const SAME_MS: u8 = 1 << 2;

/// The size of an empty listpack in Redis: a header of six bytes and an end mark.
const REDIS_EMPTY_BYTES: usize = 7;

const VALID: &str = "only this module writes nodes";

/// When a node is full: the Redis options of the same names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeLimits {
    /// `stream-node-max-bytes`; 0 for no limit.
    pub bytes_max: u64,
    /// `stream-node-max-entries`; 0 for no limit.
    pub entries_max: u64,
}

impl Default for NodeLimits {
    fn default() -> Self {
        Self {
            bytes_max: 4096,
            entries_max: 100,
        }
    }
}

/// The maximum total length of the names and values of an entry; also a limit on the size of a node.
pub const ENTRY_BYTES_MAX: usize = 1 << 30;

/// A node. A copy shares the packed entries until one of the two changes.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// The id of the first entry, which may be deleted.
    pub id: StreamId,
    /// The number of entries that are not deleted.
    pub live: u32,
    /// The number of deleted entries.
    pub deleted: u32,
    /// The offset of the first entry that is not deleted.
    start: u32,
    /// The size of Redis's listpack of the same entries, without the counts of live and deleted entries.
    redis_bytes: u32,
    bytes: Arc<Vec<u8>>,
}

/// A read-only view of an entry.
#[derive(Clone, Copy, Debug)]
pub struct StreamEntry<'a> {
    /// The entry's id.
    pub id: StreamId,
    pairs: usize,
    /// The encoded names at the front of the node; `None` if the names are stored with the values in `body`.
    names: Option<&'a [u8]>,
    body: &'a [u8],
}

/// The decoded tag and id of an entry, and its position.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub id: StreamId,
    tag: u8,
    at: usize,
    /// The offset of the bytes after the id.
    body: usize,
}

impl Head {
    pub fn is_deleted(self) -> bool {
        self.tag & DELETED != 0
    }
}

fn put_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

#[inline]
fn number_at(bytes: &[u8], at: &mut usize) -> u64 {
    let (mut number, mut shift) = (0, 0);
    loop {
        let byte = bytes[*at];
        *at += 1;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return number;
        }
        shift += 7;
    }
}

#[inline]
fn put_element(bytes: &mut Vec<u8>, element: Element<'_>) {
    let at = bytes.len();
    bytes.resize(at + element.span(), 0);
    element.encode_span(&mut bytes[at..]);
}

#[inline]
fn skip_element(bytes: &[u8], at: &mut usize) {
    *at += span_at(&bytes[*at..]).expect(VALID);
}

fn redis_integer_bytes(number: i64) -> usize {
    Element::Integer(number).encoded_bytes()
}

impl Node {
    /// Creates a node for entries from `id` on, the first of which has these names. Reserves about `capacity` bytes.
    pub fn new<'e>(id: StreamId, names: impl Iterator<Item = &'e [u8]>, capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity);
        let (mut count, mut redis_bytes) = (0_u64, REDIS_EMPTY_BYTES);
        let mut elements = Vec::new();
        for name in names {
            let element = Element::new(name);
            put_element(&mut elements, element);
            redis_bytes += element.encoded_bytes();
            count += 1;
        }
        put_number(&mut bytes, count);
        bytes.extend_from_slice(&elements);
        // The number of names, and the zero after the last one.
        redis_bytes += redis_integer_bytes(count as i64) + redis_integer_bytes(0);
        Self {
            id,
            live: 0,
            deleted: 0,
            start: bytes.len() as u32,
            redis_bytes: redis_bytes as u32,
            bytes: Arc::new(bytes),
        }
    }

    /// Whether an entry with `text_bytes` bytes of names and values must go to a new node.
    pub fn is_full(&self, text_bytes: usize, limits: NodeLimits) -> bool {
        let bytes_max = match usize::try_from(limits.bytes_max) {
            Ok(max @ 1..ENTRY_BYTES_MAX) => max,
            Ok(_) | Err(_) => ENTRY_BYTES_MAX,
        };
        let counts =
            redis_integer_bytes(self.live.into()) + redis_integer_bytes(self.deleted.into());
        if self.redis_bytes as usize + counts + text_bytes >= bytes_max {
            return true;
        }
        let entries = u64::from(self.live) + u64::from(self.deleted);
        limits.entries_max > 0 && entries >= limits.entries_max
    }

    /// Appends an entry, whose id must be higher than all others.
    pub fn push<'e>(
        &mut self,
        id: StreamId,
        pairs: impl ExactSizeIterator<Item = (&'e [u8], &'e [u8])> + Clone,
    ) {
        let count = pairs.len();
        let has_same_names = self.has_names(pairs.clone().map(|(name, _)| name), count);
        let bytes = Arc::make_mut(&mut self.bytes);
        let start = bytes.len();
        let same_ms = id.ms == self.id.ms;
        let tag = if has_same_names { SAME_NAMES } else { 0 } | if same_ms { SAME_MS } else { 0 };
        bytes.push(tag);
        if same_ms {
            put_number(bytes, id.seq - self.id.seq);
        } else {
            put_number(bytes, id.ms - self.id.ms);
            put_number(bytes, id.seq);
        }
        let ms = id.ms.wrapping_sub(self.id.ms).cast_signed();
        let seq = id.seq.wrapping_sub(self.id.seq).cast_signed();
        let mut redis_bytes =
            redis_integer_bytes(0) + redis_integer_bytes(ms) + redis_integer_bytes(seq);
        let mut elements = count + 3;
        if !has_same_names {
            put_number(bytes, count as u64);
            redis_bytes += redis_integer_bytes(count as i64);
            elements += count + 1;
        }
        redis_bytes += redis_integer_bytes(elements as i64);
        for (name, value) in pairs {
            if !has_same_names {
                let name = Element::new(name);
                put_element(bytes, name);
                redis_bytes += name.encoded_bytes();
            }
            let value = Element::new(value);
            put_element(bytes, value);
            redis_bytes += value.encoded_bytes();
        }
        let (back, back_bytes) = back_length(bytes.len() - start);
        bytes.extend_from_slice(&back[..back_bytes]);
        self.redis_bytes += redis_bytes as u32;
        self.live += 1;
    }

    fn has_names<'e>(&self, names: impl Iterator<Item = &'e [u8]>, count: usize) -> bool {
        let mut at = 0;
        if number_at(&self.bytes, &mut at) != count as u64 {
            return false;
        }
        for name in names {
            let (own, span) = Element::decode(&self.bytes[at..]).expect(VALID);
            let is_same = match own {
                Element::Bytes(own) => own == name,
                Element::Integer(_) => own == Element::new(name),
            };
            if !is_same {
                return false;
            }
            at += span;
        }
        true
    }

    /// The names of the first entry.
    pub fn names(&self) -> impl Iterator<Item = Element<'_>> + Clone {
        let mut at = 0;
        let count = number_at(&self.bytes, &mut at);
        let mut names = &self.bytes[at..];
        (0..count).map(move |_| take(&mut names))
    }

    /// Frees capacity that no entry will need.
    pub fn seal(&mut self) {
        if let Some(bytes) = Arc::get_mut(&mut self.bytes) {
            bytes.shrink_to_fit();
        }
    }

    /// The size of the packed names and entries in bytes.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes of heap that the node uses.
    pub fn heap_bytes(&self) -> usize {
        const COUNTED: usize = size_of::<Vec<u8>>() + 2 * size_of::<usize>();
        block_bytes(self.bytes.capacity()) + block_bytes(COUNTED)
    }

    /// The offset of the first entry that is not deleted, or the end.
    pub fn first(&self) -> usize {
        self.start as usize
    }

    /// The offset after the last entry.
    pub fn end(&self) -> usize {
        self.bytes.len()
    }

    /// The offset of the entry before `at`, which may be deleted; `None` if all entries before `at` are deleted.
    #[inline]
    pub fn previous(&self, at: usize) -> Option<usize> {
        if at <= self.first() {
            return None;
        }
        let span = read_back_length(&self.bytes[..at]).expect(VALID);
        Some(at - with_back_length(span))
    }

    /// Decodes the tag and id of the entry at `at`.
    #[inline]
    pub fn head(&self, at: usize) -> Head {
        let tag = self.bytes[at];
        let mut body = at + 1;
        let first = number_at(&self.bytes, &mut body);
        let id = if tag & SAME_MS != 0 {
            StreamId::new(self.id.ms, self.id.seq + first)
        } else {
            StreamId::new(self.id.ms + first, number_at(&self.bytes, &mut body))
        };
        Head { id, tag, at, body }
    }

    /// The offset of the first entry whose id is `id` or higher, or the end.
    pub fn seek(&self, id: StreamId) -> usize {
        if id <= self.id {
            return self.first();
        }
        let mut at = self.end();
        while let Some(previous) = self.previous(at) {
            if self.head(previous).id < id {
                break;
            }
            at = previous;
        }
        at
    }

    /// The entry with this head, and the offset of the next entry.
    #[inline]
    pub fn entry(&self, head: Head) -> (StreamEntry<'_>, usize) {
        let (bytes, mut at, mut names_at) = (&self.bytes[..], head.body, 0);
        let has_same_names = head.tag & SAME_NAMES != 0;
        let pairs = if has_same_names {
            number_at(bytes, &mut names_at)
        } else {
            number_at(bytes, &mut at)
        };
        let body_at = at;
        let elements = if has_same_names { pairs } else { pairs * 2 };
        for _ in 0..elements {
            skip_element(bytes, &mut at);
        }
        let entry = StreamEntry {
            id: head.id,
            pairs: pairs as usize,
            names: has_same_names.then(|| &bytes[names_at..]),
            body: &bytes[body_at..at],
        };
        (entry, head.at + with_back_length(at - head.at))
    }

    /// The head of the entry with this id, unless it is deleted.
    pub fn find(&self, id: StreamId) -> Option<Head> {
        let at = self.seek(id);
        if at == self.end() {
            return None;
        }
        let head = self.head(at);
        (head.id == id && !head.is_deleted()).then_some(head)
    }

    /// Marks an entry as deleted. It must not be deleted already.
    pub fn delete(&mut self, head: Head) {
        Arc::make_mut(&mut self.bytes)[head.at] |= DELETED;
        self.live -= 1;
        self.deleted += 1;
        while self.first() < self.end() {
            let first = self.head(self.first());
            if !first.is_deleted() {
                break;
            }
            self.start = self.entry(first).1 as u32;
        }
    }

    /// The id of the last entry, which may be deleted.
    pub fn last_id(&self) -> StreamId {
        self.previous(self.end())
            .map_or(self.id, |at| self.head(at).id)
    }
}

impl<'a> StreamEntry<'a> {
    /// The number of name-value pairs.
    #[expect(
        clippy::len_without_is_empty,
        reason = "every entry has at least one pair"
    )]
    pub fn len(&self) -> usize {
        self.pairs
    }

    /// Whether its names are those of its node, see [`super::NodeRef::names`].
    pub fn has_names_of_node(&self) -> bool {
        self.names.is_some()
    }

    /// Its names and values.
    #[inline]
    pub fn pairs(&self) -> Pairs<'a> {
        Pairs {
            left: self.pairs,
            names: self.names,
            body: self.body,
        }
    }
}

/// An iterator over the names and values of an entry.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'a> {
    left: usize,
    names: Option<&'a [u8]>,
    body: &'a [u8],
}

#[inline]
fn take<'a>(bytes: &mut &'a [u8]) -> Element<'a> {
    let (element, span) = Element::decode(bytes).expect(VALID);
    *bytes = &bytes[span..];
    element
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (Element<'a>, Element<'a>);

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let name = match &mut self.names {
            Some(names) => take(names),
            None => take(&mut self.body),
        };
        Some((name, take(&mut self.body)))
    }
}
