//! The tables of options, one for each section and one row for each option. The command line, files, the environment, CONFIG, the
//! help and the documentation are all derived from them.

use super::kind::{Kind, OptionError, Value};
use super::settings::Config;

/// [`Access`] to a field whose values need no further checks.
macro_rules! field {
    ($field:ident) => {
        $crate::options::Access {
            read: |c| $crate::kind::Setting::show(&c.$field),
            write: |c, value| value.store(&mut c.$field),
        }
    };
}

mod clients;
mod debugging;
mod diagnostics;
mod expiry;
mod general;
mod memory;
mod network;
mod persistence;
mod replication;
mod scripts;
mod security;
mod tls;
mod values;

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// The name that users write and CONFIG GET shows.
    pub name: &'static str,
    /// Older names of the same option.
    pub aliases: &'static [&'static str],
    /// The form of its values.
    pub kind: Kind,
    /// When it can be changed.
    pub changeable: Changeable,
    /// Whether it has an effect.
    pub effect: Effect,
    /// A description in a few short sentences, with units and special values.
    pub summary: &'static str,
    /// Access to its field of [`Config`].
    pub access: Access,
    /// As in Redis, patterns of CONFIG GET do not match some options for tests; their whole names do.
    pub is_hidden: bool,
}

/// How to read and write one option's field.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// Returns the value as CONFIG GET shows it; [`Kind::parse`] accepts it again.
    pub read: fn(&Config) -> String,
    /// Stores a value of the option's own [`Kind`]. On an error the configuration is unchanged.
    pub write: fn(&mut Config, Value) -> Result<(), OptionError>,
}

/// A group of options in the help and the documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Listening and connections.
    Network,
    /// Encrypted connections.
    Tls,
    /// Threads, logging and the process.
    General,
    /// Passwords and permissions.
    Security,
    /// Memory limits, eviction and freeing.
    Memory,
    /// Limits per client, and notifications.
    Clients,
    /// Expiry of keys.
    Expiry,
    /// Slow log and latency.
    Diagnostics,
    /// Snapshots and logs on disk.
    Persistence,
    /// Primaries and replicas.
    Replication,
    /// Scripts.
    Scripts,
    /// How values are stored.
    Values,
    /// For tests and debugging.
    Debugging,
}

impl Section {
    /// Every section, in the order of the documentation.
    pub const ALL: [Section; 13] = [
        Section::Network,
        Section::Tls,
        Section::General,
        Section::Security,
        Section::Memory,
        Section::Clients,
        Section::Expiry,
        Section::Diagnostics,
        Section::Persistence,
        Section::Replication,
        Section::Scripts,
        Section::Values,
        Section::Debugging,
    ];

    /// Its options.
    pub fn options(self) -> &'static [Opt] {
        match self {
            Section::Network => network::OPTIONS,
            Section::Tls => tls::OPTIONS,
            Section::General => general::OPTIONS,
            Section::Security => security::OPTIONS,
            Section::Memory => memory::OPTIONS,
            Section::Clients => clients::OPTIONS,
            Section::Expiry => expiry::OPTIONS,
            Section::Diagnostics => diagnostics::OPTIONS,
            Section::Persistence => persistence::OPTIONS,
            Section::Replication => replication::OPTIONS,
            Section::Scripts => scripts::OPTIONS,
            Section::Values => values::OPTIONS,
            Section::Debugging => debugging::OPTIONS,
        }
    }

    /// Its heading.
    pub fn title(self) -> &'static str {
        match self {
            Section::Network => "Network",
            Section::Tls => "TLS",
            Section::General => "General",
            Section::Security => "Security",
            Section::Memory => "Memory",
            Section::Clients => "Clients",
            Section::Expiry => "Expiry",
            Section::Diagnostics => "Diagnostics",
            Section::Persistence => "Persistence",
            Section::Replication => "Replication",
            Section::Scripts => "Scripts",
            Section::Values => "How values are stored",
            Section::Debugging => "Debugging",
        }
    }
}

/// When an option can be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changeable {
    /// Only at start.
    AtStart,
    /// While the server runs, too.
    Live,
    /// While the server runs, by clients that `enable-protected-configs` permits.
    Protected,
}

/// Whether an option has an effect. Values are stored and shown in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It does what its summary says.
    Acts,
    /// No effect yet; the text says why.
    Later(&'static str),
    /// It never will have one, and exists so that configurations written for Redis work; the text says why.
    Never(&'static str),
}

/// The largest signed 32-bit number, the upper limit of many of Redis's options.
const I32_MAX: i64 = i32::MAX as i64;
/// The largest signed 64-bit number, as a number of bytes.
const I64_MAX_BYTES: u64 = i64::MAX as u64;

/// Every option, in the order of the sections.
pub fn all() -> impl Iterator<Item = &'static Opt> {
    Section::ALL.into_iter().flat_map(Section::options)
}

/// The option called `name`, which may be an alias and in any case.
pub fn find(name: &str) -> Option<&'static Opt> {
    all().find(|option| option.names().any(|known| known.eq_ignore_ascii_case(name)))
}

impl Opt {
    /// An option that can be changed while the server runs.
    const fn live(name: &'static str, kind: Kind, access: Access, summary: &'static str) -> Self {
        Self {
            name,
            aliases: &[],
            kind,
            changeable: Changeable::Live,
            effect: Effect::Acts,
            summary,
            access,
            is_hidden: false,
        }
    }

    /// An option that can be changed only at start.
    const fn at_start(
        name: &'static str,
        kind: Kind,
        access: Access,
        summary: &'static str,
    ) -> Self {
        Self {
            changeable: Changeable::AtStart,
            ..Self::live(name, kind, access, summary)
        }
    }

    /// An option that can be changed by clients that `enable-protected-configs` permits.
    const fn protected(
        name: &'static str,
        kind: Kind,
        access: Access,
        summary: &'static str,
    ) -> Self {
        Self {
            changeable: Changeable::Protected,
            ..Self::live(name, kind, access, summary)
        }
    }

    /// The name, then the aliases.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }

    /// The default, as CONFIG GET shows it.
    pub fn default_shown(&self) -> String {
        (self.access.read)(&Config::default())
    }

    /// Parses `words` and stores the value in `config`. On an error `config` is unchanged.
    pub fn write(&self, config: &mut Config, words: &[&str]) -> Result<(), OptionError> {
        (self.access.write)(config, self.kind.parse(words)?)
    }
}
