//! One connection: its bytes in, its bytes out, and where it stands.
//!
//! ```text
//!              request              shard free, pause over, ...
//!   Reading ────────────► running ◄──────────────────────────── Stalled
//!      ▲                     │ └─ can't go on now ─────────────────▲
//!      │    all run          │
//!      └─────────────────────┤ QUIT, error, limit, end of the input
//!                            ▼
//!                         Closing: replies are sent, then it ends
//! ```
//!
//! Where it stands follows from its input (`input.rs`); [`Connection::next`] says what it does next.

use std::io::{self, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use damselfly_protocol::{Limits, Version};

use crate::blocked::End;
use crate::event_loop::input::{Input, Next};
use crate::event_loop::listener::Stream;
use crate::session::Session;
use damselfly_config::{Config, OutputLimit};

/// While more bytes of replies than this wait to be sent, a connection's requests wait too.
pub const OUTPUT_PAUSE_BYTES: usize = 1 << 20;

/// One connection.
pub struct Connection {
    /// The socket.
    pub stream: Stream,
    /// What its commands remember.
    pub session: Session,
    /// What has arrived and not run, and what it waits for.
    pub input: Input,
    /// Replies.
    pub output: Vec<u8>,
    /// What follows when the reply is whole that is written in slices, or comes from another thread or a script.
    pub delayed: Vec<u8>,
    /// How many bytes of `output` are sent already.
    pub sent: usize,
    /// Bytes of invalidations among what the client has not read, at least.
    pub pushed_bytes: usize,
    /// Its socket takes no more replies: the client is gone. What was read before still runs.
    is_broken: bool,
    /// It is in the thread's list of connections to be looked at this turn.
    pub queued: bool,
    /// Since when replies have been over the soft limit.
    pub over_soft_limit_since: Option<Instant>,
}

impl Connection {
    /// A new connection.
    pub fn new(stream: Stream, session: Session) -> Self {
        Self {
            stream,
            session,
            input: Input::default(),
            output: Vec::new(),
            delayed: Vec::new(),
            sent: 0,
            pushed_bytes: 0,
            is_broken: false,
            queued: false,
            over_soft_limit_since: None,
        }
    }

    /// The limits on its requests.
    pub fn limits(&self, config: &Config) -> Limits {
        let limits = match self.session.must_authenticate(config) {
            true => Limits::unauthenticated(),
            false => Limits::authenticated(),
        };
        Limits {
            bulk_bytes_max: usize::try_from(config.proto_max_bulk_len_bytes)
                .unwrap_or(usize::MAX)
                // No entry holds more, whatever is configured.
                .min(u32::MAX as usize),
            ..limits
        }
    }

    /// What comes next. While it is stalled, it reads up to `query_bytes_max` bytes.
    #[inline]
    pub fn next(&self, query_bytes_max: u64) -> Next {
        match self.session.closing && !self.input.is_running() {
            true => Next::Close,
            false => self.input.next(query_bytes_max),
        }
    }

    /// Ends the waiting of the client, which is gone; false if something else has ended it.
    pub fn stop_waiting(&self) -> bool {
        let blocking = self.session.blocking.as_ref();
        blocking.is_none_or(|blocking| blocking.end(End::TimedOut))
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

    /// Reads into the thread's buffer, as [`Input::read_direct`] does.
    pub fn read_direct(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.read_direct(&mut self.stream, buffer)
    }

    /// Reads behind what it keeps, as [`Input::read_more`] does.
    pub fn read_more(&mut self) -> io::Result<usize> {
        self.input.read_more(&mut self.stream)
    }

    /// Notes that the client is gone: nothing more is read, and replies go nowhere.
    pub fn mark_broken(&mut self) {
        self.input.end();
        self.is_broken = true;
        self.session.rest = None;
        self.drop_output();
    }

    /// Drops the replies that are not sent, and closes the connection.
    pub fn discard_and_close(&mut self) {
        self.session.closing = true;
        self.drop_output();
    }

    fn drop_output(&mut self) {
        self.output.clear();
        self.sent = 0;
    }

    /// Sends replies, as far as the socket takes them; returns how many bytes it took. If the client is gone, all are dropped.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush(&mut self) -> io::Result<usize> {
        if self.is_broken {
            self.drop_output();
        }
        let mut bytes_sent = 0;
        while self.sent < self.output.len() {
            match self.stream.write(&self.output[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => {
                    self.sent += bytes;
                    bytes_sent += bytes;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.forget_sent();
                    return Ok(bytes_sent);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.drop_output();
        Ok(bytes_sent)
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
        // Only a script lets other connections have their turns while it runs.
        let is_running = self.input.is_running();
        if self.session.rest.is_some() || self.session.long.is_some() || is_running {
            &mut self.delayed
        } else {
            &mut self.output
        }
    }

    /// Goes on behind a reply that was written in slices, or came from another thread: what it delayed follows.
    pub fn resume(&mut self) {
        self.input.resume();
        self.append_delayed();
    }

    /// Appends what a reply has delayed.
    pub fn append_delayed(&mut self) {
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
