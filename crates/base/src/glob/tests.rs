//! Tests of glob patterns, most of them against a copy of Redis's algorithm.

use super::*;
use crate::random::Random;

/// `stringmatchlen_impl` of Redis 7.0 (`util.c`), line by line; `char` is signed there. Strings end with a zero byte that is not
/// part of them.
fn as_in_redis(mut pattern: &[u8], mut text: &[u8], nocase: bool, skip: &mut bool) -> bool {
    let at = |pattern: &[u8], index: usize| pattern.get(index).copied().unwrap_or(0);
    let lower = |byte: u8| i32::from(byte.to_ascii_lowercase() as i8);
    while !pattern.is_empty() && !text.is_empty() {
        match pattern[0] {
            b'*' => {
                while at(pattern, 1) == b'*' {
                    pattern = &pattern[1..];
                }
                if pattern.len() == 1 {
                    return true;
                }
                while !text.is_empty() {
                    if as_in_redis(&pattern[1..], text, nocase, skip) {
                        return true;
                    }
                    if *skip {
                        return false;
                    }
                    text = &text[1..];
                }
                *skip = true;
                return false;
            }
            b'?' => text = &text[1..],
            b'[' => {
                pattern = &pattern[1..];
                let not = at(pattern, 0) == b'^' && !pattern.is_empty();
                if not {
                    pattern = &pattern[1..];
                }
                let (mut found, mut unclosed) = (false, false);
                loop {
                    if pattern.len() >= 2 && pattern[0] == b'\\' {
                        pattern = &pattern[1..];
                        found |= pattern[0] == text[0];
                    } else if at(pattern, 0) == b']' {
                        break;
                    } else if pattern.is_empty() {
                        unclosed = true;
                        break;
                    } else if pattern.len() >= 3 && pattern[1] == b'-' {
                        let (mut start, mut end) = (pattern[0] as i8, pattern[2] as i8);
                        if start > end {
                            std::mem::swap(&mut start, &mut end);
                        }
                        let (mut start, mut end) = (i32::from(start), i32::from(end));
                        let mut byte = i32::from(text[0] as i8);
                        if nocase {
                            (start, end) = (lower(start as u8), lower(end as u8));
                            byte = lower(text[0]);
                        }
                        pattern = &pattern[2..];
                        found |= byte >= start && byte <= end;
                    } else if nocase {
                        found |= lower(pattern[0]) == lower(text[0]);
                    } else {
                        found |= pattern[0] == text[0];
                    }
                    pattern = &pattern[1..];
                }
                if found == not {
                    return false;
                }
                text = &text[1..];
                if unclosed {
                    return text.is_empty();
                }
            }
            _ => {
                if pattern[0] == b'\\' && pattern.len() >= 2 {
                    pattern = &pattern[1..];
                }
                let same = match nocase {
                    true => lower(pattern[0]) == lower(text[0]),
                    false => pattern[0] == text[0],
                };
                if !same {
                    return false;
                }
                text = &text[1..];
            }
        }
        pattern = &pattern[1..];
        if text.is_empty() {
            while at(pattern, 0) == b'*' {
                pattern = &pattern[1..];
            }
            break;
        }
    }
    pattern.is_empty() && text.is_empty()
}

#[test]
fn patterns_match_as_in_redis() {
    let cases: &[(&str, &str, bool)] = &[
        ("*", "", false),
        ("", "", true),
        ("", "a", false),
        ("h?llo", "hello", true),
        ("h?llo", "hllo", false),
        ("h*llo", "heeeello", true),
        ("h[ae]llo", "hallo", true),
        ("h[ae]llo", "hillo", false),
        ("h[^e]llo", "hallo", true),
        ("h[^e]llo", "hello", false),
        ("h[a-b]llo", "hbllo", true),
        ("h[b-a]llo", "hbllo", true),
        ("h\\*llo", "h*llo", true),
        ("h\\*llo", "hello", false),
        ("*foo*", "barfoobar", true),
        ("*foo", "barfoobar", false),
        ("a*b*c", "aXbXbXc", true),
        ("[abc", "b", true),
        ("[]", "a", false),
        ("[^]", "a", true),
        ("a\\", "a\\", true),
        ("**a", "a", true),
        ("a*", "a", true),
        ("ab*ba", "aba", false),
    ];
    for (pattern, text, expected) in cases {
        assert_eq!(
            matches(pattern.as_bytes(), text.as_bytes()),
            *expected,
            "{pattern} {text}"
        );
    }
    assert!(Glob::ignoring_case(b"MAX*").matches(b"maxmemory"));
}

#[test]
fn random_patterns_match_as_in_redis() {
    const PATTERN: &[u8] = b"**??[[]]^^\\--abAB_Z9\xff\x80\x7f\0";
    const TEXT: &[u8] = b"aabbABZ_9]-\\^\xff\x80\x7f\0";
    let mut random = Random::for_test();
    let mut pick = |from: &[u8], len_max: usize| -> Vec<u8> {
        let len = random.below(len_max + 1);
        (0..len).map(|_| from[random.below(from.len())]).collect()
    };
    let mut matched = 0;
    for _ in 0..300_000 {
        let (pattern, text) = (pick(PATTERN, 12), pick(TEXT, 8));
        for (glob, nocase) in [
            (Glob::new(&pattern), false),
            (Glob::ignoring_case(&pattern), true),
        ] {
            let expected = as_in_redis(&pattern, &text, nocase, &mut false);
            assert_eq!(
                glob.matches(&text),
                expected,
                "{} {} {nocase}",
                pattern.escape_ascii(),
                text.escape_ascii()
            );
            matched += usize::from(expected);
        }
    }
    assert!(matched > 10_000, "{matched}");
}

#[test]
fn random_classes_match_as_in_redis() {
    let mut random = Random::for_test();
    for _ in 0..2000 {
        let len = random.below(80);
        let mut class = vec![b'['];
        class.extend((0..len).map(|_| match random.below(4) {
            0 => b'-',
            _ => random.below(256) as u8,
        }));
        let text = random.below(256) as u8;
        for (glob, nocase) in [
            (Glob::new(&class), false),
            (Glob::ignoring_case(&class), true),
        ] {
            let expected = as_in_redis(&class, &[text], nocase, &mut false);
            let shown = class.escape_ascii();
            assert_eq!(glob.matches(&[text]), expected, "{shown} {text} {nocase}");
        }
    }
}

/// The bug: KEYS with a class of tens of thousands of characters ran for seconds against a long key. The cause: patterns were not
/// compiled, so each look-up of a byte parsed the class again. Now patterns are compiled, and long classes are bitmaps.
#[test]
fn a_class_takes_no_more_time_than_any_element() {
    let class: Vec<u8> = [b"*[".as_slice(), &b"bcd".repeat(20_000), b"]*e"].concat();
    let text = vec![b'a'; 1 << 20];
    let glob = Glob::new(&class);
    assert!(!glob.matches(&[&text[..], b"e"].concat()));
    assert!(glob.steps_max(text.len()) <= 2 * text.len());
    assert!(glob.program.len() < 100);
    // A class of many ranges stays small, too.
    let every_second: Vec<u8> = (0..=u8::MAX)
        .step_by(2)
        .filter(|byte| !b"\\]^".contains(byte))
        .collect();
    let classes = [b"*[", &every_second[..], b"]"].concat().repeat(3);
    assert!(Glob::new(&classes).program.len() <= 3 * (1 + 1 + BITMAP_BYTES));
}

#[test]
fn many_stars_take_no_exponential_time() {
    let pattern = "a*".repeat(50) + "b";
    let text = "a".repeat(5000);
    assert!(!matches(pattern.as_bytes(), text.as_bytes()));
    let pattern = "a*".repeat(50) + "b*";
    assert!(!matches(pattern.as_bytes(), text.as_bytes()));
    assert!(Glob::new(pattern.as_bytes()).steps_max(text.len()) <= 52 * text.len());
}

#[test]
fn a_program_is_about_as_long_as_its_pattern() {
    let mut random = Random::for_test();
    for unit in [
        "a",
        "?",
        "*a",
        "[]",
        "[^]",
        "[a]",
        "[ac]",
        "[^a]",
        "[aceg]",
        "[^acegikmo]",
        "[acegikmoqsuwyACEGIKM]",
    ] {
        let pattern = unit.repeat(1 + random.below(100));
        for glob in [
            Glob::new(pattern.as_bytes()),
            Glob::ignoring_case(pattern.as_bytes()),
        ] {
            assert!(glob.program.len() <= 6 * pattern.len(), "{unit}");
        }
    }
}
