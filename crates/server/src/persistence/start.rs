//! Loading the snapshot when the server starts: all its threads take part, and serve clients meanwhile.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

use damselfly_config::Config;
use damselfly_engine::{Engine, LoadBatch};
use damselfly_rdb::Chunk;

use super::load::{LoadError, LoadOptions, NewEntry, Sink, load};
use crate::gate::Reasons;
use crate::scripts::function_commands;
use crate::scripts::function_libraries::Functions;
use crate::shared::Shared;

/// The path of the snapshot.
pub fn path(config: &Config) -> PathBuf {
    Path::new(&config.dir).join(&config.dbfilename)
}

/// True if there is a snapshot to load, even one that can't be read.
pub fn has_snapshot(config: &Config) -> bool {
    // Without a name there is none, as in Redis, although the path is that of the folder.
    !config.dbfilename.is_empty()
        && !matches!(fs::metadata(path(config)), Err(error) if error.kind() == io::ErrorKind::NotFound)
}

/// Loads the snapshot, and then lets clients use the data. Stops early if `stop` returns true.
///
/// # Errors
/// The file can't be loaded: one line that says what is wrong, where, and what to do. The data in memory is then incomplete, and the
/// server must not go on.
pub fn load_snapshot(shared: &Shared, stop: &dyn Fn() -> bool) -> Result<(), String> {
    load_into(shared, stop)?;
    if !stop() {
        shared.gate.open(Reasons::LOADING);
    }
    Ok(())
}

/// Loads the snapshot, but does not let clients use the data yet.
///
/// # Errors
/// As [`load_snapshot`].
pub fn load_into(shared: &Shared, stop: &dyn Fn() -> bool) -> Result<(), String> {
    let config = shared.config();
    let path = path(&config);
    let refuse = |reason: &dyn std::fmt::Display| {
        format!(
            "Can't load the snapshot {}: {reason}. The server does not start, so that no data is lost. Restore the file from a copy, or move it away to start without data.",
            path.display()
        )
    };
    let started = Instant::now();
    let (file, bytes) = open(&path).map_err(|error| refuse(&error))?;
    let progress = &shared.loading.progress;
    progress.begin(bytes);
    // What has expired is the primary's to remove; a primary has to send that to replicas that continue its history.
    let is_replica = shared.replication.is_replica();
    progress.keep_expired(is_replica);
    if !is_replica {
        progress.collect_expired(config.repl_backlog_bytes);
    }
    let loaded = load_from(&Target::of(shared), file, true, stop);
    progress.keep_expired(false);
    match loaded {
        Ok(_) => {}
        Err(LoadError::Stopped) => return Ok(()),
        Err(error) => return Err(refuse(&error)),
    }
    log::info!(
        "Done loading RDB, keys loaded: {}, keys expired: {}.",
        progress.keys_loaded(),
        progress.keys_expired()
    );
    log::info!(
        "DB loaded from disk: {:.3} seconds",
        started.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Loads the base of an append-only file, expired keys included, and returns the offset of its end.
///
/// # Errors
/// What is wrong with the file; `None` if loading was stopped.
pub fn load_base(
    shared: &Shared,
    path: &Path,
    stop: &dyn Fn() -> bool,
) -> Result<u64, Option<String>> {
    let (file, _) = open(path).map_err(|error| Some(error.to_string()))?;
    let progress = &shared.loading.progress;
    progress.keep_expired(true);
    let loaded = load_from(&Target::of(shared), file, false, stop);
    progress.keep_expired(false);
    loaded.map_err(|error| match error {
        LoadError::Stopped => None,
        error => Some(error.to_string()),
    })
}

/// Where loaded data goes.
pub struct Target<'a> {
    /// The server, whose threads help.
    pub shared: &'a Shared,
    /// Gets the entries.
    pub engine: &'a Engine,
    /// Gets the libraries of functions.
    pub functions: &'a Functions,
}

impl<'a> Target<'a> {
    /// The data that clients use.
    pub fn of(shared: &'a Shared) -> Self {
        Self {
            shared,
            engine: &shared.engine,
            functions: &shared.functions,
        }
    }
}

/// Loads a source with all threads, and returns where it ends. The caller has begun [`LoadProgress`](super::progress::LoadProgress).
///
/// # Errors
/// As [`load`].
pub fn load_from(
    target: &Target<'_>,
    source: impl Read,
    check_end: bool,
    stop: &dyn Fn() -> bool,
) -> Result<u64, LoadError> {
    let shared = target.shared;
    shared.loading.queue.begin(shared.threads.len());
    let options = LoadOptions {
        thresholds: &shared.engine.settings.thresholds,
        verify_checksum: shared.config().rdbchecksum,
        databases: shared.engine.databases(),
        check_end,
        key_delay_us: &|| shared.config().key_load_delay_us,
        stop,
    };
    let progress = &shared.loading.progress;
    load(
        source,
        &options,
        progress,
        &mut ParallelSink { target, stop },
    )
}

/// Opens a file for reading from start to end, and returns its size.
pub(super) fn open(path: &Path) -> io::Result<(File, u64)> {
    // Opening a pipe would wait for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let file = File::open(path)?;
    let bytes = file.metadata()?.len();
    // A hint: reading works without it, too.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
    Ok((file, bytes))
}

/// Hands chunks to the server's threads.
struct ParallelSink<'a> {
    target: &'a Target<'a>,
    stop: &'a dyn Fn() -> bool,
}

impl ParallelSink<'_> {
    fn look_around(&self) -> impl FnMut() -> Result<(), LoadError> {
        let (progress, stop) = (&self.target.shared.loading.progress, self.stop);
        move || {
            progress.log_if_due();
            if stop() {
                Err(LoadError::Stopped)
            } else {
                Ok(())
            }
        }
    }
}

impl Sink for ParallelSink<'_> {
    fn expect(&mut self, db: usize, keys: u64) {
        let engine = self.target.engine;
        let keys = usize::try_from(keys).unwrap_or(usize::MAX);
        engine.expect_entries(db, keys, self.target.shared.loading.progress.now());
    }

    fn chunk(&mut self, chunk: Chunk) -> Result<Vec<Vec<u8>>, LoadError> {
        let shared = self.target.shared;
        let (queue, threads) = (&shared.loading.queue, &shared.threads);
        let (idle, spares) = queue.push(chunk, threads.len(), self.look_around())?;
        for thread in idle {
            threads[thread].wake();
        }
        Ok(spares)
    }

    fn entry(&mut self, db: usize, new: NewEntry) -> Result<(), LoadError> {
        let (engine, loading) = (self.target.engine, &self.target.shared.loading);
        let now = loading.progress.now();
        let access = engine.loaded_access(now, new.idle_seconds, new.frequency);
        new.entry.view().set_access(access);
        let mut batch = LoadBatch::default();
        batch.push(new.entry, new.offset);
        loading.store_batch(engine, &mut batch, db as u64, 0)
    }

    fn function(&mut self, code: &[u8]) -> Result<(), String> {
        function_commands::load_library(self.target.functions, code, false)
            .map(|_| ())
            .map_err(|error| String::from_utf8_lossy(&error.to_bytes()).into_owned())
    }

    fn finish(&mut self) -> Result<(), LoadError> {
        let finished = self.target.shared.loading.queue.finish(self.look_around());
        self.target.shared.loading.end();
        finished
    }

    fn abandon(&mut self) -> Option<LoadError> {
        self.target.shared.loading.queue.abandon()
    }
}
