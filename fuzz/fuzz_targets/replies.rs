//! Replies: however their bytes are cut into pieces, the client's decoder sees the same.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| damselfly_protocol::fuzz::replies(data));
