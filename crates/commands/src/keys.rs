//! Any key, whatever it holds: DEL, EXISTS, RENAME, COPY and their relatives.

use damselfly_base::CommandError;
use damselfly_engine::{Event, Key, Place, Tx};
use damselfly_protocol::Reply;

use crate::command::{
    Access, Arity::AtLeast, Arity::Exactly, At::One, At::ToEnd, Command, Group, Keys, Run, Trait,
    looks, reads, writes,
};
use crate::{Args, KeyspaceFn, Result};

const EVERY_ARGUMENT: crate::At = ToEnd { first: 1, step: 1 };

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "DEL",
        arity: AtLeast(2),
        keys: Keys::Args(&[writes(EVERY_ARGUMENT, Access::Remove)]),
        traits: &[
            Trait::Tip("request_policy:multi_shard"),
            Trait::Tip("response_policy:agg_sum"),
        ],
        run: Run::Run(del),
        group: Group::Generic,
        usage: "DEL key [key ...]",
        summary: "Removes keys and returns how many existed.",
        since: "1.0.0",
        complexity: "O(N) where N is the number of keys",
    },
    Command {
        name: "UNLINK",
        arity: AtLeast(2),
        keys: Keys::Args(&[writes(EVERY_ARGUMENT, Access::Remove)]),
        traits: &[
            Trait::Fast,
            Trait::Tip("request_policy:multi_shard"),
            Trait::Tip("response_policy:agg_sum"),
        ],
        run: Run::Run(del),
        group: Group::Generic,
        usage: "UNLINK key [key ...]",
        summary: "Removes keys and returns how many existed; frees large values later.",
        since: "4.0.0",
        complexity: "O(N) where N is the number of keys",
    },
    Command {
        name: "EXISTS",
        arity: AtLeast(2),
        keys: Keys::Args(&[looks(EVERY_ARGUMENT)]),
        traits: &[
            Trait::Fast,
            Trait::Tip("request_policy:multi_shard"),
            Trait::Tip("response_policy:agg_sum"),
        ],
        run: Run::Run(exists),
        group: Group::Generic,
        usage: "EXISTS key [key ...]",
        summary: "Returns how many of the keys exist; a key named twice counts twice.",
        since: "1.0.0",
        complexity: "O(N) where N is the number of keys",
    },
    Command {
        name: "TOUCH",
        arity: AtLeast(2),
        keys: Keys::Args(&[looks(EVERY_ARGUMENT)]),
        traits: &[
            Trait::Fast,
            Trait::Tip("request_policy:multi_shard"),
            Trait::Tip("response_policy:agg_sum"),
        ],
        run: Run::Run(touch),
        group: Group::Generic,
        usage: "TOUCH key [key ...]",
        summary: "Updates the last access time of keys and returns how many of them exist.",
        since: "3.2.1",
        complexity: "O(N) where N is the number of keys",
    },
    Command {
        name: "TYPE",
        arity: Exactly(2),
        keys: Keys::Args(&[looks(One(1))]),
        traits: &[Trait::Fast],
        run: Run::Run(type_of),
        group: Group::Generic,
        usage: "TYPE key",
        summary: "Returns the type of the value at a key, or `none` if the key is absent.",
        since: "1.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "RENAME",
        arity: Exactly(3),
        keys: Keys::Args(&[
            writes(One(1), Access::Take),
            writes(One(2), Access::Overwrite),
        ]),
        traits: &[],
        run: Run::Run(rename),
        group: Group::Generic,
        usage: "RENAME key newkey",
        summary: "Renames a key, with its expiry, and overwrites the destination.",
        since: "1.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "RENAMENX",
        arity: Exactly(3),
        keys: Keys::Args(&[writes(One(1), Access::Take), writes(One(2), Access::Create)]),
        traits: &[Trait::Fast],
        run: Run::Run(renamenx),
        group: Group::Generic,
        usage: "RENAMENX key newkey",
        summary: "Renames a key only if the new name does not exist.",
        since: "1.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "COPY",
        arity: AtLeast(3),
        keys: Keys::Args(&[reads(One(1)), writes(One(2), Access::Overwrite)]),
        traits: &[Trait::NeedsMemory],
        run: Run::Run(copy),
        group: Group::Generic,
        usage: "COPY source destination [DB destination-db] [REPLACE]",
        summary: "Copies the value and expiry of a key to another key.",
        since: "6.2.0",
        complexity: "O(N) where N is the size of the value",
    },
    Command {
        name: "MOVE",
        arity: Exactly(3),
        keys: Keys::Args(&[writes(One(1), Access::ReadUpdate)]),
        traits: &[Trait::Fast],
        run: Run::Run(move_to_db),
        group: Group::Generic,
        usage: "MOVE key db",
        summary: "Moves a key to another database, unless the key exists there.",
        since: "1.0.0",
        complexity: "O(1)",
    },
];

fn del(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let mut removed = 0;
    for place in 1..args.len() {
        removed += i64::from(tx.remove(args.key(place)).is_some());
    }
    reply.integer(removed);
    Ok(())
}

/// Does not count as a use of the keys.
fn exists(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let keys = (1..args.len()).map(|place| args.key(place));
    let found = keys.filter(|key| tx.read_no_touch(*key).is_some()).count();
    reply.integer(found as i64);
    Ok(())
}

fn touch(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let keys = (1..args.len()).map(|place| args.key(place));
    let found = keys.filter(|key| tx.read(*key).is_some()).count();
    reply.integer(found as i64);
    Ok(())
}

fn type_of(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply.simple(
        tx.read_no_touch(args.key(1))
            .map_or("none", |entry| entry.type_of().name()),
    );
    Ok(())
}

/// Moves the entry of argument 1 to the key in argument 2, and overwrites that.
fn move_entry(tx: &mut Tx<'_>, args: Args<'_>) {
    let (from, to) = (args.key(1), args.key(2));
    if let Some(entry) = tx.take(from) {
        tx.insert_in(tx.db(), to, entry.with_key(to.bytes));
        tx.event(from, Event::RenameFrom);
        tx.event(to, Event::RenameTo);
    }
}

fn rename(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    if tx.access(args.key(1)).is_none() {
        return Err(CommandError::NoSuchKey.into());
    }
    if args.at(1) != args.at(2) {
        move_entry(tx, args);
    }
    reply.ok();
    Ok(())
}

fn renamenx(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    if tx.access(args.key(1)).is_none() {
        return Err(CommandError::NoSuchKey.into());
    }
    let free = args.at(1) != args.at(2) && tx.access(args.key(2)).is_none();
    if free {
        move_entry(tx, args);
    }
    reply.integer(free.into());
    Ok(())
}

/// True if a database has a key; counts as an access of it.
fn has(tx: &mut Tx<'_>, db: usize, key: Key<'_>) -> bool {
    matches!(tx.access_place_in(db, key), Place::Present(_))
}

fn copy(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (mut db, mut replace) = (tx.db(), false);
    let mut at = 3;
    while at < args.len() {
        if args.is(at, "REPLACE") {
            replace = true;
        } else if args.is(at, "DB") && at + 1 < args.len() {
            db = args.database(at + 1, tx.engine().databases())?;
            at += 1;
        } else {
            return Err(CommandError::Syntax.into());
        }
        at += 1;
    }
    if db == tx.db() && args.at(1) == args.at(2) {
        return Err(CommandError::SameObject.into());
    }
    let target = args.key(2);
    let copied = tx
        .read(args.key(1))
        .map(|entry| entry.to_entry(target.bytes));
    let is_taken = copied.is_some() && has(tx, db, target);
    let done = match copied {
        None => false,
        Some(_) if is_taken && !replace => false,
        Some(entry) => {
            tx.insert_copy_in(db, target, entry);
            tx.event_in(db, target, Event::CopyTo);
            true
        }
    };
    reply.integer(done.into());
    Ok(())
}

fn move_to_db(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (key, db) = (args.key(1), args.database(2, tx.engine().databases())?);
    if db == tx.db() {
        return Err(CommandError::SameObject.into());
    }
    let done = tx.access(key).is_some() && !has(tx, db, key);
    if done && let Some(entry) = tx.take(key) {
        tx.insert_in(db, key, entry);
        tx.event(key, Event::MoveFrom);
        tx.event_in(db, key, Event::MoveTo);
    }
    reply.integer(done.into());
    Ok(())
}
