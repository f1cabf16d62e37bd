//! `math.random` and `math.randomseed`, with our own generator, so that scripts cannot reseed the one of the C
//! library.

use crate::lrand48::Lrand48;
use crate::lua::{Function, Outcome, Raise, Stack};

pub(crate) const FUNCTIONS: &[(&str, Function)] = &[("random", random), ("randomseed", seed)];

fn random(stack: &mut Stack<'_>) -> Outcome {
    const MAX: u32 = i32::MAX as u32;
    let drawn = stack.context().random.borrow_mut().next();
    let fraction = f64::from(drawn % MAX) / f64::from(MAX);
    let number = match stack.top() {
        0 => fraction,
        1 => {
            let upper = stack.check_integer(1)? as i32;
            if upper < 1 {
                return Err(Raise::Argument(1, "interval is empty".into()));
            }
            (fraction * f64::from(upper)).floor() + 1.0
        }
        2 => {
            let lower = stack.check_integer(1)? as i32;
            let upper = stack.check_integer(2)? as i32;
            if lower > upper {
                return Err(Raise::Argument(2, "interval is empty".into()));
            }
            let width = upper.wrapping_sub(lower).wrapping_add(1);
            (fraction * f64::from(width)).floor() + f64::from(lower)
        }
        _ => return Err(Raise::here("wrong number of arguments")),
    };
    stack.push_number(number);
    Ok(1)
}

fn seed(stack: &mut Stack<'_>) -> Outcome {
    let seed = stack.check_integer(1)? as u32;
    stack.context().random.replace(Lrand48::new(seed));
    Ok(0)
}
