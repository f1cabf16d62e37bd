//! Who may run what: random rules of users, and random commands under them, on `redis-server` and on Damselfly. No command may be allowed by
//! one and refused by the other, neither when it is tried (ACL DRYRUN) nor when it runs: plain, in a transaction, or in a script.
//!
//! `DAMSELFLY_USERS_SEQUENCES` is how many sequences run, `DAMSELFLY_SEED` repeats them.

use std::collections::{BTreeMap, BTreeSet};

use damselfly_oracle::connection::Connection;
use damselfly_oracle::grammar::{self, Node};
use damselfly_oracle::newer;
use damselfly_oracle::random::{self, Random};
use damselfly_oracle::rows;
use damselfly_oracle::server::{Program, Server};
use damselfly_oracle::text::render;
use damselfly_protocol::client::Value;

mod common;

const SEQUENCES: usize = 150;
const USERS: [&str; 3] = ["u0", "u1", "u2"];
/// Commands tried and run for each set of rules.
const COMMANDS: usize = 30;

const CATEGORIES: &[&str] = &[
    "keyspace",
    "read",
    "write",
    "set",
    "sortedset",
    "list",
    "hash",
    "string",
    "bitmap",
    "geo",
    "stream",
    "pubsub",
    "admin",
    "fast",
    "slow",
    "blocking",
    "dangerous",
    "connection",
    "transaction",
    "scripting",
    "all",
    "nosuch",
];

/// Further commands: channels, keys in unusual places, containers, first arguments, mistakes.
const MORE: &[&str] = &[
    "PUBLISH a x",
    "SPUBLISH b x",
    "SUBSCRIBE a b",
    "PSUBSCRIBE a*",
    "PSUBSCRIBE a",
    "SSUBSCRIBE ab",
    "UNSUBSCRIBE z",
    "PUNSUBSCRIBE z",
    "PUBSUB CHANNELS",
    "SORT key BY x* GET y*",
    "SORT key BY nosort",
    "SORT key GET #",
    "SORT key LIMIT x y GET a",
    "SORT key STORE k2 STORE k3",
    "SORT_RO key BY x*",
    "SORT_RO key GET #",
    "EVAL return 0",
    "EVAL return 1 key",
    "EVAL return 2 key k2 x",
    "EVAL return 5 key",
    "EVAL_RO return 1 k2",
    "FCALL f 1 key",
    "FCALL_RO f 1 k3",
    "OBJECT ENCODING key",
    "OBJECT HELP",
    "OBJECT FREQ k2",
    "MEMORY USAGE key",
    "MEMORY DOCTOR",
    "MEMORY STATS",
    "XINFO STREAM k2",
    "XGROUP CREATE key g $ MKSTREAM",
    "XREAD COUNT 1 STREAMS key k2 0 0",
    "XREADGROUP GROUP g c STREAMS k3 >",
    "CONFIG GET x",
    "CONFIG SET x y",
    "CONFIG RESETSTAT",
    "CLIENT ID",
    "CLIENT KILL x",
    "CLIENT LIST",
    "CLIENT NO-EVICT on",
    "CLIENT TRACKING on",
    "CLIENT NOSUCH",
    "SELECT 0",
    "SELECT 1",
    "DEBUG SLEEP 0",
    "DEBUG JMAP",
    "AUTH x y",
    "HELLO 3",
    "QUIT",
    "RESET",
    "ACL WHOAMI",
    "ACL SETUSER x",
    "ACL LOG",
    "ACL CAT",
    "SCRIPT LOAD x",
    "SCRIPT EXISTS x",
    "FUNCTION LIST",
    "MULTI",
    "EXEC",
    "WATCH key k2",
    "DISCARD",
    "MONITOR",
    "KEYS *",
    "SCAN 0",
    "FLUSHALL",
    "FLUSHDB",
    "SWAPDB 0 1",
    "RANDOMKEY",
    "DBSIZE",
    "SET key v",
    "SET key v GET",
    "SET k2 v EX 10 get",
    "SET k3 get",
    "GETSET key v",
    "GETDEL key",
    "GETEX key PERSIST",
    "GET key",
    "EXISTS key k2",
    "TYPE key",
    "TTL k3",
    "STRLEN key",
    "COPY key k2",
    "RENAME key k2",
    "RENAMENX k2 key",
    "DEL key k3",
    "UNLINK other:1",
    "TOUCH key other:2",
    "LMOVE key k2 LEFT LEFT",
    "BLMOVE k2 key LEFT LEFT 0.01",
    "LMPOP 2 key k2 LEFT",
    "LMPOP 0 key LEFT",
    "LMPOP x key LEFT",
    "BLMPOP 0.01 1 k3 LEFT",
    "BLPOP key k2 0.01",
    "BRPOPLPUSH key k3 0.01",
    "ZUNIONSTORE key 2 k2 k3",
    "ZUNIONSTORE key x k2",
    "ZUNION 1 key",
    "ZINTERCARD 2 key k2",
    "SINTERCARD 1 key",
    "SINTERSTORE key k2 k3",
    "SMOVE key k2 m",
    "ZRANGESTORE key k2 0 1",
    "ZMPOP 1 key MIN",
    "MSET key 1 k2 2",
    "MSETNX key 1 other:1 2",
    "MGET key k2 k3",
    "LCS key k2",
    "PFADD key x",
    "GEOADD key 1 1 m",
    "BITCOUNT key",
    "PING",
    "ECHO x",
    "INFO",
    "TIME",
    "COMMAND COUNT",
    "COMMAND DOCS get",
    "SLOWLOG GET",
    "LATENCY RESET",
    "SHUTDOWN",
    "DUMP key",
    "RESTORE key 0 x",
    "LASTSAVE",
    "BGSAVE",
    "REPLICAOF no one",
    "MIGRATE h 1 key 0 1",
    "CLUSTER INFO",
    "NOSUCH key",
];

/// Commands that change the connection, so that they are only tried. Some block, wait or stop the server.
const ONLY_TRIED: &[&str] = &[
    "QUIT",
    "RESET",
    "AUTH",
    "HELLO",
    "SUBSCRIBE",
    "PSUBSCRIBE",
    "SSUBSCRIBE",
    "MONITOR",
    "SHUTDOWN",
    "CLIENT",
    "SELECT",
    "DEBUG",
    "MULTI",
    "EXEC",
    "DISCARD",
    "CONFIG",
    "BGSAVE",
    "ACL",
    "REPLICAOF",
    "MIGRATE",
    "FUNCTION",
    "SCRIPT",
    "BLPOP",
    "BRPOP",
    "BLMOVE",
    "BRPOPLPUSH",
    "BZPOPMIN",
    "BZPOPMAX",
    "BLMPOP",
    "BZMPOP",
    "XREAD",
    "XREADGROUP",
    "SAVE",
];

struct Side {
    _server: Server,
    admin: Connection,
    users: Vec<Connection>,
}

impl Side {
    fn new(server: Server) -> Self {
        Self {
            admin: server.connect(),
            users: Vec::new(),
            _server: server,
        }
    }

    fn connect(&mut self) {
        self.users = USERS
            .iter()
            .map(|user| {
                let mut connection = self._server.connect();
                connection.call(&["AUTH", user, "any"]).expect("a reply");
                connection
            })
            .collect();
    }
}

struct Pair {
    reference: Side,
    subject: Side,
    categories: Categories,
}

/// The commands and subcommands of Redis's categories.
struct Categories(BTreeMap<String, Vec<String>>);

impl Categories {
    fn of(server: &mut Connection) -> Self {
        let mut names = |command: &str| match server.call(&words(command)).expect("a reply") {
            Value::Array(names) => names.iter().map(plain).collect::<Vec<_>>(),
            other => panic!("{command}: {}", render(&other)),
        };
        let categories = names("ACL CAT");
        let mut all: BTreeMap<_, _> = categories
            .into_iter()
            .map(|category| (category.clone(), names(&format!("ACL CAT {category}"))))
            .collect();
        let every = all.values().flatten().cloned().collect();
        all.insert("all".into(), every);
        Self(all)
    }

    /// What rules allow, which Redis shows: commands, subcommands, and commands with a first argument.
    fn allowed(&self, rules: &str) -> BTreeSet<String> {
        let mut allowed = BTreeSet::new();
        for rule in rules.split(' ') {
            let (sign, name) = rule.split_at(1);
            let named = [name.to_owned()];
            let commands = match name.strip_prefix('@') {
                Some(category) => &self.0[category][..],
                None => &named,
            };
            let belongs = |one: &String| commands.iter().any(|command| is_within(one, command));
            match sign {
                "+" => {
                    allowed.extend(commands.iter().cloned());
                    allowed.extend(self.0["all"].iter().filter(|one| belongs(one)).cloned());
                }
                _ => allowed.retain(|one| !belongs(one)),
            }
        }
        // Since 7.2, it has other categories.
        allowed.remove("wait");
        allowed
    }
}

/// True for a command itself, its subcommands, and the command with a first argument.
fn is_within(one: &str, command: &str) -> bool {
    let rest = one.strip_prefix(command);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('|'))
}

fn plain(value: &Value) -> String {
    render(value).trim_matches('"').to_owned()
}

impl Pair {
    /// Sends a command of the administrator to both; returns both replies, the reference's first.
    fn ask(&mut self, words: &[Vec<u8>]) -> (Value, Value) {
        let theirs = self.reference.admin.call(words).expect("a reply");
        (theirs, self.subject.admin.call(words).expect("a reply"))
    }

    fn must_agree(&mut self, words: &[Vec<u8>]) -> Value {
        let (theirs, ours) = self.ask(words);
        assert_eq!(render(&ours), render(&theirs), "{}", shown(words));
        ours
    }

    fn as_user(&mut self, user: usize, words: &[Vec<u8>]) -> (Value, Value) {
        let theirs = self.reference.users[user].call(words).expect("a reply");
        let ours = self.subject.users[user].call(words).expect("a reply");
        (theirs, ours)
    }
}

fn shown(words: &[Vec<u8>]) -> String {
    let words: Vec<_> = words
        .iter()
        .map(|word| word.escape_ascii().to_string())
        .collect();
    words.join(" ")
}

fn words(command: &str) -> Vec<Vec<u8>> {
    command.split(' ').map(Vec::from).collect()
}

fn pattern(random: &mut Random) -> String {
    let keys = [
        "key", "k2", "k3", "k*", "k?", "other:*", "*", "", "[a-k]*", "*2", "counter", "a", "a*",
        "ab", "b",
    ];
    (*random.pick(&keys)).to_owned()
}

/// The name of a command, subcommand or first argument, mostly one that exists.
fn command_name(random: &mut Random) -> String {
    let all = [
        "get|x",
        "select|0",
        "config|get",
        "client|kill",
        "memory|usage",
        "object|encoding",
        "debug|sleep",
        "acl|whoami",
        "client|id|x",
        "nosuch",
        "client|nosuch",
        "xgroup",
        "cluster",
        "geoadd",
        "config|",
    ];
    if random.one_in(4) {
        return (*random.pick(&all)).to_owned();
    }
    let picked: &&str = random.pick(MORE);
    let command = words(picked);
    let name = String::from_utf8_lossy(&command[0]).to_lowercase();
    match command.get(1).filter(|_| random.one_in(6)) {
        Some(first) if !first.is_empty() => {
            format!("{name}|{}", String::from_utf8_lossy(first).to_lowercase())
        }
        _ => name,
    }
}

fn selector_rule(random: &mut Random) -> String {
    let sign = if random.one_in(3) { '-' } else { '+' };
    match random.below(20) {
        0..6 => format!("{sign}{}", command_name(random)),
        6..10 => format!("{sign}@{}", random.pick(CATEGORIES)),
        10..13 => format!("~{}", pattern(random)),
        13 => format!("%R~{}", pattern(random)),
        14 => format!("%W~{}", pattern(random)),
        15..17 => format!("&{}", pattern(random)),
        17 => (*random.pick(&[
            "allkeys",
            "resetkeys",
            "allchannels",
            "resetchannels",
            "nocommands",
            "allcommands",
        ]))
        .to_owned(),
        18 => (*random.pick(&[
            "%RR~x", "%~x", "%", "%RWx", "+", "-", "nonsense", "+@", "~a b", "&a b",
        ]))
        .to_owned(),
        _ => String::from("+@all"),
    }
}

fn rule(random: &mut Random) -> String {
    match random.below(12) {
        0 => (*random.pick(&[
            "on",
            "off",
            "nopass",
            "resetpass",
            "reset",
            "clearselectors",
            "sanitize-payload",
            "skip-sanitize-payload",
        ]))
        .to_owned(),
        1 => format!("{}{}", random.pick(&["<", ">"]), random.pick(&["a", "b"])),
        2 => (*random.pick(&["#x", "!", "(", ")", "(+get", "()"])).to_owned(),
        3 | 4 => {
            let rules: Vec<_> = (0..random.below(5))
                .map(|_| selector_rule(random))
                .collect();
            format!("({})", rules.join(" "))
        }
        _ => selector_rule(random),
    }
}

/// The errors in a reply which say that the user may not do something. Everything else depends on the data.
fn refusals(reply: &Value) -> Vec<String> {
    let signs = [
        "NOPERM",
        "The user executing the script",
        "insufficient ACL",
        "EXECABORT",
    ];
    match reply {
        Value::Error(text) => {
            let text = String::from_utf8_lossy(text).into_owned();
            let is_refusal = signs.iter().any(|sign| text.contains(sign));
            is_refusal.then_some(text).into_iter().collect()
        }
        Value::Array(values) => values.iter().flat_map(refusals).collect(),
        _ => Vec::new(),
    }
}

/// True if one of both servers lacks the command.
fn is_lacking((theirs, ours): &(Value, Value)) -> bool {
    [theirs, ours].iter().any(|reply| {
        let text = render(reply);
        [
            "unknown command",
            "unknown subcommand",
            "' not found",
            "Unknown Redis command",
            "Invalid command passed",
        ]
        .iter()
        .any(|sign| text.contains(sign))
    })
}

/// A field of a reply to ACL GETUSER.
fn field(user: &Value, name: &str) -> Value {
    let Value::Array(fields) = user else {
        panic!("{}", render(user));
    };
    let pair = fields
        .chunks(2)
        .find(|pair| pair[0] == Value::Bulk(name.into()));
    pair.expect("a field")[1].clone()
}

/// Makes a user and compares what both servers show for it.
fn set_user(pair: &mut Pair, random: &mut Random, user: &str) {
    let mut command = words(&format!("ACL SETUSER {user}"));
    command.extend((0..1 + random.below(8)).map(|_| rule(random).into_bytes()));
    pair.must_agree(&command);
    let (theirs, ours) = pair.ask(&words(&format!("ACL GETUSER {user}")));
    if matches!(theirs, Value::Null(_)) || matches!(ours, Value::Null(_)) {
        assert_eq!(theirs, ours, "{}", shown(&command));
        return;
    }
    for name in ["flags", "passwords", "keys", "channels"] {
        assert_eq!(
            // Redis shows both patterns alike, and then can't load what it has saved.
            render(&field(&ours, name)).replace("%RW~*", "~*"),
            render(&field(&theirs, name)),
            "{name}: {}",
            shown(&command)
        );
    }
    // The text about commands may differ, since each server has commands that the other lacks. It must give Redis the same rights.
    let Value::Bulk(rules) = field(&ours, "commands") else {
        panic!("{}", render(&ours));
    };
    let rules = String::from_utf8(rules).expect("text");
    let mut again = words("ACL SETUSER again reset");
    for rule in rules.split(' ') {
        let probe = [words("ACL SETUSER probe"), words(rule)].concat();
        if !matches!(pair.reference.admin.call(&probe), Ok(Value::Error(_))) {
            again.push(rule.into());
        }
    }
    pair.reference.admin.call(&again).expect("a reply");
    let shown_again = pair
        .reference
        .admin
        .call(&words("ACL GETUSER again"))
        .expect("a reply");
    let rights = |user: &Value| {
        let shown = render(&field(user, "commands"));
        pair.categories.allowed(shown.trim_matches('"'))
    };
    assert_eq!(
        rights(&shown_again),
        rights(&theirs),
        "{}: {rules}",
        shown(&command)
    );
}

fn random_command(rows: &[Vec<Node>], random: &mut Random) -> Vec<Vec<u8>> {
    match random.one_in(2) {
        true => {
            let picked: &&str = random.pick(MORE);
            words(picked)
        }
        false => {
            let row: &Vec<Node> = random.pick(rows);
            grammar::generate(row, random)
        }
    }
}

/// True for a number that only C's `atoi` reads. Redis finds keys by such a number of keys, and then refuses the command for its keys, while it
/// would refuse the number itself otherwise.
fn is_sloppy_number(argument: &[u8]) -> bool {
    let is_part = |byte: &u8| byte.is_ascii_whitespace() || b"+-".contains(byte);
    let digits = argument.iter().position(|byte| !is_part(byte));
    let starts_with_digit = digits.is_some_and(|at| argument[at].is_ascii_digit());
    starts_with_digit
        && std::str::from_utf8(argument).is_ok_and(|text| {
            text.parse::<i64>()
                .is_ok_and(|number| number.to_string() != text)
                || text.parse::<i64>().is_err()
        })
}

/// True for PFMERGE without sources. Redis 7.0 takes it for malformed, and lets it write to any key.
fn is_merge_of_nothing(command: &[Vec<u8>]) -> bool {
    command.len() == 2 && command[0].eq_ignore_ascii_case(b"PFMERGE")
}

/// True for a read of streams with an id too few or too many, which is an error. Redis checks the keys among them before.
fn is_unbalanced(command: &[Vec<u8>]) -> bool {
    let mut behind = command.rsplit(|word| word.eq_ignore_ascii_case(b"STREAMS"));
    let reads = [&b"XREAD"[..], b"XREADGROUP"];
    reads
        .iter()
        .any(|name| command[0].eq_ignore_ascii_case(name))
        && behind.next().is_some_and(|words| words.len() % 2 == 1)
}

/// True for XREADGROUP without the word GROUP, which is an error. Redis looks for its keys behind the fourth word only.
fn has_no_group(command: &[Vec<u8>]) -> bool {
    command[0].eq_ignore_ascii_case(b"XREADGROUP")
        && command
            .get(1)
            .is_none_or(|word| !word.eq_ignore_ascii_case(b"GROUP"))
}

/// True for a read of streams whose option takes STREAMS for its number, which is an error. Redis finds keys behind that word.
fn has_no_number(command: &[Vec<u8>]) -> bool {
    command.windows(2).any(|words| {
        let is = |at: usize, word: &str| words[at].eq_ignore_ascii_case(word.as_bytes());
        (is(0, "COUNT") || is(0, "BLOCK")) && is(1, "STREAMS")
    })
}

/// True for a command that is in other categories since Redis 7.2: WAIT, which is now `blocking`.
fn has_newer_categories(command: &[Vec<u8>]) -> bool {
    command[0].eq_ignore_ascii_case(b"WAIT")
}

/// Tries a command as a user and runs it, if that does no harm.
fn try_and_run(pair: &mut Pair, random: &mut Random, user: usize, command: &[Vec<u8>]) {
    let differs = [
        is_merge_of_nothing,
        is_unbalanced,
        has_no_group,
        has_no_number,
        has_newer_categories,
    ];
    if differs.iter().any(|differs| differs(command)) {
        return;
    }
    let tried = [
        words(&format!("ACL DRYRUN {}", USERS[user])),
        command.to_vec(),
    ]
    .concat();
    let replies = pair.ask(&tried);
    if is_lacking(&replies) || command.iter().any(|argument| is_sloppy_number(argument)) {
        return;
    }
    assert_eq!(render(&replies.1), render(&replies.0), "{}", shown(&tried));
    let has_enough = !matches!(replies.0, Value::Error(_));
    let is_harmless = !ONLY_TRIED
        .iter()
        .any(|name| command[0].eq_ignore_ascii_case(name.as_bytes()));
    if !is_harmless {
        return;
    }
    let script = |text: &str| {
        let mut words = vec![b"EVAL".to_vec(), text.into(), b"0".to_vec()];
        words.extend_from_slice(command);
        words
    };
    let ways: Vec<Vec<Vec<u8>>> = match random.below(4) {
        0 => vec![
            words("MULTI"),
            command.to_vec(),
            words("EXEC"),
            words("DISCARD"),
        ],
        1 if newer::is_alike_in_scripts(command) => {
            vec![script("return redis.pcall(unpack(ARGV))")]
        }
        // It does not check the number of arguments, and with too few, Redis looks for keys behind their end.
        2 if has_enough => vec![script("return redis.acl_check_cmd(unpack(ARGV))")],
        _ => vec![command.to_vec()],
    };
    for way in ways {
        let replies = pair.as_user(user, &way);
        if is_lacking(&replies) {
            continue;
        }
        let (theirs, ours) = replies;
        assert_eq!(
            refusals(&ours),
            refusals(&theirs),
            "as {}: {}\n{}\n{}",
            USERS[user],
            shown(&way),
            render(&ours),
            render(&theirs)
        );
        if way
            .get(1)
            .is_some_and(|text| text.starts_with(b"return redis.acl_check_cmd"))
        {
            assert_eq!(
                render(&ours),
                render(&theirs),
                "as {}: {}",
                USERS[user],
                shown(&way)
            );
        }
    }
}

#[test]
fn random_users_may_run_the_same_commands_as_in_redis() {
    let mut random = common::seeded();
    let sequences = random::number_from("DAMSELFLY_USERS_SEQUENCES");
    let sequences = sequences.map_or(SEQUENCES, |number| number as usize);
    let reference = Server::start(&Program::reference(), &["--enable-debug-command", "yes"]);
    let mut reference = Side::new(reference.expect("redis-server starts"));
    let mut pair = Pair {
        categories: Categories::of(&mut reference.admin),
        reference,
        subject: Side::new(Server::subject("2", "8")),
    };
    let rows: Vec<_> = rows::all().map(|row| grammar::parse(row.grammar)).collect();
    for sequence in 0..sequences {
        println!("sequence {sequence}");
        pair.ask(&words("FLUSHALL"));
        for user in USERS {
            let delete = format!("ACL DELUSER {user}");
            pair.must_agree(&words(&delete));
            for _ in 0..1 + random.below(3) {
                set_user(&mut pair, &mut random, user);
            }
            pair.must_agree(&words(&format!("ACL SETUSER {user} on nopass")));
        }
        pair.reference.connect();
        pair.subject.connect();
        for step in 0..COMMANDS {
            let user = random.below(USERS.len());
            if step % 10 == 9 {
                // The connections stay, so they must notice.
                set_user(&mut pair, &mut random, USERS[user]);
                pair.must_agree(&words(&format!("ACL SETUSER {} on", USERS[user])));
            }
            let command = random_command(&rows, &mut random);
            try_and_run(&mut pair, &mut random, user, &command);
        }
    }
}
