//! Long commands: a command that finds that it has much to do runs on a thread of its own, so that other clients wait only for
//! the shards that it locks.
//!
//! ```text
//!   thread of the connection                        a thread for long commands
//!   command returns Long ──► queue ───────────────► takes the locks, runs it, stores the outcome
//!   the connection stalls                                     │
//!   writes the reply ◄── Message::ClientChanged ◄─────────────┘
//! ```

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use damselfly_base::CommandError;
use damselfly_commands::{
    Args, KeyspaceFn, Migration, OwnedArgs, Rest, SlicedReply, Stop, Unlocked,
};
use damselfly_engine::{Busy, Effects, Now, Patience, Unserved};
use damselfly_protocol::{Reply, Version};

use crate::clients::Client;
use crate::clock;
use crate::dispatch;
use crate::migrate;
use crate::observers::client_tracking::Reader;
use crate::registry::{Locks, Row};
use crate::session::transaction::Forgotten;
use crate::shared::Shared;
use crate::threads::Message;

/// A waiting thread checks again after this long, should it not be woken.
const RECHECK_INTERVAL: Duration = Duration::from_millis(100);

/// A long command on the server. It takes the locks that it needs itself.
pub type ServerFn = fn(&Arc<Shared>, Args<'_>, &mut Reply<'_>) -> damselfly_commands::Result;

/// The function of a long command.
#[derive(Clone, Copy)]
pub enum LongRun {
    /// It works on keys, under their locks.
    Keyspace(KeyspaceFn),
    /// It works on the server.
    Server(ServerFn),
}

/// A long command.
pub struct LongCommand {
    /// The client that sent it.
    pub client: Arc<Client>,
    /// Its row.
    pub row: &'static Row,
    /// Its function.
    pub run: LongRun,
    /// The part of it that runs before any lock is taken.
    unlocked: Mutex<Option<Unlocked>>,
    /// The request.
    pub args: OwnedArgs,
    /// The selected database.
    pub db: usize,
    /// The version of RESP for the reply.
    pub version: Version,
    /// True if its use of keys is to be recorded.
    pub touches_keys: bool,
    /// Tracks the keys that the command reads, if the client tracks keys.
    reader: Option<Reader>,
    outcome: Mutex<Option<Outcome>>,
    /// How long its keys were on the network, in nanoseconds.
    sent_ns: AtomicU64,
    /// True if the command panicked.
    pub panicked: AtomicBool,
}

/// How an attempt to run a command ended.
enum Attempt {
    /// It ran.
    Done(Outcome),
    /// Its keys have to be sent to another server before it goes on.
    MustSend,
}

/// The outcome of a long command.
#[derive(Default)]
pub struct Outcome {
    /// The reply, or its first slice.
    pub reply: Vec<u8>,
    /// The rest of the reply, if it is written in slices.
    pub rest: Option<SlicedReply>,
    /// The error, if the command failed.
    pub failed: Option<CommandError>,
    /// How long it ran, in nanoseconds, without waiting for locks.
    pub took_ns: u64,
    /// The hits, misses and changes to count.
    pub effects: Effects,
}

/// A command whose part without locks has run.
struct Begun {
    /// The rest, for a command that has such a part.
    rest: Option<Rest>,
    /// How long that part took.
    took: Duration,
}

/// A task of a thread for long commands.
enum Work {
    Command(Arc<LongCommand>),
    Unwatch(Forgotten),
}

/// Long commands that wait for a thread, and these threads.
#[derive(Default)]
pub struct LongCommands {
    queue: Mutex<VecDeque<Work>>,
    added: Condvar,
    threads: OnceLock<Vec<Thread>>,
}

impl LongCommands {
    fn queue(&self) -> MutexGuard<'_, VecDeque<Work>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the threads that run long commands, once.
    pub fn set_threads(&self, threads: Vec<Thread>) {
        assert!(self.threads.set(threads).is_ok(), "threads start once");
    }

    /// Wakes one of the threads, because the shard that it waits for is free.
    pub fn wake(&self, index: usize) {
        if let Some(thread) = self.threads.get().and_then(|threads| threads.get(index)) {
            thread.unpark();
        }
    }

    /// Makes all threads check the shards that they wait for.
    pub fn recheck_shards(&self) {
        self.threads
            .get()
            .into_iter()
            .flatten()
            .for_each(Thread::unpark);
    }

    /// Has watched keys taken out of the engine that a client has forgotten: very many.
    pub fn unwatch(&self, forgotten: Forgotten) {
        self.add_work(Work::Unwatch(forgotten));
    }

    fn add_work(&self, work: Work) {
        self.queue().push_back(work);
        self.added.notify_one();
    }

    /// Makes all idle threads check whether the server stops.
    pub fn wake_all(&self) {
        self.added.notify_all();
    }

    /// Waits for the next task; `None` when the process is stopping.
    fn next(&self, stopping: &AtomicBool) -> Option<Work> {
        let mut queue = self.queue();
        while !stopping.load(Relaxed) {
            if let Some(work) = queue.pop_front() {
                return Some(work);
            }
            let waited = self.added.wait_timeout(queue, RECHECK_INTERVAL);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        None
    }
}

impl LongCommand {
    /// A command that is not queued yet.
    pub fn new(
        session: &crate::session::Session,
        row: &'static Row,
        run: LongRun,
        unlocked: Option<Unlocked>,
        args: OwnedArgs,
    ) -> Self {
        Self {
            client: session.client.clone(),
            row,
            run,
            unlocked: Mutex::new(unlocked),
            args,
            db: session.db,
            version: session.protocol,
            touches_keys: dispatch::touches_keys(session, row),
            reader: session
                .tracked
                .as_ref()
                .map(|tracked| tracked.reader(&session.client)),
            outcome: Mutex::default(),
            sent_ns: AtomicU64::new(0),
            panicked: AtomicBool::new(false),
        }
    }

    fn outcome(&self) -> MutexGuard<'_, Option<Outcome>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the outcome, if the command has run.
    pub fn take_outcome(&self) -> Option<Outcome> {
        self.outcome().take()
    }

    fn unlocked(&self) -> MutexGuard<'_, Option<Unlocked>> {
        self.unlocked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `change` change the migration that the command waits for, if there is one.
    pub fn with_migration(&self, change: impl FnOnce(&mut Migration)) {
        if let Some(Unlocked::Migrate(migration)) = &mut *self.unlocked() {
            change(migration);
        }
    }

    /// True if its keys have to be sent to another server.
    fn must_send(&self) -> bool {
        let mut must_send = false;
        self.with_migration(|migration| must_send = migration.is_unsent());
        must_send
    }

    /// Notes how long its keys were on the network.
    pub fn note_sent(&self, took: Duration) {
        self.sent_ns.store(took.as_nanos() as u64, Relaxed);
    }

    /// Notes that it panicked: its connection will be closed.
    pub fn note_panic(self: &Arc<Self>, shared: &Shared) {
        self.panicked.store(true, Relaxed);
        shared.threads[self.client.thread].send(Message::ClientChanged(self.client.clone()));
    }

    /// Runs the part of the command that needs no locks, if it has one.
    fn run_unlocked(&self, shared: &Shared) -> Begun {
        let started = Instant::now();
        let unlocked = self.unlocked().take();
        let rest = unlocked.map(|unlocked| unlocked.run(&shared.engine, self.args.borrow()));
        Begun {
            rest,
            took: started.elapsed() + Duration::from_nanos(self.sent_ns.load(Relaxed)),
        }
    }

    /// Runs the command, or returns `Busy` if a shard is locked. Refuses the command if a slow script has locked it.
    fn try_run_or_refuse(
        &self,
        shared: &Arc<Shared>,
        waiter: &Waiter<'_>,
        begun: &mut Begun,
        to_retry: &mut Vec<Unserved>,
    ) -> Result<Attempt, Busy> {
        let result = match self.run {
            LongRun::Keyspace(run) => self.try_run(run, shared, waiter, begun, to_retry),
            LongRun::Server(run) => self.try_run_on_server(run, shared).map(Attempt::Done),
        };
        let busy = match result {
            Ok(attempt) => return Ok(attempt),
            Err(busy) => busy,
        };
        let error = shared.scripts.busy(busy.shard).ok_or(busy)?;
        let mut outcome = Outcome::default();
        Reply::new(&mut outcome.reply, self.version).error(error.to_bytes());
        outcome.failed = Some(error);
        Ok(Attempt::Done(outcome))
    }

    /// Runs a command on the server, or returns `Busy` if a shard is locked.
    fn try_run_on_server(&self, run: ServerFn, shared: &Arc<Shared>) -> Result<Outcome, Busy> {
        let (mut outcome, started) = (Outcome::default(), Instant::now());
        let mut reply = Reply::new(&mut outcome.reply, self.version);
        match run(shared, self.args.borrow(), &mut reply) {
            Ok(()) => {}
            Err(Stop::Error(error)) => {
                reply.truncate_to(0);
                reply.error(error.to_bytes());
                outcome.failed = Some(error);
            }
            Err(Stop::Busy(busy)) => return Err(busy),
            Err(
                Stop::NeedsAllLocks
                | Stop::Wait(_)
                | Stop::LogBehind
                | Stop::Long
                | Stop::LongUnlocked(_)
                | Stop::SlicedReply(_),
            ) => {
                unreachable!("{} can't return that here", self.row.name)
            }
        }
        outcome.took_ns = started.elapsed().as_nanos() as u64;
        Ok(outcome)
    }

    /// Runs the command, or returns `Busy` if a shard is locked.
    fn try_run(
        &self,
        run: KeyspaceFn,
        shared: &Shared,
        waiter: &Waiter<'_>,
        begun: &mut Begun,
        to_retry: &mut Vec<Unserved>,
    ) -> Result<Attempt, Busy> {
        let (args, now) = (self.args.borrow(), Now(clock::now_ms()));
        let (engine, mut shards) = (&shared.engine, Vec::new());
        let mut outcome = Outcome::default();
        let mut tx = match self.row.locks {
            Locks::None => engine.lock_none_patiently(self.db, now, waiter),
            Locks::One(_) | Locks::Many | Locks::All => {
                dispatch::lock(engine, self.row, args, self.db, now, &mut shards)?
            }
        };
        tx.set_touches(self.touches_keys);
        tx.set_single_command();
        let started = Instant::now();
        let (mut reply, mut rest) = (Reply::new(&mut outcome.reply, self.version), None);
        let mut result = match begun.rest.take() {
            // Such a command adds its effects itself.
            Some(rest) => rest(&mut tx, args, &mut reply),
            None => damselfly_commands::run(run, &mut tx, args, &mut reply),
        };
        if let Err(Stop::NeedsAllLocks) = result {
            drop(tx);
            tx = engine.lock_all(self.db, now)?;
            tx.set_touches(self.touches_keys);
            tx.set_single_command();
            result = damselfly_commands::run(run, &mut tx, args, &mut reply);
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
            Err(Stop::LongUnlocked(unlocked @ Unlocked::Migrate(_))) => {
                *self.unlocked() = Some(unlocked);
                return Ok(Attempt::MustSend);
            }
            Err(
                Stop::NeedsAllLocks
                | Stop::Wait(_)
                | Stop::LogBehind
                | Stop::Long
                | Stop::LongUnlocked(Unlocked::Compute(_)),
            ) => unreachable!("{} can't return that here", self.row.name),
        }
        if let Some(reader) = self.reader {
            reader.note(&mut tx, self.row, args);
        }
        if tx.has_extras() {
            to_retry.extend(tx.serve_waiters());
        }
        outcome.effects = tx.effects();
        drop(tx);
        let changes = outcome.effects.changes;
        shared.persistence.finish_flush(shared, changes);
        // For some commands, this part is the longest. It needs no lock.
        outcome.rest = rest.and_then(|mut rest: SlicedReply| {
            let has_more = rest.write(&mut reply, dispatch::REPLY_SLICE_BYTES);
            has_more.then_some(rest)
        });
        outcome.took_ns = (begun.took + started.elapsed()).as_nanos() as u64;
        Ok(Attempt::Done(outcome))
    }
}

/// Queues a command for a thread for long commands, or one for migrations.
pub fn start(shared: &Arc<Shared>, command: Arc<LongCommand>) {
    if command.must_send() {
        migrate::start(shared, command);
    } else {
        shared.long.add_work(Work::Command(command));
    }
}

/// Runs long commands until the server stops, on the thread number `index` of those for long commands.
pub fn run(shared: &Arc<Shared>, index: usize) {
    while let Some(work) = shared.long.next(&shared.stopping) {
        let command = match work {
            Work::Command(command) => command,
            Work::Unwatch(forgotten) => {
                forgotten.unwatch(&shared.engine);
                continue;
            }
        };
        let mut to_retry = Vec::new();
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let waiter = Waiter { shared, index };
            let mut begun = command.run_unlocked(shared);
            retry_until_free(shared, index, || {
                command.try_run_or_refuse(shared, &waiter, &mut begun, &mut to_retry)
            })
        }));
        match ran {
            Ok(Some(Attempt::MustSend)) => start(shared, command.clone()),
            Ok(Some(Attempt::Done(outcome))) => *command.outcome() = Some(outcome),
            Ok(None) => {}
            Err(_) => command.panicked.store(true, Relaxed),
        }
        if shared.engine.log.is_on() {
            shared.log.wake();
        }
        if command.reader.is_some() {
            shared.tracking.forget_if_unused(&shared.engine);
        }
        shared.threads[command.client.thread].send(Message::ClientChanged(command.client.clone()));
        while let Some(next) = to_retry.pop() {
            let serve = || shared.engine.serve_waiters(&next, Now(clock::now_ms()));
            to_retry.extend(retry_until_free(shared, index, serve).into_iter().flatten());
        }
    }
}

/// Retries until no shard is busy; `None` if the server stops before.
fn retry_until_free<T>(
    shared: &Shared,
    index: usize,
    mut attempt: impl FnMut() -> Result<T, Busy>,
) -> Option<T> {
    while !shared.stopping.load(Relaxed) {
        match attempt() {
            Ok(done) => return Some(done),
            Err(busy) => wait_for_shard(shared, index, busy),
        }
    }
    None
}

fn wait_for_shard(shared: &Shared, index: usize, busy: Busy) {
    if !shared.engine.wait(busy, shared.threads.len() + index) {
        thread::park_timeout(RECHECK_INTERVAL);
    }
}

/// Waits for shards, for a command that locks one shard after the other.
struct Waiter<'a> {
    shared: &'a Shared,
    index: usize,
}

impl Patience for Waiter<'_> {
    fn wait(&self, busy: Busy) -> bool {
        if self.shared.scripts.busy(busy.shard).is_some() {
            return false;
        }
        wait_for_shard(self.shared, self.index, busy);
        true
    }

    fn is_over(&self) -> bool {
        self.shared.stopping.load(Relaxed)
    }
}
