//! The choice of a victim among neighbours: the first whose rank is low enough.
//!
//! The lowest of a fixed number of candidates is a good victim on average, but now and then all candidates are good entries. So the
//! candidates are compared with a threshold instead, which is such that one in [`CANDIDATES`] is below it. With the same number of ranks computed, victims are
//! as bad as the lowest of twice as many.

/// How many candidates are looked at for each victim, on average.
pub const CANDIDATES: usize = 16;

/// The most candidates for one victim; the lowest of these is taken.
pub const CANDIDATES_MAX: usize = 4 * CANDIDATES;

/// How far one candidate moves the threshold: its logarithm grows by this.
const STEP: f32 = 0.01;

/// At first, the threshold is too low, so that victims are the lowest of many until it has risen.
const FIRST_LOGARITHM: f32 = -12.0;

/// The rank below which entries are evicted, adjusted with each candidate.
#[derive(Clone, Copy, Debug)]
pub struct Threshold {
    logarithm: f32,
    value: f32,
}

impl Default for Threshold {
    fn default() -> Self {
        Self {
            logarithm: FIRST_LOGARITHM,
            value: FIRST_LOGARITHM.exp(),
        }
    }
}

impl Threshold {
    /// True if an entry of this rank is to be evicted.
    #[inline]
    pub fn accepts(&mut self, rank: f32) -> bool {
        let accepts = rank <= self.value;
        if !accepts {
            self.logarithm += STEP;
            self.value *= 1.0 + STEP;
        }
        accepts
    }

    /// Notes a victim, which was accepted or the lowest of [`CANDIDATES_MAX`].
    #[inline]
    pub fn note_victim(&mut self) {
        self.logarithm -= STEP * (CANDIDATES - 1) as f32;
        // Also corrects the rounding of `accepts`.
        self.value = self.logarithm.exp();
    }
}

/// The search for one victim. Its candidates come in groups, such as the entries of a bucket.
#[derive(Clone, Copy, Debug, Default)]
pub struct Search {
    /// The rank of the best victim so far, and a random number, so that of equal entries each has the same chance.
    lowest: Option<(f32, u64)>,
    seen: usize,
    accepts: bool,
}

impl Search {
    /// Considers a candidate. True if it is the best victim so far.
    #[inline]
    pub fn consider(&mut self, threshold: &mut Threshold, rank: f32, random: u64) -> bool {
        self.seen += 1;
        self.accepts |= threshold.accepts(rank);
        let is_lowest = self.lowest.is_none_or(|lowest| (rank, random) < lowest);
        if is_lowest {
            self.lowest = Some((rank, random));
        }
        is_lowest
    }

    /// How many candidates were considered.
    pub(crate) fn seen(&self) -> usize {
        self.seen
    }

    /// True if the best victim so far should be evicted without looking at another group.
    pub fn is_over(&self) -> bool {
        self.accepts || self.seen >= CANDIDATES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_sixteen_is_accepted_whatever_the_scale() {
        for scale in [1e-9, 1.0, 1e6] {
            let mut threshold = Threshold::default();
            let (mut candidates, mut victims, mut worst) = (0, 0, 0.0_f32);
            for victim in 0..20_000 {
                let mut seen = 0;
                loop {
                    seen += 1;
                    candidates += usize::from(victim >= 10_000);
                    // A low-discrepancy sequence.
                    let position = f64::from(victim * 64 + seen as i32) * 0.618_034;
                    let rank = position.fract() as f32 * scale;
                    if threshold.accepts(rank) || seen == CANDIDATES_MAX {
                        if victim >= 10_000 {
                            victims += 1;
                            worst = worst.max(rank / scale);
                        }
                        break;
                    }
                }
                threshold.note_victim();
            }
            let per_victim = candidates as f32 / victims as f32;
            assert!((14.0..18.0).contains(&per_victim), "{scale}: {per_victim}");
            assert!(worst < 0.2, "{scale}: {worst}");
        }
    }
}
