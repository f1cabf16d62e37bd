//! Options for tests and debugging.

use super::{Effect, I32_MAX, Opt};
use crate::kind::Kind;

pub(super) static OPTIONS: &[Opt] = &[
    Opt {
        is_hidden: true,
        ..Opt::live(
            "key-load-delay",
            Kind::integer(i32::MIN as i64, I32_MAX),
            field!(key_load_delay_us),
            "Microseconds to wait after each key that is loaded from a file; negative for keys per microsecond.",
        )
    },
    Opt {
        effect: Effect::Never("clients are served all the time while a file is loaded"),
        is_hidden: true,
        ..Opt::live(
            "loading-process-events-interval-bytes",
            Kind::integer(1024, i64::MAX),
            field!(loading_process_events_interval_bytes),
            "Bytes to load before clients are served.",
        )
    },
];
