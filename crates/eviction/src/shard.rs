//! What one shard keeps for its entries: a clock, ghosts and a threshold. All of it is used under the shard's lock.

use crate::choice::Threshold;
use crate::clock::{Clock, Tick};
use crate::ghosts::Ghosts;
use crate::history::History;
use crate::model::Model;

/// The state of a shard.
///
/// `entries` is the number of entries that the shard has at the moment, and `random` a uniform number.
#[derive(Clone, Debug, Default)]
pub struct ShardState {
    clock: Clock,
    ghosts: Ghosts,
    threshold: Threshold,
}

impl ShardState {
    /// Notes a use of an entry, and returns its new history. Allocates nothing.
    #[inline]
    pub fn used(
        &mut self,
        model: &Model,
        history: History,
        entries: usize,
        random: u32,
    ) -> History {
        self.clock.advance(entries);
        model.count_hit(history, self.now(), random);
        history
            .used(self.now(), random.rotate_left(16))
            .with_read(history.is_read())
    }

    /// The history of an entry that is about to be stored, by the hash of its key: a new one, or that of its ghost.
    pub fn stored(&mut self, model: &Model, hash: u64, entries: usize, random: u32) -> History {
        self.clock.advance(entries);
        let now = self.now();
        match self.ghosts.remove(hash) {
            None => History::new(now),
            Some(history) => {
                model.count_hit(history, now, random);
                history.used(now, random.rotate_left(16))
            }
        }
    }

    /// The rank of an entry; see [`Model::rank`].
    #[inline]
    pub fn rank(
        &self,
        model: &Model,
        history: History,
        bytes: usize,
        ticks_left: Option<Tick>,
    ) -> f32 {
        model.rank(history, self.now(), bytes, ticks_left)
    }

    /// True if a candidate of this rank should be evicted without looking further. At most
    /// [`CANDIDATES_MAX`](crate::CANDIDATES_MAX) are looked at; then the one with the lowest rank is evicted.
    #[inline]
    pub fn accepts(&mut self, rank: f32) -> bool {
        self.threshold.accepts(rank)
    }

    /// Notes an eviction. `entries` is what the shard has afterwards.
    pub fn evicted(
        &mut self,
        model: &Model,
        hash: u64,
        history: History,
        entries: usize,
        random: u32,
    ) {
        self.threshold.note_victim();
        self.ghosts.fit(entries + 1);
        if let Some(forgotten) = self.ghosts.insert(hash, history) {
            model.count_loss(forgotten, self.now(), random);
        }
    }

    /// Forgets what the shard knows, when the cache mode is turned off or all keys are gone.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The bytes that the ghosts take.
    pub fn allocated_bytes(&self) -> usize {
        self.ghosts.allocated_bytes()
    }

    fn now(&self) -> Tick {
        self.clock.now()
    }
}
