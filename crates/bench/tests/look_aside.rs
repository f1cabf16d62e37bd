//! The look-aside mode against a small cache in this process, which evicts the oldest key.

use damselfly_bench::options::{Options, command};
use damselfly_bench::report::Report;
use damselfly_bench::run;
use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;

/// A cache of so many keys.
#[derive(Default)]
struct Cache {
    keys_max: usize,
    values: HashMap<String, Vec<u8>>,
    order: VecDeque<String>,
}

impl Cache {
    fn set(&mut self, key: String, value: Vec<u8>) {
        if self.values.insert(key.clone(), value).is_none() {
            self.order.push_back(key);
            if self.order.len() > self.keys_max {
                let oldest = self.order.pop_front().unwrap();
                self.values.remove(&oldest);
            }
        }
    }
}

/// Starts a cache and returns it with its port.
fn serve(keys_max: usize) -> (Arc<Mutex<Cache>>, u16) {
    let cache = Arc::new(Mutex::new(Cache {
        keys_max,
        ..Cache::default()
    }));
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let shared = cache.clone();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, cache) = (stream.unwrap(), shared.clone());
            stream.set_nodelay(true).unwrap();
            thread::spawn(move || answer(&stream, &cache));
        }
    });
    (cache, port)
}

/// Answers GET and SET of RESP, and get and set of memcached, until the client disconnects.
fn answer(stream: &TcpStream, cache: &Mutex<Cache>) -> Option<()> {
    let mut input = BufReader::new(stream);
    let mut output = stream;
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok().filter(|len| *len > 0)?;
        let mut words = line.split_whitespace();
        let reply = match words.next()? {
            "get" => {
                let key = words.next()?;
                let cache = cache.lock().unwrap();
                cache.values.get(key).map_or(b"END\r\n".to_vec(), |value| {
                    let head = format!("VALUE {key} 0 {}\r\n", value.len());
                    [head.as_bytes(), value, b"\r\nEND\r\n"].concat()
                })
            }
            "set" => {
                let key = words.next()?.to_owned();
                let value = text(&mut input, words.nth(2)?.parse().ok()?)?;
                cache.lock().unwrap().set(key, value);
                b"STORED\r\n".to_vec()
            }
            count => {
                let count = count.strip_prefix('*')?.parse().ok()?;
                let arguments: Vec<Vec<u8>> = (0..count)
                    .map(|_| bulk(&mut input))
                    .collect::<Option<_>>()?;
                let key = String::from_utf8(arguments[1].clone()).ok()?;
                let mut cache = cache.lock().unwrap();
                match arguments.get(2) {
                    Some(value) => {
                        cache.set(key, value.clone());
                        b"+OK\r\n".to_vec()
                    }
                    None => cache.values.get(&key).map_or(b"$-1\r\n".to_vec(), |value| {
                        [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
                    }),
                }
            }
        };
        output.write_all(&reply).ok()?;
    }
}

fn bulk(input: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = String::new();
    input.read_line(&mut line).ok()?;
    text(input, line.trim_end().strip_prefix('$')?.parse().ok()?)
}

/// So many bytes, and a line end.
fn text(input: &mut impl Read, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len + 2];
    input.read_exact(&mut bytes).ok()?;
    bytes.truncate(len);
    Some(bytes)
}

fn measure(port: u16, arguments: &str) -> Report {
    let port = port.to_string();
    let all = ["bench", "--port", &port]
        .into_iter()
        .chain(arguments.split_whitespace());
    let matches = command().try_get_matches_from(all).unwrap();
    run(&Options::from_matches(&matches).unwrap()).unwrap()
}

/// Writes a trace: one zstd block without compression.
fn write_trace(name: &str, records: &[(u64, u32)]) -> PathBuf {
    let mut body = Vec::new();
    for (key, bytes) in records {
        body.extend_from_slice(&key.to_le_bytes());
        body.extend_from_slice(&bytes.to_le_bytes());
    }
    let mut file = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58];
    let header = (body.len() as u32) << 3 | 1;
    file.extend_from_slice(&header.to_le_bytes()[..3]);
    file.extend_from_slice(&body);
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, file).unwrap();
    path
}

#[test]
fn a_trace_is_replayed_in_order_with_its_sizes() {
    // The cache has two keys. 1 and 2 are stored, 1 is found; 3 evicts 1; 2 is found; 1 is missed again.
    let records = [
        (1, 10),
        (2, 2_000_000),
        (1, 10),
        (3, 0),
        (2, 2_000_000),
        (1, 10),
    ];
    let path = write_trace("order.kst.zst", &records);
    for protocol in ["resp", "memcached"] {
        let (cache, port) = serve(2);
        let arguments = format!("--trace {} --protocol {protocol}", path.display());
        let report = measure(port, &arguments);
        let hits = report.hits.unwrap();
        assert_eq!(report.tally.replies, 6, "{protocol}");
        assert_eq!((hits.count, report.tally.misses), (2, 4), "{protocol}");
        assert_eq!((hits.bytes, hits.requested_bytes), (2_000_010, 4_000_030));
        let cache = cache.lock().unwrap();
        let mut seen: Vec<_> = cache
            .values
            .iter()
            .map(|(key, value)| (key.as_str(), value.len()))
            .collect();
        seen.sort_unstable();
        assert_eq!(
            seen,
            [("0000000000000001", 10), ("0000000000000003", 0)],
            "{protocol}"
        );
    }
}

#[test]
fn requests_in_flight_are_for_different_keys() {
    // Each key three times in a row: two of three requests find it, however many are in flight.
    let records: Vec<(u64, u32)> = (0..300).map(|index| (index / 3, 5)).collect();
    let path = write_trace("runs.kst.zst", &records);
    for shape in ["-c 1 -P 1", "-c 1 -P 16", "-c 7 -P 3"] {
        let (_, port) = serve(1000);
        let report = measure(port, &format!("--trace {} {shape}", path.display()));
        assert_eq!(report.hits.unwrap().count, 200, "{shape}");
    }
}

#[test]
fn generated_requests_follow_the_warmup() {
    let (cache, port) = serve(1000);
    let report = measure(
        port,
        "--look-aside --keys 50 --value-bytes 3-9 --warmup 2000 -n 500 -P 4",
    );
    // With 2,000 requests for 50 keys, all keys are there.
    assert_eq!(
        (report.tally.replies, report.hits.unwrap().count),
        (500, 500)
    );
    assert!(
        report.json().contains("\"hit_ratio\":1.00000,"),
        "{}",
        report.json()
    );
    let cache = cache.lock().unwrap();
    assert!(
        cache
            .values
            .iter()
            .all(|(key, value)| key.starts_with("key:0") && (3..=9).contains(&value.len()))
    );
}
