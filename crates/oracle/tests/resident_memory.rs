//! The memory that a server really takes, while the sizes of values change all the time.
//!
//! A longer run, with a limit of its own, in the release build:
//!
//! ```sh
//! DAMSELFLY_CHURN_S=3600 DAMSELFLY_CHURN_MIB=1024 DAMSELFLY_BIN=target/release/damselfly \
//!     cargo test -p damselfly-oracle --test resident_memory -- --nocapture
//! ```

mod cache_common;
mod memory_common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use cache_common::Cache;
use damselfly_base::random::Random;
use damselfly_oracle::connection::{Connection, request};
use damselfly_protocol::client::Value;
use memory_common::until;

const MIB: usize = 1 << 20;

/// Sizes of values, one row after another: bytes at least, bytes at most, how many keys have such values.
const SIZES: &[(usize, usize, usize)] = &[
    (10, 100, 2_000_000),
    (1000, 10_000, 200_000),
    (100_000, 1_000_000, 2000),
    (1_000_000, 10_000_000, 200),
    (10, 10_000_000, 20_000),
    (10_000, 100_000, 20_000),
];

/// One request in so many deletes a key.
const DELETES: usize = 10;

/// Requests are sent together until they have this many bytes.
const BATCH_BYTES: usize = 200_000;

const BATCH_REQUESTS: usize = 200;

/// How many clients write.
const CLIENTS: usize = 4;

/// How often resident memory is read.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(2);

/// How often INFO is read.
const INFO_INTERVAL: Duration = Duration::from_millis(100);

/// How long values of one size are written, at most.
const STEP_MAX: Duration = Duration::from_secs(6);

/// What a server may take besides `maxmemory` if a tenth of that is less: the program, stacks, what the allocator needs in any case, and what a
/// busy machine has yet to evict. With 96 MiB and values of up to 10 MB, 158 to 163 MiB were seen; without moving entries it is more than twice the limit.
const BESIDES_BYTES: usize = 80 * MIB;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// A size between the two, such that each order of magnitude is equally likely.
fn size(random: &mut Random, least: usize, most: usize) -> usize {
    let share = random.below(1 << 20) as f64 / f64::from(1 << 20);
    (least as f64 * (most as f64 / least as f64).powf(share)) as usize
}

/// Sends one batch and reads the replies. Returns the bytes of the values.
fn churn(connection: &mut Connection, random: &mut Random, step: usize, values: &[u8]) -> usize {
    let (least, most, keys) = SIZES[step % SIZES.len()];
    let (mut batch, mut sent, mut bytes) = (Vec::new(), 0, 0);
    while sent < BATCH_REQUESTS && bytes < BATCH_BYTES {
        let key = format!("{}:{}", step % SIZES.len(), random.below(keys));
        if random.below(DELETES) == 0 {
            batch.extend(request(&["DEL", &key]));
        } else {
            let len = size(random, least, most);
            let start = random.below(values.len() - len);
            let value = &values[start..start + len];
            batch.extend(request(&[b"SET", key.as_bytes(), value]));
            bytes += len;
        }
        sent += 1;
    }
    connection.send(&batch).unwrap();
    for _ in 0..sent {
        let reply = connection.receive().unwrap();
        let is_done = matches!(&reply, Value::Integer(_))
            || matches!(&reply, Value::Simple(text) if text == b"OK");
        assert!(is_done, "{reply}");
    }
    bytes
}

/// What a run has seen, of the values of one row or of all.
#[derive(Clone, Copy, Default)]
struct Seen {
    /// The most resident bytes.
    highest: usize,
    /// The sums over all samples.
    resident: usize,
    used: usize,
    withheld: usize,
    samples: usize,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.highest = self.highest.max(other.highest);
        self.resident += other.resident;
        self.used += other.used;
        self.withheld += other.withheld;
        self.samples += other.samples;
    }

    fn mean(&self, sum: usize) -> usize {
        sum / self.samples.max(1)
    }

    fn line(&self, limit: usize) -> String {
        format!(
            "resident at most {} MiB ({:.3} times), {} MiB on average; in use {} MiB, withheld {} MiB",
            self.highest / MIB,
            self.highest as f64 / limit as f64,
            self.mean(self.resident) / MIB,
            self.mean(self.used) / MIB,
            self.mean(self.withheld) / MIB,
        )
    }
}

/// Several clients write for so long, and the sizes change all the time. Returns what was seen of each row of [`SIZES`] after the cache was full, and
/// the bytes of values that were written.
fn run(
    cache: &mut Cache,
    duration: Duration,
    values: &[u8],
    seeds: &mut Random,
) -> ([Seen; SIZES.len()], usize) {
    let (step, written) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let is_over = AtomicBool::new(false);
    let mut seen = [Seen::default(); SIZES.len()];
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            let mut connection = cache.server.connect();
            let mut random = Random::new(seeds.number());
            let (step, written, is_over) = (&step, &written, &is_over);
            scope.spawn(move || {
                while !is_over.load(Relaxed) {
                    let bytes = churn(&mut connection, &mut random, step.load(Relaxed), values);
                    written.fetch_add(bytes, Relaxed);
                }
            });
        }
        let started = Instant::now();
        let step_time = STEP_MAX.min(duration / 12);
        let mut next_info = started;
        while started.elapsed() < duration {
            let steps = (started.elapsed().as_millis() / step_time.as_millis()) as usize;
            step.store(steps, Relaxed);
            let row = &mut seen[steps % SIZES.len()];
            let resident = cache.server.resident_bytes() as usize;
            row.highest = row.highest.max(resident);
            if Instant::now() >= next_info && written.load(Relaxed) > 2 * cache.limit {
                next_info = Instant::now() + INFO_INTERVAL;
                row.resident += resident;
                row.used += cache.info("used_memory");
                row.withheld += cache.info("mem_allocator_withheld_for_evict");
                row.samples += 1;
            }
            std::thread::sleep(SAMPLE_INTERVAL);
        }
        is_over.store(true, Relaxed);
    });
    (seen, written.into_inner())
}

/// Bug: resident memory was more than twice `maxmemory`. The allocator's pages are shared by blocks of about one size; after the sizes had changed, many pages had
/// a few blocks each. Fix: entries are moved out of nearly empty pages, and what the allocator holds beyond a usual amount takes the place of entries.
#[test]
fn resident_memory_stays_near_its_limit_while_sizes_change() {
    let limit = number("DAMSELFLY_CHURN_MIB", 96) * MIB;
    let duration = Duration::from_secs(number("DAMSELFLY_CHURN_S", 12) as u64);
    let mut random = Random::for_test();
    // The buffers of a save do not count.
    let mut cache = Cache::with_limit(&["--cache-mode", "yes", "--save", ""], limit);
    let mut values = vec![0; 20 * MIB];
    values.chunks_exact_mut(8).for_each(|chunk| {
        chunk.copy_from_slice(&random.number().to_le_bytes());
    });
    let (rows, written) = run(&mut cache, duration, &values, &mut random);
    let mut seen = Seen::default();
    for (row, (least, most, _)) in rows.into_iter().zip(SIZES) {
        println!("{least} to {most} bytes: {}", row.line(limit));
        seen.add(row);
    }
    println!(
        "limit {} MiB, {}; {} MiB written, {} entries moved, {} keys evicted",
        limit / MIB,
        seen.line(limit),
        written / MIB,
        cache.info("active_defrag_hits"),
        cache.info("evicted_keys"),
    );
    let bound = limit + (limit / 10).max(BESIDES_BYTES);
    assert!(
        seen.highest < bound,
        "{} resident bytes, limit {limit}",
        seen.highest
    );
    let used = seen.mean(seen.used);
    assert!(used > limit / 2, "{used} of {limit} bytes are used");
    // Once sizes stay the same, entries get their memory back.
    until("nothing is withheld", || {
        churn(&mut cache.connection, &mut random, 1, &values);
        cache.info("mem_allocator_withheld_for_evict") < limit / 50
            && cache.info("used_memory") > limit / 10 * 9
    });
}

/// The server itself takes 20 MiB then, most of it in buffers of its threads.
#[test]
fn a_limit_of_32_mb_works_with_many_threads() {
    let mut cache = Cache::with_limit(&["--cache-mode", "yes", "--threads", "16"], 32 * MIB);
    let refused = cache.fill(cache_common::numbered("key", 40_000), None);
    assert!(refused.is_empty(), "{}", refused[0]);
    let (left, used) = (cache.number(&["DBSIZE"]), cache.info("used_memory"));
    assert!(left > 10_000, "{left} keys");
    assert!(used < 33 * MIB, "{used} bytes");
}
