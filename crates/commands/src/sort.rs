//! SORT and SORT_RO.
//!
//! The patterns of BY and GET name keys that are not arguments, so a command with such patterns runs with all locks held. If
//! there are many elements, it holds them only while it collects elements, looks keys up and selects the elements to return;
//! sorting and writing need no lock ([`sorting`](crate::sorting)).

use std::ops::ControlFlow::{Break, Continue};
use std::ops::Range;

use damselfly_base::CommandError;
use damselfly_base::number::Decimal;
use damselfly_collections::Side;
use damselfly_engine::{Event, Key, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{Collection, EntryRef, Hash, List, ScoredMember, Value};

use crate::command::{
    Access, Arity::AtLeast, At::Behind, At::One, Command, Group, KeySpec, Keys, Run, Trait, reads,
    writes,
};
use crate::sorting::{Order, Sorting, Texts};
use crate::strings::{Scratch, text_of};
use crate::{Args, KeyspaceFn, Result, Stop, long};

/// The traits of SORT; SORT_RO has all but the first.
const TRAITS: &[Trait] = &[
    Trait::NeedsMemory,
    Trait::TouchesArbitraryKeys,
    Trait::Dangerous,
    Trait::Category("list"),
    Trait::Category("set"),
    Trait::Category("sortedset"),
];

const STORED: KeySpec = writes(
    Behind {
        word: "STORE",
        from: 2,
        skipping: &[("LIMIT", 2), ("BY", 1), ("GET", 1), ("STORE", 1)],
    },
    Access::Overwrite,
);

const COMPLEXITY: &str =
    "O(N+M*log(M)) where N is the number of elements and M the number of elements returned";

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "SORT",
        arity: AtLeast(2),
        keys: Keys::Args(&[reads(One(1)), STORED]),
        traits: TRAITS,
        run: Run::Run(|tx, args, reply| sort(tx, args, true, reply)),
        group: Group::Generic,
        usage: "SORT key [BY pattern] [LIMIT offset count] [GET pattern [GET pattern ...]] [ASC | DESC] [ALPHA] [STORE destination]",
        summary: "Sorts the elements of a list, set or sorted set, by themselves or by other keys, and returns or stores the result.",
        since: "1.0.0",
        complexity: COMPLEXITY,
    },
    Command {
        name: "SORT_RO",
        arity: AtLeast(2),
        keys: Keys::Args(&[reads(One(1))]),
        traits: TRAITS.split_at(1).1,
        run: Run::Run(|tx, args, reply| sort(tx, args, false, reply)),
        group: Group::Generic,
        usage: "SORT_RO key [BY pattern] [LIMIT offset count] [GET pattern [GET pattern ...]] [ASC | DESC] [ALPHA]",
        summary: "Sorts the elements of a list, set or sorted set, by themselves or by other keys, and returns the result.",
        since: "7.0.0",
        complexity: COMPLEXITY,
    },
];

/// The options of SORT.
#[derive(Default)]
struct Options<'a> {
    order: Order,
    /// Offset and count as sent.
    limit: Option<(i64, i64)>,
    by: Option<&'a [u8]>,
    /// True if the elements stay in their order: one BY pattern names no other keys, even if a later one does.
    keeps_order: bool,
    get: Vec<&'a [u8]>,
    /// The index of the destination key.
    store: Option<usize>,
}

/// The error for a pattern that names keys which the client may not read, if a request has one. `None` also if something before it is
/// wrong, which the command itself reports.
pub fn refused_pattern(args: Args<'_>, may_store: bool) -> Option<CommandError> {
    match Options::parse(args, may_store, Patterns::Refused) {
        Err(Stop::Error(error @ CommandError::Text(_))) => Some(error),
        Ok(_) | Err(_) => None,
    }
}

/// Whether patterns may name any key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patterns {
    Allowed,
    Refused,
}

impl<'a> Options<'a> {
    fn parse(args: Args<'a>, may_store: bool, patterns: Patterns) -> Result<Self> {
        let refuse = |option: &str| {
            CommandError::Text(format!(
                "ERR {option} option of SORT denied due to insufficient ACL permissions."
            ))
        };
        let mut options = Self::default();
        let mut at = 2;
        while at < args.len() {
            if args.is(at, "ASC") {
                options.order.descending = false;
            } else if args.is(at, "DESC") {
                options.order.descending = true;
            } else if args.is(at, "ALPHA") {
                options.order.alpha = true;
            } else if args.is(at, "LIMIT") && at + 2 < args.len() {
                options.limit = Some((args.integer(at + 1)?, args.integer(at + 2)?));
                at += 2;
            } else if may_store && args.is(at, "STORE") && at + 1 < args.len() {
                options.store = Some(at + 1);
                at += 1;
            } else if args.is(at, "BY") && at + 1 < args.len() {
                let pattern = args.at(at + 1);
                if pattern.contains(&b'*') && patterns == Patterns::Refused {
                    return Err(refuse("BY").into());
                }
                options.by = Some(pattern);
                options.keeps_order |= !pattern.contains(&b'*');
                at += 1;
            } else if args.is(at, "GET") && at + 1 < args.len() {
                if patterns == Patterns::Refused {
                    return Err(refuse("GET").into());
                }
                options.get.push(args.at(at + 1));
                at += 1;
            } else {
                return Err(CommandError::Syntax.into());
            }
            at += 1;
        }
        Ok(options)
    }

    fn reads_other_keys(&self) -> bool {
        let mut patterns = self.by.iter().chain(&self.get);
        patterns.any(|pattern| pattern.contains(&b'*'))
    }

    /// The range to return of `len` elements.
    fn range(&self, len: usize) -> Range<usize> {
        let (offset, count) = self.limit.unwrap_or((0, -1));
        let start = usize::try_from(offset.max(0))
            .unwrap_or(usize::MAX)
            .min(len);
        let end = match usize::try_from(count) {
            Ok(count) => start.saturating_add(count).min(len),
            Err(_) => len,
        };
        start..end
    }

    /// How many elements have to be visited.
    fn steps(&self, len: usize) -> usize {
        if self.keeps_order {
            self.range(len).end
        } else {
            len
        }
    }
}

/// A pattern of BY or GET.
enum Pattern<'a> {
    /// `#`: the element itself.
    Element,
    /// No value: the pattern has no star.
    Nothing,
    /// The string at a key, or in a field of a hash, whose key name has the element in place of the star.
    Name {
        before: &'a [u8],
        behind: &'a [u8],
        field: Option<&'a [u8]>,
    },
}

impl<'a> Pattern<'a> {
    fn parse(pattern: &'a [u8]) -> Self {
        if pattern == b"#" {
            return Self::Element;
        }
        let Some(star) = pattern.iter().position(|&byte| byte == b'*') else {
            return Self::Nothing;
        };
        let (before, behind) = (&pattern[..star], &pattern[star + 1..]);
        let arrow = behind.windows(2).position(|two| two == b"->");
        let (behind, field) = match arrow {
            Some(at) if at + 2 < behind.len() => (&behind[..at], Some(&behind[at + 2..])),
            Some(_) | None => (behind, None),
        };
        Self::Name {
            before,
            behind,
            field,
        }
    }
}

fn sort(tx: &mut Tx<'_>, args: Args<'_>, may_store: bool, reply: &mut Reply<'_>) -> Result {
    let mut options = Options::parse(args, may_store, Patterns::Allowed)?;
    let key = args.key(1);
    if options.reads_other_keys() && !tx.holds_all() {
        // A long command moves to another thread before it takes all locks here.
        let len = tx.view(key).and_then(len_of).unwrap_or(0);
        long::check(tx, options.steps(len))?;
        return Err(Stop::NeedsAllLocks);
    }
    let (steps_max, is_script) = (long::steps_max(tx), tx.is_script());
    let mut elements = Texts::default();
    let mut shown = 0..0;
    if let Some(entry) = tx.read(key) {
        if options.keeps_order
            && matches!(entry.value(), Value::Set(_))
            && (options.store.is_some() || is_script)
        {
            // A set has no order to keep, and neither a stored result nor the effects of a script may be random.
            (options.keeps_order, options.order.alpha, options.by) = (false, true, None);
        }
        let len = len_of(entry).ok_or(CommandError::WrongType)?;
        if options.steps(len) > steps_max {
            return Err(Stop::Long);
        }
        shown = options.range(len);
        if options.keeps_order {
            elements = elements_of(entry, shown.clone(), options.order.descending);
            shown = 0..shown.len();
        } else {
            elements = elements_of(entry, 0..len, false);
        }
    }
    let steps = elements.len();
    let by = options.by.filter(|_| !options.keeps_order);
    let weights =
        by.map(|pattern| look_up(tx, &[Pattern::parse(pattern)], &elements, 0..elements.len()));
    let own = options.store.map(|at| [key.hash, args.key(at).hash]);
    if let Some(own) = own.filter(|_| options.get.is_empty()) {
        tx.release_all_but(&own);
    }
    let order = (!options.keeps_order).then_some(options.order);
    let mut sorting = Sorting::new(elements, weights, order, shown)?;
    if !options.get.is_empty() {
        let patterns: Vec<_> = options.get.iter().map(|get| Pattern::parse(get)).collect();
        sorting.answer(patterns.len(), |elements, indexes| {
            look_up(tx, &patterns, elements, indexes)
        });
        if let Some(own) = own {
            tx.release_all_but(&own);
        }
    }
    if let Some(at) = options.store {
        store(tx, sorting, args.key(at), reply);
        return Ok(());
    }
    let rest = sorting.into_sliced_reply();
    if long::is_long(steps) {
        return Err(Stop::SlicedReply(rest));
    }
    rest.write_all(reply);
    Ok(())
}

/// The number of elements of a value; `None` if its type can't be sorted.
fn len_of(entry: EntryRef<'_>) -> Option<usize> {
    match entry.value() {
        Value::List(list) => Some(list.len()),
        Value::Set(set) => Some(set.len()),
        Value::SortedSet(set) => Some(set.len()),
        Value::Text(_) | Value::Hash(_) | Value::Stream(_) => None,
    }
}

/// A range of the elements; if `descending`, it counts from the last element of a list or sorted set.
fn elements_of(entry: EntryRef<'_>, wanted: Range<usize>, descending: bool) -> Texts {
    let (mut elements, mut decimal) = (Texts::with_capacity(wanted.len()), Decimal::new());
    if wanted.is_empty() {
        return elements;
    }
    match entry.value() {
        Value::List(list) => {
            let len = list.len();
            let mut walk = if descending {
                list.walk(len - 1 - wanted.start, Side::Right)
            } else {
                list.walk(wanted.start, Side::Left)
            };
            while elements.len() < wanted.len()
                && let Some(element) = walk.step()
            {
                elements.push(Some(element.text(&mut decimal)));
            }
        }
        Value::Set(set) => {
            let mut index = 0;
            let _ = set.try_for_each(|member| {
                if index == wanted.end {
                    return Break(());
                }
                if index >= wanted.start {
                    elements.push(Some(member.text(&mut decimal)));
                }
                index += 1;
                Continue(())
            });
        }
        Value::SortedSet(set) => {
            let len = set.len();
            let mut push =
                |scored: ScoredMember<'_>| elements.push(Some(scored.member.text(&mut decimal)));
            if descending {
                let ranks = len - wanted.end..len - wanted.start;
                set.range(ranks).rev().for_each(&mut push);
            } else {
                set.range(wanted).for_each(&mut push);
            }
        }
        Value::Text(_) | Value::Hash(_) | Value::Stream(_) => {}
    }
    elements
}

/// The values of all patterns for the first of some elements, then for the second, and so on.
fn look_up(
    tx: &mut Tx<'_>,
    patterns: &[Pattern<'_>],
    elements: &Texts,
    indexes: impl Iterator<Item = usize>,
) -> Texts {
    /// This many values are looked up at a time, so that their cache misses overlap.
    const AT_ONCE: usize = 32;
    let mut wanted = indexes.flat_map(|index| patterns.iter().map(move |pattern| (pattern, index)));
    let (mut found, mut scratch) = (Texts::default(), Scratch::default());
    let (mut batch, mut names, mut hashes) = (Vec::new(), Texts::default(), Vec::new());
    loop {
        batch.extend(wanted.by_ref().take(AT_ONCE));
        if batch.is_empty() {
            return found;
        }
        for (pattern, index) in &batch {
            let element = elements.get(*index).unwrap_or_default();
            if let Pattern::Name { before, behind, .. } = pattern {
                names.push_joined(&[before, element, behind]);
                let name = names.get(names.len() - 1).unwrap_or_default();
                hashes.push(damselfly_base::hash(name));
            }
        }
        tx.prefetch(hashes.iter().copied());
        let mut keys = hashes.drain(..).enumerate().map(|(at, hash)| Key {
            bytes: names.get(at).unwrap_or_default(),
            hash,
        });
        for (pattern, index) in batch.drain(..) {
            match pattern {
                Pattern::Element => found.push(elements.get(index)),
                Pattern::Nothing => found.push(None),
                Pattern::Name { field, .. } => {
                    let entry = keys.next().and_then(|key| tx.read(key));
                    found.push(entry.and_then(|entry| text_in(entry, *field, &mut scratch)));
                }
            }
        }
        names.clear();
    }
}

/// The string of an entry, or of one of its fields.
fn text_in<'a>(
    entry: EntryRef<'a>,
    field: Option<&[u8]>,
    scratch: &'a mut Scratch,
) -> Option<&'a [u8]> {
    match field {
        None => Some(text_of(entry.text()?, scratch)),
        Some(field) => Some(Hash::view(entry)?.value(field)?.text(&mut scratch.decimal)),
    }
}

fn store(tx: &mut Tx<'_>, mut sorting: Sorting, destination: Key<'_>, reply: &mut Reply<'_>) {
    let (entry, len) = tx.build::<List, _>(destination, |list| {
        let texts = sorting.sorted().map(Option::unwrap_or_default);
        list.push(Side::Right, texts);
        list.view().len()
    });
    tx.store_built(destination, entry, Event::Sortstore);
    reply.integer(len as i64);
}
