//! `cargo xtask test`: every suite a user should run.

use crate::install::{self, NODE_PATH, PYTHON};
use crate::steps::{Count, Steps, cargo_test, check, command, must};
use crate::tcl;
use damselfly_oracle::server::{Program, Server};
use std::path::{Path, PathBuf};

/// Random sequences of the oracle in a short run, and how long each is.
const ORACLE_SEQUENCES: &str = "300";
const ORACLE_LENGTH: &str = "200";
/// The part of the Tcl suite that runs in a few seconds.
const TCL_FILES: &[&str] = &[
    "unit/type/incr",
    "unit/keyspace",
    "unit/protocol",
    "unit/scan",
];

/// Installs what is missing and runs all suites.
///
/// # Errors
/// A suite failed; the text is the summary.
pub fn run() -> Result<(), String> {
    suites().map(drop)
}

/// The same, and how many tests there were.
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
    steps.step(
        "tests of the workspace, with transcripts, bad days and the Rust client",
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
    steps.step("client redis-py", || {
        client(&program, &[PYTHON, "tests/clients/redis_py.py"])
    });
    steps.step("client redis-py, with its cache", || {
        client(&program, &[PYTHON, "tests/clients/redis_py_cache.py"])
    });
    steps.step("client ioredis", || {
        client(&program, &["node", "tests/clients/ioredis.js"])
    });
    steps.step("Redis's Tcl suite, short", || {
        tcl::play(&Program::new(&program), TCL_FILES, false)
    });
    steps.finish()
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

/// Runs a client's program against a fresh server.
fn client(program: &Path, words: &[&str]) -> Result<Count, String> {
    let server = Server::start(&Program::new(program), &[]).map_err(|error| error.to_string())?;
    let node_path = Path::new(NODE_PATH).canonicalize().unwrap_or_default();
    check(
        command(words)
            .arg(server.address().port().to_string())
            .env("NODE_PATH", node_path),
    )
}
