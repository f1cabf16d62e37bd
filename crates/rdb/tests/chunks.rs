//! Files that are split into chunks: of many entries, of entries that do not fit, of several databases, from a source that gives little
//! at a time.

mod common;

use std::io::{self, Read};

use common::{Model, entry, model, thresholds};
use damselfly_base::random::Random;
use damselfly_rdb::{
    Access, CHUNK_BYTES, Checksum, Encoder, Event, Piece, RdbError, ReadOptions, Reader, Splitter,
    WriteOptions,
};
use damselfly_value::{Entry, NewValue, Thresholds};

/// A source that returns a few bytes, or many.
struct Dripping<'b> {
    bytes: &'b [u8],
    random: Random,
}

impl Read for Dripping<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let limit = match self.random.below(4) {
            0 => 1 + self.random.below(100),
            _ => buffer.len(),
        };
        let len = limit.min(buffer.len());
        self.bytes.read(&mut buffer[..len])
    }
}

/// An entry as a file has it: its database, where it begins, and how it looks.
type Found = (u64, u64, Model);

fn found(database: u64, offset: u64, entry: &Entry) -> Found {
    (database, offset, model(entry.view()))
}

fn one_by_one(bytes: &[u8], options: ReadOptions<'_>) -> Vec<Found> {
    let (mut reader, mut all, mut database) = (Reader::new(bytes, options).unwrap(), vec![], 0);
    loop {
        let offset = reader.offset();
        match reader.next().unwrap() {
            Event::SelectDb(number) => database = number,
            Event::Entry(loaded) => all.push(found(database, offset, &loaded.entry)),
            Event::End => return all,
            _ => {}
        }
    }
}

/// Also returns how many chunks there were, and how many entries came alone.
fn in_chunks(source: impl Read, options: ReadOptions<'_>) -> (Vec<Found>, usize, usize) {
    let mut splitter = Splitter::new(source, options).unwrap();
    let (mut all, mut chunks, mut alone) = (Vec::new(), 0, 0);
    loop {
        match splitter.next().unwrap() {
            Piece::Chunk(chunk) => {
                chunks += 1;
                assert!(!chunk.is_empty() && chunk.len() <= 8 * CHUNK_BYTES);
                let database = chunk.database();
                let buffer = chunk.decode(options.thresholds, |offset, event| {
                    let Event::Entry(loaded) = event else {
                        panic!("{event:?}");
                    };
                    all.push(found(database, offset, &loaded.entry));
                    Ok::<(), RdbError>(())
                });
                splitter.recycle([buffer.unwrap()]);
            }
            Piece::Event(Event::Entry(loaded)) => {
                alone += 1;
                let offset = splitter.event_offset();
                all.push(found(splitter.database(), offset, &loaded.entry));
            }
            Piece::Event(Event::End) => break,
            Piece::Event(_) => {}
        }
    }
    assert!(splitter.is_at_end().unwrap());
    (all, chunks, alone)
}

#[test]
fn chunks_have_the_entries_of_the_file_in_their_order() {
    let mut random = Random::for_test();
    let (mut chunks_seen, mut alone_seen) = (0, 0);
    for round in 0..4 {
        let thresholds = thresholds(&mut random);
        let compress = random.below(2) == 0;
        let version = 12;
        let mut encoder = Encoder::new(WriteOptions { version, compress });
        let mut bytes = Vec::new();
        encoder.header(&mut bytes);
        for database in 0..3 {
            encoder.select_db(database, &mut bytes);
            encoder.resize_db(7, 7, &mut bytes);
            for _ in 0..random.below(100) {
                let entry = entry(&mut random, &thresholds);
                let access = Access {
                    idle_seconds: (random.below(2) == 0).then_some(5),
                    frequency: (random.below(2) == 0).then_some(5),
                };
                encoder.entry(entry.view(), access, &mut bytes).unwrap();
            }
            if round % 2 == 0 {
                // Around the sizes at which chunks and reads end.
                for len in [CHUNK_BYTES, 8 * CHUNK_BYTES, 20 * CHUNK_BYTES] {
                    let len = len - 20 + random.below(40);
                    let value: Vec<u8> = (0..len / 8)
                        .flat_map(|_| random.number().to_le_bytes())
                        .collect();
                    let entry = Entry::new(b"long", NewValue::compact(&value), None);
                    let access = Access::default();
                    encoder.entry(entry.view(), access, &mut bytes).unwrap();
                }
            }
        }
        encoder.end(None, &mut bytes);
        let options = ReadOptions {
            thresholds: &thresholds,
            verify_checksum: true,
        };
        let expected = one_by_one(&bytes, options);
        let dripping = Dripping {
            bytes: &bytes,
            random: Random::new(random.number()),
        };
        let (dripped, ..) = in_chunks(dripping, options);
        assert!(dripped == expected);
        let (all, chunks, alone) = in_chunks(&bytes[..], options);
        assert!(all == expected);
        chunks_seen += chunks;
        alone_seen += alone;
    }
    assert!(
        chunks_seen > 8 && alone_seen >= 5,
        "{chunks_seen} {alone_seen}"
    );
}

#[test]
fn a_wrong_checksum_is_found_behind_the_chunks() {
    let mut encoder = Encoder::new(WriteOptions {
        version: 10,
        compress: false,
    });
    let (mut bytes, mut checksum) = (Vec::new(), Checksum::new());
    encoder.header(&mut bytes);
    encoder.select_db(0, &mut bytes);
    for number in 0..50_000 {
        let (key, value) = (format!("key:{number}"), NewValue::Integer(number));
        let entry = Entry::new(key.as_bytes(), value, None);
        encoder
            .entry(entry.view(), Access::default(), &mut bytes)
            .unwrap();
    }
    checksum.add(&bytes);
    encoder.end(None, &mut bytes);
    let end = bytes.len() - 8;
    checksum.add(&[255]);
    bytes[end..].copy_from_slice(&checksum.value().to_le_bytes());
    let thresholds = Thresholds::default();
    let read = |bytes: &[u8], verify| common::read(bytes, &thresholds, verify);
    assert_eq!(read(&bytes, true).unwrap().len(), 50_000);
    bytes[end] ^= 1;
    let error = read(&bytes, true).unwrap_err().to_string();
    assert!(error.contains("CRC error"), "{error}");
    assert_eq!(read(&bytes, false).unwrap().len(), 50_000);
}
