//! Requests that have arrived and not run, and why they wait.

use std::time::Instant;

use damselfly_engine::Busy;
use damselfly_protocol::{Limits, ProtocolError, RequestParser, Span};

use crate::registry::Row;
#[cfg(doc)]
use crate::session::Session;
use crate::session::pause::Hold;

/// The most requests that are parsed, prefetched and run together.
pub const BATCH_REQUESTS_MAX: usize = 64;

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
    pub(crate) fn rebase(&mut self, bytes: usize) {
        self.requests.drain(..self.next);
        (self.next, self.prepared) = (0, false);
        for request in &mut self.requests {
            request.start -= bytes;
        }
        self.parsed -= bytes;
    }
}
