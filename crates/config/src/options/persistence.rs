//! Options for snapshots and logs on disk.

use super::{Access, Effect, I32_MAX, I64_MAX_BYTES, Opt};
use crate::kind::{Kind, OptionError, Setting, Value};
use crate::saving::{SavePoints, ShutdownFlags};
use crate::types::{AppendFsync, RdbVersion, SanitizePayloads};

pub(super) static OPTIONS: &[Opt] = &[
    Opt::protected(
        "dir",
        Kind::Text,
        field!(dir),
        "Working directory of the server: relative paths, such as that of the log file, start here, and snapshots are stored here. It can't be changed while the append-only file is on.",
    ),
    Opt::protected(
        "dbfilename",
        Kind::Text,
        Access {
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
        "Name of the snapshot file in `dir`, which is loaded at start.",
    ),
    Opt::at_start(
        "rdbchecksum",
        Kind::Bool,
        field!(rdbchecksum),
        "Ends snapshots with a checksum, and verifies it when they are loaded. A file without checksum is loaded in any case.",
    ),
    Opt::live(
        "save",
        Kind::Groups(&["seconds", "changes"]),
        Access {
            read: |c| c.save.show(),
            write: |c, value| {
                c.save = SavePoints::parse(&value.words())?;
                Ok(())
            },
        },
        "When to save a snapshot: after `seconds` if there were at least `changes` to keys. An empty value disables snapshots.",
    ),
    Opt::live(
        "shutdown-on-sigint",
        Kind::Words,
        Access {
            read: |c| c.shutdown_on_sigint.show(),
            write: |c, value| {
                c.shutdown_on_sigint = ShutdownFlags::parse(&value.words())?;
                Ok(())
            },
        },
        "How SIGINT stops the server: `default` saves if there are save points; `save`, `nosave`, `force` and `now` are as with SHUTDOWN.",
    ),
    Opt::live(
        "shutdown-on-sigterm",
        Kind::Words,
        Access {
            read: |c| c.shutdown_on_sigterm.show(),
            write: |c, value| {
                c.shutdown_on_sigterm = ShutdownFlags::parse(&value.words())?;
                Ok(())
            },
        },
        "How SIGTERM stops the server, as `shutdown-on-sigint`.",
    ),
    Opt::live(
        "shutdown-timeout",
        Kind::integer(0, I32_MAX),
        field!(shutdown_timeout_s),
        "For how many seconds a stopping server waits for replicas that lag behind.",
    ),
    Opt::live(
        "stop-writes-on-bgsave-error",
        Kind::Bool,
        field!(stop_writes_on_bgsave_error),
        "Refuses writes after a failed save, if there are save points, until a save succeeds: so somebody notices.",
    ),
    Opt::live(
        "rdbcompression",
        Kind::Bool,
        field!(rdbcompression),
        "Compresses long strings in snapshots (LZF).",
    ),
    Opt::live(
        "rdb-save-incremental-fsync",
        Kind::Bool,
        field!(rdb_save_incremental_fsync),
        "Sends snapshots to the disk piece by piece while they are written, not all at the end.",
    ),
    Opt::live(
        "rdb-save-version",
        Kind::Choice(RdbVersion::NAMES),
        field!(rdb_save_version),
        "Version of the format of snapshots. `lowest` is the lowest that can express the data: 10, which Redis 7.0 and Valkey read, or 12 if fields of hashes have expiration times. With a fixed version that can't express the data, saves fail.",
    ),
    Opt::live(
        "rdb-key-save-delay",
        Kind::integer(i32::MIN as i64, I32_MAX),
        field!(rdb_key_save_delay_us),
        "Slows down snapshots, for tests: microseconds per key. Negative numbers are as 0.",
    ),
    Opt::live(
        "appendonly",
        Kind::Bool,
        field!(appendonly),
        "Writes every change to the append-only file, which is then loaded at start instead of the snapshot.",
    ),
    Opt::at_start(
        "appendfilename",
        Kind::Text,
        Access {
            read: |c| c.appendfilename.show(),
            write: |c, value| {
                if matches!(&value, Value::Text(name) if name.is_empty() || name.contains('/')) {
                    return Err(OptionError::new(
                        "appendfilename can't be a path, just a filename",
                    ));
                }
                value.store(&mut c.appendfilename)
            },
        },
        "Beginning of the names of the append-only files.",
    ),
    Opt::at_start(
        "appenddirname",
        Kind::Text,
        Access {
            read: |c| c.appenddirname.show(),
            write: |c, value| {
                if matches!(&value, Value::Text(name) if name.is_empty() || name.contains('/')) {
                    return Err(OptionError::new(
                        "appenddirname can't be a path, just a dirname",
                    ));
                }
                value.store(&mut c.appenddirname)
            },
        },
        "Name of the folder of the append-only files, in `dir`.",
    ),
    Opt::live(
        "appendfsync",
        Kind::Choice(AppendFsync::NAMES),
        field!(appendfsync),
        "When changes are forced to the disk: `always` before the client gets its reply, `everysec` once a second, `no` when the operating system likes.",
    ),
    Opt::live(
        "no-appendfsync-on-rewrite",
        Kind::Bool,
        field!(no_appendfsync_on_rewrite),
        "Does not force changes to the disk while a snapshot or a new append-only file is written.",
    ),
    Opt::live(
        "auto-aof-rewrite-percentage",
        Kind::integer(0, I32_MAX),
        field!(auto_aof_rewrite_percentage),
        "Writes a new append-only file when the old one has grown by this percentage since the last time; 0 means never.",
    ),
    Opt::live(
        "auto-aof-rewrite-min-size",
        Kind::memory(0, I64_MAX_BYTES),
        field!(auto_aof_rewrite_min_bytes),
        "The smallest append-only file that is written anew by itself.",
    ),
    Opt::live(
        "aof-load-truncated",
        Kind::Bool,
        field!(aof_load_truncated),
        "Loads an append-only file whose last command is incomplete, without that command. Otherwise the server refuses to start.",
    ),
    Opt::live(
        "aof-use-rdb-preamble",
        Kind::Bool,
        field!(aof_use_rdb_preamble),
        "Writes the base of the append-only file in RDB format, which is smaller and loads faster, instead of as commands.",
    ),
    Opt::live(
        "aof-timestamp-enabled",
        Kind::Bool,
        field!(aof_timestamp_enabled),
        "Writes the time into the append-only file once a second, so that `--restore-to` can stop at a moment.",
    ),
    Opt::live(
        "aof-rewrite-incremental-fsync",
        Kind::Bool,
        field!(aof_rewrite_incremental_fsync),
        "Forces a new append-only file to the disk piece by piece.",
    ),
    Opt {
        effect: Effect::Never("every file and every payload is always checked in full"),
        ..Opt::live(
            "sanitize-dump-payload",
            Kind::Choice(SanitizePayloads::NAMES),
            field!(sanitize_dump_payload),
            "Whether packed collections in RDB files and in payloads of RESTORE are checked in full: `clients` means only in those of clients.",
        )
    },
];
