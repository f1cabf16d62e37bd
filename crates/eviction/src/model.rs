//! The model: how likely entries of each class are to be used at each age, and what follows for their rank.
//!
//! ```text
//! hits[class][age]     uses of entries of that class and age (fixed point)
//! losses[class][age]   entries of that class that nobody has used until that age, when they were forgotten
//! rank[class][age]     the most hits per tick that can be expected of such an entry
//! ```
//!
//! 64 classes, 32 ages, three numbers of four bytes: 24 KiB, for the whole process. Ages are logarithmic, two for each doubling.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::clock::{TICKS_PER_SIZE, Tick};
use crate::history::{CLASSES, History, INTERVALS, USES};

/// Ages that are distinguished: 0, then two for each doubling up to 2^14.
const AGES: usize = 32;

/// One event, in the fixed point of the counts.
const EVENT: u32 = 256;

/// The share of the counts that remains when the model has learned.
const REMAINS: f32 = 0.9;

/// A class that has had few events is like its kind: all classes with as many uses. This is how many events that weighs.
const PRIOR_EVENTS: f32 = 16.0;

/// A kind that has had few events is like all entries, but more likely to be used the more often it was. This is how many events that weighs.
const KIND_PRIOR_EVENTS: f32 = 32.0;

/// How much more likely an entry of each kind is to be used at any age, compared with all entries: roughly the mean over the traces of decision 29.
const LIKELIHOODS: [f32; USES] = [0.55, 1.65, 2.75, 2.75, 3.6, 5.0, 6.0, 5.5];

/// The highest probability of a use at an age that is assumed without having been seen.
const HAZARD_MAX: f32 = 0.9;

/// The fewest uses from one learning to the next.
const PERIOD_MIN: u64 = 512;
/// The most.
const PERIOD_MAX: u64 = 1 << 20;

/// Beyond this number of uses per period, only some are counted.
const COUNTED_PER_PERIOD: u64 = 1 << 16;

type Counts = [[AtomicU32; AGES]; CLASSES];

/// What all shards have learned.
#[derive(Debug)]
pub struct Model {
    hits: Counts,
    losses: Counts,
    /// Bits of `f32`.
    ranks: Counts,
    /// Uses since the model has learned.
    uses: AtomicU64,
    /// When it learns next, in uses.
    period: AtomicU64,
    /// One in this many events is counted.
    one_in: AtomicU32,
    is_learning: AtomicBool,
    lessons: AtomicU64,
}

/// An entry that could be evicted.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its past.
    pub history: History,
    /// The memory that its eviction frees.
    pub bytes: usize,
    /// The time until it expires; `None` if it does not.
    pub ticks_left: Option<Tick>,
}

/// What a model has learned, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelView {
    /// How often it has learned.
    pub lessons: u64,
    /// For entries that were used so often, as levels of [`History::uses`].
    pub by_uses: [UsageSeen; USES],
}

/// What was seen of some entries lately.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct UsageSeen {
    /// How many uses, and entries that were forgotten. Old ones count less.
    pub events: f32,
    /// The share of them that were forgotten without another use.
    pub never_again: f32,
    /// Half of the uses were within this time after the one before, in turnovers: the time in which the cache is used as often as it has entries.
    pub half_within: f32,
}

impl Default for Model {
    fn default() -> Self {
        let counts = || std::array::from_fn(|_| std::array::from_fn(|_| AtomicU32::new(0)));
        let model = Self {
            hits: counts(),
            losses: counts(),
            ranks: counts(),
            uses: AtomicU64::new(0),
            period: AtomicU64::new(PERIOD_MIN),
            one_in: AtomicU32::new(1),
            is_learning: AtomicBool::new(false),
            lessons: AtomicU64::new(0),
        };
        // Before anything is learned, an entry is likely to be used again as late as it was used last.
        for class in 0..CLASSES {
            for age in 0..AGES {
                let rank = LIKELIHOODS[class / INTERVALS] / first_tick(age + 1);
                model.ranks[class][age].store(rank.to_bits(), Relaxed);
            }
        }
        model
    }
}

impl Model {
    /// The bytes that a model takes.
    pub const BYTES: usize = size_of::<Self>();

    /// Counts a use of an entry, or of a ghost, that had this history. `random` is a uniform number.
    #[inline]
    pub fn count_hit(&self, history: History, now: Tick, random: u32) {
        self.count(&self.hits, history, now, random);
    }

    /// Counts an entry that was forgotten without having been used.
    #[inline]
    pub fn count_loss(&self, history: History, now: Tick, random: u32) {
        self.count(&self.losses, history, now, random);
    }

    #[inline]
    fn count(&self, counts: &Counts, history: History, now: Tick, random: u32) {
        let one_in = self.one_in.load(Relaxed);
        if one_in == 1 || random.is_multiple_of(one_in) {
            counts[history.class()][age_class(history.age(now))].fetch_add(EVENT, Relaxed);
        }
    }

    /// The hits per tick and byte that an entry promises. The entry with the lowest rank is evicted first.
    ///
    /// An entry that expires within `ticks_left` can't be used after that.
    #[inline]
    pub fn rank(&self, candidate: Candidate, now: Tick) -> f32 {
        let Candidate {
            history,
            bytes,
            ticks_left,
        } = candidate;
        let age = age_class(history.age(now));
        let rank = f32::from_bits(self.ranks[history.class()][age].load(Relaxed));
        // The expected hits until the deadline are fewer by the part of the time that is cut off; an entry's time is about one cache size.
        let share = ticks_left.map_or(1.0, |left| (left as f32 / TICKS_PER_SIZE as f32).min(1.0));
        rank * share / bytes.max(1) as f32
    }

    /// Notes `uses` more of the cache's entries, hits or misses.
    #[inline]
    pub fn note_uses(&self, uses: u64) {
        self.uses.fetch_add(uses, Relaxed);
    }

    /// True if the model should [learn](Self::learn) now.
    #[inline]
    pub fn is_due(&self) -> bool {
        self.uses.load(Relaxed) >= self.period.load(Relaxed)
    }

    /// Computes the ranks from the counts, for a cache of this many entries. Does nothing while another thread does so.
    pub fn learn(&self, entries: usize) {
        if self.is_learning.swap(true, Relaxed) {
            return;
        }
        let period = (entries as u64 / 2).clamp(PERIOD_MIN, PERIOD_MAX);
        self.uses.store(0, Relaxed);
        self.period.store(period, Relaxed);
        let one_in = (period / COUNTED_PER_PERIOD).max(1) as u32;
        self.one_in.store(one_in, Relaxed);
        let all = self.sum(0..CLASSES).hazards(None, 1.0);
        for (uses, likelihood) in LIKELIHOODS.iter().enumerate() {
            let classes = uses * INTERVALS..(uses + 1) * INTERVALS;
            let expected = all.map(|hazard| (hazard * likelihood).min(HAZARD_MAX));
            let kind = self.sum(classes.clone());
            let kind = kind.hazards(Some(&expected), KIND_PRIOR_EVENTS);
            for class in classes {
                let own = self.sum(class..class + 1);
                let hazards = own.hazards(Some(&kind), PRIOR_EVENTS);
                self.set_ranks(class, &hazards);
            }
        }
        for count in self.hits.iter().chain(&self.losses).flatten() {
            // Events that others count meanwhile may be lost, which does no harm.
            count.store((count.load(Relaxed) as f32 * REMAINS) as u32, Relaxed);
        }
        self.lessons.fetch_add(1, Relaxed);
        self.is_learning.store(false, Relaxed);
    }

    /// The highest rate of hits from each age on (the Gittins index), from the probability of a use at each age.
    fn set_ranks(&self, class: usize, hazards: &[f32; AGES]) {
        for (age, hazard) in hazards.iter().enumerate() {
            // On average the entry is in the middle of the age.
            let first = hazard * 0.5;
            let width = ticks(age) * 0.5;
            let (mut hits, mut time) = (first, width * (1.0 - 0.5 * first));
            let mut unused = 1.0 - first;
            let mut best = hits / time;
            // The last age has no end.
            let ages = hazards.iter().enumerate().take(AGES - 1);
            for (later, hazard) in ages.skip(age + 1) {
                hits += unused * hazard;
                time += unused * ticks(later) * (1.0 - 0.5 * hazard);
                unused *= 1.0 - hazard;
                best = f32::max(best, hits / time);
            }
            self.ranks[class][age].store(best.to_bits(), Relaxed);
        }
    }

    fn sum(&self, classes: std::ops::Range<usize>) -> Events {
        let mut events = Events {
            hits: [0.0; AGES],
            losses: [0.0; AGES],
        };
        let number = |count: &AtomicU32| count.load(Relaxed) as f32 / EVENT as f32;
        for class in classes {
            for age in 0..AGES {
                events.hits[age] += number(&self.hits[class][age]);
                events.losses[age] += number(&self.losses[class][age]);
            }
        }
        events
    }

    /// What was learned so far.
    pub fn view(&self) -> ModelView {
        let by_uses = std::array::from_fn(|uses| {
            let events = self.sum(uses * INTERVALS..(uses + 1) * INTERVALS);
            let hits: f32 = events.hits.iter().sum();
            let losses: f32 = events.losses.iter().sum();
            let mut seen = 0.0;
            let median = events.hits.iter().position(|count| {
                seen += count;
                seen * 2.0 >= hits && hits > 0.0
            });
            UsageSeen {
                events: hits + losses,
                never_again: losses / (hits + losses).max(1.0),
                half_within: median.map_or(0.0, |age| first_tick(age + 1)) / TICKS_PER_SIZE as f32,
            }
        });
        ModelView {
            lessons: self.lessons.load(Relaxed),
            by_uses,
        }
    }
}

struct Events {
    hits: [f32; AGES],
    losses: [f32; AGES],
}

impl Events {
    /// The probability that an entry that has not been used before an age is used at that age. `events` of a prior are assumed besides those that
    /// were seen. Entries lost at an age were there for half of it.
    fn hazards(&self, prior: Option<&[f32; AGES]>, events: f32) -> [f32; AGES] {
        let mut hazards = [0.0; AGES];
        let mut left = 0.0;
        for age in (0..AGES).rev() {
            left += self.hits[age] + self.losses[age] * 0.5;
            let expected = prior.map_or(0.0, |prior| prior[age]);
            hazards[age] = (self.hits[age] + events * expected) / (left + events);
            left += self.losses[age] * 0.5;
        }
        hazards
    }
}

/// The class of an age: 0 for 0, then two for each doubling.
#[inline]
fn age_class(ticks: Tick) -> usize {
    if ticks == 0 {
        return 0;
    }
    let doublings = ticks.ilog2();
    let half = ticks << 1 >> doublings & 1;
    (1 + 2 * doublings + half) as usize
}

/// The first tick of an age.
fn first_tick(age: usize) -> f32 {
    match age.checked_sub(1) {
        None => 0.0,
        Some(halves) => (1u32 << (halves / 2)) as f32 * if halves % 2 == 0 { 1.0 } else { 1.5 },
    }
}

/// How many ticks an age has; half a tick for those between whole ones.
fn ticks(age: usize) -> f32 {
    first_tick(age + 1) - first_tick(age)
}
