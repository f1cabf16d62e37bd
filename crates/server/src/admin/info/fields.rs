//! The fields of INFO, one row each.

use crate::persistence::aof::Mode;
use damselfly_engine::garbage;
use std::sync::atomic::Ordering::Relaxed;

use super::Section::{
    self, Cache, Clients, Cluster, Cpu, Memory, Persistence, Replication, Server, Stats, Tls,
};
use super::cache;
use crate::admin::facts::{self, Facts, ratio};
use crate::clock;
use crate::dispatch::uncounted_bytes;
use crate::gate::Reasons;
use crate::statistics::{Counter, ThreadCounters};
use damselfly_pubsub::Topic;
use damselfly_tls::CertificateFacts;

/// A field of INFO.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The text before the colon.
    pub name: &'static str,
    /// The section that shows it.
    pub section: Section,
    /// Computes the text after the colon.
    pub value: Value,
}

/// Computes the value of a field.
type Value = fn(&Facts<'_>) -> String;

const fn row(section: Section, name: &'static str, value: Value) -> Field {
    Field {
        name,
        section,
        value,
    }
}

/// The value of a field for something that does not exist or has not happened.
const ZERO: Value = |_| String::from("0");

/// Redis's LRU clock has 24 bits.
const LRU_CLOCK_MASK: i64 = (1 << 24) - 1;

/// All fields, in the order in which INFO shows them.
#[rustfmt::skip]
pub static FIELDS: &[Field] = &[
    row(Server, "redis_version", |_| crate::REDIS_VERSION.into()),
    row(Server, "damselfly_version", |_| crate::VERSION.into()),
    row(Server, "redis_git_sha1", |_| "00000000".into()),
    row(Server, "redis_git_dirty", ZERO),
    row(Server, "redis_build_id", |_| "0000000000000000".into()),
    row(Server, "redis_mode", |_| "standalone".into()),
    row(Server, "os", |_| facts::system_name()),
    row(Server, "arch_bits", |_| usize::BITS.to_string()),
    row(Server, "monotonic_clock", |_| "quanta".into()),
    row(Server, "multiplexing_api", |_| "epoll".into()),
    row(Server, "atomicvar_api", |_| "rust-builtin".into()),
    row(Server, "gcc_version", |_| "0.0.0".into()),
    row(Server, "process_id", |_| std::process::id().to_string()),
    row(Server, "process_supervised", |f| f.option("supervised")),
    row(Server, "run_id", |f| f.shared.run_id.clone()),
    row(Server, "tcp_port", |f| if f.config.port > 0 { f.config.port } else { f.config.tls_port }.to_string()),
    row(Server, "tls_port", |f| f.config.tls_port.to_string()),
    row(Server, "memcached_port", |f| f.config.memcached_port.to_string()),
    row(Server, "server_time_usec", |_| clock::now_us().to_string()),
    row(Server, "uptime_in_seconds", |f| f.uptime_s().to_string()),
    row(Server, "uptime_in_days", |f| (f.uptime_s() / 86_400).to_string()),
    row(Server, "hz", |_| String::from("10")),
    row(Server, "configured_hz", |f| f.config.hz.to_string()),
    row(Server, "lru_clock", |f| ((f.now.0 / 1000) & LRU_CLOCK_MASK).to_string()),
    row(Server, "executable", |f| f.shared.executable.clone()),
    row(Server, "config_file", |f| f.config_file()),
    row(Server, "io_threads_active", ZERO),
    row(Server, "listener0", |f| f.listener()),
    row(Server, "threads", |f| f.shared.threads.len().to_string()),
    row(Server, "shards", |f| f.shared.engine.shards().to_string()),

    row(Clients, "connected_clients", |f| f.clients.count.to_string()),
    row(Clients, "memcached_clients", |f| f.clients.memcached.to_string()),
    row(Clients, "cluster_connections", ZERO),
    row(Clients, "maxclients", |f| f.config.maxclients.to_string()),
    row(Clients, "client_recent_max_input_buffer", |f| f.clients.input_max.to_string()),
    row(Clients, "client_recent_max_output_buffer", |f| f.clients.output_max.to_string()),
    row(Clients, "blocked_clients", |f| f.clients.blocked.to_string()),
    row(Clients, "tracking_clients", |f| f.shared.tracking.count().to_string()),
    row(Clients, "pubsub_clients", |f| f.clients.subscribers.to_string()),
    row(Clients, "watching_clients", |f| f.clients.watching.to_string()),
    row(Clients, "clients_in_timeout_table", |f| f.clients.with_timeout.to_string()),
    row(Clients, "total_watched_keys", |f| f.clients.watched_keys.to_string()),
    row(Clients, "total_blocking_keys", |f| f.shared.engine.awaited_keys().0.to_string()),
    row(Clients, "total_blocking_keys_on_nokey", |f| f.shared.engine.awaited_keys().1.to_string()),

    row(Memory, "used_memory", |f| f.used.to_string()),
    row(Memory, "used_memory_human", |f| human(f.used)),
    row(Memory, "used_memory_rss", |f| f.resident.to_string()),
    row(Memory, "used_memory_rss_human", |f| human(f.resident)),
    row(Memory, "used_memory_peak", |f| f.peak.to_string()),
    row(Memory, "used_memory_peak_human", |f| human(f.peak)),
    row(Memory, "used_memory_peak_perc", |f| percent(f.used, f.peak)),
    row(Memory, "used_memory_overhead", |f| f.overhead().to_string()),
    row(Memory, "used_memory_startup", |f| f.startup.to_string()),
    row(Memory, "used_memory_dataset", |f| f.dataset().to_string()),
    row(Memory, "used_memory_dataset_perc", |f| percent(f.dataset(), f.since_startup())),
    row(Memory, "allocator_allocated", |f| f.used.to_string()),
    row(Memory, "allocator_active", |f| f.resident.to_string()),
    row(Memory, "allocator_resident", |f| f.resident.to_string()),
    row(Memory, "allocator_muzzy", ZERO),
    row(Memory, "total_system_memory", |_| facts::system_bytes().to_string()),
    row(Memory, "total_system_memory_human", |_| human(facts::system_bytes() as usize)),
    row(Memory, "used_memory_lua", |f| f.vm.to_string()),
    row(Memory, "used_memory_vm_eval", |f| f.vm.saturating_sub(f.vm_functions_bytes()).to_string()),
    row(Memory, "used_memory_lua_human", |f| human(f.vm)),
    row(Memory, "used_memory_scripts_eval", |f| f.shared.scripts.bytes().to_string()),
    row(Memory, "number_of_cached_scripts", |f| f.shared.scripts.cache().len().to_string()),
    row(Memory, "number_of_functions", |f| f.libraries.functions_len().to_string()),
    row(Memory, "number_of_libraries", |f| f.libraries.len().to_string()),
    row(Memory, "used_memory_vm_functions", |f| f.vm_functions_bytes().to_string()),
    row(Memory, "used_memory_vm_total", |f| f.vm.to_string()),
    row(Memory, "used_memory_vm_total_human", |f| human(f.vm)),
    row(Memory, "used_memory_functions", |f| f.libraries.bytes().to_string()),
    row(Memory, "used_memory_scripts", |f| f.script_bytes().to_string()),
    row(Memory, "used_memory_scripts_human", |f| human(f.script_bytes())),
    row(Memory, "maxmemory", |f| f.config.maxmemory_bytes.to_string()),
    row(Memory, "maxmemory_human", |f| human(f.config.maxmemory_bytes as usize)),
    row(Memory, "maxmemory_policy", |f| f.option("maxmemory-policy")),
    row(Memory, "allocator_frag_ratio", |f| two_digits(f.fragmentation())),
    row(Memory, "allocator_frag_bytes", |f| f.fragmentation_bytes().to_string()),
    row(Memory, "allocator_rss_ratio", |_| two_digits(1.0)),
    row(Memory, "allocator_rss_bytes", ZERO),
    row(Memory, "rss_overhead_ratio", |_| two_digits(1.0)),
    row(Memory, "rss_overhead_bytes", ZERO),
    row(Memory, "mem_fragmentation_ratio", |f| two_digits(f.fragmentation())),
    row(Memory, "mem_fragmentation_bytes", |f| f.fragmentation_bytes().to_string()),
    row(Memory, "mem_not_counted_for_evict", |f| uncounted_bytes(f.config, f.shared).to_string()),
    row(Memory, "mem_allocator_withheld_for_evict", |f| f.shared.resident_memory.withheld_bytes().to_string()),
    row(Memory, "mem_overhead_db_hashtable_rehashing", ZERO),
    row(Memory, "mem_replication_backlog", |f| f.backlog.bytes.min(f.config.repl_backlog_bytes).to_string()),
    row(Memory, "mem_total_replication_buffers", |f| f.backlog.memory.to_string()),
    row(Memory, "mem_clients_slaves", |f| f.clients.replica_bytes.to_string()),
    row(Memory, "mem_clients_normal", |f| f.clients.bytes.to_string()),
    row(Memory, "mem_cluster_links", ZERO),
    row(Memory, "mem_aof_buffer", |f| f.shared.aof.queued_bytes().to_string()),
    row(Memory, "mem_allocator", |_| damselfly_base::heap::allocator_name()),
    row(Memory, "active_defrag_running", |f| u8::from(f.shared.resident_memory.is_moving()).to_string()),
    row(Memory, "lazyfree_pending_objects", |_| garbage::pending().to_string()),
    row(Memory, "lazyfreed_objects", |_| garbage::freed().to_string()),

    row(Persistence, "loading", |f| u8::from(f.shared.gate.is_loading()).to_string()),
    row(Persistence, "async_loading", |f| u8::from(!f.shared.gate.holding(Reasons::ASYNC_LOADING).is_empty()).to_string()),
    row(Persistence, "current_cow_peak", |f| f.save.job.as_ref().map_or(0, |job| job.kept_bytes_max()).to_string()),
    row(Persistence, "current_cow_size", |f| f.save.job.as_ref().map_or(0, |job| job.kept_bytes()).to_string()),
    row(Persistence, "current_cow_size_age", ZERO),
    row(Persistence, "current_fork_perc", |f| two_digits(f.save.job.as_ref().map_or(0.0, |job| job.percent()))),
    row(Persistence, "current_save_keys_processed", |f| f.save.job.as_ref().map_or(0, |job| job.keys()).to_string()),
    row(Persistence, "current_save_keys_total", |f| f.save.job.as_ref().map_or(0, |job| job.keys_total()).to_string()),
    row(Persistence, "rdb_changes_since_last_save", |f| f.shared.changes().saturating_sub(f.save.saved_changes).to_string()),
    row(Persistence, "rdb_bgsave_in_progress", |f| u8::from(f.bgsave().is_some()).to_string()),
    row(Persistence, "rdb_last_save_time", |f| f.save.last_success_s.to_string()),
    row(Persistence, "rdb_last_bgsave_status", |f| if f.save.is_last_ok { "ok" } else { "err" }.into()),
    row(Persistence, "rdb_last_bgsave_time_sec", |f| f.save.last_took.map_or(-1, |took| took.as_secs() as i64).to_string()),
    row(Persistence, "rdb_current_bgsave_time_sec", |f| f.bgsave().map_or(-1, |job| job.elapsed().as_secs() as i64).to_string()),
    row(Persistence, "rdb_saves", |f| f.save.saves.to_string()),
    row(Persistence, "rdb_last_cow_size", |f| f.save.last_kept_bytes.to_string()),
    row(Persistence, "rdb_last_load_keys_expired", |f| f.shared.loading.progress.keys_expired().to_string()),
    row(Persistence, "rdb_last_load_keys_loaded", |f| f.shared.loading.progress.keys_loaded().to_string()),
    row(Persistence, "aof_enabled", |f| u8::from(f.shared.aof.mode() != Mode::Off || f.config.appendonly).to_string()),
    row(Persistence, "aof_rewrite_in_progress", |f| u8::from(f.rewrite().is_some() || f.shared.aof.is_replacing.load(Relaxed)).to_string()),
    row(Persistence, "aof_rewrite_scheduled", |f| u8::from(f.aof.is_scheduled).to_string()),
    row(Persistence, "aof_last_rewrite_time_sec", |f| f.aof.last_rewrite.map_or(-1, |took| took.as_secs() as i64).to_string()),
    row(Persistence, "aof_current_rewrite_time_sec", |f| f.rewrite().map_or(-1, |job| job.elapsed().as_secs() as i64).to_string()),
    row(Persistence, "aof_last_bgrewrite_status", |f| if f.aof.is_last_rewrite_ok { "ok" } else { "err" }.into()),
    row(Persistence, "aof_rewrites", |f| f.aof.rewrites.to_string()),
    row(Persistence, "aof_rewrites_consecutive_failures", |f| f.aof.failures.to_string()),
    row(Persistence, "aof_last_write_status", |f| if f.aof.write_error.is_none() { "ok" } else { "err" }.into()),
    row(Persistence, "aof_last_cow_size", |f| f.aof.last_kept_bytes.to_string()),
    row(Persistence, "module_fork_in_progress", ZERO),
    row(Persistence, "module_fork_last_cow_size", ZERO),

    row(Stats, "total_connections_received", |f| f.total(|counters| &counters.connections_received)),
    row(Stats, "total_commands_processed", |f| f.calls().to_string()),
    row(Stats, "instantaneous_ops_per_sec", |f| (f.rates.commands.round() as u64).to_string()),
    row(Stats, "total_net_input_bytes", |f| f.total(|counters| &counters.input_bytes)),
    row(Stats, "total_net_output_bytes", |f| f.total(|counters| &counters.output_bytes)),
    row(Stats, "total_net_repl_input_bytes", |f| f.shared.replication.link.input_bytes.load(Relaxed).to_string()),
    row(Stats, "total_net_repl_output_bytes", |f| f.shared.replication.counters.output_bytes.load(Relaxed).to_string()),
    row(Stats, "instantaneous_input_kbps", |f| two_digits(f.rates.input_bytes / 1024.0)),
    row(Stats, "instantaneous_output_kbps", |f| two_digits(f.rates.output_bytes / 1024.0)),
    row(Stats, "instantaneous_input_repl_kbps", |_| two_digits(0.0)),
    row(Stats, "instantaneous_output_repl_kbps", |_| two_digits(0.0)),
    row(Stats, "rejected_connections", |f| f.total(|counters| &counters.connections_rejected)),
    row(Stats, "sync_full", |f| f.shared.replication.counters.full.load(Relaxed).to_string()),
    row(Stats, "sync_partial_ok", |f| f.shared.replication.counters.partial.load(Relaxed).to_string()),
    row(Stats, "sync_partial_err", |f| f.shared.replication.counters.refused.load(Relaxed).to_string()),
    row(Stats, "expired_keys", |f| f.expired.to_string()),
    row(Stats, "expired_subkeys", |f| f.shared.engine.expired_fields().to_string()),
    row(Stats, "expired_stale_perc", |_| two_digits(0.0)),
    row(Stats, "expired_time_cap_reached_count", |f| f.total(|counters| &counters.sweep_out_of_time)),
    row(Stats, "expire_cycle_cpu_milliseconds", |f| (f.shared.total(|counters| counters.sweep_us.read()) / 1000).to_string()),
    row(Stats, "evicted_keys", |f| f.total(|counters| &counters.keys_evicted)),
    row(Stats, "evicted_clients", |f| f.total(|counters| &counters.clients_evicted)),
    row(Stats, "evicted_scripts", |f| f.shared.scripts.cache().evicted().to_string()),
    row(Stats, "total_eviction_exceeded_time", |f| f.shared.over_limit.total_ms(f.now.0).to_string()),
    row(Stats, "current_eviction_exceeded_time", |f| f.shared.over_limit.current_ms(f.now.0).to_string()),
    row(Stats, "keyspace_hits", |f| f.total(|counters| &counters.hits)),
    row(Stats, "keyspace_misses", |f| f.total(|counters| &counters.misses)),
    row(Stats, "pubsub_channels", |f| f.shared.pubsub.name_count(Topic::Channel).to_string()),
    row(Stats, "pubsub_patterns", |f| f.shared.pubsub.name_count(Topic::Pattern).to_string()),
    row(Stats, "pubsubshard_channels", |f| f.shared.pubsub.name_count(Topic::ShardChannel).to_string()),
    row(Stats, "latest_fork_usec", ZERO),
    row(Stats, "total_forks", ZERO),
    row(Stats, "migrate_cached_sockets", |f| f.shared.migrations.links.count().to_string()),
    row(Stats, "slave_expires_tracked_keys", |f| f.shared.engine.local_deadlines().to_string()),
    row(Stats, "active_defrag_hits", |f| f.shared.resident_memory.moved_entries().to_string()),
    row(Stats, "active_defrag_misses", ZERO),
    row(Stats, "active_defrag_key_hits", |f| f.shared.resident_memory.moved_entries().to_string()),
    row(Stats, "active_defrag_key_misses", ZERO),
    row(Stats, "total_active_defrag_time", ZERO),
    row(Stats, "current_active_defrag_time", ZERO),
    row(Stats, "tracking_total_keys", |f| f.shared.engine.tracked_keys().to_string()),
    row(Stats, "tracking_total_items", |f| f.shared.engine.tracked_items().to_string()),
    row(Stats, "tracking_total_prefixes", |f| f.shared.tracking.prefix_count().to_string()),
    row(Stats, "unexpected_error_replies", |f| f.shared.replication.link.errors.load(Relaxed).to_string()),
    row(Stats, "total_error_replies", |f| f.total(|counters| &counters.error_replies)),
    row(Stats, "dump_payload_sanitizations", ZERO),
    row(Stats, "total_reads_processed", |f| f.total(|counters| &counters.reads)),
    row(Stats, "total_writes_processed", |f| f.total(|counters| &counters.writes)),
    row(Stats, "io_threaded_reads_processed", ZERO),
    row(Stats, "io_threaded_writes_processed", ZERO),
    row(Stats, "client_query_buffer_limit_disconnections", |f| f.total(|counters| &counters.query_limit_disconnections)),
    row(Stats, "client_output_buffer_limit_disconnections", |f| f.total(|counters| &counters.output_limit_disconnections)),
    row(Stats, "reply_buffer_shrinks", ZERO),
    row(Stats, "reply_buffer_expands", ZERO),
    row(Stats, "acl_access_denied_auth", |f| f.shared.users.refusals.logins.load(Relaxed).to_string()),
    row(Stats, "acl_access_denied_cmd", |f| f.shared.users.refusals.commands.load(Relaxed).to_string()),
    row(Stats, "acl_access_denied_key", |f| f.shared.users.refusals.keys.load(Relaxed).to_string()),
    row(Stats, "acl_access_denied_channel", |f| f.shared.users.refusals.channels.load(Relaxed).to_string()),
    row(Stats, "eventloop_cycles", |f| f.total(|counters| &counters.turns)),
    row(Stats, "eventloop_duration_sum", |f| (f.shared.total(|counters| counters.turn_ns.read()) / 1000).to_string()),
    row(Stats, "eventloop_duration_cmd_sum", |f| (f.command_ns() / 1000).to_string()),
    row(Stats, "instantaneous_eventloop_cycles_per_sec", |f| (f.rates.turns.round() as u64).to_string()),
    row(Stats, "instantaneous_eventloop_duration_usec", |f| (f.rates.turn_us.round() as u64).to_string()),

    row(Replication, "role", |f| f.role()),
    row(Replication, "connected_slaves", |f| f.replicas()),
    row(Replication, "master_failover_state", |f| f.shared.replication.failover_state().into()),
    row(Replication, "master_replid", |f| f.history.id.clone()),
    row(Replication, "master_replid2", |f| f.history.second_id.clone()),
    row(Replication, "master_repl_offset", |f| f.history.offset.to_string()),
    row(Replication, "second_repl_offset", |f| f.history.second_offset.to_string()),
    row(Replication, "repl_backlog_active", |f| u8::from(f.backlog.is_active).to_string()),
    row(Replication, "repl_backlog_size", |f| f.config.repl_backlog_bytes.to_string()),
    row(Replication, "repl_backlog_first_byte_offset", |f| f.backlog.first_offset.to_string()),
    row(Replication, "repl_backlog_histlen", |f| f.backlog.bytes.to_string()),

    row(Cpu, "used_cpu_sys", |f| seconds(f.cpu.system)),
    row(Cpu, "used_cpu_user", |f| seconds(f.cpu.user)),
    row(Cpu, "used_cpu_sys_children", |f| seconds(f.cpu.system_children)),
    row(Cpu, "used_cpu_user_children", |f| seconds(f.cpu.user_children)),
    row(Cpu, "used_cpu_sys_main_thread", |f| seconds(f.cpu.system_main)),
    row(Cpu, "used_cpu_user_main_thread", |f| seconds(f.cpu.user_main)),

    row(Cluster, "cluster_enabled", ZERO),

    row(Tls, "tls_server_cert_serial", |f| serial(&f.certificates.server)),
    row(Tls, "tls_server_cert_expires_in_seconds", |f| f.expires_in_s(&f.certificates.server)),
    row(Tls, "tls_client_cert_serial", |_| NO_SERIAL.into()),
    row(Tls, "tls_client_cert_expires_in_seconds", ZERO),
    row(Tls, "tls_ca_cert_serial", |f| serial(&f.certificates.ca)),
    row(Tls, "tls_ca_cert_expires_in_seconds", |f| f.expires_in_s(&f.certificates.ca)),
    row(Tls, "tls_clients", |f| f.clients.encrypted.to_string()),
    row(Tls, "tls_handshakes_in_progress", |f| f.shared.tls.in_progress.load(Relaxed).to_string()),
    row(Tls, "tls_handshakes_completed", |f| f.shared.tls.completed.load(Relaxed).to_string()),
    row(Tls, "tls_handshakes_failed", |f| f.shared.tls.failed.load(Relaxed).to_string()),
    row(Tls, "tls_handshakes_timed_out", |f| f.shared.tls.timed_out.load(Relaxed).to_string()),

    row(Cache, "cache_mode", |f| f.option("cache-mode")),
    row(Cache, "cache_mode_objective", |f| f.option("cache-mode-objective")),
    row(Cache, "cache_hit_ratio", cache::hit_ratio),
    row(Cache, "cache_evicted_keys", |f| f.total(|counters| &counters.keys_evicted)),
    row(Cache, "cache_refused_keys", |f| f.total(|counters| &counters.keys_refused)),
    row(Cache, "cache_learned_bytes", |f| f.shared.engine.learned().bytes.to_string()),
    row(Cache, "cache_lessons", |f| f.shared.engine.learned().view.lessons.to_string()),
    row(Cache, "cache_keys_used_0_times", |f| cache::learned(f, 0)),
    row(Cache, "cache_keys_used_1_times", |f| cache::learned(f, 1)),
    row(Cache, "cache_keys_used_2_times", |f| cache::learned(f, 2)),
    row(Cache, "cache_keys_used_3_to_4_times", |f| cache::learned(f, 3)),
    row(Cache, "cache_keys_used_5_to_8_times", |f| cache::learned(f, 4)),
    row(Cache, "cache_keys_used_9_to_16_times", |f| cache::learned(f, 5)),
    row(Cache, "cache_keys_used_17_to_32_times", |f| cache::learned(f, 6)),
    row(Cache, "cache_keys_used_more_often", |f| cache::learned(f, 7)),
];

/// The fields of the append-only file, shown while it is in use.
#[rustfmt::skip] // One line per field.
pub static AOF_FIELDS: &[Field] = &[
    row(Persistence, "aof_current_size", |f| f.shared.aof.bytes().to_string()),
    row(Persistence, "aof_base_size", |f| f.shared.aof.rewritten_bytes().to_string()),
    row(Persistence, "aof_pending_rewrite", ZERO),
    row(Persistence, "aof_buffer_length", |f| f.shared.aof.queued_bytes().to_string()),
    row(Persistence, "aof_pending_bio_fsync", ZERO),
    row(Persistence, "aof_delayed_fsync", |f| f.shared.aof.delayed_syncs.load(Relaxed).to_string()),
];

/// Shown while a shutdown waits for replicas.
pub static SHUTDOWN_FIELDS: &[Field] = &[row(Server, "shutdown_in_milliseconds", |f| {
    let left_ms = f.shared.replication.shutdown_in_ms();
    left_ms.unwrap_or(0).to_string()
})];

/// Fields that follow those of Persistence while a file is being loaded.
#[rustfmt::skip]
pub static LOADING_FIELDS: &[Field] = &[
    row(Persistence, "loading_start_time", |f| f.shared.loading.progress.started_s().to_string()),
    row(Persistence, "loading_total_bytes", |f| f.shared.loading.progress.total_bytes().to_string()),
    row(Persistence, "loading_rdb_used_mem", |f| f.shared.loading.progress.used_memory().to_string()),
    row(Persistence, "loading_loaded_bytes", |f| f.shared.loading.progress.loaded_bytes().to_string()),
    row(Persistence, "loading_loaded_perc", |f| two_digits(f.shared.loading.progress.percent())),
    row(Persistence, "loading_eta_seconds", |f| f.shared.loading.progress.eta_s(f.now).to_string()),
];

/// The serial number of a certificate that is not in use.
const NO_SERIAL: &str = "none";

fn serial(certificate: &Option<CertificateFacts>) -> String {
    let certificate = certificate.as_ref();
    certificate.map_or_else(|| NO_SERIAL.into(), |facts| facts.serial.clone())
}

fn two_digits(number: f64) -> String {
    format!("{number:.2}")
}

fn seconds(number: f64) -> String {
    format!("{number:.6}")
}

fn percent(part: usize, whole: usize) -> String {
    format!("{:.2}%", ratio(part, whole) * 100.0)
}

/// A number of bytes in its largest unit.
fn human(bytes: usize) -> String {
    const UNITS: [char; 5] = ['K', 'M', 'G', 'T', 'P'];
    if bytes < 1024 {
        return format!("{bytes}B");
    }
    let mut number = bytes as f64 / 1024.0;
    let mut units = UNITS.iter().peekable();
    while let Some(unit) = units.next() {
        if number < 1024.0 || units.peek().is_none() {
            return format!("{number:.2}{unit}");
        }
        number /= 1024.0;
    }
    format!("{bytes}B")
}

impl Facts<'_> {
    /// For how long a certificate is still valid, in seconds; zero if it has expired or there is none.
    fn expires_in_s(&self, certificate: &Option<CertificateFacts>) -> String {
        let until_s = certificate.as_ref().map_or(0, |facts| facts.valid_until_s);
        (until_s - self.now.0 / 1000).max(0).to_string()
    }

    fn uptime_s(&self) -> i64 {
        (self.now.0 - self.shared.started_ms).max(0) / 1000
    }

    /// The value of an option, as CONFIG GET shows it.
    pub(crate) fn option(&self, name: &str) -> String {
        let mut found = self.config.get(&[name.as_bytes()]);
        found.pop().map(|(_, value)| value).unwrap_or_default()
    }

    fn config_file(&self) -> String {
        let path = self.shared.config_file.as_ref();
        path.map(|path| path.display().to_string())
            .unwrap_or_default()
    }

    fn total(&self, counter: fn(&ThreadCounters) -> &Counter) -> String {
        self.shared
            .total(|counters| counter(counters).read())
            .to_string()
    }

    /// The memory of the interpreters that hold function libraries, in bytes.
    fn vm_functions_bytes(&self) -> usize {
        let bytes = |counters: &ThreadCounters| counters.vm_functions_bytes.load(Relaxed) as u64;
        self.shared.total(bytes) as usize
    }

    /// The memory of cached scripts and of function libraries, without that of the interpreters, in bytes.
    fn script_bytes(&self) -> usize {
        self.shared.scripts.bytes() + self.libraries.bytes()
    }

    /// What the server listens on, in the form of Redis: the TCP socket.
    fn listener(&self) -> String {
        let bind: Vec<String> = self
            .option("bind")
            .split_whitespace()
            .map(|address| format!("bind={address}"))
            .collect();
        format!("name=tcp,{},port={}", bind.join(","), self.config.port)
    }

    /// The time of all commands, in nanoseconds.
    fn command_ns(&self) -> u64 {
        let ns = |counters: &ThreadCounters| counters.commands.iter().map(|c| c.ns.read()).sum();
        self.shared.total(ns)
    }

    fn calls(&self) -> u64 {
        let calls = |counters: &ThreadCounters| {
            counters
                .commands
                .iter()
                .map(|command| command.calls.read())
                .sum()
        };
        self.shared.total(calls)
    }

    /// Resident memory beyond the memory in use, in bytes; negative when memory is swapped out.
    fn fragmentation_bytes(&self) -> i64 {
        self.resident_counted() as i64 - self.used as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_unique_and_grouped_by_section() {
        let mut names: Vec<_> = FIELDS.iter().map(|field| field.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FIELDS.len());
        let mut sections: Vec<_> = FIELDS.iter().map(|field| field.section.title()).collect();
        sections.dedup();
        let pieces = sections.len();
        sections.sort_unstable();
        sections.dedup();
        assert_eq!(sections.len(), pieces);
    }

    #[test]
    fn bytes_are_shown_in_their_largest_unit() {
        let shown = [0, 1023, 1024, 1536, 1 << 20, 23 << 30, 5 << 40].map(human);
        assert_eq!(
            shown,
            ["0B", "1023B", "1.00K", "1.50K", "1.00M", "23.00G", "5.00T"]
        );
    }
}
