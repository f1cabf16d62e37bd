//! Compares the chain with a `VecDeque` of texts.

use super::Source;
use damselfly_collections::chain::{Shape, Walk};
use damselfly_collections::listpack::Listpack;
use damselfly_collections::{Chain, Element, Needle, Side};
use std::collections::VecDeque;

/// Small nodes, so that they often split and merge.
const SIZES: [i64; 8] = [1, 2, 3, 5, 20, -1, -2, 1000];
/// More elements would only slow down the checks.
const ELEMENTS_MAX: usize = 400;

type Model = VecDeque<Vec<u8>>;

/// Makes the same edits, chosen by `data`, to a chain and a model, and compares them.
pub fn edit(data: &[u8]) {
    let mut source = Source(data);
    let shape = Shape::new(SIZES[source.below(8)], source.below(4));
    let (mut chain, mut model) = (Chain::new(shape), Model::new());
    while !source.0.is_empty() {
        step(&mut source, &mut chain, &mut model);
        chain.check();
        if source.below(8) == 0 {
            check(&chain, &model, &mut source);
            chain = copy_or_rebuild(&chain, shape, &mut source);
        }
    }
    check(&chain, &model, &mut source);
}

fn side(source: &mut Source<'_>) -> Side {
    match source.byte() % 2 {
        0 => Side::Left,
        _ => Side::Right,
    }
}

fn step(source: &mut Source<'_>, chain: &mut Chain, model: &mut Model) {
    let index = source.below(model.len() + 1);
    match source.byte() % 10 {
        0..3 => {
            let end = side(source);
            for _ in 0..source.below(10) {
                let text = source.text();
                chain.push(end, Element::new(&text));
                match end {
                    Side::Left => model.push_front(text),
                    Side::Right => model.push_back(text),
                }
            }
        }
        3 => {
            for _ in 0..=source.below(3) {
                let text = source.text();
                chain.insert(index, Element::new(&text));
                model.insert(index, text);
            }
        }
        4 => {
            let text = source.text();
            chain.replace(index, Element::new(&text));
            if let Some(element) = model.get_mut(index) {
                *element = text;
            }
        }
        5 => {
            let end = side(source);
            for _ in 0..source.below(10) {
                let element = chain.end(end).map(Element::to_vec);
                chain.remove_end(end, 1);
                let expected = match end {
                    Side::Left => model.pop_front(),
                    Side::Right => model.pop_back(),
                };
                assert_eq!(element, expected);
            }
        }
        6 => {
            let end = side(source);
            let count = source.below(30).min(model.len());
            chain.remove_end(end, count);
            match end {
                Side::Left => drop(model.drain(..count)),
                Side::Right => model.truncate(model.len() - count),
            }
        }
        7 => {
            let bits = source.below(8);
            let count = source.below(1 << bits);
            chain.remove(index, count);
            model.drain(index..model.len().min(index + count));
        }
        8 => {
            let text = model.get(index).cloned();
            let text = text.unwrap_or_else(|| source.text());
            let (limit, from) = (source.below(5), side(source));
            let removed = chain.remove_equal(&Needle::new(&text), limit, from);
            assert_eq!(removed, remove_equal(model, &text, limit, from));
        }
        _ => {
            let left = model.len().min(ELEMENTS_MAX);
            chain.remove(left, usize::MAX);
            model.truncate(left);
        }
    }
}

fn remove_equal(model: &mut Model, text: &[u8], limit: usize, from: Side) -> usize {
    let mut found: Vec<_> = (0..model.len()).filter(|&at| model[at] == text).collect();
    match from {
        Side::Left => found.truncate(limit),
        Side::Right => drop(found.drain(..found.len().saturating_sub(limit))),
    }
    for at in found.iter().rev() {
        model.remove(*at);
    }
    found.len()
}

fn texts(mut walk: Walk<'_>) -> Vec<Vec<u8>> {
    let mut texts = Vec::new();
    while let Some(element) = walk.step() {
        texts.push(element.to_vec());
    }
    texts
}

fn check(chain: &Chain, model: &Model, source: &mut Source<'_>) {
    assert_eq!(chain.len(), model.len());
    assert_eq!(chain.is_empty(), model.is_empty());
    let index = source.below(model.len() + 1);
    let element = chain.get(index, |element| element.to_vec());
    assert_eq!(element.as_ref(), model.get(index));
    let expected: Vec<_> = model.range(index..).cloned().collect();
    assert_eq!(texts(chain.walk(index, Side::Left)), expected);
    let end = model.len().min(index + 1);
    let expected: Vec<_> = match index < model.len() {
        true => model.range(..end).rev().cloned().collect(),
        false => Vec::new(),
    };
    assert_eq!(texts(chain.walk(index, Side::Right)), expected);
}

/// A copy of the chain, or a new chain from a listpack if it is short enough.
fn copy_or_rebuild(chain: &Chain, shape: Shape, source: &mut Source<'_>) -> Chain {
    let copy = chain.clone();
    assert_eq!(copy.node_count(), chain.node_count());
    match chain.to_listpack(Shape::new(-5, 0)) {
        Some(bytes) if source.byte().is_multiple_of(2) => {
            let listpack = Listpack::new(&bytes);
            assert!(listpack.is_valid());
            Chain::from_listpack(listpack, shape)
        }
        _ => copy,
    }
}
