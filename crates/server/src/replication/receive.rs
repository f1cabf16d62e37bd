//! A full synchronisation, on the side of the replica: the data of the primary replaces all there is.
//!
//! ```text
//! through a file:  connection ─► temporary file, checked ─► the old data is dropped ─► loaded ─► renamed to `dbfilename`
//! on-empty-db:     connection ─► loaded, if there was no data
//! swapdb:          connection ─► loaded beside the old data ─► the two are swapped, and the old data is dropped
//! ```
//!
//! Nothing of the primary is believed: the file must fit on the disk, and its beginning and checksum must be right, before old data is dropped. If
//! loading fails after that, there is no data, and the next attempt begins anew.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use damselfly_config::DisklessLoad;
use damselfly_engine::{Engine, Layout};
use damselfly_rdb::Checksum;

use super::connection::Connection;
use super::follow::{Attempt, Ended};
use super::link;
use crate::clock;
use crate::gate::Reasons;
use crate::persistence::load::LoadError;
use crate::persistence::save_file::Temporary;
use crate::persistence::start::{self, Target};
use crate::scripts::function_libraries::Functions;

/// How much is copied at a time.
const COPY_BYTES: usize = 64 << 10;

/// How much is written to the file between two syncs, as in Redis.
const SYNC_BYTES: u64 = 8 << 20;

/// The length of the mark behind a payload of unknown length.
const MARK_BYTES: usize = 40;

/// The length of the checksum at the end of a file.
const CHECKSUM_BYTES: usize = 8;

/// How files of Redis and of Valkey begin.
const MAGICS: [&[u8]; 2] = [b"REDIS", b"VALKEY"];

/// How often the primary is told that this replica is alive while it loads.
const ALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// How often a wait for bytes looks whether it shall end.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Commands that were allowed to run just before the server began to load have this long to take their locks.
const GRACE: Duration = Duration::from_millis(5);

/// Receives and loads the data of the primary, which is that of the history `id` at `offset`.
///
/// # Errors
/// It could not be received or loaded. The old data is still there, or all data is gone, and the history with it.
pub(super) fn receive(
    attempt: &Attempt<'_>,
    connection: &mut Connection,
    id: &str,
    offset: u64,
) -> Result<(), Ended> {
    let end = payload_end(attempt, connection)?;
    let way = way(attempt);
    let link = &attempt.shared.replication.link;
    let total = match end {
        PayloadEnd::After(bytes) => bytes,
        PayloadEnd::Mark(_) => 0,
    };
    link.transfer_total.store(total, Relaxed);
    link.transfer_read.store(0, Relaxed);
    let to = match way {
        DisklessLoad::Disabled => "to disk",
        DisklessLoad::OnEmptyDb | DisklessLoad::SwapDb => "to parser",
    };
    match end {
        PayloadEnd::After(bytes) => {
            log::info!("MASTER <-> REPLICA sync: receiving {bytes} bytes from master {to}");
        }
        PayloadEnd::Mark(_) => {
            log::info!("MASTER <-> REPLICA sync: receiving streamed RDB from master with EOF {to}")
        }
    }
    let payload = Payload::new(attempt, connection, end)?;
    match way {
        DisklessLoad::Disabled => through_file(attempt, payload, (id, offset), total),
        DisklessLoad::OnEmptyDb => straight(attempt, payload, (id, offset), total),
        DisklessLoad::SwapDb => beside(attempt, payload, (id, offset), total),
    }
}

/// How the data is loaded.
fn way(attempt: &Attempt<'_>) -> DisklessLoad {
    match attempt.config.repl_diskless_load {
        DisklessLoad::OnEmptyDb => {
            let shared = attempt.shared;
            let mut tx = link::lock_all(shared);
            let is_empty = (0..shared.engine.databases()).all(|db| tx.totals(db).keys == 0);
            match is_empty {
                true => DisklessLoad::OnEmptyDb,
                false => DisklessLoad::Disabled,
            }
        }
        way @ (DisklessLoad::Disabled | DisklessLoad::SwapDb) => way,
    }
}

/// How a payload ends.
enum PayloadEnd {
    /// After so many bytes.
    After(u64),
    /// With this mark.
    Mark([u8; MARK_BYTES]),
}

/// Reads the line before the payload.
fn payload_end(attempt: &Attempt<'_>, connection: &mut Connection) -> Result<PayloadEnd, Ended> {
    loop {
        let line = connection.line(attempt.timeout()).map_err(|error| {
            Ended::Failed(format!("I/O error reading bulk count from MASTER: {error}"))
        })?;
        if attempt.ends() {
            return Err(Ended::Replaced);
        }
        if let Some(error) = line.strip_prefix('-') {
            return Err(format!("MASTER aborted replication with an error: {error}").into());
        }
        if line.is_empty() {
            continue;
        }
        let wrong = || {
            Ended::Failed(format!(
                "Bad protocol from MASTER, the first byte is not '$' (we received '{}'), are you sure the host and port are right?",
                line.escape_debug()
            ))
        };
        let length = line.strip_prefix('$').ok_or_else(wrong)?;
        if let Some(mark) = length.strip_prefix("EOF:") {
            let mark = mark.as_bytes().try_into().map_err(|_| wrong())?;
            return Ok(PayloadEnd::Mark(mark));
        }
        let bytes = length
            .parse::<i64>()
            .ok()
            .and_then(|bytes| u64::try_from(bytes).ok());
        return bytes.map(PayloadEnd::After).ok_or_else(wrong);
    }
}

/// The payload as a source.
struct Payload<'a> {
    attempt: &'a Attempt<'a>,
    connection: &'a mut Connection,
    end: PayloadEnd,
    /// Bytes that are left of a payload of known length.
    left: u64,
    /// Bytes that were read of one that ends with a mark. The last ones may be the mark.
    held: Vec<u8>,
    is_done: bool,
    last_alive: Instant,
}

impl<'a> Payload<'a> {
    fn new(
        attempt: &'a Attempt<'a>,
        connection: &'a mut Connection,
        end: PayloadEnd,
    ) -> io::Result<Self> {
        connection.set_wait(LOOK_INTERVAL)?;
        let left = match end {
            PayloadEnd::After(bytes) => bytes,
            PayloadEnd::Mark(_) => 0,
        };
        Ok(Self {
            attempt,
            connection,
            end,
            left,
            held: Vec::new(),
            is_done: false,
            last_alive: Instant::now(),
        })
    }

    /// Tells the primary from time to time that this replica is alive.
    fn show_alive(&mut self) {
        if self.last_alive.elapsed() >= ALIVE_INTERVAL {
            self.last_alive = Instant::now();
            // If this fails, reading does, too.
            let _ = self.connection.send_raw(b"\n");
        }
    }

    /// Reads some bytes of the connection, and waits for them.
    fn take(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let started = Instant::now();
        loop {
            let bytes = self.connection.take(out)?;
            if bytes > 0 {
                let link = &self.attempt.shared.replication.link;
                link.transfer_read.fetch_add(bytes as u64, Relaxed);
                link.input_bytes.fetch_add(bytes as u64, Relaxed);
                link.last_read_ms.store(clock::now_ms(), Relaxed);
                return Ok(bytes);
            }
            if self.attempt.ends() {
                return Err(io::Error::other("stopped"));
            }
            if started.elapsed() > self.attempt.timeout() {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "Timeout receiving bulk data from MASTER... If the problem persists try to set the 'repl-timeout' parameter in redis.conf to a larger value.",
                ));
            }
        }
    }

    fn read_marked(&mut self, out: &mut [u8], mark: [u8; MARK_BYTES]) -> io::Result<usize> {
        while !self.is_done && self.held.len() <= MARK_BYTES {
            let mut piece = [0; COPY_BYTES];
            let bytes = self.take(&mut piece)?;
            self.held.extend_from_slice(&piece[..bytes]);
            if self.held.ends_with(&mark) {
                self.is_done = true;
                self.held.truncate(self.held.len() - MARK_BYTES);
            }
        }
        let free = match self.is_done {
            true => self.held.len(),
            false => self.held.len() - MARK_BYTES,
        };
        let bytes = free.min(out.len());
        out[..bytes].copy_from_slice(&self.held[..bytes]);
        self.held.drain(..bytes);
        Ok(bytes)
    }
}

impl Read for Payload<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.show_alive();
        match self.end {
            PayloadEnd::After(_) => {
                let wanted =
                    usize::try_from(self.left).map_or(out.len(), |left| left.min(out.len()));
                if wanted == 0 {
                    return Ok(0);
                }
                let bytes = self.take(&mut out[..wanted])?;
                self.left -= bytes as u64;
                Ok(bytes)
            }
            PayloadEnd::Mark(mark) => self.read_marked(out, mark),
        }
    }
}

/// Reads what is left of a payload after its data was loaded: at most its mark.
fn finish(payload: &mut Payload<'_>) -> Result<(), String> {
    let mut rest = [0; 1];
    match payload.read(&mut rest) {
        Ok(0) => Ok(()),
        Ok(_) => Err(String::from("Replication stream EOF marker is broken")),
        Err(error) => Err(error.to_string()),
    }
}

/// Appends a sentence to a text that may be one already.
fn and_old_data_stays(why: &str) -> String {
    format!("{}. The old data stays.", why.trim_end_matches('.'))
}

fn through_file(
    attempt: &Attempt<'_>,
    mut payload: Payload<'_>,
    history: (&str, u64),
    total: u64,
) -> Result<(), Ended> {
    let folder = Path::new(&attempt.config.dir);
    let failed = |why: &dyn std::fmt::Display| {
        Ended::Failed(format!(
            "Write error writing to the DB dump file needed for MASTER <-> REPLICA synchronization: {why}. The old data stays. Free space in the folder of the option 'dir', or set 'repl-diskless-load'."
        ))
    };
    check_room(folder, total).map_err(|why| failed(&why))?;
    let mut temporary = Temporary::create_locked(folder).map_err(|error| failed(&error))?;
    let mut file = temporary.locked().expect("it was just locked");
    let bytes = match copy(&mut payload, &mut file, attempt.config.rdbchecksum) {
        Ok(bytes) => bytes,
        Err(_) if attempt.ends() => return Err(Ended::Replaced),
        Err(CopyError::Write(error)) => return Err(failed(&error)),
        Err(CopyError::Source(why)) => {
            let why = format!("I/O error trying to sync with MASTER: {why}");
            return Err(and_old_data_stays(&why).into());
        }
    };
    file.sync_all().map_err(|error| failed(&error))?;
    let file = File::open(folder.join(temporary.name())).map_err(|error| failed(&error))?;
    drop_old_data(attempt)?;
    log::info!("MASTER <-> REPLICA sync: Loading DB in memory");
    let payload = RefCell::new(payload);
    let stop = || {
        payload.borrow_mut().show_alive();
        attempt.ends()
    };
    let loaded = load(attempt, file, bytes, &stop, &Target::of(attempt.shared));
    end_load(attempt, loaded, history)?;
    let path = start::path(&attempt.config);
    let renamed = temporary.rename(&attempt.config.dbfilename);
    match renamed.and_then(|()| temporary.sync_name()) {
        Ok(()) => attempt.shared.persistence.note_loaded(attempt.shared),
        Err(error) => log::warn!(
            "Failed trying to rename the temp DB into {} in MASTER <-> REPLICA synchronization: {error}. The next save replaces the old file.",
            path.display()
        ),
    }
    Ok(())
}

/// Refuses a file that does not fit on the disk.
fn check_room(folder: &Path, bytes: u64) -> Result<(), String> {
    let room = rustix::fs::statvfs(folder)
        .map(|facts| facts.f_bavail.saturating_mul(facts.f_frsize))
        .unwrap_or(u64::MAX);
    match bytes <= room {
        true => Ok(()),
        false => Err(format!(
            "the data has {bytes} bytes, but only {room} are free"
        )),
    }
}

/// Why a payload was not copied.
enum CopyError {
    Source(String),
    Write(io::Error),
}

/// Copies a payload to a file, and checks that it begins and ends as it should. Returns its length.
fn copy(payload: &mut Payload<'_>, file: &mut &File, checks_sum: bool) -> Result<u64, CopyError> {
    let mut buffer = vec![0; COPY_BYTES];
    let (mut checksum, mut total, mut synced) = (Checksum::new(), 0, 0);
    // The last bytes so far, which may be the checksum.
    let mut tail: Vec<u8> = Vec::new();
    loop {
        let bytes = match payload.read(&mut buffer) {
            Ok(0) => break,
            Ok(bytes) => &buffer[..bytes],
            Err(error) => return Err(CopyError::Source(error.to_string())),
        };
        let begins = |magic: &&[u8]| {
            let length = magic.len().min(bytes.len());
            bytes[..length] == magic[..length]
        };
        if total == 0 && !MAGICS.iter().any(begins) {
            return Err(CopyError::Source(String::from(
                "what it sends is no RDB file",
            )));
        }
        file.write_all(bytes).map_err(CopyError::Write)?;
        total += bytes.len() as u64;
        tail.extend_from_slice(bytes);
        let certain = tail.len().saturating_sub(CHECKSUM_BYTES);
        checksum.add(&tail[..certain]);
        tail.drain(..certain);
        if total - synced >= SYNC_BYTES {
            file.sync_data().map_err(CopyError::Write)?;
            synced = total;
        }
    }
    let stored = tail.try_into().map_or(0, u64::from_le_bytes);
    if checks_sum && stored != 0 && stored != checksum.value() {
        return Err(CopyError::Source(String::from(
            "the checksum of the data is wrong",
        )));
    }
    Ok(total)
}

fn straight(
    attempt: &Attempt<'_>,
    mut payload: Payload<'_>,
    history: (&str, u64),
    total: u64,
) -> Result<(), Ended> {
    drop_old_data(attempt)?;
    log::info!("MASTER <-> REPLICA sync: Loading DB in memory");
    let stop = || attempt.ends();
    let loaded = load(
        attempt,
        &mut payload,
        total,
        &stop,
        &Target::of(attempt.shared),
    );
    let loaded = loaded.and_then(|()| finish(&mut payload));
    end_load(attempt, loaded, history)
}

fn beside(
    attempt: &Attempt<'_>,
    mut payload: Payload<'_>,
    (id, offset): (&str, u64),
    total: u64,
) -> Result<(), Ended> {
    let shared = attempt.shared;
    let layout = Layout {
        shards: shared.engine.shards(),
        databases: shared.engine.databases(),
    };
    let (engine, functions) = (Arc::new(Engine::new(layout)), Functions::default());
    shared.apply_settings(&engine);
    // With the same history, the old data is that of an earlier moment: readers may go on with it.
    let reason = match shared.replication.history().id == id {
        true => Reasons::ASYNC_LOADING,
        false => Reasons::LOADING,
    };
    shared.loading.set_target(Some(engine.clone()));
    shared.gate.close(reason);
    log::info!("MASTER <-> REPLICA sync: Loading DB in memory");
    let stop = || attempt.ends();
    let target = Target {
        shared,
        engine: &engine,
        functions: &functions,
    };
    let loaded = load(attempt, &mut payload, total, &stop, &target);
    let loaded = loaded.and_then(|()| finish(&mut payload));
    shared.loading.set_target(None);
    if let Err(why) = loaded {
        shared.gate.open(reason);
        return match attempt.ends() {
            true => Err(Ended::Replaced),
            false => Err(and_old_data_stays(&why).into()),
        };
    }
    let mut tx = link::lock_all(shared);
    if attempt.ends() {
        drop(tx);
        shared.gate.open(reason);
        return Err(Ended::Replaced);
    }
    log::info!("MASTER <-> REPLICA sync: Swapping active DB with loaded DB");
    stop_persistence(attempt, &mut tx);
    tx.swap_contents(&mut link::lock_all_of(&engine));
    tx.invalidate_all();
    shared.functions.replace(functions.libraries());
    begin_history(attempt, &mut tx, id, offset);
    drop(tx);
    shared.gate.open(reason);
    drop(engine);
    Ok(())
}

/// Loads a source into the target. What it has of the history that follows is known then.
fn load(
    attempt: &Attempt<'_>,
    source: impl Read,
    total: u64,
    stop: &dyn Fn() -> bool,
    target: &Target<'_>,
) -> Result<(), String> {
    let progress = &attempt.shared.loading.progress;
    progress.begin(total);
    // The primary removes what has expired.
    progress.keep_expired(true);
    let started = Instant::now();
    let loaded = start::load_from(target, source, false, stop);
    progress.keep_expired(false);
    match loaded {
        Ok(_) => {
            log::info!(
                "Done loading RDB, keys loaded: {}, in {:.3} seconds",
                progress.keys_loaded(),
                started.elapsed().as_secs_f64()
            );
            Ok(())
        }
        Err(LoadError::Stopped) => Err(String::from("loading was stopped")),
        Err(error) => Err(format!(
            "Internal error in RDB: failed trying to load the MASTER synchronization DB: {error}"
        )),
    }
}

/// Refuses commands, and drops all data and the history.
fn drop_old_data(attempt: &Attempt<'_>) -> Result<(), Ended> {
    let shared = attempt.shared;
    shared.gate.close(Reasons::LOADING);
    std::thread::sleep(GRACE);
    let mut tx = link::lock_all(shared);
    if attempt.ends() {
        drop(tx);
        shared.gate.open(Reasons::LOADING);
        return Err(Ended::Replaced);
    }
    log::info!("MASTER <-> REPLICA sync: Flushing old data");
    stop_persistence(attempt, &mut tx);
    forget_all(attempt, &mut tx);
    Ok(())
}

fn forget_all(attempt: &Attempt<'_>, tx: &mut damselfly_engine::Tx<'_>) {
    let shared = attempt.shared;
    for db in 0..shared.engine.databases() {
        tx.flush(db, attempt.config.replica_lazy_flush);
    }
    tx.invalidate_all();
    shared.functions.replace(Arc::default());
    // The data is no longer that of any history.
    shared.replication.link.set_has_history(false);
    shared
        .replication
        .begin_history(shared, &crate::shared::random_hex(), 0);
}

/// Ends saves in progress, whose cut must not see new data, and the append-only file, which begins anew after the synchronisation.
fn stop_persistence(attempt: &Attempt<'_>, tx: &mut damselfly_engine::Tx<'_>) {
    let shared = attempt.shared;
    shared.aof.turn_off_within(shared, &attempt.config, tx);
    if let Some(job) = shared.persistence.job() {
        job.abort("the data of the primary replaces all there is");
    }
    shared.persistence.finish_save(tx);
}

/// Ends a load that has replaced the old data: lets clients use the new data, or drops what was loaded.
fn end_load(
    attempt: &Attempt<'_>,
    loaded: Result<(), String>,
    (id, offset): (&str, u64),
) -> Result<(), Ended> {
    let shared = attempt.shared;
    let mut tx = link::lock_all(shared);
    let is_replaced = attempt.ends();
    let result = match loaded {
        Ok(()) if !is_replaced => {
            begin_history(attempt, &mut tx, id, offset);
            Ok(())
        }
        Ok(()) => Err(Ended::Replaced),
        Err(_) if is_replaced => Err(Ended::Replaced),
        Err(why) => Err(Ended::Failed(format!(
            "{why}. All data was dropped; the next attempt begins anew."
        ))),
    };
    if result.is_err() {
        forget_all(attempt, &mut tx);
    }
    tx.notify_all_watchers();
    drop(tx);
    shared.gate.open(Reasons::LOADING);
    result
}

/// Notes that the data is that of a history. The section has all locks.
fn begin_history(attempt: &Attempt<'_>, tx: &mut damselfly_engine::Tx<'_>, id: &str, offset: u64) {
    let shared = attempt.shared;
    tx.forget_local_deadlines();
    let link = &shared.replication.link;
    let is_known = id != super::NO_ID;
    match is_known {
        true => shared.replication.begin_history(shared, id, offset),
        // A primary without PSYNC has no id. Replicas of this server need one.
        false => shared
            .replication
            .begin_history(shared, &crate::shared::random_hex(), 0),
    }
    let db = shared.loading.progress.stream_db();
    link.stream_db.store(db, Relaxed);
    link.set_has_history(is_known);
}
