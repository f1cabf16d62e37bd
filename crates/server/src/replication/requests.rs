//! The requests in the stream of a primary: parsed, and put into groups that are applied in one section each.

use damselfly_commands::{Args, KeyspaceFn, Run};
use damselfly_protocol::{Limits, Progress, RequestParser, Span};
use damselfly_pubsub::Scope;

use crate::memcached::attributes_and_key;
use crate::registry::{Handler, Locks, REGISTRY, Row};

/// The most commands in a group that is no transaction: their locks are held for some ten microseconds.
const GROUP_COMMANDS_MAX: usize = 32;

/// A group ends when its commands have this many bytes.
const GROUP_BYTES_MAX: usize = 64 << 10;

/// How many commands are parsed ahead, except for a transaction.
pub(super) const PARSED_MAX: usize = 256;

/// The longest string that a primary may send.
const BULK_BYTES_MAX: usize = u32::MAX as usize;

/// Complete requests with their bytes.
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    pub(super) queue: Queue,
}

impl Chunk {
    /// True if the primary wants to know how far this replica is.
    pub(super) fn wants_ack(&self) -> bool {
        let is_ack = |request: &Request| matches!(request.action, Action::Ack);
        self.queue.requests.iter().any(is_ack)
    }
}

/// Requests that are parsed, but not applied.
#[derive(Default)]
pub(super) struct Queue {
    parser: RequestParser,
    spans: Vec<Span>,
    pub(super) requests: Vec<Request>,
    /// How many bytes of the input are parsed.
    parsed: usize,
    /// The place of a MULTI whose EXEC has not arrived.
    open_multi: Option<usize>,
}

impl Queue {
    /// Parses what is complete in `input`.
    ///
    /// # Errors
    /// It is no stream of requests: one line.
    pub(super) fn parse(&mut self, input: &mut [u8]) -> Result<(), String> {
        let limits = Limits {
            bulk_bytes_max: BULK_BYTES_MAX,
            ..Limits::default()
        };
        while self.parsed < input.len()
            && (self.requests.len() < PARSED_MAX || self.open_multi.is_some())
        {
            let (start, spans) = (self.parsed, &mut self.spans);
            let first_span = spans.len();
            match self.parser.parse(&mut input[start..], spans, &limits) {
                Ok(Progress::Complete { consumed }) => self.parsed += consumed,
                Ok(Progress::Incomplete { .. }) => return Ok(()),
                Err(error) => return Err(error.to_string()),
            }
            match self.requests.last_mut() {
                // An empty line becomes a part of the request before it, so that it needs no memory of its own.
                Some(last) if self.spans.len() == first_span => {
                    last.end = self.parsed;
                    continue;
                }
                Some(_) | None => {}
            }
            if self.spans.len() > first_span && input[start] != b'*' {
                return Err(String::from(
                    "it has a command that is not in the form of the protocol (inline), as after corruption",
                ));
            }
            let request = self.request(input, start, first_span);
            match request.action {
                Action::Multi => self.open_multi = Some(self.requests.len()),
                Action::Exec => self.open_multi = None,
                _ => {}
            }
            self.requests.push(request);
        }
        Ok(())
    }

    /// The request whose spans were parsed last.
    fn request(&self, input: &[u8], start: usize, first_span: usize) -> Request {
        let spans = &self.spans[first_span..];
        let args = Args::new(&input[start..], spans, None);
        let action = match spans {
            [] => Action::Nothing,
            _ => Action::of(args),
        };
        let key = match action {
            Action::OneKey(row, _) => only_key(row).map(|place| args.at(place)),
            Action::Attributes => attributes_and_key(args.at(1)).map(|(_, key)| key),
            _ => None,
        };
        Request {
            start,
            end: self.parsed,
            first_span,
            spans: spans.len(),
            action,
            hash: key.map_or(0, damselfly_base::hash),
        }
    }

    /// The end of the group that begins at a request, if it is complete.
    pub(super) fn group(&self, from: usize) -> Option<usize> {
        let requests = &self.requests;
        let first = requests.get(from)?;
        if let Action::Multi = first.action {
            if self.open_multi == Some(from) {
                return None;
            }
            let is_exec = |request: &Request| matches!(request.action, Action::Exec);
            let length = requests[from..].iter().position(is_exec)?;
            return Some(from + length + 1);
        }
        if !first.action.is_groupable() {
            return Some(from + 1);
        }
        let rest = requests[from..].iter().take(GROUP_COMMANDS_MAX);
        let fits = |request: &&Request| {
            request.action.is_groupable() && request.start - first.start < GROUP_BYTES_MAX
        };
        Some(from + rest.take_while(fits).count())
    }

    /// Takes the requests that are complete, with their bytes, which are the first ones of `input`.
    pub(super) fn take_complete(&mut self, input: &[u8]) -> Option<Chunk> {
        let count = self.open_multi.unwrap_or(self.requests.len());
        let bytes = self.requests[..count].last()?.end;
        let mut rest = self.requests.split_off(count);
        let first = rest.first();
        let spans = first.map_or(self.spans.len(), |request| request.first_span);
        let rest_spans = self.spans.split_off(spans);
        for request in &mut rest {
            request.start -= bytes;
            request.end -= bytes;
            request.first_span -= spans;
        }
        let queue = Queue {
            requests: std::mem::replace(&mut self.requests, rest),
            spans: std::mem::replace(&mut self.spans, rest_spans),
            ..Self::default()
        };
        self.parsed -= bytes;
        self.open_multi = self.open_multi.map(|at| at - count);
        Some(Chunk {
            bytes: input[..bytes].to_vec(),
            queue,
        })
    }

    /// The arguments of a request.
    pub(super) fn args<'i>(&'i self, input: &'i [u8], request: &Request) -> Args<'i> {
        let spans = &self.spans[request.first_span..request.first_span + request.spans];
        let key = match request.action {
            Action::OneKey(row, _) => only_key(row).map(|place| (place, request.hash)),
            _ => None,
        };
        Args::new(&input[request.start..], spans, key)
    }
}

/// The place of the only key of a command that has one.
fn only_key(row: &Row) -> Option<usize> {
    match row.locks {
        Locks::One(place) => Some(place),
        Locks::None | Locks::Many | Locks::All => None,
    }
}

/// A request, with its place in the input.
pub(super) struct Request {
    pub(super) start: usize,
    pub(super) end: usize,
    first_span: usize,
    spans: usize,
    pub(super) action: Action,
    /// The hash of the only key.
    pub(super) hash: u64,
}

/// What a request does.
#[derive(Clone, Copy)]
pub(super) enum Action {
    /// A command on one key.
    OneKey(&'static Row, KeyspaceFn),
    /// A command on the keys that its arguments name.
    Keys(&'static Row, KeyspaceFn),
    /// A command that needs all locks.
    AllKeys(&'static Row, KeyspaceFn),
    /// FUNCTION
    Functions(&'static Row),
    Select,
    Multi,
    Exec,
    Publish(Scope),
    /// What memcached clients keep with an item.
    Attributes,
    /// REPLCONF GETACK
    Ack,
    /// PING and the like.
    Nothing,
    /// It can't be applied.
    Unknown,
}

impl Action {
    fn of(args: Args<'_>) -> Self {
        let Some(row) = REGISTRY.find_original(args.at(0)) else {
            return Self::Unknown;
        };
        let row = match row.subcommands.is_empty() || args.len() < 2 {
            true => row,
            false => REGISTRY.find_subcommand(row, args.at(1)).unwrap_or(row),
        };
        if !row.command.arity.allows(args.len()) {
            return Self::Unknown;
        }
        if let Run::Run(Handler::Keyspace(run)) | Run::Either(Handler::Keyspace(run), _) =
            row.command.run
        {
            return match row.locks {
                _ if row.needs_all_locks => Self::AllKeys(row, run),
                Locks::One(_) => Self::OneKey(row, run),
                Locks::Many => Self::Keys(row, run),
                Locks::None | Locks::All => Self::AllKeys(row, run),
            };
        }
        match row.name.as_str() {
            "select" => Self::Select,
            "multi" => Self::Multi,
            "exec" => Self::Exec,
            "publish" => Self::Publish(Scope::Cluster),
            "spublish" => Self::Publish(Scope::Slot),
            "echo" => Self::Attributes,
            "replconf" if args.is(1, "GETACK") => Self::Ack,
            "ping" | "replconf" | "script|load" | "script|flush" => Self::Nothing,
            name if name.starts_with("function|") => Self::Functions(row),
            _ => Self::Unknown,
        }
    }

    /// True if it can be in a group with others.
    fn is_groupable(self) -> bool {
        match self {
            Self::OneKey(..)
            | Self::Select
            | Self::Publish(_)
            | Self::Attributes
            | Self::Ack
            | Self::Nothing
            | Self::Unknown => true,
            Self::Keys(..) | Self::AllKeys(..) | Self::Functions(_) | Self::Multi | Self::Exec => {
                false
            }
        }
    }
}
