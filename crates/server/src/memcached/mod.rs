//! memcached: its clients' commands that are not about keys, the rows of all its commands, and what its clients share.
//!
//! Requests come from the parser in `protocol/memcached` with their rows ([`Table`]); the commands on keys are in `commands/memcached`. Both run in
//! the same batches as those of RESP. Their names in statistics begin with `memcached|`.

pub mod lru_crawler;
mod stats;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};

use damselfly_base::CommandError;
use damselfly_commands::memcached::{self as keys, Class, Tally};
use damselfly_commands::{Args, Arity, Command, Group, Keys, Result, Run, Stop, Trait};
use damselfly_engine::{Deadline, Key, Now, Tx};
use damselfly_protocol::Reply;
use damselfly_protocol::memcached::{Verb, number, reply};
use damselfly_value::{Attributes, EntryRef, Text};

use crate::clock;
use crate::persistence::shutdown::{NotStopped, Shutdown};
use crate::registry::{Handler, REGISTRY, Row, SessionFn};
use crate::session::{Context, Session, connection_commands};
use crate::shared::Shared;
use crate::statistics::Counter;
use damselfly_config::{LogLevel, ShutdownFlags};

/// The version of memcached whose protocol clients can expect.
const VERSION: &str = "1.6.45";

/// The database that memcached's clients use.
pub const DATABASE: usize = 0;

/// The rows of memcached's commands.
pub struct Table {
    /// By verb.
    rows: Vec<Row>,
    /// The row for storage commands that are refused because memory is short.
    out_of_memory: Row,
    /// The row for `mg` that would create an item, then.
    meta_get_only: Row,
}

/// The rows of memcached's commands.
pub static TABLE: LazyLock<Table> = LazyLock::new(Table::new);

impl Table {
    fn new() -> Self {
        let mut names = Vec::new();
        let mut row = |command: Command<Handler>, permission: usize| {
            let name = format!("memcached|{}", command.name.to_ascii_lowercase());
            // Several verbs may be one command, with one set of statistics.
            let place = names.iter().position(|other| *other == name);
            let place = place.unwrap_or_else(|| {
                names.push(name.clone());
                names.len() - 1
            });
            let mut row = Row::new(command, name, REGISTRY.rows().len() + place, true);
            row.permission = permission;
            row
        };
        let rows = Verb::ALL.iter();
        let rows = rows
            .map(|&verb| row(command(verb), number_of(permission(verb))))
            .collect();
        let out_of_memory = keys::OUT_OF_MEMORY.map(Handler::Memcached);
        let out_of_memory = row(out_of_memory, number_of("set"));
        let meta_get_only = keys::META_GET_ONLY.map(Handler::Memcached);
        let meta_get_only = row(meta_get_only, number_of("set"));
        Self {
            rows,
            out_of_memory,
            meta_get_only,
        }
    }

    /// The row that takes the place of another one while memory is short.
    pub fn without_memory(&self, row: &Row) -> &Row {
        match std::ptr::eq(row, self.row(Verb::MetaGetCreate)) {
            true => &self.meta_get_only,
            false => &self.out_of_memory,
        }
    }

    /// The row of a verb.
    #[inline]
    pub fn row(&self, verb: Verb) -> &Row {
        &self.rows[verb as usize]
    }
}

/// The rows with statistics of their own, in the order of their indexes.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    let mut next = REGISTRY.rows().len();
    let all = TABLE.rows.iter().chain([&TABLE.out_of_memory]);
    all.filter(move |row| {
        let is_first = row.index == next;
        next += usize::from(is_first);
        is_first
    })
}

/// The command of RESP that a user must be allowed to run in order to use a verb. It does not matter for those that are always allowed.
fn permission(verb: Verb) -> &'static str {
    match verb {
        Verb::Get
        | Verb::GetMany
        | Verb::GetPart
        | Verb::Gets
        | Verb::GetsMany
        | Verb::GetsPart
        | Verb::MetaGet
        | Verb::MetaDebug => "get",
        Verb::Gat | Verb::GatPart | Verb::Gats | Verb::GatsPart | Verb::MetaGetTouch => "getex",
        Verb::Set
        | Verb::Add
        | Verb::Replace
        | Verb::Cas
        | Verb::MetaGetCreate
        | Verb::MetaSet
        | Verb::TooLarge
        | Verb::TooLargeToSet => "set",
        Verb::Append => "append",
        Verb::Prepend => "prepend",
        Verb::Touch => "expire",
        Verb::Delete | Verb::MetaDelete => "del",
        Verb::Incr | Verb::MetaArithmetic => "incrby",
        Verb::Decr => "decrby",
        Verb::FlushAll => "flushall",
        Verb::Stats => "info",
        Verb::LruCrawler => "keys",
        Verb::Verbosity => "config|set",
        Verb::Shutdown => "shutdown",
        Verb::MetaNoop
        | Verb::Version
        | Verb::Quit
        | Verb::Authenticate
        | Verb::Unauthenticated
        | Verb::Unknown
        | Verb::BadFormat
        | Verb::BadDelete
        | Verb::BadData
        | Verb::TooManyFlags
        | Verb::TooManyGetFlags => "ping",
    }
}

/// The index of a command of RESP.
fn number_of(name: &str) -> usize {
    let row = REGISTRY.rows().iter().find(|row| row.name == name);
    row.expect("a command of RESP").index
}

/// The row of a verb.
fn command(verb: Verb) -> Command<Handler> {
    if let Some(command) = keys::command(verb) {
        return command.map(Handler::Memcached);
    }
    let (name, run, summary): (_, SessionFn, _) = match verb {
        Verb::MetaNoop => ("MN", noop, "Returns a line."),
        Verb::FlushAll => ("FLUSH_ALL", flush_all, "Removes all keys, now or later."),
        Verb::Stats => ("STATS", stats::stats, "Returns statistics."),
        Verb::LruCrawler => ("LRU_CRAWLER", lru_crawler::run, "Lists all items."),
        Verb::Version => (
            "VERSION",
            version,
            "Returns the version of memcached that clients can expect.",
        ),
        Verb::Verbosity => ("VERBOSITY", verbosity, "Sets how much is logged."),
        Verb::Shutdown => ("SHUTDOWN", shutdown, "Stops the server."),
        Verb::Quit => ("QUIT", quit, "Closes the connection."),
        Verb::Authenticate => ("AUTHENTICATE", authenticate, "Authenticates the client."),
        Verb::Unauthenticated => (
            "UNAUTHENTICATED",
            unauthenticated,
            "Refuses a client that has not authenticated.",
        ),
        Verb::BadFormat => ("ERROR", bad_format, "Reports a line that is wrong."),
        Verb::BadDelete => ("ERROR", bad_delete, "Reports a line that is wrong."),
        Verb::BadData => ("ERROR", bad_data, "Reports data without a line end."),
        Verb::TooManyFlags => ("ERROR", too_many_flags, "Reports a line that is wrong."),
        Verb::TooManyGetFlags => ("ERROR", too_many_get_flags, "Reports a line that is wrong."),
        // The verbs of commands on keys never get here.
        _ => ("ERROR", unknown, "Reports a command that does not exist."),
    };
    Command {
        name,
        arity: Arity::AtLeast(1),
        keys: Keys::None,
        traits: match verb {
            Verb::FlushAll => &[Trait::NoScript, Trait::Writes],
            Verb::LruCrawler => &[Trait::NoScript],
            Verb::Stats | Verb::Verbosity | Verb::Shutdown => {
                &[Trait::NoScript, Trait::Loading, Trait::Stale]
            }
            _ => &[Trait::NoAuth, Trait::NoScript, Trait::Loading, Trait::Stale],
        },
        run: Run::Run(Handler::Session(run)),
        group: Group::Server,
        usage: name,
        summary,
        since: "1.0.0",
        complexity: "O(1)",
    }
}

/// Writes an error of a command.
#[cold]
pub fn write_error(out: &mut Vec<u8>, error: &CommandError) {
    out.extend_from_slice(b"SERVER_ERROR ");
    out.extend(error.to_bytes().into_iter().map(|byte| match byte {
        b'\r' | b'\n' => b' ',
        other => other,
    }));
    out.extend_from_slice(b"\r\n");
}

/// Answers a request that fails, or is refused before it runs.
#[cold]
pub fn refuse(
    session: &mut Session,
    row: &Row,
    args: Args<'_>,
    error: &CommandError,
    reply: &mut Reply<'_>,
) {
    const PARTS: [Verb; 4] = [Verb::GetPart, Verb::GetsPart, Verb::GatPart, Verb::GatsPart];
    if !wants_no_reply(row, args) {
        session.write_error(reply, error);
    }
    // The replies to the other parts of the request would be taken for those to later ones.
    let is_part = |verb| std::ptr::eq(row, TABLE.row(verb));
    session.closing |= PARTS.into_iter().any(is_part);
}

/// True if a request says `noreply`: as its last word, before the data if it has data.
fn wants_no_reply(row: &Row, args: Args<'_>) -> bool {
    let (words_min, data) = match row.command.name {
        "SET" | "ADD" | "REPLACE" | "APPEND" | "PREPEND" | "CAS" => (5, 1),
        "TOUCH" | "INCR" | "DECR" => (3, 0),
        "DELETE" | "VERBOSITY" => (2, 0),
        "FLUSH_ALL" => (1, 0),
        _ => return false,
    };
    let words = args.len() - data;
    words > words_min && args.at(words - 1) == b"noreply"
}

/// Logs a command's changes of items as what they are now: SET, or the new deadline, or DEL. Client flags and marks, which Redis does
/// not have, follow as a message that every server ignores but ours: `ECHO "damselfly:flags ATTRIBUTES KEY"`.
pub fn log_items(tx: &mut Tx<'_>, row: &Row, args: Args<'_>) {
    let only_touches = match row.command.name {
        "TOUCH" | "GAT" | "GATS" => true,
        // With this flag it creates an item.
        "MG" => !args.from(2).any(|flag| flag.starts_with(b"N")),
        _ => false,
    };
    for place in row.command.key_places(args) {
        let key = args.key(place);
        let Some(entry) = tx.view(key) else {
            tx.log_effect(&[b"DEL", key.bytes]);
            continue;
        };
        let (deadline, attributes) = (entry.deadline_ms(), entry.attributes());
        let moment = deadline.map_or_else(String::new, |moment| moment.to_string());
        let value = entry.text().filter(|_| !only_touches).map(text_bytes);
        match (value, deadline) {
            (Some(value), None) => tx.log_effect(&[b"SET", key.bytes, &value]),
            (Some(value), Some(_)) => {
                tx.log_effect(&[b"SET", key.bytes, &value, b"PXAT", moment.as_bytes()]);
            }
            (None, Some(_)) => tx.log_effect(&[b"PEXPIREAT", key.bytes, moment.as_bytes()]),
            (None, None) => tx.log_effect(&[b"PERSIST", key.bytes]),
        }
        if !only_touches || attributes.is_claimed {
            log_attributes(tx, key);
        }
    }
}

/// Logs the attributes of an item, if it has any.
pub fn log_attributes(tx: &mut Tx<'_>, key: Key<'_>) {
    let attributes = tx.view(key).map(EntryRef::attributes);
    let message = attributes.and_then(|attributes| attributes_message(attributes, key.bytes));
    if let Some(message) = message {
        tx.log_effect(&[b"ECHO", &message]);
    }
}

fn text_bytes(text: Text<'_>) -> Vec<u8> {
    match text {
        Text::Integer(number) => number.to_string().into_bytes(),
        Text::Bytes { bytes, .. } => bytes.to_vec(),
        Text::Packed(packed) => packed.to_vec(),
    }
}

/// How a message begins that sets the attributes of an item.
const ATTRIBUTES_MESSAGE: &[u8] = b"damselfly:flags ";

/// The message that sets the attributes of the item at a key; `None` if it has none, as after a SET.
pub fn attributes_message(attributes: Attributes, key: &[u8]) -> Option<Vec<u8>> {
    let text = attributes.to_text()?;
    Some([ATTRIBUTES_MESSAGE, text.as_bytes(), b" ", key].concat())
}

/// The attributes of an item, and its key, if this message of an ECHO sets them.
pub fn attributes_and_key(message: &[u8]) -> Option<(Attributes, &[u8])> {
    let rest = message.strip_prefix(ATTRIBUTES_MESSAGE)?;
    let space = rest.iter().position(|&byte| byte == b' ')?;
    Some((Attributes::from_text(&rest[..space])?, &rest[space + 1..]))
}

/// Sets the attributes of the item at a key of the selected database, whose shard is locked. False if there is none.
pub fn set_attributes(tx: &mut Tx<'_>, key: Key<'_>, attributes: Attributes) -> bool {
    let is_item = tx.view(key).is_some_and(|entry| entry.text().is_some());
    if is_item {
        tx.set_attributes(key, attributes);
    }
    is_item
}

/// What all memcached clients share.
#[derive(Debug, Default)]
pub struct MemcachedState {
    /// When all keys will be removed, in milliseconds since the epoch; zero for never.
    flush_ms: AtomicI64,
    /// How many times a client gave a wrong password.
    wrong_passwords: AtomicU64,
}

impl MemcachedState {
    /// Removes all keys if a delayed `flush_all` is due. If a shard is busy, the next call tries again.
    pub fn flush_if_due(&self, shared: &Shared) {
        let (flush_ms, now) = (self.flush_ms.load(Relaxed), Now(clock::now_ms()));
        if flush_ms == 0 || flush_ms > now.0 {
            return;
        }
        if shared.replication.is_replica() {
            // Its data is that of the primary now.
            self.flush_ms.store(0, Relaxed);
            return;
        }
        let refused_while = TABLE.row(Verb::FlushAll).refused_while;
        let is_refused = !shared.gate.holding(refused_while).is_empty();
        if is_refused || shared.pause.holds(true, now.0).is_some() {
            return;
        }
        if let Ok(mut tx) = shared.engine.lock_all(DATABASE, now) {
            self.flush_ms.store(0, Relaxed);
            tx.flush(DATABASE, true);
            tx.invalidate_all();
            tx.log_effect(&[b"FLUSHDB"]);
        }
    }
}

/// What the memcached clients of one thread did, by [`Class`].
#[derive(Debug, Default)]
pub struct MemcachedCounters([ClassCounters; Class::COUNT]);

#[derive(Debug, Default)]
struct ClassCounters {
    hits: Counter,
    misses: Counter,
    mismatches: Counter,
}

impl MemcachedCounters {
    /// Counts what a command did.
    #[inline]
    pub fn add(&self, tally: Tally) {
        let class = &self.0[tally.class as usize];
        for (counter, more) in [
            (&class.hits, tally.hits),
            (&class.misses, tally.misses),
            (&class.mismatches, tally.mismatches),
        ] {
            if more > 0 {
                counter.add(more.into());
            }
        }
    }

    /// Sets all counters to zero.
    pub fn reset(&self) {
        for class in &self.0 {
            for counter in [&class.hits, &class.misses, &class.mismatches] {
                counter.reset();
            }
        }
    }
}

fn line(reply: &mut Reply<'_>, text: &str) -> Result {
    reply::line(reply.buffer(), text);
    Ok(())
}

/// True if the last word says that the client wants no reply.
fn is_quiet(args: Args<'_>) -> bool {
    args.at(args.len() - 1) == b"noreply"
}

fn line_unless(is_quiet: bool, reply: &mut Reply<'_>, text: &str) -> Result {
    match is_quiet {
        true => Ok(()),
        false => line(reply, text),
    }
}

fn unknown(_: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    line(reply, "ERROR")
}

fn bad_format(_: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    line(reply, "CLIENT_ERROR bad command line format")
}

fn bad_delete(_: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    line(
        reply,
        "CLIENT_ERROR bad command line format.  Usage: delete <key> [noreply]",
    )
}

fn bad_data(_: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    line(reply, "CLIENT_ERROR bad data chunk")
}

fn too_many_flags(_: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    line(reply, "CLIENT_ERROR options flags too long")
}

fn too_many_get_flags(_: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    line(reply, "CLIENT_ERROR options flags are too long")
}

fn noop(_: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    line(reply, "MN")
}

fn version(_: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    line(reply, &format!("VERSION {VERSION}"))
}

fn quit(context: &mut Context<'_>, _: Args<'_>, _: &mut Reply<'_>) -> Result {
    context.session.closing = true;
    Ok(())
}

fn unauthenticated(_: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    line(reply, "CLIENT_ERROR unauthenticated")
}

/// Arguments: the words of a `set`, and user and password as its data.
fn authenticate(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let data = args.at(args.len() - 1);
    // A password may have blanks.
    let mut parts = data.splitn(2, |&byte| byte == b' ');
    let (Some(user), Some(password)) = (parts.next(), parts.next()) else {
        return line(reply, "CLIENT_ERROR bad authentication token format");
    };
    if connection_commands::log_in(context, user, password, args.at(0)).is_err() {
        let state = &context.shared.memcached;
        state.wrong_passwords.fetch_add(1, Relaxed);
        return line(reply, "CLIENT_ERROR authentication failure");
    }
    line(reply, "STORED")
}

/// Arguments: name, perhaps the delay, perhaps `noreply`.
fn flush_all(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let is_quiet = is_quiet(args);
    let delay = match args.len() - usize::from(is_quiet) {
        1 => Some(0),
        _ => number::signed(args.at(1)),
    };
    let Some(delay) = delay else {
        return line_unless(is_quiet, reply, "CLIENT_ERROR invalid exptime argument");
    };
    let state = &context.shared.memcached;
    let flush_ms = match keys::deadline(delay, context.now) {
        Deadline::At(moment) => moment,
        Deadline::Clear | Deadline::Keep => 0,
    };
    if flush_ms == 0 {
        let mut tx = context.lock_all()?;
        tx.flush(DATABASE, true);
        tx.invalidate_all();
        tx.log_effect(&[b"FLUSHDB"]);
    }
    // A later request replaces an earlier one, also one that removes the keys at once.
    state.flush_ms.store(flush_ms, Relaxed);
    line_unless(is_quiet, reply, "OK")
}

/// Arguments: name, level, perhaps `noreply`.
fn verbosity(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let is_quiet = is_quiet(args);
    let Some(level) = number::unsigned_32(args.at(1)) else {
        return line_unless(is_quiet, reply, "CLIENT_ERROR bad command line format");
    };
    let loglevel = match level {
        0 => LogLevel::Notice,
        1 => LogLevel::Verbose,
        _ => LogLevel::Debug,
    };
    context.shared.change_config(|old| {
        let mut config = old.clone();
        config.loglevel = loglevel;
        Ok::<_, CommandError>(config)
    })?;
    log::set_max_level(loglevel.filter());
    line_unless(is_quiet, reply, "OK")
}

/// Arguments: name, perhaps the mode.
fn shutdown(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    if !context.config.memcached_enable_shutdown {
        return line(reply, "ERROR: shutdown not enabled");
    }
    if !(args.len() == 1 || args.len() == 2 && args.at(1) == b"graceful") {
        return line(reply, "CLIENT_ERROR invalid shutdown mode");
    }
    log::warn!("A memcached client requested shutdown...");
    if SHUTDOWN_OPTIONS.takes_long(context.shared) {
        return Err(Stop::Long);
    }
    context.session.closing = true;
    context.shared.stop();
    Ok(())
}

/// The name of the row of `shutdown`.
pub(crate) const SHUTDOWN: &str = "memcached|shutdown";

/// As SIGTERM, but a slow script is not awaited.
const SHUTDOWN_OPTIONS: Shutdown = Shutdown {
    flags: ShutdownFlags {
        save: false,
        nosave: false,
        now: false,
        force: false,
    },
    waits_for_scripts: false,
};

/// The part of `shutdown` that runs on a thread for long commands: it saves first, if there are save points.
pub(crate) fn save_and_shut_down(
    shared: &Arc<Shared>,
    _: Args<'_>,
    reply: &mut Reply<'_>,
) -> Result {
    match SHUTDOWN_OPTIONS.run(shared)? {
        Ok(()) => Ok(()),
        Err(NotStopped::Script(_)) => line(reply, "SERVER_ERROR a script is running"),
        Err(NotStopped::Aborted) => line(reply, "SERVER_ERROR the shutdown was aborted"),
        Err(NotStopped::NotSaved) => {
            log::error!("Error trying to save the DB, can't exit.");
            line(reply, "SERVER_ERROR the data can't be saved, see the log")
        }
    }
}
