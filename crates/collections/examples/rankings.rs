//! Measures large sorted sets: bytes per member and time per operation, compared with a `BTreeSet` plus a `HashMap`.
//!
//! `cargo run --release -p damselfly-collections --example rankings -- [MEMBERS]`

use std::collections::{BTreeSet, HashMap};
use std::hint::black_box;
use std::time::Instant;

use damselfly_base::heap::{self, Heap};
use damselfly_collections::Ranking;

#[global_allocator]
static HEAP: Heap = Heap;

fn mix(index: u64) -> u64 {
    let mixed = (index ^ (index >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn member(index: u64) -> [u8; 12] {
    let mut member = *b"m00000000000";
    let mut rest = index;
    for digit in member[1..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    member
}

/// Runs `step` `count` times and prints the time per run.
fn time(label: &str, count: u64, mut step: impl FnMut(u64)) {
    let start = Instant::now();
    (0..count).for_each(&mut step);
    println!(
        "  {label}: {:.0} ns",
        start.elapsed().as_nanos() as f64 / count as f64
    );
}

fn ranking(count: u64, score: impl Fn(u64) -> f64) {
    let before = heap::used_bytes();
    let mut ranking = Ranking::new();
    time("insert", count, |index| {
        ranking.insert(&member(index), score(index));
    });
    let bytes = heap::used_bytes() - before;
    println!(
        "  bytes per member: {:.2} on the heap, {:.2} as reported by the set",
        bytes as f64 / count as f64,
        ranking.memory_bytes() as f64 / count as f64
    );
    let pick = |index: u64| mix(index + 7) % count;
    time("score", count, |index| {
        black_box(ranking.score(&member(pick(index))));
    });
    time("rank", count, |index| {
        black_box(ranking.rank(&member(pick(index))));
    });
    time("at rank", count, |index| {
        black_box(
            ranking
                .at(pick(index) as usize)
                .map(|scored| scored.score()),
        );
    });
    time("rescore", count, |index| {
        let index = pick(index);
        ranking.insert(&member(index), score(index + count));
    });
    let mut sum = 0;
    let start = Instant::now();
    for scored in &ranking {
        sum += scored.member().len();
    }
    black_box(sum);
    println!(
        "  walk: {:.0} ns",
        start.elapsed().as_nanos() as f64 / count as f64
    );
    println!(
        "  bytes per member after rescoring: {:.2}",
        ranking.memory_bytes() as f64 / count as f64
    );
    let start = Instant::now();
    let copy = ranking.clone();
    println!(
        "  copy: {:.0} ns",
        start.elapsed().as_nanos() as f64 / count as f64
    );
    println!(
        "  bytes per member of the copy: {:.2}",
        copy.memory_bytes() as f64 / count as f64
    );
    let start = Instant::now();
    ranking.remove_range(0..count as usize / 2);
    println!(
        "  remove half: {:.0} ns",
        start.elapsed().as_nanos() as f64 * 2.0 / count as f64
    );
    time("remove", count, |index| {
        ranking.remove(&member(pick(index)));
    });
}

fn plain(count: u64, score: impl Fn(u64) -> f64) {
    let before = heap::used_bytes();
    let mut scores: HashMap<[u8; 12], u64> = HashMap::new();
    let mut order: BTreeSet<(u64, [u8; 12])> = BTreeSet::new();
    time("insert", count, |index| {
        let score = score(index).to_bits();
        scores.insert(member(index), score);
        order.insert((score, member(index)));
    });
    let bytes = heap::used_bytes() - before;
    println!("  bytes per member: {:.2}", bytes as f64 / count as f64);
    time("rescore", count, |index| {
        let member = member(mix(index + 7) % count);
        let new = score(index + count).to_bits();
        let old = scores.insert(member, new);
        order.remove(&(old.unwrap_or_default(), member));
        order.insert((new, member));
    });
}

fn main() {
    let count: u64 = std::env::args()
        .nth(1)
        .map_or(1_000_000, |arg| arg.parse().expect("a number"));
    let random = |index: u64| (mix(index) >> 11) as f64 / 1e6;
    println!("ranking, {count} members, random scores");
    ranking(count, random);
    println!("ranking, ascending scores");
    ranking(count, |index| index as f64);
    println!("ranking, equal scores");
    ranking(count, |_| 0.0);
    println!("BTreeSet and HashMap, random scores");
    plain(count, random);
}
