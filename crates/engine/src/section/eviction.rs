//! Eviction: which keys go when memory is short.
//!
//! The keys of a bucket are a sample of all keys, since their order is that of hashes with a secret seed. A walk goes around each
//! table; wherever it is, the keys of the next buckets are compared, and the one that is needed least goes. So every key is
//! looked at once in each round, and reading a few neighbours costs little more than reading one.

use damselfly_base::random::{self, Random};
use damselfly_value::{Entry, EntryRef};

use crate::shard::access;
use crate::shard::database::is_expired;
use crate::{AccessPolicy, Busy, Database, Engine, Event, Key, Now, Place, Tx};

/// How many buckets are searched for keys at a time: some microseconds, the longest that a shard's lock is held for it.
const BUCKETS_PER_SEARCH: usize = 64;

/// Which keys go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Those that were not used for the longest time.
    LeastRecent,
    /// Those that are used least often.
    LeastFrequent,
    /// Those that end soonest.
    SoonestEnd,
    /// Any.
    Random,
}

/// The higher, the sooner a key goes: how little it is needed, then chance. Keys that are needed alike would otherwise go in the
/// order in which they are stored.
type Rank = (u64, u64);

/// Which keys may be evicted, and in what order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// Only keys that have a deadline.
    pub only_with_deadline: bool,
    /// Which of them go first.
    pub order: Order,
    /// How many are compared to choose one, in each database; a bucket's keys are compared in any case.
    pub samples: usize,
}

/// What came of looking for a key to evict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evicted {
    /// One is gone, and so many bytes with it.
    One(usize),
    /// None was found so far: the search goes on with the next call.
    NoneYet,
    /// The shard has no key that may be evicted.
    Nothing,
}

impl Eviction {
    /// The first part of an entry's rank; `None` if it may not go.
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
            Order::SoonestEnd => u64::MAX - entry.deadline_ms().unwrap_or(i64::MAX).unsigned_abs(),
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

    /// The best of the next few candidates, by their rank.
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
        if tx.has_ready() {
            // As after a sweep.
            tx.serve_waiters();
        }
        drop(tx);
        // What was evicted is freed without the lock.
        Ok(match evicted {
            Some(entry) => Evicted::One(entry.view().allocated_bytes()),
            None => Evicted::NoneYet,
        })
    }
}

impl Tx<'_> {
    /// Takes out a key to free memory. `None` if its end had come.
    fn evict(&mut self, db: usize, key: Key<'_>) -> Option<Entry> {
        let Place::Present(present) = self.place_in(db, key) else {
            return None;
        };
        let entry = present.remove();
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
