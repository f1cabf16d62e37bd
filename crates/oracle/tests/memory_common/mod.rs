//! Shared by the tests of memory: replies as text, and polling until a condition holds.

use damselfly_protocol::client::Value;
use std::time::{Duration, Instant};

/// How long a state may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The text of a reply, without its type.
pub fn text(value: &Value) -> String {
    match value {
        Value::Simple(bytes) | Value::Error(bytes) | Value::Bulk(bytes) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        Value::Integer(number) => number.to_string(),
        other => other.to_string(),
    }
}

/// Polls until a condition holds.
///
/// # Panics
/// If it does not within [`PATIENCE`].
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(
            started.elapsed() < PATIENCE,
            "timed out waiting until {what}"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
