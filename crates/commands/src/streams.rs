//! Streams: adding and removing entries with XADD, XDEL, XTRIM and their relatives.

use damselfly_base::CommandError;
use damselfly_collections::stream::{ENTRY_BYTES_MAX, Exactness, References, Removals, Trim};
use damselfly_engine::{Create, Event, Key, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{Collection, Stream, StreamId, StreamMut};
use std::sync::atomic::Ordering::Relaxed;

use crate::command::{
    Access, Arity::AtLeast, Arity::Exactly, At::One, Command, Group, Keys, Run, Trait, looks,
    writes,
};
use crate::stream_ids::{NewId, parse_exact, reply_id};
use crate::stream_removals::{log_removals, references_named};
use crate::{Args, KeyspaceFn, Result, long};

const NONDETERMINISTIC: Trait = Trait::Tip("nondeterministic_output");

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "XADD",
        arity: AtLeast(5),
        keys: Keys::Args(&[writes(One(1), Access::Update)]),
        traits: &[Trait::NeedsMemory, Trait::Fast, NONDETERMINISTIC],
        run: Run::Run(xadd),
        group: Group::Stream,
        usage: "XADD key [NOMKSTREAM] [KEEPREF | DELREF | ACKED] [<MAXLEN | MINID> [= | ~] threshold [LIMIT count]] <* | id> field value [field value ...]",
        summary: "Appends an entry to a stream, creating the stream if the key is absent, and returns the entry's id.",
        since: "5.0.0",
        complexity: "O(1) to add, O(N) to trim where N is the number of entries removed",
    },
    Command {
        name: "XLEN",
        arity: Exactly(2),
        keys: Keys::Args(&[looks(One(1))]),
        traits: &[Trait::Fast],
        run: Run::Run(xlen),
        group: Group::Stream,
        usage: "XLEN key",
        summary: "Returns the number of entries of a stream.",
        since: "5.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "XDEL",
        arity: AtLeast(3),
        keys: Keys::Args(&[writes(One(1), Access::Shrink)]),
        traits: &[Trait::Fast],
        run: Run::Run(xdel),
        group: Group::Stream,
        usage: "XDEL key id [id ...]",
        summary: "Removes entries from a stream and returns how many existed.",
        since: "5.0.0",
        complexity: "O(log(N)) for each id, where N is the number of nodes",
    },
    Command {
        name: "XTRIM",
        arity: AtLeast(4),
        keys: Keys::Args(&[writes(One(1), Access::Shrink)]),
        traits: &[NONDETERMINISTIC],
        run: Run::Run(xtrim),
        group: Group::Stream,
        usage: "XTRIM key <MAXLEN | MINID> [= | ~] threshold [LIMIT count] [KEEPREF | DELREF | ACKED]",
        summary: "Trims a stream to a number of entries, or to the entries with ids not lower than one given.",
        since: "5.0.0",
        complexity: "O(N) where N is the number of entries removed",
    },
    Command {
        name: "XSETID",
        arity: AtLeast(3),
        keys: Keys::Args(&[writes(One(1), Access::Update)]),
        traits: &[Trait::NeedsMemory, Trait::Fast],
        run: Run::Run(xsetid),
        group: Group::Stream,
        usage: "XSETID key last-id [ENTRIESADDED entries-added] [MAXDELETEDID max-deleted-id]",
        summary: "Sets the last id of a stream, for internal use.",
        since: "5.0.0",
        complexity: "O(1)",
    },
];

/// The options of XADD and XTRIM.
struct Options {
    trim: Option<(Trim, Exactness)>,
    references: References,
    /// NOMKSTREAM: an absent key is not created.
    only_existing: bool,
    /// The index after the last option.
    end: usize,
}

/// The limit of a trim without LIMIT, if nodes may have any number of entries.
const TRIMMED_DEFAULT: u64 = 10_000;
/// The most that the limit of a trim without LIMIT can be.
const TRIMMED_DEFAULT_MAX: u64 = 1_000_000;

/// The number of entries of a node, for an estimate.
const STEPS_PER_NODE: usize = 100;

fn trimmed_default(tx: &Tx<'_>) -> u64 {
    let entries_max = &tx.engine().settings.thresholds.stream_node_max_entries;
    match entries_max.load(Relaxed).saturating_mul(100) {
        0 => TRIMMED_DEFAULT,
        limit => limit.min(TRIMMED_DEFAULT_MAX),
    }
}

impl Options {
    /// Parses options from argument 2 on: up to the id if `adds`, otherwise to the end.
    fn parse(tx: &Tx<'_>, args: Args<'_>, adds: bool) -> Result<Self> {
        let (mut trim, mut is_rough, mut limit) = (None, false, None);
        let (mut at, mut only_existing, mut references) = (2, false, None);
        while at < args.len() {
            let has_more = at + 1 < args.len();
            if adds && args.at(at) == b"*" {
                break;
            }
            if has_more && (args.is(at, "MAXLEN") || args.is(at, "MINID")) {
                if trim.is_some() {
                    return Err(CommandError::err("syntax error, MAXLEN and MINID options at the same time are not compatible").into());
                }
                let is_length = args.is(at, "MAXLEN");
                is_rough = false;
                if at + 2 < args.len() && matches!(args.at(at + 1), b"~" | b"=") {
                    is_rough = args.at(at + 1) == b"~";
                    at += 1;
                }
                trim = Some(if is_length {
                    Trim::Length(not_negative(args, at + 1, "MAXLEN")?)
                } else {
                    Trim::Ids(parse_exact(args.at(at + 1), 0)?)
                });
                at += 2;
            } else if has_more && args.is(at, "LIMIT") {
                limit = Some(not_negative(args, at + 1, "LIMIT")?);
                at += 2;
            } else if adds && args.is(at, "NOMKSTREAM") {
                only_existing = true;
                at += 1;
            } else if references.is_none()
                && let Some(named) = references_named(args, at)
            {
                references = Some(named);
                at += 1;
            } else if adds {
                // Anything else must be the id.
                NewId::parse(args.at(at))?;
                break;
            } else {
                return Err(CommandError::Syntax.into());
            }
        }
        if trim.is_none() && limit.is_some_and(|limit| limit > 0) {
            return Err(CommandError::err(
                "syntax error, LIMIT cannot be used without specifying a trimming strategy",
            )
            .into());
        }
        if !adds && trim.is_none() {
            let text = "syntax error, XTRIM must be called with a trimming strategy";
            return Err(CommandError::err(text).into());
        }
        // Redis replaces `~` for its replicas and its append-only file by what the trim came to, and leaves LIMIT.
        if limit.is_some() && !is_rough && !tx.repeats_effects() {
            return Err(CommandError::err(
                "syntax error, LIMIT cannot be used without the special ~ option",
            )
            .into());
        }
        let exactness = if is_rough {
            Exactness::Nodes(limit.unwrap_or_else(|| trimmed_default(tx)))
        } else {
            Exactness::Exact
        };
        Ok(Self {
            trim: trim.map(|by| (by, exactness)),
            references: references.unwrap_or_default(),
            only_existing,
            end: at,
        })
    }

    /// Logs XADD with the id that the entry got, and with the length to which a rough trim has cut the stream: how far it cuts depends
    /// on how the stream is stored.
    fn log_add(&self, tx: &mut Tx<'_>, args: Args<'_>, id: StreamId, len: usize) {
        let (id, len) = (id.to_string(), len.to_string());
        let mut logged = vec![b"XADD", args.at(1)];
        match self.trim {
            // What such a trim removes is logged apart.
            Some(_) if self.references != References::Keep => {}
            Some((_, Exactness::Nodes(_))) => {
                logged.extend([&b"MAXLEN"[..], b"=", len.as_bytes()]);
            }
            Some((_, Exactness::Exact)) | None => {
                let is_known = |at: &usize| references_named(args, *at).is_none();
                logged.extend((2..self.end).filter(is_known).map(|at| args.at(at)));
            }
        }
        logged.push(id.as_bytes());
        logged.extend(args.from(self.end + 1));
        tx.log_effect(&logged);
    }

    /// Trims a stream, and returns how many entries it removed. If references matter, `removals` gets what it removed.
    fn trim(&self, stream: &mut StreamMut<'_>, removals: &mut Removals) -> u64 {
        self.trim.map_or(0, |(by, exactness)| {
            let stream = stream.change();
            stream.trim_with(by, exactness, self.references, removals)
        })
    }

    /// Logs a trim that other servers do not know.
    fn log_trim(&self, tx: &mut Tx<'_>, key: Key<'_>, removals: &Removals) {
        if self.references == References::Keep || removals.removed.is_empty() {
            return;
        }
        log_removals(tx, key, removals);
        // A trim leaves the highest deleted id alone, unlike XDEL.
        let Ok(Some(stream)) = tx.peek_as::<Stream>(key) else {
            return;
        };
        let (last, added, deleted) = (
            stream.last_id().to_string(),
            stream.added().to_string(),
            stream.deleted_max().to_string(),
        );
        tx.log_effect(&[
            b"XSETID",
            key.bytes,
            last.as_bytes(),
            b"ENTRIESADDED",
            added.as_bytes(),
            b"MAXDELETEDID",
            deleted.as_bytes(),
        ]);
    }

    /// Moves the command to another thread if it trims many entries.
    fn check(&self, tx: &mut Tx<'_>, key: Key<'_>) -> Result {
        let Some((by, exactness)) = self.trim else {
            return Ok(());
        };
        let stream = tx.peek(key).and_then(Stream::view);
        let nodes = stream.map_or(0, |stream| stream.trimmed_nodes(by));
        let nodes_max = match exactness {
            Exactness::Exact | Exactness::Nodes(0) => usize::MAX,
            Exactness::Nodes(limit) => usize::try_from(limit).unwrap_or(usize::MAX),
        };
        // A trim that has to look at references looks at every entry.
        let steps_per_node = match self.references {
            References::Keep => 1,
            References::Remove | References::Respect => STEPS_PER_NODE,
        };
        long::check(tx, nodes.min(nodes_max).saturating_mul(steps_per_node))
    }
}

fn not_negative(args: Args<'_>, at: usize, option: &str) -> Result<u64> {
    let number = u64::try_from(args.integer(at)?);
    let refused = |_| CommandError::err(format!("The {option} argument must be >= 0."));
    Ok(number.map_err(refused)?)
}

const EXHAUSTED: &str = "The stream has exhausted the last possible ID, unable to add more items";
const TOO_LARGE: &str = "Elements are too large to be stored";
const NOT_HIGHER: &str =
    "The ID specified in XADD is equal or smaller than the target stream top item";

/// The id of an entry that follows `last`.
fn id_after(
    last: StreamId,
    wanted: NewId,
    now_ms: i64,
) -> std::result::Result<StreamId, &'static str> {
    let next = last.next().ok_or(EXHAUSTED)?;
    let id = match wanted {
        NewId::Now => next.max(StreamId::new(now_ms as u64, 0)),
        NewId::At(ms) if ms == last.ms && next.ms != ms => return Err(TOO_LARGE),
        NewId::At(ms) if ms == last.ms => next,
        NewId::At(ms) => StreamId::new(ms, 0),
        NewId::Exactly(id) => id,
    };
    if id > last { Ok(id) } else { Err(NOT_HIGHER) }
}

fn xadd(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let options = Options::parse(tx, args, true)?;
    let fields_at = options.end + 1;
    let texts = args.len().saturating_sub(fields_at);
    if texts < 2 || texts % 2 == 1 {
        return Err(CommandError::Arity("xadd".to_owned()).into());
    }
    let wanted = NewId::parse(args.at(options.end))?;
    if wanted == NewId::Exactly(StreamId::MIN) {
        let text = "The ID specified in XADD must be greater than 0-0";
        return Err(CommandError::err(text).into());
    }
    let pairs = (0..texts / 2).map(|pair| {
        let at = fields_at + 2 * pair;
        (args.at(at), args.at(at + 1))
    });
    let text_bytes: usize = args.from(fields_at).map(<[u8]>::len).sum();
    let (key, now_ms) = (args.key(1), tx.now().0);
    options.check(tx, key)?;
    let create = if options.only_existing {
        Create::Never
    } else {
        Create::IfAbsent
    };
    let (mut len, mut removals) = (0, Removals::default());
    let added = tx.change::<Stream, _>(key, create, |stream| {
        let id = id_after(stream.view().last_id(), wanted, now_ms)?;
        if text_bytes > ENTRY_BYTES_MAX {
            return Err(TOO_LARGE);
        }
        stream.push(id, pairs);
        let trimmed = options.trim(stream, &mut removals);
        len = stream.view().len();
        Ok((id, trimmed))
    })?;
    match added {
        None => reply.null(),
        Some(Err(refusal)) => return Err(CommandError::err(refusal).into()),
        Some(Ok((id, trimmed))) => {
            tx.changed(key, Event::Xadd);
            if trimmed > 0 {
                tx.event(key, Event::Xtrim);
            }
            if tx.is_logged() {
                options.log_add(tx, args, id, len);
                options.log_trim(tx, key, &removals);
            }
            reply_id(id, reply);
        }
    }
    Ok(())
}

fn xlen(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let stream = tx.read_as::<Stream>(args.key(1))?;
    reply.integer(stream.map_or(0, Stream::len) as i64);
    Ok(())
}

fn xdel(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let key = args.key(1);
    if tx.access_as::<Stream>(key)?.is_none() {
        reply.integer(0);
        return Ok(());
    }
    for id in args.from(2) {
        parse_exact(id, 0)?;
    }
    let removed = tx.change_used::<Stream, _>(key, Create::Never, |stream| {
        let ids = args.from(2).filter_map(|id| parse_exact(id, 0).ok());
        let stream = stream.change();
        ids.filter(|&id| stream.remove(id)).count()
    })?;
    let removed = removed.unwrap_or(0);
    if removed > 0 {
        tx.changed_elements(key, Event::Xdel, removed);
    }
    reply.integer(removed as i64);
    Ok(())
}

fn xtrim(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let options = Options::parse(tx, args, false)?;
    let key = args.key(1);
    options.check(tx, key)?;
    let (mut len, mut removals) = (0, Removals::default());
    let trimmed = tx.change::<Stream, _>(key, Create::Never, |stream| {
        let trimmed = options.trim(stream, &mut removals);
        len = stream.view().len();
        trimmed
    })?;
    let trimmed = trimmed.unwrap_or(0);
    if trimmed > 0 {
        tx.changed_elements(key, Event::Xtrim, trimmed as usize);
        if options.references != References::Keep {
            options.log_trim(tx, key, &removals);
        } else if let Some((_, Exactness::Nodes(_))) = options.trim {
            let len = len.to_string();
            tx.log_effect(&[b"XTRIM", key.bytes, b"MAXLEN", b"=", len.as_bytes()]);
        } else if tx.is_logged() {
            let is_known = |at: &usize| references_named(args, *at).is_none();
            let kept: Vec<&[u8]> = (0..args.len())
                .filter(is_known)
                .map(|at| args.at(at))
                .collect();
            tx.log_effect(&kept);
        }
    }
    reply.integer(trimmed as i64);
    Ok(())
}

fn xsetid(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let refused = |text: &str| Err(CommandError::err(text).into());
    let last = parse_exact(args.at(2), 0)?;
    let (mut added, mut deleted_max, mut at) = (None, None, 3);
    while at < args.len() {
        if at + 1 == args.len() {
            return Err(CommandError::Syntax.into());
        }
        if args.is(at, "ENTRIESADDED") {
            let Ok(count) = u64::try_from(args.integer(at + 1)?) else {
                return refused("entries_added must be positive");
            };
            added = Some(count);
        } else if args.is(at, "MAXDELETEDID") {
            let id = parse_exact(args.at(at + 1), 0)?;
            if last < id {
                return refused(
                    "The ID specified in XSETID is smaller than the provided max_deleted_entry_id",
                );
            }
            // No id means that none is given, but for the effect of a trim.
            deleted_max = Some(id).filter(|&id| id != StreamId::MIN || tx.repeats_effects());
        } else {
            return Err(CommandError::Syntax.into());
        }
        at += 2;
    }
    let key = args.key(1);
    let stream = tx
        .access_as::<Stream>(key)?
        .ok_or(CommandError::NoSuchKey)?;
    if stream.last_entry_id().is_some_and(|top| last < top) {
        return refused("The ID specified in XSETID is smaller than the target stream top item");
    }
    if !stream.is_empty() && added.is_some_and(|added| added < stream.len() as u64) {
        return refused(
            "The entries_added specified in XSETID is smaller than the target stream length",
        );
    }
    tx.change_used::<Stream, _>(key, Create::Never, |stream| {
        let stream = stream.change();
        let deleted_max = deleted_max.unwrap_or(stream.deleted_max());
        let added = added.unwrap_or(stream.added());
        stream.set_history(last, deleted_max, added);
    })?;
    // As in Redis, this neither touches watchers of the key nor wakes blocked clients.
    tx.changed_many(1);
    tx.event(key, Event::Xsetid);
    reply.ok();
    Ok(())
}
