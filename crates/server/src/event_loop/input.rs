//! A connection's input: bytes that have arrived, requests that have not run, and what the connection does next.
//!
//! ```text
//!               bytes arrive               parse                      run
//!   Start ───────────────────► Unparsed ──────────► Requests ──────────────────┐
//!     ▲ no complete request left   ▲ bytes are left    ▲ requests are left     │
//!     └────────────────────────────┴───────────────────┴───────────────────────┘
//! ```
//!
//! [`Input::next`] alone decides what a connection does next: run, read, wait or close. This follows from the bytes that it has
//! buffered ([`Buffered`]), from why it waits ([`Stall`]), and from its socket ([`Source`]). Each run of requests ends with
//! [`Input::keep`] or [`Input::keep_own`], which keep the rest of the input according to how the run ended ([`RunEnd`]).
//!
//! What a connection speaks is decided by its [`Parser`], which turns bytes into the requests of a [`Batch`]: lists of slices. Everything
//! behind it sees only these. What carries the bytes is known to [`Stream`] alone.

use std::io;
use std::time::Instant;

use damselfly_engine::Busy;
use damselfly_protocol::Span;

use crate::admin::pause::Hold;
use crate::event_loop::parser::{InputError, Parser, ParserLimits, Protocol};
use crate::event_loop::stream::{ReadEnd, Stream};
use crate::registry::Row;
use crate::replication::wait::StreamWait;
use crate::session::DiskWait;
#[cfg(doc)]
use crate::session::Session;

/// The most requests that are parsed, prefetched and run together.
pub const BATCH_REQUESTS_MAX: usize = 64;

/// Why a connection runs no requests for now.
#[derive(Clone, Copy, Debug)]
pub enum Stall {
    /// A shard that the next command needs is locked.
    Shard(Busy),
    /// CLIENT PAUSE.
    Paused(Hold),
    /// DEBUG SLEEP.
    Sleeping(Instant),
    /// The client does not read its replies.
    Output,
    /// A command waits for keys: [`Session::blocking`].
    Waiting,
    /// It has sent more messages to the thread of this number than that thread can deliver soon.
    Congested(usize),
    /// It would write, but the log is not merged fast enough.
    Log,
    /// INFO, ROLE or PSYNC waits for a part of the stream: [`Session::stream_wait`].
    Stream(StreamWait),
    /// WAIT or WAITAOF waits for replicas or the disk.
    Disk(DiskWait),
    /// A command runs on a thread for long commands: [`Session::long`].
    Long,
    /// A reply is written in slices: [`Session::rest`].
    SlicedReply,
}

impl Stall {
    /// True if the stalled request has run or is running, and only its reply is missing; false if it has to run again.
    pub fn has_begun(&self) -> bool {
        match self {
            Self::Waiting | Self::Long | Self::SlicedReply | Self::Sleeping(_) | Self::Disk(_) => {
                true
            }
            Self::Shard(_)
            | Self::Paused(_)
            | Self::Output
            | Self::Congested(_)
            | Self::Log
            | Self::Stream(_) => false,
        }
    }

    /// True if the request and all requests behind it are dropped when the client closes the connection, as in Redis.
    fn ends_with_client(&self) -> bool {
        match self {
            Self::Waiting | Self::Paused(_) | Self::Disk(_) => true,
            Self::Shard(_)
            | Self::Sleeping(_)
            | Self::Output
            | Self::Congested(_)
            | Self::Log
            | Self::Stream(_)
            | Self::Long
            | Self::SlicedReply => false,
        }
    }
}

/// The next step of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Run the buffered requests.
    Run,
    /// Read: its socket may have more.
    Read,
    /// Wait until the stall is over or the socket has an event.
    Wait,
    /// Close once all replies are sent: all requests are answered, and no more will arrive.
    Close,
    /// The same, but drop the waiting request and all behind it: the client is gone.
    GiveUp,
}

/// How a run of requests ended.
#[derive(Clone, Copy, Debug)]
pub enum RunEnd {
    /// No complete request is left.
    UsedUp {
        /// How many bytes the next request needs, as far as that is known.
        wanted: usize,
    },
    /// The connection can't proceed for now.
    Stalled(Stall),
    /// The connection shall be closed.
    Closing,
}

/// The state of a connection's socket, as far as it is known. Its events are edge-triggered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// It has nothing to read until the next event.
    Quiet,
    /// It may have bytes to read.
    Readable,
    /// It may have more bytes, and the end of the stream behind them, for which there will be no further event.
    Ending,
    /// Nothing more will be read.
    Ended,
}

/// The state of the buffered bytes.
enum Buffered {
    /// The start of a request, or nothing. The request needs `wanted` bytes in total, as far as that is known.
    Start { wanted: usize },
    /// Bytes that may hold complete requests from `done` on.
    Unparsed { done: usize },
    /// Parsed requests, and bytes behind them that may hold complete requests.
    Requests(Box<Batch>),
    /// The requests are running. The bytes are elsewhere.
    Running,
}

/// The input of one connection.
pub struct Input {
    /// Empty most of the time: complete requests run straight from the thread's own buffer.
    bytes: Vec<u8>,
    buffered: Buffered,
    stall: Option<Stall>,
    source: Source,
    /// Finds requests in the bytes.
    pub parser: Parser,
}

impl Input {
    /// The input of a new connection that speaks `protocol`.
    pub fn new(protocol: Protocol) -> Self {
        Self {
            bytes: Vec::new(),
            buffered: Buffered::Start { wanted: 0 },
            stall: None,
            source: Source::Quiet,
            parser: Parser::new(protocol),
        }
    }

    /// The connection's next step. While it is stalled, it reads up to `bytes_max` bytes, so that it notices when the client
    /// closes it. The rest stays in the buffers of the operating system, which slow the client down.
    #[inline]
    pub fn next(&self, bytes_max: u64) -> Next {
        let reads = match self.source {
            Source::Quiet | Source::Ended => Next::Wait,
            Source::Readable | Source::Ending => Next::Read,
        };
        match (&self.buffered, self.stall) {
            (Buffered::Running, _) => Next::Wait,
            (_, Some(stall)) if self.has_ended() && stall.ends_with_client() => Next::GiveUp,
            (_, Some(stall))
                if self.bytes.len() as u64 >= bytes_max && !stall.ends_with_client() =>
            {
                Next::Wait
            }
            (_, Some(_)) => reads,
            (Buffered::Unparsed { .. } | Buffered::Requests(_), None) => Next::Run,
            (Buffered::Start { .. }, None) if self.has_ended() => Next::Close,
            (Buffered::Start { .. }, None) => reads,
        }
    }

    /// Why no requests run for now.
    #[inline]
    pub fn stall(&self) -> Option<Stall> {
        self.stall
    }

    /// Replaces the reason to wait.
    pub fn wait_for(&mut self, stall: Stall) {
        self.stall = Some(stall);
    }

    /// Ends the stall. A caller outside the connection's own turn must also queue the connection.
    pub fn resume(&mut self) {
        self.stall = None;
    }

    /// True while its requests run: then the connection must neither be served nor closed.
    #[inline]
    pub fn is_running(&self) -> bool {
        matches!(self.buffered, Buffered::Running)
    }

    /// True if it waits for the rest of a request, or for the first byte of one.
    pub fn is_at_start(&self) -> bool {
        matches!(self.buffered, Buffered::Start { .. })
    }

    /// True if the client is to blame for a long input: it sends a request of that length, or many while one of its commands
    /// waits for keys. A client is not disconnected for an input that is long because the server has not processed it yet.
    pub fn is_too_long(&self, bytes: u64, bytes_max: u64) -> bool {
        let is_own_doing = match self.stall {
            None => self.is_at_start(),
            Some(stall) => stall.ends_with_client(),
        };
        is_own_doing && bytes > bytes_max
    }

    /// True if nothing more will be read.
    fn has_ended(&self) -> bool {
        self.source == Source::Ended
    }

    /// How many bytes are buffered.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True if no bytes are buffered.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The capacity of the buffer, in bytes.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Records an event of the socket: it is readable, and `is_ending` if the client has closed its side.
    pub fn note_readable(&mut self, is_ending: bool) {
        self.source = match self.source {
            Source::Ended => Source::Ended,
            Source::Ending => Source::Ending,
            Source::Quiet | Source::Readable if is_ending => Source::Ending,
            Source::Quiet | Source::Readable => Source::Readable,
        };
    }

    /// Records that nothing more will be read.
    pub fn end(&mut self) {
        self.source = Source::Ended;
    }

    fn note_read(&mut self, bytes: usize, end: ReadEnd) {
        self.source = match (end, self.source) {
            (ReadEnd::Closed, _) => Source::Ended,
            // The end of the stream has no event of its own after the last bytes: read until it is reached.
            (ReadEnd::Drained, Source::Ending) if bytes > 0 => Source::Ending,
            (ReadEnd::Drained, _) => Source::Quiet,
            (ReadEnd::More, source) => source,
        };
    }

    /// True if requests that are read next may run straight from the thread's own buffer.
    #[inline]
    pub fn takes_direct(&self) -> bool {
        self.bytes.is_empty() && self.stall.is_none() && self.is_at_start()
    }

    /// Reads into the thread's buffer, if [`Input::takes_direct`]. Returns how many bytes arrived; the caller must run them.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn read_direct(&mut self, stream: &mut Stream, buffer: &mut [u8]) -> io::Result<usize> {
        debug_assert!(self.takes_direct(), "buffered bytes come first");
        let (bytes, end) = stream.read(buffer)?;
        self.note_read(bytes, end);
        Ok(bytes)
    }

    /// Appends to the buffered bytes, and returns how many arrived. The buffer grows to at most twice the bytes that have arrived,
    /// whatever length the client announced, and not beyond the size of the request. So a long request is copied at most twice
    /// on its way in. `buffer` is as for [`Stream::append_to`].
    ///
    /// # Errors
    /// The connection is broken. Bytes that arrived before stay.
    pub fn read_more(&mut self, stream: &mut Stream, buffer: &mut [u8]) -> io::Result<usize> {
        const STEP_BYTES_MIN: usize = 64 << 10;
        /// The most that is read from one connection before the next one has its turn.
        const READ_BYTES_MAX: usize = 1 << 20;
        let len = self.bytes.len();
        if self.bytes.capacity() - len < STEP_BYTES_MIN {
            let wanted = match self.buffered {
                Buffered::Start { wanted } => wanted,
                Buffered::Unparsed { .. } | Buffered::Requests(_) | Buffered::Running => 0,
            };
            let missing = wanted.saturating_sub(len).max(STEP_BYTES_MIN);
            self.bytes
                .reserve_exact(missing.min(len.max(STEP_BYTES_MIN)));
        }
        let room = (self.bytes.capacity() - len).min(READ_BYTES_MAX);
        let result = stream.append_to(&mut self.bytes, room, buffer);
        let bytes = self.bytes.len() - len;
        if bytes > 0 && self.is_at_start() {
            self.buffered = Buffered::Unparsed { done: 0 };
        }
        self.note_read(bytes, result?);
        Ok(bytes)
    }

    /// Begins to run requests from the thread's buffer. [`Input::keep`] ends the run.
    #[inline]
    pub fn begin_direct(&mut self) {
        debug_assert!(self.takes_direct(), "buffered bytes come first");
        self.buffered = Buffered::Running;
    }

    /// Begins to run the buffered requests, and returns the bytes. `batch` receives the requests that are parsed already.
    /// [`Input::keep_own`] ends the run.
    pub fn begin_own(&mut self, batch: &mut Batch) -> Vec<u8> {
        batch.clear();
        match std::mem::replace(&mut self.buffered, Buffered::Running) {
            Buffered::Requests(parsed) => *batch = *parsed,
            Buffered::Unparsed { done } => batch.parsed = done,
            Buffered::Start { .. } | Buffered::Running => {
                debug_assert!(false, "there is nothing to run")
            }
        }
        std::mem::take(&mut self.bytes)
    }

    /// Ends a run of requests from the thread's buffer: keeps the rest of `input`, from which `batch` was parsed.
    #[inline]
    pub fn keep(&mut self, input: &[u8], batch: &mut Batch, end: RunEnd) {
        let consumed = batch.consumed();
        self.bytes.extend_from_slice(&input[consumed..]);
        self.note_run(consumed, batch, end);
    }

    /// The same for the bytes that [`Input::begin_own`] returned.
    pub fn keep_own(&mut self, mut input: Vec<u8>, batch: &mut Batch, end: RunEnd) {
        let consumed = batch.consumed();
        let mut removed = consumed;
        if consumed == input.len() {
            // A long request leaves a large buffer behind: free it.
            input = Vec::new();
        } else if consumed < input.len() / 2 && !matches!(end, RunEnd::UsedUp { .. }) {
            // A long pipeline stalls often. Moving the rest of it each time would take quadratic time.
            removed = 0;
        } else {
            input.drain(..consumed);
        }
        self.bytes = input;
        self.note_run(removed, batch, end);
    }

    /// Records what a run has left of an input whose first `removed` bytes were removed.
    #[inline]
    fn note_run(&mut self, removed: usize, batch: &mut Batch, end: RunEnd) {
        (self.buffered, self.stall) = match end {
            RunEnd::UsedUp { wanted } => (Buffered::Start { wanted }, None),
            RunEnd::Stalled(stall) => (Buffered::left_of(removed, batch), Some(stall)),
            RunEnd::Closing => (Buffered::left_of(removed, batch), None),
        };
    }

    /// Drops everything after a panic in a run. The connection can only be closed.
    pub fn abandon(&mut self) {
        (self.buffered, self.stall) = (Buffered::Start { wanted: 0 }, None);
        self.source = Source::Ended;
    }
}

impl Buffered {
    /// The state of an input after an unfinished run, once its first `removed` bytes are removed.
    #[cold]
    fn left_of(removed: usize, batch: &mut Batch) -> Self {
        if !batch.is_unfinished() {
            let done = batch.parsed - removed;
            return Self::Unparsed { done };
        }
        let mut left = std::mem::take(batch);
        left.rebase(removed);
        Self::Requests(Box::new(left))
    }
}

/// A request that is parsed but not run.
#[derive(Clone, Copy)]
pub struct Request {
    /// Where its bytes start in the input.
    pub start: usize,
    /// Its first span in [`Batch::spans`]. Spans are relative to `start`.
    pub first_span: usize,
    /// How many spans it has.
    pub spans: usize,
    /// The row of the command, if there is one of that name.
    pub row: Option<&'static Row>,
    /// The place and the hash of its key, if its command has exactly one at a fixed place.
    pub key: Option<(usize, u64)>,
}

/// Requests that were parsed together.
#[derive(Default)]
pub struct Batch {
    /// The arguments of all requests.
    pub spans: Vec<Span>,
    /// The requests.
    pub requests: Vec<Request>,
    /// The index of the first request that has not run.
    pub next: usize,
    /// How many bytes of the input are parsed.
    pub(super) parsed: usize,
    /// The protocol error behind the last request, if there is one.
    pub(super) error: Option<InputError>,
    /// The rows and hashes of the requests are known.
    pub prepared: bool,
}

/// The outcome of parsing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// There is a request to run, or an error to report.
    Some,
    /// No complete request is left.
    Nothing {
        /// How many bytes the next request needs, as far as that is known.
        wanted: usize,
    },
}

impl Batch {
    /// Drops all requests. Keeps the memory for the next batch, up to a limit.
    pub fn clear(&mut self) {
        const SPANS_KEPT_MAX: usize = 4096;
        const REQUESTS_KEPT_MAX: usize = 1024;
        self.spans.clear();
        self.spans.shrink_to(SPANS_KEPT_MAX);
        self.requests.clear();
        self.requests.shrink_to(REQUESTS_KEPT_MAX);
        (self.next, self.parsed, self.error) = (0, 0, None);
        self.prepared = false;
    }

    /// True if a request has not run or an error was not reported.
    #[inline]
    pub fn is_unfinished(&self) -> bool {
        self.next < self.requests.len() || self.error.is_some()
    }

    /// Takes the error behind the requests.
    #[inline]
    pub fn take_error(&mut self) -> Option<InputError> {
        self.error.take()
    }

    /// How many bytes of the input are not needed any more.
    #[inline]
    pub fn consumed(&self) -> usize {
        self.requests
            .get(self.next)
            .map_or(self.parsed, |request| request.start)
    }

    /// Parses the complete requests of `input` from where the last call stopped, up to about [`BATCH_REQUESTS_MAX`].
    pub fn parse(
        &mut self,
        parser: &mut Parser,
        input: &mut [u8],
        limits: &ParserLimits,
    ) -> Parsed {
        self.spans.clear();
        self.requests.clear();
        (self.next, self.prepared) = (0, false);
        let wanted = parser.parse(self, input, limits);
        match self.is_unfinished() {
            true => Parsed::Some,
            false => Parsed::Nothing { wanted },
        }
    }

    /// Adjusts to an input whose first `bytes` bytes were removed.
    fn rebase(&mut self, bytes: usize) {
        self.requests.drain(..self.next);
        (self.next, self.prepared) = (0, false);
        for request in &mut self.requests {
            request.start -= bytes;
        }
        self.parsed -= bytes;
    }
}
