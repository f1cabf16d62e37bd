//! A blocking client connection with a deadline on every reply.

use damselfly_protocol::client::{Decoder, Value, write_command};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a reply may take before the server counts as stuck.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(20);

/// The most bytes that one read asks for.
const READ_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A connection to a server that speaks RESP.
pub struct Connection {
    stream: TcpStream,
    decoder: Decoder,
    received: Vec<u8>,
    consumed: usize,
}

/// Encodes a command as a request.
#[must_use]
pub fn request<A: AsRef<[u8]>>(arguments: &[A]) -> Vec<u8> {
    let arguments: Vec<&[u8]> = arguments.iter().map(AsRef::as_ref).collect();
    let mut bytes = Vec::new();
    write_command(&mut bytes, &arguments);
    bytes
}

impl Connection {
    /// Connects to `address`.
    ///
    /// # Errors
    /// The system's error if the connection fails.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        stream.set_write_timeout(Some(REPLY_TIMEOUT))?;
        Ok(Self {
            stream,
            decoder: Decoder::default(),
            received: Vec::new(),
            consumed: 0,
        })
    }

    /// The socket itself, for tests that misbehave on purpose.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The server has closed the connection, or has not read for [`REPLY_TIMEOUT`].
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads the next reply.
    ///
    /// # Errors
    /// `UnexpectedEof` if the server closed the connection, `TimedOut` or `WouldBlock` if it sent
    /// nothing, `InvalidData` if it sent an invalid reply.
    pub fn receive(&mut self) -> io::Result<Value> {
        // The size of reads doubles, so that a large reply takes few of them.
        let mut read_bytes = 16 * 1024;
        loop {
            let decoded = self.decoder.decode(&self.received[self.consumed..]);
            match decoded.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))? {
                Some((value, used)) => {
                    self.consumed += used;
                    return Ok(value);
                }
                None => self.fill(read_bytes)?,
            }
            read_bytes = (read_bytes * 2).min(READ_BYTES_MAX);
        }
    }

    /// Sends one command and reads its reply.
    ///
    /// # Errors
    /// Those of [`Connection::send`] and [`Connection::receive`].
    pub fn call<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> io::Result<Value> {
        self.send(&request(arguments))?;
        self.receive()
    }

    /// Waits up to [`REPLY_TIMEOUT`] for the server to close this connection; returns true if it did.
    ///
    /// Discards whatever the server sends before.
    #[must_use]
    pub fn closed_by_server(&mut self) -> bool {
        let mut sink = [0; 4096];
        loop {
            match self.stream.read(&mut sink) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == ErrorKind::ConnectionReset,
            }
        }
    }

    /// Reads at least one and at most about `wanted` bytes more.
    fn fill(&mut self, wanted: usize) -> io::Result<()> {
        self.received.drain(..self.consumed);
        self.consumed = 0;
        let before = self.received.len();
        self.received.resize(before + wanted, 0);
        let outcome = loop {
            match self.stream.read(&mut self.received[before..]) {
                Ok(0) => break Err(io::Error::from(ErrorKind::UnexpectedEof)),
                Ok(count) => break Ok(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.received
            .truncate(before + outcome.as_ref().copied().unwrap_or(0));
        outcome.map(drop)
    }
}
