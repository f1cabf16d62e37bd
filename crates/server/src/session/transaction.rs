//! Transactions: MULTI, EXEC, DISCARD, WATCH and UNWATCH.
//!
//! ```text
//! MULTI ─► queue: rows, arguments, hashes of the keys ─► EXEC: all locks at once, ascending
//!                                                         ├─ a watched key was changed: nothing runs
//!                                                         └─ otherwise all commands run in one section
//! ```
//!
//! EXEC locks the shards of all keys that the queued commands name, and those of the watched keys. So no other client can change
//! a key between the check of the watched keys and the commands. If a queued command uses keys that it does not name, EXEC locks
//! all shards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use damselfly_base::CommandError;
use damselfly_commands::Arity::{AtLeast, Exactly};
use damselfly_commands::{Args, At, Command, Group, KeySpec, Keys, Result, Run, Trait, looks};
use damselfly_engine::{Busy, Engine, Now, Watched, Watcher};
use damselfly_protocol::{Reply, Span};

use crate::clients::Client;
use crate::dispatch::exec;
use crate::registry::{Handler, Locks, Row, WithinMulti};
use crate::session::{Context, Session};
use crate::shared::Shared;

/// The maximum capacity that is kept for reuse, of a spare queue and of a client's list of watched keys.
const KEPT_BYTES_MAX: usize = 16 << 10;

/// The most spare queues that a thread keeps.
const SPARE_QUEUES_MAX: usize = 64;

const TRAITS: &[Trait] = &[
    Trait::NoScript,
    Trait::Loading,
    Trait::Stale,
    Trait::Fast,
    Trait::AllowBusy,
];

const WATCHED_KEYS: &[KeySpec] = &[looks(At::ToEnd { first: 1, step: 1 })];

pub(crate) static COMMANDS: &[Command<Handler>] = &[
    Command {
        name: "MULTI",
        arity: Exactly(1),
        keys: Keys::None,
        traits: TRAITS,
        run: Run::Run(Handler::Dispatch(exec::multi)),
        group: Group::Transactions,
        usage: "MULTI",
        summary: "Begins a transaction: following commands are queued until EXEC.",
        since: "1.2.0",
        complexity: "O(1)",
    },
    Command {
        name: "EXEC",
        arity: Exactly(1),
        keys: Keys::None,
        traits: &[
            Trait::NoScript,
            Trait::Loading,
            Trait::Stale,
            Trait::SkipSlowlog,
        ],
        run: Run::Run(Handler::Dispatch(exec::exec)),
        group: Group::Transactions,
        usage: "EXEC",
        summary: "Runs the queued commands atomically, unless a watched key was changed.",
        since: "1.2.0",
        complexity: "Depends on commands in the transaction",
    },
    Command {
        name: "DISCARD",
        arity: Exactly(1),
        keys: Keys::None,
        traits: TRAITS,
        run: Run::Run(Handler::Session(discard)),
        group: Group::Transactions,
        usage: "DISCARD",
        summary: "Discards the queued commands and ends the transaction.",
        since: "2.0.0",
        complexity: "O(N), when N is the number of queued commands",
    },
    Command {
        name: "WATCH",
        arity: AtLeast(2),
        keys: Keys::Args(WATCHED_KEYS),
        traits: TRAITS,
        run: Run::Run(Handler::Session(watch)),
        group: Group::Transactions,
        usage: "WATCH key [key ...]",
        summary: "Makes the next EXEC do nothing if one of the keys is changed before it.",
        since: "2.2.0",
        complexity: "O(1) for every key.",
    },
    Command {
        name: "UNWATCH",
        arity: Exactly(1),
        keys: Keys::None,
        traits: TRAITS,
        run: Run::Run(Handler::Session(unwatch)),
        group: Group::Transactions,
        usage: "UNWATCH",
        summary: "Stops watching all keys.",
        since: "2.2.0",
        complexity: "O(1)",
    },
];

/// After so many keys of one WATCH, the other clients of the thread get a turn.
const KEYS_PER_TURN: usize = 1 << 12;

/// If a client stops watching more keys than this, a thread for long commands removes them from the engine.
const FORGOTTEN_AT_ONCE_MAX: usize = 1 << 12;

/// The state of a session between MULTI or WATCH and EXEC.
#[derive(Default)]
pub struct Transaction {
    /// The queued commands; `None` without an open transaction.
    queue: Option<Box<Queue>>,
    watched: Vec<Watched>,
    /// The client's watcher in this round; `None` before the first WATCH.
    watcher: Option<Arc<RoundWatcher>>,
    /// How many keys the running WATCH has watched already.
    watch_progress: usize,
    /// The total length of the watched keys, in bytes.
    watched_bytes: usize,
}

/// Queued commands.
#[derive(Default)]
pub struct Queue {
    commands: Vec<Queued>,
    /// Their arguments, relative to the start of `bytes`.
    spans: Vec<Span>,
    bytes: Vec<u8>,
    /// The hashes of all keys that the commands name.
    hashes: Vec<u64>,
    /// A command could not be queued, so none will run.
    has_failed: bool,
    /// A command changes keys.
    writes: bool,
    /// A command needs memory, so EXEC is refused when memory is short.
    needs_memory: bool,
    /// A command needs all locks.
    needs_all_locks: bool,
    /// A command runs a script.
    runs_scripts: bool,
    /// The number of the batch of requests in which MULTI ran.
    batch: u64,
}

struct Queued {
    row: &'static Row,
    first_span: usize,
    spans: usize,
    /// The hash of its only key, if its row has exactly one key.
    hash: u64,
}

impl Queue {
    fn push(&mut self, row: &'static Row, args: Args<'_>, writes: bool) {
        let (first_span, first_hash) = (self.spans.len(), self.hashes.len());
        args.copy_to(&mut self.bytes, &mut self.spans);
        match row.locks {
            Locks::One(place) => self.hashes.push(args.key(place).hash),
            Locks::Many => {
                let places = row.command.key_places(args);
                self.hashes.extend(places.map(|place| args.key(place).hash));
            }
            Locks::None | Locks::All => {}
        }
        self.commands.push(Queued {
            row,
            first_span,
            spans: args.len(),
            hash: self.hashes.get(first_hash).copied().unwrap_or(0),
        });
        self.writes |= writes;
        self.needs_memory |= row.needs_memory;
        self.needs_all_locks |= row.needs_all_locks;
        self.runs_scripts |= row.runs_script;
    }

    /// The commands.
    pub fn commands(&self) -> impl ExactSizeIterator<Item = (&'static Row, Args<'_>)> {
        self.commands.iter().map(|queued| {
            let first_key = match queued.row.locks {
                Locks::One(place) => Some((place, queued.hash)),
                Locks::None | Locks::Many | Locks::All => None,
            };
            let spans = queued.first_span..queued.first_span + queued.spans;
            let args = Args::new(&self.bytes, &self.spans[spans], first_key);
            (queued.row, args)
        })
    }

    /// The hashes of all keys that the commands name.
    pub fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// True if a command could not be queued, so that none may run.
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// True if a command needs all locks.
    pub fn needs_all_locks(&self) -> bool {
        self.needs_all_locks
    }

    /// The number of the batch of requests in which MULTI ran.
    pub fn batch(&self) -> u64 {
        self.batch
    }

    fn memory(&self) -> usize {
        size_of::<Self>()
            + self.commands.capacity() * size_of::<Queued>()
            + self.spans.capacity() * size_of::<Span>()
            + self.hashes.capacity() * size_of::<u64>()
            + self.bytes.capacity()
    }

    fn clear(&mut self) {
        self.commands.clear();
        self.spans.clear();
        self.bytes.clear();
        self.hashes.clear();
        (self.has_failed, self.writes) = (false, false);
        (self.needs_memory, self.needs_all_locks) = (false, false);
        self.runs_scripts = false;
    }
}

/// Spare queues for new transactions.
#[derive(Default)]
#[expect(clippy::vec_box, reason = "sessions hold them in boxes")]
pub struct SpareQueues(Vec<Box<Queue>>);

impl SpareQueues {
    /// An empty queue for a transaction that begins in this batch.
    pub fn take(&mut self, batch: u64) -> Box<Queue> {
        let mut queue = self.0.pop().unwrap_or_default();
        queue.batch = batch;
        queue
    }

    /// Takes a queue back, unless it is too large or there are enough.
    pub fn put(&mut self, mut queue: Box<Queue>) {
        if self.0.len() < SPARE_QUEUES_MAX && queue.memory() <= KEPT_BYTES_MAX {
            queue.clear();
            self.0.push(queue);
        }
    }
}

/// A client's current round of watching, shared by all threads: the number of the round, and whether a watched key was changed. A
/// round begins with the first WATCH, and ends with EXEC, UNWATCH or anything else that stops watching.
///
/// ```text
/// | number: 63 bits | changed: 1 bit |
/// ```
#[derive(Debug, Default)]
pub struct WatchRound(AtomicU64);

impl WatchRound {
    /// True if a watched key was changed.
    pub fn is_broken(&self) -> bool {
        self.0.load(Relaxed) & 1 == 1
    }

    /// Begins a round. Later notifications about earlier rounds have no effect.
    fn begin(&self) -> u64 {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Relaxed) + 1;
        self.0.store(number << 1, Relaxed);
        number
    }

    /// Notes a change to a key that was watched in this round.
    fn break_round(&self, number: u64) {
        let unbroken = number << 1;
        let _ = self
            .0
            .compare_exchange(unbroken, unbroken | 1, Relaxed, Relaxed);
    }
}

/// A client as the watcher of the keys of one round.
struct RoundWatcher {
    client: Arc<Client>,
    number: u64,
}

impl Watcher for RoundWatcher {
    fn key_changed(&self) {
        self.client.watch_round.break_round(self.number);
    }
}

/// Keys that a client has stopped watching, but that are still registered in the engine.
pub struct Forgotten {
    watched: Vec<Watched>,
    number: u64,
}

impl Forgotten {
    /// Removes them from the engine.
    pub fn unwatch(self, engine: &Engine) {
        for watched in self.watched {
            engine.unwatch(&watched, self.number);
        }
    }
}

impl Transaction {
    /// True between MULTI and the end of the transaction.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.queue.is_some()
    }

    /// Begins or continues a transaction.
    pub fn open(&mut self, queue: Box<Queue>, client: &Client) {
        client.queued.store(queue.commands.len() as isize, Relaxed);
        self.queue = Some(queue);
    }

    /// Takes the queue in order to run it.
    pub fn take_queue(&mut self) -> Option<Box<Queue>> {
        self.queue.take()
    }

    /// The hashes of the watched keys.
    pub fn watched_hashes(&self) -> impl Iterator<Item = u64> {
        self.watched.iter().map(|watched| watched.hash)
    }

    /// The size of the arguments of all queued commands, in bytes.
    pub fn queued_bytes(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.bytes.len())
    }

    /// True if EXEC would change keys.
    pub fn writes(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.writes)
    }

    /// The queued commands.
    pub fn queued(&self) -> impl Iterator<Item = (&'static Row, Args<'_>)> {
        self.queue.iter().flat_map(|queue| queue.commands())
    }

    /// True if EXEC would run scripts.
    pub fn runs_scripts(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.runs_scripts)
    }

    /// Makes EXEC fail, because a command can't be queued.
    #[inline]
    pub fn fail(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.has_failed = true;
        }
    }

    /// Queues a command; `writes` says whether it may change keys. If EXEC will not run it, the command is dropped to save memory.
    pub fn push(&mut self, row: &'static Row, args: Args<'_>, writes: bool, client: &Client) {
        if let Some(queue) = &mut self.queue
            && !queue.has_failed
            && !client.watch_round.is_broken()
        {
            queue.push(row, args, writes);
            client.queued.store(queue.commands.len() as isize, Relaxed);
            self.note_memory(client);
        }
    }

    fn note_memory(&self, client: &Client) {
        let queue = self.queue.as_ref().map_or(0, |queue| queue.memory());
        let watched = self.watched.len() * size_of::<Watched>() + self.watched_bytes;
        client.transaction_bytes.store(queue + watched, Relaxed);
        client.watched.store(self.watched.len(), Relaxed);
    }

    /// The error if a command is refused within MULTI but not outside; `None` if it is allowed.
    #[cold]
    pub fn refusal(&self, row: &Row, is_memory_short: bool) -> Option<CommandError> {
        let queue = self.queue.as_ref()?;
        let needs_memory = match row.within_multi {
            WithinMulti::Refused => {
                let text = "Command not allowed inside a transaction";
                return Some(CommandError::err(text));
            }
            WithinMulti::Executes => queue.needs_memory,
            // The queue needs memory, too, but `client-query-buffer-limit` bounds it.
            WithinMulti::Queued | WithinMulti::Runs | WithinMulti::Leaves => false,
        };
        (needs_memory && is_memory_short).then_some(CommandError::OutOfMemory)
    }

    /// Drops the queued commands and stops watching all keys.
    pub fn end(&mut self, shared: &Shared, client: &Client) {
        self.queue = None;
        client.queued.store(-1, Relaxed);
        self.unwatch(shared, client);
    }

    /// Stops watching all keys. Within EXEC the thread may hold locks, so if there are many keys, another thread removes them.
    fn unwatch(&mut self, shared: &Shared, client: &Client) {
        self.watched_bytes = 0;
        self.watch_progress = 0;
        if let Some(watcher) = self.watcher.take() {
            client.watch_round.begin();
            let number = watcher.number;
            if self.watched.len() > FORGOTTEN_AT_ONCE_MAX {
                let watched = std::mem::take(&mut self.watched);
                shared.long.unwatch(Forgotten { watched, number });
            } else {
                for watched in self.watched.drain(..) {
                    shared.engine.unwatch(&watched, number);
                }
                self.watched
                    .shrink_to(KEPT_BYTES_MAX / size_of::<Watched>());
            }
        }
        self.note_memory(client);
    }

    /// Makes the next WATCH start with its first key, because the WATCH that had made progress was refused.
    pub fn give_up_watching(&mut self) {
        self.watch_progress = 0;
    }

    /// Ignores all later changes: EXEC has decided to run, and its own changes do not count. The client stops watching the keys
    /// once EXEC has released its locks.
    pub fn ignore_changes(&self, client: &Client) {
        if self.watcher.is_some() {
            client.watch_round.begin();
        }
    }

    /// True if a watched key was changed or has expired. `false` stays valid only while the caller holds the locks of the watched
    /// keys.
    pub fn is_broken(&self, client: &Client, now: Now) -> bool {
        client.watch_round.is_broken()
            || self.watched.iter().any(|watched| watched.has_expired(now))
    }
}

/// Ends the transaction because EXEC is refused with `error`, and returns the error that EXEC answers.
#[cold]
pub fn abort(session: &mut Session, shared: &Shared, error: &CommandError) -> CommandError {
    session.transaction.end(shared, &session.client);
    let text = error.to_bytes();
    let text = text.strip_prefix(b"ERR ").unwrap_or(&text);
    let text = String::from_utf8_lossy(text);
    CommandError::Text(format!(
        "EXECABORT Transaction discarded because of: {text}"
    ))
}

fn discard(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let session = &mut *context.session;
    if !session.transaction.is_open() {
        return Err(CommandError::err("DISCARD without MULTI").into());
    }
    session.transaction.end(context.shared, &session.client);
    reply.ok();
    Ok(())
}

fn watch(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let session = &mut *context.session;
    if session.transaction.is_open() {
        return Err(CommandError::err("WATCH inside MULTI is not allowed").into());
    }
    // If a watched key was already changed, EXEC runs nothing, whatever happens to the further keys.
    if !session.client.watch_round.is_broken() {
        watch_keys(context, args)?;
    }
    reply.ok();
    Ok(())
}

/// Watches the keys one by one. Once a key is watched, no change of it goes unnoticed, and the client reads only after all are
/// watched.
fn watch_keys(context: &mut Context<'_>, args: Args<'_>) -> Result {
    let (transaction, client) = (&mut context.session.transaction, &context.session.client);
    let watcher = transaction.watcher.get_or_insert_with(|| {
        let (client, number) = (client.clone(), client.watch_round.begin());
        Arc::new(RoundWatcher { client, number })
    });
    let number = watcher.number;
    let watcher: Arc<dyn Watcher> = watcher.clone();
    let (engine, db) = (&context.shared.engine, context.session.db);
    let first = 1 + transaction.watch_progress;
    let mut result = Ok(());
    for place in first..args.len() {
        let key = args.key(place);
        let locked = match place < first + KEYS_PER_TURN {
            true => engine.lock_one(key.hash, db, context.now),
            // Treated like a busy shard: WATCH continues here once the other clients have had a turn.
            false => Err(Busy {
                shard: engine.shard_of(key.hash),
            }),
        };
        match locked {
            Ok(mut tx) => {
                if let Some(watched) = tx.watch(key, number, &watcher) {
                    transaction.watched.push(watched);
                    transaction.watched_bytes += key.bytes.len();
                }
            }
            Err(busy) => {
                result = Err(busy.into());
                transaction.watch_progress = place - 1;
                break;
            }
        }
    }
    if result.is_ok() {
        transaction.watch_progress = 0;
    }
    transaction.note_memory(client);
    result
}

fn unwatch(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let session = &mut *context.session;
    session.transaction.unwatch(context.shared, &session.client);
    reply.ok();
    Ok(())
}
