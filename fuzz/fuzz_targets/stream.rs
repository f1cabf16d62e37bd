//! The stream: after any sequence of edits it equals ordered maps, and its invariants hold.
#![no_main]

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../../crates/collections/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| common::stream::edit(data));
