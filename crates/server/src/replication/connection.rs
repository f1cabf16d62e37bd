//! The connection of a replica to its primary: a socket that waits for a bounded time, with or without TLS, and what was read from it.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use damselfly_config::{Config, PrimaryAddress};
use damselfly_protocol::client::write_command;
use socket2::{Domain, Socket, Type};

/// How much is read at a time.
const READ_BYTES: usize = 256 << 10;

/// A buffer that has grown beyond this, for a long request, shrinks again.
const BUFFER_KEPT_BYTES: usize = 4 * READ_BYTES;

/// The longest line that a primary may send outside the stream.
const LINE_BYTES_MAX: usize = 4 << 10;

/// How long sending a command may take.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a wait looks whether it shall end.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Bytes to and from a primary.
enum Wire {
    Plain(TcpStream),
    Tls(Box<damselfly_tls::ClientStream<TcpStream>>),
}

/// A connection to a primary.
pub(super) struct Connection {
    wire: Wire,
    /// The socket, to set how long it waits.
    socket: TcpStream,
    /// Bytes that were read and not used: those from `start` to `end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// When bytes last arrived.
    pub(super) last_read: Instant,
    wait: Duration,
    /// Bytes that were read so far.
    pub(super) bytes_read: u64,
}

/// Connects, for at most `timeout`; gives up early if `ends` returns true.
///
/// # Errors
/// One line that says why.
pub(super) fn connect(
    primary: &PrimaryAddress,
    config: &Config,
    timeout: Duration,
    ends: &dyn Fn() -> bool,
) -> Result<Connection, String> {
    let addresses = (primary.host.as_str(), primary.port)
        .to_socket_addrs()
        .map_err(|error| format!("Unable to resolve {}: {error}", primary.host))?;
    let mut why = format!("{} has no address", primary.host);
    for address in addresses {
        match connect_to(address, timeout, ends) {
            Ok(socket) => {
                return Connection::new(socket, config, timeout)
                    .map_err(|error| format!("Unable to connect to MASTER: {error}"));
            }
            Err(error) => why = error.to_string(),
        }
    }
    Err(format!("Error condition on socket for SYNC: {why}"))
}

fn connect_to(
    address: std::net::SocketAddr,
    timeout: Duration,
    ends: &dyn Fn() -> bool,
) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    let started = Instant::now();
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error)
            if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) =>
        {
            wait_until_connected(&socket, started + timeout, ends)?;
        }
        Err(error) => return Err(error),
    }
    socket.set_nonblocking(false)?;
    Ok(socket.into())
}

fn wait_until_connected(
    socket: &Socket,
    until: Instant,
    ends: &dyn Fn() -> bool,
) -> io::Result<()> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    loop {
        let mut fds = [PollFd::new(socket, PollFlags::OUT)];
        let wait = Timespec::try_from(LOOK_INTERVAL).ok();
        match poll(&mut fds, wait.as_ref()) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return socket.take_error()?.map_or(Ok(()), Err),
            Err(error) => return Err(error.into()),
        }
        if ends() || Instant::now() >= until {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

impl Connection {
    fn new(socket: TcpStream, config: &Config, timeout: Duration) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
        socket.set_read_timeout(Some(timeout))?;
        if config.tcp_keepalive_s > 0 {
            let time = Duration::from_secs(u64::from(config.tcp_keepalive_s));
            let probes = socket2::TcpKeepalive::new().with_time(time);
            let _ = socket2::SockRef::from(&socket).set_tcp_keepalive(&probes);
        }
        let own = socket.try_clone()?;
        let wire = match config.tls_replication {
            false => Wire::Plain(socket),
            true => {
                let connector = damselfly_tls::Connector::load(config).map_err(io::Error::other)?;
                Wire::Tls(Box::new(connector.connect(socket)?))
            }
        };
        Ok(Self {
            wire,
            socket: own,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            last_read: Instant::now(),
            wait: timeout,
            bytes_read: 0,
        })
    }

    /// The socket, so that another thread can shut it down.
    pub(super) fn socket(&self) -> io::Result<TcpStream> {
        self.socket.try_clone()
    }

    /// The addresses of the primary and of this end, and the descriptor, for CLIENT LIST.
    pub(super) fn facts(&self) -> (String, String, i32) {
        use std::os::fd::AsRawFd;
        let shown = |address: io::Result<std::net::SocketAddr>| {
            address.map_or_else(|_| String::from("?:0"), |address| address.to_string())
        };
        let (peer, own) = (self.socket.peer_addr(), self.socket.local_addr());
        (shown(peer), shown(own), self.socket.as_raw_fd())
    }

    /// Sends a command.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) fn send(&mut self, words: &[&[u8]]) -> io::Result<()> {
        let mut bytes = Vec::new();
        write_command(&mut bytes, words);
        self.send_raw(&bytes)
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.wire {
            Wire::Plain(socket) => socket.write_all(bytes),
            Wire::Tls(stream) => {
                stream.write_all(bytes)?;
                stream.flush()
            }
        }
    }

    /// Sets how long the next reads wait at most.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) fn set_wait(&mut self, wait: Duration) -> io::Result<()> {
        let wait = wait.max(Duration::from_millis(1));
        if wait != self.wait {
            self.socket.set_read_timeout(Some(wait))?;
            self.wait = wait;
        }
        Ok(())
    }

    /// Reads once. Zero if nothing arrives in time.
    ///
    /// # Errors
    /// The connection is closed or broken.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = loop {
            let read = match &mut self.wire {
                Wire::Plain(socket) => socket.read(buffer),
                Wire::Tls(stream) => stream.read(buffer),
            };
            match read {
                // A process that was stopped continues. That is no timeout.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        match read {
            Ok(0) => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "Connection with master lost.",
            )),
            Ok(bytes) => {
                self.last_read = Instant::now();
                self.bytes_read += bytes as u64;
                Ok(bytes)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Ok(0),
                _ => Err(error),
            },
        }
    }

    /// Bytes that were read and not used.
    pub(super) fn unused(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.end]
    }

    /// Drops the first of these bytes.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            self.buffer.truncate(BUFFER_KEPT_BYTES);
            self.buffer.shrink_to(BUFFER_KEPT_BYTES);
        }
    }

    /// Reads once into the buffer, and returns how many bytes arrived in time.
    ///
    /// # Errors
    /// The connection is closed or broken.
    pub(super) fn fill(&mut self) -> io::Result<usize> {
        if self.buffer.len() - self.end < READ_BYTES && self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if self.buffer.len() - self.end < READ_BYTES {
            let len = (self.end + READ_BYTES).max(2 * self.end);
            self.buffer.resize(len, 0);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = self.read(&mut buffer[self.end..]);
        self.buffer = buffer;
        self.end += read.as_ref().map_or(0, |&bytes| bytes);
        read
    }

    /// Takes the next line, without its end; waits for it until nothing has arrived for `timeout`.
    ///
    /// # Errors
    /// The connection is closed or broken, or the line does not arrive or is too long.
    pub(super) fn line(&mut self, timeout: Duration) -> io::Result<String> {
        self.set_wait(timeout)?;
        loop {
            let unused = self.unused();
            if let Some(end) = unused.iter().position(|&byte| byte == b'\n') {
                let line = unused[..end].strip_suffix(b"\r").unwrap_or(&unused[..end]);
                let line = String::from_utf8_lossy(line).into_owned();
                self.consume(end + 1);
                return Ok(line);
            }
            if unused.len() > LINE_BYTES_MAX {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "a line of the primary is too long",
                ));
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }

    /// Takes bytes that were read already, or reads once.
    ///
    /// # Errors
    /// The connection is closed or broken.
    pub(super) fn take(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let unused = self.unused();
        if unused.is_empty() {
            return self.read(out);
        }
        let bytes = unused.len().min(out.len());
        out[..bytes].copy_from_slice(&unused[..bytes]);
        self.consume(bytes);
        Ok(bytes)
    }
}
