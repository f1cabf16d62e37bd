//! Numbers as memcached reads them: like C's `strtol` and `strtoull`, which skip leading blanks and stop at a blank.

/// The decimal digits of a number with an optional sign, up to a blank or the end; `None` if anything else follows.
fn split(text: &[u8]) -> Option<(bool, &[u8])> {
    let start = text.iter().position(|&byte| !is_blank(byte))?;
    let text = &text[start..];
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        [b'+', digits @ ..] => (false, digits),
        digits => (false, digits),
    };
    let len = digits.iter().position(|byte| !byte.is_ascii_digit());
    let (number, rest) = digits.split_at(len.unwrap_or(digits.len()));
    let ends = rest.first().is_none_or(|&byte| is_blank(byte));
    (ends && !number.is_empty()).then_some((is_negative, number))
}

/// White space as C's `isspace` defines it.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ')
}

fn magnitude(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |number, byte| {
        number.checked_mul(10)?.checked_add(u64::from(byte - b'0'))
    })
}

/// The usual number: only digits, which can't overflow.
#[inline]
fn plain(text: &[u8]) -> Option<u64> {
    const DIGITS_MAX: usize = 18;
    if text.is_empty() || text.len() > DIGITS_MAX {
        return None;
    }
    let mut number = 0;
    for byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        number = number * 10 + u64::from(digit);
    }
    Some(number)
}

/// An unsigned number of 64 bits.
#[inline]
pub fn unsigned(text: &[u8]) -> Option<u64> {
    plain(text).or_else(|| any_unsigned(text))
}

#[cold]
fn any_unsigned(text: &[u8]) -> Option<u64> {
    let (is_negative, digits) = split(text)?;
    let number = magnitude(digits)?;
    // C negates the number, and memcached then refuses those that look negative: all but those near -2^64.
    match is_negative {
        true if number == 0 => Some(0),
        true => None,
        false => Some(number),
    }
}

/// An unsigned number of 32 bits.
#[inline]
pub fn unsigned_32(text: &[u8]) -> Option<u32> {
    unsigned(text).and_then(|number| u32::try_from(number).ok())
}

/// A signed number of 64 bits.
#[inline]
pub fn signed(text: &[u8]) -> Option<i64> {
    match plain(text) {
        Some(number) => i64::try_from(number).ok(),
        None => any_signed(text),
    }
}

#[cold]
fn any_signed(text: &[u8]) -> Option<i64> {
    let (is_negative, digits) = split(text)?;
    let number = magnitude(digits)?;
    match is_negative {
        true => 0_i64.checked_sub_unsigned(number),
        false => i64::try_from(number).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_c_reads_them() {
        for (text, number) in [
            ("0", 0),
            ("007", 7),
            ("+5", 5),
            (" 12", 12),
            ("12 ", 12),
            ("12\tx", 12),
            ("-0", 0),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(unsigned(text.as_bytes()), Some(number), "{text:?}");
        }
        for text in [
            "",
            " ",
            "x",
            "1x",
            "-1",
            "+",
            "-",
            "18446744073709551616",
            "0x1",
            "1.0",
        ] {
            assert_eq!(unsigned(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(unsigned_32(b"4294967295"), Some(u32::MAX));
        assert_eq!(unsigned_32(b"4294967296"), None);
        for (text, number) in [("-1", -1), ("+1", 1), ("-9223372036854775808", i64::MIN)] {
            assert_eq!(signed(text.as_bytes()), Some(number), "{text:?}");
        }
        assert_eq!(signed(b"9223372036854775808"), None);
    }
}
