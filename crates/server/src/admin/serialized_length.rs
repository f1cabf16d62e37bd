//! How long values are in a snapshot, which DEBUG OBJECT shows.

use damselfly_value::{Element, Side, Text, Value};

/// The size of a value in a snapshot, in bytes, if its elements are stored one by one and uncompressed.
pub(super) fn serialized_bytes(value: Value<'_>) -> usize {
    match value {
        Value::Text(Text::Integer(number)) => serialized_integer(number),
        Value::Text(string) => serialized_text(string.len()),
        Value::List(list) => {
            let mut bytes = serialized_count(list.len());
            let mut walk = list.walk(0, Side::Left);
            while let Some(element) = walk.step() {
                bytes += serialized_element(element);
            }
            bytes
        }
        Value::Set(set) => {
            let mut bytes = serialized_count(set.len());
            set.for_each(|member| bytes += serialized_element(member));
            bytes
        }
        Value::Hash(hash) => {
            let mut bytes = serialized_count(hash.len());
            hash.for_each(|pair| {
                bytes += serialized_element(pair.field) + serialized_element(pair.value);
            });
            bytes
        }
        Value::SortedSet(set) => {
            let members = set.iter().map(|scored| serialized_element(scored.member));
            serialized_count(set.len())
                + members.map(|bytes| bytes + size_of::<f64>()).sum::<usize>()
        }
        // Its nodes are stored almost as they are in memory.
        Value::Stream(stream) => stream.memory_bytes(),
    }
}

fn serialized_element(element: Element<'_>) -> usize {
    match element {
        Element::Integer(number) => serialized_integer(number),
        Element::Bytes(bytes) => serialized_text(bytes.len()),
    }
}

fn serialized_integer(number: i64) -> usize {
    if i8::try_from(number).is_ok() {
        2
    } else if i16::try_from(number).is_ok() {
        3
    } else if i32::try_from(number).is_ok() {
        5
    } else {
        serialized_text(number.to_string().len())
    }
}

fn serialized_text(len: usize) -> usize {
    serialized_count(len) + len
}

fn serialized_count(count: usize) -> usize {
    match count {
        0..64 => 1,
        64..16384 => 2,
        _ => 5,
    }
}
