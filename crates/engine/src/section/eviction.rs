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
pub(super) const BUCKETS_PER_SEARCH: usize = 64;

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
    /// Those that are worth least, by what was learned from the use of all keys. Access bits must be of [`AccessPolicy::Learned`].
    Learned(Objective),
}

/// What [`Order::Learned`] gets the most of, in the memory that there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Objective {
    /// Hits.
    Hits,
    /// Bytes of hits.
    BytesOfHits,
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
    /// How many keys are compared to choose one, in each database; at least the keys of one bucket are. [`Order::Learned`] decides by itself.
    pub samples: usize,
}

/// The result of [`Engine::evict`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evicted {
    /// One key was evicted.
    One {
        /// The bytes of its entry.
        bytes: usize,
        /// True if the key was new and not worth its place: the cache has refused to keep it.
        is_refused: bool,
    },
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
            Order::Random | Order::Learned(_) => 0,
        })
    }
}

/// The outcome of a search for a key to evict.
pub(super) enum Found {
    /// A key of a database.
    Key {
        db: usize,
        key: Vec<u8>,
        /// See [`Evicted::One`].
        is_refused: bool,
    },
    /// None yet: the search continues with the next call.
    NoneYet,
    /// There is no candidate.
    Nothing,
}

impl Database {
    /// How many keys may be evicted.
    pub(super) fn candidates(&self, eviction: &Eviction) -> usize {
        if eviction.only_with_deadline {
            self.deadlines()
        } else {
            self.len()
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
        let mut tx = self.try_lock_shard(shard, 0, now)?;
        let found = match eviction.order {
            Order::Learned(objective) => tx.find_by_model(shard, eviction, objective),
            Order::LeastRecent | Order::LeastFrequent | Order::SoonestExpiry | Order::Random => {
                tx.find_by_policy(shard, eviction)
            }
        };
        let (db, key, is_refused) = match found {
            Found::Key {
                db,
                key,
                is_refused,
            } => (db, key, is_refused),
            Found::NoneYet => return Ok(Evicted::NoneYet),
            Found::Nothing => return Ok(Evicted::Nothing),
        };
        let key = Key::new(&key);
        let evicted = tx.evict(db, key);
        let entries = match (&evicted, eviction.order) {
            (Some(entry), Order::Learned(_)) => tx.note_learned_eviction(shard, key, entry.view()),
            _ => 0,
        };
        tx.set_effects_loose();
        if tx.has_ready() {
            // As after a sweep, no further shard is needed.
            tx.serve_waiters();
        }
        drop(tx);
        if let Order::Learned(_) = eviction.order {
            self.learn(entries);
        }
        // The entry is freed without the lock.
        Ok(match evicted {
            Some(entry) => Evicted::One {
                bytes: entry.view().allocated_bytes(),
                is_refused,
            },
            None => Evicted::NoneYet,
        })
    }
}

impl Tx<'_> {
    /// The key of a shard that a policy ranks highest among the next ones of each database.
    fn find_by_policy(&mut self, shard: usize, eviction: &Eviction) -> Found {
        let (policy, now) = (self.engine().settings.access_policy(), self.now());
        let mut random = Random::new(random::number());
        let (mut best, mut may_have): (Option<(Rank, usize, EntryRef<'_>)>, bool) = (None, false);
        for (db, database) in self.databases_mut(shard).iter_mut().enumerate() {
            if database.candidates(eviction) == 0 {
                continue;
            }
            may_have = true;
            if let Some((rank, entry)) = database.next_candidate(eviction, policy, now, &mut random)
                && best.is_none_or(|(highest, ..)| rank > highest)
            {
                best = Some((rank, db, entry));
            }
        }
        match best {
            Some((_, db, entry)) => Found::Key {
                db,
                key: entry.key().to_vec(),
                is_refused: false,
            },
            None if may_have => Found::NoneYet,
            None => Found::Nothing,
        }
    }

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
