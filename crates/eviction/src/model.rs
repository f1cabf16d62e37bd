//! The model: how likely entries of each class are to be used at each age, and what follows for their rank.
//!
//! ```text
//! hits[class][age]       uses of entries of that class and age (fixed point)
//! presence[class][age]   how many entries had that class and age, and for how long (fixed point): entries times turnovers
//! rank[class][age]       the most hits per tick that can be expected of such an entry
//! ```
//!
//! The probability of a use at an age is the hits divided by the presence (in statistics, the occurrence-exposure rate). Hits are counted, and the presence is estimated: each
//! eviction looks at a few entries and ghosts, which are a random sample of all, and each stands for its share of all until the next eviction. So the
//! model knows at once about entries that are not used, and need not wait until they are forgotten.
//!
//! Of most classes, few events are seen. Then the probability is that of the kind, all classes with as many uses, corrected by how much likelier a use is at that age
//! relative to the interval: entries tend to be used again after about the same time as before, whatever that time is, and this is learned from all intervals of a kind together.
//!
//! 64 classes, 32 ages, three numbers of four bytes: 24 KiB, for the whole process. Ages are logarithmic, two for each doubling.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::clock::{TICKS_PER_SIZE, Tick};
use crate::history::{CLASSES, History, INTERVALS, USES};

/// Ages that are distinguished: 0, then two for each doubling up to 2^14.
const AGES: usize = 32;

/// The ages up to an eighth of a turnover.
const YOUNG_AGES: usize = 7;

/// One event, in the fixed point of the counts.
const EVENT: u32 = 256;

/// The fewest entries that are seen before the first lesson.
const SEEN_MIN: u64 = 256;

/// Events are counted for at most so many periods without a lesson, because nothing is evicted: two turnovers, as
/// long as the entries that the next eviction sees can stand for.
const PERIODS_MAX: u64 = 4;

/// Before the first lesson, they are counted for so many uses at most. No counter overflows: a use counts [`EVENT`].
const FIRST_USES_MAX: u64 = 1 << 23;
const _: () = assert!(FIRST_USES_MAX * (EVENT as u64) < 1 << 32);

/// Stops counting: a random number is hardly ever a multiple of this.
const NONE: u32 = u32::MAX;

/// The share of the counts that remains when the model has learned, if enough hits do.
const REMAINS_MIN: f32 = 0.9;

/// So many hits are to remain: with fewer, the probabilities of rare kinds are mostly chance. Small caches, and those with few hits, therefore remember for longer.
const HITS_REMAINING: f32 = 80_000.0;

/// But the model mostly forgets within 25 turnovers.
const REMAINS_MAX: f32 = 0.98;

/// No counter is more after a lesson, so that none overflows before the next one.
const COUNT_MAX: f32 = (1u32 << 31) as f32;

/// A class that has had few events is like its kind: all classes with as many uses. This is how many events that weighs.
const PRIOR_EVENTS: f32 = 16.0;

/// How many events of a kind weigh as much as the assumption that the interval does not matter.
const RELATIVE_PRIOR_EVENTS: f32 = 16.0;

/// A level of intervals is a doubling, so it has two ages.
const AGES_PER_LEVEL: usize = 2;

/// A kind that has had few events is like all entries, but more likely to be used the more often it was. This is how many events that weighs.
const KIND_PRIOR_EVENTS: f32 = 100.0;

/// How much more likely an entry of each kind is to be used at any age, compared with all entries: roughly the mean over the traces of decision 29.
const LIKELIHOODS: [f32; USES] = [0.55, 1.65, 2.75, 2.75, 3.6, 5.0, 6.0, 5.5];

/// The highest probability of a use at an age that is assumed.
const HAZARD_MAX: f32 = 0.98;

/// The same, without having been seen.
const EXPECTED_HAZARD_MAX: f32 = 0.9;

/// The fewest uses from one learning to the next.
const PERIOD_MIN: u64 = 512;
/// The most.
const PERIOD_MAX: u64 = 1 << 20;

/// Beyond this number of uses per period, only some are counted.
const COUNTED_PER_PERIOD: u64 = 1 << 16;

/// The share of new keys is measured over so many uses, and that of the time before counts half.
const USES_PER_SHARE: u32 = 128;

/// The levels of that share that the model distinguishes.
const LEVELS_OF_NEW_KEYS: u32 = 3;

/// A share of 1, in fixed point.
const ALL: u32 = 1 << 16;

type Counts = [[AtomicU32; AGES]; CLASSES];

/// What all shards have learned.
#[derive(Debug)]
pub struct Model {
    hits: Counts,
    presence: Counts,
    /// Bits of `f32`.
    ranks: Counts,
    /// Entries that were seen before the first lesson.
    seen: AtomicU64,
    /// Uses since the model has learned.
    uses: AtomicU64,
    /// When it learns next, in uses.
    period: AtomicU64,
    /// One in this many events is counted.
    one_in: AtomicU32,
    is_learning: AtomicBool,
    lessons: AtomicU64,
    /// Uses, and new keys among them, since the share of new keys was measured.
    uses_for_share: AtomicU32,
    new_keys: AtomicU32,
    /// The share of new keys among the last uses, in fixed point.
    share_of_new_keys: AtomicU32,
}

/// An entry that could be evicted.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Its past.
    pub history: History,
    /// The cost of keeping it, for each hit of the same value: the memory that its eviction frees, or the same number for all entries if a hit is worth its bytes.
    pub cost: usize,
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
    /// How many came to be used so often. Old ones count less.
    pub events: f32,
    /// The share of them that have not been used again, 0 to 1.
    pub never_again: f32,
    /// Half of the uses were within this time after the one before, in turnovers: the time in which the cache is used as often as it has entries.
    pub half_within: f32,
}

impl Default for Model {
    fn default() -> Self {
        let counts = || std::array::from_fn(|_| std::array::from_fn(|_| AtomicU32::new(0)));
        let model = Self {
            hits: counts(),
            presence: counts(),
            ranks: counts(),
            seen: AtomicU64::new(0),
            uses: AtomicU64::new(0),
            period: AtomicU64::new(PERIOD_MIN),
            one_in: AtomicU32::new(1),
            is_learning: AtomicBool::new(false),
            lessons: AtomicU64::new(0),
            uses_for_share: AtomicU32::new(0),
            new_keys: AtomicU32::new(0),
            share_of_new_keys: AtomicU32::new(0),
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
        if self.is_counted(random) {
            self.hits[history.class()][age_class(history.age(now))].fetch_add(EVENT, Relaxed);
        }
    }

    /// Counts an entry or a ghost that stands for all of its shard, or a share of them, during some uses. `share_of_uses` is the product of both numbers.
    /// `random` is a uniform number.
    pub fn count_presence(&self, history: History, now: Tick, share_of_uses: f32, random: u32) {
        if self.is_counted(random) {
            let weight = (share_of_uses * EVENT as f32) as u32;
            self.presence[history.class()][age_class(history.age(now))].fetch_add(weight, Relaxed);
        }
    }

    #[inline]
    fn is_counted(&self, random: u32) -> bool {
        let one_in = self.one_in.load(Relaxed);
        one_in == 1 || random.is_multiple_of(one_in)
    }

    /// True before the first lesson. All entries that are seen until then count alike, and their number is that of the cache.
    pub fn is_new(&self) -> bool {
        self.lessons.load(Relaxed) == 0
    }

    /// Notes how many entries an eviction has seen.
    pub fn note_seen(&self, entries: usize) {
        self.seen.fetch_add(entries as u64, Relaxed);
    }

    /// The hits that an entry promises per tick and unit of its cost. The entry with the lowest rank is evicted first.
    ///
    /// An entry that expires within `ticks_left` can't be used after that.
    #[inline]
    pub fn rank(&self, candidate: Candidate, now: Tick) -> f32 {
        let Candidate {
            history,
            cost,
            ticks_left,
        } = candidate;
        let age = age_class(history.age(now));
        let rank = f32::from_bits(self.ranks[history.class()][age].load(Relaxed));
        // The expected hits until the deadline are fewer by the part of the time that is cut off; an entry's time is about one cache size.
        let share = ticks_left.map_or(1.0, |left| (left as f32 / TICKS_PER_SIZE as f32).min(1.0));
        rank * share / cost.max(1) as f32
    }

    /// Notes `uses` more of the cache's entries, hits or misses.
    #[inline]
    pub fn note_uses(&self, uses: u64) {
        let before = self.uses.fetch_add(uses, Relaxed);
        let limit = match self.is_new() {
            true => FIRST_USES_MAX,
            false => self.period.load(Relaxed) * PERIODS_MAX,
        };
        if before >= limit {
            self.one_in.store(NONE, Relaxed);
        }
        let uses = self.uses_for_share.fetch_add(uses as u32, Relaxed) + uses as u32;
        if uses >= USES_PER_SHARE {
            // If another thread does so at the same time, one of the two shares is wrong for a moment.
            self.uses_for_share.store(0, Relaxed);
            let new_keys = self.new_keys.swap(0, Relaxed).min(uses);
            let share = (u64::from(new_keys) * u64::from(ALL) / u64::from(uses)) as u32;
            let mean = (self.share_of_new_keys.load(Relaxed) + share) / 2;
            self.share_of_new_keys.store(mean, Relaxed);
        }
    }

    /// Notes that a key comes of which nothing is known. Returns the level of such keys among the last uses.
    pub fn note_new_key(&self) -> u32 {
        self.new_keys.fetch_add(1, Relaxed);
        let level = self.share_of_new_keys.load(Relaxed) * LEVELS_OF_NEW_KEYS / ALL;
        level.min(LEVELS_OF_NEW_KEYS - 1)
    }

    /// True if the model should [learn](Self::learn) now.
    #[inline]
    pub fn is_due(&self) -> bool {
        let (uses, seen) = (self.uses.load(Relaxed), self.seen.load(Relaxed));
        uses >= self.period.load(Relaxed) && seen >= SEEN_MIN
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
        if self.is_new() {
            self.estimate_first_presence(entries);
        }
        let all = self.sum(0..CLASSES).hazards(None, 1.0);
        for (uses, likelihood) in LIKELIHOODS.iter().enumerate() {
            let first = uses * INTERVALS;
            let expected = all.map(|hazard| (hazard * likelihood).min(EXPECTED_HAZARD_MAX));
            let kind = self.sum(first..first + INTERVALS);
            let kind = kind.hazards(Some(&expected), KIND_PRIOR_EVENTS);
            let classes = std::array::from_fn(|level| self.sum(first + level..first + level + 1));
            let by_relative_age = RelativeAges::of(&classes, &kind);
            for (level, own) in classes.iter().enumerate() {
                let expected = match uses {
                    // There is no interval; the level is that of new keys.
                    0 => kind,
                    _ => by_relative_age.correct(&kind, level),
                };
                let hazards = own.hazards(Some(&expected), PRIOR_EVENTS);
                self.set_ranks(first + level, &hazards);
            }
        }
        let remains = remaining_share(self.sum(0..CLASSES).hits.iter().sum());
        for count in self.hits.iter().chain(&self.presence).flatten() {
            // Events that others count meanwhile may be lost, which does no harm.
            let remaining = (count.load(Relaxed) as f32 * remains).min(COUNT_MAX);
            count.store(remaining as u32, Relaxed);
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

    /// Before the first lesson, the cache has grown, and no entry was lost. So each was present at all ages up to that of its hits, or
    /// up to its present one.
    fn estimate_first_presence(&self, entries: usize) {
        let number = |count: &AtomicU32| count.load(Relaxed) as f32;
        let seen: f32 = self.presence.iter().flatten().map(number).sum();
        for (hits, presence) in self.hits.iter().zip(&self.presence) {
            let mut older = 0.0;
            for age in (0..AGES).rev() {
                let there = number(&presence[age]) / seen.max(1.0) * entries as f32;
                let ended = there + number(&hits[age]) / EVENT as f32;
                let ticks = (older + ended * 0.5) * width(age);
                older += ended;
                let turnovers = ticks / TICKS_PER_SIZE as f32;
                presence[age].store((turnovers * EVENT as f32) as u32, Relaxed);
            }
        }
    }

    fn sum(&self, classes: std::ops::Range<usize>) -> Events {
        let mut events = Events {
            hits: [0.0; AGES],
            presence: [0.0; AGES],
        };
        let number = |count: &AtomicU32| count.load(Relaxed) as f32 / EVENT as f32;
        for class in classes {
            for age in 0..AGES {
                events.hits[age] += number(&self.hits[class][age]);
                events.presence[age] += number(&self.presence[class][age]) * TICKS_PER_SIZE as f32;
            }
        }
        events
    }

    /// What was learned so far.
    pub fn view(&self) -> ModelView {
        let by_uses = std::array::from_fn(|uses| {
            let events = self.sum(uses * INTERVALS..(uses + 1) * INTERVALS);
            let hits: f32 = events.hits.iter().sum();
            let began = events.began().max(hits);
            let never_again = 1.0 - hits / began.max(f32::MIN_POSITIVE);
            let mut seen = 0.0;
            let median = events.hits.iter().position(|count| {
                seen += count;
                seen * 2.0 >= hits && hits > 0.0
            });
            UsageSeen {
                events: began,
                never_again,
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
    /// Entries times ticks.
    presence: [f32; AGES],
}

impl Events {
    /// The probability that an entry that has not been used before an age is used at that age. `events` of a prior are assumed besides those that
    /// were seen.
    fn hazards(&self, prior: Option<&[f32; AGES]>, events: f32) -> [f32; AGES] {
        std::array::from_fn(|age| {
            if width(age) == 0.0 {
                return 0.0;
            }
            let came = self.came(age);
            let expected = prior.map_or(0.0, |prior| prior[age]);
            let hits = self.hits[age] + events * expected;
            (hits / (came + events).max(f32::MIN_POSITIVE)).min(HAZARD_MAX)
        })
    }

    /// How many entries there were. As many as come in an eighth of a turnover are that young at any time, but for those that are used sooner.
    fn began(&self) -> f32 {
        let presence: f32 = self.presence[..YOUNG_AGES].iter().sum();
        let hits: f32 = self.hits[..YOUNG_AGES].iter().sum();
        // An entry of age 0 came half a tick ago on average, and one that is used has been there for half the time.
        presence / (first_tick(YOUNG_AGES) - 0.5) + hits * 0.5
    }

    /// How many entries came to an age, which has a width. Entries used at an age were there for half of it.
    fn came(&self, age: usize) -> f32 {
        self.presence[age] / width(age) + self.hits[age] * 0.5
    }
}

/// How much likelier uses are at ages relative to the interval than the kind alone says: uses seen, divided by those expected.
struct RelativeAges([f32; AGES + INTERVALS * AGES_PER_LEVEL]);

impl RelativeAges {
    /// From the classes of a kind, and the probabilities of a use if the interval did not matter.
    fn of(classes: &[Events; INTERVALS], kind: &[f32; AGES]) -> Self {
        let mut seen = [RELATIVE_PRIOR_EVENTS; AGES + INTERVALS * AGES_PER_LEVEL];
        let mut expected = seen;
        for (level, events) in classes.iter().enumerate() {
            for age in (0..AGES).filter(|age| width(*age) > 0.0) {
                let at = Self::position(age, level);
                seen[at] += events.hits[age];
                expected[at] += events.came(age) * kind[age];
            }
        }
        Self(std::array::from_fn(|at| seen[at] / expected[at]))
    }

    /// The probabilities of a kind, for its entries of one level of intervals.
    fn correct(&self, kind: &[f32; AGES], level: usize) -> [f32; AGES] {
        std::array::from_fn(|age| {
            let factor = self.0[Self::position(age, level)];
            (kind[age] * factor).min(EXPECTED_HAZARD_MAX)
        })
    }

    fn position(age: usize, level: usize) -> usize {
        age + (INTERVALS - level) * AGES_PER_LEVEL
    }
}

/// The share of the counts that remains after a lesson from so many hits.
fn remaining_share(hits: f32) -> f32 {
    (HITS_REMAINING / hits.max(1.0)).clamp(REMAINS_MIN, REMAINS_MAX)
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

/// How many whole ticks an age has. The second tick is not divided.
fn width(age: usize) -> f32 {
    match age {
        0 | 1 => 1.0,
        2 => 0.0,
        _ => ticks(age),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_of_ages_add_up() {
        let ticks = (0..AGES - 1).map(width).sum::<f32>();
        assert_eq!(ticks, first_tick(AGES - 1));
        for tick in 0..1000 {
            let age = age_class(tick);
            assert!(width(age) > 0.0, "{tick}");
        }
    }

    #[test]
    fn hits_by_presence_are_the_probability_of_a_use() {
        let mut events = Events {
            hits: [0.0; AGES],
            presence: [0.0; AGES],
        };
        // Of 100 entries, 20 are used at this age, on average in the middle of it.
        let age = age_class(100);
        events.hits[age] = 20.0;
        events.presence[age] = 90.0 * width(age);
        let hazards = events.hazards(None, 0.0);
        assert!((hazards[age] - 0.2).abs() < 1e-6, "{}", hazards[age]);
        assert_eq!(hazards[age - 1], 0.0);
        let expected = [0.4; AGES];
        let hazards = events.hazards(Some(&expected), 100.0);
        assert!((hazards[age] - 0.3).abs() < 1e-6, "{}", hazards[age]);
        assert!((hazards[age - 1] - 0.4).abs() < 1e-6);
    }

    #[test]
    fn a_new_key_is_known_to_be_among_others() {
        let model = Model::default();
        let level_after = |new_keys: u32| {
            for _ in 0..10 {
                (0..new_keys).for_each(|_| _ = model.note_new_key());
                (0..USES_PER_SHARE / 32).for_each(|_| model.note_uses(32));
            }
            model.note_new_key()
        };
        let levels = [0, 32, 64, 128, 10].map(level_after);
        assert_eq!(levels, [0, 0, 1, 2, 0]);
    }

    #[test]
    fn more_is_remembered_while_there_are_few_hits() {
        assert_eq!(remaining_share(0.0), REMAINS_MAX);
        assert_eq!(remaining_share(1e9), REMAINS_MIN);
        // With 2,000 hits between lessons, 80,000 remain in the end.
        let hits = (0..1000).fold(0.0, |hits, _| {
            (hits + 2000.0) * remaining_share(hits + 2000.0)
        });
        assert!((hits - HITS_REMAINING).abs() < 1.0, "{hits}");
    }

    #[test]
    fn a_rhythm_that_is_seen_at_some_intervals_is_expected_at_others() {
        let age_of = |level: usize| age_class(1 << level);
        let classes = std::array::from_fn(|level| {
            let mut events = Events {
                hits: [0.0; AGES],
                presence: [0.0; AGES],
            };
            // Most are used after as long as the time before. Of level 3, none was seen.
            if [1, 2, 4, 5].contains(&level) {
                for (age, hits) in [(level - 1, 10.0), (level, 100.0), (level + 1, 10.0)] {
                    events.hits[age_of(age)] = hits;
                    events.presence[age_of(age)] = 1000.0 * width(age_of(age));
                }
            }
            events
        });
        let kind = [0.05; AGES];
        let expected = RelativeAges::of(&classes, &kind).correct(&kind, 3);
        assert!(expected[age_of(3)] > 0.08, "{expected:?}");
        assert!(expected[age_of(2)] < 0.025 && expected[age_of(4)] < 0.025);
        assert_eq!(expected[age_of(12)], 0.05);
    }

    #[test]
    fn a_long_time_without_evictions_overflows_no_counter() {
        let model = Model::default();
        let history = History::new(0);
        for _ in 0..FIRST_USES_MAX / 32 + 10 {
            model.note_uses(32);
        }
        model.count_hit(history, 0, 12_345);
        assert_eq!(model.sum(0..CLASSES).hits.iter().sum::<f32>(), 0.0);
        // The first lesson begins to count again.
        model.note_seen(SEEN_MIN as usize);
        model.count_presence(history, 0, 1.0, 0);
        assert!(model.is_due());
        model.learn(1000);
        model.count_hit(history, 0, 12_345);
        assert!(model.sum(0..CLASSES).hits.iter().sum::<f32>() > 0.0);
    }
}
