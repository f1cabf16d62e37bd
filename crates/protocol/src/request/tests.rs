//! Tests of the request parser.

use super::*;
use crate::client::write_command;
use crate::fuzz::{self, Request, parse_in_pieces};
use crate::random::{Random, with_seeds};

fn strings(requests: &[Request]) -> Vec<Vec<String>> {
    let text = |argument: &Vec<u8>| argument.escape_ascii().to_string();
    requests
        .iter()
        .map(|request| request.iter().map(text).collect())
        .collect()
}

/// The requests of `data`, which must end neither with an error nor within a request.
fn parse_all(data: &[u8]) -> Vec<Vec<String>> {
    let (requests, error) = parse_in_pieces(data, &Limits::default(), usize::MAX);
    assert_eq!(error, None, "{}", data.escape_ascii());
    strings(&requests)
}

/// The error of `data`, by the text that the client sees after `-ERR Protocol error: `.
fn error_with(data: &[u8], limits: &Limits) -> String {
    let (_, error) = parse_in_pieces(data, limits, usize::MAX);
    let mut out = Vec::new();
    let error = error.unwrap_or_else(|| panic!("no error: {}", data.escape_ascii()));
    crate::Reply::new(&mut out, crate::Version::Resp2).error(error.text());
    let text = out.escape_ascii().to_string();
    let text = text
        .strip_prefix("-ERR Protocol error: ")
        .expect("the text's beginning");
    text.strip_suffix(r"\r\n")
        .expect("the text's end")
        .to_owned()
}

fn error_of(data: &[u8]) -> String {
    error_with(data, &Limits::default())
}

fn is_incomplete(data: &[u8]) -> bool {
    parse_in_pieces(data, &Limits::default(), usize::MAX) == (vec![], None)
}

#[test]
fn multibulk_requests_are_slices_of_the_input() {
    let mut input = *b"*2\r\n$4\r\nECHO\r\n$0\r\n\r\n*1\r\n";
    let mut spans = vec![Span { start: 7, len: 7 }];
    let result = RequestParser::new().parse(&mut input, &mut spans, &Limits::default());
    assert_eq!(result, Ok(Progress::Complete { consumed: 20 }));
    let expected = [
        Span { start: 7, len: 7 },
        Span { start: 8, len: 4 },
        Span { start: 18, len: 0 },
    ];
    assert_eq!(spans, expected);
}

#[test]
fn lengths_of_any_number_of_digits_parse() {
    for len in [0, 9, 10, 99, 100, 999, 1000, 99_999, 100_000, 1_000_000] {
        let argument = vec![b'x'; len];
        let mut data = Vec::new();
        write_command(&mut data, &[b"ECHO", &argument]);
        let (requests, error) = parse_in_pieces(&data, &Limits::default(), usize::MAX);
        assert_eq!(
            (requests, error),
            (vec![vec![b"ECHO".to_vec(), argument]], None)
        );
    }
}

#[test]
fn requests_without_arguments_are_empty() {
    for data in [
        "\r\n",
        "\n",
        "   \r\n",
        "*0\r\n",
        "*-1\r\n",
        "*-2\r\n",
        "*-9223372036854775808\r\n",
    ] {
        assert_eq!(parse_all(data.as_bytes()), [[""; 0]], "{data:?}");
    }
}

// Each expectation below was seen from Redis 7.0.15.

#[test]
fn sloppy_line_ends_pass_as_in_redis() {
    assert_eq!(parse_all(b"*1\rX$4\r\nPING\r\n"), [["PING"]]);
    assert_eq!(parse_all(b"*1\r\n$4\rXPING\r\n"), [["PING"]]);
    assert_eq!(parse_all(b"*1\r\n$4\r\nPINGab\n"), [vec!["PING"], vec![]]);
    assert_eq!(parse_all(b"PING\nPING\r\n"), [["PING"], ["PING"]]);
    assert_eq!(parse_all(b"PING\r\r\n"), [["PING"]]);
    assert_eq!(parse_all(b"$4\r\nPING\r\n"), [["$4"], ["PING"]]);
}

#[test]
fn bad_counts_get_the_errors_of_redis() {
    for data in [
        "*-0\r\n",
        "*+1\r\n",
        "*01\r\n",
        "* 1\r\n",
        "*\r\n",
        "*a\r\n",
        "*1 \r\n",
        "*-\r\n",
        "*--1\r\n",
        "*1\n$4\r\n",
        "*2147483648\r\n",
        "*9223372036854775808\r\n",
        "*-9223372036854775809\r\n",
    ] {
        assert_eq!(
            error_of(data.as_bytes()),
            "invalid multibulk length",
            "{data:?}"
        );
    }
    assert!(is_incomplete(b"*2147483647\r\n"));
}

#[test]
fn bad_lengths_get_the_errors_of_redis() {
    for length in [
        "+4",
        "04",
        "-1",
        "-0",
        "",
        " 4",
        "4 ",
        "x",
        "536870913",
        "5000000000",
        "1111111111111111111111111",
    ] {
        let data = format!("*1\r\n${length}\r\n");
        assert_eq!(
            error_of(data.as_bytes()),
            "invalid bulk length",
            "{length:?}"
        );
    }
    assert!(is_incomplete(b"*1\r\n$536870912\r\n"));
}

#[test]
fn a_wrong_letter_is_named_once_its_line_has_ended() {
    assert_eq!(
        error_of(b"*1\r\nx4\r\nPING\r\n"),
        r"expected \'$\', got \'x\'"
    );
    assert_eq!(error_of(b"*1\r\n\r\n"), r"expected \'$\', got \' \'");
    assert_eq!(error_of(b"*1\r\n\rfoo\r\n"), r"expected \'$\', got \' \'");
    assert_eq!(error_of(b"*1\r\n\nfoo\r\n"), r"expected \'$\', got \' \'");
    assert_eq!(
        error_of(b"*1\r\n\xfffoo\r\n"),
        r"expected \'$\', got \'\xff\'"
    );
    assert_eq!(error_of(b"*1\r\n'foo\r\n"), r"expected \'$\', got \'\'\'");
    assert!(is_incomplete(b"*1\r\nx"));
    assert!(is_incomplete(b"*1\r\nx\r"));
}

#[test]
fn a_nul_hides_the_end_of_a_line() {
    for data in [
        "*1\0\r\n",
        "*\0",
        "*1\r\n$4\0\r\n",
        "*1\r\n\0foo\r\n",
        "\0PING\r\n",
        "PING \"a\0b\"\r\n",
    ] {
        assert!(is_incomplete(data.as_bytes()), "{data:?}");
    }
    let long = vec![b'0'; 1 << 16];
    assert_eq!(
        error_of(&[b"*1\0", &long[..]].concat()),
        "too big mbulk count string"
    );
    assert_eq!(
        error_of(&[b"a\0", &long[..]].concat()),
        "too big inline request"
    );
}

#[test]
fn lines_longer_than_64_kib_get_the_errors_of_redis() {
    for (before, text) in [
        ("", "too big inline request"),
        ("*", "too big mbulk count string"),
        ("*1\r\n$", "too big bulk count string"),
        ("*1\r\n", "too big bulk count string"),
    ] {
        let line = before.len() - before.rfind('\n').map_or(0, |index| index + 1);
        let most = [before.as_bytes(), &vec![b'1'; (1 << 16) - line]].concat();
        assert!(is_incomplete(&most), "{before:?}");
        assert_eq!(error_of(&[&most[..], b"1"].concat()), text, "{before:?}");
    }
}

#[test]
fn clients_that_have_not_authenticated_may_send_little() {
    let limits = Limits::unauthenticated();
    let most = parse_in_pieces(b"*10\r\n$16384\r\n", &limits, usize::MAX);
    assert_eq!(most, (vec![], None));
    assert_eq!(
        error_with(b"*11\r\n$1\r\n", &limits),
        "unauthenticated multibulk length"
    );
    assert_eq!(
        error_with(b"*2147483648\r\n", &limits),
        "invalid multibulk length"
    );
    assert_eq!(
        error_with(b"*1\r\n$16385\r\n", &limits),
        "unauthenticated bulk length"
    );
    assert_eq!(
        error_with(b"*1\r\n$536870913\r\n", &limits),
        "invalid bulk length"
    );
    let inline = parse_in_pieces(b"a a a a a a a a a a a\r\n", &limits, usize::MAX);
    assert_eq!(inline.0[0].len(), 11);
}

#[test]
fn inline_words_are_split_and_unquoted() {
    for (line, words) in [
        ("  PING  ", &["PING"][..]),
        ("PI\rNG", &["PI", "NG"]),
        ("PING\tfoo", &["PING", "foo"]),
        ("PING\x0bfoo", &[r"PING\x0bfoo"]),
        ("PING \x0bfoo", &["PING", "foo"]),
        ("\x0bPING", &["PING"]),
        ("ECHO \tx\x0by\x0c", &["ECHO", r"x\x0by\x0c"]),
        ("PING \"\"", &["PING", ""]),
        ("\"\" a", &["", "a"]),
        ("PING ''", &["PING", ""]),
        ("PING \"a\"\x0b\"b\"", &["PING", "a", "b"]),
        ("PING a\"b c\"", &["PING", "ab c"]),
        ("PING a'b c'", &["PING", "ab c"]),
        (
            r#"PING "\x41\n\r\t\b\a\q\\\"""#,
            &["PING", r#"A\n\r\t\x08\x07q\\\""#],
        ),
        (r#"PING "\x4g""#, &["PING", "x4g"]),
        (r#"PING "\x4""#, &["PING", "x4"]),
        (r#"PING "\X41""#, &["PING", "X41"]),
        (r#"PING "\xAf""#, &["PING", r"\xaf"]),
        (r#"ECHO "\x00""#, &["ECHO", r"\x00"]),
        (r"PING 'a\'b\n'", &["PING", r"a\'b\\n"]),
        (r"PING a\x41", &["PING", r"a\\x41"]),
        ("PING \u{1c}b", &["PING", r"\x1cb"]),
    ] {
        assert_eq!(
            parse_all(format!("{line}\r\n").as_bytes()),
            [words],
            "{line:?}"
        );
    }
    assert_eq!(
        parse_all(b"\xa0PING \xff \"\xff\"\r\n"),
        [[r"\xa0PING", r"\xff", r"\xff"]]
    );
}

#[test]
fn unbalanced_quotes_get_the_error_of_redis() {
    for line in [
        "PING \"a",
        "PING 'a",
        "PING \"a\"b",
        "PING 'a'b",
        "PING a\"b\"c",
        r#"PING "a\""#,
        r#"ECHO "a\"#,
        r"ECHO '\\'",
        r#"ECHO a\"b"#,
        "PING \"a\"\u{1c}",
    ] {
        let data = format!("{line}\r\n");
        assert_eq!(
            error_of(data.as_bytes()),
            "unbalanced quotes in request",
            "{line:?}"
        );
    }
    assert!(is_incomplete(br#"ECHO "\"#));
}

#[test]
fn the_wanted_length_covers_the_argument_that_is_announced() {
    let mut spans = Vec::new();
    let mut parser = RequestParser::new();
    let mut input = *b"*2\r\n$3\r\nSET\r\n$1000000\r\nabc";
    let result = parser.parse(&mut input, &mut spans, &Limits::default());
    assert_eq!(
        result,
        Ok(Progress::Incomplete {
            wanted: 13 + 10 + 1_000_000 + 2
        })
    );
    assert!(spans.is_empty());
    assert!(!parser.is_idle());
}

/// Time is not measured: were the parser to start again with each piece, this would take minutes.
#[test]
fn a_million_arguments_in_small_pieces_take_linear_time() {
    let mut data = b"*1000000\r\n".to_vec();
    data.extend(b"$1\r\nx\r\n".repeat(1_000_000));
    let limits = Limits::default();
    let mut parser = RequestParser::new();
    let mut spans = Vec::new();
    for end in (0..data.len()).step_by(100) {
        let result = parser.parse(&mut data[..end], &mut spans, &limits);
        assert!(matches!(result, Ok(Progress::Incomplete { .. })));
    }
    let consumed = data.len();
    let result = parser.parse(&mut data, &mut spans, &limits);
    assert_eq!(result, Ok(Progress::Complete { consumed }));
    assert_eq!(spans.len(), 1_000_000);
    assert_eq!(
        spans[999_999],
        Span {
            start: consumed - 3,
            len: 1
        }
    );
    assert_eq!(parser.heap_bytes(), 0);
}

fn random_request(random: &mut Random) -> Request {
    (0..=random.below(6)).map(|_| random.bytes(30)).collect()
}

fn random_pipeline(random: &mut Random) -> (Vec<u8>, Vec<Request>) {
    let mut data = Vec::new();
    let mut requests = Vec::new();
    for _ in 0..=random.below(6) {
        let request = match random.below(8) {
            0 => {
                data.extend_from_slice(random.pick(&[&b"\r\n"[..], b"\n", b"*0\r\n", b"*-1\r\n"]));
                vec![]
            }
            1 => {
                let words = random_request(random);
                for word in &words {
                    data.extend(word.iter().fold(b" \"".to_vec(), |mut text, byte| {
                        text.extend(format!("\\x{byte:02x}").bytes());
                        text
                    }));
                    data.push(b'"');
                }
                data.push(b'\n');
                words
            }
            _ => {
                let request = random_request(random);
                let arguments: Vec<&[u8]> = request.iter().map(Vec::as_slice).collect();
                write_command(&mut data, &arguments);
                request
            }
        };
        requests.push(request);
    }
    (data, requests)
}

#[test]
fn valid_pipelines_parse_to_what_was_written() {
    with_seeds(3_000, |random| {
        let (data, requests) = random_pipeline(random);
        let parsed = parse_in_pieces(&data, &Limits::default(), 1 + random.below(100));
        assert_eq!(parsed, (requests, None));
    });
}

#[test]
fn pieces_do_not_matter() {
    with_seeds(3_000, |random| {
        let (mut data, _) = random_pipeline(random);
        random.mutate(&mut data);
        fuzz::requests(&data);
    });
}

#[test]
fn random_bytes_do_no_harm() {
    with_seeds(20_000, |random| {
        let bytes = random.bytes(60);
        fuzz::requests(&bytes);
    });
}

/// The bug: an inline request of 70 KB was refused. The cause: the limit of 64 KiB held for all lines. In Redis it holds for those
/// whose end has not arrived.
#[test]
fn a_line_of_any_length_passes_if_its_end_is_there() {
    let word = "x".repeat(70_000);
    let line = format!("ECHO {word}\r\nPING\r\n");
    let (requests, end) = parse_in_pieces(line.as_bytes(), &Limits::default(), usize::MAX);
    assert_eq!(end, None);
    let expected = [
        vec![b"ECHO".to_vec(), word.clone().into()],
        vec![b"PING".to_vec()],
    ];
    assert_eq!(requests, expected);
    // Before its end arrives, it is too long.
    let (requests, end) = parse_in_pieces(line.as_bytes(), &Limits::default(), 1000);
    assert_eq!(
        (requests.len(), end),
        (0, Some(ProtocolError::TooBigInline))
    );
    // Headers are read, and then they are no numbers.
    for (before, error) in [
        ("*", ProtocolError::InvalidMultibulkLength),
        ("*1\r\n$", ProtocolError::InvalidBulkLength),
    ] {
        let header = format!("{before}{}\r\n", "1".repeat(70_000));
        let (_, end) = parse_in_pieces(header.as_bytes(), &Limits::default(), usize::MAX);
        assert_eq!(end, Some(error));
    }
}
