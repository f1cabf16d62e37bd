//! Who has read a key and keeps its value: client-side caching.
//!
//! ```text
//! shard ─► hash of the key ─► key, trackers
//!                                └─ the key is changed: Change ─► Invalidate, once the locks are released
//! ```
//!
//! - A tracker is entered under the lock of the shard under which it has read the key ([`Tx::track`]). So whoever changes the
//!   key later finds it: no change is lost between reading and tracking.
//! - A change takes the key out of the table: its trackers are told once, and again only after they have read it again.
//! - Keys of all databases share their names here, as in Redis: a change in one invalidates what was read in another.
//! - There are at most [`Settings::tracked_keys_max`](crate::Settings::tracked_keys_max) keys. Beyond that some are dropped,
//!   and their trackers told as if they had been changed.
//!
//! As for watchers, each shard has a mutex of its own for this, the last to be taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::aside::Aside;
use crate::{Engine, Key, Tx};

/// While a section has changed more bytes of keys than this, it remembers no single keys any more.
const CHANGES_BYTES_MAX: usize = 16 << 20;

/// What is counted for a change beside the key, in bytes.
const CHANGE_BYTES: usize = 64;

/// How many keys are dropped at most for each that comes, while there are too many.
const DROPPED_PER_KEY: usize = 4;

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
pub trait Invalidate: Send + Sync {
    /// True if a change to this key is of concern to anybody, whoever has read it. Its shard is locked.
    fn concerns(&self, key: &[u8]) -> bool;

    /// Tells what was changed, in order, and by whom: the id of a tracker, or zero.
    fn invalidate(&self, changes: Vec<(Change, u64)>);
}

/// The changes of a section.
#[derive(Default)]
pub(crate) struct Changes {
    list: Vec<(Change, u64)>,
    /// How many of them are ascribed to somebody.
    ascribed: usize,
    bytes: usize,
}

impl Changes {
    fn add(&mut self, key: &[u8], trackers: Option<Trackers>, concerns_others: bool) {
        self.bytes += CHANGE_BYTES + key.len();
        if self.bytes > CHANGES_BYTES_MAX {
            self.list.clear();
            self.ascribed = 0;
            self.add_everything();
            return;
        }
        let change = Change::Key {
            key: key.into(),
            trackers: trackers.map(Trackers::into_list).unwrap_or_default(),
            concerns_others,
        };
        self.list.push((change, 0));
    }

    fn add_everything(&mut self) {
        self.list.push((Change::Everything, 0));
    }

    /// Tells all, if there is something to tell.
    pub(crate) fn tell(self, engine: &Engine) {
        if !self.list.is_empty()
            && let Some(invalidate) = engine.invalidate()
        {
            invalidate.invalidate(self.list);
        }
    }
}

/// Those who track one key: nearly always one.
enum Trackers {
    One(Tracker),
    Many(BTreeSet<Tracker>),
}

impl Trackers {
    /// False if it is there already.
    fn add(&mut self, tracker: Tracker) -> bool {
        match self {
            Self::One(one) if *one == tracker => false,
            Self::One(one) => {
                *self = Self::Many(BTreeSet::from([*one, tracker]));
                true
            }
            Self::Many(many) => many.insert(tracker),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(many) => many.len(),
        }
    }

    fn into_list(self) -> Vec<Tracker> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many.into_iter().collect(),
        }
    }
}

struct Tracked {
    key: Box<[u8]>,
    trackers: Trackers,
}

/// The tracked keys of one shard, in order of their hashes.
#[derive(Default)]
struct TrackedKeys {
    by_hash: BTreeMap<u64, Tracked>,
    /// The hash behind which the next key is dropped that has to be.
    dropped: u64,
}

impl TrackedKeys {
    /// Takes out a key that has to go; they take turns.
    fn drop_one(&mut self) -> Option<Tracked> {
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
    keys: Mutex<TrackedKeys>,
}

impl Tracking {
    fn lock(&self) -> MutexGuard<'_, TrackedKeys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts over all shards.
#[derive(Debug, Default)]
pub(crate) struct TrackedCounts {
    keys: AtomicUsize,
    /// One who tracks several keys counts once for each.
    items: AtomicUsize,
    /// The shard that a key is dropped from next.
    drop_at: AtomicUsize,
}

impl Tx<'_> {
    /// Tells whose the changes are that were made since the last call: those of the tracker of this id, which may not want to
    /// hear of its own, or nobody's (zero).
    #[inline]
    pub fn ascribe_changes(&mut self, id: u64) {
        if let Some(aside) = self.aside.as_mut() {
            let changes = &mut aside.changes;
            for (_, actor) in &mut changes.list[changes.ascribed..] {
                *actor = id;
            }
            changes.ascribed = changes.list.len();
        }
    }

    /// Lets a tracker hear of the next change to a key, which this section has read. All changes so far are ascribed.
    ///
    /// # Panics
    /// If the key's shard is not locked.
    pub fn track(&mut self, key: Key<'_>, tracker: Tracker) {
        #[cfg(broken = "tracking")]
        self.interrupt();
        let engine = self.engine();
        let shard = engine.shard_of(key.hash);
        assert!(self.holds(shard), "a key is tracked without its lock");
        let replaced = engine.track(shard, key, tracker);
        if let Some(replaced) = replaced {
            self.tell_dropped(replaced);
        }
        for _ in 0..DROPPED_PER_KEY {
            let Some(dropped) = engine.drop_excess() else {
                return;
            };
            self.tell_dropped(dropped);
        }
    }

    fn tell_dropped(&mut self, dropped: Tracked) {
        let changes = &mut self.aside().changes;
        changes.add(&dropped.key, Some(dropped.trackers), false);
        // It is nobody's change, whoever makes the next one.
        changes.ascribed = changes.list.len();
    }

    /// Tells all trackers to forget every key, of all databases.
    ///
    /// # Panics
    /// If not all shards are locked.
    pub fn invalidate_all(&mut self) {
        assert!(self.holds_all(), "trackers are told without all locks");
        self.engine().forget_tracked();
        self.aside().changes.add_everything();
    }
}

impl Engine {
    /// Tells who tells trackers. Without it nobody is told.
    pub fn set_invalidate(&self, invalidate: Box<dyn Invalidate>) {
        let set = self.invalidate.set(invalidate);
        assert!(set.is_ok(), "threads start once");
    }

    fn invalidate(&self) -> Option<&dyn Invalidate> {
        self.invalidate.get().map(|invalidate| &**invalidate)
    }

    /// Has every change asked about with [`Invalidate::concerns`], from now on or not any more. Calls must come in pairs.
    ///
    /// This needs no lock: a section that does not notice has begun before, so who reads a key it changes waits for its end
    /// and sees the change.
    pub fn set_observed(&self, on: bool) {
        for shard in 0..self.shards() {
            if on {
                self.add_observer(shard);
            } else {
                self.remove_observer(shard);
            }
        }
    }

    /// Notes the change of a key of a locked and observed shard.
    pub(crate) fn note_tracked(&self, shard: usize, key: Key<'_>, aside: &mut Option<Box<Aside>>) {
        let trackers = self.take_trackers(shard, key);
        let concerns_others = self
            .invalidate()
            .is_some_and(|invalidate| invalidate.concerns(key.bytes));
        if trackers.is_some() || concerns_others {
            let changes = &mut aside.get_or_insert_default().changes;
            changes.add(key.bytes, trackers, concerns_others);
        }
    }

    /// Enters a tracker. Returns what had to go for it.
    fn track(&self, shard: usize, key: Key<'_>, tracker: Tracker) -> Option<Tracked> {
        let mut keys = self.tracking(shard).lock();
        if let Some(tracked) = keys.by_hash.get_mut(&key.hash)
            && *tracked.key == *key.bytes
        {
            let adds = tracked.trackers.add(tracker);
            self.tracked.items.fetch_add(adds.into(), Relaxed);
            return None;
        }
        if keys.by_hash.is_empty() {
            self.add_observer(shard);
        }
        let tracked = Tracked {
            key: key.bytes.into(),
            trackers: Trackers::One(tracker),
        };
        self.tracked.keys.fetch_add(1, Relaxed);
        self.tracked.items.fetch_add(1, Relaxed);
        // Another key of the same hash: hardly ever, so that one is just not tracked any more.
        let replaced = keys.by_hash.insert(key.hash, tracked);
        if let Some(replaced) = &replaced {
            self.count_out(replaced);
        }
        replaced
    }

    fn count_out(&self, tracked: &Tracked) {
        self.tracked.keys.fetch_sub(1, Relaxed);
        let items = tracked.trackers.len();
        self.tracked.items.fetch_sub(items, Relaxed);
    }

    fn take_trackers(&self, shard: usize, key: Key<'_>) -> Option<Trackers> {
        let mut keys = self.tracking(shard).lock();
        let tracked = keys.by_hash.get(&key.hash)?;
        if *tracked.key != *key.bytes {
            return None;
        }
        let tracked = keys.by_hash.remove(&key.hash)?;
        self.count_out(&tracked);
        if keys.by_hash.is_empty() {
            self.remove_observer(shard);
        }
        Some(tracked.trackers)
    }

    /// Takes out a key if there are too many.
    fn drop_excess(&self) -> Option<Tracked> {
        let keys_max = self.settings.tracked_keys_max.load(Relaxed);
        if keys_max == 0 || self.tracked.keys.load(Relaxed) <= keys_max {
            return None;
        }
        (0..self.shards()).find_map(|_| {
            let shard = self.tracked.drop_at.fetch_add(1, Relaxed) % self.shards();
            let mut keys = self.tracking(shard).lock();
            let dropped = keys.drop_one()?;
            self.count_out(&dropped);
            if keys.by_hash.is_empty() {
                self.remove_observer(shard);
            }
            Some(dropped)
        })
    }

    /// Drops keys that are too many, up to `limit`, after [`crate::Settings::tracked_keys_max`] was lowered.
    pub fn drop_excess_tracked(&self, limit: usize) {
        let mut changes = Changes::default();
        for dropped in (0..limit).map_while(|_| self.drop_excess()) {
            changes.add(&dropped.key, Some(dropped.trackers), false);
        }
        changes.tell(self);
    }

    /// Forgets all keys, and tells nobody.
    pub fn forget_tracked(&self) {
        for shard in 0..self.shards() {
            let mut keys = self.tracking(shard).lock();
            if keys.by_hash.is_empty() {
                continue;
            }
            let all = std::mem::take(&mut *keys);
            self.remove_observer(shard);
            drop(keys);
            all.by_hash
                .values()
                .for_each(|tracked| self.count_out(tracked));
        }
    }

    /// How many keys are tracked.
    pub fn tracked_keys(&self) -> usize {
        self.tracked.keys.load(Relaxed)
    }

    /// How many trackers they have together; one who tracks several keys counts once for each.
    pub fn tracked_items(&self) -> usize {
        self.tracked.items.load(Relaxed)
    }
}
