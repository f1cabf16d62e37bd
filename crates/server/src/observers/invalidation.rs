//! Client-side caching: the clients that track keys, and the path of invalidations to their threads.
//!
//! ```text
//!   thread of the change                                        thread of the tracker
//!     before its locks are released
//!     Change: which trackers ──────────────► inbox ─► its connection, after the reply of the read
//!                                                        thread of the client that it redirects to
//!                                        └─► inbox ─► the connection of that client
//! ```
//!
//! The engine knows the clients that have read a key. This file keeps the clients that track all keys with a prefix (BCAST).
//!
//! Invariants:
//! - An invalidation is in the inbox of the tracker's thread before any other client can see the change, or can see that the key
//!   is no longer tracked. That thread delivers it before it answers the tracker's next request. If the tracker redirects its
//!   invalidations, both hold for the client that gets them.
//! - The tracker gets it after the reply of the read that made it cache the value. That reply is complete when the thread looks at
//!   its inbox; or it is written in slices or by another thread, and then pushed messages wait for it
//!   ([`Connection::push_message`](crate::event_loop::connection::Connection::push_message)).
//! - Memory is bounded: bytes in transit count together with those of published messages, and clients that cause too many wait.
//!   Beyond [`INVALIDATE_ALL_BYTES`] in transit to a thread, its trackers are sent one invalidation of everything instead.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::atomic::{
    AtomicBool, AtomicUsize,
    Ordering::{AcqRel, Relaxed},
};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak,
};

use damselfly_engine::{Change, Engine, InvalidationSink, Tracker};
use damselfly_protocol::{Reply, Version};

use crate::observers::client_tracking::Redirect;
use crate::shared::Shared;
use crate::threads::{Message, Thread};
use damselfly_pubsub::PubSub;

/// With more bytes than this in transit to a thread, it is sent one invalidation of everything instead of single keys.
const INVALIDATE_ALL_BYTES: usize = 64 << 20;

/// Counted for an invalidation in addition to its key.
const INVALIDATION_BYTES: usize = 96;

/// An invalidation for trackers of one thread.
#[derive(Clone, Debug)]
pub enum Invalidation {
    /// A key changed that these clients have read.
    Read {
        /// The key.
        key: Arc<[u8]>,
        /// Clients of the thread.
        trackers: Vec<Tracker>,
    },
    /// A key changed whose prefix is tracked.
    Prefixed {
        /// The key.
        key: Arc<[u8]>,
        /// The id of the client that changed it, or zero.
        actor: u64,
    },
    /// Any key may have changed.
    Everything {
        /// The id of a client that already knows, or zero.
        but: u64,
    },
}

impl Invalidation {
    /// The bytes counted for it.
    pub fn bytes(&self) -> usize {
        INVALIDATION_BYTES
            + match self {
                Self::Read { key, trackers } => key.len() + size_of_val(&trackers[..]),
                Self::Prefixed { key, .. } => key.len(),
                Self::Everything { .. } => 0,
            }
    }
}

/// An invalidation for one tracker.
#[derive(Clone, Debug)]
pub enum PendingInvalidation {
    /// These keys changed: the array of keys, as it is written.
    Keys(Arc<[u8]>),
    /// Any key may have changed.
    Everything,
}

impl PendingInvalidation {
    /// An invalidation of these keys.
    pub fn of<'k>(keys: impl ExactSizeIterator<Item = &'k [u8]>) -> Self {
        let mut text = Vec::new();
        let mut reply = Reply::new(&mut text, Version::Resp2);
        reply.array(keys.len());
        keys.for_each(|key| reply.bulk(key));
        Self::Keys(text.into())
    }

    /// The invalidation as it is written for a tracker that uses `version`, also if the tracker redirects it.
    pub fn text(&self, version: Version) -> Arc<[u8]> {
        match (self, version) {
            (Self::Keys(text), _) => text.clone(),
            (Self::Everything, Version::Resp2) => Arc::from(&b"$-1\r\n"[..]),
            (Self::Everything, Version::Resp3) => Arc::from(&b"_\r\n"[..]),
        }
    }
}

type ByPrefix = BTreeMap<Arc<[u8]>, BTreeSet<Tracker>>;

/// The trackers of one thread. On a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Counts {
    /// The number of clients that track.
    trackers: AtomicUsize,
    /// The number of pairs of a client and a prefix that it tracks.
    prefixes: AtomicUsize,
    /// An invalidation of everything is in transit, since too many bytes were.
    overflows: AtomicBool,
}

/// All clients that track keys.
pub struct Tracking {
    threads: Box<[Counts]>,
    /// The number of clients that track.
    trackers: Mutex<usize>,
    by_prefix: RwLock<ByPrefix>,
    /// The sum of [`Counts::prefixes`].
    prefixes: AtomicUsize,
    /// The number of clients that redirect their invalidations.
    redirects: AtomicUsize,
}

impl Tracking {
    /// Without trackers, for this many threads.
    pub fn new(threads: usize) -> Self {
        Self {
            threads: (0..threads).map(|_| Counts::default()).collect(),
            trackers: Mutex::default(),
            by_prefix: RwLock::default(),
            prefixes: AtomicUsize::new(0),
            redirects: AtomicUsize::new(0),
        }
    }

    /// Counts a client that starts (or stops) redirecting its invalidations.
    pub fn count_redirect(&self, begins: bool) {
        if begins {
            self.redirects.fetch_add(1, Relaxed);
        } else {
            self.redirects.fetch_sub(1, Relaxed);
        }
    }

    /// True if any client redirects its invalidations.
    #[inline]
    pub fn has_redirects(&self) -> bool {
        self.redirects.load(Relaxed) > 0
    }

    fn trackers(&self) -> MutexGuard<'_, usize> {
        self.trackers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> RwLockReadGuard<'_, ByPrefix> {
        let by_prefix = self.by_prefix.read();
        by_prefix.unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, ByPrefix> {
        let by_prefix = self.by_prefix.write();
        by_prefix.unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self, tracker: Tracker) -> &Counts {
        &self.threads[tracker.thread as usize]
    }

    /// Adds a client that tracks.
    pub fn add(&self, tracker: Tracker) {
        *self.trackers() += 1;
        self.counts(tracker).trackers.fetch_add(1, Relaxed);
    }

    /// Removes a client that tracks. The caller has removed its prefixes. When the last client is removed, the engine forgets all
    /// tracked keys.
    pub fn remove(&self, tracker: Tracker, engine: &Engine) {
        self.counts(tracker).trackers.fetch_sub(1, Relaxed);
        let mut trackers = self.trackers();
        *trackers -= 1;
        if *trackers == 0 {
            // No client can start to track meanwhile: the mutex is held.
            engine.forget_tracked();
        }
    }

    /// Forgets all tracked keys if no client tracks. Called after a command whose client may have stopped tracking meanwhile.
    pub fn forget_if_unused(&self, engine: &Engine) {
        let trackers = self.trackers();
        if *trackers == 0 {
            // That client was the last one: see `remove`.
            engine.forget_tracked();
        }
    }

    /// Adds a prefix that a client tracks. Returns the shared copy of the prefix, or `None` if the client already tracks it.
    pub fn add_prefix(
        &self,
        prefix: &[u8],
        tracker: Tracker,
        engine: &Engine,
    ) -> Option<Arc<[u8]>> {
        let mut by_prefix = self.write();
        let prefix = match by_prefix.get_key_value(prefix) {
            Some((prefix, _)) => prefix.clone(),
            None => prefix.into(),
        };
        let trackers = by_prefix.entry(prefix.clone()).or_default();
        if !trackers.insert(tracker) {
            return None;
        }
        self.counts(tracker).prefixes.fetch_add(1, Relaxed);
        if self.prefixes.fetch_add(1, Relaxed) == 0 {
            engine.set_observed(true);
        }
        Some(prefix)
    }

    /// Removes a prefix that a client tracks.
    pub fn remove_prefix(&self, prefix: &[u8], tracker: Tracker, engine: &Engine) {
        let mut by_prefix = self.write();
        let Some(trackers) = by_prefix.get_mut(prefix) else {
            return;
        };
        if !trackers.remove(&tracker) {
            return;
        }
        if trackers.is_empty() {
            by_prefix.remove(prefix);
        }
        self.counts(tracker).prefixes.fetch_sub(1, Relaxed);
        if self.prefixes.fetch_sub(1, Relaxed) == 1 {
            engine.set_observed(false);
        }
    }

    /// Called before the clients of a thread get an invalidation of everything: a change from now on needs another one.
    pub fn take_overflow(&self, thread: usize) {
        self.threads[thread].overflows.swap(false, AcqRel);
    }

    /// The number of clients that track.
    pub fn count(&self) -> usize {
        *self.trackers()
    }

    /// The number of different prefixes that are tracked.
    pub fn prefix_count(&self) -> usize {
        self.read().len()
    }

    /// Returns a congested thread if any client tracks prefixes. Invalidations of keys that were read need no such limit: each needs
    /// a read before it.
    pub fn congested(&self, pubsub: &PubSub) -> Option<usize> {
        match self.prefixes.load(Relaxed) {
            0 => None,
            _ => pubsub.congested(),
        }
    }

    fn concerns(&self, key: &[u8]) -> bool {
        self.prefixes.load(Relaxed) > 0 && has_prefix_of(&self.read(), key)
    }

    /// The invalidations for clients that track prefixes, in the order of the prefixes. `keys` are the changed keys, each with the
    /// client that changed it last. `skips_own` returns whether a tracker wants no invalidations for its own changes, or `None` if
    /// another thread delivers its invalidations.
    pub fn prefixed_invalidations(
        &self,
        keys: &BTreeMap<Arc<[u8]>, u64>,
        skips_own: impl Fn(Tracker) -> Option<bool>,
    ) -> Vec<(Tracker, PendingInvalidation)> {
        let (mut invalidations, by_prefix) = (Vec::new(), self.read());
        for (prefix, trackers) in by_prefix.iter() {
            let mut trackers = trackers
                .iter()
                .filter_map(|&tracker| Some((tracker, skips_own(tracker)?)))
                .peekable();
            if trackers.peek().is_none() {
                continue;
            }
            let prefixed: Vec<(&[u8], u64)> = keys
                .range(prefix.clone()..)
                .take_while(|(key, _)| key.starts_with(prefix))
                .map(|(key, actor)| (&**key, *actor))
                .collect();
            if prefixed.is_empty() {
                continue;
            }
            let all = PendingInvalidation::of(prefixed.iter().map(|(key, _)| *key));
            for (tracker, skips_own) in trackers {
                if !skips_own {
                    invalidations.push((tracker, all.clone()));
                    continue;
                }
                let by_others = prefixed.iter().filter(|(_, actor)| *actor != tracker.id);
                let by_others: Vec<&[u8]> = by_others.map(|(key, _)| *key).collect();
                if !by_others.is_empty() {
                    invalidations.push((tracker, PendingInvalidation::of(by_others.into_iter())));
                }
            }
        }
        invalidations
    }
}

/// True if a key starts with any of the prefixes. It runs under the lock of the key's shard, so it does not compare each of them.
fn has_prefix_of(prefixes: &ByPrefix, key: &[u8]) -> bool {
    let last = |start: &[u8]| {
        let up_to = (Bound::Unbounded, Bound::Included(start));
        let mut found = prefixes.range::<[u8], _>(up_to);
        Some(&**found.next_back()?.0)
    };
    begins_with_any(key, last)
}

/// True if a key starts with any name of a sorted set. `last` returns the greatest name that is not greater than its argument.
pub fn begins_with_any<'n>(key: &[u8], last: impl Fn(&[u8]) -> Option<&'n [u8]>) -> bool {
    let mut start = key;
    // All names between a prefix of the key and the key itself start with that prefix. So does the name found here: a name that is
    // a prefix of the key lies within the part that both have in common.
    while let Some(name) = last(start) {
        if key.starts_with(name) {
            return true;
        }
        let common = std::iter::zip(name, key).take_while(|(a, b)| a == b);
        start = &key[..common.count()];
    }
    false
}

/// Sends changes from the engine to the threads of their trackers.
pub struct Invalidator {
    tracking: Arc<Tracking>,
    /// Weak, because `Shared` owns the engine, which owns this.
    shared: Weak<Shared>,
}

impl Invalidator {
    /// Creates one for the engine of `shared`.
    pub fn new(shared: &Arc<Shared>) -> Self {
        Self {
            tracking: shared.tracking.clone(),
            shared: Arc::downgrade(shared),
        }
    }
}

impl InvalidationSink for Invalidator {
    fn concerns(&self, key: &[u8]) -> bool {
        self.tracking.concerns(key)
    }

    fn invalidate(&self, changes: Vec<(Change, u64)>) {
        let Some(shared) = self.shared.upgrade() else {
            return;
        };
        let mut outbox = Outbox::new(&shared);
        for (change, actor) in changes {
            outbox.add(change, actor);
        }
        outbox.queue();
    }

    fn wake(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.threads.iter().for_each(Thread::wake_if_due);
        }
    }
}

/// The invalidations of one section, by the thread that they go to.
struct Outbox<'a> {
    shared: &'a Shared,
    by_thread: Vec<Vec<Invalidation>>,
}

impl<'a> Outbox<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            by_thread: shared.threads.iter().map(|_| Vec::new()).collect(),
        }
    }

    /// Adds an invalidation for the client that caused it, which gets it after its reply.
    fn add_own(&self, actor: u64, invalidation: PendingInvalidation) {
        if let Some(client) = self.shared.clients.find(actor) {
            client.pending_invalidations().push(invalidation);
        }
    }

    /// Adds an invalidation for the client to which a tracker redirects; false if it does not redirect.
    fn add_redirected(&mut self, key: &Arc<[u8]>, tracker: Tracker, actor: u64) -> bool {
        let Some(redirect) = Redirect::of(self.shared, tracker.id) else {
            return false;
        };
        if tracker.id != actor || !redirect.from.no_loop.load(Relaxed) {
            self.by_thread[redirect.to.thread].push(Invalidation::Read {
                key: key.clone(),
                trackers: vec![tracker],
            });
        }
        true
    }

    fn add(&mut self, change: Change, actor: u64) {
        let has_redirects = self.shared.tracking.has_redirects();
        match change {
            Change::Everything => {
                if Redirect::of(self.shared, actor).is_none() {
                    self.add_own(actor, PendingInvalidation::Everything);
                }
                for (list, counts) in self.by_thread.iter_mut().zip(&self.shared.tracking.threads) {
                    if has_redirects || counts.trackers.load(Relaxed) > 0 {
                        list.push(Invalidation::Everything { but: actor });
                    }
                }
            }
            Change::Key {
                key,
                mut trackers,
                concerns_others,
            } => {
                let key: Arc<[u8]> = key.into();
                if has_redirects {
                    trackers.retain(|&tracker| !self.add_redirected(&key, tracker, actor));
                }
                for of_thread in trackers.chunk_by(|a, b| a.thread == b.thread) {
                    let others = of_thread.iter().filter(|tracker| tracker.id != actor);
                    let others: Vec<Tracker> = others.copied().collect();
                    if others.len() < of_thread.len() {
                        self.add_own(actor, PendingInvalidation::of(std::iter::once(&*key)));
                    }
                    if !others.is_empty() {
                        self.by_thread[of_thread[0].thread as usize].push(Invalidation::Read {
                            key: key.clone(),
                            trackers: others,
                        });
                    }
                }
                if !concerns_others {
                    return;
                }
                for (list, counts) in self.by_thread.iter_mut().zip(&self.shared.tracking.threads) {
                    if has_redirects || counts.prefixes.load(Relaxed) > 0 {
                        list.push(Invalidation::Prefixed {
                            key: key.clone(),
                            actor,
                        });
                    }
                }
            }
        }
    }

    fn queue(self) {
        let shared = self.shared;
        for (to, mut list) in self.by_thread.into_iter().enumerate() {
            if list.is_empty() {
                continue;
            }
            if shared.pubsub.arriving_bytes(to) > INVALIDATE_ALL_BYTES {
                // One such message is enough. More would add up while the thread is stuck.
                if shared.tracking.threads[to].overflows.swap(true, AcqRel) {
                    continue;
                }
                list = vec![Invalidation::Everything { but: 0 }];
            }
            let bytes = list.iter().map(Invalidation::bytes).sum();
            shared.pubsub.note_arriving(to, bytes);
            shared.threads[to].queue(Message::Invalidations { list, bytes });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_matches_each_of_its_prefixes() {
        let names = [
            &b""[..],
            b"a",
            b"ab",
            b"abc",
            b"ac",
            b"b",
            b"ba",
            b"c",
            b"aab",
        ];
        for chosen in 0..1 << names.len() {
            let is_chosen = |place: &usize| chosen & 1 << place != 0;
            let prefixes: Vec<&[u8]> = (0..names.len())
                .filter(is_chosen)
                .map(|place| names[place])
                .collect();
            let by_prefix: ByPrefix = prefixes
                .iter()
                .map(|&prefix| (Arc::from(prefix), BTreeSet::new()))
                .collect();
            for key in [
                &b""[..],
                b"a",
                b"aa",
                b"aabb",
                b"abb",
                b"abcd",
                b"acb",
                b"bb",
                b"d",
            ] {
                let expected = prefixes.iter().any(|prefix| key.starts_with(prefix));
                assert_eq!(
                    has_prefix_of(&by_prefix, key),
                    expected,
                    "{key:?} {prefixes:?}"
                );
            }
        }
    }
}
