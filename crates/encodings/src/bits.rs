//! Bitmaps: the bits of a byte string, numbered from the highest bit of its first byte.
//!
//! Long bitmaps are counted with carry-save adders (Harley and Seal; see Muła, Kurz, Lemire, "Faster Population Counts Using AVX2
//! Instructions", 2016), on two words at a time, which is one register of every x86-64 processor.

use std::ops::Range;

const WORD_BYTES: usize = 8;

/// The bit at an index; bits past the end are zero.
pub fn bit(bytes: &[u8], index: u64) -> bool {
    let byte = usize::try_from(index / 8).ok().and_then(|at| bytes.get(at));
    byte.is_some_and(|byte| byte & mask_of(index) != 0)
}

/// Sets or clears a bit and returns what it was.
///
/// # Panics
/// If the bitmap does not reach that far.
pub fn set_bit(bytes: &mut [u8], index: u64, value: bool) -> bool {
    let byte = &mut bytes[(index / 8) as usize];
    let (mask, old) = (mask_of(index), *byte);
    *byte = if value { old | mask } else { old & !mask };
    old & mask != 0
}

fn mask_of(index: u64) -> u8 {
    0x80 >> (index % 8)
}

/// The part of a bitmap that a range of bits covers.
struct Part<'a> {
    /// The bytes that have at least one bit in the range.
    bytes: &'a [u8],
    /// The index of their first bit.
    start: u64,
    /// The bits of the first byte that are in front of the range.
    before: u8,
    /// The bits of the last byte that are behind the range.
    after: u8,
}

impl<'a> Part<'a> {
    /// The part for a range, which is cut at the end of the bitmap. `None` if no bit is left.
    fn of(bytes: &'a [u8], bits: Range<u64>) -> Option<Self> {
        let end = bits.end.min(bytes.len() as u64 * 8);
        if bits.start >= end {
            return None;
        }
        let (first, last) = ((bits.start / 8) as usize, ((end - 1) / 8) as usize);
        Some(Self {
            bytes: &bytes[first..=last],
            start: first as u64 * 8,
            before: !(0xff >> (bits.start % 8)),
            after: 0x7f >> ((end - 1) % 8),
        })
    }
}

/// The number of ones among these bits; the range may exceed the bitmap.
pub fn count_ones_in(bytes: &[u8], bits: Range<u64>) -> u64 {
    let Some(part) = Part::of(bytes, bits) else {
        return 0;
    };
    let outside = |byte: Option<&u8>, mask: u8| byte.map_or(0, |byte| (byte & mask).count_ones());
    let excess = outside(part.bytes.first(), part.before) + outside(part.bytes.last(), part.after);
    count_ones(part.bytes) - u64::from(excess)
}

/// The number of ones.
pub fn count_ones(bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<BLOCK_BYTES>();
    let in_blocks = if blocks.is_empty() {
        0
    } else {
        count_blocks(blocks)
    };
    let (words, rest) = rest.as_chunks::<WORD_BYTES>();
    let in_words = words
        .iter()
        .map(|word| u64::from_ne_bytes(*word).count_ones());
    let in_bytes = rest.iter().map(|byte| byte.count_ones());
    in_blocks + u64::from(in_words.chain(in_bytes).sum::<u32>())
}

/// Words that one vector instruction handles.
const LANES: usize = 2;
type Lanes = [u64; LANES];
const LANES_BYTES: usize = LANES * WORD_BYTES;
/// The number of [`Lanes`] that one round of adders takes in.
const ROUND: usize = 16;
const BLOCK_BYTES: usize = ROUND * LANES_BYTES;

fn each(lanes: Lanes, other: Lanes, combine: impl Fn(u64, u64) -> u64) -> Lanes {
    std::array::from_fn(|lane| combine(lanes[lane], other[lane]))
}

/// Adds two bits to `sum` at every position, and returns the carries.
#[inline(always)]
fn add(sum: &mut Lanes, a: Lanes, b: Lanes) -> Lanes {
    let odd = each(*sum, a, |sum, a| sum ^ a);
    let carry = each(*sum, a, |sum, a| sum & a);
    *sum = each(odd, b, |odd, b| odd ^ b);
    each(carry, each(odd, b, |odd, b| odd & b), |x, y| x | y)
}

fn count_blocks(blocks: &[[u8; BLOCK_BYTES]]) -> u64 {
    let [mut ones, mut twos, mut fours, mut eights] = [[0; LANES]; 4];
    let mut sixteens = 0;
    for block in blocks {
        let (lanes, _) = block.as_chunks::<LANES_BYTES>();
        let load = |at: usize| {
            let (words, _) = lanes[at].as_chunks::<WORD_BYTES>();
            std::array::from_fn::<_, LANES, _>(|lane| u64::from_ne_bytes(words[lane]))
        };
        let mut carries = [[0; LANES]; 2];
        for (half, carry) in carries.iter_mut().enumerate() {
            let mut quarters = [[0; LANES]; 2];
            for (quarter, carry) in quarters.iter_mut().enumerate() {
                let at = half * 8 + quarter * 4;
                let low = add(&mut ones, load(at), load(at + 1));
                let high = add(&mut ones, load(at + 2), load(at + 3));
                *carry = add(&mut twos, low, high);
            }
            *carry = add(&mut fours, quarters[0], quarters[1]);
        }
        let carry = add(&mut eights, carries[0], carries[1]);
        sixteens += ones_of(carry);
    }
    16 * sixteens + 8 * ones_of(eights) + 4 * ones_of(fours) + 2 * ones_of(twos) + ones_of(ones)
}

fn ones_of(lanes: Lanes) -> u64 {
    lanes.iter().map(|lane| u64::from(lane.count_ones())).sum()
}

/// The index of the first bit in a range that equals `wanted`; the range may exceed the bitmap.
pub fn position(bytes: &[u8], wanted: bool, bits: Range<u64>) -> Option<u64> {
    let part = Part::of(bytes, bits)?;
    // The bits outside the range are made to differ from the wanted one.
    let hide = |byte: u8, mask: u8| if wanted { byte & !mask } else { byte | mask };
    let (&first, rest) = part.bytes.split_first()?;
    let Some((&last, middle)) = rest.split_last() else {
        let only = hide(first, part.before | part.after);
        return position_in(&[only], wanted).map(|at| part.start + at);
    };
    let behind_first = part.start + 8;
    position_in(&[hide(first, part.before)], wanted)
        .map(|at| part.start + at)
        .or_else(|| position_in(middle, wanted).map(|at| behind_first + at))
        .or_else(|| {
            let at = position_in(&[hide(last, part.after)], wanted)?;
            Some(behind_first + middle.len() as u64 * 8 + at)
        })
}

/// The index of the first bit that equals `wanted`.
fn position_in(bytes: &[u8], wanted: bool) -> Option<u64> {
    /// As many bytes are checked without a branch.
    const CHUNK: usize = 64;
    let skipped = if wanted { 0 } else { 0xff };
    let (chunks, _) = bytes.as_chunks::<CHUNK>();
    let found = |chunk: &[u8; CHUNK]| chunk.iter().fold(0, |any, byte| any | (byte ^ skipped)) != 0;
    let start = match chunks.iter().position(found) {
        Some(chunk) => chunk * CHUNK,
        None => chunks.len() * CHUNK,
    };
    let at = start + bytes[start..].iter().position(|&byte| byte != skipped)?;
    let bit = (bytes[at] ^ skipped).leading_zeros();
    Some(at as u64 * 8 + u64::from(bit))
}

#[cfg(test)]
mod tests {
    use damselfly_base::random::Random;

    use super::*;

    fn sample(random: &mut Random, len: usize) -> Vec<u8> {
        // Long runs of equal bits, too, so that searches go far.
        let byte = |random: &mut Random| match random.below(3) {
            0 => random.number() as u8,
            _ => 0,
        };
        let flip = if random.below(2) == 0 { 0 } else { 0xff };
        match random.below(3) {
            0 => vec![flip; len],
            _ => (0..len).map(|_| byte(random) ^ flip).collect(),
        }
    }

    #[test]
    fn counts_and_positions_agree_with_a_look_at_every_bit() {
        let mut random = Random::for_test();
        for _ in 0..600 {
            let len = random.below(1200);
            let bytes = sample(&mut random, len);
            let bits: Vec<bool> = (0..bytes.len() as u64 * 8)
                .map(|index| bit(&bytes, index))
                .collect();
            let ones = bits.iter().filter(|&&bit| bit).count() as u64;
            assert_eq!(count_ones(&bytes), ones);
            for _ in 0..20 {
                let start = random.below(bits.len() + 20);
                let end = random.below(bits.len() + 20);
                let range = start as u64..end as u64;
                let part = bits.get(start..end.min(bits.len())).unwrap_or_default();
                let ones = part.iter().filter(|&&bit| bit).count() as u64;
                assert_eq!(count_ones_in(&bytes, range.clone()), ones, "{range:?}");
                for wanted in [false, true] {
                    let found = part.iter().position(|&bit| bit == wanted);
                    let found = found.map(|at| (start + at) as u64);
                    assert_eq!(position(&bytes, wanted, range.clone()), found, "{range:?}");
                }
            }
        }
    }

    #[test]
    fn bits_count_from_the_highest_of_the_first_byte() {
        let mut bytes = [0, 0b0100_0001];
        assert!(bit(&bytes, 9) && bit(&bytes, 15) && !bit(&bytes, 8));
        assert!(!bit(&bytes, 16) && !bit(&bytes, u64::MAX));
        assert!(set_bit(&mut bytes, 9, false));
        assert!(!set_bit(&mut bytes, 0, true));
        assert_eq!(bytes, [0x80, 1]);
    }
}
