//! Compares the listpack with a plain model, and reads hostile bytes.

#[allow(dead_code, reason = "other tests use the other items")]
mod common;

use common::listpack::{edit, read_hostile};
use common::{Source, random_bytes};
use damselfly_collections::Element;
use damselfly_collections::listpack::{self, Listpack};

fn seed() -> u64 {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or(0x5eed);
    println!("SEED={seed}");
    seed
}

#[test]
fn random_edits_match_a_vec() {
    let seed = seed();
    for round in 0..300 {
        edit(&random_bytes(seed + round, 2000));
    }
}

#[test]
fn damaged_bytes_are_refused_or_harmless() {
    let seed = seed();
    let mut refused = 0;
    for round in 0..3000 {
        let random = random_bytes(seed + round, 400);
        let mut source = Source(&random);
        let texts: Vec<_> = (0..1 + source.below(8)).map(|_| source.text()).collect();
        let mut bytes = Vec::new();
        listpack::append_many(&mut bytes, texts.iter().map(|text| Element::new(text)));
        assert!(Listpack::new(&bytes).is_valid());
        for _ in 0..=source.below(2) {
            let at = source.below(bytes.len().min(64));
            bytes[at] = source.byte();
        }
        if source.byte() % 4 == 0 {
            bytes.truncate(source.below(bytes.len()));
        }
        refused += usize::from(!Listpack::new(&bytes).is_valid());
        read_hostile(&bytes);
    }
    assert!((500..3000).contains(&refused), "{refused}");
}

#[test]
fn an_empty_listpack_has_no_bytes() {
    for bad in [
        &b"\0"[..],
        b"\0\0\0",
        b"\0\0\0\0",
        b"\x01\0\0\0",
        b"\x02\0\0\0\x01\x01",
    ] {
        assert!(!Listpack::new(bad).is_valid(), "{bad:?}");
    }
    let empty = Listpack::new(b"");
    assert!(empty.is_valid() && empty.is_empty());
    assert_eq!((empty.len(), empty.first(), empty.last()), (0, None, None));
    assert_eq!(empty.get(0), None);
    assert_eq!(empty.iter().count(), 0);
}
