//! Hashes: random fields and iteration, HRANDFIELD and HSCAN.

use std::collections::HashSet;

use damselfly_base::CommandError;
use damselfly_base::random::number as random;
use damselfly_engine::Tx;
use damselfly_protocol::{Reply, Version};
use damselfly_value::{Collection, Fields, Hash, HashRef, Pair};

use crate::command::{Arity::AtLeast, At::One, Command, Group, Keys, Run, Trait, reads};
use crate::sets::{self, Picks};
use crate::{Args, KeyspaceFn, Result, Stop, long, scans};

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "HRANDFIELD",
        arity: AtLeast(2),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Tip("nondeterministic_output")],
        run: Run::Run(hrandfield),
        group: Group::Hash,
        usage: "HRANDFIELD key [count [WITHVALUES]]",
        summary: "Returns random fields of a hash: distinct ones, or with repeats if the count is negative.",
        since: "6.2.0",
        complexity: "O(N) where N is the number of fields that are returned",
    },
    Command {
        name: "HSCAN",
        arity: AtLeast(3),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[Trait::Tip("nondeterministic_output")],
        run: Run::Run(hscan),
        group: Group::Hash,
        usage: "HSCAN key cursor [MATCH pattern] [COUNT count] [NOVALUES]",
        summary: "Iterates over the fields of a hash, a few per call, from cursor 0 until the returned cursor is 0 again.",
        since: "2.8.0",
        complexity: "O(1) for each call, O(N) for a full iteration over N fields",
    },
];

/// How HRANDFIELD returns a field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Show {
    Fields,
    FieldsAndValues,
}

impl Show {
    /// Begins a list of `count` fields.
    fn begin(self, reply: &mut Reply<'_>, count: usize) {
        let elements = match (self, reply.version()) {
            (Self::FieldsAndValues, Version::Resp2) => count * 2,
            (Self::FieldsAndValues, Version::Resp3) | (Self::Fields, _) => count,
        };
        reply.array(elements);
    }

    fn write(self, reply: &mut Reply<'_>, pair: Pair<'_>) {
        if self == Self::FieldsAndValues && reply.version() == Version::Resp3 {
            reply.array(2);
        }
        sets::write(pair.field, reply);
        if self == Self::FieldsAndValues {
            sets::write(pair.value, reply);
        }
    }
}

/// The arguments of HRANDFIELD after the key: the count, and whether to return values.
fn count_in(args: Args<'_>) -> Result<(i64, Show)> {
    let count = args.integer(2)?;
    if count == i64::MIN {
        let limits = "value must between -9223372036854775807 and 9223372036854775807";
        return Err(CommandError::err(format!("value is out of range, {limits}")).into());
    }
    let show = match args.len() {
        3 => Show::Fields,
        4 if args.is(3, "WITHVALUES") => Show::FieldsAndValues,
        _ => return Err(CommandError::Syntax.into()),
    };
    if show == Show::FieldsAndValues && count.unsigned_abs() > i64::MAX as u64 / 2 {
        return Err(out_of_range());
    }
    Ok((count, show))
}

fn out_of_range() -> Stop {
    CommandError::err("value is out of range").into()
}

fn hrandfield(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    if args.len() == 2 {
        let hash = tx.read_as::<Hash>(args.key(1))?;
        match hash.and_then(|hash| hash.pick(random())) {
            Some(pair) => sets::write(pair.field, reply),
            None => reply.null(),
        }
        return Ok(());
    }
    let (count, show) = count_in(args)?;
    let len = tx.read_as::<Hash>(args.key(1))?.map_or(0, HashRef::len);
    let picks = Picks::new(tx, count, len)?;
    let wanted = picks.count;
    long::reply_from(tx, args, 1..2, wanted, reply, move |entries, reply| {
        match entries[0].and_then(Hash::view) {
            None => reply.array(0),
            Some(hash) if picks.may_repeat => {
                let begin = |reply: &mut Reply<'_>| show.begin(reply, wanted);
                picks.write_repeats(reply, begin, |reply| {
                    if let Some(pair) = hash.pick(random()) {
                        show.write(reply, pair);
                    }
                })?;
            }
            Some(hash) => write_different(hash, wanted, show, reply),
        }
        Ok(())
    })
}

/// Writes `wanted` distinct fields of a hash that has at least as many.
fn write_different(hash: HashRef<'_>, wanted: usize, show: Show, reply: &mut Reply<'_>) {
    show.begin(reply, wanted);
    let write = |pair: Pair<'_>| show.write(reply, pair);
    match hash {
        HashRef::Large(fields) if wanted < hash.len() / 3 => pick_different(fields, wanted, write),
        HashRef::Packed(_) | HashRef::PackedTtl(_) | HashRef::Large(_) => {
            sample(hash, wanted, write);
        }
    }
}

/// Goes through all fields and visits `wanted` of them, so that all subsets of that size are equally likely: selection sampling
/// (Knuth, The Art of Computer Programming 2, 3.4.2, algorithm S).
fn sample(hash: HashRef<'_>, wanted: usize, mut visit: impl FnMut(Pair<'_>)) {
    let (mut wanted, mut left) = (wanted as u128, hash.len() as u128);
    hash.for_each(|pair| {
        // The upper half of the product is uniform below `left`.
        if (u128::from(random()) * left) >> 64 < wanted {
            visit(pair);
            wanted -= 1;
        }
        left -= 1;
    });
}

/// Picks random fields until `wanted` distinct ones were visited; suits a small part of a hash.
fn pick_different(fields: &Fields, wanted: usize, mut visit: impl FnMut(Pair<'_>)) {
    let mut seen = HashSet::with_capacity(wanted);
    while seen.len() < wanted {
        let Some(field) = fields.random(random()) else {
            return;
        };
        if seen.insert(field.field()) {
            visit(field.into());
        }
    }
}

fn hscan(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    scans::scan::<Hash>(
        tx,
        args,
        reply,
        scans::Extra::NoValues,
        |hash| hash.len(),
        |hash, cursor, found| {
            hash.scan(cursor, |pair| match found.only_names() {
                true => found.take(pair.field, 1, |reply| sets::write(pair.field, reply)),
                false => found.take(pair.field, 2, |reply| {
                    sets::write(pair.field, reply);
                    sets::write(pair.value, reply);
                }),
            })
        },
    )
}
