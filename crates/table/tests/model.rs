//! Compares the table with `HashMap`, under good and hostile hashes, and tests the guarantees of its walks.

mod common;

use common::{Key, Model, Word, hash_of, random};
use damselfly_table::{Entry, Table};

/// Hashes that are as good as random.
fn spread(key: u64) -> u64 {
    random(key)
}

/// Random operations under one hash function: grow to `size`, churn, then empty the table.
fn churn(prefix_bits: u32, stagger: u32, hashing: fn(u64) -> u64, size: u64, seed: u64) {
    println!("churn: prefix {prefix_bits}, stagger {stagger}, size {size}, seed {seed}");
    churn_in(Model::new(prefix_bits, stagger, hashing), size, seed);
}

fn churn_in(mut model: Model, size: u64, seed: u64) {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(1);
        random(state)
    };
    // Four phases: mostly insert, balanced, mostly remove, mostly insert.
    for (phase, inserts_of_16) in [12, 8, 3, 11].into_iter().enumerate() {
        for step in 0..size * 2 {
            let key = next() % (size * 2);
            match next() % 16 {
                dice if dice < inserts_of_16 => model.insert(key),
                14 => model.update(key),
                15 => model.find(key),
                _ => model.remove(key),
            }
            if step % (size / 8).max(1) == 0 {
                model.check();
            }
        }
        model.check();
        println!("phase {phase}: {:?}", model.table.fill());
    }
    model.remove_all();
}

#[test]
fn small_tables_match_the_model_after_every_step() {
    for stagger in 0..8 {
        let mut model = Model::new(3, stagger, spread);
        for step in 0..3000 {
            let key = random(step ^ (u64::from(stagger) << 32)) % 300;
            match random(step + 1_000_000) % 8 {
                0..5 => model.insert(key),
                5 => model.update(key),
                _ => model.remove(key),
            }
            model.check();
        }
        model.remove_all();
    }
}

#[test]
fn tables_with_good_hashes_match_the_model() {
    for (stagger, prefix_bits) in [(0, 0), (1, 7), (22, 10), (63, 24)] {
        churn(
            prefix_bits,
            stagger,
            spread,
            20_000,
            0x5eed + u64::from(stagger),
        );
    }
}

#[test]
fn dense_tables_match_the_model() {
    churn_in(Model::with(Table::dense(), spread), 20_000, 11);
    churn_in(Model::with(Table::dense(), |key| key % 3), 1500, 12);
    for (room, is_dense) in [1, 7, 900, 1000, 30_000, 100_000]
        .into_iter()
        .flat_map(|room| [(room, true), (room, false)])
    {
        let mut table = match is_dense {
            true => Table::dense(),
            false => Table::new(0, 2),
        };
        table.make_room(room);
        let mut model = Model::with(table, spread);
        model.check();
        let before = model.table.memory_bytes();
        for key in 0..room as u64 {
            model.insert(key);
        }
        model.check();
        let after = model.table.memory_bytes();
        assert!(
            after < before + before / 4 + 1000,
            "{room}: {before}, {after}"
        );
        model.remove_all();
    }
}

#[test]
fn tables_with_equal_hashes_match_the_model() {
    churn(0, 0, |_| 0, 1500, 1);
    churn(7, 3, |_| u64::MAX, 1500, 2);
    churn(10, 5, |_| 0x0123_4567_89ab_cdef, 1500, 3);
}

#[test]
fn tables_with_hostile_hashes_match_the_model() {
    // Tags that differ in few bits at every depth; the same home bucket; hashes that differ only in the lowest bits.
    churn(4, 1, |key| (key % 7) << 40, 3000, 4);
    churn(4, 2, |key| spread(key) | 0x0fff_0000_0000_0000, 3000, 5);
    churn(0, 3, |key| key, 3000, 6);
    churn(0, 4, |key| key << 30, 6000, 7);
    // Two thirds collide, the others do not.
    churn(
        0,
        5,
        |key| {
            if key % 3 == 0 {
                spread(key)
            } else {
                0xffff << 48
            }
        },
        6000,
        8,
    );
    // The last buckets of each segment overflow into the first.
    churn(0, 6, |key| spread(key) | 0xff << 48, 6000, 9);
}

#[test]
fn two_keys_with_the_same_hash_are_two_items() {
    let mut model = Model::new(0, 0, |_| 42);
    model.insert(1);
    model.insert(2);
    model.find(1);
    model.find(2);
    model.find(3);
    model.remove(1);
    model.find(1);
    model.find(2);
    model.check();
}

#[test]
fn directory_stays_small_when_hashes_are_equal() {
    let mut model = Model::new(0, 0, |_| 7);
    (0..4000).for_each(|key| model.insert(key));
    let fill = model.table.fill();
    assert!(fill.directory <= 4000 / 32, "{fill:?}");
    model.check();
}

#[test]
fn empty_table_allocates_nothing_and_emptied_tables_give_memory_back() {
    let mut model = Model::new(7, 9, spread);
    assert_eq!(model.table.memory_bytes(), 0);
    (0..100_000).for_each(|key| model.insert(key));
    assert!(model.table.memory_bytes() > 800_000);
    model.remove_all();
    assert!(
        model.table.memory_bytes() < 1000,
        "{}",
        model.table.memory_bytes()
    );
}

#[test]
fn memory_follows_a_shrinking_table() {
    let mut model = Model::new(7, 9, spread);
    (0..100_000).for_each(|key| model.insert(key));
    (0..99_000).for_each(|key| model.remove(key));
    model.check();
    assert!(
        model.table.memory_bytes() < 1000 * 40,
        "{}",
        model.table.memory_bytes()
    );
    (0..100_000).for_each(|key| model.insert(key));
    model.check();
    assert!(
        model.table.memory_bytes() < 100_000 * 13,
        "{}",
        model.table.memory_bytes()
    );
}

/// Scans while `between` changes the table between the calls. All keys of `stay` must be seen. Returns how many keys
/// were seen more than once.
fn scan_sees(
    model: &mut Model,
    stay: impl Fn(u64) -> bool,
    mut between: impl FnMut(&mut Model, u64),
) -> usize {
    let expected: Vec<u64> = model.keys().filter(|&key| stay(key)).collect();
    let mut seen = std::collections::HashMap::new();
    let (mut cursor, mut calls) = (0, 0);
    loop {
        let next = model.table.scan(cursor, |word: Word<'_>| {
            *seen.entry(word.key()).or_insert(0) += 1
        });
        calls += 1;
        assert!(
            next == 0 || next > cursor && next < 1 << 40,
            "cursors rise: {cursor} then {next}"
        );
        cursor = next;
        if cursor == 0 {
            break;
        }
        between(model, calls);
    }
    for key in expected {
        assert!(
            seen.contains_key(&key),
            "key {key} was present throughout but not seen"
        );
    }
    seen.into_values().filter(|&times| times > 1).count()
}

#[test]
fn scan_of_a_quiet_table_sees_each_item_once() {
    for hashing in [spread, |key| (key % 9) << 44, |_| 3, |key| key << 40] {
        let mut model = Model::new(4, 0, hashing);
        (0..5000).for_each(|key| model.insert(key));
        assert_eq!(scan_sees(&mut model, |_| true, |_, _| ()), 0);
    }
}

#[test]
fn scan_misses_nothing_while_the_table_grows() {
    let mut model = Model::new(7, 1, spread);
    (0..3000).for_each(|key| model.insert(key));
    let mut fresh = 1 << 32;
    let repeated = scan_sees(
        &mut model,
        |key| key < 3000,
        |model, _| {
            // No more than a scan can keep up with.
            for _ in 0..if fresh < (1 << 32) + 30_000 { 100 } else { 0 } {
                model.insert(fresh);
                fresh += 1;
            }
        },
    );
    assert_eq!(repeated, 0, "growth repeats nothing");
    assert!(model.table.len() > 20_000);
    model.check();
}

#[test]
fn scan_misses_nothing_while_the_table_shrinks() {
    let mut model = Model::new(7, 1, spread);
    (0..40_000).for_each(|key| model.insert(key));
    let mut gone = 1000;
    let repeated = scan_sees(
        &mut model,
        |key| key < 1000,
        |model, _| {
            for _ in 0..20 {
                model.remove(gone);
                gone += 1;
            }
        },
    );
    assert_eq!(repeated, 0);
    assert!(model.table.len() < 30_000);
    model.check();
}

#[test]
fn scan_misses_nothing_under_churn() {
    for seed in 0..6 {
        println!("seed {seed}");
        let hashing = if seed % 2 == 0 {
            spread
        } else {
            |key| spread(key) | 0xf0f0 << 40
        };
        let mut model = Model::new(0, seed, hashing);
        (0..2000).for_each(|key| model.insert(key));
        let mut state = u64::from(seed) << 40;
        scan_sees(
            &mut model,
            |key| key < 300,
            |model, calls| {
                let growing = calls / 8 % 2 == 0;
                for _ in 0..300 {
                    state += 1;
                    let key = 300 + random(state) % 12_000;
                    if growing {
                        model.insert(key)
                    } else {
                        model.remove(key)
                    }
                }
            },
        );
        model.check();
    }
}

#[test]
fn scan_of_an_empty_table_or_beyond_the_end_visits_nothing() {
    let mut model = Model::new(0, 0, spread);
    assert_eq!(model.table.scan(0, |_| panic!("the table is empty")), 0);
    (0..100).for_each(|key| model.insert(key));
    assert_eq!(model.table.scan(1 << 40, |_| panic!("beyond the end")), 0);
    assert_eq!(model.table.scan(u64::MAX, |_| panic!("beyond the end")), 0);
}

#[test]
fn scan_visits_positions_between_its_cursors() {
    let mut model = Model::new(5, 0, spread);
    (0..3000).for_each(|key| model.insert(key));
    let mut cursor = 0;
    loop {
        let mut seen = Vec::new();
        let next = model.table.scan(cursor, |word| seen.push(word.key()));
        let end = if next == 0 { 1 << 40 } else { next };
        for key in seen {
            assert!((cursor..end).contains(&model.table.position(spread(key))));
        }
        if next == 0 {
            break;
        }
        cursor = next;
    }
}

#[test]
fn scan_visits_no_item_before_its_cursor() {
    let mut model = Model::new(5, 0, spread);
    (0..3000).for_each(|key| model.insert(key));
    for key in 0..3000 {
        let position = model.table.position(spread(key));
        let sees = |cursor| {
            let mut seen = false;
            model.table.scan(cursor, |word| seen |= word.key() == key);
            seen
        };
        assert!(sees(position) && !sees(position + 1));
    }
}

#[test]
fn visiting_all_buckets_sees_each_item_or_each_marked_item_once() {
    for hashing in [spread, |key| (key % 9) << 44, |_| 3, |key| key << 40] {
        let mut model = Model::new(4, 0, hashing);
        (0..5000).for_each(|key| model.insert(key));
        for only_marked in [false, true] {
            let (mut seen, mut position) = (Vec::new(), 0);
            loop {
                let see = |word: Word<'_>| seen.push(word.key());
                position = model.table.visit_bucket(position, only_marked, see);
                if position == 0 {
                    break;
                }
            }
            seen.sort_unstable();
            let is_seen = |&key: &u64| !only_marked || Model::starts_marked(key);
            assert!(seen.into_iter().eq((0..5000).filter(is_seen)));
        }
    }
}

#[test]
fn sweep_removes_dead_items_and_reads_only_marked_ones() {
    let mut model = Model::new(7, 2, spread);
    (0..30_000).for_each(|key| model.insert(key));
    let marked = model.table.marked();
    assert!(marked > 5000);
    let mut position = 0;
    let mut rounds = 0;
    while rounds < 2 {
        let mut removed = Vec::new();
        let mut swept = model.sweep(&mut position, 5, |word| {
            assert!(word.is_marked());
            word.key() % 2 == 0
        });
        removed.append(&mut swept);
        if position == 0 {
            rounds += 1;
        }
        if random(removed.len() as u64).is_multiple_of(50) {
            model.check();
        }
    }
    model.check();
    assert!(
        model
            .keys()
            .all(|key| key % 2 == 1 || !Model::starts_marked(key))
    );
}

#[test]
fn sweep_of_one_segment_makes_room() {
    let mut model = Model::new(0, 2, spread);
    (0..5000).for_each(|key| model.insert(key));
    let (before, marked) = (model.table.len(), model.table.marked());
    let swept = model.sweep_segment_of(spread(77), |_| true);
    assert!(!swept.is_empty());
    assert_eq!(model.table.len(), before - swept.len());
    assert_eq!(model.table.marked(), marked - swept.len());
    model.check();
}

#[test]
fn update_that_panics_keeps_the_item_and_its_mark() {
    let mut model = Model::new(0, 0, spread);
    (0..10).for_each(|key| model.insert(key));
    let before = model.table.marked();
    let unmarked = (0..10)
        .find(|&key| !Model::starts_marked(key))
        .expect("some keys are unmarked");
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        match model.table.entry(spread(unmarked), &unmarked.to_be_bytes()) {
            Entry::Occupied(mut occupied) => occupied.update(|item| {
                *item = Key::new(unmarked, true, item.live(), spread);
                panic!("a panic in the closure");
            }),
            Entry::Vacant(_) => unreachable!("it was inserted"),
        }
    }));
    assert!(outcome.is_err());
    assert_eq!(model.table.marked(), before + 1);
    assert!(
        model
            .table
            .find(spread(unmarked), &unmarked.to_be_bytes())
            .is_some()
    );
}

#[test]
fn every_item_can_be_picked_at_random() {
    let mut model = Model::new(7, 2, spread);
    assert!(model.table.random(1).is_none());
    model.insert(5);
    (0..100).for_each(|seed| assert_eq!(model.table.random(seed).map(|word| word.key()), Some(5)));
    (0..2000).for_each(|key| model.insert(key));
    let mut picks = vec![0; 2000];
    for seed in 0..200_000 {
        let word = model.table.random(random(seed)).expect("there are items");
        picks[word.key() as usize] += 1;
    }
    let (least, most) = (picks.iter().min().unwrap(), picks.iter().max().unwrap());
    assert!(
        *least > 30 && *most < 300,
        "of 100 on average: {least} to {most}"
    );
}

#[test]
fn huge_table_is_freed_in_slices() {
    let mut model = Model::new(0, 0, spread);
    (0..50_000).for_each(|key| model.insert(key));
    let mut left = 50_000_usize;
    while left > 0 {
        let now = model.table.free_some(700);
        assert_eq!(now, left.saturating_sub(700));
        assert_eq!(now, model.live());
        left = now;
    }
    assert_eq!(model.table.free_some(10), 0);
    assert!(model.table.memory_bytes() < 1000);
}

#[test]
fn dropped_table_drops_its_items() {
    let mut model = Model::new(0, 0, spread);
    (0..5000).for_each(|key| model.insert(key));
    assert_eq!(model.live(), 5000);
    model.table = Table::new(0, 0);
    assert_eq!(model.live(), 0);
}

#[test]
fn random_operations_match_the_model() {
    for seed in 0..200 {
        let bytes: Vec<u8> = (0..600)
            .map(|index| random(seed << 20 | index) as u8)
            .collect();
        println!("seed {seed}");
        common::drive(&bytes);
    }
}

#[test]
fn a_key_and_its_item_have_the_same_hash() {
    assert_eq!(
        hash_of(spread, 3),
        Key::new(3, false, &Default::default(), spread).hash()
    );
}
