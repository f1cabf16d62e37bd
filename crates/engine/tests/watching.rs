//! Who watches a key hears of its changes, of the end of its life and of what happens to its whole database, and of nothing else.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use common::{NOW, World, key, number, set_number};
use damselfly_engine::{Deadline, Now, Tx, Watched, Watcher};
use damselfly_value::NewValue;

/// Remembers whether it was told of a change.
#[derive(Default)]
struct Witness(AtomicBool);

impl Watcher for Witness {
    fn key_changed(&self) {
        self.0.store(true, SeqCst);
    }
}

impl Witness {
    fn watch(
        self: &Arc<Self>,
        world: &World,
        number: u64,
        db: usize,
        name: &str,
    ) -> Option<Watched> {
        let watcher: Arc<dyn Watcher> = self.clone();
        let mut tx = world.engine.lock_one(key(name).hash, db, NOW).unwrap();
        tx.watch(key(name), number, &watcher)
    }

    /// True if it was told since the last call.
    fn was_told(&self) -> bool {
        self.0.swap(false, SeqCst)
    }
}

/// A world in which one witness watches `watched` of database 0, which is there if `exists`.
fn watching(watched: &str, exists: bool) -> (World, Arc<Witness>) {
    let (world, witness) = (World::new(1, 8), Arc::new(Witness::default()));
    if exists {
        change(&world, 0, |tx| set_number(tx, watched, 1));
    }
    witness.watch(&world, 1, 0, watched).unwrap();
    (world, witness)
}

fn change(world: &World, db: usize, section: impl FnOnce(&mut Tx<'_>)) {
    section(&mut world.engine.lock_all(db, NOW).unwrap());
}

#[test]
fn a_change_or_a_removal_is_told_and_a_look_is_not() {
    let (world, witness) = watching("key", true);
    change(&world, 0, |tx| {
        number(tx, "key");
    });
    assert!(!witness.was_told());
    change(&world, 0, |tx| set_number(tx, "key", 1));
    assert!(witness.was_told());
    change(&world, 0, |tx| drop(tx.remove(key("key"))));
    assert!(witness.was_told());
    change(&world, 0, |tx| drop(tx.remove(key("key"))));
    assert!(!witness.was_told(), "it was gone already");
}

#[test]
fn other_keys_and_databases_are_not_told() {
    let (world, witness) = watching("key", true);
    for name in ["other", "k", "key2"] {
        change(&world, 0, |tx| set_number(tx, name, 1));
    }
    change(&world, 1, |tx| set_number(tx, "key", 1));
    change(&world, 1, |tx| tx.flush(1, false));
    assert!(!witness.was_told());
}

#[test]
fn all_who_watch_are_told_until_they_stop() {
    let (world, first) = watching("key", false);
    let second = Arc::new(Witness::default());
    let watched = second.watch(&world, 2, 0, "key").unwrap();
    assert_eq!(world.engine.watched_count(), 2);
    change(&world, 0, |tx| set_number(tx, "key", 1));
    assert!(first.was_told() && second.was_told());
    world.engine.unwatch(&watched, 2);
    world.engine.unwatch(&watched, 2);
    change(&world, 0, |tx| set_number(tx, "key", 2));
    assert!(first.was_told() && !second.was_told());
    assert_eq!(world.engine.watched_count(), 1);
}

#[test]
fn a_key_is_watched_once_by_each() {
    let (world, witness) = watching("key", false);
    assert!(witness.watch(&world, 1, 0, "key").is_none());
    assert!(witness.watch(&world, 1, 1, "key").is_some());
    assert!(witness.watch(&world, 2, 0, "key").is_some());
    assert_eq!(world.engine.watched_count(), 3);
}

#[test]
fn emptying_a_database_is_told_if_the_key_was_there() {
    for exists in [false, true] {
        let (world, witness) = watching("key", exists);
        change(&world, 0, |tx| tx.flush(0, false));
        assert_eq!(witness.was_told(), exists);
    }
}

#[test]
fn exchanging_databases_is_told_if_the_key_is_in_one() {
    for (here, there) in [(false, false), (false, true), (true, false), (true, true)] {
        let (world, witness) = watching("key", here);
        if there {
            change(&world, 1, |tx| set_number(tx, "key", 1));
        }
        change(&world, 0, |tx| tx.swap_databases(0, 0));
        assert!(!witness.was_told());
        change(&world, 0, |tx| tx.swap_databases(1, 0));
        assert_eq!(witness.was_told(), here || there);
    }
}

fn set_until(tx: &mut Tx<'_>, name: &str, ends_ms: i64) {
    tx.store(key(name), NewValue::Integer(1), Deadline::At(ends_ms));
}

#[test]
fn the_end_of_a_key_is_known_when_it_comes() {
    let (world, witness) = (World::new(1, 8), Arc::new(Witness::default()));
    change(&world, 0, |tx| set_until(tx, "ends", NOW.0 + 10));
    change(&world, 0, |tx| set_number(tx, "stays", 1));
    let ends = witness.watch(&world, 1, 0, "ends").unwrap();
    let stays = witness.watch(&world, 1, 0, "stays").unwrap();
    let absent = witness.watch(&world, 1, 0, "absent").unwrap();
    let later = Now(NOW.0 + 10);
    assert!(!ends.is_over(NOW) && ends.is_over(later));
    assert!(!stays.is_over(later) && !absent.is_over(later));
    // Noticing the end late is no change.
    let mut tx = world.engine.lock_all(0, later).unwrap();
    assert!(tx.read(key("ends")).is_none());
    assert!(!witness.was_told());
}

#[test]
fn a_key_that_has_ended_before_does_not_end_again() {
    let (world, witness) = (World::new(1, 8), Arc::new(Witness::default()));
    change(&world, 0, |tx| set_until(tx, "ended", NOW.0 - 1));
    let ended = witness.watch(&world, 1, 0, "ended").unwrap();
    assert!(!ended.is_over(NOW));
    change(&world, 0, |tx| tx.flush(0, false));
    assert!(!witness.was_told(), "nothing was there");
    // An entry that has ended comes with the other database: still nothing is there.
    change(&world, 1, |tx| set_until(tx, "ended", NOW.0 - 1));
    change(&world, 0, |tx| tx.swap_databases(0, 1));
    assert!(!witness.was_told());
    change(&world, 0, |tx| set_number(tx, "ended", 1));
    assert!(witness.was_told());
}

/// Compare and set by watching: the value is read in one section, and changed in a later one if nobody was there in between.
/// Locking the watched key's shard before the look is what makes it right.
#[test]
fn of_all_who_compare_and_set_none_loses_a_change() {
    for &(threads, shards) in common::ARRANGEMENTS {
        let world = World::new(threads, shards);
        change(&world, 0, |tx| set_number(tx, "sum", 0));
        let added = std::sync::atomic::AtomicI64::new(0);
        world.run(|worker| {
            let witness = Arc::new(Witness::default());
            let watcher: Arc<dyn Watcher> = witness.clone();
            let number_of = worker.thread as u64 + 1;
            while worker.goes_on() {
                let (seen, watched) = worker.with_keys(0, &["sum"], |tx| {
                    let watched = tx.watch(key("sum"), number_of, &watcher).unwrap();
                    (number(tx, "sum").unwrap(), watched)
                });
                worker.dawdle();
                let done = worker.with_keys(0, &["sum", "else"], |tx| {
                    let unchanged = !witness.was_told();
                    if unchanged {
                        set_number(tx, "sum", seen + 1);
                    }
                    unchanged
                });
                world.engine.unwatch(&watched, number_of);
                witness.was_told();
                added.fetch_add(i64::from(done), SeqCst);
            }
        });
        let mut tx = world.engine.lock_all(0, NOW).unwrap();
        assert_eq!(number(&mut tx, "sum"), Some(added.into_inner()));
        assert_eq!(world.engine.watched_count(), 0);
    }
}

/// Counts how often it is told of a change.
#[derive(Default)]
struct Counter(std::sync::atomic::AtomicUsize);

impl Watcher for Counter {
    fn key_changed(&self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// The bug: emptying a database looked at every watched key under all locks, half a second for a million. Now a watcher is told once
/// for each shard, by what it found when it began to watch.
#[test]
fn emptying_a_database_looks_at_no_watched_keys() {
    const KEYS: usize = 10_000;
    let (world, counter) = (World::new(1, 8), Arc::new(Counter::default()));
    let watcher: Arc<dyn Watcher> = counter.clone();
    change(&world, 0, |tx| {
        for number in 0..KEYS {
            let name = number.to_string();
            set_number(tx, &name, 1);
            tx.watch(key(&name), 1, &watcher).unwrap();
        }
    });
    counter.0.store(0, SeqCst);
    change(&world, 0, |tx| tx.flush(0, false));
    assert_eq!(counter.0.load(SeqCst), 8);
    change(&world, 0, |tx| tx.swap_databases(0, 1));
    assert_eq!(counter.0.load(SeqCst), 16);
}

/// The bug: SWAPDB looked up every watched key in the other database, under all locks. Now it does so for a limited number of keys:
/// the watchers of more learn of a change that may not have been one.
#[test]
fn exchanging_databases_looks_up_few_absent_keys() {
    for (keys, told) in [(1_000, false), (100_000, true)] {
        let (world, witness) = (World::new(1, 8), Arc::new(Witness::default()));
        let watcher: Arc<dyn Watcher> = witness.clone();
        change(&world, 0, |tx| {
            for number in 0..keys {
                tx.watch(key(&number.to_string()), 1, &watcher).unwrap();
            }
        });
        change(&world, 0, |tx| tx.swap_databases(0, 1));
        assert!(!witness.was_told(), "nothing is in the other database");
        change(&world, 1, |tx| {
            (0..100).for_each(|number| set_number(tx, &format!("other{number}"), 1));
        });
        change(&world, 0, |tx| tx.swap_databases(0, 1));
        assert_eq!(witness.was_told(), told, "{keys} keys");
    }
}
