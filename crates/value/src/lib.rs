//! The entry: a key, what it holds, and when it ends, in one allocation.

mod entry;
mod item;

pub use entry::{Entry, EntryRef, NewValue, Value};
