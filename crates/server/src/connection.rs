//! One connection: its bytes in, its bytes out, and where it stands.
//!
//! ```text
//!              request              shard free, pause over, ...
//!   Reading ────────────► running ◄──────────────────────────── Stalled
//!      ▲                     │ └─ can't go on now ─────────────────▲
//!      │    batch done       │
//!      └─────────────────────┤ QUIT, error, limit
//!                            ▼
//!                         Closing: replies are sent, then it ends
//! ```

use std::io::{self, Read, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use damselfly_protocol::{Limits, RequestParser, Version};

use crate::config::{Config, OutputLimit};
use crate::input::{Batch, Stall};
use crate::listener::Stream;
use crate::parked::End;
use crate::session::Session;

/// While more bytes of replies than this wait to be sent, a connection's requests wait too.
pub const OUTPUT_PAUSE_BYTES: usize = 1 << 20;

/// One connection.
pub struct Connection {
    /// The socket.
    pub stream: Stream,
    /// What its commands remember.
    pub session: Session,
    /// Finds requests in the input.
    pub parser: RequestParser,
    /// Input that was read and not run. Empty most of the time: what arrives as whole requests runs
    /// straight from the thread's own buffer.
    pub input: Vec<u8>,
    /// Requests of `input` that were parsed before the connection stalled.
    pub waiting: Option<Box<Batch>>,
    /// Part of `input` came while the connection was stalled, and was not looked at.
    pub unparsed: bool,
    /// How many bytes of input the next request needs, as far as that is known.
    pub wanted: usize,
    /// Replies.
    pub output: Vec<u8>,
    /// What follows when the reply is whole that is written in slices, or comes from another thread.
    pub delayed: Vec<u8>,
    /// How many bytes of `output` are sent already.
    pub sent: usize,
    /// Bytes of invalidations among what the client has not read, at least.
    pub pushed_bytes: usize,
    /// Why it runs nothing for now.
    pub stall: Option<Stall>,
    /// The socket may have bytes to read.
    pub readable: bool,
    /// The client will send nothing behind what the socket holds now.
    pub half_closed: bool,
    /// Nothing more will be read: the client ended its side, or the server ends the connection.
    pub ended: bool,
    /// It is in the thread's list of connections to be looked at this turn.
    pub queued: bool,
    /// Since when replies have been over the soft limit.
    pub over_soft_limit_since: Option<Instant>,
}

/// What came of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadEnd {
    /// The socket has nothing more for now.
    Drained,
    /// There may be more.
    More,
    /// The client ended its side.
    Closed,
}

impl Connection {
    /// A new connection.
    pub fn new(stream: Stream, session: Session) -> Self {
        Self {
            stream,
            session,
            parser: RequestParser::new(),
            input: Vec::new(),
            waiting: None,
            unparsed: false,
            wanted: 0,
            output: Vec::new(),
            delayed: Vec::new(),
            sent: 0,
            pushed_bytes: 0,
            stall: None,
            readable: false,
            half_closed: false,
            ended: false,
            queued: false,
            over_soft_limit_since: None,
        }
    }

    /// The limits on its requests.
    pub fn limits(&self, config: &Config) -> Limits {
        let limits = if self.session.authenticated || config.requirepass.is_empty() {
            Limits::authenticated()
        } else {
            Limits::unauthenticated()
        };
        Limits {
            bulk_bytes_max: usize::try_from(config.proto_max_bulk_len_bytes)
                .unwrap_or(usize::MAX)
                // No entry holds more, whatever is configured.
                .min(u32::MAX as usize),
            ..limits
        }
    }

    /// Ends the waiting of the client, which is gone; false if something else has ended it.
    pub fn gives_up_waiting(&self) -> bool {
        let parking = self.session.parking.as_ref();
        parking.is_none_or(|parking| parking.end(End::TimedOut))
    }

    /// Bytes of replies that are not sent.
    pub fn unsent(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Keeps the figures that other threads see current.
    pub fn report(&self) {
        let client = &self.session.client;
        client.input_bytes.store(self.input.len(), Relaxed);
        client.input_capacity.store(self.input.capacity(), Relaxed);
        client.output_bytes.store(self.unsent(), Relaxed);
        let output_capacity = self.output.capacity();
        client.output_capacity.store(output_capacity, Relaxed);
    }

    /// Reads into the thread's buffer, which must be used up before the next call.
    pub fn read_into(&mut self, buffer: &mut [u8]) -> io::Result<(usize, ReadEnd)> {
        loop {
            return match self.stream.read(buffer) {
                Ok(0) => Ok((0, ReadEnd::Closed)),
                // A read that does not fill the buffer has emptied the socket.
                Ok(bytes) if bytes < buffer.len() => Ok((bytes, ReadEnd::Drained)),
                Ok(bytes) => Ok((bytes, ReadEnd::More)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    Ok((0, ReadEnd::Drained))
                }
                Err(error) => Err(error),
            };
        }
    }

    /// Reads behind the input it keeps. Room at most doubles what has truly arrived, whatever was announced, and
    /// ends at the size of the request; so a long request is copied twice at most on its way in.
    pub fn read_more(&mut self) -> io::Result<(usize, ReadEnd)> {
        const STEP_BYTES_MIN: usize = 64 << 10;
        /// The most that is read from one connection before the next one has its turn.
        const READ_BYTES_MAX: usize = 1 << 20;
        let len = self.input.len();
        if self.input.capacity() - len < STEP_BYTES_MIN {
            let missing = self.wanted.saturating_sub(len).max(STEP_BYTES_MIN);
            self.input
                .reserve_exact(missing.min(len.max(STEP_BYTES_MIN)));
        }
        let room = (self.input.capacity() - len).min(READ_BYTES_MAX);
        match (&mut self.stream)
            .take(room as u64)
            .read_to_end(&mut self.input)
        {
            Ok(bytes) if bytes < room => Ok((bytes, ReadEnd::Closed)),
            Ok(bytes) => Ok((bytes, ReadEnd::More)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Ok((self.input.len() - len, ReadEnd::Drained))
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps what `batch` has not run of `input`, to go on later.
    pub fn keep(&mut self, input: &[u8], batch: &mut Batch) {
        let consumed = batch.consumed();
        self.input.extend_from_slice(&input[consumed..]);
        self.keep_batch(consumed, batch);
    }

    /// As [`Connection::keep`], if the input is the connection's own.
    pub fn keep_own(&mut self, mut input: Vec<u8>, batch: &mut Batch) {
        let consumed = batch.consumed();
        let mut removed = consumed;
        if consumed == input.len() {
            // Long requests leave a large buffer behind: give it back.
            input = Vec::new();
        } else if batch.is_unfinished() && consumed < input.len() / 2 {
            // A long pipeline stalls often: moving all that is left of it each time would take quadratic time.
            removed = 0;
        } else {
            input.drain(..consumed);
        }
        self.input = input;
        self.keep_batch(removed, batch);
    }

    /// Keeps `batch` if it is not done, for an input that has lost its first `removed` bytes.
    fn keep_batch(&mut self, removed: usize, batch: &mut Batch) {
        self.wanted = batch.wanted;
        if batch.is_unfinished() {
            let mut kept = std::mem::take(batch);
            kept.rebase(removed);
            self.waiting = Some(Box::new(kept));
        }
    }

    /// Sends replies; true if all are sent.
    pub fn flush(&mut self) -> io::Result<bool> {
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => self.sent += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.forget_sent();
                    return Ok(false);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.sent = 0;
        self.output.clear();
        Ok(true)
    }

    /// Appends a message that answers no request: its head, but for the first byte, and its text.
    pub fn push_message(&mut self, head: &[u8], text: &[u8]) {
        let kind = match self.session.protocol {
            Version::Resp2 => b'*',
            Version::Resp3 => b'>',
        };
        let output = self.behind_replies();
        output.reserve(1 + head.len() + text.len());
        output.push(kind);
        output.extend_from_slice(head);
        output.extend_from_slice(text);
    }

    /// Appends what answers no request.
    pub fn append(&mut self, bytes: &[u8]) {
        self.behind_replies().extend_from_slice(bytes);
    }

    /// Where that belongs: not into the middle of a reply.
    fn behind_replies(&mut self) -> &mut Vec<u8> {
        if self.session.rest.is_some() || self.session.long.is_some() {
            &mut self.delayed
        } else {
            &mut self.output
        }
    }

    /// Lets what was delayed by a reply follow it.
    pub fn give_delayed(&mut self) {
        self.output.append(&mut self.delayed);
        self.delayed = Vec::new();
    }

    /// Bytes that the client has not read, as far as that is known here.
    pub fn unread(&self) -> usize {
        self.unsent() + self.delayed.len()
    }

    /// True if the client leaves too much unread, by the limit of its class. Notes since when it is over the soft one.
    pub fn exceeds_output_limit(&mut self, limit: OutputLimit) -> bool {
        let unread = self.unread() as u64;
        let over = |bytes: u64| bytes > 0 && unread > bytes;
        let since = match (over(limit.soft_bytes), self.over_soft_limit_since) {
            (false, _) => None,
            (true, None) => Some(Instant::now()),
            (true, since) => since,
        };
        self.over_soft_limit_since = since;
        let too_long = since.is_some_and(|since| since.elapsed().as_secs() >= limit.soft_s);
        over(limit.hard_bytes) || too_long
    }

    /// Removes what is sent, once that is most of it: a client that reads steadily but never catches
    /// up must not have all it ever read kept for it.
    fn forget_sent(&mut self) {
        if self.sent > self.output.len() / 2 {
            self.output.drain(..self.sent);
            self.sent = 0;
        }
    }
}
