//! What must hold for any bytes: entry points for a fuzzer, and for the random tests.

use crate::client::{DecodeError, DecodeLimits, Decoder, Value, skip_reply};
use crate::request::{Limits, Progress, ProtocolError, RequestParser};

/// The arguments of a request.
pub type Request = Vec<Vec<u8>>;

/// Parses `data` as the requests of one connection, at once and in pieces, and requires that both
/// see the same, but for lines that are too long before their end arrives.
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
                assert!(whole.0.starts_with(&requests), "by {piece_bytes}");
            } else {
                assert_eq!((&requests, end), (&whole.0, whole.1), "by {piece_bytes}");
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

/// Parses `data` that arrives in pieces of `piece_bytes`: the requests, and what ended them.
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

/// Decodes `data` as the replies of one connection, at once and in pieces, and requires that both
/// see the same, that values can be shown, and that `skip_reply` agrees.
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

/// Decodes `data` that arrives in pieces: the values with their lengths, and what ended them.
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
