//! **What a connection speaks**: the protocol of a listening socket and of its connections, and the parser that turns a connection's
//! bytes into requests.
//!
//! A new protocol is one more variant of [`Protocol`], [`Parser`] and [`InputError`]. The rest of the event loop sees only [`Batch`]es.

use damselfly_protocol::{Limits, Progress, ProtocolError, Reply, RequestParser, memcached};

use crate::event_loop::connection::Connection;
use crate::event_loop::input::{BATCH_REQUESTS_MAX, Batch, Request};
use crate::memcached::{TABLE, Table};
use crate::session::Replies;

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// RESP2 or RESP3.
    Resp,
    /// memcached's text and meta protocols.
    Memcached,
}

/// Finds requests in the bytes of one connection.
pub enum Parser {
    /// Requests in RESP.
    Resp(RequestParser),
    /// Requests of memcached, with their rows.
    Memcached(memcached::Parser, &'static Table),
}

/// The limits on the requests of one connection.
#[derive(Clone, Copy, Debug)]
pub struct ParserLimits {
    /// The limits of RESP. Those for clients that have not authenticated apply to every protocol.
    pub resp: Limits,
    /// The largest item of memcached, in bytes.
    pub item_bytes_max: usize,
}

impl Parser {
    /// A parser that expects the first byte of a request.
    pub fn new(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Resp => Self::Resp(RequestParser::new()),
            Protocol::Memcached => Self::Memcached(memcached::Parser::new(), &TABLE),
        }
    }

    /// Parses complete requests from where `batch` ends in `input`. Returns how many bytes the next request needs, as far as that is
    /// known; zero if it is not incomplete.
    #[inline]
    pub fn parse(&mut self, batch: &mut Batch, input: &mut [u8], limits: &ParserLimits) -> usize {
        match self {
            Self::Resp(parser) => parse_resp(parser, batch, input, &limits.resp),
            Self::Memcached(parser, table) => {
                let limits = memcached::Limits {
                    item_bytes_max: limits.item_bytes_max,
                    authenticated: limits.resp.authenticated,
                };
                parse_memcached(parser, table, batch, input, &limits)
            }
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
                        key: None,
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

/// Parses about [`BATCH_REQUESTS_MAX`] requests: more if one line has so many keys, and only one before the client has authenticated.
fn parse_memcached(
    parser: &mut memcached::Parser,
    table: &'static Table,
    batch: &mut Batch,
    input: &mut [u8],
    limits: &memcached::Limits,
) -> usize {
    let requests_max = match limits.authenticated {
        true => BATCH_REQUESTS_MAX,
        false => 1,
    };
    while batch.requests.len() < requests_max && batch.parsed < input.len() {
        let start = batch.parsed;
        let requests = &mut batch.requests;
        let mut emit = |verb, spans: std::ops::Range<usize>| {
            requests.push(Request {
                start,
                first_span: spans.start,
                spans: spans.len(),
                row: Some(table.row(verb)),
                key: None,
            });
        };
        match parser.parse(&mut input[start..], &mut batch.spans, limits, &mut emit) {
            Ok(memcached::Framed::Complete { consumed }) => batch.parsed += consumed,
            Ok(memcached::Framed::Incomplete { wanted }) => return wanted,
            Err(error) => {
                batch.error = Some(InputError::Memcached(error));
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
    /// The client is told nothing, as memcached does.
    Memcached(memcached::ProtocolError),
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
            Self::Memcached(error) => {
                if error == memcached::ProtocolError::Binary {
                    log::warn!(
                        "Closing memcached client {}: {}",
                        connection.session.client.address,
                        error.text()
                    );
                }
                error.text().as_bytes().to_vec()
            }
        }
    }
}
