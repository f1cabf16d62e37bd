//! Options of Redis that this server does not have: what becomes of a line with one of them depends on what it asks for.

/// What a line with an option that this server lacks asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lacking {
    /// Nothing that this server would do differently.
    Nothing,
    /// Something that can be left out; the text says what that means.
    Detail(&'static str),
    /// Something without which this would be another server than the one that was asked for; the text says what to do.
    Everything(&'static str),
}

/// What the line asks for, if `name`, in any case, is an option of Redis that this server lacks.
pub fn lacking(name: &str, values: &[String]) -> Option<Lacking> {
    let (_, harmless, otherwise) = LACKING
        .iter()
        .find(|(known, _, _)| known.eq_ignore_ascii_case(name))?;
    let asks_for_nothing = match harmless {
        Harmless::Any => true,
        Harmless::Only(value) => values.iter().all(|given| given.eq_ignore_ascii_case(value)),
    };
    Some(if asks_for_nothing {
        Lacking::Nothing
    } else {
        *otherwise
    })
}

/// The values of an option that ask for nothing.
enum Harmless {
    /// All.
    Any,
    /// This one.
    Only(&'static str),
}

use Harmless::{Any, Only};
use Lacking::{Detail, Everything, Nothing};

const CPUS: Lacking = Detail("start the server with taskset or cpuset to choose its processors");

/// The options that CONFIG GET of Redis 7.0.15 shows, the directives that only a file may contain, and some options of older
/// or newer versions.
static LACKING: &[(&str, Harmless, Lacking)] = &[
    ("active-defrag-cycle-max", Any, Nothing),
    ("active-defrag-cycle-min", Any, Nothing),
    ("active-defrag-ignore-bytes", Any, Nothing),
    ("active-defrag-max-scan-fields", Any, Nothing),
    ("active-defrag-threshold-lower", Any, Nothing),
    ("active-defrag-threshold-upper", Any, Nothing),
    (
        "aof-disable-auto-gc",
        Only("no"),
        Detail("old append-only files are removed"),
    ),
    ("aof_rewrite_cpulist", Only(""), CPUS),
    ("bgsave_cpulist", Only(""), CPUS),
    (
        "bind-source-addr",
        Only(""),
        Everything(
            "connections to other servers can't be given an address; remove the line to let the system choose it",
        ),
    ),
    ("bio_cpulist", Only(""), CPUS),
    ("cluster-allow-pubsubshard-when-down", Any, Nothing),
    ("cluster-allow-reads-when-down", Any, Nothing),
    ("cluster-allow-replica-migration", Any, Nothing),
    ("cluster-announce-bus-port", Any, Nothing),
    ("cluster-announce-hostname", Any, Nothing),
    ("cluster-announce-human-nodename", Any, Nothing),
    ("cluster-announce-ip", Any, Nothing),
    ("cluster-announce-port", Any, Nothing),
    ("cluster-announce-tls-port", Any, Nothing),
    ("cluster-config-file", Any, Nothing),
    (
        "cluster-enabled",
        Only("no"),
        Everything(
            "this server can't be a node of a cluster; remove the line to start a primary of its own, which has only the keys in its own files",
        ),
    ),
    ("cluster-link-sendbuf-limit", Any, Nothing),
    ("cluster-migration-barrier", Any, Nothing),
    ("cluster-node-timeout", Any, Nothing),
    ("cluster-port", Any, Nothing),
    ("cluster-preferred-endpoint-type", Any, Nothing),
    ("cluster-replica-no-failover", Any, Nothing),
    ("cluster-replica-validity-factor", Any, Nothing),
    ("cluster-require-full-coverage", Any, Nothing),
    ("cluster-slave-no-failover", Any, Nothing),
    ("cluster-slave-validity-factor", Any, Nothing),
    ("crash-log-enabled", Any, Nothing),
    ("crash-memcheck-enabled", Any, Nothing),
    (
        "gopher-enabled",
        Only("no"),
        Detail("Gopher is not supported"),
    ),
    ("ignore-warnings", Any, Nothing),
    (
        "io-threads",
        Only("1"),
        Detail(
            "set threads to the number of threads that serve clients; by default there is one for each processor",
        ),
    ),
    ("io-threads-do-reads", Any, Nothing),
    ("jemalloc-bg-thread", Any, Nothing),
    (
        "loadmodule",
        Only(""),
        Everything(
            "modules can't be loaded; remove the line to start without the module's commands and types",
        ),
    ),
    (
        "oom-score-adj",
        Only("no"),
        Detail("the service manager can set it, such as systemd with OOMScoreAdjust"),
    ),
    ("oom-score-adj-values", Any, Nothing),
    ("proc-title-template", Any, Nothing),
    ("repl-diskless-sync-period", Any, Nothing),
    ("server_cpulist", Only(""), CPUS),
    ("set-proc-title", Any, Nothing),
    (
        "syslog-enabled",
        Only("no"),
        Detail("log lines go to logfile, or to standard output"),
    ),
    ("syslog-facility", Any, Nothing),
    ("syslog-ident", Any, Nothing),
];
