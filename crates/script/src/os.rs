//! The table `os`, with nothing but `clock`, as since Redis 7.4.

use std::sync::LazyLock;
use std::time::Instant;

use crate::lua::{Function, Outcome, Stack};
use crate::sandbox::set_functions;

const FUNCTIONS: &[(&str, Function)] = &[("clock", clock)];

/// Pushes the library's table.
pub(crate) fn push(stack: &mut Stack<'_>) {
    stack.push_table(0, FUNCTIONS.len());
    set_functions(stack, -1, FUNCTIONS);
}

/// A time in seconds. Only differences have a meaning: how long the code between two calls took. Unlike in Redis this is not
/// processor time, which other threads would add to.
fn clock(stack: &mut Stack<'_>) -> Outcome {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    stack.push_number(START.elapsed().as_secs_f64());
    Ok(1)
}
