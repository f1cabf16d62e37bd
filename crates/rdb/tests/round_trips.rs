//! What was written is read: every type in every form, in every version, in slices of any size.

mod common;

use common::{entry, file, model, read, thresholds};
use damselfly_base::random::Random;
use damselfly_rdb::{
    Access, Checksum, Encoder, Event, NeedsVersion, ReadOptions, Reader,
    VERSION_WITH_FIELD_DEADLINES, VERSION_WRITTEN, WriteOptions, check, dump, restore,
    version_needed,
};
use damselfly_value::{
    Collection, Element, Entry, Hash, List, NewValue, Set, Side, SortedSet, Thresholds, Type,
};

#[test]
fn entries_of_any_form_come_back_from_files_of_any_version() {
    let mut random = Random::for_test();
    for round in 0..150 {
        let (written_with, read_with) = (thresholds(&mut random), thresholds(&mut random));
        let entries: Vec<Entry> = (0..20).map(|_| entry(&mut random, &written_with)).collect();
        let version = [10, 11, 12, 80][round % 4];
        let fits = |entry: &&Entry| version_needed(entry.view()) <= version;
        let entries: Vec<&Entry> = entries.iter().filter(fits).collect();
        let options = WriteOptions {
            version,
            compress: random.below(2) == 0,
        };
        let budget = [usize::MAX, 1, 100, 10_000][random.below(4)];
        let bytes = file(entries.iter().copied(), options, true, budget);
        let again = read(&bytes, &read_with, true).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(again.len(), entries.len());
        for (again, entry) in again.iter().zip(&entries) {
            assert_eq!(model(again.view()), model(entry.view()));
            assert_eq!(again.view().attributes(), entry.view().attributes());
        }
        let report = check(&bytes[..]);
        assert!(report.fault.is_none(), "{report}");
        assert_eq!(report.entries(), entries.len() as u64);
    }
}

#[test]
fn entries_of_any_form_come_back_from_payloads() {
    let mut random = Random::for_test();
    for _ in 0..1500 {
        let (written_with, read_with) = (thresholds(&mut random), thresholds(&mut random));
        let entry = entry(&mut random, &written_with);
        let (key, deadline_ms, content) = model(entry.view());
        let payload = dump(entry.view(), random.below(2) == 0);
        let again = restore(&key, &payload, deadline_ms, &read_with);
        let again = again.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(model(again.view()), (key, deadline_ms, content));
    }
}

#[test]
fn an_entry_read_with_the_same_options_has_the_same_form() {
    let mut random = Random::for_test();
    let mut compared = 0;
    for _ in 0..500 {
        let thresholds = Thresholds::default();
        let entry = entry(&mut random, &thresholds);
        let payload = dump(entry.view(), true);
        let again = restore(entry.view().key(), &payload, None, &thresholds).unwrap();
        if entry.view().type_of() != Type::Stream {
            assert_eq!(again.view().is_large(), entry.view().is_large());
            compared += 1;
        }
    }
    assert!(compared > 100);
}

#[test]
fn a_hash_with_deadlines_needs_a_newer_version() {
    let thresholds = Thresholds::default();
    let mut entry = Entry::new_collection(b"key", Type::Hash, None);
    Hash::edit(&mut entry, &thresholds).set(b"field", Element::new(b"value"), Some(1000));
    assert_eq!(version_needed(entry.view()), VERSION_WITH_FIELD_DEADLINES);
    let options = WriteOptions {
        version: VERSION_WRITTEN,
        compress: true,
    };
    let mut out = Vec::new();
    let refused = Encoder::new(options).entry(entry.view(), Access::default(), &mut out);
    assert_eq!(refused, Err(NeedsVersion(VERSION_WITH_FIELD_DEADLINES)));
    assert!(out.is_empty());
    Hash::edit(&mut entry, &thresholds).set_deadline_ms(b"field", None);
    assert_eq!(version_needed(entry.view()), VERSION_WRITTEN);
    let again = restore(b"key", &dump(entry.view(), true), None, &thresholds).unwrap();
    assert_eq!(model(again.view()), model(entry.view()));
}

#[test]
fn large_values_are_written_in_slices_of_about_the_budget() {
    const BUDGET: usize = 20_000;
    /// The largest part that is not cut: a node of a list.
    const PART: usize = 9000;
    let thresholds = Thresholds::default();
    let mut entries = Vec::new();
    let mut random = Random::for_test();
    let noise: Vec<u8> = (0..1_000_000).map(|_| random.number() as u8).collect();
    for text in [&noise, &b"a text that repeats; ".repeat(50_000)] {
        entries.push(Entry::new(b"key", NewValue::Bytes(text), None));
    }
    for of in [Type::List, Type::Set, Type::Hash, Type::SortedSet] {
        let mut entry = Entry::new_collection(b"key", of, None);
        for number in 0..20_000_u32 {
            let text = format!("member {number}");
            let text = text.as_bytes();
            match of {
                Type::List => {
                    List::edit(&mut entry, &thresholds).push(Side::Left, [text].into_iter());
                }
                Type::Set => drop(Set::edit(&mut entry, &thresholds).insert(text)),
                Type::Hash => {
                    let value = Element::Integer(number.into());
                    Hash::edit(&mut entry, &thresholds).set(text, value, None);
                }
                _ => {
                    SortedSet::edit(&mut entry, &thresholds).update(text, |_| Some(1.0));
                }
            }
        }
        entries.push(entry);
    }
    for entry in &entries {
        for compress in [false, true] {
            let options = WriteOptions {
                version: VERSION_WRITTEN,
                compress,
            };
            let (mut encoder, mut slices) = (Encoder::new(options), 0);
            let mut all = Vec::new();
            encoder.header(&mut all);
            let access = Access::default();
            let mut writer = encoder.begin_entry(entry.view(), access, &mut all).unwrap();
            loop {
                let mut slice = Vec::new();
                let is_done = writer.write(entry.view().value(), &mut encoder, BUDGET, &mut slice);
                assert!(slice.len() <= BUDGET + PART, "{}", slice.len());
                all.extend_from_slice(&slice);
                slices += 1;
                if is_done {
                    break;
                }
            }
            assert!(slices >= 5, "{slices} of {} bytes", all.len());
            encoder.end(Some(Checksum::new()), &mut all);
            let again = read(&all, &thresholds, true).unwrap();
            assert_eq!(model(again[0].view()), model(entry.view()));
        }
    }
}

#[test]
fn strings_are_compressed_again_soon_after_many_that_could_not_be() {
    let mut random = Random::for_test();
    let options = WriteOptions {
        version: VERSION_WRITTEN,
        compress: true,
    };
    let mut encoder = Encoder::new(options);
    let mut bytes_of = |text: &[u8]| {
        let mut out = Vec::new();
        let entry = Entry::new(b"key", NewValue::Bytes(text), None);
        encoder
            .entry(entry.view(), Access::default(), &mut out)
            .unwrap();
        out.len()
    };
    for _ in 0..1000 {
        let noise: Vec<u8> = (0..700).map(|_| random.number() as u8).collect();
        assert!(bytes_of(&noise) >= noise.len());
    }
    // Strings of other lengths are judged by themselves.
    assert!(bytes_of(&[b'x'; 300]) < 50);
    let sizes: Vec<_> = (0..100).map(|_| bytes_of(&[b'x'; 600])).collect();
    let first = sizes.iter().position(|size| *size < 50).unwrap();
    assert!(first < 16, "{first}");
    assert!(sizes[first..].iter().all(|size| *size < 50), "{sizes:?}");
}

#[test]
fn the_parts_of_a_file_come_as_events() {
    let thresholds = Thresholds::default();
    let (mut out, options) = (
        Vec::new(),
        WriteOptions {
            version: 10,
            compress: true,
        },
    );
    let mut encoder = Encoder::new(options);
    encoder.header(&mut out);
    encoder.aux(b"ctime", b"1700000000", &mut out);
    encoder.function(b"#!lua name=x\n", &mut out);
    encoder.select_db(300, &mut out);
    encoder.resize_db(70_000, 5_000_000_000, &mut out);
    let entry = Entry::new(b"key", NewValue::Integer(5), Some(77));
    let access = Access {
        idle_seconds: Some(1000),
        frequency: Some(200),
    };
    encoder.entry(entry.view(), access, &mut out).unwrap();
    // The checksum of what was written before, as when a file is written piece by piece.
    let mut checksum = Checksum::new();
    checksum.add(&out);
    let mut end = Vec::new();
    encoder.end(Some(checksum), &mut end);
    out.extend_from_slice(&end);
    out.extend_from_slice(b"trailing");
    let options = ReadOptions {
        thresholds: &thresholds,
        verify_checksum: true,
    };
    let mut reader = Reader::new(&out[..], options).unwrap();
    assert_eq!(reader.version(), 10);
    assert!(
        matches!(reader.next().unwrap(), Event::Aux { name, value } if name == b"ctime" && value == b"1700000000")
    );
    assert!(matches!(reader.next().unwrap(), Event::Function(code) if code == b"#!lua name=x\n"));
    assert!(matches!(reader.next().unwrap(), Event::SelectDb(300)));
    assert!(matches!(
        reader.next().unwrap(),
        Event::ResizeDb {
            keys: 70_000,
            deadlines: 5_000_000_000
        }
    ));
    let Event::Entry(loaded) = reader.next().unwrap() else {
        panic!("no entry");
    };
    assert_eq!(loaded.frequency, Some(200));
    assert_eq!(loaded.idle_seconds, Some(1000));
    assert_eq!(loaded.entry.view().deadline_ms(), Some(77));
    assert!(matches!(reader.next().unwrap(), Event::End));
    assert!(matches!(reader.next().unwrap(), Event::End));
    assert!(!reader.is_at_end().unwrap());
    assert_eq!(check(&out[..]).trailing_bytes, 8);
}
