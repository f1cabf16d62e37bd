//! The table `struct`: numbers and strings in the layout of C's structures.
//!
//! | option       | value                                                                |
//! |--------------|----------------------------------------------------------------------|
//! | `>` `<`      | none: big, little endian from here on                                |
//! | `!n`         | none: align to at most n bytes from here on                          |
//! | `x`          | a byte of padding                                                    |
//! | `b` `B`      | 1 byte, signed, unsigned; so `h` 2, `l` 8, `T` 8, `in` n (default 4) |
//! | `f` `d`      | float, double                                                        |
//! | `s`          | a string up to its zero byte                                         |
//! | `cn`         | n bytes; `c0`: the whole string, or the length is the number before  |

use crate::bounded_buffer::BoundedBuffer;
use crate::c_format::up_to_zero;
use crate::lua::{Function, Outcome, Raise, Stack};
use crate::sandbox::set_functions;

const FUNCTIONS: &[(&str, Function)] = &[("pack", pack), ("unpack", unpack), ("size", size)];

/// The widest integer, in bytes.
const INTEGER_BYTES_MAX: usize = 32;
/// The alignment of `!` without a number.
const ALIGNMENT_DEFAULT: usize = 8;

/// Pushes the library's table.
pub(crate) fn push(stack: &mut Stack<'_>) {
    stack.push_table(0, FUNCTIONS.len());
    set_functions(stack, -1, FUNCTIONS);
}

/// Reads a format.
struct Format {
    rest: std::vec::IntoIter<u8>,
    is_big_endian: bool,
    alignment: usize,
}

/// An option of a format, and the size of its value; 0 if that depends on the value.
struct Item {
    option: u8,
    size: usize,
}

impl Format {
    /// The format in the first argument. It ends at a zero byte.
    fn new(stack: &mut Stack<'_>) -> Result<Format, Raise> {
        // A copy, because the stack changes while the format is read.
        let text = up_to_zero(stack.check_text(1)?).to_vec();
        Ok(Format {
            rest: text.into_iter(),
            is_big_endian: cfg!(target_endian = "big"),
            alignment: 1,
        })
    }

    fn next(&mut self) -> Result<Option<Item>, Raise> {
        let Some(option) = self.rest.next() else {
            return Ok(None);
        };
        let size = match option {
            b'b' | b'B' | b'x' => 1,
            b'h' | b'H' => 2,
            b'l' | b'L' | b'T' | b'd' => 8,
            b'f' => 4,
            b'c' => self.number(1)?,
            b'i' | b'I' => {
                let size = self.number(4)?;
                if size > INTEGER_BYTES_MAX {
                    return Err(Raise::here(format!(
                        "integral size {size} is larger than limit of {INTEGER_BYTES_MAX}"
                    )));
                }
                size
            }
            _ => 0,
        };
        Ok(Some(Item { option, size }))
    }

    /// The number that follows, or `default` if there is none.
    fn number(&mut self, default: usize) -> Result<usize, Raise> {
        let digits = self.rest.as_slice();
        let len = digits
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        if len == 0 {
            return Ok(default);
        }
        let mut number = 0_i32;
        for digit in self.rest.by_ref().take(len) {
            number = number
                .checked_mul(10)
                .and_then(|number| number.checked_add(i32::from(digit - b'0')))
                .ok_or_else(|| Raise::here("integral size overflow"))?;
        }
        Ok(usize::try_from(number).unwrap_or(0))
    }

    /// The bytes of padding that an item needs at `position`.
    fn padding(&self, position: usize, item: &Item) -> usize {
        if item.size == 0 || item.option == b'c' {
            return 0;
        }
        let size = item.size.min(self.alignment);
        // The original C code computes the same for a size that is not a power of two.
        size.wrapping_sub(position & (size - 1)) & (size - 1)
    }

    /// Applies an option that has no value.
    fn control(&mut self, option: u8) -> Result<(), Raise> {
        match option {
            b' ' => {}
            b'>' => self.is_big_endian = true,
            b'<' => self.is_big_endian = false,
            b'!' => {
                let alignment = self.number(ALIGNMENT_DEFAULT)?;
                if !alignment.is_power_of_two() {
                    return Err(Raise::here(format!(
                        "alignment {alignment} is not a power of 2"
                    )));
                }
                self.alignment = alignment;
            }
            _ => {
                let option = char::from(option);
                return Err(Raise::Argument(
                    1,
                    format!("invalid format option '{option}'"),
                ));
            }
        }
        Ok(())
    }

    /// Converts little-endian `bytes` to or from the current byte order.
    fn ordered<const N: usize>(&self, mut bytes: [u8; N]) -> [u8; N] {
        if self.is_big_endian {
            bytes.reverse();
        }
        bytes
    }
}

fn is_integer(option: u8) -> bool {
    matches!(
        option,
        b'b' | b'B' | b'h' | b'H' | b'l' | b'L' | b'i' | b'I' | b'T'
    )
}

/// `struct.pack(format, values...)`
fn pack(stack: &mut Stack<'_>) -> Outcome {
    let mut format = Format::new(stack)?;
    let mut out = BoundedBuffer::new(stack);
    // In Redis, error messages call a missing argument nil.
    stack.push_nil();
    let mut argument = 2;
    while let Some(item) = format.next()? {
        stack.context().spend(1)?;
        for _ in 0..format.padding(out.bytes().len(), &item) {
            out.push(0)?;
        }
        match item.option {
            option if is_integer(option) => {
                let number = stack.check_number(argument)?;
                let mut bytes = integer_bytes(number, item.size);
                if format.is_big_endian {
                    bytes.reverse();
                }
                out.extend(&bytes)?;
                argument += 1;
            }
            b'x' => out.push(0)?,
            b'f' => {
                let number = stack.check_number(argument)? as f32;
                out.extend(&format.ordered(number.to_le_bytes()))?;
                argument += 1;
            }
            b'd' => {
                let number = stack.check_number(argument)?;
                out.extend(&format.ordered(number.to_le_bytes()))?;
                argument += 1;
            }
            b'c' | b's' => {
                let text = stack.check_text(argument)?;
                argument += 1;
                let size = if item.size == 0 {
                    text.len()
                } else {
                    item.size
                };
                let Some(text) = text.get(..size) else {
                    return Err(Raise::Argument(argument, "string too short".into()));
                };
                out.extend(text)?;
                if item.option == b's' {
                    out.push(0)?;
                }
            }
            option => format.control(option)?,
        }
    }
    stack.push_bytes(out.bytes());
    Ok(1)
}

/// The lowest `size` bytes of an integer, little endian, converted like C's casts on x86.
fn integer_bytes(number: f64, size: usize) -> Vec<u8> {
    let value = if number < 0.0 {
        crate::lua::truncated(number).cast_unsigned()
    } else {
        unsigned(number)
    };
    let mut bytes = value.to_le_bytes().to_vec();
    bytes.resize(size, 0);
    bytes
}

/// A double as x86 casts it to an unsigned 64-bit integer.
fn unsigned(number: f64) -> u64 {
    const HALF: f64 = 9_223_372_036_854_775_808.0;
    // NaN takes the same branch as values that fit.
    if number
        .partial_cmp(&HALF)
        .is_none_or(std::cmp::Ordering::is_lt)
    {
        return crate::lua::truncated(number).cast_unsigned();
    }
    crate::lua::truncated(number - HALF).cast_unsigned() ^ (1 << 63)
}

/// `struct.unpack(format, data [, position])`: the values, and the position after them.
fn unpack(stack: &mut Stack<'_>) -> Outcome {
    let mut format = Format::new(stack)?;
    let data = stack.check_text(2)?.to_vec();
    let start = stack.optional_integer(3, 1)?;
    if start == 0 {
        return Err(Raise::Argument(3, "offset must be 1 or greater".into()));
    }
    // A negative position wraps to one far past the end.
    let mut position = start.wrapping_sub(1).cast_unsigned() as usize;
    let mut results = 0_usize;
    let too_short = || Raise::Argument(2, "data string too short".into());
    while let Some(item) = format.next()? {
        stack.context().spend_bytes(item.size)?;
        position = position.saturating_add(format.padding(position, &item));
        let mut size = item.size;
        let value = bytes_at(&data, position, size).ok_or_else(too_short)?;
        if !stack.reserve(2) {
            return Err(Raise::here("stack overflow (too many results)"));
        }
        match item.option {
            option if is_integer(option) => {
                let is_signed = option.is_ascii_lowercase();
                let number = integer(value, format.is_big_endian, is_signed);
                stack.push_number(number);
                results += 1;
            }
            b'x' => {}
            b'f' => {
                let bytes = value.try_into().map_err(|_| too_short())?;
                let number = f32::from_le_bytes(format.ordered(bytes));
                stack.push_number(f64::from(number));
                results += 1;
            }
            b'd' => {
                let bytes = value.try_into().map_err(|_| too_short())?;
                stack.push_number(f64::from_le_bytes(format.ordered(bytes)));
                results += 1;
            }
            b'c' => {
                if size == 0 {
                    let previous = (results > 0).then(|| stack.to_number(-1)).flatten();
                    let Some(previous) = previous else {
                        return Err(Raise::here("format 'c0' needs a previous size"));
                    };
                    size = usize::try_from(unsigned(previous)).unwrap_or(usize::MAX);
                    stack.pop(1);
                    results -= 1;
                }
                let value = bytes_at(&data, position, size).ok_or_else(too_short)?;
                stack.push_bytes(value);
                results += 1;
            }
            b's' => {
                let rest = &data[position..];
                let Some(len) = rest.iter().position(|&byte| byte == 0) else {
                    return Err(Raise::here("unfinished string in data"));
                };
                stack.push_bytes(&rest[..len]);
                size = len + 1;
                results += 1;
            }
            option => format.control(option)?,
        }
        position = position.wrapping_add(size);
    }
    let next = (position as u64).wrapping_add(1).cast_signed();
    stack.push_number(next as f64);
    Ok(results + 1)
}

/// The `size` bytes at `position`; `None` if `data` is too short.
fn bytes_at(data: &[u8], position: usize, size: usize) -> Option<&[u8]> {
    data.get(position..position.checked_add(size)?)
}

fn integer(bytes: &[u8], is_big_endian: bool, is_signed: bool) -> f64 {
    let join = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
    let mut value = if is_big_endian {
        bytes.iter().fold(0, join)
    } else {
        bytes.iter().rev().fold(0, join)
    };
    if !is_signed {
        return value as f64;
    }
    // Beyond 8 bytes the shift wraps, as on x86.
    let sign = u64::MAX.wrapping_shl((bytes.len() as u32).wrapping_mul(8).wrapping_sub(1));
    if value & sign != 0 {
        value |= sign;
    }
    value.cast_signed() as f64
}

/// `struct.size(format)`
fn size(stack: &mut Stack<'_>) -> Outcome {
    let mut format = Format::new(stack)?;
    let mut position = 0_usize;
    while let Some(item) = format.next()? {
        stack.context().spend(1)?;
        position = position.wrapping_add(format.padding(position, &item));
        match item.option {
            b's' => {
                return Err(Raise::Argument(1, "option 's' has no fixed size".into()));
            }
            b'c' if item.size == 0 => {
                return Err(Raise::Argument(1, "option 'c0' has no fixed size".into()));
            }
            option if option.is_ascii_alphanumeric() => {}
            option => format.control(option)?,
        }
        position = position.wrapping_add(item.size);
    }
    stack.push_number(position as f64);
    Ok(1)
}
