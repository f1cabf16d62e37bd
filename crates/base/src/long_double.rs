//! The arithmetic of INCRBYFLOAT: x87 extended precision (64-bit significand), as Redis computes it
//! with C's `long double` on x86-64, in software, so that results are the same everywhere.
//!
//! The arithmetic is `rustc_apfloat`'s. Reading and printing are ours because its `Display` counts
//! significant digits and so cannot print `%.17Lf`, and its parser differs from `strtold`.

use rustc_apfloat::ieee::X87DoubleExtended;
use rustc_apfloat::{Float, Round, Status};

/// An extended-precision float.
#[derive(Clone, Copy, Debug)]
pub struct LongDouble(X87DoubleExtended);

impl LongDouble {
    /// Zero.
    pub const ZERO: Self = Self(X87DoubleExtended::ZERO);

    /// Reads a number as INCRBYFLOAT accepts it: decimal or hexadecimal, with an optional exponent; no
    /// blanks, no NaN. Infinities are accepted, since only the result must be finite.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (negative, digits) = match text.as_bytes() {
            [b'-', ..] => (true, &text[1..]),
            [b'+', ..] => (false, &text[1..]),
            _ => (false, text),
        };
        let lower = digits.to_ascii_lowercase();
        let magnitude = if lower == "inf" || lower == "infinity" {
            X87DoubleExtended::INFINITY
        } else {
            parse_magnitude(&lower)?
        };
        Some(Self(if negative { -magnitude } else { magnitude }))
    }

    /// The sum, or `None` if it is not finite.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        let sum = (self.0 + other.0).value;
        sum.is_finite().then_some(Self(sum))
    }

    /// A thousand times the number, rounded up; `None` if that exceeds 64 bits.
    pub fn thousandfold(self) -> Option<i64> {
        let thousand = X87DoubleExtended::from_u128(1000).value;
        let product = (self.0 * thousand).value;
        let rounded = product.to_i128_r(64, Round::TowardPositive, &mut false);
        let fits = !rounded.status.intersects(Status::INVALID_OP);
        fits.then(|| i64::try_from(rounded.value).ok())?
    }

    /// The number with at most 17 digits after the decimal point, without trailing zeros: the text
    /// that Redis stores.
    pub fn format(self) -> String {
        let negative = self.0.is_negative() && !self.0.is_zero();
        let magnitude = if self.0.is_negative() {
            -self.0
        } else {
            self.0
        };
        let mut text = fixed(magnitude);
        if text.contains('.') {
            let end = text.trim_end_matches('0').trim_end_matches('.').len();
            text.truncate(end);
        }
        if negative && text != "0" {
            text.insert(0, '-');
        } else if negative {
            // C prints the sign of a number that rounds to zero, and Redis removes it.
            return String::from("0");
        }
        text
    }
}

/// Reads digits without a sign; `None` unless all of the text is one number.
fn parse_magnitude(lower: &str) -> Option<X87DoubleExtended> {
    let (body, exponent_mark) = match lower.strip_prefix("0x") {
        Some(body) => (body, 'p'),
        None => (lower, 'e'),
    };
    let (mantissa, exponent) = match body.split_once(exponent_mark) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (body, None),
    };
    let is_digit = |b: u8| {
        if exponent_mark == 'p' {
            b.is_ascii_hexdigit()
        } else {
            b.is_ascii_digit()
        }
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let well_formed = whole.len() + fraction.len() > 0
        && whole.bytes().chain(fraction.bytes()).all(is_digit)
        && exponent.is_none_or(|exponent| {
            let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
            !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
        });
    if !well_formed {
        return None;
    }
    let whole = if whole.is_empty() { "0" } else { whole };
    let text = match (exponent_mark, exponent) {
        ('p', exponent) => format!("0x{whole}.{fraction}p{}", exponent.unwrap_or("0")),
        (_, Some(exponent)) => format!("{whole}.{fraction}e{exponent}"),
        (_, None) => format!("{whole}.{fraction}"),
    };
    X87DoubleExtended::from_str_r(&text, Round::NearestTiesToEven)
        .ok()
        .map(|parsed| parsed.value)
        // A number that is too large or too small is an error, as for C's `strtold`.
        .filter(|value| value.is_finite() && (!value.is_zero() || is_zero_text(mantissa)))
}

fn is_zero_text(mantissa: &str) -> bool {
    mantissa.bytes().all(|byte| matches!(byte, b'0' | b'.'))
}

/// `%.17Lf` of a non-negative finite number: exact, ties to even.
///
/// A number is `significand × 2^exponent` with a 64-bit significand. With a fraction, the significand
/// times 10^17 fits in 121 bits, so one shift rounds it. Without a fraction the number is an integer,
/// which is doubled digit by digit.
fn fixed(number: X87DoubleExtended) -> String {
    const SCALE: u128 = 100_000_000_000_000_000;
    if number.is_zero() {
        return String::from("0");
    }
    let bits = number.to_bits();
    let significand = bits & u128::from(u64::MAX);
    let exponent = ((bits >> 64) & 0x7fff) as i32 - 16_383 - 63;
    if exponent >= 0 {
        return integer_text(significand, exponent.unsigned_abs());
    }
    let shift = exponent.unsigned_abs();
    let scaled = significand * SCALE;
    let rounded = if shift >= 127 {
        0
    } else {
        let (quotient, rest, half) = (
            scaled >> shift,
            scaled & ((1 << shift) - 1),
            1_u128 << (shift - 1),
        );
        quotient + u128::from(rest > half || (rest == half && quotient & 1 == 1))
    };
    format!("{}.{:017}", rounded / SCALE, rounded % SCALE)
}

/// The decimal text of `significand × 2^doublings`.
fn integer_text(mut significand: u128, mut doublings: u32) -> String {
    const LIMB: u64 = 1_000_000_000;
    /// This many doublings of a limb, plus the carry, stay below 2^63.
    const DOUBLINGS_MAX: u32 = 32;
    let mut limbs = Vec::new();
    while significand > 0 {
        limbs.push((significand % u128::from(LIMB)) as u64);
        significand /= u128::from(LIMB);
    }
    while doublings > 0 {
        let step = doublings.min(DOUBLINGS_MAX);
        doublings -= step;
        let mut carry = 0;
        for limb in &mut limbs {
            let scaled = (*limb << step) + carry;
            (*limb, carry) = (scaled % LIMB, scaled / LIMB);
        }
        while carry > 0 {
            limbs.push(carry % LIMB);
            carry /= LIMB;
        }
    }
    let mut text = String::new();
    for (index, limb) in limbs.iter().rev().enumerate() {
        text += &if index == 0 {
            limb.to_string()
        } else {
            format!("{limb:09}")
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_converted_to_milliseconds_rounded_up() {
        for (seconds, expected) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("-0.0001", Some(0)),
            ("-0.5", Some(-500)),
            ("0.001", Some(1)),
            ("0.0011", Some(2)),
            ("1e-400", Some(1)),
            ("0x1p2", Some(4000)),
            ("9223372036854775.807", Some(i64::MAX)),
            ("9223372036854775.808", None),
            ("1e300", None),
            ("-1e300", None),
            ("inf", None),
        ] {
            let number = LongDouble::parse(seconds.as_bytes()).unwrap();
            assert_eq!(number.thousandfold(), expected, "{seconds}");
        }
    }

    fn sum(a: &str, b: &str) -> Option<String> {
        let a = LongDouble::parse(a.as_bytes())?;
        Some(a.checked_add(LongDouble::parse(b.as_bytes())?)?.format())
    }

    #[test]
    fn sums_equal_those_of_redis() {
        let seen = [
            ("0", "1.23", "1.23"),
            ("0.1", "0.2", "0.3"),
            ("10.5", "0.1", "10.6"),
            ("3.0e3", "200", "3200"),
            ("1", "-1", "0"),
            ("17179869184", "1.5", "17179869185.5"),
            ("1e19", "1", "10000000000000000001"),
            ("0x10", "1", "17"),
            (".5", "5.", "5.5"),
            ("1e20", "0", "100000000000000000000"),
            ("-0.5", "0.25", "-0.25"),
            ("0", "-1e-30", "0"),
        ];
        for (a, b, expected) in seen {
            assert_eq!(sum(a, b).as_deref(), Some(expected), "{a} + {b}");
        }
    }

    /// Fuzzing found that the largest numbers took milliseconds to print: they were doubled one bit at a time. Now they
    /// are doubled up to 32 bits at a time.
    #[test]
    fn integers_of_any_size_are_printed_exactly() {
        for significand in [1 << 63, u64::MAX, 0x9e37_79b9_7f4a_7c15] {
            let significand = u128::from(significand);
            for doublings in 0..64 {
                assert_eq!(
                    integer_text(significand, doublings),
                    (significand << doublings).to_string()
                );
            }
        }
        let largest = sum("1.18973149535723176502e+4932", "0").unwrap_or_default();
        assert_eq!(largest.len(), 4933);
        assert!(largest.starts_with("118973149535723176502126385303"));
        assert!(largest.ends_with("19552086811989770240"));
    }

    #[test]
    fn texts_that_are_not_numbers_are_rejected() {
        for bad in [
            "", " 1", "1 ", "abc", "nan", "1e", "0x", "1.2.3", "--1", "1_0", "e5", ".",
        ] {
            assert!(LongDouble::parse(bad.as_bytes()).is_none(), "{bad:?}");
        }
        assert!(sum("inf", "1").is_none());
        assert!(LongDouble::parse(b"1e5000").is_none() && LongDouble::parse(b"1e-6000").is_none());
        assert!(LongDouble::parse(b"0e-6000").is_some());
        assert!(sum("1e4932", "1e4932").is_none(), "overflow is not finite");
    }
}
