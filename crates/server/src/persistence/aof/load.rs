//! Loading the append-only file when the server starts.

use std::cell::Cell;
use std::fs;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use damselfly_base::CommandError;
use damselfly_commands::{Args, KeyspaceFn, OwnedArgs, Run, Stop};
use damselfly_config::{Config, PropagationErrors};
use damselfly_engine::{Key, Now, Tx};
use damselfly_protocol::{Reply, Version};
use damselfly_value::Attributes;

use super::check::truncate;
use super::files::AofFiles;
use super::load_scripts::ScriptReplay;
use super::manifest::Manifest;
use super::reader::{Fault, Item, Reader};
use super::storage::sync_folder;
use super::{Aof, folder};
use crate::clock;
use crate::memcached;
use crate::persistence::{reload, start};
use crate::registry::{Handler, REGISTRY, Row};
use crate::replication::link::lock_all;
use crate::scripts::function_commands;
use crate::shared::Shared;

/// How an RDB file begins.
const RDB_MAGIC: &[u8] = b"REDIS";

/// How the name of a base ends that begins with an RDB part.
const RDB_BASE_END: &str = ".base.rdb";

/// How often loading looks whether it shall stop, in commands.
const LOOK_INTERVAL: u64 = 1024;

/// Why the file can't be loaded.
enum Failure {
    Stopped,
    /// One line.
    Unopened(String),
    /// The RDB part: one line.
    RefusedBase(String),
    /// The commands: one line.
    Refused(String),
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Refused(text)
    }
}

/// The files of the configured folder.
///
/// # Errors
/// The manifest can't be read, or is broken.
fn open(aof: &Aof, config: &Config) -> Result<AofFiles, String> {
    let storage = aof
        .storage(config)
        .map_err(|error| failed(config, &error))?;
    AofFiles::open(storage, &config.appendfilename).map_err(|error| failed(config, &error))
}

fn failed(config: &Config, error: &io::Error) -> String {
    let folder = folder(config);
    let folder = folder.display();
    format!("Can't open or create the append-only files in {folder}: {error}")
}

/// The manifest of the configured folder.
///
/// # Errors
/// It can't be read, or is broken.
pub fn read_manifest(aof: &Aof, config: &Config) -> Result<Manifest, String> {
    Ok(open(aof, config)?.manifest().clone())
}

/// The manifest of the configured folder, for a start. An old single file becomes the base of a new folder; it must not be touched at any other
/// time, since its data is in no memory.
///
/// # Errors
/// It can't be read, or is broken.
fn find(aof: &Aof, config: &Config) -> Result<Manifest, String> {
    let folder = folder(config);
    let failed = |error: io::Error| failed(config, &error);
    let name = &config.appendfilename;
    let old = Path::new(&config.dir).join(name);
    let moved = folder.join(name);
    let mut files = open(aof, config)?;
    let is_new = files.manifest().is_empty();
    let base = files.manifest().base.as_ref();
    // Redis writes the manifest first, and may have been interrupted.
    let is_unfinished = base.is_some_and(|base| base.name == *name) && !moved.exists();
    if (is_new || is_unfinished) && (old.is_file() || is_new && moved.is_file()) {
        let mut adopt = || {
            if old.is_file() {
                fs::rename(&old, &moved)?;
                sync_folder(&folder)?;
                sync_folder(Path::new(&config.dir))?;
            }
            match is_new {
                true => files.adopt(name),
                false => Ok(()),
            }
        };
        adopt().map_err(failed)?;
        log::info!(
            "Successfully migrated an old-style AOF: {} is the base now.",
            moved.display()
        );
    }
    Ok(files.manifest().clone())
}

/// Loads all files of a manifest, in the section `within`, which has all locks, or without one while no client can use the data.
/// Stops early if `stop` returns true; false then.
///
/// # Errors
/// One line that says what is wrong, where, and what to do.
pub fn load(
    shared: &Arc<Shared>,
    manifest: &Manifest,
    mut within: Option<&mut Tx<'_>>,
    stop: &dyn Fn() -> bool,
) -> Result<bool, String> {
    let config = shared.config();
    let started = Instant::now();
    let paths: Vec<PathBuf> = manifest
        .files()
        .map(|entry| folder(&config).join(&entry.name))
        .collect();
    let bytes = |path: &PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
    shared.loading.progress.begin(paths.iter().map(bytes).sum());
    for (index, path) in paths.iter().enumerate() {
        let is_last = index + 1 == paths.len();
        match load_file(shared, path, is_last, within.as_deref_mut(), stop) {
            Ok(()) => {}
            Err(Failure::Stopped) => return Ok(false),
            Err(Failure::Unopened(why)) => {
                return Err(format!(
                    "Can't open the append-only file {} for reading: {why}. The server does not start, so that no data is lost. Restore the folder from a copy",
                    path.display(),
                ));
            }
            Err(Failure::RefusedBase(why)) => {
                return Err(format!(
                    "Can't load the append-only file {}: {why}. The server does not start, so that no data is lost. Restore the folder from a copy; if only the checksum is wrong, start once with 'rdbchecksum no'",
                    path.display(),
                ));
            }
            Err(Failure::Refused(why)) => {
                return Err(format!(
                    "Can't load the append-only file {}: {why}. The server does not start, so that no data is lost. Make a backup of the folder, then use damselfly --check-aof --fix {}",
                    path.display(),
                    path.display()
                ));
            }
        }
    }
    log::info!(
        "DB loaded from append only file: {:.3} seconds",
        started.elapsed().as_secs_f64()
    );
    Ok(true)
}

fn load_file(
    shared: &Arc<Shared>,
    path: &Path,
    is_last: bool,
    mut within: Option<&mut Tx<'_>>,
    stop: &dyn Fn() -> bool,
) -> Result<(), Failure> {
    let (mut file, _) = start::open(path).map_err(|error| Failure::Unopened(error.to_string()))?;
    let mut magic = Vec::new();
    (&mut file)
        .take(RDB_MAGIC.len() as u64)
        .read_to_end(&mut magic)
        .map_err(|error| error.to_string())?;
    let mut offset = 0;
    if magic == RDB_MAGIC {
        offset = match within.as_deref_mut() {
            Some(tx) => reload::load_base(shared, tx, path).map_err(Failure::RefusedBase)?,
            None => start::load_base(shared, path, stop).map_err(|error| match error {
                None => Failure::Stopped,
                Some(text) => Failure::RefusedBase(text),
            })?,
        };
    } else if path.to_string_lossy().ends_with(RDB_BASE_END) {
        let why = "it does not begin like an RDB file";
        return Err(Failure::RefusedBase(String::from(why)));
    }
    file.seek(SeekFrom::Start(offset))
        .map_err(|error| error.to_string())?;
    let mut replay = Replay::new(shared);
    let mut reader = Reader::new(BufReader::with_capacity(1 << 20, file), offset);
    let (mut good, mut commands) = (offset, 0_u64);
    loop {
        let before = reader.position();
        match reader.next_item() {
            Ok(Item::Command(args)) => {
                replay
                    .command(args, within.as_deref_mut())
                    .map_err(|why| format!("at offset {before}: {why}"))?;
                shared
                    .loading
                    .progress
                    .add_bytes(reader.position() - before);
            }
            Ok(Item::Time(_)) => {}
            Ok(Item::End) if !replay.is_in_transaction() => return Ok(()),
            Ok(Item::End) | Err(Fault::Truncated) => {
                return cut_tail(shared, path, good, is_last);
            }
            Err(Fault::Broken(_)) if ends_in_zeros(path, reader.position())? => {
                return cut_tail(shared, path, good, is_last);
            }
            Err(Fault::Broken(why)) => {
                let what = "Bad file format reading the append only file";
                return Err(format!("{what}: at offset {before}, {why}").into());
            }
            Err(Fault::Unreadable(error)) => return Err(error.to_string().into()),
        }
        if !replay.is_in_transaction() {
            good = reader.position();
        }
        commands += 1;
        if commands.is_multiple_of(LOOK_INTERVAL) {
            shared.loading.progress.log_if_due();
            if stop() {
                return Err(Failure::Stopped);
            }
        }
    }
}

/// True if everything in a file behind this offset, and the byte before it, is zero: what some file systems leave behind after a power
/// failure of what was not on disk.
fn ends_in_zeros(path: &Path, from: u64) -> Result<bool, Failure> {
    let is_zero = || {
        let mut file = fs::File::open(path)?;
        file.seek(SeekFrom::Start(from.saturating_sub(1)))?;
        let mut bytes = BufReader::with_capacity(1 << 16, file).bytes();
        bytes.try_fold(true, |all, byte| Ok(all && byte? == 0))
    };
    is_zero().map_err(|error: io::Error| Failure::Refused(error.to_string()))
}

/// Drops an incomplete command, or transaction, at the end of the last file.
fn cut_tail(shared: &Shared, path: &Path, good: u64, is_last: bool) -> Result<(), Failure> {
    let why = format!(
        "Unexpected end of file reading the append only file; the last whole command ends at offset {good}"
    );
    if !is_last || !shared.config().aof_load_truncated {
        return Err(why.into());
    }
    log::warn!(
        "!!! Warning: short read while loading the AOF file {}!!! AOF loaded anyway because aof-load-truncated is enabled; truncated to {good} bytes",
        path.display()
    );
    truncate(path, good).map_err(|error| Failure::Refused(format!("can't truncate it: {error}")))
}

/// Runs the commands of a log.
pub struct Replay<'a> {
    shared: &'a Arc<Shared>,
    scripts: ScriptReplay<'a>,
    db: usize,
    /// The commands since MULTI.
    queued: Option<Vec<Vec<Vec<u8>>>>,
    shards: Vec<usize>,
    reply: Vec<u8>,
    /// How many commands have failed.
    failures: Failures,
}

/// Commands that failed. They are a part of the history if they failed when they first ran, too.
#[derive(Default)]
struct Failures(Cell<u32>);

impl Failures {
    fn note(&self, error: &str, args: Args<'_>) {
        self.0.set(self.0.get().saturating_add(1));
        if self.0.get() <= FAILURES_SHOWN {
            log::error!(
                "== CRITICAL == This server is sending an error to its AOF-loading-client: '{error}' after processing the command '{}'. If it did not fail when it was logged, what it has changed is missing now.",
                args.at(0).escape_ascii()
            );
        }
    }
}

/// How many commands that failed are logged, each with a line.
const FAILURES_SHOWN: u32 = 20;

impl<'a> Replay<'a> {
    /// Begins with database 0. No client can use the data.
    pub fn new(shared: &'a Arc<Shared>) -> Self {
        Self {
            shared,
            scripts: ScriptReplay::new(shared),
            db: 0,
            queued: None,
            shards: Vec::new(),
            reply: Vec::new(),
            failures: Failures::default(),
        }
    }

    /// True between MULTI and EXEC.
    pub fn is_in_transaction(&self) -> bool {
        self.queued.is_some()
    }

    /// Runs a command, in the section `within`, if there is one, which has all locks. One that fails changes nothing, as when it was
    /// logged.
    ///
    /// # Errors
    /// The command can't be in a log.
    pub fn command(
        &mut self,
        args: Vec<Vec<u8>>,
        mut within: Option<&mut Tx<'_>>,
    ) -> Result<(), String> {
        let name = args[0].to_ascii_lowercase();
        match (name.as_slice(), &mut self.queued) {
            (b"multi", None) => self.queued = Some(Vec::new()),
            (b"exec", Some(_)) => {
                for args in self.queued.take().unwrap_or_default() {
                    self.run(&args, within.as_deref_mut())?;
                }
            }
            (b"discard", Some(_)) => self.queued = None,
            (_, Some(queued)) => queued.push(args),
            (_, None) => self.run(&args, within)?,
        }
        Ok(())
    }

    fn run(&mut self, args: &[Vec<u8>], within: Option<&mut Tx<'_>>) -> Result<(), String> {
        let owned = OwnedArgs::copy(args.iter().map(Vec::as_slice));
        let args = owned.borrow();
        let shown = || args.at(0).escape_ascii().to_string();
        let row = REGISTRY
            .find_original(args.at(0))
            .ok_or_else(|| format!("Unknown command '{}' reading the append only file", shown()))?;
        let row = match row.subcommands.is_empty() || args.len() < 2 {
            true => row,
            false => REGISTRY.find_subcommand(row, args.at(1)).unwrap_or(row),
        };
        if !row.command.arity.allows(args.len()) {
            return Err(format!("wrong number of arguments for '{}'", shown()));
        }
        match row.name.as_str() {
            "select" => {
                let databases = self.shared.engine.databases();
                let db = damselfly_base::number::parse_integer(args.at(1));
                self.db = db
                    .and_then(|db| usize::try_from(db).ok())
                    .filter(|&db| db < databases)
                    .ok_or_else(|| {
                        format!("a database beyond the option 'databases', {databases}")
                    })?;
                return Ok(());
            }
            "echo" => {
                self.set_attributes(args.at(1), within);
                return Ok(());
            }
            "ping" | "publish" | "spublish" | "script|flush" => return Ok(()),
            "script|load" => return self.scripts.keep(args.at(2)),
            name if name.starts_with("function|") => return self.change_functions(name, args),
            _ => {}
        }
        if row.runs_script {
            return self.run_script(row, args, within);
        }
        let (Run::Run(Handler::Keyspace(run)) | Run::Either(Handler::Keyspace(run), _)) =
            row.command.run
        else {
            return Err(format!("the command '{}' can't be repeated", shown()));
        };
        self.reply.clear();
        let behavior = self.shared.config().propagation_error_behavior;
        let failures = &self.failures;
        let judge = |result: Result<bool, CommandError>| match result {
            Ok(needs_all) => Ok(needs_all),
            Err(error) if behavior == PropagationErrors::Panic => Err(format!(
                "the command '{}' fails: {error}; the option 'propagation-error-behavior' forbids that",
                shown()
            )),
            Err(error) => {
                failures.note(&error.to_string(), args);
                Ok(false)
            }
        };
        if let Some(tx) = within {
            return judge(run_in(tx, self.db, run, args, &mut self.reply)).map(drop);
        }
        let (engine, now) = (&self.shared.engine, Now(clock::now_ms()));
        loop {
            let locked = crate::dispatch::lock(engine, row, args, self.db, now, &mut self.shards);
            let needs_all = match locked {
                Ok(mut tx) => judge(run_in(&mut tx, self.db, run, args, &mut self.reply))?,
                // A thread may be looking at the shard.
                Err(_) => {
                    std::thread::yield_now();
                    continue;
                }
            };
            if !needs_all {
                return Ok(());
            }
            if let Ok(mut tx) = engine.lock_all(self.db, now) {
                return judge(run_in(&mut tx, self.db, run, args, &mut self.reply)).map(drop);
            }
        }
    }

    fn run_script(
        &mut self,
        row: &'static Row,
        args: Args<'_>,
        within: Option<&mut Tx<'_>>,
    ) -> Result<(), String> {
        let done = match within {
            Some(tx) => self.scripts.run(tx, self.db, row, args),
            None => {
                let mut tx = lock_all(self.shared);
                self.scripts.run(&mut tx, self.db, row, args)
            }
        };
        let failure =
            done.map_err(|why| format!("the script of '{}' can't run: {why}", row.name))?;
        if let Some(error) = failure {
            self.failures.note(&error, args);
        }
        Ok(())
    }

    fn change_functions(&self, name: &str, args: Args<'_>) -> Result<(), String> {
        function_commands::repeat(self.shared, name, args)
            .map_err(|error| String::from_utf8_lossy(&error.to_bytes()).into_owned())
    }

    /// Sets the attributes of a memcached item, if this message says so.
    fn set_attributes(&self, message: &[u8], within: Option<&mut Tx<'_>>) {
        if let Some((attributes, key)) = memcached::attributes_and_key(message) {
            let (key, now) = (Key::new(key), Now(clock::now_ms()));
            match within {
                Some(tx) => set_attributes_in(tx, self.db, key, attributes),
                None => loop {
                    if let Ok(mut tx) = self.shared.engine.lock_one(key.hash, self.db, now) {
                        break set_attributes_in(&mut tx, self.db, key, attributes);
                    }
                    std::thread::yield_now();
                },
            }
        }
    }
}

fn set_attributes_in(tx: &mut Tx<'_>, db: usize, key: Key<'_>, attributes: Attributes) {
    tx.set_db(db);
    tx.keep_expired();
    memcached::set_attributes(tx, key, attributes);
}

/// Runs a command. True if it needs all locks.
///
/// # Errors
/// Those of the command.
fn run_in(
    tx: &mut Tx<'_>,
    db: usize,
    run: KeyspaceFn,
    args: Args<'_>,
    reply: &mut Vec<u8>,
) -> Result<bool, CommandError> {
    tx.set_db(db);
    tx.keep_expired();
    match run(tx, args, &mut Reply::new(reply, Version::Resp2)) {
        Err(Stop::NeedsAllLocks) => Ok(true),
        Err(Stop::Error(error)) => Err(error),
        Ok(()) | Err(_) => Ok(false),
    }
}

fn not_writable(config: &Config, increment: Option<&str>, error: &io::Error) -> String {
    let folder = folder(config);
    let path = increment.map_or(folder.clone(), |name| folder.join(name));
    let advice = match error.kind() {
        io::ErrorKind::NotFound => {
            "The server does not start, so that no data is lost. Restore the folder from a copy"
        }
        _ => "Check who owns it and who may write it, or start with 'appendonly no'",
    };
    format!(
        "Can't open the append-only file {} for writing: {error}. {advice}",
        path.display()
    )
}

/// Loads the append-only file, or the snapshot if there is none yet, and begins to write. The gate is closed.
///
/// # Errors
/// One line that says what is wrong, where, and what to do.
pub fn start(shared: &Arc<Shared>, stop: &dyn Fn() -> bool) -> Result<bool, String> {
    let config = shared.config();
    let manifest = find(&shared.aof, &config)?;
    if !manifest.is_empty() {
        let last = manifest.increments.last().map(|last| last.name.as_str());
        shared
            .aof
            .check_writable(&config, last)
            .map_err(|error| not_writable(&config, last, &error))?;
        if !load(shared, &manifest, None, stop)? {
            return Ok(false);
        }
    } else if start::has_snapshot(&config) {
        log::warn!(
            "There is no append-only file yet: loading the snapshot, from which it will be created."
        );
        start::load_into(shared, stop)?;
        if stop() {
            return Ok(false);
        }
    }
    let mut tx = lock_all(shared);
    if !manifest.is_empty() {
        shared.aof.continue_after_load(shared, &config, &tx);
        return Ok(true);
    }
    if !shared.aof.turn_on_within(shared, &config, &mut tx) {
        return Err(String::from(
            "Can't begin the append-only file: the server stops",
        ));
    }
    drop(tx);
    // Clients wait until there is a base: before that, their changes would not survive a crash.
    while shared.aof.mode() != super::Mode::On && !stop() && !shared.stopping.load(Relaxed) {
        if shared.aof.status().failures > 0 {
            return Err(String::from(
                "Can't write the base of the append-only file: see the log above. Check the disk and the option 'dir', or start with 'appendonly no'",
            ));
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    Ok(!stop())
}
