//! DEBUG: inspects the server, and makes it misbehave, for tests. COMMAND shows no subcommands for it, as in Redis, so they have a
//! table of their own.

use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use damselfly_base::{CommandError, number};
use damselfly_commands::Arity::AtLeast;
use damselfly_commands::{Args, Command, Group, Keys, Result, Run, Stop, Trait, encoding_name};
use damselfly_engine::{AccessPolicy, Deadline, Key, Tx, idle_seconds};
use damselfly_log::Targets;
use damselfly_protocol::{Reply, Version};
use damselfly_value::{NewValue, Text};

use crate::admin::digest::{self, Digest};
use crate::admin::serialized_length;
use crate::long_commands::LongRun;
use crate::persistence::reload;
use crate::registry::{Handler, SessionFn};
use crate::scripts::eval_commands;
use crate::session::Context;
use damselfly_config::ClientMemory;

pub(crate) static COMMANDS: &[Command<Handler>] = &[Command {
    name: "DEBUG",
    arity: AtLeast(2),
    keys: Keys::None,
    traits: &[
        Trait::Admin,
        Trait::NoScript,
        Trait::Loading,
        Trait::Stale,
        Trait::Protected,
    ],
    run: Run::Run(Handler::Session(debug)),
    group: Group::Server,
    usage: "DEBUG subcommand [argument ...]",
    summary: "Inspects the server, or makes it misbehave, for tests.",
    since: "1.0.0",
    complexity: "Depends on subcommand.",
}];

struct Subcommand {
    name: &'static str,
    /// The number of arguments that a request may have, including both names.
    args: RangeInclusive<usize>,
    run: SessionFn,
    usage: &'static str,
    summary: &'static str,
}

const fn subcommand(
    name: &'static str,
    args: RangeInclusive<usize>,
    run: SessionFn,
    usage: &'static str,
    summary: &'static str,
) -> Subcommand {
    Subcommand {
        name,
        args,
        run,
        usage,
        summary,
    }
}

const ANY: usize = usize::MAX;

#[rustfmt::skip] // One line per subcommand.
static SUBCOMMANDS: &[Subcommand] = &[
    subcommand("AOF-FLUSH-SLEEP", 3..=3, aof_flush_sleep, "<microseconds>", "Makes the server sleep before it writes to the append-only file."),
    subcommand("CHANGE-REPL-ID", 2..=2, change_replication_id, "", "Begins a new replication id: replicas that connect again synchronise in full."),
    subcommand("CLIENT-EVICTION", 2..=2, client_eviction, "", "Shows how clients are grouped for eviction, if maxmemory-clients is set."),
    subcommand("DICT-RESIZING", 3..=3, accept, "<0|1>", "Does nothing: tables always grow in small steps."),
    subcommand("DIGEST", 2..=2, digest, "", "Returns a digest of all keys and values, the same as Redis for the same data."),
    subcommand("DIGEST-VALUE", 2..=ANY, digest_value, "[<key> ...]", "Returns a digest of the value at each key."),
    subcommand("ERROR", 3..=3, error, "<text>", "Replies with this error."),
    subcommand("HTSTATS", 3..=3, htstats, "<dbid>", "Returns the fill of the hash tables of a database."),
    subcommand("HTSTATS-KEY", 3..=3, htstats_key, "<key>", "Returns the fill of the hash table of a value."),
    subcommand("JMAP", 2..=2, accept, "", "Does nothing: the heap is not profiled."),
    subcommand("LOADAOF", 2..=2, reload::loadaof, "", "Empties the databases and loads the append-only file."),
    subcommand("LOG", 3..=3, log, "<message>", "Writes a message to the log."),
    subcommand("OBJECT", 3..=3, object, "<key>", "Describes how the value at a key is stored, in one line."),
    subcommand("PANIC", 2..=2, panic, "", "Panics, as by a bug, with all locks held: this closes the connection and affects nothing else."),
    subcommand("PAUSE-CRON", 3..=3, accept, "<0|1>", "Does nothing."),
    subcommand("POPULATE", 3..=5, populate, "<count> [<prefix>] [<size>]", "Stores strings at the keys `prefix:0`, `prefix:1` and so on, where they are absent."),
    subcommand("PROTOCOL", 3..=3, protocol, "<type>", "Replies with an example of this type of reply."),
    subcommand("QUICKLIST-PACKED-THRESHOLD", 3..=3, packed_threshold, "<size>", "Only checks the size."),
    subcommand("RELOAD", 2..=ANY, reload::reload, "[MERGE] [NOFLUSH] [NOSAVE]", "Saves the data and loads the file again."),
    subcommand("REPLICATE", 3..=ANY, replicate, "<string> [<string> ...]", "Sends a command to the replicas that is not run here, so that their data may differ."),
    subcommand("REPLYBUFFER", 4..=4, replybuffer, "PEAK-RESET-TIME <NEVER|RESET|milliseconds>", "Does nothing: the size of reply buffers always follows their use."),
    subcommand("SET-ACTIVE-EXPIRE", 3..=3, set_active_expire, "<0|1>", "Pauses or resumes the background removal of expired keys."),
    subcommand("SET-DISABLE-DENY-SCRIPTS", 3..=3, eval_commands::set_deny, "<0|1>", "Lets scripts call server and connection commands that are otherwise forbidden in scripts."),
    subcommand("SET-SKIP-CHECKSUM-VALIDATION", 3..=3, reload::set_skip_checksum, "<0|1>", "Accepts files and payloads with a wrong checksum."),
    subcommand("SLEEP", 3..=3, sleep, "<seconds>", "Replies after this time; only this connection waits."),
    subcommand("STRINGMATCH-LEN", 4..=4, stringmatch_len, "<len> <pattern>", "Matches a string of `len` letters `a` against a pattern."),
    subcommand("TABLE", 2..=2, table, "", "Returns the fill of the hash tables of all databases, as JSON."),
];

fn debug(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    if args.len() == 2 && args.is(1, "HELP") {
        write_help(reply);
        return Ok(());
    }
    let found = SUBCOMMANDS
        .iter()
        .find(|subcommand| args.is(1, subcommand.name) && subcommand.args.contains(&args.len()));
    match found {
        Some(subcommand) => (subcommand.run)(context, args, reply),
        None => Err(unknown(args)),
    }
}

fn unknown(args: Args<'_>) -> damselfly_commands::Stop {
    /// Redis shows this much of the name.
    const SHOWN_BYTES_MAX: usize = 128;
    let name = args.at(1);
    CommandError::quoting(
        "unknown subcommand or wrong number of arguments for '",
        &name[..name.len().min(SHOWN_BYTES_MAX)],
        "'. Try DEBUG HELP.",
    )
    .into()
}

fn write_help(reply: &mut Reply<'_>) {
    reply.array(3 + 2 * SUBCOMMANDS.len());
    reply.simple("DEBUG <subcommand> [<arg> [value] [opt] ...]. Subcommands are:");
    for subcommand in SUBCOMMANDS {
        reply.simple(format!("{} {}", subcommand.name, subcommand.usage).trim_end());
        reply.simple(&format!("    {}", subcommand.summary));
    }
    reply.simple("HELP");
    reply.simple("    Lists the subcommands.");
}

fn change_replication_id(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    context.shared.replication.forget_history();
    reply.ok();
    Ok(())
}

fn accept(_: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply.ok();
    Ok(())
}

fn aof_flush_sleep(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    // Redis takes anything that is no number for 0.
    let sleep_us = number::parse_integer(args.at(2)).and_then(|us| u64::try_from(us).ok());
    context
        .shared
        .aof
        .flush_sleep_us
        .store(sleep_us.unwrap_or(0), Relaxed);
    reply.ok();
    Ok(())
}

fn panic(context: &mut Context<'_>, _: Args<'_>, _: &mut Reply<'_>) -> Result {
    let _tx = context.lock_all()?;
    panic!("DEBUG PANIC");
}

fn client_eviction(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    if context.config.maxmemory_clients == ClientMemory::Bytes(0) {
        return Err(CommandError::err("maxmemory-clients is disabled.").into());
    }
    reply.verbatim(*b"txt", b"Clients are not grouped by memory yet.\n");
    Ok(())
}

fn error(_: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let text = String::from_utf8_lossy(args.at(2)).replace(['\r', '\n'], " ");
    reply.error(text);
    Ok(())
}

fn log(_: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let message = String::from_utf8_lossy(args.at(2)).replace(['\r', '\n'], " ");
    log::warn!("DEBUG LOG: {message}");
    reply.ok();
    Ok(())
}

/// Parses seconds like C: text that is no number is zero.
fn seconds(text: &[u8]) -> Duration {
    let seconds = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0.0);
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

fn sleep(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    context.session.sleeps_until = Instant::now().checked_add(seconds(args.at(2)));
    reply.ok();
    Ok(())
}

fn set_active_expire(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let settings = &context.shared.engine.settings;
    settings.sweep_paused.store(is_zero(args.at(2)), Relaxed);
    reply.ok();
    Ok(())
}

/// Parses an integer like C: text that is no number is zero.
fn is_zero(text: &[u8]) -> bool {
    number::parse_integer(text).unwrap_or(0) == 0
}

fn packed_threshold(_: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    const BYTES_MAX: u64 = 4 << 30;
    let digits = args.at(2).to_ascii_lowercase();
    let (digits, unit) = match digits.iter().position(|byte| !byte.is_ascii_digit()) {
        Some(end) => digits.split_at(end),
        None => (&digits[..], &b""[..]),
    };
    let factor = match unit {
        b"" | b"b" => Some(1),
        b"k" => Some(1000),
        b"kb" => Some(1 << 10),
        b"m" => Some(1_000_000),
        b"mb" => Some(1 << 20),
        b"g" => Some(1_000_000_000),
        b"gb" => Some(1 << 30),
        _ => None,
    };
    let bytes = number::parse_integer(digits)
        .and_then(|number| u64::try_from(number).ok())
        .zip(factor)
        .and_then(|(number, factor)| number.checked_mul(factor));
    if bytes.is_none_or(|bytes| bytes > BYTES_MAX) {
        return Err(CommandError::err(
            "argument must be a memory value bigger than 1 and smaller than 4gb",
        )
        .into());
    }
    reply.ok();
    Ok(())
}

fn replybuffer(_: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    if !args.is(2, "PEAK-RESET-TIME") {
        return Err(unknown(args));
    }
    if !args.is(3, "NEVER") && !args.is(3, "RESET") {
        args.integer(3)?;
    }
    reply.ok();
    Ok(())
}

fn stringmatch_len(_: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    /// The time that matching takes grows with the product of both lengths.
    const LEN_MAX: i64 = 1 << 20;
    let len = args.integer(2)?;
    if !(0..=LEN_MAX).contains(&len) {
        return Err(CommandError::err(format!("len must be within 0 and {LEN_MAX}")).into());
    }
    let text = vec![b'a'; len as usize];
    let matched = damselfly_base::glob::matches(args.at(3), &text);
    reply.integer(matched.into());
    Ok(())
}

fn positive(args: Args<'_>, at: usize) -> Result<u64> {
    number::parse_integer(args.at(at))
        .and_then(|number| u64::try_from(number).ok())
        .ok_or_else(|| CommandError::NotPositive.into())
}

fn populate(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    const AT_ONCE_MAX: u64 = 1 << 12;
    let count = positive(args, 2)?;
    if args.len() == 5 && positive(args, 4)? > context.config.proto_max_bulk_len_bytes {
        return Err(CommandError::StringTooLong.into());
    }
    if count > AT_ONCE_MAX && context.lent.is_none() {
        return Err(Stop::Long);
    }
    let mut tx = context.section();
    let result = populate_shards(&mut tx, args, reply);
    let stored = tx.effects().changes;
    drop(tx);
    context.counters.changes.add(stored);
    result
}

/// DEBUG POPULATE, with valid arguments. Locks only the shard of the current key.
pub fn populate_shards(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let count = positive(args, 2)?;
    let prefix = args.get(3).unwrap_or(b"key");
    let size = args.get(4).map(|_| positive(args, 4)).transpose()?;
    for number in 0..count {
        let key = [prefix, format!(":{number}").as_bytes()].concat();
        let mut value = format!("value:{number}").into_bytes();
        if let Some(size) = size {
            value.resize(size as usize, 0);
        }
        let key = Key::new(&key);
        // If a shard is busy, the command starts over later and skips the keys that it has already stored.
        tx.with_shard(tx.engine().shard_of(key.hash), |tx| {
            if tx.peek(key).is_none() {
                tx.store(key, NewValue::compact(&value), Deadline::Clear);
            }
        })?;
    }
    reply.ok();
    Ok(())
}

fn replicate(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (log, db) = (&context.shared.engine.log, context.session.db);
    if log.wants(Targets::REPLICAS) {
        let words = args.from(2).collect::<Vec<_>>();
        log.append_one(Targets::REPLICAS, db, words.into_iter(), context.now.0);
        context.shared.log.wake();
    }
    reply.ok();
    Ok(())
}

fn object(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let now = context.now;
    let key = args.key(2);
    let mut tx = context.lock_one(key.hash)?;
    // As in Redis, this shows expired keys that are still there, too.
    tx.keep_expired();
    let engine = tx.engine();
    let entry = tx.peek(key).ok_or(CommandError::NoSuchKey)?;
    let idle_s = match engine.settings.access_policy() {
        AccessPolicy::Recency => idle_seconds(entry.access(), now.0),
        AccessPolicy::Frequency { .. } | AccessPolicy::Learned => 0,
    };
    let shared = matches!(entry.text(), Some(Text::Integer(0..10_000)));
    let references = if shared { i32::MAX } else { 1 };
    reply.simple(&format!(
        "Value at:{:p} refcount:{references} encoding:{} serializedlength:{} lru:{} lru_seconds_idle:{idle_s}",
        entry.key().as_ptr(),
        encoding_name(entry.value()),
        serialized_length::serialized_bytes(entry.value()),
        entry.access(),
    ));
    Ok(())
}

fn digest(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    if context.lent.is_none() {
        return Err(Stop::Long);
    }
    digest::digest_shards(&mut context.section(), args, reply)
}

/// The part of DEBUG that runs on a thread for long commands.
pub fn long_part(args: Args<'_>) -> LongRun {
    if args.at(1).eq_ignore_ascii_case(b"POPULATE") {
        LongRun::Keyspace(populate_shards)
    } else if args.at(1).eq_ignore_ascii_case(b"RELOAD") {
        LongRun::Server(reload::reload_alone)
    } else if args.at(1).eq_ignore_ascii_case(b"LOADAOF") {
        LongRun::Server(reload::loadaof_alone)
    } else {
        LongRun::Keyspace(digest::digest_shards)
    }
}

fn digest_value(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply.array(args.len() - 2);
    for at in 2..args.len() {
        let key = args.key(at);
        let mut digest = Digest::default();
        if let Some(entry) = context.lock_one(key.hash)?.peek(key) {
            digest.add_value(entry);
        }
        reply.simple(&digest.hex());
    }
    Ok(())
}

/// The fill of a database's tables, over all shards.
#[derive(Default)]
struct Fill {
    keys: usize,
    deadlines: usize,
    bytes: usize,
    entry_bytes: usize,
    directory: usize,
    segments: usize,
    buckets: usize,
    slots: usize,
    displaced: usize,
}

impl Fill {
    fn of(tx: &mut Tx<'_>, db: usize) -> Self {
        let mut sum = Self::default();
        for shard in 0..tx.engine().shards() {
            let database = &tx.databases(shard)[db];
            let fill = database.fill();
            sum.keys += database.len();
            sum.deadlines += database.deadlines();
            sum.bytes += database.table_bytes();
            sum.entry_bytes += database.entry_bytes();
            sum.directory += fill.directory;
            sum.segments += fill.segments;
            sum.buckets += fill.buckets;
            sum.slots += fill.slots;
            sum.displaced += fill.displaced;
        }
        sum
    }

    fn load_factor(&self) -> f64 {
        self.keys as f64 / self.slots.max(1) as f64
    }
}

fn table(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let mut tx = context.lock_all()?;
    let engine = tx.engine();
    let mut databases = Vec::new();
    for db in 0..engine.databases() {
        let fill = Fill::of(&mut tx, db);
        if fill.segments > 0 {
            databases.push(format!(
                "\"{db}\":{{\"items\":{},\"deadlines\":{},\"directory\":{},\"segments\":{},\"buckets\":{},\"slots\":{},\"displaced\":{},\"load_factor\":{:.4},\"table_bytes\":{},\"entry_bytes\":{}}}",
                fill.keys,
                fill.deadlines,
                fill.directory,
                fill.segments,
                fill.buckets,
                fill.slots,
                fill.displaced,
                fill.load_factor(),
                fill.bytes,
                fill.entry_bytes,
            ));
        }
    }
    let json = format!(
        "{{\"shards\":{},\"databases\":{{{}}}}}",
        engine.shards(),
        databases.join(",")
    );
    reply.verbatim(*b"txt", json.as_bytes());
    Ok(())
}

fn htstats(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let engine = &context.shared.engine;
    let db = usize::try_from(args.integer(2)?)
        .ok()
        .filter(|&db| db < engine.databases())
        .ok_or_else(|| CommandError::err("Out of range database"))?;
    let fill = Fill::of(&mut context.lock_all()?, db);
    let mut text = String::from("[Dictionary HT]\n");
    if fill.keys == 0 {
        text += "No stats available for empty dictionaries\n";
    } else {
        let _ = write!(
            text,
            " table size: {}\n number of elements: {}\n segments: {}\n buckets: {}\n not in their home bucket: {}\n load factor: {:.2}\n",
            fill.slots,
            fill.keys,
            fill.segments,
            fill.buckets,
            fill.displaced,
            fill.load_factor(),
        );
    }
    let _ = write!(
        text,
        "[Expires HT]\nDeadlines are part of the entries: {} entries have one\n",
        fill.deadlines
    );
    reply.verbatim(*b"txt", text.as_bytes());
    Ok(())
}

fn htstats_key(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let key = args.key(2);
    let mut tx = context.lock_one(key.hash)?;
    let entry = tx.peek(key).ok_or(CommandError::NoSuchKey)?;
    match encoding_name(entry.value()) {
        "hashtable" | "skiplist" => {
            reply.verbatim(
                *b"txt",
                b"Tables of collections grow in small steps; there is nothing to rehash.\n",
            );
            Ok(())
        }
        _ => Err(CommandError::err(
            "The value stored at the specified key is not represented using an hash table",
        )
        .into()),
    }
}

fn protocol(_: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let name = args.at(2).to_ascii_lowercase();
    match &name[..] {
        b"string" => reply.bulk(b"Hello World"),
        b"integer" => reply.integer(12345),
        #[expect(clippy::approx_constant, reason = "Redis's example")]
        b"double" => reply.double(3.141),
        b"null" => reply.null(),
        b"array" => {
            reply.array(3);
            (0..3).for_each(|number| reply.integer(number));
        }
        b"set" => {
            reply.set(3);
            (0..3).for_each(|number| reply.integer(number));
        }
        b"map" => {
            reply.map(3);
            for number in 0..3 {
                reply.integer(number);
                reply.boolean(number == 1);
            }
        }
        b"attrib" => {
            if reply.attribute(1) {
                reply.bulk(b"key-popularity");
                reply.array(2);
                reply.bulk(b"key:123");
                reply.integer(90);
            }
            reply.bulk(b"Some real reply following the attribute");
        }
        b"push" => {
            if reply.version() == Version::Resp2 {
                return Err(CommandError::err("RESP2 is not supported by this command").into());
            }
            reply.push(2);
            reply.bulk(b"server-cpu-usage");
            reply.integer(42);
            reply.bulk(b"Some real reply following the push reply");
        }
        b"verbatim" => reply.verbatim(*b"txt", b"This is a verbatim\nstring"),
        name @ (b"true" | b"false") => reply.boolean(name == b"true"),
        b"bignum" => reply.big_number("1234567999999999999999999999999999999"),
        _ => {
            return Err(CommandError::err("Wrong protocol type name. Please use one of the following: string|integer|double|bignum|null|array|set|map|attrib|push|verbatim|true|false").into());
        }
    }
    Ok(())
}
