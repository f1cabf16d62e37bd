//! `cargo xtask test`: every suite a user should run.

use crate::certificates::Certificates;
use crate::install::{self, NODE_PATH, PYTHON};
use crate::steps::{Count, Steps, cargo_test, check, command, must};
use crate::{perl, tcl};
use damselfly_oracle::memcached::{self, Side};
use damselfly_oracle::server::{Program, Server};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The number and the length of the oracle's random sequences.
const ORACLE_SEQUENCES: &str = "300";
const ORACLE_LENGTH: &str = "200";
/// The part of the Tcl suite that runs in a few seconds.
const TCL_FILES: &[&str] = &[
    "unit/type/incr",
    "unit/keyspace",
    "unit/protocol",
    "unit/scan",
];

/// Those of memcached's own tests that run in a few seconds.
const MEMCACHED_FILES: &[&str] = &[
    "cas.t",
    "flags.t",
    "getandtouch.t",
    "incrdecr.t",
    "metaget.t",
    "multiversioning.t",
    "noreply.t",
    "stats.t",
    "touch.t",
];

/// Small programs in `tests/programs/` that do real work through a framework and check the results.
///
/// Each takes a host and a port, and runs against a real `redis-server` first, which shows that the program is correct.
const PROGRAMS: &[&str] = &[
    "bull.js",
    "bullmq.js",
    "celery_tasks.py",
    "node_redis.js",
    "redis_py_helpers.py",
    "redlock.js",
    "rq_queue.py",
];

/// Clients of memcached in `tests/clients/`, and the interpreter of each. They take a host and a port, and run against a real memcached
/// first, which shows that they are correct.
const MEMCACHED_CLIENTS: &[(&str, &str)] = &[
    (PYTHON, "memcached_pymemcache.py"),
    (PYTHON, "memcached_django.py"),
    // Debian's module is for Debian's Python.
    (install::DEBIAN_PYTHON, "memcached_pylibmc.py"),
    ("node", "memcached_node.js"),
];

/// Builds the server that the suites test.
///
/// # Errors
/// It can't be built.
pub fn build_subject() -> Result<(), String> {
    must(&mut command(&[
        "cargo",
        "build",
        "--quiet",
        "-p",
        "damselfly",
    ]))
}

/// Installs what is missing and runs all suites.
///
/// # Errors
/// A suite failed; the text is the summary.
pub fn run() -> Result<(), String> {
    suites().map(drop)
}

/// Like [`run`], but also returns the number of tests.
pub fn suites() -> Result<Count, String> {
    install::everything()?;
    must(&mut command(&[
        "cargo",
        "build",
        "--quiet",
        "-p",
        "damselfly",
        "-p",
        "damselfly-oracle",
    ]))?;
    let program = subject();
    let mut steps = Steps::new();
    steps.step("build of the tests", || {
        check(&mut command(&[
            "cargo",
            "test",
            "--quiet",
            "--workspace",
            "--no-run",
        ]))
    });
    steps.step(
        "tests of the workspace, including transcripts, bad days and the Rust client",
        || {
            cargo_test(
                command(&["cargo", "test", "--quiet", "--workspace", "--no-fail-fast"])
                    .env("DAMSELFLY_BIN", &program),
            )
        },
    );
    steps.step("oracle", || {
        let words = [
            "target/debug/oracle",
            "run",
            "--sequences",
            ORACLE_SEQUENCES,
            "--length",
            ORACLE_LENGTH,
        ];
        check(command(&words).env("DAMSELFLY_BIN", &program))
    });
    let subject = Program::new(&program);
    for client in ["redis_py.py", "redis_py_cache.py", "ioredis.js"] {
        steps.step(&format!("client {client}"), || {
            let (server, mut command) = against(&subject, &format!("tests/clients/{client}"))?;
            check(command.arg(server.address().port().to_string()))
        });
    }
    for client in ["redis_py.py", "ioredis.js"] {
        steps.step(&format!("client {client} with TLS"), || {
            with_tls(&subject, &format!("tests/clients/{client}"))
        });
    }
    steps.step("clients that use Sentinel", || sentinel_clients(&program));
    for (interpreter, client) in MEMCACHED_CLIENTS {
        for side in [Side::Memcached, Side::Damselfly] {
            steps.step(&format!("client {client} on {side:?}"), || {
                let server = memcached::Server::start(side, &[]).map_err(|why| why.to_string())?;
                let (host, port) = (server.address().ip(), server.address().port());
                let mut command = script(interpreter, &format!("tests/clients/{client}"));
                check(command.args([host.to_string(), port.to_string()]))
            });
        }
    }
    steps.step("memcached's own tests, short", || {
        perl::play(MEMCACHED_FILES)
    });
    run_programs(&mut steps, &subject, "");
    steps.step("Redis's Tcl suite, short", || {
        tcl::play(&subject, TCL_FILES, false)
    });
    steps.finish()
}

/// Runs those of the programs whose name contains `name`.
///
/// # Errors
/// One failed; the text is the summary.
pub fn programs(name: &str) -> Result<(), String> {
    install::everything()?;
    build_subject()?;
    let mut steps = Steps::new();
    run_programs(&mut steps, &Program::new(subject()), name);
    steps.finish().map(drop)
}

fn run_programs(steps: &mut Steps, subject: &Program, name: &str) {
    let servers = [
        ("redis-server", &Program::reference()),
        ("damselfly", subject),
    ];
    for program in PROGRAMS.iter().filter(|program| program.contains(name)) {
        for (kind, server) in servers {
            steps.step(&format!("program {program} on {kind}"), || {
                let (server, mut command) = against(server, &format!("tests/programs/{program}"))?;
                let address = server.address();
                check(command.args([address.ip().to_string(), address.port().to_string()]))
            });
        }
    }
}

/// The server under test: `$DAMSELFLY_BIN`, else what this project builds.
pub fn subject() -> PathBuf {
    let built = || {
        Path::new("target/debug/damselfly")
            .canonicalize()
            .unwrap_or_default()
    };
    std::env::var_os("DAMSELFLY_BIN").map_or_else(built, PathBuf::from)
}

/// A new server, and the command that runs the script at `path`, without its arguments.
fn against(program: &Program, path: &str) -> Result<(Server, Command), String> {
    let server = Server::start(program, &[]).map_err(|error| error.to_string())?;
    Ok((server, script(interpreter(path), path)))
}

/// Kills a primary while clients use it that found it through sentinels.
fn sentinel_clients(program: &Path) -> Result<Count, String> {
    let shown = |path: &str| {
        let path = std::path::absolute(path).unwrap_or_default();
        path.display().to_string()
    };
    let (python, node) = (shown(install::PYTHON), shown(NODE_PATH));
    let (in_python, in_node) = (
        shown("tests/clients/sentinel.py"),
        shown("tests/clients/sentinel.js"),
    );
    let words = [
        "cargo",
        "test",
        "--quiet",
        "-p",
        "damselfly-oracle",
        "--test",
        "sentinel",
    ];
    cargo_test(
        command(&words)
            .env("DAMSELFLY_BIN", program)
            .env("NODE_PATH", node)
            .env(
                "DAMSELFLY_SENTINEL_CLIENTS",
                format!("py {python} {in_python};js node {in_node}"),
            ),
    )
}

/// Runs the script at `path` against a new server with TLS that asks for certificates.
fn with_tls(program: &Program, path: &str) -> Result<Count, String> {
    let folder = Path::new("target").join("tls");
    let certificates = Certificates::create(&std::path::absolute(folder).unwrap_or_default())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0));
    let port = listener.and_then(|listener| listener.local_addr());
    let port = port.map_err(|error| error.to_string())?.port().to_string();
    let options = certificates.server_options(&port);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let _server = Server::start(program, &options).map_err(|error| error.to_string())?;
    let mut command = script(interpreter(path), path);
    check(
        command
            .arg(port)
            .arg(&certificates.certificate)
            .arg(&certificates.key),
    )
}

/// The interpreter of the script at `path`.
fn interpreter(path: &str) -> &'static str {
    if path.ends_with(".js") {
        "node"
    } else {
        PYTHON
    }
}

/// A command that runs a script with the packages of the tests.
fn script(interpreter: &str, path: &str) -> Command {
    let mut command = command(&[interpreter, path]);
    command
        .env(
            "NODE_PATH",
            Path::new(NODE_PATH).canonicalize().unwrap_or_default(),
        )
        .env("PYTHONDONTWRITEBYTECODE", "1");
    command
}
