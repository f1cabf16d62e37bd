//! Scripts: any text gets one reply and does not crash.
#![no_main]

use std::cell::RefCell;

use damselfly_script::Interpreter;
use damselfly_script::fuzz::{interpreter, scripts};

thread_local! {
    static INTERPRETER: RefCell<Interpreter> = RefCell::new(interpreter());
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| INTERPRETER.with_borrow_mut(|lua| scripts(lua, data)));
