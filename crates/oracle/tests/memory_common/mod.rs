//! Shared by the tests of memory: replies as text, and polling until a condition holds.

#[path = "../common/until.rs"]
mod until;

use damselfly_protocol::client::Value;
pub use until::until;

/// The text of a reply, without its type.
pub fn text(value: &Value) -> String {
    match value {
        Value::Simple(bytes) | Value::Error(bytes) | Value::Bulk(bytes) => {
            String::from_utf8_lossy(bytes).into_owned()
        }
        Value::Integer(number) => number.to_string(),
        other => other.to_string(),
    }
}
