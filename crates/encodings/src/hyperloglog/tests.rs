//! HyperLogLogs against a plain array of registers, and hostile bytes.

use damselfly_base::random::Random;

use super::*;

/// The registers of a HyperLogLog, one by one.
fn registers(bytes: &[u8]) -> Registers {
    let mut registers = [0; REGISTERS];
    merge(&mut registers, bytes).expect("valid registers");
    registers
}

fn random_bytes(random: &mut Random, len: usize) -> Vec<u8> {
    (0..len).map(|_| random.number() as u8).collect()
}

#[test]
fn both_forms_hold_the_registers_that_a_plain_array_holds() {
    let mut random = Random::for_test();
    for _ in 0..40 {
        let sparse_max = random.below(4000);
        let elements = random.below(3000);
        let mut model = [0_u8; REGISTERS];
        let mut sparse = EMPTY.to_vec();
        for _ in 0..elements {
            // Few registers and any ranks, so that runs are split and joined.
            let register = (REGISTERS - 1 - random.below(60)) * random.below(2) + random.below(60);
            let register = register.min(REGISTERS - 1);
            let rank_max = [RANK_MAX, 4][usize::from(random.below(50) > 0)];
            let rank = 1 + random.below(rank_max) as u8;
            let changed = raise(&mut sparse, register, rank, sparse_max).expect("valid");
            assert_eq!(changed, rank > model[register]);
            model[register] = model[register].max(rank);
        }
        assert!(registers(&sparse) == model);
        let estimate = count(&sparse).expect("valid");
        assert_eq!(estimate, count_registers(&model));
        make_dense(&mut sparse).expect("valid");
        assert_eq!(sparse.len(), dense::BYTES);
        assert!(registers(&sparse) == model);
        assert_eq!(count(&sparse), Ok(estimate));
    }
}

#[test]
fn an_element_is_counted_once() {
    let mut log = EMPTY.to_vec();
    assert_eq!(add(&mut log, b"element", 3000), Ok(true));
    assert_eq!(add(&mut log, b"element", 3000), Ok(false));
    assert_eq!(count(&log), Ok(1));
    assert_eq!(cached(&log), None);
    set_cached(&mut log, 7);
    assert_eq!(cached(&log), Some(7));
}

#[test]
fn hostile_bytes_are_refused_or_keep_their_header() {
    let mut random = Random::for_test();
    for _ in 0..3000 {
        let len = match random.below(3) {
            0 => dense::BYTES - HEADER_BYTES,
            _ => random.below(600),
        };
        let mut bytes = EMPTY[..HEADER_BYTES].to_vec();
        bytes[ENCODING_AT] = random.below(3) as u8;
        bytes.extend(random_bytes(&mut random, len));
        let kind = Encoding::of(&bytes);
        let _ = count(&bytes);
        let _ = merge(&mut [0; REGISTERS], &bytes);
        for _ in 0..5 {
            let before = bytes.clone();
            let (register, rank) = (random.below(REGISTERS), 1 + random.below(RANK_MAX) as u8);
            match raise(&mut bytes, register, rank, 300) {
                Ok(_) => assert!(Encoding::of(&bytes).is_some()),
                Err(Corrupted) => assert_eq!(bytes, before),
            }
        }
        assert_eq!(kind.is_some(), Encoding::of(&bytes).is_some());
    }
}

#[test]
fn runs_that_are_too_short_too_long_or_cut_off_are_refused() {
    let with = |registers: &[u8]| [&EMPTY[..HEADER_BYTES], registers].concat();
    assert_eq!(count(&with(&[0x7f, 0xff])), Ok(0));
    for broken in [
        &[][..],
        &[0x7f],
        &[0x7f, 0xfe],
        &[0x7f, 0xff, 0],
        &[0x7f, 0xff, 0x40],
    ] {
        assert_eq!(count(&with(broken)), Err(Corrupted), "{broken:?}");
    }
}

#[test]
fn the_self_test_passes() {
    // The whole test takes seconds without optimisation; `tests/` of the server run the command.
    assert_eq!(super::self_test::quick(&mut Random::for_test()), Ok(()));
}
