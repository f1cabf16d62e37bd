//! The decoders of scripts, with any bytes: JSON, MessagePack, structs, patterns, formats.
#![no_main]

use std::cell::RefCell;

use damselfly_script::Interpreter;
use damselfly_script::fuzz::{decoders, interpreter};

thread_local! {
    static INTERPRETER: RefCell<Interpreter> = RefCell::new(interpreter());
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| INTERPRETER.with_borrow_mut(|lua| decoders(lua, data)));
