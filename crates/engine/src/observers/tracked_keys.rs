//! Who has read a key and keeps its value: client-side caching.
//!
//! ```text
//! shard ─► hash of the key ─► key, trackers
//!                                └─ the key is changed: Change ─► Invalidate, before the locks are released
//! ```
//!
//! - A tracker is entered under the lock of the shard under which it has read the key ([`Tx::track`]). So whoever changes the
//!   key later finds it: no change is lost between reading and tracking.
//! - A change takes the key out of the table: its trackers are told once, and again only after they have read it again.
//! - Keys of all databases share their names here, as in Redis: a change in one invalidates what was read in another.
//! - There are at most [`Settings::tracked_keys_max`](crate::Settings::tracked_keys_max) keys. Beyond that some are dropped,
//!   and their trackers told as if they had been changed.
//! - A key that is taken out is handed to [`InvalidationSink`] under the lock under which it was taken: the shard's for a key that
//!   was changed, the table's mutex for one that is dropped from the table of any shard. So a section that changes a key
//!   and finds no trackers knows that the invalidation is in the inboxes of all that there were.
//!
//! As for watchers, each shard has a mutex of its own for this. Nothing but inboxes is locked under it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Somebody who is told when a key that it has read is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tracker {
    /// The thread where it is served.
    pub thread: u32,
    /// Its place there, which others may have after it.
    pub place: u32,
    /// Never reused; zero is nobody's.
    pub id: u64,
}

/// What trackers are told.
#[derive(Debug)]
pub enum Change {
    /// A key was changed, or is not tracked any more.
    Key {
        /// The key.
        key: Box<[u8]>,
        /// Who has read it since they were told last.
        trackers: Vec<Tracker>,
        /// It was changed, and is of concern to more than those.
        concerns_others: bool,
    },
    /// Any key may have been changed.
    Everything,
}

/// Tells trackers.
pub trait InvalidationSink: Send + Sync {
    /// True if a change to this key is of concern to anybody, whoever has read it. Its shard is locked.
    fn concerns(&self, key: &[u8]) -> bool;

    /// Queues invalidations in the inboxes of the trackers' threads: what was changed, in order, and by whom (the id of a
    /// tracker, or zero). The caller holds locks: this takes no shard's lock and is quick.
    fn invalidate(&self, changes: Vec<(Change, u64)>);

    /// Wakes the threads that [`InvalidationSink::invalidate`] has left something. The caller has released the locks.
    fn wake(&self);
}

impl Change {
    pub(crate) fn of(key: &[u8], trackers: Option<Trackers>, concerns_others: bool) -> Self {
        Self::Key {
            key: key.into(),
            trackers: trackers.map(Trackers::into_list).unwrap_or_default(),
            concerns_others,
        }
    }
}

/// Those who track one key: nearly always one.
pub(crate) enum Trackers {
    One(Tracker),
    Many(BTreeSet<Tracker>),
}

impl Trackers {
    /// False if it is there already.
    pub(crate) fn add(&mut self, tracker: Tracker) -> bool {
        match self {
            Self::One(one) if *one == tracker => false,
            Self::One(one) => {
                *self = Self::Many(BTreeSet::from([*one, tracker]));
                true
            }
            Self::Many(many) => many.insert(tracker),
        }
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(many) => many.len(),
        }
    }

    pub(crate) fn into_list(self) -> Vec<Tracker> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many.into_iter().collect(),
        }
    }
}

pub(crate) struct Tracked {
    pub(crate) key: Box<[u8]>,
    pub(crate) trackers: Trackers,
}

/// The tracked keys of one shard, in order of their hashes.
#[derive(Default)]
pub(crate) struct TrackedKeys {
    pub(crate) by_hash: BTreeMap<u64, Tracked>,
    /// The hash behind which the next key is dropped that has to be.
    dropped: u64,
}

impl TrackedKeys {
    /// Takes out a key that has to go; they take turns.
    pub(crate) fn drop_one(&mut self) -> Option<Tracked> {
        let from = self.dropped.wrapping_add(1);
        let hash = match self.by_hash.range(from..).next() {
            Some((&hash, _)) => hash,
            None => *self.by_hash.first_key_value()?.0,
        };
        self.dropped = hash;
        self.by_hash.remove(&hash)
    }
}

/// The trackers of one shard.
#[derive(Default)]
pub(crate) struct Tracking {
    pub(crate) keys: Mutex<TrackedKeys>,
}

impl Tracking {
    pub(crate) fn lock(&self) -> MutexGuard<'_, TrackedKeys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts over all shards.
#[derive(Debug, Default)]
pub(crate) struct TrackedCounts {
    pub(crate) keys: AtomicUsize,
    /// One who tracks several keys counts once for each.
    pub(crate) items: AtomicUsize,
    /// The shard that a key is dropped from next.
    pub(crate) drop_at: AtomicUsize,
}
