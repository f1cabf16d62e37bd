//! `maxmemory` and memory that evicting keys does not free: interpreters, client buffers, function libraries. Such memory must
//! never cause the server to evict the whole cache, nor to refuse writes while the policy allows eviction.
//!
//! Each test starts its own server.

mod memory_common;

use damselfly_oracle::connection::{Connection, request};
use damselfly_oracle::server::{Program, Server};
use memory_common::{text, until};

const MIB: usize = 1 << 20;
const KEYS: usize = 10_000;
const VALUE_BYTES: usize = 1000;
/// The memory for keys and everything else: about twice what the keys take.
const ROOM_BYTES: usize = 20 * MIB;
/// At least this many keys remain, whatever else takes memory: half of [`ROOM_BYTES`] is reserved for keys.
const KEYS_KEPT: usize = 6000;
const OUT_OF_MEMORY: &str = "OOM command not allowed when used memory > 'maxmemory'.";

struct Cache {
    server: Server,
    connection: Connection,
}

impl Cache {
    /// A server whose keys take about half of [`ROOM_BYTES`].
    fn filled(policy: &str) -> Self {
        let arguments = ["--maxmemory-policy", policy, "--threads", "2"];
        let server = Server::start(&Program::subject(), &arguments).unwrap();
        let connection = server.connect();
        let mut cache = Self { server, connection };
        cache.limit_to(ROOM_BYTES);
        assert_eq!(cache.set_all("key", KEYS, VALUE_BYTES), 0);
        assert_eq!(cache.number(&["DBSIZE"]), KEYS);
        cache
    }

    fn limit_to(&mut self, room: usize) {
        let limit = (self.info("used_memory") + room).to_string();
        assert_eq!(self.run(&["CONFIG", "SET", "maxmemory", &limit]), "OK");
    }

    fn run(&mut self, arguments: &[&str]) -> String {
        text(&self.connection.call(arguments).unwrap())
    }

    fn number(&mut self, arguments: &[&str]) -> usize {
        let text = self.run(arguments);
        text.parse()
            .unwrap_or_else(|_| panic!("{arguments:?}: {text}"))
    }

    fn info(&mut self, field: &str) -> usize {
        let info = self.run(&["INFO", "everything"]);
        let mut lines = info.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(name, _)| *name == field).unwrap();
        value.parse().unwrap()
    }

    /// Sets `count` keys; returns how many were refused.
    fn set_all(&mut self, prefix: &str, count: usize, bytes: usize) -> usize {
        const BATCH: usize = 500;
        let value = "x".repeat(bytes);
        let mut refused = 0;
        for start in (0..count).step_by(BATCH) {
            let numbers = start..count.min(start + BATCH);
            let requests: Vec<_> = numbers
                .clone()
                .map(|number| request(&["SET", &format!("{prefix}{number}"), &value]))
                .collect();
            self.connection.send(&requests.concat()).unwrap();
            for _ in numbers {
                match &*text(&self.connection.receive().unwrap()) {
                    "OK" => {}
                    OUT_OF_MEMORY => refused += 1,
                    other => panic!("{other}"),
                }
            }
        }
        refused
    }

    /// Asserts that writes succeed and that most keys remain after the background has had time to evict.
    fn assert_works(&mut self, what: &str) {
        // Every second write evicts for at most half a millisecond.
        assert_eq!(self.set_all("new", 2000, VALUE_BYTES), 0, "{what}");
        let evicted = self.info("evicted_keys");
        assert_eq!(self.set_all("newer", 2000, VALUE_BYTES), 0, "{what}");
        assert!(
            self.info("evicted_keys") > evicted,
            "{what}: nothing was evicted"
        );
        let left = self.number(&["DBSIZE"]);
        assert!(left >= KEYS_KEPT, "{what}: {left} keys");
    }
}

/// Bug: the garbage of a finished script counted towards `maxmemory`, and nothing collected it: the whole cache was evicted, and
/// then nearly every write was refused. Fix: an interpreter's memory does not count, as in Redis, and garbage far above the usual
/// amount is collected when a script finishes.
#[test]
fn garbage_of_a_script_evicts_no_key() {
    const COUNT: usize = 100_000;
    let arguments = ["--maxmemory-policy", "allkeys-lru", "--threads", "2"];
    let server = Server::start(&Program::subject(), &arguments).unwrap();
    let connection = server.connect();
    let mut cache = Cache { server, connection };
    assert_eq!(cache.set_all("key", COUNT, 100), 0);
    cache.limit_to(20 * MIB);
    let script = "local t={} for i=1,1000000 do t[i]=tostring(i) end return #t";
    assert_eq!(cache.run(&["EVAL", script, "0"]), "1000000");
    assert!(cache.info("used_memory_lua") < MIB);
    assert_eq!(cache.set_all("new", 2000, 100), 0);
    assert_eq!(cache.number(&["DBSIZE"]), COUNT + 2000);
    assert_eq!(cache.info("evicted_keys"), 0);
    // Garbage does not evict keys while the script runs, either; here the script itself writes.
    let script = "local t={} for i=1,1000000 do t[i]=tostring(i) end
        for i=1,1000 do redis.call('SET', 'script' .. i, 'x') end return #t";
    assert_eq!(cache.run(&["EVAL", script, "0"]), "1000000");
    assert_eq!(cache.number(&["DBSIZE"]), COUNT + 3000);
}

/// Bug: replies that clients did not read, and requests that they did not finish, evicted all keys; then writes were refused.
#[test]
fn client_buffers_leave_half_of_the_memory_to_keys() {
    const CLIENTS: usize = 10;
    const BYTES: usize = 3 * MIB;
    /// The socket buffers hold a few MiB.
    const ECHOES: usize = 6;
    let mut cache = Cache::filled("allkeys-lru");
    let long = "y".repeat(BYTES);
    let echo = request(&["ECHO", &long]).repeat(ECHOES);
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| cache.server.connect()).collect();
    for client in &mut clients {
        client.send(&echo).unwrap();
    }
    until("unread replies fill the buffers", || {
        cache.info("mem_clients_normal") > 2 * ROOM_BYTES
    });
    cache.assert_works("replies");
    assert!(cache.info("mem_not_counted_for_evict") > 0);
    drop(clients);
    until("the clients are disconnected", || {
        cache.info("connected_clients") == 1
    });
    assert_eq!(cache.info("mem_not_counted_for_evict"), 0);

    let mut cache = Cache::filled("allkeys-lru");
    let multi = [request(&["MULTI"]), echo[..echo.len() - 10].to_vec()].concat();
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| cache.server.connect()).collect();
    for client in &mut clients {
        client.send(&multi).unwrap();
    }
    until("requests are queued, and one is incomplete", || {
        cache.info("mem_clients_normal") > 2 * ROOM_BYTES
    });
    cache.assert_works("requests and transactions");
}

/// Bug: what is written to an append-only file evicted keys: a MiB for each thread, and all that waited for a slow disk.
#[test]
fn an_append_only_file_evicts_no_key() {
    const CLIENTS: usize = 12;
    const LEFT: usize = 2 * MIB;
    /// How long the thread that writes the file sleeps before it writes.
    const SLEEP_US: &str = "500000";
    let arguments = ["--maxmemory-policy", "allkeys-lru", "--threads", "4"];
    let arguments = [&arguments[..], &["--enable-debug-command", "yes"]].concat();
    let server = Server::start(&Program::subject(), &arguments).unwrap();
    let connection = server.connect();
    let mut cache = Cache { server, connection };
    assert_eq!(cache.set_all("key", KEYS, VALUE_BYTES), 0);
    assert_eq!(cache.run(&["CONFIG", "SET", "appendonly", "yes"]), "OK");
    until("the file has its base", || {
        cache.info("aof_rewrite_in_progress") == 0
    });
    cache.limit_to(LEFT);
    // The server gives each thread its share of them.
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| cache.server.connect()).collect();
    for client in &mut clients {
        let reply = client.call(&["SET", "key0", "v"]).unwrap();
        assert_eq!(text(&reply), "OK");
    }
    assert!(cache.info("mem_not_counted_for_evict") > LEFT);
    cache.run(&["DEBUG", "AOF-FLUSH-SLEEP", SLEEP_US]);
    let value = "x".repeat(VALUE_BYTES);
    for key in 0..KEYS {
        let reply = cache.run(&["SET", &format!("key{key}"), &value]);
        assert_eq!(reply, "OK");
    }
    assert!(cache.info("mem_not_counted_for_evict") > 2 * LEFT);
    assert_eq!(cache.info("evicted_keys"), 0);
    assert_eq!(cache.number(&["DBSIZE"]), KEYS);
}

/// Bug: the buffers of a save counted, so that saving a full cache evicted some MiB of keys. Redis saves in another process, whose memory does
/// not count.
#[test]
fn a_save_of_a_full_cache_evicts_no_key() {
    for options in [
        ["--maxmemory-policy", "allkeys-lru"],
        ["--cache-mode", "yes"],
    ] {
        save_a_full_cache(options);
    }
}

fn save_a_full_cache(options: [&str; 2]) {
    /// For the buffers of the connection.
    const LEFT: usize = 128 << 10;
    const READS: usize = 100;
    let arguments = [&options[..], &["--threads", "2"]].concat();
    let server = Server::start(&Program::subject(), &arguments).unwrap();
    let connection = server.connect();
    let mut cache = Cache { server, connection };
    cache.limit_to(ROOM_BYTES);
    assert_eq!(cache.set_all("key", 4 * KEYS, VALUE_BYTES), 0);
    assert!(cache.info("evicted_keys") > KEYS);
    cache.limit_to(LEFT);
    let (keys, evicted) = (cache.number(&["DBSIZE"]), cache.info("evicted_keys"));
    assert_eq!(cache.run(&["BGSAVE"]), "Background saving started");
    until("the save ends", || {
        let get = |number| request(&["GET", &format!("key{number}")]);
        let requests: Vec<_> = (0..READS).map(get).collect();
        cache.connection.send(&requests.concat()).unwrap();
        for _ in 0..READS {
            cache.connection.receive().unwrap();
        }
        cache.info("rdb_bgsave_in_progress") == 0
    });
    assert_eq!(cache.info("rdb_saves"), 1);
    assert_eq!(cache.info("evicted_keys"), evicted, "{options:?}");
    assert_eq!(cache.number(&["DBSIZE"]), keys);
}

/// Bug: the texts of function libraries evicted all keys.
#[test]
fn function_libraries_leave_half_of_the_memory_to_keys() {
    let mut cache = Cache::filled("allkeys-random");
    for number in 0..4 {
        let library = library(number);
        assert_eq!(
            cache.run(&["FUNCTION", "LOAD", &library]),
            format!("large{number}")
        );
    }
    assert!(cache.info("used_memory_functions") > ROOM_BYTES);
    assert_eq!(cache.run(&["FCALL", "call0", "0"]), "0");
    cache.assert_works("libraries");
}

/// A library of some MiB.
fn library(number: usize) -> String {
    let comment = "z".repeat(6 * MIB);
    format!(
        "#!lua name=large{number}\nredis.register_function('call{number}', function() return {number} end)\n-- {comment}"
    )
}

/// If no key may be evicted, all memory except that of interpreters counts: writes are refused until some is freed.
#[test]
fn without_eviction_writes_are_refused_because_of_other_memory() {
    let mut cache = Cache::filled("noeviction");
    assert_eq!(cache.run(&["FUNCTION", "LOAD", &library(0)]), "large0");
    assert_eq!(cache.set_all("key", 100, VALUE_BYTES), 0);
    let limit = (cache.info("used_memory") - MIB).to_string();
    assert_eq!(cache.run(&["CONFIG", "SET", "maxmemory", &limit]), "OK");
    assert_eq!(cache.set_all("new", 100, VALUE_BYTES), 100);
    assert_eq!(cache.number(&["DBSIZE"]), KEYS);
    assert_eq!(cache.run(&["FUNCTION", "FLUSH"]), "OK");
    until("threads have dropped the libraries", || {
        cache.set_all("new", 1, VALUE_BYTES) == 0
    });
    assert_eq!(cache.set_all("new", 100, VALUE_BYTES), 0);
}
