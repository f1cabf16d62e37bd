//! Runs every script of `tests/scripts/` on a real server and here, and compares the replies in RESP2 and
//! RESP3.
//!
//! Lines of `----` separate the scripts in a file. The first line of a script may be `@` and the arguments that follow
//! the script in EVAL: the number of keys, keys and arguments. Our host forwards commands to the real
//! server.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use damselfly_oracle::connection::request;
use damselfly_oracle::server::{Program, Server};
use damselfly_oracle::text::{render, split_arguments};
use damselfly_protocol::client::{Decoder, Value, skip_reply};
use damselfly_protocol::{Reply, Version};
use damselfly_script::{
    CallOutcome, Host, Interpreter, Libraries, Limits, LogLevel, RestorePolicy, Script, Tick,
};

/// A client that returns replies as bytes.
struct Client(TcpStream);

impl Client {
    fn open(server: &Server) -> Client {
        Client(TcpStream::connect(server.address()).unwrap())
    }

    fn call<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Vec<u8> {
        self.0.write_all(&request(arguments)).unwrap();
        let mut reply = Vec::new();
        let mut piece = [0; 16 * 1024];
        while skip_reply(&reply).is_none() {
            let len = self.0.read(&mut piece).unwrap();
            assert!(
                len > 0,
                "the real server closed the connection after {:?}",
                arguments
                    .iter()
                    .map(|argument| argument.as_ref().escape_ascii().to_string())
                    .collect::<Vec<_>>()
            );
            reply.extend_from_slice(&piece[..len]);
        }
        reply
    }
}

/// Forwards commands to the real server.
struct Proxy {
    client: Client,
    version: Version,
}

impl Host for Proxy {
    fn call(&mut self, arguments: &[&[u8]], version: Version, reply: &mut Vec<u8>) -> CallOutcome {
        if version != self.version {
            self.client
                .call(&["HELLO", if version == Version::Resp3 { "3" } else { "2" }]);
            self.version = version;
        }
        let answer = self.client.call(arguments);
        if answer.starts_with(b"-ERR unknown command") {
            reply.extend_from_slice(b"-ERR Unknown Redis command called from script\r\n");
        } else if answer.starts_with(b"-ERR wrong number of arguments for") {
            reply.extend_from_slice(
                b"-ERR Wrong number of args calling Redis command from script\r\n",
            );
        } else {
            reply.extend_from_slice(&answer);
        }
        CallOutcome::Replied
    }

    fn tick(&mut self) -> Tick {
        Tick::Continue
    }

    fn log(&mut self, _: LogLevel, _: &[u8]) {}

    fn is_allowed(&mut self, arguments: &[&[u8]]) -> Option<bool> {
        (arguments[0] != b"gett").then_some(true)
    }

    fn set_replication(&mut self, _: u8) {}
}

fn shown(reply: &[u8]) -> String {
    match Decoder::default().decode(reply) {
        Ok(Some((value, len))) if len == reply.len() => render(&value),
        other => format!("{other:?} from {}", reply.escape_ascii()),
    }
}

/// All scripts: file name, code, and the arguments that follow the code in EVAL.
fn scripts() -> Vec<(String, Vec<u8>, Vec<Vec<u8>>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let mut scripts = Vec::new();
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&file).unwrap();
        for block in text.split("----\n") {
            let (rest, code) = match block.strip_prefix("@ ") {
                Some(block) => block.split_once('\n').unwrap(),
                None => ("0", block),
            };
            let rest = split_arguments(rest).unwrap();
            scripts.push((name.clone(), code.trim_end().as_bytes().to_vec(), rest));
        }
    }
    scripts
}

fn run_here(
    interpreter: &mut Interpreter,
    host: &mut Proxy,
    code: &[u8],
    rest: &[Vec<u8>],
    version: Version,
) -> Vec<u8> {
    let mut out = Vec::new();
    let mut reply = Reply::new(&mut out, version);
    match Script::parse(code) {
        Ok(script) => {
            let keys_len: usize = str::from_utf8(&rest[0]).unwrap().parse().unwrap();
            let rest: Vec<&[u8]> = rest[1..].iter().map(Vec::as_slice).collect();
            let (keys, arguments) = rest.split_at(keys_len);
            interpreter.eval(&script, keys, arguments, host, &mut reply);
        }
        Err(error) => reply.error(error.to_bytes()),
    }
    out
}

#[test]
fn scripts_reply_like_the_real_server() {
    let server = Server::start(&Program::reference(), &[]).unwrap();
    let mut interpreter = Interpreter::new(Limits::default()).unwrap();
    let mut differences = Vec::new();
    let mut compared = 0;
    let mut seen = std::collections::HashSet::new();
    for version in [Version::Resp2, Version::Resp3] {
        let mut client = Client::open(&server);
        if version == Version::Resp3 {
            client.call(&["HELLO", "3"]);
        }
        let mut host = Proxy {
            client: Client::open(&server),
            version: Version::Resp2,
        };
        for (file, code, rest) in scripts() {
            client.call(&["FLUSHALL"]);
            let mut arguments = vec![b"EVAL".to_vec(), code.clone()];
            arguments.extend(rest.iter().cloned());
            let theirs = client.call(&arguments);
            client.call(&["FLUSHALL"]);
            let ours = run_here(&mut interpreter, &mut host, &code, &rest, version);
            compared += 1;
            if shown(&theirs) != shown(&ours) && seen.insert((code.clone(), shown(&ours))) {
                differences.push(format!(
                    "{file} {version:?}\n{}\n  theirs: {}\n  ours:   {}\n",
                    String::from_utf8_lossy(&code),
                    shown(&theirs),
                    shown(&ours)
                ));
            }
        }
    }
    assert!(compared > 100);
    assert!(
        differences.is_empty(),
        "{} of {compared} differ:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

/// FCALL, as the server does it.
fn call_here(
    libraries: &Libraries,
    interpreter: &mut Interpreter,
    host: &mut Proxy,
    call: &[Vec<u8>],
) -> Vec<u8> {
    let mut out = Vec::new();
    let mut reply = Reply::new(&mut out, Version::Resp2);
    let Some((library, index)) = libraries.function(&call[0]) else {
        reply.error("ERR Function not found");
        return out;
    };
    let keys_len: usize = str::from_utf8(&call[1]).unwrap().parse().unwrap();
    let rest: Vec<&[u8]> = call[2..].iter().map(Vec::as_slice).collect();
    let (keys, arguments) = rest.split_at(keys_len);
    interpreter.call_function(library, index, keys, arguments, host, &mut reply);
    out
}

/// FUNCTION LOAD, as the server does it.
fn load_here(
    libraries: &mut Libraries,
    interpreter: &mut Interpreter,
    host: &mut Proxy,
    code: &[u8],
) -> Vec<u8> {
    let mut out = Vec::new();
    let mut reply = Reply::new(&mut out, Version::Resp2);
    let id = libraries.next_id();
    let loaded = libraries
        .check(code, false)
        .and_then(|()| interpreter.load_library(code, id, host))
        .and_then(|library| {
            let name = library.name().to_string();
            libraries.insert(library).map(|()| name)
        });
    match loaded {
        Ok(name) => reply.bulk(name.as_bytes()),
        Err(error) => reply.error(error.to_bytes()),
    }
    out
}

#[test]
fn libraries_load_and_run_like_on_the_real_server() {
    let server = Server::start(&Program::reference(), &[]).unwrap();
    let mut client = Client::open(&server);
    let mut host = Proxy {
        client: Client::open(&server),
        version: Version::Resp2,
    };
    let text = include_str!("libraries.txt");
    let mut differences = Vec::new();
    for block in text.split("----\n") {
        let mut code = block;
        let mut calls = Vec::new();
        while let Some(rest) = code.strip_prefix("@ ") {
            let (call, rest) = rest.split_once('\n').unwrap();
            calls.push(split_arguments(call).unwrap());
            code = rest;
        }
        let code = code.trim_end().as_bytes();
        client.call(&["FUNCTION", "FLUSH"]);
        client.call(&["FLUSHALL"]);
        let mut theirs = vec![shown(&client.call(&[&b"FUNCTION"[..], b"LOAD", code]))];
        for call in &calls {
            let command = [&[b"FCALL".to_vec()], call.as_slice()].concat();
            theirs.push(shown(&client.call(&command)));
        }
        client.call(&["FLUSHALL"]);
        let mut interpreter = Interpreter::new(Limits::default()).unwrap();
        let mut libraries = Libraries::new();
        let mut ours = vec![shown(&load_here(
            &mut libraries,
            &mut interpreter,
            &mut host,
            code,
        ))];
        for call in &calls {
            ours.push(shown(&call_here(
                &libraries,
                &mut interpreter,
                &mut host,
                call,
            )));
        }
        if theirs != ours {
            let code = String::from_utf8_lossy(code);
            differences.push(format!(
                "{code}\n  theirs: {theirs:?}\n  ours:   {ours:?}\n"
            ));
        }
    }
    let count = differences.len();
    assert!(
        differences.is_empty(),
        "{count} differ:\n{}",
        differences.join("\n")
    );
}

/// The bytes of a bulk reply.
fn bulk(reply: &[u8]) -> Vec<u8> {
    match Decoder::default().decode(reply) {
        Ok(Some((Value::Bulk(bytes), _))) => bytes,
        other => panic!("{other:?} is not a bulk string"),
    }
}

#[test]
fn payloads_can_be_exchanged_with_the_real_server() {
    let server = Server::start(&Program::reference(), &[]).unwrap();
    let mut client = Client::open(&server);
    let mut host = Proxy {
        client: Client::open(&server),
        version: Version::Resp2,
    };
    let code = |name: &str| {
        let padding = "-- repeated, so that it is compressed\n".repeat(200);
        format!(
            "#!lua name={name}\n{padding}redis.register_function('f_{name}', function() return '{name}' end)"
        )
    };
    let mut interpreter = Interpreter::new(Limits::default()).unwrap();
    let mut libraries = Libraries::new();
    for name in ["first", "second"] {
        let reply = client.call(&["FUNCTION", "LOAD", &code(name)]);
        assert_eq!(bulk(&reply), name.as_bytes());
    }
    let theirs = bulk(&client.call(&["FUNCTION", "DUMP"]));
    libraries
        .restore(&theirs, RestorePolicy::Append, |code, id| {
            interpreter.load_library(code, id, &mut host)
        })
        .unwrap();
    let call = [b"f_second".to_vec(), b"0".to_vec()];
    let reply = call_here(&libraries, &mut interpreter, &mut host, &call);
    assert_eq!(bulk(&reply), b"second");
    // And in the other direction.
    client.call(&["FUNCTION", "FLUSH"]);
    let restored = client.call(&[&b"FUNCTION"[..], b"RESTORE", &libraries.dump()]);
    assert_eq!(restored, b"+OK\r\n");
    assert_eq!(bulk(&client.call(&["FCALL", "f_first", "0"])), b"first");
}
