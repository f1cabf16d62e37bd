//! Functions of `table` that process many items. They behave like Lua's own, but can be interrupted.

use crate::bounded_buffer::BoundedBuffer;
use crate::lua::{Function, Kind, Outcome, Raise, Stack};

pub(crate) const FUNCTIONS: &[(&str, Function)] = &[
    ("concat", concat),
    ("insert", insert),
    ("maxn", maxn),
    ("remove", remove),
];

/// The length of the first argument, which must be a table.
fn checked_len(stack: &Stack<'_>) -> Result<i32, Raise> {
    stack.check_table(1)?;
    Ok(i32::try_from(stack.length(1)).unwrap_or(i32::MAX))
}

/// `table.concat(table [, separator [, from [, to]]])`
fn concat(stack: &mut Stack<'_>) -> Outcome {
    let separator = match stack.kind(2) {
        Kind::None | Kind::Nil => Vec::new(),
        _ => stack.check_text(2)?.to_vec(),
    };
    let len = checked_len(stack)?;
    let from = stack.optional_integer(3, 1)? as i32;
    let to = stack.optional_integer(4, i64::from(len))? as i32;
    let mut out = BoundedBuffer::new(stack);
    for index in from..=to {
        stack.get_index(1, index);
        let Some(text) = stack.text(-1) else {
            let kind = stack.type_name(-1);
            return Err(Raise::here(format!(
                "invalid value ({kind}) at index {index} in table for 'concat'"
            )));
        };
        out.extend(text)?;
        if index < to {
            out.extend(&separator)?;
        }
        stack.pop(1);
    }
    stack.push_bytes(out.bytes());
    Ok(1)
}

/// `table.insert(table, [position,] value)`
fn insert(stack: &mut Stack<'_>) -> Outcome {
    if stack.is_proxy(1) {
        stack.push_bytes(b"Attempt to modify a readonly table");
        return Err(Raise::Value);
    }
    let end = checked_len(stack)?.saturating_add(1);
    let position = match stack.top() {
        2 => end,
        3 => stack.check_integer(2)? as i32,
        _ => return Err(Raise::here("wrong number of arguments to 'insert'")),
    };
    for index in (position..end).rev() {
        stack.context().spend(1)?;
        stack.check_memory()?;
        stack.get_index(1, index);
        stack.set_index(1, index + 1);
    }
    stack.set_index(1, position);
    Ok(0)
}

/// `table.remove(table [, position])`
fn remove(stack: &mut Stack<'_>) -> Outcome {
    let end = checked_len(stack)?;
    let position = stack.optional_integer(2, i64::from(end))? as i32;
    if !(1..=end).contains(&position) {
        return Ok(0);
    }
    stack.get_index(1, position);
    for index in position..end {
        stack.context().spend(1)?;
        stack.get_index(1, index + 1);
        stack.set_index(1, index);
    }
    stack.push_nil();
    stack.set_index(1, end);
    Ok(1)
}

/// `table.maxn(table)`
fn maxn(stack: &mut Stack<'_>) -> Outcome {
    stack.check_table(1)?;
    let mut max = 0.0;
    stack.push_nil();
    while stack.next(1) {
        stack.context().spend(1)?;
        stack.pop(1);
        match stack.number(-1) {
            Some(key) if key > max => max = key,
            Some(_) | None => {}
        }
    }
    stack.push_number(max);
    Ok(1)
}
