//! `cargo xtask compare --log --fsync-ms N`: SET with `appendfsync always` on a disk whose fsyncs take N milliseconds.
//!
//! The disk is a folder in memory, and `strace` delays each fsync of the servers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::log::{CONNECTIONS, with_file};
use super::peers::Peer;
use super::{Run, tables};

/// A file system in memory.
const MEMORY: &str = "/dev/shm";

/// The system calls that are delayed.
const SYNCS: &str = "fsync,fdatasync";

/// System calls of every new thread. `strace --seccomp-bpf` stops a thread at every system call, which takes longer than most of these
/// calls themselves, until the thread makes one that is traced. Threads that serve clients make no fsync.
const FIRST_CALLS: &str = "set_robust_list,prctl";

impl Run<'_> {
    /// Measures all servers that have an append-only file.
    pub(super) fn slow_disk(&self, peers: &[Peer], fsync_ms: f64) -> Result<(), String> {
        find_strace()?;
        let mut peers: Vec<Peer> = with_file(peers).into_iter().cloned().collect();
        for peer in &mut peers {
            peer.launcher = launcher(fsync_ms);
        }
        let folder = TemporaryFolder::create()?;
        self.always(&peers.iter().collect::<Vec<_>>(), &folder.0)?;
        println!(
            "\nEach fsync takes {fsync_ms} ms and a little more: if all {CONNECTIONS} clients share each one, that disk allows {} requests/s.",
            tables::thousands(f64::from(CONNECTIONS) * 1e3 / fsync_ms)
        );
        Ok(())
    }
}

fn find_strace() -> Result<(), String> {
    let found = Command::new("strace")
        .args(["--seccomp-bpf", "-f", "-o", "/dev/null", "true"])
        .stdin(Stdio::null())
        .output();
    let reason = match found {
        Ok(output) if output.status.success() => return Ok(()),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    Err(format!(
        "--fsync-ms needs strace 5.3 or later, with the right to trace processes: {reason}. Without --fsync-ms, the real disk is measured."
    ))
}

/// Starts a program in this process, with a tracer as another one.
fn launcher(fsync_ms: f64) -> Vec<String> {
    let trace = format!("trace={SYNCS},{FIRST_CALLS}");
    let delay = format!("inject={SYNCS}:delay_enter={:.0}", fsync_ms * 1e3);
    let words = [
        "strace",
        "--daemonize",
        "--follow-forks",
        "--seccomp-bpf",
        "--quiet=all",
        "--output=/dev/null",
        "-e",
        &trace,
        "-e",
        &delay,
    ];
    words.map(str::to_owned).to_vec()
}

/// A folder in memory that is removed at the end.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn create() -> Result<Self, String> {
        let folder = Path::new(MEMORY).join(format!("damselfly-compare-{}", std::process::id()));
        fs::create_dir(&folder)
            .map_err(|error| format!("can't create {}: {error}", folder.display()))?;
        Ok(Self(folder))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
