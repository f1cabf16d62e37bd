//! Client-side caching: which clients have read a key and cache its value.
//!
//! ```text
//! shard ─► hash of the key ─► key, trackers
//!                                └─ the key is changed: Change ─► InvalidationSink, before the locks are released
//! ```
//!
//! - A tracker is added under the same lock of the shard under which it has read the key ([`Tx::track`](crate::Tx::track)). So
//!   every later change finds it: no change is lost between reading and tracking.
//! - A change removes the key from the table: its trackers are notified once, and again only after they have read it again.
//! - Keys of the same name in different databases are one key here, as in Redis: a change in one database invalidates what was
//!   read in another.
//! - There are at most [`Settings::tracked_keys_max`](crate::Settings::tracked_keys_max) keys. Beyond that some are dropped,
//!   and their trackers are notified as if the keys had been changed.
//! - A key that is removed is handed to [`InvalidationSink`] under the lock under which it was removed: the shard's for a changed
//!   key, the table's mutex for one that is dropped. So a section that changes a key and finds no trackers can rely on the
//!   invalidation being in the inboxes of all former trackers.
//!
//! As for watchers, each shard has a mutex for this table. Nothing but inboxes is locked under it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A client that is notified when a key that it has read is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tracker {
    /// The thread that serves it.
    pub thread: u32,
    /// Its place there, which is reused after it.
    pub place: u32,
    /// Never reused; zero stands for no client.
    pub id: u64,
}

/// A change, as trackers are notified of it.
#[derive(Debug)]
pub enum Change {
    /// A key was changed, or is no longer tracked.
    Key {
        /// The key.
        key: Box<[u8]>,
        /// The clients that have read it since its last invalidation.
        trackers: Vec<Tracker>,
        /// It was changed, and [`InvalidationSink::concerns`] other clients, too.
        concerns_others: bool,
    },
    /// Any key may have been changed.
    Everything,
}

/// Notifies trackers.
pub trait InvalidationSink: Send + Sync {
    /// True if any client wants to know of changes to this key, even without having read it. Its shard is locked.
    fn concerns(&self, key: &[u8]) -> bool;

    /// Queues invalidations in the inboxes of the trackers' threads: each change, in order, with the tracker that made it (its id,
    /// or zero). The caller holds locks, so this must not take a shard's lock, and must be quick.
    fn invalidate(&self, changes: Vec<(Change, u64)>);

    /// Wakes the threads for which [`InvalidationSink::invalidate`] has queued something. The caller has released the locks.
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

/// The trackers of one key: nearly always one.
pub(crate) enum Trackers {
    One(Tracker),
    Many(BTreeSet<Tracker>),
}

impl Trackers {
    /// False if it is among them already.
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
    /// Trackers of all of them; a client that tracks several keys counts once for each.
    pub(crate) items: usize,
    /// The hash of the key that was dropped last; the next one has a higher hash.
    dropped: u64,
}

impl TrackedKeys {
    /// Removes a key to make room: each time the next one in the order of hashes.
    pub(crate) fn drop_one(&mut self) -> Option<Tracked> {
        let from = self.dropped.wrapping_add(1);
        let hash = match self.by_hash.range(from..).next() {
            Some((&hash, _)) => hash,
            None => *self.by_hash.first_key_value()?.0,
        };
        self.dropped = hash;
        self.remove(hash)
    }

    pub(crate) fn remove(&mut self, hash: u64) -> Option<Tracked> {
        let tracked = self.by_hash.remove(&hash)?;
        self.items -= tracked.trackers.len();
        Some(tracked)
    }

    /// Returns the key that this one replaces.
    pub(crate) fn insert(&mut self, hash: u64, tracked: Tracked) -> Option<Tracked> {
        self.items += tracked.trackers.len();
        let replaced = self.by_hash.insert(hash, tracked)?;
        self.items -= replaced.trackers.len();
        Some(replaced)
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
    /// A client that tracks several keys counts once for each.
    pub(crate) items: AtomicUsize,
    /// The shard from which the next key is dropped.
    pub(crate) drop_at: AtomicUsize,
}
