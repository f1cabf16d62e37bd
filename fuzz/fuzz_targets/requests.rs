//! Requests: however their bytes are cut into pieces, the parser sees the same.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| damselfly_protocol::fuzz::requests(data));
