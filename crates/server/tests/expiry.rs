//! Expiry in a whole server: the background sweep, and the option `ttl-rounding`.

mod common;

use common::{TestServer, until};

#[test]
fn expired_keys_are_removed_without_being_accessed() {
    let server = TestServer::start();
    let mut client = server.client();
    assert_eq!(client.run("SET stays value"), "OK");
    for number in 0..5000 {
        client.send(&format!("SET key:{number} value PX 50"));
    }
    for _ in 0..5000 {
        assert_eq!(client.receive(), "OK");
    }
    // INFO counts the keys in memory and removes none itself.
    until("the sweep has removed all expired keys", || {
        client.text("INFO keyspace").contains("keys=1,expires=0")
    });
    assert!(client.text("INFO stats").contains("expired_keys:5000"));
}

#[test]
fn expired_fields_are_removed_without_being_accessed() {
    let server = TestServer::start();
    let mut client = server.client();
    for number in 0..500 {
        client.send(&format!("HSETEX hash:{number} PX 50 FIELDS 2 a 1 b 2"));
    }
    for _ in 0..500 {
        assert_eq!(client.receive(), "(integer) 1");
    }
    assert_eq!(client.number("HSETEX stays PX 50 FIELDS 1 a 1"), 1);
    assert_eq!(client.number("HSET stays b 2"), 1);
    until("the sweep has removed all expired fields", || {
        client.text("INFO keyspace").contains("keys=1,expires=0")
    });
    assert_eq!(client.text("HGET stays b"), "2");
}

#[test]
fn long_deadlines_are_whole_seconds_with_ttl_rounding_and_exact_without() {
    let exact_ms = 4_000_000_000_123_i64;
    let set = format!("SET key value PXAT {exact_ms}");
    let server = TestServer::start();
    let mut exact = server.client();
    assert_eq!(exact.run(&set), "OK");
    assert_eq!(exact.number("PEXPIRETIME key"), exact_ms);
    let server = TestServer::with(|config| config.ttl_rounding = true);
    let mut rounding = server.client();
    assert_eq!(rounding.run("SET long value PX 200000123"), "OK");
    assert_eq!(rounding.number("PEXPIRETIME long") % 1000, 0);
    assert_eq!(rounding.run(&set), "OK");
    let year_ms = 365 * 24 * 3600 * 1000;
    assert!(rounding.number("PTTL key") <= year_ms + 500);
}

#[test]
fn flushing_empties_the_database_whether_memory_is_freed_now_or_later() {
    for (later, command) in [
        (false, "FLUSHALL"),
        (true, "FLUSHALL"),
        (false, "FLUSHDB ASYNC"),
    ] {
        let server = TestServer::with(|config| config.lazyfree_lazy_user_flush = later);
        let mut client = server.client();
        assert_eq!(client.run("SET key value"), "OK");
        assert_eq!(client.run(command), "OK");
        assert_eq!(client.number("DBSIZE"), 0, "{command}");
    }
}
