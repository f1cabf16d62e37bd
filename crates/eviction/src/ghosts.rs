//! Ghosts: the histories of keys that were evicted, so that one that comes back is known, and so that the model learns about times that are
//! longer than entries stay.
//!
//! ```text
//! 24 bits:  | fingerprint: 12 | uses: 3 | level of the interval: 3 | time / 256: 6 |        0: none
//! set:      four ghosts, the latest first; the hash selects the set, and the one evicted first gives way
//! ```
//!
//! One key in 32, a sample selected by the hash, gives way only to another of the sample: at most one in a set. So the sample is remembered for
//! about ten times as long as other keys, and the model learns about uses that come much later than anything that the cache could keep.
//!
//! Ghosts are kept in the order in which they were evicted. In the order of their last use, a key that was long in the cache because it is used
//! often would be forgotten first.
//!
//! A fingerprint is wrong for one in 1,000 new keys, which then have a history that is not theirs. What is left out of a history is what the model does
//! not ask for: with levels of intervals that were not those of its classes, it counted a key in one class when it was used, and in another when it was not.

use crate::clock::TICK_MASK;
use crate::history::{History, INTERVALS, STEPS_PER_LEVEL, USES};

/// The size of a ghost.
pub const GHOST_BYTES: usize = 3;

/// One set for this many entries: two bytes for each.
const ENTRIES_PER_SET: usize = WAYS * GHOST_BYTES / 2;

/// One key in this many is in the sample.
const SAMPLE_ONE_IN: u64 = 32;

const WAYS: usize = 4;
const TIME_SHIFT: u32 = 8;
const TIME_MASK: u32 = TICK_MASK >> TIME_SHIFT;
const LEVEL_SHIFT: u32 = 6;
const LEVEL_MASK: u32 = INTERVALS as u32 - 1;
const USES_SHIFT: u32 = 9;
const FINGERPRINT_SHIFT: u32 = 12;
const FINGERPRINTS: u64 = (1 << 12) - 1;

const _: () = assert!(TIME_MASK < 1 << LEVEL_SHIFT && INTERVALS == 8);

const _: () = assert!(size_of::<Ghost>() == GHOST_BYTES);

/// The evicted keys of a shard.
#[derive(Clone, Debug, Default)]
pub struct Ghosts {
    sets: Vec<[Ghost; WAYS]>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ghost([u8; GHOST_BYTES]);

/// Where the ghost of a hash is.
struct Place {
    set: usize,
    fingerprint: u32,
}

impl Ghost {
    const NONE: Self = Self([0; GHOST_BYTES]);

    fn new(fingerprint: u32, history: History) -> Self {
        let level = history.interval_level() << LEVEL_SHIFT;
        let known = history.uses() << USES_SHIFT | level | history.time() >> TIME_SHIFT;
        let [low, middle, high, _] = (fingerprint << FINGERPRINT_SHIFT | known).to_le_bytes();
        Self([low, middle, high])
    }

    fn bits(self) -> u32 {
        let [low, middle, high] = self.0;
        u32::from_le_bytes([low, middle, high, 0])
    }

    fn fingerprint(self) -> u32 {
        self.bits() >> FINGERPRINT_SHIFT
    }

    /// The history, as exactly as it is known.
    fn history(self) -> History {
        let bits = self.bits();
        let level = bits >> LEVEL_SHIFT & LEVEL_MASK;
        let interval = level * STEPS_PER_LEVEL + STEPS_PER_LEVEL / 2;
        // Rounded down, so that it is not in the future.
        let time = (bits & TIME_MASK) << TIME_SHIFT;
        History::of(time, interval, bits >> USES_SHIFT & (USES as u32 - 1))
    }

    fn is_sampled(self) -> bool {
        u64::from(self.fingerprint()) % SAMPLE_ONE_IN == 1
    }
}

impl Ghosts {
    /// Makes room for two ghosts for each three of `entries`: two bytes per entry. Ghosts are forgotten if that changes much.
    pub fn fit(&mut self, entries: usize) {
        let sets = (entries / ENTRIES_PER_SET).max(1);
        if sets > self.sets.len() * 5 / 4 || sets < self.sets.len() * 3 / 4 {
            self.sets = vec![[Ghost::NONE; WAYS]; sets];
        }
    }

    /// The bytes that ghosts take.
    pub fn allocated_bytes(&self) -> usize {
        self.sets.capacity() * WAYS * GHOST_BYTES
    }

    /// How many sets there are for each entry.
    pub fn sets_per_entry(&self, entries: usize) -> f32 {
        self.sets.len() as f32 / entries.max(1) as f32
    }

    /// The histories in one set, chosen by a random number. The set of an evicted key would be no fair sample: sets of many keys would be chosen more often.
    pub fn any_set(&self, random: u32) -> impl Iterator<Item = History> {
        let chosen = (u64::from(random) * self.sets.len() as u64) >> 32;
        let set = self.sets.get(chosen as usize).copied();
        let ghosts = set.unwrap_or_default().into_iter();
        let known = ghosts.filter(|ghost| *ghost != Ghost::NONE);
        known.map(Ghost::history)
    }

    /// Remembers an evicted key by its hash. One of the ghosts in its set may have to give way.
    pub fn insert(&mut self, hash: u64, history: History) {
        let Some(Place { set, fingerprint }) = self.place(hash) else {
            return;
        };
        let new = Ghost::new(fingerprint, history);
        let set = &mut self.sets[set];
        let last = |is_sampled| {
            set.iter()
                .rposition(|ghost| ghost.is_sampled() == is_sampled)
        };
        let victim = match new.is_sampled() {
            true => last(true).or(last(false)),
            false => last(false),
        };
        if let Some(victim) = victim {
            set[..=victim].rotate_right(1);
            set[0] = new;
        }
    }

    /// Takes the history of a key that comes back.
    pub fn remove(&mut self, hash: u64) -> Option<History> {
        let Place { set, fingerprint } = self.place(hash)?;
        let set = &mut self.sets[set];
        let found = set
            .iter()
            .position(|ghost| ghost.fingerprint() == fingerprint)?;
        let ghost = std::mem::take(&mut set[found]);
        set[found..].rotate_left(1);
        Some(ghost.history())
    }

    /// The set and the fingerprint of a hash, from different bits of it; `None` if there is no room for any ghost.
    fn place(&self, hash: u64) -> Option<Place> {
        // The upper bits select the shard and are the same for all its keys; a multiplication mixes the others upwards.
        let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let set = ((u128::from(mixed) * self.sets.len() as u128) >> 64) as usize;
        let fingerprint = (hash % FINGERPRINTS + 1) as u32;
        (set < self.sets.len()).then_some(Place { set, fingerprint })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Tick;

    fn hash(key: u64) -> u64 {
        let mixed = (key + 1).wrapping_mul(0xff51_afd7_ed55_8ccd);
        (mixed ^ mixed >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53)
    }

    #[test]
    fn a_key_that_comes_back_has_its_history() {
        let mut ghosts = Ghosts::default();
        assert_eq!(ghosts.remove(hash(1)), None);
        ghosts.fit(1000);
        for level in 1..INTERVALS as u32 {
            let history = History::of(1024, level * STEPS_PER_LEVEL + 1, 3);
            ghosts.insert(hash(1), history);
            let found = ghosts.remove(hash(1)).unwrap();
            assert_eq!((found.uses(), found.time()), (3, 1024));
            // Else the model would count the key in one class when it is used, and in another when it is not.
            assert_eq!(found.class(), history.class());
        }
        assert_eq!(ghosts.remove(hash(1)), None);
    }

    #[test]
    fn the_oldest_ghosts_give_way() {
        let mut ghosts = Ghosts::default();
        ghosts.fit(3000);
        for key in 0..4000 {
            ghosts.insert(hash(key), History::of((key * 4) as Tick, 0, 0));
        }
        let there = ghosts.sets.iter().flatten();
        let there = there.filter(|ghost| **ghost != Ghost::NONE).count();
        assert!((1900..=2000).contains(&there), "{there}");
        let known = |ghosts: &mut Ghosts, keys: std::ops::Range<u64>| {
            keys.filter(|key| ghosts.remove(hash(*key)).is_some())
                .count()
        };
        assert!(known(&mut ghosts, 3500..4000) > 480);
        assert!(known(&mut ghosts, 0..500) < 80);
    }

    #[test]
    fn the_sample_is_remembered_for_longer() {
        let mut ghosts = Ghosts::default();
        ghosts.fit(4000);
        for key in 0..8000 {
            ghosts.insert(hash(key), History::of(key as Tick, 0, 0));
        }
        let sampled = |key: &u64| (hash(*key) % FINGERPRINTS + 1) % SAMPLE_ONE_IN == 1;
        let (sample, others): (Vec<u64>, Vec<u64>) = (0..4000).partition(sampled);
        let mut share = |keys: &[u64]| {
            let known = keys
                .iter()
                .filter(|key| ghosts.remove(hash(**key)).is_some());
            known.count() as f32 / keys.len() as f32
        };
        assert!(share(&sample) > 0.55);
        assert!(share(&others) < 0.1);
    }

    #[test]
    fn ghosts_take_at_most_two_bytes_per_entry() {
        let mut ghosts = Ghosts::default();
        for entries in [10, 1000, 1200, 1_000_000, 400_000, 100] {
            ghosts.fit(entries);
            assert!(ghosts.allocated_bytes() <= 3 * entries + WAYS * GHOST_BYTES);
        }
        ghosts.fit(1_000_000);
        assert!(ghosts.allocated_bytes() <= 2_000_000);
    }
}
