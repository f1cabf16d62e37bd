//! `cargo xtask ci`: the checks that must pass before a change is merged.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::{env, fs, io};

use crate::steps::{Count, Steps, cargo_test, check, command, must, test_result};
use crate::{fuzz, live, test, tidy};

/// Crates whose `unsafe` runs under the address sanitizer.
const SANITIZED: &[&str] = &[
    "damselfly-table",
    "damselfly-collections",
    "damselfly-value",
];
/// Crates whose interleavings are checked with loom.
const LOOM: &[&str] = &["damselfly-lock", "damselfly-log"];
/// Deliberate bugs (`damselfly_base::planted_bug`): the name, the package and test file that must detect it, and a filter for the
/// tests in that file.
const PLANTED_BUGS: &[(&str, &str, &str, &str)] = &[
    ("sections", "damselfly-engine", "atomicity", ""),
    ("wakes", "damselfly-engine", "waiting", "woken::"),
    ("cut", "damselfly-engine", "snapshot", "threads::"),
    ("cut", "damselfly-oracle", "snapshots", ""),
    ("claim", "damselfly-oracle", "blocking", "counted::"),
    (
        "sections",
        "damselfly-oracle",
        "transactions",
        "two_threads",
    ),
    ("watches", "damselfly-oracle", "transactions", "switches"),
    ("scripts", "damselfly-server", "scripts", "money_"),
    ("tracking", "damselfly-server", "tracking", "coherent::"),
    ("log", "damselfly-log", "linearization", "the_merged_stream"),
];

/// The folder of builds with deliberate bugs.
const BROKEN_FOLDER: &str = "target/broken";

/// Runs all checks, also those after a failed one.
///
/// # Errors
/// A check failed; the text is the summary.
pub fn run() -> Result<(), String> {
    let mut steps = Steps::new();
    steps.step("format", || {
        check(&mut command(&["cargo", "fmt", "--all", "--check"]))
    });
    steps.step("tidy", || tidy::run().map(|()| Count::one(true)));
    steps.step("clippy", || {
        check(&mut command(&[
            "cargo",
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ]))
    });
    steps.step("build of the fuzz targets", fuzz::build_all);
    steps.step("test", test::suites);
    for package in LOOM {
        steps.step(&format!("loom on {package}"), || {
            let words = [
                "cargo",
                "test",
                "--quiet",
                "--lib",
                "-p",
                package,
                "--release",
                "--target-dir",
                "target/loom",
            ];
            cargo_test(command(&words).env("RUSTFLAGS", "--cfg loom"))
        });
    }
    for (bug, package, test, filter) in PLANTED_BUGS {
        steps.step(&format!("tests of {test} detect the bug {bug}"), || {
            notices(bug, package, test, filter)
        });
    }
    for package in SANITIZED {
        steps.step(&format!("address sanitizer on {package}"), || {
            sanitized(package)
        });
    }
    steps.step("short fuzz", fuzz::short);
    steps.step("live fuzz", || live::run(&[]));
    steps.finish().map(drop)
}

/// Runs tests with a deliberate bug. A test that fails has detected it, so it counts as passed.
fn notices(bug: &str, package: &str, test: &str, filter: &str) -> Result<Count, String> {
    const WRAPPER: &str = "RUSTC_WORKSPACE_WRAPPER";
    let compiler =
        broken_compiler().map_err(|error| format!("cannot prepare {BROKEN_FOLDER}: {error}"))?;
    let folder = ["--quiet", "--target-dir", BROKEN_FOLDER];
    if package == "damselfly-oracle" {
        // The tests of the oracle start the server, so it must have the bug.
        let words = ["cargo", "build", "-p", "damselfly"];
        let mut build = command(&words);
        build.args(folder).env(WRAPPER, &compiler);
        must(&mut build)?;
    }
    let words = ["cargo", "test", "-p", package, "--test", test];
    let mut command = command(&words);
    command.args(folder).args(["--", filter]);
    command.env(WRAPPER, compiler).env("DAMSELFLY_BUG", bug);
    let output = command
        .output()
        .map_err(|error| format!("cannot run cargo: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(count) = text.lines().find_map(test_result) else {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the tests did not finish:\n{error}"));
    };
    if count.passed > 0 || count.failed == 0 {
        println!("{text}");
    }
    Ok(Count {
        passed: count.failed,
        failed: count.passed + usize::from(count.failed == 0),
    })
}

/// Writes a compiler wrapper that adds the deliberate bugs to the packages of this workspace. Dependencies are not affected, so those
/// that were compiled for the tests are used again.
fn broken_compiler() -> io::Result<PathBuf> {
    let folder = env::current_dir()?.join(BROKEN_FOLDER);
    let path = folder.join("compiler.sh");
    if !folder.exists() {
        fs::create_dir_all(&folder)?;
        let copied = Command::new("cp")
            .args(["-al", "target/debug", BROKEN_FOLDER])
            .status()?;
        if !copied.success() {
            return Err(io::Error::other("target/debug can't be copied"));
        }
        // Otherwise builds in the two folders wait for each other.
        fs::remove_file(folder.join("debug/.cargo-lock"))?;
    }
    fs::write(&path, "#!/bin/sh\nexec \"$@\" --cfg broken\n")?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

fn sanitized(package: &str) -> Result<Count, String> {
    let target = "x86_64-unknown-linux-gnu";
    // The target is named so that build scripts and macros are built without the sanitizer.
    let words = [
        "cargo",
        "test",
        "--quiet",
        "--lib",
        "--tests",
        "-p",
        package,
        "--target",
        target,
        "--target-dir",
        "target/asan",
    ];
    cargo_test(
        command(&words)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTFLAGS", "-Zsanitizer=address --cfg sanitize_address"),
    )
}
