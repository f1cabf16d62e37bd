//! Patterns of keys and channels.

use damselfly_base::glob::Glob;

/// How a command uses a key, or what a pattern allows: reading the value, writing it, both, or (of a command) neither.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyUse(u8);

impl KeyUse {
    /// Neither: metadata is read.
    pub const NONE: Self = Self(0);
    /// The value is read.
    pub const READ: Self = Self(1);
    /// The value is written or removed.
    pub const WRITE: Self = Self(2);
    /// Both.
    pub const BOTH: Self = Self(3);

    /// True if everything in `other` is in this.
    #[inline]
    pub fn covers(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// What is in one of both.
    pub fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A glob pattern that knows its text, and needs no interpreter for the two most frequent forms. Most texts that do not match differ in their
/// first bytes, so these are compared first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pattern {
    /// The bytes with which every matching text begins, and which bits of a [`Head`] they are.
    head: Head,
    head_mask: u64,
    form: Form,
    pub text: Box<[u8]>,
}

/// How many bytes a [`Head`] has.
const HEAD_BYTES: usize = 8;

/// The first bytes of a text, with zeros behind its end. Patterns contain no zero bytes, so a text that ends too early differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head(u64);

impl Head {
    #[inline]
    pub fn of(text: &[u8]) -> Self {
        match text.first_chunk() {
            Some(first) => Self(u64::from_le_bytes(*first)),
            None => {
                let mut first = [0; HEAD_BYTES];
                first[..text.len()].copy_from_slice(text);
                Self(u64::from_le_bytes(first))
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// The text itself.
    Literal,
    /// The text without its last byte, a `*`, and then anything.
    Prefix,
    /// The same, if the head has all bytes before the `*`.
    ShortPrefix,
    /// Boxed, so that little memory is between the heads of a list of patterns.
    Glob(Box<Glob>),
}

impl Pattern {
    pub fn new(text: &[u8]) -> Self {
        let is_plain = |text: &[u8]| !text.iter().any(|byte| b"*?[\\".contains(byte));
        let form = match text {
            text if is_plain(text) => Form::Literal,
            // The empty text matches only the empty pattern, also here.
            [prefix @ .., b'*'] if is_plain(prefix) && !prefix.is_empty() => match prefix.len() {
                ..=HEAD_BYTES => Form::ShortPrefix,
                _ => Form::Prefix,
            },
            text => Form::Glob(Box::new(Glob::new(text))),
        };
        let fixed = text.iter().position(|byte| b"*?[\\".contains(byte));
        let fixed = &text[..fixed.unwrap_or(text.len()).min(HEAD_BYTES)];
        Self {
            text: text.into(),
            form,
            head: Head::of(fixed),
            head_mask: match fixed.len() {
                0 => 0,
                len => u64::MAX >> (64 - 8 * len),
            },
        }
    }

    /// True if the whole of `text`, which begins with `head`, matches.
    #[inline]
    pub fn matches_with(&self, text: &[u8], head: Head) -> bool {
        head.0 & self.head_mask == self.head.0 && self.matches_behind_head(text)
    }

    /// True if the whole of `text` matches.
    pub fn matches(&self, text: &[u8]) -> bool {
        self.matches_with(text, Head::of(text))
    }

    /// True if the whole of `text` matches, of which the head is known to match.
    #[inline]
    fn matches_behind_head(&self, text: &[u8]) -> bool {
        match &self.form {
            Form::ShortPrefix => true,
            Form::Literal => *self.text == *text,
            Form::Prefix => text.starts_with(&self.text[..self.text.len() - 1]),
            Form::Glob(glob) => glob.matches(text),
        }
    }
}

/// A pattern of keys, and what may be done with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyPattern {
    pub pattern: Pattern,
    pub allows: KeyUse,
}

impl KeyPattern {
    /// The rule that gives this pattern. One that matches all keys is told from `~*`, after which no further pattern may follow.
    pub fn rule(&self) -> Vec<u8> {
        let prefix: &[u8] = match self.allows {
            KeyUse::READ => b"%R~",
            KeyUse::WRITE => b"%W~",
            _ if *self.pattern.text == *b"*" => b"%RW~",
            _ => b"~",
        };
        [prefix, &self.pattern.text].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use damselfly_base::glob;

    #[test]
    fn every_form_matches_as_the_glob_does() {
        let texts: &[&[u8]] = &[
            b"app:1:xyz",
            b"app:1:xyz9",
            b"app:1:xyZ",
            b"app:1:xy",
            b"app:1:x",
            b"app:1:",
            b"app:2:xyz",
            b"a\0",
            b"",
            b"a",
            b"ab",
            b"abc",
            b"*",
            b"a*",
            b"b",
            b"a\\",
        ];
        let patterns: &[&[u8]] = &[
            b"app:1:xyz",
            b"app:1:xy",
            b"app:1:x*",
            b"app:1:xy*",
            b"app:1:xyz*",
            b"app:?:xy*",
            b"app:1:[x]y*",
            b"",
            b"a",
            b"a*",
            b"*",
            b"a?",
            b"[ab]*",
            b"a\\*",
            b"**",
            b"ab*c",
        ];
        for pattern in patterns {
            for text in texts {
                let compiled = Pattern::new(pattern);
                let expected = glob::matches(pattern, text);
                assert_eq!(compiled.matches(text), expected, "{pattern:?} {text:?}");
            }
        }
    }
}
