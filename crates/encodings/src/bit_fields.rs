//! Integers of any width at any bit of a byte string (BITFIELD). Their highest bit comes first.

/// The type of an integer in a bitmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldType {
    signed: bool,
    /// 1 to 64, or 1 to 63 without sign, so that every value is an `i64`.
    bits: u32,
}

/// What to do with a value that does not fit its type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// Keep its low bits.
    #[default]
    Wrap,
    /// Take the nearest value that fits.
    Saturate,
    /// Change nothing.
    Fail,
}

impl FieldType {
    /// Reads a type: `i` or `u` and the number of bits.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (sign, bits) = text.split_first()?;
        let signed = match sign {
            b'i' => true,
            b'u' => false,
            _ => return None,
        };
        let bits = damselfly_base::number::parse_integer(bits)?;
        let bits_max = if signed { 64 } else { 63 };
        (1..=bits_max).contains(&bits).then_some(Self {
            signed,
            bits: bits as u32,
        })
    }

    /// The number of bits.
    pub fn bits(self) -> u32 {
        self.bits
    }

    fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits)
    }

    /// The value of these low bits.
    fn value_of(self, raw: u64) -> i64 {
        let shift = 64 - self.bits;
        match self.signed {
            true => ((raw << shift) as i64) >> shift,
            false => (raw & self.mask()) as i64,
        }
    }

    /// The value at a bit offset; bits past the end of the bitmap are zero.
    pub fn read(self, bytes: &[u8], offset: u64) -> i64 {
        let window = Window::at(bytes, offset);
        self.value_of((window.word() >> window.shift(self)) as u64)
    }

    /// Writes the low bits of a value at a bit offset.
    ///
    /// # Panics
    /// If the bitmap does not reach that far.
    pub fn write(self, bytes: &mut [u8], offset: u64, value: i64) {
        let window = Window::at(bytes, offset);
        let shift = window.shift(self);
        let mask = u128::from(self.mask()) << shift;
        let new = u128::from(value as u64 & self.mask()) << shift;
        let word = (window.word() & !mask | new).to_be_bytes();
        let used = (offset % 8 + u64::from(self.bits)).div_ceil(8) as usize;
        bytes[window.start..window.start + used].copy_from_slice(&word[..used]);
    }

    /// The value to store for a number that is to be set. `None` if it does not fit and [`Overflow::Fail`] is asked for.
    pub fn fit(self, number: i64, overflow: Overflow) -> Option<i64> {
        // As in Redis, a negative number is a large one for a type without sign.
        let wide = match self.signed {
            true => i128::from(number),
            false => i128::from(number as u64),
        };
        let (_, max) = self.limits();
        // In Redis, the distance to the greatest value wraps if it exceeds 63 bits, and then counts as an overflow upwards.
        if overflow == Overflow::Saturate && self.bits < 64 && max - wide > i128::from(i64::MAX) {
            return Some(max as i64);
        }
        self.fit_wide(wide, overflow)
    }

    /// The value to store for a sum. `None` if it does not fit and [`Overflow::Fail`] is asked for.
    pub fn sum(self, value: i64, increment: i64, overflow: Overflow) -> Option<i64> {
        self.fit_wide(i128::from(value) + i128::from(increment), overflow)
    }

    /// The least and the greatest value.
    fn limits(self) -> (i128, i128) {
        match self.signed {
            true => (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1),
            false => (0, (1 << self.bits) - 1),
        }
    }

    fn fit_wide(self, number: i128, overflow: Overflow) -> Option<i64> {
        let (min, max) = self.limits();
        if (min..=max).contains(&number) {
            return Some(number as i64);
        }
        match overflow {
            Overflow::Wrap => Some(self.value_of(number as u64)),
            Overflow::Saturate => Some(number.clamp(min, max) as i64),
            Overflow::Fail => None,
        }
    }
}

/// The nine bytes that can hold an integer, followed by zeros.
struct Window {
    bytes: [u8; 16],
    /// The index of the first byte.
    start: usize,
    /// The offset of the integer in bits.
    offset: u64,
}

impl Window {
    fn at(bytes: &[u8], offset: u64) -> Self {
        const BYTES: usize = 9;
        let start = usize::try_from(offset / 8).unwrap_or(usize::MAX);
        let rest = bytes.get(start..).unwrap_or_default();
        let rest = &rest[..rest.len().min(BYTES)];
        let mut window = [0; 16];
        window[..rest.len()].copy_from_slice(rest);
        Self {
            bytes: window,
            start,
            offset: offset % 8,
        }
    }

    fn word(&self) -> u128 {
        u128::from_be_bytes(self.bytes)
    }

    /// How far the integer is from the low end of the word.
    fn shift(&self, field: FieldType) -> u32 {
        128 - self.offset as u32 - field.bits
    }
}

#[cfg(test)]
mod tests {
    use damselfly_base::random::Random;

    use super::*;
    use crate::bits;

    fn field(text: &str) -> FieldType {
        FieldType::parse(text.as_bytes()).expect("a valid type")
    }

    #[test]
    fn types_have_a_sign_and_a_width() {
        for text in ["", "i", "u0", "u64", "i65", "8", "I8", "u-1", "u08", "i 8"] {
            assert_eq!(FieldType::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(field("i64").bits(), 64);
        assert_eq!(field("u63").bits(), 63);
    }

    #[test]
    fn a_value_is_read_back_and_its_neighbours_stay() {
        let mut random = Random::for_test();
        for _ in 0..20_000 {
            let signed = random.below(2) == 0;
            let width = 1 + random.below(if signed { 64 } else { 63 }) as u32;
            let field = FieldType {
                signed,
                bits: width,
            };
            let offset = random.below(60) as u64;
            let mut bytes: Vec<u8> = (0..16).map(|_| random.number() as u8).collect();
            let before = bytes.clone();
            let value = field.value_of(random.number());
            field.write(&mut bytes, offset, value);
            assert_eq!(field.read(&bytes, offset), value);
            for index in 0..128 {
                let inside = (offset..offset + u64::from(width)).contains(&index);
                let bit = bits::bit(&bytes, index);
                if inside {
                    let shift = offset + u64::from(width) - 1 - index;
                    assert_eq!(bit, value >> shift & 1 == 1);
                } else {
                    assert_eq!(bit, bits::bit(&before, index));
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_wraps_saturates_or_fails() {
        let all = [Overflow::Wrap, Overflow::Saturate, Overflow::Fail];
        let fit = |text, number| all.map(|overflow| field(text).fit(number, overflow));
        assert_eq!(fit("u8", 255), [Some(255); 3]);
        assert_eq!(fit("u8", 257), [Some(1), Some(255), None]);
        assert_eq!(fit("u8", -1), [Some(255), Some(255), None]);
        assert_eq!(fit("i8", 128), [Some(-128), Some(127), None]);
        assert_eq!(fit("i8", -129), [Some(127), Some(-128), None]);
        assert_eq!(fit("i8", i64::MIN), [Some(0), Some(127), None]);
        let sum = |text, a, b| all.map(|overflow| field(text).sum(a, b, overflow));
        assert_eq!(sum("u8", 10, -11), [Some(255), Some(0), None]);
        let (min, max) = (i64::MIN, i64::MAX);
        assert_eq!(sum("i64", max, 1), [Some(min), Some(max), None]);
        assert_eq!(sum("i64", min, -1), [Some(max), Some(min), None]);
    }

    #[test]
    fn bits_past_the_end_are_zero() {
        assert_eq!(field("u16").read(&[0xff], 4), 0xf000);
        assert_eq!(field("i64").read(&[], u64::MAX), 0);
    }
}
