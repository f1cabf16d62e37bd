//! INFO: the state of the server as text, in sections.
//!
//! A section is a list of fields, each a row of [`FIELDS`], or it has a line per command, error word or database.

use crate::persistence::aof::Mode;
use std::fmt::Write as _;

use damselfly_commands::Arity::AtLeast;
use damselfly_commands::{Args, Command, Group, Keys, Result, Run, Trait};
use damselfly_engine::Tx;
use damselfly_protocol::Reply;

use crate::admin::facts::Facts;
use crate::registry::{Handler, counted_rows};
use crate::replication::wait::wait_for_merge;
use crate::session::Context;
use crate::statistics::CommandTotals;

pub mod cache;
mod fields;
mod replication;

pub use fields::{AOF_FIELDS, FIELDS, Field, LOADING_FIELDS, SHUTDOWN_FIELDS};

pub(crate) static COMMANDS: &[Command<Handler>] = &[Command {
    name: "INFO",
    arity: AtLeast(1),
    keys: Keys::None,
    traits: &[
        Trait::Loading,
        Trait::Stale,
        Trait::Sentinel,
        Trait::Dangerous,
        Trait::Tip("nondeterministic_output"),
        Trait::Tip("request_policy:all_shards"),
        Trait::Tip("response_policy:special"),
    ],
    run: Run::Run(Handler::Session(info)),
    group: Group::Server,
    usage: "INFO [section [section ...]]",
    summary: "Returns information about the server as text: the default sections, or the given ones.",
    since: "1.0.0",
    complexity: "O(1)",
}];

/// A section of INFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// The program.
    Server,
    /// Connections.
    Clients,
    /// Memory.
    Memory,
    /// Saving and loading.
    Persistence,
    /// Counters.
    Stats,
    /// The primary and its replicas.
    Replication,
    /// Processor time.
    Cpu,
    /// Certificates and handshakes.
    Tls,
    /// Modules, of which there are none.
    Modules,
    /// The number of calls of each command.
    Commandstats,
    /// The number of error replies by their first word.
    Errorstats,
    /// The latency of each command.
    Latencystats,
    /// The cluster.
    Cluster,
    /// The number of keys in each database.
    Keyspace,
    /// What cache mode does and has learned.
    Cache,
}

impl Section {
    /// All sections, in the order in which INFO shows them.
    pub const ALL: [Self; 15] = [
        Self::Server,
        Self::Clients,
        Self::Memory,
        Self::Persistence,
        Self::Stats,
        Self::Replication,
        Self::Cpu,
        Self::Modules,
        Self::Commandstats,
        Self::Errorstats,
        Self::Latencystats,
        Self::Cluster,
        Self::Keyspace,
        Self::Tls,
        Self::Cache,
    ];

    /// Its heading. The name as an argument is the same in lower case.
    pub fn title(self) -> &'static str {
        match self {
            Self::Server => "Server",
            Self::Clients => "Clients",
            Self::Memory => "Memory",
            Self::Persistence => "Persistence",
            Self::Stats => "Stats",
            Self::Replication => "Replication",
            Self::Cpu => "CPU",
            Self::Tls => "TLS",
            Self::Modules => "Modules",
            Self::Commandstats => "Commandstats",
            Self::Errorstats => "Errorstats",
            Self::Latencystats => "Latencystats",
            Self::Cluster => "Cluster",
            Self::Keyspace => "Keyspace",
            Self::Cache => "Cache",
        }
    }

    /// True if INFO without arguments shows it.
    pub fn is_default(self) -> bool {
        !matches!(self, Self::Commandstats | Self::Latencystats)
    }

    /// True if an argument of INFO asks for it.
    fn is_asked_by(self, arg: &[u8]) -> bool {
        let is = |word: &str| arg.eq_ignore_ascii_case(word.as_bytes());
        is(self.title())
            || is("all")
            || is("everything")
            || is("default") && self.is_default()
            || is("module_list") && self == Self::Modules
    }

    fn write(self, facts: &Facts<'_>, tx: &mut Tx<'_>, text: &mut String) -> Result {
        match self {
            Self::Commandstats => write_commandstats(facts, text),
            Self::Errorstats => write_errorstats(facts, text),
            Self::Latencystats => write_latencystats(facts, text),
            Self::Keyspace => write_keyspace(facts, tx, text)?,
            Self::Server
            | Self::Clients
            | Self::Memory
            | Self::Persistence
            | Self::Stats
            | Self::Replication
            | Self::Cpu
            | Self::Tls
            | Self::Modules
            | Self::Cluster
            | Self::Cache => {
                let loading = match facts.shared.gate.is_loading() {
                    true => LOADING_FIELDS,
                    false => &[],
                };
                let aof = match facts.shared.aof.mode() {
                    Mode::Off => &[],
                    Mode::Starting | Mode::On => AOF_FIELDS,
                };
                let shutdown = match facts.shared.replication.shutdown_in_ms() {
                    Some(_) => SHUTDOWN_FIELDS,
                    None => &[],
                };
                let fields = FIELDS.iter().chain(aof).chain(loading).chain(shutdown);
                for field in fields.filter(|field| field.section == self) {
                    let _ = write!(text, "{}:{}\r\n", field.name, (field.value)(facts));
                }
            }
        }
        Ok(())
    }
}

fn info(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let asked = |section: Section| match args.len() {
        1 => section.is_default(),
        _ => args.from(1).any(|arg| section.is_asked_by(arg)),
    };
    if asked(Section::Replication) {
        wait_for_merge(context)?;
    }
    let facts = Facts::gather(context)?;
    let mut tx = context.section();
    let mut text = String::new();
    for section in Section::ALL {
        if asked(section) {
            let gap = if text.is_empty() { "" } else { "\r\n" };
            let _ = write!(text, "{gap}# {}\r\n", section.title());
            section.write(&facts, &mut tx, &mut text)?;
        }
    }
    reply.verbatim(*b"txt", text.as_bytes());
    Ok(())
}

/// The names and counters of all commands.
fn commands(facts: &Facts<'_>) -> impl Iterator<Item = (&'static str, CommandTotals)> {
    counted_rows().map(|row| {
        let threads = facts.shared.threads.iter().map(|thread| &thread.counters);
        let counters = threads.chain([&facts.shared.replication.link.counters]);
        (row.name.as_str(), CommandTotals::sum(counters, row.index))
    })
}

fn write_commandstats(facts: &Facts<'_>, text: &mut String) {
    for (name, totals) in commands(facts) {
        let (calls, rejected, failed) = (totals.calls, totals.rejected, totals.failed);
        if calls + rejected + failed == 0 {
            continue;
        }
        let us = totals.ns / 1000;
        let us_per_call = us as f64 / calls.max(1) as f64;
        let _ = write!(
            text,
            "cmdstat_{name}:calls={calls},usec={us},usec_per_call={us_per_call:.2},rejected_calls={rejected},failed_calls={failed}\r\n"
        );
    }
}

fn write_errorstats(facts: &Facts<'_>, text: &mut String) {
    for (word, count) in facts.errors() {
        let _ = write!(text, "errorstat_{word}:count={count}\r\n");
    }
}

fn write_latencystats(facts: &Facts<'_>, text: &mut String) {
    if !facts.config.latency_tracking {
        return;
    }
    for (name, totals) in commands(facts).filter(|(_, totals)| totals.timed() > 0) {
        let percentiles: Vec<String> = facts
            .config
            .latency_tracking_info_percentiles
            .0
            .iter()
            .map(|&percent| format!("p{percent}={:.3}", totals.percentile_us(percent)))
            .collect();
        let _ = write!(
            text,
            "latency_percentiles_usec_{name}:{}\r\n",
            percentiles.join(",")
        );
    }
}

fn write_keyspace(facts: &Facts<'_>, tx: &mut Tx<'_>, text: &mut String) -> Result {
    for (db, totals) in facts.databases.iter().enumerate() {
        if totals.keys == 0 {
            continue;
        }
        let ttl_ms = if totals.deadlines > 0 {
            facts.ttl_ms(tx, db)?
        } else {
            0
        };
        let _ = write!(
            text,
            "db{db}:keys={},expires={},avg_ttl={ttl_ms},subexpiry={}\r\n",
            totals.keys, totals.deadlines, totals.timed_hashes
        );
    }
    Ok(())
}
