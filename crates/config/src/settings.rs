//! The configuration as plain values, and the types of values that are more than a number or a text.

use super::kind::{OptionError, Setting, Value};
use super::output_limits::OutputLimits;
use super::saving::{SavePoints, ShutdownFlags};

/// The values of all options at one moment. [`Default`] gives the defaults.
///
/// The names of fields end in their unit; [`super::OPTIONS`] documents each option.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `port`
    pub port: u16,
    /// `memcached-port`
    pub memcached_port: u16,
    /// `memcached-max-item-size`
    pub memcached_max_item_size_bytes: u64,
    /// `memcached-enable-shutdown`
    pub memcached_enable_shutdown: bool,
    /// `bind`
    pub bind: Vec<String>,
    /// `unixsocket`
    pub unixsocket: String,
    /// `unixsocketperm`
    pub unixsocket_mode: u32,
    /// `tcp-backlog`
    pub tcp_backlog: u32,
    /// `tcp-keepalive`
    pub tcp_keepalive_s: u32,
    /// `timeout`
    pub timeout_s: u32,
    /// `maxclients`
    pub maxclients: u32,
    /// `protected-mode`
    pub protected_mode: bool,
    /// `socket-mark-id`
    pub socket_mark_id: u32,
    /// `threads`
    pub threads: usize,
    /// `shards`
    pub shards: usize,
    /// `databases`
    pub databases: u32,
    /// `loglevel`
    pub loglevel: LogLevel,
    /// `logfile`
    pub logfile: String,
    /// `pidfile`
    pub pidfile: String,
    /// `daemonize`
    pub daemonize: bool,
    /// `supervised`
    pub supervised: Supervised,
    /// `always-show-logo`
    pub always_show_logo: bool,
    /// `locale-collate`
    pub locale_collate: String,
    /// `hide-user-data-from-log`
    pub hide_user_data_from_log: bool,
    /// `max-new-connections-per-cycle`
    pub max_new_connections_per_cycle: u32,
    /// `max-new-tls-connections-per-cycle`
    pub max_new_tls_connections_per_cycle: u32,
    /// `hz`
    pub hz: u32,
    /// `dynamic-hz`
    pub dynamic_hz: bool,
    /// `requirepass`
    pub requirepass: String,
    /// `enable-protected-configs`
    pub enable_protected_configs: Allow,
    /// `enable-debug-command`
    pub enable_debug_command: Allow,
    /// `maxmemory`
    pub maxmemory_bytes: u64,
    /// `maxmemory-policy`
    pub maxmemory_policy: MaxmemoryPolicy,
    /// `maxmemory-samples`
    pub maxmemory_samples: u32,
    /// `maxmemory-eviction-tenacity`
    pub maxmemory_eviction_tenacity: u32,
    /// `maxmemory-clients`
    pub maxmemory_clients: ClientMemory,
    /// `lfu-log-factor`
    pub lfu_log_factor: u32,
    /// `lfu-decay-time`
    pub lfu_decay_time_min: u32,
    /// `lazyfree-lazy-eviction`
    pub lazyfree_lazy_eviction: bool,
    /// `lazyfree-lazy-expire`
    pub lazyfree_lazy_expire: bool,
    /// `lazyfree-lazy-server-del`
    pub lazyfree_lazy_server_del: bool,
    /// `lazyfree-lazy-user-del`
    pub lazyfree_lazy_user_del: bool,
    /// `lazyfree-lazy-user-flush`
    pub lazyfree_lazy_user_flush: bool,
    /// `replica-lazy-flush`
    pub replica_lazy_flush: bool,
    /// `activedefrag`
    pub activedefrag: bool,
    /// `disable-thp`
    pub disable_thp: bool,
    /// `activerehashing`
    pub activerehashing: bool,
    /// `client-output-buffer-limit`
    pub client_output_buffer_limit: OutputLimits,
    /// `client-query-buffer-limit`
    pub client_query_buffer_limit_bytes: u64,
    /// `proto-max-bulk-len`
    pub proto_max_bulk_len_bytes: u64,
    /// `tracking-table-max-keys`
    pub tracking_table_max_keys: u64,
    /// `notify-keyspace-events`
    pub notify_keyspace_events: String,
    /// `active-expire-effort`
    pub active_expire_effort: u32,
    /// `ttl-rounding`
    pub ttl_rounding: bool,
    /// `slowlog-log-slower-than`
    pub slowlog_log_slower_than_us: i64,
    /// `slowlog-max-len`
    pub slowlog_max_len: u64,
    /// `latency-monitor-threshold`
    pub latency_monitor_threshold_ms: u64,
    /// `latency-tracking`
    pub latency_tracking: bool,
    /// `latency-tracking-info-percentiles`
    pub latency_tracking_info_percentiles: Percentiles,
    /// `dir`
    pub dir: String,
    /// `dbfilename`
    pub dbfilename: String,
    /// `rdbchecksum`
    pub rdbchecksum: bool,
    /// `save`
    pub save: SavePoints,
    /// `shutdown-on-sigint`
    pub shutdown_on_sigint: ShutdownFlags,
    /// `shutdown-on-sigterm`
    pub shutdown_on_sigterm: ShutdownFlags,
    /// `shutdown-timeout`
    pub shutdown_timeout_s: u32,
    /// `stop-writes-on-bgsave-error`
    pub stop_writes_on_bgsave_error: bool,
    /// `rdbcompression`
    pub rdbcompression: bool,
    /// `rdb-save-incremental-fsync`
    pub rdb_save_incremental_fsync: bool,
    /// `rdb-save-version`
    pub rdb_save_version: RdbVersion,
    /// `rdb-key-save-delay`
    pub rdb_key_save_delay_us: i64,
    /// `appendonly`
    pub appendonly: bool,
    /// `sanitize-dump-payload`
    pub sanitize_dump_payload: SanitizePayloads,
    /// `busy-reply-threshold`
    pub busy_reply_threshold_ms: u64,
    /// `hash-max-listpack-entries`
    pub hash_max_listpack_entries: u64,
    /// `hash-max-listpack-value`
    pub hash_max_listpack_value_bytes: u64,
    /// `list-max-listpack-size`
    pub list_max_listpack_size: i32,
    /// `list-compress-depth`
    pub list_compress_depth: u32,
    /// `set-max-intset-entries`
    pub set_max_intset_entries: u64,
    /// `set-max-listpack-entries`
    pub set_max_listpack_entries: u64,
    /// `set-max-listpack-value`
    pub set_max_listpack_value_bytes: u64,
    /// `zset-max-listpack-entries`
    pub zset_max_listpack_entries: u64,
    /// `zset-max-listpack-value`
    pub zset_max_listpack_value_bytes: u64,
    /// `hll-sparse-max-bytes`
    pub hll_sparse_max_bytes: u64,
    /// `stream-node-max-bytes`
    pub stream_node_max_bytes: u64,
    /// `stream-node-max-entries`
    pub stream_node_max_entries: u64,
    /// `key-load-delay`
    pub key_load_delay_us: i32,
    /// `loading-process-events-interval-bytes`
    pub loading_process_events_interval_bytes: u64,
    /// `rename-command`: commands and their new names. An empty name removes the command.
    pub rename_commands: Vec<(String, String)>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            port: 6379,
            bind: vec!["*".to_owned(), "-::*".to_owned()],
            unixsocket: String::new(),
            memcached_port: 0,
            memcached_max_item_size_bytes: 1 << 20,
            memcached_enable_shutdown: false,
            unixsocket_mode: 0,
            tcp_backlog: 511,
            tcp_keepalive_s: 300,
            timeout_s: 0,
            maxclients: 10_000,
            protected_mode: true,
            socket_mark_id: 0,
            threads: 0,
            shards: 0,
            databases: 16,
            loglevel: LogLevel::Notice,
            logfile: String::new(),
            pidfile: String::new(),
            daemonize: false,
            supervised: Supervised::No,
            always_show_logo: false,
            locale_collate: String::new(),
            hide_user_data_from_log: false,
            max_new_connections_per_cycle: 10,
            max_new_tls_connections_per_cycle: 1,
            hz: 10,
            dynamic_hz: true,
            requirepass: String::new(),
            enable_protected_configs: Allow::No,
            enable_debug_command: Allow::No,
            maxmemory_bytes: 0,
            maxmemory_policy: MaxmemoryPolicy::Noeviction,
            maxmemory_samples: 5,
            maxmemory_eviction_tenacity: 10,
            maxmemory_clients: ClientMemory::Bytes(0),
            lfu_log_factor: 10,
            lfu_decay_time_min: 1,
            lazyfree_lazy_eviction: false,
            lazyfree_lazy_expire: false,
            lazyfree_lazy_server_del: false,
            lazyfree_lazy_user_del: false,
            lazyfree_lazy_user_flush: false,
            replica_lazy_flush: false,
            activedefrag: false,
            disable_thp: true,
            activerehashing: true,
            client_output_buffer_limit: OutputLimits::default(),
            client_query_buffer_limit_bytes: 1 << 30,
            proto_max_bulk_len_bytes: 512 << 20,
            tracking_table_max_keys: 1_000_000,
            notify_keyspace_events: String::new(),
            active_expire_effort: 1,
            ttl_rounding: false,
            slowlog_log_slower_than_us: 10_000,
            slowlog_max_len: 128,
            latency_monitor_threshold_ms: 0,
            latency_tracking: true,
            latency_tracking_info_percentiles: Percentiles(vec![50.0, 99.0, 99.9]),
            dir: ".".to_owned(),
            dbfilename: "dump.rdb".to_owned(),
            rdbchecksum: true,
            save: SavePoints::default(),
            shutdown_on_sigint: ShutdownFlags::default(),
            shutdown_on_sigterm: ShutdownFlags::default(),
            shutdown_timeout_s: 10,
            stop_writes_on_bgsave_error: true,
            rdbcompression: true,
            rdb_save_incremental_fsync: true,
            rdb_save_version: RdbVersion::Lowest,
            rdb_key_save_delay_us: 0,
            appendonly: false,
            sanitize_dump_payload: SanitizePayloads::No,
            busy_reply_threshold_ms: 5000,
            hash_max_listpack_entries: 512,
            hash_max_listpack_value_bytes: 64,
            list_max_listpack_size: -2,
            list_compress_depth: 0,
            set_max_intset_entries: 512,
            set_max_listpack_entries: 128,
            set_max_listpack_value_bytes: 64,
            zset_max_listpack_entries: 128,
            zset_max_listpack_value_bytes: 64,
            hll_sparse_max_bytes: 3000,
            stream_node_max_bytes: 4096,
            stream_node_max_entries: 100,
            key_load_delay_us: 0,
            loading_process_events_interval_bytes: 2 << 20,
            rename_commands: Vec::new(),
        }
    }
}

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

/// The letters of `notify-keyspace-events`, in the order and form in which Redis shows them.
pub(crate) fn events(letters: &str) -> Result<String, OptionError> {
    const ALL: &str = "g$lshzxetd";
    const SHOWN: &str = "g$lshzxetdnKEm";
    if letters.chars().any(|c| !"Ag$lshzxeKEtmdn".contains(c)) {
        return Err(OptionError::new(
            "Invalid event class character. Use 'Ag$lshzxeKEtmdn'.",
        ));
    }
    let has = |c| letters.contains(c);
    let all = has('A') || ALL.chars().all(has);
    // `A` does not include `n` (new keys), but Redis does not show `n` next to `A`.
    let hidden = |c: char| all && (ALL.contains(c) || c == 'n');
    let mut shown = String::from(if all { "A" } else { "" });
    shown.extend(SHOWN.chars().filter(|c| has(*c) && !hidden(*c)));
    Ok(shown)
}
