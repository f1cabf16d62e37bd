//! The append-only file: every change on disk, as commands.
//!
//! ```text
//! log thread ─► Intake: queue of bytes ─► this thread: write, fsync ─► `durable` ─► replies that wait, WAITAOF
//!                        │ marks where a rewrite has its cut
//! a rewrite: SaveJob writes the next base in the background, while the next increment grows from its cut on
//! ```
//!
//! | file | contents |
//! |---|---|
//! | `mod.rs` | state, turning on and off, rewrites |
//! | `base_commands.rs` | a base as commands |
//! | `intake.rs` | takes the changes from the log |
//! | `writer.rs` | the thread that writes, and what it does about errors |
//! | `files.rs`, `manifest.rs`, `storage.rs` | the files, without the server |
//! | `reader.rs`, `load.rs`, `check.rs` | reading them again |
//! | `commands.rs` | BGREWRITEAOF, WAITAOF |

mod base_commands;
pub mod check;
pub mod commands;
pub mod files;
mod intake;
pub mod load;
mod load_scripts;
pub mod manifest;
pub mod reader;
pub mod storage;
mod writer;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use damselfly_config::{AppendFsync, Config};
use damselfly_engine::{Now, Tx};
use damselfly_log::{Batch, Targets};

pub(super) use self::base_commands::write_entry;
use self::intake::Intake;
use self::manifest::FileEntry;
use self::storage::{Folder, Storage};
pub use self::writer::run;
use super::{AlreadySaving, Cause};
use crate::clock;
use crate::shared::Shared;
use crate::threads::Thread;

/// After a failed rewrite, the next automatic one waits at least this long, and longer after each further failure.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// The same while only a new base makes the files complete.
const URGENT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The folder of the append-only files.
pub fn folder(config: &Config) -> PathBuf {
    Path::new(&config.dir).join(&config.appenddirname)
}

/// Work for the thread that writes, in order.
enum Item {
    /// Changes, up to this record.
    Bytes { bytes: Vec<u8>, end: u64 },
    /// The cut of a rewrite: the next increment begins.
    Cut,
    /// A complete base, whose increments begin with the last cut.
    NewBase(FileEntry),
    /// A complete base that will not be used.
    UselessBase(FileEntry),
    /// The append-only file begins, in this era, and needs a base before it counts.
    BeginAnew(u64),
    /// It continues the files that are there, in this era.
    Continue(u64),
    /// It ends, and this era begins.
    Close(u64),
}

#[derive(Default)]
struct Queue {
    /// How often the append-only file was turned on or off. What the thread that writes still does for an earlier era says nothing about
    /// this one.
    era: u64,
    items: VecDeque<Item>,
    /// Bytes of changes in `items`, or that are being written.
    bytes: usize,
    /// The record at which the rewrite in progress has its cut, until that is queued.
    cut: Option<u64>,
    /// A base that is complete before its cut is queued.
    early_base: Option<FileEntry>,
    /// The record behind the last one that was taken from the log.
    taken: u64,
    /// The next bytes begin a file, which has to select its database.
    begins_file: bool,
    /// The server stops.
    is_ending: bool,
}

/// Whether the append-only file is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// No.
    Off,
    /// It has no base yet.
    Starting,
    /// It has everything.
    On,
}

/// What INFO shows.
#[derive(Clone, Debug)]
pub struct Status {
    /// Why the last write failed.
    pub write_error: Option<String>,
    /// How long the last rewrite took.
    pub last_rewrite: Option<Duration>,
    /// False if the last rewrite failed.
    pub is_last_rewrite_ok: bool,
    /// How many rewrites have begun.
    pub rewrites: u64,
    /// Failed rewrites since the last one that succeeded.
    pub failures: u32,
    /// A rewrite shall begin as soon as possible.
    pub is_scheduled: bool,
    /// The most that the last rewrite kept of changed entries.
    pub last_kept_bytes: usize,
    /// When the last rewrite failed.
    failed_at: Option<Instant>,
}

/// The state of the append-only file.
pub struct Aof {
    /// Used instead of the folder that the options name.
    storage: OnceLock<Arc<dyn Storage>>,
    queue: Mutex<Queue>,
    changed: Condvar,
    status: Mutex<Status>,
    mode: AtomicU8,
    /// All records below this number are on disk.
    durable: AtomicU64,
    /// Replies wait until their records are on disk.
    holds_replies: AtomicBool,
    /// The time is written, too: `aof-timestamp-enabled`.
    writes_times: AtomicBool,
    /// How many clients wait in WAITAOF or for their replies.
    waiting: AtomicU64,
    /// How many threads hold replies back, so that the disk should not wait for the next second.
    holding: AtomicU64,
    /// The thread that writes sleeps though changes are not on disk, and looks again when so many clients wait; else `u64::MAX`.
    wake_at: AtomicU64,
    /// Bytes of all files, and after the last rewrite.
    bytes: AtomicU64,
    rewritten_bytes: AtomicU64,
    /// The number of the base that is written next.
    next_base: AtomicU64,
    /// An fsync has failed, so only a new base makes the files certain to be complete.
    needs_base: AtomicBool,
    /// How long the thread that writes sleeps before it does, for tests: DEBUG AOF-FLUSH-SLEEP, in microseconds.
    pub flush_sleep_us: AtomicU64,
    /// How many times the disk was too slow for `everysec`.
    pub delayed_syncs: AtomicU64,
    /// A base is complete that is not in the manifest yet.
    pub is_replacing: AtomicBool,
}

impl Default for Aof {
    fn default() -> Self {
        Self {
            storage: OnceLock::new(),
            queue: Mutex::default(),
            changed: Condvar::new(),
            status: Mutex::new(Status {
                write_error: None,
                last_rewrite: None,
                is_last_rewrite_ok: true,
                rewrites: 0,
                failures: 0,
                is_scheduled: false,
                last_kept_bytes: 0,
                failed_at: None,
            }),
            mode: AtomicU8::new(0),
            durable: AtomicU64::new(0),
            holds_replies: AtomicBool::new(false),
            writes_times: AtomicBool::new(false),
            waiting: AtomicU64::new(0),
            holding: AtomicU64::new(0),
            wake_at: AtomicU64::new(u64::MAX),
            bytes: AtomicU64::new(0),
            rewritten_bytes: AtomicU64::new(0),
            next_base: AtomicU64::new(1),
            needs_base: AtomicBool::new(false),
            flush_sleep_us: AtomicU64::new(0),
            delayed_syncs: AtomicU64::new(0),
            is_replacing: AtomicBool::new(false),
        }
    }
}

impl Aof {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status_slot(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the server write to this storage, for tests. It is called before anything is loaded.
    pub fn use_storage(&self, storage: Arc<dyn Storage>) {
        assert!(self.storage.set(storage).is_ok(), "the storage is set once");
    }

    /// Where the files are.
    ///
    /// # Errors
    /// The folder can't be created.
    pub(super) fn storage(&self, config: &Config) -> io::Result<Arc<dyn Storage>> {
        match self.storage.get() {
            Some(storage) => Ok(storage.clone()),
            None => Ok(Arc::new(Folder::create(&folder(config))?)),
        }
    }

    /// Finds out whether commands can be appended, as [`storage::check_writable`].
    ///
    /// # Errors
    /// They can't.
    pub fn check_writable(&self, config: &Config, increment: Option<&str>) -> io::Result<()> {
        storage::check_writable(&*self.storage(config)?, increment)
    }

    /// What INFO shows.
    pub fn status(&self) -> Status {
        self.status_slot().clone()
    }

    /// Whether it is in use.
    pub fn mode(&self) -> Mode {
        match self.mode.load(Relaxed) {
            0 => Mode::Off,
            1 => Mode::Starting,
            _ => Mode::On,
        }
    }

    fn set_mode(&self, mode: Mode, config: &Config) {
        self.mode.store(mode as u8, Relaxed);
        self.apply(config);
    }

    /// Takes over the options.
    pub fn apply(&self, config: &Config) {
        let holds = config.appendfsync == AppendFsync::Always && self.mode() == Mode::On;
        self.holds_replies.store(holds, SeqCst);
        self.writes_times
            .store(config.aof_timestamp_enabled, Relaxed);
    }

    /// True if replies wait until their records are on disk.
    #[inline]
    pub fn holds_replies(&self) -> bool {
        self.holds_replies.load(Relaxed)
    }

    /// All records below this number are on disk.
    #[inline]
    pub fn durable(&self) -> u64 {
        self.durable.load(SeqCst)
    }

    /// True if all records below this number are on disk, in files that a restart would load.
    pub fn has(&self, record: u64) -> bool {
        self.mode() == Mode::On && self.durable() >= record
    }

    /// Counts clients of a thread that wait for the disk, so that it is woken.
    pub fn add_waiting(&self, thread: &Thread, more: i64) {
        thread.add_disk_waits(more);
        self.count_waiting(more);
    }

    /// Counts those whose replies a thread holds back until the disk has their changes.
    pub fn note_held(&self, thread: &Thread, before: usize, now: usize) {
        match (before, now) {
            (0, 1..) => self.add_holding(1),
            (1.., 0) => self.add_holding(-1),
            _ => {}
        }
        self.add_waiting(thread, now as i64 - before as i64);
    }

    /// Notes that a thread has released all its clients whose records are below this number.
    #[inline]
    pub fn note_released(&self, thread: &Thread, durable: u64) {
        if thread.note_released(durable) {
            self.wake_writer();
        }
    }

    fn add_holding(&self, more: i64) {
        self.holding.fetch_add(more as u64, SeqCst);
    }

    fn count_waiting(&self, more: i64) {
        self.waiting.fetch_add(more as u64, SeqCst);
        if more > 0 {
            self.wake_writer();
        }
    }

    /// Lets the thread that writes look again whether an fsync is due, if it sleeps. It must not look before and wait after this.
    fn wake_writer(&self) {
        if self.waiting.load(SeqCst) >= self.wake_at.load(SeqCst) {
            drop(self.queue());
            self.changed.notify_one();
        }
    }

    /// Waits until all records below this number are on disk; false if that fails.
    pub(super) fn wait_for(&self, record: u64) -> bool {
        const POLL_INTERVAL: Duration = Duration::from_millis(1);
        self.add_holding(1);
        self.count_waiting(1);
        while self.mode() != Mode::Off && self.durable() < record {
            if self.status_slot().write_error.is_some() {
                break;
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        self.add_holding(-1);
        self.count_waiting(-1);
        self.mode() == Mode::Off || self.durable() >= record
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Bytes of all files after the last rewrite.
    pub fn rewritten_bytes(&self) -> u64 {
        self.rewritten_bytes.load(Relaxed)
    }

    /// Bytes that wait to be written.
    pub fn queued_bytes(&self) -> usize {
        self.queue().bytes
    }

    /// The number of a new base. No two get the same one: a file that is still to be named by the manifest would be overwritten, and then
    /// deleted as the one that was replaced.
    pub(super) fn take_base_number(&self, config: &Config) -> u64 {
        let in_manifest =
            load::read_manifest(self, config).map_or(1, |manifest| manifest.next_base());
        self.next_base.fetch_max(in_manifest, Relaxed);
        self.next_base.fetch_add(1, Relaxed)
    }

    /// Makes the thread end when everything is on disk.
    pub fn end(&self) {
        self.queue().is_ending = true;
        self.changed.notify_one();
    }

    /// Asks for a rewrite as soon as possible.
    pub fn schedule(&self) {
        self.status_slot().is_scheduled = true;
    }

    /// Begins a rewrite. The section holds all locks.
    ///
    /// # Errors
    /// A save is in progress, or the last base waits for its cut, which the next one must not move.
    pub fn begin_rewrite(&self, shared: &Shared, tx: &mut Tx<'_>) -> Result<(), AlreadySaving> {
        if self.queue().early_base.is_some() {
            return Err(AlreadySaving);
        }
        shared.persistence.start(shared, tx, Cause::Rewrite)?;
        if self.mode() != Mode::Off {
            let mut queue = self.queue();
            queue.cut = Some(shared.engine.log.appended());
            queue.settle_cut();
        }
        let mut status = self.status_slot();
        status.rewrites += 1;
        status.is_scheduled = false;
        Ok(())
    }

    /// Notes that a rewrite has ended, and how.
    pub fn end_rewrite(&self, base: FileEntry, took: Duration, kept_bytes: usize, is_ok: bool) {
        let mut status = self.status_slot();
        status.last_rewrite = Some(took);
        status.is_last_rewrite_ok = is_ok;
        status.last_kept_bytes = kept_bytes;
        match is_ok {
            true => (status.failures, status.failed_at) = (0, None),
            false => {
                status.failures += 1;
                status.failed_at = Some(Instant::now());
            }
        }
        drop(status);
        if is_ok {
            self.is_replacing.store(true, Relaxed);
            // Until the writer says so again.
            self.needs_base.store(false, Relaxed);
            let mut queue = self.queue();
            match queue.cut {
                // Records before the cut are still to come.
                Some(_) => queue.early_base = Some(base),
                None => queue.items.push_back(Item::NewBase(base)),
            }
            drop(queue);
            self.changed.notify_one();
        }
    }

    /// Notes that the rewrite has failed after all, because the base that it made can't be used.
    fn note_useless_base(&self, base: &FileEntry, why: &str) {
        log::error!(
            "The rewrite of the append-only file has failed: its new base {} can't be used: {why}. The earlier files stay in use.",
            base.name
        );
        let mut status = self.status_slot();
        status.is_last_rewrite_ok = false;
        status.failures += 1;
        status.failed_at = Some(Instant::now());
    }

    /// Turns the append-only file on or off as the options say, and begins rewrites that are due. One thread calls this now and then.
    pub fn run_due(&self, shared: &Shared, config: &Config) {
        if shared.gate.is_loading() || shared.stopping.load(Relaxed) {
            return;
        }
        match (config.appendonly, self.mode()) {
            (true, Mode::Off) => {
                self.try_turn_on(shared, config);
            }
            (false, Mode::Starting | Mode::On) => {
                self.try_turn_off(shared, config);
            }
            (true, Mode::Starting | Mode::On) | (false, Mode::Off) => {
                if self.is_rewrite_due(config)
                    && !shared.persistence.is_saving()
                    && let Ok(mut tx) = shared.engine.lock_all(0, Now(clock::now_ms()))
                    && self.begin_rewrite(shared, &mut tx).is_ok()
                {
                    log::info!("Background append only file rewriting started");
                }
            }
        }
    }

    fn is_rewrite_due(&self, config: &Config) -> bool {
        let status = self.status();
        let pause = match self.needs_base.load(Relaxed) {
            // Meanwhile, writes are refused.
            true => URGENT_RETRY_AFTER,
            false => RETRY_AFTER * 2_u32.saturating_pow(status.failures.saturating_sub(1).min(10)),
        };
        if status
            .failed_at
            .is_some_and(|failed| failed.elapsed() < pause)
        {
            return false;
        }
        if self.is_replacing.load(Relaxed) {
            return false;
        }
        if status.is_scheduled || self.mode() == Mode::Starting || self.needs_base.load(Relaxed) {
            return true;
        }
        let percentage = u64::from(config.auto_aof_rewrite_percentage);
        let (bytes, base) = (self.bytes(), self.rewritten_bytes().max(1));
        self.mode() == Mode::On
            && percentage > 0
            && bytes > config.auto_aof_rewrite_min_bytes
            && bytes.saturating_sub(base).saturating_mul(100) / base >= percentage
    }

    /// Begins to follow the log, and to write a base. False if a shard is busy or a save is in progress.
    pub fn try_turn_on(&self, shared: &Shared, config: &Config) -> bool {
        let Ok(mut tx) = shared.engine.lock_all(0, Now(clock::now_ms())) else {
            return false;
        };
        self.turn_on_within(shared, config, &mut tx)
    }

    /// The same in a section that holds all locks.
    pub fn turn_on_within(&self, shared: &Shared, config: &Config, tx: &mut Tx<'_>) -> bool {
        if self.mode() != Mode::Off {
            return true;
        }
        if shared
            .persistence
            .start(shared, tx, Cause::Rewrite)
            .is_err()
        {
            return false;
        }
        self.status_slot().rewrites += 1;
        self.follow(shared, tx, Item::BeginAnew);
        self.set_mode(Mode::Starting, config);
        true
    }

    /// Begins to follow the log, and a new era.
    fn follow(&self, shared: &Shared, tx: &Tx<'_>, begin: impl FnOnce(u64) -> Item) {
        let mut queue = self.queue();
        queue.era += 1;
        let item = begin(queue.era);
        queue.items.push_back(item);
        drop(queue);
        self.changed.notify_one();
        let aof = shared.aof.clone();
        let cut = shared.log.attach(tx, Box::new(Intake { aof }));
        let mut queue = self.queue();
        (queue.cut, queue.early_base) = (None, None);
        (queue.taken, queue.begins_file) = (cut, true);
        drop(queue);
        self.is_replacing.store(false, Relaxed);
        // What was before is in the base.
        self.durable.store(cut, SeqCst);
    }

    /// Continues the files that were loaded. No client has changed anything yet.
    pub fn continue_after_load(&self, shared: &Shared, config: &Config, tx: &Tx<'_>) {
        self.follow(shared, tx, Item::Continue);
        self.set_mode(Mode::On, config);
    }

    /// Stops following the log. False if a shard is busy.
    pub fn try_turn_off(&self, shared: &Shared, config: &Config) -> bool {
        let Ok(tx) = shared.engine.lock_all(0, Now(clock::now_ms())) else {
            return false;
        };
        self.turn_off_within(shared, config, &tx);
        true
    }

    /// The same in a section that holds all locks. Does nothing if it is off.
    pub fn turn_off_within(&self, shared: &Shared, config: &Config, tx: &Tx<'_>) {
        if self.mode() == Mode::Off {
            return;
        }
        shared.log.detach(tx, Targets::FILE);
        if let Some(job) = shared.persistence.job()
            && job.cause() == Cause::Rewrite
        {
            job.abort("the append-only file was turned off");
        }
        let mut queue = self.queue();
        queue.era += 1;
        let useless = queue.early_base.take();
        queue.cut = None;
        let era = queue.era;
        queue.items.push_back(Item::Close(era));
        queue.items.extend(useless.map(Item::UselessBase));
        self.set_mode(Mode::Off, config);
        drop(queue);
        self.changed.notify_one();
    }
}

impl Queue {
    /// Queues the cut if all records before it are queued.
    fn settle_cut(&mut self) {
        if self.cut.is_some_and(|cut| self.taken >= cut) {
            self.cut = None;
            self.items.push_back(Item::Cut);
            self.begins_file = true;
            let base = self.early_base.take();
            self.items.extend(base.map(Item::NewBase));
        }
    }

    /// Queues the bytes of the records from `first` to `end`.
    fn add(&mut self, batch: &Batch, bytes: Vec<u8>, (first, end): (u64, u64)) {
        let bytes = match std::mem::replace(&mut self.begins_file, false) {
            false => bytes,
            true => [batch.beginning_at(first), bytes].concat(),
        };
        self.bytes += bytes.len();
        self.items.push_back(Item::Bytes { bytes, end });
        self.taken = end;
        self.settle_cut();
    }
}
