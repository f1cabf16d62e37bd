//! Compares the chain with a plain model, and checks its memory use.

#[allow(dead_code, reason = "other tests use the other items")]
mod common;

use common::chain::edit;
use common::random_bytes;
use damselfly_collections::chain::Shape;
use damselfly_collections::{Chain, Element, Needle, Side};
use std::time::{Duration, Instant};

#[test]
fn random_edits_match_a_deque() {
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
fn an_element_of_16_bytes_takes_less_than_18_2() {
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
fn inner_nodes_are_compressed_up_to_the_configured_depth() {
    for depth in [1, 2, 5] {
        let mut chain = chain_of(20_000, Shape::new(-2, depth), Side::Right);
        let nodes = chain.node_count();
        assert_eq!(chain.compressed_count(), nodes - 2 * depth);
        assert!(
            chain.memory_bytes() < 20_000 * 10,
            "{}",
            chain.memory_bytes()
        );
        // Nodes that are now near an end become plain.
        chain.remove_end(Side::Left, 10_000);
        chain.remove_end(Side::Right, 5000);
        chain.check();
        assert_eq!(chain.compressed_count(), chain.node_count() - 2 * depth);
        let element = chain.get(1, |element| element.to_vec());
        assert_eq!(element.as_deref(), Some(&b"element:00010001"[..]));
    }
}

#[test]
fn nodes_respect_the_limits_and_a_long_element_gets_its_own_node() {
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
fn a_queue_frees_its_memory() {
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

/// Bug: removing elements from a list of this size blocked the list's shard for half a minute. Cause: each of 400,000 merges
/// removed its emptied node at once, which moved all nodes on one side of it. Fix: all emptied nodes are removed together.
#[test]
fn many_small_nodes_are_merged_in_one_pass() {
    const NODES: usize = 600_000;
    let (kept, removed) = (Element::Integer(1), Element::Integer(2));
    let mut chain = Chain::new(Shape::new(4, 0));
    for _ in 0..NODES {
        for element in [kept, removed, removed, removed] {
            chain.push(Side::Right, element);
        }
    }
    let started = Instant::now();
    let count = chain.remove_equal(&Needle::new(b"2"), usize::MAX, Side::Left);
    assert_eq!((count, chain.len()), (3 * NODES, NODES));
    assert_eq!(chain.node_count(), NODES.div_ceil(3));
    chain.check();
    // Normally a few tenths of a second.
    assert!(started.elapsed() < Duration::from_secs(5));
}
