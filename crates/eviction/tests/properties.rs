//! What a cache that uses the policy must do, whatever its requests are. The cache here has one shard and counts bytes.

use damselfly_eviction::{Candidate, History, Model, Search, ShardState};
use std::collections::HashMap;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed(self.0)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit
    }
}

fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

struct Cache {
    bytes_max: usize,
    bytes: usize,
    entries: Vec<(u64, usize, History)>,
    places: HashMap<u64, usize>,
    shard: ShardState,
    model: Model,
    random: Random,
    /// Keys in the order of their evictions.
    evicted: Vec<u64>,
}

impl Cache {
    fn new(bytes_max: usize, seed: u64) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            entries: Vec::new(),
            places: HashMap::new(),
            shard: ShardState::default(),
            model: Model::default(),
            random: Random(seed),
            evicted: Vec::new(),
        }
    }

    /// Looks a key up, and stores it if it is absent. True if it was there.
    fn request(&mut self, key: u64, bytes: usize) -> bool {
        let random = self.random.number() as u32;
        let found = self.places.get(&key).copied();
        match found {
            Some(place) => {
                let usage = self.shard.note_use(&self.model, random);
                let history = &mut self.entries[place].2;
                *history = usage.used(*history);
            }
            None => {
                let count = self.entries.len();
                let history = (self.shard)
                    .note_store(&self.model, mixed(key), count, random)
                    .created();
                self.bytes += bytes;
                self.places.insert(key, self.entries.len());
                self.entries.push((key, bytes, history));
                while self.bytes > self.bytes_max {
                    self.evict(key);
                }
            }
        }
        if self.model.is_due() {
            self.model.learn(self.entries.len());
        }
        found.is_some()
    }

    /// Evicts an entry. The first candidate is the newest: if it is worth too little, it goes at once, and nothing else has to make room for it.
    fn evict(&mut self, newest: u64) {
        let mut newest = self.places.get(&newest).copied();
        let (mut search, mut lowest) = (Search::default(), 0);
        while !search.is_over() {
            let place = match newest.take() {
                Some(place) => place,
                None => self.random.below(self.entries.len() as u64) as usize,
            };
            let (_, bytes, history) = self.entries[place];
            let candidate = Candidate {
                history,
                cost: bytes,
                ticks_left: None,
            };
            let random = self.random.number();
            if (self.shard).consider(&self.model, &mut search, candidate, random) {
                lowest = place;
            }
        }
        let (key, bytes, history) = self.entries.swap_remove(lowest);
        self.places.remove(&key);
        if let Some((moved, ..)) = self.entries.get(lowest) {
            self.places.insert(*moved, lowest);
        }
        self.bytes -= bytes;
        self.evicted.push(key);
        let random = self.random.number() as u32;
        self.shard
            .evicted(&self.model, mixed(key), history, self.entries.len(), random);
    }
}

/// A share of requests that are hits.
fn hits(cache: &mut Cache, count: usize, mut next: impl FnMut(&mut Random) -> (u64, usize)) -> f64 {
    let mut random = Random(cache.random.number());
    let hits = (0..count).filter(|_| {
        let (key, bytes) = next(&mut random);
        cache.request(key, bytes)
    });
    hits.count() as f64 / count as f64
}

#[test]
fn keys_that_are_never_used_again_go_before_those_in_use() {
    for seed in 1..=5 {
        let mut cache = Cache::new(2000, seed);
        let mut fresh = 1_000_000;
        let mut mixed_load = |random: &mut Random| {
            // 1,500 keys in use, and as many requests for keys that come once.
            match random.below(2) {
                0 => (random.below(1500), 1),
                _ => {
                    fresh += 1;
                    (fresh, 1)
                }
            }
        };
        hits(&mut cache, 40_000, &mut mixed_load);
        cache.evicted.clear();
        let ratio = hits(&mut cache, 40_000, &mut mixed_load);
        let in_use = cache.evicted.iter().filter(|key| **key < 1500).count();
        let share = in_use as f64 / cache.evicted.len() as f64;
        assert!(
            share < 0.03,
            "seed {seed}: {share} of the victims were in use"
        );
        assert!(ratio > 0.48, "seed {seed}: {ratio}");
    }
}

#[test]
fn equal_keys_are_chosen_fairly() {
    for seed in 1..=3 {
        let mut cache = Cache::new(500, seed);
        hits(&mut cache, 200_000, |random| (random.below(1000), 1));
        let mut counts = vec![0.0; 1000];
        for key in &cache.evicted {
            counts[*key as usize] += 1.0;
        }
        let mean = cache.evicted.len() as f64 / 1000.0;
        // A key is in the cache half of the time, so its evictions alternate with misses: fewer than chance alone would allow.
        let (least, most) = counts
            .iter()
            .fold((f64::MAX, 0.0), |(least, most), count: &f64| {
                (count.min(least), count.max(most))
            });
        assert!(
            least > 0.33 * mean && most < 1.7 * mean,
            "seed {seed}: {least} {mean} {most}"
        );
    }
}

#[test]
fn of_keys_with_equal_use_the_largest_go_first() {
    let mut cache = Cache::new(100_000, 7);
    let size = |key: u64| if key < 100 { 5000 } else { 50 };
    hits(&mut cache, 30_000, |random| {
        let key = random.below(1000);
        (key, size(key))
    });
    let share = |keys: std::ops::Range<u64>| {
        let there = keys.clone().filter(|key| cache.places.contains_key(key));
        there.count() as f64 / (keys.end - keys.start) as f64
    };
    let (large, small) = (share(0..100), share(100..1000));
    assert!(
        small > 0.95 && large < 0.2,
        "{small} of the small, {large} of the large"
    );
}

#[test]
fn a_new_working_set_replaces_the_old_one_within_a_few_turnovers() {
    for seed in 1..=5 {
        let mut cache = Cache::new(1000, seed);
        hits(&mut cache, 100_000, |random| (random.below(900), 1));
        hits(&mut cache, 3_000, |random| (10_000 + random.below(900), 1));
        let after = hits(&mut cache, 1_000, |random| (10_000 + random.below(900), 1));
        assert!(after > 0.8, "seed {seed}: {after}");
    }
}

#[test]
fn a_loop_that_is_larger_than_the_cache_is_kept_in_part() {
    let mut cache = Cache::new(500, 3);
    let mut next = 0;
    let mut turn = |_: &mut Random| {
        next = (next + 1) % 1000;
        (next, 1)
    };
    hits(&mut cache, 100_000, &mut turn);
    // LRU has no hit at all here, and the best possible policy half.
    let ratio = hits(&mut cache, 20_000, &mut turn);
    assert!(ratio > 0.3, "{ratio}");
}

#[test]
fn an_entry_about_to_expire_is_worth_less() {
    let model = Model::default();
    let rank = |ticks_left| {
        let history = History::new(0);
        let candidate = Candidate {
            history,
            cost: 100,
            ticks_left,
        };
        model.rank(candidate, 0)
    };
    assert!(rank(Some(1)) < rank(Some(20)) && rank(Some(20)) < rank(None));
    assert_eq!(rank(Some(1000)), rank(None));
}

#[test]
fn learned_state_is_small() {
    const { assert!(Model::BYTES < 25_000) };
    let mut cache = Cache::new(10_000, 1);
    hits(&mut cache, 100_000, |random| (random.below(50_000), 1));
    assert!(cache.shard.allocated_bytes() <= 2 * 10_000);
}
