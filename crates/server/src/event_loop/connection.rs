//! One connection: its input, its output, and its state.
//!
//! ```text
//!              request              shard free, pause over, ...
//!   Reading ────────────► running ◄──────────────────────────── Stalled
//!      ▲                     │ └─ can't proceed ───────────────────▲
//!      │    all have run     │
//!      └─────────────────────┤ QUIT, error, limit, end of the input
//!                            ▼
//!                         Closing: replies are sent, then the connection is closed
//! ```
//!
//! The state follows from the input (`input.rs`); [`Connection::next`] says what the connection does next.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use damselfly_protocol::{Limits, Version};

use crate::blocked::Blocking;
use crate::event_loop::input::{Input, Next, Stall};
use crate::event_loop::parser::{ParserLimits, Protocol};
use crate::event_loop::stream::Stream;
use crate::session::Session;
use damselfly_config::{Config, OutputLimit};

/// While more bytes of replies than this wait to be sent, no further requests of the connection run.
pub const OUTPUT_PAUSE_BYTES: usize = 1 << 20;

/// One connection.
pub struct Connection {
    /// The socket.
    pub stream: Stream,
    /// The state that commands keep.
    pub session: Session,
    /// Bytes that have arrived and not run, and why they wait.
    pub input: Input,
    /// Replies to send.
    pub output: Vec<u8>,
    /// Messages that have to wait until a reply is complete that is written in slices, by another thread or by a script.
    pub delayed: Vec<u8>,
    /// How many bytes of `output` were sent.
    pub sent: usize,
    /// Ends of replies in `output` that wait until all records below a number are on disk.
    held: VecDeque<(usize, u64)>,
    /// Bytes of invalidations added since all output was last sent.
    pub pushed_bytes: usize,
    /// The client is gone, so the socket takes no more replies. Requests that were read still run.
    is_broken: bool,
    /// It is in the thread's list of connections to serve.
    pub queued: bool,
    /// The thread lists it among those whose replies are held back.
    pub is_listed_as_held: bool,
    /// Since when its unread output has exceeded the soft limit.
    pub over_soft_limit_since: Option<Instant>,
}

impl Connection {
    /// A new connection.
    pub fn new(stream: Stream, session: Session) -> Self {
        Self {
            stream,
            input: Input::new(session.client.speaks),
            session,
            output: Vec::new(),
            delayed: Vec::new(),
            sent: 0,
            held: VecDeque::new(),
            pushed_bytes: 0,
            is_broken: false,
            queued: false,
            is_listed_as_held: false,
            over_soft_limit_since: None,
        }
    }

    /// The limits for the parser. They are low until the client has authenticated.
    pub fn limits(&self, config: &Config) -> ParserLimits {
        let limits = match self.session.login.must_authenticate_now() {
            true => Limits::unauthenticated(),
            false => Limits::authenticated(),
        };
        let resp = Limits {
            bulk_bytes_max: usize::try_from(config.proto_max_bulk_len_bytes)
                .unwrap_or(usize::MAX)
                // No entry can hold more, whatever is configured.
                .min(u32::MAX as usize),
            ..limits
        };
        ParserLimits {
            resp,
            item_bytes_max: config.memcached_max_item_size_bytes as usize,
        }
    }

    /// The connection's next step. While it is stalled, it reads up to `query_bytes_max` bytes.
    #[inline]
    pub fn next(&self, query_bytes_max: u64) -> Next {
        match self.session.closing && !self.input.is_running() {
            true => Next::Close,
            false => self.input.next(query_bytes_max),
        }
    }

    /// Ends the wait for keys of a client that is gone; false if something else has ended it.
    pub fn stop_waiting(&self) -> bool {
        let blocking = self.session.blocking.as_ref();
        blocking.is_none_or(Blocking::abandon)
    }

    /// Bytes of replies that the stream has not taken.
    #[inline]
    pub fn queued_output(&self) -> usize {
        self.output.len() - self.sent
    }

    /// Bytes of replies that were not sent, including those that are encrypted already.
    pub fn unsent(&self) -> usize {
        self.queued_output() + self.stream.unsent()
    }

    /// Updates the figures that other threads see.
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

    /// Reads more into the connection's own input, as [`Input::read_more`] does.
    pub fn read_more(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.input.read_more(&mut self.stream, buffer)
    }

    /// Records that the client is gone: nothing more is read, and replies are dropped.
    pub fn mark_broken(&mut self) {
        self.input.end();
        self.is_broken = true;
        self.session.rest = None;
        self.drop_all_output();
    }

    /// Drops the replies that were not sent, and closes the connection.
    pub fn discard_and_close(&mut self) {
        self.session.closing = true;
        self.drop_all_output();
    }

    /// Drops the replies that were not sent, also those that the stream has taken.
    fn drop_all_output(&mut self) {
        self.drop_output();
        self.stream.drop_unsent();
    }

    fn drop_output(&mut self) {
        self.output.clear();
        self.sent = 0;
        self.held.clear();
    }

    /// True if replies wait for the disk.
    #[inline]
    pub fn is_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// Lets output go that is held back.
    pub fn hold_nothing(&mut self) {
        self.held.clear();
    }

    /// Holds new output back until all `appended` records are on disk, of which `durable` are. Returns up to where output may be sent.
    pub fn hold(&mut self, appended: u64, durable: u64) -> usize {
        let held_end = self.held.back().map_or(self.sent, |&(end, _)| end);
        if self.output.len() > held_end && (appended > durable || self.is_held()) {
            self.held.push_back((self.output.len(), appended));
        }
        let mut free = match self.held.is_empty() {
            true => return usize::MAX,
            false => self.sent,
        };
        while let Some(&(end, record)) = self.held.front()
            && record <= durable
        {
            free = end;
            self.held.pop_front();
        }
        match self.held.is_empty() {
            true => usize::MAX,
            false => free,
        }
    }

    /// Sends as many replies as the socket takes, but nothing from the offset `end` of the output on, and returns how many bytes it took. If the
    /// client is gone, drops all replies. `scratch` is as for [`Stream::write`].
    ///
    /// # Errors
    /// The connection is broken.
    pub fn flush_up_to(&mut self, end: usize, scratch: &mut [u8]) -> io::Result<usize> {
        if self.is_broken {
            self.drop_all_output();
        }
        self.stream.send_rest()?;
        let mut bytes_sent = 0;
        let end = end.min(self.output.len());
        while self.sent < end {
            match self.stream.write(&self.output[self.sent..end], scratch) {
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
        match end < self.output.len() {
            true => self.forget_sent(),
            false => self.drop_output(),
        }
        Ok(bytes_sent)
    }

    /// Appends a message that answers no request. `head` lacks the first byte, which depends on the version of RESP.
    pub fn push_message(&mut self, head: &[u8], text: &[u8]) {
        if self.session.client.speaks != Protocol::Resp {
            // Other protocols have no such messages. A client can only get here because another one redirects invalidations to it.
            return;
        }
        let kind = match self.session.protocol {
            Version::Resp2 => b'*',
            Version::Resp3 => b'>',
        };
        let output = self.message_buffer();
        output.reserve(1 + head.len() + text.len());
        output.push(kind);
        output.extend_from_slice(head);
        output.extend_from_slice(text);
    }

    /// Appends bytes that answer no request.
    pub fn append(&mut self, bytes: &[u8]) {
        self.message_buffer().extend_from_slice(bytes);
    }

    /// The buffer for such bytes, which must not end up in the middle of a reply.
    fn message_buffer(&mut self) -> &mut Vec<u8> {
        // Only scripts let other connections have turns while they run.
        let is_running = self.input.is_running();
        if self.session.rest.is_some() || self.session.long.is_some() || is_running {
            &mut self.delayed
        } else {
            &mut self.output
        }
    }

    /// Resumes after a reply that was written in slices or by another thread, and appends the messages that waited for its end.
    pub fn resume(&mut self) {
        self.input.resume();
        self.append_delayed();
    }

    /// Ends the wait for a shard, for which a request or the rest of a reply needs a lock. A caller outside the connection's own turn must also queue the connection.
    pub fn retry(&mut self) {
        match self.session.rest.is_some() {
            true => self.input.wait_for(Stall::SlicedReply),
            false => self.input.resume(),
        }
    }

    /// Appends the messages that waited for the end of a reply.
    pub fn append_delayed(&mut self) {
        self.output.append(&mut self.delayed);
        self.delayed = Vec::new();
    }

    /// Bytes that the client has not read, without those in the buffers of the operating system.
    pub fn unread(&self) -> usize {
        self.unsent() + self.delayed.len()
    }

    /// True if the client leaves more unread than `limit` allows. Records since when the soft limit has been exceeded.
    pub fn exceeds_output_limit(&mut self, limit: OutputLimit) -> bool {
        self.exceeds(limit, self.unread() as u64)
    }

    /// The same for so many bytes.
    pub fn exceeds(&mut self, limit: OutputLimit, unread: u64) -> bool {
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

    /// Removes the sent bytes once they are most of the output. Otherwise the output of a client that
    /// reads steadily but never catches up would grow forever.
    fn forget_sent(&mut self) {
        if self.sent > self.output.len() / 2 {
            self.output.drain(..self.sent);
            for (end, _) in &mut self.held {
                *end -= self.sent;
            }
            self.sent = 0;
        }
    }
}
