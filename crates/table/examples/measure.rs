//! Measures the table for the decision record: bytes per item, time per lookup, the longest insertion.
//!
//! `cargo run --release -p damselfly-table --example measure -- memory|lookup|pause|churn ITEMS [staggered]`

use std::{hint::black_box, ptr::NonNull, time::Instant};

use damselfly_table::{Entry, Item, Table};

#[global_allocator]
static HEAP: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The highest bits of the hash select one of `2^PREFIX_BITS` tables, as they select a shard.
const PREFIX_BITS: u32 = 7;
/// Lookups whose buckets and items are prefetched together.
const BATCH: usize = 32;

struct Body {
    key: [u8; 16],
    value: u64,
}

struct Pair(Box<Body>);

// SAFETY: the pointer is a leaked box's: owned, aligned to 8; user addresses are below 2^47.
unsafe impl Item for Pair {
    type Ref<'a> = &'a u64;

    fn into_raw(self) -> NonNull<u8> {
        NonNull::from(Box::leak(self.0)).cast()
    }

    unsafe fn from_raw(raw: NonNull<u8>) -> Self {
        // SAFETY: by contract a leaked box.
        Self(unsafe { Box::from_raw(raw.as_ptr().cast()) })
    }

    unsafe fn reference<'a>(raw: NonNull<u8>) -> &'a u64 {
        // SAFETY: by contract a leaked box that stays for `'a`.
        let body: &Body = unsafe { raw.cast().as_ref() };
        &body.value
    }

    unsafe fn key<'a>(raw: NonNull<u8>) -> &'a [u8] {
        // SAFETY: by contract a leaked box that stays for `'a`.
        let body: &Body = unsafe { raw.cast().as_ref() };
        &body.key
    }

    unsafe fn hash(raw: NonNull<u8>) -> u64 {
        // SAFETY: as the caller promises.
        hash(unsafe { Self::key(raw) })
    }

    unsafe fn marked(_: NonNull<u8>) -> bool {
        false
    }
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

fn hash(key: &[u8]) -> u64 {
    let (low, high) = key.split_at(8);
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("keys have 16 bytes"));
    mix(word(low)
        .wrapping_add(word(high).rotate_left(32))
        .wrapping_add(0x9e37_79b9_7f4a_7c15))
}

fn key(number: u64) -> [u8; 16] {
    let mut key = *b"key:000000000000";
    let mut rest = number;
    for digit in key[4..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

struct Tables(Vec<Table<Pair>>);

impl Tables {
    fn new(is_staggered: bool) -> Self {
        let stagger = |index| if is_staggered { index } else { 0 };
        Self(
            (0..1 << PREFIX_BITS)
                .map(|index| Table::new(PREFIX_BITS, stagger(index)))
                .collect(),
        )
    }

    fn of(&self, hash: u64) -> &Table<Pair> {
        &self.0[(hash >> (64 - PREFIX_BITS)) as usize]
    }

    fn insert(&mut self, number: u64) {
        let key = key(number);
        let hash = hash(&key);
        match self.0[(hash >> (64 - PREFIX_BITS)) as usize].entry(hash, &key) {
            Entry::Vacant(vacant) => {
                vacant.insert(Pair(Box::new(Body { key, value: number })));
            }
            Entry::Occupied(_) => unreachable!("keys are inserted once"),
        }
    }

    fn memory_bytes(&self) -> usize {
        self.0.iter().map(Table::memory_bytes).sum()
    }
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("this runs on Linux");
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok());
    pages.expect("the second field is the resident pages") * 4096
}

fn memory(items: u64) {
    for is_staggered in [std::env::args().nth(3).is_some()] {
        let mut tables = Tables::new(is_staggered);
        let resident = resident_bytes();
        let mut bytes = Vec::new();
        let mut per_resident = Vec::new();
        for number in 0..items * 2 {
            tables.insert(number);
            if number >= items && number.is_multiple_of(items / 100) {
                bytes.push(tables.memory_bytes() as f64 / number as f64);
                per_resident.push(resident_bytes().saturating_sub(resident) as f64 / number as f64);
            }
        }
        let (mut slots, mut displaced) = (0, 0);
        for fill in tables.0.iter().map(Table::fill) {
            slots += fill.slots;
            displaced += fill.displaced;
        }
        for (what, bytes) in [
            ("table", bytes),
            ("resident with items of 24", per_resident),
        ] {
            let least = bytes.iter().copied().fold(f64::MAX, f64::min);
            let most = bytes.iter().copied().fold(0.0, f64::max);
            let mean = bytes.iter().sum::<f64>() / bytes.len() as f64;
            println!(
                "staggered {is_staggered}: {what}: bytes per item least {least:.2} mean {mean:.2} most {most:.2}"
            );
        }
        println!(
            "fill {:.3} displaced {:.3}",
            items as f64 * 2.0 / slots as f64,
            displaced as f64 / items as f64 / 2.0
        );
        let mut left = items * 2;
        let start = Instant::now();
        for table in &mut tables.0 {
            while table.free_some(1000) > 0 {
                left -= 1;
            }
        }
        println!(
            "freed in slices: {:.1} ns per item ({left})",
            start.elapsed().as_nanos() as f64 / items as f64 / 2.0
        );
    }
}

fn lookup(items: u64) {
    let mut tables = Tables::new(true);
    let start = Instant::now();
    (0..items).for_each(|number| tables.insert(number));
    println!(
        "insert: {:.1} ns",
        start.elapsed().as_nanos() as f64 / items as f64
    );
    let (buckets, miss_buckets) = tables.0.iter().map(Table::fill).fold((0, 0), |sums, fill| {
        (sums.0 + fill.buckets, sums.1 + fill.miss_buckets)
    });
    println!(
        "a miss reads {:.2} buckets",
        miss_buckets as f64 / buckets as f64
    );
    let count = 4_000_000.min(items * 4);
    for (what, offset) in [("hit", 0), ("miss", items)] {
        let keys: Vec<[u8; 16]> = (0..count)
            .map(|index| key(mix(index + 1) % items + offset))
            .collect();
        let start = Instant::now();
        let hashed: u64 = keys
            .iter()
            .map(|key| hash(key))
            .fold(0, |sum, hash| sum ^ hash);
        black_box(hashed);
        let hashing = start.elapsed().as_nanos() as f64 / count as f64;
        for is_batched in [false, true] {
            let start = Instant::now();
            let mut found = 0u64;
            for batch in keys.chunks(BATCH) {
                let mut hashes = [0; BATCH];
                for (hash_of, key) in hashes.iter_mut().zip(batch) {
                    *hash_of = hash(key);
                    if is_batched {
                        tables.of(*hash_of).prefetch_bucket(*hash_of);
                    }
                }
                if is_batched {
                    hashes[..batch.len()]
                        .iter()
                        .for_each(|&hash| tables.of(hash).prefetch_item(hash));
                }
                for (&hash, key) in hashes.iter().zip(batch) {
                    found += find_one(tables.of(hash), hash, key);
                }
            }
            let each = start.elapsed().as_nanos() as f64 / count as f64;
            println!(
                "{what}, batched {is_batched}: {each:.1} ns, {hashing:.1} of them hashing ({found})"
            );
        }
    }
}

/// A separate function, so that callgrind can count its instructions.
#[inline(never)]
fn find_one(table: &Table<Pair>, hash: u64, key: &[u8]) -> u64 {
    table.find(hash, key).map_or(0, |value| *value & 1 | 1)
}

fn pause(items: u64) {
    let mut tables = Tables::new(true);
    let mut times = Vec::with_capacity(items as usize);
    for number in 0..items {
        let start = Instant::now();
        tables.insert(number);
        times.push(start.elapsed().as_nanos() as u32);
    }
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    let most = &times[times.len() - 5..];
    println!(
        "insert ns: median {} p99 {} p99.9 {} p99.99 {} longest {most:?}",
        at(0.5),
        at(0.99),
        at(0.999),
        at(0.9999)
    );
}

fn churn(items: u64) {
    let mut tables = Tables::new(true);
    (0..items).for_each(|number| tables.insert(number));
    let start = Instant::now();
    for number in 0..items {
        let key = key(number);
        let hash = hash(&key);
        match tables.0[(hash >> (64 - PREFIX_BITS)) as usize].entry(hash, &key) {
            Entry::Occupied(occupied) => drop(occupied.remove()),
            Entry::Vacant(_) => unreachable!("it was inserted"),
        }
    }
    println!(
        "remove: {:.1} ns",
        start.elapsed().as_nanos() as f64 / items as f64
    );
    println!("left: {} bytes", tables.memory_bytes());
}

fn main() {
    let mut args = std::env::args().skip(1);
    let what = args.next().unwrap_or_default();
    let items = args
        .next()
        .and_then(|items| items.parse().ok())
        .unwrap_or(1_000_000);
    match what.as_str() {
        "memory" => memory(items),
        "lookup" => lookup(items),
        "pause" => pause(items),
        "churn" => churn(items),
        _ => eprintln!("measure memory|lookup|pause|churn ITEMS [staggered]"),
    }
}
