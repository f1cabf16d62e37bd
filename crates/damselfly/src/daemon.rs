//! `daemonize yes`: the server runs in a child process without a terminal. The parent waits until it is ready.
//!
//! ```text
//!   parent ── fork ──► child: new session, starts the server, closes standard error, writes READY
//!      └─ waits ◄──────────── pipe ───────────────────────────────────────────────────────┘
//!      └─ exits: with success if the child was ready, otherwise with an error, which the child has printed
//! ```

use std::fs::OpenOptions;
use std::io::{self, PipeWriter, Read, Write};
use std::process::ExitCode;

use fork::Fork;

/// What the child writes when it serves clients.
const READY: &[u8] = b"ready";

/// The process in which `fork` returns.
pub enum Process {
    /// The parent, which has waited for the child and must exit now.
    Parent(ExitCode),
    /// The child, which runs in the background.
    Child(Child),
}

/// The child process.
pub struct Child {
    parent: PipeWriter,
}

/// Forks. Call this while the process has only one thread.
///
/// # Errors
/// The operating system refuses.
pub fn fork() -> io::Result<Process> {
    let (mut child, parent) = io::pipe()?;
    match fork::fork()? {
        Fork::Parent(_) => {
            drop(parent);
            let mut message = Vec::new();
            let is_ready = child.read_to_end(&mut message).is_ok() && message == READY;
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
    /// The operating system refuses.
    pub fn ready(mut self) -> io::Result<()> {
        rustix::stdio::dup2_stderr(OpenOptions::new().write(true).open("/dev/null")?)?;
        self.parent.write_all(READY)
    }
}
