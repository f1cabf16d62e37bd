//! The checksum of files and DUMP payloads: CRC-64 with the polynomial of Jones, without initial value.

use crc_fast::{CrcAlgorithm, Digest};

/// A checksum over bytes that arrive piece by piece.
#[derive(Clone)]
#[expect(missing_debug_implementations, reason = "the digest has none")]
pub struct Checksum(Digest);

impl Default for Checksum {
    fn default() -> Self {
        Self::new()
    }
}

impl Checksum {
    /// The checksum of no bytes.
    pub fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc64Redis))
    }

    /// Adds bytes. Fast for pieces of a hundred bytes and more.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum of all bytes so far.
    pub fn value(&self) -> u64 {
        self.0.finalize()
    }

    /// Appends the bytes of another checksum.
    pub fn append(&mut self, other: &Self) {
        self.0.combine(&other.0);
    }

    /// The checksum of `bytes`.
    pub fn of(bytes: &[u8]) -> u64 {
        let mut checksum = Self::new();
        checksum.add(bytes);
        checksum.value()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit, as the polynomial is defined.
    fn plain(bytes: &[u8]) -> u64 {
        const POLYNOMIAL: u64 = 0xad93_d235_94c9_35a9_u64.reverse_bits();
        bytes.iter().fold(0, |crc: u64, &byte| {
            (0..8).fold(crc ^ u64::from(byte), |crc, _| {
                (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 }
            })
        })
    }

    #[test]
    fn it_is_the_checksum_of_redis_in_any_pieces() {
        assert_eq!(Checksum::of(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
        assert_eq!(Checksum::of(b""), 0);
        let bytes: Vec<u8> = (0..5000_u32).map(|at| ((at * at) >> 3) as u8).collect();
        for len in (0..300).chain([1000, 4096, 5000]) {
            let bytes = &bytes[..len];
            assert_eq!(Checksum::of(bytes), plain(bytes), "length {len}");
            let mut checksum = Checksum::new();
            bytes.chunks(7).for_each(|piece| checksum.add(piece));
            assert_eq!(checksum.value(), plain(bytes), "length {len}");
            let (head, tail) = bytes.split_at(len / 3);
            let (mut head_sum, mut tail_sum) = (Checksum::new(), Checksum::new());
            head_sum.add(head);
            tail_sum.add(tail);
            head_sum.append(&tail_sum);
            assert_eq!(head_sum.value(), plain(bytes), "length {len}");
        }
    }
}
