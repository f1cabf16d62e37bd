//! Sorted sets: adding, removing and reading single members. The files `sorted_set_*.rs` have the rest.

use damselfly_base::{CommandError, double, random};
use damselfly_engine::{Create, Event, Key, Tx};
use damselfly_protocol::{Reply, Version};
use damselfly_value::{Collection, ScoredMember, SortedSet, SortedSetMut, SortedSetRef};

use crate::command::{
    Access, Arity::AtLeast, Arity::Exactly, At::One, Command, Group, Keys, Run, Trait, looks,
    reads, writes,
};
use crate::sets::{self, Picks};
use crate::{Args, KeyspaceFn, Result, long, scans};

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "ZADD",
        arity: AtLeast(4),
        keys: Keys::Args(&[writes(One(1), Access::Update)]),
        traits: &[Trait::Fast, Trait::NeedsMemory],
        run: Run::Run(|tx, args, reply| add(tx, args, reply, false)),
        group: Group::SortedSet,
        usage: "ZADD key [NX | XX] [GT | LT] [CH] [INCR] score member [score member ...]",
        summary: "Adds members to a sorted set or updates their scores, optionally under conditions, and returns how many are new.",
        since: "1.2.0",
        complexity: "O(log(N)) for each member, where N is the size of the sorted set",
    },
    Command {
        name: "ZINCRBY",
        arity: Exactly(4),
        keys: Keys::Args(&[writes(One(1), Access::ReadUpdate)]),
        traits: &[Trait::Fast, Trait::NeedsMemory],
        run: Run::Run(|tx, args, reply| add(tx, args, reply, true)),
        group: Group::SortedSet,
        usage: "ZINCRBY key increment member",
        summary: "Adds a number to the score of a member and returns the sum; an absent member counts as 0.",
        since: "1.2.0",
        complexity: "O(log(N)) where N is the size of the sorted set",
    },
    Command {
        name: "ZREM",
        arity: AtLeast(3),
        keys: Keys::Args(&[writes(One(1), Access::Shrink)]),
        traits: &[Trait::Fast],
        run: Run::Run(zrem),
        group: Group::SortedSet,
        usage: "ZREM key member [member ...]",
        summary: "Removes members from a sorted set and returns how many of them existed.",
        since: "1.2.0",
        complexity: "O(log(N)) for each member, where N is the size of the sorted set",
    },
    Command {
        name: "ZCARD",
        arity: Exactly(2),
        keys: Keys::Args(&[looks(One(1))]),
        traits: &[Trait::Fast],
        run: Run::Run(zcard),
        group: Group::SortedSet,
        usage: "ZCARD key",
        summary: "Returns the number of members of a sorted set.",
        since: "1.2.0",
        complexity: "O(1)",
    },
    Command {
        name: "ZSCORE",
        arity: Exactly(3),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Fast],
        run: Run::Run(zscore),
        group: Group::SortedSet,
        usage: "ZSCORE key member",
        summary: "Returns the score of a member.",
        since: "1.2.0",
        complexity: "O(1)",
    },
    Command {
        name: "ZMSCORE",
        arity: AtLeast(3),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Fast],
        run: Run::Run(zmscore),
        group: Group::SortedSet,
        usage: "ZMSCORE key member [member ...]",
        summary: "Returns the scores of several members.",
        since: "6.2.0",
        complexity: "O(N) where N is the number of members asked for",
    },
    Command {
        name: "ZRANK",
        arity: AtLeast(3),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Fast],
        run: Run::Run(|tx, args, reply| rank(tx, args, reply, false)),
        group: Group::SortedSet,
        usage: "ZRANK key member [WITHSCORE]",
        summary: "Returns the rank of a member by ascending score, starting at 0.",
        since: "2.0.0",
        complexity: "O(log(N)) where N is the size of the sorted set",
    },
    Command {
        name: "ZREVRANK",
        arity: AtLeast(3),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Fast],
        run: Run::Run(|tx, args, reply| rank(tx, args, reply, true)),
        group: Group::SortedSet,
        usage: "ZREVRANK key member [WITHSCORE]",
        summary: "Returns the rank of a member by descending score, starting at 0.",
        since: "2.0.0",
        complexity: "O(log(N)) where N is the size of the sorted set",
    },
    Command {
        name: "ZRANDMEMBER",
        arity: AtLeast(2),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Tip("nondeterministic_output")],
        run: Run::Run(zrandmember),
        group: Group::SortedSet,
        usage: "ZRANDMEMBER key [count [WITHSCORES]]",
        summary: "Returns random members of a sorted set: distinct ones, or with repeats if the count is negative.",
        since: "6.2.0",
        complexity: "O(N*log(M)) where N is the number of members returned and M the size of the sorted set",
    },
    Command {
        name: "ZSCAN",
        arity: AtLeast(3),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Tip("nondeterministic_output")],
        run: Run::Run(zscan),
        group: Group::SortedSet,
        usage: "ZSCAN key cursor [MATCH pattern] [COUNT count]",
        summary: "Iterates over the members and scores of a sorted set, a few per call, from cursor 0 until the returned cursor is 0 again.",
        since: "2.8.0",
        complexity: "O(1) for each call, O(N) for a full iteration over N members",
    },
];

/// Writes a member and its score as part of a list of such pairs; RESP3 nests each pair.
pub(crate) fn write_pair(scored: ScoredMember<'_>, reply: &mut Reply<'_>) {
    if reply.version() == Version::Resp3 {
        reply.array(2);
    }
    sets::write(scored.member, reply);
    reply.double(scored.score);
}

/// Begins a list of `len` members, with or without scores.
pub(crate) fn begin_list(len: usize, with_scores: bool, reply: &mut Reply<'_>) {
    match (with_scores, reply.version()) {
        (true, Version::Resp2) => reply.array(len.saturating_mul(2)),
        (true, Version::Resp3) | (false, _) => reply.array(len),
    }
}

/// Writes a list of members, with or without scores.
pub(crate) fn write_list<'a>(
    members: impl ExactSizeIterator<Item = ScoredMember<'a>>,
    with_scores: bool,
    reply: &mut Reply<'_>,
) {
    begin_list(members.len(), with_scores, reply);
    members.for_each(|scored| write_one(scored, with_scores, reply));
}

/// Writes an element of a list of members, with or without scores.
pub(crate) fn write_one(scored: ScoredMember<'_>, with_scores: bool, reply: &mut Reply<'_>) {
    if with_scores {
        write_pair(scored, reply);
    } else {
        sets::write(scored.member, reply);
    }
}

/// An argument as a score.
fn score(text: &[u8]) -> Result<f64> {
    Ok(double::parse(text).ok_or(CommandError::NotFloat)?)
}

/// The options of ZADD; GEOADD has some of them.
#[derive(Clone, Copy, Default)]
pub(crate) struct AddOptions {
    pub(crate) only_new: bool,
    pub(crate) only_present: bool,
    only_greater: bool,
    only_less: bool,
    pub(crate) counts_changed: bool,
    increments: bool,
}

/// The result of ZADD so far.
#[derive(Default)]
struct Added {
    added: usize,
    updated: usize,
    /// The score of the last member, unless it was left unchanged.
    score: Option<f64>,
    is_nan: bool,
}

impl AddOptions {
    /// Parses the options, and returns them with the index of the first score.
    fn parse(args: Args<'_>, increments: bool) -> Result<(Self, usize)> {
        let mut options = Self {
            increments,
            ..Self::default()
        };
        let mut at = 2;
        loop {
            let option = if args.is(at, "NX") {
                &mut options.only_new
            } else if args.is(at, "XX") {
                &mut options.only_present
            } else if args.is(at, "GT") {
                &mut options.only_greater
            } else if args.is(at, "LT") {
                &mut options.only_less
            } else if args.is(at, "CH") {
                &mut options.counts_changed
            } else if args.is(at, "INCR") {
                &mut options.increments
            } else {
                break;
            };
            *option = true;
            at += 1;
        }
        let count = args.len() - at;
        if count == 0 || count % 2 == 1 {
            return Err(CommandError::Syntax.into());
        }
        options.check(count / 2)?;
        Ok((options, at))
    }

    fn check(self, pairs: usize) -> Result {
        let conditions = [self.only_new, self.only_greater, self.only_less];
        let text = if self.only_new && self.only_present {
            "XX and NX options at the same time are not compatible"
        } else if conditions.into_iter().filter(|&set| set).count() > 1 {
            "GT, LT, and/or NX options at the same time are not compatible"
        } else if self.increments && pairs > 1 {
            "INCR option supports a single increment-element pair"
        } else {
            return Ok(());
        };
        Err(CommandError::err(text).into())
    }

    /// The new score of a member; `None` to leave it unchanged.
    fn rescore(self, old: Option<f64>, score: f64) -> Option<f64> {
        let Some(old) = old else {
            return (!self.only_present).then_some(score);
        };
        let new = if self.increments { old + score } else { score };
        let is_refused =
            self.only_new || self.only_greater && new <= old || self.only_less && new >= old;
        (!is_refused).then_some(new)
    }

    /// Adds or updates a member; returns false if its score would be NaN.
    fn apply(
        self,
        set: &mut SortedSetMut<'_>,
        member: &[u8],
        score: f64,
        done: &mut Added,
    ) -> bool {
        let update = set.update(member, |old| {
            let new = self.rescore(old, score);
            done.is_nan = new.is_some_and(f64::is_nan);
            new.filter(|_| !done.is_nan)
        });
        match (update.old, update.new) {
            (None, Some(_)) => done.added += 1,
            (Some(old), Some(new)) => done.updated += usize::from(old != new),
            (_, None) => {}
        }
        done.score = update.new;
        !done.is_nan
    }
}

/// Runs ZADD, and ZINCRBY, which accepts the same options at the same places.
fn add(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>, increments: bool) -> Result {
    let (options, first) = AddOptions::parse(args, increments)?;
    let members = args.from(first + 1).step_by(2);
    let (one, many);
    let scores: &[f64] = if first + 2 == args.len() {
        one = [score(args.at(first))?];
        &one
    } else {
        let texts = args.from(first).step_by(2);
        many = texts.map(score).collect::<Result<Vec<_>>>()?;
        &many
    };
    add_members(tx, args.key(1), options, members.zip(scores), reply)
}

/// Adds members and their scores to the sorted set at a key, and writes the reply.
pub(crate) fn add_members<'m, 's>(
    tx: &mut Tx<'_>,
    key: Key<'_>,
    options: AddOptions,
    mut members: impl ExactSizeIterator<Item = (&'m [u8], &'s f64)>,
    reply: &mut Reply<'_>,
) -> Result {
    long::check(tx, members.len())?;
    let create = match options.only_present {
        true => Create::Never,
        false => Create::IfAbsent,
    };
    let done = tx.change::<SortedSet, _>(key, create, |set| {
        let mut done = Added::default();
        members.all(|(member, &score)| options.apply(set, member, score, &mut done));
        done
    })?;
    let done = done.unwrap_or_default();
    if done.added + done.updated > 0 {
        let event = match options.increments {
            true => Event::Zincr,
            false => Event::Zadd,
        };
        tx.changed_elements(key, event, done.added + done.updated);
    }
    if done.is_nan {
        return Err(CommandError::err("resulting score is not a number (NaN)").into());
    }
    if options.increments {
        match done.score {
            Some(score) => reply.double(score),
            None => reply.null(),
        }
    } else if options.counts_changed {
        reply.integer((done.added + done.updated) as i64);
    } else {
        reply.integer(done.added as i64);
    }
    Ok(())
}

fn zrem(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let key = args.key(1);
    let removed = tx.change::<SortedSet, _>(key, Create::Never, |set| {
        args.from(2)
            .filter(|member| set.remove(member).is_some())
            .count()
    })?;
    let removed = removed.unwrap_or_default();
    if removed > 0 {
        tx.changed_elements(key, Event::Zrem, removed);
    }
    reply.integer(removed as i64);
    Ok(())
}

fn zcard(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let set = tx.read_as::<SortedSet>(args.key(1))?;
    reply.integer(set.map_or(0, SortedSetRef::len) as i64);
    Ok(())
}

fn write_score(score: Option<f64>, reply: &mut Reply<'_>) {
    match score {
        Some(score) => reply.double(score),
        None => reply.null(),
    }
}

fn zscore(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let set = tx.read_as::<SortedSet>(args.key(1))?;
    write_score(set.and_then(|set| set.score(args.at(2))), reply);
    Ok(())
}

fn zmscore(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let set = tx.read_as::<SortedSet>(args.key(1))?;
    reply.array(args.len() - 2);
    for member in args.from(2) {
        write_score(set.and_then(|set| set.score(member)), reply);
    }
    Ok(())
}

fn rank(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>, reverse: bool) -> Result {
    let with_score = match args.len() {
        3 => false,
        4 if args.is(3, "WITHSCORE") => true,
        4 => return Err(CommandError::Syntax.into()),
        _ => {
            let command = if reverse { "zrevrank" } else { "zrank" };
            return Err(CommandError::Arity(command.into()).into());
        }
    };
    let set = tx.read_as::<SortedSet>(args.key(1))?;
    let found = set.and_then(|set| Some((set, set.rank(args.at(2))?)));
    match found {
        Some((set, (rank, score))) => {
            let rank = if reverse { set.len() - 1 - rank } else { rank };
            if with_score {
                reply.array(2);
            }
            reply.integer(rank as i64);
            if with_score {
                reply.double(score);
            }
        }
        None if with_score => reply.null_array(),
        None => reply.null(),
    }
    Ok(())
}

/// A random number below `end`.
fn below(end: usize) -> usize {
    ((u128::from(random::number()) * end as u128) >> 64) as usize
}

/// A random member.
fn pick(set: SortedSetRef<'_>) -> Option<ScoredMember<'_>> {
    let rank = below(set.len());
    set.range(rank..rank + 1).next()
}

/// `count` distinct ranks below `len`; all choices are equally likely (Floyd's algorithm).
fn sample(len: usize, count: usize) -> Vec<usize> {
    let mut seen = std::collections::HashSet::with_capacity(count);
    let ranks = (len - count..len).map(|last| {
        let rank = below(last + 1);
        if seen.insert(rank) {
            rank
        } else {
            seen.insert(last);
            last
        }
    });
    ranks.collect()
}

fn zrandmember(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let key = args.key(1);
    if args.len() == 2 {
        match tx.read_as::<SortedSet>(key)?.and_then(pick) {
            Some(scored) => sets::write(scored.member, reply),
            None => reply.null(),
        }
        return Ok(());
    }
    let count = args.integer(2)?;
    if count == i64::MIN {
        return Err(CommandError::err(
            "value is out of range, value must between -9223372036854775807 and 9223372036854775807",
        )
        .into());
    }
    let with_scores = args.len() > 3;
    if with_scores && (args.len() > 4 || !args.is(3, "WITHSCORES")) {
        return Err(CommandError::Syntax.into());
    }
    if with_scores && count.unsigned_abs() > i64::MAX as u64 / 2 {
        return Err(CommandError::err("value is out of range").into());
    }
    let len = tx.read_as::<SortedSet>(key)?.map_or(0, SortedSetRef::len);
    let picks = Picks::new(tx, count, len)?;
    let wanted = picks.count;
    long::reply_from(tx, args, 1..2, wanted, reply, move |entries, reply| {
        match entries[0].and_then(SortedSet::view) {
            None => reply.array(0),
            Some(set) if picks.may_repeat => {
                let begin = |reply: &mut Reply<'_>| begin_list(wanted, with_scores, reply);
                picks.write_repeats(reply, begin, |reply| {
                    if let Some(scored) = pick(set) {
                        write_one(scored, with_scores, reply);
                    }
                })?;
            }
            // All members, from the highest score down as in Redis.
            Some(set) if wanted == set.len() => write_list(set.iter().rev(), with_scores, reply),
            Some(set) => write_different(set, wanted, with_scores, reply),
        }
        Ok(())
    })
}

/// Writes `count` distinct random members of a set that has more.
fn write_different(set: SortedSetRef<'_>, count: usize, with_scores: bool, reply: &mut Reply<'_>) {
    begin_list(count, with_scores, reply);
    for rank in sample(set.len(), count) {
        let mut found = set.range(rank..rank + 1);
        found
            .by_ref()
            .for_each(|scored| write_one(scored, with_scores, reply));
    }
}

fn zscan(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    scans::scan::<SortedSet>(
        tx,
        args,
        reply,
        scans::Extra::None,
        |set| set.len(),
        |set, cursor, found| {
            set.scan(cursor, |scored| {
                found.take(scored.member, 2, |reply| {
                    sets::write(scored.member, reply);
                    // As in Redis, this reply shows scores as they are stored.
                    match set.stored_integer(scored.score) {
                        Some(integer) => reply.bulk_integer(integer),
                        None => reply.bulk_double(scored.score),
                    }
                });
            })
        },
    )
}
