//! BITFIELD: any type, offset and number; what is written is read back, all other bits stay, and sums and limits agree with 128-bit
//! arithmetic.
#![no_main]

use damselfly_encodings::bit_fields::{FieldType, Overflow};
use damselfly_encodings::bits;
use libfuzzer_sys::arbitrary::{Result, Unstructured};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // The only possible error is that the input is used up.
    let _ = drive(&mut Unstructured::new(data));
});

fn drive(source: &mut Unstructured<'_>) -> Result<()> {
    let mut bytes = vec![0; source.int_in_range(0..=40)?];
    while !source.is_empty() {
        let text = match source.ratio(7, 8)? {
            true => {
                let sign = *source.choose(b"iu")?;
                format!("{}{}", char::from(sign), source.int_in_range(0..=66)?).into_bytes()
            }
            false => {
                let len = source.int_in_range(0..=6)?;
                source.bytes(len)?.to_vec()
            }
        };
        let Some(field) = FieldType::parse(&text) else {
            continue;
        };
        let offset = match source.ratio(7, 8)? {
            true => source.int_in_range(0..=330)?,
            false => source.arbitrary()?,
        };
        let old = field.read(&bytes, offset);
        let number = source.arbitrary::<i64>()? >> source.int_in_range(0..=63)?;
        let overflow = *source.choose(&[Overflow::Wrap, Overflow::Saturate, Overflow::Fail])?;
        let (new, exact) = match source.arbitrary()? {
            true => (field.fit(number, overflow), i128::from(number)),
            false => {
                let sum = i128::from(old) + i128::from(number);
                (field.sum(old, number, overflow), sum)
            }
        };
        let Some(new) = new else {
            assert_eq!(overflow, Overflow::Fail);
            continue;
        };
        if i128::from(new) != exact {
            assert_ne!(overflow, Overflow::Fail);
            if overflow == Overflow::Wrap {
                let width = 128 - field.bits();
                assert_eq!(i128::from(new) << width, exact << width);
            }
        }
        let end = offset.saturating_add(u64::from(field.bits()));
        if end > bytes.len() as u64 * 8 {
            continue;
        }
        let before = bytes.clone();
        field.write(&mut bytes, offset, new);
        assert_eq!(field.read(&bytes, offset), new);
        for index in (0..bytes.len() as u64 * 8).filter(|index| !(offset..end).contains(index)) {
            assert_eq!(bits::bit(&bytes, index), bits::bit(&before, index));
        }
    }
    Ok(())
}
