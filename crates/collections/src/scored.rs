//! A member of a large sorted set: one block of memory, referenced by two structures.
//!
//! ```text
//! | score: f64 | length: u8, or 255 and u32 | member ... |
//! ```
//!
//! The table of a [`Ranking`](crate::Ranking) owns the block; its tree also points to it.

use std::{cmp::Ordering, marker::PhantomData, ptr::NonNull, slice};

use damselfly_base::heap;
use damselfly_table::Item;

const SCORE_BYTES: usize = 8;
/// The first byte of a length that needs four more.
const LONG: u8 = 255;

/// An owned member and its score.
pub(crate) struct Scored(NonNull<u8>);

/// A borrowed member of a large sorted set, with its score.
#[derive(Clone, Copy)]
pub struct ScoredRef<'a> {
    block: NonNull<u8>,
    lifetime: PhantomData<&'a Scored>,
}

// SAFETY: this value is the only owner of the block, which contains only bytes.
unsafe impl Send for Scored {}
// SAFETY: through `&Scored`, the block is only read.
unsafe impl Sync for Scored {}

/// Maps a score to a number that sorts the same way. Zero and negative zero map to the same number.
#[inline]
pub(crate) fn order_of(score: f64) -> u64 {
    // Adding zero turns negative zero into positive zero.
    let bits = (score + 0.0).to_bits();
    // Flips all bits of a negative number, and only the sign bit of a positive one.
    bits ^ ((bits as i64 >> 63) as u64 | 1 << 63)
}

impl Scored {
    /// Copies a member to the heap.
    pub(crate) fn new(member: &[u8], score: f64) -> Self {
        let long = member.len() >= usize::from(LONG);
        let at = SCORE_BYTES + if long { 5 } else { 1 };
        let block = heap::allocate(at + member.len());
        // SAFETY: the block has this many bytes, and nothing else points to it yet.
        let bytes = unsafe { zeroed(block, at + member.len()) };
        bytes[..SCORE_BYTES].copy_from_slice(&score.to_le_bytes());
        if long {
            let len = u32::try_from(member.len()).expect("requests are shorter than 4 GiB");
            bytes[SCORE_BYTES] = LONG;
            bytes[SCORE_BYTES + 1..at].copy_from_slice(&len.to_le_bytes());
        } else {
            bytes[SCORE_BYTES] = member.len() as u8;
        }
        bytes[at..].copy_from_slice(member);
        Self(block)
    }

    /// Borrows the member.
    #[inline]
    pub(crate) fn view(&self) -> ScoredRef<'_> {
        ScoredRef {
            block: self.0,
            lifetime: PhantomData,
        }
    }

    /// Changes the score.
    pub(crate) fn set_score(&mut self, score: f64) {
        // SAFETY: every block begins with the score; a byte array needs no alignment.
        unsafe { self.0.cast::<[u8; 8]>().write(score.to_le_bytes()) };
    }

    /// The bytes that the allocator really uses for the member.
    pub(crate) fn memory_bytes(&self) -> usize {
        // SAFETY: the block is live as long as this value.
        unsafe { heap::usable_bytes(self.0) }
    }
}

/// The bytes of a new block, zeroed so that they can be written through a slice.
///
/// # Safety
/// `block` has `len` bytes, which nothing else uses for `'a`.
unsafe fn zeroed<'a>(block: NonNull<u8>, len: usize) -> &'a mut [u8] {
    // SAFETY: as the caller promises.
    unsafe { block.write_bytes(0, len) };
    // SAFETY: just initialised; otherwise as the caller promises.
    unsafe { slice::from_raw_parts_mut(block.as_ptr(), len) }
}

impl Drop for Scored {
    fn drop(&mut self) {
        // SAFETY: the block came from `allocate`, and this value owned it.
        unsafe { heap::free(self.0) }
    }
}

impl<'a> ScoredRef<'a> {
    /// The member at an address.
    ///
    /// # Safety
    /// The address came from [`address`](Self::address), and that member stays alive and unchanged for `'a`.
    #[inline]
    pub(crate) unsafe fn at(address: usize) -> Self {
        let block = std::ptr::with_exposed_provenance_mut(address);
        Self {
            // SAFETY: the address of a block is not null.
            block: unsafe { NonNull::new_unchecked(block) },
            lifetime: PhantomData,
        }
    }

    /// The member's address: a multiple of 8 below 2^48.
    #[inline]
    pub(crate) fn address(self) -> usize {
        self.block.as_ptr().expose_provenance()
    }

    /// The score.
    #[inline]
    pub fn score(self) -> f64 {
        // SAFETY: every block begins with the score, which does not change for `'a`.
        f64::from_le_bytes(unsafe { self.block.cast::<[u8; 8]>().read() })
    }

    /// The member.
    #[inline]
    pub fn member(self) -> &'a [u8] {
        // SAFETY: the length follows the score.
        let at = unsafe { self.block.add(SCORE_BYTES) };
        // SAFETY: as above; it never changes.
        let short = unsafe { at.read() };
        let (len, header) = if short == LONG {
            // SAFETY: four bytes follow this one.
            let long = unsafe { at.add(1) };
            // SAFETY: as above.
            let len = u32::from_le_bytes(unsafe { long.cast::<[u8; 4]>().read() });
            (len as usize, 5)
        } else {
            (usize::from(short), 1)
        };
        // SAFETY: the member follows its length.
        let member = unsafe { at.add(header) };
        // SAFETY: initialised in `new`, never changed, and alive for `'a`.
        unsafe { slice::from_raw_parts(member.as_ptr(), len) }
    }

    /// The order of members: by score, then by bytes.
    pub(crate) fn compare(self, other: Self) -> Ordering {
        order_of(self.score())
            .cmp(&order_of(other.score()))
            .then_with(|| self.member().cmp(other.member()))
    }
}

// SAFETY:
// - blocks come from `heap::allocate`: aligned to 8, in user space, which ends below 2^48;
// - a `Scored` is the only owner of its block, may move between threads, and changes only through `&mut`; `set_score`
//   changes neither the key nor the hash.
unsafe impl Item for Scored {
    type Ref<'a> = ScoredRef<'a>;

    #[inline]
    fn into_raw(self) -> NonNull<u8> {
        let block = self.0;
        std::mem::forget(self);
        block
    }

    #[inline]
    unsafe fn from_raw(raw: NonNull<u8>) -> Self {
        Self(raw)
    }

    #[inline]
    unsafe fn reference<'a>(raw: NonNull<u8>) -> ScoredRef<'a> {
        ScoredRef {
            block: raw,
            lifetime: PhantomData,
        }
    }

    #[inline]
    unsafe fn key<'a>(raw: NonNull<u8>) -> &'a [u8] {
        // SAFETY: as the caller promises.
        unsafe { Self::reference(raw) }.member()
    }

    #[inline]
    unsafe fn hash(raw: NonNull<u8>) -> u64 {
        // SAFETY: as the caller promises.
        damselfly_base::hash(unsafe { Self::key(raw) })
    }

    #[inline]
    unsafe fn marked(_: NonNull<u8>) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_every_length_round_trip() {
        for len in [0, 1, 12, 254, 255, 256, 70_000] {
            let bytes = vec![7; len];
            let mut scored = Scored::new(&bytes, 1.5);
            assert_eq!(scored.view().member(), bytes);
            scored.set_score(-2.0);
            assert_eq!(scored.view().score(), -2.0);
            assert_eq!(scored.view().member(), bytes);
        }
    }

    #[test]
    fn orders_sort_like_scores() {
        let scores = [
            f64::NEG_INFINITY,
            f64::MIN,
            -1.5,
            -5e-324,
            0.0,
            5e-324,
            1.0,
            f64::MAX,
            f64::INFINITY,
        ];
        assert!(scores.is_sorted_by(|a, b| order_of(*a) < order_of(*b)));
        assert_eq!(order_of(-0.0), order_of(0.0));
    }
}
