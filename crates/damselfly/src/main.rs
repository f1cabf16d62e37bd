//! The `damselfly` program.
fn main() {}
