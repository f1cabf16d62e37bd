//! `stats`: figures under the names that memcached's tools read. Figures of what this server does not have, such as slabs, are zero or
//! left out; all items count as one slab class.

use std::sync::atomic::Ordering::Relaxed;

use damselfly_commands::memcached::Class;
use damselfly_commands::{Args, Result};
use damselfly_config::LogLevel;
use damselfly_engine::Cursor;
use damselfly_protocol::Reply;

use damselfly_protocol::memcached::{number, reply};

use super::{ClassCounters, DATABASE, VERSION, line};
use crate::admin::facts::{self, Facts};
use crate::admin::info::cache;
use crate::dispatch::evicts;
use crate::event_loop::parser::Protocol;
use crate::registry::counted_rows;
use crate::session::Context;
use crate::statistics::Counter;
use crate::users;

/// A figure: its name and how to compute it.
type Figure = (&'static str, fn(&Facts<'_>) -> String);

/// The figure of something that does not exist or does not happen.
const ZERO: fn(&Facts<'_>) -> String = |_| String::from("0");

/// The figures of `stats`, in memcached's order.
#[rustfmt::skip]
static GENERAL: &[Figure] = &[
    ("pid", |_| std::process::id().to_string()),
    ("uptime", |f| (f.shared.uptime_ms() / 1000).to_string()),
    ("time", |f| (f.now.0 / 1000).to_string()),
    ("version", |_| VERSION.into()),
    ("damselfly_version", |_| crate::VERSION.into()),
    ("pointer_size", |_| usize::BITS.to_string()),
    ("rusage_user", |f| format!("{:.6}", f.cpu.user)),
    ("rusage_system", |f| format!("{:.6}", f.cpu.system)),
    ("max_connections", |f| f.config.maxclients.to_string()),
    ("curr_connections", |f| f.clients.count.to_string()),
    ("total_connections", |f| f.shared.total(|c| c.connections_received.read()).to_string()),
    ("rejected_connections", |f| f.shared.total(|c| c.connections_rejected.read()).to_string()),
    ("connection_structures", |f| f.clients.count.to_string()),
    ("response_obj_oom", ZERO),
    ("read_buf_oom", ZERO),
    ("cmd_get", |f| (sum(f, Class::Get, hits) + sum(f, Class::Get, misses)).to_string()),
    ("cmd_set", |f| stores(f).to_string()),
    ("cmd_flush", |f| calls(f, &["flush_all"]).to_string()),
    ("cmd_touch", |f| (sum(f, Class::Touch, hits) + sum(f, Class::Touch, misses)).to_string()),
    ("cmd_meta", |f| calls(f, &["mg", "ms", "md", "ma", "me", "mn"]).to_string()),
    ("get_hits", |f| sum(f, Class::Get, hits).to_string()),
    ("get_misses", |f| sum(f, Class::Get, misses).to_string()),
    ("get_expired", ZERO),
    ("get_flushed", ZERO),
    ("delete_misses", |f| sum(f, Class::Delete, misses).to_string()),
    ("delete_hits", |f| sum(f, Class::Delete, hits).to_string()),
    ("incr_misses", |f| sum(f, Class::Incr, misses).to_string()),
    ("incr_hits", |f| sum(f, Class::Incr, hits).to_string()),
    ("decr_misses", |f| sum(f, Class::Decr, misses).to_string()),
    ("decr_hits", |f| sum(f, Class::Decr, hits).to_string()),
    ("cas_misses", |f| sum(f, Class::Cas, misses).to_string()),
    ("cas_hits", |f| sum(f, Class::Cas, hits).to_string()),
    ("cas_badval", |f| sum(f, Class::Cas, mismatches).to_string()),
    ("touch_hits", |f| sum(f, Class::Touch, hits).to_string()),
    ("touch_misses", |f| sum(f, Class::Touch, misses).to_string()),
    ("store_too_large", |f| calls(f, &["too-large"]).to_string()),
    ("store_no_memory", |f| calls(f, &["out-of-memory"]).to_string()),
    ("auth_cmds", |f| calls(f, &["authenticate"]).to_string()),
    ("auth_errors", |f| f.shared.memcached.wrong_passwords.load(Relaxed).to_string()),
    ("bytes_read", |f| f.shared.total(|c| c.input_bytes.read()).to_string()),
    ("bytes_written", |f| f.shared.total(|c| c.output_bytes.read()).to_string()),
    ("limit_maxbytes", |f| limit_bytes(f).to_string()),
    ("accepting_conns", |_| String::from("1")),
    ("listen_disabled_num", ZERO),
    ("time_in_listen_disabled_us", ZERO),
    ("threads", |f| f.shared.threads.len().to_string()),
    ("conn_yields", ZERO),
    ("hash_power_level", |f| items(f).max(1).ilog2().to_string()),
    ("hash_bytes", |f| f.databases[DATABASE].table_bytes.to_string()),
    ("hash_is_expanding", ZERO),
    ("slab_reassign_running", ZERO),
    ("slabs_moved", ZERO),
    ("lru_crawler_running", ZERO),
    ("lru_crawler_starts", ZERO),
    ("lru_maintainer_juggles", ZERO),
    ("malloc_fails", ZERO),
    ("log_worker_dropped", ZERO),
    ("log_worker_written", ZERO),
    ("log_watcher_skipped", ZERO),
    ("log_watcher_sent", ZERO),
    ("bytes", |f| bytes(f).to_string()),
    ("curr_items", |f| items(f).to_string()),
    ("total_items", |f| stores(f).to_string()),
    ("slab_global_page_pool", ZERO),
    ("expired_unfetched", ZERO),
    ("evicted_unfetched", ZERO),
    ("evicted_active", ZERO),
    ("evictions", |f| evictions(f).to_string()),
    ("reclaimed", |f| f.expired.to_string()),
    ("crawler_reclaimed", ZERO),
    ("crawler_items_checked", ZERO),
    ("lrutail_reflocked", ZERO),
    ("moves_to_cold", ZERO),
    ("moves_to_warm", ZERO),
    ("moves_within_lru", ZERO),
    ("direct_reclaims", ZERO),
    ("cache_mode", |f| f.option("cache-mode")),
    ("cache_mode_objective", |f| f.option("cache-mode-objective")),
    ("cache_hit_ratio", cache::hit_ratio),
    ("cache_refused_keys", |f| f.shared.total(|c| c.keys_refused.read()).to_string()),
    ("cache_learned_bytes", |f| f.shared.engine.learned().bytes.to_string()),
    ("cache_lessons", |f| f.shared.engine.learned().view.lessons.to_string()),
    ("cache_keys_used_0_times", |f| cache::learned(f, 0)),
    ("cache_keys_used_1_times", |f| cache::learned(f, 1)),
    ("cache_keys_used_2_times", |f| cache::learned(f, 2)),
    ("cache_keys_used_3_to_4_times", |f| cache::learned(f, 3)),
    ("cache_keys_used_5_to_8_times", |f| cache::learned(f, 4)),
    ("cache_keys_used_9_to_16_times", |f| cache::learned(f, 5)),
    ("cache_keys_used_17_to_32_times", |f| cache::learned(f, 6)),
    ("cache_keys_used_more_often", |f| cache::learned(f, 7)),
];

/// The figures of `stats settings`.
#[rustfmt::skip]
static SETTINGS: &[Figure] = &[
    ("maxbytes", |f| limit_bytes(f).to_string()),
    ("maxconns", |f| f.config.maxclients.to_string()),
    ("tcpport", |f| f.config.memcached_port.to_string()),
    ("udpport", ZERO),
    ("inter", |f| f.config.bind.join(",")),
    ("verbosity", |f| verbosity(f.config.loglevel).to_string()),
    ("oldest", ZERO),
    ("evictions", |f| on(evicts(f.config)).into()),
    ("domain_socket", |_| "NULL".into()),
    ("umask", |_| "700".into()),
    ("shutdown_command", |f| yes(f.config.memcached_enable_shutdown).into()),
    ("growth_factor", |_| "1.25".into()),
    ("chunk_size", |_| "48".into()),
    ("num_threads", |f| f.shared.threads.len().to_string()),
    ("num_threads_per_udp", ZERO),
    ("stat_key_prefix", |_| ":".into()),
    ("detail_enabled", |_| yes(false).into()),
    ("reqs_per_event", |_| "64".into()),
    ("cas_enabled", |_| yes(true).into()),
    ("tcp_backlog", |f| f.config.tcp_backlog.to_string()),
    ("binding_protocol", |_| "ascii".into()),
    ("auth_enabled_sasl", |_| "no".into()),
    ("auth_enabled_ascii", |f| yes(!f.shared.users.first_account(Protocol::Memcached, f.config).user().is_open()).into()),
    ("item_size_max", |f| f.config.memcached_max_item_size_bytes.to_string()),
    ("maxconns_fast", |_| yes(true).into()),
    ("hashpower_init", ZERO),
    ("slab_reassign", |_| yes(false).into()),
    ("slab_automove", ZERO),
    ("lru_crawler", |_| yes(true).into()),
    ("flush_enabled", |_| yes(true).into()),
    ("dump_enabled", |_| yes(true).into()),
    ("hash_algorithm", |_| "ahash".into()),
    ("lru_maintainer_thread", |_| yes(false).into()),
    ("lru_segmented", |_| yes(false).into()),
    ("idle_timeout", |f| f.config.timeout_s.to_string()),
    ("track_sizes", |_| yes(false).into()),
    ("inline_ascii_response", |_| "no".into()),
];

/// The figures of the one slab class in `stats items`.
#[rustfmt::skip]
static ITEMS: &[Figure] = &[
    ("number", |f| items(f).to_string()),
    ("age", ZERO),
    ("mem_requested", |f| bytes(f).to_string()),
    ("evicted", |f| evictions(f).to_string()),
    ("evicted_nonzero", ZERO),
    ("evicted_time", ZERO),
    ("outofmemory", |f| calls(f, &["out-of-memory"]).to_string()),
    ("tailrepairs", ZERO),
    ("reclaimed", |f| f.expired.to_string()),
    ("expired_unfetched", ZERO),
    ("evicted_unfetched", ZERO),
    ("evicted_active", ZERO),
    ("crawler_reclaimed", ZERO),
    ("crawler_items_checked", ZERO),
    ("lrutail_reflocked", ZERO),
];

/// The figures of the one slab class in `stats slabs`.
#[rustfmt::skip]
static SLABS: &[Figure] = &[
    ("chunk_size", |f| (bytes(f) / items(f).max(1)).to_string()),
    ("chunks_per_page", |f| (PAGE_BYTES / (bytes(f) / items(f).max(1)).max(1)).to_string()),
    ("total_pages", |f| pages(f).to_string()),
    ("total_chunks", |f| items(f).to_string()),
    ("used_chunks", |f| items(f).to_string()),
    ("free_chunks", ZERO),
    ("free_chunks_end", ZERO),
    ("get_hits", |f| sum(f, Class::Get, hits).to_string()),
    ("cmd_set", |f| stores(f).to_string()),
    ("delete_hits", |f| sum(f, Class::Delete, hits).to_string()),
    ("incr_hits", |f| sum(f, Class::Incr, hits).to_string()),
    ("decr_hits", |f| sum(f, Class::Decr, hits).to_string()),
    ("cas_hits", |f| sum(f, Class::Cas, hits).to_string()),
    ("cas_badval", |f| sum(f, Class::Cas, mismatches).to_string()),
    ("touch_hits", |f| sum(f, Class::Touch, hits).to_string()),
];

/// The size of a slab page, in which some tools count memory.
const PAGE_BYTES: usize = 1 << 20;

fn hits(class: &ClassCounters) -> &Counter {
    &class.hits
}

fn misses(class: &ClassCounters) -> &Counter {
    &class.misses
}

fn mismatches(class: &ClassCounters) -> &Counter {
    &class.mismatches
}

/// A counter of a class, summed over all threads.
fn sum(facts: &Facts<'_>, class: Class, counter: fn(&ClassCounters) -> &Counter) -> u64 {
    let of_thread = |counters: &crate::statistics::ThreadCounters| {
        counter(&counters.memcached.0[class as usize]).read()
    };
    facts.shared.total(of_thread)
}

/// How often these commands of memcached were called.
fn calls(facts: &Facts<'_>, names: &[&str]) -> u64 {
    let is_asked = |name: &str| {
        let name = name.strip_prefix("memcached|");
        name.is_some_and(|name| names.contains(&name))
    };
    counted_rows()
        .filter(|row| is_asked(&row.name))
        .map(|row| {
            facts
                .shared
                .total(|counters| counters.commands[row.index].calls.read())
        })
        .sum()
}

fn stores(facts: &Facts<'_>) -> u64 {
    calls(
        facts,
        &["set", "add", "replace", "append", "prepend", "cas", "ms"],
    )
}

fn items(facts: &Facts<'_>) -> usize {
    facts.databases[DATABASE].keys
}

fn bytes(facts: &Facts<'_>) -> usize {
    facts.databases[DATABASE].entry_bytes
}

fn pages(facts: &Facts<'_>) -> usize {
    bytes(facts).div_ceil(PAGE_BYTES)
}

fn evictions(facts: &Facts<'_>) -> u64 {
    facts.shared.total(|counters| counters.keys_evicted.read())
}

/// `maxmemory`; without one the memory of the machine, since tools divide by it.
fn limit_bytes(facts: &Facts<'_>) -> u64 {
    match facts.config.maxmemory_bytes {
        0 => facts::system_bytes(),
        bytes => bytes,
    }
}

fn yes(is_on: bool) -> &'static str {
    if is_on { "yes" } else { "no" }
}

fn on(is_on: bool) -> &'static str {
    if is_on { "on" } else { "off" }
}

/// Arguments: name, perhaps which statistics.
pub(super) fn stats(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    let which = args.get(1).unwrap_or_default();
    // In RESP, these have commands of their own.
    match which {
        b"cachedump" => users::require(context, "keys")?,
        b"conns" => users::require(context, "client|list")?,
        b"reset" => users::require(context, "config|resetstat")?,
        _ => {}
    }
    let (prefix, figures) = match which {
        b"" => ("", GENERAL),
        b"settings" => ("", SETTINGS),
        b"items" => ("items:1:", ITEMS),
        b"slabs" => ("1:", SLABS),
        b"sizes" | b"sizes_enable" | b"sizes_disable" => {
            reply::stat(reply.buffer(), "sizes_status", "disabled");
            return line(reply, "END");
        }
        b"conns" => {
            write_connections(context, reply.buffer());
            return line(reply, "END");
        }
        b"reset" => {
            for thread in &context.shared.threads {
                thread.counters.reset();
            }
            return line(reply, "RESET");
        }
        b"detail" => {
            return match args.get(2).unwrap_or_default() {
                b"on" | b"off" => line(reply, "OK"),
                b"dump" => line(reply, "END"),
                _ => line(reply, "CLIENT_ERROR usage: stats detail on|off|dump"),
            };
        }
        b"cachedump" => return dump(context, args, reply),
        _ => return line(reply, "ERROR"),
    };
    let facts = Facts::gather(context)?;
    let out = reply.buffer();
    let is_empty_class = !prefix.is_empty() && items(&facts) == 0;
    for (name, value) in figures.iter().filter(|_| !is_empty_class) {
        reply::stat(out, &format!("{prefix}{name}"), &value(&facts));
    }
    if which == b"slabs" {
        let slabs = u8::from(!is_empty_class);
        reply::stat(out, "active_slabs", &slabs.to_string());
        reply::stat(out, "total_malloced", &bytes(&facts).to_string());
    }
    reply::line(out, "END");
    Ok(())
}

/// The number that sets this level.
fn verbosity(level: LogLevel) -> u8 {
    match level {
        LogLevel::Nothing | LogLevel::Warning | LogLevel::Notice => 0,
        LogLevel::Verbose => 1,
        LogLevel::Debug => 2,
    }
}

/// Arguments: name, `cachedump`, the slab class, and how many keys at most; 0 for as many as the reply has room for.
fn dump(context: &mut Context<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    const REPLY_BYTES_MAX: usize = 2 << 20;
    const KEYS_PER_STEP: usize = 100;
    /// Some ten milliseconds of work, even if none of these keys is an item.
    const STEPS_MAX: usize = 1000;
    if args.len() < 4 {
        return line(reply, "CLIENT_ERROR bad command line");
    }
    let numbers = (
        number::unsigned_32(args.at(2)),
        number::unsigned_32(args.at(3)),
    );
    let (Some(class), Some(limit)) = numbers else {
        return line(reply, "CLIENT_ERROR bad command line format");
    };
    let limit = match limit {
        0 => usize::MAX,
        limit => limit as usize,
    };
    let (out, mut keys) = (reply.buffer(), 0);
    let start = out.len();
    let mut tx = context.section();
    let (mut cursor, mut steps) = (Cursor::default(), 0);
    while class == 1 && keys < limit && steps < STEPS_MAX {
        steps += 1;
        cursor = tx.scan(DATABASE, cursor, KEYS_PER_STEP, |entry| {
            if let Some(text) = entry.text().filter(|_| keys < limit) {
                keys += 1;
                let expiry_s = entry.deadline_ms().map_or(0, |ms| ms / 1000);
                out.extend_from_slice(b"ITEM ");
                out.extend_from_slice(entry.key());
                reply::line(out, &format!(" [{} b; {expiry_s} s]", text.len()));
            }
        })?;
        if cursor == Cursor::default() || out.len() - start > REPLY_BYTES_MAX {
            break;
        }
    }
    drop(tx);
    line(reply, "END")
}

/// The memcached clients.
fn write_connections(context: &Context<'_>, out: &mut Vec<u8>) {
    for client in context.shared.clients.all() {
        if client.speaks != Protocol::Memcached {
            continue;
        }
        let idle_ms = context.now.0 - client.active_ms.load(Relaxed);
        let state = match client.input_bytes.load(Relaxed) {
            0 => "conn_read",
            _ => "conn_nread",
        };
        for (name, value) in [
            ("addr", format!("tcp:{}", client.address)),
            ("listen_addr", format!("tcp:{}", client.local_address)),
            ("state", state.to_owned()),
            ("secs_since_last_cmd", (idle_ms.max(0) / 1000).to_string()),
        ] {
            reply::stat(out, &format!("{}:{name}", client.fd), &value);
        }
    }
}
