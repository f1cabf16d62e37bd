//! `cjson.encode`.

use super::{DEPTH_MAX, Setting};
use crate::bounded_buffer::BoundedBuffer;
use crate::c_format::general;
use crate::lua::{Kind, Outcome, Raise, Stack};

/// The output and settings of one call.
struct Encoder<'c> {
    out: BoundedBuffer<'c>,
    depth_max: i64,
    precision: usize,
    invalid_numbers: i64,
}

pub(super) fn encode(stack: &mut Stack<'_>) -> Outcome {
    if stack.top() != 1 {
        return Err(Raise::Argument(1, "expected 1 argument".into()));
    }
    let mut encoder = Encoder {
        out: BoundedBuffer::new(stack),
        depth_max: Setting::EncodeDepth.of(stack),
        precision: usize::try_from(Setting::Precision.of(stack)).unwrap_or(14),
        invalid_numbers: Setting::EncodeInvalid.of(stack),
    };
    encoder.value(stack, 0)?;
    stack.push_bytes(encoder.out.bytes());
    Ok(1)
}

fn cannot(stack: &Stack<'_>, index: i32, reason: &str) -> Raise {
    let kind = stack.type_name(index);
    Raise::here(format!("Cannot serialise {kind}: {reason}"))
}

impl Encoder<'_> {
    /// Writes the value on top, which stays on the stack.
    fn value(&mut self, stack: &mut Stack<'_>, depth: i64) -> Result<(), Raise> {
        match stack.kind(-1) {
            Kind::String => self.string(stack.bytes(-1).unwrap_or_default()),
            Kind::Number => self.number(stack, -1),
            Kind::Boolean if stack.boolean(-1) => self.out.extend(b"true"),
            Kind::Boolean => self.out.extend(b"false"),
            Kind::Nil => self.out.extend(b"null"),
            Kind::LightUserdata if stack.is_null_pointer(-1) => self.out.extend(b"null"),
            Kind::Table => self.table(stack, depth + 1),
            Kind::None | Kind::LightUserdata | Kind::Userdata | Kind::Function | Kind::Thread => {
                Err(cannot(stack, -1, "type not supported"))
            }
        }
    }

    fn number(&mut self, stack: &Stack<'_>, index: i32) -> Result<(), Raise> {
        let number = stack.number(index).unwrap_or_default();
        if !number.is_finite() {
            match self.invalid_numbers {
                0 => return Err(cannot(stack, index, "must not be NaN or Inf")),
                2 => return self.out.extend(b"null"),
                _ if number.is_nan() => return self.out.extend(b"nan"),
                _ => {}
            }
        }
        self.out.extend(general(number, self.precision).as_bytes())
    }

    fn string(&mut self, bytes: &[u8]) -> Result<(), Raise> {
        self.out.push(b'"')?;
        let mut plain_start = 0;
        for (at, &byte) in bytes.iter().enumerate() {
            let long;
            let escape: &[u8] = match byte {
                b'"' => b"\\\"",
                b'\\' => b"\\\\",
                b'/' => b"\\/",
                8 => b"\\b",
                b'\t' => b"\\t",
                b'\n' => b"\\n",
                12 => b"\\f",
                b'\r' => b"\\r",
                0..32 | 127 => {
                    long = format!("\\u{byte:04x}");
                    long.as_bytes()
                }
                _ => continue,
            };
            self.out.extend(&bytes[plain_start..at])?;
            self.out.extend(escape)?;
            plain_start = at + 1;
        }
        self.out.extend(&bytes[plain_start..])?;
        self.out.push(b'"')
    }

    fn table(&mut self, stack: &mut Stack<'_>, depth: i64) -> Result<(), Raise> {
        if depth > self.depth_max.min(DEPTH_MAX) || !stack.reserve(4) {
            return Err(Raise::here(format!(
                "Cannot serialise, excessive nesting ({depth})"
            )));
        }
        match array_len(stack)? {
            Some(len) if len > 0 => self.array(stack, len, depth),
            Some(_) | None => self.object(stack, depth),
        }
    }

    fn array(&mut self, stack: &mut Stack<'_>, len: i32, depth: i64) -> Result<(), Raise> {
        self.out.push(b'[')?;
        for item in 1..=len {
            if item > 1 {
                self.out.push(b',')?;
            }
            stack.get_index(-1, item);
            self.value(stack, depth)?;
            stack.pop(1);
        }
        self.out.push(b']')
    }

    fn object(&mut self, stack: &mut Stack<'_>, depth: i64) -> Result<(), Raise> {
        self.out.push(b'{')?;
        let mut is_first = true;
        stack.push_nil();
        while stack.next(-2) {
            if !is_first {
                self.out.push(b',')?;
            }
            is_first = false;
            match stack.kind(-2) {
                Kind::Number => {
                    self.out.push(b'"')?;
                    self.number(stack, -2)?;
                    self.out.extend(b"\":")?;
                }
                Kind::String => {
                    self.string(stack.bytes(-2).unwrap_or_default())?;
                    self.out.push(b':')?;
                }
                _ => {
                    return Err(cannot(stack, -2, "table key must be a number or string"));
                }
            }
            self.value(stack, depth)?;
            stack.pop(1);
        }
        self.out.push(b'}')
    }
}

/// The highest key of the table on top if all keys are positive integers and the array is not too sparse.
fn array_len(stack: &mut Stack<'_>) -> Result<Option<i32>, Raise> {
    let mut max = 0.0_f64;
    let mut items = 0_i64;
    stack.push_nil();
    while stack.next(-2) {
        stack.context().spend(1)?;
        stack.pop(1);
        match stack.number(-1) {
            Some(key) if key >= 1.0 && key.floor() == key => {
                max = max.max(key);
                items += 1;
            }
            Some(_) | None => {
                stack.pop(1);
                return Ok(None);
            }
        }
    }
    // In Redis, keys beyond 32 bits overflow.
    let max = max as i64 as i32;
    let ratio = Setting::SparseRatio.of(stack);
    let is_sparse = ratio > 0
        && i64::from(max) > items * ratio
        && i64::from(max) > Setting::SparseSafe.of(stack);
    if !is_sparse {
        return Ok(Some(max));
    }
    if Setting::SparseConvert.of(stack) == 0 {
        return Err(cannot(stack, -1, "excessively sparse array"));
    }
    Ok(None)
}
