//! The table `cmsgpack`: MessagePack.

use crate::bounded_buffer::BoundedBuffer;
use crate::lua::{Function, Kind, Outcome, Raise, Stack};
use crate::sandbox::set_functions;

const FUNCTIONS: &[(&str, Function)] = &[
    ("pack", pack),
    ("unpack", unpack),
    ("unpack_one", unpack_one),
    ("unpack_limit", unpack_limit),
];

const TEXTS: &[(&str, &str)] = &[
    ("_NAME", "cmsgpack"),
    ("_VERSION", "lua-cmsgpack 0.4.0"),
    ("_COPYRIGHT", "Copyright (C) 2012, Salvatore Sanfilippo"),
    ("_DESCRIPTION", "MessagePack C implementation for Lua"),
];

/// The maximum depth of packed tables; deeper ones are packed as nil.
const PACK_DEPTH_MAX: usize = 16;
/// The maximum nesting of data to unpack.
const UNPACK_DEPTH_MAX: usize = 1000;

/// The maximum number of array items to reserve in advance: nested arrays would multiply it.
const RESERVED_MAX: usize = 1024;

/// Pushes the library's table.
pub(crate) fn push(stack: &mut Stack<'_>) {
    stack.push_table(0, FUNCTIONS.len() + TEXTS.len());
    set_functions(stack, -1, FUNCTIONS);
    for (name, text) in TEXTS {
        stack.push_bytes(text.as_bytes());
        stack.set_field(-2, name);
    }
}

/// `cmsgpack.pack(values...)`
fn pack(stack: &mut Stack<'_>) -> Outcome {
    let count = stack.top();
    if count == 0 {
        return Err(Raise::Argument(0, "MessagePack pack needs input.".into()));
    }
    let mut out = BoundedBuffer::new(stack);
    for argument in 1..=count {
        stack.copy(argument);
        pack_value(stack, &mut out, 0)?;
    }
    stack.push_bytes(out.bytes());
    Ok(1)
}

/// Packs the value on top and removes it.
fn pack_value(
    stack: &mut Stack<'_>,
    out: &mut BoundedBuffer<'_>,
    depth: usize,
) -> Result<(), Raise> {
    match stack.kind(-1) {
        Kind::String => {
            let bytes = stack.bytes(-1).unwrap_or_default();
            match bytes.len() {
                len @ ..32 => out.push(0xa0 | len as u8)?,
                len @ ..=0xff => out.extend(&[0xd9, len as u8])?,
                len => pack_len(out, len, 0xda)?,
            }
            out.extend(bytes)?;
        }
        Kind::Boolean => out.push(if stack.boolean(-1) { 0xc3 } else { 0xc2 })?,
        Kind::Number => pack_number(out, stack.number(-1).unwrap_or_default())?,
        Kind::Table if depth < PACK_DEPTH_MAX => pack_table(stack, out, depth)?,
        Kind::Table
        | Kind::None
        | Kind::Nil
        | Kind::LightUserdata
        | Kind::Userdata
        | Kind::Function
        | Kind::Thread => out.push(0xc0)?,
    }
    stack.pop(1);
    Ok(())
}

/// Writes `code` and a length of 16 bits, or the next code and a length of 32 bits.
fn pack_len(out: &mut BoundedBuffer<'_>, len: usize, code: u8) -> Result<(), Raise> {
    match u16::try_from(len) {
        Ok(len) => {
            out.push(code)?;
            out.extend(&len.to_be_bytes())
        }
        Err(_) => {
            out.push(code + 1)?;
            out.extend(&(len as u32).to_be_bytes())
        }
    }
}

fn pack_number(out: &mut BoundedBuffer<'_>, number: f64) -> Result<(), Raise> {
    let integer = crate::lua::truncated(number);
    if integer as f64 == number && number.is_finite() {
        return pack_integer(out, integer);
    }
    let narrow = number as f32;
    if f64::from(narrow) == number {
        out.push(0xca)?;
        return out.extend(&narrow.to_be_bytes());
    }
    out.push(0xcb)?;
    out.extend(&number.to_be_bytes())
}

fn pack_integer(out: &mut BoundedBuffer<'_>, integer: i64) -> Result<(), Raise> {
    let bytes = integer.to_be_bytes();
    match integer {
        -32..=127 => out.push(bytes[7]),
        128..=0xff => out.extend(&[0xcc, bytes[7]]),
        0x100..=0xffff => out.extend(&[0xcd, bytes[6], bytes[7]]),
        0x1_0000..=0xffff_ffff => {
            out.push(0xce)?;
            out.extend(&bytes[4..])
        }
        0x1_0000_0000.. => {
            out.push(0xcf)?;
            out.extend(&bytes)
        }
        -0x80..=-33 => out.extend(&[0xd0, bytes[7]]),
        -0x8000..=-0x81 => out.extend(&[0xd1, bytes[6], bytes[7]]),
        -0x8000_0000..=-0x8001 => {
            out.push(0xd2)?;
            out.extend(&bytes[4..])
        }
        i64::MIN..=-0x8000_0001 => {
            out.push(0xd3)?;
            out.extend(&bytes)
        }
    }
}

fn pack_table(
    stack: &mut Stack<'_>,
    out: &mut BoundedBuffer<'_>,
    depth: usize,
) -> Result<(), Raise> {
    let (count, is_array) = count_items(stack)?;
    if is_array {
        match count {
            0..=15 => out.push(0x90 | count as u8)?,
            _ => pack_len(out, count, 0xdc)?,
        }
        for item in 1..=count {
            stack.get_index(-1, i32::try_from(item).unwrap_or(i32::MAX));
            pack_value(stack, out, depth + 1)?;
        }
        return Ok(());
    }
    match count {
        0..=15 => out.push(0x80 | count as u8)?,
        _ => pack_len(out, count, 0xde)?,
    }
    stack.push_nil();
    while stack.next(-2) {
        stack.copy(-2);
        pack_value(stack, out, depth + 1)?;
        pack_value(stack, out, depth + 1)?;
    }
    Ok(())
}

/// The number of items of the table on top, and whether their keys are 1, 2, 3 and so on.
fn count_items(stack: &mut Stack<'_>) -> Result<(usize, bool), Raise> {
    let mut count = 0;
    let mut max = 0.0;
    let mut is_array = true;
    stack.push_nil();
    while stack.next(-2) {
        stack.context().spend(1)?;
        stack.pop(1);
        count += 1;
        match stack.number(-1) {
            Some(key) if key > 0.0 && key.fract() == 0.0 => max = key.max(max),
            Some(_) | None => is_array = false,
        }
    }
    Ok((count, is_array && max == count as f64))
}

/// `cmsgpack.unpack(data)`: all values.
fn unpack(stack: &mut Stack<'_>) -> Outcome {
    unpack_some(stack, 0, 0)
}

/// `cmsgpack.unpack_one(data [, offset])`: the offset after the value, or -1 at the end of the data; then the value.
fn unpack_one(stack: &mut Stack<'_>) -> Outcome {
    let offset = stack.optional_integer(2, 0)? as i32;
    unpack_some(stack, 1, offset)
}

/// `cmsgpack.unpack_limit(data, limit [, offset])`: like `unpack_one`, with up to `limit` values.
fn unpack_limit(stack: &mut Stack<'_>) -> Outcome {
    let limit = stack.check_integer(2)? as i32;
    let offset = stack.optional_integer(3, 0)? as i32;
    unpack_some(stack, limit, offset)
}

fn unpack_some(stack: &mut Stack<'_>, limit: i32, offset: i32) -> Outcome {
    let data = stack.check_text(1)?.to_vec();
    stack.set_top(1);
    let (len, is_all) = (data.len(), limit == 0 && offset == 0);
    let start = usize::try_from(offset);
    let (Ok(start), true) = (start, limit >= 0) else {
        return Err(Raise::here(format!(
            "Invalid request to unpack with offset of {offset} and limit of {len}."
        )));
    };
    let Some(rest) = data.get(start..) else {
        return Err(Raise::here(format!(
            "Start offset {offset} greater than input length {len}."
        )));
    };
    let limit = if is_all { i32::MAX } else { limit };
    let mut reader = Reader { rest };
    let mut count = 0;
    while count < limit && !reader.rest.is_empty() {
        // The offset needs a place, too.
        if !stack.reserve(3) {
            return Err(Raise::here(
                "stack overflow (in function mp_decode_to_lua_type)",
            ));
        }
        reader.value(stack, 0)?;
        count += 1;
    }
    let mut results = usize::try_from(count).unwrap_or(0);
    if !is_all {
        let left = reader.rest.len();
        let next = if left == 0 { -1.0 } else { (len - left) as f64 };
        stack.push_number(next);
        stack.insert(2);
        results += 1;
    }
    Ok(results)
}

struct Reader<'d> {
    rest: &'d [u8],
}

fn missing() -> Raise {
    Raise::here("Missing bytes in input.")
}

fn error_without_position(stack: &mut Stack<'_>, text: &str) -> Raise {
    stack.push_bytes(text.as_bytes());
    Raise::Value
}

impl<'d> Reader<'d> {
    fn take(&mut self, len: usize) -> Result<&'d [u8], Raise> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(missing)?;
        self.rest = rest;
        Ok(taken)
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], Raise> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or_else(missing)?;
        self.rest = rest;
        Ok(*taken)
    }

    fn len_u8(&mut self) -> Result<usize, Raise> {
        Ok(usize::from(u8::from_be_bytes(self.bytes()?)))
    }

    fn len_u16(&mut self) -> Result<usize, Raise> {
        Ok(usize::from(u16::from_be_bytes(self.bytes()?)))
    }

    fn len_u32(&mut self) -> Result<usize, Raise> {
        Ok(u32::from_be_bytes(self.bytes()?) as usize)
    }

    /// Pushes the next value.
    fn value(&mut self, stack: &mut Stack<'_>, depth: usize) -> Result<(), Raise> {
        stack.check_memory()?;
        stack.context().spend(1)?;
        let [code] = self.bytes()?;
        match code {
            0x00..=0x7f => stack.push_number(f64::from(code)),
            0xe0..=0xff => stack.push_number(f64::from(code.cast_signed())),
            0x80..=0x8f => return self.map(stack, usize::from(code & 15), depth),
            0x90..=0x9f => return self.array(stack, usize::from(code & 15), depth),
            0xa0..=0xbf => stack.push_bytes(self.take(usize::from(code & 31))?),
            0xc0 => stack.push_nil(),
            0xc2 => stack.push_boolean(false),
            0xc3 => stack.push_boolean(true),
            0xca => stack.push_number(f64::from(f32::from_be_bytes(self.bytes()?))),
            0xcb => stack.push_number(f64::from_be_bytes(self.bytes()?)),
            0xcc => stack.push_number(f64::from(u8::from_be_bytes(self.bytes()?))),
            0xcd => stack.push_number(f64::from(u16::from_be_bytes(self.bytes()?))),
            0xce => stack.push_number(f64::from(u32::from_be_bytes(self.bytes()?))),
            // As in Redis, values beyond 63 bits become negative.
            0xcf => stack.push_number(i64::from_be_bytes(self.bytes()?) as f64),
            0xd0 => stack.push_number(f64::from(i8::from_be_bytes(self.bytes()?))),
            0xd1 => stack.push_number(f64::from(i16::from_be_bytes(self.bytes()?))),
            0xd2 => stack.push_number(f64::from(i32::from_be_bytes(self.bytes()?))),
            0xd3 => stack.push_number(i64::from_be_bytes(self.bytes()?) as f64),
            0xd9 => {
                let len = self.len_u8()?;
                stack.push_bytes(self.take(len)?);
            }
            0xda => {
                let len = self.len_u16()?;
                stack.push_bytes(self.take(len)?);
            }
            0xdb => {
                let len = self.len_u32()?;
                stack.push_bytes(self.take(len)?);
            }
            0xdc => {
                let len = self.len_u16()?;
                return self.array(stack, len, depth);
            }
            0xdd => {
                let len = self.len_u32()?;
                return self.array(stack, len, depth);
            }
            0xde => {
                let len = self.len_u16()?;
                return self.map(stack, len, depth);
            }
            0xdf => {
                let len = self.len_u32()?;
                return self.map(stack, len, depth);
            }
            0xc1 | 0xc4..=0xc9 | 0xd4..=0xd8 => {
                return Err(Raise::here("Bad data format in input."));
            }
        }
        Ok(())
    }

    fn descend(&self, stack: &mut Stack<'_>, depth: usize, what: &str) -> Result<(), Raise> {
        if depth >= UNPACK_DEPTH_MAX || !stack.reserve(4) {
            return Err(Raise::here(format!(
                "stack overflow (in function mp_decode_to_lua_{what})"
            )));
        }
        Ok(())
    }

    fn array(&mut self, stack: &mut Stack<'_>, len: usize, depth: usize) -> Result<(), Raise> {
        self.descend(stack, depth, "array")?;
        // An item has at least one byte.
        stack.push_table(len.min(self.rest.len()).min(RESERVED_MAX), 0);
        for item in 1..=len {
            self.value(stack, depth + 1)?;
            stack.set_index(-2, i32::try_from(item).unwrap_or(i32::MAX));
        }
        Ok(())
    }

    fn map(&mut self, stack: &mut Stack<'_>, len: usize, depth: usize) -> Result<(), Raise> {
        self.descend(stack, depth, "hash")?;
        stack.push_table(0, 0);
        for _ in 0..len {
            self.value(stack, depth + 1)?;
            self.value(stack, depth + 1)?;
            if stack.kind(-2) == Kind::Nil {
                return Err(error_without_position(stack, "table index is nil"));
            }
            if stack.number(-2).is_some_and(f64::is_nan) {
                return Err(error_without_position(stack, "table index is NaN"));
            }
            stack.set(-3);
        }
        Ok(())
    }
}
