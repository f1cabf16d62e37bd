//! Random commands run on a primary while the links of its replicas are cut again and again; afterwards all have the same data.
//!
//! `DAMSELFLY_SEQUENCES` or `DAMSELFLY_SECONDS` say how many sequences are played per test and family, or for how long; CONTRIBUTING.md has an example.
//! With `--nocapture`, the tests print how many they have played.

mod common {
    pub mod link_proxy;
    pub mod replicas;
}

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use common::link_proxy::LinkProxy;
use common::replicas::{
    follow, left_out, ours, redis, run, seeds, wait_for_agreement, wait_for_link,
};
use damselfly_oracle::random::Random;
use damselfly_oracle::rows::Family;
use damselfly_oracle::sequence::{Generator, Step};
use damselfly_oracle::server::Server;

/// How many sequences are played per test and family if nothing else is wanted.
const SEQUENCES: u64 = 4;

/// How many commands a client sends per sequence.
const LENGTH: usize = 300;

/// Cuts the link at random until told to end.
fn disturb(proxies: &[LinkProxy], seed: u64, ends: &AtomicBool) {
    let mut random = Random::new(seed);
    while !ends.load(SeqCst) {
        let proxy = &proxies[random.below(proxies.len())];
        match random.below(4) {
            0 => proxy.cut(),
            1 | 2 => proxy.cut_after(1 + random.below(20_000) as u64),
            _ => {
                proxy.stall(true);
                thread::sleep(Duration::from_millis(random.below(30) as u64));
                proxy.stall(false);
            }
        }
        thread::sleep(Duration::from_millis(random.below(60) as u64));
    }
}

/// Plays sequences on the first server; the others follow it through proxies, or each the one before it.
fn play(family: Option<Family>, servers: &[Server], is_chain: bool) {
    let mut left_out = left_out();
    if servers[0].is_redis() {
        // With OVERFLOW FAIL it may lengthen a string of Redis without telling any replica.
        left_out.extend(["BITFIELD".to_owned()]);
    }
    let generator = Generator::new(family, &left_out);
    let proxies: Vec<LinkProxy> = (1..servers.len())
        .map(|index| {
            let followed = if is_chain { index - 1 } else { 0 };
            LinkProxy::start(servers[followed].address())
        })
        .collect();
    for (replica, proxy) in servers[1..].iter().zip(&proxies) {
        follow(replica, proxy.address());
        wait_for_link(replica);
    }
    let all: Vec<&Server> = servers.iter().collect();
    let mut played = 0;
    for seed in seeds(SEQUENCES) {
        let halves: Vec<Vec<Step>> = (0..2)
            .map(|half| generator.sequence(seed * 2 + half, LENGTH))
            .collect();
        let ends = AtomicBool::new(false);
        thread::scope(|scope| {
            let disturbing = scope.spawn(|| disturb(&proxies, seed, &ends));
            let clients: Vec<_> = halves
                .iter()
                .map(|steps| scope.spawn(|| run(servers[0].address(), steps)))
                .collect();
            clients
                .into_iter()
                .for_each(|client| client.join().unwrap());
            ends.store(true, SeqCst);
            disturbing.join().unwrap();
        });
        proxies.iter().for_each(|proxy| proxy.cut_after(u64::MAX));
        wait_for_agreement(&format!("{family:?}, seed {seed}"), &all);
        played += 1;
    }
    println!("{family:?}: {played} sequences");
}

/// `DAMSELFLY_FAMILY`, if set, is the only family that is played.
fn families() -> impl Iterator<Item = Family> {
    let only = std::env::var("DAMSELFLY_FAMILY").ok();
    FAMILIES.into_iter().filter(move |family| {
        only.as_ref()
            .is_none_or(|only| *only == format!("{family:?}"))
    })
}

const FAMILIES: [Family; 10] = [
    Family::String,
    Family::List,
    Family::Set,
    Family::Hash,
    Family::SortedSet,
    Family::Stream,
    Family::Generic,
    Family::Transactions,
    Family::Script,
    Family::Bitmap,
];

#[test]
fn ours_follows_redis() {
    for family in families() {
        play(Some(family), &[redis(&[]), ours(&[])], false);
    }
}

#[test]
fn ours_follows_ours_directly_and_through_another() {
    for family in families() {
        let servers: Vec<Server> = (0..3).map(|_| ours(&[])).collect();
        play(Some(family), &servers, true);
    }
}

#[test]
fn redis_follows_ours() {
    for family in families() {
        play(Some(family), &[ours(&[]), redis(&[])], false);
    }
}

#[test]
fn redis_follows_ours_that_follows_redis() {
    for family in [Family::Generic, Family::Transactions, Family::Stream] {
        let servers = [redis(&[]), ours(&[]), redis(&[])];
        play(Some(family), &servers, true);
    }
}
