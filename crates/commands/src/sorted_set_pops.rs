//! Removing members from the ends of sorted sets: ZPOPMIN, ZPOPMAX, ZMPOP.

use std::ops::Range;

use damselfly_base::CommandError;
use damselfly_base::number::parse_integer;
use damselfly_engine::{Create, Event, Key, Tx};
use damselfly_protocol::{Reply, Version};
use damselfly_value::{ScoredMember, SortedSet};

use crate::command::{
    Access, Arity::AtLeast, At::Counted, At::One, Command, Group, Keys, Run, Trait, writes,
};
use crate::{Args, KeyspaceFn, Result, Stop, long, sets};

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "ZPOPMIN",
        arity: AtLeast(2),
        keys: Keys::Args(&[writes(One(1), Access::Take)]),
        traits: &[Trait::Fast],
        run: Run::Run(|tx, args, reply| pop(tx, args, reply, End::Min)),
        group: Group::SortedSet,
        usage: "ZPOPMIN key [count]",
        summary: "Removes and returns the members with the lowest scores of a sorted set.",
        since: "5.0.0",
        complexity: "O(log(N)*M) where N is the size of the sorted set and M the number of members removed",
    },
    Command {
        name: "ZPOPMAX",
        arity: AtLeast(2),
        keys: Keys::Args(&[writes(One(1), Access::Take)]),
        traits: &[Trait::Fast],
        run: Run::Run(|tx, args, reply| pop(tx, args, reply, End::Max)),
        group: Group::SortedSet,
        usage: "ZPOPMAX key [count]",
        summary: "Removes and returns the members with the highest scores of a sorted set.",
        since: "5.0.0",
        complexity: "O(log(N)*M) where N is the size of the sorted set and M the number of members removed",
    },
    Command {
        name: "ZMPOP",
        arity: AtLeast(4),
        keys: Keys::Args(&[writes(Counted(1), Access::Take)]),
        traits: &[],
        run: Run::Run(zmpop),
        group: Group::SortedSet,
        usage: "ZMPOP numkeys key [key ...] <MIN | MAX> [COUNT count]",
        summary: "Removes and returns the members with the lowest or highest scores of the first sorted set that is not empty.",
        since: "7.0.0",
        complexity: "O(K)+O(M*log(N)) where K is the number of keys, N the size of the sorted set and M the number of members removed",
    },
];

/// An end of a sorted set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The lowest scores.
    Min,
    /// The highest scores.
    Max,
}

/// Removes up to `count` members (not 0) from an end of the sorted set at a key. Calls `begin` with their number, then `each`
/// with each of them. If the key is absent, writes nothing and returns false.
fn take(
    tx: &mut Tx<'_>,
    key: Key<'_>,
    end: End,
    count: usize,
    reply: &mut Reply<'_>,
    begin: impl FnOnce(usize, &mut Reply<'_>),
    each: impl Fn(ScoredMember<'_>, &mut Reply<'_>),
) -> Result<bool> {
    let steps_max = long::steps_max(tx);
    let taken = tx.change::<SortedSet, _>(key, Create::Never, |set| {
        let len = set.view().len();
        let count = count.min(len);
        if count > steps_max {
            return Err(Stop::Long);
        }
        begin(count, reply);
        let ranks = match end {
            End::Min => 0..count,
            End::Max => len - count..len,
        };
        let members = set.view().range(ranks.clone());
        match end {
            End::Min => members.for_each(|scored| each(scored, reply)),
            End::Max => members.rev().for_each(|scored| each(scored, reply)),
        }
        set.remove_range(ranks);
        Ok(count)
    })?;
    let taken = taken.transpose()?;
    if let Some(count) = taken {
        let event = match end {
            End::Min => Event::Zpopmin,
            End::Max => Event::Zpopmax,
        };
        tx.changed_elements(key, event, count);
    }
    Ok(taken.is_some())
}

fn write_flat(scored: ScoredMember<'_>, reply: &mut Reply<'_>) {
    sets::write(scored.member, reply);
    reply.double(scored.score);
}

fn write_nested(scored: ScoredMember<'_>, reply: &mut Reply<'_>) {
    reply.array(2);
    write_flat(scored, reply);
}

fn name_of_pop(end: End) -> &'static [u8] {
    match end {
        End::Min => b"ZPOPMIN",
        End::Max => b"ZPOPMAX",
    }
}

/// Removes a member from an end of the sorted set at a key and replies with key, member and score, as BZPOPMIN does. If the key
/// is absent, writes nothing and returns false.
pub(crate) fn pop_one(
    tx: &mut Tx<'_>,
    key: Key<'_>,
    end: End,
    reply: &mut Reply<'_>,
) -> Result<bool> {
    let begin = |_, reply: &mut Reply<'_>| {
        reply.array(3);
        reply.bulk(key.bytes);
    };
    let popped = take(tx, key, end, 1, reply, begin, write_flat)?;
    if popped {
        tx.log_effect(&[name_of_pop(end), key.bytes]);
    }
    Ok(popped)
}

/// The parsed arguments of ZMPOP and BZMPOP.
pub(crate) struct MultiPop {
    /// The indexes of the keys.
    pub(crate) keys: Range<usize>,
    pub(crate) end: End,
    pub(crate) count: usize,
}

impl MultiPop {
    /// Parses the arguments from `numkeys` on, which is at `first`.
    pub(crate) fn parse(args: Args<'_>, first: usize) -> Result<Self> {
        let positive = |at: usize, text: &'static str| {
            parse_integer(args.at(at))
                .filter(|&number| number > 0)
                .and_then(|number| usize::try_from(number).ok())
                .ok_or_else(|| CommandError::err(text))
        };
        let keys = positive(first, "numkeys should be greater than 0")?;
        let end_at = first.saturating_add(keys).saturating_add(1);
        let end = if args.is(end_at, "MIN") {
            End::Min
        } else if args.is(end_at, "MAX") {
            End::Max
        } else {
            return Err(CommandError::Syntax.into());
        };
        let count = match args.len() - end_at {
            1 => 1,
            3 if args.is(end_at + 1, "COUNT") => {
                positive(end_at + 2, "count should be greater than 0")?
            }
            // Redis checks the number of COUNT before it refuses further arguments.
            more if more > 3 && args.is(end_at + 1, "COUNT") => {
                positive(end_at + 2, "count should be greater than 0")?;
                return Err(CommandError::Syntax.into());
            }
            _ => return Err(CommandError::Syntax.into()),
        };
        Ok(Self {
            keys: first + 1..end_at,
            end,
            count,
        })
    }

    /// Removes members from a key and replies. If the key is absent, writes nothing and returns false.
    pub(crate) fn pop(&self, tx: &mut Tx<'_>, key: Key<'_>, reply: &mut Reply<'_>) -> Result<bool> {
        let mut popped = 0;
        let begin = |count, reply: &mut Reply<'_>| {
            popped = count;
            reply.array(2);
            reply.bulk(key.bytes);
            reply.array(count);
        };
        let is_done = take(tx, key, self.end, self.count, reply, begin, write_nested)?;
        if is_done && tx.is_logged() {
            let count = popped.to_string();
            tx.log_effect(&[name_of_pop(self.end), key.bytes, count.as_bytes()]);
        }
        Ok(is_done)
    }
}

fn pop(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>, end: End) -> Result {
    if args.len() > 3 {
        return Err(CommandError::Syntax.into());
    }
    let key = args.key(1);
    let count = match args.get(2).map(parse_integer) {
        None => None,
        Some(count) => Some(
            count
                .and_then(|count| usize::try_from(count).ok())
                .ok_or(CommandError::NotPositive)?,
        ),
    };
    if count == Some(0) {
        tx.access_as::<SortedSet>(key)?;
        reply.array(0);
        return Ok(());
    }
    let nests = count.is_some() && reply.version() == Version::Resp3;
    let begin = |count, reply: &mut Reply<'_>| reply.array(if nests { count } else { count * 2 });
    let write = if nests { write_nested } else { write_flat };
    if !take(tx, key, end, count.unwrap_or(1), reply, begin, write)? {
        reply.array(0);
    }
    Ok(())
}

fn zmpop(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let wanted = MultiPop::parse(args, 1)?;
    for place in wanted.keys.clone() {
        if wanted.pop(tx, args.key(place), reply)? {
            return Ok(());
        }
    }
    reply.null_array();
    Ok(())
}
