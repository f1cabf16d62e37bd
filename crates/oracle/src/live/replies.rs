//! What a reply is, as far as it decides with which request it goes.

use damselfly_protocol::client::Value;

/// An error whose text begins so.
pub fn is_error(value: &Value, start: &[u8]) -> bool {
    matches!(value, Value::Error(text) if text.starts_with(start))
}

/// ECHO's reply, or PING's to a subscriber.
pub fn is_mark(value: &Value, mark: &str) -> bool {
    match value {
        Value::Bulk(text) => text == mark.as_bytes(),
        Value::Array(items) => {
            items[..] == [Value::Bulk(b"pong".to_vec()), Value::Bulk(mark.into())]
        }
        _ => false,
    }
}

/// The first word of a message.
fn first_word(value: &Value) -> Option<&[u8]> {
    match value {
        Value::Push(items) | Value::Array(items) => match items.first()? {
            Value::Bulk(word) => Some(word),
            _ => None,
        },
        _ => None,
    }
}

/// The word of a confirmation that a subscription begins or ends.
pub fn confirmation(value: &Value) -> Option<Vec<u8>> {
    let word = first_word(value)?;
    word.ends_with(b"subscribe").then(|| word.to_vec())
}

/// A message of a subscription, as RESP2 has it.
pub fn is_message(value: &Value) -> bool {
    let word = first_word(value);
    matches!(word, Some(b"message" | b"pmessage" | b"smessage"))
}

/// A line of MONITOR: `+1700000000.123456 [0 127.0.0.1:1] "PING"`.
pub fn is_monitored(value: &Value) -> bool {
    let Value::Simple(text) = value else {
        return false;
    };
    text.len() > 20
        && text[..10].iter().all(u8::is_ascii_digit)
        && text[10] == b'.'
        && text[17..19] == *b" ["
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_monitor_are_known() {
        let line = |text: &str| is_monitored(&Value::Simple(text.into()));
        assert!(line("1700000000.123456 [0 127.0.0.1:1] \"PING\""));
        assert!(!line("OK") && !line("17000000001123456 [0 127.0.0.1:1]"));
    }
}
