//! What the tests and fuzz targets share: the content of an entry, random entries, files.

#![allow(dead_code, reason = "each test uses a part")]

pub mod old;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;

use damselfly_base::random::Random;
use damselfly_collections::stream::Pending;
use damselfly_rdb::{
    Access, Checksum, Encoder, Event, Piece, RdbError, ReadOptions, Reader, Splitter, WriteOptions,
    dump, restore,
};
use damselfly_value::{
    Attributes, Collection, Element, Entry, EntryRef, Hash, HashRef, List, ListRef, Set, Side,
    SortedSet, Stream, StreamId, Text, Thresholds, Type, Value,
};

/// A random byte string, often an integer.
pub fn text(random: &mut Random, len_max: usize) -> Vec<u8> {
    match random.below(4) {
        0 => integer(random).to_string().into_bytes(),
        1 => vec![b'a' + random.below(26) as u8; random.below(len_max + 1)],
        2 => (0..random.below(len_max + 1))
            .map(|_| random.number() as u8)
            .collect(),
        _ => format!("{:x}", random.number() >> random.below(64)).into_bytes(),
    }
}

/// A random integer of any size.
pub fn integer(random: &mut Random) -> i64 {
    let shift = random.below(64);
    random.number().cast_signed() >> shift
}

/// Thresholds at which small values have all forms.
pub fn thresholds(random: &mut Random) -> Thresholds {
    let thresholds = Thresholds::default();
    let mut small = || [0, 1, 5, 100, 512][random.below(5)];
    for threshold in [
        &thresholds.hash_max_listpack_entries,
        &thresholds.hash_max_listpack_value,
        &thresholds.set_max_intset_entries,
        &thresholds.set_max_listpack_entries,
        &thresholds.set_max_listpack_value,
        &thresholds.zset_max_listpack_entries,
        &thresholds.zset_max_listpack_value,
        &thresholds.stream_node_max_bytes,
        &thresholds.stream_node_max_entries,
    ] {
        threshold.store(small(), Relaxed);
    }
    let sizes = [1, 3, 20, 128, -1, -2, -5];
    let size = sizes[random.below(sizes.len())];
    thresholds.list_max_listpack_size.store(size, Relaxed);
    let depth = random.below(3) as u64;
    thresholds.list_compress_depth.store(depth, Relaxed);
    thresholds
}

/// A random entry of any type.
pub fn entry(random: &mut Random, thresholds: &Thresholds) -> Entry {
    let mut key = text(random, 100);
    if random.below(50) == 0 {
        key.resize(300, b'k');
    }
    let deadline_ms = (random.below(2) == 0).then(|| 1 + (random.number() >> 20) as i64);
    let count_max = [1, 5, 50, 400][random.below(4)];
    let count = 1 + random.below(count_max);
    let types = [
        Type::String,
        Type::List,
        Type::Set,
        Type::Hash,
        Type::SortedSet,
        Type::Stream,
    ];
    let of = types[random.below(types.len())];
    if of == Type::String {
        let long_max = [10, 100, 5000, 300_000][random.below(4)];
        let value = text(random, long_max);
        let value = damselfly_value::NewValue::compact(&value);
        let mut entry = Entry::new(&key, value, deadline_ms);
        if random.below(3) == 0 {
            entry.set_attributes(Attributes {
                flags: (random.number() >> random.below(64)) as u32,
                is_stale: random.below(2) == 0,
                is_claimed: random.below(2) == 0,
                ..Attributes::NONE
            });
        }
        return entry;
    }
    let mut entry = Entry::new_collection(&key, of, deadline_ms);
    let integers_only = random.below(3) == 0;
    let len_max = [8, 70, 2000][random.below(3)];
    let has_deadlines = random.below(2) == 0;
    if of == Type::Stream {
        fill_stream(random, &mut entry, thresholds, count);
        return entry;
    }
    for _ in 0..count {
        let member = match integers_only {
            true => integer(random).to_string().into_bytes(),
            false => text(random, len_max),
        };
        match of {
            Type::List => {
                List::edit(&mut entry, thresholds).push(Side::Right, [&member[..]].into_iter());
            }
            Type::Set => {
                Set::edit(&mut entry, thresholds).insert(&member);
            }
            Type::Hash => {
                let value = text(random, len_max);
                let deadline = (has_deadlines && random.below(2) == 0)
                    .then(|| 1 + (random.number() >> 17) as i64);
                let mut hash = Hash::edit(&mut entry, thresholds);
                // Never twice: a hash with a long value stays large when a short one replaces it.
                if hash.view().get(&member).is_none() {
                    hash.set(&member, Element::new(&value), deadline);
                }
            }
            Type::SortedSet => {
                let scores = [
                    0.0,
                    -0.0,
                    1.5,
                    f64::INFINITY,
                    f64::NEG_INFINITY,
                    0.1,
                    1e300,
                    f64::MIN_POSITIVE,
                ];
                let score = match random.below(3) {
                    0 => scores[random.below(scores.len())],
                    1 => integer(random) as f64,
                    _ => integer(random) as f64 / 7.0,
                };
                SortedSet::edit(&mut entry, thresholds).update(&member, |_| Some(score));
            }
            Type::String | Type::Stream => unreachable!("made above"),
        }
    }
    entry
}

fn fill_stream(random: &mut Random, entry: &mut Entry, thresholds: &Thresholds, count: usize) {
    let mut stream = Stream::edit(entry, thresholds);
    let mut id = StreamId::MIN;
    for _ in 0..count {
        id = match random.below(3) {
            0 => StreamId::new(
                id.ms + 1 + (random.number() >> 30),
                random.number() >> random.below(64),
            ),
            _ => id.next().unwrap(),
        };
        let names: [&[u8]; 3] = [b"name", b"other", b"12"];
        let fields = if random.below(3) == 0 {
            1 + random.below(3)
        } else {
            2
        };
        let values: Vec<_> = (0..fields).map(|_| text(random, 30)).collect();
        let pairs = values
            .iter()
            .enumerate()
            .map(|(at, value)| (names[at], &value[..]));
        stream.push(id, pairs);
        if random.below(5) == 0 {
            stream.change().remove(id);
        }
    }
    let stream = stream.change();
    stream.set_history(
        stream.last_id(),
        stream.deleted_max(),
        stream.added() + random.below(5) as u64,
    );
    for name in 0..random.below(3) as u8 {
        let last = StreamId::new(random.number() >> 40, 7);
        let read = (random.below(2) == 0).then(|| random.number() >> 20);
        stream.add_group(&[name], last, read);
        stream.change_group(&[name], |group| {
            for consumer in 0..random.below(3) as u8 {
                let seen_ms = (random.number() >> 20) as i64;
                let consumer = group.add_consumer(&[consumer], seen_ms).unwrap();
                for _ in 0..random.below(200) {
                    let id = StreamId::new(random.number() >> 50, random.number() >> 62);
                    let pending = Pending {
                        consumer,
                        delivered_ms: seen_ms,
                        deliveries: random.number() >> 60,
                    };
                    group.record_delivery(id, pending);
                }
            }
        });
    }
}

/// What an entry holds, whatever its form.
#[derive(Debug, PartialEq)]
pub enum Content {
    Text(Vec<u8>),
    List(Vec<Vec<u8>>),
    Set(BTreeSet<Vec<u8>>),
    Hash(BTreeMap<Vec<u8>, (Vec<u8>, Option<i64>)>),
    /// Ascending; with the bits of the scores.
    SortedSet(Vec<(Vec<u8>, u64)>),
    Stream(Vec<(StreamId, Vec<Vec<u8>>)>, Vec<u64>, Vec<Group>),
}

type Delivery = (StreamId, i64, u64);

/// A group of a stream.
#[derive(Debug, PartialEq)]
pub struct Group {
    name: Vec<u8>,
    last_id: StreamId,
    entries_read: Option<u64>,
    consumers: Vec<(Vec<u8>, i64, Vec<Delivery>)>,
}

/// Key, deadline and content.
pub type Model = (Vec<u8>, Option<i64>, Content);

/// All of an entry. Panics if it is broken, or a look-up disagrees with a walk.
pub fn model(entry: EntryRef<'_>) -> Model {
    let content = match entry.value() {
        Value::Text(Text::Bytes { bytes, .. }) => Content::Text(bytes.to_vec()),
        Value::Text(Text::Integer(number)) => Content::Text(number.to_string().into_bytes()),
        Value::Text(Text::Packed(text)) => Content::Text(text.to_vec()),
        Value::List(list) => {
            if let ListRef::Large(chain) = list {
                chain.check();
            }
            let mut walk = list.walk(0, Side::Left);
            let all: Vec<_> = std::iter::from_fn(|| walk.step().map(Element::to_vec)).collect();
            assert_eq!(all.len(), list.len());
            Content::List(all)
        }
        Value::Set(set) => {
            let mut all = BTreeSet::new();
            set.for_each(|member| assert!(all.insert(member.to_vec())));
            assert_eq!(all.len(), set.len());
            assert!(all.iter().all(|member| set.contains(member)));
            Content::Set(all)
        }
        Value::Hash(hash) => Content::Hash(hash_model(hash)),
        Value::SortedSet(set) => {
            let all: Vec<_> = set
                .iter()
                .map(|scoring| (scoring.member.to_vec(), scoring.score))
                .collect();
            assert_eq!(all.len(), set.len());
            for (rank, (member, score)) in all.iter().enumerate() {
                assert_eq!(set.rank(member), Some((rank, *score)));
            }
            // Zero has no sign where it is stored as an integer.
            let bits = |(member, score): (Vec<u8>, f64)| (member, (score + 0.0).to_bits());
            Content::SortedSet(all.into_iter().map(bits).collect())
        }
        Value::Stream(stream) => stream_model(stream),
    };
    (entry.key().to_vec(), entry.deadline_ms(), content)
}

fn hash_model(hash: HashRef<'_>) -> BTreeMap<Vec<u8>, (Vec<u8>, Option<i64>)> {
    let mut all = BTreeMap::new();
    hash.for_each(|pair| {
        let value = (pair.value.to_vec(), pair.deadline_ms);
        assert!(all.insert(pair.field.to_vec(), value).is_none());
    });
    assert_eq!(all.len(), hash.len());
    for (field, (value, deadline_ms)) in &all {
        let pair = hash.get(field).unwrap();
        assert_eq!(
            (&pair.value.to_vec(), pair.deadline_ms),
            (value, *deadline_ms)
        );
    }
    let soonest = all
        .values()
        .filter_map(|(_, deadline_ms)| *deadline_ms)
        .min();
    assert_eq!(hash.first_deadline_ms(), soonest);
    all
}

fn stream_model(stream: &Stream) -> Content {
    stream.check();
    let walk = stream.walk(StreamId::MIN, StreamId::MAX);
    let pairs = |(name, value): (Element<'_>, Element<'_>)| [name.to_vec(), value.to_vec()];
    let entries: Vec<_> = walk
        .map(|entry| (entry.id, entry.pairs().flat_map(pairs).collect()))
        .collect();
    assert_eq!(entries.len(), stream.len());
    let groups = stream.groups().map(|(name, group)| Group {
        name: name.to_vec(),
        last_id: group.last_id,
        entries_read: group.entries_read,
        consumers: group
            .consumers()
            .map(|(_, consumer)| {
                let delivery = |id: &StreamId| {
                    let pending = group.pending()[id];
                    (*id, pending.delivered_ms, pending.deliveries)
                };
                let pending = consumer.pending().iter().map(delivery).collect();
                (consumer.name().to_vec(), consumer.seen_ms, pending)
            })
            .collect(),
    });
    let (last, deleted) = (stream.last_id(), stream.deleted_max());
    let history = vec![last.ms, last.seq, deleted.ms, deleted.seq, stream.added()];
    Content::Stream(entries, history, groups.collect())
}

/// A file of these entries, written in slices of about `budget` bytes.
pub fn file<'e>(
    entries: impl IntoIterator<Item = &'e Entry>,
    options: WriteOptions,
    with_checksum: bool,
    budget: usize,
) -> Vec<u8> {
    let (mut encoder, mut out) = (Encoder::new(options), Vec::new());
    encoder.header(&mut out);
    encoder.aux(b"redis-ver", b"7.0.15", &mut out);
    encoder.function(b"#!lua name=x", &mut out);
    encoder.select_db(0, &mut out);
    encoder.resize_db(3, 1, &mut out);
    for entry in entries {
        let access = Access {
            idle_seconds: None,
            frequency: Some(7),
        };
        let mut writer = encoder.begin_entry(entry.view(), access, &mut out).unwrap();
        while !writer.write(entry.view().value(), &mut encoder, budget, &mut out) {}
    }
    encoder.end(with_checksum.then(Checksum::new), &mut out);
    out
}

/// All entries of a file, or its first fault: as the reader reads it, and in chunks, which must say the same.
pub fn read(
    bytes: &[u8],
    thresholds: &Thresholds,
    verify_checksum: bool,
) -> Result<Vec<Entry>, RdbError> {
    let options = ReadOptions {
        thresholds,
        verify_checksum,
    };
    let whole = read_whole(bytes, options);
    for entries_max in [usize::MAX, 1] {
        match (&whole, read_chunks(bytes, options, entries_max)) {
            (Ok(whole), Ok(chunks)) => {
                let models = |entries: &[Entry]| -> Vec<(Model, Attributes)> {
                    let views = entries.iter().map(Entry::view);
                    views.map(|view| (model(view), view.attributes())).collect()
                };
                assert_eq!(models(whole), models(&chunks));
            }
            (Err(whole), Err(chunks)) => assert_eq!(whole.to_string(), chunks.to_string()),
            (whole, chunks) => panic!("{whole:?} {chunks:?}"),
        }
    }
    whole
}

fn read_whole(bytes: &[u8], options: ReadOptions<'_>) -> Result<Vec<Entry>, RdbError> {
    let mut reader = Reader::new(bytes, options)?;
    let mut entries = Vec::new();
    loop {
        match reader.next()? {
            Event::Entry(loaded) => entries.push(loaded.entry),
            Event::End => return Ok(entries),
            _ => {}
        }
    }
}

fn read_chunks(
    bytes: &[u8],
    options: ReadOptions<'_>,
    entries_max: usize,
) -> Result<Vec<Entry>, RdbError> {
    let mut splitter = Splitter::new(bytes, options)?;
    splitter.set_entries_max(entries_max);
    let mut entries = Vec::new();
    loop {
        match splitter.next()? {
            Piece::Chunk(chunk) => {
                let buffer = chunk.decode(options.thresholds, |_, event| {
                    if let Event::Entry(loaded) = event {
                        entries.push(loaded.entry);
                    }
                    Ok::<(), RdbError>(())
                })?;
                splitter.recycle([buffer]);
            }
            Piece::Event(Event::Entry(loaded)) => entries.push(loaded.entry),
            Piece::Event(Event::End) => return Ok(entries),
            Piece::Event(_) => {}
        }
    }
}

/// Reads whatever these bytes are; what comes out is whole, and is written and read again alike. For fuzzing.
pub fn read_anything(data: &[u8]) {
    let Some((&choice, bytes)) = data.split_first() else {
        return;
    };
    let thresholds = thresholds(&mut Random::new(u64::from(choice & 7)));
    let Ok(entries) = read(bytes, &thresholds, choice & 8 != 0) else {
        return;
    };
    for entry in &entries {
        again(entry, &thresholds);
    }
}

/// As [`read_anything`], for the value of a DUMP payload.
pub fn restore_anything(data: &[u8]) {
    let Some((&choice, value)) = data.split_first() else {
        return;
    };
    let thresholds = thresholds(&mut Random::new(u64::from(choice & 7)));
    let version: u16 = if choice & 8 == 0 { 12 } else { 80 };
    let mut payload = value.to_vec();
    payload.extend_from_slice(&version.to_le_bytes());
    payload.extend_from_slice(&Checksum::of(&payload).to_le_bytes());
    if let Ok(entry) = restore(b"key", &payload, None, &thresholds) {
        again(&entry, &thresholds);
    }
}

fn again(entry: &Entry, thresholds: &Thresholds) {
    let (key, deadline_ms, content) = model(entry.view());
    let payload = dump(entry.view(), true);
    let copy = restore(&key, &payload, deadline_ms, thresholds).unwrap();
    assert_eq!(model(copy.view()), (key, deadline_ms, content));
}
