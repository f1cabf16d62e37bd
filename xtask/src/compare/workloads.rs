//! The measured workloads and shapes of entries: the rows of the tables.

use super::peers::Protocol;

/// A row of the first table: 64-byte values, uniform keys of 16 bytes.
#[derive(Debug)]
pub(super) struct Workload {
    pub name: &'static str,
    pub protocol: Protocol,
    /// Operations and weights, as the load generator takes them.
    pub mix: &'static str,
    /// Requests in flight on a connection.
    pub depth: usize,
    pub connections: usize,
    /// Connections that subscribe to the published channel.
    pub subscribers: usize,
    /// Whether `--big` measures it too.
    pub is_in_big: bool,
    /// The most keys, whatever `--keys` says, so that each collection has several elements.
    pub keys_max: u64,
    /// If set, a round runs this many requests per second of its nominal length, instead of running for that time, so
    /// that collections grow equally on all servers.
    pub requests_per_second: Option<u64>,
}

const MIXED: &str = "set:1,get:10";

/// All workloads. "mixed" is one SET per ten GETs, P the pipeline depth, c the number of connections.
pub(super) const WORKLOADS: &[Workload] = &[
    Workload {
        name: "mixed P1 c50",
        protocol: Protocol::Resp,
        mix: MIXED,
        depth: 1,
        connections: 50,
        subscribers: 0,
        is_in_big: false,
        keys_max: u64::MAX,
        requests_per_second: None,
    },
    Workload {
        name: "mixed P30 c50",
        protocol: Protocol::Resp,
        mix: MIXED,
        depth: 30,
        connections: 50,
        subscribers: 0,
        is_in_big: true,
        keys_max: u64::MAX,
        requests_per_second: None,
    },
    Workload {
        name: "set P30 c50",
        protocol: Protocol::Resp,
        mix: "set",
        depth: 30,
        connections: 50,
        subscribers: 0,
        is_in_big: false,
        keys_max: u64::MAX,
        requests_per_second: None,
    },
    Workload {
        name: "4 SETs together c50, per SET",
        protocol: Protocol::Resp,
        mix: "set",
        depth: 4,
        connections: 50,
        is_in_big: false,
        keys_max: u64::MAX,
        requests_per_second: None,
        subscribers: 0,
    },
    Workload {
        name: "MULTI of 4 SETs c50, per MULTI",
        protocol: Protocol::Resp,
        mix: "multi4",
        depth: 1,
        connections: 50,
        is_in_big: false,
        keys_max: u64::MAX,
        requests_per_second: None,
        subscribers: 0,
    },
    script(
        "EVALSHA of 4 SETs, keys declared, c50, per EVALSHA",
        "script4",
        1,
    ),
    script(
        "EVALSHA of 4 SETs, keys not declared, c50, per EVALSHA",
        "script-undeclared4",
        1,
    ),
    script("EVALSHA of a GET P1 c50", "script-get", 1),
    script("EVALSHA of a GET P30 c50", "script-get", 30),
    Workload {
        name: "mixed P200 c1",
        protocol: Protocol::Resp,
        mix: MIXED,
        depth: 200,
        connections: 1,
        subscribers: 0,
        is_in_big: false,
        keys_max: u64::MAX,
        requests_per_second: None,
    },
    Workload {
        name: "mixed P1 c1",
        protocol: Protocol::Resp,
        mix: MIXED,
        depth: 1,
        connections: 1,
        subscribers: 0,
        is_in_big: false,
        keys_max: u64::MAX,
        requests_per_second: None,
    },
    collection("lpush, lpop P30 c50", "lpush,lpop"),
    collection("lrange of 10 P30 c50", "rpush:1,lpop:1,lrange:8"),
    collection("sadd, srem of 10 P30 c50", "sadd,srem"),
    collection("hset of 8 fields P30 c50", "hset"),
    collection("hget P30 c50", "hset:1,hget:10"),
    collection("zadd P30 c50", "zadd"),
    collection("zrange of 10 P30 c50", "zadd:1,zrange:10"),
    bitmap("setbit of 64 B P30 c50", "setbit-short", 30, 50),
    bitmap(
        "bitcount of 64 B P30 c50",
        "setbit-short:1,bitcount-short:20",
        30,
        50,
    ),
    bitmap(
        "bitpos of 64 B P30 c50",
        "setbit-short:1,bitpos-short:20",
        30,
        50,
    ),
    bitmap(
        "bitop of 64 B P30 c50",
        "setbit-short:1,bitop-short:20",
        30,
        50,
    ),
    bitmap("setbit of 4 KiB P30 c50", "setbit-medium", 30, 50),
    bitmap(
        "bitcount of 4 KiB P30 c50",
        "setbit-medium:1,bitcount-medium:20",
        30,
        50,
    ),
    bitmap(
        "bitpos of 4 KiB P30 c50",
        "setbit-medium:1,bitpos-medium:20",
        30,
        50,
    ),
    bitmap(
        "bitop of 4 KiB P30 c50",
        "setbit-medium:1,bitop-medium:20",
        30,
        50,
    ),
    bitmap("setbit of 16 MiB P1 c1", "setbit-long", 1, 1),
    bitmap(
        "bitcount of 16 MiB P1 c1",
        "setbit-long:1,bitcount-long:20",
        1,
        1,
    ),
    bitmap(
        "bitpos of 16 MiB P1 c1",
        "setbit-long:1,bitpos-long:20",
        1,
        1,
    ),
    bitmap("bitop of 16 MiB P1 c1", "setbit-long:1,bitop-long:20", 1, 1),
    collection("pfadd, pfcount P30 c50", "pfadd:4,pfcount:1"),
    publish("publish P1 c50, no subscriber", 1, 0),
    publish("publish P1 c50, 1 subscriber", 1, 1),
    publish("publish P1 c50, 50 subscribers", 1, 50),
    publish("publish P30 c50, no subscriber", 30, 0),
    publish("publish P30 c50, 1 subscriber", 30, 1),
    Workload {
        name: "memcached mixed P1 c50",
        protocol: Protocol::Memcached,
        mix: MIXED,
        depth: 1,
        connections: 50,
        subscribers: 0,
        is_in_big: false,
        keys_max: u64::MAX,
        requests_per_second: None,
    },
    Workload {
        name: "memcached mixed P30 c50",
        protocol: Protocol::Memcached,
        mix: MIXED,
        depth: 30,
        connections: 50,
        subscribers: 0,
        is_in_big: false,
        keys_max: u64::MAX,
        requests_per_second: None,
    },
    Workload {
        name: "memcached get of 100 keys P1 c50",
        protocol: Protocol::Memcached,
        mix: "mget100",
        depth: 1,
        connections: 50,
        subscribers: 0,
        is_in_big: false,
        keys_max: u64::MAX,
        requests_per_second: None,
    },
];

/// Commands on ten thousand collections.
const fn collection(name: &'static str, mix: &'static str) -> Workload {
    Workload {
        name,
        protocol: Protocol::Resp,
        mix,
        depth: 30,
        connections: 50,
        subscribers: 0,
        is_in_big: false,
        keys_max: 10_000,
        requests_per_second: Some(1_000_000),
    }
}

/// Commands on one bitmap, which the first SETBIT creates.
const fn bitmap(
    name: &'static str,
    mix: &'static str,
    depth: usize,
    connections: usize,
) -> Workload {
    Workload {
        name,
        protocol: Protocol::Resp,
        mix,
        depth,
        connections,
        subscribers: 0,
        is_in_big: false,
        keys_max: u64::MAX,
        requests_per_second: None,
    }
}

/// Fifty clients that run a script.
const fn script(name: &'static str, mix: &'static str, depth: usize) -> Workload {
    Workload {
        name,
        protocol: Protocol::Resp,
        mix,
        depth,
        connections: 50,
        subscribers: 0,
        is_in_big: false,
        keys_max: u64::MAX,
        requests_per_second: None,
    }
}

/// Fifty clients that publish to one channel.
const fn publish(name: &'static str, depth: usize, subscribers: usize) -> Workload {
    Workload {
        name,
        protocol: Protocol::Resp,
        mix: "publish",
        depth,
        connections: 50,
        subscribers,
        is_in_big: false,
        keys_max: u64::MAX,
        requests_per_second: None,
    }
}

/// A row of the memory table.
#[derive(Debug)]
pub(super) struct MemoryShape {
    pub name: &'static str,
    /// Bytes of key and value, or of one entry of the big collection.
    pub raw_bytes: usize,
    /// The operation that makes one entry.
    pub operation: &'static str,
    pub key_bytes: usize,
    pub value_bytes: usize,
    /// The characters that random values consist of.
    pub value_text: &'static str,
}

const ALPHANUMERIC: &str = "alphanumeric";

/// All shapes.
pub(super) const MEMORY_SHAPES: &[MemoryShape] = &[
    string("string, key 16, value 8", 16, 8, ALPHANUMERIC),
    string("string, key 16, value 32", 16, 32, ALPHANUMERIC),
    string("string, key 24, value 100", 24, 100, ALPHANUMERIC),
    string("string, key 24, value 1000 of hex text", 24, 1000, "hex"),
    // The integer itself is counted as eight bytes.
    made_by("counter, key 16", "counter", 24, 8),
    made_by("string with TTL, key 16, value 32", "setex", 48, 32),
    made_by("hash of 8 fields (8 + 16), key 16", "hset8", 208, 16),
    made_by("set of 10 small integers, key 16", "sadd10", 56, 8),
    made_by("member of one big set, 12 bytes", "sadd-one", 12, 8),
    made_by("member of one big sorted set, 12 bytes", "zadd-one", 20, 8),
    made_by("field of one big hash, 12 + 16", "hset-one", 28, 16),
    made_by("element of one big list, 16 bytes", "rpush-one", 16, 16),
];

const fn string(
    name: &'static str,
    key_bytes: usize,
    value_bytes: usize,
    value_text: &'static str,
) -> MemoryShape {
    MemoryShape {
        name,
        raw_bytes: key_bytes + value_bytes,
        operation: "set",
        key_bytes,
        value_bytes,
        value_text,
    }
}

/// A shape with 16-byte keys.
const fn made_by(
    name: &'static str,
    operation: &'static str,
    raw_bytes: usize,
    value_bytes: usize,
) -> MemoryShape {
    MemoryShape {
        name,
        raw_bytes,
        operation,
        key_bytes: 16,
        value_bytes,
        value_text: ALPHANUMERIC,
    }
}
