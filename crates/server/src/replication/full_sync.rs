//! Full synchronisation: a snapshot for one or several replicas, and the position of the stream that it belongs to.
//!
//! ```text
//!  tick: replicas wait ─► all locks: save job + number of records (the cut) ─► Intake finds the offset of the cut ─► +FULLRESYNC id offset
//!                              │
//!                              ├─ without disk: encoders ─► Transfer ─► each replica reads at its own pace ─┐
//!                              └─ with: file, as BGSAVE writes it ─► each replica is sent the file ─────────┴─► the stream from the cut on
//! ```

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use damselfly_config::Config;
use damselfly_engine::Now;

use super::Replication;
use super::feed::{Feed, Status};
use super::shared_bytes::{Place, SharedBytes};
use crate::clock;
use crate::persistence::save_job::SaveJob;
use crate::persistence::save_memory::SaveMemory;
use crate::shared::{Shared, random_hex};

/// How much of a snapshot waits for the slowest replica.
const TRANSFER_BYTES_MAX: u64 = 8 << 20;

/// A snapshot for replicas.
pub struct FullSync {
    feeds: Vec<Arc<Feed>>,
    /// How it is sent, unless through a file.
    pub transfer: Option<Arc<Transfer>>,
    /// It has no keys.
    pub without_keys: bool,
    /// It has no functions.
    pub without_functions: bool,
    /// Its file is removed at once, because nobody else needs it.
    removes_file: bool,
}

impl FullSync {
    /// Of replicas that all want the same.
    fn new(feeds: Vec<Arc<Feed>>, is_diskless: bool, config: &Config) -> Self {
        let first = &feeds[0].abilities;
        Self {
            without_keys: first.without_keys,
            without_functions: first.without_functions,
            removes_file: config.rdb_del_sync_files
                && config.save.0.is_empty()
                && !config.appendonly,
            transfer: is_diskless.then(|| Arc::new(Transfer::new(&feeds))),
            feeds,
        }
    }

    /// Sets where the stream of its replicas begins. The caller has locked the stream.
    pub(super) fn set_position(&self, position: u64) {
        self.feeds.iter().for_each(|feed| feed.begin_at(position));
    }

    /// Lets its replicas know what they get: `offset` of the history `id`.
    pub(super) fn announce(&self, id: &str, offset: u64) {
        for feed in &self.feeds {
            let head = match feed.abilities.is_old {
                true => String::new(),
                false => format!("+FULLRESYNC {id} {offset}\r\n"),
            };
            feed.begin_snapshot(head.into_bytes(), self.transfer.clone());
        }
    }

    /// True if a replica waits for it or receives it.
    fn has_replicas(&self) -> bool {
        self.feeds.iter().any(|feed| !feed.is_closed())
    }

    /// The file of the snapshot is complete, or there will be none.
    pub fn end_file(&self, file: io::Result<File>) {
        let opened = file.and_then(|file| Ok((file.metadata()?.len(), Arc::new(file))));
        for feed in &self.feeds {
            match &opened {
                Ok((bytes, file)) => feed.send_file(file.clone(), *bytes),
                Err(error) => {
                    log::warn!(
                        "SYNC failed. Can't open/stat DB after BGSAVE for replica {}: {error}",
                        feed.name()
                    );
                    feed.close();
                }
            }
        }
    }

    /// The save has failed.
    pub fn fail(&self) {
        if let Some(transfer) = &self.transfer {
            transfer.end(Err(Failed));
        }
        for feed in &self.feeds {
            if feed.status() == Status::WaitsForEnd && !feed.is_closed() {
                log::warn!(
                    "SYNC failed. BGSAVE child returned an error: closing replica {}",
                    feed.name()
                );
                feed.close();
            }
        }
    }
}

/// The snapshot will never be complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed;

/// A snapshot on its way to replicas, in the form with an end mark, since its length is not known in advance.
pub struct Transfer {
    state: Mutex<TransferState>,
    /// A replica has read something, or is gone.
    changed: Condvar,
    mark: String,
}

struct TransferState {
    bytes: SharedBytes,
    memory: SaveMemory,
    /// The replicas, by the ids of their clients, and how far each has read.
    readers: BTreeMap<u64, (Arc<Feed>, u64)>,
    end: Option<Result<(), Failed>>,
}

impl TransferState {
    fn count_memory(&mut self) {
        self.memory.set(self.bytes.memory());
    }
}

impl Transfer {
    fn new(feeds: &[Arc<Feed>]) -> Self {
        let mark = random_hex();
        let mut bytes = SharedBytes::new(0);
        bytes.append(format!("$EOF:{mark}\r\n").as_bytes());
        let readers = feeds.iter().map(|feed| (feed.client.id, (feed.clone(), 0)));
        Self {
            state: Mutex::new(TransferState {
                bytes,
                memory: SaveMemory::default(),
                readers: readers.collect(),
                end: None,
            }),
            changed: Condvar::new(),
            mark,
        }
    }

    fn state(&self) -> MutexGuard<'_, TransferState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds bytes. Waits while too much is left to read.
    ///
    /// # Errors
    /// No replica is left.
    pub fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let is_full = |state: &mut TransferState| {
            !state.readers.is_empty()
                && state.end.is_none()
                && state.bytes.len() > TRANSFER_BYTES_MAX
        };
        let waited = self.changed.wait_while(self.state(), is_full);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        if state.readers.is_empty() || state.end.is_some() {
            return Err(io::Error::other("no replica is left that could receive it"));
        }
        state.bytes.append(bytes);
        state.count_memory();
        state.readers.values().for_each(|(feed, _)| feed.wake());
        Ok(())
    }

    /// Ends it after the last byte.
    pub fn end(&self, result: Result<(), Failed>) {
        let mut state = self.state();
        if state.end.is_some() {
            return;
        }
        if result.is_ok() {
            state.bytes.append(self.mark.as_bytes());
        }
        state.end = Some(result);
        state.readers.values().for_each(|(feed, _)| feed.wake());
        drop(state);
        self.changed.notify_all();
    }

    /// The bytes at a position, if there are some yet.
    ///
    /// # Errors
    /// It has failed.
    pub fn read(&self, position: u64) -> Result<Option<Place>, Failed> {
        let state = self.state();
        match state.end {
            Some(Err(failed)) => Err(failed),
            Some(Ok(())) | None if position < state.bytes.start() => Err(Failed),
            Some(Ok(())) | None => Ok(state.bytes.read(position)),
        }
    }

    /// Notes how far a replica has read; true if that is all.
    pub fn note_read(&self, id: u64, position: u64) -> bool {
        let mut state = self.state();
        if let Some((_, at)) = state.readers.get_mut(&id) {
            *at = position;
        }
        let is_complete = state.end.is_some() && position == state.bytes.end();
        if is_complete {
            state.readers.remove(&id);
        }
        self.drop_read(state);
        is_complete
    }

    /// A replica is gone.
    pub fn remove(&self, id: u64) {
        let mut state = self.state();
        state.readers.remove(&id);
        self.drop_read(state);
    }

    fn drop_read(&self, mut state: MutexGuard<'_, TransferState>) {
        let slowest = state.readers.values().map(|&(_, at)| at).min();
        if let Some(position) = slowest {
            state.bytes.drop_before(position);
            state.count_memory();
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Closes the slowest replicas if the snapshot waits for them; false if it does not.
    pub fn close_slowest(&self) -> bool {
        let state = self.state();
        if state.bytes.len() <= TRANSFER_BYTES_MAX {
            return false;
        }
        let start = state.bytes.start();
        for (feed, at) in state.readers.values() {
            if *at <= start + TRANSFER_BYTES_MAX / 2 && !feed.is_closed() {
                log::warn!(
                    "Closing replica {}: it receives its snapshot so slowly that too much memory would be needed for keys that change meanwhile.",
                    feed.name()
                );
                feed.close();
            }
        }
        true
    }
}

impl Replication {
    /// Gives up the snapshot in progress if all replicas that wanted it have left, so that it takes no more memory and others can begin. As in
    /// Redis, a snapshot in a file is completed if there are save points: it is then a save like any other. One thread calls this now and then.
    pub(super) fn give_up_useless_snapshot(&self, shared: &Shared, config: &Config) {
        if !shared.persistence.is_saving() {
            return;
        }
        let Some(job) = shared.persistence.job() else {
            return;
        };
        let is_saved = job.has_file() && !config.save.0.is_empty();
        if !is_saved && job.sync().is_some_and(|sync| !sync.has_replicas()) {
            job.abort("all replicas that waited for it have left");
        }
    }

    /// Begins a full synchronisation if replicas wait for one and it is time. One thread calls this now and then.
    pub(super) fn start_full_sync_if_due(self: &Arc<Self>, shared: &Shared, config: &Config) {
        if shared.persistence.is_saving() || shared.gate.is_loading() {
            return;
        }
        let Some(sync) = self.due_full_sync(config) else {
            return;
        };
        let sync = Arc::new(sync);
        // If a shard is busy, it is still due at the next call.
        let Ok(mut tx) = shared.engine.lock_all(0, Now(clock::now_ms())) else {
            return;
        };
        let started = shared
            .persistence
            .start_for_replicas(shared, &mut tx, sync.clone());
        if started.is_err() {
            return;
        }
        sync.feeds.iter().for_each(|feed| feed.note_start());
        self.note_cut(shared, &tx, &sync);
        drop(tx);
        log::info!(
            "Starting BGSAVE for SYNC with target: {}",
            match sync.transfer {
                Some(_) => "replicas sockets",
                None => "disk",
            }
        );
    }

    /// The replicas that wait, as far as they want the same, if they have waited long enough.
    fn due_full_sync(&self, config: &Config) -> Option<FullSync> {
        let mut waiting = self.feeds();
        waiting.retain(|feed| feed.status() == Status::WaitsForStart && !feed.is_closed());
        let first = waiting.first()?.clone();
        let wanted = |feed: &Feed| {
            let abilities = &feed.abilities;
            (abilities.without_keys, abilities.without_functions)
        };
        waiting.retain(|feed| wanted(feed) == wanted(&first));
        let is_diskless =
            config.repl_diskless_sync && waiting.iter().all(|feed| feed.abilities.eof);
        let replicas_max = config.repl_diskless_sync_max_replicas as usize;
        let is_due = !is_diskless
            || replicas_max > 0 && waiting.len() >= replicas_max
            || first.since.elapsed().as_secs() >= u64::from(config.repl_diskless_sync_delay_s);
        is_due.then(|| FullSync::new(waiting, is_diskless, config))
    }
}

/// Called when a save for replicas has ended.
pub fn end_save(sync: &FullSync, job: &SaveJob, is_ok: bool) {
    match &sync.transfer {
        Some(transfer) if is_ok => transfer.end(Ok(())),
        None if is_ok => sync.end_file(File::open(job.path())),
        Some(_) | None => sync.fail(),
    }
    // A save that was given up may have been complete already.
    if sync.removes_file
        && job.is_in_place()
        && let Err(error) = std::fs::remove_file(job.path())
    {
        log::warn!("Can't remove {}: {error}", job.path().display());
    }
}
