//! HyperLogLogs: hostile bytes are refused or stay a HyperLogLog, and the registers of valid ones equal those of a plain array.
#![no_main]

use damselfly_encodings::hyperloglog::{
    EMPTY, Encoding, REGISTERS, cached, count, make_dense, merge, raise, sparse, stored_registers,
};
use libfuzzer_sys::arbitrary::{Result, Unstructured};

/// The highest rank.
const RANK_MAX: u8 = 51;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // The only possible error is that the input is used up.
    let _ = drive(&mut Unstructured::new(data));
});

fn drive(source: &mut Unstructured<'_>) -> Result<()> {
    let mut bytes = EMPTY.to_vec();
    if source.arbitrary()? {
        let len = source.int_in_range(0..=400)?;
        bytes.truncate(source.int_in_range(12..=EMPTY.len())?);
        bytes.extend(source.bytes(len)?);
        if source.ratio(1, 8)? {
            bytes[4] = source.arbitrary()?;
        }
    }
    let mut model = [0; REGISTERS];
    let is_valid = merge(&mut model, &bytes).is_ok();
    assert_eq!(count(&bytes).is_ok(), is_valid);
    let _ = (
        cached(&bytes),
        sparse::Runs::new(stored_registers(&bytes)).count(),
    );
    while !source.is_empty() {
        let register = source.int_in_range(0..=REGISTERS - 1)?;
        let rank = source.int_in_range(1..=RANK_MAX)?;
        let before = bytes.clone();
        let changed = match source.int_in_range(0..=15_u8)? {
            0 => make_dense(&mut bytes),
            _ => raise(&mut bytes, register, rank, source.int_in_range(0..=300)?),
        };
        match changed {
            Ok(_) => assert!(Encoding::of(&bytes).is_some()),
            Err(_) => assert!(!is_valid && bytes == before),
        }
        if is_valid && bytes != before {
            let mut registers = [0; REGISTERS];
            merge(&mut registers, &bytes).expect("it was valid");
            model[register] = model[register].max(registers[register]);
            assert!(registers == model);
            count(&bytes).expect("it was valid");
        }
    }
    Ok(())
}
