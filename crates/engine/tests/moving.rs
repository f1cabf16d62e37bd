//! Moving entries out of nearly empty slices of memory, while commands use them and a snapshot is taken.

mod common;

use common::NOW;
use damselfly_base::heap::{SliceCounts, SparseSlices};
use damselfly_base::random::Random;
use damselfly_engine::{Deadline, Engine, Key, Layout, Visited, WalkPosition};
use damselfly_value::{NewValue, Text};

const KEYS: usize = 20_000;

fn key(number: usize) -> Vec<u8> {
    format!("key:{number}").into_bytes()
}

fn value(number: usize) -> Vec<u8> {
    let len = 10 + number % 7 * 100;
    (0..len).map(|at| (number + 31 * at) as u8).collect()
}

fn set(engine: &Engine, number: usize) {
    let name = key(number);
    let key = Key::new(&name);
    let mut tx = engine.lock_one(key.hash, 0, NOW).unwrap();
    tx.store(key, NewValue::Bytes(&value(number)), Deadline::Clear);
}

/// Counts all entries by slice of memory.
fn count_all(engine: &Engine) -> SliceCounts {
    let counts = SliceCounts::default();
    let mut found = Vec::new();
    for shard in 0..engine.shards() {
        let mut at = WalkPosition::default();
        while !engine
            .locate_entries(shard, &mut at, &mut found, NOW)
            .unwrap()
        {}
    }
    found.into_iter().for_each(|block| counts.add(block));
    counts
}

/// Moves whatever is in sparse slices. Returns how many entries.
fn move_all(engine: &Engine) -> usize {
    let slices = SparseSlices::find(&count_all(engine), usize::MAX);
    let mut entries = 0;
    for shard in 0..engine.shards() {
        let mut at = WalkPosition::default();
        loop {
            let moved = engine.move_entries(shard, &mut at, &slices, NOW).unwrap();
            entries += moved.entries;
            if moved.is_finished {
                break;
            }
        }
    }
    entries
}

fn assert_same(engine: &Engine, kept: &[usize]) {
    let mut tx = engine.lock_all(0, NOW).unwrap();
    assert_eq!(tx.totals(0).keys, kept.len());
    for &number in kept {
        let (name, expected) = (key(number), value(number));
        let found = tx.read(Key::new(&name)).expect("the key is there");
        let bytes = match found.text().expect("a string") {
            Text::Bytes { bytes, .. } => bytes.to_vec(),
            Text::Packed(text) => text.to_vec(),
            Text::Integer(number) => number.to_string().into_bytes(),
        };
        assert_eq!(bytes, expected, "key {number}");
    }
}

#[test]
fn entries_that_are_moved_stay_the_same() {
    let mut random = Random::for_test();
    let engine = Engine::new(Layout {
        shards: 4,
        databases: 2,
    });
    (0..KEYS).for_each(|number| set(&engine, number));
    // Their slices are nearly empty then.
    let kept: Vec<usize> = (0..KEYS).filter(|_| random.below(10) == 0).collect();
    for number in (0..KEYS).filter(|number| kept.binary_search(number).is_err()) {
        let name = key(number);
        let key = Key::new(&name);
        engine.lock_one(key.hash, 0, NOW).unwrap().take(key);
    }
    let bytes = |engine: &Engine| engine.lock_all(0, NOW).unwrap().totals(0);
    let before = bytes(&engine);
    let moved = move_all(&engine);
    assert!(moved > kept.len() / 2, "{moved} of {}", kept.len());
    assert_same(&engine, &kept);
    assert_eq!(bytes(&engine), before);
}

#[test]
fn a_snapshot_shows_every_entry_once_although_entries_move() {
    let engine = Engine::new(Layout {
        shards: 2,
        databases: 1,
    });
    (0..KEYS).for_each(|number| set(&engine, number));
    let snapshot = engine.lock_all(0, NOW).unwrap().begin_snapshot();
    for number in (0..KEYS).filter(|number| number % 10 != 0) {
        let name = key(number);
        let key = Key::new(&name);
        engine.lock_one(key.hash, 0, NOW).unwrap().take(key);
    }
    let mut seen = std::collections::BTreeSet::new();
    loop {
        move_all(&engine);
        let mut tx = engine.lock_none(0, NOW);
        let visited = snapshot.visit_some(&mut tx, 500_000, &mut |_, entry| {
            assert!(seen.insert(entry.view().key().to_vec()), "seen twice");
        });
        if visited == Visited::All {
            break;
        }
    }
    assert_eq!(seen.len(), KEYS);
}
