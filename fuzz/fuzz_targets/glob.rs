//! Glob patterns: they match the same texts as a slow, obvious implementation of the rules, in bounded time.
#![no_main]

use damselfly_base::glob::Glob;
use std::time::{Duration, Instant};

/// An element of a pattern. Each matches one byte of text, except `Run`.
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
    for (glob, ignores_case) in [
        (Glob::new(pattern), false),
        (Glob::ignoring_case(pattern), true),
    ] {
        assert_eq!(glob.matches(text), slowly(pattern, text, ignores_case));
    }
    let (long_pattern, long_text) = (pattern.repeat(8), text.repeat(64));
    let start = Instant::now();
    let glob = Glob::new(&long_pattern);
    glob.matches(&long_text);
    // The matcher takes at most this many steps, of a few nanoseconds each even with the sanitizer.
    let steps = (long_pattern.len() + glob.steps_max(long_text.len())) as u64;
    let limit = Duration::from_secs(2) + Duration::from_nanos(steps * 500);
    assert!(start.elapsed() < limit, "{:?}", start.elapsed());
});

/// Tracks for each prefix of the text whether the elements so far match it.
fn slowly(pattern: &[u8], text: &[u8], ignores_case: bool) -> bool {
    if text.is_empty() {
        return pattern.is_empty();
    }
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for element in elements(pattern, ignores_case) {
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

fn elements(mut pattern: &[u8], ignores_case: bool) -> Vec<Element> {
    let mut elements = Vec::new();
    while let [first, rest @ ..] = pattern {
        pattern = rest;
        let mut accepts = Box::new([false; 256]);
        let is_same = |a: u8, b: u8| a == b || ignores_case && a.eq_ignore_ascii_case(&b);
        let literal = match (first, rest) {
            (b'*', _) => {
                elements.push(Element::Run);
                continue;
            }
            (b'\\', [literal, rest @ ..]) => {
                pattern = rest;
                *literal
            }
            (literal, _) => *literal,
        };
        match first {
            b'?' => accepts.fill(true),
            b'[' => {
                let mut behind = rest;
                for byte in 0..=u8::MAX {
                    (accepts[usize::from(byte)], behind) = class(rest, byte, ignores_case);
                }
                pattern = behind;
            }
            _ => {
                for byte in 0..=u8::MAX {
                    accepts[usize::from(byte)] = is_same(literal, byte);
                }
            }
        }
        elements.push(Element::Byte(accepts));
    }
    elements
}

/// Looks for a byte in a class, given from after its `[`; also returns the rest of the pattern after the class.
fn class(class: &[u8], byte: u8, ignores_case: bool) -> (bool, &[u8]) {
    let fold = |byte: u8| match ignores_case {
        true => byte.to_ascii_lowercase() as i8,
        false => byte as i8,
    };
    let (negated, mut class) = match class {
        [b'^', class @ ..] => (true, class),
        class => (false, class),
    };
    let mut found = false;
    loop {
        class = match class {
            [] => break,
            [b'\\', literal, rest @ ..] => {
                found |= *literal == byte;
                rest
            }
            [b']', rest @ ..] => {
                class = rest;
                break;
            }
            [a, b'-', b, rest @ ..] => {
                let (low, high) = if *a as i8 <= *b as i8 {
                    (*a, *b)
                } else {
                    (*b, *a)
                };
                found |= (fold(low)..=fold(high)).contains(&fold(byte));
                rest
            }
            [literal, rest @ ..] => {
                found |= fold(*literal) == fold(byte);
                rest
            }
        };
    }
    (found != negated, class)
}
