//! Hashes: the small and the large form behave the same for all operations; hostile bytes are refused or harmless.
#![no_main]

use damselfly_collections::pairs::{Layout, Pair, Pairs, PairsMut};
use damselfly_collections::{Element, FieldRef, Fields};
use libfuzzer_sys::arbitrary::{Result, Unstructured};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    match data.split_first() {
        Some((0..0xc0, data)) => drop(compare(data)),
        Some((0xc0..0xe0, data)) => read_hostile(data, Layout::Plain),
        Some((0xe0.., data)) => read_hostile(data, Layout::Timed),
        None => {}
    }
});

/// A field or value: one of few, so that they repeat, or any.
fn text(input: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let kind: u8 = input.arbitrary()?;
    Ok(match kind {
        0..0x80 => (kind % 8).to_string().into_bytes(),
        0x80..0xa0 => vec![kind; 300],
        0xa0..0xc0 => input.arbitrary::<i64>()?.to_string().into_bytes(),
        0xc0.. => input.bytes(usize::from(kind & 0x1f))?.to_vec(),
    })
}

/// Applies the same operations to both forms.
fn compare(data: &[u8]) -> Result<()> {
    let mut input = Unstructured::new(data);
    let (mut bytes, mut fields) = (Vec::new(), Fields::new());
    while !input.is_empty() {
        let action: u8 = input.arbitrary()?;
        let name = text(&mut input)?;
        let deadline = (action >= 0x80).then_some(1 + i64::from(action & 0x70) * 100_000);
        let mut pairs = PairsMut::new(&mut bytes, Layout::Timed);
        match action & 7 {
            0..3 => {
                let value = text(&mut input)?;
                let value = Element::new(&value);
                let is_new = fields.set(&name, value, deadline);
                assert_eq!(pairs.set(&name, value, deadline), is_new);
            }
            3 => {
                let found = fields.set_deadline_ms(&name, deadline);
                assert_eq!(pairs.set_deadline_ms(&name, deadline), found);
            }
            4 => assert_eq!(pairs.remove(&name), fields.remove(&name)),
            5 => {
                let now = deadline.unwrap_or(0);
                let (mut gone, mut also_gone) = (Vec::new(), Vec::new());
                assert_eq!(
                    pairs.remove_expired(now, |field| gone.push(field.to_vec())),
                    fields.remove_expired(now, usize::MAX, |field| also_gone.push(field.to_vec()))
                );
                gone.sort();
                also_gone.sort();
                assert_eq!(gone, also_gone);
            }
            6 => fields = fields.clone(),
            _ => {
                let shown = |pair: Pair<'_>| (pair.value.to_vec(), pair.deadline_ms);
                let found = fields.get(&name).map(Pair::from).map(shown);
                assert_eq!(pairs.view().get(&name).map(shown), found);
            }
        }
        let pairs = pairs.view();
        assert!(pairs.is_valid());
        assert_eq!(pairs.len(), fields.len());
        assert_eq!(pairs.expires_ms(), fields.expires_ms());
        let first = fields.first_deadline_ms();
        assert!(first.is_none_or(|first| pairs.first_deadline_ms().is_some_and(|ms| ms <= first)));
    }
    let used: usize = fields.iter().map(FieldRef::allocated_bytes).sum();
    assert!(fields.memory_bytes() >= used);
    Ok(())
}

/// Calls every function on bytes that pass validation as a small hash.
fn read_hostile(data: &[u8], layout: Layout) {
    let pairs = Pairs::new(data, layout);
    if !pairs.is_valid() {
        return;
    }
    assert_eq!(pairs.iter().count(), pairs.len());
    pairs.expires_ms();
    let first = pairs.nth(0).map(|pair| pair.field.to_vec());
    let mut bytes = data.to_vec();
    let mut pairs = PairsMut::new(&mut bytes, layout);
    let deadline = (layout == Layout::Timed).then_some(5);
    pairs.set(b"new", Element::Integer(1), deadline);
    if let Some(first) = first {
        pairs.set(&first, Element::Bytes(b"other"), deadline);
        pairs.set_deadline_ms(&first, None);
        assert!(pairs.remove(&first));
    }
    pairs.remove_expired(i64::MAX, |_| {});
    assert!(pairs.view().is_valid());
    if layout == Layout::Plain {
        let timed = pairs.view().to_timed();
        assert!(Pairs::new(&timed, Layout::Timed).is_valid());
    }
}
