//! **What a connection speaks**: the protocol of a listening socket and of its connections, and the parser that turns a connection's
//! bytes into requests.
//!
//! A new protocol is one more variant of [`Protocol`], [`Parser`] and [`InputError`]. The rest of the event loop sees only [`Batch`]es.

use damselfly_protocol::{Limits, Progress, ProtocolError, Reply, RequestParser};

use crate::event_loop::connection::Connection;
use crate::event_loop::input::{BATCH_REQUESTS_MAX, Batch, Request};
use crate::session::Replies;

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2 or RESP3.
    Resp,
}

/// Finds requests in the bytes of one connection.
#[derive(Debug)]
pub enum Parser {
    /// Requests in RESP.
    Resp(RequestParser),
}

impl Parser {
    /// A parser that expects the first byte of a request.
    pub fn new(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Resp => Self::Resp(RequestParser::new()),
        }
    }

    /// Parses complete requests from where `batch` ends in `input`. Returns how many bytes the next request needs, as far as that is
    /// known; zero if it is not incomplete.
    #[inline]
    pub fn parse(&mut self, batch: &mut Batch, input: &mut [u8], limits: &Limits) -> usize {
        match self {
            Self::Resp(parser) => parse_resp(parser, batch, input, limits),
        }
    }
}

/// Parses up to [`BATCH_REQUESTS_MAX`] requests; only one before the client has authenticated: if that is AUTH, other limits apply to
/// the rest.
fn parse_resp(
    parser: &mut RequestParser,
    batch: &mut Batch,
    input: &mut [u8],
    limits: &Limits,
) -> usize {
    let requests_max = if limits.authenticated {
        BATCH_REQUESTS_MAX
    } else {
        1
    };
    while batch.requests.len() < requests_max && batch.parsed < input.len() {
        let (start, first_span) = (batch.parsed, batch.spans.len());
        match parser.parse(&mut input[start..], &mut batch.spans, limits) {
            Ok(Progress::Complete { consumed }) => {
                batch.parsed += consumed;
                let spans = batch.spans.len() - first_span;
                if spans > 0 {
                    batch.requests.push(Request {
                        start,
                        first_span,
                        spans,
                        row: None,
                        hash: 0,
                    });
                }
            }
            Ok(Progress::Incomplete { wanted }) => return wanted,
            Err(error) => {
                batch.error = Some(InputError::Resp(error));
                break;
            }
        }
    }
    0
}

/// An input that violates the protocol of its connection, which is then closed.
#[derive(Clone, Copy, Debug)]
pub enum InputError {
    /// The client is told why.
    Resp(ProtocolError),
}

impl InputError {
    /// Writes the reply, if there is one. Returns the text for the log and the statistics.
    #[cold]
    pub fn reply(self, connection: &mut Connection) -> Vec<u8> {
        match self {
            Self::Resp(error) => {
                if connection.session.replies != Replies::Off {
                    let protocol = connection.session.protocol;
                    Reply::new(&mut connection.output, protocol).error(error.text());
                }
                error.text().into_owned()
            }
        }
    }
}
