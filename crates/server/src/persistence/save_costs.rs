//! The processor time that a save takes, from which the threads that copy see how often they may.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How much processor time a save takes.
#[derive(Debug, Default)]
pub(super) struct Costs {
    copying_us: AtomicU64,
    encoding_us: AtomicU64,
}

impl Costs {
    /// Before so much time of copying is counted, the ratio is a guess.
    const COPYING_MIN_US: u64 = 2_000;
    /// About that of values that are not compressed.
    const RATIO_GUESSED: u32 = 4;
    /// The highest ratio: if encoding takes longer, a save takes more than its part rather than very long.
    pub(super) const RATIO_MAX: u32 = 16;

    /// Counts what a thread that serves clients spent on copying.
    pub(super) fn add_copying(&self, time: Duration) {
        self.copying_us.fetch_add(time.as_micros() as u64, Relaxed);
    }

    /// Runs `encode` and counts the processor time that it takes.
    pub(super) fn count_encoding<T>(&self, encode: impl FnOnce() -> T) -> T {
        let begun = thread_time();
        let result = encode();
        let took = thread_time().saturating_sub(begun);
        self.encoding_us.fetch_add(took.as_micros() as u64, Relaxed);
        result
    }

    /// The time for copying and encoding, divided by the time for copying, rounded up: from 1 to [`Costs::RATIO_MAX`].
    pub(super) fn ratio(&self) -> u32 {
        let copying = self.copying_us.load(Relaxed);
        if copying < Self::COPYING_MIN_US {
            return Self::RATIO_GUESSED;
        }
        let encoding = self.encoding_us.load(Relaxed).div_ceil(copying);
        u32::try_from(encoding + 1).map_or(Self::RATIO_MAX, |ratio| ratio.min(Self::RATIO_MAX))
    }
}

/// Processor time of this thread so far.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_bounded_and_a_guess_at_first() {
        let costs = Costs::default();
        costs.add_copying(Duration::from_micros(Costs::COPYING_MIN_US - 1));
        assert_eq!(costs.ratio(), Costs::RATIO_GUESSED);
        costs.add_copying(Duration::from_millis(10));
        assert_eq!(costs.ratio(), 1);
        costs.encoding_us.store(31_000, Relaxed);
        assert_eq!(costs.ratio(), 4);
        costs.encoding_us.store(u64::MAX, Relaxed);
        assert_eq!(costs.ratio(), Costs::RATIO_MAX);
    }

    #[test]
    fn encoding_is_counted_by_processor_time() {
        let costs = Costs::default();
        costs.count_encoding(|| std::thread::sleep(Duration::from_millis(20)));
        assert!(costs.encoding_us.load(Relaxed) < 20_000);
        let begun = thread_time();
        costs.count_encoding(|| while thread_time() - begun < Duration::from_millis(30) {});
        assert!(costs.encoding_us.load(Relaxed) >= 25_000);
    }
}
