//! Blocked clients: each element goes to exactly one client or stays in its list, and clients are served in the order in which
//! they blocked.
//!
//! Producers and consumers of all kinds share a few lists, while waits time out, CLIENT UNBLOCK unblocks clients, and connections
//! close. `cargo xtask ci` also runs this with a server built with the planted bug `claim`, where several threads may unblock the
//! same client; then the tests of the module `counted` must fail.
//!
//! `DAMSELFLY_BLOCKING_S` is how many seconds each of those tests runs. `DAMSELFLY_SEED` repeats the same commands; how the
//! threads interleave is still random.

use damselfly_oracle::connection::{Connection, request};
use damselfly_oracle::random::{self, Random};
use damselfly_oracle::server::Server;
use damselfly_protocol::client::Value;
use std::collections::{HashMap, HashSet};
use std::net::Shutdown;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Lists to which elements are added, and from which they are taken, in order.
const QUEUES: usize = 6;
/// Lists to which elements are moved from the queue of the same number.
const TARGETS: usize = 3;
/// Lists to and from which elements go at both ends.
const STACKS: usize = 2;
const PRODUCERS: usize = 60;
const CONSUMERS: usize = 140;
/// Producers pause while the server has more untaken elements than this.
const BACKLOG_MAX: usize = 300;
const SECONDS: u64 = 2;

fn text(value: &Value) -> String {
    match value {
        Value::Bulk(bytes) => String::from_utf8(bytes.clone()).unwrap(),
        other => panic!("{other:?} is not an element"),
    }
}

/// The elements in a reply to any command of a consumer; none if it timed out or was unblocked.
fn elements(reply: &Value) -> Vec<String> {
    match reply {
        Value::Null(_) => Vec::new(),
        Value::Error(error) if error.starts_with(b"UNBLOCKED") => Vec::new(),
        Value::Bulk(_) => vec![text(reply)],
        Value::Array(pair) => match &pair[1] {
            Value::Array(several) => several.iter().map(text).collect(),
            one => vec![text(one)],
        },
        other => panic!("{other:?} is not a reply to a consumer"),
    }
}

/// The shared state of a run.
struct Run {
    server: Server,
    /// True once the time is over.
    over: AtomicBool,
    consumers_left: AtomicUsize,
    /// Roughly how many elements were pushed and not taken yet.
    backlog: AtomicUsize,
    /// The ids of clients that may be unblocked.
    ids: Mutex<Vec<i64>>,
    pushed: Mutex<Vec<String>>,
    taken: Mutex<Vec<String>>,
}

/// An element: its producer, its key, and its number in the producer's order for that key.
fn element(producer: usize, key: &str, number: usize) -> String {
    format!("{producer}:{key}:{number}")
}

impl Run {
    fn new(server: Server) -> Self {
        Self {
            server,
            over: AtomicBool::new(false),
            consumers_left: AtomicUsize::new(CONSUMERS),
            backlog: AtomicUsize::new(0),
            ids: Mutex::new(Vec::new()),
            pushed: Mutex::new(Vec::new()),
            taken: Mutex::new(Vec::new()),
        }
    }

    /// Pushes elements: one or several per command, some commands pipelined, some in a transaction.
    fn produce(&self, producer: usize, random: &mut Random) {
        let mut connection = self.server.connect();
        let mut numbers: HashMap<String, usize> = HashMap::new();
        let mut pushed = Vec::new();
        while !self.over.load(SeqCst) {
            if self.backlog.load(SeqCst) > BACKLOG_MAX {
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            let (mut bytes, commands) = (Vec::new(), 1 + random.below(3));
            let at_once = random.one_in(4);
            if at_once {
                bytes.extend(request(&["MULTI"]));
            }
            for _ in 0..commands {
                let key = match random.below(4) {
                    0 => format!("stack{}", random.below(STACKS)),
                    _ => format!("queue{}", random.below(QUEUES)),
                };
                let side = if key.starts_with("stack") && random.one_in(2) {
                    "LPUSH"
                } else {
                    "RPUSH"
                };
                let number = numbers.entry(key.clone()).or_default();
                let mut words = vec![side.to_owned(), key.clone()];
                for _ in 0..[1, 1, 1, 2, 5][random.below(5)] {
                    words.push(element(producer, &key, *number));
                    *number += 1;
                }
                self.backlog.fetch_add(words.len() - 2, SeqCst);
                pushed.extend_from_slice(&words[2..]);
                bytes.extend(request(&words));
            }
            if at_once {
                bytes.extend(request(&["EXEC"]));
            }
            connection.send(&bytes).unwrap();
            let mut lens = Vec::new();
            if at_once {
                for _ in 0..=commands {
                    let reply = connection.receive().unwrap();
                    assert!(matches!(reply, Value::Simple(_)), "{reply:?}");
                }
                match connection.receive().unwrap() {
                    Value::Array(replies) => lens = replies,
                    other => panic!("{other:?} is not a reply to EXEC"),
                }
            } else {
                lens.extend((0..commands).map(|_| connection.receive().unwrap()));
            }
            let all_pushed = lens.iter().all(|len| matches!(len, Value::Integer(_)));
            assert!(lens.len() == commands && all_pushed, "{lens:?}");
        }
        self.pushed.lock().unwrap().extend(pushed);
    }

    /// Draws a consumer's command: with keys of one kind, so that order can be checked.
    fn draw(&self, random: &mut Random) -> Vec<String> {
        let timeout = *random.pick(&["0", "0.001", "0.002", "0.005", "0.02", "0.1"]);
        let queue = random.below(QUEUES);
        let mut words: Vec<String> = match random.below(10) {
            0..3 => vec!["BLPOP".into(), format!("queue{queue}")],
            3..5 => {
                let mut words = vec!["BLPOP".into()];
                for _ in 0..1 + random.below(4) {
                    words.push(match random.below(3) {
                        0 => format!("target{}", random.below(TARGETS)),
                        _ => format!("queue{}", random.below(QUEUES)),
                    });
                }
                words
            }
            5 => vec![
                if random.one_in(2) { "BLPOP" } else { "BRPOP" }.into(),
                format!("stack{}", random.below(STACKS)),
            ],
            6 => {
                return [
                    "BLMPOP",
                    timeout,
                    "2",
                    &format!("queue{queue}"),
                    &format!("target{}", random.below(TARGETS)),
                    "LEFT",
                    "COUNT",
                    "3",
                ]
                .map(str::to_owned)
                .to_vec();
            }
            7 | 8 => vec!["BLPOP".into(), format!("target{}", random.below(TARGETS))],
            _ => {
                let number = random.below(TARGETS);
                let (from, to) = (format!("queue{number}"), format!("target{number}"));
                vec!["BLMOVE".into(), from, to, "LEFT".into(), "RIGHT".into()]
            }
        };
        words.push(timeout.into());
        words
    }

    /// Takes elements, and sometimes disconnects.
    fn consume(&self, random: &mut Random) {
        let (mut taken, mut last) = (Vec::new(), HashMap::new());
        let mut note = |command: &[String], reply: &Value| {
            if command[0] == "BLMOVE" {
                // The element is still there, in another list.
                elements(reply);
                return;
            }
            let list = match reply {
                Value::Array(pair) => text(&pair[0]),
                _ => String::new(),
            };
            for element in elements(reply) {
                self.backlog.fetch_sub(1, SeqCst);
                let (origin, number) = element.rsplit_once(':').unwrap();
                let number: usize = number.parse().unwrap();
                // Order holds within each list only: an element that was moved may be taken after one that followed it.
                let from = (list.clone(), origin.to_owned());
                let before = last.insert(from, number);
                assert!(
                    origin.contains("stack") || before.is_none_or(|before| before < number),
                    "{element} was taken after number {before:?}"
                );
                taken.push(element);
            }
        };
        let (mut connection, mut id) = self.enter();
        while !self.over.load(SeqCst) {
            if random.one_in(50) {
                // Closes the sending side while it is blocked. An element that it was given before that still arrives.
                let command = self.draw(random);
                connection.send(&request(&command)).unwrap();
                for _ in 0..random.below(50) {
                    std::thread::yield_now();
                }
                connection.stream().shutdown(Shutdown::Write).unwrap();
                if let Ok(reply) = connection.receive() {
                    note(&command, &reply);
                }
                self.ids.lock().unwrap().retain(|&other| other != id);
                (connection, id) = self.enter();
                continue;
            }
            let commands: Vec<_> = (0..1 + random.below(3))
                .map(|_| self.draw(random))
                .collect();
            let bytes: Vec<u8> = commands
                .iter()
                .flat_map(|command| request(command))
                .collect();
            connection.send(&bytes).unwrap();
            for command in commands {
                note(&command, &connection.receive().unwrap());
            }
        }
        self.taken.lock().unwrap().extend(taken);
        self.consumers_left.fetch_sub(1, SeqCst);
    }

    /// Opens a connection that may be unblocked.
    fn enter(&self) -> (Connection, i64) {
        let mut connection = self.server.connect();
        let Value::Integer(id) = connection.call(&["CLIENT", "ID"]).unwrap() else {
            panic!("the id is not a number");
        };
        self.ids.lock().unwrap().push(id);
        (connection, id)
    }

    /// Unblocks clients until no consumer is left. Returns how many it unblocked.
    fn unblock(&self, random: &mut Random) -> usize {
        let (mut connection, mut unblocked) = (self.server.connect(), 0);
        while self.consumers_left.load(SeqCst) > 0 {
            let id = {
                let ids = self.ids.lock().unwrap();
                ids.get(random.below(ids.len().max(1))).copied()
            };
            let reason = *random.pick(&["TIMEOUT", "ERROR"]);
            let id = id.unwrap_or_default().to_string();
            let reply = connection.call(&["CLIENT", "UNBLOCK", &id, reason]);
            unblocked += usize::from(reply.unwrap() == Value::Integer(1));
        }
        unblocked
    }

    /// The elements left in the lists.
    fn left(&self) -> Vec<String> {
        let mut connection = self.server.connect();
        let Value::Array(keys) = connection.call(&["KEYS", "*"]).unwrap() else {
            panic!("KEYS did not return an array");
        };
        let lists = keys.iter().map(|key| {
            let range = ["LRANGE", &text(key), "0", "-1"].map(str::to_owned);
            connection.call(&range).unwrap()
        });
        let lists: Vec<Value> = lists.collect();
        let elements = lists.iter().flat_map(|list| match list {
            Value::Array(elements) => elements.iter().map(text).collect::<Vec<_>>(),
            other => panic!("{other:?} is not a list"),
        });
        elements.collect()
    }
}

/// Runs producers and consumers against a server with these threads and shards, and accounts for every element.
fn prove(threads: &str, shards: &str) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = random::number_from("DAMSELFLY_SEED").unwrap_or(now.subsec_nanos().into());
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let seconds = random::number_from("DAMSELFLY_BLOCKING_S").unwrap_or(SECONDS);
    let run = Run::new(Server::subject(threads, shards));
    let unblocked = std::thread::scope(|scope| {
        let (run, started) = (&run, Instant::now());
        let mut workers = Vec::new();
        for producer in 0..PRODUCERS {
            let mut random = Random::new(random.bits());
            workers.push(scope.spawn(move || run.produce(producer, &mut random)));
        }
        for _ in 0..CONSUMERS {
            let mut random = Random::new(random.bits());
            workers.push(scope.spawn(move || run.consume(&mut random)));
        }
        let mut random = Random::new(random.bits());
        let unblocker = scope.spawn(move || run.unblock(&mut random));
        let is_over = || started.elapsed() >= Duration::from_secs(seconds);
        while !is_over() && workers.iter().all(|worker| !worker.is_finished()) {
            std::thread::sleep(Duration::from_millis(10));
        }
        run.over.store(true, SeqCst);
        let failed: Vec<_> = workers
            .into_iter()
            .filter_map(|worker| worker.join().err())
            .collect();
        // Consumers that failed did not decrement this.
        run.consumers_left.store(0, SeqCst);
        let unblocked = unblocker.join().unwrap();
        assert!(failed.is_empty(), "{} clients failed", failed.len());
        unblocked
    });
    let left = run.left();
    let (pushed, taken) = (
        run.pushed.into_inner().unwrap(),
        run.taken.into_inner().unwrap(),
    );
    println!(
        "{} elements, {} left, {unblocked} clients unblocked by another client",
        pushed.len(),
        left.len()
    );
    let mut found = HashSet::new();
    for element in taken.iter().chain(&left) {
        assert!(found.insert(element), "{element} occurs twice");
    }
    let lost: Vec<_> = pushed
        .iter()
        .filter(|element| !found.contains(element))
        .collect();
    assert!(
        lost.is_empty(),
        "{} elements are lost: {lost:?}",
        lost.len()
    );
    assert_eq!(found.len(), pushed.len(), "an element came from nowhere");
    assert!(taken.len() > 100 && unblocked > 0);
}

mod counted {
    use super::*;

    #[test]
    fn every_element_is_accounted_for_with_one_thread() {
        prove("1", "4");
    }

    #[test]
    fn every_element_is_accounted_for_with_two_threads() {
        prove("2", "128");
    }

    #[test]
    fn every_element_is_accounted_for_with_four_threads_and_two_shards() {
        prove("4", "2");
    }
}

/// Waits until the server reports that `count` clients are blocked.
fn until_blocked(probe: &mut Connection, count: usize) {
    let started = Instant::now();
    let wanted = format!("blocked_clients:{count}\r\n");
    loop {
        let info = probe.call(&["INFO", "clients"]).unwrap();
        if text(&info).contains(&wanted) {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(10), "{info:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn clients_are_served_in_the_order_in_which_they_blocked() {
    const CLIENTS: usize = 60;
    let server = Server::subject("4", "8");
    let mut probe = server.connect();
    let mut random = Random::new(random::number_from("DAMSELFLY_SEED").unwrap_or(1));
    let mut clients: Vec<Connection> = (0..CLIENTS).map(|_| server.connect()).collect();
    let mut producers: Vec<Connection> = (0..3).map(|_| server.connect()).collect();
    for round in 0..4 {
        random.shuffle(&mut clients);
        for (number, client) in clients.iter_mut().enumerate() {
            // Every second client also waits for keys that are never created.
            let further = format!("none{number}");
            let words: &[&str] = if number % 2 == 0 {
                &["BLPOP", "key", "0"]
            } else {
                &["BLPOP", &further, "key", "none", "0"]
            };
            client.send(&request(words)).unwrap();
            until_blocked(&mut probe, number + 1);
        }
        // Some disconnect before it is their turn.
        let leaves: Vec<bool> = (0..CLIENTS).map(|_| random.one_in(4)).collect();
        for (client, _) in clients
            .iter_mut()
            .zip(&leaves)
            .filter(|(_, leaves)| **leaves)
        {
            client.stream().shutdown(Shutdown::Write).unwrap();
            assert!(client.closed_by_server());
            *client = server.connect();
        }
        let stayed = leaves.iter().filter(|leaves| !**leaves).count();
        until_blocked(&mut probe, stayed);
        // A producer pushes its elements in order, so the clients in their order must receive them in that order.
        std::thread::scope(|scope| {
            for (producer, connection) in producers.iter_mut().enumerate() {
                scope.spawn(move || {
                    for number in 0..CLIENTS / 3 {
                        let element = element(producer, "key", number);
                        connection.call(&["RPUSH", "key", &element]).unwrap();
                    }
                });
            }
        });
        let mut last = HashMap::new();
        for (client, _) in clients
            .iter_mut()
            .zip(&leaves)
            .filter(|(_, leaves)| !**leaves)
        {
            let reply = elements(&client.receive().unwrap());
            let (producer, number) = reply[0].split_once(":key:").unwrap();
            let number: usize = number.parse().unwrap();
            let before = last.insert(producer.to_owned(), number);
            assert!(
                before.is_none_or(|before| before + 1 == number)
                    && (before.is_some() || number == 0),
                "round {round}: {} came after number {before:?}",
                reply[0]
            );
        }
        probe.call(&["DEL", "key"]).unwrap();
    }
}

#[test]
fn no_wait_ends_before_its_timeout() {
    const CLIENTS: usize = 40;
    const EACH: usize = 25;
    let server = Server::subject("2", "8");
    let late: Vec<Duration> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let server = &server;
                scope.spawn(move || {
                    let mut connection = server.connect();
                    let mut late = Vec::new();
                    for round in 0..EACH {
                        let timeout =
                            Duration::from_millis(20 + (number * 7 + round * 13) as u64 % 50);
                        let seconds = timeout.as_secs_f64().to_string();
                        let started = Instant::now();
                        let reply = connection.call(&["BLPOP", "none", &seconds]).unwrap();
                        assert!(matches!(reply, Value::Null(_)), "{reply:?}");
                        late.push(started.elapsed().checked_sub(timeout).expect("too early"));
                    }
                    late
                })
            })
            .collect();
        clients
            .into_iter()
            .flat_map(|client| client.join().unwrap())
            .collect()
    });
    let mut late = late;
    late.sort_unstable();
    println!(
        "half of the timeouts are late by less than {:?}, the latest by {:?}",
        late[late.len() / 2],
        late[late.len() - 1]
    );
    // Other tests may keep the machine busy.
    assert!(late[late.len() / 2] < Duration::from_secs(1));
}
