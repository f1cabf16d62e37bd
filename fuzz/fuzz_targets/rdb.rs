//! RDB files: any bytes are refused or read; what is read is whole, and comes back from a DUMP payload.
#![no_main]

#[path = "../../crates/rdb/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| common::read_anything(data));
