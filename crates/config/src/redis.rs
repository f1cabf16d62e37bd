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
    if IGNORED.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        return Some(Lacking::Nothing);
    }
    let (_, harmless, otherwise) = LACKING
        .iter()
        .find(|(known, _, _)| known.eq_ignore_ascii_case(name))?;
    let is_harmless = values
        .iter()
        .all(|value| value.eq_ignore_ascii_case(harmless));
    Some(match is_harmless {
        true => Lacking::Nothing,
        false => *otherwise,
    })
}

use Lacking::{Detail, Everything};

const CPUS: Lacking = Detail("start the server with taskset or cpuset to choose its processors");

/// Options without a meaning here, whatever their value. This list and the next one have those that CONFIG GET of Redis 7.0.15 shows, those that only a
/// file may contain, and some of older or newer versions.
static IGNORED: &[&str] = &[
    "active-defrag-cycle-max",
    "active-defrag-cycle-min",
    "active-defrag-ignore-bytes",
    "active-defrag-max-scan-fields",
    "active-defrag-threshold-lower",
    "active-defrag-threshold-upper",
    "cluster-allow-pubsubshard-when-down",
    "cluster-allow-reads-when-down",
    "cluster-allow-replica-migration",
    "cluster-announce-bus-port",
    "cluster-announce-hostname",
    "cluster-announce-human-nodename",
    "cluster-announce-ip",
    "cluster-announce-port",
    "cluster-announce-tls-port",
    "cluster-config-file",
    "cluster-link-sendbuf-limit",
    "cluster-migration-barrier",
    "cluster-node-timeout",
    "cluster-port",
    "cluster-preferred-endpoint-type",
    "cluster-replica-no-failover",
    "cluster-replica-validity-factor",
    "cluster-require-full-coverage",
    "cluster-slave-no-failover",
    "cluster-slave-validity-factor",
    "crash-log-enabled",
    "crash-memcheck-enabled",
    "ignore-warnings",
    "io-threads-do-reads",
    "jemalloc-bg-thread",
    "list-max-ziplist-entries",
    "list-max-ziplist-value",
    "lua-replicate-commands",
    "oom-score-adj-values",
    "proc-title-template",
    "repl-diskless-sync-period",
    "set-proc-title",
    "syslog-facility",
    "syslog-ident",
];

/// The other options, the value with which they ask for nothing, and what they ask for with any other one.
static LACKING: &[(&str, &str, Lacking)] = &[
    (
        "aof-disable-auto-gc",
        "no",
        Detail("old append-only files are removed"),
    ),
    ("aof_rewrite_cpulist", "", CPUS),
    ("bgsave_cpulist", "", CPUS),
    (
        "bind-source-addr",
        "",
        Everything(
            "connections to other servers can't be given an address; remove the line to let the system choose it",
        ),
    ),
    ("bio_cpulist", "", CPUS),
    (
        "cluster-enabled",
        "no",
        Everything(
            "this server can't be a node of a cluster; remove the line to start a primary of its own, which has only the keys in its own files",
        ),
    ),
    ("gopher-enabled", "no", Detail("Gopher is not supported")),
    (
        "io-threads",
        "1",
        Detail(
            "set threads to the number of threads that serve clients; by default there is one for each processor",
        ),
    ),
    (
        "loadmodule",
        "",
        Everything(
            "modules can't be loaded; remove the line to start without the module's commands and types",
        ),
    ),
    (
        "oom-score-adj",
        "no",
        Detail("the service manager can set it, such as systemd with OOMScoreAdjust"),
    ),
    ("server_cpulist", "", CPUS),
    (
        "syslog-enabled",
        "no",
        Detail("log lines go to logfile, or to standard output"),
    ),
];
