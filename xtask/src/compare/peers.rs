//! The servers that can be compared, and how each is started: one row each.

use crate::certificates::Certificates;
use damselfly_oracle::server::free_port;
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A protocol that the load generator speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Resp,
    Memcached,
}

impl Protocol {
    /// Its name in the options of the load generator.
    pub fn name(self) -> &'static str {
        match self {
            Self::Resp => "resp",
            Self::Memcached => "memcached",
        }
    }

    /// The baseline: figures of the other servers are divided by those of this server.
    pub fn base(self) -> &'static str {
        match self {
            Self::Resp => "redis",
            Self::Memcached => "memcached",
        }
    }
}

/// A kind of server.
#[derive(Debug)]
pub(super) struct Kind {
    /// The name in tables and in `--servers`.
    pub name: &'static str,
    /// The program's file name.
    pub program: &'static str,
    /// The protocols it speaks.
    pub protocols: &'static [Protocol],
    /// It has Redis's options for TLS.
    pub has_tls: bool,
    /// Its arguments, in which `{port}` and `{threads}` are replaced, and `{resp-port}` and `{memcached-port}` by the port if it is to
    /// speak that protocol, else by 0. Nothing is stored on disk.
    pub arguments: &'static [&'static str],
    /// Further arguments that make it a cache, if it can be one: `{limit-bytes}` or `{limit-mb}` is replaced by its limit, `{policy}` by
    /// the policy if it has one.
    pub cache: Option<&'static [&'static str]>,
}

/// Redis's options for a cache.
const MAXMEMORY: Option<&[&str]> = Some(&[
    "--maxmemory",
    "{limit-bytes}",
    "--maxmemory-policy",
    "{policy}",
]);

/// All kinds.
pub(super) const KINDS: &[Kind] = &[
    Kind {
        name: "damselfly",
        program: "damselfly",
        protocols: &[Protocol::Resp, Protocol::Memcached],
        has_tls: true,
        arguments: &[
            "--port",
            "{resp-port}",
            "--memcached-port",
            "{memcached-port}",
            "--threads",
            "{threads}",
            "--save",
            "",
        ],
        cache: MAXMEMORY,
    },
    Kind {
        name: "redis",
        program: "redis-server",
        protocols: &[Protocol::Resp],
        has_tls: true,
        arguments: &[
            "--port",
            "{port}",
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--daemonize",
            "no",
        ],
        cache: MAXMEMORY,
    },
    Kind {
        name: "valkey",
        program: "valkey-server",
        protocols: &[Protocol::Resp],
        has_tls: true,
        arguments: &[
            "--port",
            "{port}",
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--daemonize",
            "no",
        ],
        cache: MAXMEMORY,
    },
    Kind {
        name: "dragonfly",
        program: "dragonfly",
        protocols: &[Protocol::Resp],
        has_tls: false,
        arguments: &[
            "--port={port}",
            "--bind=127.0.0.1",
            "--proactor_threads={threads}",
            "--dbfilename=",
            "--maxmemory=16gb",
            "--version_check=false",
            "--logtostderr",
        ],
        cache: None,
    },
    Kind {
        name: "pogocache",
        program: "pogocache",
        protocols: &[Protocol::Resp, Protocol::Memcached],
        has_tls: false,
        arguments: &["-h", "127.0.0.1", "-p", "{port}", "-t", "{threads}"],
        cache: None,
    },
    Kind {
        name: "memcached",
        program: "memcached",
        protocols: &[Protocol::Memcached],
        has_tls: false,
        arguments: &[
            "-l",
            "127.0.0.1",
            "-p",
            "{port}",
            "-t",
            "{threads}",
            "-m",
            "16384",
            "-U",
            "0",
            "-u",
            "nobody",
        ],
        cache: Some(&["-m", "{limit-mb}"]),
    },
];

/// The kind with this name, or else the one whose program has this file name.
pub(super) fn kind_of(name: &str, program: &Path) -> Option<&'static Kind> {
    let by_name = KINDS.iter().find(|kind| kind.name == name);
    by_name.or_else(|| {
        KINDS
            .iter()
            .find(|kind| program.file_name().is_some_and(|file| file == kind.program))
    })
}

/// A server to compare.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub name: String,
    pub kind: &'static Kind,
    pub program: PathBuf,
    /// A program and its arguments that starts the server in its own process; empty if none is needed.
    pub launcher: Vec<String>,
}

/// A running server; dropping it stops the server.
#[derive(Debug)]
pub(super) struct Server {
    pub name: String,
    pub port: u16,
    /// The command that started it, as typed in a shell.
    pub command_line: String,
    /// The folder in which it runs.
    pub folder: PathBuf,
    process: Child,
}

/// A server that takes longer to accept its first connection has failed to start.
const START_MAX: Duration = Duration::from_secs(10);

/// Memory has settled if it has not fallen by 1/2000 for this long.
const SETTLED_AFTER: Duration = Duration::from_secs(4);
/// If memory falls for longer, the current value is taken.
const SETTLE_MAX: Duration = Duration::from_secs(25);

impl Server {
    /// Starts a server on a free port, pinned to `cores`, and returns when it accepts connections.
    ///
    /// It runs in `folder` and writes its output to a file there. `extra` are arguments besides those of its kind.
    pub fn start(
        peer: &Peer,
        protocol: Protocol,
        threads: usize,
        cores: &str,
        folder: &Path,
        extra: &[String],
        certificates: Option<&Certificates>,
    ) -> Result<Self, String> {
        let cannot =
            |what: &str, error: io::Error| format!("{}: cannot {what}: {error}", peer.name);
        fs::create_dir_all(folder).map_err(|error| cannot("create its folder", error))?;
        let log_path = folder.join(format!("{}.log", peer.name));
        let log = File::create(&log_path).map_err(|error| cannot("write its log", error))?;
        let log_too = log
            .try_clone()
            .map_err(|error| cannot("write its log", error))?;
        // Symbolic links are not resolved: `redis-server` is one, and its behaviour depends on the name in the command.
        let program = std::path::absolute(&peer.program)
            .map_err(|error| cannot("find its program", error))?;
        let port = free_port().map_err(|error| cannot("find a free port", error))?;
        let port_text = port.to_string();
        let port_for = |other: Protocol| if other == protocol { &port_text } else { "0" };
        let mut arguments: Vec<String> = peer
            .kind
            .arguments
            .iter()
            .map(|text| {
                text.replace("{port}", &port_text)
                    .replace("{resp-port}", port_for(Protocol::Resp))
                    .replace("{memcached-port}", port_for(Protocol::Memcached))
                    .replace("{threads}", &threads.to_string())
            })
            .chain(extra.iter().cloned())
            .collect();
        if let Some(certificates) = certificates {
            certificates.encrypt(&mut arguments);
        }
        let process = Command::new("taskset")
            .args(["-c", cores])
            .args(&peer.launcher)
            .arg(&program)
            .args(&arguments)
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(log_too)
            .spawn()
            .map_err(|error| cannot("start taskset", error))?;
        let shown: Vec<&str> = arguments
            .iter()
            .map(|text| if text.is_empty() { "''" } else { text })
            .collect();
        let command_line = format!(
            "taskset -c {cores} {} {}",
            peer.kind.program,
            shown.join(" ")
        );
        let mut server = Self {
            name: peer.name.clone(),
            port,
            command_line,
            folder: folder.to_owned(),
            process,
        };
        server
            .wait_until_ready()
            .map_err(|reason| format!("{}: {reason}; see {}", peer.name, log_path.display()))?;
        Ok(server)
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let start = Instant::now();
        while start.elapsed() < START_MAX {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                return Ok(());
            }
            if let Ok(Some(status)) = self.process.try_wait() {
                return Err(format!("ended with {status} instead of listening"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Err(format!("is not listening after {} s", START_MAX.as_secs()))
    }

    /// The process ID. taskset has replaced itself by the server.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Bytes of resident memory, once it has stopped falling: allocators return freed memory over some seconds
    /// (jemalloc over ten), and servers move tables in the background.
    pub fn settled_resident_bytes(&self) -> Result<u64, String> {
        let start = Instant::now();
        let mut bytes = self.resident_bytes()?;
        let (mut mark, mut marked_at) = (bytes, start);
        while marked_at.elapsed() < SETTLED_AFTER && start.elapsed() < SETTLE_MAX {
            std::thread::sleep(Duration::from_millis(100));
            bytes = self.resident_bytes()?;
            if bytes < mark - mark / 2000 {
                (mark, marked_at) = (bytes, Instant::now());
            }
        }
        Ok(bytes)
    }

    fn resident_bytes(&self) -> Result<u64, String> {
        let path = format!("/proc/{}/status", self.pid());
        let status =
            fs::read_to_string(&path).map_err(|error| format!("cannot read {path}: {error}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kilobytes
            .map(|kilobytes| kilobytes << 10)
            .ok_or_else(|| format!("{path} has no VmRSS"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only if the server has already exited.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_recognized_by_its_name_or_its_program() {
        let name = |name, path| kind_of(name, Path::new(path)).map(|kind| kind.name);
        assert_eq!(name("redis", "/opt/anything"), Some("redis"));
        assert_eq!(name("before", "/opt/old/damselfly"), Some("damselfly"));
        assert_eq!(name("before", "/opt/old/frob"), None);
    }
}
