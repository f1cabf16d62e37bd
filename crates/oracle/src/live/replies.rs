//! Classifies replies, as far as needed to match them with requests.

use damselfly_protocol::client::Value;

/// True for an error whose text begins with `start`.
pub fn is_error(value: &Value, start: &[u8]) -> bool {
    matches!(value, Value::Error(text) if text.starts_with(start))
}

/// True for the reply to ECHO with this mark, or to PING with it from a subscriber.
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

/// The first word of a reply that confirms the start or end of a subscription.
pub fn confirmation(value: &Value) -> Option<Vec<u8>> {
    let word = first_word(value)?;
    word.ends_with(b"subscribe").then(|| word.to_vec())
}

/// True for a message to a subscriber, in the form of RESP2.
pub fn is_message(value: &Value) -> bool {
    let word = first_word(value);
    matches!(word, Some(b"message" | b"pmessage" | b"smessage"))
}

/// True for a line of MONITOR: `+1700000000.123456 [0 127.0.0.1:1] "PING"`.
pub fn is_monitored(value: &Value) -> bool {
    let Value::Simple(text) = value else {
        return false;
    };
    text.len() > 20
        && text[..10].iter().all(u8::is_ascii_digit)
        && text[10] == b'.'
        && text[17..19] == *b" ["
}

/// How many characters a report shows of a request or reply.
pub const SHOWN_CHARS: usize = 300;

/// Cuts a long text to [`SHOWN_CHARS`] characters.
pub fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{}... ({} bytes)", &text[..end], text.len()),
        None => text.to_owned(),
    }
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
