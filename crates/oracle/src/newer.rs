//! Where our server behaves as a newer version of Redis than the reference, which is 7.0: everything that comparisons have to know
//! about that. `docs/redis-7.4.md` lists all changes. In transcripts, `@ours` marks such commands.

use damselfly_base::number::parse_integer;
use damselfly_protocol::client::Value;

/// Fields of XINFO that 7.0 does not have.
const NEW_FIELDS: &[&[u8]] = &[b"inactive", b"active-time"];

/// Times of XINFO that 7.0 sets only when a consumer gets entries.
pub(crate) const UNCOMPARED_TIMES: &[&str] = &["idle", "seen-time"];

/// The commands that both servers run before a drawn one. Since 7.2, XREADGROUP, XCLAIM and XAUTOCLAIM create their consumer even if
/// it gets nothing.
pub(crate) fn before(arguments: &[Vec<u8>]) -> Vec<Vec<Vec<u8>>> {
    let create = |key: &Vec<u8>, group: &Vec<u8>, consumer: &Vec<u8>| {
        let words = [&b"XGROUP"[..], b"CREATECONSUMER", key, group, consumer];
        words.map(<[u8]>::to_vec).to_vec()
    };
    let is = |at: usize, word: &str| arguments[at].eq_ignore_ascii_case(word.as_bytes());
    match arguments {
        [_, key, group, consumer, ..] if is(0, "XCLAIM") || is(0, "XAUTOCLAIM") => {
            vec![create(key, group, consumer)]
        }
        [_, _, ..] if is(0, "XREADGROUP") => {
            // Mistakes may have moved the words.
            let find = |word: &str| (1..arguments.len()).find(|&at| is(at, word));
            let (Some(group), Some(streams)) = (find("GROUP"), find("STREAMS")) else {
                return Vec::new();
            };
            let [group, consumer] = [group + 1, group + 2].map(|at| arguments.get(at));
            let (Some(group), Some(consumer)) = (group, consumer) else {
                return Vec::new();
            };
            let rest = &arguments[streams + 1..];
            let keys = &rest[..rest.len() / 2];
            keys.iter()
                .map(|key| create(key, group, consumer))
                .collect()
        }
        _ => Vec::new(),
    }
}

/// False for commands that do something else in scripts since 7.2: those that block, and those that create consumers, before which
/// [`before`] can't run anything there.
#[must_use]
pub fn is_alike_in_scripts(arguments: &[Vec<u8>]) -> bool {
    const OTHERS: &[&str] = &[
        "BLPOP",
        "BRPOP",
        "BRPOPLPUSH",
        "BLMOVE",
        "BZPOPMIN",
        "BZPOPMAX",
        "WAIT",
        "XREAD",
        "XREADGROUP",
        "XCLAIM",
        "XAUTOCLAIM",
        "MIGRATE",
    ];
    let is = |word: &&str| arguments[0].eq_ignore_ascii_case(word.as_bytes());
    !OTHERS.iter().any(is)
}

/// Changes arguments that newer versions treat otherwise.
pub(crate) fn tame(arguments: &mut Vec<Vec<u8>>) {
    const LEAST: &[u8] = b"-9223372036854775808";
    let name = arguments[0].to_ascii_uppercase();
    match &name[..] {
        // 7.2 added an option, so 7.0 refuses a fourth argument earlier than we do.
        b"ZRANK" | b"ZREVRANK" => arguments.truncate(3),
        // 7.2 refuses invalid arguments even if the key is absent.
        b"BITCOUNT" if !is_range_of_bits(&arguments[2.min(arguments.len())..], 2) => {
            arguments.truncate(2);
        }
        b"BITPOS" if !is_range_of_bits(&arguments[3.min(arguments.len())..], 1) => {
            arguments.truncate(3);
        }
        // 7.4 reads from the last entry.
        b"XREAD" | b"XREADGROUP" => arguments
            .iter_mut()
            .filter(|argument| **argument == b"+")
            .for_each(|argument| *argument = b"0".to_vec()),
        // 7.2 logs in and sets the name only after all options are found to be right.
        b"HELLO" => truncate_hello(arguments),
        // 7.2 refuses this rank, which 7.0 can't negate.
        b"LPOS" => arguments
            .iter_mut()
            .filter(|argument| **argument == LEAST)
            .for_each(|argument| *argument = b"-7".to_vec()),
        _ => {}
    }
}

/// Cuts HELLO off before the first mistake behind AUTH or SETNAME. SETNAME comes last.
fn truncate_hello(arguments: &mut Vec<Vec<u8>>) {
    let mut at = 2;
    while let Some(option) = arguments.get(at) {
        let words = match &option.to_ascii_uppercase()[..] {
            b"AUTH" => 3,
            b"SETNAME" => 2,
            _ => break,
        };
        if at + words > arguments.len() {
            break;
        }
        if words == 2 {
            // 7.2 refuses a name before it looks at the password.
            let is_name = arguments[at + 1].iter().all(u8::is_ascii_graphic);
            at += if is_name { words } else { 0 };
            break;
        }
        at += words;
    }
    if at > 2 {
        arguments.truncate(at);
    }
}

/// True for no arguments, or valid offsets, at least so many, and the unit that may follow two of them.
fn is_range_of_bits(arguments: &[Vec<u8>], offsets_min: usize) -> bool {
    let is_offset = |argument: &Vec<u8>| parse_integer(argument).is_some();
    let is_unit = |argument: &Vec<u8>| {
        ["BIT", "BYTE"]
            .iter()
            .any(|unit| argument.eq_ignore_ascii_case(unit.as_bytes()))
    };
    match arguments {
        [] => true,
        [start] => offsets_min == 1 && is_offset(start),
        [start, end] => is_offset(start) && is_offset(end),
        [start, end, unit] => is_offset(start) && is_offset(end) && is_unit(unit),
        _ => false,
    }
}

/// Changes the arguments of a script that returns one of them as a double: since 7.2, all NaNs are `nan` in replies.
pub(crate) fn tame_doubles(arguments: &mut [Vec<u8>]) {
    let is_negative_nan = |argument: &&mut Vec<u8>| argument.eq_ignore_ascii_case(b"-nan");
    for argument in arguments.iter_mut().filter(is_negative_nan) {
        argument.remove(0);
    }
}

/// A reply without the fields that 7.0 does not have.
#[must_use]
pub fn without_new_fields(reply: &Value) -> Value {
    let is_new =
        |name: &Value| matches!(name, Value::Bulk(name) if NEW_FIELDS.contains(&&name[..]));
    match reply {
        Value::Array(items) => {
            let mut kept = Vec::with_capacity(items.len());
            let mut rest = items.iter();
            while let Some(item) = rest.next() {
                match is_new(item) {
                    true => drop(rest.next()),
                    false => kept.push(without_new_fields(item)),
                }
            }
            Value::Array(kept)
        }
        Value::Map(pairs) => {
            let kept = pairs.iter().filter(|(name, _)| !is_new(name));
            Value::Map(
                kept.map(|(name, value)| (name.clone(), without_new_fields(value)))
                    .collect(),
            )
        }
        other => other.clone(),
    }
}
