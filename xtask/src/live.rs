//! `cargo xtask fuzz --live`: many connections send random commands to a running server.
//!
//! The fuzzer itself is `oracle live` (`crates/oracle/src/live`).

use crate::steps::{Count, check, command, must};

/// How long the run is that a change must pass.
const SECONDS: &str = "120";

/// Builds the server and the fuzzer, and runs it; `words` are options of `oracle live`, which come last and so count.
///
/// # Errors
/// The build fails, or the fuzzer can't be started.
pub fn run(words: &[&str]) -> Result<Count, String> {
    let packages = ["-p", "damselfly", "-p", "damselfly-oracle"];
    must(command(&["cargo", "build", "--quiet"]).args(packages))?;
    let fuzzer = ["target/debug/oracle", "live", "--folder", "target/live"];
    check(command(&fuzzer).args(["--seconds", SECONDS]).args(words))
}
