//! Commands: any sequence of commands, run as in the server but without a socket and with a simulated clock.
//!
//! Nothing may panic, each request gets exactly one reply, in the protocol of its session, and the tables stay valid.
#![no_main]

use std::iter::repeat_n;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::atomic::Ordering::Relaxed;

use damselfly_commands::{Arity, At, Keys};
use damselfly_config::{Allow, Config, MaxmemoryPolicy, Origin, SavePoints};
use damselfly_engine::{Engine, Layout, Now};
use damselfly_protocol::Version;
use damselfly_protocol::client::{Decoder, NullKind, Value, write_command};
use damselfly_rdb::Checksum;
use damselfly_server::blocked::End;
use damselfly_server::clients::NewClient;
use damselfly_server::clock::{CLOCK_MS, now_ms};
use damselfly_server::dispatch::{BatchEnd, Dispatcher};
use damselfly_server::event_loop::connection::Connection;
use damselfly_server::event_loop::input::Batch;
use damselfly_server::event_loop::parser::Protocol;
use damselfly_server::event_loop::stream::Stream;
use damselfly_server::registry::{REGISTRY, Row};
use damselfly_server::session::{Replies, Session};
use damselfly_server::shared::Shared;
use damselfly_server::threads::Thread;
use damselfly_server::users::{Login, Users};
use libfuzzer_sys::arbitrary::{Result, Unstructured};

/// Commands that affect the system outside the process or stop it, that register the connection elsewhere (so that it would have
/// to be closed as the event loop does), or that do not get exactly one reply.
const EXCLUDED: &[&str] = &[
    "config",
    "config|set",
    "config|rewrite",
    "shutdown",
    "watch",
    "subscribe",
    "psubscribe",
    "ssubscribe",
    "unsubscribe",
    // Takes long.
    "pfselftest",
    "punsubscribe",
    "sunsubscribe",
];
/// The subcommands of DEBUG that cannot fill the memory.
const DEBUG: &[&str] = &[
    "CHANGE-REPL-ID",
    "DIGEST",
    "DIGEST-VALUE",
    "ERROR",
    "HTSTATS",
    "HTSTATS-KEY",
    "OBJECT",
    "PROTOCOL",
    "QUICKLIST-PACKED-THRESHOLD",
    "REPLYBUFFER",
    "SET-ACTIVE-EXPIRE",
    "SLEEP",
    "STRINGMATCH-LEN",
    "TABLE",
];
/// The initial time of the clock, in milliseconds since the epoch.
const START_MS: i64 = 1_700_000_000_000;
/// The longest value: enough for every width of the length fields of an entry.
const BULK_BYTES_MAX: u64 = 128 << 10;
const DATABASES: u32 = 3;

const KEYS: [&str; 8] = ["a", "b", "c", "d", "{a}b", "", "\r\n\0", "a*[?"];
const NUMBERS: [&str; 32] = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "7",
    "-2",
    "10",
    "100",
    "1000",
    "65535",
    "65536",
    "100000",
    "2147483648",
    "4294967296",
    "17179869184",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "18446744073709551615",
    "9223372036854775",
    "1700000000",
    "1700000001",
    "1700000000001",
    "1700000060000",
    "1.5",
    "-0",
    "1e300",
    "5.0e-5",
    "inf",
    "nan",
    "0x10",
];
const PATTERNS: [&str; 8] = ["*", "a*", "?", "[a-c]", "[^a]", "\\*", "", "*b*"];
const STEPS_MS: [i64; 8] = [1, 10, 999, 1000, 1001, 60_000, 86_400_000, 365 * 86_400_000];

/// The rows to choose commands from. Commands on keys occur more often, since descriptions of the server are long.
static ROWS: LazyLock<Vec<&'static Row>> = LazyLock::new(|| {
    let rows = REGISTRY.rows().iter();
    rows.filter(|row| !EXCLUDED.contains(&row.name.as_str()))
        .flat_map(|row| repeat_n(row, if row.command.keys.any() { 4 } else { 1 }))
        .collect()
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // The only possible error is that the input is used up.
    let _ = drive(&mut Unstructured::new(data));
    // No thread frees the garbage of FLUSHALL ASYNC, and the leak detector cannot follow the addresses in a table.
    damselfly_engine::garbage::free_pending();
});

fn drive(source: &mut Unstructured<'_>) -> Result<()> {
    CLOCK_MS.store(START_MS, Relaxed);
    let mut server = Server::new(source.arbitrary()?);
    while !source.is_empty() && server.is_open() {
        match source.int_in_range(0..=15_u8)? {
            0 => drop(CLOCK_MS.fetch_add(*source.choose(&STEPS_MS)?, Relaxed)),
            1 => server.sweep(),
            2 => server.check(),
            _ => {
                let arguments = arguments(source, &server.dumped)?;
                server.run(&arguments);
            }
        }
    }
    server.check();
    Ok(())
}

/// A server with one connection.
struct Server {
    shared: Arc<Shared>,
    dispatcher: Dispatcher,
    connection: Connection,
    /// The last reply of DUMP.
    dumped: Vec<u8>,
    /// The waker of the only thread is registered here.
    _poll: mio::Poll,
}

impl Server {
    fn new(setup: u8) -> Self {
        let shards = [1, 2, 8, 64][usize::from(setup & 3)];
        let config = Config {
            databases: DATABASES,
            proto_max_bulk_len_bytes: BULK_BYTES_MAX,
            maxmemory_bytes: if setup & 4 == 0 { 0 } else { 64 << 10 },
            maxmemory_policy: if setup & 4 == 0 {
                MaxmemoryPolicy::Noeviction
            } else {
                MaxmemoryPolicy::AllkeysLfu
            },
            enable_debug_command: Allow::Yes,
            ttl_rounding: setup & 8 != 0,
            save: SavePoints(Vec::new()),
            ..Config::default()
        };
        let engine = Arc::new(Engine::new(Layout {
            shards,
            databases: DATABASES as usize,
        }));
        let poll = mio::Poll::new().expect("the system has descriptors");
        let waker =
            mio::Waker::new(poll.registry(), mio::Token(0)).expect("the system has descriptors");
        let (stream, _) = mio::net::UnixStream::pair().expect("the system has descriptors");
        let threads = vec![Thread::new(waker)];
        let shared = Arc::new(Shared::new(
            engine,
            threads,
            config.clone(),
            None,
            Users::default(),
        ));
        let account = shared.users.default_account().clone();
        let client = shared.clients.add(NewClient {
            id: 1,
            address: String::from("127.0.0.1:1"),
            local_address: String::from("127.0.0.1:2"),
            origin: Origin::Local,
            unix: false,
            encryption: String::new(),
            stream_bytes: 0,
            speaks: Protocol::Resp,
            fd: 0,
            thread: 0,
            place: 0,
            account: account.clone(),
            now_ms: now_ms(),
            is_primary: false,
        });
        let mut session = Session::new(client, Login::new(&shared.users, account));
        if setup & 16 != 0 {
            session.set_protocol(Version::Resp3);
        }
        Self {
            dispatcher: Dispatcher::new(shared.clone(), 0),
            connection: Connection::new(Stream::Unix(stream), session),
            dumped: Vec::new(),
            shared,
            _poll: poll,
        }
    }

    fn is_open(&self) -> bool {
        let session = &self.connection.session;
        let stall = self.connection.input.stall();
        stall.is_none() && !session.closing && !session.client.killed.load(Relaxed)
    }

    /// Runs one request and checks its reply.
    fn run(&mut self, arguments: &[Vec<u8>]) {
        let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
        let mut input = Vec::new();
        write_command(&mut input, &arguments);
        let mut batch = Batch::default();
        let limits = self.connection.limits(&self.dispatcher.config);
        batch.parse(&mut self.connection.input.parser, &mut input, &limits);
        assert_eq!(batch.requests.len(), 1, "the bytes are not one request");
        self.dispatcher.config = self.shared.config();
        let speaks = |connection: &Connection| {
            let session = &connection.session;
            let is_replica = session.feed.is_some();
            session.replies == Replies::On && !session.client.monitor.load(Relaxed) && !is_replica
        };
        let before = speaks(&self.connection);
        match self
            .dispatcher
            .run(&mut self.connection, &mut batch, &input)
        {
            BatchEnd::Done | BatchEnd::Closing => {}
            BatchEnd::Stalled(stall) => self.connection.input.wait_for(stall),
            // In the server, the worker runs the script.
            BatchEnd::Script => return,
        }
        self.unblock();
        if self.connection.input.stall().is_none() {
            let replies = self.replies();
            let shown = || String::from_utf8_lossy(&input).into_owned();
            if before && speaks(&self.connection) {
                assert_eq!(replies, 1, "replies to {}", shown());
                if arguments[0] == b"dump" {
                    self.note_dump();
                }
            }
        }
        self.connection.output.clear();
    }

    /// Notes a reply of DUMP, for RESTORE.
    fn note_dump(&mut self) {
        let reply = Decoder::default().decode(&self.connection.output);
        if let Ok(Some((Value::Bulk(payload), _))) = reply {
            self.dumped = payload;
        }
    }

    /// Times out a client that is blocked on keys, since no other client can serve it.
    fn unblock(&mut self) {
        let Some(blocking) = &self.connection.session.blocking else {
            return;
        };
        assert!(
            blocking.end(End::TimedOut),
            "nothing else can have unblocked it"
        );
        let end = blocking.blocked_client.take_end().expect("it was just set");
        self.dispatcher.finish_blocked(&mut self.connection, end);
        assert_eq!(self.shared.engine.waiting_count(), 0);
    }

    /// Decodes all of the output and returns the number of replies in it.
    fn replies(&self) -> usize {
        let version = self.connection.session.protocol;
        let (mut rest, mut count) = (self.connection.output.as_slice(), 0);
        while !rest.is_empty() {
            let (value, bytes) = Decoder::default()
                .decode(rest)
                .unwrap_or_else(|error| panic!("{error}: {}", rest.escape_ascii()))
                .unwrap_or_else(|| panic!("an incomplete reply: {}", rest.escape_ascii()));
            assert!(is_of(version, &value), "{value} in {version:?}");
            rest = &rest[bytes..];
            count += 1;
        }
        count
    }

    fn sweep(&self) {
        for shard in 0..self.shared.engine.shards() {
            self.shared.engine.sweep(shard, Now(now_ms()));
        }
    }

    /// Checks the invariants of all tables.
    fn check(&self) {
        let engine = &self.shared.engine;
        for shard in 0..engine.shards() {
            let mut tx = engine
                .lock_shard(shard, 0, Now(now_ms()))
                .expect("nothing holds a lock between requests");
            for database in tx.databases(shard) {
                database.assert_valid();
            }
        }
    }
}

/// True if that version of the protocol has this type of reply.
fn is_of(version: Version, value: &Value) -> bool {
    let is_resp3 = version == Version::Resp3;
    let all = |values: &[Value]| values.iter().all(|value| is_of(version, value));
    let pairs = |pairs: &[(Value, Value)]| {
        let mut pairs = pairs.iter();
        pairs.all(|(key, value)| is_of(version, key) && is_of(version, value))
    };
    match value {
        Value::Simple(_) | Value::Error(_) | Value::Integer(_) | Value::Bulk(_) => true,
        Value::Null(NullKind::Bulk | NullKind::Array) => !is_resp3,
        Value::Null(NullKind::Resp3) => is_resp3,
        Value::Array(values) => all(values),
        Value::Set(values) | Value::Push(values) => is_resp3 && all(values),
        Value::Map(map) => is_resp3 && pairs(map),
        Value::Attribute {
            pairs: attributes,
            reply,
        } => is_resp3 && pairs(attributes) && is_of(version, reply),
        Value::Double(_) | Value::Boolean(_) | Value::BigNumber(_) | Value::Verbatim { .. } => {
            is_resp3
        }
    }
}

/// A request: mostly with a valid number of arguments, and with keys where its row has them.
fn arguments(source: &mut Unstructured<'_>, dumped: &[u8]) -> Result<Vec<Vec<u8>>> {
    let row = *source.choose(&ROWS)?;
    let mut arguments: Vec<Vec<u8>> = row.name.split('|').map(Vec::from).collect();
    let (Arity::Exactly(required) | Arity::AtLeast(required)) = row.command.arity;
    let len = match source.int_in_range(0..=9_usize)? {
        0..=3 => required,
        4 => required.saturating_sub(1),
        more => required + more - 4,
    };
    let words: Vec<&str> = row
        .command
        .usage
        .split(|c: char| !c.is_ascii_uppercase())
        .filter(|word| !word.is_empty())
        .collect();
    if row.name == "debug" {
        arguments.push(source.choose(DEBUG)?.as_bytes().to_vec());
    }
    for place in arguments.len()..len {
        let is_key = match row.command.keys {
            Keys::Args(specs) => specs.iter().any(|spec| may_be_key(spec.at, place, len)),
            Keys::Slots(at) => may_be_key(at, place, len),
            Keys::None | Keys::All { .. } => false,
        };
        let is_payload = row.name == "restore" && place == 3;
        let choice = if is_payload {
            source.int_in_range(0..=7_u8)?
        } else {
            0
        };
        arguments.push(match choice {
            1..5 => dumped.to_vec(),
            5.. => payload(source)?,
            _ => argument(source, is_key, &words)?,
        });
    }
    Ok(arguments)
}

/// A payload for RESTORE with any bytes as its value.
fn payload(source: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let len = source.int_in_range(0..=300_usize)?.min(source.len());
    let mut payload = source.bytes(len)?.to_vec();
    payload.extend_from_slice(source.choose(&[[10, 0], [12, 0], [80, 0]])?);
    payload.extend_from_slice(&Checksum::of(&payload).to_le_bytes());
    Ok(payload)
}

/// True if the argument at `place` of `len` may be a key.
fn may_be_key(at: At, place: usize, len: usize) -> bool {
    match at {
        At::One(key) => place == key,
        At::OneUnless { place: key, .. } => place == key,
        At::ToEnd { first, step } => place >= first && (place - first).is_multiple_of(step),
        At::ToLastButOne(first) => place >= first && place + 1 < len,
        At::Counted(count_at) => place > count_at,
        At::CountedPairs(count_at) => place > count_at && (place - count_at) % 2 == 1,
        At::HalfBehind {
            usually_from: from, ..
        }
        | At::Behind { from, .. }
        | At::AllBehind { from, .. } => place > from,
    }
}

fn argument(source: &mut Unstructured<'_>, is_key: bool, words: &[&str]) -> Result<Vec<u8>> {
    let one_of = |source: &mut Unstructured<'_>, texts: &[&str]| {
        source.choose(texts).map(|text| text.as_bytes().to_vec())
    };
    match source.int_in_range(0..=15_u8)? {
        0..13 if is_key => one_of(source, &KEYS),
        0..4 => one_of(source, words),
        4..9 => one_of(source, &NUMBERS),
        9 => one_of(source, &PATTERNS),
        10 => one_of(source, &KEYS),
        11 => Ok(source.arbitrary::<i16>()?.to_string().into_bytes()),
        12 => {
            let later_ms = source.arbitrary::<i8>()?;
            Ok((now_ms() + i64::from(later_ms)).to_string().into_bytes())
        }
        13 => Ok(vec![b'x'; usize::from(source.arbitrary::<u8>()?) * 37]),
        _ => {
            let len = source.int_in_range(0..=20_usize)?.min(source.len());
            Ok(source.bytes(len)?.to_vec())
        }
    }
}
