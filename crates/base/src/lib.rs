//! Code for every layer: the errors that clients see, numbers as Redis reads and writes them, glob
//! patterns, the key hash, and the counted heap. No I/O, no clock, no threads.

pub mod double;
pub mod error;
pub mod glob;
pub mod hash;
pub mod heap;
pub mod long_double;
pub mod number;
mod planted_bug;
pub mod random;
pub mod sha1;

/// The Redis version whose behaviour clients and scripts can expect. `docs/redis-7.4.md` says what that means.
pub const REDIS_VERSION: &str = "7.4.1";

/// The same as a number: a byte each for major, minor and patch version.
pub const REDIS_VERSION_NUMBER: u32 = 0x0007_0401;

pub use error::CommandError;
pub use hash::hash;
pub use planted_bug::planted_bug;
