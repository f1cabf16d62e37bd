//! What is known about the past of an entry: 24 bits, which fit into its access bits.
//!
//! ```text
//! | read: 1 | uses: 3 | interval: 6 | time of the last use: 14 |
//! ```
//!
//! - *time*: the clock of the shard.
//! - *interval*: the time between uses, as a logarithm in quarters of a doubling. It is smoothed: the mean of what it was and of the last interval. An entry
//!   that was never used again has the level of new keys instead: how many of the cache's last uses were of keys that were not known, in thirds. What comes among
//!   many of them is likelier part of a scan.
//! - *uses*: how often the entry was used again, roughly as a logarithm: 0, 1, 2, 3 to 4, 5 to 8, 9 to 16, 17 to 32, more. Several uses within a tick count as one.
//! - *read*: whether the value was read since it was stored, which memcached's clients can ask. The model ignores it.

use crate::clock::{TICK_MASK, TICKS_PER_SIZE, Tick, ticks_since};

/// Levels of uses.
pub(crate) const USES: usize = 8;
/// Levels of intervals that the model distinguishes.
pub(crate) const INTERVALS: usize = 8;
/// Classes of entries in the model.
pub(crate) const CLASSES: usize = USES * INTERVALS;

const INTERVAL_SHIFT: u32 = 14;
const INTERVAL_MAX: u32 = 63;
/// A level of the model is a doubling, in the steps of an interval.
pub(crate) const STEPS_PER_LEVEL: u32 = 4;
const USES_SHIFT: u32 = 20;
const READ_BIT: u32 = 1 << 23;

/// One in this many uses raises each level, so that the level is the logarithm of the number.
const USES_TO_RISE: [u32; USES - 1] = [1, 1, 1, 2, 4, 8, 16];

/// The level of intervals as long as the cache turns over, so that the last two are longer.
const LEVEL_OF_SIZE: u32 = INTERVALS as u32 * 3 / 4;

const _: () = assert!(TICKS_PER_SIZE.ilog2() == LEVEL_OF_SIZE);
const _: () = assert!(INTERVAL_SHIFT == TICK_MASK.count_ones());
const _: () = assert!(USES == 1 << (23 - USES_SHIFT));

/// The past of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History(u32);

impl History {
    /// The history of a key that was never seen.
    #[inline]
    pub fn new(now: Tick) -> Self {
        Self(now & TICK_MASK)
    }

    /// The same, of a key that came when there were so many new ones, as a level.
    pub(crate) fn new_among(now: Tick, new_keys: u32) -> Self {
        Self::of(now, new_keys * STEPS_PER_LEVEL, 0)
    }

    /// The history in the lower 24 bits of a number.
    #[inline]
    pub fn from_bits(bits: u32) -> Self {
        Self(bits & 0xff_ffff)
    }

    /// 24 bits.
    #[inline]
    pub fn bits(self) -> u32 {
        self.0
    }

    /// A history of these parts, of which those that are too large are cut.
    pub(crate) fn of(time: Tick, interval: u32, uses: u32) -> Self {
        let uses = uses.min(USES as u32 - 1) << USES_SHIFT;
        Self(uses | interval.min(INTERVAL_MAX) << INTERVAL_SHIFT | time & TICK_MASK)
    }

    /// After a use; `random` is a uniform number.
    #[inline]
    pub fn used(self, now: Tick, random: u32) -> Self {
        let age = self.age(now);
        let last = interval_of(age);
        let uses = self.uses();
        let interval = match uses {
            0 => last,
            // The mean is rounded up or down by chance, so that it does not drift.
            _ => (self.interval() + last + (random & 1)) / 2,
        };
        let rises = (age > 0 || uses == 0)
            && USES_TO_RISE
                .get(uses as usize)
                .is_some_and(|needed| (random >> 8).is_multiple_of(*needed));
        Self::of(now, interval, uses + u32::from(rises))
    }

    /// Ticks since the last use.
    #[inline]
    pub fn age(self, now: Tick) -> Tick {
        ticks_since(self.time(), now)
    }

    /// When the last use was.
    pub(crate) fn time(self) -> Tick {
        self.0 & TICK_MASK
    }

    pub(crate) fn interval(self) -> u32 {
        self.0 >> INTERVAL_SHIFT & INTERVAL_MAX
    }

    /// The same, but last used at another time.
    pub(crate) fn at(self, time: Tick) -> Self {
        Self(self.0 & !TICK_MASK | time & TICK_MASK)
    }

    /// The level of the number of uses, 0 to 7.
    #[inline]
    pub fn uses(self) -> u32 {
        self.0 >> USES_SHIFT & (USES as u32 - 1)
    }

    /// About how often the entry was used again, at least: 64 stands for more, too.
    pub fn uses_at_least(self) -> u32 {
        match self.uses() {
            level @ 0..=2 => level,
            level => (1 << (level - 2)) + 1,
        }
    }

    /// True if the value was read since it was stored.
    pub fn is_read(self) -> bool {
        self.0 & READ_BIT != 0
    }

    /// The same, but noted as read or not.
    pub fn with_read(self, is_read: bool) -> Self {
        Self(self.0 & !READ_BIT | if is_read { READ_BIT } else { 0 })
    }

    /// The level that the model distinguishes: of the interval, or of new keys.
    pub(crate) fn interval_level(self) -> u32 {
        (self.interval() / STEPS_PER_LEVEL).min(INTERVALS as u32 - 1)
    }

    /// The class of the model: the level of uses, and that of the interval or of new keys.
    #[inline]
    pub(crate) fn class(self) -> usize {
        self.uses() as usize * INTERVALS + self.interval_level() as usize
    }
}

/// The logarithm of a number of ticks, in quarters of a doubling, linear within a doubling.
fn interval_of(ticks: Tick) -> u32 {
    let ticks = ticks.max(1);
    let doublings = ticks.ilog2();
    let rest = ((ticks << 2) >> doublings) & 3;
    (doublings * 4 + rest).min(INTERVAL_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_overlap() {
        let history = History::of(TICK_MASK, 0, 0).with_read(true);
        assert_eq!(
            (history.interval(), history.uses(), history.is_read()),
            (0, 0, true)
        );
        let history = History::of(0, INTERVAL_MAX, 7);
        assert_eq!(
            (
                history.time(),
                history.interval(),
                history.uses(),
                history.is_read()
            ),
            (0, 63, 7, false)
        );
        assert_eq!(History::from_bits(history.bits() | 0xff << 24), history);
    }

    #[test]
    fn intervals_are_logarithms() {
        assert_eq!(
            [0, 1, 2, 3, 4, 5, 8].map(interval_of),
            [0, 0, 4, 6, 8, 9, 12]
        );
        assert!((1..TICK_MASK).all(|ticks| interval_of(ticks) <= interval_of(ticks + 1)));
        assert!(interval_of(TICK_MASK) <= INTERVAL_MAX);
    }

    #[test]
    fn uses_within_a_tick_count_as_one() {
        let often = (0..100).fold(History::new(7), |history, random| {
            history.used(7, random * 257)
        });
        assert_eq!(often.uses(), 1);
        assert_eq!(often.used(8, 0).uses(), 2);
    }

    #[test]
    fn a_new_key_has_the_level_of_new_keys_until_it_is_used() {
        let new = History::new_among(5, 2);
        assert_eq!((new.time(), new.uses(), new.class()), (5, 0, 2));
        let used = new.used(69, 0);
        assert_eq!((used.uses(), used.interval()), (1, interval_of(64)));
    }

    #[test]
    fn the_smoothed_interval_approaches_a_steady_one() {
        let mut history = History::new(0);
        let mut now = 0;
        for random in 0..100 {
            now += 100;
            history = history.used(now & TICK_MASK, random * 257);
        }
        assert!(history.interval().abs_diff(interval_of(100)) <= 1);
        assert!(history.uses() >= 5, "{}", history.uses());
    }
}
