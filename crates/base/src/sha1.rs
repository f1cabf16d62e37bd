//! SHA-1 (FIPS 180-4), for what Redis names by it: scripts and digests of data. Not for secrets.

use std::convert::Infallible;

/// The SHA-1 digest of `bytes`.
pub fn sha1(bytes: &[u8]) -> [u8; 20] {
    match try_sha1(bytes, |_| Ok::<_, Infallible>(())) {
        Ok(digest) => digest,
        Err(never) => match never {},
    }
}

/// As [`sha1`]; calls `before` with each block of some KiB, the last one perhaps shorter, before it is added.
///
/// # Errors
/// That of `before`, which ends this.
pub fn try_sha1<E>(
    bytes: &[u8],
    mut before: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<[u8; 20], E> {
    /// A multiple of the 64 bytes that are added at once.
    const BLOCK_BYTES: usize = 16 << 10;
    let mut state = [
        0x6745_2301_u32,
        0xefcd_ab89,
        0x98ba_dcfe,
        0x1032_5476,
        0xc3d2_e1f0,
    ];
    let (blocks, rest) = bytes.as_chunks::<64>();
    for blocks in blocks.chunks(BLOCK_BYTES / 64) {
        before(blocks.as_flattened())?;
        blocks.iter().for_each(|block| compress(&mut state, block));
    }
    // A one bit, zeros, and the length in bits: one block more, or two.
    let mut tail = [0; 128];
    tail[..rest.len()].copy_from_slice(rest);
    tail[rest.len()] = 0x80;
    let tail_len = if rest.len() < 56 { 64 } else { 128 };
    tail[tail_len - 8..tail_len].copy_from_slice(&(bytes.len() as u64 * 8).to_be_bytes());
    for block in tail[..tail_len].as_chunks::<64>().0 {
        compress(&mut state, block);
    }
    let mut digest = [0; 20];
    for (out, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *out = word.to_be_bytes();
    }
    Ok(digest)
}

/// The digest as 40 hexadecimal digits.
pub fn hex(digest: &[u8; 20]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn compress(state: &mut [u32; 5], block: &[u8; 64]) {
    let mut words = [0_u32; 80];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks::<4>().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    for at in 16..80 {
        words[at] =
            (words[at - 3] ^ words[at - 8] ^ words[at - 14] ^ words[at - 16]).rotate_left(1);
    }
    let [mut a, mut b, mut c, mut d, mut e] = *state;
    for (round, word) in words.into_iter().enumerate() {
        let (mixed, constant) = match round / 20 {
            0 => ((b & c) | (!b & d), 0x5a82_7999),
            1 => (b ^ c ^ d, 0x6ed9_eba1),
            2 => ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc_u32),
            _ => (b ^ c ^ d, 0xca62_c1d6),
        };
        let next = a
            .rotate_left(5)
            .wrapping_add(mixed)
            .wrapping_add(e)
            .wrapping_add(constant)
            .wrapping_add(word);
        (a, b, c, d, e) = (next, a, b.rotate_left(30), c, d);
    }
    for (sum, part) in state.iter_mut().zip([a, b, c, d, e]) {
        *sum = sum.wrapping_add(part);
    }
}

#[cfg(test)]
mod tests {
    use super::{hex, sha1};

    #[test]
    fn digests_are_those_of_the_standard() {
        for (text, digest) in [
            (String::new(), "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
            (
                String::from("abc"),
                "a9993e364706816aba3e25717850c26c9cd0d89d",
            ),
            (
                String::from("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
                "84983e441c3bd26ebaae4aa1f95129e5e54670f1",
            ),
            (
                "a".repeat(1_000_000),
                "34aa973cd4c4daa4f61eeb2bdbad27316534016f",
            ),
        ] {
            assert_eq!(hex(&sha1(text.as_bytes())), digest);
        }
    }
}
