//! Snapshots of a server that is being changed: each file must show one moment, which lies between the sending of BGSAVE and its
//! reply.
//!
//! Many clients change related keys in different shards, by transactions, scripts and single commands, while the server saves again
//! and again. Some keys are money or tokens, which are only moved, so each file must have all of them; others are a ledger of the
//! changes, so each file must have a prefix of the history. `check` lists the rules.
//!
//! `cargo xtask ci` also runs this with a server built with the planted bug `cut`, which lets other clients run in the middle of the
//! cut; then each test of this file must fail. They were also seen to fail, by hand, if `Capture::save` saves nothing.
//!
//! `DAMSELFLY_SNAPSHOTS_S` is how many seconds each test runs. `DAMSELFLY_SEED` repeats the same commands; how the threads
//! interleave is still random.

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::{
    Saved, call, elements, info, now_ms, say, seeded, set_option, snapshot_path, string,
    wait_for_save,
};
use damselfly_oracle::connection::{Connection, request};
use damselfly_oracle::random::{self, Random};
use damselfly_oracle::server::{Program, Server};
use damselfly_protocol::client::Value as Reply;
use damselfly_value::Value;

const WRITERS: usize = 6;
/// The first writers also push to a queue, from which a blocked client takes.
const QUEUES: usize = 2;
const ACCOUNTS: usize = 60;
/// The initial balance of each account.
const BALANCE: i64 = 1000;
const TOKENS: usize = 4000;
const SEQUENCERS: usize = 3;
/// Keys that a transaction adds to the database that is emptied now and then.
const ITEMS: u64 = 20;
const SECONDS: u64 = 2;
/// The fewest saves of a test.
const SAVES_MIN: usize = 3;

/// Databases: money is in this one and the next one, ...
const BANK: usize = 0;
const LEDGER: usize = 2;
/// ... which is emptied now and then, ...
const ITEMS_DB: usize = 3;
/// ... tokens are in this one and the next one, ...
const VAULT: usize = 4;
/// ... and keys and fields that expire, or are evicted.
const FLEETING: usize = 6;

/// Moves money and writes that to the ledger. Arguments: database, two accounts, amount, sequencer, writer, its number, whether
/// the script fails at the end.
const TRANSFER: &str = "local db, from, to, amount, sequencer, writer, number, fails = unpack(ARGV)
redis.call('SELECT', db)
redis.call('DECRBY', from, amount)
redis.call('INCRBY', to, amount)
redis.call('SELECT', '2')
local place = redis.call('INCR', 'sequencer:' .. sequencer)
redis.call('RPUSH', 'log:' .. writer, number .. ' ' .. sequencer .. ' ' .. place)
redis.call('SET', 'last:' .. writer, number)
redis.call('HSET', 'index:' .. writer, number, place)
redis.call('ZADD', 'ranks:' .. writer, number, number)
if fails == '1' then error('on purpose') end
return place";

/// Moves tokens from one collection to another. Arguments: database, two keys, how many.
const MOVE_TOKENS: &str = "local db, from, to, count = unpack(ARGV)
redis.call('SELECT', db)
local kind, tokens = string.sub(from, 1, 3), {}
if kind == 'set' then tokens = redis.call('SPOP', from, count)
elseif kind == 'lis' then tokens = redis.call('LPOP', from, count) or {}
elseif kind == 'zse' then
  for i, word in ipairs(redis.call('ZPOPMIN', from, count)) do if i % 2 == 1 then tokens[#tokens + 1] = word end end
else
  tokens = redis.call('HRANDFIELD', from, count) or {}
  for i, token in ipairs(tokens) do redis.call('HDEL', from, token) end
end
kind = string.sub(to, 1, 3)
for i, token in ipairs(tokens) do
  if kind == 'set' then redis.call('SADD', to, token)
  elseif kind == 'lis' then redis.call('RPUSH', to, token)
  elseif kind == 'zse' then redis.call('ZADD', to, i, token)
  else redis.call('HSET', to, token, i) end
end
return #tokens";

/// Renames a key by a copy. Arguments: database, two keys.
const COPY_AND_DELETE: &str = "redis.call('SELECT', ARGV[1])
if ARGV[2] ~= ARGV[3] and redis.call('COPY', ARGV[2], ARGV[3]) == 1 then return redis.call('DEL', ARGV[2]) end
return 0";

/// Empties a database of the bank and keeps its sum. Arguments: database, number of accounts, ASYNC or SYNC.
const MERGE_ACCOUNTS: &str = "redis.call('SELECT', ARGV[1])
local sum = 0
for i = 0, tonumber(ARGV[2]) - 1 do sum = sum + (redis.call('GET', 'account:' .. i) or 0) end
redis.call('FLUSHDB', ARGV[3])
return redis.call('SET', 'account:0', string.format('%d', sum))";

const COLLECTIONS: &[&str] = &[
    "set:0", "set:1", "set:2", "list:0", "list:1", "list:2", "zset:0", "zset:1", "hash:0", "hash:1",
];

fn account(number: usize) -> String {
    format!("account:{number}")
}

/// Some are integers, so that sets of them are small.
fn token(number: usize) -> String {
    match number % 3 {
        0 => format!("{}", 100_000 + number),
        _ => format!("token:{number}:{}", "x".repeat(number % 80)),
    }
}

/// The value of a key that may be evicted.
fn cache_value(key: &str) -> String {
    key.repeat(40 + key.len() * 7 % 60)
}

/// What a writer has done, as others see it.
#[derive(Default)]
struct Progress {
    /// The number of its latest transaction, before it was sent.
    sent: AtomicU64,
    /// The number of the latest one that was acknowledged.
    acknowledged: AtomicU64,
    /// The last number that was taken from its queue.
    taken: AtomicU64,
}

/// What all clients share.
#[derive(Default)]
struct World {
    progress: [Progress; WRITERS],
    is_over: AtomicBool,
}

impl World {
    fn all(&self, which: impl Fn(&Progress) -> &AtomicU64) -> Vec<u64> {
        let each = self.progress.iter();
        each.map(|progress| which(progress).load(SeqCst)).collect()
    }
}

struct Writer<'a> {
    world: &'a World,
    connection: Connection,
    random: Random,
    number: usize,
    /// Its last transaction.
    done: u64,
    items: u64,
    pushed: u64,
}

/// A command in words that are separated by blanks.
fn words(command: &str) -> Vec<String> {
    command.split(' ').map(String::from).collect()
}

fn script(code: &str, declared: &[String], arguments: &[String]) -> Vec<String> {
    let mut all = vec!["EVAL".into(), code.into(), declared.len().to_string()];
    all.extend_from_slice(declared);
    all.extend_from_slice(arguments);
    all
}

/// True if the command was done; false if there was too little memory for it. No other error is expected.
fn is_done(reply: &Reply) -> bool {
    match reply {
        Reply::Error(error) if error.starts_with(b"OOM") || error.starts_with(b"EXECABORT") => {
            false
        }
        Reply::Error(error) => {
            let error = error.escape_ascii().to_string();
            let is_expected = error.contains("on purpose") || error == "ERR no such key";
            assert!(is_expected, "{error}");
            true
        }
        _ => true,
    }
}

impl Writer<'_> {
    /// Sends commands at once, and returns the last reply.
    fn send(&mut self, commands: &[Vec<String>]) -> Reply {
        let bytes: Vec<u8> = commands.iter().flat_map(|words| request(words)).collect();
        self.connection.send(&bytes).unwrap();
        let mut last = Reply::Integer(0);
        for _ in commands {
            last = self.connection.receive().unwrap();
        }
        last
    }

    /// Runs a transaction; false if it was refused.
    fn transaction(&mut self, commands: Vec<Vec<String>>) -> bool {
        let mut all = vec![words("MULTI")];
        all.extend(commands);
        all.push(words("EXEC"));
        match self.send(&all) {
            Reply::Array(replies) => {
                let done = replies.iter().filter(|reply| is_done(reply)).count();
                assert!(done == 0 || done == replies.len(), "{replies:?}");
                done > 0
            }
            refused => is_done(&refused),
        }
    }

    /// Runs a command in a database; false if it was refused.
    fn one(&mut self, db: usize, command: Vec<String>) -> bool {
        let reply = self.send(&[words(&format!("SELECT {db}")), command]);
        is_done(&reply)
    }

    /// Moves money and notes that in the ledger, in one of several ways.
    fn transfer(&mut self) {
        let (number, writer) = (self.done + 1, self.number);
        self.world.progress[writer].sent.store(number, SeqCst);
        let random = &mut self.random;
        let (from, to) = (random.below(ACCOUNTS), random.below(ACCOUNTS));
        let (from, to, db) = (account(from), account(to), BANK + random.below(2));
        let (amount, sequencer) = (random.between(1, 50), random.below(SEQUENCERS));
        let fails = u8::from(random.one_in(10));
        let arguments = words(&format!(
            "{db} {from} {to} {amount} {sequencer} {writer} {number} {fails}"
        ));
        let mut declared = vec![from.clone(), to.clone()];
        declared.extend(words(&format!(
            "sequencer:{sequencer} log:{writer} last:{writer} index:{writer} ranks:{writer}"
        )));
        let is_done = match random.below(8) {
            0 => self.one(0, script(TRANSFER, &[], &arguments)),
            1 => self.one(0, script(TRANSFER, &declared, &arguments)),
            // It gets some of the locks at once and the others later, or is rolled back.
            2 => self.one(0, script(TRANSFER, &declared[..2], &arguments)),
            3 => {
                let mut call = words("FCALL transfer 0");
                call.extend(arguments);
                self.one(0, call)
            }
            4 => self.transaction(vec![script(TRANSFER, &[], &arguments)]),
            _ => self.transaction(vec![
                words(&format!("SELECT {db}")),
                words(&format!("DECRBY {from} {amount}")),
                words(&format!("SELECT {LEDGER}")),
                words(&format!("INCR sequencer:{sequencer}")),
                vec![
                    "RPUSH".into(),
                    format!("log:{writer}"),
                    format!("{number} {sequencer} ?"),
                ],
                words(&format!("HSET index:{writer} {number} 0")),
                words(&format!("SET last:{writer} {number}")),
                words(&format!("ZADD ranks:{writer} {number} {number}")),
                words(&format!("SELECT {db}")),
                words(&format!("INCRBY {to} {amount}")),
            ]),
        };
        if is_done {
            self.done = number;
            self.world.progress[writer]
                .acknowledged
                .store(number, SeqCst);
        }
    }

    /// Moves whole accounts and databases.
    fn move_accounts(&mut self) {
        let random = &mut self.random;
        let (from, to) = (random.below(ACCOUNTS), random.below(ACCOUNTS));
        let (from, to, db) = (account(from), account(to), random.below(2));
        let (here, there) = (BANK + db, BANK + 1 - db);
        let command = match random.below(20) {
            0 => words(&format!("SWAPDB {here} {there}")),
            1 => {
                let later = *random.pick(&["ASYNC", "SYNC"]);
                let arguments = words(&format!("{here} {ACCOUNTS} {later}"));
                script(MERGE_ACCOUNTS, &[], &arguments)
            }
            2..8 => words(&format!("RENAMENX {from} {to}")),
            8..14 => words(&format!("MOVE {from} {there}")),
            _ => script(COPY_AND_DELETE, &[], &words(&format!("{here} {from} {to}"))),
        };
        // RENAMENX of an absent key is an error, and changes nothing.
        self.one(here, command);
    }

    /// Moves tokens between collections, which thereby become small or large.
    fn move_tokens(&mut self) {
        let random = &mut self.random;
        let (from, to) = (*random.pick(COLLECTIONS), *random.pick(COLLECTIONS));
        let db = random.below(2);
        let (here, there) = (VAULT + db, VAULT + 1 - db);
        let (one, other) = (random.below(3), random.below(3));
        let (member, side) = (random.below(TOKENS), *random.pick(&["LEFT", "RIGHT"]));
        let many = if random.one_in(4) { 600 } else { 5 };
        let count = 1 + random.below(many);
        let arguments = words(&format!("{here} {from} {to} {count}"));
        let command = match random.below(16) {
            0 => words(&format!("SWAPDB {here} {there}")),
            1 => words(&format!("MOVE {from} {there}")),
            2 if from[..3] == to[..3] => words(&format!("RENAMENX {from} {to}")),
            3 if from[..3] == to[..3] => {
                script(COPY_AND_DELETE, &[], &words(&format!("{here} {from} {to}")))
            }
            4 | 5 => words(&format!("LMOVE list:{one} list:{other} {side} LEFT")),
            6 => words(&format!("BLMOVE list:{one} list:{other} {side} LEFT 0.01")),
            7 | 8 => words(&format!("SMOVE set:{one} set:{other} {}", token(member))),
            9 if one != other => {
                self.transaction(vec![
                    words(&format!("SELECT {here}")),
                    words(&format!("SUNIONSTORE set:{one} set:{one} set:{other}")),
                    words(&format!("DEL set:{other}")),
                ]);
                return;
            }
            10 => script(MOVE_TOKENS, &[from.into(), to.into()], &arguments),
            _ => script(MOVE_TOKENS, &[], &arguments),
        };
        self.one(here, command);
    }

    /// Adds keys to the database that is emptied now and then, and counts them in another one; or empties it.
    fn add_items(&mut self) {
        let empties = self.random.one_in(30);
        let later = *self.random.pick(&["ASYNC", "SYNC"]);
        if empties {
            self.transaction(vec![
                words(&format!("SELECT {ITEMS_DB}")),
                words(&format!("FLUSHDB {later}")),
                words(&format!("SELECT {LEDGER}")),
                words("SET items 0"),
            ]);
            return;
        }
        let (writer, first) = (self.number, self.items);
        self.items += ITEMS;
        let pairs =
            (first..self.items).flat_map(|at| [format!("item:{writer}:{at}"), at.to_string()]);
        let mut add = words("MSET");
        add.extend(pairs);
        self.transaction(vec![
            words(&format!("SELECT {ITEMS_DB}")),
            add,
            words(&format!("SELECT {LEDGER}")),
            words(&format!("INCRBY items {ITEMS}")),
        ]);
    }

    /// Sets a key and fields of a hash that expire at the same time.
    fn set_twins(&mut self) {
        let pair = format!("{}:{}", self.number, self.random.below(20));
        let deadline = now_ms() + self.random.pick(&[20, 200, 1_000_000]);
        let value = format!("{deadline}:{}", self.random.bits());
        self.transaction(vec![
            words(&format!("SELECT {FLEETING}")),
            words(&format!("SET twin:{pair} {value} PXAT {deadline}")),
            words(&format!("DEL fields:{pair}")),
            words(&format!("HSET fields:{pair} stays {value} goes {value}")),
            words(&format!(
                "HPEXPIREAT fields:{pair} {deadline} FIELDS 1 goes"
            )),
        ]);
    }

    fn set_caches(&mut self) {
        for _ in 0..8 {
            let key = format!("cache:{}", self.random.below(8000));
            let value = cache_value(&key);
            self.one(FLEETING, words(&format!("SET {key} {value} EX 1000")));
        }
    }

    fn push(&mut self) {
        let (queue, number) = (self.number, self.pushed + 1);
        if queue < QUEUES
            && self.transaction(vec![
                words(&format!("SELECT {LEDGER}")),
                words(&format!("RPUSH queue:{queue} {number}")),
                words(&format!("SET pushed:{queue} {number}")),
            ])
        {
            self.pushed = number;
        }
    }

    fn run(&mut self) {
        while !self.world.is_over.load(SeqCst) {
            match self.random.below(20) {
                0..6 => self.transfer(),
                6..9 => self.move_accounts(),
                9..13 => self.move_tokens(),
                13 | 14 => self.add_items(),
                15 => self.set_twins(),
                16 => self.set_caches(),
                _ => self.push(),
            }
        }
    }
}

/// Takes from a queue, mostly while that is empty.
fn take(world: &World, connection: &mut Connection, queue: usize) {
    say(connection, &format!("SELECT {LEDGER}"));
    while !world.is_over.load(SeqCst) {
        let reply = say(connection, &format!("BLPOP queue:{queue} 0.02"));
        if let Reply::Array(pair) = reply {
            let number = common::text(&pair[1]).parse().unwrap();
            let before = world.progress[queue].taken.swap(number, SeqCst);
            assert_eq!(number, before + 1, "queue {queue}");
        }
    }
}

fn populate(connection: &mut Connection) {
    let library = format!(
        "#!lua name=bank\nredis.register_function('transfer', function(KEYS, ARGV) {TRANSFER} end)"
    );
    call(connection, &["FUNCTION", "LOAD", &library]);
    for number in 0..ACCOUNTS {
        say(connection, &format!("SET {} {BALANCE}", account(number)));
    }
    say(connection, &format!("SELECT {VAULT}"));
    for number in 0..TOKENS {
        let to = if number < TOKENS / 2 {
            "SADD set:0"
        } else {
            "RPUSH list:0"
        };
        say(connection, &format!("{to} {}", token(number)));
    }
    say(connection, &format!("SELECT {LEDGER}"));
    // Some hashes are large from the start.
    for number in 0..3000 {
        let field = format!("filler:{number}:{}", "x".repeat(30));
        say(connection, &format!("HSET index:0 {field} 1"));
    }
}

/// The bounds of a cut: what each writer had done before it, and might have done.
struct Bounds {
    acknowledged: Vec<u64>,
    taken: Vec<u64>,
    sent: Vec<u64>,
    /// When the save was seen to have ended.
    ended_ms: i64,
    can_evict: bool,
}

/// Checks a file:
///
/// - all money and all tokens are there, once;
/// - a writer's transaction is in all of its keys or in none; what was acknowledged before BGSAVE is there, and what was sent after
///   its reply is not; the places that sequencers gave are those up to the sequencer's number;
/// - keys are as many as were counted since their database was emptied;
/// - a queue has everything that was pushed up to its last element;
/// - a key and a field with the same deadline are both there, or might have expired;
/// - values that might have been evicted are whole.
fn check(saved: &Saved, bounds: &Bounds) {
    check_money_and_tokens(saved);
    check_ledger(saved, bounds);
    let items = saved.database(ITEMS_DB as u64).count();
    assert_eq!(items as i64, saved.integer(LEDGER as u64, "items"), "items");
    for queue in 0..QUEUES {
        let pushed = saved.integer(LEDGER as u64, &format!("pushed:{queue}"));
        let waiting = saved.entry(LEDGER as u64, &format!("queue:{queue}"));
        let waiting: Vec<i64> = waiting.map_or_else(Vec::new, |entry| {
            let each = elements(entry).into_iter();
            each.map(|number| number.parse().unwrap()).collect()
        });
        let first = pushed - waiting.len() as i64 + 1;
        assert!(
            waiting.iter().copied().eq(first..=pushed),
            "{pushed} {waiting:?}"
        );
        assert!(first > bounds.taken[queue] as i64, "{first} was taken");
    }
    check_deadlines(saved, bounds);
    assert_eq!(saved.functions.len(), 1);
}

fn check_money_and_tokens(saved: &Saved) {
    let (mut sum, mut tokens) = (0, Vec::new());
    for db in [BANK, BANK + 1] {
        let balances = saved.database(db as u64);
        sum += balances
            .map(|(_, entry)| string(entry).parse::<i64>().unwrap())
            .sum::<i64>();
    }
    assert_eq!(sum, BALANCE * ACCOUNTS as i64, "money");
    for db in [VAULT, VAULT + 1] {
        tokens.extend(
            saved
                .database(db as u64)
                .flat_map(|(_, entry)| elements(entry)),
        );
    }
    assert_eq!(tokens.len(), TOKENS, "tokens");
    let tokens: BTreeSet<String> = tokens.into_iter().collect();
    assert!(
        (0..TOKENS).all(|number| tokens.contains(&token(number))),
        "tokens"
    );
}

fn check_ledger(saved: &Saved, bounds: &Bounds) {
    let db = LEDGER as u64;
    let mut places: Vec<(i64, BTreeSet<i64>)> = vec![Default::default(); SEQUENCERS];
    for writer in 0..WRITERS {
        let last = saved.integer(db, &format!("last:{writer}"));
        let (least, most) = (bounds.acknowledged[writer], bounds.sent[writer]);
        assert!(
            (least as i64..=most as i64).contains(&last),
            "writer {writer}: {last} of {least} to {most}"
        );
        let all = |name: &str| {
            let entry = saved.entry(db, &format!("{name}:{writer}"));
            entry.map_or_else(Vec::new, elements)
        };
        let mut next = 1;
        for line in all("log") {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(words[0], next.to_string(), "writer {writer}");
            next += 1;
            let (count, given) = &mut places[words[1].parse::<usize>().unwrap()];
            *count += 1;
            if words[2] != "?" {
                assert!(given.insert(words[2].parse().unwrap()), "{line}");
            }
        }
        assert_eq!(next, last + 1, "writer {writer}: log");
        let index = all("index");
        let fields = index.iter().filter(|field| !field.starts_with("filler"));
        assert_eq!(fields.count() as i64, last, "writer {writer}: index");
        let ranks = all("ranks").into_iter();
        let ranks: Vec<i64> = ranks.map(|rank| rank.parse().unwrap()).collect();
        assert!(ranks.iter().copied().eq(1..=last), "writer {writer}: ranks");
    }
    for (sequencer, (count, given)) in places.iter().enumerate() {
        let highest = saved.integer(db, &format!("sequencer:{sequencer}"));
        assert_eq!(*count, highest, "sequencer {sequencer}");
        assert!(
            given.last().is_none_or(|last| *last <= highest),
            "{given:?}"
        );
    }
}

fn check_deadlines(saved: &Saved, bounds: &Bounds) {
    for (key, entry) in saved.database(FLEETING as u64) {
        if key.starts_with("cache:") {
            assert!(string(entry) == cache_value(key), "{key}");
            continue;
        }
        let Some(pair) = key.strip_prefix("fields:") else {
            continue;
        };
        let Value::Hash(hash) = entry.view().value() else {
            panic!("{key} is no hash");
        };
        let (mut stays, mut goes) = (None, None);
        hash.for_each(|pair| {
            let value = String::from_utf8(pair.value.to_vec()).unwrap();
            match &pair.field.to_vec()[..] {
                b"stays" => stays = Some(value),
                _ => goes = Some((value, pair.deadline_ms.unwrap())),
            }
        });
        let stays = stays.unwrap();
        let deadline: i64 = stays.split(':').next().unwrap().parse().unwrap();
        let twin = saved.entry(FLEETING as u64, &format!("twin:{pair}"));
        let twin = twin.map(|entry| (string(entry), entry.view().deadline_ms().unwrap()));
        let expected = Some((stays, deadline));
        let may_be_gone = deadline <= bounds.ended_ms;
        assert!(goes == expected || may_be_gone && goes.is_none(), "{key}");
        let may_be_gone = may_be_gone || bounds.can_evict;
        assert!(
            twin == expected || may_be_gone && twin.is_none(),
            "{key}: {twin:?}"
        );
    }
}

/// Saves again and again, and checks each file.
fn save_again_and_again(server: &Server, world: &World, random: &mut Random, can_evict: bool) {
    let seconds = random::number_from("DAMSELFLY_SNAPSHOTS_S").unwrap_or(SECONDS);
    let mut connection = server.connect();
    let path = snapshot_path(&mut connection);
    let (start, mut saves, mut keys) = (Instant::now(), 0, 0);
    while saves < SAVES_MIN || start.elapsed() < Duration::from_secs(seconds) {
        let compression = *random.pick(&["yes", "no"]);
        set_option(&mut connection, "rdbcompression", compression);
        // A slow save meets more changes.
        let delay_us = *random.pick(&["0", "0", "20", "100"]);
        set_option(&mut connection, "rdb-key-save-delay", delay_us);
        let acknowledged = world.all(|progress| &progress.acknowledged);
        let taken = world.all(|progress| &progress.taken);
        let command = *random.pick(&["BGSAVE", "BGSAVE", "BGSAVE", "SAVE"]);
        say(&mut connection, command);
        let sent = world.all(|progress| &progress.sent);
        assert!(wait_for_save(&mut connection), "{}", server.log());
        let bounds = Bounds {
            acknowledged,
            taken,
            sent,
            ended_ms: now_ms(),
            can_evict,
        };
        let saved = Saved::read(&path).unwrap_or_else(|error| panic!("{error}"));
        check(&saved, &bounds);
        saves += 1;
        keys += saved.keys.len();
    }
    let done = world.all(|progress| &progress.acknowledged);
    println!("{saves} saves of {keys} keys; transactions: {done:?}");
    assert!(done.iter().all(|done| *done > 0));
    let evicted = info(&mut connection, "evicted_keys");
    assert_eq!(evicted != "0", can_evict, "{evicted} keys were evicted");
    assert_clean(path.parent().unwrap());
}

/// No temporary file is left.
fn assert_clean(folder: &Path) {
    let names = std::fs::read_dir(folder).unwrap();
    let names: Vec<_> = names.map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "the log and the snapshot: {names:?}");
}

fn prove(threads: &str, shards: &str, can_evict: bool) {
    let mut random = seeded();
    let program = Program::subject();
    let arguments = ["--threads", threads, "--shards", shards, "--save", ""];
    let server = Server::start(&program, &arguments).unwrap();
    let mut connection = server.connect();
    populate(&mut connection);
    if can_evict {
        say(&mut connection, &format!("SELECT {FLEETING}"));
        for number in 0..3000 {
            let key = format!("cache:{number}");
            let words = ["SET", &key, &cache_value(&key), "EX", "1000"];
            call(&mut connection, &words);
        }
        let used: u64 = info(&mut connection, "used_memory").parse().unwrap();
        set_option(&mut connection, "maxmemory-policy", "volatile-lru");
        set_option(
            &mut connection,
            "maxmemory",
            &(used + (100 << 10)).to_string(),
        );
        set_option(&mut connection, "lazyfree-lazy-eviction", "yes");
    }
    let world = World::default();
    std::thread::scope(|scope| {
        // The other clients stop if a check fails.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, SeqCst);
            }
        }
        let _stop = Stop(&world.is_over);
        for number in 0..WRITERS {
            let mut writer = Writer {
                world: &world,
                connection: server.connect(),
                random: Random::new(random.bits()),
                number,
                done: 0,
                items: 0,
                pushed: 0,
            };
            scope.spawn(move || writer.run());
        }
        for queue in 0..QUEUES {
            let (world, mut connection) = (&world, server.connect());
            scope.spawn(move || take(world, &mut connection, queue));
        }
        save_again_and_again(&server, &world, &mut random, can_evict);
    });
}

#[test]
fn files_show_one_moment_with_two_threads() {
    prove("2", "2", false);
}

#[test]
fn files_show_one_moment_with_four_threads() {
    prove("4", "16", false);
}

#[test]
fn files_show_one_moment_with_many_shards() {
    prove("2", "128", false);
}

#[test]
fn files_show_one_moment_while_keys_are_evicted() {
    prove("4", "8", true);
}
