//! A thread that finds a shard busy gets its turn: wake-ups are not lost, failed attempts and panics leave no lock
//! behind, and no thread starves.
//!
//! `cargo xtask ci` runs these tests with the planted bug `wakes`, under which a release wakes no thread; then
//! every test of the module `woken` must fail.
//!
//! If `lock_many` or `lock_all` does not notice a busy shard, or `Lock::try_acquire` always returns true, then
//! `a_failed_attempt_leaves_no_lock_behind` and `a_section_within_a_section_is_refused` fail.

mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use common::{Meeting, NOW, World, key, number, set_number};
use damselfly_engine::Busy;

const ROUNDS: usize = 200;

/// Every shard can be locked, by itself and with all others.
fn assert_all_free(world: &World) {
    for shard in 0..world.engine.shards() {
        assert!(world.engine.lock_shard(shard, 0, NOW).is_ok(), "{shard}");
    }
    assert!(world.engine.lock_all(0, NOW).is_ok());
}

#[test]
fn a_section_for_a_single_command_can_release_locks_early() {
    let world = World::new(1, 8);
    let shard = |name: &str| world.engine.shard_of(key(name).hash);
    let is_free = |at: usize| world.engine.lock_shard(at, 0, NOW).is_ok();
    let mut tx = world.engine.lock_all(0, NOW).unwrap();
    let kept = ["a", "b", "a"].map(|name| key(name).hash);
    // A section that may serve several commands must keep its locks.
    tx.release_all_but(&kept);
    assert!((0..8).all(|at| !is_free(at)));
    tx.set_single_command();
    tx.release_all_but(&kept);
    for at in 0..8 {
        assert_eq!(is_free(at), ![shard("a"), shard("b")].contains(&at), "{at}");
    }
    set_number(&mut tx, "a", 1);
    set_number(&mut tx, "b", 2);
    assert_eq!(number(&mut tx, "a"), Some(1));
    drop(tx);
    assert_all_free(&world);
}

#[test]
fn a_failed_attempt_leaves_no_lock_behind() {
    let world = World::new(1, 8);
    for held in 0..8 {
        let tx = world.engine.lock_shard(held, 0, NOW).unwrap();
        assert_eq!(
            world.engine.lock_all(0, NOW).map(drop),
            Err(Busy { shard: held })
        );
        let names: Vec<String> = (0..64).map(|number| number.to_string()).collect();
        let hashes = names.iter().map(|name| key(name).hash);
        let mut scratch = Vec::new();
        let many = world.engine.lock_many(hashes, &mut scratch, 0, NOW);
        assert_eq!(many.map(drop), Err(Busy { shard: held }));
        for shard in (0..8).filter(|&shard| shard != held) {
            assert!(
                world.engine.lock_shard(shard, 0, NOW).is_ok(),
                "{shard} is left locked"
            );
        }
        drop(tx);
        assert_all_free(&world);
    }
}

#[test]
fn a_panic_in_a_section_releases_its_locks() {
    let world = World::new(1, 4);
    let hash = key("key").hash;
    let panics: [&dyn Fn(); 5] = [
        &|| {
            let _tx = world.engine.lock_one(hash, 0, NOW).unwrap();
            panic!("in a section over one shard");
        },
        &|| {
            let hashes = (0..4_u64).map(|shard| shard << 62);
            let mut scratch = Vec::new();
            let _tx = world
                .engine
                .lock_many(hashes, &mut scratch, 0, NOW)
                .unwrap();
            panic!("in a section over many");
        },
        &|| {
            let mut tx = world.engine.lock_all(0, NOW).unwrap();
            set_number(&mut tx, "key", 1);
            tx.for_each(|_| panic!("while visiting all entries"));
        },
        &|| {
            let mut tx = world.engine.lock_none(0, NOW);
            let _ = tx.scan(0, Default::default(), 10, |_| panic!("in a scan"));
        },
        &|| {
            // No such database.
            let mut tx = world.engine.lock_one(hash, 9, NOW).unwrap();
            let _ = tx.peek(key("key"));
        },
    ];
    for panics in panics {
        assert!(catch_unwind(AssertUnwindSafe(panics)).is_err());
        assert_all_free(&world);
    }
    let mut tx = world.engine.lock_all(0, NOW).unwrap();
    assert_eq!(number(&mut tx, "key"), Some(1));
}

/// The bug: prefetching from a database that does not exist panicked with the lock taken, so the shard stayed locked for ever.
/// The fix: such a database is ignored.
#[test]
fn prefetching_from_an_absent_database_leaves_the_shard_free() {
    let world = World::new(1, 2);
    let hash = key("key").hash;
    for db in [0, 9] {
        world.engine.prefetch_shard(hash);
        world.engine.prefetch_bucket(hash, db);
        world.engine.prefetch_entry(hash, db);
        assert_all_free(&world);
    }
}

/// In a section, a second one over the same shard is refused, also on the same thread.
#[test]
fn a_section_within_a_section_is_refused() {
    let world = World::new(1, 2);
    let hash = key("key").hash;
    let _tx = world.engine.lock_one(hash, 0, NOW).unwrap();
    assert!(world.engine.lock_one(hash, 0, NOW).is_err());
    assert!(world.engine.lock_all(0, NOW).is_err());
}

/// A section over all shards needs every one of them while other threads take them without pause.
#[test]
fn a_section_over_all_shards_does_not_starve() {
    let world = World::new(4, 64);
    let done = AtomicBool::new(false);
    world.run(|worker| {
        if worker.thread == 0 {
            for _ in 0..ROUNDS {
                worker.with_all(0, |tx| {
                    tx.totals(0);
                });
            }
            done.store(true, SeqCst);
            return;
        }
        let names: Vec<String> = (0..64).map(|number| number.to_string()).collect();
        while !done.load(SeqCst) {
            let name = &names[worker.below(64)];
            worker.with_keys(0, &[name], |tx| {
                set_number(tx, name, 1);
                worker.sometimes_yield();
            });
        }
    });
}

mod woken {
    use super::*;

    #[test]
    fn all_threads_that_wait_for_a_shard_get_it_in_the_end() {
        let world = World::new(4, 2);
        let (start, held) = (Meeting::new(4), AtomicBool::new(false));
        world.run(|worker| {
            for round in 0..ROUNDS {
                if round % 4 == worker.thread {
                    // Hold the shard until some of the other threads wait for it.
                    let tx = worker.locked(|| world.engine.lock_all(0, NOW));
                    held.store(true, SeqCst);
                    start.wait();
                    world.until_asleep(worker.below(4));
                    drop(tx);
                } else {
                    start.wait();
                    assert!(held.load(SeqCst));
                    worker.with_keys(0, &["key"], |tx| {
                        let count = number(tx, "key").unwrap_or(0);
                        set_number(tx, "key", count + 1);
                    });
                }
                start.wait();
            }
        });
        let mut tx = world.engine.lock_all(0, NOW).unwrap();
        assert_eq!(number(&mut tx, "key"), Some(3 * ROUNDS as i64));
    }

    #[test]
    fn a_panic_in_a_section_wakes_the_waiting_threads() {
        let world = World::new(2, 1);
        let start = Meeting::new(2);
        world.run(|worker| {
            for _ in 0..20 {
                if worker.thread == 0 {
                    let tx = worker.locked(|| world.engine.lock_all(0, NOW));
                    start.wait();
                    let panics = catch_unwind(AssertUnwindSafe(|| {
                        let _tx = tx;
                        world.until_asleep(1);
                        // Without the hook, which takes seconds on a busy machine to print a backtrace.
                        std::panic::resume_unwind(Box::new(()));
                    }));
                    assert!(panics.is_err());
                } else {
                    start.wait();
                    worker.with_keys(0, &["key"], |_| ());
                }
                start.wait();
            }
        });
    }
}
