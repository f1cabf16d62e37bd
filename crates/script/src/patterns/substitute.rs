//! `string.gsub`. A text as replacement is handled here. For a function or table, Lua is called between the
//! matches, by a frame in [`crate::lua`] that owns nothing, so the state is kept on Lua's stack:
//!
//! ```text
//! 1 text | 2 pattern | 3 function or table | 4 pieces of the result | 5 numbers
//! ```

use super::argument;
use super::matching::{Captured, Captures, Matcher};
use crate::bounded_buffer::BoundedBuffer;
use crate::lua::{Kind, Outcome, Raise, Stack};

const PIECES: i32 = 4;
const NUMBERS: i32 = 5;

/// The state between two matches.
#[derive(Clone, Copy)]
struct Progress {
    /// Where the search continues.
    position: usize,
    /// Up to this position, the text is in the result.
    copied: usize,
    /// The match that is being replaced.
    matched: (usize, usize),
    pieces: i32,
    /// The number of matches so far, and its maximum.
    count: i64,
    count_max: i64,
    is_done: bool,
}

impl Progress {
    fn read(stack: &Stack<'_>) -> Progress {
        let numbers = stack.numbers(NUMBERS);
        let position = |index: usize| usize::try_from(numbers[index]).unwrap_or(0);
        Progress {
            position: position(0),
            copied: position(1),
            matched: (position(2), position(3)),
            pieces: i32::try_from(numbers[4]).unwrap_or(0),
            count: numbers[5],
            count_max: numbers[6],
            is_done: numbers[7] != 0,
        }
    }

    fn numbers(self) -> [i64; 8] {
        [
            self.position as i64,
            self.copied as i64,
            self.matched.0 as i64,
            self.matched.1 as i64,
            i64::from(self.pieces),
            self.count,
            self.count_max,
            i64::from(self.is_done),
        ]
    }

    fn write(self, stack: &mut Stack<'_>) {
        stack.set_numbers(NUMBERS, self.numbers());
    }

    /// Continues after the match or, if it is empty, after the next byte.
    fn advance(&mut self, len: usize) {
        let (from, to) = self.matched;
        self.position = to;
        if to == from {
            self.position += 1;
            self.is_done |= to >= len;
        }
    }

    /// Finds the next match. Returns its captures.
    fn find(&mut self, stack: &mut Stack<'_>) -> Result<Option<Captures>, Raise> {
        if self.is_done || self.count >= self.count_max {
            return Ok(None);
        }
        let context = stack.context();
        let spend = |steps| context.spend(steps).is_ok();
        let (pattern, is_anchored) = match argument(stack, 2).strip_prefix(b"^") {
            Some(rest) => (rest, true),
            None => (argument(stack, 2), false),
        };
        let len = stack.length(1);
        let found =
            Matcher::new(argument(stack, 1), pattern, &spend).search(self.position, is_anchored);
        match found? {
            Some((from, to, captures)) => {
                self.matched = (from, to);
                self.count += 1;
                self.advance(len);
                self.is_done |= is_anchored;
                Ok(Some(captures))
            }
            None => {
                self.is_done = true;
                Ok(None)
            }
        }
    }
}

/// Checks the arguments. If the replacement is a text, does all of the work and returns 2 results. Otherwise returns
/// 0, with the state on the stack.
pub(crate) fn begin(stack: &mut Stack<'_>) -> Outcome {
    let len = stack.check_text(1)?.len();
    stack.check_text(2)?;
    let kind = stack.kind(3);
    let count_max = stack.optional_integer(4, len as i64 + 1)? as i32;
    if !matches!(
        kind,
        Kind::Number | Kind::String | Kind::Function | Kind::Table
    ) {
        return Err(Raise::Argument(3, "string/function/table expected".into()));
    }
    let progress = Progress {
        position: 0,
        copied: 0,
        matched: (0, 0),
        pieces: 0,
        count: 0,
        count_max: i64::from(count_max),
        is_done: false,
    };
    stack.set_top(3);
    if matches!(kind, Kind::Number | Kind::String) {
        return replace_by_text(stack, progress);
    }
    stack.push_table(0, 0);
    stack.push_numbers(progress.numbers());
    Ok(0)
}

fn replace_by_text(stack: &mut Stack<'_>, mut progress: Progress) -> Outcome {
    let replacement = stack.check_text(3)?.to_vec();
    let mut result = BoundedBuffer::new(stack);
    while let Some(captures) = progress.find(stack)? {
        let text = argument(stack, 1);
        let matched = progress.matched;
        result.extend(&text[progress.copied..matched.0])?;
        let mut bytes = replacement.iter();
        while let Some(&byte) = bytes.next() {
            if byte != b'%' {
                result.push(byte)?;
                continue;
            }
            match bytes.next().copied() {
                Some(b'0') => result.extend(&text[matched.0..matched.1])?,
                Some(digit @ b'1'..=b'9') => {
                    match captures.get(usize::from(digit - b'1'), matched)? {
                        Captured::Text(from, to) => result.extend(&text[from..to])?,
                        Captured::Position(at) => result.extend(at.to_string().as_bytes())?,
                    }
                }
                // Past the end, C reads a zero byte.
                other => result.push(other.unwrap_or(0))?,
            }
        }
        progress.copied = matched.1;
    }
    result.extend(&argument(stack, 1)[progress.copied..])?;
    stack.push_bytes(result.bytes());
    stack.push_number(progress.count as f64);
    Ok(2)
}

/// Finds the next match and pushes the function and its arguments, or the key for the table. Returns how many
/// values it pushed; 0 after the last match.
pub(crate) fn next_match(stack: &mut Stack<'_>) -> Outcome {
    let mut progress = Progress::read(stack);
    let found = progress.find(stack)?;
    progress.write(stack);
    let Some(captures) = found else {
        return Ok(0);
    };
    if stack.kind(3) == Kind::Table {
        captures.push_one(stack, 1, 0, progress.matched)?;
        return Ok(1);
    }
    stack.copy(3);
    Ok(1 + captures.push(stack, 1, Some(progress.matched))?)
}

/// Takes the replacement from the top of the stack.
pub(crate) fn add_value(stack: &mut Stack<'_>) -> Outcome {
    let mut progress = Progress::read(stack);
    match stack.kind(-1) {
        Kind::String | Kind::Number => {
            let (from, to) = progress.matched;
            let before = argument(stack, 1)[progress.copied..from].to_vec();
            stack.push_bytes(&before);
            stack.set_index(PIECES, progress.pieces + 1);
            stack.text(-1);
            stack.set_index(PIECES, progress.pieces + 2);
            progress.pieces += 2;
            progress.copied = to;
            progress.write(stack);
        }
        // The matched text stays as it is.
        Kind::Nil => {}
        Kind::Boolean if !stack.boolean(-1) => {}
        _ => {
            let found = stack.type_name(-1);
            return Err(Raise::here(format!(
                "invalid replacement value (a {found})"
            )));
        }
    }
    stack.set_top(NUMBERS);
    Ok(0)
}

/// Pushes the result and the number of matches.
pub(crate) fn finish(stack: &mut Stack<'_>) -> Outcome {
    let progress = Progress::read(stack);
    let mut result = BoundedBuffer::new(stack);
    for piece in 1..=progress.pieces {
        stack.get_index(PIECES, piece);
        result.extend(stack.bytes(-1).unwrap_or_default())?;
        stack.pop(1);
    }
    result.extend(&argument(stack, 1)[progress.copied..])?;
    stack.push_bytes(result.bytes());
    stack.push_number(progress.count as f64);
    Ok(2)
}
