//! Commands that use strings as counters: INCR and its relatives.

use damselfly_base::CommandError;
use damselfly_base::long_double::LongDouble;
use damselfly_base::number::parse_integer;
use damselfly_engine::{Deadline, Event, Key, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{NewValue, Text};

use crate::command::{Access, Arity::Exactly, At::One, Command, Group, Keys, Run, Trait, writes};
use crate::strings::{Scratch, text_of};
use crate::{Args, KeyspaceFn, Result};

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "INCR",
        arity: Exactly(2),
        keys: Keys::Args(&[writes(One(1), Access::ReadUpdate)]),
        traits: &[Trait::NeedsMemory, Trait::Fast],
        run: Run::Run(|tx, args, reply| add(tx, args.key(1), 1, reply)),
        group: Group::String,
        usage: "INCR key",
        summary: "Adds one to the integer at a key; an absent key counts as 0.",
        since: "1.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "DECR",
        arity: Exactly(2),
        keys: Keys::Args(&[writes(One(1), Access::ReadUpdate)]),
        traits: &[Trait::NeedsMemory, Trait::Fast],
        run: Run::Run(|tx, args, reply| add(tx, args.key(1), -1, reply)),
        group: Group::String,
        usage: "DECR key",
        summary: "Subtracts one from the integer at a key; an absent key counts as 0.",
        since: "1.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "INCRBY",
        arity: Exactly(3),
        keys: Keys::Args(&[writes(One(1), Access::ReadUpdate)]),
        traits: &[Trait::NeedsMemory, Trait::Fast],
        run: Run::Run(|tx, args, reply| add(tx, args.key(1), args.integer(2)?, reply)),
        group: Group::String,
        usage: "INCRBY key increment",
        summary: "Adds a number to the integer at a key; an absent key counts as 0.",
        since: "1.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "DECRBY",
        arity: Exactly(3),
        keys: Keys::Args(&[writes(One(1), Access::ReadUpdate)]),
        traits: &[Trait::NeedsMemory, Trait::Fast],
        run: Run::Run(decrby),
        group: Group::String,
        usage: "DECRBY key decrement",
        summary: "Subtracts a number from the integer at a key; an absent key counts as 0.",
        since: "1.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "INCRBYFLOAT",
        arity: Exactly(3),
        keys: Keys::Args(&[writes(One(1), Access::ReadUpdate)]),
        traits: &[Trait::NeedsMemory, Trait::Fast],
        run: Run::Run(incrbyfloat),
        group: Group::String,
        usage: "INCRBYFLOAT key increment",
        summary: "Adds a number to the float at a key; an absent key counts as 0.",
        since: "2.6.0",
        complexity: "O(1)",
    },
];

fn decrby(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let delta = args
        .integer(2)?
        .checked_neg()
        .ok_or(CommandError::DecrementOverflow)?;
    add(tx, args.key(1), delta, reply)
}

fn add(tx: &mut Tx<'_>, key: Key<'_>, delta: i64, reply: &mut Reply<'_>) -> Result {
    let old = match tx.access(key) {
        Some(entry) => match entry.text() {
            Some(Text::Integer(number)) => number,
            Some(Text::Packed(_)) => return Err(CommandError::NotInteger.into()),
            Some(Text::Bytes { bytes, .. }) => {
                parse_integer(bytes).ok_or(CommandError::NotInteger)?
            }
            None => return Err(CommandError::WrongType.into()),
        },
        None => 0,
    };
    let sum = old.checked_add(delta).ok_or(CommandError::Overflow)?;
    tx.store_used(key, NewValue::Integer(sum), Deadline::Keep, Event::Incrby);
    reply.integer(sum);
    Ok(())
}

fn incrbyfloat(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let key = args.key(1);
    let mut scratch = Scratch::default();
    let old = match tx.access(key) {
        Some(entry) => {
            let text = entry.text().ok_or(CommandError::WrongType)?;
            let text = text_of(text, &mut scratch);
            LongDouble::parse(text).ok_or(CommandError::NotFloat)?
        }
        None => LongDouble::ZERO,
    };
    let delta = LongDouble::parse(args.at(2)).ok_or(CommandError::NotFloat)?;
    let sum = old
        .checked_add(delta)
        .ok_or(CommandError::NotFinite)?
        .format();
    let value = NewValue::Bytes(sum.as_bytes());
    tx.store_used(key, value, Deadline::Keep, Event::Incrbyfloat);
    // The sum depends on how floats are added and printed.
    tx.log_effect(&[b"SET", key.bytes, sum.as_bytes(), b"KEEPTTL"]);
    reply.bulk(sum.as_bytes());
    Ok(())
}
