//! SHA-1, which Redis uses to name scripts and for digests of data. Not for secrets.

use sha1::{Digest, Sha1};

/// The SHA-1 digest of `bytes`.
pub fn sha1(bytes: &[u8]) -> [u8; 20] {
    Sha1::digest(bytes).into()
}

/// As [`sha1`], but calls `before` with each block of 16 KiB (the last one may be shorter) before adding it.
///
/// # Errors
/// The first error of `before`, which stops the computation.
pub fn try_sha1<E>(
    bytes: &[u8],
    mut before: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<[u8; 20], E> {
    const BLOCK_BYTES: usize = 16 << 10;
    let mut digest = Sha1::new();
    for block in bytes.chunks(BLOCK_BYTES) {
        before(block)?;
        digest.update(block);
    }
    Ok(digest.finalize().into())
}

/// A digest as 40 hexadecimal digits.
pub fn hex(digest: &[u8; 20]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
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
