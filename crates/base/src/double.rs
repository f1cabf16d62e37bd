//! Floating point numbers as Redis reads and writes them: as C's `strtod` and `%.17g` do.
//!
//! Ours because `ryu`, `zmij` and `lexical` print the shortest digits (0.1, where `%.17g` prints 0.10000000000000001),
//! and because `str::parse` and `lexical` do not report numbers out of range as `strtod` does.

use std::io::Write as _;

use rustc_apfloat::ieee::Double;
use rustc_apfloat::{Float, Round};

/// Significant digits of a double: enough to distinguish any two.
const DIGITS: usize = 17;

/// The most bytes of a double in scientific form: sign, digits, point, `e-308`; rounded up.
const SCIENTIFIC_BYTES_MAX: usize = 32;

/// Integers below this print all their digits, and an `i64` holds them exactly.
const INTEGER_MAX: f64 = 1e15;

/// The text of a double, without allocating.
#[derive(Clone, Copy, Debug)]
pub struct DoubleText {
    bytes: [u8; SCIENTIFIC_BYTES_MAX],
    len: usize,
}

impl DoubleText {
    /// `value` with 17 significant digits, without trailing zeros: `1.5`, `3e+20`, `0.10000000000000001`, `inf`, `-nan`.
    pub fn new(value: f64) -> Self {
        let mut text = Self {
            bytes: [0; SCIENTIFIC_BYTES_MAX],
            len: 0,
        };
        if let Some(integer) = as_integer(value) {
            text.push(itoa::Buffer::new().format(integer).as_bytes());
            return text;
        }
        if value.is_sign_negative() {
            text.push(b"-");
        }
        if value.is_nan() {
            text.push(b"nan");
        } else if value.is_infinite() {
            text.push(b"inf");
        } else {
            text.push_positive(value.abs());
        }
        text
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn push_positive(&mut self, value: f64) {
        let decimal = Decimal::of(value);
        let digits = decimal.significant();
        let whole_digits = decimal.exponent + 1;
        match whole_digits {
            -3..=0 => {
                self.push(&b"0.0000"[..2 + whole_digits.unsigned_abs() as usize]);
                self.push(digits);
            }
            1..=17 => {
                let (whole, fraction) = decimal
                    .digits
                    .split_at(whole_digits.unsigned_abs() as usize);
                self.push(whole);
                if digits.len() > whole.len() {
                    self.push(b".");
                    self.push(&fraction[..digits.len() - whole.len()]);
                }
            }
            _ => {
                self.push(&digits[..1]);
                if digits.len() > 1 {
                    self.push(b".");
                    self.push(&digits[1..]);
                }
                self.push(if decimal.exponent < 0 { b"e-" } else { b"e+" });
                let exponent = decimal.exponent.unsigned_abs();
                if exponent < 10 {
                    self.push(b"0");
                }
                self.push(itoa::Buffer::new().format(exponent).as_bytes());
            }
        }
    }
}

/// The integer with the same text as `value`, if there is one. The text of minus zero is `-0`.
#[inline]
pub fn as_integer(value: f64) -> Option<i64> {
    let is_integer = value.abs() < INTEGER_MAX && value.trunc() == value;
    let is_minus_zero = value == 0.0 && value.is_sign_negative();
    (is_integer && !is_minus_zero).then_some(value as i64)
}

/// Reads `text` as one number: decimal, hexadecimal or infinite, without blanks. NaN and numbers that are too large or
/// too small are `None`. This is what Redis accepts as a float.
pub fn parse(text: &[u8]) -> Option<f64> {
    let first = text.first()?;
    if first.is_ascii_whitespace() || *first == VERTICAL_TAB {
        return None;
    }
    let read = read(text);
    (read.used == text.len() && !read.is_out_of_range && !read.value.is_nan()).then_some(read.value)
}

/// Reads a number as C's `strtod` does, as Redis reads the bounds of score ranges: a zero byte ends the text, blanks may
/// come first, an empty text is zero, and a number that is too large is infinite. `None` if anything follows the number,
/// or for NaN.
pub fn parse_leniently(text: &[u8]) -> Option<f64> {
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    let read = read(text);
    (read.used == text.len() && !read.value.is_nan()).then_some(read.value)
}

/// Like [`parse_leniently`], but `None` also for numbers that are too large or too small, including subnormal ones. This
/// is what Redis accepts as a weight to sort by.
pub fn parse_in_range(text: &[u8]) -> Option<f64> {
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    let read = read(text);
    let is_in_range = !read.is_out_of_range && !read.value.is_subnormal();
    (read.used == text.len() && is_in_range && !read.value.is_nan()).then_some(read.value)
}

const VERTICAL_TAB: u8 = 0x0b;

/// A number read from the beginning of a text.
struct Read {
    value: f64,
    /// Its length in bytes; 0 if the text does not begin with a number.
    used: usize,
    is_out_of_range: bool,
}

/// Reads the longest number at the beginning of a text.
fn read(text: &[u8]) -> Read {
    let is_blank = |byte: &u8| byte.is_ascii_whitespace() || *byte == VERTICAL_TAB;
    let blanks = text.iter().take_while(|byte| is_blank(byte)).count();
    let (negative, sign) = match text[blanks..] {
        [b'-', ..] => (true, 1),
        [b'+', ..] => (false, 1),
        _ => (false, 0),
    };
    let body = &text[blanks + sign..];
    let (magnitude, used, is_out_of_range) = read_magnitude(body);
    Read {
        value: if negative { -magnitude } else { magnitude },
        used: if used == 0 { 0 } else { blanks + sign + used },
        is_out_of_range,
    }
}

/// Reads a number without a sign; returns it, its length in bytes, and whether it is out of range.
fn read_magnitude(body: &[u8]) -> (f64, usize, bool) {
    let starts_with = |word: &[u8]| {
        body.get(..word.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(word))
    };
    if starts_with(b"infinity") {
        return (f64::INFINITY, 8, false);
    }
    if starts_with(b"inf") {
        return (f64::INFINITY, 3, false);
    }
    if starts_with(b"nan") {
        return (f64::NAN, 3 + nan_suffix(&body[3..]), false);
    }
    if starts_with(b"0x") {
        let shape = Shape::of(&body[2..], u8::is_ascii_hexdigit, b'p');
        if shape.mantissa > 0 {
            let (value, is_out_of_range) = hexadecimal(&body[2..], &shape);
            return (value, 2 + shape.end, is_out_of_range);
        }
    }
    let shape = Shape::of(body, u8::is_ascii_digit, b'e');
    if shape.mantissa == 0 {
        return (0.0, 0, false);
    }
    let number = std::str::from_utf8(&body[..shape.end]).map(str::parse);
    let value: f64 = number.map_or(Ok(0.0), |value| value).unwrap_or(0.0);
    (value, shape.end, shape.is_out_of_range(body, value))
}

/// The length of the `(chars)` that may follow `nan`.
fn nan_suffix(rest: &[u8]) -> usize {
    let is_inner = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    match rest {
        [b'(', rest @ ..] => {
            let inner = rest.iter().take_while(|byte| is_inner(byte)).count();
            if rest.get(inner) == Some(&b')') {
                inner + 2
            } else {
                0
            }
        }
        _ => 0,
    }
}

/// The ends of the parts of a number; all zero if it has no digit.
#[derive(Default)]
struct Shape {
    whole: usize,
    mantissa: usize,
    end: usize,
}

impl Shape {
    fn of(text: &[u8], is_digit: fn(&u8) -> bool, mark: u8) -> Self {
        let digits = |from: usize| {
            text[from..]
                .iter()
                .take_while(|byte| is_digit(byte))
                .count()
        };
        let whole = digits(0);
        let mut mantissa = whole;
        if text.get(whole) == Some(&b'.') {
            let fraction = digits(whole + 1);
            if whole + fraction == 0 {
                return Self::default();
            }
            mantissa += 1 + fraction;
        }
        let mut end = mantissa;
        if mantissa > 0
            && text
                .get(end)
                .is_some_and(|byte| byte.eq_ignore_ascii_case(&mark))
        {
            let sign = usize::from(matches!(text.get(end + 1), Some(b'+' | b'-')));
            let first = end + 1 + sign;
            let digits = text.get(first..).unwrap_or_default();
            let digits = digits
                .iter()
                .take_while(|byte| byte.is_ascii_digit())
                .count();
            if digits > 0 {
                end = first + digits;
            }
        }
        Self {
            whole,
            mantissa,
            end,
        }
    }

    /// Whether a finite number became infinite, or a non-zero number became zero.
    fn is_out_of_range(&self, text: &[u8], value: f64) -> bool {
        let is_zero = |byte: &u8| matches!(byte, b'0' | b'.');
        value.is_infinite() || value == 0.0 && !text[..self.mantissa].iter().all(is_zero)
    }
}

/// The value of hexadecimal digits with a binary exponent.
fn hexadecimal(text: &[u8], shape: &Shape) -> (f64, bool) {
    /// With a greater exponent, any number of a sane length is out of range.
    const EXPONENT_MAX: i64 = 100_000;
    let part = |range: std::ops::Range<usize>| {
        let bytes = text.get(range).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    };
    let exponent = match part(shape.mantissa + 1..shape.end) {
        "" => 0,
        exponent => exponent.parse().unwrap_or(if exponent.starts_with('-') {
            -EXPONENT_MAX
        } else {
            EXPONENT_MAX
        }),
    };
    let exponent = exponent.clamp(-EXPONENT_MAX, EXPONENT_MAX);
    let whole = part(0..shape.whole);
    let fraction = part(shape.whole + 1..shape.mantissa);
    let number = format!("0x0{whole}.{fraction}0p{exponent}");
    let parsed = Double::from_str_r(&number, Round::NearestTiesToEven);
    let bits = parsed.map_or(0, |parsed| parsed.value.to_bits());
    let value = f64::from_bits(bits as u64);
    (value, shape.is_out_of_range(text, value))
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

    /// The digits without trailing zeros, but at least one.
    fn significant(&self) -> &[u8] {
        let zeros = self.digits[1..]
            .iter()
            .rev()
            .take_while(|&&digit| digit == b'0')
            .count();
        &self.digits[..DIGITS - zeros]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_read_as_redis_reads_them() {
        let seen: &[(&[u8], Option<f64>)] = &[
            (b"1", Some(1.0)),
            (b"-1.5", Some(-1.5)),
            (b"+1.5e3", Some(1500.0)),
            (b".5", Some(0.5)),
            (b"5.", Some(5.0)),
            (b"1.e2", Some(100.0)),
            (b"0x10", Some(16.0)),
            (b"0X.8p1", Some(1.0)),
            (b"-0x1.8p-1", Some(-0.75)),
            (b"inf", Some(f64::INFINITY)),
            (b"-INFINITY", Some(f64::NEG_INFINITY)),
            (b"1e308", Some(1e308)),
            (b"5e-324", Some(5e-324)),
            (b"0e-999", Some(0.0)),
            (b"0x0p99999999999999999999", Some(0.0)),
            (b"", None),
            (b".", None),
            (b"-", None),
            (b" 1", None),
            (b"1 ", None),
            (b"1\0", None),
            (b"1e", None),
            (b"1e+", None),
            (b"0x", None),
            (b"0x1p", None),
            (b"1e309", None),
            (b"1e-400", None),
            (b"0x1p-99999999999999999999", None),
            (b"0x1p99999", None),
            (b"nan", None),
            (b"-nan(12)", None),
            (b"infinit", None),
        ];
        for &(text, value) in seen {
            assert_eq!(parse(text), value, "{}", text.escape_ascii());
        }
    }

    #[test]
    fn bounds_of_ranges_are_read_leniently() {
        let seen: &[(&[u8], Option<f64>)] = &[
            (b"", Some(0.0)),
            (b" \t\x0b1", Some(1.0)),
            (b"1\0abc", Some(1.0)),
            (b"\0", Some(0.0)),
            (b"1e999", Some(f64::INFINITY)),
            (b"-1e-999", Some(0.0)),
            (b" ", None),
            (b"1 ", None),
            (b"nan", None),
            (b"(1", None),
        ];
        for &(text, value) in seen {
            assert_eq!(parse_leniently(text), value, "{}", text.escape_ascii());
        }
    }
}
