//! Lists: adding, reading and changing elements. Removing elements from an end is in `list_ends.rs`.

use std::ops::Range;

use damselfly_base::CommandError;
use damselfly_collections::{Element, Needle, Side};
use damselfly_engine::{Create, Event, Key, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{Collection, List, ListRef, SharedLarge, Value};

use crate::command::{
    Access, Arity::AtLeast, Arity::Exactly, At::One, Command, Group, KeySpec, Keys, Run, Trait,
    looks, reads, writes,
};
use crate::list_ends::pushed_to;
use crate::long::{self, SLICED_MIN};
use crate::{Args, KeyspaceFn, Result, SlicedReply, Stop};

const ADDED_TO: &[KeySpec] = &[writes(One(1), Access::Insert)];

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "LPUSH",
        arity: AtLeast(3),
        keys: Keys::Args(ADDED_TO),
        traits: &[Trait::NeedsMemory, Trait::Fast],
        run: Run::Run(|tx, args, reply| push(tx, args, Side::Left, Create::IfAbsent, reply)),
        group: Group::List,
        usage: "LPUSH key element [element ...]",
        summary: "Adds elements at the head of a list, one after the other, creating the list if the key is absent.",
        since: "1.0.0",
        complexity: "O(1) for each element",
    },
    Command {
        name: "RPUSH",
        arity: AtLeast(3),
        keys: Keys::Args(ADDED_TO),
        traits: &[Trait::NeedsMemory, Trait::Fast],
        run: Run::Run(|tx, args, reply| push(tx, args, Side::Right, Create::IfAbsent, reply)),
        group: Group::List,
        usage: "RPUSH key element [element ...]",
        summary: "Adds elements at the tail of a list, one after the other, creating the list if the key is absent.",
        since: "1.0.0",
        complexity: "O(1) for each element",
    },
    Command {
        name: "LPUSHX",
        arity: AtLeast(3),
        keys: Keys::Args(ADDED_TO),
        traits: &[Trait::NeedsMemory, Trait::Fast],
        run: Run::Run(|tx, args, reply| push(tx, args, Side::Left, Create::Never, reply)),
        group: Group::List,
        usage: "LPUSHX key element [element ...]",
        summary: "Adds elements at the head of a list only if the list exists.",
        since: "2.2.0",
        complexity: "O(1) for each element",
    },
    Command {
        name: "RPUSHX",
        arity: AtLeast(3),
        keys: Keys::Args(ADDED_TO),
        traits: &[Trait::NeedsMemory, Trait::Fast],
        run: Run::Run(|tx, args, reply| push(tx, args, Side::Right, Create::Never, reply)),
        group: Group::List,
        usage: "RPUSHX key element [element ...]",
        summary: "Adds elements at the tail of a list only if the list exists.",
        since: "2.2.0",
        complexity: "O(1) for each element",
    },
    Command {
        name: "LINSERT",
        arity: Exactly(5),
        keys: Keys::Args(ADDED_TO),
        traits: &[Trait::NeedsMemory],
        run: Run::Run(linsert),
        group: Group::List,
        usage: "LINSERT key <BEFORE | AFTER> pivot element",
        summary: "Inserts an element before or after the first one that equals the pivot.",
        since: "2.2.0",
        complexity: "O(N) where N is the number of elements up to the pivot",
    },
    Command {
        name: "LLEN",
        arity: Exactly(2),
        keys: Keys::Args(&[looks(One(1))]),
        traits: &[Trait::Fast],
        run: Run::Run(llen),
        group: Group::List,
        usage: "LLEN key",
        summary: "Returns the number of elements of a list.",
        since: "1.0.0",
        complexity: "O(1)",
    },
    Command {
        name: "LINDEX",
        arity: Exactly(3),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[],
        run: Run::Run(lindex),
        group: Group::List,
        usage: "LINDEX key index",
        summary: "Returns the element at an index; -1 is the last one.",
        since: "1.0.0",
        complexity: "O(N) where N is the number of nodes up to the element",
    },
    Command {
        name: "LRANGE",
        arity: Exactly(4),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[],
        run: Run::Run(lrange),
        group: Group::List,
        usage: "LRANGE key start stop",
        summary: "Returns the elements between two indexes (inclusive).",
        since: "1.0.0",
        complexity: "O(S+N) where S is the number of nodes up to the first element and N the number of elements",
    },
    Command {
        name: "LPOS",
        arity: AtLeast(3),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[],
        run: Run::Run(lpos),
        group: Group::List,
        usage: "LPOS key element [RANK rank] [COUNT num-matches] [MAXLEN len]",
        summary: "Returns the indexes of elements that equal the given one.",
        since: "6.0.6",
        complexity: "O(N) where N is the number of elements that are compared",
    },
    Command {
        name: "LSET",
        arity: Exactly(4),
        keys: Keys::Args(&[writes(One(1), Access::Update)]),
        traits: &[Trait::NeedsMemory],
        run: Run::Run(lset),
        group: Group::List,
        usage: "LSET key index element",
        summary: "Replaces the element at an index.",
        since: "1.0.0",
        complexity: "O(N) where N is the number of nodes up to the element",
    },
    Command {
        name: "LREM",
        arity: Exactly(4),
        keys: Keys::Args(&[writes(One(1), Access::Shrink)]),
        traits: &[],
        run: Run::Run(lrem),
        group: Group::List,
        usage: "LREM key count element",
        summary: "Removes up to count elements that equal the given one, starting at the head, or at the tail if count is negative; removes all if it is 0.",
        since: "1.0.0",
        complexity: "O(N) where N is the length of the list",
    },
    Command {
        name: "LTRIM",
        arity: Exactly(4),
        keys: Keys::Args(&[writes(One(1), Access::Shrink)]),
        traits: &[],
        run: Run::Run(ltrim),
        group: Group::List,
        usage: "LTRIM key start stop",
        summary: "Removes all elements except those between two indexes (inclusive).",
        since: "1.0.0",
        complexity: "O(N) where N is the number of nodes that are removed",
    },
];

/// Writes an element as a bulk string.
#[inline]
pub(crate) fn reply_element(element: Element<'_>, reply: &mut Reply<'_>) {
    match element {
        Element::Integer(number) => reply.bulk_integer(number),
        Element::Bytes(bytes) => reply.bulk(bytes),
    }
}

/// Writes `count` elements from `index` on, walking away from the end `from`.
pub(crate) fn reply_elements(
    list: ListRef<'_>,
    index: usize,
    from: Side,
    count: usize,
    reply: &mut Reply<'_>,
) {
    let mut walk = list.walk(index, from);
    for _ in 0..count {
        match walk.step() {
            Some(element) => reply_element(element, reply),
            // `count` never exceeds what is left; if it ever did, the reply would still have the announced length.
            None => reply.null(),
        }
    }
}

/// Resolves a client's index, where negative ones count from the end; `None` if it is out of range.
fn index_of(index: i64, len: usize) -> Option<usize> {
    let from_start = match index {
        0.. => index,
        _ => index + len as i64,
    };
    usize::try_from(from_start)
        .ok()
        .filter(|&index| index < len)
}

/// Resolves a client's inclusive range of indexes, limited to the elements that exist.
fn range_of(start: i64, stop: i64, len: usize) -> Range<usize> {
    let len = len as i64;
    let from_start = |index: i64| if index < 0 { index + len } else { index };
    let start = from_start(start).clamp(0, len);
    let end = from_start(stop).clamp(-1, len - 1) + 1;
    start as usize..end.max(start) as usize
}

/// Moves a command that visits all elements of a long list to another thread.
fn check_walk(tx: &mut Tx<'_>, key: Key<'_>) -> Result {
    let list = tx.peek(key).and_then(List::view);
    let steps = list.map_or(0, ListRef::len);
    long::check(tx, steps)
}

fn push(
    tx: &mut Tx<'_>,
    args: Args<'_>,
    side: Side,
    create: Create,
    reply: &mut Reply<'_>,
) -> Result {
    let key = args.key(1);
    let len = tx.change::<List, _>(key, create, |list| list.push(side, args.from(2)))?;
    if len.is_some() {
        tx.changed_elements(key, pushed_to(side), args.len() - 2);
    }
    reply.integer(len.unwrap_or(0) as i64);
    Ok(())
}

fn linsert(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let behind = if args.is(2, "AFTER") {
        1
    } else if args.is(2, "BEFORE") {
        0
    } else {
        return Err(CommandError::Syntax.into());
    };
    let key = args.key(1);
    check_walk(tx, key)?;
    let len = tx.change::<List, _>(key, Create::Never, |list| {
        let index = list.view().find(args.at(3))?;
        list.insert(index + behind, args.at(4));
        Some(list.view().len())
    })?;
    match len {
        None => reply.integer(0),
        Some(None) => reply.integer(-1),
        Some(Some(len)) => {
            tx.changed(key, Event::Linsert);
            reply.integer(len as i64);
        }
    }
    Ok(())
}

fn llen(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let list = tx.read_as::<List>(args.key(1))?;
    reply.integer(list.map_or(0, ListRef::len) as i64);
    Ok(())
}

fn lindex(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let Some(list) = tx.read_as::<List>(args.key(1))? else {
        reply.null();
        return Ok(());
    };
    let found = match index_of(args.integer(2)?, list.len()) {
        Some(index) => list.get(index, |element| reply_element(element, reply)),
        None => None,
    };
    if found.is_none() {
        reply.null();
    }
    Ok(())
}

fn lrange(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (start, stop) = (args.integer(2)?, args.integer(3)?);
    let Some(entry) = tx.read(args.key(1)) else {
        reply.array(0);
        return Ok(());
    };
    let list = List::view(entry).ok_or(CommandError::WrongType)?;
    let range = range_of(start, stop, list.len());
    reply.array(range.len());
    if range.len() > SLICED_MIN
        && let Some(large) = entry.share_large()
    {
        return Err(Stop::SlicedReply(sliced_range(large, range)));
    }
    reply_elements(list, range.start, Side::Left, range.len(), reply);
    Ok(())
}

/// A reply that writes the elements of a range, a slice at a time.
fn sliced_range(large: SharedLarge, mut range: Range<usize>) -> SlicedReply {
    const AT_ONCE: usize = 256;
    SlicedReply::new(move |reply| {
        let Value::List(list) = large.value() else {
            return false;
        };
        let count = range.len().min(AT_ONCE);
        reply_elements(list, range.start, Side::Left, count, reply);
        range.start += count;
        !range.is_empty()
    })
}

/// The options of LPOS.
struct Search {
    from: Side,
    /// The number of matches to skip.
    skipped: u64,
    /// The most matches to return, as an array; `None` to return one, not as an array.
    count: Option<u64>,
    /// The most elements to compare.
    compared_max: u64,
}

impl Search {
    fn parse(args: Args<'_>) -> Result<Self> {
        let mut search = Self {
            from: Side::Left,
            skipped: 0,
            count: None,
            compared_max: u64::MAX,
        };
        for at in (3..args.len()).step_by(2) {
            if at + 1 == args.len() {
                return Err(CommandError::Syntax.into());
            }
            if args.is(at, "RANK") {
                let rank = args.integer(at + 1)?;
                if rank == i64::MIN {
                    return Err(CommandError::err(RANK_LEAST).into());
                }
                if rank == 0 {
                    return Err(CommandError::err(RANK_ZERO).into());
                }
                search.from = if rank > 0 { Side::Left } else { Side::Right };
                search.skipped = rank.unsigned_abs() - 1;
            } else if args.is(at, "COUNT") {
                let count = not_negative(args, at + 1, "COUNT can't be negative")?;
                search.count = Some(if count == 0 { u64::MAX } else { count });
            } else if args.is(at, "MAXLEN") {
                let compared = not_negative(args, at + 1, "MAXLEN can't be negative")?;
                search.compared_max = if compared == 0 { u64::MAX } else { compared };
            } else {
                return Err(CommandError::Syntax.into());
            }
        }
        Ok(search)
    }

    /// Calls `found` with the index of each match in `list`.
    fn run(&self, list: ListRef<'_>, wanted: &[u8], mut found: impl FnMut(usize)) {
        let (needle, len) = (Needle::new(wanted), list.len());
        let (mut skipped, mut left) = (self.skipped, self.count.unwrap_or(1));
        let start = match self.from {
            Side::Left => 0,
            Side::Right => len.saturating_sub(1),
        };
        let mut walk = list.walk(start, self.from);
        let compared = usize::try_from(self.compared_max).map_or(len, |max| max.min(len));
        for step in 0..compared {
            if !walk.step().is_some_and(|element| needle.matches(element)) {
                continue;
            }
            if skipped > 0 {
                skipped -= 1;
                continue;
            }
            found(match self.from {
                Side::Left => step,
                Side::Right => len - 1 - step,
            });
            left -= 1;
            if left == 0 {
                return;
            }
        }
    }
}

const RANK_LEAST: &str =
    "value is out of range, value must between -9223372036854775807 and 9223372036854775807";
const RANK_ZERO: &str = "RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative to start from the end of the list";

/// An argument as a non-negative number.
fn not_negative(args: Args<'_>, at: usize, refusal: &str) -> Result<u64> {
    let number = damselfly_base::number::parse_integer(args.at(at));
    let number = number.and_then(|number| u64::try_from(number).ok());
    Ok(number.ok_or_else(|| CommandError::err(refusal))?)
}

fn lpos(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let search = Search::parse(args)?;
    check_walk(tx, args.key(1))?;
    let list = tx.read_as::<List>(args.key(1))?;
    if search.count.is_none() {
        let mut index = None;
        if let Some(list) = list {
            search.run(list, args.at(2), |found| index = Some(found));
        }
        match index {
            Some(index) => reply.integer(index as i64),
            None => reply.null(),
        }
        return Ok(());
    }
    let (deferred, mut count) = (reply.deferred_array(), 0);
    if let Some(list) = list {
        search.run(list, args.at(2), |found| {
            reply.integer(found as i64);
            count += 1;
        });
    }
    reply.finish(deferred, count);
    Ok(())
}

fn lset(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let key = args.key(1);
    let Some(list) = tx.access_as::<List>(key)? else {
        return Err(CommandError::NoSuchKey.into());
    };
    let Some(index) = index_of(args.integer(2)?, list.len()) else {
        return Err(CommandError::err("index out of range").into());
    };
    tx.change_used::<List, _>(key, Create::Never, |list| list.replace(index, args.at(3)))?;
    tx.changed(key, Event::Lset);
    reply.ok();
    Ok(())
}

fn lrem(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (key, count) = (args.key(1), args.integer(2)?);
    let (from, limit) = match count {
        ..0 => (Side::Right, count.unsigned_abs()),
        0 => (Side::Left, u64::MAX),
        1.. => (Side::Left, count.unsigned_abs()),
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    check_walk(tx, key)?;
    let removed = tx.change::<List, _>(key, Create::Never, |list| {
        list.remove_equal(args.at(3), limit, from)
    })?;
    let removed = removed.unwrap_or(0);
    if removed > 0 {
        tx.changed_elements(key, Event::Lrem, removed);
        if count == i64::MIN && tx.is_logged() {
            // Redis 7.2 and Valkey refuse this count, and their replicas must remove the elements, too.
            let count = (i64::MIN + 1).to_string();
            tx.log_effect(&[b"LREM", key.bytes, count.as_bytes(), args.at(3)]);
        }
    }
    reply.integer(removed as i64);
    Ok(())
}

fn ltrim(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let (key, start, stop) = (args.key(1), args.integer(2)?, args.integer(3)?);
    let trimmed = tx.change::<List, _>(key, Create::Never, |list| {
        let len = list.view().len();
        let kept = range_of(start, stop, len);
        list.remove_end(Side::Right, len - kept.end);
        list.remove_end(Side::Left, kept.start);
        len - kept.len()
    })?;
    if let Some(trimmed) = trimmed {
        tx.changed_elements(key, Event::Ltrim, trimmed);
    }
    reply.ok();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_of_any_size_stay_within_the_list() {
        for index in [i64::MIN, -4, 3, i64::MAX] {
            assert_eq!(index_of(index, 3), None);
        }
        assert_eq!((index_of(-3, 3), index_of(2, 3)), (Some(0), Some(2)));
        let ends = [i64::MIN, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, i64::MAX];
        for start in ends {
            for stop in ends {
                let among = |index: &i64| {
                    let from_end = index - 3;
                    let above = if start < 0 {
                        from_end >= start
                    } else {
                        *index >= start
                    };
                    let below = if stop < 0 {
                        from_end <= stop
                    } else {
                        *index <= stop
                    };
                    above && below
                };
                let expected: Vec<_> = (0..3_i64).filter(among).map(|at| at as usize).collect();
                let range: Vec<_> = range_of(start, stop, 3).collect();
                assert_eq!(range, expected, "{start} {stop}");
            }
        }
        assert!(range_of(0, -1, 0).is_empty());
    }
}
