//! Compares collections with plain models. Bytes decide each step: random ones in the tests, a fuzzer's in `fuzz/`.

pub mod chain;
pub mod listpack;
pub mod stream;

/// Turns bytes into decisions; reads zeros once the bytes are used up.
#[derive(Debug)]
pub struct Source<'a>(pub &'a [u8]);

impl Source<'_> {
    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let (&first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        first
    }

    /// A number below `limit`, which must be at least 1.
    pub fn below(&mut self, limit: usize) -> usize {
        let number = u32::from_le_bytes([self.byte(), self.byte(), self.byte(), 0]);
        number as usize % limit
    }

    /// A text: a number of any width, one of a few short words, or bytes of a length around a boundary.
    pub fn text(&mut self) -> Vec<u8> {
        const LENGTHS: [usize; 12] = [0, 1, 5, 16, 62, 63, 64, 126, 127, 4095, 4096, 16_379];
        match self.byte() % 8 {
            0..3 => {
                let mut bytes = [0; 8];
                bytes.fill_with(|| self.byte());
                let number = i64::from_le_bytes(bytes) >> (self.byte() % 64);
                number.to_string().into_bytes()
            }
            3..6 => vec![b"abcd01-"[self.below(7)]; 1 + self.below(3)],
            6 => vec![self.byte(); LENGTHS[self.below(8)]],
            _ => vec![self.byte(); LENGTHS[self.below(12)]],
        }
    }
}

/// `len` bytes that look random: `SplitMix64` from `seed`.
pub fn random_bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bytes.extend((mixed ^ (mixed >> 31)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
