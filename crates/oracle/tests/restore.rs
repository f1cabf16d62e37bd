//! RESTORE of random payloads, intact and damaged, beside a real `redis-server` that checks them deeply: Redis accepts what our server
//! accepts, and then both hold the same.
//!
//! Our server also refuses some payloads that Redis accepts: bytes behind the value, a value that continues into the footer, scores
//! that are not numbers. `DAMSELFLY_CASES` sets the number of payloads, for longer runs.

#[path = "../../rdb/tests/common/mod.rs"]
mod common;

use std::collections::BTreeMap;

use damselfly_base::random::Random;
use damselfly_oracle::connection::Connection;
use damselfly_oracle::events::EventListener;
use damselfly_oracle::server::{Program, Server};
use damselfly_protocol::client::Value as Reply;
use damselfly_rdb::{Checksum, dump, version_needed};

const CASES: usize = 1500;
const VALUE_BYTES_MAX: usize = 2000;
/// The version that Redis 7.0 writes.
const VERSION: u16 = 10;
/// The last type that Redis 7.0 knows: streams of its second form.
const LAST_TYPE: u8 = 19;
const FOOTER_BYTES: usize = 10;

/// A payload without its footer, that Redis 7.0 can load.
fn value(random: &mut Random) -> Vec<u8> {
    loop {
        let thresholds = common::thresholds(random);
        let entry = common::entry(random, &thresholds);
        if version_needed(entry.view()) == u32::from(VERSION) {
            let mut payload = dump(entry.view(), random.below(4) == 0);
            payload.truncate(payload.len() - FOOTER_BYTES);
            if payload.len() <= VALUE_BYTES_MAX {
                return payload;
            }
        }
    }
}

fn damage(value: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(value.len());
    match random.below(6) {
        0 | 1 => value[at] ^= 1 << random.below(8),
        2 => value[at] = random.number() as u8,
        3 => value.truncate(at.max(1)),
        4 => value.insert(at, random.number() as u8),
        _ if value.len() > 1 => drop(value.remove(at)),
        _ => {}
    }
}

fn with_footer(value: &[u8]) -> Vec<u8> {
    let mut payload = [value, &VERSION.to_le_bytes()].concat();
    payload.extend_from_slice(&Checksum::of(&payload).to_le_bytes());
    payload
}

#[test]
fn redis_accepts_the_payloads_that_we_accept() {
    let options = ["--enable-debug-command", "yes"];
    let strict = [&options[..], &["--sanitize-dump-payload", "yes"]].concat();
    let start = || Server::start(&Program::reference(), &strict).unwrap();
    let subject = Server::start(&Program::subject(), &options).unwrap();
    let mut reference = start();
    let (mut theirs, mut ours) = (reference.connect(), subject.connect());
    let mut random = Random::for_test();
    let cases = std::env::var("DAMSELFLY_CASES").map_or(CASES, |cases| cases.parse().unwrap());
    let mut outcomes: BTreeMap<&str, usize> = BTreeMap::new();
    for _ in 0..cases {
        let mut value = value(&mut random);
        let damages = random.below(4).saturating_sub(1);
        for _ in 0..damages {
            damage(&mut value, &mut random);
        }
        if value[0] > LAST_TYPE {
            continue;
        }
        let payload = with_footer(&value);
        let shown = payload.escape_ascii();
        let words: [&[u8]; 5] = [b"RESTORE", b"key", b"0", &payload, b"REPLACE"];
        let mine = ours.call(&words).unwrap();
        let Ok(reply) = theirs.call(&words) else {
            // A damaged payload can still crash Redis.
            reference = start();
            theirs = reference.connect();
            continue;
        };
        let ok = Reply::Simple(b"OK".to_vec());
        let refused = Reply::Error(b"ERR Bad data format".to_vec());
        let outcome = match (mine == ok, reply == ok) {
            (true, true) => {
                let words: [&[u8]; 3] = [b"DEBUG", b"DIGEST-VALUE", b"key"];
                let (mine, other) = (ours.call(&words).unwrap(), theirs.call(&words).unwrap());
                assert_eq!(mine, other, "{shown}");
                "both accept"
            }
            (false, _) if damages == 0 => panic!("{mine:?} {shown}"),
            (false, _) if mine != refused => panic!("{mine:?} {shown}"),
            (false, true) => "Redis accepts",
            (_, false) => {
                assert_eq!(mine, reply, "{shown}");
                "both refuse"
            }
        };
        *outcomes.entry(outcome).or_default() += 1;
    }
    println!("{outcomes:?}");
    drop(reference);
}

/// A number that INFO stats or INFO persistence shows.
fn fact(connection: &mut Connection, name: &str) -> i64 {
    let Reply::Bulk(text) = connection.call(&["INFO", "everything"]).unwrap() else {
        panic!("no text");
    };
    let text = String::from_utf8(text).unwrap();
    let mut values = text
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    values.next().unwrap().parse().unwrap()
}

#[test]
fn an_expired_key_is_replaced_without_a_notice_as_in_redis() {
    let options = ["--enable-debug-command", "yes"];
    let payload = with_footer(b"\0\x05value");
    let servers = [Program::reference(), Program::subject()];
    let [theirs, ours] = servers.map(|program| {
        let server = Server::start(&program, &options).unwrap();
        let mut connection = server.connect();
        // Expired keys stay until they are used.
        let mut listener = EventListener::open(server.address()).unwrap();
        let facts = [
            "expired_keys",
            "rdb_changes_since_last_save",
            "keyspace_misses",
        ];
        let mut seen = Vec::new();
        for (ttl, options) in [
            ("0", &[][..]),
            ("0", &["REPLACE"]),
            ("1", &["ABSTTL"]),
            ("1", &["ABSTTL", "REPLACE"]),
        ] {
            connection.call(&["SET", "key", "old", "PX", "1"]).unwrap();
            connection.call(&["DEBUG", "SLEEP", "0.01"]).unwrap();
            listener.drain().unwrap();
            let before = facts.map(|name| fact(&mut connection, name));
            let mut words: Vec<&[u8]> = vec![b"RESTORE", b"key", ttl.as_bytes(), &payload];
            words.extend(options.iter().map(|option| option.as_bytes()));
            let reply = connection.call(&words).unwrap();
            let after = facts.map(|name| fact(&mut connection, name));
            let counted: Vec<_> = before
                .iter()
                .zip(after)
                .map(|(old, new)| new - old)
                .collect();
            seen.push((options, reply, counted, listener.drain().unwrap()));
            connection.call(&["DEL", "key"]).unwrap();
        }
        seen
    });
    assert_eq!(theirs, ours);
}

#[test]
fn a_value_of_a_module_is_refused_and_the_log_names_the_module() {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let digit = |letter: u8| LETTERS.iter().position(|known| *known == letter).unwrap() as u64;
    let name = b"ReJSON-RL";
    let id = name.iter().fold(0, |id, &letter| id << 6 | digit(letter)) << 10 | 3;
    let payload = with_footer(&[&b"\x07\x81"[..], &id.to_be_bytes(), b"\0"].concat());
    let server = Server::start(&Program::subject(), &[]).unwrap();
    let reply = server
        .connect()
        .call(&[&b"RESTORE"[..], b"key", b"0", &payload]);
    assert_eq!(
        reply.unwrap(),
        Reply::Error(b"ERR Bad data format".to_vec())
    );
    let log = server.log();
    assert!(
        log.contains("key \"key\"") && log.contains("\"ReJSON-RL\""),
        "{log}"
    );
}
