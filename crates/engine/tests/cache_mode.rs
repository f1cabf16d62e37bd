//! Cache mode: which keys are evicted when the engine ranks them by what it has learned.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use common::{NOW, World, key};
use damselfly_base::random::Random;
use damselfly_engine::{
    AccessPolicy, Deadline, Evicted, Eviction, Now, Objective, Order, Tx, Watcher,
};
use damselfly_value::NewValue;

const LEARNED: Eviction = Eviction {
    only_with_deadline: false,
    order: Order::Learned(Objective::Hits),
    samples: 1,
};

/// An engine in cache mode that holds about so many keys.
struct Cache {
    world: World,
    keys_max: usize,
    eviction: Eviction,
    now: Now,
    shard: usize,
    evicted: usize,
    refused: usize,
}

impl Cache {
    fn new(keys_max: usize) -> Self {
        let world = World::new(4, 2);
        world
            .engine
            .settings
            .set_access_policy(AccessPolicy::Learned);
        Self {
            world,
            keys_max,
            eviction: LEARNED,
            now: NOW,
            shard: 0,
            evicted: 0,
            refused: 0,
        }
    }

    fn with<R>(&self, db: usize, run: impl FnOnce(&mut Tx<'_>) -> R) -> R {
        run(&mut self.world.engine.lock_all(db, self.now).unwrap())
    }

    fn has(&self, db: usize, name: &str) -> bool {
        self.with(db, |tx| tx.view(key(name)).is_some())
    }

    fn len(&self) -> usize {
        self.with(0, |tx| {
            let shards = 0..tx.engine().shards();
            shards
                .flat_map(|shard| {
                    tx.databases(shard)
                        .iter()
                        .map(|database| database.len())
                        .collect::<Vec<_>>()
                })
                .sum()
        })
    }

    fn store(&mut self, db: usize, name: &str, bytes: usize, deadline: Deadline) {
        let value = vec![b'x'; bytes];
        self.with(db, |tx| {
            tx.store(key(name), NewValue::Bytes(&value), deadline);
        });
        while self.len() > self.keys_max {
            self.evict();
        }
    }

    /// Reads a key, and stores it if it is absent. True if it was there.
    fn request(&mut self, db: usize, name: &str) -> bool {
        let found = self.with(db, |tx| tx.read(key(name)).is_some());
        if !found {
            self.store(db, name, 10, Deadline::Clear);
        }
        found
    }

    fn evict(&mut self) {
        self.shard = (self.shard + 1) % self.world.engine.shards();
        let evicted = self
            .world
            .engine
            .evict(self.shard, &self.eviction, self.now);
        if let Evicted::One { is_refused, .. } = evicted.unwrap() {
            self.evicted += 1;
            self.refused += usize::from(is_refused);
        }
    }
}

#[test]
fn keys_in_use_stay_and_those_that_come_once_go() {
    let mut random = Random::for_test();
    let mut cache = Cache::new(400);
    let (mut hits, mut asked) = (0, 0);
    for number in 0..12_000 {
        // Of the keys in use, as many as three quarters of the cache.
        let found = cache.request(0, &format!("used{}", random.below(300)));
        if number >= 6000 {
            asked += 1;
            hits += usize::from(found);
        }
        cache.request(0, &format!("once{number}"));
    }
    assert!(hits * 100 > asked * 95, "{hits} of {asked}");
    let learned = cache.world.engine.learned();
    assert!(learned.view.lessons > 5, "{learned:?}");
    let [never_used, used_once, ..] = learned.view.by_uses;
    assert!(never_used.never_again > 0.9, "{never_used:?}");
    assert!(used_once.never_again < never_used.never_again);
    assert!(learned.bytes < 32 << 10, "{}", learned.bytes);
}

#[test]
fn keys_of_equal_use_are_evicted_fairly_in_all_databases() {
    let mut random = Random::for_test();
    let mut cache = Cache::new(300);
    let mut found = [0; 2];
    for _ in 0..20_000 {
        let number = random.below(600);
        // One database has twice as many keys as the other.
        let db = usize::from(number.is_multiple_of(3));
        found[db] += usize::from(cache.request(db, &format!("key{number}")));
    }
    let [in_larger, in_smaller] = found;
    let ratio = in_larger as f64 / in_smaller as f64;
    assert!((1.6..2.5).contains(&ratio), "{found:?}");
}

/// The share of hits, of 200 small keys and of 100 large ones that are used equally often, in a cache of 250.
fn shares_by_size(cache: &mut Cache) -> [f64; 2] {
    let mut random = Random::for_test();
    let (mut found_by_size, mut asked_by_size) = ([0, 0], [0, 0]);
    for round in 0..15_000 {
        let number = random.below(300);
        let is_large = number < 100;
        let name = format!("key{number}");
        let found = cache.with(0, |tx| tx.read(key(&name)).is_some());
        if round > 5000 {
            found_by_size[usize::from(is_large)] += usize::from(found);
            asked_by_size[usize::from(is_large)] += 1;
        }
        if !found {
            let bytes = if is_large { 3000 } else { 10 };
            cache.store(0, &name, bytes, Deadline::Clear);
        }
    }
    [0, 1].map(|size| f64::from(found_by_size[size] as u32) / f64::from(asked_by_size[size]))
}

#[test]
fn of_keys_with_equal_use_the_largest_go_first() {
    let mut cache = Cache::new(250);
    // All small ones and half of the large ones fit.
    let [small, large] = shares_by_size(&mut cache);
    assert!(small > 0.95 && large < 0.6, "{small} {large}");
    // Large ones that nobody uses go at once.
    assert!(cache.refused > 0 && cache.refused < cache.evicted);
}

#[test]
fn sizes_do_not_matter_if_bytes_of_hits_count() {
    let mut cache = Cache::new(250);
    let bytes_of_hits = Eviction {
        order: Order::Learned(Objective::BytesOfHits),
        ..LEARNED
    };
    for (eviction, ratios) in [
        (bytes_of_hits, 0.9..1.1),
        (LEARNED, 1.5..9.9),
        (bytes_of_hits, 0.9..1.1),
    ] {
        cache.eviction = eviction;
        let [small, large] = shares_by_size(&mut cache);
        assert!(
            ratios.contains(&(small / large)),
            "{eviction:?}: {small} {large}"
        );
    }
}

#[test]
fn keys_about_to_expire_go_first() {
    let mut cache = Cache::new(200);
    // Always two requests per millisecond, so that the cache turns over in 100.
    for number in 0..4000 {
        cache.now = Now(NOW.0 + number);
        cache.request(0, &format!("key{}", number % 190));
        cache.request(0, &format!("other{number}"));
    }
    // In milliseconds after all are stored.
    let at = |ms| Deadline::At(NOW.0 + 4100 + ms);
    let (soon, late) = (at(5), at(100_000));
    cache.keys_max = 10_000;
    for number in 0..100 {
        cache.now = Now(NOW.0 + 4001 + number);
        cache.store(0, &format!("soon{number}"), 10, soon);
        cache.store(0, &format!("late{number}"), 10, late);
    }
    for _ in 0..100 {
        cache.evict();
    }
    let left = |prefix: &str| {
        let names = (0..100).map(|number| format!("{prefix}{number}"));
        names.filter(|name| cache.has(0, name)).count()
    };
    let (soon, late) = (left("soon"), left("late"));
    assert!(soon < 40 && late > 60, "{soon} {late}");
}

#[test]
fn only_keys_with_a_deadline_are_evicted_if_the_policy_says_so() {
    let mut cache = Cache::new(10_000);
    for number in 0..1000 {
        let deadline = match number % 10 {
            0 => Deadline::At(NOW.0 + 100_000),
            _ => Deadline::Clear,
        };
        cache.store(0, &format!("key{number}"), 10, deadline);
    }
    let eviction = Eviction {
        only_with_deadline: true,
        ..LEARNED
    };
    let mut evicted = 0;
    for shard in 0..cache.world.engine.shards() {
        loop {
            match cache.world.engine.evict(shard, &eviction, NOW).unwrap() {
                Evicted::One { .. } => evicted += 1,
                Evicted::NoneYet => {}
                Evicted::Nothing => break,
            }
        }
    }
    assert_eq!((evicted, cache.len()), (100, 900));
}

#[derive(Default)]
struct ChangeCount(AtomicUsize);

impl Watcher for ChangeCount {
    fn key_changed(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[test]
fn watchers_are_notified() {
    let cache = Cache::new(10);
    let changes = Arc::new(ChangeCount::default());
    let watcher: Arc<dyn Watcher> = changes.clone();
    let name = key("key");
    let watched = cache.with(0, |tx| {
        tx.store(name, NewValue::Integer(1), Deadline::Clear);
        tx.watch(name, 1, &watcher).unwrap()
    });
    let engine = &cache.world.engine;
    let evicted = engine.evict(engine.shard_of(name.hash), &LEARNED, NOW);
    assert!(matches!(evicted.unwrap(), Evicted::One { .. }));
    assert_eq!(changes.0.load(Relaxed), 1);
    engine.unwatch(&watched, 1);
}

#[test]
fn it_can_be_turned_off_and_on_at_any_time() {
    let mut random = Random::for_test();
    let mut cache = Cache::new(200);
    for round in 0..6 {
        let is_on = round % 2 == 0;
        let settings = &cache.world.engine.settings;
        settings.set_access_policy(match is_on {
            true => AccessPolicy::Learned,
            false => AccessPolicy::Recency,
        });
        if !is_on {
            cache.world.engine.forget_evicted(NOW);
        }
        let mut hits = 0;
        for number in 0..3000 {
            hits += usize::from(cache.request(0, &format!("used{}", random.below(150))));
            cache.request(0, &format!("once{round}:{number}"));
        }
        if is_on {
            assert!(hits > 2500, "round {round}: {hits}");
        }
    }
    let after = cache.world.engine.learned().bytes;
    cache.world.engine.forget_evicted(NOW);
    assert!(cache.world.engine.learned().bytes <= after);
    cache.with(0, |tx| {
        for shard in 0..tx.engine().shards() {
            tx.databases(shard)
                .iter()
                .for_each(|database| database.assert_valid());
        }
    });
}
