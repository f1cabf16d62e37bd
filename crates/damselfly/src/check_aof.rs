//! `damselfly --check-aof FILE`: says what is wrong with an append-only file, and can truncate it to its last whole command.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use damselfly_server::persistence::aof::check::{check, truncate};
use damselfly_server::persistence::aof::manifest::Manifest;

use super::fail;

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
            Ok(false) => {
                code = ExitCode::FAILURE;
                if fixes && !is_last {
                    println!(
                        "Failed to truncate AOF {} because it is not the last file",
                        path.display()
                    );
                }
            }
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
    if manifest.files().next().is_none() {
        return Err(io::Error::other("it names no files"));
    }
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
    let Some(fault) = &report.fault else {
        return Ok(true);
    };
    println!("{shown}: {fault}");
    if !fixes {
        return Ok(false);
    }
    if report.is_in_rdb {
        println!(
            "{shown}: nothing was cut, since that would remove all data. Restore the file from a copy; if only the checksum is wrong, a server with 'rdbchecksum no' loads it"
        );
        return Ok(false);
    }
    truncate(path, report.good)?;
    println!(
        "{shown}: truncated by {} bytes to {}",
        report.bytes - report.good,
        report.good
    );
    Ok(true)
}
