//! HyperLogLogs: estimates of how many different elements were added. The bytes are Redis's.
//!
//! ```text
//! | "HYLL" | encoding: u8 | zeros: [u8; 3] | cached estimate: u64 LE | registers ... |
//!
//! encoding          0 dense, 1 sparse
//! cached estimate   invalid if its highest bit is set
//! registers         of 16,384 registers, the greatest rank that any element of each had
//! ```
//!
//! An element's hash chooses its register; its rank is the number of zeros, plus one, at the low end of the remaining bits. [`dense`]
//! and [`sparse`] describe the two forms of the registers. The estimate is Ertl's ("New cardinality estimation algorithms for
//! HyperLogLog sketches", arXiv 1702.01284, algorithm 6), in Redis's order of floating-point operations.
//!
//! Clients can store any bytes. [`Encoding::of`] decides whether they are a HyperLogLog; everything else reports [`Corrupted`].

pub mod dense;
mod self_test;
pub mod sparse;

pub use self_test::self_test;

/// The number of registers.
pub const REGISTERS: usize = 1 << REGISTER_BITS;
/// The bits of a hash that choose the register.
const REGISTER_BITS: u32 = 14;
/// The bits of a hash that the rank is taken from.
const RANK_BITS: u32 = 64 - REGISTER_BITS;
/// The highest rank.
const RANK_MAX: usize = RANK_BITS as usize + 1;
/// The number of different values of a dense register.
const VALUES: usize = 64;

const MAGIC: [u8; 4] = *b"HYLL";
const ENCODING_AT: usize = 4;
const CACHE_AT: usize = 8;
const CACHE_BYTES: usize = 8;
/// Set in the last byte of the cached estimate if that is invalid.
const INVALID_CACHE: u8 = 0x80;
/// Where the registers begin.
const HEADER_BYTES: usize = 16;

/// The registers of one or several HyperLogLogs.
pub type Registers = [u8; REGISTERS];

/// The bytes look like a HyperLogLog, but their registers are broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupted;

/// The form of the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Six bits each.
    Dense,
    /// Runs of equal registers.
    Sparse,
}

impl Encoding {
    /// The encoding of a HyperLogLog; `None` if the bytes are not one.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < HEADER_BYTES || !bytes.starts_with(&MAGIC) {
            return None;
        }
        match bytes[ENCODING_AT] {
            0 => (bytes.len() == dense::BYTES).then_some(Self::Dense),
            1 => Some(Self::Sparse),
            _ => None,
        }
    }
}

/// The bytes of a HyperLogLog that can grow.
pub trait Buffer {
    /// The bytes.
    fn bytes(&mut self) -> &mut [u8];
    /// Changes the number of bytes; new ones are zero.
    fn resize(&mut self, len: usize) -> &mut [u8];
}

impl Buffer for Vec<u8> {
    fn bytes(&mut self) -> &mut [u8] {
        self
    }

    fn resize(&mut self, len: usize) -> &mut [u8] {
        Vec::resize(self, len, 0);
        self
    }
}

/// A HyperLogLog without elements, in sparse form.
pub const EMPTY: [u8; HEADER_BYTES + 2] = {
    let mut bytes = [0; HEADER_BYTES + 2];
    let mut at = 0;
    while at < MAGIC.len() {
        bytes[at] = MAGIC[at];
        at += 1;
    }
    bytes[ENCODING_AT] = 1;
    [bytes[HEADER_BYTES], bytes[HEADER_BYTES + 1]] = sparse::ALL_ZERO;
    bytes
};

/// The cached estimate, if it is valid.
pub fn cached(bytes: &[u8]) -> Option<u64> {
    let cache = bytes.get(CACHE_AT..)?.first_chunk::<CACHE_BYTES>()?;
    (cache[CACHE_BYTES - 1] & INVALID_CACHE == 0).then(|| u64::from_le_bytes(*cache))
}

/// Caches an estimate in the bytes of a HyperLogLog.
pub fn set_cached(bytes: &mut [u8], estimate: u64) {
    bytes[CACHE_AT..CACHE_AT + CACHE_BYTES].copy_from_slice(&estimate.to_le_bytes());
}

/// Marks the cached estimate as invalid.
pub fn invalidate_cache(bytes: &mut [u8]) {
    bytes[CACHE_AT + CACHE_BYTES - 1] |= INVALID_CACHE;
}

/// Adds an element and returns whether that changed a register. A sparse HyperLogLog that would get longer than
/// `sparse_bytes_max` becomes dense.
///
/// # Errors
/// If the registers are broken; they did not change then.
pub fn add(
    buffer: &mut impl Buffer,
    element: &[u8],
    sparse_bytes_max: usize,
) -> Result<bool, Corrupted> {
    let (register, rank) = place_of(element);
    raise(buffer, register, rank, sparse_bytes_max)
}

/// Raises a register to a rank, as [`add`] does.
///
/// # Errors
/// As [`add`].
pub fn raise(
    buffer: &mut impl Buffer,
    register: usize,
    rank: u8,
    sparse_bytes_max: usize,
) -> Result<bool, Corrupted> {
    match Encoding::of(buffer.bytes()).ok_or(Corrupted)? {
        Encoding::Dense => Ok(dense::raise(
            &mut buffer.bytes()[HEADER_BYTES..],
            register,
            rank,
        )),
        Encoding::Sparse => sparse::raise(buffer, register, rank, sparse_bytes_max),
    }
}

/// Raises registers to those of a HyperLogLog.
///
/// # Errors
/// If its registers are broken.
pub fn merge(registers: &mut Registers, bytes: &[u8]) -> Result<(), Corrupted> {
    let encoding = Encoding::of(bytes).ok_or(Corrupted)?;
    let stored = &bytes[HEADER_BYTES..];
    match encoding {
        Encoding::Dense => dense::merge(registers, stored),
        Encoding::Sparse => sparse::merge(registers, stored)?,
    }
    Ok(())
}

/// Makes a HyperLogLog dense and returns whether it was sparse. Keeps the cached estimate.
///
/// # Errors
/// If its registers are broken; nothing changes then.
pub fn make_dense(buffer: &mut impl Buffer) -> Result<bool, Corrupted> {
    match Encoding::of(buffer.bytes()).ok_or(Corrupted)? {
        Encoding::Dense => Ok(false),
        Encoding::Sparse => {
            let mut registers = [0; REGISTERS];
            sparse::merge(&mut registers, &buffer.bytes()[HEADER_BYTES..])?;
            let bytes = buffer.resize(dense::BYTES);
            bytes[ENCODING_AT] = 0;
            dense::write_all(&mut bytes[HEADER_BYTES..], &registers);
            Ok(true)
        }
    }
}

/// The registers of a HyperLogLog as they are stored, behind the header.
pub fn stored_registers(bytes: &[u8]) -> &[u8] {
    bytes.get(HEADER_BYTES..).unwrap_or_default()
}

/// The estimated number of elements of a HyperLogLog.
///
/// # Errors
/// If its registers are broken.
pub fn count(bytes: &[u8]) -> Result<u64, Corrupted> {
    let stored = stored_registers(bytes);
    Ok(match Encoding::of(bytes).ok_or(Corrupted)? {
        Encoding::Dense => estimate(&dense::histogram(stored)),
        Encoding::Sparse => estimate(&sparse::histogram(stored)?),
    })
}

/// The estimated number of elements of some registers.
pub fn count_registers(registers: &Registers) -> u64 {
    let mut histogram = [0; VALUES];
    for &rank in registers {
        histogram[usize::from(rank) % VALUES] += 1;
    }
    estimate(&histogram)
}

/// How many registers have each value.
type Histogram = [u32; VALUES];

fn estimate(histogram: &Histogram) -> u64 {
    /// 1 / (2 ln 2).
    const ALPHA: f64 = 0.721_347_520_444_481_7;
    let m = REGISTERS as f64;
    let of = |value: usize| f64::from(histogram[value]);
    let mut z = m * tau((m - of(RANK_MAX)) / m);
    for rank in (1..RANK_MAX).rev() {
        z += of(rank);
        z *= 0.5;
    }
    z += m * sigma(of(0) / m);
    let estimate = (ALPHA * m * m / z).round();
    // Registers that no elements can have may give any number. C's conversion then gives the least integer.
    if estimate < i64::MAX as f64 {
        estimate as u64
    } else {
        i64::MIN as u64
    }
}

/// σ of the paper.
fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if before == z {
            return z;
        }
    }
}

/// τ of the paper.
fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if before == z {
            return z / 3.0;
        }
    }
}

/// The register and the rank of an element.
fn place_of(element: &[u8]) -> (usize, u8) {
    let hash = hash(element);
    let register = hash as usize % REGISTERS;
    // The bit above the hash ends the run of zeros.
    let rest = hash >> REGISTER_BITS | 1 << RANK_BITS;
    (register, rest.trailing_zeros() as u8 + 1)
}

/// Austin Appleby's `MurmurHash64A`, little-endian, with Redis's seed.
fn hash(bytes: &[u8]) -> u64 {
    const SEED: u64 = 0xadc8_3b19;
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    const R: u32 = 47;
    let (words, rest) = bytes.as_chunks::<8>();
    // Redis's length is a C int.
    let len = bytes.len() as u32 as i32 as u64;
    let mut hash = SEED ^ len.wrapping_mul(M);
    for word in words {
        let mut k = u64::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = (hash ^ k.wrapping_mul(M)).wrapping_mul(M);
    }
    if !rest.is_empty() {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u64::from_le_bytes(last)).wrapping_mul(M);
    }
    hash = (hash ^ hash >> R).wrapping_mul(M);
    hash ^ hash >> R
}

#[cfg(test)]
mod tests;
