//! Options for how values are stored.

use super::{I32_MAX, I64_MAX_BYTES, Opt};
use crate::kind::Kind;

pub(super) static OPTIONS: &[Opt] = &[
    Opt {
        aliases: &["hash-max-ziplist-entries"],
        ..Opt::live(
            "hash-max-listpack-entries",
            Kind::integer(0, i64::MAX),
            field!(hash_max_listpack_entries),
            "Most fields of a hash in packed form.",
        )
    },
    Opt {
        aliases: &["hash-max-ziplist-value"],
        ..Opt::live(
            "hash-max-listpack-value",
            Kind::memory(0, I64_MAX_BYTES),
            field!(hash_max_listpack_value_bytes),
            "Most bytes of a field or value of a hash in packed form.",
        )
    },
    Opt {
        aliases: &["list-max-ziplist-size"],
        ..Opt::live(
            "list-max-listpack-size",
            Kind::integer(i32::MIN as i64, I32_MAX),
            field!(list_max_listpack_size),
            "Size of one block of a list: a positive number limits its elements; -1 to -5 limit it to 4, 8, 16, 32 or 64 KiB.",
        )
    },
    Opt::live(
        "list-compress-depth",
        Kind::integer(0, I32_MAX),
        field!(list_compress_depth),
        "How many blocks at each end of a list stay uncompressed; 0 disables compression.",
    ),
    Opt::live(
        "set-max-intset-entries",
        Kind::integer(0, i64::MAX),
        field!(set_max_intset_entries),
        "Most members of a set of integers in packed form.",
    ),
    Opt::live(
        "set-max-listpack-entries",
        Kind::integer(0, i64::MAX),
        field!(set_max_listpack_entries),
        "Most members of any other set in packed form.",
    ),
    Opt::live(
        "set-max-listpack-value",
        Kind::memory(0, I64_MAX_BYTES),
        field!(set_max_listpack_value_bytes),
        "Most bytes of a member of a set in packed form.",
    ),
    Opt {
        aliases: &["zset-max-ziplist-entries"],
        ..Opt::live(
            "zset-max-listpack-entries",
            Kind::integer(0, i64::MAX),
            field!(zset_max_listpack_entries),
            "Most members of a sorted set in packed form.",
        )
    },
    Opt {
        aliases: &["zset-max-ziplist-value"],
        ..Opt::live(
            "zset-max-listpack-value",
            Kind::memory(0, I64_MAX_BYTES),
            field!(zset_max_listpack_value_bytes),
            "Most bytes of a member of a sorted set in packed form.",
        )
    },
    Opt::live(
        "hll-sparse-max-bytes",
        Kind::memory(0, I64_MAX_BYTES),
        field!(hll_sparse_max_bytes),
        "Most bytes of a HyperLogLog in sparse form.",
    ),
    Opt::live(
        "stream-node-max-bytes",
        Kind::memory(0, I64_MAX_BYTES),
        field!(stream_node_max_bytes),
        "Most bytes of one block of a stream; 0 means no limit.",
    ),
    Opt::live(
        "stream-node-max-entries",
        Kind::integer(0, i64::MAX),
        field!(stream_node_max_entries),
        "Most entries of one block of a stream; 0 means no limit.",
    ),
];
