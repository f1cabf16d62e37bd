//! The entry: a key, what it holds, and when it ends, in one allocation.

mod entry;
mod item;
mod packing;

pub use entry::{Entry, EntryRef, NewValue, Value};
pub use packing::PackedText;
