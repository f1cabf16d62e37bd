//! Client-side caching: who tracks keys, and how invalidations get to the threads of those who do.
//!
//! ```text
//!   thread of the change                                        thread of the tracker
//!     before its locks are released
//!     Change: which trackers ────────────────► inbox ─► its connection, behind the reply of the read
//!                                                        thread of the client that it redirects to
//!                                          └─► inbox ─► the connection of that one
//! ```
//!
//! The engine knows who has read a key. Here stand those who want to hear of every change to keys of some prefix (BCAST).
//!
//! What must be true:
//! - An invalidation is left for the tracker's thread before anybody can see the change, or that the key is tracked no more,
//!   and that thread delivers it before it answers the tracker's next request. If the tracker redirects its invalidations,
//!   the same holds for the client that gets them.
//! - A tracker's thread delivers it behind the reply of the read that made the tracker keep the value: that reply is written
//!   when the thread looks at its inbox, or else it comes in slices or from another thread, and what is pushed waits for it
//!   ([`Connection::push_message`](crate::event_loop::connection::Connection::push_message)).
//! - Memory is bounded: what is on its way counts with published messages, and those who cause too much of it wait. Beyond
//!   [`LOSS_BYTES`] on their way to a thread, its trackers are told to forget everything instead.

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
use crate::pubsub::PubSub;
use crate::shared::Shared;
use crate::threads::{Message, Thread};

/// While more bytes than this are on their way to a thread, no single keys are sent to it any more.
const LOSS_BYTES: usize = 64 << 20;

/// What is counted for an invalidation beside its key, in bytes.
const INVALIDATION_BYTES: usize = 96;

/// What a thread is to tell trackers.
#[derive(Clone, Debug)]
pub enum Invalidation {
    /// These have read a key that was changed.
    Read {
        /// The key.
        key: Arc<[u8]>,
        /// Some of the thread's clients.
        trackers: Vec<Tracker>,
    },
    /// A key was changed by the client of this id, or (zero) by something else: of concern to those who track its prefix.
    Prefixed {
        /// The key.
        key: Arc<[u8]>,
        /// The client.
        actor: u64,
    },
    /// Any key may have been changed. The client of this id knows it already.
    Everything {
        /// The client.
        but: u64,
    },
}

impl Invalidation {
    /// What it takes, in bytes.
    pub fn bytes(&self) -> usize {
        INVALIDATION_BYTES
            + match self {
                Self::Read { key, trackers } => key.len() + size_of_val(&trackers[..]),
                Self::Prefixed { key, .. } => key.len(),
                Self::Everything { .. } => 0,
            }
    }
}

/// What one tracker is told.
#[derive(Clone, Debug)]
pub enum PendingInvalidation {
    /// These keys were changed: an array of them, as it is written.
    Keys(Arc<[u8]>),
    /// Any key may have been changed.
    Everything,
}

impl PendingInvalidation {
    /// The news of some keys.
    pub fn of<'k>(keys: impl ExactSizeIterator<Item = &'k [u8]>) -> Self {
        let mut text = Vec::new();
        let mut reply = Reply::new(&mut text, Version::Resp2);
        reply.array(keys.len());
        keys.for_each(|key| reply.bulk(key));
        Self::Keys(text.into())
    }

    /// How it is written to a tracker that speaks `version`, or to the one that it redirects to.
    pub fn text(&self, version: Version) -> Arc<[u8]> {
        match (self, version) {
            (Self::Keys(text), _) => text.clone(),
            (Self::Everything, Version::Resp2) => Arc::from(&b"$-1\r\n"[..]),
            (Self::Everything, Version::Resp3) => Arc::from(&b"_\r\n"[..]),
        }
    }
}

type ByPrefix = BTreeMap<Arc<[u8]>, BTreeSet<Tracker>>;

/// How many clients of one thread track. On a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Counts {
    trackers: AtomicUsize,
    /// Those who track prefixes; one counts once for each.
    prefixes: AtomicUsize,
    /// They will be told of everything, since too much was on its way to the thread; that is on its way, too.
    overflows: AtomicBool,
}

/// All who track keys.
pub struct Tracking {
    threads: Box<[Counts]>,
    /// How many clients track.
    trackers: Mutex<usize>,
    by_prefix: RwLock<ByPrefix>,
    /// The sum of [`Counts::prefixes`].
    prefixes: AtomicUsize,
    /// How many clients redirect their invalidations.
    redirects: AtomicUsize,
}

impl Tracking {
    /// Nobody, on so many threads.
    pub fn new(threads: usize) -> Self {
        Self {
            threads: (0..threads).map(|_| Counts::default()).collect(),
            trackers: Mutex::default(),
            by_prefix: RwLock::default(),
            prefixes: AtomicUsize::new(0),
            redirects: AtomicUsize::new(0),
        }
    }

    /// Counts a client that begins (or ends) to redirect its invalidations.
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

    /// Lets a client track.
    pub fn add(&self, tracker: Tracker) {
        *self.trackers() += 1;
        self.counts(tracker).trackers.fetch_add(1, Relaxed);
    }

    /// Ends that, once it tracks no prefixes any more. The last one leaves nothing behind.
    pub fn remove(&self, tracker: Tracker, engine: &Engine) {
        self.counts(tracker).trackers.fetch_sub(1, Relaxed);
        let mut trackers = self.trackers();
        *trackers -= 1;
        if *trackers == 0 {
            // Nobody can begin to track meanwhile.
            engine.forget_tracked();
        }
    }

    /// To be called when a command has run of which it is not certain that its client still tracks.
    pub fn forget_if_nobody_tracks(&self, engine: &Engine) {
        let trackers = self.trackers();
        if *trackers == 0 {
            // It was the last one: see `remove`.
            engine.forget_tracked();
        }
    }

    /// Lets a client that tracks hear of all keys with a prefix. Returns the prefix as it is shared, or `None` if the client
    /// does so already.
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

    /// Ends that.
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

    /// To be called before the clients of a thread are told of everything: what changes from now on needs another message.
    pub fn take_overflow(&self, thread: usize) {
        self.threads[thread].overflows.swap(false, AcqRel);
    }

    /// How many clients track.
    pub fn count(&self) -> usize {
        *self.trackers()
    }

    /// How many different prefixes are tracked.
    pub fn prefix_count(&self) -> usize {
        self.read().len()
    }

    /// A thread to which more is on its way than it should be. What was read can't be too much: it must have been read.
    pub fn congested(&self, pubsub: &PubSub) -> Option<usize> {
        match self.prefixes.load(Relaxed) {
            0 => None,
            _ => pubsub.congested(),
        }
    }

    fn concerns(&self, key: &[u8]) -> bool {
        self.prefixes.load(Relaxed) > 0 && has_prefix_of(&self.read(), key)
    }

    /// What clients are told who track prefixes: in the order of the prefixes, all `keys` that have one. Who changed a key last
    /// stands with it. `skips_own` returns whether a tracker wants no invalidations for its own changes, or `None` if another thread
    /// delivers those of this tracker.
    pub fn prefixed_news(
        &self,
        keys: &BTreeMap<Arc<[u8]>, u64>,
        skips_own: impl Fn(Tracker) -> Option<bool>,
    ) -> Vec<(Tracker, PendingInvalidation)> {
        let (mut news, by_prefix) = (Vec::new(), self.read());
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
                    news.push((tracker, all.clone()));
                    continue;
                }
                let by_others = prefixed.iter().filter(|(_, actor)| *actor != tracker.id);
                let by_others: Vec<&[u8]> = by_others.map(|(key, _)| *key).collect();
                if !by_others.is_empty() {
                    news.push((tracker, PendingInvalidation::of(by_others.into_iter())));
                }
            }
        }
        news
    }
}

/// True if a key begins with any of the prefixes. This is done under the lock of its shard, so it takes no look at each of them.
fn has_prefix_of(prefixes: &ByPrefix, key: &[u8]) -> bool {
    let last = |start: &[u8]| {
        let up_to = (Bound::Unbounded, Bound::Included(start));
        let mut found = prefixes.range::<[u8], _>(up_to);
        Some(&**found.next_back()?.0)
    };
    begins_with_any(key, last)
}

/// True if a key begins with any of some names, of which `last` returns the greatest that is not greater than what it is given.
pub fn begins_with_any<'n>(key: &[u8], last: impl Fn(&[u8]) -> Option<&'n [u8]>) -> bool {
    let mut start = key;
    // All names between a prefix of the key and the key itself begin with that prefix; so must what is found here.
    while let Some(name) = last(start) {
        if key.starts_with(name) {
            return true;
        }
        let common = std::iter::zip(name, key).take_while(|(a, b)| a == b);
        start = &key[..common.count()];
    }
    false
}

/// Takes changes from the engine to the threads of those who track.
pub struct Invalidator {
    tracking: Arc<Tracking>,
    /// Weak, since the engine is itself part of what is shared.
    shared: Weak<Shared>,
}

impl Invalidator {
    /// One for the engine of `shared`.
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
        let mut letters = Letters::new(&shared);
        for (change, actor) in changes {
            letters.add(change, actor);
        }
        letters.leave();
    }

    fn wake(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.threads.iter().for_each(Thread::wake_if_due);
        }
    }
}

/// The invalidations of one section.
struct Letters<'a> {
    shared: &'a Shared,
    by_thread: Vec<Vec<Invalidation>>,
}

impl<'a> Letters<'a> {
    fn new(shared: &'a Shared) -> Self {
        Self {
            shared,
            by_thread: shared.threads.iter().map(|_| Vec::new()).collect(),
        }
    }

    /// Leaves news for the client itself that has caused them, which gets them behind its reply.
    fn add_own(&self, actor: u64, news: PendingInvalidation) {
        if let Some(client) = self.shared.clients.find(actor) {
            client.pending_invalidations().push(news);
        }
    }

    /// Adds what another client gets to which a tracker redirects its invalidations; false if it does not.
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

    fn leave(self) {
        let shared = self.shared;
        for (to, mut list) in self.by_thread.into_iter().enumerate() {
            if list.is_empty() {
                continue;
            }
            if shared.pubsub.arriving_bytes(to) > LOSS_BYTES {
                // One such message stands for all, so that they don't add up while the thread is stuck.
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
    fn a_key_is_found_by_any_of_its_prefixes() {
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
