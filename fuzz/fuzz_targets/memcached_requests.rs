//! Requests of memcached: the parser returns the same, however the bytes are cut into pieces.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| damselfly_protocol::fuzz::memcached_requests(data));
