//! Tests of the client side.

use super::*;
use crate::fuzz::{self, decode_in_pieces};
use crate::random::{Random, with_seeds};

fn decode(data: &[u8]) -> Result<Option<(Value, usize)>, DecodeError> {
    Decoder::default().decode(data)
}

/// Writes `value` with the server's writer.
fn write(reply: &mut Reply<'_>, value: &Value) {
    match value {
        Value::Simple(text) => reply.simple(str::from_utf8(text).expect("simple text is ASCII")),
        Value::Error(text) => reply.error(text),
        Value::Integer(value) => reply.integer(*value),
        Value::Bulk(bytes) => reply.bulk(bytes),
        Value::Null(NullKind::Bulk | NullKind::Resp3) => reply.null(),
        Value::Null(NullKind::Array) => reply.null_array(),
        Value::Array(items) => {
            reply.array(items.len());
            items.iter().for_each(|item| write(reply, item));
        }
        Value::Set(items) => {
            reply.set(items.len());
            items.iter().for_each(|item| write(reply, item));
        }
        Value::Push(items) => {
            reply.push(items.len());
            items.iter().for_each(|item| write(reply, item));
        }
        Value::Map(pairs) => {
            reply.map(pairs.len());
            write_pairs(reply, pairs);
        }
        Value::Double(text) => reply.double(text.parse().expect("a double is a number")),
        Value::Boolean(value) => reply.boolean(*value),
        Value::BigNumber(digits) => reply.big_number(digits),
        Value::Verbatim { format, text } => reply.verbatim(*format, text),
        Value::Attribute {
            pairs,
            reply: value,
        } => {
            if reply.attribute(pairs.len()) {
                write_pairs(reply, pairs);
            }
            write(reply, value);
        }
    }
}

fn write_pairs(reply: &mut Reply<'_>, pairs: &[(Value, Value)]) {
    for (key, value) in pairs {
        write(reply, key);
        write(reply, value);
    }
}

/// `value` as a client of `version` receives it.
fn as_received(value: &Value, version: Version) -> Value {
    let all = |items: &[Value]| {
        items
            .iter()
            .map(|item| as_received(item, version))
            .collect()
    };
    let both = |pairs: &[(Value, Value)]| -> Vec<(Value, Value)> {
        pairs
            .iter()
            .map(|(key, value)| (as_received(key, version), as_received(value, version)))
            .collect()
    };
    match (version, value) {
        (Version::Resp2, Value::Null(NullKind::Resp3)) => Value::Null(NullKind::Bulk),
        (Version::Resp2, Value::Set(items) | Value::Push(items)) => Value::Array(all(items)),
        (Version::Resp2, Value::Map(pairs)) => Value::Array(
            both(pairs)
                .into_iter()
                .flat_map(|(key, value)| [key, value])
                .collect(),
        ),
        (Version::Resp2, Value::Double(text) | Value::BigNumber(text)) => {
            Value::Bulk(text.clone().into_bytes())
        }
        (Version::Resp2, Value::Boolean(value)) => Value::Integer(i64::from(*value)),
        (Version::Resp2, Value::Verbatim { format: _, text }) => Value::Bulk(text.clone()),
        (Version::Resp2, Value::Attribute { pairs: _, reply }) => as_received(reply, version),
        (Version::Resp3, Value::Null(_)) => Value::Null(NullKind::Resp3),
        (Version::Resp3, Value::Map(pairs)) => Value::Map(both(pairs)),
        (Version::Resp3, Value::Set(items)) => Value::Set(all(items)),
        (Version::Resp3, Value::Push(items)) => Value::Push(all(items)),
        (Version::Resp3, Value::Attribute { pairs, reply }) => Value::Attribute {
            pairs: both(pairs),
            reply: Box::new(as_received(reply, version)),
        },
        (_, Value::Array(items)) => Value::Array(all(items)),
        (_, value) => value.clone(),
    }
}

fn random_value(random: &mut Random, depth: usize) -> Value {
    let kinds = if depth == 0 { 10 } else { 15 };
    let text = |random: &mut Random| {
        random
            .bytes(20)
            .iter()
            .map(|byte| b' ' + byte % 95)
            .collect::<Vec<u8>>()
    };
    match random.below(kinds) {
        0 => Value::Simple(text(random)),
        1 => Value::Error(text(random)),
        2 => Value::Integer(random.next().cast_signed() >> random.below(64)),
        3 => Value::Null(random.pick(&[NullKind::Bulk, NullKind::Array, NullKind::Resp3])),
        4 => Value::Double(
            random
                .pick(&["1.5", "-0", "inf", "-inf", "nan", "3e+20"])
                .to_owned(),
        ),
        5 => Value::Boolean(random.below(2) == 0),
        6 => Value::BigNumber("123456789012345678901234567890".to_owned()),
        7 => Value::Verbatim {
            format: *b"txt",
            text: random.bytes(20),
        },
        8 | 9 => Value::Bulk(random.bytes(200)),
        10 => Value::Array(random_values(random, depth)),
        11 => Value::Set(random_values(random, depth)),
        12 => Value::Push(random_values(random, depth)),
        13 => Value::Map(random_pairs(random, depth)),
        _ => Value::Attribute {
            pairs: random_pairs(random, depth),
            reply: Box::new(random_value(random, depth - 1)),
        },
    }
}

fn random_values(random: &mut Random, depth: usize) -> Vec<Value> {
    (0..random.below(5))
        .map(|_| random_value(random, depth - 1))
        .collect()
}

fn random_pairs(random: &mut Random, depth: usize) -> Vec<(Value, Value)> {
    let mut value = || random_value(random, depth - 1);
    let pair = (value(), value());
    vec![pair; random.below(3)]
}

#[test]
fn the_client_decodes_what_the_server_writes() {
    with_seeds(5_000, |random| {
        let values: Vec<Value> = (0..4).map(|_| random_value(random, 3)).collect();
        for version in [Version::Resp2, Version::Resp3] {
            let mut data = Vec::new();
            let mut reply = Reply::new(&mut data, version);
            let mut expected = Vec::new();
            for value in &values {
                let position = reply.position();
                write(&mut reply, value);
                expected.push((as_received(value, version), reply.position() - position));
            }
            let piece_bytes = 1 + random.below(100);
            let limits = DecodeLimits::default();
            assert_eq!(
                decode_in_pieces(&data, &limits, piece_bytes),
                (expected.clone(), None)
            );

            let mut rest = &data[..];
            for (_, bytes) in expected {
                for end in 0..bytes {
                    assert_eq!(skip_reply(&rest[..end]), None);
                }
                assert_eq!(skip_reply(rest), Some(bytes));
                rest = &rest[bytes..];
            }
        }
    });
}

#[test]
fn mutated_replies_do_no_harm() {
    with_seeds(5_000, |random| {
        let mut data = Vec::new();
        for _ in 0..3 {
            let value = random_value(random, 3);
            write(&mut Reply::new(&mut data, Version::Resp3), &value);
        }
        random.mutate(&mut data);
        fuzz::replies(&data);
    });
}

#[test]
fn random_bytes_do_no_harm() {
    with_seeds(20_000, |random| fuzz::replies(&random.bytes(60)));
}

#[test]
fn commands_are_written_as_arrays_of_bulks() {
    let mut out = Vec::new();
    write_command(&mut out, &[b"SET", b"", b"a\r\nb"]);
    assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\na\r\nb\r\n");
}

#[test]
fn limits_bound_depth_and_length() {
    let nested = |depth| [&b"*1\r\n".repeat(depth)[..], b":1\r\n"].concat();
    assert!(matches!(decode(&nested(64)), Ok(Some(_))));
    assert_eq!(decode(&nested(65)), Err(DecodeError::TooDeep));
    assert_eq!(decode(&nested(1_000_000)), Err(DecodeError::TooDeep));

    let decoder = || {
        Decoder::new(DecodeLimits {
            depth_max: 1,
            bytes_max: 9,
        })
    };
    assert!(matches!(decoder().decode(b"$3\r\nabc\r\n"), Ok(Some(_))));
    assert_eq!(
        decoder().decode(b"$4\r\nabcd\r\n"),
        Err(DecodeError::TooLong)
    );
    assert_eq!(decoder().decode(b"$99\r\nabcd"), Ok(None));
    assert_eq!(decoder().decode(b"$99\r\nabcde"), Err(DecodeError::TooLong));
}

#[test]
fn bytes_that_are_not_a_reply_are_an_error() {
    for data in [
        "PING\r\n",
        "$x\r\n",
        "$-2\r\n",
        "%-1\r\n",
        "*1000000000000000000000\r\n",
        ":1x\r\n",
        ":\r\n",
        ",x\r\n",
        "#x\r\n",
        "_x\r\n",
        "=3\r\nabc\r\n",
        "$1\r\naXX",
        "+OK\n",
    ] {
        assert_eq!(
            decode(data.as_bytes()),
            Err(DecodeError::Invalid),
            "{data:?}"
        );
    }
    assert_eq!(skip_reply(b"PING\r\n"), None);
}

/// The expected texts were observed with `redis-cli --no-raw` 7.0.15.
#[test]
fn values_are_shown_as_by_redis_cli() {
    for (data, text) in [
        ("+fine\r\n", "fine"),
        ("-ERR bad\r\n", "(error) ERR bad"),
        (":12345\r\n", "(integer) 12345"),
        ("$-1\r\n", "(nil)"),
        ("_\r\n", "(nil)"),
        (",3.5\r\n", "(double) 3.5"),
        ("#t\r\n", "(true)"),
        ("#f\r\n", "(false)"),
        ("*0\r\n", "(empty array)"),
        ("~0\r\n", "(empty set)"),
        ("%0\r\n", "(empty hash)"),
        (
            "=29\r\ntxt:This is a verbatim\nstring\r\n",
            "This is a verbatim\nstring",
        ),
        (
            "$9\r\n\"\\\x01\x07\x08\t\n\rz\r\n",
            r#""\"\\\x01\a\b\t\n\rz""#,
        ),
        ("~2\r\n:0\r\n:1\r\n", "1~ (integer) 0\n2~ (integer) 1"),
        (
            "%2\r\n:0\r\n#f\r\n:1\r\n#t\r\n",
            "1# (integer) 0 => (false)\n2# (integer) 1 => (true)",
        ),
        (
            "*1\r\n%1\r\n+a\r\n*1\r\n:1\r\n",
            "1) 1# a => 1) (integer) 1",
        ),
        (
            "*1\r\n%1\r\n+a\r\n*2\r\n:1\r\n:2\r\n",
            "1) 1# a => \n      1) (integer) 1\n      2) (integer) 2",
        ),
        (
            "%1\r\n+c\r\n%1\r\n+d\r\n*2\r\n:5\r\n:6\r\n",
            "1# c => \n   1# d => \n      1) (integer) 5\n      2) (integer) 6",
        ),
        (
            "*10\r\n:9\r\n:9\r\n:9\r\n:9\r\n:9\r\n:9\r\n:9\r\n:9\r\n:9\r\n*2\r\n:1\r\n*2\r\n:2\r\n:3\r\n",
            concat!(
                " 1) (integer) 9\n 2) (integer) 9\n 3) (integer) 9\n 4) (integer) 9\n",
                " 5) (integer) 9\n 6) (integer) 9\n 7) (integer) 9\n 8) (integer) 9\n",
                " 9) (integer) 9\n10) 1) (integer) 1\n    2) 1) (integer) 2\n",
                "       2) (integer) 3",
            ),
        ),
    ] {
        let (value, _) = decode(data.as_bytes()).unwrap().unwrap();
        assert_eq!(value.to_string(), text);
    }
}
