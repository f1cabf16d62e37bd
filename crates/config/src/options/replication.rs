//! Options for primaries and replicas.

use super::{Access, I32_MAX, Opt};
use crate::kind::Kind;
use crate::types::{DisklessLoad, PrimaryAddress};

pub(super) static OPTIONS: &[Opt] = &[
    Opt {
        aliases: &["slaveof"],
        ..Opt::at_start(
            "replicaof",
            Kind::Words,
            Access {
                read: |c| PrimaryAddress::show(c.replicaof.as_ref()),
                write: |c, value| {
                    c.replicaof = PrimaryAddress::parse(&value.words())?;
                    Ok(())
                },
            },
            "Host and port of the primary that this server follows. Empty, or `no one`, for a primary. REPLICAOF changes it.",
        )
    },
    Opt::live(
        "masteruser",
        Kind::Text,
        field!(masteruser),
        "User as which a replica logs in to its primary; empty for the default user.",
    ),
    Opt::live(
        "masterauth",
        Kind::Text,
        field!(masterauth),
        "Password with which a replica logs in to its primary; empty for none.",
    ),
    Opt {
        aliases: &["slave-serve-stale-data"],
        ..Opt::live(
            "replica-serve-stale-data",
            Kind::Bool,
            field!(replica_serve_stale_data),
            "A replica without a link to its primary still answers; otherwise it refuses all commands that use keys.",
        )
    },
    Opt {
        aliases: &["slave-read-only"],
        ..Opt::live(
            "replica-read-only",
            Kind::Bool,
            field!(replica_read_only),
            "A replica refuses writes of its clients. Writes to a writable replica stay local and are lost at the next full synchronisation.",
        )
    },
    Opt {
        aliases: &["slave-priority"],
        ..Opt::live(
            "replica-priority",
            Kind::integer(0, I32_MAX),
            field!(replica_priority),
            "Sentinel prefers replicas with a low number when it promotes one, and never promotes one with 0.",
        )
    },
    Opt::live(
        "replica-announced",
        Kind::Bool,
        field!(replica_announced),
        "Sentinel shows this replica to its clients.",
    ),
    Opt {
        aliases: &["slave-announce-ip"],
        ..Opt::live(
            "replica-announce-ip",
            Kind::Text,
            field!(replica_announce_ip),
            "Address that a replica reports to its primary; empty for the address of its connection.",
        )
    },
    Opt {
        aliases: &["slave-announce-port"],
        ..Opt::live(
            "replica-announce-port",
            Kind::integer(0, 65535),
            field!(replica_announce_port),
            "Port that a replica reports to its primary; 0 for the port that it listens on.",
        )
    },
    Opt {
        aliases: &["slave-ignore-maxmemory"],
        ..Opt::live(
            "replica-ignore-maxmemory",
            Kind::Bool,
            field!(replica_ignore_maxmemory),
            "A replica evicts nothing by itself and refuses nothing for lack of memory: its primary does.",
        )
    },
    Opt::live(
        "replica-ignore-disk-write-errors",
        Kind::Bool,
        field!(replica_ignore_disk_write_errors),
        "A replica goes on applying changes when its append-only file or its last snapshot could not be written; otherwise it leaves its primary until they can be written, where Redis ends the process.",
    ),
    Opt::live(
        "repl-diskless-load",
        Kind::Choice(DisklessLoad::NAMES),
        field!(repl_diskless_load),
        "How a replica loads the data of its primary: `disabled` through a file; `on-empty-db` straight from the connection if it has no data itself; `swapdb` straight from the connection, beside its old data, which is dropped when the new data is complete.",
    ),
    Opt::live(
        "repl-diskless-sync",
        Kind::Bool,
        field!(repl_diskless_sync),
        "Sends snapshots to replicas while they are made, without a file. Replicas that don't understand that get a file anyway.",
    ),
    Opt::live(
        "repl-diskless-sync-delay",
        Kind::integer(0, I32_MAX),
        field!(repl_diskless_sync_delay_s),
        "For how many seconds a snapshot without a file waits for more replicas: those that come later wait for the next one.",
    ),
    Opt::live(
        "repl-diskless-sync-max-replicas",
        Kind::integer(0, I32_MAX),
        field!(repl_diskless_sync_max_replicas),
        "A snapshot without a file begins at once when so many replicas wait for it; 0 for no such number.",
    ),
    Opt {
        aliases: &["repl-ping-slave-period"],
        ..Opt::live(
            "repl-ping-replica-period",
            Kind::integer(1, I32_MAX),
            field!(repl_ping_replica_period_s),
            "How often replicas get a PING, in seconds.",
        )
    },
    Opt::live(
        "repl-timeout",
        Kind::integer(1, I32_MAX),
        field!(repl_timeout_s),
        "After how many seconds without a sign of life primary and replica give each other up.",
    ),
    Opt::live(
        "repl-disable-tcp-nodelay",
        Kind::Bool,
        field!(repl_disable_tcp_nodelay),
        "Sends fewer and larger packets to replicas, which get changes up to 40 milliseconds later.",
    ),
    Opt::live(
        "repl-backlog-size",
        Kind::memory(1, 1 << 50),
        field!(repl_backlog_bytes),
        "How many bytes of the stream are kept for replicas that lose their connection and come back.",
    ),
    Opt::live(
        "repl-backlog-ttl",
        Kind::integer(0, I32_MAX),
        field!(repl_backlog_ttl_s),
        "For how many seconds without a replica a primary keeps these bytes; 0 for ever.",
    ),
    Opt::live(
        "rdb-del-sync-files",
        Kind::Bool,
        field!(rdb_del_sync_files),
        "Removes snapshots that were only written for replicas, if this server saves its data nowhere.",
    ),
    Opt {
        aliases: &["min-slaves-to-write"],
        ..Opt::live(
            "min-replicas-to-write",
            Kind::integer(0, I32_MAX),
            field!(min_replicas_to_write),
            "Refuses writes while fewer replicas keep up; 0 never does.",
        )
    },
    Opt {
        aliases: &["min-slaves-max-lag"],
        ..Opt::live(
            "min-replicas-max-lag",
            Kind::integer(0, I32_MAX),
            field!(min_replicas_max_lag_s),
            "A replica keeps up if its last acknowledgement is not older, in seconds.",
        )
    },
];
