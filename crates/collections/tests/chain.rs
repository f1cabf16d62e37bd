//! The chain against a plain model, and how much memory it takes.

#[allow(dead_code, reason = "other tests use the rest")]
mod common;

use common::chain::edit;
use common::random_bytes;
use damselfly_collections::chain::Shape;
use damselfly_collections::{Chain, Element, Side, Wanted};
use std::time::{Duration, Instant};

#[test]
fn any_sequence_of_edits_leaves_what_a_deque_would_hold() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seed: u64 = seed.unwrap_or(0x5eed);
    println!("SEED={seed}");
    for round in 0..300 {
        edit(&random_bytes(seed + round, 3000));
    }
}

/// A chain of `count` texts of 16 bytes.
fn chain_of(count: usize, shape: Shape, side: Side) -> Chain {
    let mut chain = Chain::new(shape);
    for number in 0..count {
        let text = format!("element:{number:08}");
        chain.push(side, Element::new(text.as_bytes()));
    }
    chain
}

#[test]
fn an_element_of_16_bytes_takes_18_3() {
    for side in [Side::Left, Side::Right] {
        let chain = chain_of(1_000_000, Shape::new(-2, 0), side);
        chain.check();
        let bytes = chain.memory_bytes() as f64 / 1e6;
        println!("{bytes} bytes per element");
        assert!(bytes < 18.2, "{bytes}");
        assert_eq!(chain.compressed_count(), 0);
    }
}

#[test]
fn inner_nodes_are_compressed_as_deep_as_asked_for() {
    for depth in [1, 2, 5] {
        let mut chain = chain_of(20_000, Shape::new(-2, depth), Side::Right);
        let nodes = chain.node_count();
        assert_eq!(chain.compressed_count(), nodes - 2 * depth);
        assert!(
            chain.memory_bytes() < 20_000 * 10,
            "{}",
            chain.memory_bytes()
        );
        // What comes to the ends becomes plain.
        chain.remove_end(Side::Left, 10_000);
        chain.remove_end(Side::Right, 5000);
        chain.check();
        assert_eq!(chain.compressed_count(), chain.node_count() - 2 * depth);
        let element = chain.get(1, |element| element.to_vec());
        assert_eq!(element.as_deref(), Some(&b"element:00010001"[..]));
    }
}

#[test]
fn nodes_keep_to_the_limits_and_a_long_element_has_its_own() {
    let long = vec![b'x'; 100_000];
    for (size, nodes) in [
        (-1, 5),
        (-2, 3),
        (-3, 2),
        (-4, 1),
        (-5, 1),
        (100, 10),
        (0, 1000),
    ] {
        let mut chain = chain_of(1000, Shape::new(size, 0), Side::Right);
        assert_eq!(chain.node_count(), nodes, "{size}");
        chain.insert(500, Element::Bytes(&long));
        chain.check();
        assert!(chain.memory_bytes() < 100_000 + 1000 * 80);
        assert_eq!(chain.get(500, |element| element.len()), Some(100_000));
        chain.remove(500, 1);
        chain.check();
    }
}

#[test]
fn a_queue_gives_its_memory_back() {
    let mut chain = Chain::new(Shape::new(-2, 0));
    for number in 0..100_000 {
        chain.push(Side::Right, Element::Integer(number));
        if number >= 1000 {
            let first = chain.end(Side::Left).map(Element::to_vec);
            assert_eq!(first, Some((number - 1000).to_string().into_bytes()));
            chain.remove_end(Side::Left, 1);
        }
        assert!(chain.memory_bytes() < 30_000, "{}", chain.memory_bytes());
    }
    chain.check();
    chain.remove_end(Side::Right, 1000);
    assert!(chain.is_empty());
    assert!(chain.memory_bytes() < 1000, "{}", chain.memory_bytes());
}

/// Each of 400,000 joins moved all nodes on one side of it, half a minute under the lock of the list's shard, since what was
/// joined was taken out at once. Now all is taken out together.
#[test]
fn what_is_left_of_many_nodes_is_joined_in_one_pass() {
    const NODES: usize = 600_000;
    let (kept, removed) = (Element::Integer(1), Element::Integer(2));
    let mut chain = Chain::new(Shape::new(4, 0));
    for _ in 0..NODES {
        for element in [kept, removed, removed, removed] {
            chain.push(Side::Right, element);
        }
    }
    let started = Instant::now();
    let count = chain.remove_equal(&Wanted::new(b"2"), usize::MAX, Side::Left);
    assert_eq!((count, chain.len()), (3 * NODES, NODES));
    assert_eq!(chain.node_count(), NODES.div_ceil(3));
    chain.check();
    // It takes some tenths of a second.
    assert!(started.elapsed() < Duration::from_secs(5));
}
