//! Random numbers for choices that must be fair, not secret.
//!
//! Ours only because it is so short: `fastrand` has the same (a generator per thread, sequences from a seed).

use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher};

thread_local! {
    static NUMBERS: RefCell<Random> =
        RefCell::new(Random::new(ahash::RandomState::new().build_hasher().finish()));
}

/// A sequence of random numbers: `SplitMix64` (Steele, Lea, Flood 2014), which has no bad seeds.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The sequence that starts from a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A sequence for a test, from the seed in the environment variable `SEED`, or else from a random seed. Prints the
    /// seed.
    pub fn for_test() -> Self {
        let seed = std::env::var("SEED").ok();
        let seed = seed
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_else(number);
        println!("SEED={seed}");
        Self(seed)
    }

    /// A uniform 64-bit number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which must not be zero.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end as u64) as usize
    }
}

/// A uniform 64-bit number from the thread's own sequence, which the operating system seeds.
pub fn number() -> u64 {
    NUMBERS.with_borrow_mut(Random::number)
}
