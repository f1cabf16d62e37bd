//! Requests that are too large, too long, or come when there is no room, and clients that do not read.

use super::*;

#[test]
fn without_memory_a_value_is_refused_and_not_kept() {
    let cache = Cache::start();
    let (mut redis, mut memcached) = (cache.redis(), cache.memcached());
    memcached.run("set k 0 0 1|x");
    redis.run("CONFIG SET maxmemory 1");
    let error = "SERVER_ERROR out of memory storing object";
    assert_eq!(memcached.run("add new 0 0 1|x"), error);
    assert_eq!(memcached.run("get k"), "VALUE k 0 1|x|END");
    assert_eq!(memcached.run("mg k v N30"), "VA 1|x", "it is there");
    assert_eq!(memcached.run("mg new v N30"), error);
    assert_eq!(memcached.run("append new 0 0 1|x"), error);
    assert_eq!(memcached.run("incr k 1"), "SERVER_ERROR out of memory");
    assert_eq!(memcached.run("set k 0 0 1|y"), error);
    // Nobody reads a value that its writer believes to be replaced.
    assert_eq!(memcached.run("get k"), "END");
    assert_eq!(memcached.run("set k 0 0 1 noreply|y"), "");
    assert_eq!(memcached.run("ms k 1 q|y"), error);
    assert!(memcached.run("stats").contains("STAT store_no_memory 6|"));
}

/// Bug: the rest of the reply was taken for that to the next request.
#[test]
fn an_error_within_a_long_list_of_keys_ends_the_connection() {
    let cache = Cache::start();
    let mut redis = cache.redis();
    redis.run("RPUSH list x");
    redis.run("SET key x");
    let mut memcached = cache.memcached();
    memcached.send(format!("get key list{}\r\n", " key".repeat(150)).as_bytes());
    let mut reply = String::new();
    memcached.0.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("SERVER_ERROR WRONGTYPE"), "{reply}");
    assert_eq!(reply.lines().count(), 1, "{reply}");
}

#[test]
fn large_and_unfinished_requests_cost_no_more_than_their_bytes() {
    let cache = Cache::with(|config| config.memcached_max_item_size_bytes = 10_000);
    let mut memcached = cache.memcached();
    assert_eq!(memcached.run("set k 0 0 1|x"), "STORED");
    // Too large: the data is skipped, and an older value removed.
    let large = "x".repeat(200_000);
    let too_large = "SERVER_ERROR object too large for cache";
    assert_eq!(
        memcached.run(&format!("set k 0 0 200000|{large}|get k")),
        format!("{too_large}|END")
    );
    assert_eq!(memcached.run(&format!("ms k 200000|{large}")), too_large);
    assert_eq!(
        memcached.run(&format!("set k 0 0 200000 noreply|{large}")),
        ""
    );
    // An append that would make it too large changes nothing.
    let half = "x".repeat(6000);
    assert_eq!(memcached.run(&format!("set k 0 0 6000|{half}")), "STORED");
    assert_eq!(
        memcached.run(&format!("append k 0 0 6000|{half}")),
        "NOT_STORED"
    );
    // Half a value, then nothing: other clients go on, and the memory is that of the bytes that arrived.
    let mut slow = cache.memcached();
    slow.send(b"set half 0 0 9000\r\nabc");
    assert_eq!(memcached.run("get half"), "END");
    slow.0.shutdown(Shutdown::Write).unwrap();
    assert_eq!(slow.until_closed(), b"");
    assert_eq!(memcached.run("get half"), "END");
    // An announced length takes no memory.
    let before = damselfly_base::heap::used_bytes();
    let mut idle: Vec<_> = (0..50).map(|_| cache.memcached()).collect();
    for client in &mut idle {
        client.send(b"add k 0 0 2147483000\r\n");
    }
    memcached.run("mn");
    assert!(damselfly_base::heap::used_bytes() < before + (50 << 20));
    // Lines without an end.
    for line in ["x", "set ", "mg k "] {
        let mut endless = cache.memcached();
        endless.send(line.repeat(9000 / line.len() + 1).as_bytes());
        assert_eq!(endless.until_closed(), b"");
    }
}

#[test]
fn a_million_keys_in_one_line_are_answered() {
    let cache = Cache::start();
    let mut memcached = cache.memcached();
    memcached.run("set k 0 0 1|x");
    let keys = " k nosuch".repeat(500_000);
    let (mut writer, line) = (memcached.0.try_clone().unwrap(), format!("get{keys}\r\n"));
    let sender = std::thread::spawn(move || writer.write_all(line.as_bytes()).unwrap());
    let reply = memcached.read_until(|reply| reply.ends_with(b"END\r\n"));
    sender.join().unwrap();
    assert_eq!(reply.len(), "VALUE k 0 1\r\nx\r\n".len() * 500_000 + 5);
    assert_eq!(memcached.run("mn"), "MN");
}

#[test]
fn a_client_that_does_not_read_stops_being_served() {
    let cache = Cache::start();
    let mut memcached = cache.memcached();
    let value = "x".repeat(500_000);
    memcached.run(&format!("set k 0 0 500000|{value}"));
    let mut slow = cache.memcached();
    // 100,000 keys: 50 GB of replies.
    let mut writer = slow.0.try_clone().unwrap();
    let line = format!("get{}\r\n", " k".repeat(100_000));
    let sender = std::thread::spawn(move || drop(writer.write_all(line.as_bytes())));
    let mut redis = cache.redis();
    let output_bytes = |redis: &mut Client| -> usize {
        let list = redis.text("CLIENT LIST");
        let lines = list.lines().filter(|line| line.contains("resp=0"));
        let bytes = lines.filter_map(|line| {
            let field = line
                .split(' ')
                .find_map(|field| field.strip_prefix("omem="));
            field?.parse().ok()
        });
        bytes.max().unwrap_or(0)
    };
    until("some output waits", || output_bytes(&mut redis) > 0);
    for _ in 0..20 {
        assert!(output_bytes(&mut redis) < 200 << 20);
        assert_eq!(memcached.run("mn"), "MN", "other clients are served");
    }
    let mut some = vec![0; 1 << 20];
    slow.0.read_exact(&mut some).unwrap();
    drop(slow);
    sender.join().unwrap();
}

/// Bug: a refused `ms` removed the key, whatever else was wrong with the request. A key that is no base64 was taken for the empty one.
#[test]
fn a_refused_request_that_would_store_nothing_removes_nothing() {
    let cache = Cache::with(|config| config.memcached_max_item_size_bytes = 1000);
    let (mut redis, mut memcached) = (cache.redis(), cache.memcached());
    redis.run_words(&["SET", "", "precious"]);
    memcached.run("set a 0 0 1|x");
    let large = "x".repeat(2000);
    for (request, error) in [
        ("!! 2000 b", "CLIENT_ERROR error decoding key"),
        ("a 2000 v v", "CLIENT_ERROR duplicate flag"),
        ("a 2000 MX", "CLIENT_ERROR invalid mode for ms M token"),
    ] {
        let reply = memcached.run(&format!("ms {request}|{large}"));
        assert_eq!(reply, error, "{request}");
    }
    assert_eq!(redis.run_words(&["GET", ""]), "\"precious\"");
    redis.run("CONFIG SET maxmemory 1");
    for (request, error) in [
        ("!! 1 b", "CLIENT_ERROR error decoding key"),
        ("a 1 MX", "CLIENT_ERROR invalid mode for ms M token"),
    ] {
        assert_eq!(memcached.run(&format!("ms {request}|x")), error);
    }
    assert_eq!(redis.run_words(&["GET", ""]), "\"precious\"");
    assert_eq!(memcached.run("get a"), "VALUE a 0 1|x|END");
}

#[test]
fn appended_items_have_the_limit_of_stored_ones() {
    let cache = Cache::with(|config| config.memcached_max_item_size_bytes = 1000);
    let mut memcached = cache.memcached();
    // The key, and 59 bytes that memcached needs besides.
    let most = "x".repeat(940);
    let too_large = "SERVER_ERROR object too large for cache";
    assert_eq!(memcached.run(&format!("set k 0 0 940|{most}")), "STORED");
    assert_eq!(memcached.run("append k 0 0 1|x"), "NOT_STORED");
    assert_eq!(memcached.run("prepend k 0 0 1|x"), "NOT_STORED");
    assert_eq!(memcached.run(&format!("set k 0 0 941|x{most}")), too_large);
    assert_eq!(
        memcached.run(&format!("set k 0 0 939|{}", &most[1..])),
        "STORED"
    );
    assert_eq!(memcached.run("append k 0 0 1|x"), "STORED");
}
