//! The grammar of one line of a configuration file: words, quotes and escapes.
//!
//! Words are separated by blanks. `"..."` has the escapes `\n \r \t \b \a \xHH \" \\`; `'...'` only `\'`.
//! A closing quote must be followed by a blank or the end of the line.

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineError {
    /// A quote is not closed, or text follows the closing quote.
    Unbalanced,
    /// Bytes, as they are or as `\xHH`, are not UTF-8.
    NotText,
}

impl std::fmt::Display for LineError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unbalanced => "unbalanced quotes in configuration line",
            Self::NotText => {
                "bytes that are not UTF-8 text; passwords with such bytes can be set as SHA-256 with '#' in a user's line"
            }
        })
    }
}

/// Splits `line` into words.
///
/// # Errors
/// What is wrong with it.
pub fn split(line: &str) -> Result<Vec<String>, LineError> {
    let mut words = Vec::new();
    let mut rest = line.trim_start_matches(blank);
    while !rest.is_empty() {
        let (word, after) = first_word(rest).ok_or(LineError::Unbalanced)?;
        words.push(String::from_utf8(word).map_err(|_| LineError::NotText)?);
        rest = after.trim_start_matches(blank);
    }
    Ok(words)
}

/// A word as a line may contain it: quoted if that is necessary.
pub fn quoted_word(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"\"'\\".contains(&byte);
    match !word.is_empty() && word.bytes().all(is_plain) {
        true => word.to_owned(),
        false => quote(word),
    }
}

/// Puts `text` in double quotes, such that [`split`] returns exactly `text`.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_ascii_control() => quoted.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

fn blank(c: char) -> bool {
    // Lines are C strings in Redis, so a zero byte ends a word.
    c.is_ascii_whitespace() || c == '\x0b' || c == '\0'
}

fn first_word(line: &str) -> Option<(Vec<u8>, &str)> {
    // Bytes and not characters, because several `\xHH` escapes may form one character.
    let mut word = Vec::new();
    let mut rest = line;
    loop {
        let Some(c) = rest.chars().next() else {
            return Some((word, rest));
        };
        match c {
            c if blank(c) => return Some((word, rest)),
            '"' | '\'' => {
                rest = quoted(&rest[1..], c, &mut word)?;
                let closed = rest.chars().next().is_none_or(blank);
                return closed.then_some((word, rest));
            }
            c => {
                word.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                rest = &rest[c.len_utf8()..];
            }
        }
    }
}

/// Reads up to the closing `quote` into `word`, and returns what follows it.
fn quoted<'a>(line: &'a str, quote: char, word: &mut Vec<u8>) -> Option<&'a str> {
    let mut rest = line;
    loop {
        let c = rest.chars().next()?;
        rest = &rest[c.len_utf8()..];
        if c == quote {
            return Some(rest);
        }
        if c != '\\' || (quote == '\'' && !rest.starts_with('\'')) {
            word.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        if let Some(byte) = hexadecimal(rest).filter(|_| quote == '"') {
            word.push(byte);
            rest = &rest[3..];
            continue;
        }
        let escaped = rest.chars().next()?;
        rest = &rest[escaped.len_utf8()..];
        let meant = match escaped {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'b' => '\x08',
            'a' => '\x07',
            other => other,
        };
        word.extend_from_slice(meant.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

/// The byte of an escape `xHH` at the start of `rest`.
fn hexadecimal(rest: &str) -> Option<u8> {
    let digits = rest.strip_prefix('x')?.get(..2)?;
    if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u8::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::{LineError, quote, split};

    #[test]
    fn lines_split_into_words_with_quotes_and_escapes() {
        let words = |line| split(line).unwrap();
        assert_eq!(words("  save 900\t1 "), ["save", "900", "1"]);
        assert_eq!(words(r#"hz "1\x30""#), ["hz", "10"]);
        assert_eq!(
            words(r#"requirepass "a\"b c\n""#),
            ["requirepass", "a\"b c\n"]
        );
        assert_eq!(words(r"loglevel 'it\'s \n'"), ["loglevel", r"it's \n"]);
        assert_eq!(words(r#"save """#), ["save", ""]);
        assert_eq!(words(""), [""; 0]);
    }

    #[test]
    fn unbalanced_quotes_and_bytes_that_are_no_text_are_refused() {
        for line in [r#"hz "12"#, "hz '12", r#"hz "1"2"#, r#"hz "\"#] {
            assert_eq!(split(line), Err(LineError::Unbalanced), "{line}");
        }
        assert_eq!(split(r#"name "\xc3\xbc""#).unwrap(), ["name", "ü"]);
        assert_eq!(split(r#"name "\xfc""#), Err(LineError::NotText));
    }

    #[test]
    fn splitting_undoes_quoting() {
        for text in ["", "a b", "\"\\'\n\r\t\x07\0", "grün"] {
            assert_eq!(split(&quote(text)).unwrap(), [text]);
        }
    }
}
