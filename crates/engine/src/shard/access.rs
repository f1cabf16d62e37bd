//! The 24 access bits of an entry: when it was last used, or how often.
//!
//! ```text
//! recency    | seconds since the epoch, mod 2^24                     |
//! frequency  | minutes since the epoch, mod 2^16 | logarithmic count |
//! ```
//!
//! Both formats are Redis's, so that OBJECT IDLETIME and OBJECT FREQ mean the same. The frequency
//! counter is a Morris counter: the higher it is, the less likely a use increments it, and it loses one per
//! `lfu-decay-time` minutes.

use damselfly_base::random;
use damselfly_value::EntryRef;

use crate::key::Now;

/// The kind of data in the access bits, set by `maxmemory-policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessPolicy {
    /// When the key was last used.
    Recency,
    /// A decaying count of uses.
    Frequency {
        /// `lfu-log-factor`: how slowly the count grows.
        log_factor: u32,
        /// `lfu-decay-time`: minutes after which the count loses one; 0 for never.
        decay_minutes: u32,
    },
}

/// The count that a new entry starts with, so that it is not evicted first.
const INITIAL_COUNT: u32 = 5;
const COUNT_MAX: u32 = 255;
const RECENCY_MASK: i64 = 0xff_ffff;
const MINUTES_MASK: i64 = 0xffff;

impl AccessPolicy {
    /// The access bits of a new entry.
    #[inline]
    pub(crate) fn initial(self, now_ms: i64) -> u32 {
        match self {
            Self::Recency => recency_tick(now_ms),
            Self::Frequency { .. } => minutes(now_ms) << 8 | INITIAL_COUNT,
        }
    }

    /// The access bits of an entry that was last used `idle_seconds` ago and has this frequency. What the policy does not record is
    /// ignored, and what it records but is `None` is that of a new entry.
    #[inline]
    pub(crate) fn loaded(
        self,
        now_ms: i64,
        idle_seconds: Option<u64>,
        frequency: Option<u8>,
    ) -> u32 {
        match (self, idle_seconds, frequency) {
            // An idle time that the bits cannot express becomes the longest that they can.
            (Self::Recency, Some(idle), _) => {
                let idle = i64::try_from(idle).unwrap_or(i64::MAX).min(IDLE_MAX);
                recency_tick(now_ms - idle * 1000)
            }
            (Self::Frequency { .. }, _, Some(frequency)) => {
                minutes(now_ms) << 8 | u32::from(frequency)
            }
            (Self::Recency, None, _) | (Self::Frequency { .. }, _, None) => self.initial(now_ms),
        }
    }

    /// The access bits after a use; `random` returns a uniform 32-bit number.
    #[inline]
    pub(crate) fn used(self, access: u32, now_ms: i64, random: impl FnOnce() -> u32) -> u32 {
        match self {
            Self::Recency => recency_tick(now_ms),
            Self::Frequency { log_factor, .. } => {
                let count = frequency(self, access, now_ms);
                let over = count.saturating_sub(INITIAL_COUNT);
                // One in `uses` uses increments the count.
                let uses = u64::from(over) * u64::from(log_factor) + 1;
                let grows = count < COUNT_MAX
                    && (uses == 1 || u128::from(random()) * u128::from(uses) < 1 << 32);
                minutes(now_ms) << 8 | (count + u32::from(grows))
            }
        }
    }
}

/// How a section records that it uses a key.
#[derive(Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) policy: AccessPolicy,
    pub(crate) now: Now,
    /// False where uses are not recorded (CLIENT NO-TOUCH).
    pub(crate) touches: bool,
}

impl Usage {
    /// Records a use in an entry's access bits.
    #[inline]
    pub(crate) fn note(self, entry: EntryRef<'_>) {
        if self.touches {
            let random = || (random::number() >> 32) as u32;
            entry.set_access(self.policy.used(entry.access(), self.now.0, random));
        }
    }

    /// Sets the access bits of a new entry.
    #[inline]
    pub(crate) fn note_new(self, entry: EntryRef<'_>) {
        entry.set_access(self.policy.initial(self.now.0));
    }
}

fn recency_tick(now_ms: i64) -> u32 {
    ((now_ms / 1000) & RECENCY_MASK) as u32
}

fn minutes(now_ms: i64) -> u32 {
    ((now_ms / 60_000) & MINUTES_MASK) as u32
}

/// The recorded times wrap around. One that seems to be in the future by no more than this counts as now: threads read the
/// clock at different moments, and it may be set back.
const AHEAD_MAX_MINUTES: i64 = 60;

/// The longest idle time that is not taken for a moment in the future.
const IDLE_MAX: i64 = RECENCY_MASK - AHEAD_MAX_MINUTES * 60;

/// Whole seconds since the last use, under [`AccessPolicy::Recency`]; correct up to 194 days.
pub fn idle_seconds(access: u32, now_ms: i64) -> i64 {
    let passed = (now_ms / 1000 - i64::from(access)) & RECENCY_MASK;
    if passed > IDLE_MAX { 0 } else { passed }
}

/// The count of uses, after decay, under [`AccessPolicy::Frequency`]; 0 under the other policy.
pub fn frequency(policy: AccessPolicy, access: u32, now_ms: i64) -> u32 {
    match policy {
        AccessPolicy::Recency => 0,
        AccessPolicy::Frequency { decay_minutes, .. } => {
            let passed = match (now_ms / 60_000 - i64::from(access >> 8)) & MINUTES_MASK {
                passed if passed > MINUTES_MASK - AHEAD_MAX_MINUTES => 0,
                passed => passed,
            };
            let lost = (passed as u32).checked_div(decay_minutes).unwrap_or(0);
            (access & COUNT_MAX).saturating_sub(lost)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_counts_seconds_across_the_wrap() {
        let wrap_ms = 1000 << 24;
        let access = AccessPolicy::Recency.initial(wrap_ms - 2000);
        assert_eq!(idle_seconds(access, wrap_ms + 3000), 5);
    }

    #[test]
    fn loaded_marks_are_those_of_the_policy() {
        let now_ms = 1_700_000_000_000;
        let idle = |idle| AccessPolicy::Recency.loaded(now_ms, idle, Some(9));
        assert_eq!(idle_seconds(idle(Some(77)), now_ms), 77);
        assert_eq!(idle_seconds(idle(None), now_ms), 0);
        assert_eq!(idle_seconds(idle(Some(u64::MAX)), now_ms), IDLE_MAX);
        let policy = AccessPolicy::Frequency {
            log_factor: 10,
            decay_minutes: 1,
        };
        let uses = |uses| frequency(policy, policy.loaded(now_ms, Some(5), uses), now_ms);
        assert_eq!(uses(Some(200)), 200);
        assert_eq!(uses(None), INITIAL_COUNT);
    }

    #[test]
    fn a_use_slightly_in_the_future_counts_as_now() {
        let access = AccessPolicy::Recency.initial(100_000_000);
        assert_eq!(idle_seconds(access, 99_999_999), 0);
        assert_eq!(idle_seconds(access, 100_000_000 - 3_000_000), 0);
        let policy = AccessPolicy::Frequency {
            log_factor: 0,
            decay_minutes: 1,
        };
        let access = policy.initial(60_000 * 1000);
        assert_eq!(frequency(policy, access, 60_000 * 1000 - 1), 5);
        assert_eq!(policy.used(access, 60_000 * 1000 - 1, || 0) & COUNT_MAX, 6);
    }

    #[test]
    fn frequency_grows_ever_more_slowly_and_decays() {
        let policy = AccessPolicy::Frequency {
            log_factor: 10,
            decay_minutes: 1,
        };
        let mut access = policy.initial(0);
        assert_eq!(frequency(policy, access, 0), 5);
        for _ in 0..10 {
            access = policy.used(access, 0, || u32::MAX / 50);
        }
        assert_eq!(
            frequency(policy, access, 0),
            10,
            "at 10 the count grows once in 51 uses"
        );
        assert_eq!(frequency(policy, access, 3 * 60_000), 7);
        assert_eq!(frequency(policy, access, 3_600_000), 0);
    }

    #[test]
    fn the_largest_log_factor_stops_growth_and_does_not_overflow() {
        let policy = AccessPolicy::Frequency {
            log_factor: i32::MAX as u32,
            decay_minutes: 1,
        };
        let access = policy.used(200, 0, || 100);
        assert_eq!(frequency(policy, access, 0), 200);
    }
}
