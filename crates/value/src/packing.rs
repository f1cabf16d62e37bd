//! Packed text: ASCII at seven bits per character, lower-case hexadecimal digits at four.
//!
//! ```text
//! ASCII   the last eighth of the text (the tail) is stored in the top bits of the bytes before it:
//!         | stripe 0 | stripe 1 | ... | stripe 6 | rest |     seven stripes of len / 8 bytes
//!         bit i of the tail's byte t is the top bit of byte t of stripe i
//! hex     low half of byte t: digit t; high half: digit t + ceil(len / 2)
//! ```
//!
//! Both layouts let the processor handle many bytes at once without shifting any byte to another position.

use std::ops::Range;

/// Shorter texts are not packed. This also makes every stripe at least one word long.
const TEXT_BYTES_MIN: usize = 65;
/// Longer texts are not packed: reading one should cost no more than a copy.
const TEXT_BYTES_MAX: usize = 64 << 10;

const WORD_BYTES: usize = 8;
const STRIPES: usize = 7;
/// The top bit of every byte of a word.
const TOP_BITS: u64 = 0x8080_8080_8080_8080;

/// How a text is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// Characters below 128: eight characters in seven bytes.
    Ascii,
    /// Only digits and `a` to `f`: two characters in a byte.
    Hex,
}

impl Packing {
    /// The tightest packing that can hold `text`.
    #[inline]
    pub(crate) fn of(text: &[u8]) -> Option<Self> {
        if !(TEXT_BYTES_MIN..=TEXT_BYTES_MAX).contains(&text.len()) {
            None
        } else if is_hex(text) {
            Some(Self::Hex)
        } else if text.is_ascii() {
            Some(Self::Ascii)
        } else {
            None
        }
    }

    /// The packed size of a text of `len` bytes.
    #[inline]
    pub(crate) fn packed_bytes(self, len: usize) -> usize {
        match self {
            Self::Ascii => len - len / 8,
            Self::Hex => len.div_ceil(2),
        }
    }

    /// Packs a text that [`Packing::of`] accepted into `packed`, whose length must be exactly the packed size.
    pub(crate) fn pack(self, text: &[u8], packed: &mut [u8]) {
        match self {
            Self::Ascii => pack_ascii(text, packed),
            Self::Hex => pack_hex(text, packed),
        }
    }
}

/// A read-only view of a packed text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PackedText<'a> {
    packing: Packing,
    packed: &'a [u8],
    len: usize,
}

impl<'a> PackedText<'a> {
    /// A text of `len` bytes; `packed` holds the output of [`Packing::pack`].
    #[inline]
    pub(crate) fn new(packing: Packing, packed: &'a [u8], len: usize) -> Self {
        debug_assert_eq!(packed.len(), packing.packed_bytes(len));
        Self {
            packing,
            packed,
            len,
        }
    }

    /// The length of the unpacked text in bytes.
    #[inline]
    #[expect(clippy::len_without_is_empty, reason = "a packed text is never empty")]
    pub fn len(self) -> usize {
        self.len
    }

    /// Writes the whole text to `out`, which must be [`PackedText::len`] bytes long.
    #[inline]
    pub fn unpack_into(self, out: &mut [u8]) {
        assert_eq!(out.len(), self.len, "`out` must be as long as the text");
        match self.packing {
            Packing::Ascii => unpack_ascii(self.packed, out),
            Packing::Hex => unpack_hex(self.packed, out),
        }
    }

    /// Writes a part of the text to `out`, which must be as long as `range`.
    ///
    /// # Panics
    /// If `range` exceeds the text.
    pub fn unpack_range(self, range: Range<usize>, out: &mut [u8]) {
        assert!(range.end <= self.len, "`range` exceeds the text");
        for (to, at) in out.iter_mut().zip(range) {
            *to = self.byte(at);
        }
    }

    /// Returns the whole text, unpacked.
    pub fn to_vec(self) -> Vec<u8> {
        let mut text = vec![0; self.len];
        self.unpack_into(&mut text);
        text
    }

    fn byte(self, at: usize) -> u8 {
        match self.packing {
            Packing::Ascii => match self.packed.get(at) {
                Some(byte) => byte & 0x7f,
                None => (0..STRIPES).fold(0, |byte, stripe| {
                    let carrier = stripe * (self.len / 8) + at - self.packed.len();
                    byte | ((self.packed[carrier] >> 7) << stripe)
                }),
            },
            Packing::Hex => match at.checked_sub(self.packed.len()) {
                None => digit(self.packed[at] & 0xf),
                Some(at) => digit(self.packed[at] >> 4),
            },
        }
    }
}

impl std::fmt::Debug for PackedText<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}({})", self.packing, self.to_vec().escape_ascii())
    }
}

fn is_hex(text: &[u8]) -> bool {
    /// This many bytes are checked without a branch.
    const CHUNK: usize = 64;
    text.chunks(CHUNK).all(|chunk| {
        chunk.iter().fold(true, |all, byte| {
            all & (byte.is_ascii_digit() | (b'a'..=b'f').contains(byte))
        })
    })
}

fn pack_hex(text: &[u8], packed: &mut [u8]) {
    let (low, high) = text.split_at(packed.len());
    for (to, &low) in packed.iter_mut().zip(low) {
        *to = nibble(low);
    }
    for (to, &high) in packed.iter_mut().zip(high) {
        *to |= nibble(high) << 4;
    }
}

fn unpack_hex(packed: &[u8], out: &mut [u8]) {
    let (low, high) = out.split_at_mut(packed.len());
    for (to, byte) in low.iter_mut().zip(packed) {
        *to = digit(byte & 0xf);
    }
    for (to, byte) in high.iter_mut().zip(packed) {
        *to = digit(byte >> 4);
    }
}

#[inline]
fn nibble(digit: u8) -> u8 {
    (digit & 0xf) + if digit > b'9' { 9 } else { 0 }
}

#[inline]
fn digit(nibble: u8) -> u8 {
    nibble + if nibble > 9 { b'a' - 10 } else { b'0' }
}

fn pack_ascii(text: &[u8], packed: &mut [u8]) {
    let (body, tail) = text.split_at(packed.len());
    let rest = STRIPES * tail.len();
    packed[rest..].copy_from_slice(&body[rest..]);
    if tail.len() < 2 * WORD_BYTES {
        spread_tail::<1>(body, tail, packed);
    } else {
        spread_tail::<2>(body, tail, packed);
    }
}

#[inline]
fn spread_tail<const N: usize>(body: &[u8], tail: &[u8], packed: &mut [u8]) {
    for_each_position::<N>(tail.len(), |at| {
        let bits = words::<N>(tail, at);
        for stripe in 0..STRIPES {
            let at = stripe * tail.len() + at;
            let plain = words::<N>(body, at);
            let carriers = std::array::from_fn(|index| {
                plain[index] | ((bits[index] << (7 - stripe)) & TOP_BITS)
            });
            write_words::<N>(packed, at, carriers);
        }
    });
}

fn unpack_ascii(packed: &[u8], out: &mut [u8]) {
    let (body, tail) = out.split_at_mut(packed.len());
    for (to, byte) in body.iter_mut().zip(packed) {
        *to = byte & 0x7f;
    }
    if tail.len() < 2 * WORD_BYTES {
        gather_tail::<1>(packed, tail);
    } else {
        gather_tail::<2>(packed, tail);
    }
}

#[inline]
fn gather_tail<const N: usize>(packed: &[u8], tail: &mut [u8]) {
    let stripe_bytes = tail.len();
    let packed = &packed[..STRIPES * stripe_bytes];
    for_each_position::<N>(stripe_bytes, |at| {
        let mut bits = [0; N];
        for stripe in 0..STRIPES {
            let carriers = words::<N>(packed, stripe * stripe_bytes + at);
            for (bits, carrier) in bits.iter_mut().zip(carriers) {
                *bits |= (carrier & TOP_BITS) >> (7 - stripe);
            }
        }
        write_words(tail, at, bits);
    });
}

/// Visits positions, each the start of `N` words, that together cover `len` bytes. `len` must be at least `N` words. The
/// last position may overlap the one before it: handling a byte twice changes nothing.
#[inline]
fn for_each_position<const N: usize>(len: usize, mut visit: impl FnMut(usize)) {
    let last = len - N * WORD_BYTES;
    let mut at = 0;
    while at < last {
        visit(at);
        at += N * WORD_BYTES;
    }
    visit(last);
}

#[inline]
fn words<const N: usize>(bytes: &[u8], at: usize) -> [u64; N] {
    let bytes = &bytes[at..at + N * WORD_BYTES];
    std::array::from_fn(|index| {
        let mut word = [0; WORD_BYTES];
        word.copy_from_slice(&bytes[index * WORD_BYTES..][..WORD_BYTES]);
        u64::from_ne_bytes(word)
    })
}

#[inline]
fn write_words<const N: usize>(bytes: &mut [u8], at: usize, words: [u64; N]) {
    for (to, word) in bytes[at..at + N * WORD_BYTES]
        .chunks_exact_mut(WORD_BYTES)
        .zip(words)
    {
        to.copy_from_slice(&word.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use damselfly_base::random::Random;

    use super::*;

    fn check(text: &[u8], packing: Packing) {
        assert_eq!(Packing::of(text), Some(packing));
        let mut packed = vec![0xaa; packing.packed_bytes(text.len())];
        packing.pack(text, &mut packed);
        let packed = PackedText::new(packing, &packed, text.len());
        assert_eq!(packed.to_vec(), text);
        for (at, &byte) in text.iter().enumerate() {
            assert_eq!(packed.byte(at), byte, "byte {at} of {packed:?}");
        }
    }

    #[test]
    fn texts_of_every_length_round_trip() {
        let mut random = Random::for_test();
        let mut random = |below: usize| random.below(below);
        for len in (TEXT_BYTES_MIN..600).chain(TEXT_BYTES_MAX - 20..=TEXT_BYTES_MAX) {
            let mut ascii: Vec<_> = (0..len).map(|_| random(128) as u8).collect();
            ascii[random(len)] = b'g';
            check(&ascii, Packing::Ascii);
            let hex: Vec<_> = (0..len).map(|_| b"0123456789abcdef"[random(16)]).collect();
            check(&hex, Packing::Hex);
        }
    }

    #[test]
    fn only_text_that_fits_a_packing_is_packed() {
        for byte in 0..=u8::MAX {
            for at in [0, 63, 64, 99] {
                let mut text = [b'0'; 100];
                text[at] = byte;
                let expected = match byte {
                    b'0'..=b'9' | b'a'..=b'f' => Some(Packing::Hex),
                    0..=127 => Some(Packing::Ascii),
                    _ => None,
                };
                assert_eq!(Packing::of(&text), expected, "byte {byte} at {at}");
            }
        }
        assert_eq!(Packing::of(&[b'x'; TEXT_BYTES_MIN - 1]), None);
        assert_eq!(Packing::of(&[b'x'; TEXT_BYTES_MAX + 1]), None);
    }

    #[test]
    fn a_range_unpacks_to_the_same_part_of_the_text() {
        let text: Vec<_> = (0..133).map(|at| b'!' + at % 90).collect();
        let hex = text.iter().map(|byte| digit(byte & 0xf)).collect();
        for text in [text, hex] {
            let packing = Packing::of(&text).expect("ASCII");
            let mut packed = vec![0xaa; packing.packed_bytes(text.len())];
            packing.pack(&text, &mut packed);
            let packed = PackedText::new(packing, &packed, text.len());
            for start in 0..text.len() {
                for end in start..=text.len() {
                    let mut part = vec![0; end - start];
                    packed.unpack_range(start..end, &mut part);
                    assert_eq!(part, text[start..end]);
                }
            }
        }
    }
}
