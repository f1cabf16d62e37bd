//! The entry: a key, what it holds, and when it ends, in one allocation.

mod block;
mod entry;
mod item;
mod packing;
mod value;

pub use entry::{Entry, EntryRef};
pub use packing::PackedText;
pub use value::{NewValue, Value};
