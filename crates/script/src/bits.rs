//! The table `bit`: operations on 32-bit integers. Results are signed.

use crate::lua::{Function, Outcome, Raise, Stack};
use crate::sandbox::set_functions;

const FUNCTIONS: &[(&str, Function)] = &[
    ("tobit", to_bit),
    ("tohex", to_hex),
    ("bnot", not),
    ("band", |stack| fold(stack, |left, right| left & right)),
    ("bor", |stack| fold(stack, |left, right| left | right)),
    ("bxor", |stack| fold(stack, |left, right| left ^ right)),
    ("lshift", |stack| shift(stack, |bits, by| bits << by)),
    ("rshift", |stack| shift(stack, |bits, by| bits >> by)),
    ("arshift", |stack| {
        shift(stack, |bits, by| (bits.cast_signed() >> by).cast_unsigned())
    }),
    ("rol", |stack| shift(stack, u32::rotate_left)),
    ("ror", |stack| shift(stack, u32::rotate_right)),
    ("bswap", swap),
];

/// Pushes the library's table.
pub(crate) fn push(stack: &mut Stack<'_>) {
    stack.push_table(0, FUNCTIONS.len());
    set_functions(stack, -1, FUNCTIONS);
}

/// The lower 32 bits of argument `argument`, rounded to an integer.
fn bits(stack: &Stack<'_>, argument: i32) -> Result<u32, Raise> {
    // Adding 2^52 + 2^51 moves the integer into the lower bits of the double.
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    let number = stack.check_number(argument)?;
    Ok((number + SHIFT).to_bits() as u32)
}

fn result(stack: &mut Stack<'_>, bits: u32) -> Outcome {
    stack.push_number(f64::from(bits.cast_signed()));
    Ok(1)
}

fn to_bit(stack: &mut Stack<'_>) -> Outcome {
    let bits = bits(stack, 1)?;
    result(stack, bits)
}

fn not(stack: &mut Stack<'_>) -> Outcome {
    let bits = bits(stack, 1)?;
    result(stack, !bits)
}

fn swap(stack: &mut Stack<'_>) -> Outcome {
    let bits = bits(stack, 1)?;
    result(stack, bits.swap_bytes())
}

fn fold(stack: &mut Stack<'_>, operation: fn(u32, u32) -> u32) -> Outcome {
    let mut folded = bits(stack, 1)?;
    for argument in 2..=stack.top() {
        folded = operation(folded, bits(stack, argument)?);
    }
    result(stack, folded)
}

fn shift(stack: &mut Stack<'_>, operation: fn(u32, u32) -> u32) -> Outcome {
    let shifted = bits(stack, 1)?;
    let by = bits(stack, 2)? & 31;
    result(stack, operation(shifted, by))
}

/// `bit.tohex(number [, digits])`: a negative number of digits means upper case.
fn to_hex(stack: &mut Stack<'_>) -> Outcome {
    let number = bits(stack, 1)?;
    let digits = match stack.top() {
        ..=1 => 8,
        _ => bits(stack, 2)?.cast_signed(),
    };
    let text = match digits < 0 {
        true => format!("{number:08X}"),
        false => format!("{number:08x}"),
    };
    let shown = digits.unsigned_abs().min(8) as usize;
    stack.push_bytes(&text.as_bytes()[8 - shown..]);
    Ok(1)
}
