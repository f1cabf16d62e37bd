//! `damselfly --restore-to TIME --dir SOURCE --into DIRECTORY`: copies an append-only file as it was at a moment.
//!
//! The changes must have times (`aof-timestamp-enabled`). Everything up to the end of the given second is copied; a server that is
//! started in DIRECTORY with `appendonly yes` has the data of that moment.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use damselfly_server::persistence::aof::manifest::{FileEntry, Manifest};
use damselfly_server::persistence::aof::reader::{Item, Reader};

use super::fail;

/// A second in the history: where it begins.
struct Moment {
    second: i64,
    /// The index among the increments, and the offset in it.
    at: (usize, u64),
}

/// Restores. The exit status is 1 if the moment can't be reached.
pub fn run(second: i64, source: &Path, into: &Path) -> ExitCode {
    match restore(second, source, into) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => fail(&error),
    }
}

fn restore(second: i64, source: &Path, into: &Path) -> Result<String, String> {
    let path = manifest_in(source)?;
    let failed = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    let text = fs::read_to_string(&path).map_err(|error| failed(&path, error))?;
    let manifest = Manifest::parse(&text).map_err(|why| format!("{}: {why}", path.display()))?;
    let folder = path.parent().unwrap_or(Path::new("."));
    let base = match &manifest.base {
        Some(entry) => base(&folder.join(&entry.name))?,
        None => Base::default(),
    };
    let (moments, begins_without_time) =
        moments(folder, &manifest).map_err(|error| failed(folder, error))?;
    // Nobody knows when changes without a time were made: at least before the first time behind them.
    let earliest = match base.ends_without_time || begins_without_time {
        true => None,
        false => base.second,
    };
    let earliest = earliest.or(moments.first().map(|moment| moment.second));
    let latest = moments.last().map(|moment| moment.second).or(earliest);
    let (Some(earliest), Some(latest)) = (earliest, latest) else {
        return Err(String::from(
            "the files have no times: set aof-timestamp-enabled to 'yes' before the moments that are to be restored",
        ));
    };
    if !(earliest..=latest).contains(&second) {
        return Err(format!(
            "that moment can't be reached: the earliest is {earliest}, the latest is {latest} (seconds since 1970)"
        ));
    }
    // The first second that does not belong to the result.
    let end = moments.iter().find(|moment| moment.second > second);
    let target = into.join("appendonlydir");
    fs::create_dir_all(&target).map_err(|error| failed(&target, error))?;
    if fs::read_dir(&target)
        .map_err(|error| failed(&target, error))?
        .next()
        .is_some()
    {
        return Err(format!("{} is not empty", target.display()));
    }
    let mut kept = Manifest {
        base: manifest.base.clone(),
        ..Manifest::default()
    };
    if let Some(base) = &manifest.base {
        copy(folder, &target, base, u64::MAX).map_err(|error| failed(folder, error))?;
    }
    for (index, entry) in manifest.increments.iter().enumerate() {
        let bytes = match end {
            Some(end) if index > end.at.0 => break,
            Some(end) if index == end.at.0 => end.at.1,
            _ => u64::MAX,
        };
        copy(folder, &target, entry, bytes).map_err(|error| failed(folder, error))?;
        kept.increments.push(entry.clone());
    }
    let name = path.file_name().unwrap_or_default();
    let written = File::create(target.join(name)).and_then(|mut file| {
        file.write_all(kept.to_text().as_bytes())?;
        file.sync_all()
    });
    written.map_err(|error| failed(&target, error))?;
    let option = match name.to_string_lossy().strip_suffix(".manifest") {
        Some("appendonly.aof") | None => String::new(),
        Some(other) => format!(" --appendfilename {other}"),
    };
    Ok(format!(
        "restored the data of second {second} into {}: start a server with --dir {} --appendonly yes{option}",
        target.display(),
        into.display()
    ))
}

/// The manifest in a folder, or in a folder of it.
fn manifest_in(source: &Path) -> Result<PathBuf, String> {
    let folders = fs::read_dir(source).map_err(|error| format!("{}: {error}", source.display()))?;
    let inner = folders
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.is_dir());
    let mut found: Vec<PathBuf> = std::iter::once(source.to_owned())
        .chain(inner)
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flat_map(|files| files.flatten().map(|file| file.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "manifest"))
        .filter(|path| {
            !path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("temp-"))
        })
        .collect();
    match (found.pop(), found.pop()) {
        (Some(path), None) => Ok(path),
        (None, _) => Err(format!("{} has no append-only file", source.display())),
        (Some(_), Some(_)) => Err(format!(
            "{} has several append-only files",
            source.display()
        )),
    }
}

/// The times in the increments, and whether changes come before the first of them.
fn moments(folder: &Path, manifest: &Manifest) -> io::Result<(Vec<Moment>, bool)> {
    let (mut moments, mut begins_without_time) = (Vec::new(), false);
    for (index, entry) in manifest.increments.iter().enumerate() {
        let file = File::open(folder.join(&entry.name))?;
        let mut reader = Reader::new(BufReader::with_capacity(1 << 20, file), 0);
        loop {
            let offset = reader.position();
            match reader.next_item() {
                Ok(Item::Time(second)) => moments.push(Moment {
                    second,
                    at: (index, offset),
                }),
                Ok(Item::Command(args)) => {
                    begins_without_time |= moments.is_empty() && is_change(&args);
                }
                // What follows a fault has no time.
                Ok(Item::End) | Err(_) => break,
            }
        }
    }
    Ok((moments, begins_without_time))
}

/// True unless the command only chooses the database for those behind it.
fn is_change(args: &[Vec<u8>]) -> bool {
    !args[0].eq_ignore_ascii_case(b"select")
}

/// What a base says about time.
#[derive(Default)]
struct Base {
    /// The last time in it: of its creation, if it is no former file of commands.
    second: Option<i64>,
    /// It has changes whose time is not known.
    ends_without_time: bool,
}

/// Reads all of a base.
fn base(path: &Path) -> Result<Base, String> {
    let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut file = File::open(path).map_err(|error| failed(&error))?;
    let mut base = Base::default();
    let mut head = Vec::new();
    let read = (&mut file).take(512).read_to_end(&mut head);
    read.map_err(|error| failed(&error))?;
    let mut offset = 0;
    if head.starts_with(b"REDIS") {
        base.second = created(&head);
        file.rewind().map_err(|error| failed(&error))?;
        let checked = damselfly_rdb::check(BufReader::new(&mut file));
        if let Some(fault) = checked.fault {
            return Err(failed(&format!("the base is broken: {fault}")));
        }
        offset = checked.bytes;
    }
    file.seek(SeekFrom::Start(offset))
        .map_err(|error| failed(&error))?;
    let mut reader = Reader::new(BufReader::with_capacity(1 << 20, file), offset);
    let mut has_time = false;
    loop {
        match reader.next_item() {
            Ok(Item::Time(second)) => (base.second, has_time) = (Some(second), true),
            Ok(Item::Command(args)) => base.ends_without_time |= !has_time && is_change(&args),
            Ok(Item::End) => return Ok(base),
            Err(fault) => return Err(failed(&format!("the base is broken: {fault}"))),
        }
    }
}

/// When a base was created that begins with these bytes of an RDB file.
fn created(head: &[u8]) -> Option<i64> {
    let at = head.windows(5).position(|bytes| bytes == b"ctime")? + 5;
    // An integer of four bytes, or a text.
    match head.get(at)? {
        0xc2 => Some(i64::from(u32::from_le_bytes(
            head.get(at + 1..at + 5)?.try_into().ok()?,
        ))),
        &len => std::str::from_utf8(head.get(at + 1..at + 1 + usize::from(len))?)
            .ok()?
            .parse()
            .ok(),
    }
}

fn copy(from: &Path, to: &Path, entry: &FileEntry, bytes: u64) -> io::Result<()> {
    let mut source = File::open(from.join(&entry.name))?;
    source.seek(SeekFrom::Start(0))?;
    let mut target = File::create(to.join(&entry.name))?;
    io::copy(&mut source.take(bytes), &mut target)?;
    target.sync_all()
}
