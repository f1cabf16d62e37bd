//! The time of day, as the server reads it.

#[cfg(fuzzing)]
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

/// The time while fuzzing, in milliseconds since the epoch. The fuzz target sets it, so that a finding can be reproduced.
#[cfg(fuzzing)]
pub static CLOCK_MS: AtomicI64 = AtomicI64::new(0);

/// Milliseconds since the epoch.
#[inline]
pub fn now_ms() -> i64 {
    #[cfg(fuzzing)]
    return CLOCK_MS.load(Relaxed);
    #[cfg(not(fuzzing))]
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_millis() as i64)
}

/// The time at which it was first asked for, in one turn of a thread.
#[derive(Debug, Default)]
pub struct TurnTime(Option<i64>);

impl TurnTime {
    /// Milliseconds since the epoch.
    #[inline]
    pub fn ms(&mut self) -> i64 {
        *self.0.get_or_insert_with(now_ms)
    }
}

/// Microseconds since the epoch.
pub fn now_us() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_micros() as i64)
}
