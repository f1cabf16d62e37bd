//! Arguments for what is encoded in strings and scores: bitmaps and positions.

use super::{FLOATS, ODD, number};
use crate::random::Random;

pub(super) fn bit_offset(random: &mut Random) -> Vec<u8> {
    match random.below(12) {
        0 => random.pick(ODD).to_vec(),
        1 => number(random.between(0, 5000)),
        _ => number(random.between(0, 100)),
    }
}

pub(super) fn field_offset(random: &mut Random) -> Vec<u8> {
    match random.below(3) {
        0 => [b"#".to_vec(), number(random.between(-1, 20))].concat(),
        _ => bit_offset(random),
    }
}

pub(super) fn field_type(random: &mut Random) -> Vec<u8> {
    let sign = *random.pick(b"iiiiuuuuxI");
    let bits = match random.below(3) {
        0 => *random.pick(&[1, 8, 16, 32, 63, 64, 65, 0]),
        _ => random.between(1, 64),
    };
    format!("{}{bits}", char::from(sign)).into_bytes()
}

/// A coordinate up to `max`: often at a border, at zero, or near other coordinates.
pub(super) fn coordinate(max: f64, random: &mut Random) -> Vec<u8> {
    let max_text = max.to_string();
    match random.below(20) {
        0 => random.pick(FLOATS).to_vec(),
        1 => max_text.into_bytes(),
        2 => format!("-{max_text}").into_bytes(),
        3 => number(random.between(-90, 90)),
        4..8 => format!("{:.6}", max - millionths(random)).into_bytes(),
        8..12 => format!("{:.6}", millionths(random) - max).into_bytes(),
        12..16 => format!("{:.6}", millionths(random)).into_bytes(),
        _ => format!("{:.6}", millionths(random) * max).into_bytes(),
    }
}

/// A number from 0 to 1.
fn millionths(random: &mut Random) -> f64 {
    random.between(0, 1_000_000) as f64 / 1e6
}

pub(super) fn distance(random: &mut Random) -> Vec<u8> {
    match random.below(12) {
        0 => random.pick(FLOATS).to_vec(),
        1 => number(0),
        2 => number(random.between(-3, 30_000_000)),
        3 => format!("{:.3}", millionths(random)).into_bytes(),
        _ => number(random.between(1, 20_000)),
    }
}

pub(super) fn unit(random: &mut Random) -> Vec<u8> {
    random
        .pick(&["m", "km", "km", "KM", "ft", "mi", "Mi", "miles", ""])
        .as_bytes()
        .to_vec()
}
