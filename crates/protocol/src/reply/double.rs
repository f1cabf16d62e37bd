//! Writes floating point numbers as C's `%.17g` does, which is what Redis sends.

use std::io::Write as _;

/// Significant digits of a double: enough to tell any two apart.
const DIGITS: usize = 17;

/// The most bytes of a double in scientific form: sign, digits, point, `e-308`; rounded up.
const SCIENTIFIC_BYTES_MAX: usize = 32;

/// Integers below this print all their digits, and an `i64` holds them exactly.
const INTEGER_MAX: f64 = 1e15;

/// Appends `value` with 17 significant digits, without trailing zeros: `1.5`, `3e+20`,
/// `0.10000000000000001`, `inf`, `-nan`.
pub fn write_double(out: &mut Vec<u8>, value: f64) {
    if let Some(integer) = as_integer(value) {
        out.extend_from_slice(itoa::Buffer::new().format(integer).as_bytes());
        return;
    }
    if value.is_sign_negative() {
        out.push(b'-');
    }
    if value.is_nan() {
        out.extend_from_slice(b"nan");
    } else if value.is_infinite() {
        out.extend_from_slice(b"inf");
    } else {
        write_positive(out, value.abs());
    }
}

/// The integer that spells like `value`, if there is one. Minus zero spells `-0`.
pub(super) fn as_integer(value: f64) -> Option<i64> {
    let is_integer = value.abs() < INTEGER_MAX && value.trunc() == value;
    let is_minus_zero = value == 0.0 && value.is_sign_negative();
    (is_integer && !is_minus_zero).then_some(value as i64)
}

fn write_positive(out: &mut Vec<u8>, value: f64) {
    let decimal = Decimal::of(value);
    let digits = decimal.significant();
    let whole_digits = decimal.exponent + 1;
    match whole_digits {
        -3..=0 => {
            out.extend_from_slice(&b"0.0000"[..2 + whole_digits.unsigned_abs() as usize]);
            out.extend_from_slice(digits);
        }
        1..=17 => {
            let (whole, fraction) = decimal
                .digits
                .split_at(whole_digits.unsigned_abs() as usize);
            out.extend_from_slice(whole);
            if digits.len() > whole.len() {
                out.push(b'.');
                out.extend_from_slice(&fraction[..digits.len() - whole.len()]);
            }
        }
        _ => {
            out.push(digits[0]);
            if digits.len() > 1 {
                out.push(b'.');
                out.extend_from_slice(&digits[1..]);
            }
            out.extend_from_slice(if decimal.exponent < 0 { b"e-" } else { b"e+" });
            let exponent = decimal.exponent.unsigned_abs();
            if exponent < 10 {
                out.push(b'0');
            }
            out.extend_from_slice(itoa::Buffer::new().format(exponent).as_bytes());
        }
    }
}

/// A number as `d.dddd... * 10^exponent`.
struct Decimal {
    digits: [u8; DIGITS],
    exponent: i32,
}

impl Decimal {
    /// Rounds `value`, which is finite and not negative, to [`DIGITS`] digits.
    fn of(value: f64) -> Decimal {
        let mut buffer = [0; SCIENTIFIC_BYTES_MAX];
        let mut rest = &mut buffer[..];
        write!(rest, "{value:.*e}", DIGITS - 1).expect("the buffer is long enough");
        let unused = rest.len();
        let text = &buffer[..SCIENTIFIC_BYTES_MAX - unused];
        let mut digits = [text[0]; DIGITS];
        digits[1..].copy_from_slice(&text[2..=DIGITS]);
        let (negative, exponent) = match &text[DIGITS + 2..] {
            [b'-', exponent @ ..] => (true, exponent),
            exponent => (false, exponent),
        };
        let exponent = exponent
            .iter()
            .fold(0, |sum, byte| sum * 10 + i32::from(byte - b'0'));
        Decimal {
            digits,
            exponent: if negative { -exponent } else { exponent },
        }
    }

    /// The digits without the zeros at their end, but at least one.
    fn significant(&self) -> &[u8] {
        let zeros = self.digits[1..]
            .iter()
            .rev()
            .take_while(|&&digit| digit == b'0')
            .count();
        &self.digits[..DIGITS - zeros]
    }
}
