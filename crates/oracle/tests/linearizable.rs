//! Many concurrent clients on few keys: for every history, some order of the calls must explain all replies.
//!
//! These tests were seen to fail with each of these changes, made by hand and reverted:
//!
//! - the engine built with the planted bug `sections` (other clients run in the middle of a section): all tests, at once;
//! - `Lock::try_acquire` always succeeds: all tests within 80 histories, by a history without an order or by a connection lost
//!   to a panic of the server;
//! - the server built with the planted bug `scripts` (a script is retried without a rollback): the tests with scripts, within
//!   four histories, in three of three runs;
//! - `lock_many` locks only the first of its shards: the tests with several keys, in five of six runs.
//!
//! `DAMSELFLY_LINEARIZABLE_S` is how many seconds each test runs. `DAMSELFLY_SEED` repeats the same commands; how the threads
//! interleave is still random.

use damselfly_oracle::connection::{Connection, request};
use damselfly_oracle::history::{Call, History, Model, check};
use damselfly_oracle::random::{self, Random};
use damselfly_oracle::server::{Program, Server};
use damselfly_protocol::client::{NullKind, Value};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const KEYS: usize = 4;
const CLIENTS: usize = 6;
/// Calls of each client in one history.
const CALLS: usize = 120;
/// The most calls that a client pipelines.
const PIPELINE_MAX: usize = 3;
const SECONDS: u64 = 2;

type Text = &'static str;

#[derive(Debug, Clone)]
enum Command {
    Get(usize),
    Set(usize, Text),
    Incr(usize),
    Append(usize, Text),
    GetDel(usize),
    SetNx(usize, Text),
    MGet(Vec<usize>),
    MSet(Vec<(usize, Text)>),
    MSetNx(Vec<(usize, Text)>),
    Rename(usize, usize),
    Del(Vec<usize>),
    Exists(Vec<usize>),
    DbSize,
    FlushAll,
    /// A transaction.
    Multi(Vec<Command>),
    /// A script of several commands, some of whose keys it declares.
    Script {
        by: By,
        commands: Vec<Command>,
        declared: Vec<usize>,
    },
    /// A script that increments one of `keys` keys, chosen by the length of a value.
    Follow {
        by: By,
        from: usize,
        keys: usize,
        declared: Vec<usize>,
    },
}
use Command::{
    Append, DbSize, Del, Exists, FlushAll, Follow, Get, GetDel, Incr, MGet, MSet, MSetNx, Multi,
    Rename, Script, Set, SetNx,
};

/// How a script runs.
#[derive(Debug, Clone, Copy)]
enum By {
    Eval,
    Function,
}

/// A script that runs the commands in its first argument. The pauses let other clients run in between.
const RUN: &str = "local replies = {}
for i, words in ipairs(cjson.decode(ARGV[1])) do
  replies[i] = redis.pcall(unpack(words))
  for pause = 1, 300 do end
end
return replies";
const FOLLOW: &str = "local value = redis.call('GET', 'key:' .. ARGV[1]) or ''
for pause = 1, 300 do end
return redis.pcall('INCR', 'key:' .. #value % tonumber(ARGV[2]))";

fn library() -> String {
    format!(
        "#!lua name=scripts\nredis.register_function('run', function(KEYS, ARGV) {RUN} end)\nredis.register_function('follow', function(KEYS, ARGV) {FOLLOW} end)"
    )
}

/// The values of the keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Strings([Option<String>; KEYS]);

fn ok() -> Value {
    Value::Simple(b"OK".to_vec())
}

fn error(text: &str) -> Value {
    Value::Error(text.as_bytes().to_vec())
}

fn count(number: usize) -> Value {
    Value::Integer(i64::try_from(number).expect("there are few keys"))
}

fn bulk(text: Option<&String>) -> Value {
    match text {
        Some(text) => Value::Bulk(text.clone().into_bytes()),
        None => Value::Null(NullKind::Bulk),
    }
}

impl Strings {
    fn set_all(&mut self, pairs: &[(usize, Text)]) {
        for &(key, text) in pairs {
            self.0[key] = Some(text.into());
        }
    }

    fn incr(&mut self, key: usize) -> Value {
        let text = self.0[key].as_deref().unwrap_or("0");
        // A text counts as a number only in the form in which the number is printed.
        let number = text
            .parse::<i64>()
            .ok()
            .filter(|number| number.to_string() == text);
        match number.map(|number| number.checked_add(1)) {
            None => error("ERR value is not an integer or out of range"),
            Some(None) => error("ERR increment or decrement would overflow"),
            Some(Some(sum)) => {
                self.0[key] = Some(sum.to_string());
                Value::Integer(sum)
            }
        }
    }
}

impl Model for Strings {
    type Operation = Command;
    type Reply = Value;

    fn apply(&mut self, command: &Command) -> Value {
        match command {
            Get(key) => bulk(self.0[*key].as_ref()),
            Set(key, text) => {
                self.set_all(&[(*key, text)]);
                ok()
            }
            Incr(key) => self.incr(*key),
            Append(key, text) => {
                let value = self.0[*key].get_or_insert_default();
                value.push_str(text);
                count(value.len())
            }
            GetDel(key) => bulk(self.0[*key].take().as_ref()),
            SetNx(key, text) => {
                let free = self.0[*key].is_none();
                if free {
                    self.set_all(&[(*key, text)]);
                }
                count(free.into())
            }
            MGet(keys) => {
                Value::Array(keys.iter().map(|&key| bulk(self.0[key].as_ref())).collect())
            }
            MSet(pairs) => {
                self.set_all(pairs);
                ok()
            }
            MSetNx(pairs) => {
                let free = pairs.iter().all(|&(key, _)| self.0[key].is_none());
                if free {
                    self.set_all(pairs);
                }
                count(free.into())
            }
            Rename(from, to) => match self.0[*from].take() {
                None => error("ERR no such key"),
                value => {
                    self.0[*to] = value;
                    ok()
                }
            },
            Del(keys) => count(keys.iter().filter_map(|&key| self.0[key].take()).count()),
            Exists(keys) => count(keys.iter().filter(|&&key| self.0[key].is_some()).count()),
            DbSize => count(self.0.iter().flatten().count()),
            FlushAll => {
                *self = Self::default();
                ok()
            }
            Follow { from, keys, .. } => {
                let len = self.0[*from].as_ref().map_or(0, String::len);
                self.incr(len % keys)
            }
            Multi(commands) | Script { commands, .. } => {
                Value::Array(commands.iter().map(|command| self.apply(command)).collect())
            }
        }
    }

    fn is_inert(command: &Command, reply: &Value) -> bool {
        match command {
            Get(_) | MGet(_) | Exists(_) | DbSize => true,
            SetNx(..) | MSetNx(_) | Del(_) => *reply == count(0),
            GetDel(_) => *reply == bulk(None),
            Incr(_) | Rename(..) | Follow { .. } => matches!(reply, Value::Error(_)),
            Set(..) | Append(..) | MSet(_) | FlushAll => false,
            Multi(commands) | Script { commands, .. } => match reply {
                Value::Array(replies) => commands
                    .iter()
                    .zip(replies)
                    .all(|(command, reply)| Self::is_inert(command, reply)),
                _ => false,
            },
        }
    }

    fn keys(command: &Command) -> Vec<usize> {
        match command {
            Get(key) | Set(key, _) | Incr(key) | Append(key, _) | GetDel(key) | SetNx(key, _) => {
                vec![*key]
            }
            MGet(keys) | Del(keys) | Exists(keys) => keys.clone(),
            MSet(pairs) | MSetNx(pairs) => pairs.iter().map(|&(key, _)| key).collect(),
            Rename(from, to) => vec![*from, *to],
            Follow { from, keys, .. } => (0..*keys).chain([*from]).collect(),
            DbSize | FlushAll => (0..KEYS).collect(),
            Multi(commands) | Script { commands, .. } => {
                commands.iter().flat_map(Self::keys).collect()
            }
        }
    }
}

/// The requests for a command. Its reply is the one to the last request; those before it are `QUEUED` and the like.
fn requests(command: &Command) -> Vec<Vec<String>> {
    let Multi(commands) = command else {
        return vec![words(command)];
    };
    let mut all = vec![vec!["MULTI".into()]];
    all.extend(commands.iter().map(words));
    all.push(vec!["EXEC".into()]);
    all
}

fn words(command: &Command) -> Vec<String> {
    let key = |key: usize| format!("key:{key}");
    let keys = |name: &str, keys: &[usize]| {
        let mut words = vec![name.to_string()];
        words.extend(keys.iter().map(|&number| key(number)));
        words
    };
    let pairs = |name: &str, pairs: &[(usize, Text)]| {
        let mut words = vec![name.to_string()];
        words.extend(
            pairs
                .iter()
                .flat_map(|&(number, text)| [key(number), text.to_string()]),
        );
        words
    };
    match command {
        Get(key) => keys("GET", &[*key]),
        Set(key, text) => pairs("SET", &[(*key, text)]),
        Incr(key) => keys("INCR", &[*key]),
        Append(key, text) => pairs("APPEND", &[(*key, text)]),
        GetDel(key) => keys("GETDEL", &[*key]),
        SetNx(key, text) => pairs("SETNX", &[(*key, text)]),
        MGet(all) => keys("MGET", all),
        MSet(all) => pairs("MSET", all),
        MSetNx(all) => pairs("MSETNX", all),
        Rename(from, to) => keys("RENAME", &[*from, *to]),
        Del(all) => keys("DEL", all),
        Exists(all) => keys("EXISTS", all),
        DbSize => keys("DBSIZE", &[]),
        FlushAll => keys("FLUSHALL", &[]),
        Script {
            by,
            commands,
            declared,
        } => {
            let listed = commands.iter().map(|command| {
                let quoted = words(command).into_iter().map(|word| format!("{word:?}"));
                format!("[{}]", quoted.collect::<Vec<_>>().join(","))
            });
            let listed = format!("[{}]", listed.collect::<Vec<_>>().join(","));
            script(*by, ("run", RUN), declared, &[listed])
        }
        Follow {
            by,
            from,
            keys,
            declared,
        } => {
            let arguments = [from.to_string(), keys.to_string()];
            script(*by, ("follow", FOLLOW), declared, &arguments)
        }
        Multi(_) => panic!("transactions can't be nested"),
    }
}

fn script(by: By, (name, code): (&str, &str), keys: &[usize], arguments: &[String]) -> Vec<String> {
    let mut words: Vec<String> = match by {
        By::Eval => vec!["EVAL".into(), code.into()],
        By::Function => vec!["FCALL".into(), name.into()],
    };
    words.push(keys.len().to_string());
    words.extend(keys.iter().map(|key| format!("key:{key}")));
    words.extend_from_slice(arguments);
    words
}

/// A command on one of `keys` keys.
fn single(random: &mut Random, keys: usize) -> Command {
    const TEXTS: &[Text] = &[
        "",
        "0",
        "1",
        "7",
        "-3",
        "x",
        "42",
        "too long to be a number",
    ];
    let key = random.below(keys);
    let (text, tail) = (*random.pick(TEXTS), *random.pick(&["1", "2", "a"]));
    match random.below(10) {
        0..3 => Get(key),
        3 => Set(key, text),
        4 | 5 => Incr(key),
        6 | 7 => Append(key, tail),
        8 => GetDel(key),
        _ => SetNx(key, text),
    }
}

/// A command on any of `keys` keys, usually on several.
fn mixed(random: &mut Random, keys: usize) -> Command {
    let mut all: Vec<usize> = (0..keys).collect();
    random.shuffle(&mut all);
    all.truncate(2 + random.below(keys - 1));
    let text = *random.pick(&["1", "2", "3", "b", "c"]);
    let pairs = || all.iter().map(|&key| (key, text)).collect();
    match random.below(24) {
        0..4 => MSet(pairs()),
        4..6 => MSetNx(pairs()),
        6..11 => MGet(all),
        11..14 => Rename(all[0], all[1]),
        14..16 => Del(all),
        16 => Exists(all),
        17 => DbSize,
        18 if random.one_in(4) => FlushAll,
        _ => single(random, keys),
    }
}

/// Lets a client draw commands, send them, some pipelined, and record the replies.
fn play(
    connection: &mut Connection,
    random: &mut Random,
    draw: impl Fn(&mut Random) -> Command,
) -> Vec<Call<Strings>> {
    let mut calls = Vec::new();
    while calls.len() < CALLS {
        let count = 1 + random.below(PIPELINE_MAX);
        let commands: Vec<Command> = (0..count).map(|_| draw(random)).collect();
        let bytes: Vec<u8> = commands
            .iter()
            .flat_map(requests)
            .flat_map(|words| request(&words))
            .collect();
        let started = Instant::now();
        connection.send(&bytes).unwrap();
        for operation in commands {
            for _ in 1..requests(&operation).len() {
                connection.receive().unwrap();
            }
            let reply = connection.receive().unwrap();
            calls.push(Call {
                operation,
                reply,
                started,
                ended: Instant::now(),
            });
        }
    }
    calls
}

/// Plays histories against a server with this many threads and checks each.
fn prove(threads: &str, draw: impl Fn(&mut Random, usize) -> Command + Sync) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = random::number_from("DAMSELFLY_SEED").unwrap_or(now.subsec_nanos().into());
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let seconds = random::number_from("DAMSELFLY_LINEARIZABLE_S").unwrap_or(SECONDS);
    let arguments = ["--threads", threads, "--shards", "2"];
    let server = Server::start(&Program::subject(), &arguments).unwrap();
    let mut connections: Vec<Connection> = (0..CLIENTS).map(|_| server.connect()).collect();
    let loaded = connections[0].call(&["FUNCTION", "LOAD", &library()]);
    assert_eq!(loaded.unwrap(), Value::Bulk(b"scripts".to_vec()));
    let (start, mut histories) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(seconds) {
        let keys = 2 + random.below(KEYS - 1);
        assert_eq!(connections[0].call(&["FLUSHALL"]).unwrap(), ok());
        let history: History<Strings> = std::thread::scope(|scope| {
            let clients: Vec<_> = connections
                .iter_mut()
                .map(|connection| {
                    let (mut random, draw) = (Random::new(random.bits()), &draw);
                    scope.spawn(move || play(connection, &mut random, |random| draw(random, keys)))
                })
                .collect();
            let joined = clients.into_iter().map(|client| client.join());
            joined.collect::<Result<_, _>>().unwrap()
        });
        if let Err(rejection) = check(&Strings::default(), &history) {
            panic!("history {histories} of seed {seed}: {rejection}");
        }
        histories += 1;
    }
    println!("{histories} histories of {} calls", CLIENTS * CALLS);
    assert!(histories > 0);
}

/// Usually a transaction.
fn transactions(random: &mut Random, keys: usize) -> Command {
    if random.one_in(3) {
        return mixed(random, keys);
    }
    let count = random.below(5);
    Multi((0..count).map(|_| mixed(random, keys)).collect())
}

/// A script on any of `keys` keys that declares all of them, some, none, or others.
fn script_on(random: &mut Random, keys: usize) -> Command {
    let by = *random.pick(&[By::Eval, By::Function]);
    let mut declared: Vec<usize> = (0..keys).collect();
    random.shuffle(&mut declared);
    if random.one_in(4) {
        declared.truncate(random.below(2));
        let from = random.below(keys);
        return Follow {
            by,
            from,
            keys,
            declared,
        };
    }
    let count = 1 + random.below(4);
    let commands: Vec<Command> = (0..count).map(|_| mixed(random, keys)).collect();
    if random.one_in(3) {
        declared = commands.iter().flat_map(Strings::keys).collect();
    } else {
        declared.truncate(random.below(keys + 1));
    }
    Script {
        by,
        commands,
        declared,
    }
}

/// Scripts, alone and in transactions, mixed with other commands.
fn scripts(random: &mut Random, keys: usize) -> Command {
    match random.below(8) {
        0..4 => script_on(random, keys),
        4 => {
            let command = |random: &mut Random| match random.below(2) {
                0 => script_on(random, keys),
                _ => mixed(random, keys),
            };
            Multi((0..random.below(4)).map(|_| command(random)).collect())
        }
        5 => transactions(random, keys),
        _ => mixed(random, keys),
    }
}

#[test]
fn commands_on_one_key_with_two_threads() {
    prove("2", single);
}

#[test]
fn commands_on_one_key_with_four_threads() {
    prove("4", single);
}

#[test]
fn commands_on_several_keys_with_two_threads() {
    prove("2", mixed);
}

#[test]
fn commands_on_several_keys_with_four_threads() {
    prove("4", mixed);
}

#[test]
fn transactions_with_two_threads() {
    prove("2", transactions);
}

#[test]
fn transactions_with_four_threads() {
    prove("4", transactions);
}

#[test]
fn scripts_with_two_threads() {
    prove("2", scripts);
}

#[test]
fn scripts_with_four_threads() {
    prove("4", scripts);
}
