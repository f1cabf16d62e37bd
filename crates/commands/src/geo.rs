//! Positions of members of sorted sets, which are geohashes in their scores. `geo_search.rs` has the searches.

use damselfly_base::{CommandError, double};
use damselfly_encodings::geo_shape;
use damselfly_encodings::geohash::Position;
use damselfly_engine::Tx;
use damselfly_protocol::Reply;
use damselfly_value::{SortedSet, SortedSetRef};

use crate::command::{
    Access, Arity::AtLeast, At::One, Command, Group, Keys, Run, Trait, reads, writes,
};
use crate::sorted_sets::{AddOptions, add_members};
use crate::{Args, KeyspaceFn, Result};

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "GEOADD",
        arity: AtLeast(5),
        keys: Keys::Args(&[writes(One(1), Access::Update)]),
        traits: &[Trait::NeedsMemory],
        run: Run::Run(geoadd),
        group: Group::Geo,
        usage: "GEOADD key [NX | XX] [CH] longitude latitude member [longitude latitude member ...]",
        summary: "Adds members with positions to a sorted set or moves them, optionally under conditions, and returns how many are new.",
        since: "3.2.0",
        complexity: "O(log(N)) for each member, where N is the size of the sorted set",
    },
    Command {
        name: "GEODIST",
        arity: AtLeast(4),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[],
        run: Run::Run(geodist),
        group: Group::Geo,
        usage: "GEODIST key member1 member2 [M | KM | FT | MI]",
        summary: "Returns the distance between two members.",
        since: "3.2.0",
        complexity: "O(1)",
    },
    Command {
        name: "GEOHASH",
        arity: AtLeast(2),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[],
        run: Run::Run(geohash),
        group: Group::Geo,
        usage: "GEOHASH key [member [member ...]]",
        summary: "Returns the positions of members as geohashes of 11 characters.",
        since: "3.2.0",
        complexity: "O(1) for each member",
    },
    Command {
        name: "GEOPOS",
        arity: AtLeast(2),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[],
        run: Run::Run(geopos),
        group: Group::Geo,
        usage: "GEOPOS key [member [member ...]]",
        summary: "Returns the longitudes and latitudes of members.",
        since: "3.2.0",
        complexity: "O(1) for each member",
    },
];

/// The position that two arguments from `at` on give: longitude and latitude.
pub(crate) fn position(args: Args<'_>, at: usize) -> Result<Position> {
    let number = |at| double::parse(args.at(at)).ok_or(CommandError::NotFloat);
    let (longitude, latitude) = (number(at)?, number(at + 1)?);
    Ok(Position::new(longitude, latitude).ok_or_else(|| {
        CommandError::err(format!(
            "invalid longitude,latitude pair {longitude:.6},{latitude:.6}"
        ))
    })?)
}

/// The unit that an argument names, in metres.
pub(crate) fn unit(args: Args<'_>, at: usize) -> Result<f64> {
    /// The units and their lengths in metres.
    const UNITS: &[(&str, f64)] = &[("M", 1.0), ("KM", 1000.0), ("FT", 0.3048), ("MI", 1609.34)];
    let named = UNITS.iter().find(|(name, _)| args.is(at, name));
    let text = "unsupported unit provided. please use M, KM, FT, MI";
    Ok(named
        .map(|(_, metres)| *metres)
        .ok_or_else(|| CommandError::err(text))?)
}

/// Writes a distance with four digits after the point.
pub(crate) fn write_distance(distance: f64, reply: &mut Reply<'_>) {
    const SCALE: u64 = 10_000;
    let scaled = (distance * SCALE as f64).round_ties_even();
    // Antipodes may have no distance. C's conversion then gives the least integer.
    let (sign, scaled) = match scaled.is_nan() {
        true => ("-", i64::MIN.unsigned_abs()),
        false => ("", scaled as u64),
    };
    let (whole, fraction) = (scaled / SCALE, scaled % SCALE);
    reply.bulk_display(format_args!("{sign}{whole}.{fraction:04}"));
}

/// Writes longitude and latitude.
pub(crate) fn write_position(position: Position, reply: &mut Reply<'_>) {
    reply.array(2);
    reply.fixed_point(position.longitude);
    reply.fixed_point(position.latitude);
}

/// The position of a member.
pub(crate) fn position_of(set: SortedSetRef<'_>, member: &[u8]) -> Option<Position> {
    set.score(member).map(Position::of_score)
}

fn geoadd(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let mut options = AddOptions::default();
    let mut first = 2;
    loop {
        let option = if args.is(first, "NX") {
            &mut options.only_new
        } else if args.is(first, "XX") {
            &mut options.only_present
        } else if args.is(first, "CH") {
            &mut options.counts_changed
        } else {
            break;
        };
        *option = true;
        first += 1;
    }
    let count = args.len() - first;
    if count == 0 || !count.is_multiple_of(3) || options.only_new && options.only_present {
        return Err(CommandError::Syntax.into());
    }
    let (one, many);
    let scores: &[f64] = if count == 3 {
        one = [position(args, first)?.score()];
        &one
    } else {
        let places = (first..args.len()).step_by(3);
        let scores = places.map(|at| Ok(position(args, at)?.score()));
        many = scores.collect::<Result<Vec<_>>>()?;
        &many
    };
    let start = tx.begin_command();
    let members = args.from(first + 2).step_by(3).zip(scores);
    add_members(tx, args.key(1), options, members, reply)?;
    if tx.is_logged() && tx.has_changed(start) {
        log_as_zadd(tx, args, first, scores);
    }
    Ok(())
}

/// The effect of GEOADD, as in Redis: with scores, so that whoever repeats it need not compute them from positions again. The first
/// position is argument `first`.
fn log_as_zadd(tx: &mut Tx<'_>, args: Args<'_>, first: usize, scores: &[f64]) {
    // A score has 52 bits.
    let scores: Vec<String> = scores
        .iter()
        .map(|score| (*score as u64).to_string())
        .collect();
    let mut logged: Vec<&[u8]> = vec![b"ZADD"];
    logged.extend((1..first).map(|at| args.at(at)));
    for (score, member) in scores.iter().zip(args.from(first + 2).step_by(3)) {
        logged.extend([score.as_bytes(), member]);
    }
    tx.log_effect(&logged);
}

fn geodist(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let metres_per_unit = match args.len() {
        4 => 1.0,
        5 => unit(args, 4)?,
        _ => return Err(CommandError::Syntax.into()),
    };
    let set = tx.read_as::<SortedSet>(args.key(1))?;
    let position = |at| position_of(set?, args.at(at));
    match (position(2), position(3)) {
        (Some(a), Some(b)) => write_distance(geo_shape::distance(a, b) / metres_per_unit, reply),
        _ => reply.null(),
    }
    Ok(())
}

fn geohash(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let set = tx.read_as::<SortedSet>(args.key(1))?;
    reply.array(args.len() - 2);
    for member in args.from(2) {
        match set.and_then(|set| position_of(set, member)) {
            Some(position) => reply.bulk(&position.geohash()),
            None => reply.null(),
        }
    }
    Ok(())
}

fn geopos(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let set = tx.read_as::<SortedSet>(args.key(1))?;
    reply.array(args.len() - 2);
    for member in args.from(2) {
        match set.and_then(|set| position_of(set, member)) {
            Some(position) => write_position(position, reply),
            None => reply.null_array(),
        }
    }
    Ok(())
}
