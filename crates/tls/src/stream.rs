//! One TLS connection over a socket that does not block.
//!
//! ```text
//!            read once              decrypt            plain bytes to the front
//!   socket ────────────► buffer of the caller ──► rustls ──────────────────────► the same buffer
//!                            ▲      └─ incomplete record ─► incoming
//!                            └───────── next read ─────────────┘
//!            write                  encrypt
//!   socket ◄──────────── scratch of the caller ◄── rustls ◄── plain bytes of the caller
//!     ▲                      └─ what the socket does not take ─► outgoing
//!     └──────────────────────────── send_rest ──────────────────────┘
//! ```
//!
//! So a connection has no buffers of its own but for an incomplete record and for encrypted bytes that the socket has not taken.
//!
//! rustls remembers where parts of an incomplete handshake message are in the bytes that it was given. So it always gets the
//! incomplete bytes again, also when there is only something to send: with fewer bytes, it would panic.

use std::io::{self, Read, Write};
use std::sync::Arc;

use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus};
use rustls::{Error, ProtocolVersion, ServerConfig};

/// The most plain bytes in a record.
const RECORD_BYTES_MAX: usize = 16 << 10;

/// The most bytes of an incomplete message that are kept. No record and no sane handshake message is larger.
const INCOMING_BYTES_MAX: usize = 32 << 10;

/// The smallest buffer for [`TlsStream::read`]: room for plain bytes in front, for an incomplete message, and for a record.
pub const BUFFER_BYTES_MIN: usize = 64 << 10;
const _: () = assert!(BUFFER_BYTES_MIN - RECORD_BYTES_MAX - INCOMING_BYTES_MAX >= RECORD_BYTES_MAX);

/// The most plain bytes that are encrypted at a time.
const PLAIN_BYTES_MAX: usize = 4 * RECORD_BYTES_MAX;

/// The smallest scratch for [`TlsStream::write`]. Records are a little longer than what they hold, and key updates may go first.
pub const ENCRYPTED_BYTES_MAX: usize = PLAIN_BYTES_MAX + (4 << 10);

/// The memory that rustls allocates for a connection after its handshake, in bytes, measured for TLS 1.3.
const SESSION_BYTES: usize = 2 << 10;

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

/// A connection over a socket.
pub struct TlsStream<S> {
    socket: S,
    session: UnbufferedServerConnection,
    /// Bytes from the socket that are not a complete record or handshake message yet.
    incoming: Vec<u8>,
    /// Plain bytes that arrived together with the end of the handshake.
    early: Vec<u8>,
    /// Encrypted bytes, of which the socket has taken the first `sent`.
    outgoing: Vec<u8>,
    sent: usize,
    /// The client has closed its side properly.
    is_peer_closed: bool,
    /// Why nothing more can be read or written.
    failure: Option<Failure>,
}

/// A connection that has failed.
struct Failure {
    text: String,
    kind: io::ErrorKind,
}

impl Failure {
    fn error(&self) -> io::Error {
        io::Error::new(self.kind, self.text.clone())
    }
}

impl<S> std::fmt::Debug for TlsStream<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsStream").finish_non_exhaustive()
    }
}

impl<S: Read + Write> TlsStream<S> {
    pub(crate) fn new(socket: S, config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self {
            socket,
            session: UnbufferedServerConnection::new(config)?,
            incoming: Vec::new(),
            early: Vec::new(),
            outgoing: Vec::new(),
            sent: 0,
            is_peer_closed: false,
            failure: None,
        })
    }

    /// The socket.
    pub fn socket(&self) -> &S {
        &self.socket
    }

    /// The socket. Reading and writing it directly breaks the connection.
    pub fn socket_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    /// Continues the handshake with what the socket has; true if it is complete. `buffer` is as for [`TlsStream::read`].
    ///
    /// # Errors
    /// The handshake has failed. The client was sent the reason, if there is a way to tell it.
    pub fn handshake(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        while self.session.is_handshaking() {
            let (bytes, end) = self.read(buffer)?;
            self.early.extend_from_slice(&buffer[..bytes]);
            self.send_rest()?;
            match end {
                ReadEnd::More => {}
                ReadEnd::Drained => return Ok(!self.session.is_handshaking()),
                ReadEnd::Closed if self.session.is_handshaking() => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                ReadEnd::Closed => break,
            }
        }
        Ok(true)
    }

    /// Reads once from the socket, and puts the plain bytes that arrived to the front of `buffer`. Returns how many these are.
    ///
    /// The buffer must have at least [`BUFFER_BYTES_MIN`] bytes.
    ///
    /// # Errors
    /// The connection is broken. Bytes that arrived before were returned.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<(usize, ReadEnd)> {
        if !self.early.is_empty() && !self.session.is_handshaking() {
            let early = std::mem::take(&mut self.early);
            buffer[..early.len()].copy_from_slice(&early);
            return Ok((early.len(), ReadEnd::More));
        }
        if let Some(failure) = &self.failure {
            return Err(failure.error());
        }
        if self.is_peer_closed {
            return Ok((0, ReadEnd::Closed));
        }
        // Records are decrypted behind the place for the plain bytes: these are fewer than the records that they come from.
        let start = RECORD_BYTES_MAX;
        let kept = start + self.incoming.len();
        buffer[start..kept].copy_from_slice(&self.incoming);
        let (bytes, end) = read_once(&mut self.socket, &mut buffer[kept..])?;
        if bytes == 0 {
            return Ok((0, end));
        }
        let filled = kept + bytes;
        let (plain, used) = self.decrypt(&mut buffer[..filled], start);
        self.incoming.clear();
        self.incoming.extend_from_slice(&buffer[used..filled]);
        if self.incoming.is_empty() {
            self.incoming = Vec::new();
        } else if self.incoming.len() > INCOMING_BYTES_MAX {
            self.fail(
                io::ErrorKind::InvalidData,
                "a handshake message is too long",
            );
        }
        let end = match (&self.failure, self.is_peer_closed) {
            (Some(failure), _) if plain == 0 => {
                let error = failure.error();
                let _ = self.send_rest();
                return Err(error);
            }
            // The next read reports the failure.
            (Some(_), _) => ReadEnd::More,
            (None, true) => ReadEnd::Closed,
            (None, false) => end,
        };
        Ok((plain, end))
    }

    /// Decrypts what is complete in `buffer` from `start` on, and puts the plain bytes to its front. Returns how many these are, and
    /// where the incomplete rest begins.
    fn decrypt(&mut self, buffer: &mut [u8], mut start: usize) -> (usize, usize) {
        let mut plain = 0;
        let mut fits = true;
        loop {
            let (front, rest) = buffer.split_at_mut(start);
            let UnbufferedStatus { mut discard, state } = self.session.process_tls_records(rest);
            let ends = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        let payload = record.payload;
                        match front.get_mut(plain..plain + payload.len()) {
                            Some(place) => place.copy_from_slice(payload),
                            None => {
                                fits = false;
                                break;
                            }
                        }
                        plain += payload.len();
                        discard += record.discard;
                    }
                    false
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, &mut self.outgoing);
                    false
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    // It is in `outgoing`, which is sent before anything else.
                    data.done();
                    false
                }
                Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                    self.is_peer_closed = true;
                    true
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_)) => true,
                Ok(_) => {
                    self.fail(io::ErrorKind::InvalidData, "unexpected early data");
                    true
                }
                Err(error) => {
                    self.fail(io::ErrorKind::InvalidData, &error.to_string());
                    self.take_alert(&mut buffer[start..]);
                    return (plain, buffer.len());
                }
            };
            if !fits {
                // Impossible, because a record never has more plain bytes than bytes. Requests must not be lost.
                self.fail(io::ErrorKind::InvalidData, "a record is too long");
                return (plain, buffer.len());
            }
            start += discard;
            if ends {
                let used = if self.is_peer_closed {
                    buffer.len()
                } else {
                    start
                };
                return (plain, used);
            }
        }
    }

    /// Takes the alert that says why the connection has failed, if there is one.
    fn take_alert(&mut self, incoming: &mut [u8]) {
        while self.session.wants_write() {
            let status = self.session.process_tls_records(incoming);
            let Ok(ConnectionState::EncodeTlsData(mut data)) = status.state else {
                return;
            };
            encode(&mut data, &mut self.outgoing);
        }
    }

    fn fail(&mut self, kind: io::ErrorKind, text: &str) {
        self.failure = Some(Failure {
            text: text.to_owned(),
            kind,
        });
    }

    /// Encrypts bytes, and sends as many of the encrypted bytes as the socket takes. Returns how many plain bytes were encrypted.
    ///
    /// `scratch` must have at least [`ENCRYPTED_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// `WouldBlock` if earlier bytes have to be sent first; all others mean that the connection is broken.
    pub fn write(&mut self, bytes: &[u8], scratch: &mut [u8]) -> io::Result<usize> {
        if let Some(failure) = &self.failure {
            return Err(failure.error());
        }
        self.send_rest()?;
        if self.unsent() > 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let bytes = &bytes[..bytes.len().min(PLAIN_BYTES_MAX)];
        let encrypted = self.encrypt(bytes, scratch)?;
        let mut rest = &scratch[..encrypted];
        if self.unsent() == 0 {
            let sent = write_all(&mut self.socket, rest)?;
            rest = &rest[sent..];
        }
        self.outgoing.extend_from_slice(rest);
        Ok(bytes.len())
    }

    fn encrypt(&mut self, bytes: &[u8], scratch: &mut [u8]) -> io::Result<usize> {
        let failed = |text: String| Err(io::Error::other(text));
        loop {
            let status = self.session.process_tls_records(&mut self.incoming);
            match status.state {
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    return traffic
                        .encrypt(bytes, scratch)
                        .or_else(|error| failed(error.to_string()));
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut data, &mut self.outgoing);
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(_) => return failed(String::from("the connection can't be written to")),
                Err(error) => return failed(error.to_string()),
            }
        }
    }

    /// Sends as many as possible of the encrypted bytes that the socket has not taken before.
    ///
    /// # Errors
    /// The connection is broken.
    #[inline]
    pub fn send_rest(&mut self) -> io::Result<()> {
        if self.outgoing.is_empty() {
            return Ok(());
        }
        self.sent += write_all(&mut self.socket, &self.outgoing[self.sent..])?;
        if self.unsent() == 0 {
            self.drop_unsent();
        }
        Ok(())
    }

    /// Encrypted bytes that the socket has not taken.
    #[inline]
    pub fn unsent(&self) -> usize {
        self.outgoing.len() - self.sent
    }

    /// Drops these bytes. Nothing more can be sent then.
    pub fn drop_unsent(&mut self) {
        self.outgoing = Vec::new();
        self.sent = 0;
    }

    /// Lets the client know that nothing more is coming, if the socket takes that at once.
    pub fn close(&mut self) {
        let is_sent = self.send_rest().is_ok() && self.unsent() == 0;
        if self.failure.is_some() || self.session.is_handshaking() || !is_sent {
            return;
        }
        let mut scratch = [0; 1024];
        let status = self.session.process_tls_records(&mut self.incoming);
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) = status.state
            && let Ok(bytes) = traffic.queue_close_notify(&mut scratch)
        {
            let _ = self.socket.write(&scratch[..bytes]);
        }
    }

    /// The version and the cipher, as `TLSv1.3|TLS_AES_256_GCM_SHA384`; empty before the handshake.
    pub fn description(&self) -> String {
        let version = match self.session.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => return String::new(),
        };
        let suite = self.session.negotiated_cipher_suite();
        let suite = suite.map(|suite| format!("{:?}", suite.suite()));
        let suite = suite.unwrap_or_default().replace("TLS13_", "TLS_");
        format!("{version}|{suite}")
    }

    /// The memory that it takes, without that of its socket, in bytes. rustls's own part is an estimate.
    pub fn memory(&self) -> usize {
        size_of::<Self>()
            + SESSION_BYTES
            + self.incoming.capacity()
            + self.early.capacity()
            + self.outgoing.capacity()
    }
}

/// Appends what rustls has to send.
fn encode(data: &mut EncodeTlsData<'_, ServerConnectionData>, outgoing: &mut Vec<u8>) {
    // The first try only asks how much room it needs.
    if let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut []) {
        let len = outgoing.len();
        outgoing.resize(len + needed.required_size, 0);
        let written = data.encode(&mut outgoing[len..]).unwrap_or(0);
        outgoing.truncate(len + written);
    }
}

/// Reads once from a socket that does not block. Returns how many bytes arrived; [`ReadEnd::Drained`] if there were none yet.
///
/// # Errors
/// The socket is broken.
#[inline]
pub fn read_once(socket: &mut impl Read, buffer: &mut [u8]) -> io::Result<(usize, ReadEnd)> {
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

/// Writes until all is written or the socket takes no more for now. Returns how many bytes it took.
fn write_all(socket: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match socket.write(&bytes[sent..]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(bytes) => sent += bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}
