//! Threads change shards under their locks and append records; the merged stream must be an order in which the sections could have
//! run one after the other. With the planted bug `log` the merge ignores the order, which this must detect.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;

use damselfly_log::{Batch, Log, Merge, Targets};

const SHARDS: usize = 8;
const THREADS: u64 = 4;

/// A generator of numbers for one thread.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Sections that each count in one to three shards, and whose effects are the new counts: `shard count` pairs.
fn write(log: &Log, shards: &[Mutex<u64>], sections: u64, seed: u64) {
    let mut random = Random(seed);
    for _ in 0..sections {
        while log.is_congested() {
            thread::yield_now();
        }
        let mut names: Vec<usize> = (0..=random.below(3))
            .map(|_| random.below(SHARDS as u64) as usize)
            .collect();
        names.sort_unstable();
        names.dedup();
        let mut held: Vec<MutexGuard<'_, u64>> = names
            .iter()
            .map(|&name| shards[name].lock().unwrap())
            .collect();
        let mut record = log.record();
        for (name, count) in names.iter().zip(&mut held) {
            **count += 1;
            // Some are too large for a ring.
            let padding = vec![
                b'x';
                if random.below(5000) == 0 {
                    400_000
                } else {
                    random.below(64) as usize
                }
            ];
            let words = [name.to_string(), count.to_string()];
            let db = random.below(3) as usize;
            let args = [words[0].as_bytes(), words[1].as_bytes(), &padding];
            record.add(db, args.into_iter());
        }
        if random.below(4) == 0 {
            // A section that releases its locks early.
            log.reserve(&mut record);
            held.clear();
            thread::yield_now();
        }
        log.append(record, 1);
    }
}

/// The commands of a stream.
fn commands(stream: &[u8]) -> Vec<Vec<String>> {
    let mut at = 0;
    let number = |mark: u8, at: &mut usize| {
        assert_eq!(stream[*at], mark);
        let end = *at
            + stream[*at..]
                .iter()
                .position(|&byte| byte == b'\r')
                .unwrap();
        let number: usize = std::str::from_utf8(&stream[*at + 1..end])
            .unwrap()
            .parse()
            .unwrap();
        *at = end + 2;
        number
    };
    let mut commands = Vec::new();
    while at < stream.len() {
        let len = number(b'*', &mut at);
        let args = (0..len).map(|_| {
            let bytes = number(b'$', &mut at);
            let text = String::from_utf8(stream[at..at + bytes].to_vec()).unwrap();
            at += bytes + 2;
            text
        });
        commands.push(args.collect());
    }
    commands
}

fn play(sections: u64, seed: u64) {
    let log = Arc::new(Log::default());
    log.start(Targets::ALL);
    let shards: Arc<Vec<Mutex<u64>>> = Arc::new((0..SHARDS).map(|_| Mutex::new(0)).collect());
    let writers: Vec<_> = (0..THREADS)
        .map(|index| {
            let (log, shards) = (log.clone(), shards.clone());
            thread::spawn(move || write(&log, &shards, sections, seed * THREADS + index + 1))
        })
        .collect();
    let done = Arc::new(AtomicBool::new(false));
    let merging = {
        let (log, done) = (log.clone(), done.clone());
        thread::spawn(move || {
            let (mut merge, mut stream, mut batch) =
                (Merge::new(log), Vec::new(), Batch::default());
            loop {
                let ends = done.load(Relaxed);
                batch.clear();
                if merge.fill(&mut batch, 1 << 16) == 0 && ends && !merge.is_behind() {
                    return stream;
                }
                for (_, bytes) in batch.after(0, Targets::FILE) {
                    stream.extend_from_slice(bytes);
                }
            }
        })
    };
    writers
        .into_iter()
        .for_each(|writer| writer.join().unwrap());
    done.store(true, Relaxed);
    let stream = merging.join().unwrap();
    check(&commands(&stream), &shards, sections);
}

fn check(commands: &[Vec<String>], shards: &[Mutex<u64>], sections: u64) {
    let (mut counts, mut records, mut within) = ([0; SHARDS], 0, false);
    for command in commands {
        match command[0].as_str() {
            "SELECT" => continue,
            "MULTI" => within = true,
            "EXEC" => within = false,
            shard => {
                let shard: usize = shard.parse().unwrap();
                counts[shard] += 1;
                let count: u64 = command[1].parse().unwrap();
                assert_eq!(
                    count, counts[shard],
                    "the changes of shard {shard} are out of order"
                );
            }
        }
        records += u64::from(!within);
    }
    assert_eq!(records, sections * THREADS, "a section is missing or torn");
    for (shard, count) in shards.iter().zip(counts) {
        assert_eq!(*shard.lock().unwrap(), count);
    }
}

#[test]
fn the_merged_stream_has_every_section_whole_and_the_changes_of_each_shard_in_order() {
    for seed in 1..=4 {
        println!("seed {seed}");
        play(5_000, seed);
    }
}

#[test]
fn a_consumer_that_begins_at_a_cut_gets_exactly_the_records_after_it() {
    let log = Arc::new(Log::default());
    log.start(Targets::ALL);
    for (count, db) in [(1, 0), (2, 5), (3, 5), (4, 0)] {
        log.append_one(Targets::ALL, db, [&[b'0' + count][..]].into_iter(), 1);
    }
    let (mut merge, mut batch) = (Merge::new(log), Batch::default());
    assert_eq!(merge.fill(&mut batch, usize::MAX), 4);
    let from = |cut: u64| {
        let mut stream = batch.beginning_at(cut);
        for (_, bytes) in batch.after(cut, Targets::REPLICAS) {
            stream.extend_from_slice(bytes);
        }
        commands(&stream)
            .into_iter()
            .map(|words| words.join(" "))
            .collect::<Vec<_>>()
    };
    assert_eq!(from(2), ["SELECT 5", "3", "SELECT 0", "4"]);
    assert_eq!(from(1), ["SELECT 5", "2", "3", "SELECT 0", "4"]);
    assert_eq!(from(3), ["SELECT 0", "4"]);
    assert!(from(4).is_empty());
}

#[test]
fn effects_for_some_consumers_do_not_reach_the_others() {
    let log = Arc::new(Log::default());
    log.start(Targets::ALL);
    let mut record = log.record();
    record.add(0, [&b"A"[..]].into_iter());
    record.add_for(Targets::REPLICAS, 0, [&b"B"[..]].into_iter());
    record.set_targets(Targets::FILE);
    record.add(0, [&b"C"[..]].into_iter());
    record.set_targets(Targets::NONE);
    record.add(0, [&b"D"[..]].into_iter());
    log.append(record, 1);
    let (mut merge, mut batch) = (Merge::new(log), Batch::default());
    merge.fill(&mut batch, usize::MAX);
    let of = |targets| {
        let bytes: Vec<u8> = batch
            .after(0, targets)
            .flat_map(|(_, bytes)| bytes.to_vec())
            .collect();
        commands(&bytes).concat().join(" ")
    };
    assert_eq!(of(Targets::FILE), "SELECT 0 MULTI A C EXEC");
    assert_eq!(of(Targets::REPLICAS), "SELECT 0 MULTI A B EXEC");
}

#[test]
fn what_is_kept_of_a_rolled_back_record_comes_first() {
    let log = Arc::new(Log::default());
    log.start(Targets::ALL);
    let mut record = log.record();
    record.add(1, [&b"BEFORE"[..]].into_iter());
    let mark = record.mark();
    record.add(2, [&b"UNDONE"[..]].into_iter());
    record.add_kept(3, [&b"EXPIRED"[..]].into_iter());
    record.cut_back(mark);
    record.add(1, [&b"AFTER"[..]].into_iter());
    log.append(record, 1);
    log.append_one(Targets::ALL, 1, [&b"NEXT"[..]].into_iter(), 1);
    let (mut merge, mut batch) = (Merge::new(log), Batch::default());
    merge.fill(&mut batch, usize::MAX);
    let words = commands(&batch.bytes).concat().join(" ");
    assert_eq!(
        words,
        "SELECT 3 MULTI EXPIRED SELECT 1 BEFORE AFTER EXEC NEXT"
    );
}
