//! The thread that writes saves to files.
//!
//! A save is written to a temporary file in the same folder, which is renamed when it is complete and on disk. So the earlier file stays
//! whole, whatever happens. The temporary file is locked while it is written; at the next start, one that nobody locks is a leftover of a
//! process that was killed, and is removed.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use damselfly_rdb::{Checksum, Encoder, WriteOptions};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::save_job::{Chunk, Encoders, FileOptions, SaveJob};
use crate::shared::Shared;

/// The beginning of the names of temporary files; the process id and `.rdb` follow.
const TEMPORARY: &str = "temp-damselfly-";

/// How many names are tried for a temporary file.
const NAMES_MAX: usize = 100;

/// How much is written between two calls of fdatasync, so that the last one does not take long.
const SYNC_BYTES: u64 = 32 << 20;

/// About how many bytes of a large value are encoded at a time.
const VALUE_SLICE_BYTES: usize = 256 << 10;

/// Writes saves until the server stops.
pub fn run(shared: &Shared) {
    let persistence = &shared.persistence;
    while let Some(job) = persistence.next_job(&shared.stopping) {
        let written = write(&job);
        if let Err(error) = &written {
            job.fail(format!("{}: {error}", job.file.path.display()));
        }
        // What is left is only visited, so this does not take long.
        while job.next_chunk().is_some() {}
        let failure = job.failure();
        match (&failure, job.was_aborted()) {
            (None, _) => log::info!(
                "DB saved on disk: {} keys in {:.3} seconds to {}",
                job.keys(),
                job.elapsed().as_secs_f64(),
                job.file.path.display()
            ),
            (Some(why), true) => log::info!("Background saving was given up: {why}"),
            (Some(why), false) => log::error!(
                "Background saving error: {why}. The file of the last successful save is unchanged. Until a save succeeds, changes since then are not on disk: check the disk and the options 'dir' and 'dbfilename'."
            ),
        }
        persistence.end(shared, &job, failure.is_none());
    }
}

/// Writes a file and puts it in place of the earlier one.
fn write(job: &SaveJob) -> io::Result<()> {
    let temporary = Temporary::create(&job.file)?;
    let mut writer = FileWriter::new(&temporary.file, &job.file);
    writer.write_header(job)?;
    writer.write_chunks(job)?;
    // Not fail the save twice.
    if job.failure().is_some() {
        return Ok(());
    }
    writer.write_end(job)?;
    temporary.replace(&job.file)
}

/// A temporary file. It is removed when this is dropped, unless it was renamed.
struct Temporary {
    file: File,
    path: PathBuf,
    is_renamed: bool,
}

impl Temporary {
    /// Creates and locks a file. A name can be in use, since servers in different containers can have the same process id.
    fn create(options: &FileOptions) -> io::Result<Self> {
        let id = std::process::id();
        for number in 0..NAMES_MAX {
            let name = match number {
                0 => format!("{TEMPORARY}{id}.rdb"),
                _ => format!("{TEMPORARY}{id}-{number}.rdb"),
            };
            let path = options.folder.join(name);
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
            file.set_len(0)?;
            return Ok(Self {
                file,
                path,
                is_renamed: false,
            });
        }
        Err(io::Error::other(format!(
            "the names of temporary files of process {id} are all in use"
        )))
    }

    fn replace(mut self, options: &FileOptions) -> io::Result<()> {
        self.file.sync_all()?;
        std::fs::rename(&self.path, &options.path).map_err(|error| named(&options.path, &error))?;
        self.is_renamed = true;
        File::open(&options.folder)?.sync_all()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After the renaming, another server may have a file of this name.
        if !self.is_renamed {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn named(path: &Path, error: &io::Error) -> io::Error {
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

/// Writes a file and computes its checksum.
struct FileWriter<'a> {
    file: &'a File,
    with_checksum: bool,
    syncs_early: bool,
    /// Of all but the header, whose version is known at the end.
    checksum: Checksum,
    unsynced_bytes: u64,
}

impl<'a> FileWriter<'a> {
    fn new(file: &'a File, options: &FileOptions) -> Self {
        Self {
            file,
            with_checksum: options.with_checksum,
            syncs_early: options.syncs_early,
            checksum: Checksum::new(),
            unsynced_bytes: 0,
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.with_checksum {
            self.checksum.add(bytes);
        }
        self.file.write_all(bytes)?;
        self.unsynced_bytes += bytes.len() as u64;
        if self.syncs_early && self.unsynced_bytes >= SYNC_BYTES {
            self.file.sync_data()?;
            self.unsynced_bytes = 0;
        }
        Ok(())
    }

    fn write_header(&mut self, job: &SaveJob) -> io::Result<()> {
        let mut encoder = header_encoder(job);
        let mut out = Vec::new();
        encoder.header(&mut out);
        self.file.write_all(&out)?;
        out.clear();
        let seconds = (job.started_ms / 1000).to_string();
        let used = job.used_bytes.to_string();
        for (name, value) in [
            ("redis-ver", crate::REDIS_VERSION),
            ("damselfly-ver", crate::VERSION),
            ("redis-bits", "64"),
            ("ctime", &seconds),
            ("used-mem", &used),
            ("aof-base", "0"),
        ] {
            encoder.aux(name.as_bytes(), value.as_bytes(), &mut out);
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

    fn write_chunks(&mut self, job: &SaveJob) -> io::Result<()> {
        let mut encoders = Encoders::default();
        while let Some(chunk) = job.next_chunk() {
            match chunk {
                Chunk::Bytes(bytes) => self.write(&bytes)?,
                Chunk::Entry(db, entry) => {
                    let mut out = Vec::new();
                    let begun =
                        job.begin_entry(db, entry.view(), &mut encoders, &mut None, &mut out);
                    let (mut writer, encoder) = begun.map_err(io::Error::other)?;
                    loop {
                        let value = entry.view().value();
                        let is_done = writer.write(value, encoder, VALUE_SLICE_BYTES, &mut out);
                        self.write(&out)?;
                        out.clear();
                        if is_done || job.failure().is_some() {
                            break;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn write_end(&mut self, job: &SaveJob) -> io::Result<()> {
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
        self.file.write_all(&out)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&header)
    }
}

fn header_encoder(job: &SaveJob) -> Encoder {
    Encoder::new(WriteOptions {
        version: job.version(),
        compress: false,
    })
}
