//! The hash of a key: seeded once per process, so that clients cannot choose colliding keys.

use std::hash::{BuildHasher, Hasher};
use std::sync::LazyLock;

static SEED: LazyLock<ahash::RandomState> = LazyLock::new(|| {
    if cfg!(fuzzing) {
        // A fuzzer's findings must be reproducible.
        return ahash::RandomState::with_seeds(1, 2, 3, 4);
    }
    ahash::RandomState::new()
});

/// The hash of a key. All 64 bits are well mixed; shards, tables and tags use them from the highest down.
#[inline]
pub fn hash(key: &[u8]) -> u64 {
    let mut hasher = SEED.build_hasher();
    hasher.write(key);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::hash;

    #[test]
    fn equal_keys_hash_alike_and_top_bits_spread() {
        assert_eq!(hash(b"foo"), hash(b"foo"));
        let mut seen = [0_u32; 64];
        for i in 0..64_000 {
            seen[(hash(format!("key:{i}").as_bytes()) >> 58) as usize] += 1;
        }
        assert!(seen.iter().all(|&n| (700..1300).contains(&n)), "{seen:?}");
    }
}
