//! Reports the contents of a file and its first fault.

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

/// The contents of a file.
#[derive(Debug, Default)]
pub struct Report {
    /// The version; `None` if the header is broken.
    pub version: Option<u32>,
    /// Metadata fields of the server that wrote it: names and values.
    pub aux: Vec<(Vec<u8>, Vec<u8>)>,
    /// Number of databases with entries.
    pub databases: u64,
    /// Number of entries with a deadline.
    pub deadlines: u64,
    /// Number of keys with an empty collection, which are not loaded.
    pub empty_keys: u64,
    /// Number of function libraries.
    pub functions: u64,
    /// Module types with data outside the keyspace, one per piece of data.
    pub modules: Vec<String>,
    /// Entries by type.
    pub types: [TypeReport; TYPES.len()],
    /// Number of valid bytes.
    pub bytes: u64,
    /// True if bytes follow the end.
    pub has_trailing_bytes: bool,
    /// The first fault; `None` if the file is good, its checksum included.
    pub fault: Option<RdbError>,
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

    /// Whether the checksum is wrong. If it is right or missing, there is no fault.
    pub fn has_wrong_checksum(&self) -> bool {
        let fault = self.fault.as_ref().map(|error| &error.fault);
        matches!(fault, Some(Fault::Checksum { .. }))
    }

    fn read(&mut self, reader: &mut Reader<'_, impl Read>) -> Result<(), RdbError> {
        let (mut database, mut last_database) = (0, None);
        loop {
            let start = reader.offset();
            self.bytes = start;
            match reader.next()? {
                Event::Aux { name, value } => self.aux.push((name, value)),
                Event::SelectDb(index) => database = index,
                Event::ResizeDb { .. } | Event::SlotInfo { .. } => {}
                Event::Function(_) => self.functions += 1,
                Event::ModuleAux { name } => self.modules.push(name),
                Event::Empty { .. } => self.empty_keys += 1,
                Event::Entry(loaded) => {
                    let entry = loaded.entry.view();
                    if last_database != Some(database) {
                        last_database = Some(database);
                        self.databases += 1;
                    }
                    self.deadlines += u64::from(entry.has_deadline());
                    let of = &mut self.types[index_of(entry.type_of())];
                    let bytes = reader.offset() - start;
                    of.entries += 1;
                    of.bytes += bytes;
                    if bytes > of.largest_bytes {
                        of.largest_bytes = bytes;
                        of.largest_key = entry.key().to_vec();
                    }
                }
                Event::End => {
                    self.bytes = reader.offset();
                    self.has_trailing_bytes = !reader.is_at_end()?;
                    return Ok(());
                }
            }
        }
    }
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
        writeln!(
            f,
            "{} keys in {} databases, {} with an expiration time, {} functions",
            self.entries(),
            self.databases,
            self.deadlines,
            self.functions
        )?;
        for of in TYPES {
            let report = self.of(of);
            if report.entries > 0 {
                writeln!(
                    f,
                    "{}: {} keys, {} bytes, the largest \"{}\" with {} bytes",
                    of.name(),
                    report.entries,
                    report.bytes,
                    report.largest_key.escape_ascii(),
                    report.largest_bytes
                )?;
            }
        }
        if self.empty_keys > 0 {
            writeln!(f, "{} empty keys, which are not loaded", self.empty_keys)?;
        }
        for name in &self.modules {
            writeln!(f, "data of the module type \"{name}\", which is not loaded")?;
        }
        if self.has_trailing_bytes {
            writeln!(f, "bytes follow the end of the file's data")?;
        }
        match &self.fault {
            Some(fault) => writeln!(f, "fault {fault}"),
            None => writeln!(f, "{} bytes, no fault found", self.bytes),
        }
    }
}
