//! Persistence: the data in files.
//!
//! ```text
//!  BGSAVE, SAVE, a save point, a shutdown
//!      └─► start: the cut, under all locks ─► SaveJob ◄── threads that serve clients copy entries, a few at a time (`saver.rs`)
//!                                               │ a few MiB at most
//!                                               └────► threads of low priority encode them and write the file (`save_file.rs`)
//!
//!  file ──► load: splits ──► chunk queue ──► the server's threads: decode, insert ──► engine
//!             └──────────────── large values, functions ─────────────────────────────────┘
//! ```
//!
//! | file | contents |
//! |---|---|
//! | `mod.rs` | what was saved when, which save runs, and when the next one is due |
//! | `save_job.rs` | one save: the queue between the threads that copy and those that encode |
//! | `save_file.rs` | the threads that encode: temporary file, checksum, fsync, rename |
//! | `save_encoders.rs` | encoding a batch of entries |
//! | `save_memory.rs` | how much memory a save takes |
//! | `save_options.rs` | what the options say about the file |
//! | `saver.rs`, `save_costs.rs` | how much time a thread spends on copying |
//! | `shutdown.rs` | saving at the end |
//! | `commands.rs` | SAVE, BGSAVE, LASTSAVE |
//! | `reload.rs` | DEBUG RELOAD |
//! | `load.rs`, `start.rs`, `chunk_queue.rs`, `progress.rs` | loading a file; `docs/decisions/0021-loading.md` says why so |

pub mod aof;
mod chunk_queue;
pub mod commands;
pub mod load;
pub mod progress;
pub mod reload;
mod save_costs;
mod save_encoders;
pub mod save_file;
pub mod save_job;
pub(crate) mod save_memory;
mod save_options;
pub(crate) mod saver;
pub mod shutdown;
pub mod start;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use damselfly_config::Config;
use damselfly_engine::{Busy, Engine, LoadBatch, Now, Tx};
use damselfly_rdb::{Chunk, Event};

use self::chunk_queue::ChunkQueue;
use self::load::{LoadError, accept};
use self::progress::LoadProgress;
use self::save_job::SaveJob;
use crate::clock;
use crate::gate::{Gate, Reasons};
use crate::replication::full_sync::{self, FullSync};
use crate::shared::Shared;

/// After a failed save, save points wait for so long before they start the next one.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// A save is in progress, so no other one can start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlreadySaving;

/// Why a save could not start or did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SaveError {
    /// Another one is in progress.
    AlreadySaving,
    /// It failed; the log says why.
    Failed,
}

/// What caused a save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// BGSAVE or a save point. If it fails, writes may be refused from then on.
    Background,
    /// SAVE, whose client gets an error if it fails.
    Save,
    /// FLUSHALL, SHUTDOWN or DEBUG RELOAD. INFO does not count it.
    Implied,
    /// The base of the append-only file.
    Rewrite,
    /// Replicas that need all data.
    Replicas,
}

/// What was saved, and the save in progress.
pub struct Persistence {
    state: Mutex<State>,
    /// The state has changed: a job was added or has ended.
    changed: Condvar,
    /// True while a save is in progress.
    is_saving: AtomicBool,
    /// How often all databases had been emptied when that was last saved, or found to need no save.
    flushes_done: AtomicU64,
    /// The checksums of files are not verified, for tests.
    pub skips_checksum: AtomicBool,
}

/// What INFO shows of saves.
#[derive(Clone)]
pub struct Status {
    /// When the last save succeeded, or when the server started; in seconds since the epoch.
    pub last_success_s: i64,
    /// How long the last save in the background took.
    pub last_took: Option<Duration>,
    /// False if the last save failed in the background, and none has succeeded since.
    pub is_last_ok: bool,
    /// How many saves have begun.
    pub saves: u64,
    /// Bytes that the last save kept at most of entries that were changed meanwhile.
    pub last_kept_bytes: usize,
    /// The number of changes that the last successful save has seen.
    pub saved_changes: u64,
    /// The save in progress.
    pub job: Option<Arc<SaveJob>>,
    /// When the last save in the background began.
    last_try: Option<Instant>,
    /// BGSAVE has asked for a save that has not begun yet.
    is_scheduled: bool,
}

type State = Status;

impl Default for Persistence {
    /// Nothing was saved yet.
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                last_success_s: clock::now_ms() / 1000,
                last_took: None,
                is_last_ok: true,
                saves: 0,
                last_kept_bytes: 0,
                saved_changes: 0,
                job: None,
                last_try: None,
                is_scheduled: false,
            }),
            changed: Condvar::new(),
            is_saving: AtomicBool::new(false),
            flushes_done: AtomicU64::new(0),
            skips_checksum: AtomicBool::new(false),
        }
    }
}

impl Persistence {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What INFO shows.
    pub fn status(&self) -> Status {
        self.state().clone()
    }

    /// True while a save is in progress.
    #[inline]
    pub fn is_saving(&self) -> bool {
        self.is_saving.load(Relaxed)
    }

    /// The save in progress.
    pub fn job(&self) -> Option<Arc<SaveJob>> {
        self.state().job.clone()
    }

    /// Starts a save of the data as it is now. The section holds all locks.
    ///
    /// # Errors
    /// Another save is in progress.
    pub fn start(
        &self,
        shared: &Shared,
        tx: &mut Tx<'_>,
        cause: Cause,
    ) -> Result<Arc<SaveJob>, AlreadySaving> {
        self.start_with(shared, tx, cause, None)
    }

    /// Starts a save for replicas. The section holds all locks.
    ///
    /// # Errors
    /// Another save is in progress.
    pub fn start_for_replicas(
        &self,
        shared: &Shared,
        tx: &mut Tx<'_>,
        sync: Arc<FullSync>,
    ) -> Result<Arc<SaveJob>, AlreadySaving> {
        self.start_with(shared, tx, Cause::Replicas, Some(sync))
    }

    fn start_with(
        &self,
        shared: &Shared,
        tx: &mut Tx<'_>,
        cause: Cause,
        sync: Option<Arc<FullSync>>,
    ) -> Result<Arc<SaveJob>, AlreadySaving> {
        // Before the state is locked: `apply` locks the two in this order.
        let config = shared.config();
        let mut state = self.state();
        // A stopping server gives saves up, and then no other one may begin.
        if state.job.is_some() || shared.stopping.load(Relaxed) {
            return Err(AlreadySaving);
        }
        let job = Arc::new(SaveJob::begin(shared, &config, tx, cause, sync));
        state.job = Some(job.clone());
        match cause {
            Cause::Background => {
                state.saves += 1;
                state.is_scheduled = false;
                state.last_try = Some(Instant::now());
            }
            Cause::Save => state.saves += 1,
            Cause::Implied | Cause::Rewrite | Cause::Replicas => {}
        }
        self.is_saving.store(true, Relaxed);
        drop(state);
        self.changed.notify_all();
        // They help.
        shared.threads.iter().for_each(crate::threads::Thread::wake);
        Ok(job)
    }

    /// Starts a save soon: when no other one is in progress.
    pub fn schedule(&self) {
        self.state().is_scheduled = true;
    }

    /// Gives up the save in progress, because the server stops without it.
    pub fn give_up(&self) {
        if let Some(job) = &self.state().job {
            job.give_up("the server stops");
        }
    }

    /// Makes INFO count saves from zero.
    pub fn reset_counters(&self) {
        self.state().saves = 0;
    }

    /// Waits for the next job; `None` when the process stops.
    pub(super) fn next_job(&self, stopping: &AtomicBool) -> Option<Arc<SaveJob>> {
        const RECHECK_INTERVAL: Duration = Duration::from_millis(100);
        let mut state = self.state();
        loop {
            if let Some(job) = &state.job {
                if stopping.load(Relaxed) {
                    // It began while the threads were told to stop, so nobody encodes it.
                    job.give_up("the server stops");
                }
                return Some(job.clone());
            }
            if stopping.load(Relaxed) {
                return None;
            }
            let waited = self.changed.wait_timeout(state, RECHECK_INTERVAL);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until this job has ended.
    pub(super) fn wait_for_end(&self, job: &Arc<SaveJob>) {
        let is_current = |state: &mut State| {
            let current = state.job.as_ref();
            current.is_some_and(|current| Arc::ptr_eq(current, job))
        };
        let waited = self.changed.wait_while(self.state(), is_current);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Notes that the job has ended, and how. Everything was visited.
    pub(super) fn end(&self, shared: &Shared, job: &SaveJob, is_ok: bool) {
        if !is_ok {
            job.remove_base();
        }
        let mut state = self.state();
        let is_counted = is_ok || !job.was_aborted();
        if let Some(base) = job.base()
            && is_counted
        {
            // Before the next rewrite can begin: its cut is not that of this base.
            shared
                .aof
                .end_rewrite(base, job.elapsed(), job.kept_bytes_max(), is_ok);
        }
        state.job = None;
        self.is_saving.store(false, Relaxed);
        if job.base().is_some() {
            drop(state);
            job.set_result(is_ok);
            self.changed.notify_all();
            return;
        }
        if let Some(sync) = &job.sync {
            full_sync::end_save(sync, job, is_ok);
        }
        state.last_kept_bytes = job.kept_bytes_max();
        if is_ok && job.has_file() {
            state.last_success_s = clock::now_ms() / 1000;
            state.saved_changes = job.changes();
            state.is_last_ok = true;
        }
        if job.cause() == Cause::Background {
            state.last_took = Some(job.elapsed());
            state.is_last_ok &= is_ok || job.was_aborted();
        }
        drop(state);
        if job.has_file() {
            // If the save after FLUSHALL fails, the changes stay unsaved, and save points start the next one.
            self.flushes_done.fetch_max(job.flushes(), Relaxed);
        }
        shared.apply_save_state();
        job.set_result(is_ok);
        self.changed.notify_all();
    }

    /// Refuses writes, or allows them again: depending on `stop-writes-on-bgsave-error`, `save` and the last save. The caller has locked
    /// the configuration.
    pub fn apply(&self, gate: &Gate, config: &Config) {
        let refuses = !self.state().is_last_ok
            && config.stop_writes_on_bgsave_error
            && !config.save.0.is_empty();
        match refuses {
            true => gate.close(Reasons::SAVING_FAILED),
            false => gate.open(Reasons::SAVING_FAILED),
        }
    }

    /// Changes that are not saved.
    pub fn unsaved_changes(&self, shared: &Shared) -> u64 {
        shared.changes().saturating_sub(self.state().saved_changes)
    }

    /// Saves, and returns when that is done.
    ///
    /// # Errors
    /// A shard is busy, or the save is refused or fails.
    pub fn save_and_wait(&self, shared: &Shared) -> Result<Result<(), SaveError>, Busy> {
        loop {
            let mut tx = shared.engine.lock_all(0, Now(clock::now_ms()))?;
            let started = self.start(shared, &mut tx, Cause::Save);
            drop(tx);
            match started {
                Ok(job) if job.wait() => return Ok(Ok(())),
                Ok(_) => return Ok(Err(SaveError::Failed)),
                Err(AlreadySaving) => {}
            }
            // Redis runs the SAVEs of several clients one after another, and SAVE beside a rewrite.
            match self.job() {
                Some(job) if matches!(job.cause(), Cause::Background | Cause::Replicas) => {
                    return Ok(Err(SaveError::AlreadySaving));
                }
                Some(job) => {
                    job.wait();
                }
                None if shared.stopping.load(Relaxed) => return Ok(Err(SaveError::Failed)),
                None => {}
            }
        }
    }

    /// After FLUSHALL: waits until the save that it causes has ended. The section of FLUSHALL is over, and its `changes` will be counted
    /// later.
    pub fn finish_flush(&self, shared: &Shared, changes: u64) {
        const RETRY_INTERVAL: Duration = Duration::from_millis(1);
        let flushes = shared.engine.flushes();
        while self.flushes_done.load(Relaxed) < flushes && !shared.stopping.load(Relaxed) {
            self.start_if_due(shared, &shared.config());
            match self.job() {
                Some(job) => {
                    let is_ok = job.wait() && job.cause() != Cause::Rewrite && job.has_file();
                    if is_ok && job.flushes() >= flushes {
                        self.state().saved_changes += changes;
                    }
                }
                // A shard is busy, or there is nothing to save.
                None if self.flushes_done.load(Relaxed) < flushes => {
                    std::thread::sleep(RETRY_INTERVAL);
                }
                None => {}
            }
        }
    }

    /// Saves, and returns when that is done; true if it succeeded. The section has all locks and keeps them.
    pub fn save_within(&self, shared: &Shared, tx: &mut Tx<'_>, cause: Cause) -> bool {
        self.finish_save(tx);
        let started = self.start(shared, tx, cause);
        started.is_ok_and(|job| job.help_until_ended(tx))
    }

    /// Waits for the save in progress, if there is one. The section has all locks, so no other one begins.
    pub fn finish_save(&self, tx: &mut Tx<'_>) {
        if let Some(job) = self.job() {
            job.help_until_ended(tx);
        }
    }

    /// Starts the save that a save point, BGSAVE in a transaction or FLUSHALL has made due, if any. One thread calls this now and then.
    pub fn start_if_due(&self, shared: &Shared, config: &Config) {
        if shared.gate.is_loading() {
            // What is loaded so far must not replace the file.
            return;
        }
        let Some((cause, why)) = self.due(shared, config) else {
            return;
        };
        // If a shard is busy, it is still due at the next call.
        if let Ok(mut tx) = shared.engine.lock_all(0, Now(clock::now_ms()))
            && self.start(shared, &mut tx, cause).is_ok()
        {
            drop(tx);
            log::info!("{why}. Background saving started");
        }
    }

    /// Which save is due now, and why.
    fn due(&self, shared: &Shared, config: &Config) -> Option<(Cause, String)> {
        let state = self.state();
        let flushes = shared.engine.flushes();
        let was_flushed = self.flushes_done.load(Relaxed) < flushes;
        if let Some(job) = &state.job {
            let is_spared = matches!(job.cause(), Cause::Rewrite | Cause::Replicas);
            if was_flushed && job.flushes() < flushes && !is_spared {
                job.abort("all keys were deleted meanwhile");
            }
            return None;
        }
        if was_flushed {
            if !config.save.0.is_empty() {
                return Some((Cause::Implied, String::from("All keys were deleted")));
            }
            self.flushes_done.fetch_max(flushes, Relaxed);
        }
        let last_try = state.last_try.map(|tried| tried.elapsed());
        if !state.is_last_ok && last_try.is_some_and(|elapsed| elapsed <= RETRY_AFTER) {
            return None;
        }
        if state.is_scheduled {
            return Some((Cause::Background, String::from("A save was scheduled")));
        }
        let passed_s = (clock::now_ms() / 1000).saturating_sub(state.last_success_s);
        let changes = shared.changes().saturating_sub(state.saved_changes);
        let is_due = |point: &&damselfly_config::SavePoint| {
            changes >= point.changes && passed_s.max(0).unsigned_abs() > point.after_s
        };
        let point = config.save.0.iter().find(is_due)?;
        let (changes, after_s) = (point.changes, point.after_s);
        let why = format!("{changes} changes in {after_s} seconds. Saving...");
        Some((Cause::Background, why))
    }

    /// Forgets unsaved changes, because the data is what a file has.
    pub fn note_loaded(&self, shared: &Shared) {
        self.state().saved_changes = shared.changes();
    }
}

/// Loading, as all threads see it.
#[derive(Default)]
#[expect(missing_debug_implementations, reason = "an engine has none")]
pub struct Loading {
    /// How far it is.
    pub progress: LoadProgress,
    pub(crate) queue: ChunkQueue,
    /// Where entries go, if not to the data that clients use.
    target: Mutex<Option<Arc<Engine>>>,
    /// Batches to use again, while a file is being loaded.
    batches: Mutex<Vec<LoadBatch>>,
}

impl Loading {
    /// Decodes and stores one chunk, if there is one; false if there is none. Only the server's thread of this number may call this.
    pub fn run_one(&self, engine: &Engine, (thread, threads): (usize, usize)) -> bool {
        let target = self.target().clone();
        let engine = target.as_deref().unwrap_or(engine);
        let first_shard = thread * engine.shards() / threads;
        self.queue
            .run_one(thread, |chunk| self.store(engine, chunk, first_shard))
    }

    fn store(
        &self,
        engine: &Engine,
        chunk: Chunk,
        first_shard: usize,
    ) -> Result<Vec<u8>, LoadError> {
        let (now, db) = (self.progress.now(), chunk.database());
        let mut batch = self.batches().pop().unwrap_or_default();
        let mut counts = (0, 0);
        let buffer = chunk.decode(&engine.settings.thresholds, |offset, event| {
            if let Event::Entry(loaded) = event {
                let access = engine.loaded_access(now, loaded.idle_seconds, loaded.frequency);
                match accept(loaded, self.progress.expiry_time()) {
                    Ok(entry) => {
                        entry.view().set_access(access);
                        batch.push(entry, offset);
                        counts.0 += 1;
                    }
                    Err(expired) => {
                        self.progress
                            .note_expired(db as usize, expired.view().key());
                        counts.1 += 1;
                    }
                }
            }
            Ok::<(), LoadError>(())
        })?;
        self.store_batch(engine, &mut batch, db, first_shard)?;
        self.progress.add_keys(counts.0, counts.1);
        self.batches().push(batch);
        Ok(buffer)
    }

    fn target(&self) -> MutexGuard<'_, Option<Arc<Engine>>> {
        self.target.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets where entries go from now on; `None` for the data that clients use.
    pub fn set_target(&self, target: Option<Arc<Engine>>) {
        *self.target() = target;
    }

    fn batches(&self) -> MutexGuard<'_, Vec<LoadBatch>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees the memory that only loading needs.
    fn end(&self) {
        *self.batches() = Vec::new();
    }

    fn store_batch(
        &self,
        engine: &Engine,
        batch: &mut LoadBatch,
        db: u64,
        first_shard: usize,
    ) -> Result<(), LoadError> {
        let now = self.progress.expiry_time();
        let wait = || {
            std::thread::yield_now();
            !self.queue.is_abandoned()
        };
        engine
            .load(batch, db as usize, now, first_shard, wait)
            .map_err(|duplicate| LoadError::duplicate(&duplicate, db))
    }
}
