//! One connection: its socket, its requests in flight, and the parser of its replies.

use crate::options::{Address, Options};
use crate::replies::{Malformed, Replies, Tally};
use crate::tls;
use hdrhistogram::Histogram;
use mio::event::Source;
use mio::{Interest, Registry, Token};
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

/// Why a connection can no longer be used.
#[derive(Debug)]
pub(crate) enum Broken {
    Socket(io::Error),
    ClosedByServer,
    Malformed(Malformed),
    UnexpectedReply,
    /// A trace that can't be read further.
    Trace(io::Error),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Socket(error)
    }
}

#[derive(Debug)]
pub(crate) struct Connection {
    socket: Socket,
    replies: Replies,
    /// Requests in flight, oldest first, grouped by when they were sent.
    sent: VecDeque<Sent>,
    in_flight: usize,
    /// Bytes that the socket has not accepted yet.
    unsent: VecDeque<u8>,
}

#[derive(Debug)]
struct Sent {
    at: Instant,
    count: u64,
}

#[derive(Debug)]
enum Socket {
    Tcp(mio::net::TcpStream),
    Unix(mio::net::UnixStream),
    Tls(Box<tls::Socket>),
}

impl Connection {
    /// Connects to the server of the options, and registers the socket under `token`.
    pub fn open(options: &Options, registry: &Registry, token: Token) -> io::Result<Self> {
        let mut socket = match &options.address {
            Address::Tcp(host, port) => {
                let stream = std::net::TcpStream::connect((host.as_str(), *port))?;
                stream.set_nodelay(true)?;
                if let Some(config) = &options.tls {
                    Socket::Tls(Box::new(tls::Socket::connect(
                        stream,
                        host,
                        config.clone(),
                    )?))
                } else {
                    stream.set_nonblocking(true)?;
                    Socket::Tcp(mio::net::TcpStream::from_std(stream))
                }
            }
            Address::Unix(path) => {
                let stream = std::os::unix::net::UnixStream::connect(path)?;
                stream.set_nonblocking(true)?;
                Socket::Unix(mio::net::UnixStream::from_std(stream))
            }
        };
        registry.register(
            socket.source(),
            token,
            Interest::READABLE | Interest::WRITABLE,
        )?;
        let replies = Replies::new(options.shape.protocol);
        Ok(Self {
            socket,
            replies,
            sent: VecDeque::new(),
            in_flight: 0,
            unsent: VecDeque::new(),
        })
    }

    /// The number of requests sent and not answered.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// True while the socket has not accepted all bytes.
    pub fn is_blocked(&self) -> bool {
        !self.unsent.is_empty() || self.socket.has_unsent()
    }

    /// From now on, counts this many replies as the reply to one request.
    pub fn expect(&mut self, replies: u64) {
        self.replies.expect(replies);
    }

    /// Records that `count` requests are in flight since `at`.
    pub fn note_sent(&mut self, at: Instant, count: usize) {
        self.sent.push_back(Sent {
            at,
            count: count as u64,
        });
        self.in_flight += count;
    }

    /// Sends bytes of requests; those that the socket does not accept wait for [`Connection::flush`].
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Broken> {
        let written = if self.is_blocked() {
            0
        } else {
            self.write(bytes)?
        };
        self.unsent.extend(&bytes[written..]);
        Ok(())
    }

    /// Sends the waiting bytes.
    pub fn flush(&mut self) -> Result<(), Broken> {
        self.socket.send_rest()?;
        if !self.unsent.is_empty() {
            let mut unsent = std::mem::take(&mut self.unsent);
            let written = self.write(unsent.make_contiguous())?;
            unsent.drain(..written);
            self.unsent = unsent;
        }
        Ok(())
    }

    /// Reads everything that has arrived, counts the replies and records their latencies in nanoseconds.
    pub fn receive(
        &mut self,
        buffer: &mut [u8],
        tally: &mut Tally,
        latencies: &mut Histogram<u64>,
    ) -> Result<(), Broken> {
        let before = tally.replies;
        loop {
            let count = match self.socket.reader().read(buffer) {
                Ok(0) => return Err(Broken::ClosedByServer),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            self.replies
                .feed(&buffer[..count], tally)
                .map_err(Broken::Malformed)?;
            // A read that does not fill the buffer has emptied the socket: see epoll(7) on edge-triggered streams.
            if count < buffer.len() && !matches!(self.socket, Socket::Tls(_)) {
                break;
            }
        }
        let answered = tally.replies - before;
        if answered > 0 {
            self.record(answered, Instant::now(), latencies)?;
        }
        Ok(())
    }

    fn record(
        &mut self,
        mut answered: u64,
        now: Instant,
        latencies: &mut Histogram<u64>,
    ) -> Result<(), Broken> {
        self.in_flight = self
            .in_flight
            .checked_sub(answered as usize)
            .ok_or(Broken::UnexpectedReply)?;
        while answered > 0 {
            let Some(oldest) = self.sent.front_mut() else {
                return Err(Broken::UnexpectedReply);
            };
            let count = oldest.count.min(answered);
            latencies
                .saturating_record_n(nanoseconds(now.saturating_duration_since(oldest.at)), count);
            answered -= count;
            oldest.count -= count;
            if oldest.count == 0 {
                self.sent.pop_front();
            }
        }
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < bytes.len() {
            match self.socket.writer().write(&bytes[written..]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Socket {
    fn source(&mut self) -> &mut dyn Source {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
            Self::Tls(socket) => &mut socket.tcp,
        }
    }

    /// True if encrypted bytes wait to be sent.
    fn has_unsent(&self) -> bool {
        match self {
            Self::Tcp(_) | Self::Unix(_) => false,
            Self::Tls(socket) => socket.has_unsent(),
        }
    }

    /// Sends encrypted bytes that wait.
    fn send_rest(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(_) | Self::Unix(_) => Ok(()),
            Self::Tls(socket) => socket.send_rest(),
        }
    }

    fn reader(&mut self) -> &mut dyn Read {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
            Self::Tls(socket) => socket,
        }
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
            Self::Tls(socket) => socket,
        }
    }
}
