//! Shared by the tests of snapshots: talking to a server, and reading the files that it saves.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use damselfly_oracle::connection::Connection;
use damselfly_oracle::random::{self, Random};
use damselfly_protocol::client::Value as Reply;
use damselfly_rdb::{Event, ReadOptions, Reader};
use damselfly_value::{Element, Entry, Side, Text, Thresholds, Value};

/// The keys of a file, with the numbers of their databases.
pub type Keys = BTreeMap<(u64, Vec<u8>), Entry>;

/// The contents of a file.
#[derive(Default)]
pub struct Saved {
    pub keys: Keys,
    pub functions: Vec<Vec<u8>>,
    pub version: u32,
}

impl Saved {
    /// Reads a file up to its end and verifies its checksum.
    ///
    /// # Errors
    /// The file is incomplete or damaged, or has a key twice.
    pub fn read(path: &Path) -> Result<Self, String> {
        let name = path.display();
        let file = File::open(path).map_err(|error| format!("{name}: {error}"))?;
        let thresholds = Thresholds::default();
        let options = ReadOptions {
            thresholds: &thresholds,
            verify_checksum: true,
        };
        let failed = |error| format!("{name}: {error}");
        let mut reader = Reader::new(file, options).map_err(failed)?;
        let (mut saved, mut database) = (Self::default(), 0);
        saved.version = reader.version();
        loop {
            match reader.next().map_err(failed)? {
                Event::SelectDb(number) => database = number,
                Event::Entry(loaded) => {
                    let key = (database, loaded.entry.view().key().to_vec());
                    if let Some(first) = saved.keys.insert(key, loaded.entry) {
                        return Err(format!("{name}: a key twice: {first:?}"));
                    }
                }
                Event::Function(code) => saved.functions.push(code),
                Event::Aux { .. } | Event::ResizeDb { .. } => {}
                Event::End => break,
                other => return Err(format!("{name}: unexpected {other:?}")),
            }
        }
        match reader.is_at_end().map_err(failed)? {
            true => Ok(saved),
            false => Err(format!("{name}: bytes follow the end")),
        }
    }

    /// The entry of a key.
    #[must_use]
    pub fn entry(&self, database: u64, key: &str) -> Option<&Entry> {
        self.keys.get(&(database, key.as_bytes().to_vec()))
    }

    /// The keys of a database.
    pub fn database(&self, database: u64) -> impl Iterator<Item = (&str, &Entry)> {
        let range = (database, Vec::new())..(database + 1, Vec::new());
        self.keys
            .range(range)
            .map(|((_, key), entry)| (std::str::from_utf8(key).expect("keys are text"), entry))
    }

    /// The integer at a key; 0 if there is none.
    #[must_use]
    pub fn integer(&self, database: u64, key: &str) -> i64 {
        let entry = self.entry(database, key);
        entry.map_or(0, |entry| string(entry).parse().expect("an integer"))
    }
}

/// The value of a string.
#[must_use]
pub fn string(entry: &Entry) -> String {
    let bytes = match entry.view().text() {
        Some(Text::Bytes { bytes, .. }) => bytes.to_vec(),
        Some(Text::Integer(number)) => return number.to_string(),
        Some(Text::Packed(text)) => text.to_vec(),
        None => panic!("{entry:?} is no string"),
    };
    String::from_utf8(bytes).expect("values are text")
}

/// The elements of a list or set, the members of a sorted set, the fields of a hash.
#[must_use]
pub fn elements(entry: &Entry) -> Vec<String> {
    let (mut all, to_text) = (Vec::new(), |element: Element<'_>| {
        String::from_utf8(element.to_vec()).expect("elements are text")
    });
    match entry.view().value() {
        Value::List(list) => {
            let mut walk = list.walk(0, Side::Left);
            all.extend(std::iter::from_fn(|| walk.step().map(to_text)));
        }
        Value::Set(set) => set.for_each(|member| all.push(to_text(member))),
        Value::Hash(hash) => hash.for_each(|pair| all.push(to_text(pair.field))),
        Value::SortedSet(set) => all.extend(set.iter().map(|scoring| to_text(scoring.member))),
        Value::Text(_) | Value::Stream(_) => panic!("{entry:?} has no elements"),
    }
    all
}

/// Sends a command, whose reply must not be an error.
pub fn call<A: AsRef<[u8]>>(connection: &mut Connection, words: &[A]) -> Reply {
    let reply = connection.call(words).expect("the server replies");
    if let Reply::Error(error) = &reply {
        let words: Vec<_> = words
            .iter()
            .map(|word| word.as_ref().escape_ascii().to_string())
            .collect();
        panic!("{words:.100?}: {}", error.escape_ascii());
    }
    reply
}

/// Sends a command in words that are separated by blanks.
pub fn say(connection: &mut Connection, command: &str) -> Reply {
    let words: Vec<&str> = command.split(' ').collect();
    call(connection, &words)
}

/// The text of a reply that is a string.
#[must_use]
pub fn text(reply: &Reply) -> String {
    match reply {
        Reply::Bulk(bytes) | Reply::Simple(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Reply::Integer(number) => number.to_string(),
        other => panic!("no string: {other:?}"),
    }
}

/// A field of INFO.
pub fn info(connection: &mut Connection, field: &str) -> String {
    let all = text(&say(connection, "INFO everything"));
    let line = all.lines().find_map(|line| line.strip_prefix(field));
    let value = line.and_then(|rest| rest.strip_prefix(':'));
    value
        .unwrap_or_else(|| panic!("INFO has no {field}"))
        .to_owned()
}

/// The value of an option.
pub fn option(connection: &mut Connection, name: &str) -> String {
    match call(connection, &["CONFIG", "GET", name]) {
        Reply::Array(pair) => text(&pair[1]),
        Reply::Map(pairs) => text(&pairs[0].1),
        other => panic!("{other:?}"),
    }
}

/// Sets an option.
pub fn set_option(connection: &mut Connection, name: &str, value: &str) {
    call(connection, &["CONFIG", "SET", name, value]);
}

/// The path of the server's snapshot file.
pub fn snapshot_path(connection: &mut Connection) -> PathBuf {
    Path::new(&option(connection, "dir")).join(option(connection, "dbfilename"))
}

/// Waits until no save is in progress; true if the last one succeeded.
pub fn wait_for_save(connection: &mut Connection) -> bool {
    const POLL_INTERVAL: Duration = Duration::from_millis(1);
    while info(connection, "rdb_bgsave_in_progress") != "0" {
        std::thread::sleep(POLL_INTERVAL);
    }
    info(connection, "rdb_last_bgsave_status") == "ok"
}

/// Waits until a server has loaded its file.
pub fn wait_until_loaded(connection: &mut Connection) {
    const POLL_INTERVAL: Duration = Duration::from_millis(5);
    while let Reply::Error(error) = connection.call(&["PING"]).expect("the server replies") {
        assert!(error.starts_with(b"LOADING"), "{}", error.escape_ascii());
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// A generator from `DAMSELFLY_SEED` or the clock. Its seed is printed.
#[must_use]
pub fn seeded() -> Random {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    let seed = random::number_from("DAMSELFLY_SEED").unwrap_or(now.subsec_nanos().into());
    println!("seed {seed}");
    Random::new(seed)
}

/// Milliseconds since the epoch.
#[must_use]
pub fn now_ms() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    i64::try_from(now.as_millis()).expect("a time of this century")
}
