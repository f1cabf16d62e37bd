//! RDB files and DUMP payloads beside a real `redis-server`: its files are read here, and ours are loaded there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use damselfly_base::double::DoubleText;
use damselfly_base::random::Random;
use damselfly_oracle::connection::Connection;
use damselfly_oracle::newer::without_new_fields;
use damselfly_oracle::server::{Program, ScratchFolder, Server};
use damselfly_protocol::client::Value as Reply;
use damselfly_rdb::{
    Access, Checksum, Encoder, Event, ReadOptions, Reader, WriteOptions, check, dump, restore,
};
use damselfly_value::{Element, Entry, Side, StreamId, Text, Thresholds, Type, Value};

/// Keys of a database: what a file holds, or what a server is asked for.
type Keys = BTreeMap<Vec<u8>, Entry>;

/// What a file says.
#[derive(Default)]
struct File {
    databases: BTreeMap<u64, Keys>,
    functions: Vec<Vec<u8>>,
    version: u32,
}

fn redis(arguments: &[&str]) -> Server {
    let mut all = vec!["--enable-debug-command", "yes"];
    all.extend_from_slice(arguments);
    Server::start(&Program::reference(), &all).unwrap()
}

fn ours(arguments: &[&str]) -> Server {
    let mut all = vec!["--enable-debug-command", "yes"];
    all.extend_from_slice(arguments);
    Server::start(&Program::subject(), &all).unwrap()
}

fn call(connection: &mut Connection, words: &[&[u8]]) -> Reply {
    let reply = connection.call(words).unwrap();
    let words: Vec<_> = words
        .iter()
        .map(|word| word.escape_ascii().to_string())
        .collect();
    assert!(!matches!(reply, Reply::Error(_)), "{words:?}: {reply:?}");
    reply
}

/// Sends a command in words that are separated by blanks.
fn say(connection: &mut Connection, command: &str) -> Reply {
    let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
    call(connection, &words)
}

/// Adds values in large numbers: `words`, then what `element` makes of each number.
fn fill(
    connection: &mut Connection,
    words: &[&str],
    count: usize,
    element: impl Fn(usize) -> Vec<Vec<u8>>,
) {
    for start in (0..count).step_by(500) {
        let elements: Vec<_> = (start..count.min(start + 500)).flat_map(&element).collect();
        let words = words.iter().map(|word| word.as_bytes());
        let words: Vec<&[u8]> = words.chain(elements.iter().map(Vec::as_slice)).collect();
        call(connection, &words);
    }
}

fn text(number: usize) -> Vec<u8> {
    number.to_string().into_bytes()
}

fn noise(random: &mut Random, len: usize) -> Vec<u8> {
    (0..len).map(|_| random.number() as u8).collect()
}

/// Values of every type and encoding, with edges, and some that only Redis can make.
fn populate(connection: &mut Connection) {
    populate_both(connection);
    for words in ["PFADD hll a b c", "GEOADD geo 13.361389 38.115556 Palermo"] {
        say(connection, words);
    }
}

/// Values of every type and encoding, with edges.
fn populate_both(connection: &mut Connection) {
    let mut random = Random::for_test();
    for number in [
        0,
        1,
        63,
        127,
        128,
        -128,
        -129,
        32767,
        32768,
        -32768,
        -32769,
        2147483647,
        2147483648,
        -2147483648,
        -2147483649,
        i64::MAX,
        i64::MIN,
    ] {
        say(connection, &format!("SET integer:{number} {number}"));
    }
    for len in [
        0, 1, 5, 20, 21, 63, 64, 100, 16_383, 16_384, 70_000, 300_000,
    ] {
        call(
            connection,
            &[
                b"SET",
                format!("letters:{len}").as_bytes(),
                &vec![b'x'; len],
            ],
        );
        call(
            connection,
            &[
                b"SET",
                format!("noise:{len}").as_bytes(),
                &noise(&mut random, len),
            ],
        );
        call(
            connection,
            &[
                b"RPUSH",
                format!("list:{len}").as_bytes(),
                &noise(&mut random, len),
                b"7",
            ],
        );
    }
    for words in [
        "SET 12345 key-of-digits",
        "SET -7 x",
        "APPEND appended 12",
        "APPEND appended 34",
        "SETRANGE set-range 5 x",
        "RPUSH list:one a",
        "RPUSH list:mixed a 1 -1 4095 4096 -4097 8388608 2147483648 9223372036854775807",
        "SADD set:16 1 2 -5",
        "SADD set:32 1 70000",
        "SADD set:64 1 9223372036854775807 -9223372036854775808",
        "SADD set:texts a b 1 2",
        "HSET hash:small a 1 b two 3 4",
        "ZADD zset:small 1 a 2 b 1.5 c -inf low inf high 0.1 tenth 3e300 huge -0.0 zero",
        "ZADD zset:same 0 a 0 b 0 ab 0 1 0 10",
        "SET timed x PXAT 9999999999999",
        "XADD stream:one 1-1 a 1",
        "XADD stream:names 5-5 a 1 b 2",
        "XADD stream:names 5-6 a 3 b x",
        "XADD stream:names 7-0 other 3",
        "XADD stream:names 18446744073709551615-18446744073709551615 a 1 b 2",
        "XADD stream:gone 3-3 a b",
        "XDEL stream:gone 3-3",
        "XGROUP CREATE stream:empty g $ MKSTREAM",
        "XSETID stream:names 18446744073709551615-18446744073709551615 ENTRIESADDED 99 MAXDELETEDID 1-1",
    ] {
        say(connection, words);
    }
    fill(connection, &["RPUSH", "list:large"], 5000, |at| {
        vec![text(at * at)]
    });
    fill(connection, &["SADD", "set:large-integers"], 2000, |at| {
        vec![text(at * 7)]
    });
    fill(connection, &["SADD", "set:large"], 3000, |at| {
        vec![format!("member:{at}").into_bytes()]
    });
    fill(connection, &["HSET", "hash:large"], 2000, |at| {
        vec![text(at), format!("value {at}").into_bytes()]
    });
    fill(connection, &["HSET", "hash:long"], 3, |at| {
        vec![text(at), vec![b'v'; 1000 * at]]
    });
    fill(connection, &["ZADD", "zset:large"], 3000, |at| {
        vec![format!("{}", at as f64 / 7.0).into_bytes(), text(at)]
    });
    for at in 1..=1000 {
        say(
            connection,
            &format!(
                "XADD stream:large {}-{} field {at} other value{at}",
                at / 3 + 1,
                at
            ),
        );
    }
    for at in 1..=300 {
        if at % 7 == 0 {
            say(
                connection,
                &format!("XDEL stream:large {}-{}", at / 3 + 1, at),
            );
        }
    }
    for words in [
        "XGROUP CREATE stream:large first 0",
        "XGROUP CREATE stream:large second 50-150",
        "XGROUP CREATE stream:large none $ ENTRIESREAD 5",
        "XREADGROUP GROUP first me COUNT 200 STREAMS stream:large >",
        "XREADGROUP GROUP first you COUNT 100 STREAMS stream:large >",
        "XREADGROUP GROUP second me COUNT 3 STREAMS stream:large >",
        "XGROUP CREATECONSUMER stream:large first idle",
        "XACK stream:large first 1-1 1-2",
        "SELECT 3",
        "SET other-database 1",
        "RPUSH list a b c",
        "SELECT 0",
    ] {
        say(connection, words);
    }
    let library = "#!lua name=shared\nredis.register_function('answer', function() return 42 end)";
    call(connection, &[b"FUNCTION", b"LOAD", library.as_bytes()]);
}

/// Has the server save, and returns its file.
fn save(server: &Server) -> PathBuf {
    let mut connection = server.connect();
    say(&mut connection, "SAVE");
    let option = |connection: &mut Connection, name: &str| {
        let Reply::Array(pair) = say(connection, &format!("CONFIG GET {name}")) else {
            panic!("no option {name}");
        };
        bulk(&pair[1])
    };
    let folder = option(&mut connection, "dir");
    let name = option(&mut connection, "dbfilename");
    Path::new(&String::from_utf8(folder).unwrap()).join(String::from_utf8(name).unwrap())
}

fn bulk(reply: &Reply) -> Vec<u8> {
    match reply {
        Reply::Bulk(bytes) | Reply::Simple(bytes) => bytes.clone(),
        other => panic!("no string: {other:?}"),
    }
}

fn read(bytes: &[u8], thresholds: &Thresholds) -> File {
    let options = ReadOptions {
        thresholds,
        verify_checksum: true,
    };
    let mut reader = Reader::new(bytes, options).unwrap();
    let (mut file, mut database) = (File::default(), 0);
    file.version = reader.version();
    loop {
        match reader.next().unwrap_or_else(|error| panic!("{error}")) {
            Event::SelectDb(index) => database = index,
            Event::Entry(loaded) => {
                let key = loaded.entry.view().key().to_vec();
                let keys: &mut Keys = file.databases.entry(database).or_default();
                assert!(keys.insert(key, loaded.entry).is_none());
            }
            Event::Function(code) => file.functions.push(code),
            Event::Aux { .. } | Event::ResizeDb { .. } => {}
            Event::End => return file,
            other => panic!("unexpected {other:?}"),
        }
    }
}

/// A file of ours, written in slices of so many bytes.
fn write(file: &File, options: WriteOptions, budget: usize) -> Vec<u8> {
    let (mut encoder, mut out) = (Encoder::new(options), Vec::new());
    encoder.header(&mut out);
    encoder.aux(b"redis-ver", b"7.0.15", &mut out);
    for code in &file.functions {
        encoder.function(code, &mut out);
    }
    for (&database, keys) in &file.databases {
        encoder.select_db(database, &mut out);
        encoder.resize_db(keys.len() as u64, 0, &mut out);
        for entry in keys.values() {
            let begun = encoder.begin_entry(entry.view(), Access::default(), &mut out);
            let mut writer = begun.unwrap();
            while !writer.write(entry.view().value(), &mut encoder, budget, &mut out) {}
        }
    }
    encoder.end(Some(Checksum::new()), &mut out);
    out
}

/// What an entry holds, as the replies of the commands that read all of it.
fn content(entry: &Entry) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    match entry.view().value() {
        Value::Text(Text::Bytes { bytes, .. }) => all.push(bytes.to_vec()),
        Value::Text(Text::Integer(number)) => all.push(number.to_string().into_bytes()),
        Value::Text(Text::Packed(text)) => all.push(text.to_vec()),
        Value::List(list) => {
            let mut walk = list.walk(0, Side::Left);
            all.extend(std::iter::from_fn(|| walk.step().map(Element::to_vec)));
        }
        Value::Set(set) => {
            set.for_each(|member| all.push(member.to_vec()));
            all.sort();
        }
        Value::Hash(hash) => {
            let mut pairs = Vec::new();
            hash.for_each(|pair| pairs.push([pair.field.to_vec(), pair.value.to_vec()]));
            pairs.sort();
            all.extend(pairs.into_iter().flatten());
        }
        Value::SortedSet(set) => all.extend(set.iter().flat_map(|scored| {
            [
                scored.member.to_vec(),
                DoubleText::new(scored.score).as_bytes().to_vec(),
            ]
        })),
        Value::Stream(stream) => {
            for entry in stream.walk(StreamId::MIN, StreamId::MAX) {
                all.push(entry.id.to_string().into_bytes());
                all.extend(
                    entry
                        .pairs()
                        .flat_map(|(name, value)| [name.to_vec(), value.to_vec()]),
                );
            }
        }
    }
    all
}

fn flatten(reply: Reply, into: &mut Vec<Vec<u8>>) {
    match reply {
        Reply::Array(parts) => parts.into_iter().for_each(|part| flatten(part, into)),
        part => into.push(bulk(&part)),
    }
}

/// The same of a key of a server.
fn content_there(connection: &mut Connection, key: &[u8], of: Type) -> Vec<Vec<u8>> {
    let words: &[&[u8]] = match of {
        Type::String => &[b"GET", key],
        Type::List => &[b"LRANGE", key, b"0", b"-1"],
        Type::Set => &[b"SMEMBERS", key],
        Type::Hash => &[b"HGETALL", key],
        Type::SortedSet => &[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"],
        Type::Stream => &[b"XRANGE", key, b"-", b"+"],
    };
    let mut all = Vec::new();
    flatten(call(connection, words), &mut all);
    match of {
        Type::Set => all.sort(),
        Type::Hash => {
            let mut pairs: Vec<_> = all.chunks(2).map(<[_]>::to_vec).collect();
            pairs.sort();
            all = pairs.into_iter().flatten().collect();
        }
        Type::String | Type::List | Type::SortedSet | Type::Stream => {}
    }
    all
}

fn assert_same_content(server: &Server, file: &File) {
    let mut connection = server.connect();
    for (database, keys) in &file.databases {
        say(&mut connection, &format!("SELECT {database}"));
        assert_eq!(
            say(&mut connection, "DBSIZE"),
            Reply::Integer(keys.len() as i64)
        );
        for (key, entry) in keys {
            let name = key.escape_ascii();
            let of = entry.view().type_of();
            let there = content_there(&mut connection, key, of);
            assert!(
                content(entry) == there,
                "{name}: {:?} {there:?}",
                content(entry)
            );
            let deadline = entry.view().deadline_ms().unwrap_or(-1);
            let there = call(&mut connection, &[b"PEXPIRETIME", key]);
            assert_eq!(there, Reply::Integer(deadline), "{name}");
        }
    }
}

/// Both servers have the same data, with groups and pending entries of streams.
fn assert_same_servers(one: &Server, other: &Server) {
    let [mut one, mut other] = [one, other].map(Server::connect);
    assert_eq!(
        say(&mut one, "FUNCTION LIST WITHCODE"),
        say(&mut other, "FUNCTION LIST WITHCODE")
    );
    let Reply::Array(keys) = say(&mut one, "KEYS *") else {
        panic!("no keys");
    };
    for key in keys.iter().map(bulk) {
        let words: [&[u8]; 3] = [b"DEBUG", b"DIGEST-VALUE", &key];
        assert_eq!(
            call(&mut one, &words),
            call(&mut other, &words),
            "{}",
            key.escape_ascii()
        );
        if key.starts_with(b"stream") {
            let words: [&[u8]; 5] = [b"XINFO", b"STREAM", &key, b"FULL", b"COUNT"];
            let words: Vec<&[u8]> = words.into_iter().chain([&b"0"[..]]).collect();
            let infos = [&mut one, &mut other].map(|server| stream_info(call(server, &words)));
            assert_eq!(infos[0], infos[1], "{}", key.escape_ascii());
        }
    }
    assert_eq!(
        say(&mut one, "DEBUG DIGEST"),
        say(&mut other, "DEBUG DIGEST")
    );
}

/// What XINFO of 7.0 says of a stream, but for the size of Redis's tree, which has no nodes of deleted entries when it is loaded.
fn stream_info(reply: Reply) -> Vec<Reply> {
    let Reply::Array(fields) = without_new_fields(&reply) else {
        panic!("no fields: {reply:?}");
    };
    let is_kept = |pair: &&[Reply]| pair[0] != Reply::Bulk(b"radix-tree-nodes".to_vec());
    fields
        .chunks(2)
        .filter(is_kept)
        .flatten()
        .cloned()
        .collect()
}

fn load(bytes: &[u8]) -> (Server, ScratchFolder) {
    let folder = ScratchFolder::create().unwrap();
    fs::write(folder.path().join("ours.rdb"), bytes).unwrap();
    let path = folder.path().to_str().unwrap().to_owned();
    let arguments = [
        "--dir",
        &path,
        "--dbfilename",
        "ours.rdb",
        "--sanitize-dump-payload",
        "yes",
    ];
    (redis(&arguments), folder)
}

#[test]
fn a_file_of_redis_is_read_and_its_copy_of_ours_is_loaded_there() {
    for (compression, size) in [("yes", "-2"), ("no", "4")] {
        let arguments = [
            "--rdbcompression",
            compression,
            "--list-max-listpack-size",
            size,
        ];
        let server = redis(&arguments);
        populate(&mut server.connect());
        let bytes = fs::read(save(&server)).unwrap();
        let thresholds = Thresholds::default();
        let file = read(&bytes, &thresholds);
        assert_eq!(file.version, 10);
        assert_same_content(&server, &file);
        let report = check(&bytes[..]);
        assert!(
            report.fault.is_none() && report.trailing_bytes == 0,
            "{report}"
        );
        assert_eq!(report.bytes, bytes.len() as u64);
        for (compress, budget) in [(true, usize::MAX), (false, 1000)] {
            let ours = write(
                &file,
                WriteOptions {
                    version: 10,
                    compress,
                },
                budget,
            );
            let (copy, _folder) = load(&ours);
            assert_same_servers(&server, &copy);
            let again = read(&ours, &thresholds);
            assert_same_content(&copy, &again);
        }
    }
}

#[test]
fn payloads_of_dump_go_both_ways() {
    let (server, copy) = (
        redis(&["--sanitize-dump-payload", "yes"]),
        redis(&["--sanitize-dump-payload", "yes"]),
    );
    let [mut from, mut to] = [&server, &copy].map(Server::connect);
    populate(&mut from);
    let thresholds = Thresholds::default();
    let Reply::Array(keys) = say(&mut from, "KEYS *") else {
        panic!("no keys");
    };
    for (at, key) in keys.iter().map(bulk).enumerate() {
        let payload = bulk(&call(&mut from, &[b"DUMP", &key]));
        let entry = restore(&key, &payload, None, &thresholds);
        let entry = entry.unwrap_or_else(|error| panic!("{error}"));
        let there = content_there(&mut from, &key, entry.view().type_of());
        assert!(content(&entry) == there, "{}", key.escape_ascii());
        let ours = dump(entry.view(), at % 2 == 0);
        let Reply::Integer(deadline) = call(&mut from, &[b"PEXPIRETIME", &key]) else {
            panic!("no deadline");
        };
        let deadline = deadline.max(0).to_string();
        let words: [&[u8]; 5] = [b"RESTORE", &key, deadline.as_bytes(), &ours, b"ABSTTL"];
        call(&mut to, &words);
        let words: [&[u8]; 3] = [b"DEBUG", b"DIGEST-VALUE", &key];
        assert_eq!(
            call(&mut from, &words),
            call(&mut to, &words),
            "{}",
            key.escape_ascii()
        );
    }
}

/// Moves every key by DUMP and RESTORE, and compares what has arrived.
fn move_all(from: &mut Connection, to: &mut Connection) {
    let Reply::Array(keys) = say(from, "KEYS *") else {
        panic!("no keys");
    };
    for key in keys.iter().map(bulk) {
        let payload = bulk(&call(from, &[b"DUMP", &key]));
        let Reply::Integer(deadline) = call(from, &[b"PEXPIRETIME", &key]) else {
            panic!("no deadline");
        };
        let deadline = deadline.max(0).to_string();
        call(
            to,
            &[
                b"RESTORE",
                &key,
                deadline.as_bytes(),
                &payload,
                b"ABSTTL",
                b"REPLACE",
            ],
        );
        let same: [&[&[u8]]; 3] = [
            &[b"DEBUG", b"DIGEST-VALUE", &key],
            &[b"PEXPIRETIME", &key],
            &[b"TYPE", &key],
        ];
        for words in same {
            let name = key.escape_ascii();
            assert_eq!(call(from, words), call(to, words), "{name}");
        }
        if key.starts_with(b"stream") {
            let words: [&[u8]; 6] = [b"XINFO", b"STREAM", &key, b"FULL", b"COUNT", b"0"];
            let infos = [&mut *from, &mut *to].map(|server| stream_info(call(server, &words)));
            assert_eq!(infos[0], infos[1], "{}", key.escape_ascii());
        }
    }
}

/// Options under which collections have their other forms. All servers of a test have the same, since Redis's listpacks of sorted
/// sets do not keep the sign of zero.
const FORMS: [&[&str]; 3] = [
    &[],
    &[
        "--hash-max-listpack-entries",
        "0",
        "--zset-max-listpack-entries",
        "0",
        "--set-max-intset-entries",
        "0",
        "--list-max-listpack-size",
        "3",
        "--list-compress-depth",
        "1",
        "--stream-node-max-entries",
        "2",
    ],
    &[
        "--hash-max-listpack-entries",
        "100000",
        "--hash-max-listpack-value",
        "100000",
        "--zset-max-listpack-entries",
        "100000",
        "--list-max-listpack-size",
        "-5",
    ],
];

#[test]
fn keys_of_redis_move_to_our_server_and_back() {
    for form in FORMS {
        let (server, damselfly, copy) = (redis(form), ours(form), redis(form));
        let [mut from, mut middle, mut to] = [&server, &damselfly, &copy].map(Server::connect);
        populate(&mut from);
        move_all(&mut from, &mut middle);
        say(&mut to, "CONFIG SET sanitize-dump-payload yes");
        move_all(&mut middle, &mut to);
    }
}

#[test]
fn keys_of_our_server_move_to_redis_and_back() {
    for form in FORMS {
        let (damselfly, copy, back) = (ours(form), redis(form), ours(form));
        let [mut from, mut middle, mut to] = [&damselfly, &copy, &back].map(Server::connect);
        populate_both(&mut from);
        say(&mut middle, "CONFIG SET sanitize-dump-payload yes");
        move_all(&mut from, &mut middle);
        move_all(&mut middle, &mut to);
    }
}

#[test]
fn fields_with_deadlines_need_a_newer_version_and_come_back() {
    for form in FORMS {
        let (damselfly, reference) = (ours(form), redis(&[]));
        let [mut connection, mut other] = [&damselfly, &reference].map(Server::connect);
        say(&mut connection, "HSET hash a 1 b 2 c 3");
        let plain = bulk(&say(&mut connection, "DUMP hash"));
        call(&mut other, &[b"RESTORE", b"hash", b"0", &plain]);
        say(&mut connection, "HPEXPIREAT hash 9999999999999 FIELDS 1 a");
        say(&mut connection, "HPEXPIREAT hash 9999999999000 FIELDS 1 b");
        let timed = bulk(&say(&mut connection, "DUMP hash"));
        assert_eq!(version_of(&plain), 10);
        assert_eq!(version_of(&timed), 12);
        let refused = other.call(&[&b"RESTORE"[..], b"timed", b"0", &timed]);
        let error = b"ERR DUMP payload version or checksum are wrong".to_vec();
        assert_eq!(refused.unwrap(), Reply::Error(error));
        call(&mut connection, &[b"RESTORE", b"copy", b"0", &timed]);
        for key in ["hash", "copy"] {
            let times = say(
                &mut connection,
                &format!("HPEXPIRETIME {key} FIELDS 3 a b c"),
            );
            let expected = [9_999_999_999_999, 9_999_999_999_000, -1].map(Reply::Integer);
            assert_eq!(times, Reply::Array(expected.to_vec()), "{key}");
        }
        say(&mut connection, "HPERSIST hash FIELDS 2 a b");
        assert_eq!(version_of(&bulk(&say(&mut connection, "DUMP hash"))), 10);
    }
}

/// The version of a payload.
fn version_of(payload: &[u8]) -> u16 {
    let at = payload.len() - 10;
    u16::from_le_bytes([payload[at], payload[at + 1]])
}

#[test]
fn marks_of_eviction_are_read() {
    for (policy, is_frequency) in [("allkeys-lfu", true), ("allkeys-lru", false)] {
        let server = redis(&["--maxmemory-policy", policy]);
        say(&mut server.connect(), "SET key value");
        let bytes = fs::read(save(&server)).unwrap();
        let thresholds = Thresholds::default();
        let options = ReadOptions {
            thresholds: &thresholds,
            verify_checksum: true,
        };
        let mut reader = Reader::new(&bytes[..], options).unwrap();
        let entry = loop {
            match reader.next().unwrap() {
                Event::Entry(entry) => break entry,
                Event::End => panic!("no entry"),
                _ => {}
            }
        };
        assert_eq!(entry.frequency.is_some(), is_frequency);
        assert_eq!(entry.idle_seconds.is_some(), !is_frequency);
    }
}
