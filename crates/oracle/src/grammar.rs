//! Random arguments from a row's grammar: mostly valid, often enough invalid.
//!
//! ```text
//! SET        a literal            key        a slot: one random argument of that kind
//! [ a b ]    optional             ( a | b )  a choice; [ a | b ] works too
//! ( a b )+   once or several times
//! ```
//!
//! Adjacent optional parts come in any order. Sometimes the command is then mutated: arguments are dropped, doubled, swapped or
//! replaced. So wrong arity, unknown options and repeated options occur although no row mentions them.

mod encodings;
mod mistakes;
mod payloads;
mod times;

pub(crate) use self::mistakes::mutate;
use self::mistakes::{mix_case, tame};
use self::times::{deadline, duration};
use crate::newer;
use crate::random::Random;

/// A part of a grammar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// A literal word.
    Literal(String),
    /// A random argument of a kind.
    Slot(Slot),
    /// One of the choices, or nothing.
    Optional(Vec<Vec<Node>>),
    /// One of the choices.
    Choice(Vec<Vec<Node>>),
    /// One to four times.
    Repeated(Vec<Node>),
}

/// Defines the kinds of argument with their names in grammars.
macro_rules! slots {
    ($($(#[$doc:meta])* $slot:ident = $name:literal,)*) => {
        /// A kind of random argument.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Slot { $($(#[$doc])* $slot,)* }

        impl Slot {
            fn named(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Slot::$slot),)*
                    _ => None,
                }
            }
        }
    };
}

slots! {
    /// One of few keys, so that commands share keys.
    Key = "key",
    /// Any string: integers, floats, binary, empty, long.
    Value = "value",
    /// A member of a set or a field of a hash: mostly one of few, so that collections share some.
    Member = "member",
    /// An integer, often at a limit of 64 bits.
    Integer = "integer",
    /// A floating point number.
    Float = "float",
    /// The score of a member of a sorted set, mostly valid.
    Score = "score",
    /// An end of a range of scores.
    ScoreEnd = "score-end",
    /// One of few keys of sorted sets whose scores are all equal: ranges of members are defined for these only.
    LexKey = "lex-key",
    /// A member of such a sorted set.
    LexMember = "lex-member",
    /// An end of a range of members.
    LexEnd = "lex-end",
    /// The id of a stream entry, valid or not.
    StreamId = "stream-id",
    /// An id for a new entry: mostly higher than others, and never chosen by the server's clock.
    NewId = "new-id",
    /// An end of a range of ids.
    IntervalId = "interval-id",
    /// A consumer group.
    Group = "group",
    /// A consumer of a group.
    Consumer = "consumer",
    /// A position in a string; negative ones too.
    Index = "index",
    /// An offset for SETRANGE: small, or past the longest string (512 MB, too slow to reach here).
    Offset = "offset",
    /// A TTL in seconds that does not expire during a run, or has expired already.
    Seconds = "seconds",
    /// The same in milliseconds.
    Milliseconds = "milliseconds",
    /// A Unix time in seconds, far from now.
    SecondsAt = "seconds-at",
    /// A Unix time in milliseconds, far from now.
    MillisecondsAt = "milliseconds-at",
    /// A database number.
    Database = "database",
    /// A glob.
    Pattern = "pattern",
    /// A payload for RESTORE, valid or damaged.
    Payload = "payload",
    /// A small positive number.
    Count = "count",
    /// The name of a type.
    Type = "type",
    /// The name of a client, valid or not.
    Name = "name",
    /// A configuration option that does not affect replies.
    Option = "option",
    /// A value for such an option, valid or not.
    Setting = "setting",
    /// The index of a bit, not too far from the first.
    BitOffset = "bit-offset",
    /// The same, sometimes counted in integers: `#3`.
    FieldOffset = "field-offset",
    /// The type of an integer in BITFIELD, mostly valid.
    FieldType = "field-type",
    /// A longitude, mostly valid.
    Longitude = "longitude",
    /// A latitude, mostly valid.
    Latitude = "latitude",
    /// A distance in any unit.
    Distance = "distance",
    /// A unit of distances.
    Unit = "unit",
}

/// Parses a grammar.
///
/// # Panics
/// If the grammar is invalid: grammars are constants of this program.
#[must_use]
pub fn parse(grammar: &str) -> Vec<Node> {
    let mut tokens = grammar.split_whitespace();
    let (mut choices, end) = parse_choices(&mut tokens);
    assert!(
        end.is_none() && choices.len() == 1,
        "misplaced brackets or choices in {grammar:?}"
    );
    choices.remove(0)
}

/// Parses up to a closing bracket, and returns that as well.
fn parse_choices<'a>(
    tokens: &mut impl Iterator<Item = &'a str>,
) -> (Vec<Vec<Node>>, Option<&'a str>) {
    let mut choices = vec![Vec::new()];
    while let Some(token) = tokens.next() {
        let node = match token {
            "[" => {
                let (inner, end) = parse_choices(tokens);
                assert_eq!(end, Some("]"), "[ needs ]");
                Node::Optional(inner)
            }
            "(" => match parse_choices(tokens) {
                (inner, Some(")")) => Node::Choice(inner),
                (mut inner, Some(")+")) if inner.len() == 1 => Node::Repeated(inner.remove(0)),
                (_, end) => panic!("( ends with {end:?}"),
            },
            "]" | ")" | ")+" => return (choices, Some(token)),
            "|" => {
                choices.push(Vec::new());
                continue;
            }
            word if word.starts_with(|letter: char| letter.is_ascii_lowercase()) => {
                Node::Slot(Slot::named(word).unwrap_or_else(|| panic!("unknown slot {word:?}")))
            }
            word => Node::Literal(word.into()),
        };
        choices
            .last_mut()
            .expect("there is always at least one choice")
            .push(node);
    }
    (choices, None)
}

/// Random arguments that follow `grammar`, sometimes mutated.
#[must_use]
pub fn generate(grammar: &[Node], random: &mut Random) -> Vec<Vec<u8>> {
    let mut arguments = Vec::new();
    generate_into(grammar, random, &mut arguments);
    // A mutated ZADD could give a sorted set of equal scores another score.
    let is_lex = arguments.iter().any(|word| word.starts_with(LEX_PREFIX));
    if random.one_in(6) && !is_lex {
        mutate(&mut arguments, random);
    }
    tame(&mut arguments);
    newer::tame(&mut arguments);
    for word in &mut arguments {
        if random.one_in(20) && word.is_ascii() {
            mix_case(word, random);
        }
    }
    arguments
}

pub(crate) fn generate_into(grammar: &[Node], random: &mut Random, out: &mut Vec<Vec<u8>>) {
    let mut at = 0;
    while at < grammar.len() {
        match &grammar[at] {
            Node::Literal(word) => out.push(word.clone().into_bytes()),
            Node::Slot(slot) => out.push(argument(*slot, random)),
            Node::Choice(choices) => generate_into(random.pick::<Vec<Node>>(choices), random, out),
            Node::Repeated(inner) => {
                for _ in 0..=random.below(4) {
                    generate_into(inner, random, out);
                }
            }
            Node::Optional(_) => {
                let run = grammar[at..]
                    .iter()
                    .take_while(|node| matches!(node, Node::Optional(_)));
                let mut parts: Vec<&Node> = run.collect();
                at += parts.len() - 1;
                random.shuffle(&mut parts);
                for part in parts {
                    if let Node::Optional(choices) = part
                        && random.one_in(3)
                    {
                        generate_into(random.pick::<Vec<Node>>(choices), random, out);
                    }
                }
            }
        }
        at += 1;
    }
}

/// The prefix of keys of sorted sets with equal scores.
const LEX_PREFIX: &[u8] = b"lex:";

/// Members whose order reveals differences in comparison.
const LEX_MEMBERS: &[&str] = &[
    "", "a", "aa", "ab", "b", "ba", "c", "d", "\0", "a\0", "\u{ff}", "0", "1", "10", "9", "-1",
];

/// Integers at the limits of parsers, and texts that are not integers.
const ODD: &[&[u8]] = &[
    b"",
    b" ",
    b"0",
    b"-0",
    b"+1",
    b" 1",
    b"1 ",
    b"01",
    b"-01",
    b"1.0",
    b"1e3",
    b"0x10",
    b"abc",
    b"-1",
    b"1\0",
    b"\xff\xfe",
    b"2147483647",
    b"2147483648",
    b"-2147483648",
    b"4294967296",
    b"9223372036854775807",
    b"9223372036854775808",
    b"-9223372036854775808",
    b"-9223372036854775809",
    b"9223372036854775",
    b"9223372036854776",
    b"18446744073709551615",
    b"18446744073709551616",
    b"99999999999999999999999999",
    b"nan",
    b"inf",
    b"-inf",
    b"1e400",
    b"0.1",
    b"(integer) 1",
    b"\r\n",
];

/// Floats in usual and invalid notations.
const FLOATS: &[&[u8]] = &[
    b"0",
    b"0.1",
    b"-0.1",
    b"3.0e3",
    b"1.5",
    b"-1.5",
    b"1e17",
    b"1e-17",
    b"3.14159265358979323846",
    b"10000000000000000000",
    b"1e300",
    b"-1e300",
    b"5e-324",
    b"1e4931",
    b"1e5000",
    b"0x1p3",
    b".5",
    b"5.",
    b"-.5",
    b"+2.5",
    b"1e",
    b"--1",
    b"1,5",
    b" 1.5",
    b"inf",
    b"-inf",
    b"infinity",
    b"nan",
    b"-nan",
    b"",
    b"9007199254740993",
    b"0.30000000000000004",
    b"123456789.123456789",
];

/// A random argument of a kind.
pub(crate) fn argument(slot: Slot, random: &mut Random) -> Vec<u8> {
    match slot {
        Slot::Key => random
            .pick(&[
                "key", "k2", "k3", "counter", "other:1", "other:2", "a\0b", "",
            ])
            .as_bytes()
            .to_vec(),
        Slot::Value => value(random),
        Slot::Member => match random.below(4) {
            0 => value(random),
            1 => number(random.between(-3, 12)),
            _ => random
                .pick(&[
                    "a",
                    "b",
                    "c",
                    "member",
                    "1",
                    "2",
                    "3",
                    "40000",
                    "-3000000000",
                ])
                .as_bytes()
                .to_vec(),
        },
        Slot::Integer => match random.below(4) {
            0 => random.pick(ODD).to_vec(),
            1 => random
                .pick(&[
                    "9223372036854775807",
                    "-9223372036854775808",
                    "9223372036854775800",
                    "-9223372036854775800",
                ])
                .as_bytes()
                .to_vec(),
            _ => number(random.between(-20, 20)),
        },
        Slot::Float => match random.below(3) {
            0 => number(random.between(-20, 20)),
            _ => random.pick(FLOATS).to_vec(),
        },
        Slot::Score => match random.below(12) {
            0 => random.pick(FLOATS).to_vec(),
            1 => random
                .pick(&["inf", "-inf", "-0", "0.1", "0.2", "1e20"])
                .as_bytes()
                .to_vec(),
            2 | 3 => format!("{}.5", random.between(-5, 15)).into_bytes(),
            _ => number(random.between(-5, 15)),
        },
        Slot::ScoreEnd => {
            let mut end = match random.below(3) {
                0 => b"(".to_vec(),
                _ => Vec::new(),
            };
            end.extend(match random.below(8) {
                0 => random.pick(ODD).to_vec(),
                1 => b"-inf".to_vec(),
                2 => b"+inf".to_vec(),
                _ => argument(Slot::Score, random),
            });
            end
        }
        Slot::LexKey => random
            .pick(&["lex:1", "lex:2", "lex:3"])
            .as_bytes()
            .to_vec(),
        Slot::LexMember => random.pick(LEX_MEMBERS).as_bytes().to_vec(),
        Slot::LexEnd => match random.below(8) {
            0 => b"-".to_vec(),
            1 => b"+".to_vec(),
            2 => argument(Slot::Value, random),
            _ => {
                let bracket = vec![*random.pick(b"[(")];
                [bracket, argument(Slot::LexMember, random)].concat()
            }
        },
        Slot::StreamId => match random.below(16) {
            0 => random.pick(ODD).to_vec(),
            1 => random.pick(ODD_IDS).to_vec(),
            2 => number(random.between(0, 40)),
            _ => stream_id(random, 40),
        },
        Slot::NewId => match random.below(60) {
            0 => random.pick(ODD).to_vec(),
            1 => random.pick(ODD_IDS).to_vec(),
            2..12 => format!("{}-*", random.between(0, 40)).into_bytes(),
            12..24 => number(random.between(0, 40)),
            _ => stream_id(random, 40),
        },
        Slot::IntervalId => match random.below(6) {
            0 => b"-".to_vec(),
            1 => b"+".to_vec(),
            2 => [b"(".to_vec(), argument(Slot::StreamId, random)].concat(),
            _ => argument(Slot::StreamId, random),
        },
        Slot::Group => random.pick(&["g", "g", "g", "h", ""]).as_bytes().to_vec(),
        Slot::Consumer => random.pick(&["c", "c", "d", "e", ""]).as_bytes().to_vec(),
        Slot::Index => match random.below(8) {
            0 => random.pick(ODD).to_vec(),
            _ => number(random.between(-12, 12)),
        },
        Slot::Offset => match random.below(10) {
            0 => random.pick(ODD).to_vec(),
            1 => random.pick(&["536870912", "-1"]).as_bytes().to_vec(),
            _ => number(random.between(0, 60)),
        },
        Slot::Seconds => duration(random, 1),
        Slot::Milliseconds => duration(random, 1000),
        Slot::SecondsAt => deadline(random, 1),
        Slot::MillisecondsAt => deadline(random, 1000),
        Slot::Database => random
            .pick(&["0", "0", "1", "2", "3", "9", "15", "16", "-1", "x", "01"])
            .as_bytes()
            .to_vec(),
        Slot::Pattern => random
            .pick(&[
                "*",
                "k*",
                "k?",
                "other:[12]",
                "other:[^1]",
                "[a-k]*",
                "key",
                "\\k*",
                "",
                "*\0*",
                "o*:*2",
                "[",
                "nothing*",
            ])
            .as_bytes()
            .to_vec(),
        Slot::Count => match random.below(6) {
            0 => random.pick(ODD).to_vec(),
            _ => number(random.between(1, 20)),
        },
        Slot::Payload => payloads::draw(random),
        Slot::BitOffset => encodings::bit_offset(random),
        Slot::FieldOffset => encodings::field_offset(random),
        Slot::FieldType => encodings::field_type(random),
        Slot::Longitude => encodings::coordinate(180.0, random),
        Slot::Latitude => encodings::coordinate(85.051_128_78, random),
        Slot::Distance => encodings::distance(random),
        Slot::Unit => encodings::unit(random),
        Slot::Type => random
            .pick(&[
                "string", "STRING", "list", "set", "zset", "hash", "stream", "nothing",
            ])
            .as_bytes()
            .to_vec(),
        Slot::Name => random
            .pick(&[
                "worker-1",
                "",
                "two words",
                "line\nbreak",
                "\u{e9}",
                "name",
                "a_b:c",
            ])
            .as_bytes()
            .to_vec(),
        Slot::Option => random.pick(OPTIONS).as_bytes().to_vec(),
        Slot::Setting => match random.below(3) {
            0 => random
                .pick(&[
                    "yes",
                    "no",
                    "64mb",
                    "1k",
                    "1gb",
                    "allkeys-lru",
                    "noeviction",
                    "volatile-ttl",
                    "KEA",
                    "-2",
                    "-6",
                ])
                .as_bytes()
                .to_vec(),
            1 => random.pick(ODD).to_vec(),
            _ => number(random.between(0, 1000)),
        },
    }
}

/// Options that do not affect the replies of other commands; restored after each sequence.
pub const OPTIONS: &[&str] = &[
    "maxmemory-policy",
    "maxmemory-samples",
    "hash-max-listpack-entries",
    "hash-max-listpack-value",
    "set-max-intset-entries",
    "zset-max-listpack-entries",
    "zset-max-listpack-value",
    "list-max-listpack-size",
    "list-compress-depth",
    "slowlog-max-len",
    "slowlog-log-slower-than",
    "lazyfree-lazy-expire",
    "lazyfree-lazy-eviction",
    "lazyfree-lazy-server-del",
    "latency-monitor-threshold",
    "notify-keyspace-events",
    "lfu-log-factor",
    "lfu-decay-time",
    "stream-node-max-bytes",
    "stream-node-max-entries",
    "hll-sparse-max-bytes",
];

/// Ids at the limits of parsers.
const ODD_IDS: &[&[u8]] = &[
    b"0-0",
    b"0-1",
    b"-",
    b"+",
    b"(",
    b"(5",
    b"5-",
    b"-5",
    b"5--5",
    b"5--05",
    b" 5-+6",
    b"05-06",
    b"5-6-7",
    b"5\0-x",
    b"18446744073709551615-18446744073709551615",
    b"18446744073709551615-0",
    b"18446744073709551614-18446744073709551615",
    b"9223372036854775807-9223372036854775808",
    b"18446744073709551616-0",
    b"00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000001",
];

fn stream_id(random: &mut Random, ms_max: i64) -> Vec<u8> {
    format!("{}-{}", random.between(0, ms_max), random.between(0, 3)).into_bytes()
}

fn value(random: &mut Random) -> Vec<u8> {
    match random.below(12) {
        0 => Vec::new(),
        1 | 2 => number(random.between(-100, 100)),
        3 => random.pick(ODD).to_vec(),
        4 => random.pick(FLOATS).to_vec(),
        5 => (0..random.below(40))
            .map(|_| random.bits().to_le_bytes()[0])
            .collect(),
        // 44 and 45 bytes: where Redis changes the encoding of a string.
        6 => vec![b'x'; 40 + random.below(8)],
        7 => (0..300 + random.below(1200))
            .map(|_| *random.pick(b"abcd"))
            .collect(),
        8 => number(i64::from_le_bytes(random.bits().to_le_bytes())),
        _ => (0..=random.below(12))
            .map(|_| *random.pick(b"abcdefgh"))
            .collect(),
    }
}

fn number(number: i64) -> Vec<u8> {
    number.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammars_parse() {
        let grammar = parse("MSET ( key value )+ [ NX | XX ] [ GET ]");
        assert_eq!(grammar[0], Node::Literal("MSET".into()));
        assert_eq!(
            grammar[1],
            Node::Repeated(vec![Node::Slot(Slot::Key), Node::Slot(Slot::Value)])
        );
        assert!(matches!(&grammar[2], Node::Optional(choices) if choices.len() == 2));
    }

    #[test]
    fn the_same_seed_gives_the_same_arguments() {
        let grammar = parse("SET key value [ NX | XX ] [ GET ] [ EX seconds | KEEPTTL ]");
        let commands = |seed| {
            let mut random = Random::new(seed);
            (0..50)
                .map(|_| generate(&grammar, &mut random))
                .collect::<Vec<_>>()
        };
        assert_eq!(commands(7), commands(7));
        assert_ne!(commands(7), commands(8));
    }

    #[test]
    fn options_come_in_any_order_and_are_sometimes_invalid() {
        let grammar = parse("SET key value [ NX ] [ GET ]");
        let mut random = Random::new(1);
        let commands: Vec<_> = (0..2000).map(|_| generate(&grammar, &mut random)).collect();
        let ends_with = |words: [&[u8]; 2]| {
            commands
                .iter()
                .any(|command| command.len() == 5 && command[3..] == words)
        };
        assert!(
            ends_with([b"NX", b"GET"]) && ends_with([b"GET", b"NX"]),
            "both orders"
        );
        assert!(
            commands.iter().any(|command| command.len() < 3),
            "a wrong arity"
        );
        assert!(ends_with([b"NX", b"NX"]), "an option twice");
    }
}
