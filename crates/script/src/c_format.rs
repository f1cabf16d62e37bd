//! Numbers as C's `printf` writes them, and strings as C reads them.

/// `number` as `%.{precision}g` writes it.
pub(crate) fn general(number: f64, precision: usize) -> String {
    if number.is_nan() {
        // C shows the sign of a NaN.
        return if number.is_sign_negative() {
            "-nan"
        } else {
            "nan"
        }
        .into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.into();
    }
    let precision = precision.max(1);
    if let Some(integer) = exact_integer(number)
        && integer.unsigned_abs() < 10_u64.pow(precision.min(15) as u32)
    {
        return itoa::Buffer::new().format(integer).into();
    }
    let scientific = format!("{number:.*e}", precision - 1);
    let (digits, exponent) = scientific
        .split_once('e')
        .expect("Rust writes an exponent after `e`");
    let exponent: i32 = exponent.parse().expect("an exponent is an integer");
    if exponent < -4 || exponent >= precision as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!(
            "{}e{sign}{:02}",
            without_zeros(digits),
            exponent.unsigned_abs()
        );
    }
    let decimals = usize::try_from(precision as i32 - 1 - exponent).unwrap_or(0);
    without_zeros(&format!("{number:.decimals$}")).to_string()
}

/// `number` as an integer, if it is one that a double holds exactly; `None` for -0.
fn exact_integer(number: f64) -> Option<i64> {
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let is_exact = number.fract() == 0.0
        && number.abs() < EXACT_MAX
        && (number != 0.0 || number.is_sign_positive());
    is_exact.then_some(number as i64)
}

/// `digits` without the trailing zeros of the fraction.
fn without_zeros(digits: &str) -> &str {
    if !digits.contains('.') {
        return digits;
    }
    digits.trim_end_matches('0').trim_end_matches('.')
}

/// The part of a string that C reads: up to the first zero byte.
pub(crate) fn up_to_zero(text: &[u8]) -> &[u8] {
    text.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Appends `number` in the format of a command argument: `%.17g`.
pub(crate) fn push_argument(out: &mut Vec<u8>, number: f64) {
    if let Some(integer) = exact_integer(number) {
        out.extend_from_slice(itoa::Buffer::new().format(integer).as_bytes());
        return;
    }
    out.extend_from_slice(general(number, 17).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_look_as_in_c() {
        for (number, precision, text) in [
            (0.0, 14, "0"),
            (-0.0, 14, "-0"),
            (1.0, 14, "1"),
            (0.1, 14, "0.1"),
            (0.1, 17, "0.10000000000000001"),
            (1e14, 14, "1e+14"),
            (123456.0, 14, "123456"),
            (1e-5, 14, "1e-05"),
            (0.0001, 14, "0.0001"),
            (3.7, 3, "3.7"),
            (99.99, 3, "100"),
            (999.9, 3, "1e+03"),
            (1e300, 17, "1.0000000000000001e+300"),
            (f64::INFINITY, 14, "inf"),
            (f64::NEG_INFINITY, 14, "-inf"),
        ] {
            assert_eq!(general(number, precision), text);
        }
    }

    #[test]
    fn whole_arguments_are_integers() {
        let text = |number| {
            let mut out = Vec::new();
            push_argument(&mut out, number);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(10.0), "10");
        assert_eq!(text(-3.0), "-3");
        assert_eq!(text(-0.0), "-0");
        assert_eq!(text(1e20), "1e+20");
        assert_eq!(text(1.5), "1.5");
    }
}
