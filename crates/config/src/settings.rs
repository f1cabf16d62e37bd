//! The configuration as plain values.

use super::load::Place;
use super::output_limits::OutputLimits;
use super::saving::{SavePoints, ShutdownFlags};
use super::types::{
    Allow, AppendFsync, CacheObjective, ClientMemory, DisklessLoad, LogLevel, MaxmemoryPolicy,
    Percentiles, PrimaryAddress, PropagationErrors, PubSubDefault, RdbVersion, SanitizePayloads,
    Supervised, TlsAuthClients,
};

/// The values of all options at one moment. [`Default`] gives the defaults.
///
/// The names of fields end in their unit; [`super::options`] documents each option.
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
    /// `tls-port`
    pub tls_port: u16,
    /// `tls-memcached`
    pub tls_memcached: bool,
    /// `tls-cert-file`
    pub tls_cert_file: String,
    /// `tls-key-file`
    pub tls_key_file: String,
    /// `tls-key-file-pass`
    pub tls_key_file_pass: String,
    /// `tls-client-cert-file`
    pub tls_client_cert_file: String,
    /// `tls-client-key-file`
    pub tls_client_key_file: String,
    /// `tls-client-key-file-pass`
    pub tls_client_key_file_pass: String,
    /// `tls-ca-cert-file`
    pub tls_ca_cert_file: String,
    /// `tls-ca-cert-dir`
    pub tls_ca_cert_dir: String,
    /// `tls-auth-clients`
    pub tls_auth_clients: TlsAuthClients,
    /// `tls-protocols`
    pub tls_protocols: String,
    /// `tls-ciphers`
    pub tls_ciphers: String,
    /// `tls-ciphersuites`
    pub tls_ciphersuites: String,
    /// `tls-prefer-server-ciphers`
    pub tls_prefer_server_ciphers: bool,
    /// `tls-dh-params-file`
    pub tls_dh_params_file: String,
    /// `tls-session-caching`
    pub tls_session_caching: bool,
    /// `tls-session-cache-size`
    pub tls_session_cache_size: u64,
    /// `tls-session-cache-timeout`
    pub tls_session_cache_timeout_s: u64,
    /// `tls-handshake-timeout`
    pub tls_handshake_timeout_s: u32,
    /// `tls-replication`
    pub tls_replication: bool,
    /// `tls-cluster`
    pub tls_cluster: bool,
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
    /// `aclfile`
    pub aclfile: String,
    /// `acllog-max-len`
    pub acllog_max_len: u64,
    /// `acl-pubsub-default`
    pub acl_pubsub_default: PubSubDefault,
    /// `memcached-user`
    pub memcached_user: String,
    /// `enable-protected-configs`
    pub enable_protected_configs: Allow,
    /// `enable-debug-command`
    pub enable_debug_command: Allow,
    /// `enable-module-command`
    pub enable_module_command: Allow,
    /// `maxmemory`
    pub maxmemory_bytes: u64,
    /// `cache-mode`
    pub cache_mode: bool,
    /// `cache-mode-objective`
    pub cache_mode_objective: CacheObjective,
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
    /// `replicaof`
    pub replicaof: Option<PrimaryAddress>,
    /// `masteruser`
    pub masteruser: String,
    /// `masterauth`
    pub masterauth: String,
    /// `replica-serve-stale-data`
    pub replica_serve_stale_data: bool,
    /// `replica-read-only`
    pub replica_read_only: bool,
    /// `replica-priority`
    pub replica_priority: u32,
    /// `replica-announced`
    pub replica_announced: bool,
    /// `replica-announce-ip`
    pub replica_announce_ip: String,
    /// `replica-announce-port`
    pub replica_announce_port: u16,
    /// `replica-ignore-maxmemory`
    pub replica_ignore_maxmemory: bool,
    /// `replica-ignore-disk-write-errors`
    pub replica_ignore_disk_write_errors: bool,
    /// `propagation-error-behavior`
    pub propagation_error_behavior: PropagationErrors,
    /// `repl-transaction-limit`: the most bytes of a command or transaction of the primary.
    pub repl_transaction_bytes_max: u64,
    /// `repl-diskless-load`
    pub repl_diskless_load: DisklessLoad,
    /// `repl-diskless-sync`
    pub repl_diskless_sync: bool,
    /// `repl-diskless-sync-delay`
    pub repl_diskless_sync_delay_s: u32,
    /// `repl-diskless-sync-max-replicas`
    pub repl_diskless_sync_max_replicas: u32,
    /// `repl-ping-replica-period`
    pub repl_ping_replica_period_s: u32,
    /// `repl-timeout`
    pub repl_timeout_s: u32,
    /// `repl-disable-tcp-nodelay`
    pub repl_disable_tcp_nodelay: bool,
    /// `repl-backlog-size`
    pub repl_backlog_bytes: u64,
    /// `repl-backlog-ttl`
    pub repl_backlog_ttl_s: u32,
    /// `rdb-del-sync-files`
    pub rdb_del_sync_files: bool,
    /// `min-replicas-to-write`
    pub min_replicas_to_write: u32,
    /// `min-replicas-max-lag`
    pub min_replicas_max_lag_s: u32,
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
    /// `appendfilename`
    pub appendfilename: String,
    /// `appenddirname`
    pub appenddirname: String,
    /// `appendfsync`
    pub appendfsync: AppendFsync,
    /// `no-appendfsync-on-rewrite`
    pub no_appendfsync_on_rewrite: bool,
    /// `auto-aof-rewrite-percentage`
    pub auto_aof_rewrite_percentage: u32,
    /// `auto-aof-rewrite-min-size`
    pub auto_aof_rewrite_min_bytes: u64,
    /// `aof-load-truncated`
    pub aof_load_truncated: bool,
    /// `aof-use-rdb-preamble`
    pub aof_use_rdb_preamble: bool,
    /// `aof-timestamp-enabled`
    pub aof_timestamp_enabled: bool,
    /// `aof-rewrite-incremental-fsync`
    pub aof_rewrite_incremental_fsync: bool,
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
    /// `user`: the users that the configuration defines.
    pub users: Vec<UserLine>,
}

/// A line `user NAME RULE ...`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserLine {
    /// Where it was given.
    pub place: Place,
    /// The name.
    pub name: String,
    /// The rules, not checked yet.
    pub rules: Vec<String>,
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
            tls_port: 0,
            tls_memcached: false,
            tls_cert_file: String::new(),
            tls_key_file: String::new(),
            tls_key_file_pass: String::new(),
            tls_client_cert_file: String::new(),
            tls_client_key_file: String::new(),
            tls_client_key_file_pass: String::new(),
            tls_ca_cert_file: String::new(),
            tls_ca_cert_dir: String::new(),
            tls_auth_clients: TlsAuthClients::Yes,
            tls_protocols: String::new(),
            tls_ciphers: String::new(),
            tls_ciphersuites: String::new(),
            tls_prefer_server_ciphers: false,
            tls_dh_params_file: String::new(),
            tls_session_caching: true,
            tls_session_cache_size: 20 * 1024,
            tls_session_cache_timeout_s: 300,
            tls_handshake_timeout_s: 10,
            tls_replication: false,
            tls_cluster: false,
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
            aclfile: String::new(),
            acllog_max_len: 128,
            acl_pubsub_default: PubSubDefault::ResetChannels,
            memcached_user: "default".to_owned(),
            enable_protected_configs: Allow::No,
            enable_debug_command: Allow::No,
            enable_module_command: Allow::No,
            maxmemory_bytes: 0,
            cache_mode: false,
            cache_mode_objective: CacheObjective::Requests,
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
            replicaof: None,
            masteruser: String::new(),
            masterauth: String::new(),
            replica_serve_stale_data: true,
            replica_read_only: true,
            replica_priority: 100,
            replica_announced: true,
            replica_announce_ip: String::new(),
            replica_announce_port: 0,
            replica_ignore_maxmemory: true,
            replica_ignore_disk_write_errors: false,
            propagation_error_behavior: PropagationErrors::Ignore,
            repl_transaction_bytes_max: 4 << 30,
            repl_diskless_load: DisklessLoad::Disabled,
            repl_diskless_sync: true,
            repl_diskless_sync_delay_s: 5,
            repl_diskless_sync_max_replicas: 0,
            repl_ping_replica_period_s: 10,
            repl_timeout_s: 60,
            repl_disable_tcp_nodelay: false,
            repl_backlog_bytes: 1 << 20,
            repl_backlog_ttl_s: 3600,
            rdb_del_sync_files: false,
            min_replicas_to_write: 0,
            min_replicas_max_lag_s: 10,
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
            appendfilename: String::from("appendonly.aof"),
            appenddirname: String::from("appendonlydir"),
            appendfsync: AppendFsync::EverySecond,
            no_appendfsync_on_rewrite: false,
            auto_aof_rewrite_percentage: 100,
            auto_aof_rewrite_min_bytes: 64 << 20,
            aof_load_truncated: true,
            aof_use_rdb_preamble: true,
            aof_timestamp_enabled: false,
            aof_rewrite_incremental_fsync: true,
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
            users: Vec::new(),
        }
    }
}
