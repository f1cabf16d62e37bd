//! Links to other servers, and a cache of those that were used recently.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use damselfly_commands::Migration;

use crate::shared::Shared;

/// How many unused links are kept, as in Redis.
const LINKS_MAX: usize = 64;

/// How long an unused link is kept, as in Redis.
pub const KEPT_FOR: Duration = Duration::from_secs(10);

/// A longer reply is not one to RESTORE.
const REPLY_BYTES_MAX: usize = 1 << 16;

/// While a link waits, it checks this often whether the server stops.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// Why a link failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// It could not be made.
    Connect,
    /// The target refused it.
    Refused,
    /// It broke while requests were sent.
    Write,
    /// It broke while a reply was expected, or what came was not a reply.
    Read,
    /// The target took no more requests for too long.
    WriteTimeout,
    /// The target did not reply for too long.
    ReadTimeout,
}

impl LinkError {
    /// The error of MIGRATE, as in Redis.
    pub fn text(self) -> &'static str {
        match self {
            Self::Connect => "IOERR error or timeout connecting to the client",
            // Redis notices a refusal only when it writes.
            Self::Refused | Self::Write | Self::WriteTimeout => {
                "IOERR error or timeout writing to target instance"
            }
            Self::Read | Self::ReadTimeout => "IOERR error or timeout reading to target instance",
        }
    }

    /// True if the target closed the link.
    pub fn is_broken(self) -> bool {
        match self {
            Self::Write | Self::Read => true,
            Self::Connect | Self::Refused | Self::WriteTimeout | Self::ReadTimeout => false,
        }
    }
}

/// A connection to another server.
#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    /// The database that is selected there, if known.
    selected: Option<i64>,
    /// What arrived and was not read as a reply yet.
    input: Vec<u8>,
    timeout: Duration,
    has_replied: bool,
    used: Instant,
}

impl Link {
    /// Connects to the target of a migration.
    ///
    /// # Errors
    /// There is no such host, or it refuses or does not respond in time.
    pub fn connect(shared: &Shared, migration: &Migration) -> Result<Self, LinkError> {
        let host = std::str::from_utf8(migration.host()).map_err(|_| LinkError::Connect)?;
        let port = std::str::from_utf8(migration.port()).ok();
        // As in Redis, a port that is no number is port 0, which refuses.
        let port: u16 = port.and_then(|port| port.parse().ok()).unwrap_or(0);
        let addresses = (host, port).to_socket_addrs();
        let mut failure = LinkError::Connect;
        for address in addresses.map_err(|_| LinkError::Connect)? {
            if shared.stopping.load(Relaxed) {
                break;
            }
            match TcpStream::connect_timeout(&address, migration.timeout()) {
                Ok(stream) => return Ok(Self::new(stream, migration.timeout())),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    failure = LinkError::Refused;
                }
                Err(_) => {}
            }
        }
        Err(failure)
    }

    fn new(stream: TcpStream, timeout: Duration) -> Self {
        // Only time would be lost.
        let _ = stream.set_nodelay(true);
        Self {
            stream,
            selected: None,
            input: Vec::new(),
            timeout,
            has_replied: false,
            used: Instant::now(),
        }
    }

    /// Begins a migration: the target may stay silent for `timeout`.
    pub fn begin(&mut self, timeout: Duration) {
        self.timeout = timeout;
        self.has_replied = false;
    }

    /// The selected database, if known.
    pub fn selected(&self) -> Option<i64> {
        self.selected
    }

    /// Notes the selected database.
    pub fn select(&mut self, db: Option<i64>) {
        self.selected = db;
    }

    /// True if the target has replied since [`Link::begin`].
    pub fn has_replied(&self) -> bool {
        self.has_replied
    }

    /// Sends requests.
    ///
    /// # Errors
    /// The link broke, the target takes nothing for too long, or the server stops.
    pub fn write(&mut self, shared: &Shared, mut bytes: &[u8]) -> Result<(), LinkError> {
        let timeout = self.timeout.min(CHECK_INTERVAL);
        let set = self.stream.set_write_timeout(Some(timeout));
        set.map_err(|_| LinkError::Write)?;
        let mut since = Instant::now();
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(0) => return Err(LinkError::Write),
                Ok(count) => {
                    bytes = &bytes[count..];
                    since = Instant::now();
                }
                Err(error) if !may_retry(&error) => return Err(LinkError::Write),
                Err(_) if self.must_end(shared, since) => return Err(LinkError::WriteTimeout),
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// Reads a reply: `OK`, or the text of an error.
    ///
    /// # Errors
    /// The link broke, the target sends nothing for too long or no reply, or the server stops.
    pub fn read_reply(&mut self, shared: &Shared) -> Result<Result<(), Vec<u8>>, LinkError> {
        let timeout = self.timeout.min(CHECK_INTERVAL);
        let set = self.stream.set_read_timeout(Some(timeout));
        set.map_err(|_| LinkError::Read)?;
        let (mut since, mut buffer) = (Instant::now(), [0; 4096]);
        let end = loop {
            if let Some(end) = self.input.iter().position(|&byte| byte == b'\n') {
                break end;
            }
            if self.input.len() > REPLY_BYTES_MAX {
                return Err(LinkError::Read);
            }
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(LinkError::Read),
                Ok(count) => {
                    self.input.extend_from_slice(&buffer[..count]);
                    since = Instant::now();
                }
                Err(error) if !may_retry(&error) => return Err(LinkError::Read),
                Err(_) if self.must_end(shared, since) => return Err(LinkError::ReadTimeout),
                Err(_) => {}
            }
        };
        let line: Vec<u8> = self.input.drain(..=end).collect();
        self.has_replied = true;
        match line.trim_ascii_end() {
            [b'+', ..] => Ok(Ok(())),
            [b'-', error @ ..] => Ok(Err(error.to_vec())),
            _ => Err(LinkError::Read),
        }
    }

    /// True if the link must not be waited for any longer.
    fn must_end(&self, shared: &Shared, since: Instant) -> bool {
        since.elapsed() >= self.timeout || shared.stopping.load(Relaxed)
    }
}

/// True for the end of a short wait, and for a signal.
fn may_retry(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

/// Unused links, by `host:port`.
#[derive(Debug, Default)]
pub struct Links(Mutex<HashMap<Vec<u8>, Link>>);

impl Links {
    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Link>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a link to a target out.
    pub fn take(&self, target: &[u8]) -> Option<Link> {
        self.lock().remove(target)
    }

    /// Keeps a link, all of whose replies were read, for later migrations.
    pub fn keep(&self, target: Vec<u8>, mut link: Link) {
        // Bytes that no request asked for would be taken for replies.
        if !link.input.is_empty() {
            return;
        }
        link.used = Instant::now();
        let mut links = self.lock();
        if links.len() >= LINKS_MAX && !links.contains_key(&target) {
            let oldest = links.iter().min_by_key(|(_, link)| link.used);
            if let Some(oldest) = oldest.map(|(target, _)| target.clone()) {
                links.remove(&oldest);
            }
        }
        links.insert(target, link);
    }

    /// Closes links that were not used for long.
    pub fn close_old(&self) {
        self.lock().retain(|_, link| link.used.elapsed() < KEPT_FOR);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }
}
