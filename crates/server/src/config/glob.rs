//! Glob patterns over bytes: `*`, `?`, `[a-c]`, `[^a]` and `\` to escape.

/// Whether capitals and small letters are the same.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Case {
    /// They differ.
    Differs,
    /// They are the same, in ASCII.
    Ignored,
}

impl Case {
    fn fold(self, byte: u8) -> u8 {
        match self {
            Case::Differs => byte,
            Case::Ignored => byte.to_ascii_lowercase(),
        }
    }
}

/// Whether all of `text` matches `pattern`.
///
/// Runs in at most `pattern.len() * text.len()` steps: only the latest `*` is ever retried.
pub(crate) fn matches(pattern: &[u8], text: &[u8], case: Case) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    loop {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            star = Some((p, t));
            continue;
        }
        let step = match (text.get(t), p < pattern.len()) {
            (None, false) => return true,
            (None, true) => return pattern[p..].iter().all(|b| *b == b'*'),
            (Some(_), false) => None,
            (Some(byte), true) => one(&pattern[p..], *byte, case),
        };
        match (step, star) {
            (Some(used), _) => {
                p += used;
                t += 1;
            }
            (None, Some((after_star, taken))) => {
                p = after_star;
                t = taken + 1;
                star = Some((after_star, t));
            }
            (None, None) => return false,
        }
    }
}

/// Matches one byte at the front of `pattern`, and returns how much of the pattern that used.
fn one(pattern: &[u8], byte: u8, case: Case) -> Option<usize> {
    let same = |a: u8| case.fold(a) == case.fold(byte);
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', escaped, ..] => same(*escaped).then_some(2),
        [b'[', rest @ ..] => {
            let (negated, set) = match rest {
                [b'^', set @ ..] => (true, set),
                set => (false, set),
            };
            let end = set.iter().position(|b| *b == b']').unwrap_or(set.len());
            let used = (pattern.len() - set.len() + end + 1).min(pattern.len());
            (class(&set[..end], byte, case) != negated).then_some(used)
        }
        [literal, ..] => same(*literal).then_some(1),
        [] => None,
    }
}

fn class(set: &[u8], byte: u8, case: Case) -> bool {
    let byte = case.fold(byte);
    let mut rest = set;
    loop {
        rest = match rest {
            [low, b'-', high, tail @ ..] => {
                let (a, b) = (case.fold(*low), case.fold(*high));
                if (a.min(b)..=a.max(b)).contains(&byte) {
                    return true;
                }
                tail
            }
            [single, tail @ ..] => {
                if case.fold(*single) == byte {
                    return true;
                }
                tail
            }
            [] => return false,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::{Case, matches};

    #[test]
    fn patterns_match_as_redis_matches_option_names() {
        for (pattern, text, expected) in [
            ("h*", "hz", true),
            ("H?", "hz", true),
            ("[hl]z", "hz", true),
            ("[^hl]z", "hz", false),
            ("[a-i]z", "hz", true),
            ("h[z", "hz", true),
            ("*a*b*c", "xxaxbxxc", true),
            ("*a*b*c", "xxaxbxx", false),
            ("\\*", "*", true),
            ("", "", true),
            ("", "x", false),
            ("x**", "x", true),
        ] {
            let matched = matches(pattern.as_bytes(), text.as_bytes(), Case::Ignored);
            assert_eq!(matched, expected, "{pattern} {text}");
        }
        assert!(!matches(b"H*", b"hz", Case::Differs));
    }
}
