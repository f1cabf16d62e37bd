//! The client side, for tools and tests: writes commands and reads replies.

mod display;
mod skip;
#[cfg(test)]
mod tests;
mod value;

pub use skip::skip_reply;
pub use value::{DecodeError, DecodeLimits, Decoder, NullKind, Value};

use crate::reply::{Reply, Version};

/// Appends a command as a multibulk request.
pub fn write_command(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    let mut request = Reply::new(out, Version::Resp2);
    request.array(arguments.len());
    for argument in arguments {
        request.bulk(argument);
    }
}
