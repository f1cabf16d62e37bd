//! Durations and deadlines.

use super::number;
use crate::random::Random;

/// A duration that expires far from the present, so that both servers see the same keys.
pub(super) fn duration(random: &mut Random, unit: i64) -> Vec<u8> {
    match random.below(6) {
        0 => random.pick(ODD_DURATIONS).to_vec(),
        1 => number(-random.between(0, 1000)),
        _ => number(random.between(200, 1_000_000) * unit),
    }
}

pub(super) fn deadline(random: &mut Random, unit: i64) -> Vec<u8> {
    match random.below(6) {
        0 => random.pick(ODD_DURATIONS).to_vec(),
        1 => number(random.between(-10, 1_000_000) * unit),
        // From the year 2033 on. A constant, so that a seed gives the same sequence on every day.
        _ => number(random.between(2_000_000_000, 4_000_000_000) * unit),
    }
}

/// Like [`ODD`], without the values that would expire during a run.
const ODD_DURATIONS: &[&[u8]] = &[
    b"",
    b"0",
    b"-0",
    b"+1000",
    b" 1000",
    b"01000",
    b"1000.0",
    b"1e3",
    b"abc",
    b"-1",
    b"9223372036854775807",
    b"9223372036854775808",
    b"-9223372036854775808",
    b"-9223372036854775809",
    b"9223372036854775",
    b"9223372036854776",
    b"9223370000000000",
    b"99999999999999999999999999",
    b"nan",
];
