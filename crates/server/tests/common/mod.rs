//! A server within the test's own process, and a blocking client.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use damselfly_config::{Config, SavePoints};
use damselfly_protocol::client::{DecodeLimits, Decoder, Value, write_command};
use damselfly_server::shared::Shared;
use damselfly_server::signals::Signals;
use damselfly_server::start::Server;

/// The longest time that a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A running server of four threads on a Unix socket; stops when dropped.
pub struct TestServer {
    server: Option<Server>,
    folder: PathBuf,
}

impl TestServer {
    /// A server with default options.
    pub fn start() -> Self {
        Self::with(|_| {})
    }

    /// A server with the options that `change` sets.
    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::try_with(change).unwrap()
    }

    /// The same, or why it does not start.
    pub fn try_with(change: impl FnOnce(&mut Config)) -> Result<Self, String> {
        Self::try_prepared(change, |_| {})
    }

    /// The same, after `prepare`, which runs before anything is loaded.
    pub fn try_prepared(
        change: impl FnOnce(&mut Config),
        prepare: impl FnOnce(&Server),
    ) -> Result<Self, String> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "damselfly-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Relaxed)
        );
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let mut config = Config {
            port: 0,
            threads: 4,
            unixsocket: folder.join("socket").display().to_string(),
            dir: folder.display().to_string(),
            save: SavePoints(Vec::new()),
            ..Config::default()
        };
        change(&mut config);
        let server = Self {
            server: Some(Server::start(config, None)?),
            folder,
        };
        let started = server.server.as_ref().unwrap();
        prepare(started);
        started.load(&Signals::default())?;
        Ok(server)
    }

    /// The state that its threads share.
    pub fn shared(&self) -> &Arc<Shared> {
        self.server.as_ref().unwrap().shared()
    }

    /// Changes options while it runs, as CONFIG SET does.
    pub fn change(&self, change: impl FnOnce(&mut Config)) {
        self.shared()
            .change_config(|config| {
                let mut config = config.clone();
                change(&mut config);
                Ok::<_, ()>(config)
            })
            .unwrap();
    }

    /// A new connection. It goes to the thread that has the fewest.
    pub fn client(&self) -> Client {
        Client::connect(&self.folder.join("socket"))
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shared().stop();
            server.wait(&Signals::default());
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What carries the bytes of a [`Client`].
pub trait Socket: Read + Write + Send {
    /// Says that nothing more will be sent. Replies can still be read.
    fn end_sending(&mut self);
}

impl Socket for UnixStream {
    fn end_sending(&mut self) {
        self.shutdown(std::net::Shutdown::Write).unwrap();
    }
}

impl Socket for Box<dyn Socket> {
    fn end_sending(&mut self) {
        (**self).end_sending();
    }
}

/// A connection whose reads block.
pub struct Client<S = UnixStream> {
    /// Its socket.
    pub stream: S,
    input: Vec<u8>,
    decoder: Decoder,
}

impl Client {
    /// Connects to the Unix socket at `path`.
    pub fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self::over(stream)
    }

    /// The same client, of a type that does not say what its socket is.
    pub fn boxed(self) -> Client<Box<dyn Socket>> {
        Client::over(Box::new(self.stream))
    }

    /// True if no bytes have arrived since the last reply.
    pub fn has_nothing(&mut self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let mut buffer = [0; 1024];
        let read = self.stream.read(&mut buffer);
        self.stream.set_nonblocking(false).unwrap();
        match read {
            Ok(bytes) => {
                self.input.extend_from_slice(&buffer[..bytes]);
                false
            }
            Err(error) => error.kind() == ErrorKind::WouldBlock && self.input.is_empty(),
        }
    }
}

impl<S: Socket> Client<S> {
    /// A client that uses a connected socket.
    pub fn over(stream: S) -> Self {
        Self {
            stream,
            input: Vec::new(),
            decoder: Decoder::new(DecodeLimits::default()),
        }
    }

    /// Sends bytes as they are.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.try_send_bytes(bytes).unwrap();
    }

    /// The same; an error if the server closes the connection meanwhile.
    pub fn try_send_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// Sends a command whose words are separated by spaces.
    pub fn send(&mut self, command: &str) {
        let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        let mut request = Vec::new();
        write_command(&mut request, &words);
        self.send_bytes(&request);
    }

    /// Sends a command whose words may contain spaces.
    pub fn send_words(&mut self, words: &[&str]) {
        let words: Vec<&[u8]> = words.iter().map(|word| word.as_bytes()).collect();
        let mut request = Vec::new();
        write_command(&mut request, &words);
        self.send_bytes(&request);
    }

    /// Sends a command whose words may contain spaces, and returns its reply as `redis-cli` shows it.
    pub fn run_words(&mut self, words: &[&str]) -> String {
        self.send_words(words);
        self.receive()
    }

    /// Closes the sending side. Replies can still be read.
    pub fn end_sending(&mut self) {
        self.stream.end_sending();
    }

    /// The next reply; `None` if the server has closed the connection.
    pub fn receive_value(&mut self) -> Option<Value> {
        loop {
            // Every try decodes the reply from its start, so do not try while it can't be complete.
            let may_be_complete = self.input.ends_with(b"\r\n");
            if may_be_complete
                && let Some((value, bytes)) = self.decoder.decode(&self.input).unwrap()
            {
                self.input.drain(..bytes);
                return Some(value);
            }
            let mut buffer = [0; 64 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(bytes) => self.input.extend_from_slice(&buffer[..bytes]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                // Killed while it did not read: nothing, so no end of TLS either, could follow the part of a reply that was sent.
                Err(error)
                    if error.kind() == ErrorKind::UnexpectedEof && !self.input.is_empty() =>
                {
                    return None;
                }
                Err(error) => panic!("reading a reply: {error}"),
            }
        }
    }

    /// Waits until part of the next reply has arrived.
    pub fn await_some(&mut self) {
        let mut buffer = [0; 1024];
        let bytes = self.stream.read(&mut buffer).unwrap();
        self.input.extend_from_slice(&buffer[..bytes]);
    }

    /// The next reply as `redis-cli` shows it.
    pub fn receive(&mut self) -> String {
        match self.receive_value() {
            Some(value) => value.to_string(),
            None => String::from("(closed)"),
        }
    }

    /// Sends a command and returns its reply as `redis-cli` shows it.
    pub fn run(&mut self, command: &str) -> String {
        self.send(command);
        self.receive()
    }

    /// Sends a command whose reply is one of the string types, and returns its text.
    pub fn text(&mut self, command: &str) -> String {
        self.send(command);
        let bytes = match self.receive_value() {
            Some(Value::Bulk(bytes) | Value::Simple(bytes)) => bytes,
            Some(Value::Verbatim { text, .. }) => text,
            other => panic!("{command}: {other:?}"),
        };
        String::from_utf8(bytes).unwrap()
    }

    /// Sends a command whose reply is an integer, and returns it.
    pub fn number(&mut self, command: &str) -> i64 {
        self.send(command);
        match self.receive_value() {
            Some(Value::Integer(number)) => number,
            other => panic!("{command}: {other:?}"),
        }
    }

    /// Waits until the server closes the connection, and returns the replies that it sent before.
    pub fn until_closed(&mut self) -> Vec<String> {
        let mut replies = Vec::new();
        while let Some(value) = self.receive_value() {
            replies.push(value.to_string());
        }
        replies
    }

    /// The bytes of an incomplete reply.
    pub fn rest(&self) -> &[u8] {
        &self.input
    }
}
