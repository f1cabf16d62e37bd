//! Random scripts and functions: a few texts, which run random commands of all other families.
//!
//! ```text
//! EVAL "return redis.call(unpack(ARGV))" 1 key   INCRBY key 7
//!      text                              keys    a command from the table; or two, after the length of the first
//! ```
//!
//! Each text is also a script for EVALSHA and two functions of a library, one of them read-only.

use crate::grammar::{self, Node, Slot};
use crate::newer;
use crate::random::Random;
use crate::rows::{Row, Rule};
use crate::sequence::pick;
use damselfly_base::sha1::{hex, sha1};

/// The arguments that a text expects after its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wants {
    /// Any values.
    Values,
    /// JSON.
    Json,
    /// A command.
    Command,
    /// The length of a command, the command, and another command.
    Two,
}
use Wants::{Command, Json, Two, Values};

/// The text of a script or function.
struct Body {
    /// The name of its function.
    name: &'static str,
    wants: Wants,
    /// True if it returns the reply of the (last) command, so that this command's rule applies to the whole.
    is_raw: bool,
    code: &'static str,
}

const fn body(name: &'static str, wants: Wants, code: &'static str) -> Body {
    let is_raw = false;
    Body {
        name,
        wants,
        is_raw,
        code,
    }
}

const fn raw(name: &'static str, wants: Wants, code: &'static str) -> Body {
    let is_raw = true;
    Body {
        name,
        wants,
        is_raw,
        code,
    }
}

/// A Lua function that formats any value, with tables in order of their keys.
const SHOW: &str = "local function show(value)
  if type(value) ~= 'table' then return type(value) .. ':' .. tostring(value) end
  local keys = {}
  for key in pairs(value) do keys[#keys + 1] = key end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  local parts = {}
  for _, key in ipairs(keys) do parts[#parts + 1] = tostring(key) .. '=' .. show(value[key]) end
  return '{' .. table.concat(parts, ',') .. '}'
end
";

const BODIES: &[Body] = &[
    raw("call", Command, "return redis.call(unpack(ARGV))"),
    raw("pcall", Command, "return redis.pcall(unpack(ARGV))"),
    raw(
        "call3",
        Command,
        "redis.setresp(3) return redis.call(unpack(ARGV))",
    ),
    raw(
        "second",
        Two,
        "redis.pcall(unpack(ARGV, 2, ARGV[1] + 1)) return redis.call(unpack(ARGV, ARGV[1] + 2))",
    ),
    body(
        "both",
        Two,
        "return {redis.pcall(unpack(ARGV, 2, ARGV[1] + 1)), redis.pcall(unpack(ARGV, ARGV[1] + 2))}",
    ),
    body(
        "both3",
        Two,
        "redis.setresp(3) return {redis.pcall(unpack(ARGV, 2, ARGV[1] + 1)), redis.pcall(unpack(ARGV, ARGV[1] + 2))}",
    ),
    body("shown", Command, "return show(redis.pcall(unpack(ARGV)))"),
    body(
        "shown3",
        Command,
        "redis.setresp(3) return show(redis.pcall(unpack(ARGV)))",
    ),
    body(
        "caught",
        Command,
        "local ok, result = pcall(redis.call, unpack(ARGV)) return {tostring(ok), show(result)}",
    ),
    body(
        "keys",
        Values,
        "return {#KEYS, #ARGV, KEYS[1] or 'none', ARGV[#ARGV] or 'none', KEYS, ARGV}",
    ),
    body(
        "on_keys",
        Values,
        "local replies = {}
for i, key in ipairs(KEYS) do replies[i] = redis.pcall('SET', key, ARGV[i] or i, 'GET') end
return replies",
    ),
    body(
        "failing",
        Command,
        "redis.call(unpack(ARGV)) error('on purpose')",
    ),
    body(
        "failing_table",
        Command,
        "redis.call(unpack(ARGV)) error({err = 'MINE on purpose'})",
    ),
    body(
        "no_such_global",
        Command,
        "redis.call(unpack(ARGV)) return nosuch",
    ),
    body("error_reply", Values, "return redis.error_reply(ARGV[1])"),
    body("status_reply", Values, "return redis.status_reply(ARGV[1])"),
    body("error_table", Values, "return {err = ARGV[1]}"),
    body("status_table", Values, "return {ok = ARGV[1]}"),
    body("sha", Values, "return redis.sha1hex(ARGV[1] or '')"),
    body(
        "numbers",
        Values,
        "local numbers = {}
for i, text in ipairs(ARGV) do numbers[i] = tonumber(text) or false end
return numbers",
    ),
    body(
        "texts",
        Values,
        "local texts = {}
for i, text in ipairs(ARGV) do texts[i] = tostring(tonumber(text)) .. text:upper():reverse() .. #text end
return texts",
    ),
    body(
        "types",
        Values,
        "return {1, -2.9, 'text', {ok = 'fine'}, {err = 'ERR bad'}, false, true, {{}, {{7}}}, ARGV, nil, 9}",
    ),
    body("double", Values, "return {double = tonumber(ARGV[1]) or 0}"),
    body("map", Values, "return {map = {field = {double = 1.5}}}"),
    body("set", Values, "return {set = {[ARGV[1] or 'm'] = true}}"),
    body("big", Values, "return {big_number = '12345678901234567890'}"),
    body(
        "verbatim",
        Values,
        "return {verbatim_string = {string = ARGV[1] or '', format = 'txt'}}",
    ),
    body("attribute", Values, "return {true, {false}, {map = {}}, {set = {}}}"),
    body(
        "json",
        Json,
        "return cjson.encode(cjson.decode(ARGV[1]))",
    ),
    body("json_shown", Json, "return show(cjson.decode(ARGV[1]))"),
    body(
        "json_reply",
        Command,
        "return cjson.encode(redis.call(unpack(ARGV)))",
    ),
    body(
        "pack",
        Command,
        "return cmsgpack.pack(redis.pcall(unpack(ARGV)))",
    ),
    body(
        "pack_json",
        Json,
        "return show(cmsgpack.unpack(cmsgpack.pack(cjson.decode(ARGV[1]), ARGV)))",
    ),
    body(
        "unpack",
        Values,
        "local ok, value = pcall(cmsgpack.unpack, ARGV[1] or '') return {tostring(ok), show(value)}",
    ),
    body(
        "struct",
        Values,
        "local packed = struct.pack('>I2i4s', #ARGV, #KEYS, ARGV[1] or '') return {packed, struct.unpack('>I2i4s', packed)}",
    ),
    body(
        "bits",
        Values,
        "return {bit.bor(#ARGV, 8), bit.tohex(#ARGV * 77), bit.lshift(-3, #KEYS)}",
    ),
    body("nested", Values, "return redis.call('EVAL', 'return 1', 0)"),
    body(
        "transfer",
        Values,
        "local value = redis.call('GET', KEYS[1] or 'key')
if value then redis.call('SET', ARGV[1] or 'k2', value .. '+') end
return value",
    ),
];

impl Body {
    fn text(&self) -> String {
        let show = if self.code.contains("show(") {
            SHOW
        } else {
            ""
        };
        format!("{show}{}", self.code)
    }
}

/// A library with all texts.
fn library() -> String {
    let mut text = String::from("#!lua name=oracle\n");
    for body in BODIES {
        let (name, code) = (body.name, body.text());
        text += &format!("local function {name}_(KEYS, ARGV)\n{code}\nend\n");
        text += &format!(
            "redis.register_function('{name}', {name}_)\nredis.register_function{{function_name='{name}_ro', callback={name}_, flags={{'no-writes'}}}}\n"
        );
    }
    text
}

/// A small library with random functions and flags.
fn small_library(random: &mut Random) -> String {
    let flags = random.pick(&[
        "",
        "'no-writes'",
        "'allow-oom', 'no-cluster'",
        "'allow-stale', 'allow-cross-slot-keys'",
        "'nosuch'",
    ]);
    let name = random.pick(&["small", "Small", "call", "small-er"]);
    let library = random.pick(&["small", "small", "other", "oracle"]);
    let callback = random.pick(&["function(keys) return #keys end", "redis.call", "1", "nil"]);
    format!(
        "#!lua name={library}\nredis.register_function{{function_name='{name}', callback={callback}, flags={{{flags}}}}}"
    )
}

/// Draws scripts.
pub struct Scripts {
    /// The commands that scripts run.
    commands: Vec<(Row, Vec<Node>)>,
    /// The commands with the rule `Exact`, whose replies are deterministic.
    exact: Vec<(Row, Vec<Node>)>,
}

impl Scripts {
    /// A generator of scripts that run these commands.
    #[must_use]
    pub fn new(commands: &[(Row, Vec<Node>)]) -> Self {
        let can_run = |(row, _): &&(Row, Vec<Node>)| match row.rule {
            Rule::Exact
            | Rule::Unordered
            | Rule::Near(_)
            | Rule::AtMost
            | Rule::Shape
            | Rule::Encoding => true,
            // These need more than one command, or more than the reply, to be compared.
            Rule::Idle | Rule::Sorted | Rule::Hello | Rule::Queued | Rule::Scan | Rule::Take => {
                false
            }
        };
        let commands: Vec<_> = commands.iter().filter(can_run).cloned().collect();
        let exact = |(row, _): &&(Row, Vec<Node>)| row.rule == Rule::Exact;
        Self {
            exact: commands.iter().filter(exact).cloned().collect(),
            commands,
        }
    }

    /// Commands that prepare a server for the scripts.
    #[must_use]
    pub fn preparation() -> Vec<Vec<Vec<u8>>> {
        let mut all = vec![
            command(&["FUNCTION", "FLUSH"]),
            command(&["FUNCTION", "LOAD", &library()]),
            command(&["SCRIPT", "FLUSH"]),
        ];
        let load = |body: &Body| command(&["SCRIPT", "LOAD", &body.text()]);
        all.extend(BODIES.iter().map(load));
        all
    }

    /// Draws a command that runs or manages scripts and functions.
    pub fn draw(&self, random: &mut Random) -> (Vec<Vec<u8>>, Rule) {
        if random.one_in(15) {
            return (self.management(random), Rule::Exact);
        }
        let body = random.pick(BODIES);
        let mut head = self.head(body, random);
        let (tail, rule) = self.tail(body, random);
        if random.one_in(12) && !tail.iter().any(|word| has_newer_option(word)) {
            grammar::mutate(&mut head, random);
        }
        head.extend(tail);
        if body.name == "double" {
            newer::tame_doubles(&mut head);
        }
        (head, rule)
    }

    /// The command up to its keys.
    fn head(&self, body: &Body, random: &mut Random) -> Vec<Vec<u8>> {
        let text = body.text();
        let mut head = match random.below(8) {
            0..3 => command(&["EVAL", &text]),
            3 => command(&["EVALSHA", &hex(&sha1(text.as_bytes()))]),
            4 => command(&["EVAL_RO", &text]),
            5 => command(&["FCALL", body.name]),
            6 => command(&["FCALL", &format!("{}_ro", body.name)]),
            _ => command(&["FCALL_RO", &format!("{}_ro", body.name)]),
        };
        if head[0] == b"EVAL" && random.one_in(8) {
            let flags = random.pick(&["", "no-writes", "allow-oom", "no-writes,allow-stale"]);
            head[1] = format!("#!lua flags={flags}\n{text}").into_bytes();
        }
        let keys = random.below(4);
        head.push(keys.to_string().into_bytes());
        head.extend((0..keys).map(|_| grammar::argument(Slot::Key, random)));
        head
    }

    /// The arguments after the keys, and the rule for the reply.
    fn tail(&self, body: &Body, random: &mut Random) -> (Vec<Vec<u8>>, Rule) {
        let drawn = |rows: &[(Row, Vec<Node>)], random: &mut Random| {
            loop {
                let (row, grammar) = pick(rows, random);
                let arguments = grammar::generate(grammar, random);
                if newer::is_alike_in_scripts(&arguments) {
                    return (arguments, row.rule);
                }
            }
        };
        let rows = if body.is_raw {
            &self.commands
        } else {
            &self.exact
        };
        match body.wants {
            Values => {
                let count = random.below(4);
                let values = (0..count).map(|_| grammar::argument(Slot::Value, random));
                (values.collect(), Rule::Exact)
            }
            Json => (vec![json(random)], Rule::Exact),
            Command => drawn(rows, random),
            Two => {
                let (first, _) = drawn(&self.exact, random);
                let (second, rule) = drawn(rows, random);
                let mut tail = vec![first.len().to_string().into_bytes()];
                tail.extend(first);
                tail.extend(second);
                (tail, rule)
            }
        }
    }

    /// A command that manages scripts and functions.
    fn management(&self, random: &mut Random) -> Vec<Vec<u8>> {
        let text = random.pick(BODIES).text();
        let digest = hex(&sha1(text.as_bytes()));
        match random.below(10) {
            0 => command(&[
                "SCRIPT",
                "EXISTS",
                &digest,
                "nosuch",
                &digest.to_uppercase(),
            ]),
            1 => command(&["SCRIPT", "LOAD", "return bad bad"]),
            2 => command(&["SCRIPT", "LOAD", "#!lua flags=nosuch\nreturn 1"]),
            3 => command(&["EVALSHA", &"0".repeat(40), "0"]),
            4 => command(&["FUNCTION", "STATS"]),
            5 => command(&["FUNCTION", "LIST", "LIBRARYNAME", "small", "WITHCODE"]),
            6 => command(&["FUNCTION", "LOAD", &small_library(random)]),
            7 => command(&["FUNCTION", "LOAD", "REPLACE", &small_library(random)]),
            8 => command(&[
                "FUNCTION",
                "DELETE",
                random.pick::<&str>(&["small", "other"]),
            ]),
            _ => command(&["FCALL", "small", "1", "key"]),
        }
    }
}

/// True for commands to which a newer version added an option, or whose arguments it checks earlier: with arguments that are moved, 7.0
/// replies otherwise.
fn has_newer_option(word: &[u8]) -> bool {
    [&b"ZRANK"[..], b"ZREVRANK", b"BITCOUNT", b"BITPOS"].contains(&&word.to_ascii_uppercase()[..])
}

fn command(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

/// A random JSON text. Objects have one field: the order of several would be each server's own.
fn json(random: &mut Random) -> Vec<u8> {
    let mut text = json_value(random, 0);
    if random.one_in(8) {
        text.truncate(random.below(text.len() + 1));
    }
    text
}

fn json_value(random: &mut Random, depth: usize) -> Vec<u8> {
    const SCALARS: &[&str] = &[
        "null",
        "true",
        "false",
        "0",
        "-1",
        "1.5",
        "1e3",
        "12345678901234567890",
        "0.1",
        "\"\"",
        "\"text\"",
        "\"\\u00e9\\n\\\"\"",
        "\"\\ud83d\\ude00\"",
        "1e400",
        "NaN",
        "0x10",
        "\"\\x\"",
    ];
    if depth > 3 {
        return b"[]".to_vec();
    }
    match random.below(4) {
        0 => {
            let items = (0..random.below(4)).map(|_| json_value(random, depth + 1));
            let items: Vec<_> = items.collect();
            [&b"["[..], &items.join(&b','), b"]"].concat()
        }
        1 => {
            let field = random.pick(&["a", "1", "", "two words"]).as_bytes();
            let value = json_value(random, depth + 1);
            [&b"{\""[..], field, b"\":", &value, b"}"].concat()
        }
        _ => random.pick(SCALARS).as_bytes().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_draws_repeat() {
        let mut names: Vec<_> = BODIES.iter().map(|body| body.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), BODIES.len());
        let rows: Vec<_> = crate::rows::all()
            .map(|row| (*row, grammar::parse(row.grammar)))
            .collect();
        let scripts = Scripts::new(&rows);
        let draws = |seed| {
            let mut random = Random::new(seed);
            (0..100)
                .map(|_| scripts.draw(&mut random))
                .collect::<Vec<_>>()
        };
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
    }
}
