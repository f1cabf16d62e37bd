//! How fast a shard's clock runs: ticks per millisecond, so that the time until a deadline can be compared with ages.

use crate::clock::{TICKS_PER_SIZE, Tick};

/// The pace is measured over at least so many ticks: a quarter of a turnover.
const TICKS_PER_MEASUREMENT: u64 = TICKS_PER_SIZE as u64 / 4;

/// The measured pace of a clock.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    since_ticks: u64,
    since_ms: i64,
    /// Zero until it is known.
    ticks_per_ms: f32,
}

impl Pace {
    /// Notes how many ticks there were until now.
    pub fn note(&mut self, ticks: u64, now_ms: i64) {
        let passed = ticks - self.since_ticks;
        if passed < TICKS_PER_MEASUREMENT && self.since_ms != 0 {
            return;
        }
        let passed_ms = now_ms - self.since_ms;
        if self.since_ms != 0 && passed_ms > 0 {
            let measured = passed as f32 / passed_ms as f32;
            self.ticks_per_ms = match self.ticks_per_ms {
                0.0 => measured,
                before => 0.5 * (before + measured),
            };
        }
        // The clock on the wall may have been set back.
        if passed_ms != 0 {
            (self.since_ticks, self.since_ms) = (ticks, now_ms);
        }
    }

    /// The ticks that pass in so many milliseconds; the most possible while the pace is unknown.
    pub fn ticks_in(&self, ms: u64) -> Tick {
        match self.ticks_per_ms {
            0.0 => Tick::MAX,
            pace => (ms as f32 * pace) as Tick,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_follows_the_load() {
        let mut pace = Pace::default();
        assert_eq!(pace.ticks_in(1), Tick::MAX);
        let (mut ticks, mut now_ms) = (0, 1_700_000_000_000);
        for per_second in [100, 10] {
            for _ in 0..100 {
                pace.note(ticks, now_ms);
                (ticks, now_ms) = (ticks + per_second, now_ms + 1000);
            }
            let expected = 5 * per_second as Tick;
            assert!(pace.ticks_in(5000).abs_diff(expected) <= expected / 10);
        }
        // A clock that is set back is no reason for a pace that is negative or without bounds.
        for _ in 0..20 {
            pace.note(ticks, now_ms - 3_600_000);
            (ticks, now_ms) = (ticks + 10, now_ms + 1000);
        }
        assert!((45..=55).contains(&pace.ticks_in(5000)));
    }
}
