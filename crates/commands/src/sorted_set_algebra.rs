//! Unions, intersections and differences of sorted sets, returned or stored. Plain sets may take part; their members have
//! score 1.

use std::collections::HashMap;
use std::ops::ControlFlow::{self, Break, Continue};

use damselfly_base::number::{Decimal, parse_integer};
use damselfly_base::{CommandError, double};
use damselfly_engine::{Event, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{
    Collection, Element, EntryRef, ScoredMember, Set, SetRef, SortedSet, SortedSetRef,
};

use crate::command::{
    Access, Arity::AtLeast, At::Counted, At::One, Command, Group, Keys, Run, Trait, reads, writes,
};
use crate::sorted_sets::write_list;
use crate::{Args, KeyspaceFn, Result, long};

const UNION: &str = "O(N)+O(M*log(M)) where N is the number of members of all sorted sets and M the number in the result";
const INTERSECTION: &str = "O(N*K)+O(M*log(M)) where N is the size of the smallest sorted set, K the number of sorted sets and M the number of members in the result";
const DIFFERENCE: &str = "O(N*K)+O(M*log(M)) where N is the size of the first sorted set, K the number of sorted sets and M the number of members in the result";

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "ZUNION",
        arity: AtLeast(3),
        keys: Keys::Args(&[reads(Counted(1))]),
        traits: &[],
        run: Run::Run(|tx, args, reply| show(tx, args, reply, Operation::Union)),
        group: Group::SortedSet,
        usage: "ZUNION numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX>] [WITHSCORES]",
        summary: "Returns the union of sorted sets.",
        since: "6.2.0",
        complexity: UNION,
    },
    Command {
        name: "ZUNIONSTORE",
        arity: AtLeast(4),
        keys: Keys::Args(&[writes(One(1), Access::Overwrite), reads(Counted(2))]),
        traits: &[Trait::NeedsMemory],
        run: Run::Run(|tx, args, reply| store(tx, args, reply, Operation::Union)),
        group: Group::SortedSet,
        usage: "ZUNIONSTORE destination numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX>]",
        summary: "Stores the union of sorted sets and returns its number of members.",
        since: "2.0.0",
        complexity: UNION,
    },
    Command {
        name: "ZINTER",
        arity: AtLeast(3),
        keys: Keys::Args(&[reads(Counted(1))]),
        traits: &[],
        run: Run::Run(|tx, args, reply| show(tx, args, reply, Operation::Intersection)),
        group: Group::SortedSet,
        usage: "ZINTER numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX>] [WITHSCORES]",
        summary: "Returns the intersection of sorted sets.",
        since: "6.2.0",
        complexity: INTERSECTION,
    },
    Command {
        name: "ZINTERSTORE",
        arity: AtLeast(4),
        keys: Keys::Args(&[writes(One(1), Access::Overwrite), reads(Counted(2))]),
        traits: &[Trait::NeedsMemory],
        run: Run::Run(|tx, args, reply| store(tx, args, reply, Operation::Intersection)),
        group: Group::SortedSet,
        usage: "ZINTERSTORE destination numkeys key [key ...] [WEIGHTS weight [weight ...]] [AGGREGATE <SUM | MIN | MAX>]",
        summary: "Stores the intersection of sorted sets and returns its number of members.",
        since: "2.0.0",
        complexity: INTERSECTION,
    },
    Command {
        name: "ZINTERCARD",
        arity: AtLeast(3),
        keys: Keys::Args(&[reads(Counted(1))]),
        traits: &[],
        run: Run::Run(zintercard),
        group: Group::SortedSet,
        usage: "ZINTERCARD numkeys key [key ...] [LIMIT limit]",
        summary: "Returns the number of members in the intersection of sorted sets, counting up to a limit.",
        since: "7.0.0",
        complexity: "O(N*K) where N is the size of the smallest sorted set and K the number of sorted sets",
    },
    Command {
        name: "ZDIFF",
        arity: AtLeast(3),
        keys: Keys::Args(&[reads(Counted(1))]),
        traits: &[],
        run: Run::Run(|tx, args, reply| show(tx, args, reply, Operation::Difference)),
        group: Group::SortedSet,
        usage: "ZDIFF numkeys key [key ...] [WITHSCORES]",
        summary: "Returns the difference of sorted sets: the members of the first one that are in none of the others.",
        since: "6.2.0",
        complexity: DIFFERENCE,
    },
    Command {
        name: "ZDIFFSTORE",
        arity: AtLeast(4),
        keys: Keys::Args(&[writes(One(1), Access::Overwrite), reads(Counted(2))]),
        traits: &[Trait::NeedsMemory],
        run: Run::Run(|tx, args, reply| store(tx, args, reply, Operation::Difference)),
        group: Group::SortedSet,
        usage: "ZDIFFSTORE destination numkeys key [key ...]",
        summary: "Stores the difference of sorted sets and returns its number of members.",
        since: "6.2.0",
        complexity: DIFFERENCE,
    },
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Union,
    Intersection,
    Difference,
}

/// How the scores of a member of several sets are combined.
#[derive(Clone, Copy)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    /// Combines two scores; NaN becomes zero.
    fn of(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Sum => zero_if_nan(a + b),
            Self::Min if b < a => b,
            Self::Max if b > a => b,
            Self::Min | Self::Max => a,
        }
    }
}

fn zero_if_nan(score: f64) -> f64 {
    if score.is_nan() { 0.0 } else { score }
}

/// The members of a source: a set, a sorted set, or none if the key is absent.
#[derive(Clone, Copy)]
enum Members<'a> {
    None,
    Plain(SetRef<'a>),
    Sorted(SortedSetRef<'a>),
}

impl<'a> Members<'a> {
    /// The members of an entry; `None` if it holds another type.
    fn of(entry: Option<EntryRef<'a>>) -> Option<Self> {
        let Some(entry) = entry else {
            return Some(Self::None);
        };
        let sorted = SortedSet::view(entry).map(Self::Sorted);
        sorted.or_else(|| Set::view(entry).map(Self::Plain))
    }

    fn len(self) -> usize {
        match self {
            Self::None => 0,
            Self::Plain(set) => set.len(),
            Self::Sorted(set) => set.len(),
        }
    }

    fn score(self, member: Element<'_>) -> Option<f64> {
        match self {
            Self::None => None,
            Self::Plain(set) => set.has(member).then_some(1.0),
            Self::Sorted(set) => set.score(member.text(&mut Decimal::new())),
        }
    }

    fn try_for_each(
        self,
        mut visit: impl FnMut(ScoredMember<'a>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        match self {
            Self::None => Continue(()),
            Self::Plain(set) => {
                set.try_for_each(|member| visit(ScoredMember { member, score: 1.0 }))
            }
            Self::Sorted(set) => set.iter().try_for_each(visit),
        }
    }

    fn for_each(self, mut visit: impl FnMut(ScoredMember<'a>)) {
        let all = self.try_for_each(|scored| {
            visit(scored);
            Continue(())
        });
        debug_assert!(all.is_continue());
    }
}

/// A source and the weight by which its scores are multiplied.
#[derive(Clone, Copy)]
struct Source<'a> {
    members: Members<'a>,
    weight: f64,
}

/// The options of a request.
struct Request {
    weights: Vec<f64>,
    aggregate: Aggregate,
    with_scores: bool,
}

/// The kind of command being parsed: each accepts some words that others refuse.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CommandKind {
    Returns(Operation),
    Stores(Operation),
}

/// The number of keys, from the argument at `at`, which precedes them.
fn key_count(args: Args<'_>, at: usize, command: &str) -> Result<usize> {
    let count = args.integer(at)?;
    if count < 1 {
        let text = format!("at least 1 input key is needed for '{command}' command");
        return Err(CommandError::err(text).into());
    }
    usize::try_from(count)
        .ok()
        .filter(|&count| count < args.len() - at)
        .ok_or(CommandError::Syntax.into())
}

/// Records the reads of the keys, refuses keys of another type, and returns how many members they have.
fn check_keys(tx: &mut Tx<'_>, args: Args<'_>, first: usize, count: usize) -> Result<usize> {
    let mut members = 0;
    for place in first..first + count {
        let found = Members::of(tx.read(args.key(place))).ok_or(CommandError::WrongType)?;
        members += found.len();
    }
    Ok(members)
}

/// The sources in some entries, with their weights.
fn sources<'t>(
    entries: impl IntoIterator<Item = Option<EntryRef<'t>>>,
    weights: &[f64],
) -> Vec<Source<'t>> {
    let source = |(entry, &weight)| Source {
        members: Members::of(entry).unwrap_or(Members::None),
        weight,
    };
    entries.into_iter().zip(weights).map(source).collect()
}

impl Request {
    /// Parses the arguments from `at` on, which follow `keys` keys.
    fn parse(args: Args<'_>, mut at: usize, keys: usize, kind: CommandKind) -> Result<Self> {
        let mut request = Self {
            weights: vec![1.0; keys],
            aggregate: Aggregate::Sum,
            with_scores: false,
        };
        let (operation, is_shown) = match kind {
            CommandKind::Returns(operation) => (operation, true),
            CommandKind::Stores(operation) => (operation, false),
        };
        let has_scores = operation != Operation::Difference;
        while at < args.len() {
            if has_scores && at + keys < args.len() && args.is(at, "WEIGHTS") {
                for (weight, text) in request.weights.iter_mut().zip(args.from(at + 1)) {
                    *weight = double::parse(text)
                        .ok_or_else(|| CommandError::err("weight value is not a float"))?;
                }
                at += 1 + keys;
            } else if has_scores && at + 1 < args.len() && args.is(at, "AGGREGATE") {
                request.aggregate = if args.is(at + 1, "SUM") {
                    Aggregate::Sum
                } else if args.is(at + 1, "MIN") {
                    Aggregate::Min
                } else if args.is(at + 1, "MAX") {
                    Aggregate::Max
                } else {
                    return Err(CommandError::Syntax.into());
                };
                at += 2;
            } else if is_shown && args.is(at, "WITHSCORES") {
                request.with_scores = true;
                at += 1;
            } else {
                return Err(CommandError::Syntax.into());
            }
        }
        Ok(request)
    }
}

/// The result of an operation, in order.
fn combine<'a>(
    operation: Operation,
    mut sources: Vec<Source<'a>>,
    aggregate: Aggregate,
) -> Vec<ScoredMember<'a>> {
    let mut result = match operation {
        Operation::Union => {
            // The order of additions affects rounding: Redis adds from the smallest set to the largest.
            sources.sort_by_key(|source| source.members.len());
            unite(&sources, aggregate)
        }
        Operation::Intersection => {
            sources.sort_by_key(|source| source.members.len());
            intersect(&sources, aggregate)
        }
        Operation::Difference => subtract(&sources),
    };
    result.sort_unstable_by(|a, b| a.compare(*b));
    result
}

fn unite<'a>(sources: &[Source<'a>], aggregate: Aggregate) -> Vec<ScoredMember<'a>> {
    let largest = sources.last().map_or(0, |source| source.members.len());
    let mut result: Vec<ScoredMember<'a>> = Vec::with_capacity(largest);
    let mut places: HashMap<_, _, ahash::RandomState> =
        HashMap::with_capacity_and_hasher(largest, Default::default());
    for source in sources {
        source.members.for_each(|ScoredMember { member, score }| {
            // Equal members must compare as equal, whatever form of set they come from.
            let member = match member {
                Element::Bytes(text) => Element::new(text),
                Element::Integer(_) => member,
            };
            let score = zero_if_nan(source.weight * score);
            let place = *places.entry(member).or_insert(result.len());
            match result.get_mut(place) {
                Some(found) => found.score = aggregate.of(found.score, score),
                None => result.push(ScoredMember { member, score }),
            }
        });
    }
    result
}

/// The members that are in all sets; the first set must be the smallest.
fn intersect<'a>(sources: &[Source<'a>], aggregate: Aggregate) -> Vec<ScoredMember<'a>> {
    let mut result = Vec::new();
    let Some((smallest, others)) = sources.split_first() else {
        return result;
    };
    smallest.members.for_each(|ScoredMember { member, score }| {
        let first = Some(zero_if_nan(smallest.weight * score));
        let score = others.iter().try_fold(first, |score, other| {
            let theirs = other.members.score(member)?;
            Some(score.map(|score| aggregate.of(score, other.weight * theirs)))
        });
        if let Some(Some(score)) = score {
            result.push(ScoredMember { member, score });
        }
    });
    result
}

/// The members of the first set that are in no other set.
fn subtract<'a>(sources: &[Source<'a>]) -> Vec<ScoredMember<'a>> {
    let mut result = Vec::new();
    let Some((first, others)) = sources.split_first() else {
        return result;
    };
    first.members.for_each(|scored| {
        let is_in = |other: &Source<'_>| other.members.score(scored.member).is_some();
        if !others.iter().any(is_in) {
            result.push(scored);
        }
    });
    result
}

fn show(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>, operation: Operation) -> Result {
    let command = match operation {
        Operation::Union => "zunion",
        Operation::Intersection => "zinter",
        Operation::Difference => "zdiff",
    };
    let keys = key_count(args, 1, command)?;
    let members = check_keys(tx, args, 2, keys)?;
    let request = Request::parse(args, 2 + keys, keys, CommandKind::Returns(operation))?;
    let places = 2..2 + keys;
    long::reply_from(tx, args, places, members, reply, move |entries, reply| {
        let sources = sources(entries.iter().copied(), &request.weights);
        let result = combine(operation, sources, request.aggregate);
        write_list(result.into_iter(), request.with_scores, reply);
        Ok(())
    })
}

fn store(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>, operation: Operation) -> Result {
    let (command, event) = match operation {
        Operation::Union => ("zunionstore", Event::Zunionstore),
        Operation::Intersection => ("zinterstore", Event::Zinterstore),
        Operation::Difference => ("zdiffstore", Event::Zdiffstore),
    };
    let keys = key_count(args, 2, command)?;
    let members = check_keys(tx, args, 3, keys)?;
    let request = Request::parse(args, 3 + keys, keys, CommandKind::Stores(operation))?;
    long::check(tx, members)?;
    let destination = args.key(1);
    let section = &*tx;
    let (entry, count) = section.build::<SortedSet, _>(destination, |stored| {
        let entries = (3..3 + keys).map(|place| section.view(args.key(place)));
        let sources = sources(entries, &request.weights);
        let result = combine(operation, sources, request.aggregate);
        stored.fill(result.iter().copied());
        result.len()
    });
    tx.store_built(destination, entry, event);
    reply.integer(count as i64);
    Ok(())
}

fn zintercard(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let keys = key_count(args, 1, "zintercard")?;
    let members = check_keys(tx, args, 2, keys)?;
    let mut limit = 0;
    for at in (2 + keys..args.len()).step_by(2) {
        if !args.is(at, "LIMIT") || at + 1 == args.len() {
            return Err(CommandError::Syntax.into());
        }
        limit = parse_integer(args.at(at + 1))
            .and_then(|limit| usize::try_from(limit).ok())
            .ok_or_else(|| CommandError::err("LIMIT can't be negative"))?;
    }
    let places = 2..2 + keys;
    long::reply_from(tx, args, places, members, reply, move |entries, reply| {
        let mut sources = sources(entries.iter().copied(), &vec![1.0; keys]);
        sources.sort_by_key(|source| source.members.len());
        let mut count = 0;
        if let Some((smallest, others)) = sources.split_first() {
            let _ = smallest.members.try_for_each(|scored| {
                let is_in = |other: &Source<'_>| other.members.score(scored.member).is_some();
                count += usize::from(others.iter().all(is_in));
                if count == limit && limit > 0 {
                    Break(())
                } else {
                    Continue(())
                }
            });
        }
        reply.integer(count as i64);
        Ok(())
    })
}
