//! Blocking commands on lists and sorted sets: BLPOP, BLMOVE, BZPOPMIN and their relatives.
//!
//! Each does the same as the command without the leading B if one of its keys has an element, and blocks otherwise. Once a key
//! has an element, the same function serves the client.

use std::sync::Arc;

use damselfly_base::CommandError;
use damselfly_base::long_double::LongDouble;
use damselfly_collections::Side;
use damselfly_engine::{Key, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{EntryRef, Type};

use crate::command::{
    Access, Arity::AtLeast, Arity::Exactly, At::Counted, At::One, At::ToLastButOne, Command, Group,
    KeySpec, Keys, Run, Trait, writes,
};
use crate::list_ends::{move_one, name_of_pop, pop_many_named, pop_one, side_and_count, side_of};
use crate::sorted_set_pops::{self, End, MultiPop};
use crate::{Args, KeyspaceFn, Result, Stop, Wait};

const TAKEN_FROM: &[KeySpec] = &[writes(ToLastButOne(1), Access::Take)];
const COUNTED: &[KeySpec] = &[writes(Counted(2), Access::Take)];
const MOVED_BETWEEN: &[KeySpec] = &[writes(One(1), Access::Take), writes(One(2), Access::Insert)];

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "BLPOP",
        arity: AtLeast(3),
        keys: Keys::Args(TAKEN_FROM),
        traits: &[Trait::Blocking],
        run: Run::Run(blpop),
        group: Group::List,
        usage: "BLPOP key [key ...] timeout",
        summary: "Removes and returns the first element of the first list that is not empty, or blocks until there is one.",
        since: "2.0.0",
        complexity: "O(N) where N is the number of keys",
    },
    Command {
        name: "BRPOP",
        arity: AtLeast(3),
        keys: Keys::Args(TAKEN_FROM),
        traits: &[Trait::Blocking],
        run: Run::Run(brpop),
        group: Group::List,
        usage: "BRPOP key [key ...] timeout",
        summary: "Removes and returns the last element of the first list that is not empty, or blocks until there is one.",
        since: "2.0.0",
        complexity: "O(N) where N is the number of keys",
    },
    Command {
        name: "BLMPOP",
        arity: AtLeast(5),
        keys: Keys::Args(COUNTED),
        traits: &[Trait::Blocking],
        run: Run::Run(blmpop),
        group: Group::List,
        usage: "BLMPOP timeout numkeys key [key ...] <LEFT | RIGHT> [COUNT count]",
        summary: "Removes and returns elements of the first list that is not empty, or blocks until there is one.",
        since: "7.0.0",
        complexity: "O(N+M) where N is the number of keys and M the number of elements returned",
    },
    Command {
        name: "BLMOVE",
        arity: Exactly(6),
        keys: Keys::Args(MOVED_BETWEEN),
        traits: &[Trait::NeedsMemory, Trait::Blocking],
        run: Run::Run(blmove),
        group: Group::List,
        usage: "BLMOVE source destination <LEFT | RIGHT> <LEFT | RIGHT> timeout",
        summary: "Moves an element from an end of a list to an end of another and returns it, or blocks until there is one.",
        since: "6.2.0",
        complexity: "O(1)",
    },
    Command {
        name: "BRPOPLPUSH",
        arity: Exactly(4),
        keys: Keys::Args(MOVED_BETWEEN),
        traits: &[
            Trait::NeedsMemory,
            Trait::Blocking,
            Trait::Deprecated {
                since: "6.2.0",
                instead: "`BLMOVE` with the `RIGHT` and `LEFT` arguments",
            },
        ],
        run: Run::Run(brpoplpush),
        group: Group::List,
        usage: "BRPOPLPUSH source destination timeout",
        summary: "Moves the last element of a list to the head of another and returns it, or blocks until there is one.",
        since: "2.2.0",
        complexity: "O(1)",
    },
    Command {
        name: "BZPOPMIN",
        arity: AtLeast(3),
        keys: Keys::Args(TAKEN_FROM),
        traits: &[Trait::Blocking, Trait::Fast],
        run: Run::Run(bzpopmin),
        group: Group::SortedSet,
        usage: "BZPOPMIN key [key ...] timeout",
        summary: "Removes and returns the member with the lowest score of the first sorted set that is not empty, or blocks until there is one.",
        since: "5.0.0",
        complexity: "O(log(N)) where N is the size of the sorted set",
    },
    Command {
        name: "BZPOPMAX",
        arity: AtLeast(3),
        keys: Keys::Args(TAKEN_FROM),
        traits: &[Trait::Blocking, Trait::Fast],
        run: Run::Run(bzpopmax),
        group: Group::SortedSet,
        usage: "BZPOPMAX key [key ...] timeout",
        summary: "Removes and returns the member with the highest score of the first sorted set that is not empty, or blocks until there is one.",
        since: "5.0.0",
        complexity: "O(log(N)) where N is the size of the sorted set",
    },
    Command {
        name: "BZMPOP",
        arity: AtLeast(5),
        keys: Keys::Args(COUNTED),
        traits: &[Trait::Blocking],
        run: Run::Run(bzmpop),
        group: Group::SortedSet,
        usage: "BZMPOP timeout numkeys key [key ...] <MIN | MAX> [COUNT count]",
        summary: "Removes and returns the members with the lowest or highest scores of the first sorted set that is not empty, or blocks until there is one.",
        since: "7.0.0",
        complexity: "O(K)+O(M*log(N)) where K is the number of keys, N the size of the sorted set and M the number of members removed",
    },
];

/// Serves a client from a key that has an element.
type Serve = fn(&mut Tx<'_>, Args<'_>, Key<'_>, &mut Reply<'_>) -> Result;

/// Converts a timeout from seconds to milliseconds; `None` to wait forever.
fn timeout_ms(seconds: &[u8]) -> Result<Option<u64>> {
    let seconds = LongDouble::parse(seconds)
        .ok_or_else(|| CommandError::err("timeout is not a float or out of range"))?;
    // Redis, too, takes a timeout that overflows 64 bits for a negative one.
    let ms = seconds.thousandfold().and_then(|ms| u64::try_from(ms).ok());
    match ms {
        None => Err(CommandError::err("timeout is negative").into()),
        Some(0) => Ok(None),
        ms => Ok(ms),
    }
}

/// Serves the client from the first key that has an element, or blocks it.
fn serve_or_wait(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>, wait: Wait) -> Result {
    for place in wait.keys.clone() {
        let key = args.key(place);
        match tx.peek(key).map(EntryRef::type_of) {
            None => {}
            Some(found) if found == wait.of => return (wait.serve)(tx, args, key, reply),
            Some(_) => {
                // The look-up counts as an access.
                tx.access(key);
                return Err(CommandError::WrongType.into());
            }
        }
    }
    Err(Stop::Wait(Arc::new(wait)))
}

/// Runs commands of the form `NAME key [key ...] timeout`.
fn pop_or_wait(
    tx: &mut Tx<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
    of: Type,
    serve: Serve,
) -> Result {
    let last = args.len() - 1;
    let wait = Wait {
        timeout_ms: timeout_ms(args.at(last))?,
        keys: 1..last,
        target: None,
        of,
        has: |_, _, _| true,
        serve,
        ends_if_gone: false,
        nothing: |reply| reply.null_array(),
        timed_out: |reply| reply.null_array(),
        args: None,
    };
    serve_or_wait(tx, args, reply, wait)
}

fn blpop(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    pop_or_wait(tx, args, reply, Type::List, |tx, _, key, reply| {
        pop_named(tx, key, Side::Left, reply)
    })
}

fn brpop(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    pop_or_wait(tx, args, reply, Type::List, |tx, _, key, reply| {
        pop_named(tx, key, Side::Right, reply)
    })
}

fn pop_named(tx: &mut Tx<'_>, key: Key<'_>, side: Side, reply: &mut Reply<'_>) -> Result {
    reply.array(2);
    reply.bulk(key.bytes);
    if pop_one(tx, key, side, reply)? {
        tx.log_effect(&[name_of_pop(side), key.bytes]);
    }
    Ok(())
}

/// The index of `numkeys`, in commands that have it.
const COUNT_AT: usize = 2;

/// Runs commands of the form `NAME timeout numkeys key [key ...] ...`.
fn pop_many_or_wait(
    tx: &mut Tx<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
    of: Type,
    serve: Serve,
) -> Result {
    let keys = Counted(COUNT_AT).places(args).count();
    let wait = Wait {
        timeout_ms: timeout_ms(args.at(1))?,
        keys: COUNT_AT + 1..COUNT_AT + 1 + keys,
        target: None,
        of,
        has: |_, _, _| true,
        serve,
        ends_if_gone: false,
        nothing: |reply| reply.null_array(),
        timed_out: |reply| reply.null_array(),
        args: None,
    };
    serve_or_wait(tx, args, reply, wait)
}

fn blmpop(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    side_and_count(args, COUNT_AT)?;
    pop_many_or_wait(tx, args, reply, Type::List, |tx, args, key, reply| {
        let (side, count) = side_and_count(args, COUNT_AT)?;
        pop_many_named(tx, key, side, count, reply).map(drop)
    })
}

/// Runs commands that move an element from argument 1 to argument 2 and end with the timeout.
fn move_or_wait(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>, serve: Serve) -> Result {
    let wait = Wait {
        timeout_ms: timeout_ms(args.at(args.len() - 1))?,
        keys: 1..2,
        target: Some(2),
        of: Type::List,
        has: |_, _, _| true,
        serve,
        ends_if_gone: false,
        nothing: |reply| reply.null(),
        timed_out: |reply| reply.null_array(),
        args: None,
    };
    serve_or_wait(tx, args, reply, wait)
}

fn blmove(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    side_of(args, 3)?;
    side_of(args, 4)?;
    move_or_wait(tx, args, reply, |tx, args, key, reply| {
        let (from, to) = (side_of(args, 3)?, side_of(args, 4)?);
        if move_one(tx, (key, from), (args.key(2), to), reply)? {
            tx.log_effect(&[b"LMOVE", key.bytes, args.at(2), args.at(3), args.at(4)]);
        }
        Ok(())
    })
}

fn brpoplpush(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    move_or_wait(tx, args, reply, |tx, args, key, reply| {
        if move_one(tx, (key, Side::Right), (args.key(2), Side::Left), reply)? {
            tx.log_effect(&[b"RPOPLPUSH", key.bytes, args.at(2)]);
        }
        Ok(())
    })
}

fn bzpopmin(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    pop_or_wait(tx, args, reply, Type::SortedSet, |tx, _, key, reply| {
        sorted_set_pops::pop_one(tx, key, End::Min, reply).map(drop)
    })
}

fn bzpopmax(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    pop_or_wait(tx, args, reply, Type::SortedSet, |tx, _, key, reply| {
        sorted_set_pops::pop_one(tx, key, End::Max, reply).map(drop)
    })
}

fn bzmpop(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    MultiPop::parse(args, COUNT_AT)?;
    pop_many_or_wait(tx, args, reply, Type::SortedSet, |tx, args, key, reply| {
        MultiPop::parse(args, COUNT_AT)?
            .pop(tx, key, reply)
            .map(drop)
    })
}
