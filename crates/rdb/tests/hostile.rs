//! Broken files: cut at every offset, with a wrong byte at every offset, with lengths that lie.

mod common;

use std::io::{self, Read};

use common::old::{
    OldFile, intset, length, listpack, stream, string, strings, text_score, ziplist, zipmap,
};
use common::{Model, entry, file, model, read, thresholds};
use damselfly_base::random::Random;
use damselfly_rdb::{Fault, RdbError, WriteOptions, dump, restore};
use damselfly_value::{Entry, Thresholds};

/// Small files that together have all encodings.
fn files() -> Vec<Vec<u8>> {
    let mut random = Random::for_test();
    let mut files = Vec::new();
    for (version, compress) in [(10, false), (10, true), (12, true), (80, false)] {
        let mut entries = Vec::new();
        for _ in 0..10 {
            let thresholds = thresholds(&mut random);
            // Small ones, so that a test of every offset ends soon.
            let small = std::iter::repeat_with(|| entry(&mut random, &thresholds));
            let mut small = small.filter(|entry| dump(entry.view(), false).len() < 300);
            entries.push(small.next().expect("there are small ones"));
        }
        let fits = |entry: &&Entry| damselfly_rdb::version_needed(entry.view()) <= version;
        let options = WriteOptions { version, compress };
        files.push(file(entries.iter().filter(fits), options, true, usize::MAX));
    }
    let texts = ["a", "12", "b", "-70000"];
    let score = [length(1), string(b"m"), text_score("1.5")].concat();
    let old = OldFile::new(9)
        .raw(&[254, 0, 251, 1, 0, 253, 1, 2, 3, 4])
        .entry(1, "list", &strings(4, &texts))
        .entry(10, "ziplist", &ziplist(&texts))
        .entry(
            14,
            "quicklist",
            &[length(2), ziplist(&texts), ziplist(&["x"])].concat(),
        )
        .entry(3, "text scores", &score)
        .entry(12, "zset ziplist", &ziplist(&["a", "1", "b", "1.5"]))
        .entry(9, "zipmap", &zipmap(&texts))
        .entry(13, "hash ziplist", &ziplist(&texts))
        .entry(11, "intset", &intset(4, &[-5, 70_000]))
        .entry(15, "stream", &stream(1));
    files.push(old.end());
    let new = OldFile::new(13)
        .entry(20, "set", &listpack(&texts))
        .entry(23, "timed", &listpack(&["f", "v", "5000"]))
        .entry(21, "stream 3", &stream(3))
        .entry(27, "stream 5", &stream(5));
    files.push(new.end());
    files
}

fn models(bytes: &[u8], verify: bool) -> Result<Vec<Model>, RdbError> {
    let entries = read(bytes, &Thresholds::default(), verify)?;
    Ok(entries.iter().map(|entry| model(entry.view())).collect())
}

#[test]
fn a_file_that_is_cut_anywhere_is_truncated() {
    for bytes in files() {
        assert!(models(&bytes, true).is_ok());
        for end in 0..bytes.len() {
            for verify in [true, false] {
                let error = models(&bytes[..end], verify).expect_err("it is cut");
                assert!(matches!(error.fault, Fault::Truncated), "at {end}: {error}");
                assert!(error.offset <= end as u64, "at {end}: {error}");
            }
        }
    }
}

#[test]
fn a_wrong_byte_anywhere_is_found() {
    let mut random = Random::for_test();
    for mut bytes in files() {
        for at in 0..bytes.len() {
            for change in [0x01, 0x80, 0xff, 1 + random.below(254) as u8] {
                bytes[at] ^= change;
                let checked = models(&bytes, true);
                assert!(checked.is_err(), "byte {at} was changed by {change}");
                // Without the checksum it may pass; what comes out is whole then.
                let _ = models(&bytes, false);
                bytes[at] ^= change;
            }
        }
    }
}

#[test]
fn a_wrong_byte_in_a_payload_that_has_the_right_checksum_does_no_harm() {
    let mut random = Random::for_test();
    let mut whole = 0;
    for _ in 0..500 {
        let thresholds = thresholds(&mut random);
        let entry = entry(&mut random, &thresholds);
        let payload = dump(entry.view(), random.below(4) == 0);
        let value = &payload[..payload.len() - 10];
        if value.len() > 1000 {
            continue;
        }
        for _ in 0..100 {
            let mut value = value.to_vec();
            for _ in 0..1 + random.below(3) {
                let at = random.below(value.len());
                value[at] ^= 1 << random.below(8);
            }
            let mut data = vec![random.below(8) as u8];
            data.extend_from_slice(&value);
            common::restore_anything(&data);
            whole += 1;
        }
    }
    assert!(whole > 0);
}

#[test]
fn a_payload_is_refused_for_its_version_its_checksum_and_its_end() {
    let entry = Entry::new(b"key", damselfly_value::NewValue::Bytes(b"value"), None);
    let payload = dump(entry.view(), false);
    let thresholds = Thresholds::default();
    let refused = |payload: &[u8]| {
        restore(b"key", payload, None, &thresholds)
            .unwrap_err()
            .fault
    };
    assert!(restore(b"key", &payload, None, &thresholds).is_ok());
    for end in 0..payload.len() {
        let fault = refused(&payload[..end]);
        match end {
            0..10 => assert!(matches!(fault, Fault::NoFooter), "{fault}"),
            _ => assert!(
                matches!(fault, Fault::Version(_) | Fault::Checksum { .. }),
                "{fault}"
            ),
        }
    }
    let with_footer = |value: &[u8], version: u16| {
        let mut payload = [value, &version.to_le_bytes()].concat();
        let checksum = damselfly_rdb::Checksum::of(&payload);
        payload.extend_from_slice(&checksum.to_le_bytes());
        payload
    };
    assert!(matches!(
        refused(&with_footer(b"\0\x01a", 0)),
        Fault::Version(0)
    ));
    assert!(matches!(
        refused(&with_footer(b"\0\x01a", 17)),
        Fault::Version(17)
    ));
    assert!(matches!(
        refused(&with_footer(b"\0\x01ab", 10)),
        Fault::Trailing
    ));
    assert!(matches!(
        refused(&with_footer(b"\0\x02a", 10)),
        Fault::Truncated
    ));
    assert!(matches!(refused(&with_footer(b"\x02\0", 10)), Fault::Empty));
    assert!(matches!(refused(&with_footer(b"", 10)), Fault::Truncated));
}

/// The most memory that the process has ever had resident, in bytes.
fn peak_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = line.unwrap().trim().trim_end_matches(" kB");
    kibibytes.parse::<u64>().unwrap() * 1024
}

#[test]
fn a_length_that_lies_takes_no_memory() {
    // More than a few buffers, far less than what is announced. Other tests of this file run meanwhile.
    const GROWTH_MAX: u64 = 200 << 20;
    let (large, huge) = (length(4_000_000_000), length(1 << 62));
    let lzf = [&[0xc3][..], &length(20), &large, &[0; 20]].concat();
    let before = peak_bytes();
    for announced in [&large, &huge] {
        for kind in [1, 2, 3, 4, 5, 14, 15, 18, 19, 22] {
            for value in [
                announced.clone(),
                [announced.clone(), string(b"a")].concat(),
            ] {
                let bytes = OldFile::new(12).entry(kind, "key", &value).bytes;
                assert!(models(&bytes, true).is_err());
            }
        }
        for kind in [0, 9, 10, 11, 12, 13, 16, 17, 20, 23] {
            let bytes = OldFile::new(12).entry(kind, "key", announced).bytes;
            assert!(models(&bytes, true).is_err());
        }
    }
    let error = models(&OldFile::new(12).entry(0, "key", &lzf).bytes, true).unwrap_err();
    assert!(matches!(error.fault, Fault::BadCompression), "{error}");
    assert!(
        peak_bytes() - before < GROWTH_MAX,
        "{} bytes",
        peak_bytes() - before
    );
}

/// Gives bytes one by one, and fails or is interrupted now and then.
struct Trickle<'a> {
    bytes: &'a [u8],
    reads: usize,
    fails_at: usize,
}

impl Read for Trickle<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        if self.reads.is_multiple_of(3) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if self.reads > self.fails_at {
            return Err(io::Error::other("the disk is gone"));
        }
        let len = self.bytes.len().min(1).min(into.len());
        into[..len].copy_from_slice(&self.bytes[..len]);
        self.bytes = &self.bytes[len..];
        Ok(len)
    }
}

#[test]
fn a_source_may_give_bytes_one_by_one_and_its_errors_are_passed_on() {
    for bytes in files() {
        let thresholds = Thresholds::default();
        let options = damselfly_rdb::ReadOptions {
            thresholds: &thresholds,
            verify_checksum: true,
        };
        let read_all = |fails_at| -> Result<usize, RdbError> {
            let source = Trickle {
                bytes: &bytes,
                reads: 0,
                fails_at,
            };
            let mut reader = damselfly_rdb::Reader::new(source, options)?;
            let mut count = 0;
            loop {
                match reader.next()? {
                    damselfly_rdb::Event::Entry(_) => count += 1,
                    damselfly_rdb::Event::End => return Ok(count),
                    _ => {}
                }
            }
        };
        assert_eq!(
            read_all(usize::MAX).unwrap(),
            models(&bytes, true).unwrap().len()
        );
        for fails_at in [0, 10, bytes.len() / 2] {
            let error = read_all(fails_at).unwrap_err();
            assert!(matches!(error.fault, Fault::Io(_)), "{error}");
        }
    }
}
