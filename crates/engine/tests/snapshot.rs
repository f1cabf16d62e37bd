//! A snapshot shows every entry exactly as it was at the cut, whatever changes meanwhile.
//!
//! `cargo xtask ci` runs these tests with the planted bug `cut`, which lets other sections run in the middle of the cut; then
//! `threads::` must fail.

mod common;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use common::{ARRANGEMENTS, NOW, Worker, World, key, number, set_number};
use damselfly_base::random::Random;
use damselfly_engine::{Create, Deadline, Engine, Layout, Now, Place, Snapshot, Tx, Visited};
use damselfly_value::{Entry, EntryRef, List, NewValue, Set, Side, Text};

/// Some entries have this deadline; `LATER` is past it.
const DEADLINE: i64 = NOW.0 + 1000;
const LATER: Now = Now(DEADLINE + 1);

type Keys = BTreeMap<(usize, Vec<u8>), String>;

/// Adds an entry to `keys`, unless it expires.
fn note(keys: &mut Keys, db: usize, entry: EntryRef<'_>) {
    if entry.deadline_ms().is_some() {
        return;
    }
    let text = format!("{entry:?}");
    let before = keys.insert((db, entry.key().to_vec()), text);
    assert!(before.is_none(), "{:?} was visited twice", entry.key());
}

/// All entries, read while all shards are locked.
fn all_keys(tx: &mut Tx<'_>) -> Keys {
    let mut keys = Keys::new();
    for db in 0..tx.engine().databases() {
        tx.for_each_in(db, |entry| note(&mut keys, db, entry));
    }
    keys
}

fn visit(snapshot: &Snapshot, engine: &Engine, bytes: usize, keys: &mut Keys) -> Visited {
    snapshot.visit_some(&mut engine.lock_none(0, NOW), bytes, &mut |db, entry| {
        note(keys, db, entry.view())
    })
}

fn assert_unmarked(tx: &mut Tx<'_>) {
    for db in 0..tx.engine().databases() {
        tx.for_each_in(db, |entry| assert!(!entry.is_saved(), "{entry:?}"));
    }
}

/// A random change of some keys.
fn change(tx: &mut Tx<'_>, random: &mut Random, names: usize) {
    let name = |random: &mut Random| format!("key:{}", random.below(names));
    let (one, other) = (name(random), name(random));
    let db = random.below(tx.engine().databases());
    tx.set_db(db);
    match random.below(12) {
        0 => {
            // Enough removals to shrink the table.
            for _ in 0..random.below(names) {
                tx.remove(key(&name(random)));
            }
        }
        1 => {
            if let Some(entry) = tx.take(key(&one)) {
                tx.insert_in(db, key(&other), entry.view().to_entry(other.as_bytes()));
            }
        }
        2 => {
            if let Some(entry) = tx.take(key(&one)) {
                tx.insert_in(1 - db, key(&one), entry);
            }
        }
        3 => {
            tx.store(key(&one), NewValue::Bytes(b"soon"), Deadline::At(DEADLINE));
        }
        4 | 5 => {
            let added = vec![&b"element"[..]; random.below(300) + 1];
            // An error if it is no list.
            let _ = tx.change::<List, _>(key(&one), Create::IfAbsent, |list| {
                list.push(Side::Right, added.into_iter());
            });
        }
        6 => {
            let added = random.below(300) + 1;
            let _ = tx.change::<Set, _>(key(&one), Create::IfAbsent, |set| {
                (0..added).for_each(|number| {
                    set.insert(format!("member:{number}").as_bytes());
                });
            });
        }
        7 => {
            if let Place::Present(mut present) = tx.place(key(&one)) {
                present.update(|entry| entry.set_deadline_ms(None));
            }
        }
        _ => {
            let value = vec![b'v'; random.below(200)];
            tx.store(key(&one), NewValue::compact(&value), Deadline::Clear);
        }
    }
}

#[test]
fn a_snapshot_shows_the_cut_whatever_changes_later() {
    let mut random = Random::for_test();
    for round in 0..60 {
        let engine = Engine::new(Layout {
            shards: 1 << (round % 3),
            databases: 2,
        });
        let names = [5, 100, 3000][round % 3];
        let lock = |db| engine.lock_all(db, NOW).unwrap();
        for _ in 0..names {
            change(&mut lock(0), &mut random, names);
        }
        for _ in 0..3 {
            let mut tx = lock(0);
            let expected = all_keys(&mut tx);
            let snapshot = tx.begin_snapshot();
            drop(tx);
            let (mut seen, mut is_first) = (Keys::new(), true);
            while visit(&snapshot, &engine, 1 + random.below(2000), &mut seen) != Visited::All {
                let mut tx = lock(0);
                match random.below(40) {
                    0 => tx.flush(random.below(2), random.below(2) == 0),
                    1 => tx.swap_databases(0, 1),
                    _ => (0..random.below(50)).for_each(|_| change(&mut tx, &mut random, names)),
                }
                drop(tx);
                if std::mem::take(&mut is_first) {
                    for shard in 0..engine.shards() {
                        engine.sweep(shard, LATER);
                    }
                }
            }
            assert_eq!(seen, expected);
            assert_eq!(snapshot.kept_bytes(), 0);
            assert!(snapshot.is_finished());
            assert_unmarked(&mut lock(0));
        }
    }
}

#[test]
fn a_table_that_shrinks_meanwhile_shows_no_entry_twice() {
    let mut random = Random::for_test();
    for _ in 0..10 {
        let engine = Engine::new(Layout {
            shards: 1,
            databases: 2,
        });
        let mut tx = engine.lock_all(0, NOW).unwrap();
        (0..20_000).for_each(|number| set_number(&mut tx, &format!("key:{number}"), number));
        let expected = all_keys(&mut tx);
        let snapshot = tx.begin_snapshot();
        drop(tx);
        let (mut seen, mut removed) = (Keys::new(), 0);
        while visit(&snapshot, &engine, 1 + random.below(60_000), &mut seen) != Visited::All {
            let mut tx = engine.lock_all(0, NOW).unwrap();
            for _ in 0..random.below(4000) {
                tx.remove(key(&format!("key:{removed}")));
                removed += 1;
            }
        }
        assert_eq!(seen, expected);
    }
}

#[test]
fn a_section_that_is_undone_leaves_the_snapshot_and_the_keys_as_they_were() {
    let mut random = Random::for_test();
    for _ in 0..50 {
        let engine = Engine::new(Layout {
            shards: 2,
            databases: 2,
        });
        for _ in 0..200 {
            change(&mut engine.lock_all(0, NOW).unwrap(), &mut random, 40);
        }
        let mut tx = engine.lock_all(0, NOW).unwrap();
        let expected = all_keys(&mut tx);
        let snapshot = tx.begin_snapshot();
        drop(tx);
        let mut seen = Keys::new();
        while visit(&snapshot, &engine, 500, &mut seen) != Visited::All {
            let mut shards = vec![0, 1];
            let mut tx = engine.lock_shards(&mut shards, 0, NOW).unwrap();
            tx.begin_undo();
            (0..10).for_each(|_| change(&mut tx, &mut random, 40));
            tx.undo();
        }
        assert_eq!(seen, expected);
        let mut tx = engine.lock_all(0, NOW).unwrap();
        assert_eq!(all_keys(&mut tx), expected);
        assert_unmarked(&mut tx);
    }
}

#[test]
fn bytes_that_a_snapshot_keeps_are_counted_until_they_are_visited() {
    let engine = Engine::new(Layout {
        shards: 1,
        databases: 1,
    });
    let value = vec![b'v'; 1000];
    let mut tx = engine.lock_all(0, NOW).unwrap();
    for number in 0..1000 {
        let name = format!("key:{number}");
        tx.store(key(&name), NewValue::Bytes(&value), Deadline::Clear);
    }
    let bytes = tx.totals(0).entry_bytes;
    let snapshot = tx.begin_snapshot();
    for number in 0..1000 {
        tx.remove(key(&format!("key:{number}")));
    }
    drop(tx);
    let kept = snapshot.kept_bytes();
    assert_eq!(kept, bytes);
    let (mut visited, mut before) = (0, kept);
    while snapshot.visit_some(&mut engine.lock_none(0, NOW), 10_000, &mut |_, _| {
        visited += 1
    }) != Visited::All
    {
        assert!(snapshot.kept_bytes() <= before);
        before = snapshot.kept_bytes();
    }
    assert_eq!((visited, snapshot.kept_bytes()), (1000, 0));
}

/// A visitor that panics must not leave the shard locked, nor entries marked for ever.
#[test]
fn a_snapshot_can_be_visited_to_the_end_after_a_panic_of_a_visitor() {
    let engine = Engine::new(Layout {
        shards: 2,
        databases: 1,
    });
    let mut tx = engine.lock_all(0, NOW).unwrap();
    for number in 0..100 {
        set_number(&mut tx, &format!("key:{number}"), number);
    }
    let snapshot = tx.begin_snapshot();
    set_number(&mut tx, "key:1", 0);
    drop(tx);
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        snapshot.visit_some(&mut engine.lock_none(0, NOW), 1000, &mut |_, _| {
            panic!("on purpose")
        })
    }));
    assert!(panicked.is_err());
    while snapshot.visit_some(&mut engine.lock_none(0, NOW), 1000, &mut |_, _| {}) != Visited::All {
    }
    assert_unmarked(&mut engine.lock_all(0, NOW).unwrap());
}

mod threads {
    use super::*;

    const ACCOUNTS: usize = 300;

    fn account(number: usize) -> String {
        format!("account:{number}")
    }

    /// Changes of the keys, as RENAME, COPY, MOVE, SWAPDB, FLUSHDB, and transfers make them.
    fn work(worker: &Worker<'_>) {
        let (from, to) = worker.two_below(ACCOUNTS);
        let (from, to) = (account(from), account(to));
        let both = [from.as_str(), to.as_str()];
        let db = worker.below(2);
        match worker.below(200) {
            0 => worker.with_all(0, |tx| tx.swap_databases(0, 1)),
            // An empty database has the same sum as before, since an account of its own keeps the difference.
            1 => worker.with_all(0, |tx| {
                let mut lost = 0;
                tx.for_each_in(1, |entry| lost += amount(entry));
                tx.flush(1, worker.below(2) == 0);
                tx.set_db(1);
                set_number(tx, &account(0), lost);
            }),
            2..20 => worker.with_keys(db, &both, |tx| {
                if tx.peek(key(&to)).is_none()
                    && let Some(entry) = tx.take(key(&from))
                {
                    worker.sometimes_yield();
                    let entry = entry.view().to_entry(to.as_bytes());
                    tx.insert_in(db, key(&to), entry);
                }
            }),
            20..40 => worker.with_keys(db, &[from.as_str()], |tx| {
                if matches!(tx.place_in(1 - db, key(&from)), Place::Absent(_))
                    && let Some(entry) = tx.take(key(&from))
                {
                    worker.sometimes_yield();
                    tx.insert_in(1 - db, key(&from), entry);
                }
            }),
            _ => worker.with_keys(db, &both, |tx| {
                let rich = number(tx, &from).unwrap_or(0);
                let poor = number(tx, &to).unwrap_or(0);
                set_number(tx, &from, rich - 7);
                worker.sometimes_yield();
                set_number(tx, &to, poor + 7);
            }),
        }
    }

    fn amount(entry: EntryRef<'_>) -> i64 {
        match entry.text() {
            Some(Text::Integer(number)) => number,
            other => panic!("{other:?}"),
        }
    }

    /// One thread takes snapshots, in which all amounts together must be what they always are, and everything as the thread saw it
    /// at the cut. All threads visit.
    #[test]
    fn a_cut_falls_between_sections() {
        for &(threads, shards) in ARRANGEMENTS {
            let world = World::new(threads, shards);
            std::thread::spawn(|| damselfly_engine::garbage::free());
            world.worker(0).with_all(0, |tx| {
                (0..ACCOUNTS).for_each(|number| set_number(tx, &account(number), 100));
            });
            let current: Mutex<Option<Snapshot>> = Mutex::default();
            let seen: Mutex<Vec<(usize, Entry)>> = Mutex::default();
            let visiting = std::sync::RwLock::new(());
            let stopped = AtomicBool::new(false);
            world.run(|worker| {
                let engine = &world.engine;
                let help = || {
                    let _visiting = visiting.read().unwrap();
                    let snapshot = current.lock().unwrap().clone();
                    snapshot.map(|snapshot| {
                        snapshot.visit_some(&mut engine.lock_none(0, NOW), 300, &mut |db, entry| {
                            seen.lock().unwrap().push((db, entry.into_entry()));
                        })
                    })
                };
                while !stopped.load(Relaxed) {
                    if worker.thread > 0 {
                        work(worker);
                        help();
                        continue;
                    }
                    let (snapshot, expected) = worker.with_all(0, |tx| {
                        let snapshot = tx.begin_snapshot();
                        (snapshot, all_keys(tx))
                    });
                    *current.lock().unwrap() = Some(snapshot.clone());
                    while help() != Some(Visited::All) {
                        work(worker);
                    }
                    *current.lock().unwrap() = None;
                    drop(visiting.write().unwrap());
                    let mut keys = Keys::new();
                    let mut sum = 0;
                    for (db, entry) in std::mem::take(&mut *seen.lock().unwrap()) {
                        sum += amount(entry.view());
                        note(&mut keys, db, entry.view());
                    }
                    let is_right = keys == expected && sum == 100 * ACCOUNTS as i64;
                    stopped.store(!is_right || !worker.has_time_left(), Relaxed);
                    assert_eq!(sum, 100 * ACCOUNTS as i64);
                    assert_eq!(keys, expected);
                }
            });
        }
    }
}
