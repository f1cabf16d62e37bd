//! Transcripts: text files of commands and the replies a server must give.
//!
//! ```text
//! # A comment.
//! > SET greeting "hello\n"       a command on the first connection
//! OK                             its reply, as `text::render` writes it
//! second> GET greeting           the same on a connection named "second"
//! "hello\n"
//! raw> "PING\r\n"                sends these bytes, then reads one reply
//! PONG
//! second>> BLPOP list 0          a command that blocks: its reply is read later
//! second<                        reads that reply
//! 1) "list"
//! 2) "element"
//! > CLIENT KILL ID @id:second    the id of that connection's client
//! (integer) 1
//! ```
//!
//! A directive has its own line and affects what follows:
//!
//! ```text
//! @resp3               switches the first connection to RESP3
//! @unordered           the next reply is an array in any order
//! @between LOW HIGH    the next reply is an integer from LOW to HIGH
//! @like PATTERN        the next reply is one line that matches; * stands for anything
//! @ignore              the next reply may be anything
//! @ours                the next command is for Damselfly only: an intended difference from Redis
//! @theirs              the next command is for the reference only: usually the same one with its reply follows, for `@ours`
//! @wait-gone KEY       waits until KEY of database 0 has expired
//! @needs COMMAND       the rest of the file is skipped if the server does not know COMMAND
//! @closed [NAME]       the server must close the first connection, or the one of that name; the next command gets a new one
//! ```
//!
//! Expected replies are not written by hand: `oracle record FILE` fills them in from `redis-server`.

use crate::connection::{Connection, request};
use crate::server::Kind;
use crate::text::{like, render, split_arguments};
use damselfly_protocol::client::Value;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long a key may outlive its deadline before `@wait-gone` gives up.
const GONE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a command may take until its client is blocked.
const BLOCKED_TIMEOUT: Duration = Duration::from_secs(5);

/// A parsed transcript.
#[derive(Debug, Clone)]
pub struct Transcript {
    steps: Vec<Step>,
}

#[derive(Debug, Clone)]
struct Step {
    /// The number of the step's first line in the file, from 1.
    line: usize,
    /// The line as written, for messages and for recording.
    source: String,
    action: Action,
    expected: Vec<String>,
}

#[derive(Debug, Clone)]
enum Action {
    /// A comment or an empty line.
    Nothing,
    Send {
        connection: String,
        text: Text,
        check: Check,
        only: Option<Kind>,
    },
    /// Sends and waits until the server says that the client is blocked.
    Block {
        connection: String,
        bytes: Vec<u8>,
        only: Option<Kind>,
    },
    Receive {
        connection: String,
        check: Check,
        only: Option<Kind>,
    },
    Resp3,
    WaitGone(Vec<u8>),
    Needs(String),
    /// The server must close the connection of that name.
    Closed(String),
    /// A directive that applies to the next command.
    Modifier,
}

/// The text of a request.
#[derive(Debug, Clone)]
enum Text {
    /// These bytes.
    Raw(Vec<u8>),
    /// A request with these arguments.
    Request(Vec<Vec<u8>>),
}

impl Text {
    /// The bytes to send, with `@id:NAME` replaced by the id of that connection.
    fn bytes(
        &self,
        connections: &mut HashMap<String, Connection>,
        address: SocketAddr,
    ) -> io::Result<Vec<u8>> {
        let mut arguments = match self {
            Self::Raw(bytes) => return Ok(bytes.clone()),
            Self::Request(arguments) => arguments.clone(),
        };
        for argument in &mut arguments {
            if let Some(name) = argument.strip_prefix(b"@id:") {
                let name = String::from_utf8_lossy(name).into_owned();
                let id = client_id(named(connections, &name, address)?)?;
                *argument = id.to_string().into_bytes();
            }
        }
        Ok(request(&arguments))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Check {
    Exact,
    Unordered,
    Between(i64, i64),
    Like(String),
    Ignore,
}

impl Check {
    /// True if the check uses the lines written under the command.
    fn uses_lines(&self) -> bool {
        matches!(self, Check::Exact | Check::Unordered)
    }
}

/// A reply that differs from the transcript.
#[derive(Debug, Clone)]
pub struct Mismatch {
    /// The line of the command in the file, from 1.
    pub line: usize,
    /// The command as written.
    pub command: String,
    /// The expected reply.
    pub expected: String,
    /// The actual reply.
    pub actual: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            line,
            command,
            expected,
            actual,
        } = self;
        write!(
            f,
            "line {line}: {command}\n  expected: {expected}\n  received: {actual}"
        )
    }
}

impl Transcript {
    /// Parses the text of a file.
    ///
    /// # Errors
    /// The number of the first invalid line, and why it is invalid.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut steps: Vec<Step> = Vec::new();
        let mut check = Check::Exact;
        let mut only = None;
        for (index, source) in text.lines().enumerate() {
            let fail = |why: String| format!("line {}: {why}", index + 1);
            let action = if source.trim().is_empty() || source.starts_with('#') {
                Action::Nothing
            } else if let Some(directive) = source.strip_prefix('@') {
                match parse_directive(directive).map_err(fail)? {
                    Directive::Do(action) => action,
                    Directive::Check(next) => {
                        check = next;
                        Action::Modifier
                    }
                    Directive::Only(kind) => {
                        only = Some(kind);
                        Action::Modifier
                    }
                }
            } else if let Some((connection, arguments)) = blocking_prompt(source) {
                Action::Block {
                    connection: connection.into(),
                    bytes: request(&split_arguments(arguments).map_err(fail)?),
                    only: only.take(),
                }
            } else if let Some(connection) = source.strip_suffix('<') {
                Action::Receive {
                    connection: connection.into(),
                    check: std::mem::replace(&mut check, Check::Exact),
                    only: only.take(),
                }
            } else if let Some((connection, arguments)) = prompt(source) {
                let arguments = split_arguments(arguments).map_err(fail)?;
                let text = if connection == "raw" {
                    Text::Raw(arguments.concat())
                } else {
                    Text::Request(arguments)
                };
                let check = std::mem::replace(&mut check, Check::Exact);
                let connection = if connection == "raw" { "" } else { connection };
                Action::Send {
                    connection: connection.into(),
                    text,
                    check,
                    only: only.take(),
                }
            } else {
                let open = steps.last_mut().filter(|step| {
                    matches!(step.action, Action::Send { .. } | Action::Receive { .. })
                });
                let step =
                    open.ok_or_else(|| fail("a reply without a command before it".into()))?;
                step.expected.push(source.into());
                continue;
            };
            steps.push(Step {
                line: index + 1,
                source: source.into(),
                action,
                expected: Vec::new(),
            });
        }
        Ok(Self { steps })
    }

    /// The first word of each command, in upper case.
    #[must_use]
    pub fn command_names(&self) -> Vec<String> {
        let sent = self
            .steps
            .iter()
            .filter(|step| matches!(step.action, Action::Send { .. } | Action::Block { .. }));
        let lines = sent
            .filter_map(|step| prompt(&step.source).or(blocking_prompt(&step.source)))
            .map(|(_, arguments)| arguments);
        lines
            .filter_map(|line| line.split_whitespace().next())
            .map(str::to_ascii_uppercase)
            .collect()
    }

    /// Plays the transcript against the server at `address` and returns every reply that differs.
    ///
    /// The server should be fresh. Steps marked `@ours` or `@theirs` are skipped for the other kind.
    ///
    /// # Errors
    /// A connection fails where the transcript expects a reply; the text names the line.
    pub fn play(&self, address: SocketAddr, kind: Kind) -> io::Result<Vec<Mismatch>> {
        let mut mismatches = Vec::new();
        self.each_reply(address, kind, |step, check, reply| {
            if let Some(expected) = disagreement(check, &step.expected, reply) {
                mismatches.push(Mismatch {
                    line: step.line,
                    command: step.source.clone(),
                    expected,
                    actual: render(reply),
                });
            }
        })?;
        Ok(mismatches)
    }

    /// Plays the transcript and returns its text with the server's replies as the expected ones.
    ///
    /// # Errors
    /// Those of [`Transcript::play`].
    pub fn record(&self, address: SocketAddr) -> io::Result<String> {
        let mut recorded: HashMap<usize, String> = HashMap::new();
        self.each_reply(address, Kind::Redis, |step, check, reply| {
            let text = if check.uses_lines() {
                render(&ordered(check, reply))
            } else {
                String::new()
            };
            recorded.insert(step.line, text);
        })?;
        let mut text = String::new();
        for step in &self.steps {
            text.push_str(step.source.trim_end());
            text.push('\n');
            let reply = recorded
                .get(&step.line)
                .cloned()
                .unwrap_or_else(|| step.expected.join("\n"));
            if !reply.is_empty() {
                text.push_str(&reply);
                text.push('\n');
            }
        }
        Ok(text)
    }

    fn each_reply(
        &self,
        address: SocketAddr,
        kind: Kind,
        mut visit: impl FnMut(&Step, &Check, &Value),
    ) -> io::Result<()> {
        let mut connections = HashMap::from([(String::new(), Connection::open(address)?)]);
        for step in &self.steps {
            let at = |error: io::Error| {
                io::Error::new(
                    error.kind(),
                    format!("line {}: {}: {error}", step.line, step.source),
                )
            };
            match &step.action {
                Action::Nothing | Action::Modifier => {}
                Action::Send {
                    only: Some(only), ..
                }
                | Action::Block {
                    only: Some(only), ..
                }
                | Action::Receive {
                    only: Some(only), ..
                } if *only != kind => {}
                Action::Send {
                    connection,
                    text,
                    check,
                    ..
                } => {
                    let bytes = text.bytes(&mut connections, address).map_err(at)?;
                    let connection = named(&mut connections, connection, address).map_err(at)?;
                    connection.send(&bytes).map_err(at)?;
                    visit(step, check, &connection.receive().map_err(at)?);
                }
                Action::Block {
                    connection, bytes, ..
                } => {
                    let connection = named(&mut connections, connection, address).map_err(at)?;
                    block(connection, bytes, address).map_err(at)?;
                }
                Action::Receive {
                    connection, check, ..
                } => {
                    let connection = named(&mut connections, connection, address).map_err(at)?;
                    visit(step, check, &connection.receive().map_err(at)?);
                }
                Action::Resp3 => {
                    let reply = first(&mut connections).call(&["HELLO", "3"]).map_err(at)?;
                    if matches!(reply, Value::Error(_)) {
                        return Err(at(io::Error::other(render(&reply))));
                    }
                }
                Action::Needs(name) => {
                    let reply = first(&mut connections).call(&[name]).map_err(at)?;
                    if like("(error) ERR unknown command *", &render(&reply)) {
                        println!("line {}: skipped the rest, which needs {name}", step.line);
                        return Ok(());
                    }
                }
                Action::WaitGone(key) => wait_gone(address, key).map_err(at)?,
                Action::Closed(name) => {
                    let connection = named(&mut connections, name, address).map_err(at)?;
                    if !connection.closed_by_server() {
                        return Err(at(io::Error::other(
                            "the server did not close the connection",
                        )));
                    }
                    connections.remove(name);
                    if name.is_empty() {
                        connections.insert(String::new(), Connection::open(address).map_err(at)?);
                    }
                }
            }
        }
        Ok(())
    }
}

enum Directive {
    Do(Action),
    /// Checks the next reply like this.
    Check(Check),
    /// The next command is for servers of this kind only.
    Only(Kind),
}

fn parse_directive(text: &str) -> Result<Directive, String> {
    let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
    let rest = rest.trim();
    let number = |text: Option<&str>| {
        text.and_then(|text| text.parse().ok())
            .ok_or("@between needs two integers")
    };
    Ok(match name {
        "resp3" => Directive::Do(Action::Resp3),
        "closed" => Directive::Do(Action::Closed(rest.into())),
        "wait-gone" => Directive::Do(Action::WaitGone(split_arguments(rest)?.concat())),
        "needs" => Directive::Do(Action::Needs(rest.into())),
        "unordered" => Directive::Check(Check::Unordered),
        "ignore" => Directive::Check(Check::Ignore),
        "like" => Directive::Check(Check::Like(rest.into())),
        "between" => {
            let mut bounds = rest.split_whitespace();
            Directive::Check(Check::Between(
                number(bounds.next())?,
                number(bounds.next())?,
            ))
        }
        "ours" => Directive::Only(Kind::Damselfly),
        "theirs" => Directive::Only(Kind::Redis),
        _ => return Err(format!("unknown directive @{name}")),
    })
}

/// Splits `name> arguments`; the name may be empty and has letters only.
fn prompt(line: &str) -> Option<(&str, &str)> {
    let (name, arguments) = line.split_once('>')?;
    let is_prompt =
        name.chars().all(|letter| letter.is_ascii_lowercase()) && arguments.starts_with(' ');
    is_prompt.then_some((name, arguments))
}

/// Like [`prompt`], for a command that blocks.
fn blocking_prompt(line: &str) -> Option<(&str, &str)> {
    let (name, arguments) = line.split_once(">>")?;
    let is_prompt =
        name.chars().all(|letter| letter.is_ascii_lowercase()) && arguments.starts_with(' ');
    is_prompt.then_some((name, arguments))
}

/// The connection of that name, opened when it is first used.
fn named<'a>(
    connections: &'a mut HashMap<String, Connection>,
    name: &str,
    address: SocketAddr,
) -> io::Result<&'a mut Connection> {
    Ok(match connections.entry(name.to_owned()) {
        Entry::Occupied(known) => known.into_mut(),
        Entry::Vacant(new) => new.insert(Connection::open(address)?),
    })
}

fn client_id(connection: &mut Connection) -> io::Result<i64> {
    match connection.call(&["CLIENT", "ID"])? {
        Value::Integer(id) => Ok(id),
        other => Err(io::Error::other(format!(
            "the client has no id: {}",
            render(&other)
        ))),
    }
}

/// Sends a command and waits until the server says that its client is blocked.
fn block(connection: &mut Connection, bytes: &[u8], address: SocketAddr) -> io::Result<()> {
    let id = client_id(connection)?;
    connection.send(bytes)?;
    let mut probe = Connection::open(address)?;
    let start = Instant::now();
    let line = ["CLIENT", "LIST", "ID", &id.to_string()];
    while !render(&probe.call(&line)?).contains(" flags=b ") {
        if start.elapsed() > BLOCKED_TIMEOUT {
            return Err(io::Error::other("the client is not blocked"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn first(connections: &mut HashMap<String, Connection>) -> &mut Connection {
    connections
        .get_mut("")
        .expect("the first connection is always there")
}

/// The expected reply, if `reply` differs from it.
fn disagreement(check: &Check, expected: &[String], reply: &Value) -> Option<String> {
    let actual = render(reply);
    match check {
        Check::Ignore => None,
        Check::Exact | Check::Unordered => {
            let expected = expected.join("\n");
            (render(&ordered(check, reply)) != expected).then_some(expected)
        }
        Check::Between(low, high) => match reply {
            Value::Integer(number) if (low..=high).contains(&number) => None,
            _ => Some(format!("an integer from {low} to {high}")),
        },
        Check::Like(pattern) => {
            (!like(pattern, &actual)).then(|| format!("something like {pattern}"))
        }
    }
}

/// The reply, with its elements sorted if the check ignores their order.
fn ordered(check: &Check, reply: &Value) -> Value {
    let mut reply = reply.clone();
    if *check == Check::Unordered
        && let Value::Array(items) | Value::Set(items) = &mut reply
    {
        items.sort_by_key(render);
    }
    reply
}

fn wait_gone(address: SocketAddr, key: &[u8]) -> io::Result<()> {
    let mut probe = Connection::open(address)?;
    let start = Instant::now();
    while probe.call(&[b"EXISTS", key])? != Value::Integer(0) {
        if start.elapsed() > GONE_TIMEOUT {
            return Err(io::Error::other(format!(
                "the key is still there after {GONE_TIMEOUT:?}"
            )));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use damselfly_protocol::client::NullKind;

    fn mismatch(check: &Check, expected: &str, reply: &Value) -> bool {
        disagreement(check, &[expected.to_string()], reply).is_some()
    }

    #[test]
    fn a_wrong_reply_is_noticed_by_every_check() {
        let seven = Value::Integer(7);
        assert!(!mismatch(&Check::Exact, "(integer) 7", &seven));
        assert!(mismatch(&Check::Exact, "(integer) 8", &seven));
        assert!(
            mismatch(&Check::Exact, "(nil)", &Value::Null(NullKind::Resp3)),
            "RESP2's nil is not RESP3's"
        );
        assert!(!mismatch(&Check::Between(7, 7), "", &seven));
        assert!(mismatch(&Check::Between(1, 6), "", &seven));
        assert!(mismatch(
            &Check::Between(1, 9),
            "",
            &Value::Bulk(b"7".to_vec())
        ));
        assert!(mismatch(&Check::Like("(integer) 8*".into()), "", &seven));
        let pair = Value::Array(vec![Value::Integer(2), Value::Integer(1)]);
        assert!(!mismatch(
            &Check::Unordered,
            "1) (integer) 1\n2) (integer) 2",
            &pair
        ));
        assert!(mismatch(
            &Check::Exact,
            "1) (integer) 1\n2) (integer) 2",
            &pair
        ));
    }

    #[test]
    fn invalid_lines_are_refused_with_their_number() {
        assert_eq!(
            Transcript::parse("# fine\nOK").unwrap_err(),
            "line 2: a reply without a command before it"
        );
        assert!(
            Transcript::parse("@sideways")
                .unwrap_err()
                .contains("@sideways")
        );
        assert!(
            Transcript::parse("> SET \"open")
                .unwrap_err()
                .starts_with("line 1")
        );
        assert!(Transcript::parse("@between 1\n> TTL key").is_err());
    }

    #[test]
    fn commands_are_named() {
        let transcript =
            Transcript::parse("> set key value\nOK\nother>> BLPOP key 0\nother<\n\"value\"")
                .unwrap();
        assert_eq!(transcript.command_names(), ["SET", "BLPOP"]);
    }
}
