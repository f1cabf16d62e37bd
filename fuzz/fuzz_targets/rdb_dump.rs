//! Values of DUMP payloads with the right checksum: refused or restored; what is restored comes back from a payload of ours.
#![no_main]

#[path = "../../crates/rdb/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| common::restore_anything(data));
