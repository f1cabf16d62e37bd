//! Converts a Lua value to the reply of a script.
//!
//! The reverse of [`crate::from_reply`]. A number loses its fraction, an array ends at its first nil, and
//! values without a counterpart become null.

use damselfly_protocol::{Reply, Version};

use crate::c_format::up_to_zero;
use crate::lua::{Kind, Raise, Stack, truncated};

/// The maximum nesting of tables. It equals that of Redis, which Lua's stack limits.
const DEPTH_MAX: usize = 2000;
const TOO_DEEP: &str = "ERR reached lua stack limit";

/// The result of [`write`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// A reply, or an error that was counted when a command failed.
    Reply,
    /// An error that has not been counted yet.
    Error,
    /// Nothing: the reply is too long, which is easy if a table contains another one many times, or the script must end.
    Nothing,
}

/// Writes the value on top of the stack and removes it.
pub(crate) fn write(stack: &mut Stack<'_>, reply: &mut Reply<'_>) -> Written {
    let is_uncounted_error = stack.kind(-1) == Kind::Table && {
        stack.get_field(-1, "err");
        let is_error = stack.kind(-1) == Kind::String;
        stack.pop(1);
        is_error && !is_counted(stack)
    };
    let mut writer = Writer {
        tables: Vec::new(),
        version: stack.context().version.get(),
    };
    let bottom = stack.top() - 1;
    let start = reply.position();
    if !writer.write(stack, reply) {
        stack.set_top(bottom);
        reply.truncate_to(start);
        return Written::Nothing;
    }
    if is_uncounted_error {
        Written::Error
    } else {
        Written::Reply
    }
}

/// Whether the error on top comes from a command and was counted when that failed.
pub(crate) fn is_counted(stack: &mut Stack<'_>) -> bool {
    stack.get_field(-1, "ignore_error_stats_update");
    let is_counted = stack.boolean(-1);
    stack.pop(1);
    is_counted
}

/// A table whose items are being written. It is on Lua's stack; for a map or set, the current key is above it.
enum Open {
    Array { next: i32, len: i32 },
    Map { is_value_next: bool },
    Set,
}

struct Writer {
    tables: Vec<Open>,
    /// The version that the script has set with `redis.setresp`.
    version: Version,
}

impl Writer {
    /// Writes the value on top with everything in it. Uses no recursion, since scripts control the depth.
    /// Returns false if it had to stop early.
    fn write(&mut self, stack: &mut Stack<'_>, reply: &mut Reply<'_>) -> bool {
        let limit = stack.context().heap.limit_bytes();
        let start = reply.position();
        if self.value(stack, reply).is_err() {
            return false;
        }
        while let Some(open) = self.tables.last_mut() {
            if reply.position() - start > limit || stack.context().spend(1).is_err() {
                return false;
            }
            let written = match open {
                Open::Array { next, len } if *next <= *len => {
                    stack.get_index(-1, *next);
                    *next += 1;
                    self.value(stack, reply)
                }
                Open::Array { .. } => {
                    stack.pop(1);
                    self.tables.pop();
                    Ok(())
                }
                Open::Set => {
                    if stack.next(-2) {
                        stack.pop(1);
                        stack.copy(-1);
                        self.value(stack, reply)
                    } else {
                        stack.pop(1);
                        self.tables.pop();
                        Ok(())
                    }
                }
                Open::Map { is_value_next } if *is_value_next => {
                    *is_value_next = false;
                    stack.copy(-1);
                    stack.get(-3);
                    self.value(stack, reply)
                }
                Open::Map { is_value_next } => {
                    if stack.next(-2) {
                        *is_value_next = true;
                        stack.pop(1);
                        stack.copy(-1);
                        self.value(stack, reply)
                    } else {
                        stack.pop(1);
                        self.tables.pop();
                        Ok(())
                    }
                }
            };
            if written.is_err() {
                return false;
            }
        }
        true
    }

    /// Writes the value on top and removes it. A collection stays on the stack and is added to the open tables.
    ///
    /// # Errors
    /// The script must end.
    fn value(&mut self, stack: &mut Stack<'_>, reply: &mut Reply<'_>) -> Result<(), Raise> {
        match stack.kind(-1) {
            Kind::String => reply.bulk(stack.bytes(-1).unwrap_or_default()),
            Kind::Number => reply.integer(truncated(stack.number(-1).unwrap_or_default())),
            Kind::Boolean => {
                let value = stack.boolean(-1);
                match self.version {
                    Version::Resp3 => reply.boolean(value),
                    Version::Resp2 if value => reply.integer(1),
                    Version::Resp2 => reply.null(),
                }
            }
            Kind::Table => return self.table(stack, reply),
            Kind::None
            | Kind::Nil
            | Kind::LightUserdata
            | Kind::Userdata
            | Kind::Function
            | Kind::Thread => reply.null(),
        }
        stack.pop(1);
        Ok(())
    }

    fn table(&mut self, stack: &mut Stack<'_>, reply: &mut Reply<'_>) -> Result<(), Raise> {
        if self.tables.len() >= DEPTH_MAX || !stack.reserve(8) {
            stack.pop(1);
            reply.error(TOO_DEEP);
            return Ok(());
        }
        if write_single(stack, reply) {
            stack.pop(1);
            return Ok(());
        }
        for (name, open) in [
            (
                "map",
                Open::Map {
                    is_value_next: false,
                },
            ),
            ("set", Open::Set),
        ] {
            stack.get_field(-1, name);
            if stack.kind(-1) == Kind::Table {
                stack.remove(-2);
                let count = count(stack)?;
                match open {
                    Open::Map { .. } => reply.map(count),
                    Open::Set | Open::Array { .. } => reply.set(count),
                }
                stack.push_nil();
                self.tables.push(open);
                return Ok(());
            }
            stack.pop(1);
        }
        let len = array_len(stack)?;
        reply.array(usize::try_from(len).unwrap_or_default());
        self.tables.push(Open::Array { next: 1, len });
        Ok(())
    }
}

/// Writes the table on top if it represents a single reply rather than a collection.
fn write_single(stack: &mut Stack<'_>, reply: &mut Reply<'_>) -> bool {
    stack.get_field(-1, "err");
    if let Some(text) = stack.bytes(-1) {
        reply.error(up_to_zero(text));
        stack.pop(1);
        return true;
    }
    stack.pop(1);
    stack.get_field(-1, "ok");
    if let Some(text) = stack.bytes(-1) {
        write_status(reply, up_to_zero(text));
        stack.pop(1);
        return true;
    }
    stack.pop(1);
    stack.get_field(-1, "double");
    if let Some(number) = stack.number(-1) {
        reply.double(number);
        stack.pop(1);
        return true;
    }
    stack.pop(1);
    stack.get_field(-1, "big_number");
    if let Some(digits) = stack.bytes(-1) {
        let digits = one_line(digits);
        reply.big_number(&String::from_utf8_lossy(&digits));
        stack.pop(1);
        return true;
    }
    stack.pop(1);
    stack.get_field(-1, "verbatim_string");
    if stack.kind(-1) == Kind::Table {
        stack.get_field(-1, "format");
        stack.get_field(-2, "string");
        if let (Some(format), Some(text)) = (stack.bytes(-2), stack.bytes(-1)) {
            let mut letters = [b' '; 3];
            letters
                .iter_mut()
                .zip(format)
                .for_each(|(letter, byte)| *letter = *byte);
            reply.verbatim(letters, text);
            stack.pop(3);
            return true;
        }
        stack.pop(2);
    }
    stack.pop(1);
    false
}

fn one_line(text: &[u8]) -> Vec<u8> {
    text.iter()
        .map(|&byte| match byte {
            b'\r' | b'\n' => b' ',
            other => other,
        })
        .collect()
}

/// Writes a status of arbitrary bytes.
fn write_status(reply: &mut Reply<'_>, text: &[u8]) {
    reply.raw(b"+");
    reply.raw(&one_line(text));
    reply.raw(b"\r\n");
}

/// The number of items of the table on top before the first nil.
fn array_len(stack: &mut Stack<'_>) -> Result<i32, Raise> {
    let mut len = 0;
    loop {
        stack.context().spend(1)?;
        stack.get_index(-1, len + 1);
        let is_end = stack.kind(-1) == Kind::Nil;
        stack.pop(1);
        if is_end {
            return Ok(len);
        }
        len += 1;
    }
}

/// The number of pairs of the table on top.
fn count(stack: &mut Stack<'_>) -> Result<usize, Raise> {
    let mut count = 0;
    stack.push_nil();
    while stack.next(-2) {
        stack.context().spend(1)?;
        stack.pop(1);
        count += 1;
    }
    Ok(count)
}
