//! The intset: validation refuses hostile bytes, and after any sequence of changes an intset equals a plain set.
#![no_main]

use std::collections::BTreeSet;

use damselfly_collections::intset::{Intset, insert, remove, remove_range, validate};
use libfuzzer_sys::arbitrary::{Result, Unstructured};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // The only possible error is that the input is used up.
    let _ = drive(&mut Unstructured::new(data));
});

fn drive(source: &mut Unstructured<'_>) -> Result<()> {
    let len = source.int_in_range(0..=40)?;
    let mut bytes = source.bytes(len)?.to_vec();
    if !validate(&bytes) {
        return Ok(());
    }
    let mut model: BTreeSet<i64> = Intset::new(&bytes).iter().collect();
    while !source.is_empty() {
        let shift = source.int_in_range(0..=63)?;
        let number = source.arbitrary::<i64>()? >> shift;
        assert_eq!(
            Intset::new(&bytes).contains(number),
            model.contains(&number)
        );
        match source.int_in_range(0..=3_u8)? {
            0 => assert_eq!(remove(&mut bytes, number), model.remove(&number)),
            1 => {
                let end = source.int_in_range(0..=model.len())?;
                let start = source.int_in_range(0..=end)?;
                remove_range(&mut bytes, start..end);
                let gone: Vec<i64> = model.iter().copied().take(end).skip(start).collect();
                gone.iter().for_each(|number| assert!(model.remove(number)));
            }
            _ => assert_eq!(insert(&mut bytes, number), model.insert(number)),
        }
        assert!(validate(&bytes));
        assert!(Intset::new(&bytes).iter().eq(model.iter().copied()));
        assert_eq!(Intset::new(&bytes).len(), model.len());
    }
    Ok(())
}
