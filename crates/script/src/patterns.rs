//! Lua's patterns, and the functions of `string` that use them.
//!
//! They replace Lua's own matcher, which cannot be interrupted and does not bound its recursion: a script could
//! block the server for years, or overflow the thread's stack. This matcher regularly asks the host
//! whether the script may continue.

mod matching;
pub(crate) mod substitute;

use crate::c_format::up_to_zero;
use crate::lua::{Context, Function, Outcome, Raise, Stack};
use matching::{Matcher, Problem};

pub(crate) const FUNCTIONS: &[(&str, Function)] = &[
    ("find", find),
    ("match", match_),
    ("gmatch", iterate),
    ("gfind", iterate),
    ("rep", repeat),
];

/// Characters with a special meaning in patterns.
const SPECIALS: &[u8] = b"^$*+?.([%-";

impl From<Problem> for Raise {
    fn from(problem: Problem) -> Raise {
        match problem {
            Problem::Text(text) => Raise::here(text),
            Problem::Interrupted => Raise::Stopped,
        }
    }
}

/// The range of a match and its captures.
type Found = Option<(usize, usize, matching::Captures)>;

/// `string.find(text, pattern [, start [, plain]])`
fn find(stack: &mut Stack<'_>) -> Outcome {
    let start = start(stack)?;
    let has_plain = stack.top() >= 4 && stack.boolean(4);
    let (text, pattern) = (argument(stack, 1), argument(stack, 2));
    let before_zero = up_to_zero(pattern);
    if has_plain || !before_zero.iter().any(|byte| SPECIALS.contains(byte)) {
        let found = position(&text[start..], pattern, stack.context())?;
        let end = found.map(|at| start + at + pattern.len());
        let Some((at, end)) = found.zip(end) else {
            stack.push_nil();
            return Ok(1);
        };
        stack.push_number((start + at + 1) as f64);
        stack.push_number(end as f64);
        return Ok(2);
    }
    match search(stack, start)? {
        Some((from, to, captures)) => {
            stack.push_number((from + 1) as f64);
            stack.push_number(to as f64);
            Ok(2 + captures.push(stack, 1, None)?)
        }
        None => {
            stack.push_nil();
            Ok(1)
        }
    }
}

/// `string.match(text, pattern [, start])`
fn match_(stack: &mut Stack<'_>) -> Outcome {
    let start = start(stack)?;
    match search(stack, start)? {
        Some((from, to, captures)) => captures.push(stack, 1, Some((from, to))),
        None => {
            stack.push_nil();
            Ok(1)
        }
    }
}

/// Checks the arguments of `find` and `match`. Returns where in the text to begin.
fn start(stack: &mut Stack<'_>) -> Result<usize, Raise> {
    let len = stack.check_text(1)?.len();
    stack.check_text(2)?;
    let start = match stack.optional_integer(3, 1)? {
        // Counted from the end.
        start @ ..0 => start.saturating_add_unsigned(len as u64),
        start => start - 1,
    };
    Ok(usize::try_from(start).unwrap_or(0).min(len))
}

/// Argument `index`, which the caller has checked to be a string.
fn argument<'s>(stack: &'s Stack<'_>, index: i32) -> &'s [u8] {
    stack.bytes(index).unwrap_or_default()
}

fn search(stack: &Stack<'_>, start: usize) -> Result<Found, Problem> {
    let context = stack.context();
    let spend = |steps| context.spend(steps).is_ok();
    let (pattern, is_anchored) = match argument(stack, 2).strip_prefix(b"^") {
        Some(rest) => (rest, true),
        None => (argument(stack, 2), false),
    };
    let mut matcher = Matcher::new(argument(stack, 1), pattern, &spend);
    matcher.search(start, is_anchored)
}

/// The position of the first `needle` in `text`.
fn position(text: &[u8], needle: &[u8], context: &Context) -> Result<Option<usize>, Raise> {
    let Some((&first, rest)) = needle.split_first() else {
        return Ok(Some(0));
    };
    let mut from = 0;
    while let Some(part) = text.get(from..) {
        let Some(skipped) = part.iter().position(|&byte| byte == first) else {
            break;
        };
        let part = &part[skipped + 1..];
        // In the worst case, the comparison reads all of it.
        context.spend_bytes(skipped + rest.len().min(part.len()))?;
        if part.starts_with(rest) {
            return Ok(Some(from + skipped));
        }
        from += skipped + 1;
    }
    context.spend_bytes(text.len())?;
    Ok(None)
}

/// `string.gmatch(text, pattern)`: an iterator over the matches.
fn iterate(stack: &mut Stack<'_>) -> Outcome {
    stack.check_text(1)?;
    stack.check_text(2)?;
    stack.set_top(2);
    stack.push_number(0.0);
    stack.push_function(iterate_next, 3);
    Ok(1)
}

fn iterate_next(stack: &mut Stack<'_>) -> Outcome {
    let [text_at, pattern_at, start_at] = [1, 2, 3].map(Stack::upvalue);
    let start = stack.number(start_at).unwrap_or_default() as usize;
    let context = stack.context();
    let spend = |steps| context.spend(steps).is_ok();
    let mut matcher = Matcher::new(
        argument(stack, text_at),
        argument(stack, pattern_at),
        &spend,
    );
    match matcher.search(start, false)? {
        Some((from, to, captures)) => {
            // After an empty match, continue one byte further.
            let next = if to == from { to + 1 } else { to };
            stack.push_number(next as f64);
            stack.replace(start_at);
            captures.push(stack, text_at, Some((from, to)))
        }
        None => Ok(0),
    }
}

/// `string.rep(text, count)`
fn repeat(stack: &mut Stack<'_>) -> Outcome {
    let len = stack.check_text(1)?.len();
    let count = usize::try_from(stack.check_integer(2)? as i32).unwrap_or(0);
    let limit = stack.context().heap.limit_bytes();
    if len.checked_mul(count).is_none_or(|total| total > limit) {
        return Err(Raise::Memory);
    }
    let repeated = argument(stack, 1).repeat(count);
    stack.push_bytes(&repeated);
    Ok(1)
}
