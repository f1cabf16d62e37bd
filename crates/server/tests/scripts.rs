//! Scripts of many clients at once: they are atomic, whichever keys they declare, and never deadlock.
//!
//! `cargo xtask ci` also runs this with the planted bug `scripts`, which skips the rollback of a script before it runs again. The
//! money tests must then fail.
//!
//! `DAMSELFLY_SCRIPTS_S` sets how many seconds each test with many clients runs.

mod common;

use common::{Client, TestServer, until};

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use damselfly_protocol::client::Value;

const ACCOUNTS: usize = 8;
const BALANCE: i64 = 1000;
const CLIENTS: usize = 8;

/// Takes about as long as a wait for a lock, so that other scripts can come in between.
const DAWDLE: &str =
    "local function dawdle() local n = 0; for i = 1, 3000 do n = n + i % 7 end; return n end; ";

/// Moves the first entry of one stream to another.
const MOVE_ENTRY: &str = "
    local first = redis.call('XRANGE', ARGV[1], '-', '+', 'COUNT', 1)[1]
    if not first then return 'empty' end
    redis.call('XDEL', ARGV[1], first[1])
    redis.call('XADD', ARGV[2], '*', unpack(first[2]))
    return 'moved'";

/// Counts the entries of all streams.
const ENTRIES: &str = "
    local count = 0
    for number = 0, 2 do count = count + redis.call('XLEN', 'stream:' .. number) end
    return count";

/// Moves ARGV[3] from ARGV[1] to ARGV[2].
const TRANSFER: &str = "redis.call('DECRBY', ARGV[1], ARGV[3]); dawdle(); redis.call('INCRBY', ARGV[2], ARGV[3]); return 'moved'";
/// Fails if ARGV[1] and ARGV[2] differ, then sets both to ARGV[3].
const COPY: &str = "local seen = redis.call('GET', ARGV[1]); dawdle(); \
    if seen ~= redis.call('GET', ARGV[2]) then return redis.error_reply('ERR the values differ') end; \
    redis.call('SET', ARGV[2], ARGV[3]); dawdle(); redis.call('SET', ARGV[1], ARGV[3]); return 'copied'";
/// Moves a field from one large hash to another.
const MOVE_FIELD: &str = "local value = redis.call('HGET', ARGV[1], ARGV[3]); dawdle(); \
    if not value then return 'not there' end; redis.call('HDEL', ARGV[1], ARGV[3]); dawdle(); \
    redis.call('HSET', ARGV[2], ARGV[3], value); return 'moved'";
/// Adds up the balances of all accounts.
const SUM: &str = "local sum = 0; for i = 0, ARGV[1] - 1 do sum = sum + redis.call('GET', 'account:' .. i) end; \
    return sum";
const FIELDS: &str = "return redis.call('HLEN', ARGV[1]) + redis.call('HLEN', ARGV[2])";

/// A simple random number generator (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as usize % bound
    }
}

fn account(number: usize) -> String {
    format!("account:{number}")
}

fn eval(client: &mut Client, script: &str, keys: &[&str], arguments: &[&str]) -> String {
    let (script, count) = (format!("{DAWDLE}{script}"), keys.len().to_string());
    let words = [&["EVAL", &script, &count], keys, arguments].concat();
    client.run_words(&words)
}

/// Runs `work` on many clients until the time is up and every count in `expected` is above zero, which takes longer on a busy
/// machine. Returns how often `work` ran.
fn many_clients(
    server: &TestServer,
    expected: &[&AtomicU64],
    work: impl Fn(usize, &mut Client, &mut Random) + Sync,
) -> u64 {
    const SECONDS_MAX: u64 = 120;
    let seconds = std::env::var("DAMSELFLY_SCRIPTS_S").ok();
    let seconds = seconds.and_then(|text| text.parse().ok()).unwrap_or(2);
    let seed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .subsec_nanos();
    println!("seed {seed}");
    let (started, failed, count) = (Instant::now(), AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for number in 0..CLIENTS {
            let mut client = server.client();
            let (work, failed, count) = (&work, &failed, &count);
            scope.spawn(move || {
                let mut random = Random(u64::from(seed) * 31 + number as u64 + 1);
                let goes_on = || {
                    let lasts = |seconds| started.elapsed() < Duration::from_secs(seconds);
                    let is_missing = |count: &&AtomicU64| count.load(Relaxed) == 0;
                    let is_over = !lasts(seconds) && !expected.iter().any(is_missing);
                    !is_over && lasts(seconds.max(SECONDS_MAX)) && !failed.load(Relaxed)
                };
                while goes_on() {
                    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        work(number, &mut client, &mut random);
                    }));
                    if let Err(panic) = ran {
                        failed.store(true, Relaxed);
                        std::panic::resume_unwind(panic);
                    }
                    count.fetch_add(1, Relaxed);
                }
            });
        }
    });
    count.into_inner()
}

fn two(random: &mut Random, count: usize) -> (usize, usize) {
    let first = random.below(count);
    (first, (first + 1 + random.below(count - 1)) % count)
}

fn money_is_neither_made_nor_lost(threads: usize, shards: usize) {
    let server = TestServer::with(|config| (config.threads, config.shards) = (threads, shards));
    let mut client = server.client();
    for number in 0..ACCOUNTS {
        client.run(&format!("SET account:{number} {BALANCE}"));
        client.run(&format!("SET account:{number}:log x"));
    }
    let total = (BALANCE * ACCOUNTS as i64).to_string();
    let counts = &server.shared().scripts.counts;
    let expected = [&counts.undone, &counts.irrevocable, &counts.whole];
    let ran = many_clients(&server, &expected, |number, client, random| {
        let (from, to) = two(random, ACCOUNTS);
        let (from, to) = (account(from), account(to));
        let amount = random.below(50).to_string();
        let arguments = [&*from, &*to, &*amount];
        match (number % 4, random.below(40)) {
            (3, _) => {
                let sum = eval(client, SUM, &[], &[&ACCOUNTS.to_string()]);
                assert_eq!(sum, format!("(integer) {total}"));
            }
            (2, 0..20) => {
                let names: Vec<String> = (0..ACCOUNTS).map(account).collect();
                client.send(&format!("MGET {}", names.join(" ")));
                let Some(Value::Array(values)) = client.receive_value() else {
                    panic!("MGET returned no array");
                };
                let number = |value: &Value| value.to_string().trim_matches('"').parse::<i64>();
                let sum: i64 = values.iter().map(|value| number(value).unwrap()).sum();
                assert_eq!(sum.to_string(), total);
            }
            (_, 0) => {
                let counts = format!("{TRANSFER}, redis.call('DBSIZE')");
                assert_eq!(eval(client, &counts, &[], &arguments), "\"moved\"");
            }
            (_, 1) => {
                let publishes = format!("redis.call('PUBLISH', 'news', 'moved'); {TRANSFER}");
                assert_eq!(eval(client, &publishes, &[], &arguments), "\"moved\"");
            }
            (_, 2) => {
                assert_eq!(client.run("MULTI"), "OK");
                let script = format!("{DAWDLE}{TRANSFER}");
                client.send_words(&["EVAL", &script, "1", &from, &from, &to, &amount]);
                assert_eq!(client.receive(), "QUEUED");
                assert_eq!(client.run("EXEC"), "1) \"moved\"");
            }
            (_, 3..10) => assert_eq!(eval(client, TRANSFER, &[&from], &arguments), "\"moved\""),
            (_, 10..20) => {
                let keys = [&*from, &*to];
                assert_eq!(eval(client, TRANSFER, &keys, &arguments), "\"moved\"");
            }
            _ => assert_eq!(eval(client, TRANSFER, &[], &arguments), "\"moved\""),
        }
    });
    println!("{ran} runs, {counts:?}");
    let sum = eval(&mut client, SUM, &[], &[&ACCOUNTS.to_string()]);
    assert_eq!(sum, format!("(integer) {total}"));
    assert!(counts.undone.load(Relaxed) > 0, "no script was rolled back");
    assert!(
        counts.irrevocable.load(Relaxed) > 0,
        "no script became irrevocable"
    );
    assert!(
        counts.whole.load(Relaxed) > 0,
        "no script began with all locks"
    );
}

#[test]
fn money_is_neither_made_nor_lost_with_two_threads() {
    money_is_neither_made_nor_lost(2, 4);
}

#[test]
fn money_is_neither_made_nor_lost_with_four_threads() {
    money_is_neither_made_nor_lost(4, 64);
}

/// Half of the clients read the left key first and write the right one first; the others do the opposite.
#[test]
fn crossing_scripts_neither_interleave_nor_deadlock() {
    let server = TestServer::start();
    let mut client = server.client();
    client.run("MSET left 0 right 0");
    let counts = &server.shared().scripts.counts;
    many_clients(&server, &[&counts.undone], |number, client, random| {
        let value = random.below(1 << 30).to_string();
        let (one, other) = match number % 2 {
            0 => ("left", "right"),
            _ => ("right", "left"),
        };
        let keys: &[&str] = match random.below(3) {
            0 => &[one],
            _ => &[],
        };
        let reply = eval(client, COPY, keys, &[one, other, &value]);
        assert_eq!(reply, "\"copied\"");
    });
    println!("{counts:?}");
    assert!(counts.undone.load(Relaxed) > 0, "no script was rolled back");
}

/// Large collections are not copied for a rollback, so scripts that change them become irrevocable and wait for locks.
#[test]
fn fields_of_large_hashes_are_neither_made_nor_lost() {
    const COUNT: usize = 2000;
    let server = TestServer::start();
    let mut client = server.client();
    for field in 0..COUNT {
        client.run(&format!("HSET hash:{} f{field} {field}", field % 3));
    }
    let counts = &server.shared().scripts.counts;
    many_clients(
        &server,
        &[&counts.undone, &counts.irrevocable],
        |number, client, random| {
            let (from, to) = two(random, 3);
            let (from, to) = (format!("hash:{from}"), format!("hash:{to}"));
            let field = format!("f{}", random.below(COUNT));
            if number % 4 == 3 {
                let all = "return redis.call('HLEN', 'hash:0') + redis.call('HLEN', 'hash:1') + redis.call('HLEN', 'hash:2')";
                assert_eq!(eval(client, all, &[], &[]), format!("(integer) {COUNT}"));
                return;
            }
            let reply = eval(client, MOVE_FIELD, &[], &[&from, &to, &field]);
            assert!(reply == "\"moved\"" || reply == "\"not there\"", "{reply}");
        },
    );
    println!("{counts:?}");
    let two_hashes = eval(&mut client, FIELDS, &[], &["hash:0", "hash:1"]);
    let last = client.number("HLEN hash:2");
    assert_eq!(two_hashes, format!("(integer) {}", COUNT as i64 - last));
    assert!(
        counts.irrevocable.load(Relaxed) > 0,
        "no script became irrevocable"
    );
    assert!(counts.undone.load(Relaxed) > 0, "no script was rolled back");
}

/// A changed stream shares its nodes with the saved copy, so scripts that change streams can be rolled back.
#[test]
fn entries_of_streams_are_neither_made_nor_lost() {
    const COUNT: usize = 2000;
    let server = TestServer::start();
    let mut client = server.client();
    for entry in 0..COUNT {
        client.run(&format!("XADD stream:{} * number {entry}", entry % 3));
    }
    let counts = &server.shared().scripts.counts;
    many_clients(&server, &[&counts.undone], |number, client, random| {
        if number % 4 == 3 {
            let reply = eval(client, ENTRIES, &[], &[]);
            assert_eq!(reply, format!("(integer) {COUNT}"));
            return;
        }
        let (from, to) = two(random, 3);
        let (from, to) = (format!("stream:{from}"), format!("stream:{to}"));
        let reply = eval(client, MOVE_ENTRY, &[], &[&from, &to]);
        assert!(reply == "\"moved\"" || reply == "\"empty\"", "{reply}");
    });
    println!("{counts:?}");
    let reply = eval(&mut client, ENTRIES, &[], &[]);
    assert_eq!(reply, format!("(integer) {COUNT}"));
    assert_eq!(
        counts.irrevocable.load(Relaxed),
        0,
        "some script became irrevocable"
    );
    assert!(counts.undone.load(Relaxed) > 0, "no script was rolled back");
}

/// True once the client with this id runs a script.
fn runs_script(observer: &mut Client, id: i64) -> bool {
    let list = observer.text("CLIENT LIST");
    let line = list
        .lines()
        .find(|line| line.starts_with(&format!("id={id} ")));
    line.is_some_and(|line| line.contains(" cmd=eval "))
}

/// Two keys in different shards.
fn keys_apart(server: &TestServer) -> (String, String) {
    let engine = &server.shared().engine;
    let shard = |key: &str| engine.shard_of(damselfly_base::hash(key.as_bytes()));
    let first = String::from("key");
    let other = (0..).map(|number| format!("other{number}"));
    let other = other.into_iter().find(|key| shard(key) != shard(&first));
    (first, other.unwrap())
}

#[test]
fn scripts_on_other_keys_run_meanwhile() {
    let server = TestServer::start();
    let (first, other) = keys_apart(&server);
    let (mut long, mut short) = (server.client(), server.client());
    let id = long.number("CLIENT ID");
    let waits = "redis.call('SET', KEYS[1], 1); local start = os.clock(); \
        while os.clock() < start + 0.3 do end; return 'over'";
    long.send_words(&["EVAL", waits, "1", &first]);
    until("the script runs", || runs_script(&mut short, id));
    let script = "redis.call('SET', KEYS[1], 'x'); return redis.call('GET', KEYS[1])";
    for _ in 0..10 {
        assert_eq!(short.run_words(&["EVAL", script, "1", &other]), "\"x\"");
    }
    assert!(long.has_nothing(), "the long script ended first");
    assert_eq!(long.receive(), "\"over\"");
    assert_eq!(server.shared().scripts.counts.undone.load(Relaxed), 0);
}

/// The bug: until a script was slow, all other clients of its thread waited for it, whatever keys they used. The cause: they had
/// turns only while a script was slow. The fix: they have turns from the first milliseconds on, and only clients that need the
/// script's locks or the interpreter wait for it.
#[test]
fn a_script_serves_clients_that_need_none_of_its_locks_before_it_is_slow() {
    let server = TestServer::with(|config| {
        config.threads = 1;
        config.busy_reply_threshold_ms = 0;
    });
    let (key, other) = keys_apart(&server);
    let mut long = server.client();
    let waits = "local count; repeat count = redis.call('PUBSUB', 'NUMSUB', 'end')[2] until count > 0; \
        redis.call('SET', KEYS[1], 1); return 'over'";
    let (mut client, mut next, mut reader) = (server.client(), server.client(), server.client());
    let id = long.number("CLIENT ID");
    long.send_words(&["EVAL", waits, "1", &key]);
    until("the script runs", || runs_script(&mut client, id));
    next.send_words(&["EVAL", "return 'next'", "0"]);
    reader.send(&format!("GET {key}"));
    for number in 1..10 {
        let incr = client.run(&format!("INCR {other}"));
        assert_eq!(incr, format!("(integer) {number}"));
    }
    assert!(long.has_nothing() && next.has_nothing() && reader.has_nothing());
    client.run("SUBSCRIBE end");
    assert_eq!(long.receive(), "\"over\"");
    assert_eq!(next.receive(), "\"next\"");
    assert_eq!(reader.receive(), "\"1\"");
}

const BUSY: &str = "(error) BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.";

/// A server with a slow script, the script's client, the key that it declares, and a key in another shard.
fn with_slow_script(threads: usize, script: &str) -> (TestServer, Client, String, String) {
    let server = TestServer::with(|config| {
        config.threads = threads;
        config.busy_reply_threshold_ms = 20;
    });
    let (key, other) = keys_apart(&server);
    let mut slow = server.client();
    slow.send_words(&["EVAL", script, "1", &key]);
    until("the script is slow", || {
        server.shared().scripts.slow().len() == 1
    });
    (server, slow, key, other)
}

fn others_are_served(server: &TestServer, key: &str, other: &str) {
    let (mut client, mut second) = (server.client(), server.client());
    assert_eq!(client.run("PING"), "PONG");
    assert_eq!(client.run(&format!("SET {other} 1")), "OK");
    assert_eq!(second.run(&format!("INCR {other}")), "(integer) 2");
    assert_eq!(client.run(&format!("GET {key}")), BUSY);
    assert_eq!(client.run("DBSIZE"), BUSY);
    assert_eq!(client.run(&format!("WATCH {key}")), BUSY);
    for command in ["MULTI", "DBSIZE"] {
        client.run(command);
    }
    let aborted = BUSY.replace(
        "BUSY Redis",
        "EXECABORT Transaction discarded because of: BUSY Redis",
    );
    assert_eq!(client.run("EXEC"), aborted);
    assert_eq!(client.run("EXEC"), "(error) ERR EXEC without MULTI");
    // One client publishes and another receives.
    assert_eq!(second.run("SUBSCRIBE news").lines().count(), 3);
    assert_eq!(client.run("PUBLISH news x"), "(integer) 1");
    assert!(second.receive().contains("message"));
}

fn slow_scripts_let_others_go_on_and_are_killed(threads: usize) {
    let (server, mut slow, key, other) = with_slow_script(threads, "while true do end");
    others_are_served(&server, &key, &other);
    let mut client = server.client();
    assert_eq!(client.run("SCRIPT KILL"), "OK");
    let reply = slow.receive();
    assert!(
        reply.starts_with("(error) ERR Script killed by user with SCRIPT KILL... script: "),
        "{reply}"
    );
    until("the script has ended", || {
        server.shared().scripts.slow().is_empty()
    });
    assert_eq!(client.run(&format!("GET {key}")), "(nil)");
    let error = "(error) NOTBUSY No scripts in execution right now.";
    assert_eq!(client.run("SCRIPT KILL"), error);
    // The script's connection serves requests again.
    slow.send("PING");
    assert_eq!(slow.receive(), "PONG");
}

#[test]
fn slow_scripts_let_others_of_the_only_thread_go_on_and_are_killed() {
    slow_scripts_let_others_go_on_and_are_killed(1);
}

#[test]
fn slow_scripts_let_others_of_four_threads_go_on_and_are_killed() {
    slow_scripts_let_others_go_on_and_are_killed(4);
}

fn slow_scripts_that_have_written_are_not_killed(threads: usize) {
    let script = "redis.call('SET', KEYS[1], 1); while true do redis.pcall('GET', KEYS[1]) end";
    let (server, mut slow, key, other) = with_slow_script(threads, script);
    others_are_served(&server, &key, &other);
    let mut client = server.client();
    assert!(client.run("SCRIPT KILL").starts_with("(error) UNKILLABLE "));
    assert_eq!(client.run(&format!("GET {key}")), BUSY);
    assert!(slow.has_nothing());
    // The script's client is not closed before the script has ended.
    assert_eq!(
        client
            .run("CLIENT KILL TYPE normal SKIPME yes")
            .split(' ')
            .count(),
        2
    );
    client.send("SHUTDOWN NOSAVE");
    assert_eq!(client.until_closed(), [""; 0]);
    until("all scripts have ended", || {
        server.shared().scripts.slow().is_empty()
    });
}

#[test]
fn slow_scripts_that_have_written_end_with_the_server_of_one_thread() {
    slow_scripts_that_have_written_are_not_killed(1);
}

#[test]
fn slow_scripts_that_have_written_end_with_the_server_of_four_threads() {
    slow_scripts_that_have_written_are_not_killed(4);
}

/// The bug: a script that spent its time in an error handler or in functions of the library did not end on SCRIPT KILL or when
/// the server stopped, and no other client was served meanwhile. The cause: the interpreter called the host only between
/// instructions, and in handlers not even there. The fix: it calls the host in all of these places.
fn scripts_without_instructions_are_killed(threads: usize) {
    for script in [
        "xpcall(function() while true do end end, function() while true do end end)",
        "local t = {} for i = 1, 200000 do t[i] = 'item' .. i * 7919 % 200000 end while true do table.sort(t) end",
        "local x = ('x'):rep(1048576) while true do redis.sha1hex(x) end",
        "table.insert({}, -2147483647, 1)",
        "load(gcinfo) while true do coroutine.wrap(function() pcall(function() while true do end end) end)() end",
    ] {
        let (server, mut slow, key, other) = with_slow_script(threads, script);
        others_are_served(&server, &key, &other);
        let mut client = server.client();
        assert_eq!(client.run("SCRIPT KILL"), "OK");
        let reply = slow.receive();
        assert!(
            reply.starts_with("(error) ERR Script killed by user with SCRIPT KILL... script: "),
            "{script}: {reply}"
        );
        assert_eq!(slow.run_words(&["EVAL", "return 'fine'", "0"]), "\"fine\"");
        slow.send_words(&["EVAL", script, "1", &key]);
        until("the script is slow", || {
            server.shared().scripts.slow().len() == 1
        });
        client.send("SHUTDOWN NOSAVE");
        assert_eq!(client.until_closed(), [""; 0]);
        until("all scripts have ended", || {
            server.shared().scripts.slow().is_empty()
        });
    }
}

#[test]
fn scripts_without_instructions_are_killed_on_the_only_thread() {
    scripts_without_instructions_are_killed(1);
}

#[test]
fn scripts_without_instructions_are_killed_on_one_of_four_threads() {
    scripts_without_instructions_are_killed(4);
}

/// The bug: without a threshold for slow scripts, a script that ran long commands did not notice for many commands that the server
/// was stopping. The cause: it checked for that after a command only if it was slow. The fix: it checks after every command.
#[test]
fn scripts_of_commands_end_with_the_server_without_a_threshold() {
    let server = TestServer::with(|config| {
        config.threads = 2;
        config.busy_reply_threshold_ms = 0;
    });
    let (mut long, mut other) = (server.client(), server.client());
    let values: Vec<_> = (0..20_000).map(|number| number.to_string()).collect();
    let values: Vec<_> = values.iter().map(String::as_str).collect();
    long.run_words(&[&["RPUSH", "list"], &values[..]].concat());
    let id = long.number("CLIENT ID");
    long.send_words(&[
        "EVAL",
        "while true do redis.call('SORT', 'list', 'ALPHA') end",
        "1",
        "list",
    ]);
    until("the script runs", || runs_script(&mut other, id));
    other.send("SHUTDOWN NOSAVE");
    assert_eq!(other.until_closed(), [""; 0]);
    drop(server);
}

/// A client that needs a lock of a script waits while the script is not slow; once it is, all such clients get an error.
#[test]
fn clients_that_wait_for_a_script_get_busy_once_it_is_slow() {
    let server = TestServer::with(|config| config.busy_reply_threshold_ms = 300);
    let (mut slow, mut observer) = (server.client(), server.client());
    let id = slow.number("CLIENT ID");
    slow.send_words(&["EVAL", "while true do end", "1", "key"]);
    until("the script runs", || runs_script(&mut observer, id));
    // The command counts as running a little before it has its locks.
    let engine = &server.shared().engine;
    let lock = || engine.lock_one(damselfly_base::hash(b"key"), 0, damselfly_engine::Now(0));
    until("the script holds the key", || lock().is_err());
    let mut waiting: Vec<Client> = (0..8).map(|_| server.client()).collect();
    for client in &mut waiting {
        client.send("GET key");
    }
    for client in &mut waiting {
        assert_eq!(client.receive(), BUSY);
    }
    assert_eq!(observer.run("SCRIPT KILL"), "OK");
    assert!(slow.receive().contains("killed"));
    for client in &mut waiting {
        assert_eq!(client.run("GET key"), "(nil)");
    }
}

/// A pipeline sent behind a slow script is not lost.
#[test]
fn requests_sent_during_a_script_are_served_afterwards() {
    let server = TestServer::with(|config| {
        config.threads = 1;
        config.busy_reply_threshold_ms = 10;
    });
    let (mut client, mut other) = (server.client(), server.client());
    client.send_words(&["EVAL", "while true do end", "0"]);
    until("the script is slow", || {
        server.shared().scripts.slow().len() == 1
    });
    let echo = |number| format!("ECHO {number}\r\n");
    let pipeline: String = (0..1000).map(echo).collect();
    client.send_bytes(pipeline.as_bytes());
    assert_eq!(other.run("PING"), "PONG");
    assert_eq!(other.run("SCRIPT KILL"), "OK");
    assert!(client.receive().contains("killed"));
    for number in 0..1000 {
        assert_eq!(client.receive(), format!("\"{number}\""));
    }
}

#[test]
fn watchers_learn_only_of_changes_that_stay() {
    let server = TestServer::start();
    let (mut watcher, mut client) = (server.client(), server.client());
    let script = "redis.call('SET', KEYS[1], 1); redis.call('SET', ARGV[1], 1); return 1";
    assert_eq!(watcher.run("WATCH a b"), "OK");
    assert_eq!(
        client.run_words(&["EVAL", script, "1", "a", "b"]),
        "(integer) 1"
    );
    watcher.run("MULTI");
    watcher.run("PING");
    assert_eq!(watcher.run("EXEC"), "(nil)");
    let mut waiter = server.client();
    waiter.send("BLPOP list 0");
    until("the client waits", || {
        server.shared().engine.waiting_count() == 1
    });
    let push = "redis.call('RPUSH', ARGV[1], 'x'); return 1";
    assert_eq!(
        client.run_words(&["EVAL", push, "0", "list"]),
        "(integer) 1"
    );
    assert_eq!(waiter.receive(), "1) \"list\"\n2) \"x\"");
}

fn info(client: &mut Client, name: &str) -> usize {
    let text = client.text("INFO memory");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().parse().unwrap()
}

#[test]
fn scripts_that_were_only_run_are_forgotten_in_the_end_but_loaded_ones_are_not() {
    let server = TestServer::start();
    let mut client = server.client();
    let loaded = client.run_words(&["SCRIPT", "LOAD", "return 'loaded'"]);
    let loaded = loaded.trim_matches('"');
    for number in 0..2000 {
        let script = format!("return {number}");
        assert_eq!(
            client.run_words(&["EVAL", &script, "0"]),
            format!("(integer) {number}")
        );
    }
    let cached = info(&mut client, "number_of_cached_scripts");
    assert!((100..=1000).contains(&cached), "{cached}");
    for _ in 0..8 {
        // Reaches every thread.
        let mut client = server.client();
        assert_eq!(client.run(&format!("EVALSHA {loaded} 0")), "\"loaded\"");
    }
    assert_eq!(client.run("SCRIPT FLUSH"), "OK");
    assert_eq!(info(&mut client, "number_of_cached_scripts"), 0);
    for _ in 0..8 {
        let reply = server.client().run(&format!("EVALSHA {loaded} 0"));
        assert_eq!(
            reply,
            "(error) NOSCRIPT No matching script. Please use EVAL."
        );
    }
}

/// SCRIPT FLUSH frees the memory of scripts in every interpreter, even on threads that run no more scripts.
#[test]
fn a_flush_reaches_the_interpreters_of_all_threads() {
    let server = TestServer::start();
    let mut clients: Vec<Client> = (0..8).map(|_| server.client()).collect();
    for client in &mut clients {
        for number in 0..200 {
            let script = format!("local t = '{}'; return #t", "x".repeat(1000 + number));
            client.run_words(&["EVAL", &script, "0"]);
        }
    }
    let before = info(&mut clients[0], "used_memory_vm_eval");
    assert_eq!(clients[0].run("SCRIPT FLUSH ASYNC"), "OK");
    until("all interpreters have forgotten the scripts", || {
        info(&mut clients[0], "used_memory_vm_eval") < before / 2
    });
}

#[test]
fn a_script_that_wants_too_much_memory_fails_alone() {
    let server = TestServer::with(|config| config.threads = 1);
    let mut client = server.client();
    let greedy = "local t = {}; for i = 1, 1e9 do t[i] = string.rep('x', 1e6) .. i end";
    let reply = client.run_words(&["EVAL", greedy, "0"]);
    assert!(reply.contains("not enough memory"), "{reply}");
    assert_eq!(
        client.run_words(&["EVAL", "return 'fine'", "0"]),
        "\"fine\""
    );
}

/// The bug: a script in use was evicted, and the reply of EVALSHA depended on the thread. The cause: each thread counted the uses
/// of a script itself and reported only every 64th to the others, and it still knew scripts that the others had evicted. The fix:
/// every use counts in one place, and a script evicted there is unknown to all threads.
#[test]
fn all_threads_know_the_same_scripts() {
    let server = TestServer::start();
    let mut clients: Vec<_> = (0..8).map(|_| server.client()).collect();
    let loaded = word(&clients[0].run_words(&["SCRIPT", "LOAD", "return 'loaded'"]));
    let used = word(&clients[0].run_words(&["SCRIPT", "LOAD", "return 88"]));
    assert_eq!(clients[0].run("SCRIPT FLUSH"), "OK");
    clients[0].run_words(&["SCRIPT", "LOAD", "return 'loaded'"]);
    let evaluate = |clients: &mut [Client], number: usize| {
        let place = number % clients.len();
        let script = format!("return {number}");
        let reply = clients[place].run_words(&["EVAL", &script, "0"]);
        assert_eq!(reply, format!("(integer) {number}"));
    };
    let is_known = |clients: &mut [Client], digest: &str, reply: &str| {
        let expected = if reply.is_empty() { "0" } else { "1" };
        for client in &mut *clients {
            let exists = client.run(&format!("SCRIPT EXISTS {digest}"));
            assert_eq!(exists, format!("1) (integer) {expected}"));
        }
        for client in clients {
            let ran = client.run(&format!("EVALSHA {digest} 0"));
            match reply {
                "" => assert!(ran.starts_with("(error) NOSCRIPT "), "{ran}"),
                reply => assert_eq!(ran, reply),
            }
        }
    };
    evaluate(&mut clients, 88);
    for number in 1000..2100 {
        evaluate(&mut clients, number);
        if number % 20 == 0 {
            // Always on the same thread: the other threads must count these uses, too.
            let ran = clients[3].run(&format!("EVALSHA {used} 0"));
            assert_eq!(ran, "(integer) 88", "after {number}");
        }
    }
    is_known(&mut clients, &used, "(integer) 88");
    for number in 3000..3499 {
        evaluate(&mut clients[..1], number);
    }
    is_known(&mut clients[..1], &used, "(integer) 88");
    // The EVALSHA above counted as a use.
    for number in 4000..4500 {
        evaluate(&mut clients[1..2], number);
    }
    is_known(&mut clients, &used, "");
    is_known(&mut clients, &loaded, "\"loaded\"");
    let info = clients[0].text("INFO everything");
    assert!(info.contains("number_of_cached_scripts:501\r\n"));
    let evicted = 1 + 1100 + 499 + 500 - 500;
    assert!(info.contains(&format!("evicted_scripts:{evicted}\r\n")));
    // The script can be evaluated again, and SCRIPT LOAD then keeps it for good.
    evaluate(&mut clients[5..6], 88);
    is_known(&mut clients, &used, "(integer) 88");
    clients[6].run_words(&["SCRIPT", "LOAD", "return 88"]);
    for number in 5000..5600 {
        evaluate(&mut clients, number);
    }
    is_known(&mut clients, &used, "(integer) 88");
    assert_eq!(clients[0].run("CONFIG RESETSTAT"), "OK");
    assert!(clients[0].text("INFO").contains("evicted_scripts:0\r\n"));
}

/// A string as `redis-cli` prints it, without the quotes.
fn word(shown: &str) -> String {
    shown.trim_matches('"').to_owned()
}
