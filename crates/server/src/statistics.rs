//! Counters. Each thread has its own and updates them without locks; readers sum over all threads.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};

use crate::memcached::MemcachedCounters;
use crate::registry::counted_rows;

/// A counter with one writer, so that an addition needs no atomic read-modify-write.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to the counter. Only the owning thread may call this.
    #[inline]
    pub fn add(&self, more: u64) {
        self.0.store(self.0.load(Relaxed) + more, Relaxed);
    }

    /// The count. Any thread may call this.
    #[inline]
    pub fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }

    /// Sets the counter to zero. An addition at the same moment may overwrite this, which is good
    /// enough for CONFIG RESETSTAT.
    pub fn reset(&self) {
        self.0.store(0, Relaxed);
    }
}

/// The buckets of a latency histogram: four per power of two nanoseconds, up to 2^40 ns (18 minutes).
const LATENCY_BUCKETS: usize = 160;

/// A histogram of how long calls took. The width of a bucket is a quarter of a power of two.
pub struct Latencies([Counter; LATENCY_BUCKETS]);

impl Default for Latencies {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl Latencies {
    #[inline]
    fn bucket(ns: u64) -> usize {
        let ns = ns.max(4);
        let log2 = ns.ilog2() as usize;
        let quarter = (ns >> (log2 - 2)) as usize & 3;
        (log2 * 4 + quarter).min(LATENCY_BUCKETS - 1)
    }

    /// The largest value of a bucket, in nanoseconds.
    fn bucket_max_ns(bucket: usize) -> u64 {
        let (log2, quarter) = (bucket / 4, bucket as u64 % 4);
        if log2 < 2 {
            4
        } else {
            ((4 + quarter + 1) << (log2 - 2)) - 1
        }
    }

    #[inline]
    fn record(&self, ns: u64) {
        self.0[Self::bucket(ns)].add(1);
    }
}

/// The counters of one command on one thread.
#[derive(Default)]
pub struct CommandCounters {
    /// Calls that ran.
    pub calls: Counter,
    /// The total time they took, in nanoseconds.
    pub ns: Counter,
    /// Calls refused before they ran.
    pub rejected: Counter,
    /// Calls that ran and returned an error.
    pub failed: Counter,
    /// Made at the first call: most commands are never called, and those of a thread would take half a megabyte.
    latencies: OnceLock<Box<Latencies>>,
}

impl CommandCounters {
    /// Counts one call.
    #[inline]
    pub fn record(&self, ns: u64, track_latency: bool) {
        self.calls.add(1);
        self.ns.add(ns);
        if track_latency {
            self.latencies.get_or_init(Box::default).record(ns);
        }
    }
}

/// The counters of one thread.
#[derive(Default)]
pub struct ThreadCounters {
    /// Per command, by [`crate::registry::Row::index`].
    pub commands: Vec<CommandCounters>,
    /// Connections accepted.
    pub connections_received: Counter,
    /// Connections refused at `maxclients`.
    pub connections_rejected: Counter,
    /// Bytes read from clients.
    pub input_bytes: Counter,
    /// Bytes written to clients.
    pub output_bytes: Counter,
    /// Keys that read commands found.
    pub hits: Counter,
    /// Keys that read commands did not find.
    pub misses: Counter,
    /// Changes to keys. Never reset, because the number of unsaved changes is computed from it.
    pub changes: Counter,
    /// Turns of the event loop.
    pub turns: Counter,
    /// The total time they took, in nanoseconds.
    pub turn_ns: Counter,
    /// Reads from sockets.
    pub reads: Counter,
    /// Writes to sockets.
    pub writes: Counter,
    /// Clients closed because they left too many replies unread.
    pub output_limit_disconnections: Counter,
    /// Clients closed because all clients together took too much memory.
    pub clients_evicted: Counter,
    /// Keys removed to free memory.
    pub keys_evicted: Counter,
    /// Those of them that cache mode refused to keep.
    pub keys_refused: Counter,
    /// Clients closed for input that exceeded `client-query-buffer-limit`.
    pub query_limit_disconnections: Counter,
    /// The time spent in the expiry sweep, in microseconds.
    pub sweep_us: Counter,
    /// How many times the sweep ran out of time.
    pub sweep_out_of_time: Counter,
    /// Memory of the interpreter, in bytes.
    pub vm_bytes: AtomicUsize,
    /// The part of it for libraries of functions, in bytes.
    pub vm_functions_bytes: AtomicUsize,
    /// What memcached clients did.
    pub memcached: MemcachedCounters,
    /// Error replies.
    pub error_replies: Counter,
    /// Error replies by their first word.
    pub errors: Mutex<BTreeMap<String, u64>>,
}

/// The most distinct error words that are counted. Scripts choose their error texts, so there is no other limit.
const ERROR_WORDS_MAX: usize = 128;
/// The longest such word.
const ERROR_WORD_BYTES_MAX: usize = 30;

/// The word under which INFO counts an error: its first, if that is short and something follows. What would confuse readers of INFO is replaced.
fn error_word(text: &[u8]) -> String {
    let start = &text[..text.len().min(ERROR_WORD_BYTES_MAX + 1)];
    let word = match start.iter().position(|&byte| byte == b' ') {
        Some(len) => &text[..len],
        None => b"ERR",
    };
    String::from_utf8_lossy(word).replace(['#', ':', '\r', '\n'], "_")
}

impl ThreadCounters {
    /// Zero counters for all commands.
    pub fn new() -> Self {
        let commands = counted_rows().map(|_| CommandCounters::default()).collect();
        Self {
            commands,
            ..Self::default()
        }
    }

    /// Counts an error reply; `text` is without the leading `-`.
    pub fn count_error(&self, text: &[u8]) {
        self.error_replies.add(1);
        let word = error_word(text);
        if let Ok(mut errors) = self.errors.lock()
            && (errors.len() < ERROR_WORDS_MAX || word == "ERR" || errors.contains_key(&word))
        {
            *errors.entry(word).or_default() += 1;
        }
    }

    /// Sets the counters to zero, as CONFIG RESETSTAT does.
    pub fn reset(&self) {
        for command in &self.commands {
            for counter in [
                &command.calls,
                &command.ns,
                &command.rejected,
                &command.failed,
            ] {
                counter.reset();
            }
            if let Some(latencies) = command.latencies.get() {
                latencies.0.iter().for_each(Counter::reset);
            }
        }
        for counter in [
            &self.connections_received,
            &self.connections_rejected,
            &self.input_bytes,
            &self.output_bytes,
            &self.hits,
            &self.misses,
            &self.turns,
            &self.turn_ns,
            &self.reads,
            &self.writes,
            &self.output_limit_disconnections,
            &self.clients_evicted,
            &self.keys_evicted,
            &self.keys_refused,
            &self.query_limit_disconnections,
            &self.sweep_us,
            &self.sweep_out_of_time,
            &self.error_replies,
        ] {
            counter.reset();
        }
        self.memcached.reset();
        if let Ok(mut errors) = self.errors.lock() {
            errors.clear();
        }
    }
}

/// One command's counters, summed over all threads.
#[derive(Clone, Debug)]
pub struct CommandTotals {
    /// Calls that ran.
    pub calls: u64,
    /// The total time they took, in nanoseconds.
    pub ns: u64,
    /// Calls refused before they ran.
    pub rejected: u64,
    /// Calls that returned an error.
    pub failed: u64,
    latencies: Vec<u64>,
}

impl CommandTotals {
    /// Sums the counters of the command at `index` over all threads.
    pub fn sum<'a>(threads: impl Iterator<Item = &'a ThreadCounters>, index: usize) -> Self {
        let mut totals = Self {
            calls: 0,
            ns: 0,
            rejected: 0,
            failed: 0,
            latencies: vec![0; LATENCY_BUCKETS],
        };
        for thread in threads {
            let command = &thread.commands[index];
            totals.calls += command.calls.read();
            totals.ns += command.ns.read();
            totals.rejected += command.rejected.read();
            totals.failed += command.failed.read();
            if let Some(latencies) = command.latencies.get() {
                for (total, counter) in totals.latencies.iter_mut().zip(&latencies.0) {
                    *total += counter.read();
                }
            }
        }
        totals
    }

    /// The latency, in microseconds, that `percent` of the calls did not exceed. Accurate to a
    /// quarter of a power of two.
    pub fn percentile_us(&self, percent: f64) -> f64 {
        let total: u64 = self.latencies.iter().sum();
        let wanted = ((percent / 100.0 * total as f64).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        for (bucket, count) in self.latencies.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Latencies::bucket_max_ns(bucket) as f64 / 1000.0;
            }
        }
        0.0
    }

    /// The number of calls whose latency was recorded.
    pub fn timed(&self) -> u64 {
        self.latencies.iter().sum()
    }

    /// The cumulative histogram: pairs of a limit in microseconds and the number of calls that did not
    /// exceed it. It uses Redis's limits, without those at which the count does not grow.
    pub fn cumulative_us(&self) -> Vec<(u64, u64)> {
        /// Redis's limits are 1024 ns times powers of two, each plus the width of its bucket.
        const FIRST_LOG2: usize = 10;
        const WIDTH_LOG2: usize = 7;
        let mut shown = Vec::new();
        let (mut seen, mut last) = (0, 0);
        for (bucket, count) in self.latencies.iter().enumerate() {
            seen += count;
            // This is the last bucket below a power of two.
            if bucket % 4 == 3 && bucket / 4 + 1 >= FIRST_LOG2 && seen > last {
                let limit_ns = 2_u64 << (bucket / 4);
                shown.push(((limit_ns + (limit_ns >> WIDTH_LOG2) - 1) / 1000, seen));
                last = seen;
            }
        }
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_under_the_words_of_redis() {
        let (longest, longer) = ("x".repeat(30), "x".repeat(31));
        for (text, word) in [
            ("WRONGTYPE Operation against a key", "WRONGTYPE"),
            ("x", "ERR"),
            ("", "ERR"),
            ("a:b#c x", "a_b_c"),
            (&format!("{longest} x"), longest.as_str()),
            (&format!("{longer} x"), "ERR"),
        ] {
            assert_eq!(error_word(text.as_bytes()), word, "{text}");
        }
    }

    #[test]
    fn buckets_hold_the_values_between_their_bounds() {
        for ns in (0..1_000_000).step_by(7).chain([u64::MAX]) {
            let bucket = Latencies::bucket(ns);
            assert!(bucket == LATENCY_BUCKETS - 1 || ns <= Latencies::bucket_max_ns(bucket));
            assert!(bucket < 9 || ns > Latencies::bucket_max_ns(bucket - 1));
        }
    }

    #[test]
    fn percentiles_are_computed_over_all_threads() {
        let threads = [ThreadCounters::new(), ThreadCounters::new()];
        for _ in 0..99 {
            threads[0].commands[0].record(1_000, true);
        }
        threads[1].commands[0].record(1_000_000, true);
        let totals = CommandTotals::sum(threads.iter(), 0);
        assert_eq!(totals.calls, 100);
        assert!((1.0..1.3).contains(&totals.percentile_us(50.0)));
        assert!((1000.0..1300.0).contains(&totals.percentile_us(100.0)));
        assert_eq!(totals.cumulative_us(), [(1, 99), (1056, 100)]);
    }
}
