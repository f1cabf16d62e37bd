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

pub use error::CommandError;
pub use hash::hash;
pub use planted_bug::planted_bug;
