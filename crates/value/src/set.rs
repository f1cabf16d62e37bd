//! Sets: the choice between their forms.

use damselfly_collections::Members;

use crate::collection::{Collection, Thresholds, Type};
use crate::{Entry, EntryRef, Value};

/// The type itself.
#[derive(Debug)]
pub enum Set {}

/// A set, to read.
#[derive(Clone, Copy, Debug)]
pub enum SetRef<'a> {
    /// An intset.
    Integers(&'a [u8]),
    /// A listpack.
    Packed(&'a [u8]),
    /// A large one.
    Large(&'a Members),
}

/// A set, to change.
#[derive(Debug)]
pub struct SetMut<'a> {
    entry: &'a mut Entry,
    thresholds: &'a Thresholds,
}

impl Collection for Set {
    const TYPE: Type = Type::Set;
    type Ref<'a> = SetRef<'a>;
    type Mut<'a> = SetMut<'a>;

    fn view(entry: EntryRef<'_>) -> Option<SetRef<'_>> {
        match entry.value() {
            Value::Set(set) => Some(set),
            Value::Text(_) | Value::List(_) | Value::Hash(_) | Value::SortedSet(_) => None,
        }
    }

    fn edit<'a>(entry: &'a mut Entry, thresholds: &'a Thresholds) -> SetMut<'a> {
        assert_eq!(entry.view().type_of(), Self::TYPE);
        SetMut { entry, thresholds }
    }
}
