//! `daemonize yes`: the server runs in a child process without a terminal. The parent exits when the child is ready or has failed.
//!
//! ```text
//!   parent ── fork ──► child: creates a session, starts, redirects stderr to /dev/null, writes READY
//!      └─ waits ◄────────────────── pipe ──────────────────────────────────────────────────────────┘
//!      └─ exits: with success if it read READY, else with failure; the child has printed why
//! ```

use std::fs::OpenOptions;
use std::io::{self, PipeWriter, Read, Write};
use std::process::ExitCode;

use fork::Fork;

/// The message from the child that it serves clients.
const READY: &[u8] = b"ready";

/// The process that returns from [`fork`].
pub enum Process {
    /// The parent, which has waited for the child and must exit with this code now.
    Parent(ExitCode),
    /// The child in the background.
    Child(Child),
}

/// The child in the background.
pub struct Child {
    parent: PipeWriter,
}

/// Forks the process, which must have a single thread.
///
/// # Errors
/// If a system call fails.
pub fn fork() -> io::Result<Process> {
    let (mut child, parent) = io::pipe()?;
    match fork::fork()? {
        Fork::Parent(_) => {
            drop(parent);
            let mut written = Vec::new();
            let is_ready = child.read_to_end(&mut written).is_ok() && written == READY;
            Ok(Process::Parent(match is_ready {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            }))
        }
        Fork::Child => {
            drop(child);
            rustix::process::setsid()?;
            let null = OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/null")?;
            rustix::stdio::dup2_stdin(&null)?;
            rustix::stdio::dup2_stdout(&null)?;
            Ok(Process::Child(Child { parent }))
        }
    }
}

impl Child {
    /// Makes the parent exit with success.
    ///
    /// # Errors
    /// If a system call fails.
    pub fn ready(mut self) -> io::Result<()> {
        rustix::stdio::dup2_stderr(OpenOptions::new().write(true).open("/dev/null")?)?;
        self.parent.write_all(READY)
    }
}
