//! `daemonize yes`: the server goes on in a child process without a terminal, once that has started well.
//!
//! ```text
//!   parent ── fork ──► child: a session of its own, starts, leaves standard error, writes READY
//!      └─ waits ◄──────────── pipe ────────────────────────────────────────────────────┘
//!      └─ ends: with success if it was ready, else with an error, which the child has printed
//! ```

use std::fs::OpenOptions;
use std::io::{self, PipeWriter, Read, Write};
use std::process::ExitCode;

use fork::Fork;

/// What the child says when it serves.
const READY: &[u8] = b"ready";

/// The process that the server runs in.
pub enum Process {
    /// It waited for the child and must end now.
    Parent(ExitCode),
    /// It is in the background.
    Child(Child),
}

/// A process in the background.
pub struct Child {
    parent: PipeWriter,
}

/// Forks. To be called while the process has one thread.
///
/// # Errors
/// The operating system refuses.
pub fn fork() -> io::Result<Process> {
    let (mut child, parent) = io::pipe()?;
    match fork::fork()? {
        Fork::Parent(_) => {
            drop(parent);
            let mut said = Vec::new();
            let is_ready = child.read_to_end(&mut said).is_ok() && said == READY;
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
    /// Lets the parent end, with success.
    ///
    /// # Errors
    /// The operating system refuses.
    pub fn ready(mut self) -> io::Result<()> {
        rustix::stdio::dup2_stderr(OpenOptions::new().write(true).open("/dev/null")?)?;
        self.parent.write_all(READY)
    }
}
