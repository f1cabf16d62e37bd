//! Waiting for something that a server does at its own pace.

use std::time::{Duration, Instant};

/// Waits until `condition` holds.
///
/// # Panics
/// If it does not hold for too long, even on a busy machine.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    const PATIENCE: Duration = Duration::from_secs(60);
    const POLL_INTERVAL: Duration = Duration::from_millis(5);
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(POLL_INTERVAL);
    }
}
