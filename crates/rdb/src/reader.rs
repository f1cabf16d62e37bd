//! Reads a file as a sequence of events.

use std::io::{self, Read};

use damselfly_value::{Entry, Thresholds};

use crate::decode::{Decoder, Dialect, Head, is_kind};
use crate::error::{Fault, RdbError};
use crate::format::{
    HEADER_BYTES, REDIS_MAGIC, REDIS_VERSION_MAX, VALKEY_MAGIC, VALKEY_VERSION_MAX,
    VALKEY_VERSION_MIN, VERSION_WITH_CHECKSUM, kind, module, module_name, opcode,
};
use crate::input::{Input, Result};
use crate::item_field;
use crate::split::Chunk;

/// A part of a file.
#[derive(Debug)]
pub enum Event {
    /// A metadata field of the server that wrote the file.
    Aux {
        /// Its name, such as `redis-ver`.
        name: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
    /// The entries from here on are in this database.
    SelectDb(u64),
    /// The number of keys in the database: an untrusted hint.
    ResizeDb {
        /// Keys.
        keys: u64,
        /// Keys with a deadline.
        deadlines: u64,
    },
    /// The number of keys in a cluster slot: an untrusted hint.
    SlotInfo {
        /// The slot.
        slot: u64,
        /// Its keys.
        keys: u64,
        /// Its keys with a deadline.
        deadlines: u64,
    },
    /// A library of functions: its code.
    Function(Vec<u8>),
    /// Data that a module stored outside the keyspace. The reader skipped it.
    ModuleAux {
        /// The name of the module's type.
        name: String,
    },
    /// A key with its value.
    Entry(LoadedEntry),
    /// A key whose collection has no elements, as early versions of Redis wrote by mistake. It does not exist.
    Empty {
        /// The key.
        key: Vec<u8>,
    },
    /// The end of the file. The checksum was right, unless the file has none or verification is off.
    End,
}

/// A key with its value and its eviction data.
#[derive(Debug)]
pub struct LoadedEntry {
    /// Key, value and deadline; the deadline may have passed.
    pub entry: Entry,
    /// Idle time of the key in seconds.
    pub idle_seconds: Option<u64>,
    /// Access frequency of the key: Redis's logarithmic counter.
    pub frequency: Option<u8>,
}

/// Options for reading a file.
#[derive(Clone, Copy, Debug)]
pub struct ReadOptions<'t> {
    /// Size limits of packed collections.
    pub thresholds: &'t Thresholds,
    /// Whether the checksum is computed and compared.
    pub verify_checksum: bool,
}

/// Reads a file.
#[expect(
    missing_debug_implementations,
    reason = "it holds a buffer and its source"
)]
pub struct Reader<'t, R> {
    input: Input<R>,
    decoder: Decoder<'t>,
    version: u32,
    dialect: Dialect,
    key: Vec<u8>,
    /// Whether the key is that of the entry being read.
    has_key: bool,
    is_done: bool,
    /// Whether the end of the file had a checksum that was compared.
    has_checksum: bool,
}

impl<'t> Reader<'t, io::Empty> {
    /// A reader of the entries of a chunk.
    pub(crate) fn over(chunk: Chunk, thresholds: &'t Thresholds) -> Self {
        let (buffer, range, offset, version, dialect) = chunk.into_parts();
        Self {
            input: Input::over(buffer, range, offset),
            decoder: Decoder::new(thresholds),
            version,
            dialect,
            key: Vec::new(),
            has_key: false,
            is_done: false,
            has_checksum: false,
        }
    }

    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.input.into_buffer()
    }
}

/// Attributes that precede a key and belong to it.
#[derive(Default)]
struct Attributes {
    deadline_ms: Option<i64>,
    idle_seconds: Option<u64>,
    frequency: Option<u8>,
    /// What memcached's clients keep with it.
    item: Option<damselfly_value::Attributes>,
}

impl<'t, R: Read> Reader<'t, R> {
    /// Begins to read a file: its header.
    ///
    /// # Errors
    /// If it is no RDB file, or of an unknown version.
    pub fn new(source: R, options: ReadOptions<'t>) -> std::result::Result<Self, RdbError> {
        let mut input = Input::new(source, options.verify_checksum);
        let (version, dialect) = header(&mut input).map_err(|fault| RdbError {
            offset: 0,
            key: None,
            fault,
        })?;
        Ok(Self {
            input,
            decoder: Decoder::new(options.thresholds),
            version,
            dialect,
            key: Vec::new(),
            has_key: false,
            is_done: false,
            has_checksum: false,
        })
    }

    /// The version of the file.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Number of bytes consumed so far.
    pub fn offset(&self) -> u64 {
        self.input.offset()
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    pub(crate) fn is_done(&self) -> bool {
        self.is_done
    }

    pub(crate) fn input(&mut self) -> &mut Input<R> {
        &mut self.input
    }

    /// Reads up to the next event. After [`Event::End`] there are only more of these.
    ///
    /// # Errors
    /// If the file is truncated or broken, or has something that cannot be loaded. The reader is of no use afterwards.
    #[expect(
        clippy::should_implement_trait,
        reason = "an iterator would return nothing at the end, as if that could not fail"
    )]
    pub fn next(&mut self) -> std::result::Result<Event, RdbError> {
        self.has_key = false;
        self.event().map_err(|fault| RdbError {
            offset: self.input.mark(),
            key: self.has_key.then(|| self.key.clone()),
            fault,
        })
    }

    fn event(&mut self) -> Result<Event> {
        if self.is_done {
            return Ok(Event::End);
        }
        let input = &mut self.input;
        let mut attributes = Attributes::default();
        loop {
            let byte = input.byte()?;
            if self.version < VERSION_WITH_CHECKSUM && !is_of_first_versions(byte) {
                return Err(Fault::UnknownType(byte));
            }
            match byte {
                opcode::EXPIRE_SECONDS => {
                    let seconds = i32::from_le_bytes(input.array()?);
                    attributes.set_deadline(i64::from(seconds) * 1000);
                }
                opcode::EXPIRE_MS => {
                    attributes.set_deadline(i64::from_le_bytes(input.array()?));
                }
                opcode::IDLE => attributes.idle_seconds = Some(input.length()?),
                opcode::FREQUENCY => attributes.frequency = Some(input.byte()?),
                opcode::AUX => {
                    input.string_to(&mut self.key)?;
                    if self.key != item_field::NAME {
                        let (name, mut value) = (self.key.clone(), Vec::new());
                        input.string_to(&mut value)?;
                        return Ok(Event::Aux { name, value });
                    }
                    let item = item_field::parse(input.string()?);
                    attributes.item = Some(item.ok_or(Fault::BadItemField)?);
                }
                _ if is_kind(byte) => return self.entry(byte, &attributes),
                _ => return self.other(byte),
            }
        }
    }

    #[inline]
    fn entry(&mut self, kind: u8, attributes: &Attributes) -> Result<Event> {
        self.input.string_to(&mut self.key)?;
        self.has_key = true;
        let head = Head {
            key: &self.key,
            deadline_ms: attributes.deadline_ms,
        };
        let (input, dialect) = (&mut self.input, self.dialect);
        let entry = self.decoder.entry(input, kind, dialect, head)?;
        Ok(match entry {
            Some(mut entry) => {
                if let Some(item) = attributes.item.filter(|_| entry.view().text().is_some()) {
                    entry.set_attributes(item);
                }
                Event::Entry(LoadedEntry {
                    entry,
                    idle_seconds: attributes.idle_seconds,
                    frequency: attributes.frequency,
                })
            }
            None => Event::Empty {
                key: self.key.clone(),
            },
        })
    }

    /// An event that is not an entry.
    fn other(&mut self, byte: u8) -> Result<Event> {
        let input = &mut self.input;
        Ok(match byte {
            opcode::SELECT_DB => Event::SelectDb(input.length()?),
            opcode::RESIZE_DB => Event::ResizeDb {
                keys: input.length()?,
                deadlines: input.length()?,
            },
            opcode::SLOT_INFO => Event::SlotInfo {
                slot: input.length()?,
                keys: input.length()?,
                deadlines: input.length()?,
            },
            opcode::FUNCTION => {
                let mut code = Vec::new();
                input.string_to(&mut code)?;
                Event::Function(code)
            }
            opcode::FUNCTION_PRE_GA => return Err(Fault::FunctionPreRelease),
            opcode::MODULE_AUX => {
                let name = module_name(input.length()?);
                skip_module(input)?;
                Event::ModuleAux { name }
            }
            opcode::KEY_META_OR_SLOT_IMPORT => {
                return Err(Fault::Unsupported(match self.dialect {
                    Dialect::Redis => "a key with metadata of a module",
                    Dialect::Valkey => "a file written while a cluster slot was being imported",
                }));
            }
            opcode::END => {
                self.end()?;
                Event::End
            }
            _ => return Err(Fault::UnknownType(byte)),
        })
    }

    fn end(&mut self) -> Result<()> {
        self.is_done = true;
        if self.version < VERSION_WITH_CHECKSUM {
            return Ok(());
        }
        let computed = self.input.checksum();
        let stored = self.input.u64_le()?;
        self.has_checksum = computed.is_some() && stored != 0;
        match computed {
            // Zero says that the file was written without.
            Some(computed) if stored != 0 && stored != computed => {
                Err(Fault::Checksum { stored, computed })
            }
            Some(_) | None => Ok(()),
        }
    }

    /// True if no bytes follow. After [`Event::End`], more bytes mean that the file is damaged or that something else was appended.
    ///
    /// # Errors
    /// If the source cannot be read.
    pub fn is_at_end(&mut self) -> std::result::Result<bool, RdbError> {
        self.input.is_at_end().map_err(|fault| RdbError {
            offset: self.input.offset(),
            key: None,
            fault,
        })
    }
}

impl<R: Read> Reader<'_, R> {
    /// Whether the file has a checksum that was compared. Known after [`Event::End`].
    pub fn has_checksum(&self) -> bool {
        self.has_checksum
    }

    /// Reads all that follows, and returns its number of bytes.
    ///
    /// # Errors
    /// If the source cannot be read.
    pub fn skip_rest(&mut self) -> std::result::Result<u64, RdbError> {
        let start = self.offset();
        while !self.is_at_end()? {
            self.input.skip_buffered();
        }
        Ok(self.offset() - start)
    }
}

impl Attributes {
    /// Redis takes -1 as no deadline. Other negative deadlines have passed long ago.
    fn set_deadline(&mut self, deadline_ms: i64) {
        self.deadline_ms = (deadline_ms != -1).then_some(deadline_ms.max(0));
    }
}

fn header<R: Read>(input: &mut Input<R>) -> Result<(u32, Dialect)> {
    let mut header = [0; HEADER_BYTES];
    let (start, rest) = header.split_at_mut(REDIS_MAGIC.len());
    start.copy_from_slice(input.bytes(start.len())?);
    // A short file of another kind is not a truncated one.
    if start != REDIS_MAGIC && !VALKEY_MAGIC.starts_with(start) {
        return Err(Fault::NotRdb);
    }
    rest.copy_from_slice(input.bytes(rest.len())?);
    parse_header(&header)
}

fn parse_header(header: &[u8; HEADER_BYTES]) -> Result<(u32, Dialect)> {
    let (digits, dialect) = if let Some(digits) = header.strip_prefix(REDIS_MAGIC) {
        (digits, Dialect::Redis)
    } else if let Some(digits) = header.strip_prefix(VALKEY_MAGIC) {
        (digits, Dialect::Valkey)
    } else {
        return Err(Fault::NotRdb);
    };
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(Fault::NotRdb);
    }
    let version = digits
        .iter()
        .fold(0, |version, digit| version * 10 + u32::from(digit - b'0'));
    let known = match dialect {
        Dialect::Redis => 1..=REDIS_VERSION_MAX,
        Dialect::Valkey => VALKEY_VERSION_MIN..=VALKEY_VERSION_MAX,
    };
    known
        .contains(&version)
        .then_some((version, dialect))
        .ok_or(Fault::Version(version))
}

/// Whether files without checksum may have this type or opcode. A newer one says that the version is wrong, and with it that
/// there is no checksum.
fn is_of_first_versions(byte: u8) -> bool {
    byte <= kind::HASH_ZIPLIST || byte >= opcode::EXPIRE_MS
}

/// Skips a module's value.
fn skip_module<R: Read>(input: &mut Input<R>) -> Result<()> {
    loop {
        match input.length()? {
            module::END => return Ok(()),
            module::SIGNED | module::UNSIGNED => {
                input.length()?;
            }
            module::FLOAT => {
                input.bytes(4)?;
            }
            module::DOUBLE => {
                input.bytes(8)?;
            }
            module::STRING => {
                input.string()?;
            }
            _ => return Err(Fault::Unsupported("a broken value of a module")),
        }
    }
}
