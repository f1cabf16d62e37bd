//! Properties that hold for any bytes: entry points for fuzzing and random tests.

use crate::client::{DecodeError, DecodeLimits, Decoder, Value, skip_reply};
use crate::memcached;
use crate::request::{Limits, Progress, ProtocolError, RequestParser};

/// The arguments of a request.
pub type Request = Vec<Vec<u8>>;

/// Parses `data` as the requests of one connection, at once and in pieces, and asserts that the
/// results are equal, except for lines that are too long before their end arrives.
pub fn requests(data: &[u8]) {
    let short = Limits {
        bulk_bytes_max: 100,
        arguments_max: 8,
        inline_bytes_max: 24,
        ..Limits::default()
    };
    for limits in [Limits::default(), Limits::unauthenticated(), short] {
        let whole = parse_in_pieces(data, &limits, usize::MAX);
        for piece_bytes in [1, 2, 7, 64] {
            let (requests, end) = parse_in_pieces(data, &limits, piece_bytes);
            if end.is_some_and(is_too_long) {
                assert!(whole.0.starts_with(&requests), "in pieces of {piece_bytes}");
            } else {
                assert_eq!(
                    (&requests, end),
                    (&whole.0, whole.1),
                    "in pieces of {piece_bytes}"
                );
            }
        }
    }
}

fn is_too_long(error: ProtocolError) -> bool {
    matches!(
        error,
        ProtocolError::TooBigInline
            | ProtocolError::TooBigBulkCount
            | ProtocolError::TooBigMultibulkCount
    )
}

/// Parses `data` that arrives in pieces of `piece_bytes`; returns the requests, and the error after
/// them if there is one.
pub fn parse_in_pieces(
    data: &[u8],
    limits: &Limits,
    piece_bytes: usize,
) -> (Vec<Request>, Option<ProtocolError>) {
    let mut parser = RequestParser::new();
    let mut requests = Vec::new();
    let mut spans = Vec::new();
    let mut buffer = Vec::new();
    let mut wanted_max = 0;
    for piece in data.chunks(piece_bytes) {
        buffer.extend_from_slice(piece);
        loop {
            match parser.parse(&mut buffer, &mut spans, limits) {
                Ok(Progress::Complete { consumed }) => {
                    assert!(consumed >= wanted_max, "{consumed} bytes, not {wanted_max}");
                    assert!(parser.is_idle());
                    assert_eq!(parser.heap_bytes(), 0);
                    wanted_max = 0;
                    requests.push(
                        spans
                            .drain(..)
                            .map(|span| span.of(&buffer).to_vec())
                            .collect(),
                    );
                    buffer.drain(..consumed);
                }
                Ok(Progress::Incomplete { wanted }) => {
                    assert!(wanted > buffer.len());
                    assert!(spans.is_empty());
                    wanted_max = wanted_max.max(wanted);
                    break;
                }
                Err(error) => {
                    assert!(spans.is_empty());
                    return (requests, Some(error));
                }
            }
        }
    }
    (requests, None)
}

/// Decodes `data` as the replies of one connection, at once and in pieces, and asserts that the
/// results are equal and that `skip_reply` agrees.
pub fn replies(data: &[u8]) {
    let limits = DecodeLimits {
        depth_max: 5,
        bytes_max: 200,
    };
    let (values, end) = decode_in_pieces(data, &limits, usize::MAX);
    for piece_bytes in [1, 3, 50] {
        assert_eq!(
            decode_in_pieces(data, &limits, piece_bytes),
            (values.clone(), end)
        );
    }
    let mut rest = data;
    for (value, bytes) in values {
        assert_eq!(skip_reply(rest), Some(bytes), "{value}");
        rest = &rest[bytes..];
    }
}

/// Decodes `data` that arrives in pieces of `piece_bytes`; returns the values with their lengths,
/// and the error after them if there is one.
pub fn decode_in_pieces(
    data: &[u8],
    limits: &DecodeLimits,
    piece_bytes: usize,
) -> (Vec<(Value, usize)>, Option<DecodeError>) {
    let mut decoder = Decoder::new(limits.clone());
    let mut values = Vec::new();
    let mut buffer = Vec::new();
    for piece in data.chunks(piece_bytes) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.decode(&buffer) {
                Ok(Some((value, bytes))) => {
                    buffer.drain(..bytes);
                    values.push((value, bytes));
                }
                Ok(None) => break,
                Err(error) => return (values, Some(error)),
            }
        }
    }
    (values, None)
}

/// A memcached request: what it asks for, and its arguments.
pub type MemcachedRequest = (memcached::Verb, Vec<Vec<u8>>);

/// Parses `data` as the memcached requests of one connection, at once and in pieces, and asserts that the results are equal, except
/// for lines that are too long before their end arrives.
pub fn memcached_requests(data: &[u8]) {
    for (item_bytes_max, authenticated) in [(1 << 20, true), (80, true), (1 << 20, false)] {
        let limits = memcached::Limits {
            item_bytes_max,
            authenticated,
        };
        let whole = parse_memcached(data, &limits, usize::MAX);
        for piece_bytes in [1, 2, 7, 64] {
            let (requests, end) = parse_memcached(data, &limits, piece_bytes);
            if end == Some(memcached::ProtocolError::LongLine) {
                assert!(whole.0.starts_with(&requests), "in pieces of {piece_bytes}");
            } else {
                assert_eq!(
                    (&requests, end),
                    (&whole.0, whole.1),
                    "in pieces of {piece_bytes}"
                );
            }
        }
    }
}

/// Parses `data` that arrives in pieces of `piece_bytes`; returns the requests, and the error after them if there is one.
pub fn parse_memcached(
    data: &[u8],
    limits: &memcached::Limits,
    piece_bytes: usize,
) -> (Vec<MemcachedRequest>, Option<memcached::ProtocolError>) {
    let mut parser = memcached::Parser::new();
    let (mut requests, mut spans, mut buffer) = (Vec::new(), Vec::new(), Vec::new());
    for piece in data.chunks(piece_bytes) {
        buffer.extend_from_slice(piece);
        while !buffer.is_empty() {
            let mut found = Vec::new();
            let result = parser.parse(&mut buffer, &mut spans, limits, &mut |verb, range| {
                found.push((verb, range));
            });
            for (verb, range) in found {
                let args = spans[range]
                    .iter()
                    .map(|span| span.of(&buffer).to_vec())
                    .collect();
                requests.push((verb, args));
            }
            match result {
                Ok(memcached::Framed::Complete { consumed }) => {
                    assert!(consumed > 0);
                    buffer.drain(..consumed);
                }
                Ok(memcached::Framed::Incomplete { wanted }) => {
                    assert!(wanted > buffer.len() && spans.is_empty());
                    break;
                }
                Err(error) => return (requests, Some(error)),
            }
            spans.clear();
        }
    }
    (requests, None)
}
