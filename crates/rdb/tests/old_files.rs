//! Encodings that old versions of Redis wrote, or newer ones and Valkey write, made by small writers of our own.

mod common;

use std::sync::atomic::Ordering::Relaxed;

use common::old::{
    OldFile, intset, length, listpack, raw_ziplist, stream, string, strings, text_score, ziplist,
    zipmap,
};
use common::{Content, Model, model};
use damselfly_rdb::{Event, Fault, RdbError, ReadOptions, Reader};
use damselfly_value::{StreamId, Thresholds};

/// Reads a file with thresholds under which small collections stay packed, and under which they do not; both must say the same.
fn read(bytes: &[u8]) -> Result<Vec<Model>, RdbError> {
    let (packed, large) = (Thresholds::default(), Thresholds::default());
    for threshold in [
        &large.hash_max_listpack_entries,
        &large.set_max_intset_entries,
        &large.set_max_listpack_entries,
        &large.zset_max_listpack_entries,
    ] {
        threshold.store(1, Relaxed);
    }
    large.list_max_listpack_size.store(1, Relaxed);
    let [packed, large] = [packed, large].map(|thresholds| -> Result<_, RdbError> {
        let entries = common::read(bytes, &thresholds, true)?;
        Ok(entries
            .iter()
            .map(|entry| model(entry.view()))
            .collect::<Vec<_>>())
    });
    match (packed, large) {
        (Ok(packed), Ok(large)) => {
            assert_eq!(packed, large);
            Ok(packed)
        }
        (Err(error), Err(other)) => {
            assert_eq!(error.to_string(), other.to_string());
            Err(error)
        }
        (packed, large) => panic!("{packed:?} {large:?}"),
    }
}

fn one(kind: u8, value: &[u8]) -> Content {
    one_of(9, kind, value)
}

fn one_of(version: u32, kind: u8, value: &[u8]) -> Content {
    let file = OldFile::new(version).entry(kind, "key", value).end();
    let mut models = read(&file).unwrap_or_else(|error| panic!("{error}"));
    let (key, deadline_ms, content) = models.pop().expect("an entry");
    assert_eq!(
        (&key[..], deadline_ms, models.len()),
        (&b"key"[..], None, 0)
    );
    content
}

fn fault(kind: u8, value: &[u8]) -> Fault {
    let file = OldFile::new(12).entry(kind, "key", value).end();
    let error = read(&file).unwrap_err();
    assert_eq!(error.key.as_deref(), Some(&b"key"[..]), "{error}");
    error.fault
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn list(all: &[&str]) -> Content {
    Content::List(texts(all))
}

fn set(all: &[&str]) -> Content {
    Content::Set(texts(all).into_iter().collect())
}

fn hash(all: &[(&str, &str, Option<i64>)]) -> Content {
    let pair = |(field, value, deadline): &(&str, &str, _)| {
        (
            field.as_bytes().to_vec(),
            (value.as_bytes().to_vec(), *deadline),
        )
    };
    Content::Hash(all.iter().map(pair).collect())
}

fn sorted_set(all: &[(&str, f64)]) -> Content {
    let member = |(member, score): &(&str, f64)| (member.as_bytes().to_vec(), score.to_bits());
    Content::SortedSet(all.iter().map(member).collect())
}

/// Elements of all encodings of a ziplist.
fn all_encodings() -> Vec<String> {
    let mut all: Vec<String> = [
        0,
        1,
        12,
        13,
        -1,
        127,
        128,
        -129,
        32767,
        32768,
        -32769,
        8388607,
        8388608,
        -8388609,
        i64::from(i32::MAX),
        i64::MIN,
        i64::MAX,
    ]
    .map(|number| number.to_string())
    .into();
    all.extend([0, 1, 63, 64, 253, 254, 16383, 16384, 70_000].map(|len| "t".repeat(len)));
    all.push("after a long one".into());
    all
}

#[test]
fn lists_of_all_times() {
    let all = all_encodings();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    assert_eq!(one(10, &ziplist(&all)), list(&all));
    assert_eq!(one(1, &strings(all.len() as u64, &all)), list(&all));
    let (left, right) = all.split_at(9);
    let nodes = [length(2), ziplist(left), ziplist(right)].concat();
    assert_eq!(one(14, &nodes), list(&all));
    let (left, right) = (listpack(left), listpack(right));
    let nodes = [
        length(3),
        length(2),
        left,
        length(1),
        string(b"plain"),
        length(2),
        right,
    ]
    .concat();
    let mut with_plain = all.clone();
    with_plain.insert(9, "plain");
    assert_eq!(one(18, &nodes), list(&with_plain));
}

#[test]
fn sets_of_all_times() {
    assert_eq!(one(2, &strings(3, &["a", "1", "b"])), set(&["a", "b", "1"]));
    assert_eq!(
        one(2, &strings(3, &["3", "-1", "70000"])),
        set(&["3", "-1", "70000"])
    );
    assert_eq!(one(11, &intset(2, &[-5, 0, 5])), set(&["-5", "0", "5"]));
    // An intset whose integers have become smaller keeps its width.
    assert_eq!(one(11, &intset(8, &[-5, 0, 5])), set(&["-5", "0", "5"]));
    assert_eq!(one(11, &intset(4, &[-100_000, 7])), set(&["-100000", "7"]));
    assert_eq!(one(20, &listpack(&["a", "7", "b"])), set(&["a", "b", "7"]));
}

#[test]
fn hashes_of_all_times() {
    let long = "x".repeat(300);
    let pairs = ["a", "1", "b", &long, "3", ""];
    let expected = hash(&[("a", "1", None), ("b", &long, None), ("3", "", None)]);
    assert_eq!(one(4, &strings(3, &pairs)), expected);
    assert_eq!(one(9, &zipmap(&pairs)), expected);
    assert_eq!(one(13, &ziplist(&pairs)), expected);
    assert_eq!(one(16, &listpack(&pairs)), expected);
}

#[test]
fn hashes_with_deadlines_of_redis_and_valkey() {
    let expected = hash(&[
        ("a", "1", Some(5000)),
        ("b", "2", None),
        ("c", "3", Some(7000)),
    ]);
    let fields = |deadlines: [u64; 3]| {
        let pairs = [["a", "1"], ["b", "2"], ["c", "3"]];
        let field = |(pair, deadline): ([&str; 2], u64)| {
            [
                length(deadline),
                string(pair[0].as_bytes()),
                string(pair[1].as_bytes()),
            ]
            .concat()
        };
        let fields: Vec<_> = pairs.into_iter().zip(deadlines).map(field).collect();
        [length(3), fields.concat()].concat()
    };
    let soonest = 5000_u64.to_le_bytes().to_vec();
    assert_eq!(
        one_of(12, 24, &[soonest.clone(), fields([1, 0, 2001])].concat()),
        expected
    );
    assert_eq!(one_of(12, 22, &fields([5000, 0, 7000])), expected);
    let triples = listpack(&["a", "1", "5000", "c", "3", "7000", "b", "2", "0"]);
    assert_eq!(
        one_of(12, 25, &[soonest, triples.clone()].concat()),
        expected
    );
    assert_eq!(one_of(12, 23, &triples), expected);
    let field = |field: &str, value: &str, deadline: i64| {
        [
            string(field.as_bytes()),
            string(value.as_bytes()),
            deadline.to_le_bytes().to_vec(),
        ]
        .concat()
    };
    let fields = [
        length(3),
        field("a", "1", 5000),
        field("b", "2", -1),
        field("c", "3", 7000),
    ]
    .concat();
    assert_eq!(one_of(80, 22, &fields), expected);
    let late = [length(1), length(1 << 50), string(b"f"), string(b"v")].concat();
    assert!(matches!(fault(22, &late), Fault::BadDeadline));
}

#[test]
fn sorted_sets_of_all_times() {
    let expected = sorted_set(&[
        ("low", f64::NEG_INFINITY),
        ("7", 1.0),
        ("a", 1.5),
        ("b", 1.5),
        ("high", f64::INFINITY),
    ]);
    let members = [
        ("b", "1.5"),
        ("low", "-inf"),
        ("high", "inf"),
        ("7", "1"),
        ("a", "1.5"),
    ];
    let text =
        members.map(|(member, score)| [string(member.as_bytes()), text_score(score)].concat());
    assert_eq!(one(3, &[length(5), text.concat()].concat()), expected);
    let binary = members.map(|(member, score)| {
        let score: f64 = score.parse().unwrap();
        [string(member.as_bytes()), score.to_le_bytes().to_vec()].concat()
    });
    assert_eq!(one(5, &[length(5), binary.concat()].concat()), expected);
    let ordered = [
        "low", "-inf", "7", "1", "a", "1.5", "b", "1.5", "high", "inf",
    ];
    assert_eq!(one(12, &ziplist(&ordered)), expected);
    assert_eq!(one(17, &listpack(&ordered)), expected);
    // Out of order: it is sorted.
    let disordered = [
        "high", "inf", "b", "1.5", "a", "1.5", "7", "1", "low", "-inf",
    ];
    assert_eq!(one(12, &ziplist(&disordered)), expected);
    assert_eq!(one(17, &listpack(&disordered)), expected);
}

#[test]
fn streams_of_all_times() {
    for (of, kind) in [(1, 15), (2, 19), (3, 21), (4, 26), (5, 27)] {
        let Content::Stream(entries, history, groups) = one_of(13, kind, &stream(of)) else {
            panic!("no stream");
        };
        let expected = [
            (StreamId::new(5, 1), texts(&["a", "1", "b", "two"])),
            (StreamId::new(6, 0), texts(&["other", "x"])),
        ];
        assert_eq!(entries, expected);
        let expected = if of == 1 {
            [6, 0, 0, 0, 2]
        } else {
            [6, 0, 5, 2, 3]
        };
        assert_eq!(history, expected);
        let groups = format!("{groups:?}");
        assert!(groups.contains("entries_read: Some(1)"), "{groups}");
        assert!(
            groups.contains("(StreamId { ms: 5, seq: 1 }, 1000, 2)"),
            "{groups}"
        );
    }
}

#[test]
fn old_opcodes_and_versions() {
    for version in 1..=16 {
        let mut file = OldFile::new(version)
            .raw(&[254, 2])
            .raw(&[253])
            .raw(&1_700_000_000_u32.to_le_bytes())
            .entry(0, "seconds", &string(b"1"));
        file = file.raw(&[252]).raw(&1_700_000_000_123_u64.to_le_bytes());
        let file = file.entry(0, "milliseconds", &[0xc1, 0x39, 0x30]).end();
        let models = read(&file).unwrap();
        let expected = [
            (
                b"seconds".to_vec(),
                Some(1_700_000_000_000),
                Content::Text(b"1".to_vec()),
            ),
            (
                b"milliseconds".to_vec(),
                Some(1_700_000_000_123),
                Content::Text(b"12345".to_vec()),
            ),
        ];
        assert_eq!(models, expected);
    }
    let lengths = [
        length(7),
        [0x81, 0, 0, 0, 0, 0, 0, 0, 9].to_vec(),
        length(70_000),
    ]
    .concat();
    let file = OldFile::new(13)
        .raw(&[244])
        .raw(&lengths)
        .raw(&[248, 5, 249, 6]);
    let file = file.entry(0, "key", &[0xc0, 0xff]).end();
    assert_eq!(read(&file).unwrap()[0].2, Content::Text(b"-1".to_vec()));
}

#[test]
fn what_cannot_be_loaded_is_named() {
    let cases: [(OldFile, &str); 9] = [
        (
            OldFile::new(10).raw(&[246]),
            "at offset 9: functions in the format of a Redis 7.0 release candidate are not supported",
        ),
        (
            OldFile::new(10).entry(
                7,
                "key",
                &[0x81, 0x81, 0x97, 0x89, 0x38, 0xf8, 0xd1, 0x17, 0x90, 0],
            ),
            ", key \"key\": data of the module type \"",
        ),
        (
            OldFile::new(13).raw(&[243, 1]),
            "a key with metadata of a module cannot be loaded",
        ),
        (
            OldFile::new(80).raw(&[243, 1]),
            "a file written while a cluster slot was being imported cannot be loaded",
        ),
        (
            OldFile::new(16).entry(28, "key", &[]),
            "an array of Redis 8 cannot be loaded",
        ),
        (
            OldFile::new(10).entry(8, "key", &[]),
            "unknown type or opcode 8",
        ),
        (OldFile::new(10).raw(&[200]), "unknown type or opcode 200"),
        (OldFile::new(17), "RDB version 17 is not supported"),
        (OldFile::new(82), "RDB version 82 is not supported"),
    ];
    for (file, expected) in cases {
        let error = read(&file.end()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    for bytes in [&b"REDIS00x1"[..], b"MYRDB0010", b"redis0010"] {
        assert!(matches!(read(bytes).unwrap_err().fault, Fault::NotRdb));
    }
    assert!(matches!(
        read(b"REDIS00").unwrap_err().fault,
        Fault::Truncated
    ));
}

#[test]
fn data_of_modules_beside_the_keys_is_passed_over_and_named() {
    // The id, when it was written, then one value of each kind, and the end.
    let value = [
        &[
            0x81, 0, 0, 0, 0, 0, 0, 4, 0, 2, 2, 1, 5, 3, 1, 2, 3, 4, 4, 1, 2, 3, 4, 5, 6, 7, 8, 5,
        ][..],
        &string(b"text"),
        &[0],
    ]
    .concat();
    let file = OldFile::new(10).raw(&[247]).raw(&value);
    let file = file.entry(0, "key", &string(b"value")).end();
    let thresholds = Thresholds::default();
    let options = ReadOptions {
        thresholds: &thresholds,
        verify_checksum: true,
    };
    let mut reader = Reader::new(&file[..], options).unwrap();
    assert!(matches!(reader.next().unwrap(), Event::ModuleAux { name } if name == "AAAAAAAAB"));
    assert!(matches!(reader.next().unwrap(), Event::Entry(_)));
}

#[test]
fn an_empty_collection_is_no_key() {
    let cases: [(u8, Vec<u8>); 9] = [
        (1, length(0)),
        (2, length(0)),
        (4, length(0)),
        (5, length(0)),
        (10, ziplist(&[])),
        (11, intset(2, &[])),
        (13, ziplist(&[])),
        (17, listpack(&[])),
        (18, [length(1), length(2), listpack(&[])].concat()),
    ];
    for (kind, value) in cases {
        let file = OldFile::new(10).entry(kind, "key", &value).end();
        let thresholds = Thresholds::default();
        let options = ReadOptions {
            thresholds: &thresholds,
            verify_checksum: true,
        };
        let mut reader = Reader::new(&file[..], options).unwrap();
        assert!(
            matches!(reader.next().unwrap(), Event::Empty { key } if key == b"key"),
            "{kind}"
        );
        assert!(matches!(reader.next().unwrap(), Event::End));
    }
}

#[test]
fn contradictions_are_faults() {
    let many: Vec<String> = (0..40).map(|number| number.to_string()).collect();
    let mut twice: Vec<&str> = many.iter().map(String::as_str).collect();
    twice.push("7");
    let pair = |member: &str, score: f64| {
        [string(member.as_bytes()), score.to_le_bytes().to_vec()].concat()
    };
    let duplicates: [(u8, Vec<u8>); 13] = [
        (2, strings(2, &["a", "a"])),
        (2, strings(2, &["5", "5"])),
        (2, strings(twice.len() as u64, &twice)),
        (20, listpack(&["a", "b", "a"])),
        (20, listpack(&twice)),
        (4, strings(2, &["f", "1", "f", "2"])),
        (9, zipmap(&["f", "1", "f", "2"])),
        (13, ziplist(&["f", "1", "f", "2"])),
        (16, listpack(&["7", "1", "7", "2"])),
        (23, listpack(&["f", "1", "0", "f", "2", "0"])),
        (17, listpack(&["a", "1", "a", "2"])),
        (5, [length(2), pair("a", 1.0), pair("a", 2.0)].concat()),
        (5, [length(2), pair("a", 1.0), pair("a", 1.0)].concat()),
    ];
    for (kind, value) in duplicates {
        assert!(
            matches!(fault(kind, &value), Fault::Duplicate(_)),
            "{kind} {:?}",
            fault(kind, &value)
        );
    }
    // A text of digits is the same as the integer.
    let mut bytes = vec![12, 0, 0, 0, 2, 0];
    bytes.extend_from_slice(b"\x815\x02\x05\x01\xff");
    assert!(matches!(fault(20, &string(&bytes)), Fault::Duplicate(_)));
    let scores: [(u8, Vec<u8>); 4] = [
        (5, [length(1), pair("a", f64::NAN)].concat()),
        (3, [length(1), string(b"a"), text_score("nan")].concat()),
        (17, listpack(&["a", "nan"])),
        (12, ziplist(&["a", "one"])),
    ];
    for (kind, value) in scores {
        assert!(matches!(fault(kind, &value), Fault::BadScore), "{kind}");
    }
    let mut unsorted = raw_ziplist(&["a", "b"]);
    unsorted[10] = 1;
    let packed: [(u8, Vec<u8>); 9] = [
        (11, intset(2, &[2, 1])),
        (11, intset(2, &[1, 1])),
        (11, intset(3, &[])),
        (10, string(&unsorted)),
        (16, listpack(&["f"])),
        (17, listpack(&["a"])),
        (23, listpack(&["a", "b"])),
        (18, [length(1), length(3), string(b"x")].concat()),
        (16, string(b"")),
    ];
    for (kind, value) in packed {
        assert!(
            matches!(fault(kind, &value), Fault::Packed { .. }),
            "{kind} {:?}",
            fault(kind, &value)
        );
    }
}
