//! SORT and SORT_RO.
//!
//! The patterns of BY and GET name keys that are no arguments, so a command that has any runs under all locks.

use std::cmp::Ordering;

use damselfly_base::CommandError;
use damselfly_base::double::parse_in_range;
use damselfly_collections::Side;
use damselfly_engine::{Event, Key, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{Collection, EntryRef, Hash, List, ListRef, SetRef, SortedSetRef, Value};

use crate::command::{
    Access, Arity::AtLeast, At::Behind, At::One, Command, Group, KeySpec, Keys, Run, Trait, reads,
    writes,
};
use crate::strings::{Scratch, text_of};
use crate::{Args, KeyspaceFn, Result, Stop, long};

/// What is special about SORT; all but the first of these also about SORT_RO.
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
    "O(N+M*log(M)) where N is the number of elements and M the number of those that are returned";

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "SORT",
        arity: AtLeast(2),
        keys: Keys::Args(&[reads(One(1)), STORED]),
        traits: TRAITS,
        run: Run::Run(|tx, args, reply| sort(tx, args, true, reply)),
        group: Group::Generic,
        usage: "SORT key [BY pattern] [LIMIT offset count] [GET pattern [GET pattern ...]] [ASC | DESC] [ALPHA] [STORE destination]",
        summary: "Sorts a list, set or sorted set, by its elements or by other keys, and returns or stores the result.",
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
        summary: "Sorts a list, set or sorted set, by its elements or by other keys, and returns the result.",
        since: "7.0.0",
        complexity: COMPLEXITY,
    },
];

/// What is asked for.
#[derive(Default)]
struct Options<'a> {
    descending: bool,
    alpha: bool,
    /// Offset and count as sent.
    limit: Option<(i64, i64)>,
    by: Option<&'a [u8]>,
    /// True if the elements stay as they are: a pattern of BY names no other keys, even if a later one does.
    keeps_order: bool,
    get: Vec<&'a [u8]>,
    /// The argument that is the destination.
    store: Option<usize>,
}

impl<'a> Options<'a> {
    fn parse(args: Args<'a>, may_store: bool) -> Result<Self> {
        let mut options = Self::default();
        let mut at = 2;
        while at < args.len() {
            if args.is(at, "ASC") {
                options.descending = false;
            } else if args.is(at, "DESC") {
                options.descending = true;
            } else if args.is(at, "ALPHA") {
                options.alpha = true;
            } else if args.is(at, "LIMIT") && at + 2 < args.len() {
                options.limit = Some((args.integer(at + 1)?, args.integer(at + 2)?));
                at += 2;
            } else if may_store && args.is(at, "STORE") && at + 1 < args.len() {
                options.store = Some(at + 1);
                at += 1;
            } else if args.is(at, "BY") && at + 1 < args.len() {
                let pattern = args.at(at + 1);
                options.by = Some(pattern);
                options.keeps_order |= !pattern.contains(&b'*');
                at += 1;
            } else if args.is(at, "GET") && at + 1 < args.len() {
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

    /// Which of `len` elements are returned.
    fn range(&self, len: usize) -> std::ops::Range<usize> {
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
}

/// An element and what it is compared by.
struct Sortable {
    element: Vec<u8>,
    /// Its number; zero where there is none.
    score: f64,
    /// Its text, if it is compared by that of another key.
    text: Option<Vec<u8>>,
}

fn sort(tx: &mut Tx<'_>, args: Args<'_>, may_store: bool, reply: &mut Reply<'_>) -> Result {
    let mut options = Options::parse(args, may_store)?;
    if options.reads_other_keys() && !tx.holds_all() {
        return Err(Stop::NeedsAllLocks);
    }
    let (steps_max, is_script) = (long::steps_max(tx), tx.is_script());
    let elements = match tx.read(args.key(1)) {
        None => Vec::new(),
        Some(entry) => {
            if options.keeps_order
                && matches!(entry.value(), Value::Set(_))
                && (options.store.is_some() || is_script)
            {
                // A set has no order to keep, and what is stored, or what a script does, must not depend on chance.
                (options.keeps_order, options.alpha, options.by) = (false, true, None);
            }
            if len_of(entry)? > steps_max {
                return Err(Stop::Long);
            }
            elements_of(entry, options.keeps_order && options.descending)
        }
    };
    let mut sorted = with_weights(tx, elements, &options)?;
    if !options.keeps_order {
        sorted.sort_by(|a, b| {
            let order = compare(a, b, &options);
            if options.descending {
                order.reverse()
            } else {
                order
            }
        });
    }
    let range = options.range(sorted.len());
    let shown = &sorted[range];
    match options.store {
        None => write(tx, shown, &options.get, reply),
        Some(at) => store(tx, shown, &options.get, args.key(at), reply),
    }
    Ok(())
}

fn len_of(entry: EntryRef<'_>) -> Result<usize> {
    match entry.value() {
        Value::List(list) => Ok(list.len()),
        Value::Set(set) => Ok(set.len()),
        Value::SortedSet(set) => Ok(set.len()),
        Value::Text(_) | Value::Hash(_) | Value::Stream(_) => Err(CommandError::WrongType.into()),
    }
}

/// All elements; if `descending`, those of a list and of a sorted set from the last to the first.
fn elements_of(entry: EntryRef<'_>, descending: bool) -> Vec<Vec<u8>> {
    match entry.value() {
        Value::List(list) => of_list(list, descending),
        Value::Set(set) => of_set(set),
        Value::SortedSet(set) => of_sorted_set(set, descending),
        Value::Text(_) | Value::Hash(_) | Value::Stream(_) => Vec::new(),
    }
}

fn of_list(list: ListRef<'_>, descending: bool) -> Vec<Vec<u8>> {
    let mut elements = Vec::with_capacity(list.len());
    let mut walk = list.walk(0, Side::Left);
    while let Some(element) = walk.step() {
        elements.push(element.to_vec());
    }
    if descending {
        elements.reverse();
    }
    elements
}

fn of_set(set: SetRef<'_>) -> Vec<Vec<u8>> {
    let mut elements = Vec::with_capacity(set.len());
    set.for_each(|member| elements.push(member.to_vec()));
    elements
}

fn of_sorted_set(set: SortedSetRef<'_>, descending: bool) -> Vec<Vec<u8>> {
    let members = set.iter().map(|scoring| scoring.member.to_vec());
    if descending {
        members.rev().collect()
    } else {
        members.collect()
    }
}

/// Looks up what the elements are compared by.
fn with_weights(
    tx: &mut Tx<'_>,
    elements: Vec<Vec<u8>>,
    options: &Options<'_>,
) -> Result<Vec<Sortable>> {
    let sortable = |element: Vec<u8>| {
        let mut sortable = Sortable {
            element,
            score: 0.0,
            text: None,
        };
        if options.keeps_order {
            return Ok(sortable);
        }
        let weight = match options.by {
            None => None,
            Some(pattern) => match look_up(tx, pattern, &sortable.element) {
                None => return Ok(sortable),
                weight => weight,
            },
        };
        if options.alpha {
            sortable.text = weight;
        } else {
            let text = weight.as_deref().unwrap_or(&sortable.element);
            sortable.score = parse_in_range(text).ok_or_else(|| {
                CommandError::err("One or more scores can't be converted into double")
            })?;
        }
        Ok(sortable)
    };
    // All are looked up, even if one of the first is refused.
    let all: Vec<Result<Sortable>> = elements.into_iter().map(sortable).collect();
    all.into_iter().collect()
}

fn compare(a: &Sortable, b: &Sortable, options: &Options<'_>) -> Ordering {
    if !options.alpha {
        // None is NaN.
        let order = a.score.partial_cmp(&b.score);
        return order
            .unwrap_or(Ordering::Equal)
            .then_with(|| a.element.cmp(&b.element));
    }
    match options.by {
        None => a.element.cmp(&b.element),
        // Those without a weight come first.
        Some(_) => a.text.cmp(&b.text),
    }
}

/// The string that a pattern stands for: that of the key, or of the field of a hash, whose name has `element` in place of the
/// star.
fn look_up(tx: &mut Tx<'_>, pattern: &[u8], element: &[u8]) -> Option<Vec<u8>> {
    if pattern == b"#" {
        return Some(element.to_vec());
    }
    let star = pattern.iter().position(|&byte| byte == b'*')?;
    let (before, behind) = (&pattern[..star], &pattern[star + 1..]);
    let arrow = behind.windows(2).position(|two| two == b"->");
    let (behind, field) = match arrow {
        Some(at) if at + 2 < behind.len() => (&behind[..at], Some(&behind[at + 2..])),
        Some(_) | None => (behind, None),
    };
    let name = [before, element, behind].concat();
    let entry = tx.read(Key::new(&name))?;
    match field {
        None => {
            let mut scratch = Scratch::default();
            Some(text_of(entry.text()?, &mut scratch).to_vec())
        }
        Some(field) => Some(Hash::view(entry)?.value(field)?.to_vec()),
    }
}

fn write(tx: &mut Tx<'_>, shown: &[Sortable], get: &[&[u8]], reply: &mut Reply<'_>) {
    reply.array(shown.len() * get.len().max(1));
    for sortable in shown {
        if get.is_empty() {
            reply.bulk(&sortable.element);
        }
        for pattern in get {
            match look_up(tx, pattern, &sortable.element) {
                Some(text) => reply.bulk(&text),
                None => reply.null(),
            }
        }
    }
}

fn store(
    tx: &mut Tx<'_>,
    shown: &[Sortable],
    get: &[&[u8]],
    destination: Key<'_>,
    reply: &mut Reply<'_>,
) {
    let looked_up: Vec<Vec<u8>> = shown
        .iter()
        .flat_map(|sortable| get.iter().map(|pattern| (pattern, &sortable.element)))
        .map(|(pattern, element)| look_up(tx, pattern, element).unwrap_or_default())
        .collect();
    let (entry, len) = tx.build::<List, _>(destination, |list| {
        match get.is_empty() {
            true => list.push(
                Side::Right,
                shown.iter().map(|sortable| &sortable.element[..]),
            ),
            false => list.push(Side::Right, looked_up.iter().map(|text| &text[..])),
        };
        list.view().len()
    });
    tx.store_built(destination, entry, Event::Sortstore);
    reply.integer(len as i64);
}
