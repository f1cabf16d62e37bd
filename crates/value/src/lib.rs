//! The entry: a key, its value and its deadline, in one allocation.
//!
//! Strings and small collections are stored in the entry's own block; a large collection is allocated separately
//! (`large.rs`). Each type of collection has a file that chooses between its forms: `list.rs`, `set.rs`, `hash.rs`,
//! `sorted_set.rs`, `stream.rs`.

mod attributes;
mod block;
mod collection;
mod debug;
mod entry;
mod entry_ref;
mod hash;
mod item;
mod large;
mod list;
mod load;
mod marks;
mod packed;
mod packing;
mod set;
mod sorted_set;
mod stream;
mod unchanged;
mod value;

pub use damselfly_collections::{
    Element, Fields, Members, ScoredMember, Side, Stream, StreamId, pairs::Pair,
};

pub use attributes::Attributes;
pub use collection::{Collection, Thresholds, Type};
pub use entry::Entry;
pub use entry_ref::EntryRef;
pub use hash::{Hash, HashMut, HashRef};
pub use large::{Large, SharedLarge, free_large_with};
pub use list::{List, ListMut, ListRef};
pub use load::{Elements, NewPacked};
pub use packed::PackedValue;
pub use packing::PackedText;
pub use set::{Set, SetMut, SetRef};
pub use sorted_set::{
    MemberEnd, MemberRange, ScoreRange, ScoredMembers, SortedSet, SortedSetMut, SortedSetRef,
    Update,
};
pub use stream::StreamMut;
pub use value::{NewValue, Text, Value};
