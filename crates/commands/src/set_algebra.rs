//! Intersections, unions and differences of sets, returned or stored.

use std::collections::HashSet;
use std::ops::ControlFlow::{self, Break, Continue};
use std::ops::Range;

use damselfly_base::CommandError;
use damselfly_base::number::parse_integer;
use damselfly_engine::{Event, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{Collection, Element, EntryRef, Set, SetRef};

use crate::command::{
    Access, Arity::AtLeast, At::Counted, At::One, At::ToEnd, Command, Group, Keys, Run, Trait,
    reads, writes,
};
use crate::sets::write;
use crate::{Args, KeyspaceFn, Result, long};

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "SINTER",
        arity: AtLeast(2),
        keys: Keys::Args(&[reads(ToEnd { first: 1, step: 1 })]),
        traits: &[Trait::Tip("nondeterministic_output_order")],
        run: Run::Run(sinter),
        group: Group::Set,
        usage: "SINTER key [key ...]",
        summary: "Returns the intersection of sets.",
        since: "1.0.0",
        complexity: "O(N*M) where N is the size of the smallest set and M the number of sets",
    },
    Command {
        name: "SINTERCARD",
        arity: AtLeast(3),
        keys: Keys::Args(&[reads(Counted(1))]),
        traits: &[],
        run: Run::Run(sintercard),
        group: Group::Set,
        usage: "SINTERCARD numkeys key [key ...] [LIMIT limit]",
        summary: "Returns the number of members in the intersection of sets, counting up to a limit.",
        since: "7.0.0",
        complexity: "O(N*M) where N is the size of the smallest set and M the number of sets",
    },
    Command {
        name: "SINTERSTORE",
        arity: AtLeast(3),
        keys: Keys::Args(&[
            writes(One(1), Access::Overwrite),
            reads(ToEnd { first: 2, step: 1 }),
        ]),
        traits: &[Trait::NeedsMemory],
        run: Run::Run(sinterstore),
        group: Group::Set,
        usage: "SINTERSTORE destination key [key ...]",
        summary: "Stores the intersection of sets and returns its number of members.",
        since: "1.0.0",
        complexity: "O(N*M) where N is the size of the smallest set and M the number of sets",
    },
    Command {
        name: "SUNION",
        arity: AtLeast(2),
        keys: Keys::Args(&[reads(ToEnd { first: 1, step: 1 })]),
        traits: &[Trait::Tip("nondeterministic_output_order")],
        run: Run::Run(sunion),
        group: Group::Set,
        usage: "SUNION key [key ...]",
        summary: "Returns the union of sets.",
        since: "1.0.0",
        complexity: "O(N) where N is the number of members of all sets",
    },
    Command {
        name: "SUNIONSTORE",
        arity: AtLeast(3),
        keys: Keys::Args(&[
            writes(One(1), Access::Overwrite),
            reads(ToEnd { first: 2, step: 1 }),
        ]),
        traits: &[Trait::NeedsMemory],
        run: Run::Run(sunionstore),
        group: Group::Set,
        usage: "SUNIONSTORE destination key [key ...]",
        summary: "Stores the union of sets and returns its number of members.",
        since: "1.0.0",
        complexity: "O(N) where N is the number of members of all sets",
    },
    Command {
        name: "SDIFF",
        arity: AtLeast(2),
        keys: Keys::Args(&[reads(ToEnd { first: 1, step: 1 })]),
        traits: &[Trait::Tip("nondeterministic_output_order")],
        run: Run::Run(sdiff),
        group: Group::Set,
        usage: "SDIFF key [key ...]",
        summary: "Returns the difference of sets: the members of the first one that are in none of the others.",
        since: "1.0.0",
        complexity: "O(N) where N is the number of members of all sets",
    },
    Command {
        name: "SDIFFSTORE",
        arity: AtLeast(3),
        keys: Keys::Args(&[
            writes(One(1), Access::Overwrite),
            reads(ToEnd { first: 2, step: 1 }),
        ]),
        traits: &[Trait::NeedsMemory],
        run: Run::Run(sdiffstore),
        group: Group::Set,
        usage: "SDIFFSTORE destination key [key ...]",
        summary: "Stores the difference of sets and returns its number of members.",
        since: "1.0.0",
        complexity: "O(N) where N is the number of members of all sets",
    },
];

/// Records the reads of the keys, refuses keys of another type, and returns the number of members to visit.
fn check_keys(tx: &mut Tx<'_>, args: Args<'_>, places: Range<usize>) -> Result<usize> {
    let mut members = 0;
    for place in places {
        let set = tx.read_as::<Set>(args.key(place))?;
        members += set.map_or(0, SetRef::len);
    }
    Ok(members)
}

/// The sets that entries hold; absent ones are `None`.
fn sets_in<'s>(entries: &[Option<EntryRef<'s>>]) -> Vec<Option<SetRef<'s>>> {
    let sets = entries.iter().map(|entry| Set::view((*entry)?));
    sets.collect()
}

/// The function that a combination of sets calls with each member.
type Visit<'v, 's> = &'v mut dyn FnMut(Element<'s>);

/// A combination: visits each of its members once.
type Combine = for<'s> fn(&[Option<SetRef<'s>>], Visit<'_, 's>);

/// Members, each in its shortest form, so that equal members compare as equal.
type MemberSet<'s> = HashSet<Element<'s>, ahash::RandomState>;

fn sinter(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply_with(tx, args, reply, intersect)
}

fn sinterstore(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    store_with(tx, args, reply, Event::Sinterstore, intersect)
}

fn sunion(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply_with(tx, args, reply, unite)
}

fn sunionstore(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    store_with(tx, args, reply, Event::Sunionstore, unite)
}

fn sdiff(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    reply_with(tx, args, reply, subtract)
}

fn sdiffstore(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    store_with(tx, args, reply, Event::Sdiffstore, subtract)
}

fn reply_with(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>, combine: Combine) -> Result {
    let places = 1..args.len();
    let steps = check_keys(tx, args, places.clone())?;
    long::reply_from(tx, args, places, steps, reply, move |entries, reply| {
        let (list, mut count) = (reply.deferred_set(), 0);
        combine(&sets_in(entries), &mut |member| {
            write(member, reply);
            count += 1;
        });
        reply.finish(list, count);
        Ok(())
    })
}

fn store_with(
    tx: &mut Tx<'_>,
    args: Args<'_>,
    reply: &mut Reply<'_>,
    event: Event,
    combine: Combine,
) -> Result {
    let destination = args.key(1);
    let steps = check_keys(tx, args, 2..args.len())?;
    long::check(tx, steps)?;
    let section = &*tx;
    let entries: Vec<_> = (2..args.len())
        .map(|place| section.view(args.key(place)))
        .collect();
    let sets = sets_in(&entries);
    let mut members = Vec::new();
    combine(&sets, &mut |member| members.push(member));
    let (entry, ()) = section.build::<Set, _>(destination, |set| set.fill(&members));
    let count = members.len();
    tx.store_built(destination, entry, event);
    reply.integer(count as i64);
    Ok(())
}

fn sintercard(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let count = parse_integer(args.at(1))
        .and_then(|count| usize::try_from(count).ok())
        .filter(|&count| count > 0)
        .ok_or_else(|| CommandError::err("numkeys should be greater than 0"))?;
    if count > args.len() - 2 {
        let text = "Number of keys can't be greater than number of args";
        return Err(CommandError::err(text).into());
    }
    let mut limit = 0;
    for at in (2 + count..args.len()).step_by(2) {
        if !args.is(at, "LIMIT") || at + 1 == args.len() {
            return Err(CommandError::Syntax.into());
        }
        limit = parse_integer(args.at(at + 1))
            .and_then(|limit| usize::try_from(limit).ok())
            .ok_or_else(|| CommandError::err("LIMIT can't be negative"))?;
    }
    let places = 2..2 + count;
    let steps = check_keys(tx, args, places.clone())?;
    long::reply_from(tx, args, places, steps, reply, move |entries, reply| {
        let mut found = 0;
        let _ = try_intersect(&sets_in(entries), &mut |_| {
            found += 1;
            if found == limit {
                Break(())
            } else {
                Continue(())
            }
        });
        reply.integer(found as i64);
        Ok(())
    })
}

/// A set prepared for looking up many members.
struct IndexedSet<'a> {
    set: SetRef<'a>,
    /// An index of a packed set, in which each look-up would scan all members.
    index: Option<MemberSet<'a>>,
}

impl<'a> IndexedSet<'a> {
    /// Prepares a set for `lookups` look-ups.
    fn new(set: SetRef<'a>, lookups: usize) -> Self {
        /// With fewer members or fewer look-ups, scanning costs less than an index.
        const INDEXED_MIN: usize = 16;
        const LOOKUPS_MIN: usize = 8;
        let is_packed = matches!(set, SetRef::Packed(_));
        let is_indexed = is_packed && set.len() >= INDEXED_MIN && lookups >= LOOKUPS_MIN;
        let index = is_indexed.then(|| {
            let mut index = MemberSet::with_capacity_and_hasher(set.len(), Default::default());
            set.for_each(|member| {
                index.insert(shortest(member));
            });
            index
        });
        Self { set, index }
    }

    fn has(&self, member: Element<'_>) -> bool {
        match &self.index {
            Some(index) => index.contains(&shortest(member)),
            None => self.set.has(member),
        }
    }
}

/// A member in the one form that all sets can compare.
fn shortest(member: Element<'_>) -> Element<'_> {
    match member {
        Element::Integer(_) => member,
        Element::Bytes(text) => Element::new(text),
    }
}

fn intersect<'s>(sets: &[Option<SetRef<'s>>], visit: Visit<'_, 's>) {
    let all = try_intersect(sets, &mut |member| {
        visit(member);
        Continue(())
    });
    debug_assert!(all.is_continue());
}

/// Visits the members that are in all sets, until `visit` breaks. Iterates over the smallest set.
fn try_intersect<'s>(
    sets: &[Option<SetRef<'s>>],
    visit: &mut dyn FnMut(Element<'s>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let Some(mut sets) = sets.iter().copied().collect::<Option<Vec<_>>>() else {
        return Continue(());
    };
    sets.sort_unstable_by_key(|set| set.len());
    let Some((smallest, others)) = sets.split_first() else {
        return Continue(());
    };
    let others: Vec<_> = others
        .iter()
        .map(|set| IndexedSet::new(*set, smallest.len()))
        .collect();
    smallest.try_for_each(|member| {
        if others.iter().all(|set| set.has(member)) {
            visit(member)
        } else {
            Continue(())
        }
    })
}

fn unite<'s>(sets: &[Option<SetRef<'s>>], visit: Visit<'_, 's>) {
    /// With up to this many sets, looking a member up in the previous sets costs less than remembering all visited members.
    const LOOKED_UP_MAX: usize = 4;
    let sets: Vec<_> = sets.iter().flatten().copied().collect();
    if sets.len() <= LOOKED_UP_MAX {
        let mut before = Vec::new();
        for (index, set) in sets.iter().enumerate() {
            set.for_each(|member| {
                if !before
                    .iter()
                    .any(|before: &IndexedSet<'_>| before.has(member))
                {
                    visit(member);
                }
            });
            if let Some(next) = sets.get(index + 1) {
                before.push(IndexedSet::new(*set, next.len()));
            }
        }
        return;
    }
    let mut seen = MemberSet::default();
    for set in sets {
        set.for_each(|member| {
            if seen.insert(shortest(member)) {
                visit(member);
            }
        });
    }
}

/// Visits the members of the first set that are in no other set.
fn subtract<'s>(sets: &[Option<SetRef<'s>>], visit: Visit<'_, 's>) {
    let Some((Some(first), others)) = sets.split_first() else {
        return;
    };
    let mut others: Vec<_> = others.iter().flatten().collect();
    let lookups = first.len().saturating_mul(others.len() + 1) / 2;
    let members: usize = others.iter().map(|set| set.len()).sum();
    if lookups <= first.len() + members {
        // The larger a set, the more likely it excludes a member, so the largest comes first.
        others.sort_unstable_by_key(|set| std::cmp::Reverse(set.len()));
        let others: Vec<_> = others
            .into_iter()
            .map(|set| IndexedSet::new(*set, first.len()))
            .collect();
        first.for_each(|member| {
            if !others.iter().any(|set| set.has(member)) {
                visit(member);
            }
        });
        return;
    }
    let mut rest = MemberSet::default();
    first.for_each(|member| {
        rest.insert(shortest(member));
    });
    for set in others {
        if rest.is_empty() {
            return;
        }
        set.for_each(|member| {
            rest.remove(&shortest(member));
        });
    }
    rest.into_iter().for_each(visit);
}
