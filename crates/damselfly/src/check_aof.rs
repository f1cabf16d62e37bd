//! `damselfly --check-aof FILE`: says what is wrong with an append-only file, and can truncate it to its last whole command.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use damselfly_server::persistence::aof::manifest::Manifest;
use damselfly_server::persistence::aof::reader::{Fault, Item, Reader};

use super::fail;

/// The result of a check.
struct Report {
    bytes: u64,
    /// Everything up to here is whole.
    good: u64,
    commands: u64,
    fault: Option<String>,
}

/// Checks a file, or all files of a manifest. With `fixes`, cuts the last file behind its last whole command. The exit status is 1 if
/// a fault is left.
pub fn run(path: &Path, fixes: bool) -> ExitCode {
    let paths = match files(path) {
        Ok(paths) => paths,
        Err(error) => return fail(&format!("can't read {}: {error}", path.display())),
    };
    let mut code = ExitCode::SUCCESS;
    for (index, path) in paths.iter().enumerate() {
        let is_last = index + 1 == paths.len();
        match check_one(path, fixes && is_last) {
            Ok(true) => {}
            Ok(false) => code = ExitCode::FAILURE,
            Err(error) => return fail(&format!("can't read {}: {error}", path.display())),
        }
    }
    code
}

/// The files that a path names: the files of a manifest, or the path itself.
fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if path.extension().is_none_or(|end| end != "manifest") {
        return Ok(vec![path.to_owned()]);
    }
    let text = std::fs::read_to_string(path)?;
    let manifest = Manifest::parse(&text).map_err(io::Error::other)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    Ok(manifest
        .files()
        .map(|entry| folder.join(&entry.name))
        .collect())
}

/// Checks one file and prints the result; true if it has no fault (any more).
fn check_one(path: &Path, fixes: bool) -> io::Result<bool> {
    let report = check(path)?;
    let shown = path.display();
    println!(
        "{shown}: {} bytes, {} commands, whole up to offset {}",
        report.bytes, report.commands, report.good
    );
    let Some(fault) = report.fault else {
        return Ok(true);
    };
    println!("{shown}: {fault}");
    if !fixes {
        return Ok(false);
    }
    let file = OpenOptions::new().write(true).open(path)?;
    file.set_len(report.good)?;
    file.sync_all()?;
    println!(
        "{shown}: truncated by {} bytes to {}",
        report.bytes - report.good,
        report.good
    );
    Ok(true)
}

fn check(path: &Path) -> io::Result<Report> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut report = Report {
        bytes,
        good: 0,
        commands: 0,
        fault: None,
    };
    let mut magic = [0; 5];
    let is_rdb = file.read_exact(&mut magic).is_ok() && &magic == b"REDIS";
    file.seek(SeekFrom::Start(0))?;
    if is_rdb {
        let checked = damselfly_rdb::check(BufReader::new(&mut file));
        if let Some(fault) = &checked.fault {
            report.fault = Some(format!("the RDB part is broken: {fault}"));
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
