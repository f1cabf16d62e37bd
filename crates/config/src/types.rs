//! The types of options whose values are more than a number or a text.

use super::kind::{OptionError, Setting, Value};

/// An enum whose variants are the words an option accepts.
macro_rules! choice {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $variant,)*
        }

        impl $name {
            /// The words, in the order in which an error lists them.
            pub const NAMES: &'static [&'static str] = &[$($word),*];
        }

        impl Setting for $name {
            fn show(&self) -> String {
                match self {
                    $(Self::$variant => $word.to_owned(),)*
                }
            }

            fn from_value(value: Value) -> Option<Self> {
                match value {
                    $(Value::Choice($word) => Some(Self::$variant),)*
                    Value::Choice(_) | Value::Bool(_) | Value::Integer(_) | Value::Octal(_)
                    | Value::Bytes(_) | Value::Percent(_) | Value::Text(_) | Value::Words(_) => None,
                }
            }
        }
    };
}

choice! {
    /// `loglevel`, from most to least: each level includes those after it.
    LogLevel {
        /// Everything, for developers.
        Debug = "debug",
        /// Details of little use in production.
        Verbose = "verbose",
        /// Events that matter to an operator.
        Notice = "notice",
        /// Only what needs attention.
        Warning = "warning",
        /// Nothing.
        Nothing = "nothing",
    }
}

impl LogLevel {
    /// The most detailed records that this level logs.
    pub fn filter(self) -> log::LevelFilter {
        match self {
            Self::Debug => log::LevelFilter::Trace,
            Self::Verbose => log::LevelFilter::Debug,
            Self::Notice => log::LevelFilter::Info,
            Self::Warning => log::LevelFilter::Warn,
            Self::Nothing => log::LevelFilter::Off,
        }
    }
}

choice! {
    /// `rdb-save-version`: the version of snapshot files.
    RdbVersion {
        /// The lowest that can express the data.
        Lowest = "lowest",
        /// Of Redis 7.0.
        V10 = "10",
        /// Of Redis 7.2.
        V11 = "11",
        /// Of Redis 7.4 and later.
        V12 = "12",
        /// Of Valkey 9.
        Valkey80 = "80",
    }
}

impl RdbVersion {
    /// The version's number, if it is fixed.
    pub fn number(self) -> Option<u32> {
        match self {
            Self::Lowest => None,
            Self::V10 => Some(10),
            Self::V11 => Some(11),
            Self::V12 => Some(12),
            Self::Valkey80 => Some(80),
        }
    }
}

choice! {
    /// `maxmemory-policy`: which keys may be evicted, and which go first.
    MaxmemoryPolicy {
        /// Among keys with a deadline, the least recently used.
        VolatileLru = "volatile-lru",
        /// Among keys with a deadline, the least frequently used.
        VolatileLfu = "volatile-lfu",
        /// A random key with a deadline.
        VolatileRandom = "volatile-random",
        /// The key with the earliest deadline.
        VolatileTtl = "volatile-ttl",
        /// Among all keys, the least recently used.
        AllkeysLru = "allkeys-lru",
        /// Among all keys, the least frequently used.
        AllkeysLfu = "allkeys-lfu",
        /// A random key.
        AllkeysRandom = "allkeys-random",
        /// None: writes that need memory are refused.
        Noeviction = "noeviction",
    }
}

choice! {
    /// `cache-mode-objective`: what cache mode saves most of.
    CacheObjective {
        /// Misses: each counts the same.
        Requests = "requests",
        /// Bytes of misses.
        Bytes = "bytes",
    }
}

choice! {
    /// `tls-auth-clients`: whether TLS clients must have a certificate.
    TlsAuthClients {
        /// They need none, and are not asked for one.
        No = "no",
        /// They must have a valid one.
        Yes = "yes",
        /// They need none, but if they have one, it must be valid.
        Optional = "optional",
    }
}

choice! {
    /// `acl-pubsub-default`: which channels new users may use.
    PubSubDefault {
        /// None.
        ResetChannels = "resetchannels",
        /// All.
        AllChannels = "allchannels",
    }
}

choice! {
    /// `supervised`: the service manager to notify when the server is ready.
    Supervised {
        /// Upstart.
        Upstart = "upstart",
        /// systemd.
        Systemd = "systemd",
        /// Whichever of them the environment names.
        Auto = "auto",
        /// None.
        No = "no",
    }
}

choice! {
    /// `appendfsync`: when changes are forced to the disk.
    AppendFsync {
        /// Once a second.
        EverySecond = "everysec",
        /// Before the client gets its reply.
        Always = "always",
        /// Never by the server.
        Never = "no",
    }
}

choice! {
    /// `sanitize-dump-payload`: which packed collections Redis checks in full. Here all are.
    SanitizePayloads {
        /// None.
        No = "no",
        /// All.
        Yes = "yes",
        /// Those that come from clients, but not those in files.
        Clients = "clients",
    }
}

choice! {
    /// Which clients may use a dangerous feature.
    Allow {
        /// Nobody.
        No = "no",
        /// Everybody.
        Yes = "yes",
        /// Clients on this machine.
        Local = "local",
    }
}

impl Allow {
    /// Whether a client from `origin` may use it.
    pub fn permits(self, origin: Origin) -> bool {
        match self {
            Allow::No => false,
            Allow::Yes => true,
            Allow::Local => origin == Origin::Local,
        }
    }
}

/// Where a client is connected from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// This machine: a Unix socket or a loopback address.
    Local,
    /// Anywhere else.
    Remote,
}

/// `maxmemory-clients`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientMemory {
    /// A number of bytes; 0 means no limit.
    Bytes(u64),
    /// A percentage of `maxmemory`, 1 to 100.
    Percent(u8),
}

impl Setting for ClientMemory {
    fn show(&self) -> String {
        match self {
            Self::Bytes(bytes) => bytes.to_string(),
            Self::Percent(percent) => format!("{percent}%"),
        }
    }

    fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Bytes(bytes) => Some(Self::Bytes(bytes)),
            Value::Percent(percent) => Some(Self::Percent(percent)),
            Value::Bool(_)
            | Value::Integer(_)
            | Value::Octal(_)
            | Value::Choice(_)
            | Value::Text(_)
            | Value::Words(_) => None,
        }
    }
}

/// `latency-tracking-info-percentiles`: each from 0 to 100.
#[derive(Clone, Debug, PartialEq)]
pub struct Percentiles(pub Vec<f64>);

impl Percentiles {
    pub(crate) fn show(&self) -> String {
        let shown: Vec<String> = self
            .0
            .iter()
            .map(|percentile| {
                // At most six decimals, without trailing zeros.
                let text = format!("{percentile:.6}");
                text.trim_end_matches('0').trim_end_matches('.').to_owned()
            })
            .collect();
        shown.join(" ")
    }

    pub(crate) fn parse(words: &[String]) -> Result<Self, OptionError> {
        let mut percentiles = Vec::with_capacity(words.len());
        for word in words {
            let percentile = word
                .parse::<f64>()
                .ok()
                .filter(|number| !number.is_nan())
                .ok_or(OptionError::new(
                    "Invalid latency-tracking-info-percentiles parameters",
                ))?;
            if !(0.0..=100.0).contains(&percentile) {
                return Err(OptionError::new(
                    "latency-tracking-info-percentiles parameters should sit between [0.0,100.0]",
                ));
            }
            percentiles.push(percentile);
        }
        Ok(Self(percentiles))
    }
}

/// `replicaof`: where the primary is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrimaryAddress {
    /// Its host name or address.
    pub host: String,
    /// Its port, not 0.
    pub port: u16,
}

impl PrimaryAddress {
    pub(crate) fn show(primary: Option<&Self>) -> String {
        primary.map_or_else(String::new, |primary| {
            format!("{} {}", primary.host, primary.port)
        })
    }

    pub(crate) fn parse(words: &[String]) -> Result<Option<Self>, OptionError> {
        match words {
            [] => Ok(None),
            [no, one] if no.eq_ignore_ascii_case("no") && one.eq_ignore_ascii_case("one") => {
                Ok(None)
            }
            [host, port] => match port.parse() {
                Err(_) => Err(OptionError::new("Invalid master port")),
                Ok(port) => Ok(Some(Self {
                    host: host.clone(),
                    port,
                })),
            },
            _ => Err(OptionError::new("wrong number of arguments")),
        }
    }
}

choice! {
    /// `propagation-error-behavior`: what happens when a command fails that has succeeded before, on the primary or when it was logged.
    PropagationErrors {
        /// It is logged and counted.
        Ignore = "ignore",
        /// The process ends.
        Panic = "panic",
        /// The process ends if the command came from a primary.
        PanicOnReplicas = "panic-on-replicas",
    }
}

choice! {
    /// `repl-diskless-load`: how a replica loads the data of its primary.
    DisklessLoad {
        /// Through a file.
        Disabled = "disabled",
        /// Straight from the connection if there is no data to lose, otherwise through a file.
        OnEmptyDb = "on-empty-db",
        /// Straight from the connection, beside the old data.
        SwapDb = "swapdb",
    }
}
