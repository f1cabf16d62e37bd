//! Splits a file into chunks of whole entries, which other threads can decode.
//!
//! ```text
//! file    | note | library | select | entry entry entry ... entry | select | entry ... | end |
//! pieces    note   library           chunk          ... chunk               chunk   ... end
//! ```
//!
//! Finding the end of an entry takes a fraction of the time of decoding it (`skip.rs`). An entry that is too large for a chunk is
//! decoded here, so that it is never in memory as a whole next to its value.

use std::io::{self, Read};
use std::ops::Range;

use damselfly_value::Thresholds;

use crate::decode::Dialect;
use crate::error::RdbError;
use crate::reader::{Event, ReadOptions, Reader};
use crate::skip::{self, Obstacle};

/// The usual size of a chunk: enough that handing it over costs little, and little enough to fit into a processor's cache.
pub const CHUNK_BYTES: usize = 128 << 10;

/// A chunk may grow to this size if its first entry needs that.
const CHUNK_BYTES_MAX: usize = 1 << 20;

/// A part of a file.
#[derive(Debug)]
pub enum Piece {
    /// Entries, not decoded yet.
    Chunk(Chunk),
    /// Anything else, or a single entry that was decoded: never [`Event::SelectDb`] or [`Event::SlotInfo`].
    Event(Event),
}

/// Splits a file.
#[expect(
    missing_debug_implementations,
    reason = "it holds a buffer and its source"
)]
pub struct Splitter<'t, R> {
    reader: Reader<'t, R>,
    database: u64,
    event_offset: u64,
    entries_max: usize,
    spares: Vec<Vec<u8>>,
}

impl<'t, R: Read> Splitter<'t, R> {
    /// Begins to read a file: its header.
    ///
    /// # Errors
    /// If it is no RDB file, or of an unknown version.
    pub fn new(source: R, options: ReadOptions<'t>) -> Result<Self, RdbError> {
        let mut reader = Reader::new(source, options)?;
        reader.input().set_read_bytes(CHUNK_BYTES);
        Ok(Self {
            reader,
            database: 0,
            event_offset: 0,
            entries_max: usize::MAX,
            spares: Vec::new(),
        })
    }

    /// Puts at most so many entries into a chunk.
    pub fn set_entries_max(&mut self, entries_max: usize) {
        self.entries_max = entries_max;
    }

    /// Gives back the buffer of a chunk, for another one.
    pub fn recycle(&mut self, buffers: impl IntoIterator<Item = Vec<u8>>) {
        self.spares.extend(buffers);
    }

    /// The version of the file.
    pub fn version(&self) -> u32 {
        self.reader.version()
    }

    /// Number of bytes consumed so far.
    pub fn offset(&self) -> u64 {
        self.reader.offset()
    }

    /// Where the event that [`Splitter::next`] just returned begins in the file.
    pub fn event_offset(&self) -> u64 {
        self.event_offset
    }

    /// The database of a hint or an entry that [`Splitter::next`] just returned.
    pub fn database(&self) -> u64 {
        self.database
    }

    /// Reads the next piece. After [`Event::End`] there are only more of these.
    ///
    /// # Errors
    /// If the file is truncated or broken, or has something that cannot be loaded. Faults within a chunk are found when it is
    /// decoded.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator would return nothing at the end, as if that could not fail"
    )]
    pub fn next(&mut self) -> Result<Piece, RdbError> {
        loop {
            if let Some(chunk) = self.chunk()? {
                return Ok(Piece::Chunk(chunk));
            }
            self.event_offset = self.reader.offset();
            match self.reader.next()? {
                Event::SelectDb(database) => self.database = database,
                Event::SlotInfo { .. } => {}
                event => return Ok(Piece::Event(event)),
            }
        }
    }

    /// The entries that come next; `None` if something else does, or an entry that does not fit.
    fn chunk(&mut self) -> Result<Option<Chunk>, RdbError> {
        if self.reader.is_done() {
            return Ok(None);
        }
        let (version, dialect) = (self.reader.version(), self.reader.dialect());
        let mut wanted = CHUNK_BYTES;
        loop {
            let offset = self.reader.offset();
            let input = self.reader.input();
            let may_grow = input.fill_if_possible(wanted).map_err(|fault| RdbError {
                offset,
                key: None,
                fault,
            })? && wanted < CHUNK_BYTES_MAX;
            let (len, obstacle) = skip::entries(input.buffered(), dialect, self.entries_max);
            if len > 0 {
                let (buffer, range) = input.take(len, self.spares.pop().unwrap_or_default());
                return Ok(Some(Chunk {
                    buffer,
                    range,
                    offset,
                    database: self.database,
                    version,
                    dialect,
                }));
            }
            if obstacle != Some(Obstacle::Incomplete) || !may_grow {
                return Ok(None);
            }
            wanted *= 2;
        }
    }

    /// True if nothing follows the end.
    ///
    /// # Errors
    /// If the source cannot be read.
    pub fn is_at_end(&mut self) -> Result<bool, RdbError> {
        self.reader.is_at_end()
    }
}

/// Whole entries of one database, as they are in the file.
#[derive(Debug)]
pub struct Chunk {
    buffer: Vec<u8>,
    range: Range<usize>,
    offset: u64,
    database: u64,
    version: u32,
    dialect: Dialect,
}

impl Chunk {
    /// The database of its entries.
    pub fn database(&self) -> u64 {
        self.database
    }

    /// Where it begins in the file.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes of the file it has.
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// True if it has no entries, which never happens.
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Decodes the entries. `each` gets [`Event::Entry`] and [`Event::Empty`], each with the offset at which it begins in the file.
    /// Returns the buffer, for [`Splitter::recycle`].
    ///
    /// # Errors
    /// At the first fault, or as `each` does.
    pub fn decode<E: From<RdbError>>(
        self,
        thresholds: &Thresholds,
        mut each: impl FnMut(u64, Event) -> Result<(), E>,
    ) -> Result<Vec<u8>, E> {
        let mut reader: Reader<'_, io::Empty> = Reader::over(self, thresholds);
        while !reader.input().buffered().is_empty() {
            let offset = reader.offset();
            each(offset, reader.next()?)?;
        }
        Ok(reader.into_buffer())
    }

    pub(crate) fn into_parts(self) -> (Vec<u8>, Range<usize>, u64, u32, Dialect) {
        (
            self.buffer,
            self.range,
            self.offset,
            self.version,
            self.dialect,
        )
    }
}
