//! The thread that merges the log and passes it on to its consumers: the append-only file and replicas.
//!
//! ```text
//! sections ──► rings ──► this thread: Merge ──► batch ──► each consumer takes the records after its cut
//! ```
//!
//! [`LogThread::attach`] adds a consumer under all locks, together with a snapshot that has everything before the cut. A consumer that
//! can't take more ([`Consumer::is_full`]) holds up the merge; the rings then fill, and connections that write stall.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst, fence};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use damselfly_engine::{Engine, Tx};
use damselfly_log::{Batch, Log, Merge, Targets};

/// How many bytes are merged before consumers get them.
const BATCH_BYTES: usize = 256 << 10;

/// A batch that has grown beyond this is not used again.
const BATCH_KEPT_BYTES: usize = 4 * BATCH_BYTES;

/// How often the thread looks for records while there are some, unless a consumer is in a hurry.
const INTERVAL: Duration = Duration::from_millis(1);

/// How long it sleeps at most when it is woken for the next record.
const SLEEP: Duration = Duration::from_millis(100);

/// How many times in a row the thread finds nothing before it sleeps until it is woken.
const IDLE_LOOKS_MAX: u32 = 20;

/// A receiver of the merged log.
pub trait Consumer: Send {
    /// Which effects it wants.
    fn targets(&self) -> Targets;

    /// Takes a batch, whose records begin where the last batch ended. `cut` is the first record that it wants: it is in this batch or
    /// below it. Must not wait for anything. False if the consumer is done and shall be removed.
    fn take(&mut self, batch: &Arc<Batch>, cut: u64) -> bool;

    /// True while it can't take another batch.
    fn is_full(&self) -> bool;

    /// True if a client may be waiting for it, so that records should not wait for the next look.
    fn is_urgent(&self) -> bool;
}

struct Attached {
    consumer: Box<dyn Consumer>,
    cut: u64,
}

/// The state that the log thread shares with the others.
#[derive(Default)]
pub struct LogThread {
    consumers: Mutex<Vec<Attached>>,
    thread: OnceLock<Thread>,
    /// The thread sleeps until it is woken.
    is_asleep: AtomicBool,
    /// A consumer is in a hurry.
    is_urgent: AtomicBool,
    /// The server stops, and no further record follows.
    is_ending: AtomicBool,
    /// Records that were merged, and the nanoseconds that this took, for figures.
    pub records: AtomicU64,
    /// See `records`.
    pub busy_ns: AtomicU64,
}

impl LogThread {
    fn consumers(&self) -> MutexGuard<'_, Vec<Attached>> {
        self.consumers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a consumer of everything that follows, turns the log on if it is off, and returns the cut: the number of the first record
    /// that the consumer will get. The caller takes a snapshot in the same section, if it needs one.
    ///
    /// # Panics
    /// If not all shards are locked.
    pub fn attach(&self, tx: &Tx<'_>, consumer: Box<dyn Consumer>) -> u64 {
        assert!(tx.holds_all(), "a consumer begins at a cut");
        let log = &tx.engine().log;
        let mut consumers = self.consumers();
        let cut = log.appended();
        consumers.push(Attached { consumer, cut });
        self.apply(log, &consumers);
        drop(consumers);
        self.unpark();
        cut
    }

    /// Removes the consumers for which `is_it` holds, and turns the log off if none is left.
    ///
    /// # Panics
    /// If not all shards are locked.
    pub fn detach(&self, tx: &Tx<'_>, targets: Targets) {
        assert!(tx.holds_all(), "the log changes under all locks");
        let mut consumers = self.consumers();
        consumers.retain(|attached| !attached.consumer.targets().meets(targets));
        self.apply(&tx.engine().log, &consumers);
    }

    /// Turns the log off if all consumers have ended.
    ///
    /// # Panics
    /// If not all shards are locked.
    pub fn settle(&self, tx: &Tx<'_>) {
        assert!(tx.holds_all(), "the log changes under all locks");
        self.apply(&tx.engine().log, &self.consumers());
    }

    fn apply(&self, log: &Log, consumers: &[Attached]) {
        let wanted = consumers.iter().fold(Targets::NONE, |wanted, attached| {
            wanted.or(attached.consumer.targets())
        });
        match wanted.is_empty() {
            true => log.stop(),
            false => log.start(wanted),
        }
    }

    /// Wakes the thread for new records, if it sleeps. Every thread calls this at the end of a turn in which it may have appended some.
    #[inline]
    pub fn wake(&self) {
        // The records come before the look at the flag, which the thread sets before it looks at the records.
        fence(SeqCst);
        if self.is_asleep.load(SeqCst) {
            self.unpark();
        }
    }

    fn unpark(&self) {
        self.is_asleep.store(false, SeqCst);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// True if a consumer waits for every record.
    #[inline]
    pub fn is_urgent(&self) -> bool {
        self.is_urgent.load(Relaxed)
    }

    /// Makes the thread end when it has merged everything. All threads that append records have ended.
    pub fn end(&self) {
        self.is_ending.store(true, SeqCst);
        self.unpark();
    }

    /// Merges until [`LogThread::end`].
    pub fn run(&self, engine: &Engine) {
        let _ = self.thread.set(thread::current());
        let mut merge = Merge::new(engine.log.clone());
        let (mut spare, mut idle_looks) = (Batch::default(), 0);
        loop {
            // At the end, what is left is passed on whatever the consumers say: they will not take more later.
            let is_ending = self.is_ending.load(SeqCst);
            let is_full = self
                .consumers()
                .iter()
                .any(|attached| attached.consumer.is_full());
            if is_full && !is_ending {
                thread::park_timeout(INTERVAL);
                continue;
            }
            let started = Instant::now();
            let records = merge.fill(&mut spare, BATCH_BYTES);
            if records > 0 {
                idle_looks = 0;
                spare = self.pass_on(spare);
                self.records.fetch_add(records as u64, Relaxed);
                self.busy_ns
                    .fetch_add(started.elapsed().as_nanos() as u64, Relaxed);
                continue;
            }
            if self.is_ending.load(SeqCst) && !merge.is_behind() {
                return;
            }
            idle_looks += 1;
            let is_idle = idle_looks > IDLE_LOOKS_MAX || !engine.log.is_on();
            if is_idle {
                damselfly_base::heap::collect();
            } else if !self.is_urgent() {
                thread::park_timeout(INTERVAL);
                continue;
            }
            self.is_asleep.store(true, SeqCst);
            if !merge.is_behind() && !self.is_ending.load(SeqCst) {
                thread::park_timeout(SLEEP);
            }
            self.is_asleep.store(false, SeqCst);
        }
    }

    /// Gives a batch to all consumers, and returns one to fill next.
    fn pass_on(&self, batch: Batch) -> Batch {
        let batch = Arc::new(batch);
        // A consumer that was attached after the batch was filled has its cut at the end of it or later.
        let mut consumers = self.consumers();
        consumers.retain_mut(|attached| {
            attached.cut >= batch.end || attached.consumer.take(&batch, attached.cut)
        });
        let is_urgent = consumers
            .iter()
            .any(|attached| attached.consumer.is_urgent());
        drop(consumers);
        self.is_urgent.store(is_urgent, Relaxed);
        match Arc::try_unwrap(batch) {
            Ok(mut batch) if batch.bytes.capacity() <= BATCH_KEPT_BYTES => {
                batch.clear();
                batch
            }
            _ => Batch::default(),
        }
    }
}
