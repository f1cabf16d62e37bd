//! memcached clients on the data of RESP: what each sees of the other, and clients that misbehave.

mod access;
#[path = "../common/mod.rs"]
mod common;
mod crawler;
mod limits;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::time::{Duration, UNIX_EPOCH};

use common::{Client, TestServer, until};
use damselfly_config::{Allow, Config};

const PATIENCE: Duration = Duration::from_secs(20);

/// The reply to the request that marks the end of a reply.
const END: &[u8] = b"EN k!end\r\n";

/// A server with a port for memcached clients.
struct Cache {
    server: TestServer,
    port: u16,
}

impl Cache {
    fn start() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let server = TestServer::with(|config| {
            config.memcached_port = port;
            change(config);
        });
        Self { server, port }
    }

    fn redis(&self) -> Client {
        self.server.client()
    }

    fn memcached(&self) -> Memcached {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Memcached(stream)
    }
}

struct Memcached(TcpStream);

impl Memcached {
    fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// Sends lines and returns all replies, with `|` for line ends.
    fn run(&mut self, lines: &str) -> String {
        self.send(lines.replace('|', "\r\n").as_bytes());
        self.send(b"\r\nmg !end k\r\n");
        let reply = self.read_until(|reply| reply.ends_with(END));
        let reply = String::from_utf8(reply[..reply.len() - END.len()].to_vec()).unwrap();
        reply.trim_end().replace("\r\n", "|")
    }

    fn read_until(&mut self, is_complete: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        let (mut reply, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
        while !is_complete(&reply) {
            match self.0.read(&mut buffer) {
                Ok(0) => break,
                Ok(len) => reply.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("{error} after {}", reply.escape_ascii()),
            }
        }
        reply
    }

    /// All that arrives until the server closes the connection.
    fn until_closed(&mut self) -> Vec<u8> {
        self.read_until(|_| false)
    }

    /// The CAS number of a key.
    fn cas(&mut self, key: &str) -> String {
        let reply = self.run(&format!("gets {key}"));
        let line = reply.split('|').next().unwrap();
        line.split(' ').nth(4).expect("a number").to_owned()
    }
}

#[test]
fn both_protocols_use_the_same_strings() {
    let cache = Cache::start();
    let (mut redis, mut memcached) = (cache.redis(), cache.memcached());
    assert_eq!(memcached.run("set a 5 100 3|abc"), "STORED");
    assert_eq!(redis.run("GET a"), "\"abc\"");
    assert!(matches!(redis.number("TTL a"), 99..=100));
    assert_eq!(redis.run("SET b value EX 50"), "OK");
    assert_eq!(
        memcached.run("get a b"),
        "VALUE a 5 3|abc|VALUE b 0 5|value|END"
    );
    assert_eq!(memcached.run("mg b t"), "HD t50");
    // A change by RESP drops the flags.
    redis.run("APPEND a d");
    assert_eq!(memcached.run("get a"), "VALUE a 0 4|abcd|END");
    // Each counts by its own rules.
    redis.run("SET n -5");
    let not_a_number = "CLIENT_ERROR cannot increment or decrement non-numeric value";
    assert_eq!(memcached.run("incr n 1"), not_a_number);
    assert_eq!(memcached.run("set n 0 0 20|18446744073709551615"), "STORED");
    assert!(redis.run("INCR n").contains("not an integer"));
    assert_eq!(memcached.run("set n 0 0 1|7"), "STORED");
    assert_eq!(redis.number("INCR n"), 8);
    assert_eq!(memcached.run("incr n 2"), "10");
    assert_eq!(redis.run("OBJECT ENCODING n"), "\"int\"");
    // Packed text, and a binary value.
    let long = "some text ".repeat(30);
    redis.run_words(&["SET", "long", &long]);
    let long = long.trim_end();
    redis.run_words(&["SET", "long", long]);
    assert_eq!(
        memcached.run("get long"),
        format!("VALUE long 0 299|{long}|END")
    );
    redis.run("SELECT 1");
    assert_eq!(redis.run("GET a"), "(nil)", "only database 0 is shared");
}

#[test]
fn a_collection_is_an_error_and_not_a_wrong_answer() {
    let cache = Cache::start();
    let (mut redis, mut memcached) = (cache.redis(), cache.memcached());
    redis.run("RPUSH list a b");
    let error = "SERVER_ERROR WRONGTYPE Operation against a key holding the wrong kind of value";
    for request in [
        "get list",
        "gets a list b",
        "gat 0 list",
        "append list 0 0 1|x",
        "prepend list 0 0 1|x",
        "cas list 0 0 1 5|x",
        "incr list 1",
        "decr list 1",
        "mg list v",
        "mg list s",
        "md list I",
        "ms list 1 MA|x",
        "ma list",
        "me list",
    ] {
        assert_eq!(memcached.run(request), error, "{request}");
    }
    for (request, reply) in [
        ("append list 0 0 1 noreply|x", ""),
        ("incr list 1 noreply", ""),
        ("add list 0 0 1|x", "NOT_STORED"),
        ("touch list 100", "TOUCHED"),
    ] {
        assert_eq!(memcached.run(request), reply, "{request}");
    }
    assert_eq!(redis.number("LLEN list"), 2);
    assert_eq!(memcached.run("set list 0 0 1|x"), "STORED");
    assert_eq!(redis.run("TYPE list"), "string");
    redis.run("DEL list");
    redis.run("RPUSH list a b");
    assert_eq!(memcached.run("delete list"), "DELETED");
}

/// After each change, made by either protocol, a CAS number from before it must not be accepted. After what is not a change, it must.
#[test]
fn a_cas_number_is_valid_until_the_next_change_by_either_protocol() {
    let cache = Cache::start();
    let (mut redis, mut memcached) = (cache.redis(), cache.memcached());
    for (change, is_change) in [
        ("SET k 12", true),
        ("SET k 12 KEEPTTL", true),
        ("GETSET k 12", true),
        ("MSET k 12", true),
        ("APPEND k 3", true),
        ("SETRANGE k 0 1", true),
        ("INCR k", true),
        ("INCRBYFLOAT k 1", true),
        ("DEL k", true),
        ("UNLINK k", true),
        ("GETDEL k", true),
        ("PEXPIRE k -1", true),
        ("RENAME k other,RENAME other k", true),
        ("MOVE k 1,SELECT 1,MOVE k 0,SELECT 0", true),
        ("COPY k other,COPY other k REPLACE", true),
        ("SET other 12,RENAME other k", true),
        ("RPUSH list a,RENAME list k,DEL k", true),
        ("FLUSHALL", true),
        ("FLUSHDB ASYNC", true),
        ("MULTI,SET k 12,EXEC", true),
        ("EVAL return(redis.call('set','k','12')) 0", true),
        ("GET k", false),
        ("EXPIRE k 100", false),
        ("PERSIST k", false),
        ("OBJECT ENCODING k", false),
        ("GETEX k EX 100", false),
        ("SELECT 1,SET k 12,SELECT 0", false),
        ("SET other 12", false),
    ] {
        memcached.run("set k 7 0 2|12");
        let number = memcached.cas("k");
        assert_eq!(memcached.cas("k"), number, "it stays while the value does");
        for command in change.split(',').filter(|_| !change.starts_with("EVAL")) {
            redis.run(command);
        }
        if change.starts_with("EVAL") {
            redis.run_words(&["EVAL", "return redis.call('set', 'k', '12')", "0"]);
        }
        memcached.run("add k 7 0 2|12");
        let stored = memcached.run(&format!("cas k 0 0 3 {number}|new"));
        assert_eq!(stored != "STORED", is_change, "{change}: {stored}");
    }
    for (change, is_change) in [
        ("set k 7 0 2|12", true),
        ("replace k 7 0 2|12", true),
        ("append k 0 0 0|", true),
        ("incr k 0", true),
        ("delete k", true),
        ("flush_all", true),
        ("md k I", true),
        ("ms k 2|12", true),
        ("ma k D0", true),
        ("touch k -1", true),
        ("touch k 100", false),
        ("gat 0 k", false),
        ("mg k v h t T100", false),
        ("add k 0 0 1|1", false),
    ] {
        memcached.run("set k 7 0 2|12");
        let number = memcached.cas("k");
        memcached.run(change);
        memcached.run("add k 7 0 2|12");
        let stored = memcached.run(&format!("cas k 0 0 3 {number}|new"));
        assert_eq!(stored != "STORED", is_change, "{change}: {stored}");
    }
    // Numbers of a key only grow.
    let mut last = 0;
    for _ in 0..100 {
        memcached.run("set k 0 0 1|x");
        let number = memcached.cas("k").parse::<u64>().unwrap();
        assert!(number > last);
        last = number;
    }
}

/// Flags and CAS numbers take memory only where there are some.
#[test]
fn a_key_without_flags_takes_as_much_memory_as_one_of_redis() {
    let cache = Cache::start();
    let (mut redis, mut memcached) = (cache.redis(), cache.memcached());
    // The block of the next size class begins at one byte more.
    let (key, value) = ("key-of-16-bytes!", "x".repeat(32 + 10));
    redis.run(&format!("SET {key} {value}"));
    let bytes = redis.number(&format!("MEMORY USAGE {key}"));
    let len = value.len();
    assert_eq!(
        memcached.run(&format!("set {key} 0 0 {len}|{value}")),
        "STORED"
    );
    assert_eq!(redis.number(&format!("MEMORY USAGE {key}")), bytes);
    memcached.run(&format!("set {key} 7 0 {len}|{value}"));
    memcached.run(&format!("gets {key}"));
    let with_both = redis.number(&format!("MEMORY USAGE {key}"));
    assert!(with_both > bytes && with_both <= bytes + 32, "{with_both}");
    memcached.run(&format!("set {key} 0 0 {len}|{value}"));
    assert_eq!(redis.number(&format!("MEMORY USAGE {key}")), bytes);
}

#[test]
fn observers_of_redis_see_what_memcached_clients_do() {
    let cache = Cache::with(|config| config.notify_keyspace_events = String::from("KEA"));
    let mut memcached = cache.memcached();
    let mut subscriber = cache.redis();
    subscriber.run("PSUBSCRIBE __keyevent@0__:*");
    for (request, events) in [
        ("set k 0 0 1|1", &["set"][..]),
        ("set k 0 100 1|1", &["set", "expire"]),
        ("append k 0 0 1|0", &["append"]),
        ("incr k 5", &["incrby"]),
        ("touch k 0", &["persist"]),
        ("gat 50 k", &["expire"]),
        ("delete k", &["del"]),
        ("ms k 1|x", &["set"]),
        ("md k", &["del"]),
    ] {
        memcached.run(request);
        for event in events {
            let message = subscriber.receive();
            assert!(
                message.contains(&format!("__:{event}\"")),
                "{request}: {message}"
            );
        }
    }
    let mut watcher = cache.redis();
    watcher.run("WATCH k");
    memcached.run("set k 0 0 1|x");
    watcher.run("MULTI");
    watcher.run("GET k");
    assert_eq!(watcher.run("EXEC"), "(nil)");
    let mut tracker = cache.redis();
    tracker.run("HELLO 3");
    tracker.run("CLIENT TRACKING ON");
    tracker.run("GET k");
    memcached.run("set k 0 0 1|y");
    assert!(tracker.receive().contains("invalidate"));
    let mut monitor = cache.redis();
    monitor.run("MONITOR");
    memcached.run("get k");
    assert!(monitor.receive().ends_with("\"get\" \"k\""));
}

#[test]
fn statistics_show_memcached_clients_and_their_commands() {
    let cache = Cache::start();
    let (mut redis, mut memcached) = (cache.redis(), cache.memcached());
    memcached
        .run("set k 0 0 1|x|get k|get k nosuch|delete nosuch|incr nosuch 1|touch k 5|nonsense");
    let list = redis.text("CLIENT LIST");
    let line = list.lines().find(|line| line.contains("resp=0")).unwrap();
    assert!(line.contains("cmd=memcached|"), "{line}");
    assert!(
        redis
            .text("INFO clients")
            .contains("memcached_clients:1\r\n")
    );
    let stats = redis.text("INFO commandstats");
    assert!(stats.contains("cmdstat_memcached|get:calls=2"), "{stats}");
    assert!(stats.contains("cmdstat_memcached|set:calls=1"), "{stats}");
    let stats = memcached.run("stats");
    for figure in [
        "cmd_get 4",
        "get_hits 2",
        "get_misses 2",
        "cmd_set 1",
        "delete_misses 1",
        "incr_misses 1",
        "touch_hits 1",
        "curr_items 1",
        "threads 4",
    ] {
        assert!(
            stats.contains(&format!("STAT {figure}|")),
            "{figure} in {stats}"
        );
    }
    assert!(
        memcached
            .run("stats settings")
            .contains("STAT item_size_max 1048576|")
    );
    assert!(
        memcached
            .run("stats items")
            .contains("STAT items:1:number 1|")
    );
    assert!(
        memcached
            .run("stats slabs")
            .contains("STAT active_slabs 1|")
    );
    assert!(
        memcached
            .run("stats conns")
            .contains(":addr tcp:127.0.0.1:")
    );
    assert!(
        memcached
            .run("stats cachedump 1 0")
            .starts_with("ITEM k [1 b; ")
    );
    assert_eq!(memcached.run("stats cachedump 2 0"), "END");
    assert_eq!(memcached.run("stats reset"), "RESET");
    assert!(memcached.run("stats").contains("STAT cmd_set 0|"));
}

/// Serializers of clients note in the flags how a value is to be read: without them, all values would be misread after a restart.
#[test]
fn flags_and_marks_of_items_are_in_the_snapshot() {
    let cache = Cache::with(|config| config.enable_debug_command = Allow::Yes);
    let (mut redis, mut memcached) = (cache.redis(), cache.memcached());
    memcached
        .run("set plain 0 0 1|1|set few 7 0 1|2|set most 4294967295 600 3|abc|set old 5 0 1|x");
    memcached.run("md old I|mg old v");
    let lines = "mg plain f v|mg few f v|mg most f v|mg old f v";
    let before = "VA 1 f0|1|VA 1 f7|2|VA 3 f4294967295|abc|VA 1 f5 Z X|x";
    assert_eq!(memcached.run(lines), before);
    assert_eq!(redis.run("DEBUG RELOAD"), "OK");
    assert_eq!(memcached.run(lines), before);
}

#[test]
fn a_pause_holds_back_the_writes_of_memcached_clients() {
    let cache = Cache::start();
    let (mut redis, mut memcached) = (cache.redis(), cache.memcached());
    memcached.run("set k 0 0 1|x");
    for write in ["set k 0 0 1|y", "flush_all", "delete k", "mg new N5"] {
        redis.run("CLIENT PAUSE 100000 WRITE");
        assert_eq!(memcached.run("mg nosuch"), "EN", "reads go on");
        memcached.send(format!("{write}|").replace('|', "\r\n").as_bytes());
        until("the write waits", || {
            redis.text("INFO clients").contains("blocked_clients:1")
        });
        redis.run("CLIENT UNPAUSE");
        let reply = memcached.read_until(|reply| reply.ends_with(b"\r\n"));
        assert!(!reply.is_empty(), "{write}");
    }
}

/// Bug: a delayed `flush_all` emptied a server though its writes were paused, or though it was a replica by then.
#[test]
fn a_delayed_flush_waits_for_the_end_of_a_pause() {
    let cache = Cache::start();
    let (mut redis, mut memcached) = (cache.redis(), cache.memcached());
    redis.run("SET key x");
    assert_eq!(memcached.run("flush_all 1"), "OK");
    redis.run("CLIENT PAUSE 100000 WRITE");
    std::thread::sleep(Duration::from_millis(1300));
    assert_eq!(redis.text("GET key"), "x");
    redis.run("CLIENT UNPAUSE");
    until("it is flushed", || redis.run("GET key") == "(nil)");
    assert_eq!(memcached.run("flush_all 1"), "OK");
    redis.run("SET key x");
    redis.run("REPLICAOF 127.0.0.1 1");
    std::thread::sleep(Duration::from_millis(1300));
    assert_eq!(redis.text("GET key"), "x");
    redis.run("REPLICAOF NO ONE");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(redis.text("GET key"), "x");
}

/// Bug: `noreply` did not hold while a script was busy, so later replies were taken for others.
#[test]
fn noreply_holds_while_a_script_is_busy() {
    let cache = Cache::with(|config| config.busy_reply_threshold_ms = 10);
    let (mut script, mut redis, mut memcached) = (cache.redis(), cache.redis(), cache.memcached());
    script.send_words(&[
        "EVAL",
        "while true do redis.call('GET', KEYS[1]) end",
        "1",
        "key",
    ]);
    until("the script is busy", || {
        memcached.run("get key").contains("BUSY")
    });
    assert_eq!(
        memcached.run("set key 0 0 1 noreply|x|incr key 1 noreply|mn"),
        "MN"
    );
    assert_eq!(redis.run("SCRIPT KILL"), "OK");
    assert!(script.receive().contains("killed"));
}

#[test]
fn a_memcached_client_gets_no_messages_of_redis() {
    let cache = Cache::start();
    let (mut redis, mut memcached) = (cache.redis(), cache.memcached());
    memcached.run("get a");
    let list = redis.text("CLIENT LIST");
    let line = list.lines().find(|line| line.contains("resp=0")).unwrap();
    let id = line.split([' ', '=']).nth(1).unwrap();
    redis.run(&format!("CLIENT TRACKING ON REDIRECT {id}"));
    for round in 0..3 {
        redis.run("GET k");
        redis.run(&format!("SET k {round}"));
        assert_eq!(memcached.run("mn"), "MN");
    }
}

#[test]
fn gat_that_fails_changes_no_expiry() {
    let cache = Cache::start();
    let (mut redis, mut memcached) = (cache.redis(), cache.memcached());
    memcached.run("set a 0 0 1|x|set b 0 0 1|x");
    redis.run("LPUSH list x");
    for expiry in ["1000", "-1"] {
        let reply = memcached.run(&format!("gat {expiry} a list b"));
        assert!(reply.starts_with("SERVER_ERROR WRONGTYPE"), "{reply}");
        assert_eq!(redis.run("TTL a"), "(integer) -1");
    }
}
