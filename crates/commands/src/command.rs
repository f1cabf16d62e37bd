//! The row that describes a command. Permissions, locks, documentation and cluster hints all follow
//! from it.

use crate::Args;
pub use crate::key_places::At;

/// One command or subcommand; `F` is the type of its function.
#[derive(Clone, Copy, Debug)]
pub struct Command<F: 'static> {
    /// The name, in upper case; for a subcommand, only its own part.
    pub name: &'static str,
    /// The number of arguments, including the name (for a subcommand: both names).
    pub arity: Arity,
    /// Where its keys are and what the command does to them.
    pub keys: Keys,
    /// Its other properties.
    pub traits: &'static [Trait],
    /// The function or subcommands that run it.
    pub run: Run<F>,
    /// The family, for documentation and ACL categories.
    pub group: Group,
    /// Its syntax, in Redis's notation.
    pub usage: &'static str,
    /// A description in one sentence.
    pub summary: &'static str,
    /// The first Redis version that had it.
    pub since: &'static str,
    /// Its time complexity.
    pub complexity: &'static str,
}

/// How a command runs: by a function, by its subcommands, or both.
#[derive(Clone, Copy, Debug)]
pub enum Run<F: 'static> {
    /// This function.
    Run(F),
    /// The second argument names one of these subcommands.
    Subcommands(&'static [Command<F>]),
    /// The function if there is no second argument, otherwise the subcommand that it names.
    Either(F, &'static [Command<F>]),
}

impl<F> Run<F> {
    /// The rows of its subcommands; none if it is a plain function.
    pub fn subcommands(&self) -> &'static [Command<F>] {
        match self {
            Self::Run(_) => &[],
            Self::Subcommands(rows) | Self::Either(_, rows) => rows,
        }
    }
}

/// A number of arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// Exactly this many.
    Exactly(usize),
    /// This many or more.
    AtLeast(usize),
}

impl Arity {
    /// True if a request of `len` arguments is well-formed.
    #[inline]
    pub fn allows(self, len: usize) -> bool {
        match self {
            Self::Exactly(arity) => len == arity,
            Self::AtLeast(arity) => len >= arity,
        }
    }

    /// Redis's notation: negative for "at least".
    pub fn signed(self) -> i64 {
        match self {
            Self::Exactly(arity) => arity as i64,
            Self::AtLeast(arity) => -(arity as i64),
        }
    }
}

/// The keys of a command.
#[derive(Clone, Copy, Debug)]
pub enum Keys {
    /// No keys.
    None,
    /// These arguments are keys.
    Args(&'static [KeySpec]),
    /// No keys, but arguments that choose a slot in a cluster as keys do: channels.
    Slots(At),
    /// All keys: the command runs alone.
    All {
        /// Whether the command changes them.
        writes: bool,
    },
}

impl Keys {
    /// True if the command changes keys.
    pub fn writes(self) -> bool {
        match self {
            Self::None | Self::Slots(_) => false,
            Self::Args(specs) => specs.iter().any(|spec| spec.access.writes()),
            Self::All { writes } => writes,
        }
    }

    /// True if the command uses keys.
    pub fn any(self) -> bool {
        match self {
            Self::None | Self::Slots(_) => false,
            Self::Args(_) | Self::All { .. } => true,
        }
    }
}

/// A run of key arguments.
#[derive(Clone, Copy, Debug)]
pub struct KeySpec {
    /// Which arguments.
    pub at: At,
    /// How the command uses them.
    pub access: Access,
}

/// How a command uses a key, in the terms of Redis's key specifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads the value.
    Read,
    /// Reads the value, and records in it who has read what.
    ReadNoting,
    /// Reads metadata: existence, type, TTL, length.
    Look,
    /// Overwrites the value without reading it.
    Overwrite,
    /// Stores a value if the key is absent.
    Create,
    /// Reads the value, and may cache in it what was computed from it.
    ReadCaching,
    /// Reads the value, and may change the form in which it is stored.
    ReadConverting,
    /// Changes the value, and may return what was there.
    ReadUpdate,
    /// Adds to the value, and reads what was there.
    ReadInsert,
    /// Changes the value.
    Update,
    /// Adds to the value.
    Insert,
    /// Removes parts of the value.
    Shrink,
    /// Removes the value or parts of it, and returns what was there.
    Take,
    /// As [`Access::Take`], and these are not all the keys that the arguments may name.
    TakeSome,
    /// Removes the key.
    Remove,
    /// Depends on the options: SET and BITFIELD.
    Variable,
    /// Nothing: the argument is not a key.
    NotKey,
}

impl Access {
    /// True if the key is changed or removed. A value that is cached in it does not count.
    pub fn writes(self) -> bool {
        match self {
            Self::Read | Self::ReadCaching | Self::Look | Self::NotKey => false,
            Self::ReadNoting
            | Self::ReadConverting
            | Self::ReadInsert
            | Self::Overwrite
            | Self::Create
            | Self::ReadUpdate
            | Self::Update
            | Self::Insert
            | Self::Shrink
            | Self::Take
            | Self::TakeSome
            | Self::Remove
            | Self::Variable => true,
        }
    }

    /// The flags of Redis's key specifications.
    pub fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Read | Self::ReadNoting => &["RO", "access"],
            Self::Look => &["RO"],
            Self::Overwrite => &["OW", "update"],
            Self::Create => &["OW", "insert"],
            Self::ReadCaching | Self::ReadConverting => &["RW", "access"],
            Self::ReadUpdate => &["RW", "access", "update"],
            Self::ReadInsert => &["RW", "access", "insert"],
            Self::Update => &["RW", "update"],
            Self::Insert => &["RW", "insert"],
            Self::Shrink => &["RW", "delete"],
            Self::Take => &["RW", "access", "delete"],
            Self::TakeSome => &["RW", "access", "delete", "incomplete"],
            Self::Remove => &["RM", "delete"],
            Self::Variable => &["RW", "access", "update", "variable_flags"],
            Self::NotKey => &["not_key"],
        }
    }
}

/// A key argument that is read.
pub const fn reads(at: At) -> KeySpec {
    KeySpec {
        at,
        access: Access::Read,
    }
}

/// A key argument of which only metadata is read.
pub const fn looks(at: At) -> KeySpec {
    KeySpec {
        at,
        access: Access::Look,
    }
}

/// A key argument that is changed in the given way.
pub const fn writes(at: At, access: Access) -> KeySpec {
    KeySpec { at, access }
}

/// A property of a command: one of Redis's command flags or tips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trait {
    /// Takes constant or logarithmic time.
    Fast,
    /// Reads data although no argument is a key.
    ReadOnly,
    /// Refused when `maxmemory` is reached.
    NeedsMemory,
    /// Runs on a cluster node that imports the slot of its keys.
    Asking,
    /// For administrators only.
    Admin,
    /// In the ACL category `dangerous`.
    Dangerous,
    /// In this ACL category, which does not follow from the rest of the row.
    Category(&'static str),
    /// Publishes or subscribes.
    PubSub,
    /// Changes stored data that is not a key.
    Writes,
    /// May have to be replicated although no argument is a key that it changes.
    MayReplicate,
    /// Not allowed in scripts.
    NoScript,
    /// Allowed while data is loading.
    Loading,
    /// Not allowed while data is loading in the background.
    NoAsyncLoading,
    /// Allowed on a replica that has lost its primary.
    Stale,
    /// Allowed before authentication.
    NoAuth,
    /// Allowed while a script exceeds its time limit.
    AllowBusy,
    /// Not allowed within MULTI.
    NoMulti,
    /// May block the client.
    Blocking,
    /// An argument counts its keys, and the count may be zero.
    NoMandatoryKeys,
    /// Never recorded in the slow log.
    SkipSlowlog,
    /// Not shown by MONITOR.
    SkipMonitor,
    /// Only allowed with `enable-debug-command` and similar options.
    Protected,
    /// Also a command of Sentinel.
    Sentinel,
    /// Uses keys that are not arguments.
    TouchesArbitraryKeys,
    /// Documented as a command for the development of the server.
    SystemCommand,
    /// Documented as deprecated, with its replacement.
    Deprecated {
        /// Since this version.
        since: &'static str,
        /// The replacement.
        instead: &'static str,
    },
    /// A tip for cluster proxies.
    Tip(&'static str),
}

impl Trait {
    /// The name of Redis's flag; `None` for a trait that COMMAND does not report as a flag.
    pub fn flag(self) -> Option<&'static str> {
        Some(match self {
            Self::Fast => "fast",
            Self::ReadOnly => "readonly",
            Self::NeedsMemory => "denyoom",
            Self::Asking => "asking",
            Self::Admin => "admin",
            Self::PubSub => "pubsub",
            Self::NoScript => "noscript",
            Self::Loading => "loading",
            Self::NoAsyncLoading => "no_async_loading",
            Self::Stale => "stale",
            Self::NoAuth => "no_auth",
            Self::AllowBusy => "allow_busy",
            Self::NoMulti => "no_multi",
            Self::Blocking => "blocking",
            Self::SkipSlowlog => "skip_slowlog",
            Self::SkipMonitor => "skip_monitor",
            Self::NoMandatoryKeys => "no_mandatory_keys",
            Self::Dangerous
            | Self::Category(_)
            | Self::Writes
            | Self::MayReplicate
            | Self::Protected
            | Self::Sentinel
            | Self::TouchesArbitraryKeys
            | Self::SystemCommand
            | Self::Deprecated { .. }
            | Self::Tip(_) => return None,
        })
    }
}

/// A family of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Strings.
    String,
    /// Lists.
    List,
    /// Sets.
    Set,
    /// Hashes.
    Hash,
    /// Sorted sets.
    SortedSet,
    /// Bits of strings.
    Bitmap,
    /// HyperLogLogs.
    HyperLogLog,
    /// Positions on the globe.
    Geo,
    /// Streams.
    Stream,
    /// Any key.
    Generic,
    /// Transactions.
    Transactions,
    /// Channels.
    PubSub,
    /// Scripts.
    Scripting,
    /// The connection.
    Connection,
    /// Clusters.
    Cluster,
    /// The server.
    Server,
}

impl Group {
    /// Redis's name for the family in COMMAND DOCS.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::List => "list",
            Self::Set => "set",
            Self::Hash => "hash",
            Self::SortedSet => "sorted-set",
            Self::Bitmap => "bitmap",
            Self::HyperLogLog => "hyperloglog",
            Self::Geo => "geo",
            Self::Stream => "stream",
            Self::Generic => "generic",
            Self::Transactions => "transactions",
            Self::PubSub => "pubsub",
            Self::Scripting => "scripting",
            Self::Connection => "connection",
            Self::Cluster => "cluster",
            Self::Server => "server",
        }
    }

    /// The ACL category of the family, if it has one.
    pub fn category(self) -> Option<&'static str> {
        match self {
            Self::String => Some("string"),
            Self::List => Some("list"),
            Self::Set => Some("set"),
            Self::Hash => Some("hash"),
            Self::SortedSet => Some("sortedset"),
            Self::Bitmap => Some("bitmap"),
            Self::HyperLogLog => Some("hyperloglog"),
            Self::Geo => Some("geo"),
            Self::Stream => Some("stream"),
            Self::Generic => Some("keyspace"),
            Self::Transactions => Some("transaction"),
            Self::Scripting => Some("scripting"),
            Self::Connection => Some("connection"),
            Self::PubSub | Self::Cluster | Self::Server => None,
        }
    }
}

fn map_all<F: Copy, G: Copy>(rows: &[Command<F>], wrap: fn(F) -> G) -> &'static [Command<G>] {
    rows.iter()
        .map(|row| row.map(wrap))
        .collect::<Vec<_>>()
        .leak()
}

impl<F: Copy> Command<F> {
    /// True if the command has this trait.
    pub fn has(&self, wanted: Trait) -> bool {
        self.traits.contains(&wanted)
    }

    /// True if the row names ACL categories.
    pub fn has_category(&self) -> bool {
        let is_category = |of_row: &Trait| matches!(of_row, Trait::Category(_));
        self.traits.iter().any(is_category)
    }

    /// The same row with its function wrapped, so that one table can hold several kinds of functions.
    /// To be called once per process: it leaks the rows of subcommands.
    pub fn map<G: Copy>(&self, wrap: fn(F) -> G) -> Command<G> {
        Command {
            name: self.name,
            arity: self.arity,
            keys: self.keys,
            traits: self.traits,
            run: match self.run {
                Run::Run(function) => Run::Run(wrap(function)),
                Run::Subcommands(rows) => Run::Subcommands(map_all(rows, wrap)),
                Run::Either(function, rows) => Run::Either(wrap(function), map_all(rows, wrap)),
            },
            group: self.group,
            usage: self.usage,
            summary: self.summary,
            since: self.since,
            complexity: self.complexity,
        }
    }

    /// The indexes of all key arguments of a request, in order of the row's key specifications.
    #[inline]
    pub fn key_places<'a>(
        &self,
        args: Args<'a>,
    ) -> impl Iterator<Item = usize> + Clone + use<'a, F> {
        let specs: &'static [KeySpec] = match self.keys {
            Keys::Args(specs) => specs,
            Keys::None | Keys::Slots(_) | Keys::All { .. } => &[],
        };
        let places = move |spec: &'static KeySpec| spec.at.places(args);
        specs.iter().flat_map(places)
    }
}
