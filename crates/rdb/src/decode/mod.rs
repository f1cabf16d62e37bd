//! Decodes values and builds entries from them.

mod blob;
mod hash;
mod list;
mod set;
mod sorted_set;
mod stream;

use std::collections::HashSet;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use damselfly_collections::Element;
use damselfly_value::{Elements, Entry, NewValue, Thresholds};

use crate::error::{Duplicate, Fault};
use crate::format::{kind, module_name};
use crate::input::{Input, Result};

/// Redis and Valkey assign different meanings to the types from 22 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Of Redis, and of Valkey up to version 11.
    Redis,
    /// Of Valkey from version 80 on.
    Valkey,
}

/// The parts of an entry other than its value.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    pub key: &'a [u8],
    pub deadline_ms: Option<i64>,
}

/// Decodes values. Reuses its scratch memory for the next one.
pub(crate) struct Decoder<'t> {
    thresholds: &'t Thresholds,
    scratch: Scratch,
}

#[derive(Default)]
struct Scratch {
    /// Elements of a listpack, without header.
    elements: Vec<u8>,
    /// Another packed collection.
    packed: Vec<u8>,
    /// Hashes of members or fields.
    hashes: Vec<u64>,
    scored: sorted_set::Scored,
    stream: stream::Texts,
}

/// A collection with more bytes does not stay packed, whatever the options say.
const PACKED_BYTES_MAX: usize = damselfly_collections::listpack::BYTES_MAX / 2;

/// Scratch memory above this size is freed after each value.
const SCRATCH_BYTES_MAX: usize = 1 << 20;

impl<'t> Decoder<'t> {
    pub(crate) fn new(thresholds: &'t Thresholds) -> Self {
        Self {
            thresholds,
            scratch: Scratch::default(),
        }
    }

    /// Reads a value of type `of`. `None` if it is a collection without elements.
    pub(crate) fn entry<R: Read>(
        &mut self,
        input: &mut Input<R>,
        of: u8,
        dialect: Dialect,
        head: Head<'_>,
    ) -> Result<Option<Entry>> {
        let entry = match of {
            kind::STRING => Ok(Some(text(head, input.string()?))),
            kind::LIST | kind::LIST_ZIPLIST | kind::LIST_QUICKLIST | kind::LIST_QUICKLIST_2 => {
                self.list(input, of, head)
            }
            kind::SET | kind::SET_INTSET | kind::SET_LISTPACK => self.set(input, of, head),
            kind::SORTED_SET
            | kind::SORTED_SET_BINARY
            | kind::SORTED_SET_ZIPLIST
            | kind::SORTED_SET_LISTPACK => self.sorted_set(input, of, head),
            kind::HASH | kind::HASH_ZIPMAP | kind::HASH_ZIPLIST | kind::HASH_LISTPACK => {
                self.hash(input, of, head)
            }
            kind::HASH_VALKEY if dialect == Dialect::Valkey => self.hash_of_valkey(input, head),
            kind::HASH_DEADLINES_PRE_GA
            | kind::HASH_LISTPACK_DEADLINES_PRE_GA
            | kind::HASH_DEADLINES
            | kind::HASH_LISTPACK_DEADLINES
                if dialect == Dialect::Redis =>
            {
                self.timed_hash(input, of, head)
            }
            kind::STREAM | kind::STREAM_2 | kind::STREAM_3 => self.stream(input, of, head),
            kind::STREAM_4 | kind::STREAM_5 if dialect == Dialect::Redis => {
                self.stream(input, of, head)
            }
            _ => Err(refusal(input, of, dialect)),
        };
        self.release();
        entry
    }

    fn release(&mut self) {
        self.scratch.elements.shrink_to(SCRATCH_BYTES_MAX);
        self.scratch.packed.shrink_to(SCRATCH_BYTES_MAX);
        self.scratch.hashes.shrink_to(SCRATCH_BYTES_MAX / 8);
        self.scratch.scored.shrink();
        self.scratch.stream.shrink();
    }
}

/// True if a byte stands for a type of values, known or not.
pub(crate) fn is_kind(byte: u8) -> bool {
    byte <= kind::LAST && byte != 8
}

/// The reason why a value of type `of` cannot be loaded.
fn refusal<R: Read>(input: &mut Input<R>, of: u8, dialect: Dialect) -> Fault {
    match (of, dialect) {
        (kind::MODULE, _) => match input.length() {
            Ok(id) => Fault::Module {
                name: module_name(id),
            },
            Err(fault) => fault,
        },
        (kind::MODULE_PRE_GA, _) => {
            Fault::Unsupported("a module's value of a Redis 4.0 release candidate")
        }
        (kind::ARRAY, Dialect::Redis) => Fault::Unsupported("an array of Redis 8"),
        (29..=32, Dialect::Redis) => Fault::Unsupported("a hash template of Redis 8"),
        (kind::LAST, Dialect::Redis) => Fault::Unsupported("a rate limiter of Redis 8"),
        (23, Dialect::Valkey) => Fault::Unsupported("a path hash of Valkey"),
        _ => Fault::UnknownType(of),
    }
}

/// An entry of a string.
fn text(head: Head<'_>, text: Element<'_>) -> Entry {
    let value = match text {
        Element::Integer(number) => NewValue::Integer(number),
        Element::Bytes(bytes) => NewValue::compact(bytes),
    };
    Entry::new(head.key, value, head.deadline_ms)
}

/// The element in its shortest form.
#[inline]
fn canonical(element: Element<'_>) -> Element<'_> {
    match element {
        Element::Bytes(text) => Element::new(text),
        Element::Integer(_) => element,
    }
}

fn load(threshold: &AtomicU64) -> u64 {
    threshold.load(Relaxed)
}

/// The bytes of a packed collection. An integer is not one, and has no bytes here.
fn bytes_of(element: Element<'_>) -> &[u8] {
    match element {
        Element::Bytes(bytes) => bytes,
        Element::Integer(_) => &[],
    }
}

/// Checks that the first of every `stride` elements, such as the fields of a hash, all differ.
fn check_unique(
    elements: Elements<'_>,
    stride: usize,
    hashes: &mut Vec<u64>,
    what: Duplicate,
) -> Result<()> {
    hashes.clear();
    hashes.extend(blob::each(elements).step_by(stride).map(hash_of));
    check_hashes(elements, stride, hashes, what)
}

/// The same, given the hashes of these elements.
fn check_hashes(
    elements: Elements<'_>,
    stride: usize,
    hashes: &mut [u64],
    what: Duplicate,
) -> Result<()> {
    hashes.sort_unstable();
    if hashes.windows(2).all(|pair| pair[0] != pair[1]) {
        return Ok(());
    }
    // Different names may have the same hash.
    let mut seen = HashSet::new();
    let mut names = blob::each(elements).step_by(stride);
    let is_unique = names.all(|name| seen.insert(name.to_vec()));
    is_unique.then_some(()).ok_or(Fault::Duplicate(what))
}

/// A hash that is the same for all forms of the same text.
#[inline]
fn hash_of(element: Element<'_>) -> u64 {
    match canonical(element) {
        // Different integers have different hashes.
        Element::Integer(number) => number.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15),
        Element::Bytes(text) => damselfly_base::hash(text),
    }
}
