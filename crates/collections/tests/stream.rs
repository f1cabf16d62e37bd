//! Compares the stream with a plain model, and checks its memory use.

#[allow(dead_code, reason = "other tests use the other items")]
mod common;

use common::random_bytes;
use common::stream::edit;
use damselfly_collections::Stream;
use damselfly_collections::stream::{NodeLimits, StreamId};

#[test]
fn random_edits_match_ordered_maps() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or(0x5eed);
    println!("SEED={seed}");
    for round in 0..300 {
        edit(&random_bytes(seed + round, 3000));
    }
}

#[test]
fn an_entry_of_two_short_values_takes_less_than_27_bytes() {
    let mut stream = Stream::default();
    for number in 0..300_000_u64 {
        let id = StreamId::new(1_700_000_000_000 + number / 100, number % 100);
        let [user, action] = ["u", "a"].map(|name| format!("{name}{number:09}"));
        let pairs = [("user", &user), ("action", &action)];
        let pairs = pairs
            .iter()
            .map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        stream.push(id, pairs, NodeLimits::default());
    }
    stream.check();
    let bytes = stream.memory_bytes() as f64 / 3e5;
    println!("{bytes} bytes per entry");
    assert!(bytes < 27.0, "{bytes} bytes per entry");
}
