//! Options for scripts.

use super::Opt;
use crate::kind::Kind;

pub(super) static OPTIONS: &[Opt] = &[Opt {
    aliases: &["lua-time-limit"],
    ..Opt::live(
        "busy-reply-threshold",
        Kind::integer(0, i64::MAX),
        field!(busy_reply_threshold_ms),
        "Milliseconds a script may run before clients that have to wait for it get a BUSY error; 0 means that they never do.",
    )
}];
