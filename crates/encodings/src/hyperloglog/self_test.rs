//! The test that PFSELFTEST runs.

use damselfly_base::random::Random;

use super::{EMPTY, Encoding, HEADER_BYTES, REGISTERS, add, count, dense, make_dense};

/// The most bytes of the sparse form here. With the option's value, the time would have no limit.
const SPARSE_BYTES_MAX: usize = 3000;

/// Checks that dense registers keep what is written to them, that both forms give the same estimates, and that the estimates of 1
/// to a million elements are near enough. Redis tests ten times as many, which takes seconds.
///
/// # Errors
/// What is wrong.
pub fn self_test(random: &mut Random) -> Result<(), String> {
    check_registers(random, 100)?;
    check_estimates(random, 1_000_000)
}

/// As [`self_test`], with fewer elements.
#[cfg(test)]
pub(super) fn quick(random: &mut Random) -> Result<(), String> {
    check_registers(random, 10)?;
    check_estimates(random, 100_000)
}

fn check_registers(random: &mut Random, cycles: usize) -> Result<(), String> {
    let mut stored = vec![0; dense::BYTES - HEADER_BYTES];
    for _ in 0..cycles {
        let values: Vec<u8> = (0..REGISTERS).map(|_| random.below(64) as u8).collect();
        for (index, &value) in values.iter().enumerate() {
            dense::set(&mut stored, index, value);
        }
        for (index, &expected) in values.iter().enumerate() {
            let value = dense::register(&stored, index);
            if value != expected {
                return Err(format!(
                    "TESTFAILED Register {index} should be {expected} but is {value}"
                ));
            }
        }
    }
    Ok(())
}

fn check_estimates(random: &mut Random, elements: u64) -> Result<(), String> {
    let seed = random.number();
    let (mut sparse, mut dense) = (EMPTY.to_vec(), EMPTY.to_vec());
    let broken = |_| String::from("TESTFAILED corrupted registers");
    make_dense(&mut dense).map_err(broken)?;
    let mut checkpoint = 1;
    for number in 1..=elements {
        let element = (number ^ seed).to_le_bytes();
        add(&mut dense, &element, 0).map_err(broken)?;
        add(&mut sparse, &element, SPARSE_BYTES_MAX).map_err(broken)?;
        if number < checkpoint {
            continue;
        }
        let is_small = number < SPARSE_BYTES_MAX as u64 / 2;
        if is_small && Encoding::of(&sparse) != Some(Encoding::Sparse) {
            return Err("TESTFAILED sparse encoding not used".into());
        }
        let estimate = count(&dense).map_err(broken)?;
        if count(&sparse).map_err(broken)? != estimate {
            return Err("TESTFAILED dense/sparse disagree".into());
        }
        let standard_error = 1.04 / (REGISTERS as f64).sqrt();
        let error_max = match number {
            // Two of so few elements may share a register.
            10 => 1,
            _ => (standard_error * 6.0 * number as f64).ceil() as u64,
        };
        let error = estimate.abs_diff(number);
        if error > error_max {
            return Err(format!(
                "TESTFAILED Too big error. card:{number} abserr:{error}"
            ));
        }
        checkpoint *= 10;
    }
    Ok(())
}
