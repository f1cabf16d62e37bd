//! Searches for members of sorted sets by position: GEOSEARCH, GEORADIUS and their relatives.

use std::ops::Range;

use damselfly_base::{CommandError, double};
use damselfly_collections::Element;
use damselfly_encodings::geo_shape::{self, Extent, Shape};
use damselfly_encodings::geohash::Position;
use damselfly_engine::{Event, Tx};
use damselfly_protocol::Reply;
use damselfly_value::{Collection, ScoreRange, SortedSet, SortedSetRef};

use crate::command::{
    Access, Arity::AtLeast, At::Behind, At::One, Command, Group, KeySpec, Keys, Run, Trait, reads,
    writes,
};
use crate::geo::{position, position_of, unit, write_distance, write_position};
use crate::sets;
use crate::{Args, KeyspaceFn, Result, long};

const COMPLEXITY: &str = "O(N+log(M)) where N is the number of members in the area around the shape and M the size of the sorted set";

const INSTEAD_OF_RADIUS: Trait = Trait::Deprecated {
    since: "6.2.0",
    instead: "`GEOSEARCH` and `GEOSEARCHSTORE` with the `BYRADIUS` argument",
};
const INSTEAD_OF_RADIUS_RO: Trait = Trait::Deprecated {
    since: "6.2.0",
    instead: "`GEOSEARCH` with the `BYRADIUS` argument",
};
const INSTEAD_OF_MEMBER: Trait = Trait::Deprecated {
    since: "6.2.0",
    instead: "`GEOSEARCH` and `GEOSEARCHSTORE` with the `BYRADIUS` and `FROMMEMBER` arguments",
};
const INSTEAD_OF_MEMBER_RO: Trait = Trait::Deprecated {
    since: "6.2.0",
    instead: "`GEOSEARCH` with the `BYRADIUS` and `FROMMEMBER` arguments",
};

/// The key behind an option of GEORADIUS or its relative, whose options begin at `from`.
const fn stored(word: &'static str, from: usize) -> KeySpec {
    let skipping = &[("COUNT", 1), ("STORE", 1), ("STOREDIST", 1)];
    let at = Behind {
        word,
        from,
        skipping,
    };
    writes(at, Access::Overwrite)
}

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[
    Command {
        name: "GEOSEARCH",
        arity: AtLeast(7),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[],
        run: Run::Run(|tx, args, reply| search(tx, args, Variant::Search, reply)),
        group: Group::Geo,
        usage: "GEOSEARCH key <FROMMEMBER member | FROMLONLAT longitude latitude> <BYRADIUS radius <M | KM | FT | MI> | BYBOX width height <M | KM | FT | MI>> [ASC | DESC] [COUNT count [ANY]] [WITHCOORD] [WITHDIST] [WITHHASH]",
        summary: "Returns the members within a circle or a box.",
        since: "6.2.0",
        complexity: COMPLEXITY,
    },
    Command {
        name: "GEOSEARCHSTORE",
        arity: AtLeast(8),
        keys: Keys::Args(&[writes(One(1), Access::Overwrite), reads(One(2))]),
        traits: &[Trait::NeedsMemory],
        run: Run::Run(|tx, args, reply| search(tx, args, Variant::SearchStore, reply)),
        group: Group::Geo,
        usage: "GEOSEARCHSTORE destination source <FROMMEMBER member | FROMLONLAT longitude latitude> <BYRADIUS radius <M | KM | FT | MI> | BYBOX width height <M | KM | FT | MI>> [ASC | DESC] [COUNT count [ANY]] [STOREDIST]",
        summary: "Stores the members within a circle or a box, with their positions or distances, and returns how many there are.",
        since: "6.2.0",
        complexity: COMPLEXITY,
    },
    Command {
        name: "GEORADIUS",
        arity: AtLeast(6),
        keys: Keys::Args(&[reads(One(1)), stored("STORE", 6), stored("STOREDIST", 6)]),
        traits: &[Trait::NeedsMemory, INSTEAD_OF_RADIUS],
        run: Run::Run(|tx, args, reply| search(tx, args, Variant::Radius, reply)),
        group: Group::Geo,
        usage: "GEORADIUS key longitude latitude radius <M | KM | FT | MI> [WITHCOORD] [WITHDIST] [WITHHASH] [COUNT count [ANY]] [ASC | DESC] [STORE key | STOREDIST key]",
        summary: "Returns or stores the members within a radius of a position.",
        since: "3.2.0",
        complexity: COMPLEXITY,
    },
    Command {
        name: "GEORADIUS_RO",
        arity: AtLeast(6),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[INSTEAD_OF_RADIUS_RO],
        run: Run::Run(|tx, args, reply| search(tx, args, Variant::RadiusReadOnly, reply)),
        group: Group::Geo,
        usage: "GEORADIUS_RO key longitude latitude radius <M | KM | FT | MI> [WITHCOORD] [WITHDIST] [WITHHASH] [COUNT count [ANY]] [ASC | DESC]",
        summary: "Returns the members within a radius of a position.",
        since: "3.2.10",
        complexity: COMPLEXITY,
    },
    Command {
        name: "GEORADIUSBYMEMBER",
        arity: AtLeast(5),
        keys: Keys::Args(&[reads(One(1)), stored("STORE", 5), stored("STOREDIST", 5)]),
        traits: &[Trait::NeedsMemory, INSTEAD_OF_MEMBER],
        run: Run::Run(|tx, args, reply| search(tx, args, Variant::Member, reply)),
        group: Group::Geo,
        usage: "GEORADIUSBYMEMBER key member radius <M | KM | FT | MI> [WITHCOORD] [WITHDIST] [WITHHASH] [COUNT count [ANY]] [ASC | DESC] [STORE key | STOREDIST key]",
        summary: "Returns or stores the members within a radius of another member.",
        since: "3.2.0",
        complexity: COMPLEXITY,
    },
    Command {
        name: "GEORADIUSBYMEMBER_RO",
        arity: AtLeast(5),
        keys: Keys::Args(&[reads(One(1))]),
        traits: &[INSTEAD_OF_MEMBER_RO],
        run: Run::Run(|tx, args, reply| search(tx, args, Variant::MemberReadOnly, reply)),
        group: Group::Geo,
        usage: "GEORADIUSBYMEMBER_RO key member radius <M | KM | FT | MI> [WITHCOORD] [WITHDIST] [WITHHASH] [COUNT count [ANY]] [ASC | DESC]",
        summary: "Returns the members within a radius of another member.",
        since: "3.2.10",
        complexity: COMPLEXITY,
    },
];

/// The command that searches.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Variant {
    Search,
    SearchStore,
    Radius,
    RadiusReadOnly,
    Member,
    MemberReadOnly,
}

impl Variant {
    /// The argument that is the key to search.
    fn source(self) -> usize {
        if self == Self::SearchStore { 2 } else { 1 }
    }

    /// The first argument that is an option.
    fn first_option(self) -> usize {
        match self {
            Self::Search => 2,
            Self::SearchStore => 3,
            Self::Radius | Self::RadiusReadOnly => 6,
            Self::Member | Self::MemberReadOnly => 5,
        }
    }

    /// True if options give the shape.
    fn is_search(self) -> bool {
        matches!(self, Self::Search | Self::SearchStore)
    }

    /// True if the command has the options STORE and STOREDIST with a key.
    fn has_store(self) -> bool {
        matches!(self, Self::Radius | Self::Member)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Nearest,
    Farthest,
}

/// A request.
#[derive(Clone, Copy, Default)]
struct Query {
    with_distance: bool,
    with_hash: bool,
    with_position: bool,
    /// The most members to return.
    count: Option<usize>,
    /// True if any members will do, not the nearest ones.
    any: bool,
    order: Option<Order>,
    /// The argument that is the key for the result.
    store: Option<usize>,
    /// True if distances are stored, not positions.
    store_distances: bool,
    centre: Option<Centre>,
    extent: Option<(Extent, f64)>,
}

/// The centre of a shape.
#[derive(Clone, Copy, PartialEq)]
enum Centre {
    Position(Position),
    /// A member of this sorted set.
    Member(Position),
    /// A member of a sorted set that does not exist.
    Nowhere,
}

fn could_not_decode() -> CommandError {
    CommandError::err("could not decode requested zset member")
}

/// A length that can't be negative.
fn length(text: &[u8], what: &str) -> Result<f64> {
    Ok(double::parse(text).ok_or_else(|| CommandError::err(format!("need numeric {what}")))?)
}

/// The radius that two arguments give, with its unit.
fn radius(args: Args<'_>, at: usize) -> Result<(Extent, f64)> {
    let radius = length(args.at(at), "radius")?;
    if radius < 0.0 {
        return Err(CommandError::err("radius cannot be negative").into());
    }
    Ok((Extent::Radius(radius), unit(args, at + 1)?))
}

/// The box that three arguments give, with its unit.
fn box_of(args: Args<'_>, at: usize) -> Result<(Extent, f64)> {
    let width = length(args.at(at), "width")?;
    let height = length(args.at(at + 1), "height")?;
    if width < 0.0 || height < 0.0 {
        return Err(CommandError::err("height or width cannot be negative").into());
    }
    Ok((Extent::Box { width, height }, unit(args, at + 2)?))
}

impl Query {
    fn parse(args: Args<'_>, variant: Variant, set: Option<SortedSetRef<'_>>) -> Result<Self> {
        let mut query = Self::default();
        match variant {
            Variant::Radius | Variant::RadiusReadOnly => {
                query.centre = Some(Centre::Position(position(args, 2)?));
                query.extent = Some(radius(args, 4)?);
            }
            Variant::Member | Variant::MemberReadOnly => {
                query.centre = Some(member(set, args.at(2))?);
                // As in Redis, nobody looks at the radius if there is nothing to search.
                if set.is_some() {
                    query.extent = Some(radius(args, 3)?);
                }
            }
            Variant::Search => {}
            Variant::SearchStore => query.store = Some(1),
        }
        let mut at = variant.first_option();
        while at < args.len() {
            let used = match query.parse_common(args, at)? {
                0 if variant.has_store() => query.parse_store(args, at),
                0 if variant.is_search() => query.parse_shape(args, at, variant, set)?,
                used => used,
            };
            if used == 0 {
                return Err(CommandError::Syntax.into());
            }
            at += used;
        }
        query.check(args, variant)?;
        Ok(query)
    }

    /// Parses an option that all commands have, and returns how many arguments it takes; zero if it is another one.
    fn parse_common(&mut self, args: Args<'_>, at: usize) -> Result<usize> {
        if args.is(at, "WITHDIST") {
            self.with_distance = true;
        } else if args.is(at, "WITHHASH") {
            self.with_hash = true;
        } else if args.is(at, "WITHCOORD") {
            self.with_position = true;
        } else if args.is(at, "ANY") {
            self.any = true;
        } else if args.is(at, "ASC") {
            self.order = Some(Order::Nearest);
        } else if args.is(at, "DESC") {
            self.order = Some(Order::Farthest);
        } else if args.is(at, "COUNT") && at + 1 < args.len() {
            let count = args.integer(at + 1)?;
            if count <= 0 {
                return Err(CommandError::err("COUNT must be > 0").into());
            }
            self.count = Some(usize::try_from(count).unwrap_or(usize::MAX));
            return Ok(2);
        } else {
            return Ok(0);
        }
        Ok(1)
    }

    /// As [`Query::parse_common`], for the options that name a key for the result.
    fn parse_store(&mut self, args: Args<'_>, at: usize) -> usize {
        let store_distances = args.is(at, "STOREDIST");
        if at + 1 == args.len() || !store_distances && !args.is(at, "STORE") {
            return 0;
        }
        self.store = Some(at + 1);
        self.store_distances = store_distances;
        2
    }

    /// As [`Query::parse_common`], for the options that give a shape.
    fn parse_shape(
        &mut self,
        args: Args<'_>,
        at: usize,
        variant: Variant,
        set: Option<SortedSetRef<'_>>,
    ) -> Result<usize> {
        let has = |behind: usize| at + behind < args.len();
        let from_position = matches!(self.centre, Some(Centre::Position(_)));
        let from_member = matches!(self.centre, Some(Centre::Member(_) | Centre::Nowhere));
        let by_radius = matches!(self.extent, Some((Extent::Radius(_), _)));
        let by_box = matches!(self.extent, Some((Extent::Box { .. }, _)));
        if args.is(at, "STOREDIST") && variant == Variant::SearchStore {
            self.store_distances = true;
            Ok(1)
        } else if args.is(at, "FROMMEMBER") && has(1) && !from_position {
            self.centre = Some(member(set, args.at(at + 1))?);
            Ok(2)
        } else if args.is(at, "FROMLONLAT") && has(2) && !from_member {
            self.centre = Some(Centre::Position(position(args, at + 1)?));
            Ok(3)
        } else if args.is(at, "BYRADIUS") && has(2) && !by_box {
            self.extent = Some(radius(args, at + 1)?);
            Ok(3)
        } else if args.is(at, "BYBOX") && has(3) && !by_radius {
            self.extent = Some(box_of(args, at + 1)?);
            Ok(4)
        } else {
            Ok(0)
        }
    }

    /// Refuses options that don't go together.
    fn check(&self, args: Args<'_>, variant: Variant) -> Result {
        let returns_more = self.with_distance || self.with_hash || self.with_position;
        if self.store.is_some() && returns_more {
            let what = match variant {
                Variant::SearchStore => "GEOSEARCHSTORE",
                _ => "STORE option in GEORADIUS",
            };
            return Err(CommandError::err(format!(
                "{what} is not compatible with WITHDIST, WITHHASH and WITHCOORD options"
            ))
            .into());
        }
        let exactly_one = |what| Err(CommandError::quoting(what, args.at(0), "").into());
        if variant.is_search() && self.centre.is_none() {
            return exactly_one("exactly one of FROMMEMBER or FROMLONLAT can be specified for ");
        }
        if variant.is_search() && self.extent.is_none() {
            return exactly_one("exactly one of BYRADIUS and BYBOX can be specified for ");
        }
        if self.any && self.count.is_none() {
            return Err(CommandError::err("the ANY argument requires COUNT argument").into());
        }
        Ok(())
    }

    /// The shape; `None` if its centre is a member of nothing.
    fn shape(&self) -> Option<Shape> {
        let centre = match self.centre? {
            Centre::Position(position) | Centre::Member(position) => position,
            Centre::Nowhere => return None,
        };
        let (extent, metres_per_unit) = self.extent?;
        Some(Shape {
            centre,
            extent,
            metres_per_unit,
        })
    }
}

/// A member as the centre.
fn member(set: Option<SortedSetRef<'_>>, member: &[u8]) -> Result<Centre> {
    let Some(set) = set else {
        return Ok(Centre::Nowhere);
    };
    let position = position_of(set, member).ok_or_else(could_not_decode)?;
    Ok(Centre::Member(position))
}

/// A member that was found.
struct Found<'a> {
    member: Element<'a>,
    score: f64,
    position: Position,
    /// From the centre, in metres.
    distance: f64,
}

/// The ranks of the members in each cell to search.
fn candidates(set: SortedSetRef<'_>, shape: &Shape) -> Vec<Range<usize>> {
    let ranks = |(min, max)| {
        set.ranks_by_score(ScoreRange {
            min,
            min_excluded: false,
            max,
            max_excluded: true,
        })
    };
    let cells = shape.cells();
    cells.into_iter().map(|cell| ranks(cell.scores())).collect()
}

/// The members to return.
fn find<'a>(set: SortedSetRef<'a>, shape: &Shape, query: &Query) -> Vec<Found<'a>> {
    let enough = match query.count {
        Some(count) if query.any => count,
        Some(_) | None => usize::MAX,
    };
    let members = candidates(set, shape)
        .into_iter()
        .flat_map(|ranks| set.range(ranks));
    let within = members.filter_map(|scored| {
        let position = Position::of_score(scored.score);
        let distance = shape.distance_within(position)?;
        Some(Found {
            member: scored.member,
            score: scored.score,
            position,
            distance,
        })
    });
    let mut found: Vec<Found<'_>> = within.take(enough).collect();
    // The nearest ones, if nothing else is said.
    let order = match (query.order, query.count) {
        (None, Some(_)) if !query.any => Some(Order::Nearest),
        (order, _) => order,
    };
    let count = query.count.unwrap_or(usize::MAX);
    if let Some(order) = order {
        sort(&mut found, order, count);
    }
    found.truncate(count);
    found
}

/// Sorts by distance, at least as far as the first `count`. Members at the same distance keep their order.
fn sort(found: &mut Vec<Found<'_>>, order: Order, count: usize) {
    let compare = |a: &Found<'_>, b: &Found<'_>| {
        let nearest = a.distance.total_cmp(&b.distance);
        match order {
            Order::Nearest => nearest,
            Order::Farthest => nearest.reverse(),
        }
    };
    if count < found.len() {
        let mut numbered: Vec<(usize, Found<'_>)> = found.drain(..).enumerate().collect();
        numbered.select_nth_unstable_by(count, |a, b| {
            compare(&a.1, &b.1).then_with(|| a.0.cmp(&b.0))
        });
        numbered.truncate(count);
        numbered.sort_unstable_by_key(|(number, _)| *number);
        found.extend(numbered.into_iter().map(|(_, found)| found));
    }
    found.sort_by(compare);
}

fn search(tx: &mut Tx<'_>, args: Args<'_>, variant: Variant, reply: &mut Reply<'_>) -> Result {
    let source = variant.source();
    let set = tx.read_as::<SortedSet>(args.key(source))?;
    let query = Query::parse(args, variant, set)?;
    let (Some(set), Some(shape)) = (set, query.shape()) else {
        match query.store {
            Some(place) => {
                tx.remove_unread(args.key(place));
                reply.integer(0);
            }
            None => reply.array(0),
        }
        return Ok(());
    };
    let steps = candidates(set, &shape).iter().map(Range::len).sum();
    if let Some(place) = query.store {
        long::check(tx, steps)?;
        return store(tx, args, (source, place), &query, &shape, variant, reply);
    }
    let places = source..source + 1;
    long::reply_from(tx, args, places, steps, reply, move |entries, reply| {
        if let Some(set) = entries[0].and_then(SortedSet::view) {
            write(&find(set, &shape, &query), &query, &shape, reply);
        }
        Ok(())
    })
}

fn write(found: &[Found<'_>], query: &Query, shape: &Shape, reply: &mut Reply<'_>) {
    let more = [query.with_distance, query.with_hash, query.with_position];
    let more = more.into_iter().filter(|&wanted| wanted).count();
    reply.array(found.len());
    for found in found {
        if more > 0 {
            reply.array(1 + more);
        }
        sets::write(found.member, reply);
        if query.with_distance {
            write_distance(found.distance / shape.metres_per_unit, reply);
        }
        if query.with_hash {
            reply.integer(found.score as i64);
        }
        if query.with_position {
            write_position(found.position, reply);
        }
    }
}

/// Stores the members that are found; `places` are the arguments of the key to search and of the one for the result.
fn store(
    tx: &mut Tx<'_>,
    args: Args<'_>,
    places: (usize, usize),
    query: &Query,
    shape: &Shape,
    variant: Variant,
    reply: &mut Reply<'_>,
) -> Result {
    let destination = args.key(places.1);
    let section = &*tx;
    let source = section.view(args.key(places.0));
    let found = source
        .and_then(SortedSet::view)
        .map(|set| find(set, shape, query))
        .unwrap_or_default();
    let (entry, ()) = section.build::<SortedSet, _>(destination, |set| {
        for found in &found {
            // Antipodes may have no distance, but a score is a number.
            let distance = if found.distance.is_nan() {
                geo_shape::DISTANCE_MAX
            } else {
                found.distance
            };
            let score = match query.store_distances {
                true => distance / shape.metres_per_unit,
                false => found.score,
            };
            set.update(found.member.text(&mut Default::default()), |_| Some(score));
        }
    });
    let count = found.len();
    let event = match variant.is_search() {
        true => Event::Geosearchstore,
        false => Event::Georadiusstore,
    };
    tx.store_built(destination, entry, event);
    reply.integer(count as i64);
    Ok(())
}
