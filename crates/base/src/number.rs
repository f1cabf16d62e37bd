//! Integers as Redis reads and writes them.
//!
//! Parsing is ours because `str::parse`, `atoi` and `lexical` read `-0`, which Redis rejects (and by default `+1` and
//! `01`), and because cursors need the rules of `strtoul`.

/// Reads a decimal integer in canonical form: no sign but `-`, no leading zero, no blank, within 64
/// bits. Only a value in this form can be stored as an integer and returned byte for byte.
#[inline]
pub fn parse_integer(text: &[u8]) -> Option<i64> {
    let digits = match text {
        [b'0'] => return Some(0),
        [b'-', rest @ ..] => rest,
        _ => text,
    };
    if !matches!(digits, [b'1'..=b'9', ..]) || digits.len() > 19 {
        return None;
    }
    // Nineteen digits fit in u64, so no step overflows.
    let mut magnitude = 0_u64;
    for &byte in digits {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        magnitude = magnitude * 10 + u64::from(digit);
    }
    if digits.len() == text.len() {
        i64::try_from(magnitude).ok()
    } else {
        0_i64.checked_sub_unsigned(magnitude)
    }
}

/// Reads a cursor as leniently as C's `strtoul`: digits after an optional sign, where a minus counts down
/// from 2^64. An empty text is zero, and a zero byte ends the text.
pub fn parse_cursor(text: &[u8]) -> Option<u64> {
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return text.is_empty().then_some(0);
    }
    let all_digits = digits.iter().all(u8::is_ascii_digit);
    let number: u64 = std::str::from_utf8(digits)
        .ok()
        .filter(|_| all_digits)?
        .parse()
        .ok()?;
    Some(if negative {
        number.wrapping_neg()
    } else {
        number
    })
}

/// An integer's decimal text, without allocating.
#[derive(Default)]
#[allow(missing_debug_implementations)]
pub struct Decimal(itoa::Buffer);

impl Decimal {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::default()
    }

    /// The canonical text of `number`.
    #[inline]
    pub fn format(&mut self, number: i64) -> &[u8] {
        self.0.format(number).as_bytes()
    }

    /// The canonical text of an unsigned number.
    #[inline]
    pub fn format_unsigned(&mut self, number: u64) -> &[u8] {
        self.0.format(number).as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_canonical_integers_are_read() {
        for good in [0, 1, -1, 10, i64::MAX, i64::MIN, i64::MAX - 1, -10] {
            assert_eq!(parse_integer(good.to_string().as_bytes()), Some(good));
        }
        for bad in [
            "",
            "-",
            "+1",
            "01",
            "-0",
            "-01",
            " 1",
            "1 ",
            "1.0",
            "1e3",
            "0x1",
            "a",
            "00",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999",
            "1\0",
        ] {
            assert_eq!(parse_integer(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(parse_cursor(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(parse_cursor(b"18446744073709551616"), None);
        assert_eq!(parse_cursor(b"-1"), Some(u64::MAX));
        assert_eq!(parse_cursor(b""), Some(0));
        assert_eq!(parse_cursor(b"1\0x"), Some(1));
        for bad in ["-", "x", "1x", " 1", "1 "] {
            assert_eq!(parse_cursor(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
