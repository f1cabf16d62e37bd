//! The row of a command: everything that is known about it. Permissions, locks, documentation and
//! cluster hints all follow from it.

use damselfly_base::CommandError;
use damselfly_engine::Busy;

use crate::Args;

/// One command or subcommand; `F` is the type of its function.
#[derive(Clone, Copy, Debug)]
pub struct Command<F: 'static> {
    /// The name, in upper case; of a subcommand, its own part.
    pub name: &'static str,
    /// How many arguments it takes, the name (of a subcommand: both names) included.
    pub arity: Arity,
    /// Where its keys are and what it does to them.
    pub keys: Keys,
    /// What else is special about it.
    pub traits: &'static [Trait],
    /// What runs it.
    pub run: Run<F>,
    /// The family, for documentation and ACL categories.
    pub group: Group,
    /// How to write it, in Redis's notation.
    pub usage: &'static str,
    /// One sentence.
    pub summary: &'static str,
    /// The Redis version that first had it.
    pub since: &'static str,
    /// Time, by argument sizes.
    pub complexity: &'static str,
}

/// A function, or rows one level down.
#[derive(Clone, Copy, Debug)]
pub enum Run<F: 'static> {
    /// The command's function.
    Run(F),
    /// The second argument chooses one of these.
    Subcommands(&'static [Command<F>]),
    /// The function where there is no second argument, or else the one of these that it chooses.
    Either(F, &'static [Command<F>]),
}

impl<F> Run<F> {
    /// The rows one level down; none for a plain function.
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
    /// So many.
    Exactly(usize),
    /// So many or more.
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
    /// None.
    None,
    /// Arguments are keys.
    Args(&'static [KeySpec]),
    /// All keys: it runs alone.
    All {
        /// Whether it changes them.
        writes: bool,
    },
}

impl Keys {
    /// True if the command changes keys.
    pub fn writes(self) -> bool {
        match self {
            Self::None => false,
            Self::Args(specs) => specs.iter().any(|spec| spec.access.writes()),
            Self::All { writes } => writes,
        }
    }

    /// True if the command uses keys.
    pub fn any(self) -> bool {
        match self {
            Self::None => false,
            Self::Args(_) | Self::All { .. } => true,
        }
    }
}

/// A run of key arguments.
#[derive(Clone, Copy, Debug)]
pub struct KeySpec {
    /// Which arguments.
    pub at: At,
    /// What the command does to them.
    pub access: Access,
}

/// Which arguments are keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// This one.
    One(usize),
    /// From this one to the last, every `step`-th.
    ToEnd {
        /// The first key.
        first: usize,
        /// The distance from one to the next.
        step: usize,
    },
}

impl At {
    /// The places of the keys in a request of `len` arguments.
    #[inline]
    pub fn places(self, len: usize) -> impl Iterator<Item = usize> + Clone {
        let (first, last, step) = match self {
            Self::One(place) => (place, place + 1, 1),
            Self::ToEnd { first, step } => (first, len, step),
        };
        (first..last).step_by(step)
    }
}

/// What a command does to a key, as Redis's key specifications name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads the value.
    Read,
    /// Reads what is known about it: existence, type, TTL, length.
    Look,
    /// Overwrites it without a look.
    Overwrite,
    /// Stores it if it is absent.
    Create,
    /// Changes it, and may show what was there.
    ReadUpdate,
    /// Changes it.
    Update,
    /// Adds to it.
    Insert,
    /// Removes it, and shows what was there.
    Take,
    /// Removes it.
    Remove,
    /// As the options say: SET.
    Variable,
}

impl Access {
    /// True if the key is changed or removed.
    pub fn writes(self) -> bool {
        match self {
            Self::Read | Self::Look => false,
            Self::Overwrite
            | Self::Create
            | Self::ReadUpdate
            | Self::Update
            | Self::Insert
            | Self::Take
            | Self::Remove
            | Self::Variable => true,
        }
    }

    /// Redis's flags of a key specification.
    pub fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Read => &["RO", "access"],
            Self::Look => &["RO"],
            Self::Overwrite => &["OW", "update"],
            Self::Create => &["OW", "insert"],
            Self::ReadUpdate => &["RW", "access", "update"],
            Self::Update => &["RW", "update"],
            Self::Insert => &["RW", "insert"],
            Self::Take => &["RW", "access", "delete"],
            Self::Remove => &["RM", "delete"],
            Self::Variable => &["RW", "access", "update", "variable_flags"],
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

/// What is special about a command; each is one of Redis's command flags or tips.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trait {
    /// Constant or logarithmic time.
    Fast,
    /// Reads data although no argument is a key.
    ReadOnly,
    /// Refused when `maxmemory` is reached.
    NeedsMemory,
    /// For administrators.
    Admin,
    /// In the ACL category `dangerous`.
    Dangerous,
    /// In the ACL category `admin`, without the flag of that name.
    AdminCategory,
    /// In this ACL category, which does not follow from the rest of the row.
    Category(&'static str),
    /// Not in scripts.
    NoScript,
    /// Allowed while data is loaded.
    Loading,
    /// Not while data is loaded in the background.
    NoAsyncLoading,
    /// Allowed on a replica without its primary.
    Stale,
    /// Allowed before authentication.
    NoAuth,
    /// Allowed while a script runs for too long.
    AllowBusy,
    /// Not within MULTI.
    NoMulti,
    /// May wait.
    Blocking,
    /// Never in the slow log.
    SkipSlowlog,
    /// Not shown by MONITOR.
    SkipMonitor,
    /// Only with `enable-debug-command` and the like.
    Protected,
    /// Sentinel has it too.
    Sentinel,
    /// Uses keys that are no arguments.
    TouchesArbitraryKeys,
    /// Its documentation marks it as deprecated, with what replaces it.
    Deprecated {
        /// Since this version.
        since: &'static str,
        /// In favour of this.
        instead: &'static str,
    },
    /// A tip for cluster proxies.
    Tip(&'static str),
}

impl Trait {
    /// Redis's flag; `None` for what COMMAND reports elsewhere.
    pub fn flag(self) -> Option<&'static str> {
        Some(match self {
            Self::Fast => "fast",
            Self::ReadOnly => "readonly",
            Self::NeedsMemory => "denyoom",
            Self::Admin => "admin",
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
            Self::Dangerous
            | Self::AdminCategory
            | Self::Category(_)
            | Self::Protected
            | Self::Sentinel
            | Self::TouchesArbitraryKeys
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
    /// Any key.
    Generic,
    /// The connection.
    Connection,
    /// The server.
    Server,
}

impl Group {
    /// Redis's name in COMMAND DOCS.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Generic => "generic",
            Self::Connection => "connection",
            Self::Server => "server",
        }
    }

    /// The ACL category of the family, if it has one.
    pub fn category(self) -> Option<&'static str> {
        match self {
            Self::String => Some("string"),
            Self::Generic => Some("keyspace"),
            Self::Connection => Some("connection"),
            Self::Server => None,
        }
    }
}

/// Why a command did not do its work.
#[derive(Debug)]
pub enum Stop {
    /// The client's error: the reply.
    Error(CommandError),
    /// A shard is busy: nothing was done, and the command runs again when the shard is free.
    Busy(Busy),
}

impl From<CommandError> for Stop {
    fn from(error: CommandError) -> Self {
        Self::Error(error)
    }
}

impl From<Busy> for Stop {
    fn from(busy: Busy) -> Self {
        Self::Busy(busy)
    }
}

fn map_all<F: Copy, G: Copy>(rows: &[Command<F>], wrap: fn(F) -> G) -> &'static [Command<G>] {
    rows.iter()
        .map(|row| row.map(wrap))
        .collect::<Vec<_>>()
        .leak()
}

impl<F: Copy> Command<F> {
    /// True if it has this trait.
    pub fn has(&self, wanted: Trait) -> bool {
        self.traits.contains(&wanted)
    }

    /// The same row with its function wrapped, as one table of several kinds of functions needs
    /// it. Meant to be called once per process: rows one level down are leaked.
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

    /// The places of all key arguments of a request, in order of the row's specifications.
    #[inline]
    pub fn key_places(&self, args: Args<'_>) -> impl Iterator<Item = usize> + Clone + use<F> {
        let specs: &'static [KeySpec] = match self.keys {
            Keys::Args(specs) => specs,
            Keys::None | Keys::All { .. } => &[],
        };
        let len = args.len();
        specs.iter().flat_map(move |spec| spec.at.places(len))
    }
}
