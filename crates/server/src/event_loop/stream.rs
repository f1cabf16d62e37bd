//! [`Stream`], the one type for connected sockets.
//!
//! **What carries bytes** is known only here and in `listener.rs`. The rest of the server reads and writes a [`Stream`], registers it
//! for events, and asks it for the facts that clients see: addresses, origin, descriptor. A new kind of connection is one more
//! variant of [`Stream`].

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use socket2::{SockRef, TcpKeepalive};

use damselfly_config::Origin;

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadEnd {
    /// The socket has nothing more for now.
    Drained,
    /// There may be more.
    More,
    /// The client has closed its side.
    Closed,
}

impl Stream {
    /// Reads once into `buffer`, and returns how many bytes arrived.
    ///
    /// # Errors
    /// The connection is broken.
    #[inline]
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<(usize, ReadEnd)> {
        match self {
            Self::Tcp(stream) => read_once(stream, buffer),
            Self::Unix(stream) => read_once(stream, buffer),
        }
    }

    /// Appends up to `bytes_max` bytes to `bytes`, which has room for them.
    ///
    /// # Errors
    /// The connection is broken. Bytes that arrived before stay.
    pub fn append_to(&mut self, bytes: &mut Vec<u8>, bytes_max: usize) -> io::Result<ReadEnd> {
        match self {
            Self::Tcp(stream) => read_all(stream, bytes, bytes_max),
            Self::Unix(stream) => read_all(stream, bytes, bytes_max),
        }
    }

    /// Sends as many of the bytes as the socket takes, and returns how many these are.
    ///
    /// # Errors
    /// `WouldBlock` if the socket takes none for now; all others mean that the connection is broken.
    #[inline]
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    /// Registers for edge-triggered events.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self {
            Self::Tcp(stream) => registry.register(stream, token, interest),
            Self::Unix(stream) => registry.register(stream, token, interest),
        }
    }

    /// Removes the registration.
    pub fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => registry.deregister(stream),
            Self::Unix(stream) => registry.deregister(stream),
        }
    }

    /// The client's address and the server's, as CLIENT LIST shows them.
    pub fn addresses(&self, unix_path: &str) -> (String, String) {
        match self {
            Self::Tcp(stream) => {
                let show = |address: io::Result<SocketAddr>| {
                    address.map_or_else(|_| String::from("?:0"), |address| address.to_string())
                };
                (show(stream.peer_addr()), show(stream.local_addr()))
            }
            Self::Unix(_) => (format!("{unix_path}:0"), format!("{unix_path}:0")),
        }
    }

    /// Whether the client is on this machine.
    pub fn origin(&self) -> Origin {
        match self {
            Self::Unix(_) => Origin::Local,
            Self::Tcp(stream) => match stream.peer_addr() {
                Ok(address) if address.ip().to_canonical().is_loopback() => Origin::Local,
                Ok(_) | Err(_) => Origin::Remote,
            },
        }
    }

    /// The number of the file descriptor, for CLIENT LIST.
    pub fn fd(&self) -> i32 {
        use std::os::fd::AsRawFd;
        match self {
            Self::Tcp(stream) => stream.as_raw_fd(),
            Self::Unix(stream) => stream.as_raw_fd(),
        }
    }

    /// True for Unix sockets.
    pub fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    /// Sets the options of a new TCP connection: no delay, and keepalive probes that detect dead peers.
    pub fn prepare(&self, keepalive_s: u32) {
        let Self::Tcp(stream) = self else { return };
        // A failure is no reason to refuse the client.
        let _ = stream.set_nodelay(true);
        if keepalive_s > 0 {
            let third = Duration::from_secs(u64::from((keepalive_s / 3).max(1)));
            let probes = TcpKeepalive::new()
                .with_time(Duration::from_secs(u64::from(keepalive_s)))
                .with_interval(third)
                .with_retries(3);
            let _ = SockRef::from(stream).set_tcp_keepalive(&probes);
        }
    }
}

#[inline]
fn read_once(socket: &mut impl Read, buffer: &mut [u8]) -> io::Result<(usize, ReadEnd)> {
    loop {
        return match socket.read(buffer) {
            Ok(0) => Ok((0, ReadEnd::Closed)),
            // A read that does not fill the buffer has drained the socket.
            Ok(bytes) if bytes < buffer.len() => Ok((bytes, ReadEnd::Drained)),
            Ok(bytes) => Ok((bytes, ReadEnd::More)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok((0, ReadEnd::Drained)),
            Err(error) => Err(error),
        };
    }
}

fn read_all(socket: &mut impl Read, bytes: &mut Vec<u8>, bytes_max: usize) -> io::Result<ReadEnd> {
    match socket.take(bytes_max as u64).read_to_end(bytes) {
        Ok(read) if read < bytes_max => Ok(ReadEnd::Closed),
        Ok(_) => Ok(ReadEnd::More),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(ReadEnd::Drained),
        Err(error) => Err(error),
    }
}
