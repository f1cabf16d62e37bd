//! Numbers: integers in canonical form are parsed as by the standard library; a printed number is parsed as the
//! same number again.
#![no_main]

use damselfly_base::long_double::LongDouble;
use damselfly_base::number;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    integers(data);
    long_doubles(data);
    if let Some(bytes) = data.first_chunk() {
        doubles(f64::from_bits(u64::from_le_bytes(*bytes)));
    }
});

fn integers(text: &[u8]) {
    let canonical = str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse::<i64>().ok().filter(|n| n.to_string() == text));
    assert_eq!(number::parse_integer(text), canonical);
    if let Some(integer) = canonical {
        assert_eq!(number::parse_cursor(text), Some(integer as u64));
    }
    if let Some(bytes) = text.first_chunk() {
        let integer = i64::from_le_bytes(*bytes);
        let mut decimal = number::Decimal::new();
        assert_eq!(
            number::parse_integer(decimal.format(integer)),
            Some(integer)
        );
    }
}

/// Splits the bytes at the first blank into two numbers to add.
fn long_doubles(data: &[u8]) {
    let mut parts = data.splitn(2, |&byte| byte == b' ');
    let numbers = [parts.next(), parts.next()]
        .map(|text| text.and_then(|text| LongDouble::parse(text)?.checked_add(LongDouble::ZERO)));
    for (number, text) in numbers
        .into_iter()
        .zip(data.splitn(2, |&byte| byte == b' '))
    {
        let Some(number) = number else { continue };
        let shown = round_trip(number);
        // A double has fewer digits, so it is only near the printed number.
        if let Some(double) = str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse::<f64>().ok())
        {
            let near: f64 = shown.parse().expect("a printed number can be parsed");
            let error = (near - double).abs();
            assert!(
                near == double || error <= 1e-17 + double.abs() * 2.0 * f64::EPSILON,
                "{shown} for {double:e}"
            );
        }
    }
    if let [Some(a), Some(b)] = numbers {
        let (sum, swapped) = (a.checked_add(b), b.checked_add(a));
        assert_eq!(sum.map(LongDouble::format), swapped.map(LongDouble::format));
        sum.map(round_trip);
    }
}

/// The printed number is parsed as a number that prints the same.
fn round_trip(number: LongDouble) -> String {
    let shown = number.format();
    let again = LongDouble::parse(shown.as_bytes()).map(LongDouble::format);
    assert_eq!(again.as_ref(), Some(&shown));
    shown
}

fn doubles(double: f64) {
    let text = damselfly_base::double::DoubleText::new(double);
    let shown = std::str::from_utf8(text.as_bytes()).expect("a number is ASCII");
    let again: f64 = shown.parse().expect("a printed number can be parsed");
    assert!(
        again == double || double.is_nan() && again.is_nan(),
        "{shown} for {double:e}"
    );
}
