//! One save: the data of one moment, on its way to a file.
//!
//! ```text
//!  shards ── copied by the threads that serve clients, a few entries at a time ──► queue ── encoded by threads of their own ──► file
//! ```
//!
//! Whoever reads a shard holds its lock, so this has to be quick, and must not be interrupted by threads that the system prefers: it is left
//! to the threads that serve clients ([`SaveJob::copy_some`]). Encoding and compressing take several times longer, but need no lock; threads of low priority do it (`save_file.rs`). The order in the file does not matter.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use damselfly_base::heap;
use damselfly_config::{Config, MaxmemoryPolicy};
use damselfly_engine::{
    AccessPolicy, KeyspaceTotals, Seen, Snapshot, Tx, Visited, frequency, idle_seconds,
};
use damselfly_rdb::{Access, VERSION_WRITTEN};
use damselfly_script::Libraries;
use damselfly_value::{Entry, EntryRef};

use super::Cause;
use super::aof::manifest::FileEntry;
use super::aof::storage::remove_useless;
use super::save_costs::Costs;
use super::save_file::Output;
use super::save_memory::SaveMemory;
use super::save_options::FileOptions;
use crate::clock;
use crate::replication::History;
use crate::replication::full_sync::{Failed, FullSync, Transfer};
use crate::shared::Shared;

/// About how much is copied at a time, under one lock: some ten microseconds.
const SLICE_BYTES: usize = 32 << 10;

/// Copying pauses while so much waits to be encoded.
const QUEUED_BYTES_MAX: usize = 8 << 20;

/// A large collection in the queue counts as this many bytes, since it is shared with the database until it changes there.
const SHARED_BYTES: usize = 64 << 10;

/// Why a save fails if a thread panics.
pub(super) const PANICKED: &str = "a bug in Damselfly; please report this with the lines above";

/// How much is kept of entries that were changed before they were copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backlog {
    /// Little.
    Small,
    /// So much that the save should go faster.
    Much,
    /// So much that writes should wait.
    TooMuch,
}

/// What is kept is much if it exceeds one part in so many of the data, and this size.
const MUCH_SHARE: usize = 32;
const MUCH_BYTES_MIN: usize = 16 << 20;

/// The same for what is too much.
const TOO_MUCH_SHARE: usize = 16;
const TOO_MUCH_BYTES_MIN: usize = 64 << 20;

/// Entries of one database, to be encoded.
pub(super) struct Batch {
    pub(super) db: usize,
    pub(super) entries: Vec<Entry>,
    /// How many bytes it counts in the queue.
    bytes: usize,
    /// What it takes, without collections that are shared with the database.
    pub(super) memory: SaveMemory,
}

/// Batches between the threads that copy and those that encode.
#[derive(Default)]
struct Queue {
    batches: VecDeque<Batch>,
    bytes: usize,
    /// The file can be written.
    is_open: bool,
    /// No more batches will come.
    is_complete: bool,
    /// How many batches are being encoded.
    encoding: usize,
}

/// The result of [`SaveJob::copy_some`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copied {
    /// Some entries.
    Some,
    /// None: there is nothing to do at this moment.
    NoneNow,
}

/// A save in progress.
pub struct SaveJob {
    snapshot: Snapshot,
    pub(super) file: FileOptions,
    pub(super) output: Output,
    /// The lowest version that can express what was encoded so far.
    pub(super) version: AtomicU32,
    policy: AccessPolicy,
    saves_access: bool,
    /// Slows the save down, for tests: microseconds per key.
    key_delay_us: u64,
    /// When the next entry may be copied, if the save is slowed down: microseconds since it began.
    delayed_until_us: AtomicU64,
    /// Of each database that has keys, with its number.
    pub(super) totals: Vec<(usize, KeyspaceTotals)>,
    pub(super) libraries: Arc<Libraries>,
    /// The replicas that it is for.
    pub(super) sync: Option<Arc<FullSync>>,
    /// The replication stream that has led to this data, if that is known, and the database that is selected in it.
    pub(super) history: Option<(History, usize)>,
    cause: Cause,
    /// The number of changes before the cut.
    changes: u64,
    /// How often all databases had been emptied before the cut.
    flushes: u64,
    started: Instant,
    pub(super) started_ms: i64,
    pub(super) used_bytes: usize,
    keys: AtomicU64,
    pub(super) costs: Costs,
    kept_bytes_max: AtomicUsize,
    /// Threads within [`SaveJob::copy_some`].
    active: AtomicUsize,
    queue: Mutex<Queue>,
    queue_changed: Condvar,
    /// Why it fails.
    failure: Mutex<Option<String>>,
    has_failed: AtomicBool,
    was_aborted: AtomicBool,
    /// The file is complete and has its name.
    pub(super) is_in_place: AtomicBool,
    result: Mutex<Option<bool>>,
    ended: Condvar,
    /// What it takes itself, with the marks of the snapshot.
    memory: SaveMemory,
}

impl SaveJob {
    /// Takes the cut. The section holds all locks.
    pub(super) fn begin(
        shared: &Shared,
        config: &Config,
        tx: &mut Tx<'_>,
        cause: Cause,
        sync: Option<Arc<FullSync>>,
    ) -> Self {
        let bytes_before = heap::thread_bytes();
        let totals = (0..shared.engine.databases())
            .map(|db| (db, tx.totals(db)))
            .filter(|(_, totals)| totals.keys > 0)
            .collect();
        let mut job = Self {
            file: match cause {
                Cause::Rewrite => FileOptions::of_base(shared, config),
                Cause::Background | Cause::Save | Cause::Implied | Cause::Replicas => {
                    FileOptions::new(config)
                }
            },
            output: Output::default(),
            version: AtomicU32::new(VERSION_WRITTEN),
            policy: shared.engine.settings.access_policy(),
            saves_access: matches!(
                config.maxmemory_policy,
                MaxmemoryPolicy::AllkeysLru
                    | MaxmemoryPolicy::VolatileLru
                    | MaxmemoryPolicy::AllkeysLfu
                    | MaxmemoryPolicy::VolatileLfu
            ),
            key_delay_us: config.rdb_key_save_delay_us.max(0).unsigned_abs(),
            delayed_until_us: AtomicU64::new(0),
            totals,
            // Before the libraries, whose changes are counted after they are made, without locks.
            changes: shared.changes(),
            libraries: match sync.as_ref().is_some_and(|sync| sync.without_functions) {
                true => Arc::default(),
                false => shared.functions.libraries(),
            },
            history: shared.replication.history_at_cut(shared),
            sync,
            cause,
            flushes: shared.engine.flushes(),
            started: Instant::now(),
            started_ms: clock::now_ms(),
            used_bytes: heap::used_bytes(),
            keys: AtomicU64::new(0),
            costs: Costs::default(),
            kept_bytes_max: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            queue: Mutex::new(Queue {
                batches: VecDeque::with_capacity(QUEUED_BYTES_MAX / SLICE_BYTES),
                ..Queue::default()
            }),
            queue_changed: Condvar::new(),
            failure: Mutex::default(),
            has_failed: AtomicBool::new(false),
            was_aborted: AtomicBool::new(false),
            is_in_place: AtomicBool::new(false),
            result: Mutex::default(),
            ended: Condvar::new(),
            snapshot: tx.begin_snapshot(),
            memory: SaveMemory::default(),
        };
        let bytes = heap::thread_bytes() - bytes_before;
        job.memory.add(usize::try_from(bytes).unwrap_or(0));
        job
    }

    /// How many keys were copied.
    pub fn keys(&self) -> u64 {
        self.keys.load(Relaxed)
    }

    /// How many keys there were at the cut.
    pub fn keys_total(&self) -> u64 {
        let keys = self.totals.iter().map(|(_, totals)| totals.keys as u64);
        keys.sum()
    }

    /// Which part of the keys was encoded, in percent.
    pub fn percent(&self) -> f64 {
        match self.keys_total() {
            0 => 0.0,
            total => 100.0 * self.keys() as f64 / total as f64,
        }
    }

    /// The time since the cut.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Closes replicas that the save waits for; false if it does not go to replicas.
    pub(super) fn close_slowest_replicas(&self) -> bool {
        let transfer = self.transfer();
        transfer.is_some_and(|transfer| transfer.close_slowest())
    }

    /// The path of its file.
    pub fn path(&self) -> PathBuf {
        self.file.path()
    }

    /// False if its bytes go to replicas without a file.
    pub fn has_file(&self) -> bool {
        self.transfer().is_none()
    }

    /// The replicas that it is for, if it is for replicas.
    pub fn sync(&self) -> Option<&FullSync> {
        self.sync.as_deref()
    }

    /// Where its bytes go if they go to replicas without a file.
    pub(super) fn transfer(&self) -> Option<&Arc<Transfer>> {
        self.sync.as_ref()?.transfer.as_ref()
    }

    /// What caused it.
    pub fn cause(&self) -> Cause {
        self.cause
    }

    /// The base of the append-only file, if it is one.
    pub(super) fn base(&self) -> Option<FileEntry> {
        self.file.base.as_ref().map(|base| FileEntry {
            name: self.file.name.clone(),
            number: base.number,
        })
    }

    /// Removes a base that was complete and in place when the job failed. No manifest names it.
    pub(super) fn remove_base(&self) {
        if let Some(base) = self.file.base.as_ref().filter(|_| self.is_in_place())
            && let Ok(storage) = &base.storage
        {
            remove_useless(&**storage, &self.file.name);
        }
    }

    /// True if the file has commands instead of RDB: `aof-use-rdb-preamble no`.
    pub(super) fn writes_commands(&self) -> bool {
        self.file.base.as_ref().is_some_and(|base| !base.is_rdb)
    }

    /// How often all databases had been emptied before the cut.
    pub(super) fn flushes(&self) -> u64 {
        self.flushes
    }

    /// The number of changes before the cut.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Bytes that are kept now of entries that were changed before they were copied.
    pub fn kept_bytes(&self) -> usize {
        let kept = self.snapshot.kept_bytes();
        self.kept_bytes_max.fetch_max(kept, Relaxed);
        kept
    }

    /// How much is kept now.
    pub fn backlog(&self) -> Backlog {
        let (kept, data) = (self.kept_bytes(), heap::data_bytes());
        match kept {
            _ if kept > (data / TOO_MUCH_SHARE).max(TOO_MUCH_BYTES_MIN) => Backlog::TooMuch,
            _ if kept > (data / MUCH_SHARE).max(MUCH_BYTES_MIN) => Backlog::Much,
            _ => Backlog::Small,
        }
    }

    /// The most that was kept at any time.
    pub fn kept_bytes_max(&self) -> usize {
        self.kept_bytes_max.load(Relaxed)
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies some entries. `tx` has all locks or none.
    pub fn copy_some(&self, tx: &mut Tx<'_>) -> Copied {
        let _active = Active::enter(self);
        if self.has_failed.load(Relaxed) {
            // To remove the marks of entries.
            return copied(
                self.snapshot
                    .visit_some(tx, 64 * SLICE_BYTES, &mut |_, _| {}),
            );
        }
        if self.is_delayed() || self.queue().bytes > QUEUED_BYTES_MAX {
            return Copied::NoneNow;
        }
        let (mut batches, mut keys) = (Vec::<Batch>::new(), 0);
        let slice_bytes = if self.key_delay_us > 0 {
            1
        } else {
            SLICE_BYTES
        };
        let visited = self.snapshot.visit_some(tx, slice_bytes, &mut |db, seen| {
            keys += 1;
            add_entry(&mut batches, db, seen);
        });
        self.keys.fetch_add(keys, Relaxed);
        self.delay(keys);
        if !batches.is_empty() {
            let mut queue = self.queue();
            queue.bytes += batches.iter().map(|batch| batch.bytes).sum::<usize>();
            queue.batches.extend(batches);
            drop(queue);
            self.queue_changed.notify_one();
        }
        copied(visited)
    }

    fn is_delayed(&self) -> bool {
        self.key_delay_us > 0
            && (self.started.elapsed().as_micros() as u64) < self.delayed_until_us.load(Relaxed)
    }

    fn delay(&self, keys: u64) {
        if self.key_delay_us > 0 {
            let now_us = self.started.elapsed().as_micros() as u64;
            let until_us = now_us.saturating_add(keys.saturating_mul(self.key_delay_us));
            self.delayed_until_us.store(until_us, Relaxed);
        }
    }

    /// The file can be written.
    pub(super) fn open_queue(&self) {
        self.queue().is_open = true;
        self.queue_changed.notify_all();
    }

    /// Waits for the next batch; `None` after the last one. The caller has to call [`SaveJob::end_batch`] after it.
    pub(super) fn next_batch(&self) -> Option<Batch> {
        let mut queue = self.queue();
        loop {
            if queue.is_open
                && let Some(batch) = queue.batches.pop_front()
            {
                queue.bytes -= batch.bytes;
                queue.encoding += 1;
                return Some(batch);
            }
            if queue.is_complete && queue.batches.is_empty() {
                return None;
            }
            let waited = self.queue_changed.wait(queue);
            queue = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A batch is in the file, or will never be.
    pub(super) fn end_batch(&self) {
        self.queue().encoding -= 1;
        self.queue_changed.notify_all();
    }

    /// Waits until no batch is left and none is being encoded.
    pub(super) fn wait_for_batches(&self) {
        let is_busy = |queue: &mut Queue| {
            !queue.is_complete || !queue.batches.is_empty() || queue.encoding > 0
        };
        let waited = self.queue_changed.wait_while(self.queue(), is_busy);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Eviction data of an entry, if it is saved.
    pub(super) fn access(&self, entry: EntryRef<'_>) -> Access {
        if !self.saves_access {
            return Access::default();
        }
        let (access, now_ms) = (entry.access(), self.started_ms);
        match self.policy {
            AccessPolicy::Learned => Access::default(),
            AccessPolicy::Recency => Access {
                idle_seconds: Some(idle_seconds(access, now_ms).unsigned_abs()),
                frequency: None,
            },
            AccessPolicy::Frequency { .. } => Access {
                idle_seconds: None,
                frequency: Some(frequency(self.policy, access, now_ms) as u8),
            },
        }
    }

    /// Makes the save fail, for this reason. What is left of the data is still visited, but not written.
    pub(super) fn fail(&self, why: String) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(why);
        self.has_failed.store(true, Relaxed);
        if let Some(transfer) = self.transfer() {
            // Threads that encode may wait for replicas.
            transfer.end(Err(Failed));
        }
    }

    /// Gives the save up, for this reason. It does not count as a failed one.
    pub fn abort(&self, why: &str) {
        self.was_aborted.store(true, Relaxed);
        self.fail(why.to_owned());
    }

    /// Gives the save up for good: nobody needs to visit the rest of the data, because the process ends.
    pub(super) fn give_up(&self, why: &str) {
        self.abort(why);
        let mut queue = self.queue();
        queue.batches.clear();
        queue.bytes = 0;
        // Batches that are copied even later are taken out, too. Those that are being encoded still count.
        (queue.is_open, queue.is_complete) = (true, true);
        drop(queue);
        self.queue_changed.notify_all();
    }

    pub(super) fn was_aborted(&self) -> bool {
        self.was_aborted.load(Relaxed)
    }

    /// True once the file is complete and has its name.
    pub fn is_in_place(&self) -> bool {
        self.is_in_place.load(Relaxed)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Relaxed)
    }

    /// Why the save fails, if it does.
    pub(super) fn failure(&self) -> Option<String> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.clone()
    }

    pub(super) fn set_result(&self, is_ok: bool) {
        *self.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(is_ok);
        self.ended.notify_all();
    }

    /// Waits until the save has ended; true if it succeeded.
    pub fn wait(&self) -> bool {
        let result = self.result.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = self.ended.wait_while(result, |result| result.is_none());
        let result = ended.unwrap_or_else(PoisonError::into_inner);
        result.unwrap_or(false)
    }

    /// Copies whatever is left, and waits until the save has ended; true if it succeeded. `tx` has all locks or none.
    pub(super) fn help_until_ended(&self, tx: &mut Tx<'_>) -> bool {
        const RECHECK_INTERVAL: Duration = Duration::from_micros(200);
        while !self.snapshot.is_finished() {
            if self.copy_some(tx) == Copied::NoneNow {
                std::thread::sleep(RECHECK_INTERVAL);
            }
        }
        self.wait()
    }
}

fn copied(visited: Visited) -> Copied {
    match visited {
        Visited::Some => Copied::Some,
        Visited::NoneNow | Visited::All => Copied::NoneNow,
    }
}

fn add_entry(batches: &mut Vec<Batch>, db: usize, seen: Seen<'_>) {
    if batches.last().is_none_or(|batch| batch.db != db) {
        batches.push(Batch {
            db,
            entries: Vec::new(),
            bytes: 0,
            memory: SaveMemory::default(),
        });
    }
    let Some(batch) = batches.last_mut() else {
        return;
    };
    let (bytes, is_large) = (seen.view().allocated_bytes(), seen.view().is_large());
    batch.bytes += if is_large { SHARED_BYTES } else { bytes };
    // The list of entries grows by doubling.
    batch.memory.add(2 * size_of::<Entry>());
    if !is_large || matches!(seen, Seen::Saved(_)) {
        batch.memory.add(bytes);
    }
    batch.entries.push(seen.into_entry());
}

/// A thread that copies.
struct Active<'a>(&'a SaveJob);

impl<'a> Active<'a> {
    fn enter(job: &'a SaveJob) -> Self {
        job.active.fetch_add(1, SeqCst);
        Self(job)
    }
}

impl Drop for Active<'_> {
    /// Ends the queue after the last entry.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(String::from(PANICKED));
        }
        let is_last = self.0.active.fetch_sub(1, SeqCst) == 1;
        if is_last && self.0.snapshot.is_finished() {
            self.0.queue().is_complete = true;
            self.0.queue_changed.notify_all();
        }
    }
}
