//! A connection's input: the bytes that have arrived, the requests among them that have not run, and what comes next.
//!
//! ```text
//!               bytes arrive               parse                      run
//!   Start ───────────────────► Unparsed ──────────► Requests ──────────────────┐
//!     ▲ no whole request is left   ▲ bytes are left    ▲ requests are left     │
//!     └────────────────────────────┴───────────────────┴───────────────────────┘
//! ```
//!
//! [`Input::next`] alone decides what comes next: run, read, wait or close. It follows from what the connection keeps
//! ([`Buffered`]), from why it waits ([`Stall`]), and from its socket ([`Source`]). A run of requests ends in [`Input::keep`] or
//! [`Input::keep_own`], which note from how it ended ([`RunEnd`]) what is left.
//!
//! What carries bytes is any [`Read`]; what they mean is known to [`Batch::parse`] alone.

use std::io::{self, Read};
use std::time::Instant;

use damselfly_engine::Busy;
use damselfly_protocol::{Limits, Progress, ProtocolError, RequestParser, Span};

use crate::admin::pause::Hold;
use crate::registry::Row;
#[cfg(doc)]
use crate::session::Session;

/// The most requests that are parsed, prefetched and run together.
pub const BATCH_REQUESTS_MAX: usize = 64;

/// Why a connection runs nothing for now.
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
    /// A command waits for keys: [`Session::blocking`].
    Waiting,
    /// It has published more to the thread of that number than that can deliver soon.
    Congested(usize),
    /// A command runs elsewhere: [`Session::long`].
    Long,
    /// A reply is written in slices: [`Session::rest`].
    SlicedReply,
}

impl Stall {
    /// True if the request that stalled has run, or runs, and its reply is all that is missing; false if it is to run later.
    pub fn has_begun(&self) -> bool {
        match self {
            Self::Waiting | Self::Long | Self::SlicedReply | Self::Sleeping(_) => true,
            Self::Shard(_) | Self::Paused(_) | Self::Output | Self::Congested(_) => false,
        }
    }

    /// True if the request, and all behind it, is dropped when the client ends the connection, as in Redis.
    fn ends_with_client(&self) -> bool {
        match self {
            Self::Waiting | Self::Paused(_) => true,
            Self::Shard(_)
            | Self::Sleeping(_)
            | Self::Output
            | Self::Congested(_)
            | Self::Long
            | Self::SlicedReply => false,
        }
    }
}

/// What a connection does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Run what it keeps.
    Run,
    /// Read: its socket may have more.
    Read,
    /// Nothing, until its stall is over or its socket has an event.
    Wait,
    /// End when all replies are sent: all that arrived is answered, and nothing more will come.
    Close,
    /// The same, and drop the request that waits, and all behind it: its client is gone.
    GiveUp,
}

/// How a run of requests ended.
#[derive(Clone, Copy, Debug)]
pub enum RunEnd {
    /// No whole request is left. The next one needs `wanted` bytes, as far as that is known.
    UsedUp {
        /// See there.
        wanted: usize,
    },
    /// The connection can't go on for now.
    Stalled(Stall),
    /// The connection is to be closed.
    Closing,
}

/// What came of reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ReadEnd {
    /// The socket has nothing more for now.
    Drained,
    /// There may be more.
    More,
    /// The client ended its side.
    Closed,
}

/// What is known of a connection's socket, whose events come once per change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// It has nothing to read until the next event.
    Quiet,
    /// It may have bytes to read.
    Readable,
    /// The same, and its end comes behind them, without a further event.
    Ending,
    /// Nothing more will be read.
    Ended,
}

/// What the bytes of an input are.
enum Buffered {
    /// The start of a request, or nothing. The request needs `wanted` bytes, as far as that is known.
    Start { wanted: usize },
    /// Bytes of which those behind `done` may be whole requests.
    Unparsed { done: usize },
    /// Parsed requests, and bytes behind them that may be whole requests.
    Requests(Box<Batch>),
    /// They are being run. The bytes are not here.
    Running,
}

/// The input of one connection.
pub struct Input {
    /// Empty most of the time: what arrives as whole requests runs straight from the thread's own buffer.
    bytes: Vec<u8>,
    buffered: Buffered,
    stall: Option<Stall>,
    source: Source,
    /// Finds requests in the bytes.
    pub parser: RequestParser,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            bytes: Vec::new(),
            buffered: Buffered::Start { wanted: 0 },
            stall: None,
            source: Source::Quiet,
            parser: RequestParser::new(),
        }
    }
}

impl Input {
    /// What comes next. While the connection is stalled, it reads on up to `bytes_max` bytes, so that it notices its end; more
    /// is left to the socket's own buffers, which hold the client back.
    #[inline]
    pub fn next(&self, bytes_max: u64) -> Next {
        let reads = match self.source {
            Source::Quiet | Source::Ended => Next::Wait,
            Source::Readable | Source::Ending => Next::Read,
        };
        match (&self.buffered, self.stall) {
            (Buffered::Running, _) => Next::Wait,
            (_, Some(stall)) if self.has_ended() && stall.ends_with_client() => Next::GiveUp,
            (_, Some(_)) if self.bytes.len() as u64 >= bytes_max => Next::Wait,
            (_, Some(_)) => reads,
            (Buffered::Unparsed { .. } | Buffered::Requests(_), None) => Next::Run,
            (Buffered::Start { .. }, None) if self.has_ended() => Next::Close,
            (Buffered::Start { .. }, None) => reads,
        }
    }

    /// Why it runs nothing for now.
    #[inline]
    pub fn stall(&self) -> Option<Stall> {
        self.stall
    }

    /// Lets it wait for something else than before.
    pub fn wait_for(&mut self, stall: Stall) {
        self.stall = Some(stall);
    }

    /// Lets it go on. Whoever does so outside of the connection's own turn also gives it one.
    pub fn resume(&mut self) {
        self.stall = None;
    }

    /// True while its requests are being run: then it may neither be served nor closed.
    #[inline]
    pub fn is_running(&self) -> bool {
        matches!(self.buffered, Buffered::Running)
    }

    /// True if it waits for the rest of a request, or for the first byte of one.
    pub fn is_at_start(&self) -> bool {
        matches!(self.buffered, Buffered::Start { .. })
    }

    /// True if nothing more will be read.
    fn has_ended(&self) -> bool {
        self.source == Source::Ended
    }

    /// How many bytes it keeps.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True if it keeps none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// For how many there is room.
    pub fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Notes an event of the socket: it can be read, perhaps to its end.
    pub fn note_readable(&mut self, is_ending: bool) {
        self.source = match self.source {
            Source::Ended => Source::Ended,
            Source::Ending => Source::Ending,
            Source::Quiet | Source::Readable if is_ending => Source::Ending,
            Source::Quiet | Source::Readable => Source::Readable,
        };
    }

    /// Notes that nothing more will be read.
    pub fn end(&mut self) {
        self.source = Source::Ended;
    }

    fn note_read(&mut self, bytes: usize, end: ReadEnd) {
        self.source = match (end, self.source) {
            (ReadEnd::Closed, _) => Source::Ended,
            // The end of the stream comes with the same event as the last bytes: read on to it.
            (ReadEnd::Drained, Source::Ending) if bytes > 0 => Source::Ending,
            (ReadEnd::Drained, _) => Source::Quiet,
            (ReadEnd::More, source) => source,
        };
    }

    /// True if what is read next may run straight from the thread's own buffer.
    #[inline]
    pub fn takes_direct(&self) -> bool {
        self.bytes.is_empty() && self.stall.is_none() && self.is_at_start()
    }

    /// Reads into the thread's buffer, if [`Input::takes_direct`]. Returns how many bytes came, which are then to be run.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn read_direct(&mut self, stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
        debug_assert!(self.takes_direct(), "bytes that were kept come first");
        let (bytes, end) = loop {
            break match stream.read(buffer) {
                Ok(0) => (0, ReadEnd::Closed),
                // A read that does not fill the buffer has emptied the socket.
                Ok(bytes) if bytes < buffer.len() => (bytes, ReadEnd::Drained),
                Ok(bytes) => (bytes, ReadEnd::More),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => (0, ReadEnd::Drained),
                Err(error) => return Err(error),
            };
        };
        self.note_read(bytes, end);
        Ok(bytes)
    }

    /// Reads behind the bytes that it keeps; returns how many came. Room at most doubles what has truly arrived, whatever was
    /// announced, and ends at the size of the request; so a long request is copied twice at most on its way in.
    ///
    /// # Errors
    /// The connection is broken. What came before stays.
    pub fn read_more(&mut self, stream: &mut impl Read) -> io::Result<usize> {
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
        let result = stream.take(room as u64).read_to_end(&mut self.bytes);
        let bytes = self.bytes.len() - len;
        if bytes > 0 && self.is_at_start() {
            self.buffered = Buffered::Unparsed { done: 0 };
        }
        let end = match result {
            Ok(bytes) if bytes < room => ReadEnd::Closed,
            Ok(_) => ReadEnd::More,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => ReadEnd::Drained,
            Err(error) => return Err(error),
        };
        self.note_read(bytes, end);
        Ok(bytes)
    }

    /// Begins to run what was read into the thread's buffer. [`Input::keep`] ends that.
    #[inline]
    pub fn begin_direct(&mut self) {
        debug_assert!(self.takes_direct(), "bytes that were kept come first");
        self.buffered = Buffered::Running;
    }

    /// Begins to run what it keeps, and gives the bytes away; `batch` gets the requests that are parsed already.
    /// [`Input::keep_own`] ends that.
    pub fn begin_own(&mut self, batch: &mut Batch) -> Vec<u8> {
        batch.clear();
        match std::mem::replace(&mut self.buffered, Buffered::Running) {
            Buffered::Requests(kept) => *batch = *kept,
            Buffered::Unparsed { done } => batch.parsed = done,
            Buffered::Start { .. } | Buffered::Running => {
                debug_assert!(false, "there is nothing to run")
            }
        }
        std::mem::take(&mut self.bytes)
    }

    /// Keeps what a run that ended so has left of `input`, of which `batch` is a part.
    #[inline]
    pub fn keep(&mut self, input: &[u8], batch: &mut Batch, end: RunEnd) {
        let consumed = batch.consumed();
        self.bytes.extend_from_slice(&input[consumed..]);
        self.note_run(consumed, batch, end);
    }

    /// As [`Input::keep`], for the bytes that [`Input::begin_own`] gave away.
    pub fn keep_own(&mut self, mut input: Vec<u8>, batch: &mut Batch, end: RunEnd) {
        let consumed = batch.consumed();
        let mut removed = consumed;
        if consumed == input.len() {
            // Long requests leave a large buffer behind: give it back.
            input = Vec::new();
        } else if consumed < input.len() / 2 && !matches!(end, RunEnd::UsedUp { .. }) {
            // A long pipeline stalls often: moving all that is left of it each time would take quadratic time.
            removed = 0;
        } else {
            input.drain(..consumed);
        }
        self.bytes = input;
        self.note_run(removed, batch, end);
    }

    /// Notes what is left after a run that ended so, of an input that has lost its first `removed` bytes.
    #[inline]
    fn note_run(&mut self, removed: usize, batch: &mut Batch, end: RunEnd) {
        (self.buffered, self.stall) = match end {
            RunEnd::UsedUp { wanted } => (Buffered::Start { wanted }, None),
            RunEnd::Stalled(stall) => (Buffered::left_of(removed, batch), Some(stall)),
            RunEnd::Closing => (Buffered::left_of(removed, batch), None),
        };
    }

    /// Forgets a run that a panic has ended. The connection can only be closed.
    pub fn abandon(&mut self) {
        (self.buffered, self.stall) = (Buffered::Start { wanted: 0 }, None);
        self.source = Source::Ended;
    }
}

impl Buffered {
    /// What a run that was stopped has left, of an input that has lost its first `removed` bytes.
    #[cold]
    fn left_of(removed: usize, batch: &mut Batch) -> Self {
        if !batch.is_unfinished() {
            let done = batch.parsed - removed;
            return Self::Unparsed { done };
        }
        let mut kept = std::mem::take(batch);
        kept.rebase(removed);
        Self::Requests(Box::new(kept))
    }
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
    parsed: usize,
    /// What is wrong with the input behind the last request.
    error: Option<ProtocolError>,
    /// The requests were looked at: their rows and hashes are known.
    pub prepared: bool,
}

/// What came of parsing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// There is something to run.
    Some,
    /// No whole request is left. The next one needs `wanted` bytes, as far as that is known.
    Nothing {
        /// See there.
        wanted: usize,
    },
}

impl Batch {
    /// Forgets all requests, keeping the memory unless it is unusually much.
    pub fn clear(&mut self) {
        const SPANS_KEPT_MAX: usize = 4096;
        self.spans.clear();
        self.spans.shrink_to(SPANS_KEPT_MAX);
        self.requests.clear();
        (self.next, self.parsed, self.error) = (0, 0, None);
        self.prepared = false;
    }

    /// True if a request waits to run or an error to be told.
    #[inline]
    pub fn is_unfinished(&self) -> bool {
        self.next < self.requests.len() || self.error.is_some()
    }

    /// The error behind the requests, once.
    #[inline]
    pub fn take_error(&mut self) -> Option<ProtocolError> {
        self.error.take()
    }

    /// Up to where the input is not needed any more.
    #[inline]
    pub fn consumed(&self) -> usize {
        self.requests
            .get(self.next)
            .map_or(self.parsed, |request| request.start)
    }

    /// Parses the complete requests of `input` from where the last call stopped, up to
    /// [`BATCH_REQUESTS_MAX`]. Before the client has authenticated only one: if that is AUTH, other limits
    /// hold for what follows.
    pub fn parse(
        &mut self,
        parser: &mut RequestParser,
        input: &mut [u8],
        limits: &Limits,
    ) -> Parsed {
        self.spans.clear();
        self.requests.clear();
        (self.next, self.prepared) = (0, false);
        let requests_max = if limits.authenticated {
            BATCH_REQUESTS_MAX
        } else {
            1
        };
        let mut wanted = 0;
        while self.requests.len() < requests_max && self.parsed < input.len() {
            let (start, first_span) = (self.parsed, self.spans.len());
            match parser.parse(&mut input[start..], &mut self.spans, limits) {
                Ok(Progress::Complete { consumed }) => {
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
                Ok(Progress::Incomplete { wanted: bytes }) => {
                    wanted = bytes;
                    break;
                }
                Err(error) => {
                    self.error = Some(error);
                    break;
                }
            }
        }
        match self.is_unfinished() {
            true => Parsed::Some,
            false => Parsed::Nothing { wanted },
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
