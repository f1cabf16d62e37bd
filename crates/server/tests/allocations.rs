//! Allocations per command: none, except for the entry of a new key.
//!
//! Requests go through parser, dispatcher and engine as in the server's loop, but all on this thread, so that
//! the heap's counter of this thread shows exactly how often they allocate.

#![cfg(debug_assertions)]

use std::os::fd::AsRawFd;
use std::sync::Arc;

use damselfly_base::heap;
use damselfly_config::{Config, Origin, SavePoints};
use damselfly_engine::{Engine, Layout};
use damselfly_server::clients::NewClient;
use damselfly_server::dispatch::Dispatcher;
use damselfly_server::event_loop::connection::Connection;
use damselfly_server::event_loop::input::Batch;
use damselfly_server::event_loop::parser::Protocol;
use damselfly_server::event_loop::stream::Stream;
use damselfly_server::session::Session;
use damselfly_server::shared::Shared;
use damselfly_server::threads::Thread;
use damselfly_server::users::{Login, Users};
use mio::net::UnixStream;
use mio::{Poll, Token, Waker};

#[global_allocator]
static HEAP: heap::Heap = heap::Heap;

const KEYS: usize = 50;

/// A server without an event loop, and one connection to it.
struct Bench {
    dispatcher: Dispatcher,
    connection: Connection,
    batch: Batch,
    _poll: Poll,
    _client: UnixStream,
}

impl Bench {
    fn new() -> Self {
        Self::with_shards(1)
    }

    fn with_shards(shards: usize) -> Self {
        Self::speaking(Protocol::Resp, shards)
    }

    fn speaking(speaks: Protocol, shards: usize) -> Self {
        let poll = Poll::new().expect("an event queue");
        let waker = Waker::new(poll.registry(), Token(0)).expect("a waker");
        let engine = Arc::new(Engine::new(Layout {
            shards,
            databases: 1,
        }));
        let config = Config {
            // An entry in the slow log allocates, and on a busy machine any command can be slow.
            slowlog_log_slower_than_us: -1,
            save: SavePoints(Vec::new()),
            ..Config::default()
        };
        let shared = Arc::new(Shared::new(
            engine,
            vec![Thread::new(waker)],
            config,
            None,
            Users::default(),
        ));
        let (stream, client) = UnixStream::pair().expect("a pair of sockets");
        let seen = shared.clients.add(NewClient {
            id: 1,
            place: 0,
            address: String::from("test"),
            local_address: String::from("test"),
            origin: Origin::Local,
            unix: true,
            encryption: String::new(),
            stream_bytes: 0,
            speaks,
            fd: stream.as_raw_fd(),
            thread: 0,
            is_primary: false,
            account: shared.users.default_account().clone(),
            now_ms: 0,
        });
        for command in &shared.threads[0].counters.commands {
            // The first call makes the histogram.
            command.record(1, true);
        }
        let account = shared.users.default_account().clone();
        let session = Session::new(seen, Login::new(&shared.users, account));
        Self {
            dispatcher: Dispatcher::new(shared, 0),
            connection: Connection::new(Stream::Unix(stream), session),
            batch: Batch::default(),
            _poll: poll,
            _client: client,
        }
    }

    /// Runs a pipeline and returns the number of allocations.
    fn run(&mut self, requests: &mut [u8]) -> u64 {
        let before = heap::allocations();
        let limits = self.connection.limits(&self.dispatcher.config);
        self.connection.output.clear();
        self.batch.clear();
        self.batch
            .parse(&mut self.connection.input.parser, requests, &limits);
        self.dispatcher
            .run(&mut self.connection, &mut self.batch, requests);
        let allocated = heap::allocations() - before;
        assert!(!self.batch.is_unfinished(), "all requests ran");
        let consumed = self.batch.consumed();
        assert_eq!(consumed, requests.len(), "all bytes are parsed");
        allocated
    }

    /// The same, and checks that each request got this reply.
    fn expect(&mut self, requests: &mut [u8], reply: &[u8]) -> u64 {
        let allocated = self.run(requests);
        assert!(
            self.connection.output == reply.repeat(KEYS),
            "{}",
            self.connection.output.escape_ascii()
        );
        allocated
    }
}

/// One request per key: the command, the key, and more arguments.
fn requests(command: &str, prefix: &str, more: &[&[u8]]) -> Vec<u8> {
    let mut requests = Vec::new();
    for index in 0..KEYS {
        let key = format!("{prefix}:{index:04}");
        let words = [command.as_bytes(), key.as_bytes()];
        requests.extend(format!("*{}\r\n", words.len() + more.len()).bytes());
        for word in words.iter().chain(more) {
            requests.extend(format!("${}\r\n", word.len()).bytes());
            requests.extend_from_slice(word);
            requests.extend_from_slice(b"\r\n");
        }
    }
    requests
}

/// Binary data, text that is packed in two ways, and a short string.
fn values() -> [Vec<u8>; 4] {
    [
        vec![0xff; 300],
        b"some text ".repeat(30),
        b"0123456789abcdef".repeat(20),
        b"short".to_vec(),
    ]
}

#[test]
fn reading_and_overwriting_allocate_nothing() {
    for value in values() {
        let mut bench = Bench::new();
        let header = format!("${}\r\n", value.len());
        let reply = [header.as_bytes(), &value, b"\r\n"].concat();
        let other = &value[..value.len() - 1];
        // The first round creates the entries, and buffers of sufficient size.
        for warm in [false, true] {
            let allocated = [
                bench.expect(&mut requests("SET", "key", &[&value]), b"+OK\r\n"),
                bench.expect(&mut requests("GET", "key", &[]), &reply),
                bench.expect(&mut requests("SET", "key", &[other]), b"+OK\r\n"),
                bench.run(&mut requests("GETRANGE", "key", &[b"1", b"3"])),
                bench.run(&mut requests("STRLEN", "key", &[])),
            ];
            let text = value.escape_ascii();
            assert!(!warm || allocated == [0; 5], "{allocated:?} for {text}");
        }
    }
}

/// A memcached request for each key: `{}` stands for the key.
fn memcached_requests(request: &str) -> Vec<u8> {
    let request = |index| request.replace("{}", &format!("key:{index:04}"));
    (0..KEYS)
        .flat_map(|index| request(index).into_bytes())
        .collect()
}

#[test]
fn memcached_clients_allocate_nothing_but_new_entries() {
    for flags in [0, 7] {
        let mut bench = Bench::speaking(Protocol::Memcached, 1);
        let set = format!("set {{}} {flags} 0 5\r\nvalue\r\n");
        let other = format!("set {{}} {flags} 0 5\r\nother\r\n");
        for warm in [false, true] {
            let allocated = [
                bench.expect(&mut memcached_requests(&set), b"STORED\r\n"),
                bench.run(&mut memcached_requests("get {}\r\n")),
                bench.run(&mut memcached_requests("get {} nosuch\r\n")),
                bench.run(&mut memcached_requests("mg {} v f\r\n")),
                bench.expect(&mut memcached_requests(&other), b"STORED\r\n"),
                bench.expect(&mut memcached_requests("ms {} 5 q\r\nthird\r\n"), b""),
            ];
            // A change of flags from 7 to 0 makes a smaller entry.
            let changes = if flags == 0 { 0 } else { 2 };
            let all: u64 = allocated.iter().sum();
            assert!(!warm || all <= changes * KEYS as u64, "{allocated:?}");
            assert!(!warm || allocated[1..5] == [0; 4], "{allocated:?}");
        }
    }
}

#[test]
fn counting_allocates_nothing() {
    let mut bench = Bench::new();
    bench.run(&mut requests("SET", "counter", &[b"100"]));
    bench.run(&mut requests("INCR", "counter", &[]));
    let allocated = bench.expect(&mut requests("INCR", "counter", &[]), b":102\r\n");
    assert_eq!(allocated, 0);
    let allocated = bench.expect(&mut requests("INCRBY", "counter", &[b"50"]), b":152\r\n");
    assert_eq!(allocated, 0);
}

#[test]
fn publishing_without_subscribers_allocates_nothing() {
    let mut bench = Bench::new();
    let mut publish = requests("PUBLISH", "channel", &[b"message"]);
    bench.expect(&mut publish, b":0\r\n");
    assert_eq!(bench.expect(&mut publish, b":0\r\n"), 0);
}

#[test]
fn a_new_key_allocates_its_entry_and_nothing_else() {
    for value in values() {
        let mut bench = Bench::new();
        // After removing the keys, the table still has room for them.
        bench.run(&mut requests("SET", "old", &[&value]));
        bench.run(&mut requests("SET", "key", &[&value]));
        bench.run(&mut requests("DEL", "key", &[]));
        let allocated = bench.expect(&mut requests("SET", "key", &[&value]), b"+OK\r\n");
        assert_eq!(
            allocated,
            KEYS as u64,
            "entries for {}",
            value.escape_ascii()
        );
        let allocated = bench.expect(&mut requests("DEL", "key", &[]), b":1\r\n");
        assert_eq!(allocated, 0, "DEL");
    }
}

/// For hashes in the small form and in the large one.
#[test]
fn reading_and_overwriting_fields_allocates_nothing() {
    let value = vec![0xff; 40];
    let reply = [b"$40\r\n".as_slice(), &value, b"\r\n"].concat();
    for more in [&b"short"[..], &[b'x'; 200]] {
        let mut bench = Bench::new();
        for warm in [false, true] {
            let allocated = [
                bench.run(&mut requests("HSET", "hash", &[b"a", &value, b"b", more])),
                bench.expect(&mut requests("HGET", "hash", &[b"a"]), &reply),
                bench.expect(&mut requests("HSET", "hash", &[b"a", &value]), b":0\r\n"),
                bench.expect(&mut requests("HLEN", "hash", &[]), b":2\r\n"),
                bench.run(&mut requests("HGETALL", "hash", &[])),
                bench.run(&mut requests("HINCRBY", "counts", &[b"n", b"1000"])),
            ];
            assert!(!warm || allocated == [0; 6], "{allocated:?}");
        }
        let allocated = bench.run(&mut requests("HINCRBY", "counts", &[b"n", b"1"]));
        assert_eq!(allocated, 0);
    }
}

#[test]
fn pushing_and_popping_allocates_nothing() {
    let element = [b'e'; 16];
    // Ten elements are a listpack, six hundred a chain.
    for count in [10, 600] {
        let mut bench = Bench::new();
        bench.run(&mut requests("RPUSH", "key", &vec![&element[..]; count]));
        // A chain adds a node for the first element that does not fit, which then has room for the next ones.
        bench.run(&mut requests("LPUSH", "key", &[&element]));
        let longer = format!(":{}\r\n", count + 2);
        let popped = [b"$16\r\n", &element[..], b"\r\n"].concat();
        for warm in [false, true] {
            let allocated = [
                bench.expect(
                    &mut requests("LPUSH", "key", &[&element]),
                    longer.as_bytes(),
                ),
                bench.expect(&mut requests("RPOP", "key", &[]), &popped),
                bench.expect(
                    &mut requests("RPUSH", "key", &[&element]),
                    longer.as_bytes(),
                ),
                bench.expect(&mut requests("LPOP", "key", &[]), &popped),
                bench.expect(&mut requests("LINDEX", "key", &[b"5"]), &popped),
                bench.run(&mut requests("LRANGE", "key", &[b"2", b"7"])),
                bench.run(&mut requests("LPOS", "key", &[b"f", b"MAXLEN", b"100"])),
            ];
            assert!(!warm || allocated == [0; 7], "{count}: {allocated:?}");
        }
    }
}

#[test]
fn sets_allocate_their_members_and_nothing_else() {
    for member in [&b"12"[..], b"member", &[b'x'; 100]] {
        let mut bench = Bench::new();
        // After a member was removed, each form has room for another one.
        bench.run(&mut requests("SADD", "set", &[b"3", member]));
        bench.run(&mut requests("SREM", "set", &[member]));
        // This makes the output buffer large enough.
        bench.run(&mut requests("SMEMBERS", "set", &[]));
        let allocated = [
            bench.expect(&mut requests("SADD", "set", &[b"3"]), b":0\r\n"),
            bench.expect(&mut requests("SISMEMBER", "set", &[member]), b":0\r\n"),
            bench.expect(&mut requests("SCARD", "set", &[]), b":1\r\n"),
            bench.expect(&mut requests("SMEMBERS", "set", &[]), b"*1\r\n$1\r\n3\r\n"),
            bench.expect(&mut requests("SRANDMEMBER", "set", &[]), b"$1\r\n3\r\n"),
            bench.expect(&mut requests("SREM", "set", &[member]), b":0\r\n"),
        ];
        assert_eq!(allocated, [0; 6], "{}", member.escape_ascii());
        let allocated = bench.expect(&mut requests("SADD", "set", &[member]), b":1\r\n");
        assert!(
            allocated <= KEYS as u64,
            "{allocated} for {}",
            member.escape_ascii()
        );
    }
}

/// MULTI, a command for each key of the given prefix, EXEC.
fn transaction(command: &str, prefix: &str, more: &[&[u8]]) -> Vec<u8> {
    let multi = b"*1\r\n$5\r\nMULTI\r\n".to_vec();
    let exec = b"*1\r\n$4\r\nEXEC\r\n".to_vec();
    [multi, requests(command, prefix, more), exec].concat()
}

#[test]
fn a_transaction_allocates_nothing_but_new_entries() {
    for shards in [1, 64] {
        let mut bench = Bench::with_shards(shards);
        for warm in [false, true] {
            let allocated = [
                bench.run(&mut transaction("SET", "key", &[b"value"])),
                bench.run(&mut transaction("GET", "key", &[])),
                bench.run(&mut transaction("INCRBY", "number", &[b"12"])),
            ];
            assert!(!warm || allocated == [0; 3], "{allocated:?}");
        }
        let new = bench.run(&mut transaction("SET", "new", &[b"value"]));
        // Tables may grow, too. How many do is random.
        assert!(new < KEYS as u64 * 2, "{new}");
    }
}

#[test]
fn sorted_sets_allocate_their_members_and_nothing_else() {
    // The second member turns the sorted set into a large one.
    for member in [&b"member"[..], &[b'x'; 100]] {
        let mut bench = Bench::new();
        bench.run(&mut requests("ZADD", "key", &[b"1.5", b"a", b"2", member]));
        bench.run(&mut requests("ZREM", "key", &[b"a"]));
        bench.run(&mut requests("ZADD", "key", &[b"1", b"a"]));
        bench.run(&mut requests("ZRANGE", "key", &[b"0", b"-1"]));
        let allocated = [
            bench.expect(&mut requests("ZADD", "key", &[b"3.25", member]), b":0\r\n"),
            bench.expect(
                &mut requests("ZINCRBY", "key", &[b"1", b"a"]),
                b"$1\r\n2\r\n",
            ),
            bench.expect(&mut requests("ZSCORE", "key", &[b"a"]), b"$1\r\n2\r\n"),
            bench.expect(&mut requests("ZRANK", "key", &[b"a"]), b":0\r\n"),
            bench.expect(&mut requests("ZCARD", "key", &[]), b":2\r\n"),
            bench.expect(&mut requests("ZCOUNT", "key", &[b"(2", b"inf"]), b":1\r\n"),
            bench.run(&mut requests("ZRANGE", "key", &[b"0", b"0", b"WITHSCORES"])),
            bench.run(&mut requests(
                "ZRANGEBYSCORE",
                "key",
                &[b"0", b"2", b"LIMIT", b"0", b"1"],
            )),
            bench.expect(&mut requests("ZREM", "key", &[b"other"]), b":0\r\n"),
        ];
        assert_eq!(allocated, [0; 9], "{}", member.escape_ascii());
        let allocated = bench.expect(&mut requests("ZADD", "key", &[b"2", b"new"]), b":1\r\n");
        let member = member.escape_ascii();
        assert!(allocated <= KEYS as u64, "{allocated} for {member}");
    }
}
