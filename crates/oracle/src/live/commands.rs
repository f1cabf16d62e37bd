//! The commands that live fuzzing draws: those in the grammar's rows, those that the server documents, and some that are
//! interesting only with several connections.

use crate::connection::Connection;
use crate::grammar::{self, Node, Slot};
use crate::random::Random;
use crate::rows::{self, Row};
use crate::scripts::Scripts;
use crate::sequence::pick;
use damselfly_protocol::client::Value;
use std::io;
use std::net::SocketAddr;

/// Commands that are never drawn, by their name in COMMAND DOCS, with the reason.
pub const EXCLUDED: &[(&str, &str)] = &[
    ("shutdown", "it stops the server"),
    (
        "debug",
        "PANIC, SLEEP and POPULATE with any size crash, block or fill the server: see `DEBUG`",
    ),
    (
        "config|set",
        "some options lock clients out: see `SETTINGS` and `CLOSING_SETTINGS`",
    ),
    (
        "client|pause",
        "pauses must be short: the session draws them",
    ),
    (
        "client|kill",
        "it must spare the watchdog: the session draws it",
    ),
];

/// Commands that change how later replies arrive, or whether they arrive at all. Only the session draws these, because it tracks
/// the state.
pub const STEERED: &[&str] = &[
    "multi",
    "exec",
    "discard",
    "reset",
    "quit",
    "hello",
    "monitor",
    "subscribe",
    "psubscribe",
    "ssubscribe",
    "unsubscribe",
    "punsubscribe",
    "sunsubscribe",
    "client|reply",
    "sync",
    "psync",
    "replconf",
    "replicaof",
    "slaveof",
    "failover",
];

/// Options that may change at any time, with values to try. All are restored after each round.
///
/// Left out: `requirepass`, `port`, `bind` and `maxclients`, which would lock the fuzzer out; options that can be set only at
/// startup; and `busy-reply-threshold`, which rounds with busy scripts set.
pub const SETTINGS: &[(&str, &[&str])] = &[
    (
        "maxmemory",
        &["0", "0", "0", "0", "1", "3mb", "20mb", "1gb"],
    ),
    (
        "maxmemory-policy",
        &[
            "noeviction",
            "allkeys-lru",
            "allkeys-lfu",
            "allkeys-random",
            "volatile-lru",
            "volatile-lfu",
            "volatile-random",
            "volatile-ttl",
        ],
    ),
    ("maxmemory-samples", &["1", "5", "64"]),
    ("maxmemory-eviction-tenacity", &["0", "10", "100"]),
    ("lfu-log-factor", &["0", "10", "100"]),
    ("lfu-decay-time", &["0", "1", "100"]),
    ("lazyfree-lazy-eviction", YES_NO),
    ("lazyfree-lazy-expire", YES_NO),
    ("lazyfree-lazy-server-del", YES_NO),
    ("lazyfree-lazy-user-del", YES_NO),
    ("lazyfree-lazy-user-flush", YES_NO),
    (
        "notify-keyspace-events",
        &["", "", "KEA", "Kx", "Elg", "AKEmn"],
    ),
    ("active-expire-effort", &["1", "10"]),
    ("tracking-table-max-keys", &["0", "1", "10", "1000000"]),
    ("slowlog-log-slower-than", &["-1", "0", "10", "10000"]),
    ("slowlog-max-len", &["0", "1", "128"]),
    ("latency-monitor-threshold", &["0", "1", "100"]),
    ("latency-tracking", YES_NO),
    ("loglevel", &["debug", "verbose", "notice", "warning"]),
    ("hash-max-listpack-entries", &["0", "1", "4", "512"]),
    ("hash-max-listpack-value", &["0", "4", "64"]),
    ("set-max-intset-entries", &["0", "2", "512"]),
    ("set-max-listpack-entries", &["0", "2", "128"]),
    ("set-max-listpack-value", &["0", "4", "64"]),
    ("zset-max-listpack-entries", &["0", "2", "128"]),
    ("zset-max-listpack-value", &["0", "4", "64"]),
    (
        "list-max-listpack-size",
        &["-5", "-2", "-1", "1", "3", "128"],
    ),
    ("list-compress-depth", &["0", "1"]),
    ("stream-node-max-bytes", &["0", "1", "64", "4096"]),
    ("stream-node-max-entries", &["0", "1", "3", "100"]),
];

/// Options that make the server close connections. They change only in rounds in which any connection may be closed.
pub const CLOSING_SETTINGS: &[(&str, &[&str])] = &[
    ("timeout", &["0", "1"]),
    ("maxmemory-clients", &["0", "0", "300kb", "5%"]),
    (
        "client-output-buffer-limit",
        &[
            "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
            "normal 200kb 50kb 1 pubsub 50kb 10kb 1",
        ],
    ),
    ("proto-max-bulk-len", &["1mb", "536870912"]),
    ("client-query-buffer-limit", &["1mb", "1073741824"]),
];

const YES_NO: &[&str] = &["yes", "no"];

/// Commands through which connections affect each other. They are sent without mutation.
const MEETING: &[&str] = &[
    "SET key value PX ( 1 | 5 | 20 | 60 )",
    "PEXPIRE key ( 1 | 10 | 50 )",
    "HPEXPIRE key ( 1 | 10 | 50 ) FIELDS 1 member",
    "HSETEX key PX ( 1 | 20 ) FIELDS 1 member value",
    "PUBLISH ( CH:1 | CH:2 | CH:3 ) value",
    "SPUBLISH ( CH:1 | CH:2 ) value",
    "PUBSUB ( CHANNELS | SHARDCHANNELS | NUMPAT )",
    "CLIENT TRACKING ON",
    "CLIENT TRACKING ON [ NOLOOP ] [ BCAST ] [ PREFIX key ] [ OPTIN | OPTOUT ]",
    "CLIENT TRACKING OFF",
    "CLIENT CACHING ( YES | NO )",
    "WATCH ( key )+",
    "UNWATCH",
    "FLUSHALL [ ASYNC | SYNC ]",
    "FLUSHDB [ ASYNC | SYNC ]",
    "SWAPDB ( 0 | 1 | 9 ) ( 0 | 1 | 9 )",
    "SELECT ( 0 | 0 | 1 | 9 )",
    "RPUSH key ( member )+",
    "ZADD key 1 member",
    "XADD key * member value",
    "GET BIG:1",
    "MGET BIG:1 BIG:2 BIG:1 BIG:2",
    "LRANGE LONG 0 -1",
    "RPUSH LONG ( value )+",
    "DEL LONG BIG:1 BIG:2",
    "CLIENT UNPAUSE",
    "( REPLICAOF | SLAVEOF ) NO ONE",
    "CLIENT ( LIST | INFO | ID | TRACKINGINFO | GETREDIR )",
    "INFO [ EVERYTHING ]",
    "COMMAND",
    "COMMAND DOCS",
    "CONFIG GET *",
    "SCRIPT FLUSH [ ASYNC | SYNC ]",
    "FUNCTION FLUSH [ ASYNC | SYNC ]",
    "MEMORY ( STATS | DOCTOR | PURGE | MALLOC-STATS )",
];

/// DEBUG with harmless arguments.
const DEBUG: &[&str] = &[
    "DEBUG OBJECT key",
    "DEBUG DIGEST",
    "DEBUG DIGEST-VALUE ( key )+",
    "DEBUG HTSTATS ( 0 | 9 )",
    "DEBUG HTSTATS-KEY key",
    "DEBUG POPULATE ( 10 | 200 | 2000 ) P ( 1 | 100 )",
    "DEBUG STRINGMATCH-LEN ( 10 | 1000 ) pattern",
    "DEBUG TABLE",
    "DEBUG ERROR VALUE",
    "DEBUG HELP",
    "DEBUG PROTOCOL ( STRING | INTEGER | DOUBLE | NULL | ARRAY | SET | MAP | ATTRIB | VERBATIM | TRUE | FALSE | BIGNUM )",
    "DEBUG JMAP",
    "DEBUG SET-ACTIVE-EXPIRE ( 0 | 1 | 1 | 1 )",
    "DEBUG ( LOADAOF | RELOAD | PAUSE-CRON | NOSUCH )",
];

/// Blocking commands, each with a short timeout.
const WAITING: &[&str] = &[
    "( BLPOP | BRPOP ) NOKEY ( 0.001 | 0.005 | 0.02 | 0.1 )",
    "( BLPOP | BRPOP | BZPOPMIN | BZPOPMAX ) ( key )+ ( 0.001 | 0.005 | 0.02 )",
    "BLMOVE key key ( LEFT | RIGHT ) ( LEFT | RIGHT ) ( 0.001 | 0.02 )",
    "BRPOPLPUSH key key ( 0.001 | 0.02 )",
    "BLMPOP ( 0.001 | 0.02 ) 2 key key ( LEFT | RIGHT ) [ COUNT count ]",
    "BZMPOP ( 0.001 | 0.02 ) 1 key ( MIN | MAX )",
    "XREAD BLOCK ( 1 | 5 | 20 ) STREAMS key $",
    "XREADGROUP GROUP group consumer BLOCK ( 1 | 5 | 20 ) STREAMS key >",
    "DEBUG SLEEP ( 0 | 0.001 | 0.02 )",
];

/// Blocking commands without a timeout: only for connections that are closed while they are blocked.
const WAITING_FOREVER: &[&str] = &[
    "( BLPOP | BRPOP | BZPOPMIN | BZPOPMAX ) ( key )+ 0",
    "BLMOVE key key LEFT RIGHT 0",
    "XREAD BLOCK 0 STREAMS key $",
    "XREADGROUP GROUP group consumer BLOCK 0 STREAMS key >",
];

/// Iterations of [`SLOW_SCRIPT`]. The larger counts take so long that the server serves other clients meanwhile.
const LOOPS: &[&str] = &["1000", "30000", "300000"];
const SLOW_SCRIPT: &str = "local n = 0 while n < tonumber(ARGV[1]) do n = n + 1 end
if KEYS[1] then redis.call('SET', KEYS[1], n) end
return n";

/// Draws commands.
pub struct Commands {
    rows: Vec<(Row, Vec<Node>)>,
    documented: Vec<Vec<Node>>,
    meeting: Vec<Vec<Node>>,
    debug: Vec<Vec<Node>>,
    waiting: Vec<Vec<Node>>,
    waiting_forever: Vec<Vec<Node>>,
    scripts: Scripts,
}

impl Commands {
    /// Reads the commands that the server at `address` documents.
    ///
    /// # Errors
    /// The server does not answer, or its answer is not documentation.
    pub fn fetch(address: SocketAddr) -> io::Result<Self> {
        let mut connection = Connection::open(address)?;
        connection.call(&["HELLO", "3"])?;
        let docs = connection.call(&["COMMAND", "DOCS"])?;
        let documented = documented(&docs);
        if documented.len() < 100 {
            return Err(io::Error::other(format!(
                "COMMAND DOCS describes {} commands",
                documented.len()
            )));
        }
        Ok(Self::new(documented))
    }

    /// The commands in the grammar's rows, and the `documented` ones, given by their grammars.
    pub fn new(documented: Vec<Vec<Node>>) -> Self {
        let is_free = |row: &&Row| {
            let name = row.grammar.split(' ').next().unwrap_or_default();
            !STEERED.contains(&name.to_ascii_lowercase().as_str())
        };
        let rows: Vec<_> = rows::all()
            .filter(is_free)
            .map(|row| (*row, grammar::parse(row.grammar)))
            .collect();
        let parsed = |grammars: &[&str]| grammars.iter().map(|text| grammar::parse(text)).collect();
        Self {
            scripts: Scripts::new(&rows),
            rows,
            documented,
            meeting: parsed(MEETING),
            debug: parsed(DEBUG),
            waiting: parsed(WAITING),
            waiting_forever: parsed(WAITING_FOREVER),
        }
    }

    /// How many of the commands that the server documents are drawn.
    #[must_use]
    pub fn documented(&self) -> usize {
        self.documented.len()
    }

    /// Draws any command that has one reply and does not block.
    pub fn draw(&self, random: &mut Random) -> Vec<Vec<u8>> {
        match random.below(100) {
            0..40 => grammar::generate(&pick(&self.rows, random).1, random),
            40..60 => grammar::generate(random.pick::<Vec<Node>>(&self.documented), random),
            60..84 => expand(random.pick::<Vec<Node>>(&self.meeting), random),
            84..92 => self.script(random),
            92..95 => expand(random.pick::<Vec<Node>>(&self.debug), random),
            95..97 => setting(SETTINGS, random),
            97 => big(random),
            _ => words(&["PING"]),
        }
    }

    /// Draws a command that may block for a short time.
    pub fn waiting(&self, random: &mut Random) -> Vec<Vec<u8>> {
        expand(random.pick::<Vec<Node>>(&self.waiting), random)
    }

    /// Draws a command that may block forever.
    pub fn waiting_forever(&self, random: &mut Random) -> Vec<Vec<u8>> {
        expand(random.pick::<Vec<Node>>(&self.waiting_forever), random)
    }

    /// Draws a command that runs a script, or one that loads scripts or functions for later commands.
    pub fn script(&self, random: &mut Random) -> Vec<Vec<u8>> {
        match random.below(24) {
            0 => random.pick(&Scripts::preparation()).clone(),
            1 => {
                let keys = random.pick(&["0", "1"]);
                let mut arguments = words(&["EVAL", SLOW_SCRIPT, keys]);
                arguments.extend((*keys == "1").then(|| b"key".to_vec()));
                arguments.push(random.pick(LOOPS).as_bytes().to_vec());
                arguments
            }
            _ => self.scripts.draw(random).0,
        }
    }
}

/// Random arguments that are valid in a grammar.
fn expand(grammar: &[Node], random: &mut Random) -> Vec<Vec<u8>> {
    let mut arguments = Vec::new();
    grammar::generate_into(grammar, random, &mut arguments);
    arguments
}

/// CONFIG SET of one random option.
pub fn setting(settings: &[(&str, &[&str])], random: &mut Random) -> Vec<Vec<u8>> {
    let (option, values) = random.pick(settings);
    let value: &str = random.pick::<&str>(values);
    words(&["CONFIG", "SET", option, value])
}

/// Stores a value so large that the server needs several reads to receive it.
fn big(random: &mut Random) -> Vec<Vec<u8>> {
    let mut arguments = words(&["SET", random.pick::<&str>(&["BIG:1", "BIG:2"])]);
    let bytes = *random.pick(&[16_000, 65_500, 65_536, 70_000, 300_000]) + random.below(64);
    arguments.push(vec![b'b'; bytes]);
    arguments
}

/// The arguments of a command, from words.
pub fn words(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

/// The grammars in the reply of COMMAND DOCS, without the commands in [`EXCLUDED`] and [`STEERED`].
fn documented(docs: &Value) -> Vec<Vec<Node>> {
    let mut grammars = Vec::new();
    for (name, fields) in pairs(docs) {
        if let Some(subcommands) = field(fields, "subcommands") {
            for (name, fields) in pairs(subcommands) {
                grammars.extend(command(&text(name), fields));
            }
        } else {
            grammars.extend(command(&text(name), fields));
        }
    }
    grammars
}

/// The grammar of one command or subcommand; `None` if it is not drawn.
fn command(name: &str, fields: &Value) -> Option<Vec<Node>> {
    let is_excluded = EXCLUDED.iter().any(|(excluded, _)| *excluded == name);
    if is_excluded || STEERED.contains(&name) {
        return None;
    }
    let words = name.split('|').map(str::to_ascii_uppercase);
    let mut grammar: Vec<Node> = words.map(Node::Literal).collect();
    if let Some(arguments) = field(fields, "arguments") {
        grammar.extend(items(arguments).iter().flat_map(argument));
    }
    Some(grammar)
}

/// The nodes of one argument.
fn argument(docs: &Value) -> Vec<Node> {
    let name = field(docs, "name").map(text).unwrap_or_default();
    let kind = field(docs, "type").map(text).unwrap_or_default();
    let children = field(docs, "arguments").map(items).unwrap_or_default();
    let mut nodes: Vec<Node> = field(docs, "token")
        .map(|token| Node::Literal(text(token)))
        .into_iter()
        .collect();
    match kind.as_str() {
        "pure-token" => {}
        "oneof" => nodes.push(Node::Choice(children.iter().map(argument).collect())),
        "block" => nodes.extend(children.iter().flat_map(argument)),
        _ => nodes.push(slot(&name, &kind)),
    }
    let flags = field(docs, "flags").map(items).unwrap_or_default();
    let has = |wanted: &str| flags.iter().any(|flag| text(flag) == wanted);
    if has("multiple") {
        nodes = vec![Node::Repeated(nodes)];
    }
    if has("optional") {
        nodes = vec![Node::Optional(vec![nodes])];
    }
    nodes
}

/// The node for an argument of this name and type.
fn slot(name: &str, kind: &str) -> Node {
    let slot = match (kind, name) {
        ("key", _) => Slot::Key,
        (_, "timeout") => return Node::Literal("0.001".into()),
        (_, "cursor") => return Node::Literal("0".into()),
        (_, "numkeys" | "numfields" | "count") => Slot::Count,
        (_, "member" | "field" | "element") => Slot::Member,
        (_, "id" | "start" | "end") if kind == "string" => Slot::IntervalId,
        (_, "group") => Slot::Group,
        (_, "consumer") => Slot::Consumer,
        (_, "seconds") => Slot::Seconds,
        (_, "milliseconds") => Slot::Milliseconds,
        (_, "unix-time-milliseconds") => Slot::MillisecondsAt,
        ("unix-time", _) => Slot::SecondsAt,
        ("double", _) => Slot::Score,
        ("pattern", _) => Slot::Pattern,
        ("integer", "index" | "db") => Slot::Database,
        ("integer", _) => Slot::Integer,
        _ => Slot::Value,
    };
    Node::Slot(slot)
}

fn pairs(value: &Value) -> &[(Value, Value)] {
    match value {
        Value::Map(pairs) => pairs,
        _ => &[],
    }
}

fn field<'v>(map: &'v Value, name: &str) -> Option<&'v Value> {
    let found = pairs(map).iter().find(|(key, _)| text(key) == name);
    found.map(|(_, value)| value)
}

fn items(value: &Value) -> &[Value] {
    match value {
        Value::Array(items) | Value::Set(items) => items,
        _ => &[],
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::Bulk(bytes) | Value::Simple(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documentation_becomes_a_grammar() {
        let bulk = |text: &str| Value::Bulk(text.into());
        let map = |pairs: &[(&str, Value)]| {
            let pairs = pairs.iter().map(|(key, value)| (bulk(key), value.clone()));
            Value::Map(pairs.collect())
        };
        let key = map(&[("name", bulk("key")), ("type", bulk("key"))]);
        let count = map(&[
            ("name", bulk("count")),
            ("type", bulk("integer")),
            ("token", bulk("COUNT")),
            ("flags", Value::Array(vec![bulk("optional")])),
        ]);
        let take = map(&[("arguments", Value::Array(vec![key, count]))]);
        let docs = map(&[
            ("lpop", take.clone()),
            ("shutdown", take.clone()),
            ("multi", take),
        ]);
        assert_eq!(
            documented(&docs),
            [grammar::parse("LPOP key [ COUNT count ]")]
        );
    }

    #[test]
    fn steered_commands_are_in_none_of_the_lists() {
        let lists = [MEETING, DEBUG, WAITING, WAITING_FOREVER].concat();
        for grammar in lists {
            let name = grammar.split(' ').next().unwrap().to_ascii_lowercase();
            assert!(!STEERED.contains(&name.as_str()), "{grammar}");
            assert!(!expand(&grammar::parse(grammar), &mut Random::new(1)).is_empty());
        }
    }
}
