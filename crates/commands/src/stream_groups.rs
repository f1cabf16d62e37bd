//! Consumer groups of a stream: XGROUP and XACK.

use damselfly_base::CommandError;
use damselfly_collections::stream::{ConsumerIndex, Group as ReadingGroup};
use damselfly_engine::{Create, Event, Key, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{Stream, StreamId};

use crate::command::{
    Access, Arity, Arity::AtLeast, Arity::Exactly, At::One, Command, Group, KeySpec, Keys, Run,
    Trait, writes,
};
use crate::stream_ids::{parse, parse_exact};
use crate::{Args, KeyspaceFn, Result, long};

const INSERTED: &[KeySpec] = &[writes(One(2), Access::Insert)];
const SHRUNK: &[KeySpec] = &[writes(One(2), Access::Shrink)];
const UPDATED: &[KeySpec] = &[writes(One(2), Access::Update)];

#[expect(clippy::too_many_arguments, reason = "the columns of a table")]
const fn about_group(
    name: &'static str,
    arity: Arity,
    keys: &'static [KeySpec],
    traits: &'static [Trait],
    run: KeyspaceFn,
    usage: &'static str,
    summary: &'static str,
    since: &'static str,
) -> Command<KeyspaceFn> {
    Command {
        name,
        arity,
        keys: Keys::Args(keys),
        traits,
        run: Run::Run(run),
        group: Group::Stream,
        usage,
        summary,
        since,
        complexity: "O(1), plus O(N) to remove N pending entries",
    }
}

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "XGROUP",
        arity: AtLeast(2),
        keys: Keys::None,
        traits: &[],
        run: Run::Subcommands(&[
            about_group(
                "CREATE",
                AtLeast(5),
                INSERTED,
                &[Trait::NeedsMemory],
                create,
                "XGROUP CREATE key group <id | $> [MKSTREAM] [ENTRIESREAD entries-read]",
                "Creates a consumer group that reads the entries of a stream after an id.",
                "5.0.0",
            ),
            about_group(
                "CREATECONSUMER",
                Exactly(5),
                INSERTED,
                &[Trait::NeedsMemory],
                create_consumer,
                "XGROUP CREATECONSUMER key group consumer",
                "Adds a consumer to a consumer group.",
                "6.2.0",
            ),
            about_group(
                "DELCONSUMER",
                Exactly(5),
                SHRUNK,
                &[],
                delete_consumer,
                "XGROUP DELCONSUMER key group consumer",
                "Removes a consumer from a consumer group and returns how many entries were pending for it.",
                "5.0.0",
            ),
            about_group(
                "DESTROY",
                Exactly(4),
                SHRUNK,
                &[],
                destroy,
                "XGROUP DESTROY key group",
                "Removes a consumer group.",
                "5.0.0",
            ),
            about_group(
                "SETID",
                AtLeast(5),
                UPDATED,
                &[],
                set_id,
                "XGROUP SETID key group <id | $> [ENTRIESREAD entries-read]",
                "Sets the id after which a consumer group continues to read.",
                "5.0.0",
            ),
        ]),
        group: Group::Stream,
        usage: "XGROUP",
        summary: "Commands on the consumer groups of a stream.",
        since: "5.0.0",
        complexity: "Depends on subcommand.",
    },
    Command {
        name: "XACK",
        arity: AtLeast(4),
        keys: Keys::Args(&[writes(One(1), Access::Update)]),
        traits: &[Trait::Fast],
        run: Run::Run(xack),
        group: Group::Stream,
        usage: "XACK key group id [id ...]",
        summary: "Acknowledges entries that were delivered to a consumer group and returns how many were pending.",
        since: "5.0.0",
        complexity: "O(log(N)) for each id, where N is the number of pending entries",
    },
];

/// An error that quotes names as C does, up to their first zero byte.
pub(crate) fn refusal(parts: &[&[u8]]) -> CommandError {
    let parts = parts
        .iter()
        .map(|part| part.split(|&byte| byte == 0).next());
    CommandError::Bytes(
        parts
            .map(Option::unwrap_or_default)
            .collect::<Vec<_>>()
            .concat(),
    )
}

/// The error of commands that need the key and the group.
pub(crate) fn no_key_or_group(key: Key<'_>, group: &[u8]) -> CommandError {
    let before = b"NOGROUP No such key '";
    refusal(&[before, key.bytes, b"' or consumer group '", group, b"'"])
}

/// The error of commands whose key exists but lacks the group.
pub(crate) fn no_group(key: Key<'_>, group: &[u8]) -> CommandError {
    let before = b"NOGROUP No such consumer group '";
    refusal(&[before, group, b"' for key name '", key.bytes, b"'"])
}

const NEEDS_KEY: &str = "The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the MKSTREAM option to create an empty stream automatically.";

/// Options of CREATE and SETID.
struct Options {
    makes_stream: bool,
    entries_read: Option<u64>,
}

impl Options {
    fn parse(args: Args<'_>, creates: bool) -> Result<Self> {
        let (mut makes_stream, mut entries_read, mut at) = (false, None, 5);
        while at < args.len() {
            if creates && args.is(at, "MKSTREAM") {
                makes_stream = true;
                at += 1;
            } else if args.is(at, "ENTRIESREAD") && at + 1 < args.len() {
                entries_read = match args.integer(at + 1)? {
                    -1 => None,
                    count => {
                        let text = "value for ENTRIESREAD must be positive or -1";
                        Some(u64::try_from(count).map_err(|_| CommandError::err(text))?)
                    }
                };
                at += 2;
            } else {
                return Err(wrong_number(args).into());
            }
        }
        Ok(Self {
            makes_stream,
            entries_read,
        })
    }
}

fn wrong_number(args: Args<'_>) -> CommandError {
    let before = "unknown subcommand or wrong number of arguments for '";
    CommandError::quoting(before, args.at(1), "'. Try XGROUP HELP.")
}

/// Refuses a request with more than `max` arguments: one that repeats options, otherwise valid.
fn check_count(args: Args<'_>, max: usize) -> Result {
    if args.len() > max {
        return Err(wrong_number(args).into());
    }
    Ok(())
}

/// The stream at a key, for a subcommand that needs it to exist.
fn needed<'t>(tx: &'t mut Tx<'_>, key: Key<'_>) -> Result<&'t Stream> {
    let stream = tx.access_as::<Stream>(key)?;
    Ok(stream.ok_or_else(|| CommandError::err(NEEDS_KEY))?)
}

/// The stream at a key, for a subcommand that needs it and the group to exist.
fn needed_with_group<'t>(tx: &'t mut Tx<'_>, key: Key<'_>, group: &[u8]) -> Result<&'t Stream> {
    let stream = needed(tx, key)?;
    match stream.group(group) {
        Some(_) => Ok(stream),
        None => Err(no_group(key, group).into()),
    }
}

/// The id after which a group reads: `$` for the last one of the stream, or an id that `parse_id` parses.
fn start_of(
    stream: Option<&Stream>,
    text: &[u8],
    parse_id: fn(&[u8], u64) -> Result<StreamId>,
) -> Result<StreamId> {
    match text {
        b"$" => Ok(stream.map_or(StreamId::MIN, Stream::last_id)),
        text => parse_id(text, 0),
    }
}

/// Changes an existing group of a key that the command has accessed already.
pub(crate) fn change_group<R>(
    tx: &mut Tx<'_>,
    key: Key<'_>,
    group: &[u8],
    change: impl FnOnce(&mut ReadingGroup) -> R,
) -> Result<R> {
    let changed = tx.change_used::<Stream, _>(key, Create::Never, |stream| {
        stream.change().change_group(group, change)
    })?;
    Ok(changed
        .flatten()
        .ok_or_else(|| no_key_or_group(key, group))?)
}

/// Counts a change and sends its event, but leaves watchers of the key alone, as Redis does.
pub(crate) fn count_change(tx: &mut Tx<'_>, key: Key<'_>, event: Option<Event>) {
    tx.changed_many(1);
    if let Some(event) = event {
        tx.event(key, event);
    }
}

/// Logs that a consumer was created.
pub(crate) fn log_new_consumer(tx: &mut Tx<'_>, key: Key<'_>, group: &[u8], consumer: &[u8]) {
    tx.log_effect(&[b"XGROUP", b"CREATECONSUMER", key.bytes, group, consumer]);
}

/// Logs the position of a group.
pub(crate) fn log_position(tx: &mut Tx<'_>, key: Key<'_>, name: &[u8]) {
    let Ok(Some(stream)) = tx.peek_as::<Stream>(key) else {
        return;
    };
    let Some(group) = stream.group(name) else {
        return;
    };
    let last = group.last_id.to_string();
    // The option takes no number beyond 63 bits; such a count is useless anyway.
    let read = group.entries_read.and_then(|read| i64::try_from(read).ok());
    let read = read.unwrap_or(-1).to_string();
    tx.log_effect(&[
        b"XGROUP",
        b"SETID",
        key.bytes,
        name,
        last.as_bytes(),
        b"ENTRIESREAD",
        read.as_bytes(),
    ]);
}

/// Logs the state of these pending entries: whose they are, when and how often they were delivered.
pub(crate) fn log_deliveries(tx: &mut Tx<'_>, key: Key<'_>, name: &[u8], ids: &[StreamId]) {
    if !tx.is_logged() || ids.is_empty() {
        return;
    }
    let Ok(Some(stream)) = tx.peek_as::<Stream>(key) else {
        return;
    };
    let Some(group) = stream.group(name) else {
        return;
    };
    let deliveries = ids.iter().filter_map(|id| {
        let pending = group.pending().get(id)?;
        let consumer = group.consumer(pending.consumer).name().to_vec();
        let numbers = (
            pending.delivered_ms.to_string(),
            pending.deliveries.to_string(),
        );
        Some((id.to_string(), consumer, numbers))
    });
    let (last, deliveries): (_, Vec<_>) = (group.last_id.to_string(), deliveries.collect());
    for (id, consumer, (time, count)) in &deliveries {
        tx.log_effect(&[
            b"XCLAIM",
            key.bytes,
            name,
            consumer,
            b"0",
            id.as_bytes(),
            b"TIME",
            time.as_bytes(),
            b"RETRYCOUNT",
            count.as_bytes(),
            b"FORCE",
            b"JUSTID",
            b"LASTID",
            last.as_bytes(),
        ]);
    }
}

/// Logs that entries are no longer pending.
pub(crate) fn log_acknowledged(tx: &mut Tx<'_>, key: Key<'_>, name: &[u8], ids: &[StreamId]) {
    if tx.is_logged() && !ids.is_empty() {
        let ids: Vec<String> = ids.iter().map(StreamId::to_string).collect();
        let mut args = vec![b"XACK", key.bytes, name];
        args.extend(ids.iter().map(String::as_bytes));
        tx.log_effect(&args);
    }
}

/// Marks the consumer of this name as seen now, and adds it if it is new; the second value is true then. If it gets entries, the
/// caller sets the time of that, too.
pub(crate) fn see_consumer(
    group: &mut ReadingGroup,
    name: &[u8],
    now_ms: i64,
) -> (ConsumerIndex, bool) {
    match group.add_consumer(name, now_ms) {
        Some(added) => (added, true),
        None => {
            let found = group
                .find_consumer(name)
                .expect("a consumer that can't be added exists");
            group.consumer_mut(found).seen_ms = now_ms;
            (found, false)
        }
    }
}

fn create(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let options = Options::parse(args, true)?;
    let (key, group) = (args.key(2), args.at(3));
    let stream = match options.makes_stream {
        true => tx.access_as::<Stream>(key)?,
        false => Some(needed(tx, key)?),
    };
    check_count(args, 8)?;
    let (start, is_new) = (start_of(stream, args.at(4), parse_exact)?, stream.is_none());
    let added = tx.change_used::<Stream, _>(key, Create::IfAbsent, |stream| {
        stream
            .change()
            .add_group(group, start, options.entries_read)
    })?;
    if added != Some(true) {
        let text = "BUSYGROUP Consumer Group name already exists";
        return Err(CommandError::Text(text.to_owned()).into());
    }
    match is_new {
        true => tx.changed(key, Event::XgroupCreate),
        false => count_change(tx, key, Some(Event::XgroupCreate)),
    }
    reply.ok();
    Ok(())
}

fn set_id(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let options = Options::parse(args, false)?;
    let (key, group) = (args.key(2), args.at(3));
    let stream = needed_with_group(tx, key, group)?;
    check_count(args, 7)?;
    let start = start_of(Some(stream), args.at(4), parse)?;
    change_group(tx, key, group, |group| {
        (group.last_id, group.entries_read) = (start, options.entries_read);
    })?;
    count_change(tx, key, Some(Event::XgroupSetid));
    reply.ok();
    Ok(())
}

fn pending_count(group: &ReadingGroup) -> usize {
    group.pending().len()
}

fn destroy(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (key, group) = (args.key(2), args.at(3));
    let existing = needed(tx, key)?.group(group);
    let (is_there, pending) = (existing.is_some(), existing.map_or(0, pending_count));
    long::check(tx, pending)?;
    if is_there {
        tx.change_used::<Stream, _>(key, Create::Never, |stream| {
            stream.change().remove_group(group)
        })?;
        // Unblocks the consumers that wait for the group.
        tx.changed(key, Event::XgroupDestroy);
    }
    reply.integer(is_there.into());
    Ok(())
}

fn create_consumer(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (key, group, now_ms) = (args.key(2), args.at(3), tx.now().0);
    needed_with_group(tx, key, group)?;
    let added = change_group(tx, key, group, |group| {
        group.add_consumer(args.at(4), now_ms).is_some()
    })?;
    if added {
        count_change(tx, key, Some(Event::XgroupCreateconsumer));
    }
    reply.integer(added.into());
    Ok(())
}

fn delete_consumer(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (key, group) = (args.key(2), args.at(3));
    let stream = needed_with_group(tx, key, group)?;
    let pending = stream.group(group).map_or(0, pending_count);
    long::check(tx, pending)?;
    let pending = change_group(tx, key, group, |group| group.remove_consumer(args.at(4)))?;
    if pending.is_some() {
        count_change(tx, key, Some(Event::XgroupDelconsumer));
    }
    reply.integer(pending.unwrap_or(0) as i64);
    Ok(())
}

fn xack(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (key, group) = (args.key(1), args.at(2));
    let stream = tx.read_as::<Stream>(key)?;
    if stream.and_then(|stream| stream.group(group)).is_none() {
        reply.integer(0);
        return Ok(());
    }
    for id in args.from(3) {
        parse_exact(id, 0)?;
    }
    let acknowledged = change_group(tx, key, group, |group| {
        let ids = args.from(3).filter_map(|id| parse_exact(id, 0).ok());
        ids.filter(|&id| group.acknowledge(id)).count()
    })?;
    tx.changed_many(acknowledged);
    reply.integer(acknowledged as i64);
    Ok(())
}
