//! The words of rules: what is wrong with one, and how selectors are put together from several.

use std::fmt;

/// Why a rule is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RuleError {
    /// There is no such rule, or its pattern contains blanks.
    Syntax,
    /// There is no such command or category.
    Unknown,
    /// A key pattern after one that matches all keys.
    AfterAllKeys,
    /// A channel pattern after one that matches all channels.
    AfterAllChannels,
    /// A password to remove is not there.
    NoSuchPassword,
    /// A digest is malformed.
    BadDigest,
    /// A first argument of a subcommand.
    FirstArgumentOfSubcommand,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "Syntax error",
            Self::Unknown => "Unknown command or category name in ACL",
            Self::AfterAllKeys => {
                "Adding a pattern after the * pattern (or the 'allkeys' flag) is not valid and does not have any effect. Try 'resetkeys' to start with an empty list of patterns"
            }
            Self::AfterAllChannels => {
                "Adding a pattern after the * pattern (or the 'allchannels' flag) is not valid and does not have any effect. Try 'resetchannels' to start with an empty list of channels"
            }
            Self::NoSuchPassword => {
                "The password you are trying to remove from the user does not exist"
            }
            Self::BadDigest => {
                "The password hash must be exactly 64 characters and contain only lowercase hexadecimal characters"
            }
            Self::FirstArgumentOfSubcommand => {
                "Allowing first-arg of a subcommand is not supported"
            }
        })
    }
}

impl std::error::Error for RuleError {}

/// True for the bytes that no name and no pattern may contain, since they separate rules.
pub(crate) fn has_blanks(text: &[u8]) -> bool {
    text.iter()
        .any(|byte| byte.is_ascii_whitespace() || *byte == 0x0b || *byte == 0)
}

/// Joins the words of selectors: `(+get`, `~a)` becomes `(+get ~a)`.
///
/// # Errors
/// The word that opens a selector which no word closes.
pub fn merge_selectors<'a>(
    words: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<Vec<u8>>, &'a [u8]> {
    let mut merged: Vec<Vec<u8>> = Vec::new();
    let mut open: Option<(&[u8], Vec<u8>)> = None;
    for word in words {
        if word.starts_with(b"(") && !word.ends_with(b")") {
            open = Some((word, word.to_vec()));
        } else if let Some((_, selector)) = &mut open {
            selector.push(b' ');
            selector.extend_from_slice(word);
            if word.ends_with(b")") {
                merged.extend(open.take().map(|(_, selector)| selector));
            }
        } else {
            merged.push(word.to_vec());
        }
    }
    match open {
        Some((first, _)) => Err(first),
        None => Ok(merged),
    }
}
