//! MIGRATE, without the connection to the other server: which keys it sends, the requests for them, and what it removes afterwards.
//!
//! ```text
//!   locks of the keys       no locks, on a thread of its own (server/migrate)         locks of the keys
//!   copy the entries  ───►  login, then RESTORE for each key; a reply for each  ───►  remove what the target has
//! ```
//!
//! A key is removed only if the target accepted it and it still has the value that was sent.

use std::collections::HashSet;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use damselfly_base::CommandError;
use damselfly_engine::{Key, Tx};
use damselfly_protocol::Reply;
use damselfly_value::Entry;

use crate::command::{Access, Arity::AtLeast, At, Command, Group, Keys, Run, Trait, writes};
use crate::long::Unlocked;
use crate::{Args, KeyspaceFn, Result, Stop};

/// The options of MIGRATE that have arguments.
const OPTIONS: &[(&str, usize)] = &[("AUTH", 1), ("AUTH2", 2)];

/// The first argument that can be an option.
const FIRST_OPTION: usize = 6;

pub(crate) static COMMANDS: &[Command<KeyspaceFn>] = &[Command {
    name: "MIGRATE",
    arity: AtLeast(6),
    keys: Keys::Args(&[
        writes(
            At::OneUnless {
                place: 3,
                word: "KEYS",
                from: FIRST_OPTION,
                skipping: OPTIONS,
            },
            Access::Take,
        ),
        writes(
            At::AllBehind {
                empty: 3,
                word: "KEYS",
                from: FIRST_OPTION,
                skipping: OPTIONS,
            },
            Access::TakeSome,
        ),
    ]),
    traits: &[
        // The keys can't stay locked while another server replies, so no transaction or script can contain this command.
        Trait::NoScript,
        Trait::NoMulti,
        Trait::Dangerous,
        Trait::Category("keyspace"),
        Trait::Tip("nondeterministic_output"),
    ],
    run: Run::Run(migrate),
    group: Group::Generic,
    usage: "MIGRATE host port <key | \"\"> destination-db timeout [COPY] [REPLACE] [AUTH password | AUTH2 username password] [KEYS key [key ...]]",
    summary: "Moves keys to another server: restores them there and then removes them here.",
    since: "2.6.0",
    complexity: "O(N) where N is the size of the values",
}];

/// The timeout if the given one is not positive.
const DEFAULT_TIMEOUT_MS: i64 = 1000;

/// Requests are sent until they reach this size; then their replies are read, so that neither side has to buffer more.
const BATCH_BYTES: usize = 1 << 16;

/// Keys on their way to another server.
pub struct Migration {
    host: Vec<u8>,
    port: Vec<u8>,
    timeout: Duration,
    db: i64,
    /// The arguments of AUTH; none if it is not needed.
    credentials: Vec<Vec<u8>>,
    keeps: bool,
    replaces: bool,
    compresses: bool,
    keys: Vec<MigratedKey>,
    /// The first key that was not sent yet.
    next: usize,
    failure: Option<CommandError>,
}

/// A key on its way.
struct MigratedKey {
    /// What was here when the command began.
    entry: Entry,
    /// True if the target has it.
    is_accepted: bool,
}

impl std::fmt::Debug for Migration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Migration").finish_non_exhaustive()
    }
}

fn migrate(tx: &mut Tx<'_>, args: Args<'_>, reply: &mut Reply<'_>) -> Result {
    if tx.is_script() {
        return Err(CommandError::err("This Redis command is not allowed from script").into());
    }
    let (mut migration, first) = Migration::parse(args)?;
    migration.compresses = tx.engine().settings.compresses_dumps.load(Relaxed);
    let places = match first {
        Some(first) => first..args.len(),
        None => 3..4,
    };
    for place in places {
        let key = args.key(place);
        if let Some(entry) = tx.read(key) {
            migration.keys.push(MigratedKey {
                // The copy of a large collection is a reference.
                entry: entry.to_entry(key.bytes),
                is_accepted: false,
            });
        }
    }
    if migration.keys.is_empty() {
        reply.simple("NOKEY");
        return Ok(());
    }
    Err(Stop::LongUnlocked(Unlocked::Migrate(Box::new(migration))))
}

impl Migration {
    /// The request without its keys, and the place of the first one after KEYS.
    fn parse(args: Args<'_>) -> Result<(Self, Option<usize>)> {
        let mut parsed = Self {
            host: args.at(1).to_vec(),
            port: args.at(2).to_vec(),
            timeout: Duration::ZERO,
            db: 0,
            credentials: Vec::new(),
            keeps: false,
            replaces: false,
            compresses: false,
            keys: Vec::new(),
            next: 0,
            failure: None,
        };
        let (mut at, mut first_key) = (FIRST_OPTION, None);
        while at < args.len() {
            let secrets = OPTIONS.iter().find(|(word, _)| args.is(at, word));
            if let Some((_, count)) = secrets
                && at + count < args.len()
            {
                let secrets = args.from(at + 1).take(*count);
                parsed.credentials = secrets.map(<[u8]>::to_vec).collect();
                at += count;
            } else if args.is(at, "COPY") {
                parsed.keeps = true;
            } else if args.is(at, "REPLACE") {
                parsed.replaces = true;
            } else if args.is(at, "KEYS") {
                if !args.at(3).is_empty() {
                    let text = "When using MIGRATE KEYS option, the key argument must be set to the empty string";
                    return Err(CommandError::err(text).into());
                }
                first_key = Some(at + 1);
                break;
            } else {
                return Err(CommandError::Syntax.into());
            }
            at += 1;
        }
        let timeout_ms = match args.integer(5)? {
            timeout_ms @ 1.. => timeout_ms,
            _ => DEFAULT_TIMEOUT_MS,
        };
        parsed.timeout = Duration::from_millis(timeout_ms.unsigned_abs());
        parsed.db = args.integer(4)?;
        Ok((parsed, first_key))
    }

    /// The host of the target.
    pub fn host(&self) -> &[u8] {
        &self.host
    }

    /// The port of the target, as the client wrote it.
    pub fn port(&self) -> &[u8] {
        &self.port
    }

    /// For how long the target may stay silent.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The database of the target.
    pub fn database(&self) -> i64 {
        self.db
    }

    /// Writes the requests that come first on a connection, whose selected database is `selected`, and returns how many they are.
    pub fn write_login(&self, selected: Option<i64>, requests: &mut Vec<u8>) -> usize {
        let mut count = 0;
        if !self.credentials.is_empty() {
            write_header(requests, 1 + self.credentials.len());
            write_bulk(requests, b"AUTH");
            let credentials = self.credentials.iter();
            credentials.for_each(|secret| write_bulk(requests, secret));
            count += 1;
        }
        if selected != Some(self.db) {
            write_header(requests, 2);
            write_bulk(requests, b"SELECT");
            write_bulk(requests, self.db.to_string().as_bytes());
            count += 1;
        }
        count
    }

    /// Writes the requests for the next keys, and returns the indexes of these keys; none if all were sent. Keys that have expired
    /// meanwhile are left out. `now_ms` is the time, in milliseconds since the epoch.
    pub fn write_next(&mut self, now_ms: i64, requests: &mut Vec<u8>) -> Vec<usize> {
        let mut sent = Vec::new();
        while self.next < self.keys.len() && requests.len() < BATCH_BYTES {
            let entry = self.keys[self.next].entry.view();
            let ttl_ms = entry.deadline_ms().map_or(0, |at| (at - now_ms).max(1));
            let has_expired = entry.deadline_ms().is_some_and(|at| at < now_ms);
            if !has_expired {
                write_header(requests, 4 + usize::from(self.replaces));
                write_bulk(requests, b"RESTORE");
                write_bulk(requests, entry.key());
                write_bulk(requests, ttl_ms.to_string().as_bytes());
                write_bulk(requests, &damselfly_rdb::dump(entry, self.compresses));
                if self.replaces {
                    write_bulk(requests, b"REPLACE");
                }
                sent.push(self.next);
            }
            self.next += 1;
        }
        sent
    }

    /// Notes that the target has stored the key with this index.
    pub fn accept(&mut self, index: usize) {
        self.keys[index].is_accepted = true;
    }

    /// Notes an error that the target replied with. Only the first one is reported.
    pub fn refuse(&mut self, error: &[u8]) {
        let before = "Target instance replied with error: ";
        self.failure
            .get_or_insert(CommandError::quoting(before, error, ""));
    }

    /// Notes that the link to the target broke, or could not be made.
    pub fn fail(&mut self, text: &str) {
        self.failure
            .get_or_insert(CommandError::Text(text.to_owned()));
    }

    /// True if it has still to be sent, and the link to the target is not known to be broken.
    pub fn is_unsent(&self) -> bool {
        self.next == 0 && self.failure.is_none()
    }

    /// Begins again, on another connection, before any reply was received.
    pub fn restart(&mut self) {
        self.next = 0;
    }

    /// Removes the keys that the target has, under their locks, and writes the reply.
    pub(crate) fn finish(self, tx: &mut Tx<'_>, reply: &mut Reply<'_>) -> Result {
        let (now, mut has_changed, mut removed) = (tx.now(), false, HashSet::new());
        let accepted = self.keys.iter().filter(|key| key.is_accepted);
        for sent in accepted.filter(|_| !self.keeps) {
            let sent = sent.entry.view();
            let key = Key::new(sent.key());
            match tx.peek(key) {
                Some(entry) if entry.is_unchanged(sent) => {
                    tx.remove(key);
                    tx.log_effect(&[b"DEL", key.bytes]);
                    removed.insert(key.bytes);
                }
                None if sent.deadline_ms().is_some_and(|at| at <= now.0) => {}
                // The request names the key twice.
                None if removed.contains(key.bytes) => {}
                Some(_) | None => has_changed = true,
            }
        }
        if let Some(error) = self.failure {
            return Err(error.into());
        }
        if has_changed {
            let text = "A key was changed while MIGRATE sent it. This server keeps its new state, and the target instance has its former value. Repeat the command with REPLACE.";
            return Err(CommandError::err(text).into());
        }
        reply.ok();
        Ok(())
    }
}

fn write_header(request: &mut Vec<u8>, args: usize) {
    request.extend_from_slice(format!("*{args}\r\n").as_bytes());
}

fn write_bulk(request: &mut Vec<u8>, arg: &[u8]) {
    request.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
    request.extend_from_slice(arg);
    request.extend_from_slice(b"\r\n");
}
