//! Sorted sets: the choice between their forms.

use damselfly_collections::Ranking;

use crate::collection::{Collection, Thresholds, Type};
use crate::{Entry, EntryRef, Value};

/// The type itself.
#[derive(Debug)]
pub enum SortedSet {}

/// A sorted set, to read.
#[derive(Clone, Copy, Debug)]
pub enum SortedSetRef<'a> {
    /// A listpack of members and scores.
    Packed(&'a [u8]),
    /// A large one.
    Large(&'a Ranking),
}

/// A sorted set, to change.
#[derive(Debug)]
pub struct SortedSetMut<'a> {
    entry: &'a mut Entry,
    thresholds: &'a Thresholds,
}

impl Collection for SortedSet {
    const TYPE: Type = Type::SortedSet;
    type Ref<'a> = SortedSetRef<'a>;
    type Mut<'a> = SortedSetMut<'a>;

    fn view(entry: EntryRef<'_>) -> Option<SortedSetRef<'_>> {
        match entry.value() {
            Value::SortedSet(sorted_set) => Some(sorted_set),
            Value::Text(_) | Value::List(_) | Value::Set(_) | Value::Hash(_) => None,
        }
    }

    fn edit<'a>(entry: &'a mut Entry, thresholds: &'a Thresholds) -> SortedSetMut<'a> {
        assert_eq!(entry.view().type_of(), Self::TYPE);
        SortedSetMut { entry, thresholds }
    }
}
