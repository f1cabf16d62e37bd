//! Options for the expiry of keys.

use super::Opt;
use crate::kind::Kind;

pub(super) static OPTIONS: &[Opt] = &[
    Opt::live(
        "active-expire-effort",
        Kind::integer(1, 10),
        field!(active_expire_effort),
        "How hard the background sweep works to remove expired keys: the milliseconds that each round may take, on each thread.",
    ),
    Opt::at_start(
        "ttl-rounding",
        Kind::Bool,
        field!(ttl_rounding),
        "Rounds TTLs over 37 hours to whole seconds and limits them to one year, for programs that rely on it.",
    ),
];
