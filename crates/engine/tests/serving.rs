//! A section that changes a key serves the clients that wait for it: in order of arrival, once, in the right database, and under
//! the locks of the change.
//!
//! The waiters of these tests wait for a number, which they remove or move to another key.

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use common::{NOW, World, key, number, set_number};
use damselfly_engine::{Deadline, Engine, Key, Now, Served, Ticket, Tx, Waiter};
use damselfly_value::NewValue;

/// Waits for a number.
struct Consumer {
    engine: Arc<Engine>,
    /// There is only one thread.
    alone: bool,
    /// The key to which the number is moved, if any.
    target: Option<&'static str>,
    claimed: AtomicBool,
    taken: Mutex<Option<i64>>,
    queued: AtomicUsize,
    woken: AtomicUsize,
}

impl Consumer {
    fn new(world: &World, target: Option<&'static str>) -> Arc<Self> {
        Arc::new(Self {
            engine: world.engine.clone(),
            alone: world.threads == 1,
            target,
            claimed: AtomicBool::new(false),
            taken: Mutex::new(None),
            queued: AtomicUsize::new(0),
            woken: AtomicUsize::new(0),
        })
    }

    fn wait(self: &Arc<Self>, world: &World, db: usize, names: &[&str]) -> Ticket {
        let waiter: Arc<dyn Waiter> = self.clone();
        let mut tx = world.engine.lock_all(db, NOW).unwrap();
        tx.wait(names.iter().map(|name| key(name)), &waiter)
    }

    fn taken(&self) -> Option<i64> {
        *self.taken.lock().unwrap()
    }
}

impl Waiter for Consumer {
    fn serve(&self, tx: &mut Tx<'_>, key: Key<'_>) -> Served {
        let name = std::str::from_utf8(key.bytes).unwrap();
        let Some(value) = number(tx, name) else {
            return Served::No;
        };
        if let Some(target) = self.target
            && !tx.include(common::key(target).hash)
        {
            return Served::Needs(common::key(target).hash);
        }
        if self.claimed.swap(true, SeqCst) {
            return Served::Gone;
        }
        tx.remove(key);
        if let Some(target) = self.target {
            tx.store(
                common::key(target),
                NewValue::Integer(value),
                Deadline::Clear,
            );
        }
        *self.taken.lock().unwrap() = Some(value);
        Served::Yes
    }

    fn queue_message(&self) {
        // The bug: the locks were released before, so others saw that the client was served before its own thread knew. The fix:
        // the message is queued under the locks.
        let lock = self.engine.lock_all(0, NOW);
        assert!(!self.alone || lock.is_err(), "the locks are released");
        self.queued.fetch_add(1, SeqCst);
    }

    fn wake(&self) {
        assert_eq!(self.queued.load(SeqCst), self.woken.load(SeqCst) + 1);
        if self.alone {
            // The locks must be released by now.
            drop(self.engine.lock_all(0, NOW).unwrap());
        }
        self.woken.fetch_add(1, SeqCst);
    }
}

/// Stores a number as a command does.
fn push(world: &World, db: usize, name: &str, value: i64) {
    let mut tx = world.engine.lock_one(key(name).hash, db, NOW).unwrap();
    set_number(&mut tx, name, value);
    assert!(tx.serve_waiters().is_empty());
}

fn stored(world: &World, db: usize, name: &str) -> Option<i64> {
    let mut tx = world.engine.lock_one(key(name).hash, db, NOW).unwrap();
    number(&mut tx, name)
}

#[test]
fn waiters_are_served_in_order_of_arrival() {
    let world = World::new(1, 4);
    let consumers: Vec<_> = (0..3).map(|_| Consumer::new(&world, None)).collect();
    for consumer in &consumers {
        consumer.wait(&world, 0, &["key"]);
    }
    for value in 1..=4 {
        push(&world, 0, "key", value);
    }
    let taken: Vec<_> = consumers.iter().map(|consumer| consumer.taken()).collect();
    assert_eq!(taken, [Some(1), Some(2), Some(3)]);
    assert!(
        consumers
            .iter()
            .all(|consumer| consumer.woken.load(SeqCst) == 1)
    );
    assert_eq!(
        stored(&world, 0, "key"),
        Some(4),
        "no client waits any longer"
    );
    assert_eq!(world.engine.waiting_count(), 0);
}

#[test]
fn a_client_that_waits_for_several_keys_is_served_once() {
    let world = World::new(1, 64);
    let consumer = Consumer::new(&world, None);
    let names = ["a", "b", "c", "b"];
    let ticket = consumer.wait(&world, 0, &names);
    assert_eq!(
        world.engine.waiting_count(),
        3,
        "a key named twice counts once"
    );
    push(&world, 0, "b", 1);
    push(&world, 0, "a", 2);
    assert_eq!(consumer.taken(), Some(1));
    assert_eq!(stored(&world, 0, "a"), Some(2));
    world
        .engine
        .stop_waiting(ticket, 0, names.iter().map(|name| key(name)));
    assert_eq!(world.engine.waiting_count(), 0);
}

#[test]
fn a_client_that_stopped_waiting_is_skipped() {
    let world = World::new(1, 4);
    let (first, second) = (Consumer::new(&world, None), Consumer::new(&world, None));
    let ticket = first.wait(&world, 0, &["key"]);
    second.wait(&world, 0, &["key"]);
    world
        .engine
        .stop_waiting(ticket, 0, std::iter::once(key("key")));
    push(&world, 0, "key", 1);
    assert_eq!((first.taken(), second.taken()), (None, Some(1)));
}

#[test]
fn a_key_that_the_same_section_removes_again_serves_no_client() {
    let world = World::new(1, 4);
    let consumer = Consumer::new(&world, None);
    consumer.wait(&world, 0, &["key"]);
    let mut tx = world.engine.lock_one(key("key").hash, 0, NOW).unwrap();
    set_number(&mut tx, "key", 1);
    tx.remove(key("key"));
    assert!(tx.has_ready());
    tx.serve_waiters();
    drop(tx);
    assert_eq!(consumer.taken(), None);
    push(&world, 0, "key", 2);
    assert_eq!(consumer.taken(), Some(2));
}

#[test]
fn a_client_whose_wait_something_else_ended_is_skipped() {
    let world = World::new(1, 4);
    let consumer = Consumer::new(&world, None);
    consumer.wait(&world, 0, &["key"]);
    consumer.claimed.store(true, SeqCst);
    push(&world, 0, "key", 1);
    assert_eq!(
        world.engine.waiting_count(),
        0,
        "the client is removed from the queue"
    );
    assert_eq!(stored(&world, 0, "key"), Some(1));
}

#[test]
fn databases_are_separate() {
    let world = World::new(1, 4);
    let consumer = Consumer::new(&world, None);
    consumer.wait(&world, 1, &["key"]);
    push(&world, 0, "key", 1);
    assert_eq!(consumer.taken(), None);

    // MOVE: the section works in database 0, the key becomes ready in database 1.
    let mut tx = world.engine.lock_one(key("key").hash, 0, NOW).unwrap();
    let entry = tx.remove(key("key")).unwrap();
    tx.insert_in(1, key("key"), entry);
    assert!(tx.serve_waiters().is_empty());
    assert_eq!(tx.db(), 0);
    drop(tx);
    assert_eq!(consumer.taken(), Some(1));
}

#[test]
fn swapping_databases_serves_clients_that_wait_in_either() {
    let world = World::new(1, 4);
    let consumer = Consumer::new(&world, None);
    push(&world, 0, "key", 1);
    consumer.wait(&world, 1, &["key"]);
    let mut tx = world.engine.lock_all(0, NOW).unwrap();
    tx.swap_databases(0, 1);
    tx.serve_waiters();
    drop(tx);
    assert_eq!(consumer.taken(), Some(1));
}

/// Waits until a key is removed.
#[derive(Default)]
struct RemovalWaiter {
    served: AtomicUsize,
}

impl Waiter for RemovalWaiter {
    fn serve(&self, tx: &mut Tx<'_>, key: Key<'_>) -> Served {
        if tx.peek(key).is_some() {
            return Served::No;
        }
        self.served.fetch_add(1, SeqCst);
        Served::Yes
    }

    fn queue_message(&self) {}

    fn wake(&self) {}

    fn wants_removal(&self) -> bool {
        true
    }
}

/// Runs `remove` while two clients wait for an existing key: only the one that wants to know of removals must be served, once.
fn check_removal(remove: impl FnOnce(&World)) {
    let world = World::new(1, 4);
    push(&world, 0, "key", 1);
    let (removal_waiter, consumer) = (
        Arc::new(RemovalWaiter::default()),
        Consumer::new(&world, None),
    );
    let waiter: Arc<dyn Waiter> = removal_waiter.clone();
    let mut tx = world.engine.lock_all(0, NOW).unwrap();
    tx.wait([key("key")].into_iter(), &waiter);
    drop(tx);
    consumer.wait(&world, 0, &["key"]);
    remove(&world);
    assert_eq!(removal_waiter.served.load(SeqCst), 1);
    assert_eq!(consumer.taken(), None);
    assert_eq!(
        world.engine.waiting_count(),
        1,
        "the other client continues to wait"
    );
}

#[test]
fn removing_a_key_serves_clients_that_want_to_know() {
    check_removal(|world| {
        let mut tx = world.engine.lock_one(key("key").hash, 0, NOW).unwrap();
        tx.remove(key("key"));
        assert!(tx.serve_waiters().is_empty());
    });
}

#[test]
fn flushing_a_database_serves_clients_that_want_to_know() {
    check_removal(|world| {
        let mut tx = world.engine.lock_all(0, NOW).unwrap();
        tx.flush(0, false);
        assert!(tx.serve_waiters().is_empty());
    });
}

#[test]
fn the_sweep_serves_clients_that_want_to_know_of_expired_keys() {
    check_removal(|world| {
        let mut tx = world.engine.lock_one(key("key").hash, 0, NOW).unwrap();
        let value = NewValue::Integer(2);
        tx.store(key("key"), value, Deadline::At(NOW.0 + 1));
        drop(tx);
        for shard in 0..world.engine.shards() {
            world.engine.sweep(shard, Now(NOW.0 + 2));
        }
    });
}

/// The names of two keys of different shards.
fn in_two_shards(world: &World) -> (&'static str, &'static str) {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let shard = |name: &str| world.engine.shard_of(key(name).hash);
    let other = names.iter().find(|name| shard(name) != shard(names[0]));
    (names[0], other.unwrap())
}

#[test]
fn a_chain_of_waiters_is_served_by_one_change() {
    let world = World::new(1, 64);
    let (first, second) = in_two_shards(&world);
    let mover = Consumer::new(&world, Some(second));
    let taker = Consumer::new(&world, None);
    taker.wait(&world, 0, &[second]);
    mover.wait(&world, 0, &[first]);
    push(&world, 0, first, 1);
    assert_eq!((mover.taken(), taker.taken()), (Some(1), Some(1)));
    assert_eq!(
        (stored(&world, 0, first), stored(&world, 0, second)),
        (None, None)
    );
}

#[test]
fn a_waiter_that_needs_a_busy_shard_is_served_when_it_is_free() {
    let world = World::new(1, 64);
    let (first, second) = in_two_shards(&world);
    let mover = Consumer::new(&world, Some(second));
    let taker = Consumer::new(&world, None);
    mover.wait(&world, 0, &[first]);
    taker.wait(&world, 0, &[first]);

    let busy = world.engine.lock_one(key(second).hash, 0, NOW).unwrap();
    let mut tx = world.engine.lock_one(key(first).hash, 0, NOW).unwrap();
    set_number(&mut tx, first, 1);
    let unserved = tx.serve_waiters();
    drop(tx);
    assert_eq!(unserved.len(), 1);
    assert!(world.engine.serve_waiters(&unserved[0], NOW).is_err());
    assert_eq!(
        (mover.taken(), taker.taken()),
        (None, None),
        "the second waiter does not overtake the first"
    );
    drop(busy);
    assert!(
        world
            .engine
            .serve_waiters(&unserved[0], NOW)
            .unwrap()
            .is_empty()
    );
    assert_eq!((mover.taken(), taker.taken()), (Some(1), None));
    assert_eq!(stored(&world, 0, second), Some(1));
}

/// Threads set and wait for a few keys in different shards; each number that is set is taken once.
#[test]
fn every_number_is_taken_once() {
    let world = World::new(4, 8);
    let names = ["a", "b", "c", "d", "e"];
    let (set, all) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    world.run(|worker| {
        while worker.has_time_left() {
            let (one, other) = worker.two_below(names.len());
            if worker.below(2) == 0 {
                let value = set.fetch_add(1, SeqCst) as i64;
                let (mut waits, mut tries_left) = (true, 100);
                // It gives up at some point: if all threads wanted to set, none would take.
                while waits && tries_left > 0 {
                    tries_left -= 1;
                    worker.with_keys(0, &[names[one]], |tx| {
                        waits = number(tx, names[one]).is_some();
                        if !waits {
                            set_number(tx, names[one], value);
                            assert!(tx.serve_waiters().is_empty());
                        }
                    });
                    waits &= worker.has_time_left();
                }
                continue;
            }
            let (consumer, wanted) = (Consumer::new(&world, None), [names[one], names[other]]);
            let waiter: Arc<dyn Waiter> = consumer.clone();
            let ticket = worker.with_keys(0, &wanted, |tx| {
                let ticket = tx.wait(wanted.iter().map(|name| key(name)), &waiter);
                for name in wanted {
                    // As for a command that reads first: it takes a number that exists already.
                    if consumer.serve(tx, key(name)) == Served::Yes {
                        break;
                    }
                }
                ticket
            });
            worker.sometimes_yield();
            let claimed = consumer.claimed.swap(true, SeqCst);
            let keys = wanted.iter().map(|name| key(name));
            world.engine.stop_waiting(ticket, 0, keys);
            if claimed {
                // The thread that serves it may not be done yet.
                let value = loop {
                    if let Some(value) = consumer.taken() {
                        break value;
                    }
                    std::thread::yield_now();
                };
                all.lock().unwrap().push(value);
            }
        }
    });
    assert_eq!(world.engine.waiting_count(), 0);
    let mut all = all.into_inner().unwrap();
    let taken = all.len();
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), taken, "a number was taken twice");
    assert!(taken > 0);
}
