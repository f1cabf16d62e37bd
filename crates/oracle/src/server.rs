//! Starts a server program on a free port, with its log captured, and stops it when dropped.

use crate::connection::Connection;
use crate::random::Random;
use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::BuildHasher;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a server may take from its start to its first reply.
const START_TIMEOUT: Duration = Duration::from_secs(15);
/// The interval for polling a state that cannot be awaited (a starting or exiting process).
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// How often to try a start: another process may take the free port first.
const START_TRIES: u32 = 5;

/// A server program, and how to start it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    path: PathBuf,
    kind: Kind,
}

/// Whose program it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `redis-server`, the reference.
    Redis,
    /// Ours.
    Damselfly,
}

impl Program {
    /// The program at `path`; a file name with `redis` in it means [`Kind::Redis`].
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let kind = if name.contains("redis") {
            Kind::Redis
        } else {
            Kind::Damselfly
        };
        Self { path, kind }
    }

    /// The `redis-server` of this machine.
    #[must_use]
    pub fn reference() -> Self {
        Self::new("redis-server")
    }

    /// The program under test: `$DAMSELFLY_BIN`, or `damselfly` in the folder of this executable or its parent.
    ///
    /// # Panics
    /// If there is none; the message says how to build it.
    #[must_use]
    pub fn subject() -> Self {
        if let Some(path) = std::env::var_os("DAMSELFLY_BIN") {
            return Self::new(path);
        }
        // Tests run from target/debug/deps/, the oracle itself from target/debug/.
        let own = std::env::current_exe().expect("a running program has a path");
        let found = own
            .ancestors()
            .skip(1)
            .take(2)
            .map(|folder| folder.join("damselfly"))
            .find(|path| path.is_file());
        Self::new(found.expect(
            "no server to test: run `cargo build -p damselfly`, or set DAMSELFLY_BIN to a program",
        ))
    }

    /// Whose program it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Where the program is, or its name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that runs the program with only `arguments`, in `folder`.
    #[must_use]
    pub fn command(&self, folder: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.current_dir(folder).stdin(Stdio::null());
        if self.kind == Kind::Redis {
            command.args(["--save", "", "--daemonize", "no"]);
        }
        command.args(arguments);
        command
    }
}

/// A folder of its own under the system's temporary folder, removed when dropped.
pub struct ScratchFolder(PathBuf);

impl ScratchFolder {
    /// Creates the folder.
    ///
    /// # Errors
    /// The temporary folder cannot be written.
    pub fn create() -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("damselfly-oracle-{}-{number}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        // A leftover folder in the temporary folder does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running server.
pub struct Server {
    child: Child,
    address: SocketAddr,
    folder: ScratchFolder,
    kind: Kind,
}

impl Server {
    /// Starts `program` with `--port` and `arguments` and waits until it answers QUIT.
    ///
    /// Damselfly's thread count is an argument like any other (`--threads N`).
    ///
    /// # Errors
    /// The program cannot be run, exits at once, or does not answer in time; the text contains its log.
    pub fn start(program: &Program, arguments: &[&str]) -> io::Result<Self> {
        let mut last = io::Error::other("no attempt was made");
        for _ in 0..START_TRIES {
            match Self::try_start(program, arguments) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
                outcome => return outcome,
            }
        }
        Err(last)
    }

    /// Starts the server under test, with this many threads and shards if it is Damselfly.
    ///
    /// # Panics
    /// If [`Server::start`] fails.
    #[must_use]
    pub fn subject(threads: &str, shards: &str) -> Self {
        let program = Program::subject();
        let arguments: &[&str] = match program.kind() {
            Kind::Redis => &[],
            Kind::Damselfly => &["--threads", threads, "--shards", shards],
        };
        Self::start(&program, arguments).unwrap_or_else(|error| panic!("{error}"))
    }

    fn try_start(program: &Program, arguments: &[&str]) -> io::Result<Self> {
        let folder = ScratchFolder::create()?;
        let port = free_port()?;
        let port_text = port.to_string();
        let mut all = vec!["--port", &port_text];
        all.extend_from_slice(arguments);
        let log = File::create(folder.path().join("log"))?;
        let child = program
            .command(folder.path(), &all)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|error| {
                io::Error::new(
                    error.kind(),
                    format!("cannot run {}: {error}", program.path.display()),
                )
            })?;
        let mut server = Self {
            child,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            folder,
            kind: program.kind,
        };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&mut self) -> io::Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                let log = self.log();
                let kind = if log.contains("in use") {
                    io::ErrorKind::AddrInUse
                } else {
                    io::ErrorKind::Other
                };
                return Err(io::Error::new(
                    kind,
                    format!("the server exited at its start ({status}); its log:\n{log}"),
                ));
            }
            // The server closes the connection of the probe, so it has forgotten it when the tests begin to count clients.
            let probe = Connection::open(self.address).and_then(|mut probe| {
                probe.call(&["QUIT"])?;
                Ok(probe.closed_by_server())
            });
            if probe.is_ok_and(|is_closed| is_closed) {
                return Ok(());
            }
            if start.elapsed() > START_TIMEOUT {
                return Err(io::Error::other(format!(
                    "no reply to QUIT in {START_TIMEOUT:?}; the log:\n{}",
                    self.log()
                )));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// True for the reference.
    #[must_use]
    pub fn is_redis(&self) -> bool {
        self.kind == Kind::Redis
    }

    /// The address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A new connection to it.
    ///
    /// # Panics
    /// If it does not accept; a test cannot continue then.
    #[must_use]
    pub fn connect(&self) -> Connection {
        match Connection::open(self.address) {
            Ok(connection) => connection,
            Err(error) => panic!(
                "cannot connect to the server ({error}); its log:\n{}",
                self.log()
            ),
        }
    }

    /// Everything it has written to its standard output and error.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.folder.path().join("log"))
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The folder in which it runs. It is removed with the server.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The process's identifier.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The resident memory of the process in bytes, as the kernel reports it.
    ///
    /// # Panics
    /// If the process is gone.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.id())).expect("the server runs");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("a running process has VmRSS");
        let kibibytes: u64 = line
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .expect("VmRSS is a number of kB");
        kibibytes * 1024
    }

    /// Sends SIGTERM and waits until the process exits; `None` if it still runs after `limit`.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn terminate(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let id = i32::try_from(self.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(
            id.expect("a process id is positive"),
            rustix::process::Signal::TERM,
        )?;
        self.wait(limit)
    }

    /// Waits until the process exits; `None` if it still runs after `limit`.
    ///
    /// # Errors
    /// The state of the process cannot be read.
    pub fn wait(&mut self, limit: Duration) -> io::Result<Option<ExitStatus>> {
        wait_for_end(&mut self.child, limit)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only if it has exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until `child` exits; `None` if it still runs after `limit`.
///
/// # Errors
/// The state of the process cannot be read.
pub fn wait_for_end(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > limit {
            return Ok(None);
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// A port that was free a moment ago, for a program that can't choose one itself. It is none of those that systems give to outgoing
/// connections: one of those could have it by the time the program listens.
///
/// # Errors
/// No port is free.
pub fn free_port() -> io::Result<u16> {
    const PORTS: std::ops::Range<u16> = 10_000..32_000;
    const TRIES: usize = 100;
    let mut random = Random::new(RandomState::new().hash_one(()));
    let mut refusal = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..TRIES {
        let port = PORTS.start + random.below(PORTS.len()) as u16;
        match TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)) {
            Ok(_) => return Ok(port),
            Err(error) => refusal = error,
        }
    }
    Err(refusal)
}
