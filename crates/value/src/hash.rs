//! Hashes: the choice between their forms.

use damselfly_collections::Fields;

use crate::collection::{Collection, Thresholds, Type};
use crate::{Entry, EntryRef, Value};

/// The type itself.
#[derive(Debug)]
pub enum Hash {}

/// A hash, to read.
#[derive(Clone, Copy, Debug)]
pub enum HashRef<'a> {
    /// A listpack of fields and values.
    Packed(&'a [u8]),
    /// A listpack of fields, values and deadlines.
    PackedTtl(&'a [u8]),
    /// A large one.
    Large(&'a Fields),
}

/// A hash, to change.
#[derive(Debug)]
pub struct HashMut<'a> {
    entry: &'a mut Entry,
    thresholds: &'a Thresholds,
}

impl Collection for Hash {
    const TYPE: Type = Type::Hash;
    type Ref<'a> = HashRef<'a>;
    type Mut<'a> = HashMut<'a>;

    fn view(entry: EntryRef<'_>) -> Option<HashRef<'_>> {
        match entry.value() {
            Value::Hash(hash) => Some(hash),
            Value::Text(_) | Value::List(_) | Value::Set(_) | Value::SortedSet(_) => None,
        }
    }

    fn edit<'a>(entry: &'a mut Entry, thresholds: &'a Thresholds) -> HashMut<'a> {
        assert_eq!(entry.view().type_of(), Self::TYPE);
        HashMut { entry, thresholds }
    }
}
