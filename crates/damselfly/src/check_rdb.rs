//! `damselfly --check-rdb FILE`: prints the contents of an RDB file and its first fault.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use super::fail;

/// The time between two lines of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Checks a file. The exit status is 1 if it has a fault or cannot be read.
pub fn run(path: &Path) -> ExitCode {
    let started = Instant::now();
    let shown = path.display();
    let file = match open(path) {
        Ok(file) => file,
        Err(error) => return fail(&format!("can't read {shown}: {error}")),
    };
    let report = damselfly_rdb::check(file);
    let took = started.elapsed().as_secs_f64();
    // A pipe that was closed at its other end is no fault of the file.
    let _ = write!(
        io::stdout(),
        "checked {shown} in {took:.1} seconds\n{report}"
    );
    match report.fault {
        Some(_) => ExitCode::FAILURE,
        None => ExitCode::SUCCESS,
    }
}

fn open(path: &Path) -> io::Result<Progress> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::other("it is a directory"));
    }
    if metadata.is_file() && metadata.len() == 0 {
        return Err(io::Error::other("it is empty"));
    }
    Ok(Progress {
        file,
        read: 0,
        total: metadata.is_file().then_some(metadata.len()),
        last: Instant::now(),
    })
}

/// A file that prints how much of it has been read.
struct Progress {
    file: File,
    read: u64,
    /// The size of the file, if it has one.
    total: Option<u64>,
    /// When the last line was printed.
    last: Instant,
}

impl Read for Progress {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.file.read(buffer)?;
        self.read += bytes as u64;
        if self.last.elapsed() >= PROGRESS_INTERVAL {
            self.last = Instant::now();
            let mebibytes = self.read >> 20;
            let _ = match self.total {
                Some(total) => {
                    let percent = 100.0 * self.read as f64 / total as f64;
                    writeln!(io::stderr(), "{mebibytes} MiB read, {percent:.0} %")
                }
                None => writeln!(io::stderr(), "{mebibytes} MiB read"),
            };
        }
        Ok(bytes)
    }
}
