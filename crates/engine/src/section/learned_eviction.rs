//! Cache mode: evicting the keys that promise the fewest hits, or bytes of hits, for the memory they take, as [`damselfly_eviction`] has learned it.
//!
//! A search begins in the bucket of the key that was stored last, so that a new key that is worth too little goes at once. It continues where
//! the last one ended. All entries of a bucket are compared, so that their places in it do not matter.

use std::sync::atomic::Ordering::Relaxed;

use damselfly_base::random::{self, Random};
use damselfly_eviction::{Candidate, History, ModelView, Search, ShardState};
use damselfly_value::EntryRef;

use crate::section::eviction::{BUCKETS_PER_SEARCH, Found, Objective};
use crate::shard::Shard;
use crate::{Database, Engine, Eviction, Key, Now, Tx};

/// The part of a table that an entry takes, in bytes: a slot, and its share of the free ones.
const SLOT_BYTES: usize = 10;

/// A key that was evicted within so many ticks after it was stored, and not used meanwhile, was refused.
const REFUSED_TICKS: u32 = 1;

/// What cache mode has learned, and what that takes.
#[derive(Clone, Debug)]
pub struct Learned {
    /// What was learned.
    pub view: ModelView,
    /// The bytes of what was learned, and of the evicted keys that are remembered.
    pub bytes: usize,
}

impl Engine {
    /// What cache mode has learned.
    pub fn learned(&self) -> Learned {
        Learned {
            view: self.model.view(),
            bytes: damselfly_eviction::Model::BYTES + self.learned_bytes.load(Relaxed),
        }
    }

    /// Frees what cache mode keeps in shards, after it was turned off. A shard that is busy keeps it.
    pub fn forget_evicted(&self, now: Now) {
        for shard in 0..self.shards() {
            if let Ok(mut tx) = self.lock_shard(shard, 0, now)
                && let Some(state) = tx.shard_at(shard).learned.take()
            {
                self.learned_bytes
                    .fetch_sub(state.allocated_bytes(), Relaxed);
            }
        }
    }
}

impl Engine {
    /// Learns if it is time to, which takes a tenth of a millisecond. `entries` is the number of entries of one shard.
    #[inline]
    pub(super) fn learn(&self, entries: usize) {
        if self.model.is_due() {
            self.model.learn(entries * self.shards());
        }
    }
}

impl Database {
    /// Compares the entries of the next buckets, after those at `first`, until one is worth so little that it is evicted.
    fn next_by_model(
        &mut self,
        eviction: &Eviction,
        mut first: Option<u64>,
        mut consider: impl FnMut(EntryRef<'_>, &mut Search) -> bool,
    ) -> Option<EntryRef<'_>> {
        let mut search = Search::default();
        let mut lowest = None;
        for _ in 0..BUCKETS_PER_SEARCH {
            let at = first.unwrap_or(self.evict_position);
            let only_marked = eviction.only_with_deadline;
            let next = self.table.visit_bucket(at, only_marked, |entry| {
                if (!only_marked || entry.has_deadline()) && consider(entry, &mut search) {
                    lowest = Some(entry);
                }
            });
            if first.take().is_none() {
                self.evict_position = next;
            }
            if search.is_over() {
                break;
            }
        }
        lowest
    }
}

impl Tx<'_> {
    /// The key of a shard that is worth least among the next ones.
    pub(super) fn find_by_model(
        &mut self,
        shard: usize,
        eviction: &Eviction,
        objective: Objective,
    ) -> Found {
        let (engine, now) = (self.engine(), self.now());
        let Shard {
            databases, learned, ..
        } = self.shard_at(shard);
        let state: &mut ShardState = learned.get_or_insert_default();
        state.note_time(now.0);
        let mut random = Random::new(random::number());
        let candidates = databases
            .iter()
            .map(|database| database.candidates(eviction));
        let total: usize = candidates.sum();
        if total == 0 {
            return Found::Nothing;
        }
        // Every key has the same chance to be a candidate, in whichever database it is.
        let mut chosen = random.below(total);
        let holds_chosen = |(_, database): &(usize, &mut Database)| {
            let candidates = database.candidates(eviction);
            let holds = chosen < candidates;
            chosen = chosen.saturating_sub(candidates);
            holds
        };
        let Some((db, database)) = databases.iter_mut().enumerate().find(holds_chosen) else {
            return Found::NoneYet;
        };
        let newest = state.take_newest();
        let newest = newest.map(|hash| database.table.position(hash));
        let consider = |entry: EntryRef<'_>, search: &mut Search| {
            let ms_left = |deadline| now.0.abs_diff(deadline) * u64::from(deadline > now.0);
            let candidate = Candidate {
                history: History::from_bits(entry.access()),
                cost: match objective {
                    Objective::Hits => entry.allocated_bytes() + SLOT_BYTES,
                    Objective::BytesOfHits => 1,
                },
                ticks_left: (entry.deadline_ms()).map(|at| state.ticks_in(ms_left(at))),
            };
            state.consider(&engine.model, search, candidate, random.number())
        };
        match database.next_by_model(eviction, newest, consider) {
            None => Found::NoneYet,
            Some(entry) => {
                let history = History::from_bits(entry.access());
                Found::Key {
                    db,
                    key: entry.key().to_vec(),
                    is_refused: !history.is_read() && state.age(history) <= REFUSED_TICKS,
                }
            }
        }
    }

    /// Remembers an evicted key. Returns how many entries the shard has.
    pub(super) fn note_learned_eviction(
        &mut self,
        shard: usize,
        key: Key<'_>,
        entry: EntryRef<'_>,
    ) -> usize {
        let engine = self.engine();
        let Shard {
            databases, learned, ..
        } = self.shard_at(shard);
        let state: &mut ShardState = learned.get_or_insert_default();
        let entries = databases.iter().map(Database::len).sum();
        let history = History::from_bits(entry.access());
        let before = state.allocated_bytes();
        let random = (random::number() >> 32) as u32;
        state.evicted(&engine.model, key.hash, history, entries, random);
        let after = state.allocated_bytes();
        if after != before {
            engine.learned_bytes.fetch_add(after, Relaxed);
            engine.learned_bytes.fetch_sub(before, Relaxed);
        }
        entries
    }
}
