//! Publishing and subscribing: several clients receive the same as from Redis, and clients that do not read take bounded memory.

use damselfly_oracle::connection::{Connection, request};
use damselfly_oracle::random::Random;
use damselfly_oracle::server::{Kind, Program, Server};
use damselfly_oracle::text::render;
use damselfly_protocol::client::Value;

const SLOW: usize = 30;
const LIMIT_BYTES: u64 = 1 << 20;
const PAYLOAD_BYTES: usize = 50_000;
const ROUNDS: usize = 4000;

fn receivers(publisher: &mut Connection, payload: &str) -> i64 {
    match publisher.call(&["PUBLISH", "news", payload]).unwrap() {
        Value::Integer(receivers) => receivers,
        other => panic!("{other:?}"),
    }
}

/// Subscribers that do not read take no more memory than their limit; then they are disconnected.
#[test]
fn slow_subscribers_take_bounded_memory() {
    let program = Program::subject();
    if program.kind() != Kind::Damselfly {
        return;
    }
    for threads in ["1", "4"] {
        let limit = format!("pubsub {LIMIT_BYTES} 0 0");
        let options = ["--threads", threads, "--client-output-buffer-limit", &limit];
        let server = Server::start(&program, &options).unwrap();
        let mut publisher = server.connect();
        assert_eq!(receivers(&mut publisher, "x"), 0);
        let before = server.resident_bytes();
        let mut slow: Vec<Connection> = (0..SLOW).map(|_| server.connect()).collect();
        for client in &mut slow {
            client.call(&["SUBSCRIBE", "news"]).unwrap();
        }
        let payload = "x".repeat(PAYLOAD_BYTES);
        let (mut peak, mut left) = (0, SLOW as i64);
        for _ in 0..ROUNDS {
            left = receivers(&mut publisher, &payload);
            peak = peak.max(server.resident_bytes());
            if left == 0 {
                break;
            }
        }
        assert_eq!(left, 0, "all slow subscribers are disconnected");
        let allowed = 2 * SLOW as u64 * (LIMIT_BYTES + 200_000) + (8 << 20);
        assert!(
            peak - before < allowed,
            "{} bytes for {SLOW} slow subscribers",
            peak - before
        );
    }
}

/// Channels, patterns that match some of them, and one that matches none.
const CHANNELS: &[&str] = &["a", "b", "ab", "c[d", ""];
const PATTERNS: &[&str] = &["a", "a*", "*b", "?", "[ab]", "c\\[d", "*", "x*"];

/// Clients of one server; the first half start in RESP3.
struct Clients {
    clients: Vec<Connection>,
    synchronized: usize,
}

impl Clients {
    fn of(server: &Server, count: usize) -> Self {
        let mut clients: Vec<Connection> = (0..count).map(|_| server.connect()).collect();
        for client in clients.iter_mut().take(count / 2) {
            client.call(&["HELLO", "3"]).unwrap();
        }
        Self {
            clients,
            synchronized: 0,
        }
    }

    /// Lets a client send a command; returns what each client receives then, in an order that does not depend on hash tables.
    fn step(&mut self, client: usize, command: &[&str]) -> Vec<Vec<String>> {
        self.clients[client].send(&request(command)).unwrap();
        // The sender comes first: then its messages are delivered before the others' replies to PING.
        let mut received = vec![Vec::new(); self.clients.len()];
        let others = (0..self.clients.len()).filter(|&other| other != client);
        for other in std::iter::once(client).chain(others) {
            received[other] = self.synchronize(other);
        }
        received
    }

    /// Sends a PING and returns all that the client receives before the reply.
    fn synchronize(&mut self, client: usize) -> Vec<String> {
        self.synchronized += 1;
        let token = format!("synchronized:{}", self.synchronized);
        self.clients[client]
            .send(&request(&["PING", &token]))
            .unwrap();
        let mut texts = Vec::new();
        loop {
            let text = render(&self.clients[client].receive().unwrap());
            if text.contains(&token) {
                return in_any_order(texts);
            }
            texts.push(text);
        }
    }
}

/// Sorts messages whose order depends on Redis's hash tables: messages from patterns, and confirmations of unsubscribing from
/// everything. The names and counts of the latter are compared separately.
fn in_any_order(mut texts: Vec<String>) -> Vec<String> {
    if texts.iter().all(|text| text.contains("unsubscribe\"")) {
        texts = texts
            .iter()
            .flat_map(|text| text.lines().map(str::to_owned))
            .collect();
        texts.sort();
    } else if texts.iter().any(|text| text.contains("pmessage\"")) {
        texts.sort();
    }
    texts
}

/// Since Redis 7.2, a client that publishes to a channel of its own receives the reply before the message.
fn with_reply_first(mut texts: Vec<String>) -> Vec<String> {
    let is_reply = |text: &String| text.starts_with("(integer)");
    if let Some(at) = texts.iter().position(is_reply) {
        texts[..=at].rotate_right(1);
    }
    texts
}

fn pick<'a>(random: &mut Random, from: &[&'a str]) -> &'a str {
    from[random.below(from.len())]
}

fn command<'a>(random: &mut Random) -> Vec<&'a str> {
    let name = pick(
        random,
        &[
            "SUBSCRIBE",
            "SUBSCRIBE",
            "PSUBSCRIBE",
            "SSUBSCRIBE",
            "UNSUBSCRIBE",
            "PUNSUBSCRIBE",
            "SUNSUBSCRIBE",
            "PUBLISH",
            "PUBLISH",
            "PUBLISH",
            "SPUBLISH",
            "NUMSUB",
            "SHARDNUMSUB",
            "NUMPAT",
            "CHANNELS",
            "SHARDCHANNELS",
            "RESET",
            "GET",
        ],
    );
    let names = if name.starts_with('P') && name.ends_with("SUBSCRIBE") {
        PATTERNS
    } else {
        CHANNELS
    };
    let mut some = |from: &[&'a str]| -> Vec<&'a str> {
        (0..random.below(4)).map(|_| pick(random, from)).collect()
    };
    match name {
        "PUBLISH" | "SPUBLISH" => vec![name, pick(random, CHANNELS), "payload"],
        "NUMSUB" | "SHARDNUMSUB" => [vec!["PUBSUB", name], some(CHANNELS)].concat(),
        // The pattern matches one channel: the order of several would differ.
        "CHANNELS" | "SHARDCHANNELS" => vec!["PUBSUB", name, "[b]"],
        "NUMPAT" => vec!["PUBSUB", name],
        "GET" => vec![name, "key"],
        "RESET" => vec![name],
        _ => [vec![name], some(names)].concat(),
    }
}

/// For the same random commands of several clients, each client receives the same from `redis-server` and from ours.
#[test]
fn several_clients_receive_what_redis_sends_them() {
    const SEQUENCES: usize = 40;
    const STEPS: usize = 60;
    const CLIENTS: usize = 5;
    let seed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs());
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let program = Program::subject();
    let options: &[&str] = match program.kind() {
        Kind::Damselfly => &["--threads", "3"],
        Kind::Redis => &[],
    };
    let reference = Server::start(&Program::reference(), &[]).unwrap();
    let subject = Server::start(&program, options).unwrap();
    for sequence in 0..SEQUENCES {
        let mut theirs = Clients::of(&reference, CLIENTS);
        let mut ours = Clients::of(&subject, CLIENTS);
        let mut history = String::new();
        for _ in 0..STEPS {
            let (client, command) = (random.below(CLIENTS), command(&mut random));
            history.push_str(&format!("{client}> {command:?}\n"));
            let mut expected = theirs.step(client, &command);
            if program.kind() == Kind::Damselfly && command[0].ends_with("PUBLISH") {
                expected[client] = with_reply_first(std::mem::take(&mut expected[client]));
            }
            let received = ours.step(client, &command);
            assert_eq!(
                received, expected,
                "seed {seed}, sequence {sequence}:\n{history}"
            );
        }
        // The next sequence starts without subscriptions.
        for (server, clients) in [(&reference, theirs), (&subject, ours)] {
            drop(clients);
            let mut probe = server.connect();
            while probe.call(&["CLIENT", "LIST", "TYPE", "pubsub"]).unwrap()
                != Value::Bulk(Vec::new())
            {
                std::thread::yield_now();
            }
        }
    }
}
