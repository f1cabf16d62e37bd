//! `cargo xtask ci`: what must pass before a change is merged.

use crate::steps::{Count, Steps, cargo_test, check, command};
use crate::{fuzz, test, tidy};

/// Crates whose `unsafe` runs under the address sanitizer.
const SANITIZED: &[&str] = &["damselfly-table", "damselfly-value"];

/// Runs everything, and goes on after a failure.
///
/// # Errors
/// Something failed; the text is the summary.
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
    steps.step("test", test::suites);
    steps.step("loom on the lock", || {
        let words = [
            "cargo",
            "test",
            "--quiet",
            "-p",
            "damselfly-lock",
            "--release",
            "--target-dir",
            "target/loom",
        ];
        cargo_test(command(&words).env("RUSTFLAGS", "--cfg loom"))
    });
    for package in SANITIZED {
        steps.step(&format!("address sanitizer on {package}"), || {
            sanitized(package)
        });
    }
    steps.step("short fuzz", fuzz::short);
    steps.finish().map(drop)
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
