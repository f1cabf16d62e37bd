//! Glob patterns, as KEYS, PSUBSCRIBE and CONFIG GET interpret them.
//!
//! No crate does this: patterns must have Redis's oddities, such as unterminated classes and signed range bounds, and bounded work.
//!
//! `*` matches any run of bytes, `?` any one byte, `[abc]`, `[^abc]` and `[a-z]` one byte of a class, `\x` the byte `x`. The rest
//! is as in Redis: an unterminated class ends with the pattern, the bounds of a range may be in either order and compare as signed
//! bytes, and the empty text matches only the empty pattern.
//!
//! A pattern is compiled once, into a program of elements that match one byte each, with runs of any bytes between them:
//!
//! ```text
//! ANY_RUN                                  *
//! ANY                                      ?, [^]
//! BYTE   | byte                            a literal
//! RANGES | count | (first, last) ...       a class with few ranges
//! BITMAP | 32 bytes                        any other class
//! ```
//!
//! Looking up a byte in a class takes constant time, however long the class is. The elements before the first `*` can match only at
//! the start of the text, and those after the last `*` only at its end. In between, every `*` matches as few bytes as possible:
//! matching more could only lead to the same positions later. So matching takes at most [`Glob::steps_max`] steps, the product of
//! both lengths at worst. A program takes at most six bytes for each byte of its pattern, and a class never more than a bitmap.

const ANY_RUN: u8 = 0;
const ANY: u8 = 1;
const BYTE: u8 = 2;
const RANGES: u8 = 3;
const BITMAP: u8 = 4;

const BITMAP_BYTES: usize = 32;

/// A class with more ranges than this would take more space than a bitmap.
const RANGES_MAX: usize = BITMAP_BYTES / 2 - 1;

/// True if the whole of `text` matches `pattern`. Compiles the pattern for this one match.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    Glob::new(pattern).matches(text)
}

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    program: Box<[u8]>,
    /// Where the elements before the first `*` end, and how many they are.
    prefix: Part,
    /// Where the elements after the last `*` start, and how many they are; `None` without a `*`.
    suffix: Option<Part>,
    /// How many elements there are.
    elements: usize,
}

/// A position in the program, and the number of elements before or after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Part {
    at: usize,
    elements: usize,
}

impl Glob {
    /// Compiles a pattern.
    pub fn new(pattern: &[u8]) -> Self {
        Self::compile(pattern, false)
    }

    /// As [`Glob::new`], but ignores the case of ASCII letters, except for those after a `\` in a class.
    pub fn ignoring_case(pattern: &[u8]) -> Self {
        Self::compile(pattern, true)
    }

    fn compile(mut pattern: &[u8], ignores_case: bool) -> Self {
        let mut program = Vec::with_capacity(2 * pattern.len());
        let (mut prefix, mut suffix, mut elements) = (None, None, 0);
        loop {
            pattern = match pattern {
                [] => break,
                [b'*', rest @ ..] => {
                    let at = program.len();
                    prefix.get_or_insert(Part { at, elements });
                    // Several `*` in a row match the same as one.
                    if suffix != Some((at, elements)) {
                        program.push(ANY_RUN);
                    }
                    suffix = Some((program.len(), elements));
                    pattern = rest;
                    continue;
                }
                [b'?', rest @ ..] => {
                    program.push(ANY);
                    rest
                }
                [b'[', class @ ..] => {
                    let (set, len) = ByteSet::of_class(class, ignores_case);
                    set.write(&mut program);
                    &class[len..]
                }
                [b'\\', byte, rest @ ..] | [byte, rest @ ..] => {
                    write_literal(*byte, ignores_case, &mut program);
                    rest
                }
            };
            elements += 1;
        }
        let end = Part {
            at: program.len(),
            elements,
        };
        Self {
            program: program.into(),
            prefix: prefix.unwrap_or(end),
            suffix: suffix.map(|(at, before)| Part {
                at,
                elements: elements - before,
            }),
            elements,
        }
    }

    /// True if the whole of `text` matches.
    pub fn matches(&self, text: &[u8]) -> bool {
        if text.is_empty() || self.program.is_empty() {
            return text.is_empty() && self.program.is_empty();
        }
        let Some(suffix) = self.suffix else {
            return self.elements == text.len() && self.run(0, text) == Run::Matched(text.len());
        };
        if self.elements > text.len() {
            return false;
        }
        let (middle, tail) = text.split_at(text.len() - suffix.elements);
        let is_matched = |at, text| matches!(self.run(at, text), Run::Matched(_));
        is_matched(0, middle) && is_matched(suffix.at, tail) && self.finds_runs(middle)
    }

    /// True if the elements between the first `*` and the last one occur after the prefix in `text`, in this order.
    fn finds_runs(&self, text: &[u8]) -> bool {
        let end = self.suffix.map_or(0, |suffix| suffix.at);
        let (mut at, mut read) = (self.prefix.at + 1, self.prefix.elements);
        while at < end {
            // Most positions differ in the first byte.
            if self.program[at] == BYTE {
                let first = self.program[at + 1];
                let Some(skipped) = text[read..].iter().position(|&byte| byte == first) else {
                    return false;
                };
                read += skipped;
            }
            match self.run(at, &text[read..]) {
                Run::Matched(bytes) => {
                    read += bytes;
                    at = self.next_run(at);
                }
                Run::Differs => read += 1,
                Run::TextEnds => return false,
            }
        }
        true
    }

    /// Matches the elements from `at` to the next `*` with the beginning of `text`.
    fn run(&self, mut at: usize, text: &[u8]) -> Run {
        let mut read = 0;
        while let Some(&kind) = self.program.get(at)
            && kind != ANY_RUN
        {
            let Some(&byte) = text.get(read) else {
                return Run::TextEnds;
            };
            let operand = at + 1;
            let found = match kind {
                ANY => true,
                BYTE => self.program[operand] == byte,
                RANGES => self.ranges(operand).any(|range| range.contains(&byte)),
                _ => self.program[operand + usize::from(byte / 8)] & 1 << (byte % 8) != 0,
            };
            if !found {
                return Run::Differs;
            }
            at = self.next(at);
            read += 1;
        }
        Run::Matched(read)
    }

    fn ranges(&self, operand: usize) -> impl Iterator<Item = std::ops::RangeInclusive<u8>> {
        let len = 2 * usize::from(self.program[operand]);
        let bounds = &self.program[operand + 1..][..len];
        bounds.chunks_exact(2).map(|pair| pair[0]..=pair[1])
    }

    /// The position of the element after the one at `at`.
    fn next(&self, at: usize) -> usize {
        at + match self.program[at] {
            ANY_RUN | ANY => 1,
            BYTE => 2,
            RANGES => 2 + 2 * usize::from(self.program[at + 1]),
            _ => 1 + BITMAP_BYTES,
        }
    }

    /// The position after the next `*`.
    fn next_run(&self, mut at: usize) -> usize {
        while self.program[at] != ANY_RUN {
            at = self.next(at);
        }
        at + 1
    }

    /// The maximum number of steps to match a text of `text_bytes` bytes. A step compares one byte with one element.
    pub fn steps_max(&self, text_bytes: usize) -> usize {
        let ends = self.prefix.elements + self.suffix.map_or(0, |suffix| suffix.elements);
        if self.elements > text_bytes {
            return 1;
        }
        let middle = self.elements.saturating_sub(ends);
        ends + 1 + middle.saturating_mul(text_bytes)
    }
}

/// The result of matching elements with the beginning of a text.
#[derive(PartialEq, Eq)]
enum Run {
    /// All elements match; they match so many bytes.
    Matched(usize),
    /// An element does not match its byte.
    Differs,
    /// The text ends before the elements do; those before its end match.
    TextEnds,
}

fn write_literal(byte: u8, ignores_case: bool, program: &mut Vec<u8>) {
    let (upper, lower) = (byte.to_ascii_uppercase(), byte.to_ascii_lowercase());
    if ignores_case && upper != lower {
        program.extend([RANGES, 2, upper, upper, lower, lower]);
    } else {
        program.extend([BYTE, byte]);
    }
}

/// A set of bytes.
#[derive(Clone, Copy, Default)]
struct ByteSet([u64; 4]);

/// The rank of a byte among all bytes when they are compared as signed, as in Redis.
fn signed_place(byte: u8) -> u8 {
    byte ^ 0x80
}

impl ByteSet {
    fn contains(&self, byte: u8) -> bool {
        self.0[usize::from(byte / 64)] & 1 << (byte % 64) != 0
    }

    fn insert_range(&mut self, first: u8, last: u8) {
        for (word, bits) in self.0.iter_mut().enumerate() {
            let start = word as u8 * 64;
            let (low, high) = (first.max(start), last.min(start + 63));
            if low <= high {
                *bits |= u64::MAX >> (63 - (high - low)) << (low - start);
            }
        }
    }

    fn insert(&mut self, byte: u8) {
        self.insert_range(byte, byte);
    }

    /// The set of bytes of a class, and the length of the class. `class` begins after its `[`.
    fn of_class(class: &[u8], ignores_case: bool) -> (Self, usize) {
        let fold = |byte: u8| match ignores_case {
            true => byte.to_ascii_lowercase(),
            false => byte,
        };
        let negated = class.first() == Some(&b'^');
        let mut at = usize::from(negated);
        // `exact` holds bytes that match as they are. `folded` holds the signed ranks of bytes that match after case folding.
        let (mut exact, mut folded) = (Self::default(), Self::default());
        loop {
            match class[at..] {
                [] => break,
                [b'\\', byte, ..] => {
                    exact.insert(byte);
                    at += 2;
                }
                [b']', ..] => {
                    at += 1;
                    break;
                }
                [from, b'-', to, ..] => {
                    let (low, high) = match signed_place(from) <= signed_place(to) {
                        true => (from, to),
                        false => (to, from),
                    };
                    // Folding may swap the order of the bounds: such a range matches nothing.
                    folded.insert_range(signed_place(fold(low)), signed_place(fold(high)));
                    at += 3;
                }
                [byte, ..] => {
                    folded.insert(signed_place(fold(byte)));
                    at += 1;
                }
            }
        }
        let mut set = Self::default();
        for byte in 0..=u8::MAX {
            let found = exact.contains(byte) || folded.contains(signed_place(fold(byte)));
            if found != negated {
                set.insert(byte);
            }
        }
        (set, at)
    }

    /// Writes the element that matches the bytes of the set.
    fn write(&self, program: &mut Vec<u8>) {
        let start = program.len();
        program.extend([RANGES, 0]);
        let mut count = 0;
        for byte in 0..=u8::MAX {
            if !self.contains(byte) {
                continue;
            }
            match program.last_mut() {
                Some(last) if count > 0 && *last + 1 == byte => *last = byte,
                _ if count == RANGES_MAX => {
                    program.truncate(start);
                    program.push(BITMAP);
                    program.extend(self.0.iter().flat_map(|word| word.to_le_bytes()));
                    return;
                }
                _ => {
                    program.extend([byte, byte]);
                    count += 1;
                }
            }
        }
        match program[start + 2..] {
            [0, u8::MAX] => {
                program.truncate(start);
                program.push(ANY);
            }
            [first, last] if first == last => {
                program.truncate(start);
                program.extend([BYTE, first]);
            }
            _ => program[start + 1] = count as u8,
        }
    }
}

#[cfg(test)]
mod tests;
