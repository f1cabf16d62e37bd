//! Transactions: MULTI, EXEC, DISCARD, WATCH and UNWATCH.
//!
//! ```text
//! MULTI ─► queue: rows, arguments one behind the other, hashes of the keys ─► EXEC: all locks at once, ascending
//!                                                                              ├─ a watched key was changed: nothing runs
//!                                                                              └─ every command runs in the one section
//! ```
//!
//! EXEC locks the shards of all keys that the queued commands name, and those of the watched keys, too: so nobody can change
//! one between the look at whether somebody did and the changes that follow. Where a queued command names no keys but uses
//! some, it locks all shards.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use damselfly_base::CommandError;
use damselfly_commands::Arity::{AtLeast, Exactly};
use damselfly_commands::{Args, At, Command, Group, KeySpec, Keys, Result, Run, Trait, looks};
use damselfly_engine::{Engine, Now, Watched, Watcher};
use damselfly_protocol::{Reply, Span};

use crate::clients::Client;
use crate::dispatch::exec;
use crate::registry::{Handler, Locks, Row, WithinMulti};
use crate::session::{Context, Session};

/// Room that the queue of a client keeps for its next transaction.
const KEPT_BYTES_MAX: usize = 16 << 10;

/// How many queues without a transaction a thread keeps.
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
        summary: "Begins a transaction: the commands that follow are queued until EXEC.",
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
        summary: "Runs the queued commands as one, unless a watched key was changed.",
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
        summary: "Ends a transaction without running its commands.",
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
        summary: "Lets the next EXEC do nothing if one of the keys is changed before.",
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
        summary: "Forgets all watched keys.",
        since: "2.2.0",
        complexity: "O(1)",
    },
];

/// What a session remembers of MULTI and WATCH.
#[derive(Default)]
pub struct Transaction {
    /// The queued commands, from MULTI on.
    queue: Option<Box<Queue>>,
    watched: Vec<Watched>,
    /// Bytes of the watched keys.
    watched_bytes: usize,
}

/// Queued commands.
#[derive(Default)]
pub struct Queue {
    commands: Vec<Queued>,
    /// Their arguments, which count from the start of `bytes`.
    spans: Vec<Span>,
    bytes: Vec<u8>,
    /// Those of all keys that they name.
    hashes: Vec<u64>,
    /// One could not be queued: none will run.
    has_failed: bool,
    /// One changes keys.
    writes: bool,
    /// One is refused when memory is short.
    needs_memory: bool,
    /// One needs all locks.
    needs_all_locks: bool,
    /// One runs a script.
    runs_scripts: bool,
    /// The batch of requests in which it began.
    batch: u64,
}

struct Queued {
    row: &'static Row,
    first_span: usize,
    spans: usize,
    /// The hash of its only key, if its row says where that is.
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

    /// The hashes of all keys that they name.
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

    /// The number of the batch of requests in which it began.
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

/// Queues of no transaction, for those to come.
#[derive(Default)]
#[expect(clippy::vec_box, reason = "sessions hold them in boxes")]
pub struct SpareQueues(Vec<Box<Queue>>);

impl SpareQueues {
    /// An empty queue that begins in the batch of that number.
    pub fn take(&mut self, batch: u64) -> Box<Queue> {
        let mut queue = self.0.pop().unwrap_or_default();
        queue.batch = batch;
        queue
    }

    /// Takes a queue back.
    pub fn put(&mut self, mut queue: Box<Queue>) {
        if self.0.len() < SPARE_QUEUES_MAX && queue.memory() <= KEPT_BYTES_MAX {
            queue.clear();
            self.0.push(queue);
        }
    }
}

impl Watcher for Client {
    fn key_changed(&self) {
        self.watch_broken.store(true, Relaxed);
    }
}

impl Transaction {
    /// True from MULTI on.
    #[inline]
    pub fn is_open(&self) -> bool {
        self.queue.is_some()
    }

    /// Begins a transaction, or goes on with one.
    pub fn open(&mut self, queue: Box<Queue>, client: &Client) {
        client.queued.store(queue.commands.len() as isize, Relaxed);
        self.queue = Some(queue);
    }

    /// The queue, to be run.
    pub fn take_queue(&mut self) -> Option<Box<Queue>> {
        self.queue.take()
    }

    /// The hashes of the watched keys.
    pub fn watched_hashes(&self) -> impl Iterator<Item = u64> {
        self.watched.iter().map(|watched| watched.hash)
    }

    /// Bytes of the arguments of all queued commands.
    pub fn queued_bytes(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.bytes.len())
    }

    /// True if EXEC would change keys.
    pub fn writes(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.writes)
    }

    /// True if EXEC would run scripts.
    pub fn runs_scripts(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.runs_scripts)
    }

    /// Lets EXEC run nothing, since a command can't be queued.
    #[inline]
    pub fn fail(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.has_failed = true;
        }
    }

    /// Queues a command; `writes` says whether it may change keys. One that will never run takes no memory.
    pub fn push(&mut self, row: &'static Row, args: Args<'_>, writes: bool, client: &Client) {
        if let Some(queue) = &mut self.queue
            && !queue.has_failed
            && !client.watch_broken.load(Relaxed)
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
    }

    /// Why a command of this row is refused that would not be outside of MULTI.
    #[cold]
    pub fn refusal(&self, row: &Row, is_memory_short: bool) -> Option<CommandError> {
        let queue = self.queue.as_ref()?;
        let needs_memory = match row.within_multi {
            WithinMulti::Refused => {
                let text = "Command not allowed inside a transaction";
                return Some(CommandError::err(text));
            }
            // A queue takes memory, whatever is in it.
            WithinMulti::Queued | WithinMulti::Runs => true,
            WithinMulti::Executes => queue.needs_memory,
            WithinMulti::Leaves => false,
        };
        (needs_memory && is_memory_short).then_some(CommandError::OutOfMemory)
    }

    /// Forgets the queued commands and the watched keys.
    pub fn end(&mut self, engine: &Engine, client: &Client) {
        self.queue = None;
        client.queued.store(-1, Relaxed);
        self.unwatch(engine, client);
    }

    fn unwatch(&mut self, engine: &Engine, client: &Client) {
        self.forget_watched(engine, client);
        self.note_memory(client);
    }

    /// Forgets the watched keys, for now uncounted.
    pub fn forget_watched(&mut self, engine: &Engine, client: &Client) {
        for watched in self.watched.drain(..) {
            engine.unwatch(&watched, client.id);
        }
        self.watched
            .shrink_to(KEPT_BYTES_MAX / size_of::<Watched>());
        self.watched_bytes = 0;
        // From here on nobody tells.
        client.watch_broken.store(false, Relaxed);
    }

    /// True if a watched key was changed or has ended. If it is to stay false, the shards of the watched keys are locked.
    pub fn is_broken(&self, client: &Client, now: Now) -> bool {
        client.watch_broken.load(Relaxed)
            || self.watched.iter().any(|watched| watched.has_expired(now))
    }
}

/// What EXEC answers when it, or a command before it, is refused.
#[cold]
pub fn abort(session: &mut Session, engine: &Engine, error: &CommandError) -> CommandError {
    session.transaction.end(engine, &session.client);
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
    session
        .transaction
        .end(&context.shared.engine, &session.client);
    reply.ok();
    Ok(())
}

fn watch(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let session = &mut *context.session;
    if session.transaction.is_open() {
        return Err(CommandError::err("WATCH inside MULTI is not allowed").into());
    }
    let (transaction, client) = (&mut session.transaction, &session.client);
    // Otherwise EXEC runs nothing whatever happens to further keys.
    if !client.watch_broken.load(Relaxed) {
        let keys = (1..args.len()).map(|place| args.key(place));
        let (engine, mut shards) = (&context.shared.engine, Vec::new());
        let hashes = keys.clone().map(|key| key.hash);
        let mut tx = engine.lock_many(hashes, &mut shards, session.db, context.now)?;
        let watcher: Arc<dyn Watcher> = client.clone();
        for key in keys {
            if let Some(watched) = tx.watch(key, client.id, &watcher) {
                transaction.watched.push(watched);
                transaction.watched_bytes += key.bytes.len();
            }
        }
        transaction.note_memory(client);
    }
    reply.ok();
    Ok(())
}

fn unwatch(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let session = &mut *context.session;
    session
        .transaction
        .unwatch(&context.shared.engine, &session.client);
    reply.ok();
    Ok(())
}
