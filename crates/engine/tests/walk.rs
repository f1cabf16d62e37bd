//! A walk over all keys, shard by shard, while keys are added and removed.

mod common;

use std::cell::Cell;
use std::collections::HashMap;

use common::NOW;
use damselfly_base::random::Random;
use damselfly_engine::{Busy, Cursor, Deadline, Engine, Key, Layout, Patience};
use damselfly_value::NewValue;

fn set(engine: &Engine, key: &str) {
    let key = Key::new(key.as_bytes());
    let mut tx = engine.lock_one(key.hash, 0, NOW).unwrap();
    tx.store(key, NewValue::compact(b"v"), Deadline::Clear);
}

fn remove(engine: &Engine, key: &str) {
    let key = Key::new(key.as_bytes());
    let taken = engine.lock_one(key.hash, 0, NOW).unwrap().take(key);
    assert!(taken.is_some());
}

/// KEYS promises this: a key that exists all the time is shown once, and one that never exists is not shown.
#[test]
fn a_walk_shows_lasting_keys_once_while_others_come_and_go() {
    let mut random = Random::for_test();
    for round in 0..12 {
        let engine = Engine::new(Layout {
            shards: 1 << (round % 3),
            databases: 1,
        });
        // Most keys are removed during the walk, so that tables shrink; then many are added.
        let (stay, go) = (1 + random.below(2000), random.below(60_000));
        (0..stay).for_each(|number| set(&engine, &format!("stay:{number}")));
        (0..go).for_each(|number| set(&engine, &format!("go:{number}")));
        let (mut cursor, mut seen, mut calls) = (Cursor(0), HashMap::new(), 0);
        let (mut gone, mut come) = (0, 0);
        loop {
            let mut tx = engine.lock_none(0, NOW);
            cursor = tx
                .walk(cursor, |entry| {
                    *seen.entry(entry.key().to_vec()).or_insert(0) += 1;
                })
                .unwrap();
            drop(tx);
            calls += 1;
            if cursor == Cursor(0) {
                break;
            }
            let end = go.min(gone + random.below(20_000));
            (gone..end).for_each(|number| remove(&engine, &format!("go:{number}")));
            gone = end;
            let end = come + random.below(3000);
            (come..end).for_each(|number| set(&engine, &format!("come:{number}")));
            come = end;
        }
        let count = |name: &str| (seen.get(name.as_bytes()).copied(), name.to_owned());
        for number in 0..stay {
            let name = format!("stay:{number}");
            assert_eq!(count(&name), (Some(1), name), "of {stay}, {calls} calls");
        }
        let known = |key: &[u8]| {
            [b"stay:".as_slice(), b"go:", b"come:"]
                .iter()
                .any(|start| key.starts_with(start))
        };
        assert!(seen.keys().all(|key| known(key)));
        assert!(
            go < 10_000 || calls > 1,
            "a large shard is visited in parts"
        );
    }
}

/// Counts how often it was asked to wait, and gives up the third time.
struct Counting(Cell<usize>);

impl Patience for Counting {
    fn wait(&self, _: Busy) -> bool {
        self.0.set(self.0.get() + 1);
        self.0.get() < 3
    }

    fn is_over(&self) -> bool {
        false
    }
}

#[test]
fn a_walk_that_can_wait_waits_for_a_busy_shard() {
    let engine = Engine::new(Layout {
        shards: 2,
        databases: 1,
    });
    (0..100).for_each(|number| set(&engine, &format!("key:{number}")));
    let patience = Counting(Cell::new(0));
    let mut tx = engine.lock_none_patiently(0, NOW, &patience);
    let held = engine.lock_shard(0, 0, NOW).unwrap();
    assert!(tx.walk(Cursor(0), |_| {}).is_err());
    assert_eq!(patience.0.get(), 3);
    drop(held);
    let (mut cursor, mut seen) = (Cursor(0), 0);
    loop {
        cursor = tx.walk(cursor, |_| seen += 1).unwrap();
        if cursor == Cursor(0) {
            break;
        }
    }
    assert_eq!(seen, 100);
}
