//! Eviction: which keys are removed when memory is short.
//!
//! The keys of a bucket are a random sample of all keys, since tables are ordered by hash and the hash has a secret seed. A
//! position moves around each table; each time, the keys of the next buckets are compared, and the one that is needed least is
//! evicted. So every key is examined once per round, and reading a few neighbours costs little more than reading one.

use damselfly_base::random::{self, Random};
use damselfly_value::{Entry, EntryRef};

use crate::shard::access;
use crate::shard::database::is_expired;
use crate::{AccessPolicy, Busy, Database, Engine, Event, Key, Now, Place, Tx};

/// The most buckets that are searched at a time: some microseconds, the longest that eviction holds a shard's lock.
const BUCKETS_PER_SEARCH: usize = 64;

/// Which keys are evicted first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Those that have been unused for the longest time.
    LeastRecent,
    /// Those that are used least often.
    LeastFrequent,
    /// Those that expire soonest.
    SoonestExpiry,
    /// Any.
    Random,
}

/// The key with the highest rank is evicted: how little it is needed, then a random number. Without that, keys of equal need would
/// be evicted in the order in which they are stored.
type Rank = (u64, u64);

/// Which keys may be evicted, and in what order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// Only keys that have a deadline.
    pub only_with_deadline: bool,
    /// Which of them are evicted first.
    pub order: Order,
    /// How many keys are compared to choose one, in each database; at least the keys of one bucket are.
    pub samples: usize,
}

/// The result of [`Engine::evict`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evicted {
    /// One key was evicted, whose entry had this many bytes.
    One(usize),
    /// None was found yet: the next call continues the search.
    NoneYet,
    /// The shard has no key that may be evicted.
    Nothing,
}

impl Eviction {
    /// The first part of an entry's rank; `None` if it may not be evicted.
    fn rank(&self, entry: EntryRef<'_>, policy: AccessPolicy, now: Now) -> Option<u64> {
        if self.only_with_deadline && !entry.has_deadline() {
            return None;
        }
        if is_expired(entry, now) {
            return Some(u64::MAX);
        }
        Some(match self.order {
            Order::LeastRecent => access::idle_seconds(entry.access(), now.0).unsigned_abs(),
            Order::LeastFrequent => {
                u64::from(u32::MAX - access::frequency(policy, entry.access(), now.0))
            }
            Order::SoonestExpiry => {
                u64::MAX - entry.deadline_ms().unwrap_or(i64::MAX).unsigned_abs()
            }
            Order::Random => 0,
        })
    }
}

impl Database {
    fn has_candidates(&self, eviction: &Eviction) -> bool {
        if eviction.only_with_deadline {
            self.deadlines() > 0
        } else {
            !self.is_empty()
        }
    }

    /// The candidate with the highest rank in the next buckets.
    fn next_candidate(
        &mut self,
        eviction: &Eviction,
        policy: AccessPolicy,
        now: Now,
        random: &mut Random,
    ) -> Option<(Rank, EntryRef<'_>)> {
        let mut best: Option<(Rank, EntryRef<'_>)> = None;
        let mut seen = 0;
        for _ in 0..BUCKETS_PER_SEARCH {
            let only_marked = eviction.only_with_deadline;
            let next = self
                .table
                .visit_bucket(self.evict_position, only_marked, |entry| {
                    let Some(need) = eviction.rank(entry, policy, now) else {
                        return;
                    };
                    seen += 1;
                    let rank = (need, random.number());
                    if best.is_none_or(|(highest, _)| rank > highest) {
                        best = Some((rank, entry));
                    }
                });
            self.evict_position = next;
            if seen >= eviction.samples {
                break;
            }
        }
        best
    }
}

impl Engine {
    /// Evicts one key of a shard.
    ///
    /// # Errors
    /// If the shard is busy at this moment.
    pub fn evict(&self, shard: usize, eviction: &Eviction, now: Now) -> Result<Evicted, Busy> {
        let policy = self.settings.access_policy();
        let mut random = Random::new(random::number());
        let mut tx = self.try_lock_shard(shard, 0, now)?;
        let (mut best, mut may_have): (Option<(Rank, usize, EntryRef<'_>)>, bool) = (None, false);
        for (db, database) in tx.databases_mut(shard).iter_mut().enumerate() {
            if !database.has_candidates(eviction) {
                continue;
            }
            may_have = true;
            if let Some((rank, entry)) = database.next_candidate(eviction, policy, now, &mut random)
                && best.is_none_or(|(highest, ..)| rank > highest)
            {
                best = Some((rank, db, entry));
            }
        }
        let Some((_, db, entry)) = best else {
            return Ok(if may_have {
                Evicted::NoneYet
            } else {
                Evicted::Nothing
            });
        };
        let key = entry.key().to_vec();
        let evicted = tx.evict(db, Key::new(&key));
        tx.set_effects_loose();
        if tx.has_ready() {
            // As after a sweep, no further shard is needed.
            tx.serve_waiters();
        }
        drop(tx);
        // The entry is freed without the lock.
        Ok(match evicted {
            Some(entry) => Evicted::One(entry.view().allocated_bytes()),
            None => Evicted::NoneYet,
        })
    }
}

impl Tx<'_> {
    /// Removes a key to free memory. `None` if it had expired.
    fn evict(&mut self, db: usize, key: Key<'_>) -> Option<Entry> {
        let Place::Present(present) = self.place_in(db, key) else {
            return None;
        };
        let entry = present.remove();
        self.log_eviction(db, key.bytes);
        if self
            .engine()
            .shards
            .is_observed(self.engine().shard_of(key.hash))
        {
            self.notify_observers(db, key);
            self.raise(db, key, Event::Evicted);
        }
        Some(entry)
    }
}
