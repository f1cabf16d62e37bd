//! Commands and replies as text, in the manner of `redis-cli`.
//!
//! Arguments: bare words, `'single'` or `"double"` quotes with `\n \r \t \b \a \\ \" \xHH`, and
//! `"x"*1000` for `x` a thousand times. Replies: unlike in `redis-cli`, every type looks different,
//! so equal texts mean equal replies.
//!
//! ```text
//! OK   (error) ERR no such key   (integer) 7   "bytes"   (nil)   (nil array)   (null)
//! 1) "first"        1# "key" => "value"      1~ "member"      1> "push"
//! 2) 1) "nested"    (double) 1.5   (true)   (false)   (big number) 12   (verbatim txt) "hi"
//! ```

use damselfly_protocol::client::{NullKind, Value};

/// Splits a line into arguments.
///
/// # Errors
/// A description, if a quote is not closed or text follows a closing quote directly.
pub fn split_arguments(line: &str) -> Result<Vec<Vec<u8>>, String> {
    let mut arguments = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let (argument, after) = match rest.as_bytes()[0] {
            b'"' => quoted(&rest[1..], '"')?,
            b'\'' => quoted(&rest[1..], '\'')?,
            _ => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                (rest.as_bytes()[..end].to_vec(), &rest[end..])
            }
        };
        arguments.push(argument);
        rest = after.trim_start();
    }
    Ok(arguments)
}

/// Reads up to the closing quote and a `*count` after it; also returns the rest of the text.
fn quoted(text: &str, quote: char) -> Result<(Vec<u8>, &str), String> {
    let mut bytes = Vec::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        if character == quote {
            return repeated(bytes, &text[at + 1..]);
        }
        if character != '\\' || quote == '\'' {
            bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let (_, escape) = characters
            .next()
            .ok_or("a backslash at the end of the line")?;
        bytes.push(match escape {
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'b' => 8,
            'a' => 7,
            'x' => {
                let digits = text
                    .get(at + 2..at + 4)
                    .ok_or("\\x needs two hexadecimal digits")?;
                characters.next();
                characters.next();
                u8::from_str_radix(digits, 16)
                    .map_err(|_| format!("\\x{digits} is not hexadecimal"))?
            }
            '\\' | '"' => u8::try_from(escape).expect("ASCII"),
            other => return Err(format!("unknown escape \\{other}")),
        });
    }
    Err(format!("the quote {quote} is not closed"))
}

fn repeated(bytes: Vec<u8>, after: &str) -> Result<(Vec<u8>, &str), String> {
    let end = after.find(char::is_whitespace).unwrap_or(after.len());
    let (suffix, rest) = after.split_at(end);
    match suffix.strip_prefix('*').map(str::parse) {
        Some(Ok(count)) => Ok((bytes.repeat(count), rest)),
        None if suffix.is_empty() => Ok((bytes, rest)),
        Some(Err(_)) | None => Err(format!(
            "{suffix:?} after a closing quote; expected a space or *count"
        )),
    }
}

/// `bytes` in double quotes, with everything that is not printable ASCII escaped.
#[must_use]
pub fn quote(bytes: &[u8]) -> String {
    let mut text = String::from("\"");
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\x{byte:02x}")),
        }
    }
    text.push('"');
    text
}

/// A whole command as a transcript shows it: bare words where possible, quotes where needed.
#[must_use]
pub fn command_line(arguments: &[Vec<u8>]) -> String {
    let bare = |argument: &[u8]| {
        !argument.is_empty()
            && argument
                .iter()
                .all(|byte| byte.is_ascii_graphic() && !b"\"'\\".contains(byte))
    };
    let words: Vec<String> = arguments
        .iter()
        .map(|argument| {
            if bare(argument) {
                String::from_utf8_lossy(argument).into_owned()
            } else {
                quote(argument)
            }
        })
        .collect();
    words.join(" ")
}

/// A reply as lines of text, without a trailing newline.
#[must_use]
pub fn render(value: &Value) -> String {
    match value {
        Value::Simple(text) => plain(text),
        Value::Error(text) => format!("(error) {}", plain(text)),
        Value::Integer(number) => format!("(integer) {number}"),
        Value::Bulk(bytes) => quote(bytes),
        Value::Null(NullKind::Bulk) => "(nil)".into(),
        Value::Null(NullKind::Array) => "(nil array)".into(),
        Value::Null(NullKind::Resp3) => "(null)".into(),
        Value::Array(items) => list(items, ')', "(empty array)"),
        Value::Set(items) => list(items, '~', "(empty set)"),
        Value::Push(items) => list(items, '>', "(empty push)"),
        Value::Map(pairs) if pairs.is_empty() => "(empty map)".into(),
        Value::Map(pairs) => numbered(
            pairs
                .iter()
                .map(|(key, value)| format!("{} => {}", render(key), render(value))),
            '#',
        ),
        Value::Double(text) => format!("(double) {text}"),
        Value::Boolean(true) => "(true)".into(),
        Value::Boolean(false) => "(false)".into(),
        Value::BigNumber(digits) => format!("(big number) {digits}"),
        Value::Verbatim { format, text } => format!("(verbatim {}) {}", plain(format), quote(text)),
        Value::Attribute { pairs, reply } => format!(
            "(attribute) {}\n{}",
            render(&Value::Map(pairs.clone())),
            render(reply)
        ),
    }
}

/// The text of a one-line reply; bytes that are not printable are escaped.
fn plain(bytes: &[u8]) -> String {
    let quoted = quote(bytes).replace("\\\"", "\"").replace("\\\\", "\\");
    quoted[1..quoted.len() - 1].to_string()
}

fn list(items: &[Value], mark: char, empty: &str) -> String {
    if items.is_empty() {
        return empty.into();
    }
    numbered(items.iter().map(render), mark)
}

/// Numbers the items, and indents further lines of an item under its first one.
fn numbered(items: impl ExactSizeIterator<Item = String>, mark: char) -> String {
    let width = items.len().to_string().len();
    let indent = format!("\n{}", " ".repeat(width + 2));
    let lines: Vec<String> = items
        .enumerate()
        .map(|(index, item)| {
            format!(
                "{:>width$}{mark} {}",
                index + 1,
                item.replace('\n', &indent)
            )
        })
        .collect();
    lines.join("\n")
}

/// Matches `text` against a pattern in which `*` stands for any run of characters.
#[must_use]
pub fn like(pattern: &str, text: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(rest) = text.strip_prefix(head) else {
        return false;
    };
    (0..=rest.len())
        .filter(|&at| rest.is_char_boundary(at))
        .any(|at| like(tail, &rest[at..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_split_as_redis_cli_splits_them() {
        let split = split_arguments(r#"SET 'a b' "c\x00\"d\n" "xy"*3 "" plain\n"#).unwrap();
        let expected: &[&[u8]] = &[b"SET", b"a b", b"c\0\"d\n", b"xyxyxy", b"", b"plain\\n"];
        assert_eq!(split, expected);
        assert!(split_arguments("\"open").is_err());
        assert!(split_arguments("\"a\"b").is_err());
        assert!(split_arguments("\"\\xzz\"").is_err());
    }

    #[test]
    fn quoted_text_splits_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(
            split_arguments(&command_line(&[all.clone(), vec![]])).unwrap(),
            [all, vec![]]
        );
    }

    #[test]
    fn nested_replies_are_indented() {
        let inner = Value::Array(vec![Value::Integer(1), Value::Null(NullKind::Bulk)]);
        let outer = Value::Array(vec![inner, Value::Bulk(b"x".to_vec())]);
        assert_eq!(render(&outer), "1) 1) (integer) 1\n   2) (nil)\n2) \"x\"");
    }

    #[test]
    fn a_star_matches_any_run() {
        assert!(like("(integer) *", "(integer) 12"));
        assert!(like("a*c*e", "abcde"));
        assert!(!like("a*c", "abcd"));
    }
}
