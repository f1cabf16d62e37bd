//! The latency monitor: when, and by what, the server was held up.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Samples kept per event.
pub const SAMPLES_MAX: usize = 160;

/// The samples of one event.
#[derive(Clone, Debug, Default)]
pub struct Event {
    /// Time in seconds since the epoch, and latency in milliseconds; oldest first.
    pub samples: VecDeque<(i64, u64)>,
    /// The highest latency ever, in milliseconds.
    pub max_ms: u64,
}

/// The samples of all events, by name.
#[derive(Debug, Default)]
pub struct LatencyMonitor(Mutex<BTreeMap<&'static str, Event>>);

impl LatencyMonitor {
    /// The events.
    pub fn events(&self) -> MutexGuard<'_, BTreeMap<&'static str, Event>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that `event` took that long. Of several within one second only the longest is kept.
    pub fn add(&self, event: &'static str, now_s: i64, took_ms: u64) {
        let mut events = self.events();
        let event = events.entry(event).or_default();
        event.max_ms = event.max_ms.max(took_ms);
        match event.samples.back_mut() {
            Some((at, ms)) if *at == now_s => *ms = took_ms.max(*ms),
            Some(_) | None => event.samples.push_back((now_s, took_ms)),
        }
        if event.samples.len() > SAMPLES_MAX {
            event.samples.pop_front();
        }
    }
}
