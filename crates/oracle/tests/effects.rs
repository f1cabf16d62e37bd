//! What commands write to the log, compared with what Redis writes to its append-only file.
//!
//! Our server runs in this process, and a consumer collects the merged log.

mod effects {
    pub mod bit_cases;
    pub mod cases;
    pub mod newer_cases;
    pub mod subject;
}

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use damselfly_oracle::connection::Connection;
use damselfly_oracle::memcached::Client;
use damselfly_oracle::server::{Program, Server};
use damselfly_protocol::client::Value;
use damselfly_server::registry::REGISTRY;

use effects::bit_cases;
use effects::cases::{self, Case, Compare};
use effects::newer_cases;
use effects::subject::Subject;

fn all_cases() -> impl Iterator<Item = &'static Case> {
    let all = [cases::CASES, bit_cases::CASES, newer_cases::CASES];
    all.into_iter().flatten()
}

/// The commands of a stream.
fn commands(mut stream: &[u8]) -> Vec<Vec<Vec<u8>>> {
    fn number(stream: &mut &[u8], mark: u8) -> usize {
        assert_eq!(stream[0], mark, "{}", String::from_utf8_lossy(stream));
        let end = stream.iter().position(|&byte| byte == b'\r').unwrap();
        let number = std::str::from_utf8(&stream[1..end])
            .unwrap()
            .parse()
            .unwrap();
        *stream = &stream[end + 2..];
        number
    }
    let mut commands = Vec::new();
    while !stream.is_empty() {
        let len = number(&mut stream, b'*');
        let args = (0..len).map(|_| {
            let bytes = number(&mut stream, b'$');
            let arg = stream[..bytes].to_vec();
            stream = &stream[bytes + 2..];
            arg
        });
        commands.push(args.collect());
    }
    commands
}

/// A command as text, with times replaced.
fn show(command: &[Vec<u8>]) -> String {
    let words = command.iter().enumerate().map(|(at, word)| {
        let text = String::from_utf8_lossy(word).into_owned();
        let (head, tail) = text.split_once('-').unwrap_or((&text, ""));
        let is_time = head.len() == 13 && head.bytes().all(|byte| byte.is_ascii_digit());
        match (at, is_time, tail) {
            (0, ..) => text.to_ascii_uppercase(),
            (_, true, "") => String::from("TIME"),
            (_, true, tail) => format!("TIME-{tail}"),
            _ => text.escape_debug().to_string(),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

fn shown(stream: &[u8]) -> Vec<String> {
    let commands = commands(stream);
    commands
        .iter()
        .map(|command| show(command))
        .filter(|text| !text.starts_with("SELECT"))
        .collect()
}

/// The words of a line; `\xNN` and quotes are not needed.
fn words(line: &str) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let (word, behind) = quoted.split_once('"').expect("a closing quote");
            words.push(word.replace("\\n", "\n").into_bytes());
            rest = behind.trim_start();
        } else {
            let (word, behind) = rest.split_once(' ').unwrap_or((rest, ""));
            words.push(word.as_bytes().to_vec());
            rest = behind.trim_start();
        }
    }
    words
}

/// Plays the lines of a case. A line that begins with `N>` is sent on connection N without waiting for its reply, which is read before the
/// next line of that connection.
fn play(case: &Case, mut connect: impl FnMut() -> Connection) {
    let (mut main, mut others): (Connection, Vec<Connection>) = (connect(), Vec::new());
    for line in case.lines {
        if let Some(blocked) = line.strip_prefix("> ") {
            let mut other = connect();
            let request = damselfly_oracle::connection::request(&words(blocked));
            other.send(&request).unwrap();
            // The server has begun to wait once it says so.
            let started = Instant::now();
            loop {
                let info = main.call(&[&b"INFO"[..], b"clients"]).unwrap();
                let info = info.to_string();
                let wanted = format!("blocked_clients:{}", others.len() + 1);
                if info.contains(&wanted) {
                    break;
                }
                assert!(
                    started.elapsed() < Duration::from_secs(20),
                    "{line}: {info}"
                );
            }
            others.push(other);
        } else if let Some(ms) = line.strip_prefix("sleep ") {
            std::thread::sleep(Duration::from_millis(ms.parse().unwrap()));
        } else {
            let mut request = words(line);
            for word in &mut request {
                // The payload that the server itself gives for a key.
                if let Some(key) = word.strip_prefix(b"DUMP:")
                    && let Value::Bulk(payload) = main.call(&[b"DUMP", key]).unwrap()
                {
                    *word = payload;
                }
            }
            let reply = main.call(&request).unwrap();
            let text = format!("{reply:?}");
            if !case.may_fail && text.contains("Error") {
                println!("{line}: {reply}");
            }
        }
    }
    for mut other in others {
        other.receive().unwrap();
    }
}

/// The effects in the form in which they are compared.
fn grouped(case: &Case, effects: &[String]) -> Vec<String> {
    match case.compare {
        Compare::Exactly | Compare::With(_) => effects.to_vec(),
        Compare::Ungrouped => {
            let inner = effects
                .iter()
                .filter(|text| *text != "MULTI" && *text != "EXEC");
            inner.map(|text| text.to_uppercase()).collect()
        }
    }
}

/// Which commands of a stream Redis 7.0 refuses, but for those about deadlines of fields.
fn refusals(mut redis: Connection, stream: &[u8]) -> Vec<String> {
    const SINCE_7_4: [&str; 2] = ["HPEXPIREAT", "HPERSIST"];
    let mut refusals = Vec::new();
    for command in commands(stream) {
        let shown = show(&command);
        if !SINCE_7_4.iter().any(|name| shown.starts_with(name)) {
            let reply = redis.call(&command).unwrap();
            if format!("{reply:?}").contains("Error") {
                refusals.push(format!("{shown}: Redis says {reply}"));
            }
        }
    }
    refusals
}

#[test]
fn commands_have_the_effects_that_redis_writes() {
    let options = [
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--save",
        "",
    ];
    let options = [&options[..], &["--enable-debug-command", "yes"]].concat();
    let reference = Server::start(&Program::reference(), &options).unwrap();
    let subject = Subject::start(2);
    let file = reference
        .folder()
        .join("appendonlydir/appendonly.aof.1.incr.aof");
    let mut read = 0;
    let mut wrong = String::new();
    for case in all_cases() {
        let flush = |mut connection: Connection| {
            connection.call(&[&b"FLUSHALL"[..]]).unwrap();
            connection.call(&[&b"FUNCTION"[..], b"FLUSH"]).unwrap();
        };
        flush(subject.connect());
        subject.take();
        play(case, || subject.connect());
        let stream = subject.take();
        let ours = shown(&stream);
        flush(reference.connect());
        for refusal in refusals(reference.connect(), &stream) {
            wrong.push_str(&format!("{:?}\n  {refusal}\n", case.lines));
        }
        let theirs: Vec<String> = match case.compare {
            Compare::With(expected) => expected.iter().map(|&line| line.to_owned()).collect(),
            Compare::Exactly | Compare::Ungrouped => {
                flush(reference.connect());
                read = std::fs::metadata(&file).unwrap().len();
                play(case, || reference.connect());
                let bytes = std::fs::read(&file).unwrap();
                shown(&bytes[read as usize..])
            }
        };
        if grouped(case, &ours) != grouped(case, &theirs) {
            wrong.push_str(&format!(
                "{:?}\n  ours:   {ours:?}\n  theirs: {theirs:?}\n",
                case.lines
            ));
        }
    }
    let _ = read;
    assert!(wrong.is_empty(), "{wrong}");
}

/// MIGRATE needs another server.
#[test]
fn a_key_that_moves_to_another_server_is_deleted() {
    let (target, subject) = (
        Server::start(&Program::reference(), &["--save", ""]).unwrap(),
        Subject::start(2),
    );
    let mut connection = subject.connect();
    let port = target.address().port().to_string();
    for command in [
        &["SET", "k", "v"][..],
        &["SET", "l", "v"],
        &["MIGRATE", "127.0.0.1", &port, "k", "0", "10000"],
        &["MIGRATE", "127.0.0.1", &port, "l", "0", "10000", "COPY"],
    ] {
        let reply = connection.call(command).unwrap();
        assert_eq!(reply.to_string(), "OK", "{command:?}");
    }
    assert_eq!(shown(&subject.take()), ["SET k v", "SET l v", "DEL k"]);
}

#[test]
fn memcached_requests_have_effects_that_redis_knows() {
    let subject = Subject::start(2);
    let mut client = Client::open(subject.memcached()).unwrap();
    for request in [
        "set k 5 0 1\r\nx\r\n",
        "touch k 1000\r\n",
        "gat 2000 k\r\n",
        "mg k T3000 v\r\n",
        "mg new N30 v\r\n",
        "md k I\r\n",
        "mg k v\r\n",
        "mg k v\r\n",
        "incr k 1\r\n",
        "touch none 1000\r\n",
        "touch new -1\r\n",
    ] {
        client.call(request.as_bytes()).unwrap();
    }
    let expected = [
        "MULTI",
        "SET k x",
        "ECHO damselfly:flags 5 k",
        "EXEC",
        "PEXPIREAT k TIME",
        "PEXPIREAT k TIME",
        "PEXPIREAT k TIME",
        "MULTI",
        "SET new  PXAT TIME",
        "ECHO damselfly:flags 0Z new",
        "EXEC",
        "MULTI",
        "SET k x PXAT TIME",
        "ECHO damselfly:flags 5X k",
        "EXEC",
        "ECHO damselfly:flags 5XZ k",
        "DEL new",
    ];
    assert_eq!(shown(&subject.take()), expected);
}

#[test]
fn every_command_that_writes_has_a_case() {
    let used: BTreeSet<String> = all_cases()
        .flat_map(|case| case.lines)
        .map(|line| words(line.trim_start_matches("> ")))
        .flat_map(|words| {
            let name = String::from_utf8_lossy(&words[0]).to_lowercase();
            let second = words
                .get(1)
                .map(|word| String::from_utf8_lossy(word).to_lowercase());
            [
                Some(name.clone()),
                second.map(|second| format!("{name}|{second}")),
            ]
        })
        .flatten()
        .collect();
    let missing: Vec<&str> = REGISTRY
        .rows()
        .iter()
        .filter(|row| row.changes_data && row.subcommands.is_empty())
        .filter(|row| row.name != "migrate" && !used.contains(&row.name))
        .map(|row| row.name.as_str())
        .collect();
    assert!(missing.is_empty(), "no case uses {missing:?}");
}
