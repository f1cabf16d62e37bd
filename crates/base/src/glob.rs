//! Glob patterns as KEYS, SCAN and CONFIG GET read them.
//!
//! `*` any run of bytes, `?` any one byte, `[abc]`, `[^abc]`, `[a-z]` one byte of a class, `\x` the
//! byte `x`. An unclosed class ends with the pattern. Matching takes at most
//! pattern length × text length steps: on a mismatch only the latest `*` is tried further, which is
//! enough, since an earlier one could only reach the same places later.

/// True if the whole of `text` matches `pattern`.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    matches_with(pattern, text, |a, b| a == b)
}

/// As [`matches`], with ASCII letters of either case alike.
pub fn matches_ignoring_case(pattern: &[u8], text: &[u8]) -> bool {
    let pattern = pattern.to_ascii_lowercase();
    matches_with(&pattern, &text.to_ascii_lowercase(), |a, b| a == b)
}

fn matches_with(pattern: &[u8], text: &[u8], same: impl Fn(u8, u8) -> bool) -> bool {
    let (mut at, mut read) = (0, 0);
    // Where to go on after a mismatch: the pattern behind the latest `*`, and the text it must
    // match from next time.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        if pattern.get(at) == Some(&b'*') {
            at += 1;
            retry = Some((at, read));
            continue;
        }
        let step = match text.get(read) {
            Some(&byte) => one(&pattern[at..], byte, &same),
            None if at == pattern.len() => return true,
            // The text is used up: taking more of it for a `*` can't help.
            None => return false,
        };
        if let Some(used) = step {
            at += used;
            read += 1;
        } else if let Some((star, from)) = retry {
            (at, read) = (star, from + 1);
            retry = Some((star, from + 1));
        } else {
            return false;
        }
    }
}

/// Matches one byte against the first element of `pattern`; the element's length if it does.
fn one(pattern: &[u8], byte: u8, same: &impl Fn(u8, u8) -> bool) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', class @ ..] => {
            let (found, used) = class_contains(class, byte, same);
            found.then_some(1 + used)
        }
        [b'\\', literal, ..] => same(*literal, byte).then_some(2),
        [literal, ..] => same(*literal, byte).then_some(1),
    }
}

/// Looks for `byte` in a class (the pattern behind `[`) and tells how long the class is.
fn class_contains(class: &[u8], byte: u8, same: &impl Fn(u8, u8) -> bool) -> (bool, usize) {
    let negated = class.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut found = false;
    loop {
        match class[at..] {
            [] => break,
            [b']', ..] => {
                at += 1;
                break;
            }
            [b'\\', literal, ..] => {
                found |= same(literal, byte);
                at += 2;
            }
            [from, b'-', to, ..] => {
                found |= (from.min(to)..=from.max(to)).contains(&byte);
                at += 3;
            }
            [literal, ..] => {
                found |= same(literal, byte);
                at += 1;
            }
        }
    }
    (found != negated, at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_redis() {
        let cases: &[(&str, &str, bool)] = &[
            ("*", "", true),
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
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes()),
                *expected,
                "{pattern} {text}"
            );
        }
        assert!(matches_ignoring_case(b"MAX*", b"maxmemory"));
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let pattern = "a*".repeat(50) + "b";
        assert!(!matches(pattern.as_bytes(), "a".repeat(5000).as_bytes()));
    }
}
