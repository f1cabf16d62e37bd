//! What a command allocates: nothing, but for the entry of a new key.
//!
//! Requests go through parser, dispatcher and engine as in the server's loop, on this thread alone, so that
//! the heap's count per thread tells exactly what they cost.

#![cfg(debug_assertions)]

use std::os::fd::AsRawFd;
use std::sync::Arc;

use damselfly_base::heap;
use damselfly_engine::{Engine, Rule};
use damselfly_server::clients::NewClient;
use damselfly_server::config::{Config, Origin};
use damselfly_server::connection::{Batch, Connection};
use damselfly_server::dispatch::Dispatcher;
use damselfly_server::listener::Stream;
use damselfly_server::session::Session;
use damselfly_server::shared::{Shared, Thread};
use mio::net::UnixStream;
use mio::{Poll, Token, Waker};

#[global_allocator]
static HEAP: heap::Heap = heap::Heap;

const KEYS: usize = 50;

/// A server without its loop, and one connection to it.
struct Bench {
    dispatcher: Dispatcher,
    connection: Connection,
    batch: Batch,
    _poll: Poll,
    _client: UnixStream,
}

impl Bench {
    fn new() -> Self {
        let poll = Poll::new().expect("an event queue");
        let waker = Waker::new(poll.registry(), Token(0)).expect("a waker");
        let engine = Arc::new(Engine::new(Rule {
            shards: 1,
            databases: 1,
        }));
        let config = Config::default();
        let shared = Arc::new(Shared::new(engine, vec![Thread::new(waker)], config, None));
        let (stream, client) = UnixStream::pair().expect("a pair of sockets");
        let seen = shared.clients.add(NewClient {
            id: 1,
            place: 0,
            address: String::from("test"),
            local_address: String::from("test"),
            origin: Origin::Local,
            unix: true,
            fd: stream.as_raw_fd(),
            thread: 0,
            now_ms: 0,
        });
        let session = Session::new(seen, &shared.config());
        Self {
            dispatcher: Dispatcher::new(shared, 0),
            connection: Connection::new(Stream::Unix(stream), session),
            batch: Batch::default(),
            _poll: poll,
            _client: client,
        }
    }

    /// Runs a pipeline and returns how often it allocated.
    fn run(&mut self, requests: &mut [u8]) -> u64 {
        let before = heap::allocations();
        let limits = self.connection.limits(&self.dispatcher.config);
        self.connection.output.clear();
        self.batch.clear();
        self.batch
            .parse(&mut self.connection.parser, requests, &limits);
        self.dispatcher
            .run(&mut self.connection, &mut self.batch, requests);
        let allocated = heap::allocations() - before;
        assert!(!self.batch.has_next(), "all requests ran");
        assert_eq!(self.batch.parsed, requests.len(), "all bytes are parsed");
        allocated
    }

    /// The same, and checks that each of the requests got this reply.
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

/// One request per key: the command, the key, more arguments.
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

/// Binary, text that is packed in two ways, and a short string.
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
        // The first round makes the entries, and buffers of sufficient size.
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
fn a_new_key_allocates_its_entry_and_nothing_else() {
    for value in values() {
        let mut bench = Bench::new();
        // Removing the keys leaves the table as large as they need it.
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

/// In the small form and in the large one.
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
