//! Checks a file of the append-only file without loading it.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use super::reader::{Fault, Item, Reader};

/// The result of a check.
#[derive(Debug)]
pub struct Report {
    /// The size of the file.
    pub bytes: u64,
    /// Everything up to here is whole.
    pub good: u64,
    /// How many commands are whole.
    pub commands: u64,
    /// What is wrong behind that, and where.
    pub fault: Option<String>,
    /// The fault is in the RDB part: there is no whole part before it.
    pub is_in_rdb: bool,
}

/// Checks a file: RDB, commands, or both.
///
/// # Errors
/// It can't be read.
pub fn check(path: &Path) -> io::Result<Report> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut report = Report {
        bytes,
        good: 0,
        commands: 0,
        fault: None,
        is_in_rdb: false,
    };
    let mut magic = [0; 5];
    let is_rdb = file.read_exact(&mut magic).is_ok() && &magic == b"REDIS";
    file.seek(SeekFrom::Start(0))?;
    if is_rdb {
        let checked = damselfly_rdb::check(BufReader::new(&mut file));
        if let Some(fault) = &checked.fault {
            report.fault = Some(format!("the RDB part is broken: {fault}"));
            report.is_in_rdb = true;
            return Ok(report);
        }
        report.good = checked.bytes;
        file.seek(SeekFrom::Start(report.good))?;
    }
    let mut reader = Reader::new(BufReader::new(file), report.good);
    let mut is_in_transaction = false;
    loop {
        let begin = reader.position();
        match reader.next_item() {
            Ok(Item::Command(args)) => {
                report.commands += 1;
                match args[0].to_ascii_lowercase().as_slice() {
                    b"multi" => is_in_transaction = true,
                    b"exec" => is_in_transaction = false,
                    _ => {}
                }
            }
            Ok(Item::Time(_)) => {}
            Ok(Item::End) => {
                if is_in_transaction {
                    report.fault = Some(String::from("the file ends within MULTI"));
                }
                return Ok(report);
            }
            Err(Fault::Unreadable(error)) => return Err(error),
            Err(fault) => {
                report.fault = Some(format!("at offset {begin}: {fault}"));
                return Ok(report);
            }
        }
        if !is_in_transaction {
            report.good = reader.position();
        }
    }
}

/// Cuts a file to its first `bytes` bytes.
///
/// # Errors
/// It can't be written.
pub fn truncate(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(bytes)?;
    file.sync_all()
}
