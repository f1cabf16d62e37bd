//! The table `cjson`: JSON.

mod decode;
mod encode;

use crate::lua::{Function, Kind, Outcome, Raise, Stack};

const CONVERSIONS: &[(&str, Function)] = &[("encode", encode::encode), ("decode", decode::decode)];

const SETTINGS: &[(&str, Function)] = &[
    ("encode_sparse_array", encode_sparse_array),
    ("encode_max_depth", encode_max_depth),
    ("decode_max_depth", decode_max_depth),
    ("encode_number_precision", encode_number_precision),
    ("encode_keep_buffer", encode_keep_buffer),
    ("encode_invalid_numbers", encode_invalid_numbers),
    ("decode_invalid_numbers", decode_invalid_numbers),
];

/// The maximum depth of recursion, regardless of the settings.
const DEPTH_MAX: i64 = 2000;

/// The settings. The discriminant is the index in the block of numbers that stores them.
#[derive(Clone, Copy)]
#[repr(usize)]
enum Setting {
    SparseConvert,
    SparseRatio,
    SparseSafe,
    EncodeDepth,
    DecodeDepth,
    Precision,
    /// 0 off, 1 on, 2 null.
    EncodeInvalid,
    /// Bit 0: decoding accepts numbers that JSON does not allow. Bit 1: `encode_keep_buffer`, which has no effect here.
    DecodeInvalidAndKeep,
}

const DEFAULTS: [i64; 8] = [0, 2, 10, 1000, 1000, 14, 0, 0b11];

impl Setting {
    /// The value in the instance whose function is running.
    fn of(self, stack: &Stack<'_>) -> i64 {
        stack.numbers(Stack::upvalue(1))[self as usize]
    }

    fn set(self, stack: &mut Stack<'_>, value: i64) {
        let mut numbers = stack.numbers(Stack::upvalue(1));
        numbers[self as usize] = value;
        stack.set_numbers(Stack::upvalue(1), numbers);
    }
}

/// Pushes a new instance of the library, with its own settings.
pub(crate) fn push(stack: &mut Stack<'_>) {
    stack.push_table(0, 16);
    stack.push_numbers(DEFAULTS);
    for (name, function) in CONVERSIONS.iter().chain(SETTINGS) {
        stack.copy(-1);
        stack.push_function(*function, 1);
        stack.set_field(-3, name);
    }
    stack.pop(1);
    stack.push_function(new, 0);
    stack.set_field(-2, "new");
    stack.push_null_pointer();
    stack.set_field(-2, "null");
    for (name, text) in [("_NAME", "cjson"), ("_VERSION", "2.1.0")] {
        stack.push_bytes(text.as_bytes());
        stack.set_field(-2, name);
    }
}

/// `cjson.new()`
fn new(stack: &mut Stack<'_>) -> Outcome {
    push(stack);
    Ok(1)
}

/// Checks that there are at most `count` arguments.
fn check_argument_count(stack: &mut Stack<'_>, count: i32) -> Result<(), Raise> {
    if stack.top() > count {
        return Err(Raise::Argument(
            count + 1,
            "found too many arguments".into(),
        ));
    }
    stack.set_top(count);
    Ok(())
}

/// Changes an integer setting if the argument is given, and pushes its current value.
fn integer_option(
    stack: &mut Stack<'_>,
    argument: i32,
    setting: Setting,
    min: i64,
    max: i64,
) -> Outcome {
    if stack.kind(argument) != Kind::Nil {
        let value = i64::from(stack.check_integer(argument)? as i32);
        if !(min..=max).contains(&value) {
            // Redis names the first argument, whichever argument is wrong.
            return Err(Raise::Argument(
                1,
                format!("expected integer between {min} and {max}"),
            ));
        }
        setting.set(stack, value);
    }
    let value = setting.of(stack);
    stack.push_number(value as f64);
    Ok(1)
}

/// Reads a boolean, or one of `names` as its index; `None` if the argument is nil.
fn choice(stack: &mut Stack<'_>, argument: i32, names: &[&str]) -> Result<Option<i64>, Raise> {
    match stack.kind(argument) {
        Kind::Nil => Ok(None),
        Kind::Boolean => Ok(Some(i64::from(stack.boolean(argument)))),
        _ => {
            let name = stack.check_text(argument)?;
            match names.iter().position(|known| known.as_bytes() == name) {
                Some(index) => Ok(Some(index as i64)),
                None => {
                    let name = String::from_utf8_lossy(name).into_owned();
                    Err(Raise::Argument(
                        argument,
                        format!("invalid option '{name}'"),
                    ))
                }
            }
        }
    }
}

fn encode_sparse_array(stack: &mut Stack<'_>) -> Outcome {
    check_argument_count(stack, 3)?;
    if let Some(convert) = choice(stack, 1, &[])? {
        Setting::SparseConvert.set(stack, convert);
    }
    let convert = Setting::SparseConvert.of(stack) != 0;
    stack.push_boolean(convert);
    let max = i64::from(i32::MAX);
    integer_option(stack, 2, Setting::SparseRatio, 0, max)?;
    integer_option(stack, 3, Setting::SparseSafe, 0, max)?;
    Ok(3)
}

fn encode_max_depth(stack: &mut Stack<'_>) -> Outcome {
    check_argument_count(stack, 1)?;
    integer_option(stack, 1, Setting::EncodeDepth, 1, i64::from(i32::MAX))
}

fn decode_max_depth(stack: &mut Stack<'_>) -> Outcome {
    check_argument_count(stack, 1)?;
    integer_option(stack, 1, Setting::DecodeDepth, 1, i64::from(i32::MAX))
}

fn encode_number_precision(stack: &mut Stack<'_>) -> Outcome {
    check_argument_count(stack, 1)?;
    integer_option(stack, 1, Setting::Precision, 1, 14)
}

fn bit_option(stack: &mut Stack<'_>, bit: i64, names: &[&str]) -> Outcome {
    check_argument_count(stack, 1)?;
    let setting = Setting::DecodeInvalidAndKeep;
    let bits = setting.of(stack);
    let bits = match choice(stack, 1, names)? {
        Some(0) => bits & !bit,
        Some(_) => bits | bit,
        None => bits,
    };
    setting.set(stack, bits);
    stack.push_boolean(bits & bit != 0);
    Ok(1)
}

fn encode_keep_buffer(stack: &mut Stack<'_>) -> Outcome {
    bit_option(stack, 2, &["off", "on"])
}

fn decode_invalid_numbers(stack: &mut Stack<'_>) -> Outcome {
    bit_option(stack, 1, &[])
}

fn encode_invalid_numbers(stack: &mut Stack<'_>) -> Outcome {
    check_argument_count(stack, 1)?;
    if let Some(mode) = choice(stack, 1, &["off", "on", "null"])? {
        Setting::EncodeInvalid.set(stack, mode);
    }
    match Setting::EncodeInvalid.of(stack) {
        2 => stack.push_bytes(b"null"),
        mode => stack.push_boolean(mode != 0),
    }
    Ok(1)
}
