//! Loading an RDB file: at start, for DEBUG RELOAD, and from a primary.
//!
//! [`load`] reads a source to its end and hands what it finds to a [`Sink`]. Nothing is undone if it fails: the caller then discards
//! what the sink has.

use std::fmt;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use damselfly_engine::{DuplicateEntry, Now};
use damselfly_rdb::{Chunk, Event, LoadedEntry, Piece, RdbError, ReadOptions, Splitter};
use damselfly_value::{Entry, Thresholds};

use super::progress::LoadProgress;

/// How often loading looks whether it shall stop while it waits.
const STOP_CHECK: Duration = Duration::from_millis(20);

/// A file that announces more keys than one per so many bytes is not believed: memory is reserved for them.
const KEY_BYTES: u64 = 16;

/// How to load.
#[derive(Clone, Copy)]
pub struct LoadOptions<'a> {
    /// Size limits of packed collections.
    pub thresholds: &'a Thresholds,
    /// `rdbchecksum`
    pub verify_checksum: bool,
    /// The number of databases of this server.
    pub databases: usize,
    /// Warns if bytes follow the end. Only for files: it reads more.
    pub check_end: bool,
    /// The value of `key-load-delay` at this moment.
    pub key_delay_us: &'a dyn Fn() -> i32,
    /// True if loading shall stop.
    pub stop: &'a dyn Fn() -> bool,
}

/// Takes what a file contains, in the order of the file.
pub trait Sink {
    /// A database will probably have so many keys.
    fn expect(&mut self, db: usize, keys: u64);

    /// Takes entries that are not decoded yet. Returns buffers of chunks that are decoded.
    ///
    /// # Errors
    /// This chunk, or an earlier one, is broken.
    fn chunk(&mut self, chunk: Chunk) -> Result<Vec<Vec<u8>>, LoadError>;

    /// Takes an entry, which has not expired.
    ///
    /// # Errors
    /// The key exists already.
    fn entry(&mut self, db: usize, entry: NewEntry) -> Result<(), LoadError>;

    /// Takes the code of a library of functions.
    ///
    /// # Errors
    /// The library can't be loaded: the reason.
    fn function(&mut self, code: &[u8]) -> Result<(), String>;

    /// The file is at its end: waits until all of it is stored.
    ///
    /// # Errors
    /// A chunk is broken.
    fn finish(&mut self) -> Result<(), LoadError>;

    /// Loading has failed or was stopped. Returns an earlier fault that the sink knows.
    fn abandon(&mut self) -> Option<LoadError>;
}

/// A decoded entry.
#[derive(Debug)]
pub struct NewEntry {
    /// Key, value and deadline.
    pub entry: Entry,
    /// Seconds since the key was last used, if the file says so.
    pub idle_seconds: Option<u64>,
    /// The key's frequency of use, if the file says so.
    pub frequency: Option<u8>,
    /// Where it begins in the file.
    pub offset: u64,
}

/// Stores everything on the calling thread: `entry` and `function` are called for each.
#[expect(missing_debug_implementations, reason = "it holds functions")]
pub struct SerialSink<'a, E, F> {
    /// Size limits of packed collections.
    pub thresholds: &'a Thresholds,
    /// Counts the keys.
    pub progress: &'a LoadProgress,
    /// Stores an entry in a database.
    pub entry: E,
    /// Loads a library.
    pub function: F,
}

impl<E, F> Sink for SerialSink<'_, E, F>
where
    E: FnMut(usize, NewEntry) -> Result<(), LoadError>,
    F: FnMut(&[u8]) -> Result<(), String>,
{
    fn expect(&mut self, _: usize, _: u64) {}

    fn chunk(&mut self, chunk: Chunk) -> Result<Vec<Vec<u8>>, LoadError> {
        let (db, now) = (chunk.database() as usize, self.progress.expiry_time());
        let buffer = chunk.decode(self.thresholds, |offset, event| match event {
            Event::Entry(loaded) => {
                let (idle_seconds, frequency) = (loaded.idle_seconds, loaded.frequency);
                let Ok(entry) = accept(loaded, now) else {
                    self.progress.add_keys(0, 1);
                    return Ok(());
                };
                self.progress.add_keys(1, 0);
                let new = NewEntry {
                    entry,
                    idle_seconds,
                    frequency,
                    offset,
                };
                (self.entry)(db, new)
            }
            _ => Ok(()),
        })?;
        Ok(vec![buffer])
    }

    fn entry(&mut self, db: usize, entry: NewEntry) -> Result<(), LoadError> {
        (self.entry)(db, entry)
    }

    fn function(&mut self, code: &[u8]) -> Result<(), String> {
        (self.function)(code)
    }

    fn finish(&mut self) -> Result<(), LoadError> {
        Ok(())
    }

    fn abandon(&mut self) -> Option<LoadError> {
        None
    }
}

/// The entry; as an error if it has expired.
#[inline]
pub(super) fn accept(loaded: LoadedEntry, now: Now) -> Result<Entry, Entry> {
    let entry = loaded.entry;
    let view = entry.view();
    let has_expired = view.can_expire() && view.expires_ms().is_some_and(|ms| ms <= now.0);
    match has_expired {
        true => Err(entry),
        false => Ok(entry),
    }
}

/// Loads everything from `source` and returns where the file ended, in bytes. `progress` says how far it is.
///
/// # Errors
/// The source can't be read, is no RDB file, is broken, has something that this server can't have, or loading was stopped. The sink
/// then has an unknown part.
pub fn load(
    source: impl Read,
    options: &LoadOptions<'_>,
    progress: &LoadProgress,
    sink: &mut dyn Sink,
) -> Result<u64, LoadError> {
    let result = read_all(source, options, progress, sink);
    match result {
        Ok(end) => Ok(end),
        Err(_) if (options.stop)() => {
            sink.abandon();
            Err(LoadError::Stopped)
        }
        Err(fault) => {
            // Chunks that are not decoded yet may have the fault that explains this one.
            let in_chunks = sink.finish().err();
            let faults = [Some(fault), in_chunks, sink.abandon()];
            let first = faults.into_iter().flatten().min_by_key(LoadError::offset);
            Err(first.unwrap_or(LoadError::Stopped))
        }
    }
}

fn read_all(
    source: impl Read,
    options: &LoadOptions<'_>,
    progress: &LoadProgress,
    sink: &mut dyn Sink,
) -> Result<u64, LoadError> {
    let source = Watched {
        source,
        progress,
        stop: options.stop,
    };
    let read_options = ReadOptions {
        thresholds: options.thresholds,
        verify_checksum: options.verify_checksum,
    };
    let mut splitter = Splitter::new(source, read_options)?;
    loop {
        let delay_us = (options.key_delay_us)();
        splitter.set_entries_max(match delay_us {
            0 => usize::MAX,
            1.. => 1,
            _ => delay_us.unsigned_abs() as usize,
        });
        let piece = splitter.next()?;
        let offset = match &piece {
            Piece::Chunk(chunk) => chunk.offset(),
            Piece::Event(_) => splitter.event_offset(),
        };
        let number = splitter.database();
        let db = usize::try_from(number).unwrap_or(usize::MAX);
        if db >= options.databases {
            let databases = options.databases;
            return Err(LoadError::Database {
                offset,
                number,
                databases,
            });
        }
        match piece {
            Piece::Chunk(chunk) => {
                let spares = sink.chunk(chunk)?;
                splitter.recycle(spares);
                delay(delay_us, options, progress)?;
            }
            Piece::Event(Event::Entry(loaded)) => {
                store_large(loaded, (db, offset), progress, sink)?;
                delay(delay_us, options, progress)?;
            }
            Piece::Event(Event::Empty { key }) => {
                log::warn!("Skipping the empty key \"{}\"", key.escape_ascii());
            }
            Piece::Event(Event::Aux { name, value }) => progress.note_aux(&name, &value),
            Piece::Event(Event::Function(code)) => sink
                .function(&code)
                .map_err(|reason| LoadError::Function { offset, reason })?,
            Piece::Event(Event::ModuleAux { name }) => {
                return Err(LoadError::ModuleData { offset, name });
            }
            Piece::Event(Event::End) => break,
            Piece::Event(Event::ResizeDb { keys, .. }) => {
                sink.expect(db, keys.min(progress.left_bytes() / KEY_BYTES));
            }
            Piece::Event(Event::SelectDb(_) | Event::SlotInfo { .. }) => {}
        }
    }
    if options.check_end && !splitter.is_at_end()? {
        log::warn!(
            "Bytes follow the end of the snapshot, which is at offset {}. They are ignored.",
            splitter.offset()
        );
    }
    sink.finish()?;
    Ok(splitter.offset())
}

/// Stores an entry that was decoded by this thread.
fn store_large(
    loaded: LoadedEntry,
    (db, offset): (usize, u64),
    progress: &LoadProgress,
    sink: &mut dyn Sink,
) -> Result<(), LoadError> {
    let (idle_seconds, frequency) = (loaded.idle_seconds, loaded.frequency);
    let entry = match accept(loaded, progress.expiry_time()) {
        Ok(entry) => entry,
        Err(expired) => {
            progress.note_expired(db, expired.view().key());
            progress.add_keys(0, 1);
            return Ok(());
        }
    };
    let new = NewEntry {
        entry,
        idle_seconds,
        frequency,
        offset,
    };
    sink.entry(db, new)?;
    progress.add_keys(1, 0);
    Ok(())
}

/// Waits as `key-load-delay` demands, which may change meanwhile.
fn delay(
    mut delay_us: i32,
    options: &LoadOptions<'_>,
    progress: &LoadProgress,
) -> Result<(), LoadError> {
    if delay_us < 0 {
        std::thread::sleep(Duration::from_micros(1));
    }
    let started = Instant::now();
    while let Ok(delay @ 1..) = u64::try_from(delay_us) {
        let left = Duration::from_micros(delay).saturating_sub(started.elapsed());
        if left.is_zero() {
            break;
        }
        std::thread::sleep(left.min(STOP_CHECK));
        progress.log_if_due();
        if (options.stop)() {
            return Err(LoadError::Stopped);
        }
        delay_us = (options.key_delay_us)();
    }
    Ok(())
}

/// A source that counts its bytes, and fails when loading shall stop.
struct Watched<'a, R> {
    source: R,
    progress: &'a LoadProgress,
    stop: &'a dyn Fn() -> bool,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.stop)() {
            return Err(io::Error::other("stopped"));
        }
        let bytes = self.source.read(buffer)?;
        self.progress.add_bytes(bytes as u64);
        self.progress.log_if_due();
        Ok(bytes)
    }
}

/// Why a file could not be loaded.
#[derive(Debug)]
pub enum LoadError {
    /// It can't be read, or is broken.
    Rdb(RdbError),
    /// A key occurs twice.
    Duplicate {
        /// Where the second one begins.
        offset: u64,
        /// The key.
        key: Vec<u8>,
        /// The database.
        db: u64,
    },
    /// A database that this server doesn't have.
    Database {
        /// Where it is used.
        offset: u64,
        /// Its number.
        number: u64,
        /// How many this server has.
        databases: usize,
    },
    /// Data of a module that belongs to no key.
    ModuleData {
        /// Where it begins.
        offset: u64,
        /// The name of the module's type.
        name: String,
    },
    /// A library of functions can't be loaded.
    Function {
        /// Where it begins.
        offset: u64,
        /// Why.
        reason: String,
    },
    /// A bug: a thread panicked.
    Panic {
        /// Where the chunk begins that it decoded.
        offset: u64,
    },
    /// The server is stopping.
    Stopped,
}

impl LoadError {
    pub(super) fn duplicate(duplicate: &DuplicateEntry, db: u64) -> Self {
        Self::Duplicate {
            offset: duplicate.offset,
            key: duplicate.entry.view().key().to_vec(),
            db,
        }
    }

    /// Where the fault is in the file.
    pub fn offset(&self) -> u64 {
        match self {
            Self::Rdb(error) => error.offset,
            Self::Duplicate { offset, .. }
            | Self::Database { offset, .. }
            | Self::ModuleData { offset, .. }
            | Self::Function { offset, .. }
            | Self::Panic { offset } => *offset,
            Self::Stopped => u64::MAX,
        }
    }
}

impl From<RdbError> for LoadError {
    fn from(error: RdbError) -> Self {
        Self::Rdb(error)
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rdb(error) => write!(f, "{error}"),
            Self::Duplicate { offset, key, db } => write!(
                f,
                "at offset {offset}: the key \"{}\" occurs twice in database {db}",
                key.escape_ascii()
            ),
            Self::Database {
                offset,
                number,
                databases,
            } => write!(
                f,
                "at offset {offset}: keys of database {number}, but the option 'databases' is {databases}"
            ),
            Self::ModuleData { offset, name } => write!(
                f,
                "at offset {offset}: data of the module type \"{name}\", but modules are not supported"
            ),
            Self::Function { offset, reason } => {
                write!(
                    f,
                    "at offset {offset}: a function library fails to load: {reason}"
                )
            }
            Self::Panic { offset } => write!(
                f,
                "a bug in Damselfly, in the entries from offset {offset} on; please report it with the lines above"
            ),
            Self::Stopped => f.write_str("the server is stopping"),
        }
    }
}

impl std::error::Error for LoadError {}
