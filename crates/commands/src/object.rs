//! Metadata of a key's value: OBJECT, and the size that MEMORY USAGE reports.

use damselfly_base::CommandError;
use damselfly_engine::{AccessPolicy, Tx, frequency, idle_seconds};
use damselfly_protocol::Reply;
use damselfly_value::{EntryRef, HashRef, ListRef, SetRef, SortedSetRef, Text, Value};

use crate::command::{
    Arity::AtLeast, Arity::Exactly, At::One, Command, Group, KeySpec, Keys, Run, Trait, looks,
};
use crate::{Args, KeyspaceFn, Result};

const LOOKED_AT: &[KeySpec] = &[looks(One(2))];

const fn about_key(
    name: &'static str,
    run: KeyspaceFn,
    usage: &'static str,
    summary: &'static str,
    since: &'static str,
) -> Command<KeyspaceFn> {
    Command {
        name,
        arity: Exactly(3),
        keys: Keys::Args(LOOKED_AT),
        traits: &[Trait::Tip("nondeterministic_output")],
        run: Run::Run(run),
        group: Group::Generic,
        usage,
        summary,
        since,
        complexity: "O(1)",
    }
}

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[Command {
    name: "OBJECT",
    arity: AtLeast(2),
    keys: Keys::None,
    traits: &[],
    run: Run::Subcommands(&[
        about_key(
            "ENCODING",
            encoding,
            "OBJECT ENCODING key",
            "Returns the encoding of the value at a key.",
            "2.2.3",
        ),
        about_key(
            "FREQ",
            freq,
            "OBJECT FREQ key",
            "Returns the logarithmic access frequency of a key, if maxmemory-policy is an LFU policy; in cache mode, about how often it was used, at most 64.",
            "4.0.0",
        ),
        about_key(
            "IDLETIME",
            idletime,
            "OBJECT IDLETIME key",
            "Returns the seconds since the last access of a key, unless maxmemory-policy is an LFU policy or cache mode is on.",
            "2.2.3",
        ),
        about_key(
            "REFCOUNT",
            refcount,
            "OBJECT REFCOUNT key",
            "Returns the reference count of the value at a key, as Redis would report it.",
            "2.2.3",
        ),
    ]),
    group: Group::Generic,
    usage: "OBJECT",
    summary: "Commands that inspect the value at a key.",
    since: "2.2.3",
    complexity: "Depends on subcommand.",
}];

fn with_entry(
    tx: &mut Tx<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
    show: impl FnOnce(EntryRef<'_>, &mut Reply<'_>),
) -> Result {
    match tx.peek(args.key(2)) {
        Some(entry) => show(entry, reply),
        None => reply.null(),
    }
    Ok(())
}

/// Redis's name of a value's encoding.
pub fn encoding_name(value: Value<'_>) -> &'static str {
    match value {
        Value::Text(text) => text_encoding(text),
        Value::List(ListRef::Packed(_))
        | Value::Set(SetRef::Packed(_))
        | Value::Hash(HashRef::Packed(_))
        | Value::SortedSet(SortedSetRef::Packed(_)) => "listpack",
        Value::Hash(HashRef::PackedTtl(_)) => "listpackex",
        Value::Set(SetRef::Integers(_)) => "intset",
        Value::List(ListRef::Large(_)) => "quicklist",
        Value::Set(SetRef::Large(_)) | Value::Hash(HashRef::Large(_)) => "hashtable",
        // The value is a B+ tree, but clients test for this name.
        Value::SortedSet(SortedSetRef::Large(_)) => "skiplist",
        Value::Stream(_) => "stream",
    }
}

fn text_encoding(text: Text<'_>) -> &'static str {
    /// The longest string that Redis stores in one block with its header.
    const EMBEDDED_BYTES_MAX: usize = 44;
    match text {
        Text::Integer(_) => "int",
        Text::Bytes {
            bytes,
            edited: false,
        } if bytes.len() <= EMBEDDED_BYTES_MAX => "embstr",
        Text::Bytes { .. } | Text::Packed(_) => "raw",
    }
}

fn encoding(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    with_entry(tx, args, reply, |entry, reply| {
        reply.bulk(encoding_name(entry.value()).as_bytes());
    })
}

/// The text that both errors share.
const SWITCHING: &str = "Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust.";

fn freq(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (policy, now) = (tx.engine().settings.access_policy(), tx.now());
    if policy == AccessPolicy::Recency && tx.peek(args.key(2)).is_some() {
        let reason = "An LFU maxmemory policy is not selected, access frequency not tracked.";
        return Err(CommandError::err(format!("{reason} {SWITCHING}")).into());
    }
    with_entry(tx, args, reply, |entry, reply| {
        reply.integer(frequency(policy, entry.access(), now.0).into());
    })
}

fn idletime(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (policy, now) = (tx.engine().settings.access_policy(), tx.now());
    if policy != AccessPolicy::Recency && tx.peek(args.key(2)).is_some() {
        let reason = match policy {
            AccessPolicy::Learned => "Cache mode is on, idle time not tracked.",
            AccessPolicy::Recency | AccessPolicy::Frequency { .. } => {
                "An LFU maxmemory policy is selected, idle time not tracked."
            }
        };
        return Err(CommandError::err(format!("{reason} {SWITCHING}")).into());
    }
    with_entry(tx, args, reply, |entry, reply| {
        reply.integer(idle_seconds(entry.access(), now.0));
    })
}

fn refcount(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    /// Redis shares one object for each of the integers 0 to 9999 and reports this count for it.
    const SHARED: i64 = i32::MAX as i64;
    with_entry(tx, args, reply, |entry, reply| {
        let shared = matches!(entry.text(), Some(Text::Integer(0..=9999)));
        reply.integer(if shared { SHARED } else { 1 });
    })
}

/// MEMORY USAGE: the bytes of an entry and its slot.
pub fn memory_usage(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    /// A hash table slot and its share of the free slots.
    const SLOT_BYTES: usize = 10;
    for at in (3..args.len()).step_by(2) {
        // The size of an entry is known, so no sampling is needed.
        if !args.is(at, "SAMPLES") || at + 1 == args.len() || args.integer(at + 1)? < 0 {
            return Err(CommandError::Syntax.into());
        }
    }
    with_entry(tx, args, reply, |entry, reply| {
        reply.integer((entry.allocated_bytes() + SLOT_BYTES) as i64);
    })
}
