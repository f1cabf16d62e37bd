//! The number of subscribers per name and thread: all that a publisher needs to know.
//!
//! ```text
//! Index:    name ─► hash ─► shard (a short lock) ─► name ─► [(thread, subscriptions)]
//! Patterns: a list with a generation; each thread uses a copy that it renews when the generation has changed
//! ```

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{
    AtomicU64, AtomicUsize,
    Ordering::{Acquire, Release},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use damselfly_base::glob::Glob;
use damselfly_protocol::{Reply, Version};

/// Shards of an index: many more than there are threads, so that publishers rarely contend for one.
const SHARDS: usize = 256;

/// A table with more capacity than this shrinks when it is mostly empty.
const CAPACITY_KEPT: usize = 64;

/// Hashes names with the secret seed of the hash of keys, so that an attacker can't choose names that collide.
#[derive(Default)]
pub struct NameHasher(u64);

impl Hasher for NameHasher {
    fn write(&mut self, name: &[u8]) {
        self.0 = self.0.rotate_left(8) ^ damselfly_base::hash(name);
    }

    fn write_usize(&mut self, len: usize) {
        self.0 ^= len as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A table keyed by the names of channels or patterns.
pub type NameMap<T> = HashMap<Arc<[u8]>, T, BuildHasherDefault<NameHasher>>;

/// Shrinks a table that is mostly empty.
pub fn shrink<T>(names: &mut NameMap<T>) {
    if names.capacity() > CAPACITY_KEPT && names.len() < names.capacity() / 8 {
        names.shrink_to(2 * names.len());
    }
}

/// Subscriptions to one name on one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadCount {
    /// The thread's number.
    pub thread: usize,
    /// The number of subscriptions.
    pub subscriptions: usize,
}

/// The numbers of subscriptions to one name, by thread. Empty ones are removed from the index under its lock.
#[derive(Clone, Debug, Default)]
pub struct CountsByThread(Vec<ThreadCount>);

impl CountsByThread {
    fn add(&mut self, thread: usize) {
        match self.0.iter_mut().find(|count| count.thread == thread) {
            Some(count) => count.subscriptions += 1,
            None => {
                self.0.reserve_exact(1);
                self.0.push(ThreadCount {
                    thread,
                    subscriptions: 1,
                });
            }
        }
    }

    fn remove(&mut self, thread: usize) {
        if let Some(place) = self.0.iter().position(|count| count.thread == thread) {
            self.0[place].subscriptions -= 1;
            if self.0[place].subscriptions == 0 {
                self.0.swap_remove(place);
            }
        }
    }

    /// The threads that have subscriptions.
    pub fn by_thread(&self) -> &[ThreadCount] {
        &self.0
    }

    /// The number of subscriptions on all threads.
    pub fn total(&self) -> usize {
        self.0.iter().map(|count| count.subscriptions).sum()
    }
}

/// Channels, each with its subscriptions by thread.
pub struct Index {
    shards: Box<[RwLock<NameMap<CountsByThread>>]>,
    len: AtomicUsize,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            len: AtomicUsize::new(0),
        }
    }
}

impl Index {
    fn shard(&self, name: &[u8]) -> &RwLock<NameMap<CountsByThread>> {
        // The tables choose buckets by the low bits.
        let shard = damselfly_base::hash(name) >> 32;
        &self.shards[shard as usize % SHARDS]
    }

    /// Counts a subscription of a thread; returns the shared copy of the name.
    pub fn add(&self, name: &[u8], thread: usize) -> Arc<[u8]> {
        let mut shard = self
            .shard(name)
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let name = match shard.get_key_value(name) {
            Some((name, _)) => name.clone(),
            None => {
                self.len.fetch_add(1, Release);
                Arc::from(name)
            }
        };
        shard.entry(name.clone()).or_default().add(thread);
        name
    }

    /// Removes a subscription of a thread.
    pub fn remove(&self, name: &[u8], thread: usize) {
        let mut shard = self
            .shard(name)
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(counts) = shard.get_mut(name) else {
            return;
        };
        counts.remove(thread);
        if counts.by_thread().is_empty() {
            shard.remove(name);
            shrink(&mut shard);
            self.len.fetch_sub(1, Release);
        }
    }

    /// The number of channels with subscribers.
    pub fn count(&self) -> usize {
        self.len.load(Acquire)
    }

    /// Calls `read` with the subscriptions to a channel, if there are any, and returns its result.
    pub fn with_counts<T>(
        &self,
        name: &[u8],
        read: impl FnOnce(&CountsByThread) -> T,
    ) -> Option<T> {
        let shard = self
            .shard(name)
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        shard.get(name).map(read)
    }

    /// The names of all channels that have subscribers and match the pattern, if there is one.
    pub fn names(&self, pattern: Option<&[u8]>) -> Vec<Arc<[u8]>> {
        let mut names: Vec<Arc<[u8]>> = Vec::new();
        for shard in &self.shards {
            let shard = shard.read().unwrap_or_else(PoisonError::into_inner);
            names.extend(shard.keys().cloned());
        }
        // Matching may take long and needs no lock.
        if let Some(glob) = pattern.map(Glob::new) {
            names.retain(|name| glob.matches(name));
        }
        names
    }
}

/// A pattern, and the first part of the messages to its subscribers.
#[derive(Debug, PartialEq, Eq)]
pub struct Pattern {
    /// The pattern.
    pub name: Arc<[u8]>,
    /// The pattern, compiled.
    pub glob: Glob,
    /// The part of a message before the channel, without its first byte, which depends on the protocol.
    pub head: Box<[u8]>,
}

impl Pattern {
    fn new(name: Arc<[u8]>) -> Self {
        let mut head = Vec::new();
        let mut reply = Reply::new(&mut head, Version::Resp2);
        reply.push(4);
        reply.bulk(b"pmessage");
        reply.bulk(&name);
        head.remove(0);
        Self {
            glob: Glob::new(&name),
            name,
            head: head.into(),
        }
    }
}

/// A pattern with its subscriptions by thread.
#[derive(Clone, Debug)]
pub struct PatternSubscribers {
    /// The pattern.
    pub pattern: Arc<Pattern>,
    /// The subscriptions.
    pub counts: CountsByThread,
}

/// All patterns.
#[derive(Default)]
pub struct Patterns {
    by_name: Mutex<BTreeMap<Arc<[u8]>, PatternSubscribers>>,
    /// The number of patterns.
    len: AtomicUsize,
    /// Grows with every change.
    generation: AtomicU64,
}

/// A thread's copy of the patterns.
#[derive(Default)]
pub struct PatternCache {
    generation: u64,
    patterns: Vec<PatternSubscribers>,
}

impl Patterns {
    fn by_name(&self) -> MutexGuard<'_, BTreeMap<Arc<[u8]>, PatternSubscribers>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a subscription of a thread; returns the shared copy of the pattern.
    pub fn add(&self, name: &[u8], thread: usize) -> Arc<[u8]> {
        let mut by_name = self.by_name();
        if !by_name.contains_key(name) {
            let name: Arc<[u8]> = Arc::from(name);
            let new = PatternSubscribers {
                pattern: Arc::new(Pattern::new(name.clone())),
                counts: CountsByThread::default(),
            };
            by_name.insert(name, new);
        }
        let subscribed = by_name.get_mut(name).expect("inserted if it was missing");
        subscribed.counts.add(thread);
        let name = subscribed.pattern.name.clone();
        self.note_change(by_name.len());
        name
    }

    /// Removes a subscription of a thread.
    pub fn remove(&self, name: &[u8], thread: usize) {
        let mut by_name = self.by_name();
        let Some(subscribed) = by_name.get_mut(name) else {
            return;
        };
        subscribed.counts.remove(thread);
        if subscribed.counts.by_thread().is_empty() {
            by_name.remove(name);
        }
        self.note_change(by_name.len());
    }

    /// The caller holds the lock of `by_name`.
    fn note_change(&self, len: usize) {
        self.len.store(len, Release);
        self.generation.fetch_add(1, Release);
    }

    /// The number of different patterns with subscribers.
    pub fn count(&self) -> usize {
        self.len.load(Acquire)
    }

    /// All patterns: a thread's copy, renewed if it is out of date.
    pub fn current<'a>(&self, cache: &'a mut PatternCache) -> &'a [PatternSubscribers] {
        if cache.generation != self.generation.load(Acquire) {
            let by_name = self.by_name();
            cache.generation = self.generation.load(Acquire);
            cache.patterns.clear();
            cache.patterns.extend(by_name.values().cloned());
        }
        &cache.patterns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_exists_while_any_thread_has_subscribers() {
        let index = Index::default();
        let first = index.add(b"news", 1);
        let second = index.add(b"news", 0);
        assert!(Arc::ptr_eq(&first, &second), "a name is stored once");
        index.add(b"news", 1);
        assert_eq!(index.count(), 1);
        assert_eq!(index.with_counts(b"news", CountsByThread::total), Some(3));
        index.remove(b"news", 1);
        index.remove(b"news", 0);
        let left = index.with_counts(b"news", |counts| counts.by_thread().to_vec());
        let expected = ThreadCount {
            thread: 1,
            subscriptions: 1,
        };
        assert_eq!(left, Some(vec![expected]));
        index.remove(b"news", 1);
        assert_eq!((index.count(), index.names(None).len()), (0, 0));
    }

    #[test]
    fn a_thread_sees_a_change_of_the_patterns_at_once() {
        let (patterns, mut cache) = (Patterns::default(), PatternCache::default());
        assert!(patterns.current(&mut cache).is_empty());
        patterns.add(b"n*", 0);
        assert_eq!(patterns.current(&mut cache).len(), 1);
        patterns.add(b"n*", 2);
        assert_eq!(patterns.current(&mut cache)[0].counts.total(), 2);
        assert_eq!(patterns.count(), 1);
        patterns.remove(b"n*", 0);
        patterns.remove(b"n*", 2);
        assert!(patterns.current(&mut cache).is_empty());
    }

    #[test]
    fn an_index_shrinks_when_its_channels_are_gone() {
        let index = Index::default();
        let names: Vec<String> = (0..100_000).map(|number| number.to_string()).collect();
        for name in &names {
            index.add(name.as_bytes(), 0);
        }
        for name in &names {
            index.remove(name.as_bytes(), 0);
        }
        let capacity: usize = index
            .shards
            .iter()
            .map(|shard| shard.read().unwrap().capacity())
            .sum();
        assert!(capacity <= 2 * SHARDS * CAPACITY_KEPT, "{capacity}");
    }
}
