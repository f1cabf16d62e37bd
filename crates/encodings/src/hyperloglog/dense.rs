//! Dense registers: six bits each, the lowest bits of each byte first.
//!
//! ```text
//! byte      0        1        2
//!        11000000 22221111 33333322     the number of the register that each bit belongs to, highest bit on the left
//! ```

use super::{HEADER_BYTES, Histogram, REGISTERS, Registers, VALUES};

const BITS: usize = 6;
const VALUE_MAX: u16 = (1 << BITS) - 1;
const REGISTERS_BYTES: usize = REGISTERS * BITS / 8;
/// The length of a dense HyperLogLog.
pub const BYTES: usize = HEADER_BYTES + REGISTERS_BYTES;

/// Four registers take this many bytes.
const GROUP_BYTES: usize = 3;

/// The value of a register.
pub fn register(stored: &[u8], index: usize) -> u8 {
    let (at, shift) = (index * BITS / 8, index * BITS % 8);
    let next = stored.get(at + 1).copied().unwrap_or(0);
    let pair = u16::from_le_bytes([stored[at], next]);
    (pair >> shift & VALUE_MAX) as u8
}

/// Sets a register.
pub(super) fn set(stored: &mut [u8], index: usize, value: u8) {
    let (at, shift) = (index * BITS / 8, index * BITS % 8);
    let next = stored.get(at + 1).copied().unwrap_or(0);
    let pair = u16::from_le_bytes([stored[at], next]);
    let [low, high] = (pair & !(VALUE_MAX << shift) | u16::from(value) << shift).to_le_bytes();
    stored[at] = low;
    if let Some(next) = stored.get_mut(at + 1) {
        *next = high;
    }
}

/// Raises a register to a rank; returns false if it was as high already.
pub(super) fn raise(stored: &mut [u8], index: usize, rank: u8) -> bool {
    let is_higher = rank > register(stored, index);
    if is_higher {
        set(stored, index, rank);
    }
    is_higher
}

/// The four registers in three bytes.
fn group(bytes: &[u8; GROUP_BYTES]) -> [u8; 4] {
    let [a, b, c] = *bytes;
    let word = u32::from_le_bytes([a, b, c, 0]);
    [0, 6, 12, 18].map(|shift| (word >> shift) as u8 & VALUE_MAX as u8)
}

pub(super) fn merge(registers: &mut Registers, stored: &[u8]) {
    let (groups, _) = stored.as_chunks::<GROUP_BYTES>();
    let (fours, _) = registers.as_chunks_mut::<4>();
    for (four, bytes) in fours.iter_mut().zip(groups) {
        for (register, value) in four.iter_mut().zip(group(bytes)) {
            *register = value.max(*register);
        }
    }
}

pub(super) fn write_all(stored: &mut [u8], registers: &Registers) {
    let (groups, _) = stored.as_chunks_mut::<GROUP_BYTES>();
    let (fours, _) = registers.as_chunks::<4>();
    for (bytes, [a, b, c, d]) in groups.iter_mut().zip(fours) {
        let word = u32::from(*a) | u32::from(*b) << 6 | u32::from(*c) << 12 | u32::from(*d) << 18;
        let [low, middle, high, _] = word.to_le_bytes();
        *bytes = [low, middle, high];
    }
}

pub(super) fn histogram(stored: &[u8]) -> Histogram {
    // One histogram for each register of a group, so that increments seldom wait for each other.
    let mut histograms = [[0_u32; VALUES]; 4];
    let (groups, _) = stored.as_chunks::<GROUP_BYTES>();
    for bytes in groups {
        for (histogram, value) in histograms.iter_mut().zip(group(bytes)) {
            histogram[usize::from(value)] += 1;
        }
    }
    std::array::from_fn(|value| histograms.iter().map(|histogram| histogram[value]).sum())
}
