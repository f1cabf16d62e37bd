//! Loading files within the test's own process: broken ones, many threads, and a sink of one's own.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use common::TestServer;
use damselfly_base::random::Random;
use damselfly_config::Config;
use damselfly_engine::{Engine, Key, Layout, Now};
use damselfly_rdb::{Access, Checksum, Encoder, WriteOptions, dump};
use damselfly_server::persistence::load::{
    LoadError, LoadOptions, NewEntry, SerialSink, load as load_to,
};
use damselfly_server::persistence::progress::LoadProgress;
use damselfly_server::signals::Signals;
use damselfly_server::start::Server;
use damselfly_value::{
    Collection, Element, Entry, Hash, List, NewValue, Set, Side, SortedSet, Stream, StreamId,
    Thresholds, Type, Value,
};

/// What a server has: the payload of each key by database and key, with its deadline.
type Data = BTreeMap<(usize, Vec<u8>), (Vec<u8>, Option<i64>)>;

fn word(random: &mut Random) -> Vec<u8> {
    match random.below(3) {
        0 => random.below(100_000).to_string().into_bytes(),
        1 => vec![b'a' + random.below(26) as u8; random.below(80)],
        _ => (0..random.below(20))
            .map(|_| random.number() as u8)
            .collect(),
    }
}

/// A random entry of any type.
fn entry(random: &mut Random, key: &[u8], size_max: usize) -> Entry {
    let deadline_ms = (random.below(4) == 0).then_some(9_999_999_999_999);
    let thresholds = Thresholds::default();
    let size = 1 + random.below(size_max);
    let of = match random.below(8) {
        0..3 => return Entry::new(key, NewValue::compact(&word(random)), deadline_ms),
        3 => Type::List,
        4 => Type::Set,
        5 => Type::Hash,
        6 => Type::SortedSet,
        _ => Type::Stream,
    };
    let mut entry = Entry::new_collection(key, of, deadline_ms);
    for at in 0..size {
        let (item, value) = (word(random), word(random));
        match of {
            Type::String => {}
            Type::List => {
                List::edit(&mut entry, &thresholds).push(Side::Right, [&item[..]].into_iter());
            }
            Type::Set => {
                Set::edit(&mut entry, &thresholds).insert(&item);
            }
            Type::Hash => {
                let value = Element::new(&value);
                Hash::edit(&mut entry, &thresholds).set(&item, value, None);
            }
            Type::SortedSet => {
                let score = random.below(100) as f64;
                SortedSet::edit(&mut entry, &thresholds).update(&item, |_| Some(score));
            }
            Type::Stream => {
                let pairs = [(&item[..], &value[..])].into_iter();
                let id = StreamId::new(1 + at as u64, 1);
                Stream::edit(&mut entry, &thresholds).push(id, pairs);
            }
        }
    }
    entry
}

/// A file of random entries in several databases, and what is in it.
fn random_file(random: &mut Random, entries: usize, size_max: usize) -> (Vec<u8>, Data) {
    let compress = random.below(2) == 0;
    let mut encoder = Encoder::new(WriteOptions {
        version: 10,
        compress,
    });
    let (mut bytes, mut data) = (Vec::new(), Data::new());
    encoder.header(&mut bytes);
    encoder.aux(b"used-mem", b"12345", &mut bytes);
    for db in [0, 2] {
        encoder.select_db(db as u64, &mut bytes);
        encoder.resize_db(entries as u64, 7, &mut bytes);
        for number in 0..entries {
            let entry = entry(random, format!("key:{number}").as_bytes(), size_max);
            let access = Access::default();
            encoder.entry(entry.view(), access, &mut bytes).unwrap();
            insert(&mut data, db, &entry);
        }
    }
    let mut checksum = Checksum::new();
    checksum.add(&bytes);
    let mut end = Vec::new();
    encoder.end(Some(checksum), &mut end);
    bytes.extend(end);
    (bytes, data)
}

fn insert(data: &mut Data, db: usize, entry: &Entry) {
    let view = entry.view();
    // Members of a set or fields of a hash have no order.
    let mut items = Vec::new();
    match view.value() {
        Value::Set(set) => set.for_each(|member| items.push((member.to_vec(), Vec::new()))),
        Value::Hash(hash) => hash.for_each(|pair| {
            items.push((pair.field.to_vec(), pair.value.to_vec()));
        }),
        _ => items.push((dump(view, false), Vec::new())),
    }
    items.sort();
    let value = format!("{items:?}").into_bytes();
    let found = data.insert((db, view.key().to_vec()), (value, view.deadline_ms()));
    assert!(found.is_none(), "a key occurs twice");
}

/// All data of an engine.
fn data_of(engine: &Engine) -> Data {
    let mut data = Data::new();
    let mut tx = engine.lock_all(0, Now(0)).unwrap();
    for db in 0..engine.databases() {
        let mut entries = Vec::new();
        tx.for_each_in(db, |entry| entries.push(entry.to_entry(entry.key())));
        entries
            .iter()
            .for_each(|entry| insert(&mut data, db, entry));
    }
    data
}

fn new_engine() -> Engine {
    Engine::new(Layout {
        shards: 4,
        databases: 16,
    })
}

/// Loads a file on this thread, under all locks, as DEBUG RELOAD would.
fn load(bytes: &[u8], engine: &Engine, progress: &LoadProgress) -> Result<u64, LoadError> {
    progress.begin(bytes.len() as u64);
    let options = LoadOptions {
        thresholds: &engine.settings.thresholds,
        verify_checksum: true,
        databases: engine.databases(),
        check_end: true,
        key_delay_us: &|| 0,
        stop: &|| false,
    };
    let mut tx = engine.lock_all(0, progress.now()).unwrap();
    let mut sink = SerialSink {
        thresholds: options.thresholds,
        progress,
        entry: |db, new: NewEntry| {
            let offset = new.offset;
            tx.load(db, new.entry)
                .map_err(|entry| LoadError::Duplicate {
                    offset,
                    key: entry.view().key().to_vec(),
                    db: db as u64,
                })
        },
        function: |_: &[u8]| Ok(()),
    };
    load_to(bytes, &options, progress, &mut sink)
}

#[test]
fn a_file_that_is_cut_or_changed_anywhere_is_refused() {
    let mut random = Random::for_test();
    let progress = LoadProgress::default();
    let mut refused = 0;
    for size_max in [3, 30] {
        let (bytes, data) = random_file(&mut random, 20, size_max);
        let engine = new_engine();
        load(&bytes, &engine, &progress).unwrap();
        assert!(data_of(&engine) == data);
        assert_eq!(progress.keys_loaded(), data.len() as u64);
        for at in 0..bytes.len() {
            let fault = load(&bytes[..at], &new_engine(), &progress).unwrap_err();
            assert!(fault.offset() <= at as u64, "{fault}");
            let mut changed = bytes.clone();
            changed[at] ^= 1 + random.below(255) as u8;
            load(&changed, &new_engine(), &progress).unwrap_err();
            refused += 2;
        }
    }
    assert!(refused > 3000, "{refused}");
}

#[test]
fn a_changed_file_without_checksum_is_refused_or_loaded_as_a_whole() {
    let mut random = Random::for_test();
    let progress = LoadProgress::default();
    let (mut loaded, mut refused) = (0, 0);
    let (mut bytes, _) = random_file(&mut random, 20, 5);
    let end = bytes.len() - 8;
    bytes[end..].fill(0);
    for at in 0..end {
        let mut changed = bytes.clone();
        changed[at] ^= 1 << random.below(8);
        let engine = new_engine();
        match load(&changed, &engine, &progress) {
            Ok(_) => {
                loaded += 1;
                let mut tx = engine.lock_all(0, progress.now()).unwrap();
                for shard in 0..engine.shards() {
                    tx.databases(shard)
                        .iter()
                        .for_each(damselfly_engine::Database::assert_valid);
                }
            }
            Err(_) => refused += 1,
        }
    }
    assert!(loaded > 100 && refused > 100, "{loaded} {refused}");
}

/// The server with this snapshot, or why it does not start.
fn start(bytes: &[u8], threads: usize) -> Result<TestServer, String> {
    TestServer::try_with(|config: &mut Config| {
        config.threads = threads;
        fs::write(format!("{}/dump.rdb", config.dir), bytes).unwrap();
    })
}

#[test]
fn any_number_of_threads_loads_what_one_thread_loads() {
    let mut random = Random::for_test();
    for threads in [1, 2, 4, 9] {
        let (bytes, data) = random_file(&mut random, 5000, 40);
        let server = start(&bytes, threads).unwrap();
        assert!(data_of(&server.shared().engine) == data);
        let progress = &server.shared().loading.progress;
        assert_eq!(progress.keys_loaded(), 10_000);
        assert_eq!(progress.loaded_bytes(), bytes.len() as u64);
        assert_eq!(server.client().run("PING"), "PONG");
        let engine = &server.shared().engine;
        let mut tx = engine.lock_all(0, progress.now()).unwrap();
        for shard in 0..engine.shards() {
            tx.databases(shard)
                .iter()
                .for_each(damselfly_engine::Database::assert_valid);
        }
    }
}

#[test]
fn threads_find_the_first_fault() {
    let mut random = Random::for_test();
    for _ in 0..30 {
        let (mut bytes, _) = random_file(&mut random, 3000, 20);
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len());
            bytes[at] ^= 1 + random.below(255) as u8;
        }
        let engine = new_engine();
        let expected = load(&bytes, &engine, &LoadProgress::default()).unwrap_err();
        let text = start(&bytes, 4).err().expect("it is refused");
        // A fault within an entry is found where it is. Which key counts as the second one depends on the threads.
        if !matches!(expected, LoadError::Duplicate { .. }) {
            assert!(text.contains(&expected.to_string()), "{expected}: {text}");
        }
    }
}

#[test]
fn a_key_that_occurs_twice_is_found_across_chunks() {
    let (mut encoder, mut bytes) = (
        Encoder::new(WriteOptions {
            version: 10,
            compress: false,
        }),
        Vec::new(),
    );
    encoder.header(&mut bytes);
    encoder.select_db(0, &mut bytes);
    for number in (0..100_000).chain([3]) {
        let key = format!("key:{number}");
        let entry = Entry::new(key.as_bytes(), NewValue::Integer(number), None);
        encoder
            .entry(entry.view(), Access::default(), &mut bytes)
            .unwrap();
    }
    encoder.end(None, &mut bytes);
    let text = start(&bytes, 4).err().expect("it is refused");
    assert!(text.contains("the key \"key:3\" occurs twice"), "{text}");
}

#[test]
fn a_sink_can_replace_keys_and_stop() {
    let mut random = Random::for_test();
    let (bytes, data) = random_file(&mut random, 100, 5);
    let engine = new_engine();
    let progress = LoadProgress::default();
    load(&bytes, &engine, &progress).unwrap();
    let again = load(&bytes, &engine, &progress).unwrap_err();
    assert!(matches!(again, LoadError::Duplicate { .. }), "{again}");
    assert!(data_of(&engine) == data);
    let seen = AtomicU64::new(0);
    let options = LoadOptions {
        thresholds: &engine.settings.thresholds,
        verify_checksum: true,
        databases: 16,
        check_end: false,
        key_delay_us: &|| 1,
        stop: &|| seen.load(Relaxed) >= 10,
    };
    let mut sink = SerialSink {
        thresholds: options.thresholds,
        progress: &progress,
        entry: |db, new: NewEntry| {
            seen.fetch_add(1, Relaxed);
            let key = new.entry.view().key().to_vec();
            let mut tx = engine.lock_all(db, progress.now()).unwrap();
            tx.remove(Key::new(&key));
            tx.load(db, new.entry).map_err(|_| LoadError::Stopped)
        },
        function: |_: &[u8]| Ok(()),
    };
    let stopped = load_to(&bytes[..], &options, &progress, &mut sink).unwrap_err();
    assert!(matches!(stopped, LoadError::Stopped), "{stopped}");
    assert_eq!(seen.load(Relaxed), 10);
    assert!(data_of(&engine) == data);
}

#[test]
fn a_server_without_snapshot_starts_empty() {
    let server = TestServer::start();
    assert_eq!(server.client().run("DBSIZE"), "(integer) 0");
    let _: fn(&Server, &Signals) -> Result<(), String> = Server::load;
}
