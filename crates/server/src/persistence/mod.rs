//! Persistence: the data in files.
//!
//! ```text
//!  BGSAVE, SAVE, a save point, a shutdown
//!      └─► start: the cut, under all locks ─► SaveJob ◄── threads that serve clients copy entries, a few at a time (`saver.rs`)
//!                                               │ a few MiB at most
//!                                               └────► threads of low priority encode them and write the file (`save_file.rs`)
//! ```
//!
//! | file | contents |
//! |---|---|
//! | `mod.rs` | what was saved when, which save runs, and when the next one is due |
//! | `save_job.rs` | one save: the queue between the threads that copy and those that encode |
//! | `save_file.rs` | the threads that encode: temporary file, checksum, fsync, rename |
//! | `saver.rs` | how much time a thread spends on copying |
//! | `shutdown.rs` | saving at the end |
//! | `commands.rs` | SAVE, BGSAVE, LASTSAVE |

pub mod commands;
pub mod save_file;
pub mod save_job;
pub mod saver;
pub mod shutdown;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use damselfly_config::Config;
use damselfly_engine::{Busy, Now, Tx};

use crate::clock;
use crate::shared::Shared;
use save_job::SaveJob;

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

/// What was saved, and the save in progress.
pub struct Persistence {
    state: Mutex<State>,
    /// The state has changed: a job was added or has ended.
    changed: Condvar,
    /// True while a save is in progress.
    is_saving: AtomicBool,
    /// Writes are refused, because the last save failed and `stop-writes-on-bgsave-error` is set.
    refuses_writes: AtomicBool,
}

/// What INFO shows of saves.
#[derive(Clone)]
pub struct Status {
    /// When the last save succeeded, or when the server started; in seconds since the epoch.
    pub last_success_s: i64,
    /// How long the last save took.
    pub last_took: Option<Duration>,
    /// False if the last save failed.
    pub is_last_ok: bool,
    /// How many saves have succeeded.
    pub saves: u64,
    /// Bytes that the last save kept at most of entries that were changed meanwhile.
    pub last_kept_bytes: usize,
    /// The number of changes that the last successful save has seen.
    pub saved_changes: u64,
    /// The save in progress.
    pub job: Option<Arc<SaveJob>>,
    last_try: Option<Instant>,
    /// Another save is to start soon.
    is_scheduled: bool,
    /// How often all databases had been emptied when that was last noticed.
    flushes_seen: u64,
}

type State = Status;

impl Persistence {
    /// Nothing was saved yet.
    pub fn new() -> Self {
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
                flushes_seen: 0,
            }),
            changed: Condvar::new(),
            is_saving: AtomicBool::new(false),
            refuses_writes: AtomicBool::new(false),
        }
    }

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

    /// True if writes are refused because the last save failed.
    #[inline]
    pub fn refuses_writes(&self) -> bool {
        self.refuses_writes.load(Relaxed)
    }

    /// Starts a save of the data as it is now. The section holds all locks.
    ///
    /// # Errors
    /// Another save is in progress.
    pub fn start(&self, shared: &Shared, tx: &mut Tx<'_>) -> Result<Arc<SaveJob>, AlreadySaving> {
        let mut state = self.state();
        if state.job.is_some() {
            return Err(AlreadySaving);
        }
        let job = Arc::new(SaveJob::begin(shared, tx));
        state.job = Some(job.clone());
        state.is_scheduled = false;
        state.last_try = Some(Instant::now());
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

    /// Waits for the next job; `None` when the process stops.
    pub(super) fn next_job(&self, stopping: &AtomicBool) -> Option<Arc<SaveJob>> {
        const RECHECK_INTERVAL: Duration = Duration::from_millis(100);
        let mut state = self.state();
        loop {
            if let Some(job) = &state.job {
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
        let mut state = self.state();
        state.job = None;
        self.is_saving.store(false, Relaxed);
        state.last_kept_bytes = job.kept_bytes_max();
        if is_ok {
            state.last_success_s = clock::now_ms() / 1000;
            state.saved_changes = job.changes();
            state.saves += 1;
        }
        if is_ok || !job.was_aborted() {
            state.is_last_ok = is_ok;
            state.last_took = Some(job.elapsed());
        }
        drop(state);
        self.apply(&shared.config());
        job.set_result(is_ok);
        self.changed.notify_all();
    }

    /// Applies `stop-writes-on-bgsave-error` and `save` to the state of the last save.
    pub fn apply(&self, config: &Config) {
        let refuses = !self.state().is_last_ok
            && config.stop_writes_on_bgsave_error
            && !config.save.0.is_empty();
        self.refuses_writes.store(refuses, Relaxed);
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
        let mut tx = shared.engine.lock_all(0, Now(clock::now_ms()))?;
        let started = self.start(shared, &mut tx);
        drop(tx);
        Ok(match started {
            Err(AlreadySaving) => Err(SaveError::AlreadySaving),
            Ok(job) if job.wait() => Ok(()),
            Ok(_) => Err(SaveError::Failed),
        })
    }

    /// Starts the save that a save point, BGSAVE SCHEDULE or FLUSHALL has made due, if any. One thread calls this now and then.
    pub fn start_if_due(&self, shared: &Shared, config: &Config) {
        let Some(why) = self.due(shared, config) else {
            return;
        };
        // If a shard is busy, it is still due at the next call.
        if let Ok(mut tx) = shared.engine.lock_all(0, Now(clock::now_ms()))
            && self.start(shared, &mut tx).is_ok()
        {
            drop(tx);
            log::info!("{why}. Background saving started");
        }
    }

    /// Why a save is due now.
    fn due(&self, shared: &Shared, config: &Config) -> Option<String> {
        let mut state = self.state();
        let flushes = shared.engine.flushes();
        if flushes != state.flushes_seen {
            state.flushes_seen = flushes;
            if !config.save.0.is_empty() {
                state.is_scheduled = true;
                if let Some(job) = &state.job {
                    job.abort("all keys were deleted meanwhile");
                }
            }
        }
        if state.job.is_some() {
            return None;
        }
        if state.is_scheduled {
            return Some(String::from("A save was scheduled"));
        }
        let may_try = state.is_last_ok
            || state
                .last_try
                .is_none_or(|tried| tried.elapsed() > RETRY_AFTER);
        if !may_try {
            return None;
        }
        let passed_s = (clock::now_ms() / 1000).saturating_sub(state.last_success_s);
        let changes = shared.changes().saturating_sub(state.saved_changes);
        let is_due = |point: &&damselfly_config::SavePoint| {
            changes >= point.changes && passed_s.max(0).unsigned_abs() > point.after_s
        };
        let point = config.save.0.iter().find(is_due)?;
        Some(format!(
            "{} changes in {} seconds. Saving...",
            point.changes, point.after_s
        ))
    }

    /// Forgets unsaved changes, because the data is what a file has.
    pub fn note_loaded(&self, shared: &Shared) {
        self.state().saved_changes = shared.changes();
    }
}
