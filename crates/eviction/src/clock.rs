//! The clock of a shard: time passes as its entries are used.

/// A time in ticks, modulo 2^14.
pub type Tick = u32;

/// The bits of a tick.
pub(crate) const TICK_MASK: Tick = (1 << 14) - 1;

/// Ticks during as many uses as the shard has entries.
pub const TICKS_PER_SIZE: u32 = 64;

/// A tick in the clock's own unit.
const UNIT: u32 = 1 << 16;

/// Counts the uses of a shard's entries, in units of its size.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    time: u64,
    /// How far a use moves the clock, and the number of entries for which that was computed; zero before the first use.
    step: u32,
    entries: usize,
}

impl Clock {
    /// Notes one use, a hit or a miss.
    #[inline]
    pub fn advance(&mut self) {
        self.time += u64::from(self.step);
    }

    /// Sets how many entries the shard has.
    pub fn set_entries(&mut self, entries: usize) {
        if self.entries != entries || self.step == 0 {
            self.entries = entries;
            let uses = u32::try_from(entries).unwrap_or(u32::MAX).max(1);
            self.step = (TICKS_PER_SIZE * UNIT / uses).max(1);
        }
    }

    /// Notes that the shard has at least so many entries.
    #[inline]
    pub fn expect_entries(&mut self, entries: usize) {
        if entries > self.entries || self.step == 0 {
            self.set_entries(entries);
        }
    }

    /// The present time.
    #[inline]
    pub fn now(&self) -> Tick {
        self.ticks() as Tick & TICK_MASK
    }

    /// All ticks since the clock was created.
    #[inline]
    pub fn ticks(&self) -> u64 {
        self.time / u64::from(UNIT)
    }
}

/// Ticks from `then` to `now`.
#[inline]
pub(crate) fn ticks_since(then: Tick, now: Tick) -> Tick {
    now.wrapping_sub(then) & TICK_MASK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_of_any_size_ticks_equally_often_per_turnover() {
        for entries in [1, 3, 64, 1000, 1_000_000] {
            let mut clock = Clock::default();
            clock.set_entries(entries);
            for _ in 0..entries {
                clock.advance();
            }
            let ticks = clock.now();
            assert!((60..=64).contains(&ticks), "{entries} entries: {ticks}");
        }
    }

    #[test]
    fn ages_are_right_across_the_wrap() {
        assert_eq!(ticks_since(TICK_MASK, 2), 3);
    }
}
