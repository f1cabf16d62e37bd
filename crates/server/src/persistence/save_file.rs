//! The threads that encode saves and write them to files.
//!
//! A save is written to a temporary file in the same folder, which is renamed when it is complete and on disk. So the earlier file stays
//! whole, whatever happens. The temporary file is locked while it is written; at the next start, one that nobody locks is a leftover of a
//! process that was killed, and is removed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use damselfly_protocol::client::write_command;
use damselfly_rdb::{Checksum, Encoder, VERSION_WRITTEN, WriteOptions};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::aof;
use super::aof::storage::{Appender, DiskFile, Folder, Storage};
use super::save_encoders::{Encoders, VALUE_SLICE_BYTES};
use super::save_job::{Batch, PANICKED, SaveJob};
use super::save_memory::SaveMemory;
use super::save_options::FileOptions;
use crate::replication::full_sync::Transfer;
use crate::shared::Shared;

/// The beginning of the names of temporary files; the process id and `.rdb` follow.
const TEMPORARY: &str = "temp-damselfly-";

/// The temporary file of a base of the append-only file, whose folder belongs to one server.
const TEMPORARY_BASE: &str = "temp-damselfly-base.rdb";

/// How many names are tried for a temporary file.
const NAMES_MAX: usize = 100;

/// How much is written between two calls of fdatasync, so that the last one does not take long.
const SYNC_BYTES: u64 = 32 << 20;

/// What an encoder with its output takes at least, from its first batch on.
const ENCODER_BYTES_MIN: usize = 128 << 10;

/// How many encoded forms of an entry are in memory at a time: unpacked and compressed, or compressed and in the output.
const ENCODED_COPIES: usize = 2;

/// How much lower the priority of the threads that encode is, as a nice value: busy threads that serve clients get almost five times as
/// much time. (Linux gives a weight of 1024 to 0, and of 215 to 7.)
const NICE: i32 = 7;

/// Encodes saves, as one of several threads, until the server stops. Thread 0 writes the beginning and the end of the file.
pub fn run(shared: &Shared, index: usize) {
    // Only this thread: on Linux, priorities are those of threads.
    if let Err(error) = rustix::process::nice(NICE) {
        log::warn!("Can't lower the priority of a thread that saves: {error}");
    }
    let persistence = &shared.persistence;
    while let Some(job) = persistence.next_job(&shared.stopping) {
        if index == 0 {
            let failure = save(&job);
            report(&job, failure.as_deref());
            persistence.end(shared, &job, failure.is_none());
        } else {
            encode(&job);
            persistence.wait_for_end(&job);
        }
    }
}

/// Writes a file and puts it in place of the earlier one. Returns why that failed, if it did; then everything was visited nevertheless.
fn save(job: &SaveJob) -> Option<String> {
    let written = catch_unwind(AssertUnwindSafe(|| write(job)));
    match written {
        Ok(Ok(())) => {}
        Ok(Err(error)) => job.fail(error.to_string()),
        Err(_) => job.fail(String::from(PANICKED)),
    }
    // If it failed early.
    job.open_queue();
    encode(job);
    job.wait_for_batches();
    job.failure()
}

fn write(job: &SaveJob) -> io::Result<()> {
    if let Some(transfer) = job.transfer() {
        return write_to_replicas(job, transfer);
    }
    let temporary = Temporary::create(&job.file)?;
    let path = job.file.folder.join(&temporary.name);
    let in_temporary = |error: io::Error| named(&path, &error);
    let file = temporary.appender().map_err(in_temporary)?;
    job.output.begin(file, job).map_err(in_temporary)?;
    job.open_queue();
    encode(job);
    job.wait_for_batches();
    if job.has_failed() {
        return Ok(());
    }
    job.output.end(job).map_err(in_temporary)?;
    temporary.replace(job)
}

fn write_to_replicas(job: &SaveJob, transfer: &Arc<Transfer>) -> io::Result<()> {
    job.output
        .begin(Box::new(ToReplicas(transfer.clone())), job)?;
    job.open_queue();
    encode(job);
    job.wait_for_batches();
    match job.has_failed() {
        true => Ok(()),
        false => job.output.end(job),
    }
}

/// The file of a snapshot that replicas get while it is made: what was sent can't be changed.
struct ToReplicas(Arc<Transfer>);

impl Appender for ToReplicas {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&mut self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The header, which replicas have already: they care for the types of values, not for the version.
    fn overwrite_start(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

fn report(job: &SaveJob, failure: Option<&str>) {
    match failure {
        None if !job.has_file() => log::info!(
            "Streamed {} keys to replicas in {:.3} seconds",
            job.keys(),
            job.elapsed().as_secs_f64()
        ),
        Some(why) if !job.has_file() => {
            log::warn!("The snapshot for replicas was given up: {why}");
        }
        None => log::info!(
            "DB saved on disk: {} keys in {:.3} seconds to {}",
            job.keys(),
            job.elapsed().as_secs_f64(),
            job.file.path().display()
        ),
        Some(why) if job.was_aborted() => log::info!("Background saving was given up: {why}"),
        Some(why) if job.is_in_place() => log::error!(
            "Background saving error: {why}. The new file is complete and in place, but the earlier one may be back after a power failure."
        ),
        Some(why) => log::error!(
            "Background saving error: {why}. The file of the last successful save is unchanged. Until a save succeeds, changes since then are not on disk: check the disk and the options 'dir' and 'dbfilename'."
        ),
    }
}

/// A temporary file. It is removed when this is dropped, unless it was renamed.
pub(crate) struct Temporary {
    storage: Arc<dyn Storage>,
    name: String,
    /// The file, locked, unless it is the only one of its folder.
    locked: Option<File>,
    is_renamed: bool,
}

impl Temporary {
    fn create(options: &FileOptions) -> io::Result<Self> {
        match &options.base {
            None => Self::create_locked(&options.folder),
            Some(base) => Ok(Self {
                storage: base.storage.clone().map_err(io::Error::other)?,
                name: TEMPORARY_BASE.to_owned(),
                locked: None,
                is_renamed: false,
            }),
        }
    }

    /// Creates and locks a file. A name can be in use, since servers in different containers can have the same process id.
    pub(crate) fn create_locked(folder: &Path) -> io::Result<Self> {
        let id = std::process::id();
        for number in 0..NAMES_MAX {
            let name = match number {
                0 => format!("{TEMPORARY}{id}.rdb"),
                _ => format!("{TEMPORARY}{id}-{number}.rdb"),
            };
            let path = folder.join(&name);
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                // Only when it is locked.
                .truncate(false)
                .open(&path)
                .map_err(|error| named(&path, &error))?;
            // Where files can't be locked, leftovers are not removed, and the first name must do.
            let is_in_use = try_lock(&file) == Err(Errno::WOULDBLOCK);
            // A server that starts may have taken it for a leftover before it was locked.
            if is_in_use || !path.exists() {
                continue;
            }
            let emptied = file.set_len(0);
            let temporary = Self {
                storage: Arc::new(Folder::existing(folder)),
                name,
                locked: Some(file),
                is_renamed: false,
            };
            return emptied
                .map(|()| temporary)
                .map_err(|error| named(&path, &error));
        }
        Err(io::Error::other(format!(
            "the names of temporary files of process {id} are all in use"
        )))
    }

    /// The empty file.
    fn appender(&self) -> io::Result<Box<dyn Appender>> {
        if let Some(file) = &self.locked {
            return Ok(Box::new(DiskFile(file.try_clone()?)));
        }
        let (mut file, bytes) = self.storage.open(&self.name)?;
        if bytes > 0 {
            file.truncate(0)?;
        }
        Ok(file)
    }

    /// The file, if it is locked: open for writing.
    pub(crate) fn locked(&self) -> Option<&File> {
        self.locked.as_ref()
    }

    /// Its name in its folder.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Gives it another name, in place of an older file.
    pub(crate) fn rename(&mut self, name: &str) -> io::Result<()> {
        self.storage.rename(&self.name, name)?;
        self.is_renamed = true;
        Ok(())
    }

    /// Makes the new name survive a power failure.
    pub(crate) fn sync_name(&self) -> io::Result<()> {
        self.storage.sync_names()
    }

    fn replace(mut self, job: &SaveJob) -> io::Result<()> {
        let FileOptions { name, folder, .. } = &job.file;
        self.rename(name)
            .map_err(|error| named(&job.file.path(), &error))?;
        job.is_in_place.store(true, Relaxed);
        self.sync_name().map_err(|error| named(folder, &error))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After the renaming, another server may have a file of this name.
        if !self.is_renamed {
            let _ = self.storage.remove(&self.name);
        }
    }
}

pub(super) fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::INVAL | Errno::BADF)
    )
}

/// The error with the path of the file in front.
pub(super) fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn try_lock(file: &File) -> Result<(), Errno> {
    flock(file, FlockOperation::NonBlockingLockExclusive)
}

/// Removes temporary files that killed processes have left in a folder.
pub fn remove_leftovers(folder: &Path) {
    let Ok(files) = std::fs::read_dir(folder) else {
        return;
    };
    for file in files.flatten() {
        let (name, path) = (file.file_name(), file.path());
        let is_ours = name
            .to_str()
            .is_some_and(|name| name.starts_with(TEMPORARY) && name.ends_with(".rdb"));
        // Opening a pipe would wait for its reader.
        if !is_ours || !file.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        let Some(_locked) = lock_leftover(&path) else {
            continue;
        };
        match std::fs::remove_file(&path) {
            Ok(()) => log::warn!(
                "Removed {}, the incomplete file of a save that was interrupted.",
                path.display()
            ),
            Err(error) => log::warn!("Can't remove {}: {error}", path.display()),
        }
    }
}

/// Locks a temporary file, unless a running server has locked it.
fn lock_leftover(path: &Path) -> Option<File> {
    let file = OpenOptions::new().write(true).open(path).ok()?;
    try_lock(&file).ok()?;
    // The server that wrote it may have renamed it before it was locked here, and already write the next one.
    let (locked, named) = (file.metadata().ok()?, std::fs::metadata(path).ok()?);
    (locked.dev() == named.dev() && locked.ino() == named.ino()).then_some(file)
}

/// The file of a save, and its checksum. The threads that encode append to it in any order.
#[derive(Default)]
pub(super) struct Output(Mutex<Option<FileWriter>>);

impl Output {
    fn writer(&self) -> MutexGuard<'_, Option<FileWriter>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes all that comes before the entries.
    fn begin(&self, file: Box<dyn Appender>, job: &SaveJob) -> io::Result<()> {
        let mut writer = FileWriter {
            file,
            with_checksum: job.file.with_checksum && !job.writes_commands(),
            syncs_early: job.file.syncs_early,
            checksum: Checksum::new(),
            unsynced_bytes: 0,
        };
        writer.write_beginning(job)?;
        *self.writer() = Some(writer);
        Ok(())
    }

    pub(super) fn append(&self, bytes: &[u8]) -> io::Result<()> {
        self.with(|writer| writer.write(bytes))
    }

    /// Appends several parts, between which no other thread appends anything.
    pub(super) fn with(
        &self,
        append: impl FnOnce(&mut FileWriter) -> io::Result<()>,
    ) -> io::Result<()> {
        self.writer().as_mut().map_or(Ok(()), append)
    }

    fn end(&self, job: &SaveJob) -> io::Result<()> {
        self.with(|writer| writer.write_end(job))
    }
}

/// The file while it is written, or what takes its place.
pub(super) struct FileWriter {
    file: Box<dyn Appender>,
    with_checksum: bool,
    syncs_early: bool,
    /// Of all but the header, whose version is known at the end.
    checksum: Checksum,
    unsynced_bytes: u64,
}

impl FileWriter {
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.with_checksum {
            self.checksum.add(bytes);
        }
        self.file.append(bytes)?;
        self.unsynced_bytes += bytes.len() as u64;
        if self.syncs_early && self.unsynced_bytes >= SYNC_BYTES {
            self.file.sync()?;
            self.unsynced_bytes = 0;
        }
        Ok(())
    }

    fn write_beginning(&mut self, job: &SaveJob) -> io::Result<()> {
        if job.writes_commands() {
            return self.file.append(&first_commands(job));
        }
        let mut encoder = header_encoder(job);
        let mut out = Vec::new();
        encoder.header(&mut out);
        self.file.append(&out)?;
        out.clear();
        let seconds = (job.started_ms / 1000).to_string();
        let used = job.used_bytes.to_string();
        for (name, value) in [
            ("redis-ver", crate::REDIS_VERSION),
            ("damselfly-ver", crate::VERSION),
            ("redis-bits", "64"),
            ("ctime", &seconds),
            ("used-mem", &used),
            (
                "aof-base",
                match job.file.base {
                    Some(_) => "1",
                    None => "0",
                },
            ),
        ] {
            encoder.aux(name.as_bytes(), value.as_bytes(), &mut out);
        }
        if let Some((history, db)) = &job.history {
            let (db, offset) = (db.to_string(), history.offset.to_string());
            encoder.aux(b"repl-stream-db", db.as_bytes(), &mut out);
            encoder.aux(b"repl-id", history.id.as_bytes(), &mut out);
            encoder.aux(b"repl-offset", offset.as_bytes(), &mut out);
        }
        for library in job.libraries.iter() {
            encoder.function(library.code(), &mut out);
        }
        for (db, totals) in &job.totals {
            encoder.select_db(*db as u64, &mut out);
            encoder.resize_db(totals.keys as u64, totals.deadlines as u64, &mut out);
        }
        self.write(&out)
    }

    /// Completes the file and forces it to the disk.
    fn write_end(&mut self, job: &SaveJob) -> io::Result<()> {
        if job.writes_commands() {
            return self.file.sync();
        }
        let encoder = header_encoder(job);
        let (mut header, mut out) = (Vec::new(), Vec::new());
        encoder.header(&mut header);
        let checksum = self.with_checksum.then(|| {
            let mut checksum = Checksum::new();
            checksum.add(&header);
            checksum.append(&self.checksum);
            checksum
        });
        encoder.end(checksum, &mut out);
        self.file.append(&out)?;
        self.file.overwrite_start(&header)?;
        self.file.sync()
    }
}

/// What comes before the keys in a base of commands.
fn first_commands(job: &SaveJob) -> Vec<u8> {
    let mut out = Vec::new();
    if job.file.base.as_ref().is_some_and(|base| base.has_time) {
        out.extend_from_slice(format!("#TS:{}\r\n", job.started_ms / 1000).as_bytes());
    }
    for library in job.libraries.iter() {
        write_command(&mut out, &[b"FUNCTION", b"LOAD", library.code()]);
    }
    out
}

/// Encodes a batch as commands, and appends them to the file.
fn encode_commands(job: &SaveJob, batch: &Batch) -> io::Result<()> {
    let mut select = Vec::new();
    write_command(&mut select, &[b"SELECT", batch.db.to_string().as_bytes()]);
    let mut all = select.clone();
    for entry in &batch.entries {
        aof::write_entry(entry.view(), &mut |commands| {
            all.append(commands);
            if all.len() < VALUE_SLICE_BYTES {
                return Ok(());
            }
            let appended = job.output.append(&all);
            all.clone_from(&select);
            appended
        })?;
    }
    match all.len() > select.len() {
        true => job.output.append(&all),
        false => Ok(()),
    }
}

fn header_encoder(job: &SaveJob) -> Encoder {
    // Replicas get the header first.
    let version = match job.has_file() {
        true => job.file.version.unwrap_or(job.version.load(Relaxed)),
        false => job.file.version.unwrap_or(VERSION_WRITTEN),
    };
    Encoder::new(WriteOptions {
        version,
        compress: false,
    })
}

/// Encodes batches until there are no more.
fn encode(job: &SaveJob) {
    /// A batch that is encoded or lost, even if that panics.
    struct Guard<'a>(&'a SaveJob);
    impl Drop for Guard<'_> {
        fn drop(&mut self) {
            self.0.end_batch();
        }
    }
    let (mut encoders, mut memory) = (Encoders::default(), SaveMemory::default());
    while let Some(batch) = job.next_batch() {
        let _guard = Guard(job);
        let has_keys = job.sync.as_ref().is_none_or(|sync| !sync.without_keys);
        if job.has_failed() || !has_keys {
            continue;
        }
        // Large values are encoded in several steps, each in a buffer of the size of the value.
        let buffers = encoders.memory_bytes().max(ENCODER_BYTES_MIN);
        memory.set(buffers + ENCODED_COPIES * batch.memory.bytes());
        let encode = AssertUnwindSafe(|| match job.writes_commands() {
            true => encode_commands(job, &batch),
            false => encoders.encode(job, &batch),
        });
        let encoded = job.costs.count_encoding(|| catch_unwind(encode));
        memory.set(encoders.memory_bytes());
        match encoded {
            Ok(Ok(())) => {}
            Ok(Err(error)) => job.fail(named(&job.file.path(), &error).to_string()),
            Err(_) => job.fail(String::from(PANICKED)),
        }
    }
}
