//! Tests of the replies.

use super::*;
use crate::random::with_seeds;

/// The output of `write`, in RESP2 and in RESP3.
fn both(write: impl Fn(&mut Reply<'_>)) -> (String, String) {
    let text = |version| {
        let mut out = b"before".to_vec();
        write(&mut Reply::new(&mut out, version));
        String::from_utf8(out.split_off(6)).expect("the replies of these tests are text")
    };
    (text(Version::Resp2), text(Version::Resp3))
}

fn assert_both(write: impl Fn(&mut Reply<'_>), resp2: &str, resp3: &str) {
    assert_eq!(both(write), (resp2.to_owned(), resp3.to_owned()));
}

fn assert_same(write: impl Fn(&mut Reply<'_>), both: &str) {
    assert_both(write, both, both);
}

// The expectations were observed on Redis 7.0.15, most of them with `DEBUG PROTOCOL`.

#[test]
fn types_of_both_versions_are_written_alike() {
    assert_same(|reply| reply.ok(), "+OK\r\n");
    assert_same(|reply| reply.simple("PONG"), "+PONG\r\n");
    assert_same(|reply| reply.integer(0), ":0\r\n");
    assert_same(|reply| reply.integer(9), ":9\r\n");
    assert_same(|reply| reply.integer(-1), ":-1\r\n");
    assert_same(|reply| reply.integer(12345), ":12345\r\n");
    assert_same(|reply| reply.integer(i64::MIN), ":-9223372036854775808\r\n");
    assert_same(|reply| reply.bulk(b""), "$0\r\n\r\n");
    assert_same(|reply| reply.bulk(b"Hello World"), "$11\r\nHello World\r\n");
    assert_same(|reply| reply.bulk_integer(-10), "$3\r\n-10\r\n");
    assert_same(
        |reply| reply.bulk_display(format_args!("{:>10}", 7)),
        "$10\r\n         7\r\n",
    );
    assert_same(|reply| reply.array(3), "*3\r\n");
}

#[test]
fn types_of_resp3_have_a_form_in_resp2() {
    assert_both(|reply| reply.null(), "$-1\r\n", "_\r\n");
    assert_both(|reply| reply.null_array(), "*-1\r\n", "_\r\n");
    assert_both(|reply| reply.map(3), "*6\r\n", "%3\r\n");
    assert_both(|reply| reply.set(3), "*3\r\n", "~3\r\n");
    assert_both(|reply| reply.push(2), "*2\r\n", ">2\r\n");
    assert_both(
        |reply| assert_eq!(reply.attribute(1), reply.version() == Version::Resp3),
        "",
        "|1\r\n",
    );
    assert_both(|reply| reply.boolean(true), ":1\r\n", "#t\r\n");
    assert_both(|reply| reply.boolean(false), ":0\r\n", "#f\r\n");
    assert_both(|reply| reply.double(-1.5), "$4\r\n-1.5\r\n", ",-1.5\r\n");
    assert_both(
        |reply| reply.big_number("123456"),
        "$6\r\n123456\r\n",
        "(123456\r\n",
    );
    assert_both(
        |reply| reply.verbatim(*b"txt", b"This is a verbatim\nstring"),
        "$25\r\nThis is a verbatim\nstring\r\n",
        "=29\r\ntxt:This is a verbatim\nstring\r\n",
    );
}

#[test]
fn errors_are_one_line() {
    assert_same(|reply| reply.error("ERR a\r\nb\n"), "-ERR a  b\r\n");
    assert_same(|reply| reply.error("ERR a\n"), "-ERR a\r\n");
    assert_same(|reply| reply.error(b"ERR a "), "-ERR a \r\n");
    assert_same(|reply| reply.error("\r\n"), "-\r\n");
}

#[test]
fn lengths_of_any_number_of_digits_are_written() {
    for len in [0, 9, 10, 11, 99, 100, 101, 999, 1000, 65536] {
        assert_same(|reply| reply.array(len), &format!("*{len}\r\n"));
        let text = "x".repeat(len);
        assert_same(
            |reply| reply.bulk(text.as_bytes()),
            &format!("${len}\r\n{text}\r\n"),
        );
        assert_same(
            |reply| reply.bulk_display(&text),
            &format!("${len}\r\n{text}\r\n"),
        );
    }
}

#[test]
fn deferred_collections_equal_those_of_known_length() {
    for count in [0, 1, 4, 5, 9, 10, 99, 100, 12_345] {
        let deferred = both(|reply| {
            let outer = reply.deferred_array();
            for index in 0..count {
                let map = reply.deferred_map();
                for item in 0..index % 12 {
                    reply.integer(item);
                    let set = reply.deferred_set();
                    reply.finish(set, 0);
                }
                reply.finish(map, (index % 12) as usize);
            }
            reply.finish(outer, count as usize);
        });
        let direct = both(|reply| {
            reply.array(count as usize);
            for index in 0..count {
                reply.map((index % 12) as usize);
                for item in 0..index % 12 {
                    reply.integer(item);
                    reply.set(0);
                }
            }
        });
        assert!(deferred == direct, "with {count} items");
    }
}

#[test]
fn written_bytes_can_be_removed() {
    let mut out = b"before".to_vec();
    let mut reply = Reply::new(&mut out, Version::Resp2);
    let position = reply.position();
    reply.bulk(b"value");
    assert_eq!(reply.written_since(position), b"$5\r\nvalue\r\n");
    reply.truncate_to(position);
    assert_eq!(out, b"before");
}

fn double(value: f64) -> String {
    let mut out = Vec::new();
    Reply::new(&mut out, Version::Resp3).double(value);
    let text = String::from_utf8(out).expect("a number is text");
    let text = text
        .strip_prefix(',')
        .and_then(|text| text.strip_suffix("\r\n"));
    text.expect("the form of a double").to_owned()
}

#[test]
fn doubles_are_written_as_redis_writes_them() {
    for (value, text) in [
        ("0.1", "0.10000000000000001"),
        ("1e-7", "9.9999999999999995e-08"),
        ("3.0e20", "3e+20"),
        ("1", "1"),
        ("-0", "-0"),
        ("0", "0"),
        ("inf", "inf"),
        ("-inf", "-inf"),
        ("nan", "nan"),
        ("-nan", "nan"),
        ("1e15", "1000000000000000"),
        ("1e16", "10000000000000000"),
        ("1e17", "1e+17"),
        ("12345678901234567", "12345678901234568"),
        ("123456789012345678", "1.2345678901234568e+17"),
        ("1e300", "1.0000000000000001e+300"),
        ("5e-324", "4.9406564584124654e-324"),
        ("1.75e-100", "1.75e-100"),
        ("3.14", "3.1400000000000001"),
        ("100000.5", "100000.5"),
        ("1000000000000000.5", "1000000000000000.5"),
        ("0.001", "0.001"),
        ("0.0001", "0.0001"),
        ("0.00001", "1.0000000000000001e-05"),
        ("-1.5", "-1.5"),
        ("1e21", "1e+21"),
        // A tie between two numbers of 17 digits goes to the even one.
        ("1125899906842625.25", "1125899906842625.2"),
        ("1125899906842625.75", "1125899906842625.8"),
    ] {
        let value: f64 = value.parse().expect("a number");
        assert_eq!(double(value), text);
    }
}

#[test]
fn doubles_survive_a_round_trip() {
    with_seeds(20_000, |random| {
        let value = f64::from_bits(random.next());
        if !value.is_nan() {
            assert_eq!(double(value).parse(), Ok(value));
        }
    });
}
