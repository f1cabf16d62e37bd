//! The 24 access bits of an entry: when it was last used, or how often, or both.
//!
//! ```text
//! recency    | used: u1 | seconds since the epoch, mod 2^23          |
//! frequency  | minutes since the epoch, mod 2^16 | logarithmic count |
//! learned    a `damselfly_eviction::History`
//! ```
//!
//! The first two formats are Redis's but for the first bit, so that OBJECT IDLETIME and OBJECT FREQ mean the same. That bit says whether the value
//! was used since it was stored, which memcached's clients can ask. The frequency
//! counter is a Morris counter: the higher it is, the less likely a use increments it, and it loses one per
//! `lfu-decay-time` minutes.
//!
//! When the format changes, entries keep their bits, which mean something else from then on, until they are used or evicted. Redis
//! does the same.

use damselfly_base::random;
use damselfly_eviction::{History, Use};
use damselfly_value::EntryRef;

use crate::key::Now;

/// The kind of data in the access bits, set by `maxmemory-policy` and `cache-mode`.
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
    /// The history that cache mode ranks entries by.
    Learned,
}

/// The count that a new entry starts with, so that it is not evicted first.
const INITIAL_COUNT: u32 = 5;
const COUNT_MAX: u32 = 255;
const RECENCY_MASK: i64 = 0x7f_ffff;
const USED_BIT: u32 = 0x80_0000;
const MINUTES_MASK: i64 = 0xffff;

impl AccessPolicy {
    /// The access bits of a new entry.
    #[inline]
    pub(crate) fn initial(self, now_ms: i64) -> u32 {
        match self {
            Self::Recency => recency_tick(now_ms),
            Self::Frequency { .. } => minutes(now_ms) << 8 | INITIAL_COUNT,
            // The time is set when the entry reaches its shard.
            Self::Learned => History::new(0).bits(),
        }
    }

    /// The access bits of an entry that comes from elsewhere with its history: the seconds since its last use, or its count of uses.
    /// What the policy does not record is ignored, and what it records but is `None` is that of a new entry.
    #[inline]
    pub fn restored(self, idle_seconds: Option<u64>, count: Option<u8>, now_ms: i64) -> u32 {
        match (self, idle_seconds, count) {
            // An idle time that the bits cannot express becomes the longest that they can.
            (Self::Recency, Some(idle), _) => {
                let idle = i64::try_from(idle).unwrap_or(i64::MAX).min(IDLE_MAX);
                recency_tick(now_ms - idle * 1000)
            }
            (Self::Frequency { .. }, _, Some(count)) => minutes(now_ms) << 8 | u32::from(count),
            (Self::Recency, None, _)
            | (Self::Frequency { .. }, _, None)
            | (Self::Learned, _, _) => self.initial(now_ms),
        }
    }

    /// The access bits after a use; `random` returns a uniform 32-bit number.
    #[inline]
    pub(crate) fn used(self, access: u32, now_ms: i64, random: impl FnOnce() -> u32) -> u32 {
        match self {
            Self::Recency => recency_tick(now_ms) | USED_BIT,
            Self::Frequency { log_factor, .. } => {
                let count = frequency(self, access, now_ms);
                let over = count.saturating_sub(INITIAL_COUNT);
                // One in `uses` uses increments the count.
                let uses = u64::from(over) * u64::from(log_factor) + 1;
                let grows = count < COUNT_MAX
                    && (uses == 1 || u128::from(random()) * u128::from(uses) < 1 << 32);
                minutes(now_ms) << 8 | (count + u32::from(grows))
            }
            // The shard's clock decides: see `Usage`.
            Self::Learned => access,
        }
    }
}

/// True if the value was used since it was stored. With [`AccessPolicy::Frequency`] an old use may be forgotten.
pub fn is_used(policy: AccessPolicy, access: u32) -> bool {
    match policy {
        AccessPolicy::Recency => access & USED_BIT != 0,
        AccessPolicy::Frequency { .. } => access & COUNT_MAX > INITIAL_COUNT,
        AccessPolicy::Learned => History::from_bits(access).is_read(),
    }
}

/// Seconds since the last use; minutes under [`AccessPolicy::Frequency`], in seconds; zero under [`AccessPolicy::Learned`], which does not keep
/// the time.
pub fn unused_seconds(policy: AccessPolicy, access: u32, now_ms: i64) -> i64 {
    match policy {
        AccessPolicy::Recency => idle_seconds(access, now_ms),
        AccessPolicy::Frequency { .. } => {
            let passed = (now_ms / 60_000 - i64::from(access >> 8)) & MINUTES_MASK;
            if passed > MINUTES_MASK - AHEAD_MAX_MINUTES {
                0
            } else {
                passed * 60
            }
        }
        AccessPolicy::Learned => 0,
    }
}

/// How a section records that it uses a key.
#[derive(Clone, Copy)]
pub(crate) struct Usage<'a> {
    pub(crate) policy: AccessPolicy,
    pub(crate) now: Now,
    /// False where uses are not recorded (CLIENT NO-TOUCH).
    pub(crate) touches: bool,
    /// The use by the shard's clock, under [`AccessPolicy::Learned`].
    pub(crate) learned: Option<Use<'a>>,
}

impl Usage<'_> {
    /// Records a use in an entry's access bits.
    #[inline]
    pub(crate) fn note(self, entry: EntryRef<'_>) {
        if let Some(learned) = self.learned {
            self.note_learned(entry, learned);
        } else if self.touches {
            let random = || (random::number() >> 32) as u32;
            entry.set_access(self.policy.used(entry.access(), self.now.0, random));
        }
    }

    #[inline(never)]
    fn note_learned(self, entry: EntryRef<'_>, learned: Use<'_>) {
        if self.touches {
            let history = learned.used(History::from_bits(entry.access()));
            entry.set_access(history.bits());
        }
    }

    /// Records that a new value replaces the one of an entry, as a use that does not count as one of the new value.
    #[inline]
    pub(crate) fn note_replaced(self, entry: EntryRef<'_>) {
        self.note(entry);
        match self.policy {
            AccessPolicy::Recency => entry.set_access(entry.access() & !USED_BIT),
            AccessPolicy::Frequency { .. } => {}
            AccessPolicy::Learned => {
                let history = History::from_bits(entry.access()).with_read(false);
                entry.set_access(history.bits());
            }
        }
    }

    /// Records a use that does not return the value.
    pub(crate) fn note_unread(self, entry: EntryRef<'_>) {
        let was_used = is_used(self.policy, entry.access());
        match was_used {
            true => self.note(entry),
            false => self.note_replaced(entry),
        }
    }

    /// Sets the access bits of a new entry.
    #[inline]
    pub(crate) fn note_new(self, entry: EntryRef<'_>) {
        match self.learned {
            None => entry.set_access(self.policy.initial(self.now.0)),
            Some(learned) => entry.set_access(learned.created().bits()),
        }
    }

    /// Adapts the access bits of an entry that comes from another shard or from a file.
    pub(crate) fn note_moved(self, entry: EntryRef<'_>) {
        if let Some(learned) = self.learned {
            let history = learned.moved(History::from_bits(entry.access()));
            entry.set_access(history.bits());
        }
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

/// Whole seconds since the last use, under [`AccessPolicy::Recency`]; correct up to 97 days.
pub fn idle_seconds(access: u32, now_ms: i64) -> i64 {
    let passed = (now_ms / 1000 - i64::from(access & !USED_BIT)) & RECENCY_MASK;
    if passed > IDLE_MAX { 0 } else { passed }
}

/// The count of uses: after decay under [`AccessPolicy::Frequency`]; since the key was stored first, rounded, at most 64, under [`AccessPolicy::Learned`];
/// 0 under the other policy.
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
        AccessPolicy::Learned => History::from_bits(access).uses_at_least(),
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
    fn a_value_is_used_from_its_first_use_on() {
        let policies = [
            AccessPolicy::Recency,
            AccessPolicy::Frequency {
                log_factor: 10,
                decay_minutes: 1,
            },
        ];
        for policy in policies {
            let access = policy.initial(100_000_000);
            assert!(!is_used(policy, access));
            let used = policy.used(access, 100_000_000, || u32::MAX);
            assert!(is_used(policy, used));
            assert_eq!(unused_seconds(policy, used, 100_180_000), 180);
        }
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
    fn a_restored_key_keeps_the_part_of_its_history_that_the_policy_uses() {
        let now_ms = 1_700_000_000_000;
        let idle = |seconds| {
            let access = AccessPolicy::Recency.restored(Some(seconds), Some(9), now_ms);
            idle_seconds(access, now_ms)
        };
        let longest = RECENCY_MASK - AHEAD_MAX_MINUTES * 60;
        assert_eq!((idle(0), idle(1000)), (0, 1000));
        assert_eq!((idle(1 << 24), idle(u64::MAX)), (longest, longest));
        let policy = AccessPolicy::Frequency {
            log_factor: 10,
            decay_minutes: 1,
        };
        let count = |count| frequency(policy, policy.restored(Some(7), count, now_ms), now_ms);
        assert_eq!((count(Some(255)), count(Some(0)), count(None)), (255, 0, 5));
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
