//! The table of options: one row each. Command line, file, environment, CONFIG, help and documentation
//! are all read from it.

use super::kind::{Kind, OptionError, Setting, Value};
use super::settings::{
    Allow, Config, LogLevel, MaxmemoryPolicy, Percentiles, SavePoints, Supervised, events,
};

/// One option.
#[derive(Debug)]
pub struct Opt {
    /// The name users write and CONFIG GET shows.
    pub name: &'static str,
    /// Older names that mean the same.
    pub aliases: &'static [&'static str],
    /// Where help and documentation put it.
    pub section: Section,
    /// What its values look like.
    pub kind: Kind,
    /// When it may be changed.
    pub changeable: Changeable,
    /// Whether it already does anything.
    pub effect: Effect,
    /// What it does, in a sentence or two.
    pub summary: &'static str,
    /// The field of [`Config`] behind it.
    pub access: Access,
}

/// How to read and write one option's field.
#[derive(Clone, Copy, Debug)]
pub struct Access {
    /// The value as CONFIG GET shows it, which [`Kind::parse`] accepts again.
    pub read: fn(&Config) -> String,
    /// Stores a value of the option's own [`Kind`], or leaves the configuration as it was.
    pub write: fn(&mut Config, Value) -> Result<(), OptionError>,
}

/// A group of options in help and documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// Listening and connections.
    Network,
    /// Threads, logging and the process.
    General,
    /// Passwords and permissions.
    Security,
    /// Limits of memory, and freeing it.
    Memory,
    /// Limits per client, and what clients are told.
    Clients,
    /// Deadlines of keys.
    Expiry,
    /// Slow log and latency.
    Diagnosis,
    /// Snapshots and logs on disk.
    Persistence,
    /// Scripts.
    Scripts,
    /// How values are stored.
    Values,
}

impl Section {
    /// Every section, in the order of the documentation.
    pub const ALL: [Section; 10] = [
        Section::Network,
        Section::General,
        Section::Security,
        Section::Memory,
        Section::Clients,
        Section::Expiry,
        Section::Diagnosis,
        Section::Persistence,
        Section::Scripts,
        Section::Values,
    ];

    /// Its heading.
    pub fn title(self) -> &'static str {
        match self {
            Section::Network => "Network",
            Section::General => "General",
            Section::Security => "Security",
            Section::Memory => "Memory",
            Section::Clients => "Clients",
            Section::Expiry => "Expiry",
            Section::Diagnosis => "Diagnosis",
            Section::Persistence => "Persistence",
            Section::Scripts => "Scripts",
            Section::Values => "How values are stored",
        }
    }
}

/// When an option may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Changeable {
    /// Only when the server starts.
    AtStart,
    /// Also while it runs.
    Live,
    /// While it runs, by clients that `enable-protected-configs` permits.
    Protected,
}

/// Whether an option already does anything. Values are stored and shown in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It does what its summary says.
    Acts,
    /// Not yet; the text says what holds until then.
    Later(&'static str),
    /// It exists so that configurations written for Redis work; the text says why it does nothing.
    Never(&'static str),
}

/// The greatest number of 32 bits with sign, the limit of many options of Redis.
const I32_MAX: i64 = i32::MAX as i64;
/// The greatest number of 64 bits with sign, in bytes.
const I64_MAX_BYTES: u64 = i64::MAX as u64;
/// How many addresses `bind` takes, as in Redis.
const BIND_ADDRESSES_MAX: usize = 16;
const NO_DEFRAGMENTATION: &str = "Active defragmentation cannot be enabled: it requires a Redis server compiled with a modified Jemalloc like the one shipped by default with the Redis source distribution";
const NO_APPEND_ONLY_FILE: &str =
    "there is no append-only file yet: with 'yes' data would seem safe and be lost";

/// [`Access`] to a field that needs no further checks.
macro_rules! field {
    ($field:ident) => {
        Access {
            read: |c| c.$field.show(),
            write: |c, value| value.store(&mut c.$field),
        }
    };
}

/// The row of the option called `name`, by any of its names and in any case.
pub fn find(name: &str) -> Option<&'static Opt> {
    OPTIONS
        .iter()
        .find(|option| option.names().any(|known| known.eq_ignore_ascii_case(name)))
}

impl Opt {
    /// Its name, then its aliases.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }

    /// Its default, as CONFIG GET shows it.
    pub fn default_shown(&self) -> String {
        (self.access.read)(&Config::default())
    }

    /// Parses `words` and stores them in `config`, which stays as it was when they are refused.
    pub fn write(&self, config: &mut Config, words: &[&str]) -> Result<(), OptionError> {
        (self.access.write)(config, self.kind.parse(words)?)
    }
}

/// Every option.
pub static OPTIONS: &[Opt] = &[
    Opt {
        name: "port",
        aliases: &[],
        section: Section::Network,
        kind: Kind::Integer { min: 0, max: 65535 },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "TCP port to listen on; 0 listens on none. Clients stay connected when it changes.",
        access: field!(port),
    },
    Opt {
        name: "bind",
        aliases: &[],
        section: Section::Network,
        kind: Kind::Words,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Addresses to listen on. A leading `-` allows the address to be missing; `*` means every IPv4 address and `::*` every IPv6 address. Clients stay connected when it changes.",
        access: Access {
            read: |c| c.bind.show(),
            write: |c, value| {
                let addresses = value.words();
                if addresses.len() > BIND_ADDRESSES_MAX {
                    return Err(OptionError::new("Too many bind addresses specified."));
                }
                c.bind = addresses;
                Ok(())
            },
        },
    },
    Opt {
        name: "unixsocket",
        aliases: &[],
        section: Section::Network,
        kind: Kind::Text,
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Path of a Unix socket to listen on; empty for none.",
        access: field!(unixsocket),
    },
    Opt {
        name: "unixsocketperm",
        aliases: &[],
        section: Section::Network,
        kind: Kind::Octal { max: 0o777 },
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Permissions of the Unix socket, in octal; 0 leaves what the umask gives.",
        access: Access {
            read: |c| format!("{:o}", c.unixsocket_mode),
            write: |c, value| {
                if let Value::Octal(mode) = value {
                    c.unixsocket_mode = mode;
                }
                Ok(())
            },
        },
    },
    Opt {
        name: "tcp-backlog",
        aliases: &[],
        section: Section::Network,
        kind: Kind::Integer {
            min: 0,
            max: I32_MAX,
        },
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "How many connections the kernel queues before they are accepted.",
        access: field!(tcp_backlog),
    },
    Opt {
        name: "tcp-keepalive",
        aliases: &[],
        section: Section::Network,
        kind: Kind::Integer {
            min: 0,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Seconds of silence before the kernel probes a peer; 0 never probes.",
        access: field!(tcp_keepalive_s),
    },
    Opt {
        name: "timeout",
        aliases: &[],
        section: Section::Network,
        kind: Kind::Integer {
            min: 0,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Seconds after which an idle client is disconnected; 0 means never.",
        access: field!(timeout_s),
    },
    Opt {
        name: "maxclients",
        aliases: &[],
        section: Section::Network,
        kind: Kind::Integer {
            min: 1,
            max: u32::MAX as i64,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "How many clients may be connected at once.",
        access: field!(maxclients),
    },
    Opt {
        name: "protected-mode",
        aliases: &[],
        section: Section::Network,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Accepts only clients of this machine while no password is set, whatever `bind` says.",
        access: field!(protected_mode),
    },
    Opt {
        name: "socket-mark-id",
        aliases: &[],
        section: Section::Network,
        kind: Kind::Integer {
            min: 0,
            max: u32::MAX as i64,
        },
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Mark (SO_MARK) put on TCP sockets, for packet filters; 0 puts none. Needs CAP_NET_ADMIN: without it, the server does not start.",
        access: field!(socket_mark_id),
    },
    Opt {
        name: "threads",
        aliases: &[],
        section: Section::General,
        kind: Kind::Integer { min: 0, max: 1024 },
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Threads that serve clients; 0 means one per core.",
        access: field!(threads),
    },
    Opt {
        name: "shards",
        aliases: &[],
        section: Section::General,
        kind: Kind::Integer { min: 0, max: 65536 },
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Parts the keys are divided into, rounded up to a power of two; 0 lets the server choose.",
        access: field!(shards),
    },
    Opt {
        name: "databases",
        aliases: &[],
        section: Section::General,
        kind: Kind::Integer {
            min: 1,
            max: I32_MAX,
        },
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "How many databases SELECT can choose from.",
        access: field!(databases),
    },
    Opt {
        name: "loglevel",
        aliases: &[],
        section: Section::General,
        kind: Kind::Choice(LogLevel::NAMES),
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "How much is logged.",
        access: field!(loglevel),
    },
    Opt {
        name: "logfile",
        aliases: &[],
        section: Section::General,
        kind: Kind::Text,
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "File to log to; empty logs to standard output.",
        access: field!(logfile),
    },
    Opt {
        name: "pidfile",
        aliases: &[],
        section: Section::General,
        kind: Kind::Text,
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "File to write the process id to. Empty writes none, or with `daemonize` /var/run/damselfly.pid if possible. Removed at the end.",
        access: field!(pidfile),
    },
    Opt {
        name: "daemonize",
        aliases: &[],
        section: Section::General,
        kind: Kind::Bool,
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Runs in the background. The command ends when the server is ready, or with an error if it can't start. A service manager that `supervised` finds turns this off.",
        access: field!(daemonize),
    },
    Opt {
        name: "supervised",
        aliases: &[],
        section: Section::General,
        kind: Kind::Choice(Supervised::NAMES),
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Which service manager to tell when the server is ready: `systemd` by NOTIFY_SOCKET, `upstart` by stopping itself, `auto` whichever the environment names.",
        access: field!(supervised),
    },
    Opt {
        name: "always-show-logo",
        aliases: &[],
        section: Section::General,
        kind: Kind::Bool,
        changeable: Changeable::AtStart,
        effect: Effect::Never("there is no logo"),
        summary: "Asks for a logo in the log.",
        access: field!(always_show_logo),
    },
    Opt {
        name: "hz",
        aliases: &[],
        section: Section::General,
        kind: Kind::Integer {
            min: 0,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Never(
            "periodic work runs ten times a second, and sooner where much is due",
        ),
        summary: "Rounds of background work per second, brought into 1 to 500.",
        access: Access {
            read: |c| c.hz.show(),
            write: |c, value| {
                value.store(&mut c.hz)?;
                c.hz = c.hz.clamp(1, 500);
                Ok(())
            },
        },
    },
    Opt {
        name: "dynamic-hz",
        aliases: &[],
        section: Section::General,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Never("work per round does not grow with the number of clients"),
        summary: "Raises `hz` while many clients are connected.",
        access: field!(dynamic_hz),
    },
    Opt {
        name: "requirepass",
        aliases: &[],
        section: Section::Security,
        kind: Kind::Text,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Password that clients must give; empty asks for none.",
        access: field!(requirepass),
    },
    Opt {
        name: "enable-protected-configs",
        aliases: &[],
        section: Section::Security,
        kind: Kind::Choice(Allow::NAMES),
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Who may change protected options with CONFIG SET.",
        access: field!(enable_protected_configs),
    },
    Opt {
        name: "enable-debug-command",
        aliases: &[],
        section: Section::Security,
        kind: Kind::Choice(Allow::NAMES),
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Who may use DEBUG.",
        access: field!(enable_debug_command),
    },
    Opt {
        name: "maxmemory",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Memory {
            min: 0,
            max: u64::MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Most memory to use, as `used_memory` of INFO counts it; 0 sets no limit. Interpreters of scripts do not count. With a policy that evicts, other memory than that of keys, such as buffers of clients or functions, takes at most half from keys: beyond, it is not counted, and only its own limits hold, such as `maxmemory-clients`.",
        access: field!(maxmemory_bytes),
    },
    Opt {
        name: "maxmemory-policy",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Choice(MaxmemoryPolicy::NAMES),
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "What happens to a write when `maxmemory` is reached.",
        access: field!(maxmemory_policy),
    },
    Opt {
        name: "maxmemory-samples",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Integer {
            min: 1,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "How many keys are compared to choose one to evict; Damselfly compares twice as many, and at least those that lie together. Random policies compare none.",
        access: field!(maxmemory_samples),
    },
    Opt {
        name: "maxmemory-eviction-tenacity",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Integer { min: 0, max: 100 },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "How long a write may be kept waiting while keys are evicted: 10 for half a millisecond, 100 for as long as it takes.",
        access: field!(maxmemory_eviction_tenacity),
    },
    Opt {
        name: "maxmemory-clients",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::MemoryOrPercent,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Most memory for all clients' buffers together; 0 sets no limit.",
        access: field!(maxmemory_clients),
    },
    Opt {
        name: "lfu-log-factor",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Integer {
            min: 0,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "How slowly the access counter of a key saturates.",
        access: field!(lfu_log_factor),
    },
    Opt {
        name: "lfu-decay-time",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Integer {
            min: 0,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Minutes after which the access counter of a key shrinks.",
        access: field!(lfu_decay_time_min),
    },
    Opt {
        name: "lazyfree-lazy-eviction",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Never("large collections are always freed in the background"),
        summary: "Frees evicted values in the background.",
        access: field!(lazyfree_lazy_eviction),
    },
    Opt {
        name: "lazyfree-lazy-expire",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Never("large collections are always freed in the background"),
        summary: "Frees expired values in the background.",
        access: field!(lazyfree_lazy_expire),
    },
    Opt {
        name: "lazyfree-lazy-server-del",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Never("large collections are always freed in the background"),
        summary: "Frees overwritten values in the background.",
        access: field!(lazyfree_lazy_server_del),
    },
    Opt {
        name: "lazyfree-lazy-user-del",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Never("large collections are always freed in the background"),
        summary: "Makes DEL free as UNLINK does.",
        access: field!(lazyfree_lazy_user_del),
    },
    Opt {
        name: "lazyfree-lazy-user-flush",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Makes FLUSHALL and FLUSHDB free in the background unless told otherwise.",
        access: field!(lazyfree_lazy_user_flush),
    },
    Opt {
        name: "replica-lazy-flush",
        aliases: &["slave-lazy-flush"],
        section: Section::Memory,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Later("there is no replication yet"),
        summary: "Frees a replica's old data in the background before a full synchronisation.",
        access: field!(replica_lazy_flush),
    },
    Opt {
        name: "activedefrag",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Never("only `no` is accepted: the allocator cannot move values"),
        summary: "Asks to move values together so that less memory is wasted.",
        access: Access {
            read: |c| c.activedefrag.show(),
            write: |c, value| {
                if value == Value::Bool(true) {
                    return Err(OptionError::new(NO_DEFRAGMENTATION));
                }
                value.store(&mut c.activedefrag)
            },
        },
    },
    Opt {
        name: "disable-thp",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Bool,
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Keeps the system from backing memory with huge pages, which take more memory and can delay requests.",
        access: field!(disable_thp),
    },
    Opt {
        name: "activerehashing",
        aliases: &[],
        section: Section::Memory,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Never("tables grow one segment at a time and are never rehashed"),
        summary: "Asks to rehash tables in idle moments.",
        access: field!(activerehashing),
    },
    Opt {
        name: "client-output-buffer-limit",
        aliases: &[],
        section: Section::Clients,
        kind: Kind::Groups(4),
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Per class of clients (`normal`, `replica`, `pubsub`): bytes of unread replies at which a client is disconnected at once, bytes at which it is disconnected after some seconds, and those seconds; 0 sets no limit.",
        access: Access {
            read: |c| c.client_output_buffer_limit.show(),
            write: |c, value| c.client_output_buffer_limit.update(&value.words()),
        },
    },
    Opt {
        name: "client-query-buffer-limit",
        aliases: &[],
        section: Section::Clients,
        kind: Kind::Memory {
            min: 1 << 20,
            max: I64_MAX_BYTES,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Most bytes of one client's unfinished requests.",
        access: field!(client_query_buffer_limit_bytes),
    },
    Opt {
        name: "proto-max-bulk-len",
        aliases: &[],
        section: Section::Clients,
        kind: Kind::Memory {
            min: 1 << 20,
            max: I64_MAX_BYTES,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Most bytes of one argument of a request.",
        access: field!(proto_max_bulk_len_bytes),
    },
    Opt {
        name: "tracking-table-max-keys",
        aliases: &[],
        section: Section::Clients,
        kind: Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Most keys remembered for client-side caching; 0 sets no limit.",
        access: field!(tracking_table_max_keys),
    },
    Opt {
        name: "notify-keyspace-events",
        aliases: &[],
        section: Section::Clients,
        kind: Kind::Text,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Which changes of keys are published: `K` and `E` choose the channels, the other letters the events.",
        access: Access {
            read: |c| {
                let shown = events(&c.notify_keyspace_events);
                shown.unwrap_or_default().show()
            },
            write: |c, value| {
                let mut letters = String::new();
                value.store(&mut letters)?;
                events(&letters)?;
                // As given: `A` hides a letter that it does not stand for.
                c.notify_keyspace_events = letters;
                Ok(())
            },
        },
    },
    Opt {
        name: "active-expire-effort",
        aliases: &[],
        section: Section::Expiry,
        kind: Kind::Integer { min: 1, max: 10 },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "How hard the background sweep works to remove expired keys.",
        access: field!(active_expire_effort),
    },
    Opt {
        name: "ttl-rounding",
        aliases: &[],
        section: Section::Expiry,
        kind: Kind::Bool,
        changeable: Changeable::AtStart,
        effect: Effect::Acts,
        summary: "Rounds long deadlines to whole seconds, for programs that relied on it.",
        access: field!(ttl_rounding),
    },
    Opt {
        name: "slowlog-log-slower-than",
        aliases: &[],
        section: Section::Diagnosis,
        kind: Kind::Integer {
            min: -1,
            max: i64::MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Microseconds from which a command enters the slow log; 0 logs all, -1 none.",
        access: field!(slowlog_log_slower_than_us),
    },
    Opt {
        name: "slowlog-max-len",
        aliases: &[],
        section: Section::Diagnosis,
        kind: Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "How many entries the slow log keeps.",
        access: field!(slowlog_max_len),
    },
    Opt {
        name: "latency-monitor-threshold",
        aliases: &[],
        section: Section::Diagnosis,
        kind: Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Milliseconds from which an event enters the latency monitor; 0 turns it off.",
        access: field!(latency_monitor_threshold_ms),
    },
    Opt {
        name: "latency-tracking",
        aliases: &[],
        section: Section::Diagnosis,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Keeps a histogram of the duration of each command.",
        access: field!(latency_tracking),
    },
    Opt {
        name: "latency-tracking-info-percentiles",
        aliases: &[],
        section: Section::Diagnosis,
        kind: Kind::Words,
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Percentiles that INFO shows of those histograms.",
        access: Access {
            read: |c| c.latency_tracking_info_percentiles.show(),
            write: |c, value| {
                c.latency_tracking_info_percentiles = Percentiles::parse(&value.words())?;
                Ok(())
            },
        },
    },
    Opt {
        name: "dir",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Text,
        changeable: Changeable::Protected,
        effect: Effect::Acts,
        summary: "Folder in which the server works: relative paths start there, as that of a log file. Snapshots will be kept there.",
        access: field!(dir),
    },
    Opt {
        name: "dbfilename",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Text,
        changeable: Changeable::Protected,
        effect: Effect::Later("there are no snapshots yet"),
        summary: "File name of the snapshot, in `dir`.",
        access: Access {
            read: |c| c.dbfilename.show(),
            write: |c, value| {
                if matches!(&value, Value::Text(name) if name.contains('/')) {
                    return Err(OptionError::new(
                        "dbfilename can't be a path, just a filename",
                    ));
                }
                value.store(&mut c.dbfilename)
            },
        },
    },
    Opt {
        name: "save",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Groups(2),
        changeable: Changeable::Live,
        effect: Effect::Later("there are no snapshots yet"),
        summary: "When to save a snapshot: after so many seconds if at least so many keys changed. An empty text turns saving off.",
        access: Access {
            read: |c| c.save.show(),
            write: |c, value| {
                c.save = SavePoints::parse(&value.words())?;
                Ok(())
            },
        },
    },
    Opt {
        name: "appendonly",
        aliases: &[],
        section: Section::Persistence,
        kind: Kind::Bool,
        changeable: Changeable::Live,
        effect: Effect::Later(
            "only `no` is accepted: there is no such file yet, and pretending would lose data",
        ),
        summary: "Asks for every write to be recorded on disk.",
        access: Access {
            read: |c| c.appendonly.show(),
            write: |c, value| {
                if value == Value::Bool(true) {
                    return Err(OptionError::new(NO_APPEND_ONLY_FILE));
                }
                value.store(&mut c.appendonly)
            },
        },
    },
    Opt {
        name: "busy-reply-threshold",
        aliases: &["lua-time-limit"],
        section: Section::Scripts,
        kind: Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Milliseconds a script may run before other clients are told that the server is busy.",
        access: field!(busy_reply_threshold_ms),
    },
    Opt {
        name: "hash-max-listpack-entries",
        aliases: &["hash-max-ziplist-entries"],
        section: Section::Values,
        kind: Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Most fields of a hash in packed form.",
        access: field!(hash_max_listpack_entries),
    },
    Opt {
        name: "hash-max-listpack-value",
        aliases: &["hash-max-ziplist-value"],
        section: Section::Values,
        kind: Kind::Memory {
            min: 0,
            max: I64_MAX_BYTES,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Longest field or value of a hash in packed form.",
        access: field!(hash_max_listpack_value_bytes),
    },
    Opt {
        name: "list-max-listpack-size",
        aliases: &["list-max-ziplist-size"],
        section: Section::Values,
        kind: Kind::Integer {
            min: i32::MIN as i64,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Size of one block of a list: so many elements, or from -1 to -5 for 4, 8, 16, 32 or 64 KiB.",
        access: field!(list_max_listpack_size),
    },
    Opt {
        name: "list-compress-depth",
        aliases: &[],
        section: Section::Values,
        kind: Kind::Integer {
            min: 0,
            max: I32_MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Blocks at each end of a list that stay uncompressed; 0 compresses none.",
        access: field!(list_compress_depth),
    },
    Opt {
        name: "set-max-intset-entries",
        aliases: &[],
        section: Section::Values,
        kind: Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Most members of a set of integers in packed form.",
        access: field!(set_max_intset_entries),
    },
    Opt {
        name: "set-max-listpack-entries",
        aliases: &[],
        section: Section::Values,
        kind: Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Most members of any other set in packed form.",
        access: field!(set_max_listpack_entries),
    },
    Opt {
        name: "set-max-listpack-value",
        aliases: &[],
        section: Section::Values,
        kind: Kind::Memory {
            min: 0,
            max: I64_MAX_BYTES,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Longest member of a set in packed form.",
        access: field!(set_max_listpack_value_bytes),
    },
    Opt {
        name: "zset-max-listpack-entries",
        aliases: &["zset-max-ziplist-entries"],
        section: Section::Values,
        kind: Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Most members of a sorted set in packed form.",
        access: field!(zset_max_listpack_entries),
    },
    Opt {
        name: "zset-max-listpack-value",
        aliases: &["zset-max-ziplist-value"],
        section: Section::Values,
        kind: Kind::Memory {
            min: 0,
            max: I64_MAX_BYTES,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Longest member of a sorted set in packed form.",
        access: field!(zset_max_listpack_value_bytes),
    },
    Opt {
        name: "hll-sparse-max-bytes",
        aliases: &[],
        section: Section::Values,
        kind: Kind::Memory {
            min: 0,
            max: I64_MAX_BYTES,
        },
        changeable: Changeable::Live,
        effect: Effect::Later("there are no HyperLogLogs yet"),
        summary: "Most bytes of a HyperLogLog in sparse form.",
        access: field!(hll_sparse_max_bytes),
    },
    Opt {
        name: "stream-node-max-bytes",
        aliases: &[],
        section: Section::Values,
        kind: Kind::Memory {
            min: 0,
            max: I64_MAX_BYTES,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Most bytes of one block of a stream; 0 sets no limit.",
        access: field!(stream_node_max_bytes),
    },
    Opt {
        name: "stream-node-max-entries",
        aliases: &[],
        section: Section::Values,
        kind: Kind::Integer {
            min: 0,
            max: i64::MAX,
        },
        changeable: Changeable::Live,
        effect: Effect::Acts,
        summary: "Most entries of one block of a stream; 0 sets no limit.",
        access: field!(stream_node_max_entries),
    },
];
