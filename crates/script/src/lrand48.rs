//! The generator behind `math.random`: POSIX's `lrand48`. As in Redis, every interpreter starts with the same seed.
//!
//! X ← (0x5DEECE66D · X + 0xB) mod 2^48; the result is the upper 31 bits of X.

const MULTIPLIER: u64 = 0x5_DEEC_E66D;
const INCREMENT: u64 = 0xB;
const MASK: u64 = (1 << 48) - 1;
/// The lowest 16 bits of X after seeding.
const SEED_LOW: u64 = 0x330E;

/// A generator of 31-bit numbers.
#[derive(Debug)]
pub(crate) struct Lrand48(u64);

impl Lrand48 {
    /// The state of a new interpreter.
    pub const START: Lrand48 = Lrand48(0x1234_ABCD_330E);

    pub fn new(seed: u32) -> Lrand48 {
        Lrand48(u64::from(seed) << 16 | SEED_LOW)
    }

    /// The next number below 2^31.
    pub fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(MULTIPLIER).wrapping_add(INCREMENT) & MASK;
        (self.0 >> 17) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_equal_those_of_posix() {
        let mut random = Lrand48::new(0);
        assert_eq!(
            [random.next(), random.next(), random.next()],
            [366_850_414, 1_610_402_240, 206_956_554]
        );
    }
}
