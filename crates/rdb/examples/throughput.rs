//! How fast files are written and read: `cargo run --release -p damselfly-rdb --example throughput [ENTRIES]`.
//!
//! Times are those of the processor, so that other programs do not matter much.

use damselfly_rdb::{Access, Checksum, Encoder, Event, ReadOptions, Reader, WriteOptions};
use damselfly_value::{
    Collection, Element, Entry, Hash, List, NewValue, Set, Side, SortedSet, Thresholds, Type,
};

/// The buffer is emptied when it has so many bytes, as if it were written to a file.
const CHUNK_BYTES: usize = 1 << 20;
/// The clock is coarse: the mean of several rounds counts.
const ROUNDS: usize = 5;

type Make = fn(usize, &Thresholds) -> Entry;

fn main() {
    let count = std::env::args().nth(1);
    let count = count
        .and_then(|count| count.parse().ok())
        .unwrap_or(1_000_000);
    let kinds: [(&str, usize, Make); 6] = [
        ("strings of 32 bytes", count, |at, _| {
            let value = format!("value:{at:026}");
            let value = NewValue::compact(value.as_bytes());
            Entry::new(&key(at), value, None)
        }),
        ("strings of 1 KiB", count / 10, |at, _| {
            let value: String = (0..64)
                .map(|part| format!("{:016x}", at * 31 + part * 7))
                .collect();
            Entry::new(&key(at), NewValue::compact(value.as_bytes()), None)
        }),
        ("hashes of 5 fields", count / 2, |at, thresholds| {
            let mut entry = Entry::new_collection(&key(at), Type::Hash, None);
            for field in 0..5 {
                let (name, value) = (format!("field{field}"), format!("value{at}"));
                let value = Element::new(value.as_bytes());
                Hash::edit(&mut entry, thresholds).set(name.as_bytes(), value, None);
            }
            entry
        }),
        ("sorted sets of 10 members", count / 4, |at, thresholds| {
            let mut entry = Entry::new_collection(&key(at), Type::SortedSet, None);
            for member in 0..10 {
                let name = format!("member{member}");
                let score = (at % 1000 + member) as f64;
                SortedSet::edit(&mut entry, thresholds).update(name.as_bytes(), |_| Some(score));
            }
            entry
        }),
        ("sets of 1000 members", count / 500, |at, thresholds| {
            let mut entry = Entry::new_collection(&key(at), Type::Set, None);
            for member in 0..1000 {
                let member = format!("member:{at}:{member}");
                Set::edit(&mut entry, thresholds).insert(member.as_bytes());
            }
            entry
        }),
        ("lists of 1000 elements", count / 500, |at, thresholds| {
            let mut entry = Entry::new_collection(&key(at), Type::List, None);
            for element in 0..1000 {
                let element = format!("element:{at}:{element}");
                List::edit(&mut entry, thresholds)
                    .push(Side::Right, [element.as_bytes()].into_iter());
            }
            entry
        }),
    ];
    println!("{:28}{:>10}{:>24}{:>24}", "", "file", "writing", "reading");
    for (name, count, make) in kinds {
        let thresholds = Thresholds::default();
        let entries: Vec<Entry> = (0..count).map(|at| make(at, &thresholds)).collect();
        for (with, compress, checksum) in [
            ("", false, true),
            (", LZF", true, true),
            (", no checksum", false, false),
        ] {
            let options = WriteOptions {
                version: 10,
                compress,
            };
            let (mut file, mut wrote, mut read) = (Vec::new(), 0.0, 0.0);
            for _ in 0..ROUNDS {
                let start = processor_seconds();
                file = write(&entries, options, checksum);
                let middle = processor_seconds();
                assert_eq!(load(&file, &thresholds, checksum), count);
                wrote += (middle - start) / ROUNDS as f64;
                read += (processor_seconds() - middle) / ROUNDS as f64;
            }
            let megabytes = file.len() as f64 / 1e6;
            let rate = |seconds: f64| {
                let entries = count as f64 / seconds / 1e6;
                format!("{:.0} MB/s {entries:.2} M/s", megabytes / seconds)
            };
            let name = format!("{name}{with}");
            println!(
                "{name:40}{megabytes:>7.1} MB{:>24}{:>24}",
                rate(wrote),
                rate(read)
            );
        }
    }
}

/// How long this thread has run so far.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has it");
    let nanoseconds = text
        .split(' ')
        .next()
        .and_then(|number| number.parse::<f64>().ok());
    nanoseconds.expect("it begins with a number") / 1e9
}

fn key(at: usize) -> Vec<u8> {
    format!("key:{at:012}").into_bytes()
}

fn write(entries: &[Entry], options: WriteOptions, with_checksum: bool) -> Vec<u8> {
    let (mut encoder, mut file) = (Encoder::new(options), Vec::new());
    let (mut out, mut checksum) = (Vec::new(), Checksum::new());
    encoder.header(&mut out);
    encoder.select_db(0, &mut out);
    for entry in entries {
        let written = encoder.entry(entry.view(), Access::default(), &mut out);
        written.expect("version 10 is enough");
        if out.len() >= CHUNK_BYTES {
            if with_checksum {
                checksum.add(&out);
            }
            file.extend_from_slice(&out);
            out.clear();
        }
    }
    encoder.end(with_checksum.then_some(checksum), &mut out);
    file.extend_from_slice(&out);
    file
}

fn load(file: &[u8], thresholds: &Thresholds, verify_checksum: bool) -> usize {
    let options = ReadOptions {
        thresholds,
        verify_checksum,
    };
    let mut reader = Reader::new(file, options).expect("our own file");
    let mut count = 0;
    loop {
        match reader.next().expect("our own file") {
            Event::Entry(loaded) => {
                // Freed at once: what is measured is the reading.
                drop(loaded);
                count += 1;
            }
            Event::End => return count,
            _ => {}
        }
    }
}
