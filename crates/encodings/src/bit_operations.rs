//! Bitwise operations on several bitmaps (BITOP). A bitmap that is shorter than the longest one ends with zeros.

/// An operation. X is the first bitmap, Y are the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Bits that all bitmaps have.
    And,
    /// Bits that any bitmap has.
    Or,
    /// Bits that an odd number of bitmaps have.
    Xor,
    /// The bits that the only bitmap does not have.
    Not,
    /// Bits of X that no Y has.
    Diff,
    /// Bits of any Y that X does not have.
    Diff1,
    /// Bits of X that any Y has, too.
    AndOr,
    /// Bits that exactly one bitmap has.
    One,
}

/// So many bytes of the result are computed at a time: they stay in the processor's first cache while all sources are combined.
const BLOCK_BYTES: usize = 4096;

/// Writes the result for these bitmaps to `out`, which must be as long as the longest of them.
pub fn combine(operation: Operation, sources: &[&[u8]], out: &mut [u8]) {
    let Some((x, others)) = sources.split_first() else {
        return;
    };
    for (index, out) in out.chunks_mut(BLOCK_BYTES).enumerate() {
        let start = index * BLOCK_BYTES;
        let len = out.len();
        let ys = others.iter().map(|y| part(y, start, len));
        combine_block(operation, part(x, start, len), ys, out);
    }
}

/// The bytes of a block; fewer if the bitmap ends before the block does.
fn part(source: &[u8], start: usize, len: usize) -> &[u8] {
    let rest = source.get(start..).unwrap_or_default();
    &rest[..rest.len().min(len)]
}

fn combine_block<'a>(
    operation: Operation,
    x: &[u8],
    mut ys: impl Iterator<Item = &'a [u8]>,
    out: &mut [u8],
) {
    match operation {
        Operation::And => {
            copy(x, out);
            ys.for_each(|y| and(y, out));
        }
        Operation::Or => {
            copy(x, out);
            ys.for_each(|y| or(y, out));
        }
        Operation::Xor => {
            copy(x, out);
            ys.for_each(|y| each(out, y, |out, y| *out ^= y));
        }
        Operation::Not => {
            copy(x, out);
            out.iter_mut().for_each(|out| *out = !*out);
        }
        Operation::Diff => {
            copy(x, out);
            ys.for_each(|y| without(y, out));
        }
        Operation::Diff1 => {
            copy(ys.next().unwrap_or_default(), out);
            ys.for_each(|y| or(y, out));
            without(x, out);
        }
        Operation::AndOr => {
            copy(ys.next().unwrap_or_default(), out);
            ys.for_each(|y| or(y, out));
            and(x, out);
        }
        Operation::One => {
            copy(x, out);
            let mut repeated = [0; BLOCK_BYTES];
            let repeated = &mut repeated[..out.len()];
            for y in ys {
                let seen = out.iter_mut().zip(&mut *repeated);
                for ((seen, repeated), y) in seen.zip(y) {
                    *repeated |= *seen & y;
                    *seen |= y;
                }
            }
            without(repeated, out);
        }
    }
}

fn copy(source: &[u8], out: &mut [u8]) {
    let (covered, rest) = out.split_at_mut(source.len());
    covered.copy_from_slice(source);
    rest.fill(0);
}

fn each(out: &mut [u8], source: &[u8], change: impl Fn(&mut u8, u8)) {
    for (out, &byte) in out.iter_mut().zip(source) {
        change(out, byte);
    }
}

fn and(source: &[u8], out: &mut [u8]) {
    let (covered, rest) = out.split_at_mut(source.len());
    each(covered, source, |out, byte| *out &= byte);
    rest.fill(0);
}

fn or(source: &[u8], out: &mut [u8]) {
    each(out, source, |out, byte| *out |= byte);
}

fn without(source: &[u8], out: &mut [u8]) {
    each(out, source, |out, byte| *out &= !byte);
}

#[cfg(test)]
mod tests {
    use damselfly_base::random::Random;

    use super::*;

    /// The result byte for the bytes of all sources at one place.
    fn expected(operation: Operation, bytes: &[u8]) -> u8 {
        let bit = |shift: u32| {
            let has = |byte: &u8| byte >> shift & 1 == 1;
            let (x, ys) = (has(&bytes[0]), &bytes[1..]);
            let count = bytes.iter().filter(|byte| has(byte)).count();
            let result = match operation {
                Operation::And => count == bytes.len(),
                Operation::Or => count > 0,
                Operation::Xor => count % 2 == 1,
                Operation::Not => !x,
                Operation::Diff => x && !ys.iter().any(has),
                Operation::Diff1 => !x && ys.iter().any(has),
                Operation::AndOr => x && ys.iter().any(has),
                Operation::One => count == 1,
            };
            u8::from(result) << shift
        };
        (0..8).map(bit).sum()
    }

    #[test]
    fn every_operation_agrees_with_a_look_at_every_bit() {
        let mut random = Random::for_test();
        let operations = [
            Operation::And,
            Operation::Or,
            Operation::Xor,
            Operation::Not,
            Operation::Diff,
            Operation::Diff1,
            Operation::AndOr,
            Operation::One,
        ];
        for round in 0..400 {
            let operation = operations[round % operations.len()];
            let count = match operation {
                Operation::Not => 1,
                Operation::Diff | Operation::Diff1 | Operation::AndOr => 2 + random.below(4),
                _ => 1 + random.below(5),
            };
            let len_max = [40, BLOCK_BYTES + 40, 2 * BLOCK_BYTES + 40][random.below(3)];
            let sources: Vec<Vec<u8>> = (0..count)
                .map(|_| {
                    let len = random.below(len_max);
                    (0..len).map(|_| random.number() as u8).collect()
                })
                .collect();
            let len = sources.iter().map(Vec::len).max().unwrap_or(0);
            let mut out = vec![0xaa; len];
            let slices: Vec<&[u8]> = sources.iter().map(Vec::as_slice).collect();
            combine(operation, &slices, &mut out);
            for (at, &byte) in out.iter().enumerate() {
                let bytes: Vec<u8> = sources
                    .iter()
                    .map(|source| source.get(at).copied().unwrap_or(0))
                    .collect();
                assert_eq!(byte, expected(operation, &bytes), "{operation:?} at {at}");
            }
        }
    }
}
