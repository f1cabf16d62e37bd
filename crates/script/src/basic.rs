//! Basic functions that replace Lua's own, because the originals could do harm, or because their effects
//! would outlive the script.

use crate::lua::{Function, Kind, Outcome, Raise, Stack};

pub(crate) const FUNCTIONS: &[(&str, Function)] = &[
    ("loadstring", load_string),
    ("load", load),
    ("unpack", unpack),
    ("collectgarbage", collect_garbage),
];

/// `loadstring(code [, name])`: accepts only text, never bytecode.
fn load_string(stack: &mut Stack<'_>) -> Outcome {
    let code = stack.check_text(1)?.to_vec();
    let name = match stack.kind(2) {
        Kind::None | Kind::Nil => code.clone(),
        _ => stack.check_text(2)?.to_vec(),
    };
    compile(stack, &code, &name)
}

/// `load(function [, name])`: the function returns the code piece by piece.
fn load(stack: &mut Stack<'_>) -> Outcome {
    if stack.kind(1) != Kind::Function {
        let found = stack.type_name(1);
        return Err(Raise::Argument(
            1,
            format!("function expected, got {found}"),
        ));
    }
    let name = match stack.kind(2) {
        Kind::None | Kind::Nil => b"=(load)".to_vec(),
        _ => stack.check_text(2)?.to_vec(),
    };
    stack.set_top(1);
    // Lua holds the pieces, so that they count towards its memory limit.
    stack.push_table(0, 0);
    let mut pieces = 0;
    loop {
        stack.copy(1);
        stack.context().spend(1)?;
        stack.check_memory()?;
        if stack.call(0, 1, 0).is_err() {
            if stack.context().is_stopped() {
                return Err(Raise::Stopped);
            }
            stack.push_nil();
            stack.insert(-2);
            return Ok(2);
        }
        match stack.kind(-1) {
            Kind::Nil => break,
            Kind::String | Kind::Number => {
                if stack.text(-1).unwrap_or_default().is_empty() {
                    break;
                }
                pieces += 1;
                stack.set_index(2, pieces);
            }
            _ => {
                stack.push_nil();
                stack.push_bytes(b"reader function must return a string");
                return Ok(2);
            }
        }
    }
    let mut code = Vec::new();
    for piece in 1..=pieces {
        stack.get_index(2, piece);
        let text = stack.bytes(-1).unwrap_or_default();
        stack.context().spend_bytes(text.len())?;
        if text.len() > stack.context().heap.limit_bytes() - code.len() {
            return Err(Raise::Memory);
        }
        code.extend_from_slice(text);
        stack.pop(1);
    }
    compile(stack, &code, &name)
}

fn compile(stack: &mut Stack<'_>, code: &[u8], name: &[u8]) -> Outcome {
    if stack.load(code, name)? {
        return Ok(1);
    }
    stack.push_nil();
    stack.insert(-2);
    Ok(2)
}

/// `unpack(table [, from [, to]])`
fn unpack(stack: &mut Stack<'_>) -> Outcome {
    stack.check_table(1)?;
    let from = stack.optional_integer(2, 1)? as i32;
    let to = match stack.kind(3) {
        Kind::None | Kind::Nil => i32::try_from(stack.length(1)).unwrap_or(i32::MAX),
        _ => stack.check_integer(3)? as i32,
    };
    if from > to {
        return Ok(0);
    }
    let count = i64::from(to) - i64::from(from) + 1;
    let room = i32::try_from(count).is_ok_and(|count| stack.reserve(count));
    if !room {
        return Err(Raise::here("too many results to unpack"));
    }
    for index in from..=to {
        stack.get_index(1, index);
    }
    Ok(count as usize)
}

/// `collectgarbage([option [, argument]])`: options that would change the collector for later scripts do nothing.
fn collect_garbage(stack: &mut Stack<'_>) -> Outcome {
    let option = match stack.kind(1) {
        Kind::None | Kind::Nil => b"collect".to_vec(),
        _ => stack.check_text(1)?.to_vec(),
    };
    stack.optional_integer(2, 0)?;
    match option.as_slice() {
        b"collect" => {
            stack.collect_garbage();
            stack.context().ask()?;
            stack.push_number(0.0);
        }
        b"count" => {
            let kib = stack.context().heap.used_bytes() as f64 / 1024.0;
            stack.push_number(kib);
        }
        b"step" => {
            stack.collect_garbage();
            stack.context().ask()?;
            stack.push_boolean(true);
        }
        b"stop" | b"restart" => stack.push_number(0.0),
        b"setpause" | b"setstepmul" => stack.push_number(200.0),
        other => {
            let other = String::from_utf8_lossy(other);
            return Err(Raise::Argument(1, format!("invalid option '{other}'")));
        }
    }
    Ok(1)
}
