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

use damselfly_engine::Busy;
use damselfly_protocol::{Limits, ProtocolError, RequestParser, Span, Version};

use crate::admin::pause::Hold;
use crate::blocked::End;
use crate::event_loop::listener::Stream;
use crate::registry::Row;
use crate::session::Session;
use damselfly_config::{Config, OutputLimit};

/// The most requests that are parsed, prefetched and run together.
pub const BATCH_REQUESTS_MAX: usize = 64;

/// While more bytes of replies than this wait to be sent, a connection's requests wait too.
pub const OUTPUT_PAUSE_BYTES: usize = 1 << 20;

/// Why a connection runs nothing for now although there are requests.
#[derive(Clone, Copy, Debug)]
pub enum Stall {
    /// A shard that the next command needs is busy.
    Shard(Busy),
    /// CLIENT PAUSE.
    Paused(Hold),
    /// DEBUG SLEEP.
    Sleeping(Instant),
    /// The client does not read its replies.
    Output,
    /// A command waits for keys: [`Session::parking`].
    Waiting,
    /// It has published more to the thread of that number than that can deliver soon.
    Congested(usize),
    /// A command runs elsewhere: [`Session::long`].
    Long,
    /// A reply is written in slices: [`Session::rest`].
    Rest,
    /// A script is next: the worker runs it itself.
    Script,
}

/// A request that is parsed but not run.
#[derive(Clone, Copy)]
pub struct Request {
    /// Where its bytes start in the input.
    pub start: usize,
    /// Its first span in [`Batch::spans`], which counts from `start`.
    pub first_span: usize,
    /// How many spans it has.
    pub spans: usize,
    /// The command, if there is one of that name.
    pub row: Option<&'static Row>,
    /// The hash of its first key, if it has exactly one.
    pub hash: u64,
}

/// Requests that were parsed together.
#[derive(Default)]
pub struct Batch {
    /// The arguments of all requests.
    pub spans: Vec<Span>,
    /// The requests.
    pub requests: Vec<Request>,
    /// The first request that has not run.
    pub next: usize,
    /// Up to where the input is parsed.
    pub parsed: usize,
    /// What is wrong with the input behind the last request.
    pub error: Option<ProtocolError>,
    /// How many bytes of input the request after the last one needs, as far as that is known.
    pub wanted: usize,
    /// The requests were looked at: their rows and hashes are known.
    pub prepared: bool,
}

impl Batch {
    /// Forgets all requests, keeping the memory unless it is unusually much.
    pub fn clear(&mut self) {
        const SPANS_KEPT_MAX: usize = 4096;
        self.spans.clear();
        self.spans.shrink_to(SPANS_KEPT_MAX);
        self.requests.clear();
        (self.next, self.parsed, self.error, self.wanted) = (0, 0, None, 0);
        self.prepared = false;
    }

    /// True if a request waits to run.
    pub fn has_next(&self) -> bool {
        self.next < self.requests.len()
    }

    /// True if a request waits to run or an error to be told.
    pub fn is_unfinished(&self) -> bool {
        self.has_next() || self.error.is_some()
    }

    /// Up to where the input is not needed any more.
    pub fn consumed(&self) -> usize {
        self.requests
            .get(self.next)
            .map_or(self.parsed, |request| request.start)
    }

    /// Parses the complete requests of `input` from where the last call stopped, up to
    /// [`BATCH_REQUESTS_MAX`]. Before the client has authenticated only one: if that is AUTH, other limits
    /// hold for what follows.
    pub fn parse(&mut self, parser: &mut RequestParser, input: &mut [u8], limits: &Limits) {
        self.spans.clear();
        self.requests.clear();
        (self.next, self.prepared) = (0, false);
        let requests_max = if limits.authenticated {
            BATCH_REQUESTS_MAX
        } else {
            1
        };
        while self.requests.len() < requests_max && self.parsed < input.len() {
            let (start, first_span) = (self.parsed, self.spans.len());
            match parser.parse(&mut input[start..], &mut self.spans, limits) {
                Ok(damselfly_protocol::Progress::Complete { consumed }) => {
                    self.parsed += consumed;
                    let spans = self.spans.len() - first_span;
                    if spans > 0 {
                        self.requests.push(Request {
                            start,
                            first_span,
                            spans,
                            row: None,
                            hash: 0,
                        });
                    }
                }
                Ok(damselfly_protocol::Progress::Incomplete { wanted }) => {
                    self.wanted = wanted;
                    break;
                }
                Err(error) => {
                    self.error = Some(error);
                    break;
                }
            }
        }
    }

    /// Adapts to an input whose first `bytes` bytes are gone.
    fn rebase(&mut self, bytes: usize) {
        self.requests.drain(..self.next);
        (self.next, self.prepared) = (0, false);
        for request in &mut self.requests {
            request.start -= bytes;
        }
        self.parsed -= bytes;
    }
}

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
    /// What follows when the reply is whole that is written in slices, or comes from another thread or a script.
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
        let is_script = matches!(self.stall, Some(Stall::Script));
        if self.session.rest.is_some() || self.session.long.is_some() || is_script {
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
