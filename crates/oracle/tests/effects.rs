//! What commands write to the log, compared with what Redis writes to its append-only file.
//!
//! Our server runs in this process, and a consumer collects the merged log.

mod effects {
    pub mod cases;
}

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use damselfly_config::{Config, SavePoints};
use damselfly_engine::Now;
use damselfly_log::{Batch, Targets};
use damselfly_oracle::connection::Connection;
use damselfly_oracle::server::{Program, ScratchFolder, Server, free_port};
use damselfly_server::log_thread::Consumer;
use damselfly_server::registry::REGISTRY;
use damselfly_server::signals::Signals;

use effects::cases::{CASES, Case};

/// Collects the log.
struct Collector {
    bytes: Arc<Mutex<Vec<u8>>>,
    has_begun: bool,
}

impl Consumer for Collector {
    fn targets(&self) -> Targets {
        Targets::FILE
    }

    fn take(&mut self, batch: &Arc<Batch>, cut: u64) -> bool {
        let mut bytes = self.bytes.lock().unwrap();
        if !std::mem::replace(&mut self.has_begun, true) {
            bytes.extend(batch.beginning_at(cut));
        }
        for (_, more) in batch.after(cut, self.targets()) {
            bytes.extend_from_slice(more);
        }
        true
    }

    fn is_full(&self) -> bool {
        false
    }

    fn is_urgent(&self) -> bool {
        true
    }
}

/// Our server, and the log so far.
struct Subject {
    server: Option<damselfly_server::start::Server>,
    log: Arc<Mutex<Vec<u8>>>,
    port: u16,
    _folder: ScratchFolder,
}

impl Subject {
    fn start(threads: usize) -> Self {
        let (folder, port) = (ScratchFolder::create().unwrap(), free_port().unwrap());
        let config = Config {
            port,
            threads,
            dir: folder.path().display().to_string(),
            save: SavePoints(Vec::new()),
            ..Config::default()
        };
        let server = damselfly_server::start::Server::start(config, None).unwrap();
        server.load(&Signals::default()).unwrap();
        let (shared, log) = (server.shared(), Arc::new(Mutex::new(Vec::new())));
        let collector = Collector {
            bytes: log.clone(),
            has_begun: false,
        };
        let tx = shared.engine.lock_all(0, Now(0)).unwrap();
        shared.log.attach(&tx, Box::new(collector));
        drop(tx);
        Self {
            server: Some(server),
            log,
            port,
            _folder: folder,
        }
    }

    fn connect(&self) -> Connection {
        Connection::open(([127, 0, 0, 1], self.port).into()).unwrap()
    }

    /// The log since the last call.
    fn take(&self) -> Vec<u8> {
        let shared = self.server.as_ref().unwrap().shared();
        let (appended, started) = (shared.engine.log.appended(), Instant::now());
        while shared.log.records.load(Relaxed) < appended {
            assert!(
                started.elapsed() < Duration::from_secs(20),
                "the merge stands still"
            );
            std::thread::yield_now();
        }
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shared().stop();
            server.wait(&Signals::default());
        }
    }
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
                let info = format!("{info:?}");
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
            let reply = main.call(&words(line)).unwrap();
            let text = format!("{reply:?}");
            assert!(case.may_fail || !text.contains("Error"), "{line}: {text}");
        }
    }
    for mut other in others {
        other.receive().unwrap();
    }
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
    for case in CASES {
        let flush = |mut connection: Connection| {
            connection.call(&[&b"FLUSHALL"[..]]).unwrap();
            connection.call(&[&b"FUNCTION"[..], b"FLUSH"]).unwrap();
        };
        flush(subject.connect());
        subject.take();
        play(case, || subject.connect());
        let ours = shown(&subject.take());
        let theirs: Vec<String> = match case.expected {
            Some(expected) => expected.iter().map(|&line| line.to_owned()).collect(),
            None => {
                flush(reference.connect());
                read = std::fs::metadata(&file).unwrap().len();
                play(case, || reference.connect());
                let bytes = std::fs::read(&file).unwrap();
                shown(&bytes[read as usize..])
            }
        };
        if ours != theirs {
            wrong.push_str(&format!(
                "{:?}\n  ours:   {ours:?}\n  theirs: {theirs:?}\n",
                case.lines
            ));
        }
    }
    let _ = read;
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn every_command_that_writes_has_a_case() {
    let used: BTreeSet<String> = CASES
        .iter()
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
        .filter(|row| row.changes_data && row.subcommands.is_empty() && !used.contains(&row.name))
        .map(|row| row.name.as_str())
        .collect();
    assert!(missing.is_empty(), "no case uses {missing:?}");
}
