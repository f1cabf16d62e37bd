//! One save: the data of one moment, on its way to a file.
//!
//! Any thread may encode a slice at any time ([`SaveJob::encode_slice`]): a few entries become a chunk of the file. One thread writes the
//! chunks as they come. Their order does not matter, since each begins with the number of its database.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{
    AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use damselfly_config::{Config, MaxmemoryPolicy};
use damselfly_engine::{
    AccessPolicy, KeyspaceTotals, Snapshot, Tx, Visited, frequency, idle_seconds,
};
use damselfly_rdb::{Access, Encoder, VERSION_WITH_FIELD_DEADLINES, VERSION_WRITTEN, WriteOptions};
use damselfly_script::Libraries;
use damselfly_value::{Entry, EntryRef};

use super::Cause;
use crate::clock;
use crate::shared::Shared;

/// About how much data one slice encodes: some ten microseconds.
const SLICE_BYTES: usize = 32 << 10;

/// Encoding pauses while so many bytes wait to be written.
const QUEUED_BYTES_MAX: usize = 8 << 20;

/// A larger value is not encoded under the lock of its shard, but by the thread that writes, which takes its time.
const ENCODED_BYTES_MAX: usize = 64 << 10;

/// Why a save fails if a thread panics.
pub(super) const PANICKED: &str = "a bug in Damselfly; please report this with the lines above";

/// A part of the file.
pub(super) enum Chunk {
    /// Encoded.
    Bytes(Vec<u8>),
    /// A large entry of this database, to be encoded.
    Entry(usize, Entry),
}

impl Chunk {
    fn bytes(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            // A large collection is shared with the database, until it changes there.
            Self::Entry(_, entry) if entry.view().is_large() => ENCODED_BYTES_MAX,
            Self::Entry(_, entry) => entry.view().allocated_bytes(),
        }
    }
}

/// Chunks between the threads that encode and the one that writes.
#[derive(Default)]
struct Queue {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    /// No more chunks will come.
    is_complete: bool,
}

/// The result of [`SaveJob::encode_slice`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoded {
    /// Some entries.
    Some,
    /// None: there is nothing to do at this moment.
    NoneNow,
}

/// What the options say about the file, when the save began.
pub(super) struct FileOptions {
    pub(super) path: PathBuf,
    pub(super) folder: PathBuf,
    pub(super) with_checksum: bool,
    pub(super) syncs_early: bool,
}

/// A save in progress.
pub struct SaveJob {
    snapshot: Snapshot,
    pub(super) file: FileOptions,
    compress: bool,
    /// The version of the file if an option fixes it.
    fixed_version: Option<u32>,
    /// The lowest version that can express what was encoded so far.
    version: AtomicU32,
    policy: AccessPolicy,
    saves_access: bool,
    /// Slows the save down, for tests: microseconds per key.
    key_delay_us: u64,
    /// When the next slice may begin, if the save is slowed down: microseconds since it began.
    delayed_until_us: AtomicU64,
    /// Of each database that has keys, by number.
    pub(super) totals: Vec<(usize, KeyspaceTotals)>,
    pub(super) libraries: Arc<Libraries>,
    cause: Cause,
    /// The number of changes before the cut.
    changes: u64,
    /// How often all databases had been emptied before the cut.
    flushes: u64,
    started: Instant,
    pub(super) started_ms: i64,
    pub(super) used_bytes: usize,
    keys: AtomicU64,
    kept_bytes_max: AtomicUsize,
    /// Threads within [`SaveJob::encode_slice`].
    active: AtomicUsize,
    queue: Mutex<Queue>,
    queue_changed: Condvar,
    /// Why it fails: what was encoded since is not written.
    failure: Mutex<Option<String>>,
    has_failed: AtomicBool,
    was_aborted: AtomicBool,
    result: Mutex<Option<bool>>,
    ended: Condvar,
}

/// Encoders for one thread.
#[derive(Default)]
pub struct Encoders {
    usual: Option<Encoder>,
    /// For hashes with expiration times of fields.
    newer: Option<Encoder>,
}

impl SaveJob {
    /// Takes the cut. The section holds all locks.
    pub(super) fn begin(shared: &Shared, config: &Config, tx: &mut Tx<'_>, cause: Cause) -> Self {
        let totals = (0..shared.engine.databases())
            .map(|db| (db, tx.totals(db)))
            .filter(|(_, totals)| totals.keys > 0)
            .collect();
        Self {
            file: FileOptions::new(config),
            compress: config.rdbcompression,
            fixed_version: config.rdb_save_version.number(),
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
            libraries: shared.functions.libraries(),
            cause,
            flushes: shared.engine.flushes(),
            started: Instant::now(),
            started_ms: clock::now_ms(),
            used_bytes: damselfly_base::heap::used_bytes(),
            keys: AtomicU64::new(0),
            kept_bytes_max: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            queue: Mutex::default(),
            queue_changed: Condvar::new(),
            failure: Mutex::default(),
            has_failed: AtomicBool::new(false),
            was_aborted: AtomicBool::new(false),
            result: Mutex::default(),
            ended: Condvar::new(),
            snapshot: tx.begin_snapshot(),
        }
    }

    /// How many keys were encoded.
    pub fn keys(&self) -> u64 {
        self.keys.load(Relaxed)
    }

    /// How many keys there were at the cut.
    pub fn keys_total(&self) -> u64 {
        self.totals
            .iter()
            .map(|(_, totals)| totals.keys as u64)
            .sum()
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

    pub(super) fn cause(&self) -> Cause {
        self.cause
    }

    /// How often all databases had been emptied before the cut.
    pub(super) fn flushes(&self) -> u64 {
        self.flushes
    }

    /// The number of changes before the cut.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }

    /// Bytes that are kept now of entries that were changed before they were encoded.
    pub fn kept_bytes(&self) -> usize {
        let kept = self.snapshot.kept_bytes();
        self.kept_bytes_max.fetch_max(kept, Relaxed);
        kept
    }

    /// The most that was kept at any time.
    pub fn kept_bytes_max(&self) -> usize {
        self.kept_bytes_max.load(Relaxed)
    }

    /// The version of the file.
    pub(super) fn version(&self) -> u32 {
        self.fixed_version.unwrap_or(self.version.load(Relaxed))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True while so much is waiting to be written that encoding pauses.
    pub fn is_queue_full(&self) -> bool {
        self.queue().bytes > QUEUED_BYTES_MAX
    }

    /// Encodes some entries. `tx` has all locks or none.
    pub fn encode_slice(&self, tx: &mut Tx<'_>, encoders: &mut Encoders) -> Encoded {
        let _active = Active::enter(self);
        if self.has_failed.load(Relaxed) {
            // To remove the marks of entries.
            return match self
                .snapshot
                .visit_some(tx, 64 * SLICE_BYTES, &mut |_, _| {})
            {
                Visited::Some => Encoded::Some,
                Visited::NoneNow | Visited::All => Encoded::NoneNow,
            };
        }
        if self.is_queue_full() || self.is_delayed() {
            return Encoded::NoneNow;
        }
        let (mut bytes, mut keys, mut large) = (Vec::new(), 0, Vec::new());
        let mut last_db = None;
        let slice_bytes = if self.key_delay_us > 0 {
            1
        } else {
            SLICE_BYTES
        };
        let visited = self.snapshot.visit_some(tx, slice_bytes, &mut |db, entry| {
            keys += 1;
            if entry.allocated_bytes() > ENCODED_BYTES_MAX {
                large.push(Chunk::Entry(db, entry.to_entry(entry.key())));
                return;
            }
            if bytes.capacity() == 0 {
                bytes.reserve(2 * SLICE_BYTES);
            }
            self.encode(db, entry, encoders, &mut last_db, &mut bytes);
        });
        self.keys.fetch_add(keys, Relaxed);
        self.delay(keys);
        if !bytes.is_empty() {
            large.push(Chunk::Bytes(bytes));
        }
        if !large.is_empty() {
            let mut queue = self.queue();
            queue.bytes += large.iter().map(Chunk::bytes).sum::<usize>();
            queue.chunks.extend(large);
            self.queue_changed.notify_one();
        }
        match visited {
            Visited::Some => Encoded::Some,
            Visited::NoneNow | Visited::All => Encoded::NoneNow,
        }
    }

    /// Encodes an entry as a whole.
    fn encode(
        &self,
        db: usize,
        entry: EntryRef<'_>,
        encoders: &mut Encoders,
        last_db: &mut Option<usize>,
        out: &mut Vec<u8>,
    ) {
        let mark = out.len();
        match self.begin_entry(db, entry, encoders, last_db, out) {
            Ok((mut writer, encoder)) => {
                while !writer.write(entry.value(), encoder, usize::MAX, out) {}
            }
            Err(error) => {
                out.truncate(mark);
                self.fail(error);
            }
        }
    }

    /// Writes all of an entry but its value, and returns what writes the value.
    pub(super) fn begin_entry<'e>(
        &self,
        db: usize,
        entry: EntryRef<'_>,
        encoders: &'e mut Encoders,
        last_db: &mut Option<usize>,
        out: &mut Vec<u8>,
    ) -> Result<(damselfly_rdb::ValueWriter, &'e mut Encoder), String> {
        let version = damselfly_rdb::version_needed(entry);
        let encoder = match self.fixed_version {
            Some(fixed) => encoders.usual(fixed, self.compress),
            None if version == VERSION_WITH_FIELD_DEADLINES => {
                self.version.fetch_max(version, Relaxed);
                encoders.newer(self.compress)
            }
            None => encoders.usual(VERSION_WRITTEN, self.compress),
        };
        if *last_db != Some(db) {
            encoder.select_db(db as u64, out);
            *last_db = Some(db);
        }
        let begun = encoder.begin_entry(entry, self.access(entry), out);
        let writer = begun.map_err(|error| {
            format!(
                "the key '{}' can't be written, since rdb-save-version is {}: {error}",
                String::from_utf8_lossy(entry.key()),
                self.version()
            )
        })?;
        Ok((writer, encoder))
    }

    fn access(&self, entry: EntryRef<'_>) -> Access {
        if !self.saves_access {
            return Access::default();
        }
        let (access, now_ms) = (entry.access(), self.started_ms);
        match self.policy {
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

    /// Waits for the next chunk; `None` after the last one.
    pub(super) fn next_chunk(&self) -> Option<Chunk> {
        let mut queue = self.queue();
        loop {
            if let Some(chunk) = queue.chunks.pop_front() {
                queue.bytes -= chunk.bytes();
                return Some(chunk);
            }
            if queue.is_complete {
                return None;
            }
            let waited = self.queue_changed.wait(queue);
            queue = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes the save fail, for this reason. What is left of the data is still visited, but not encoded.
    pub(super) fn fail(&self, why: String) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(why);
        self.has_failed.store(true, Relaxed);
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
        *queue = Queue {
            is_complete: true,
            ..Queue::default()
        };
        self.queue_changed.notify_all();
    }

    pub(super) fn was_aborted(&self) -> bool {
        self.was_aborted.load(Relaxed)
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
        ended
            .unwrap_or_else(PoisonError::into_inner)
            .unwrap_or(false)
    }

    /// Encodes whatever is left, and waits until the save has ended; true if it succeeded. `tx` has all locks or none.
    pub(super) fn help_until_ended(&self, tx: &mut Tx<'_>) -> bool {
        const RECHECK_INTERVAL: Duration = Duration::from_micros(200);
        let mut encoders = Encoders::default();
        while !self.snapshot.is_finished() {
            if self.encode_slice(tx, &mut encoders) == Encoded::NoneNow {
                std::thread::sleep(RECHECK_INTERVAL);
            }
        }
        self.wait()
    }
}

/// A thread that encodes a slice.
struct Active<'a>(&'a SaveJob);

impl<'a> Active<'a> {
    fn enter(job: &'a SaveJob) -> Self {
        job.active.fetch_add(1, SeqCst);
        Self(job)
    }
}

impl Drop for Active<'_> {
    /// Ends the queue after the last slice.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(String::from(PANICKED));
        }
        let is_last = self.0.active.fetch_sub(1, SeqCst) == 1;
        if is_last && self.0.snapshot.is_finished() {
            self.0.queue().is_complete = true;
            self.0.queue_changed.notify_one();
        }
    }
}

impl Encoders {
    fn usual(&mut self, version: u32, compress: bool) -> &mut Encoder {
        self.usual
            .get_or_insert_with(|| Encoder::new(WriteOptions { version, compress }))
    }

    fn newer(&mut self, compress: bool) -> &mut Encoder {
        let version = VERSION_WITH_FIELD_DEADLINES;
        self.newer
            .get_or_insert_with(|| Encoder::new(WriteOptions { version, compress }))
    }
}

impl FileOptions {
    fn new(config: &Config) -> Self {
        let folder = PathBuf::from(&config.dir);
        Self {
            path: folder.join(&config.dbfilename),
            folder,
            with_checksum: config.rdbchecksum,
            syncs_early: config.rdb_save_incremental_fsync,
        }
    }
}
