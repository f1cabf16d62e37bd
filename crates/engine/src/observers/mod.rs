//! Observers of keys: clients that wait for them, watch them or cache them, and receivers of events.

pub(crate) mod key_events;
pub(crate) mod tracked_keys;
pub(crate) mod waiters;
pub(crate) mod watched_keys;
