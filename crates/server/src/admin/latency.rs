//! The latency monitor, which records slow events of the server, and LATENCY, which shows them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use damselfly_base::CommandError;
use damselfly_commands::Arity::{AtLeast, Exactly};
use damselfly_commands::{Args, Arity, Command, Group, Keys, Result, Run, Trait};
use damselfly_protocol::Reply;

use crate::registry::{Handler, REGISTRY, Row, SessionFn, counted_rows};
use crate::session::Context;
use crate::statistics::CommandTotals;

/// The most samples kept per event.
pub const SAMPLES_MAX: usize = 160;

/// The samples of one event.
#[derive(Clone, Debug, Default)]
pub struct Event {
    /// Times in seconds since the epoch with latencies in milliseconds, oldest first.
    pub samples: VecDeque<(i64, u64)>,
    /// The highest latency ever, in milliseconds.
    pub max_ms: u64,
}

/// The samples of all events, by name.
#[derive(Debug, Default)]
pub struct LatencyMonitor(Mutex<BTreeMap<&'static str, Event>>);

impl LatencyMonitor {
    /// All events.
    pub fn events(&self) -> MutexGuard<'_, BTreeMap<&'static str, Event>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a sample of `event`. Of several samples within one second, only the longest is kept.
    pub fn add(&self, event: &'static str, now_s: i64, took_ms: u64) {
        let mut events = self.events();
        let event = events.entry(event).or_default();
        event.max_ms = event.max_ms.max(took_ms);
        match event.samples.back_mut() {
            Some((at, ms)) if *at == now_s => *ms = took_ms.max(*ms),
            Some(_) | None => event.samples.push_back((now_s, took_ms)),
        }
        if event.samples.len() > SAMPLES_MAX {
            event.samples.pop_front();
        }
    }

    /// Adds a sample of `event` if it took at least as long as the threshold, `latency-monitor-threshold`. A threshold of zero means
    /// never.
    pub fn add_if_slow(&self, event: &'static str, now_s: i64, took: Duration, threshold_ms: u64) {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        if threshold_ms > 0 && took_ms >= threshold_ms {
            self.add(event, now_s, took_ms);
        }
    }
}

/// The traits of the subcommands that show samples, and of RESET.
const SHOWS: &[Trait] = &[
    Trait::Admin,
    Trait::NoScript,
    Trait::Loading,
    Trait::Stale,
    Trait::Tip("nondeterministic_output"),
    Trait::Tip("request_policy:all_nodes"),
    Trait::Tip("response_policy:special"),
];
const FORGETS: &[Trait] = &[
    Trait::Admin,
    Trait::NoScript,
    Trait::Loading,
    Trait::Stale,
    Trait::Tip("request_policy:all_nodes"),
    Trait::Tip("response_policy:agg_sum"),
];

const fn subcommand(
    name: &'static str,
    arity: Arity,
    run: SessionFn,
    usage: &'static str,
    summary: &'static str,
) -> Command<Handler> {
    Command {
        name,
        arity,
        keys: Keys::None,
        traits: SHOWS,
        run: Run::Run(Handler::Session(run)),
        group: Group::Server,
        usage,
        summary,
        since: "2.8.13",
        complexity: "O(1)",
    }
}

pub(crate) static COMMANDS: &[Command<Handler>] = &[Command {
    name: "LATENCY",
    arity: AtLeast(2),
    keys: Keys::None,
    traits: &[],
    run: Run::Subcommands(&[
        subcommand(
            "DOCTOR",
            Exactly(2),
            doctor,
            "LATENCY DOCTOR",
            "Explains the latency spikes, and what may help against them.",
        ),
        subcommand(
            "GRAPH",
            Exactly(3),
            graph,
            "LATENCY GRAPH event",
            "Draws a graph of the latencies of an event.",
        ),
        Command {
            since: "7.0.0",
            complexity: "O(N) where N is the number of commands with latency information being retrieved.",
            ..subcommand(
                "HISTOGRAM",
                AtLeast(2),
                histogram,
                "LATENCY HISTOGRAM [command [command ...]]",
                "Returns the cumulative distribution of latencies, for some commands or all.",
            )
        },
        subcommand(
            "HISTORY",
            Exactly(3),
            history,
            "LATENCY HISTORY event",
            "Returns the samples of an event: times and latencies.",
        ),
        subcommand(
            "LATEST",
            Exactly(2),
            latest,
            "LATENCY LATEST",
            "Returns the latest and highest latency of each event.",
        ),
        Command {
            traits: FORGETS,
            ..subcommand(
                "RESET",
                AtLeast(2),
                reset,
                "LATENCY RESET [event [event ...]]",
                "Deletes the samples of some events or all.",
            )
        },
    ]),
    group: Group::Server,
    usage: "LATENCY",
    summary: "Commands for the latency monitor.",
    since: "2.8.13",
    complexity: "Depends on subcommand.",
}];

fn latest(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let events = context.shared.latency.events();
    reply.array(events.len());
    for (name, event) in &*events {
        let (at_s, latency_ms) = event.samples.back().copied().unwrap_or_default();
        reply.array(4);
        reply.bulk(name.as_bytes());
        reply.integer(at_s);
        reply.integer(latency_ms as i64);
        reply.integer(event.max_ms as i64);
    }
    Ok(())
}

/// The event of this name, if it ever happened.
fn named(context: &Context<'_>, name: &[u8]) -> Option<(&'static str, Event)> {
    let events = context.shared.latency.events();
    events
        .iter()
        .find(|(event, _)| event.as_bytes() == name)
        .map(|(name, event)| (*name, event.clone()))
}

fn history(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let samples = named(context, args.at(2)).map_or_else(VecDeque::new, |(_, event)| event.samples);
    reply.array(samples.len());
    for (at_s, latency_ms) in samples {
        reply.array(2);
        reply.integer(at_s);
        reply.integer(latency_ms as i64);
    }
    Ok(())
}

fn reset(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let mut events = context.shared.latency.events();
    let before = events.len();
    if args.len() == 2 {
        events.clear();
    } else {
        events.retain(|event, _| !args.from(2).any(|name| name == event.as_bytes()));
    }
    reply.integer((before - events.len()) as i64);
    Ok(())
}

fn graph(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let Some((name, event)) = named(context, args.at(2)) else {
        let before = "No samples available for event '";
        return Err(CommandError::quoting(before, args.at(2), "'").into());
    };
    reply.verbatim(
        *b"txt",
        drawn(name, &event, context.now.0 / 1000).as_bytes(),
    );
    Ok(())
}

/// A graph with a column per sample, oldest first, and the age of the sample below it.
fn drawn(name: &str, event: &Event, now_s: i64) -> String {
    const COLUMNS: usize = 80;
    const ROWS: usize = 4;
    /// The top of a column, by thirds of a row.
    const TOPS: [char; 3] = ['_', 'o', '#'];
    let latencies = || event.samples.iter().map(|(_, latency_ms)| *latency_ms);
    let (low, high) = (
        latencies().min().unwrap_or(0),
        latencies().max().unwrap_or(0),
    );
    let mut text = format!(
        "{name} - high {high} ms, low {low} ms (all time high {} ms)\n{}\n",
        event.max_ms,
        "-".repeat(COLUMNS)
    );
    let columns: Vec<(usize, Vec<u8>)> = event
        .samples
        .iter()
        .map(|&(at_s, latency_ms)| {
            let share = (latency_ms - low) as f64 / (high - low).max(1) as f64;
            let steps = ROWS * TOPS.len();
            let height = ((share * steps as f64) as usize).min(steps - 1);
            (height, age(now_s - at_s).into_bytes())
        })
        .collect();
    for (page, columns) in columns.chunks(COLUMNS).enumerate() {
        if page > 0 {
            text.push('\n');
        }
        for row in (0..ROWS).rev() {
            text.extend(columns.iter().map(
                |(height, _)| match height.checked_sub(row * TOPS.len()) {
                    None => ' ',
                    Some(top) => TOPS.get(top).copied().unwrap_or('|'),
                },
            ));
            text.push('\n');
        }
        let label_rows = columns
            .iter()
            .map(|(_, label)| label.len())
            .max()
            .unwrap_or(0);
        text.extend(std::iter::repeat_n(' ', columns.len()));
        text.push('\n');
        for row in 0..label_rows {
            let letters = columns
                .iter()
                .map(|(_, label)| label.get(row).map_or(' ', |&byte| byte as char));
            text.extend(letters);
            text.push('\n');
        }
    }
    text
}

/// A time span in its largest unit.
fn age(seconds: i64) -> String {
    match seconds.max(0) {
        seconds @ ..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..86_400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

fn doctor(context: &mut Context<'_>, _: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let events = context.shared.latency.events();
    let text = if events.is_empty() && context.config.latency_monitor_threshold_ms == 0 {
        String::from(
            "The latency monitor is disabled. Enable it with CONFIG SET latency-monitor-threshold <milliseconds>.\n",
        )
    } else if events.is_empty() {
        String::from("No event took as long as latency-monitor-threshold. All is well.\n")
    } else {
        diagnosis(&events, context.now.0 / 1000)
    };
    drop(events);
    reply.verbatim(*b"txt", text.as_bytes());
    Ok(())
}

fn diagnosis(events: &BTreeMap<&'static str, Event>, now_s: i64) -> String {
    let mut text = String::from("There were latency spikes:\n\n");
    for (number, (name, event)) in events.iter().enumerate() {
        let count = event.samples.len().max(1) as u64;
        let latencies = || event.samples.iter().map(|(_, latency_ms)| *latency_ms);
        let average = latencies().sum::<u64>() / count;
        let deviation = latencies()
            .map(|latency| latency.abs_diff(average))
            .sum::<u64>()
            / count;
        let oldest_s = event.samples.front().map_or(now_s, |(at_s, _)| *at_s);
        let period = (now_s - oldest_s).max(0) as f64 / count as f64;
        let _ = writeln!(
            text,
            "{}. {name}: {count} latency spikes (average {average}ms, mean deviation {deviation}ms, period {period:.2} sec). Worst all time event {}ms.",
            number + 1,
            event.max_ms
        );
    }
    text.push_str("\nWhat may help:\n\n");
    if events.contains_key("command") || events.contains_key("fast-command") {
        text.push_str("- SLOWLOG GET shows which commands were slow. Commands on very large values, or on all keys, delay all commands after them: try to ask for less at a time (SCAN, ranges, smaller values).\n");
    }
    if events.contains_key("fast-command") {
        text.push_str("- Even fast commands were slow: the machine may be short of processors or memory. Look for other busy programs, for swapping, and for a virtual machine that gets too little processor time.\n");
    }
    if events.contains_key("expire-cycle") {
        text.push_str("- Removing expired keys was slow: spread the expiry of keys that are created together, or lower active-expire-effort.\n");
    }
    text
}

fn histogram(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let rows: Vec<&Row> = if args.len() == 2 {
        counted_rows().collect()
    } else {
        args.from(2).flat_map(rows_of).collect()
    };
    let totals = |row: &Row| {
        let threads = context.shared.threads.iter();
        CommandTotals::sum(threads.map(|thread| &thread.counters), row.index)
    };
    let shown: Vec<(&Row, CommandTotals)> = rows
        .into_iter()
        .map(|row| (row, totals(row)))
        .filter(|(_, totals)| totals.timed() > 0)
        .collect();
    reply.map(shown.len());
    for (row, totals) in shown {
        reply.bulk(row.name.as_bytes());
        reply.map(2);
        reply.bulk(b"calls");
        reply.integer(totals.timed() as i64);
        reply.bulk(b"histogram_usec");
        let cumulative = totals.cumulative_us();
        reply.map(cumulative.len());
        for (limit_us, calls) in cumulative {
            reply.integer(limit_us as i64);
            reply.integer(calls as i64);
        }
    }
    Ok(())
}

/// The command of this name and, if it is a container, its subcommands. `container|subcommand` names one subcommand.
fn rows_of(name: &[u8]) -> Vec<&'static Row> {
    let mut words = name.splitn(2, |&byte| byte == b'|');
    let Some(row) = words.next().and_then(|word| REGISTRY.find(word)) else {
        return Vec::new();
    };
    match words.next() {
        Some(word) => REGISTRY.find_subcommand(row, word).into_iter().collect(),
        None => [row.index]
            .iter()
            .chain(&row.subcommands)
            .map(|&index| &REGISTRY.rows()[index])
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_graph_equals_that_of_redis() {
        let monitor = LatencyMonitor::default();
        for (at_s, ms) in (1..).zip([30, 80, 15, 200, 48, 12]) {
            monitor.add("command", at_s, ms);
        }
        let expected = format!(
            "command - high 200 ms, low 12 ms (all time high 200 ms)\n{}\n   #  \n   |  \n o |  \no|_|#_\n      \n654321\nssssss\n",
            "-".repeat(80)
        );
        assert_eq!(drawn("command", &monitor.events()["command"], 7), expected);
    }

    #[test]
    fn only_the_longest_sample_of_a_second_that_reaches_the_threshold_is_kept() {
        let monitor = LatencyMonitor::default();
        for (ms, threshold_ms) in [(5, 0), (5, 6), (6, 6), (9, 6), (8, 6)] {
            monitor.add_if_slow("expire-cycle", 1, Duration::from_millis(ms), threshold_ms);
        }
        let events = monitor.events();
        assert_eq!(events["expire-cycle"].samples, [(1, 9)]);
    }
}
