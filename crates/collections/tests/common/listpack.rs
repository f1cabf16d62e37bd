//! Compares the listpack with a `Vec` of texts.

use super::Source;
use damselfly_base::number::Decimal;
use damselfly_collections::listpack::{self, Listpack, Offset};
use damselfly_collections::{Element, Needle};

/// More elements would only slow down the checks.
const ELEMENTS_MAX: usize = 60;

/// Makes the same edits, chosen by `data`, to a listpack and a model, and compares them after every step.
pub fn edit(data: &[u8]) {
    let mut source = Source(data);
    let (mut bytes, mut model) = (Vec::new(), Vec::new());
    while !source.0.is_empty() {
        step(&mut source, &mut bytes, &mut model);
        check(&bytes, &model, &mut source);
    }
}

fn step(source: &mut Source<'_>, bytes: &mut Vec<u8>, model: &mut Vec<Vec<u8>>) {
    let index = source.below(model.len() + 1);
    let offset = seek(bytes, index);
    match source.byte() % 8 {
        0 => {
            model.push(source.text());
            listpack::push_back(bytes, &model[model.len() - 1][..]);
        }
        1 => {
            model.insert(0, source.text());
            listpack::push_front(bytes, &model[0][..]);
        }
        2 => {
            model.insert(index, source.text());
            listpack::insert(bytes, offset, &model[index][..]);
        }
        3 => {
            let added: Vec<_> = (0..source.below(5)).map(|_| source.text()).collect();
            let elements = added.iter().map(|text| Element::new(text));
            listpack::insert_many(bytes, offset, elements);
            model.splice(index..index, added);
        }
        4 | 5 if index < model.len() => {
            model[index] = source.text();
            listpack::replace(bytes, offset, &model[index][..]);
        }
        6 => {
            let count = source.below(4);
            let end = model.len().min(index + count);
            assert_eq!(listpack::remove(bytes, offset, count), end - index);
            model.drain(index..end);
        }
        _ => {
            let left = model.len().min(ELEMENTS_MAX);
            listpack::remove(bytes, seek(bytes, left), model.len());
            model.truncate(left);
        }
    }
}

fn seek(bytes: &[u8], index: usize) -> Offset {
    let listpack = Listpack::new(bytes);
    listpack.seek(index).unwrap_or(listpack.end())
}

fn check(bytes: &[u8], model: &[Vec<u8>], source: &mut Source<'_>) {
    let listpack = Listpack::new(bytes);
    assert!(listpack.is_valid());
    assert_eq!(listpack.len(), model.len());
    assert_eq!(listpack.is_empty(), model.is_empty());
    let (mut front, mut back) = (listpack.iter(), listpack.iter());
    let mut scratch = Decimal::new();
    for index in 0..model.len() {
        let element = front.next().expect("as many as the model");
        assert_eq!(element.text(&mut scratch), model[index]);
        assert_eq!(element.len(), model[index].len());
        assert_eq!(element, Element::new(&model[index]));
        let element = back.next_back().expect("as many as the model");
        assert_eq!(element.to_vec(), model[model.len() - 1 - index]);
    }
    assert!(front.next().is_none() && back.next_back().is_none());

    let index = source.below(model.len() + 1);
    let element = listpack.get(index).map(Element::to_vec);
    assert_eq!(element.as_ref(), model.get(index));
    assert_eq!(listpack.iter_from(index).count(), model.len() - index);
    let text = element.unwrap_or_else(|| source.text());
    let skip = source.below(3);
    let expected = (index..model.len()).step_by(skip + 1);
    let expected = expected.into_iter().find(|&index| model[index] == text);
    let found = listpack.find(seek(bytes, index), skip, &Needle::new(&text));
    assert_eq!(found, expected.and_then(|index| listpack.seek(index)));
}

/// Treats the bytes as a listpack: if they are valid, everything in it can be read and changed.
pub fn read_hostile(data: &[u8]) {
    let listpack = Listpack::new(data);
    if !listpack.is_valid() {
        return;
    }
    let texts: Vec<_> = listpack.iter().map(Element::to_vec).collect();
    let mut backwards: Vec<_> = listpack.iter().rev().map(Element::to_vec).collect();
    backwards.reverse();
    assert_eq!(texts, backwards);
    assert_eq!(texts.len(), listpack.len());
    for (index, text) in texts.iter().enumerate() {
        assert_eq!(
            listpack.get(index).map(Element::to_vec).as_ref(),
            Some(text)
        );
        let found = listpack.find(Offset::FIRST, 0, &Needle::new(text));
        assert!(found <= listpack.seek(index), "found {found:?}");
    }
    let mut bytes = data.to_vec();
    for (index, text) in texts.iter().enumerate() {
        let offset = seek(&bytes, index);
        listpack::replace(&mut bytes, offset, &text[..]);
    }
    // Now every integer has its shortest encoding.
    let mut fresh = Vec::new();
    listpack::append_many(&mut fresh, texts.iter().map(|text| Element::new(text)));
    assert_eq!(bytes, fresh);
    listpack::remove(&mut bytes, Offset::FIRST, texts.len());
    assert!(bytes.is_empty());
}
