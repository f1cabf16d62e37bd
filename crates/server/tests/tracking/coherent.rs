//! Readers with caches beside writers: no cache holds an outdated value.

use super::*;

const KEYS: usize = 12;
const WRITERS: usize = 3;
const ROUNDS: u64 = 4000;

/// The state that writers share with readers.
pub struct SharedState {
    /// By key: the latest version whose writer has received the reply.
    stored: [AtomicU64; KEYS],
    /// The number of writers that still run.
    writing: AtomicUsize,
}

/// The expected reply of a reader's request.
enum Expected {
    Value(usize),
    Values(usize, usize),
    Any,
    /// The reply of PING, after which the cache may hold nothing older than these versions.
    Pong([u64; KEYS]),
}

struct Reader<'a> {
    client: Client,
    /// The client that gets its invalidations, if that is another one.
    redirected: Option<Client>,
    state: &'a SharedState,
    cache: HashMap<usize, u64>,
    expected: VecDeque<Expected>,
    hits: usize,
    invalidated: usize,
    opts_in: bool,
}

fn name(key: usize) -> String {
    format!("key:{key}")
}

fn version(value: &Value) -> u64 {
    match value {
        Value::Bulk(bytes) => String::from_utf8_lossy(bytes).parse().unwrap(),
        Value::Null(_) => 0,
        other => panic!("{other:?}"),
    }
}

impl Reader<'_> {
    fn below(&self, end: usize) -> usize {
        (damselfly_base::random::number() % end as u64) as usize
    }

    fn request(&mut self, words: &[&str], expected: Expected) {
        if self.opts_in && matches!(expected, Expected::Value(_) | Expected::Values(..)) {
            send(&mut self.client, &["CLIENT", "CACHING", "YES"]);
            self.expected.push_back(Expected::Any);
        }
        send(&mut self.client, words);
        self.expected.push_back(expected);
    }

    /// Requests a few keys that are not cached, in one pipeline, and receives all replies.
    fn read_some(&mut self) {
        for _ in 0..1 + self.below(6) {
            let (key, other) = (self.below(KEYS), self.below(KEYS));
            if self.cache.contains_key(&key) {
                self.hits += 1;
            } else if self.below(4) == 0 {
                let words = ["MGET", &name(key), &name(other)];
                self.request(&words, Expected::Values(key, other));
            } else {
                self.request(&["GET", &name(key)], Expected::Value(key));
            }
        }
        self.receive_and_check();
    }

    fn receive_and_check(&mut self) {
        let stored = std::array::from_fn(|key| self.state.stored[key].load(SeqCst));
        if let Some(mut redirected) = self.redirected.take() {
            while !self.expected.is_empty() {
                self.receive();
            }
            redirected.send("PING");
            loop {
                let words = next(&mut redirected);
                if words == ["PONG"] {
                    break;
                }
                self.invalidate(&words);
            }
            self.redirected = Some(redirected);
            self.check(&stored);
            return;
        }
        self.request(&["PING"], Expected::Pong(stored));
        while !self.expected.is_empty() {
            self.receive();
        }
    }

    /// Checks that the cache holds nothing older than these versions.
    fn check(&self, stored: &[u64; KEYS]) {
        for (&key, &cached) in &self.cache {
            assert!(
                cached >= stored[key],
                "{} is cached in version {cached}, but {} was stored before",
                name(key),
                stored[key]
            );
        }
    }

    fn receive(&mut self) {
        let value = self.client.receive_value().unwrap();
        if let Value::Push(_) = value {
            self.invalidate(&words(&value));
            return;
        }
        match self.expected.pop_front().unwrap() {
            Expected::Any => assert_eq!(text(&value), "OK"),
            Expected::Value(key) => {
                self.cache.insert(key, version(&value));
            }
            Expected::Values(key, other) => {
                let Value::Array(items) = value else {
                    panic!("{value:?}");
                };
                self.cache.insert(key, version(&items[0]));
                self.cache.insert(other, version(&items[1]));
            }
            Expected::Pong(stored) => {
                assert_eq!(text(&value), "PONG");
                self.check(&stored);
            }
        }
    }

    fn invalidate(&mut self, words: &[String]) {
        assert_eq!(words[0], "invalidate");
        self.invalidated += 1;
        if words.len() == 1 {
            self.cache.clear();
        }
        for word in &words[1..] {
            let key: usize = word["key:".len()..].parse().unwrap();
            self.cache.remove(&key);
        }
    }
}

/// Changes keys of this writer's share: by single commands, several at once, or in transactions.
fn write(state: &SharedState, writer: usize, client: &mut Client) {
    for round in 1..=ROUNDS {
        let share = KEYS / WRITERS;
        let key = writer + WRITERS * (damselfly_base::random::number() as usize % share);
        let other = writer + WRITERS * (damselfly_base::random::number() as usize % share);
        let value = round.to_string();
        match round % 16 {
            0 => {
                send(client, &["MSET", &name(key), &value, &name(other), &value]);
                assert_eq!(client.receive(), "OK");
                state.stored[other].store(round, SeqCst);
            }
            1 => {
                client.run("MULTI");
                client.run(&format!("INCR {}", name(key)));
                client.run(&format!("SET {} {value}", name(key)));
                client.run("EXEC");
            }
            _ => assert_eq!(client.run(&format!("SET {} {value}", name(key))), "OK"),
        }
        state.stored[key].store(round, SeqCst);
    }
    state.writing.fetch_sub(1, SeqCst);
}

/// Increments the first few keys, which other writers do at the same time.
pub fn increment(state: &SharedState, _: usize, client: &mut Client) {
    const SHARED_KEYS: u64 = 2;
    for _ in 0..ROUNDS {
        let key = (damselfly_base::random::number() % SHARED_KEYS) as usize;
        let version = client.number(&format!("INCR {}", name(key))) as u64;
        state.stored[key].fetch_max(version, SeqCst);
    }
    state.writing.fetch_sub(1, SeqCst);
}

/// Readers with these options of CLIENT TRACKING cache keys that writers on other threads change.
pub fn check(options: &[&str], keys_max: u64, write: fn(&SharedState, usize, &mut Client)) {
    let server = TestServer::with(|config| config.tracking_table_max_keys = keys_max);
    let state = SharedState {
        stored: Default::default(),
        writing: AtomicUsize::new(WRITERS),
    };
    let mut caches = Vec::new();
    thread::scope(|scope| {
        let (server, state) = (&server, &state);
        for writer in 0..WRITERS {
            let mut client = server.client();
            scope.spawn(move || write(state, writer, &mut client));
        }
        let readers = options.iter().map(|options| {
            let (client, redirected) = match options.strip_suffix("REDIRECT") {
                Some(options) => {
                    let mut redirected = server.client();
                    redirected.run("HELLO 3");
                    let id = redirected.number("CLIENT ID");
                    let options = format!("{options}REDIRECT {id}");
                    (tracker(server, &options), Some(redirected))
                }
                None => (tracker(server, options), None),
            };
            let mut reader = Reader {
                client,
                redirected,
                state,
                cache: HashMap::new(),
                expected: VecDeque::new(),
                hits: 0,
                invalidated: 0,
                opts_in: options.contains("OPTIN"),
            };
            scope.spawn(move || {
                while state.writing.load(SeqCst) > 0 {
                    reader.read_some();
                }
                reader.receive_and_check();
                assert!(reader.invalidated > 0);
                (reader.cache, reader.hits)
            })
        });
        let readers: Vec<_> = readers.collect();
        caches.extend(readers.into_iter().map(|reader| reader.join().unwrap()));
    });
    let mut client = server.client();
    for (cache, hits) in caches {
        println!("{hits} hits, {} keys cached at the end", cache.len());
        for (key, cached) in cache {
            client.send(&format!("GET {}", name(key)));
            let stored = client.receive_value().unwrap();
            assert_eq!(version(&stored), cached, "{}", name(key));
        }
    }
    until_nothing_is_left(&server);
}

#[test]
fn caches_of_keys_that_were_read() {
    check(&["", "NOLOOP", "OPTOUT"], 0, write);
}

#[test]
fn caches_of_keys_that_were_opted_in() {
    check(&["OPTIN", "OPTIN NOLOOP"], 0, write);
}

#[test]
fn caches_of_more_keys_than_the_tracking_table_holds() {
    check(&["", "OPTIN"], 3, write);
}

/// The bug: redirected invalidations went to the tracker's thread first, and from there to the thread of their receiver, which
/// answered requests in between. The fix: they go to the receiver's thread directly.
#[test]
fn caches_whose_invalidations_are_redirected() {
    check(
        &["REDIRECT", "OPTOUT NOLOOP REDIRECT", "BCAST REDIRECT"],
        0,
        increment,
    );
}
