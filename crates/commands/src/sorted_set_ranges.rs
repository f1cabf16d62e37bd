//! Ranges of sorted sets by rank, score or member: reading, counting, removing and storing them.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use damselfly_base::{CommandError, double};
use damselfly_engine::{Create, Event, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{
    Collection, MemberEnd, MemberRange, ScoreRange, ScoredMember, SharedLarge, SortedSet,
    SortedSetRef, Thresholds, Value,
};

use crate::command::{
    Access, Arity::AtLeast, Arity::Exactly, At::One, Command, Group, Keys, Run, Trait, reads,
    writes,
};
use crate::sorted_sets::{begin_list, write_one};
use crate::{Args, KeyspaceFn, Result, SlicedReply, Stop, long};

const RANGE: &str =
    "O(log(N)+M) where N is the size of the sorted set and M the number of members in the range";

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "ZRANGE",
        arity: AtLeast(4),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[],
        run: Run::Run(|tx, args, reply| show(tx, args, reply, Form::ANY)),
        group: Group::SortedSet,
        usage: "ZRANGE key start stop [BYSCORE | BYLEX] [REV] [LIMIT offset count] [WITHSCORES]",
        summary: "Returns the members in a range of ranks, scores or members.",
        since: "1.2.0",
        complexity: RANGE,
    },
    Command {
        name: "ZRANGESTORE",
        arity: AtLeast(5),
        keys: Keys::Args(&[writes(One(1), Access::Overwrite), reads(One(2))]),
        traits: &[Trait::NeedsMemory],
        run: Run::Run(zrangestore),
        group: Group::SortedSet,
        usage: "ZRANGESTORE dst src min max [BYSCORE | BYLEX] [REV] [LIMIT offset count]",
        summary: "Stores the members in a range of ranks, scores or members, and returns how many they are.",
        since: "6.2.0",
        complexity: RANGE,
    },
    Command {
        name: "ZREVRANGE",
        arity: AtLeast(4),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Deprecated {
            since: "6.2.0",
            instead: "`ZRANGE` with the `REV` argument",
        }],
        run: Run::Run(|tx, args, reply| show(tx, args, reply, Form::of(By::Rank, true))),
        group: Group::SortedSet,
        usage: "ZREVRANGE key start stop [WITHSCORES]",
        summary: "Returns the members in a range of ranks, by descending score.",
        since: "1.2.0",
        complexity: RANGE,
    },
    Command {
        name: "ZRANGEBYSCORE",
        arity: AtLeast(4),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Deprecated {
            since: "6.2.0",
            instead: "`ZRANGE` with the `BYSCORE` argument",
        }],
        run: Run::Run(|tx, args, reply| show(tx, args, reply, Form::of(By::Score, false))),
        group: Group::SortedSet,
        usage: "ZRANGEBYSCORE key min max [WITHSCORES] [LIMIT offset count]",
        summary: "Returns the members in a range of scores.",
        since: "1.0.5",
        complexity: RANGE,
    },
    Command {
        name: "ZREVRANGEBYSCORE",
        arity: AtLeast(4),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Deprecated {
            since: "6.2.0",
            instead: "`ZRANGE` with the `REV` and `BYSCORE` arguments",
        }],
        run: Run::Run(|tx, args, reply| show(tx, args, reply, Form::of(By::Score, true))),
        group: Group::SortedSet,
        usage: "ZREVRANGEBYSCORE key max min [WITHSCORES] [LIMIT offset count]",
        summary: "Returns the members in a range of scores, by descending score.",
        since: "2.2.0",
        complexity: RANGE,
    },
    Command {
        name: "ZRANGEBYLEX",
        arity: AtLeast(4),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Deprecated {
            since: "6.2.0",
            instead: "`ZRANGE` with the `BYLEX` argument",
        }],
        run: Run::Run(|tx, args, reply| show(tx, args, reply, Form::of(By::Member, false))),
        group: Group::SortedSet,
        usage: "ZRANGEBYLEX key min max [LIMIT offset count]",
        summary: "Returns the members between two given ones, for a sorted set whose scores are all equal.",
        since: "2.8.9",
        complexity: RANGE,
    },
    Command {
        name: "ZREVRANGEBYLEX",
        arity: AtLeast(4),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Deprecated {
            since: "6.2.0",
            instead: "`ZRANGE` with the `REV` and `BYLEX` arguments",
        }],
        run: Run::Run(|tx, args, reply| show(tx, args, reply, Form::of(By::Member, true))),
        group: Group::SortedSet,
        usage: "ZREVRANGEBYLEX key max min [LIMIT offset count]",
        summary: "Returns the members between two given ones in descending order, for a sorted set whose scores are all equal.",
        since: "2.8.9",
        complexity: RANGE,
    },
    Command {
        name: "ZCOUNT",
        arity: Exactly(4),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Fast],
        run: Run::Run(|tx, args, reply| count(tx, args, reply, By::Score)),
        group: Group::SortedSet,
        usage: "ZCOUNT key min max",
        summary: "Returns the number of members in a range of scores.",
        since: "2.0.0",
        complexity: "O(log(N)) where N is the size of the sorted set",
    },
    Command {
        name: "ZLEXCOUNT",
        arity: Exactly(4),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Fast],
        run: Run::Run(|tx, args, reply| count(tx, args, reply, By::Member)),
        group: Group::SortedSet,
        usage: "ZLEXCOUNT key min max",
        summary: "Returns the number of members between two given ones, for a sorted set whose scores are all equal.",
        since: "2.8.9",
        complexity: "O(log(N)) where N is the size of the sorted set",
    },
    Command {
        name: "ZREMRANGEBYRANK",
        arity: Exactly(4),
        keys: Keys::Args(&[writes(One(1), Access::Shrink)]),
        traits: &[],
        run: Run::Run(|tx, args, reply| remove(tx, args, reply, By::Rank)),
        group: Group::SortedSet,
        usage: "ZREMRANGEBYRANK key start stop",
        summary: "Removes the members in a range of ranks and returns how many they were.",
        since: "2.0.0",
        complexity: RANGE,
    },
    Command {
        name: "ZREMRANGEBYSCORE",
        arity: Exactly(4),
        keys: Keys::Args(&[writes(One(1), Access::Shrink)]),
        traits: &[],
        run: Run::Run(|tx, args, reply| remove(tx, args, reply, By::Score)),
        group: Group::SortedSet,
        usage: "ZREMRANGEBYSCORE key min max",
        summary: "Removes the members in a range of scores and returns how many they were.",
        since: "1.2.0",
        complexity: RANGE,
    },
    Command {
        name: "ZREMRANGEBYLEX",
        arity: Exactly(4),
        keys: Keys::Args(&[writes(One(1), Access::Shrink)]),
        traits: &[],
        run: Run::Run(|tx, args, reply| remove(tx, args, reply, By::Member)),
        group: Group::SortedSet,
        usage: "ZREMRANGEBYLEX key min max",
        summary: "Removes the members between two given ones, for a sorted set whose scores are all equal, and returns how many they were.",
        since: "2.8.9",
        complexity: RANGE,
    },
];

/// The kind of a range.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Member,
}

/// The ends of a range, as in the request.
#[derive(Clone, Copy)]
enum Ends<'a> {
    /// Two ranks; negative ones count from the end.
    Ranks(i64, i64),
    Scores(ScoreRange),
    Members(MemberRange<'a>),
}

impl<'a> Ends<'a> {
    fn parse(by: By, min: &'a [u8], max: &'a [u8]) -> Result<Self> {
        let rank =
            |text| damselfly_base::number::parse_integer(text).ok_or(CommandError::NotInteger);
        Ok(match by {
            By::Rank => Self::Ranks(rank(min)?, rank(max)?),
            By::Score => {
                let range = || {
                    let ((min, min_excluded), (max, max_excluded)) =
                        (score_end(min)?, score_end(max)?);
                    Some(ScoreRange {
                        min,
                        min_excluded,
                        max,
                        max_excluded,
                    })
                };
                Self::Scores(range().ok_or_else(|| CommandError::err("min or max is not a float"))?)
            }
            By::Member => {
                let range = || {
                    let (min, max) = (member_end(min)?, member_end(max)?);
                    Some(MemberRange { min, max })
                };
                let text = "min or max not valid string range item";
                Self::Members(range().ok_or_else(|| CommandError::err(text))?)
            }
        })
    }

    /// The ranks in the range, counted from the lowest. With `reverse`, ranks in the request count from the highest.
    fn ranks(self, set: SortedSetRef<'_>, reverse: bool) -> Range<usize> {
        match self {
            Self::Ranks(start, stop) => ranks_between(start, stop, set.len(), reverse),
            Self::Scores(range) => set.ranks_by_score(range),
            Self::Members(range) => set.ranks_by_member(range),
        }
    }
}

/// An end of a range of scores, and whether it is excluded.
fn score_end(text: &[u8]) -> Option<(f64, bool)> {
    match text {
        [b'(', score @ ..] => Some((double::parse_leniently(score)?, true)),
        score => Some((double::parse_leniently(score)?, false)),
    }
}

/// An end of a range of members.
fn member_end(text: &[u8]) -> Option<MemberEnd<'_>> {
    // A zero byte after `-` or `+` ends the text, as in C.
    match text {
        [b'-'] | [b'-', 0, ..] => Some(MemberEnd::Lowest),
        [b'+'] | [b'+', 0, ..] => Some(MemberEnd::Highest),
        [b'[', member @ ..] => Some(MemberEnd::Included(member)),
        [b'(', member @ ..] => Some(MemberEnd::Excluded(member)),
        _ => None,
    }
}

/// The ranks from `start` to `stop`, both included; negative ones count from the end.
fn ranks_between(start: i64, stop: i64, len: usize, reverse: bool) -> Range<usize> {
    let from_front = |rank: i64| match usize::try_from(rank) {
        Ok(rank) => Some(rank),
        Err(_) => len.checked_sub(usize::try_from(rank.unsigned_abs()).unwrap_or(usize::MAX)),
    };
    let start = from_front(start).unwrap_or(0).min(len);
    let end = from_front(stop).map_or(0, |stop| stop.saturating_add(1).min(len));
    let end = end.max(start);
    if reverse {
        len - end..len - start
    } else {
        start..end
    }
}

/// The kind and direction of a command's range; `None` if an option chooses it.
#[derive(Clone, Copy)]
struct Form {
    by: Option<By>,
    reverse: Option<bool>,
}

impl Form {
    const ANY: Self = Self {
        by: None,
        reverse: None,
    };

    const fn of(by: By, reverse: bool) -> Self {
        Self {
            by: Some(by),
            reverse: Some(reverse),
        }
    }
}

/// A parsed request for a range of members.
struct Query<'a> {
    ends: Ends<'a>,
    reverse: bool,
    with_scores: bool,
    offset: i64,
    /// The most members to return; all if negative.
    limit: i64,
}

impl<'a> Query<'a> {
    /// Parses the range at argument `first`, and the options after it. If the range is stored, WITHSCORES is not an option.
    fn parse(args: Args<'a>, first: usize, form: Form, stores: bool) -> Result<Self> {
        let Form {
            mut by,
            mut reverse,
        } = form;
        let (mut with_scores, mut offset, mut limit) = (false, 0, -1);
        let mut at = first + 2;
        while at < args.len() {
            if !stores && args.is(at, "WITHSCORES") {
                with_scores = true;
            } else if args.is(at, "LIMIT") && at + 2 < args.len() {
                (offset, limit) = (args.integer(at + 1)?, args.integer(at + 2)?);
                at += 2;
            } else if reverse.is_none() && args.is(at, "REV") {
                reverse = Some(true);
            } else if by.is_none() && args.is(at, "BYLEX") {
                by = Some(By::Member);
            } else if by.is_none() && args.is(at, "BYSCORE") {
                by = Some(By::Score);
            } else {
                return Err(CommandError::Syntax.into());
            }
            at += 1;
        }
        let (by, reverse) = (by.unwrap_or(By::Rank), reverse.unwrap_or(false));
        if limit != -1 && by == By::Rank {
            let text =
                "syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX";
            return Err(CommandError::err(text).into());
        }
        if with_scores && by == By::Member {
            let text = "syntax error, WITHSCORES not supported in combination with BYLEX";
            return Err(CommandError::err(text).into());
        }
        // In reverse, scores and members are given from the higher to the lower end, but ranks still in ascending order.
        let (min, max) = match by {
            By::Score | By::Member if reverse => (args.at(first + 1), args.at(first)),
            By::Rank | By::Score | By::Member => (args.at(first), args.at(first + 1)),
        };
        if by == By::Rank {
            (offset, limit) = (0, -1);
        }
        Ok(Self {
            ends: Ends::parse(by, min, max)?,
            reverse,
            with_scores,
            offset,
            limit,
        })
    }

    /// The requested ranks, counted from the lowest.
    fn ranks(&self, set: SortedSetRef<'_>) -> Range<usize> {
        let ranks = self.ends.ranks(set, self.reverse);
        // A negative offset selects nothing.
        let offset = usize::try_from(self.offset)
            .unwrap_or(usize::MAX)
            .min(ranks.len());
        let left = ranks.len() - offset;
        let count = usize::try_from(self.limit).map_or(left, |limit| limit.min(left));
        if self.reverse {
            let end = ranks.end - offset;
            end - count..end
        } else {
            let start = ranks.start + offset;
            start..start + count
        }
    }
}

/// Replies with a range.
fn show(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>, form: Form) -> Result {
    let query = Query::parse(args, 2, form, false)?;
    let Some(entry) = tx.read(args.key(1)) else {
        reply.array(0);
        return Ok(());
    };
    let set = SortedSet::view(entry).ok_or(CommandError::WrongType)?;
    let ranks = query.ranks(set);
    if ranks.len() > long::SLICED_MIN
        && let Some(shared) = entry.share_large()
    {
        begin_list(ranks.len(), query.with_scores, reply);
        let slices = Slices {
            shared,
            ranks,
            reverse: query.reverse,
            with_scores: query.with_scores,
        };
        return Err(Stop::SlicedReply(slices.into_sliced_reply()));
    }
    begin_list(ranks.len(), query.with_scores, reply);
    write_range(set, ranks, query.reverse, query.with_scores, reply);
    Ok(())
}

/// Writes the members of these ranks, without the header of the list.
fn write_range(
    set: SortedSetRef<'_>,
    ranks: Range<usize>,
    reverse: bool,
    with_scores: bool,
    reply: &mut Reply<'_>,
) {
    let members = set.range(ranks);
    if reverse {
        members
            .rev()
            .for_each(|scored| write_one(scored, with_scores, reply));
    } else {
        members.for_each(|scored| write_one(scored, with_scores, reply));
    }
}

/// A long reply, from a snapshot of a large sorted set.
struct Slices {
    shared: SharedLarge,
    /// The ranks left to write.
    ranks: Range<usize>,
    reverse: bool,
    with_scores: bool,
}

impl Slices {
    fn into_sliced_reply(mut self) -> SlicedReply {
        SlicedReply::new(move |reply| self.write_some(reply))
    }

    /// Writes the next members; returns false if none were left.
    fn write_some(&mut self, reply: &mut Reply<'_>) -> bool {
        const MEMBERS: usize = 128;
        let Value::SortedSet(set) = self.shared.value() else {
            return false;
        };
        let count = self.ranks.len().min(MEMBERS);
        let slice = if self.reverse {
            self.ranks.end -= count;
            self.ranks.end..self.ranks.end + count
        } else {
            self.ranks.start += count;
            self.ranks.start - count..self.ranks.start
        };
        write_range(set, slice, self.reverse, self.with_scores, reply);
        count > 0
    }
}

fn zrangestore(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let query = Query::parse(args, 3, Form::ANY, true)?;
    let (destination, source) = (args.key(1), args.key(2));
    let steps = tx.read_as::<SortedSet>(source)?;
    let steps = steps.map_or(0, |set| query.ranks(set).len());
    long::check(tx, steps)?;
    let section = &*tx;
    let set = section.view(source).and_then(SortedSet::view);
    let (entry, count) = section.build::<SortedSet, _>(destination, |result| {
        let Some(set) = set else { return 0 };
        let ranks = query.ranks(set);
        let members = set.range(ranks.clone());
        let thresholds = &section.engine().settings.thresholds;
        let packed = added_to_listpack(members.clone(), ranks.len(), query.reverse, thresholds);
        result.fill(members.enumerate().map(|(place, mut scored)| {
            if packed.contains(&place) {
                // A listpack knows no negative zero.
                scored.score += 0.0;
            }
            scored
        }));
        ranks.len()
    });
    tx.store_built(destination, entry, Event::Zrangestore);
    reply.integer(count as i64);
    Ok(())
}

/// The places of the members that Redis adds while the result is still a listpack: until one does not fit. In reverse, it begins with the last.
fn added_to_listpack<'m>(
    members: impl Iterator<Item = ScoredMember<'m>>,
    count: usize,
    reverse: bool,
    thresholds: &Thresholds,
) -> Range<usize> {
    let load =
        |threshold: &AtomicU64| usize::try_from(threshold.load(Relaxed)).unwrap_or(usize::MAX);
    let entries_max = load(&thresholds.zset_max_listpack_entries);
    let value_max = load(&thresholds.zset_max_listpack_value);
    let mut long = members
        .enumerate()
        .filter(|(_, scored)| scored.member.len() > value_max)
        .map(|(place, _)| place);
    match reverse {
        false => 0..long.next().unwrap_or(count).min(entries_max),
        true => {
            long.last()
                .map_or(0, |last| last + 1)
                .max(count.saturating_sub(entries_max))..count
        }
    }
}

/// Replies with the number of members in a range.
fn count(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>, by: By) -> Result {
    let ends = Ends::parse(by, args.at(2), args.at(3))?;
    let set = tx.read_as::<SortedSet>(args.key(1))?;
    let count = set.map_or(0, |set| ends.ranks(set, false).len());
    reply.integer(count as i64);
    Ok(())
}

/// Removes a range.
fn remove(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>, by: By) -> Result {
    let ends = Ends::parse(by, args.at(2), args.at(3))?;
    let event = match by {
        By::Rank => Event::Zremrangebyrank,
        By::Score => Event::Zremrangebyscore,
        By::Member => Event::Zremrangebylex,
    };
    let (key, steps_max) = (args.key(1), long::steps_max(tx));
    let removed = tx.change::<SortedSet, _>(key, Create::Never, |set| {
        let ranks = ends.ranks(set.view(), false);
        let count = ranks.len();
        if count > steps_max {
            return Err(Stop::Long);
        }
        if count > 0 {
            set.remove_range(ranks);
        }
        Ok(count)
    })?;
    let removed = removed.transpose()?.unwrap_or_default();
    if removed > 0 {
        tx.changed_elements(key, event, removed);
    }
    reply.integer(removed as i64);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_count_from_either_end() {
        for (start, stop, forward, backward) in [
            (0, -1, 0..5, 0..5),
            (0, 0, 0..1, 4..5),
            (1, 2, 1..3, 2..4),
            (-2, -1, 3..5, 0..2),
            (-9, 9, 0..5, 0..5),
            (3, 1, 3..3, 2..2),
            (5, 9, 5..5, 0..0),
            (-9, -9, 0..0, 5..5),
            (i64::MIN, i64::MAX, 0..5, 0..5),
            (i64::MAX, i64::MIN, 5..5, 0..0),
        ] {
            assert_eq!(
                ranks_between(start, stop, 5, false),
                forward,
                "{start} {stop}"
            );
            assert_eq!(
                ranks_between(start, stop, 5, true),
                backward,
                "{start} {stop}"
            );
        }
    }
}
