//! Random numbers for tests, from a seed (SplitMix64).

/// A source of random numbers.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }

    /// Up to `len_max` bytes; half of them have a meaning to a parser.
    pub fn bytes(&mut self, len_max: usize) -> Vec<u8> {
        let len = self.below(len_max + 1);
        (0..len)
            .map(|_| match self.below(2) {
                0 => self.pick(b"*$+-:_,#(=!~>%|\r\n 0123456789\"'\\x\0ft"),
                _ => self.next() as u8,
            })
            .collect()
    }

    /// Changes a few places of `data`.
    pub fn mutate(&mut self, data: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            if data.is_empty() {
                return;
            }
            let at = self.below(data.len());
            let end = (at + self.below(8)).min(data.len());
            match self.below(5) {
                0 => data[at] = self.next() as u8,
                1 => data[at] = self.pick(b"*$\r\n -0123456789\"'\\\0"),
                2 => drop(data.drain(at..end)),
                3 => drop(data.splice(at..at, self.bytes(4))),
                _ => data.extend_from_within(at..end),
            }
        }
    }
}

/// Runs `test` with many seeds; prints the seed of a failure.
pub fn with_seeds(count: u64, test: impl Fn(&mut Random) + std::panic::RefUnwindSafe) {
    for seed in 0..count {
        let result = std::panic::catch_unwind(|| test(&mut Random(seed)));
        if let Err(panic) = result {
            eprintln!("the seed was {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}
