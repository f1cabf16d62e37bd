//! The thread that writes the append-only file.
//!
//! It takes what is queued, writes it, and forces it to the disk as `appendfsync` says: then all that was queued meanwhile shares the next
//! fsync. If a write fails, the server refuses writes (MISCONF) and the thread tries again until it succeeds; nothing is dropped. If an
//! fsync fails, it refuses them until there is a new base: see [`AofFiles::needs_base`].

use std::collections::VecDeque;
use std::io;
use std::sync::PoisonError;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use damselfly_config::{AppendFsync, Config};

use super::files::AofFiles;
use super::manifest::FileEntry;
use super::storage::remove_useless;
use super::{Aof, Item, Mode, folder};
use crate::gate::Reasons;
use crate::shared::Shared;
use crate::threads::Thread;

/// How often `everysec` forces changes to the disk.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// An fsync that takes longer than this makes `everysec` late.
const SLOW_SYNC: Duration = Duration::from_secs(1);

/// If the last fsync took at least this long, the next one waits for the clients that the last one has released: see [`Group`].
const SLOW_GROUP_SYNC: Duration = Duration::from_micros(500);

/// For at most one part in so many of that time.
const GATHER_SHARE: u32 = 4;

/// Logged when a rewrite has replaced the files.
const REWRITTEN: &str = "Background AOF rewrite finished successfully";

/// After an error, the next try.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Writes until the server stops and everything is on disk.
pub fn run(shared: &Shared) {
    let mut writer = Writer {
        shared,
        aof: &shared.aof,
        files: None,
        era: 0,
        end: 0,
        last_sync: Instant::now(),
        group: Group::default(),
        cut_increment: 0,
        was_doubtful: false,
        gave_up: false,
    };
    while let Some(items) = writer.next_items() {
        writer.work(items);
    }
    // What was written before something failed is worth keeping, too.
    writer.gave_up = false;
    writer.insist("close", |writer| writer.files_do(AofFiles::close));
}

/// The clients that share an fsync.
///
/// Without a pause, clients that wait for the disk form two groups which take turns: while an fsync works for one, the other one sends,
/// so each fsync serves half of them. After a short pause, the next fsync has them all. It ends as soon as they are there, and a client
/// that is alone waits for nobody.
#[derive(Default)]
struct Group {
    /// How many clients waited at the end of the last fsync, for it or for the next one.
    clients: u64,
    /// How long that fsync took, and the one before.
    took: [Duration; 2],
    /// More may come until then, before the next fsync.
    until: Option<Instant>,
    /// All clients are there, and wait for records below this number.
    complete_at: Option<u64>,
}

impl Group {
    /// An fsync has ended. So many clients wait, including those that it releases.
    fn note(&mut self, clients: u64, took: Duration) {
        (self.clients, self.took) = (clients, [took, self.took[0]]);
        self.forget_pause();
    }

    fn forget_pause(&mut self) {
        (self.until, self.complete_at) = (None, None);
    }

    /// When the next fsync begins, if so many clients wait for it. `appended` is the number of the next record, `written` that of the next
    /// one to be written.
    fn due(&mut self, waiting: u64, (appended, written): (u64, u64), now: Instant) -> Instant {
        // A fast disk is sometimes slow once.
        let took = self.took[0].min(self.took[1]);
        if self.clients <= 1 || took < SLOW_GROUP_SYNC {
            return now;
        }
        if waiting >= self.clients {
            // Their last records may still be on their way to the file.
            self.complete_at.get_or_insert(appended);
        }
        if self.complete_at.is_some_and(|record| written >= record) {
            return now;
        }
        *self.until.get_or_insert_with(|| now + took / GATHER_SHARE)
    }
}

struct Writer<'a> {
    shared: &'a Shared,
    aof: &'a Aof,
    files: Option<AofFiles>,
    /// The era of the files: [`super::Queue::era`].
    era: u64,
    /// The record behind the last one that was written.
    end: u64,
    last_sync: Instant,
    group: Group,
    /// The number of the increment that began with the last cut.
    cut_increment: u64,
    /// The files needed a new base when this was last checked.
    was_doubtful: bool,
    /// Something of this era could not be written, and is not tried again. What follows would make no sense without it.
    gave_up: bool,
}

impl Writer<'_> {
    /// Waits for work; `None` at the end.
    fn next_items(&mut self) -> Option<VecDeque<Item>> {
        loop {
            if self.shared.resident_memory.is_tight() {
                // Otherwise buffers that this thread has freed stay resident and cost keys.
                damselfly_base::heap::collect();
            }
            let config = self.shared.config();
            let mut queue = self.aof.queue();
            if !queue.items.is_empty() {
                return Some(std::mem::take(&mut queue.items));
            }
            if queue.is_ending {
                return None;
            }
            // Before it looks how many clients wait.
            self.aof.wake_at.store(self.wake_at(&config), SeqCst);
            let wait = match self.sync_due(&config) {
                None => SYNC_INTERVAL,
                Some(due) => due.saturating_duration_since(Instant::now()),
            };
            if !wait.is_zero() {
                let waited = self.aof.changed.wait_timeout(queue, wait);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
            }
            self.aof.wake_at.store(u64::MAX, SeqCst);
            if wait.is_zero() {
                return Some(VecDeque::new());
            }
        }
    }

    /// How many clients have to wait so that an fsync may be due at once.
    fn wake_at(&self, config: &Config) -> u64 {
        match config.appendfsync {
            _ if !self.is_unsynced() => u64::MAX,
            AppendFsync::Always => self.group.clients,
            AppendFsync::EverySecond | AppendFsync::Never => 1,
        }
    }

    fn work(&mut self, items: VecDeque<Item>) {
        let config = self.shared.config();
        let sleep_us = self.aof.flush_sleep_us.load(Relaxed);
        if sleep_us > 0 {
            std::thread::sleep(Duration::from_micros(sleep_us));
        }
        for item in items {
            self.work_on(item, &config);
        }
        let bytes = self.files.as_ref().map_or(0, AofFiles::bytes);
        self.aof.bytes.store(bytes, Relaxed);
        self.sync_if_due(&config);
        self.note_doubt();
    }

    fn work_on(&mut self, item: Item, config: &Config) {
        match item {
            Item::Bytes { bytes, end } => {
                let is_written = self.insist("write", |writer| {
                    writer.files_do(|files| files.append(&bytes))
                });
                let length = bytes.len();
                drop(bytes);
                self.aof.queue().bytes -= length;
                if is_written {
                    self.end = end;
                }
            }
            Item::Cut => {
                self.insist("begin", |writer| writer.files_do(AofFiles::begin_increment));
                self.cut_increment = self.last_increment();
            }
            Item::NewBase(base) => {
                self.replace_base(&base, config);
                self.aof.is_replacing.store(false, Relaxed);
            }
            Item::BeginAnew(era) => {
                (self.era, self.gave_up) = (era, false);
                self.insist("begin", |writer| writer.open(config, AofFiles::begin_anew));
                self.cut_increment = self.last_increment();
            }
            Item::Continue(era) => {
                (self.era, self.gave_up) = (era, false);
                self.insist("open", |writer| {
                    writer.open(config, AofFiles::continue_last)
                });
                let bytes = self.files.as_ref().map_or(0, AofFiles::bytes);
                self.aof.rewritten_bytes.store(bytes, Relaxed);
            }
            Item::UselessBase(base) => {
                if let Ok(storage) = self.aof.storage(config) {
                    remove_useless(&*storage, &base.name);
                }
            }
            Item::Close(era) => self.close(era),
        }
    }

    /// Ends the use of the files. Nobody needs them any more, so it does not matter whether that succeeds.
    fn close(&mut self, era: u64) {
        (self.era, self.gave_up) = (era, false);
        if let Err(error) = self.files_do(AofFiles::close) {
            log::warn!(
                "The append-only file was turned off. Its last changes are not in it: {error}"
            );
        }
        self.files = None;
        self.aof.is_replacing.store(false, Relaxed);
        if self.aof.status().write_error.is_some() {
            self.accept_writes();
        }
        let queue = self.aof.queue();
        if queue.era == era {
            // Nobody needs to wait for this file any more.
            self.aof.durable.store(u64::MAX, SeqCst);
        }
        drop(queue);
        self.shared.threads.iter().for_each(Thread::wake);
    }

    /// Refuses writes from a failed fsync until there is a new base.
    fn note_doubt(&mut self) {
        let needs_base = self.files.as_ref().is_some_and(AofFiles::needs_base);
        self.aof.needs_base.store(needs_base, Relaxed);
        if std::mem::replace(&mut self.was_doubtful, needs_base) && !needs_base {
            self.accept_writes();
        }
    }

    fn last_increment(&self) -> u64 {
        let files = self.files.as_ref();
        let last = files.and_then(|files| files.manifest().increments.last());
        last.map_or(0, |last| last.number)
    }

    fn files_do(&mut self, action: impl FnOnce(&mut AofFiles) -> io::Result<()>) -> io::Result<()> {
        self.files.as_mut().map_or(Ok(()), action)
    }

    fn open(
        &mut self,
        config: &Config,
        begin: impl FnOnce(&mut AofFiles) -> io::Result<()>,
    ) -> io::Result<()> {
        let storage = self.aof.storage(config)?;
        let mut files = AofFiles::open(storage, &config.appendfilename)?;
        begin(&mut files)?;
        self.files = Some(files);
        Ok(())
    }

    fn replace_base(&mut self, base: &FileEntry, config: &Config) {
        if self.files.is_none() {
            return self.replace_unused_base(base, config);
        }
        let first = self.cut_increment;
        if self.files.as_ref().is_some_and(|files| !files.has(base)) {
            // Trying again and again would not bring it back.
            return self.aof.note_useless_base(base, "somebody has removed it");
        }
        let is_replaced = self.insist("replace", |writer| {
            writer.files_do(|files| files.replace_base(base, first))
        });
        let Some(files) = self.files.as_ref().filter(|_| is_replaced) else {
            return;
        };
        self.aof.rewritten_bytes.store(files.bytes(), Relaxed);
        self.end_start(config);
        log::info!("{REWRITTEN}");
    }

    /// The same for BGREWRITEAOF while the append-only file is off.
    fn replace_unused_base(&mut self, base: &FileEntry, config: &Config) {
        let replaced = self.open(config, |files| files.replace_base(base, u64::MAX));
        let bytes = self.files.take().map_or(0, |files| files.bytes());
        match replaced {
            Ok(()) => {
                self.aof.rewritten_bytes.store(bytes, Relaxed);
                log::info!("{REWRITTEN}");
            }
            Err(error) => self.aof.note_useless_base(base, &without_code(&error)),
        }
    }

    /// Notes that a restart would load the files, if that is new.
    fn end_start(&mut self, config: &Config) {
        if self.aof.mode() != Mode::Starting {
            return;
        }
        self.sync();
        let queue = self.aof.queue();
        if queue.era == self.era {
            self.aof.set_mode(Mode::On, config);
            self.shared.threads.iter().for_each(Thread::wake);
        }
    }

    fn is_unsynced(&self) -> bool {
        self.files.as_ref().is_some_and(AofFiles::is_unsynced)
    }

    /// When what was written has to be forced to the disk; `None` if it does not have to be until something changes.
    fn sync_due(&mut self, config: &Config) -> Option<Instant> {
        if !self.is_unsynced() {
            return None;
        }
        let is_wanted = match config.appendfsync {
            AppendFsync::Always => true,
            AppendFsync::EverySecond => false,
            AppendFsync::Never => self.aof.waiting.load(SeqCst) > 0,
        } || self.aof.holding.load(SeqCst) > 0;
        if is_wanted {
            let waiting = self.waiting_again();
            let records = (self.shared.engine.log.appended(), self.end);
            return Some(self.group.due(waiting, records, Instant::now()));
        }
        self.group.forget_pause();
        let is_busy = config.no_appendfsync_on_rewrite && self.shared.persistence.is_saving();
        let is_periodic = config.appendfsync == AppendFsync::EverySecond && !is_busy;
        is_periodic.then(|| self.last_sync + SYNC_INTERVAL)
    }

    /// How many clients wait for the next fsync; 0 as long as a thread still has to release those that waited for the last one.
    fn waiting_again(&self) -> u64 {
        let durable = self.aof.durable();
        let threads = &self.shared.threads;
        match threads.iter().all(|thread| thread.has_released(durable)) {
            true => self.aof.waiting.load(SeqCst),
            false => 0,
        }
    }

    fn sync_if_due(&mut self, config: &Config) {
        if !self.is_unsynced() {
            self.note_durable();
        } else if self
            .sync_due(config)
            .is_some_and(|due| due <= Instant::now())
        {
            self.sync();
        }
    }

    fn sync(&mut self) {
        let started = Instant::now();
        let synced = self.files_do(AofFiles::sync);
        self.last_sync = Instant::now();
        let waiting = self.aof.waiting.load(SeqCst);
        self.group.note(waiting, self.last_sync - started);
        if let Err(error) = synced {
            self.refuse_writes(&error, "fsync");
            return;
        }
        let took = self.last_sync - started;
        if took > SLOW_SYNC {
            self.aof.delayed_syncs.fetch_add(1, Relaxed);
            log::warn!(
                "Asynchronous AOF fsync is taking too long (disk is busy?): {:.1} seconds. Up to so much more can be lost in a crash.",
                took.as_secs_f64()
            );
        }
        self.note_durable();
    }

    fn note_durable(&self) {
        let needs_base = self.files.as_ref().is_some_and(AofFiles::needs_base);
        if needs_base || self.aof.durable() >= self.end {
            return;
        }
        self.aof.durable.fetch_max(self.end, SeqCst);
        for thread in &self.shared.threads {
            if thread.waits_for_disk() {
                thread.wake();
            }
        }
    }

    /// Does something until it succeeds. Meanwhile writes are refused. It gives up if the server stops or nobody needs this era any more: then, and for
    /// everything that follows in this era, it returns false.
    fn insist(&mut self, what: &str, mut action: impl FnMut(&mut Self) -> io::Result<()>) -> bool {
        if self.gave_up {
            return false;
        }
        let mut has_failed = false;
        while let Err(error) = action(self) {
            if !std::mem::replace(&mut has_failed, true) {
                self.refuse_writes(&error, what);
            }
            let queue = self.aof.queue();
            let (is_ending, is_over) = (queue.is_ending, queue.era != self.era);
            drop(queue);
            if is_ending {
                log::error!(
                    "The server stops, and its last changes are not in the append-only file."
                );
            }
            if is_ending || is_over {
                self.gave_up = true;
                return false;
            }
            std::thread::sleep(RETRY_INTERVAL);
        }
        if has_failed && !self.files.as_ref().is_some_and(AofFiles::needs_base) {
            self.accept_writes();
        }
        true
    }

    fn refuse_writes(&self, error: &io::Error, what: &str) {
        let text = without_code(error);
        let remedy = match self.files.as_ref().is_some_and(AofFiles::needs_base) {
            false => "it succeeds",
            true => "a rewrite of the file succeeds, which begins now",
        };
        log::error!(
            "Error writing to the AOF file: {text} ({what}). Writes are refused until {remedy}: check the free space and the permissions of {}.",
            folder(&self.shared.config()).display()
        );
        self.aof.status_slot().write_error = Some(text);
        self.shared.gate.close(Reasons::LOG_FAILED);
        // Replies to clients that have changed nothing need not wait any longer.
        self.shared.threads.iter().for_each(Thread::wake);
    }

    fn accept_writes(&self) {
        self.aof.status_slot().write_error = None;
        self.shared.gate.open(Reasons::LOG_FAILED);
        log::warn!("AOF write error looks solved. The server can write again.");
    }
}

/// The message of the operating system, as Redis shows it.
fn without_code(error: &io::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" (os error") {
        Some((message, _)) => message.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOOK: Duration = Duration::from_millis(8);

    /// A group after two fsyncs that took 8 ms, when so many clients waited.
    fn after_fsyncs(clients: u64) -> Group {
        let mut group = Group::default();
        group.note(1, TOOK);
        group.note(clients, TOOK);
        group
    }

    #[test]
    fn an_fsync_waits_for_the_clients_of_the_last_one_but_not_long() {
        let now = Instant::now();
        assert_eq!(Group::default().due(1, (1, 1), now), now);
        let mut group = after_fsyncs(50);
        let (later, latest) = (now + TOOK / 8, now + TOOK / GATHER_SHARE);
        assert_eq!(group.due(20, (20, 20), now), latest);
        assert_eq!(group.due(49, (49, 49), later), latest);
        assert_eq!(group.due(50, (50, 50), later), later);
        // The time counts anew after each fsync.
        group.note(50, TOOK);
        assert_eq!(group.due(1, (51, 51), now + TOOK), latest + TOOK);
    }

    #[test]
    fn an_fsync_waits_for_the_last_records_of_the_clients() {
        let (mut group, now) = (after_fsyncs(2), Instant::now());
        assert_eq!(group.due(2, (7, 6), now), now + TOOK / GATHER_SHARE);
        // Further records belong to clients that do not wait.
        let later = now + TOOK / 8;
        assert_eq!(group.due(2, (9, 7), later), later);
    }

    #[test]
    fn a_fast_disk_or_a_single_client_never_waits() {
        let now = Instant::now();
        let mut single = after_fsyncs(1);
        assert_eq!(single.due(0, (100, 1), now), now);
        assert_eq!(single.due(1, (100, 1), now), now);
        let mut fast = after_fsyncs(50);
        fast.note(50, Duration::from_micros(100));
        assert_eq!(fast.due(1, (1, 1), now), now);
        fast.note(50, TOOK);
        assert_eq!(fast.due(1, (1, 1), now), now, "it was slow once");
    }
}
