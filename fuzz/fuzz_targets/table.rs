//! The table: after any sequence of operations it equals a plain map, and its invariants hold.
#![no_main]

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../../crates/table/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| common::drive(data));
