//! The large list: any sequence of edits leaves what a `VecDeque` would hold, and its invariants hold.
#![no_main]

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../../crates/collections/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| common::chain::edit(data));
