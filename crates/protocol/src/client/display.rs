//! Formats replies as `redis-cli` does on a terminal.

use std::fmt;

use super::value::Value;

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self, 0)
    }
}

fn show(f: &mut fmt::Formatter<'_>, value: &Value, indent: usize) -> fmt::Result {
    match value {
        Value::Simple(text) => write!(f, "{}", String::from_utf8_lossy(text)),
        Value::Error(text) => write!(f, "(error) {}", String::from_utf8_lossy(text)),
        Value::Integer(value) => write!(f, "(integer) {value}"),
        Value::Bulk(bytes) => quoted(f, bytes),
        Value::Null(_) => f.write_str("(nil)"),
        Value::Array(items) => list(f, items, ')', "(empty array)", indent),
        Value::Set(items) => list(f, items, '~', "(empty set)", indent),
        Value::Push(items) => list(f, items, '>', "(empty push)", indent),
        Value::Map(pairs) => map(f, pairs, '#', "(empty hash)", indent),
        Value::Double(text) => write!(f, "(double) {text}"),
        Value::Boolean(value) => write!(f, "({value})"),
        Value::BigNumber(digits) => write!(f, "(big number) {digits}"),
        Value::Verbatim { format: _, text } => write!(f, "{}", String::from_utf8_lossy(text)),
        Value::Attribute { pairs, reply } => {
            map(f, pairs, '|', "(empty attribute)", indent)?;
            write!(f, "\n{:indent$}", "")?;
            show(f, reply, indent)
        }
    }
}

fn list(
    f: &mut fmt::Formatter<'_>,
    items: &[Value],
    mark: char,
    empty: &str,
    indent: usize,
) -> fmt::Result {
    if items.is_empty() {
        return f.write_str(empty);
    }
    let width = items.len().to_string().len();
    for (index, item) in items.iter().enumerate() {
        number(f, index, width, mark, indent)?;
        show(f, item, indent + width + 2)?;
    }
    Ok(())
}

fn map(
    f: &mut fmt::Formatter<'_>,
    pairs: &[(Value, Value)],
    mark: char,
    empty: &str,
    indent: usize,
) -> fmt::Result {
    if pairs.is_empty() {
        return f.write_str(empty);
    }
    let width = pairs.len().to_string().len();
    for (index, (key, value)) in pairs.iter().enumerate() {
        number(f, index, width, mark, indent)?;
        show(f, key, indent + width + 2)?;
        f.write_str(" => ")?;
        let indent = indent + width + 2;
        if !is_one_line(value) {
            write!(f, "\n{:indent$}", "")?;
        }
        show(f, value, indent)?;
    }
    Ok(())
}

/// Whether a value in a map is shown on the line of its key rather than below it.
fn is_one_line(value: &Value) -> bool {
    match value {
        Value::Array(items) | Value::Set(items) | Value::Push(items) => {
            items.len() <= 1 && items.iter().all(is_one_line)
        }
        Value::Map(pairs) => pairs.len() <= 1 && pairs.iter().all(|(_, value)| is_one_line(value)),
        Value::Attribute { .. } => false,
        Value::Simple(_)
        | Value::Error(_)
        | Value::Integer(_)
        | Value::Bulk(_)
        | Value::Null(_)
        | Value::Double(_)
        | Value::Boolean(_)
        | Value::BigNumber(_)
        | Value::Verbatim { .. } => true,
    }
}

/// Writes the number of an item. The first item continues the current line, the others start new ones.
fn number(
    f: &mut fmt::Formatter<'_>,
    index: usize,
    width: usize,
    mark: char,
    indent: usize,
) -> fmt::Result {
    if index > 0 {
        write!(f, "\n{:indent$}", "")?;
    }
    write!(f, "{:>width$}{mark} ", index + 1)
}

fn quoted(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    f.write_str("\"")?;
    for &byte in bytes {
        match byte {
            b'\\' => f.write_str("\\\\")?,
            b'"' => f.write_str("\\\"")?,
            b'\n' => f.write_str("\\n")?,
            b'\r' => f.write_str("\\r")?,
            b'\t' => f.write_str("\\t")?,
            7 => f.write_str("\\a")?,
            8 => f.write_str("\\b")?,
            b' '..=b'~' => write!(f, "{}", char::from(byte))?,
            _ => write!(f, "\\x{byte:02x}")?,
        }
    }
    f.write_str("\"")
}
