//! [`Stream`], the one type for connected sockets.
//!
//! **What carries bytes** is known only here and in `listener.rs`. The rest of the server reads and writes a [`Stream`], registers it
//! for events, and asks it for the facts that clients see: addresses, origin, descriptor. A new kind of connection is one more
//! variant of [`Stream`].

use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

pub use damselfly_tls::ReadEnd;
use damselfly_tls::{BUFFER_BYTES_MIN, TlsStream, read_once};
use mio::net::{TcpStream, UnixStream};
use mio::{Interest, Registry, Token};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::{SockRef, TcpKeepalive};

use super::READ_BYTES;
use damselfly_config::Origin;

const _: () = assert!(READ_BYTES >= BUFFER_BYTES_MIN);

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS over TCP, after the handshake.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Reads once into `buffer`, which has [`READ_BYTES`] bytes, and returns how many bytes arrived.
    ///
    /// # Errors
    /// The connection is broken.
    #[inline]
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<(usize, ReadEnd)> {
        match self {
            Self::Tcp(stream) => read_once(&mut Plain(stream), buffer),
            Self::Unix(stream) => read_once(&mut Plain(stream), buffer),
            Self::Tls(stream) => read_tls(stream, buffer),
        }
    }

    /// Appends up to `bytes_max` bytes to `bytes`, which has room for them. `buffer` is as for [`Stream::read`], for bytes that have to be
    /// decrypted first.
    ///
    /// # Errors
    /// The connection is broken. Bytes that arrived before stay.
    pub fn append_to(
        &mut self,
        bytes: &mut Vec<u8>,
        bytes_max: usize,
        buffer: &mut [u8],
    ) -> io::Result<ReadEnd> {
        match self {
            Self::Tcp(stream) => read_all(stream, bytes, bytes_max),
            Self::Unix(stream) => read_all(stream, bytes, bytes_max),
            Self::Tls(stream) => {
                let (read, end) = read_tls(stream, buffer)?;
                bytes.extend_from_slice(&buffer[..read]);
                Ok(end)
            }
        }
    }

    /// Sends as many of the bytes as the socket takes, and returns how many these are. If they have to be encrypted, they are taken
    /// before they are sent; [`Stream::unsent`] counts them then. `scratch` is for encrypted bytes, and may be empty otherwise.
    ///
    /// # Errors
    /// `WouldBlock` if the socket takes none for now; all others mean that the connection is broken.
    #[inline]
    pub fn write(&mut self, bytes: &[u8], scratch: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => Plain(stream).write(bytes),
            Self::Unix(stream) => Plain(stream).write(bytes),
            Self::Tls(stream) => stream.write(bytes, scratch),
        }
    }

    /// Sends what was taken and could not be sent before.
    ///
    /// # Errors
    /// The connection is broken.
    #[inline]
    pub fn send_rest(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Ok(()),
            Self::Tls(stream) => stream.send_rest(),
        }
    }

    /// Bytes that were taken and could not be sent.
    #[inline]
    pub fn unsent(&self) -> usize {
        match self {
            Self::Tcp(_) | Self::Unix(_) => 0,
            Self::Tls(stream) => stream.unsent(),
        }
    }

    /// Drops these bytes, because the client is gone.
    pub fn drop_unsent(&mut self) {
        match self {
            Self::Tcp(_) | Self::Unix(_) => {}
            Self::Tls(stream) => stream.drop_unsent(),
        }
    }

    /// Lets the client know that nothing more is coming, where closing the socket does not say so.
    pub fn close(&mut self) {
        match self {
            Self::Tcp(_) | Self::Unix(_) => {}
            Self::Tls(stream) => stream.close(),
        }
    }

    /// True if [`Stream::write`] needs scratch of [`damselfly_tls::ENCRYPTED_BYTES_MAX`] bytes.
    pub fn needs_scratch(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// True if bytes may have arrived already, for which there will be no event.
    pub fn may_have_bytes(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Registers for edge-triggered events.
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self {
            Self::Tcp(stream) => registry.register(stream, token, interest),
            Self::Unix(stream) => registry.register(stream, token, interest),
            Self::Tls(stream) => registry.register(stream.socket_mut(), token, interest),
        }
    }

    /// Removes the registration.
    pub fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => registry.deregister(stream),
            Self::Unix(stream) => registry.deregister(stream),
            Self::Tls(stream) => registry.deregister(stream.socket_mut()),
        }
    }

    /// Its TCP socket, if it has one.
    fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Self::Tcp(stream) => Some(stream),
            Self::Unix(_) => None,
            Self::Tls(stream) => Some(stream.socket()),
        }
    }

    /// The client's address and the server's, as CLIENT LIST shows them.
    pub fn addresses(&self, unix_path: &str) -> (String, String) {
        match self.tcp() {
            Some(stream) => {
                let show = |address: io::Result<SocketAddr>| {
                    address.map_or_else(|_| String::from("?:0"), |address| address.to_string())
                };
                (show(stream.peer_addr()), show(stream.local_addr()))
            }
            None => (format!("{unix_path}:0"), format!("{unix_path}:0")),
        }
    }

    /// Whether the client is on this machine.
    pub fn origin(&self) -> Origin {
        match self.tcp() {
            None => Origin::Local,
            Some(stream) => match stream.peer_addr() {
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
            Self::Tls(stream) => stream.socket().as_raw_fd(),
        }
    }

    /// The version of TLS and the cipher, as `TLSv1.3|TLS_AES_256_GCM_SHA384`; empty without TLS.
    pub fn encryption(&self) -> String {
        match self {
            Self::Tcp(_) | Self::Unix(_) => String::new(),
            Self::Tls(stream) => stream.description(),
        }
    }

    /// The memory that it takes beside its socket, in bytes.
    pub fn memory(&self) -> usize {
        match self {
            Self::Tcp(_) | Self::Unix(_) => 0,
            Self::Tls(stream) => stream.memory(),
        }
    }

    /// True for Unix sockets.
    pub fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    /// Sends small packets at once, or lets them wait for more.
    pub fn set_nodelay(&self, is_set: bool) {
        if let Some(stream) = self.tcp() {
            let _ = stream.set_nodelay(is_set);
        }
    }

    /// Sets the options of a new TCP connection: no delay, and keepalive probes that detect dead peers.
    pub fn prepare(&self, keepalive_s: u32) {
        let Some(stream) = self.tcp() else { return };
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

/// A socket without TLS. The C library's `recv` and `send` are points where threads can be cancelled, and that takes more instructions
/// than the rest of them; these are the bare system calls.
struct Plain<'s, S>(&'s S);

impl<S: AsFd> Plain<'_, S> {
    #[inline]
    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(self.0, bytes, SendFlags::NOSIGNAL)?)
    }
}

impl<S: AsFd> Read for Plain<'_, S> {
    #[inline]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (bytes, _) = recv(self.0, buffer, RecvFlags::empty())?;
        Ok(bytes)
    }
}

/// Kept apart, so that the code for plain sockets stays small.
#[inline(never)]
fn read_tls(stream: &mut TlsStream<TcpStream>, buffer: &mut [u8]) -> io::Result<(usize, ReadEnd)> {
    stream.read(buffer)
}

fn read_all(socket: &mut impl Read, bytes: &mut Vec<u8>, bytes_max: usize) -> io::Result<ReadEnd> {
    match socket.take(bytes_max as u64).read_to_end(bytes) {
        Ok(read) if read < bytes_max => Ok(ReadEnd::Closed),
        Ok(_) => Ok(ReadEnd::More),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(ReadEnd::Drained),
        Err(error) => Err(error),
    }
}
