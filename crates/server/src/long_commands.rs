//! Long commands: those that say themselves that they have much to do run on threads of their own, so that no other client
//! waits for more than the shards they lock.
//!
//! ```text
//!   thread of the connection                        a thread for long commands
//!   command says Long ──► queue ──────────────────► takes the locks, runs it, leaves the outcome
//!   parks the connection                                      │
//!   writes the reply ◄── Message::Look ◄──────────────────────┘
//! ```

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use damselfly_base::CommandError;
use damselfly_commands::{KeyspaceFn, OwnedArgs, SlicedReply, Stop};
use damselfly_engine::{Busy, Effects, Now, Patience, Unserved};
use damselfly_protocol::{Reply, Version};

use crate::clients::Client;
use crate::dispatch;
use crate::observers::client_tracking::Reader;
use crate::registry::{Locks, Row};
use crate::shared::{self, Message, Shared};

/// How soon a thread that waits looks again, should it not be woken.
const LOOK: Duration = Duration::from_millis(100);

/// A long command.
pub struct LongCommand {
    /// Who sent it.
    pub client: Arc<Client>,
    /// Its row.
    pub row: &'static Row,
    /// Its function.
    pub run: KeyspaceFn,
    /// The request.
    pub args: OwnedArgs,
    /// The selected database.
    pub db: usize,
    /// The version of the reply.
    pub version: Version,
    /// True to leave the age of keys alone.
    pub leaves_no_trace: bool,
    /// What the client wants to hear of the keys that are read.
    reader: Option<Reader>,
    outcome: Mutex<Option<Outcome>>,
    /// True if it ended by a bug.
    pub panicked: AtomicBool,
}

/// What came of a long command.
#[derive(Default)]
pub struct Outcome {
    /// The reply, or the start of it.
    pub reply: Vec<u8>,
    /// The rest of the reply.
    pub rest: Option<SlicedReply>,
    /// The error that it is, if it is one.
    pub failed: Option<CommandError>,
    /// How long it ran, in nanoseconds, without waiting for locks.
    pub took_ns: u64,
    /// What it did.
    pub effects: Effects,
}

/// Long commands that wait for a thread, and these threads.
#[derive(Default)]
pub struct LongCommands {
    queue: Mutex<VecDeque<Arc<LongCommand>>>,
    added: Condvar,
    threads: OnceLock<Vec<Thread>>,
}

impl LongCommands {
    fn queue(&self) -> MutexGuard<'_, VecDeque<Arc<LongCommand>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells which threads run long commands, once.
    pub fn set_threads(&self, threads: Vec<Thread>) {
        assert!(self.threads.set(threads).is_ok(), "threads start once");
    }

    /// Makes a thread for long commands look whether its shard is free.
    pub fn wake(&self, index: usize) {
        if let Some(thread) = self.threads.get().and_then(|threads| threads.get(index)) {
            thread.unpark();
        }
    }

    /// Makes all threads look at the shards they wait for.
    pub fn look_at_shards(&self) {
        self.threads
            .get()
            .into_iter()
            .flatten()
            .for_each(Thread::unpark);
    }

    /// Has a command run.
    pub fn add(&self, command: Arc<LongCommand>) {
        self.queue().push_back(command);
        self.added.notify_one();
    }

    /// Makes all threads look whether the process is to end.
    pub fn look(&self) {
        self.added.notify_all();
    }

    /// The next command, or `None` when the process is to end.
    fn next(&self, stopping: &AtomicBool) -> Option<Arc<LongCommand>> {
        let mut queue = self.queue();
        while !stopping.load(Relaxed) {
            if let Some(command) = queue.pop_front() {
                return Some(command);
            }
            let waited = self.added.wait_timeout(queue, LOOK);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        None
    }
}

impl LongCommand {
    /// A command to be run.
    pub fn new(
        session: &crate::session::Session,
        row: &'static Row,
        run: KeyspaceFn,
        args: OwnedArgs,
    ) -> Self {
        Self {
            client: session.client.clone(),
            row,
            run,
            args,
            db: session.db,
            version: session.protocol,
            leaves_no_trace: dispatch::leaves_no_trace(session, row),
            reader: session
                .tracked
                .as_ref()
                .map(|tracked| tracked.reader(&session.client)),
            outcome: Mutex::default(),
            panicked: AtomicBool::new(false),
        }
    }

    fn outcome(&self) -> MutexGuard<'_, Option<Outcome>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came of it, once it has run.
    pub fn take_outcome(&self) -> Option<Outcome> {
        self.outcome().take()
    }

    /// Runs it, once its locks are free. Refuses if a slow script has one.
    fn try_run_or_refuse(
        &self,
        shared: &Shared,
        waiter: &Waiter<'_>,
        unserved: &mut Vec<Unserved>,
    ) -> Result<Outcome, Busy> {
        let busy = match self.try_run(shared, waiter, unserved) {
            Ok(outcome) => return Ok(outcome),
            Err(busy) => busy,
        };
        let error = shared.scripts.busy(busy.shard).ok_or(busy)?;
        let mut outcome = Outcome::default();
        Reply::new(&mut outcome.reply, self.version).error(error.to_bytes());
        outcome.failed = Some(error);
        Ok(outcome)
    }

    /// Runs it, once its locks are free.
    fn try_run(
        &self,
        shared: &Shared,
        waiter: &Waiter<'_>,
        unserved: &mut Vec<Unserved>,
    ) -> Result<Outcome, Busy> {
        let (args, now) = (self.args.borrow(), Now(shared::now_ms()));
        let (engine, mut shards) = (&shared.engine, Vec::new());
        let mut outcome = Outcome::default();
        let mut tx = match self.row.locks {
            Locks::None => engine.lock_none_patiently(self.db, now, waiter),
            Locks::One(_) | Locks::Many | Locks::All => {
                dispatch::lock(engine, self.row, args, self.db, now, &mut shards)?
            }
        };
        tx.set_touches(!self.leaves_no_trace);
        tx.set_single_command();
        let started = Instant::now();
        let (mut reply, mut rest) = (Reply::new(&mut outcome.reply, self.version), None);
        let mut result = (self.run)(&mut tx, args, &mut reply);
        if let Err(Stop::NeedsAllLocks) = result {
            drop(tx);
            tx = engine.lock_all(self.db, now)?;
            tx.set_touches(!self.leaves_no_trace);
            tx.set_single_command();
            result = (self.run)(&mut tx, args, &mut reply);
        }
        match result {
            Ok(()) => {}
            Err(Stop::SlicedReply(begun)) => rest = Some(begun),
            Err(Stop::Error(error)) => {
                reply.truncate_to(0);
                reply.error(error.to_bytes());
                outcome.failed = Some(error);
            }
            Err(Stop::Busy(busy)) => return Err(busy),
            Err(Stop::NeedsAllLocks | Stop::Wait(_) | Stop::Long) => {
                unreachable!("{} can't stop for that here", self.row.name)
            }
        }
        if let Some(reader) = self.reader {
            reader.note(&mut tx, self.row, args);
        }
        if tx.has_extras() {
            unserved.extend(tx.serve_waiters());
        }
        outcome.effects = tx.effects();
        drop(tx);
        // What holds no lock is the longest part of some commands.
        outcome.rest = rest.and_then(|mut rest: SlicedReply| {
            let goes_on = rest.write(&mut reply, dispatch::REPLY_SLICE_BYTES);
            goes_on.then_some(rest)
        });
        outcome.took_ns = started.elapsed().as_nanos() as u64;
        Ok(outcome)
    }
}

/// Runs long commands until the process ends. `index` counts the threads that do so.
pub fn run(shared: &Shared, index: usize) {
    while let Some(command) = shared.long.next(&shared.stopping) {
        let mut unserved = Vec::new();
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let waiter = Waiter { shared, index };
            patiently(shared, index, || {
                command.try_run_or_refuse(shared, &waiter, &mut unserved)
            })
        }));
        match ran {
            Ok(outcome) => *command.outcome() = outcome,
            Err(_) => command.panicked.store(true, Relaxed),
        }
        if command.reader.is_some() {
            shared.tracking.end_late(&shared.engine);
        }
        shared.threads[command.client.thread].send(Message::Look(command.client.clone()));
        while let Some(next) = unserved.pop() {
            let serve = || shared.engine.serve_waiters(&next, Now(shared::now_ms()));
            unserved.extend(patiently(shared, index, serve).into_iter().flatten());
        }
    }
}

/// Tries until no shard is busy; `None` if the process ends before.
fn patiently<T>(
    shared: &Shared,
    index: usize,
    mut attempt: impl FnMut() -> Result<T, Busy>,
) -> Option<T> {
    while !shared.stopping.load(Relaxed) {
        match attempt() {
            Ok(done) => return Some(done),
            Err(busy) => await_shard(shared, index, busy),
        }
    }
    None
}

fn await_shard(shared: &Shared, index: usize, busy: Busy) {
    if !shared.engine.wait(busy, shared.threads.len() + index) {
        thread::park_timeout(LOOK);
    }
}

/// How a command waits that locks one shard after the other.
struct Waiter<'a> {
    shared: &'a Shared,
    index: usize,
}

impl Patience for Waiter<'_> {
    fn wait(&self, busy: Busy) -> bool {
        if self.shared.scripts.busy(busy.shard).is_some() {
            return false;
        }
        await_shard(self.shared, self.index, busy);
        true
    }

    fn is_over(&self) -> bool {
        self.shared.stopping.load(Relaxed)
    }
}
