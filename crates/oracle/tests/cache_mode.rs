//! `cache-mode`: a server that evicts by what it has learned. What it evicts it must tell everybody, as under any policy.

mod cache_common;
mod memory_common;
mod common {
    pub mod replicas;
}

use cache_common::{Cache, KIB, SLACK_BYTES, VALUE_BYTES, numbered};
use common::replicas::{follow, ours, wait_for_agreement, wait_for_link};
use damselfly_base::random::Random;
use damselfly_oracle::connection::{Connection, request};
use damselfly_oracle::server::{Program, Server};
use damselfly_protocol::client::Value;
use memory_common::{text, until};

const ON: &[&str] = &["--cache-mode", "yes"];

/// A line of INFO.
fn line(cache: &mut Cache, field: &str) -> String {
    let info = cache.run(&["INFO", "cache"]);
    let mut lines = info.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(name, _)| *name == field).unwrap();
    value.trim_end().to_owned()
}

/// GET, then SET on a miss. True if the key was there.
fn look_aside(connection: &mut Connection, name: &str, value: &str) -> bool {
    let found = connection.call(&["GET", name]).unwrap();
    if let Value::Bulk(found) = found {
        assert_eq!(found.len(), value.len(), "{name}");
        return true;
    }
    let stored = connection.call(&["SET", name, value]).unwrap();
    assert_eq!(text(&stored), "OK");
    false
}

#[test]
fn memory_stays_within_its_limit_with_values_of_10_bytes_to_10_megabytes() {
    let mut random = Random::for_test();
    let mut cache = Cache::with(ON, 64 * KIB);
    let values: Vec<String> = (0..7)
        .map(|digits| "x".repeat(10_usize.pow(digits + 1)))
        .collect();
    let mut largest = 0;
    for number in 0..6000 {
        // Few are large, but most of the bytes are theirs.
        let digits = (random.below(4) + random.below(2) * random.below(4)).min(6);
        let value = &values[digits];
        let name = format!("{digits}:{}", random.below(3000));
        look_aside(&mut cache.connection, &name, value);
        if number % 20 == 0 {
            let used = cache.info("used_memory");
            largest = largest.max(used);
            let pending = cache.info("lazyfreed_objects");
            let limit = cache.limit + SLACK_BYTES + values[6].len();
            assert!(used < limit, "{used} of {} bytes, {pending}", cache.limit);
        }
    }
    assert!(cache.info("evicted_keys") > 100);
    assert!(largest > cache.limit / 2, "{largest}");
    cache.end_limit();
    assert!(cache.number(&["DBSIZE"]) > 100);
}

#[test]
fn popular_keys_stay_and_info_says_what_was_learned() {
    let mut random = Random::for_test();
    let mut cache = Cache::with(ON, 3000);
    let value = "x".repeat(VALUE_BYTES);
    let (mut hits, mut asked) = (0, 0);
    for number in 0..12_000 {
        let popular = format!("popular{}", random.below(1500));
        let found = look_aside(&mut cache.connection, &popular, &value);
        look_aside(&mut cache.connection, &format!("once{number}"), &value);
        if number >= 6000 {
            asked += 1;
            hits += usize::from(found);
        }
    }
    assert!(hits * 10 > asked * 9, "{hits} of {asked}");
    assert_eq!(line(&mut cache, "cache_mode"), "yes");
    let ratio: f64 = line(&mut cache, "cache_hit_ratio").parse().unwrap();
    assert!((0.3..0.5).contains(&ratio), "{ratio}");
    assert_eq!(cache.info("cache_evicted_keys"), cache.info("evicted_keys"));
    let refused = cache.info("cache_refused_keys");
    assert!(refused > 0 && refused <= cache.info("evicted_keys"));
    assert!(cache.info("cache_lessons") > 5);
    assert!(cache.info("cache_learned_bytes") < 40_000);
    let learned = line(&mut cache, "cache_keys_used_0_times");
    let share = learned.strip_prefix("never_again=").unwrap();
    let share: f64 = share.split_once('%').unwrap().0.parse().unwrap();
    assert!(share > 50.0, "{learned}");
    // It may be absent, or so new that it goes at once.
    for _ in 0..2 {
        look_aside(&mut cache.connection, "popular1", &value);
    }
    let uses = cache.run(&["OBJECT", "FREQ", "popular1"]);
    assert!(uses.parse::<u8>().is_ok_and(|uses| uses <= 64), "{uses}");
    let idle = cache.run(&["OBJECT", "IDLETIME", "popular1"]);
    assert!(idle.starts_with("ERR Cache mode is on"), "{idle}");
}

#[test]
fn it_can_be_turned_on_and_off_while_clients_write() {
    const WRITERS: usize = 3;
    let mut cache = Cache::new("noeviction", 4000);
    // Until it is on for the first time, nothing may be evicted.
    assert_eq!(cache.run(&["CONFIG", "SET", "cache-mode", "yes"]), "OK");
    let connections: Vec<Connection> = (0..WRITERS).map(|_| cache.server.connect()).collect();
    std::thread::scope(|scope| {
        for (writer, mut connection) in connections.into_iter().enumerate() {
            scope.spawn(move || {
                let value = "x".repeat(VALUE_BYTES);
                for number in 0..10_000 {
                    look_aside(
                        &mut connection,
                        &format!("{writer}:{}", number % 3000),
                        &value,
                    );
                }
            });
        }
        for round in 0..20 {
            let (mode, policy) = match round % 2 {
                0 => ("no", "allkeys-lfu"),
                _ => ("yes", "noeviction"),
            };
            let set = [
                "CONFIG",
                "SET",
                "cache-mode",
                mode,
                "maxmemory-policy",
                policy,
            ];
            assert_eq!(cache.run(&set), "OK");
        }
    });
    let used = cache.info("used_memory");
    assert!(used < cache.limit + WRITERS * SLACK_BYTES, "{used}");
    assert_eq!(cache.run(&["CONFIG", "SET", "cache-mode", "no"]), "OK");
    assert_eq!(line(&mut cache, "cache_mode"), "no");
    let refusals = cache.fill(numbered("more", 5000), None);
    assert!(refusals.iter().all(|text| text.starts_with("OOM")));
    assert!(!refusals.is_empty());
}

#[test]
fn the_objective_decides_at_any_time_whether_large_keys_are_worth_their_place() {
    const SMALL: usize = 400;
    let mut random = Random::for_test();
    let mut cache = Cache::with(ON, 2000);
    assert_eq!(line(&mut cache, "cache_mode_objective"), "requests");
    let values = ["x".repeat(100), "x".repeat(16 * KIB)];
    for (objective, ratios) in [
        ("requests", 1.4..99.0),
        ("bytes", 0.85..1.15),
        ("requests", 1.4..99.0),
    ] {
        let set = ["CONFIG", "SET", "cache-mode-objective", objective];
        assert_eq!(cache.run(&set), "OK");
        assert_eq!(line(&mut cache, "cache_mode_objective"), objective);
        // All keys are used equally often. The 200 large ones take 3 MB, so that more than half of them fit.
        let (mut hits, mut asked) = ([0.0, 0.0], [0.0, 0.0]);
        for round in 0..12_000 {
            let number = random.below(SMALL * 3 / 2);
            let size = usize::from(number >= SMALL);
            let name = format!("key{number}");
            let found = look_aside(&mut cache.connection, &name, &values[size]);
            if round > 5000 {
                hits[size] += f64::from(u8::from(found));
                asked[size] += 1.0;
            }
        }
        let [small, large] = [0, 1].map(|size| hits[size] / asked[size]);
        assert!(
            ratios.contains(&(small / large)),
            "{objective}: {small} of the small, {large} of the large"
        );
    }
    let unknown = cache.run(&["CONFIG", "SET", "cache-mode-objective", "hits"]);
    assert!(unknown.contains("must be one of"), "{unknown}");
}

#[test]
fn keys_without_a_deadline_stay_if_the_policy_is_volatile() {
    let options = [ON, &["--maxmemory-policy", "volatile-lru"]].concat();
    let mut cache = Cache::with(&options, 3000);
    assert!(cache.fill(numbered("kept", 500), None).is_empty());
    assert!(cache.fill(numbered("key", 5000), Some(1000)).is_empty());
    assert_eq!(cache.left("kept", 500), 500);
    assert!(cache.left("key", 5000) < 3000);
}

#[test]
fn keys_that_expire_soon_are_worth_less() {
    let mut cache = Cache::with(ON, 3000);
    let value = "x".repeat(VALUE_BYTES);
    // All keys are used equally, but those of one kind can't be used for long.
    let mut random = Random::for_test();
    for _ in 0..20_000 {
        let number = random.below(3000);
        let name = format!("key{number}");
        if text(&cache.connection.call(&["EXISTS", &name]).unwrap()) == "1" {
            cache.run(&["GET", &name]);
        } else if number.is_multiple_of(2) {
            cache.run(&["SET", &name, &value, "PX", "500"]);
        } else {
            cache.run(&["SET", &name, &value]);
        }
    }
    cache.end_limit();
    let of_kind = |cache: &mut Cache, parity: usize| {
        let names = (0..1500).map(|number| format!("key{}", 2 * number + parity));
        names
            .filter(|name| cache.run(&["EXISTS", name]) == "1")
            .count()
    };
    let lasting = of_kind(&mut cache, 1);
    assert!(lasting > 1000, "{lasting}");
}

#[test]
fn subscribers_trackers_and_watchers_are_told_of_evictions() {
    const COUNT: usize = 3000;
    let mut cache = Cache::with(ON, 2000);
    let mut subscriber = cache.server.connect();
    let pattern = ["PSUBSCRIBE", "__keyevent@0__:evicted"];
    subscriber.call(&pattern).unwrap();
    cache.run(&["CONFIG", "SET", "notify-keyspace-events", "Ee"]);
    let mut tracker = cache.server.connect();
    tracker.call(&["HELLO", "3"]).unwrap();
    tracker
        .call(&["CLIENT", "TRACKING", "on", "BCAST"])
        .unwrap();
    let mut watchers: Vec<Connection> = (0..20).map(|_| cache.server.connect()).collect();
    for (number, watcher) in watchers.iter_mut().enumerate() {
        let name = format!("key{number}");
        cache.fill([name.clone()].into_iter(), None);
        watcher.call(&["WATCH", &name]).unwrap();
        watcher.call(&["MULTI"]).unwrap();
        watcher.call(&["PING"]).unwrap();
    }
    assert!(cache.fill(numbered("other", COUNT), None).is_empty());
    cache.end_limit();
    let evicted = cache.info("evicted_keys");
    assert!(evicted > 1000, "{evicted}");
    for (number, watcher) in watchers.iter_mut().enumerate() {
        let is_gone = cache.run(&["EXISTS", &format!("key{number}")]) == "0";
        let reply = watcher.call(&["EXEC"]).unwrap();
        assert_eq!(matches!(reply, Value::Null(_)), is_gone, "key{number}");
    }
    let mut events = std::collections::BTreeSet::new();
    for _ in 0..evicted {
        let Value::Array(message) = subscriber.receive().unwrap() else {
            panic!("not a message");
        };
        events.insert(text(&message[3]));
    }
    assert_eq!(events.len(), evicted);
    tracker.send(&request(&["PING"])).unwrap();
    let mut invalidated = std::collections::BTreeSet::new();
    while let Value::Push(message) = tracker.receive().unwrap() {
        let Value::Array(keys) = &message[1] else {
            panic!("{message:?}");
        };
        invalidated.extend(keys.iter().map(text));
    }
    assert!(events.is_subset(&invalidated));
}

#[test]
fn replicas_and_the_append_only_file_get_the_deletions() {
    let options = [
        "--cache-mode",
        "yes",
        "--appendonly",
        "yes",
        "--threads",
        "2",
    ];
    let primary = ours(&options);
    let mut cache = Cache {
        connection: primary.connect(),
        server: primary,
        limit: 0,
    };
    let replica = ours(&["--threads", "2", "--cache-mode", "yes"]);
    follow(&replica, cache.server.address());
    wait_for_link(&replica);
    cache.limit_to(4000);
    let value = "x".repeat(VALUE_BYTES);
    let mut random = Random::for_test();
    for _ in 0..10_000 {
        let name = format!("key{}", random.below(6000));
        look_aside(&mut cache.connection, &name, &value);
    }
    cache.end_limit();
    assert!(cache.info("evicted_keys") > 1000);
    wait_for_agreement("after evictions", &[&cache.server, &replica]);
    let before = cache.run(&["DEBUG", "DIGEST"]);
    assert_eq!(cache.run(&["DEBUG", "LOADAOF"]), "OK");
    assert_eq!(cache.run(&["DEBUG", "DIGEST"]), before);
}

#[test]
fn a_server_with_32_megabytes_is_a_cache() {
    let arguments = [
        "--cache-mode",
        "yes",
        "--maxmemory",
        "32mb",
        "--threads",
        "2",
    ];
    let server = Server::start(&Program::subject(), &arguments).unwrap();
    let connection = server.connect();
    let mut cache = Cache {
        server,
        connection,
        limit: 32 << 20,
    };
    assert!(cache.fill(numbered("key", 60_000), None).is_empty());
    let used = cache.info("used_memory");
    assert!(used < cache.limit + SLACK_BYTES, "{used}");
    assert!(cache.number(&["DBSIZE"]) > 15_000);
    until("the key is there", || cache.run(&["SET", "a", "b"]) == "OK");
}
