//! Statistics, slow log and latency events of commands that have run.

use std::time::Instant;

use damselfly_base::CommandError;
use damselfly_commands::Args;
use damselfly_config::Config;
use damselfly_engine::Effects;

use super::Dispatcher;
use crate::admin::slowlog::{SlowCommand, shortened};
use crate::clock;
use crate::observers::monitor;
use crate::registry::Row;
use crate::session::Session;
use crate::statistics::{CommandCounters, ThreadCounters};

impl Dispatcher {
    /// Records a call that has just ended in the statistics and, if it was slow, in the slow log and the latency events.
    #[inline(always)]
    pub(crate) fn account(
        &self,
        session: &Session,
        row: &'static Row,
        args: Args<'_>,
        started: &mut u64,
        failed: Option<CommandError>,
    ) {
        let ended = self.clock.raw();
        let mut took_ns = self.clock.delta_as_nanos(*started, ended);
        *started = ended;
        if let Some(until) = session.sleeps_until {
            // DEBUG SLEEP simulates a command that takes this long.
            took_ns += until.saturating_duration_since(Instant::now()).as_nanos() as u64;
        }
        self.account_for(session, row, args, took_ns, failed);
    }

    /// The same for a command that took `took_ns` nanoseconds.
    #[inline(always)]
    pub(crate) fn account_for(
        &self,
        session: &Session,
        row: &'static Row,
        args: Args<'_>,
        took_ns: u64,
        failed: Option<CommandError>,
    ) {
        let command = &self.counters().commands[row.index];
        command.record(took_ns, self.config.latency_tracking);
        if let Some(error) = failed {
            self.note_failed(command, &error);
        }
        if took_ns >= self.slow_ns {
            self.note_if_slow(session, row, args, took_ns);
        }
    }

    #[cold]
    fn note_failed(&self, command: &CommandCounters, error: &CommandError) {
        command.failed.add(1);
        self.counters().count_error(&error.to_bytes());
    }

    /// Records a call in the slow log, if it took long enough for that, and in the latency events.
    #[cold]
    fn note_if_slow(&self, session: &Session, row: &'static Row, args: Args<'_>, took_ns: u64) {
        if self.is_slow(took_ns) {
            self.note_slow(session, row, args, took_ns / 1000);
        }
        let threshold_ms = self.config.latency_monitor_threshold_ms;
        if threshold_ms > 0 && took_ns / 1_000_000 >= threshold_ms {
            let event = if row.command.has(damselfly_commands::Trait::Fast) {
                "fast-command"
            } else {
                "command"
            };
            self.shared
                .latency
                .add(event, clock::now_ms() / 1000, took_ns / 1_000_000);
        }
    }

    /// True if a command that took this long belongs in the slow log.
    pub(crate) fn is_slow(&self, took_ns: u64) -> bool {
        let slower_than_us = self.config.slowlog_log_slower_than_us;
        slower_than_us >= 0 && took_ns / 1000 >= slower_than_us.unsigned_abs()
    }

    #[cold]
    pub(super) fn note_slow(&self, session: &Session, row: &Row, args: Args<'_>, took_us: u64) {
        if row.command.has(damselfly_commands::Trait::SkipSlowlog) {
            return;
        }
        let all = monitor::without_secrets(row, args);
        let command = SlowCommand {
            id: 0,
            at_s: clock::now_ms() / 1000,
            took_us,
            args: shortened(all.into_iter()),
            address: session.client.address.clone(),
            name: session.client.names().name.clone(),
        };
        let len_max = usize::try_from(self.config.slowlog_max_len).unwrap_or(usize::MAX);
        self.shared.slowlog.add(command, len_max);
    }
}

/// How many nanoseconds a call must take to belong in the slow log or the latency events.
pub(super) fn slow_ns(config: &Config) -> u64 {
    let for_log = match config.slowlog_log_slower_than_us {
        0.. => config
            .slowlog_log_slower_than_us
            .unsigned_abs()
            .saturating_mul(1000),
        _ => u64::MAX,
    };
    let for_events = match config.latency_monitor_threshold_ms {
        0 => u64::MAX,
        threshold_ms => threshold_ms.saturating_mul(1_000_000),
    };
    for_log.min(for_events)
}

/// Counts the hits, misses and changes of a section.
#[inline]
pub(crate) fn count_effects(counters: &ThreadCounters, effects: Effects) {
    if effects.hits > 0 {
        counters.hits.add(effects.hits);
    }
    if effects.misses > 0 {
        counters.misses.add(effects.misses);
    }
    if effects.changes > 0 {
        counters.changes.add(effects.changes);
    }
}

/// True if a command's use of keys is recorded, for LRU and LFU: unless the client has turned that off (CLIENT NO-TOUCH).
#[inline]
pub(crate) fn touches_keys(session: &Session, row: &Row) -> bool {
    !session
        .client
        .no_touch
        .load(std::sync::atomic::Ordering::Relaxed)
        || row.name == "touch"
}
