//! Whole runs against a small server in this process, which knows only the length of a PING.

use damselfly_bench::options::{Options, command};
use damselfly_bench::report::Report;
use damselfly_bench::{Error, run};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

const PING_BYTES: usize = b"*1\r\n$4\r\nPING\r\n".len();

/// Starts a server that answers every PING with `reply` and returns its port. Its threads end with their clients.
fn serve(reply: &'static [u8]) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || answer(stream.unwrap(), reply));
        }
    });
    port
}

fn answer(mut stream: TcpStream, reply: &[u8]) {
    let mut buffer = [0; 4096];
    let mut unanswered = 0;
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        unanswered += count;
        if stream
            .write_all(&reply.repeat(unanswered / PING_BYTES))
            .is_err()
        {
            return;
        }
        unanswered %= PING_BYTES;
    }
}

fn measure(port: u16, arguments: &str) -> Result<Report, Error> {
    let port = port.to_string();
    let all = ["bench", "--mix", "ping", "--port", &port]
        .into_iter()
        .chain(arguments.split_whitespace());
    let matches = command().try_get_matches_from(all).unwrap();
    run(&Options::from_matches(&matches).unwrap())
}

#[test]
fn every_request_is_answered_and_timed() {
    let port = serve(b"+PONG\r\n");
    for arguments in [
        "-n 1 -c 1",
        "-n 1001 -c 3 -P 7",
        "-n 5000 -c 2 -P 100 --threads 2",
        "-n 3 -c 10 -P 2",
    ] {
        let report = measure(port, arguments).unwrap();
        let requests: u64 = arguments
            .split_whitespace()
            .nth(1)
            .unwrap()
            .parse()
            .unwrap();
        assert_eq!(report.tally.replies, requests, "{arguments}");
        assert_eq!(report.latencies.len(), requests, "{arguments}");
        assert_eq!(report.tally.errors, 0, "{arguments}");
    }
}

#[test]
fn a_fixed_rate_is_not_exceeded() {
    let report = measure(serve(b"+PONG\r\n"), "-n 200 -c 2 -P 4 --rate 2000").unwrap();
    assert_eq!(report.tally.replies, 200);
    // The last of 200 requests is due after 199 intervals of half a millisecond.
    assert!(report.seconds >= 0.0995, "{}", report.seconds);
}

#[test]
fn latency_counts_from_when_a_request_was_due() {
    // One connection with one request at a time sends far fewer than a million per second, so nearly all requests wait.
    let report = measure(serve(b"+PONG\r\n"), "-n 2000 -c 1 -P 1 --rate 1000000").unwrap();
    let last_due_s = 1999.0 / 1e6;
    let longest_s = report.latencies.max() as f64 / 1e9;
    assert!(
        longest_s > 0.9 * (report.seconds - last_due_s) - 0.01,
        "{longest_s}"
    );
}

#[test]
fn errors_are_counted_and_the_first_is_kept() {
    let report = measure(serve(b"-ERR no\r\n"), "-n 10 -c 1 -P 5").unwrap();
    assert_eq!(report.tally.errors, 10);
    assert!(
        report.json().ends_with("\"first_error\":\"ERR no\"}"),
        "{}",
        report.json()
    );
}

#[test]
fn a_server_that_violates_the_protocol_ends_the_run() {
    assert!(matches!(
        measure(serve(b"HTTP/1.1 400\r\n"), "-n 10 -c 1"),
        Err(Error::Malformed(_))
    ));
    assert!(matches!(
        measure(serve(b"+A\r\n+B\r\n"), "-n 10 -c 1"),
        Err(Error::UnexpectedReply)
    ));
}

#[test]
fn a_failed_fill_ends_the_run() {
    assert!(matches!(
        measure(serve(b"-ERR full\r\n"), "--fill ping --keys 10 -n 0 -c 1"),
        Err(Error::Fill(text)) if text == "ERR full"
    ));
}
