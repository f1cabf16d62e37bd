//! A node of a stream: neighbouring entries, packed one behind the other.
//!
//! ```text
//! | number of names | name ... | entry | entry | ...
//!
//! entry   | tag: u8 | ms | seq | [number of pairs] | [name] value ... | back-length |
//! tag     bit 0  deleted: the entry is passed over
//!         bit 1  its names are those at the front of the node, and it has only values
//!         bit 2  its milliseconds are those of the node's id, and left out
//! ms      how many milliseconds it is later than the node's id
//! seq     its number; within the node's millisecond, how much higher it is
//! ```
//!
//! Numbers are little-endian groups of seven bits; names and values are elements of a listpack without back-length. The
//! back-length is of the whole entry, so that a walk from the end passes over entries without a look at their values.
//!
//! Nodes begin and end where Redis's do, since clients see that: `MAXLEN ~` removes whole nodes. For this a node counts the bytes
//! that Redis's listpack of the same entries has.

use std::sync::Arc;

use damselfly_base::heap::block_bytes;

use super::StreamId;
use crate::element::{Element, back_length, read_back_length, span_at, with_back_length};

const DELETED: u8 = 1;
const SAME_NAMES: u8 = 1 << 1;
const SAME_MS: u8 = 1 << 2;

/// Redis's listpack without elements: a header of six bytes and an end mark.
const REDIS_EMPTY_BYTES: usize = 7;

const BROKEN: &str = "a node is made here";

/// When a node is full: Redis's options of these names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeLimits {
    /// `stream-node-max-bytes`; 0 for none.
    pub bytes_max: u64,
    /// `stream-node-max-entries`; 0 for none.
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

/// Texts longer than this together are not stored as one entry, and no node grows beyond it.
pub const ENTRY_BYTES_MAX: usize = 1 << 30;

/// A node. A copy shares the entries until one of the two changes.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// The id of its first entry, which may be deleted.
    pub id: StreamId,
    /// Entries that are not deleted.
    pub live: u32,
    /// Entries that are.
    pub deleted: u32,
    /// Where the entries begin that are not all deleted.
    start: u32,
    /// What Redis's listpack takes, without the two counts of entries.
    redis_bytes: u32,
    bytes: Arc<Vec<u8>>,
}

/// An entry, to read.
#[derive(Clone, Copy, Debug)]
pub struct StreamEntry<'a> {
    /// Its id.
    pub id: StreamId,
    pairs: usize,
    /// The elements of the names, if they are not among the values.
    names: Option<&'a [u8]>,
    body: &'a [u8],
}

/// Where an entry lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub id: StreamId,
    tag: u8,
    at: usize,
    /// Where what is behind the id begins.
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
    *at += span_at(&bytes[*at..]).expect(BROKEN);
}

fn redis_integer_bytes(number: i64) -> usize {
    Element::Integer(number).encoded_bytes()
}

impl Node {
    /// A node for entries from `id` on, the first of which has these names. Room is set aside for about `room` bytes.
    pub fn new<'e>(id: StreamId, names: impl Iterator<Item = &'e [u8]>, room: usize) -> Self {
        let mut bytes = Vec::with_capacity(room);
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
        // The number of names, and the zero behind the last.
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

    /// True if an entry of together `text_bytes` bytes goes to a new node.
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

    /// Adds an entry behind all others; its id is higher than theirs.
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
            let (own, span) = Element::decode(&self.bytes[at..]).expect(BROKEN);
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

    /// Gives back room that no entry will need.
    pub fn seal(&mut self) {
        if let Some(bytes) = Arc::get_mut(&mut self.bytes) {
            bytes.shrink_to_fit();
        }
    }

    /// The bytes of its entries.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes that it takes on the heap.
    pub fn heap_bytes(&self) -> usize {
        const COUNTED: usize = size_of::<Vec<u8>>() + 2 * size_of::<usize>();
        block_bytes(self.bytes.capacity()) + block_bytes(COUNTED)
    }

    /// The first entry that is not surely deleted, or the end.
    pub fn first(&self) -> usize {
        self.start as usize
    }

    /// The end of all entries.
    pub fn end(&self) -> usize {
        self.bytes.len()
    }

    /// The entry before `at`; `None` if all before are deleted.
    #[inline]
    pub fn previous(&self, at: usize) -> Option<usize> {
        if at <= self.first() {
            return None;
        }
        let span = read_back_length(&self.bytes[..at]).expect(BROKEN);
        Some(at - with_back_length(span))
    }

    /// What the entry at `at` begins with.
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

    /// Where the first entry is whose id is `id` or higher, or the end.
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

    /// The entry of that head, and where the one behind it begins.
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

    /// Where the entry with this id begins, unless it is deleted.
    pub fn find(&self, id: StreamId) -> Option<Head> {
        let at = self.seek(id);
        if at == self.end() {
            return None;
        }
        let head = self.head(at);
        (head.id == id && !head.is_deleted()).then_some(head)
    }

    /// Marks an entry as deleted that is not.
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

    /// The id of its last entry, which may be deleted.
    pub fn last_id(&self) -> StreamId {
        self.previous(self.end())
            .map_or(self.id, |at| self.head(at).id)
    }
}

impl<'a> StreamEntry<'a> {
    /// How many names and values it has.
    #[expect(clippy::len_without_is_empty, reason = "there is always one")]
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

/// The names and values of an entry.
#[derive(Clone, Copy, Debug)]
pub struct Pairs<'a> {
    left: usize,
    names: Option<&'a [u8]>,
    body: &'a [u8],
}

#[inline]
fn take<'a>(bytes: &mut &'a [u8]) -> Element<'a> {
    let (element, span) = Element::decode(bytes).expect(BROKEN);
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
