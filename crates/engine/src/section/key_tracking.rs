//! Client-side caching: sections add trackers for the keys that they read, and invalidate the keys that they change.

use std::sync::atomic::Ordering::Relaxed;

use crate::observers::tracked_keys::{Change, InvalidationSink, Tracked, Tracker, Trackers};
use crate::section::extras::SectionExtras;
use crate::section::garbage;
use crate::{Engine, Key, Tx};

/// A section that has changed more bytes of keys than this invalidates everything instead of single keys.
const CHANGES_BYTES_MAX: usize = 16 << 20;

/// How many bytes count for a change, in addition to its key.
const CHANGE_BYTES: usize = 64;

/// A table with more keys than this is freed by another thread.
const FREED_AT_ONCE_MAX: usize = 1 << 10;

/// The most keys that are dropped for each one that is added, while there are too many.
const DROPPED_PER_KEY: usize = 4;

/// The changes of a section.
#[derive(Default)]
pub(crate) struct TrackedChanges {
    list: Vec<(Change, u64)>,
    /// How many of them are ascribed already, to a tracker or to none.
    ascribed: usize,
    bytes: usize,
    /// Some were queued, and their threads are not woken yet.
    is_wake_due: bool,
}

impl TrackedChanges {
    fn add(&mut self, key: &[u8], trackers: Option<Trackers>, concerns_others: bool) {
        self.bytes += CHANGE_BYTES + key.len();
        if self.bytes > CHANGES_BYTES_MAX {
            self.list.clear();
            self.ascribed = 0;
            self.add_everything();
            return;
        }
        let change = Change::of(key, trackers, concerns_others);
        self.list.push((change, 0));
    }

    fn add_everything(&mut self) {
        self.list.push((Change::Everything, 0));
    }

    /// Queues invalidations for all changes so far. The caller still holds the locks under which they were made.
    pub(crate) fn send(&mut self, engine: &Engine) {
        (self.ascribed, self.bytes) = (0, 0);
        let list = std::mem::take(&mut self.list);
        if !list.is_empty()
            && let Some(invalidate) = engine.invalidate()
        {
            invalidate.invalidate(list);
            self.is_wake_due = true;
        }
    }

    /// Wakes the threads of those trackers. The caller has released the locks.
    pub(crate) fn wake(&mut self, engine: &Engine) {
        if std::mem::take(&mut self.is_wake_due) {
            engine.wake_trackers();
        }
    }
}

impl Tx<'_> {
    /// Ascribes the changes since the last call to the tracker of this id, which may not want to be notified of its own changes, or
    /// to none (zero).
    #[inline]
    pub fn ascribe_changes(&mut self, id: u64) {
        if let Some(extras) = self.extras.as_mut() {
            let changes = &mut extras.tracked_changes;
            for (_, actor) in &mut changes.list[changes.ascribed..] {
                *actor = id;
            }
            changes.ascribed = changes.list.len();
        }
    }

    /// Has a tracker notified of the next change to a key, which this section has read. All changes so far must be ascribed.
    ///
    /// # Panics
    /// If the key's shard is not locked.
    pub fn track(&mut self, key: Key<'_>, tracker: Tracker) {
        #[cfg(broken)]
        if damselfly_base::planted_bug("tracking") {
            self.interrupt(std::time::Duration::ZERO);
        }
        let engine = self.engine();
        let shard = engine.shard_of(key.hash);
        assert!(self.holds(shard), "a key is tracked without its lock");
        let replaces = engine.track(shard, key, tracker);
        let drops = (0..DROPPED_PER_KEY)
            .take_while(|_| engine.drop_excess())
            .count();
        if replaces || drops > 0 {
            self.extras().tracked_changes.is_wake_due = true;
        }
    }

    /// Notifies all trackers that every key of all databases may have been changed.
    ///
    /// # Panics
    /// If not all shards are locked.
    pub fn invalidate_all(&mut self) {
        assert!(
            self.holds_all(),
            "everything is invalidated without all locks"
        );
        self.engine().forget_tracked();
        self.extras().tracked_changes.add_everything();
    }
}

impl Engine {
    /// Sets what notifies trackers. Without it none is notified.
    pub fn set_invalidation_sink(&self, invalidate: Box<dyn InvalidationSink>) {
        let set = self.invalidate.set(invalidate);
        assert!(set.is_ok(), "threads start once");
    }

    fn invalidate(&self) -> Option<&dyn InvalidationSink> {
        self.invalidate.get().map(|invalidate| &**invalidate)
    }

    /// Starts or stops asking [`InvalidationSink::concerns`] about every change. Each start must be followed by one stop.
    ///
    /// This needs no lock: a section that does not notice it has begun before, so a client that reads a key which that section
    /// changes waits until it ends, and sees the change.
    pub fn set_observed(&self, on: bool) {
        for shard in 0..self.shards() {
            if on {
                self.shards.add_observer(shard);
            } else {
                self.shards.remove_observer(shard);
            }
        }
    }

    /// Notes the change of a key of a locked and observed shard.
    pub(crate) fn note_tracked(
        &self,
        shard: usize,
        key: Key<'_>,
        extras: &mut Option<Box<SectionExtras>>,
    ) {
        let trackers = self.take_trackers(shard, key);
        let concerns_others = self
            .invalidate()
            .is_some_and(|invalidate| invalidate.concerns(key.bytes));
        if trackers.is_some() || concerns_others {
            let changes = &mut extras.get_or_insert_default().tracked_changes;
            changes.add(key.bytes, trackers, concerns_others);
        }
    }

    fn wake_trackers(&self) {
        if let Some(invalidate) = self.invalidate() {
            invalidate.wake();
        }
    }

    /// Adds a tracker. True if that replaced another key.
    fn track(&self, shard: usize, key: Key<'_>, tracker: Tracker) -> bool {
        let mut keys = self.shards.observers(shard).tracking.lock();
        if let Some(tracked) = keys.by_hash.get_mut(&key.hash)
            && *tracked.key == *key.bytes
        {
            let adds = tracked.trackers.add(tracker);
            keys.items += usize::from(adds);
            self.tracked.items.fetch_add(adds.into(), Relaxed);
            return false;
        }
        if keys.by_hash.is_empty() {
            self.shards.add_observer(shard);
        }
        let tracked = Tracked {
            key: key.bytes.into(),
            trackers: Trackers::One(tracker),
        };
        self.tracked.keys.fetch_add(1, Relaxed);
        self.tracked.items.fetch_add(1, Relaxed);
        // Another key of the same hash is so rare that it is simply dropped.
        let replaced = keys.insert(key.hash, tracked);
        let replaces = replaced.is_some();
        if let Some(replaced) = replaced {
            self.invalidate_dropped(replaced);
        }
        replaces
    }

    /// Uncounts a key that was dropped, not changed, and queues invalidations for its trackers. The caller still holds the mutex
    /// of the table from which it has removed the key.
    fn invalidate_dropped(&self, dropped: Tracked) {
        self.count_out(&dropped);
        if let Some(invalidate) = self.invalidate() {
            let change = Change::of(&dropped.key, Some(dropped.trackers), false);
            // Zero: no client has changed the key.
            invalidate.invalidate(vec![(change, 0)]);
        }
    }

    fn count_out(&self, tracked: &Tracked) {
        self.tracked.keys.fetch_sub(1, Relaxed);
        let items = tracked.trackers.len();
        self.tracked.items.fetch_sub(items, Relaxed);
    }

    fn take_trackers(&self, shard: usize, key: Key<'_>) -> Option<Trackers> {
        let mut keys = self.shards.observers(shard).tracking.lock();
        let tracked = keys.by_hash.get(&key.hash)?;
        if *tracked.key != *key.bytes {
            return None;
        }
        let tracked = keys.remove(key.hash)?;
        self.count_out(&tracked);
        if keys.by_hash.is_empty() {
            self.shards.remove_observer(shard);
        }
        Some(tracked.trackers)
    }

    /// Drops a key if there are too many. If it returns true, the caller must call [`Engine::wake_trackers`].
    fn drop_excess(&self) -> bool {
        let keys_max = self.settings.tracked_keys_max.load(Relaxed);
        if keys_max == 0 || self.tracked.keys.load(Relaxed) <= keys_max {
            return false;
        }
        (0..self.shards()).any(|_| {
            let shard = self.tracked.drop_at.fetch_add(1, Relaxed) % self.shards();
            let mut keys = self.shards.observers(shard).tracking.lock();
            let Some(dropped) = keys.drop_one() else {
                return false;
            };
            self.invalidate_dropped(dropped);
            // This comes last, since a writer does not look for trackers in a shard without observers.
            if keys.by_hash.is_empty() {
                self.shards.remove_observer(shard);
            }
            true
        })
    }

    /// Drops up to `limit` excess keys, after [`crate::Settings::tracked_keys_max`] was lowered.
    pub fn drop_excess_tracked(&self, limit: usize) {
        if (0..limit).take_while(|_| self.drop_excess()).count() > 0 {
            self.wake_trackers();
        }
    }

    /// Forgets all keys without notifying their trackers. The caller may hold all locks, so another thread frees large tables.
    pub fn forget_tracked(&self) {
        let (mut taken, mut count) = (Vec::new(), 0);
        for shard in 0..self.shards() {
            let mut keys = self.shards.observers(shard).tracking.lock();
            if keys.by_hash.is_empty() {
                continue;
            }
            let all = std::mem::take(&mut *keys);
            self.shards.remove_observer(shard);
            drop(keys);
            self.tracked.keys.fetch_sub(all.by_hash.len(), Relaxed);
            self.tracked.items.fetch_sub(all.items, Relaxed);
            count += all.by_hash.len();
            taken.push(all);
        }
        if count > FREED_AT_ONCE_MAX {
            garbage::add_tracked(taken);
        }
    }

    /// How many keys are tracked.
    pub fn tracked_keys(&self) -> usize {
        self.tracked.keys.load(Relaxed)
    }

    /// How many trackers all keys have; a client that tracks several keys counts once for each.
    pub fn tracked_items(&self) -> usize {
        self.tracked.items.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::SeqCst;
    use std::sync::{Arc, Mutex, OnceLock, atomic::AtomicUsize};

    use damselfly_value::NewValue;

    use super::*;
    use crate::{Deadline, Eviction, Layout, Now, Order};

    const NOW: Now = Now(1_000_000);
    const LATER: Now = Now(2_000_000);
    const TRACKER: Tracker = Tracker {
        thread: 0,
        place: 1,
        id: 2,
    };

    /// Checks whether other threads could already see what it is called for.
    #[derive(Default)]
    struct Witness {
        engine: OnceLock<Arc<Engine>>,
        /// The keys, `*` for all; marked if other threads could see the change.
        seen: Mutex<Vec<String>>,
        woken: AtomicUsize,
    }

    impl InvalidationSink for Arc<Witness> {
        fn concerns(&self, _: &[u8]) -> bool {
            false
        }

        fn invalidate(&self, changes: Vec<(Change, u64)>) {
            let engine = self.engine.get().unwrap();
            let is_busy = |shard| {
                let is_locked = engine.lock_shard(shard, 0, NOW).is_err();
                is_locked
                    || engine
                        .shards
                        .observers(shard)
                        .tracking
                        .keys
                        .try_lock()
                        .is_err()
            };
            let mut seen = self.seen.lock().unwrap();
            for (change, _) in changes {
                let (name, is_hidden) = match change {
                    Change::Key { key, .. } => {
                        let shard = engine.shard_of(Key::new(&key).hash);
                        (String::from_utf8_lossy(&key).into_owned(), is_busy(shard))
                    }
                    Change::Everything => ("*".to_owned(), (0..engine.shards()).all(is_busy)),
                };
                let mark = if is_hidden { "" } else { " is visible" };
                seen.push(format!("{name}{mark}"));
            }
        }

        fn wake(&self) {
            let engine = self.engine.get().unwrap();
            drop(engine.lock_all(0, NOW).expect("the locks are released"));
            self.woken.fetch_add(1, SeqCst);
        }
    }

    fn witnessed() -> (Arc<Engine>, Arc<Witness>) {
        let engine = Arc::new(Engine::new(Layout {
            shards: 64,
            databases: 1,
        }));
        let witness = Arc::new(Witness::default());
        assert!(witness.engine.set(engine.clone()).is_ok());
        engine.set_invalidation_sink(Box::new(witness.clone()));
        (engine, witness)
    }

    fn set(engine: &Engine, name: &str, deadline: Deadline) {
        let key = Key::new(name.as_bytes());
        let mut tx = engine.lock_one(key.hash, 0, NOW).unwrap();
        tx.store(key, NewValue::Integer(1), deadline);
    }

    fn track(engine: &Engine, name: &str) {
        let key = Key::new(name.as_bytes());
        let mut tx = engine.lock_one(key.hash, 0, NOW).unwrap();
        tx.track(key, TRACKER);
    }

    /// The invalidations that `act` causes with a tracked key that expires before [`LATER`].
    fn seen(act: impl FnOnce(&Engine, Key<'_>)) -> Vec<String> {
        let (engine, witness) = witnessed();
        set(&engine, "key", Deadline::At(NOW.0 + 1));
        track(&engine, "key");
        act(&engine, Key::new(b"key"));
        let seen = std::mem::take(&mut *witness.seen.lock().unwrap());
        assert_eq!(witness.woken.load(SeqCst), seen.len());
        assert_eq!(engine.tracked_keys(), 0);
        seen
    }

    /// The bug: the trackers of a changed key were notified after the locks were released. In between, another writer found no
    /// trackers and got its reply, and so did the tracker, which still cached the old value. The fix: they are notified under the
    /// locks.
    #[test]
    fn a_change_is_invalidated_before_others_see_it() {
        assert_eq!(
            seen(|engine, _| set(engine, "key", Deadline::Clear)),
            ["key"]
        );
        let read_late = |engine: &Engine, key: Key<'_>| {
            let mut tx = engine.lock_one(key.hash, 0, LATER).unwrap();
            assert!(tx.read(key).is_none());
        };
        assert_eq!(seen(read_late), ["key"]);
        let sweep = |engine: &Engine, key: Key<'_>| {
            while engine.sweep(engine.shard_of(key.hash), LATER) == 0 {}
        };
        assert_eq!(seen(sweep), ["key"]);
        let evict = |engine: &Engine, key: Key<'_>| {
            let eviction = Eviction {
                only_with_deadline: false,
                order: Order::Random,
                samples: 1,
            };
            let shard = engine.shard_of(key.hash);
            while engine.tracked_keys() > 0 {
                engine.evict(shard, &eviction, NOW).unwrap();
            }
        };
        assert_eq!(seen(evict), ["key"]);
        let invalidate_all = |engine: &Engine, _: Key<'_>| {
            engine.lock_all(0, NOW).unwrap().invalidate_all();
        };
        assert_eq!(seen(invalidate_all), ["*"]);
    }

    /// The bug: a section that released some of its locks early had not yet announced its changes under them. The fix: it
    /// announces them before it releases any lock.
    #[test]
    fn a_change_is_invalidated_before_some_locks_are_released() {
        let release_all_but = |engine: &Engine, key: Key<'_>| {
            let mut tx = engine.lock_all(0, LATER).unwrap();
            tx.set_single_command();
            assert!(tx.read(key).is_none());
            tx.release_all_but(&[]);
            assert!(engine.lock_one(key.hash, 0, LATER).is_ok());
        };
        assert_eq!(seen(release_all_but), ["key"]);
    }

    /// The bug: a key was dropped from the table at once, but its trackers were notified only when the section that had dropped it
    /// ended. In between, writers of that key found no trackers. The fix: they are notified under the table's mutex.
    #[test]
    fn a_dropped_key_is_invalidated_before_others_see_it() {
        let (engine, witness) = witnessed();
        engine.settings.tracked_keys_max.store(2, SeqCst);
        let names: Vec<String> = (0..10).map(|number| number.to_string()).collect();
        names.iter().for_each(|name| track(&engine, name));
        engine.settings.tracked_keys_max.store(1, SeqCst);
        engine.drop_excess_tracked(10);
        assert_eq!(engine.tracked_keys(), 1);
        let mut seen = std::mem::take(&mut *witness.seen.lock().unwrap());
        assert_eq!(seen.len(), names.len() - 1);
        assert_eq!(witness.woken.load(SeqCst), seen.len());
        seen.retain(|seen| !names.contains(seen));
        assert!(seen.is_empty(), "{seen:?}");
    }

    /// As above, for a key that is replaced by another of the same hash.
    #[test]
    fn a_replaced_key_is_invalidated_before_others_see_it() {
        let (engine, witness) = witnessed();
        let key = Key::new(b"key");
        let other = Key {
            bytes: b"other",
            ..key
        };
        for key in [key, other] {
            let mut tx = engine.lock_one(key.hash, 0, NOW).unwrap();
            tx.track(key, TRACKER);
        }
        assert_eq!(*witness.seen.lock().unwrap(), ["key"]);
        assert_eq!(engine.tracked_keys(), 1);
    }

    /// The bug: emptying a database forgot all tracked keys one by one under all locks, a third of a second for a million. The fix:
    /// the tables are taken out, and another thread frees them.
    #[test]
    fn many_tracked_keys_are_freed_by_another_thread() {
        let (engine, _) = witnessed();
        (0..2 * FREED_AT_ONCE_MAX).for_each(|number| track(&engine, &number.to_string()));
        let before = garbage::pending();
        engine.lock_all(0, NOW).unwrap().invalidate_all();
        assert_eq!(garbage::pending(), before + 1);
        assert_eq!((engine.tracked_keys(), engine.tracked_items()), (0, 0));
        // Keys that are tracked, changed and replaced are counted as before.
        track(&engine, "key");
        track(&engine, "key");
        assert_eq!((engine.tracked_keys(), engine.tracked_items()), (1, 1));
        set(&engine, "key", Deadline::Clear);
        assert_eq!((engine.tracked_keys(), engine.tracked_items()), (0, 0));
    }
}
