//! Payloads for RESTORE: values of every type as Redis 7.0 writes them, and damaged ones. Every damage is one to which Redis has a clear
//! answer.

use crate::random::Random;
use damselfly_rdb::Checksum;

/// Values without their footer. Members are those that other commands use, too.
const VALUES: &[&[u8]] = &[
    // Strings: text, an integer, one that is compressed.
    b"\0\x05hello",
    b"\0\xc0\x0c",
    b"\0\xc3\x09\x28\x01aa\xe0\x1b\0\x01aa",
    // Lists: as node by node, and as elements.
    b"\x12\x01\x02\x12\x12\0\0\0\x04\0\x81a\x02\x81b\x02\x01\x01\xdf\xff\x02\xff",
    b"\x01\x02\x01a\xc0\x07",
    // Sets: integers, members.
    b"\x0b\x0e\x02\0\0\0\x03\0\0\0\xfb\xff\x01\0\x02\0",
    b"\x02\x03\xc0\x01\x01b\x01a",
    // Hashes: a listpack, a ziplist, fields.
    b"\x10\x12\x12\0\0\0\x04\0\x81a\x02\x81b\x02\x811\x02\x01\x01\xff",
    b"\x0d\x10\x10\0\0\0\x0d\0\0\0\x02\0\0\x01a\x03\xf3\xff",
    b"\x04\x01\x01a\x01b",
    // Sorted sets: a listpack, binary scores, scores as text.
    b"\x11\x14\x14\0\0\0\x04\0\x81a\x02\x01\x01\x81b\x02\x831.5\x04\xff",
    b"\x05\x02\x01b\0\0\0\0\0\0\xf0\x3f\x01a\0\0\0\0\0\0\xf0\x7f",
    b"\x03\x02\x01a\x031.5\x01b\xff",
];

/// Bytes that are no value: an unknown type, a module's value, a collection without members, a length that is too large, two equal
/// members.
const BROKEN: &[&[u8]] = &[
    b"\x63\x01v",
    b"\x07\x81\x1b\xdf\x2c\x9a\x7b\x6e\xe0\0\0",
    b"\x02\0",
    b"\0\x81\xff\xff\xff\xff\xff\xff\xff\xffv",
    b"\x02\x02\x01a\x01a",
];

/// The version that Redis 7.0 writes.
const VERSION: u16 = 10;

/// A payload: valid, or broken in one way.
pub(super) fn draw(random: &mut Random) -> Vec<u8> {
    let value = match random.below(12) {
        0 => random.pick(BROKEN),
        _ => random.pick(VALUES),
    };
    let version = match random.below(16) {
        0 => *random.pick(&[0x100, 0xffff]),
        1 => *random.pick(&[1, 9]),
        _ => VERSION,
    };
    let mut payload = [*value, &version.to_le_bytes()].concat();
    payload.extend_from_slice(&Checksum::of(&payload).to_le_bytes());
    match random.below(12) {
        0 => {
            let at = random.below(payload.len());
            payload[at] ^= 1 << random.below(8);
        }
        1 => payload.truncate(random.below(payload.len())),
        _ => {}
    }
    payload
}
