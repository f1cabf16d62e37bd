//! Options for the slow log and latency.

use super::{Access, Opt};
use crate::kind::Kind;
use crate::types::Percentiles;

pub(super) static OPTIONS: &[Opt] = &[
    Opt::live(
        "slowlog-log-slower-than",
        Kind::integer(-1, i64::MAX),
        field!(slowlog_log_slower_than_us),
        "Microseconds from which a command is recorded in the slow log; 0 records all, -1 none.",
    ),
    Opt::live(
        "slowlog-max-len",
        Kind::integer(0, i64::MAX),
        field!(slowlog_max_len),
        "How many entries the slow log keeps; the oldest are dropped.",
    ),
    Opt::live(
        "latency-monitor-threshold",
        Kind::integer(0, i64::MAX),
        field!(latency_monitor_threshold_ms),
        "Milliseconds from which an event is recorded by the latency monitor; 0 disables it.",
    ),
    Opt::live(
        "latency-tracking",
        Kind::Bool,
        field!(latency_tracking),
        "Keeps a histogram of execution times for each command.",
    ),
    Opt::live(
        "latency-tracking-info-percentiles",
        Kind::Words,
        Access {
            read: |c| c.latency_tracking_info_percentiles.show(),
            write: |c, value| {
                c.latency_tracking_info_percentiles = Percentiles::parse(&value.words())?;
                Ok(())
            },
        },
        "Percentiles of those histograms that INFO shows, each from 0 to 100.",
    ),
];
