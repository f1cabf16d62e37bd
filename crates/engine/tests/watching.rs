//! A watcher is notified of changes to its key and to the key's whole database, learns when the key expires, and is notified of
//! nothing else.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use common::{NOW, World, key, number, set_number};
use damselfly_engine::{Deadline, Now, Tx, Watched, Watcher};
use damselfly_value::NewValue;

/// Records whether it was notified of a change.
#[derive(Default)]
struct Recorder(AtomicBool);

impl Watcher for Recorder {
    fn key_changed(&self) {
        self.0.store(true, SeqCst);
    }
}

impl Recorder {
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

    /// True if it was notified since the last call.
    fn was_notified(&self) -> bool {
        self.0.swap(false, SeqCst)
    }
}

/// A world in which a watcher watches the key `watched` of database 0, which exists or not.
fn watching(watched: &str, exists: bool) -> (World, Arc<Recorder>) {
    let (world, recorder) = (World::new(1, 8), Arc::new(Recorder::default()));
    if exists {
        change(&world, 0, |tx| set_number(tx, watched, 1));
    }
    recorder.watch(&world, 1, 0, watched).unwrap();
    (world, recorder)
}

fn change(world: &World, db: usize, section: impl FnOnce(&mut Tx<'_>)) {
    section(&mut world.engine.lock_all(db, NOW).unwrap());
}

#[test]
fn changes_and_removals_notify_but_reading_does_not() {
    let (world, recorder) = watching("key", true);
    change(&world, 0, |tx| {
        number(tx, "key");
    });
    assert!(!recorder.was_notified());
    change(&world, 0, |tx| set_number(tx, "key", 1));
    assert!(recorder.was_notified());
    change(&world, 0, |tx| drop(tx.remove(key("key"))));
    assert!(recorder.was_notified());
    change(&world, 0, |tx| drop(tx.remove(key("key"))));
    assert!(!recorder.was_notified(), "the key was absent already");
}

#[test]
fn changes_to_other_keys_and_databases_do_not_notify() {
    let (world, recorder) = watching("key", true);
    for name in ["other", "k", "key2"] {
        change(&world, 0, |tx| set_number(tx, name, 1));
    }
    change(&world, 1, |tx| set_number(tx, "key", 1));
    change(&world, 1, |tx| tx.flush(1, false));
    assert!(!recorder.was_notified());
}

#[test]
fn all_watchers_are_notified_until_they_stop() {
    let (world, first) = watching("key", false);
    let second = Arc::new(Recorder::default());
    let watched = second.watch(&world, 2, 0, "key").unwrap();
    assert_eq!(world.engine.watched_count(), 2);
    change(&world, 0, |tx| set_number(tx, "key", 1));
    assert!(first.was_notified() && second.was_notified());
    world.engine.unwatch(&watched, 2);
    world.engine.unwatch(&watched, 2);
    change(&world, 0, |tx| set_number(tx, "key", 2));
    assert!(first.was_notified() && !second.was_notified());
    assert_eq!(world.engine.watched_count(), 1);
}

#[test]
fn each_watcher_watches_a_key_once() {
    let (world, recorder) = watching("key", false);
    assert!(recorder.watch(&world, 1, 0, "key").is_none());
    assert!(recorder.watch(&world, 1, 1, "key").is_some());
    assert!(recorder.watch(&world, 2, 0, "key").is_some());
    assert_eq!(world.engine.watched_count(), 3);
}

#[test]
fn flushing_a_database_notifies_if_the_key_existed() {
    for exists in [false, true] {
        let (world, recorder) = watching("key", exists);
        change(&world, 0, |tx| tx.flush(0, false));
        assert_eq!(recorder.was_notified(), exists);
    }
}

#[test]
fn swapping_databases_notifies_if_the_key_exists_in_one() {
    for (here, there) in [(false, false), (false, true), (true, false), (true, true)] {
        let (world, recorder) = watching("key", here);
        if there {
            change(&world, 1, |tx| set_number(tx, "key", 1));
        }
        change(&world, 0, |tx| tx.swap_databases(0, 0));
        assert!(!recorder.was_notified());
        change(&world, 0, |tx| tx.swap_databases(1, 0));
        assert_eq!(recorder.was_notified(), here || there);
    }
}

fn set_until(tx: &mut Tx<'_>, name: &str, expires_ms: i64) {
    tx.store(key(name), NewValue::Integer(1), Deadline::At(expires_ms));
}

#[test]
fn a_watch_knows_when_its_key_expires() {
    let (world, recorder) = (World::new(1, 8), Arc::new(Recorder::default()));
    change(&world, 0, |tx| set_until(tx, "expires", NOW.0 + 10));
    change(&world, 0, |tx| set_number(tx, "stays", 1));
    let expires = recorder.watch(&world, 1, 0, "expires").unwrap();
    let stays = recorder.watch(&world, 1, 0, "stays").unwrap();
    let absent = recorder.watch(&world, 1, 0, "absent").unwrap();
    let later = Now(NOW.0 + 10);
    assert!(!expires.has_expired(NOW) && expires.has_expired(later));
    assert!(!stays.has_expired(later) && !absent.has_expired(later));
    // Removing the expired key later does not count as a change.
    let mut tx = world.engine.lock_all(0, later).unwrap();
    assert!(tx.read(key("expires")).is_none());
    assert!(!recorder.was_notified());
}

#[test]
fn a_key_that_had_expired_before_the_watch_does_not_expire_again() {
    let (world, recorder) = (World::new(1, 8), Arc::new(Recorder::default()));
    change(&world, 0, |tx| set_until(tx, "expired", NOW.0 - 1));
    let expired = recorder.watch(&world, 1, 0, "expired").unwrap();
    assert!(!expired.has_expired(NOW));
    change(&world, 0, |tx| tx.flush(0, false));
    assert!(!recorder.was_notified(), "the key was absent");
    // The other database has an expired entry of that name, so the key is still absent.
    change(&world, 1, |tx| set_until(tx, "expired", NOW.0 - 1));
    change(&world, 0, |tx| tx.swap_databases(0, 1));
    assert!(!recorder.was_notified());
    change(&world, 0, |tx| set_number(tx, "expired", 1));
    assert!(recorder.was_notified());
}

/// Compare and set by watching: a thread reads the value in one section, and changes it in a later one if it was not notified in
/// between. It locks the watched key's shard before it checks that, so no notification can be missed.
#[test]
fn concurrent_compare_and_set_loses_no_change() {
    for &(threads, shards) in common::ARRANGEMENTS {
        let world = World::new(threads, shards);
        change(&world, 0, |tx| set_number(tx, "sum", 0));
        let added = std::sync::atomic::AtomicI64::new(0);
        world.run(|worker| {
            let recorder = Arc::new(Recorder::default());
            let watcher: Arc<dyn Watcher> = recorder.clone();
            let number_of = worker.thread as u64 + 1;
            while worker.has_time_left() {
                let (seen, watched) = worker.with_keys(0, &["sum"], |tx| {
                    let watched = tx.watch(key("sum"), number_of, &watcher).unwrap();
                    (number(tx, "sum").unwrap(), watched)
                });
                worker.sometimes_yield();
                let done = worker.with_keys(0, &["sum", "else"], |tx| {
                    let unchanged = !recorder.was_notified();
                    if unchanged {
                        set_number(tx, "sum", seen + 1);
                    }
                    unchanged
                });
                world.engine.unwatch(&watched, number_of);
                recorder.was_notified();
                added.fetch_add(i64::from(done), SeqCst);
            }
        });
        let mut tx = world.engine.lock_all(0, NOW).unwrap();
        assert_eq!(number(&mut tx, "sum"), Some(added.into_inner()));
        assert_eq!(world.engine.watched_count(), 0);
    }
}

/// Counts how often it is notified of a change.
#[derive(Default)]
struct Counter(std::sync::atomic::AtomicUsize);

impl Watcher for Counter {
    fn key_changed(&self) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// The bug: emptying a database checked every watched key under all locks, which took half a second for a million keys. Now each
/// watcher is notified once per shard, depending on whether its key existed when it began to watch.
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

/// The bug: SWAPDB looked up every watched key in the other database, under all locks. Now it does so for a limited number of keys.
/// Beyond that limit, watchers of absent keys are notified in any case, even if their key does not change.
#[test]
fn exchanging_databases_looks_up_few_absent_keys() {
    for (keys, told) in [(1_000, false), (100_000, true)] {
        let (world, recorder) = (World::new(1, 8), Arc::new(Recorder::default()));
        let watcher: Arc<dyn Watcher> = recorder.clone();
        change(&world, 0, |tx| {
            for number in 0..keys {
                tx.watch(key(&number.to_string()), 1, &watcher).unwrap();
            }
        });
        change(&world, 0, |tx| tx.swap_databases(0, 1));
        assert!(!recorder.was_notified(), "nothing is in the other database");
        change(&world, 1, |tx| {
            (0..100).for_each(|number| set_number(tx, &format!("other{number}"), 1));
        });
        change(&world, 0, |tx| tx.swap_databases(0, 1));
        assert_eq!(recorder.was_notified(), told, "{keys} keys");
    }
}
