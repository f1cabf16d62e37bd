//! Lists and sorted sets for those who wait: BLPOP, BLMOVE, BZPOPMIN and their relatives.
//!
//! Each of these does what a command without the leading B does if one of its keys has something, and waits otherwise. Then the
//! same function serves it, as soon as a key has something.

use std::ops::Range;
use std::sync::Arc;

use damselfly_base::CommandError;
use damselfly_base::long_double::LongDouble;
use damselfly_engine::{Key, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{EntryRef, Type};

use crate::command::{
    Access, Arity::AtLeast, Arity::Exactly, At::Counted, At::One, At::ToLastButOne, Command, Group,
    Keys, Run, Trait, Wait, writes,
};
use crate::{Args, KeyspaceFn, Result, Stop};

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "BLPOP",
        arity: AtLeast(3),
        keys: Keys::Args(&[writes(ToLastButOne(1), Access::Take)]),
        traits: &[Trait::NoScript, Trait::Blocking],
        run: Run::Run(blpop),
        group: Group::List,
        usage: "BLPOP key [key ...] timeout",
        summary: "Takes the first element of the first list that has any, or waits for one.",
        since: "2.0.0",
        complexity: "O(N) where N is the number of keys",
    },
    Command {
        name: "BRPOP",
        arity: AtLeast(3),
        keys: Keys::Args(&[writes(ToLastButOne(1), Access::Take)]),
        traits: &[Trait::NoScript, Trait::Blocking],
        run: Run::Run(brpop),
        group: Group::List,
        usage: "BRPOP key [key ...] timeout",
        summary: "Takes the last element of the first list that has any, or waits for one.",
        since: "2.0.0",
        complexity: "O(N) where N is the number of keys",
    },
];

/// What serves a client from a key that has something.
type Serve = fn(&mut Tx<'_>, Args<'_>, Key<'_>, &mut Reply<'_>) -> Result;

/// A timeout in seconds as milliseconds; `None` for as long as it takes.
fn timeout_ms(seconds: &[u8]) -> Result<Option<u64>> {
    let seconds = LongDouble::parse(seconds)
        .ok_or_else(|| CommandError::err("timeout is not a float or out of range"))?;
    // What leaves 64 bits is negative to Redis, too.
    let ms = seconds.thousandfold().and_then(|ms| u64::try_from(ms).ok());
    match ms {
        None => Err(CommandError::err("timeout is negative").into()),
        Some(0) => Ok(None),
        ms => Ok(ms),
    }
}

/// Serves the client from the first key that has something, or makes it wait.
fn serve_or_wait(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>, wait: Wait) -> Result {
    for place in wait.keys.clone() {
        let key = args.key(place);
        match tx.peek(key).map(EntryRef::type_of) {
            None => {}
            Some(found) if found == wait.of => return (wait.serve)(tx, args, key, reply),
            Some(_) => return Err(CommandError::WrongType.into()),
        }
    }
    Err(Stop::Wait(Arc::new(wait)))
}

/// For commands of the form `NAME key [key ...] timeout`.
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
        serve,
        nothing: |reply| reply.null_array(),
    };
    serve_or_wait(tx, args, reply, wait)
}

fn blpop(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    pop_or_wait(tx, args, reply, Type::String, |tx, _, key, reply| {
        pop(tx, key, reply)
    })
}

fn brpop(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    pop_or_wait(tx, args, reply, Type::String, |tx, _, key, reply| {
        pop(tx, key, reply)
    })
}

fn pop(tx: &mut Tx<'_>, key: Key<'_>, reply: &mut Reply<'_>) -> Result {
    reply.array(2);
    reply.bulk(key.bytes);
    if let Some(text) = tx.read_text(key)? {
        crate::strings::write(text, reply);
    }
    tx.remove(key);
    Ok(())
}
