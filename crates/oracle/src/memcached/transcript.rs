//! Transcripts of memcached's protocol: text files of requests and the replies a server must give.
//!
//! ```text
//! # A comment.
//! > set k 0 0 2\r\nhi        a request; \r \n \t \\ \xHH stand for those bytes, and a line end is added
//! STORED                     its reply, as `Client::call` returns it
//! @ours                      the next request is for Damselfly only: an intended difference from memcached
//! @gone KEY                  waits until KEY has expired
//! @new                       opens a new connection
//! ```
//!
//! Expected replies are not written by hand: a test records them from `memcached`, except those behind `@ours`.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use super::{Client, PATIENCE, POLL_INTERVAL, Side};

/// A parsed transcript.
#[derive(Debug)]
pub struct Transcript {
    steps: Vec<Step>,
}

#[derive(Debug)]
enum Step {
    /// A comment or an empty line.
    Nothing(String),
    New,
    Gone(String),
    Call {
        line: usize,
        source: String,
        request: Vec<u8>,
        expected: String,
        is_ours: bool,
    },
}

impl Transcript {
    /// Reads a transcript.
    ///
    /// # Errors
    /// The line that is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut steps, mut is_ours) = (Vec::new(), false);
        for (number, line) in (1..).zip(text.lines()) {
            if let Some(source) = line.strip_prefix("> ") {
                let mut request = unescaped(source).ok_or(format!("line {number}: bad escape"))?;
                request.extend_from_slice(b"\r\n");
                steps.push(Step::Call {
                    line: number,
                    source: source.to_owned(),
                    request,
                    expected: String::new(),
                    is_ours: std::mem::take(&mut is_ours),
                });
            } else if line == "@ours" {
                is_ours = true;
            } else if line == "@new" {
                steps.push(Step::New);
            } else if let Some(key) = line.strip_prefix("@gone ") {
                steps.push(Step::Gone(key.to_owned()));
            } else if line.is_empty() || line.starts_with('#') {
                steps.push(Step::Nothing(line.to_owned()));
            } else if let Some(Step::Call { expected, .. }) = steps.last_mut() {
                expected.push_str(line);
                expected.push('\n');
            } else {
                return Err(format!("line {number}: a reply without a request"));
            }
        }
        Ok(Self { steps })
    }

    /// Plays the transcript and returns what differs.
    ///
    /// # Errors
    /// The server does not reply.
    pub fn play(&self, address: SocketAddr, side: Side) -> io::Result<Vec<String>> {
        let mut wrong = Vec::new();
        self.run(address, side, |step, actual| {
            if let Step::Call {
                line,
                source,
                expected,
                ..
            } = step
                && actual != expected
            {
                wrong.push(format!(
                    "line {line}: {source}\nexpected:\n{expected}actual:\n{actual}"
                ));
            }
        })?;
        Ok(wrong)
    }

    /// The text of the transcript with the replies of a real memcached.
    ///
    /// # Errors
    /// The server does not reply.
    pub fn record(&self, address: SocketAddr) -> io::Result<String> {
        let mut replies = Vec::new();
        self.run(address, Side::Memcached, |_, actual| {
            replies.push(actual.to_owned());
        })?;
        let (mut text, mut replies) = (String::new(), replies.into_iter());
        for step in &self.steps {
            let _ = match step {
                Step::Nothing(line) => writeln!(text, "{line}"),
                Step::New => writeln!(text, "@new"),
                Step::Gone(key) => writeln!(text, "@gone {key}"),
                Step::Call {
                    source,
                    expected,
                    is_ours: true,
                    ..
                } => write!(text, "@ours\n> {source}\n{expected}"),
                Step::Call { source, .. } => {
                    write!(text, "> {source}\n{}", replies.next().unwrap_or_default())
                }
            };
        }
        Ok(text)
    }

    fn run(
        &self,
        address: SocketAddr,
        side: Side,
        mut note: impl FnMut(&Step, &str),
    ) -> io::Result<()> {
        let mut client = Client::open(address)?;
        for step in &self.steps {
            match step {
                Step::Nothing(_) => {}
                Step::New => client = Client::open(address)?,
                Step::Gone(key) => {
                    let started = Instant::now();
                    while client.call(format!("mg {key} u\r\n").as_bytes())? != "EN\n" {
                        if started.elapsed() > PATIENCE {
                            return Err(io::Error::other(format!("{key} does not expire")));
                        }
                        std::thread::sleep(POLL_INTERVAL);
                    }
                }
                Step::Call { is_ours: true, .. } if side == Side::Memcached => {}
                Step::Call { line, request, .. } => {
                    let actual = client
                        .call(request)
                        .map_err(|why| io::Error::new(why.kind(), format!("line {line}: {why}")))?;
                    note(step, &actual);
                }
            }
        }
        Ok(())
    }
}

fn unescaped(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next()? {
                b'r' => b'\r',
                b'n' => b'\n',
                b't' => b'\t',
                b'\\' => b'\\',
                b'x' => {
                    let digits = [rest.next()?, rest.next()?];
                    u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
                }
                _ => return None,
            },
            other => other,
        });
    }
    Some(bytes)
}
