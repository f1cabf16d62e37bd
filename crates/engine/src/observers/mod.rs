//! Observers of keys: clients that wait for them, watch them or cache them, and receivers of events.
//!
//! These are plain data structures, which know neither shards nor sections.

pub(crate) mod key_events;
pub(crate) mod tracked_keys;
pub(crate) mod waiters;
pub(crate) mod watched_keys;

/// The observers of one shard's keys. `W` is a client that waits.
pub(crate) struct ShardObservers<W: ?Sized> {
    pub(crate) waiting: waiters::KeyWaiters<W>,
    pub(crate) watching: watched_keys::Watching,
    pub(crate) tracking: tracked_keys::Tracking,
}

impl<W: ?Sized> Default for ShardObservers<W> {
    fn default() -> Self {
        Self {
            waiting: Default::default(),
            watching: Default::default(),
            tracking: Default::default(),
        }
    }
}
