//! The same proofs for memcached's text and meta protocols, against a real `memcached`.
//!
//! - [`grammar`]: random requests.
//! - [`transcript`]: text files of requests and replies.
//!
//! A [`Client`] sends a request with another behind it, whose reply shows where that of the first ends. Replies are compared after what
//! may differ is replaced: CAS numbers, remaining times to the nearest hundred seconds, blanks behind numbers that became shorter.

pub mod grammar;
pub mod transcript;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::server::{Program, ScratchFolder, free_port};

/// How long a server may take to start, and to reply.
const PATIENCE: Duration = Duration::from_secs(15);
/// The interval for polling a state that cannot be awaited.
const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// How often to try a start: another process may take the free port first.
const START_TRIES: u32 = 5;

/// The reply to the request that marks the end: a miss of a key that no other request uses.
const END: &[u8] = b"EN k!end\r\n";

/// Which program a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The `memcached` of this machine.
    Memcached,
    /// Ours.
    Damselfly,
}

/// A running server that speaks memcached's protocol.
pub struct Server {
    child: Child,
    address: SocketAddr,
    /// Holds the log.
    _folder: ScratchFolder,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails only if it has exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts a server.
    ///
    /// # Errors
    /// It does not start or does not reply in time.
    pub fn start(side: Side, arguments: &[&str]) -> io::Result<Self> {
        let mut last = io::Error::other("no attempt was made");
        for _ in 0..START_TRIES {
            match Self::try_start(side, arguments) {
                Ok(server) => return Ok(server),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn try_start(side: Side, arguments: &[&str]) -> io::Result<Self> {
        let folder = ScratchFolder::create()?;
        let port = free_port()?;
        let text = port.to_string();
        let mut command = match side {
            Side::Memcached => {
                let mut command = Command::new("memcached");
                command.args(["-l", "127.0.0.1", "-U", "0", "-u", "nobody", "-p", &text]);
                command
            }
            Side::Damselfly => {
                let own = ["--port", "0", "--memcached-port", &text];
                Program::subject().command(folder.path(), &own)
            }
        };
        let log = File::create(folder.path().join("log"))?;
        let child = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut server = Self {
            child,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            _folder: folder,
        };
        let started = Instant::now();
        while started.elapsed() < PATIENCE {
            if let Some(status) = server.child.try_wait()? {
                return Err(io::Error::other(format!("{side:?} exited: {status}")));
            }
            let probe = Client::open(server.address).and_then(|mut client| client.call(b""));
            if probe.is_ok() {
                return Ok(server);
            }
            std::thread::sleep(POLL_INTERVAL);
        }
        Err(io::Error::other(format!("{side:?} does not reply")))
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// A connection, which remembers the CAS numbers that it has seen.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    /// By key: the last number, and the one before.
    cas: HashMap<String, [u64; 2]>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// The server does not accept.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            stream,
            cas: HashMap::new(),
        })
    }

    /// Sends a request and returns its reply, a line each and with what may differ replaced. `$cas(KEY)` in the request stands for the
    /// last CAS number seen of a key, `$old(KEY)` for the one before. A reply that ends with the connection ends with `(closed)`.
    ///
    /// # Errors
    /// The server does not reply.
    pub fn call(&mut self, request: &[u8]) -> io::Result<String> {
        let mut bytes = self.with_numbers(request);
        bytes.extend_from_slice(b"mg !end k\r\n");
        self.stream.write_all(&bytes)?;
        let mut reply = Vec::new();
        let mut buffer = [0; 1 << 16];
        let is_closed = loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => break true,
                Ok(len) => reply.extend_from_slice(&buffer[..len]),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break true,
                Err(error) => return Err(error),
            }
            let before = reply.strip_suffix(END);
            if before.is_some_and(|before| before.is_empty() || before.ends_with(b"\r\n")) {
                reply.truncate(reply.len() - END.len());
                break false;
            }
        };
        let key = request.split(|byte| b" \r".contains(byte)).nth(1);
        let key = String::from_utf8_lossy(key.unwrap_or_default()).into_owned();
        let mut text = self.normalized(&reply, &key);
        if is_closed {
            text.push_str("(closed)\n");
        }
        Ok(text)
    }

    fn with_numbers(&self, request: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(request.len());
        let mut rest = request;
        while let Some(at) = rest.iter().position(|&byte| byte == b'$') {
            out.extend_from_slice(&rest[..at]);
            let place = match &rest[at + 1..] {
                [b'c', b'a', b's', b'(', ..] => 0,
                [b'o', b'l', b'd', b'(', ..] => 1,
                _ => {
                    out.push(b'$');
                    rest = &rest[at + 1..];
                    continue;
                }
            };
            let inner = &rest[at + 5..];
            let len = inner.iter().position(|&byte| byte == b')');
            let (key, behind) = inner.split_at(len.unwrap_or(inner.len()));
            let seen = self.cas.get(&*String::from_utf8_lossy(key));
            let number = seen.map_or(u64::MAX - 1, |numbers| numbers[place]);
            out.extend_from_slice(number.to_string().as_bytes());
            rest = behind.get(1..).unwrap_or_default();
        }
        out.extend_from_slice(rest);
        out
    }

    fn note_cas(&mut self, key: &str, number: u64) {
        let seen = self.cas.entry(key.to_owned()).or_default();
        if seen[0] != number {
            *seen = [number, seen[0]];
        }
    }

    /// The reply with what may differ replaced.
    fn normalized(&mut self, reply: &[u8], key: &str) -> String {
        let (mut text, mut rest) = (String::new(), reply);
        while !rest.is_empty() {
            let end = rest.windows(2).position(|two| two == b"\r\n");
            let (line, behind) = rest.split_at(end.unwrap_or(rest.len()));
            rest = behind.get(2..).unwrap_or_default();
            let line = String::from_utf8_lossy(line).into_owned();
            let mut words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let len_at = match words[0].as_str() {
                "VALUE" => 3,
                "VA" => 1,
                _ => 0,
            };
            let mut data = None;
            if let Some(len) = words.get(len_at).and_then(|word| word.parse().ok())
                && len_at > 0
                && rest.len() >= len
            {
                let value = trimmed(&rest[..len]);
                words[len_at] = value.len().to_string();
                data = Some(value);
                rest = rest.get(len + 2..).unwrap_or_default();
            }
            self.replace_words(&mut words, key);
            text.push_str(&words.join(" ").escape_default().to_string());
            text.push('\n');
            match data {
                Some(b"") => text.push_str("(empty)\n"),
                Some(data) => {
                    let _ = writeln!(text, "{}", data.escape_ascii());
                }
                None => {}
            }
        }
        text
    }

    fn replace_words(&mut self, words: &mut [String], key: &str) {
        match words[0].as_str() {
            "VALUE" => {
                let number = words.get(4).and_then(|word| word.parse().ok());
                if let Some(number) = number {
                    let key = words[1].clone();
                    self.note_cas(&key, number);
                    words[4] = String::from("<cas>");
                }
            }
            "VA" | "HD" => {
                for word in &mut words[1..] {
                    if let Some(number) = word.strip_prefix('c').and_then(|text| text.parse().ok())
                        && number > 0
                    {
                        self.note_cas(key, number);
                        *word = String::from("c<cas>");
                    }
                    let number = |name: char| word.strip_prefix(name)?.parse::<u64>().ok();
                    if let Some(seconds) = number('t').filter(|&seconds| seconds > 50) {
                        *word = match seconds {
                            ..100_000 => format!("t{}", (seconds + 50) / 100 * 100),
                            _ => String::from("t<long>"),
                        };
                    } else if number('l').is_some() {
                        *word = String::from("l<seconds>");
                    }
                }
            }
            "ME" => {
                for word in words {
                    if let Some((name, _)) = word.split_once('=')
                        && name != "fetch"
                    {
                        *word = format!("{name}=<...>");
                    }
                }
            }
            "VERSION" => words[1] = String::from("<version>"),
            _ => {}
        }
    }
}

/// A number without the blanks that memcached leaves behind when it becomes shorter; any other value as it is.
fn trimmed(value: &[u8]) -> &[u8] {
    let digits = value
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .count();
    let is_padded = digits > 0 && value[digits..].iter().all(|&byte| byte == b' ');
    if is_padded { &value[..digits] } else { value }
}
