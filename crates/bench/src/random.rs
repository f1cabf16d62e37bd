//! Random numbers and the two distributions from which keys are drawn.
//!
//! Speed matters more than quality: a load generator draws one number per request, and every nanosecond it spends is
//! taken from the measured server.

/// A SplitMix64 generator (Steele, Lea, Flood 2014): one addition and two multiplications per number.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator that always yields the same numbers for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0..limit`; 0 when `limit` is 0. Biased by less than `limit` / 2^64.
    pub fn below(&mut self, limit: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(limit)) >> 64) as u64
    }

    /// A number in `0.0..1.0`.
    pub fn fraction(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Zipf's law over the ranks `0..count`: the probability of rank `r` is proportional to `1 / (r + 1)^theta`.
///
/// Rejection-inversion after Hörmann and Derflinger, "Rejection-inversion to generate variates from monotone
/// discrete distributions", ACM TOMACS 6(3), 1996: constant time per draw, no table, any `theta` above zero.
#[derive(Debug, Clone)]
pub struct Zipf {
    count: f64,
    theta: f64,
    area_first: f64,
    area_last: f64,
    shortcut: f64,
}

impl Zipf {
    /// A distribution over `count` ranks, at least one, with exponent `theta` above zero.
    pub fn new(count: u64, theta: f64) -> Self {
        let mut zipf = Self {
            count: count as f64,
            theta,
            area_first: 0.0,
            area_last: 0.0,
            shortcut: 0.0,
        };
        zipf.area_first = zipf.area(1.5) - 1.0;
        zipf.area_last = zipf.area(zipf.count + 0.5);
        zipf.shortcut = 2.0 - zipf.area_inverse(zipf.area(2.5) - zipf.height(2.0));
        zipf
    }

    /// Draws a rank; 0 is the most frequent.
    pub fn rank(&self, random: &mut Random) -> u64 {
        loop {
            let area = self.area_last + random.fraction() * (self.area_first - self.area_last);
            let x = self.area_inverse(area);
            let rank = x.round().clamp(1.0, self.count);
            if rank - x <= self.shortcut || area >= self.area(rank + 0.5) - self.height(rank) {
                return rank as u64 - 1;
            }
        }
    }

    fn height(&self, x: f64) -> f64 {
        x.powf(-self.theta)
    }

    /// The integral of `height` from 1 to `x`.
    fn area(&self, x: f64) -> f64 {
        let power = 1.0 - self.theta;
        if power.abs() < 1e-9 {
            x.ln()
        } else {
            (x.powf(power) - 1.0) / power
        }
    }

    fn area_inverse(&self, area: f64) -> f64 {
        let power = 1.0 - self.theta;
        if power.abs() < 1e-9 {
            area.exp()
        } else {
            (1.0 + power * area).max(0.0).powf(1.0 / power)
        }
    }
}

/// Where the numbers of the keys come from.
#[derive(Debug, Clone)]
pub struct Keys {
    count: u64,
    random: Random,
    order: Order,
}

#[derive(Debug, Clone)]
enum Order {
    Uniform,
    Zipf(Zipf),
    Rising { next: u64 },
}

/// A prime above any sensible number of keys: multiplying by it modulo the count scatters the frequent ranks over the
/// whole range, and no two ranks share a key unless the count is a multiple of it.
const SCATTER: u64 = 2_654_435_761;

impl Keys {
    /// Every one of `count` keys equally often.
    pub fn uniform(count: u64, random: Random) -> Self {
        Self {
            count,
            random,
            order: Order::Uniform,
        }
    }

    /// Few keys often and many rarely, by [`Zipf`]; the frequent ones are scattered.
    pub fn zipf(count: u64, theta: f64, random: Random) -> Self {
        Self {
            count,
            random,
            order: Order::Zipf(Zipf::new(count, theta)),
        }
    }

    /// `first`, `first + 1`, ... each once; wraps to zero at `count`.
    pub fn rising(count: u64, first: u64) -> Self {
        Self {
            count,
            random: Random::new(0),
            order: Order::Rising { next: first },
        }
    }

    /// The number of the next key, in `0..count`.
    pub fn number(&mut self) -> u64 {
        match &mut self.order {
            Order::Uniform => self.random.below(self.count),
            Order::Zipf(zipf) => {
                let rank = zipf.rank(&mut self.random);
                (u128::from(rank) * u128::from(SCATTER) % u128::from(self.count)) as u64
            }
            Order::Rising { next } => {
                let number = *next;
                *next = if number + 1 == self.count {
                    0
                } else {
                    number + 1
                };
                number
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 7;

    #[test]
    fn zipf_ranks_occur_as_often_as_the_law_says() {
        for theta in [0.5, 0.99, 1.0, 1.3] {
            let count = 1000;
            let zipf = Zipf::new(count, theta);
            let mut random = Random::new(SEED);
            let draws = 400_000;
            let mut seen = vec![0u32; count as usize];
            for _ in 0..draws {
                seen[zipf.rank(&mut random) as usize] += 1;
            }
            let total: f64 = (1..=count).map(|rank| (rank as f64).powf(-theta)).sum();
            for rank in [0, 1, 2, 10, 100] {
                let expected = f64::from(draws) * (rank as f64 + 1.0).powf(-theta) / total;
                let difference = (f64::from(seen[rank]) - expected).abs();
                assert!(
                    difference < 5.0 * expected.sqrt() + 1.0,
                    "theta {theta} rank {rank}: {} instead of {expected}, seed {SEED}",
                    seen[rank]
                );
            }
        }
    }

    #[test]
    fn scattered_ranks_stay_distinct() {
        let count = 10_000u64;
        let mut keys: Vec<u64> = (0..count).map(|rank| rank * SCATTER % count).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), count as usize);
    }

    #[test]
    fn rising_keys_visit_each_once_and_wrap() {
        let mut keys = Keys::rising(3, 1);
        assert_eq!(
            [keys.number(), keys.number(), keys.number(), keys.number()],
            [1, 2, 0, 1]
        );
    }

    #[test]
    fn uniform_keys_stay_below_the_count() {
        let mut keys = Keys::uniform(10, Random::new(SEED));
        assert!((0..1000).all(|_| keys.number() < 10));
    }
}
