//! What one shard keeps for its entries: a clock, ghosts and a threshold. All of it is used under the shard's lock.

use crate::choice::{Search, Threshold};
use crate::clock::{Clock, Tick};
use crate::ghosts::Ghosts;
use crate::history::History;
use crate::model::{Candidate, Model};
use crate::pace::Pace;

/// A shard reports its uses to the model in groups of this many, since all threads write to the model.
const USES_PER_REPORT: u32 = 32;

/// So many entries are counted at a time, as a sample of all. It is a fixed number: the last candidate of a search is the victim, so the candidates of one
/// search are, on average, worth less than others. A sequence of searches has all entries in equal shares.
const SAMPLE: usize = 16;

/// The first candidates of a search are not counted: they are the neighbours of the newest entry, which is one of them.
const SKIPPED: usize = 8;

/// One sample stands for at most so many turnovers, although evictions may be rarer.
const TURNOVERS_MAX: usize = 2;

/// The state of a shard.
#[derive(Clone, Debug, Default)]
pub struct ShardState {
    clock: Clock,
    pace: Pace,
    ghosts: Ghosts,
    threshold: Threshold,
    /// Uses that the model does not know of yet.
    unreported: u32,
    newest: Option<u64>,
    /// Uses since entries were counted.
    uncounted: u32,
    /// Entries that searches came across, and when.
    sample: [(History, Tick); SAMPLE],
    sampled: usize,
}

/// A use of a key, at a moment of its shard's clock.
#[derive(Clone, Copy, Debug)]
pub struct Use<'m> {
    model: &'m Model,
    now: Tick,
    random: u32,
    /// The history of the key's ghost, which counts if an entry is created.
    past: Option<History>,
}

impl Use<'_> {
    /// The history of an entry that is used, as read since it was stored.
    #[inline]
    pub fn used(self, history: History) -> History {
        self.model.count_hit(history, self.now, self.random);
        history
            .used(self.now, self.random.rotate_left(16))
            .with_read(true)
    }

    /// The history of a new entry: one without uses, or the history of the key's ghost.
    pub fn created(self) -> History {
        match self.past {
            None => History::new_among(self.now, self.model.note_new_key()),
            Some(past) => self.used(past).with_read(false),
        }
    }

    /// The history of an entry that comes from another shard, whose clock shows another time.
    pub fn moved(self, history: History) -> History {
        history.at(self.now)
    }
}

impl ShardState {
    /// Notes a use of an entry. Allocates nothing. `random` is a uniform number.
    #[inline]
    pub fn note_use<'m>(&mut self, model: &'m Model, random: u32) -> Use<'m> {
        self.clock.advance();
        self.unreported += 1;
        self.uncounted = self.uncounted.saturating_add(1);
        if self.unreported >= USES_PER_REPORT {
            model.note_uses(std::mem::take(&mut self.unreported).into());
        }
        Use {
            model,
            now: self.clock.now(),
            random,
            past: None,
        }
    }

    /// Notes that a key is stored, by its hash. The shard has at least `entries` entries.
    pub fn note_store<'m>(
        &mut self,
        model: &'m Model,
        hash: u64,
        entries: usize,
        random: u32,
    ) -> Use<'m> {
        self.clock.expect_entries(entries);
        self.newest = Some(hash);
        Use {
            past: self.ghosts.remove(hash),
            ..self.note_use(model, random)
        }
    }

    /// The hash of the key that was stored last, unless it was asked for before.
    ///
    /// It should be the first candidate: if it is worth too little, it goes at once, and nothing else has to make room for it.
    pub fn take_newest(&mut self) -> Option<u64> {
        self.newest.take()
    }

    /// The ticks that pass in so many milliseconds.
    pub fn ticks_in(&self, ms: u64) -> Tick {
        self.pace.ticks_in(ms)
    }

    /// Considers an entry as the victim of an eviction, for the reasons in [`Model::rank`]. True if it is the best so far. `random` is a uniform number.
    #[inline]
    pub fn consider(
        &mut self,
        model: &Model,
        search: &mut Search,
        candidate: Candidate,
        random: u64,
    ) -> bool {
        let now = self.clock.now();
        if search.seen() >= SKIPPED && self.sampled < SAMPLE {
            self.sample[self.sampled] = (candidate.history, now);
            self.sampled += 1;
        }
        let rank = model.rank(candidate, now);
        search.consider(&mut self.threshold, rank, random)
    }

    /// Notes the eviction of a key, by its hash. `entries` is how many the shard has afterwards.
    pub fn evicted(
        &mut self,
        model: &Model,
        hash: u64,
        history: History,
        entries: usize,
        random: u32,
    ) {
        self.threshold.note_victim();
        self.clock.set_entries(entries);
        self.ghosts.fit(entries + 1);
        self.count_sample(model, entries, random);
        self.ghosts.insert(hash, history);
    }

    /// Counts the entries that the search came across, and a few ghosts, for the time since that was done last.
    fn count_sample(&mut self, model: &Model, entries: usize, random: u32) {
        if self.sampled < SAMPLE {
            return;
        }
        self.sampled = 0;
        if model.is_new() {
            model.note_seen(SAMPLE);
            self.uncounted = 0;
            for (history, then) in self.sample {
                // The first lesson needs them, even if hits are not counted any more.
                model.count_presence(history, then, 1.0, 0);
            }
            return;
        }
        let limit = u32::try_from(entries * TURNOVERS_MAX).unwrap_or(u32::MAX);
        let uses = std::mem::take(&mut self.uncounted).min(limit.max(1)) as f32;
        for (history, then) in self.sample {
            model.count_presence(history, then, uses / SAMPLE as f32, random);
        }
        let share = uses * self.ghosts.sets_per_entry(entries);
        let now = self.clock.now();
        for history in self.ghosts.any_set(random) {
            model.count_presence(history, now, share, random);
        }
    }

    /// Notes the time by the clock on the wall, which says how fast the shard's clock runs.
    pub fn note_time(&mut self, now_ms: i64) {
        self.pace.note(self.clock.ticks(), now_ms);
    }

    /// Ticks since an entry of this history was used.
    pub fn age(&self, history: History) -> Tick {
        history.age(self.clock.now())
    }

    /// The bytes that the ghosts take.
    pub fn allocated_bytes(&self) -> usize {
        self.ghosts.allocated_bytes()
    }
}
