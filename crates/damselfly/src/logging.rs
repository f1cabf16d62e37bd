//! Writes log lines in Redis's format to standard output or `logfile`.
//!
//! ```text
//! 4711:M 21 Nov 2026 05:39:10.123 * Ready to accept connections on port 6379
//! ```

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use damselfly_config::Config;
use log::{Level, Log, Metadata, Record};

struct Logger {
    /// `None` for standard output.
    file: Option<PathBuf>,
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Starts logging as configured.
///
/// # Errors
/// If `logfile` can't be opened.
pub fn start(config: &Config) -> Result<(), String> {
    let file = Some(PathBuf::from(&config.logfile)).filter(|path| !path.as_os_str().is_empty());
    if let Some(path) = &file {
        open(path)
            .map_err(|error| format!("Can't open the log file {}: {error}", path.display()))?;
    }
    log::set_boxed_logger(Box::new(Logger { file }))
        .map_err(|error| format!("Can't start logging: {error}"))?;
    log::set_max_level(config.loglevel.filter());
    std::panic::set_hook(Box::new(|panic| log::error!("{panic}")));
    Ok(())
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Of libraries, only warnings and errors are logged.
        metadata.target().starts_with("damselfly") || metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mark = match record.level() {
            Level::Error | Level::Warn => '#',
            Level::Info => '*',
            Level::Debug => '-',
            Level::Trace => '.',
        };
        let role = match damselfly_server::replication::is_replica_process() {
            true => 'S',
            false => 'M',
        };
        let now = jiff::Zoned::now();
        let line = format!(
            "{}:{role} {} {mark} {}\n",
            std::process::id(),
            now.strftime("%d %b %Y %H:%M:%S%.3f"),
            record.args()
        );
        // There is nowhere to report a line that can't be written. The file is opened for each line, so
        // that it can be rotated at any time.
        let _ = match &self.file {
            None => std::io::stdout().lock().write_all(line.as_bytes()),
            Some(path) => open(path).and_then(|mut file| file.write_all(line.as_bytes())),
        };
    }

    fn flush(&self) {}
}
