//! Traces: recorded requests to a cache, each a key and the size of its value.
//!
//! ```text
//! zstd stream of | key: u64 LE | size: u32 LE | key | size | ...
//! ```

use ruzstd::decoding::StreamingDecoder;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// The size of a record.
const RECORD_BYTES: usize = 12;

/// One request of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The key, a number.
    pub key: u64,
    /// The size of its value in bytes.
    pub bytes: u32,
}

/// A file that is read record by record.
pub struct Trace {
    path: PathBuf,
    decoder: BufReader<Box<dyn Read + Send>>,
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trace").field(&self.path).finish()
    }
}

impl Trace {
    /// Opens a file.
    ///
    /// # Errors
    /// If it can't be read, or does not begin as a zstd stream does.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = BufReader::new(File::open(path)?);
        let decoder = StreamingDecoder::new(file).map_err(io::Error::other)?;
        Ok(Self {
            path: path.to_owned(),
            decoder: BufReader::new(Box::new(decoder)),
        })
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// If the file can't be read, is damaged, or ends within a record.
    pub fn next_record(&mut self) -> io::Result<Option<Record>> {
        let mut record = [0; RECORD_BYTES];
        if self.decoder.read(&mut record[..1])? == 0 {
            return Ok(None);
        }
        self.decoder.read_exact(&mut record[1..])?;
        let (key, bytes) = record.split_at(8);
        Ok(Some(Record {
            key: u64::from_le_bytes(key.try_into().expect("eight bytes")),
            bytes: u32::from_le_bytes(bytes.try_into().expect("four bytes")),
        }))
    }
}
