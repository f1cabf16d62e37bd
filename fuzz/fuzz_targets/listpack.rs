//! The listpack: after any sequence of edits it equals a `Vec`; hostile bytes are refused or harmless.
#![no_main]

#[allow(dead_code, reason = "other tests use the rest")]
#[path = "../../crates/collections/tests/common/mod.rs"]
mod common;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    match data.split_first() {
        Some((0..0x80, data)) => common::listpack::edit(data),
        Some((0x80.., data)) => common::listpack::read_hostile(data),
        None => {}
    }
});
