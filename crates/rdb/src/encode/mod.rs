//! Encodes the parts of a file and appends them to a vector.

mod stream;
mod value;

use std::fmt;

use damselfly_base::number::parse_integer;
use damselfly_collections::Element;
use damselfly_value::{EntryRef, HashRef, Text, Value};

use crate::checksum::Checksum;
use crate::format::{
    REDIS_MAGIC, VALKEY_MAGIC, VALKEY_VERSION_MIN, VERSION_WITH_CHECKSUM,
    VERSION_WITH_FIELD_DEADLINES, VERSION_WRITTEN, opcode, string,
};
use crate::item_field;
use crate::lzf::Compressor;

pub use value::ValueWriter;

/// Shorter strings are not compressed, as in Redis.
const COMPRESSED_BYTES_MIN: usize = 21;
/// A string is stored compressed only if that saves at least this many bytes.
const SAVED_BYTES_MIN: usize = 4;
/// The longest text of an integer that is stored as one: `-2147483648`.
const INTEGER_BYTES_MAX: usize = 11;

/// Options for writing a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    /// The version of the file: 10 to 12 of Redis, or 80 of Valkey.
    pub version: u32,
    /// Whether strings are compressed.
    pub compress: bool,
}

/// Eviction data of a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Idle time in seconds.
    pub idle_seconds: Option<u64>,
    /// Access frequency: Redis's logarithmic counter.
    pub frequency: Option<u8>,
}

/// The error for an entry that the chosen version can't express; it names a version that can.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeedsVersion(pub u32);

impl fmt::Display for NeedsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expiration times of fields need RDB version {}", self.0)
    }
}

impl std::error::Error for NeedsVersion {}

/// The lowest version of a file that can hold an entry.
pub fn version_needed(entry: EntryRef<'_>) -> u32 {
    version_of(entry.value())
}

/// Whether a hash has a field with a deadline.
fn is_timed(hash: HashRef<'_>) -> bool {
    hash.first_deadline_ms().is_some()
}

fn version_of(value: Value<'_>) -> u32 {
    match value {
        Value::Hash(hash) if is_timed(hash) => VERSION_WITH_FIELD_DEADLINES,
        Value::Text(_)
        | Value::List(_)
        | Value::Set(_)
        | Value::Hash(_)
        | Value::SortedSet(_)
        | Value::Stream(_) => VERSION_WRITTEN,
    }
}

/// Writes the parts of a file.
#[expect(missing_debug_implementations, reason = "scratch memory")]
pub struct Encoder {
    options: WriteOptions,
    /// Made when it is first needed, since its table is large.
    compressor: Option<Compressor>,
    attempts: Attempts,
    scratch: Vec<u8>,
}

/// Decides which strings to try to compress, since trying costs more than all other work on a string.
///
/// Strings of about the same length tend to be alike. If many in a row did not get clearly shorter, only some of the following are
/// tried, until one does.
struct Attempts {
    /// For each power of two, the strings of such a length since the last one that got clearly shorter.
    since_success: [u32; usize::BITS as usize],
}

impl Attempts {
    /// After this many failures in a row, one string in as many is tried.
    const PATIENCE: u32 = 16;

    /// Less than one part in this many of a string is not worth the time: random text gets a few bytes shorter by chance.
    const SAVED_SHARE_MIN: usize = 16;

    fn new() -> Self {
        Self {
            since_success: [0; _],
        }
    }

    /// Whether to try to compress the next string, which has `len` bytes.
    fn is_worthwhile(&mut self, len: usize) -> bool {
        let since_success = &mut self.since_success[len.ilog2() as usize];
        if *since_success < Self::PATIENCE {
            return true;
        }
        *since_success = since_success.wrapping_add(1).max(Self::PATIENCE);
        since_success.is_multiple_of(Self::PATIENCE)
    }

    /// Notes that a string of `len` bytes can be written in `compressed` bytes.
    fn record(&mut self, len: usize, compressed: usize) {
        let since_success = &mut self.since_success[len.ilog2() as usize];
        *since_success = if len - compressed >= len / Self::SAVED_SHARE_MIN {
            0
        } else {
            since_success.saturating_add(1)
        };
    }
}

impl Encoder {
    /// A writer of parts of a file.
    ///
    /// # Panics
    /// If files of this version can't be written.
    pub fn new(options: WriteOptions) -> Self {
        let known = [
            VERSION_WRITTEN,
            11,
            VERSION_WITH_FIELD_DEADLINES,
            VALKEY_VERSION_MIN,
        ];
        assert!(known.contains(&options.version), "{}", options.version);
        Self {
            options,
            compressor: None,
            attempts: Attempts::new(),
            scratch: Vec::new(),
        }
    }

    /// The memory that it takes for its work.
    pub fn memory_bytes(&self) -> usize {
        let compressor = self.compressor.as_ref().map_or(0, Compressor::memory_bytes);
        compressor + self.scratch.capacity()
    }

    /// The header of a file.
    pub fn header(&self, out: &mut Vec<u8>) {
        let version = self.options.version;
        if version < VALKEY_VERSION_MIN {
            out.extend_from_slice(REDIS_MAGIC);
            out.extend_from_slice(format!("{version:04}").as_bytes());
        } else {
            out.extend_from_slice(VALKEY_MAGIC);
            out.extend_from_slice(format!("{version:03}").as_bytes());
        }
    }

    /// A metadata field, such as `redis-ver`. These come before all databases.
    pub fn aux(&mut self, name: &[u8], value: &[u8], out: &mut Vec<u8>) {
        out.push(opcode::AUX);
        self.string(name, out);
        self.string(value, out);
    }

    /// A library of functions: its code. Libraries come before all databases.
    pub fn function(&mut self, code: &[u8], out: &mut Vec<u8>) {
        out.push(opcode::FUNCTION);
        self.string(code, out);
    }

    /// The entries from here on are in this database.
    pub fn select_db(&self, database: u64, out: &mut Vec<u8>) {
        out.push(opcode::SELECT_DB);
        put_length(database, out);
    }

    /// The approximate number of keys in the database, and of keys with a deadline.
    pub fn resize_db(&self, keys: u64, deadlines: u64, out: &mut Vec<u8>) {
        out.push(opcode::RESIZE_DB);
        put_length(keys, out);
        put_length(deadlines, out);
    }

    /// An entry, whatever its size.
    ///
    /// # Errors
    /// If the version cannot express it; then nothing was written.
    pub fn entry(
        &mut self,
        entry: EntryRef<'_>,
        access: Access,
        out: &mut Vec<u8>,
    ) -> Result<(), NeedsVersion> {
        let mut writer = self.begin_entry(entry, access, out)?;
        while !writer.write(entry.value(), self, usize::MAX, out) {}
        Ok(())
    }

    /// The beginning of an entry: everything except its value. The returned writer writes the value in slices.
    ///
    /// # Errors
    /// As [`Encoder::entry`].
    pub fn begin_entry(
        &mut self,
        entry: EntryRef<'_>,
        access: Access,
        out: &mut Vec<u8>,
    ) -> Result<ValueWriter, NeedsVersion> {
        let value = entry.value();
        let kind = self.kind_of(value)?;
        if let Some(item) = entry.attributes().to_text() {
            self.aux(item_field::NAME, item.as_bytes(), out);
        }
        if let Some(deadline_ms) = entry.deadline_ms() {
            out.push(opcode::EXPIRE_MS);
            out.extend_from_slice(&deadline_ms.to_le_bytes());
        }
        if let Some(seconds) = access.idle_seconds {
            out.push(opcode::IDLE);
            put_length(seconds, out);
        }
        if let Some(frequency) = access.frequency {
            out.extend_from_slice(&[opcode::FREQUENCY, frequency]);
        }
        out.push(kind);
        self.string(entry.key(), out);
        Ok(ValueWriter::new(value))
    }

    /// Type and value of an entry, as DUMP payloads have them.
    pub(crate) fn value(
        &mut self,
        entry: EntryRef<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), NeedsVersion> {
        let value = entry.value();
        out.push(self.kind_of(value)?);
        let mut writer = ValueWriter::new(value);
        while !writer.write(value, self, usize::MAX, out) {}
        Ok(())
    }

    /// The end of a file. `out` holds all bytes that `checksum` has not seen yet. Without a checksum the file is marked as having none.
    pub fn end(&self, checksum: Option<Checksum>, out: &mut Vec<u8>) {
        const { assert!(VERSION_WRITTEN >= VERSION_WITH_CHECKSUM) };
        out.push(opcode::END);
        let checksum = checksum.map_or(0, |mut checksum| {
            checksum.add(out);
            checksum.value()
        });
        out.extend_from_slice(&checksum.to_le_bytes());
    }

    /// A string, in its shortest form.
    fn string(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        if bytes.len() <= INTEGER_BYTES_MAX
            && let Some(number) = parse_integer(bytes)
            && put_integer(number, out)
        {
            return;
        }
        self.bytes(bytes, out);
    }

    /// A string that is not stored as an integer.
    fn bytes(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let len = bytes.len();
        if len >= COMPRESSED_BYTES_MIN && self.options.compress && self.attempts.is_worthwhile(len)
        {
            let compressor = self.compressor.get_or_insert_with(Compressor::new);
            let compressed = compressor.compress(bytes, len - SAVED_BYTES_MIN);
            self.attempts
                .record(len, compressed.map_or(len, <[u8]>::len));
            if let Some(compressed) = compressed {
                put_compressed_head(compressed.len(), len, out);
                out.extend_from_slice(compressed);
                return;
            }
        }
        put_length(len as u64, out);
        out.extend_from_slice(bytes);
    }

    fn element(&mut self, element: Element<'_>, out: &mut Vec<u8>) {
        match element {
            Element::Bytes(bytes) => self.string(bytes, out),
            Element::Integer(number) => put_number(number, out),
        }
    }

    fn text(&mut self, text: Text<'_>, out: &mut Vec<u8>) {
        match text {
            Text::Bytes {
                bytes,
                edited: true,
            } => self.string(bytes, out),
            Text::Bytes { bytes, .. } => self.bytes(bytes, out),
            Text::Integer(number) => put_number(number, out),
            Text::Packed(text) => {
                let mut unpacked = std::mem::take(&mut self.scratch);
                unpacked.clear();
                unpacked.resize(text.len(), 0);
                text.unpack_into(&mut unpacked);
                self.bytes(&unpacked, out);
                self.put_back(unpacked);
            }
        }
    }

    /// A packed collection: all these bytes as one string.
    fn blob(&mut self, parts: [&[u8]; 3], out: &mut Vec<u8>) {
        if !self.options.compress {
            let len: usize = parts.iter().map(|part| part.len()).sum();
            put_length(len as u64, out);
            parts.iter().for_each(|part| out.extend_from_slice(part));
            return;
        }
        let mut joined = std::mem::take(&mut self.scratch);
        joined.clear();
        parts.iter().for_each(|part| joined.extend_from_slice(part));
        self.bytes(&joined, out);
        self.put_back(joined);
    }

    fn put_back(&mut self, mut scratch: Vec<u8>) {
        scratch.clear();
        scratch.shrink_to(SCRATCH_BYTES_MAX);
        self.scratch = scratch;
    }

    /// A listpack, given the number of its elements and their bytes.
    fn listpack(&mut self, count: usize, elements: &[u8], out: &mut Vec<u8>) {
        const HEADER_BYTES: usize = 6;
        let total = HEADER_BYTES + elements.len() + 1;
        let mut header = [0; HEADER_BYTES];
        // A listpack of ours stays below 2^30 bytes.
        header[..4].copy_from_slice(&(total as u32).to_le_bytes());
        // More than that is "unknown".
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        header[4..].copy_from_slice(&count.to_le_bytes());
        self.blob([&header, elements, &[0xff]], out);
    }
}

/// Scratch memory above this size is freed.
const SCRATCH_BYTES_MAX: usize = 1 << 20;

fn put_length(length: u64, out: &mut Vec<u8>) {
    match length {
        0..0x40 => out.push(length as u8),
        0x40..0x4000 => out.extend_from_slice(&(0x4000 | length as u16).to_be_bytes()),
        0x4000..=0xffff_ffff => {
            out.push(0x80);
            out.extend_from_slice(&(length as u32).to_be_bytes());
        }
        _ => {
            out.push(0x81);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
}

/// The head of a string of `len` bytes that was compressed.
fn put_compressed_head(compressed: usize, len: usize, out: &mut Vec<u8>) {
    out.push(0xc0 | string::LZF as u8);
    put_length(compressed as u64, out);
    put_length(len as u64, out);
}

/// An integer as a string: in few bytes if it fits, or its text.
fn put_number(number: i64, out: &mut Vec<u8>) {
    if !put_integer(number, out) {
        let mut scratch = damselfly_base::number::Decimal::new();
        let text = scratch.format(number);
        put_length(text.len() as u64, out);
        out.extend_from_slice(text);
    }
}

/// An integer of up to 32 bits; false if it has more.
fn put_integer(number: i64, out: &mut Vec<u8>) -> bool {
    let bytes = number.to_le_bytes();
    let (form, width) = match number {
        -0x80..=0x7f => (string::INT_8, 1),
        -0x8000..=0x7fff => (string::INT_16, 2),
        -0x8000_0000..=0x7fff_ffff => (string::INT_32, 4),
        _ => return false,
    };
    out.push(0xc0 | form as u8);
    out.extend_from_slice(&bytes[..width]);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of 1,600 strings, how many are tried if each that is tried gets so short.
    fn tries(len: usize, compressed: usize) -> usize {
        let mut attempts = Attempts::new();
        let is_tried = |_: &usize| {
            let is_tried = attempts.is_worthwhile(len);
            if is_tried {
                attempts.record(len, compressed);
            }
            is_tried
        };
        (0..1600).filter(is_tried).count()
    }

    /// Random text, of which some strings get a few bytes shorter: trying them all took most of the time of a save.
    #[test]
    fn strings_that_get_hardly_shorter_are_not_all_tried() {
        assert_eq!(tries(1024, 900), 1600);
        assert!(tries(1024, 1000) < 130);
        assert!(tries(1024, 1024) < 130);
    }
}
