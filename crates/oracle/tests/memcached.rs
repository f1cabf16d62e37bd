//! Compares Damselfly with a real memcached: transcripts, and random sequences of requests.

use std::path::{Path, PathBuf};

use damselfly_oracle::memcached::grammar;
use damselfly_oracle::memcached::transcript::Transcript;
use damselfly_oracle::memcached::{Client, Server, Side};
use damselfly_oracle::random::{Random, number_from};
use damselfly_oracle::shrink::shrink;

fn transcripts() -> Vec<(PathBuf, Transcript)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/memcached");
    let entries = std::fs::read_dir(&folder).expect("tests/memcached is part of the project");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|end| end == "txt"));
    files.sort();
    assert!(!files.is_empty(), "no transcript in {}", folder.display());
    let parse = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let transcript = Transcript::parse(&text);
        let transcript = transcript.unwrap_or_else(|why| panic!("{}: {why}", path.display()));
        (path, transcript)
    };
    files.into_iter().map(parse).collect()
}

fn play_all(side: Side, arguments: &[&str]) {
    let mut wrong = String::new();
    for (path, transcript) in transcripts() {
        let server = Server::start(side, arguments).unwrap();
        for mismatch in transcript.play(server.address(), side).unwrap() {
            wrong.push_str(&format!("{}: {mismatch}\n", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{side:?} {arguments:?}:\n{wrong}");
}

/// With `DAMSELFLY_RECORD` set, this writes memcached's replies to the transcripts instead.
#[test]
fn memcached_replies_as_written() {
    if std::env::var_os("DAMSELFLY_RECORD").is_none() {
        return play_all(Side::Memcached, &[]);
    }
    for (path, transcript) in transcripts() {
        let server = Server::start(Side::Memcached, &[]).unwrap();
        std::fs::write(path, transcript.record(server.address()).unwrap()).unwrap();
    }
}

#[test]
fn our_server_replies_as_written_with_any_thread_count() {
    for threads in ["1", "2", "4"] {
        play_all(Side::Damselfly, &["--threads", threads]);
    }
}

/// The first request whose replies differ, with both replies.
fn first_difference(
    sequence: &[Vec<u8>],
    servers: &[Server; 2],
) -> Option<(usize, String, String)> {
    let mut clients = servers
        .each_ref()
        .map(|server| Client::open(server.address()).unwrap());
    for client in &mut clients {
        client.call(b"flush_all\r\n").unwrap();
    }
    for (place, request) in sequence.iter().enumerate() {
        let [theirs, ours] = clients
            .each_mut()
            .map(|client| client.call(request).unwrap_or_else(|why| why.to_string()));
        if theirs != ours {
            if holds_huge_number(&mut clients[0]) {
                return None;
            }
            return Some((place, theirs, ours));
        }
    }
    None
}

/// True if memcached holds a number of 2^63 or more. It refuses to count from such a number if it happens to find a minus sign in the
/// memory behind it, so replies about it can differ by chance.
fn holds_huge_number(memcached: &mut Client) -> bool {
    grammar::NUMBERS.iter().any(|key| {
        let shown = memcached.call(format!("get {key}\r\n").as_bytes());
        let number = shown
            .ok()
            .and_then(|shown| shown.lines().nth(1)?.trim().parse::<u64>().ok());
        number.is_some_and(|number| number >= 1 << 63)
    })
}

#[test]
fn random_sequences_have_the_replies_of_memcached() {
    const SEQUENCES: u64 = 2000;
    const REQUESTS: usize = 40;
    let servers = [
        Server::start(Side::Memcached, &[]).unwrap(),
        Server::start(Side::Damselfly, &["--threads", "2"]).unwrap(),
    ];
    let seed = number_from("SEED");
    let first = seed.unwrap_or_else(|| Random::new(u64::from(std::process::id())).bits());
    let count = number_from("SEQUENCES").unwrap_or(if seed.is_some() { 1 } else { SEQUENCES });
    for seed in (0..count).map(|number| first.wrapping_add(number)) {
        let mut random = Random::new(seed);
        let sequence: Vec<Vec<u8>> = (0..REQUESTS)
            .map(|_| grammar::request(&mut random))
            .collect();
        let Some((place, theirs, ours)) = first_difference(&sequence, &servers) else {
            continue;
        };
        let request = sequence[place].escape_ascii();
        println!("{request}\nmemcached:\n{theirs}\nours:\n{ours}\nshortened:");
        let fails = |part: &[Vec<u8>]| first_difference(part, &servers).is_some();
        let short = shrink(&sequence, 300, fails);
        let requests: Vec<String> = short.iter().map(|r| r.escape_ascii().to_string()).collect();
        let shown = match first_difference(&short, &servers) {
            Some((_, theirs, ours)) => format!("memcached:\n{theirs}\nours:\n{ours}"),
            None => String::from("the difference is gone"),
        };
        panic!("SEED={seed}\n{}\n{shown}", requests.join("\n"));
    }
}

#[test]
fn memcacheds_tool_dumps_all_items() {
    const TOOL: &str = "/usr/share/memcached/scripts/memcached-tool";
    let server = Server::start(Side::Damselfly, &[]).unwrap();
    let mut client = Client::open(server.address()).unwrap();
    for number in 0..5000 {
        let item = format!("set key%{number} {number} 0 5\r\nvalue\r\n");
        assert_eq!(client.call(item.as_bytes()).unwrap().trim_end(), "STORED");
    }
    let tool = std::process::Command::new("perl")
        .args([TOOL, &server.address().to_string(), "dump"])
        .output()
        .expect("perl runs");
    let (items, messages) = (
        String::from_utf8_lossy(&tool.stdout),
        String::from_utf8_lossy(&tool.stderr),
    );
    let mut lines: Vec<_> = items.lines().filter(|line| *line != "value").collect();
    lines.sort_unstable();
    let mut expected: Vec<_> = (0..5000)
        .map(|number| format!("add key%{number} {number} 0 5"))
        .collect();
    expected.sort_unstable();
    assert_eq!(lines, expected, "{messages}");
}
