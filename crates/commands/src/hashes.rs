//! Hashes: fields and their values. Random fields and scans are in `hash_walks.rs`, deadlines of fields in
//! `hash_expiry.rs`.

use damselfly_base::CommandError;
use damselfly_base::long_double::LongDouble;
use damselfly_base::number::{Decimal, parse_integer};
use damselfly_engine::{Create, Event, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{Collection, Element, Hash, HashMut, HashRef, Pair, SharedLarge, Value};

use crate::command::{
    Access, Arity::AtLeast, Arity::Exactly, At::One, Command, Group, KeySpec, Keys, Run, Trait,
    looks, reads, writes,
};
use crate::{Args, KeyspaceFn, Result, SlicedReply, Stop, long, sets};

const READ: &[KeySpec] = &[reads(One(1))];
const LOOKED_AT: &[KeySpec] = &[looks(One(1))];
const CHANGED: &[KeySpec] = &[writes(One(1), Access::Update)];
const COUNTED: &[KeySpec] = &[writes(One(1), Access::ReadUpdate)];

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "HSET",
        arity: AtLeast(4),
        keys: Keys::Args(CHANGED),
        traits: &[Trait::NeedsMemory, Trait::Fast],
        run: Run::Run(hset),
        group: Group::Hash,
        usage: "HSET key field value [field value ...]",
        summary: "Sets fields of a hash, creating it if the key is absent, and returns how many are new.",
        since: "2.0.0",
        complexity: "O(N) where N is the number of fields that are set",
    },
    Command {
        name: "HMSET",
        arity: AtLeast(4),
        keys: Keys::Args(CHANGED),
        traits: &[
            Trait::NeedsMemory,
            Trait::Fast,
            Trait::Deprecated {
                since: "4.0.0",
                instead: "`HSET` with multiple field-value pairs",
            },
        ],
        run: Run::Run(hmset),
        group: Group::Hash,
        usage: "HMSET key field value [field value ...]",
        summary: "Sets fields of a hash, creating it if the key is absent.",
        since: "2.0.0",
        complexity: "O(N) where N is the number of fields that are set",
    },
    Command {
        name: "HSETNX",
        arity: Exactly(4),
        keys: Keys::Args(&[writes(One(1), Access::Insert)]),
        traits: &[Trait::NeedsMemory, Trait::Fast],
        run: Run::Run(hsetnx),
        group: Group::Hash,
        usage: "HSETNX key field value",
        summary: "Sets a field of a hash only if it does not exist.",
        since: "2.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "HGET",
        arity: Exactly(3),
        keys: Keys::Args(READ),
        traits: &[Trait::Fast],
        run: Run::Run(hget),
        group: Group::Hash,
        usage: "HGET key field",
        summary: "Returns the value of a field of a hash.",
        since: "2.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "HMGET",
        arity: AtLeast(3),
        keys: Keys::Args(READ),
        traits: &[Trait::Fast],
        run: Run::Run(hmget),
        group: Group::Hash,
        usage: "HMGET key field [field ...]",
        summary: "Returns the values of fields of a hash.",
        since: "2.0.0",
        complexity: "O(N) where N is the number of fields that are asked for",
    },
    lists(
        "HGETALL",
        |tx, args, reply| list(tx, args, reply, Parts::Both),
        "HGETALL key",
        "Returns all fields of a hash and their values.",
    ),
    lists(
        "HKEYS",
        |tx, args, reply| list(tx, args, reply, Parts::Fields),
        "HKEYS key",
        "Returns all fields of a hash.",
    ),
    lists(
        "HVALS",
        |tx, args, reply| list(tx, args, reply, Parts::Values),
        "HVALS key",
        "Returns all values of a hash.",
    ),
    Command {
        name: "HLEN",
        arity: Exactly(2),
        keys: Keys::Args(LOOKED_AT),
        traits: &[Trait::Fast],
        run: Run::Run(hlen),
        group: Group::Hash,
        usage: "HLEN key",
        summary: "Returns the number of fields of a hash.",
        since: "2.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "HEXISTS",
        arity: Exactly(3),
        keys: Keys::Args(LOOKED_AT),
        traits: &[Trait::Fast],
        run: Run::Run(hexists),
        group: Group::Hash,
        usage: "HEXISTS key field",
        summary: "Returns whether a hash has a field.",
        since: "2.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "HSTRLEN",
        arity: Exactly(3),
        keys: Keys::Args(LOOKED_AT),
        traits: &[Trait::Fast],
        run: Run::Run(hstrlen),
        group: Group::Hash,
        usage: "HSTRLEN key field",
        summary: "Returns the length of the value of a field, in bytes.",
        since: "3.2.0",
        complexity: "O(1)",
    },
    Command {
        name: "HDEL",
        arity: AtLeast(3),
        keys: Keys::Args(&[writes(One(1), Access::Shrink)]),
        traits: &[Trait::Fast],
        run: Run::Run(hdel),
        group: Group::Hash,
        usage: "HDEL key field [field ...]",
        summary: "Removes fields of a hash and returns how many existed; removes a hash without fields.",
        since: "2.0.0",
        complexity: "O(N) where N is the number of fields to be removed",
    },
    Command {
        name: "HINCRBY",
        arity: Exactly(4),
        keys: Keys::Args(COUNTED),
        traits: &[Trait::NeedsMemory, Trait::Fast],
        run: Run::Run(hincrby),
        group: Group::Hash,
        usage: "HINCRBY key field increment",
        summary: "Adds a number to the integer in a field; an absent field counts as 0.",
        since: "2.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "HINCRBYFLOAT",
        arity: Exactly(4),
        keys: Keys::Args(COUNTED),
        traits: &[Trait::NeedsMemory, Trait::Fast],
        run: Run::Run(hincrbyfloat),
        group: Group::Hash,
        usage: "HINCRBYFLOAT key field increment",
        summary: "Adds a number to the float in a field; an absent field counts as 0.",
        since: "2.6.0",
        complexity: "O(1)",
    },
];

/// The row of a command that returns parts of all fields.
const fn lists(
    name: &'static str,
    run: KeyspaceFn,
    usage: &'static str,
    summary: &'static str,
) -> Command<KeyspaceFn> {
    Command {
        name,
        arity: Exactly(2),
        keys: Keys::Args(READ),
        traits: &[Trait::Tip("nondeterministic_output_order")],
        run: Run::Run(run),
        group: Group::Hash,
        usage,
        summary,
        since: "2.0.0",
        complexity: "O(N) where N is the number of fields",
    }
}

/// Writes a value, or null if there is none.
#[inline]
pub(crate) fn write_value(reply: &mut Reply<'_>, value: Option<Element<'_>>) {
    match value {
        Some(value) => sets::write(value, reply),
        None => reply.null(),
    }
}

/// Sets all fields of a request and returns how many are new.
fn set_all(tx: &mut Tx<'_>, args: Args<'_>, command: &str) -> Result<i64> {
    if args.len() % 2 == 1 {
        return Err(CommandError::Arity(command.to_owned()).into());
    }
    let key = args.key(1);
    let added = tx.change::<Hash, _>(key, Create::IfAbsent, |hash| {
        let mut added = 0;
        for at in (2..args.len()).step_by(2) {
            added += i64::from(hash.set(args.at(at), Element::new(args.at(at + 1)), None));
        }
        added
    })?;
    tx.changed_elements(key, Event::Hset, args.len() / 2 - 1);
    Ok(added.unwrap_or_default())
}

fn hset(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply.integer(set_all(tx, args, "hset")?);
    Ok(())
}

fn hmset(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    set_all(tx, args, "hmset")?;
    reply.ok();
    Ok(())
}

fn hsetnx(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (key, field) = (args.key(1), args.at(2));
    let is_new = tx.change::<Hash, _>(key, Create::IfAbsent, |hash| {
        hash.view().get(field).is_none() && hash.set(field, Element::new(args.at(3)), None)
    })?;
    let is_new = is_new.unwrap_or_default();
    if is_new {
        tx.changed(key, Event::Hset);
    }
    reply.integer(is_new.into());
    Ok(())
}

fn hget(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let hash = tx.read_as::<Hash>(args.key(1))?;
    write_value(reply, hash.and_then(|hash| hash.value(args.at(2))));
    Ok(())
}

fn hmget(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let hash = tx.read_as::<Hash>(args.key(1))?;
    reply.array(args.len() - 2);
    for field in args.from(2) {
        write_value(reply, hash.and_then(|hash| hash.value(field)));
    }
    Ok(())
}

/// The parts of each field that are returned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parts {
    Fields,
    Values,
    Both,
}

impl Parts {
    fn begin(self, reply: &mut Reply<'_>, fields: usize) {
        match self {
            Self::Both => reply.map(fields),
            Self::Fields | Self::Values => reply.array(fields),
        }
    }

    fn write(self, reply: &mut Reply<'_>, pair: Pair<'_>) {
        if self != Self::Values {
            sets::write(pair.field, reply);
        }
        if self != Self::Fields {
            sets::write(pair.value, reply);
        }
    }
}

/// Returns all fields of a hash; many fields a slice at a time.
fn list(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>, parts: Parts) -> Result {
    let Some(entry) = tx.read(args.key(1)) else {
        parts.begin(reply, 0);
        return Ok(());
    };
    let hash = Hash::view(entry).ok_or(CommandError::WrongType)?;
    parts.begin(reply, hash.len());
    if hash.len() > long::SLICED_MIN
        && let Some(shared) = entry.share_large()
    {
        return Err(Stop::SlicedReply(sliced_fields(shared, parts)));
    }
    hash.for_each(|pair| parts.write(reply, pair));
    Ok(())
}

fn sliced_fields(shared: SharedLarge, parts: Parts) -> SlicedReply {
    let mut position = 0;
    SlicedReply::new(move |reply| {
        if let Value::Hash(hash) = shared.value() {
            position = hash.scan(position, |pair| parts.write(reply, pair));
        }
        position != 0
    })
}

fn hlen(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let hash = tx.read_as::<Hash>(args.key(1))?;
    reply.integer(hash.map_or(0, HashRef::len) as i64);
    Ok(())
}

fn hexists(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let hash = tx.read_as::<Hash>(args.key(1))?;
    let exists = hash.is_some_and(|hash| hash.value(args.at(2)).is_some());
    reply.integer(exists.into());
    Ok(())
}

fn hstrlen(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let hash = tx.read_as::<Hash>(args.key(1))?;
    let value = hash.and_then(|hash| hash.value(args.at(2)));
    reply.integer(value.map_or(0, Element::len) as i64);
    Ok(())
}

fn hdel(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let key = args.key(1);
    let removed = tx.change::<Hash, _>(key, Create::Never, |hash| {
        let removed = args.from(2).filter(|field| hash.remove(field));
        removed.count()
    })?;
    let removed = removed.unwrap_or_default();
    if removed > 0 {
        tx.changed_elements(key, Event::Hdel, removed);
    }
    reply.integer(removed as i64);
    Ok(())
}

/// Replaces a field's value with the result of `count` and returns the result. The deadline stays.
fn change_value<R>(
    tx: &mut Tx<'_>,
    args: Args<'_>,
    event: Event,
    count: impl FnOnce(Option<Element<'_>>) -> std::result::Result<R, CommandError>,
    store: impl FnOnce(&mut HashMut<'_>, &R, Option<i64>),
) -> Result<R> {
    let (key, field) = (args.key(1), args.at(2));
    let counted = tx.change::<Hash, _>(key, Create::IfAbsent, |hash| {
        let old = hash.view().get(field);
        let deadline = old.and_then(|pair| pair.deadline_ms);
        let new = count(old.map(|pair| pair.value))?;
        store(hash, &new, deadline);
        Ok::<_, CommandError>(new)
    })?;
    let new = counted.expect("an absent hash is created")?;
    tx.changed(key, event);
    Ok(new)
}

fn hincrby(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let delta = args.integer(3)?;
    let add = |old: Option<Element<'_>>| {
        let old = match old {
            None => 0,
            Some(Element::Integer(number)) => number,
            Some(Element::Bytes(text)) => parse_integer(text)
                .ok_or_else(|| CommandError::err("hash value is not an integer"))?,
        };
        old.checked_add(delta).ok_or(CommandError::Overflow)
    };
    let sum = change_value(tx, args, Event::Hincrby, add, |hash, &sum, deadline| {
        hash.set(args.at(2), Element::Integer(sum), deadline);
    })?;
    reply.integer(sum);
    Ok(())
}

fn hincrbyfloat(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let delta = LongDouble::parse(args.at(3)).ok_or(CommandError::NotFloat)?;
    if LongDouble::ZERO.checked_add(delta).is_none() {
        return Err(CommandError::err("value is NaN or Infinity").into());
    }
    let add = |old: Option<Element<'_>>| {
        let mut scratch = Decimal::new();
        let old = match old {
            None => LongDouble::ZERO,
            Some(old) => LongDouble::parse(old.text(&mut scratch))
                .ok_or_else(|| CommandError::err("hash value is not a float"))?,
        };
        let sum = old.checked_add(delta).ok_or(CommandError::NotFinite)?;
        Ok(sum.format())
    };
    let mut kept_deadline = None;
    let sum = change_value(tx, args, Event::Hincrbyfloat, add, |hash, sum, deadline| {
        kept_deadline = deadline;
        hash.set(args.at(2), Element::new(sum.as_bytes()), deadline);
    })?;
    // The sum depends on how floats are added and printed.
    tx.log_effect(&[b"HSET", args.at(1), args.at(2), sum.as_bytes()]);
    if let Some(deadline) = kept_deadline {
        crate::hash_effects::log_deadline(tx, args.key(1), &[args.at(2)], deadline);
    }
    reply.bulk(sum.as_bytes());
    Ok(())
}
