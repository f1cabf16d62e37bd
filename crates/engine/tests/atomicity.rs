//! No thread sees a section half done: threads that collide on a few keys check invariants that hold before and after every
//! section.
//!
//! `cargo xtask ci` runs these tests with the planted bug `sections`, which lets other sections run between any two
//! accesses of a section; then every test must fail. They also failed with each of these changes of the locks, made by hand and
//! reverted:
//!
//! - `Lock::try_acquire` always returns true: all four fail, most with the assertion on the invariant (a sum of 5814,
//!   no token or two, values half done), some with a panic of the table first;
//! - `lock_many` takes only the first of its shards: all four fail, by their invariants;
//! - `lock_all` takes only the first half of the shards: money and token fail every time, flush and swap in most
//!   runs; the fourth only reads under `lock_all`, and hardly ever notices.
//!
//! The threads' choices and their order are random, so no seed could repeat a failure.

mod common;

use common::{ARRANGEMENTS, World, key, number, set_number};
use damselfly_engine::{Place, Tx};

/// The value that all `keys` of the selected database have in common; `None` if none of them exists.
fn common_value(tx: &mut Tx<'_>, keys: &[&str]) -> Option<i64> {
    let values: Vec<_> = keys.iter().map(|name| number(tx, name)).collect();
    assert!(
        values.iter().all(|value| *value == values[0]),
        "half done: {values:?}"
    );
    values[0]
}

#[test]
fn moving_money_neither_loses_nor_creates_any() {
    const ACCOUNTS: &[&str] = &["anna", "ben", "cora", "dan", "eve", "finn"];
    const EACH: i64 = 1000;
    let total = EACH * ACCOUNTS.len() as i64;
    for &(threads, shards) in ARRANGEMENTS {
        let world = World::new(threads, shards);
        world.worker(0).with_all(0, |tx| {
            for name in ACCOUNTS {
                set_number(tx, name, EACH);
            }
        });
        world.run(|worker| {
            while worker.has_time_left() {
                let sum = |tx: &mut Tx<'_>| -> i64 {
                    let amounts = ACCOUNTS.iter().map(|name| number(tx, name).unwrap());
                    amounts.inspect(|_| worker.sometimes_yield()).sum()
                };
                match worker.below(8) {
                    0 => assert_eq!(worker.with_keys(0, ACCOUNTS, sum), total),
                    1 => assert_eq!(worker.with_all(0, sum), total),
                    _ => {
                        let (from, to) = worker.two_below(ACCOUNTS.len());
                        let (from, to) = (ACCOUNTS[from], ACCOUNTS[to]);
                        let amount = worker.below(100) as i64;
                        worker.with_keys(0, &[from, to], |tx| {
                            let (rich, poor) = (number(tx, from).unwrap(), number(tx, to).unwrap());
                            set_number(tx, from, rich - amount);
                            worker.sometimes_yield();
                            set_number(tx, to, poor + amount);
                        });
                    }
                }
            }
        });
    }
}

#[test]
fn a_token_that_is_renamed_and_moved_exists_once() {
    const NAMES: &[&str] = &["north", "east", "south", "west"];
    /// How many tokens there are, in both databases.
    fn tokens(tx: &mut Tx<'_>) -> usize {
        let places = (0..2).flat_map(|db| NAMES.iter().map(move |name| (db, key(name))));
        places
            .filter(|&(db, name)| matches!(tx.place_in(db, name), Place::Present(_)))
            .count()
    }
    for &(threads, shards) in ARRANGEMENTS {
        let world = World::new(threads, shards);
        world
            .worker(0)
            .with_all(0, |tx| set_number(tx, NAMES[0], 1));
        world.run(|worker| {
            while worker.has_time_left() {
                let db = worker.below(2);
                let (from, to) = worker.two_below(NAMES.len());
                let (from, to) = (NAMES[from], NAMES[to]);
                match worker.below(6) {
                    0 => assert_eq!(worker.with_keys(db, NAMES, tokens), 1),
                    1 => assert_eq!(worker.with_all(db, tokens), 1),
                    // As RENAME does it.
                    2 | 3 => worker.with_keys(db, &[from, to], |tx| {
                        if let Some(entry) = tx.remove(key(from)) {
                            worker.sometimes_yield();
                            let renamed = entry.view().to_entry(to.as_bytes());
                            tx.insert_in(db, key(to), renamed);
                        }
                    }),
                    // As MOVE does it.
                    4 => worker.with_keys(db, &[from], |tx| {
                        if let Some(entry) = tx.remove(key(from)) {
                            worker.sometimes_yield();
                            tx.insert_in(1 - db, key(from), entry);
                        }
                    }),
                    // As COPY and DEL do it.
                    _ => worker.with_keys(db, &[from, to], |tx| {
                        let copy = tx
                            .read(key(from))
                            .map(|entry| entry.to_entry(to.as_bytes()));
                        if let Some(copy) = copy {
                            tx.insert_in(db, key(to), copy);
                            worker.sometimes_yield();
                            tx.remove(key(from));
                        }
                    }),
                }
            }
        });
    }
}

#[test]
fn setting_several_keys_if_none_exists_sets_all_or_none() {
    const KEYS: &[&str] = &["one", "two", "three", "four"];
    for &(threads, shards) in ARRANGEMENTS {
        let world = World::new(threads, shards);
        world.run(|worker| {
            let mut own = worker.thread as i64;
            while worker.has_time_left() {
                own += threads as i64;
                match worker.below(6) {
                    0 => drop(worker.with_all(0, |tx| common_value(tx, KEYS))),
                    1 => drop(worker.with_keys(0, KEYS, |tx| common_value(tx, KEYS))),
                    // Only two of the keys: their locks need not be the first ones that other sections take.
                    2 | 3 => {
                        let (one, other) = worker.two_below(KEYS.len());
                        let two = [KEYS[one], KEYS[other]];
                        worker.with_keys(0, &two, |tx| common_value(tx, &two));
                    }
                    4 => worker.with_keys(0, KEYS, |tx| {
                        for name in KEYS {
                            tx.remove(key(name));
                            worker.sometimes_yield();
                        }
                    }),
                    // As MSETNX does it; no other thread sets this value.
                    _ => worker.with_keys(0, KEYS, |tx| {
                        if KEYS.iter().all(|name| tx.peek(key(name)).is_none()) {
                            for name in KEYS {
                                set_number(tx, name, own);
                                worker.sometimes_yield();
                            }
                            assert_eq!(common_value(tx, KEYS), Some(own));
                        }
                    }),
                }
            }
        });
    }
}

#[test]
fn flushing_and_swapping_databases_is_atomic() {
    const KEYS: &[&str] = &["red", "green", "blue"];
    for &(threads, shards) in ARRANGEMENTS {
        let world = World::new(threads, shards);
        // The thread runs until the process ends.
        std::thread::spawn(|| damselfly_engine::garbage::free());
        world.run(|worker| {
            let mut own = worker.thread as i64;
            while worker.has_time_left() {
                own += threads as i64;
                let db = worker.below(2);
                match worker.below(10) {
                    0 => worker.with_all(db, |tx| {
                        tx.flush(db, own % 2 == 0);
                        worker.sometimes_yield();
                        assert_eq!(tx.totals(db).keys, 0);
                    }),
                    1 => worker.with_all(db, |tx| {
                        let before = common_value(tx, KEYS);
                        tx.swap_databases(0, 1);
                        worker.sometimes_yield();
                        tx.swap_databases(0, 1);
                        assert_eq!(common_value(tx, KEYS), before);
                        tx.swap_databases(0, 1);
                    }),
                    2 => worker.with_all(db, |tx| {
                        let expected = common_value(tx, KEYS).map_or(0, |_| KEYS.len());
                        assert_eq!(tx.totals(db).keys, expected);
                    }),
                    3 => drop(worker.with_keys(db, KEYS, |tx| common_value(tx, KEYS))),
                    4 | 5 => {
                        let (one, other) = worker.two_below(KEYS.len());
                        let two = [KEYS[one], KEYS[other]];
                        worker.with_keys(db, &two, |tx| common_value(tx, &two));
                    }
                    _ => worker.with_keys(db, KEYS, |tx| {
                        for name in KEYS {
                            set_number(tx, name, own);
                            worker.sometimes_yield();
                        }
                    }),
                }
            }
        });
    }
}
