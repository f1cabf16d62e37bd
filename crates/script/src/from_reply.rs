//! Converts the reply of a command to a Lua value.
//!
//! | reply            | value                                                        |
//! |------------------|--------------------------------------------------------------|
//! | integer          | number                                                       |
//! | bulk             | string                                                       |
//! | null of RESP2    | false                                                        |
//! | null of RESP3    | nil                                                          |
//! | status           | `{ok = text}`                                                |
//! | error            | `{err = text, ignore_error_stats_update = true}`             |
//! | array, push      | table of items                                               |
//! | map              | `{map = {key = value, ...}}`                                 |
//! | set              | `{set = {member = true, ...}}`                               |
//! | double           | `{double = number}`                                          |
//! | boolean          | boolean                                                      |
//! | big number       | `{big_number = digits}`                                      |
//! | verbatim         | `{verbatim_string = {string = text, format = three letters}}` |

use crate::lua::{Kind, Raise, Stack};

/// The maximum nesting of a reply; deeper values become nil.
const DEPTH_MAX: usize = 128;

/// Pushes the value of the reply at the start of `bytes`; nil if that is not a valid reply.
///
/// # Errors
/// The value exceeds the interpreter's memory limit, or the script must end.
pub(crate) fn push(stack: &mut Stack<'_>, bytes: &[u8]) -> Result<(), Raise> {
    let mut reader = Reader { rest: bytes };
    if reader.push(stack, 0).is_none() {
        stack.check_memory()?;
        if stack.context().is_stopped() {
            return Err(Raise::Stopped);
        }
        stack.push_nil();
    }
    Ok(())
}

/// Whether `reply` is an error.
pub(crate) fn is_error(reply: &[u8]) -> bool {
    matches!(reply.first(), Some(b'-' | b'!'))
}

struct Reader<'b> {
    rest: &'b [u8],
}

impl<'b> Reader<'b> {
    /// The bytes up to the next line end, which is consumed, too.
    fn line(&mut self) -> Option<&'b [u8]> {
        let end = self.rest.iter().position(|&byte| byte == b'\r')?;
        let line = &self.rest[..end];
        self.rest = self.rest.get(end + 2..)?;
        Some(line)
    }

    /// The next `len` bytes; also consumes the line end after them.
    fn bulk(&mut self, len: usize) -> Option<&'b [u8]> {
        let bytes = self.rest.get(..len)?;
        self.rest = self.rest.get(len + 2..)?;
        Some(bytes)
    }

    /// Pushes one value; pushes nothing if it returns `None`.
    fn push(&mut self, stack: &mut Stack<'_>, depth: usize) -> Option<()> {
        stack.check_memory().ok()?;
        stack.context().spend(1).ok()?;
        let (&kind, rest) = self.rest.split_first()?;
        self.rest = rest;
        let line = self.line()?;
        let number = || damselfly_base::number::parse_integer(line);
        let len = || usize::try_from(number()?).ok();
        match kind {
            b':' => stack.push_number(number()? as f64),
            b'$' => match len() {
                Some(len) => stack.push_bytes(self.bulk(len)?),
                None => stack.push_boolean(false),
            },
            b'+' => push_field(stack, "ok", line),
            b'-' => push_error(stack, line),
            b'!' => {
                let text = self.bulk(len()?)?;
                push_error(stack, text);
            }
            b'*' | b'>' => match len() {
                Some(len) => self.push_array(stack, len, depth)?,
                None => stack.push_boolean(false),
            },
            b'%' => self.push_fields(stack, "map", len()?, depth)?,
            b'~' => self.push_fields(stack, "set", len()?, depth)?,
            b'_' => stack.push_nil(),
            b'#' => stack.push_boolean(line == b"t"),
            b',' => {
                let number = str::from_utf8(line).ok()?.parse().ok()?;
                stack.push_table(0, 1);
                stack.push_number(number);
                stack.set_field(-2, "double");
            }
            b'(' => push_field(stack, "big_number", line),
            b'=' => {
                let (format, text) = self.bulk(len()?)?.split_at_checked(4)?;
                stack.push_table(0, 1);
                stack.push_table(0, 2);
                stack.push_bytes(text);
                stack.set_field(-2, "string");
                stack.push_bytes(&format[..3]);
                stack.set_field(-2, "format");
                stack.set_field(-2, "verbatim_string");
            }
            b'|' => {
                // Scripts don't see attributes.
                let elements = len()?.checked_mul(2)?;
                for _ in 0..elements {
                    self.push(stack, depth + 1)?;
                    stack.pop(1);
                }
                self.push(stack, depth + 1)?;
            }
            _ => return None,
        }
        Some(())
    }

    fn push_array(&mut self, stack: &mut Stack<'_>, len: usize, depth: usize) -> Option<()> {
        if depth >= DEPTH_MAX {
            return None;
        }
        // An item has at least 3 bytes, so this never reserves more items than the reply can contain.
        stack.push_table(len.min(self.rest.len() / 3), 0);
        for index in 1..=len {
            if self.push(stack, depth + 1).is_none() {
                stack.pop(1);
                return None;
            }
            stack.set_index(-2, i32::try_from(index).ok()?);
        }
        Some(())
    }

    /// Pushes `{name = {...}}`: pairs for a map; for a set, members as keys with the value `true`.
    fn push_fields(
        &mut self,
        stack: &mut Stack<'_>,
        name: &str,
        len: usize,
        depth: usize,
    ) -> Option<()> {
        if depth >= DEPTH_MAX {
            return None;
        }
        let bottom = stack.top();
        stack.push_table(0, 1);
        stack.push_table(0, len.min(self.rest.len() / 3));
        for _ in 0..len {
            let mut pushed = self.push(stack, depth + 1);
            if pushed.is_some() {
                if name == "set" {
                    stack.push_boolean(true);
                } else {
                    pushed = self.push(stack, depth + 1);
                }
            }
            if pushed.is_none() {
                stack.set_top(bottom);
                return None;
            }
            if stack.kind(-2) == Kind::Nil || stack.number(-2).is_some_and(f64::is_nan) {
                stack.pop(2);
            } else {
                stack.set(-3);
            }
        }
        stack.set_field(-2, name);
        Some(())
    }
}

/// Pushes `{name = text}`.
pub(crate) fn push_field(stack: &mut Stack<'_>, name: &str, text: &[u8]) {
    stack.push_table(0, 1);
    stack.push_bytes(text);
    stack.set_field(-2, name);
}

/// Pushes an error that the host has already counted when the command failed.
fn push_error(stack: &mut Stack<'_>, text: &[u8]) {
    stack.push_table(0, 2);
    stack.push_bytes(text);
    stack.set_field(-2, "err");
    stack.push_boolean(true);
    stack.set_field(-2, "ignore_error_stats_update");
}
