//! Round trips: files of ours are loaded by a real `redis-server` and by ourselves, and its files by ours, and the data is the same.
//!
//! `DAMSELFLY_ROUND_TRIPS` is how many times random data is compared; `DAMSELFLY_SEED` repeats a run.

mod common;

use common::{call, option, say, seeded, set_option, text};
use damselfly_oracle::connection::{Connection, request};
use damselfly_oracle::newer::without_new_fields;
use damselfly_oracle::random::{self, Random};
use damselfly_oracle::sequence::Generator;
use damselfly_oracle::server::{Kind, Program, ScratchFolder, Server};
use damselfly_protocol::client::Value as Reply;
use damselfly_rdb::{Access, Checksum, Encoder, WriteOptions};
use damselfly_value::{Entry, NewValue};

const DATABASES: usize = 16;
const TRIPS: u64 = 3;
/// Random commands for each round trip.
const COMMANDS: usize = 2500;
/// A round trip takes less than this, so keys with later deadlines stay.
const PATIENCE_MS: i64 = 1_000_000;

/// A server that uses a folder.
fn server_in(folder: &ScratchFolder, program: &Program, arguments: &[&str]) -> Server {
    let mut all = vec!["--dir", folder.path().to_str().unwrap()];
    all.extend(["--enable-debug-command", "yes", "--save", ""]);
    if program.kind() == Kind::Damselfly {
        all.extend(["--threads", "2"]);
    }
    all.extend_from_slice(arguments);
    let server = Server::start(program, &all).unwrap_or_else(|error| panic!("{error}"));
    common::wait_until_loaded(&mut server.connect());
    server
}

/// A server that saves in a folder of its own, and that folder.
fn fresh(program: &Program, arguments: &[&str]) -> (Server, ScratchFolder) {
    let folder = ScratchFolder::create().unwrap();
    (server_in(&folder, program, arguments), folder)
}

fn keys(connection: &mut Connection) -> Vec<Vec<u8>> {
    let Reply::Array(keys) = say(connection, "KEYS *") else {
        panic!("no keys");
    };
    let bytes = keys.into_iter().map(|key| match key {
        Reply::Bulk(bytes) => bytes,
        other => panic!("{other:?}"),
    });
    bytes.collect()
}

/// A reply as text, at most its beginning.
fn short(reply: &Reply) -> String {
    let text = match reply {
        Reply::Array(parts) => parts.iter().map(short).collect::<Vec<_>>().join(" "),
        other => text(other),
    };
    text.chars().take(1000).collect()
}

/// Sends commands at once, and returns their replies.
fn call_all(connection: &mut Connection, commands: &[Vec<&[u8]>]) -> Vec<Reply> {
    let bytes: Vec<u8> = commands.iter().flat_map(|words| request(words)).collect();
    connection.send(&bytes).unwrap();
    let replies = commands.iter().map(|words| {
        let reply = connection.receive().unwrap();
        assert!(
            !matches!(reply, Reply::Error(_)),
            "{words:.100?}: {reply:?}"
        );
        reply
    });
    replies.collect()
}

/// Everything that both servers say of their data must be equal.
fn assert_same(one: &Server, other: &Server, with_encodings: bool) {
    let mut both = [one, other].map(Server::connect);
    for db in 0..DATABASES {
        for connection in &mut both {
            say(connection, &format!("SELECT {db}"));
        }
        let counts = both.each_mut().map(|connection| say(connection, "DBSIZE"));
        assert_eq!(counts[0], counts[1], "database {db}");
        let keys = keys(&mut both[0]);
        for key in keys.chunks(50) {
            let questions = key.iter().flat_map(|key| -> [Vec<&[u8]>; 4] {
                [
                    vec![b"TYPE", key],
                    vec![b"OBJECT", b"ENCODING", key],
                    vec![b"DEBUG", b"DIGEST-VALUE", key],
                    vec![b"PEXPIRETIME", key],
                ]
            });
            let questions: Vec<_> = questions.collect();
            let [ours, theirs] = both.each_mut().map(|connection| {
                let replies = call_all(connection, &questions);
                replies.iter().map(short).collect::<Vec<_>>()
            });
            for (at, key) in key.iter().enumerate() {
                let [ours, theirs] = [&ours, &theirs].map(|all| {
                    let mut all = all[4 * at..4 * at + 4].to_vec();
                    all[1] = encoding(&all[0], &all[1]).to_owned();
                    // A string that was changed in place becomes a usual one when it is loaded.
                    if !with_encodings || key.starts_with(b"raw:") {
                        all.remove(1);
                    }
                    all
                });
                assert_eq!(ours, theirs, "{}", key.escape_ascii());
            }
        }
    }
    let digests = both
        .each_mut()
        .map(|connection| say(connection, "DEBUG DIGEST"));
    assert_eq!(digests[0], digests[1]);
    let libraries = both.each_mut().map(libraries);
    assert!(libraries[0] == libraries[1]);
    let keyspaces = both.each_mut().map(keyspace);
    assert_eq!(keyspaces[0], keyspaces[1]);
}

/// An encoding as Redis 7.0 calls it: lists and sets have a small form in 7.2 and here.
fn encoding<'a>(of: &str, encoding: &'a str) -> &'a str {
    match (of, encoding) {
        ("list", "listpack") => "quicklist",
        ("set", "listpack") => "hashtable",
        _ => encoding,
    }
}

/// The names and the code of all libraries.
fn libraries(connection: &mut Connection) -> Vec<(String, String)> {
    let Reply::Array(libraries) = say(connection, "FUNCTION LIST WITHCODE") else {
        panic!("no list");
    };
    let each = libraries.iter().map(|library| match library {
        Reply::Array(fields) => (text(&fields[1]), text(&fields[fields.len() - 1])),
        other => panic!("{other:?}"),
    });
    let mut each: Vec<_> = each.collect();
    each.sort();
    each
}

/// The keys and deadlines of each database, from INFO.
fn keyspace(connection: &mut Connection) -> Vec<String> {
    let all = text(&say(connection, "INFO keyspace"));
    let lines = all.lines().filter(|line| line.starts_with("db"));
    let counts = lines.map(|line| line.split(",avg_ttl").next().unwrap().to_owned());
    counts.collect()
}

/// Both servers have the same streams, with groups and pending entries.
fn assert_same_streams(one: &Server, other: &Server) {
    let mut both = [one, other].map(Server::connect);
    for key in keys(&mut one.connect()) {
        if text(&call(&mut both[0], &[b"TYPE", &key[..]])) != "stream" {
            continue;
        }
        let words: [&[u8]; 6] = [b"XINFO", b"STREAM", &key, b"FULL", b"COUNT", b"0"];
        let infos = both.each_mut().map(|connection| {
            let Reply::Array(fields) = without_new_fields(&call(connection, &words)) else {
                panic!("no fields");
            };
            let pairs = fields.chunks(2).map(<[_]>::to_vec);
            // The shape of the tree that has the entries, which depends on the history.
            let is_kept = |pair: &Vec<Reply>| !text(&pair[0]).starts_with("radix-tree");
            pairs.filter(is_kept).collect::<Vec<_>>()
        });
        assert!(infos[0] == infos[1], "{}", key.escape_ascii());
    }
}

/// Saves the data of `from`, has `to` load the file, and compares.
fn assert_loads(from: &Server, folder: &ScratchFolder, to: &Program, with_encodings: bool) {
    let mut connection = from.connect();
    call(&mut connection, &["SAVE"]);
    let copy = ScratchFolder::create().unwrap();
    let name = option(&mut connection, "dbfilename");
    std::fs::copy(folder.path().join(&name), copy.path().join(&name)).unwrap();
    let other = server_in(&copy, to, &["--sanitize-dump-payload", "yes"]);
    assert_same(from, &other, with_encodings);
    assert_same_streams(from, &other);
}

fn noise(random: &mut Random, len: usize) -> Vec<u8> {
    (0..len).map(|_| random.bits() as u8).collect()
}

/// Adds many elements, some at a time: `words`, then what `element` makes of each number.
fn fill(
    connection: &mut Connection,
    words: &str,
    count: usize,
    element: impl Fn(usize) -> Vec<String>,
) {
    let numbers: Vec<usize> = (0..count).collect();
    for some in numbers.chunks(1000) {
        let elements: Vec<String> = some.iter().copied().flat_map(&element).collect();
        let all: Vec<&str> = words
            .split(' ')
            .chain(elements.iter().map(String::as_str))
            .collect();
        call(connection, &all);
    }
}

/// Strings at the limits of widths, lengths and compression.
fn populate_strings(connection: &mut Connection, random: &mut Random) {
    for bits in [0_u32, 6, 7, 8, 12, 14, 15, 16, 23, 24, 31, 32, 63] {
        let limit = 1_i128 << bits;
        for number in [-limit - 1, -limit, 1 - limit, limit - 1, limit, limit + 1] {
            if let Ok(number) = i64::try_from(number) {
                say(connection, &format!("SET integer:{number} {number}"));
                say(connection, &format!("SET {number} key-of-digits"));
            }
        }
    }
    let lengths = [
        0,
        1,
        4,
        11,
        12,
        20,
        21,
        44,
        45,
        63,
        64,
        65,
        255,
        256,
        16_383,
        16_384,
        1 << 20,
    ];
    for len in lengths {
        let (alike, noise) = (vec![b'x'; len], noise(random, len));
        let half = [&noise[..len / 2], &alike[..len - len / 2]].concat();
        for (name, value) in [("alike", alike), ("noise", noise), ("half", half)] {
            let key = format!("{name}:{len}");
            call(connection, &[b"SET", key.as_bytes(), &value]);
            // Elements of this size in collections; the large ones are plain nodes of lists.
            call(
                connection,
                &[
                    b"RPUSH",
                    format!("list:{key}").as_bytes(),
                    b"1",
                    &value,
                    b"2",
                    b"",
                ],
            );
            call(
                connection,
                &[b"SADD", format!("set:{key}").as_bytes(), &value, b"1"],
            );
            call(
                connection,
                &[
                    b"HSET",
                    format!("hash:{key}").as_bytes(),
                    &value,
                    b"1",
                    b"f",
                    &value,
                ],
            );
            call(
                connection,
                &[
                    b"ZADD",
                    format!("zset:{key}").as_bytes(),
                    b"1",
                    &value,
                    b"2",
                    b"m",
                ],
            );
        }
    }
    let binary: Vec<u8> = (0..=255).collect();
    call(connection, &[&b"SET"[..], &binary, &binary]);
    call(connection, &[&b"SET"[..], b"\0", b"\0\0"]);
    call(connection, &[&b"SET"[..], b"", b"the empty key"]);
    call(
        connection,
        &[&b"SET"[..], &noise(random, 100_000), b"a long key"],
    );
    for words in [
        "APPEND raw:appended 12",
        "APPEND raw:appended 34",
        "SETRANGE raw:set-range 5 x",
        "INCRBYFLOAT float 3.0e-5",
        "SET digits 00012",
        "SET plus +1",
        "SET minus-zero -0",
    ] {
        say(connection, words);
    }
}

/// Collections around the thresholds of their small forms.
fn populate_collections(connection: &mut Connection) {
    for count in [1, 2, 127, 128, 129, 511, 512, 513, 3000] {
        let texts = |at: usize| vec![format!("member:{at}")];
        fill(
            connection,
            &format!("RPUSH list:texts:{count}"),
            count,
            texts,
        );
        fill(connection, &format!("SADD set:texts:{count}"), count, texts);
        for (width, factor) in [(16, 1), (32, 100_000), (64, 10_000_000_000)] {
            let number = |at: usize| {
                vec![(at as i64 * factor * if at.is_multiple_of(2) { 1 } else { -1 }).to_string()]
            };
            fill(
                connection,
                &format!("SADD set:{width}:{count}"),
                count,
                number,
            );
            fill(
                connection,
                &format!("RPUSH list:{width}:{count}"),
                count,
                number,
            );
        }
        let pair = |at: usize| vec![format!("field:{at}"), format!("{}", at * at)];
        fill(connection, &format!("HSET hash:{count}"), count, pair);
        let score = |at: usize| vec![format!("{}", at as f64 / 7.0), format!("member:{at}")];
        fill(connection, &format!("ZADD zset:{count}"), count, score);
        let same = |at: usize| vec!["1".into(), format!("{at}")];
        fill(connection, &format!("ZADD zset:same:{count}"), count, same);
    }
    for size in [63, 64, 65, 8000] {
        let long = |at: usize| vec![format!("{at}:{}", "x".repeat(size - 2))];
        fill(connection, &format!("SADD set:long:{size}"), 5, long);
        fill(connection, &format!("RPUSH list:long:{size}"), 50, long);
        fill(connection, &format!("HSET hash:long:{size}"), 5, |at| {
            [long(at), long(at)].concat()
        });
        let scored = |at: usize| vec![at.to_string(), long(at).concat()];
        fill(connection, &format!("ZADD zset:long:{size}"), 5, scored);
    }
    for words in [
        "ZADD zset:edges -inf low inf high 0.1 tenth 1.7976931348623157e308 max -1.7976931348623157e308 min",
        "ZADD zset:edges 5e-324 denormal -5e-324 below 2.2250738585072014e-308 normal -0.0 zero 0 nought",
        "ZADD zset:edges 9007199254740993 odd 1e15 plain 1e17 exponent 3 three -17 minus 0.30000000000000004 sum",
        "SADD set:mixed a 1 -1 99999999999999999999 007 +1",
        "SADD set:gone a b",
        "SREM set:gone a",
        "RPUSH list:mixed a 1 -1 4095 4096 -4097 8388608 2147483648 9223372036854775807 -9223372036854775808",
        "LPUSH list:ends z",
        "LINSERT list:ends BEFORE z y",
        "HSET hash:numbers 1 -1 2 9223372036854775807 three 3.0",
        "HINCRBYFLOAT hash:numbers float 0.1",
    ] {
        say(connection, words);
    }
}

fn populate_streams(connection: &mut Connection) {
    for words in [
        "XADD stream:one 1-1 a 1",
        "XADD stream:names 5-5 a 1 b 2",
        "XADD stream:names 5-6 a 3 b x",
        "XADD stream:names 7-0 other 3",
        "XADD stream:names 18446744073709551615-18446744073709551615 a 1 b 2",
        "XSETID stream:names 18446744073709551615-18446744073709551615 ENTRIESADDED 99 MAXDELETEDID 1-1",
        "XADD stream:gone 3-3 a b",
        "XDEL stream:gone 3-3",
        "XGROUP CREATE stream:gone g 0",
        "XGROUP CREATE stream:empty g $ MKSTREAM",
        "XGROUP CREATECONSUMER stream:empty g nobody",
        "XADD stream:trimmed 1-1 a b",
        "XADD stream:trimmed 2-1 a b",
        "XTRIM stream:trimmed MAXLEN 1",
    ] {
        say(connection, words);
    }
    for at in 1..=1000 {
        let id = format!("{}-{at}", at / 3 + 1);
        say(
            connection,
            &format!("XADD stream:large {id} field {at} other value{at}"),
        );
    }
    for words in [
        "XGROUP CREATE stream:large first 0",
        "XGROUP CREATE stream:large second 50-150",
        "XGROUP CREATE stream:large none $ ENTRIESREAD 5",
        "XREADGROUP GROUP first me COUNT 200 STREAMS stream:large >",
        "XREADGROUP GROUP first you COUNT 100 STREAMS stream:large >",
        "XREADGROUP GROUP first you COUNT 10 NOACK STREAMS stream:large >",
        "XREADGROUP GROUP second me COUNT 3 STREAMS stream:large >",
        "XCLAIM stream:large first other 0 1-1 1-2 TIME 1000000000000 RETRYCOUNT 77",
        "XGROUP CREATECONSUMER stream:large first idle",
        "XACK stream:large first 2-3 2-4",
    ] {
        say(connection, words);
    }
    // Some of them are pending.
    for at in (1..=400).step_by(7) {
        say(
            connection,
            &format!("XDEL stream:large {}-{at}", at / 3 + 1),
        );
    }
}

/// Deadlines, databases and functions.
fn populate_rest(connection: &mut Connection) {
    let later = common::now_ms() + PATIENCE_MS * 2;
    for words in [
        "SET timed:far x PXAT 9999999999999",
        "RPUSH timed:list a b",
        "PEXPIREAT timed:list 99999999999999",
    ] {
        say(connection, words);
    }
    say(connection, &format!("SET timed:soon x PXAT {later}"));
    for db in 1..DATABASES {
        say(connection, &format!("SELECT {db}"));
        for key in 0..db * db {
            say(connection, &format!("SET key:{key} {db}"));
        }
        say(connection, &format!("SET timed {db} PXAT {later}"));
    }
    say(connection, "SELECT 0");
    for library in ["one", "other"] {
        let code = format!(
            "#!lua name={library}\nredis.register_function('{library}', function() return '{}' end)",
            "x".repeat(500)
        );
        call(connection, &["FUNCTION", "LOAD", &code]);
    }
}

fn populate(connection: &mut Connection, random: &mut Random) {
    populate_strings(connection, random);
    populate_collections(connection);
    populate_streams(connection);
    populate_rest(connection);
}

/// Sends random commands, whose replies do not matter, and removes what expires soon.
fn scramble(server: &Server, random: &mut Random) {
    // Those that would stop or block the server, or that have effects outside of the data.
    let without = [
        "SHUTDOWN",
        "SAVE",
        "BGSAVE",
        "CLIENT",
        "DEBUG",
        "CONFIG",
        "MONITOR",
        "SUBSCRIBE",
    ];
    let generator = Generator::new(None, &without.map(String::from));
    let mut connection = server.connect();
    for step in generator.sequence(random.bits(), COMMANDS) {
        connection.send(&request(&step.arguments)).unwrap();
        if connection.receive().is_err() {
            connection = server.connect();
        }
    }
    // Not within a transaction, nor with the other version of the protocol.
    let mut connection = server.connect();
    let limit = common::now_ms() + PATIENCE_MS;
    for db in 0..DATABASES {
        say(&mut connection, &format!("SELECT {db}"));
        for key in keys(&mut connection) {
            let Reply::Integer(deadline) = call(&mut connection, &[b"PEXPIRETIME", &key[..]])
            else {
                panic!("no deadline");
            };
            if deadline > 0 && deadline < limit {
                call(&mut connection, &[b"DEL", &key[..]]);
            }
        }
        // What has expired already is not among the keys, but may still be counted.
        let started = std::time::Instant::now();
        while say(&mut connection, "DBSIZE") != Reply::Integer(keys(&mut connection).len() as i64) {
            assert!(started.elapsed().as_secs() < 60, "expired keys stay");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

fn trips() -> u64 {
    random::number_from("DAMSELFLY_ROUND_TRIPS").unwrap_or(TRIPS)
}

#[test]
fn redis_loads_what_we_save() {
    let mut random = seeded();
    let (ours, folder) = fresh(&Program::subject(), &[]);
    let mut connection = ours.connect();
    populate(&mut connection, &mut random);
    for compression in ["yes", "no"] {
        set_option(&mut connection, "rdbcompression", compression);
        assert_loads(&ours, &folder, &Program::reference(), true);
    }
}

#[test]
fn redis_loads_random_data_that_we_save() {
    let mut random = seeded();
    for trip in 0..trips() {
        let (ours, folder) = fresh(&Program::subject(), &[]);
        scramble(&ours, &mut random);
        let compression = ["yes", "no"][trip as usize % 2];
        set_option(&mut ours.connect(), "rdbcompression", compression);
        assert_loads(&ours, &folder, &Program::reference(), false);
    }
}

#[test]
fn we_load_what_redis_saves() {
    let mut random = seeded();
    for (compression, size) in [("yes", "-2"), ("no", "4")] {
        let arguments = [
            "--rdbcompression",
            compression,
            "--list-max-listpack-size",
            size,
        ];
        let (redis, folder) = fresh(&Program::reference(), &arguments);
        populate(&mut redis.connect(), &mut random);
        assert_loads(&redis, &folder, &Program::subject(), true);
    }
}

#[test]
fn we_load_random_data_that_redis_saves() {
    let mut random = seeded();
    for _ in 0..trips() {
        let (redis, folder) = fresh(&Program::reference(), &[]);
        scramble(&redis, &mut random);
        assert_loads(&redis, &folder, &Program::subject(), false);
    }
}

#[test]
fn we_load_what_we_save() {
    let mut random = seeded();
    for version in ["lowest", "11", "12"] {
        let (ours, folder) = fresh(&Program::subject(), &["--rdb-save-version", version]);
        let mut connection = ours.connect();
        populate(&mut connection, &mut random);
        scramble(&ours, &mut random);
        if version != "11" {
            for words in [
                "HSET hash:timed a 1 b 2 c 3",
                "HPEXPIREAT hash:timed 9999999999999 FIELDS 1 a",
                "HPEXPIREAT hash:timed 9999999999998 FIELDS 1 b",
                "HPEXPIREAT hash:3000 9999999999999 FIELDS 2 field:1 field:2999",
            ] {
                say(&mut connection, words);
            }
        }
        assert_loads(&ours, &folder, &Program::subject(), false);
    }
}

/// A file of 20 keys that have not been used for a while, or often.
fn file_with_use(is_frequency: bool) -> Vec<u8> {
    let options = WriteOptions {
        version: 10,
        compress: false,
    };
    let (mut encoder, mut out) = (Encoder::new(options), Vec::new());
    encoder.header(&mut out);
    encoder.select_db(0, &mut out);
    for key in 0..20_u8 {
        let entry = Entry::new(format!("key:{key}").as_bytes(), NewValue::Bytes(b"x"), None);
        let access = Access {
            idle_seconds: (!is_frequency).then_some(1000 * u64::from(key)),
            frequency: is_frequency.then_some(10 * key),
        };
        let begun = encoder.begin_entry(entry.view(), access, &mut out);
        begun
            .unwrap()
            .write(entry.view().value(), &mut encoder, usize::MAX, &mut out);
    }
    encoder.end(Some(Checksum::new()), &mut out);
    out
}

/// Idle times and frequencies go from us to Redis and back.
#[test]
fn the_use_of_keys_is_kept() {
    for policy in ["allkeys-lru", "allkeys-lfu"] {
        let is_frequency = policy == "allkeys-lfu";
        let folder = ScratchFolder::create().unwrap();
        std::fs::write(folder.path().join("dump.rdb"), file_with_use(is_frequency)).unwrap();
        for program in [Program::subject(), Program::reference(), Program::subject()] {
            let arguments = ["--maxmemory-policy", policy, "--lfu-decay-time", "0"];
            let server = server_in(&folder, &program, &arguments);
            let mut connection = server.connect();
            for key in 0..20 {
                let question = if is_frequency { "FREQ" } else { "IDLETIME" };
                let reply = call(
                    &mut connection,
                    &["OBJECT", question, &format!("key:{key}")],
                );
                let Reply::Integer(number) = reply else {
                    panic!("{reply:?}");
                };
                if is_frequency {
                    assert_eq!(number, 10 * key);
                } else {
                    // Some seconds pass, and a part of one can get lost.
                    let expected = 1000 * key - 3..1000 * key + 900;
                    assert!(expected.contains(&number), "{number} {expected:?}");
                }
            }
            call(&mut connection, &["SAVE"]);
        }
    }
}
