//! MIGRATE to a real `redis-server` and back, and through a proxy that delays replies or cuts the link at any byte: a key is never
//! lost, and is removed only if the target has exactly its value.

mod common;
#[path = "migrate/proxy.rs"]
mod proxy;

use std::time::{Duration, Instant};

use common::{call, info, say, text};
use damselfly_oracle::connection::Connection;
use damselfly_oracle::server::{Program, Server};
use damselfly_protocol::client::Value as Reply;
use proxy::Proxy;

/// A timeout, in milliseconds, that a test never reaches.
const LONG_MS: &str = "60000";

/// Commands that create a key of each type and form; `{}` is the key.
const VALUES: &[&str] = &[
    "SET {} text",
    "SET {} 12345",
    "SET {} with-deadline PX 10000000",
    "SETRANGE {} 200000 x",
    "RPUSH {} a b 3",
    "SADD {} 1 2 3",
    "SADD {} a b c",
    "HSET {} f v g w",
    "ZADD {} 1.5 a 2 b",
    "XADD {} 1-1 f v",
    "EVAL #lua 1 {} RPUSH",
    "EVAL #lua 1 {} SADD",
];

/// Adds many elements to the key.
const LUA: &str = "for i = 1, 3000 do redis.call(ARGV[1], KEYS[1], 'element ' .. i) end";

fn start(program: &Program, options: &[&str]) -> Server {
    let all = [&["--enable-debug-command", "yes"], options].concat();
    Server::start(program, &all).expect("the server starts")
}

fn create(connection: &mut Connection, key: &str, how: &str) {
    let command = how.replace("{}", key);
    let words = command
        .split(' ')
        .map(|word| if word == "#lua" { LUA } else { word });
    call(connection, &words.collect::<Vec<_>>());
}

fn digest(connection: &mut Connection, key: &str) -> String {
    match call(connection, &["DEBUG", "DIGEST-VALUE", key]) {
        Reply::Array(digests) => text(&digests[0]),
        other => panic!("{other:?}"),
    }
}

fn exists(connection: &mut Connection, key: &str) -> bool {
    call(connection, &["EXISTS", key]) == Reply::Integer(1)
}

/// MIGRATE of one key to a port, with options.
fn migrate(connection: &mut Connection, port: u16, key: &str, options: &[&str]) -> Reply {
    let port = port.to_string();
    let request = ["MIGRATE", "127.0.0.1", &port, key, "0", LONG_MS];
    connection
        .call(&[&request, options].concat())
        .expect("the server replies")
}

fn ok() -> Reply {
    Reply::Simple(b"OK".to_vec())
}

fn error(text: &str) -> Reply {
    Reply::Error(text.as_bytes().to_vec())
}

#[test]
fn every_type_moves_to_redis_and_back() {
    let password = ["--requirepass", "secret"];
    let ours = start(&Program::subject(), &password);
    let theirs = start(&Program::reference(), &password);
    let [mut here, mut there] = [&ours, &theirs].map(|server| {
        let mut connection = server.connect();
        say(&mut connection, "AUTH secret");
        connection
    });
    for auth in [&["AUTH", "secret"][..], &["AUTH2", "default", "secret"]] {
        for (number, how) in VALUES.iter().enumerate() {
            let key = format!("key{number}");
            create(&mut here, &key, how);
            let sent = digest(&mut here, &key);
            for is_back in [false, true] {
                let (from, to, target) = match is_back {
                    false => (&mut here, &mut there, &theirs),
                    true => (&mut there, &mut here, &ours),
                };
                let port = target.address().port();
                assert_eq!(migrate(from, port, &key, auth), ok(), "{how}");
                assert!(!exists(from, &key), "{how}");
                assert_eq!(digest(to, &key), sent, "{how}");
                let has_deadline = call(to, &["PTTL", &key]) != Reply::Integer(-1);
                assert_eq!(has_deadline, how.contains("PX"), "{how}");
            }
            say(&mut here, &format!("DEL {key}"));
        }
    }
    // Several keys at once, some of which do not exist, to another database, as copies.
    for number in 0..2000 {
        say(&mut here, &format!("SET many:{number} {number}"));
    }
    let keys: Vec<String> = (0..4000).map(|number| format!("many:{number}")).collect();
    let port = theirs.address().port().to_string();
    for (options, left) in [(&["COPY"][..], 2000), (&["REPLACE"], 0)] {
        let mut words = vec![
            "MIGRATE",
            "127.0.0.1",
            &port,
            "",
            "3",
            LONG_MS,
            "AUTH",
            "secret",
        ];
        words.extend(options.iter().chain(&["KEYS"]));
        words.extend(keys.iter().map(String::as_str));
        assert_eq!(call(&mut here, &words), ok());
        assert_eq!(say(&mut here, "DBSIZE"), Reply::Integer(left));
    }
    say(&mut there, "SELECT 3");
    assert_eq!(say(&mut there, "DBSIZE"), Reply::Integer(2000));
    assert_eq!(text(&say(&mut there, "GET many:1999")), "1999");
}

#[test]
fn refusals_are_those_of_redis() {
    let target = start(&Program::reference(), &[]);
    let port = target.address().port().to_string();
    let with_password = start(&Program::reference(), &["--requirepass", "secret"]);
    let other_port = with_password.address().port().to_string();
    let closed = damselfly_oracle::server::free_port().unwrap().to_string();
    let requests = [
        "MIGRATE h 1 key 0",
        "MIGRATE h 1 key 0 10 NOSUCH",
        "MIGRATE h 1 key 0 10 AUTH",
        "MIGRATE h 1 key 0 10 AUTH2 user",
        "MIGRATE h 1 key 0 10 KEYS a",
        "MIGRATE h 1 key zero 10",
        "MIGRATE h 1 key 0 ten",
        "MIGRATE h 1 nosuch 0 10",
        "MIGRATE 127.0.0.1 #closed key 0 1000",
        "MIGRATE 127.0.0.1 port key 0 1000",
        "MIGRATE 127.0.0.1 #port busy 0 1000",
        // Redis sends keys even if these commands fail, so they name one that the target refuses.
        "MIGRATE 127.0.0.1 #port busy 99 1000",
        "MIGRATE 127.0.0.1 #port busy 0 1000 AUTH password",
        "MIGRATE 127.0.0.1 #other key 0 1000",
        "MIGRATE 127.0.0.1 #other key 0 1000 AUTH wrong",
        "MIGRATE 127.0.0.1 #other key 0 1000 COPY REPLACE AUTH2 nobody wrong",
        "EXISTS key busy",
        "MIGRATE 127.0.0.1 #port key 0 0 COPY",
        "MIGRATE 127.0.0.1 #port busy 0 -1 REPLACE",
        "EXISTS key busy",
        "COMMAND GETKEYS MIGRATE h 1 key 0 10",
        "COMMAND GETKEYS MIGRATE h 1 #empty 0 10 AUTH KEYS KEYS a b",
        "COMMAND GETKEYSANDFLAGS MIGRATE h 1 #empty 0 10 KEYS a",
        "COMMAND GETKEYS MIGRATE h 1 key 0 10 KEYS a",
    ];
    let mut there = target.connect();
    let replies = [Program::reference(), Program::subject()].map(|program| {
        let server = start(&program, &[]);
        let mut connection = server.connect();
        say(&mut there, "FLUSHALL");
        say(&mut there, "SET busy theirs");
        say(&mut connection, "MSET key value busy ours");
        let mut replies = Vec::new();
        for request in requests {
            let words = request.split(' ').map(|word| match word {
                "#port" => port.as_str(),
                "#other" => other_port.as_str(),
                "#closed" => closed.as_str(),
                "#empty" => "",
                word => word,
            });
            let reply = connection.call(&words.collect::<Vec<_>>()).unwrap();
            replies.push((request, reply));
        }
        replies.push(("there", say(&mut there, "MGET key busy")));
        replies
    });
    let [theirs, ours] = replies;
    for (theirs, ours) in theirs.into_iter().zip(ours) {
        assert_eq!(theirs, ours);
    }
}

#[test]
fn only_keys_that_the_target_accepted_are_removed() {
    let (ours, target) = (
        start(&Program::subject(), &[]),
        start(&Program::reference(), &[]),
    );
    let (mut here, mut there) = (ours.connect(), target.connect());
    say(&mut here, "MSET a 1 b 2 c 3 d 4 e 5");
    say(&mut there, "MSET c _ d _");
    let keys = ["KEYS", "a", "nosuch", "b", "c", "d", "e"];
    let busy =
        error("ERR Target instance replied with error: BUSYKEY Target key name already exists.");
    assert_eq!(migrate(&mut here, target.address().port(), "", &keys), busy);
    assert_eq!(say(&mut here, "DBSIZE"), Reply::Integer(2));
    assert_eq!(say(&mut here, "EXISTS c d"), Reply::Integer(2));
    assert_eq!(say(&mut there, "DBSIZE"), Reply::Integer(5));
    assert_eq!(text(&say(&mut there, "GET c")), "_");
    // The link is still in use after an error.
    assert_eq!(info(&mut here, "migrate_cached_sockets"), "1");
    // The deletions raise events, and a field with a deadline, which Redis 7.0 does not know, is refused.
    say(&mut here, "HSET hash f v");
    say(&mut here, "HEXPIRE hash 100 FIELDS 1 f");
    let reply = migrate(&mut here, target.address().port(), "hash", &[]);
    assert!(matches!(reply, Reply::Error(_)), "{reply:?}");
    assert!(exists(&mut here, "hash"));
}

/// Unlike Redis, MIGRATE sends no key before the target has selected the database: it would be stored in another one.
#[test]
fn nothing_is_sent_to_the_wrong_database() {
    let (ours, target) = (
        start(&Program::subject(), &[]),
        start(&Program::reference(), &[]),
    );
    let (mut here, mut there) = (ours.connect(), target.connect());
    say(&mut here, "SET key value");
    let port = target.address().port().to_string();
    let reply = here.call(&["MIGRATE", "127.0.0.1", &port, "key", "99", LONG_MS]);
    let text = "ERR Target instance replied with error: ERR DB index is out of range";
    assert_eq!(reply.unwrap(), error(text));
    assert_eq!(say(&mut there, "DBSIZE"), Reply::Integer(0));
    assert!(exists(&mut here, "key"));
}

#[test]
fn no_key_is_lost_wherever_the_link_is_cut() {
    const KEYS: [&str; 3] = ["a", "b", "c"];
    let (ours, target) = (
        start(&Program::subject(), &[]),
        start(&Program::reference(), &[]),
    );
    let (mut here, mut there) = (ours.connect(), target.connect());
    let proxy = Proxy::start(target.address());
    let port = proxy.port();
    let keys = [&["KEYS"][..], &KEYS].concat();
    // With a link that is new, as are all that follow; and with one that was used before, whose successor is not cut.
    for is_cached in [false, true] {
        let mut outcomes = std::collections::BTreeMap::<String, usize>::new();
        let (mut cut_requests, mut at) = (true, 0);
        loop {
            proxy.forward_all();
            proxy.disconnect();
            if is_cached {
                // The first attempt may find that its link was closed.
                say(&mut here, "SET first 1");
                assert_eq!(migrate(&mut here, port, "first", &["REPLACE"]), ok());
            }
            for key in KEYS {
                say(&mut here, &format!("SET {key} value:{key}"));
            }
            match cut_requests {
                true => proxy.cut_after(at, usize::MAX, is_cached),
                false => proxy.cut_after(usize::MAX, at, is_cached),
            }
            let reply = migrate(&mut here, port, "", &keys);
            let mut left = 0;
            for key in KEYS {
                let (is_here, is_there) = (exists(&mut here, key), exists(&mut there, key));
                assert!(is_here || is_there, "{key} is lost: {cut_requests} {at}");
                let holder = if is_here { &mut here } else { &mut there };
                assert_eq!(
                    text(&say(holder, &format!("GET {key}"))),
                    format!("value:{key}")
                );
                left += usize::from(is_here);
            }
            assert_eq!(
                reply == ok(),
                left == 0,
                "{reply:?} {left} {cut_requests} {at}"
            );
            let cut = proxy.was_cut();
            *outcomes
                .entry(format!("{reply:?} {left} left"))
                .or_default() += 1;
            // Once more, with a link that works: afterwards all keys are there, and none is here.
            proxy.forward_all();
            let again = migrate(&mut here, port, "", &[&["REPLACE"][..], &keys].concat());
            let expected = if left == 0 {
                Reply::Simple(b"NOKEY".to_vec())
            } else {
                ok()
            };
            assert_eq!(again, expected, "{cut_requests} {at}");
            for key in KEYS {
                assert!(!exists(&mut here, key) && exists(&mut there, key), "{key}");
            }
            say(&mut there, "FLUSHALL");
            match (cut, cut_requests) {
                (true, _) => at += 1,
                // Everything was forwarded before that byte.
                (false, true) => (cut_requests, at) = (false, 0),
                (false, false) => break,
            }
        }
        println!("{outcomes:#?}");
        assert!(outcomes.len() >= 4, "{outcomes:#?}");
    }
}

#[test]
fn a_key_that_changes_on_its_way_stays() {
    let (ours, target) = (
        start(&Program::subject(), &[]),
        start(&Program::reference(), &[]),
    );
    let (mut here, mut there) = (ours.connect(), target.connect());
    let proxy = Proxy::start(target.address());
    let changed = error(
        "ERR A key was changed while MIGRATE sent it. This server keeps its new state, and the target instance has its former value. Repeat the command with REPLACE.",
    );
    for (how, change, is_moved) in [
        ("SET {} text", "APPEND key more", false),
        ("SET {} 5", "INCR key", false),
        ("SET {} text", "SET key text", true),
        ("SET {} text", "GET key", true),
        ("SET {} text", "EXPIRE key 1000", false),
        ("SET {} text EX 1000", "PERSIST key", false),
        ("SET {} text", "RENAME other key", false),
        ("SADD {} a b", "SREM key a", false),
        ("EVAL #lua 1 {} SADD", "SADD key one-more", false),
        ("EVAL #lua 1 {} SADD", "SMEMBERS key", true),
        ("EVAL #lua 1 {} RPUSH", "LSET key 5 changed", false),
        ("XADD {} 1-1 f v", "XADD key 2-1 f v", false),
        ("HSET {} f v", "HSET key f w", false),
        ("SET {} text", "DEL key", false),
        ("SET {} text", "FLUSHALL", false),
        ("SET {} text", "SWAPDB 0 1", false),
    ] {
        say(&mut there, "FLUSHALL");
        say(&mut here, "FLUSHALL");
        say(&mut here, "SET other value");
        create(&mut here, "key", how);
        proxy.hold_replies();
        let mut mover = ours.connect();
        let port = proxy.port().to_string();
        let request = ["MIGRATE", "127.0.0.1", &port, "key", "0", LONG_MS];
        mover
            .send(&damselfly_oracle::connection::request(&request))
            .unwrap();
        // The first reply is to SELECT.
        proxy.await_requests(1);
        proxy.release_reply();
        while !exists(&mut there, "key") {
            std::thread::yield_now();
        }
        say(&mut here, change);
        let before = say(&mut here, "EXISTS key");
        proxy.forward_all();
        let reply = mover.receive().unwrap();
        if is_moved {
            assert_eq!(reply, ok(), "{how} {change}");
            assert!(!exists(&mut here, "key"), "{how} {change}");
        } else {
            assert_eq!(reply, changed, "{how} {change}");
            assert_eq!(say(&mut here, "EXISTS key"), before, "{how} {change}");
        }
        assert!(exists(&mut there, "key"));
        proxy.disconnect();
    }
    // A key that the request names twice changes once only: it moves.
    proxy.forward_all();
    say(&mut there, "FLUSHALL");
    say(&mut here, "SET key value");
    let twice = ["REPLACE", "KEYS", "key", "key"];
    assert_eq!(migrate(&mut here, proxy.port(), "", &twice), ok());
    assert!(!exists(&mut here, "key"));
}

#[test]
fn slow_targets_make_nobody_wait() {
    const SLOW: usize = 8;
    let ours = start(&Program::subject(), &["--threads", "1"]);
    let target = start(&Program::reference(), &[]);
    let mut here = ours.connect();
    let proxy = Proxy::start(target.address());
    proxy.hold_replies();
    let port = proxy.port().to_string();
    say(&mut here, "DEBUG POPULATE 50000");
    let mut movers: Vec<Connection> = (0..SLOW).map(|_| ours.connect()).collect();
    for (number, mover) in movers.iter_mut().enumerate() {
        say(&mut here, &format!("SET slow:{number} value"));
        let key = format!("slow:{number}");
        let request = ["MIGRATE", "127.0.0.1", &port, &key, "0", LONG_MS];
        mover
            .send(&damselfly_oracle::connection::request(&request))
            .unwrap();
    }
    proxy.await_requests(SLOW);
    // Other commands run, even those on keys that are on their way, and long ones.
    for number in 0..SLOW {
        assert_eq!(
            text(&say(&mut here, &format!("GET slow:{number}"))),
            "value"
        );
    }
    let Reply::Array(found) = say(&mut here, "KEYS slow:*") else {
        panic!("no list");
    };
    assert_eq!(found.len(), SLOW);
    // One that is not willing to wait.
    say(&mut here, "SET key value");
    let started = Instant::now();
    let reply = here.call(&["MIGRATE", "127.0.0.1", &port, "key", "0", "50"]);
    let expected = error("IOERR error or timeout reading to target instance");
    assert_eq!(reply.unwrap(), expected);
    assert!(started.elapsed() >= Duration::from_millis(50));
    assert!(exists(&mut here, "key"));
    // The connection of a migration runs its next request only after that.
    movers[0].send(b"PING\r\n").unwrap();
    proxy.forward_all();
    for mover in &mut movers {
        assert_eq!(mover.receive().unwrap(), ok());
    }
    assert_eq!(
        movers[0].receive().unwrap(),
        Reply::Simple(b"PONG".to_vec())
    );
    assert_eq!(
        say(&mut target.connect(), "DBSIZE"),
        Reply::Integer(SLOW as i64)
    );
}

#[test]
fn links_are_used_again_and_closed_when_they_are_old() {
    let (ours, target) = (
        start(&Program::subject(), &[]),
        start(&Program::reference(), &[]),
    );
    let mut here = ours.connect();
    let proxy = Proxy::start(target.address());
    assert_eq!(info(&mut here, "migrate_cached_sockets"), "0");
    for key in ["a", "b", "c"] {
        say(&mut here, &format!("SET {key} value"));
        assert_eq!(migrate(&mut here, proxy.port(), key, &[]), ok());
        assert_eq!(info(&mut here, "migrate_cached_sockets"), "1");
    }
    assert_eq!(proxy.connections(), 1);
    // A link that the target has closed is replaced.
    proxy.disconnect();
    say(&mut here, "SET d value");
    assert_eq!(migrate(&mut here, proxy.port(), "d", &[]), ok());
    assert_eq!(proxy.connections(), 2);
    while info(&mut here, "migrate_cached_sockets") != "0" {
        std::thread::sleep(Duration::from_millis(50));
    }
    // Shutting down does not wait for a target.
    proxy.hold_replies();
    say(&mut here, "SET e value");
    let mut mover = ours.connect();
    let port = proxy.port().to_string();
    let request = ["MIGRATE", "127.0.0.1", &port, "e", "0", LONG_MS];
    mover
        .send(&damselfly_oracle::connection::request(&request))
        .unwrap();
    proxy.await_requests(1);
    let mut ours = ours;
    let ended = ours.terminate(Duration::from_secs(10)).unwrap();
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}");
}

#[test]
fn passwords_are_shown_to_nobody() {
    let ours = start(&Program::subject(), &[]);
    let mut here = ours.connect();
    say(&mut here, "CONFIG SET slowlog-log-slower-than 0");
    let request = "MIGRATE h x key 0 10 COPY AUTH secret KEYS AUTH visible";
    let refused = here.call(&request.split(' ').collect::<Vec<_>>());
    assert!(matches!(refused.unwrap(), Reply::Error(_)));
    let shown = format!("{:?}", say(&mut here, "SLOWLOG GET 10"));
    let word = |word: &str| format!("{:?}", Reply::Bulk(word.as_bytes().to_vec()));
    assert!(shown.contains(&word("(redacted)")), "{shown}");
    assert!(
        !shown.contains(&word("secret")) && shown.contains(&word("visible")),
        "{shown}"
    );
}
