//! Options for threads, logging and the process.

use super::{Access, Effect, I32_MAX, Opt};
use crate::kind::{Kind, Setting};
use crate::types::{LogLevel, Supervised};

pub(super) static OPTIONS: &[Opt] = &[
    Opt::at_start(
        "threads",
        Kind::integer(0, 1024),
        field!(threads),
        "Threads that serve clients; 0 means one per available CPU core.",
    ),
    Opt::at_start(
        "shards",
        Kind::integer(0, 65536),
        field!(shards),
        "How many shards the keys are divided into, each with its own lock. Rounded up to a power of two, at most 4096; 0 means 64 per thread.",
    ),
    Opt::at_start(
        "databases",
        Kind::integer(1, I32_MAX),
        field!(databases),
        "How many databases SELECT can choose from.",
    ),
    Opt::live(
        "loglevel",
        Kind::Choice(LogLevel::NAMES),
        field!(loglevel),
        "How much is logged: `debug` logs most, `warning` only what needs attention.",
    ),
    Opt::at_start(
        "logfile",
        Kind::Text,
        field!(logfile),
        "File to log to; empty means standard output, which a server in the background (`daemonize`) does not have.",
    ),
    Opt::at_start(
        "pidfile",
        Kind::Text,
        field!(pidfile),
        "File to write the process id to; removed at shutdown. Empty means none, but with `daemonize` the server tries /var/run/damselfly.pid.",
    ),
    Opt::at_start(
        "daemonize",
        Kind::Bool,
        field!(daemonize),
        "Runs the server in the background. The command returns once the server listens, or with an error if it can't start; whether its data could be loaded is in the log, so set `logfile`. Ignored if `supervised` finds a service manager.",
    ),
    Opt::at_start(
        "supervised",
        Kind::Choice(Supervised::NAMES),
        field!(supervised),
        "Service manager to notify when the server is ready: `systemd` through NOTIFY_SOCKET, `upstart` by stopping itself with SIGSTOP, `auto` whichever the environment names.",
    ),
    Opt {
        effect: Effect::Never("there is no logo"),
        ..Opt::at_start(
            "always-show-logo",
            Kind::Bool,
            field!(always_show_logo),
            "Shows a logo in the log.",
        )
    },
    Opt {
        effect: Effect::Never(
            "SORT with ALPHA and Lua compare bytes, as Redis does in the locale C",
        ),
        ..Opt::live(
            "locale-collate",
            Kind::Text,
            field!(locale_collate),
            "Locale for comparing strings.",
        )
    },
    Opt {
        effect: Effect::Never("the log never shows values, nor the requests of clients"),
        ..Opt::live(
            "hide-user-data-from-log",
            Kind::Bool,
            field!(hide_user_data_from_log),
            "Keeps data of clients out of the log.",
        )
    },
    Opt {
        effect: Effect::Never(
            "a thread of its own accepts connections, so that they delay no command",
        ),
        ..Opt::live(
            "max-new-connections-per-cycle",
            Kind::integer(1, 1000),
            field!(max_new_connections_per_cycle),
            "New connections per turn of the event loop.",
        )
    },
    Opt {
        effect: Effect::Never(
            "a thread of its own accepts connections, so that they delay no command",
        ),
        ..Opt::live(
            "max-new-tls-connections-per-cycle",
            Kind::integer(1, 1000),
            field!(max_new_tls_connections_per_cycle),
            "New TLS connections per turn of the event loop.",
        )
    },
    Opt {
        effect: Effect::Never(
            "background work runs ten times a second, and more often while there is much to do",
        ),
        ..Opt::live(
            "hz",
            Kind::integer(0, I32_MAX),
            Access {
                read: |c| c.hz.show(),
                write: |c, value| {
                    value.store(&mut c.hz)?;
                    c.hz = c.hz.clamp(1, 500);
                    Ok(())
                },
            },
            "Rounds of background work per second. Values outside 1 to 500 are moved to the nearest limit.",
        )
    },
    Opt {
        effect: Effect::Never("the work per round does not grow with the number of clients"),
        ..Opt::live(
            "dynamic-hz",
            Kind::Bool,
            field!(dynamic_hz),
            "Raises `hz` while many clients are connected.",
        )
    },
];
