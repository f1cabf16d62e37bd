//! Applying the stream of a primary.
//!
//! ```text
//! bytes ──► requests ──► groups ──► locks of a group ─► run its commands ─► feed its bytes to the backlog ─► release
//! ```
//!
//! A group is a transaction, or a few commands that have one key each, or a single other command. Its bytes are passed on while its locks
//! are held: so whoever holds all locks finds data and offset at the same position of the stream.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use damselfly_base::CommandError;
use damselfly_base::number::parse_integer;
use damselfly_commands::{Args, KeyspaceFn, Run, Stop};
use damselfly_engine::{Busy, Now, Tx, Unserved};
use damselfly_protocol::{Limits, Progress, Reply, RequestParser, Span, Version};
use damselfly_pubsub::Scope;

use crate::clock;
use crate::dispatch::count_effects;
use crate::gate::Reasons;
use crate::memcached::FLAGS_MESSAGE;
use crate::observers::monitor;
use crate::registry::{Handler, Locks, REGISTRY, Row};
use crate::scripts::function_commands;
use crate::shared::Shared;

/// The most commands in a group that is no transaction: their locks are held for some ten microseconds.
const GROUP_COMMANDS_MAX: usize = 32;

/// A group ends when its commands have this many bytes.
const GROUP_BYTES_MAX: usize = 64 << 10;

/// How many commands are parsed ahead, except for a transaction.
const PARSED_MAX: usize = 256;

/// The longest string that a primary may send.
const BULK_BYTES_MAX: usize = u32::MAX as usize;

/// A transaction or command whose bytes exceed this is refused.
const BUFFERED_BYTES_MAX: usize = 16 << 30;

/// How long the stream waits for subscribers that do not keep up.
const CONGESTION_MAX: Duration = Duration::from_secs(1);

/// How often errors of commands are logged at most.
const ERROR_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Why the stream can't go on.
pub(super) enum Fault {
    /// The link was told to end, or the server stops.
    Ended,
    /// What the primary sent can't be understood: one line.
    Stream(String),
}

/// Applies the stream of one connection.
pub(super) struct Applier {
    shared: Arc<Shared>,
    /// Of the link, as of when the connection began.
    generation: u64,
    parser: RequestParser,
    queue: Queue,
    /// How many bytes of the input are parsed.
    parsed: usize,
    /// The place in the queue of a MULTI whose EXEC has not arrived.
    open_multi: Option<usize>,
    /// The database that the stream has selected.
    db: usize,
    shards: Vec<usize>,
    reply: Vec<u8>,
    to_retry: Vec<Unserved>,
    /// Lines for MONITOR clients.
    monitored: Vec<u8>,
    address: String,
    last_error_log: Option<Instant>,
    /// The primary wants to know how far this replica is.
    pub(super) wants_ack: bool,
}

/// Requests that are parsed, but not applied.
#[derive(Default)]
struct Queue {
    spans: Vec<Span>,
    requests: Vec<Request>,
}

impl Queue {
    fn args<'i>(&'i self, input: &'i [u8], request: &Request) -> Args<'i> {
        let spans = &self.spans[request.first_span..request.first_span + request.spans];
        let key = match request.action {
            Action::OneKey(row, _) => only_key(row).map(|place| (place, request.hash)),
            _ => None,
        };
        Args::new(&input[request.start..], spans, key)
    }
}

/// The place of the only key of a command that has one.
fn only_key(row: &Row) -> Option<usize> {
    match row.locks {
        Locks::One(place) => Some(place),
        Locks::None | Locks::Many | Locks::All => None,
    }
}

/// A request, with its place in the input.
struct Request {
    start: usize,
    end: usize,
    first_span: usize,
    spans: usize,
    action: Action,
    /// The hash of the only key.
    hash: u64,
}

/// What a request does.
#[derive(Clone, Copy)]
enum Action {
    /// A command on one key.
    OneKey(&'static Row, KeyspaceFn),
    /// A command on the keys that its arguments name.
    Keys(&'static Row, KeyspaceFn),
    /// A command that needs all locks.
    AllKeys(&'static Row, KeyspaceFn),
    /// FUNCTION
    Functions(&'static Row),
    Select,
    Multi,
    Exec,
    Publish(Scope),
    /// The client flags of an item of memcached.
    Flags,
    /// REPLCONF GETACK
    Ack,
    /// PING and the like.
    Nothing,
    /// It can't be applied.
    Unknown,
}

impl Action {
    fn of(args: Args<'_>) -> Self {
        let Some(row) = REGISTRY.find_original(args.at(0)) else {
            return Self::Unknown;
        };
        let row = match row.subcommands.is_empty() || args.len() < 2 {
            true => row,
            false => REGISTRY.find_subcommand(row, args.at(1)).unwrap_or(row),
        };
        if !row.command.arity.allows(args.len()) {
            return Self::Unknown;
        }
        if let Run::Run(Handler::Keyspace(run)) | Run::Either(Handler::Keyspace(run), _) =
            row.command.run
        {
            return match row.locks {
                _ if row.needs_all_locks => Self::AllKeys(row, run),
                Locks::One(_) => Self::OneKey(row, run),
                Locks::Many => Self::Keys(row, run),
                Locks::None | Locks::All => Self::AllKeys(row, run),
            };
        }
        match row.name.as_str() {
            "select" => Self::Select,
            "multi" => Self::Multi,
            "exec" => Self::Exec,
            "publish" => Self::Publish(Scope::Cluster),
            "spublish" => Self::Publish(Scope::Slot),
            "echo" => Self::Flags,
            "replconf" if args.is(1, "GETACK") => Self::Ack,
            "ping" | "replconf" | "script|load" | "script|flush" => Self::Nothing,
            name if name.starts_with("function|") => Self::Functions(row),
            _ => Self::Unknown,
        }
    }

    /// True if it can be in a group with others.
    fn is_groupable(self) -> bool {
        match self {
            Self::OneKey(..)
            | Self::Select
            | Self::Publish(_)
            | Self::Flags
            | Self::Ack
            | Self::Nothing
            | Self::Unknown => true,
            Self::Keys(..) | Self::AllKeys(..) | Self::Functions(_) | Self::Multi | Self::Exec => {
                false
            }
        }
    }
}

impl Applier {
    /// Begins in this database.
    pub(super) fn new(shared: &Arc<Shared>, generation: u64, db: usize, address: String) -> Self {
        Self {
            shared: shared.clone(),
            generation,
            parser: RequestParser::new(),
            queue: Queue::default(),
            parsed: 0,
            open_multi: None,
            db,
            shards: Vec::new(),
            reply: Vec::new(),
            to_retry: Vec::new(),
            monitored: Vec::new(),
            address,
            last_error_log: None,
            wants_ack: false,
        }
    }

    /// Applies what is complete in `input`, and returns how many of its bytes are done with. The next call needs the rest.
    ///
    /// # Errors
    /// The stream can't go on. It was applied up to the offset of the history.
    pub(super) fn apply(&mut self, input: &mut [u8]) -> Result<usize, Fault> {
        if input.len() > BUFFERED_BYTES_MAX {
            return Err(Fault::Stream(format!(
                "a transaction of more than {BUFFERED_BYTES_MAX} bytes"
            )));
        }
        self.parse(input)?;
        self.prefetch();
        let mut next = 0;
        while let Some(end) = self.group(next) {
            self.run_group(input, next..end)?;
            next = end;
        }
        if self.shared.engine.log.is_on() {
            self.shared.log.wake();
        }
        if !self.monitored.is_empty() {
            monitor::send(&self.shared, &self.monitored, 0);
            self.monitored.clear();
        }
        let Some(last) = next.checked_sub(1) else {
            return Ok(0);
        };
        let consumed = self.queue.requests[last].end;
        self.drop_first(next, consumed);
        Ok(consumed)
    }

    /// Forgets requests that were applied.
    fn drop_first(&mut self, requests: usize, bytes: usize) {
        let queue = &mut self.queue;
        queue.requests.drain(..requests);
        let first = queue.requests.first();
        let spans = first.map_or(queue.spans.len(), |request| request.first_span);
        queue.spans.drain(..spans);
        for request in &mut queue.requests {
            request.start -= bytes;
            request.end -= bytes;
            request.first_span -= spans;
        }
        self.parsed -= bytes;
        self.open_multi = self.open_multi.map(|at| at - requests);
    }

    fn parse(&mut self, input: &mut [u8]) -> Result<(), Fault> {
        let limits = Limits {
            bulk_bytes_max: BULK_BYTES_MAX,
            ..Limits::default()
        };
        while self.parsed < input.len()
            && (self.queue.requests.len() < PARSED_MAX || self.open_multi.is_some())
        {
            let (start, spans) = (self.parsed, &mut self.queue.spans);
            let first_span = spans.len();
            match self.parser.parse(&mut input[start..], spans, &limits) {
                Ok(Progress::Complete { consumed }) => self.parsed += consumed,
                Ok(Progress::Incomplete { .. }) => return Ok(()),
                Err(error) => return Err(Fault::Stream(error.to_string())),
            }
            let request = self.request(input, start, first_span);
            match request.action {
                Action::Multi => self.open_multi = Some(self.queue.requests.len()),
                Action::Exec => self.open_multi = None,
                _ => {}
            }
            self.queue.requests.push(request);
        }
        Ok(())
    }

    /// The request whose spans were parsed last.
    fn request(&self, input: &[u8], start: usize, first_span: usize) -> Request {
        let spans = &self.queue.spans[first_span..];
        let args = Args::new(&input[start..], spans, None);
        let action = match spans {
            [] => Action::Nothing,
            _ => Action::of(args),
        };
        let key = match action {
            Action::OneKey(row, _) => only_key(row).map(|place| args.at(place)),
            Action::Flags => flags_and_key(args).map(|(_, key)| key),
            _ => None,
        };
        Request {
            start,
            end: self.parsed,
            first_span,
            spans: spans.len(),
            action,
            hash: key.map_or(0, damselfly_base::hash),
        }
    }

    /// Prefetches the locks that commands on single keys will take.
    fn prefetch(&self) {
        let engine = &self.shared.engine;
        for request in self.queue.requests.iter().take(PARSED_MAX) {
            if let Action::OneKey(..) = request.action {
                engine.prefetch_shard(request.hash);
            }
        }
    }

    /// The end of the group that begins at a request, if it is complete.
    fn group(&self, from: usize) -> Option<usize> {
        let requests = &self.queue.requests;
        let first = requests.get(from)?;
        if let Action::Multi = first.action {
            if self.open_multi == Some(from) {
                return None;
            }
            let is_exec = |request: &Request| matches!(request.action, Action::Exec);
            let length = requests[from..].iter().position(is_exec)?;
            return Some(from + length + 1);
        }
        if !first.action.is_groupable() {
            return Some(from + 1);
        }
        let rest = requests[from..].iter().take(GROUP_COMMANDS_MAX);
        let fits = |request: &&Request| {
            request.action.is_groupable() && request.start - first.start < GROUP_BYTES_MAX
        };
        Some(from + rest.take_while(fits).count())
    }

    /// Applies the requests of a group in one section, and passes their bytes on.
    fn run_group(&mut self, input: &[u8], group: Range<usize>) -> Result<(), Fault> {
        let shared = self.shared.clone();
        let started = Instant::now();
        let (mut shards, mut needs_all) = (std::mem::take(&mut self.shards), false);
        let db_before = self.db;
        self.check_disk()?;
        let result = loop {
            while shared.engine.log.is_on() && shared.engine.log.is_congested() {
                shared.log.wake();
                std::thread::sleep(Duration::from_millis(1));
                self.check()?;
            }
            match self.try_group(&shared, input, group.clone(), &mut shards, needs_all) {
                Ok(true) => break Ok(()),
                Ok(false) => needs_all = true,
                Err(TryError::Fault(fault)) => break Err(fault),
                Err(TryError::Busy(busy)) => {
                    self.check()?;
                    shared.replication.link.wait_for_shard(&shared, busy);
                }
            }
            self.db = db_before;
        };
        self.shards = shards;
        while let Some(next) = self.to_retry.pop() {
            match shared.engine.serve_waiters(&next, Now(clock::now_ms())) {
                Ok(more) => self.to_retry.extend(more),
                Err(busy) => {
                    self.check()?;
                    self.to_retry.push(next);
                    shared.replication.link.wait_for_shard(&shared, busy);
                }
            }
        }
        let took_ns = started.elapsed().as_nanos() as u64 / group.len() as u64;
        for request in &self.queue.requests[group] {
            if let Action::OneKey(row, _) | Action::Keys(row, _) | Action::AllKeys(row, _) =
                request.action
            {
                let counters = &shared.replication.link.counters;
                counters.commands[row.index].record(took_ns, false);
            }
        }
        result
    }

    /// Ends the stream while changes can't be written to the disk, unless `replica-ignore-disk-write-errors` is set.
    fn check_disk(&self) -> Result<(), Fault> {
        let gate = &self.shared.gate;
        let failed = gate.holding(Reasons::SAVING_FAILED.and(Reasons::LOG_FAILED));
        if failed.is_empty() || self.shared.config().replica_ignore_disk_write_errors {
            return Ok(());
        }
        Err(Fault::Stream(String::from(
            "this replica can't write to its disk, as the log above says, and goes on when it can again; set 'replica-ignore-disk-write-errors' to go on without",
        )))
    }

    /// Ends the stream if the link was told so.
    fn check(&self) -> Result<(), Fault> {
        let link = &self.shared.replication.link;
        match link.is_current(self.generation) && !self.shared.stopping.load(Relaxed) {
            true => Ok(()),
            false => Err(Fault::Ended),
        }
    }

    /// Applies a group. False if it has to be tried again with all locks.
    fn try_group(
        &mut self,
        shared: &Shared,
        input: &[u8],
        group: Range<usize>,
        shards: &mut Vec<usize>,
        needs_all: bool,
    ) -> Result<bool, TryError> {
        let (engine, now) = (&shared.engine, Now(clock::now_ms()));
        let is_whole = needs_all || !self.find_shards(input, group.clone(), shards);
        let mut tx = match is_whole {
            true => engine.lock_all(self.db, now)?,
            false => engine.lock_shards(shards, self.db, now)?,
        };
        self.check()?;
        tx.keep_expired();
        let queue = std::mem::take(&mut self.queue);
        let requests = &queue.requests[group];
        let is_one = |request: &&Request| matches!(request.action, Action::OneKey(..));
        tx.prefetch(requests.iter().filter(is_one).map(|request| request.hash));
        let mut run_all = || {
            for request in requests {
                let args = queue.args(input, request);
                if !self.run_one(shared, &mut tx, request.action, args)? {
                    // The only command of the group: nothing was done.
                    return Ok(false);
                }
            }
            Ok(true)
        };
        let done: Result<bool, Fault> = run_all();
        let (first, last) = (&requests[0], &requests[requests.len() - 1]);
        let (bytes, is_transaction) =
            (first.start..last.end, matches!(first.action, Action::Multi));
        self.queue = queue;
        if !done? {
            return Ok(false);
        }
        if !is_transaction {
            tx.set_effects_loose();
        }
        let link = &shared.replication.link;
        link.stream_db.store(self.db, Relaxed);
        shared.replication.feed(shared, &input[bytes]);
        if tx.has_extras() {
            tx.expire_as_usual();
            self.to_retry.extend(tx.serve_waiters());
        }
        count_effects(&link.counters, tx.effects());
        Ok(true)
    }

    /// Finds the shards of a group; false if it needs all of them.
    fn find_shards(&self, input: &[u8], group: Range<usize>, shards: &mut Vec<usize>) -> bool {
        let engine = &self.shared.engine;
        shards.clear();
        for request in &self.queue.requests[group] {
            match request.action {
                Action::OneKey(..) | Action::Flags => shards.push(engine.shard_of(request.hash)),
                Action::Keys(row, _) => {
                    let args = self.queue.args(input, request);
                    let places = row.command.key_places(args);
                    let hashes = places.map(|place| damselfly_base::hash(args.at(place)));
                    shards.extend(hashes.map(|hash| engine.shard_of(hash)));
                }
                Action::AllKeys(..) | Action::Functions(_) => return false,
                Action::Select
                | Action::Multi
                | Action::Exec
                | Action::Publish(_)
                | Action::Ack
                | Action::Nothing
                | Action::Unknown => {}
            }
        }
        if shards.is_empty() {
            // The offset changes under at least one lock.
            shards.push(0);
        }
        true
    }

    /// Applies one request. False if it needs all locks.
    fn run_one(
        &mut self,
        shared: &Shared,
        tx: &mut Tx<'_>,
        action: Action,
        args: Args<'_>,
    ) -> Result<bool, Fault> {
        let mut failed = None;
        match action {
            Action::OneKey(row, run) | Action::Keys(row, run) | Action::AllKeys(row, run) => {
                tx.set_db(self.db);
                self.reply.clear();
                let mut reply = Reply::new(&mut self.reply, Version::Resp2);
                match damselfly_commands::run(run, tx, args, &mut reply) {
                    // As in a transaction, a command that would wait finds nothing.
                    Ok(()) | Err(Stop::SlicedReply(_) | Stop::Wait(_)) => {}
                    Err(Stop::NeedsAllLocks) => return Ok(false),
                    Err(Stop::Error(error)) => failed = Some(error),
                    Err(Stop::Busy(_) | Stop::Long | Stop::LongUnlocked(_)) => {
                        failed = Some(CommandError::err("the command could not run"));
                    }
                }
                if shared.monitors.load(Relaxed) > 0 {
                    let from = (self.db, self.address.as_str());
                    monitor::show_applied(&mut self.monitored, from, row, args);
                }
            }
            Action::Functions(row) => {
                failed = function_commands::repeat(shared, &row.name, args).err();
                if failed.is_none() {
                    tx.log_args(args.from(0));
                }
            }
            Action::Select => self.db = database(shared, args)?,
            Action::Publish(scope) => self.publish(shared, scope, args),
            Action::Flags => set_flags(tx, self.db, args),
            Action::Ack => self.wants_ack = true,
            Action::Multi | Action::Exec | Action::Nothing => {}
            Action::Unknown => failed = Some(CommandError::err("the command can't be applied")),
        }
        if let Some(error) = failed {
            self.note_error(shared, args, &error);
        }
        Ok(true)
    }

    fn publish(&self, shared: &Shared, scope: Scope, args: Args<'_>) {
        let (pubsub, thread) = (&shared.pubsub, shared.threads.len());
        let published = pubsub.publish(thread, scope, args.at(1), args.at(2), 0);
        pubsub.send(thread, &shared.threads);
        let Some(to) = published.congested else {
            return;
        };
        let started = Instant::now();
        while shared.is_congested(thread, to) && started.elapsed() < CONGESTION_MAX {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Counts a command that failed, as it did not on the primary, and logs it.
    #[cold]
    fn note_error(&mut self, shared: &Shared, args: Args<'_>, error: &CommandError) {
        let link = &shared.replication.link;
        link.errors.fetch_add(1, Relaxed);
        link.counters.count_error(&error.to_bytes());
        if self
            .last_error_log
            .is_some_and(|last| last.elapsed() < ERROR_LOG_INTERVAL)
        {
            return;
        }
        self.last_error_log = Some(Instant::now());
        log::error!(
            "== CRITICAL == This replica is sending an error to its master: '{error}' after processing the command '{}'. Their data may differ from now on.",
            args.at(0).escape_ascii()
        );
    }
}

/// Why a group was not applied.
enum TryError {
    Busy(Busy),
    Fault(Fault),
}

impl From<Busy> for TryError {
    fn from(busy: Busy) -> Self {
        Self::Busy(busy)
    }
}

impl From<Fault> for TryError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// The database that SELECT names.
fn database(shared: &Shared, args: Args<'_>) -> Result<usize, Fault> {
    let databases = shared.engine.databases();
    parse_integer(args.at(1))
        .and_then(|db| usize::try_from(db).ok())
        .filter(|&db| db < databases)
        .ok_or_else(|| {
            Fault::Stream(format!(
                "it selects the database {}, but the option 'databases' is {databases}: raise it and restart",
                args.at(1).escape_ascii()
            ))
        })
}

/// The client flags of a memcached item, and its key, if this ECHO is about them.
fn flags_and_key<'i>(args: Args<'i>) -> Option<(u32, &'i [u8])> {
    let message = args.get(1)?.strip_prefix(FLAGS_MESSAGE)?;
    let space = message.iter().position(|&byte| byte == b' ')?;
    let flags = std::str::from_utf8(&message[..space]).ok()?;
    Some((flags.parse().ok()?, &message[space + 1..]))
}

/// Sets the client flags of a memcached item, whose shard is locked.
fn set_flags(tx: &mut Tx<'_>, db: usize, args: Args<'_>) {
    if let Some((flags, key)) = flags_and_key(args) {
        let key = damselfly_engine::Key::new(key);
        tx.set_db(db);
        if tx.view(key).is_some_and(|entry| entry.text().is_some()) {
            tx.set_attributes(key, damselfly_value::Attributes::of_flags(flags));
        }
    }
}
