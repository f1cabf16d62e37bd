//! Options for memory limits, eviction and freeing.

use super::{Access, Effect, I32_MAX, Opt};
use crate::kind::{Kind, OptionError, Setting, Value};
use crate::types::{CacheObjective, MaxmemoryPolicy};

const NO_DEFRAGMENTATION: &str = "Active defragmentation cannot be enabled: it requires a Redis server compiled with a modified Jemalloc like the one shipped by default with the Redis source distribution";

pub(super) static OPTIONS: &[Opt] = &[
    Opt::live(
        "maxmemory",
        Kind::memory(0, u64::MAX),
        field!(maxmemory_bytes),
        "Limit for the memory in use, which INFO shows as `used_memory`; 0 means no limit. Lua interpreters do not count. With a policy that evicts keys, all other memory, such as client buffers and functions, can displace at most half of the keys: beyond that it does not count, and only its own limits hold, such as `maxmemory-clients`. With such a policy, what is resident and not in use, such as free memory of the allocator, also counts beyond a twentieth of the limit.",
    ),
    Opt::live(
        "cache-mode",
        Kind::Bool,
        field!(cache_mode),
        "Makes the server a cache that needs no policy: when `maxmemory` is reached, it evicts the keys that promise the fewest hits per byte, by what it learns from the use of all keys while it runs. Any key may be evicted, with or without a TTL, unless `maxmemory-policy` is one of `volatile`; otherwise that option has no effect. See `docs/caching.md`.",
    ),
    Opt::live(
        "cache-mode-objective",
        Kind::Choice(CacheObjective::NAMES),
        field!(cache_mode_objective),
        "Which misses `cache-mode` avoids. With `requests` each counts the same, so a large key must be used more often than a small one to stay. With `bytes` a miss counts by its size, so keys stay by how often they are used, whatever their size: that is better if the bytes that have to be fetched or computed again are what costs.",
    ),
    Opt::live(
        "maxmemory-policy",
        Kind::Choice(MaxmemoryPolicy::NAMES),
        field!(maxmemory_policy),
        "What happens to a write when `maxmemory` is reached. `noeviction` refuses it. The others evict keys, either any (`allkeys`) or only those with a TTL (`volatile`): the least recently used (`lru`), the least frequently used (`lfu`), those with the shortest TTL (`ttl`), or random ones.",
    ),
    Opt::live(
        "maxmemory-samples",
        Kind::integer(1, I32_MAX),
        field!(maxmemory_samples),
        "How many keys are compared to choose one to evict. More keys give a better choice but take longer. Damselfly compares twice this number, and always all keys of a bucket; random policies compare none.",
    ),
    Opt::live(
        "maxmemory-eviction-tenacity",
        Kind::integer(0, 100),
        field!(maxmemory_eviction_tenacity),
        "How long a write may wait while keys are evicted: 50 microseconds per step up to 10, then 15 % more with each step; 100 means as long as it takes.",
    ),
    Opt::live(
        "maxmemory-clients",
        Kind::MemoryOrPercent,
        field!(maxmemory_clients),
        "Limit for the memory of all client connections together, in bytes or as a percentage of `maxmemory`; 0 means no limit. Beyond it, the clients that use most are disconnected.",
    ),
    Opt::live(
        "lfu-log-factor",
        Kind::integer(0, I32_MAX),
        field!(lfu_log_factor),
        "How slowly the LFU counter of a key grows: the higher this is, the more accesses it takes to reach the maximum.",
    ),
    Opt::live(
        "lfu-decay-time",
        Kind::integer(0, I32_MAX),
        field!(lfu_decay_time_min),
        "Minutes without access after which the LFU counter of a key drops by one; 0 means never.",
    ),
    Opt::live(
        "lazyfree-lazy-eviction",
        Kind::Bool,
        field!(lazyfree_lazy_eviction),
        "Writes UNLINK, not DEL, to the append-only file when a key is evicted. Here, large collections are always freed in the background.",
    ),
    Opt::live(
        "lazyfree-lazy-expire",
        Kind::Bool,
        field!(lazyfree_lazy_expire),
        "Writes UNLINK, not DEL, to the append-only file when a key expires. Here, large collections are always freed in the background.",
    ),
    Opt {
        effect: Effect::Never("large collections are always freed in the background"),
        ..Opt::live(
            "lazyfree-lazy-server-del",
            Kind::Bool,
            field!(lazyfree_lazy_server_del),
            "Frees overwritten values in the background.",
        )
    },
    Opt::live(
        "lazyfree-lazy-user-del",
        Kind::Bool,
        field!(lazyfree_lazy_user_del),
        "Writes UNLINK, not DEL, to the append-only file when RESTORE with a deadline in the past removes a key. Here, large collections are always freed in the background.",
    ),
    Opt::live(
        "lazyfree-lazy-user-flush",
        Kind::Bool,
        field!(lazyfree_lazy_user_flush),
        "Makes FLUSHALL and FLUSHDB free memory in the background unless they are called with SYNC.",
    ),
    Opt {
        aliases: &["slave-lazy-flush"],
        ..Opt::live(
            "replica-lazy-flush",
            Kind::Bool,
            field!(replica_lazy_flush),
            "Frees a replica's old data in the background before a full synchronisation.",
        )
    },
    Opt {
        effect: Effect::Never(
            "`yes` is refused, as by a Redis without jemalloc; with `maxmemory` and a policy that evicts keys, values are moved anyway when free memory can't be returned otherwise",
        ),
        ..Opt::live(
            "activedefrag",
            Kind::Bool,
            Access {
                read: |c| c.activedefrag.show(),
                write: |c, value| {
                    if value == Value::Bool(true) {
                        return Err(OptionError::new(NO_DEFRAGMENTATION));
                    }
                    value.store(&mut c.activedefrag)
                },
            },
            "Moves values in memory to reduce fragmentation.",
        )
    },
    Opt::at_start(
        "disable-thp",
        Kind::Bool,
        field!(disable_thp),
        "Turns transparent huge pages off for this process: they take more memory and can delay requests.",
    ),
    Opt {
        effect: Effect::Never("tables grow one segment at a time and are never rehashed"),
        ..Opt::live(
            "activerehashing",
            Kind::Bool,
            field!(activerehashing),
            "Rehashes tables while the server is idle.",
        )
    },
];
