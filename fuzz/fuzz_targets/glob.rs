//! Glob patterns: they match what a slow and obvious reading of the rules says, in bounded time.
#![no_main]

use damselfly_base::glob;
use std::time::{Duration, Instant};

/// One byte of text each, but for `Run`.
enum Element {
    /// `*`
    Run,
    /// The bytes that it matches.
    Byte(Box<[bool; 256]>),
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&cut, data)) = data.split_first() else {
        return;
    };
    let (pattern, text) = data.split_at(usize::from(cut).min(data.len()));
    assert_eq!(glob::matches(pattern, text), slowly(pattern, text));
    let fold = |bytes: &[u8]| bytes.to_ascii_lowercase();
    assert_eq!(
        glob::matches_ignoring_case(pattern, text),
        slowly(&fold(pattern), &fold(text))
    );
    let (long_pattern, long_text) = (pattern.repeat(8), text.repeat(64));
    let start = Instant::now();
    glob::matches(&long_pattern, &long_text);
    // At most so many steps, of a few nanoseconds each even with the sanitizer; a class takes one per byte of it.
    let steps = (long_pattern.len() * long_text.len()) as u64;
    let limit = Duration::from_secs(2) + Duration::from_nanos(steps * 500);
    assert!(start.elapsed() < limit, "{:?}", start.elapsed());
});

/// For each beginning of the text, whether the elements so far match all of it.
fn slowly(pattern: &[u8], text: &[u8]) -> bool {
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for element in elements(pattern) {
        match element {
            Element::Run => {
                let first = reached.iter().position(|&reached| reached);
                let first = first.unwrap_or(reached.len());
                reached[first..].fill(true);
            }
            Element::Byte(accepts) => {
                for end in (0..text.len()).rev() {
                    reached[end + 1] = reached[end] && accepts[usize::from(text[end])];
                }
                reached[0] = false;
            }
        }
    }
    reached[text.len()]
}

fn elements(mut pattern: &[u8]) -> Vec<Element> {
    let mut elements = Vec::new();
    while let [first, rest @ ..] = pattern {
        pattern = rest;
        let mut accepts = Box::new([false; 256]);
        match (first, rest) {
            (b'*', _) => {
                elements.push(Element::Run);
                continue;
            }
            (b'?', _) => accepts.fill(true),
            (b'[', _) => pattern = class(rest, &mut accepts),
            (b'\\', [literal, rest @ ..]) => {
                accepts[usize::from(*literal)] = true;
                pattern = rest;
            }
            (literal, _) => accepts[usize::from(*literal)] = true,
        }
        elements.push(Element::Byte(accepts));
    }
    elements
}

/// Reads a class behind its `[`; returns what comes behind it.
fn class<'a>(class: &'a [u8], accepts: &mut [bool; 256]) -> &'a [u8] {
    let (negated, mut class) = match class {
        [b'^', class @ ..] => (true, class),
        class => (false, class),
    };
    loop {
        class = match class {
            [] => break,
            [b']', rest @ ..] => {
                class = rest;
                break;
            }
            [b'\\', literal, rest @ ..] => {
                accepts[usize::from(*literal)] = true;
                rest
            }
            [a, b'-', b, rest @ ..] => {
                accepts[usize::from(*a.min(b))..=usize::from(*a.max(b))].fill(true);
                rest
            }
            [literal, rest @ ..] => {
                accepts[usize::from(*literal)] = true;
                rest
            }
        };
    }
    if negated {
        accepts.iter_mut().for_each(|accepts| *accepts = !*accepts);
    }
    class
}
