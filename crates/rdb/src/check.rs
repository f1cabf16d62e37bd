//! Reports the contents of a file and its first fault.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Read;

use damselfly_value::{Thresholds, Type};

use crate::error::{Fault, RdbError};
use crate::reader::{Event, ReadOptions, Reader};

/// The types of values, in the order of the report.
const TYPES: [Type; 6] = [
    Type::String,
    Type::List,
    Type::Set,
    Type::Hash,
    Type::SortedSet,
    Type::Stream,
];

/// At most so many databases, metadata fields and modules are reported one by one, since a report is kept in memory.
const LISTED_MAX: usize = 1024;
/// Longer keys, names and values are cut.
const TEXT_BYTES_MAX: usize = 200;

/// The contents of a file.
#[derive(Debug, Default)]
pub struct Report {
    /// The version; `None` if the header is broken.
    pub version: Option<u32>,
    /// Metadata fields of the server that wrote it: names and values.
    pub aux: Vec<(Vec<u8>, Vec<u8>)>,
    /// The entries by database.
    pub databases: BTreeMap<u64, DatabaseReport>,
    /// The entries of further databases, where there are very many.
    pub other_databases: DatabaseReport,
    /// Number of keys with an empty collection, which are not loaded.
    pub empty_keys: u64,
    /// Number of function libraries.
    pub functions: u64,
    /// Module types with data outside the keyspace.
    pub modules: BTreeSet<String>,
    /// Entries by type.
    pub types: [TypeReport; TYPES.len()],
    /// Number of valid bytes.
    pub bytes: u64,
    /// Whether the checksum is right.
    pub checksum: ChecksumState,
    /// Number of bytes that follow the end.
    pub trailing_bytes: u64,
    /// The first fault; `None` if the file is good, its checksum included.
    pub fault: Option<RdbError>,
}

/// Whether the checksum of a file is right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChecksumState {
    /// A fault comes before it.
    #[default]
    NotReached,
    /// The file has none.
    Absent,
    /// It is right.
    Correct,
    /// It is wrong.
    Wrong,
}

/// The entries of one database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatabaseReport {
    /// Number of entries.
    pub entries: u64,
    /// Number of entries with a deadline.
    pub deadlines: u64,
}

/// The entries of one type.
#[derive(Debug, Default, Clone)]
pub struct TypeReport {
    /// Number of entries.
    pub entries: u64,
    /// The bytes they take in the file, keys included.
    pub bytes: u64,
    /// The bytes of the largest.
    pub largest_bytes: u64,
    /// The key of the largest.
    pub largest_key: Vec<u8>,
}

/// Reads a file up to its end or its first fault, and reports its contents.
pub fn check(source: impl Read) -> Report {
    let mut report = Report::default();
    let thresholds = Thresholds::default();
    let options = ReadOptions {
        thresholds: &thresholds,
        verify_checksum: true,
    };
    match Reader::new(source, options) {
        Ok(mut reader) => {
            report.version = Some(reader.version());
            report.fault = report.read(&mut reader).err();
            if let Some(Fault::Checksum { .. }) = report.fault.as_ref().map(|error| &error.fault) {
                report.checksum = ChecksumState::Wrong;
            }
        }
        Err(error) => report.fault = Some(error),
    }
    report
}

impl Report {
    /// The entries of a type.
    pub fn of(&self, of: Type) -> &TypeReport {
        &self.types[index_of(of)]
    }

    /// All entries.
    pub fn entries(&self) -> u64 {
        self.types.iter().map(|report| report.entries).sum()
    }

    /// Number of entries with a deadline.
    pub fn deadlines(&self) -> u64 {
        let databases = self.databases.values().chain([&self.other_databases]);
        databases.map(|report| report.deadlines).sum()
    }

    fn read(&mut self, reader: &mut Reader<'_, impl Read>) -> Result<(), RdbError> {
        let mut database = 0;
        loop {
            let start = reader.offset();
            self.bytes = start;
            match reader.next()? {
                Event::Aux { name, value } => {
                    if self.aux.len() < LISTED_MAX {
                        self.aux.push((cut(&name), cut(&value)));
                    }
                }
                Event::SelectDb(index) => database = index,
                Event::ResizeDb { .. } | Event::SlotInfo { .. } => {}
                Event::Function(_) => self.functions += 1,
                Event::ModuleAux { name } => {
                    if self.modules.len() < LISTED_MAX {
                        self.modules.insert(name);
                    }
                }
                Event::Empty { .. } => self.empty_keys += 1,
                Event::Entry(loaded) => {
                    let entry = loaded.entry.view();
                    let report = self.database(database);
                    report.entries += 1;
                    report.deadlines += u64::from(entry.has_deadline());
                    let of = &mut self.types[index_of(entry.type_of())];
                    let bytes = reader.offset() - start;
                    of.entries += 1;
                    of.bytes += bytes;
                    if bytes > of.largest_bytes {
                        of.largest_bytes = bytes;
                        of.largest_key = cut(entry.key());
                    }
                }
                Event::End => {
                    self.bytes = reader.offset();
                    self.checksum = match reader.has_checksum() {
                        true => ChecksumState::Correct,
                        false => ChecksumState::Absent,
                    };
                    self.trailing_bytes = reader.skip_rest()?;
                    return Ok(());
                }
            }
        }
    }

    fn database(&mut self, index: u64) -> &mut DatabaseReport {
        if self.databases.len() < LISTED_MAX || self.databases.contains_key(&index) {
            self.databases.entry(index).or_default()
        } else {
            &mut self.other_databases
        }
    }
}

/// A copy of the beginning of a text.
fn cut(text: &[u8]) -> Vec<u8> {
    text[..text.len().min(TEXT_BYTES_MAX)].to_vec()
}

fn index_of(of: Type) -> usize {
    match of {
        Type::String => 0,
        Type::List => 1,
        Type::Set => 2,
        Type::Hash => 3,
        Type::SortedSet => 4,
        Type::Stream => 5,
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(version) = self.version {
            writeln!(f, "RDB version {version}")?;
        }
        for (name, value) in &self.aux {
            writeln!(f, "{}: {}", name.escape_ascii(), value.escape_ascii())?;
        }
        if self.functions > 0 {
            writeln!(f, "libraries of functions: {}", self.functions)?;
        }
        for (index, report) in &self.databases {
            writeln!(f, "database {index}: {report}")?;
        }
        if self.other_databases.entries > 0 {
            writeln!(f, "further databases: {}", self.other_databases)?;
        }
        for of in TYPES {
            let report = self.of(of);
            if report.entries > 0 {
                writeln!(f, "{}: {report}", of.name())?;
            }
        }
        if self.empty_keys > 0 {
            let count = self.empty_keys;
            writeln!(
                f,
                "keys with an empty collection, which are not loaded: {count}"
            )?;
        }
        for name in &self.modules {
            writeln!(f, "data of the module type \"{name}\", which is not loaded")?;
        }
        writeln!(f, "checksum: {}", self.checksum)?;
        if self.trailing_bytes > 0 {
            let bytes = self.trailing_bytes;
            writeln!(
                f,
                "bytes after the end of the data, which are not read: {bytes}"
            )?;
        }
        let (keys, deadlines) = (self.entries(), self.deadlines());
        writeln!(f, "in total: {keys} keys, {deadlines} with an expiry")?;
        match &self.fault {
            Some(fault) => writeln!(f, "fault {fault}"),
            None => writeln!(f, "{} bytes, no fault found", self.bytes),
        }
    }
}

impl fmt::Display for DatabaseReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} keys, {} with an expiry",
            self.entries, self.deadlines
        )
    }
}

impl fmt::Display for TypeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.largest_key.escape_ascii();
        write!(
            f,
            "{} keys, {} bytes, the largest \"{key}\" with {} bytes",
            self.entries, self.bytes, self.largest_bytes
        )
    }
}

impl fmt::Display for ChecksumState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotReached => "not checked, because of the fault before it",
            Self::Absent => "none",
            Self::Correct => "correct",
            Self::Wrong => "wrong",
        })
    }
}
