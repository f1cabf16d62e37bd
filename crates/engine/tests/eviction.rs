//! Eviction: which keys are evicted, in what order, until none is left.

mod common;

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use common::{NOW, World, key};
use damselfly_engine::{
    AccessPolicy, Deadline, Event, EventMask, EventSink, Evicted, Eviction, KeyEvent, Now, Order,
    Tx, Watcher,
};
use damselfly_value::NewValue;

/// More samples than there are keys: all keys are compared, so the order is exact.
const ALL: usize = 1000;
/// Few enough keys to be searched in one call.
const COUNT: usize = 100;

fn eviction(order: Order, only_with_deadline: bool) -> Eviction {
    Eviction {
        only_with_deadline,
        order,
        samples: ALL,
    }
}

fn name(number: usize) -> String {
    format!("key{number}")
}

/// Runs a section over the only shard of a world.
fn with<R>(world: &World, db: usize, now: Now, run: impl FnOnce(&mut Tx<'_>) -> R) -> R {
    run(&mut world.engine.lock_shard(0, db, now).unwrap())
}

fn set(tx: &mut Tx<'_>, number: usize, deadline: Deadline) {
    tx.store(key(&name(number)), NewValue::Integer(7), deadline);
}

/// The names of the evicted keys, in the order of their events; no other events may be published.
#[derive(Default)]
struct EvictedNames(Mutex<Vec<String>>);

struct Sink(Arc<EvictedNames>);

impl EventSink for Sink {
    fn publish(&self, _: EventMask, events: &[KeyEvent]) {
        for event in events {
            assert_eq!(event.event, Event::Evicted);
            let name = String::from_utf8_lossy(&event.key).into_owned();
            self.0.0.lock().unwrap().push(name);
        }
    }
}

impl EvictedNames {
    fn of(world: &World) -> Arc<Self> {
        let evicted = Arc::new(Self::default());
        world.engine.set_event_sink(Box::new(Sink(evicted.clone())));
        // All classes but that of SET, which creates the keys.
        world.engine.set_events(EventMask::from_letters("Kegx"));
        evicted
    }

    fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Evicts keys until none is left that may be evicted; returns how many.
fn evict_all(world: &World, eviction: &Eviction, now: Now) -> usize {
    let mut count = 0;
    for _ in 0..10 * ALL {
        match world.engine.evict(0, eviction, now).unwrap() {
            Evicted::One { bytes, .. } => {
                assert!(bytes > 0);
                count += 1;
            }
            Evicted::NoneYet => {}
            Evicted::Nothing => return count,
        }
    }
    panic!("eviction never finishes");
}

fn assert_valid(world: &World) {
    with(world, 0, NOW, |tx| {
        tx.databases(0)
            .iter()
            .for_each(|database| database.assert_valid());
    });
}

#[test]
fn the_least_recently_used_keys_are_evicted_first() {
    let world = World::new(1, 1);
    let evicted = EvictedNames::of(&world);
    for number in 0..COUNT {
        // In two databases, and not in the order of their names.
        let second = (number * 37 % COUNT) as i64;
        with(&world, number % 2, Now(NOW.0 + second * 1000), |tx| {
            set(tx, number, Deadline::Clear)
        });
    }
    let later = Now(NOW.0 + 1_000_000);
    // Reading a key counts as a use.
    with(&world, 0, later, |tx| {
        assert!(tx.read(key(&name(0))).is_some())
    });
    let count = evict_all(&world, &eviction(Order::LeastRecent, false), later);
    assert_eq!(count, COUNT);
    let mut expected: Vec<usize> = (1..COUNT).collect();
    expected.sort_by_key(|number| number * 37 % COUNT);
    expected.push(0);
    let expected: Vec<String> = expected.into_iter().map(name).collect();
    assert_eq!(evicted.names(), expected);
    assert_valid(&world);
}

#[test]
fn the_least_frequently_used_keys_are_evicted_first() {
    let world = World::new(1, 1);
    world
        .engine
        .settings
        .set_access_policy(AccessPolicy::Frequency {
            log_factor: 0,
            decay_minutes: 0,
        });
    let evicted = EvictedNames::of(&world);
    let uses = |number: usize| number * 37 % COUNT;
    with(&world, 0, NOW, |tx| {
        for number in 0..COUNT {
            set(tx, number, Deadline::Clear);
            for _ in 0..uses(number) {
                tx.read(key(&name(number)));
            }
        }
    });
    evict_all(&world, &eviction(Order::LeastFrequent, false), NOW);
    let mut expected: Vec<usize> = (0..COUNT).collect();
    expected.sort_by_key(|&number| uses(number));
    let expected: Vec<String> = expected.into_iter().map(name).collect();
    assert_eq!(evicted.names(), expected);
}

#[test]
fn only_keys_with_a_deadline_are_evicted_the_soonest_first() {
    let world = World::new(1, 1);
    let evicted = EvictedNames::of(&world);
    let deadline = |number: usize| NOW.0 + 1_000_000 + (number * 37 % COUNT) as i64;
    with(&world, 0, NOW, |tx| {
        for number in 0..COUNT {
            set(tx, number, Deadline::At(deadline(number)));
        }
        for number in COUNT..2 * COUNT {
            set(tx, number, Deadline::Clear);
        }
    });
    evict_all(&world, &eviction(Order::SoonestExpiry, true), NOW);
    let mut expected: Vec<usize> = (0..COUNT).collect();
    expected.sort_by_key(|&number| deadline(number));
    let expected: Vec<String> = expected.into_iter().map(name).collect();
    assert_eq!(evicted.names(), expected);
    assert_eq!(with(&world, 0, NOW, |tx| tx.count()), COUNT);
    assert_valid(&world);
}

#[test]
fn few_keys_with_a_deadline_are_found_among_many_without() {
    let world = World::new(1, 1);
    with(&world, 0, NOW, |tx| {
        for number in 0..50_000 {
            let deadline = match number % 10_000 {
                77 => Deadline::At(NOW.0 + 1000),
                _ => Deadline::Clear,
            };
            set(tx, number, deadline);
        }
    });
    assert_eq!(evict_all(&world, &eviction(Order::Random, true), NOW), 5);
}

#[test]
fn an_expired_key_counts_as_expired_not_as_evicted() {
    let world = World::new(1, 1);
    with(&world, 0, NOW, |tx| {
        set(tx, 1, Deadline::At(NOW.0 + 10));
        set(tx, 2, Deadline::Clear);
    });
    let later = Now(NOW.0 + 10);
    let lru = eviction(Order::LeastRecent, false);
    let first = world.engine.evict(0, &lru, later).unwrap();
    assert_eq!(first, Evicted::NoneYet);
    assert_eq!(with(&world, 0, later, |tx| *tx.expired_mut(0)), 1);
    assert_eq!(evict_all(&world, &lru, later), 1);
}

#[derive(Default)]
struct ChangeCount(AtomicUsize);

impl Watcher for ChangeCount {
    fn key_changed(&self) {
        self.0.fetch_add(1, Relaxed);
    }
}

#[test]
fn eviction_notifies_the_watchers_of_the_key() {
    let world = World::new(1, 1);
    let changes = Arc::new(ChangeCount::default());
    let watcher: Arc<dyn Watcher> = changes.clone();
    let watched = with(&world, 1, NOW, |tx| {
        set(tx, 1, Deadline::Clear);
        tx.watch(key(&name(1)), 1, &watcher).unwrap()
    });
    // A key of the same name in another database.
    with(&world, 0, NOW, |tx| set(tx, 1, Deadline::At(NOW.0 + 1000)));
    assert_eq!(evict_all(&world, &eviction(Order::Random, true), NOW), 1);
    assert_eq!(changes.0.load(Relaxed), 0);
    assert_eq!(evict_all(&world, &eviction(Order::Random, false), NOW), 1);
    assert_eq!(changes.0.load(Relaxed), 1);
    world.engine.unwatch(&watched, 1);
}

#[test]
fn a_busy_shard_is_skipped() {
    let world = World::new(1, 1);
    with(&world, 0, NOW, |tx| {
        set(tx, 1, Deadline::Clear);
        let lru = eviction(Order::LeastRecent, false);
        assert!(world.engine.evict(0, &lru, NOW).is_err());
        assert_eq!(tx.count(), 1);
    });
}
