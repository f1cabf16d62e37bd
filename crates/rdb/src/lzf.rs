//! LZF: the compression of strings in RDB files.
//!
//! ```text
//! 000lllll                                  l + 1 literal bytes follow
//! lllooooo oooooooo                         copy l + 2 bytes from o + 1 bytes back; l from 1 to 6
//! 111ooooo llllllll oooooooo                copy l + 9 bytes
//! ```
//!
//! Offsets are of 13 bits, the upper five first. A copy may overlap what it writes.

/// The longest run of literal bytes.
const LITERALS_MAX: usize = 32;
/// The longest distance of a copy from its source.
const OFFSET_MAX: usize = 1 << 13;
/// The longest copy.
const COPY_MAX: usize = 264;
/// The shortest copy that saves space.
const COPY_MIN: usize = 3;
/// The most bytes that one byte of compressed data can stand for: a copy of 264 bytes takes three.
const EXPANSION_MAX: usize = COPY_MAX / 3;

const TABLE_BITS: u32 = 13;
/// After this many misses (as a power of two), the search skips one more byte per miss.
const MISSES_PER_STEP: u32 = 5;

/// Expands `input` to exactly `len` bytes, appended to `output`. False if that fails.
///
/// The length of `input` bounds the growth of `output`, whatever `len` says.
pub(crate) fn decompress(mut input: &[u8], len: usize, output: &mut Vec<u8>) -> bool {
    if len > input.len().saturating_mul(EXPANSION_MAX) {
        return false;
    }
    let start = output.len();
    output.reserve(len);
    while let Some((&control, rest)) = input.split_first() {
        let control = usize::from(control);
        input = rest;
        if control < LITERALS_MAX {
            let Some((literals, rest)) = input.split_at_checked(control + 1) else {
                return false;
            };
            if output.len() - start + literals.len() > len {
                return false;
            }
            output.extend_from_slice(literals);
            input = rest;
            continue;
        }
        let mut count = (control >> 5) + 2;
        if control >> 5 == 7 {
            let Some((&more, rest)) = input.split_first() else {
                return false;
            };
            count += usize::from(more);
            input = rest;
        }
        let Some((&low, rest)) = input.split_first() else {
            return false;
        };
        input = rest;
        let offset = ((control & 0x1f) << 8 | usize::from(low)) + 1;
        let written = output.len() - start;
        if offset > written || written + count > len {
            return false;
        }
        let mut from = output.len() - offset;
        let mut left = count;
        while left > 0 {
            // The source may include bytes that this copy has just written.
            let piece = left.min(output.len() - from);
            output.extend_from_within(from..from + piece);
            from += piece;
            left -= piece;
        }
    }
    output.len() - start == len
}

/// A compressor that can stop after some bytes and resume later, so that a long string delays no client.
pub(crate) struct Compressor {
    /// Maps the hash of three bytes to the position of their last occurrence, counted over all inputs.
    table: Box<[u32; 1 << TABLE_BITS]>,
    /// The position of the current input's first byte in that count.
    base: u32,
    position: usize,
    /// Start of the bytes that no copy covers yet.
    literals: usize,
    misses: u32,
    output: Vec<u8>,
}

impl Compressor {
    /// The memory that it takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of_val(&*self.table) + self.output.capacity()
    }

    pub(crate) fn new() -> Self {
        Self {
            table: Box::new([0; 1 << TABLE_BITS]),
            // Below it no position is valid, so that an empty table holds none.
            base: 1,
            position: 0,
            literals: 0,
            misses: 0,
            output: Vec::new(),
        }
    }

    /// Compresses all of `input`. `None` if it does not get shorter than `len_max`.
    pub(crate) fn compress(&mut self, input: &[u8], len_max: usize) -> Option<&[u8]> {
        self.begin(input.len());
        self.advance(input, input.len(), len_max);
        (self.output.len() < len_max).then_some(&self.output[..])
    }

    /// Prepares for an input of `len` bytes.
    pub(crate) fn begin(&mut self, len: usize) {
        let next = u64::from(self.base) + self.position as u64;
        if next + len as u64 > u64::from(u32::MAX) {
            self.table.fill(0);
            self.base = 1;
        } else {
            self.base = next as u32;
        }
        (self.position, self.literals, self.misses) = (0, 0, 0);
        self.output.clear();
    }

    /// The output so far.
    pub(crate) fn output(&self) -> &[u8] {
        &self.output
    }

    /// Compresses the input up to about `until`, and returns whether all of it is done. Stops if the output gets longer than
    /// `len_max`, too.
    pub(crate) fn advance(&mut self, input: &[u8], until: usize, len_max: usize) -> bool {
        let last = input.len().saturating_sub(COPY_MIN);
        while self.position < last && self.position < until {
            if self.output.len() >= len_max {
                return true;
            }
            let at = self.position;
            let slot = slot(input, at);
            let seen = std::mem::replace(&mut self.table[slot], self.base + at as u32);
            let from = seen.checked_sub(self.base).map(|from| from as usize);
            let is_near = |from: &usize| at - *from <= OFFSET_MAX;
            let same = |from: &usize| input[*from..*from + COPY_MIN] == input[at..at + COPY_MIN];
            let Some(from) = from.filter(is_near).filter(same) else {
                self.misses += 1;
                self.position += 1 + (self.misses >> MISSES_PER_STEP) as usize;
                continue;
            };
            self.copy(input, from, at);
        }
        if self.position < last {
            return false;
        }
        self.position = input.len();
        self.put_literals(input, input.len());
        true
    }

    fn copy(&mut self, input: &[u8], from: usize, at: usize) {
        let len = equal_bytes(&input[from..], &input[at..], COPY_MIN).min(COPY_MAX);
        self.put_literals(input, at);
        let (offset, code) = (at - from - 1, len - 2);
        let high = (offset >> 8) as u8;
        if code < 7 {
            self.output.push((code as u8) << 5 | high);
        } else {
            self.output
                .extend_from_slice(&[7 << 5 | high, (code - 7) as u8]);
        }
        self.output.push(offset as u8);
        self.misses = 0;
        self.position = at + len;
        self.literals = self.position;
        // The end of a copy is often the beginning of the next.
        let before = self.position - 1;
        if before + COPY_MIN <= input.len() {
            self.table[slot(input, before)] = self.base + before as u32;
        }
    }

    fn put_literals(&mut self, input: &[u8], end: usize) {
        for run in input[self.literals..end].chunks(LITERALS_MAX) {
            self.output.push(run.len() as u8 - 1);
            self.output.extend_from_slice(run);
        }
        self.literals = end;
    }
}

/// How many bytes `one` and the shorter `other` have in common, given that it is at least `least`.
fn equal_bytes(one: &[u8], other: &[u8], least: usize) -> usize {
    let one = &one[..other.len()];
    let mut len = least;
    while let (Some(a), Some(b)) = (
        one[len..].first_chunk::<8>(),
        other[len..].first_chunk::<8>(),
    ) {
        let difference = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if difference != 0 {
            return len + (difference.trailing_zeros() / 8) as usize;
        }
        len += 8;
        if len >= COPY_MAX {
            return len;
        }
    }
    let is_equal = |(a, b): &(&u8, &u8)| a == b;
    len + one[len..]
        .iter()
        .zip(&other[len..])
        .take_while(is_equal)
        .count()
}

fn slot(input: &[u8], at: usize) -> usize {
    let word = u32::from_le_bytes([input[at], input[at + 1], input[at + 2], 0]);
    (word.wrapping_mul(0x9e37_79b1) >> (32 - TABLE_BITS)) as usize
}

#[cfg(test)]
mod tests {
    use damselfly_base::random::Random;

    use super::*;

    fn round_trip(compressor: &mut Compressor, input: &[u8], step: usize) -> usize {
        compressor.begin(input.len());
        let mut until = 0;
        while !compressor.advance(input, until, usize::MAX) {
            until += step;
        }
        let compressed = compressor.output().to_vec();
        let mut output = b"before".to_vec();
        assert!(decompress(&compressed, input.len(), &mut output));
        assert_eq!(&output[6..], input);
        compressed.len()
    }

    #[test]
    fn what_was_compressed_expands_to_the_same() {
        let (mut random, mut compressor) = (Random::for_test(), Compressor::new());
        for round in 0..2000 {
            let len_max = 1 << random.below(if round % 50 == 0 { 18 } else { 12 });
            let alphabet = 1 + random.below(256);
            let mut input: Vec<u8> = Vec::new();
            let len = random.below(len_max + 1);
            while input.len() < len {
                if random.below(3) == 0 && !input.is_empty() {
                    let from = random.below(input.len());
                    let end = (from + random.below(600)).min(input.len());
                    input.extend_from_within(from..end);
                } else {
                    input.push(random.below(alphabet) as u8);
                }
            }
            let step = 1 + random.below(len_max);
            round_trip(&mut compressor, &input, step);
        }
    }

    #[test]
    fn repetitions_get_short() {
        let mut compressor = Compressor::new();
        assert!(round_trip(&mut compressor, &[b'x'; 100_000], 1000) < 1300);
        let text = b"a field and its value, ".repeat(1000);
        assert!(round_trip(&mut compressor, &text, 1 << 20) < text.len() / 50);
        assert_eq!(compressor.compress(b"abcdefghijklmnopqrstuvwxyz", 26), None);
    }

    #[test]
    fn positions_of_earlier_inputs_are_not_used_after_the_count_wraps() {
        let mut compressor = Compressor::new();
        compressor.base = u32::MAX - 100;
        for _ in 0..10 {
            round_trip(&mut compressor, b"abcabcabcabcabcabcabcabcabcabc", 5);
        }
    }

    #[test]
    fn broken_input_is_refused() {
        let mut random = Random::for_test();
        for (input, len) in [
            (&b""[..], 1),
            (b"\x00", 1),
            (b"\x05abc", 6),
            (b"\x00a", 2),
            (b"\x00a\x20\x00", 3),
            (b"\x00a\x20\x01", 4),
            (b"\x00a\xe0\x01", 11),
            (b"\x00a\xe0", 11),
            (b"\x01ab", 1),
            (b"\x00a", usize::MAX),
        ] {
            assert!(!decompress(input, len, &mut Vec::new()), "{input:?}");
        }
        for _ in 0..10_000 {
            let input: Vec<u8> = (0..random.below(40))
                .map(|_| random.number() as u8)
                .collect();
            let len = random.below(500);
            let mut output = Vec::new();
            if decompress(&input, len, &mut output) {
                assert_eq!(output.len(), len);
            }
            assert!(output.len() <= len);
        }
    }
}
