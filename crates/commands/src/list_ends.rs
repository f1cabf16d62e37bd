//! Lists: removing elements from an end, and moving them to another list.

use damselfly_base::CommandError;
use damselfly_base::number::parse_integer;
use damselfly_collections::Side;
use damselfly_engine::{Create, Event, Key, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{Collection, List, ListRef};

use crate::command::{
    Access, Arity::AtLeast, Arity::Exactly, At::Counted, At::One, Command, Group, KeySpec, Keys,
    Run, Trait, writes,
};
use crate::lists::{reply_element, reply_elements};
use crate::long::{self, SLICED_MIN};
use crate::{Args, KeyspaceFn, Result};

const TAKEN_FROM: &[KeySpec] = &[writes(One(1), Access::Take)];
const MOVED_BETWEEN: &[KeySpec] = &[writes(One(1), Access::Take), writes(One(2), Access::Insert)];

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "LPOP",
        arity: AtLeast(2),
        keys: Keys::Args(TAKEN_FROM),
        traits: &[Trait::Fast],
        run: Run::Run(|tx, args, reply| pop(tx, args, Side::Left, reply)),
        group: Group::List,
        usage: "LPOP key [count]",
        summary: "Removes and returns the first element of a list, or the first count elements.",
        since: "1.0.0",
        complexity: "O(N) where N is the number of elements returned",
    },
    Command {
        name: "RPOP",
        arity: AtLeast(2),
        keys: Keys::Args(TAKEN_FROM),
        traits: &[Trait::Fast],
        run: Run::Run(|tx, args, reply| pop(tx, args, Side::Right, reply)),
        group: Group::List,
        usage: "RPOP key [count]",
        summary: "Removes and returns the last element of a list, or the last count elements.",
        since: "1.0.0",
        complexity: "O(N) where N is the number of elements returned",
    },
    Command {
        name: "LMPOP",
        arity: AtLeast(4),
        keys: Keys::Args(&[writes(Counted(1), Access::Take)]),
        traits: &[],
        run: Run::Run(lmpop),
        group: Group::List,
        usage: "LMPOP numkeys key [key ...] <LEFT | RIGHT> [COUNT count]",
        summary: "Removes and returns elements of the first list that is not empty.",
        since: "7.0.0",
        complexity: "O(N+M) where N is the number of keys and M the number of elements returned",
    },
    Command {
        name: "LMOVE",
        arity: Exactly(5),
        keys: Keys::Args(MOVED_BETWEEN),
        traits: &[Trait::NeedsMemory],
        run: Run::Run(lmove),
        group: Group::List,
        usage: "LMOVE source destination <LEFT | RIGHT> <LEFT | RIGHT>",
        summary: "Moves an element from an end of a list to an end of another or the same list, and returns it.",
        since: "6.2.0",
        complexity: "O(1)",
    },
    Command {
        name: "RPOPLPUSH",
        arity: Exactly(3),
        keys: Keys::Args(MOVED_BETWEEN),
        traits: &[
            Trait::NeedsMemory,
            Trait::Deprecated {
                since: "6.2.0",
                instead: "`LMOVE` with the `RIGHT` and `LEFT` arguments",
            },
        ],
        run: Run::Run(rpoplpush),
        group: Group::List,
        usage: "RPOPLPUSH source destination",
        summary: "Moves the last element of a list to the head of another or the same list, and returns it.",
        since: "1.2.0",
        complexity: "O(1)",
    },
];

fn popped_from(side: Side) -> Event {
    match side {
        Side::Left => Event::Lpop,
        Side::Right => Event::Rpop,
    }
}

/// The name of the command that takes elements from an end of a list.
pub(crate) fn name_of_pop(side: Side) -> &'static [u8] {
    match side {
        Side::Left => b"LPOP",
        Side::Right => b"RPOP",
    }
}

/// The event of adding elements at an end of a list.
pub(crate) fn pushed_to(side: Side) -> Event {
    match side {
        Side::Left => Event::Lpush,
        Side::Right => Event::Rpush,
    }
}

/// Removes an element from a list and writes it. If there is no list, writes nothing and returns false.
///
/// # Errors
/// `WRONGTYPE` if the key holds something else.
pub(crate) fn pop_one(
    tx: &mut Tx<'_>,
    key: Key<'_>,
    side: Side,
    reply: &mut Reply<'_>,
) -> Result<bool> {
    let popped = tx.change::<List, _>(key, Create::Never, |list| {
        list.pop(side, |element| reply_element(element, reply));
    })?;
    if popped.is_some() {
        tx.changed(key, popped_from(side));
    }
    Ok(popped.is_some())
}

/// Removes up to `count` elements from a list and writes them as an array. If there is no list, writes nothing and returns false.
///
/// # Errors
/// `WRONGTYPE` if the key holds something else.
pub(crate) fn pop_many(
    tx: &mut Tx<'_>,
    key: Key<'_>,
    side: Side,
    count: usize,
    reply: &mut Reply<'_>,
) -> Result<bool> {
    Ok(pop_up_to(tx, key, side, count, reply)?.is_some())
}

/// As [`pop_many`], but returns how many elements there were.
fn pop_up_to(
    tx: &mut Tx<'_>,
    key: Key<'_>,
    side: Side,
    count: usize,
    reply: &mut Reply<'_>,
) -> Result<Option<usize>> {
    let popped = tx.change::<List, _>(key, Create::Never, |list| {
        let len = list.view().len();
        let count = count.min(len);
        let index = match side {
            Side::Left => 0,
            Side::Right => len - 1,
        };
        reply.array(count);
        reply_elements(list.view(), index, side, count, reply);
        list.remove_end(side, count);
        count
    })?;
    if let Some(count) = popped.filter(|&count| count > 0) {
        tx.changed_elements(key, popped_from(side), count);
    }
    Ok(popped)
}

/// Like [`pop_many`], but writes the key and the elements: the reply of LMPOP and BLMPOP.
///
/// # Errors
/// `WRONGTYPE` if the key holds something else.
pub(crate) fn pop_many_named(
    tx: &mut Tx<'_>,
    key: Key<'_>,
    side: Side,
    count: usize,
    reply: &mut Reply<'_>,
) -> Result<bool> {
    let start = reply.position();
    reply.array(2);
    reply.bulk(key.bytes);
    match pop_up_to(tx, key, side, count, reply) {
        Ok(Some(count)) => {
            if tx.is_logged() {
                let count = count.to_string();
                tx.log_effect(&[name_of_pop(side), key.bytes, count.as_bytes()]);
            }
            Ok(true)
        }
        not_popped => {
            reply.truncate_to(start);
            not_popped.map(|_| false)
        }
    }
}

/// Moves an element from an end of one list to an end of another, and writes it. If the first list is absent, writes nothing and
/// returns false.
///
/// # Errors
/// `WRONGTYPE` if one of the keys holds something else.
pub(crate) fn move_one(
    tx: &mut Tx<'_>,
    (source, from): (Key<'_>, Side),
    (target, to): (Key<'_>, Side),
    reply: &mut Reply<'_>,
) -> Result<bool> {
    let Some(list) = tx.access_as::<List>(source)? else {
        return Ok(false);
    };
    let Some(element) = list.end(from) else {
        return Ok(false);
    };
    // The element is pushed straight from the reply, which saves a copy.
    let (start, len) = (reply.position(), element.len());
    reply_element(element, reply);
    if let Err(error) = tx.access_as::<List>(target) {
        reply.truncate_to(start);
        return Err(error.into());
    }
    let written = reply.written_since(start);
    let end = written.len() - "\r\n".len();
    let text = std::iter::once(&written[end - len..end]);
    if source.bytes == target.bytes {
        tx.change_used::<List, _>(source, Create::Never, |list| {
            list.remove_end(from, 1);
            list.push(to, text)
        })?;
    } else {
        tx.change_used::<List, _>(target, Create::IfAbsent, |list| list.push(to, text))?;
        tx.change_used::<List, _>(source, Create::Never, |list| list.remove_end(from, 1))?;
    }
    tx.changed(target, pushed_to(to));
    tx.changed(source, popped_from(from));
    Ok(true)
}

/// The end of a list that an argument names.
///
/// # Errors
/// If it is neither LEFT nor RIGHT.
pub(crate) fn side_of(args: Args<'_>, at: usize) -> Result<Side> {
    if args.is(at, "LEFT") {
        Ok(Side::Left)
    } else if args.is(at, "RIGHT") {
        Ok(Side::Right)
    } else {
        Err(CommandError::Syntax.into())
    }
}

/// The arguments of LMPOP and BLMPOP after the keys, which the argument at `count_at` counts: the end, and the number of
/// elements.
///
/// # Errors
/// If a number is not positive, or another argument is invalid.
pub(crate) fn side_and_count(args: Args<'_>, count_at: usize) -> Result<(Side, usize)> {
    let keys = positive(args, count_at, "numkeys should be greater than 0")?;
    let side_at = (count_at + 1).saturating_add(keys);
    if side_at >= args.len() {
        return Err(CommandError::Syntax.into());
    }
    let side = side_of(args, side_at)?;
    let (mut count, mut at) = (None, side_at + 1);
    while at < args.len() {
        if count.is_some() || !args.is(at, "COUNT") || at + 1 == args.len() {
            return Err(CommandError::Syntax.into());
        }
        count = Some(positive(args, at + 1, "count should be greater than 0")?);
        at += 2;
    }
    Ok((side, count.unwrap_or(1)))
}

fn positive(args: Args<'_>, at: usize, refusal: &str) -> Result<usize> {
    let number = parse_integer(args.at(at)).and_then(|number| usize::try_from(number).ok());
    let number = number.filter(|&number| number > 0);
    Ok(number.ok_or_else(|| CommandError::err(refusal))?)
}

/// Moves a command that removes many elements to another thread.
fn check_count(tx: &mut Tx<'_>, key: Key<'_>, count: usize) -> Result {
    if count <= SLICED_MIN {
        return Ok(());
    }
    let len = tx.peek(key).and_then(List::view).map_or(0, ListRef::len);
    long::check(tx, count.min(len))
}

fn pop(tx: &mut Tx<'_>, args: Args<'_>, side: Side, reply: &mut Reply<'_>) -> Result {
    if args.len() > 3 {
        let name = args.at(0).to_ascii_lowercase();
        return Err(CommandError::Arity(String::from_utf8_lossy(&name).into()).into());
    }
    let key = args.key(1);
    if args.len() == 2 {
        if !pop_one(tx, key, side, reply)? {
            reply.null();
        }
        return Ok(());
    }
    let count = parse_integer(args.at(2)).and_then(|count| usize::try_from(count).ok());
    let count = count.ok_or(CommandError::NotPositive)?;
    check_count(tx, key, count)?;
    if !pop_many(tx, key, side, count, reply)? {
        reply.null_array();
    }
    Ok(())
}

fn lmpop(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (side, count) = side_and_count(args, 1)?;
    for place in Counted(1).places(args) {
        check_count(tx, args.key(place), count)?;
        if pop_many_named(tx, args.key(place), side, count, reply)? {
            return Ok(());
        }
    }
    reply.null_array();
    Ok(())
}

fn lmove(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (from, to) = (side_of(args, 3)?, side_of(args, 4)?);
    if !move_one(tx, (args.key(1), from), (args.key(2), to), reply)? {
        reply.null();
    }
    Ok(())
}

fn rpoplpush(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (source, target) = ((args.key(1), Side::Right), (args.key(2), Side::Left));
    if !move_one(tx, source, target, reply)? {
        reply.null();
    }
    Ok(())
}
